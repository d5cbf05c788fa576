//! What is free: the open slots of a clinic's schedules. Offers, not holds.
//!
//! A slot says when; its schedule says whose time that is, and where. Slots are searched by the schedules that are in
//! use, since many servers know no other way.
//!
//! Source: <https://hl7.org/fhir/R4/slot.html>, <https://hl7.org/fhir/R4/schedule.html>.

use chrono::{DateTime, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tandem_contract::{Call, ConnectorError, Opening, WantedOpenings};
use tracing::warn;
use url::Url;

use crate::{
    Fhir,
    booking::iso,
    bundle::{escaped, parse, search},
    reference::Reference,
    visits::{Period, instant},
};

/// Pages of one search, at most.
const MOST_PAGES: usize = 20;
/// Schedules of one search: they stand in its address.
const SCHEDULES: usize = 20;

#[derive(Deserialize)]
struct Slot {
    id: String,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    schedule: Reference,
}

/// Whose time slots are of. What people wrote beside it has no place here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Schedule {
    id: String,
    active: Option<bool>,
    actor: Vec<Reference>,
    planning_horizon: Period,
}

impl Schedule {
    fn actors<'a>(&'a self, kind: &'a str, base: &'a Url) -> impl Iterator<Item = String> + 'a {
        self.actor.iter().filter_map(move |one| one.id(kind, base))
    }

    /// Whether it may have what is looked for. A bound of its horizon that is no instant bounds nothing.
    fn may_have(&self, wanted: &WantedOpenings, base: &Url) -> bool {
        let begins = instant(self.planning_horizon.start.as_deref());
        let ends = instant(self.planning_horizon.end.as_deref());
        let is_in_time = begins.is_none_or(|at| at < wanted.until) && ends.is_none_or(|at| at >= wanted.from);
        let is_of = |kind: &str, id: &Option<String>| {
            id.as_ref().is_none_or(|id| self.actors(kind, base).any(|known| known == *id))
        };
        let is_theirs = is_of("Practitioner", &wanted.practitioner) && is_of("Location", &wanted.site);
        self.active != Some(false) && is_in_time && is_theirs
    }
}

/// Every row of a search, up to a bound.
async fn all(
    fhir: &Fhir,
    call: Call,
    kind: &str,
    filters: &[(&'static str, String)],
) -> Result<Vec<Box<RawValue>>, ConnectorError> {
    let (mut found, mut at) = (Vec::new(), None::<String>);
    for _ in 0..MOST_PAGES {
        let rows = search(fhir, call.lane, kind, filters, at.as_deref()).await?;
        found.extend(rows.found);
        at = rows.next;
        if at.is_none() {
            break;
        }
    }
    Ok(found)
}

/// The rows that can be read: an odd one hides no other.
fn readable<T: DeserializeOwned>(kind: &str, rows: &[Box<RawValue>]) -> Result<Vec<T>, ConnectorError> {
    let (mut read, mut odd) = (Vec::with_capacity(rows.len()), None);
    for raw in rows {
        match parse(raw) {
            Ok(row) => read.push(row),
            Err(error) => {
                warn!(kind, %error, "a row cannot be read, and is left out");
                odd = Some(error);
            }
        }
    }
    match odd {
        Some(error) if read.is_empty() => Err(error),
        _ => Ok(read),
    }
}

/// The schedules that may have what is looked for; `None` where the server tells of none.
async fn schedules(fhir: &Fhir, call: Call, wanted: &WantedOpenings) -> Result<Option<Vec<Schedule>>, ConnectorError> {
    let mut actors = Vec::new();
    for (kind, id) in [("Practitioner", &wanted.practitioner), ("Location", &wanted.site)] {
        actors.extend(id.as_deref().map(|id| ("actor", format!("{kind}/{}", escaped(id)))));
    }
    if !fhir.profile().schedules {
        let field = if wanted.practitioner.is_some() { "practitioner" } else { "site" };
        return match actors.is_empty() {
            true => Ok(None),
            false => Err(ConnectorError::Rejected {
                field: Some(field.into()),
                reason: "this server does not tell whose time is free".into(),
            }),
        };
    }
    let rows = match all(fhir, call, "Schedule", &actors).await {
        // It does not search by whose they are: all of them are read, and told apart here.
        Err(ConnectorError::Rejected { .. }) if !actors.is_empty() => all(fhir, call, "Schedule", &[]).await?,
        // Slots may be shared where schedules are not.
        Err(ConnectorError::Rejected { .. } | ConnectorError::Forbidden(_) | ConnectorError::Gone)
            if actors.is_empty() =>
        {
            return Ok(None);
        }
        rows => rows?,
    };
    // Slots without a schedule that is told of: nothing is known of whose they are.
    if rows.is_empty() && actors.is_empty() {
        return Ok(None);
    }
    let mut schedules: Vec<Schedule> = readable("Schedule", &rows)?;
    schedules.retain(|schedule| schedule.may_have(wanted, fhir.client.base_url()));
    // A page that was shown twice.
    schedules.sort_by(|a, b| a.id.cmp(&b.id));
    schedules.dedup_by(|a, b| a.id == b.id);
    Ok(Some(schedules))
}

/// What is free, in order.
pub async fn find(fhir: &Fhir, call: Call, wanted: &WantedOpenings) -> Result<Vec<Opening>, ConnectorError> {
    if !fhir.profile().slots {
        return Err(ConnectorError::Rejected {
            field: Some("connection".into()),
            reason: "this server does not tell what is free".into(),
        });
    }
    let schedules = schedules(fhir, call, wanted).await?;
    let when = [
        ("start", format!("ge{}", iso(wanted.from))),
        ("start", format!("lt{}", iso(wanted.until))),
        ("status", "free".to_owned()),
    ];
    let mut rows = Vec::new();
    match &schedules {
        None => rows = all(fhir, call, "Slot", &when).await?,
        Some(known) => {
            for some in known.chunks(SCHEDULES) {
                let list: Vec<String> = some.iter().map(|one| format!("Schedule/{}", escaped(&one.id))).collect();
                let mut filters = vec![("schedule", list.join(","))];
                filters.extend(when.iter().cloned());
                rows.extend(all(fhir, call, "Slot", &filters).await?);
            }
        }
    }
    let base = fhir.client.base_url();
    let mut openings = Vec::new();
    for slot in readable::<Slot>("Slot", &rows)? {
        let of = slot.schedule.id("Schedule", base);
        let whose = schedules.iter().flatten().find(|one| of.as_ref() == Some(&one.id));
        // A server that ignores a filter answers everybody's.
        let is_asked_for = schedules.is_none() || whose.is_some();
        if is_asked_for && slot.status == "free" && slot.start >= wanted.from && slot.start < wanted.until {
            let actor = |kind: &str| whose.and_then(|one| one.actors(kind, base).next());
            openings.push(Opening {
                practitioner: actor("Practitioner"),
                site: actor("Location"),
                slot: slot.id,
                starts_at: slot.start,
                ends_at: slot.end,
            });
        }
    }
    openings.sort_by(|a, b| (a.starts_at, &a.slot).cmp(&(b.starts_at, &b.slot)));
    openings.dedup();
    Ok(openings)
}
