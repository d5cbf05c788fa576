//! A stateful simulator of Pipedrive's API: deals, persons and organizations, pipelines and stages, custom fields, users,
//! webhooks, merges and changelogs, in both generations of paths.
//!
//! Same shapes, strictness, token budget and webhooks; a switchboard of faults that can be turned while it runs; and time
//! from an injected clock, so that under a virtual one it is exact and repeatable. What Pipedrive's documentation leaves
//! open is a field of [`Settings`]. Searches look at e-mail addresses and custom fields only, and do not lag.
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

pub use limits::Stats;
pub use seed::Company;
pub use settings::{Faults, Settings};
pub use world::{Change, Refusal, World};

/// One simulated Pipedrive company.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
