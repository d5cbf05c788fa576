//! Visits at a clinic move opportunities: the table of eighteen sequences, what the words of each server's dialect come to, one open
//! opportunity per contact and pipeline (AX-04), booking from an opportunity (AX-31 to AX-34), and what must never leave a clinic.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value as Json, json};
use tandem::{
    booking::{self, BookingError, Wish},
    model::{
        LocalRecord, Name, Note, OnRefund, Opportunity, Profile, RecordId, Status, Trigger, ValueSource, Visit,
        VisitRules,
    },
    simulation::Rig,
    store::{Commit, Op, SyncStore},
    sync::{connection::Connection, engine::Engine, guard::Limits, intake::marks_of, mapping},
    vendors::CONNECTORS,
};
use tandem_contract::{
    ConnectorError, Kind, RouterTransport, Secret, Value, VisitChange, VisitClass, VisitStatus, WebhookRequest,
};
use tandem_fhir::{
    Dialect, Fhir, Options,
    sandbox::{CANARY, LastUpdated, Sandbox, Settings},
};
use tandem_hubspot::sandbox as hubspot;
use tandem_square::sandbox as square;

use crate::{
    fhir::{id, options},
    till::{beside, ticket},
};

pub struct Practice {
    pub rig: Rig,
    pub emr: Sandbox,
    pub calendar: Arc<Connection>,
    till: Option<(square::Sandbox, Arc<Connection>)>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The stages of the sandbox's pipeline that stand for the rungs.
const STAGES: [&str; 6] = [
    "appointmentscheduled",
    "qualifiedtobuy",
    "presentationscheduled",
    "decisionmakerboughtin",
    "contractsent",
    "closedwon",
];

pub fn rules() -> VisitRules {
    VisitRules {
        pipeline: "sales".into(),
        requested: Some("Qualified To Buy".into()),
        consult_booked: Some("Presentation Scheduled".into()),
        consult_done: Some("Decision maker bought in".into()),
        treatment_booked: Some("Contract Sent".into()),
        next_visit: Some("next_visit".into()),
        ..VisitRules::default()
    }
}

impl Practice {
    fn new(rules: VisitRules, settings: Settings) -> Self {
        Self::speaking(Dialect::FullR4, rules, settings)
    }

    /// One whose server is spoken to in this dialect.
    fn speaking(dialect: Dialect, rules: VisitRules, settings: Settings) -> Self {
        Self::watched(dialect, rules, settings, |router| router)
    }

    /// The same, with `watch` between the connector and the clinic.
    pub fn watched(
        dialect: Dialect,
        rules: VisitRules,
        settings: Settings,
        watch: impl FnOnce(Router) -> Router,
    ) -> Self {
        let crm = hubspot::Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..hubspot::Settings::default() };
        let mut options = options(dialect);
        options.plans = rules.plan_accepted.is_some();
        options.hook_token = Some(Secret::new("hook"));
        let rules = BTreeMap::from([(name("clinic"), rules)]);
        let rig = Rig::new(5, crm, Profile::Agency, |connection| {
            connection.siblings = vec![name("emr")];
            connection.account.visit_rules.clone_from(&rules);
        });
        let emr = Sandbox::new(settings, 5, rig.clock.clone());
        let transport = Arc::new(RouterTransport::new(watch(emr.router())));
        let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == "fhir").unwrap();
        let mut calendar = Connection::clone(&rig.connection);
        calendar.connector = Arc::new(Fhir::new(options, transport, rig.clock.clone()));
        (calendar.name, calendar.siblings) = (name("emr"), vec![name("hubspot")]);
        calendar.lenses = mapping::parse(text).unwrap();
        Self { rig, emr, calendar: Arc::new(calendar), till: None }
    }

    /// The same with a till beside it.
    fn with_till(mut self) -> Self {
        let (square, mut till) = beside(&self.rig, |router| router);
        till.siblings = vec![name("hubspot"), name("emr")];
        self.till = Some((square, Arc::new(till)));
        Arc::make_mut(&mut self.rig.connection).siblings.push(name("square"));
        Arc::make_mut(&mut self.calendar).siblings.push(name("square"));
        self
    }

    /// The same where patients' contact details are kept in step, with `watch` between the connector and the clinic.
    pub fn with_patients(mut self, dialect: Dialect, watch: impl FnOnce(Router) -> Router) -> Self {
        let options = Options { patients: true, ..options(dialect) };
        let transport = Arc::new(RouterTransport::new(watch(self.emr.router())));
        let calendar = Arc::make_mut(&mut self.calendar);
        calendar.connector = Arc::new(Fhir::new(options, transport, self.rig.clock.clone()));
        self
    }

    fn engines(&self) -> Vec<Engine> {
        let others = [Some(&self.calendar), self.till.as_ref().map(|(_, till)| till)];
        let others = others.into_iter().flatten();
        let others = others.map(|other| Engine::new(self.rig.shared(Limits::default()), other.clone()));
        std::iter::once(self.rig.engine()).chain(others).collect()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.rig.clock.now()
    }

    /// An appointment of three quarters of an hour, some days ahead.
    pub fn wish(&self, days: i64, kind: &str) -> Wish {
        let starts_at = self.now() + TimeDelta::days(days);
        let ends_at = starts_at + TimeDelta::minutes(45);
        Wish { kind: kind.into(), starts_at, ends_at, slot: None, site: None, practitioner: None }
    }

    /// All engines in turn, until none has anything to do.
    pub async fn settle(&self) {
        for _ in 0..3 {
            for engine in self.engines() {
                engine.once().await.unwrap();
            }
            self.rig.clock.sleep(Duration::from_secs(6)).await;
        }
    }

    pub async fn wait(&self, minutes: u64) {
        self.settle().await;
        self.rig.clock.sleep(Duration::from_secs(60 * minutes)).await;
        self.settle().await;
    }

    pub fn contact(&self, first: &str, last: &str, email: &str, phone: &str) -> u64 {
        let person = [("firstname", first), ("lastname", last), ("email", email), ("phone", phone)];
        let person = person.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.rig.sandbox.with(|world| world.create(Kind::Contact, &person, hubspot::Change::Person)).unwrap()
    }

    pub fn deal_of(&self, contact: u64, title: &str) -> u64 {
        let deal = [("dealname", title), ("dealstage", STAGES[0]), ("amount", "100")];
        let deal = deal.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.rig.sandbox.with(|world| {
            let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person).unwrap();
            world.associate(deal, contact, hubspot::Change::Person);
            deal
        })
    }

    /// Somebody with an open deal, whom the till knows too, if there is one; answers the deal and the patient.
    pub async fn ana(&self) -> (u64, String) {
        let contact = self.contact("Ana", "Rivera", "ana@example.com", "(310) 555-0142");
        let deal = self.deal_of(contact, "Ana's course");
        let patient = self.emr.with(|world| world.register("Ana", "Rivera", "Ana@Example.com", "+13105550142"));
        if let Some((square, _)) = &self.till {
            let customer = json!({ "given_name": "Ana", "family_name": "Rivera", "email_address": "ana@example.com" });
            square.with(|world| world.create_customer(&customer, square::Change::Person)).unwrap();
        }
        self.settle().await;
        (deal, patient)
    }

    fn in_hubspot(&self, deal: u64, property: &str) -> String {
        self.rig.sandbox.with(|world| world.value(Kind::Deal, deal, property)).unwrap_or_default()
    }

    pub fn rung(&self, deal: u64) -> usize {
        let stage = self.in_hubspot(deal, "dealstage");
        STAGES.iter().position(|known| *known == stage).unwrap()
    }

    pub fn deals(&self) -> Vec<Opportunity> {
        let all = self.rig.store.all(&self.rig.account.name, Kind::Deal);
        all.into_iter().filter_map(|record| record.as_opportunity().cloned()).collect()
    }

    async fn visits(&self) -> Vec<Visit> {
        let contacts = self.rig.store.all(&self.rig.account.name, Kind::Contact);
        let mut all = Vec::new();
        for contact in contacts.iter().map(LocalRecord::id) {
            all.extend(self.rig.store.visits_of(&self.rig.account.name, contact).await.unwrap());
        }
        all
    }

    /// What people were told, in order of visits.
    async fn told(&self) -> Vec<Note> {
        self.visits().await.into_iter().flat_map(|visit| visit.noted).collect()
    }

    pub async fn tasks(&self) -> Vec<String> {
        let all = self.rig.store.failures(&self.rig.account.name, 100).await.unwrap();
        all.into_iter().map(|failure| failure.code).collect()
    }
}

