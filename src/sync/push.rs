//! Writing at the vendor: intents are durable, then marked as sent, then sent; each outcome is stored by itself.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    Call, ConnectorError, Disposition, ExternalId, History, Kind, Pushed, Value, Write, WriteOp,
    planted::{self, Bug},
};
use tracing::{info, warn};

use super::{
    change::FollowUp,
    decide::STUMBLES,
    lens::{Context, Lens},
    plan::overwrites,
    read::written_properties,
    reconcile::{ASK_AGAIN, Reconciler, SyncError, tries},
    twins::{reported, unanswered},
};
use crate::{
    model::{
        Base, Dirty, Hold, HoldKind, Intent, IntentOp, IntentState, Key, Link, LinkState, LocalRecord, Mark, Reason,
        RecordId, Stamp, link::Rewrites,
    },
    store::{By, Op, StoreError},
};

/// What people are told who see that a vendor has no clear answer to a write.
const SLOW: &str =
    "ask the vendor, or allow its requests more time (`request_timeout_seconds`); it is tried again by itself";
const STUMBLING: &str = "the vendor may stumble over a value of this record; correct it here, or ask the vendor; it is tried again by itself";

/// A write that is planned and durable.
pub(super) struct Outgoing {
    pub intent: Intent,
    pub link: Option<Link>,
    pub local: LocalRecord,
    pub dirty: Vec<Dirty>,
    /// True if the guard already held this write before.
    pub was_held: bool,
}

