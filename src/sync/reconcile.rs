//! One batch of dirty records: read the truth on both sides, plan, store the plan in one transaction, then write.
//!
//! A batch is of one kind. A record that cannot be planned or stored is set aside; the others go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tandem_contract::{
    Backoff, Call, Clock, ConnectorError, Disposition, ExternalId, Fetched, History, Kind, Lane, Record,
};

use super::{
    change::{Changed, FollowUp},
    connection::Connection,
    guard::Guard,
    lens::{Context, Direction, Directory, Lens, Need},
    push::Outgoing,
    summary::Summary,
    twins::Twin,
};
use crate::{
    model::{
        Conflict, Dirty, Ids, Intent, Key, Link, LocalRecord, Mark, Reason, RecordId, Uniqueness, Winner, ids::RunId,
    },
    store::{Commit, Fence, Op, StoreError, SyncStore, Taken},
};

/// Records worked on at once: as many as a vendor's largest batch takes.
pub(super) const BATCH: usize = 1_000;
/// The pseudo-row under which a second open opportunity is shown.
pub const QUARANTINE: &str = "quarantine";
const SECOND: &str = "the contact already has an open opportunity in this pipeline, and the account allows only one (policy one_active_per_contact): this one is kept aside. Close, merge or move one of the two, here or at the vendor; it then takes its place by itself";
const UNCONFIRMED: &str = "the contact already has an open opportunity in this pipeline, and in this account a second one is made on purpose (policy confirm_second): this one is kept aside. Say here that it is meant (`deliberate`), or close, merge or move one of the two; it then takes its place by itself";

/// How long a vendor that does not know a record is given before it is asked a second time.
pub const SECOND_LOOK: TimeDelta = TimeDelta::minutes(5);
/// How soon what only a person can mend is tried again: nobody tells us when it is mended.
pub(super) const ASK_AGAIN: TimeDelta = TimeDelta::minutes(15);
/// How often a record waits for the one it depends on before it goes without.
pub(super) const PATIENCE: u32 = 8;

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
    /// True if a record stood on a stage we do not know: pipelines are to be read anew.
    pub unknown_stage: AtomicBool,
    /// What waits for the first import, where the vendor is looked at through a search that lags.
    pub import: Mutex<Import>,
}

/// How far the first import has come.
#[derive(Default)]
pub struct Import {
    /// Kinds of which every record was listed.
    listed: BTreeSet<Kind>,
    /// Records that are made once that is so.
    waiting: BTreeSet<(Kind, RecordId)>,
}

/// Whole records that came with a page, by id.
#[derive(Default)]
pub struct Pageful {
    /// They.
    pub records: BTreeMap<ExternalId, Record>,
    /// When the page was asked for: what was written later is not in it.
    pub asked_at: Option<DateTime<Utc>>,
    /// True if other work was done since.
    pub is_ahead: bool,
}

impl Pageful {
    /// A record of it; not one that is known here, if writes of ours may have gone out since: that one is read anew.
    pub(super) fn take(&mut self, id: &ExternalId, is_known: bool) -> Option<Record> {
        self.records.remove(id).filter(|_| !(self.is_ahead && is_known))
    }
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
    /// The conflicts of rows on hold, by row.
    pub conflicts: BTreeMap<String, Conflict>,
    /// A contact's opportunities, where its deletion may be theirs too.
    pub dependents: Vec<LocalRecord>,
    /// False where what is found says nothing of when it came about: in a first import, and by the audit.
    pub is_news: bool,
    /// What the vendor's record is a twin of.
    pub twin: Option<Box<Twin>>,
}

/// What a record needs, as operations and perhaps a write.
pub(super) struct Decided {
    pub ops: Vec<Op>,
    pub outgoing: Option<Outgoing>,
    pub needs: Vec<Need>,
    /// What is to be looked up in the store, and stored with the rest.
    pub follow_up: FollowUp,
    /// What it was decided from.
    pub work: Work,
    pub tally: Tally,
}

impl Decided {
    /// Nothing so far.
    pub fn new(work: Work) -> Self {
        Self {
            ops: Vec::new(),
            outgoing: None,
            needs: Vec::new(),
            follow_up: FollowUp::default(),
            work,
            tally: Tally::default(),
        }
    }

    /// Takes a change in; answers the record as it is then.
    pub fn include(&mut self, changed: Changed) -> LocalRecord {
        self.ops.extend(changed.ops);
        self.follow_up.visitors.extend(changed.follow_up.visitors);
        self.follow_up.released.extend(changed.follow_up.released);
        changed.record
    }
}

