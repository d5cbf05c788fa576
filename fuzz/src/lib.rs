//! What outsiders can send, and what must hold whatever they send: nothing panics, nothing hangs, and nothing that is not
//! signed is believed.
//!
//! Each function is a fuzz target (`make fuzz`), and is run over its kept corpus by every `make test`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tandem::{config::Config, simulation::lenses, sync::mapping, vendors::CONNECTORS};
use tandem_contract::{
    Call, CheckoutBy, Connector, Cursor, ExternalId, HttpRequest, HttpResponse, Kind, Lane, NewCheckout, NewVisit,
    NewVisitor, Secret, Sought, TokioClock, Transport, TransportError, Value, VisitChange, VisitClass, WantedOpenings,
    WebhookRequest, Write, WriteOp,
};
use tandem_fhir::{Fhir, Login, VisitType};
use tandem_hubspot::{Credentials, HubSpot, Options, sign_v1, sign_v3};
use tandem_pipedrive::Pipedrive;
use tandem_square::Square;

const SECRET: &str = "11111111-2222-4333-8444-555555555555";
/// `user` and the secret, as Basic authorisation.
const LOGIN: &str = "Basic dXNlcjoxMTExMTExMS0yMjIyLTQzMzMtODQ0NC01NTU1NTU1NTU1NTU=";
const HOOK: &str = "https://tandem.example.com/webhooks/hubspot";
const CALL: Call = Call { lane: Lane::Interactive };
/// More virtual time than any call may take with all its repetitions.
const PATIENCE: Duration = Duration::from_secs(48 * 3_600);

/// A vendor that always answers the same.
struct Parrot(HttpResponse);

#[async_trait]
impl Transport for Parrot {
    async fn send(&self, _: HttpRequest, _: Duration) -> Result<HttpResponse, TransportError> {
        Ok(self.0.clone())
    }
}

fn connector(answer: HttpResponse) -> HubSpot {
    let address = "http://hubspot.example.com".parse().expect("an address");
    let mut options = Options::new(address, Credentials::Token(Secret::new("token".to_owned())));
    options.client_secret = Some(Secret::new(SECRET.to_owned()));
    options.accept_v1_signature = true;
    options.select = mapping::selection(&lenses());
    HubSpot::new(options, Arc::new(Parrot(answer)), Arc::new(clock()))
}

fn pipedrive(answer: HttpResponse) -> Pipedrive {
    let address = "http://pipedrive.example.com".parse().expect("an address");
    let mut options = tandem_pipedrive::Options::new(address, Credentials::Token(Secret::new("token".to_owned())));
    options.webhook_login = Some(("user".to_owned(), Secret::new(SECRET.to_owned())));
    options.select = selection("pipedrive");
    Pipedrive::new(options, Arc::new(Parrot(answer)), Arc::new(clock()))
}

fn square(answer: HttpResponse) -> Square {
    let address = "http://square.example.com".parse().expect("an address");
    let mut options = tandem_square::Options::new(address, Credentials::Token(Secret::new("token".to_owned())));
    options.signature_keys = vec![Secret::new(SECRET.to_owned())];
    options.notification_url = Some(HOOK.to_owned());
    options.select = selection("square");
    Square::new(options, Arc::new(Parrot(answer)), Arc::new(clock()))
}

fn clock() -> TokioClock {
    TokioClock::starting_at(DateTime::from_timestamp(1_795_300_000, 0).expect("a moment"))
}

fn selection(vendor: &str) -> BTreeMap<Kind, BTreeMap<String, tandem_contract::PropertyType>> {
    let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == vendor).expect("a connector");
    mapping::selection(&mapping::parse(text).expect("its mapping"))
}

fn fhir(answer: HttpResponse) -> Fhir {
    let address = "http://emr.example.com/fhir".parse().expect("an address");
    let mut options = tandem_fhir::Options::new(address, Login::Token(Secret::new("token".to_owned())));
    options.hook_token = Some(Secret::new(SECRET.to_owned()));
    (options.patients, options.plans) = (true, true);
    options.select = selection("fhir");
    let class = VisitClass::Treatment;
    options.visit_types =
        vec![VisitType { system: None, code: "T".to_owned(), class, service: None, kind: Some("meeting".to_owned()) }];
    Fhir::new(options, Arc::new(Parrot(answer)), Arc::new(clock()))
}

