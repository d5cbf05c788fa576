//! What the simulators of vendors share: a state behind a lock, time from an injected clock, a switchboard of faults that
//! strike requests on their way in and out, control routes, and the delivery of webhooks.
//!
//! A vendor's simulator is a type that implements [`Simulated`]: its state, and what it answers. Under a virtual clock and
//! one seed everything here is exact and repeatable.

mod answer;
mod deliver;
mod query;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, response::Response};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use http::request::Parts;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Serialize, de::DeserializeOwned};
use tandem_contract::{Clock, Transport};
use tokio::sync::Notify;

pub use answer::{Fate, http_date};
pub use deliver::Delivery;
pub use query::Query;

/// The state of a simulated vendor, and what it answers.
pub trait Simulated: Sized + Send + 'static {
    /// How it behaves when nothing is broken.
    type Settings: Clone + Serialize + DeserializeOwned + Send;
    /// What goes wrong, as probabilities.
    type Faults: Clone + Serialize + DeserializeOwned + Send;
    /// What was asked of it.
    type Stats: Default + Serialize;
    /// A request, taken apart.
    type Asked: Clone + Send + Sync + 'static;
    /// A refusal in its own words.
    type Refusal: Send;
    /// What a delivery is remembered by while it is under way.
    type Sent: Send;

    /// A fresh one.
    fn new(settings: Self::Settings, rng: StdRng, now: DateTime<Utc>) -> Self;
    /// By how much its clock is ahead of the real one.
    fn clock_ahead(settings: &Self::Settings) -> TimeDelta;
    /// Tells it what time it is, by its own clock, and how long it has been running.
    fn tell_time(&mut self, now: DateTime<Utc>, elapsed: Duration);
    /// Its time.
    fn time(&self) -> DateTime<Utc>;
    /// Its settings.
    fn settings_mut(&mut self) -> &mut Self::Settings;
    /// Its faults.
    fn faults_mut(&mut self) -> &mut Self::Faults;
    /// Its counters.
    fn stats_mut(&mut self) -> &mut Self::Stats;
    /// Its dice.
    fn dice(&mut self) -> &mut StdRng;

    /// Takes a request apart.
    ///
    /// # Errors
    /// The answer to one that leads nowhere.
    #[expect(clippy::result_large_err, reason = "an answer, made once a request")]
    fn take_apart(&mut self, parts: Parts, body: Bytes) -> Result<Self::Asked, Response>;
    /// Counts a request and draws what happens to it; with it, within how long a slow answer comes.
    fn draw(&mut self, asked: &Self::Asked) -> (Fate<Self::Refusal>, Option<Duration>);
    /// Carries a request out.
    fn handle(&mut self, asked: &Self::Asked) -> Response;
    /// Refuses one.
    fn refuse(&mut self, refusal: Self::Refusal) -> Response;

    /// The next webhook that is due; else how long to wait for it, if there is one.
    ///
    /// # Errors
    /// The time until then.
    fn next_delivery(&mut self) -> Result<Delivery<Self::Sent>, Option<Duration>>;
    /// A delivery was answered 2xx, or was not.
    fn delivered(&mut self, sent: Self::Sent, success: bool);
}

/// One simulated account of a vendor.
pub struct Sandbox<W>(Arc<Inner<W>>);

impl<W> Clone for Sandbox<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<W> {
    world: Mutex<W>,
    clock: Arc<dyn Clock>,
    news: Notify,
}

impl<W: Simulated> Sandbox<W> {
    /// An account as it is on its first day. The same seed makes the same choices of faults, delays and ids.
    #[must_use]
    pub fn new(settings: W::Settings, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now() + W::clock_ahead(&settings);
        let world = W::new(settings, StdRng::seed_from_u64(seed), now);
        Self(Arc::new(Inner { world: Mutex::new(world), clock, news: Notify::new() }))
    }

    /// Works on the account directly, as a person in the vendor's own screens or as a test that looks behind them.
    pub fn with<T>(&self, work: impl FnOnce(&mut W) -> T) -> T {
        let answer = self.with_quietly(work);
        self.0.news.notify_one();
        answer
    }

    /// As [`Sandbox::with`], without waking the delivery of webhooks.
    pub(crate) fn with_quietly<T>(&self, work: impl FnOnce(&mut W) -> T) -> T {
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = W::clock_ahead(world.settings_mut());
        world.tell_time(self.0.clock.now() + ahead, self.0.clock.elapsed());
        work(&mut world)
    }

    /// The API, and the control routes `/__faults`, `/__settings`, `/__clock` and `/__stats`.
    pub fn router(&self) -> Router {
        answer::router(self.clone())
    }

    /// Delivers webhooks through `transport` until dropped. Without this task events queue up and are not sent.
    pub async fn deliver_webhooks(self, transport: Arc<dyn Transport>) {
        deliver::deliver(self, transport).await;
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.0.clock.sleep(duration).await;
    }

    /// Draws a duration from zero to `most`.
    pub(crate) fn up_to(&self, most: Duration) -> Duration {
        self.with(|world| most.mul_f64(world.dice().random::<f64>()))
    }
}

/// Draws true with this probability.
pub fn chance(dice: &mut StdRng, probability: f64) -> bool {
    probability > 0.0 && dice.random::<f64>() < probability
}
