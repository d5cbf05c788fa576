//! Finding out what changed: polls and webhooks. They mark records dirty; a page of whole records, as the first import
//! reads them, is worked on at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    Call, Cursor, ExternalId, Hint, Kind, Lane, Page, Seen, Stream,
    planted::{self, Bug},
};

use super::reconcile::{BATCH, Pageful, Reconciler, SyncError};
use crate::{
    model::{Dirty, Key, LinkState, Mark, Name, Reason},
    store::{By, Op, StoreError},
};

/// Pages that were asked for while those before them were worked on.
pub struct Ahead {
    stream: String,
    kind: Kind,
    cursor: Cursor,
    asked_at: DateTime<Utc>,
    page: Page,
}

impl Ahead {
    /// Leaves out records that were looked at by themselves since: they may be gone by now.
    pub(super) fn forget(&mut self, kind: Kind, looked_at: &[Dirty]) {
        if self.kind != kind {
            return;
        }
        let ids: BTreeSet<&ExternalId> = looked_at
            .iter()
            .filter_map(|dirty| match &dirty.key {
                Key::External(id) => Some(id),
                Key::Local(_) => None,
            })
            .collect();
        self.page.seen.retain(|seen| !matches!(seen, Seen::Record(record) if ids.contains(&record.id)));
    }
}

/// How long after it changed a sale must have been read, for the change to have been in it: clocks differ by seconds.
const SURELY_READ: TimeDelta = TimeDelta::seconds(10);

/// Pages that waited longer than this for their turn are asked for again.
const STALE: TimeDelta = TimeDelta::seconds(60);

/// One page of a stream was worked on.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Records on the page.
    pub records: usize,
    /// True if another page can be had now.
    pub more: bool,
    /// True if it held whole records, as those of a first import do: they were worked on at once.
    pub whole: bool,
}

impl Reconciler {
    /// Reads the next page of a stream and works on it. The cursor is stored in the transaction that stores what the
    /// page brought, so a crash reads it again and never skips it. While a page of the first import is worked on, those
    /// after it are asked for, and left in `ahead` for the next call.
    ///
    /// # Errors
    /// [`SyncError`]; the cursor is where it was.
    pub async fn poll(&self, stream: &Stream, ahead: &mut Option<Ahead>) -> Result<Progress, SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let cursor = self.store.cursor(account, name, &stream.name).await?.unwrap_or_else(Cursor::start);
        let lane = if self.connection.connector.is_backfill(stream, &cursor) { Lane::Backfill } else { Lane::Poll };
        let fresh = |ahead: &Ahead| {
            ahead.stream == stream.name && ahead.cursor == cursor && self.clock.now() - ahead.asked_at < STALE
        };
        let (page, asked_at, is_ahead) = match ahead.take().filter(fresh) {
            Some(ahead) => (ahead.page, ahead.asked_at, true),
            None => {
                let asked_at = self.clock.now();
                (self.connection.connector.changes(Call::on(lane), stream, &cursor).await?, asked_at, false)
            }
        };
        let next = page.next.clone();
        let put_cursor = Op::PutCursor { connection: name.clone(), stream: stream.name.clone(), cursor: page.next };
        let records = page.seen.len();
        let mut read = BTreeMap::new();
        let mut hinted: BTreeMap<ExternalId, tandem_contract::Version> = BTreeMap::new();
        let mut archived: BTreeSet<ExternalId> = BTreeSet::new();
        for seen in page.seen {
            match seen {
                Seen::Record(record) => {
                    read.insert(record.id.clone(), record);
                }
                Seen::Hint { id, version } => {
                    hinted.insert(id, version);
                }
                Seen::Archived(id) => {
                    archived.insert(id);
                }
            }
        }
        let whole = !read.is_empty();
        if whole {
            let now = self.clock.now();
            let dirty = read.keys().map(|id| Dirty {
                kind: stream.kind,
                key: Key::External(id.clone()),
                // No mark is stored for these: finishing a mark that is not there does nothing.
                generation: 0,
                due_at: now,
                priority: Reason::Poll.priority(),
                attempts: 0,
            });
            let dirty = dirty.collect();
            // Those of the page that could not be read with it are read by themselves.
            let mut with = self.marks_for(stream.kind, hinted, archived).await?;
            with.push(put_cursor);
            let seen = Pageful { records: read, asked_at: Some(asked_at), is_ahead };
            let is_done = AtomicBool::new(false);
            let work = async {
                let done = self.batch(stream.kind, dirty, seen, with, lane).await;
                is_done.store(true, Ordering::Relaxed);
                done
            };
            let (done, next) = tokio::join!(work, async {
                if page.more { self.read_ahead(stream, next, &is_done).await } else { None }
            });
            done?;
            *ahead = next;
        } else {
            let mut ops = self.marks_for(stream.kind, hinted, archived).await?;
            if planted::has(Bug::CursorBeforeMarks) {
                self.store.commit(&self.commit_of(vec![put_cursor.clone()])).await?;
            }
            ops.push(put_cursor);
            self.store.commit(&self.commit_of(ops)).await?;
        }
        if stream.backfills && !page.more {
            self.note_listed(stream.kind).await?;
        }
        Ok(Progress { records, more: page.more, whole })
    }

    /// The pages after the one that is worked on: one, and more until that is done, since many are stored at once for
    /// the price of a few. What goes wrong here goes wrong again when it is asked for in turn.
    async fn read_ahead(&self, stream: &Stream, cursor: Cursor, is_done: &AtomicBool) -> Option<Ahead> {
        let connector = &self.connection.connector;
        if !connector.is_backfill(stream, &cursor) {
            return None;
        }
        let (call, asked_at) = (Call::on(Lane::Backfill), self.clock.now());
        let mut page = connector.changes(call, stream, &cursor).await.ok()?;
        while page.more
            && page.seen.len() < BATCH
            && !is_done.load(Ordering::Relaxed)
            && connector.is_backfill(stream, &page.next)
        {
            let Ok(next) = connector.changes(call, stream, &page.next).await else { break };
            page.seen.extend(next.seen);
            (page.next, page.more) = (next.next, next.more);
        }
        Some(Ahead { stream: stream.name.clone(), kind: stream.kind, cursor, asked_at, page })
    }

    /// Marks what a page of hints names, but for records known to be no newer, and deletions already known.
    async fn marks_for(
        &self,
        kind: Kind,
        hinted: BTreeMap<ExternalId, tandem_contract::Version>,
        archived: BTreeSet<ExternalId>,
    ) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let ids: Vec<ExternalId> = hinted.keys().chain(&archived).cloned().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        if kind == Kind::Sale {
            return self.marks_for_sales(hinted, &ids).await;
        }
        if kind == Kind::Appointment {
            return self.marks_for_visits(hinted, &ids).await;
        }
        let links = self.store.links(account, name, kind, By::External(&ids)).await?;
        let known: BTreeMap<&ExternalId, _> = links.iter().map(|link| (&link.external, link)).collect();
        let now = self.clock.now();
        let mark = |id: &ExternalId| {
            let key = known.get(id).map_or_else(|| Key::External(id.clone()), |link| Key::Local(link.local));
            Op::Mark(Mark::new(name, kind, key, now, Reason::Poll))
        };
        let fresh = hinted.iter().filter(|(id, version)| {
            !known.get(id).is_some_and(|link| link.state == LinkState::Linked && version.is_covered_by(&link.version))
        });
        let may_end = |state| matches!(state, LinkState::Linked | LinkState::Unlinked);
        let lost = archived.iter().filter(|id| known.get(id).is_some_and(|link| may_end(link.state)));
        Ok(fresh.map(|(id, _)| id).chain(lost).map(mark).collect())
    }
}

