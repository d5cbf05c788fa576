//! The real program with a till and a clinic beside its CRM, and somebody's opportunities in it. Invented people only.

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde_json::{Value as Json, json};
use tandem_contract::{Clock, SystemClock};

use crate::process::{Place, Running};

/// What the clinic's server says in its rest-hooks.
pub const HOOK: &str = "long-random-hook";
/// The id of nothing.
pub const NOBODY: &str = "0199d2c4-0000-7000-8000-00000000002a";

/// The table of a till that is looked at every `poll` seconds, and tells its news by itself; with the key that it signs with.
pub fn square(place: &Place, poll: u64) -> (String, String) {
    let quick = json!({ "customer_lag_ms": 0, "order_lag_ms": 0, "payment_lag_ms": 0, "calls_per_second": 1_000 });
    place.set("square", &quick);
    let hook = format!("http://127.0.0.1:{}/webhooks/square", place.port);
    let wanted = json!({ "subscription": { "name": "tandem", "event_types": ["*"], "notification_url": hook } });
    let (status, made) = place.there("square", "POST", "/v2/webhooks/subscriptions", &wanted);
    assert_eq!(status, 200, "{made}");
    let key = made["subscription"]["signature_key"].as_str().unwrap().to_owned();
    let started = place.started("square");
    let base = started["base_url"].as_str().unwrap();
    let token = started["credentials"]["access_token"].as_str().unwrap();
    let table = format!(
        r#"
[connections.square]
account = "glow_clinic"
connector = "square"
base_url = "{base}"
credentials = {{ access_token = "{token}", signature_key = "{key}" }}
rate_limit = {{ requests = 90, per_seconds = 10 }}
poll_seconds = {poll}
"#
    );
    (table, key)
}

/// The table of the clinic that `tandem sandbox` serves.
pub fn emr(place: &Place, poll: u64) -> String {
    place.set("fhir", &json!({ "calls_per_second": 1_000 }));
    let started = place.started("fhir");
    let token = started["credentials"]["access_token"].as_str().unwrap();
    emr_at(started["base_url"].as_str().unwrap(), token, poll)
}

/// The table of a clinic, and the rules by which its visits move opportunities.
pub fn emr_at(base: &str, token: &str, poll: u64) -> String {
    format!(
        r#"
[connections.emr]
account = "glow_clinic"
connector = "fhir"
base_url = "{base}"
credentials = {{ access_token = "{token}", hook_token = "{HOOK}" }}
poll_seconds = {poll}
visit_types = [
  {{ code = "CONSULT", class = "consult", service = "injectables", kind = "meeting" }},
  {{ code = "TREAT", class = "treatment", service = "injectables", kind = "service" }},
]
[accounts.glow_clinic.visit_rules.injectables]
pipeline = "Sales"
consult_booked = "Presentation scheduled"
consult_done = "Decision maker bought in"
treatment_booked = "Contract sent"
"#
    )
}

/// Now, in whole seconds.
pub fn now() -> DateTime<Utc> {
    SystemClock::new().now().trunc_subsecs(0)
}

/// A moment as the API and a clinic write it.
pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A daemon that works. The daemon ends before its sandboxes and its folder do.
pub struct House {
    _daemon: Running,
    pub place: Place,
}

impl House {
    /// Starts the daemon with these tables besides HubSpot's, and this much in its log.
    pub fn open(level: &str, tables: impl FnOnce(&Place) -> String) -> Self {
        let place = Place::new(2, 3, "sqlite://tandem.db");
        // These tests look again and again, which is not to use up the daemon's budget.
        place.set("hubspot", &json!({ "burst": 100_000 }));
        let tables = tables(&place);
        place.configure(&tables);
        let house = Self { _daemon: place.serve_telling(level), place };
        // Pipelines are known by then.
        house.place.until("HubSpot's deals are here", || house.list("/api/v1/opportunities").len() == 3);
        house
    }

    /// Ends the daemon.
    pub fn leave(self) -> Place {
        self.place
    }

    pub fn list(&self, path: &str) -> Vec<Json> {
        let (status, page) = self.place.ask("GET", path, &Json::Null);
        assert_eq!(status, 200, "{path}: {page}");
        page["data"].as_array().cloned().unwrap_or_default()
    }

