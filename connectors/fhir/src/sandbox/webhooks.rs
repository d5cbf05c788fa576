//! News: rest-hooks with the record below the subscriber's address, and topic notifications with references alone.
//!
//! Source: <https://hl7.org/fhir/R4/subscription.html>, <https://hl7.org/fhir/uv/subscriptions-backport/>.

use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_contract::{HttpRequest, Secret};
use tandem_sandbox::{Delivery, Due};
use url::Url;

use super::world::{World, iso};
use crate::webhook::{MEDPLUM, sign};

/// An event on its way to a subscription.
#[derive(Clone, Debug)]
pub struct Sending {
    subscription: String,
    kind: String,
    id: String,
    attempt: usize,
}

/// Events that wait to be delivered, and how many each subscription has had.
#[derive(Default)]
pub struct Outbox {
    due: Due<Sending>,
    number: u64,
}

impl World {
    /// Tells whoever subscribed to it of a record that changed.
    pub(super) fn tell(&mut self, kind: &str, id: &str) {
        if !self.settings.subscriptions || kind == "Subscription" {
            return;
        }
        let wants = |world: &Self, subscription: &String| {
            let body = world.resource("Subscription", subscription)?;
            let criteria = body["criteria"].as_str()?;
            let is_topic = criteria.contains("://");
            let is_about =
                criteria.split('?').next() == Some(kind) || (is_topic && matches!(kind, "Appointment" | "Encounter"));
            Some(body["status"] == "active" && is_about)
        };
        let to: Vec<String> =
            self.ids("Subscription").into_iter().filter(|one| wants(self, one).unwrap_or(false)).collect();
        for subscription in to {
            let (lost, twice) = (self.faults.webhook_lost, self.faults.webhook_twice);
            if self.struck("webhook_lost", lost, "webhook") {
                continue;
            }
            let copies = if self.struck("webhook_twice", twice, "webhook") { 2 } else { 1 };
            for _ in 0..copies {
                let (late, most) = (self.faults.webhook_late, self.faults.webhook_delay_ms);
                let delay = match most > 0 && self.struck("webhook_late", late, "webhook") {
                    true => self.rng.random_range(0..=most),
                    false => 0,
                };
                let sending =
                    Sending { subscription: subscription.clone(), kind: kind.into(), id: id.into(), attempt: 0 };
                self.outbox.due.push(self.now + TimeDelta::milliseconds(i64::try_from(delay).unwrap_or(0)), sending);
            }
        }
    }

    pub(super) fn next_sending(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        let sent = self.outbox.due.pop(self.now)?;
        self.outbox.number += 1;
        let request = self.request(&sent);
        Ok(Delivery { request, timeout: Duration::from_secs(10), sent })
    }

    pub(super) fn was_sent(&mut self, sent: Sending, success: bool) {
        if success {
            self.stats.webhook_events += 1;
        } else if let Some(wait) = self.settings.webhook_retry_minutes.get(sent.attempt) {
            let at = self.now + TimeDelta::minutes(*wait);
            self.outbox.due.push(at, Sending { attempt: sent.attempt + 1, ..sent });
        } else {
            // This server gives up: whoever subscribed must ask again.
            self.edit("Subscription", &sent.subscription, &json!({ "status": "error" }));
        }
    }

    fn request(&self, sent: &Sending) -> Option<HttpRequest> {
        let subscription = self.resource("Subscription", &sent.subscription)?;
        let channel = &subscription["channel"];
        let endpoint = channel["endpoint"].as_str()?;
        let is_topic = subscription["criteria"].as_str()?.contains("://");
        let resource = self.resource(&sent.kind, &sent.id)?;
        let (method, url, body) = match (is_topic, channel["payload"].is_null()) {
            (true, _) => (Method::POST, endpoint.to_owned(), self.notification(sent).to_string()),
            (false, true) => (Method::POST, endpoint.to_owned(), String::new()),
            (false, false) => (
                Method::PUT,
                format!("{}/{}/{}", endpoint.trim_end_matches('/'), sent.kind, sent.id),
                resource.to_string(),
            ),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
        for line in channel["header"].as_array().into_iter().flatten().filter_map(Json::as_str) {
            let (name, value) = line.split_once(':')?;
            headers.insert(HeaderName::try_from(name.trim()).ok()?, HeaderValue::try_from(value.trim()).ok()?);
        }
        if let Some(secret) = subscription["extension"][0]["valueString"].as_str() {
            headers.insert(MEDPLUM, HeaderValue::try_from(sign(&Secret::new(secret), body.as_bytes())).ok()?);
        }
        Some(HttpRequest { method, url: Url::parse(&url).ok()?, headers, body: Bytes::from(body) })
    }

    fn notification(&self, sent: &Sending) -> Json {
        let number = self.outbox.number.to_string();
        let focus = format!("{}/{}/{}", self.base, sent.kind, sent.id);
        let status = format!("{}/Subscription/{}/$status", self.base, sent.subscription);
        json!({
            "resourceType": "Bundle", "type": "history", "timestamp": iso(self.now), "entry": [{
                "resource": { "resourceType": "Parameters", "parameter": [
                    { "name": "subscription", "valueReference": { "reference": format!("{}/Subscription/{}", self.base, sent.subscription) } },
                    { "name": "status", "valueCode": "active" }, { "name": "type", "valueCode": "event-notification" },
                    { "name": "events-since-subscription-start", "valueString": number },
                    { "name": "notification-event", "part": [
                        { "name": "event-number", "valueString": number },
                        { "name": "timestamp", "valueInstant": iso(self.now) },
                        { "name": "focus", "valueReference": { "reference": focus } },
                    ] },
                ] },
                "request": { "method": "GET", "url": status }, "response": { "status": "200" },
            }],
        })
    }
}