/// What happens at the desk. Visits are counted from 0 in the order they are made.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody books a visit with this code.
    Book(&'static str),
    /// A visit has another status.
    Say(usize, &'static str),
    /// A visit is at another time.
    Shift(usize),
    /// A visit is deleted.
    Delete(usize),
    /// A treatment with this code is ordered, counted in the same row.
    Plan(&'static str),
    /// An encounter with this code, of a visit or of none.
    Meet(&'static str, Option<usize>),
    /// An encounter, counted in the same row, has another status.
    SayMet(usize, &'static str),
    /// Minutes pass, and the engines work.
    Wait(u64),
    /// A notification arrives that says a visit has this status, late and after newer ones.
    Tell(usize, &'static str),
    /// The patient buys something at the till.
    Sell,
    /// The clinic writes an invoice over another amount than anybody paid.
    Bill,
    /// The patient's record is replaced by another one, which has a consult that was kept.
    Merge,
    /// Another contact with the same name and address comes.
    Twin,
}

use Step::{Bill, Book, Delete, Meet, Merge, Plan, Say, SayMet, Sell, Shift, Tell, Twin, Wait};

impl Practice {
    /// The clinic's server tells of a record, below our address, as in the daemon: what is believed is marked.
    async fn notify(&self, kind: &str, id: &str, body: &Json) {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer hook"));
        let (uri, body, received_at) = (format!("/webhooks/emr/{kind}/{id}"), body.to_string(), self.now());
        let request =
            WebhookRequest { method: "PUT", uri: &uri, headers: &headers, body: body.as_bytes(), received_at };
        let hints = self.calendar.connector.hints(&request).unwrap();
        assert_eq!(hints.len(), 1, "{uri}");
        let ops = marks_of(&self.calendar.name, hints, None, received_at);
        let commit = Commit { account: self.rig.account.name.clone(), fence: None, ops };
        self.rig.store.commit(&commit).await.unwrap();
    }

    /// Answers the payment.
    fn sell(&self) -> String {
        let (square, _) = self.till.as_ref().unwrap();
        square.with(|world| {
            let part = square::Part { customer: world.customer_ids().pop(), ..square::Part::default() };
            let order = world.sell(&square::Ticket { parts: vec![part], ..ticket("Serum") }).unwrap();
            world.payments_of(&order).remove(0)
        })
    }

    /// Takes these steps with somebody's patient, and lets what the last ones came to for later.
    async fn walk(&self, patient: &str, steps: &[Step]) {
        let mut made: Vec<(&str, String)> = Vec::new();
        let emr = &self.emr;
        for step in steps {
            let start = self.now() + TimeDelta::days(5);
            match *step {
                Book(code) => {
                    made.push(("Appointment", emr.with(|world| world.appoint(patient, code, "booked", start))))
                }
                Plan(code) => made.push(("ServiceRequest", emr.with(|world| world.plan(patient, code, "active")))),
                Say(at, status) | SayMet(at, status) => {
                    emr.with(|world| world.set_status(made[at].0, &made[at].1, status))
                }
                Shift(at) => emr.with(|world| world.reschedule(&made[at].1, start + TimeDelta::days(2))),
                Delete(at) => emr.with(|world| world.delete(made[at].0, &made[at].1)),
                Meet(code, of) => {
                    let of = of.map(|at| made[at].1.clone());
                    made.push((
                        "Encounter",
                        emr.with(|world| world.encounter(patient, code, "in-progress", of.as_deref())),
                    ));
                }
                Wait(minutes) => self.wait(minutes).await,
                Tell(at, status) => {
                    let (kind, id) = &made[at];
                    let mut body = emr.with(|world| world.resource(kind, id).cloned()).unwrap();
                    body["status"] = status.into();
                    self.notify(kind, id, &body).await;
                }
                Sell => drop(self.sell()),
                Bill => drop(emr.with(|world| world.invoice(patient, "balanced", 600.0, "USD"))),
                Merge => emr.with(|world| {
                    let other = world.register("Anita", "Rivera-Stone", "anita@example.com", "");
                    world.appoint(&other, "CONSULT", "fulfilled", start - TimeDelta::days(6));
                    world.merge(&other, patient);
                }),
                Twin => drop(self.contact("Ana", "Rivera", "", "310 555 0142")),
            }
        }
    }
}

/// A row of the table: number, steps, rung, what people are told.
type Row = (usize, &'static [Step], usize, &'static [Note]);

const TABLE: [Row; 18] = [
    (1, &[], 0, &[]),
    (2, &[Book("CONSULT")], 2, &[]),
    (3, &[Book("CONSULT"), Wait(1), Say(0, "cancelled"), Wait(11)], 0, &[Note::Cancelled]),
    (4, &[Book("CONSULT"), Wait(1), Say(0, "cancelled"), Wait(3), Book("CONSULT"), Wait(11)], 2, &[Note::Rescheduled]),
    (5, &[Book("CONSULT"), Wait(1), Shift(0)], 2, &[Note::Moved]),
    (6, &[Book("CONSULT"), Wait(1), Say(0, "fulfilled")], 3, &[]),
    (7, &[Book("CONSULT"), Say(0, "fulfilled"), Book("TREAT")], 4, &[]),
    (
        8,
        &[Book("CONSULT"), Say(0, "fulfilled"), Book("TREAT"), Wait(1), Say(1, "noshow"), Wait(11)],
        3,
        &[Note::Missed],
    ),
    (9, &[Book("TREAT"), Wait(1), Meet("TREAT", Some(0)), SayMet(1, "finished")], 5, &[]),
    (10, &[Book("TREAT"), Wait(1), Sell, Wait(1), Bill, Meet("TREAT", Some(0)), SayMet(1, "finished")], 5, &[]),
    (11, &[Meet("TREAT", None), SayMet(0, "finished"), Wait(1), SayMet(0, "entered-in-error")], 5, &[Note::Withdrawn]),
    (12, &[Book("TREAT"), Book("TREAT"), Wait(1), Say(0, "cancelled"), Wait(11)], 4, &[Note::Rescheduled]),
    (13, &[Meet("TREAT", None), SayMet(0, "finished"), Wait(1), Book("CHECK")], 5, &[]),
    (14, &[Book("CONSULT"), Wait(1), Delete(0), Wait(1_450), Wait(11)], 0, &[Note::Cancelled]),
    (15, &[Twin, Book("CONSULT")], 0, &[]),
    (
        16,
        &[
            Book("CONSULT"),
            Wait(1),
            Say(0, "fulfilled"),
            Tell(0, "fulfilled"),
            Tell(0, "booked"),
            Wait(1),
            Tell(0, "booked"),
            Tell(0, "cancelled"),
            Wait(11),
        ],
        3,
        &[],
    ),
    (17, &[Meet("TREAT", None), SayMet(0, "finished")], 5, &[]),
    (18, &[Merge], 3, &[]),
];

#[tokio::test(start_paused = true)]
async fn every_sequence_of_visits_brings_the_opportunity_where_the_table_says() {
    for (number, steps, rung, told) in TABLE {
        let mut practice = Practice::new(rules(), Settings::default());
        if number == 10 {
            practice = practice.with_till();
        }
        let (deal, patient) = practice.ana().await;
        practice.walk(&patient, steps).await;
        let amount = practice.in_hubspot(deal, "amount");
        practice.settle().await;
        assert_eq!(practice.rung(deal), rung, "row {number}: {steps:?}");
        assert_eq!(practice.told().await, told, "row {number}: what people are told");
        let ours = practice.deals().remove(0);
        let next = ours.custom.get("next_visit").cloned().unwrap_or_default();
        match number {
            // The only visit that is ahead, at its new time.
            5 => {
                let start = practice.visits().await[0].starts_at.unwrap();
                assert_eq!(next, tandem_contract::Value::Time(start), "row 5: the date is the new one");
            }
            10 => {
                assert_eq!((ours.closed_by.as_deref(), ours.won_by_sale), (Some("square"), true), "row 10");
                assert_ne!(amount, "100", "row 10: the amount is what was paid");
                assert_eq!(practice.in_hubspot(deal, "amount"), amount, "row 10: it is not the clinic's");
                let met = practice.visits().await.into_iter().find(|visit| visit.appointment.is_some()).unwrap();
                assert_eq!(met.status, VisitStatus::Finished, "row 10: that they came is known");
                assert!(ours.position.closed_at < met.starts_at, "row 10: it is won since it was paid");
            }
            8 => assert_eq!(practice.tasks().await, ["visit_missed"], "row 8"),
            11 => assert_eq!(practice.tasks().await, ["visit_withdrawn"], "row 11"),
            15 => assert_eq!(practice.tasks().await, ["several_contacts"], "row 15"),
            _ => assert_eq!(practice.tasks().await, Vec::<String>::new(), "row {number}"),
        }
        if rung == 5 {
            assert_eq!(ours.position.status, Status::Won, "row {number}");
        }
    }
}

/// At a clinic whose server knows changes by the day alone, encounters are not waited for until the day is over.
#[tokio::test(start_paused = true)]
async fn where_changes_are_known_by_the_day_a_treatment_that_took_place_wins_on_that_day() {
    let practice = Practice::speaking(Dialect::ModmedEma, rules(), Settings::of(Dialect::ModmedEma));
    let (deal, patient) = practice.ana().await;
    let day = practice.now().date_naive();
    let steps = [Book("TREAT"), Wait(1), Meet("TREAT", Some(0)), Wait(1), SayMet(1, "finished")];
    practice.walk(&patient, &steps).await;
    practice.settle().await;
    assert_eq!((practice.rung(deal), practice.now().date_naive()), (5, day));
}

/// A server may tell of no encounters, or of nothing that could be polled: the test of the connection says what wins then, and that
/// does. US Core promises encounters by their patient alone.
#[tokio::test(start_paused = true)]
async fn where_no_encounters_are_told_the_test_of_the_connection_says_what_wins_and_it_does() {
    let us_core = Settings { last_updated: LastUpdated::None, ..Settings::of(Dialect::UsCoreOnly) };
    for (dialect, settings, is_ok, told, rung) in [
        (Dialect::FullR4, Settings::default(), true, "as they change", 4),
        (Dialect::NextechStu3, Settings::of(Dialect::NextechStu3), false, "kept_means_done", 5),
        (Dialect::Canvas, Settings::of(Dialect::Canvas), false, "kept_means_done", 5),
        (Dialect::UsCoreOnly, us_core, false, "no visit wins", 0),
    ] {
        let practice = Practice::speaking(dialect, rules(), settings);
        let identity = practice.calendar.connector.check().await.unwrap();
        let item = identity.items.iter().find(|item| item.name == "encounters").unwrap();
        assert_eq!((item.ok, item.detail.contains(told)), (is_ok, true), "{dialect:?}: {item:?}");
        let (deal, patient) = practice.ana().await;
        practice.walk(&patient, &[Book("TREAT"), Wait(1), Say(0, "fulfilled"), Wait(1)]).await;
        assert_eq!(practice.rung(deal), rung, "{dialect:?}");
    }
}

/// Pages of patients, and whatever comes after a page, take their time.
async fn slowly(request: Request, next: Next) -> Response {
    if request.uri().path().ends_with("/Patient") || request.uri().path().ends_with("/fhir") {
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
    next.run(request).await
}

/// Where nothing tells who changed, everybody is listed for a long time once a day: what visits say is not waited for meanwhile.
#[tokio::test(start_paused = true)]
async fn a_visit_is_looked_at_while_all_patients_are_listed() {
    let settings = Settings { page_rows: 1, page_seconds: 86_400, ..Settings::of(Dialect::Canvas) };
    let practice = Practice::speaking(Dialect::Canvas, rules(), settings);
    let practice = practice.with_patients(Dialect::Canvas, |router| router.layer(from_fn(slowly)));
    let (_, patient) = practice.ana().await;
    for n in 0..200 {
        practice.emr.with(|world| world.register("Leo", &format!("Stone {n}"), "", ""));
    }
    practice.rig.clock.sleep(Duration::from_secs(25 * 3_600)).await;
    let is_listing = async || {
        let listing = practice.calendar.connector.streams().pop().unwrap();
        let (account, name) = (&practice.rig.account.name, &practice.calendar.name);
        let cursor = practice.rig.store.cursor(account, name, &listing.name).await.unwrap().unwrap();
        practice.calendar.connector.is_backfill(&listing, &cursor)
    };
    let engine = Engine::new(practice.rig.shared(Limits::default()), practice.calendar.clone());
    let acting = async {
        practice.rig.clock.sleep(Duration::from_secs(600)).await;
        assert!(is_listing().await && practice.visits().await.is_empty());
        let start = practice.now() + TimeDelta::days(1);
        practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", start));
        practice.rig.clock.sleep(Duration::from_secs(300)).await;
        assert!(is_listing().await, "it is not over yet");
        assert_eq!(practice.visits().await.len(), 1);
    };
    tokio::select! {
        () = engine.run() => unreachable!("an engine runs until it is dropped"),
        () = acting => {}
    }
}

/// A row of the table of dialects: which, what the rules say of an appointment that was kept, steps, rung, what people are told.
type Spoken = (Dialect, Option<bool>, &'static [Step], usize, &'static [Note]);

const SPOKEN: [Spoken; 29] = [
    // Asked for, and not agreed on yet.
    (Dialect::FullR4, None, &[Book("CONSULT"), Say(0, "proposed")], 0, &[]),
    (Dialect::FullR4, None, &[Book("CONSULT"), Say(0, "pending")], 1, &[]),
    (Dialect::FullR4, None, &[Book("TREAT"), Say(0, "pending")], 1, &[]),
    (Dialect::FullR4, None, &[Book("TREAT"), Say(0, "waitlist")], 1, &[]),
    (Dialect::FullR4, None, &[Book("CONSULT"), Say(0, "pending"), Wait(1), Say(0, "booked")], 2, &[]),
    (
        Dialect::FullR4,
        None,
        &[Book("CONSULT"), Say(0, "waitlist"), Wait(1), Say(0, "cancelled"), Wait(11)],
        0,
        &[Note::Cancelled],
    ),
    // They come once, however often and by whichever record it is said.
    (
        Dialect::FullR4,
        None,
        &[Book("TREAT"), Wait(1), Say(0, "arrived"), Wait(1), Say(0, "checked-in"), Wait(1)],
        4,
        &[Note::Arrived],
    ),
    (
        Dialect::FullR4,
        None,
        &[Book("CONSULT"), Wait(1), Say(0, "arrived"), Wait(1), Meet("CONSULT", Some(0)), Wait(1)],
        2,
        &[Note::Arrived],
    ),
    (
        Dialect::FullR4,
        None,
        &[Book("CONSULT"), Wait(1), Meet("CONSULT", Some(0)), Wait(1), Say(0, "arrived"), Wait(1)],
        2,
        &[Note::Arrived],
    ),
    // An appointment that was kept is a treatment that took place where no encounter would tell, or where the rules say so.
    (Dialect::FullR4, None, &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 4, &[]),
    (Dialect::FullR4, Some(true), &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 5, &[]),
    (Dialect::FullR4, Some(true), &[Book("CONSULT"), Wait(1), Say(0, "fulfilled")], 3, &[]),
    (Dialect::NextechStu3, None, &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 5, &[]),
    (Dialect::NextechStu3, Some(false), &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 4, &[]),
    (Dialect::Canvas, None, &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 5, &[]),
    (Dialect::Canvas, Some(false), &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 4, &[]),
    (Dialect::ModmedEma, Some(true), &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 5, &[]),
    (Dialect::ModmedEma, Some(false), &[Book("TREAT"), Wait(1), Say(0, "fulfilled")], 4, &[]),
    // ModMed's appointments that stand are `pending`; nobody else's are.
    (Dialect::ModmedEma, None, &[Book("CONSULT"), Say(0, "pending")], 2, &[]),
    (Dialect::ModmedEma, None, &[Book("TREAT"), Say(0, "pending")], 4, &[]),
    (Dialect::ModmedEma, None, &[Book("TREAT"), Say(0, "waitlist")], 1, &[]),
    (Dialect::NextechStu3, None, &[Book("TREAT"), Say(0, "pending")], 1, &[]),
    // By day, or in windows of dates: changes are found all the same.
    (Dialect::ModmedEma, None, &[Book("CONSULT"), Wait(1), Say(0, "arrived"), Wait(1)], 2, &[Note::Arrived]),
    (Dialect::NextechStu3, None, &[Book("CONSULT"), Wait(1), Shift(0)], 2, &[Note::Moved]),
    (Dialect::Canvas, None, &[Book("CONSULT"), Wait(1), Say(0, "cancelled"), Wait(11)], 0, &[Note::Cancelled]),
    (Dialect::NextechStu3, None, &[Book("CONSULT"), Wait(1), Delete(0), Wait(1_450), Wait(11)], 0, &[Note::Cancelled]),
    // Of these nothing but encounters is found.
    (Dialect::Athena, None, &[Meet("CONSULT", None), Wait(1)], 2, &[Note::Arrived]),
    (Dialect::Athena, None, &[Meet("TREAT", None), SayMet(0, "finished")], 5, &[]),
    (Dialect::UsCoreOnly, None, &[Meet("TREAT", None), SayMet(0, "finished")], 5, &[]),
];

/// What a status means is the vendor's word, and how it is heard of is the server's: in every dialect opportunities move.
#[tokio::test(start_paused = true)]
async fn in_every_dialect_visits_bring_the_opportunity_where_its_words_mean() {
    for (dialect, kept_means_done, steps, rung, told) in SPOKEN {
        let row = format!("{dialect:?}, kept_means_done {kept_means_done:?}: {steps:?}");
        let practice = Practice::speaking(dialect, VisitRules { kept_means_done, ..rules() }, Settings::of(dialect));
        let (deal, patient) = practice.ana().await;
        practice.walk(&patient, steps).await;
        practice.settle().await;
        assert_eq!(practice.rung(deal), rung, "{row}");
        assert_eq!(practice.told().await, told, "{row}: what people are told");
        assert_eq!(practice.tasks().await, Vec::<String>::new(), "{row}");
        assert_eq!(practice.deals()[0].position.status == Status::Won, rung == 5, "{row}");
    }
}

/// The stages where plans of treatment have one of their own.
fn rules_with_plans() -> VisitRules {
    VisitRules {
        requested: None,
        consult_booked: Some("Qualified To Buy".into()),
        consult_done: Some("Presentation Scheduled".into()),
        plan_accepted: Some("Decision maker bought in".into()),
        ..rules()
    }
}

/// Steps, the rung where plans have one between a consult that was kept and a booked treatment, what people are told.
const PLANS: [(&[Step], usize, &[Note]); 15] = [
    (&[Plan("TREAT")], 3, &[]),
    (&[Book("CONSULT"), Say(0, "fulfilled"), Wait(1), Plan("TREAT")], 3, &[]),
    // A draft, and one that waits, say nothing; one that waits takes nothing back.
    (&[Plan("TREAT"), Say(0, "draft")], 0, &[]),
    (&[Plan("TREAT"), Say(0, "on-hold")], 0, &[]),
    (&[Plan("TREAT"), Wait(1), Say(0, "on-hold"), Wait(11)], 3, &[]),
    // Withdrawn, it takes its opportunity back, as a booking does that came to nothing.
    (&[Plan("TREAT"), Wait(1), Say(0, "revoked"), Wait(3)], 3, &[]),
    (&[Plan("TREAT"), Wait(1), Say(0, "revoked"), Wait(11)], 0, &[Note::Cancelled]),
    (&[Plan("TREAT"), Wait(1), Say(0, "revoked"), Wait(3), Plan("TREAT"), Wait(11)], 3, &[Note::Rescheduled]),
    (&[Plan("TREAT"), Wait(1), Say(0, "entered-in-error"), Wait(11)], 0, &[]),
    (&[Plan("TREAT"), Wait(1), Delete(0), Wait(1_450), Wait(11)], 0, &[Note::Cancelled]),
    // Carried out, it wins nothing: a treatment that took place does.
    (&[Plan("TREAT"), Wait(1), Say(0, "completed"), Wait(11)], 3, &[]),
    (&[Plan("TREAT"), Wait(1), Book("TREAT"), Wait(1), Say(1, "cancelled"), Wait(11)], 3, &[Note::Cancelled]),
    (
        &[Book("CONSULT"), Say(0, "fulfilled"), Plan("TREAT"), Wait(1), Say(1, "revoked"), Wait(11)],
        2,
        &[Note::Cancelled],
    ),
    (&[Plan("TREAT"), Wait(1), Meet("TREAT", None), SayMet(1, "finished"), Wait(1), Say(0, "revoked")], 5, &[]),
    // Only a treatment is one; of what the table does not name nobody is told.
    (&[Plan("CONSULT"), Plan("CHECK"), Plan("LABORATORY")], 0, &[]),
];

/// GYM-17: a stage stands for what was agreed on, and goes when that is withdrawn.
#[tokio::test(start_paused = true)]
async fn a_plan_that_was_agreed_to_brings_the_opportunity_to_its_own_stage_and_back() {
    for (steps, rung, told) in PLANS {
        let practice = Practice::new(rules_with_plans(), Settings::default());
        let (deal, patient) = practice.ana().await;
        practice.walk(&patient, steps).await;
        practice.settle().await;
        assert_eq!(practice.rung(deal), rung, "{steps:?}");
        assert_eq!(practice.told().await, told, "{steps:?}: what people are told");
        assert_eq!(practice.tasks().await, Vec::<String>::new(), "{steps:?}");
    }
}

/// What nobody asked for is not read: an order is as clinical as a record gets.
#[tokio::test(start_paused = true)]
async fn without_a_stage_for_plans_none_is_read_and_none_moves_anything() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    practice.walk(&patient, &[Plan("TREAT"), Wait(11)]).await;
    assert_eq!((practice.rung(deal), practice.visits().await), (0, Vec::new()));
    let asked: Vec<String> = practice.emr.with(|world| world.stats.by_route.keys().cloned().collect());
    assert!(asked.iter().all(|route| !route.contains("ServiceRequest")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn of_an_order_that_is_none_of_ours_not_even_that_it_is_there_is_kept() {
    let practice = Practice::new(rules_with_plans(), Settings::default());
    let (_, patient) = practice.ana().await;
    let orders = practice.emr.with(|world| {
        let forbids = world.plan(&patient, "TREAT", "active");
        world.edit("ServiceRequest", &forbids, &json!({ "doNotPerform": true }));
        [world.plan(&patient, "LABORATORY", "active"), forbids]
    });
    practice.settle().await;
    let ids = orders.map(|order| id(&format!("ServiceRequest/{order}")));
    let (account, clinic) = (&practice.rig.account.name, &practice.calendar.name);
    assert_eq!(practice.rig.store.visits(account, clinic, &ids).await.unwrap(), Vec::new());
}

/// AX-04: visits must have one opportunity that they are of, so a second is kept aside, whatever the account's profile says.
#[tokio::test(start_paused = true)]
async fn a_second_open_opportunity_is_quarantined_where_visits_move_them() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let contact = practice.rig.sandbox.with(|world| world.ids(Kind::Contact))[0];
    let second = practice.deal_of(contact, "Ana again");
    practice.settle().await;
    let quarantined: Vec<String> =
        practice.deals().into_iter().filter(|deal| deal.quarantined).map(|deal| deal.name).collect();
    assert_eq!(quarantined, ["Ana again"]);
    practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", practice.now() + TimeDelta::days(1)));
    practice.settle().await;
    assert_eq!((practice.rung(deal), practice.rung(second)), (2, 0), "the visit is of the first");
}

/// A refund opens its opportunity again: what was booked meanwhile counts at once, and not with the next day's look.
#[tokio::test(start_paused = true)]
async fn what_was_booked_while_a_sale_had_won_counts_when_a_refund_opens_the_opportunity_again() {
    let mut practice = Practice::new(rules(), Settings::default());
    let triggers = &mut Arc::make_mut(&mut practice.rig.connection).account.triggers;
    triggers.insert(name("any"), Trigger { on_refund: OnRefund::Reopen, ..Trigger::default() });
    let practice = practice.with_till();
    let (deal, patient) = practice.ana().await;
    let payment = practice.sell();
    practice.settle().await;
    let start = practice.now() + TimeDelta::days(5);
    practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", start));
    practice.settle().await;
    assert_eq!(practice.rung(deal), 5, "what is won stays won");
    let (square, _) = practice.till.as_ref().unwrap();
    square.with(|world| world.refund(&payment, 4_500)).unwrap();
    practice.settle().await;
    assert_eq!(practice.rung(deal), 2);
}

/// Two that were open beside one another before visits moved either: what a visit of the second does is kept, and it waits, as
/// any second does.
#[tokio::test(start_paused = true)]
async fn a_visit_of_an_opportunity_whose_place_is_taken_puts_it_in_quarantine_until_the_place_is_free() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, _) = practice.ana().await;
    let account = practice.rig.account.name.clone();
    let second = Opportunity {
        id: RecordId(uuid::Uuid::from_u128(7)),
        name: "From before".into(),
        ..practice.deals().remove(0)
    };
    let record = LocalRecord::Deal(second.clone());
    let ops = vec![Op::PutRecord { record, expected: 0, slot: None }];
    practice.rig.store.commit(&Commit { account, fence: None, ops }).await.unwrap();
    let (store, clinic) = (&*practice.rig.store, &practice.calendar);
    booking::book(store, clinic, second.id, practice.wish(1, "meeting"), practice.now()).await.unwrap();
    practice.wait(30).await;
    let shown = || practice.deals().into_iter().find(|deal| deal.id == second.id).unwrap();
    assert!(shown().quarantined);
    assert_ne!(shown().position.stage, second.position.stage, "the visit moved it");
    assert_eq!(practice.rung(deal), 0, "and no other");
    assert_eq!(practice.tasks().await, ["second_opportunity"]);
    let lost = BTreeMap::from([("dealstage".to_owned(), "closedlost".to_owned())]);
    practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &lost, hubspot::Change::Person)).unwrap();
    practice.wait(30).await;
    assert!(!shown().quarantined);
    assert_eq!(practice.tasks().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_a_person_chose_stays_unless_visits_are_further_on() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let choose = |stage: &str| {
        let stage = BTreeMap::from([("dealstage".to_owned(), stage.to_owned())]);
        practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &stage, hubspot::Change::Person)).unwrap();
    };
    choose(STAGES[3]);
    practice.settle().await;
    let start = practice.now() + TimeDelta::days(1);
    let consult = practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", start));
    practice.settle().await;
    assert_eq!(practice.rung(deal), 3, "a consult is not further on");
    practice.emr.with(|world| world.set_status("Appointment", &consult, "cancelled"));
    practice.wait(11).await;
    assert_eq!(practice.rung(deal), 3, "and calling it off takes nothing back");
    practice.emr.with(|world| world.appoint(&patient, "TREAT", "booked", start));
    practice.settle().await;
    assert_eq!(practice.rung(deal), 4);
    choose(STAGES[1]);
    practice.settle().await;
    assert_eq!(practice.rung(deal), 1, "a person may move it back; nothing new says otherwise");
}

#[tokio::test(start_paused = true)]
async fn a_visit_opens_an_opportunity_only_where_the_rules_say_so() {
    for opens in [false, true] {
        let practice = Practice::new(VisitRules { opens, ..rules() }, Settings::default());
        practice.contact("Ben", "Ito", "ben@example.com", "");
        let ben = practice.emr.with(|world| world.register("Ben", "Ito", "ben@example.com", ""));
        practice.settle().await;
        let start = practice.now() + TimeDelta::days(1);
        let first = practice.emr.with(|world| world.appoint(&ben, "TREAT", "booked", start));
        practice.settle().await;
        let expected = usize::from(opens);
        assert_eq!(practice.rig.sandbox.with(|world| world.ids(Kind::Deal)).len(), expected);
        if opens {
            practice.emr.with(|world| {
                let met = world.encounter(&ben, "TREAT", "in-progress", Some(&first));
                world.set_status("Encounter", &met, "finished");
            });
            practice.settle().await;
            assert_eq!(practice.deals()[0].position.status, Status::Won);
            practice.wait(60).await;
            practice.emr.with(|world| world.appoint(&ben, "TREAT", "booked", start + TimeDelta::days(30)));
            practice.settle().await;
            let open = practice.deals().into_iter().filter(|deal| deal.position.status == Status::Open).count();
            assert_eq!((practice.deals().len(), open), (2, 1), "repeat business");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_visit_of_a_type_that_nobody_mapped_moves_nothing_and_is_shown() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let start = practice.now() + TimeDelta::days(1);
    practice.emr.with(|world| {
        world.appoint(&patient, "MYSTERY", "booked", start);
        world.appoint(&patient, "LUNCH", "booked", start);
    });
    practice.settle().await;
    assert_eq!(practice.rung(deal), 0);
    assert_eq!(practice.tasks().await, ["unmapped_visit"]);
    let identity = practice.calendar.connector.check().await.unwrap();
    let item = identity.items.iter().find(|item| item.name == "visit_types").unwrap();
    assert!(!item.ok && item.detail.contains("MYSTERY (1)"), "{item:?}");
}

#[tokio::test(start_paused = true)]
async fn a_treatment_that_nobody_closed_is_asked_about_after_two_days() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    practice.emr.with(|world| world.appoint(&patient, "TREAT", "booked", practice.now() + TimeDelta::minutes(30)));
    practice.wait(60).await;
    assert_eq!(practice.tasks().await, Vec::<String>::new());
    practice.wait(49 * 60).await;
    assert_eq!(practice.tasks().await, ["visit_overdue"]);
    assert_eq!(practice.rung(deal), 4, "a task, and no win by itself");
}

/// FEATURES section 2 row 9: what the clinic charged is no plan's price, and no type's.
#[tokio::test(start_paused = true)]
async fn row_9_what_a_clinic_charged_goes_before_the_price_of_a_plan() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let plan = [
        ("amount".to_owned(), Value::Number(99.into())),
        ("currency".to_owned(), Value::text("USD")),
        ("value_source".to_owned(), Value::text("plan")),
    ];
    let ours = practice.deals()[0].id;
    practice.rig.desk().update(Kind::Deal, ours, None, &plan.into(), None).await.unwrap();
    practice.settle().await;
    assert_eq!(practice.in_hubspot(deal, "amount").parse().ok(), Some(99.0));
    practice.emr.with(|world| {
        let treatment = world.appoint(&patient, "TREAT", "booked", practice.now() + TimeDelta::days(1));
        let met = world.encounter(&patient, "TREAT", "in-progress", Some(&treatment));
        world.invoice(&patient, "balanced", 600.0, "USD");
        world.set_status("Encounter", &met, "finished");
    });
    practice.settle().await;
    assert_eq!((practice.rung(deal), practice.in_hubspot(deal, "amount").parse().ok()), (5, Some(600.0)));
    assert_eq!(practice.deals()[0].value_source, ValueSource::Manual);
}

/// What must not leave a clinic is in no record, no property at the CRM, and no task.
#[tokio::test(start_paused = true)]
async fn nothing_clinical_leaves_the_clinic() {
    let practice = Practice::new(rules_with_plans(), Settings { canary: true, ..Settings::default() });
    let (deal, patient) = practice.ana().await;
    practice.emr.with(|world| {
        world.plan(&patient, "TREAT", "active");
        let treatment = world.appoint(&patient, "TREAT", "booked", practice.now() + TimeDelta::days(1));
        let met = world.encounter(&patient, "TREAT", "in-progress", Some(&treatment));
        world.invoice(&patient, "balanced", 600.0, "USD");
        world.set_status("Encounter", &met, "finished");
        world.register("Stranger", "Unknown", "stranger@example.com", "");
    });
    practice.settle().await;
    assert_eq!((practice.rung(deal), practice.in_hubspot(deal, "amount").parse().ok()), (5, Some(600.0)));
    let crm = practice.rig.sandbox.with(|world| {
        let all = [Kind::Contact, Kind::Deal]
            .map(|kind| world.ids(kind).into_iter().map(move |id| (kind, id)).collect::<Vec<_>>());
        all.into_iter().flatten().map(|(kind, id)| format!("{:?}", world.properties(kind, id))).collect::<String>()
    });
    let account = &practice.rig.account.name;
    let mut ours = format!(
        "{:?}{:?}",
        practice.rig.store.all(account, Kind::Contact),
        practice.rig.store.all(account, Kind::Deal)
    );
    ours += &format!("{:?}", practice.visits().await);
    ours += &format!("{:?}", practice.rig.store.failures(account, 100).await.unwrap());
    for (place, text) in [("the CRM", crm), ("the store", ours)] {
        assert!(!text.contains(CANARY), "{place} knows what it must not");
        assert!(!text.contains("stranger@example.com"), "{place} knows a patient whom nobody here knew");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clinic_that_is_away_stops_nothing_else() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    practice.emr.with(|world| world.faults.unavailable_before = 1.0);
    let renamed = BTreeMap::from([("dealname".to_owned(), "Ana's new course".to_owned())]);
    practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &renamed, hubspot::Change::Person)).unwrap();
    practice.rig.engine().once().await.unwrap();
    assert_eq!(practice.deals()[0].name, "Ana's new course");
    practice.emr.with(|world| {
        world.faults.unavailable_before = 0.0;
        world.edit("Patient", &patient, &json!({ "gender": "female" }));
        world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(1))
    });
    practice.settle().await;
    assert_eq!(practice.rung(deal), 2);
}

