//! A company with several systems: HubSpot beside any of Pipedrive, a Square till and a clinic's FHIR server, all on one account, one
//! store and one gate. People edit in every CRM and here, sell and give back, book, call off and treat; the network fails; all
//! engines are killed at once. Then everything is given time, and the checkers look at what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::de::DeserializeOwned;
use serde_json::json;
use tandem_contract::{
    Call, Connector, Credentials, ExternalId, Fetched, Kind, Lane, RouterTransport, Secret, Transport, Value,
    VisitClass, VisitRead, VisitStatus,
};
use tandem_fhir::{Fhir, Login, VisitType, sandbox as fhir};
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::{Pipedrive, sandbox as pipedrive};
use tandem_square::{Square, sandbox as square};
use tokio::task::JoinHandle;

use super::{
    checks::equal_on_both_sides,
    gate::{Act, At, GatedTransport},
    rig::{Doorbell, Rig, account},
    run::{Outcome, on_virtual_time},
};
use crate::{
    edit::{Desk, Fields},
    model::{
        EvidenceState, Link, LinkState, LocalRecord, Name, Opportunity, Profile, RecordId, Status, VisitRules,
        ids::RunId,
    },
    store::{SyncStore, memory::MemoryStore},
    sync::{connection::Connection, engine::Engine, guard::Limits, mapping, plan::remote_values},
    visits::{
        ladder::is_about,
        stage::{Situation, decide},
    },
};

const CALL: Call = Call { lane: Lane::Interactive };
const LIMITS: Limits =
    Limits { deletes: 10_000, delete_percent: 100, alike: 10_000, alike_percent: 100, creates: 10_000 };

/// One of the other systems: its connection, and where its webhooks arrive.
struct Spoke<S> {
    sandbox: S,
    connection: Arc<Connection>,
    doorbell: Arc<Doorbell>,
}

/// Everybody's systems.
struct Company {
    rig: Rig,
    pipedrive: Option<Spoke<pipedrive::Sandbox>>,
    square: Option<Spoke<square::Sandbox>>,
    fhir: Option<Spoke<fhir::Sandbox>>,
}

/// What people did.
#[derive(Default)]
struct Diary {
    story: Vec<String>,
    /// The last text that somebody typed, by system, record and field.
    said: BTreeMap<(&'static str, String, &'static str), String>,
    /// Orders: what was sold for how much, and what was given back of it.
    sales: BTreeMap<String, (i64, i64)>,
    kills: u64,
}

impl Diary {
    fn say(&mut self, system: &'static str, record: impl ToString, field: &'static str, text: &str) {
        self.story.push(format!("{system}: {} {field} is {text:?}", record.to_string()));
        self.said.insert((system, record.to_string(), field), text.to_owned());
    }
}

#[expect(clippy::expect_used, reason = "constants that parse")]
fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn rules() -> VisitRules {
    VisitRules {
        pipeline: "Sales".into(),
        consult_booked: Some("Presentation scheduled".into()),
        consult_done: Some("Decision maker bought in".into()),
        treatment_booked: Some("Contract sent".into()),
        ..VisitRules::default()
    }
}

/// The same faults for every system, from 0 to 1.
fn storm<F: DeserializeOwned + Default>(rng: &mut StdRng, level: f64, late: bool) -> F {
    let mut some = |most: f64| if rng.random_bool(0.6) { rng.random_range(0.0..=1.0) * level * most } else { 0.0 };
    let faults = json!({
        "slow": some(1.0), "latency_ms": 12_000, "lost_request": some(0.5), "lost_answer": some(0.7),
        "late_commit": if late { some(0.7) } else { 0.0 }, "late_ms": 30_000, "too_many": some(0.3),
        "unavailable_before": some(0.7), "unavailable_after": some(0.7), "truncated": some(0.4),
        "webhook_lost": some(3.0), "webhook_twice": some(2.0), "webhook_late": some(2.0), "webhook_delay_ms": 300_000,
    });
    serde_json::from_value(faults).unwrap_or_default()
}