impl Reconciler {
    /// Windows overlap and several feeds name one sale: what was read well after it changed is not read again.
    async fn marks_for_sales(
        &self,
        hinted: BTreeMap<ExternalId, tandem_contract::Version>,
        ids: &[ExternalId],
    ) -> Result<Vec<Op>, StoreError> {
        if planted::has(Bug::SalesByWebhookAlone) {
            return Ok(Vec::new());
        }
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let known = self.store.evidence(account, name, ids).await?;
        let read: BTreeMap<&ExternalId, DateTime<Utc>> =
            known.iter().filter_map(|sale| Some((&sale.sale, sale.read_at?))).collect();
        let is_news = |(id, version): &(&ExternalId, &tandem_contract::Version)| {
            let changed = version.updated_at;
            read.get(id).zip(changed).is_none_or(|(read, changed)| changed + SURELY_READ >= *read)
        };
        let now = self.clock.now();
        let mark = |(id, _): (&ExternalId, _)| {
            Op::Mark(Mark::new(name, Kind::Sale, Key::External(id.clone()), now, Reason::Poll))
        };
        Ok(hinted.iter().filter(is_news).map(mark).collect())
    }
}

impl Reconciler {
    /// Windows overlap, and days are read again and again: a visit that is known as it is now is not read again.
    async fn marks_for_visits(
        &self,
        hinted: BTreeMap<ExternalId, tandem_contract::Version>,
        ids: &[ExternalId],
    ) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let known = self.store.visits(account, name, ids).await?;
        let known: BTreeMap<&ExternalId, _> = known.iter().map(|visit| (&visit.visit, &visit.seen)).collect();
        let now = self.clock.now();
        let is_news = |(id, version): &(&ExternalId, &tandem_contract::Version)| {
            let is_changed =
                |known: &&tandem_contract::Version| version.token.is_none() || version.token != known.token;
            known.get(id).is_none_or(|known| is_changed(known) && !planted::has(Bug::KnownVisitIsNoNews))
        };
        let mark = |(id, _): (&ExternalId, _)| {
            Op::Mark(Mark::new(name, Kind::Appointment, Key::External(id.clone()), now, Reason::Poll))
        };
        Ok(hinted.iter().filter(is_news).map(mark).collect())
    }
}

/// The marks for what a verified webhook names, and what it says of merges. Events of several of the vendor's accounts may
/// share a delivery: those of another account than ours are left out.
#[must_use]
pub fn marks_of(connection: &Name, hints: Vec<Hint>, ours: Option<&str>, now: DateTime<Utc>) -> Vec<Op> {
    let is_ours = |hint: &Hint| match (&hint.remote_account, ours) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    };
    let (mut keys, mut ops) = (BTreeSet::new(), Vec::new());
    for hint in hints.into_iter().filter(is_ours) {
        if let Some(new) = hint.merged_into.filter(|new| *new != hint.id) {
            let (connection, old) = (connection.clone(), hint.id.clone());
            ops.push(Op::PutAlias { connection, kind: hint.kind, old, new });
        }
        keys.insert((hint.kind, hint.id));
    }
    let mark = |(kind, id)| Op::Mark(Mark::new(connection, kind, Key::External(id), now, Reason::Webhook));
    ops.extend(keys.into_iter().map(mark));
    ops
}
