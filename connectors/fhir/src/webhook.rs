//! News from the server: which records to look at, and nothing else of what it sends.
//!
//! Plain rest-hooks put the resource itself below our address; topic subscriptions send a bundle of references; Medplum and
//! athenahealth sign what they send. The resource is not read beyond its type and id: polling and reading by id tell the truth.
//!
//! A topic's handshake and its heartbeats name no record, and are believed like everything else: that they are answered
//! is all they ask for. A heartbeat, or a gap in the numbers, may tell of events that never came; nothing is made of
//! it, since the next poll finds what those were about, and comes sooner (a minute) than a heartbeat does (five).
//!
//! Source: <https://hl7.org/fhir/R4/subscription.html>, <https://hl7.org/fhir/uv/subscriptions-backport/>.

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tandem_contract::{ExternalId, Hint, Kind, Secret, WebhookError, WebhookRequest};
use url::Url;

use crate::{Options, reference::Reference, visits::Type};

/// What a subscription carries, as the clinic's server was told.
const TOKEN: &str = "hook token (`hook_token`)";
/// What webhooks are signed with, where the vendor signs them.
const SECRET: &str = "hook secret (`hook_secret`)";
/// What is missing where neither is there.
const EITHER: &str = "hook token (`hook_token`) and no hook secret (`hook_secret`)";

/// The header of Medplum's signature.
pub const MEDPLUM: &str = "x-signature";
/// The header of athenahealth's.
pub const ATHENA: &str = "x-hub-signature";

/// HMAC-SHA256 of a body, in lower-case hexadecimal.
#[must_use]
pub fn sign(key: &Secret, body: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).expect("a key of any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    resource_type: String,
    id: Option<String>,
    entry: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    full_url: Option<String>,
    resource: Option<Notice>,
}

/// A notification: a Parameters resource, or R5's SubscriptionStatus.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Notice {
    parameter: Vec<Parameter>,
    notification_event: Vec<Event>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameter {
    name: String,
    part: Vec<Parameter>,
    value_reference: Option<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    focus: Reference,
}

fn is_believed(options: &Options, request: &WebhookRequest<'_>) -> Result<(), WebhookError> {
    let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let same = |a: &str, b: &str| bool::from(a.as_bytes().ct_eq(b.as_bytes()));
    if options.hook_token.is_none() && options.hook_secret.is_none() {
        return Err(WebhookError::NoSecret(EITHER));
    }
    if let Some(secret) = &options.hook_secret {
        let given = header(MEDPLUM).or_else(|| header(ATHENA).and_then(|text| text.strip_prefix("sha256=")));
        if let Some(given) = given {
            return if same(&sign(secret, request.body), given) {
                Ok(())
            } else {
                Err(WebhookError::BadSignature(SECRET))
            };
        }
    }
    match (&options.hook_token, header("authorization")) {
        (Some(token), Some(given)) => match same(&format!("Bearer {}", token.expose()), given) {
            true => Ok(()),
            false => Err(WebhookError::BadSignature(TOKEN)),
        },
        _ => Err(WebhookError::Unsigned("neither the bearer token of the subscription nor a signature")),
    }
}

fn hint_of(kind: &str, id: &str) -> Option<Hint> {
    let hint = |kind: Kind, id: ExternalId| Hint { kind, id, remote_account: None, merged_into: None };
    match kind {
        "Appointment" => Some(hint(Kind::Appointment, Type::Appointment.id(id).ok()?)),
        "Encounter" => Some(hint(Kind::Appointment, Type::Encounter.id(id).ok()?)),
        "ServiceRequest" => Some(hint(Kind::Appointment, Type::ServiceRequest.id(id).ok()?)),
        "Patient" => Some(hint(Kind::Contact, ExternalId::new(id).ok()?)),
        _ => None,
    }
}

fn hint_from(reference: &Reference, base: &Url) -> Option<Hint> {
    let kinds = ["Appointment", "Encounter", "ServiceRequest", "Patient"];
    kinds.into_iter().find_map(|kind| hint_of(kind, &reference.id(kind, base)?))
}

