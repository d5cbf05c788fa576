//! HubSpot's webhooks: whose they are, and which records they ask us to look at.
//!
//! Source: HubSpot developer documentation, "Validating requests" (v1 and v3) and "Webhooks". Nothing else in a
//! webhook is believed: the value it carries may be old, its order is not promised, its id is not unique.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tandem_contract::{ExternalId, Hint, Kind, Secret, WebhookError, WebhookRequest};

use crate::wire::{Event, Loose};

/// What webhooks are signed with.
const SIGNED_WITH: &str = "client secret (`client_secret`)";

/// How old, or how far in the future, a signature may be.
const TOLERANCE_MS: i64 = 300_000;

/// The escapes that HubSpot decodes in the address before it signs it; all others stay.
const DECODED: [(&str, &str); 12] = [
    ("%3A", ":"),
    ("%2F", "/"),
    ("%3F", "?"),
    ("%40", "@"),
    ("%21", "!"),
    ("%24", "$"),
    ("%27", "'"),
    ("%28", "("),
    ("%29", ")"),
    ("%2A", "*"),
    ("%2C", ","),
    ("%3B", ";"),
];

/// Verifies the signature on the raw bytes and reads the events.
pub fn hints(
    secret: Option<&Secret>,
    accept_v1: bool,
    request: &WebhookRequest<'_>,
) -> Result<Vec<Hint>, WebhookError> {
    verify(secret.ok_or(WebhookError::NoSecret(SIGNED_WITH))?, accept_v1, request)?;
    let mut json = serde_json::Deserializer::from_slice(request.body);
    let events: Vec<serde_json::Value> = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| WebhookError::Malformed { path: error.path().to_string() })?;
    // One odd event does not cost the others of its delivery; what it was about is found by the next poll or audit.
    let events = events.into_iter().filter_map(|event| serde_json::from_value::<Event>(event).ok());
    Ok(events.flat_map(|event| of_event(&event)).collect())
}

