//! One batch of dirty records: read the truth on both sides, plan, store the plan in one transaction, then write.
//!
//! A batch is of one kind. A record that cannot be planned or stored is set aside; the others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tandem_contract::{
    Backoff, Call, Clock, ConnectorError, Disposition, ExternalId, Fetched, History, Kind, Lane, Record, Value,
};
use tracing::{debug, warn};

use super::{
    connection::Connection,
    guard::Guard,
    lens::{Context, Direction, Directory, Lens, Need, People},
    plan::{Clash, FieldPlan, Snapshot, overwrites, plan, remote_values},
    presence::{self, Here, Step, There},
    push::Outgoing,
    summary::Summary,
};
use crate::{
    model::{
        Conflict, ConflictState, Dirty, Failure, HistoryEntry, Ids, Intent, IntentOp, IntentState, Key, Link,
        LinkState, LocalRecord, Mark, Reason, RecordId, Stamp, Status, Uniqueness, Winner,
        ids::{ConflictId, FailureId, IntentId, RunId},
    },
    store::{By, Commit, Fence, Op, StoreError, SyncStore, Taken},
};

/// How long a vendor that does not know a record is given before it is asked a second time.
pub const SECOND_LOOK: TimeDelta = TimeDelta::minutes(5);
/// How often a record waits for the one it depends on before it goes without.
const PATIENCE: u32 = 8;

/// The batch as a whole did not get anywhere.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The vendor.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// Our store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Carries out batches for one connection.
pub struct Reconciler {
    /// Where everything is kept.
    pub store: Arc<dyn SyncStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<Ids>,
    /// The connection.
    pub connection: Arc<Connection>,
    /// Pipelines, owners, currencies, as last discovered.
    pub directory: Mutex<Arc<Directory>>,
    /// Our claim to the connection.
    pub epoch: i64,
    /// The vendor's account.
    pub remote_account: String,
    /// The vendor's clock minus ours.
    pub skew: TimeDelta,
    /// This run.
    pub run: RunId,
    /// What was done so far.
    pub summary: Mutex<Summary>,
    /// The mass-change guard.
    pub guard: Mutex<Guard>,
}

/// One record on its way through a batch.
pub(super) struct Work {
    pub dirty: Vec<Dirty>,
    pub link: Option<Link>,
    pub local: Option<LocalRecord>,
    pub external: Option<ExternalId>,
    pub fetched: Option<Fetched>,
    pub intent: Option<Intent>,
    pub history: Option<History>,
    pub answers: BTreeMap<String, Winner>,
}

/// What a record needs, as operations and perhaps a write.
pub(super) struct Decided {
    pub ops: Vec<Op>,
    pub outgoing: Option<Outgoing>,
    pub needs: Vec<Need>,
    /// The record as it will be stored, for storing it again in quarantine.
    pub work: Work,
    pub tally: Tally,
}

/// What to count once it is stored.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub created: u64,
    pub updated: u64,
    pub deleted: u64,
    pub conflicts: u64,
    pub failed: u64,
    pub quarantined: u64,
}

impl Reconciler {
    pub(super) fn count(&self, change: impl FnOnce(&mut Summary)) {
        change(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn commit_of(&self, ops: Vec<Op>) -> Commit {
        Commit {
            account: self.connection.account.name.clone(),
            fence: Some(Fence { connection: self.connection.name.clone(), epoch: self.epoch }),
            ops,
        }
    }

    /// True if this connection may write at the vendor.
    pub(super) fn writes(&self) -> bool {
        self.connection.direction != Direction::In
    }

    /// Works through dirty records of one kind. `seen` are records already read, by id and just now; `with` is stored
    /// with the results: the cursor of the page they came from.
    ///
    /// # Errors
    /// [`SyncError`] if the batch as a whole got nowhere; its marks are still there.
    pub async fn batch(
        &self,
        kind: Kind,
        dirty: Vec<Dirty>,
        seen: BTreeMap<ExternalId, Record>,
        with: Vec<Op>,
        lane: Lane,
    ) -> Result<(), SyncError> {
        let call = Call { lane };
        let Some(lens) = self.connection.lenses.get(&kind) else {
            let ops = dirty.into_iter().map(|dirty| self.finish(dirty)).chain(with).collect();
            return Ok(self.store.commit(self.commit_of(ops)).await?);
        };
        let began = self.clock.now();
        let works = self.read_both_sides(call, kind, lens, dirty, seen, began).await?;
        if works.iter().any(|work| matches!(work.fetched, Some(Fetched::MergedInto(_)))) {
            // Links move to the survivor first; everything else of this batch is still marked and comes again.
            return self.follow_merges(kind, works).await;
        }
        let people = self.people(kind, lens, &works).await?;
        let directory = self.directory();
        let context = Context { directory: &directory, people: &people };
        let decided: Vec<Decided> =
            works.into_iter().map(|work| self.decide(kind, lens, context, began, work)).collect();
        let needs = decided.iter().flat_map(|d| d.needs.iter().cloned()).collect();
        let with = with.into_iter().chain(self.ask_for(needs)).collect();
        let outgoing = self.store_decisions(kind, lens, context, began, decided, with).await?;
        if !outgoing.is_empty() {
            self.push(call, kind, lens, context, outgoing).await?;
        }
        Ok(())
    }

    /// Everything a decision looks at: links, our records, the vendor's, open intents, histories, people's answers. If a
    /// record was merged away, the rest is not read: merges are followed first.
    pub(super) async fn read_both_sides(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        dirty: Vec<Dirty>,
        seen: BTreeMap<ExternalId, Record>,
        began: DateTime<Utc>,
    ) -> Result<Vec<Work>, SyncError> {
        let merged = |works: &[Work]| works.iter().any(|work| matches!(work.fetched, Some(Fetched::MergedInto(_))));
        let mut works = self.resolve(kind, dirty, seen).await?;
        self.fetch(call, kind, &mut works).await?;
        self.recognise_merges(kind, &mut works).await?;
        if merged(&works) {
            return Ok(works);
        }
        self.adopt(kind, lens, &mut works).await?;
        self.load_intents(kind, &mut works).await?;
        self.probe_creates(call, kind, &mut works).await?;
        if merged(&works) {
            return Ok(works);
        }
        self.read_histories(call, kind, lens, &mut works).await?;
        self.load_answers(&mut works).await?;
        let people = self.people(kind, lens, &works).await?;
        let directory = self.directory();
        let context = Context { directory: &directory, people: &people };
        self.read_conflict_times(call, kind, lens, context, began, &mut works).await?;
        Ok(works)
    }

    pub(super) fn finish(&self, dirty: Dirty) -> Op {
        Op::Finish { connection: self.connection.name.clone(), dirty }
    }

    pub(super) fn defer(&self, dirty: Dirty, until: DateTime<Utc>, failed: bool) -> Op {
        Op::Defer { connection: self.connection.name.clone(), dirty, until, failed }
    }

    /// When a record that failed is tried again.
    pub(super) fn later(&self, attempts: u32) -> DateTime<Utc> {
        let wait = Backoff::default().wait(attempts, self.ids.draw());
        let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(15));
        (self.clock.now() + wait).trunc_subsecs(6)
    }

    /// Turns keys into records: aliases followed, links and our records loaded, two keys of one record joined.
    async fn resolve(
        &self,
        kind: Kind,
        dirty: Vec<Dirty>,
        mut seen: BTreeMap<ExternalId, Record>,
    ) -> Result<Vec<Work>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let externals: Vec<ExternalId> = dirty
            .iter()
            .filter_map(|d| match &d.key {
                Key::External(id) => Some(id.clone()),
                Key::Local(_) => None,
            })
            .collect();
        let aliases: BTreeMap<ExternalId, ExternalId> =
            self.store.aliases(account, name, kind, &externals).await?.into_iter().collect();
        let canonical = |id: &ExternalId| {
            let mut id = id.clone();
            while let Some(next) = aliases.get(&id) {
                id = next.clone();
            }
            id
        };
        let canonicals: Vec<ExternalId> = externals.iter().map(canonical).collect();
        let locals: Vec<RecordId> = dirty
            .iter()
            .filter_map(|d| match &d.key {
                Key::Local(id) => Some(*id),
                Key::External(_) => None,
            })
            .collect();
        let mut links: BTreeMap<RecordId, Link> = BTreeMap::new();
        if !canonicals.is_empty() {
            links.extend(
                self.store
                    .links(account, name, kind, By::External(&canonicals))
                    .await?
                    .into_iter()
                    .map(|l| (l.local, l)),
            );
        }
        if !locals.is_empty() {
            links.extend(
                self.store.links(account, name, kind, By::Local(&locals)).await?.into_iter().map(|l| (l.local, l)),
            );
        }
        let by_external: BTreeMap<ExternalId, RecordId> =
            links.values().map(|link| (link.external.clone(), link.local)).collect();
        let wanted: BTreeSet<RecordId> = links.keys().copied().chain(locals).collect();
        let wanted: Vec<RecordId> = wanted.into_iter().collect();
        let mut records: BTreeMap<RecordId, LocalRecord> =
            self.store.records(account, kind, &wanted).await?.into_iter().map(|record| (record.id(), record)).collect();
        let mut works: BTreeMap<Key, Work> = BTreeMap::new();
        for dirty in dirty {
            let (local, external) = match &dirty.key {
                Key::Local(id) => (Some(*id), links.get(id).map(|link| link.external.clone())),
                Key::External(id) => {
                    let id = canonical(id);
                    (by_external.get(&id).copied(), Some(id))
                }
            };
            let key = match (local, &external) {
                (Some(id), _) => Key::Local(id),
                (None, Some(id)) => Key::External(id.clone()),
                (None, None) => continue,
            };
            let work = works.entry(key).or_insert_with(|| Work {
                dirty: Vec::new(),
                link: local.and_then(|id| links.remove(&id)),
                local: local.and_then(|id| records.remove(&id)),
                fetched: external.as_ref().and_then(|id| seen.remove(id)).map(Fetched::Found),
                external,
                intent: None,
                history: None,
                answers: BTreeMap::new(),
            });
            work.dirty.push(dirty);
        }
        Ok(works.into_values().collect())
    }

