//! A company's systems: their sandboxes, their connectors, their engines, and what goes wrong in their networks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::Router;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::de::DeserializeOwned;
use serde_json::json;
use tandem_contract::{Connector, Credentials, Kind, RouterTransport, Secret, Transport, VisitClass};
use tandem_fhir::{Fhir, Login, VisitType, sandbox as fhir};
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::{Pipedrive, sandbox as pipedrive};
use tandem_square::{Square, sandbox as square};
use tokio::task::JoinHandle;

use super::super::{
    gate::GatedTransport,
    rig::{Doorbell, Rig, account},
};
use crate::{
    model::{Name, Opportunity, Profile, Trigger, Types, VisitRules},
    store::memory::MemoryStore,
    sync::{connection::Connection, engine::Engine, guard::Limits, mapping},
};

pub(super) const LIMITS: Limits =
    Limits { deletes: 10_000, delete_percent: 100, alike: 10_000, alike_percent: 100, creates: 10_000 };

/// One of the other systems: its connection, and where its webhooks arrive.
pub(super) struct Spoke<S> {
    pub(super) sandbox: S,
    pub(super) connection: Arc<Connection>,
    pub(super) doorbell: Arc<Doorbell>,
}

/// Everybody's systems.
pub(super) struct Company {
    pub(super) rig: Rig,
    /// False where nobody has HubSpot: then nothing is in it, and it is not connected.
    pub(super) has_hubspot: bool,
    /// Whether its deals have types.
    pub(super) has_types: bool,
    /// Where deals begin in Pipedrive's `Sales`.
    pub(super) first_stage: u64,
    pub(super) pipedrive: Option<Spoke<pipedrive::Sandbox>>,
    pub(super) square: Option<Spoke<square::Sandbox>>,
    pub(super) fhir: Option<Spoke<fhir::Sandbox>>,
}

#[expect(clippy::expect_used, reason = "constants that parse")]
pub(super) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The row of both CRMs' mappings that types go by; HubSpot has the property, Pipedrive is given a field of this name.
const TYPE: &str = "[deal.type]\nproperty = \"dealtype\"\n";

/// What people may say that a deal is: a type by its label or its name, or nothing that the account knows.
pub(super) const TYPES: [&str; 4] = ["Laser course", "course", "care", "newbusiness"];

#[expect(clippy::expect_used, reason = "a constant that parses")]
fn types() -> Types {
    toml::from_str("[course]\nlabel = \"Laser course\"\nvalue = 650\n[care]\nvalue = 45.5\n").expect("types")
}

pub(super) fn rules() -> VisitRules {
    VisitRules {
        pipeline: "Sales".into(),
        consult_booked: Some("Presentation scheduled".into()),
        consult_done: Some("Decision maker bought in".into()),
        treatment_booked: Some("Contract sent".into()),
        ..VisitRules::default()
    }
}

/// The same faults for every system, from 0 to 1.
pub(super) fn storm<F: DeserializeOwned + Default>(rng: &mut StdRng, level: f64) -> F {
    let mut some = |most: f64| if rng.random_bool(0.6) { rng.random_range(0.0..=1.0) * level * most } else { 0.0 };
    let faults = json!({
        "slow": some(1.0), "latency_ms": 12_000, "lost_request": some(0.5), "lost_answer": some(0.7),
        "late_commit": some(0.7), "late_ms": 30_000, "too_many": some(0.3),
        "unavailable_before": some(0.7), "unavailable_after": some(0.7), "truncated": some(0.4),
        "webhook_lost": some(3.0), "webhook_twice": some(2.0), "webhook_late": some(2.0), "webhook_delay_ms": 300_000,
    });
    serde_json::from_value(faults).unwrap_or_default()
}

