//! Subscriptions: made where there is none, put back where the server gave up, renewed before they end.
//!
//! Source: <https://hl7.org/fhir/R4/subscription.html>; the extensions of <https://hl7.org/fhir/uv/subscriptions-backport/>.

use chrono::{DateTime, TimeDelta, Utc};
use http::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_contract::{Call, ConnectorError};
use url::Url;

use crate::{
    Fhir,
    booking::iso,
    bundle::quietly,
    client::{Ask, Meta},
};

/// How long one is good for.
const LIFE: TimeDelta = TimeDelta::days(30);
/// How long before its end it is renewed.
const EARLY: TimeDelta = TimeDelta::days(7);
const BACKPORT: &str = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition";

#[derive(Deserialize)]
struct Subscription {
    id: String,
    #[serde(default)]
    meta: Meta,
    #[serde(default)]
    status: String,
    #[serde(default)]
    criteria: String,
    #[serde(default)]
    end: Option<DateTime<Utc>>,
    #[serde(default)]
    channel: Channel,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Channel {
    endpoint: Option<String>,
}

fn wanted(fhir: &Fhir, criteria: &str, address: &Url, end: DateTime<Utc>) -> Json {
    let header: Vec<String> =
        fhir.options.hook_token.iter().map(|token| format!("Authorization: Bearer {}", token.expose())).collect();
    let mut channel = json!({ "type": "rest-hook", "endpoint": address.as_str(), "payload": "application/fhir+json" });
    if !header.is_empty() {
        channel["header"] = header.into();
    }
    let mut subscription = json!({
        "resourceType": "Subscription", "status": "requested", "end": iso(end), "reason": "keeps opportunities in step",
        "criteria": criteria, "channel": channel,
    });
    if fhir.options.topic.as_deref() == Some(criteria) {
        // References alone: what they are about is read by id.
        subscription["channel"]["_payload"] =
            json!({ "extension": [{ "url": format!("{BACKPORT}/backport-payload-content"), "valueCode": "id-only" }] });
        subscription["channel"]["extension"] = json!([
            { "url": format!("{BACKPORT}/backport-heartbeat-period"), "valueUnsignedInt": 300 },
            { "url": format!("{BACKPORT}/backport-max-count"), "valuePositiveInt": 20 },
        ]);
        subscription["meta"] = json!({ "profile": [format!("{BACKPORT}/backport-subscription")] });
    }
    if let Some(secret) = &fhir.options.hook_secret {
        subscription["extension"] = json!([{
            "url": "https://www.medplum.com/fhir/StructureDefinition/subscription-secret", "valueString": secret.expose(),
        }]);
    }
    subscription
}

/// Sees to it that there is one for everything we look at.
pub async fn ensure(fhir: &Fhir, call: Call, address: &Url) -> Result<(), ConnectorError> {
    if fhir.options.read_only || !fhir.profile().subscriptions || fhir.options.hook_token.is_none() {
        return Ok(());
    }
    let known: Vec<Subscription> = quietly(fhir, call.lane, "Subscription", &[("url", address.as_str())]).await?;
    let now = fhir.client.vendor_now();
    let criteria: Vec<String> = match &fhir.options.topic {
        Some(topic) => vec![topic.clone()],
        // All statuses: one that stops matching would not be told of.
        None => {
            let plans = (fhir.options.plans && fhir.profile().plans).then_some("ServiceRequest?");
            ["Appointment?", "Encounter?"].into_iter().chain(plans).map(str::to_owned).collect()
        }
    };
    for criteria in criteria {
        let ours = known
            .iter()
            .find(|one| one.criteria == criteria && one.channel.endpoint.as_deref() == Some(address.as_str()));
        let body = wanted(fhir, &criteria, address, now + LIFE);
        match ours {
            Some(one)
                if matches!(one.status.as_str(), "active" | "requested")
                    && one.end.is_none_or(|end| end - now > EARLY) => {}
            Some(one) => {
                let mut body = body;
                body["id"] = one.id.as_str().into();
                let mut ask = Ask::change(Method::PUT, &["Subscription", &one.id], call, body.to_string());
                if let (true, Some(version)) = (fhir.profile().if_match, &one.meta.version_id) {
                    ask = ask.header(http::header::IF_MATCH, format!("W/\"{version}\""));
                }
                fhir.client.ask(&ask).await?;
            }
            None => drop(fhir.client.ask(&Ask::change(Method::POST, &["Subscription"], call, body.to_string())).await?),
        }
    }
    Ok(())
}
