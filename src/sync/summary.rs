//! What a run did, per connection.

use serde::Serialize;

use crate::model::Name;

/// Records by what happened to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Made.
    pub created: u64,
    /// Changed.
    pub updated: u64,
    /// Deleted, archived or found missing.
    pub deleted: u64,
}

/// One connection's part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Which connection.
    pub connection: Name,
    /// How it stands.
    pub state: String,
    /// Taken in from the vendor.
    pub pulled: Counts,
    /// Written at the vendor.
    pub pushed: Counts,
    /// Conflicts found in this run.
    pub conflicts: u64,
    /// Records or fields that wait for a person because of a failure.
    pub failed: u64,
    /// Writes the mass-change guard holds.
    pub held: u64,
    /// Records in quarantine.
    pub quarantined: u64,
    /// Records whose work is due later.
    pub waiting: u64,
    /// Calls made.
    pub calls: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Summary {
    /// Nothing yet.
    #[must_use]
    pub fn new(connection: Name) -> Self {
        Self {
            connection,
            state: "active".into(),
            pulled: Counts::default(),
            pushed: Counts::default(),
            conflicts: 0,
            failed: 0,
            held: 0,
            quarantined: 0,
            waiting: 0,
            calls: 0,
            seconds: 0.0,
        }
    }
}
