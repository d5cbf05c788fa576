//! One seed: a world, perturbed on both sides while things go wrong, and what is left of it.

use std::{sync::Arc, time::Duration};

use axum::Router;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tandem_contract::{Kind, Value};
use tandem_hubspot::sandbox::{Change, Faults, Settings, World};

use super::{
    checks::{Ledger, Said, Whose, not_in_step, violations},
    rig::Rig,
};
use crate::{
    edit::Fields,
    model::{Profile, RecordId},
};

/// What a seed showed.
#[derive(Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Steps the engine took.
    pub steps: u64,
    /// A digest of every step: equal for equal seeds.
    pub trace: String,
    /// How often the engine was killed.
    pub kills: u64,
    /// Everything that is wrong.
    pub violations: Vec<String>,
}

/// Runs one seed to its end.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_seed(seed: u64) -> Outcome {
    run_seed_over(seed, |router| router)
}

/// The same, with `watch` between the connector and the HubSpot account.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
#[expect(clippy::expect_used, reason = "without a runtime there is nothing to run")]
pub fn run_seed_over(seed: u64, watch: impl FnOnce(Router) -> Router) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(simulate(seed, watch))
}

fn settings(rng: &mut StdRng) -> Settings {
    Settings {
        search_lag_ms: (200, rng.random_range(300..30_000)),
        omit_empty: rng.random_bool(0.3),
        normalise_numbers: rng.random_bool(0.3),
        trim_text: rng.random_bool(0.3),
        close_date_on_api_move: rng.random_bool(0.5),
        merge_makes_new: rng.random_bool(0.7),
        association_moves_time: rng.random_bool(0.3),
        webhook_retry_seconds: 600,
        recompute_seconds: if rng.random_bool(0.5) { 5 } else { 0 },
        ..Settings::default()
    }
}

/// Calm seeds and brutal ones.
fn faults(rng: &mut StdRng) -> Faults {
    let level = *[0.0, 0.02, 0.1, 0.25].choose(rng).unwrap_or(&0.0);
    let mut some = |most: f64| if rng.random_bool(0.6) { rng.random_range(0.0..=1.0) * level * most } else { 0.0 };
    Faults {
        slow: some(2.0),
        latency_ms: 12_000,
        lost_request: some(0.5),
        lost_answer: some(0.7),
        late_commit: some(0.7),
        late_ms: 60_000,
        too_many: some(0.5),
        locked: some(0.5),
        unavailable_before: some(1.0),
        unavailable_after: some(1.0),
        row_fails: some(1.0),
        row_missing: some(1.0),
        edited_in_between: some(1.0),
        shuffle: some(2.0),
        truncated: some(0.5),
        unauthorized: 0.0,
        moving_seconds: 0,
        webhook_lost: some(3.0),
        webhook_twice: some(2.0),
        webhook_late: some(2.0),
        webhook_delay_ms: 300_000,
        webhook_same_id: some(2.0),
        webhook_foreign: some(2.0),
        index_outage: some(1.0),
        index_outage_ms: 90_000,
        automation: 0.0,
    }
}