/// What became of decisions that were to be stored in one transaction.
enum Stored {
    /// They are, and this is to be written now.
    Done(Vec<Outgoing>),
    /// None is, because of one of them.
    Spoilt(Vec<Decided>, StoreError),
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

    /// True once after a record stood on a stage we do not know.
    pub(super) fn met_unknown_stage(&self) -> bool {
        self.unknown_stage.swap(false, Ordering::Relaxed)
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

    /// True if a record must not be made yet: it may be there, and not have been listed. It is marked when everything was.
    pub(super) fn put_off_to_import(&self, kind: Kind, local: RecordId) -> bool {
        if !self.connection.connector.looks_behind() {
            return false;
        }
        let mut import = self.import.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = !import.listed.contains(&kind);
        if waits {
            import.waiting.insert((kind, local));
        }
        waits
    }

    /// Every record of a kind was listed: what waited for that is due, and so is what was here before. Once a run.
    pub(super) async fn note_listed(&self, kind: Kind) -> Result<(), StoreError> {
        let waited = {
            let mut import = self.import.lock().unwrap_or_else(PoisonError::into_inner);
            if !import.listed.insert(kind) {
                return Ok(());
            }
            std::mem::take(&mut import.waiting)
        };
        let now = self.clock.now();
        let marks: Vec<Op> = waited.into_iter().map(|(kind, id)| self.mark(kind, Key::Local(id), now)).collect();
        if !marks.is_empty() {
            self.store.commit(&self.commit_of(marks)).await?;
        }
        self.export_what_was_here(kind).await
    }

    /// True if this connection may write at the vendor.
    pub(super) fn writes(&self) -> bool {
        self.connection.direction != Direction::In
    }

    /// Works through dirty records of one kind. `seen` are records already read; `with` is stored with the results: the
    /// cursor of the page they came from.
    ///
    /// # Errors
    /// [`SyncError`] if the batch as a whole got nowhere; its marks are still there.
    pub async fn batch(
        &self,
        kind: Kind,
        dirty: Vec<Dirty>,
        seen: Pageful,
        with: Vec<Op>,
        lane: Lane,
    ) -> Result<(), SyncError> {
        let call = Call::on(lane);
        let Some(lens) = self.connection.lenses.get(&kind) else {
            let ops = dirty.into_iter().map(|dirty| self.finish(dirty)).chain(with).collect();
            return Ok(self.store.commit(&self.commit_of(ops)).await?);
        };
        let began = seen.asked_at.unwrap_or_else(|| self.clock.now());
        let works = self.resolve(kind, dirty, seen).await?;
        let works = self.hand_on(kind, works).await?;
        let (works, people) = self.read_both_sides(call, kind, lens, works, began).await?;
        if works.iter().any(|work| matches!(work.fetched, Some(Fetched::MergedInto(_)))) {
            // Links move to the survivor first; everything else of this batch is still marked and comes again.
            return self.follow_merges(kind, works).await;
        }
        let effects = works.iter().map(|work| 1 + work.dependents.len()).sum();
        self.refresh_guard(kind, effects).await?;
        let directory = self.directory();
        let context = Context { directory: &directory, people: &people };
        let mut decided: Vec<Decided> =
            works.into_iter().map(|work| self.decide_one(kind, lens, context, began, work)).collect();
        let needs = decided.iter().flat_map(|d| d.needs.iter().cloned()).collect();
        let with: Vec<Op> = with.into_iter().chain(self.ask_for(needs)).collect();
        for one in &mut decided {
            let follow_up = std::mem::take(&mut one.follow_up);
            one.ops.extend(self.follow_up(follow_up).await?);
        }
        let found = recovered(kind, &decided);
        let outgoing = self.store_decisions(kind, began, decided, with).await?;
        self.wake_dependents(&found).await?;
        if !outgoing.is_empty() {
            self.push(call, kind, lens, context, outgoing).await?;
        }
        Ok(())
    }

    /// Decides, with the record's name in whatever is logged on the way.
    fn decide_one(&self, kind: Kind, lens: &Lens, context: Context<'_>, began: DateTime<Utc>, work: Work) -> Decided {
        let record = work.dirty.first().map(|dirty| dirty.key.to_string()).unwrap_or_default();
        let span = tracing::info_span!("record", %kind, record);
        span.in_scope(|| self.decide(kind, lens, context, began, work))
    }

    pub(super) fn finish(&self, dirty: Dirty) -> Op {
        Op::Finish { connection: self.connection.name.clone(), dirty }
    }

    pub(super) fn defer(&self, dirty: Dirty, until: DateTime<Utc>, failed: bool) -> Op {
        if dirty.generation == 0 {
            // Read from a page and never marked: what is put off must be marked now.
            let Dirty { kind, key, priority, .. } = dirty;
            return Op::Mark(Mark { connection: self.connection.name.clone(), kind, key, due_at: until, priority });
        }
        Op::Defer { connection: self.connection.name.clone(), dirty, until, failed }
    }

    /// When a record that failed is tried again.
    pub(super) fn later(&self, attempts: u32) -> DateTime<Utc> {
        let wait = Backoff::default().wait(attempts, self.ids.draw());
        let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::minutes(15));
        (self.clock.now() + wait).trunc_subsecs(6)
    }

