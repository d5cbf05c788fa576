//! One call to HubSpot: budget, token, send, and what the answer means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::Value as Json;
use tandem_contract::{
    Auth, Bucket, Call, Clock, ConnectorError, HttpRequest, HttpResponse, Lane, Limit, Limiter, Secret, Transport,
    VendorClock,
};
use url::Url;

use crate::{
    Options,
    auth::{App, auth},
    wire::ErrorEntry,
};

/// Limits HubSpot keeps apart. Source: "Usage guidelines", and the associations guide for the third.
pub const GENERAL: Bucket = Bucket(0);
pub const SEARCH: Bucket = Bucket(1);
pub const ASSOCIATIONS: Bucket = Bucket(2);

/// How often a call that was certainly not carried out (429, 423) is repeated before the engine takes over.
const REPEATS: u32 = 3;
/// A vendor that asks for more than a day means something else: an hour too many is harmless, years are not.
const LONGEST_WAIT: u64 = 86_400;
/// HubSpot's status for an account that is being moved to another data centre.
const MOVING: u16 = 477;
pub struct Client {
    base_url: Url,
    transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub auth: Auth<App>,
    limiter: Limiter,
    timeout: Duration,
    own_limit: bool,
    own_budget: Option<u64>,
    pub calls: AtomicU64,
    theirs: VendorClock,
}

/// A request, before budget and token.
pub struct Ask<'a> {
    pub method: Method,
    pub path: &'a str,
    pub query: Vec<(&'a str, String)>,
    pub body: Option<Json>,
    pub bucket: Bucket,
    pub lane: Lane,
    /// Of a call where carrying it out twice, or not knowing, matters.
    writes: Option<Call>,
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a str, lane: Lane) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: None, bucket: GENERAL, lane, writes: None }
    }

    pub fn post(path: &'a str, body: Json, lane: Lane) -> Self {
        Self { method: Method::POST, path, query: Vec::new(), body: Some(body), bucket: GENERAL, lane, writes: None }
    }

    pub fn query(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    pub fn bucket(mut self, bucket: Bucket) -> Self {
        self.bucket = bucket;
        self
    }

    /// It changes something.
    pub fn writes(mut self, call: Call) -> Self {
        self.writes = Some(call);
        self
    }

    /// Nothing that changes anything is sent too late.
    fn in_time(&self, clock: &dyn Clock) -> Result<(), ConnectorError> {
        self.writes.map_or(Ok(()), |call| call.in_time(clock))
    }
}

impl Client {
    pub fn new(options: &Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let floor = Limit { requests: 100, per: Duration::from_secs(10) };
        Self {
            base_url: options.base_url.clone(),
            transport,
            auth: auth(options),
            limiter: Limiter::new(&[options.rate_limit, options.search_rate_limit, floor], Some(options.daily_budget)),
            timeout: options.request_timeout,
            own_limit: options.rate_limit != floor,
            own_budget: (options.daily_budget != Options::DAILY_BUDGET).then_some(options.daily_budget),
            calls: AtomicU64::new(0),
            theirs: VendorClock::default(),
            clock,
        }
    }

    /// HubSpot's clock now, from the `Date` header of its answers: what cursors are made of.
    pub fn vendor_now(&self) -> DateTime<Utc> {
        self.theirs.now(&*self.clock)
    }

    /// Whether any answer said what time it is there.
    pub fn knows_the_time(&self) -> bool {
        self.theirs.was_told()
    }

    /// HubSpot's clock minus ours.
    pub fn offset(&self) -> chrono::Duration {
        self.theirs.offset()
    }

    /// The account's days begin at midnight in this zone.
    pub fn set_timezone(&self, zone: &str) {
        if let Ok(zone) = zone.parse() {
            self.limiter.set_timezone(zone);
        }
    }

    /// Sends and answers whatever HubSpot said with 2xx.
    ///
    /// # Errors
    /// [`ConnectorError`] for everything else; 401 only after one refresh.
    pub async fn ask(&self, ask: Ask<'_>) -> Result<HttpResponse, ConnectorError> {
        let mut refused: Option<Secret> = None;
        let mut repeats = 0;
        loop {
            ask.in_time(&*self.clock)?;
            self.limiter.acquire(ask.bucket, ask.lane, 1, &*self.clock).await?;
            let token = self.auth.token(refused.as_ref(), &self.transport, &self.clock).await?;
            // It may have waited long by now.
            ask.in_time(&*self.clock)?;
            let answer = self.send(&ask, &token).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            if answer.status.as_u16() == MOVING {
                // The whole account moves, not one kind of call.
                let wait = move_wait(&answer);
                for bucket in [GENERAL, SEARCH, ASSOCIATIONS] {
                    self.limiter.penalise(bucket, wait, &*self.clock);
                }
            }
            match answer.status {
                StatusCode::UNAUTHORIZED if refused.is_none() => refused = Some(token),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::LOCKED if repeats < REPEATS => {
                    repeats += 1;
                    let wait = self.penalty(&answer, repeats);
                    self.limiter.penalise(ask.bucket, wait, &*self.clock);
                }
                _ => return Err(refusal(&answer, ask.writes.is_some())),
            }
        }
    }

