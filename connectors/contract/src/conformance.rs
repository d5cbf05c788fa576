//! The behaviour every connector must show, run against its sandbox.
