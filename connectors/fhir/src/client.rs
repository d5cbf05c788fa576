//! One call to the server: budget, token, send, and what the answer means.
//!
//! Bodies of refusals may be an OperationOutcome, a gateway's own JSON, HTML or nothing: the status decides. Their texts may
//! quote a patient and are not taken; codes and expressions are. Source: <https://hl7.org/fhir/R4/http.html>.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use tandem_contract::{
    Auth, Bucket, Call, Clock, ConnectorError, HttpRequest, HttpResponse, Lane, Limit, Limiter, Pace, Secret,
    Transport, VendorClock,
};
use url::Url;

use crate::{
    Options,
    auth::{self, auth},
};

const ALL: Bucket = Bucket(0);
/// How often a call that was certainly not carried out (429) is repeated before the engine takes over.
const REPEATS: u32 = 3;

/// The way to the server.
pub struct Client {
    base_url: Url,
    transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    auth: Auth<auth::Client>,
    granted: Arc<Mutex<Option<String>>>,
    headers: HeaderMap,
    limiter: Limiter,
    pace: Pace,
    timeout: Duration,
    /// Types that the server said it takes no searches of by POST.
    by_address: Mutex<BTreeSet<String>>,
    pub calls: AtomicU64,
    theirs: VendorClock,
}

/// A request, before budget and token.
#[derive(Clone)]
pub struct Ask {
    method: Method,
    to: To,
    query: Vec<(String, String)>,
    form: Option<String>,
    body: Option<Bytes>,
    headers: Vec<(HeaderName, String)>,
    call: Call,
    writes: bool,
}

#[derive(Clone)]
enum To {
    /// Parts of a path below the base.
    Path(Vec<String>),
    /// Where the server said to go on.
    Next(Url),
}

impl Ask {
    fn new(method: Method, path: &[&str], call: Call) -> Self {
        let to = To::Path(path.iter().map(|part| (*part).to_owned()).collect());
        Self { method, to, query: Vec::new(), form: None, body: None, headers: Vec::new(), call, writes: false }
    }

    pub fn get(path: &[&str], lane: Lane) -> Self {
        Self::new(Method::GET, path, Call::on(lane))
    }

    /// The page that the server named.
    pub fn next(url: Url, lane: Lane) -> Self {
        Self { to: To::Next(url), ..Self::new(Method::GET, &[], Call::on(lane)) }
    }

    /// A search by POST, whose values stay out of addresses.
    fn form(kind: &str, pairs: &[(&str, &str)], lane: Lane) -> Self {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        Self { form: Some(form), ..Self::new(Method::POST, &[kind, "_search"], Call::on(lane)) }
    }

    /// A change.
    pub fn change(method: Method, path: &[&str], call: Call, body: impl Into<Bytes>) -> Self {
        Self { body: Some(body.into()), writes: true, ..Self::new(method, path, call) }
    }

    pub fn query(mut self, key: &str, value: impl Into<String>) -> Self {
        self.query.push((key.to_owned(), value.into()));
        self
    }

    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Nothing that changes anything is sent too late.
    fn in_time(&self, clock: &dyn Clock) -> Result<(), ConnectorError> {
        if self.writes { self.call.in_time(clock) } else { Ok(()) }
    }
}