/// AX-31 to AX-34, AX-33 among them: an appointment is booked, viewed, moved and called off from the opportunity, and there is one at
/// a time.
#[tokio::test(start_paused = true)]
async fn an_opportunity_has_one_appointment_which_is_booked_moved_and_called_off_from_it() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let ours = practice.deals().remove(0).id;
    let (store, clinic) = (&*practice.rig.store, &practice.calendar);
    let wish = |days: i64, kind: &str| practice.wish(days, kind);
    let unknown = booking::book(store, clinic, ours, wish(1, "party"), practice.now()).await.unwrap_err();
    assert!(unknown.to_string().contains("kind"), "{unknown}");
    let booked = booking::book(store, clinic, ours, wish(1, "meeting"), practice.now()).await.unwrap();
    assert_eq!(booked.patients[0].as_str(), patient, "the clinic knew her");
    let second = booking::book(store, clinic, ours, wish(2, "meeting"), practice.now()).await;
    assert!(matches!(second, Err(BookingError::Booked(id)) if id == booked.id()), "AX-34: one at a time");
    practice.settle().await;
    assert_eq!(practice.rung(deal), 2);
    let later = practice.now().trunc_subsecs(0) + TimeDelta::days(3);
    let to = VisitChange::Move { starts_at: later, ends_at: later + TimeDelta::minutes(30) };
    booking::change(store, clinic, ours, to, practice.now()).await.unwrap();
    practice.settle().await;
    assert_eq!(practice.visits().await[0].starts_at, Some(later));
    booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await.unwrap();
    practice.wait(11).await;
    assert_eq!(practice.rung(deal), 0);
    assert!(matches!(
        booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await,
        Err(BookingError::None)
    ));
    let again = booking::book(store, clinic, ours, wish(4, "service"), practice.now()).await.unwrap();
    assert_ne!(again.visit, booked.visit, "one that was called off is not the next one");
    practice.settle().await;
    assert_eq!(practice.rung(deal), 4);
    // A lost answer: asked for again it is the same one.
    let past = booking::book(store, clinic, ours, wish(-3, "meeting"), practice.now()).await.unwrap_err();
    assert!(past.to_string().contains("starts_at"), "{past}");
}

