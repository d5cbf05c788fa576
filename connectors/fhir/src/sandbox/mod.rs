//! A stateful simulator of a clinic's FHIR server: patients, appointments, encounters, orders, schedules and slots,
//! invoices, charges, subscriptions, SMART Backend Services.
//!
//! It does what the standard says and, by its [`Settings`], what servers do instead: days and no instants, filters ignored without a
//! word, searches by POST refused, versions that are not heeded, identifiers that are not kept, totals in an extension.
//! [`World::appoint`] and its neighbours are the hand of somebody at the desk.
//!
//! Not reproduced:
//! - histories and reads of old versions, batches and transactions, `$match`, patches, conditional updates and deletes,
//!   `Prefer: return`, `Last-Modified`;
//! - of searches: chains, `_has`, modifiers, `_include`, the prefix `ap`, any `_sort` but by `_lastUpdated`, any `_summary` but
//!   `count`, and most parameters that the connector does not ask for. Links lead to pages as they were at first; the total is right,
//!   or where pages are numbered that of pages; the days of `_lastUpdated` are UTC's;
//! - STU3: every dialect has R4's shapes and says that it is 4.0.1;
//! - scopes are granted, and no request is refused for one that is missing;
//! - of what a record must be, its type, a few elements, its status and that nothing is empty are looked at. Two appointments at one
//!   time are refused by their slot alone;
//! - practitioners, places and organizations are references to nothing, and accounts are there only if somebody makes them;
//! - subscriptions do not end by themselves, have no `$status` and no `$events`, and send events one by one; athenahealth's events
//!   are not sent;
//! - amounts lose the zeros at their end.

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
