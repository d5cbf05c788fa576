//! A FHIR R4 server that nobody here wrote must work with the connector unchanged. Outside the default run: `make test-fhir-server`
//! builds and starts one, and says in `FHIR_SERVER` where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use http::Method;
use serde_json::{Value as Json, json};
use tandem_contract::{
    Clock, Connector, ConnectorError, Cursor, ExternalId, HttpRequest, Kind, Pushed, ReqwestTransport, Seen,
    SystemClock, Transport, Value, Version, VisitRead, VisitStatus, Write, WriteOp, conformance,
};
use tandem_fhir::{Dialect, Fhir, Options};

use crate::fhir::{CALL, id, options, selected};

struct Server {
    base: String,
    connector: Fhir,
    transport: Arc<ReqwestTransport>,
    clock: Arc<SystemClock>,
}

impl Server {
    fn new() -> Self {
        let base = std::env::var("FHIR_SERVER").unwrap();
        let (transport, clock) = (Arc::new(ReqwestTransport::new().unwrap()), Arc::new(SystemClock::new()));
        let options = Options { base_url: base.parse().unwrap(), patients: true, ..options(Dialect::FullR4) };
        let connector = Fhir::new(options, transport.clone(), clock.clone());
        Self { base, connector, transport, clock }
    }

    /// Somebody at the desk: a request of their own.
    async fn ask(&self, method: Method, path: &str, body: Option<Json>) -> (u16, Json) {
        let url = format!("{}/{path}", self.base).parse().unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "application/fhir+json".parse().unwrap());
        headers.insert("accept", "application/fhir+json".parse().unwrap());
        let body = body.map(|body| body.to_string()).unwrap_or_default().into();
        let request = HttpRequest { method, url, headers, body };
        let answer = self.transport.send(request, Duration::from_secs(20)).await.unwrap();
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    async fn make(&self, kind: &str, body: Json) -> String {
        let (status, made) = self.ask(Method::POST, kind, Some(body)).await;
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    }
}

#[async_trait]
impl conformance::Vendor for Server {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn kind(&self) -> Kind {
        Kind::Contact
    }

    fn text_property(&self) -> String {
        "family".into()
    }

    fn needed(&self) -> BTreeMap<String, Value> {
        BTreeMap::from([("given".into(), Value::text("Ada"))])
    }

    fn selected(&self) -> BTreeSet<String> {
        selected()
    }

    async fn make(&self, text: &str) -> ExternalId {
        let name = json!([{ "use": "official", "family": text, "given": ["Ada"] }]);
        id(&self.make("Patient", json!({ "resourceType": "Patient", "name": name })).await)
    }

    async fn edit(&self, id: &ExternalId, text: &str) {
        let (_, mut body) = self.ask(Method::GET, &format!("Patient/{id}"), None).await;
        body["name"][0]["family"] = text.into();
        let (status, answer) = self.ask(Method::PUT, &format!("Patient/{id}"), Some(body)).await;
        assert_eq!(status, 200, "{answer}");
        // Windows end five seconds behind the server's clock, whose headers have whole seconds.
        self.clock.sleep(Duration::from_secs(8)).await;
    }

