//! Every switch of the simulated server, the switchboard of faults, and counters that tests read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tandem_sandbox::Struck;

use crate::Dialect;

/// How `_lastUpdated` is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastUpdated {
    /// To the second.
    Instant,
    /// By day: with `eq`, `gt` or `le`, and without a time.
    Day,
    /// Not at all.
    None,
}

/// What versions are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Versioning {
    /// There are none.
    NoVersion,
    /// There are, and `If-Match` is heeded where it is sent.
    Versioned,
    /// An update without `If-Match` is refused.
    VersionedUpdate,
}

/// What happens to a patient who is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// They are made again.
    Made,
    /// 422.
    Refused,
    /// 200 with the old record.
    Answered,
}

/// How the server behaves when nothing is broken.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Tokens that never expire.
    pub access_tokens: Vec<String>,
    /// The client's id.
    pub client_id: String,
    /// Its secret, where it has one.
    pub client_secret: String,
    /// Its public keys, as a JWK Set.
    pub jwks: Json,
    /// Seconds for which a token is good.
    pub token_seconds: u64,
    /// Scopes that are granted; everything that is asked for where it is empty.
    pub scopes: Vec<String>,
    /// Seconds by which the end of an assertion may be off.
    pub skew_seconds: i64,
    /// A header that must be there besides.
    pub extra_header: Option<String>,
    /// Types that there are.
    pub types: Vec<String>,
    /// How `_lastUpdated` is searched.
    pub last_updated: LastUpdated,
    /// Whether pages are numbered and end with an empty one; links otherwise.
    pub numbered_pages: bool,
    /// What versions are worth.
    pub versioning: Versioning,
    /// The answer to a version that is not the current one: 412, or 409.
    pub conflict_status: u16,
    /// Whether `If-None-Exist` is heeded.
    pub conditional_create: bool,
    /// Whether identifiers of others are kept.
    pub keeps_identifiers: bool,
    /// Whether filters that are not known are left out without a word.
    pub lenient: bool,
    /// The answer to a search by POST: 200, or the status by which it is refused.
    pub post_search: u16,
    /// Whether references are whole addresses.
    pub absolute_references: bool,
    /// Whether charges have no price, and say what they came to in an extension of the vendor's.
    pub total_cost_extension: bool,
    /// Whether participants have a status.
    pub participant_status: bool,
    /// Whether deleted records are remembered: 410, else 404.
    pub remembers_deleted: bool,
    /// Whether a create answers what was made.
    pub answers_representation: bool,
    /// What happens to a patient who is there already.
    pub duplicates: Duplicates,
    /// What a patient must have.
    pub required_of_patients: Vec<String>,
    /// Most rows of a page, however many were asked for.
    pub page_rows: usize,
    /// Seconds after which a link to a page has ended.
    pub page_seconds: i64,
    /// Milliseconds by which searches lag.
    pub lag_ms: u64,
    /// Calls per second that are let through.
    pub calls_per_second: u32,
    /// Whether a 429 says how long to wait.
    pub retry_after: bool,
    /// Whether news are sent.
    pub subscriptions: bool,
    /// Minutes after which a webhook that failed is sent again; none where the list is empty.
    pub webhook_retry_minutes: Vec<i64>,
    /// Whether everything that must not leave a clinic is filled in with a marker.
    pub canary: bool,
    /// Milliseconds by which this server's clock is ahead of the real one.
    pub clock_ahead_ms: i64,
    /// Whether answers carry a `Date` header.
    pub date_header: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let types = [
            "Patient",
            "Appointment",
            "Encounter",
            "ServiceRequest",
            "Slot",
            "Schedule",
            "Invoice",
            "ChargeItem",
            "Account",
            "Subscription",
        ];
        Self {
            access_tokens: vec!["sim-fhir-token".into()],
            client_id: "tandem-sandbox".into(),
            client_secret: "sim-fhir-secret".into(),
            jwks: serde_json::json!({ "keys": [] }),
            token_seconds: 300,
            scopes: Vec::new(),
            skew_seconds: 30,
            extra_header: None,
            types: types.map(str::to_owned).to_vec(),
            last_updated: LastUpdated::Instant,
            numbered_pages: false,
            versioning: Versioning::VersionedUpdate,
            conflict_status: 412,
            conditional_create: true,
            keeps_identifiers: true,
            lenient: true,
            post_search: 200,
            absolute_references: false,
            total_cost_extension: false,
            participant_status: true,
            remembers_deleted: true,
            answers_representation: true,
            duplicates: Duplicates::Made,
            required_of_patients: Vec::new(),
            page_rows: 1_000,
            page_seconds: 600,
            lag_ms: 0,
            calls_per_second: 50,
            retry_after: false,
            subscriptions: true,
            webhook_retry_minutes: Vec::new(),
            canary: false,
            clock_ahead_ms: 0,
            date_header: true,
        }
    }
}

impl Settings {
    /// A server of this dialect, as far as it is known.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        let all = Self::default();
        let without = |types: &[&str]| -> Vec<String> {
            all.types.iter().filter(|kind| !types.contains(&kind.as_str())).cloned().collect()
        };
        match dialect {
            Dialect::FullR4 => all,
            Dialect::ModmedEma => Self {
                types: without(&["ServiceRequest", "Invoice", "Subscription"]),
                last_updated: LastUpdated::Day,
                numbered_pages: true,
                versioning: Versioning::NoVersion,
                conditional_create: false,
                absolute_references: true,
                total_cost_extension: true,
                participant_status: false,
                page_rows: 50,
                subscriptions: false,
                extra_header: Some("x-api-key".into()),
                ..all
            },
            Dialect::NextechStu3 | Dialect::Canvas => Self {
                types: without(&["ServiceRequest", "Invoice", "ChargeItem", "Subscription"]),
                last_updated: LastUpdated::None,
                versioning: Versioning::NoVersion,
                conflict_status: 409,
                conditional_create: false,
                subscriptions: false,
                ..all
            },
            Dialect::Athena | Dialect::UsCoreOnly => Self {
                types: without(&["Appointment", "Slot", "Schedule", "Invoice", "ChargeItem", "Subscription"]),
                versioning: Versioning::NoVersion,
                conditional_create: false,
                subscriptions: false,
                ..all
            },
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
    /// 429 although nobody is too fast, in a gateway's words.
    pub too_many: f64,
    /// 503 with a page of HTML, without having done anything.
    pub unavailable_before: f64,
    /// 500 after having done it.
    pub unavailable_after: f64,
    /// A body that breaks off in the middle.
    pub truncated: f64,
    /// 401 although the token is good.
    pub unauthorized: f64,
    /// Right before a patient or an appointment is updated through the API, somebody at the desk writes an address or a
    /// comment.
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

/// What was asked of the server since the start, or since the counters were cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests answered or swallowed.
    pub requests: u64,
    /// Requests by route, such as `GET Appointment/{id}`.
    pub by_route: BTreeMap<String, u64>,
    /// Requests refused because the caller was too fast, faults not counted.
    pub too_many: u64,
    /// Records made through the API.
    pub created: u64,
    /// Records changed through the API.
    pub updated: u64,
    /// Records made or changed through the API, by type.
    pub written: BTreeMap<String, u64>,
    /// Updates refused for their version.
    pub stale: u64,
    /// What somebody wrote right before an update came, by record (`Patient/7`), oldest first.
    pub in_between: Vec<(String, String)>,
    /// Access tokens handed out.
    pub tokens: u64,
    /// Webhook events delivered.
    pub webhook_events: u64,
    /// Faults that happened, and where: by fault, then by route.
    pub faults: Struck,
}
