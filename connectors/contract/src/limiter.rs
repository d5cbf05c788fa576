//! Rate limits, respected rather than discovered.
//!
//! One limiter per vendor account. Each class of call has a bucket (GCRA, by `governor`); a call takes a cell from
//! its bucket before it is sent. In any window `w` a bucket admits at most `burst + rate · w` calls, so burst and
//! rate are chosen to stay at 98 % of the vendor's limit even in the worst window. The time comes from our clock, so
//! limits are exact under a virtual one.

use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use governor::{
    Quota, RateLimiter,
    clock::FakeRelativeClock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::{Clock, ConnectorError, day};

/// The queue a call waits in: a lower lane does not start while a higher one waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// A person is waiting, or a sale closes a record.
    Interactive,
    /// A change on its way from one side to the other.
    Propagate,
    /// Looking for changes.
    Poll,
    /// The rolling audit.
    Sweep,
    /// The first import.
    Backfill,
}

/// At most `requests` in any window of `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many.
    pub requests: u32,
    /// In how long.
    pub per: Duration,
}

impl Limit {
    /// Burst and the time between two cells that keep `burst + rate · per` at 98 % of the limit.
    #[must_use]
    pub fn shape(self) -> (u32, Duration) {
        let usable = f64::from(self.requests.max(1)) * 0.98;
        let burst = (usable * 0.02).round().max(1.0);
        let rate = ((usable - burst) / self.per.as_secs_f64()).max(0.01);
        (burst as u32, Duration::from_secs_f64(1.0 / rate))
    }
}

/// Which limit a call falls under: an index into the limits the connector declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket(pub usize);

const LANES: usize = 5;
/// A wait longer than this is not slept through: the caller is told and schedules the work instead.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);

type Governor = RateLimiter<
    NotKeyed,
    InMemoryState,
    FakeRelativeClock,
    NoOpMiddleware<<FakeRelativeClock as governor::clock::Clock>::Instant>,
>;

struct State {
    limit: Limit,
    clock: FakeRelativeClock,
    clock_at: Duration,
    governor: Governor,
    blocked_until: Duration,
    waiting: [u32; LANES],
}

impl State {
    fn new(limit: Limit, now: Duration) -> Self {
        let clock = FakeRelativeClock::default();
        let (burst, period) = limit.shape();
        let quota = Quota::with_period(period)
            .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
            .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN));
        let governor = RateLimiter::direct_with_clock(quota, clock.clone());
        Self { limit, clock, clock_at: now, governor, blocked_until: Duration::ZERO, waiting: [0; LANES] }
    }

    /// Zero if a call of `lane` may go now, else how long to wait before asking again.
    fn try_take(&mut self, lane: Lane, now: Duration) -> Duration {
        if let Some(blocked) = self.blocked_until.checked_sub(now).filter(|wait| !wait.is_zero()) {
            return blocked;
        }
        if self.waiting[..lane as usize].iter().any(|waiting| *waiting > 0) {
            return self.limit.shape().1;
        }
        self.clock.advance(now.saturating_sub(self.clock_at));
        self.clock_at = now;
        match self.governor.check() {
            Ok(()) => Duration::ZERO,
            Err(not_yet) => {
                not_yet.wait_time_from(governor::clock::Clock::now(&self.clock)).max(Duration::from_millis(1))
            }
        }
    }
}

/// The budget of one vendor account.
pub struct Limiter {
    buckets: Vec<Mutex<State>>,
    daily: Mutex<Daily>,
}

struct Daily {
    budget: Option<u64>,
    used: u64,
    day: NaiveDate,
    zone: Tz,
}

impl Daily {
    /// The day of the vendor's account.
    fn today(&self, now: DateTime<Utc>) -> NaiveDate {
        now.with_timezone(&self.zone).date_naive()
    }
}

impl Limiter {
    /// A limiter with one bucket per limit, in the order of the connector's classes.
    #[must_use]
    pub fn new(limits: &[Limit], daily_budget: Option<u64>) -> Self {
        Self {
            buckets: limits.iter().map(|limit| Mutex::new(State::new(*limit, Duration::ZERO))).collect(),
            daily: Mutex::new(Daily { budget: daily_budget, used: 0, day: NaiveDate::MIN, zone: Tz::UTC }),
        }
    }

