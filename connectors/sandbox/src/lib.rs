//! What the simulators of vendors share: a state behind a lock, time from an injected clock, a switchboard of faults that
//! strike requests on their way in and out, control routes, and the delivery of webhooks.
//!
//! A vendor's simulator is a type that implements [`Simulated`]: its state, and what it answers. Under a virtual clock and
//! one seed everything here is exact and repeatable.

mod answer;
mod deliver;
mod due;
mod query;

use std::{
    collections::BTreeMap,
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
pub use due::Due;
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
    /// What every simulator has.
    fn core(&mut self) -> Core<'_, Self>;

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

/// What every simulator has.
pub struct Core<'a, W: Simulated> {
    /// Its settings.
    pub settings: &'a mut W::Settings,
    /// Its faults.
    pub faults: &'a mut W::Faults,
    /// Its counters.
    pub stats: &'a mut W::Stats,
    /// Its time, by its own clock.
    pub now: &'a mut DateTime<Utc>,
    /// How long it has been running.
    pub elapsed: &'a mut Duration,
    /// Its dice.
    pub dice: &'a mut StdRng,
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
        let core = world.core();
        *core.now = self.0.clock.now() + W::clock_ahead(core.settings);
        *core.elapsed = self.0.clock.elapsed();
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
        self.with(|world| most.mul_f64(world.core().dice.random::<f64>()))
    }
}

/// Draws true with this probability. What cannot happen throws no die.
pub fn chance(dice: &mut StdRng, probability: f64) -> bool {
    probability > 0.0 && dice.random::<f64>() < probability
}

/// Faults that happened, and where: by fault, then by route.
pub type Struck = BTreeMap<&'static str, BTreeMap<String, u64>>;

/// Whether a fault of this probability happens here; counted if it does.
pub fn struck(dice: &mut StdRng, counts: &mut Struck, fault: &'static str, probability: f64, place: &str) -> bool {
    let happens = chance(dice, probability);
    if happens {
        *counts.entry(fault).or_default().entry(place.to_owned()).or_default() += 1;
    }
    happens
}
