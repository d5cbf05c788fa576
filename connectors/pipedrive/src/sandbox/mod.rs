//! A stateful simulator of Pipedrive's API: deals, persons and organizations, pipelines and stages, custom fields, users,
//! webhooks, merges and changelogs, in both generations of paths.
//!
//! Same shapes, strictness, token budget and webhooks; a switchboard of faults that can be turned while it runs; and time
//! from an injected clock, so that under a virtual one it is exact and repeatable. What Pipedrive's documentation leaves
//! open is a field of [`Settings`]. Of searches there is only the one for persons by e-mail address, and it does not lag.
//!
//! [`Sandbox::router`] serves it, over a socket or in process. [`Sandbox::with`] is the hand of a person working in
//! Pipedrive's own screens.

mod body;
mod directory;
mod limits;
mod lists;
mod objects;
mod routes;
mod seed;
mod settings;
mod webhooks;
mod world;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tandem_contract::{Clock, Transport};
use tokio::sync::Notify;

pub use limits::Stats;
pub use seed::Company;
pub use settings::{Faults, Settings};
pub use world::{Change, Refusal, World};

/// One simulated Pipedrive company.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    world: Mutex<World>,
    clock: Arc<dyn Clock>,
    news: Notify,
}

impl Sandbox {
    /// A company with Pipedrive's default pipeline and no records. The same seed makes the same choices of faults, delays
    /// and keys.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now() + settings.clock_offset();
        let world = World::new(settings, StdRng::seed_from_u64(seed), now);
        Self(Arc::new(Inner { world: Mutex::new(world), clock, news: Notify::new() }))
    }

    /// Works on the company directly, as a person in Pipedrive's screens or as a test that looks behind them.
    pub fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let answer = self.with_quietly(work);
        self.0.news.notify_one();
        answer
    }

    /// As [`Sandbox::with`], without waking the delivery of webhooks.
    fn with_quietly<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.now = self.0.clock.now() + world.settings.clock_offset();
        world.elapsed = self.0.clock.elapsed();
        work(&mut world)
    }

    /// The API, and the control routes `/__faults`, `/__settings`, `/__clock` and `/__stats`.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Delivers webhooks through `transport` until dropped. Without this task events queue up and are not sent.
    pub async fn deliver_webhooks(self, transport: Arc<dyn Transport>) {
        webhooks::deliver(self, transport).await;
    }

    async fn sleep(&self, duration: Duration) {
        self.0.clock.sleep(duration).await;
    }

    /// Draws a duration from zero to `most`.
    fn up_to(&self, most: Duration) -> Duration {
        self.with_quietly(|world| most.mul_f64(world.rng.random::<f64>()))
    }
}
