//! JSON to field values, strictly: an unknown field or a value of the wrong kind is refused by name.

use std::str::FromStr;

use serde_json::{Map, Value as Json};
use tandem_contract::Value;

use super::problem::Problem;
use crate::{edit::Fields, model::field};

/// The fields of an opportunity that a caller may state, and its external reference if stated.
pub fn opportunity(body: &Map<String, Json>) -> Result<(Fields, Option<Option<String>>), Problem> {
    let mut fields = Fields::new();
    let mut reference = None;
    for (name, value) in body {
        match name.as_str() {
            "name" | "description" | "owner" | "source" | "lost_reason" | "status" | "type" | "value_source" => {
                fields.insert(name.clone(), text(name, value)?);
            }
            "contact_id" | "pipeline_id" | "stage_id" => {
                fields.insert(name.trim_end_matches("_id").to_owned(), text(name, value)?);
            }
            "expected_close_on" => {
                fields.insert(name.clone(), parsed(name, value, Value::Date)?);
            }
            "closed_at" => {
                fields.insert(name.clone(), parsed(name, value, Value::Time)?);
            }
            "deliberate" => {
                let flag = value.as_bool().ok_or_else(|| Problem::invalid(name, "is neither true nor false"))?;
                fields.insert(name.clone(), Value::Flag(flag));
            }
            "value" => money(value, &mut fields)?,
            "external_reference" => {
                let stated = text(name, value)?.as_text().map(str::trim).map(str::to_owned);
                reference = Some(stated.filter(|reference| !reference.is_empty()));
            }
            "custom" => custom(value, &mut fields)?,
            _ => return Err(Problem::invalid(name, "is not a field of an opportunity that can be set")),
        }
    }
    Ok((fields, reference))
}

/// The fields of a contact that a caller may state.
pub fn contact(body: &Map<String, Json>) -> Result<Fields, Problem> {
    let mut fields = Fields::new();
    for (name, value) in body {
        if field::CONTACT.contains(&name.as_str()) {
            fields.insert(name.clone(), text(name, value)?);
        } else if name == "custom" {
            custom(value, &mut fields)?;
        } else {
            return Err(Problem::invalid(name, "is not a field of a contact that can be set"));
        }
    }
    Ok(fields)
}

fn text(name: &str, value: &Json) -> Result<Value, Problem> {
    match value {
        Json::Null => Ok(Value::Null),
        Json::String(text) if text.chars().count() > 65_536 => {
            Err(Problem::invalid(name, "is longer than 65,536 characters"))
        }
        Json::String(text) => Ok(Value::text(text)),
        _ => Err(Problem::invalid(name, "is not text")),
    }
}

fn parsed<T: FromStr>(name: &str, value: &Json, wrap: fn(T) -> Value) -> Result<Value, Problem> {
    match value {
        Json::Null => Ok(Value::Null),
        Json::String(text) => text.parse().map(wrap).map_err(|_| Problem::invalid(name, "does not parse")),
        _ => Err(Problem::invalid(name, "is not text")),
    }
}

fn money(value: &Json, fields: &mut Fields) -> Result<(), Problem> {
    let (amount, currency) = match value {
        Json::Null => (Value::Null, Value::Null),
        Json::Object(money) => {
            let minor = money
                .get("minor")
                .and_then(Json::as_i64)
                .ok_or_else(|| Problem::invalid("value.minor", "is not a whole number of minor units"))?;
            let code = money
                .get("currency")
                .and_then(Json::as_str)
                .ok_or_else(|| Problem::invalid("value.currency", "is missing"))?;
            let currency = crate::model::Currency::new(code)
                .map_err(|error| Problem::invalid("value.currency", error.to_string()))?;
            (Value::Number(crate::model::Money { minor, currency }.to_major()), Value::text(code))
        }
        _ => return Err(Problem::invalid("value", "is not {\"minor\": …, \"currency\": …}")),
    };
    fields.insert("amount".into(), amount);
    fields.insert("currency".into(), currency);
    Ok(())
}

fn custom(value: &Json, fields: &mut Fields) -> Result<(), Problem> {
    let Json::Object(all) = value else { return Err(Problem::invalid("custom", "is not an object")) };
    for (name, value) in all {
        let wrong =
            || Problem::invalid(&format!("custom.{name}"), "is not text, a number, yes or no, or a list of texts");
        let value = match value {
            Json::Null => Value::Null,
            Json::String(text) => Value::text(text),
            Json::Bool(flag) => Value::Flag(*flag),
            Json::Number(number) => number.to_string().parse().map(Value::Number).map_err(|_| wrong())?,
            Json::Array(list) => Value::Choices(
                list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(wrong)?,
            ),
            Json::Object(_) => return Err(wrong()),
        };
        fields.insert(format!("custom.{name}"), value);
    }
    Ok(())
}

/// A value as JSON, for answers.
pub fn plain(value: &Value) -> Json {
    match value {
        Value::Absent | Value::Null => Json::Null,
        Value::Text(text) => text.clone().into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Number(number) => {
            number.to_string().parse::<serde_json::Number>().map_or_else(|_| number.to_string().into(), Json::Number)
        }
        Value::Choices(choices) => choices.iter().cloned().collect::<Vec<_>>().into(),
        other => other.to_string().into(),
    }
}
