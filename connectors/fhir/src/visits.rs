//! Visits: appointments and encounters, and the plans that they follow from, read by id, classed by the operator's own
//! table.
//!
//! What a visit is about is looked up in the table while it is in memory, and goes no further: a [`Visit`] has no place for codes,
//! reasons, diagnoses or notes. Source: <https://hl7.org/fhir/R4/appointment.html>, <https://hl7.org/fhir/R4/encounter.html>.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use tandem_contract::{Call, ConnectorError, ExternalId, Lane, Version, Visit, VisitClass, VisitRead, VisitStatus};

use crate::{
    Fhir,
    bundle::{escaped, parse, quietly, search},
    charges,
    client::{Ask, Look, Meta},
    patients::{IDS, Identifier, hash, identified, visitors},
    plans::plan,
    reference::{Reference, one_or_many},
};

/// One row of the operator's table: a code that the clinic books with, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisitType {
    /// The code's system; any, if left out.
    pub system: Option<String>,
    /// The code.
    pub code: String,
    /// What it stands for.
    pub class: VisitClass,
    /// The service line, in the operator's words.
    pub service: Option<String>,
    /// What people call it when they book one from here: `meeting`, `service`, `rental`.
    pub kind: Option<String>,
}

/// A concept, by its codes alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Concept {
    coding: Vec<Coding>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Coding {
    system: Option<String>,
    code: Option<String>,
}

/// What a visit is for. A code of the table decides; the first one that it names.
pub fn classify<'a>(table: &[VisitType], concepts: impl Iterator<Item = &'a Concept>) -> (VisitClass, Option<String>) {
    for coding in concepts.flat_map(|concept| &concept.coding) {
        let is_it = |row: &&VisitType| {
            Some(row.code.as_str()) == coding.code.as_deref() && (row.system.is_none() || row.system == coding.system)
        };
        if let Some(row) = table.iter().find(is_it) {
            return (row.class, row.service.clone());
        }
    }
    (VisitClass::Unmapped, None)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Appointment {
    id: String,
    meta: Meta,
    status: String,
    identifier: Vec<Identifier>,
    appointment_type: Concept,
    service_type: Vec<Concept>,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    created: Option<String>,
    participant: Vec<Participant>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Participant {
    actor: Reference,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Encounter {
    id: String,
    meta: Meta,
    status: String,
    #[serde(rename = "type")]
    kinds: Vec<Concept>,
    subject: Reference,
    #[serde(deserialize_with = "one_or_many")]
    appointment: Vec<Reference>,
    account: Vec<Reference>,
    period: Period,
    location: Vec<Place>,
}

/// From when until when; what is partial stays text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Period {
    pub start: Option<String>,
    pub end: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place {
    location: Reference,
}

/// An instant of a `dateTime`; a partial one tells none.
pub fn instant(text: Option<&str>) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text?).ok().map(|at| at.to_utc())
}

fn of_appointment(code: &str, pending_is_booked: bool) -> VisitStatus {
    match code {
        "proposed" => VisitStatus::Proposed,
        "pending" if pending_is_booked => VisitStatus::Booked,
        "pending" | "waitlist" => VisitStatus::Requested,
        "booked" => VisitStatus::Booked,
        "arrived" | "checked-in" => VisitStatus::Arrived,
        "fulfilled" => VisitStatus::Kept,
        "noshow" => VisitStatus::Missed,
        "cancelled" => VisitStatus::Cancelled,
        "entered-in-error" => VisitStatus::Erased,
        _ => VisitStatus::Unclear,
    }
}

fn of_encounter(code: &str) -> VisitStatus {
    match code {
        "planned" => VisitStatus::Booked,
        "arrived" | "triaged" | "in-progress" => VisitStatus::Arrived,
        "finished" => VisitStatus::Finished,
        "cancelled" => VisitStatus::Cancelled,
        "entered-in-error" => VisitStatus::Erased,
        _ => VisitStatus::Unclear,
    }
}

/// The types that are visits, and the one that they follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// An appointment.
    Appointment,
    /// An encounter.
    Encounter,
    /// A plan of treatment.
    ServiceRequest,
}

