//! A stateful simulator of a clinic's FHIR server: patients, appointments, encounters, orders, schedules and slots,
//! invoices, charges, subscriptions, SMART Backend Services.
//!
//! It does what the standard says and, by its [`Settings`], what servers do instead: days where instants are asked for, filters
//! ignored without a word, versions that are not heeded, identifiers that are not kept. [`World::appoint`] and its neighbours are
//! the hand of somebody at the desk.
//!
//! Not reproduced: histories, batches and transactions, `$match`, chained searches, patches; amounts lose the zeros at their end.

mod desk;
mod lists;
mod resources;
mod routes;
mod settings;
mod tokens;
mod webhooks;
mod world;

pub use desk::CANARY;
pub use settings::{Duplicates, Faults, LastUpdated, Settings, Stats, Versioning};
pub use world::{Refusal, World};

/// One simulated clinic.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
