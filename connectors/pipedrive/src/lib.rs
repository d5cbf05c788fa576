//! Pipedrive for Tandem: deals and persons both ways, with owners, pipelines, lost reasons, organizations by name and custom
//! fields.
//!
//! What Pipedrive offers and lacks decides the shape of this crate. There is no compare-and-swap, so the deal's changelog
//! is read after a write; persons have none, and are read right before they are written. There is no idempotency key and
//! no unique field, so a create whose outcome is not known is looked for in the list itself, back to when it was sent.
//! There is no batch write. Every call costs tokens of a budget that the whole company shares for the day, so the lists,
//! which cost the same for one row as for five hundred, do most of the work.
//!
//! Vendor facts are those of the public developer documentation, <https://pipedrive.readme.io> and
//! <https://developers.pipedrive.com>; a fact that is not confirmed there is a setting of the sandbox, tested both ways.

mod auth;
mod changes;
mod client;
mod fields;
mod item;
mod marker;
mod organizations;
mod plan;
mod push;
mod records;
mod schema;
mod webhook;

#[cfg(feature = "sandbox")]
pub mod sandbox;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Guarantee, Hint, History, Identity,
    KeepRefreshToken, Kind, Limit, Page, PropertyType, Pushed, Record, Schema, Secret, Sought, Stream, Transport,
    WebhookError, WebhookRequest, Write,
};
use url::Url;

pub use plan::{Plan, UnknownPlan};
pub use tandem_contract::Credentials;

use changes::Periods;
use client::Client;
use fields::Books;

/// How a connection to Pipedrive is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API is; Pipedrive's own address if left out. With OAuth the company's address, which comes with the
    /// token, is called instead of Pipedrive's own.
    pub base_url: Url,
    /// Where grants are exchanged for access tokens; Pipedrive's own address if left out.
    pub token_url: Option<Url>,
    /// Where a person lets the app in; Pipedrive's own address if left out.
    pub authorize_url: Option<Url>,
    /// The app's callback address, letter by letter as Pipedrive has it. Without it nobody is asked to let the app in.
    pub redirect_uri: Option<String>,
    /// Token or OAuth grant.
    pub credentials: Credentials,
    /// User and password that webhooks carry; Pipedrive does not sign them.
    pub webhook_login: Option<(String, Secret)>,
    /// The properties to read and their types, by kind. Custom fields go by their 40-character key or by their name.
    pub select: BTreeMap<Kind, BTreeMap<String, PropertyType>>,
    /// The company's plan: with its seats and the credentials it says how much may be called.
    pub plan: Plan,
    /// Seats of the company.
    pub seats: u32,
    /// Calls in a window, whatever the headers say; what the plan allows if left out, until they say otherwise.
    pub rate_limit: Option<Limit>,
    /// Tokens a day; those of everybody at the company, by its plan and seats, if left out.
    pub daily_budget: Option<u64>,
    /// Time between two polls; derived from the daily budget if left out.
    pub poll: Option<Duration>,
    /// Time after which a request is given up.
    pub request_timeout: Duration,
    /// Never writes, not even the marker field.
    pub read_only: bool,
    /// Name of our field.
    pub marker_field: String,
    /// This installation's id, which our webhooks are named after.
    pub installation: String,
}

impl Options {
    /// Pipedrive's own address.
    pub const BASE_URL: &'static str = "https://api.pipedrive.com";
    /// Where Pipedrive exchanges grants.
    pub const TOKEN_URL: &'static str = "https://oauth.pipedrive.com/oauth/token";
    /// Where people let apps in.
    pub const AUTHORIZE_URL: &'static str = "https://oauth.pipedrive.com/oauth/authorize";

    /// Options with the documented floors for everything but the address and the credentials.
    #[must_use]
    pub fn new(base_url: Url, credentials: Credentials) -> Self {
        Self {
            base_url,
            token_url: None,
            authorize_url: None,
            redirect_uri: None,
            credentials,
            webhook_login: None,
            select: BTreeMap::new(),
            plan: Plan::default(),
            seats: 1,
            rate_limit: None,
            daily_budget: None,
            poll: None,
            request_timeout: Duration::from_secs(20),
            read_only: false,
            marker_field: "Tandem id".into(),
            installation: "tandem".into(),
        }
    }

    /// Calls in a window, before any header was read.
    fn limit(&self) -> Limit {
        self.rate_limit.unwrap_or_else(|| self.plan.burst(&self.credentials))
    }

    /// Tokens a day.
    fn budget(&self) -> u64 {
        self.daily_budget.unwrap_or_else(|| self.plan.daily_tokens(self.seats))
    }
}

/// A connection to one Pipedrive company.
pub struct Pipedrive {
    client: Client,
    options: Options,
    books: Books,
    /// The currencies in use, once they were read.
    currencies: Mutex<Option<Vec<String>>>,
    organizations: organizations::Names,
    /// Whether Pipedrive tells us its news: our subscriptions were there when they were last looked at.
    is_told: AtomicBool,
}