impl Company {
    #[expect(clippy::expect_used, reason = "constants that parse")]
    pub(super) fn new(seed: u64, rng: &mut StdRng, feeds_only: bool, watch: &dyn Fn(&str, Router) -> Router) -> Self {
        let mix = [rng.random_bool(0.7), rng.random_bool(0.6), rng.random_bool(0.5)];
        let names: Vec<Name> = ["pipedrive", "square", "emr"]
            .into_iter()
            .zip(mix)
            .filter(|(_, is_there)| *is_there)
            .map(|(known, _)| name(known))
            .collect();
        // A till or a clinic may be all there is: then there are no pipelines, which are a CRM's.
        let hubspot = if mix[0] { 0.75 } else { 0.8 };
        let has_hubspot = mix == [false; 3] || StdRng::seed_from_u64(seed ^ 0x00ab_5e17).random_bool(hubspot);
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
        // By no die: the other seeds stay what they were.
        let has_types = seed % 5 == 3;
        if has_types {
            account.types = types();
            // In half of them sales close courses only.
            let courses = Trigger { types: [name("course")].into(), ..Trigger::default() };
            account.triggers.extend((seed % 10 == 3).then(|| (name("courses"), courses)));
        }
        let more = if has_types { TYPE } else { "" };
        let siblings = names.clone();
        let store = Arc::new(MemoryStore::new());
        let mut rig = Rig::in_store(
            store,
            account,
            seed,
            settings,
            |connection| {
                connection.siblings = siblings;
                let rows = mapping::parse(more).unwrap_or_default().remove(&Kind::Deal).map(|lens| lens.rows);
                if let Some(lens) = connection.lenses.get_mut(&Kind::Deal) {
                    lens.rows.extend(rows.into_iter().flatten());
                }
            },
            |router| watch("hubspot", router),
        );
        rig.audit_every = Duration::from_secs(if feeds_only { 48 * 3_600 } else { 1_800 });
        let beside = |me: &str, connector: Arc<dyn Connector>, text: &str, hook: &str| {
            let mut connection = Connection::clone(&rig.connection);
            let others = names.iter().filter(|other| other.as_str() != me).cloned();
            connection.siblings = has_hubspot.then(|| rig.name.clone()).into_iter().chain(others).collect();
            connection.name = name(me);
            connection.connector = connector;
            connection.lenses = mapping::parse(text).unwrap_or_default();
            connection.hook = hook.parse().ok();
            Arc::new(connection)
        };
        let transport =
            |router| Arc::new(GatedTransport { inner: RouterTransport::new(router), gate: rig.gate.clone() });
        let mut first_stage = 0;
        let pipedrive = mix[0].then(|| {
            let text = &format!("{}\n{more}", include_str!("../../../config/mappings/pipedrive.toml"));
            let sandbox = pipedrive::Sandbox::new(pipedrive::Settings::default(), seed, rig.clock.clone());
            let stages = rig.sandbox.with(|world| world.open_stages());
            sandbox.with(|world| {
                if has_types {
                    world.add_field(Kind::Deal, "dealtype", "enum", &TYPES);
                }
                for (label, stages) in &stages {
                    let stages: Vec<(&str, u8)> =
                        stages.iter().map(|(label, chance)| (label.as_str(), *chance)).collect();
                    let (_, made) = world.add_pipeline(label, &stages);
                    if label == "Sales" {
                        first_stage = made.first().copied().unwrap_or_default();
                    }
                }
            });
            let token =
                Secret::new(sandbox.with(|world| world.settings.api_tokens.first().cloned().unwrap_or_default()));
            let base = "http://pipedrive.example.com".parse().expect("an address");
            let mut options = tandem_pipedrive::Options::new(base, Credentials::Token(token));
            options.select = mapping::selection(&mapping::parse(text).unwrap_or_default());
            // Enough for a poll every five seconds, beside webhooks too: a day is short here.
            options.daily_budget = Some(24_000_000);
            options.installation = "sim".into();
            options.webhook_login = Some(("user".into(), Secret::new("pass")));
            let connector: Arc<dyn Connector> =
                Arc::new(Pipedrive::new(options, transport(watch("pipedrive", sandbox.router())), rig.clock.clone()));
            let connection = beside("pipedrive", connector, text, "http://tandem.example.com/webhooks/pipedrive");
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        let square = mix[1].then(|| {
            let text = include_str!("../../../config/mappings/square.toml");
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
                Arc::new(Square::new(options, transport(watch("square", sandbox.router())), rig.clock.clone()));
            let connection = beside("square", connector, text, hook);
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        let fhir = mix[2].then(|| {
            let text = include_str!("../../../config/mappings/fhir.toml");
            let conditional_create = StdRng::seed_from_u64(seed ^ 0x00cc_4ea7).random_bool(0.7);
            // By no die: the other seeds stay what they were. A write that names no version is taken there.
            let patients = seed % 4 == 2;
            let versioning = if patients { fhir::Versioning::Versioned } else { fhir::Versioning::VersionedUpdate };
            let settings = fhir::Settings { conditional_create, versioning, ..fhir::Settings::default() };
            let sandbox = fhir::Sandbox::new(settings, seed, rig.clock.clone());
            let token =
                Secret::new(sandbox.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default()));
            let base = "http://fhir.example.com/fhir".parse().expect("an address");
            let mut options = tandem_fhir::Options::new(base, Login::Token(token));
            let row = |code: &str, class| VisitType {
                system: None,
                code: code.into(),
                class,
                service: None,
                kind: Some("service".into()),
            };
            options.visit_types = vec![row("CONSULT", VisitClass::Consult), row("TREAT", VisitClass::Treatment)];
            options.hook_token = Some(Secret::new("hook"));
            options.patients = patients;
            options.select = mapping::selection(&mapping::parse(text).unwrap_or_default());
            let connector: Arc<dyn Connector> =
                Arc::new(Fhir::new(options, transport(watch("fhir", sandbox.router())), rig.clock.clone()));
            let connection = beside("emr", connector, text, "http://tandem.example.com/webhooks/emr");
            Spoke { sandbox, doorbell: rig.doorbell_of(&connection), connection }
        });
        Self { rig, has_hubspot, has_types, first_stage, pipedrive, square, fhir }
    }

    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        let others = [
            self.pipedrive.as_ref().map(|spoke| &spoke.connection),
            self.square.as_ref().map(|spoke| &spoke.connection),
            self.fhir.as_ref().map(|spoke| &spoke.connection),
        ];
        self.has_hubspot
            .then_some(&self.rig.connection)
            .into_iter()
            .chain(others.into_iter().flatten())
            .cloned()
            .collect()
    }

    /// The connections whose records merge.
    pub(super) fn crms(&self) -> Vec<Arc<Connection>> {
        self.connections().into_iter().filter(|connection| !connection.connector.kinds().is_empty()).collect()
    }

    /// Every engine, as after a start of the process.
    pub(super) fn start(&self) -> Vec<JoinHandle<()>> {
        let mut engines: Vec<Engine> = self.has_hubspot.then(|| self.rig.engine_within(LIMITS)).into_iter().collect();
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

    pub(super) fn deliver(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
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
    pub(super) fn silence(&self) {
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

    pub(super) fn set_storm(&self, rng: &mut StdRng, level: f64) {
        let faults = storm(rng, level);
        self.rig.sandbox.with(|world| world.faults = faults);
        if let Some(spoke) = &self.pipedrive {
            let faults = storm(rng, level);
            let late_create = if rng.random_bool(0.4) && level > 0.0 { 0.4 } else { 0.0 };
            let late_create_ms = 600_000;
            spoke.sandbox.with(|world| world.faults = pipedrive::Faults { late_create, late_create_ms, ..faults });
        }
        if let Some(spoke) = &self.square {
            let faults = storm(rng, level);
            let between = if rng.random_bool(0.3) && level > 0.0 { 0.3 } else { 0.0 };
            spoke.sandbox.with(|world| world.faults = square::Faults { edited_in_between: between, ..faults });
        }
        if let Some(spoke) = &self.fhir {
            let faults = storm(rng, level);
            let edited_in_between = if level > 0.0 { 0.3 } else { 0.0 };
            spoke.sandbox.with(|world| world.faults = fhir::Faults { edited_in_between, ..faults });
        }
    }

    pub(super) fn calm(&self) {
        self.set_storm(&mut StdRng::seed_from_u64(0), 0.0);
    }

    /// Writes that reached a vendor so far.
    pub(super) fn writes(&self) -> u64 {
        let hubspot = self.rig.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.archived);
        let pipedrive = self.pipedrive.as_ref().map_or(0, |spoke| {
            spoke.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.deleted)
        });
        let square = self.square.as_ref().map_or(0, |spoke| {
            spoke.sandbox.with(|world| world.stats.created + world.stats.updated + world.stats.deleted)
        });
        // Subscriptions are nobody's record: they are renewed for as long as there is a connection.
        let fhir = self.fhir.as_ref().map_or(0, |spoke| {
            let written = spoke.sandbox.with(|world| world.stats.written.clone());
            ["Patient", "Appointment"].iter().filter_map(|kind| written.get(*kind)).sum::<u64>()
        });
        hubspot + pipedrive + square + fhir
    }

    pub(super) fn deals(&self) -> Vec<Opportunity> {
        let all = self.rig.store.all(&self.rig.account.name, Kind::Deal);
        all.into_iter().filter_map(|record| record.as_opportunity().cloned()).collect()
    }
}
