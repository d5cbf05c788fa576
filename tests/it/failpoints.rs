//! Every await between two effects, and everything that may go wrong there: the call fails, the code panics, the process
//! is killed, nothing happens for longer than a lease.

use std::{collections::BTreeMap, time::Duration};

use tandem::simulation::{Act, At, Outcome, Scenario, run, search};

/// Longer than a lease and than any wait for an answer.
const STALL: Act = Act::Stall(Duration::from_secs(45));

/// Panics that are meant are not printed; all others are.
fn hush() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let says = panic.payload().downcast_ref::<String>().map_or("", String::as_str);
        if !says.starts_with("planned") {
            loud(panic);
        }
    }));
}

/// Worlds in which every point there is passed: in one of them alone something is always left out.
const WORLDS: [u64; 2] = [1, 2];

#[test]
fn at_every_point_any_of_four_things_may_go_wrong() {
    hush();
    let mut trials: Vec<(u64, String, u64, Act)> = Vec::new();
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    for world in WORLDS {
        let never = Some((At::Point("nowhere".into(), 0), Act::Error));
        let calm = run(&Scenario::calm(world, never));
        assert_eq!(calm.violations, [""; 0], "nothing goes wrong in world {world}");
        for (point, passed) in calm.points {
            *names.entry(point.clone()).or_default() += passed;
            // Its first time, at the start, and one in the middle of the work.
            for nth in if passed > 1 { vec![0, (passed / 4).min(12)] } else { vec![0] } {
                for act in [Act::Error, Act::Panic, Act::Kill, STALL] {
                    trials.push((world, point.clone(), nth, act));
                }
            }
        }
    }
    for needed in ["stored intents", "commit outcomes", "stored cursor", "take_lease", "due", "links"] {
        assert!(names.contains_key(needed), "{needed} is a point");
    }
    let (mut bad, mut steps) = (Vec::new(), 0);
    let trial = |index: u64| {
        let (world, point, nth, act) = trials[usize::try_from(index).unwrap()].clone();
        let outcome = run(&Scenario::calm(world, Some((At::Point(point, nth), act))));
        Outcome { seed: index, ..outcome }
    };
    search(0..trials.len() as u64, trial, |outcome| {
        steps += outcome.steps;
        if !outcome.violations.is_empty() {
            bad.push(format!("{:?}: {}", trials[outcome.seed as usize], outcome.violations.join("\n    ")));
        }
        true
    });
    println!("{} points, {} trials, {steps} steps", names.len(), trials.len());
    assert!(bad.is_empty(), "{} of {} fail\n{}", bad.len(), trials.len(), bad[..bad.len().min(12)].join("\n"));
}
