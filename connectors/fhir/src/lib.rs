//! HL7 FHIR R4 for Tandem: what a clinic's visits say of an opportunity, appointments made from here, and patients' contact
//! details where a clinic wants them kept.
//!
//! FHIR is what several vendors' records share, and no two offer the same part of it: one code path is driven by a [`Profile`] of
//! the vendor, narrowed by what the server's CapabilityStatement promises. Where versions are, a write names the one it was
//! planned on; where conditional creates are, nothing is made twice.
//!
//! What is clinical never leaves this crate: answers are decoded into types that have no place for it.
//!
//! Facts are those of the standard, <https://hl7.org/fhir/R4/>, and of SMART App Launch; what a server leaves open is a setting of
//! the sandbox, tested both ways.

mod auth;
mod booking;
mod bundle;
mod changes;
mod charges;
mod client;
mod openings;
mod patients;
mod plans;
mod profile;
mod reference;
mod schema;
mod subscription;
mod visits;
mod webhook;

#[cfg(feature = "sandbox")]
pub mod sandbox;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Guarantee, Hint, Identity, Kind, Limit,
    NewVisit, NewVisitor, Opening, Page, PropertyType, Pushed, Record, Schema, Secret, Sought, Stream, Transport,
    VisitChange, VisitRead, WantedOpenings, WebhookError, WebhookRequest, Write,
};
use url::Url;

pub use auth::{Login, PrivateKey};
pub use profile::{Capabilities, Dialect, Feed, Profile, UnknownDialect};
pub use visits::VisitType;
pub use webhook::sign;

use client::Client;

/// How a connection to a clinic is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the FHIR API begins.
    pub base_url: Url,
    /// Who we are.
    pub login: Login,
    /// Where tokens are asked for; discovered if left out.
    pub token_url: Option<Url>,
    /// Whose dialect the server speaks.
    pub dialect: Dialect,
    /// Headers that the vendor wants besides, such as `x-api-key`.
    pub extra_headers: BTreeMap<String, Secret>,
    /// What the clinic's codes stand for.
    pub visit_types: Vec<VisitType>,
    /// The system of our ids on appointments.
    pub opportunity_system: String,
    /// The system of our markers on patients.
    pub contact_system: String,
    /// Whether patients' contact details are kept in step.
    pub patients: bool,
    /// Whether plans of treatment are read.
    pub plans: bool,
    /// What the server says in a rest-hook's `Authorization`, after `Bearer`.
    pub hook_token: Option<Secret>,
    /// What webhooks are signed with, where the vendor signs them.
    pub hook_secret: Option<Secret>,
    /// The topic to subscribe to, where the server has topics.
    pub topic: Option<String>,
    /// The properties to read and their types, by kind.
    pub select: BTreeMap<Kind, BTreeMap<String, PropertyType>>,
    /// Calls in a window, at most; the vendor's careful value if left out.
    pub rate_limit: Option<Limit>,
    /// Calls a day, where an operator sets a bound.
    pub daily_budget: Option<u64>,
    /// Time between two polls.
    pub poll: Option<Duration>,
    /// Time after which a request is given up.
    pub request_timeout: Duration,
    /// Never writes.
    pub read_only: bool,
}

impl Options {
    /// The system of our ids on appointments, where none is configured.
    pub const OPPORTUNITY_SYSTEM: &'static str = "urn:tandem:opportunity";
    /// The system of our markers on patients, where none is configured.
    pub const CONTACT_SYSTEM: &'static str = "urn:tandem:contact";

    /// Options with careful values for everything but the address and the login.
    #[must_use]
    pub fn new(base_url: Url, login: Login) -> Self {
        Self {
            base_url,
            login,
            token_url: None,
            dialect: Dialect::default(),
            extra_headers: BTreeMap::new(),
            visit_types: Vec::new(),
            opportunity_system: Self::OPPORTUNITY_SYSTEM.into(),
            contact_system: Self::CONTACT_SYSTEM.into(),
            patients: false,
            plans: false,
            hook_token: None,
            hook_secret: None,
            topic: None,
            select: BTreeMap::new(),
            rate_limit: None,
            daily_budget: None,
            poll: None,
            request_timeout: Duration::from_secs(20),
            read_only: false,
        }
    }

    fn rate(&self) -> Limit {
        self.rate_limit.unwrap_or(Profile::of(self.dialect).rate)
    }

    fn headers(&self) -> HeaderMap {
        let pair = |(name, value): (&String, &Secret)| {
            let mut value = HeaderValue::try_from(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::try_from(name.as_str()).ok()?, value))
        };
        self.extra_headers.iter().filter_map(pair).collect()
    }
}

