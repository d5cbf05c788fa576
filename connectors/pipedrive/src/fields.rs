//! Custom fields: 40-character keys that differ in every company, shown by name; options by label.
//!
//! Source: "Custom fields", <https://pipedrive.readme.io/docs/core-api-concepts-custom-fields>. Names are not unique: a
//! field that is named twice is not guessed at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value as Json, value::RawValue};
use tandem_contract::{Call, ConnectorError, Kind, PropertyInfo, PropertyType, Value};

use crate::{
    Pipedrive,
    client::{Api, Ask},
    item::{Item, as_date, as_number, as_text, as_time},
    organizations, singular,
};

/// How long a company's fields are taken to stay as they are; a look costs ten tokens.
const FRESH: Duration = Duration::from_secs(3_600);

/// The properties of a deal that are not custom fields.
const DEAL: [&str; 13] = [
    "title",
    "value",
    "currency",
    "person_id",
    "org_id",
    organizations::NAME,
    "owner_id",
    "pipeline_id",
    "stage_id",
    "status",
    "lost_reason",
    "expected_close_date",
    "close_time",
];
/// Those of a person. `email` and `phone` are the primary ones of their lists.
const PERSON: [&str; 8] =
    ["name", "first_name", "last_name", "email", "phone", "owner_id", "org_id", organizations::NAME];

/// The properties of a kind that every company has.
pub fn system(kind: Kind) -> &'static [&'static str] {
    if kind == Kind::Contact { &PERSON } else { &DEAL }
}

/// One custom field.
#[derive(Clone, Debug)]
pub struct Field {
    pub code: String,
    pub name: String,
    pub kind: String,
    /// Labels by the option's id.
    options: BTreeMap<String, String>,
}

impl Field {
    fn of(item: &Item) -> Option<Self> {
        let options = item.items("options");
        let options = options.iter().filter_map(|option| Some((option.text("id")?, option.text("label")?)));
        Some(Self {
            code: item.text("field_code")?,
            name: item.text("field_name")?,
            kind: item.text("field_type")?,
            options: options.collect(),
        })
    }

    pub fn property_type(&self) -> Option<PropertyType> {
        Some(match self.kind.as_str() {
            "varchar" | "text" | "phone" | "varchar_auto" | "varchar_options" | "enum" => PropertyType::Text,
            "double" | "int" | "monetary" => PropertyType::Number,
            "boolean" => PropertyType::Flag,
            "date" => PropertyType::Date,
            "set" => PropertyType::Choices,
            // Ranges, addresses and references have parts of their own.
            _ => return None,
        })
    }

    /// True if one of the values is not among the options that are known: the field was changed since.
    fn is_news(&self, raw: &str) -> bool {
        let ids = |raw: &str| serde_json::from_str::<Vec<Json>>(raw).unwrap_or_default();
        match self.kind.as_str() {
            "enum" => raw != "null" && !self.options.contains_key(raw.trim_matches('"')),
            "set" => ids(raw).iter().any(|id| !self.options.contains_key(id.to_string().trim_matches('"'))),
            _ => false,
        }
    }

    /// A value as the API states it.
    pub fn read(&self, raw: &str) -> Value {
        let label = |id: &str| self.options.get(id).cloned().unwrap_or_else(|| id.to_owned());
        match self.kind.as_str() {
            "double" | "int" => as_number(raw),
            "monetary" => {
                let item: Item = serde_json::from_str(raw).unwrap_or_default();
                item.value("value", as_number)
            }
            "boolean" => match raw {
                "true" | "1" => Value::Flag(true),
                "false" | "0" => Value::Flag(false),
                other => as_text(other),
            },
            "date" => as_date(raw),
            "enum" => Value::text(&label(raw.trim_matches('"'))),
            "set" => {
                let ids: Vec<Json> = serde_json::from_str(raw).unwrap_or_default();
                let labels: BTreeSet<String> = ids.iter().map(|id| label(id.to_string().trim_matches('"'))).collect();
                if labels.is_empty() { Value::Null } else { Value::Choices(labels) }
            }
            _ => as_text(raw),
        }
    }

