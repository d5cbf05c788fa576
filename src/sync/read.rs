//! Reading both sides of a batch: links, our records, the vendor's, open intents, histories, people's answers.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{Call, ExternalId, Fetched, History, Kind, Lane, NewVisitor, Record, Value};

use super::reconcile::{Pageful, Reconciler, SyncError, Work};
use super::{
    lens::{Context, Lens, People},
    plan::plan,
    presence::OnRemoteDelete,
    twins::LANDS_WITHIN,
};
use crate::{
    model::{ConflictState, Dirty, Intent, Key, Link, LocalRecord, Reason, RecordId},
    store::{By, StoreError},
};

/// Merges that are followed one after the other.
pub(super) const MOST_MERGES: usize = 16;

impl Reconciler {
    /// Everything a decision looks at: links, our records, the vendor's, open intents, histories, people's answers. If a
    /// record was merged away, the rest is not read: merges are followed first.
    pub(super) async fn read_both_sides(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        mut works: Vec<Work>,
        began: DateTime<Utc>,
    ) -> Result<(Vec<Work>, People), SyncError> {
        let merged = |works: &[Work]| works.iter().any(|work| matches!(work.fetched, Some(Fetched::MergedInto(_))));
        for work in &mut works {
            let is_audit = |dirty: &Dirty| dirty.priority >= Reason::Audit.priority();
            work.is_news = call.lane != Lane::Backfill && !work.dirty.iter().all(is_audit);
        }
        self.fetch(call, kind, &mut works).await?;
        self.follow_markers(call, kind, &mut works).await?;
        self.follow_hearsay(call, kind, &mut works).await?;
        self.recognise_merges(kind, &mut works).await?;
        if merged(&works) {
            let people = self.people(kind, lens, &works).await?;
            return Ok((works, people));
        }
        self.adopt(kind, lens, &mut works).await?;
        self.load_intents(kind, &mut works).await?;
        self.probe_creates(call, kind, &mut works).await?;
        if merged(&works) {
            let people = self.people(kind, lens, &works).await?;
            return Ok((works, people));
        }
        self.read_histories(call, kind, lens, &mut works).await?;
        self.load_answers(&mut works).await?;
        self.load_dependents(kind, &mut works).await?;
        let people = self.people(kind, lens, &works).await?;
        let directory = self.directory();
        let context = Context { directory: &directory, people: &people };
        self.read_conflict_times(call, kind, lens, context, began, &mut works).await?;
        Ok((works, people))
    }

