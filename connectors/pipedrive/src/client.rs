//! One call to Pipedrive: budget, token, send, and what the answer means.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tandem_contract::{
    Auth, Bucket, Call, Clock, ConnectorError, HttpRequest, HttpResponse, Lane, Limit, Limiter, Secret, Transport,
    VendorClock,
};
use url::Url;

use crate::{
    Options,
    auth::{App, auth, domain, header_of},
    plan::WINDOW,
};

/// Limits Pipedrive keeps apart. Source: "Rate limiting".
pub const GENERAL: Bucket = Bucket(0);
pub const SEARCH: Bucket = Bucket(1);

/// Search calls in two seconds, on every plan. Source: "Rate limiting".
const SEARCHES: Limit = Limit { requests: 10, per: WINDOW };
/// Rows of a page of a list, at most; a page costs the same however many it has.
pub const PAGE: &str = "500";
/// Pages of a list, a walk or a changelog that are read at most.
pub const MOST_PAGES: usize = 50;
/// How often a call that was certainly not carried out (429 of the burst window) is repeated before the engine takes over.
const REPEATS: u32 = 3;
/// How long a company is left alone whose calls the gateway blocks: going on prolongs it.
const BLOCKED: Duration = Duration::from_secs(600);
/// How often a spent day is tried again: nobody says when it ends.
const SPENT: Duration = Duration::from_secs(900);

pub struct Client {
    base_url: Url,
    is_pipedrives: bool,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub auth: Auth<App>,
    limiter: Limiter,
    timeout: Duration,
    own_limit: bool,
    pub calls: AtomicU64,
    theirs: VendorClock,
}

/// Which generation of the API a call is of: some are only in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    V1,
    V2,
}

/// A request, before budget and token.
#[derive(Clone)]
pub struct Ask {
    method: Method,
    api: Api,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Box<RawValue>>,
    /// Tokens of the day's budget. Source: `x-token-cost` of the published description.
    cost: u64,
    call: Call,
    searches: bool,
}

impl Ask {
    pub fn get(api: Api, path: impl Into<String>, cost: u64, lane: Lane) -> Self {
        let path = path.into();
        let searches = path.starts_with("itemSearch") || path.ends_with("/search");
        Self { method: Method::GET, api, path, query: Vec::new(), body: None, cost, call: Call::on(lane), searches }
    }

    /// A call that changes something: carrying it out twice, or not knowing, matters.
    pub fn change(method: Method, api: Api, path: impl Into<String>, cost: u64, call: Call) -> Self {
        Self { method, api, path: path.into(), query: Vec::new(), body: None, cost, call, searches: false }
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

    pub fn body(mut self, body: Box<RawValue>) -> Self {
        self.body = Some(body);
        self
    }

    /// The cursor that is asked with.
    fn cursor(&self) -> Option<&str> {
        self.query.iter().find(|(key, _)| *key == "cursor").map(|(_, cursor)| cursor.as_str())
    }

    fn writes(&self) -> bool {
        self.method != Method::GET
    }

    /// Nothing that changes anything is sent too late.
    fn in_time(&self, clock: &dyn Clock) -> Result<(), ConnectorError> {
        if self.writes() { self.call.in_time(clock) } else { Ok(()) }
    }
}

/// Every answer of Pipedrive.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
struct Answer<T> {
    #[serde(default = "yes")]
    success: bool,
    data: Option<T>,
    #[serde(default)]
    additional_data: Option<Additional>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Additional {
    next_cursor: Option<String>,
}

/// A failure, as loosely as it is documented.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: Option<String>,
    code: Option<String>,
    success: Option<bool>,
    status: Option<String>,
    message: Option<String>,
}

impl Refusal {
    /// True if this is how Pipedrive refuses, and not a page of something in between.
    fn is_pipedrives(&self) -> bool {
        self.success == Some(false) || self.error.is_some() || self.message.is_some() || self.status.is_some()
    }
}

impl Client {
    pub fn new(options: &Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        Self {
            base_url: options.base_url.clone(),
            is_pipedrives: options.base_url.as_str().trim_end_matches('/') == Options::BASE_URL,
            transport,
            auth: auth(options),
            limiter: Limiter::new(&[options.limit(), SEARCHES], Some(options.budget())),
            timeout: options.request_timeout,
            own_limit: options.rate_limit.is_some(),
            calls: AtomicU64::new(0),
            theirs: VendorClock::default(),
            clock,
        }
    }

