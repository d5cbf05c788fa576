//! From an HTTP request to the account and back: versions of paths, tokens, scopes, budgets, faults.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use rand::{Rng, rngs::StdRng};
use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::{Core, Delivery, Fate, Query, Simulated, http_date};

use super::{
    Faults, Settings, Stats,
    limits::{Class, too_many},
    webhooks::Batch,
    world::{CORRELATION, Refusal, World},
};

pub fn kind_of(name: &str) -> Option<Kind> {
    match name {
        "deals" | "deal" | "0-3" => Some(Kind::Deal),
        "contacts" | "contact" | "0-1" => Some(Kind::Contact),
        "companies" | "company" | "0-2" => Some(Kind::Company),
        _ => None,
    }
}

/// A request, taken apart.
#[derive(Clone)]
pub struct Asked {
    method: Method,
    path: Vec<String>,
    query: Query,
    token: Option<String>,
    body: Bytes,
}

impl Asked {
    fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn class(&self) -> Class {
        match self.segments().as_slice() {
            ["objects", _, "search"] => Class::Search,
            ["associations", ..] | ["objects", _, _, "associations", ..] => Class::Association,
            _ => Class::General,
        }
    }

    fn is_write(&self) -> bool {
        !matches!(
            (self.method.as_str(), self.segments().as_slice()),
            ("GET", _) | (_, [.., "search"] | [.., "read"] | ["oauth", ..])
        )
    }
}

/// One path for every generation: `/crm/objects/2026-09/deals`, `/crm/v3/objects/deals` and `/crm/v4/objects/deals`
/// are all `objects/deals`.
fn canonical(path: &str) -> Vec<String> {
    let decode = |part: &str| {
        url::form_urlencoded::parse(part.replace('+', "%2B").as_bytes())
            .map(|(key, _)| key.into_owned())
            .collect::<String>()
    };
    let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let is_version = |part: &str| {
        (part.starts_with('v') && part[1..].chars().all(|c| c.is_ascii_digit()))
            || (part.len() >= 7 && part.as_bytes()[4] == b'-' && part[..4].chars().all(|c| c.is_ascii_digit()))
    };
    let mut rest = parts.into_iter();
    let mut canonical = Vec::new();
    if let Some(first) = rest.next()
        && first != "crm"
    {
        canonical.push(first);
    }
    let mut versions = 0;
    for part in rest {
        if versions == 0 && canonical.len() <= 1 && is_version(&part) {
            versions += 1;
        } else {
            canonical.push(part);
        }
    }
    canonical
}

impl Simulated for World {
    type Settings = Settings;
    type Faults = Faults;
    type Stats = Stats;
    type Asked = Asked;
    type Refusal = Refusal;
    type Sent = Batch;

    fn new(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        Self::furnished(settings, rng, now)
    }

    fn clock_ahead(settings: &Settings) -> TimeDelta {
        TimeDelta::milliseconds(settings.clock_ahead_ms)
    }

    fn core(&mut self) -> Core<'_, Self> {
        let Self { settings, faults, stats, now, elapsed, rng: dice, .. } = self;
        Core { settings, faults, stats, now, elapsed, dice }
    }

    fn take_apart(&mut self, parts: Parts, body: Bytes) -> Result<Asked, Response> {
        let token = parts.headers.get(header::AUTHORIZATION);
        let token = token.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ").map(str::to_owned));
        Ok(Asked {
            method: parts.method,
            path: canonical(parts.uri.path()),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            token,
            body,
        })
    }

    fn draw(&mut self, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
        draw(self, asked)
    }

    fn handle(&mut self, asked: &Asked) -> Response {
        handle(self, asked)
    }

    fn refuse(&mut self, refusal: Refusal) -> Response {
        respond(self, Class::General, Err(refusal))
    }

    fn next_delivery(&mut self) -> Result<Delivery<Batch>, Option<Duration>> {
        self.next_batch()
    }

    fn delivered(&mut self, batch: Batch, success: bool) {
        match success {
            true => self.stats.webhook_events += batch.len() as u64,
            false => self.failed_delivery(batch),
        }
    }
}

fn pick(world: &mut World, statuses: &[u16]) -> u16 {
    let place = world.rng.random_range(0..statuses.len());
    statuses[place]
}