/// A connection to one clinic's server.
pub struct Fhir {
    client: Client,
    options: Options,
    profile: RwLock<Arc<Profile>>,
}

impl Fhir {
    /// How long after we gave up the server may still carry a request out. The standard says nothing; a minute is what clients wait.
    pub const LATE_WINDOW: Duration = Duration::from_secs(60);
    /// How long a push waits, for budget and for what is looked up before a write, until it sends nothing more.
    const PATIENCE: Duration = Duration::from_secs(40);

    /// Connects. Nothing is sent yet.
    #[must_use]
    pub fn new(options: Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&options, transport, clock);
        let profile = RwLock::new(Arc::new(Profile::of(options.dialect)));
        Self { client, options, profile }
    }

    /// What the server can do, as far as it is known.
    #[must_use]
    pub fn profile(&self) -> Arc<Profile> {
        self.profile.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, statement: &Capabilities) {
        let narrowed = Profile::of(self.options.dialect).narrowed(statement);
        *self.profile.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(narrowed);
    }

    /// [`Self::PATIENCE`], or as long as two requests may take.
    fn patience(&self) -> Duration {
        Self::PATIENCE.max(2 * self.options.request_timeout)
    }
}

#[async_trait]
impl Connector for Fhir {
    fn system(&self) -> &'static str {
        "fhir"
    }

    fn guarantee(&self, _: Kind) -> Guarantee {
        if self.profile().if_match { Guarantee::CompareAndSwap } else { Guarantee::BestEffort }
    }

    fn refuses_twins(&self) -> bool {
        self.profile().conditional_create
    }

    /// A clinic's patients stay with the clinic: one is linked to the contact whom we know, and nobody else is taken in or made.
    fn introduces(&self, kind: Kind) -> bool {
        kind != Kind::Contact
    }

    fn is_same_person(&self, record: &Record, ours: &NewVisitor) -> bool {
        patients::is_theirs(record, ours)
    }

    fn late_window(&self) -> Duration {
        Self::LATE_WINDOW
    }

    fn push_deadline(&self) -> Duration {
        self.patience() + 3 * self.options.request_timeout + Duration::from_secs(5)
    }

    fn kinds(&self) -> Vec<Kind> {
        if self.options.patients { vec![Kind::Contact] } else { Vec::new() }
    }

    fn streams(&self) -> Vec<Stream> {
        changes::streams(self)
    }

    async fn check(&self) -> Result<Identity, ConnectorError> {
        schema::check(self).await
    }

    async fn identify(&self) -> Result<Identity, ConnectorError> {
        schema::identify(self).await
    }

    async fn discover(&self) -> Result<Schema, ConnectorError> {
        schema::discover(self).await
    }

    async fn changes(&self, call: Call, stream: &Stream, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::next_page(self, call, stream, cursor).await
    }

    fn is_backfill(&self, stream: &Stream, cursor: &Cursor) -> bool {
        stream.backfills && (cursor.0.is_empty() || changes::is_listing(cursor))
    }

    async fn list(&self, call: Call, _: Kind, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::list(self, call, cursor).await
    }

    async fn fetch(&self, call: Call, _: Kind, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError> {
        patients::fetch(self, call, ids).await
    }

    async fn find(&self, call: Call, _: Kind, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError> {
        patients::find(self, call, sought).await
    }

    /// Servers' histories are optional and hold whole records, clinical data included: they are not read.
    async fn push(&self, call: Call, writes: &[Write]) -> Vec<Pushed> {
        patients::push(self, call, writes).await
    }

    async fn visits(&self, call: Call, ids: &[ExternalId]) -> Result<Vec<VisitRead>, ConnectorError> {
        visits::read(self, call, ids).await
    }

    async fn book(&self, call: Call, new: &NewVisit) -> Result<(ExternalId, ExternalId), ConnectorError> {
        booking::book(self, call, new).await
    }

    async fn change_visit(&self, call: Call, id: &ExternalId, change: &VisitChange) -> Result<(), ConnectorError> {
        booking::change(self, call, id, change).await
    }

    async fn openings(&self, call: Call, wanted: &WantedOpenings) -> Result<Vec<Opening>, ConnectorError> {
        openings::find(self, call, wanted).await
    }

    async fn subscribe(&self, call: Call, address: &Url) -> Result<(), ConnectorError> {
        subscription::ensure(self, call, address).await
    }

    fn hints(&self, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
        webhook::hints(&self.options, request)
    }

    fn calls(&self) -> u64 {
        self.client.calls.load(Ordering::Relaxed)
    }
}
