//! The dirty set: records to look at. A mark says *that* something may have changed, never what.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use tandem_contract::{ExternalId, Kind};

use super::ids::{Name, RecordId};

/// Which record: by our id, or by the vendor's while it has none of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Ours.
    Local(RecordId),
    /// The vendor's.
    External(ExternalId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(id) => write!(f, "l:{id}"),
            Self::External(id) => write!(f, "x:{id}"),
        }
    }
}

/// Neither `l:` and one of our ids nor `x:` and a vendor's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a record key")]
pub struct BadKey(String);

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadKey(text.to_owned());
        match text.split_at_checked(2) {
            Some(("l:", id)) => id.parse().map(Self::Local).map_err(|_| bad()),
            Some(("x:", id)) => ExternalId::new(id).map(Self::External).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// True for what is looked at again for days, with nothing left undone: a sale may find its opportunity yet, and a visit may change.
#[must_use]
pub fn is_watched(kind: Kind) -> bool {
    matches!(kind, Kind::Sale | Kind::Appointment)
}

/// Why a record is dirty: it says how urgent that is. What is to be done follows from both sides, with two exceptions.
/// What a person asked to be tried is told again where it still waits for people; what the audit alone found is no news
/// of when it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A webhook named it.
    Webhook,
    /// A poll found it.
    Poll,
    /// It was edited here.
    LocalEdit,
    /// Another system's change was taken in.
    Propagate,
    /// An earlier try is repeated.
    Retry,
    /// The audit found a difference.
    Audit,
    /// A person asked.
    Operator,
}

impl Reason {
    /// What goes first: people and changes on their way, then polls, then the audit.
    #[must_use]
    pub fn priority(self) -> i64 {
        match self {
            Self::Operator | Self::LocalEdit => 0,
            Self::Webhook | Self::Propagate => 1,
            Self::Retry => 2,
            Self::Poll => 3,
            Self::Audit => 4,
        }
    }
}

/// A mark to make: raises the generation of the key and keeps the earlier due time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Of which connection.
    pub connection: Name,
    /// Which kind.
    pub kind: Kind,
    /// Which record.
    pub key: Key,
    /// From when on.
    pub due_at: DateTime<Utc>,
    /// How urgent; lower goes first.
    pub priority: i64,
}

impl Mark {
    /// A record of a connection is to be looked at from then on, as urgently as the reason is.
    #[must_use]
    pub fn new(connection: &Name, kind: Kind, key: Key, due_at: DateTime<Utc>, reason: Reason) -> Self {
        Self { connection: connection.clone(), kind, key, due_at, priority: reason.priority() }
    }
}

/// A marked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirty {
    /// Which kind.
    pub kind: Kind,
    /// Which record.
    pub key: Key,
    /// Counts marks: work that was begun on an older generation does not finish a newer one.
    pub generation: i64,
    /// From when on.
    pub due_at: DateTime<Utc>,
    /// How urgent.
    pub priority: i64,
    /// How often it was tried.
    pub attempts: u32,
}
