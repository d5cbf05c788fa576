//! What the company tells its subscribers, when and how often; bans and removals.
//!
//! Source: "Guide for webhooks v2". One delivery per event and subscription; a failed one is tried again after 3, 30 and
//! 150 seconds; ten failed first tries ban a subscription, and what happens meanwhile is lost to it.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, Method, header};
use rand::Rng;
use serde_json::{Map, Value as Json, json};
use tandem_contract::{HttpRequest, Kind};
use tandem_sandbox::{Delivery, Due};
use url::Url;

use super::world::{Change, Refusal, World};

/// Waits before the second, third and fourth try, in seconds.
const RETRIES: [i64; 3] = [3, 30, 150];
/// Days without a success after which a subscription is removed.
const DEAD_DAYS: i64 = 3;

/// A subscription.
#[derive(Clone, Debug)]
pub struct Hook {
    id: u64,
    url: String,
    action: String,
    object: String,
    name: String,
    user: String,
    password: String,
    active: bool,
    strikes: u32,
    banned_until: Option<DateTime<Utc>>,
    succeeded_at: DateTime<Utc>,
}

/// An event on its way to one subscription.
#[derive(Clone, Debug)]
pub struct Sending {
    hook: u64,
    body: Json,
    attempt: usize,
}

/// Subscriptions, and events that wait to be delivered.
#[derive(Clone, Default)]
pub struct Outbox {
    hooks: BTreeMap<u64, Hook>,
    due: Due<Sending>,
}

fn word(kind: Kind) -> &'static str {
    crate::singular(kind)
}

impl World {
    /// How many subscriptions there are.
    #[must_use]
    pub fn webhooks(&self) -> usize {
        self.outbox.hooks.len()
    }

    /// Where the subscriptions send to.
    #[must_use]
    pub fn webhook_addresses(&self) -> Vec<String> {
        self.outbox.hooks.values().map(|hook| hook.url.clone()).collect()
    }

    /// Whether a subscription is silenced now.
    #[must_use]
    pub fn is_banned(&self) -> bool {
        self.outbox.hooks.values().any(|hook| hook.banned_until.is_some_and(|until| until > self.now))
    }

    /// Takes every subscription away, as is done to those that were dead for days.
    pub fn take_webhooks_away(&mut self) {
        self.outbox.hooks.clear();
    }

    /// Switches every subscription off, as an administrator may.
    pub fn switch_webhooks_off(&mut self) {
        self.outbox.hooks.values_mut().for_each(|hook| hook.active = false);
    }

    pub(super) fn show_webhooks(&self) -> Json {
        let hooks: Vec<Json> = self.outbox.hooks.values().map(|hook| self.show_hook(hook)).collect();
        json!({ "status": "ok", "success": true, "data": hooks })
    }

    fn show_hook(&self, hook: &Hook) -> Json {
        let user = self.users.first().map_or(0, |user| user.id);
        json!({
            "id": hook.id, "company_id": self.settings.company_id, "owner_id": user, "user_id": user,
            "event_action": hook.action, "event_object": hook.object, "subscription_url": hook.url, "version": "2.0",
            "is_active": u8::from(hook.active), "add_time": "2026-01-01T00:00:00.000Z", "remove_time": null, "type": "application",
            "http_auth_user": hook.user, "http_auth_password": hook.password, "remove_reason": null,
            "last_delivery_time": null, "last_http_status": null, "admin_id": user, "name": hook.name,
        })
    }

    pub(super) fn make_webhook(&mut self, body: &Json) -> Result<Json, Refusal> {
        let refuse = |status: u16, field: &str, why: &str| {
            let body = json!({ "status": "error", "success": false, "errors": { field: [why] } });
            Refusal { status, body }
        };
        let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let url = text("subscription_url").unwrap_or_default();
        let is_address = url.parse::<Url>().is_ok_and(|url| {
            !self.settings.webhook_must_be_public
                || (url.scheme() == "https" && url.domain().is_some_and(|d| d != "localhost"))
        });
        if !is_address {
            return Err(refuse(400, "subscription_url", "invalid or non-reachable URL"));
        }
        let (Some(action), Some(object), Some(name)) = (text("event_action"), text("event_object"), text("name"))
        else {
            return Err(refuse(400, "event_action", "event_action, event_object and name are required"));
        };
        if self.outbox.hooks.len() >= self.settings.webhook_limit {
            return Err(refuse(422, "subscription_url", "webhook limit reached"));
        }
        let id = self.next_id();
        let hook = Hook {
            id,
            url,
            action,
            object,
            name,
            user: text("http_auth_user").unwrap_or_default(),
            password: text("http_auth_password").unwrap_or_default(),
            active: true,
            strikes: 0,
            banned_until: None,
            succeeded_at: self.now,
        };
        let shown = self.show_hook(&hook);
        self.outbox.hooks.insert(id, hook);
        Ok(json!({ "status": "ok", "success": true, "data": shown }))
    }

    pub(super) fn remove_webhook(&mut self, id: u64) -> Result<Json, Refusal> {
        match self.outbox.hooks.remove(&id) {
            Some(_) => Ok(json!({ "status": "ok", "success": true })),
            None => {
                let body = json!({ "status": "error", "success": false, "errors": { "id": ["not found"] } });
                Err(Refusal { status: 404, body })
            }
        }
    }

