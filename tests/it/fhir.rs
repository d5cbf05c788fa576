//! The FHIR connector against its sandbox, in every dialect: the contract's suite, tokens, pages, versions, what servers do wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use tandem::{sync::mapping, vendors::CONNECTORS};
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Kind, Lane, NewVisit, NewVisitor, Pushed,
    RouterTransport, Secret, Seen, TokioClock, Value, Version, VisitChange, VisitClass, VisitRead, VisitStatus,
    WantedOpenings, WebhookError, WebhookRequest, Write, WriteOp, conformance,
    planted::{Bug, plant},
};
use tandem_fhir::{
    Dialect, Feed, Fhir, Login, Options, PrivateKey, VisitType,
    sandbox::{CANARY, Duplicates, Faults, Sandbox, Settings, Versioning},
};

pub const CALL: Call = Call::on(Lane::Interactive);
const DIALECTS: [Dialect; 6] =
    [Dialect::FullR4, Dialect::ModmedEma, Dialect::NextechStu3, Dialect::Canvas, Dialect::Athena, Dialect::UsCoreOnly];

pub fn id(text: &str) -> ExternalId {
    ExternalId::new(text).unwrap()
}

/// The clinic's table of visits.
pub fn visit_types() -> Vec<VisitType> {
    let row = |code: &str, class, kind: Option<&str>| VisitType {
        system: None,
        code: code.into(),
        class,
        service: Some("injectables".into()),
        kind: kind.map(str::to_owned),
    };
    vec![
        row("CONSULT", VisitClass::Consult, Some("meeting")),
        row("TREAT", VisitClass::Treatment, Some("service")),
        row("ROOM", VisitClass::Ignored, Some("rental")),
        row("CHECK", VisitClass::FollowUp, None),
        row("LUNCH", VisitClass::Ignored, None),
    ]
}

pub fn options(dialect: Dialect) -> Options {
    let mut options =
        Options::new("http://emr.example.com/fhir".parse().unwrap(), Login::Token(Secret::new("sim-fhir-token")));
    options.dialect = dialect;
    options.visit_types = visit_types();
    options.extra_headers.insert("x-api-key".into(), Secret::new("sim-api-key"));
    let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == "fhir").unwrap();
    options.select = mapping::selection(&mapping::parse(text).unwrap());
    options
}

/// The properties of patients that the connector is told to read.
pub fn selected() -> BTreeSet<String> {
    options(Dialect::FullR4).select.remove(&Kind::Contact).unwrap_or_default().into_keys().collect()
}

pub struct Clinic {
    pub connector: Fhir,
    pub sandbox: Sandbox,
    pub clock: Arc<dyn Clock>,
}