    /// Reads the truth. A batch the vendor's answer of which does not parse is halved until the culprit stands alone.
    async fn fetch(&self, call: Call, kind: Kind, works: &mut [Work]) -> Result<(), SyncError> {
        let ids: Vec<ExternalId> =
            works.iter().filter(|w| w.fetched.is_none()).filter_map(|w| w.external.clone()).collect();
        let mut fetched: BTreeMap<ExternalId, Fetched> = BTreeMap::new();
        let mut waiting = vec![ids];
        while let Some(ids) = waiting.pop() {
            if ids.is_empty() {
                continue;
            }
            match self.connection.connector.fetch(call, kind, &ids).await {
                Ok(answers) => fetched.extend(ids.into_iter().zip(answers)),
                Err(ConnectorError::Malformed { path }) if ids.len() > 1 => {
                    debug!(records = ids.len(), path, "halving a batch whose answer does not parse");
                    let (left, right) = ids.split_at(ids.len() / 2);
                    waiting.extend([right.to_vec(), left.to_vec()]);
                }
                Err(error @ (ConnectorError::Malformed { .. } | ConnectorError::Rejected { .. })) => {
                    self.set_aside(kind, works, &ids[0], &error).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        for work in works.iter_mut().filter(|work| work.fetched.is_none()) {
            if let Some(answer) = work.external.as_ref().and_then(|id| fetched.remove(id)) {
                work.fetched = Some(answer);
            }
        }
        Ok(())
    }

    async fn set_aside(
        &self,
        kind: Kind,
        works: &mut [Work],
        id: &ExternalId,
        error: &ConnectorError,
    ) -> Result<(), StoreError> {
        for work in works.iter_mut().filter(|work| work.external.as_ref() == Some(id)) {
            let Some(first) = work.dirty.first().cloned() else { continue };
            let attempts = first.attempts;
            let mut ops =
                vec![self.failure(kind, &first.key, "", error.code(), format!("{error}; it is tried again by itself"))];
            ops.extend(work.dirty.drain(..).map(|dirty| self.defer(dirty, self.later(attempts + 4), true)));
            self.store.commit(self.commit_of(ops)).await?;
            self.count(|summary| summary.failed += 1);
        }
        Ok(())
    }

    /// Finds the record of ours that a vendor's unlinked record stands for: by our marker, else a contact by its address.
    async fn adopt(&self, kind: Kind, lens: &Lens, works: &mut [Work]) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let email_property = lens
            .rows
            .iter()
            .find(|row| kind == Kind::Contact && row.name == "email")
            .map(|row| row.properties[0].0.clone());
        let mut wanted: BTreeMap<usize, RecordId> = BTreeMap::new();
        let mut emails: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, work) in works.iter().enumerate() {
            let Some(Fetched::Found(record)) = &work.fetched else { continue };
            if work.local.is_some() || work.link.is_some() {
                continue;
            }
            if let Some(id) = record.marker.as_deref().and_then(|marker| self.connection.of_marker(marker)) {
                wanted.insert(index, id);
            } else if let Some(email) =
                email_property.as_ref().and_then(|p| record.property(p).as_text().map(|e| e.trim().to_lowercase()))
            {
                emails.entry(email).or_default().push(index);
            }
        }
        if !emails.is_empty() {
            let keys: Vec<String> = emails.keys().cloned().collect();
            let mut matches: BTreeMap<String, Vec<RecordId>> = BTreeMap::new();
            for (email, id) in self.store.contacts_by_email(account, &keys).await? {
                matches.entry(email).or_default().push(id);
            }
            for (email, indexes) in emails {
                // Two candidates on either side: never guessed.
                if let (Some([id]), [index]) = (matches.get(&email).map(Vec::as_slice), indexes.as_slice()) {
                    wanted.insert(*index, *id);
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let ids: Vec<RecordId> = wanted.values().copied().collect();
        let linked: BTreeSet<RecordId> =
            self.store.links(account, name, kind, By::Local(&ids)).await?.into_iter().map(|l| l.local).collect();
        let mut records: BTreeMap<RecordId, LocalRecord> =
            self.store.records(account, kind, &ids).await?.into_iter().map(|record| (record.id(), record)).collect();
        let taken: BTreeSet<RecordId> =
            works.iter().filter_map(|work| work.local.as_ref().map(LocalRecord::id)).collect();
        for (index, id) in wanted {
            if !linked.contains(&id) && !taken.contains(&id) {
                works[index].local = records.remove(&id);
            }
        }
        Ok(())
    }

    async fn load_intents(&self, kind: Kind, works: &mut [Work]) -> Result<(), StoreError> {
        let locals: Vec<RecordId> = works.iter().filter_map(|work| work.local.as_ref().map(LocalRecord::id)).collect();
        if locals.is_empty() {
            return Ok(());
        }
        let intents = self.store.intents(&self.connection.account.name, &self.connection.name, kind, &locals).await?;
        let mut intents: BTreeMap<RecordId, Intent> =
            intents.into_iter().map(|intent| (intent.local, intent)).collect();
        for work in works {
            work.intent = work.local.as_ref().and_then(|local| intents.remove(&local.id()));
        }
        Ok(())
    }

    /// A create whose outcome is not known: is there a record that carries its marker?
    async fn probe_creates(&self, call: Call, kind: Kind, works: &mut [Work]) -> Result<(), SyncError> {
        let asked: Vec<(usize, String)> = works
            .iter()
            .enumerate()
            .filter(|(_, work)| work.external.is_none())
            .filter_map(|(index, work)| match work.intent.as_ref().map(|intent| (&intent.op, intent.state)) {
                Some((IntentOp::Create { marker }, IntentState::Sent)) => Some((index, marker.clone())),
                _ => None,
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let markers: Vec<String> = asked.iter().map(|(_, marker)| marker.clone()).collect();
        let found = self.connection.connector.find(call, kind, &markers).await?;
        let ids: Vec<ExternalId> = found.iter().flatten().map(|record| record.id.clone()).collect();
        let links =
            self.store.links(&self.connection.account.name, &self.connection.name, kind, By::External(&ids)).await?;
        for ((index, _), record) in asked.into_iter().zip(found) {
            let Some(record) = record else { continue };
            // Made, and merged at the vendor into a record that is another of ours.
            if links.iter().any(|link| link.external == record.id) {
                works[index].fetched = Some(Fetched::MergedInto(record));
            } else {
                works[index].external = Some(record.id.clone());
                works[index].fetched = Some(Fetched::Found(record));
            }
        }
        Ok(())
    }

    /// A sent intent is resolved only with what the vendor's history says of the rows it wrote.
    async fn read_histories(&self, call: Call, kind: Kind, lens: &Lens, works: &mut [Work]) -> Result<(), SyncError> {
        let mut properties: BTreeSet<String> = BTreeSet::new();
        let mut asked: Vec<(usize, ExternalId)> = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let (Some(intent), Some(Fetched::Found(record))) = (&work.intent, &work.fetched) else { continue };
            if intent.state == IntentState::Sent {
                properties.extend(written_properties(lens, intent.rows.keys()));
                asked.push((index, record.id.clone()));
            }
        }
        self.read_history(call, kind, works, asked, properties).await
    }

    async fn read_history(
        &self,
        call: Call,
        kind: Kind,
        works: &mut [Work],
        asked: Vec<(usize, ExternalId)>,
        properties: BTreeSet<String>,
    ) -> Result<(), SyncError> {
        if asked.is_empty() {
            return Ok(());
        }
        let ids: Vec<ExternalId> = asked.iter().map(|(_, id)| id.clone()).collect();
        let properties: Vec<String> = properties.into_iter().collect();
        let histories = self.connection.connector.history(call, kind, &ids, &properties).await?;
        for ((index, _), history) in asked.into_iter().zip(histories) {
            works[index].history = Some(history.unwrap_or_default());
        }
        Ok(())
    }

    /// What people decided about rows on hold.
    async fn load_answers(&self, works: &mut [Work]) -> Result<(), StoreError> {
        for work in works {
            let Some(link) = &work.link else { continue };
            for (row, hold) in &link.holds {
                let Some(id) = hold.conflict else { continue };
                let conflict = self.store.conflict(&self.connection.account.name, id).await?;
                if let Some(conflict) = conflict.filter(|c| c.state == ConflictState::Resolved) {
                    work.answers.insert(row.clone(), conflict.winner);
                }
            }
        }
        Ok(())
    }

    /// The contacts that deals name, both ways.
    pub(super) async fn people(&self, kind: Kind, lens: &Lens, works: &[Work]) -> Result<People, StoreError> {
        let mut people = People::default();
        if kind != Kind::Deal {
            return Ok(people);
        }
        let property = lens.rows.iter().find(|row| row.name == "contact").map(|row| row.properties[0].0.clone());
        let mut theirs: BTreeSet<ExternalId> = BTreeSet::new();
        let mut ours: BTreeSet<RecordId> = BTreeSet::new();
        for work in works {
            if let (Some(property), Some(Fetched::Found(record) | Fetched::MergedInto(record))) =
                (&property, &work.fetched)
                && let Value::Refs(refs) = record.property(property)
            {
                theirs.extend(refs.into_iter().filter_map(|id| ExternalId::new(id).ok()));
            }
            ours.extend(work.local.as_ref().and_then(|local| local.as_opportunity()?.contact));
        }
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let theirs: Vec<ExternalId> = theirs.into_iter().collect();
        let ours: Vec<RecordId> = ours.into_iter().collect();
        let mut links = Vec::new();
        if !theirs.is_empty() {
            links = self.store.links(account, name, Kind::Contact, By::External(&theirs)).await?;
        }
        if !ours.is_empty() {
            links.extend(self.store.links(account, name, Kind::Contact, By::Local(&ours)).await?);
        }
        for link in links {
            people.to_local.insert(link.external.to_string(), link.local);
            people.to_remote.insert(link.local, link.external.to_string());
        }
        // A contact that was merged away at the vendor goes on under its new id.
        let unknown: Vec<ExternalId> =
            theirs.into_iter().filter(|id| !people.to_local.contains_key(id.as_str())).collect();
        for (old, new) in self.store.aliases(account, name, Kind::Contact, &unknown).await? {
            if let Some(local) = people.to_local.get(new.as_str()).copied() {
                people.to_local.insert(old.to_string(), local);
            }
        }
        Ok(people)
    }

    /// Where `newest` has to decide, when the vendor's side was stated.
    async fn read_conflict_times(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        works: &mut [Work],
    ) -> Result<(), SyncError> {
        let mut asked = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let (Some(Fetched::Found(record)), Some(local), None) = (&work.fetched, &work.local, &work.history) else {
                continue;
            };
            let trial = plan(&self.snapshot(lens, context, began, work, local, record));
            if trial.needs_history {
                asked.push((index, record.id.clone()));
            }
        }
        let properties = lens.rows.iter().flat_map(|row| row.properties.iter().map(|(name, _)| name.clone())).collect();
        self.read_history(call, kind, works, asked, properties).await
    }

    fn snapshot<'a>(
        &self,
        lens: &'a Lens,
        context: Context<'a>,
        began: DateTime<Utc>,
        work: &'a Work,
        local: &'a LocalRecord,
        remote: &'a Record,
    ) -> Snapshot<'a> {
        let intent = work.intent.as_ref().filter(|intent| intent.state == IntentState::Sent);
        Snapshot {
            lens,
            context,
            link: work.link.as_ref(),
            local,
            remote,
            intent,
            history: work.history.as_ref(),
            answers: &work.answers,
            on_first_link: self.connection.on_first_link,
            may_push: self.writes() && !still_open(intent, began),
            skew: self.skew,
            now: began,
        }
    }

    /// What one record needs.
    pub(super) fn decide(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        work: Work,
    ) -> Decided {
        let here = match &work.local {
            None => Here::Unknown,
            Some(local) if local.is_deleted() => Here::Deleted,
            Some(_) => Here::Present,
        };
        let there = self.there(lens, began, &work);
        let edited_here = work.link.as_ref().zip(work.local.as_ref()).is_some_and(|(link, local)| {
            lens.rows.iter().any(|row| link.base.get(&row.name).is_some_and(|base| base.0 != local.values(&row.fields)))
        });
        let step = presence::decide(
            here,
            there,
            work.link.as_ref().map(|link| link.state),
            edited_here,
            self.connection.on_remote_delete,
            self.connection.on_local_delete,
        );
        let mut decided = Decided { ops: Vec::new(), outgoing: None, needs: Vec::new(), tally: Tally::default(), work };
        match step {
            Step::Merge | Step::Revive | Step::TakeIn => {
                self.merge_fields(kind, lens, context, began, step, &mut decided)
            }
            Step::Create => self.plan_create(kind, lens, context, began, &mut decided),
            Step::ArchiveRemote => self.plan_archive(kind, began, &mut decided),
            Step::Forbidden => {
                let until = began + TimeDelta::hours(1);
                if let Some(first) = decided.work.dirty.first().cloned() {
                    let text = "the vendor does not let us see this record: grant access to it, or take it out of the connection's filter";
                    decided.ops.push(self.failure(kind, &first.key, "", "forbidden", text.into()));
                    decided.tally.failed += 1;
                }
                self.defer_all(&mut decided, until, true);
            }
            Step::Nothing => self.finish_all(&mut decided),
            Step::LookAgain | Step::Missing | Step::Unlink | Step::Tombstone | Step::DeleteLocal => {
                self.end_of_link(step, began, &mut decided);
            }
        }
        decided
    }

    fn there(&self, lens: &Lens, began: DateTime<Utc>, work: &Work) -> There {
        match &work.fetched {
            None => There::Unknown,
            Some(Fetched::Found(record) | Fetched::MergedInto(record)) => There::Found {
                edited: work.link.as_ref().is_some_and(|link| {
                    lens.rows.iter().any(|row| {
                        let now = remote_values(row, record);
                        let ours =
                            work.intent.as_ref().and_then(|intent| intent.rows.get(&row.name)).map(|row| &row.want);
                        link.base.get(&row.name).zip(now).is_some_and(|(base, now)| base.1 != now && Some(&now) != ours)
                    })
                }),
            },
            Some(Fetched::Archived) => There::Archived,
            Some(Fetched::Gone) => There::Gone {
                again: work
                    .link
                    .as_ref()
                    .and_then(|link| link.missing_since)
                    .is_some_and(|since| began - since >= SECOND_LOOK),
            },
            Some(Fetched::Forbidden) => There::Forbidden,
        }
    }

    pub(super) fn finish_all(&self, decided: &mut Decided) {
        let done: Vec<Op> = decided.work.dirty.drain(..).map(|dirty| self.finish(dirty)).collect();
        decided.ops.extend(done);
    }

    fn defer_all(&self, decided: &mut Decided, until: DateTime<Utc>, failed: bool) {
        let put_off: Vec<Op> = decided.work.dirty.drain(..).map(|dirty| self.defer(dirty, until, failed)).collect();
        decided.ops.extend(put_off);
    }

    pub(super) fn failure(&self, kind: Kind, key: &Key, row: &str, code: &str, message: String) -> Op {
        let now = self.clock.now();
        Op::PutFailure(Failure {
            id: FailureId(self.ids.next(now)),
            connection: self.connection.name.clone(),
            kind,
            key: key.to_string(),
            row: row.into(),
            code: code.into(),
            message,
            first_at: now,
            last_at: now,
            attempts: 1,
        })
    }

    pub(super) fn put_link(&self, link: Link) -> Op {
        Op::PutLink {
            link,
            system: self.connection.connector.system().into(),
            remote_account: self.remote_account.clone(),
        }
    }

    /// The one active place a record takes, where the account's policy has such places (AX-02).
    pub(super) fn slot(&self, record: &LocalRecord) -> Option<String> {
        slot(self.connection.account.profile.policy().uniqueness, record)
    }

    pub(super) fn conflict(&self, kind: Kind, record: RecordId, clash: Clash) -> Conflict {
        let now = self.clock.now();
        Conflict {
            id: ConflictId(self.ids.next(now)),
            connection: self.connection.name.clone(),
            kind,
            record,
            row: clash.row,
            fields: clash.fields,
            base: clash.base,
            local: clash.local,
            remote: clash.remote,
            winner: clash.winner,
            rule: clash.rule.into(),
            state: if clash.winner == Winner::Nobody { ConflictState::Open } else { ConflictState::Decided },
            at: now,
        }
    }

    /// Both sides have it: merge field by field.
    fn merge_fields(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        step: Step,
        decided: &mut Decided,
    ) {
        let Some(Fetched::Found(remote) | Fetched::MergedInto(remote)) = decided.work.fetched.clone() else { return };
        let is_new = step == Step::TakeIn;
        if is_new
            && (self.connection.direction == Direction::Out || !self.connection.filter.admits(kind, lens, &remote))
        {
            return self.finish_all(decided);
        }
        let fresh = RecordId(self.ids.next(began));
        let Some(mut local) = decided
            .work
            .local
            .clone()
            .or_else(|| LocalRecord::new(kind, fresh, remote_created(&remote).unwrap_or(began)))
        else {
            return self.finish_all(decided);
        };
        let expected = if is_new { 0 } else { local.version() };
        let revived = step == Step::Revive;
        if revived {
            local.set_deleted(None);
        }
        let sent = decided.work.intent.clone().filter(|intent| intent.state == IntentState::Sent);
        let open = still_open(sent.as_ref(), began);
        let mut plan = plan(&self.snapshot(lens, context, began, &decided.work, &local, &remote));
        // What our own late-acknowledged write replaced.
        if let (Some(intent), Some(history)) = (&sent, &decided.work.history) {
            for found in overwrites(intent, lens, history, &local, context, self.skew) {
                if let Some((values, at)) = found.revert
                    && !plan.takes.iter().any(|(row, ..)| *row == found.clash.row)
                {
                    plan.takes.push((found.clash.row.clone(), found.clash.fields.clone(), values, Some(at)));
                    plan.waits = true;
                }
                plan.clashes.push(found.clash);
            }
        }
        let before = local.clone();
        let changed = self.take(&plan, &mut local, began);
        self.store_merge(
            kind,
            MergeResult { is_new, revived, expected, changed, open, before, sent },
            plan,
            local,
            &remote,
            began,
            decided,
        );
    }

    /// Applies the values to be taken in; answers whether anything changed.
    fn take(&self, plan: &FieldPlan, local: &mut LocalRecord, began: DateTime<Utc>) -> bool {
        for (_, fields, values, at) in &plan.takes {
            let stamp = Stamp { at: at.unwrap_or(began), by: self.connection.name.to_string() };
            // The plan tried these values on a copy; what does not fit is not in it.
            if let Err(invalid) = local.set(fields, values, &stamp) {
                warn!(field = invalid.field, "a planned value does not fit");
            }
        }
        !plan.takes.is_empty()
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction, each used once")]
    fn store_merge(
        &self,
        kind: Kind,
        result: MergeResult,
        plan: FieldPlan,
        mut local: LocalRecord,
        remote: &Record,
        began: DateTime<Utc>,
        decided: &mut Decided,
    ) {
        let MergeResult { is_new, revived, expected, changed, open, before, sent } = result;
        if (changed || revived) && !is_new {
            local.touch(began);
        }
        if is_new || changed || revived {
            if let LocalRecord::Deal(deal) = &mut local
                && deal.quarantined
                && deal.position.status.is_closed()
            {
                deal.quarantined = false;
            }
            let slot = self.slot(&local);
            decided.ops.push(Op::PutRecord { record: local.clone(), expected, slot });
            if !is_new {
                decided.ops.extend(self.history_of(kind, &before, &local, began));
                decided.tally.updated += 1;
            } else {
                decided.tally.created += 1;
            }
            decided.ops.extend(self.mark_siblings(kind, local.id(), began));
        }
        let key = Key::Local(local.id());
        let mut link = decided.work.link.clone().unwrap_or_else(|| Link {
            connection: self.connection.name.clone(),
            kind,
            local: local.id(),
            external: remote.id.clone(),
            state: LinkState::Linked,
            base: BTreeMap::new(),
            version: remote.version.clone(),
            holds: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            missing_since: None,
        });
        link.base.extend(plan.base);
        let mut released = false;
        let mut asked: BTreeMap<String, ConflictId> = BTreeMap::new();
        for clash in plan.clashes {
            let conflict = self.conflict(kind, local.id(), clash);
            if conflict.state == ConflictState::Open {
                asked.insert(conflict.row.clone(), conflict.id);
            }
            decided.tally.conflicts += 1;
            decided.ops.push(Op::AddConflict(conflict));
        }
        for (row, hold) in plan.holds {
            match hold {
                Some(mut hold) => {
                    hold.conflict = asked.get(&row).copied();
                    link.holds.insert(row, hold);
                }
                None => {
                    released = true;
                    link.rewrites.remove(&row);
                    link.holds.remove(&row);
                }
            }
        }
        let tried = decided.work.dirty.iter().any(|dirty| dirty.attempts > 0);
        if (released || tried) && plan.failures.is_empty() {
            let keys = decided.work.dirty.iter().map(|dirty| dirty.key.clone()).chain([key.clone()]);
            let connection = &self.connection.name;
            decided.ops.extend(
                keys.map(|key| Op::DropFailures { connection: connection.clone(), kind, key, row: None })
                    .collect::<Vec<_>>(),
            );
        }
        for (row, code, message) in plan.failures {
            decided.ops.push(self.failure(kind, &key, &row, code, message));
            decided.tally.failed += 1;
        }
        link.state = LinkState::Linked;
        link.missing_since = None;
        link.external = remote.id.clone();
        link.version = remote.version.clone();
        if decided.work.link.as_ref() != Some(&link) {
            decided.ops.push(self.put_link(link.clone()));
        }
        // A create is settled by finding its record; an update by a read that began after its window closed.
        let settled = decided.work.intent.take().filter(|intent| !open || matches!(intent.op, IntentOp::Create { .. }));
        if let Some(intent) = &settled {
            decided.ops.push(Op::DropIntent(intent.id));
        }
        if !plan.needs.is_empty() && decided.work.dirty.iter().all(|dirty| dirty.attempts < PATIENCE) {
            decided.needs = plan.needs;
            let until = self.patience(&decided.work.dirty);
            return self.defer_all(decided, until, true);
        }
        if !plan.pushes.is_empty() {
            let intent = Intent {
                id: IntentId(self.ids.next(began)),
                connection: self.connection.name.clone(),
                kind,
                local: local.id(),
                op: IntentOp::Update { external: remote.id.clone(), version: remote.version.clone() },
                rows: plan.pushes,
                state: IntentState::Planned,
                sent_at: None,
                closes_at: None,
                run: self.run,
            };
            decided.ops.push(Op::PutIntent(intent.clone()));
            decided.outgoing =
                Some(Outgoing { intent, link: Some(link), local, dirty: std::mem::take(&mut decided.work.dirty) });
            return;
        }
        match sent.filter(|_| settled.is_none()).and_then(|intent| intent.closes_at) {
            // Look again when the late window is over.
            Some(closes_at) => self.defer_all(decided, closes_at, false),
            None if plan.waits && self.writes() => self.defer_all(decided, began, false),
            None => self.finish_all(decided),
        }
    }

    /// How long a record waits for another one: not at all at first, since parents are worked on first.
    fn patience(&self, dirty: &[Dirty]) -> DateTime<Utc> {
        let attempts = dirty.iter().map(|dirty| dirty.attempts).max().unwrap_or(0);
        if attempts < 2 { self.clock.now() } else { self.later(attempts) }
    }

    fn history_of(&self, kind: Kind, before: &LocalRecord, after: &LocalRecord, now: DateTime<Utc>) -> Vec<Op> {
        let by = self.connection.name.to_string();
        history_ops(kind, before, after, &by, now, self.run)
    }

    pub(super) fn mark_siblings(&self, kind: Kind, local: RecordId, now: DateTime<Utc>) -> Vec<Op> {
        let mark = |connection: &crate::model::Name| {
            Op::Mark(Mark {
                connection: connection.clone(),
                kind,
                key: Key::Local(local),
                due_at: now,
                priority: Reason::Propagate.priority(),
            })
        };
        self.connection.siblings.iter().map(mark).collect()
    }

    fn plan_create(&self, kind: Kind, lens: &Lens, context: Context<'_>, began: DateTime<Utc>, decided: &mut Decided) {
        let Some(mut local) = decided.work.local.clone() else { return self.finish_all(decided) };
        if let Some(intent) = decided.work.intent.take() {
            // The marker is unique at the vendor: of two creates one is refused, so trying again is safe at once.
            decided.ops.push(Op::DropIntent(intent.id));
        }
        let quarantined = local.as_opportunity().is_some_and(|deal| deal.quarantined);
        if !self.writes() || quarantined {
            return self.finish_all(decided);
        }
        // Made here before any pipeline was known.
        if let LocalRecord::Deal(deal) = &mut local
            && deal.position.stage.is_none()
            && let Some((pipeline, stage)) = context.directory.default_position()
        {
            let expected = deal.version;
            (deal.position.pipeline, deal.position.stage) = (Some(pipeline), Some(stage));
            local.touch(began);
            let slot = self.slot(&local);
            decided.ops.push(Op::PutRecord { record: local.clone(), expected, slot });
        }
        let mut rows = BTreeMap::new();
        let (mut needs, mut failures) = (Vec::new(), Vec::new());
        for row in lens.rows.iter().filter(|row| row.direction != Direction::In) {
            let values = local.values(&row.fields);
            let nothing: Vec<Value> = row
                .properties
                .iter()
                .map(|(name, _)| if name.starts_with("associations.") { Value::Refs(Vec::new()) } else { Value::Null })
                .collect();
            match row.put(&values, &nothing, context) {
                Ok(want) => {
                    rows.insert(row.name.clone(), crate::model::IntentRow { local: values, seen: nothing, want });
                }
                Err(super::lens::Unfit::Wait(need)) => needs.push(need),
                Err(super::lens::Unfit::Park(code, message)) => failures.push((row.name.clone(), code, message)),
            }
        }
        if !needs.is_empty() && decided.work.dirty.iter().all(|dirty| dirty.attempts < PATIENCE) {
            decided.needs = needs;
            let until = self.patience(&decided.work.dirty);
            return self.defer_all(decided, until, true);
        }
        let key = Key::Local(local.id());
        // Without a position a deal cannot be made; any other field that does not fit is left out and shown.
        let essential = failures.iter().any(|(row, ..)| row == "position");
        for (row, code, message) in failures {
            decided.ops.push(self.failure(kind, &key, &row, code, message));
            decided.tally.failed += 1;
        }
        if essential {
            return self.finish_all(decided);
        }
        let intent = Intent {
            id: IntentId(self.ids.next(began)),
            connection: self.connection.name.clone(),
            kind,
            local: local.id(),
            op: IntentOp::Create { marker: self.connection.marker(local.id()) },
            rows,
            state: IntentState::Planned,
            sent_at: None,
            closes_at: None,
            run: self.run,
        };
        decided.ops.push(Op::PutIntent(intent.clone()));
        decided.outgoing = Some(Outgoing { intent, link: None, local, dirty: std::mem::take(&mut decided.work.dirty) });
    }

    fn plan_archive(&self, kind: Kind, began: DateTime<Utc>, decided: &mut Decided) {
        let (Some(link), Some(local)) = (decided.work.link.clone(), decided.work.local.clone()) else {
            return self.finish_all(decided);
        };
        if !self.writes() {
            return self.finish_all(decided);
        }
        if let Some(intent) = decided.work.intent.take() {
            if still_open(Some(&intent).filter(|intent| intent.state == IntentState::Sent), began) {
                return self.defer_all(decided, intent.closes_at.unwrap_or(began), false);
            }
            decided.ops.push(Op::DropIntent(intent.id));
        }
        let intent = Intent {
            id: IntentId(self.ids.next(began)),
            connection: self.connection.name.clone(),
            kind,
            local: local.id(),
            op: IntentOp::Archive { external: link.external.clone() },
            rows: BTreeMap::new(),
            state: IntentState::Planned,
            sent_at: None,
            closes_at: None,
            run: self.run,
        };
        decided.ops.push(Op::PutIntent(intent.clone()));
        decided.outgoing =
            Some(Outgoing { intent, link: Some(link), local, dirty: std::mem::take(&mut decided.work.dirty) });
    }

    fn end_of_link(&self, step: Step, began: DateTime<Utc>, decided: &mut Decided) {
        let Some(mut link) = decided.work.link.clone() else { return self.finish_all(decided) };
        if let Some(intent) = decided.work.intent.take() {
            decided.ops.push(Op::DropIntent(intent.id));
        }
        match step {
            Step::LookAgain => {
                let since = *link.missing_since.get_or_insert(began);
                decided.ops.push(self.put_link(link));
                return self.defer_all(decided, since + SECOND_LOOK, false);
            }
            Step::Missing => link.state = LinkState::RemoteMissing,
            Step::Unlink => link.state = LinkState::Unlinked,
            _ => link.state = LinkState::Tombstoned,
        }
        decided.tally.deleted += 1;
        if step == Step::DeleteLocal
            && let Some(mut local) = decided.work.local.clone()
        {
            let expected = local.version();
            local.set_deleted(Some(began));
            local.touch(began);
            decided.ops.extend(self.mark_siblings(link.kind, local.id(), began));
            decided.ops.push(Op::PutRecord { record: local, expected, slot: None });
        }
        decided.ops.push(self.put_link(link));
        self.finish_all(decided);
    }

    /// A survivor that is seen before the news of its merge: the records it absorbed are linked here.
    async fn recognise_merges(&self, kind: Kind, works: &mut [Work]) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        for work in
            works.iter_mut().filter(|work| work.link.is_none() && work.dirty.iter().any(|dirty| dirty.generation > 0))
        {
            let Some(Fetched::Found(record)) = &work.fetched else { continue };
            if record.absorbed.is_empty() {
                continue;
            }
            let link = self.store.links(account, name, kind, By::External(&record.absorbed)).await?.pop();
            if let Some(link) = link {
                work.local = self.store.records(account, kind, &[link.local]).await?.pop();
                work.external = Some(link.external.clone());
                work.fetched = Some(Fetched::MergedInto(record.clone()));
                work.link = Some(link);
            }
        }
        Ok(())
    }

    /// Records that live on as others, one after the other: the id is an alias from now on, and the link moves to the
    /// survivor. If both had a record here, the older of ours survives and the other keeps a pointer to it.
    async fn follow_merges(&self, kind: Kind, works: Vec<Work>) -> Result<(), SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        for mut work in works {
            let Some(Fetched::MergedInto(survivor)) = work.fetched.take() else { continue };
            let now = self.clock.now();
            let mut ops = Vec::new();
            if let Some(old) = work.external.clone() {
                ops.push(Op::PutAlias { connection: name.clone(), kind, old, new: survivor.id.clone() });
            }
            // An earlier one of this round may have moved it.
            let link = match &work.local {
                Some(local) => self.store.links(account, name, kind, By::Local(&[local.id()])).await?.pop(),
                None => None,
            };
            if let (None, Some(local)) = (&link, &work.local) {
                ops.extend(self.merge_unlinked(kind, local.clone(), &survivor.id, now).await?);
            }
            if let (Some(mut link), Some(local)) = (link, work.local.take()) {
                for intent in self.store.intents(account, name, kind, &[link.local]).await? {
                    ops.push(Op::DropIntent(intent.id));
                }
                let other = self
                    .store
                    .links(account, name, kind, By::External(std::slice::from_ref(&survivor.id)))
                    .await?
                    .pop();
                match other {
                    None => {
                        link.external = survivor.id.clone();
                        ops.push(self.put_link(link));
                    }
                    Some(other) if other.local == link.local => {}
                    Some(other) => {
                        if let Some(theirs) = self.store.records(account, kind, &[other.local]).await?.pop() {
                            ops.extend(self.merge_locals(kind, (link, local), (other, theirs), now));
                        }
                    }
                }
            }
            let priority = Reason::Propagate.priority();
            ops.push(Op::Mark(Mark {
                connection: name.clone(),
                kind,
                key: Key::External(survivor.id),
                due_at: now,
                priority,
            }));
            ops.extend(work.dirty.drain(..).map(|dirty| self.finish(dirty)));
            self.store.commit(self.commit_of(ops)).await?;
        }
        Ok(())
    }

    /// A record of ours whose half at the vendor was merged before we ever linked it.
    async fn merge_unlinked(
        &self,
        kind: Kind,
        mut lost: LocalRecord,
        survivor: &ExternalId,
        now: DateTime<Utc>,
    ) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let Some(kept) =
            self.store.links(account, name, kind, By::External(std::slice::from_ref(survivor))).await?.pop()
        else {
            return Ok(Vec::new());
        };
        let mut ops: Vec<Op> = self
            .store
            .intents(account, name, kind, &[lost.id()])
            .await?
            .iter()
            .map(|intent| Op::DropIntent(intent.id))
            .collect();
        let expected = lost.version();
        if let Some(kept) = self.store.records(account, kind, &[kept.local]).await?.pop() {
            ops.extend(history_ops(kind, &lost, &kept, "merge", now, self.run));
        }
        lost.set_merged_into(kept.local, now);
        lost.touch(now);
        ops.extend(self.mark_siblings(kind, lost.id(), now));
        ops.push(Op::PutRecord { record: lost, expected, slot: None });
        Ok(ops)
    }

