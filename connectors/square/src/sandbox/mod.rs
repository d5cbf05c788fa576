//! A stateful simulator of Square's API and of the till behind it: locations, catalog, customers, orders, payments, refunds,
//! payment links, invoices and webhooks.
//!
//! A sale at the till is what it is at Square: an order without a version, which sends no `order.*` event, with a payment
//! that does; one with several payments cannot be read before the last. Lists lag behind what was written; the same
//! idempotency key answers the same. What Square's documentation leaves open is a field of [`Settings`].
//!
//! [`World::sell`] and its neighbours are the hand of a person at the till.

mod catalog;
mod checkout;
mod customers;
mod lists;
mod orders;
mod routes;
mod seed;
mod settings;
mod till;
mod webhooks;
mod world;

pub use seed::Shop;
pub use settings::{Faults, Settings, Stats};
pub use till::{Item, Line, Part, Ticket};
pub use world::{Change, Refusal, World};

/// One simulated Square seller.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
