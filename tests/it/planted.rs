//! A simulation that finds nothing proves nothing: each bug that is planted on purpose must be found.

use tandem::simulation::run_seed;
use tandem_contract::planted::{Bug, plant};

/// The first seed from `from` on that shows the bug, and what it says.
fn found(bug: Bug, from: u64, seeds: u64) -> Option<(u64, String)> {
    plant(Some(bug));
    let shows = (from..from + seeds).find_map(|seed| {
        let outcome = run_seed(seed);
        outcome.violations.first().map(|first| (seed, first.clone()))
    });
    plant(None);
    shows
}

/// Each bug, and the first seed that shows it. Three are not found yet: see docs/proof.md.
const RECORDED: [(Bug, u64); 11] = [
    (Bug::NoIntent, 120),
    (Bug::ForeignCheckOff, 101),
    (Bug::PartialFailureIsSuccess, 213),
    (Bug::NewMarkerOnRetry, 103),
    (Bug::ConflictNotRecorded, 14),
    (Bug::BaseMovesForAll, 178),
    (Bug::GenerationIgnored, 217),
    (Bug::NoCanoniser, 3),
    (Bug::StageWithoutStatus, 4),
    (Bug::MergeIsDeletion, 29),
    (Bug::AbsentIsNull, 12),
];

#[test]
fn a_planted_bug_is_found_by_the_seed_that_found_it_first() {
    for (bug, seed) in RECORDED {
        assert!(found(bug, seed, 1).is_some(), "{bug:?} is not found by seed {seed} any more: search again");
    }
}

/// `SEEDS=2000 cargo test --test it search_for_planted_bugs -- --ignored --nocapture` prints the table anew.
#[test]
#[ignore = "a search; the seeds it finds are recorded above"]
fn search_for_planted_bugs() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    for bug in Bug::ALL {
        match found(bug, 1, seeds) {
            Some((seed, says)) => println!("{bug:?}: seed {seed}: {says}"),
            None => println!("{bug:?}: NOT FOUND in {seeds} seeds"),
        }
    }
}
