//! The mapping file: which local field is which property, of which type, by which rule.

use std::collections::BTreeMap;

use serde::Deserialize;
use tandem_contract::{Kind, PropertyType};

use super::lens::{Codec, Direction, Lens, Row, Rule};
use crate::model::field;

/// A mapping file is not usable; the text names the entry and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// Not TOML, or an unknown key.
    #[error("the mapping does not parse: {0}")]
    Syntax(String),
    /// An entry makes no sense.
    #[error("[{kind}.\"{field}\"] {why}")]
    Entry {
        /// Which kind.
        kind: Kind,
        /// Which local field.
        field: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    contact: BTreeMap<String, Entry>,
    #[serde(default)]
    deal: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    property: Option<String>,
    #[serde(rename = "type")]
    kind: Option<PropertyType>,
    amount: Option<String>,
    currency: Option<String>,
    pipeline: Option<String>,
    stage: Option<String>,
    close_date: Option<String>,
    status: Option<String>,
    expected: Option<String>,
    closed_at: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    lost_reason: Option<String>,
    rule: Option<String>,
    #[serde(default)]
    direction: Direction,
    #[serde(default)]
    required: bool,
}

/// Reads a mapping.
///
/// # Errors
/// [`MappingError`] names the entry that is wrong.
pub fn parse(text: &str) -> Result<BTreeMap<Kind, Lens>, MappingError> {
    let file: File = toml::from_str(text).map_err(|error| MappingError::Syntax(error.to_string()))?;
    let mut lenses = BTreeMap::new();
    for (kind, entries) in [(Kind::Contact, file.contact), (Kind::Deal, file.deal)] {
        if entries.is_empty() {
            continue;
        }
        let rows = entries.into_iter().map(|(name, entry)| row(kind, name, entry)).collect::<Result<Vec<_>, _>>()?;
        lenses.insert(kind, Lens { kind, rows });
    }
    Ok(lenses)
}

fn row(kind: Kind, name: String, entry: Entry) -> Result<Row, MappingError> {
    let wrong = |why: &str| MappingError::Entry { kind, field: name.clone(), why: why.to_owned() };
    let need = |value: &Option<String>, key: &str| value.clone().ok_or_else(|| wrong(&format!("needs `{key}`")));
    let text = PropertyType::Text;
    let (codec, fields, properties): (Codec, Vec<&str>, Vec<(String, PropertyType)>) = match (kind, name.as_str()) {
        (Kind::Deal, "position") if entry.status.is_some() => (
            Codec::StatusPosition,
            field::POSITION.to_vec(),
            vec![
                (need(&entry.pipeline, "pipeline")?, text),
                (need(&entry.stage, "stage")?, text),
                (need(&entry.status, "status")?, text),
                (need(&entry.expected, "expected")?, PropertyType::Date),
                (need(&entry.closed_at, "closed_at")?, PropertyType::Time),
                (need(&entry.lost_reason, "lost_reason")?, text),
            ],
        ),
        (Kind::Contact, "name") => (
            Codec::Name,
            vec!["first_name", "last_name"],
            vec![
                (need(&entry.property, "property")?, text),
                (need(&entry.first_name, "first_name")?, text),
                (need(&entry.last_name, "last_name")?, text),
            ],
        ),
        (Kind::Deal, "position") => (
            Codec::Position,
            field::POSITION.to_vec(),
            vec![
                (need(&entry.pipeline, "pipeline")?, text),
                (need(&entry.stage, "stage")?, text),
                (need(&entry.close_date, "close_date")?, PropertyType::Time),
                (need(&entry.lost_reason, "lost_reason")?, text),
            ],
        ),
        (Kind::Deal, "value") => (
            Codec::Money,
            field::VALUE.to_vec(),
            vec![(need(&entry.amount, "amount")?, PropertyType::Number), (need(&entry.currency, "currency")?, text)],
        ),
        (Kind::Deal, "contact") => (Codec::Contact, vec!["contact"], vec![(need(&entry.property, "property")?, text)]),
        (Kind::Deal, "type") => (Codec::Type, vec!["type"], vec![(need(&entry.property, "property")?, text)]),
        (_, "owner") => (Codec::Owner, vec!["owner"], vec![(need(&entry.property, "property")?, text)]),
        (kind, plain) => {
            let known = match kind {
                Kind::Contact => field::CONTACT.contains(&plain),
                _ => ["name", "description", "source"].contains(&plain),
            };
            if !known && field::custom(plain).is_none() {
                return Err(wrong("is not a field of ours; the account's own fields are written `custom.name`"));
            }
            (Codec::Plain, vec![plain], vec![(need(&entry.property, "property")?, entry.kind.unwrap_or(text))])
        }
    };
    let rule = match entry.rule.as_deref() {
        None => Rule::default(),
        Some(word) => [
            Rule::Newest,
            Rule::PreferLocal,
            Rule::PreferRemote,
            Rule::ForwardOnly,
            Rule::Union,
            Rule::Highest,
            Rule::Ask,
        ]
        .into_iter()
        .find(|rule| rule.as_str() == word)
        .ok_or_else(|| {
            wrong(
                "has an unknown rule; rules are newest, prefer_local, prefer_remote, forward_only, union, highest, ask",
            )
        })?,
    };
    if rule == Rule::ForwardOnly && !matches!(codec, Codec::Position | Codec::StatusPosition) {
        return Err(wrong("`forward_only` is a rule for `position`"));
    }
    let fields = fields.into_iter().map(str::to_owned).collect();
    Ok(Row { name, fields, properties, codec, rule, direction: entry.direction, required: entry.required })
}

/// The properties a connector must read, by kind.
#[must_use]
pub fn selection(lenses: &BTreeMap<Kind, Lens>) -> BTreeMap<Kind, BTreeMap<String, PropertyType>> {
    lenses
        .iter()
        .map(|(kind, lens)| (*kind, lens.rows.iter().flat_map(|row| row.properties.iter().cloned()).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_makes_no_sense_is_named() {
        for (text, want) in [
            ("[deal.colour]\nproperty = \"c\"", "[deal.\"colour\"] is not a field of ours"),
            ("[deal.position]\npipeline = \"p\"", "[deal.\"position\"] needs `stage`"),
            ("[deal.name]\nproperty = \"n\"\nrule = \"coin\"", "unknown rule"),
            ("[deal.name]\nproprety = \"n\"", "proprety"),
            ("[deal.name]\nproperty = \"n\"\nrule = \"forward_only\"", "`forward_only` is a rule for `position`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