impl Clinic {
    fn new(settings: Settings, options: Options) -> Self {
        let start = DateTime::from_timestamp(1_795_000_000, 0).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(start));
        let sandbox = Sandbox::new(settings, 7, clock.clone());
        let transport = Arc::new(RouterTransport::new(sandbox.router()));
        Self { connector: Fhir::new(options, transport, clock.clone()), sandbox, clock }
    }

    /// Behind something that listens.
    pub fn watched(settings: Settings, options: Options, watch: impl FnOnce(Router) -> Router) -> Self {
        let clinic = Self::new(settings, options.clone());
        let transport = Arc::new(RouterTransport::new(watch(clinic.sandbox.router())));
        Self { connector: Fhir::new(options, transport, clinic.clock.clone()), ..clinic }
    }

    fn of(dialect: Dialect) -> Self {
        Self::new(Settings::of(dialect), options(dialect))
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn wait(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    /// Ids that a feed names, from a cursor to its end.
    async fn feed(&self, name: &str, cursor: &mut Cursor) -> Vec<String> {
        let streams = self.connector.streams();
        let stream = streams.iter().find(|stream| stream.name == name).unwrap();
        let mut seen = Vec::new();
        loop {
            let page = self.connector.changes(CALL, stream, cursor).await.unwrap();
            seen.extend(page.seen.into_iter().map(|seen| match seen {
                Seen::Record(record) => record.id.to_string(),
                Seen::Hint { id, .. } | Seen::Archived(id) => id.to_string(),
            }));
            *cursor = page.next;
            if !page.more {
                seen.sort();
                return seen;
            }
        }
    }

    async fn visit(&self, which: &str) -> VisitRead {
        self.connector.visits(CALL, &[id(which)]).await.unwrap().remove(0)
    }
}

#[async_trait]
impl conformance::Vendor for Clinic {
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
        id(&self.sandbox.with(|world| world.register("Ada", text, "", "")))
    }

    async fn edit(&self, id: &ExternalId, text: &str) {
        self.wait(1).await;
        let name = json!([{ "use": "official", "family": text, "given": ["Ada"] }]);
        self.sandbox.with(|world| world.edit("Patient", id.as_str(), &json!({ "name": name })));
        // Windows end five seconds behind; where nothing tells who changed, everybody is listed once a day.
        let is_told = matches!(self.connector.profile().patients, Feed::Instant | Feed::Day);
        self.wait(if is_told { 10 } else { 86_400 }).await;
    }

    async fn delete(&self, id: &ExternalId) {
        self.sandbox.with(|world| world.delete("Patient", id.as_str()));
    }

    fn remembers_deleted(&self) -> bool {
        self.sandbox.with(|world| world.settings.remembers_deleted)
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn count(&self) -> usize {
        self.sandbox.with(|world| world.ids("Patient").len())
    }
}

#[tokio::test(start_paused = true)]
async fn fhir_conforms_where_the_standard_is_followed_and_where_it_is_not() {
    let full = |settings: Settings| (Dialect::FullR4, settings);
    let without_versions =
        Settings { versioning: Versioning::NoVersion, conditional_create: false, ..Settings::default() };
    let servers = [
        full(Settings::default()),
        full(Settings {
            conflict_status: 409,
            lenient: false,
            remembers_deleted: false,
            answers_representation: false,
            page_rows: 2,
            versioning: Versioning::Versioned,
            ..Settings::default()
        }),
        full(without_versions),
        // Ten minutes behind ours, and ten before.
        full(Settings { clock_ahead_ms: -600_000, ..Settings::default() }),
        full(Settings { clock_ahead_ms: 600_000, ..Settings::default() }),
        (Dialect::ModmedEma, Settings::of(Dialect::ModmedEma)),
        (Dialect::NextechStu3, Settings::of(Dialect::NextechStu3)),
        (Dialect::Canvas, Settings::of(Dialect::Canvas)),
    ];
    for (dialect, settings) in servers {
        let mut options = options(dialect);
        options.patients = true;
        let clinic = Clinic::new(settings.clone(), options);
        clinic.connector.identify().await.unwrap();
        let broken = conformance::run(&clinic).await;
        assert!(broken.is_empty(), "{dialect:?}, {settings:?}:\n{}", broken.join("\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn in_every_dialect_a_changed_visit_is_found_or_the_test_of_the_connection_says_that_it_is_not() {
    for dialect in DIALECTS {
        let clinic = Clinic::of(dialect);
        let identity = clinic.connector.check().await.unwrap();
        let is_told = |of: &str| identity.items.iter().find(|item| item.name == of).unwrap().ok;
        let start = clinic.now() + TimeDelta::days(1);
        let (visit, met) = clinic.sandbox.with(|world| {
            let ana = world.register("Ana", "Rivera", "ana@example.com", "");
            (world.appoint(&ana, "CONSULT", "booked", start), world.encounter(&ana, "TREAT", "in-progress", None))
        });
        let wanted = [("appointments", format!("Appointment/{visit}")), ("encounters", format!("Encounter/{met}"))];
        let streams = clinic.connector.streams();
        let feeds: Vec<_> = streams.iter().filter(|one| one.kind == Kind::Appointment).collect();
        let mut cursors = vec![Cursor::start(); feeds.len()];
        clinic.wait(10).await;
        for round in ["made", "changed"] {
            let mut seen = Vec::new();
            for (stream, cursor) in feeds.iter().zip(&mut cursors) {
                seen.extend(clinic.feed(&stream.name, cursor).await);
            }
            for (of, wanted) in &wanted {
                assert_eq!(seen.contains(wanted), is_told(of), "{dialect:?}, {of}, when it was {round}: {seen:?}");
            }
            clinic.sandbox.with(|world| {
                world.set_status("Appointment", &visit, "arrived");
                world.set_status("Encounter", &met, "finished");
            });
            clinic.wait(300).await;
        }
        for (of, wanted) in &wanted {
            if !is_told(of) {
                continue;
            }
            let VisitRead::Found(read) = clinic.visit(wanted).await else { panic!("{dialect:?}") };
            let expected = match *of {
                "appointments" => (VisitStatus::Arrived, VisitClass::Consult, Some(start)),
                _ => (VisitStatus::Finished, VisitClass::Treatment, read.starts_at),
            };
            assert_eq!((read.status, read.class, read.starts_at), expected, "{dialect:?}, {of}");
            assert_eq!(read.visitors[0].email.as_deref(), Some("ana@example.com"), "{dialect:?}, {of}");
        }
    }
}

/// A plan is found as it changes where plans are asked for and the server tells of them; else the connection says so.
#[tokio::test(start_paused = true)]
async fn a_plan_of_treatment_is_found_where_it_is_asked_for_and_told_of() {
    let asked = Options { plans: true, ..options(Dialect::FullR4) };
    let mut without = Settings::default();
    without.types.retain(|kind| kind != "ServiceRequest");
    for (settings, options, is_read) in [
        (Settings::default(), asked.clone(), true),
        (Settings::default(), options(Dialect::FullR4), false),
        (without, asked, false),
    ] {
        let wants = options.plans;
        let clinic = Clinic::new(settings, options);
        let identity = clinic.connector.check().await.unwrap();
        let item = identity.items.iter().find(|item| item.name == "plans").map(|item| item.ok);
        assert_eq!(item, wants.then_some(is_read));
        let streams = clinic.connector.streams();
        assert_eq!(streams.iter().any(|stream| stream.name == "appointment.plans"), is_read, "asked for: {wants}");
        if !is_read {
            continue;
        }
        let plan = clinic.sandbox.with(|world| {
            let ana = world.register("Ana", "Rivera", "ana@example.com", "");
            world.plan(&ana, "TREAT", "active")
        });
        let wanted = format!("ServiceRequest/{plan}");
        clinic.wait(10).await;
        let mut cursor = Cursor::start();
        for status in [VisitStatus::Accepted, VisitStatus::Cancelled] {
            assert_eq!(
                clinic.feed("appointment.plans", &mut cursor).await,
                std::slice::from_ref(&wanted),
                "{status:?}"
            );
            let VisitRead::Found(read) = clinic.visit(&wanted).await else { panic!("{status:?}") };
            assert_eq!((read.status, read.class), (status, VisitClass::Treatment));
            assert_eq!(read.visitors[0].email.as_deref(), Some("ana@example.com"));
            assert!(read.created_at.is_some_and(|at| at <= clinic.now()) && read.starts_at.is_none(), "{read:?}");
            clinic.wait(300).await;
            clinic.sandbox.with(|world| world.set_status("ServiceRequest", &plan, "revoked"));
            clinic.wait(10).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_plan_only_what_the_table_names_is_known_and_of_anything_else_not_even_whose_it_is() {
    let clinic = Clinic::new(
        Settings { canary: true, ..Settings::default() },
        Options { plans: true, ..options(Dialect::FullR4) },
    );
    clinic.connector.identify().await.unwrap();
    let [plan, examination, forbidden] = clinic.sandbox.with(|world| {
        let ana = world.register("Ana", "Rivera", "ana@example.com", "");
        let all = ["TREAT", "LABORATORY", "TREAT"].map(|code| world.plan(&ana, code, "active"));
        world.edit("ServiceRequest", &all[2], &json!({ "doNotPerform": true }));
        all.map(|plan| id(&format!("ServiceRequest/{plan}")))
    });
    let read = clinic.connector.visits(CALL, &[plan, examination, forbidden]).await.unwrap();
    assert!(!format!("{read:?}").contains(CANARY), "{read:?}");
    let [VisitRead::Found(plan), VisitRead::Found(examination), VisitRead::Found(forbidden)] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!((plan.class, plan.service.as_deref()), (VisitClass::Treatment, Some("injectables")));
    assert_eq!(plan.visitors.len(), 1);
    for other in [examination, forbidden] {
        assert_eq!((other.class, other.service.as_deref(), other.visitors.len()), (VisitClass::Ignored, None, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_to_the_end_also_when_their_links_end_before() {
    let clinic =
        Clinic::new(Settings { page_rows: 3, page_seconds: 30, ..Settings::default() }, options(Dialect::FullR4));
    clinic.connector.identify().await.unwrap();
    let patient = clinic.sandbox.with(|world| world.register("Ana", "Rivera", "", ""));
    let start = clinic.now() + TimeDelta::days(1);
    let mut all: Vec<String> = (0..8)
        .map(|_| {
            format!("Appointment/{}", clinic.sandbox.with(|world| world.appoint(&patient, "CONSULT", "booked", start)))
        })
        .collect();
    all.sort();
    let streams = clinic.connector.streams();
    let stream = streams.iter().find(|stream| stream.name == "appointment.changes").unwrap();
    let first = clinic.connector.changes(CALL, stream, &Cursor::start()).await.unwrap();
    assert!(first.more);
    clinic.wait(60).await;
    // The link has ended: the listing begins anew, and nothing is skipped.
    let mut cursor = first.next;
    let seen = clinic.feed("appointment.changes", &mut cursor).await;
    assert!(all.iter().all(|one| seen.contains(one)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_always_ends_is_an_error_and_not_followed_for_ever() {
    let clinic =
        Clinic::new(Settings { page_rows: 3, page_seconds: 0, ..Settings::default() }, options(Dialect::FullR4));
    clinic.connector.identify().await.unwrap();
    let patient = clinic.sandbox.with(|world| world.register("Ana", "Rivera", "", ""));
    for _ in 0..8 {
        clinic.sandbox.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now));
    }
    let streams = clinic.connector.streams();
    let stream = streams.iter().find(|stream| stream.name == "appointment.changes").unwrap();
    let mut cursor = Cursor::start();
    let mut ended = None;
    for _ in 0..10 {
        match clinic.connector.changes(CALL, stream, &cursor).await {
            Ok(page) => cursor = page.next,
            Err(error) => ended = Some(error),
        }
    }
    assert!(ended.is_some());
}

/// ModMed's feed goes by day: days on which nobody read are read afterwards.
#[tokio::test(start_paused = true)]
async fn days_on_which_nobody_read_are_read_afterwards() {
    let clinic = Clinic::of(Dialect::ModmedEma);
    clinic.connector.identify().await.unwrap();
    let patient = clinic.sandbox.with(|world| world.register("Ana", "Rivera", "", ""));
    let mut cursor = Cursor::start();
    clinic.feed("appointment.today", &mut cursor).await;
    clinic.wait(86_400).await;
    let missed = clinic.sandbox.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now));
    clinic.wait(4 * 86_400).await;
    assert_eq!(clinic.feed("appointment.today", &mut cursor).await, [format!("Appointment/{missed}")]);
}

/// The same holds for encounters and patients; and what changes is told on the day itself, by requests that such a server takes.
#[tokio::test(start_paused = true)]
async fn where_changes_are_known_by_the_day_encounters_and_patients_are_found_on_that_day() {
    let options = Options { patients: true, ..options(Dialect::ModmedEma) };
    let clinic = Clinic::new(Settings::of(Dialect::ModmedEma), options);
    let identity = clinic.connector.check().await.unwrap();
    let probe = identity.items.iter().find(|item| item.name == "Appointment?_lastUpdated").unwrap();
    assert!(probe.ok, "{probe:?}");
    let feeds = ["appointment.today", "appointment.encounters", "contact.changes"];
    let mut cursors = vec![Cursor::start(); feeds.len()];
    for (feed, cursor) in feeds.iter().zip(&mut cursors) {
        assert_eq!(clinic.feed(feed, cursor).await, Vec::<String>::new(), "{feed}");
    }
    for days in [0, 4] {
        let day = clinic.now().date_naive();
        let made = clinic.sandbox.with(|world| {
            let ben = world.register("Ben", "Ito", "", "");
            let visit = world.appoint(&ben, "CONSULT", "booked", world.now);
            let met = world.encounter(&ben, "TREAT", "finished", None);
            [format!("Appointment/{visit}"), format!("Encounter/{met}"), ben]
        });
        clinic.wait(600 + days * 86_400).await;
        assert_eq!((clinic.now().date_naive() - day).num_days(), i64::try_from(days).unwrap());
        for ((feed, cursor), made) in feeds.iter().zip(&mut cursors).zip(&made) {
            let seen = clinic.feed(feed, cursor).await;
            assert!(seen.contains(made), "{feed}, {days} days later: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_server_that_keeps_no_identifiers_and_ignores_filters_a_booking_still_is_nobody_elses() {
    let settings = Settings { keeps_identifiers: false, ..Settings::of(Dialect::ModmedEma) };
    let clinic = Clinic::new(settings, options(Dialect::ModmedEma));
    clinic.connector.identify().await.unwrap();
    let start = clinic.now() + TimeDelta::days(2);
    let other = clinic.sandbox.with(|world| {
        let leo = world.register("Leo", "Stone", "leo@example.com", "");
        world.appoint(&leo, "CONSULT", "booked", start)
    });
    let (visit, patient) = clinic.connector.book(CALL, &booking("r1", start, None)).await.unwrap();
    assert_ne!(visit.as_str(), format!("Appointment/{other}"));
    // The server kept nothing of ours: patient and time tell that it was made.
    let known = NewVisit {
        visitor: NewVisitor { id: Some(patient.clone()), ..NewVisitor::default() },
        ..booking("r1", start, None)
    };
    assert_eq!(clinic.connector.book(CALL, &known).await.unwrap(), (visit, patient));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_a_filter_is_not_believed() {
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    // It promised `_lastUpdated`, and does not heed it.
    clinic.sandbox.with(|world| world.settings.last_updated = tandem_fhir::sandbox::LastUpdated::None);
    let streams = clinic.connector.streams();
    let stream = streams.iter().find(|stream| stream.name == "appointment.changes").unwrap();
    let listed = clinic.connector.changes(CALL, stream, &Cursor::start()).await.unwrap();
    let error = clinic.connector.changes(CALL, stream, &listed.next).await.unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Rejected { field: Some(field), .. } if field == "_lastUpdated"),
        "{error}"
    );
}

/// An RSA key and one on P-384, made for this run, and their public halves.
pub fn keys() -> (Vec<(&'static str, Secret)>, serde_json::Value) {
    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rsa::{KeyPair as Rsa, KeySize},
        signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    let pem = |der: &[u8]| {
        Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der)))
    };
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa = Rsa::generate(KeySize::Rsa2048).unwrap();
    let ec = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let point = ec.public_key().as_ref()[1..].to_vec();
    let jwks = json!({ "keys": [
        { "kty": "RSA", "kid": "rsa-1", "alg": "RS384", "use": "sig", "e": "AQAB",
          "n": number(rsa.public_key().modulus().big_endian_without_leading_zero()) },
        { "kty": "EC", "kid": "ec-1", "alg": "ES384", "use": "sig", "crv": "P-384", "x": number(&point[..48]), "y": number(&point[48..]) },
    ] });
    let rsa: Pkcs8V1Der<'_> = rsa.as_der().unwrap();
    let ec = ec.to_pkcs8v1().unwrap();
    (vec![("rsa-1", pem(rsa.as_ref())), ("ec-1", pem(ec.as_ref()))], jwks)
}

fn by_key(key_id: &str, pem: &Secret) -> Login {
    Login::Key { client_id: "tandem-sandbox".into(), key_id: key_id.into(), key: PrivateKey::from_pem(pem).unwrap() }
}

#[tokio::test(start_paused = true)]
async fn smart_backend_services_sign_with_either_key_and_a_token_that_ends_is_asked_for_again() {
    let (pems, jwks) = keys();
    for (key_id, pem) in &pems {
        let settings = Settings {
            jwks: jwks.clone(),
            access_tokens: Vec::new(),
            client_secret: String::new(),
            ..Settings::default()
        };
        let mut options = options(Dialect::FullR4);
        options.login = by_key(key_id, pem);
        let clinic = Clinic::new(settings, options);
        clinic.connector.check().await.unwrap();
        assert_eq!(clinic.sandbox.with(|world| world.stats.tokens), 1, "{key_id}: one token for many calls");
        clinic.wait(299).await;
        clinic.connector.identify().await.unwrap();
        clinic.connector.visits(CALL, &[id("Appointment/1")]).await.unwrap();
        assert_eq!(clinic.sandbox.with(|world| world.stats.tokens), 2, "{key_id}: before the first has ended");
        // Taken away early: one 401, one new token, and the call goes through.
        clinic.sandbox.with(|world| world.faults = Faults { unauthorized: 1.0, ..Faults::default() });
        let error = clinic.connector.visits(CALL, &[id("Appointment/1")]).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unauthorized(_)), "{error}");
        assert_eq!(clinic.sandbox.with(|world| world.stats.tokens), 3, "{key_id}: once, not again and again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clients_secret_is_as_good_and_what_is_wrong_is_said() {
    let settings = Settings { access_tokens: Vec::new(), ..Settings::default() };
    let client =
        |secret: &str| Login::Client { client_id: "tandem-sandbox".into(), client_secret: Secret::new(secret) };
    let mut options = options(Dialect::FullR4);
    options.login = client("sim-fhir-secret");
    let clinic = Clinic::new(settings.clone(), options.clone());
    clinic.connector.check().await.unwrap();
    clinic.connector.visits(CALL, &[id("Appointment/1")]).await.unwrap();
    options.login = client("wrong");
    let clinic = Clinic::new(settings.clone(), options.clone());
    let error = clinic.connector.visits(CALL, &[id("Appointment/1")]).await.unwrap_err().to_string();
    assert!(error.contains("client_id") && !error.contains("wrong"), "{error}");
    // A key that was not registered, and a clock that is a quarter of an hour off.
    let (pems, jwks) = keys();
    options.login = by_key("another", &pems[0].1);
    let clinic = Clinic::new(Settings { jwks: jwks.clone(), ..settings.clone() }, options.clone());
    assert!(matches!(
        clinic.connector.visits(CALL, &[id("Appointment/1")]).await,
        Err(ConnectorError::Unauthorized(_))
    ));
    options.login = by_key("rsa-1", &pems[0].1);
    let clinic = Clinic::new(Settings { jwks, clock_ahead_ms: 900_000, ..settings.clone() }, options.clone());
    let error = clinic.connector.visits(CALL, &[id("Appointment/1")]).await.unwrap_err().to_string();
    assert!(error.contains("clocks"), "{error}");
    // A scope that is missing is told by name.
    options.login = client("sim-fhir-secret");
    let scopes: Vec<String> = vec!["system/Patient.crus".into(), "system/Appointment.crus".into()];
    for (plans, missing) in [(false, "Encounter"), (true, "Encounter, ServiceRequest")] {
        let settings = Settings { scopes: scopes.clone(), ..settings.clone() };
        let clinic = Clinic::new(settings, Options { plans, ..options.clone() });
        let identity = clinic.connector.check().await.unwrap();
        let item = identity.items.iter().find(|item| item.name == "scopes").unwrap();
        assert_eq!((item.ok, item.detail.clone()), (false, format!("reading {missing} was not granted")));
    }
}

#[test]
fn the_published_assertions_are_believed_once_and_only_by_the_rules() {
    let Some(specs) = std::env::var_os("VENDOR_SPECS") else { return };
    let text =
        std::fs::read_to_string(std::path::Path::new(&specs).join("smart-backend-and-hook-vectors.json")).unwrap();
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    for hook in vectors["webhook_hmac_vectors"].as_array().unwrap() {
        let (secret, body) = (hook["secret"].as_str().unwrap(), hook["body"].as_str().unwrap());
        let value = hook["value"].as_str().unwrap().trim_start_matches("sha256=");
        assert_eq!(tandem_fhir::sign(&Secret::new(secret), body.as_bytes()), value, "{}", hook["scheme"]);
    }
    let asked = |jwt: &str, at: i64, issuer: &str| {
        let settings = Settings {
            jwks: vectors["jwks"].clone(),
            client_id: issuer.into(),
            client_secret: String::new(),
            ..Settings::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(DateTime::from_timestamp(at, 0).unwrap()));
            let sandbox = Sandbox::new(settings, 1, clock);
            let router = sandbox.router();
            let mut statuses = Vec::new();
            for _ in 0..2 {
                let form = format!(
                    "grant_type=client_credentials&scope=system/Patient.rs&client_assertion={jwt}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
                );
                let request = http::Request::post("https://ehr.example.test/auth/token").body(axum::body::Body::from(form)).unwrap();
                let answer = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
                statuses.push(answer.status().as_u16());
            }
            statuses
        })
    };
    for vector in vectors["vectors"].as_array().unwrap() {
        let (jwt, exp) = (vector["jwt"].as_str().unwrap(), vector["claims"]["exp"].as_i64().unwrap());
        assert_eq!(asked(jwt, exp - 200, "crm-sync-sim"), [200, 401], "{}: once", vector["alg"]);
        assert_eq!(asked(jwt, exp - 400, "crm-sync-sim"), [401, 401], "{}: it ends too far ahead", vector["alg"]);
        assert_eq!(asked(jwt, exp + 60, "crm-sync-sim"), [401, 401], "{}: it has ended", vector["alg"]);
        assert_eq!(asked(jwt, exp - 200, "somebody-else"), [401, 401], "{}: of another client", vector["alg"]);
    }
}

pub fn update(of: &ExternalId, name: &str, value: &str, expected: Version) -> Write {
    let properties = BTreeMap::from([(name.to_owned(), Value::text(value))]);
    let op = WriteOp::Update { id: of.clone(), properties, planned_on: BTreeMap::new(), expected };
    Write { trace: "t".into(), kind: Kind::Contact, op }
}

/// What is typed at the clinic between our read and our write stays, also where it is none of ours; a write that named no version
/// would take it away.
#[tokio::test(start_paused = true)]
async fn what_the_desk_writes_right_before_a_write_of_ours_stays() {
    for (bug, stays) in [(None, true), (Some(Bug::NoCompareAndSwap), false)] {
        let settings = Settings { versioning: Versioning::Versioned, ..Settings::default() };
        let clinic = Clinic::new(settings, options(Dialect::FullR4));
        clinic.connector.identify().await.unwrap();
        let (ana, visit) = clinic.sandbox.with(|world| {
            let ana = world.register("Ana", "Rivera", "ana@example.com", "");
            let visit = world.appoint(&ana, "CONSULT", "booked", world.now + TimeDelta::days(1));
            world.faults.edited_in_between = 1.0;
            (id(&ana), id(&format!("Appointment/{visit}")))
        });
        plant(bug);
        let write = update(&ana, "family", "Stone", Version::default());
        let renamed = clinic.connector.push(CALL, &[write]).await.remove(0);
        let called_off = clinic.connector.change_visit(CALL, &visit, &VisitChange::Cancel).await;
        plant(None);
        assert_eq!(matches!(renamed, Pushed::Failed(ConnectorError::Stale)), stays, "{bug:?}: {renamed:?}");
        assert_eq!(matches!(called_off, Err(ConnectorError::Stale)), stays, "{bug:?}: {called_off:?}");
        let last: BTreeMap<String, String> =
            clinic.sandbox.with(|world| world.stats.in_between.iter().cloned().collect());
        assert_eq!(last.len(), 2, "{last:?}");
        for (record, text) in last {
            let (kind, number) = record.split_once('/').unwrap();
            let body = clinic.sandbox.with(|world| world.resource(kind, number).cloned()).unwrap();
            assert_eq!(body.to_string().contains(&format!("{text:?}")), stays, "{bug:?}: {body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_patient_is_written_over_the_version_that_was_planned_on_and_keeps_everything_else() {
    let clinic = Clinic::new(Settings { canary: true, ..Settings::default() }, options(Dialect::FullR4));
    clinic.connector.identify().await.unwrap();
    let ana = id(&clinic.sandbox.with(|world| world.register("Ana", "Rivera", "ana@example.com", "(310) 555-0142")));
    let read = |fetched: Vec<Fetched>| match fetched.into_iter().next() {
        Some(Fetched::Found(record)) => record,
        other => panic!("{other:?}"),
    };
    let record = read(clinic.connector.fetch(CALL, Kind::Contact, std::slice::from_ref(&ana)).await.unwrap());
    let before = clinic.sandbox.with(|world| world.resource("Patient", ana.as_str()).cloned()).unwrap();
    let planned = record.version.clone();
    clinic.sandbox.with(|world| world.edit("Patient", ana.as_str(), &json!({ "gender": "female" })));
    let outcome = clinic.connector.push(CALL, &[update(&ana, "phone", "+13105550199", planned)]).await;
    assert!(matches!(outcome.as_slice(), [Pushed::Failed(ConnectorError::Stale)]), "{outcome:?}");
    let record = read(clinic.connector.fetch(CALL, Kind::Contact, std::slice::from_ref(&ana)).await.unwrap());
    let outcome = clinic.connector.push(CALL, &[update(&ana, "phone", "+13105550199", record.version)]).await;
    assert!(matches!(outcome.as_slice(), [Pushed::Written { .. }]), "{outcome:?}");
    let after = clinic.sandbox.with(|world| world.resource("Patient", ana.as_str()).cloned()).unwrap();
    for (name, value) in before.as_object().unwrap() {
        match name.as_str() {
            "meta" | "gender" => {}
            "telecom" => {
                assert_eq!(after["telecom"][0], json!({ "system": "phone", "value": "+13105550199", "use": "mobile" }))
            }
            _ => assert_eq!(&after[name], value, "{name}"),
        }
    }
    assert_eq!(after["telecom"][1], before["telecom"][1]);
    assert_eq!(after["gender"], "female");
}

#[tokio::test(start_paused = true)]
async fn a_merged_patient_is_the_survivor_and_a_deleted_one_is_told_from_one_that_never_was() {
    let clinic = Clinic::of(Dialect::FullR4);
    let (old, new) = clinic.sandbox.with(|world| {
        let (old, new) =
            (world.register("Ana", "Rivera", "", ""), world.register("Ana", "Rivera", "ana@example.com", ""));
        world.merge(&old, &new);
        (old, new)
    });
    let gone = clinic.sandbox.with(|world| {
        let id = world.register("Ben", "Ito", "", "");
        world.delete("Patient", &id);
        id
    });
    let fetched = clinic.connector.fetch(CALL, Kind::Contact, &[id(&old), id(&gone), id("never")]).await.unwrap();
    assert!(matches!(&fetched[0], Fetched::MergedInto(record) if record.id.as_str() == new), "{fetched:?}");
    assert_eq!(&fetched[1..], [Fetched::Archived, Fetched::Gone]);
}

pub fn booking(reference: &str, start: DateTime<Utc>, slot: Option<String>) -> NewVisit {
    let visitor = NewVisitor {
        id: None,
        marker: "inst:1".into(),
        first_name: Some("Ana".into()),
        last_name: Some("Rivera".into()),
        email: Some("ana@example.com".into()),
        phone: Some("+13105550142".into()),
    };
    let (site, practitioner) = (Some("simloc01".into()), Some("simprac01".into()));
    NewVisit {
        reference: reference.into(),
        visitor,
        kind: "meeting".into(),
        starts_at: start,
        ends_at: start + TimeDelta::minutes(30),
        slot,
        site,
        practitioner,
    }
}

#[tokio::test(start_paused = true)]
async fn a_booking_is_made_once_with_its_patient_moved_and_called_off() {
    for dialect in [Dialect::FullR4, Dialect::ModmedEma] {
        let clinic = Clinic::of(dialect);
        clinic.connector.identify().await.unwrap();
        let start = clinic.now() + TimeDelta::days(2);
        let slot = clinic.sandbox.with(|world| world.open_slot(start));
        let openings = clinic.connector.openings(CALL, &around(start, None, None)).await.unwrap();
        assert_eq!(openings[0].slot, slot, "{dialect:?}");
        let new = booking("0199d2c4-0000-7000-8000-00000000002a", start, Some(slot.clone()));
        let (visit, patient) = clinic.connector.book(CALL, &new).await.unwrap();
        let again = clinic.connector.book(CALL, &new).await.unwrap();
        assert_eq!(
            (again.0, again.1),
            (visit.clone(), patient.clone()),
            "{dialect:?}: the same wish is the same appointment"
        );
        assert_eq!(clinic.sandbox.with(|world| (world.ids("Appointment").len(), world.ids("Patient").len())), (1, 1));
        let other = booking("0199d2c4-0000-7000-8000-00000000002b", start, Some(slot));
        let error = clinic.connector.book(CALL, &other).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Conflict(_)), "{dialect:?}: the slot is taken: {error}");
        let later = start + TimeDelta::days(1);
        let to = VisitChange::Move { starts_at: later, ends_at: later + TimeDelta::minutes(30) };
        clinic.connector.change_visit(CALL, &visit, &to).await.unwrap();
        clinic.connector.change_visit(CALL, &visit, &to).await.unwrap();
        let VisitRead::Found(read) = clinic.visit(visit.as_str()).await else { panic!() };
        assert_eq!(
            (read.starts_at, read.mention.as_deref()),
            (Some(later), Some(new.reference.as_str())),
            "{dialect:?}"
        );
        clinic.connector.change_visit(CALL, &visit, &VisitChange::Cancel).await.unwrap();
        let VisitRead::Found(read) = clinic.visit(visit.as_str()).await else { panic!() };
        assert_eq!(read.status, VisitStatus::Cancelled, "{dialect:?}");
    }
}

/// Openings within an hour of a moment.
fn around(start: DateTime<Utc>, practitioner: Option<&str>, site: Option<&str>) -> WantedOpenings {
    let (from, until) = (start - TimeDelta::hours(1), start + TimeDelta::hours(1));
    WantedOpenings { from, until, practitioner: practitioner.map(str::to_owned), site: site.map(str::to_owned) }
}

/// AX-31: what is free says whose time it is, and can be looked for by it. Nobody is offered what a schedule that is
/// not in use, or is over, still holds.
#[tokio::test(start_paused = true)]
async fn openings_say_whose_time_they_are_and_are_looked_for_by_it() {
    for dialect in [Dialect::FullR4, Dialect::ModmedEma] {
        let clinic = Clinic::of(dialect);
        clinic.connector.identify().await.unwrap();
        let start = clinic.now() + TimeDelta::days(2);
        let slots = clinic.sandbox.with(|world| {
            let kim = world.open_schedule("prac-kim", "loc-north");
            let lee = world.open_schedule("prac-lee", "loc-south");
            let closed = world.open_schedule("prac-kim", "loc-north");
            world.edit("Schedule", &closed, &json!({ "active": false }));
            let over = world.open_schedule("prac-lee", "loc-south");
            world.edit("Schedule", &over, &json!({ "planningHorizon": { "end": "2026-01-01T00:00:00Z" } }));
            [kim, lee, closed, over].map(|schedule| world.open_slot_in(&schedule, start))
        });
        let taken = clinic.sandbox.with(|world| {
            let schedule = world.open_schedule("prac-kim", "loc-north");
            let slot = world.open_slot_in(&schedule, start);
            world.set_status("Slot", &slot, "busy-tentative");
            slot
        });
        let kim = (slots[0].as_str(), Some("prac-kim"), Some("loc-north"));
        let lee = (slots[1].as_str(), Some("prac-lee"), Some("loc-south"));
        for (practitioner, site, expected) in [
            (None, None, vec![kim, lee]),
            (Some("prac-kim"), None, vec![kim]),
            (None, Some("loc-south"), vec![lee]),
            (Some("prac-kim"), Some("loc-south"), Vec::new()),
        ] {
            let found = clinic.connector.openings(CALL, &around(start, practitioner, site)).await.unwrap();
            let found: Vec<(&str, Option<&str>, Option<&str>)> =
                found.iter().map(|one| (one.slot.as_str(), one.practitioner.as_deref(), one.site.as_deref())).collect();
            assert_eq!(found, expected, "{dialect:?}: {practitioner:?} at {site:?}; {taken} is taken");
        }
        let elsewhen = around(start + TimeDelta::days(1), None, None);
        assert_eq!(clinic.connector.openings(CALL, &elsewhen).await.unwrap(), Vec::new(), "{dialect:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_odd_slot_or_schedule_hides_no_other() {
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    let start = clinic.now() + TimeDelta::days(2);
    let [good, odd] = clinic.sandbox.with(|world| {
        let schedule = world.open_schedule("prac-kim", "loc-north");
        let strange = world.open_schedule("prac-lee", "loc-south");
        world.edit("Schedule", &strange, &json!({ "actor": "Jane Roe" }));
        [(); 2].map(|()| world.open_slot_in(&schedule, start))
    });
    clinic.sandbox.with(|world| world.edit("Slot", &odd, &json!({ "end": "Jane Roe" })));
    let found = clinic.connector.openings(CALL, &around(start, None, None)).await.unwrap();
    let found: Vec<&str> = found.iter().map(|one| one.slot.as_str()).collect();
    assert_eq!(found, [good.as_str()]);
    // Where nothing can be read, nothing is known to be free, or not to be.
    clinic.sandbox.with(|world| world.edit("Slot", &good, &json!({ "end": "Jane Roe" })));
    let error = clinic.connector.openings(CALL, &around(start, None, None)).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Malformed { .. }), "{error}");
    assert!(!error.to_string().contains("Jane"));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_schedules_tells_what_is_free_and_refuses_to_say_with_whom() {
    let mut settings = Settings::default();
    settings.types.retain(|kind| kind != "Schedule");
    let clinic = Clinic::new(settings, options(Dialect::FullR4));
    let identity = clinic.connector.check().await.unwrap();
    let item = identity.items.iter().find(|item| item.name == "openings").unwrap();
    assert!(item.ok && item.detail.contains("not whose"), "{item:?}");
    let start = clinic.now() + TimeDelta::days(2);
    let slot = clinic.sandbox.with(|world| world.open_slot(start));
    let found = clinic.connector.openings(CALL, &around(start, None, None)).await.unwrap();
    let [opening] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((opening.slot.as_str(), &opening.practitioner, &opening.site), (slot.as_str(), &None, &None));
    for (practitioner, site, named) in [(Some("simprac01"), None, "practitioner"), (None, Some("simloc01"), "site")] {
        let error = clinic.connector.openings(CALL, &around(start, practitioner, site)).await.unwrap_err();
        assert!(matches!(&error, ConnectorError::Rejected { field: Some(field), .. } if field == named), "{error}");
    }
}

/// Where no server's word tells who changed, everybody is listed again once a day, however often it is asked whether that is due, and
/// after all visits; also after windows that were asked for before, or where the clock is set back.
#[tokio::test(start_paused = true)]
async fn where_nothing_tells_who_changed_all_patients_are_listed_once_a_day() {
    for dialect in [Dialect::NextechStu3, Dialect::Canvas] {
        let options = Options { patients: true, ..options(dialect) };
        let clinic = Clinic::new(Settings { page_rows: 2, ..Settings::of(dialect) }, options);
        let identity = clinic.connector.check().await.unwrap();
        let item = identity.items.iter().find(|item| item.name == "patients").unwrap();
        assert!(item.ok && item.detail.contains("once a day"), "{dialect:?}: {item:?}");
        let streams = clinic.connector.streams();
        let feeds: Vec<_> = streams.iter().filter(|stream| stream.kind == Kind::Contact).collect();
        let [feed] = feeds.as_slice() else { panic!("{dialect:?}: {feeds:?}") };
        assert_eq!((feed.period, feed.backfills), (Duration::from_secs(3_600), true), "{dialect:?}");
        assert_eq!(streams.last(), Some(*feed), "{dialect:?}: what takes long keeps no visit waiting");
        let mut cursor = Cursor::start();
        let mut everybody = Vec::new();
        for first in ["Ana", "Ben", "Gia"] {
            everybody.push(clinic.sandbox.with(|world| world.register(first, "Ito", "", "")));
            everybody.sort();
            assert_eq!(clinic.feed(&feed.name, &mut cursor).await, everybody, "{dialect:?}");
            assert!(!clinic.connector.is_backfill(feed, &cursor), "{dialect:?}: only the first listing is the import");
            let calls = clinic.connector.calls();
            for seconds in [0, 3_600, 79_200] {
                clinic.wait(seconds).await;
                assert_eq!(clinic.feed(&feed.name, &mut cursor).await, Vec::<String>::new(), "{dialect:?}: {seconds}");
            }
            assert_eq!(clinic.connector.calls(), calls, "{dialect:?}: nothing is asked before it is due");
            clinic.wait(3_600).await;
        }
        let ahead = r#"{"at":"waiting","since":"2100-01-01T00:00:00Z"}"#;
        assert_eq!(clinic.feed(&feed.name, &mut Cursor(ahead.into())).await, everybody, "{dialect:?}");
        let window = r#"{"at":"window","since":"2026-11-18T00:00:00Z","until":"2026-11-18T01:00:00Z","next":null}"#;
        assert_eq!(clinic.feed(&feed.name, &mut Cursor(window.into())).await, everybody, "{dialect:?}");
    }
}

/// A patient in a shape that the standard does not know is named by the listing and by windows, and read by itself: then it is told
/// where it does not parse, and nothing of what it says.
#[tokio::test(start_paused = true)]
async fn a_patient_who_cannot_be_read_is_named_and_keeps_no_other_from_being_read() {
    let options = Options { patients: true, ..options(Dialect::FullR4) };
    let clinic = Clinic::new(Settings::default(), options);
    clinic.connector.identify().await.unwrap();
    let [ana, odd, ben] =
        ["Ana", "Odd", "Ben"].map(|first| clinic.sandbox.with(|world| world.register(first, "Ito", "", "")));
    let spoil = || clinic.sandbox.with(|world| world.edit("Patient", &odd, &json!({ "name": "Jane Roe" })));
    spoil();
    let stream = clinic.connector.streams().into_iter().find(|stream| stream.name == "contact.changes").unwrap();
    let mut cursor = Cursor::start();
    let (mut read, mut named) = (Vec::new(), Vec::new());
    loop {
        let page = clinic.connector.changes(CALL, &stream, &cursor).await.unwrap();
        for seen in page.seen {
            match seen {
                Seen::Record(record) => read.push(record.id.to_string()),
                Seen::Hint { id, .. } => named.push(id.to_string()),
                Seen::Archived(id) => panic!("{id} is there"),
            }
        }
        cursor = page.next;
        if !page.more {
            break;
        }
    }
    read.sort();
    let mut others = vec![ana, ben];
    others.sort();
    assert_eq!((read, named), (others, vec![odd.clone()]));
    let error = clinic.connector.fetch(CALL, Kind::Contact, &[id(&odd)]).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Malformed { path } if path.contains("name")), "{error}");
    assert!(!format!("{error:?}").contains("Jane"));
    clinic.wait(600).await;
    clinic.feed("contact.changes", &mut cursor).await;
    clinic.wait(600).await;
    spoil();
    clinic.wait(60).await;
    assert_eq!(clinic.feed("contact.changes", &mut cursor).await, [odd], "a window names it too");
}

#[tokio::test(start_paused = true)]
async fn somebody_whom_the_clinic_knows_is_not_made_again_and_of_two_it_is_not_guessed() {
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    let start = clinic.now() + TimeDelta::days(2);
    let known = clinic.sandbox.with(|world| world.register("Ana", "Rivera", "Ana@Example.com", "(310) 555-0142"));
    let (_, patient) = clinic.connector.book(CALL, &booking("r1", start, None)).await.unwrap();
    assert_eq!(patient.as_str(), known);
    clinic.sandbox.with(|world| world.register("Ana", "Rivera", "ana@example.com", "310-555-0142"));
    let error = clinic.connector.book(CALL, &booking("r2", start, None)).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Conflict(_)), "{error}");
    // A family's address is no proof of who comes.
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    clinic.sandbox.with(|world| world.register("Leo", "Stone", "ana@example.com", ""));
    clinic.connector.book(CALL, &booking("r3", start, None)).await.unwrap();
    assert_eq!(clinic.sandbox.with(|world| world.ids("Patient").len()), 2);
    // Nor is the number of another area, of somebody of the same name.
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    let other = clinic.sandbox.with(|world| world.register("Lea", "Rivera", "lea@example.com", "(602) 555-0142"));
    let (_, patient) = clinic.connector.book(CALL, &booking("r5", start, None)).await.unwrap();
    assert_ne!(patient.as_str(), other);
    // A clinic may want more of a patient than a lead has: that is told, and nothing is invented.
    let settings = Settings {
        required_of_patients: vec!["birthDate".into()],
        duplicates: Duplicates::Refused,
        ..Settings::default()
    };
    let clinic = Clinic::new(settings, options(Dialect::FullR4));
    clinic.connector.identify().await.unwrap();
    let error = clinic.connector.book(CALL, &booking("r4", start, None)).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Rejected { field: Some(field), .. } if field == "birthDate"), "{error}");
}

/// Who was made stays at the clinic, so nobody is before it is known whether the opening that is wanted may be had.
#[tokio::test(start_paused = true)]
async fn nobody_is_made_for_an_opening_that_cannot_be_had() {
    for dialect in [Dialect::FullR4, Dialect::ModmedEma] {
        let clinic = Clinic::of(dialect);
        clinic.connector.identify().await.unwrap();
        let start = clinic.now() + TimeDelta::days(2);
        let slot = clinic.sandbox.with(|world| world.open_slot(start));
        let set = |status: &str| clinic.sandbox.with(|world| world.set_status("Slot", &slot, status));
        let there = || clinic.sandbox.with(|world| (world.ids("Patient").len(), world.ids("Appointment").len()));
        let book = async |slot: &str| clinic.connector.book(CALL, &booking("r1", start, Some(slot.to_owned()))).await;
        for status in ["busy", "busy-tentative", "entered-in-error"] {
            set(status);
            let refused = book(&slot).await.unwrap_err();
            assert!(matches!(refused, ConnectorError::Conflict(_)), "{dialect:?}, {status}: {refused}");
        }
        let refused = book("never").await.unwrap_err();
        assert!(matches!(refused, ConnectorError::Conflict(_)), "{dialect:?}: {refused}");
        assert_eq!(there(), (0, 0), "{dialect:?}");
        set("free");
        let booked = book(&slot).await.unwrap();
        // What takes the opening now is their own appointment.
        assert_eq!((book(&slot).await.unwrap(), there()), (booked, (1, 1)), "{dialect:?}");
    }
}

/// A server may take no searches by POST: it says so once, and who is booked is found, or made, all the same, until it is asked anew
/// what it can do. Any other failure brings nothing personal into an address.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_searches_by_form_is_asked_by_address_from_then_on() {
    let searches = |clinic: &Clinic, of: &str| -> u64 {
        let by_route = clinic.sandbox.with(|world| world.stats.by_route.clone());
        by_route.iter().filter(|(route, _)| route.ends_with(of)).map(|(_, count)| count).sum()
    };
    for post_search in [404, 405, 415, 501] {
        let clinic = Clinic::new(Settings { post_search, ..Settings::default() }, options(Dialect::FullR4));
        clinic.connector.identify().await.unwrap();
        let start = clinic.now() + TimeDelta::days(2);
        let known = clinic.sandbox.with(|world| world.register("Ana", "Rivera", "Ana@Example.com", "(310) 555-0142"));
        let (_, patient) = clinic.connector.book(CALL, &booking("r1", start, None)).await.unwrap();
        assert_eq!(patient.as_str(), known, "{post_search}: found by address and telephone number");
        let mut other = booking("r2", start + TimeDelta::hours(1), None);
        other.visitor.marker = "inst:2".into();
        other.visitor.email = Some("leo@example.com".into());
        other.visitor.phone = Some("+13105550143".into());
        let (_, patient) = clinic.connector.book(CALL, &other).await.unwrap();
        assert_ne!(patient.as_str(), known, "{post_search}: somebody new");
        assert_eq!(searches(&clinic, "/_search"), 1, "{post_search}: what it said is remembered");
        assert_eq!(searches(&clinic, "GET Patient"), 4, "{post_search}: of both by address and by telephone number");
        clinic.sandbox.with(|world| world.settings.post_search = 200);
        clinic.connector.identify().await.unwrap();
        other.reference = "r3".into();
        clinic.connector.book(CALL, &other).await.unwrap();
        assert_eq!(searches(&clinic, "/_search"), 3, "{post_search}: it takes them by now");
        assert_eq!(searches(&clinic, "GET Patient"), 4, "{post_search}");
    }
    for post_search in [400, 500] {
        let clinic = Clinic::new(Settings { post_search, ..Settings::default() }, options(Dialect::FullR4));
        clinic.connector.identify().await.unwrap();
        let start = clinic.now() + TimeDelta::days(2);
        let error = clinic.connector.book(CALL, &booking("r1", start, None)).await.unwrap_err();
        assert!(matches!(error, ConnectorError::NotSent(_)), "{post_search}: {error}");
        assert_eq!(searches(&clinic, "GET Patient"), 0, "{post_search}");
    }
}

/// What a visit was charged, as text.
fn charged(read: VisitRead) -> Option<(String, String)> {
    match read {
        VisitRead::Found(visit) => visit.charged.map(|(amount, currency)| (amount.normalize().to_string(), currency)),
        VisitRead::Gone | VisitRead::Missing => None,
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_treatment_came_to_is_the_invoices_total_else_the_charges() {
    let clinic = Clinic::of(Dialect::FullR4);
    clinic.connector.identify().await.unwrap();
    let (ana, treated) = clinic.sandbox.with(|world| {
        let ana = world.register("Ana", "Rivera", "", "");
        let treated = world.encounter(&ana, "TREAT", "finished", None);
        world.charge(&ana, &treated, 650.5);
        (ana, format!("Encounter/{treated}"))
    });
    assert_eq!(charged(clinic.visit(&treated).await), Some(("650.5".into(), "USD".into())));
    clinic.sandbox.with(|world| {
        world.invoice(&ana, "cancelled", 999.0, "USD");
        world.invoice(&ana, "balanced", 600.0, "USD");
    });
    assert_eq!(charged(clinic.visit(&treated).await), Some(("600".into(), "USD".into())));
    clinic.sandbox.with(|world| world.invoice(&ana, "issued", 10.0, "EUR"));
    assert_eq!(charged(clinic.visit(&treated).await), None, "two currencies are no sum");
}

/// ModMed's charges have no price: an extension of its own says what they came to. A price that is set goes before it, where it can be
/// read; a charge of which neither says anything makes no sum.
#[tokio::test(start_paused = true)]
async fn where_a_charge_has_no_price_the_vendors_extension_says_what_it_came_to() {
    let clinic =
        Clinic::new(Settings { canary: true, ..Settings::of(Dialect::ModmedEma) }, options(Dialect::ModmedEma));
    clinic.connector.identify().await.unwrap();
    let (treated, injected) = clinic.sandbox.with(|world| {
        let ana = world.register("Ana", "Rivera", "", "");
        let treated = world.encounter(&ana, "TREAT", "finished", None);
        world.charge(&ana, &treated, 40.25);
        let injected = world.charge(&ana, &treated, 650.5);
        (format!("Encounter/{treated}"), injected)
    });
    assert_eq!(charged(clinic.visit(&treated).await), Some(("690.75".into(), "USD".into())));
    let price = json!({ "priceOverride": { "value": 600, "currency": "USD" } });
    clinic.sandbox.with(|world| world.edit("ChargeItem", &injected, &price));
    assert_eq!(charged(clinic.visit(&treated).await), Some(("640.25".into(), "USD".into())));
    let priceless = json!({ "currency": "USD" });
    clinic.sandbox.with(|world| world.edit("ChargeItem", &injected, &json!({ "priceOverride": priceless })));
    assert_eq!(charged(clinic.visit(&treated).await), Some(("690.75".into(), "USD".into())));
    let neither = json!({ "priceOverride": priceless, "extension": null });
    clinic.sandbox.with(|world| world.edit("ChargeItem", &injected, &neither));
    assert_eq!(charged(clinic.visit(&treated).await), None, "a sum without it is another one");
    // An extension of any other name is no price.
    let other = json!({ "priceOverride": null, "extension": [
        { "url": "https://ehr.example.test/ext/balance", "valueMoney": { "value": 9, "currency": "USD" } },
    ] });
    clinic.sandbox.with(|world| world.edit("ChargeItem", &injected, &other));
    assert_eq!(charged(clinic.visit(&treated).await), Some(("40.25".into(), "USD".into())));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_made_once_renewed_and_put_back_where_the_server_gave_up() {
    let clinic =
        Clinic::new(Settings::default(), Options { hook_token: Some(Secret::new("hook")), ..options(Dialect::FullR4) });
    clinic.connector.identify().await.unwrap();
    let address = "https://tandem.example.com/webhooks/emr".parse().unwrap();
    for _ in 0..2 {
        clinic.connector.subscribe(CALL, &address).await.unwrap();
    }
    let all = clinic.sandbox.with(|world| world.ids("Subscription"));
    assert_eq!(all.len(), 2, "one for appointments, one for encounters");
    clinic.sandbox.with(|world| world.set_status("Subscription", &all[0], "error"));
    clinic.connector.subscribe(CALL, &address).await.unwrap();
    let status = |id: &str| clinic.sandbox.with(|world| world.resource("Subscription", id).unwrap()["status"].clone());
    assert_eq!(status(&all[0]), "active");
    let ends = |id: &str| clinic.sandbox.with(|world| world.resource("Subscription", id).unwrap()["end"].clone());
    let before = ends(&all[1]);
    clinic.wait(25 * 86_400).await;
    clinic.connector.subscribe(CALL, &address).await.unwrap();
    assert_ne!(ends(&all[1]), before, "renewed a week before it ends");
}

#[tokio::test(start_paused = true)]
async fn plans_are_subscribed_to_and_believed_where_they_are_asked_for() {
    for (plans, number) in [(false, 2), (true, 3)] {
        let hook_token = Some(Secret::new("hook"));
        let clinic = Clinic::new(Settings::default(), Options { plans, hook_token, ..options(Dialect::FullR4) });
        clinic.connector.identify().await.unwrap();
        for _ in 0..2 {
            let address = "https://tandem.example.com/webhooks/emr".parse().unwrap();
            clinic.connector.subscribe(CALL, &address).await.unwrap();
        }
        let criteria: Vec<String> = clinic.sandbox.with(|world| {
            let of = |id: &String| world.resource("Subscription", id).unwrap()["criteria"].as_str().unwrap().to_owned();
            world.ids("Subscription").iter().map(of).collect()
        });
        assert_eq!((criteria.len(), criteria.contains(&"ServiceRequest?".to_owned())), (number, plans));
        let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, "Bearer hook".parse().unwrap())]);
        let uri = "https://tandem.example.com/webhooks/emr/ServiceRequest/7";
        let received_at = clinic.now();
        let put = WebhookRequest { method: "PUT", uri, headers: &headers, body: b"", received_at };
        let named: Vec<String> =
            clinic.connector.hints(&put).unwrap().iter().map(|hint| format!("{} {}", hint.kind, hint.id)).collect();
        assert_eq!(named.contains(&"appointment ServiceRequest/7".to_owned()), plans, "{named:?}");
    }
}

/// A clinic that follows the standard, with somebody listening.
pub fn watched(watch: impl FnOnce(Router) -> Router) -> Clinic {
    let hook_token = Some(Secret::new("hook"));
    let options = Options { patients: true, plans: true, hook_token, ..options(Dialect::FullR4) };
    Clinic::watched(Settings::default(), options, watch)
}

/// Everything that the engine asks besides what the contract's suite does.
pub async fn everything(clinic: &Clinic) {
    clinic.connector.check().await.unwrap();
    clinic.connector.subscribe(CALL, &"https://tandem.example.com/webhooks/emr".parse().unwrap()).await.unwrap();
    let start = clinic.now() + TimeDelta::days(2);
    let slot = clinic.sandbox.with(|world| world.open_slot(start));
    clinic.connector.openings(CALL, &around(start, Some("simprac01"), None)).await.unwrap();
    let (visit, patient) = clinic.connector.book(CALL, &booking("r1", start, Some(slot.clone()))).await.unwrap();
    clinic.connector.book(CALL, &booking("r2", start, Some(slot))).await.unwrap_err();
    clinic.connector.change_visit(CALL, &visit, &VisitChange::Cancel).await.unwrap();
    let (met, plan) = clinic.sandbox.with(|world| {
        let met = world.encounter(patient.as_str(), "TREAT", "finished", None);
        world.charge(patient.as_str(), &met, 10.0);
        world.invoice(patient.as_str(), "balanced", 12.5, "USD");
        (met, world.plan(patient.as_str(), "TREAT", "active"))
    });
    clinic.wait(60).await;
    for stream in clinic.connector.streams() {
        clinic.feed(&stream.name, &mut Cursor::start()).await;
    }
    let others = [format!("Encounter/{met}"), format!("ServiceRequest/{plan}"), "Appointment/never".into()];
    let all: Vec<ExternalId> = std::iter::once(visit).chain(others.map(|other| id(&other))).collect();
    clinic.connector.visits(CALL, &all).await.unwrap();
}

type Arrived = Arc<std::sync::Mutex<Vec<(http::HeaderMap, bytes::Bytes)>>>;

const HOOK: &str = "https://tandem.example.com/webhooks/emr";

/// A clinic whose server has a topic, and that was asked to tell of it.
async fn with_topic(topic: &str) -> Clinic {
    let options =
        Options { topic: Some(topic.into()), hook_token: Some(Secret::new("hook")), ..options(Dialect::FullR4) };
    let clinic = Clinic::new(Settings::default(), options);
    clinic.connector.identify().await.unwrap();
    for _ in 0..2 {
        clinic.connector.subscribe(CALL, &HOOK.parse().unwrap()).await.unwrap();
    }
    clinic
}

impl Clinic {
    /// Somebody behind the address: keeps what arrives, and answers it with this.
    fn listen(&self, status: http::StatusCode) -> (Arrived, tokio::task::JoinHandle<()>) {
        let arrived = Arrived::default();
        let door = arrived.clone();
        let listener = Router::new().fallback(move |headers: http::HeaderMap, body: bytes::Bytes| {
            let door = door.clone();
            async move {
                door.lock().unwrap().push((headers, body));
                status
            }
        });
        let transport = Arc::new(RouterTransport::new(listener));
        (arrived, tokio::spawn(self.sandbox.clone().deliver_webhooks(transport)))
    }

    /// What the connector makes of something that arrived.
    fn named(&self, headers: &http::HeaderMap, body: &bytes::Bytes) -> Result<Vec<String>, WebhookError> {
        let asked = WebhookRequest { method: "POST", uri: HOOK, headers, body, received_at: self.now() };
        let hints = self.connector.hints(&asked)?;
        Ok(hints.iter().map(|hint| format!("{} {}", hint.kind, hint.id)).collect())
    }

    fn subscription(&self) -> serde_json::Value {
        self.sandbox.with(|world| {
            let all = world.ids("Subscription");
            assert_eq!(all.len(), 1, "one subscription");
            world.resource("Subscription", &all[0]).unwrap().clone()
        })
    }
}

/// What a server sends of a visit, and when nothing happens for a while: of a topic, and without one.
pub async fn notifications() -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    for clinic in [with_topic("https://emr.example.com/fhir/SubscriptionTopic/visits").await, watched(|router| router)]
    {
        clinic.connector.identify().await.unwrap();
        clinic.connector.subscribe(CALL, &HOOK.parse().unwrap()).await.unwrap();
        let (arrived, delivery) = clinic.listen(http::StatusCode::OK);
        clinic.wait(1).await;
        clinic.sandbox.with(|world| {
            let ana = world.register("Ana", "Ito", "ana@example.com", "+13105550142");
            world.appoint(&ana, "CONSULT", "booked", world.now + TimeDelta::days(2))
        });
        clinic.wait(900).await;
        delivery.abort();
        let bodies = arrived.lock().unwrap().clone().into_iter().map(|(_, body)| body);
        all.extend(bodies.filter(|body| !body.is_empty()).map(|body| serde_json::from_slice(&body).unwrap()));
    }
    all
}

/// A server with topics is asked for one subscription, and what it sends names what to read.
#[tokio::test(start_paused = true)]
async fn a_topic_is_subscribed_to_once_and_its_news_are_believed_with_the_token_alone() {
    let topic = "https://emr.example.com/fhir/SubscriptionTopic/visits";
    let clinic = with_topic(topic).await;
    assert_eq!(clinic.subscription()["criteria"], topic);
    let (arrived, delivery) = clinic.listen(http::StatusCode::OK);
    clinic.wait(1).await;
    let visit = clinic.sandbox.with(|world| {
        let ana = world.register("Ana", "Ito", "ana@example.com", "+13105550142");
        world.appoint(&ana, "CONSULT", "booked", world.now + TimeDelta::days(2))
    });
    clinic.wait(60).await;
    delivery.abort();
    let arrived = arrived.lock().unwrap().clone();
    assert_eq!(arrived.len(), 2, "the handshake, and the one event");
    let told: Vec<String> = arrived.iter().flat_map(|(headers, body)| clinic.named(headers, body).unwrap()).collect();
    assert_eq!(told, [format!("appointment Appointment/{visit}")]);
    for (_, body) in &arrived {
        assert!(clinic.named(&http::HeaderMap::new(), body).is_err(), "without the token nobody is believed");
    }
}

/// A handshake that was refused ends the subscription until it is asked for again. Handshakes and heartbeats name no
/// record; what an event that got lost was about is found by the next poll, before a heartbeat tells that it was.
#[tokio::test(start_paused = true)]
async fn a_topics_handshakes_and_heartbeats_are_taken_and_mark_nothing() {
    let clinic = with_topic("https://emr.example.com/fhir/SubscriptionTopic/visits").await;
    assert_eq!(clinic.subscription()["status"], "requested");
    let (_, delivery) = clinic.listen(http::StatusCode::SERVICE_UNAVAILABLE);
    clinic.wait(1).await;
    delivery.abort();
    assert_eq!(clinic.subscription()["status"], "error");
    clinic.connector.subscribe(CALL, &HOOK.parse().unwrap()).await.unwrap();
    let (arrived, delivery) = clinic.listen(http::StatusCode::OK);
    clinic.wait(1).await;
    assert_eq!(clinic.subscription()["status"], "active");
    let mut cursor = Cursor::start();
    clinic.feed("appointment.changes", &mut cursor).await;
    let visit = clinic.sandbox.with(|world| {
        world.faults.webhook_lost = 1.0;
        let ana = world.register("Ana", "Ito", "ana@example.com", "+13105550142");
        world.appoint(&ana, "CONSULT", "booked", world.now + TimeDelta::days(2))
    });
    clinic.wait(60).await;
    assert_eq!(clinic.feed("appointment.changes", &mut cursor).await, [format!("Appointment/{visit}")]);
    assert_eq!(arrived.lock().unwrap().len(), 1, "the handshake alone: the event got lost");
    clinic.wait(600).await;
    delivery.abort();
    let arrived = arrived.lock().unwrap().clone();
    let said = |body: &bytes::Bytes, name: &str| {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        let all = body["entry"][0]["resource"]["parameter"].as_array().unwrap().clone();
        let one = all.into_iter().find(|one| one["name"] == name).unwrap();
        one["valueCode"].as_str().or(one["valueString"].as_str()).unwrap().to_owned()
    };
    let kinds: Vec<String> = arrived.iter().map(|(_, body)| said(body, "type")).collect();
    assert_eq!(kinds, ["handshake", "heartbeat", "heartbeat"]);
    assert_eq!(said(&arrived[2].1, "events-since-subscription-start"), "1", "it tells of the one that got lost");
    for (headers, body) in &arrived {
        assert_eq!(clinic.named(headers, body), Ok(Vec::new()));
    }
}
