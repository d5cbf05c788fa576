//! HubSpot's JSON, as loosely as it is promised. Nothing outside this crate sees these types.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;

/// HubSpot promises text but has sent numbers and booleans: all become text, null stays null.
fn loose_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Json::deserialize(deserializer)? {
        Json::Null => None,
        Json::String(text) => Some(text),
        other => Some(other.to_string()),
    })
}

/// What is left out and what is null are the same: nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The context of a failure: lists of text, where HubSpot keeps to its promise; one value or nothing, where not.
fn loose_context<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Vec<Loose>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<Loose>),
        One(Loose),
    }
    let context: Option<BTreeMap<String, OneOrMany>> = Option::deserialize(deserializer)?;
    let listed = |some| match some {
        OneOrMany::Many(many) => many,
        OneOrMany::One(one) => vec![one],
    };
    Ok(context.into_iter().flatten().map(|(name, some)| (name, listed(some))).collect())
}

/// Text that may arrive as a number, such as an id.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Loose(#[serde(deserialize_with = "loose_text")] pub Option<String>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    #[serde(deserialize_with = "loose_text")]
    pub id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub properties: BTreeMap<String, Loose>,
    #[serde(default, deserialize_with = "or_default")]
    pub properties_with_history: BTreeMap<String, Vec<HistoryEntry>>,
    #[serde(default)]
    pub created_at: Option<String>,
    #[serde(default)]
    pub updated_at: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub archived: bool,
    #[serde(default)]
    pub object_write_trace_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub associations: BTreeMap<String, AssociationBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    #[serde(default)]
    pub value: Loose,
    pub timestamp: String,
    #[serde(default)]
    pub source_type: Option<String>,
    #[serde(default)]
    pub source_label: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct AssociationBlock {
    #[serde(default, deserialize_with = "or_default")]
    pub results: Vec<AssociationRef>,
    #[serde(default)]
    pub paging: Option<Paging>,
}

#[derive(Debug, Deserialize)]
pub struct AssociationRef {
    #[serde(deserialize_with = "loose_text")]
    pub id: Option<String>,
    #[serde(default, rename = "type")]
    pub label: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct List<T> {
    #[serde(default = "Vec::new", deserialize_with = "or_default")]
    pub results: Vec<T>,
    #[serde(default, deserialize_with = "or_default")]
    pub errors: Vec<ErrorEntry>,
    #[serde(default)]
    pub paging: Option<Paging>,
    #[serde(default)]
    pub total: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Paging {
    #[serde(default)]
    pub next: Option<Next>,
}

#[derive(Debug, Deserialize)]
pub struct Next {
    #[serde(deserialize_with = "loose_text")]
    pub after: Option<String>,
}

impl<T> List<T> {
    pub fn after(&self) -> Option<String> {
        self.paging.as_ref()?.next.as_ref()?.after.clone()
    }
}

/// One failure of a batch, or the whole of a failed answer; every field is optional.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorEntry {
    #[serde(deserialize_with = "loose_text")]
    pub category: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    pub sub_category: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    pub message: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    pub policy_name: Option<String>,
    #[serde(deserialize_with = "loose_context")]
    pub context: BTreeMap<String, Vec<Loose>>,
    #[serde(deserialize_with = "or_default")]
    pub errors: Vec<ErrorDetail>,
    #[serde(deserialize_with = "loose_text")]
    pub status: Option<String>,
    #[serde(deserialize_with = "loose_text")]
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorDetail {
    #[serde(deserialize_with = "loose_text")]
    pub code: Option<String>,
    #[serde(deserialize_with = "loose_context")]
    pub context: BTreeMap<String, Vec<Loose>>,
}

impl ErrorEntry {
    /// True if this is how HubSpot refuses, and not a page of something in between.
    pub fn is_hubspots(&self) -> bool {
        self.category.is_some() || self.message.is_some() || self.status.is_some()
    }

    pub fn context(&self, key: &str) -> impl Iterator<Item = &str> {
        self.context.get(key).into_iter().flatten().filter_map(|loose| loose.0.as_deref())
    }
}

#[derive(Debug, Deserialize)]
pub struct Associated {
    pub from: AssociationRef,
    #[serde(default, deserialize_with = "or_default")]
    pub to: Vec<AssociatedTo>,
    #[serde(default)]
    pub paging: Option<Paging>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssociatedTo {
    #[serde(deserialize_with = "loose_text")]
    pub to_object_id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub association_types: Vec<AssociationType>,
}

#[derive(Debug, Deserialize)]
pub struct AssociationType {
    #[serde(default)]
    pub label: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    #[serde(deserialize_with = "loose_text")]
    pub portal_id: Option<String>,
    #[serde(default)]
    pub time_zone: Option<String>,
    #[serde(default)]
    pub company_currency: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub additional_currencies: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    pub id: String,
    pub label: String,
    #[serde(default, deserialize_with = "or_default")]
    pub display_order: i64,
    #[serde(default, deserialize_with = "or_default")]
    pub archived: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub stages: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    pub id: String,
    pub label: String,
    #[serde(default, deserialize_with = "or_default")]
    pub display_order: i64,
    #[serde(default, deserialize_with = "or_default")]
    pub archived: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: BTreeMap<String, Loose>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    pub id: String,
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default)]
    pub first_name: Option<String>,
    #[serde(default)]
    pub last_name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub archived: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Property {
    pub name: String,
    pub label: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub field_type: String,
    #[serde(default, deserialize_with = "or_default")]
    pub calculated: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub has_unique_value: bool,
    #[serde(default)]
    pub modification_metadata: Option<ModificationMetadata>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModificationMetadata {
    #[serde(default, deserialize_with = "or_default")]
    pub read_only_value: bool,
}

#[derive(Deserialize)]
pub struct Token {
    pub access_token: String,
    #[serde(default)]
    pub refresh_token: Option<String>,
    pub expires_in: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(default)]
    pub portal_id: Loose,
    #[serde(default)]
    pub subscription_type: Option<String>,
    #[serde(default)]
    pub object_type_id: Option<String>,
    #[serde(default)]
    pub object_id: Loose,
    #[serde(default)]
    pub association_type: Option<String>,
    #[serde(default)]
    pub from_object_id: Loose,
    #[serde(default)]
    pub to_object_id: Loose,
    #[serde(default)]
    pub primary_object_id: Loose,
    #[serde(default)]
    pub new_object_id: Loose,
    #[serde(default, deserialize_with = "or_default")]
    pub merged_object_ids: Vec<Loose>,
}