impl Company {
    #[expect(clippy::expect_used, reason = "constants that parse")]
    fn new(seed: u64, rng: &mut StdRng, feeds_only: bool) -> Self {
        let mix = [rng.random_bool(0.7), rng.random_bool(0.6), rng.random_bool(0.5)];
        let names: Vec<Name> = ["pipedrive", "square", "emr"]
            .into_iter()
            .zip(mix)
            .filter(|(_, is_there)| *is_there)
            .map(|(known, _)| name(known))
            .collect();
        let mut account = account("glow_clinic", Profile::Agency);
        if mix[2] {
            account.visit_rules.insert(name("clinic"), rules());
        }
        let settings = hubspot::Settings {
            search_lag_ms: (200, rng.random_range(300..20_000)),
            recompute_seconds: 0,
            page_rows: *[2, 200].choose(rng).unwrap_or(&200),
            ..hubspot::Settings::default()
        };
        let siblings = names.clone();
        let store = Arc::new(MemoryStore::new());
        let mut rig =
            Rig::in_store(store, account, seed, settings, |connection| connection.siblings = siblings, |router| router);
        rig.audit_every = Duration::from_secs(if feeds_only { 48 * 3_600 } else { 1_800 });
        let beside = |me: &str, connector: Arc<dyn Connector>, text: &str, hook: &str| {
            let mut connection = Connection::clone(&rig.connection);
            connection.siblings = std::iter::once(rig.name.clone())
                .chain(names.iter().filter(|other| other.as_str() != me).cloned())
                .collect();
            connection.name = name(me);
            connection.connector = connector;
            connection.lenses = mapping::parse(text).unwrap_or_default();
            connection.hook = hook.parse().ok();
            Arc::new(connection)
        };
        let transport =
            |router| Arc::new(GatedTransport { inner: RouterTransport::new(router), gate: rig.gate.clone() });
        let pipedrive = mix[0].then(|| {
            let text = include_str!("../../config/mappings/pipedrive.toml");
            let sandbox = pipedrive::Sandbox::new(pipedrive::Settings::default(), seed, rig.clock.clone());
            let stages = rig.sandbox.with(|world| world.open_stages());
            sandbox.with(|world| {
                for (label, stages) in &stages {
                    let stages: Vec<(&str, u8)> =
                        stages.iter().map(|(label, chance)| (label.as_str(), *chance)).collect();
                    world.add_pipeline(label, &stages);
                }
            });
            let token =
                Secret::new(sandbox.with(|world| world.settings.api_tokens.first().cloned().unwrap_or_default()));
            let base = "http://pipedrive.example.com".parse().expect("an address");
            let mut options = tandem_pipedrive::Options::new(base, Credentials::Token(token));
            options.select = mapping::selection(&mapping::parse(text).unwrap_or_default());
            options.daily_budget = 3_000_000;
            options.installation = "sim".into();
            options.webhook_login = Some(("user".into(), Secret::new("pass")));
            let connector: Arc<dyn Connector> =
                Arc::new(Pipedrive::new(options, transport(sandbox.router()), rig.clock.clone()));
            let connection = beside("pipedrive", connector, text, "http://tandem.example.com/webhooks/pipedrive");
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        let square = mix[1].then(|| {
            let text = include_str!("../../config/mappings/square.toml");
            let hook = "http://tandem.example.com/webhooks/square";
            let sandbox = square::Sandbox::new(square::Settings::default(), seed, rig.clock.clone());
            let token =
                Secret::new(sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
            let base = "http://square.example.com".parse().expect("an address");
            let mut options = tandem_square::Options::new(base, Credentials::Token(token));
            options.select = mapping::selection(&mapping::parse(text).unwrap_or_default());
            options.signature_keys = vec![sandbox.with(|world| world.subscribe(hook))];
            options.notification_url = Some(hook.into());
            let connector: Arc<dyn Connector> =
                Arc::new(Square::new(options, transport(sandbox.router()), rig.clock.clone()));
            let connection = beside("square", connector, text, hook);
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        let fhir = mix[2].then(|| {
            let text = include_str!("../../config/mappings/fhir.toml");
            let sandbox = fhir::Sandbox::new(fhir::Settings::default(), seed, rig.clock.clone());
            let token =
                Secret::new(sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
            let base = "http://fhir.example.com/fhir".parse().expect("an address");
            let mut options = tandem_fhir::Options::new(base, Login::Token(token));
            let row =
                |code: &str, class| VisitType { system: None, code: code.into(), class, service: None, kind: None };
            options.visit_types = vec![row("CONSULT", VisitClass::Consult), row("TREAT", VisitClass::Treatment)];
            options.hook_token = Some(Secret::new("hook"));
            let connector: Arc<dyn Connector> =
                Arc::new(Fhir::new(options, transport(sandbox.router()), rig.clock.clone()));
            let connection = beside("emr", connector, text, "http://tandem.example.com/webhooks/emr");
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        Self { rig, pipedrive, square, fhir }
    }

    fn connections(&self) -> Vec<Arc<Connection>> {
        let others = [
            self.pipedrive.as_ref().map(|spoke| &spoke.connection),
            self.square.as_ref().map(|spoke| &spoke.connection),
            self.fhir.as_ref().map(|spoke| &spoke.connection),
        ];
        std::iter::once(&self.rig.connection).chain(others.into_iter().flatten()).cloned().collect()
    }

    /// The connections whose records merge.
    fn crms(&self) -> Vec<Arc<Connection>> {
        self.connections().into_iter().filter(|connection| !connection.connector.kinds().is_empty()).collect()
    }

    /// Every engine, as after a start of the process.
    fn start(&self) -> Vec<JoinHandle<()>> {
        let mut engines = vec![self.rig.engine_within(LIMITS)];
        let doorbells = [
            self.pipedrive.as_ref().map(|spoke| (&spoke.connection, &spoke.doorbell)),
            self.square.as_ref().map(|spoke| (&spoke.connection, &spoke.doorbell)),
            self.fhir.as_ref().map(|spoke| (&spoke.connection, &spoke.doorbell)),
        ];
        for (connection, doorbell) in doorbells.into_iter().flatten() {
            let engine = Engine::new(self.rig.shared(LIMITS), connection.clone());
            doorbell.wakes(&engine);
            engines.push(engine);
        }
        let bells: BTreeMap<Name, Arc<tokio::sync::Notify>> =
            engines.iter().map(|engine| (engine.connection().name.clone(), engine.wake.clone())).collect();
        engines.iter_mut().for_each(|engine| engine.meet(&bells));
        engines.into_iter().map(|engine| tokio::spawn(async move { engine.run().await })).collect()
    }

    fn deliver(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let mut all = vec![tokio::spawn({
            let company = self.clone();
            async move { company.rig.deliver_webhooks().await }
        })];
        let to = |doorbell: &Arc<Doorbell>| -> Arc<dyn Transport> { doorbell.clone() };
        if let Some(spoke) = &self.pipedrive {
            all.push(tokio::spawn(spoke.sandbox.clone().deliver_webhooks(to(&spoke.doorbell))));
        }
        if let Some(spoke) = &self.square {
            all.push(tokio::spawn(spoke.sandbox.clone().deliver_webhooks(to(&spoke.doorbell))));
        }
        if let Some(spoke) = &self.fhir {
            all.push(tokio::spawn(spoke.sandbox.clone().deliver_webhooks(to(&spoke.doorbell))));
        }
        all
    }

    /// No webhook at all: the polls must do.
    fn silence(&self) {
        self.rig.sandbox.with(|world| world.faults.webhook_lost = 1.0);
        if let Some(spoke) = &self.pipedrive {
            spoke.sandbox.with(|world| world.faults.webhook_lost = 1.0);
        }
        if let Some(spoke) = &self.square {
            spoke.sandbox.with(|world| world.faults.webhook_lost = 1.0);
        }
        if let Some(spoke) = &self.fhir {
            spoke.sandbox.with(|world| world.faults.webhook_lost = 1.0);
        }
    }

    fn set_storm(&self, rng: &mut StdRng, level: f64) {
        let faults = storm(rng, level, true);
        self.rig.sandbox.with(|world| world.faults = faults);
        if let Some(spoke) = &self.pipedrive {
            // What lands there late may leave a twin, which is said and not hidden: see the limits in docs/proof.md.
            let faults = storm(rng, level, false);
            spoke.sandbox.with(|world| world.faults = faults);
        }
        if let Some(spoke) = &self.square {
            let faults = storm(rng, level, true);
            let between = if rng.random_bool(0.3) && level > 0.0 { 0.3 } else { 0.0 };
            spoke.sandbox.with(|world| world.faults = square::Faults { edited_in_between: between, ..faults });
        }
        if let Some(spoke) = &self.fhir {
            let faults = storm(rng, level, false);
            spoke.sandbox.with(|world| world.faults = faults);
        }
    }

    fn calm(&self) {
        self.set_storm(&mut StdRng::seed_from_u64(0), 0.0);
    }

    /// Writes that reached a vendor so far.
    fn writes(&self) -> u64 {
        let hubspot = self.rig.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.archived);
        let pipedrive = self.pipedrive.as_ref().map_or(0, |spoke| {
            spoke.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.deleted)
        });
        let square = self.square.as_ref().map_or(0, |spoke| {
            spoke.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.deleted)
        });
        hubspot + pipedrive + square
    }

    fn deals(&self) -> Vec<Opportunity> {
        let all = self.rig.store.all(&self.rig.account.name, Kind::Deal);
        all.into_iter().filter_map(|record| record.as_opportunity().cloned()).collect()
    }

    /// People whom every system knows, each with a deal in HubSpot.
    fn furnish(&self, rng: &mut StdRng) {
        for n in 0..rng.random_range(1..5_u32) {
            let (first, last) = (format!("First{n}"), format!("Last{n}"));
            let (email, phone) = (format!("p{n}@example.com"), format!("+1602555{:04}", 100 + n));
            let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let person: BTreeMap<String, String> =
                text(&[("firstname", &first), ("lastname", &last), ("email", &email), ("phone", &phone)]);
            let deal: BTreeMap<String, String> =
                text(&[("dealname", &format!("deal {n}")), ("dealstage", "appointmentscheduled"), ("amount", "100")]);
            self.rig.sandbox.with(|world| {
                let person = world.create(Kind::Contact, &person, hubspot::Change::Person);
                let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person);
                if let (Ok(person), Ok(deal)) = (person, deal) {
                    world.associate(deal, person, hubspot::Change::Person);
                }
            });
            if let Some(spoke) = &self.square {
                let body =
                    json!({ "given_name": first, "family_name": last, "email_address": email, "phone_number": phone });
                let _ = spoke.sandbox.with(|world| world.create_customer(&body, square::Change::Person));
            }
            if let Some(spoke) = &self.fhir {
                spoke.sandbox.with(|world| world.register(&first, &last, &email, &phone));
            }
        }
    }

    fn desk<'a>(&'a self, connections: &'a [Name]) -> Desk<'a> {
        Desk {
            store: &*self.rig.store,
            ids: self.rig.ids(),
            account: &self.rig.account,
            connections,
            now: self.rig.clock.now(),
            run: RunId(uuid::Uuid::nil()),
        }
    }

    /// One thing that somebody does somewhere.
    async fn act(&self, rng: &mut StdRng, diary: &mut Diary, number: u64) {
        let text = format!("t{number}");
        self.note_between(diary);
        match rng.random_range(0..14) {
            12 => self.meet_in_hubspot(diary, &text),
            13 => self.meet_here(diary, &text).await,
            0..=2 => self.edit_in_hubspot(rng, diary, &text),
            3 | 4 => self.edit_in_pipedrive(rng, diary, &text),
            5 | 6 => self.edit_here(rng, diary, &text).await,
            7 => self.edit_customer(rng, diary, &text),
            8 | 9 => self.sell(rng, diary),
            _ => self.visit(rng, diary),
        }
    }

    /// What somebody at the till typed in between replaced what was there, as a person's word does.
    fn note_between(&self, diary: &mut Diary) {
        let Some(spoke) = &self.square else { return };
        for (id, text) in spoke.sandbox.with(|world| std::mem::take(&mut world.stats.in_between)) {
            diary.say("Square", id, "last_name", &text);
        }
    }

    /// Somebody new, with a deal.
    fn meet_in_hubspot(&self, diary: &mut Diary, text: &str) {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let person = pairs(&[("firstname", "New"), ("lastname", text), ("email", &format!("{text}@example.com"))]);
        let deal = pairs(&[("dealname", text), ("dealstage", "appointmentscheduled")]);
        self.rig.sandbox.with(|world| {
            let person = world.create(Kind::Contact, &person, hubspot::Change::Person);
            let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person);
            if let (Ok(person), Ok(deal)) = (person, deal) {
                world.associate(deal, person, hubspot::Change::Person);
                diary.say("HubSpot", deal, "name", text);
            }
        });
    }

    /// The same here.
    async fn meet_here(&self, diary: &mut Diary, text: &str) {
        let names: Vec<Name> = self.connections().iter().map(|connection| connection.name.clone()).collect();
        let value = |text: &str| Value::text(text);
        let person = Fields::from([
            ("first_name".to_owned(), value("New")),
            ("last_name".to_owned(), value(text)),
            ("email".to_owned(), value(&format!("{text}@example.com"))),
        ]);
        let Ok(contact) = self.desk(&names).create(Kind::Contact, &person, None).await else { return };
        let mut deal =
            Fields::from([("name".to_owned(), value(text)), ("contact".to_owned(), value(&contact.id().to_string()))]);
        // In the pipeline that every CRM has.
        let pipelines = self.rig.store.pipelines(&self.rig.account.name).await.unwrap_or_default();
        let Some(sales) = pipelines.iter().find(|pipeline| pipeline.label == "Sales") else { return };
        deal.insert("pipeline".into(), value(&sales.id.to_string()));
        deal.extend(sales.default_stage().map(|stage| ("stage".to_owned(), value(&stage.id.to_string()))));
        if let Ok(deal) = self.desk(&names).create(Kind::Deal, &deal, None).await {
            diary.say("here", deal.id(), "name", text);
        }
    }

    fn edit_in_hubspot(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        self.rig.sandbox.with(|world| {
            let (kind, field, property) = *[
                (Kind::Deal, "name", "dealname"),
                (Kind::Deal, "description", "description"),
                (Kind::Contact, "last_name", "lastname"),
            ]
            .choose(rng)
            .unwrap_or(&(Kind::Deal, "name", "dealname"));
            let Some(id) = world.ids(kind).choose(rng).copied() else { return };
            let properties = [(property.to_owned(), text.to_owned())].into();
            if world.update(kind, id, &properties, hubspot::Change::Person).is_ok() {
                diary.say("HubSpot", id, field, text);
            }
        });
    }

    fn edit_in_pipedrive(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let Some(spoke) = &self.pipedrive else { return };
        spoke.sandbox.with(|world| {
            let Some(id) = world.ids(Kind::Deal).choose(rng).copied() else { return };
            if world.update(Kind::Deal, id, &json!({ "title": text }), pipedrive::Change::Person).is_ok() {
                diary.say("Pipedrive", id, "name", text);
            }
        });
    }

    async fn edit_here(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let names: Vec<Name> = self.connections().iter().map(|connection| connection.name.clone()).collect();
        let ids: Vec<RecordId> =
            self.deals().iter().filter(|deal| deal.deleted_at.is_none()).map(|deal| deal.id).collect();
        let Some(id) = ids.choose(rng).copied() else { return };
        let field = *["name", "description"].choose(rng).unwrap_or(&"name");
        let fields = Fields::from([(field.to_owned(), Value::text(text))]);
        if self.desk(&names).update(Kind::Deal, id, None, &fields, None).await.is_ok() {
            diary.say("here", id, field, text);
        }
    }

    fn edit_customer(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let Some(spoke) = &self.square else { return };
        spoke.sandbox.with(|world| {
            let Some(id) = world.customer_ids().choose(rng).cloned() else { return };
            if world.update_customer(&id, &json!({ "family_name": text })).is_ok() {
                diary.say("Square", id, "last_name", text);
            }
        });
    }

    fn sell(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.square else { return };
        spoke.sandbox.with(|world| {
            if let (Some(order), true) =
                (diary.sales.keys().cloned().collect::<Vec<_>>().choose(rng), rng.random_bool(0.3))
            {
                let (price, back) = diary.sales[order];
                let amount = if rng.random_bool(0.5) { price - back } else { (price - back) / 2 };
                let payment = world.payments_of(order).first().cloned().unwrap_or_default();
                if amount > 0 && world.refund(&payment, amount).is_ok() {
                    diary.sales.insert(order.clone(), (price, back + amount));
                    diary.story.push(format!("Square: {amount} of {order} is given back"));
                }
                return;
            }
            let Some(customer) = world.customer_ids().choose(rng).cloned() else { return };
            let part = square::Part { customer: Some(customer.clone()), ..square::Part::default() };
            let lines = vec![square::Line::of("Neurotoxin treatment")];
            let ticket =
                square::Ticket { location: "Downtown".into(), lines, parts: vec![part], ..square::Ticket::default() };
            if let Ok(order) = world.sell(&ticket) {
                diary.story.push(format!("Square: {order} is sold to {customer}"));
                diary.sales.insert(order, (65_000, 0));
            }
        });
    }

    fn visit(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.fhir else { return };
        spoke.sandbox.with(|world| {
            let Some(patient) = world.ids("Patient").choose(rng).cloned() else { return };
            let code = if rng.random_bool(0.5) { "CONSULT" } else { "TREAT" };
            let booked = world.ids("Appointment").choose(rng).cloned();
            let done = match (booked, rng.random_range(0..6)) {
                (Some(visit), 0) => {
                    let status = *["cancelled", "noshow", "fulfilled", "arrived"].choose(rng).unwrap_or(&"arrived");
                    world.set_status("Appointment", &visit, status);
                    format!("{visit} is {status}")
                }
                (Some(visit), 1) => {
                    world.reschedule(&visit, world.now + TimeDelta::days(3));
                    format!("{visit} is moved")
                }
                (_, 2) => {
                    let met = world.encounter(&patient, code, "in-progress", None);
                    if rng.random_bool(0.5) {
                        world.set_status("Encounter", &met, "finished");
                    }
                    format!("{met} of {patient}, {code}")
                }
                _ => {
                    let at = world.now + TimeDelta::days(rng.random_range(1..9));
                    let visit = world.appoint(&patient, code, "booked", at);
                    format!("{visit} of {patient}, {code}")
                }
            };
            diary.story.push(format!("clinic: {done}"));
        });
    }

    /// Half of what the write bound says: how many records of a spoke hold an edit that was not read yet.
    async fn unread(&self) -> u64 {
        let mut bound = 0;
        let crms = self.crms();
        let mut by_record: BTreeMap<(Kind, RecordId), u64> = BTreeMap::new();
        for connection in &crms {
            for (link, fetched) in self.pairs(connection).await {
                let count = by_record.entry((link.kind, link.local)).or_default();
                let Fetched::Found(remote) = fetched else { continue };
                let lens = connection.lenses.get(&link.kind);
                let differs = |row: &crate::sync::lens::Row| {
                    let now = remote_values(row, &remote);
                    link.base.get(&row.name).zip(now).is_none_or(|(base, now)| base.1 != now)
                };
                *count += u64::from(lens.is_some_and(|lens| lens.rows.iter().any(differs)));
            }
        }
        for (kind, _) in self
            .rig
            .store
            .all(&self.rig.account.name, Kind::Deal)
            .iter()
            .map(|one| (Kind::Deal, one.id()))
            .chain(
                self.rig.store.all(&self.rig.account.name, Kind::Contact).iter().map(|one| (Kind::Contact, one.id())),
            )
            .filter(|key| !by_record.contains_key(key))
            .collect::<Vec<_>>()
        {
            bound += 2 * crms.iter().filter(|one| one.connector.kinds().contains(&kind)).count() as u64;
        }
        for ((kind, _), unread) in by_record {
            let spokes = crms.iter().filter(|one| one.connector.kinds().contains(&kind)).count() as u64;
            bound += (unread + 1) * spokes;
        }
        bound
    }

    /// Linked records of a connection, with what is there now.
    async fn pairs(&self, connection: &Connection) -> Vec<(Link, Fetched)> {
        let links = self.rig.store.all_links(&self.rig.account.name, &connection.name);
        let mut all = Vec::new();
        for kind in connection.connector.kinds() {
            let linked: Vec<Link> =
                links.iter().filter(|link| link.kind == kind && link.state == LinkState::Linked).cloned().collect();
            let ids: Vec<ExternalId> = linked.iter().map(|link| link.external.clone()).collect();
            let fetched = connection.connector.fetch(CALL, kind, &ids).await.unwrap_or_default();
            all.extend(linked.into_iter().zip(fetched));
        }
        all
    }

    /// What is not in step: K1.
    async fn not_in_step(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let all = [Kind::Contact, Kind::Deal].into_iter().flat_map(|kind| {
            self.rig
                .store
                .all(&self.rig.account.name, kind)
                .into_iter()
                .map(move |record| ((kind, record.id()), record))
        });
        let locals: BTreeMap<(Kind, RecordId), LocalRecord> = all.collect();
        for connection in self.crms() {
            let links = self.rig.store.all_links(&self.rig.account.name, &connection.name);
            let mut found = Vec::new();
            equal_on_both_sides(&self.rig, &connection, &links, &locals, &mut found).await;
            wrong.extend(found.into_iter().map(|one| format!("K1: {}: {one}", connection.name)));
            for (key, record) in &locals {
                let quarantined = record.as_opportunity().is_some_and(|deal| deal.quarantined);
                let is_carried = connection.connector.kinds().contains(&key.0) && !record.is_deleted() && !quarantined;
                if is_carried && !links.iter().any(|link| (link.kind, link.local) == *key) {
                    wrong.push(format!("K1: {}: our {} {} was never made there", connection.name, key.0, key.1));
                }
            }
        }
        wrong
    }

    /// K3: no two records of a vendor carry one marker.
    async fn twins(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for connection in self.crms() {
            for kind in connection.connector.kinds() {
                let ids: Vec<String> = match connection.name.as_str() {
                    "hubspot" => {
                        self.rig.sandbox.with(|world| world.ids(kind)).iter().map(ToString::to_string).collect()
                    }
                    "pipedrive" => self
                        .pipedrive
                        .iter()
                        .flat_map(|one| one.sandbox.with(|world| world.ids(kind)))
                        .map(|id| id.to_string())
                        .collect(),
                    _ => self.square.iter().flat_map(|one| one.sandbox.with(|world| world.customer_ids())).collect(),
                };
                let ids: Vec<ExternalId> = ids.into_iter().filter_map(|id| ExternalId::new(id).ok()).collect();
                let mut seen: BTreeSet<String> = BTreeSet::new();
                for fetched in connection.connector.fetch(CALL, kind, &ids).await.unwrap_or_default() {
                    if let Fetched::Found(record) = fetched
                        && let Some(marker) = record.marker
                        && !seen.insert(marker.clone())
                    {
                        wrong.push(format!("K3: {}: two {kind}s were made for {marker}", connection.name));
                    }
                }
            }
        }
        wrong
    }

    /// K5: what is paid wins, for what is left of it; K6: every visit is known as it is, and did what it does.
    async fn evidence_and_visits(&self, diary: &Diary) -> Vec<String> {
        let mut wrong = Vec::new();
        let (store, account) = (&self.rig.store, &self.rig.account);
        if let Some(spoke) = &self.square {
            for (order, (price, back)) in &diary.sales {
                let Ok(id) = ExternalId::new(order.as_str()) else { continue };
                let known =
                    store.evidence(&account.name, &spoke.connection.name, &[id]).await.unwrap_or_default().pop();
                let Some(known) = known else {
                    wrong.push(format!("K5: nobody heard of the sale {order}"));
                    continue;
                };
                let left = price - back;
                let is_counted = known.state == EvidenceState::Live;
                if is_counted && known.amount.map(|amount| amount.minor) != Some(left) {
                    wrong.push(format!("K5: {order} counts for {:?}, and {left} is left of it", known.amount));
                }
                if known.state == EvidenceState::Waiting || (known.state == EvidenceState::Ended && left > 0) {
                    wrong.push(format!("K5: {order} is {:?}: {}", known.state, known.why));
                }
                let deal = self.deals().into_iter().find(|deal| Some(deal.id) == known.opportunity);
                if is_counted && deal.as_ref().is_none_or(|deal| deal.position.status != Status::Won) {
                    wrong.push(format!(
                        "K5: {order} is paid, and its opportunity is {:?}",
                        deal.map(|deal| deal.position.status)
                    ));
                }
            }
        }
        if let Some(spoke) = &self.fhir {
            let (emr, connector) = (&spoke.connection.name, &spoke.connection.connector);
            let all: Vec<ExternalId> = spoke.sandbox.with(|world| {
                let of = |kind: &str| world.ids(kind).into_iter().map(|id| format!("{kind}/{id}")).collect::<Vec<_>>();
                of("Appointment").into_iter().chain(of("Encounter")).filter_map(|id| ExternalId::new(id).ok()).collect()
            });
            let now: Vec<VisitRead> = connector.visits(CALL, &all).await.unwrap_or_default();
            for (id, read) in all.iter().zip(now) {
                let VisitRead::Found(read) = read else { continue };
                let known = store.visits(&account.name, emr, std::slice::from_ref(id)).await.unwrap_or_default().pop();
                let is_known = known
                    .as_ref()
                    .is_some_and(|known| known.status == read.status && known.starts_at == read.starts_at);
                if !is_known {
                    let status: Option<VisitStatus> = known.map(|known| known.status);
                    wrong.push(format!("K6: {id} is {:?} there, and {status:?} here", read.status));
                }
            }
            wrong.extend(self.visits_did_what_they_do().await);
        }
        wrong
    }

    async fn visits_did_what_they_do(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (store, account) = (&self.rig.store, &self.rig.account);
        let pipelines = store.pipelines(&account.name).await.unwrap_or_default();
        let rules = rules();
        let Some(pipeline) = pipelines.iter().find(|pipeline| is_about(&rules, pipeline)) else { return wrong };
        for deal in self.deals() {
            let (Some(contact), true) = (deal.contact, deal.position.pipeline == Some(pipeline.id)) else { continue };
            let visits = store.visits_of(&account.name, contact).await.unwrap_or_default();
            let verdict = decide(&Situation {
                visits: &visits,
                deal: &deal,
                pipeline,
                rules: &rules,
                kept_means_done: false,
                closed_before: None,
                zone: account.timezone,
                now: self.rig.clock.now(),
            });
            if verdict.to.is_some() && !deal.quarantined {
                wrong.push(format!("K6: {} should have gone on: {:?}", deal.id, verdict.to));
            }
        }
        wrong
    }

    /// K2: whatever anybody typed last in a system is in a record, a conflict or the history.
    async fn lost_words(&self, diary: &Diary) -> Vec<String> {
        let (store, account) = (&self.rig.store, &self.rig.account.name);
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut keep = |value: &Value| {
            kept.insert(value.to_string().trim().to_owned());
        };
        for conflict in store.conflicts(account, false, usize::MAX).await.unwrap_or_default() {
            conflict.local.iter().chain(&conflict.remote).chain(&conflict.base).for_each(&mut keep);
        }
        for kind in [Kind::Contact, Kind::Deal] {
            for record in store.all(account, kind) {
                ["name", "description", "last_name"].iter().for_each(|field| keep(&record.get(field)));
                for entry in store.history(account, kind, record.id()).await.unwrap_or_default() {
                    keep(&entry.old);
                    keep(&entry.new);
                }
            }
        }
        let lost = diary.said.iter().filter(|(_, text)| !kept.contains(text.as_str()));
        lost.map(|((system, record, field), text)| {
            format!("K2: {system}: {field} of {record} was {text:?}, which is nowhere")
        })
        .collect()
    }
}

/// A company that does what people do, while things go wrong; and what is left of it.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_company(seed: u64) -> Outcome {
    on_virtual_time(play(seed))
}

async fn play(seed: u64) -> Outcome {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x00c0_3b5a);
    let feeds_only = rng.random_bool(0.5);
    let company = Arc::new(Company::new(seed, rng, feeds_only));
    company.furnish(rng);
    let hooks = company.deliver();
    let mut engines = company.start();
    let mut diary = Diary::default();
    let names: Vec<String> = company.connections().iter().map(|one| one.name.to_string()).collect();
    diary.story.push(format!("{}{}", names.join(", "), if feeds_only { ", no audit" } else { "" }));
    company.rig.clock.sleep(Duration::from_secs(240)).await;
    let level = *[0.0, 0.02, 0.08].choose(rng).unwrap_or(&0.0);
    company.set_storm(rng, level);
    if rng.random_bool(0.4) {
        company.silence();
        diary.story.push("no webhook comes".into());
    }
    for number in 0..rng.random_range(8..40_u64) {
        if rng.random_bool(0.1) {
            let at = if rng.random_bool(0.5) {
                At::Step(rng.random_range(0..30))
            } else {
                At::Commit(rng.random_range(0..12))
            };
            company.rig.gate.arm(at, Act::Kill);
            tokio::select! {
                () = company.rig.gate.stopped() => {}
                () = company.rig.clock.sleep(Duration::from_secs(60)) => {}
            }
            end(&mut engines).await;
            let place = company.rig.gate.open().unwrap_or_else(|| "asleep".into());
            diary.story.push(format!("killed, {place}"));
            diary.kills += 1;
            engines = company.start();
        }
        company.act(rng, &mut diary, number).await;
        let pause = *[0, 50, 400, 2_000, 9_000, 45_000].choose(rng).unwrap_or(&0);
        company.rig.clock.sleep(Duration::from_millis(pause)).await;
    }
    company.rig.gate.open();
    company.calm();
    company.note_between(&mut diary);
    let mut wrong = Vec::new();
    let (before, unread) = (company.writes(), company.unread().await);
    // Sales and visits that are still to be heard of change what is here as edits do.
    let news =
        diary.story.iter().filter(|line| line.starts_with("Square: ") || line.starts_with("clinic: ")).count() as u64;
    let bound = unread + 2 * news * company.connections().len() as u64;
    company.rig.clock.sleep(Duration::from_secs(3_300)).await;
    if feeds_only {
        let late = company.not_in_step().await;
        wrong.extend(late.into_iter().map(|one| format!("55 minutes after the faults stopped: {one}")));
    }
    company.rig.clock.sleep(Duration::from_secs(3_600)).await;
    let settled = company.writes();
    if settled - before > bound {
        wrong.push(format!("K4: {} writes, and {bound} are the most there may be", settled - before));
    }
    company.rig.clock.sleep(Duration::from_secs(2_000)).await;
    if company.writes() != settled {
        wrong.push("K4: still writing when nothing changes any more".into());
    }
    wrong.extend(company.not_in_step().await);
    wrong.extend(company.twins().await);
    wrong.extend(company.evidence_and_visits(&diary).await);
    wrong.extend(company.lost_words(&diary).await);
    if engines.iter().any(JoinHandle::is_finished) {
        wrong.push("an engine ended by itself".into());
    }
    if !wrong.is_empty() {
        for failure in company.rig.store.failures(&company.rig.account.name, 20).await.unwrap_or_default() {
            wrong.push(format!(
                "(failure of {} {} {}: {} {})",
                failure.connection, failure.kind, failure.key, failure.code, failure.message
            ));
        }
    }
    end(&mut engines).await;
    hooks.iter().for_each(JoinHandle::abort);
    let (steps, trace, points) = (company.rig.gate.steps(), company.rig.gate.digest(), company.rig.gate.points());
    Outcome {
        seed,
        steps,
        trace,
        kills: diary.kills,
        coverage: BTreeMap::new(),
        points,
        story: diary.story,
        violations: wrong,
    }
}

/// Ends every engine where it is.
async fn end(engines: &mut Vec<JoinHandle<()>>) {
    for engine in engines.drain(..) {
        engine.abort();
        let _ = engine.await;
    }
}
