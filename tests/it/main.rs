//! Behaviour through public doors.

mod doors;
mod kills;
mod laws;
mod process;
mod simulation;
mod step_by_step;
mod stores;
mod structure;
mod wire;