impl Pipedrive {
    /// How long after we gave up Pipedrive may still carry a request out. Not documented; a minute is what the guides
    /// for safe creates advise.
    pub const LATE_WINDOW: Duration = Duration::from_secs(60);
    /// How long a push waits, for budget and for what is looked up before a write, until it sends nothing more.
    const PATIENCE: Duration = Duration::from_secs(40);
    /// The share of the day's tokens that polling may take, in percent: everybody at the company lives on them.
    const POLLING_SHARE: u64 = 5;
    /// The same while no webhooks are subscribed to, and nothing else tells what changed.
    const SHARE_UNTOLD: u64 = 20;

    /// Connects. Nothing is sent yet.
    #[must_use]
    pub fn new(options: Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&options, transport, clock);
        Self {
            client,
            options,
            books: Books::default(),
            currencies: Mutex::default(),
            organizations: organizations::Names::default(),
            is_told: AtomicBool::new(false),
        }
    }

    /// Sets where a changed refresh token is kept, before the access token that came with it is used.
    #[must_use]
    pub fn keep_refresh_token(mut self, keep: Arc<dyn KeepRefreshToken>) -> Self {
        self.client.auth.keep_by(keep);
        self
    }

    /// How often is polled.
    fn periods(&self) -> Periods {
        let share = if self.is_told.load(Ordering::Relaxed) { Self::POLLING_SHARE } else { Self::SHARE_UNTOLD };
        self.options.poll.map_or_else(|| self.periods_at(share), Periods::every)
    }

    /// The same where polls may cost this share of the day's budget.
    fn periods_at(&self, share: u64) -> Periods {
        Periods::within(self.options.budget().saturating_mul(share) / 100, &self.kinds())
    }

    /// [`Self::PATIENCE`], or as long as two requests may take.
    fn patience(&self) -> Duration {
        Self::PATIENCE.max(2 * self.options.request_timeout)
    }
}

#[async_trait]
impl Connector for Pipedrive {
    fn system(&self) -> &'static str {
        "pipedrive"
    }

    fn guarantee(&self, kind: Kind) -> Guarantee {
        match kind {
            Kind::Deal => Guarantee::CheckedAfterwards,
            _ => Guarantee::BestEffort,
        }
    }

    fn refuses_twins(&self) -> bool {
        false
    }

    fn is_older(&self, one: &ExternalId, other: &ExternalId) -> bool {
        let number = |id: &ExternalId| id.as_str().parse::<u64>().ok();
        number(one).zip(number(other)).is_some_and(|(one, other)| one < other)
    }

    fn late_window(&self) -> Duration {
        Self::LATE_WINDOW
    }

    fn push_deadline(&self) -> Duration {
        self.patience() + self.options.request_timeout + Duration::from_secs(5)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.options.select.keys().copied().collect()
    }

    fn streams(&self) -> Vec<Stream> {
        changes::streams(&self.kinds(), self.periods())
    }

    async fn check(&self) -> Result<Identity, ConnectorError> {
        schema::check(self).await
    }

    async fn identify(&self) -> Result<Identity, ConnectorError> {
        schema::identify(self).await
    }

    fn consent(&self, state: &str) -> Option<Url> {
        self.client.auth.app()?.consent(state)
    }

    async fn redeem(&self, code: &Secret, account: Option<&str>) -> Result<Identity, ConnectorError> {
        let Client { auth, transport, clock, .. } = &self.client;
        auth.redeem(code, account, self.identify(), &**transport, &**clock).await
    }

    async fn discover(&self) -> Result<Schema, ConnectorError> {
        schema::discover(self).await
    }

    async fn changes(&self, call: Call, stream: &Stream, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::next_page(self, call, stream, cursor).await
    }

    fn is_backfill(&self, _: &Stream, cursor: &Cursor) -> bool {
        changes::is_listing(cursor)
    }

    async fn list(&self, call: Call, kind: Kind, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::list(self, call, kind, cursor).await
    }

    async fn fetch(&self, call: Call, kind: Kind, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError> {
        records::fetch(self, call, kind, ids).await
    }

    async fn find(&self, call: Call, kind: Kind, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError> {
        records::find(self, call, kind, sought).await
    }

    async fn history(
        &self,
        call: Call,
        kind: Kind,
        ids: &[ExternalId],
        properties: &[String],
    ) -> Result<Vec<Option<History>>, ConnectorError> {
        records::history(self, call, kind, ids, properties).await
    }

    async fn push(&self, call: Call, writes: &[Write]) -> Vec<Pushed> {
        push::push(self, call, writes).await
    }

    async fn subscribe(&self, call: Call, address: &Url) -> Result<(), ConnectorError> {
        let subscribed = webhook::subscribe(self, call, address).await;
        self.is_told.store(matches!(subscribed, Ok(true)), Ordering::Relaxed);
        subscribed.map(|_| ())
    }

    fn signs_webhooks(&self) -> bool {
        false
    }

    fn hints(&self, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
        webhook::hints(self.options.webhook_login.as_ref(), request)
    }

    fn calls(&self) -> u64 {
        self.client.calls.load(Ordering::Relaxed)
    }
}

/// What Pipedrive calls the records of a kind, in its paths.
fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Contact => "persons",
        Kind::Company => "organizations",
        Kind::Deal | Kind::Appointment | Kind::Sale => "deals",
    }
}

/// What Pipedrive calls one record of a kind.
fn singular(kind: Kind) -> &'static str {
    match kind {
        Kind::Contact => "person",
        Kind::Company => "organization",
        Kind::Deal | Kind::Appointment | Kind::Sale => "deal",
    }
}