async fn simulate(seed: u64, watch: impl FnOnce(Router) -> Router) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x7a11_de3a);
    let mut rig = Rig::new_over(seed, settings(&mut rng), Profile::Agency, |_| {}, watch);
    // In some worlds no audit comes to the rescue: what the feeds show must be enough, and soon.
    let feeds_only = rng.random_bool(0.4);
    if feeds_only {
        rig.audit_every = Duration::from_secs(48 * 3_600);
    }
    let rig = Arc::new(rig);
    let hooks = tokio::spawn({
        let rig = rig.clone();
        async move { rig.deliver_webhooks().await }
    });
    let mut ledger = Ledger { feeds_only, ..Ledger::default() };
    furnish(&rig, &mut rng);
    let mut engine = spawn(&rig);
    rig.clock.sleep(Duration::from_secs(60)).await;
    let mut storm = faults(&mut rng);
    if feeds_only {
        storm.index_outage = 0.0;
        if rng.random_bool(0.3) {
            // No webhook at all: the polls must do.
            storm.webhook_lost = 1.0;
        }
    }
    rig.sandbox.with(|world| world.faults = storm);
    let mut kills = 0;
    for turn in 0..rng.random_range(8..30) {
        perturb(&rig, &mut rng, &mut ledger, turn).await;
        if rng.random_bool(0.15) {
            // Killed at some later step, wherever that is.
            if rng.random_bool(0.5) {
                rig.gate.stop_after(rng.random_range(0..25));
            } else {
                rig.gate.stop_after_commits(rng.random_range(0..8));
            }
            tokio::select! {
                () = rig.gate.stopped() => {}
                () = rig.clock.sleep(Duration::from_secs(90)) => {}
            }
            engine.abort();
            let _ = engine.await;
            rig.gate.open();
            kills += 1;
            engine = spawn(&rig);
        }
        let pause = Duration::from_millis(*[0, 5, 100, 900, 5_000, 40_000].choose(&mut rng).unwrap_or(&0));
        rig.clock.sleep(pause).await;
    }
    // The faults stop; what was delayed, retried or late gets its time: the late window, the index, the second pass.
    rig.sandbox.with(|world| world.faults = Faults::default());
    let mut wrong = Vec::new();
    let soon = Duration::from_secs(45 * 60);
    rig.clock.sleep(soon).await;
    if feeds_only {
        let late = not_in_step(&rig).await;
        wrong.extend(late.into_iter().map(|one| format!("I8: 45 minutes after the faults stopped: {one}")));
    }
    rig.clock.sleep(Duration::from_secs(3 * 3_600) - soon).await;
    let before = rig.sandbox.with(|world| {
        world.stats.too_many = 0;
        (world.stats.created, world.stats.updated, world.stats.archived)
    });
    rig.clock.sleep(Duration::from_secs(2 * 3_600)).await;
    let after = rig.sandbox.with(|world| (world.stats.created, world.stats.updated, world.stats.archived));
    wrong.extend(violations(&rig, &ledger).await);
    if before != after {
        wrong.push(format!("I4: still writing when nothing changes any more: {before:?} became {after:?}"));
    }
    if engine.is_finished() {
        wrong.push("the engine ended by itself".into());
    }
    engine.abort();
    hooks.abort();
    Outcome { seed, steps: rig.gate.steps(), trace: rig.gate.digest(), kills, violations: wrong }
}

fn spawn(rig: &Arc<Rig>) -> tokio::task::JoinHandle<()> {
    let engine = rig.engine();
    tokio::spawn(async move { engine.run().await })
}

fn furnish(rig: &Rig, rng: &mut StdRng) {
    let (contacts, deals) = (rng.random_range(1..5_u64), rng.random_range(1..6_u64));
    rig.sandbox.with(|world| {
        let mut people = Vec::new();
        for n in 0..contacts {
            let properties = [
                ("firstname", format!("First{n}")),
                ("lastname", format!("Last{n}")),
                ("email", format!("p{n}@example.com")),
            ];
            let properties = properties.map(|(name, value)| (name.to_owned(), value)).into();
            people.extend(world.create(Kind::Contact, &properties, Change::Person));
        }
        for n in 0..deals {
            let properties = [
                ("dealname", format!("deal {n}")),
                ("dealstage", "qualifiedtobuy".to_owned()),
                ("amount", format!("{}.50", n + 1)),
            ];
            let properties = properties.map(|(name, value)| (name.to_owned(), value)).into();
            if let (Ok(deal), Some(contact)) =
                (world.create(Kind::Deal, &properties, Change::Person), people.get(n as usize % people.len()))
            {
                world.associate(deal, *contact, Change::Person);
            }
        }
    });
}

