//! What time it is at a vendor, as the `Date` headers of its answers tell.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use http::{HeaderMap, header};

use crate::Clock;

/// A clock that is seen to jump further than this, in seconds, is believed at the second sight: some proxies answer for a
/// vendor, with clocks of their own.
const JUMP: i64 = 60;

/// A vendor's clock, beside ours.
#[derive(Default)]
pub struct VendorClock(Mutex<Offset>);

/// The vendor's clock minus ours: what is believed, and what the last answer said.
#[derive(Default)]
struct Offset {
    believed: TimeDelta,
    last: TimeDelta,
    was_told: bool,
}

impl VendorClock {
    /// Learns from an answer's headers.
    pub fn learn(&self, headers: &HeaderMap, clock: &dyn Clock) {
        let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
        let Some(theirs) = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()) else { return };
        let offset = theirs.to_utc() - clock.now();
        // The header has whole seconds: what is within one is no skew.
        let offset = if offset.num_milliseconds().abs() < 1_500 { TimeDelta::zero() } else { offset };
        let mut known = self.known();
        let near = |other: TimeDelta| (offset - other).num_seconds().abs() <= JUMP;
        if near(known.believed) || near(known.last) {
            known.believed = offset;
        }
        known.last = offset;
        known.was_told = true;
    }

    /// The vendor's clock now: what cursors are made of.
    #[must_use]
    pub fn now(&self, clock: &dyn Clock) -> DateTime<Utc> {
        clock.now() + self.offset()
    }

    /// The vendor's clock minus ours.
    #[must_use]
    pub fn offset(&self) -> TimeDelta {
        self.known().believed
    }

    /// Whether any answer said what time it is there.
    #[must_use]
    pub fn was_told(&self) -> bool {
        self.known().was_told
    }

    fn known(&self) -> MutexGuard<'_, Offset> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::TokioClock;

    #[tokio::test(start_paused = true)]
    async fn a_jump_is_believed_at_the_second_sight() {
        let ours = TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap_or_default());
        let said = |ahead: i64| {
            let date = (ours.now() + TimeDelta::seconds(ahead)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            HeaderMap::from_iter([(header::DATE, HeaderValue::try_from(date).expect("a header"))])
        };
        let theirs = VendorClock::default();
        assert!(!theirs.was_told());
        theirs.learn(&said(3_600), &ours);
        assert_eq!(theirs.offset(), TimeDelta::zero(), "one odd answer");
        theirs.learn(&said(30), &ours);
        assert_eq!(theirs.offset(), TimeDelta::seconds(30));
        theirs.learn(&said(-600), &ours);
        theirs.learn(&said(-600), &ours);
        assert_eq!(theirs.offset(), TimeDelta::seconds(-600));
    }
}
