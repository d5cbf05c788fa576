//! Time as an argument: nothing above or below this trait asks the operating system what time it is.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

/// Where the time comes from.
///
/// Wall-clock readings are cut to microseconds, the finest unit PostgreSQL keeps, so that a value read back from
/// the store equals the one written.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The wall clock, cut to microseconds. Never compared with a vendor's time without skew correction.
    fn now(&self) -> DateTime<Utc>;
    /// Time since some fixed moment; never goes back. For limits, deadlines and durations.
    fn elapsed(&self) -> Duration;
    /// Waits for `duration` of this clock's time.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::elapsed`] starts at zero now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that starts at a chosen date and follows tokio's time, which a test may pause: then hours pass as soon
/// as every task waits.
#[derive(Debug)]
pub struct TokioClock {
    start: DateTime<Utc>,
    origin: Instant,
}

impl TokioClock {
    /// A clock that reads `start` now.
    #[must_use]
    pub fn starting_at(start: DateTime<Utc>) -> Self {
        Self { start, origin: Instant::now() }
    }
}

#[async_trait]
impl Clock for TokioClock {
    fn now(&self) -> DateTime<Utc> {
        (self.start + self.origin.elapsed()).trunc_subsecs(6)
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
