//! One simulated installation: a HubSpot account, a store, an engine, and gates between any two of their steps.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tandem_contract::{
    Call, Clock, Connector, Cursor, ExternalId, Fetched, HttpRequest, HttpResponse, Kind, Lane, RouterTransport,
    Secret, TokioClock, Transport, TransportError, WebhookRequest,
};
use tandem_hubspot::{
    Credentials, HubSpot, Options,
    sandbox::{Sandbox, Settings},
};
use tokio::sync::Notify;

use crate::{
    edit::Desk,
    model::{
        Account, Conflict, ConnectionRow, Currency, Dirty, Failure, HistoryEntry, Ids, Intent, Link, LocalRecord, Name,
        Pipeline, Profile, RecordId, StageMap,
        ids::{ConflictId, RunId},
    },
    store::{By, Commit, GuardEvent, StoreError, SyncStore, memory::MemoryStore},
    sync::{
        connection::{Connection, Filter},
        engine::{Engine, Shared},
        guard::Limits,
        intake::marks_of,
        lens::{Direction, Directory, Lens, People},
        mapping,
    },
};

/// The default mapping, as shipped.
const MAPPING: &str = include_str!("../../config/mappings/hubspot.toml");

/// The default lenses.
///
/// # Panics
/// Never: a test holds the shipped mapping to parse.
#[must_use]
pub fn lenses() -> BTreeMap<Kind, Lens> {
    mapping::parse(MAPPING).unwrap_or_default()
}

/// An account for tests.
///
/// # Panics
/// Never: the name and the currency are constants that parse.
#[must_use]
#[expect(clippy::expect_used, reason = "constants that parse")]
pub fn account(profile: Profile) -> Account {
    Account {
        name: "glow_clinic".parse().expect("a name"),
        profile,
        timezone: chrono_tz::America::Phoenix,
        currency: Currency::new("USD").expect("a currency"),
    }
}

/// Stands between any two steps of the engine: it traces them, and may stop the engine for good at one.
pub struct Gate {
    steps: AtomicU64,
    stop_at: AtomicU64,
    commits: AtomicU64,
    stop_at_commit: AtomicU64,
    stopped: AtomicBool,
    trace: Mutex<Sha256>,
    bell: Notify,
}

impl Gate {
    fn new() -> Self {
        Self {
            steps: AtomicU64::new(0),
            stop_at: AtomicU64::new(u64::MAX),
            commits: AtomicU64::new(0),
            stop_at_commit: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            trace: Mutex::new(Sha256::new()),
            bell: Notify::new(),
        }
    }

    /// Stops the engine after this many more steps.
    pub fn stop_after(&self, steps: u64) {
        self.stop_at.store(self.steps.load(Ordering::SeqCst) + steps, Ordering::SeqCst);
    }

    /// Stops the engine before or after one of its next commits.
    pub fn stop_after_commits(&self, commits: u64) {
        self.stop_at_commit.store(self.commits.load(Ordering::SeqCst) + commits, Ordering::SeqCst);
    }

    /// Lets the engine go on to the end.
    pub fn open(&self) {
        self.stop_at.store(u64::MAX, Ordering::SeqCst);
        self.stop_at_commit.store(u64::MAX, Ordering::SeqCst);
        self.stopped.store(false, Ordering::SeqCst);
    }

    /// Waits until the engine was stopped.
    pub async fn stopped(&self) {
        loop {
            let bell = self.bell.notified();
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            bell.await;
        }
    }

    /// Steps so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::SeqCst)
    }

    /// A digest of every step so far.
    #[must_use]
    pub fn digest(&self) -> String {
        let hash = self.trace.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    async fn pass(&self, what: &str) {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).update(what.as_bytes());
        let is_commit = ["commit", "stored"].contains(&what);
        let commit = self.commits.fetch_add(u64::from(is_commit), Ordering::SeqCst);
        let at_commit = is_commit && commit >= self.stop_at_commit.load(Ordering::SeqCst);
        if at_commit || step >= self.stop_at.load(Ordering::SeqCst) {
            self.stopped.store(true, Ordering::SeqCst);
            self.bell.notify_waiters();
            // A killed process does not come back from an await.
            std::future::pending::<()>().await;
        }
    }
}

/// The vendor behind a gate.
struct GatedTransport {
    inner: RouterTransport,
    gate: Arc<Gate>,
}