/// AX-32: each kind is booked where there is no appointment, with the clinic's own code. A room that is rented brings nobody
/// forward, and takes the one place of an appointment (AX-34) all the same.
#[tokio::test(start_paused = true)]
async fn ax_32_a_meeting_a_service_or_a_rental_is_booked_when_there_is_none() {
    for (kind, code, rung) in [("meeting", "CONSULT", 2), ("service", "TREAT", 4), ("rental", "ROOM", 0)] {
        let practice = Practice::new(rules(), Settings::default());
        let (deal, patient) = practice.ana().await;
        let ours = practice.deals().remove(0).id;
        let (store, clinic) = (&*practice.rig.store, &practice.calendar);
        let booked = booking::book(store, clinic, ours, practice.wish(1, kind), practice.now()).await.unwrap();
        assert_eq!(booked.patients[0].as_str(), patient, "{kind}");
        practice.settle().await;
        let there = practice.emr.with(|world| world.ids("Appointment"));
        let [id] = &there[..] else { panic!("{kind}: {there:?}") };
        let said = practice.emr.with(|world| world.resource("Appointment", id).cloned()).unwrap();
        assert_eq!((&said["appointmentType"]["coding"][0]["code"], &said["status"]), (&json!(code), &json!("booked")));
        assert_eq!(practice.rung(deal), rung, "{kind}");
        for other in ["meeting", "service", "rental"] {
            let second = booking::book(store, clinic, ours, practice.wish(2, other), practice.now()).await;
            assert!(matches!(second, Err(BookingError::Booked(id)) if id == booked.id()), "{other} beside a {kind}");
        }
        booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await.unwrap();
        practice.wait(11).await;
        assert_eq!(practice.rung(deal), 0, "{kind}: called off");
        booking::book(store, clinic, ours, practice.wish(3, "rental"), practice.now()).await.unwrap();
        assert_eq!(practice.tasks().await, Vec::<String>::new(), "{kind}");
    }
}

