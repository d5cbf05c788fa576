//! Who we are connected to, what the server can do, and what is missing.

use std::collections::BTreeMap;

use tandem_contract::{Call, CheckItem, ConnectorError, Identity, Kind, Lane, PropertyInfo, PropertyType, Schema};

use crate::{
    Fhir,
    client::{Ask, OUTCOME, Typed},
    patients::PROPERTIES,
    profile::{Capabilities, Feed, Profile},
    visits,
};

const CALL: Call = Call::on(Lane::Interactive);
const AS_THEY_CHANGE: &str = "found as they change";
const BY_DAY: &str = "found by the day they changed: those around today are read every five minutes";

async fn statement(fhir: &Fhir) -> Result<Capabilities, ConnectorError> {
    let answer = fhir.client.ask(&Ask::get(&["metadata"], CALL.lane)).await?;
    // It would seem to promise nothing.
    if answer.json::<Typed>()?.kind == OUTCOME {
        return Err(ConnectorError::Malformed { path: "resourceType".into() });
    }
    let statement: Capabilities = answer.json()?;
    fhir.learn(&statement);
    fhir.client.forget_refused_forms();
    Ok(statement)
}

/// Who are we connected to? A FHIR server has no account of its own: its address is one.
pub async fn identify(fhir: &Fhir) -> Result<Identity, ConnectorError> {
    statement(fhir).await?;
    Ok(Identity {
        remote_account: fhir.options.base_url.as_str().trim_end_matches('/').to_owned(),
        timezone: None,
        currency: None,
        currencies: Vec::new(),
        clock_offset: fhir.client.offset(),
        items: Vec::new(),
    })
}

