//! Every refusal of a clinic's server, and of the gateways before it: what it is taken for, and what becomes of visits.

use std::{collections::BTreeMap, time::Duration};

use axum::http::Method;
use chrono::TimeDelta;
use serde_json::json;
use tandem::{
    booking::{self, BookingError},
    model::ConnectionState,
    store::SyncStore,
    sync::{engine::Engine, guard::Limits},
};
use tandem_contract::{
    Connector, ConnectorError, Cursor, Fetched, Kind, NewVisit, NewVisitor, Pushed, Seen, Value, Version, VisitRead,
    Write, WriteOp,
};
use tandem_fhir::{Dialect, Options, sandbox::Settings};
use tandem_hubspot::sandbox::Change;

use crate::{
    decisions::{self, PAGE, PRIVATE, Want, hold, row},
    emr::{Practice, rules},
    fhir::{CALL, Clinic, booking as wanted, id, options, update},
    proxy::{Answer, Proxy},
    two_crms::properties,
};

/// How a record whose answer breaks off begins.
const HALF: &str = r#"{"resourceType":"Patient","id":"simpat1","name":[{"family":"Jane"#;
/// What a gateway says in words of its own.
const GATEWAY: &str = r#"{"message":"Too Many Requests for Jane Roe"}"#;

/// An OperationOutcome; its texts are of people. `place` is where R4 and STU3 name an element.
fn outcome(code: &str, place: Option<(&str, &str)>) -> String {
    let details = json!({ "text": "Jane Roe" });
    let mut issue = json!({ "severity": "error", "code": code, "diagnostics": "about 900", "details": details });
    if let Some((member, element)) = place {
        issue[member] = json!([element]);
    }
    let advice = json!({ "severity": "warning", "code": "informational", "expression": ["Patient.name"] });
    json!({ "resourceType": "OperationOutcome", "issue": [advice, issue] }).to_string()
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Reads: what the server promises.
    Promise,
    /// Reads: a page of appointments.
    Feed,
    /// Reads: patients by id.
    Read,
    /// Reads: the patient who is to be written.
    Look,
    /// Writes: a new patient.
    Create,
    /// Writes: a patient who is there.
    Update,
    /// Writes: a new appointment.
    Book,
}

impl Ask {
    /// The call that is refused.
    fn route(self) -> (Method, &'static str) {
        match self {
            Self::Promise => (Method::GET, "/metadata"),
            Self::Feed => (Method::GET, "/Appointment"),
            Self::Read => (Method::POST, "/Patient/_search"),
            Self::Look => (Method::GET, "/Patient/simpat"),
            Self::Create => (Method::POST, "/Patient"),
            Self::Update => (Method::PUT, "/Patient/simpat"),
            Self::Book => (Method::POST, "/Appointment"),
        }
    }

    const READS: [Self; 4] = [Self::Promise, Self::Feed, Self::Read, Self::Look];
    const WRITES: [Self; 3] = [Self::Create, Self::Update, Self::Book];
}

type Row = decisions::Row<Ask>;