    async fn delete(&self, id: &ExternalId) {
        self.ask(Method::DELETE, &format!("Patient/{id}"), None).await;
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn count(&self) -> usize {
        let (_, bundle) = self.ask(Method::GET, "Patient?_summary=count", None).await;
        usize::try_from(bundle["total"].as_u64().unwrap()).unwrap()
    }
}

#[tokio::test]
#[ignore = "wants a FHIR server: make test-fhir-server"]
async fn fhir_server_conforms() {
    let server = Server::new();
    let identity = server.connector.check().await.unwrap();
    for item in &identity.items {
        println!("{} {}: {}", if item.ok { "ok " } else { "NOT" }, item.name, item.detail);
    }
    println!("{:?}", server.connector.profile());
    let broken = conformance::run(&server).await;
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[tokio::test]
#[ignore = "wants a FHIR server: make test-fhir-server"]
async fn fhir_server_refuses_twins_and_old_versions() {
    let server = Server::new();
    server.connector.identify().await.unwrap();
    let properties = BTreeMap::from([("family".to_owned(), Value::text("Once"))]);
    let create = |marker: &str| Write {
        trace: "t".into(),
        kind: Kind::Contact,
        op: WriteOp::Create { marker: marker.into(), properties: properties.clone() },
    };
    let marker = format!("it:{}", server.clock.now().timestamp_micros());
    let first = server.connector.push(CALL, &[create(&marker)]).await;
    let [Pushed::Written { id: made, version, .. }] = first.as_slice() else { panic!("{first:?}") };
    let again = server.connector.push(CALL, &[create(&marker)]).await;
    assert!(matches!(again.as_slice(), [Pushed::Exists { id, ours: true }] if id == made), "{again:?}");
    let (_, mut body) = server.ask(Method::GET, &format!("Patient/{made}"), None).await;
    body["active"] = false.into();
    server.ask(Method::PUT, &format!("Patient/{made}"), Some(body)).await;
    let properties = BTreeMap::from([("family".to_owned(), Value::text("Late"))]);
    let op = WriteOp::Update { id: made.clone(), properties, planned_on: BTreeMap::new(), expected: version.clone() };
    let late = server.connector.push(CALL, &[Write { trace: "t".into(), kind: Kind::Contact, op }]).await;
    assert!(matches!(late.as_slice(), [Pushed::Failed(ConnectorError::Stale)]), "{late:?}");
    assert_ne!(version, &Version::default(), "the server tells versions");
    // The same past our own comparison: the server itself says 412.
    let url = format!("{}/Patient/{made}", server.base).parse().unwrap();
    let mut headers = http::HeaderMap::new();
    headers.insert("content-type", "application/fhir+json".parse().unwrap());
    headers.insert("if-match", "W/\"1\"".parse().unwrap());
    let body = json!({ "resourceType": "Patient", "id": made.as_str() }).to_string().into();
    let request = HttpRequest { method: Method::PUT, url, headers, body };
    let answer = server.transport.send(request, Duration::from_secs(20)).await.unwrap();
    assert_eq!(answer.status.as_u16(), 412);
}

#[tokio::test]
#[ignore = "wants a FHIR server: make test-fhir-server"]
async fn fhir_server_tells_of_visits_and_takes_bookings() {
    let server = Server::new();
    server.connector.identify().await.unwrap();
    let patient = server
        .make("Patient", json!({ "resourceType": "Patient", "name": [{ "family": "Rivera" }],
            "telecom": [{ "system": "email", "value": "ana@example.com" }, { "system": "phone", "value": "+13105550142" }] }))
        .await;
    let start = server.clock.now() + TimeDelta::days(1);
    let new = crate::fhir::booking(&format!("ref-{}", start.timestamp_micros()), start, None);
    let new = tandem_contract::NewVisit {
        visitor: tandem_contract::NewVisitor { id: Some(id(&patient)), ..new.visitor },
        site: None,
        practitioner: None,
        ..new
    };
    let (visit, _) = server.connector.book(CALL, &new).await.unwrap();
    assert_eq!(server.connector.book(CALL, &new).await.unwrap().0, visit, "the same wish is the same appointment");
    server.clock.sleep(Duration::from_secs(8)).await;
    let streams = server.connector.streams();
    let stream = streams.iter().find(|stream| stream.name == "appointment.changes").unwrap();
    let (mut cursor, mut seen) = (Cursor::start(), Vec::new());
    for _ in 0..20 {
        let page = server.connector.changes(CALL, stream, &cursor).await.unwrap();
        seen.extend(page.seen);
        cursor = page.next;
    }
    let named = |seen: &Seen| matches!(seen, Seen::Hint { id, .. } if *id == visit);
    assert!(seen.iter().any(named), "{seen:?}");
    let read = server.connector.visits(CALL, std::slice::from_ref(&visit)).await.unwrap().remove(0);
    let VisitRead::Found(read) = read else { panic!("{read:?}") };
    assert_eq!((read.status, read.mention.as_deref()), (VisitStatus::Booked, Some(new.reference.as_str())));
    assert_eq!(read.visitors[0].email.as_deref(), Some("ana@example.com"));
    server.connector.change_visit(CALL, &visit, &tandem_contract::VisitChange::Cancel).await.unwrap();
    let read = server.connector.visits(CALL, std::slice::from_ref(&visit)).await.unwrap().remove(0);
    assert!(matches!(read, VisitRead::Found(read) if read.status == VisitStatus::Cancelled));
    let number = visit.as_str().trim_start_matches("Appointment/");
    server.ask(Method::DELETE, &format!("Appointment/{number}"), None).await;
    assert_eq!(server.connector.visits(CALL, &[visit]).await.unwrap(), [VisitRead::Gone]);
}
