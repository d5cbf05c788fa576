//! A link: our record and a vendor's that are the same thing, and what both said at their last agreement.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ExternalId, Kind, Value, Version};

use super::ids::{ConflictId, Name, RecordId};

/// The base of one mapping row: what each side said when they last agreed. Two-sided, so that a value the vendor
/// normalised is never taken for an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base(
    /// What we said.
    pub Vec<Value>,
    /// What the vendor stored.
    pub Vec<Value>,
);

/// How a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// In step.
    Linked,
    /// The vendor's record is archived or gone; ours is kept.
    RemoteMissing,
    /// Ours was deleted; the vendor's was left alone.
    Unlinked,
    /// Both are gone.
    Tombstoned,
}

impl LinkState {
    /// The state of this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [Self::Linked, Self::RemoteMissing, Self::Unlinked, Self::Tombstoned]
            .into_iter()
            .find(|one| one.as_str() == word)
    }

    /// The word of the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linked => "linked",
            Self::RemoteMissing => "remote_missing",
            Self::Unlinked => "unlinked",
            Self::Tombstoned => "tombstoned",
        }
    }
}

/// Why one mapping row of a link is not synchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// A conflict waits for a person's answer.
    Ask,
    /// Something keeps undoing our write: we stopped fighting.
    Frozen,
    /// The vendor refuses the value, or it cannot be mapped. Tried again when either side changes.
    Parked,
    /// One of too many alike: the mass-change guard waits for a person. Tried again when either side changes.
    Guarded,
}

/// A row on hold, with what both sides said when it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub kind: HoldKind,
    /// What we said.
    pub local: Vec<Value>,
    /// What the vendor said.
    pub remote: Vec<Value>,
    /// The conflict that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<ConflictId>,
}

/// What a person decides about changes that the mass-change guard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Let them go on.
    Approve,
    /// Do not make them; the difference stays until either side changes.
    Discard,
}

/// What a person decides about a link's rows on hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// What was refused is tried again.
    TryAgain,
    /// What the guard holds goes on, or stays.
    Guarded(Verdict),
}

impl Link {
    /// A link just made: nothing is agreed yet, and no version of the vendor's record has been read.
    #[must_use]
    pub fn new(connection: Name, kind: Kind, local: RecordId, external: ExternalId) -> Self {
        Self {
            connection,
            kind,
            local,
            external,
            state: LinkState::Linked,
            base: BTreeMap::new(),
            version: Version::default(),
            holds: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            missing_since: None,
            unanswered: None,
            rulings: 0,
        }
    }

    /// Carries out what a person decided.
    pub fn rule(&mut self, ruling: Ruling) {
        let before = (self.state, self.holds.clone());
        match ruling {
            Ruling::TryAgain => self.holds.retain(|_, hold| hold.kind != HoldKind::Parked),
            Ruling::Guarded(verdict) => self.decide_held(verdict),
        }
        // What changed nothing is in nobody's way.
        self.rulings += i64::from(before != (self.state, self.holds.clone()));
    }

    /// Takes what the guard holds off hold, or leaves it be as it is.
    fn decide_held(&mut self, verdict: Verdict) {
        if self.holds.get(PRESENCE).is_some_and(|hold| hold.kind == HoldKind::Guarded) {
            self.holds.remove(PRESENCE);
            self.state = match (verdict, self.state) {
                // Looked at again, and this time deleted.
                (Verdict::Approve, _) => LinkState::Linked,
                (Verdict::Discard, LinkState::RemoteMissing) => LinkState::RemoteMissing,
                (Verdict::Discard, _) => LinkState::Unlinked,
            };
        }
        match verdict {
            Verdict::Approve => self.holds.retain(|_, hold| hold.kind != HoldKind::Guarded),
            Verdict::Discard => {
                for hold in self.holds.values_mut().filter(|hold| hold.kind == HoldKind::Guarded) {
                    hold.kind = HoldKind::Parked;
                }
            }
        }
    }
}

/// The pseudo-row under which the presence of a record, and not one of its fields, is on hold.
pub const PRESENCE: &str = "presence";

/// A create that was sent again because nobody had answered: an earlier one may still land, as a twin of what is linked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// What it said, by mapping row.
    pub said: BTreeMap<String, Base>,
    /// What carries our marker and was made later than this is a copy that people made.
    pub until: DateTime<Utc>,
}

/// How often a row was rewritten to the same value: the oscillation breaker's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrites {
    /// The value we keep writing.
    pub value: Vec<Value>,
    /// How often, in the day that began at `since`.
    pub count: u32,
    /// When counting began.
    pub since: DateTime<Utc>,
}

/// Our record and a vendor's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Whose record.
    pub connection: Name,
    /// Which kind.
    pub kind: Kind,
    /// Ours.
    pub local: RecordId,
    /// Theirs.
    pub external: ExternalId,
    /// How it stands.
    pub state: LinkState,
    /// The last agreement, by mapping row.
    pub base: BTreeMap<String, Base>,
    /// How old the vendor's record was when last read.
    pub version: Version,
    /// Rows on hold.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub holds: BTreeMap<String, Hold>,
    /// Rows that were rewritten.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rewrites: BTreeMap<String, Rewrites>,
    /// When the vendor first said it does not know the record; once is not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<DateTime<Utc>>,
    /// A create of this record that was never answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<Unanswered>,
    /// How often a person decided about what is on hold: what was read before the last decision is not written over it.
    #[serde(default)]
    pub rulings: i64,
}
