//! Reading, making, changing and deleting one record, by the rules of the standard and the whims of servers.
//!
//! Source: <https://hl7.org/fhir/R4/http.html>.

use serde_json::{Value as Json, json};
use tandem_sandbox::Query;

use super::{
    settings::{Duplicates, Versioning},
    webhooks::first_status,
    world::{Refusal, World},
};

/// What became of a write.
pub struct Written {
    /// 200 or 201.
    pub status: u16,
    /// The record's id.
    pub id: String,
    /// Its version.
    pub version: u64,
    /// What it says.
    pub body: Json,
}

/// Statuses by type, of the standard.
fn statuses(kind: &str) -> &'static [&'static str] {
    match kind {
        "Appointment" => &[
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
        ],
        "Encounter" => &[
            "planned",
            "arrived",
            "triaged",
            "in-progress",
            "onleave",
            "finished",
            "cancelled",
            "entered-in-error",
            "unknown",
        ],
        "ServiceRequest" => &["draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"],
        "Slot" => &["free", "busy", "busy-unavailable", "busy-tentative", "entered-in-error"],
        "Subscription" => &["requested", "off"],
        _ => &[],
    }
}

impl World {
    pub(super) fn read(&self, kind: &str, id: &str) -> Result<(&Json, u64), Refusal> {
        match self.records.get(&(kind.to_owned(), id.to_owned())) {
            Some(record) => match &record.body {
                Some(body) => Ok((body, record.version)),
                None if self.settings.remembers_deleted => Err(Refusal::new(410, "deleted", "The record was deleted.")),
                None => Err(Refusal::new(404, "not-found", "There is no such record.")),
            },
            None => Err(Refusal::new(404, "not-found", "There is no such record.")),
        }
    }

