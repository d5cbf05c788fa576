//! A stateful simulator of HubSpot's CRM API.
//!
//! Same routes in every generation of paths, same shapes, limits, signatures, eventual consistency and webhooks; a
//! switchboard of faults that can be turned while it runs; and time from an injected clock, so that under a virtual
//! one it is exact and repeatable. What HubSpot's documentation leaves open is a field of [`Settings`].
//!
//! [`Sandbox::router`] serves it: over a socket for people and for HubSpot's own client libraries, or in process for
//! the simulation. [`Sandbox::with`] is the hand of a person working in HubSpot's own screens.

mod associations;
mod directory;
mod limits;
mod objects;
mod routes;
mod search;
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
use tandem_contract::{Clock, Secret, Transport};
use tokio::sync::Notify;

pub use limits::{InBetween, Stats};
pub use seed::Clinic;
pub use settings::{Faults, Settings};
pub use world::{Change, Refusal, World};

/// One simulated HubSpot account.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    world: Mutex<World>,
    clock: Arc<dyn Clock>,
    news: Notify,
}

impl Sandbox {
    /// An account with HubSpot's default pipeline and properties and no records. The same seed makes the same
    /// choices of faults, delays and ids.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, clock: Arc<dyn Clock>) -> Self {
        let now = clock.now() + settings.clock_offset();
        let world = World::new(settings, StdRng::seed_from_u64(seed), now);
        Self(Arc::new(Inner { world: Mutex::new(world), clock, news: Notify::new() }))
    }

    /// Works on the account directly, as a person in HubSpot's screens or as a test that looks behind them.
    pub fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.now = self.0.clock.now() + world.settings.clock_offset();
        world.elapsed = self.0.clock.elapsed();
        let answer = work(&mut world);
        drop(world);
        self.0.news.notify_one();
        answer
    }

    /// The API, and the control routes `/__faults`, `/__settings`, `/__clock` and `/__stats`.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Delivers webhooks through `transport` until dropped. Without this task events queue up and are not sent.
    pub async fn deliver_webhooks(self, transport: Arc<dyn Transport>) {
        webhooks::deliver(self, transport).await;
    }

    /// Sends webhooks to this address from now on, signed with this secret.
    pub fn subscribe(&self, target_url: &str, secret: &Secret) {
        let (target_url, secret) = (target_url.to_owned(), secret.clone());
        self.with(|world| world.outbox.subscribe(target_url, secret));
    }

    async fn sleep(&self, duration: Duration) {
        self.0.clock.sleep(duration).await;
    }

    /// Draws a duration from zero to `most`.
    fn up_to(&self, most: Duration) -> Duration {
        self.with(|world| most.mul_f64(world.rng.random::<f64>()))
    }
}