/// A success.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// Whether something was made, and not found to be there.
    pub fn was_made(&self) -> bool {
        self.status == StatusCode::CREATED
    }

    /// The record's id as `Location` tells, else as the body does.
    pub fn id(&self) -> Option<String> {
        let place = self.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let from_place = place.and_then(|place| {
            let place = place.split("/_history").next()?;
            place.rsplit('/').next().filter(|id| !id.is_empty()).map(percent_decoded)
        });
        from_place.or_else(|| self.json::<Id>().ok().map(|known| known.id))
    }

    /// The version that `ETag` names, else the body does.
    pub fn version(&self) -> Option<String> {
        let etag = self.headers.get(header::ETAG).and_then(|value| value.to_str().ok());
        let named =
            etag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned()).filter(|tag| !tag.is_empty());
        named.or_else(|| self.json::<Id>().ok().and_then(|known| known.meta.version_id))
    }

    /// What the body holds.
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`] names the path.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ConnectorError> {
        HttpResponse { status: self.status, headers: HeaderMap::new(), body: self.body.clone() }.json()
    }
}

/// What reading one record came to.
pub enum Look {
    /// Here it is.
    Found(Answer),
    /// It was deleted.
    Deleted,
    /// It never was, or the server keeps no memory of it.
    Missing,
}

/// What servers say of a request is of this type.
pub const OUTCOME: &str = "OperationOutcome";

/// Any resource.
#[derive(Deserialize)]
pub struct Typed {
    /// Of which type it is.
    #[serde(rename = "resourceType")]
    pub kind: String,
}

#[derive(Deserialize)]
struct Id {
    id: String,
    #[serde(default)]
    meta: Meta,
}

/// Which version of a record this is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The version.
    pub version_id: Option<String>,
    /// When it became that.
    #[serde(deserialize_with = "readable")]
    pub last_updated: Option<DateTime<Utc>>,
}

/// A moment, where it can be read: one that says no zone tells none.
fn readable<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|at| at.to_utc()))
}

fn percent_decoded(text: &str) -> String {
    // A form's rules but for the plus sign, which an id may hold.
    let kept = text.replace('+', "%2B");
    url::form_urlencoded::parse(kept.as_bytes()).next().map_or_else(|| text.to_owned(), |(name, _)| name.into_owned())
}

/// An issue of an OperationOutcome, without its texts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Issue {
    severity: String,
    code: String,
    expression: Vec<String>,
    /// What STU3 and its predecessors say in its place, as XPath.
    location: Vec<String>,
}

impl Issue {
    /// The element of the resource that it is about.
    fn element(&self) -> Option<&str> {
        let place = self.expression.first().or(self.location.first())?;
        let element = place.trim_start_matches('/').split(['.', '/']).nth(1)?.trim_start_matches("f:");
        element.split('[').next()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Outcome {
    issue: Vec<Issue>,
}

impl Client {
    pub fn new(options: &Options, transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        let rate: Limit = options.rate();
        let (auth, granted) = auth(options, clock.clone());
        Self {
            base_url: options.base_url.clone(),
            transport,
            auth,
            granted,
            headers: options.headers(),
            limiter: Limiter::new(&[rate], options.daily_budget),
            pace: Pace::new(rate),
            timeout: options.request_timeout,
            by_address: Mutex::default(),
            calls: AtomicU64::new(0),
            theirs: VendorClock::default(),
            clock,
        }
    }

    /// The server's clock now, from the `Date` header of its answers: what cursors are made of.
    pub fn vendor_now(&self) -> DateTime<Utc> {
        self.theirs.now(&*self.clock)
    }

    /// Whether any answer said what time it is there.
    pub fn knows_the_time(&self) -> bool {
        self.theirs.was_told()
    }

    /// The server's clock minus ours.
    pub fn offset(&self) -> chrono::Duration {
        self.theirs.offset()
    }

    /// The scopes that were granted, if the server said.
    pub fn granted(&self) -> Option<String> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the server is.
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// True for an address of this server: no other one gets our token.
    pub fn is_here(&self, url: &Url) -> bool {
        url.origin() == self.base_url.origin()
    }

    /// Sends, and answers a success.
    ///
    /// # Errors
    /// [`ConnectorError`] for everything else; 401 only after one refresh.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer, ConnectorError> {
        success(self.exchange(ask).await?, ask.writes)
    }

    /// Reads what may not be there.
    ///
    /// # Errors
    /// [`ConnectorError`].
    pub async fn look(&self, ask: &Ask) -> Result<Look, ConnectorError> {
        let answer = self.exchange(ask).await?;
        match answer.status {
            StatusCode::GONE => Ok(Look::Deleted),
            // A page of something in between is no word of the server's.
            StatusCode::NOT_FOUND if answer.json::<Typed>().is_ok() => Ok(Look::Missing),
            StatusCode::NOT_FOUND => Err(in_between()),
            // What a server says in the place of a record is no record.
            status if status.is_success() && answer.json::<Typed>().is_ok_and(|said| said.kind == OUTCOME) => {
                Err(ConnectorError::Malformed { path: "resourceType".into() })
            }
            status if status.is_success() => {
                Ok(Look::Found(Answer { status, headers: answer.headers, body: answer.body }))
            }
            _ => Err(refusal(&answer, ask.writes)),
        }
    }

    async fn exchange(&self, ask: &Ask) -> Result<HttpResponse, ConnectorError> {
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
                    return Ok(answer);
                }
                StatusCode::UNAUTHORIZED if refused.is_none() => refused = Some(token),
                StatusCode::TOO_MANY_REQUESTS => {
                    let wait = retry_after(&answer).unwrap_or(Duration::from_secs(1 << repeats.min(6)));
                    self.pace.too_fast(&self.limiter, ALL, wait, &*self.clock);
                    if repeats >= REPEATS {
                        let policy = "calls in a short time".into();
                        return Err(ConnectorError::RateLimited { retry_after: Some(wait), policy });
                    }
                    repeats += 1;
                }
                _ => return Ok(answer),
            }
        }
    }

    /// The same, and what the body holds.
    ///
    /// # Errors
    /// [`ConnectorError`].
    pub async fn read<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ConnectorError> {
        self.ask(ask).await?.json()
    }

    /// The first page of a search whose values are personal: by a form, since addresses stand in the logs of servers and of whatever
    /// is in between. A server that says itself that it takes no forms is asked by address for a while; our own logs name none.
    ///
    /// # Errors
    /// [`ConnectorError`].
    pub async fn read_quietly<T: DeserializeOwned>(
        &self,
        kind: &str,
        pairs: &[(&str, &str)],
        lane: Lane,
    ) -> Result<T, ConnectorError> {
        if !self.by_address.lock().unwrap_or_else(PoisonError::into_inner).contains(kind) {
            let answer = self.exchange(&Ask::form(kind, pairs, lane)).await?;
            if !takes_no_form(&answer)? {
                return success(answer, false)?.json();
            }
        }
        let ask = pairs.iter().fold(Ask::get(&[kind], lane), |ask, (name, value)| ask.query(name, *value));
        let found = self.read(&ask).await?;
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned());
        Ok(found)
    }

    /// What the server takes is asked anew: it may take forms by now.
    pub fn forget_refused_forms(&self) {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn url(&self, ask: &Ask) -> Result<Url, ConnectorError> {
        let mut url = match &ask.to {
            To::Next(url) => return Ok(url.clone()),
            To::Path(parts) => {
                let mut url = self.base_url.clone();
                let bad = |()| ConnectorError::NotSent("the base_url is no address".into());
                // Encodes whatever an id holds.
                url.path_segments_mut().map_err(bad)?.pop_if_empty().extend(parts);
                url
            }
        };
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        Ok(url)
    }

    async fn send(&self, ask: &Ask, token: &Secret) -> Result<HttpResponse, ConnectorError> {
        let url = self.url(ask)?;
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .map_err(|_| ConnectorError::Unauthorized("the access token fits no header".into()))?;
        bearer.set_sensitive(true);
        let mut headers = self.headers.clone();
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/fhir+json"));
        for (name, value) in &ask.headers {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        let body = match (&ask.form, &ask.body) {
            (Some(form), _) => {
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(header::CONTENT_TYPE, form_type);
                Bytes::from(form.clone())
            }
            (None, Some(body)) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/fhir+json"));
                body.clone()
            }
            (None, None) => Bytes::new(),
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

fn success(answer: HttpResponse, writes: bool) -> Result<Answer, ConnectorError> {
    match answer.status {
        // A page of something in between carries nothing out, and half an answer may be of anything.
        status if status.is_success() && writes && !tells(&answer) => {
            Err(ConnectorError::OutcomeUnknown(format!("what came back with {status} is no resource")))
        }
        status if status.is_success() => Ok(Answer { status, headers: answer.headers, body: answer.body }),
        StatusCode::NOT_FOUND if writes && answer.json::<Typed>().is_err() => Err(in_between()),
        _ => Err(refusal(&answer, writes)),
    }
}

/// Whether the server says that a search must not come by POST. Of a type or a body that it does not know, its own words must say
/// so; a page of something in between says nothing of the server, and moves no address of anybody's into a URL.
fn takes_no_form(answer: &HttpResponse) -> Result<bool, ConnectorError> {
    let said = answer.json::<Typed>().ok();
    match answer.status {
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNSUPPORTED_MEDIA_TYPE if said.is_none() => {
            let status = answer.status;
            let why = format!("something in between answered {status} to a search by POST: let it pass to the server");
            Err(ConnectorError::Forbidden(why))
        }
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(said.is_some()),
        StatusCode::NOT_FOUND | StatusCode::UNSUPPORTED_MEDIA_TYPE => Ok(said.is_some_and(|said| said.kind == OUTCOME)),
        _ => Ok(false),
    }
}

/// Whether a success says what was written: by its place, by a resource, or by nothing at all.
fn tells(answer: &HttpResponse) -> bool {
    let is_empty = answer.body.iter().all(u8::is_ascii_whitespace);
    is_empty || answer.headers.contains_key(header::LOCATION) || answer.json::<Typed>().is_ok()
}

fn in_between() -> ConnectorError {
    ConnectorError::NotSent("something in between answered 404: is the base_url right?".into())
}

/// What a failed answer means.
fn refusal(answer: &HttpResponse, writes: bool) -> ConnectorError {
    let status = answer.status;
    let outcome: Outcome = answer.json().unwrap_or_default();
    let issue = outcome.issue.iter().find(|issue| issue.severity != "warning" && issue.severity != "information");
    let passing = |why: String| match writes {
        true => ConnectorError::OutcomeUnknown(why),
        false => ConnectorError::NotSent(why),
    };
    let is_code = |text: &str| {
        (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.[]".contains(&b))
    };
    let code = issue.map(|issue| issue.code.as_str()).filter(|code| is_code(code));
    match status.as_u16() {
        500.. => passing(format!("the server answered {status}")),
        300..=399 | 408 => passing(format!("something in between answered {status}")),
        401 => ConnectorError::Unauthorized(
            "the server refuses the access token, also a new one: renew the connection's credentials".into(),
        ),
        403 => ConnectorError::Forbidden(
            "the access token lacks a scope for this, or the clinic does not share it: grant the scope to this client"
                .into(),
        ),
        404 | 410 => ConnectorError::Gone,
        // R4 says 412; older servers say 409.
        409 | 412 if code == Some("multiple-matches") => {
            ConnectorError::Conflict("several records there carry the same identifier: merge them there".into())
        }
        409 | 412 => ConnectorError::Stale,
        number => {
            let field = issue.and_then(Issue::element).filter(|field| is_code(field));
            ConnectorError::Rejected {
                field: field.map(str::to_owned),
                reason: code.map_or_else(|| format!("HTTP {number}"), |code| format!("HTTP {number}, {code}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> HttpResponse {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        HttpResponse { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn a_conflict_is_one_whether_412_or_409_says_so() {
        for status in [409, 412] {
            assert!(matches!(refusal(&answer(status, "<html>"), true), ConnectorError::Stale), "{status}");
        }
        let several = r#"{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"multiple-matches"}]}"#;
        assert!(matches!(refusal(&answer(412, several), true), ConnectorError::Conflict(_)));
    }

    #[test]
    fn a_refusal_names_the_element_and_quotes_nobody() {
        let body = r#"{"issue":[{"severity":"error","code":"required","diagnostics":"Jane Roe has no birthDate",
            "details":{"text":"Jane Roe"},"expression":["Patient.birthDate[0]"]}]}"#;
        let error = refusal(&answer(422, body), true);
        assert_eq!(error.to_string(), "the vendor refuses `birthDate`: HTTP 422, required");
        assert!(!format!("{error:?}").contains("Jane"));
    }

    #[test]
    fn ids_come_from_the_location_as_they_are() {
        let place = HeaderValue::from_static("https://ehr.example.test/fhir/R4/ChargeItem/CHG%7C1722/_history/1");
        let made = Answer {
            status: StatusCode::CREATED,
            headers: HeaderMap::from_iter([
                (header::LOCATION, place),
                (header::ETAG, HeaderValue::from_static("W/\"1\"")),
            ]),
            body: Bytes::new(),
        };
        assert_eq!(made.id().as_deref(), Some("CHG|1722"));
        assert_eq!(made.version().as_deref(), Some("1"));
    }
}