fn draw(world: &mut World, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
    let route = format!("{} {}", asked.method, route_name(asked));
    world.stats.requests += 1;
    *world.stats.by_route.entry(route.clone()).or_default() += 1;
    let faults = world.faults.clone();
    if faults == Faults::default() {
        return (Fate::Answered, None);
    }
    if faults.moving_seconds > 0 {
        let body = json!({ "status": "error", "message": "the account is being moved" });
        return (Fate::Refused(Refusal { status: 477, body }), None);
    }
    let slow = world.struck("slow", faults.slow, &route);
    let gateway =
        |status: u16| Refusal { status, body: json!({ "status": "error", "message": "upstream is unavailable" }) };
    let oauth = asked.path.first().is_some_and(|first| first == "oauth");
    let fate = if world.struck("lost_request", faults.lost_request, &route) {
        Fate::Swallowed
    } else if world.struck("lost_answer", faults.lost_answer, &route) {
        Fate::SwallowedAfterwards
    } else if asked.is_write() && world.struck("late_commit", faults.late_commit, &route) {
        Fate::Late(Duration::from_millis(faults.late_ms))
    } else if world.struck("too_many", faults.too_many, &route) {
        Fate::Refused(too_many("TEN_SECONDLY_ROLLING", "ten_secondly_rolling"))
    } else if asked.is_write() && world.struck("locked", faults.locked, &route) {
        Fate::Refused(Refusal { status: 423, body: json!({ "status": "error", "message": "the account is locked" }) })
    } else if world.struck("unavailable_before", faults.unavailable_before, &route) {
        let status = pick(world, &[502, 503, 521, 523]);
        Fate::Refused(gateway(status))
    } else if world.struck("unavailable_after", faults.unavailable_after, &route) {
        let body = json!({ "status": "error", "message": "upstream timed out" });
        Fate::BrokenAfterwards(Refusal { status: pick(world, &[502, 504, 524]), body })
    } else if !oauth && world.struck("unauthorized", faults.unauthorized, &route) {
        Fate::Refused(unauthorized())
    } else if world.struck("truncated", faults.truncated, &route) {
        Fate::Truncated
    } else {
        Fate::Answered
    };
    (fate, slow.then(|| Duration::from_millis(faults.latency_ms)))
}