    /// Waits for a cell. `cost` is what the call takes from the day's budget: 1 where calls are counted, its tokens where
    /// those are.
    ///
    /// # Errors
    /// [`ConnectorError::RateLimited`] if the wait would be longer than 20 s, or the day's budget for this lane is
    /// spent: backfill stops at 70 %, sweeps at 85 %, polls at 95 %, people at 100 %.
    pub async fn acquire(
        &self,
        bucket: Bucket,
        lane: Lane,
        cost: u64,
        clock: &dyn Clock,
    ) -> Result<(), ConnectorError> {
        self.spend(lane, cost, clock)?;
        let Some(cell) = self.buckets.get(bucket.0) else { return Ok(()) };
        let mut queued = Queued { cell, lane, counted: false };
        loop {
            let now = clock.elapsed();
            let (wait, asked_to) = {
                let mut state = lock(cell);
                (state.try_take(lane, now), state.blocked_until > now)
            };
            if wait.is_zero() {
                return Ok(());
            }
            if wait > LONGEST_SLEEP {
                let policy = if asked_to { "the vendor asked us to wait" } else { "our own budget" }.into();
                return Err(ConnectorError::RateLimited { retry_after: Some(wait), policy });
            }
            queued.count();
            clock.sleep(wait).await;
        }
    }

    fn spend(&self, lane: Lane, cost: u64, clock: &dyn Clock) -> Result<(), ConnectorError> {
        let mut daily = lock(&self.daily);
        let today = daily.today(clock.now());
        if daily.day != today {
            (daily.day, daily.used) = (today, 0);
        }
        let Some(budget) = daily.budget else { return Ok(()) };
        let share: u128 = match lane {
            Lane::Interactive | Lane::Propagate => 100,
            Lane::Poll => 95,
            Lane::Sweep => 85,
            Lane::Backfill => 70,
        };
        // Headers may say any number.
        let spent = u128::from(daily.used) * 100 >= u128::from(budget) * share;
        if spent || daily.used.saturating_add(cost) > budget {
            let zone = daily.zone;
            return Err(ConnectorError::RateLimited {
                retry_after: Some(until_tomorrow(zone, clock.now())),
                policy: format!("daily budget of {budget}, {share} % for this kind of work"),
            });
        }
        daily.used = daily.used.saturating_add(cost);
        Ok(())
    }

    /// The vendor said to stop for `wait`: nobody in this bucket goes on before.
    pub fn penalise(&self, bucket: Bucket, wait: Duration, clock: &dyn Clock) {
        if let Some(cell) = self.buckets.get(bucket.0) {
            let mut state = lock(cell);
            state.blocked_until = state.blocked_until.max(clock.elapsed() + wait);
        }
    }

    /// The vendor's headers tell what the limit really is.
    pub fn correct(&self, bucket: Bucket, limit: Limit, clock: &dyn Clock) {
        if let Some(cell) = self.buckets.get(bucket.0) {
            let mut state = lock(cell);
            if state.limit != limit {
                let (blocked_until, waiting) = (state.blocked_until, state.waiting);
                *state = State::new(limit, clock.elapsed());
                (state.blocked_until, state.waiting) = (blocked_until, waiting);
            }
        }
    }

    /// The vendor's headers tell how much of the day's budget is left, whoever used it. `share` is the part of it that
    /// is ours, where an operator set one: then our own calls count, and what is left for all is the end of it.
    pub fn correct_daily(&self, budget: u64, remaining: u64, share: Option<u64>, clock: &dyn Clock) {
        let mut daily = lock(&self.daily);
        let today = daily.today(clock.now());
        if daily.day != today {
            (daily.day, daily.used) = (today, 0);
        }
        match share.filter(|share| *share < budget) {
            Some(share) => {
                daily.budget = Some(share);
                daily.used = daily.used.max(share.saturating_sub(remaining));
            }
            None => {
                daily.budget = Some(budget);
                daily.used = budget.saturating_sub(remaining);
            }
        }
    }

    /// The vendor's days begin at midnight in this zone; in UTC until told.
    pub fn set_timezone(&self, zone: Tz) {
        lock(&self.daily).zone = zone;
    }

    /// How long the vendor's day still lasts.
    #[must_use]
    pub fn until_tomorrow(&self, now: DateTime<Utc>) -> Duration {
        until_tomorrow(lock(&self.daily).zone, now)
    }
}

/// Until the next midnight of a zone; where the clocks leave midnight out, until the hour after it.
fn until_tomorrow(zone: Tz, now: DateTime<Utc>) -> Duration {
    let today = now.with_timezone(&zone).date_naive();
    let midnight = today.succ_opt().and_then(|day| day::begins(day, zone));
    midnight.and_then(|at| (at - now).to_std().ok()).unwrap_or(Duration::from_secs(3_600))
}

struct Queued<'a> {
    cell: &'a Mutex<State>,
    lane: Lane,
    counted: bool,
}

