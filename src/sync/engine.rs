//! Drives one connection: take the lease, find out who the vendor is, then poll, reconcile and push until told to stop,
//! or until nothing can be done now.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{Call, Clock, ConnectorError, Cursor, Disposition, Kind, Lane, Stream};
use tokio::sync::Notify;
use tracing::{Instrument, error, info, info_span, warn};

use super::{
    audit::{Audit, Drift},
    connection::Connection,
    guard::{Guard, Limits},
    intake::{Ahead, Progress},
    lens::Directory,
    preview::PlannedWrite,
    reconcile::{BATCH, Pageful, Reconciler, SyncError},
    sales::SALES,
    summary::Summary,
    visits::VISITS,
};
use crate::{
    model::{ConnectionRow, ConnectionState, Ids, Name, dirty::is_watched, ids::RunId},
    store::{Fence, Op, StoreError, SyncStore, change_connection},
};

/// The stream under which the time of the last whole audit is kept.
const AUDITED: &str = "audit";
/// How often pipelines and owners are read anew.
const REDISCOVER: Duration = Duration::from_secs(3_600);
/// How soon they are, when a record stands on a stage that is not known.
const REDISCOVER_SOON: Duration = Duration::from_secs(60);

/// What every engine of a process shares.
#[derive(Clone)]
pub struct Shared {
    /// Where everything is kept.
    pub store: Arc<dyn SyncStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<Ids>,
    /// Names this process in leases.
    pub owner: String,
    /// How long a lease lasts without renewal.
    pub lease: Duration,
    /// How much is too much.
    pub limits: Limits,
    /// Time between two audits of everything.
    pub audit_every: Duration,
}

/// The engine of one connection.
pub struct Engine {
    shared: Shared,
    connection: Arc<Connection>,
    /// Rings when something was marked.
    pub wake: Arc<Notify>,
    /// Rings where the account's other connections wait: what was taken in here is to be written there.
    siblings: Vec<Arc<Notify>>,
    /// Told of every page and batch, for a progress bar.
    pub progress: Option<Arc<dyn Fn(&Stream, Progress) + Send + Sync>>,
}

/// Why an engine cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another engine has the connection.
    #[error(
        "another Tandem, or another connection of this one, already synchronises this vendor account: stop it, or remove one of the two connections; after a crash its lease ends by itself"
    )]
    Taken,
    /// A person must act.
    #[error("{0}")]
    Paused(String),
    /// The vendor cannot be reached now.
    #[error(transparent)]
    Connector(ConnectorError),
    /// Our store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SyncError> for EngineError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Connector(error) => Self::Connector(error),
            SyncError::Store(error) => Self::Store(error),
        }
    }
}

/// A lease that is ours until it is not renewed any more.
struct Held {
    shard: i64,
    epoch: i64,
    renewed: Duration,
}

/// A started engine: it has the lease and knows the vendor.
pub struct Running {
    reconciler: Arc<Reconciler>,
    held: Held,
    row: ConnectionRow,
    discovered: Duration,
    polled: BTreeMap<String, Duration>,
    /// Pages of the first import that were asked for already.
    ahead: Option<Ahead>,
    audit: Option<Audit>,
    audited_at: DateTime<Utc>,
    /// Streams that cannot be read now, and why.
    unreadable: BTreeMap<String, ConnectorError>,
}

impl Engine {
    /// An engine that has not started.
    #[must_use]
    pub fn new(shared: Shared, connection: Arc<Connection>) -> Self {
        Self { shared, connection, wake: Arc::new(Notify::new()), siblings: Vec::new(), progress: None }
    }

    /// Tells it where the engines of other connections wait.
    pub fn meet(&mut self, bells: &BTreeMap<Name, Arc<Notify>>) {
        self.siblings = self.connection.siblings.iter().filter_map(|name| bells.get(name).cloned()).collect();
    }

