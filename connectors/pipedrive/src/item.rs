//! A deal, person or anything else of Pipedrive's, as loosely as it is promised: a map of raw JSON, so that numbers keep
//! every digit and a field that arrives in another shape spoils no other.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer};
use serde_json::{Value as Json, value::RawValue};
use tandem_contract::{ConnectorError, ExternalId, Value};

/// One object of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Item(BTreeMap<String, Box<RawValue>>);

impl Item {
    /// The raw text of a member; `None` if it was left out.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|raw| raw.get())
    }

    /// A member, parsed.
    pub fn json(&self, name: &str) -> Json {
        self.raw(name).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    }

    /// A member that is an object itself.
    pub fn item(&self, name: &str) -> Item {
        self.raw(name).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    }

    /// A member that is an object if it is there at all.
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`] for anything else: what it holds is not known to be empty then.
    pub fn object(&self, name: &str) -> Result<Item, ConnectorError> {
        match self.raw(name) {
            // An empty list is how some languages write an empty object.
            None | Some("null" | "[]") => Ok(Item::default()),
            Some(raw) => serde_json::from_str(raw).map_err(|_| ConnectorError::Malformed { path: name.into() }),
        }
    }

    /// A member that is a list of objects.
    pub fn items(&self, name: &str) -> Vec<Item> {
        self.raw(name).and_then(|raw| serde_json::from_str(raw).ok()).unwrap_or_default()
    }

    /// Text, or a number as text; `None` for null and for what was left out.
    pub fn text(&self, name: &str) -> Option<String> {
        text_of(&self.json(name))
    }

    /// True only for `true`; the first generation of the API says 1.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.raw(name), Some("true" | "1"))
    }

    /// An instant.
    pub fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        read_time(&self.text(name)?)
    }

    /// The record's id.
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`] if there is none.
    pub fn id(&self) -> Result<ExternalId, ConnectorError> {
        let id = self.text("id").and_then(|id| ExternalId::new(id).ok());
        id.ok_or_else(|| ConnectorError::Malformed { path: "id".into() })
    }

    /// A member read as `read` does; null is null, and what was left out was not stated.
    pub fn value(&self, name: &str, read: impl FnOnce(&str) -> Value) -> Value {
        match self.raw(name) {
            None => Value::Absent,
            Some("null") => Value::Null,
            Some(raw) => read(raw),
        }
    }
}

/// A row of a list. What is no object is as good as an empty one, so that it does not keep the others from being read.
pub struct Row(pub Item);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        Ok(Self(serde_json::from_str(raw.get()).unwrap_or_default()))
    }
}

fn text_of(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(flag) => Some(flag.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Raw JSON as text: a string without its quotes, a number as it stands. Text of nothing is nothing; what has parts is no text, and
/// says nothing.
pub fn as_text(raw: &str) -> Value {
    let json: Json = serde_json::from_str(raw).unwrap_or_default();
    if json.is_object() || json.is_array() {
        return Value::Absent;
    }
    text_of(&json).filter(|text| !text.is_empty()).map_or(Value::Null, |text| Value::text(&text))
}

/// Raw JSON as a number, never through a float.
pub fn as_number(raw: &str) -> Value {
    let text = raw.trim_matches('"');
    let number = text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(text));
    number.map_or_else(|_| as_text(raw), Value::Number)
}

/// Raw JSON as a day.
pub fn as_date(raw: &str) -> Value {
    let text = raw.trim_matches('"');
    text.parse::<NaiveDate>().map_or_else(|_| as_text(raw), Value::Date)
}

/// Raw JSON as an instant.
pub fn as_time(raw: &str) -> Value {
    read_time(raw.trim_matches('"')).map_or_else(|| as_text(raw), Value::Time)
}

/// `2026-11-20T10:01:02Z` of the second generation, `2026-11-20 10:01:02` of the first; both UTC.
pub fn read_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").map(|at| at.and_utc()))
        .ok()
}

/// An instant as query filters want it, in whole seconds.
pub fn for_query(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An instant as bodies want it.
pub fn for_body(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit_and_odd_shapes_spoil_nothing() {
        let item: Item = serde_json::from_str(
            r#"{"id": 4411, "value": 12345678901234.56, "title": 7, "person_id": null, "add_time": "2026-11-20 10:01:02"}"#,
        )
        .unwrap_or_default();
        assert_eq!(item.id().map(|id| id.to_string()).ok().as_deref(), Some("4411"));
        assert_eq!(item.value("value", as_number), Value::Number(Decimal::new(1_234_567_890_123_456, 2)));
        assert_eq!(item.text("title").as_deref(), Some("7"));
        assert_eq!(item.value("person_id", as_text), Value::Null);
        assert_eq!(item.value("org_id", as_text), Value::Absent);
        assert_eq!(item.time("add_time"), read_time("2026-11-20T10:01:02Z"));
    }

    #[test]
    fn what_is_no_object_is_an_empty_row_and_what_has_parts_is_no_text() {
        let rows: Vec<Row> =
            serde_json::from_str(r#"[{"id": 1}, "Jane Roe", 7, -7, 0.5, true, null, [[1], {}], {"id": 2}]"#)
                .unwrap_or_default();
        let ids: Vec<Option<String>> = rows.iter().map(|row| row.0.text("id")).collect();
        assert_eq!((ids.len(), ids.iter().flatten().count()), (9, 2));
        assert_eq!((ids[0].as_deref(), ids[8].as_deref()), (Some("1"), Some("2")));
        for raw in [r#"{"value": 9}"#, "[9]"] {
            assert_eq!((as_text(raw), as_number(raw)), (Value::Absent, Value::Absent), "{raw} empties nothing");
        }
        let item: Item = serde_json::from_str(r#"{"custom_fields": "Jane Roe"}"#).unwrap_or_default();
        assert_eq!(
            item.object("custom_fields").unwrap_err().to_string(),
            "the vendor's answer does not parse at `custom_fields`"
        );
        assert!(item.object("other").is_ok());
        let empty: Item = serde_json::from_str(r#"{"custom_fields": []}"#).unwrap_or_default();
        assert!(empty.object("custom_fields").is_ok());
    }
}
