//! Visits at a clinic: how far they bring an opportunity. Pure: visits, rules and an opportunity come in as values, a verdict goes
//! out.
//!
//! Reading visits and storing what came of them is the engine's: `sync::visits`.

pub mod ladder;
pub mod people;
pub mod stage;