    /// Pipedrive's clock now, from the `Date` header of its answers: what cursors are made of.
    pub fn vendor_now(&self) -> DateTime<Utc> {
        self.theirs.now(&*self.clock)
    }

    /// Whether any answer said what time it is there.
    pub fn knows_the_time(&self) -> bool {
        self.theirs.was_told()
    }

    /// Pipedrive's clock minus ours.
    pub fn offset(&self) -> chrono::Duration {
        self.theirs.offset()
    }

    /// Sends, and answers the `data` of a success.
    ///
    /// # Errors
    /// [`ConnectorError`] for everything else; 401 only after one refresh.
    pub async fn data<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ConnectorError> {
        self.ask(ask).await?.0.ok_or_else(|| ConnectorError::Malformed { path: "data".into() })
    }

    /// Sends, and answers a page and where the next one begins. A page that names the cursor it was asked with is the last:
    /// it would be read for ever.
    ///
    /// # Errors
    /// As [`Client::data`].
    pub async fn page<T: DeserializeOwned>(&self, ask: Ask) -> Result<(Vec<T>, Option<String>), ConnectorError> {
        let after = ask.cursor().map(str::to_owned);
        let (data, next) = self.ask(ask).await?;
        Ok((data.unwrap_or_default(), next.filter(|next| Some(next) != after.as_ref())))
    }

    /// Every page of a list, up to [`MOST_PAGES`].
    ///
    /// # Errors
    /// As [`Client::data`].
    pub async fn all<T: DeserializeOwned>(&self, ask: Ask) -> Result<Vec<T>, ConnectorError> {
        let (mut all, mut cursor): (Vec<T>, Option<String>) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let (page, next) = self.page(ask.clone().query("limit", PAGE).after(cursor.as_deref())).await?;
            all.extend(page);
            if next.is_none() {
                break;
            }
            cursor = next;
        }
        Ok(all)
    }

    async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Result<(Option<T>, Option<String>), ConnectorError> {
        let mut refused: Option<Secret> = None;
        let mut repeats = 0;
        loop {
            ask.in_time(&*self.clock)?;
            if ask.searches {
                self.limiter.acquire(SEARCH, ask.call.lane, 0, &*self.clock).await?;
            }
            self.limiter.acquire(GENERAL, ask.call.lane, ask.cost, &*self.clock).await?;
            let token = self.auth.token(refused.as_ref(), &self.transport, &self.clock).await?;
            // It may have waited long by now.
            ask.in_time(&*self.clock)?;
            let answer = self.send(&ask, &token).await?;
            if answer.status.is_success() {
                return understood(&answer, ask.writes());
            }
            match answer.status {
                StatusCode::UNAUTHORIZED if refused.is_none() => refused = Some(token),
                StatusCode::TOO_MANY_REQUESTS => match burst_wait(&answer) {
                    Some(wait) if repeats < REPEATS => {
                        repeats += 1;
                        self.limiter.penalise(GENERAL, wait, &*self.clock);
                    }
                    Some(wait) => {
                        return Err(ConnectorError::RateLimited {
                            retry_after: Some(wait),
                            policy: "calls in two seconds".into(),
                        });
                    }
                    None => {
                        // The company's tokens are spent, whoever spent them.
                        let wait = retry_after(&answer).unwrap_or_default().max(SPENT);
                        self.limiter.penalise(GENERAL, wait, &*self.clock);
                        return Err(ConnectorError::RateLimited {
                            retry_after: Some(wait),
                            policy: "the company's tokens of the day".into(),
                        });
                    }
                },
                StatusCode::FORBIDDEN if !is_json(&answer) => {
                    self.limiter.penalise(GENERAL, BLOCKED, &*self.clock);
                    return Err(ConnectorError::RateLimited {
                        retry_after: Some(BLOCKED),
                        policy: "the gateway blocks this company's calls".into(),
                    });
                }
                _ => return Err(refusal(&answer, ask.writes())),
            }
        }
    }