    /// A value as the changelog states it: text, options by id, several with commas.
    pub fn read_logged(&self, text: &str) -> Value {
        match self.kind.as_str() {
            "set" => {
                let ids: Vec<&str> = text.split(',').map(str::trim).filter(|id| !id.is_empty()).collect();
                self.read(&serde_json::to_string(&ids).unwrap_or_default())
            }
            _ => self.read(&serde_json::to_string(text).unwrap_or_default()),
        }
    }

    /// A value as the API wants it.
    ///
    /// # Errors
    /// The option that the field does not have.
    pub fn write(&self, value: &Value) -> Result<Box<RawValue>, ConnectorError> {
        let id = |label: &str| {
            let labelled = self.options.iter().find(|(_, known)| *known == label);
            let found = labelled.or_else(|| self.options.get_key_value(label));
            found.map(|(id, _)| id.clone()).ok_or_else(|| ConnectorError::Rejected {
                field: Some(self.name.clone()),
                reason: "the field has no such option".into(),
            })
        };
        match (self.kind.as_str(), value) {
            ("enum", Value::Text(label)) => Ok(raw(id(label)?)),
            ("set", Value::Choices(labels)) if !labels.is_empty() => {
                let ids = labels.iter().map(|label| id(label)).collect::<Result<Vec<_>, _>>()?;
                Ok(raw(format!("[{}]", ids.join(","))))
            }
            // It wants a currency beside the amount, and ours is a number.
            ("monetary", Value::Number(_)) => Err(ConnectorError::Rejected {
                field: Some(self.name.clone()),
                reason: "an amount with a currency of its own can be read only: set `direction = \"in\"` for it".into(),
            }),
            // An empty list is refused.
            ("set", Value::Choices(_)) => Ok(raw("null".into())),
            _ => plain(value),
        }
    }
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap_or_default()
}

/// A value of a type that JSON has.
pub fn plain(value: &Value) -> Result<Box<RawValue>, ConnectorError> {
    let quoted = |text: &str| serde_json::to_string(text).unwrap_or_else(|_| "null".into());
    Ok(raw(match value {
        Value::Absent | Value::Null => "null".into(),
        Value::Text(text) => quoted(text),
        // As digits, never through a float.
        Value::Number(number) => number.normalize().to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Date(day) => quoted(&day.to_string()),
        Value::Time(at) => quoted(&crate::item::for_body(*at)),
        Value::Choices(_) | Value::Refs(_) => {
            return Err(ConnectorError::Rejected { field: None, reason: "the field takes one value".into() });
        }
    }))
}

/// A company's custom fields of one kind.
#[derive(Clone, Debug, Default)]
pub struct Book(Vec<Field>);

impl Book {
    /// The field of this key, or the only one of this name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|field| field.code == name).or_else(|| match self.named(name).as_slice() {
            [one] => Some(*one),
            _ => None,
        })
    }

    /// The fields of this name, in order of their keys.
    pub fn named(&self, name: &str) -> Vec<&Field> {
        self.0.iter().filter(|field| field.name == name).collect()
    }

    /// Definitions by key, and by name where a name is one field's.
    pub fn infos(&self) -> BTreeMap<String, PropertyInfo> {
        let mut infos = BTreeMap::new();
        for field in &self.0 {
            let Some(kind) = field.property_type() else { continue };
            let info = PropertyInfo {
                label: field.name.clone(),
                kind,
                read_only: matches!(field.kind.as_str(), "varchar_auto" | "monetary"),
                unique: false,
            };
            if self.named(&field.name).len() == 1 {
                infos.insert(field.name.clone(), info.clone());
            }
            infos.insert(field.code.clone(), info);
        }
        infos
    }

    /// True if a record holds an option that this book does not know.
    pub fn is_outdated(&self, custom: &Item, names: &[&str]) -> bool {
        let fields = names.iter().filter_map(|name| self.get(name));
        fields.into_iter().any(|field| custom.raw(&field.code).is_some_and(|raw| field.is_news(raw)))
    }
}

/// What is known of the fields, and since when.
#[derive(Default)]
pub struct Books(Mutex<BTreeMap<Kind, (Duration, Arc<Book>)>>);