    /// Marks the records that others wait for.
    pub(super) fn ask_for(&self, needs: Vec<Need>) -> Vec<Op> {
        let now = self.clock.now();
        let needs: BTreeSet<Need> = needs.into_iter().collect();
        needs
            .into_iter()
            .map(|need| {
                let key = match need {
                    Need::ContactIn(id) => Key::External(id),
                    Need::ContactOut(id) => Key::Local(id),
                };
                Op::Mark(Mark::new(&self.connection.name, Kind::Contact, key, now, Reason::Propagate))
            })
            .collect()
    }

    /// Stores everything in one transaction; if one record spoils it, in halves until that one is alone.
    pub(super) async fn store_decisions(
        &self,
        kind: Kind,
        began: DateTime<Utc>,
        decided: Vec<Decided>,
        with: Vec<Op>,
    ) -> Result<Vec<Outgoing>, StoreError> {
        let mut decided = decided;
        for one in &mut decided {
            self.mark_unmarked(one, began);
        }
        let mut outgoing = Vec::new();
        let mut stored = self.store_together(decided, with.clone()).await?;
        if let Stored::Done(outgoing) = stored {
            return Ok(outgoing);
        }
        // In their order: a later one may take what an earlier one gives up.
        let mut waiting: Vec<Vec<Decided>> = Vec::new();
        loop {
            match stored {
                Stored::Done(more) => outgoing.extend(more),
                Stored::Spoilt(mut some, error) if some.len() < 2 => {
                    if let Some(one) = some.pop() {
                        self.store_alone(kind, began, one, &error).await?;
                    }
                }
                Stored::Spoilt(mut some, _) => {
                    let right = some.split_off(some.len() / 2);
                    waiting.extend([right, some]);
                }
            }
            let Some(next) = waiting.pop() else { break };
            stored = self.store_together(next, Vec::new()).await?;
        }
        if !with.is_empty() {
            self.store.commit(&self.commit_of(with)).await?;
        }
        Ok(outgoing)
    }

    async fn store_together(&self, mut decided: Vec<Decided>, with: Vec<Op>) -> Result<Stored, StoreError> {
        // Whole records go through here by the thousand: they are moved together, and apart again if need be.
        let counts: Vec<usize> = decided.iter().map(|one| one.ops.len()).collect();
        let all = decided.iter_mut().flat_map(|one| std::mem::take(&mut one.ops)).chain(with);
        let mut together = self.commit_of(all.collect());
        match self.store.commit(&together).await {
            Ok(()) => {
                for one in &decided {
                    self.tally(one.tally);
                }
                Ok(Stored::Done(decided.into_iter().filter_map(|one| one.outgoing).collect()))
            }
            Err(error @ (StoreError::Stale { .. } | StoreError::Taken { .. })) => {
                let mut ops = together.ops.drain(..);
                for (one, count) in decided.iter_mut().zip(counts) {
                    one.ops = ops.by_ref().take(count).collect();
                }
                drop(ops);
                Ok(Stored::Spoilt(decided, error))
            }
            Err(error) => Err(error),
        }
    }

    /// A write that follows from a page of the backfill has no mark yet: without one a crash would leave its intent alone.
    fn mark_unmarked(&self, one: &mut Decided, began: DateTime<Utc>) {
        for dirty in
            one.outgoing.iter_mut().flat_map(|outgoing| &mut outgoing.dirty).filter(|dirty| dirty.generation == 0)
        {
            one.ops.push(self.defer(dirty.clone(), began, false));
            dirty.generation = 1;
        }
    }

