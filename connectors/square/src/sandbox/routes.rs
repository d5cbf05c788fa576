//! From an HTTP request to the seller's account and back: tokens, scopes, versions, budgets, faults, idempotency keys.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};
use tandem_sandbox::{Core, Delivery, Fate, Query, Simulated, http_date};
use url::Url;

use super::{
    Faults, Settings, Stats,
    lists::Range,
    webhooks::Sending,
    world::{Change, Refusal, World, iso},
};

/// A request, taken apart.
#[derive(Clone)]
pub struct Asked {
    method: Method,
    path: Vec<String>,
    query: Query,
    bearer: Option<String>,
    version: Option<String>,
    body: Bytes,
}

impl Asked {
    fn segments(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }

    fn is_oauth(&self) -> bool {
        self.path.first().is_some_and(|first| first == "oauth2")
    }

    fn is_write(&self) -> bool {
        !self.is_oauth()
            && !matches!(
                (self.method.as_str(), self.segments().as_slice()),
                ("GET", _) | (_, [.., "search" | "batch-retrieve" | "bulk-retrieve"])
            )
    }

    /// The route with ids left out, for the counters.
    fn route(&self) -> String {
        let is_id = |part: &&str| part.len() >= 12 && part.bytes().any(|b| b.is_ascii_digit());
        let path: Vec<&str> =
            self.path.iter().map(String::as_str).map(|part| if is_id(&part) { "{id}" } else { part }).collect();
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
        let path = parts.uri.path().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Ok(Asked {
            path,
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            bearer: header("authorization").and_then(|text| text.strip_prefix("Bearer ").map(str::to_owned)),
            version: header("square-version"),
            method: parts.method,
            body,
        })
    }

    fn draw(&mut self, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
        draw(self, asked)
    }

    fn handle(&mut self, asked: &Asked) -> Response {
        self.settle();
        let outcome = handle(self, asked);
        respond(self, asked.version.as_deref(), outcome)
    }

    fn refuse(&mut self, refusal: Refusal) -> Response {
        respond(self, None, Err(refusal))
    }

    fn next_delivery(&mut self) -> Result<Delivery<Sending>, Option<Duration>> {
        self.next_sending()
    }

    fn delivered(&mut self, sent: Sending, success: bool) {
        self.was_sent(sent, success);
    }
}

/// Somebody at the till is faster.
fn edit_in_between(world: &mut World, id: &str) {
    let chance = world.faults.edited_in_between;
    if world.struck("edited_in_between", chance, "bulk-update") {
        let text = format!("between{}", world.stats.in_between.len());
        if world.update_customer(id, &json!({ "family_name": text })).is_ok() {
            world.stats.in_between.push((id.to_owned(), text));
        }
    }
}

fn too_many() -> Refusal {
    Refusal::new(429, "RATE_LIMIT_ERROR", "RATE_LIMITED", "Too many requests.")
}

fn draw(world: &mut World, asked: &Asked) -> (Fate<Refusal>, Option<Duration>) {
    let route = asked.route();
    world.stats.requests += 1;
    *world.stats.by_route.entry(route.clone()).or_default() += 1;
    let faults = world.faults.clone();
    if faults == Faults::default() {
        return (Fate::Answered, None);
    }
    let slow = world.struck("slow", faults.slow, &route);
    let fate = if world.struck("lost_request", faults.lost_request, &route) {
        Fate::Swallowed
    } else if world.struck("lost_answer", faults.lost_answer, &route) {
        Fate::SwallowedAfterwards
    } else if asked.is_write() && world.struck("late_commit", faults.late_commit, &route) {
        Fate::Late(Duration::from_millis(faults.late_ms.max(1)))
    } else if world.struck("too_many", faults.too_many, &route) {
        Fate::Refused(too_many())
    } else if world.struck("unavailable_before", faults.unavailable_before, &route) {
        Fate::Refused(Refusal::new(503, "API_ERROR", "SERVICE_UNAVAILABLE", "The service is not available."))
    } else if world.struck("unavailable_after", faults.unavailable_after, &route) {
        Fate::BrokenAfterwards(Refusal::new(500, "API_ERROR", "INTERNAL_SERVER_ERROR", "An internal error occurred."))
    } else if !asked.is_oauth() && world.struck("unauthorized", faults.unauthorized, &route) {
        Fate::Refused(Refusal::unauthorized("UNAUTHORIZED"))
    } else if world.struck("truncated", faults.truncated, &route) {
        Fate::Truncated
    } else {
        Fate::Answered
    };
    (fate, slow.then(|| Duration::from_millis(faults.latency_ms)))
}

