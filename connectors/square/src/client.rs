//! One call to Square: budget, token, send, and what the answer means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value as Json;
use tandem_contract::{
    Auth, Bucket, Call, Clock, ConnectorError, HttpRequest, HttpResponse, Lane, Limiter, Pace, Secret, Transport,
    VendorClock,
};
use url::Url;

use crate::{
    Options,
    auth::{App, auth},
};

const ALL: Bucket = Bucket(0);
/// How often a call that was certainly not carried out (429) is repeated before the engine takes over.
const REPEATS: u32 = 3;

pub struct Client {
    base_url: Url,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub auth: Auth<App>,
    limiter: Limiter,
    pace: Pace,
    timeout: Duration,
    pub calls: AtomicU64,
    theirs: VendorClock,
}

/// A request, before budget and token.
#[derive(Clone)]
pub struct Ask {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Json>,
    call: Call,
    writes: bool,
}

impl Ask {
    pub fn get(path: impl Into<String>, lane: Lane) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            query: Vec::new(),
            body: None,
            call: Call::on(lane),
            writes: false,
        }
    }

    /// A question that is too long for an address.
    pub fn search(path: impl Into<String>, lane: Lane, body: Json) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            query: Vec::new(),
            body: Some(body),
            call: Call::on(lane),
            writes: false,
        }
    }

    /// A call that changes something: carrying it out twice, or not knowing, matters.
    pub fn change(method: Method, path: impl Into<String>, call: Call, body: Option<Json>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), body, call, writes: true }
    }

    pub fn query(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// The page that begins after a cursor; the first one without.
    pub fn after(self, cursor: Option<&str>) -> Self {
        match cursor {
            Some(cursor) => self.query("cursor", cursor),
            None => self,
        }
    }

    /// Nothing that changes anything is sent too late.
    fn in_time(&self, clock: &dyn Clock) -> Result<(), ConnectorError> {
        if self.writes { self.call.in_time(clock) } else { Ok(()) }
    }
}

/// Null is as good as nothing.
pub fn or_none<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// One of Square's errors. Its words may quote people's data and are not taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fault {
    pub category: String,
    pub code: String,
    pub field: Option<String>,
}

/// The errors of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Faults {
    pub errors: Vec<Fault>,
}

impl Client {
    pub fn new(options: &Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        Self {
            base_url: options.base_url.clone(),
            transport,
            auth: auth(options),
            limiter: Limiter::new(&[options.rate_limit], options.daily_budget),
            pace: Pace::new(options.rate_limit),
            timeout: options.request_timeout,
            calls: AtomicU64::new(0),
            theirs: VendorClock::default(),
            clock,
        }
    }

    /// Square's clock now, from the `Date` header of its answers: what cursors are made of.
    pub fn vendor_now(&self) -> DateTime<Utc> {
        self.theirs.now(&*self.clock)
    }

    /// Whether any answer said what time it is there.
    pub fn knows_the_time(&self) -> bool {
        self.theirs.was_told()
    }

    /// Square's clock minus ours.
    pub fn offset(&self) -> chrono::Duration {
        self.theirs.offset()
    }

    /// Sends, and answers what a success holds.
    ///
    /// # Errors
    /// [`ConnectorError`] for everything else; 401 only after one refresh.
    pub async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ConnectorError> {
        let mut refused: Option<Secret> = None;
        let mut repeats = 0;
        loop {
            ask.in_time(&*self.clock)?;
            self.limiter.acquire(ALL, ask.call.lane, 1, &*self.clock).await?;
            let token = self.auth.token(refused.as_ref(), &self.transport, &self.clock).await?;
            // It may have waited long by now.
            ask.in_time(&*self.clock)?;
            let answer = self.send(ask, &token).await?;
            match answer.status {
                status if status.is_success() => {
                    self.pace.went_well(&self.limiter, ALL, &*self.clock);
                    return answer.json().map_err(|error| match ask.writes {
                        // It happened; what came back cannot be read.
                        true => ConnectorError::OutcomeUnknown(error.to_string()),
                        false => error,
                    });
                }
                StatusCode::UNAUTHORIZED if refused.is_none() => refused = Some(token),
                StatusCode::TOO_MANY_REQUESTS => {
                    let wait = retry_after(&answer).unwrap_or(Duration::from_secs(1 << repeats.min(6)));
                    self.pace.too_fast(&self.limiter, ALL, wait, &*self.clock);
                    if repeats >= REPEATS {
                        return Err(ConnectorError::RateLimited {
                            retry_after: Some(wait),
                            policy: "calls in a short time".into(),
                        });
                    }
                    repeats += 1;
                }
                _ => return Err(refusal(&answer, ask.writes)),
            }
        }
    }

