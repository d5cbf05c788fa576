//! What outsiders can send, and what must hold whatever they send: nothing panics, nothing hangs, and nothing that is not
//! signed is believed.
//!
//! Each function is a fuzz target (`make fuzz`), and is run over its kept corpus by every `make test`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tandem::{
    config::Config,
    simulation::lenses,
    sync::{connection::is_own_address, mapping},
    vendors::CONNECTORS,
};
use tandem_contract::{
    Call, CheckoutBy, Connector, Cursor, ExternalId, Hint, HttpRequest, HttpResponse, Kind, Lane, NewCheckout,
    NewVisit, NewVisitor, Secret, Sought, TokioClock, Transport, TransportError, Value, VisitChange, VisitClass,
    WantedOpenings, WebhookError, WebhookRequest, Write, WriteOp,
};
use tandem_fhir::{Fhir, Login, VisitType};
use tandem_hubspot::{Credentials, HubSpot, Options, sign_v1, sign_v3};
use tandem_pipedrive::Pipedrive;
use tandem_square::Square;

const SECRET: &str = "11111111-2222-4333-8444-555555555555";
/// `user` and the secret, as Basic authorisation.
const LOGIN: &str = "Basic dXNlcjoxMTExMTExMS0yMjIyLTQzMzMtODQ0NC01NTU1NTU1NTU1NTU=";
const HOOK: &str = "https://tandem.example.com/webhooks/hubspot";
/// The end of an address that nobody guesses.
const SEGMENT: &str = "0123456789abcdef0123456789abcdef";
const CALL: Call = Call::on(Lane::Interactive);
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
    options.hook_secret = Some(Secret::new(SECRET.to_owned()));
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

fn ids() -> [ExternalId; 2] {
    ["1", "2"].map(|id| ExternalId::new(id.to_owned()).expect("an id"))
}

/// An appointment for this visitor.
fn appointment(visitor: NewVisitor) -> NewVisit {
    let (starts_at, ends_at) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH + Duration::from_secs(1_800));
    let (reference, kind) = ("r".to_owned(), "meeting".to_owned());
    NewVisit { reference, visitor, kind, starts_at, ends_at, slot: None, site: None, practitioner: None }
}

