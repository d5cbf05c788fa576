//! From an HTTP request to the company and back: generations of paths, tokens, scopes, budgets, faults.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use rand::{Rng, rngs::StdRng};
use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::{Core, Delivery, Fate, Query, Simulated, http_date};
use url::Url;

use super::{
    Faults, Settings, Stats,
    limits::{cost, too_many},
    lists::Page,
    webhooks::Sending,
    world::{Change, Refusal, World},
};

/// A request, taken apart.
#[derive(Clone)]
pub struct Asked {
    method: Method,
    version: &'static str,
    path: Vec<String>,
    query: Query,
    api_token: Option<String>,
    bearer: Option<String>,
    basic: Option<String>,
    body: Bytes,
}

impl Asked {
    fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn is_write(&self) -> bool {
        self.method != Method::GET && self.version != "oauth"
    }

    fn makes_a_record(&self) -> bool {
        self.method == Method::POST && matches!(self.segments().as_slice(), ["deals" | "persons" | "organizations"])
    }

    /// The route with ids left out, for the counters.
    fn route(&self) -> String {
        let part = |part: &String| if part.bytes().all(|b| b.is_ascii_digit()) { "{id}".into() } else { part.clone() };
        let path: Vec<String> = self.path.iter().map(part).collect();
        format!("{} {}/{}", self.method, self.version, path.join("/"))
    }
}

/// `/api/v2/deals`, `/v1/users`, `/api/v1/users` and `/oauth/token`: the generation, and the rest.
fn taken_apart(path: &str) -> Option<(&'static str, Vec<String>)> {
    let mut parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if parts.first().is_some_and(|first| first == "api") {
        parts.remove(0);
    } else if parts.first().is_some_and(|first| first == "v2") {
        // The second generation is reached with `api` only.
        return None;
    }
    let version = match parts.first().map(String::as_str) {
        Some("v1") => "v1",
        Some("v2") => "v2",
        Some("oauth") => "oauth",
        _ => return None,
    };
    parts.remove(0);
    Some((version, parts))
}