async fn tried(row: &Row) -> (Pushed, usize) {
    let proxy = Proxy::default();
    let options = Options { patients: true, ..options(Dialect::FullR4) };
    let clinic = Clinic::watched(Settings::default(), options, proxy.layer());
    let patient = id(&clinic.sandbox.with(|world| world.register("Ana", "Rivera", "ana@example.com", "")));
    let ((verb, at), answer, named) = (row.ask.route(), row.answer(), format!("/Patient/{patient}"));
    proxy.answer(move |method, path, _| {
        let is_it = path.ends_with(&at.replace("/Patient/simpat", &named));
        (*method == verb && is_it).then(|| answer.clone())
    });
    let connector = &clinic.connector;
    let got = match row.ask {
        Ask::Promise => Pushed::Failed(connector.identify().await.unwrap_err()),
        Ask::Feed => {
            let feed = connector.streams().into_iter().find(|stream| stream.name == "appointment.changes").unwrap();
            Pushed::Failed(connector.changes(CALL, &feed, &Cursor::start()).await.unwrap_err())
        }
        Ask::Read => Pushed::Failed(connector.fetch(CALL, Kind::Contact, &[patient]).await.unwrap_err()),
        Ask::Look | Ask::Update => {
            let write = update(&patient, "email", "jane@example.com", Version::default());
            connector.push(CALL, &[write]).await.remove(0)
        }
        Ask::Create => {
            let named = [("given", "Jane"), ("family", "Roe"), ("email", "jane@example.com")];
            let properties = named.map(|(name, value)| (name.to_owned(), Value::text(value)));
            let op = WriteOp::Create { marker: "pd:9f1c".into(), properties: BTreeMap::from(properties) };
            connector.push(CALL, &[Write { trace: "t".into(), kind: Kind::Contact, op }]).await.remove(0)
        }
        Ask::Book => {
            let new = wanted("r1", clinic.clock.now() + TimeDelta::days(1), None);
            let new = NewVisit { visitor: NewVisitor { id: Some(patient), ..new.visitor }, ..new };
            Pushed::Failed(connector.book(CALL, &new).await.unwrap_err())
        }
    };
    (got, proxy.answered())
}

#[tokio::test(start_paused = true)]
async fn credentials_scopes_and_limits_are_told_apart_whoever_says_so_and_how() {
    let (token, scope) = ("put a new one into the connection's credentials", "grant the scope to this client");
    let limited = |wait| Want::RateLimited(Some(wait), "calls in a short time");
    let mut rows = Vec::new();
    for ask in Ask::READS.into_iter().chain(Ask::WRITES) {
        rows.extend([
            row("a token", ask, 401, outcome("login", None), Want::Unauthorized(token)),
            row("a token, a gateway says", ask, 401, PAGE, Want::Unauthorized(token)),
            row("a scope", ask, 403, outcome("forbidden", None), Want::Forbidden(scope)),
            row("a scope, a gateway says", ask, 403, GATEWAY, Want::Forbidden(scope)),
            // Repeated after 1, 2 and 4 seconds; a wait of 8 is the engine's.
            Row { calls: 4, ..row("a limit", ask, 429, outcome("throttled", None), limited(8)) },
            Row { calls: 4, ..row("a limit, a gateway says", ask, 429, PAGE, limited(8)) },
            Row { calls: 4, headers: &[("retry-after", "7")], ..row("a wait", ask, 429, GATEWAY, limited(7)) },
        ]);
    }
    hold(rows, tried).await;
}