impl Reconciler {
    /// Sends what the guard lets through and stores what became of each write.
    pub(super) async fn push(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        outgoing: Vec<Outgoing>,
    ) -> Result<(), SyncError> {
        let mut outgoing = self.guarded(kind, outgoing).await?;
        if outgoing.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let window = self.connection.connector.push_deadline() + self.connection.connector.late_window();
        let closes_at = now + TimeDelta::from_std(window).unwrap_or(TimeDelta::minutes(10));
        for one in &mut outgoing {
            one.intent.state = IntentState::Sent;
            one.intent.sent_at = Some(now);
            one.intent.closes_at = Some(closes_at);
        }
        let intents = outgoing.iter().map(|one| Op::PutIntent(one.intent.clone())).collect();
        let intents = self.commit_of(intents);
        if !planted::has(Bug::NoIntent) && !planted::has(Bug::IntentAfterCall) {
            self.store.commit(&intents).await?;
        }
        let writes: Vec<Write> = outgoing.iter().map(|one| write_of(lens, &one.intent)).collect();
        let outcomes = self.connection.connector.push(call, &writes).await;
        if planted::has(Bug::IntentAfterCall) {
            self.store.commit(&intents).await?;
        }
        let histories = self.check_afterwards(call, kind, lens, &outgoing, &outcomes).await;
        let too_slow = outcomes.iter().all(|outcome| matches!(outcome, Pushed::Failed(ConnectorError::Late)));
        let made: Vec<RecordId> = outgoing
            .iter()
            .zip(&outcomes)
            .filter(|(one, outcome)| {
                kind == Kind::Contact && one.link.is_none() && matches!(outcome, Pushed::Written { .. })
            })
            .map(|(one, _)| one.local.id())
            .collect();
        for ((one, outcome), history) in outgoing.into_iter().zip(outcomes).zip(histories) {
            let span = tracing::info_span!("record", %kind, record = %Key::Local(one.local.id()));
            let (dirty, intent) = (one.dirty.clone(), one.intent.clone());
            let is_known = !matches!(&outcome, Pushed::Failed(error) if error.disposition() == Disposition::Ambiguous);
            let (mut ops, changed) = match self.merged_meanwhile(kind, &one, &outcome).await? {
                Some(ops) => (ops, FollowUp::default()),
                None => span.in_scope(|| self.settle(kind, lens, context, one, outcome, history)),
            };
            ops.extend(self.follow_up(changed).await?);
            if too_slow {
                // Not one of them had its turn.
                ops.extend(self.stumbled(kind, intent.local, tries(&dirty), &ConnectorError::Late));
            }
            match self.store.commit(&self.commit_of(ops)).await {
                Ok(()) => {}
                // Planned again from what is stored; the intent is still there and says what we did.
                Err(StoreError::Stale { .. }) => {
                    span.in_scope(|| warn!("an outcome could not be stored; the record is read again"));
                    // What was written is read by its id: nothing of it is to come.
                    if is_known && matches!(intent.op, IntentOp::Update { .. }) {
                        let closed = Intent { closes_at: Some(self.clock.now()), ..intent };
                        self.store.commit(&self.commit_of(vec![Op::PutIntent(closed)])).await?;
                    }
                }
                Err(StoreError::Taken { .. }) => {
                    span.in_scope(|| warn!("an outcome could not be stored; the record is read again later"));
                    let later =
                        dirty.into_iter().map(|dirty| self.defer(dirty.clone(), self.later(dirty.attempts), true));
                    self.store.commit(&self.commit_of(later.collect())).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.wake_dependents(&made).await?)
    }

    /// What we asked for is there already, in a record that is linked to another of ours: it was made by us, and merged into
    /// that one before we learned of it. Ours are merged as well.
    async fn merged_meanwhile(
        &self,
        kind: Kind,
        one: &Outgoing,
        outcome: &Pushed,
    ) -> Result<Option<Vec<Op>>, StoreError> {
        let Pushed::Exists { id, ours: true } = outcome else { return Ok(None) };
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let holder = self.store.links(account, name, kind, By::External(std::slice::from_ref(id))).await?.pop();
        if one.link.is_some() || holder.is_none_or(|holder| holder.local == one.local.id()) {
            return Ok(None);
        }
        let mut ops = self.merge_unlinked(kind, one.local.clone(), id, self.clock.now()).await?;
        ops.extend(one.dirty.iter().map(|dirty| self.finish(dirty.clone())));
        Ok(Some(ops))
    }

    /// Opportunities whose contact could not be named at the vendor so far go out at once when it can.
    pub(super) async fn wake_dependents(&self, contacts: &[RecordId]) -> Result<(), StoreError> {
        if contacts.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let deals = self.store.opportunities_of(&self.connection.account.name, contacts).await?;
        if !deals.is_empty() {
            let marks = deals.into_iter().map(|deal| self.mark(Kind::Deal, Key::Local(deal), now)).collect();
            self.store.commit(&self.commit_of(marks)).await?;
        }
        Ok(())
    }

    /// The foreign-overwrite check: the history of every written property, read after the write. `None` where it could
    /// not be read: then the intent stays, and recovery repeats the check.
    async fn check_afterwards(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        outgoing: &[Outgoing],
        outcomes: &[Pushed],
    ) -> Vec<Option<History>> {
        let mut asked: Vec<(usize, ExternalId)> = Vec::new();
        let mut properties: BTreeSet<String> = BTreeSet::new();
        for (index, (one, outcome)) in outgoing.iter().zip(outcomes).enumerate() {
            if let (IntentOp::Update { .. }, Pushed::Written { id, .. }) = (&one.intent.op, outcome) {
                asked.push((index, id.clone()));
                properties.extend(written_properties(lens, one.intent.rows.keys()));
            }
        }
        let mut histories: Vec<Option<History>> =
            outgoing.iter().map(|one| (!matches!(one.intent.op, IntentOp::Update { .. })).then(History::new)).collect();
        if asked.is_empty() {
            return histories;
        }
        let ids: Vec<ExternalId> = asked.iter().map(|(_, id)| id.clone()).collect();
        let properties: Vec<String> = properties.into_iter().collect();
        match self.connection.connector.history(call, kind, &ids, &properties).await {
            Ok(answers) => {
                for ((index, _), history) in asked.into_iter().zip(answers) {
                    histories[index] = history;
                }
            }
            Err(error) => warn!(%error, "the check after the write is repeated later"),
        }
        histories
    }

    fn settle(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        one: Outgoing,
        outcome: Pushed,
        history: Option<History>,
    ) -> (Vec<Op>, FollowUp) {
        let ops = match (outcome, history) {
            (Pushed::Written { id, properties, .. }, Some(history)) => {
                return self.written(kind, lens, context, one, &id, &properties, &history);
            }
            (Pushed::Written { .. }, None) => self.unchecked(one),
            (Pushed::Exists { id, ours }, _) => self.exists(kind, one, id, ours),
            (Pushed::Failed(error), _) => self.failed(kind, lens, one, &error),
        };
        (ops, FollowUp::default())
    }

    /// Written, but the check could not be made: the outcome is known, so the next read may settle it.
    fn unchecked(&self, mut one: Outgoing) -> Vec<Op> {
        one.intent.closes_at = Some(self.clock.now());
        let mut ops = vec![Op::PutIntent(one.intent)];
        ops.extend(one.dirty.into_iter().map(|dirty| {
            let until = self.later(dirty.attempts);
            self.defer(dirty, until, true)
        }));
        ops
    }

    #[expect(clippy::too_many_arguments, reason = "one write and everything that is known of its outcome")]
    fn written(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        one: Outgoing,
        id: &ExternalId,
        stored: &BTreeMap<String, Value>,
        history: &History,
    ) -> (Vec<Op>, FollowUp) {
        let now = self.clock.now();
        let key = Key::Local(one.local.id());
        let mut ops = vec![Op::DropIntent(one.intent.id)];
        let mut follow_up = FollowUp::default();
        if matches!(one.intent.op, IntentOp::Archive { .. }) {
            self.count(|summary| summary.pushed.deleted += 1);
            if let Some(mut link) = one.link {
                link.state = LinkState::Tombstoned;
                ops.push(self.put_link(link));
            }
            ops.extend(one.dirty.iter().map(|dirty| self.solved(kind, &dirty.key, None)));
            ops.extend(one.dirty.into_iter().map(|dirty| self.finish(dirty)));
            return (ops, follow_up);
        }
        let created = one.link.is_none();
        let mut link = one.link.unwrap_or_else(|| new_link(&one.intent, id, now));
        let mut again = false;
        if created {
            // What an earlier try was refused for.
            ops.push(self.solved(kind, &key, None));
        }
        for row in &lens.rows {
            let Some(written) = one.intent.rows.get(&row.name) else { continue };
            let values: Vec<Value> = row
                .properties
                .iter()
                .zip(&written.want)
                .map(|((name, _), want)| stored.get(name).unwrap_or(want).clone())
                .collect();
            if values != written.want && !row.same(&written.local, &values, context) {
                let text = "the vendor stored another value than the one sent; ours is kept here, theirs there, until either changes".to_owned();
                ops.push(self.failure(kind, &key, &row.name, "stored_otherwise", text));
                link.holds.insert(
                    row.name.clone(),
                    Hold {
                        kind: HoldKind::Parked,
                        local: written.local.clone(),
                        remote: values.clone(),
                        conflict: None,
                    },
                );
                self.count(|summary| summary.failed += 1);
            }
            // Somebody wrote after us: that is a change, and it is read as one.
            again |= row.properties.iter().zip(&values).any(|((name, _), value)| {
                history
                    .get(name)
                    .and_then(|all| all.first())
                    .is_some_and(|latest| latest.value != *value && !(latest.value.is_blank() && value.is_blank()))
            });
            if !created {
                count_rewrite(&mut link, &row.name, &written.want, now);
            }
            link.base.insert(row.name.clone(), Base(written.local.clone(), values));
        }
        if created {
            link.base.extend(filled_in(lens, context, &one.local, &one.intent, stored));
        }
        if planted::has(Bug::BaseMovesForAll) {
            for row in &lens.rows {
                if let Some(base) = link.base.get_mut(&row.name) {
                    base.0 = one.local.values(&row.fields);
                }
            }
        }
        let mut local = one.local.clone();
        for found in overwrites(&one.intent, lens, history, &one.local, context, self.skew) {
            if let Some((values, at)) = &found.revert {
                let stamp = Stamp { at: *at, by: self.connection.name.to_string() };
                again |= local.set(&found.clash.fields, values, &stamp).is_ok();
            }
            self.count(|summary| summary.conflicts += 1);
            ops.push(Op::AddConflict(self.conflict(kind, one.local.id(), found.clash)));
        }
        if local != one.local {
            if let (LocalRecord::Deal(deal), Some(was)) = (&mut local, one.local.as_opportunity())
                && deal.opportunity_type != was.opportunity_type
            {
                let account = &self.connection.account;
                deal.value_by_type(&account.types, account.currency);
            }
            let changed = self.change(now).of(Some(&one.local), local);
            ops.extend(changed.ops);
            follow_up = changed.follow_up;
        }
        if created {
            // Sent again as it was first said: what was said here since goes out now.
            again |= one.intent.rows.iter().any(|(name, row)| {
                lens.rows.iter().any(|known| known.name == *name && one.local.values(&known.fields) != row.local)
            });
        }
        ops.push(if created { self.put_link(link) } else { Op::UpdateLink(link) });
        if again {
            ops.push(self.mark(kind, key.clone(), now));
        }
        if one.dirty.iter().any(|dirty| dirty.attempts > 0) {
            ops.push(self.solved(kind, &key, Some("")));
        }
        ops.extend(one.dirty.into_iter().map(|dirty| self.finish(dirty)));
        self.count(|summary| if created { summary.pushed.created += 1 } else { summary.pushed.updated += 1 });
        (ops, follow_up)
    }

    /// This record is to be worked on again by this connection, from then on.
    pub(super) fn mark(&self, kind: Kind, key: Key, due_at: DateTime<Utc>) -> Op {
        Op::Mark(Mark::new(&self.connection.name, kind, key, due_at, Reason::Retry))
    }

    /// The record is already there: read it, and link it if it is the same.
    fn exists(&self, kind: Kind, mut one: Outgoing, id: ExternalId, ours: bool) -> Vec<Op> {
        let now = self.clock.now();
        // The intent stays, and is settled by the next round: that looks for our marker, and may find it on a record that
        // was merged. It need not wait, unless this was a second try that went out beside the first (`refuses_twins`): the
        // first may still land, so its own time goes on.
        if ours || !(one.intent.again && self.connection.connector.refuses_twins()) {
            one.intent.closes_at = Some(now);
        }
        if ours && one.link.is_none() {
            // Made by us, even if it is in the bin by now and no probe shows it.
            let mut ops = vec![self.put_link(new_link(&one.intent, &id, now)), Op::PutIntent(one.intent)];
            for dirty in one.dirty {
                // Once at once; if that leads nowhere, not as fast as it can.
                let until = self.patience(std::slice::from_ref(&dirty));
                ops.push(self.defer(dirty, until, true));
            }
            return ops;
        }
        // Refused at its first try, there is nothing of ours that may be there or land: the intent goes, and the next one is
        // made of what our record says by then.
        let intent = if ours || one.intent.again { Op::PutIntent(one.intent) } else { Op::DropIntent(one.intent.id) };
        let mut ops = vec![intent, self.mark(kind, Key::External(id.clone()), now)];
        for dirty in one.dirty {
            if dirty.attempts > 3 {
                let text = format!(
                    "the vendor's record {id} already holds this record's unique value and is linked to another of ours: merge the two"
                );
                ops.push(self.failure(kind, &dirty.key, "", "exists", text));
                self.count(|summary| summary.failed += 1);
            }
            let until = self.later(dirty.attempts);
            ops.push(self.defer(dirty, until, true));
        }
        ops
    }

    fn failed(&self, kind: Kind, lens: &Lens, mut one: Outgoing, error: &ConnectorError) -> Vec<Op> {
        let now = self.clock.now();
        let attempts = tries(&one.dirty);
        let mut ops = Vec::new();
        let mut until = self.later(attempts);
        match error.disposition() {
            // What could not be read before it was to be written is as it was, and may be read at the next try.
            Disposition::Park if is_unread(&one.intent.op, error) => {
                ops.extend(self.stumbled(kind, one.local.id(), attempts, error));
                ops.push(self.not_sent(one.intent, now));
            }
            Disposition::Ambiguous => {
                let window =
                    TimeDelta::from_std(self.connection.connector.late_window()).unwrap_or(TimeDelta::minutes(10));
                one.intent.closes_at = Some(now + window);
                ops.extend(self.stumbled(kind, one.local.id(), attempts, error));
                ops.push(Op::PutIntent(one.intent));
                info!(code = error.code(), "the outcome of a write is not known; it is read back");
            }
            Disposition::Retry(wait) => {
                ops.push(self.not_sent(one.intent, now));
                until = until.max(now + wait.and_then(|wait| TimeDelta::from_std(wait).ok()).unwrap_or_default());
            }
            Disposition::Reread => ops.push(self.not_sent(one.intent, now)),
            Disposition::PauseConnection | Disposition::PauseStream => {
                ops.push(self.not_sent(one.intent, now));
                ops.push(self.failure(kind, &Key::Local(one.local.id()), "", error.code(), error.to_string()));
                self.count(|summary| summary.failed += 1);
                // Refused credentials stop the connection, and who renews them wants to see everything go out at once.
                if error.disposition() == Disposition::PauseStream {
                    until = now + ASK_AGAIN;
                }
            }
            Disposition::Park => return self.park(kind, lens, one, error),
        }
        ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, until, true)));
        ops
    }

    /// What people are told of a record that the vendor gave no clear answer for again and again.
    fn stumbled(&self, kind: Kind, local: RecordId, attempts: u32, error: &ConnectorError) -> Option<Op> {
        if attempts < STUMBLES {
            return None;
        }
        self.count(|summary| summary.failed += 1);
        let what = if matches!(error, ConnectorError::Late) { SLOW } else { STUMBLING };
        let text = format!("{error}; so it went {} times: {what}", attempts + 1);
        Some(self.failure(kind, &Key::Local(local), "", error.code(), text))
    }

    /// A write that was not carried out leaves nothing, but for a create that was sent before and may land yet: that one is
    /// remembered.
    fn not_sent(&self, mut intent: Intent, now: DateTime<Utc>) -> Op {
        self.uncount(&intent);
        if !intent.again {
            return Op::DropIntent(intent.id);
        }
        // Where nothing was waited for before this one went out, the other one's time is not over.
        if !self.connection.connector.refuses_twins() {
            intent.closes_at = Some(now);
        }
        Op::PutIntent(intent)
    }

    /// The vendor refuses a value: that row waits for a person, all others go on.
    fn park(&self, kind: Kind, lens: &Lens, one: Outgoing, error: &ConnectorError) -> Vec<Op> {
        let key = Key::Local(one.local.id());
        let property = match error {
            ConnectorError::Rejected { field, .. } => field.as_deref(),
            _ => None,
        };
        let now = self.clock.now();
        let mut ops = vec![self.not_sent(Intent { anew: true, ..one.intent.clone() }, now)];
        let named: Vec<&String> = lens
            .rows
            .iter()
            .filter(|row| property.is_some_and(|property| row.properties.iter().any(|(name, _)| name == property)))
            .map(|row| &row.name)
            .filter(|row| one.intent.rows.contains_key(*row))
            .collect();
        self.count(|summary| summary.failed += 1);
        let text = format!(
            "{error}: correct the value here, or the property's options and rules at the vendor; it is tried again when either side changes, or when you say so"
        );
        if let (IntentOp::Archive { external }, None) = (&one.intent.op, &one.link) {
            let text = reported(external, &format!("it cannot be removed there ({error})"));
            ops.push(self.failure(kind, &Key::External(external.clone()), "", "twin", text));
            let until = now + ASK_AGAIN;
            ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, until, true)));
            return ops;
        }
        if matches!(one.intent.op, IntentOp::Archive { .. }) {
            ops.push(self.failure(kind, &key, "", error.code(), text));
            let attempts = tries(&one.dirty);
            let until = self.later(attempts);
            ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, until, true)));
            return ops;
        }
        let Some(mut link) = one.link else {
            // A create cannot leave one value out without making another record than the one that was asked for.
            let row = named.first().map_or("", |row| row.as_str());
            ops.push(self.failure(kind, &key, row, error.code(), format!("{text}, and every quarter of an hour")));
            // What the vendor lacked it may have by then: a property that was put back shows on neither record.
            let until = now + ASK_AGAIN;
            ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, until, true)));
            return ops;
        };
        let rows: Vec<&String> = if named.is_empty() { one.intent.rows.keys().collect() } else { named };
        for row in rows {
            let Some(written) = one.intent.rows.get(row) else { continue };
            let hold = Hold {
                kind: HoldKind::Parked,
                local: written.local.clone(),
                remote: written.seen.clone(),
                conflict: None,
            };
            link.holds.insert(row.clone(), hold);
            ops.push(self.failure(kind, &key, row, error.code(), text.clone()));
        }
        ops.push(Op::UpdateLink(link));
        ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, now, false)));
        ops
    }
}