/// The route with ids left out, for the counters.
fn route_name(asked: &Asked) -> String {
    asked
        .path
        .iter()
        .map(|part| if part.chars().all(|c| c.is_ascii_digit()) { "{id}" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

fn unauthorized() -> Refusal {
    Refusal::new(
        401,
        "INVALID_AUTHENTICATION",
        "Authentication credentials not found. This API supports OAuth 2.0 authentication.",
    )
}

fn handle(world: &mut World, asked: &Asked) -> Response {
    world.settle();
    let class = asked.class();
    let outcome = authorise(world, asked).and_then(|()| world.admit(class)).and_then(|()| dispatch(world, asked));
    respond(world, class, outcome)
}

fn authorise(world: &World, asked: &Asked) -> Result<(), Refusal> {
    let segments = asked.segments();
    if segments.first() == Some(&"oauth") {
        return Ok(());
    }
    let token = asked.token.as_deref().unwrap_or_default();
    if !world.settings.access_tokens.iter().any(|known| known == token) {
        match world.tokens.get(token) {
            None => return Err(unauthorized()),
            Some(ends) if *ends <= world.now => {
                let ago = (world.now - *ends).num_seconds();
                let text = format!("The OAuth token used to make this call expired {ago} second(s) ago.");
                let mut refusal = Refusal::new(401, "EXPIRED_AUTHENTICATION", text);
                refusal.body["context"] = json!({ "expire time": [super::world::iso(*ends)] });
                return Err(refusal);
            }
            Some(_) => {}
        }
    }
    let Some(scope) = needed_scope(asked, &segments) else { return Ok(()) };
    if world.settings.scopes.contains(&scope) {
        return Ok(());
    }
    let mut refusal =
        Refusal::new(403, "MISSING_SCOPES", "This app hasn't been granted all required scopes to make this call.");
    refusal.body["errors"] = json!([{ "message": "One or more of the following scopes are required.", "context": { "requiredGranularScopes": [scope] } }]);
    refusal.body["links"] = json!({ "scopes": "https://developers.hubspot.com/scopes" });
    Err(refusal)
}

fn needed_scope(asked: &Asked, segments: &[&str]) -> Option<String> {
    let (area, kind) = (segments.first()?, segments.get(1).and_then(|name| kind_of(name)));
    let name = kind.map_or("deals", crate::paths::plural);
    match *area {
        "objects" if asked.is_write() => Some(format!("crm.objects.{name}.write")),
        "objects" => Some(format!("crm.objects.{name}.read")),
        "associations" if asked.is_write() => Some(format!("crm.objects.{name}.write")),
        "properties" if asked.is_write() => Some(format!("crm.schemas.{name}.write")),
        "owners" => Some("crm.objects.owners.read".into()),
        _ => None,
    }
}

fn dispatch(world: &mut World, asked: &Asked) -> Result<(u16, Json), Refusal> {
    let (method, query) = (asked.method.as_str(), &asked.query);
    let segments = asked.segments();
    if let ["oauth", rest @ ..] = segments.as_slice() {
        let form = Query::parse(std::str::from_utf8(&asked.body).unwrap_or_default());
        return world.oauth(rest, &form);
    }
    let body: Json = if asked.body.is_empty() {
        Json::Null
    } else {
        serde_json::from_slice(&asked.body).map_err(|_| Refusal::new(400, "VALIDATION_ERROR", "Invalid input JSON"))?
    };
    let kind = |name: &str| kind_of(name).ok_or_else(Refusal::not_found);
    let number = |text: &str| text.parse::<u64>().map_err(|_| Refusal::not_found());
    match (method, segments.as_slice()) {
        ("DELETE", ["appinstalls", "external-install"]) => {
            world.uninstall();
            Ok((204, Json::Null))
        }
        ("GET", ["account-info", "details"]) => world.account(),
        (_, ["owners", rest @ ..]) => world.owners_route(rest, query),
        (_, ["pipelines", "deals" | "0-3", rest @ ..]) => world.pipelines_route(method, rest),
        (_, ["properties", object, rest @ ..]) => world.properties_route(kind(object)?, method, rest, query, &body),
        ("POST", ["objects", object, "search"]) => {
            if asked.body.len() > 3_000 {
                return Err(Refusal::new(400, "VALIDATION_ERROR", "The request body is longer than 3000 characters"));
            }
            Ok((200, world.search(kind(object)?, &body)?))
        }
        ("POST", ["objects", object, "merge"]) => {
            let kind = kind(object)?;
            let id = |name: &str| number(&super::objects::text_of(body.get(name)));
            let survivor = world.merge(kind, id("primaryObjectId")?, id("objectIdToMerge")?, super::Change::Api)?;
            world.get(kind, &survivor.to_string(), query)
        }
        ("POST", ["objects", object, "batch", verb]) => world.batch(kind(object)?, verb, query, &body),
        ("GET", ["objects", object]) => world.list(kind(object)?, query),
        ("POST", ["objects", object]) => world.post(kind(object)?, &body),
        ("GET", ["objects", object, id]) => world.get(kind(object)?, id, query),
        ("PATCH", ["objects", object, id]) => world.patch(kind(object)?, id, query, &body),
        ("DELETE", ["objects", object, id]) => {
            world.archive(kind(object)?, number(id)?, super::Change::Api)?;
            world.stats.archived += 1;
            Ok((204, Json::Null))
        }
        ("GET", ["objects", from, id, "associations", to]) => {
            world.associations_of(kind(from)?, number(id)?, kind(to)?, query)
        }
        ("PUT", ["objects", from, a, "associations", "default", to, b]) => {
            world.associate_pair(kind(from)?, number(a)?, kind(to)?, number(b)?, true)
        }
        ("PUT", ["objects", from, a, "associations", to, b]) => {
            world.associate_pair(kind(from)?, number(a)?, kind(to)?, number(b)?, false)
        }
        ("DELETE", ["objects", from, a, "associations", to, b]) => {
            let (from, _, a, b) = (kind(from)?, kind(to)?, number(a)?, number(b)?);
            if from == Kind::Deal {
                world.dissociate(a, b, super::Change::Api)
            } else {
                world.dissociate(b, a, super::Change::Api)
            }
            Ok((204, Json::Null))
        }
        ("POST", ["associations", from, to, "batch", verb @ ..]) => {
            world.association_batch(kind(from)?, kind(to)?, verb, &body)
        }
        ("GET", ["associations", from, _, "labels"]) => world.association_labels(kind(from)?),
        _ => Err(Refusal::not_found()),
    }
}

fn respond(world: &World, class: Class, outcome: Result<(u16, Json), Refusal>) -> Response {
    let (status, body, refused) = match outcome {
        Ok((status, body)) => (status, body, false),
        Err(refusal) => (refusal.status, refusal.body, true),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in world.limit_headers(class) {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers.insert("x-hubspot-correlation-id", HeaderValue::from_static(CORRELATION));
    if world.settings.date_header
        && let Ok(date) = HeaderValue::try_from(http_date(world.now))
    {
        headers.insert(header::DATE, date);
    }
    if refused && status == 429 && world.settings.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
    }
    if status == 477 {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(world.faults.moving_seconds));
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status == StatusCode::NO_CONTENT || body.is_null() {
        return (status, headers).into_response();
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"));
    (status, headers, body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn every_generation_of_paths_reaches_the_same_store() {
        for (path, want) in [
            ("/crm/objects/2026-09/deals/batch/read", "objects/deals/batch/read"),
            ("/crm/v3/objects/0-3/batch/read", "objects/0-3/batch/read"),
            ("/crm/v4/objects/deals/7/associations/contacts", "objects/deals/7/associations/contacts"),
            ("/crm/v4/associations/deals/contacts/batch/read", "associations/deals/contacts/batch/read"),
            ("/crm/v3/owners/", "owners"),
            ("/oauth/v1/token", "oauth/token"),
            ("/oauth/2026-09/token/introspect", "oauth/token/introspect"),
            ("/account-info/v3/details", "account-info/details"),
            ("/crm/objects/2026-09/contacts/a%40b.example.com", "objects/contacts/a@b.example.com"),
        ] {
            assert_eq!(canonical(path).join("/"), want);
        }
    }
}
