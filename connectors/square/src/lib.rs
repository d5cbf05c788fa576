//! Square for Tandem: customers both ways, and the sales of the till as evidence.
//!
//! What Square offers decides the shape of this crate. Customers have versions, so a write that was planned on an older one is
//! refused; creates carry an idempotency key, so the same create answers the same customer; both go in bulk. A sale at the
//! till is an order that cannot be written to and sends no `order.*` event: its completed payment is the trigger, the search
//! for orders the net. Square publishes no rate limit, so ours adapts.
//!
//! Vendor facts are those of the public documentation, <https://developer.squareup.com>, and of Square's OpenAPI description
//! of 2025-08-20; a fact that is not confirmed there is a setting of the sandbox, tested both ways.

mod auth;
mod catalog;
mod changes;
mod checkout;
mod client;
mod customers;
mod invoices;
mod orders;
mod push;
mod schema;
mod webhook;

#[cfg(feature = "sandbox")]
pub mod sandbox;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tandem_contract::{
    Call, Checkout, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Guarantee, Hint, Identity,
    KeepRefreshToken, Kind, Limit, NewCheckout, Page, PropertyType, Pushed, Record, SaleRead, Schema, Secret, Sought,
    Stream, Transport, WebhookError, WebhookRequest, Write,
};
use url::Url;

pub use tandem_contract::Credentials;
pub use webhook::sign;

use catalog::Books;
use client::Client;

/// How a connection to Square is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API is; Square's own address if left out.
    pub base_url: Url,
    /// Where a seller lets the application in; beside `base_url` if left out.
    pub authorize_url: Option<Url>,
    /// The application's redirect address, letter by letter as Square has it. Without it nobody is asked to let the
    /// application in.
    pub redirect_uri: Option<String>,
    /// Token or OAuth grant.
    pub credentials: Credentials,
    /// Keys that webhooks are signed with: the one in use, and while it is changed the one before.
    pub signature_keys: Vec<Secret>,
    /// The address webhooks are sent to, exactly as Square has it: it is part of what is signed.
    pub notification_url: Option<String>,
    /// The properties to read and their types, by kind.
    pub select: BTreeMap<Kind, BTreeMap<String, PropertyType>>,
    /// Calls in a window, at most; fewer while Square says that they are too many.
    pub rate_limit: Limit,
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
    /// Square's own address.
    pub const BASE_URL: &'static str = "https://connect.squareup.com";
    /// The generation of the API that this connector speaks.
    pub const VERSION: &'static str = "2025-08-20";
    /// Square publishes no limit; five calls a second is what its users report to be safe.
    pub const RATE_LIMIT: Limit = Limit { requests: 50, per: Duration::from_secs(10) };

    /// Options with careful values for everything but the address and the credentials.
    #[must_use]
    pub fn new(base_url: Url, credentials: Credentials) -> Self {
        Self {
            base_url,
            authorize_url: None,
            redirect_uri: None,
            credentials,
            signature_keys: Vec::new(),
            notification_url: None,
            select: BTreeMap::new(),
            rate_limit: Self::RATE_LIMIT,
            daily_budget: None,
            poll: None,
            request_timeout: Duration::from_secs(20),
            read_only: false,
        }
    }
}

/// A connection to one Square seller.
pub struct Square {
    client: Client,
    options: Options,
    books: Books,
    /// How many orders a page of a search is asked for: fewer once so many were too large to be read.
    orders_of_a_page: AtomicUsize,
}

impl Square {
    /// How long after we gave up Square may still carry a request out, and hide that: not documented; a minute is what its own
    /// clients wait, and another one what its searches lag.
    pub const LATE_WINDOW: Duration = Duration::from_secs(120);
    /// How long a push waits, for budget and for what is looked up before a write, until it sends nothing more.
    const PATIENCE: Duration = Duration::from_secs(40);
    /// Time between two polls, where the operator sets none.
    const POLL: Duration = Duration::from_secs(30);

    /// Connects. Nothing is sent yet.
    #[must_use]
    pub fn new(options: Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let client = Client::new(&options, transport, clock);
        Self { client, options, books: Books::default(), orders_of_a_page: AtomicUsize::new(orders::PAGE) }
    }

    /// Sets where a changed refresh token is kept, before the access token that came with it is used.
    #[must_use]
    pub fn keep_refresh_token(mut self, keep: Arc<dyn KeepRefreshToken>) -> Self {
        self.client.auth.keep_by(keep);
        self
    }

    /// [`Self::PATIENCE`], or as long as two requests may take.
    fn patience(&self) -> Duration {
        Self::PATIENCE.max(2 * self.options.request_timeout)
    }
}

#[async_trait]
impl Connector for Square {
    fn system(&self) -> &'static str {
        "square"
    }

    fn guarantee(&self, _: Kind) -> Guarantee {
        Guarantee::CompareAndSwap
    }

    /// Searches for customers lag by up to a minute.
    fn looks_behind(&self) -> bool {
        true
    }

    fn late_window(&self) -> Duration {
        Self::LATE_WINDOW
    }

    fn push_deadline(&self) -> Duration {
        self.patience() + self.options.request_timeout + Duration::from_secs(5)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.options.select.keys().copied().filter(|kind| *kind == Kind::Contact).collect()
    }

    fn streams(&self) -> Vec<Stream> {
        changes::streams(&self.kinds(), self.options.poll.unwrap_or(Self::POLL))
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
        Ok(schema::properties(self))
    }

    async fn changes(&self, call: Call, stream: &Stream, cursor: &Cursor) -> Result<Page, ConnectorError> {
        changes::next_page(self, call, stream, cursor).await
    }

    fn is_backfill(&self, stream: &Stream, cursor: &Cursor) -> bool {
        stream.backfills && (cursor.0.is_empty() || changes::is_listing(cursor))
    }

    async fn list(&self, call: Call, _: Kind, cursor: &Cursor) -> Result<Page, ConnectorError> {
        customers::list(self, call, cursor).await
    }

    async fn fetch(&self, call: Call, _: Kind, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError> {
        customers::fetch(self, call, ids).await
    }

    async fn find(&self, call: Call, _: Kind, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError> {
        customers::find(self, call, sought).await
    }

    async fn push(&self, call: Call, writes: &[Write]) -> Vec<Pushed> {
        push::push(self, call, writes).await
    }

    async fn sales(&self, call: Call, ids: &[ExternalId]) -> Result<Vec<SaleRead>, ConnectorError> {
        orders::sales(self, call, ids).await
    }

    async fn checkout_location(&self, call: Call, currency: &str) -> Result<Option<String>, ConnectorError> {
        checkout::some_location(self, call, currency).await.map(Some)
    }

    async fn checkout(&self, call: Call, new: &NewCheckout) -> Result<Checkout, ConnectorError> {
        checkout::start(self, call, new).await
    }

    fn hints(&self, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
        let news = webhook::news(&self.options, request)?;
        if news.is_of_catalog {
            self.books.note_change();
        }
        Ok(news.hints)
    }

    fn event(&self, request: &WebhookRequest<'_>) -> Option<ExternalId> {
        webhook::event(request.body)
    }

    fn calls(&self) -> u64 {
        self.client.calls.load(Ordering::Relaxed)
    }
}