/// One edit on one of the sides.
async fn perturb(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, turn: u64) {
    let text = format!("t{turn}{}", if rng.random_bool(0.2) { " " } else { "" });
    match rng.random_range(0..12) {
        0..=3 => edit_there(rig, rng, ledger, &text),
        4..=7 => edit_here(rig, rng, ledger, &text).await,
        8 => create_here(rig, rng, ledger, &text).await,
        9 => rig.sandbox.with(|world| {
            let properties = [("dealname", text.as_str()), ("dealstage", "contractsent")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into();
            let _ = world.create(Kind::Deal, &properties, Change::Person);
        }),
        10 => rig.sandbox.with(|world| {
            let ids = world.ids(Kind::Deal);
            if let (Some(id), true) = (ids.choose(rng), ids.len() > 2) {
                forget(world, ledger, *id);
                let _ = world.archive(Kind::Deal, *id, Change::Person);
            }
        }),
        _ => rig.sandbox.with(|world| {
            let ids = world.ids(Kind::Deal);
            if ids.len() > 2 {
                let (a, b) = (ids.choose(rng).copied(), ids.choose(rng).copied());
                if let (Some(a), Some(b)) = (a, b) {
                    forget(world, ledger, b);
                    ledger.touched.insert(a);
                    ledger.merged = true;
                    let _ = world.merge(Kind::Deal, a, b, Change::Person);
                }
            }
        }),
    }
}

/// What a person put into a record and then put into the bin, or merged away, before anyone could read it, is in
/// HubSpot's own history and not ours to keep.
fn forget(world: &World, ledger: &mut Ledger, deal: u64) {
    ledger.touched.insert(deal);
    for property in ["dealname", "description"] {
        let stated = world.stated(Kind::Deal, deal, property);
        ledger.there.retain(|(p, v)| !(p == property && stated.iter().any(|s| s.trim() == v.trim())));
    }
}

/// Our field for one of HubSpot's.
fn ours_of(property: &str) -> String {
    if property == "dealname" { "name" } else { property }.to_owned()
}

/// Owners: HubSpot's id, and the address we know them by.
const OWNERS: [(&str, &str); 3] =
    [("55012", "ana@clinic.example.com"), ("55013", "bo@clinic.example.com"), ("55014", "chidi@clinic.example.com")];

/// A person links a deal to another contact, or takes one off.
fn relink(world: &mut World, rng: &mut StdRng, ledger: &mut Ledger, deal: u64) {
    let (people, linked) = (world.ids(Kind::Contact), world.contacts_of(deal));
    match (people.choose(rng), linked.first()) {
        (_, Some(contact)) if rng.random_bool(0.4) => {
            ledger.unlinked += 1;
            world.dissociate(deal, *contact, Change::Person);
        }
        (Some(contact), _) => world.associate(deal, *contact, Change::Person),
        _ => {}
    }
}

fn edit_there(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str) {
    rig.sandbox.with(|world| {
        let kind = if rng.random_bool(0.8) { Kind::Deal } else { Kind::Contact };
        let focused = ledger.focus_there.filter(|(of, id)| *of == kind && world.is_live(kind, *id));
        let any = world.ids(kind).choose(rng).copied();
        let Some(id) = focused.map(|(_, id)| id).filter(|_| rng.random_bool(0.5)).or(any) else { return };
        ledger.focus_there = Some((kind, id));
        if kind == Kind::Deal && !ledger.feeds_only && rng.random_bool(0.15) {
            return relink(world, rng, ledger, id);
        }
        let (property, value) = match (kind, rng.random_range(0..6)) {
            (Kind::Contact, _) => ("phone", text.to_owned()),
            (_, 0) => ("dealname", text.to_owned()),
            (_, 1) => ("description", text.to_owned()),
            (_, 2) => ("amount", format!("{}.25", rng.random_range(1..999))),
            (_, 3) => ("hubspot_owner_id", OWNERS.choose(rng).unwrap_or(&("", "")).0.to_owned()),
            (_, 4) => {
                ("closedate", format!("2026-12-{:02}T{:02}:30:00Z", rng.random_range(1..29), rng.random_range(0..24)))
            }
            _ => (
                "dealstage",
                (*["contractsent", "closedwon", "closedlost", "appointmentscheduled"]
                    .choose(rng)
                    .unwrap_or(&"contractsent"))
                .to_owned(),
            ),
        };
        let properties = [(property.to_owned(), value.clone())].into();
        // An edit that a person overwrites in HubSpot before anyone could read it is not ours to keep.
        let previous = world.value(kind, id, property);
        if world.update(kind, id, &properties, Change::Person).is_ok()
            && ["dealname", "description", "phone"].contains(&property)
        {
            ledger.said.push(Said { kind, whose: Whose::Theirs(id), field: ours_of(property), text: value.clone() });
            if let Some(previous) = previous {
                ledger.there.retain(|(p, v)| !(p == property && v.trim() == previous.trim()));
            }
            ledger.there.push((property.to_owned(), value));
        }
    });
}

async fn edit_here(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str) {
    let kind = if rng.random_bool(0.8) { Kind::Deal } else { Kind::Contact };
    let records: Vec<RecordId> =
        rig.store.all(&rig.account.name, kind).iter().filter(|r| !r.is_deleted()).map(|r| r.id()).collect();
    let focused = ledger.focus_here.filter(|id| records.contains(id) && rng.random_bool(0.5));
    let Some(id) = focused.or_else(|| records.choose(rng).copied()) else { return };
    ledger.focus_here = Some(id);
    let mut fields = Fields::new();
    match (kind, rng.random_range(0..7)) {
        (Kind::Contact, _) => fields.insert("phone".into(), Value::text(text)),
        (_, 3) => fields.insert("owner".into(), Value::text(OWNERS.choose(rng).map_or("", |owner| owner.1))),
        (_, 4) => {
            let day = chrono::NaiveDate::from_ymd_opt(2026, 12, rng.random_range(1..29)).unwrap_or_default();
            fields.insert("expected_close_on".into(), Value::Date(day))
        }
        (_, 5) => {
            let people: Vec<RecordId> = rig
                .store
                .all(&rig.account.name, Kind::Contact)
                .iter()
                .filter(|contact| !contact.is_deleted())
                .map(crate::model::LocalRecord::id)
                .collect();
            fields.insert("contact".into(), people.choose(rng).map_or(Value::Null, |id| Value::text(&id.to_string())))
        }
        (_, 0) => fields.insert("name".into(), Value::text(text)),
        (_, 1) => fields.insert("description".into(), Value::text(text)),
        (_, 2) => {
            fields.insert("currency".into(), Value::text("USD"));
            fields.insert("amount".into(), Value::Number(rust_decimal::Decimal::new(rng.random_range(100..99_900), 2)))
        }
        _ => fields.insert("status".into(), Value::text(["open", "won", "lost"].choose(rng).unwrap_or(&"open"))),
    };
    if rig.desk().update(kind, id, None, &fields, None).await.is_ok() {
        let texts = fields.iter().filter(|(_, value)| value.as_text() == Some(text));
        let said = |(field, _): (&String, &Value)| Said {
            kind,
            whose: Whose::Ours(id),
            field: field.clone(),
            text: text.to_owned(),
        };
        ledger.said.extend(texts.map(said));
        ledger
            .here
            .extend(fields.iter().filter(|(_, v)| v.as_text() == Some(text)).map(|(f, v)| (f.clone(), v.to_string())));
    }
}

async fn create_here(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str) {
    let mut fields = Fields::from([("name".to_owned(), Value::text(text))]);
    if rng.random_bool(0.5) {
        let person = Fields::from([
            ("first_name".to_owned(), Value::text(text)),
            ("email".to_owned(), Value::text(&format!("{}@example.com", text.trim()))),
        ]);
        if let Ok(contact) = rig.desk().create(Kind::Contact, &person, None).await {
            ledger.created += 1;
            fields.insert("contact".into(), Value::Text(contact.id().to_string()));
        }
    }
    ledger.created += u64::from(rig.desk().create(Kind::Deal, &fields, None).await.is_ok());
}