/// One of every vendor, each of which is answered the same.
fn everybody(answer: &HttpResponse) -> [Box<dyn Connector>; 4] {
    [
        Box::new(connector(answer.clone())),
        Box::new(pipedrive(answer.clone())),
        Box::new(square(answer.clone())),
        Box::new(fhir(answer.clone())),
    ]
}

fn answer(status: u16, headers: HeaderMap, body: &[u8]) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    HttpResponse { status, headers, body: Bytes::copy_from_slice(body) }
}

/// Runs to the end on virtual time; what does not end is a hang.
fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("every call ends") })
}

/// Everything the engine asks of a connector.
async fn ask_everything(connector: &dyn Connector, cursor: &Cursor) {
    let _ = connector.check().await;
    let _ = connector.discover().await;
    for stream in connector.streams() {
        let _ = connector.changes(CALL, &stream, cursor).await;
    }
    let ids = ["1", "2"].map(|id| ExternalId::new(id.to_owned()).expect("an id"));
    let sought = Sought { marker: "marker".to_owned(), since: DateTime::UNIX_EPOCH };
    for kind in connector.kinds() {
        let _ = connector.list(CALL, kind, cursor).await;
        let _ = connector.fetch(CALL, kind, &ids).await;
        let _ = connector.find(CALL, kind, std::slice::from_ref(&sought)).await;
        let _ = connector.history(CALL, kind, &ids, &["dealname".to_owned(), "phone".to_owned()]).await;
    }
    let _ = connector.sales(CALL, &ids).await;
    let visits =
        ["Appointment/1", "Encounter/2", "ServiceRequest/3"].map(|id| ExternalId::new(id.to_owned()).expect("an id"));
    let _ = connector.visits(CALL, &visits).await;
    let (starts_at, ends_at) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + Duration::from_secs(1_800));
    for practitioner in [None, Some("7".to_owned())] {
        let wanted = WantedOpenings { from: starts_at, until: ends_at, practitioner, site: None };
        let _ = connector.openings(CALL, &wanted).await;
    }
    let _ = connector.change_visit(CALL, &visits[0], &VisitChange::Move { starts_at, ends_at }).await;
    let visitor = NewVisitor { email: Some("ana@example.com".to_owned()), ..NewVisitor::default() };
    let (reference, kind) = ("r".to_owned(), "meeting".to_owned());
    let new = NewVisit { reference, visitor, kind, starts_at, ends_at, slot: None, site: None, practitioner: None };
    let _ = connector.book(CALL, &new).await;
    for by in [CheckoutBy::Link, CheckoutBy::Invoice] {
        let new = NewCheckout {
            by,
            key: "key".to_owned(),
            reference: "reference".to_owned(),
            title: "Peel".to_owned(),
            minor: 100,
            currency: "USD".to_owned(),
            location: None,
            buyer: Some(ids[0].clone()),
            email: None,
            due_on: None,
        };
        let _ = connector.checkout(CALL, &new).await;
    }
    let said: BTreeMap<String, Value> = [("dealname".to_owned(), Value::text("Peel"))].into();
    let ops = [
        WriteOp::Create { marker: "marker".to_owned(), properties: said.clone() },
        WriteOp::Update {
            id: ids[0].clone(),
            properties: said.clone(),
            planned_on: said,
            expected: Default::default(),
        },
        WriteOp::Archive { id: ids[1].clone() },
    ];
    let writes: Vec<Write> =
        ops.into_iter().map(|op| Write { kind: Kind::Deal, trace: "trace".to_owned(), op }).collect();
    assert_eq!(connector.push(CALL, &writes).await.len(), writes.len(), "an outcome for every write");
}

/// Headers of a webhook, signature and all: nothing that was not signed with the secret is believed.
pub fn signatures(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in ["x-hubspot-signature-v3", "x-hubspot-request-timestamp", "x-hubspot-signature"] {
        if let Ok(value) = HeaderValue::from_bytes(parts.next().unwrap_or_default()) {
            headers.insert(name, value);
        }
    }
    let body = parts.next().unwrap_or_default();
    let hubspot = connector(answer(200, HeaderMap::new(), b"{}"));
    let received_at = DateTime::from_timestamp(1_795_300_000, 0).expect("a moment");
    let request = WebhookRequest { method: "POST", uri: HOOK, headers: &headers, body, received_at };
    if hubspot.hints(&request).is_ok() {
        let secret = Secret::new(SECRET.to_owned());
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let stamp = text("x-hubspot-request-timestamp").parse().unwrap_or_default();
        let v3 = sign_v3(&secret, "POST", HOOK, body, stamp) == text("x-hubspot-signature-v3");
        let v1 = sign_v1(&secret, body) == text("x-hubspot-signature").to_ascii_lowercase();
        assert!(v3 || v1, "believed without a signature");
    }
}