    async fn send(&self, ask: &Ask, token: &Secret) -> Result<HttpResponse, ConnectorError> {
        let mut url = self
            .base_url
            .join(&format!("/v2/{}", ask.path))
            .map_err(|_| ConnectorError::NotSent("the base_url is no address".into()))?;
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| ConnectorError::Unauthorized("the access token fits no header".into()))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("square-version", HeaderValue::from_static(Options::VERSION));
        let body = match &ask.body {
            Some(body) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                body.to_string().into()
            }
            None => bytes::Bytes::new(),
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let request = HttpRequest { method: ask.method.clone(), url, headers, body };
        let answer = self.transport.send(request, self.timeout).await.map_err(|error| {
            match ConnectorError::from(error) {
                // A read that got no answer is repeated.
                ConnectorError::OutcomeUnknown(why) if !ask.writes => ConnectorError::NotSent(why),
                error => error,
            }
        })?;
        self.theirs.learn(&answer.headers, &*self.clock);
        Ok(answer)
    }
}

fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    Some(Duration::from_secs(answer.retry_after()?.clamp(1, 3_600)))
}

/// What a failed answer means.
fn refusal(answer: &HttpResponse, writes: bool) -> ConnectorError {
    let status = answer.status;
    let faults: Faults = answer.json().unwrap_or_default();
    let passing = |why: String| match writes {
        true => ConnectorError::OutcomeUnknown(why),
        false => ConnectorError::NotSent(why),
    };
    match (faults.errors.first(), status.as_u16()) {
        (_, 500..) => passing(format!("Square answered {status}")),
        (Some(fault), _) => understood(fault, status.as_u16()),
        // A proxy in between, not Square.
        (None, 300..=399 | 408) => passing(format!("something in between answered {status}")),
        (None, _) => ConnectorError::NotSent(format!("something in between answered {status}: is the base_url right?")),
    }
}

/// A search may answer 200 and say what went wrong beside what it found: such a page may lack rows, and is none.
pub fn complete(errors: &[Fault]) -> Result<(), ConnectorError> {
    let Some(fault) = errors.first() else { return Ok(()) };
    Err(match understood(fault, 400) {
        // It was only read.
        ConnectorError::OutcomeUnknown(why) => ConnectorError::NotSent(why),
        error => error,
    })
}

/// What one of Square's errors means; `status` is that of the answer, 400 for a row of a bulk.
pub fn understood(fault: &Fault, status: u16) -> ConnectorError {
    match (fault.code.as_str(), status) {
        ("VERSION_MISMATCH" | "CONFLICT", _) | (_, 409) => ConnectorError::Stale,
        ("NOT_FOUND" | "GONE", _) | (_, 404 | 410) => ConnectorError::Gone,
        ("ACCESS_TOKEN_REVOKED", _) => ConnectorError::Unauthorized(
            "the seller revoked the access token: connect Square again, and put the new credentials in".into(),
        ),
        ("UNAUTHORIZED" | "ACCESS_TOKEN_EXPIRED", _) | (_, 401) => ConnectorError::Unauthorized(
            "Square refuses the access token, also after a refresh: renew the connection's credentials".into(),
        ),
        ("FORBIDDEN" | "INSUFFICIENT_SCOPES", _) | (_, 403) => ConnectorError::Forbidden(
            "the access token lacks a permission for this: grant it to the application in Square, with OAuth by \
             `tandem connection authorize`"
                .into(),
        ),
        ("RATE_LIMITED", _) => {
            ConnectorError::RateLimited { retry_after: None, policy: "calls in a short time".into() }
        }
        (code, _) if fault.category == "API_ERROR" => ConnectorError::OutcomeUnknown(format!("Square answered {code}")),
        (code, _) => {
            let is_code = |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let field = fault.field.as_deref().and_then(|field| field.rsplit('.').next()).filter(|name| is_code(name));
            ConnectorError::Rejected {
                field: field.map(str::to_owned),
                reason: if is_code(code) { code.to_owned() } else { format!("HTTP {status}") },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> HttpResponse {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        HttpResponse { status, headers: HeaderMap::new(), body: bytes::Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_stale_version_is_told_by_its_code_whatever_the_status() {
        for status in [400, 409] {
            let body =
                r#"{"errors":[{"category":"INVALID_REQUEST_ERROR","code":"VERSION_MISMATCH","field":"version"}]}"#;
            assert!(matches!(refusal(&answer(status, body), true), ConnectorError::Stale), "{status}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_quotes_no_value() {
        let body = r#"{"errors":[{"category":"INVALID_REQUEST_ERROR","code":"INVALID_PHONE_NUMBER",
            "detail":"Jane Roe's number","field":"customer.phone_number"}]}"#;
        let error = refusal(&answer(400, body), true);
        assert_eq!(error.to_string(), "the vendor refuses `phone_number`: INVALID_PHONE_NUMBER");
        assert!(!format!("{error:?}").contains("Jane"));
    }

    #[test]
    fn a_page_of_something_in_between_is_no_word_of_squares() {
        let error = refusal(&answer(404, "<html>not here</html>"), true);
        assert!(matches!(error, ConnectorError::NotSent(_)), "{error}");
    }
}