/// AX-32: the table may say that a rental is of no interest. Booked from here it is this opportunity's also where the clinic's word
/// of it came before the answer.
#[tokio::test(start_paused = true)]
async fn ax_32_a_rental_that_was_heard_of_before_its_booking_was_answered_can_be_called_off() {
    let practice = Practice::new(rules(), Settings::default());
    practice.ana().await;
    let ours = practice.deals().remove(0).id;
    let (store, clinic) = (&*practice.rig.store, &practice.calendar);
    // A meeting before it: since then the clinic's record of her is known, and a booking is one call.
    booking::book(store, clinic, ours, practice.wish(1, "meeting"), practice.now()).await.unwrap();
    practice.settle().await;
    booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await.unwrap();
    practice.wait(11).await;
    let wish = practice.wish(2, "rental");
    practice.emr.with(|world| world.faults.unavailable_after = 1.0);
    let lost = booking::book(store, clinic, ours, wish.clone(), practice.now()).await;
    assert!(matches!(lost, Err(BookingError::Clinic(_))), "{lost:?}");
    practice.emr.with(|world| world.faults.unavailable_after = 0.0);
    assert_eq!(practice.emr.with(|world| world.ids("Appointment").len()), 2, "it was made");
    practice.settle().await;
    let again = booking::book(store, clinic, ours, wish, practice.now()).await;
    assert!(matches!(again, Err(BookingError::Booked(_))), "AX-34: {again:?}");
    booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await.unwrap();
    practice.settle().await;
    let rental = practice.visits().await.into_iter().find(|visit| visit.class == VisitClass::Ignored).unwrap();
    assert_eq!((rental.status, rental.opportunity), (VisitStatus::Cancelled, Some(ours)));
}