    async fn send(&self, ask: &Ask<'_>, token: &Secret) -> Result<HttpResponse, ConnectorError> {
        let mut url =
            self.base_url.join(ask.path).map_err(|_| ConnectorError::NotSent("the base_url is no address".into()))?;
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| {
            ConnectorError::Unauthorized("the access token holds characters no header may carry".into())
        })?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let body = match &ask.body {
            None => bytes::Bytes::new(),
            Some(json) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                serde_json::to_vec(json)
                    .map_err(|_| ConnectorError::NotSent("the request does not serialise".into()))?
                    .into()
            }
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let request = HttpRequest { method: ask.method.clone(), url, headers, body };
        let answer =
            self.transport.send(request, self.timeout).await.map_err(|error| match ConnectorError::from(error) {
                // A read that was lost can simply be repeated.
                ConnectorError::OutcomeUnknown(why) if ask.writes.is_none() => ConnectorError::NotSent(why),
                error => error,
            })?;
        self.learn(&answer, ask.bucket);
        Ok(answer)
    }

    /// Takes limits and clock from the headers.
    fn learn(&self, answer: &HttpResponse, bucket: Bucket) {
        let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
        if bucket == GENERAL
            && !self.own_limit
            && let (Some(max), Some(interval)) =
                (number("x-hubspot-ratelimit-max"), number("x-hubspot-ratelimit-interval-milliseconds"))
            && max > 0
            && interval > 0
        {
            let requests = u32::try_from(max).unwrap_or(u32::MAX);
            self.limiter.correct(GENERAL, Limit { requests, per: Duration::from_millis(interval) }, &*self.clock);
        }
        if let (Some(budget), Some(left)) =
            (number("x-hubspot-ratelimit-daily"), number("x-hubspot-ratelimit-daily-remaining"))
        {
            self.limiter.correct_daily(budget, left, self.own_budget, &*self.clock);
        }
        self.theirs.learn(&answer.headers, &*self.clock);
    }

    /// How long to leave a bucket alone. Source: "Usage guidelines" (policies and their windows); the waits are those
    /// of HubSpot's own client libraries. 423 is held about two seconds.
    fn penalty(&self, answer: &HttpResponse, attempt: u32) -> Duration {
        if let Some(seconds) = retry_after(answer) {
            return Duration::from_secs(seconds);
        }
        if answer.status == StatusCode::LOCKED {
            return Duration::from_secs(2) * attempt;
        }
        match policy(answer).as_str() {
            "SECONDLY" => Duration::from_secs(1) * attempt,
            "DAILY" => self.limiter.until_tomorrow(self.vendor_now()),
            _ => Duration::from_secs(10) * attempt,
        }
    }
}

/// The wait that HubSpot asks for, in seconds.
fn retry_after(answer: &HttpResponse) -> Option<u64> {
    Some(answer.retry_after()?.min(LONGEST_WAIT))
}

/// How long an account that is being moved to another data centre is left alone: an hour, unless HubSpot says.
fn move_wait(answer: &HttpResponse) -> Duration {
    Duration::from_secs(retry_after(answer).unwrap_or(3_600))
}

fn policy(answer: &HttpResponse) -> String {
    answer.json::<ErrorEntry>().ok().and_then(|error| error.policy_name).unwrap_or_else(|| "unnamed".into())
}

/// What a failed answer means.
fn refusal(answer: &HttpResponse, writes: bool) -> ConnectorError {
    let status = answer.status;
    let entry: ErrorEntry = answer.json().unwrap_or_default();
    match status.as_u16() {
        401 => ConnectorError::Unauthorized(
            "HubSpot refuses the access token, also after a refresh: renew the connection's credentials".into(),
        ),
        403 if entry.is_hubspots() => ConnectorError::Forbidden(missing_scopes(&entry)),
        // Only HubSpot can say that it does not have a record; a page of something in between says nothing.
        404 if entry.is_hubspots() => ConnectorError::Gone,
        429 | 423 => ConnectorError::RateLimited { retry_after: None, policy: policy(answer) },
        MOVING => ConnectorError::RateLimited {
            retry_after: Some(move_wait(answer)),
            policy: "the account is being moved to another data centre".into(),
        },
        // No connection to HubSpot was made.
        525 | 526 => ConnectorError::NotSent(format!("HubSpot answered {status}")),
        500.. if writes => ConnectorError::OutcomeUnknown(format!("HubSpot answered {status}")),
        500.. => ConnectorError::NotSent(format!("HubSpot answered {status}")),
        // A proxy in between, not HubSpot.
        300..=399 | 408 if writes => ConnectorError::OutcomeUnknown(format!("something in between answered {status}")),
        300..=399 | 408 => ConnectorError::NotSent(format!("something in between answered {status}")),
        400 | 403 | 404 | 405 | 409 if !entry.is_hubspots() => {
            ConnectorError::NotSent(format!("something in between answered {status}: is the base_url right?"))
        }
        _ => rejection(&entry, status),
    }
}

