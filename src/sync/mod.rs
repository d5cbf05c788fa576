//! The heart: three copies, one merge.
//!
//! [`lens`] translates, [`plan`] and [`presence`] decide, all pure. [`reconcile`] reads the truth on both sides, plans,
//! and stores the plan in one transaction; `push` carries out what is to be written at the vendor, past the [`guard`].
//! [`intake`] finds out what changed; `sales` reads what a till sold, `visits` what a clinic's calendar says. [`engine`] drives them for one connection.

mod ask;
pub mod audit;
pub mod connection;
mod decide;
pub mod engine;
mod first_export;
pub mod guard;
pub mod intake;
pub mod lens;
pub mod mapping;
pub mod merges;
pub mod plan;
pub mod position;
pub mod presence;
pub mod preview;
mod push;
mod read;
pub mod reconcile;
mod remap;
mod sales;
pub mod summary;
mod takeover;
mod twins;
mod visits;