/// The same, with what it can do.
pub async fn check(fhir: &Fhir) -> Result<Identity, ConnectorError> {
    let statement = statement(fhir).await?;
    let mut identity = identify(fhir).await?;
    let mut item = |name: &str, ok: bool, detail: String| {
        identity.items.push(CheckItem { name: name.into(), ok, detail });
    };
    let version = statement.fhir_version.as_str();
    item(
        "fhir",
        statement.speaks_json() && !version.is_empty(),
        format!("version {version}, profile {}", fhir.options.dialect.as_str()),
    );
    let profile = fhir.profile();
    let feed = match profile.feed {
        Feed::Instant => (true, AS_THEY_CHANGE),
        Feed::Day => (true, BY_DAY),
        Feed::Dates => (true, "not told by the server: the days around today are read every two minutes"),
        Feed::None => (false, "cannot be found by polling: only what the server's events name is read"),
    };
    item("appointments", feed.0, feed.1.into());
    let yes = |can: bool, good: &str, bad: &str| if can { good.to_owned() } else { bad.to_owned() };
    // What took place wins; without encounters something else must tell that it did.
    let encounters = match (profile.encounters, profile.feed) {
        (Feed::Instant, _) => (true, AS_THEY_CHANGE),
        (Feed::Day, _) => (true, BY_DAY),
        (Feed::Dates | Feed::None, Feed::None) => (
            false,
            "cannot be found by polling, nor can appointments: no visit wins an opportunity but one that the server's events \
             name; a sale at the till does, or a person",
        ),
        (Feed::Dates | Feed::None, _) => (
            false,
            "cannot be found by polling: an opportunity is won by a treatment's appointment that was kept, unless \
             kept_means_done in visit_rules says otherwise",
        ),
    };
    item("encounters", encounters.0, encounters.1.into());
    if fhir.options.patients {
        let patients = match profile.patients {
            Feed::Instant => AS_THEY_CHANGE,
            Feed::Day => BY_DAY,
            Feed::Dates | Feed::None => "not told by the server: all of them are read once a day",
        };
        item("patients", true, patients.into());
    }
    if fhir.options.plans {
        item("plans", profile.plans, yes(profile.plans, AS_THEY_CHANGE, "cannot be found by polling"));
    }
    item("booking", true, yes(profile.books, "may be made from here", "this server takes none from outside"));
    let openings = match (profile.slots, profile.schedules) {
        (true, true) => "what is free is told, and whose time it is",
        (true, false) => "what is free is told, and not whose time it is",
        (false, _) => "this server does not tell what is free",
    };
    item("openings", true, openings.into());
    item(
        "compare-and-swap",
        profile.if_match,
        yes(profile.if_match, "If-Match is heeded", "this server has none: what is written is read right before"),
    );
    for (name, value) in probes(&profile) {
        let ask = Ask::get(&["Appointment"], CALL.lane)
            .query(name, value)
            .query("_count", "1")
            .header(http::HeaderName::from_static("prefer"), "handling=strict");
        match fhir.client.read::<serde_json::Value>(&ask).await {
            Ok(_) => item(&format!("Appointment?{name}"), true, "may be searched".into()),
            Err(error @ (ConnectorError::Forbidden(_) | ConnectorError::Rejected { .. } | ConnectorError::Gone)) => {
                item(&format!("Appointment?{name}"), false, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(granted) = fhir.client.granted() {
        let reads = |kind: &str| {
            let is_for = |scope: &str| {
                let rest = scope.strip_prefix("system/")?;
                let (of, may) = rest.split_once('.')?;
                Some((of == kind || of == "*") && (may == "read" || may == "*" || may.contains('r') && may != "write"))
            };
            granted.split_whitespace().any(|scope| is_for(scope).unwrap_or(false))
        };
        let plans = fhir.options.plans.then_some("ServiceRequest");
        let needed = ["Patient", "Appointment", "Encounter"].into_iter().chain(plans);
        let missing: Vec<&str> = needed.filter(|kind| !reads(kind)).collect();
        let detail = match missing.is_empty() {
            true => "all that is needed was granted".to_owned(),
            false => format!("reading {} was not granted", missing.join(", ")),
        };
        item("scopes", missing.is_empty(), detail);
    }
    match fhir.options.visit_types.is_empty() {
        true => item("visit_types", false, "there is no row in visit_types, so no visit moves anything".into()),
        false if profile.feed == Feed::None => {}
        false => match visits::unmapped(fhir, CALL.lane).await {
            Ok(codes) if codes.is_empty() => {
                item("visit_types", true, "name every appointment of the last two weeks".into())
            }
            Ok(codes) => {
                let list: Vec<String> = codes.iter().map(|(code, count)| format!("{code} ({count})")).collect();
                item(
                    "visit_types",
                    false,
                    format!("these codes of recent appointments are not named: {}", list.join(", ")),
                );
            }
            Err(error) => item("visit_types", false, error.to_string()),
        },
    }
    let (ok, detail) = match (profile.subscriptions, &fhir.options.hook_token) {
        (false, _) => (true, "this server sends none: changes come by polling"),
        (true, None) => (false, "no hook_token: changes come by polling alone, up to a minute late"),
        (true, Some(_)) => (true, "subscribed to where http.public_url is set"),
    };
    item("webhooks", ok, detail.into());
    identity.clock_offset = fhir.client.offset();
    Ok(identity)
}

fn probes(profile: &Profile) -> Vec<(&'static str, &'static str)> {
    let date = ("date", "ge2000-01-01");
    match profile.feed {
        Feed::Instant => vec![("_lastUpdated", "ge2000-01-01T00:00:00Z"), date],
        // Such a server knows neither `ge` nor a time of day.
        Feed::Day => vec![("_lastUpdated", "gt2000-01-01")],
        Feed::Dates => vec![date],
        Feed::None => Vec::new(),
    }
}

/// Patients have the same fields everywhere, and there are no pipelines. What the server can do is learned anew with it.
pub async fn discover(fhir: &Fhir) -> Result<Schema, ConnectorError> {
    statement(fhir).await?;
    let info =
        |name: &str| PropertyInfo { label: name.to_owned(), kind: PropertyType::Text, read_only: false, unique: false };
    let fields: BTreeMap<String, PropertyInfo> =
        PROPERTIES.iter().map(|name| ((*name).to_owned(), info(name))).collect();
    Ok(Schema { properties: BTreeMap::from([(Kind::Contact, fields)]), ..Schema::default() })
}
