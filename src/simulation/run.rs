//! One seed: a world, perturbed on both sides while things go wrong, and what is left of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::Router;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tandem_hubspot::sandbox::{Faults, Settings, World};
use tokio::task::JoinHandle;

use super::{
    checks::{not_in_step, violations},
    coverage::Coverage,
    gate::{Act, At},
    ledger::Ledger,
    people,
    rig::{Rig, account},
    scenario::{Scenario, Trouble, What},
};
use crate::{
    model::{Account, Profile},
    store::memory::MemoryStore,
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
    /// Which fault happened where.
    pub coverage: Coverage,
    /// Every point the engine passed, and how often.
    pub points: BTreeMap<String, u64>,
    /// What people did and what happened to the engine, in words.
    pub story: Vec<String>,
    /// Everything that is wrong.
    pub violations: Vec<String>,
}

/// Runs one seed to its end.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_seed(seed: u64) -> Outcome {
    run(&Scenario::of(seed))
}

/// Runs a scenario to its end.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run(scenario: &Scenario) -> Outcome {
    if !scenario.has_neighbour {
        return run_over(scenario, |router| router);
    }
    let neighbour = Scenario { has_neighbour: false, ..Scenario::of(scenario.seed ^ 0x0e19_4b05) };
    let (mut ours, theirs) = on_virtual_time(async {
        let store = Arc::new(MemoryStore::new());
        tokio::join!(
            play(scenario, store.clone(), account("glow_clinic", Profile::Agency), |router| router),
            play(&neighbour, store.clone(), account("next_door", Profile::Agency), |router| router),
        )
    });
    ours.violations.extend(theirs.violations.iter().map(|one| format!("next door: {one}")));
    let alone = run_over(&neighbour, |router| router);
    if alone.trace != theirs.trace {
        ours.violations.push("I12: the account next door took other steps than it takes alone".into());
    }
    ours.steps += theirs.steps + alone.steps;
    ours
}

/// The same, with `watch` between the connector and the HubSpot account.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_over(scenario: &Scenario, watch: impl FnOnce(Router) -> Router) -> Outcome {
    on_virtual_time(play(scenario, Arc::new(MemoryStore::new()), account("glow_clinic", Profile::Agency), watch))
}

#[expect(clippy::expect_used, reason = "without a runtime there is nothing to run")]
pub(super) fn on_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(work)
}

/// A world in the middle of its scenario.
struct Stage {
    rig: Arc<Rig>,
    engine: JoinHandle<()>,
    ledger: Ledger,
    storm: Faults,
    kills: u64,
    coverage: Coverage,
}

async fn play(
    scenario: &Scenario,
    store: Arc<MemoryStore>,
    account: Account,
    watch: impl FnOnce(Router) -> Router,
) -> Outcome {
    let mut rig = Rig::in_store(store, account, scenario.seed, scenario.settings.clone(), |_| {}, watch);
    if scenario.feeds_only {
        rig.audit_every = Duration::from_secs(48 * 3_600);
    }
    let rig = Arc::new(rig);
    let hooks = tokio::spawn({
        let rig = rig.clone();
        async move { rig.deliver_webhooks().await }
    });
    people::furnish(&rig, &mut StdRng::seed_from_u64(scenario.seed));
    let ledger = Ledger { feeds_only: scenario.feeds_only, ..Ledger::default() };
    if let Some((at, act)) = scenario.trip.clone() {
        rig.gate.arm(at, act);
    }
    let engine = spawn(&rig);
    let mut stage =
        Stage { rig, engine, ledger, storm: scenario.faults.clone(), kills: 0, coverage: Coverage::default() };
    stage.rig.clock.sleep(Duration::from_secs(60)).await;
    stage.rig.sandbox.with(|world| world.faults = scenario.faults.clone());
    for operation in &scenario.operations {
        let mut rng = StdRng::seed_from_u64(scenario.seed.wrapping_mul(1_000_003) ^ operation.number);
        stage.carry_out(&operation.what, &mut rng, operation.number, operation.pause).await;
        stage.revive().await;
    }
    // The faults stop; what was delayed, retried or late gets its time: the late window, the index, the second pass.
    let rig = stage.rig.clone();
    if scenario.trip.is_none() {
        rig.gate.open();
    }
    rig.sandbox.with(|world| world.faults = Faults::default());
    let mut wrong = Vec::new();
    if stage.kills == 0 && rig.sandbox.with(|world| world.stats.too_many) > 0 {
        wrong.push("I11: calls were refused because we were too fast".into());
    }
    // Where only one thing goes wrong, less is to be waited for.
    let (soon, settled) = if scenario.trip.is_some() { (1_500, 3_000) } else { (3_300, 9_000) };
    let (soon, settled) = (Duration::from_secs(soon), Duration::from_secs(settled));
    rig.clock.sleep(soon).await;
    if scenario.feeds_only {
        let late = not_in_step(&rig).await;
        wrong.extend(late.into_iter().map(|one| format!("I8: 55 minutes after the faults stopped: {one}")));
    }
    // The one thing that goes wrong may go wrong only now.
    stage.revive().await;
    let Stage { ledger, engine, kills, mut coverage, .. } = stage;
    rig.clock.sleep(settled - soon).await;
    let before = rig.sandbox.with(|world| {
        world.stats.too_many = 0;
        (world.stats.created, world.stats.updated, world.stats.archived)
    });
    rig.clock.sleep(soon).await;
    let after = rig.sandbox.with(|world| (world.stats.created, world.stats.updated, world.stats.archived));
    wrong.extend(violations(&rig, &ledger).await);
    if before != after {
        wrong.push(format!("I4: still writing when nothing changes any more: {before:?} became {after:?}"));
    }
    if engine.is_finished() && scenario.trip.is_none() {
        wrong.push("the engine ended by itself".into());
    }
    engine.abort();
    hooks.abort();
    for (fault, places) in rig.sandbox.with(|world| world.stats.faults.clone()) {
        coverage.extend(places.into_iter().map(|(place, count)| ((fault.to_owned(), place), count)));
    }
    let (steps, trace, points) = (rig.gate.steps(), rig.gate.digest(), rig.gate.points());
    Outcome { seed: scenario.seed, steps, trace, kills, coverage, points, story: ledger.story, violations: wrong }
}

