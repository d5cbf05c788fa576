//! The heart: three copies, one merge.
//!
//! [`lens`] translates, [`plan`] and [`presence`] decide, all pure. [`reconcile`] reads the truth on both sides, plans,
//! and stores the plan in one transaction; `push` carries out what is to be written at the vendor, past the [`guard`].
//! [`change`] is what goes with a change of ours, whoever makes it, and [`follow_up`] what that has stored elsewhere.
//! [`intake`] finds out what changed; `sales` reads what a till sold, `visits` what a clinic's calendar says. [`engine`] drives them for one connection.

mod ask;
pub mod audit;
pub mod change;
pub mod connection;
mod decide;
mod discovery;
pub mod engine;
pub mod first_export;
pub mod follow_up;
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
mod twins;
mod visits;