/// Bodies of webhooks that are signed as they should be.
pub fn webhook_bodies(body: &[u8]) {
    let millis = 1_795_300_000_000;
    let received_at = DateTime::from_timestamp_millis(millis).expect("a moment");
    let signature = sign_v3(&Secret::new(SECRET.to_owned()), "POST", HOOK, body, millis);
    let mut headers = HeaderMap::new();
    headers.insert("x-hubspot-signature-v3", signature.parse().expect("base64"));
    headers.insert("x-hubspot-request-timestamp", millis.into());
    let request = WebhookRequest { method: "POST", uri: HOOK, headers: &headers, body, received_at };
    let _ = connector(answer(200, HeaderMap::new(), b"{}")).hints(&request);
    let signature = tandem_square::sign(&Secret::new(SECRET.to_owned()), HOOK, body);
    let basic = HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static(LOGIN))]);
    let signed = HeaderMap::from_iter([(
        HeaderName::from_static("x-square-hmacsha256-signature"),
        signature.parse().expect("base64"),
    )]);
    let nothing = answer(200, HeaderMap::new(), b"{}");
    let _ = pipedrive(nothing.clone()).hints(&WebhookRequest { headers: &basic, ..request });
    let bearer = HeaderValue::try_from(format!("Bearer {SECRET}")).expect("a header");
    let bearer = HeaderMap::from_iter([(http::header::AUTHORIZATION, bearer)]);
    let _ = fhir(nothing.clone()).hints(&WebhookRequest { headers: &bearer, ..request });
    let _ = square(nothing).hints(&WebhookRequest { headers: &signed, ..request });
}

/// Answers of the vendor: the first byte chooses the status, the rest is the body.
pub fn vendor_answers(data: &[u8]) {
    const STATUSES: [u16; 16] = [200, 200, 200, 201, 204, 207, 207, 400, 401, 403, 404, 409, 423, 429, 477, 502];
    let Some((first, body)) = data.split_first() else { return };
    let status = STATUSES[usize::from(*first) % STATUSES.len()];
    for connector in everybody(&answer(status, HeaderMap::new(), body)) {
        run(ask_everything(&*connector, &Cursor::start()));
    }
}

/// Headers of an answer: waits, limits, dates. The first byte chooses the status, then a line each.
pub fn headers(data: &[u8]) {
    const NAMES: [&str; 7] = [
        "retry-after",
        "date",
        "x-hubspot-ratelimit-max",
        "x-hubspot-ratelimit-interval-milliseconds",
        "x-hubspot-ratelimit-remaining",
        "x-hubspot-ratelimit-daily",
        "x-hubspot-ratelimit-daily-remaining",
    ];
    let Some((first, rest)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    for (name, line) in NAMES.into_iter().zip(rest.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let status = [200, 429, 477, 503][usize::from(*first) % 4];
    let hubspot = connector(answer(status, headers, br#"{"results": [], "policyName": "TEN_SECONDLY_ROLLING"}"#));
    run(async {
        // One call: what it learns of limits holds for all that follow, however long they are made to wait.
        let kind = hubspot.kinds()[0];
        let ids = [ExternalId::new("1".to_owned()).expect("an id")];
        let _ = hubspot.fetch(CALL, kind, &ids).await;
        let _ = hubspot.fetch(CALL, kind, &ids).await;
    });
}

/// Cursors as they may stand in the database.
pub fn cursors(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let body = br#"{"results": [{"id": "7"}], "paging": {"next": {"after": "8"}}, "data": [{"id": 7}], "cursor": "c",
        "additional_data": {"next_cursor": "c"}, "customers": [{"id": "7"}], "orders": [{"id": "7"}]}"#;
    for connector in everybody(&answer(200, HeaderMap::new(), body)) {
        run(ask_everything(&*connector, &Cursor(text.to_owned())));
    }
}

/// Configuration, one connection's, and mappings.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Config::parse(text, PathBuf::from("."));
    let _ = Config::parse_connection(text);
    let _ = mapping::parse(text);
}
