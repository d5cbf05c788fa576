//! Patients: found by our identifier, by address and telephone number; written whole, on the server's own tree.
//!
//! What is read goes into types that have no place for anything but names and ways to reach somebody. A write starts from the
//! tree that the server sent, in memory only, and leaves everything else in it as it was, to the byte.
//! Source: <https://hl7.org/fhir/R4/patient.html>.

use std::collections::BTreeMap;

use http::{HeaderName, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, Value as Json, json,
    value::{RawValue, to_raw_value},
};
use sha2::{Digest, Sha256};
use tandem_contract::{
    Call, ConnectorError, ExternalId, Fetched, Kind, Lane, NewVisitor, Pushed, Record, Sought, Value, Version, Visitor,
    Write, WriteOp, is_same_number,
    planted::{self, Bug},
};

use crate::{
    Fhir,
    bundle::{escaped, parse, quietly},
    client::{Ask, Look, Meta},
    reference::Reference,
    visits::named,
};

/// The properties that can be mapped.
pub const PROPERTIES: [&str; 4] = ["given", "family", "email", "phone"];
/// Ids of one search.
pub const IDS: usize = 50;
/// How many merges are followed.
const MERGES: usize = 5;
/// What is asked for of a patient; servers may answer more, which is not read.
const ELEMENTS: &str = "id,meta,identifier,active,name,telecom,link";

pub const IF_NONE_EXIST: HeaderName = HeaderName::from_static("if-none-exist");

