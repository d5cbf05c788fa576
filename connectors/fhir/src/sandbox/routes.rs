//! From an HTTP request to the server's records and back: tokens, budgets, faults, conditions, versions.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};
use tandem_sandbox::{Core, Delivery, Fate, Query, Simulated, http_date};

use super::{
    resources::Written,
    settings::{Faults, Settings, Stats, Versioning},
    webhooks::Sending,
    world::{Refusal, World},
};

/// A request, taken apart.
#[derive(Clone)]
pub struct Asked {
    method: Method,
    path: Vec<String>,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn is_open(&self) -> bool {
        self.path.first().is_none_or(|first| first != "fhir")
            || self.path.get(1).is_some_and(|part| part == "metadata" || part == ".well-known")
    }

    fn is_write(&self) -> bool {
        !self.is_open() && self.method != Method::GET && self.path.last().is_none_or(|last| last != "_search")
    }

    fn form(&self) -> Query {
        Query::parse(&String::from_utf8_lossy(&self.body))
    }

    /// The route with ids left out, for the counters.
    fn route(&self) -> String {
        let parts: Vec<&str> = self.segments().into_iter().filter(|part| *part != "fhir").collect();
        let shown =
            |(at, part): (usize, &&str)| if at == 1 && !part.starts_with('_') { "{id}" } else { *part }.to_owned();
        let path: Vec<String> = match parts.first() {
            Some(&"auth" | &".well-known") => parts.iter().map(|part| (*part).to_owned()).collect(),
            _ => parts.iter().enumerate().map(shown).collect(),
        };
        format!("{} {}", self.method, path.join("/"))
    }
}

impl Simulated for World {
    type Settings = Settings;
    type Faults = Faults;
    type Stats = Stats;
    type Asked = Asked;
    type Refusal = Refusal;
    type Sent = Sending;

    fn new(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        Self::empty(settings, rng, now)
    }

    fn clock_ahead(settings: &Settings) -> TimeDelta {
        TimeDelta::milliseconds(settings.clock_ahead_ms)
    }

