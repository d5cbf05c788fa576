//! The hand of somebody at the clinic's desk. Invented people only.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};

use super::world::{World, iso};

/// What stands wherever something stands that must not leave a clinic.
pub const CANARY: &str = "PHI-CANARY";

/// The system of the clinic's codes.
const CODES: &str = "https://ehr.example.test/codes/appt-type";
/// The extension that says what a charge came to.
const TOTAL_COST: &str = "https://ehr.example.test/ext/financialTransaction.totalCost";
/// The schedule of a clinic that has but one.
const SCHEDULE: &str = "simsch01";

const FIRST: [&str; 8] = ["Ana", "Ben", "Chloe", "Dev", "Elif", "Finn", "Gia", "Hugo"];
const LAST: [&str; 8] = ["Ito", "Jones", "Kaya", "Larsen", "Moreau", "Nowak", "Okafor", "Perez"];

impl World {
    /// Registers this many people.
    pub fn fill(&mut self, patients: usize) {
        for n in 0..patients {
            let (first, last) = (FIRST[n % FIRST.len()], LAST[(n / FIRST.len()) % LAST.len()]);
            let email = format!("{}.{}.{n}@example.com", first.to_lowercase(), last.to_lowercase());
            self.register(first, last, &email, &format!("+1602555{:04}", 100 + n % 100));
        }
    }

    /// Registers somebody; answers their id.
    pub fn register(&mut self, first: &str, last: &str, email: &str, phone: &str) -> String {
        let id = self.next_id("Patient");
        let mut telecom = Vec::new();
        if !phone.is_empty() {
            telecom.push(json!({ "system": "phone", "value": phone, "use": "mobile" }));
        }
        if !email.is_empty() {
            telecom.push(json!({ "system": "email", "value": email }));
        }
        let mut body = json!({ "active": true, "name": [{ "use": "official", "family": last, "given": [first] }] });
        if !telecom.is_empty() {
            body["telecom"] = telecom.into();
        }
        self.put(&id, "Patient", body);
        id
    }

    /// The patient with this address.
    #[must_use]
    pub fn patient_with(&self, email: &str) -> Option<String> {
        let has = |id: &String| {
            let body = self.resource("Patient", id)?;
            Some(
                body["telecom"]
                    .as_array()?
                    .iter()
                    .any(|one| one["value"].as_str().is_some_and(|text| text.eq_ignore_ascii_case(email))),
            )
        };
        self.ids("Patient").into_iter().find(|id| has(id).unwrap_or(false))
    }

    /// Merges one patient into another.
    pub fn merge(&mut self, lost: &str, survivor: &str) {
        let mut body = self.resource("Patient", lost).cloned().unwrap_or_default();
        body["active"] = false.into();
        body["link"] = json!([{ "other": { "reference": format!("Patient/{survivor}") }, "type": "replaced-by" }]);
        self.store("Patient", lost, Some(body));
    }

    /// Makes an appointment of half an hour; answers its id.
    pub fn appoint(&mut self, patient: &str, code: &str, status: &str, start: DateTime<Utc>) -> String {
        let id = self.next_id("Appointment");
        let mut actor = json!({ "actor": { "reference": self.reference("Patient", patient) } });
        if self.settings.participant_status {
            actor["status"] = "accepted".into();
        }
        let body = json!({
            "status": status, "appointmentType": { "coding": [{ "system": CODES, "code": code }] },
            "start": iso(start), "end": iso(start + TimeDelta::minutes(30)), "created": iso(self.now), "participant": [actor],
        });
        self.put(&id, "Appointment", body);
        id
    }

    /// Another patient comes to an appointment as well.
    pub fn bring(&mut self, appointment: &str, patient: &str) {
        let mut body = self.resource("Appointment", appointment).cloned().unwrap_or_default();
        let mut actor = json!({ "actor": { "reference": self.reference("Patient", patient) } });
        if self.settings.participant_status {
            actor["status"] = "accepted".into();
        }
        if let Some(participants) = body["participant"].as_array_mut() {
            participants.push(actor);
        }
        self.store("Appointment", appointment, Some(body));
    }