/// Whether a record that is to be changed could not be read right before: no value is refused by that.
fn is_unread(op: &IntentOp, error: &ConnectorError) -> bool {
    matches!((op, error), (IntentOp::Update { .. }, ConnectorError::Malformed { .. }))
}

/// What the vendor filled in by itself where we said nothing, and what agrees with that: nobody's edit.
fn filled_in(
    lens: &Lens,
    context: Context<'_>,
    local: &LocalRecord,
    intent: &Intent,
    stored: &BTreeMap<String, Value>,
) -> Vec<(String, Base)> {
    let unsaid = lens.rows.iter().filter(|row| !intent.rows.contains_key(&row.name));
    unsaid
        .filter_map(|row| {
            let theirs: Vec<Value> =
                row.properties.iter().map(|(name, _)| stored.get(name).cloned()).collect::<Option<_>>()?;
            let ours = local.values(&row.fields);
            row.same(&ours, &theirs, context).then(|| (row.name.clone(), Base(ours, theirs)))
        })
        .collect()
}

fn count_rewrite(link: &mut Link, row: &str, want: &[Value], now: DateTime<Utc>) {
    let day = TimeDelta::hours(24);
    let next = match link.rewrites.get(row) {
        Some(old) if old.value == want && now - old.since < day => Rewrites { count: old.count + 1, ..old.clone() },
        _ => Rewrites { value: want.to_vec(), count: 1, since: now },
    };
    link.rewrites.insert(row.to_owned(), next);
}