impl Type {
    pub const ALL: [Self; 3] = [Self::Appointment, Self::Encounter, Self::ServiceRequest];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Appointment => "Appointment",
            Self::Encounter => "Encounter",
            Self::ServiceRequest => "ServiceRequest",
        }
    }

    /// The type and the server's id of one of our ids.
    pub fn split(id: &ExternalId) -> Option<(Self, &str)> {
        let (kind, rest) = id.as_str().split_once('/')?;
        let kind = Self::ALL.into_iter().find(|known| known.as_str() == kind)?;
        Some((kind, rest))
    }

    pub fn id(self, of: &str) -> Result<ExternalId, ConnectorError> {
        ExternalId::new(format!("{}/{of}", self.as_str()))
            .map_err(|_| ConnectorError::Malformed { path: format!("{}.id", self.as_str()) })
    }
}

/// A visit, with who comes still as ids of patients, and the accounts that it is charged to.
pub struct Raw {
    pub visit: Visit,
    pub patients: Vec<String>,
    pub account: Option<String>,
}

/// How old a resource is; by what it says where the server has no versions.
pub fn version(meta: &Meta, raw: &RawValue) -> Version {
    let token = meta.version_id.clone().unwrap_or_else(|| hash(raw.get().as_bytes()));
    Version { token: Some(token), updated_at: meta.last_updated }
}

/// Which resource a row of a search is, by the server's id, and how old: whatever else stands in it.
pub fn named(raw: &RawValue) -> Result<(String, Version), ConnectorError> {
    #[derive(Deserialize)]
    struct Row {
        id: String,
        #[serde(default)]
        meta: Meta,
    }
    let row: Row = parse(raw)?;
    Ok((row.id, version(&row.meta, raw)))
}

/// A row of a search, as a hint.
pub fn hint(kind: Type, raw: &RawValue) -> Result<(ExternalId, Version), ConnectorError> {
    let (id, version) = named(raw)?;
    Ok((kind.id(&id)?, version))
}

fn appointment(fhir: &Fhir, raw: &RawValue) -> Result<Raw, ConnectorError> {
    let read: Appointment = parse(raw)?;
    let base = fhir.client.base_url();
    let concepts = std::iter::once(&read.appointment_type).chain(&read.service_type);
    let (class, service) = classify(&fhir.options.visit_types, concepts);
    let actors = |kind: &str| read.participant.iter().filter_map(|one| one.actor.id(kind, base)).collect::<Vec<_>>();
    let visit = Visit {
        id: Type::Appointment.id(&read.id)?,
        version: version(&read.meta, raw),
        appointment: None,
        status: of_appointment(&read.status, fhir.profile().pending_is_booked),
        class,
        service,
        starts_at: read.start,
        ends_at: read.end,
        created_at: instant(read.created.as_deref()),
        site: actors("Location").into_iter().next(),
        visitors: Vec::new(),
        mention: identified(&read.identifier, &fhir.options.opportunity_system),
        charged: None,
    };
    Ok(Raw { visit, patients: actors("Patient"), account: None })
}

fn encounter(fhir: &Fhir, raw: &RawValue) -> Result<Raw, ConnectorError> {
    let read: Encounter = parse(raw)?;
    let base = fhir.client.base_url();
    let (class, service) = classify(&fhir.options.visit_types, read.kinds.iter());
    let of = read.appointment.iter().find_map(|one| one.id("Appointment", base));
    let visit = Visit {
        id: Type::Encounter.id(&read.id)?,
        version: version(&read.meta, raw),
        appointment: of.map(|of| Type::Appointment.id(&of)).transpose()?,
        status: of_encounter(&read.status),
        class,
        service,
        starts_at: instant(read.period.start.as_deref()),
        ends_at: instant(read.period.end.as_deref()),
        created_at: instant(read.period.start.as_deref()),
        site: read.location.iter().find_map(|one| one.location.id("Location", base)),
        visitors: Vec::new(),
        mention: None,
        charged: None,
    };
    let account = read.account.iter().find_map(|one| one.id("Account", base));
    Ok(Raw { visit, patients: read.subject.id("Patient", base).into_iter().collect(), account })
}

