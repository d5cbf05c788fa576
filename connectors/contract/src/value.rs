//! One value of one property.

use std::{collections::BTreeSet, fmt};

use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A value as one side states it: absent, null, or something.
///
/// `Absent` means *this side said nothing*: a property that was not returned, a field the vendor does not have. It
/// never clears anything. `Null` means *this side says there is nothing*. Equality is exact and typed; numbers are
/// equal when their amounts are (`900` and `900.00`).
///
/// Stored as compact JSON: text as a string, null as null, flags as booleans, the rest as a one-key object
/// (`{"n":"900"}`), because two of these are kept for every field of every link.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub enum Value {
    /// Nothing was said.
    #[default]
    Absent,
    /// Said to be empty.
    Null,
    /// Text, as it is.
    Text(String),
    /// A number, exact.
    Number(Decimal),
    /// Yes or no.
    Flag(bool),
    /// A calendar day, without a zone.
    Date(NaiveDate),
    /// An instant.
    Time(DateTime<Utc>),
    /// A set of options.
    Choices(BTreeSet<String>),
    /// Ids of other records; the first is the primary one.
    Refs(Vec<String>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Null,
    Flag(bool),
    Text(String),
    Tagged(Tagged),
}

#[derive(Serialize, Deserialize)]
enum Tagged {
    #[serde(rename = "-")]
    Absent(u8),
    #[serde(rename = "n")]
    Number(Decimal),
    #[serde(rename = "d")]
    Date(NaiveDate),
    #[serde(rename = "t")]
    Time(DateTime<Utc>),
    #[serde(rename = "c")]
    Choices(BTreeSet<String>),
    #[serde(rename = "r")]
    Refs(Vec<String>),
}

impl From<Stored> for Value {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Null => Self::Null,
            Stored::Flag(flag) => Self::Flag(flag),
            Stored::Text(text) => Self::Text(text),
            Stored::Tagged(Tagged::Absent(_)) => Self::Absent,
            Stored::Tagged(Tagged::Number(number)) => Self::Number(number),
            Stored::Tagged(Tagged::Date(date)) => Self::Date(date),
            Stored::Tagged(Tagged::Time(time)) => Self::Time(time),
            Stored::Tagged(Tagged::Choices(choices)) => Self::Choices(choices),
            Stored::Tagged(Tagged::Refs(refs)) => Self::Refs(refs),
        }
    }
}

impl From<Value> for Stored {
    fn from(value: Value) -> Self {
        match value {
            Value::Absent => Self::Tagged(Tagged::Absent(0)),
            Value::Null => Self::Null,
            Value::Text(text) => Self::Text(text),
            Value::Number(number) => Self::Tagged(Tagged::Number(number)),
            Value::Flag(flag) => Self::Flag(flag),
            Value::Date(date) => Self::Tagged(Tagged::Date(date)),
            Value::Time(time) => Self::Tagged(Tagged::Time(time)),
            Value::Choices(choices) => Self::Tagged(Tagged::Choices(choices)),
            Value::Refs(refs) => Self::Tagged(Tagged::Refs(refs)),
        }
    }
}

impl Value {
    /// Text as an outsider sent it, without the NUL characters that PostgreSQL cannot store.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(text.replace('\0', ""))
    }

    /// True when there is nothing to see: absent, null, or text of nothing but blanks.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Absent | Self::Null => true,
            Self::Text(text) => text.trim().is_empty(),
            Self::Choices(choices) => choices.is_empty(),
            Self::Refs(refs) => refs.is_empty(),
            Self::Number(_) | Self::Flag(_) | Self::Date(_) | Self::Time(_) => false,
        }
    }

    /// `Null` for `None`, else the text.
    #[must_use]
    pub fn from_option(text: Option<&str>) -> Self {
        text.map_or(Self::Null, Self::text)
    }

    /// The text, if this is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// How people read it; never parsed back.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("(not stated)"),
            Self::Null => f.write_str("(empty)"),
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => f.write_str(if *flag { "yes" } else { "no" }),
            Self::Date(date) => write!(f, "{date}"),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Choices(choices) => f.write_str(&choices.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
            Self::Refs(refs) => f.write_str(&refs.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_the_store() {
        let values = [
            Value::Absent,
            Value::Null,
            Value::text("Ана\u{0}"),
            Value::Number(Decimal::new(90000, 2)),
            Value::Flag(true),
            Value::Date(NaiveDate::from_ymd_opt(2026, 12, 18).unwrap_or_default()),
            Value::Time(DateTime::from_timestamp_micros(1_795_300_000_123_456).unwrap_or_default()),
            Value::Choices(["a".to_owned(), "b".to_owned()].into()),
            Value::Refs(vec!["2".to_owned(), "1".to_owned()]),
        ];
        for value in values {
            let stored = serde_json::to_string(&value).unwrap_or_default();
            let read: Value = serde_json::from_str(&stored).unwrap_or_default();
            assert_eq!(read, value, "{stored}");
        }
    }

    #[test]
    fn amounts_compare_by_amount_and_absent_is_not_null() {
        assert_eq!(Value::Number(Decimal::new(900, 0)), Value::Number(Decimal::new(90000, 2)));
        assert_ne!(Value::Absent, Value::Null);
        assert!(Value::Absent.is_blank() && Value::Null.is_blank() && Value::text(" ").is_blank());
    }
}