/// Everything the engine asks of a connector.
async fn ask_everything(connector: &dyn Connector, cursor: &Cursor) {
    let _ = connector.check().await;
    let _ = connector.discover().await;
    for stream in connector.streams() {
        let _ = connector.changes(CALL, &stream, cursor).await;
    }
    let ids = ids();
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
    let new = appointment(NewVisitor { email: Some("ana@example.com".to_owned()), ..NewVisitor::default() });
    let (starts_at, ends_at) = (new.starts_at, new.ends_at);
    for practitioner in [None, Some("7".to_owned())] {
        let wanted = WantedOpenings { from: starts_at, until: ends_at, practitioner, site: None };
        let _ = connector.openings(CALL, &wanted).await;
    }
    let _ = connector.change_visit(CALL, &visits[0], &VisitChange::Move { starts_at, ends_at }).await;
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

/// Whether a webhook was taken for its vendor's, whatever stood in it.
fn is_believed(heard: &Result<Vec<Hint>, WebhookError>) -> bool {
    matches!(heard, Ok(_) | Err(WebhookError::Malformed { .. }))
}

/// Headers of a webhook, signature and all: nothing is believed that was not signed with the secret, or does not carry it where a
/// vendor signs nothing. Three lines are the headers, of each vendor in turn; the rest is the body.
pub fn signatures(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let lines = [(); 3].map(|()| parts.next().unwrap_or_default());
    let body = parts.next().unwrap_or_default();
    let received_at = DateTime::from_timestamp(1_795_300_000, 0).expect("a moment");
    // A line that says nothing is no header; a name that is there twice is two.
    let headers = |names: [&'static str; 3]| -> HeaderMap {
        let said = names.into_iter().zip(lines).filter(|(_, line)| !line.is_empty());
        let named =
            said.filter_map(|(name, line)| Some((HeaderName::from_static(name), HeaderValue::from_bytes(line).ok()?)));
        let mut headers = HeaderMap::new();
        for (name, value) in named {
            headers.append(name, value);
        }
        headers
    };
    let told = |connector: &dyn Connector, headers: &HeaderMap| {
        is_believed(&connector.hints(&WebhookRequest { method: "POST", uri: HOOK, headers, body, received_at }))
    };
    let text =
        |headers: &HeaderMap, name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (nothing, secret) = (answer(200, HeaderMap::new(), b"{}"), Secret::new(SECRET.to_owned()));

    let given = headers(["x-hubspot-signature-v3", "x-hubspot-request-timestamp", "x-hubspot-signature"]);
    if told(&connector(nothing.clone()), &given) {
        let stamp =
            text(&given, "x-hubspot-request-timestamp").and_then(|stamp| stamp.parse().ok()).unwrap_or_default();
        let v3 = Some(sign_v3(&secret, "POST", HOOK, body, stamp)) == text(&given, "x-hubspot-signature-v3");
        let v1 = text(&given, "x-hubspot-signature").map(|given| given.to_ascii_lowercase());
        assert!(v3 || Some(sign_v1(&secret, body)) == v1, "HubSpot is believed without a signature");
    }

    let given = headers(["x-square-hmacsha256-signature", "x-square-signature", "square-environment"]);
    if told(&square(nothing.clone()), &given) {
        let right = tandem_square::sign(&secret, HOOK, body);
        assert_eq!(
            text(&given, "x-square-hmacsha256-signature"),
            Some(right),
            "Square is believed without a signature"
        );
    }

    let given = headers(["authorization"; 3]);
    if told(&pipedrive(nothing.clone()), &given) {
        let login = |text: &str| text.strip_prefix("Basic ").map(|login| login.trim().to_owned());
        let all: Vec<_> = given.get_all("authorization").iter().map(|value| value.to_str().map(login)).collect();
        assert!(matches!(&all[..], [Ok(given)] if *given == login(LOGIN)), "Pipedrive is believed without its login");
    }
    let segment = std::str::from_utf8(lines[0]).ok();
    assert_eq!(is_own_address(Some(SEGMENT), segment), segment == Some(SEGMENT), "another address than our own");
    assert!(!is_own_address(Some(SEGMENT), None), "half of an address");

    let given = headers(["authorization", "x-signature", "x-hub-signature"]);
    if told(&fhir(nothing), &given) {
        let athena = text(&given, "x-hub-signature").and_then(|text| text.strip_prefix("sha256=").map(str::to_owned));
        match text(&given, "x-signature").or(athena) {
            Some(signature) => assert_eq!(signature, tandem_fhir::sign(&secret, body), "a clinic's wrong signature"),
            None => {
                assert_eq!(text(&given, "authorization"), Some(format!("Bearer {SECRET}")), "a clinic's wrong token")
            }
        }
    }
}

/// Bodies of webhooks that are signed as they should be: they are believed, whatever they say.
pub fn webhook_bodies(body: &[u8]) {
    let millis = 1_795_300_000_000;
    let received_at = DateTime::from_timestamp_millis(millis).expect("a moment");
    let (secret, nothing) = (Secret::new(SECRET.to_owned()), answer(200, HeaderMap::new(), b"{}"));
    let headers = |pairs: &[(&'static str, String)]| -> HeaderMap {
        let pair = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::try_from(value.as_str()).expect("a header"))
        };
        pairs.iter().map(pair).collect()
    };
    let v3 = sign_v3(&secret, "POST", HOOK, body, millis);
    let hubspot = headers(&[("x-hubspot-signature-v3", v3), ("x-hubspot-request-timestamp", millis.to_string())]);
    let square_signed = headers(&[("x-square-hmacsha256-signature", tandem_square::sign(&secret, HOOK, body))]);
    let basic = headers(&[("authorization", LOGIN.to_owned())]);
    let bearer = headers(&[("authorization", format!("Bearer {SECRET}"))]);
    let medplum = headers(&[("x-signature", tandem_fhir::sign(&secret, body))]);
    let athena = headers(&[("x-hub-signature", format!("sha256={}", tandem_fhir::sign(&secret, body)))]);
    let [crm, other_crm, till, clinic] = everybody(&nothing);
    for (connector, headers) in [
        (&crm, &hubspot),
        (&other_crm, &basic),
        (&till, &square_signed),
        (&clinic, &bearer),
        (&clinic, &medplum),
        (&clinic, &athena),
    ] {
        let heard = connector.hints(&WebhookRequest { method: "POST", uri: HOOK, headers, body, received_at });
        assert!(is_believed(&heard), "{}: {heard:?}", connector.system());
    }
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

/// Headers of an answer: waits, limits, dates, what was made and which version it is. The first byte chooses the status, then a
/// line each.
pub fn headers(data: &[u8]) {
    const NAMES: [&str; 12] = [
        "retry-after",
        "date",
        "x-hubspot-ratelimit-max",
        "x-hubspot-ratelimit-interval-milliseconds",
        "x-hubspot-ratelimit-remaining",
        "x-hubspot-ratelimit-daily",
        "x-hubspot-ratelimit-daily-remaining",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "etag",
        "location",
    ];
    const BODY: &[u8] = br#"{"results": [], "policyName": "TEN_SECONDLY_ROLLING", "success": true, "data": {"id": 1},
        "responses": {"1": {"customer": {"id": "1"}}}, "resourceType": "Bundle", "entry": []}"#;
    let Some((first, rest)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    for (name, line) in NAMES.into_iter().zip(rest.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let status = [200, 429, 477, 503, 201, 403, 409, 412][usize::from(*first) % 8];
    for connector in everybody(&answer(status, headers, BODY)) {
        run(async {
            // One call: what it learns of limits holds for all that follow, however long they are made to wait.
            let ([id, _], kind) = (ids(), connector.kinds()[0]);
            for _ in 0..2 {
                let _ = connector.fetch(CALL, kind, std::slice::from_ref(&id)).await;
            }
            // Of what a server made, headers alone may tell.
            let _ = connector.book(CALL, &appointment(NewVisitor { id: Some(id), ..NewVisitor::default() })).await;
        });
    }
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
