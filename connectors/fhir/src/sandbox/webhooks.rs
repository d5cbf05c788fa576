//! News: rest-hooks with the record below the subscriber's address, and topic notifications with references alone.
//!
//! A subscription to a topic begins with a handshake: answered 2xx it is active, else in error. Its events are
//! numbered, also those that get lost, and where nothing was sent for a period a heartbeat tells the last number.
//!
//! Source: <https://hl7.org/fhir/R4/subscription.html>, <https://hl7.org/fhir/uv/subscriptions-backport/>.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_contract::{HttpRequest, Secret};
use tandem_sandbox::{Delivery, Due};
use url::Url;

use super::world::{World, iso};
use crate::webhook::{MEDPLUM, sign};

/// What a subscriber is told.
#[derive(Clone, Debug)]
enum News {
    /// A record changed: the subscription's event of this number.
    Event { kind: String, id: String, number: u64 },
    /// The subscription is about to begin.
    Handshake,
    /// Nothing happened for a while.
    Heartbeat,
}

/// News on their way to a subscription.
#[derive(Clone, Debug)]
pub struct Sending {
    subscription: String,
    news: News,
    attempt: usize,
}

/// What a subscription has had.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    /// The number of its last event.
    number: u64,
    /// When something last arrived.
    at: Option<DateTime<Utc>>,
    /// Whether a heartbeat waits.
    beats: bool,
}

/// News that wait to be delivered, and what each subscription has had.
#[derive(Default)]
pub struct Outbox {
    due: Due<Sending>,
    had: BTreeMap<String, Had>,
}

fn is_topic(subscription: &Json) -> bool {
    subscription["criteria"].as_str().is_some_and(|criteria| criteria.contains("://"))
}

/// What a subscription that is asked for is at first: one to a topic waits for its handshake.
pub(super) fn first_status(subscription: &Json) -> &'static str {
    if is_topic(subscription) { "requested" } else { "active" }
}

impl World {
    /// Begins a subscription to a topic that was asked for.
    pub(super) fn shake_hands(&mut self, subscription: &str) {
        let status = self.resource("Subscription", subscription).map(|body| body["status"].clone());
        if self.settings.subscriptions && status.is_some_and(|status| status == "requested") {
            let sending = Sending { subscription: subscription.to_owned(), news: News::Handshake, attempt: 0 };
            self.outbox.due.push(self.now, sending);
        }
    }

    /// The period of a subscription's heartbeats, while it is active and has any.
    fn period(&self, subscription: &str) -> Option<TimeDelta> {
        let body = self.resource("Subscription", subscription).filter(|body| body["status"] == "active")?;
        let is_period =
            |one: &&Json| one["url"].as_str().is_some_and(|url| url.ends_with("/backport-heartbeat-period"));
        let seconds = body["channel"]["extension"].as_array()?.iter().find(is_period)?["valueUnsignedInt"].as_i64()?;
        (1..=86_400).contains(&seconds).then(|| TimeDelta::seconds(seconds))
    }

    /// Lets the next heartbeat wait for its time, if there is to be one and none waits.
    fn await_silence(&mut self, subscription: &str) {
        let period = self.period(subscription);
        let had = self.outbox.had.entry(subscription.to_owned()).or_default();
        if let (Some(period), Some(at), false) = (period, had.at, had.beats) {
            had.beats = true;
            let sending = Sending { subscription: subscription.to_owned(), news: News::Heartbeat, attempt: 0 };
            self.outbox.due.push(at + period, sending);
        }
    }

    /// Whether nothing was sent for a period when a heartbeat's time came; where something was, it has time again.
    fn is_silent(&mut self, subscription: &str) -> bool {
        let (period, now) = (self.period(subscription), self.now);
        let had = self.outbox.had.entry(subscription.to_owned()).or_default();
        had.beats = false;
        let is_silent = period.zip(had.at).is_some_and(|(period, at)| at + period <= now);
        if !is_silent {
            self.await_silence(subscription);
        }
        is_silent
    }

