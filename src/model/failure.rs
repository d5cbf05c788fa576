//! A failure: one record, or one row of it, that was set aside for a person. It blocks nothing else.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::Kind;

use super::ids::{FailureId, Name};

/// What was set aside, why, who must act and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Our id.
    pub id: FailureId,
    /// Of which connection.
    pub connection: Name,
    /// Which kind of record.
    pub kind: Kind,
    /// The record's key in the dirty set: `l:` and our id, or `x:` and the vendor's.
    pub key: String,
    /// Which mapping row; empty for the whole record.
    pub row: String,
    /// A stable code, such as `unmapped_stage`.
    pub code: String,
    /// What happened and what to do, for people; no values.
    pub message: String,
    /// First seen.
    pub first_at: DateTime<Utc>,
    /// Last seen.
    pub last_at: DateTime<Utc>,
    /// How often it was tried.
    pub attempts: u32,
}