    /// A record that could not be stored as planned: planned again if it changed meanwhile, quarantined if its place is
    /// taken, set aside otherwise.
    pub(super) async fn store_alone(
        &self,
        kind: Kind,
        began: DateTime<Utc>,
        one: Decided,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let mut ops = one.ops;
        let unmarked: BTreeSet<Key> = ops
            .iter()
            .filter_map(|op| match op {
                // Only records that came with a page are marked together with what they need.
                Op::Mark(Mark { connection, key: key @ Key::External(_), .. })
                    if *connection == self.connection.name =>
                {
                    Some(key.clone())
                }
                _ => None,
            })
            .collect();
        let mut marks: Vec<Dirty> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Finish { dirty, .. } | Op::Defer { dirty, .. } => Some(dirty.clone()),
                _ => None,
            })
            .chain(one.outgoing.into_iter().flat_map(|outgoing| outgoing.dirty))
            .collect();
        for dirty in marks.iter_mut().filter(|dirty| unmarked.contains(&dirty.key)) {
            // The mark was among what could not be stored.
            dirty.generation = 0;
        }
        if matches!(error, StoreError::Taken { what: Taken::ActivePlace }) {
            let mut quarantined = Vec::new();
            for op in &mut ops {
                if let Op::PutRecord { record: LocalRecord::Deal(deal), .. } = op {
                    deal.quarantined = true;
                    quarantined.push(deal.id);
                }
            }
            // What was to be written is planned anew from what is stored now.
            ops.retain(|op| !matches!(op, Op::PutIntent(_) | Op::Finish { .. } | Op::Defer { .. }));
            ops.extend(marks.iter().map(|dirty| self.defer(dirty.clone(), began, false)));
            ops.extend(quarantined.into_iter().map(|id| self.second_opportunity(id)));
            if self.store.commit(&self.commit_of(ops)).await.is_ok() {
                self.tally(Tally { quarantined: 1, ..one.tally });
                return Ok(());
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
        self.store.commit(&self.commit_of(ops)).await
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

    /// An opportunity is in quarantine: why, and how that ends.
    pub(super) fn second_opportunity(&self, id: RecordId) -> Op {
        let text = match self.connection.account.uniqueness() {
            Uniqueness::ConfirmSecond => UNCONFIRMED,
            Uniqueness::OneActivePerContact | Uniqueness::Unlimited => SECOND,
        };
        self.failure(Kind::Deal, &Key::Local(id), QUARANTINE, "second_opportunity", text.into())
    }

    /// Opportunities in quarantine whose place has become free take it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_quarantines(&self) -> Result<(), StoreError> {
        let account = &self.connection.account.name;
        let now = self.clock.now();
        // Where the policy has no such places, nobody can wait for one.
        let has_places = self.connection.account.uniqueness() != Uniqueness::Unlimited;
        if !has_places {
            return Ok(());
        }
        let free = self.store.quarantined(account, has_places, 100).await?;
        for before in self.store.records(account, Kind::Deal, &free).await? {
            let mut record = before.clone();
            if let LocalRecord::Deal(deal) = &mut record {
                deal.quarantined = false;
            }
            let Changed { mut ops, follow_up, .. } = self.change(now).of(Some(&before), record);
            let key = Key::Local(before.id());
            ops.push(Op::Mark(Mark::new(&self.connection.name, Kind::Deal, key, now, Reason::Propagate)));
            ops.extend(self.follow_up(follow_up).await?);
            match self.store.commit(&self.commit_of(ops)).await {
                // Of two that wait for one place the first has it now.
                Ok(()) | Err(StoreError::Taken { .. } | StoreError::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
                Disposition::PauseStream => now + ASK_AGAIN,
                _ => self.later(dirty.attempts),
            };
            if error.disposition() == Disposition::PauseStream {
                ops.push(self.failure(kind, &dirty.key, "", error.code(), error.to_string()));
            }
            ops.push(self.defer(dirty, until, true));
        }
        self.store.commit(&self.commit_of(ops)).await
    }
}

/// How often a record was tried before, by whichever of its marks was tried most.
pub(super) fn tries(dirty: &[Dirty]) -> u32 {
    dirty.iter().map(|dirty| dirty.attempts).max().unwrap_or(0)
}

/// Contacts of ours whose half at the vendor was found just now, made by a write whose outcome was not known.
fn recovered(kind: Kind, decided: &[Decided]) -> Vec<RecordId> {
    let is_found = |work: &Work| work.link.is_none() && matches!(work.fetched, Some(Fetched::Found(_)));
    let found = decided.iter().map(|one| &one.work).filter(|work| kind == Kind::Contact && is_found(work));
    found.filter_map(|work| work.local.as_ref().map(LocalRecord::id)).collect()
}
