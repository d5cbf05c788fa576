//! The seller's state: locations, catalog, customers, orders, payments, and the dice.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::{Rng, rngs::StdRng};
use serde_json::{Value as Json, json};

use super::{
    catalog::{Catalog, LocationDef},
    checkout::{Invoice, PaymentLink},
    customers::Customer,
    settings::{Faults, Settings, Stats},
    till::{Order, Payment, Refund},
    tokens::Consent,
    webhooks::Outbox,
};

/// A refusal in Square's words.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Json,
}

impl Refusal {
    pub(super) fn new(status: u16, category: &str, code: &str, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        Self { status, body: json!({ "errors": [{ "category": category, "code": code, "detail": detail }] }) }
    }

    pub(super) fn invalid(code: &str, field: &str, detail: impl Into<String>) -> Self {
        let mut refusal = Self::new(400, "INVALID_REQUEST_ERROR", code, detail);
        refusal.body["errors"][0]["field"] = field.into();
        refusal
    }

    pub(super) fn unauthorized(code: &str) -> Self {
        Self::new(401, "AUTHENTICATION_ERROR", code, "This request could not be authorized.")
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, "INVALID_REQUEST_ERROR", "NOT_FOUND", format!("{what} not found."))
    }

    /// The errors alone, as a row of a bulk answer.
    pub(super) fn errors(&self) -> Json {
        json!({ "errors": self.body["errors"] })
    }
}

/// Who changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A person at the till or in Square's dashboard.
    Person,
    /// A caller of the API.
    Api,
}

/// A record and what lists show of it, which is older.
#[derive(Clone, Debug)]
pub struct Listed {
    /// As lists show it, and the time of change they know.
    pub shown: Option<(Json, DateTime<Utc>)>,
    /// What they will show, and from when on.
    pub coming: VecDeque<(DateTime<Utc>, Json, DateTime<Utc>)>,
}

impl Listed {
    pub fn new() -> Self {
        Self { shown: None, coming: VecDeque::new() }
    }

    pub fn settle(&mut self, now: DateTime<Utc>) {
        while self.coming.front().is_some_and(|(at, ..)| *at <= now) {
            if let Some((_, json, updated)) = self.coming.pop_front() {
                self.shown = (!json.is_null()).then_some((json, updated));
            }
        }
    }
}

/// The simulated seller.
pub struct World {
    /// Its numbers.
    pub settings: Settings,
    /// What goes wrong.
    pub faults: Faults,
    /// What was asked of it.
    pub stats: Stats,
    /// Its time.
    pub now: DateTime<Utc>,
    pub(super) elapsed: Duration,
    pub(super) rng: StdRng,
    pub(super) locations: Vec<LocationDef>,
    pub(super) catalog: Catalog,
    pub(super) customers: BTreeMap<String, Customer>,
    pub(super) orders: BTreeMap<String, Order>,
    pub(super) payments: BTreeMap<String, Payment>,
    pub(super) refunds: BTreeMap<String, Refund>,
    pub(super) links: BTreeMap<String, PaymentLink>,
    pub(super) invoices: BTreeMap<String, Invoice>,
    /// Answers by route and idempotency key, with the body they were given for.
    pub(super) keys: BTreeMap<(String, String), (String, Json)>,
    /// What lists show of customers, orders, payments and refunds.
    pub(super) listed: BTreeMap<&'static str, BTreeMap<String, Listed>>,
    pub(super) outbox: Outbox,
    pub(super) tokens: BTreeMap<String, DateTime<Utc>>,
    /// Consents by their codes.
    pub(super) codes: BTreeMap<String, Consent>,
    pub(super) calls: VecDeque<Duration>,
    sequence: u64,
}

pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl World {
    pub(super) fn furnished(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        let mut world = Self {
            settings,
            faults: Faults::default(),
            stats: Stats::default(),
            now,
            elapsed: Duration::ZERO,
            rng,
            locations: Vec::new(),
            catalog: Catalog::default(),
            customers: BTreeMap::new(),
            orders: BTreeMap::new(),
            payments: BTreeMap::new(),
            refunds: BTreeMap::new(),
            links: BTreeMap::new(),
            invoices: BTreeMap::new(),
            keys: BTreeMap::new(),
            listed: BTreeMap::new(),
            outbox: Outbox::default(),
            tokens: BTreeMap::new(),
            codes: BTreeMap::new(),
            calls: VecDeque::new(),
            sequence: 0,
        };
        world.furnish();
        world
    }

    /// A new id, as long and as odd as Square's.
    pub(super) fn next_id(&mut self, prefix: &str) -> String {
        self.sequence += 1;
        let tail: u64 = self.rng.random();
        format!("{prefix}{:04}{tail:016X}", self.sequence)
    }

    /// Whether a fault of this probability happens here; counted if it does.
    pub(super) fn struck(&mut self, fault: &'static str, probability: f64, place: &str) -> bool {
        tandem_sandbox::struck(&mut self.rng, &mut self.stats.faults, fault, probability, place)
    }

    /// Lists will show this of a record, once they have caught up; null once it is gone.
    pub(super) fn list_later(&mut self, what: &'static str, id: &str, json: Json, updated: DateTime<Utc>) {
        let lag = match what {
            "customers" => self.settings.customer_lag_ms,
            "orders" => self.settings.order_lag_ms,
            _ => self.settings.payment_lag_ms,
        };
        let at = self.now + TimeDelta::milliseconds(i64::try_from(lag).unwrap_or(0));
        let listed = self.listed.entry(what).or_default().entry(id.to_owned()).or_insert_with(Listed::new);
        listed.coming.push_back((at, json, updated));
        listed.settle(self.now);
    }

    /// Catches up with time.
    pub(super) fn settle(&mut self) {
        let now = self.now;
        for listed in self.listed.values_mut().flat_map(BTreeMap::values_mut) {
            listed.settle(now);
        }
    }

    /// Revokes everything that gives access, as a seller does who disconnects the application.
    pub fn revoke_access(&mut self) {
        self.settings.access_tokens.clear();
        self.tokens.clear();
        self.codes.clear();
        self.settings.refresh_token.clear();
    }

    /// Clears the counters.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
    }
}