fn new_link(intent: &Intent, id: &ExternalId, now: DateTime<Utc>) -> Link {
    let unanswered = unanswered(intent, now);
    Link { unanswered, ..Link::new(intent.connection.clone(), intent.kind, intent.local, id.clone()) }
}

/// The vendor's call for an intent: only the rows that differ. A row of several properties merges as one and is written
/// as one: half of ours beside half of somebody else's is what nobody said.
fn write_of(lens: &Lens, intent: &Intent) -> Write {
    let mut properties = BTreeMap::new();
    let mut planned_on = BTreeMap::new();
    for row in &lens.rows {
        let Some(written) = intent.rows.get(&row.name) else { continue };
        if written.want == written.seen {
            continue;
        }
        for ((name, _), (want, seen)) in row.properties.iter().zip(written.want.iter().zip(&written.seen)) {
            if !(want.is_blank() && seen.is_blank()) {
                properties.insert(name.clone(), want.clone());
                planned_on.insert(name.clone(), seen.clone());
            }
        }
    }
    let op = match &intent.op {
        IntentOp::Create { marker } => WriteOp::Create { marker: marker.clone(), properties },
        IntentOp::Update { external, version } => {
            WriteOp::Update { id: external.clone(), properties, planned_on, expected: version.clone() }
        }
        IntentOp::Archive { external } => WriteOp::Archive { id: external.clone() },
    };
    Write { trace: intent.id.to_string(), kind: intent.kind, op }
}
