//! Behaviour through public doors.

mod simulation;
mod step_by_step;