    /// What a record must have.
    fn check(&self, kind: &str, body: &Json) -> Result<(), Refusal> {
        if body["resourceType"] != kind {
            return Err(Refusal::at(400, "structure", "The type is another one.", Some(kind)));
        }
        let missing =
            |element: &str| Refusal::at(422, "required", "An element is missing.", Some(&format!("{kind}.{element}")));
        let wanted = match kind {
            "Appointment" => vec!["status", "participant"],
            "ServiceRequest" => vec!["status", "intent", "subject"],
            "Schedule" => vec!["actor"],
            "Slot" => vec!["schedule", "status", "start", "end"],
            "Subscription" => vec!["status", "criteria", "channel", "reason"],
            "Patient" => self.settings.required_of_patients.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        if let Some(element) = wanted.iter().find(|element| body[**element].is_null()) {
            return Err(missing(element));
        }
        if let Some(status) = body["status"].as_str()
            && !statuses(kind).is_empty()
            && !statuses(kind).contains(&status)
        {
            return Err(Refusal::at(422, "code-invalid", "The status is none.", Some(&format!("{kind}.status"))));
        }
        let is_empty = |value: &Json| match value {
            Json::Null => true,
            Json::String(text) => text.is_empty(),
            Json::Array(list) => list.is_empty(),
            Json::Object(all) => all.is_empty(),
            _ => false,
        };
        match body.as_object().and_then(|all| all.iter().find(|(_, value)| is_empty(value))) {
            Some((name, _)) => {
                Err(Refusal::at(400, "structure", "Nothing is left out, not empty.", Some(&format!("{kind}.{name}"))))
            }
            None => Ok(()),
        }
    }

    /// Somebody of the same name and address.
    fn twin(&self, body: &Json) -> Option<String> {
        let key = |body: &Json| {
            let email = body["telecom"].as_array()?.iter().find(|one| one["system"] == "email")?["value"]
                .as_str()?
                .to_lowercase();
            Some((body["name"][0]["family"].as_str()?.to_lowercase(), email))
        };
        let wanted = key(body)?;
        self.ids("Patient").into_iter().find(|id| self.resource("Patient", id).and_then(key).as_ref() == Some(&wanted))
    }

    fn written(&self, status: u16, kind: &str, id: String) -> Result<Written, Refusal> {
        let (body, version) = self.read(kind, &id)?;
        Ok(Written { status, version, body: body.clone(), id })
    }

    pub(super) fn create(&mut self, kind: &str, mut body: Json, condition: Option<&str>) -> Result<Written, Refusal> {
        self.check(kind, &body)?;
        if let Some(condition) = condition.filter(|_| self.settings.conditional_create) {
            match self.meets(kind, &Query::parse(condition)).as_slice() {
                [] => {}
                [one] => return self.written(200, kind, one.clone()),
                _ => return Err(Refusal::new(412, "multiple-matches", "Several records meet the condition.")),
            }
        }
        if kind == "Patient"
            && let Some(twin) = self.twin(&body)
        {
            match self.settings.duplicates {
                Duplicates::Made => {}
                Duplicates::Refused => {
                    return Err(Refusal::new(422, "business-rule", "There is such a patient already."));
                }
                Duplicates::Answered => return self.written(200, kind, twin),
            }
        }
        if kind == "Appointment" {
            self.take_slot(&body)?;
        }
        if !self.settings.keeps_identifiers
            && let Some(all) = body.as_object_mut()
        {
            all.remove("identifier");
        }
        if kind == "Subscription" {
            body["status"] = first_status(&body).into();
        }
        let id = self.next_id(kind);
        self.store(kind, &id, Some(body));
        self.stats.created += 1;
        *self.stats.written.entry(kind.to_owned()).or_default() += 1;
        if kind == "Subscription" {
            self.shake_hands(&id);
        }
        self.written(201, kind, id)
    }

    /// A booking takes its slot, or finds it taken.
    fn take_slot(&mut self, body: &Json) -> Result<(), Refusal> {
        let Some(slot) =
            body["slot"][0]["reference"].as_str().and_then(|text| text.rsplit('/').next()).map(str::to_owned)
        else {
            return Ok(());
        };
        let taken = || Refusal::at(409, "conflict", "The slot is not free.", Some("Appointment.slot[0]"));
        if self.resource("Slot", &slot).is_none_or(|known| known["status"] != "free") {
            return Err(taken());
        }
        self.edit("Slot", &slot, &json!({ "status": "busy" }));
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        kind: &str,
        id: &str,
        mut body: Json,
        if_match: Option<&str>,
    ) -> Result<Written, Refusal> {
        self.edit_in_between(kind, id);
        let version = self.read(kind, id)?.1;
        if body["id"].as_str().is_none_or(|given| given != id) {
            return Err(Refusal::at(400, "invalid", "The id is another one.", Some(&format!("{kind}.id"))));
        }
        let subsetted = body["meta"]["tag"].as_array().into_iter().flatten().any(|tag| tag["code"] == "SUBSETTED");
        if subsetted {
            return Err(Refusal::new(422, "business-rule", "A part of a record is not written back."));
        }
        let named = if_match.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        match (self.settings.versioning, named) {
            (Versioning::NoVersion, _) | (Versioning::Versioned, None) => {}
            (Versioning::VersionedUpdate, None) => return Err(Refusal::new(412, "required", "If-Match is missing.")),
            (_, Some(named)) if named == version.to_string() => {}
            (_, Some(_)) => {
                self.stats.stale += 1;
                return Err(Refusal::new(
                    self.settings.conflict_status,
                    "conflict",
                    "The version is not the current one.",
                ));
            }
        }
        self.check(kind, &body)?;
        if kind == "Appointment" {
            let of = |body: &Json| body["slot"][0]["reference"].clone();
            let is_given_up = self.resource(kind, id).is_some_and(|known| of(known) != of(&body));
            if is_given_up || body["status"] == "cancelled" {
                self.free_slot(id);
            }
        }
        if kind == "Subscription" && body["status"] == "requested" {
            body["status"] = first_status(&body).into();
        }
        self.store(kind, id, Some(body));
        self.stats.updated += 1;
        *self.stats.written.entry(kind.to_owned()).or_default() += 1;
        if kind == "Subscription" {
            self.shake_hands(id);
        }
        self.written(200, kind, id.to_owned())
    }

    /// Somebody at the desk is faster.
    fn edit_in_between(&mut self, kind: &str, id: &str) {
        let text = format!("between{}", self.stats.in_between.len());
        let change = match kind {
            "Patient" => json!({ "address": [{ "text": text }] }),
            "Appointment" => json!({ "comment": text }),
            _ => return,
        };
        let chance = self.faults.edited_in_between;
        if self.resource(kind, id).is_some() && self.struck("edited_in_between", chance, kind) {
            self.edit(kind, id, &change);
            self.stats.in_between.push((format!("{kind}/{id}"), text));
        }
    }

    fn free_slot(&mut self, appointment: &str) {
        let slot = self.resource("Appointment", appointment).and_then(|body| body["slot"][0]["reference"].as_str());
        if let Some(slot) = slot.and_then(|text| text.rsplit('/').next()).map(str::to_owned) {
            self.edit("Slot", &slot, &json!({ "status": "free" }));
        }
    }
}