    fn core(&mut self) -> Core<'_, Self> {
        let Self { settings, faults, stats, now, elapsed, rng: dice, .. } = self;
        Core { settings, faults, stats, now, elapsed, dice }
    }

    fn take_apart(&mut self, parts: Parts, body: Bytes) -> Result<Asked, Response> {
        let decoded = |part: &str| {
            let kept = part.replace('+', "%2B");
            url::form_urlencoded::parse(kept.as_bytes()).next().map_or_else(String::new, |(name, _)| name.into_owned())
        };
        let path = parts.uri.path().split('/').filter(|part| !part.is_empty()).map(decoded).collect();
        // Its own address, as it is called.
        let host = parts.uri.authority().map(ToString::to_string);
        let host = host.or_else(|| Some(parts.headers.get(header::HOST)?.to_str().ok()?.to_owned()));
        if let Some(host) = host {
            self.base = format!("{}://{host}/fhir", parts.uri.scheme_str().unwrap_or("http"));
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        Ok(Asked { path, query, method: parts.method, headers: parts.headers, body })
    }

    fn draw(&mut self, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
        let route = asked.route();
        self.stats.requests += 1;
        *self.stats.by_route.entry(route.clone()).or_default() += 1;
        let faults = self.faults.clone();
        if faults == Faults::default() {
            return (Fate::Answered, None);
        }
        let slow = self.struck("slow", faults.slow, &route);
        let fate = if self.struck("lost_request", faults.lost_request, &route) {
            Fate::Swallowed
        } else if self.struck("lost_answer", faults.lost_answer, &route) {
            Fate::SwallowedAfterwards
        } else if asked.is_write() && self.struck("late_commit", faults.late_commit, &route) {
            Fate::Late(Duration::from_millis(faults.late_ms.max(1)))
        } else if self.struck("too_many", faults.too_many, &route) {
            Fate::Refused(Refusal::gateway(429, r#"{"message":"Too Many Requests"}"#))
        } else if self.struck("unavailable_before", faults.unavailable_before, &route) {
            Fate::Refused(Refusal::gateway(503, "<html><body>503 Service Unavailable</body></html>"))
        } else if self.struck("unavailable_after", faults.unavailable_after, &route) {
            Fate::BrokenAfterwards(Refusal::new(500, "exception", "An error occurred."))
        } else if !asked.is_open() && self.struck("unauthorized", faults.unauthorized, &route) {
            Fate::Refused(Refusal::new(401, "login", "The token is not accepted."))
        } else if self.struck("truncated", faults.truncated, &route) {
            Fate::Truncated
        } else {
            Fate::Answered
        };
        (fate, slow.then(|| Duration::from_millis(faults.latency_ms)))
    }

    fn handle(&mut self, asked: &Asked) -> Response {
        self.settle();
        match handle(self, asked) {
            Ok(answer) => answer,
            Err(refusal) => self.refuse(refusal),
        }
    }

    fn refuse(&mut self, refusal: Refusal) -> Response {
        respond(self, refusal.status, HeaderMap::new(), refusal.body)
    }

    fn next_delivery(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        self.next_sending()
    }

    fn delivered(&mut self, sent: Sending, success: bool) {
        self.was_sent(sent, success);
    }
}

fn respond(world: &World, status: u16, mut headers: HeaderMap, body: String) -> Response {
    let kind = if body.starts_with('<') { "text/html" } else { "application/fhir+json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if world.settings.date_header
        && let Ok(date) = HeaderValue::try_from(http_date(world.now))
    {
        headers.insert(header::DATE, date);
    }
    if status == 429 && world.settings.retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, headers, body).into_response()
}

fn authorise(world: &World, asked: &Asked) -> Result<(), Refusal> {
    let token = asked.header("authorization").and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
    let is_good = world.settings.access_tokens.iter().any(|known| known == token)
        || world.tokens.get(token).is_some_and(|ends| *ends > world.now);
    if !is_good {
        return Err(Refusal::new(401, "login", "The token is not accepted."));
    }
    match &world.settings.extra_header {
        Some(name) if asked.header(name).is_none() => Err(Refusal::gateway(403, r#"{"message":"Forbidden"}"#)),
        _ => Ok(()),
    }
}

fn admit(world: &mut World) -> Result<(), Refusal> {
    let (now, second) = (world.elapsed, Duration::from_secs(1));
    while world.calls.front().is_some_and(|at| now.saturating_sub(*at) >= second) {
        world.calls.pop_front();
    }
    if world.calls.len() >= world.settings.calls_per_second as usize {
        world.stats.too_many += 1;
        return Err(Refusal::new(429, "throttled", "Rate limit exceeded."));
    }
    world.calls.push_back(now);
    Ok(())
}

fn handle(world: &mut World, asked: &Asked) -> Result<Response, Refusal> {
    let segments = asked.segments();
    let ok = |world: &World, body: Json| Ok(respond(world, 200, HeaderMap::new(), body.to_string()));
    match segments.as_slice() {
        ["auth", "token"] => {
            let basic = asked.header("authorization").and_then(|text| text.strip_prefix("Basic "));
            let token = world.token(&asked.form(), basic)?;
            return ok(world, token);
        }
        ["fhir", ".well-known", "smart-configuration"] => return ok(world, world.smart_configuration()),
        ["fhir", "metadata"] => return ok(world, statement(world)),
        ["fhir", ..] => {}
        _ => return Err(Refusal::gateway(404, "<html><body>404 Not Found</body></html>")),
    }
    authorise(world, asked)?;
    admit(world)?;
    let strict = asked.header("prefer").is_some_and(|text| text.contains("handling=strict"));
    let known = |world: &World, kind: &str| match world.settings.types.iter().any(|known| known == kind) {
        true => Ok(()),
        false => Err(Refusal::new(404, "not-supported", "There is no such type.")),
    };
    let body = || {
        serde_json::from_slice::<Json>(&asked.body).map_err(|_| Refusal::new(400, "invalid", "The body is not JSON."))
    };
    match (asked.method.as_str(), &segments[1..]) {
        ("GET", []) => {
            let name = asked.query.text("_getpages").unwrap_or_default();
            let page = world.page(&name, asked.query.number("_offset").unwrap_or(0))?;
            ok(world, page)
        }
        ("GET", [kind]) => {
            known(world, kind)?;
            let bundle = world.search(kind, &asked.query, strict)?;
            ok(world, bundle)
        }
        ("POST", [_, "_search"]) if world.settings.post_search != 200 => {
            Err(Refusal::new(world.settings.post_search, "not-supported", "Searches are not taken by POST."))
        }
        ("POST", [kind, "_search"]) => {
            known(world, kind)?;
            let bundle = world.search(kind, &asked.form(), strict)?;
            ok(world, bundle)
        }
        ("GET", [kind, id]) => {
            known(world, kind)?;
            let (body, version) = world.read(kind, id)?;
            let (body, mut headers) = (body.to_string(), HeaderMap::new());
            tag(world, &mut headers, version);
            Ok(respond(world, 200, headers, body))
        }
        ("POST", [kind]) => {
            known(world, kind)?;
            let written = world.create(kind, body()?, asked.header("if-none-exist"))?;
            Ok(after(world, kind, &written))
        }
        ("PUT", [kind, id]) => {
            known(world, kind)?;
            let written = world.update(kind, id, body()?, asked.header("if-match"))?;
            Ok(after(world, kind, &written))
        }
        ("DELETE", [kind, id]) => {
            known(world, kind)?;
            world.read(kind, id)?;
            world.store(kind, id, None);
            Ok(respond(world, 204, HeaderMap::new(), String::new()))
        }
        _ => Err(Refusal::new(405, "not-supported", "There is no such interaction.")),
    }
}

fn tag(world: &World, headers: &mut HeaderMap, version: u64) {
    if world.settings.versioning != Versioning::NoVersion
        && let Ok(tag) = HeaderValue::try_from(format!("W/\"{version}\""))
    {
        headers.insert(header::ETAG, tag);
    }
}

fn after(world: &World, kind: &str, written: &Written) -> Response {
    let mut headers = HeaderMap::new();
    tag(world, &mut headers, written.version);
    let id: String = url::form_urlencoded::byte_serialize(written.id.as_bytes()).collect();
    if let Ok(place) = HeaderValue::try_from(format!("{}/{kind}/{id}/_history/{}", world.base, written.version)) {
        headers.insert(header::LOCATION, place);
    }
    let body = if world.settings.answers_representation { written.body.to_string() } else { String::new() };
    respond(world, written.status, headers, body)
}

/// What this server promises.
fn statement(world: &World) -> Json {
    let versioning = serde_json::to_value(world.settings.versioning).unwrap_or_default();
    let resource = |kind: &String| {
        let params: Vec<Json> =
            world.search_names(kind).into_iter().map(|name| json!({ "name": name, "type": "string" })).collect();
        let actions: Vec<Json> =
            ["read", "update", "create", "search-type"].iter().map(|code| json!({ "code": code })).collect();
        json!({
            "type": kind, "versioning": versioning, "conditionalCreate": world.settings.conditional_create,
            "interaction": actions, "searchParam": params,
        })
    };
    let resources: Vec<Json> = world.settings.types.iter().map(resource).collect();
    json!({
        "resourceType": "CapabilityStatement", "status": "active", "date": "2026-05-01", "kind": "instance",
        "fhirVersion": "4.0.1", "format": ["json"],
        "implementation": { "description": "A simulated clinic", "url": world.base },
        "rest": [{ "mode": "server", "resource": resources }],
    })
}