#[async_trait]
impl Transport for GatedTransport {
    async fn send(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, TransportError> {
        self.gate.pass(request.url.path()).await;
        let answer = self.inner.send(request, timeout).await;
        let word = answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status.as_u16().to_string());
        self.gate.pass(&word).await;
        answer
    }
}

/// The store behind a gate: a crash may fall before or after any commit.
struct GatedStore {
    inner: Arc<MemoryStore>,
    gate: Arc<Gate>,
}

type Stored<T> = Result<T, StoreError>;

#[async_trait]
impl SyncStore for GatedStore {
    async fn commit(&self, commit: &Commit) -> Stored<()> {
        self.gate.pass("commit").await;
        let done = self.inner.commit(commit).await;
        self.gate.pass(if done.is_ok() { "stored" } else { "refused" }).await;
        done
    }
    async fn due(
        &self,
        account: &Name,
        connection: &Name,
        kind: Option<Kind>,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Stored<Vec<Dirty>> {
        self.inner.due(account, connection, kind, now, limit).await
    }
    async fn opportunities_of(&self, account: &Name, contact: RecordId) -> Stored<Vec<RecordId>> {
        self.inner.opportunities_of(account, contact).await
    }
    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Stored<Vec<RecordId>> {
        self.inner.quarantined(account, free_only, limit).await
    }
    async fn next_due(&self, account: &Name, connection: &Name) -> Stored<Option<DateTime<Utc>>> {
        self.inner.next_due(account, connection).await
    }
    async fn links(&self, account: &Name, connection: &Name, kind: Kind, by: By<'_>) -> Stored<Vec<Link>> {
        self.inner.links(account, connection, kind, by).await
    }
    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Stored<Vec<Link>> {
        self.inner.link_page(account, connection, kind, after, limit).await
    }
    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Stored<Vec<LocalRecord>> {
        self.inner.records(account, kind, ids).await
    }
    async fn contacts_by_email(&self, account: &Name, emails: &[String]) -> Stored<Vec<(String, RecordId)>> {
        self.inner.contacts_by_email(account, emails).await
    }
    async fn intents(&self, account: &Name, connection: &Name, kind: Kind, locals: &[RecordId]) -> Stored<Vec<Intent>> {
        self.inner.intents(account, connection, kind, locals).await
    }
    async fn open_intents(&self, account: &Name, connection: &Name) -> Stored<Vec<Intent>> {
        self.inner.open_intents(account, connection).await
    }
    async fn aliases(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Stored<Vec<(ExternalId, ExternalId)>> {
        self.inner.aliases(account, connection, kind, ids).await
    }
    async fn cursor(&self, account: &Name, connection: &Name, stream: &str) -> Stored<Option<Cursor>> {
        self.inner.cursor(account, connection, stream).await
    }
    async fn pipelines(&self, account: &Name) -> Stored<Vec<Pipeline>> {
        self.inner.pipelines(account).await
    }
    async fn stage_maps(&self, account: &Name, connection: &Name) -> Stored<Vec<StageMap>> {
        self.inner.stage_maps(account, connection).await
    }
    async fn connection(&self, account: &Name, connection: &Name) -> Stored<Option<ConnectionRow>> {
        self.inner.connection(account, connection).await
    }
    async fn conflicts(&self, account: &Name, open_only: bool, limit: usize) -> Stored<Vec<Conflict>> {
        self.inner.conflicts(account, open_only, limit).await
    }
    async fn conflict(&self, account: &Name, id: ConflictId) -> Stored<Option<Conflict>> {
        self.inner.conflict(account, id).await
    }
    async fn failures(&self, account: &Name, limit: usize) -> Stored<Vec<Failure>> {
        self.inner.failures(account, limit).await
    }
    async fn history(&self, account: &Name, kind: Kind, record: RecordId) -> Stored<Vec<HistoryEntry>> {
        self.inner.history(account, kind, record).await
    }
    async fn guard_events(&self, account: &Name, connection: &Name) -> Stored<Vec<GuardEvent>> {
        self.inner.guard_events(account, connection).await
    }
    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind) -> Stored<u64> {
        self.inner.count_links(account, connection, kind).await
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
        self.gate.pass("lease").await;
        self.inner.take_lease(shard, account, connection, owner, now, expires).await
    }
    async fn renew_lease(&self, shard: i64, owner: &str, epoch: i64, expires: DateTime<Utc>) -> Stored<bool> {
        self.inner.renew_lease(shard, owner, epoch, expires).await
    }
}

/// Where the sandbox's webhooks arrive: verified and stored even while the engine is down, as in the daemon.
struct Doorbell {
    connector: Arc<dyn Connector>,
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    account: Name,
    connection: Name,
    wake: Mutex<Arc<Notify>>,
}

#[async_trait]
impl Transport for Doorbell {
    async fn send(&self, request: HttpRequest, _: Duration) -> Result<HttpResponse, TransportError> {
        let asked = WebhookRequest {
            method: request.method.as_str(),
            uri: request.url.as_str(),
            headers: &request.headers,
            body: &request.body,
            received_at: self.clock.now(),
        };
        let status = match self.connector.hints(&asked) {
            Ok(hints) => {
                let now = self.clock.now();
                let ops = marks_of(&self.connection, hints, None, now);
                let stored = self.store.commit(&Commit { account: self.account.clone(), fence: None, ops }).await;
                self.wake.lock().unwrap_or_else(PoisonError::into_inner).notify_one();
                if stored.is_ok() { 200 } else { 503 }
            }
            Err(_) => 401,
        };
        Ok(HttpResponse { status: http_status(status), headers: Default::default(), body: Default::default() })
    }
}

fn http_status(code: u16) -> axum::http::StatusCode {
    axum::http::StatusCode::from_u16(code).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR)
}

