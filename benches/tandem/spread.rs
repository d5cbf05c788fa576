//! The spread of many durations.

use std::time::Duration;

use crate::table::{Figure, Row};

/// The duration that this share of all stays below.
fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    let place = (times.len() as f64 * share) as usize;
    times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The rows for the middle and the worst hundredth of ours, beside those of the yardstick.
pub fn rows(what: &str, mut ours: Vec<Duration>, yardstick: &str, mut theirs: Vec<Duration>) -> [Row; 2] {
    [("p50", 0.50), ("p99", 0.99)].map(|(name, share)| {
        Row::new(
            format!("{what}: {name}"),
            Figure::millis(percentile(&mut ours, share)),
            format!("{yardstick}: {name}"),
            Figure::millis(percentile(&mut theirs, share)),
        )
    })
}