    fn address(&self, ask: &Ask) -> Result<Url, ConnectorError> {
        let domain = self.is_pipedrives.then(|| domain(&self.auth)).flatten();
        // Pipedrive's common address has no `api` before the first generation; the companies' have.
        let prefix = match (ask.api, self.is_pipedrives && domain.is_none()) {
            (Api::V2, _) => "api/v2",
            (Api::V1, true) => "v1",
            (Api::V1, false) => "api/v1",
        };
        let base = domain.as_ref().unwrap_or(&self.base_url);
        let mut url = base.clone();
        let path = format!("{}/{prefix}/{}", base.path().trim_end_matches('/'), ask.path);
        url.set_path(&path);
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        if url.cannot_be_a_base() {
            return Err(ConnectorError::NotSent("the base_url is no address".into()));
        }
        Ok(url)
    }

    async fn send(&self, ask: &Ask, token: &Secret) -> Result<HttpResponse, ConnectorError> {
        let url = self.address(ask)?;
        let mut headers = HeaderMap::new();
        let (name, value) = header_of(&self.auth, token)
            .ok_or_else(|| ConnectorError::Unauthorized("the token holds characters no header may carry".into()))?;
        headers.insert(name, value);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let body = match &ask.body {
            None => bytes::Bytes::new(),
            Some(json) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                json.get().to_owned().into()
            }
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        let request = HttpRequest { method: ask.method.clone(), url, headers, body };
        let answer =
            self.transport.send(request, self.timeout).await.map_err(|error| match ConnectorError::from(error) {
                // A read that was lost can simply be repeated.
                ConnectorError::OutcomeUnknown(why) if !ask.writes() => ConnectorError::NotSent(why),
                error => error,
            })?;
        self.learn(&answer);
        Ok(answer)
    }

    /// Takes limit and clock from the headers.
    fn learn(&self, answer: &HttpResponse) {
        if !self.own_limit
            && let Some(requests) = number(answer, "x-ratelimit-limit").and_then(|limit| u32::try_from(limit).ok())
            && requests > 0
        {
            self.limiter.correct(GENERAL, Limit { requests, per: WINDOW }, &*self.clock);
        }
        self.theirs.learn(&answer.headers, &*self.clock);
    }
}

fn number(answer: &HttpResponse, name: &str) -> Option<u64> {
    answer.headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn is_json(answer: &HttpResponse) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok()
}

/// The wait of a spent window of two seconds; `None` if it is the day that is spent. Pipedrive does not say which in
/// words: only in the first case nothing is left of the window.
fn burst_wait(answer: &HttpResponse) -> Option<Duration> {
    if number(answer, "x-ratelimit-remaining") != Some(0) {
        return None;
    }
    let seconds = number(answer, "x-ratelimit-reset").filter(|seconds| *seconds <= 60);
    Some(Duration::from_secs(seconds.unwrap_or(2).max(1)))
}

fn retry_after(answer: &HttpResponse) -> Option<Duration> {
    // The other header, `x-ratelimit-reset`, tells of the window of two seconds.
    let seconds = answer.retry_after()?;
    Some(Duration::from_secs(seconds.clamp(1, 86_400)))
}

/// A 2xx is a success only if it says so.
fn understood<T: DeserializeOwned>(
    answer: &HttpResponse,
    writes: bool,
) -> Result<(Option<T>, Option<String>), ConnectorError> {
    let parsed = answer.json::<Answer<T>>().map_err(|error| match writes {
        // It happened; what came back cannot be read.
        true => ConnectorError::OutcomeUnknown(error.to_string()),
        false => error,
    })?;
    if parsed.success {
        return Ok((parsed.data, parsed.additional_data.and_then(|more| more.next_cursor)));
    }
    Err(match writes {
        true => ConnectorError::OutcomeUnknown("Pipedrive answered 2xx with `success: false`".into()),
        false => ConnectorError::NotSent("Pipedrive answered 2xx with `success: false`".into()),
    })
}