/// What an answer holds.
enum Held {
    One(Json),
    Elsewhere(Url),
}

fn respond(world: &World, version: Option<&str>, outcome: Result<Held, Refusal>) -> Response {
    let mut headers = HeaderMap::new();
    let (status, body) = match outcome {
        Ok(Held::One(body)) => (200, body.to_string()),
        Ok(Held::Elsewhere(address)) => {
            if let Ok(address) = HeaderValue::try_from(address.as_str()) {
                headers.insert(header::LOCATION, address);
            }
            (302, String::new())
        }
        Err(refusal) => (refusal.status, refusal.body.to_string()),
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(version) = HeaderValue::try_from(version.unwrap_or("2025-08-20")) {
        headers.insert("square-version", version);
    }
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

fn handle(world: &mut World, asked: &Asked) -> Result<Held, Refusal> {
    let body: Json = match asked.body.is_empty() {
        true => Json::Null,
        false => serde_json::from_slice(&asked.body)
            .map_err(|_| Refusal::new(400, "INVALID_REQUEST_ERROR", "BAD_REQUEST", "The body is not JSON."))?,
    };
    if asked.is_oauth() {
        return oauth(world, asked, &body);
    }
    let readable = |version: &String| version.parse::<NaiveDate>().is_ok();
    if !asked.version.as_ref().is_none_or(readable) {
        return Err(Refusal::new(400, "INVALID_REQUEST_ERROR", "INVALID_SQUARE_VERSION_FORMAT", "Expected a date."));
    }
    authorise(world, asked)?;
    admit(world)?;
    let route = asked.segments().join("/");
    let Some(key) = body["idempotency_key"].as_str().filter(|_| asked.is_write()) else {
        return dispatch(world, asked, &body).map(Held::One);
    };
    let known = (route, key.to_owned());
    let text = body.to_string();
    if let Some((given, answer)) = world.keys.get(&known) {
        if *given == text {
            return Ok(Held::One(answer.clone()));
        }
        world.stats.keys_reused += 1;
        return Err(Refusal::invalid("IDEMPOTENCY_KEY_REUSED", "idempotency_key", "Used before with another body."));
    }
    let answer = dispatch(world, asked, &body)?;
    world.keys.insert(known, (text, answer.clone()));
    Ok(Held::One(answer))
}

fn authorise(world: &World, asked: &Asked) -> Result<(), Refusal> {
    let token = asked.bearer.as_deref().unwrap_or_default();
    if world.settings.access_tokens.iter().any(|known| known == token) {
        return Ok(());
    }
    match world.tokens.get(token) {
        None => return Err(Refusal::unauthorized("UNAUTHORIZED")),
        Some(ends) if *ends <= world.now => return Err(Refusal::unauthorized("ACCESS_TOKEN_EXPIRED")),
        Some(_) => {}
    }
    let scope = match (asked.segments().get(1).copied().unwrap_or_default(), asked.is_write()) {
        ("locations" | "merchants", _) => "MERCHANT_PROFILE_READ",
        ("orders", true) => "ORDERS_WRITE",
        ("orders", false) => "ORDERS_READ",
        ("payments" | "refunds", true) | ("online-checkout", _) => "PAYMENTS_WRITE",
        ("payments" | "refunds", false) => "PAYMENTS_READ",
        ("customers", true) => "CUSTOMERS_WRITE",
        ("customers", false) => "CUSTOMERS_READ",
        ("catalog", _) => "ITEMS_READ",
        ("invoices", true) => "INVOICES_WRITE",
        ("invoices", false) => "INVOICES_READ",
        // Only a personal token reaches the application's own things.
        ("webhooks", _) => "",
        _ => return Ok(()),
    };
    match world.settings.scopes.iter().any(|granted| granted == scope) {
        true => Ok(()),
        false => Err(Refusal::new(403, "AUTHENTICATION_ERROR", "INSUFFICIENT_SCOPES", "The token lacks a permission.")),
    }
}

fn admit(world: &mut World) -> Result<(), Refusal> {
    let now = world.elapsed;
    while world.calls.front().is_some_and(|at| now.saturating_sub(*at) >= Duration::from_secs(1)) {
        world.calls.pop_front();
    }
    if world.calls.len() >= world.settings.calls_per_second as usize {
        world.stats.too_many += 1;
        return Err(too_many());
    }
    world.calls.push_back(now);
    Ok(())
}

fn oauth(world: &mut World, asked: &Asked, body: &Json) -> Result<Held, Refusal> {
    match (asked.method.as_str(), asked.segments().as_slice()) {
        ("GET", ["oauth2", "authorize"]) => world.ask_seller(&asked.query).map(Held::Elsewhere),
        ("POST", ["oauth2", "token"]) => world.obtain_token(body).map(Held::One),
        ("POST", ["oauth2", "token", "status"]) => {
            authorise(world, asked)?;
            Ok(Held::One(world.token_status(asked.bearer.as_deref().unwrap_or_default())))
        }
        _ => Err(Refusal::not_found("Route")),
    }
}

fn dispatch(world: &mut World, asked: &Asked, body: &Json) -> Result<Json, Refusal> {
    let segments = asked.segments();
    let Some(("v2", rest)) = segments.split_first().map(|(first, rest)| (*first, rest)) else {
        return Err(Refusal::not_found("Route"));
    };
    let query = &asked.query;
    match (asked.method.as_str(), rest) {
        ("GET", ["merchants", "me"]) => Ok(json!({ "merchant": {
            "id": world.settings.merchant_id, "business_name": "Glow Clinic", "country": "US", "currency": "USD",
            "status": "ACTIVE", "language_code": "en-US",
        } })),
        ("GET", ["locations"]) => Ok(world.show_locations()),
        ("POST", ["orders", "search"]) => world.search_orders(body),
        ("POST", ["orders", "batch-retrieve"]) => world.batch_orders(body),
        ("GET", ["orders", id]) => Ok(json!({ "order": world.order(id)? })),
        ("POST", ["orders"]) => {
            let id = world.make_order(&body["order"])?;
            Ok(json!({ "order": world.show_order(&id) }))
        }
        ("PUT", ["orders", id]) => world.change_order(id, &body["order"]),
        ("GET", ["payments"]) => world.list_payments(query),
        ("GET", ["payments", id]) => world.payment(id),
        ("POST", ["payments"]) => world.make_payment(body),
        ("GET", ["refunds"]) => world.list_refunds(query),
        ("GET", ["refunds", id]) => world.show_refund_by(id),
        ("POST", ["refunds"]) => world.make_refund(body),
        ("GET" | "POST", ["customers"]) | (_, ["customers", ..]) => customers(world, asked, &rest[1..], body),
        ("GET", ["catalog", "list"]) => {
            let rows = world.show_catalog(&query.list("types"), false);
            catalog(world, &format!("catalog{}", query.without("cursor")), query.text("cursor").as_deref(), 100, rows)
        }
        ("POST", ["catalog", "batch-retrieve"]) => Ok(world.batch_catalog(body)),
        ("POST", ["catalog", "search"]) => {
            let types: Vec<String> = body["object_types"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|t| t.as_str().map(str::to_owned))
                .collect();
            let rows = world.show_catalog(&types, body["include_deleted_objects"] == true);
            let mut asked = body.clone();
            asked["cursor"] = Json::Null;
            let limit = body["limit"].as_u64().unwrap_or(100).min(1_000) as usize;
            let mut shown = catalog(world, &asked.to_string(), body["cursor"].as_str(), limit, rows)?;
            shown["latest_time"] = iso(world.now).into();
            Ok(shown)
        }
        ("POST", ["online-checkout", "payment-links"]) => world.make_link(body),
        ("GET", ["online-checkout", "payment-links", id]) => world.link(id),
        ("GET", ["invoices"]) => world.list_invoices(query),
        ("POST", ["invoices", "search"]) => world.search_invoices(body),
        ("POST", ["invoices"]) => world.make_invoice(body),
        ("GET", ["invoices", id]) => world.invoice(id),
        ("POST", ["invoices", id, "publish"]) => world.publish_invoice(id, body),
        ("GET", ["webhooks", "subscriptions"]) => Ok(world.show_subscriptions()),
        ("POST", ["webhooks", "subscriptions"]) => world.make_subscription(body),
        ("GET", ["webhooks", "subscriptions", id]) => world.subscription(id),
        ("DELETE", ["webhooks", "subscriptions", id]) => world.remove_subscription(id),
        ("POST", ["webhooks", "subscriptions", id, "signature-key"]) => world.rotate_key(id),
        _ => Err(Refusal::not_found("Route")),
    }
}

fn catalog(world: &World, query: &str, cursor: Option<&str>, limit: usize, rows: Vec<Json>) -> Result<Json, Refusal> {
    let keyed = |row: Json| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        (text("type"), text("id"), row)
    };
    Ok(world.page(query, cursor, limit, false, |_| rows.into_iter().map(keyed).collect())?.show("objects"))
}

fn customers(world: &mut World, asked: &Asked, rest: &[&str], body: &Json) -> Result<Json, Refusal> {
    let shown =
        |world: &World, id: &str| world.customers.get(id).map(|customer| json!({ "customer": customer.show() }));
    match (asked.method.as_str(), rest) {
        ("GET", []) => {
            let query = &asked.query;
            let by_name = query.text("sort_field").as_deref() != Some("CREATED_AT");
            let limit = limit(query.number("limit"))?;
            let newest_first = query.text("sort_order").as_deref() == Some("DESC");
            let question = format!("customers{}", query.without("cursor"));
            let page = world.page(&question, query.text("cursor").as_deref(), limit, newest_first, |_| {
                world.shown("customers").map(|(id, row, _)| (sort_key(row, by_name), id.clone(), row.clone())).collect()
            })?;
            Ok(page.show("customers"))
        }
        ("POST", ["search"]) => search_customers(world, body),
        ("POST", []) => {
            let id = world.create_customer(body, Change::Api)?;
            world.stats.created += 1;
            shown(world, &id).ok_or_else(|| Refusal::not_found("Customer"))
        }
        ("POST", ["bulk-retrieve"]) => {
            let mut responses = json!({});
            for id in body["customer_ids"].as_array().into_iter().flatten().filter_map(Json::as_str) {
                responses[id] = shown(world, id).unwrap_or_else(|| Refusal::not_found("Customer").errors());
            }
            Ok(json!({ "responses": responses }))
        }
        ("POST", ["bulk-create"]) => {
            let mut responses = json!({});
            for (key, given) in body["customers"].as_object().into_iter().flatten() {
                responses[key] = bulk_create(world, key, given).unwrap_or_else(|refusal| refusal.errors());
            }
            Ok(json!({ "responses": responses }))
        }
        ("POST", ["bulk-update"]) => {
            let mut responses = json!({});
            for (id, given) in body["customers"].as_object().into_iter().flatten() {
                edit_in_between(world, id);
                let fails = world.faults.row_fails;
                let done = match world.struck("row_fails", fails, "bulk-update") {
                    true => Err(Refusal::new(500, "API_ERROR", "INTERNAL_SERVER_ERROR", "An internal error occurred.")),
                    false => world.update_customer(id, given),
                };
                world.stats.updated += u64::from(done.is_ok());
                responses[id] = match done {
                    Ok(()) => shown(world, id).unwrap_or_default(),
                    Err(refusal) => refusal.errors(),
                };
            }
            Ok(json!({ "responses": responses }))
        }
        ("GET", [id]) => shown(world, id).ok_or_else(|| Refusal::not_found("Customer")),
        ("PUT", [id]) => {
            world.update_customer(id, body)?;
            world.stats.updated += 1;
            shown(world, id).ok_or_else(|| Refusal::not_found("Customer"))
        }
        ("DELETE", [id]) => {
            world.delete_customer(id)?;
            world.stats.deleted += 1;
            Ok(json!({}))
        }
        _ => Err(Refusal::not_found("Route")),
    }
}

fn bulk_create(world: &mut World, key: &str, given: &Json) -> Result<Json, Refusal> {
    let known = ("v2/customers".to_owned(), key.to_owned());
    let text = given.to_string();
    if let Some((before, answer)) = world.keys.get(&known) {
        if *before == text {
            return Ok(answer.clone());
        }
        world.stats.keys_reused += 1;
        return Err(Refusal::invalid("IDEMPOTENCY_KEY_REUSED", "idempotency_key", "Used before with another body."));
    }
    let id = world.create_customer(given, Change::Api)?;
    world.stats.created += 1;
    let answer = world.customers.get(&id).map(|customer| json!({ "customer": customer.show() })).unwrap_or_default();
    world.keys.insert(known, (text, answer.clone()));
    Ok(answer)
}

fn limit(given: Option<usize>) -> Result<usize, Refusal> {
    match given.unwrap_or(100) {
        0 => Err(Refusal::invalid("VALUE_TOO_LOW", "limit", "The limit is too low.")),
        limit if limit > 100 => Err(Refusal::invalid("VALUE_TOO_HIGH", "limit", "The limit is too high.")),
        limit => Ok(limit),
    }
}

fn sort_key(row: &Json, by_name: bool) -> String {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    match by_name {
        true => format!("{} {}", text("given_name"), text("family_name")),
        false => text("created_at").to_owned(),
    }
}

fn search_customers(world: &World, body: &Json) -> Result<Json, Refusal> {
    let filter = &body["query"]["filter"];
    let range = |name: &str| Range::parse(filter[name]["start_at"].as_str(), filter[name]["end_at"].as_str());
    let (created, updated) = (range("created_at")?, range("updated_at")?);
    let exact = |name: &str| filter[name]["exact"].as_str().map(str::to_lowercase);
    let wanted: Vec<(&str, String)> = ["email_address", "phone_number", "reference_id"]
        .into_iter()
        .filter_map(|name| exact(name).map(|text| (name, text)))
        .collect();
    let limit = limit(body["limit"].as_u64().map(|limit| limit as usize))?;
    let sort = &body["query"]["sort"];
    let by_name = sort["field"].as_str() != Some("CREATED_AT");
    let mut query = body.clone();
    query["cursor"] = Json::Null;
    let time = |row: &Json| DateTime::parse_from_rfc3339(row["created_at"].as_str()?).ok().map(|at| at.to_utc());
    let newest_first = sort["order"].as_str() == Some("DESC");
    let page = world.page(&query.to_string(), body["cursor"].as_str(), limit, newest_first, |_| {
        world
            .shown("customers")
            .filter(|(_, row, changed)| {
                let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
                let says = |name: &str, wanted: &str| match row[name].as_str() {
                    Some(text) if name == "phone_number" => digits(text) == digits(wanted),
                    Some(text) => text.to_lowercase() == wanted,
                    None => false,
                };
                updated.holds(*changed)
                    && time(row).is_none_or(|at| created.holds(at))
                    && wanted.iter().all(|(name, text)| says(name, text))
            })
            .map(|(id, row, _)| (sort_key(row, by_name), id.clone(), row.clone()))
            .collect()
    })?;
    Ok(page.show("customers"))
}
