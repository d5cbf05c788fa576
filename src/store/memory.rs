//! The store in memory, with the crash semantics of the real one: a commit that answered is durable, one that did not
//! answer happened wholly or not at all. For the simulation.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tandem_contract::{
    Cursor, ExternalId, Kind, NewCheckout,
    planted::{self, Bug},
};

use super::{By, CHECKOUTS_KEPT, Commit, EVENTS_KEPT, GuardEvent, Op, StoreError, SyncStore, Taken};
use crate::model::{
    Conflict, ConnectionRow, Dirty, Evidence, EvidenceState, Failure, HistoryEntry, Intent, Key, Link, LocalRecord,
    Name, Pipeline, RecordId, StageMap, Visit,
    ids::{ConflictId, FailureId, IntentId, PipelineId},
};

type Owned = (Name, Name);

#[derive(Clone, Default)]
struct State {
    records: BTreeMap<(Name, Kind, RecordId), LocalRecord>,
    slots: BTreeMap<(Name, String), RecordId>,
    waiting_slots: BTreeMap<(Name, RecordId), String>,
    references: BTreeMap<(Name, String), RecordId>,
    links: BTreeMap<(Owned, Kind, RecordId), Link>,
    externals: BTreeMap<(Name, String, String, Kind, ExternalId), (Name, RecordId)>,
    link_owner: BTreeMap<(Owned, Kind, RecordId), (String, String)>,
    by_external: BTreeMap<(Owned, Kind, ExternalId), RecordId>,
    aliases: BTreeMap<(Owned, Kind, ExternalId), ExternalId>,
    dirty: BTreeMap<(Owned, Kind, Key), Dirty>,
    intents: BTreeMap<(Name, IntentId), Intent>,
    intent_of: BTreeMap<(Owned, Kind, RecordId), IntentId>,
    cursors: BTreeMap<(Owned, String), Cursor>,
    conflicts: BTreeMap<(Name, ConflictId), Conflict>,
    fingerprints: BTreeMap<(Name, String), ConflictId>,
    history: BTreeMap<(Name, Kind, RecordId), Vec<HistoryEntry>>,
    failures: BTreeMap<(Name, FailureId), Failure>,
    failure_of: BTreeMap<(Owned, Kind, Key, String), FailureId>,
    pipelines: BTreeMap<(Name, PipelineId), (i64, Pipeline)>,
    stage_maps: BTreeMap<(Owned, String, String), StageMap>,
    connections: BTreeMap<Owned, ConnectionRow>,
    epochs: BTreeMap<Owned, i64>,
    guards: BTreeMap<(Owned, String), GuardEvent>,
    evidence: BTreeMap<(Owned, ExternalId), Evidence>,
    visits: BTreeMap<(Owned, ExternalId), Visit>,
    checkouts: BTreeMap<(Owned, String), (DateTime<Utc>, NewCheckout)>,
    events: BTreeMap<(Owned, ExternalId), DateTime<Utc>>,
    bookings: BTreeMap<(Name, RecordId), DateTime<Utc>>,
    leases: BTreeMap<i64, (String, i64, DateTime<Utc>)>,
}

/// Everything in maps.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every record of a kind, for the checkers of the simulation.
    #[must_use]
    pub fn all(&self, account: &Name, kind: Kind) -> Vec<LocalRecord> {
        let state = self.lock();
        state
            .records
            .iter()
            .filter(|((a, k, _), _)| a == account && *k == kind)
            .map(|(_, record)| record.clone())
            .collect()
    }

    /// Every link of a connection.
    #[must_use]
    pub fn all_links(&self, account: &Name, connection: &Name) -> Vec<Link> {
        let owned = (account.clone(), connection.clone());
        self.lock().links.iter().filter(|((o, ..), _)| *o == owned).map(|(_, link)| link.clone()).collect()
    }

    /// Every mark of a connection.
    #[must_use]
    pub fn all_dirty(&self, account: &Name, connection: &Name) -> Vec<Dirty> {
        let owned = (account.clone(), connection.clone());
        self.lock().dirty.iter().filter(|((o, ..), _)| *o == owned).map(|(_, dirty)| dirty.clone()).collect()
    }
}

/// Undoes one map entry.
type Undo = Box<dyn FnOnce(&mut State) + Send>;

