//! An intent: a write at a vendor, made durable before it is sent, so that after a crash our own write can be told
//! from somebody else's.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ExternalId, Kind, Value, Version};

use super::ids::{IntentId, Name, RecordId, RunId};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum IntentOp {
    /// Make the record, under our marker.
    Create {
        /// `{installation}:{local id}`.
        marker: String,
    },
    /// Change some of its properties.
    Update {
        /// Which record.
        external: ExternalId,
        /// The version it was planned on.
        version: Version,
    },
    /// Move it to the vendor's recycle bin.
    Archive {
        /// Which record.
        external: ExternalId,
    },
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IntentState {
    /// Durable, not sent: safe to drop.
    Planned,
    /// Durable, and held by the mass-change guard until a person decides.
    Held,
    /// Sent, or about to be: the outcome is not known until it is read.
    Sent,
    /// Sent for a record that was merged away since: what it replaced is still to be looked for, and what it said is not
    /// what the record says that has it now.
    Inherited,
}

impl IntentState {
    /// True if the write may have reached the vendor.
    #[must_use]
    pub fn may_have_landed(self) -> bool {
        matches!(self, Self::Sent | Self::Inherited)
    }
}

/// One mapping row of the write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRow {
    /// Our values that are being said.
    pub local: Vec<Value>,
    /// The vendor's values it was planned on.
    pub seen: Vec<Value>,
    /// The vendor's values that are being written.
    pub want: Vec<Value>,
}

/// A write at a vendor. At most one is open per record and connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Our id, also the trace id of the call.
    pub id: IntentId,
    /// At whom.
    pub connection: Name,
    /// Which kind.
    pub kind: Kind,
    /// For which of our records.
    pub local: RecordId,
    /// What.
    pub op: IntentOp,
    /// Which rows, with which values.
    pub rows: BTreeMap<String, IntentRow>,
    /// How far it got.
    pub state: IntentState,
    /// When it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<DateTime<Utc>>,
    /// The moment from which it can no longer land: only a read that began after it settles the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<DateTime<Utc>>,
    /// True for a create that was sent before, and neither answered nor found: the earlier one may still land beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// True if that one said something else, or the vendor would not take what this one says: what is said next is what is said
    /// here by then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The run that made it.
    pub run: RunId,
}