fn missing_scopes(entry: &ErrorEntry) -> String {
    let scopes: Vec<&str> = entry
        .errors
        .iter()
        .filter_map(|detail| detail.context.get("requiredGranularScopes"))
        .flatten()
        .filter_map(|scope| scope.0.as_deref())
        .collect();
    if scopes.is_empty() {
        "the app lacks a scope for this call; compare its scopes with the ones the operator guide lists".into()
    } else {
        format!("the app lacks the scope {}; grant it in HubSpot and connect again", scopes.join(" or "))
    }
}

/// A 4xx that names what is wrong. HubSpot hides the code and the property in a JSON array inside the message; both
/// are taken from there and the rest of the message, which may quote a person's data, is dropped.
pub fn rejection(entry: &ErrorEntry, status: StatusCode) -> ConnectorError {
    let message = entry.message.as_deref().unwrap_or_default();
    if message.contains("already has that value")
        || matches!(entry.category.as_deref(), Some("CONFLICT" | "OBJECT_ALREADY_EXISTS"))
        || status == StatusCode::CONFLICT
    {
        let property =
            message.split("propertyName=").nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap_or("email");
        return ConnectorError::Conflict(owner_of_clash(message).map_or_else(
            || "a record with the same unique value exists".into(),
            |id| format!("record {id} already holds the same value of {property}"),
        ));
    }
    if entry.category.as_deref() == Some("OBJECT_NOT_FOUND") {
        return ConnectorError::Gone;
    }
    if entry.category.as_deref().is_some_and(|category| category.contains("RATE_LIMIT")) {
        return ConnectorError::RateLimited { retry_after: None, policy: "a row of a batch".into() };
    }
    // One row of a batch met a failure of HubSpot's own: like a 500, it says nothing of what was stored.
    if entry.category.as_deref() == Some("INTERNAL_ERROR") {
        return ConnectorError::OutcomeUnknown("HubSpot failed on this row of the batch".into());
    }
    let inner = message
        .find("[{")
        .and_then(|start| message.get(start..))
        .and_then(|text| serde_json::Deserializer::from_str(text).into_iter::<Json>().next()?.ok())
        .and_then(|list| list.get(0).cloned());
    let word = |key: &str| Some(inner.as_ref()?.get(key)?.as_str()?.to_owned());
    let field =
        word("name").or_else(|| entry.errors.iter().find_map(|e| e.context.get("propertyName")?.first()?.0.clone()));
    let reason = word("error")
        .or_else(|| entry.errors.iter().find_map(|e| e.code.clone()))
        .or_else(|| entry.category.clone())
        .unwrap_or_else(|| format!("HTTP {}", status.as_u16()));
    ConnectorError::Rejected { field, reason }
}

/// The record a unique-value or e-mail clash names in its text: the last number before "already has that value", or
/// the one after "Existing ID:". Source: observed bodies; confirmed afterwards by reading that record.
pub fn owner_of_clash(message: &str) -> Option<String> {
    let digits = |text: &str| {
        let id: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
        (!id.is_empty()).then_some(id)
    };
    if let Some(rest) = message.split("Existing ID:").nth(1) {
        return digits(rest);
    }
    let before = message.split("already has that value").next().filter(|before| before.len() < message.len())?;
    before.split_whitespace().last().and_then(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str) -> ErrorEntry {
        serde_json::from_str(json).expect("an error body")
    }

    #[test]
    fn a_clash_names_the_record_that_owns_the_value() {
        let unique = "Cannot set PropertyValueCoordinates{portalId=4242, objectTypeId=ObjectTypeId{legacyObjectType=DEAL}, \
                      propertyName=tandem_id, value=a:1} on 31550077. 31550001 already has that value.";
        assert_eq!(owner_of_clash(unique).as_deref(), Some("31550001"));
        assert_eq!(owner_of_clash("Contact already exists. Existing ID: 70021").as_deref(), Some("70021"));
        assert_eq!(owner_of_clash("Property values were not valid"), None);
    }

    #[test]
    fn a_rejection_names_the_property_and_the_code_and_quotes_no_value() {
        let body = r#"{"status":"error","category":"VALIDATION_ERROR","message":"Property values were not valid: [{\"isValid\":false,\"message\":\"Jane Roe was not one of the allowed options\",\"error\":\"INVALID_OPTION\",\"name\":\"dealstage\"}]"}"#;
        let error = rejection(&entry(body), StatusCode::BAD_REQUEST);
        assert_eq!(error.to_string(), "the vendor refuses `dealstage`: INVALID_OPTION");
        assert!(!format!("{error:?}").contains("Jane"));
    }

    #[test]
    fn a_missing_scope_is_named() {
        let body = r#"{"category":"MISSING_SCOPES","errors":[{"context":{"requiredGranularScopes":["crm.objects.deals.write"]}}]}"#;
        assert!(missing_scopes(&entry(body)).contains("crm.objects.deals.write"));
    }
}