macro_rules! put {
    ($state:ident, $undo:ident, $map:ident, $key:expr, $value:expr) => {{
        let key = $key;
        let old = $state.$map.insert(key.clone(), $value);
        $undo.push(Box::new(move |state: &mut State| {
            match old {
                Some(old) => state.$map.insert(key, old),
                None => state.$map.remove(&key),
            };
        }) as Undo);
    }};
}

macro_rules! take {
    ($state:ident, $undo:ident, $map:ident, $key:expr) => {{
        let key = $key;
        let old = $state.$map.remove(&key);
        if let Some(old) = old.clone() {
            $undo.push(Box::new(move |state: &mut State| {
                state.$map.insert(key, old);
            }) as Undo);
        }
        old
    }};
}

fn apply(state: &mut State, account: &Name, op: Op, undo: &mut Vec<Undo>) -> Result<(), StoreError> {
    let owned = |connection: &Name| (account.clone(), connection.clone());
    match op {
        Op::PutRecord { record, expected, slot } => put_record(state, account, record, expected, slot, undo)?,
        Op::PutLink { mut link, system, remote_account } => {
            let key = (owned(&link.connection), link.kind, link.local);
            let external = (account.clone(), system.clone(), remote_account.clone(), link.kind, link.external.clone());
            let mine = (link.connection.clone(), link.local);
            if state.externals.get(&external).is_some_and(|holder| *holder != mine) {
                return Err(StoreError::Taken { what: Taken::ExternalId });
            }
            if let Some(old) = state.links.get(&key).cloned() {
                drop_external(state, account, &key, &old, undo);
                link.rulings = old.rulings;
            }
            put!(state, undo, externals, external, mine);
            put!(state, undo, by_external, (key.0.clone(), link.kind, link.external.clone()), link.local);
            put!(state, undo, link_owner, key.clone(), (system, remote_account));
            put!(state, undo, links, key, link);
        }
        Op::UpdateLink(link) => {
            let key = (owned(&link.connection), link.kind, link.local);
            if state.links.get(&key).is_none_or(|old| old.external != link.external || old.rulings != link.rulings) {
                return Err(StoreError::Stale { kind: link.kind, id: link.local });
            }
            put!(state, undo, links, key, link);
        }
        Op::RuleOnLink { connection, kind, local, ruling } => {
            let key = (owned(&connection), kind, local);
            if let Some(mut link) = state.links.get(&key).cloned() {
                link.rule(ruling);
                put!(state, undo, links, key, link);
            }
        }
        Op::RemoveLink { connection, kind, local } => {
            let key = (owned(&connection), kind, local);
            if let Some(old) = take!(state, undo, links, key.clone()) {
                drop_external(state, account, &key, &old, undo);
            }
        }
        Op::PutAlias { connection, kind, old, new } => put!(state, undo, aliases, (owned(&connection), kind, old), new),
        Op::Mark(mark) => {
            let key = (owned(&mark.connection), mark.kind, mark.key.clone());
            let next = match state.dirty.get(&key) {
                Some(old) => Dirty {
                    generation: old.generation + 1,
                    due_at: old.due_at.min(mark.due_at),
                    priority: old.priority.min(mark.priority),
                    ..old.clone()
                },
                None => Dirty {
                    kind: mark.kind,
                    key: mark.key,
                    generation: 1,
                    due_at: mark.due_at,
                    priority: mark.priority,
                    attempts: 0,
                },
            };
            put!(state, undo, dirty, key, next);
        }
        Op::Finish { connection, dirty } => {
            let key = (owned(&connection), dirty.kind, dirty.key.clone());
            let ends = |now: &Dirty| now.generation == dirty.generation || planted::has(Bug::GenerationIgnored);
            if state.dirty.get(&key).is_some_and(ends) {
                take!(state, undo, dirty, key);
            }
        }
        Op::Defer { connection, dirty, until, failed } => {
            let key = (owned(&connection), dirty.kind, dirty.key.clone());
            if let Some(now) = state.dirty.get(&key).filter(|now| now.generation == dirty.generation) {
                let next = Dirty { due_at: until, attempts: now.attempts + u32::from(failed), ..now.clone() };
                put!(state, undo, dirty, key, next);
            }
        }
        Op::PutIntent(intent) => {
            let of = (owned(&intent.connection), intent.kind, intent.local);
            if state.intent_of.get(&of).is_some_and(|open| *open != intent.id) {
                return Err(StoreError::Taken { what: Taken::Intent });
            }
            put!(state, undo, intent_of, of, intent.id);
            put!(state, undo, intents, (account.clone(), intent.id), intent);
        }
        Op::DropIntent(id) => {
            if let Some(old) = take!(state, undo, intents, (account.clone(), id)) {
                take!(state, undo, intent_of, (owned(&old.connection), old.kind, old.local));
            }
        }
        Op::PutCursor { connection, stream, cursor } => {
            put!(state, undo, cursors, (owned(&connection), stream), cursor)
        }
        Op::AddConflict(conflict) => {
            let print = (account.clone(), conflict.fingerprint());
            if !state.fingerprints.contains_key(&print) {
                put!(state, undo, fingerprints, print, conflict.id);
                put!(state, undo, conflicts, (account.clone(), conflict.id), conflict);
            }
        }
        Op::PutConflict(conflict) => put!(state, undo, conflicts, (account.clone(), conflict.id), conflict),
        Op::AddHistory(entry) => {
            let key = (account.clone(), entry.kind, entry.record);
            let mut all = state.history.get(&key).cloned().unwrap_or_default();
            all.push(entry);
            put!(state, undo, history, key, all);
        }
        Op::PutFailure(failure) => {
            let key: Key = failure.key.parse().map_err(|_| corrupt("failure", &failure.key))?;
            let of = (owned(&failure.connection), failure.kind, key, failure.row.clone());
            let next = match state.failure_of.get(&of).and_then(|id| state.failures.get(&(account.clone(), *id))) {
                Some(old) => Failure { id: old.id, first_at: old.first_at, attempts: old.attempts + 1, ..failure },
                None => failure,
            };
            put!(state, undo, failure_of, of, next.id);
            put!(state, undo, failures, (account.clone(), next.id), next);
        }
        Op::DropFailures { connection, kind, key, row } => {
            let of = owned(&connection);
            let gone: Vec<_> = state
                .failure_of
                .keys()
                .filter(|(o, k, record, r)| {
                    *o == of && *k == kind && *record == key && row.as_ref().is_none_or(|row| row == r)
                })
                .cloned()
                .collect();
            for key in gone {
                if let Some(id) = take!(state, undo, failure_of, key) {
                    take!(state, undo, failures, (account.clone(), id));
                }
            }
        }
        Op::PutPipeline(pipeline, place) => {
            let key = (account.clone(), pipeline.id);
            let stored = state.pipelines.get(&key).map_or(0, |(_, stored)| stored.version);
            let mut others = state.pipelines.iter().filter(|((of, id), _)| of == account && *id != pipeline.id);
            if stored != pipeline.version - 1 || others.any(|(_, (taken, _))| *taken == place) {
                return Err(StoreError::Outdated(format!("pipeline {}", pipeline.label)));
            }
            put!(state, undo, pipelines, key, (place, pipeline));
        }
        Op::PutStageMap(map) => {
            let key = (owned(&map.connection), map.remote_pipeline.clone(), map.remote_stage.clone());
            put!(state, undo, stage_maps, key, map);
        }
        Op::PutConnection(row) => {
            let key = (account.clone(), row.name.clone());
            if state.connections.get(&key).is_some_and(|stored| stored.version != row.version - 1) {
                return Err(StoreError::Outdated(format!("connection {}", row.name)));
            }
            put!(state, undo, connections, key, row);
        }
        Op::PutEvidence(evidence) => {
            let key = (owned(&evidence.connection), evidence.sale.clone());
            if state.evidence.get(&key).map_or(0, |stored| stored.version) != evidence.version - 1 {
                return Err(StoreError::Outdated(format!("sale {}", evidence.id())));
            }
            put!(state, undo, evidence, key, evidence);
        }
        Op::PutVisit(visit) => {
            let key = (owned(&visit.connection), visit.visit.clone());
            if state.visits.get(&key).map_or(0, |stored| stored.version) != visit.version - 1 {
                return Err(StoreError::Outdated(format!("visit {}", visit.id())));
            }
            put!(state, undo, visits, key, visit);
        }
        Op::KeepCheckout { connection, new, asked_at } => {
            let key = (owned(&connection), new.key.clone());
            if !state.checkouts.contains_key(&key) {
                put!(state, undo, checkouts, key, (asked_at, new));
            }
        }
        Op::KeepEvent { connection, event, taken_at } => {
            let key = (owned(&connection), event);
            if !state.events.contains_key(&key) {
                put!(state, undo, events, key, taken_at);
            }
        }
        Op::DropOld { now } => {
            let taken =
                state.events.iter().filter(|(((of, _), _), taken)| of == account && **taken < now - EVENTS_KEPT);
            let old: Vec<_> = taken.map(|(key, _)| key.clone()).collect();
            for key in old {
                take!(state, undo, events, key);
            }
            let is_old = |asked_at: &DateTime<Utc>| *asked_at < now - CHECKOUTS_KEPT;
            let mine = state.checkouts.iter().filter(|(((of, _), _), (asked_at, _))| of == account && is_old(asked_at));
            let old: Vec<_> = mine.map(|(key, _)| key.clone()).collect();
            for key in old {
                take!(state, undo, checkouts, key);
            }
        }
        Op::BeginBooking { opportunity, now, until } => {
            let key = (account.clone(), opportunity);
            if state.bookings.get(&key).is_some_and(|other| *other > now) {
                return Err(StoreError::Outdated(format!("booking of {opportunity}")));
            }
            put!(state, undo, bookings, key, until);
        }
        Op::EndBooking { opportunity, until } => {
            let key = (account.clone(), opportunity);
            if state.bookings.get(&key) == Some(&until) {
                take!(state, undo, bookings, key);
            }
        }
        Op::DropCheckout { connection, key } => drop(take!(state, undo, checkouts, (owned(&connection), key))),
        Op::PutGuard(event) => put!(state, undo, guards, (owned(&event.connection), event.class.clone()), event),
    }
    Ok(())
}

