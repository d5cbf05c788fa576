//! Behaviour through public doors.

#![allow(clippy::unwrap_used, reason = "a test that meets something unexpected fails there and then")]
#![allow(missing_docs, reason = "the names of tests are sentences")]

mod changes;
mod conformance;
mod decisions;
mod disk;
mod doors;
mod driven;
mod emr;
mod failpoints;
mod fhir;
mod fhir_server;
mod fields;
mod four_doors;
mod fuzz;
mod hang_ups;
mod house;
mod kills;
mod laws;
mod matching;
mod merges;
mod model;
mod pipedrive;
mod planted;
mod policies;
mod process;
mod promises;
mod proxy;
mod published;
mod refusals;
mod refusals_fhir;
mod refusals_pipedrive;
mod refusals_square;
mod routes;
mod simulation;
mod square;
mod step_by_step;
mod stores;
mod structure;
mod stumbles;
mod ten_cases;
mod till;
mod till_and_desk;
mod twins;
mod two_crms;
mod types;
mod unreadable;
mod wire;
