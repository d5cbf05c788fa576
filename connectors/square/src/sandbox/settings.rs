//! Every number of the simulated seller, the switchboard of faults, and counters that tests read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tandem_sandbox::Struck;

/// What an application can be permitted, as far as it is simulated.
pub(super) const SCOPES: [&str; 10] = [
    "MERCHANT_PROFILE_READ",
    "ORDERS_READ",
    "ORDERS_WRITE",
    "PAYMENTS_READ",
    "PAYMENTS_WRITE",
    "CUSTOMERS_READ",
    "CUSTOMERS_WRITE",
    "ITEMS_READ",
    "INVOICES_READ",
    "INVOICES_WRITE",
];

/// How the seller's account behaves when nothing is broken. Defaults are Square's documented values; `[U]` marks what its
/// documentation leaves open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The seller's id.
    pub merchant_id: String,
    /// Tokens that never expire.
    pub access_tokens: Vec<String>,
    /// The application's OAuth id.
    pub client_id: String,
    /// And its secret.
    pub client_secret: String,
    /// The grant that can be exchanged for access tokens; it stays the same until a consent makes another.
    pub refresh_token: String,
    /// The application's redirect address.
    pub redirect_uri: String,
    /// Life of the code of a consent in seconds.
    pub code_seconds: i64,
    /// Whether an application that is not known is refused with errors, as all else is, or with a message alone `[U]`.
    pub stranger_has_errors: bool,
    /// Life of an access token in seconds.
    pub token_seconds: u64,
    /// Scopes of OAuth tokens, which a consent says anew; a personal token has all.
    pub scopes: Vec<String>,
    /// Calls per second that are let through `[U]`.
    pub calls_per_second: u32,
    /// Whether a 429 says how long to wait `[U]`.
    pub retry_after: bool,
    /// Seconds after which a cursor is no good any more `[U]`.
    pub cursor_seconds: u64,
    /// Milliseconds by which lists of payments and refunds lag.
    pub payment_lag_ms: u64,
    /// Milliseconds by which searches for orders lag.
    pub order_lag_ms: u64,
    /// Milliseconds by which lists and searches of customers lag.
    pub customer_lag_ms: u64,
    /// Status of an answer to a stale version of a customer: 400 or 409 `[U]`.
    pub stale_customer_status: u16,
    /// The state of a payment link's order before it is paid: `DRAFT` or `OPEN` `[U]`.
    pub link_order_state: String,
    /// Whether an order is due again when a payment of it that was taken offline is declined; else it goes on saying that it is
    /// paid, and only the payment tells `[U]`.
    pub declined_is_due: bool,
    /// Whether what was deleted from the catalog comes along as what another object names `[U]`.
    pub deleted_are_related: bool,
    /// Whether a payment counts as given back what a refund is still under way for `[U]`.
    pub pending_is_refunded: bool,
    /// Whether the payment of an invoice names the customer whom it is addressed to `[U]`.
    pub invoice_payment_names_buyer: bool,
    /// Most rows of one answer of a list, however many were asked for.
    pub page_rows: usize,
    /// Seconds to wait for a 2xx.
    pub webhook_timeout: u64,
    /// Minutes to wait before each retry of a webhook; then every hour.
    pub webhook_retry_minutes: Vec<i64>,
    /// Hours after which a webhook is given up.
    pub webhook_hours: i64,
    /// Whether a webhook's address must be https.
    pub webhook_must_be_https: bool,
    /// How many webhooks a payment or a refund sends.
    pub burst: u32,
    /// Milliseconds by which this seller's clock is ahead of the real one.
    pub clock_ahead_ms: i64,
    /// Whether answers carry a `Date` header.
    pub date_header: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            merchant_id: "MLSANDBOX0001".into(),
            access_tokens: vec!["EAAA-sandbox-personal".into()],
            client_id: "sandbox-sq0idb-app".into(),
            client_secret: "sandbox-sq0csb-secret".into(),
            refresh_token: "EQAA-sandbox-refresh".into(),
            redirect_uri: "https://tandem.example.com/callback".into(),
            code_seconds: 300,
            stranger_has_errors: false,
            token_seconds: 2_592_000,
            scopes: SCOPES.map(str::to_owned).to_vec(),
            calls_per_second: 10,
            retry_after: false,
            cursor_seconds: 300,
            payment_lag_ms: 3_000,
            order_lag_ms: 1_000,
            customer_lag_ms: 20_000,
            stale_customer_status: 400,
            link_order_state: "DRAFT".into(),
            declined_is_due: true,
            deleted_are_related: true,
            pending_is_refunded: false,
            invoice_payment_names_buyer: true,
            page_rows: 1_000,
            webhook_timeout: 10,
            webhook_retry_minutes: vec![1, 2, 4, 8, 16, 32],
            webhook_hours: 24,
            webhook_must_be_https: false,
            burst: 2,
            clock_ahead_ms: 0,
            date_header: true,
        }
    }
}

/// What goes wrong, as probabilities from 0 to 1 per request or event. All zero at the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// An answer is delayed by up to `latency_ms`.
    pub slow: f64,
    /// The longest delay of a slow answer.
    pub latency_ms: u64,
    /// The request vanishes: nothing happens, no answer comes.
    pub lost_request: f64,
    /// The request is carried out and the answer vanishes.
    pub lost_answer: f64,
    /// The request is carried out up to `late_ms` after the caller gave up.
    pub late_commit: f64,
    /// How late.
    pub late_ms: u64,
    /// 429 although nobody is too fast.
    pub too_many: f64,
    /// 503 without having done anything.
    pub unavailable_before: f64,
    /// 500 after having done it.
    pub unavailable_after: f64,
    /// A body that breaks off in the middle.
    pub truncated: f64,
    /// 401 although the token is good.
    pub unauthorized: f64,
    /// One of a bulk's customers fails by itself.
    pub row_fails: f64,
    /// Right before a customer is updated through the API, somebody at the till changes the family name.
    pub edited_in_between: f64,
    /// An event is never sent.
    pub webhook_lost: f64,
    /// An event is sent twice.
    pub webhook_twice: f64,
    /// An event is delayed by up to `webhook_delay_ms`.
    pub webhook_late: f64,
    /// How much.
    pub webhook_delay_ms: u64,
}

/// What was asked of the seller's account since the start, or since the counters were cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests answered or swallowed.
    pub requests: u64,
    /// Requests by route, such as `POST v2/orders/search`.
    pub by_route: BTreeMap<String, u64>,
    /// Requests refused because the caller was too fast, faults not counted.
    pub too_many: u64,
    /// Customers created through the API.
    pub created: u64,
    /// Customers updated through the API.
    pub updated: u64,
    /// Customers deleted through the API.
    pub deleted: u64,
    /// Family names that somebody typed right before an update came, by customer, oldest first.
    pub in_between: Vec<(String, String)>,
    /// Idempotency keys that came again with another body.
    pub keys_reused: u64,
    /// Webhook events delivered.
    pub webhook_events: u64,
    /// Faults that happened, and where: by fault, then by route.
    pub faults: Struck,
}