/// Who walked in is written down afterwards: within a day, and not later.
#[tokio::test(start_paused = true)]
async fn an_appointment_that_began_within_a_day_is_still_made_and_moved() {
    let practice = Practice::new(rules(), Settings::default());
    practice.ana().await;
    let ours = practice.deals().remove(0).id;
    let (store, clinic) = (&*practice.rig.store, &practice.calendar);
    let at = |hours: i64| {
        let starts_at = practice.now() + TimeDelta::hours(hours);
        (starts_at, starts_at + TimeDelta::minutes(30))
    };
    let wish = |hours: i64| {
        let (starts_at, ends_at) = at(hours);
        Wish { starts_at, ends_at, ..practice.wish(0, "meeting") }
    };
    let refused = booking::book(store, clinic, ours, wish(-25), practice.now()).await.unwrap_err();
    assert!(refused.to_string().contains("more than a day ago"), "{refused}");
    booking::book(store, clinic, ours, wish(-23), practice.now()).await.unwrap();
    let to = |hours: i64| {
        let (starts_at, ends_at) = at(hours);
        VisitChange::Move { starts_at, ends_at }
    };
    let refused = booking::change(store, clinic, ours, to(-25), practice.now()).await.unwrap_err();
    assert!(refused.to_string().contains("more than a day ago"), "{refused}");
    booking::change(store, clinic, ours, to(-1), practice.now()).await.unwrap();
}

