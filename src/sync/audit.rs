//! The audit: read every record of the vendor and every link of ours, and compare.
//!
//! It finds what every feed missed: a merge whose webhook was lost, an archive the bin no longer shows, an association
//! that moved no time. It writes nothing itself; what differs is marked dirty and goes the usual road. Its drift count
//! is the measure of how much can be trusted in the feeds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tandem_contract::{Call, Cursor, ExternalId, Kind, Lane, Record, Seen, Value};

use super::{
    lens::Direction,
    plan::remote_values,
    reconcile::{Reconciler, SyncError},
};
use crate::{
    model::{Key, Link, LinkState, LocalRecord, Mark, Reason, RecordId},
    store::{By, Op},
};

/// Links looked at in one page.
const PAGE: usize = 1_000;

/// What an audit of one kind found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Records the vendor listed.
    pub listed: u64,
    /// Links compared.
    pub linked: u64,
    /// Records of the vendor that are not linked here.
    pub not_taken_in: u64,
    /// Records that differ from the last agreement on either side.
    pub different: u64,
    /// Links whose record the vendor did not list.
    pub not_listed: u64,
    /// Some of them, for people: the vendor's ids.
    pub sample: Vec<String>,
}

impl Drift {
    /// How many records are not in step.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.not_taken_in + self.different + self.not_listed
    }
}

/// An audit on its way: one page of the vendor's, or one page of our links, at a time, so that other work goes between.
pub struct Audit {
    mark: bool,
    kinds: Vec<Kind>,
    seen: BTreeSet<ExternalId>,
    cursor: Cursor,
    links_after: Option<RecordId>,
    listed_all: bool,
    /// What was found so far.
    pub found: BTreeMap<Kind, Drift>,
}

impl Audit {
    /// Of these kinds; marks what differs if `mark` is set.
    #[must_use]
    pub fn new(mut kinds: Vec<Kind>, mark: bool) -> Self {
        kinds.reverse();
        Self {
            mark,
            kinds,
            seen: BTreeSet::new(),
            cursor: Cursor::start(),
            links_after: None,
            listed_all: false,
            found: BTreeMap::new(),
        }
    }
}

impl Reconciler {
    /// One step of an audit; false when there is none left.
    ///
    /// # Errors
    /// [`SyncError`]; the same step can be tried again.
    pub async fn audit_step(&self, audit: &mut Audit) -> Result<bool, SyncError> {
        let Some(kind) = audit.kinds.last().copied() else { return Ok(false) };
        let mut drift = audit.found.get(&kind).cloned().unwrap_or_default();
        if audit.listed_all {
            let after = self.compare_links(kind, &audit.seen, audit.links_after, audit.mark, &mut drift).await?;
            audit.links_after = after;
            if after.is_none() {
                (audit.listed_all, audit.cursor) = (false, Cursor::start());
                audit.seen.clear();
                audit.kinds.pop();
            }
        } else {
            let page = self.connection.connector.list(Call::on(Lane::Sweep), kind, &audit.cursor).await?;
            let mut records: BTreeMap<ExternalId, Record> = BTreeMap::new();
            for seen in page.seen {
                match seen {
                    Seen::Record(record) => drop(records.insert(record.id.clone(), record)),
                    // Listed, if not readable: it is there.
                    Seen::Hint { id, .. } => drop(audit.seen.insert(id)),
                    Seen::Archived(_) => {}
                }
            }
            drift.listed += records.len() as u64;
            self.compare(kind, &records, audit.mark, &mut drift).await?;
            audit.seen.extend(records.into_keys());
            audit.cursor = page.next;
            audit.listed_all = !page.more;
        }
        audit.found.insert(kind, drift);
        Ok(true)
    }

