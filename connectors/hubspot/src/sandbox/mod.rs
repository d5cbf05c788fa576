//! A stateful simulator of HubSpot's CRM API.
//!
//! Same routes in every generation of paths, same shapes, limits, signatures, eventual consistency and webhooks; a
//! switchboard of faults that can be turned while it runs; and time from an injected clock, so that under a virtual
//! one it is exact and repeatable. What HubSpot's documentation leaves open is a field of [`Settings`].
//!
//! What it does not reproduce:
//! - Other objects than deals, contacts and companies, and other associations than those between deals and contacts; labels
//!   cannot be made.
//! - Limits of each app: everybody who calls shares the account's windows.
//! - Visibility: every token sees every record; scopes are the account's and not each token's.
//! - Workflows, required properties, and rules of pipelines: what an automation does is the fault `automation`, which edits one
//!   text. Pipelines are read through the API, and a stage deleted; there is one group of properties.
//! - Searches by association, and searches through an index that lost a record for good.
//! - Subscriptions through the API, and a choice of events: one address is told everything. The journal of events, snapshots,
//!   imports, exports and lists.
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