/// AX-34: somebody presses twice, at a clinic whose server would take both.
#[tokio::test(start_paused = true)]
async fn of_two_bookings_at_once_one_is_made_also_where_the_server_would_take_both() {
    let practice = Practice::new(rules(), Settings { conditional_create: false, ..Settings::default() });
    practice.ana().await;
    let ours = practice.deals().remove(0).id;
    let (store, clinic) = (&*practice.rig.store, &practice.calendar);
    let there = || practice.emr.with(|world| world.ids("Appointment").len());
    let wish = practice.wish(1, "meeting");
    let press = || booking::book(store, clinic, ours, wish.clone(), practice.now());
    let (one, other) = tokio::join!(press(), press());
    let refused = [&one, &other].into_iter().find_map(|booked| booked.as_ref().err()).unwrap();
    assert!(matches!(refused, BookingError::Busy(_)), "{refused}");
    assert_eq!((one.is_ok() || other.is_ok(), there()), (true, 1));
    practice.settle().await;
    booking::change(store, clinic, ours, VisitChange::Cancel, practice.now()).await.unwrap();
    practice.wait(11).await;
    // Whether it was made is not known: nothing else is asked for until it can be found.
    practice.emr.with(|world| (world.faults.late_commit, world.faults.late_ms) = (1.0, 30_000));
    let lost = press().await;
    practice.emr.with(|world| world.faults.late_commit = 0.0);
    assert!(matches!(lost, Err(BookingError::Clinic(ConnectorError::OutcomeUnknown(_)))), "{lost:?}");
    assert!(!clinic.connector.refuses_twins());
    let said = press().await.unwrap_err().to_string();
    assert!(said.contains("ask again, in 3 minutes at the latest"), "{said}");
    practice.rig.clock.sleep(Duration::from_secs(300)).await;
    press().await.unwrap();
    assert_eq!(there(), 2, "the one that was called off, and this one");
}

#[tokio::test(start_paused = true)]
async fn a_booking_whose_answer_was_lost_is_asked_for_again_and_made_once() {
    let practice = Practice::new(rules(), Settings::default());
    let contact = practice.contact("Ben", "Ito", "ben@example.com", "");
    practice.deal_of(contact, "Ben's course");
    practice.settle().await;
    let ours = practice.deals().remove(0).id;
    let wish = practice.wish(1, "meeting");
    for broken in ["patient", "appointment"] {
        practice.emr.with(|world| world.faults.lost_answer = 1.0);
        let lost = booking::book(&*practice.rig.store, &practice.calendar, ours, wish.clone(), practice.now()).await;
        assert!(matches!(lost, Err(BookingError::Clinic(_))), "{broken}: {lost:?}");
        practice.emr.with(|world| world.faults.lost_answer = 0.0);
    }
    practice.emr.with(|world| world.faults.unavailable_after = 0.6);
    let mut made = None;
    for _ in 0..40 {
        made = booking::book(&*practice.rig.store, &practice.calendar, ours, wish.clone(), practice.now()).await.ok();
        if made.is_some() {
            break;
        }
    }
    assert!(made.is_some());
    assert_eq!(practice.emr.with(|world| (world.ids("Patient").len(), world.ids("Appointment").len())), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_encounter_is_of_its_appointments_opportunity_also_when_that_was_won_before() {
    let practice = Practice::new(VisitRules { opens: true, ..rules() }, Settings::default());
    let (deal, patient) = practice.ana().await;
    let treatment =
        practice.emr.with(|world| world.appoint(&patient, "TREAT", "booked", world.now + TimeDelta::hours(1)));
    practice.settle().await;
    let won = BTreeMap::from([("dealstage".to_owned(), "closedwon".to_owned())]);
    practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &won, hubspot::Change::Person)).unwrap();
    practice.wait(60).await;
    let met = practice.emr.with(|world| world.encounter(&patient, "TREAT", "in-progress", Some(&treatment)));
    practice.wait(60).await;
    practice.emr.with(|world| world.set_status("Encounter", &met, "finished"));
    practice.settle().await;
    assert_eq!(practice.deals().len(), 1, "what was paid before is not sold a second time");
}

/// An appointment and its encounter that say the same at once are one visit, to which people come once.
#[tokio::test(start_paused = true)]
async fn that_somebody_came_is_noted_once_where_both_said_so_before_there_was_an_opportunity() {
    let practice = Practice::new(rules(), Settings::default());
    let contact = practice.contact("Ana", "Rivera", "ana@example.com", "(310) 555-0142");
    let patient = practice.emr.with(|world| world.register("Ana", "Rivera", "ana@example.com", "+13105550142"));
    practice.walk(&patient, &[Book("CONSULT"), Say(0, "arrived"), Meet("CONSULT", Some(0)), Wait(1)]).await;
    let known = practice.visits().await.len();
    assert_eq!((known, practice.told().await), (2, Vec::new()), "nothing is noted of nobody's opportunity");
    practice.deal_of(contact, "Ana's course");
    practice.wait(1_450).await;
    assert_eq!(practice.told().await, [Note::Arrived]);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_moved_back_is_not_raised_again_by_the_same_visit() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    practice.emr.with(|world| world.appoint(&patient, "TREAT", "booked", world.now + TimeDelta::days(9)));
    practice.settle().await;
    assert_eq!(practice.rung(deal), 4);
    let back = BTreeMap::from([("dealstage".to_owned(), STAGES[1].to_owned())]);
    practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &back, hubspot::Change::Person)).unwrap();
    for _ in 0..3 {
        practice.wait(1_450).await;
    }
    assert_eq!(practice.rung(deal), 1, "also after it was read again every day");
}

#[tokio::test(start_paused = true)]
async fn an_encounter_that_says_neither_what_nor_when_says_so_by_its_appointment() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let treatment = practice.emr.with(|world| world.appoint(&patient, "TREAT", "booked", world.now));
    practice.settle().await;
    practice.emr.with(|world| {
        let met = world.encounter(&patient, "TREAT", "in-progress", Some(&treatment));
        world.edit("Encounter", &met, &json!({ "type": null, "period": null, "status": "finished" }));
    });
    practice.settle().await;
    assert_eq!(practice.rung(deal), 5);
}

#[tokio::test(start_paused = true)]
async fn what_took_place_is_not_taken_back_and_a_second_move_has_its_time_too() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let book = |days: i64| {
        practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(days)))
    };
    let say = |visit: &str, status: &str| practice.emr.with(|world| world.set_status("Appointment", visit, status));
    let first = book(5);
    practice.settle().await;
    say(&first, "cancelled");
    let second = book(9);
    practice.wait(60).await;
    assert_eq!(practice.rung(deal), 2);
    say(&second, "cancelled");
    practice.wait(3).await;
    assert_eq!(practice.rung(deal), 2, "the second one has its ten minutes too");
    let third = book(12);
    practice.wait(60).await;
    assert_eq!(practice.rung(deal), 2);
    say(&third, "fulfilled");
    practice.settle().await;
    say(&third, "entered-in-error");
    practice.wait(60).await;
    assert_eq!(practice.rung(deal), 3, "a person says what becomes of it");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_mislays_a_visit_for_a_moment_is_asked_a_second_time() {
    let practice = Practice::new(rules(), Settings { remembers_deleted: false, ..Settings::default() });
    let (deal, patient) = practice.ana().await;
    let visit = practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(9)));
    practice.settle().await;
    practice.emr.with(|world| world.delete("Appointment", &visit));
    practice.rig.clock.sleep(Duration::from_secs(86_400)).await;
    practice.settle().await;
    assert_eq!(practice.visits().await[0].status, VisitStatus::Booked, "once is not enough");
    practice.wait(6).await;
    practice.wait(11).await;
    assert_eq!((practice.visits().await[0].status, practice.rung(deal)), (VisitStatus::Cancelled, 0));
}

