//! Names of local fields, and the groups that merge as one.

use std::collections::BTreeMap;

use tandem_contract::Value;

/// Every field of an opportunity that is not an account's own.
pub const OPPORTUNITY: [&str; 16] = [
    "name",
    "description",
    "pipeline",
    "stage",
    "status",
    "lost_reason",
    "closed_at",
    "expected_close_on",
    "amount",
    "currency",
    "owner",
    "contact",
    "source",
    "deliberate",
    "type",
    "value_source",
];

/// Every field of a contact that is not an account's own.
pub const CONTACT: [&str; 6] = ["first_name", "last_name", "email", "phone", "company", "owner"];

/// Where an opportunity stands. Half a position is never merged.
pub const POSITION: [&str; 6] = ["pipeline", "stage", "status", "lost_reason", "closed_at", "expected_close_on"];

/// What it is worth: an amount without its currency means nothing.
pub const VALUE: [&str; 2] = ["amount", "currency"];

/// The part of an account's own field after its prefix: `lead_score` of `custom.lead_score`.
#[must_use]
pub fn custom(field: &str) -> Option<&str> {
    field.strip_prefix("custom.").filter(|name| !name.is_empty())
}

/// Sets the account's own fields among these; a null takes one away. Nothing here can be refused.
pub fn set_custom(fields: &mut BTreeMap<String, Value>, values: &[(&str, &Value)]) {
    for (name, value) in values.iter().filter_map(|(name, value)| Some((custom(name)?, value))) {
        match value {
            Value::Absent => {}
            Value::Null => drop(fields.remove(name)),
            value => drop(fields.insert(name.to_owned(), (*value).clone())),
        }
    }
}