/// An encounter that says neither what it is for nor when it is says so by its appointment.
async fn inherit(fhir: &Fhir, lane: Lane, found: &mut BTreeMap<ExternalId, Raw>) -> Result<(), ConnectorError> {
    let says_nothing = |raw: &Raw| raw.visit.class == VisitClass::Unmapped || raw.visit.starts_at.is_none();
    let wanted: Vec<(ExternalId, ExternalId)> = found
        .values()
        .filter(|raw| says_nothing(raw))
        .filter_map(|raw| Some((raw.visit.id.clone(), raw.visit.appointment.clone()?)))
        .collect();
    for (id, of) in wanted {
        let known = found.get(&of).map(|raw| raw.visit.clone());
        let known = match (known, Type::split(&of)) {
            (Some(visit), _) => Some(visit),
            (None, Some((kind, number))) => match fhir.client.look(&Ask::get(&[kind.as_str(), number], lane)).await? {
                Look::Found(answer) => Some(appointment(fhir, &answer.json::<Box<RawValue>>()?)?.visit),
                Look::Deleted | Look::Missing => None,
            },
            (None, None) => None,
        };
        if let (Some(of), Some(raw)) = (known, found.get_mut(&id)) {
            if raw.visit.class == VisitClass::Unmapped {
                (raw.visit.class, raw.visit.service) = (of.class, of.service);
            }
            raw.visit.starts_at = raw.visit.starts_at.or(of.starts_at);
            raw.visit.created_at = raw.visit.created_at.or(of.created_at);
        }
    }
    Ok(())
}

/// Visits by id, in the order asked.
pub async fn read(fhir: &Fhir, call: Call, ids: &[ExternalId]) -> Result<Vec<VisitRead>, ConnectorError> {
    let mut found: BTreeMap<ExternalId, Raw> = BTreeMap::new();
    let mut deleted: BTreeSet<ExternalId> = BTreeSet::new();
    for kind in Type::ALL {
        let mut asked: BTreeSet<&str> =
            ids.iter().filter_map(Type::split).filter(|(known, _)| *known == kind).map(|(_, id)| id).collect();
        let parse = |raw: &RawValue| match kind {
            Type::Appointment => appointment(fhir, raw),
            Type::Encounter => encounter(fhir, raw),
            Type::ServiceRequest => plan(fhir, raw),
        };
        if fhir.profile().by_ids {
            let all: Vec<&str> = asked.iter().copied().collect();
            for some in all.chunks(IDS).filter(|some| some.len() > 1) {
                let list = some.iter().map(|id| escaped(id)).collect::<Vec<_>>().join(",");
                let count = IDS.to_string();
                let rows: Vec<Box<RawValue>> =
                    quietly(fhir, call.lane, kind.as_str(), &[("_id", list.as_str()), ("_count", &count)]).await?;
                for raw in rows {
                    let one = parse(&raw)?;
                    if let Some((_, id)) = Type::split(&one.visit.id) {
                        asked.remove(id);
                    }
                    found.insert(one.visit.id.clone(), one);
                }
            }
        }
        for id in asked {
            match fhir.client.look(&Ask::get(&[kind.as_str(), id], call.lane)).await? {
                Look::Found(answer) => {
                    let one = parse(&answer.json::<Box<RawValue>>()?)?;
                    found.insert(one.visit.id.clone(), one);
                }
                Look::Deleted => {
                    deleted.insert(kind.id(id)?);
                }
                Look::Missing => {}
            }
        }
    }
    inherit(fhir, call.lane, &mut found).await?;
    complete(fhir, call.lane, found.values_mut()).await?;
    let read = |id: &ExternalId| match found.get(id) {
        Some(raw) => VisitRead::Found(Box::new(raw.visit.clone())),
        None if deleted.contains(id) => VisitRead::Gone,
        None => VisitRead::Missing,
    };
    Ok(ids.iter().map(read).collect())
}