#[tokio::test(start_paused = true)]
async fn one_unreadable_visit_does_not_keep_the_others_from_it() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    practice.emr.with(|world| {
        let odd = world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(2));
        world.edit("Appointment", &odd, &json!({ "participant": "nobody" }));
        world.appoint(&patient, "TREAT", "booked", world.now + TimeDelta::days(3));
    });
    practice.settle().await;
    assert_eq!(practice.rung(deal), 4);
    assert_eq!(practice.tasks().await, ["malformed"]);
}

#[tokio::test(start_paused = true)]
async fn one_unreadable_patient_keeps_nobody_elses_visit_from_it() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let contact = practice.contact("Ben", "Ito", "ben@example.com", "");
    let bens = practice.deal_of(contact, "Ben's course");
    let ben = practice.emr.with(|world| {
        let ben = world.register("Ben", "Ito", "ben@example.com", "");
        world.edit("Patient", &ben, &json!({ "telecom": "Jane Roe" }));
        for who in [&ben, &patient] {
            world.appoint(who, "CONSULT", "booked", world.now + TimeDelta::days(2));
        }
        ben
    });
    practice.settle().await;
    assert_eq!((practice.rung(deal), practice.rung(bens)), (2, 0));
    let failures = practice.rig.store.failures(&practice.rig.account.name, 10).await.unwrap();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(failure.code, "malformed");
    assert!(!failure.message.contains("Jane"), "{}", failure.message);
    let telecom = json!([{ "system": "email", "value": "ben@example.com" }]);
    practice.emr.with(|world| world.edit("Patient", &ben, &json!({ "telecom": telecom })));
    practice.wait(60).await;
    assert_eq!((practice.rung(deal), practice.rung(bens)), (2, 2));
    assert_eq!(practice.tasks().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_was_known_to_come_still_is_whatever_twin_there_is_since() {
    let practice = Practice::new(rules(), Settings::default());
    let (deal, patient) = practice.ana().await;
    let visit = practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(2)));
    practice.settle().await;
    practice.contact("Ana", "Rivera", "", "310 555 0142");
    practice.emr.with(|world| world.set_status("Appointment", &visit, "fulfilled"));
    practice.settle().await;
    assert_eq!(practice.rung(deal), 3);
    assert_eq!(practice.tasks().await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn everybody_who_comes_to_a_visit_of_several_goes_on_by_it_and_back() {
    let practice = Practice::new(rules(), Settings::default());
    let (ana, patient) = practice.ana().await;
    let contact = practice.contact("Ben", "Rivera", "ben@example.com", "(310) 555-0143");
    let ben = practice.deal_of(contact, "Ben's course");
    let visit = practice.emr.with(|world| {
        let second = world.register("Ben", "Rivera", "ben@example.com", "+13105550143");
        let visit = world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(2));
        world.bring(&visit, &second);
        visit
    });
    practice.settle().await;
    let booked = (practice.rung(ana), practice.rung(ben));
    assert!(booked.0 > 0 && booked.0 == booked.1, "{booked:?}");
    // One of them has an appointment of her own, and stays for it.
    practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(3)));
    practice.settle().await;
    practice.emr.with(|world| world.set_status("Appointment", &visit, "cancelled"));
    practice.wait(30).await;
    practice.wait(30).await;
    assert_eq!((practice.rung(ana), practice.rung(ben)), (booked.0, 0));
}

/// A couple come to two treatments together, and call both off between two looks: what happens to the one is of both contacts, and
/// so is what happens to the other.
#[tokio::test(start_paused = true)]
async fn two_visits_of_the_same_two_people_are_both_settled() {
    let practice = Practice::new(rules(), Settings::default());
    let (ana, patient) = practice.ana().await;
    let contact = practice.contact("Ben", "Rivera", "ben@example.com", "(310) 555-0143");
    let ben = practice.deal_of(contact, "Ben's course");
    let visits = practice.emr.with(|world| {
        let second = world.register("Ben", "Rivera", "ben@example.com", "+13105550143");
        [2, 9].map(|days| {
            let visit = world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(days));
            world.bring(&visit, &second);
            visit
        })
    });
    practice.settle().await;
    let booked = (practice.rung(ana), practice.rung(ben));
    assert!(booked.0 > 0 && booked.0 == booked.1, "{booked:?}");
    practice.emr.with(|world| visits.iter().for_each(|visit| world.set_status("Appointment", visit, "cancelled")));
    practice.wait(30).await;
    practice.wait(30).await;
    assert_eq!((practice.rung(ana), practice.rung(ben)), (0, 0));
    assert!(!practice.tasks().await.contains(&"stale".to_owned()), "{:?}", practice.tasks().await);
}

/// Families share addresses: what a chart says of somebody is never written over with what is known of another, nor emptied.
#[tokio::test(start_paused = true)]
async fn a_patient_with_a_contacts_address_is_linked_only_if_it_is_that_person_and_keeps_what_nobody_here_says() {
    // Who is at the clinic with Ana's address, and whether that is she.
    for (first, last, phone, is_she) in [
        ("Leo", "Rivera", "+13105550142", false),
        ("Ana", "Stone", "+13105550177", false),
        ("Ana", "Rivera", "+13105550177", true),
        ("ANA MARIA", "rivera", "", true),
        ("Ana", "Stone", "+13105550142", true),
    ] {
        let what = format!("{first} {last} {phone}");
        let practice = Practice::new(rules(), Settings::default()).with_patients(Dialect::FullR4, |router| router);
        let patient = practice.emr.with(|world| world.register(first, last, "ana@example.com", phone));
        practice.contact("Ana", "Rivera", "ana@example.com", "(310) 555-0142");
        practice.wait(5).await;
        let links = practice.rig.store.all_links(&practice.rig.account.name, &practice.calendar.name);
        assert_eq!(links.iter().any(|link| link.external.as_str() == patient), is_she, "{what}: {links:?}");
        let chart = practice.emr.with(|world| world.resource("Patient", &patient).cloned()).unwrap();
        let given = chart["name"][0]["given"][0].as_str().unwrap_or_default().to_owned();
        assert!(is_she || given == first, "{what}: {chart}");
    }
    // Nobody here knows her number: it stays on the chart.
    let practice = Practice::new(rules(), Settings::default()).with_patients(Dialect::FullR4, |router| router);
    let patient = practice.emr.with(|world| world.register("Ana", "Rivera", "ana@example.com", "+13105550142"));
    practice.contact("Ana", "Rivera", "ana@example.com", "");
    practice.wait(5).await;
    let chart = practice.emr.with(|world| world.resource("Patient", &patient).cloned()).unwrap();
    assert!(chart["telecom"].to_string().contains("+13105550142"), "{chart}");
}

#[tokio::test(start_paused = true)]
async fn rules_that_name_what_is_not_there_are_shown() {
    for wrong in [
        VisitRules { pipeline: "Seles".into(), ..rules() },
        VisitRules { consult_booked: Some("Presented".into()), ..rules() },
        VisitRules { consult_booked: Some("Closed won".into()), ..rules() },
    ] {
        let practice = Practice::new(wrong, Settings::default());
        let (deal, patient) = practice.ana().await;
        practice.emr.with(|world| world.appoint(&patient, "CONSULT", "booked", world.now + TimeDelta::days(2)));
        practice.settle().await;
        assert_eq!((practice.rung(deal), practice.tasks().await), (0, vec!["visit_rules".to_owned()]));
    }
}

#[test]
fn rules_are_written_as_the_example_says() {
    let text = r#"
        pipeline = "Sales Pipeline"
        services = ["injectables"]
        consult_booked = "Presentation Scheduled"
        hold_minutes = 5
    "#;
    let rules: VisitRules = toml::from_str(text).unwrap();
    assert_eq!(rules.hold_minutes, Some(5));
    assert!(toml::from_str::<VisitRules>("pipelines = \"x\"").is_err(), "a mistyped key is refused");
    assert_eq!(Trigger::default(), toml::from_str("").unwrap());
}
