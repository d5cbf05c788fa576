//! Tandem keeps a business's sales opportunities in step between its own store and the systems its people use.
//!
//! Floors, each knowing only those below it: [`model`] (pure types and rules), [`store`] (the only rooms with SQL),
//! [`sales`] (what a sale at the till means), [`sync`] (the reconciler), [`edit`] (people's edits), then the doors. `docs/ARCHITECTURE.md` has the picture.

pub mod api;
pub mod booking;
pub mod checkout;
pub mod command;
pub mod config;
pub mod edit;
pub mod installation;
pub mod model;
pub mod sales;
pub mod simulation;
pub mod store;
pub mod sync;
pub mod vendors;
pub mod visits;