    fn merge_locals(
        &self,
        kind: Kind,
        mine: (Link, LocalRecord),
        other: (Link, LocalRecord),
        now: DateTime<Utc>,
    ) -> Vec<Op> {
        let (target, older_first) = (other.0.external.clone(), mine.1.created_at() <= other.1.created_at());
        let ((mut kept_link, kept), (lost_link, mut lost)) = if older_first { (mine, other) } else { (other, mine) };
        let connection = self.connection.name.clone();
        let expected = lost.version();
        lost.set_merged_into(kept.id(), now);
        lost.touch(now);
        kept_link.external = target;
        let mut ops = vec![
            Op::RemoveLink { connection: connection.clone(), kind, local: lost_link.local },
            Op::PutRecord { record: lost.clone(), expected, slot: None },
            self.put_link(kept_link),
        ];
        ops.extend(history_ops(kind, &lost, &kept, "merge", now, self.run));
        ops.extend(self.mark_siblings(kind, lost.id(), now));
        ops
    }

    /// Marks the records that others wait for.
    fn ask_for(&self, needs: Vec<Need>) -> Vec<Op> {
        let now = self.clock.now();
        let needs: BTreeSet<Need> = needs.into_iter().collect();
        needs
            .into_iter()
            .map(|need| {
                let key = match need {
                    Need::ContactIn(id) => Key::External(id),
                    Need::ContactOut(id) => Key::Local(id),
                };
                let priority = Reason::Propagate.priority();
                Op::Mark(Mark {
                    connection: self.connection.name.clone(),
                    kind: Kind::Contact,
                    key,
                    due_at: now,
                    priority,
                })
            })
            .collect()
    }