    /// Turns keys into records: aliases followed, links and our records loaded, two keys of one record joined.
    pub(super) async fn resolve(
        &self,
        kind: Kind,
        dirty: Vec<Dirty>,
        mut seen: Pageful,
    ) -> Result<Vec<Work>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let externals: Vec<ExternalId> = dirty
            .iter()
            .filter_map(|d| match &d.key {
                Key::External(id) => Some(id.clone()),
                Key::Local(_) => None,
            })
            .collect();
        let locals: Vec<RecordId> = dirty
            .iter()
            .filter_map(|d| match &d.key {
                Key::Local(id) => Some(*id),
                Key::External(_) => None,
            })
            .collect();
        let mut links: BTreeMap<RecordId, Link> = BTreeMap::new();
        let mut linked: BTreeSet<ExternalId> = BTreeSet::new();
        for link in self.links_to(kind, &externals).await? {
            linked.insert(link.external.clone());
            links.insert(link.local, link);
        }
        // An id that is linked still stands for itself, whatever was heard of it.
        let unlinked: Vec<ExternalId> = externals.into_iter().filter(|id| !linked.contains(id)).collect();
        let aliases: BTreeMap<ExternalId, ExternalId> =
            self.store.aliases(account, name, kind, &unlinked).await?.into_iter().collect();
        let canonical = |id: &ExternalId| {
            let (mut id, mut passed) = (id.clone(), BTreeSet::new());
            while let Some(next) = aliases.get(&id) {
                // What was heard may run in a circle.
                if !passed.insert(next.clone()) {
                    break;
                }
                id = next.clone();
            }
            id
        };
        let survivors: Vec<ExternalId> = aliases.keys().map(canonical).collect();
        links.extend(self.links_to(kind, &survivors).await?.into_iter().map(|link| (link.local, link)));
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
                fetched: external.as_ref().and_then(|id| seen.take(id, local.is_some())).map(Fetched::Found),
                external,
                intent: None,
                history: None,
                answers: BTreeMap::new(),
                conflicts: BTreeMap::new(),
                dependents: Vec::new(),
                is_news: true,
                twin: None,
            });
            work.dirty.push(dirty);
        }
        Ok(works.into_values().collect())
    }

    async fn links_to(&self, kind: Kind, ids: &[ExternalId]) -> Result<Vec<Link>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.store.links(&self.connection.account.name, &self.connection.name, kind, By::External(ids)).await
    }

    /// Records of the vendor's that were made for one of ours, or whose address is one of ours.
    pub(super) async fn known_here(
        &self,
        kind: Kind,
        lens: &Lens,
        records: Vec<&Record>,
    ) -> Result<Vec<Key>, StoreError> {
        let addresses = records.iter().filter_map(|record| address(kind, lens, record)).collect::<BTreeSet<String>>();
        let addresses: Vec<String> = addresses.into_iter().collect();
        let found = self.store.contacts_by_email(&self.connection.account.name, &addresses).await?;
        let found: BTreeSet<String> = found.into_iter().map(|(address, _)| address).collect();
        let is_known = |record: &&Record| {
            self.made_for(record).is_some() || address(kind, lens, record).is_some_and(|one| found.contains(&one))
        };
        Ok(records.into_iter().filter(is_known).map(|record| Key::External(record.id.clone())).collect())
    }

    /// Finds the record of ours that a vendor's unlinked record stands for: by our marker, else a contact by its address.
    pub(super) async fn adopt(&self, kind: Kind, lens: &Lens, works: &mut Vec<Work>) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut wanted: BTreeMap<usize, RecordId> = BTreeMap::new();
        let mut emails: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, work) in works.iter().enumerate() {
            let Some(Fetched::Found(record)) = &work.fetched else { continue };
            if work.local.is_some() || work.link.is_some() {
                continue;
            }
            if let Some(id) = self.made_for(record) {
                wanted.insert(index, id);
            } else if let Some(email) = address(kind, lens, record) {
                emails.entry(email).or_default().push(index);
            }
        }
        let emails_of: Vec<usize> = emails.values().flatten().copied().collect();
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
        let by_address: BTreeSet<usize> = emails_of.into_iter().filter(|index| wanted.contains_key(index)).collect();
        let mut joined = self.join_halves(works, &mut wanted, &by_address);
        if wanted.is_empty() {
            return Ok(());
        }
        let ids: Vec<RecordId> = wanted.values().copied().collect();
        let links = self.store.links(account, name, kind, By::Local(&ids)).await?;
        let linked: BTreeMap<RecordId, Link> = links.into_iter().map(|link| (link.local, link)).collect();
        let mut records: BTreeMap<RecordId, LocalRecord> =
            self.store.records(account, kind, &ids).await?.into_iter().map(|record| (record.id(), record)).collect();
        let taken: BTreeSet<RecordId> =
            works.iter().filter_map(|work| work.local.as_ref().map(LocalRecord::id)).collect();
        let mut seconds: Vec<usize> = Vec::new();
        for (index, id) in wanted {
            if !joined.insert(id) || taken.contains(&id) {
                // Two of this batch are one of ours: the second is looked at when the first is done with.
                seconds.push(index);
                continue;
            }
            let Some(local) = records.get(&id) else { continue };
            if by_address.contains(&index) && !self.is_same_person(&works[index], local) {
                continue;
            }
            // An address that two have makes neither of them a twin.
            let carries_marker = |work: &Work| matches!(&work.fetched, Some(Fetched::Found(record)) if self.made_for(record) == Some(id));
            let twin = match linked.get(&id) {
                _ if !carries_marker(&works[index]) => None,
                Some(link) => self.twin_of(&works[index], link, local),
                None if local.merged_into().is_some() => self.twin_of_heir(kind, &works[index], local).await?,
                None => None,
            };
            if !linked.contains_key(&id) && twin.is_none() && is_made_for(&works[index], local, self.skew) {
                works[index].local = records.remove(&id);
            }
            works[index].twin = twin;
        }
        let mut ops = Vec::new();
        for index in seconds.into_iter().rev() {
            let second = works.remove(index);
            ops.extend(second.dirty.into_iter().map(|dirty| self.defer(dirty, self.clock.now(), false)));
        }
        if !ops.is_empty() {
            self.store.commit(&self.commit_of(ops)).await?;
        }
        Ok(())
    }

    /// The record of ours whose marker this one carries.
    pub(super) fn made_for(&self, record: &Record) -> Option<RecordId> {
        record.marker.as_deref().and_then(|marker| self.connection.of_marker(marker))
    }

    /// Whether the contact that was read and has the address of this one of ours may be that person.
    fn is_same_person(&self, work: &Work, local: &LocalRecord) -> bool {
        let (Some(Fetched::Found(record)), LocalRecord::Contact(contact)) = (&work.fetched, local) else { return true };
        let ours = NewVisitor {
            id: None,
            marker: self.connection.marker(contact.id),
            first_name: contact.first_name.clone(),
            last_name: contact.last_name.clone(),
            email: contact.email.clone(),
            phone: contact.phone.clone(),
        };
        self.connection.connector.is_same_person(record, &ours)
    }

    /// Our record and the vendor's that turn out to be one, both in this batch and neither linked: one piece of work.
    fn join_halves(
        &self,
        works: &mut [Work],
        wanted: &mut BTreeMap<usize, RecordId>,
        by_address: &BTreeSet<usize>,
    ) -> BTreeSet<RecordId> {
        let mut joined = BTreeSet::new();
        let unlinked = |work: &Work| work.link.is_none() && work.external.is_none();
        for (theirs, id) in wanted.clone() {
            let ours = works
                .iter()
                .position(|work| unlinked(work) && work.local.as_ref().is_some_and(|local| local.id() == id))
                .filter(|ours| {
                    let local = works[*ours].local.as_ref();
                    !by_address.contains(&theirs)
                        || local.is_some_and(|local| self.is_same_person(&works[theirs], local))
                });
            if let Some(ours) = ours.filter(|_| joined.insert(id)) {
                let dirty = std::mem::take(&mut works[theirs].dirty);
                works[ours].dirty.extend(dirty);
                works[ours].external = works[theirs].external.take();
                works[ours].fetched = works[theirs].fetched.take();
                wanted.remove(&theirs);
            }
        }
        joined
    }

    pub(super) async fn load_intents(&self, kind: Kind, works: &mut [Work]) -> Result<(), StoreError> {
        let of = |work: &Work| work.local.as_ref().or(work.twin.as_ref().map(|twin| &twin.local)).map(LocalRecord::id);
        let locals: Vec<RecordId> = works.iter().filter_map(of).collect();
        if locals.is_empty() {
            return Ok(());
        }
        let intents = self.store.intents(&self.connection.account.name, &self.connection.name, kind, &locals).await?;
        let intents: BTreeMap<RecordId, Intent> = intents.into_iter().map(|intent| (intent.local, intent)).collect();
        for work in works {
            work.intent = of(work).and_then(|local| intents.get(&local).cloned());
        }
        Ok(())
    }

    /// What people decided about rows on hold.
    pub(super) async fn load_answers(&self, works: &mut [Work]) -> Result<(), StoreError> {
        for work in works {
            let Some(link) = &work.link else { continue };
            for (row, hold) in &link.holds {
                let Some(id) = hold.conflict else { continue };
                let conflict = self.store.conflict(&self.connection.account.name, id).await?;
                let Some(conflict) = conflict else { continue };
                if conflict.state == ConflictState::Resolved {
                    work.answers.insert(row.clone(), conflict.winner);
                }
                work.conflicts.insert(row.clone(), conflict);
            }
        }
        Ok(())
    }

    /// The opportunities of contacts that were deleted at the vendor, where that deletes them here.
    async fn load_dependents(&self, kind: Kind, works: &mut [Work]) -> Result<(), StoreError> {
        if kind != Kind::Contact || self.connection.on_remote_delete != OnRemoteDelete::Delete {
            return Ok(());
        }
        let account = &self.connection.account.name;
        for work in works.iter_mut().filter(|work| matches!(work.fetched, Some(Fetched::Archived | Fetched::Gone))) {
            let Some(contact) = work.local.as_ref().map(LocalRecord::id) else { continue };
            let ids = self.store.opportunities_of(account, &[contact]).await?;
            work.dependents = self.store.records(account, Kind::Deal, &ids).await?;
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
        let mut pairs = Vec::new();
        if !theirs.is_empty() {
            pairs = self.store.pairs(account, name, Kind::Contact, By::External(&theirs)).await?;
        }
        if !ours.is_empty() {
            pairs.extend(self.store.pairs(account, name, Kind::Contact, By::Local(&ours)).await?);
        }
        for (local, external) in pairs {
            people.to_local.insert(external.to_string(), local);
            people.to_remote.insert(local, external.to_string());
        }
        // One that was merged away here goes on as the one it was merged into.
        let unlinked: Vec<RecordId> = ours.into_iter().filter(|id| !people.to_remote.contains_key(id)).collect();
        let unlinked = match unlinked.is_empty() {
            true => Vec::new(),
            false => self.store.records(account, Kind::Contact, &unlinked).await?,
        };
        for lost in unlinked.into_iter().filter(|contact| contact.merged_into().is_some()) {
            let Some(kept) = self.heir_of(Kind::Contact, lost.id()).await?.filter(|kept| !kept.is_deleted()) else {
                continue;
            };
            people.merged.insert(lost.id(), kept.id());
            for (local, external) in self.store.pairs(account, name, Kind::Contact, By::Local(&[kept.id()])).await? {
                people.to_local.insert(external.to_string(), local);
                people.to_remote.insert(local, external.to_string());
                people.to_remote.insert(lost.id(), external.to_string());
            }
        }
        // A contact that was merged away at the vendor goes on under its new id.
        let unknown: Vec<ExternalId> =
            theirs.into_iter().filter(|id| !people.to_local.contains_key(id.as_str())).collect();
        if unknown.is_empty() {
            return Ok(people);
        }
        for (old, new) in self.store.aliases(account, name, Kind::Contact, &unknown).await? {
            if let Some(local) = people.to_local.get(new.as_str()).copied() {
                people.to_local.insert(old.to_string(), local);
            }
        }
        Ok(people)
    }

    /// Where `newest` has to decide, when the vendor's side was stated.
    pub(super) async fn read_conflict_times(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        works: &mut Vec<Work>,
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
        let ids: BTreeSet<ExternalId> = asked.iter().map(|(_, id)| id.clone()).collect();
        self.read_history(call, kind, works, asked, properties).await?;
        // A vendor that tells no times has stated nothing that is later.
        let was_asked =
            |work: &&mut Work| matches!(&work.fetched, Some(Fetched::Found(record)) if ids.contains(&record.id));
        for work in works.iter_mut().filter(was_asked) {
            work.history.get_or_insert_with(History::new);
        }
        Ok(())
    }
}

/// A contact's address as it is looked for.
fn address(kind: Kind, lens: &Lens, record: &Record) -> Option<String> {
    let row = lens.rows.iter().find(|row| kind == Kind::Contact && row.name == "email")?;
    Some(record.property(&row.properties[0].0).as_text()?.trim().to_lowercase())
}

/// Whether a record that carries the marker of one of ours was made for it: if ours was deleted since, not long after that.
/// Later it is a copy that people made of what is theirs alone by now.
fn is_made_for(work: &Work, local: &LocalRecord, skew: TimeDelta) -> bool {
    let Some(Fetched::Found(record)) = &work.fetched else { return true };
    match (local.deleted_at(), record.created_at) {
        (Some(deleted), Some(made)) => made - skew <= deleted + LANDS_WITHIN,
        _ => true,
    }
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
