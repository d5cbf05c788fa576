//! A rate for vendors that publish none: as configured, half of it after each complaint, and slowly up again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{Bucket, Clock, Limit, Limiter};

/// How long the pace stays down after the vendor said that it was too fast, before it rises by a tenth.
const RECOVER: Duration = Duration::from_secs(30);

/// The pace of one bucket of a limiter.
pub struct Pace(Mutex<State>);

struct State {
    most: u32,
    now: u32,
    changed: Duration,
    per: Duration,
}

impl Pace {
    /// Begins as fast as is allowed.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let Limit { requests, per } = limit;
        Self(Mutex::new(State { most: requests, now: requests, changed: Duration::ZERO, per }))
    }

    /// The vendor complained: half as fast, and not at all for a while.
    pub fn too_fast(&self, limiter: &Limiter, bucket: Bucket, wait: Duration, clock: &dyn Clock) {
        let slower = self.0.lock().unwrap_or_else(PoisonError::into_inner).slower(clock.elapsed());
        limiter.correct(bucket, slower, clock);
        limiter.penalise(bucket, wait, clock);
    }

    /// It did not: a little faster, if that was so for a while.
    pub fn went_well(&self, limiter: &Limiter, bucket: Bucket, clock: &dyn Clock) {
        let faster = self.0.lock().unwrap_or_else(PoisonError::into_inner).faster(clock.elapsed());
        if let Some(faster) = faster {
            limiter.correct(bucket, faster, clock);
        }
    }
}

impl State {
    fn slower(&mut self, at: Duration) -> Limit {
        self.now = (self.now / 2).max(1);
        self.changed = at;
        Limit { requests: self.now, per: self.per }
    }

    fn faster(&mut self, at: Duration) -> Option<Limit> {
        if self.now == self.most || at.saturating_sub(self.changed) < RECOVER {
            return None;
        }
        self.now = (self.now + (self.most / 10).max(1)).min(self.most);
        self.changed = at;
        Some(Limit { requests: self.now, per: self.per })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_halves_and_recovers_slowly() {
        let mut pace = State { most: 50, now: 50, changed: Duration::ZERO, per: Duration::from_secs(10) };
        assert_eq!(pace.slower(Duration::from_secs(1)).requests, 25);
        assert_eq!(pace.faster(Duration::from_secs(2)), None);
        assert_eq!(pace.faster(Duration::from_secs(31)).map(|limit| limit.requests), Some(30));
        assert_eq!(pace.faster(Duration::from_secs(32)), None);
    }
}
