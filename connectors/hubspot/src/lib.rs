//! HubSpot for Tandem: deals and contacts both ways, with owners, pipelines, associations and custom properties.
//!
//! What HubSpot offers and lacks decides the shape of this crate. There is no compare-and-swap, so every written
//! property's history is read afterwards. There is no idempotency key, so records are created under our own unique
//! property. Search lags behind writes, so its rows are only hints and records are read by id. Partial success
//! comes as 207, so every outcome is matched to its record.
//!
//! Vendor facts are those of the public developer documentation, <https://developers.hubspot.com/docs>; a fact that
//! is not confirmed there is a setting of the sandbox and tested both ways.

mod associations;
mod auth;
mod changes;
mod client;
mod marker;
mod paths;
mod push;
mod records;
mod schema;
mod values;
mod webhook;
mod wire;

#[cfg(feature = "sandbox")]
pub mod sandbox;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Guarantee, Hint, History, Identity,
    KeepRefreshToken, Kind, Limit, Page, PropertyType, Pushed, Record, Schema, Secret, Sought, Stream, Transport,
    WebhookError, WebhookRequest, Write,
};
use url::Url;

pub use paths::ApiVersion;
pub use tandem_contract::Credentials;
pub use webhook::{sign_v1, sign_v3};

use client::Client;
use marker::Marker;

/// The property that stands for a deal's contacts: HubSpot keeps them as associations, apart from properties.
pub const CONTACTS: &str = "associations.contacts";

/// How a connection to HubSpot is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API is; HubSpot's own address if left out.
    pub base_url: Url,
    /// Where grants are exchanged for access tokens; beside the API if left out.
    pub token_url: Option<Url>,
    /// Which generation of paths to call.
    pub api_version: ApiVersion,
    /// Token or OAuth grant.
    pub credentials: Credentials,
    /// Secret that webhooks are signed with.
    pub client_secret: Option<Secret>,
    /// Accept webhooks that carry only the v1 signature. It has no time stamp, so it allows replay; a replay costs
    /// one needless read.
    pub accept_v1_signature: bool,
    /// The properties to read and their types, by kind. Nothing else is asked for.
    pub select: BTreeMap<Kind, BTreeMap<String, PropertyType>>,
    /// Calls in a window. HubSpot's floor (100 per 10 s) until the headers say more.
    pub rate_limit: Limit,
    /// Search calls in a window; shared by all apps of the account.
    pub search_rate_limit: Limit,
    /// Calls a day.
    pub daily_budget: u64,
    /// Time between two polls; derived from the daily budget if left out.
    pub poll: Option<Duration>,
    /// Time after which a request is given up.
    pub request_timeout: Duration,
    /// Never writes, not even the marker property.
    pub read_only: bool,
    /// Name of our unique property.
    pub marker_property: String,
    /// This installation's id: two Tandems on one account do not take each other's records for their own.
    pub installation: String,
}

impl Options {
    /// HubSpot's own address.
    pub const BASE_URL: &'static str = "https://api.hubapi.com";
    /// Calls a day of the smallest account, until the headers say more.
    /// Source: HubSpot developer documentation, "Usage guidelines".
    pub const DAILY_BUDGET: u64 = 250_000;

    /// Options with the documented floors for everything but the address and the credentials.
    #[must_use]
    pub fn new(base_url: Url, credentials: Credentials) -> Self {
        Self {
            base_url,
            token_url: None,
            api_version: ApiVersion::default(),
            credentials,
            client_secret: None,
            accept_v1_signature: false,
            select: BTreeMap::new(),
            rate_limit: Limit { requests: 100, per: Duration::from_secs(10) },
            search_rate_limit: Limit { requests: 5, per: Duration::from_secs(1) },
            daily_budget: Self::DAILY_BUDGET,
            poll: None,
            request_timeout: Duration::from_secs(15),
            read_only: false,
            marker_property: "tandem_id".into(),
            installation: "tandem".into(),
        }
    }
}

/// A connection to one HubSpot account.
pub struct HubSpot {
    client: Client,
    options: Options,
    marker: Marker,
    /// Properties that were looked up and found missing, with the moment that was learnt.
    missing: Mutex<BTreeMap<(Kind, String), Duration>>,
}

impl HubSpot {
    /// How long after we gave up HubSpot may still carry a request out: it answers 524 after 100 s.
    /// Source: HubSpot developer documentation, "Error handling".
    pub const LATE_WINDOW: Duration = Duration::from_secs(100);
    /// How long a push waits, for budget and for what is looked up before a write, until it sends nothing more.
    const PATIENCE: Duration = Duration::from_secs(40);

    /// Connects. Nothing is sent yet.
    #[must_use]
    pub fn new(options: Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&options, transport, clock);
        Self { client, options, marker: Marker::default(), missing: Mutex::default() }
    }

    /// Sets where a changed refresh token is kept, before the access token that came with it is used.
    #[must_use]
    pub fn keep_refresh_token(mut self, keep: Arc<dyn KeepRefreshToken>) -> Self {
        self.client.auth.keep_by(keep);
        self
    }

    fn period(&self) -> Duration {
        self.options.poll.unwrap_or_else(|| {
            // 5 % of the day's calls for two streams.
            let seconds = 86_400 * 2 * 20 / self.options.daily_budget.max(1);
            Duration::from_secs(seconds.clamp(5, 3_600))
        })
    }

    /// [`Self::PATIENCE`], or as long as two requests may take.
    fn patience(&self) -> Duration {
        Self::PATIENCE.max(2 * self.options.request_timeout)
    }
}

#[async_trait]
impl Connector for HubSpot {
    fn system(&self) -> &'static str {
        "hubspot"
    }

    fn guarantee(&self, _: Kind) -> Guarantee {
        Guarantee::CheckedAfterwards
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
        changes::streams(&self.kinds(), self.period())
    }

    async fn check(&self) -> Result<Identity, ConnectorError> {
        schema::check(self).await
    }

    async fn discover(&self) -> Result<Schema, ConnectorError> {
        schema::discover(self).await
    }

    async fn changes(&self, call: Call, stream: &Stream, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::next_page(self, call, stream, cursor).await
    }

    fn is_backfill(&self, stream: &Stream, cursor: &Cursor) -> bool {
        changes::is_listing(stream, cursor)
    }

    async fn list(&self, call: Call, kind: Kind, cursor: &Cursor) -> Result<Page, ConnectorError> {
        let after = (!cursor.0.is_empty()).then_some(cursor.0.as_str());
        let (seen, next) = records::list(self, call, kind, after).await?;
        Ok(Page { seen, more: next.is_some(), next: Cursor(next.unwrap_or_default()), total: None })
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

    fn hints(&self, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
        webhook::hints(self.options.client_secret.as_ref(), self.options.accept_v1_signature, request)
    }

    fn calls(&self) -> u64 {
        self.client.calls.load(Ordering::Relaxed)
    }
}
