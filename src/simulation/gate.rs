//! The gate between any two steps of the engine: it names and traces them, and at one of them it may make something go
//! wrong.
//!
//! Every effect of the engine goes through two ports, the store and the transport, so their calls are the only places
//! where a crash can fall between two effects. Each is a named point: what is asked, and that it was answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tandem_contract::{
    Cursor, ExternalId, HttpRequest, HttpResponse, Kind, NewCheckout, RouterTransport, Transport, TransportError,
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    model::{
        Conflict, ConnectionRow, Dirty, Evidence, EvidenceState, Failure, HistoryEntry, Intent, IntentState, Link,
        LocalRecord, Name, Pipeline, RecordId, StageMap, Visit, ids::ConflictId,
    },
    store::{By, Commit, GuardEvent, Op, StoreError, SyncStore, memory::MemoryStore},
};

/// What may go wrong at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The call fails: the database is away, the network is down.
    Error,
    /// The code panics.
    Panic,
    /// The process is killed: nothing after this point happens.
    Kill,
    /// Nothing happens for this long.
    Stall(Duration),
}

/// Where it goes wrong, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// After so many more steps.
    Step(u64),
    /// Before or after one of the next commits.
    Commit(u64),
    /// When the point of this name, or one whose name ends like it, is passed for the n-th time from now.
    Point(String, u64),
}

#[derive(Default)]
struct Inner {
    trip: Option<(At, Act)>,
    steps: u64,
    points: BTreeMap<String, u64>,
    trace: Sha256,
    tripped: Option<String>,
    /// Until when nothing happens.
    stalled: Option<Instant>,
}

/// Stands between any two steps of the engine.
#[derive(Default)]
pub struct Gate {
    stopped: AtomicBool,
    inner: Mutex<Inner>,
    bell: Notify,
}

impl Gate {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets something go wrong, once, at a later step.
    pub fn arm(&self, at: At, act: Act) {
        let mut inner = self.inner();
        (inner.trip, inner.tripped) = (Some((at, act)), None);
    }

    /// Lets the engine go on to the end; says where it went wrong, if it did.
    pub fn open(&self) -> Option<String> {
        self.stopped.store(false, Ordering::SeqCst);
        let mut inner = self.inner();
        inner.trip = None;
        inner.tripped.take()
    }

    /// Whether the engine was killed.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Waits until the engine was killed.
    pub async fn stopped(&self) {
        loop {
            let bell = self.bell.notified();
            if self.has_stopped() {
                return;
            }
            bell.await;
        }
    }

    /// Requests, answers and commits so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.inner().steps
    }

    /// Every point that was passed, and how often.
    #[must_use]
    pub fn points(&self) -> BTreeMap<String, u64> {
        self.inner().points.clone()
    }

    /// A digest of every step so far.
    #[must_use]
    pub fn digest(&self) -> String {
        let hash = self.inner().trace.clone();
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Passes a point that counts as a step. True if the call is to fail.
    async fn pass(&self, point: &str) -> bool {
        tracing::debug!(target: "tandem::simulation", point);
        self.look(point, true).await
    }

    /// Passes a point. True if the call is to fail.
    async fn look(&self, point: &str, is_step: bool) -> bool {
        let (act, stalled) = {
            let mut inner = self.inner();
            if is_step {
                inner.steps += 1;
                inner.trace.update(point.as_bytes());
            }
            match inner.points.get_mut(point) {
                Some(count) => *count += 1,
                None => {
                    inner.points.insert(point.to_owned(), 1);
                }
            }
            let is_commit = point.starts_with("commit ") || point.starts_with("stored ");
            let is_due = match &mut inner.trip {
                Some((At::Step(left), _)) if is_step => count_down(left),
                Some((At::Commit(left), _)) if is_commit => count_down(left),
                Some((At::Point(name, left), _)) if point.ends_with(name.as_str()) => count_down(left),
                _ => false,
            };
            let act = if is_due { inner.trip.take() } else { None };
            if act.is_some() {
                inner.tripped = Some(point.to_owned());
            }
            let act = act.map(|(_, act)| act);
            if let Some(Act::Stall(time)) = &act {
                inner.stalled = Some(Instant::now() + *time);
            }
            (act, inner.stalled)
        };
        // A process that stands still does so as a whole.
        if let Some(until) = stalled.filter(|until| *until > Instant::now()) {
            tokio::time::sleep_until(until).await;
        }
        match act {
            None | Some(Act::Stall(_)) => false,
            Some(Act::Error) => true,
            #[expect(clippy::panic, reason = "the fault that is asked for")]
            Some(Act::Panic) => panic!("planned, at {point}"),
            Some(Act::Kill) => {
                self.stopped.store(true, Ordering::SeqCst);
                self.bell.notify_waiters();
                // A killed process does not come back from an await.
                std::future::pending().await
            }
        }
    }
}