fn spawn(rig: &Arc<Rig>) -> JoinHandle<()> {
    let engine = rig.engine();
    tokio::spawn(async move { engine.run().await })
}

impl Stage {
    async fn carry_out(&mut self, what: &What, rng: &mut StdRng, number: u64, pause: Duration) {
        if !matches!(what, What::Edit | What::Revise) {
            self.ledger.story.push(format!("{what:?}"));
        }
        match what {
            What::Edit => people::act(&self.rig, rng, &mut self.ledger, number).await,
            What::Revise => people::revise(&self.rig, rng, &mut self.ledger, number).await,
            What::Kill { at, down, in_between, again } => {
                if *in_between {
                    self.rig.sandbox.with(|world| world.faults.edited_in_between = 1.0);
                    people::act(&self.rig, rng, &mut self.ledger, 1_000 + number).await;
                }
                self.kill(at).await;
                self.rig.answer_webhooks(down.is_zero());
                // Meanwhile people work, early and late: what was missed is not all of one moment.
                let edits = if down.is_zero() { 0 } else { rng.random_range(2..5) };
                for edit in 0..edits {
                    people::act(&self.rig, rng, &mut self.ledger, 10_000 + 10 * number + u64::from(edit)).await;
                    self.rig.clock.sleep(*down / edits).await;
                }
                self.rig.answer_webhooks(true);
                self.engine = spawn(&self.rig);
                if let Some(again) = again {
                    self.kill(again).await;
                    self.engine = spawn(&self.rig);
                }
                let storm = self.storm.clone();
                self.rig.sandbox.with(|world| world.faults = storm);
            }
            What::Hiccup(at) => self.rig.gate.arm(at.clone(), Act::Error),
            What::Trouble(trouble) => {
                *self.coverage.entry((format!("{trouble:?}"), "everything".into())).or_default() += 1;
                let settings = self.rig.sandbox.with(|world| begin(world, *trouble));
                people::act(&self.rig, rng, &mut self.ledger, 1_000 + number).await;
                self.rig.clock.sleep(pause).await;
                self.rig.sandbox.with(|world| end(world, *trouble, settings));
                return;
            }
        }
        self.rig.clock.sleep(pause).await;
    }

    /// Starts the engine again if it was killed or has panicked, as whoever watches over the daemon does.
    async fn revive(&mut self) {
        if self.rig.gate.has_stopped() || self.engine.is_finished() {
            self.engine.abort();
            let _ = (&mut self.engine).await;
            self.rig.gate.open();
            self.engine = spawn(&self.rig);
        }
    }

    /// Kills the engine at some later point, or where it is after a while.
    async fn kill(&mut self, at: &At) {
        self.rig.gate.arm(at.clone(), Act::Kill);
        tokio::select! {
            () = self.rig.gate.stopped() => {}
            () = self.rig.clock.sleep(Duration::from_secs(90)) => {}
        }
        self.engine.abort();
        let _ = (&mut self.engine).await;
        let place = self.rig.gate.open().unwrap_or_else(|| "asleep".into());
        self.ledger.story.push(format!("killed, {place}"));
        *self.coverage.entry(("kill".into(), place)).or_default() += 1;
        self.kills += 1;
    }
}

/// Begins a trouble; what the account was like before.
fn begin(world: &mut World, trouble: Trouble) -> Settings {
    let settings = world.settings.clone();
    let mut lose_scope = |scope: &str| world.settings.scopes.retain(|one| one != scope);
    match trouble {
        Trouble::NoWriteScope => lose_scope("crm.objects.deals.write"),
        Trouble::NoReadScope => lose_scope("crm.objects.deals.read"),
        Trouble::TokenRevoked => world.settings.access_tokens.clear(),
        Trouble::OtherAccount => world.settings.portal_id += 1,
        Trouble::PropertyRemoved => world.remove_property(tandem_contract::Kind::Deal, "description"),
        Trouble::StageRenamed => world.rename_stage("contractsent", "Contract is out"),
        Trouble::Moving => world.faults.moving_seconds = 30,
    }
    settings
}

fn end(world: &mut World, trouble: Trouble, settings: Settings) {
    world.settings = settings;
    match trouble {
        Trouble::PropertyRemoved => world.restore_property(tandem_contract::Kind::Deal, "description"),
        Trouble::Moving => world.faults.moving_seconds = 0,
        _ => {}
    }
}
