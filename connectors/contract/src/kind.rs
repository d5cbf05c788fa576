//! The kinds of record that systems share.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A kind of record. The order is the order in which records depend on one another: a company comes before the
/// contact that works there, a contact before the deal that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An organisation.
    Company,
    /// A person.
    Contact,
    /// A sales opportunity, as most vendors call it.
    Deal,
    /// A booked visit.
    Appointment,
    /// A sale at the till.
    Sale,
}

impl Kind {
    /// Every kind, parents before children.
    pub const ALL: [Kind; 5] = [Kind::Company, Kind::Contact, Kind::Deal, Kind::Appointment, Kind::Sale];

    /// The word used in the store, the API and the logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Company => "company",
            Self::Contact => "contact",
            Self::Deal => "deal",
            Self::Appointment => "appointment",
            Self::Sale => "sale",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a kind of record; kinds are company, contact, deal, appointment, sale")]
pub struct UnknownKind(String);

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| UnknownKind(text.to_owned()))
    }
}
