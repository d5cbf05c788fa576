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

pub use limits::{InBetween, Stats};
pub use seed::Clinic;
pub use settings::{Faults, Settings};
pub use world::{Change, Refusal, World};

/// One simulated HubSpot account.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
