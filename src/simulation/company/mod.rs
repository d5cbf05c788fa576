//! A company with one to four systems: any of HubSpot, Pipedrive, a Square till and a clinic's FHIR server, all on one account,
//! one store and one gate. People edit in every CRM and here, sell and give back, book, call off and treat; the network fails; all
//! engines are killed at once. Then everything is given time, and the checkers look at what is left.

mod checks;
mod people;
mod systems;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::Router;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::JoinHandle;

use self::{people::Diary, systems::Company};
use super::{
    gate::{Act, At},
    run::{Outcome, on_virtual_time},
};
use crate::store::SyncStore;

/// A company that does what people do, while things go wrong; and what is left of it.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_company(seed: u64) -> Outcome {
    run_company_over(seed, |_, router| router)
}

/// The same, with `watch` between each connector, told by its system's name, and its vendor.
///
/// # Panics
/// If the operating system refuses a runtime.
#[must_use]
pub fn run_company_over(seed: u64, watch: impl Fn(&str, Router) -> Router) -> Outcome {
    on_virtual_time(play(seed, &watch))
}

async fn play(seed: u64, watch: &dyn Fn(&str, Router) -> Router) -> Outcome {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x00c0_3b5a);
    let feeds_only = rng.random_bool(0.5);
    let company = Arc::new(Company::new(seed, rng, feeds_only, watch));
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
    // Sales, visits and what went away change what is here as edits do, when they are heard of.
    let is_news = |line: &&String| ["Square: ", "clinic: ", "gone: "].iter().any(|what| line.starts_with(what));
    let news = diary.story.iter().filter(is_news).count() as u64;
    let bound = unread + 2 * news * company.connections().len() as u64;
    company.rig.clock.sleep(Duration::from_secs(3_300)).await;
    if feeds_only {
        let late = company.not_in_step().await;
        wrong.extend(late.into_iter().map(|one| format!("55 minutes after the faults stopped: {one}")));
    }
    // A sale that was nobody's is looked at again two hours after it was heard of.
    company.rig.clock.sleep(Duration::from_secs(5_400)).await;
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
    wrong.extend(company.taken_from_the_desk());
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
