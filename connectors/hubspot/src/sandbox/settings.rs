//! Every number of the simulated account, and the switchboard of its faults.

use serde::{Deserialize, Serialize};

/// How the account behaves when nothing is broken. Defaults are HubSpot's documented values; `[U]` marks what its
/// documentation leaves open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The account's id.
    pub portal_id: u64,
    /// IANA time zone of the account.
    pub timezone: String,
    /// Currency of the account.
    pub company_currency: String,
    /// Further currencies a deal may have.
    pub additional_currencies: Vec<String>,
    /// Tokens that never expire.
    pub access_tokens: Vec<String>,
    /// The app's OAuth id, secret and grant.
    pub client_id: String,
    /// Secret of the app, also of its webhooks.
    pub client_secret: String,
    /// The grant that can be exchanged for access tokens.
    pub refresh_token: String,
    /// Whether refreshing hands out a new refresh token and ends the old one `[U]`.
    pub rotate_refresh_token: bool,
    /// Life of an access token in seconds.
    pub token_seconds: u64,
    /// Scopes granted; a call that needs another is 403.
    pub scopes: Vec<String>,
    /// Calls per ten seconds.
    pub burst: u32,
    /// Calls a day.
    pub daily: u64,
    /// Search calls per second.
    pub search_per_second: u32,
    /// Association calls per ten seconds.
    pub association_burst: u32,
    /// Whether a 429 says how long to wait `[U]`.
    pub retry_after: bool,
    /// Shortest and longest delay before search shows a write, in milliseconds.
    pub search_lag_ms: (u64, u64),
    /// Most rows a search can reach.
    pub search_cap: usize,
    /// Delay before a new property can be used, in milliseconds.
    pub property_delay_ms: u64,
    /// Whether unique values are compared without regard to case `[U]`.
    pub unique_ignores_case: bool,
    /// Whether an archived record keeps its unique value `[U]`.
    pub archived_keeps_unique: bool,
    /// Whether a property without a value is left out of an answer instead of null `[U]`.
    pub omit_empty: bool,
    /// Whether numbers are kept as sent or written the short way `[U]`.
    pub normalise_numbers: bool,
    /// Whether text is trimmed when stored `[U]`.
    pub trim_text: bool,
    /// Whether a move to a closed stage through the API sets the close date `[U]`.
    pub close_date_on_api_move: bool,
    /// Whether an association change moves the deal's modification time `[O: it does not]`.
    pub association_moves_time: bool,
    /// Seconds after a write when calculated properties move the modification time again; 0 for never `[U]`.
    pub recompute_seconds: u64,
    /// Whether a merge makes a new record (documented for deals) or keeps the primary's id `[U for contacts]`.
    pub merge_makes_new: bool,
    /// Most records that one may have absorbed.
    pub merge_limit: usize,
    /// Whether a clash in a batch refuses all of it with 409, with what came before it stored `[U]`.
    pub clash_refuses_batch: bool,
    /// Links of one record in one answer.
    pub association_page: usize,
    /// Most rows of one answer of a list or a search, however many were asked for.
    pub page_rows: usize,
    /// Days until an archived record is gone.
    pub purge_days: i64,
    /// Whether webhooks carry the v3 signature `[U for private apps]`.
    pub webhook_v3: bool,
    /// Events of one delivery.
    pub webhook_batch: usize,
    /// Seconds to wait for a 2xx.
    pub webhook_timeout: u64,
    /// Retries of a delivery.
    pub webhook_retries: u32,
    /// Seconds over which the retries are spread.
    pub webhook_retry_seconds: u64,
    /// Milliseconds by which this account's clock is ahead of the real one.
    pub clock_ahead_ms: i64,
    /// Whether answers carry a `Date` header.
    pub date_header: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let scopes = ["crm.objects.deals", "crm.objects.contacts", "crm.objects.companies"]
            .iter()
            .flat_map(|scope| [format!("{scope}.read"), format!("{scope}.write")])
            .chain(
                ["crm.objects.owners.read", "crm.schemas.deals.write", "crm.schemas.contacts.write", "oauth"]
                    .map(str::to_owned),
            )
            .collect();
        Self {
            portal_id: 4242,
            timezone: "America/Phoenix".into(),
            company_currency: "USD".into(),
            additional_currencies: vec!["EUR".into()],
            access_tokens: vec!["pat-na1-sandbox".into()],
            client_id: "11112222-3333-4444-8555-666677778888".into(),
            client_secret: "11111111-2222-4333-8444-555555555555".into(),
            refresh_token: "na1-sandbox-refresh".into(),
            rotate_refresh_token: false,
            token_seconds: 1_800,
            scopes,
            burst: 190,
            daily: 625_000,
            search_per_second: 5,
            association_burst: 150,
            retry_after: false,
            search_lag_ms: (200, 30_000),
            search_cap: 10_000,
            property_delay_ms: 500,
            unique_ignores_case: false,
            archived_keeps_unique: true,
            omit_empty: false,
            normalise_numbers: false,
            trim_text: false,
            close_date_on_api_move: true,
            association_moves_time: false,
            recompute_seconds: 5,
            merge_makes_new: true,
            merge_limit: 250,
            clash_refuses_batch: true,
            association_page: 500,
            page_rows: 200,
            purge_days: 90,
            webhook_v3: true,
            webhook_batch: 100,
            webhook_timeout: 5,
            webhook_retries: 10,
            webhook_retry_seconds: 86_400,
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
    /// 429 although the budget is not used up: another app ate it.
    pub too_many: f64,
    /// 423: the account is locked by bulk writes.
    pub locked: f64,
    /// 502, 503, 521 or 523 without having done anything.
    pub unavailable_before: f64,
    /// 502, 504 or 524 after having done it.
    pub unavailable_after: f64,
    /// 477 for every call, with this many seconds in `Retry-After`: the account moves to another data centre.
    pub moving_seconds: u64,
    /// A row of a batch fails by itself (207).
    pub row_fails: f64,
    /// A row of a batch is carried out and left out of the answer.
    pub row_missing: f64,
    /// A row of a batch is neither carried out nor in the answer, as that of a record that was merged away.
    pub row_dropped: f64,
    /// Right before a row of a batch update is carried out, a person edits a text that it is about to overwrite.
    pub edited_in_between: f64,
    /// Rows of a batch answer come in another order.
    pub shuffle: f64,
    /// A body that breaks off in the middle.
    pub truncated: f64,
    /// 401 although the token is good.
    pub unauthorized: f64,
    /// An event is never sent.
    pub webhook_lost: f64,
    /// An event is sent twice, or up to ten times.
    pub webhook_twice: f64,
    /// An event is delayed by up to `webhook_delay_ms`.
    pub webhook_late: f64,
    /// How much.
    pub webhook_delay_ms: u64,
    /// Two events carry one number.
    pub webhook_same_id: f64,
    /// A delivery carries an event of another account as well.
    pub webhook_foreign: f64,
    /// Search shows a write only after `index_outage_ms`.
    pub index_outage: f64,
    /// How long.
    pub index_outage_ms: u64,
    /// Every write through the API is answered by an automation that edits the description.
    pub automation: f64,
}