fn drop_external(state: &mut State, account: &Name, key: &(Owned, Kind, RecordId), link: &Link, undo: &mut Vec<Undo>) {
    if let Some((system, remote_account)) = take!(state, undo, link_owner, key.clone()) {
        take!(state, undo, externals, (account.clone(), system, remote_account, link.kind, link.external.clone()));
    }
    take!(state, undo, by_external, (key.0.clone(), link.kind, link.external.clone()));
}

fn put_record(
    state: &mut State,
    account: &Name,
    record: LocalRecord,
    expected: i64,
    slot: Option<String>,
    undo: &mut Vec<Undo>,
) -> Result<(), StoreError> {
    let (kind, id) = (record.kind(), record.id());
    let key = (account.clone(), kind, id);
    let old = state.records.get(&key).cloned();
    if old.as_ref().map_or(0, LocalRecord::version) != expected {
        return Err(StoreError::Stale { kind, id });
    }
    if kind == Kind::Deal {
        let reference = record.as_opportunity().and_then(|deal| deal.live_reference().map(str::to_owned));
        let waits = record.as_opportunity().is_some_and(|deal| deal.quarantined);
        let (slot, waiting) = if waits { (None, slot) } else { (slot, None) };
        if let Some(slot) = &slot
            && state.slots.get(&(account.clone(), slot.clone())).is_some_and(|holder| *holder != id)
        {
            return Err(StoreError::Taken { what: Taken::ActivePlace });
        }
        if let Some(reference) = &reference
            && state.references.get(&(account.clone(), reference.clone())).is_some_and(|holder| *holder != id)
        {
            return Err(StoreError::Taken { what: Taken::ExternalReference });
        }
        let held: Vec<_> = state
            .slots
            .iter()
            .filter(|((a, _), holder)| a == account && **holder == id)
            .map(|(k, _)| k.clone())
            .collect();
        for place in held {
            take!(state, undo, slots, place);
        }
        let referred = old.as_ref().and_then(|old| old.as_opportunity()?.live_reference().map(str::to_owned));
        if let Some(old) = referred {
            take!(state, undo, references, (account.clone(), old));
        }
        take!(state, undo, waiting_slots, (account.clone(), id));
        if let Some(waiting) = waiting {
            put!(state, undo, waiting_slots, (account.clone(), id), waiting);
        }
        if let Some(slot) = slot {
            put!(state, undo, slots, (account.clone(), slot), id);
        }
        if let Some(reference) = reference {
            put!(state, undo, references, (account.clone(), reference), id);
        }
    }
    put!(state, undo, records, key, record);
    Ok(())
}

