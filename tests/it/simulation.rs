//! Seeds of the simulation that every change must pass.

use tandem::simulation::run_seed;

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in [1, 2, 3] {
        let (a, b) = (run_seed(seed), run_seed(seed));
        assert_eq!((a.trace, a.steps), (b.trace, b.steps), "seed {seed}");
    }
}

#[test]
fn seeds_hold_every_invariant() {
    let seeds: u64 = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let first: u64 = std::env::var("SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut bad = Vec::new();
    let (mut steps, mut kills) = (0, 0);
    for seed in first..first + seeds {
        let outcome = run_seed(seed);
        steps += outcome.steps;
        kills += outcome.kills;
        if !outcome.violations.is_empty() {
            bad.push(format!(
                "seed {seed}: {}\n  replay: make simulate SEED={seed} SEEDS=1",
                outcome.violations.join("\n    ")
            ));
        }
    }
    println!("{seeds} seeds, {steps} steps, {kills} kills");
    assert!(
        bad.is_empty(),
        "{} of {seeds} seeds fail\n{}",
        bad.len(),
        bad.iter().take(8).cloned().collect::<Vec<_>>().join("\n")
    );
}