    /// Begins an encounter, of an appointment or of none; answers its id.
    pub fn encounter(&mut self, patient: &str, code: &str, status: &str, of: Option<&str>) -> String {
        let id = self.next_id("Encounter");
        let mut body = json!({
            "status": status, "class": { "system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB" },
            "type": [{ "coding": [{ "system": CODES, "code": code }] }],
            "subject": { "reference": self.reference("Patient", patient) }, "period": { "start": iso(self.now) },
        });
        if let Some(of) = of {
            body["appointment"] = json!([{ "reference": self.reference("Appointment", of) }]);
        }
        self.put(&id, "Encounter", body);
        id
    }

    /// Orders what a patient agreed to, for some day in two weeks; answers the order's id.
    pub fn plan(&mut self, patient: &str, code: &str, status: &str) -> String {
        let id = self.next_id("ServiceRequest");
        let day = (self.now + TimeDelta::days(14)).date_naive();
        let body = json!({
            "status": status, "intent": "order", "code": { "coding": [{ "system": CODES, "code": code }] },
            "subject": { "reference": self.reference("Patient", patient) },
            "occurrenceDateTime": day.to_string(), "authoredOn": iso(self.now),
        });
        self.put(&id, "ServiceRequest", body);
        id
    }

    /// Writes an invoice over this much, in major units; answers its id.
    pub fn invoice(&mut self, patient: &str, status: &str, amount: f64, currency: &str) -> String {
        let id = self.next_id("Invoice");
        let net = json!({ "value": amount, "currency": currency });
        let body = json!({
            "status": status, "subject": { "reference": self.reference("Patient", patient) }, "date": iso(self.now), "totalNet": net,
        });
        self.put(&id, "Invoice", body);
        id
    }

    /// Charges an encounter; answers the charge's id, which is as odd as some servers' are.
    pub fn charge(&mut self, patient: &str, encounter: &str, amount: f64) -> String {
        let id = format!("CHG|{}", self.next_id("ChargeItem"));
        let mut body = json!({
            "status": "billable", "code": { "coding": [{ "code": "INJ" }] },
            "subject": { "reference": self.reference("Patient", patient) },
            "context": { "reference": self.reference("Encounter", encounter) },
        });
        let money = json!({ "value": amount, "currency": "USD" });
        if self.settings.total_cost_extension {
            body["extension"] = json!([{ "url": TOTAL_COST, "valueMoney": money }]);
        } else {
            body["priceOverride"] = money;
        }
        self.put(&id, "ChargeItem", body);
        id
    }

    /// Begins the schedule of a practitioner at a site; answers its id.
    pub fn open_schedule(&mut self, practitioner: &str, site: &str) -> String {
        let id = self.next_id("Schedule");
        self.put_schedule(&id, practitioner, site);
        id
    }

    fn put_schedule(&mut self, id: &str, practitioner: &str, site: &str) {
        let actors = [self.reference("Practitioner", practitioner), self.reference("Location", site)];
        let (from, until) = (self.now - TimeDelta::days(30), self.now + TimeDelta::days(90));
        let body = json!({
            "active": true, "actor": actors.map(|reference| json!({ "reference": reference })),
            "planningHorizon": { "start": iso(from), "end": iso(until) },
        });
        self.put(id, "Schedule", body);
    }

    /// Opens a slot of half an hour in the clinic's first schedule; answers its id.
    pub fn open_slot(&mut self, start: DateTime<Utc>) -> String {
        if self.resource("Schedule", SCHEDULE).is_none() {
            self.put_schedule(SCHEDULE, "simprac01", "simloc01");
        }
        self.open_slot_in(SCHEDULE, start)
    }

    /// The same in this schedule.
    pub fn open_slot_in(&mut self, schedule: &str, start: DateTime<Utc>) -> String {
        let id = self.next_id("Slot");
        let body = json!({
            "schedule": { "reference": self.reference("Schedule", schedule) }, "status": "free",
            "start": iso(start), "end": iso(start + TimeDelta::minutes(30)),
        });
        self.put(&id, "Slot", body);
        id
    }