/// Which records a webhook names. An empty body names none: what changed is found by the next poll.
///
/// # Errors
/// [`WebhookError`] if it is not to be believed.
pub fn hints(options: &Options, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
    is_believed(options, request)?;
    let mut hints: BTreeSet<Hint> = BTreeSet::new();
    // A rest-hook with a payload is an update below our address: `…/Appointment/1`.
    let path = request.uri.split('?').next().unwrap_or_default();
    let mut parts = path.rsplit('/');
    if let (Some(id), Some(kind)) = (parts.next(), parts.next()) {
        hints.extend(hint_of(kind, id));
    }
    if !request.body.iter().all(u8::is_ascii_whitespace) {
        let mut json = serde_json::Deserializer::from_slice(request.body);
        let body: Body = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| WebhookError::Malformed { path: error.path().to_string() })?;
        hints.extend(body.id.as_deref().and_then(|id| hint_of(&body.resource_type, id)));
        let base = &options.base_url;
        for entry in &body.entry {
            let whole = Reference { reference: entry.full_url.clone() };
            hints.extend(hint_from(&whole, base));
            let Some(notice) = &entry.resource else { continue };
            let events = notice.parameter.iter().filter(|one| one.name == "notification-event");
            let focus = events.flat_map(|event| &event.part).filter(|part| part.name == "focus");
            hints.extend(focus.filter_map(|part| hint_from(part.value_reference.as_ref()?, base)));
            hints.extend(notice.notification_event.iter().filter_map(|event| hint_from(&event.focus, base)));
        }
    }
    if !options.patients {
        hints.retain(|hint| hint.kind != Kind::Contact);
    }
    if !options.plans {
        hints.retain(|hint| !matches!(Type::split(&hint.id), Some((Type::ServiceRequest, _))));
    }
    Ok(hints.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;
    use crate::Login;

    fn ask(headers: &[(&'static str, &str)], uri: &str, body: &str) -> Result<Vec<String>, WebhookError> {
        let mut options = Options::new(
            "https://ehr.example.test/fhir/R4".parse().expect("an address"),
            Login::Token(Secret::new("t")),
        );
        options.hook_token = Some(Secret::new("sim-hook-secret-01"));
        options.hook_secret = Some(Secret::new("sim-medplum-secret-01"));
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).expect("a header")))
            .collect();
        let request = WebhookRequest {
            method: "POST",
            uri,
            headers: &headers,
            body: body.as_bytes(),
            received_at: DateTime::UNIX_EPOCH,
        };
        hints(&options, &request).map(|hints| hints.iter().map(|hint| hint.id.to_string()).collect())
    }

    const RIGHT: (&str, &str) = ("authorization", "Bearer sim-hook-secret-01");

    #[test]
    fn only_who_knows_the_token_is_believed() {
        assert!(matches!(ask(&[], "/webhooks/emr", ""), Err(WebhookError::Unsigned(_))));
        assert_eq!(
            ask(&[("authorization", "Bearer wrong")], "/webhooks/emr", ""),
            Err(WebhookError::BadSignature(TOKEN))
        );
        assert_eq!(ask(&[RIGHT], "/webhooks/emr", ""), Ok(Vec::new()), "an empty hook says that something changed");
    }

    #[test]
    fn a_resource_is_named_by_its_address_or_by_itself_and_not_read_further() {
        assert_eq!(ask(&[RIGHT], "/webhooks/emr/Appointment/7", ""), Ok(vec!["Appointment/7".into()]));
        let body = r#"{"resourceType":"Encounter","id":"9","reasonCode":[{"text":"PHI-CANARY"}]}"#;
        assert_eq!(ask(&[RIGHT], "/webhooks/emr", body), Ok(vec!["Encounter/9".into()]));
    }

    #[test]
    fn a_topic_names_its_focus() {
        let body = r#"{"resourceType":"Bundle","type":"history","entry":[{"resource":{"resourceType":"Parameters","parameter":[
            {"name":"type","valueCode":"event-notification"},{"name":"notification-event","part":[{"name":"event-number","valueString":"13"},
            {"name":"focus","valueReference":{"reference":"https://ehr.example.test/fhir/R4/Appointment/simappt0001"}}]}]}}]}"#;
        assert_eq!(ask(&[RIGHT], "/webhooks/emr", body), Ok(vec!["Appointment/simappt0001".into()]));
    }

    /// Handshake, heartbeat and the answer to a query of the status, as R4 has them and as R5 does.
    #[test]
    fn what_a_topic_says_of_itself_is_taken_and_names_no_record() {
        let parameters = |kind: &str| {
            format!(
                r#"{{"resourceType":"Bundle","id":"simntf-0007","type":"history","entry":[{{
                "fullUrl":"urn:uuid:2c0a7a52","resource":{{"resourceType":"Parameters","id":"2c0a7a52","parameter":[
                {{"name":"subscription","valueReference":{{
                "reference":"https://ehr.example.test/fhir/R4/Subscription/1"}}}},
                {{"name":"topic","valueCanonical":"https://ehr.example.test/topics/visits"}},
                {{"name":"status","valueCode":"active"}},{{"name":"type","valueCode":"{kind}"}},
                {{"name":"events-since-subscription-start","valueString":"12"}}]}},
                "request":{{"method":"GET","url":"https://ehr.example.test/fhir/R4/Subscription/1/$status"}}}}]}}"#
            )
        };
        for kind in ["handshake", "heartbeat", "query-status"] {
            assert_eq!(ask(&[RIGHT], "/webhooks/emr", &parameters(kind)), Ok(Vec::new()), "{kind}");
            assert!(matches!(ask(&[], "/webhooks/emr", &parameters(kind)), Err(WebhookError::Unsigned(_))), "{kind}");
        }
        let status = r#"{"resourceType":"Bundle","type":"subscription-notification","entry":[{"resource":{
            "resourceType":"SubscriptionStatus","status":"active","type":"heartbeat",
            "eventsSinceSubscriptionStart":"12","notificationEvent":[],"subscription":{"reference":"Subscription/1"}}}]}"#;
        assert_eq!(ask(&[RIGHT], "/webhooks/emr", status), Ok(Vec::new()));
    }

    #[test]
    fn a_wrong_signature_is_not_helped_by_anything() {
        let refused = ask(&[("x-signature", "00"), RIGHT], "/webhooks/emr", "{}");
        assert_eq!(refused, Err(WebhookError::BadSignature(SECRET)));
    }
}