    /// Stores everything in one transaction; if one record spoils it, each in its own.
    async fn store_decisions(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        decided: Vec<Decided>,
        with: Vec<Op>,
    ) -> Result<Vec<Outgoing>, StoreError> {
        let all: Vec<Op> = decided.iter().flat_map(|d| d.ops.iter().cloned()).chain(with.iter().cloned()).collect();
        match self.store.commit(self.commit_of(all)).await {
            Ok(()) => {
                for one in &decided {
                    self.tally(one.tally);
                }
                return Ok(decided.into_iter().filter_map(|d| d.outgoing).collect());
            }
            Err(StoreError::Stale { .. } | StoreError::Taken { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut outgoing = Vec::new();
        for one in decided {
            match self.store.commit(self.commit_of(one.ops.clone())).await {
                Ok(()) => {
                    self.tally(one.tally);
                    outgoing.extend(one.outgoing);
                }
                Err(error @ (StoreError::Stale { .. } | StoreError::Taken { .. })) => {
                    self.store_alone(kind, lens, context, began, one, &error).await?
                }
                Err(error) => return Err(error),
            }
        }
        if !with.is_empty() {
            self.store.commit(self.commit_of(with)).await?;
        }
        Ok(outgoing)
    }

    /// A record that could not be stored as planned: planned again if it changed meanwhile, quarantined if its place is
    /// taken, set aside otherwise.
    async fn store_alone(
        &self,
        kind: Kind,
        _: &Lens,
        _: Context<'_>,
        began: DateTime<Utc>,
        one: Decided,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let mut ops = one.ops;
        let marks: Vec<Dirty> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Finish { dirty, .. } | Op::Defer { dirty, .. } => Some(dirty.clone()),
                _ => None,
            })
            .chain(one.outgoing.into_iter().flat_map(|outgoing| outgoing.dirty))
            .collect();
        if matches!(error, StoreError::Taken { what: Taken::ActivePlace }) {
            for op in &mut ops {
                if let Op::PutRecord { record: LocalRecord::Deal(deal), slot, .. } = op {
                    deal.quarantined = true;
                    *slot = None;
                }
            }
            ops.retain(|op| !matches!(op, Op::PutIntent(_)));
            if self.store.commit(self.commit_of(ops)).await.is_ok() {
                self.tally(Tally { quarantined: 1, ..one.tally });
                let ops = marks.into_iter().map(|dirty| self.finish(dirty)).collect();
                return self.store.commit(self.commit_of(ops)).await;
            }
        }
        let mut ops = Vec::new();
        for dirty in marks {
            let stale = matches!(error, StoreError::Stale { .. });
            if !stale {
                let text = format!(
                    "{error} by another record of this account: compare the two and correct one; it is tried again by itself"
                );
                ops.push(self.failure(kind, &dirty.key, "", "taken", text));
                self.count(|summary| summary.failed += 1);
            }
            let until = if stale && dirty.attempts < 5 { began } else { self.later(dirty.attempts) };
            ops.push(self.defer(dirty, until, true));
        }
        self.store.commit(self.commit_of(ops)).await
    }

    pub(super) fn tally(&self, tally: Tally) {
        self.count(|summary| {
            summary.pulled.created += tally.created;
            summary.pulled.updated += tally.updated;
            summary.pulled.deleted += tally.deleted;
            summary.conflicts += tally.conflicts;
            summary.failed += tally.failed;
            summary.quarantined += tally.quarantined;
        });
    }

    /// A batch that got nowhere: its marks wait, longer each time.
    ///
    /// # Errors
    /// [`StoreError`] if not even that can be stored.
    pub async fn put_off(&self, kind: Kind, dirty: Vec<Dirty>, error: &ConnectorError) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut ops = Vec::new();
        for dirty in dirty {
            let until = match error.disposition() {
                Disposition::Retry(Some(wait)) => now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(15)),
                Disposition::PauseStream => now + TimeDelta::hours(1),
                _ => self.later(dirty.attempts),
            };
            if error.disposition() == Disposition::PauseStream {
                ops.push(self.failure(kind, &dirty.key, "", error.code(), error.to_string()));
            }
            ops.push(self.defer(dirty, until, true));
        }
        self.store.commit(self.commit_of(ops)).await
    }
}