fn corrupt(table: &'static str, row: &str) -> StoreError {
    StoreError::Corrupt { table, row: row.to_owned(), why: "does not parse".into() }
}

#[async_trait]
impl SyncStore for MemoryStore {
    async fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(fence) = &commit.fence
            && state
                .epochs
                .get(&(commit.account.clone(), fence.connection.clone()))
                .is_some_and(|epoch| *epoch != fence.epoch)
        {
            return Err(StoreError::Fenced);
        }
        let mut undo = Vec::new();
        for op in &commit.ops {
            if let Err(error) = apply(state, &commit.account, op.clone(), &mut undo) {
                while let Some(step) = undo.pop() {
                    step(state);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn due(
        &self,
        account: &Name,
        connection: &Name,
        kind: Option<Kind>,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<Dirty>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        let mut due: Vec<&Dirty> =
            state.dirty.iter().filter(|((o, ..), d)| *o == owned && d.due_at <= now).map(|(_, d)| d).collect();
        due.sort_by(|a, b| (a.kind, a.priority, a.due_at, &a.key).cmp(&(b.kind, b.priority, b.due_at, &b.key)));
        let kind = kind.or_else(|| due.first().map(|dirty| dirty.kind));
        Ok(due.into_iter().filter(|dirty| Some(dirty.kind) == kind).take(limit).cloned().collect())
    }

    async fn opportunities_of(&self, account: &Name, contacts: &[RecordId]) -> Result<Vec<RecordId>, StoreError> {
        let state = self.lock();
        let named = |record: &LocalRecord| {
            let deal = record.as_opportunity().filter(|deal| deal.deleted_at.is_none());
            deal.and_then(|deal| deal.contact).is_some_and(|contact| contacts.contains(&contact))
        };
        let mine = state.records.iter().filter(|((a, ..), record)| a == account && named(record));
        Ok(mine.map(|((.., id), _)| *id).collect())
    }

    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Result<Vec<RecordId>, StoreError> {
        let state = self.lock();
        let is_free = |slot: &String| !state.slots.contains_key(&(account.clone(), slot.clone()));
        let waiting = state.waiting_slots.iter().filter(|((a, _), slot)| a == account && (!free_only || is_free(slot)));
        Ok(waiting.map(|((_, id), _)| *id).take(limit).collect())
    }

    async fn next_due(&self, account: &Name, connection: &Name) -> Result<Option<DateTime<Utc>>, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok(self.lock().dirty.iter().filter(|((o, ..), _)| *o == owned).map(|(_, dirty)| dirty.due_at).min())
    }

    async fn links(&self, account: &Name, connection: &Name, kind: Kind, by: By<'_>) -> Result<Vec<Link>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        let locals: Vec<RecordId> = match by {
            By::Local(ids) => ids.to_vec(),
            By::External(ids) => {
                ids.iter().filter_map(|id| state.by_external.get(&(owned.clone(), kind, id.clone())).copied()).collect()
            }
        };
        Ok(locals.into_iter().filter_map(|local| state.links.get(&(owned.clone(), kind, local)).cloned()).collect())
    }

    async fn pairs(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        by: By<'_>,
    ) -> Result<Vec<(RecordId, ExternalId)>, StoreError> {
        let links = self.links(account, connection, kind, by).await?;
        Ok(links.into_iter().map(|link| (link.local, link.external)).collect())
    }

    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Link>, StoreError> {
        let owned = (account.clone(), connection.clone());
        let state = self.lock();
        let all = state
            .links
            .iter()
            .filter(|((o, k, id), _)| *o == owned && *k == kind && after.is_none_or(|after| *id > after));
        Ok(all.take(limit).map(|(_, link)| link.clone()).collect())
    }

    async fn unlinked_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError> {
        let owned = (account.clone(), connection.clone());
        let state = self.lock();
        let unlinked = state.records.iter().filter(|((of, k, id), record)| {
            of == account
                && *k == kind
                && after.is_none_or(|after| *id > after)
                && !record.is_deleted()
                && !state.links.contains_key(&(owned.clone(), kind, *id))
        });
        Ok(unlinked.take(limit).map(|((.., id), _)| *id).collect())
    }

    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Result<Vec<LocalRecord>, StoreError> {
        let state = self.lock();
        Ok(ids.iter().filter_map(|id| state.records.get(&(account.clone(), kind, *id)).cloned()).collect())
    }

    async fn contacts_by_email(
        &self,
        account: &Name,
        emails: &[String],
    ) -> Result<Vec<(String, RecordId)>, StoreError> {
        let state = self.lock();
        let contacts = state.records.iter().filter(|((a, kind, _), _)| a == account && *kind == Kind::Contact);
        Ok(contacts
            .filter_map(|(_, record)| match record {
                LocalRecord::Contact(contact) if contact.deleted_at.is_none() => {
                    Some((contact.email_key()?, contact.id))
                }
                _ => None,
            })
            .filter(|(email, _)| emails.contains(email))
            .collect())
    }

    async fn contacts_by_phone(&self, account: &Name, tail: &str) -> Result<Vec<RecordId>, StoreError> {
        let state = self.lock();
        let contacts = state.records.iter().filter(|((a, kind, _), _)| a == account && *kind == Kind::Contact);
        let has = |record: &LocalRecord| match record {
            LocalRecord::Contact(contact) => {
                contact.deleted_at.is_none() && contact.phone_tail().as_deref() == Some(tail)
            }
            LocalRecord::Deal(_) => false,
        };
        Ok(contacts.filter(|(_, record)| has(record)).map(|((.., id), _)| *id).collect())
    }

    async fn evidence(
        &self,
        account: &Name,
        connection: &Name,
        sales: &[ExternalId],
    ) -> Result<Vec<Evidence>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        Ok(sales.iter().filter_map(|sale| state.evidence.get(&(owned.clone(), sale.clone())).cloned()).collect())
    }