/// A v3 signature, if there is one, must be right; a v1 alone counts only where the operator allows it.
fn verify(secret: &Secret, accept_v1: bool, request: &WebhookRequest<'_>) -> Result<(), WebhookError> {
    if let Some(signature) = header(request.headers, "x-hubspot-signature-v3") {
        let stamp = header(request.headers, "x-hubspot-request-timestamp")
            .ok_or(WebhookError::Unsigned("the v3 signature has no time stamp"))?;
        let millis: i64 = stamp.parse().map_err(|_| WebhookError::Unsigned("the v3 time stamp is no number"))?;
        let age = request.received_at.timestamp_millis().saturating_sub(millis);
        if age.saturating_abs() > TOLERANCE_MS {
            return Err(WebhookError::Expired(age / 1_000));
        }
        let given = STANDARD.decode(signature).map_err(|_| WebhookError::BadSignature(SIGNED_WITH))?;
        // HubSpot's text says to decode some escapes, its own libraries do not: both are accepted.
        let right = [decoded(request.uri), request.uri.to_owned()]
            .iter()
            .any(|uri| bool::from(v3(secret, request.method, uri, request.body, stamp).ct_eq(&given)));
        return if right { Ok(()) } else { Err(WebhookError::BadSignature(SIGNED_WITH)) };
    }
    let Some(signature) = header(request.headers, "x-hubspot-signature") else {
        return Err(WebhookError::Unsigned("no X-HubSpot-Signature-v3 header"));
    };
    if header(request.headers, "x-hubspot-signature-version").is_some_and(|version| version != "v1") {
        return Err(WebhookError::Unsigned("only v3 and v1 are used for webhooks"));
    }
    if !accept_v1 {
        return Err(WebhookError::Unsigned(
            "only a v1 signature, which can be replayed; allow it with `accept_v1_signature = true`",
        ));
    }
    let right = sign_v1(secret, request.body);
    if bool::from(right.as_bytes().ct_eq(signature.to_ascii_lowercase().as_bytes())) {
        Ok(())
    } else {
        Err(WebhookError::BadSignature(SIGNED_WITH))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    // Two signatures are as good as none: which one was checked would depend on the proxy in front.
    values.next().is_none().then_some(first)
}

fn decoded(uri: &str) -> String {
    DECODED.iter().fold(uri.to_owned(), |uri, (escape, plain)| {
        uri.replace(escape, plain).replace(&escape.to_ascii_lowercase(), plain)
    })
}

fn v3(secret: &Secret, method: &str, uri: &str, body: &[u8], stamp: &str) -> Vec<u8> {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else { return Vec::new() };
    for part in [method.as_bytes(), uri.as_bytes(), body, stamp.as_bytes()] {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// The v3 signature: base64 of HMAC-SHA-256 over method, address, body and time stamp in milliseconds.
#[must_use]
pub fn sign_v3(secret: &Secret, method: &str, uri: &str, body: &[u8], stamp: i64) -> String {
    STANDARD.encode(v3(secret, method, &decoded(uri), body, &stamp.to_string()))
}

/// The v1 signature: lower-case hex of SHA-256 over secret and body.
#[must_use]
pub fn sign_v1(secret: &Secret, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(secret.expose().as_bytes());
    hash.update(body);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The records an event is about. An event of a type we do not know is about none.
fn of_event(event: &Event) -> Vec<Hint> {
    let Some((object, what)) = event.subscription_type.as_deref().and_then(|name| name.split_once('.')) else {
        return Vec::new();
    };
    let kind = match (object, event.object_type_id.as_deref()) {
        ("deal", _) | ("object", Some("0-3")) => Kind::Deal,
        ("contact", _) | ("object", Some("0-1")) => Kind::Contact,
        ("company", _) | ("object", Some("0-2")) => Kind::Company,
        _ => return Vec::new(),
    };
    if what == "associationChange" {
        return of_association(event, kind);
    }
    let mut ids: Vec<&Loose> = vec![&event.object_id];
    if what == "merge" {
        ids.extend([&event.primary_object_id, &event.new_object_id]);
        ids.extend(&event.merged_object_ids);
    }
    about(event, ids.into_iter().map(|id| (kind, id)))
}

/// A link between two records: both ends changed. `DEAL_TO_CONTACT` says of which kind each is; without it the one
/// that the subscription names may be either.
fn of_association(event: &Event, kind: Kind) -> Vec<Hint> {
    let (from, to) = (&event.from_object_id, &event.to_object_id);
    let named = |name: &str| Kind::ALL.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(name));
    match event.association_type.as_deref().and_then(|name| name.split_once("_TO_")) {
        Some((first, second)) => {
            let ends = [(named(first), from), (named(second), to)];
            about(event, ends.into_iter().filter_map(|(kind, id)| Some((kind?, id))))
        }
        None => about(event, [(kind, from), (kind, to)].into_iter()),
    }
}

fn about<'a>(event: &Event, records: impl Iterator<Item = (Kind, &'a Loose)>) -> Vec<Hint> {
    let mut records: Vec<(Kind, ExternalId)> =
        records.filter_map(|(kind, id)| Some((kind, ExternalId::new(id.0.clone()?).ok()?))).collect();
    records.sort_unstable();
    records.dedup();
    records
        .into_iter()
        .map(|(kind, id)| Hint {
            kind,
            // What a merge made of a record is told by reading it.
            merged_into: None,
            remote_account: event.portal_id.0.clone(),
            id,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const SECRET: &str = "11111111-2222-4333-8444-555555555555";
    const B1: &str = r#"[{"eventId":9001,"subscriptionId":77,"portalId":4242,"appId":1357,"occurredAt":1795300000000,"subscriptionType":"deal.propertyChange","attemptNumber":0,"objectId":880001,"propertyName":"dealstage","propertyValue":"closedwon","changeSource":"CRM_UI"}]"#;

    const B2: &str =
        r#"[{"eventId":9002,"objectId":880002,"subscriptionType":"deal.creation","note":"Café Zürich – €"}]"#;

    fn request<'a>(headers: &'a HeaderMap, uri: &'a str, body: &'a [u8], now: i64) -> WebhookRequest<'a> {
        WebhookRequest {
            method: "POST",
            uri,
            headers,
            body,
            received_at: DateTime::from_timestamp_millis(now).unwrap(),
        }
    }

    fn signed(signature: &str, stamp: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-hubspot-signature-v3", signature.parse().unwrap());
        headers.insert("x-hubspot-request-timestamp", stamp.to_string().parse().unwrap());
        headers
    }

    #[test]
    fn the_v1_vectors_hold() {
        let secret = Secret::new(SECRET);
        for (body, want) in [
            (B1, "1702247adacf207667977632e394a7f05bd10de5f2ac62f346c395f998f39ace"),
            (B2, "41ab0c91f75512daf7cbe9a95a5df2c22e9fb094d13a2797b34ec6a29675179f"),
            ("[]", "d214adb0158f77ad911c1ba79b9da5fe0f3076b8f1d1ad0eefff76230a8a93a8"),
        ] {
            assert_eq!(sign_v1(&secret, body.as_bytes()), want);
        }
    }

    #[test]
    fn the_v3_vectors_hold_with_and_without_decoding_the_address() {
        let secret = Secret::new(SECRET);
        let plain = "https://hooks.sync.example/hubspot/cb";
        let odd = "https://hooks.sync.example/hubspot/cb?ref=a%3Ab%2Fc%40d%2Ce&sp=x%20y%26z%3D1";
        for (uri, body, stamp, signature) in [
            (plain, B1, 1_795_300_000_500, "YyTBc1fwW4rNGs/XCPvOfhUgK02X5igpFY1685yIXrc="),
            (
                "https://hooks.sync.example/hubspot/cb?tenant=a1",
                B2,
                1_795_300_001_000,
                "NV0QNjI62P+H3fs1M6xw2IEJYCak01mzUWT6IaAE3WA=",
            ),
            (odd, "[]", 1_795_300_002_000, "FzF5ln5sIaRs+q0MlBoqKTsQiKR9+3u3qc9Y2tfedp4="),
            (odd, "[]", 1_795_300_002_000, "H1zU/h/VyUxsv471MtJhQ9JBgljPi7AgNXLeV5LYPoY="),
        ] {
            let headers = signed(signature, stamp);
            let verdict = verify(&secret, false, &request(&headers, uri, body.as_bytes(), stamp));
            assert_eq!(verdict, Ok(()), "{uri}");
        }
    }

    #[test]
    fn a_signature_ages_and_covers_every_byte() {
        let secret = Secret::new(SECRET);
        let (uri, stamp) = ("https://hooks.sync.example/hubspot/cb", 1_795_300_000_500);
        let headers = signed("YyTBc1fwW4rNGs/XCPvOfhUgK02X5igpFY1685yIXrc=", stamp);
        let at = |now| verify(&secret, true, &request(&headers, uri, B1.as_bytes(), now));
        assert_eq!(at(1_795_300_300_500), Ok(()));
        assert_eq!(at(1_795_300_300_501), Err(WebhookError::Expired(300)));
        assert_eq!(at(stamp - 300_001), Err(WebhookError::Expired(-300)));
        let altered = B1.replace("closedwon", "closedwoN");
        assert_eq!(
            verify(&secret, true, &request(&headers, uri, altered.as_bytes(), stamp)),
            Err(WebhookError::BadSignature(SIGNED_WITH))
        );
        let mut twice = headers.clone();
        twice.append("x-hubspot-signature-v3", "AAAA".parse().unwrap());
        assert!(matches!(
            verify(&secret, false, &request(&twice, uri, B1.as_bytes(), stamp)),
            Err(WebhookError::Unsigned(_))
        ));
    }

    #[test]
    fn a_v1_signature_counts_only_where_it_is_allowed() {
        let secret = Secret::new(SECRET);
        let mut headers = HeaderMap::new();
        headers.insert("x-hubspot-signature", sign_v1(&secret, b"[]").parse().unwrap());
        headers.insert("x-hubspot-signature-version", "v1".parse().unwrap());
        let request = request(&headers, "https://hooks.sync.example/", b"[]", 0);
        assert!(matches!(verify(&secret, false, &request), Err(WebhookError::Unsigned(_))));
        assert_eq!(verify(&secret, true, &request), Ok(()));
    }

    #[test]
    fn every_event_names_the_records_to_look_at() {
        let of = |json: &str| -> Vec<(Kind, String)> {
            let event: Event = serde_json::from_str(json).unwrap();
            of_event(&event).into_iter().map(|hint| (hint.kind, hint.id.to_string())).collect()
        };
        let deal = |ids: &[&str]| ids.iter().map(|id| (Kind::Deal, (*id).to_owned())).collect::<Vec<_>>();
        assert_eq!(of(r#"{"subscriptionType":"deal.propertyChange","objectId":31550001}"#), deal(&["31550001"]));
        assert_eq!(
            of(r#"{"subscriptionType":"object.propertyChange","objectId":1,"objectTypeId":"0-3"}"#),
            deal(&["1"])
        );
        assert_eq!(
            of(
                r#"{"subscriptionType":"deal.merge","objectId":40,"primaryObjectId":1,"mergedObjectIds":[2],"newObjectId":40}"#
            ),
            deal(&["1", "2", "40"])
        );
        assert_eq!(
            of(
                r#"{"subscriptionType":"deal.associationChange","associationType":"DEAL_TO_CONTACT","fromObjectId":1,"toObjectId":7}"#
            ),
            vec![(Kind::Contact, "7".to_owned()), (Kind::Deal, "1".to_owned())]
        );
        assert_eq!(of(r#"{"subscriptionType":"ticket.creation","objectId":1}"#), vec![]);
        assert_eq!(of(r#"{"subscriptionType":"nonsense"}"#), vec![]);
    }
}
