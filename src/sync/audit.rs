//! The audit: read every record of the vendor and every link of ours, and compare.
//!
//! It finds what every feed missed: a merge whose webhook was lost, an archive the bin no longer shows, an association
//! that moved no time. It writes nothing itself; what differs is marked dirty and goes the usual road. Its drift count
//! is the measure of how much can be trusted in the feeds.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tandem_contract::{Call, Cursor, ExternalId, Kind, Lane, Record, Seen, Value};

use super::{
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

impl Reconciler {
    /// Compares one kind on both sides; marks what differs if `mark` is set.
    ///
    /// # Errors
    /// [`SyncError`]; what was found so far is marked.
    pub async fn audit(&self, kind: Kind, mark: bool) -> Result<Drift, SyncError> {
        let mut drift = Drift::default();
        let mut seen: BTreeSet<ExternalId> = BTreeSet::new();
        let mut cursor = Cursor::start();
        loop {
            let page = self.connection.connector.list(Call { lane: Lane::Sweep }, kind, &cursor).await?;
            let records: BTreeMap<ExternalId, Record> = page
                .seen
                .into_iter()
                .filter_map(|seen| match seen {
                    Seen::Record(record) => Some((record.id.clone(), record)),
                    Seen::Hint { .. } | Seen::Archived(_) => None,
                })
                .collect();
            drift.listed += records.len() as u64;
            self.compare(kind, &records, mark, &mut drift).await?;
            seen.extend(records.into_keys());
            cursor = page.next;
            if !page.more {
                break;
            }
        }
        self.compare_links(kind, &seen, mark, &mut drift).await?;
        Ok(drift)
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
        let mut keys = Vec::new();
        for (id, record) in records {
            let Some(link) = links.get(id) else {
                if self.connection.filter.admits(kind, lens, record) {
                    drift.not_taken_in += 1;
                    keys.push(Key::External(id.clone()));
                }
                continue;
            };
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
        self.mark_drift(kind, keys, mark, drift).await
    }

    /// Links whose record was not listed: each is looked at by id before anything is believed.
    async fn compare_links(
        &self,
        kind: Kind,
        seen: &BTreeSet<ExternalId>,
        mark: bool,
        drift: &mut Drift,
    ) -> Result<(), SyncError> {
        let mut after = None;
        loop {
            let page =
                self.store.link_page(&self.connection.account.name, &self.connection.name, kind, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.local);
            drift.linked += page.len() as u64;
            let lost: Vec<Key> = page
                .iter()
                .filter(|link| link.state == LinkState::Linked && !seen.contains(&link.external))
                .map(|link| Key::Local(link.local))
                .collect();
            drift.not_listed += lost.len() as u64;
            self.mark_drift(kind, lost, mark, drift).await?;
        }
    }

    async fn mark_drift(&self, kind: Kind, keys: Vec<Key>, mark: bool, drift: &mut Drift) -> Result<(), SyncError> {
        drift.sample.extend(keys.iter().take(10_usize.saturating_sub(drift.sample.len())).map(Key::to_string));
        if !mark || keys.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let ops = keys
            .into_iter()
            .map(|key| {
                Op::Mark(Mark {
                    connection: self.connection.name.clone(),
                    kind,
                    key,
                    due_at: now,
                    priority: Reason::Audit.priority(),
                })
            })
            .collect();
        Ok(self.store.commit(self.commit_of(ops)).await?)
    }
}
