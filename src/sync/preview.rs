//! A dry run: every write on every side, per field, without doing it.

use serde::{Deserialize, Serialize};
use tandem_contract::{Call, Cursor, Fetched, Kind, Lane, Seen, Value};

use super::{
    lens::{Context, Lens},
    plan::remote_values,
    reconcile::{Decided, Pageful, Reconciler, SyncError},
};
use crate::{
    model::{Dirty, IntentOp, Key, LocalRecord, Reason, digest},
    store::Op,
};

/// One write that would be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedWrite {
    /// `local` or `remote`.
    pub side: String,
    /// Through which connection.
    pub connection: String,
    /// Which kind of record.
    pub kind: String,
    /// `create`, `update` or `archive`.
    pub op: String,
    /// Our id; null for a record that is yet to be made here.
    pub local_id: Option<String>,
    /// The vendor's id; null for a record that is yet to be made there.
    pub external_id: Option<String>,
    /// What would change.
    pub fields: Vec<PlannedField>,
    /// A digest of base, local and remote: the plan is stale when it differs.
    pub expects: String,
}

/// One field that would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedField {
    /// Our field.
    pub name: String,
    /// What it is.
    pub from: String,
    /// What it would become.
    pub to: String,
    /// Why.
    pub why: String,
}

impl Reconciler {
    /// Plans everything that is to be done now and does none of it; cursors do not move.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn preview(&self) -> Result<Vec<PlannedWrite>, SyncError> {
        let mut writes = Vec::new();
        for stream in self.connection.connector.streams() {
            let (account, name) = (&self.connection.account.name, &self.connection.name);
            let mut cursor = self.store.cursor(account, name, &stream.name).await?.unwrap_or_else(Cursor::start);
            loop {
                let page = self.connection.connector.changes(Call::on(Lane::Poll), &stream, &cursor).await?;
                let mut seen = Pageful::default();
                let mut keys = Vec::new();
                for one in page.seen {
                    match one {
                        Seen::Record(record) => {
                            keys.push(record.id.clone());
                            seen.records.insert(record.id.clone(), record);
                        }
                        Seen::Hint { id, .. } | Seen::Archived(id) => keys.push(id),
                    }
                }
                let dirty = keys.into_iter().map(|id| self.unmarked(stream.kind, Key::External(id))).collect();
                writes.extend(self.preview_batch(stream.kind, dirty, seen).await?);
                cursor = page.next;
                if !page.more {
                    break;
                }
            }
        }
        for kind in [Kind::Contact, Kind::Deal] {
            let (account, name) = (&self.connection.account.name, &self.connection.name);
            let dirty = self.store.due(account, name, Some(kind), self.clock.now(), usize::MAX >> 1).await?;
            for chunk in dirty.chunks(100) {
                writes.extend(self.preview_batch(kind, chunk.to_vec(), Pageful::default()).await?);
            }
        }
        // The write of a record that both a feed and a mark name is one.
        writes.sort_by(|a, b| {
            (&a.kind, &a.side, &a.external_id, &a.local_id).cmp(&(&b.kind, &b.side, &b.external_id, &b.local_id))
        });
        writes.dedup();
        Ok(writes)
    }

    fn unmarked(&self, kind: Kind, key: Key) -> Dirty {
        Dirty { kind, key, generation: 0, due_at: self.clock.now(), priority: Reason::Operator.priority(), attempts: 0 }
    }

    async fn preview_batch(
        &self,
        kind: Kind,
        dirty: Vec<Dirty>,
        seen: Pageful,
    ) -> Result<Vec<PlannedWrite>, SyncError> {
        let Some(lens) = self.connection.lenses.get(&kind) else { return Ok(Vec::new()) };
        if dirty.is_empty() {
            return Ok(Vec::new());
        }
        let began = self.clock.now();
        let call = Call::on(Lane::Interactive);
        let works = self.resolve(kind, dirty, seen).await?;
        let (works, people) = self.read_both_sides(call, kind, lens, works, began).await?;
        let directory = self.directory();
        let context = Context { directory: &directory, people: &people };
        let mut writes = Vec::new();
        for work in works {
            let before = work.local.clone();
            let expects = self.expects(lens, &work);
            let external = work.external.as_ref().map(ToString::to_string);
            let decided = self.decide(kind, lens, context, began, work);
            writes.extend(self.describe(kind, lens, before.as_ref(), external, &expects, &decided));
        }
        Ok(writes)
    }

    fn expects(&self, lens: &Lens, work: &super::reconcile::Work) -> String {
        let base = work.link.as_ref().map(|link| &link.base);
        let local: Vec<Vec<Value>> =
            lens.rows.iter().filter_map(|row| Some(work.local.as_ref()?.values(&row.fields))).collect();
        let remote: Vec<Option<Vec<Value>>> = match &work.fetched {
            Some(Fetched::Found(record)) => lens.rows.iter().map(|row| remote_values(row, record)).collect(),
            _ => Vec::new(),
        };
        digest(serde_json::to_string(&(base, local, remote)).unwrap_or_default().as_bytes())[..16].to_owned()
    }

    fn describe(
        &self,
        kind: Kind,
        lens: &Lens,
        before: Option<&LocalRecord>,
        external: Option<String>,
        expects: &str,
        decided: &Decided,
    ) -> Vec<PlannedWrite> {
        let write = |side: &str, op: &str, local_id: Option<String>, fields| PlannedWrite {
            side: side.into(),
            connection: self.connection.name.to_string(),
            kind: kind.to_string(),
            op: op.into(),
            local_id,
            external_id: external.clone(),
            fields,
            expects: expects.to_owned(),
        };
        let mut writes = Vec::new();
        for op in &decided.ops {
            let Op::PutRecord { record, expected, .. } = op else { continue };
            let fields = lens.rows.iter().flat_map(|row| &row.fields).filter_map(|name| {
                let (from, to) = (before.map_or(Value::Null, |before| before.get(name)), record.get(name));
                let same = from == to || (from.is_blank() && to.is_blank());
                (!same).then(|| PlannedField {
                    name: name.clone(),
                    from: from.to_string(),
                    to: to.to_string(),
                    why: format!("{} says so", self.connection.name),
                })
            });
            let op = if record.is_deleted() {
                "delete"
            } else if *expected == 0 {
                "create"
            } else {
                "update"
            };
            writes.push(write("local", op, before.map(|before| before.id().to_string()), fields.collect()));
        }
        if let Some(outgoing) = &decided.outgoing {
            let intent = &outgoing.intent;
            let op = match intent.op {
                IntentOp::Create { .. } => "create",
                IntentOp::Update { .. } => "update",
                IntentOp::Archive { .. } => "archive",
            };
            let fields = lens.rows.iter().filter_map(|row| Some((row, intent.rows.get(&row.name)?))).flat_map(
                |(row, written)| {
                    row.properties
                        .iter()
                        .enumerate()
                        .filter(|(index, _)| written.seen[*index] != written.want[*index])
                        .map(|(index, (property, _))| PlannedField {
                            name: property.clone(),
                            from: written.seen[index].to_string(),
                            to: written.want[index].to_string(),
                            why: format!("`{}` changed here", row.name),
                        })
                },
            );
            writes.push(write("remote", op, Some(intent.local.to_string()), fields.collect()));
        }
        writes
    }
}
