//! The simulation: engine, connector and sandbox in one process, the memory store, virtual time, seeded faults.
//!
//! A world is generated and synchronised once, then both sides of it are perturbed while things go wrong: answers and
//! requests vanish, writes land late, rows fail, webhooks are lost, the engine is killed between any two steps. Then the
//! faults stop, everything is given time, and the checkers look at what is left. The same seed gives the same trace.
//! Source of the method: Dropbox, "Testing our new sync engine" (CanopyCheck, Trinity); FoundationDB, "Simulation and
//! testing".

mod checks;
mod company;
pub mod coverage;
mod gate;
mod ledger;
mod people;
mod rig;
mod run;
mod scenario;
mod search;
mod shrink;

pub use company::{run_company, run_company_over};
pub use coverage::Coverage;
pub use gate::{Act, At, Gate};
pub use rig::{Rig, account, lenses};
pub use run::{Outcome, run, run_over, run_seed};
pub use scenario::{Operation, Scenario, What};
pub use search::search;
pub use shrink::{Shrunk, shrink};
