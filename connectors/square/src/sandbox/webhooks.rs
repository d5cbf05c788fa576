//! What the seller's account tells its subscribers, and when.
//!
//! Source: "Square Webhooks Overview". One delivery per event and subscription; a failed one is tried again after longer and
//! longer waits, for a day. The signature is over the address and the body.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_contract::{HttpRequest, Secret};
use tandem_sandbox::{Delivery, Due};
use url::Url;

use super::world::{Refusal, World, iso};
use crate::webhook::{SIGNATURE, sign};

#[derive(Clone, Debug)]
pub struct Subscription {
    id: String,
    name: String,
    events: Vec<String>,
    url: String,
    key: String,
    enabled: bool,
    created: DateTime<Utc>,
}

/// An event on its way to one subscription.
#[derive(Clone, Debug)]
pub struct Sending {
    subscription: String,
    body: String,
    attempt: usize,
    happened: DateTime<Utc>,
}

/// Subscriptions, and events that wait to be delivered.
#[derive(Default)]
pub struct Outbox {
    subscriptions: BTreeMap<String, Subscription>,
    due: Due<Sending>,
}

impl World {
    /// The signature key of the first subscription.
    #[must_use]
    pub fn signature_key(&self) -> Option<Secret> {
        self.outbox.subscriptions.values().next().map(|subscription| Secret::new(subscription.key.clone()))
    }

    /// Subscribes an address to everything, as people do in Square's developer dashboard; answers the signature key.
    pub fn subscribe(&mut self, url: &str) -> Secret {
        let body = json!({ "subscription": { "name": "dashboard", "event_types": ["*"], "notification_url": url } });
        match self.make_subscription(&body) {
            Ok(made) => Secret::new(made["subscription"]["signature_key"].as_str().unwrap_or_default()),
            Err(_) => Secret::new(""),
        }
    }

    pub(super) fn make_subscription(&mut self, body: &Json) -> Result<Json, Refusal> {
        let given = &body["subscription"];
        let url = given["notification_url"].as_str().unwrap_or_default().to_owned();
        let parsed = url.parse::<Url>().ok();
        let fits = parsed.is_some_and(|url| !self.settings.webhook_must_be_https || url.scheme() == "https");
        if !fits {
            return Err(Refusal::invalid(
                "INVALID_VALUE",
                "subscription.notification_url",
                "Expected an https address.",
            ));
        }
        let events: Vec<String> = given["event_types"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e.as_str().map(str::to_owned))
            .collect();
        if events.is_empty() {
            return Err(Refusal::invalid("MISSING_REQUIRED_PARAMETER", "subscription.event_types", "Required."));
        }
        let id = self.next_id("wbhk_");
        let key = format!("{:032x}", self.rng.random::<u128>());
        let subscription = Subscription {
            id: id.clone(),
            name: given["name"].as_str().unwrap_or_default().to_owned(),
            events,
            url,
            key,
            enabled: true,
            created: self.now,
        };
        let shown = Self::show_subscription(&subscription, true);
        self.outbox.subscriptions.insert(id, subscription);
        Ok(json!({ "subscription": shown }))
    }

    fn show_subscription(subscription: &Subscription, with_key: bool) -> Json {
        let mut shown = json!({
            "id": subscription.id, "name": subscription.name, "enabled": subscription.enabled,
            "event_types": subscription.events, "notification_url": subscription.url, "api_version": "2025-08-20",
            "created_at": iso(subscription.created), "updated_at": iso(subscription.created),
        });
        if with_key {
            shown["signature_key"] = subscription.key.clone().into();
        }
        shown
    }

    pub(super) fn show_subscriptions(&self) -> Json {
        let all: Vec<Json> =
            self.outbox.subscriptions.values().map(|one| Self::show_subscription(one, false)).collect();
        if all.is_empty() { json!({}) } else { json!({ "subscriptions": all }) }
    }

    pub(super) fn subscription(&self, id: &str) -> Result<Json, Refusal> {
        let found = self.outbox.subscriptions.get(id).ok_or_else(|| Refusal::not_found("Subscription"))?;
        Ok(json!({ "subscription": Self::show_subscription(found, true) }))
    }

    pub(super) fn remove_subscription(&mut self, id: &str) -> Result<Json, Refusal> {
        self.outbox.subscriptions.remove(id).map(|_| json!({})).ok_or_else(|| Refusal::not_found("Subscription"))
    }

