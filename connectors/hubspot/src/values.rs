//! HubSpot's text values as typed ones, and back.
//!
//! Source: HubSpot developer documentation, "Properties". Every value is text or null; `""` clears; dates are
//! `YYYY-MM-DD` or epoch milliseconds; several options are joined by `;`.

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat, Utc};
use rust_decimal::Decimal;
use tandem_contract::{PropertyType, Value};

/// Reads a value. Text that is not of its declared type is kept as text: the lens will say which field it spoils,
/// and every other field goes on.
pub fn read(kind: PropertyType, text: Option<&str>) -> Value {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Value::Null };
    let typed = match kind {
        PropertyType::Text => None,
        PropertyType::Number => text.trim().parse::<Decimal>().ok().map(Value::Number),
        PropertyType::Flag => match text.to_ascii_lowercase().as_str() {
            "true" => Some(Value::Flag(true)),
            "false" => Some(Value::Flag(false)),
            _ => None,
        },
        PropertyType::Date => read_date(text).map(Value::Date),
        PropertyType::Time => read_time(text).map(Value::Time),
        PropertyType::Choices => Some(Value::Choices(
            text.split(';')
                .map(str::trim)
                .filter(|choice| !choice.is_empty())
                .map(|choice| choice.replace('\0', ""))
                .collect(),
        )),
    };
    typed.unwrap_or_else(|| Value::text(text))
}

/// Writes a value; `""` clears it.
pub fn write(value: &Value) -> String {
    match value {
        Value::Absent | Value::Null => String::new(),
        Value::Text(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Date(date) => date.to_string(),
        Value::Time(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        Value::Choices(choices) => choices.iter().map(String::as_str).collect::<Vec<_>>().join(";"),
        Value::Refs(refs) => refs.join(";"),
    }
}

/// An instant, as ISO 8601 text or epoch milliseconds.
pub fn read_time(text: &str) -> Option<DateTime<Utc>> {
    // A day beyond counting is no day in any time zone.
    let is_sane = |time: &DateTime<Utc>| (1..10_000).contains(&time.year());
    match text.parse::<i64>() {
        Ok(millis) => DateTime::from_timestamp_millis(millis).filter(is_sane),
        Err(_) => DateTime::parse_from_rfc3339(text)
            .map(|time| time.to_utc())
            .ok()
            .or_else(|| read_date(text)?.and_hms_opt(0, 0, 0).map(|time| time.and_utc())),
    }
}

fn read_date(text: &str) -> Option<NaiveDate> {
    match text.parse::<i64>() {
        Ok(millis) => DateTime::from_timestamp_millis(millis).map(|time| time.date_naive()),
        Err(_) => text.get(..10)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_their_declared_type() {
        for (kind, text, want) in [
            (PropertyType::Text, "Harbor refit", Value::text("Harbor refit")),
            (PropertyType::Number, "18250.00", Value::Number(Decimal::new(18_250, 0))),
            (PropertyType::Flag, "true", Value::Flag(true)),
            (PropertyType::Choices, ";botox; peel", Value::Choices(["botox".to_owned(), "peel".to_owned()].into())),
            (PropertyType::Number, "about 900", Value::text("about 900")),
            (PropertyType::Text, "", Value::Null),
        ] {
            assert_eq!(read(kind, Some(text)), want, "{text}");
        }
        assert_eq!(read(PropertyType::Text, None), Value::Null);
    }

    #[test]
    fn a_time_is_the_same_with_and_without_a_fraction_or_as_milliseconds() {
        let whole = read(PropertyType::Time, Some("2026-12-18T00:00:00Z"));
        assert_eq!(read(PropertyType::Time, Some("2026-12-18T00:00:00.000Z")), whole);
        assert_eq!(read(PropertyType::Time, Some("1797552000000")), whole);
        assert_eq!(write(&whole), "2026-12-18T00:00:00.000Z");
    }
}
