//! Makes a failing scenario small: fewer operations and fewer faults, as long as it still fails.
//!
//! Source of the method: Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002), ddmin.

use super::scenario::Scenario;

/// Runs at most.
const PATIENCE: usize = 400;

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
        if before == (kept.operations.len(), without.len()) {
            return Shrunk { scenario: kept, without, runs };
        }
    }
}