struct MergeResult {
    is_new: bool,
    revived: bool,
    expected: i64,
    changed: bool,
    open: bool,
    before: LocalRecord,
    sent: Option<Intent>,
}

/// True while a write whose outcome is not known may still land after a read that began at `began`.
fn still_open(intent: Option<&Intent>, began: DateTime<Utc>) -> bool {
    intent.is_some_and(|intent| intent.closes_at.is_none_or(|closes_at| began <= closes_at))
}

/// The vendor's properties of some rows.
pub(super) fn written_properties<'a>(lens: &Lens, rows: impl Iterator<Item = &'a String>) -> Vec<String> {
    let rows: BTreeSet<&String> = rows.collect();
    lens.rows
        .iter()
        .filter(|row| rows.contains(&row.name))
        .flat_map(|row| row.properties.iter().map(|(name, _)| name.clone()))
        .collect()
}

fn remote_created(remote: &Record) -> Option<DateTime<Utc>> {
    match remote.property("createdate") {
        Value::Time(at) => Some(at),
        _ => None,
    }
}

/// The one active place of a contact in a pipeline that a record takes; `None` where it takes none.
#[must_use]
pub fn slot(uniqueness: Uniqueness, record: &LocalRecord) -> Option<String> {
    let deal = record.as_opportunity()?;
    let active = deal.position.status == Status::Open && deal.deleted_at.is_none() && !deal.quarantined;
    match (uniqueness, deal.contact, deal.position.pipeline) {
        (Uniqueness::OneActivePerContact, Some(contact), Some(pipeline)) if active => {
            Some(format!("{contact}/{pipeline}"))
        }
        _ => None,
    }
}

