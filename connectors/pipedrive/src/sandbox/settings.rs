//! Every number of the simulated company, and the switchboard of its faults.

use serde::{Deserialize, Serialize};

/// How the company behaves when nothing is broken. Defaults are Pipedrive's documented values; `[U]` marks what its
/// documentation leaves open.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The company's id.
    pub company_id: u64,
    /// The company's part of its address.
    pub company_domain: String,
    /// IANA time zone of the token's user.
    pub timezone: String,
    /// Default currency.
    pub currency: String,
    /// Other currencies that are in use.
    pub currencies: Vec<String>,
    /// API tokens that are good.
    pub api_tokens: Vec<String>,
    /// The app's OAuth id, secret and grant.
    pub client_id: String,
    /// Secret of the app.
    pub client_secret: String,
    /// The grant that can be exchanged for access tokens; a consent makes another.
    pub refresh_token: String,
    /// Whether each exchange makes another as well `[U]`: nothing says so but that one may have been "already exchanged".
    pub rotate_refresh_token: bool,
    /// The app's callback address.
    pub redirect_uri: String,
    /// Life of the code of a consent in seconds.
    pub code_seconds: i64,
    /// Life of an access token in seconds.
    pub token_seconds: u64,
    /// Days after which an unused grant ends.
    pub grant_days: i64,
    /// The company's address that a token answer names; left out if empty.
    pub api_domain: String,
    /// Scopes of the OAuth app; an API token has all.
    pub scopes: Vec<String>,
    /// Calls in two seconds of a user's token.
    pub burst: u32,
    /// The same of an app with a grant.
    pub app_burst: u32,
    /// Tokens a day.
    pub daily_tokens: u64,
    /// Whether a call that is refused or fails is charged `[U]`.
    pub failed_calls_cost: bool,
    /// Whether answers carry the headers of the burst window.
    pub limit_headers: bool,
    /// Whether a fresh record has no time of change until it is edited `[U]`.
    pub fresh_has_no_update_time: bool,
    /// Whether `updated_since` finds records without a time of change `[U]`.
    pub updated_since_finds_fresh: bool,
    /// Whether a deleted record is answered by id (200, `is_deleted`) or is 404 at once `[U]`.
    pub deleted_by_id: bool,
    /// Whether a deleted deal's status becomes `deleted` `[U]`.
    pub deleted_is_a_status: bool,
    /// Whether custom fields without a value are left out instead of null `[U]`.
    pub omit_empty_custom: bool,
    /// Whether a deal without a value has the value 0 `[U]`.
    pub no_value_is_zero: bool,
    /// Whether opening a deal again clears its close, won and lost times `[U]`.
    pub reopening_clears_times: bool,
    /// Whether a stage of another pipeline than the one sent is refused, or the pipeline ignored `[U]`.
    pub foreign_stage_refused: bool,
    /// Whether a list longer than 500 is refused or cut `[U]`.
    pub long_page_refused: bool,
    /// Whether writing a deal's value makes the API set its probability to null as well, as one report has it `[O]`.
    pub value_resets_probability: bool,
    /// Whether the changelog comes oldest first `[U]`.
    pub changelog_oldest_first: bool,
    /// Days until a deleted record is gone.
    pub purge_days: i64,
    /// Most rows of one answer of a list, however many were asked for.
    pub page_rows: usize,
    /// Webhooks a user may have.
    pub webhook_limit: usize,
    /// Whether a webhook's address must be https and public.
    pub webhook_must_be_public: bool,
    /// Seconds to wait for a 2xx.
    pub webhook_timeout: u64,
    /// Failed first tries after which a webhook is banned.
    pub webhook_strikes: u32,
    /// Minutes of a ban, in which events are lost.
    pub webhook_ban_minutes: i64,
    /// Milliseconds by which this company's clock is ahead of the real one.
    pub clock_ahead_ms: i64,
    /// Whether answers carry a `Date` header.
    pub date_header: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let scopes = [
            "base",
            "deals:full",
            "contacts:full",
            "users:read",
            "search:read",
            "admin",
            "deal-fields:full",
            "contact-fields:full",
            "recents:read",
        ];
        Self {
            company_id: 5_566,
            company_domain: "glow".into(),
            timezone: "America/Phoenix".into(),
            currency: "USD".into(),
            currencies: vec!["EUR".into()],
            api_tokens: vec!["sandbox-0000-0000-0000-0000-0000-0000-40".into()],
            client_id: "sandbox-app".into(),
            client_secret: "sandbox-app-secret".into(),
            refresh_token: "5566:12:sandbox-refresh".into(),
            rotate_refresh_token: false,
            redirect_uri: "https://tandem.example.com/callback".into(),
            code_seconds: 300,
            token_seconds: 3_599,
            grant_days: 60,
            api_domain: String::new(),
            scopes: scopes.map(str::to_owned).to_vec(),
            burst: 40,
            app_burst: 160,
            daily_tokens: 300_000,
            failed_calls_cost: true,
            limit_headers: true,
            fresh_has_no_update_time: false,
            updated_since_finds_fresh: true,
            deleted_by_id: true,
            deleted_is_a_status: true,
            omit_empty_custom: false,
            no_value_is_zero: false,
            reopening_clears_times: true,
            foreign_stage_refused: true,
            long_page_refused: true,
            value_resets_probability: false,
            changelog_oldest_first: false,
            purge_days: 30,
            page_rows: 500,
            webhook_limit: 40,
            webhook_must_be_public: false,
            webhook_timeout: 10,
            webhook_strikes: 10,
            webhook_ban_minutes: 30,
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
    /// A record is made up to `late_create_ms` after the caller gave up.
    pub late_create: f64,
    /// How late.
    pub late_create_ms: u64,
    /// 429 of the burst window although it is not used up: another app ate it.
    pub too_many: f64,
    /// 503 without having done anything.
    pub unavailable_before: f64,
    /// 500 after having done it.
    pub unavailable_after: f64,
    /// 2xx with `success: false`, nothing done.
    pub false_success: f64,
    /// A body that breaks off in the middle.
    pub truncated: f64,
    /// A page of HTML instead of JSON, with 403: the gateway blocks.
    pub blocked: f64,
    /// 401 although the token is good.
    pub unauthorized: f64,
    /// 402 for every call: the company's account is not open.
    pub unpaid: bool,
    /// An event is never sent.
    pub webhook_lost: f64,
    /// An event is sent twice.
    pub webhook_twice: f64,
    /// An event is delayed by up to `webhook_delay_ms`.
    pub webhook_late: f64,
    /// How much.
    pub webhook_delay_ms: u64,
}
