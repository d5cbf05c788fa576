//! Plans of treatment: what was ordered for a patient, of which the least is read that tells whether it was agreed to.
//!
//! What is ordered is looked up in the operator's table while it is in memory, and goes no further. Examinations are
//! ordered the same way as treatments: what the table does not name is of no interest, and nobody is told of it.
//! Source: <https://hl7.org/fhir/R4/servicerequest.html>, <https://hl7.org/fhir/R4/valueset-request-intent.html>.

use serde::Deserialize;
use serde_json::value::RawValue;
use tandem_contract::{ConnectorError, Visit, VisitClass, VisitStatus};

use crate::{
    Fhir,
    bundle::parse,
    client::Meta,
    reference::Reference,
    visits::{Concept, Period, Raw, Type, classify, instant, version},
};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceRequest {
    id: String,
    meta: Meta,
    status: String,
    intent: String,
    /// It orders that something is not done.
    do_not_perform: bool,
    code: Concept,
    subject: Reference,
    occurrence_date_time: Option<String>,
    occurrence_period: Period,
    authored_on: Option<String>,
}

/// How far a plan has come. Only an order or a plan was agreed to: everything else is thought about. One that is
/// completed is no treatment that took place, since visits tell that; and one that waits takes nothing back.
fn of_request(code: &str, intent: &str) -> VisitStatus {
    match (code, matches!(intent, "order" | "plan")) {
        ("entered-in-error", _) => VisitStatus::Erased,
        ("draft", _) | (_, false) => VisitStatus::Proposed,
        ("active" | "completed", true) => VisitStatus::Accepted,
        ("revoked", true) => VisitStatus::Cancelled,
        _ => VisitStatus::Unclear,
    }
}

/// A plan, with whom it is for still as a patient's id.
pub fn plan(fhir: &Fhir, raw: &RawValue) -> Result<Raw, ConnectorError> {
    let read: ServiceRequest = parse(raw)?;
    let (class, service) = match classify(&fhir.options.visit_types, std::iter::once(&read.code)) {
        _ if read.do_not_perform => (VisitClass::Ignored, None),
        (VisitClass::Unmapped, _) => (VisitClass::Ignored, None),
        known => known,
    };
    let starts = read.occurrence_date_time.as_deref().or(read.occurrence_period.start.as_deref());
    let visit = Visit {
        id: Type::ServiceRequest.id(&read.id)?,
        version: version(&read.meta, raw),
        appointment: None,
        status: of_request(&read.status, &read.intent),
        class,
        service,
        starts_at: instant(starts),
        ends_at: instant(read.occurrence_period.end.as_deref()),
        created_at: instant(read.authored_on.as_deref()),
        site: None,
        visitors: Vec::new(),
        mention: None,
        charged: None,
    };
    let patients = read.subject.id("Patient", fhir.client.base_url()).into_iter().collect();
    Ok(Raw { visit, patients, account: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_or_a_plan_was_agreed_to_and_none_is_a_treatment_that_took_place() {
        for (code, intent, status) in [
            ("active", "order", VisitStatus::Accepted),
            ("active", "plan", VisitStatus::Accepted),
            ("completed", "order", VisitStatus::Accepted),
            ("revoked", "order", VisitStatus::Cancelled),
            ("entered-in-error", "proposal", VisitStatus::Erased),
            ("draft", "order", VisitStatus::Proposed),
            ("active", "proposal", VisitStatus::Proposed),
            ("active", "option", VisitStatus::Proposed),
            ("revoked", "proposal", VisitStatus::Proposed),
            ("on-hold", "order", VisitStatus::Unclear),
            ("unknown", "plan", VisitStatus::Unclear),
        ] {
            assert_eq!(of_request(code, intent), status, "{code} {intent}");
        }
    }
}