/// A simulated installation.
pub struct Rig {
    /// The HubSpot account.
    pub sandbox: Sandbox,
    /// Our store, looked at from behind.
    pub store: Arc<MemoryStore>,
    /// Virtual time.
    pub clock: Arc<dyn Clock>,
    /// The gate the engine passes.
    pub gate: Arc<Gate>,
    /// Our account.
    pub account: Account,
    /// The connection's name.
    pub name: Name,
    /// Time between two audits.
    pub audit_every: Duration,
    /// The connection.
    pub connection: Arc<Connection>,
    doorbell: Arc<Doorbell>,
    ids: Arc<Ids>,
}

/// The address of the vendor; no name is looked up.
const VENDOR: &str = "http://hubspot.example.com";
/// The address webhooks are sent to; nothing listens there.
const HOOK: &str = "http://tandem.example.com/webhooks/hubspot";

impl Rig {
    /// A new installation. Must be called inside a runtime; under a paused one, time is virtual.
    ///
    /// # Panics
    /// Never: constants that parse.
    #[must_use]
    pub fn new(seed: u64, settings: Settings, profile: Profile, change: impl FnOnce(&mut Connection)) -> Self {
        Self::new_over(seed, settings, profile, change, |router| router)
    }

    /// The same, with `watch` between the connector and the HubSpot account.
    ///
    /// # Panics
    /// Never: constants that parse.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constants that parse")]
    pub fn new_over(
        seed: u64,
        settings: Settings,
        profile: Profile,
        change: impl FnOnce(&mut Connection),
        watch: impl FnOnce(Router) -> Router,
    ) -> Self {
        let start = DateTime::from_timestamp(1_795_300_000, 0).unwrap_or_default();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(start));
        let sandbox = Sandbox::new(settings, seed, clock.clone());
        let (store, gate) = (Arc::new(MemoryStore::new()), Arc::new(Gate::new()));
        let account = account(profile);
        let name: Name = "hubspot".parse().expect("a name");
        let secret = Secret::new(sandbox.with(|world| world.settings.client_secret.clone()));
        let token =
            Secret::new(sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
        let mut options = Options::new(VENDOR.parse().expect("an address"), Credentials::Token(token));
        options.client_secret = Some(secret.clone());
        options.installation = "sim".into();
        let lenses = lenses();
        options.select = mapping::selection(&lenses);
        let transport =
            Arc::new(GatedTransport { inner: RouterTransport::new(watch(sandbox.router())), gate: gate.clone() });
        let connector: Arc<dyn Connector> = Arc::new(HubSpot::new(options, transport, clock.clone()));
        let mut connection = Connection {
            account: account.clone(),
            name: name.clone(),
            connector: connector.clone(),
            lenses,
            direction: Direction::Both,
            on_first_link: crate::sync::plan::OnFirstLink::FillBlanks,
            on_remote_delete: crate::sync::presence::OnRemoteDelete::Keep,
            on_local_delete: crate::sync::presence::OnLocalDelete::Unlink,
            filter: Filter::default(),
            installation: "sim".into(),
            siblings: Vec::new(),
        };
        change(&mut connection);
        let doorbell = Arc::new(Doorbell {
            connector,
            store: store.clone(),
            clock: clock.clone(),
            account: account.name.clone(),
            connection: name.clone(),
            wake: Mutex::default(),
        });
        sandbox.subscribe(HOOK, &secret);
        Self {
            sandbox,
            store,
            clock,
            gate,
            account,
            name,
            audit_every: Duration::from_secs(1_800),
            connection: Arc::new(connection),
            doorbell,
            ids: Arc::new(Ids::seeded(seed)),
        }
    }