/// One history entry per field that differs.
#[must_use]
pub fn history_ops(
    kind: Kind,
    before: &LocalRecord,
    after: &LocalRecord,
    by: &str,
    now: DateTime<Utc>,
    run: RunId,
) -> Vec<Op> {
    let names: Vec<String> = match kind {
        Kind::Contact => crate::model::field::CONTACT
            .iter()
            .map(|name| (*name).to_owned())
            .chain(custom_names(before, after))
            .collect(),
        _ => crate::model::field::OPPORTUNITY
            .iter()
            .map(|name| (*name).to_owned())
            .chain(custom_names(before, after))
            .collect(),
    };
    names
        .into_iter()
        .filter_map(|field| {
            let (old, new) = (before.get(&field), after.get(&field));
            (old != new).then(|| {
                Op::AddHistory(HistoryEntry { kind, record: after.id(), field, old, new, by: by.into(), at: now, run })
            })
        })
        .collect()
}

fn custom_names(before: &LocalRecord, after: &LocalRecord) -> BTreeSet<String> {
    let names = |record: &LocalRecord| match record {
        LocalRecord::Contact(contact) => contact.custom.keys().cloned().collect::<Vec<_>>(),
        LocalRecord::Deal(deal) => deal.custom.keys().cloned().collect(),
    };
    names(before).into_iter().chain(names(after)).map(|name| format!("custom.{name}")).collect()
}