/// True when nothing is left to count.
fn count_down(left: &mut u64) -> bool {
    if *left == 0 {
        return true;
    }
    *left -= 1;
    false
}

/// The vendor behind a gate.
pub struct GatedTransport {
    /// The vendor.
    pub inner: RouterTransport,
    /// The gate.
    pub gate: Arc<Gate>,
}

#[async_trait]
impl Transport for GatedTransport {
    async fn send(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, TransportError> {
        let route = format!("{} {}", request.method, request.url.path());
        if self.gate.pass(&format!("asked {route}")).await {
            return Err(TransportError::NotSent("the network is down".into()));
        }
        let answer = self.inner.send(request, timeout).await;
        let status = answer.as_ref().map_or(0, |answer| answer.status.as_u16());
        self.gate.inner().trace.update(status.to_be_bytes());
        if self.gate.pass(&format!("answered {route}")).await {
            return Err(TransportError::Unknown("the connection broke off".into()));
        }
        answer
    }
}

/// What a commit is for.
fn purpose(commit: &Commit) -> &'static str {
    let mut purpose = (0, "marks");
    for op in &commit.ops {
        let this = match op {
            Op::PutCursor { .. } => (7, "cursor"),
            Op::DropIntent(_) => (6, "outcomes"),
            Op::PutIntent(intent) if intent.state == IntentState::Sent => (5, "intents"),
            Op::PutIntent(_) => (4, "plans"),
            Op::PutConnection(_) | Op::PutPipeline(..) | Op::PutStageMap(_) => (3, "connection"),
            Op::PutEvidence(_) => (5, "evidence"),
            Op::PutVisit(_) => (5, "visits"),
            Op::PutRecord { .. } => (2, "records"),
            Op::PutLink { .. }
            | Op::UpdateLink(_)
            | Op::RuleOnLink { .. }
            | Op::RemoveLink { .. }
            | Op::PutAlias { .. } => (1, "links"),
            _ => (0, "marks"),
        };
        purpose = purpose.max(this);
    }
    purpose.1
}

fn down() -> StoreError {
    StoreError::Unavailable("it is away, as planned".into())
}

/// The store behind a gate: a crash may fall before or after any commit.
pub struct GatedStore {
    /// The store.
    pub inner: Arc<MemoryStore>,
    /// The gate.
    pub gate: Arc<Gate>,
}

type Stored<T> = Result<T, StoreError>;

impl GatedStore {
    /// Passes before a read, or fails it. A crash between a read and its answer is one before the read.
    async fn read(&self, point: &str) -> Stored<()> {
        if self.gate.look(point, false).await { Err(down()) } else { Ok(()) }
    }
}

