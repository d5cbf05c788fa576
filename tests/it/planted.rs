//! A simulation that finds nothing proves nothing: each bug that is planted on purpose must be found.

use tandem::simulation::{Outcome, run_company, run_seed, search};
use tandem_contract::planted::{Bug, plant};

/// What a seed shows with this bug planted.
fn run_with(bug: Bug, seed: u64) -> Outcome {
    plant(Some(bug));
    let is_among_systems = COMPANIES.iter().any(|(one, _)| *one == bug);
    let outcome = if is_among_systems { run_company(seed) } else { run_seed(seed) };
    plant(None);
    outcome
}

/// The first seed of these that shows the bug, and what it says.
fn first(bug: Bug, seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    let mut shows: Option<(u64, String)> = None;
    search(
        seeds,
        |seed| run_with(bug, seed),
        |outcome| {
            if let Some(says) = outcome.violations.first()
                && shows.as_ref().is_none_or(|(seed, _)| *seed > outcome.seed)
            {
                shows = Some((outcome.seed, says.clone()));
            }
            shows.is_none()
        },
    );
    shows
}

/// Each bug, and the first seed that shows it.
pub const RECORDED: [(Bug, u64); 19] = [
    (Bug::NoIntent, 3),
    (Bug::ForeignCheckOff, 10),
    (Bug::RecoveryCheckOff, 10),
    (Bug::LateWindowIgnored, 366),
    (Bug::PartialFailureIsSuccess, 122),
    (Bug::NewMarkerOnRetry, 52),
    (Bug::ConflictNotRecorded, 3),
    (Bug::BaseMovesForAll, 3),
    (Bug::GenerationIgnored, 444),
    (Bug::NoCanoniser, 10),
    (Bug::StageWithoutStatus, 2),
    (Bug::MergeIsDeletion, 32),
    (Bug::AbsentIsNull, 4),
    (Bug::CursorBeforeMarks, 77),
    (Bug::IntentAfterCall, 3),
    (Bug::OneSidedBase, 26),
    (Bug::NoOverlap, 1),
    (Bug::OurClockInCursor, 30),
    (Bug::MissingIsDone, 10),
];

/// Those of several systems, and the first company that shows each.
const COMPANIES: [(Bug, u64); 8] = [
    (Bug::NoCompareAndSwap, 14),
    (Bug::KeyPerTry, 768),
    (Bug::SiblingsNotMarked, 1),
    (Bug::SalesByWebhookAlone, 8),
    (Bug::RefundIgnored, 43),
    (Bug::KnownVisitIsNoNews, 1),
    (Bug::VisitLeavesWon, 756),
    (Bug::TwinIsNews, 9),
];

#[test]
fn every_bug_has_its_seed() {
    let recorded: Vec<Bug> = RECORDED.iter().chain(&COMPANIES).map(|(bug, _)| *bug).collect();
    assert!(Bug::ALL.iter().all(|bug| recorded.contains(bug)), "search for those that are missing");
}

/// A change of the engine moves what a seed meets: a few more are looked at before that is a failure.
#[test]
fn a_planted_bug_is_found_from_the_seed_on_that_found_it_first() {
    for (bug, seed) in RECORDED.into_iter().chain(COMPANIES) {
        assert!(first(bug, seed..seed + 40).is_some(), "{bug:?} is not found from seed {seed} on: search again");
    }
}

/// `SEEDS=2000 cargo test --test it search_for_planted_bugs -- --ignored --nocapture` prints the table anew.
#[test]
#[ignore = "a search; the seeds it finds are recorded above"]
fn search_for_planted_bugs() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let only = std::env::var("BUG").unwrap_or_default();
    for bug in Bug::ALL.into_iter().filter(|bug| only.is_empty() || format!("{bug:?}") == only) {
        match first(bug, 1..seeds + 1) {
            Some((seed, says)) => println!("{bug:?}: seed {seed}: {says}"),
            None => println!("{bug:?}: NOT FOUND in {seeds} seeds"),
        }
    }
}