    /// Changes elements of a record; null takes one away.
    pub fn edit(&mut self, kind: &str, id: &str, changes: &Json) {
        let Some(mut body) = self.resource(kind, id).cloned() else { return };
        for (name, value) in changes.as_object().into_iter().flatten() {
            match (value.is_null(), body.as_object_mut()) {
                (true, Some(all)) => drop(all.remove(name)),
                _ => body[name] = value.clone(),
            }
        }
        self.store(kind, id, Some(body));
    }

    /// Changes the status of a record.
    pub fn set_status(&mut self, kind: &str, id: &str, status: &str) {
        self.edit(kind, id, &json!({ "status": status }));
    }

    /// Moves an appointment.
    pub fn reschedule(&mut self, id: &str, start: DateTime<Utc>) {
        self.edit("Appointment", id, &json!({ "start": iso(start), "end": iso(start + TimeDelta::minutes(30)) }));
    }

    /// Deletes a record.
    pub fn delete(&mut self, kind: &str, id: &str) {
        if self.resource(kind, id).is_some() {
            self.store(kind, id, None);
        }
    }

    fn put(&mut self, id: &str, kind: &str, mut body: Json) {
        if self.settings.canary {
            fill(kind, &mut body);
        }
        self.store(kind, id, Some(body));
    }

    pub(super) fn reference(&self, kind: &str, id: &str) -> String {
        match self.settings.absolute_references {
            true => format!("{}/{kind}/{id}", self.base),
            false => format!("{kind}/{id}"),
        }
    }
}

/// Fills in everything that must not leave a clinic.
fn fill(kind: &str, body: &mut Json) {
    let concept = json!({ "text": CANARY, "coding": [{ "system": CANARY, "code": CANARY, "display": CANARY }] });
    body["text"] =
        json!({ "status": "generated", "div": format!("<div xmlns=\"http://www.w3.org/1999/xhtml\">{CANARY}</div>") });
    let extension = json!({ "url": "https://ehr.example.test/ext", "valueString": CANARY });
    match body["extension"].as_array_mut() {
        Some(all) => all.push(extension),
        None => body["extension"] = json!([extension]),
    }
    match kind {
        "Patient" => {
            body["birthDate"] = CANARY.into();
            body["gender"] = CANARY.into();
            body["identifier"] = json!([{ "system": "http://hl7.org/fhir/sid/us-ssn", "value": CANARY }]);
            body["address"] = json!([{ "text": CANARY, "line": [CANARY], "city": CANARY, "postalCode": CANARY }]);
            body["maritalStatus"] = concept.clone();
            body["contact"] = json!([{ "name": { "text": CANARY } }]);
            body["communication"] = json!([{ "language": concept }]);
            body["generalPractitioner"] = json!([{ "display": CANARY }]);
            body["deceasedDateTime"] = CANARY.into();
            body["photo"] = json!([{ "title": CANARY }]);
        }
        "Appointment" => {
            body["description"] = CANARY.into();
            body["comment"] = CANARY.into();
            body["patientInstruction"] = CANARY.into();
            body["reasonCode"] = json!([concept]);
            body["cancelationReason"] = json!({ "text": CANARY });
            body["serviceType"] = json!([concept]);
            body["supportingInformation"] = json!([{ "display": CANARY }]);
            body["appointmentType"]["text"] = CANARY.into();
        }
        "Encounter" => {
            body["reasonCode"] = json!([concept]);
            body["diagnosis"] = json!([{ "condition": { "display": CANARY } }]);
            body["hospitalization"] = json!({ "dischargeDisposition": concept });
            body["serviceType"] = concept;
        }
        "ServiceRequest" => {
            body["code"]["text"] = CANARY.into();
            body["reasonCode"] = json!([concept]);
            body["reasonReference"] = json!([{ "display": CANARY }]);
            body["bodySite"] = json!([concept]);
            body["orderDetail"] = json!([concept]);
            body["performerType"] = concept;
            body["requester"] = json!({ "display": CANARY });
            body["insurance"] = json!([{ "display": CANARY }]);
            body["supportingInfo"] = json!([{ "display": CANARY }]);
            body["note"] = json!([{ "text": CANARY }]);
            body["patientInstruction"] = CANARY.into();
        }
        "Invoice" => body["note"] = json!([{ "text": CANARY }]),
        "Schedule" | "Slot" => body["comment"] = CANARY.into(),
        _ => {}
    }
}