    pub(super) fn rotate_key(&mut self, id: &str) -> Result<Json, Refusal> {
        let key = format!("{:032x}", self.rng.random::<u128>());
        let found = self.outbox.subscriptions.get_mut(id).ok_or_else(|| Refusal::not_found("Subscription"))?;
        found.key.clone_from(&key);
        Ok(json!({ "signature_key": key }))
    }

    /// An event about a thing: `kind` is what its data are of.
    pub(super) fn tell_of(&mut self, event: &str, kind: &str, id: &str, object: Json, scope: &str) {
        self.queue_event(event, json!({ "type": kind, "id": id, "object": object }), scope);
    }

    /// An event about no one thing: there is no id.
    pub(super) fn tell(&mut self, event: &str, kind: &str, object: Json, scope: &str) {
        self.queue_event(event, json!({ "type": kind, "object": { kind: object } }), scope);
    }

    pub(super) fn tell_deleted(&mut self, event: &str, kind: &str, id: &str, object: Json, scope: &str) {
        self.queue_event(event, json!({ "type": kind, "id": id, "deleted": true, "object": object }), scope);
    }

    fn queue_event(&mut self, event: &str, data: Json, scope: &str) {
        if !self.settings.scopes.iter().any(|granted| granted == scope) {
            return;
        }
        let wants =
            |one: &&Subscription| one.enabled && one.events.iter().any(|wanted| wanted == event || wanted == "*");
        let to: Vec<String> = self.outbox.subscriptions.values().filter(wants).map(|one| one.id.clone()).collect();
        if to.is_empty() {
            return;
        }
        let body = json!({
            "merchant_id": self.settings.merchant_id, "type": event, "created_at": iso(self.now), "data": data,
            "event_id": format!("{:032x}", self.rng.random::<u128>()),
        })
        .to_string();
        for subscription in to {
            let lost = self.faults.webhook_lost;
            if self.struck("webhook_lost", lost, "webhook") {
                continue;
            }
            let twice = self.faults.webhook_twice;
            let copies = if self.struck("webhook_twice", twice, "webhook") { 2 } else { 1 };
            for _ in 0..copies {
                let (late, most) = (self.faults.webhook_late, self.faults.webhook_delay_ms);
                let delay = match most > 0 && self.struck("webhook_late", late, "webhook") {
                    true => self.rng.random_range(0..=most),
                    false => 0,
                };
                let sending =
                    Sending { subscription: subscription.clone(), body: body.clone(), attempt: 0, happened: self.now };
                self.queue(sending, TimeDelta::milliseconds(i64::try_from(delay).unwrap_or(0)));
            }
        }
    }

    fn queue(&mut self, sending: Sending, delay: TimeDelta) {
        self.outbox.due.push(self.now + delay, sending);
    }

    pub(super) fn next_sending(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        loop {
            let sent = self.outbox.due.pop(self.now)?;
            if let Some(subscription) = self.outbox.subscriptions.get(&sent.subscription) {
                let timeout = Duration::from_secs(self.settings.webhook_timeout);
                return Ok(Delivery { request: request(&sent, subscription), timeout, sent });
            }
        }
    }

    pub(super) fn was_sent(&mut self, sent: Sending, success: bool) {
        if success {
            self.stats.webhook_events += 1;
            return;
        }
        let wait = self.settings.webhook_retry_minutes.get(sent.attempt).copied().unwrap_or(60);
        let ends = sent.happened + TimeDelta::hours(self.settings.webhook_hours);
        if self.now + TimeDelta::minutes(wait) <= ends {
            self.queue(Sending { attempt: sent.attempt + 1, ..sent }, TimeDelta::minutes(wait));
        }
    }
}

fn request(sent: &Sending, to: &Subscription) -> Option<HttpRequest> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let signature = sign(&Secret::new(to.key.clone()), &to.url, sent.body.as_bytes());
    headers.insert(HeaderName::from_static(SIGNATURE), HeaderValue::try_from(signature).ok()?);
    headers.insert(HeaderName::from_static("square-environment"), HeaderValue::from_static("Sandbox"));
    if sent.attempt > 0 {
        headers.insert(HeaderName::from_static("square-retry-number"), HeaderValue::from(sent.attempt));
    }
    let url = Url::parse(&to.url).ok()?;
    Some(HttpRequest { method: Method::POST, url, headers, body: Bytes::from(sent.body.clone()) })
}