/// What a failed answer means. Its words may quote people's data: only what is known to be a name of ours is taken.
fn refusal(answer: &HttpResponse, writes: bool) -> ConnectorError {
    let status = answer.status;
    let refusal: Refusal = answer.json().unwrap_or_default();
    match status.as_u16() {
        401 => ConnectorError::Unauthorized(
            "Pipedrive refuses the token, also after a refresh: renew the connection's credentials".into(),
        ),
        402 => ConnectorError::Unauthorized(
            "the company's Pipedrive account is not open (the trial ended, or it is not paid): reopen it there".into(),
        ),
        403 => ConnectorError::Forbidden(match refusal.code.as_deref() {
            Some("feature_capping_deals_limit") => {
                "the plan's number of open deals is reached: close some, or change the plan at Pipedrive".into()
            }
            _ => "the token's user or the app may not do this: grant the permission or the scope in Pipedrive".into(),
        }),
        404 | 410 if refusal.is_pipedrives() => ConnectorError::Gone,
        500.. if writes => ConnectorError::OutcomeUnknown(format!("Pipedrive answered {status}")),
        500.. => ConnectorError::NotSent(format!("Pipedrive answered {status}")),
        // A proxy in between, not Pipedrive.
        300..=399 | 408 if writes => ConnectorError::OutcomeUnknown(format!("something in between answered {status}")),
        300..=399 | 408 => ConnectorError::NotSent(format!("something in between answered {status}")),
        _ if !refusal.is_pipedrives() => {
            ConnectorError::NotSent(format!("something in between answered {status}: is the base_url right?"))
        }
        code => ConnectorError::Rejected {
            field: refusal.error.as_deref().and_then(named_field),
            reason: refusal.code.unwrap_or_else(|| format!("HTTP {code}")),
        },
    }
}

/// The field a refusal names: `Validation failed: value: Expected number, received string`.
fn named_field(text: &str) -> Option<String> {
    let name = text.strip_prefix("Validation failed: ")?.split(':').next()?.trim();
    let name = name.strip_prefix("custom_fields.").unwrap_or(name);
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then(|| name.to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> HttpResponse {
        let headers =
            headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
        let status = StatusCode::from_u16(status).unwrap_or_default();
        HttpResponse { status, headers: headers.collect(), body: bytes::Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_refusal_names_the_field_and_quotes_no_value() {
        let body = r#"{"success":false,"error":"Validation failed: value: Expected number, received Jane Roe"}"#;
        let error = refusal(&answer(400, &[], body), true);
        assert_eq!(error.to_string(), "the vendor refuses `value`: HTTP 400");
        assert!(!format!("{error:?}").contains("Jane"));
        assert_eq!(named_field("Couldn't add the deal. Jane Roe: no"), None);
    }

    #[test]
    fn the_two_kinds_of_too_many_are_told_by_what_is_left_of_the_window() {
        let burst = answer(429, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")], "{}");
        assert_eq!(burst_wait(&burst), Some(Duration::from_secs(1)));
        assert_eq!(burst_wait(&answer(429, &[("x-ratelimit-remaining", "17")], "{}")), None);
        assert_eq!(burst_wait(&answer(429, &[], "{}")), None);
    }

    #[test]
    fn a_page_of_something_in_between_is_no_word_of_pipedrives() {
        let page = answer(404, &[], "<html>not here</html>");
        assert!(matches!(refusal(&page, true), ConnectorError::NotSent(_)));
        let gone = answer(404, &[], r#"{"success":false,"error":"Deal not found"}"#);
        assert!(matches!(refusal(&gone, true), ConnectorError::Gone));
    }

    #[test]
    fn a_success_that_says_it_is_none_leaves_the_outcome_of_a_write_open() {
        let odd = answer(200, &[], r#"{"success":false,"data":null}"#);
        assert!(matches!(understood::<()>(&odd, true), Err(ConnectorError::OutcomeUnknown(_))));
        assert!(matches!(understood::<()>(&odd, false), Err(ConnectorError::NotSent(_))));
    }
}
