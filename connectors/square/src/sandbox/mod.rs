//! A stateful simulator of Square's API and of the till behind it: locations, catalog, customers, orders, payments, refunds,
//! payment links, invoices and webhooks.
//!
//! A sale at the till is what it is at Square: an order without a version, which sends no `order.*` event, with a payment
//! that does; one with several payments cannot be read before the last. Lists lag behind what was written; the same
//! idempotency key answers the same. What Square's documentation leaves open is a field of [`Settings`].
//!
//! [`World::sell`] and its neighbours are the hand of a person at the till.
//!
//! Not simulated:
//! - `/v2/events`, where missed events are told again; changes and tests of a webhook subscription, and that Square disables one
//!   that answers for weeks with nothing but failures; `location.*` events;
//! - OAuth's revocation by a caller, and the grants of PKCE, which are good for once; a seller who is asked lets the application in;
//! - what generations of the API differ in: `Square-Version` must be a date, and comes back as it was sent;
//! - parameters and filters besides those that are read here: most routes ignore them, where Square may refuse or heed them;
//! - idempotency keys that are forgotten in time;
//! - payments by anything but a card, and of an order by `/pay`; refunds without a payment; links and invoices that are changed or
//!   taken back.

mod catalog;
mod checkout;
mod customers;
mod lists;
mod orders;
mod routes;
mod seed;
mod settings;
mod till;
mod tokens;
mod webhooks;
mod world;

pub use seed::Shop;
pub use settings::{Faults, Settings, Stats};
pub use till::{Item, Line, Part, Ticket};
pub use world::{Change, Refusal, World};

/// One simulated Square seller.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