#[tokio::test(start_paused = true)]
async fn versions_elements_and_records_that_are_gone_are_told_by_status_and_code() {
    let [conflict, several] = ["conflict", "multiple-matches"].map(|code| outcome(code, None));
    let r4 = outcome("business-rule", Some(("expression", "Patient.telecom[0].value")));
    let stu3 = outcome("required", Some(("location", "/f:Patient/f:birthDate[1]")));
    let slot = outcome("business-rule", Some(("expression", "Appointment.slot[0]")));
    let odd = outcome("Jane Roe", Some(("expression", "Patient.Jane Roe")));
    let mut rows = Vec::new();
    for status in [409, 412] {
        for said in [conflict.as_str(), PAGE, ""] {
            rows.push(row("another version", Ask::Update, status, said, Want::Stale));
            // Nothing has a version that is only being made.
            rows.push(row("another patient", Ask::Create, status, said, Want::Conflict));
            rows.push(row("another appointment", Ask::Book, status, said, Want::Conflict));
        }
        for ask in Ask::WRITES {
            rows.push(row("several of one identifier", ask, status, several.as_str(), Want::Conflict));
        }
    }
    for ask in [Ask::Create, Ask::Update] {
        let rejected = Want::Rejected;
        rows.push(row("an element", ask, 422, r4.as_str(), rejected(Some("telecom"), "HTTP 422, business-rule")));
        rows.push(row("in STU3", ask, 422, stu3.as_str(), rejected(Some("birthDate"), "HTTP 422, required")));
        rows.push(row("in words", ask, 422, odd.as_str(), rejected(None, "HTTP 422")));
        rows.push(row("on a page", ask, 422, PAGE, rejected(None, "HTTP 422")));
    }
    rows.push(row("an opening that is taken", Ask::Book, 422, slot, Want::Conflict));
    for ask in [Ask::Look, Ask::Update] {
        rows.push(row("gone", ask, 410, outcome("deleted", None), Want::Gone));
        rows.push(row("not there", ask, 404, outcome("not-found", None), Want::Gone));
    }
    hold(rows, tried).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_not_taken_for_one() {
    let mut rows = Vec::new();
    for ask in Ask::READS {
        rows.push(row("an outcome in the place of it", ask, 200, outcome("exception", None), Want::Malformed));
        rows.push(row("a page in the place of it", ask, 200, PAGE, Want::Malformed));
        rows.push(row("half of it", ask, 200, HALF, Want::Malformed));
    }
    for ask in Ask::WRITES {
        rows.push(row("a page in the place of it", ask, 200, PAGE, Want::OutcomeUnknown));
        rows.push(row("half of it", ask, 201, HALF, Want::OutcomeUnknown));
        rows.push(row("no such address", ask, 404, PAGE, Want::NotSent));
    }
    rows.push(row("no such address", Ask::Look, 404, PAGE, Want::NotSent));
    for status in [500, 502, 503, 504] {
        for said in [outcome("transient", None), PAGE.to_owned()] {
            let read = Ask::READS.map(|ask| row("an outage", ask, status, said.as_str(), Want::NotSent));
            let written = Ask::WRITES.map(|ask| row("an outage", ask, status, said.as_str(), Want::OutcomeUnknown));
            rows.extend(read.into_iter().chain(written));
        }
    }
    hold(rows, tried).await;
}

/// What a server says in the place of an opening is no word on whether it may be had: the booking tells.
#[tokio::test(start_paused = true)]
async fn an_opening_that_cannot_be_read_is_left_to_the_booking() {
    for (status, body) in [
        (200, outcome("exception", None)),
        (200, PAGE.to_owned()),
        (422, outcome("not-supported", None)),
        (403, outcome("forbidden", None)),
    ] {
        let proxy = Proxy::default();
        let clinic = Clinic::watched(Settings::default(), options(Dialect::FullR4), proxy.layer());
        clinic.connector.identify().await.unwrap();
        let start = clinic.clock.now() + TimeDelta::days(2);
        let slot = clinic.sandbox.with(|world| world.open_slot(start));
        let (at, said) = (format!("/Slot/{slot}"), body.clone());
        proxy.answer(move |_, path, _| path.ends_with(&at).then(|| Answer::new(status, said.as_str())));
        clinic.connector.book(CALL, &wanted("r1", start, Some(slot))).await.unwrap();
        let made = clinic.sandbox.with(|world| world.ids("Appointment").len());
        assert_eq!((proxy.answered(), made), (1, 1), "{status} {body}");
    }
}

/// What a server says about a search stands among what it found, marked as such or not.
#[tokio::test(start_paused = true)]
async fn an_outcome_among_the_rows_of_a_page_is_no_row_and_hides_none() {
    let proxy = Proxy::default();
    let clinic = Clinic::watched(Settings::default(), options(Dialect::FullR4), proxy.layer());
    let said: serde_json::Value = serde_json::from_str(&outcome("not-supported", None)).unwrap();
    proxy.answer(move |_, path, _| {
        let kind = if path.contains("Patient") { "Patient" } else { "Appointment" };
        let found = json!({ "resource": { "resourceType": kind, "id": "simone", "meta": { "versionId": "1" } } });
        let marked = json!({ "resource": said, "search": { "mode": "outcome" } });
        let entry = json!([{ "resource": said }, marked, found, { "resource": said, "search": { "mode": "match" } }]);
        let page = json!({ "resourceType": "Bundle", "type": "searchset", "entry": entry });
        (path.ends_with("/_search") || path.ends_with("/Appointment")).then(|| Answer::new(200, page.to_string()))
    });
    let fetched = clinic.connector.fetch(CALL, Kind::Contact, &[id("simone")]).await.unwrap();
    assert!(matches!(fetched.as_slice(), [Fetched::Found(record)] if record.id == id("simone")), "{fetched:?}");
    let feed = clinic.connector.streams().into_iter().find(|stream| stream.name == "appointment.changes").unwrap();
    let page = clinic.connector.changes(CALL, &feed, &Cursor::start()).await.unwrap();
    assert!(matches!(page.seen.as_slice(), [Seen::Hint { id, .. }] if id.as_str() == "Appointment/simone"), "{page:?}");
}

/// A page of something in between says nothing of the server: by it nobody's address or number goes into a URL.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_lets_no_search_by_form_pass_is_no_reason_to_search_by_address() {
    for status in [404, 405, 415, 501] {
        let proxy = Proxy::default();
        let clinic = Clinic::watched(Settings::default(), options(Dialect::FullR4), proxy.layer());
        clinic.connector.identify().await.unwrap();
        proxy.answer(move |_, path, _| path.ends_with("/_search").then(|| Answer::new(status, PAGE)));
        let new = wanted("r1", clinic.clock.now() + TimeDelta::days(2), None);
        let refused = clinic.connector.book(CALL, &new).await.unwrap_err();
        let is_said = matches!(&refused, ConnectorError::Forbidden(why) if why.contains("let it pass to the server"));
        assert_eq!(is_said, matches!(status, 405 | 415), "{status}: {refused}");
        assert!(!PRIVATE.iter().any(|value| refused.to_string().contains(value)), "{refused}");
        assert_eq!(proxy.answered(), 1, "{status}");
        proxy.pass();
        clinic.connector.book(CALL, &new).await.unwrap();
        assert!(!clinic.sandbox.with(|world| world.stats.by_route.contains_key("GET Patient")), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn that_a_server_takes_no_searches_of_one_type_by_form_is_said_of_no_other() {
    let proxy = Proxy::default();
    let clinic = Clinic::watched(Settings::default(), options(Dialect::FullR4), proxy.layer());
    clinic.connector.identify().await.unwrap();
    let said = outcome("not-supported", None);
    proxy.answer(move |_, path, _| path.ends_with("/ChargeItem/_search").then(|| Answer::new(405, said.as_str())));
    let treated = clinic.sandbox.with(|world| {
        let ana = world.register("Ana", "Rivera", "ana@example.com", "");
        let treated = world.encounter(&ana, "TREAT", "finished", None);
        world.charge(&ana, &treated, 650.5);
        id(&format!("Encounter/{treated}"))
    });
    for _ in 0..2 {
        let read = clinic.connector.visits(CALL, std::slice::from_ref(&treated)).await.unwrap();
        let [VisitRead::Found(visit)] = read.as_slice() else { panic!("{read:?}") };
        assert!(visit.charged.is_some(), "{visit:?}");
    }
    let by_address =
        |kind: &str| clinic.sandbox.with(|world| world.stats.by_route.get(&format!("GET {kind}")).copied());
    assert_eq!((proxy.answered(), by_address("ChargeItem"), by_address("Patient")), (1, Some(2), None));
}

fn practice() -> (Practice, Proxy) {
    let proxy = Proxy::default();
    (Practice::watched(Dialect::FullR4, rules(), Settings::default(), proxy.layer()), proxy)
}

/// Whatever a feed is answered with for hours, nothing that changed meanwhile is skipped, and people are told that it is not read.
#[tokio::test(start_paused = true)]
async fn what_changes_while_the_feed_is_refused_is_read_afterwards() {
    for (status, body) in [
        (200, outcome("exception", None)),
        (200, PAGE.to_owned()),
        (200, HALF.to_owned()),
        (403, outcome("forbidden", None)),
        (404, PAGE.to_owned()),
        (503, String::new()),
    ] {
        let (practice, proxy) = practice();
        let (deal, patient) = practice.ana().await;
        let said = body.clone();
        proxy.answer(move |method, path, _| {
            (*method == Method::GET && path.ends_with("/Appointment")).then(|| Answer::new(status, said.as_str()))
        });
        let start = practice.now() + TimeDelta::days(9);
        practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", start));
        for _ in 0..4 {
            practice.settle().await;
            practice.rig.clock.sleep(Duration::from_secs(3_600)).await;
        }
        let known = async || {
            let (account, name) = (&practice.rig.account.name, &practice.calendar.name);
            practice.rig.store.connection(account, name).await.unwrap().unwrap()
        };
        let reason = known().await.reason.unwrap_or_default();
        assert!(reason.contains("cannot be read") && proxy.answered() > 0, "{status} {body}: {reason}");
        assert!(!PRIVATE.iter().any(|value| reason.contains(value)), "{reason}");
        assert_eq!((known().await.state, practice.rung(deal)), (ConnectionState::Active, 0), "{status} {body}");
        proxy.pass();
        practice.wait(2).await;
        assert_eq!((known().await.reason, practice.rung(deal)), (None, 2), "{status} {body}");
    }
}

/// One visit is refused; that of somebody else goes on, and the refused one does once it can be read.
#[tokio::test(start_paused = true)]
async fn a_visit_that_is_refused_waits_alone_and_says_why() {
    for (status, body, code, says) in [
        (403, outcome("suppressed", None), "forbidden", "grant the scope to this client"),
        (422, outcome("business-rule", None), "rejected", "HTTP 422, business-rule"),
        (200, outcome("exception", None), "malformed", "does not parse at"),
        (200, HALF.to_owned(), "malformed", "does not parse at"),
    ] {
        let (practice, proxy) = practice();
        let (ana, patient) = practice.ana().await;
        let contact = practice.contact("Ben", "Ito", "ben@example.com", "");
        let ben = practice.deal_of(contact, "Ben's course");
        practice.settle().await;
        let start = practice.now() + TimeDelta::days(5);
        let refused = practice.emr.with(|world| {
            let other = world.register("Ben", "Ito", "ben@example.com", "");
            world.appoint(&other, "CONSULT", "booked", start);
            world.appoint(&patient, "CONSULT", "booked", start)
        });
        let (at, said) = (format!("/Appointment/{refused}"), body.clone());
        proxy.answer(move |_, path, asked| {
            let is_asked = path.ends_with("/Appointment/_search") && asked.contains(&refused);
            (path.ends_with(&at) || is_asked).then(|| Answer::new(status, said.as_str()))
        });
        practice.settle().await;
        assert_eq!((practice.rung(ana), practice.rung(ben)), (0, 2), "{status} {body}: the other one goes on");
        let all = practice.rig.store.failures(&practice.rig.account.name, 100).await.unwrap();
        let [failure] = all.as_slice() else { panic!("{status} {body}: {all:?}") };
        assert_eq!(failure.code, code, "{status} {body}");
        assert!(failure.message.contains(says), "{failure:?}");
        assert!(!PRIVATE.iter().any(|value| failure.message.contains(value)), "{failure:?}");
        proxy.pass();
        practice.wait(60).await;
        assert_eq!((practice.rung(ana), practice.tasks().await), (2, Vec::<String>::new()), "{status} {body}");
    }
}

/// A patient who cannot be read cannot be written: the edit is neither lost nor set aside, and people are told after some tries.
#[tokio::test(start_paused = true)]
async fn an_edit_of_a_patient_who_cannot_be_read_is_shown_and_goes_out_once_they_can() {
    for body in [outcome("exception", None), PAGE.to_owned(), HALF.to_owned()] {
        let (practice, proxy) = practice();
        let practice = practice.with_patients(Dialect::FullR4, proxy.layer());
        let contact = practice.contact("Ana", "Rivera", "ana@example.com", "(310) 555-0142");
        let patient = practice.emr.with(|world| world.register("Ana", "Rivera", "ana@example.com", "+13105550142"));
        practice.settle().await;
        let (at, said) = (format!("/Patient/{patient}"), body.clone());
        proxy.answer(move |method, path, _| {
            (*method == Method::GET && path.ends_with(&at)).then(|| Answer::new(200, said.as_str()))
        });
        let edit = properties(&[("lastname", "Stone")]);
        practice.rig.sandbox.with(|world| world.update(Kind::Contact, contact, &edit, Change::Person)).unwrap();
        for _ in 0..6 {
            practice.wait(20).await;
        }
        let shown = async || {
            let mut all = practice.rig.store.failures(&practice.rig.account.name, 100).await.unwrap();
            all.retain(|failure| failure.code == "malformed");
            all
        };
        let is_written =
            || practice.emr.with(|world| world.resource("Patient", &patient).unwrap().to_string().contains("Stone"));
        let all = shown().await;
        let [failure] = all.as_slice() else { panic!("{body}: {all:?}") };
        assert!(failure.message.contains("may stumble over a value of this record"), "{failure:?}");
        assert!(!PRIVATE.iter().any(|value| failure.message.contains(value)), "{failure:?}");
        assert!(!is_written() && proxy.answered() > 4, "{body}");
        proxy.pass();
        practice.wait(20).await;
        assert!(is_written(), "{body}");
        assert_eq!(shown().await.len(), 0, "{body}");
    }
}

/// The appointment is made, and what comes back does not say so.
#[tokio::test(start_paused = true)]
async fn a_booking_that_was_carried_out_and_answered_badly_is_asked_for_again_and_made_once() {
    for (status, body) in
        [(500, outcome("exception", None)), (502, PAGE.into()), (200, PAGE.into()), (201, HALF.into())]
    {
        let (practice, proxy) = practice();
        practice.ana().await;
        let ours = practice.deals().remove(0).id;
        let said = body.clone();
        proxy.answer(move |method, path, _| {
            let is_it = *method == Method::POST && path.ends_with("/Appointment");
            is_it.then(|| Answer { is_done: true, ..Answer::new(status, said.as_str()) })
        });
        let wish = practice.wish(1, "meeting");
        let book = || booking::book(&*practice.rig.store, &practice.calendar, ours, wish.clone(), practice.now());
        let lost = book().await.unwrap_err();
        assert!(matches!(lost, BookingError::Clinic(ConnectorError::OutcomeUnknown(_))), "{status} {body}: {lost}");
        assert!(!PRIVATE.iter().any(|value| lost.to_string().contains(value)), "{lost}");
        proxy.pass();
        book().await.unwrap();
        assert_eq!(practice.emr.with(|world| world.ids("Appointment").len()), 1, "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clinic_that_refuses_the_token_stops_its_connection_alone_until_there_is_another() {
    for body in [outcome("expired", None), PAGE.to_owned()] {
        let (practice, proxy) = practice();
        let (deal, patient) = practice.ana().await;
        proxy.answer(move |_, _, _| Some(Answer::new(401, body.as_str())));
        practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(5)));
        let calendar = Engine::new(practice.rig.shared(Limits::default()), practice.calendar.clone());
        let stopped = calendar.once().await.unwrap_err().to_string();
        practice.rig.engine().once().await.unwrap();
        let (account, name) = (&practice.rig.account.name, &practice.calendar.name);
        let row = practice.rig.store.connection(account, name).await.unwrap().unwrap();
        assert_eq!((row.state, row.reason.as_deref()), (ConnectionState::NeedsAuth, Some(stopped.as_str())));
        assert!(stopped.contains("put a new one into the connection's credentials"), "{stopped}");
        assert!(!PRIVATE.iter().any(|value| stopped.contains(value)), "{stopped}");
        proxy.pass();
        practice.wait(2).await;
        assert_eq!(practice.rung(deal), 2);
    }
}