    /// The connection it drives.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Finds out who the vendor is, takes the lease, reads pipelines and owners.
    ///
    /// # Errors
    /// [`EngineError`]; a refusal of the credentials, or another vendor account than before, is stored as the
    /// connection's state.
    pub async fn start(&self) -> Result<Running, EngineError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let stored = self.shared.store.connection(account, name).await?;
        let system = self.connection.connector.system();
        let mut row = stored.unwrap_or_else(|| ConnectionRow::new(account.clone(), name.clone(), system));
        if row.state == ConnectionState::Paused {
            return Err(paused(row.reason));
        }
        let identity = match self.connection.connector.identify().await {
            Ok(identity) => identity,
            Err(error) => {
                if error.disposition() == Disposition::PauseConnection {
                    self.remember(&mut row, None, ConnectionState::NeedsAuth, Some(error.to_string())).await?;
                    return Err(EngineError::Paused(error.to_string()));
                }
                return Err(EngineError::Connector(error));
            }
        };
        if let Some(before) = row.remote_account.clone().filter(|before| *before != identity.remote_account) {
            let reason = format!(
                "the credentials lead to {} account {}, but this connection belongs to account {before}: put the right \
                 credentials back, or make a new connection",
                self.connection.connector.system(),
                identity.remote_account
            );
            self.remember(&mut row, None, ConnectionState::WrongAccount, Some(reason.clone())).await?;
            return Err(EngineError::Paused(reason));
        }
        let shard = self.connection.shard(&identity.remote_account);
        let (now, renewed) = (self.shared.clock.now(), self.shared.clock.elapsed());
        let taken =
            self.shared.store.take_lease(shard, account, name, &self.shared.owner, now, now + self.lease()).await?;
        let epoch = taken.ok_or(EngineError::Taken)?;
        row.remote_account = Some(identity.remote_account.clone());
        (row.timezone, row.currency, row.currencies) = (identity.timezone, identity.currency, identity.currencies);
        self.remember(&mut row, Some(epoch), ConnectionState::Active, None).await?;
        if row.state == ConnectionState::Paused {
            return Err(paused(row.reason));
        }
        let directory = Directory::new(
            row.system.as_str(),
            self.connection.account.timezone,
            self.connection.account.currency,
            Vec::new(),
        );
        let reconciler = Arc::new(Reconciler {
            store: self.shared.store.clone(),
            clock: self.shared.clock.clone(),
            ids: self.shared.ids.clone(),
            connection: self.connection.clone(),
            directory: Mutex::new(Arc::new(directory)),
            epoch,
            remote_account: identity.remote_account,
            skew: identity.clock_offset,
            run: RunId(self.shared.ids.next(now)),
            summary: Mutex::new(Summary::new(name.clone())),
            guard: Mutex::new(Guard::new(self.shared.limits)),
            unknown_stage: AtomicBool::new(false),
            import: Mutex::default(),
        });
        let mut held = Held { shard, epoch, renewed };
        let preparing = async {
            reconciler.discover(&row).await?;
            self.subscribe().await;
            reconciler.release_unmapped().await?;
            reconciler.follow_mapping().await
        };
        self.holding(&mut held, preparing).await??;
        let audited = self.shared.store.cursor(account, name, AUDITED).await?;
        let audited_at = audited.and_then(|cursor| cursor.0.parse().ok());
        if audited_at.is_none() {
            // The first import reads everything: the first audit is due a period after it.
            self.audited(&reconciler, now).await?;
        }
        let elapsed = self.shared.clock.elapsed();
        Ok(Running {
            reconciler,
            held,
            row,
            discovered: elapsed,
            polled: BTreeMap::new(),
            ahead: None,
            audit: None,
            audited_at: audited_at.unwrap_or(now),
            unreadable: BTreeMap::new(),
        })
    }

    /// Everything was compared: that is remembered, and what nobody needs any more is dropped.
    async fn audited(&self, reconciler: &Reconciler, at: DateTime<Utc>) -> Result<(), StoreError> {
        let cursor = Cursor(at.to_rfc3339());
        let op = Op::PutCursor { connection: self.connection.name.clone(), stream: AUDITED.into(), cursor };
        self.shared.store.commit(&reconciler.commit_of(vec![op, Op::DropOld { now: at }])).await
    }

    fn has_till(&self) -> bool {
        self.connection.connector.streams().iter().any(|stream| stream.kind == Kind::Sale)
    }

    fn lease(&self) -> TimeDelta {
        TimeDelta::from_std(self.shared.lease).unwrap_or(TimeDelta::seconds(30))
    }

    /// Stores what we know of the connection; only while we hold its lease, once we took it.
    async fn remember(
        &self,
        row: &mut ConnectionRow,
        epoch: Option<i64>,
        state: ConnectionState,
        reason: Option<String>,
    ) -> Result<(), StoreError> {
        let fence = epoch.map(|epoch| Fence { connection: row.name.clone(), epoch });
        *row = change_connection(&*self.shared.store, fence, row, |stored| {
            // A pause is a person's word; whatever we know since is said when it ends.
            if stored.state == ConnectionState::Paused {
                return false;
            }
            *stored = ConnectionRow { version: stored.version, state, reason: reason.clone(), ..row.clone() };
            true
        })
        .await?;
        Ok(())
    }

    async fn remember_running(
        &self,
        running: &mut Running,
        state: ConnectionState,
        reason: Option<String>,
    ) -> Result<(), StoreError> {
        self.remember(&mut running.row, Some(running.reconciler.epoch), state, reason).await
    }

    /// Everything that can be done now: every stream to its end, every due record. Then what was left. A stream that
    /// cannot be read does not keep the others from it; the summary's state says so.
    ///
    /// # Errors
    /// [`EngineError`] if it could not start, or had to stop.
    pub async fn once(&self) -> Result<Summary, EngineError> {
        let began = self.shared.clock.elapsed();
        let mut running = self.start().await?;
        let done = self.all_streams(&mut running).await;
        self.release(&running).await?;
        done?;
        let mut summary = running.reconciler.summary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        summary.calls = self.connection.connector.calls();
        summary.seconds = (self.shared.clock.elapsed() - began).as_secs_f64();
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let left =
            self.shared.store.due(account, name, None, self.shared.clock.now() + TimeDelta::days(400), 1).await?;
        summary.waiting = u64::from(left.iter().any(|dirty| !is_watched(dirty.kind)));
        if let Some(state) = unreadable(&running.unreadable) {
            summary.state = state.into();
        }
        Ok(summary)
    }

    async fn all_streams(&self, running: &mut Running) -> Result<(), EngineError> {
        for stream in self.connection.connector.streams() {
            loop {
                match self.pages(running, &stream).await {
                    Ok(more) => {
                        self.drain(running).await?;
                        if !more {
                            break;
                        }
                    }
                    Err(EngineError::Connector(error)) => {
                        self.poll_failed(running, &stream, error).await?;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.drain(running).await
    }

    /// Ends the lease, so that the next engine need not wait for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release(&self, running: &Running) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        self.shared.store.renew_lease(running.held.shard, &self.shared.owner, running.held.epoch, now).await?;
        Ok(())
    }

    /// Pages of a stream: those of whole records that were asked for together, or as many of hints as make a batch of work;
    /// true if there is more now.
    async fn pages(&self, running: &mut Running, stream: &Stream) -> Result<bool, EngineError> {
        let mut gathered = 0;
        loop {
            let page = self.page(running, stream).await?;
            gathered += page.records;
            if page.whole || !page.more || gathered >= BATCH {
                return Ok(page.more);
            }
        }
    }

    async fn page(&self, running: &mut Running, stream: &Stream) -> Result<Progress, EngineError> {
        let polling = running.reconciler.poll(stream, &mut running.ahead);
        let progress = self.holding(&mut running.held, polling).await??;
        // Pages that hold the records themselves are worked on at once.
        if progress.records > 0 {
            self.ring_siblings();
        }
        if running.unreadable.remove(&stream.name).is_some() && running.unreadable.is_empty() {
            self.remember_running(running, ConnectionState::Active, None).await?;
        }
        if let Some(told) = &self.progress {
            told(stream, progress);
        }
        Ok(progress)
    }

    /// Works on due records until none is due.
    async fn drain(&self, running: &mut Running) -> Result<(), EngineError> {
        loop {
            while self.work(running).await? {}
            running.reconciler.end_quarantines().await?;
            self.rediscover(running).await?;
            if !self.work(running).await? {
                return Ok(());
            }
        }
    }

    /// One batch of due records; false if none is due.
    async fn work(&self, running: &mut Running) -> Result<bool, EngineError> {
        self.keep_lease(&mut running.held).await?;
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        if let Some(row) = self.shared.store.connection(account, name).await? {
            if row.state == ConnectionState::Paused {
                return Err(paused(row.reason));
            }
            running.row = row;
        }
        let now = self.shared.clock.now();
        // A sale goes before everything else; whom it is of is looked for by more than the till's customer.
        let mut due = match self.has_till() {
            true => self.shared.store.due(account, name, Some(Kind::Sale), now, SALES).await?,
            false => Vec::new(),
        };
        if due.is_empty() {
            due = self.shared.store.due(account, name, None, now, BATCH).await?;
        }
        let Some(kind) = due.first().map(|dirty| dirty.kind) else { return Ok(false) };
        if kind == Kind::Appointment {
            // Read one by one where a server knows no other way: the lease is renewed in between.
            due.truncate(VISITS);
        }
        if let Some(ahead) = &mut running.ahead {
            ahead.forget(kind, &due);
        }
        let reconciler = &running.reconciler;
        let working = async {
            match kind {
                Kind::Sale => reconciler.sales(due.clone()).await,
                Kind::Appointment => reconciler.visits(due.clone()).await,
                kind => reconciler.batch(kind, due.clone(), Pageful::default(), Vec::new(), Lane::Propagate).await,
            }
        };
        match self.holding(&mut running.held, working).await? {
            Ok(()) => {
                self.ring_siblings();
                Ok(true)
            }
            Err(SyncError::Connector(error)) => {
                running.reconciler.put_off(kind, due, &error).await?;
                if error.disposition() == Disposition::PauseConnection {
                    self.remember_running(running, ConnectionState::NeedsAuth, Some(error.to_string())).await?;
                    return Err(EngineError::Paused(error.to_string()));
                }
                warn!(%error, "a batch is put off");
                Ok(true)
            }
            Err(SyncError::Store(error)) => Err(error.into()),
        }
    }

    /// Reads pipelines and owners anew every hour, and sooner when a record stands on a stage that is not known.
    async fn rediscover(&self, running: &mut Running) -> Result<(), EngineError> {
        let elapsed = self.shared.clock.elapsed();
        let age = elapsed.saturating_sub(running.discovered);
        let news = age > REDISCOVER_SOON && running.reconciler.met_unknown_stage();
        if age > REDISCOVER || news {
            let discovering = async {
                running.reconciler.discover(&running.row).await?;
                if age > REDISCOVER {
                    self.subscribe().await;
                }
                Ok::<_, SyncError>(())
            };
            self.holding(&mut running.held, discovering).await??;
            running.discovered = elapsed;
        }
        Ok(())
    }

    fn ring_siblings(&self) {
        self.siblings.iter().for_each(|sibling| sibling.notify_one());
    }

    /// Sees to it that the vendor tells us its news. Without them changes come by polling, so nothing stops.
    async fn subscribe(&self) {
        let Some(hook) = &self.connection.hook else { return };
        let call = Call::on(Lane::Interactive);
        if let Err(error) = self.connection.connector.subscribe(call, hook).await {
            warn!(%error, "the vendor's news could not be subscribed to; changes come by polling alone meanwhile");
        }
    }

    /// Renews the lease if a third of it is over.
    async fn keep_lease(&self, held: &mut Held) -> Result<(), EngineError> {
        let elapsed = self.shared.clock.elapsed();
        if elapsed.saturating_sub(held.renewed) * 3 < self.shared.lease {
            return Ok(());
        }
        let until = self.shared.clock.now() + self.lease();
        if !self.shared.store.renew_lease(held.shard, &self.shared.owner, held.epoch, until).await? {
            return Err(EngineError::Taken);
        }
        held.renewed = elapsed;
        Ok(())
    }

    /// Does what may take longer than the lease lasts, and renews it meanwhile; what lost its lease is dropped where it stands.
    async fn holding<T>(&self, held: &mut Held, work: impl Future<Output = T> + Send) -> Result<T, EngineError> {
        self.keep_lease(held).await?;
        let keep = async {
            loop {
                self.shared.clock.sleep(self.shared.lease / 3).await;
                match self.keep_lease(held).await {
                    Ok(()) => {}
                    // A store that is away for a moment ends nothing: as long as nobody else takes the lease, it is ours.
                    Err(EngineError::Store(error)) => {
                        warn!(%error, "the lease could not be renewed; it is tried again")
                    }
                    Err(error) => return error,
                }
            }
        };
        // Side by side: the work may hold what the renewal waits for.
        tokio::select! {
            biased;
            done = work => Ok(done),
            lost = keep => Err(lost),
        }
    }

    /// Runs until dropped; starts again by itself after whatever passes.
    pub async fn run(&self) {
        let span =
            info_span!("connection", account = %self.connection.account.name, connection = %self.connection.name);
        self.keep_trying().instrument(span).await;
    }

    async fn keep_trying(&self) {
        let mut failures: u32 = 0;
        loop {
            let error = match self.start().await {
                Ok(mut running) => {
                    let span = info_span!("run", run = %running.reconciler.run);
                    async {
                        info!("connected");
                        self.serve(&mut running, &mut failures).await
                    }
                    .instrument(span)
                    .await
                }
                Err(error) => error,
            };
            failures += 1;
            let wait = match &error {
                EngineError::Paused(reason) => {
                    error!(reason, "the connection waits for a person");
                    Duration::from_secs(30)
                }
                error => {
                    warn!(%error, "the connection is tried again");
                    Duration::from_millis(200) * 2_u32.pow(failures.min(8))
                }
            };
            tokio::select! {
                () = self.shared.clock.sleep(wait) => {}
                () = self.wake.notified(), if matches!(error, EngineError::Paused(_)) => {}
            }
        }
    }

    /// Polls what is due, works on what is dirty, waits for the next of either.
    async fn serve(&self, running: &mut Running, failures: &mut u32) -> EngineError {
        loop {
            match self.turn(running).await {
                Ok(Some(wait)) => {
                    // Nothing left to do: whatever failed before does not any more.
                    *failures = 0;
                    tokio::select! {
                        () = self.shared.clock.sleep(wait) => {}
                        () = self.wake.notified() => {}
                    }
                }
                Ok(None) => {}
                Err(error) => return error,
            }
        }
    }

    /// One step; how long to wait before the next, if there is nothing to do now.
    async fn turn(&self, running: &mut Running) -> Result<Option<Duration>, EngineError> {
        if self.work(running).await? {
            return Ok(None);
        }
        let elapsed = self.shared.clock.elapsed();
        running.reconciler.end_quarantines().await?;
        self.rediscover(running).await?;
        let since = (self.shared.clock.now() - running.audited_at).to_std().unwrap_or_default();
        if since > self.shared.audit_every && running.audit.is_none() {
            running.audit = Some(Audit::new(self.connection.connector.kinds(), true));
        }
        let mut next = self.shared.lease / 3;
        for stream in self.connection.connector.streams() {
            let due = running.polled.get(&stream.name).map(|at| *at + stream.period);
            if due.is_none_or(|due| due <= elapsed) {
                match self.pages(running, &stream).await {
                    Ok(true) => return Ok(None),
                    Ok(false) => {}
                    Err(EngineError::Connector(error)) => self.poll_failed(running, &stream, error).await?,
                    Err(error) => return Err(error),
                }
                running.polled.insert(stream.name.clone(), self.shared.clock.elapsed());
                return Ok(None);
            }
            next = next.min(due.map_or(next, |due| due - elapsed));
        }
        if running.audit.is_some() {
            // Between two steps whatever became due goes first.
            return self.audit_some(running).await;
        }
        let due = self.shared.store.next_due(&self.connection.account.name, &self.connection.name).await?;
        let until_due = due.map(|due: DateTime<Utc>| (due - self.shared.clock.now()).to_std().unwrap_or_default());
        Ok(Some(next.min(until_due.unwrap_or(next)).max(Duration::from_millis(5))))
    }

    /// One step of the audit that is under way.
    async fn audit_some(&self, running: &mut Running) -> Result<Option<Duration>, EngineError> {
        let Some(audit) = &mut running.audit else { return Ok(None) };
        match self.holding(&mut running.held, running.reconciler.audit_step(audit)).await? {
            Ok(true) => Ok(None),
            Ok(false) => {
                let found = running.audit.take().map(|audit| audit.found).unwrap_or_default();
                for (kind, drift) in found {
                    metrics::counter!("tandem_drift_total", "connection" => self.connection.name.to_string(), "kind" => kind.as_str())
                        .increment(drift.total());
                    if drift.total() > 0 {
                        info!(%kind, drift = drift.total(), "the audit found records that are not in step");
                    }
                }
                running.audited_at = self.shared.clock.now();
                self.audited(&running.reconciler, running.audited_at).await?;
                Ok(None)
            }
            Err(SyncError::Connector(error)) => {
                warn!(%error, "a step of the audit is repeated later");
                Ok(Some(self.shared.lease / 3))
            }
            Err(SyncError::Store(error)) => Err(error.into()),
        }
    }

    /// Compares everything on both sides, and changes nothing.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn audit(&self, running: &mut Running) -> Result<BTreeMap<Kind, Drift>, EngineError> {
        let mut audit = Audit::new(self.connection.connector.kinds(), false);
        loop {
            if !self.holding(&mut running.held, running.reconciler.audit_step(&mut audit)).await?? {
                return Ok(audit.found);
            }
        }
    }

    /// Plans everything that is to be done now and does none of it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn preview(&self, running: &Running) -> Result<Vec<PlannedWrite>, EngineError> {
        Ok(running.reconciler.preview().await?)
    }

    async fn poll_failed(
        &self,
        running: &mut Running,
        stream: &Stream,
        error: ConnectorError,
    ) -> Result<(), EngineError> {
        match error.disposition() {
            Disposition::PauseConnection => {
                self.remember_running(running, ConnectionState::NeedsAuth, Some(error.to_string())).await?;
                Err(EngineError::Paused(error.to_string()))
            }
            _ => {
                warn!(stream = stream.name, %error, "a poll failed; it is repeated");
                let reason = format!("{} cannot be read: {error}", stream.name);
                running.unreadable.insert(stream.name.clone(), error);
                self.remember_running(running, ConnectionState::Active, Some(reason)).await?;
                Ok(())
            }
        }
    }
}

fn paused(reason: Option<String>) -> EngineError {
    EngineError::Paused(reason.unwrap_or_else(|| "the connection was paused".into()))
}

/// What a run that could not read some of its streams ends as: `forbidden` if a person must act.
fn unreadable(streams: &BTreeMap<String, ConnectorError>) -> Option<&'static str> {
    let people = |error: &ConnectorError| matches!(error.disposition(), Disposition::PauseStream | Disposition::Park);
    match streams.values().any(people) {
        true => Some("forbidden"),
        false => (!streams.is_empty()).then_some("unavailable"),
    }
}