#[async_trait]
impl SyncStore for GatedStore {
    async fn commit(&self, commit: &Commit) -> Stored<()> {
        let purpose = purpose(commit);
        if self.gate.pass(&format!("commit {purpose}")).await {
            return Err(down());
        }
        self.inner.commit(commit).await?;
        // An answer of the database that is lost: what was asked is done all the same.
        if self.gate.pass(&format!("stored {purpose}")).await {
            return Err(down());
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
    ) -> Stored<Vec<Dirty>> {
        self.read("due").await?;
        self.inner.due(account, connection, kind, now, limit).await
    }
    async fn opportunities_of(&self, account: &Name, contacts: &[RecordId]) -> Stored<Vec<RecordId>> {
        self.read("opportunities_of").await?;
        self.inner.opportunities_of(account, contacts).await
    }
    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Stored<Vec<RecordId>> {
        self.read("quarantined").await?;
        self.inner.quarantined(account, free_only, limit).await
    }
    async fn next_due(&self, account: &Name, connection: &Name) -> Stored<Option<DateTime<Utc>>> {
        self.read("next_due").await?;
        self.inner.next_due(account, connection).await
    }
    async fn links(&self, account: &Name, connection: &Name, kind: Kind, by: By<'_>) -> Stored<Vec<Link>> {
        self.read("links").await?;
        self.inner.links(account, connection, kind, by).await
    }
    async fn pairs(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        by: By<'_>,
    ) -> Stored<Vec<(RecordId, ExternalId)>> {
        self.read("pairs").await?;
        self.inner.pairs(account, connection, kind, by).await
    }
    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Stored<Vec<Link>> {
        self.read("link_page").await?;
        self.inner.link_page(account, connection, kind, after, limit).await
    }
    async fn unlinked_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Stored<Vec<RecordId>> {
        self.read("unlinked_page").await?;
        self.inner.unlinked_page(account, connection, kind, after, limit).await
    }
    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Stored<Vec<LocalRecord>> {
        self.read("records").await?;
        self.inner.records(account, kind, ids).await
    }
    async fn contacts_by_email(&self, account: &Name, emails: &[String]) -> Stored<Vec<(String, RecordId)>> {
        self.read("contacts_by_email").await?;
        self.inner.contacts_by_email(account, emails).await
    }
    async fn contacts_by_phone(&self, account: &Name, tail: &str) -> Stored<Vec<RecordId>> {
        self.read("contacts_by_phone").await?;
        self.inner.contacts_by_phone(account, tail).await
    }
    async fn evidence(&self, account: &Name, connection: &Name, sales: &[ExternalId]) -> Stored<Vec<Evidence>> {
        self.read("evidence").await?;
        self.inner.evidence(account, connection, sales).await
    }
    async fn evidence_for(&self, account: &Name, opportunity: RecordId) -> Stored<Vec<Evidence>> {
        self.read("evidence_for").await?;
        self.inner.evidence_for(account, opportunity).await
    }
    async fn checkout(&self, account: &Name, connection: &Name, key: &str) -> Stored<Option<NewCheckout>> {
        self.read("checkout").await?;
        self.inner.checkout(account, connection, key).await
    }
    async fn has_event(&self, account: &Name, connection: &Name, event: &ExternalId) -> Stored<bool> {
        self.read("has_event").await?;
        self.inner.has_event(account, connection, event).await
    }
    async fn visits(&self, account: &Name, connection: &Name, ids: &[ExternalId]) -> Stored<Vec<Visit>> {
        self.read("visits").await?;
        self.inner.visits(account, connection, ids).await
    }
    async fn visits_of(&self, account: &Name, contact: RecordId) -> Stored<Vec<Visit>> {
        self.read("visits_of").await?;
        self.inner.visits_of(account, contact).await
    }
    async fn evidence_in(&self, account: &Name, state: EvidenceState, limit: usize) -> Stored<Vec<Evidence>> {
        self.read("evidence_in").await?;
        self.inner.evidence_in(account, state, limit).await
    }
    async fn intents(&self, account: &Name, connection: &Name, kind: Kind, locals: &[RecordId]) -> Stored<Vec<Intent>> {
        self.read("intents").await?;
        self.inner.intents(account, connection, kind, locals).await
    }
    async fn open_intents(&self, account: &Name, connection: &Name) -> Stored<Vec<Intent>> {
        self.read("open_intents").await?;
        self.inner.open_intents(account, connection).await
    }
    async fn aliases(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Stored<Vec<(ExternalId, ExternalId)>> {
        self.read("aliases").await?;
        self.inner.aliases(account, connection, kind, ids).await
    }
    async fn cursor(&self, account: &Name, connection: &Name, stream: &str) -> Stored<Option<Cursor>> {
        self.read("cursor").await?;
        self.inner.cursor(account, connection, stream).await
    }
    async fn pipelines(&self, account: &Name) -> Stored<Vec<Pipeline>> {
        self.read("pipelines").await?;
        self.inner.pipelines(account).await
    }
    async fn stage_maps(&self, account: &Name, connection: &Name) -> Stored<Vec<StageMap>> {
        self.read("stage_maps").await?;
        self.inner.stage_maps(account, connection).await
    }
    async fn connection(&self, account: &Name, connection: &Name) -> Stored<Option<ConnectionRow>> {
        self.read("connection").await?;
        self.inner.connection(account, connection).await
    }
    async fn conflicts(&self, account: &Name, open_only: bool, limit: usize) -> Stored<Vec<Conflict>> {
        self.read("conflicts").await?;
        self.inner.conflicts(account, open_only, limit).await
    }
    async fn conflict(&self, account: &Name, id: ConflictId) -> Stored<Option<Conflict>> {
        self.read("conflict").await?;
        self.inner.conflict(account, id).await
    }
    async fn failures(&self, account: &Name, limit: usize) -> Stored<Vec<Failure>> {
        self.read("failures").await?;
        self.inner.failures(account, limit).await
    }
    async fn history(&self, account: &Name, kind: Kind, record: RecordId) -> Stored<Vec<HistoryEntry>> {
        self.read("history").await?;
        self.inner.history(account, kind, record).await
    }
    async fn guard_events(&self, account: &Name, connection: &Name) -> Stored<Vec<GuardEvent>> {
        self.read("guard_events").await?;
        self.inner.guard_events(account, connection).await
    }
    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind, most: u64) -> Stored<u64> {
        self.read("count_links").await?;
        self.inner.count_links(account, connection, kind, most).await
    }
    async fn take_lease(
        &self,
        shard: i64,
        account: &Name,
        connection: &Name,
        owner: &str,
        now: DateTime<Utc>,
        expires: DateTime<Utc>,
    ) -> Stored<Option<i64>> {
        if self.gate.pass("take_lease").await {
            return Err(down());
        }
        self.inner.take_lease(shard, account, connection, owner, now, expires).await
    }
    async fn renew_lease(&self, shard: i64, owner: &str, epoch: i64, expires: DateTime<Utc>) -> Stored<bool> {
        self.read("renew_lease").await?;
        self.inner.renew_lease(shard, owner, epoch, expires).await
    }
}