    /// Queues an event for everybody who subscribed to it.
    pub(super) fn tell(&mut self, kind: Kind, id: u64, action: &str, by: Change, previous: Json, more: Json) {
        let wants = |hook: &&Hook| {
            (hook.action == "*" || hook.action == action) && (hook.object == "*" || hook.object == word(kind))
        };
        let hooks: Vec<(u64, bool)> = self
            .outbox
            .hooks
            .values()
            .filter(wants)
            .map(|hook| (hook.id, hook.banned_until.is_some_and(|until| until > self.now)))
            .collect();
        if hooks.is_empty() {
            return;
        }
        let user = self.users.first().map_or(0, |user| user.id).to_string();
        let event_id = format!("{:032x}", self.rng.random::<u128>());
        for (hook, banned) in hooks {
            let lost = self.faults.webhook_lost;
            if banned || self.struck("webhook_lost", lost, "webhook") {
                continue;
            }
            let data = if action == "delete" { Json::Null } else { self.told(kind, id) };
            let mut meta = json!({
                "action": action, "entity": word(kind), "entity_id": id.to_string(),
                "company_id": self.settings.company_id.to_string(), "user_id": user, "correlation_id": event_id,
                "id": event_id, "is_bulk_edit": false,
                "timestamp": self.now.to_rfc3339_opts(SecondsFormat::Millis, true), "type": "application",
                "version": "2.0", "webhook_id": hook.to_string(), "webhook_owner_id": user, "change_source": by.source(),
                "permitted_user_ids": [user], "attempt": 1, "host": format!("{}.pipedrive.example.com", self.settings.company_domain),
            });
            for (name, value) in more.as_object().into_iter().flatten() {
                meta[name] = value.clone();
            }
            let body = json!({ "data": data, "previous": previous, "meta": meta });
            let twice = self.faults.webhook_twice;
            let copies = if self.struck("webhook_twice", twice, "webhook") { 2 } else { 1 };
            for _ in 0..copies {
                let (late, most) = (self.faults.webhook_late, self.faults.webhook_delay_ms);
                let delay = if self.struck("webhook_late", late, "webhook") { self.draw_below(most) } else { 0 };
                let delay = TimeDelta::milliseconds(i64::try_from(delay).unwrap_or(0));
                self.queue(Sending { hook, body: body.clone(), attempt: 0 }, delay);
            }
        }
    }

    /// A record in the shape of webhooks, which is another than that of the API.
    fn told(&self, kind: Kind, id: u64) -> Json {
        let mut shown = self.show(kind, id);
        shown["visible_to"] = shown["visible_to"].to_string().into();
        let mut custom = Map::new();
        for (code, value) in shown["custom_fields"].as_object().into_iter().flatten() {
            let field_type = self.field(kind, code).map_or("varchar", |field| field.kind.as_str());
            let typed = match (field_type, value) {
                (_, Json::Null) => Json::Null,
                ("enum", id) => json!({ "type": "enum", "id": id }),
                ("set", ids) => {
                    let ids: Vec<Json> = ids.as_array().into_iter().flatten().map(|id| json!({ "id": id })).collect();
                    json!({ "type": "set", "values": ids })
                }
                (other, value) => json!({ "type": other, "value": value }),
            };
            custom.insert(code.clone(), typed);
        }
        shown["custom_fields"] = custom.into();
        shown
    }

    fn queue(&mut self, sending: Sending, delay: TimeDelta) {
        self.outbox.due.push(self.now + delay, sending);
    }

    /// The next delivery, or how long to wait for it.
    pub(super) fn next_sending(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        loop {
            let sent = self.outbox.due.pop(self.now)?;
            if let Some(hook) = self.outbox.hooks.get(&sent.hook) {
                let timeout = Duration::from_secs(self.settings.webhook_timeout);
                return Ok(Delivery { request: request(&sent, hook), timeout, sent });
            }
        }
    }

    pub(super) fn was_sent(&mut self, sent: Sending, success: bool) {
        let (now, strikes, ban) = (self.now, self.settings.webhook_strikes, self.settings.webhook_ban_minutes);
        let Some(hook) = self.outbox.hooks.get_mut(&sent.hook) else { return };
        if success {
            hook.succeeded_at = now;
            self.stats.webhook_events += 1;
            return;
        }
        if now - hook.succeeded_at > TimeDelta::days(DEAD_DAYS) {
            self.outbox.hooks.remove(&sent.hook);
            return;
        }
        if sent.attempt == 0 {
            hook.strikes += 1;
            if hook.strikes >= strikes {
                hook.strikes = 0;
                hook.banned_until = Some(now + TimeDelta::minutes(ban));
            }
        }
        if let Some(wait) = RETRIES.get(sent.attempt) {
            let mut again = sent;
            again.attempt += 1;
            again.body["meta"]["attempt"] = (again.attempt + 1).into();
            self.queue(again, TimeDelta::seconds(*wait));
        }
    }
}

fn request(sent: &Sending, hook: &Hook) -> Option<HttpRequest> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if !hook.user.is_empty()
        && let Ok(basic) =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{}:{}", hook.user, hook.password))))
    {
        headers.insert(header::AUTHORIZATION, basic);
    }
    let url = Url::parse(&hook.url).ok()?;
    Some(HttpRequest { method: Method::POST, url, headers, body: Bytes::from(sent.body.to_string()) })
}
