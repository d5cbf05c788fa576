//! What the store remembers of a connection between two starts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ids::Name;

/// Whether a connection works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// It works.
    #[default]
    Active,
    /// A person paused it.
    Paused,
    /// The vendor does not accept the credentials; everything is kept until they are renewed.
    NeedsAuth,
    /// The credentials lead to another vendor account than before: nothing is touched.
    WrongAccount,
}

impl ConnectionState {
    /// The word of the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::NeedsAuth => "needs_auth",
            Self::WrongAccount => "wrong_account",
        }
    }
}

/// A connection's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Of which account.
    pub account: Name,
    /// Its name.
    pub name: Name,
    /// The vendor.
    pub system: String,
    /// Raised by one with every change; 0 while it is not stored.
    #[serde(default)]
    pub version: i64,
    /// The vendor's account it belongs to, once known: it never changes by itself.
    #[serde(default)]
    pub remote_account: Option<String>,
    /// Whether it works.
    #[serde(default)]
    pub state: ConnectionState,
    /// Why it does not, for people.
    #[serde(default)]
    pub reason: Option<String>,
    /// Last time a page of changes was read.
    #[serde(default)]
    pub polled_at: Option<DateTime<Utc>>,
    /// The vendor's time zone, as it stated it.
    #[serde(default)]
    pub timezone: Option<String>,
    /// The vendor's own currency.
    #[serde(default)]
    pub currency: Option<String>,
    /// Currencies the vendor accepts; empty for any.
    #[serde(default)]
    pub currencies: Vec<String>,
}

impl ConnectionRow {
    /// A connection before its first contact.
    #[must_use]
    pub fn new(account: Name, name: Name, system: &str) -> Self {
        Self {
            account,
            name,
            system: system.to_owned(),
            version: 0,
            remote_account: None,
            state: ConnectionState::Active,
            reason: None,
            polled_at: None,
            timezone: None,
            currency: None,
            currencies: Vec::new(),
        }
    }
}