    /// Tells whoever subscribed to it of a record that changed.
    pub(super) fn tell(&mut self, kind: &str, id: &str) {
        if !self.settings.subscriptions || kind == "Subscription" {
            return;
        }
        let wants = |world: &Self, subscription: &String| {
            let body = world.resource("Subscription", subscription)?;
            let criteria = body["criteria"].as_str()?;
            let is_about = criteria.split('?').next() == Some(kind)
                || (is_topic(body) && matches!(kind, "Appointment" | "Encounter"));
            Some(body["status"] == "active" && is_about)
        };
        let to: Vec<String> =
            self.ids("Subscription").into_iter().filter(|one| wants(self, one).unwrap_or(false)).collect();
        for subscription in to {
            let had = self.outbox.had.entry(subscription.clone()).or_default();
            had.number += 1;
            let number = had.number;
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
                let news = News::Event { kind: kind.into(), id: id.into(), number };
                let sending = Sending { subscription: subscription.clone(), news, attempt: 0 };
                self.outbox.due.push(self.now + TimeDelta::milliseconds(i64::try_from(delay).unwrap_or(0)), sending);
            }
        }
    }

    pub(super) fn next_sending(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        loop {
            let sent = self.outbox.due.pop(self.now)?;
            let is_first = sent.attempt == 0;
            if is_first && matches!(sent.news, News::Heartbeat) && !self.is_silent(&sent.subscription) {
                continue;
            }
            let request = self.request(&sent);
            return Ok(Delivery { request, timeout: Duration::from_secs(10), sent });
        }
    }

    pub(super) fn was_sent(&mut self, sent: Sending, success: bool) {
        if success {
            match sent.news {
                News::Event { .. } => self.stats.webhook_events += 1,
                News::Handshake => self.edit("Subscription", &sent.subscription, &json!({ "status": "active" })),
                News::Heartbeat => {}
            }
            self.outbox.had.entry(sent.subscription.clone()).or_default().at = Some(self.now);
            self.await_silence(&sent.subscription);
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
        let changed = match &sent.news {
            News::Event { kind, id, .. } => Some((kind, id, self.resource(kind, id)?)),
            News::Handshake | News::Heartbeat => None,
        };
        let (method, url, body) = match (changed, channel["payload"].is_null()) {
            _ if is_topic(subscription) => {
                (Method::POST, endpoint.to_owned(), self.notification(sent, subscription).to_string())
            }
            (None, _) => return None,
            (Some(_), true) => (Method::POST, endpoint.to_owned(), String::new()),
            (Some((kind, id, resource)), false) => {
                (Method::PUT, format!("{}/{kind}/{id}", endpoint.trim_end_matches('/')), resource.to_string())
            }
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

    fn notification(&self, sent: &Sending, subscription: &Json) -> Json {
        let here = format!("{}/Subscription/{}", self.base, sent.subscription);
        let last = self.outbox.had.get(&sent.subscription).map_or(0, |had| had.number);
        let (kind, number) = match sent.news {
            News::Event { number, .. } => ("event-notification", number),
            News::Handshake => ("handshake", last),
            News::Heartbeat => ("heartbeat", last),
        };
        let mut parameters = vec![
            json!({ "name": "subscription", "valueReference": { "reference": here } }),
            json!({ "name": "topic", "valueCanonical": subscription["criteria"] }),
            json!({ "name": "status", "valueCode": subscription["status"] }),
            json!({ "name": "type", "valueCode": kind }),
            json!({ "name": "events-since-subscription-start", "valueString": number.to_string() }),
        ];
        if let News::Event { kind, id, number } = &sent.news {
            let focus = format!("{}/{kind}/{id}", self.base);
            parameters.push(json!({ "name": "notification-event", "part": [
                { "name": "event-number", "valueString": number.to_string() },
                { "name": "timestamp", "valueInstant": iso(self.now) },
                { "name": "focus", "valueReference": { "reference": focus } },
            ] }));
        }
        json!({
            "resourceType": "Bundle", "type": "history", "timestamp": iso(self.now), "entry": [{
                "resource": { "resourceType": "Parameters", "parameter": parameters },
                "request": { "method": "GET", "url": format!("{here}/$status") }, "response": { "status": "200" },
            }],
        })
    }
}