    /// Goes on with another rig's account, store and clock, under this one's mapping and switches.
    ///
    /// # Panics
    /// Never: a constant that parses.
    #[expect(clippy::expect_used, reason = "a constant that parses")]
    pub fn adopt(&mut self, other: &Self) {
        let token =
            Secret::new(other.sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
        let mut options = Options::new(VENDOR.parse().expect("an address"), Credentials::Token(token));
        options.installation = "sim".into();
        options.select = mapping::selection(&self.connection.lenses);
        let transport = RouterTransport::new(other.sandbox.router());
        let connector = HubSpot::new(options, Arc::new(transport), other.clock.clone());
        let mut connection = Connection::clone(&self.connection);
        connection.connector = Arc::new(connector);
        self.connection = Arc::new(connection);
        (self.sandbox, self.store, self.clock) = (other.sandbox.clone(), other.store.clone(), other.clock.clone());
    }

    /// Delivers the sandbox's webhooks until dropped.
    pub async fn deliver_webhooks(&self) {
        self.sandbox.clone().deliver_webhooks(self.doorbell.clone()).await;
    }

    /// A new engine, as after a start of the process. The mass-change guard lets through what a simulated crowd does.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine_within(Limits { deletes: 10_000, alike: 10_000, ..Limits::default() })
    }

    /// The same with these limits of the mass-change guard.
    #[must_use]
    pub fn engine_within(&self, limits: Limits) -> Engine {
        let shared = Shared {
            store: Arc::new(GatedStore { inner: self.store.clone(), gate: self.gate.clone() }),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            // A process that is started again takes the lease over at once: the file lock proves the old one dead.
            owner: "engine".into(),
            lease: Duration::from_secs(30),
            audit_every: self.audit_every,
            limits,
        };
        let engine = Engine::new(shared, self.connection.clone());
        *self.doorbell.wake.lock().unwrap_or_else(PoisonError::into_inner) = engine.wake.clone();
        engine
    }

    /// The mapping.
    #[must_use]
    pub fn lenses(&self) -> &BTreeMap<Kind, Lens> {
        &self.connection.lenses
    }

    /// Pipelines, stages and owners as both sides know them now.
    pub async fn directory(&self) -> Directory {
        let Account { name: account, timezone, currency, .. } = &self.account;
        let owners = self.connection.connector.discover().await.map(|schema| schema.owners).unwrap_or_default();
        let row = self.store.connection(account, &self.name).await.ok().flatten();
        let zone = row.as_ref().and_then(|row| row.timezone.as_deref()?.parse().ok()).unwrap_or(*timezone);
        let theirs = row.as_ref().and_then(|row| Currency::new(row.currency.as_deref()?).ok()).unwrap_or(*currency);
        let currencies = row.map(|row| row.currencies).unwrap_or_default();
        let pipelines = self.store.pipelines(account).await.unwrap_or_default();
        let maps = self.store.stage_maps(account, &self.name).await.unwrap_or_default();
        Directory::new("hubspot", zone, theirs, currencies).with_owners(&owners).with_stages(&pipelines, &maps)
    }

    /// Which contact here is which there.
    #[must_use]
    pub fn people(&self, links: &[Link]) -> People {
        let mut people = People::default();
        for link in links.iter().filter(|link| link.kind == Kind::Contact) {
            people.to_local.insert(link.external.to_string(), link.local);
            people.to_remote.insert(link.local, link.external.to_string());
        }
        people
    }

    /// The vendor's records, as the connector reads them.
    pub async fn fetch(&self, kind: Kind, ids: &[ExternalId]) -> Vec<Fetched> {
        self.connection.connector.fetch(Call { lane: Lane::Interactive }, kind, ids).await.unwrap_or_default()
    }

    /// A person at our own desk.
    #[must_use]
    pub fn desk(&self) -> Desk<'_> {
        Desk {
            store: &*self.store,
            ids: &self.ids,
            account: &self.account,
            connections: std::slice::from_ref(&self.name),
            now: self.clock.now(),
            run: RunId(uuid::Uuid::nil()),
        }
    }
}
