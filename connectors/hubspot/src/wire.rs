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

/// Text that may arrive as a number, such as an id.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Loose(#[serde(deserialize_with = "loose_text")] pub Option<String>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    #[serde(deserialize_with = "loose_text")]
    pub id: Option<String>,
    #[serde(default)]
    pub properties: BTreeMap<String, Loose>,
    #[serde(default)]
    pub properties_with_history: BTreeMap<String, Vec<HistoryEntry>>,
    #[serde(default)]
    pub updated_at: Option<String>,
    #[serde(default)]
    pub archived: bool,
    #[serde(default)]
    pub object_write_trace_id: Option<String>,
    #[serde(default)]
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
    #[serde(default)]
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
pub struct List<T> {
    #[serde(default = "Vec::new")]
    pub results: Vec<T>,
    #[serde(default)]
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
    pub category: Option<String>,
    pub sub_category: Option<String>,
    pub message: Option<String>,
    pub policy_name: Option<String>,
    pub context: BTreeMap<String, Vec<Loose>>,
    pub errors: Vec<ErrorDetail>,
    pub status: Option<String>,
    pub error: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorDetail {
    pub code: Option<String>,
    pub context: BTreeMap<String, Vec<Loose>>,
}

impl ErrorEntry {
    pub fn context(&self, key: &str) -> impl Iterator<Item = &str> {
        self.context.get(key).into_iter().flatten().filter_map(|loose| loose.0.as_deref())
    }
}

#[derive(Debug, Deserialize)]
pub struct Associated {
    pub from: AssociationRef,
    #[serde(default)]
    pub to: Vec<AssociatedTo>,
    #[serde(default)]
    pub paging: Option<Paging>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssociatedTo {
    #[serde(deserialize_with = "loose_text")]
    pub to_object_id: Option<String>,
    #[serde(default)]
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
    #[serde(default)]
    pub additional_currencies: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pipeline {
    pub id: String,
    pub label: String,
    #[serde(default)]
    pub display_order: i64,
    #[serde(default)]
    pub archived: bool,
    #[serde(default)]
    pub stages: Vec<Stage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    pub id: String,
    pub label: String,
    #[serde(default)]
    pub display_order: i64,
    #[serde(default)]
    pub archived: bool,
    #[serde(default)]
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
    #[serde(default)]
    pub archived: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Property {
    pub name: String,
    pub label: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub field_type: String,
    #[serde(default)]
    pub calculated: bool,
    #[serde(default)]
    pub has_unique_value: bool,
    #[serde(default)]
    pub modification_metadata: Option<ModificationMetadata>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModificationMetadata {
    #[serde(default)]
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
    pub event_id: Loose,
    #[serde(default)]
    pub subscription_id: Loose,
    #[serde(default)]
    pub portal_id: Loose,
    #[serde(default)]
    pub occurred_at: Loose,
    #[serde(default)]
    pub subscription_type: Option<String>,
    #[serde(default)]
    pub object_type_id: Option<String>,
    #[serde(default)]
    pub object_id: Loose,
    #[serde(default)]
    pub property_name: Option<String>,
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
    #[serde(default)]
    pub merged_object_ids: Vec<Loose>,
}
