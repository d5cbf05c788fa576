//! Makes a failing scenario small: fewer operations and fewer faults, as long as it still fails.
//!
//! Source of the method: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), ddmin. Where
//! no single operation can be left out and there are still many, a few are left out at random: what people do depends on
//! what is there, so an operation may be needed only because another one is there.

use rand::{SeedableRng, rngs::StdRng, seq::index};

use super::scenario::Scenario;

/// Runs at most.
const PATIENCE: usize = 1_500;
/// Small enough for a person to read.
const SMALL: usize = 20;
/// Of so many operations left out at random, before giving up.
const TRIES: usize = 400;

/// The smallest scenario found that still fails, what the command line calls it by, and how many runs it took.
pub struct Shrunk {
    /// The scenario.
    pub scenario: Scenario,
    /// What was left out of the faults.
    pub without: Vec<String>,
    /// Runs it took.
    pub runs: usize,
}

impl Shrunk {
    /// The command that runs it again.
    #[must_use]
    pub fn command(&self) -> String {
        let numbers: Vec<String> = self.scenario.operations.iter().map(|one| one.number.to_string()).collect();
        let mut command = format!("tandem simulate --seed {} --only {}", self.scenario.seed, numbers.join(","));
        if !self.without.is_empty() {
            command.push_str(&format!(" --without {}", self.without.join(",")));
        }
        command
    }
}

/// Leaves out what `fails` does not need.
pub fn shrink(scenario: &Scenario, mut fails: impl FnMut(&Scenario) -> bool) -> Shrunk {
    let (mut kept, mut without, mut runs) = (scenario.clone(), Vec::new(), 0);
    let mut try_one = |candidate: &Scenario, runs: &mut usize| {
        *runs += 1;
        *runs <= PATIENCE && fails(candidate)
    };
    if kept.has_neighbour {
        let alone = Scenario { has_neighbour: false, ..kept.clone() };
        if try_one(&alone, &mut runs) {
            kept = alone;
        }
    }
    loop {
        let before = (kept.operations.len(), without.len());
        let mut chunk = kept.operations.len().div_ceil(2);
        while chunk > 0 {
            let mut from = 0;
            while from < kept.operations.len() {
                let mut fewer = kept.clone();
                fewer.operations.drain(from..(from + chunk).min(kept.operations.len()));
                if try_one(&fewer, &mut runs) {
                    kept = fewer;
                } else {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
        for fault in kept.storms() {
            let calmer = kept.clone().narrowed(None, std::slice::from_ref(&fault));
            if try_one(&calmer, &mut runs) {
                kept = calmer;
                without.push(fault);
            }
        }
        if before != (kept.operations.len(), without.len()) {
            continue;
        }
        let count = kept.operations.len();
        let some = (0..TRIES).take_while(|_| count > SMALL).find_map(|turn| {
            let rng = &mut StdRng::seed_from_u64(kept.seed ^ (runs + turn) as u64);
            let gone = index::sample(rng, count, 2 + turn % (count / 3));
            let mut fewer = kept.clone();
            let mut place = 0..;
            fewer.operations.retain(|_| place.next().is_some_and(|place| !gone.iter().any(|one| one == place)));
            try_one(&fewer, &mut runs).then_some(fewer)
        });
        match some {
            Some(fewer) => kept = fewer,
            None => return Shrunk { scenario: kept, without, runs },
        }
    }
}
