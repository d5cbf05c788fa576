//! A record as a vendor holds it, in the vendor's own property names.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{ExternalId, Value};

/// What a vendor tells of a record's age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// A true version or ETag: equal means unchanged. Few vendors have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The vendor's last-modified time. Equal proves nothing: two edits may share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<DateTime<Utc>>,
}

impl Version {
    /// True when a record seen at `self` cannot be newer than one already read at `known`: an equal token, or a
    /// strictly older time.
    #[must_use]
    pub fn is_covered_by(&self, known: &Version) -> bool {
        match (&self.token, &known.token, self.updated_at, known.updated_at) {
            (Some(seen), Some(known), _, _) => seen == known,
            (_, _, Some(seen), Some(known)) => seen < known,
            _ => false,
        }
    }
}

/// One record, as read by id: the truth at the moment of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The vendor's id.
    pub id: ExternalId,
    /// How old it is.
    pub version: Version,
    /// When it was made, by the vendor's clock, if it says.
    pub created_at: Option<DateTime<Utc>>,
    /// Typed values by the vendor's property names. A property that was not returned is not in the map.
    pub properties: BTreeMap<String, Value>,
    /// The marker that Tandem wrote when it created this record, if it did: `{installation}:{local id}`.
    pub marker: Option<String>,
    /// Ids of records that were merged into this one.
    pub absorbed: Vec<ExternalId>,
}

impl Record {
    /// The value of a property; [`Value::Absent`] if the vendor did not return it.
    #[must_use]
    pub fn property(&self, name: &str) -> Value {
        self.properties.get(name).cloned().unwrap_or_default()
    }

    /// Whether the vendor returned this value of a property, told without copying it.
    #[must_use]
    pub fn says(&self, name: &str, value: &Value) -> bool {
        self.properties.get(name).is_some_and(|known| known == value)
    }
}

/// The truth about one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// It is there.
    Found(Record),
    /// The vendor holds it as deleted or archived; a person may restore it.
    Archived,
    /// The vendor does not know it. Once is not enough to believe it.
    Gone,
    /// It lives on as another record.
    MergedInto(Record),
    /// We may not see it. Not the same as gone.
    Forbidden,
}

/// One statement in a property's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What was stated.
    pub value: Value,
    /// When, by the vendor's clock.
    pub at: DateTime<Utc>,
    /// Who or what stated it, in the vendor's words.
    pub source: String,
}

/// Statements per property, newest first.
pub type History = BTreeMap<String, Vec<Statement>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Version {
        Version { token: None, updated_at: DateTime::from_timestamp(seconds, 0) }
    }

    #[test]
    fn an_equal_time_is_no_proof_of_sameness() {
        assert!(!at(5).is_covered_by(&at(5)));
        assert!(at(4).is_covered_by(&at(5)));
        assert!(!at(6).is_covered_by(&at(5)));
        assert!(!Version::default().is_covered_by(&at(5)));
    }

    #[test]
    fn an_equal_token_is() {
        let token = |t: &str| Version { token: Some(t.into()), updated_at: None };
        assert!(token("3").is_covered_by(&token("3")));
        assert!(!token("4").is_covered_by(&token("3")));
    }
}
