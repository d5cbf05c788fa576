//! Seeds of the simulation that every change must pass.

use tandem::simulation::{Coverage, Scenario, coverage, run, run_company, run_seed, search, shrink};
use tandem_contract::planted::{Bug, plant};

use crate::planted::RECORDED;

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in [1, 2, 3] {
        let (a, b) = (run_seed(seed), run_seed(seed));
        assert_eq!((a.trace, a.steps), (b.trace, b.steps), "seed {seed}");
    }
}

#[test]
fn seeds_hold_every_invariant() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    let first: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (mut bad, mut all) = (Vec::new(), Coverage::new());
    let (mut steps, mut kills) = (0, 0);
    search(first..first + seeds, run_seed, |outcome| {
        steps += outcome.steps;
        kills += outcome.kills;
        if !outcome.violations.is_empty() {
            let says = outcome.violations.join("\n    ");
            bad.push(format!("seed {0}: {says}\n  replay: make simulate SEED={0} SEEDS=1 COMPANIES=0", outcome.seed));
        }
        coverage::add(&mut all, outcome.coverage);
        true
    });
    println!("{}\n{seeds} seeds, {steps} steps, {kills} kills", coverage::table(&all));
    assert!(bad.is_empty(), "{} of {seeds} seeds fail\n{}", bad.len(), bad[..bad.len().min(8)].join("\n"));
}

#[test]
fn two_accounts_in_one_store_do_not_notice_each_other() {
    let pairs: Vec<Scenario> = (1..).map(Scenario::of).filter(|scenario| scenario.has_neighbour).take(5).collect();
    for scenario in pairs {
        let outcome = run(&scenario);
        assert!(outcome.violations.is_empty(), "seed {}: {:?}", scenario.seed, outcome.violations);
    }
}

#[test]
fn a_failing_seed_is_made_small() {
    let some = [Bug::NoCanoniser, Bug::StageWithoutStatus, Bug::CursorBeforeMarks];
    for (bug, seed) in RECORDED.into_iter().filter(|(bug, _)| some.contains(bug)) {
        plant(Some(bug));
        let shrunk = shrink(&Scenario::of(seed), |smaller| !run(smaller).violations.is_empty());
        let still = run(&shrunk.scenario).violations;
        plant(None);
        assert!(!still.is_empty() && shrunk.scenario.operations.len() <= 20, "{bug:?}: {}", shrunk.command());
        assert!(run(&shrunk.scenario).violations.is_empty(), "without {bug:?} nothing fails");
    }
}

/// Companies of one to four systems, sales and visits included.
#[test]
fn companies_of_any_mix_hold_every_invariant() {
    let seeds: u64 = std::env::var("COMPANIES").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let first: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (mut bad, mut steps, mut kills) = (Vec::new(), 0, 0);
    search(first..first + seeds, run_company, |outcome| {
        steps += outcome.steps;
        kills += outcome.kills;
        if !outcome.violations.is_empty() {
            let (story, says) = (outcome.story.join("\n    "), outcome.violations.join("\n    "));
            bad.push(format!(
                "seed {0}:\n    {says}\n  {story}\n  replay: make simulate SEED={0} SEEDS=0 COMPANIES=1",
                outcome.seed
            ));
        }
        true
    });
    println!("{seeds} companies, {steps} steps, {kills} kills");
    assert!(bad.is_empty(), "{} of {seeds} companies fail\n{}", bad.len(), bad[..bad.len().min(4)].join("\n"));
}

/// A process that ended after a second try of a create was planned, and before it went out, made a third one of it.
#[test]
fn company_385_makes_nothing_twice() {
    let outcome = run_company(385);
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
}

#[test]
fn a_company_gives_the_same_trace_twice() {
    for seed in [1, 2, 3] {
        let (a, b) = (run_company(seed), run_company(seed));
        assert_eq!((a.trace, a.steps), (b.trace, b.steps), "seed {seed}");
    }
}