impl Pipedrive {
    /// The company's custom fields of a kind.
    ///
    /// # Errors
    /// [`ConnectorError`] as Pipedrive answers.
    pub(crate) async fn book(&self, call: Call, kind: Kind) -> Result<Arc<Book>, ConnectorError> {
        let now = self.client.clock.elapsed();
        let known = self.books.0.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).cloned();
        match known.filter(|(since, _)| now.saturating_sub(*since) < FRESH) {
            Some((_, book)) => Ok(book),
            None => self.new_book(call, kind).await,
        }
    }

    /// How long ago the fields of a kind were read.
    pub(crate) fn book_age(&self, kind: Kind) -> Duration {
        let books = self.books.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = books.get(&kind).map_or(Duration::ZERO, |(since, _)| *since);
        self.client.clock.elapsed().saturating_sub(since)
    }

    /// The fields as they are now.
    ///
    /// # Errors
    /// [`ConnectorError`] as Pipedrive answers.
    pub(crate) async fn new_book(&self, call: Call, kind: Kind) -> Result<Arc<Book>, ConnectorError> {
        let path = format!("{}Fields", singular(kind));
        let items = self.client.all::<Item>(Ask::get(Api::V2, path, 10, call.lane)).await?;
        let mut fields: Vec<Field> =
            items.iter().filter(|item| item.flag("is_custom_field")).filter_map(Field::of).collect();
        fields.sort_by(|a, b| a.code.cmp(&b.code));
        let book = Arc::new(Book(fields));
        let entry = (self.client.clock.elapsed(), book.clone());
        self.books.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, entry);
        Ok(book)
    }
}

/// A property that every company has, from an object of the API.
pub fn read_system(name: &str, item: &Item) -> Value {
    match name {
        "value" => item.value(name, as_number),
        "expected_close_date" => item.value(name, as_date),
        "close_time" => item.value(name, as_time),
        "person_id" => match item.raw(name) {
            None => Value::Absent,
            Some("null") => Value::Refs(Vec::new()),
            Some(raw) => Value::Refs(vec![raw.trim_matches('"').to_owned()]),
        },
        "email" => primary(item, "emails"),
        "phone" => primary(item, "phones"),
        _ => item.value(name, as_text),
    }
}

/// The primary one of a person's addresses or numbers, else the first.
fn primary(item: &Item, list: &str) -> Value {
    // What is no list says nothing of what is in it.
    if item.raw(list).is_none_or(|raw| raw != "null" && !raw.starts_with('[')) {
        return Value::Absent;
    }
    let all = item.items(list);
    let first = all.iter().find(|one| one.flag("primary")).or(all.first());
    first.map_or(Value::Null, |one| one.value("value", as_text))
}

/// The same property as the changelog states it, in text.
pub fn read_logged(name: &str, text: &str) -> Value {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    match name {
        "value" => as_number(&quoted),
        "expected_close_date" => as_date(&quoted),
        "close_time" => as_time(&quoted),
        "person_id" => Value::Refs(vec![text.to_owned()]),
        _ => as_text(&quoted),
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;

    fn field(kind: &str) -> Field {
        let item = format!(
            r#"{{"field_code":"c0de","field_name":"Treatment","field_type":"{kind}","options":[{{"id":31,"label":"Peel"}},{{"id":32,"label":"Laser"}}]}}"#
        );
        Field::of(&serde_json::from_str(&item).unwrap_or_default()).expect("a field")
    }

    #[test]
    fn options_go_by_label_and_back() {
        let one = field("enum");
        assert_eq!(one.read("31"), Value::text("Peel"));
        assert_eq!(one.write(&Value::text("Laser")).expect("an option").get(), "32");
        assert!(matches!(one.write(&Value::text("Botox")), Err(ConnectorError::Rejected { .. })));
        let many = field("set");
        assert_eq!(many.read("[32,31]"), Value::Choices(["Laser".to_owned(), "Peel".to_owned()].into()));
        assert_eq!(many.read_logged("31, 32"), many.read("[31,32]"));
        assert_eq!(many.write(&Value::Choices(BTreeSet::new())).expect("nothing").get(), "null");
        assert!(many.is_news("[33]") && !many.is_news("[31]"));
    }

    #[test]
    fn money_is_written_as_digits() {
        let amount = Value::Number(Decimal::new(1_234_567_890_123_456, 2));
        assert_eq!(plain(&amount).expect("a number").get(), "12345678901234.56");
    }
}
