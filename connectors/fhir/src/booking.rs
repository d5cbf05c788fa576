//! Making, moving and calling off appointments.
//!
//! FHIR has no keys of idempotency: a conditional create on our identifier stands for one. What a person cancels is cancelled,
//! never deleted. Source: <https://hl7.org/fhir/R4/appointment.html>.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use http::{Method, header};
use serde::Deserialize;
use serde_json::{Value as Json, json, value::RawValue};
use tandem_contract::{
    Call, ConnectorError, ExternalId, NewVisit, Pushed, VisitChange,
    planted::{self, Bug},
};

use crate::{
    Fhir,
    bundle::{parse, quietly},
    client::{Ask, Look, Meta},
    patients::{self, IF_NONE_EXIST, Identifier, form_value, identified, token},
    reference::Reference,
    visits::Type,
};

/// A moment as the server wants it.
pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn writable(fhir: &Fhir) -> Result<(), ConnectorError> {
    if fhir.options.read_only {
        return Err(ConnectorError::Forbidden("this connection only reads (direction = \"in\")".into()));
    }
    if !fhir.profile().books {
        return Err(ConnectorError::Rejected {
            field: Some("connection".into()),
            reason: "this server takes no appointments from outside".into(),
        });
    }
    Ok(())
}

/// An appointment that may be the one that is to be made.
#[derive(Deserialize)]
struct Known {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    identifier: Vec<Identifier>,
    #[serde(default)]
    start: Option<DateTime<Utc>>,
    #[serde(default)]
    participant: Vec<Participant>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Participant {
    actor: Reference,
}

/// The appointment that an earlier try made, where the server does not tell by itself: by our identifier; on servers that keep
/// none, by patient and time.
async fn made_before(
    fhir: &Fhir,
    call: Call,
    new: &NewVisit,
    patient: &ExternalId,
) -> Result<Option<ExternalId>, ConnectorError> {
    let ours = token(&fhir.options.opportunity_system, &new.reference);
    let start = format!("eq{}", iso(new.starts_at));
    let asks: [&[(&str, &str)]; 2] = [&[("identifier", &ours)], &[("patient", patient.as_str()), ("date", &start)]];
    for pairs in asks {
        let known: Vec<Known> = match quietly(fhir, call.lane, "Appointment", pairs).await {
            Err(ConnectorError::Rejected { .. }) => continue,
            known => known?,
        };
        // A server that ignores a filter answers somebody else's.
        let is_ours = |one: &&Known| match identified(&one.identifier, &fhir.options.opportunity_system) {
            Some(named) => named == new.reference,
            None => {
                let base = fhir.client.base_url();
                let comes = |who: &Participant| who.actor.id("Patient", base).as_deref() == Some(patient.as_str());
                let stands = !matches!(one.status.as_str(), "cancelled" | "noshow" | "entered-in-error");
                stands && one.start.map(iso) == Some(iso(new.starts_at)) && one.participant.iter().any(comes)
            }
        };
        if let Some(known) = known.iter().find(is_ours) {
            return Type::Appointment.id(&known.id).map(Some);
        }
    }
    Ok(None)
}

/// The opening that is wanted.
#[derive(Deserialize)]
struct Offer {
    #[serde(default)]
    status: String,
}

/// Refuses an opening that is taken, before somebody is made for it: whoever was made stays at the clinic. What the
/// server does not tell of is left to the booking.
async fn offered(fhir: &Fhir, call: Call, slot: &str) -> Result<(), ConnectorError> {
    if !fhir.profile().slots {
        return Ok(());
    }
    let offer: Offer = match fhir.client.look(&Ask::get(&["Slot", slot], call.lane)).await {
        Ok(Look::Found(answer)) => match answer.json() {
            Ok(offer) => offer,
            Err(_) => return Ok(()),
        },
        Ok(Look::Deleted | Look::Missing) => {
            return Err(ConnectorError::Conflict("that opening is not there any more: choose another".into()));
        }
        Err(ConnectorError::Forbidden(_) | ConnectorError::Rejected { .. } | ConnectorError::Malformed { .. }) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    match offer.status.as_str() {
        "" | "free" => Ok(()),
        _ => Err(ConnectorError::Conflict("that time is taken: choose another opening".into())),
    }
}

/// Makes an appointment, and its patient if need be; or finds the one that was made under the same reference.
pub async fn book(fhir: &Fhir, call: Call, new: &NewVisit) -> Result<(ExternalId, ExternalId), ConnectorError> {
    writable(fhir)?;
    let profile = fhir.profile();
    let kind = fhir.options.visit_types.iter().find(|row| row.kind.as_deref() == Some(new.kind.as_str()));
    let kind = kind.ok_or_else(|| ConnectorError::Rejected {
        field: Some("kind".into()),
        reason: "no row of the connection's visit_types has this kind".into(),
    })?;
    let known = match (&new.visitor.id, &new.slot) {
        (Some(id), _) => Some(id.clone()),
        (None, Some(slot)) => {
            let known = patients::known(fhir, call.lane, &new.visitor).await?;
            // What takes the opening of somebody who is there may be their own appointment, made by an earlier try.
            if known.is_none() {
                offered(fhir, call, slot).await?;
            }
            known
        }
        (None, None) => None,
    };
    let patient = match known {
        Some(id) => id,
        None => match patients::create(fhir, call, &new.visitor).await? {
            Pushed::Written { id, .. } | Pushed::Exists { id, .. } => id,
            Pushed::Failed(error) => return Err(error),
        },
    };
    let ours = token(&fhir.options.opportunity_system, &new.reference);
    if !profile.conditional_create
        && let Some(known) = made_before(fhir, call, new, &patient).await?
    {
        return Ok((known, patient));
    }
    let mut coding = json!({ "code": kind.code });
    if let Some(system) = &kind.system {
        coding["system"] = system.as_str().into();
    }
    let actor = |reference: String, required: bool| {
        let mut actor = json!({ "actor": { "reference": reference }, "status": "accepted" });
        if required {
            actor["required"] = "required".into();
        }
        actor
    };
    let mut participants = vec![actor(format!("Patient/{patient}"), true)];
    participants.extend(new.practitioner.as_ref().map(|id| actor(format!("Practitioner/{id}"), true)));
    participants.extend(new.site.as_ref().map(|id| actor(format!("Location/{id}"), false)));
    let mut body = json!({
        "resourceType": "Appointment", "status": "booked", "appointmentType": { "coding": [coding] },
        "identifier": [{ "system": fhir.options.opportunity_system, "value": new.reference }],
        "start": iso(new.starts_at), "end": iso(new.ends_at), "participant": participants,
    });
    if let Some(slot) = &new.slot {
        body["slot"] = json!([{ "reference": format!("Slot/{slot}") }]);
    }
    let mut ask = Ask::change(Method::POST, &["Appointment"], call, body.to_string());
    if profile.conditional_create {
        ask = ask.header(IF_NONE_EXIST, format!("identifier={}", form_value(&ours)));
    }
    let answer = fhir.client.ask(&ask).await.map_err(taken)?;
    let lost = || ConnectorError::OutcomeUnknown("the answer names no appointment".into());
    Ok((Type::Appointment.id(&answer.id().ok_or_else(lost)?)?, patient))
}

/// For a booking a conflict means that somebody else has the time.
fn taken(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::Stale => ConnectorError::Conflict("that time is taken: choose another opening".into()),
        ConnectorError::Rejected { field, reason } if field.as_deref() == Some("slot") => {
            ConnectorError::Conflict(format!("that time is taken ({reason}): choose another opening"))
        }
        error => error,
    }
}

/// How often a change is made anew on what somebody else wrote meanwhile.
const TRIES: u32 = 3;

/// Moves an appointment, or calls it off: on the tree that the server sent, over the version that was read.
pub async fn change(fhir: &Fhir, call: Call, id: &ExternalId, change: &VisitChange) -> Result<(), ConnectorError> {
    writable(fhir)?;
    let Some((Type::Appointment, number)) = Type::split(id) else {
        return Err(ConnectorError::Rejected { field: None, reason: "is not an appointment".into() });
    };
    for _ in 0..TRIES {
        let answer = match fhir.client.look(&Ask::get(&["Appointment", number], call.lane)).await? {
            Look::Found(answer) => answer,
            Look::Deleted | Look::Missing => return Err(ConnectorError::Gone),
        };
        let mut tree: BTreeMap<String, Box<RawValue>> = answer.json()?;
        let meta: Option<Meta> = tree.get("meta").map(|raw| parse(raw)).transpose()?;
        let mut put = |name: &str, value: Json| -> bool {
            let raw = serde_json::value::to_raw_value(&value).ok();
            let news = raw.as_ref().map(|raw| raw.get()) != tree.get(name).map(|raw| raw.get());
            if let (true, Some(raw)) = (news, raw) {
                tree.insert(name.to_owned(), raw);
            }
            news
        };
        let news = match change {
            VisitChange::Move { starts_at, ends_at } => {
                let news = put("start", iso(*starts_at).into()) | put("end", iso(*ends_at).into());
                // The opening it had is not the one it has.
                news && {
                    tree.remove("slot");
                    true
                }
            }
            VisitChange::Cancel => {
                put("status", "cancelled".into()) && {
                    let system = "http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason";
                    put("cancelationReason", json!({ "coding": [{ "system": system, "code": "pat" }] }))
                }
            }
        };
        if !news {
            return Ok(());
        }
        let body = serde_json::to_vec(&tree).map_err(|_| ConnectorError::NotSent("it could not be written".into()))?;
        let mut ask = Ask::change(Method::PUT, &["Appointment", number], call, body);
        let names_version = fhir.profile().if_match && !planted::has(Bug::NoCompareAndSwap);
        if let (true, Some(version)) = (names_version, meta.and_then(|meta| meta.version_id)) {
            ask = ask.header(header::IF_MATCH, format!("W/\"{version}\""));
        }
        match fhir.client.ask(&ask).await {
            Err(ConnectorError::Stale) => {}
            done => return done.map(drop),
        }
    }
    Err(ConnectorError::Stale)
}
