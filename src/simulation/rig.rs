//! One simulated installation: a HubSpot account, a store, and an engine behind a gate.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::DateTime;
use tandem_contract::{
    Clock, Connector, HttpRequest, HttpResponse, Kind, RouterTransport, Secret, TokioClock, Transport, TransportError,
    WebhookRequest,
};
use tandem_hubspot::{
    Credentials, HubSpot, Options,
    sandbox::{Sandbox, Settings},
};
use tokio::sync::Notify;

use super::gate::{Gate, GatedStore, GatedTransport};
use crate::{
    edit::Desk,
    model::{Account, Currency, Ids, Link, Name, Profile, ids::RunId},
    store::{Commit, SyncStore, memory::MemoryStore},
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
/// If the name is none.
#[must_use]
#[expect(clippy::expect_used, reason = "constants that parse")]
pub fn account(name: &str, profile: Profile) -> Account {
    Account {
        name: name.parse().expect("a name"),
        profile,
        timezone: chrono_tz::America::Phoenix,
        currency: Currency::new("USD").expect("a currency"),
        triggers: std::collections::BTreeMap::new(),
        types: std::collections::BTreeMap::new(),
        visit_rules: std::collections::BTreeMap::new(),
    }
}

/// Where the sandbox's webhooks arrive: verified and stored even while the engine is down, as in the daemon.
pub(super) struct Doorbell {
    connector: Arc<dyn Connector>,
    store: Arc<MemoryStore>,
    clock: Arc<dyn Clock>,
    account: Name,
    connection: Name,
    wake: Mutex<Arc<Notify>>,
    is_closed: AtomicBool,
}

impl Doorbell {
    fn new(store: &Arc<MemoryStore>, clock: &Arc<dyn Clock>, connection: &Connection) -> Arc<Self> {
        Arc::new(Self {
            connector: connection.connector.clone(),
            store: store.clone(),
            clock: clock.clone(),
            account: connection.account.name.clone(),
            connection: connection.name.clone(),
            wake: Mutex::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Rings for this engine from now on.
    pub(super) fn wakes(&self, engine: &Engine) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = engine.wake.clone();
    }
}

#[async_trait]
impl Transport for Doorbell {
    async fn send(&self, request: HttpRequest, _: Duration) -> Result<HttpResponse, TransportError> {
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(TransportError::NotSent("nobody listens".into()));
        }
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
    pub fn new_over(
        seed: u64,
        settings: Settings,
        profile: Profile,
        change: impl FnOnce(&mut Connection),
        watch: impl FnOnce(Router) -> Router,
    ) -> Self {
        Self::in_store(Arc::new(MemoryStore::new()), account("glow_clinic", profile), seed, settings, change, watch)
    }

    /// The same for this account, in a store that others may share.
    ///
    /// # Panics
    /// Never: constants that parse.
    #[must_use]
    #[expect(clippy::expect_used, reason = "constants that parse")]
    pub fn in_store(
        store: Arc<MemoryStore>,
        account: Account,
        seed: u64,
        settings: Settings,
        change: impl FnOnce(&mut Connection),
        watch: impl FnOnce(Router) -> Router,
    ) -> Self {
        let start = DateTime::from_timestamp(1_795_300_000, 0).unwrap_or_default();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(start));
        let sandbox = Sandbox::new(settings, seed, clock.clone());
        let gate = Arc::new(Gate::default());
        let name: Name = "hubspot".parse().expect("a name");
        let secret = Secret::new(sandbox.with(|world| world.settings.client_secret.clone()));
        let token =
            Secret::new(sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
        let mut options = Options::new(VENDOR.parse().expect("an address"), Credentials::Token(token));
        options.client_secret = Some(secret.clone());
        options.installation = "sim".into();
        let transport =
            Arc::new(GatedTransport { inner: RouterTransport::new(watch(sandbox.router())), gate: gate.clone() });
        let connector = |lenses: &BTreeMap<Kind, Lens>| -> Arc<dyn Connector> {
            let options = Options { select: mapping::selection(lenses), ..options.clone() };
            Arc::new(HubSpot::new(options, transport.clone(), clock.clone()))
        };
        let mut connection = Connection {
            account,
            name: name.clone(),
            connector: connector(&lenses()),
            lenses: lenses(),
            direction: Direction::Both,
            on_first_link: crate::sync::plan::OnFirstLink::FillBlanks,
            on_remote_delete: crate::sync::presence::OnRemoteDelete::Keep,
            on_local_delete: crate::sync::presence::OnLocalDelete::Unlink,
            filter: Filter::default(),
            installation: "sim".into(),
            siblings: Vec::new(),
            sources: Vec::new(),
            hook: None,
            hook_segment: None,
        };
        change(&mut connection);
        if mapping::selection(&connection.lenses) != mapping::selection(&lenses()) {
            connection.connector = connector(&connection.lenses);
        }
        let doorbell = Doorbell::new(&store, &clock, &connection);
        sandbox.with(|world| world.subscribe(HOOK, &secret));
        Self {
            sandbox,
            store,
            clock,
            gate,
            account: connection.account.clone(),
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

    /// Whether webhooks are answered: they are not while the process is down.
    pub fn answer_webhooks(&self, answered: bool) {
        self.doorbell.is_closed.store(!answered, Ordering::SeqCst);
    }

    /// A new engine, as after a start of the process. The mass-change guard lets through what a simulated crowd does.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine_within(Limits { deletes: 10_000, alike: 10_000, ..Limits::default() })
    }

    /// The same with these limits of the mass-change guard.
    #[must_use]
    pub fn engine_within(&self, limits: Limits) -> Engine {
        let engine = Engine::new(self.shared(limits), self.connection.clone());
        self.doorbell.wakes(&engine);
        engine
    }

    /// What another connection of this installation shares with it.
    #[must_use]
    pub fn shared(&self, limits: Limits) -> Shared {
        Shared {
            store: Arc::new(GatedStore { inner: self.store.clone(), gate: self.gate.clone() }),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            // A process that is started again takes the lease over at once: the file lock proves the old one dead.
            owner: "engine".into(),
            lease: Duration::from_secs(30),
            audit_every: self.audit_every,
            limits,
        }
    }

    /// Where the webhooks of another connection of this installation arrive: verified by it, and stored.
    #[must_use]
    pub fn door_of(&self, connection: &Connection) -> Arc<dyn Transport> {
        self.doorbell_of(connection)
    }

    /// The same, that rings for an engine.
    pub(super) fn doorbell_of(&self, connection: &Connection) -> Arc<Doorbell> {
        Doorbell::new(&self.store, &self.clock, connection)
    }

    /// Its new ids.
    pub(super) fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The mapping.
    #[must_use]
    pub fn lenses(&self) -> &BTreeMap<Kind, Lens> {
        &self.connection.lenses
    }

    /// Pipelines, stages and owners as both sides of a connection know them now.
    pub async fn directory(&self, connection: &Connection) -> Directory {
        let Account { name: account, timezone, currency, .. } = &self.account;
        let owners = connection.connector.discover().await.map(|schema| schema.owners).unwrap_or_default();
        let row = self.store.connection(account, &connection.name).await.ok().flatten();
        let zone = row.as_ref().and_then(|row| row.timezone.as_deref()?.parse().ok()).unwrap_or(*timezone);
        let theirs = row.as_ref().and_then(|row| Currency::new(row.currency.as_deref()?).ok()).unwrap_or(*currency);
        let currencies = row.map(|row| row.currencies).unwrap_or_default();
        let pipelines = self.store.pipelines(account).await.unwrap_or_default();
        let maps = self.store.stage_maps(account, &connection.name).await.unwrap_or_default();
        Directory::new(connection.connector.system(), zone, theirs, currencies)
            .with_owners(&owners)
            .with_stages(&pipelines, &maps)
            .with_types(&self.account.types)
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