    async fn evidence_for(&self, account: &Name, opportunity: RecordId) -> Result<Vec<Evidence>, StoreError> {
        let state = self.lock();
        let all =
            state.evidence.iter().filter(|(((a, _), _), one)| a == account && one.opportunity == Some(opportunity));
        Ok(all.map(|(_, one)| one.clone()).collect())
    }

    async fn checkout(&self, account: &Name, connection: &Name, key: &str) -> Result<Option<NewCheckout>, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok(self.lock().checkouts.get(&(owned, key.to_owned())).map(|(_, new)| new.clone()))
    }

    async fn has_event(&self, account: &Name, connection: &Name, event: &ExternalId) -> Result<bool, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok(self.lock().events.contains_key(&(owned, event.clone())))
    }

    async fn visits(&self, account: &Name, connection: &Name, ids: &[ExternalId]) -> Result<Vec<Visit>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        Ok(ids.iter().filter_map(|id| state.visits.get(&(owned.clone(), id.clone())).cloned()).collect())
    }

    async fn visits_of(&self, account: &Name, contact: RecordId) -> Result<Vec<Visit>, StoreError> {
        let state = self.lock();
        let all = state.visits.iter().filter(|(((a, _), _), one)| a == account && one.contacts.contains(&contact));
        Ok(all.map(|(_, one)| one.clone()).collect())
    }

    async fn evidence_in(
        &self,
        account: &Name,
        state: EvidenceState,
        limit: usize,
    ) -> Result<Vec<Evidence>, StoreError> {
        let stored = self.lock();
        let all = stored.evidence.iter().filter(|(((a, _), _), one)| a == account && one.state == state);
        let mut all: Vec<Evidence> = all.map(|(_, one)| one.clone()).collect();
        all.sort_by(|a, b| b.sold_at.cmp(&a.sold_at).then_with(|| a.sale.cmp(&b.sale)));
        all.truncate(limit);
        Ok(all)
    }

    async fn intents(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        locals: &[RecordId],
    ) -> Result<Vec<Intent>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        let ids = locals.iter().filter_map(|local| state.intent_of.get(&(owned.clone(), kind, *local)));
        Ok(ids.filter_map(|id| state.intents.get(&(account.clone(), *id)).cloned()).collect())
    }

    async fn open_intents(&self, account: &Name, connection: &Name) -> Result<Vec<Intent>, StoreError> {
        let state = self.lock();
        Ok(state
            .intents
            .iter()
            .filter(|((a, _), i)| a == account && i.connection == *connection)
            .map(|(_, i)| i.clone())
            .collect())
    }

    async fn aliases(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Result<Vec<(ExternalId, ExternalId)>, StoreError> {
        let state = self.lock();
        let owned = (account.clone(), connection.clone());
        Ok(ids
            .iter()
            .filter_map(|id| Some((id.clone(), state.aliases.get(&(owned.clone(), kind, id.clone()))?.clone())))
            .collect())
    }

    async fn cursor(&self, account: &Name, connection: &Name, stream: &str) -> Result<Option<Cursor>, StoreError> {
        Ok(self.lock().cursors.get(&((account.clone(), connection.clone()), stream.to_owned())).cloned())
    }

    async fn pipelines(&self, account: &Name) -> Result<Vec<Pipeline>, StoreError> {
        let state = self.lock();
        let mut all: Vec<&(i64, Pipeline)> =
            state.pipelines.iter().filter(|((a, _), _)| a == account).map(|(_, p)| p).collect();
        all.sort_by_key(|(place, pipeline)| (*place, pipeline.id));
        Ok(all.into_iter().map(|(_, pipeline)| pipeline.clone()).collect())
    }

    async fn stage_maps(&self, account: &Name, connection: &Name) -> Result<Vec<StageMap>, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok(self.lock().stage_maps.iter().filter(|((o, ..), _)| *o == owned).map(|(_, map)| map.clone()).collect())
    }

    async fn connection(&self, account: &Name, connection: &Name) -> Result<Option<ConnectionRow>, StoreError> {
        Ok(self.lock().connections.get(&(account.clone(), connection.clone())).cloned())
    }

    async fn conflicts(&self, account: &Name, open_only: bool, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let state = self.lock();
        let all = state.conflicts.iter().rev().filter(|((a, _), _)| a == account).map(|(_, conflict)| conflict);
        Ok(all.filter(|c| !open_only || c.state == crate::model::ConflictState::Open).take(limit).cloned().collect())
    }

    async fn conflict(&self, account: &Name, id: ConflictId) -> Result<Option<Conflict>, StoreError> {
        Ok(self.lock().conflicts.get(&(account.clone(), id)).cloned())
    }

    async fn failures(&self, account: &Name, limit: usize) -> Result<Vec<Failure>, StoreError> {
        let state = self.lock();
        Ok(state.failures.iter().rev().filter(|((a, _), _)| a == account).map(|(_, f)| f.clone()).take(limit).collect())
    }

    async fn history(&self, account: &Name, kind: Kind, record: RecordId) -> Result<Vec<HistoryEntry>, StoreError> {
        Ok(self.lock().history.get(&(account.clone(), kind, record)).cloned().unwrap_or_default())
    }

    async fn guard_events(&self, account: &Name, connection: &Name) -> Result<Vec<GuardEvent>, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok(self.lock().guards.iter().filter(|((o, _), _)| *o == owned).map(|(_, event)| event.clone()).collect())
    }

    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind, most: u64) -> Result<u64, StoreError> {
        let owned = (account.clone(), connection.clone());
        Ok((self.lock().links.keys().filter(|(o, k, _)| *o == owned && *k == kind).count() as u64).min(most))
    }

    async fn take_lease(
        &self,
        shard: i64,
        account: &Name,
        connection: &Name,
        owner: &str,
        now: DateTime<Utc>,
        expires: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let mut state = self.lock();
        let old = state.leases.get(&shard).cloned();
        if old.as_ref().is_some_and(|(holder, _, until)| holder != owner && *until > now) {
            return Ok(None);
        }
        let epoch = old.map_or(0, |(_, epoch, _)| epoch) + 1;
        state.leases.insert(shard, (owner.to_owned(), epoch, expires));
        state.epochs.insert((account.clone(), connection.clone()), epoch);
        Ok(Some(epoch))
    }

    async fn renew_lease(
        &self,
        shard: i64,
        owner: &str,
        epoch: i64,
        expires: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut state = self.lock();
        match state.leases.get_mut(&shard) {
            Some(lease) if lease.0 == owner && lease.1 == epoch => {
                lease.2 = expires;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}
