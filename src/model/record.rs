//! A local record of any kind, as the reconciler sees it: named fields with values.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Kind, Value};

use super::{contact::Contact, ids::RecordId, opportunity::Opportunity, stamp::Stamp};

/// A value does not fit its field.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{field}` {why}")]
pub struct Invalid {
    /// Which field.
    pub field: String,
    /// What is wrong with it; never quotes the value.
    pub why: String,
}

impl Invalid {
    /// Names the field and what is wrong.
    #[must_use]
    pub fn new(field: &str, why: impl Into<String>) -> Self {
        Self { field: field.to_owned(), why: why.into() }
    }
}

pub(super) fn text_value(text: Option<&str>) -> Value {
    Value::from_option(text)
}

pub(super) fn text(name: &str, value: &Value) -> Result<Option<String>, Invalid> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text.clone())),
        _ => Err(Invalid::new(name, "is not text")),
    }
}

/// A contact or an opportunity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LocalRecord {
    /// A contact.
    Contact(Contact),
    /// An opportunity.
    Deal(Opportunity),
}

macro_rules! each {
    ($record:expr, $inner:ident => $body:expr) => {
        match $record {
            LocalRecord::Contact($inner) => $body,
            LocalRecord::Deal($inner) => $body,
        }
    };
}

impl LocalRecord {
    /// An empty record of this kind; `None` for kinds that have no local record.
    #[must_use]
    pub fn new(kind: Kind, id: RecordId, now: DateTime<Utc>) -> Option<Self> {
        match kind {
            Kind::Contact => Some(Self::Contact(Contact::new(id, now))),
            Kind::Deal => Some(Self::Deal(Opportunity::new(id, now))),
            Kind::Company | Kind::Appointment | Kind::Sale => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Contact(_) => Kind::Contact,
            Self::Deal(_) => Kind::Deal,
        }
    }

    /// Our id.
    #[must_use]
    pub fn id(&self) -> RecordId {
        each!(self, r => r.id)
    }

    /// Counts changes.
    #[must_use]
    pub fn version(&self) -> i64 {
        each!(self, r => r.version)
    }

    /// Made.
    #[must_use]
    pub fn created_at(&self) -> DateTime<Utc> {
        each!(self, r => r.created_at)
    }

    /// When it was deleted, or merged away.
    #[must_use]
    pub fn deleted_at(&self) -> Option<DateTime<Utc>> {
        each!(self, r => r.deleted_at)
    }

    /// True if deleted or merged away.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        each!(self, r => r.deleted_at.is_some())
    }

    /// The record it was merged into.
    #[must_use]
    pub fn merged_into(&self) -> Option<RecordId> {
        each!(self, r => r.merged_into)
    }

    /// Deletes or undeletes.
    pub fn set_deleted(&mut self, at: Option<DateTime<Utc>>) {
        each!(self, r => r.deleted_at = at);
    }

    /// Marks it as merged into another.
    pub fn set_merged_into(&mut self, id: RecordId, at: DateTime<Utc>) {
        each!(self, r => (r.merged_into, r.deleted_at) = (Some(id), Some(at)));
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Value {
        each!(self, r => r.get(name))
    }

    /// Whether these fields have these values, told without copying them where that costs.
    #[must_use]
    pub fn says(&self, names: &[String], values: &[Value]) -> bool {
        let says = |(name, value): (&String, &Value)| match self {
            Self::Deal(deal) => deal.says(name, value),
            Self::Contact(contact) => contact.get(name) == *value,
        };
        names.len() == values.len() && names.iter().zip(values).all(says)
    }

    /// The values of several fields, in the order asked.
    #[must_use]
    pub fn values(&self, names: &[String]) -> Vec<Value> {
        names.iter().map(|name| self.get(name)).collect()
    }

    /// Sets fields together, without saying who says so.
    ///
    /// # Errors
    /// [`Invalid`] names the field whose value does not fit; nothing is changed then.
    pub fn try_set(&mut self, names: &[String], values: &[Value]) -> Result<(), Invalid> {
        let pairs: Vec<(&str, &Value)> = names.iter().map(String::as_str).zip(values).collect();
        each!(self, r => r.set(&pairs))
    }

    /// Sets fields together and stamps them.
    ///
    /// # Errors
    /// [`Invalid`] names the field whose value does not fit; nothing is changed then.
    pub fn set(&mut self, names: &[String], values: &[Value], stamp: &Stamp) -> Result<(), Invalid> {
        self.try_set(names, values)?;
        for name in names {
            each!(self, r => r.stamps.insert(name.clone(), stamp.clone()));
        }
        Ok(())
    }

    /// The latest stamp of these fields.
    #[must_use]
    pub fn stamped(&self, names: &[String]) -> Option<Stamp> {
        let stamps: &BTreeMap<String, Stamp> = each!(self, r => &r.stamps);
        names.iter().filter_map(|name| stamps.get(name)).max_by_key(|stamp| stamp.at).cloned()
    }

    /// Counts a change.
    pub fn touch(&mut self, now: DateTime<Utc>) {
        each!(self, r => {
            r.version += 1;
            // What is done on an earlier reading does not make the record older.
            r.updated_at = r.updated_at.max(now);
        });
    }

    /// The opportunity, if it is one.
    #[must_use]
    pub fn as_opportunity(&self) -> Option<&Opportunity> {
        match self {
            Self::Deal(opportunity) => Some(opportunity),
            Self::Contact(_) => None,
        }
    }
}
