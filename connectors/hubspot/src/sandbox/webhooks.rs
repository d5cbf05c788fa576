//! What the account tells its subscriber, when, how often and in which order.

use std::time::Duration;

use bytes::Bytes;
use chrono::TimeDelta;
use http::{HeaderMap, HeaderValue, Method, header};
use rand::{Rng, seq::SliceRandom};
use serde_json::{Value as Json, json};
use tandem_contract::{HttpRequest, Kind, Secret};
use tandem_sandbox::{Delivery, Due};
use url::Url;

use super::world::{Change, World};
use crate::webhook::{sign_v1, sign_v3};

/// Events of one delivery, each with the number of tries before.
pub type Batch = Vec<(Json, u32)>;

/// Events that wait to be delivered.
#[derive(Clone, Default)]
pub struct Outbox {
    target: Option<(String, Secret)>,
    due: Due<(Json, u32)>,
    event_id: u64,
}

impl World {
    /// Sends webhooks to this address from now on, signed with this secret.
    pub fn subscribe(&mut self, target_url: &str, secret: &Secret) {
        self.outbox.target = Some((target_url.to_owned(), secret.clone()));
    }

    pub(super) fn outbox_event(
        &mut self,
        kind: Kind,
        id: u64,
        what: &str,
        by: Change,
        details: impl FnOnce(&mut Json),
    ) {
        if self.outbox.target.is_none() {
            return;
        }
        let lost = self.faults.webhook_lost;
        if self.struck("webhook_lost", lost, "webhook") {
            return;
        }
        // HubSpot does not promise that an event's number is its own.
        let repeated = self.faults.webhook_same_id;
        if !self.struck("webhook_same_id", repeated, "webhook") {
            self.outbox.event_id += 1;
        }
        let (source, _) = by.source();
        let mut event = json!({
            "eventId": self.outbox.event_id, "subscriptionId": 77, "portalId": self.settings.portal_id, "appId": 1_357,
            "occurredAt": self.now.timestamp_millis(), "subscriptionType": format!("{}.{what}", kind.as_str()),
            "attemptNumber": 0, "objectId": id, "changeSource": source,
        });
        details(&mut event);
        let twice = self.faults.webhook_twice;
        let copies = if self.struck("webhook_twice", twice, "webhook") { self.rng.random_range(2..=10) } else { 1 };
        for _ in 0..copies {
            let late = self.faults.webhook_late;
            let most = self.faults.webhook_delay_ms;
            let delay = if most > 0 && self.struck("webhook_late", late, "webhook") {
                self.rng.random_range(0..=most)
            } else {
                0
            };
            self.queue(event.clone(), 0, TimeDelta::milliseconds(i64::try_from(delay).unwrap_or(0)));
        }
    }

    fn queue(&mut self, event: Json, attempt: u32, delay: TimeDelta) {
        self.outbox.due.push(self.now + delay, (event, attempt));
    }

    /// The next delivery: events that are due, or how long to wait for the first.
    pub(super) fn next_batch(&mut self) -> Result<Delivery<Batch>, Option<Duration>> {
        let Some((target, secret)) = self.outbox.target.clone() else { return Err(None) };
        let (mut batch, mut wait) = (Vec::new(), None);
        while batch.len() < self.settings.webhook_batch {
            match self.outbox.due.pop(self.now) {
                Ok(event) => batch.push(event),
                Err(until) => {
                    wait = until;
                    break;
                }
            }
        }
        let foreign = self.faults.webhook_foreign;
        if !batch.is_empty() && self.struck("webhook_foreign", foreign, "webhook") {
            // An app that several accounts installed gets their events together.
            let mut event = batch[0].0.clone();
            event["portalId"] = (self.settings.portal_id + 1).into();
            batch.push((event, u32::MAX));
        }
        let shuffle = self.faults.shuffle;
        if self.struck("shuffle", shuffle, "webhook") {
            batch.shuffle(&mut self.rng);
        }
        if batch.is_empty() {
            return Err(wait);
        }
        let timeout = Duration::from_secs(self.settings.webhook_timeout);
        Ok(Delivery { request: self.signed(&batch, &target, &secret), timeout, sent: batch })
    }

    fn signed(&self, batch: &Batch, target: &str, secret: &Secret) -> Option<HttpRequest> {
        let events: Vec<&Json> = batch.iter().map(|(event, _)| event).collect();
        let body = Bytes::from(serde_json::to_vec(&events).unwrap_or_default());
        let stamp = self.now.timestamp_millis();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut set = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        set("x-hubspot-signature", sign_v1(secret, &body));
        set("x-hubspot-signature-version", "v1".into());
        if self.settings.webhook_v3 {
            set("x-hubspot-signature-v3", sign_v3(secret, "POST", target, &body, stamp));
            set("x-hubspot-request-timestamp", stamp.to_string());
        }
        let url = Url::parse(target).ok()?;
        Some(HttpRequest { method: Method::POST, url, headers, body })
    }

    pub(super) fn failed_delivery(&mut self, batch: Batch) {
        for (mut event, attempt) in batch {
            if attempt < self.settings.webhook_retries {
                let spread =
                    self.settings.webhook_retry_seconds * 1_000 / u64::from(self.settings.webhook_retries.max(1));
                let wait = self.rng.random_range(1..=spread.max(1));
                event["attemptNumber"] = (attempt + 1).into();
                self.queue(event, attempt + 1, TimeDelta::milliseconds(i64::try_from(wait).unwrap_or(i64::MAX)));
            }
        }
    }
}