impl Queued<'_> {
    fn count(&mut self) {
        if !self.counted {
            lock(self.cell).waiting[self.lane as usize] += 1;
            self.counted = true;
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.counted {
            lock(self.cell).waiting[self.lane as usize] -= 1;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::DateTime;

    use super::*;
    use crate::TokioClock;

    const HUBSPOT: Limit = Limit { requests: 190, per: Duration::from_secs(10) };

    fn clock() -> TokioClock {
        TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap_or_default())
    }

    #[test]
    fn burst_and_rate_stay_below_the_limit_in_the_worst_window() {
        for requests in [1, 5, 100, 110, 190, 250] {
            let limit = Limit { requests, per: Duration::from_secs(10) };
            let (burst, period) = limit.shape();
            let worst = f64::from(burst) + limit.per.as_secs_f64() / period.as_secs_f64();
            assert!(worst <= f64::from(requests).max(1.2), "{requests}: {worst}");
        }
        assert_eq!(HUBSPOT.shape().0, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sole_consumer_uses_nearly_all_and_never_more_than_the_limit() {
        let (limiter, clock) = (Limiter::new(&[HUBSPOT], None), clock());
        let mut taken = Vec::new();
        for _ in 0..600 {
            limiter.acquire(Bucket(0), Lane::Poll, 1, &clock).await.expect("a short wait");
            taken.push(clock.elapsed());
        }
        for (first, at) in taken.iter().enumerate() {
            let within = taken[first..].iter().take_while(|t| **t < *at + HUBSPOT.per).count();
            assert!(within <= 190, "{within} calls in one window");
        }
        assert!(clock.elapsed() < Duration::from_secs(34), "600 calls took {:?}", clock.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_person_overtakes_a_backfill() {
        let (limiter, clock) =
            (Arc::new(Limiter::new(&[Limit { requests: 2, per: Duration::from_secs(1) }], None)), Arc::new(clock()));
        limiter.acquire(Bucket(0), Lane::Backfill, 1, &*clock).await.expect("the first goes at once");
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = [Lane::Backfill, Lane::Backfill, Lane::Interactive].map(|lane| {
            let (limiter, clock, order) = (limiter.clone(), clock.clone(), order.clone());
            tokio::spawn(async move {
                limiter.acquire(Bucket(0), lane, 1, &*clock).await.expect("a short wait");
                lock(&order).push(lane);
            })
        });
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(lock(&order)[0], Lane::Interactive);
    }

    #[tokio::test(start_paused = true)]
    async fn a_penalty_stops_the_bucket_and_a_long_one_is_told_not_slept() {
        let (limiter, clock) = (Limiter::new(&[HUBSPOT], None), clock());
        limiter.penalise(Bucket(0), Duration::from_secs(3), &clock);
        limiter.acquire(Bucket(0), Lane::Poll, 1, &clock).await.expect("3 s are slept");
        assert!(clock.elapsed() >= Duration::from_secs(3));
        limiter.penalise(Bucket(0), Duration::from_secs(3_600), &clock);
        let told = limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await;
        assert!(
            matches!(told, Err(ConnectorError::RateLimited { retry_after: Some(wait), .. }) if wait > Duration::from_secs(3_500))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_vendors_day_ends_at_midnight_where_the_vendors_account_is() {
        let (limiter, clock) = (Limiter::new(&[], Some(1)), clock());
        limiter.set_timezone(chrono_tz::America::Phoenix);
        limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.expect("the day's only call");
        let told = limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await;
        let Err(ConnectorError::RateLimited { retry_after: Some(wait), .. }) = told else { panic!("{told:?}") };
        let ends = (clock.now() + wait).with_timezone(&chrono_tz::America::Phoenix);
        assert_eq!(ends.format("%H:%M").to_string(), "00:00");
        clock.sleep(wait).await;
        limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.expect("a new day");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_the_day_counts_our_own_calls_and_begins_anew_at_midnight() {
        let (limiter, clock) = (Limiter::new(&[], Some(3)), clock());
        for _ in 0..3 {
            limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.expect("within our share");
            // The vendor's own budget is far from spent.
            limiter.correct_daily(1_000, 900, Some(3), &clock);
        }
        assert!(limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.is_err());
        clock.sleep(Duration::from_secs(86_400)).await;
        limiter.correct_daily(1_000, 999, Some(3), &clock);
        limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.expect("a new day");
    }

    #[tokio::test(start_paused = true)]
    async fn backfill_leaves_a_reserve_of_the_day_for_people() {
        let (limiter, clock) = (Limiter::new(&[], Some(10)), clock());
        for _ in 0..7 {
            limiter.acquire(Bucket(0), Lane::Backfill, 1, &clock).await.expect("within 70 %");
        }
        assert!(limiter.acquire(Bucket(0), Lane::Backfill, 1, &clock).await.is_err());
        limiter.acquire(Bucket(0), Lane::Interactive, 1, &clock).await.expect("the reserve");
        clock.sleep(Duration::from_secs(86_400)).await;
        limiter.acquire(Bucket(0), Lane::Backfill, 1, &clock).await.expect("a new day");
    }
}