    async fn compare(
        &self,
        kind: Kind,
        records: &BTreeMap<ExternalId, Record>,
        mark: bool,
        drift: &mut Drift,
    ) -> Result<(), SyncError> {
        let Some(lens) = self.connection.lenses.get(&kind) else { return Ok(()) };
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let ids: Vec<ExternalId> = records.keys().cloned().collect();
        let links: BTreeMap<ExternalId, Link> = self
            .store
            .links(account, name, kind, By::External(&ids))
            .await?
            .into_iter()
            .map(|link| (link.external.clone(), link))
            .collect();
        let locals: Vec<RecordId> = links.values().map(|link| link.local).collect();
        let locals: BTreeMap<RecordId, LocalRecord> =
            self.store.records(account, kind, &locals).await?.into_iter().map(|record| (record.id(), record)).collect();
        let (mut keys, mut strangers) = (Vec::new(), Vec::new());
        let takes_in = self.connection.direction != Direction::Out;
        for (id, record) in records {
            let Some(link) = links.get(id) else {
                if !self.connection.filter.admits(kind, lens, record) {
                    continue;
                }
                if takes_in && self.connection.connector.introduces(kind) {
                    drift.not_taken_in += 1;
                    keys.push(Key::External(id.clone()));
                } else {
                    strangers.push(record);
                }
                continue;
            };
            if matches!(link.state, LinkState::Unlinked | LinkState::Tombstoned) {
                // Left alone on purpose: no difference is ours to mend.
                continue;
            }
            let differs = lens.rows.iter().any(|row| {
                let Some(now) = remote_values(row, record) else { return false };
                let Some(base) = link.base.get(&row.name) else {
                    // Never agreed on: of interest if either side has something to say.
                    let says = |values: &[Value]| !values.iter().all(Value::is_blank);
                    let ours = locals.get(&link.local).is_some_and(|local| says(&local.values(&row.fields)));
                    return !link.holds.contains_key(&row.name) && (ours || says(&now));
                };
                let ours = locals.get(&link.local).map(|local| local.values(&row.fields));
                !link.holds.contains_key(&row.name) && (now != base.1 || ours.is_some_and(|ours| ours != base.0))
            });
            if differs || link.state == LinkState::RemoteMissing {
                drift.different += 1;
                keys.push(Key::Local(link.local));
            }
        }
        self.mark_drift(kind, keys, mark, drift).await?;
        // Nobody unknown is taken in, so they are no drift; but who one of them is may be known here by now.
        let met = self.known_here(kind, lens, strangers).await?;
        self.mark_all(kind, met, mark).await
    }

    /// A page of links, of which some record was not listed: each is looked at by id before anything is believed.
    /// Answers where the next page begins.
    async fn compare_links(
        &self,
        kind: Kind,
        seen: &BTreeSet<ExternalId>,
        after: Option<RecordId>,
        mark: bool,
        drift: &mut Drift,
    ) -> Result<Option<RecordId>, SyncError> {
        let page =
            self.store.link_page(&self.connection.account.name, &self.connection.name, kind, after, PAGE).await?;
        drift.linked += page.len() as u64;
        let lost: Vec<Key> = page
            .iter()
            .filter(|link| link.state == LinkState::Linked && !seen.contains(&link.external))
            .map(|link| Key::Local(link.local))
            .collect();
        drift.not_listed += lost.len() as u64;
        self.mark_drift(kind, lost, mark, drift).await?;
        Ok(page.last().map(|link| link.local))
    }

    async fn mark_drift(&self, kind: Kind, keys: Vec<Key>, mark: bool, drift: &mut Drift) -> Result<(), SyncError> {
        drift.sample.extend(keys.iter().take(10_usize.saturating_sub(drift.sample.len())).map(Key::to_string));
        self.mark_all(kind, keys, mark).await
    }

    async fn mark_all(&self, kind: Kind, keys: Vec<Key>, mark: bool) -> Result<(), SyncError> {
        if !mark || keys.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mark = |key| Op::Mark(Mark::new(&self.connection.name, kind, key, now, Reason::Audit));
        let ops = keys.into_iter().map(mark).collect();
        Ok(self.store.commit(&self.commit_of(ops)).await?)
    }
}
