//! When a field was last stated, and by whom.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// When a field was last stated and by whom: a connection's name, or `person`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: String,
}

/// Stamps by field, as they are stored: most fields of a record were stated at once, so each statement is written once,
/// with the fields it was of.
pub(super) mod grouped {
    use serde::{Deserializer, Serializer, ser::SerializeSeq};

    use super::{BTreeMap, DateTime, Deserialize, Stamp, Utc};

    pub fn serialize<S: Serializer>(stamps: &BTreeMap<String, Stamp>, to: S) -> Result<S::Ok, S::Error> {
        let mut statements: BTreeMap<&Stamp, Vec<&str>> = BTreeMap::new();
        for (field, stamp) in stamps {
            statements.entry(stamp).or_default().push(field);
        }
        let mut list = to.serialize_seq(Some(statements.len()))?;
        for (stamp, fields) in statements {
            list.serialize_element(&(&stamp.at, &stamp.by, fields))?;
        }
        list.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Stamp>, D::Error> {
        /// As they are written now, or as before, one by one.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            Grouped(Vec<(DateTime<Utc>, String, Vec<String>)>),
            Each(BTreeMap<String, Stamp>),
        }
        let statements = match Stored::deserialize(from)? {
            Stored::Grouped(statements) => statements,
            Stored::Each(stamps) => return Ok(stamps),
        };
        let each = |(at, by, fields): (_, String, Vec<String>)| {
            fields.into_iter().map(move |field| (field, Stamp { at, by: by.clone() }))
        };
        Ok(statements.into_iter().flat_map(each).collect())
    }
}