/// Somebody, as far as they are looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Patient {
    id: String,
    meta: Meta,
    identifier: Vec<Identifier>,
    active: Option<bool>,
    name: Vec<Name>,
    telecom: Vec<Telecom>,
    link: Vec<Link>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Identifier {
    system: Option<String>,
    value: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Name {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    given: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Json>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Telecom {
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Json>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Link {
    other: Reference,
    #[serde(rename = "type")]
    kind: String,
}

fn is_old(usage: Option<&str>) -> bool {
    usage == Some("old")
}

/// The name that people go by: the official one, else the first that is not an old one.
fn current(names: &[Name]) -> Option<usize> {
    let official = names.iter().position(|name| name.usage.as_deref() == Some("official"));
    official.or_else(|| names.iter().position(|name| !is_old(name.usage.as_deref())))
}

/// The way to reach them: of telephones the mobile one first.
fn way(all: &[Telecom], system: &str) -> Option<usize> {
    let is_way = |one: &Telecom| one.system.as_deref() == Some(system) && !is_old(one.usage.as_deref());
    let mobile = all.iter().position(|one| is_way(one) && one.usage.as_deref() == Some("mobile"));
    mobile.or_else(|| all.iter().position(is_way))
}

pub fn identified(identifiers: &[Identifier], system: &str) -> Option<String> {
    identifiers.iter().find(|one| one.system.as_deref() == Some(system)).and_then(|one| one.value.clone())
}

impl Patient {
    fn property(&self, name: &str) -> Value {
        let text = |text: Option<&str>| text.map_or(Value::Null, Value::text);
        let known = current(&self.name).map(|at| &self.name[at]);
        let reached = |system: &str| way(&self.telecom, system).and_then(|at| self.telecom[at].value.as_deref());
        match name {
            "given" => {
                let given = known.map(|name| name.given.join(" ")).filter(|given| !given.is_empty());
                text(given.as_deref())
            }
            "family" => text(known.and_then(|name| name.family.as_deref())),
            "email" => text(reached("email")),
            "phone" => text(reached("phone")),
            _ => Value::Absent,
        }
    }

    fn survivor(&self, fhir: &Fhir) -> Option<String> {
        let merged = self.link.iter().find(|link| link.kind == "replaced-by")?;
        merged.other.id("Patient", fhir.client.base_url())
    }

    fn version(&self) -> Version {
        Version { token: self.meta.version_id.clone(), updated_at: self.meta.last_updated }
    }

    fn record(&self, fhir: &Fhir) -> Result<Record, ConnectorError> {
        let selected = fhir.options.select.get(&Kind::Contact).into_iter().flatten();
        let mut version = self.version();
        let properties: BTreeMap<String, Value> =
            selected.map(|(name, _)| (name.clone(), self.property(name))).collect();
        if version.token.is_none() {
            version.token = Some(hash(format!("{properties:?}").as_bytes()));
        }
        Ok(Record {
            id: id(&self.id)?,
            version,
            created_at: None,
            properties,
            marker: identified(&self.identifier, &fhir.options.contact_system),
            absorbed: Vec::new(),
        })
    }

    fn visitor(&self, fhir: &Fhir) -> Visitor {
        let text = |name: &str| self.property(name).as_text().map(str::to_owned);
        let phones = self.telecom.iter().filter(|one| one.system.as_deref() == Some("phone"));
        Visitor {
            id: ExternalId::new(self.id.as_str()).ok(),
            aliases: Vec::new(),
            marker: identified(&self.identifier, &fhir.options.contact_system),
            family: text("family"),
            email: text("email"),
            phones: phones.filter_map(|one| one.value.clone()).collect(),
        }
    }
}

pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

pub fn id(text: &str) -> Result<ExternalId, ConnectorError> {
    ExternalId::new(text).map_err(|_| ConnectorError::Malformed { path: "id".into() })
}

/// What became of one id.
enum Known {
    Found(Patient),
    Deleted,
    Missing,
}

/// Patients by id; those that a search does not show are read by themselves, since it does not tell why.
async fn by_ids(fhir: &Fhir, lane: Lane, ids: &[&str]) -> Result<BTreeMap<String, Known>, ConnectorError> {
    let mut known = BTreeMap::new();
    if fhir.profile().by_ids {
        for some in ids.chunks(IDS) {
            let list = some.iter().map(|id| escaped(id)).collect::<Vec<_>>().join(",");
            let count = IDS.to_string();
            let pairs = [("_id", list.as_str()), ("_elements", ELEMENTS), ("_count", &count)];
            for patient in quietly::<Patient>(fhir, lane, "Patient", &pairs).await? {
                known.insert(patient.id.clone(), Known::Found(patient));
            }
        }
    }
    for id in ids {
        if !known.contains_key(*id) {
            let look = match fhir.client.look(&Ask::get(&["Patient", id], lane)).await? {
                Look::Found(answer) => Known::Found(answer.json()?),
                Look::Deleted => Known::Deleted,
                Look::Missing => Known::Missing,
            };
            known.insert((*id).to_owned(), look);
        }
    }
    Ok(known)
}

/// Those who come, by id: of one that was merged away, the survivor.
pub async fn visitors(fhir: &Fhir, lane: Lane, ids: &[String]) -> Result<BTreeMap<String, Visitor>, ConnectorError> {
    let mut found: BTreeMap<String, Visitor> = BTreeMap::new();
    let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
    for (asked, known) in by_ids(fhir, lane, &asked).await? {
        let (mut known, mut aliases) = (known, Vec::new());
        for _ in 0..MERGES {
            let Known::Found(patient) = &known else { break };
            let Some(survivor) = patient.survivor(fhir) else { break };
            aliases.extend(ExternalId::new(patient.id.as_str()));
            let Some(next) = by_ids(fhir, lane, &[&survivor]).await?.remove(&survivor) else { break };
            known = next;
        }
        let visitor = match known {
            Known::Found(patient) => Visitor { aliases, ..patient.visitor(fhir) },
            // The visit still is somebody's: of whom, the id alone may tell.
            Known::Deleted | Known::Missing => {
                Visitor { id: ExternalId::new(asked.as_str()).ok(), aliases, ..Visitor::default() }
            }
        };
        found.insert(asked, visitor);
    }
    Ok(found)
}

/// The truth about patients, in the order asked.
pub async fn fetch(fhir: &Fhir, call: Call, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError> {
    let asked: Vec<&str> = ids.iter().map(ExternalId::as_str).collect();
    let mut known = by_ids(fhir, call.lane, &asked).await?;
    let mut fetched = Vec::with_capacity(ids.len());
    for one in ids {
        fetched.push(match known.remove(one.as_str()) {
            Some(Known::Found(patient)) => match patient.survivor(fhir) {
                None => Fetched::Found(patient.record(fhir)?),
                Some(survivor) => match by_ids(fhir, call.lane, &[&survivor]).await?.remove(&survivor) {
                    // Two that replace one another are two.
                    Some(Known::Found(survivor)) if survivor.survivor(fhir).as_deref() == Some(one.as_str()) => {
                        Fetched::Found(patient.record(fhir)?)
                    }
                    Some(Known::Found(survivor)) => Fetched::MergedInto(survivor.record(fhir)?),
                    _ => Fetched::Archived,
                },
            },
            Some(Known::Deleted) => Fetched::Archived,
            // Asked for twice in one batch, or not there.
            _ => Fetched::Gone,
        });
    }
    Ok(fetched)
}

async fn with(fhir: &Fhir, lane: Lane, pairs: &[(&str, &str)]) -> Result<Vec<Patient>, ConnectorError> {
    let pairs: Vec<(&str, &str)> = pairs.iter().copied().chain([("_elements", ELEMENTS)]).collect();
    let found: Vec<Patient> = quietly(fhir, lane, "Patient", &pairs).await?;
    Ok(found
        .into_iter()
        .filter(|patient| patient.active != Some(false) && patient.link.iter().all(|link| link.kind != "replaced-by"))
        .collect())
}

/// A search value: a system and what it identifies.
pub fn token(system: &str, value: &str) -> String {
    format!("{}|{}", escaped(system), escaped(value))
}

/// The records that carry these markers.
pub async fn find(fhir: &Fhir, call: Call, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError> {
    let mut found = Vec::with_capacity(sought.len());
    for one in sought {
        let ours = token(&fhir.options.contact_system, &one.marker);
        let known = with(fhir, call.lane, &[("identifier", &ours)]).await?;
        // A server that does not search identifiers answers somebody else.
        let known = known.iter().find(|patient| {
            identified(&patient.identifier, &fhir.options.contact_system).as_deref() == Some(&one.marker)
        });
        found.push(known.map(|patient| patient.record(fhir)).transpose()?);
    }
    Ok(found)
}

/// A row of a search, as a hint.
pub fn hint(raw: &RawValue) -> Result<(ExternalId, Version), ConnectorError> {
    let (which, version) = named(raw)?;
    Ok((id(&which)?, version))
}

/// A page of patients, whole.
pub fn whole(fhir: &Fhir, raw: &RawValue) -> Result<Record, ConnectorError> {
    parse::<Patient>(raw)?.record(fhir)
}

type Outcome = Result<Pushed, ConnectorError>;

/// Writes patients one after another: the interface has no batch that every server knows.
pub async fn push(fhir: &Fhir, call: Call, writes: &[Write]) -> Vec<Pushed> {
    let call = call.until(fhir.client.clock.elapsed() + fhir.patience());
    let mut stopped: Option<ConnectorError> = None;
    let mut outcomes = Vec::with_capacity(writes.len());
    for write in writes {
        let outcome = match &stopped {
            Some(error) => Err(error.clone()),
            None if fhir.options.read_only => {
                Err(ConnectorError::Forbidden("this connection only reads (direction = \"in\")".into()))
            }
            None => one(fhir, call, &write.op).await,
        };
        if let Err(error @ (ConnectorError::RateLimited { .. } | ConnectorError::Unauthorized(_))) = &outcome {
            stopped = Some(error.clone());
        }
        outcomes.push(outcome.unwrap_or_else(Pushed::Failed));
    }
    outcomes
}

async fn one(fhir: &Fhir, call: Call, op: &WriteOp) -> Outcome {
    // Nor is anything read for what would come too late.
    call.in_time(&*fhir.client.clock)?;
    match op {
        WriteOp::Create { marker, properties } => {
            let text = |name: &str| properties.get(name).and_then(Value::as_text).map(str::to_owned);
            let new = NewVisitor {
                id: None,
                marker: marker.clone(),
                first_name: text("given"),
                last_name: text("family"),
                email: text("email"),
                phone: text("phone"),
            };
            create(fhir, call, &new).await
        }
        WriteOp::Update { id, properties, expected, .. } => update(fhir, call, id, properties, expected).await,
        WriteOp::Archive { .. } => Err(ConnectorError::Rejected {
            field: None,
            reason: "patients are not deleted from here: the clinic does that itself".into(),
        }),
    }
}

/// Makes somebody, or finds them: by our marker; else by address and telephone number, as people are told apart.
pub async fn create(fhir: &Fhir, call: Call, new: &NewVisitor) -> Outcome {
    let lane = call.lane;
    let profile = fhir.profile();
    let ours = token(&fhir.options.contact_system, &new.marker);
    if !profile.conditional_create
        && let Some(known) = marked(fhir, lane, new).await?
    {
        return Ok(Pushed::Exists { id: known, ours: true });
    }
    if let Some(known) = somebody(fhir, lane, new).await? {
        return Ok(Pushed::Exists { id: known, ours: false });
    }
    let mut telecom = Vec::new();
    if let Some(phone) = &new.phone {
        telecom.push(json!({ "system": "phone", "value": phone, "use": "mobile" }));
    }
    if let Some(email) = &new.email {
        telecom.push(json!({ "system": "email", "value": email }));
    }
    let mut name = json!({ "use": "official" });
    if let Some(family) = &new.last_name {
        name["family"] = family.as_str().into();
    }
    if let Some(given) = &new.first_name {
        name["given"] = json!([given]);
    }
    let mut body = json!({
        "resourceType": "Patient", "active": true, "name": [name],
        "identifier": [{ "system": fhir.options.contact_system, "value": new.marker }],
    });
    if !telecom.is_empty() {
        body["telecom"] = telecom.into();
    }
    let mut ask = Ask::change(Method::POST, &["Patient"], call, body.to_string());
    if profile.conditional_create {
        ask = ask.header(IF_NONE_EXIST, format!("identifier={}", form_value(&ours)));
    }
    let answer = fhir.client.ask(&ask).await.map_err(|error| match error {
        // Nothing changed of what is only being made: others are in its way.
        ConnectorError::Stale => ConnectorError::Conflict(
            "the clinic has this person already, or several with our identifier: merge them there, or correct the address \
             here"
                .into(),
        ),
        error => error,
    })?;
    let lost = || ConnectorError::OutcomeUnknown("the answer names no record".into());
    let made = id(&answer.id().ok_or_else(lost)?)?;
    if !answer.was_made() {
        return Ok(Pushed::Exists { id: made, ours: true });
    }
    let patient: Patient = serde_json::from_value(body).unwrap_or_default();
    let selected = fhir.options.select.get(&Kind::Contact).into_iter().flatten();
    let properties = selected.map(|(name, _)| (name.clone(), patient.property(name))).collect();
    Ok(Pushed::Written { id: made, properties, version: Version { token: answer.version(), updated_at: None } })
}

/// Whom [`create`] would find, and not make.
pub async fn known(fhir: &Fhir, lane: Lane, new: &NewVisitor) -> Result<Option<ExternalId>, ConnectorError> {
    match marked(fhir, lane, new).await? {
        Some(known) => Ok(Some(known)),
        None => somebody(fhir, lane, new).await,
    }
}

/// Who carries our marker.
async fn marked(fhir: &Fhir, lane: Lane, new: &NewVisitor) -> Result<Option<ExternalId>, ConnectorError> {
    let sought = Sought { marker: new.marker.clone(), since: fhir.client.vendor_now() };
    let found = find(fhir, Call::on(lane), &[sought]).await?.into_iter().next().flatten();
    Ok(found.map(|known| known.id))
}

/// A value within a query that is a header.
pub fn form_value(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Somebody whom the clinic knows already. Both address and number, and nobody else has them; or one of both, and the same
/// family name. Families share addresses: of two it is never guessed.
async fn somebody(fhir: &Fhir, lane: Lane, new: &NewVisitor) -> Result<Option<ExternalId>, ConnectorError> {
    if !fhir.profile().by_contact {
        return Ok(None);
    }
    let unsent = |error| match error {
        error @ (ConnectorError::RateLimited { .. }
        | ConnectorError::Unauthorized(_)
        | ConnectorError::Forbidden(_)) => error,
        error => ConnectorError::NotSent(error.to_string()),
    };
    let mut candidates: Vec<Patient> = Vec::new();
    for (name, value) in [("email", &new.email), ("phone", &new.phone)] {
        let Some(value) = value.as_deref().filter(|value| !value.trim().is_empty()) else { continue };
        let known = with(fhir, lane, &[(name, &escaped(value.trim()))]).await.map_err(unsent)?;
        candidates.extend(
            known.into_iter().filter(|one| !candidates.iter().any(|known| known.id == one.id)).collect::<Vec<_>>(),
        );
    }
    let alike: Vec<&Patient> = candidates.iter().filter(|patient| is_same(patient, new)).collect();
    match alike.as_slice() {
        [] => Ok(None),
        [one] if identified(&one.identifier, &fhir.options.contact_system).is_none() => id(&one.id).map(Some),
        [_] => Ok(None),
        _ => Err(ConnectorError::Conflict(
            "several patients have this address or telephone number: link the right one by hand".into(),
        )),
    }
}

fn is_same(patient: &Patient, new: &NewVisitor) -> bool {
    is_one(|name| patient.property(name), new)
}

/// The same of a record as it was read, before it is linked: what is linked is written, so that another first name makes it somebody
/// else's, however much a family shares.
pub fn is_theirs(record: &Record, ours: &NewVisitor) -> bool {
    let given = record.property("given");
    let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_lowercase();
    let names = given.as_text().zip(ours.first_name.as_deref());
    let is_other = names.is_some_and(|(theirs, ours)| {
        let (theirs, ours) = (first(theirs), first(ours));
        !theirs.is_empty() && !ours.is_empty() && theirs != ours
    });
    !is_other && is_one(|name| record.property(name), ours)
}

/// Both address and number, or one of both and the same family name.
fn is_one(property: impl Fn(&str) -> Value, new: &NewVisitor) -> bool {
    let alike = |name: &str, ours: &Option<String>, same: fn(&str, &str) -> bool| {
        let theirs = property(name);
        theirs.as_text().zip(ours.as_deref()).is_some_and(|(theirs, ours)| same(theirs.trim(), ours.trim()))
    };
    let email = alike("email", &new.email, str::eq_ignore_ascii_case);
    let phone = alike("phone", &new.phone, |a, b| is_same_number(a, b, None));
    let family = alike("family", &new.last_name, |a, b| a.to_lowercase() == b.to_lowercase());
    (email && phone) || ((email || phone) && family)
}

/// Changes what is named of a patient: reads the whole of it, changes that, and writes the whole back over the version that was
/// read.
async fn update(
    fhir: &Fhir,
    call: Call,
    which: &ExternalId,
    properties: &BTreeMap<String, Value>,
    expected: &Version,
) -> Outcome {
    let read = match fhir.client.look(&Ask::get(&["Patient", which.as_str()], call.lane)).await {
        Ok(Look::Found(answer)) => answer,
        Ok(Look::Deleted | Look::Missing) => return Err(ConnectorError::Gone),
        // Nothing is written on what cannot be read.
        Err(ConnectorError::OutcomeUnknown(why)) => return Err(ConnectorError::NotSent(why)),
        Err(error) => return Err(error),
    };
    // Nor on what is no patient.
    let mut tree: BTreeMap<String, Box<RawValue>> = read.json()?;
    let mut patient: Patient = read.json()?;
    id(&patient.id)?;
    let current = patient.version();
    if expected.token.is_some() && current.token.is_some() && expected.token != current.token {
        return Err(ConnectorError::Stale);
    }
    let before = (patient.name.clone(), patient.telecom.clone());
    for (name, value) in properties {
        set(&mut patient, name, value);
    }
    replace(&mut tree, "name", &before.0, &patient.name);
    replace(&mut tree, "telecom", &before.1, &patient.telecom);
    let body =
        serde_json::to_vec(&tree).map_err(|_| ConnectorError::NotSent("the record could not be written".into()))?;
    let mut ask = Ask::change(Method::PUT, &["Patient", which.as_str()], call, body);
    if fhir.profile().if_match
        && !planted::has(Bug::NoCompareAndSwap)
        && let Some(version) = &current.token
    {
        ask = ask.header(header::IF_MATCH, format!("W/\"{version}\""));
    }
    let answer = fhir.client.ask(&ask).await?;
    let written = properties.keys().map(|name| (name.clone(), patient.property(name))).collect();
    Ok(Pushed::Written {
        id: which.clone(),
        properties: written,
        version: Version { token: answer.version(), updated_at: None },
    })
}

/// Puts a part of a tree anew, if it changed; the rest stays as the server sent it.
fn replace<T: Serialize>(tree: &mut BTreeMap<String, Box<RawValue>>, part: &str, before: &[T], now: &[T]) {
    let (Ok(was), Ok(is)) = (to_raw_value(before), to_raw_value(now)) else { return };
    if was.get() != is.get() {
        if now.is_empty() { drop(tree.remove(part)) } else { drop(tree.insert(part.to_owned(), is)) }
    }
}

fn set(patient: &mut Patient, property: &str, value: &Value) {
    let text = value.as_text().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    match property {
        "given" | "family" => {
            let at = current(&patient.name).unwrap_or_else(|| {
                patient.name.push(Name { usage: Some("official".into()), ..Name::default() });
                patient.name.len() - 1
            });
            let name = &mut patient.name[at];
            if property == "family" {
                name.family = text;
            } else if name.given.join(" ") != text.clone().unwrap_or_default() {
                name.given = text.into_iter().collect();
            }
            // What is spelled out as a whole is not true any more.
            name.rest.remove("text");
        }
        "email" | "phone" => match (way(&patient.telecom, property), text) {
            (Some(at), Some(text)) => patient.telecom[at].value = Some(text),
            (Some(at), None) => drop(patient.telecom.remove(at)),
            (None, Some(text)) => {
                let usage = (property == "phone").then(|| "mobile".to_owned());
                patient.telecom.push(Telecom {
                    system: Some(property.into()),
                    value: Some(text),
                    usage,
                    rest: Map::new(),
                });
            }
            (None, None) => {}
        },
        _ => {}
    }
}
