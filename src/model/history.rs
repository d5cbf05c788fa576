//! Field history: every value that was replaced, by whom, so that none is ever out of reach.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Kind, Value};

use super::ids::{RecordId, RunId};

/// One field's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Which kind of record.
    pub kind: Kind,
    /// Which record.
    pub record: RecordId,
    /// Which field.
    pub field: String,
    /// What it was.
    pub old: Value,
    /// What it became.
    pub new: Value,
    /// By whom: a connection's name, or `person`.
    pub by: String,
    /// When we stored it.
    pub at: DateTime<Utc>,
    /// In which run.
    pub run: RunId,
}