impl Simulated for World {
    type Settings = Settings;
    type Faults = Faults;
    type Stats = Stats;
    type Asked = Asked;
    type Refusal = Refusal;
    type Sent = Sending;

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
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let authorization = header("authorization").unwrap_or_default();
        let Some((version, path)) = taken_apart(parts.uri.path()) else {
            return Err(respond(self, Err(Refusal::not_found("Route"))));
        };
        Ok(Asked {
            version,
            path,
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            api_token: header("x-api-token"),
            bearer: authorization.strip_prefix("Bearer ").map(str::to_owned),
            basic: authorization.strip_prefix("Basic ").map(str::to_owned),
            method: parts.method,
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
        respond(self, Err(refusal))
    }

    fn next_delivery(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        self.next_sending()
    }

    fn delivered(&mut self, sent: Sending, success: bool) {
        self.was_sent(sent, success);
    }
}

fn draw(world: &mut World, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
    let route = asked.route();
    world.stats.requests += 1;
    *world.stats.by_route.entry(route.clone()).or_default() += 1;
    let faults = world.faults.clone();
    if faults == Faults::default() {
        return (Fate::Answered, None);
    }
    if faults.unpaid && asked.version != "oauth" {
        return (Fate::Refused(Refusal::new(402, "Company account is not open")), None);
    }
    let slow = world.struck("slow", faults.slow, &route);
    let fate = if world.struck("lost_request", faults.lost_request, &route) {
        Fate::Swallowed
    } else if world.struck("lost_answer", faults.lost_answer, &route) {
        Fate::SwallowedAfterwards
    } else if asked.is_write() && world.struck("late_commit", faults.late_commit, &route) {
        Fate::Late(Duration::from_millis(faults.late_ms.max(1)))
    } else if asked.makes_a_record() && world.struck("late_create", faults.late_create, &route) {
        Fate::Late(Duration::from_millis(faults.late_create_ms.max(1)))
    } else if world.struck("too_many", faults.too_many, &route) {
        Fate::Refused(too_many())
    } else if world.struck("unavailable_before", faults.unavailable_before, &route) {
        Fate::Refused(Refusal::new(503, "Scheduled maintenance"))
    } else if world.struck("unavailable_after", faults.unavailable_after, &route) {
        Fate::BrokenAfterwards(Refusal::new(500, "Internal server error"))
    } else if world.struck("false_success", faults.false_success, &route) {
        let body = json!({ "success": false, "data": null, "additional_data": null });
        Fate::Refused(Refusal { status: 200, body })
    } else if world.struck("blocked", faults.blocked, &route) {
        let page = "<!DOCTYPE html><html><title>Attention Required! | Cloudflare</title></html>";
        Fate::Refused(Refusal { status: 403, body: page.into() })
    } else if asked.version != "oauth" && world.struck("unauthorized", faults.unauthorized, &route) {
        Fate::Refused(unauthorized())
    } else if world.struck("truncated", faults.truncated, &route) {
        Fate::Truncated
    } else {
        Fate::Answered
    };
    (fate, slow.then(|| Duration::from_millis(faults.latency_ms)))
}

fn unauthorized() -> Refusal {
    let body = json!({
        "success": false, "error": "unauthorized access", "errorCode": 401,
        "error_info": "Please check developers.pipedrive.com",
    });
    Refusal { status: 401, body }
}

/// What an answer holds.
enum Held {
    One(u16, Json),
    Page(Page),
    Bare(u16, Json),
    Elsewhere(Url),
}

fn handle(world: &mut World, asked: &Asked) -> Response {
    world.settle();
    world.called_by(asked.api_token.is_none());
    let cost = cost(asked.method.as_str(), asked.version, &asked.segments());
    let admitted = authorise(world, asked).and_then(|()| match asked.version {
        "oauth" => Ok(()),
        _ => world.admit(cost),
    });
    if let Err(refusal) = admitted {
        return respond(world, Err(refusal));
    }
    let outcome = dispatch(world, asked);
    if outcome.is_err() && !world.settings.failed_calls_cost {
        world.refund(cost);
    }
    respond(world, outcome)
}

fn authorise(world: &World, asked: &Asked) -> Result<(), Refusal> {
    if asked.version == "oauth" {
        return Ok(());
    }
    if let Some(token) = &asked.api_token {
        return match world.settings.api_tokens.contains(token) {
            true => Ok(()),
            false => Err(unauthorized()),
        };
    }
    let bearer = asked.bearer.as_deref().unwrap_or_default();
    if world.tokens.get(bearer).is_none_or(|ends| *ends <= world.now) {
        return Err(unauthorized());
    }
    let any = |scopes: &[&str]| scopes.iter().any(|scope| world.settings.scopes.iter().any(|has| has == scope));
    let segments = asked.segments();
    let allowed = match (segments.first().copied().unwrap_or_default(), asked.is_write()) {
        ("deals", true) => any(&["deals:full"]),
        ("deals", false) => any(&["deals:read", "deals:full"]),
        ("persons" | "organizations", true) => any(&["contacts:full"]),
        ("persons" | "organizations", false) => any(&["contacts:read", "contacts:full"]),
        ("users", _) if segments.get(1) != Some(&"me") => any(&["users:read"]),
        ("webhooks", _) => any(&["admin"]),
        ("dealFields", true) => any(&["deal-fields:full", "admin"]),
        ("personFields" | "organizationFields", true) => any(&["contact-fields:full", "admin"]),
        _ => true,
    };
    if allowed { Ok(()) } else { Err(Refusal::new(403, "Scope and URL mismatch")) }
}

fn kind_of(word: &str) -> Option<Kind> {
    match word {
        "deals" | "dealFields" => Some(Kind::Deal),
        "persons" | "personFields" => Some(Kind::Contact),
        "organizations" | "organizationFields" => Some(Kind::Company),
        _ => None,
    }
}

fn dispatch(world: &mut World, asked: &Asked) -> Result<Held, Refusal> {
    let segments = asked.segments();
    let (method, query) = (asked.method.as_str(), &asked.query);
    if asked.version == "oauth" {
        return match (method, segments.as_slice()) {
            ("GET", ["authorize"]) => consent(world, query).map(Held::Elsewhere),
            ("POST", ["token"]) => {
                let form = Query::parse(std::str::from_utf8(&asked.body).unwrap_or_default());
                let (status, body) = world.oauth(asked.basic.as_deref(), &form);
                Ok(Held::Bare(status, body))
            }
            _ => Err(Refusal::not_found("Route")),
        };
    }
    let body: Json = match asked.body.is_empty() {
        true => Json::Null,
        false => serde_json::from_slice(&asked.body).map_err(|_| Refusal::new(400, "Invalid JSON"))?,
    };
    let kind = |word: &str| kind_of(word).ok_or_else(|| Refusal::not_found("Route"));
    let id = |text: &str| text.parse::<u64>().map_err(|_| Refusal::invalid("id", "Expected number"));
    match (asked.version, method, segments.as_slice()) {
        ("v2", "GET", ["pipelines"]) => world.page_of(world.show_pipelines(), query).map(Held::Page),
        ("v2", "GET", ["stages"]) => world.page_of(world.show_stages(query), query).map(Held::Page),
        ("v2", "GET", [fields]) if fields.ends_with("Fields") => {
            world.page_of(world.show_fields(kind(fields)?), query).map(Held::Page)
        }
        ("v2", "POST", [fields]) if fields.ends_with("Fields") => {
            Ok(Held::One(200, world.make_field(kind(fields)?, &body)?))
        }
        ("v2", "POST", ["pipelines"]) => {
            let name = body["name"].as_str().ok_or_else(|| Refusal::invalid("name", "Required"))?;
            let (made, _) = world.add_pipeline(name, &[]);
            let shown = world.show_pipelines().into_iter().find(|pipeline| pipeline["id"] == made);
            Ok(Held::One(200, shown.unwrap_or_default()))
        }
        ("v2", "POST", ["stages"]) => {
            let name = body["name"].as_str().ok_or_else(|| Refusal::invalid("name", "Required"))?;
            let pipeline = body["pipeline_id"].as_u64().filter(|id| world.has_pipeline(*id));
            let pipeline = pipeline.ok_or_else(|| Refusal::invalid("pipeline_id", "Pipeline not found"))?;
            let chance = body["deal_probability"].as_u64().and_then(|chance| u8::try_from(chance).ok()).unwrap_or(100);
            let made = world.add_stage(pipeline, name, chance.min(100));
            let shown = world.show_stages(&Query::default()).into_iter().find(|stage| stage["id"] == made);
            Ok(Held::One(200, shown.unwrap_or_default()))
        }
        ("v2", "GET", ["deals", "archived"]) => world.list(Kind::Deal, query, true).map(Held::Page),
        ("v2", "GET", [records @ ("deals" | "persons"), "search"]) => {
            Ok(Held::One(200, world.search(kind(records)?, query)?))
        }
        ("v2", "GET", [records]) => world.list(kind(records)?, query, false).map(Held::Page),
        ("v2", "POST", [records]) => {
            let kind = kind(records)?;
            let made = world.create(kind, &body, Change::Api)?;
            Ok(Held::One(200, world.show(kind, made)))
        }
        ("v2", "GET", [records, one]) => Ok(Held::One(200, world.get(kind(records)?, id(one)?)?)),
        ("v2", "PATCH", [records, one]) => {
            let (kind, id) = (kind(records)?, id(one)?);
            if body.get("origin_id").is_some() {
                return Err(Refusal::invalid("origin_id", "Unrecognized key"));
            }
            world.update(kind, id, &body, Change::Api)?;
            Ok(Held::One(200, world.show(kind, id)))
        }
        ("v2", "DELETE", [records, one]) => {
            let (kind, id) = (kind(records)?, id(one)?);
            world.delete(kind, id, Change::Api)?;
            Ok(Held::One(200, json!({ "id": id })))
        }
        ("v1", "GET", ["users", "me"]) => Ok(Held::One(200, world.show_me()?)),
        ("v1", "GET", ["users"]) => {
            let users = world.users.iter().map(|user| world.show_user(user)).collect();
            Ok(Held::One(200, users))
        }
        ("v1", "GET", ["currencies"]) => Ok(Held::One(200, world.show_currencies().into())),
        ("v1", "GET", ["deals", one, "changelog"]) => {
            let entries = world.changelog(id(one)?)?;
            world.page_of(entries, query).map(Held::Page)
        }
        ("v1", "PUT", [records, one, "merge"]) => {
            let (kind, lost) = (kind(records)?, id(one)?);
            let survivor =
                body["merge_with_id"].as_u64().ok_or_else(|| Refusal::invalid("merge_with_id", "Required"))?;
            world.merge(kind, lost, survivor, Change::Api)?;
            let mut shown = world.show(kind, survivor);
            shown["merge_what_id"] = lost.into();
            Ok(Held::One(200, shown))
        }
        ("v1", "GET", ["webhooks"]) => Ok(Held::Bare(200, world.show_webhooks())),
        ("v1", "POST", ["webhooks"]) => world.make_webhook(&body).map(|made| Held::Bare(201, made)),
        ("v1", "DELETE", ["webhooks", one]) => world.remove_webhook(id(one)?).map(|gone| Held::Bare(200, gone)),
        _ => Err(Refusal::not_found("Route")),
    }
}

/// Whoever opens the page lets the app in at once; where their browser goes then.
fn consent(world: &mut World, query: &Query) -> Result<Url, Refusal> {
    let text = |name: &str| query.text(name).unwrap_or_default();
    let mut address: Url =
        text("redirect_uri").parse().map_err(|_| Refusal::new(400, "Invalid request: redirect_uri is invalid"))?;
    let code = world.consent(&text("client_id"), &text("redirect_uri"));
    let code = code.ok_or_else(|| Refusal::new(400, "Invalid client: client is invalid"))?;
    address.query_pairs_mut().append_pair("code", &code).append_pair("state", &text("state"));
    Ok(address)
}

fn respond(world: &World, outcome: Result<Held, Refusal>) -> Response {
    let mut headers = HeaderMap::new();
    let (status, body) = match outcome {
        Ok(Held::One(status, data)) => (status, json!({ "success": true, "data": data })),
        Ok(Held::Page((rows, next))) => {
            (200, json!({ "success": true, "data": rows, "additional_data": { "next_cursor": next } }))
        }
        Ok(Held::Bare(status, body)) => (status, body),
        Ok(Held::Elsewhere(address)) => {
            if let Ok(address) = HeaderValue::try_from(address.as_str()) {
                headers.insert(header::LOCATION, address);
            }
            (302, Json::String(String::new()))
        }
        Err(refusal) => (refusal.status, refusal.body),
    };
    for (name, value) in world.limit_headers() {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    if world.settings.date_header
        && let Ok(date) = HeaderValue::try_from(http_date(world.now))
    {
        headers.insert(header::DATE, date);
    }
    if status == 401 {
        headers.insert("x-401-by-gw", HeaderValue::from_static("true"));
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (media, text) = match body {
        // A page of the gateway, in front of Pipedrive.
        Json::String(page) => ("text/html", page),
        body => ("application/json; charset=utf-8", body.to_string()),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    (status, headers, text).into_response()
}

impl World {
    /// Which of these a request meets is drawn from the same dice as everything else.
    pub(super) fn draw_below(&mut self, most: u64) -> u64 {
        if most == 0 { 0 } else { self.rng.random_range(0..=most) }
    }
}
