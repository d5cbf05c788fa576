//! A conflict: both sides changed, or an edit was overwritten. Both values are kept, whoever won.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Kind, Value};

use super::ids::{ConflictId, Name, RecordId};

/// Who won.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    /// Our value.
    Local,
    /// The vendor's value.
    Remote,
    /// Both, joined.
    Both,
    /// Nobody yet.
    Nobody,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConflictState {
    /// Waits for a person.
    Open,
    /// A rule decided; it can be overturned.
    Decided,
    /// A person decided.
    Resolved,
}

impl ConflictState {
    /// The word of the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Decided => "decided",
            Self::Resolved => "resolved",
        }
    }
}

/// Two values for one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Our id.
    pub id: ConflictId,
    /// With whom.
    pub connection: Name,
    /// Which kind of record.
    pub kind: Kind,
    /// Which record.
    pub record: RecordId,
    /// Which mapping row: a field, `position` or `value`.
    pub row: String,
    /// The local fields of that row, in the order of the values.
    pub fields: Vec<String>,
    /// What both agreed on last, in our terms; empty if they never did.
    pub base: Vec<Value>,
    /// What we said.
    pub local: Vec<Value>,
    /// What the vendor said, in our terms.
    pub remote: Vec<Value>,
    /// Who won.
    pub winner: Winner,
    /// By which rule.
    pub rule: String,
    /// How it stands.
    pub state: ConflictState,
    /// When it was found.
    pub at: DateTime<Utc>,
}

impl Conflict {
    /// What makes this conflict itself: found again, it is not recorded twice.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let text =
            serde_json::to_string(&(&self.connection, self.kind, self.record, &self.row, &self.local, &self.remote));
        if self.state == ConflictState::Open {
            // A question that comes up again is asked again.
            return self.id.to_string();
        }
        crate::model::digest(text.unwrap_or_default().as_bytes())
    }
}