/// Adds who comes, and what was charged: of visits that are of interest, and of no others.
async fn complete(fhir: &Fhir, lane: Lane, raws: impl Iterator<Item = &mut Raw>) -> Result<(), ConnectorError> {
    let of_interest = |raw: &&mut Raw| !matches!(raw.visit.class, VisitClass::Ignored | VisitClass::Unmapped);
    let mut raws: Vec<&mut Raw> = raws.filter(of_interest).collect();
    let patients: BTreeSet<String> = raws.iter().flat_map(|raw| raw.patients.iter().cloned()).collect();
    let known = visitors(fhir, lane, &patients.into_iter().collect::<Vec<_>>()).await?;
    for raw in &mut raws {
        raw.visit.visitors = raw.patients.iter().filter_map(|id| known.get(id).cloned()).collect();
        let took_place = matches!(raw.visit.status, VisitStatus::Finished | VisitStatus::Kept);
        if took_place && raw.visit.class == VisitClass::Treatment {
            let encounter = Type::split(&raw.visit.id).filter(|(kind, _)| *kind == Type::Encounter).map(|(_, id)| id);
            let of = charges::Of {
                patient: raw.patients.first().map(String::as_str),
                account: raw.account.as_deref(),
                encounter,
                at: raw.visit.starts_at,
            };
            raw.visit.charged = charges::total(fhir, lane, &of).await?;
        }
    }
    Ok(())
}

/// Codes of recent appointments that the table does not name, for the operator: how often each was met.
pub async fn unmapped(fhir: &Fhir, lane: Lane) -> Result<BTreeMap<String, usize>, ConnectorError> {
    let day = (fhir.client.vendor_now().date_naive() - Days::new(14)).to_string();
    let rows = search(fhir, lane, "Appointment", &[("date", format!("ge{day}"))], None).await?;
    let mut codes = BTreeMap::new();
    for raw in &rows.found {
        let read: Appointment = parse(raw)?;
        let concepts = || std::iter::once(&read.appointment_type).chain(&read.service_type);
        if classify(&fhir.options.visit_types, concepts()).0 == VisitClass::Unmapped {
            let code = concepts().flat_map(|concept| &concept.coding).find_map(|coding| coding.code.clone());
            *codes.entry(code.unwrap_or_else(|| "(none)".into())).or_default() += 1;
        }
    }
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_standard_is_known() {
        for code in [
            "proposed",
            "pending",
            "booked",
            "arrived",
            "fulfilled",
            "cancelled",
            "noshow",
            "entered-in-error",
            "checked-in",
            "waitlist",
        ] {
            assert_ne!(of_appointment(code, false), VisitStatus::Unclear, "{code}");
        }
        assert_eq!(of_appointment("pending", true), VisitStatus::Booked);
        assert_eq!(of_appointment("discharged", false), VisitStatus::Unclear);
        assert_eq!(of_encounter("onleave"), VisitStatus::Unclear);
    }

    #[test]
    fn the_table_decides_and_what_it_does_not_name_is_unmapped() {
        let row = |system: Option<&str>, code: &str, class| VisitType {
            system: system.map(str::to_owned),
            code: code.into(),
            class,
            service: Some("injectables".into()),
            kind: None,
        };
        let table = [row(Some("urn:types"), "T1", VisitClass::Treatment), row(None, "C", VisitClass::Consult)];
        let concept = |system: &str, code: &str| Concept {
            coding: vec![Coding { system: Some(system.into()), code: Some(code.into()) }],
        };
        let class = |concepts: &[Concept]| classify(&table, concepts.iter()).0;
        assert_eq!(class(&[concept("urn:types", "T1")]), VisitClass::Treatment);
        assert_eq!(class(&[concept("urn:others", "T1")]), VisitClass::Unmapped);
        assert_eq!(class(&[concept("urn:x", "y"), concept("urn:others", "C")]), VisitClass::Consult);
        assert_eq!(class(&[]), VisitClass::Unmapped);
    }
}
