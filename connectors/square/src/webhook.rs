//! Webhooks: HMAC-SHA256 over the address they were sent to and the raw body.
//!
//! Source: "Verify and Validate an Event Notification", <https://developer.squareup.com/docs/webhooks/step3validate>.
//! The body only says which records to look at: a payment's event and a poll come to the same. Of a merge it also says which
//! customer lives on, which nothing else at Square tells.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::Value as Json;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tandem_contract::{ExternalId, Hint, Kind, Secret, WebhookError, WebhookRequest};

use crate::Options;

/// What webhooks are signed with.
const KEY: &str = "signature key (`signature_key`)";

/// The header that carries the signature.
pub const SIGNATURE: &str = "x-square-hmacsha256-signature";

/// The signature of a body that is sent to this address.
pub fn sign(key: &Secret, address: &str, body: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).expect("a key of any length");
    mac.update(address.as_bytes());
    mac.update(body);
    STANDARD.encode(mac.finalize().into_bytes())
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    merchant_id: Option<String>,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    id: Option<String>,
    object: Json,
}

/// What a webhook tells.
pub struct News {
    /// Which records it names.
    pub hints: Vec<Hint>,
    /// Whether the catalog changed.
    pub is_of_catalog: bool,
}

/// What a webhook tells, if it is to be believed.
pub fn news(options: &Options, request: &WebhookRequest<'_>) -> Result<News, WebhookError> {
    if options.signature_keys.is_empty() {
        return Err(WebhookError::NoSecret(KEY));
    }
    let given = request.headers.get(SIGNATURE).and_then(|value| value.to_str().ok());
    let given = given.ok_or(WebhookError::Unsigned("no x-square-hmacsha256-signature"))?;
    // Signed over the address as Square has it, whatever a proxy in between made of it.
    let address = options.notification_url.as_deref().unwrap_or(request.uri);
    let is_right = |key: &Secret| bool::from(sign(key, address, request.body).as_bytes().ct_eq(given.as_bytes()));
    if !options.signature_keys.iter().any(is_right) {
        return Err(WebhookError::BadSignature(KEY));
    }
    let mut json = serde_json::Deserializer::from_slice(request.body);
    let event: Event = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| WebhookError::Malformed { path: error.path().to_string() })?;
    Ok(News { hints: named(&event), is_of_catalog: event.kind.starts_with("catalog.") })
}

/// The event's own id, which is the same whenever it is sent again.
pub fn event(body: &[u8]) -> Option<ExternalId> {
    #[derive(Deserialize)]
    struct Named {
        event_id: String,
    }
    let named: Named = serde_json::from_slice(body).ok()?;
    ExternalId::new(named.event_id).ok()
}

fn named(event: &Event) -> Vec<Hint> {
    let object = &event.data.object;
    let hint = |kind: Kind, id: Option<&str>| {
        let id = ExternalId::new(id?).ok()?;
        Some(Hint { kind, id, remote_account: event.merchant_id.clone(), merged_into: None })
    };
    let family = event.kind.split('.').next().unwrap_or_default();
    match family {
        "payment" => hint(Kind::Sale, object["payment"]["order_id"].as_str()).into_iter().collect(),
        "refund" => hint(Kind::Sale, object["refund"]["order_id"].as_str()).into_iter().collect(),
        "invoice" => hint(Kind::Sale, object["invoice"]["order_id"].as_str()).into_iter().collect(),
        "order" => hint(Kind::Sale, event.data.id.as_deref()).into_iter().collect(),
        "customer" => {
            let merge = &object["event_context"]["merge"];
            let survivor = merge["to_customer_id"].as_str();
            let mut hints: Vec<Hint> = hint(Kind::Contact, event.data.id.as_deref()).into_iter().collect();
            let lost = merge["from_customer_ids"].as_array().into_iter().flatten().filter_map(Json::as_str);
            for id in lost {
                if let (Some(mut lost), Some(survivor)) =
                    (hint(Kind::Contact, Some(id)), survivor.and_then(|id| ExternalId::new(id).ok()))
                {
                    lost.merged_into = Some(survivor);
                    hints.retain(|known| known.id != lost.id);
                    hints.push(lost);
                }
            }
            hints
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn options() -> Options {
        let token = tandem_contract::Credentials::Token(Secret::new("token"));
        let mut options = Options::new("https://connect.example.com".parse().expect("an address"), token);
        options.notification_url = Some("https://tandem.example.com/webhooks/square".into());
        options.signature_keys = vec![Secret::new("new-key"), Secret::new("old-key")];
        options
    }

    fn ask(options: &Options, signature: Option<&str>, body: &str) -> Result<Vec<Hint>, WebhookError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = signature.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(SIGNATURE, value);
        }
        let request = WebhookRequest {
            method: "POST",
            uri: "http://10.0.0.1:8080/webhooks/square",
            headers: &headers,
            body: body.as_bytes(),
            received_at: DateTime::UNIX_EPOCH,
        };
        news(options, &request).map(|news| news.hints)
    }

    const PAID: &str = r#"{"merchant_id":"ML1","type":"payment.updated","event_id":"e1","data":{"type":"payment","id":"P1",
        "object":{"payment":{"id":"P1","order_id":"O1","status":"COMPLETED"}}}}"#;

    #[test]
    fn only_a_signature_over_the_registered_address_is_believed() {
        let options = options();
        let address = "https://tandem.example.com/webhooks/square";
        assert_eq!(ask(&options, None, PAID), Err(WebhookError::Unsigned("no x-square-hmacsha256-signature")));
        let elsewhere = sign(&Secret::new("new-key"), "https://tandem.example.com/webhooks/square/", PAID.as_bytes());
        assert_eq!(ask(&options, Some(&elsewhere), PAID), Err(WebhookError::BadSignature(KEY)));
        for key in ["new-key", "old-key"] {
            let right = sign(&Secret::new(key), address, PAID.as_bytes());
            let hints = ask(&options, Some(&right), PAID).expect("hints");
            assert_eq!((hints[0].kind, hints[0].id.as_str()), (Kind::Sale, "O1"), "{key}: a payment is of an order");
            assert_eq!(hints[0].remote_account.as_deref(), Some("ML1"));
        }
    }

    #[test]
    fn a_merge_names_everybody_and_the_survivor() {
        let body = r#"{"type":"customer.deleted","data":{"id":"C1","object":{"event_context":{"merge":
            {"from_customer_ids":["C1","C2"],"to_customer_id":"C3"}}}}}"#;
        let right = sign(&Secret::new("new-key"), "https://tandem.example.com/webhooks/square", body.as_bytes());
        let hints = ask(&options(), Some(&right), body).expect("hints");
        let lost: Vec<&str> = hints.iter().map(|hint| hint.id.as_str()).collect();
        assert_eq!(lost, ["C1", "C2"]);
        assert!(hints.iter().all(|hint| hint.merged_into.as_ref().map(ExternalId::as_str) == Some("C3")));
    }

    #[test]
    fn what_is_no_event_is_told_by_its_place() {
        let right = sign(&Secret::new("new-key"), "https://tandem.example.com/webhooks/square", b"[]");
        assert!(matches!(ask(&options(), Some(&right), "[]"), Err(WebhookError::Malformed { .. })));
    }
}