    fn made(&self, path: &str, body: &Json) -> String {
        let (status, made) = self.place.ask("POST", path, body);
        assert_eq!(status, 201, "{body}: {made}");
        made["id"].as_str().unwrap().to_owned()
    }

    /// Makes a contact; answers our id.
    pub fn person(&self, first: &str) -> String {
        let email = format!("{}@example.com", first.to_lowercase());
        self.made("/api/v1/contacts", &json!({ "first_name": first, "last_name": "Rivera", "email": email }))
    }

    /// Makes an opportunity in the pipeline "Sales"; answers our id.
    pub fn deal(&self, name: &str, contact: Option<&str>, minor: Option<i64>) -> String {
        let pipelines = self.list("/api/v1/pipelines");
        let sales = pipelines.iter().find(|pipeline| pipeline["label"] == "Sales").unwrap();
        let mut body = json!({ "name": name, "pipeline_id": sales["id"] });
        if let Some(contact) = contact {
            body["contact_id"] = contact.into();
        }
        if let Some(minor) = minor {
            body["value"] = json!({ "minor": minor, "currency": "USD" });
        }
        self.made("/api/v1/opportunities", &body)
    }

    /// An opportunity as the API shows it.
    pub fn shown(&self, id: &str) -> Json {
        let (status, shown) = self.place.ask("GET", &format!("/api/v1/opportunities/{id}"), &Json::Null);
        assert_eq!(status, 200, "{shown}");
        shown
    }

    pub fn visits(&self, id: &str) -> Vec<Json> {
        self.list(&format!("/api/v1/opportunities/{id}/visits"))
    }

    /// Waits until an opportunity is won, for this much.
    pub fn until_won(&self, id: &str, minor: i64) {
        self.place.until("the opportunity is won", || {
            let shown = self.shown(id);
            shown["status"] == "won" && shown["value"]["minor"] == minor
        });
    }

    /// Waits until a contact's visit is this far.
    pub fn until_visit(&self, id: &str, member: &str, value: &str) {
        self.place.until("the visit is known as it is", || {
            self.visits(id).first().is_some_and(|visit| visit[member] == value)
        });
    }

    /// What HubSpot says of the deal that an opportunity is there.
    pub fn in_hubspot(&self, id: &str, property: &str) -> Option<String> {
        let shown = self.shown(id);
        let links = shown["external_ids"].as_array()?;
        let deal = links.iter().find(|link| link["connection"] == "hubspot")?;
        let path = format!("/crm/objects/2026-09/deals/{}?properties={property}", deal["id"].as_str()?);
        let (_, deal) = self.place.there("hubspot", "GET", &path, &Json::Null);
        deal["properties"][property].as_str().map(str::to_owned)
    }

    /// Waits until a record is known at a connection; answers what it is called there.
    pub fn known_as(&self, record: &str, connection: &str) -> String {
        let (mut known, here) = (None, format!(" at {connection} ("));
        self.place.until("the record is there as well", || {
            let told = String::from_utf8(self.place.run(&["why", record]).stdout).unwrap();
            let id = |line: &str| Some(line.trim().strip_prefix("is ")?.split_once(here.as_str())?.0.to_owned());
            known = told.lines().find_map(id);
            known.is_some()
        });
        known.unwrap()
    }

    /// Somebody pays at the till, towards an order or for something new, as `by` says; answers the sale's name here.
    pub fn paid(&self, minor: i64, by: &Json) -> String {
        let mut pays = by.clone();
        pays["source_id"] = "cnon:card-nonce-ok".into();
        pays["amount_money"] = json!({ "amount": minor, "currency": "USD" });
        let (status, paid) = self.place.there("square", "POST", "/v2/payments", &pays);
        assert_eq!(status, 200, "{paid}");
        format!("square:{}", paid["payment"]["order_id"].as_str().unwrap())
    }

    /// The API refuses this with this status, and names this field, or else this code.
    pub fn refuses(&self, method: &str, path: &str, body: &Json, status: u16, word: &str) {
        let (given, problem) = self.place.ask(method, path, body);
        let named = problem["field"].as_str().or(problem["code"].as_str()).unwrap_or_default();
        assert_eq!((given, named), (status, word), "{method} {path} {body}: {problem}");
    }
}
