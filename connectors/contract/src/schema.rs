//! What a connector finds out about the account it is connected to.

use std::collections::BTreeMap;

use chrono::Duration;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// Who we are connected to.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The vendor's id of the account. A connection never moves to another one by itself.
    pub remote_account: String,
    /// IANA time zone of the account, if the vendor states one.
    pub timezone: Option<String>,
    /// ISO 4217 code of the account's own currency.
    pub currency: Option<String>,
    /// Currencies a record may carry; empty if the vendor does not restrict them.
    pub currencies: Vec<String>,
    /// The vendor's clock minus ours.
    pub clock_offset: Duration,
    /// Each thing that was looked at, for the operator.
    pub items: Vec<CheckItem>,
}

/// One line of a connection test.
#[derive(Clone, Debug, Serialize)]
pub struct CheckItem {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, and what to do if it is not.
    pub detail: String,
}

/// Pipelines, owners and properties, by the vendor's stable ids.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Schema {
    /// Sales pipelines in display order.
    pub pipelines: Vec<PipelineInfo>,
    /// People a record can belong to, former ones included.
    pub owners: Vec<OwnerInfo>,
    /// Properties by kind and name.
    pub properties: BTreeMap<Kind, BTreeMap<String, PropertyInfo>>,
}

/// A pipeline at the vendor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PipelineInfo {
    /// Stable id.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// Its stages in order.
    pub stages: Vec<StageInfo>,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageInfo {
    /// Stable id, unique within its pipeline.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// Chance to win, 0 to 100.
    pub probability: u8,
    /// True if a record here is no longer worked on: won at 100, lost at 0.
    pub closed: bool,
}

/// A person a record can belong to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnerInfo {
    /// Stable id.
    pub id: String,
    /// Lower-cased e-mail address, the key across vendors.
    pub email: Option<String>,
    /// Display name.
    pub name: String,
    /// True for a person who left.
    pub archived: bool,
}

/// A property of a kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PropertyInfo {
    /// What people call it.
    pub label: String,
    /// What it holds.
    pub kind: PropertyType,
    /// Whether the vendor refuses writes to it.
    pub read_only: bool,
    /// Whether the vendor refuses two records with one value.
    pub unique: bool,
}

/// What a property holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PropertyType {
    /// Free text, or one option.
    Text,
    /// A number.
    Number,
    /// Yes or no.
    Flag,
    /// A day.
    Date,
    /// An instant.
    Time,
    /// Any of several options.
    Choices,
}
