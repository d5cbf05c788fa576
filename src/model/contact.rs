//! A person an opportunity is about.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::Value;

use super::{
    field,
    ids::RecordId,
    record::{Invalid, text, text_value},
    stamp::Stamp,
};

/// The last seven digits of a telephone number, however it is written; `None` if it has fewer.
#[must_use]
pub fn phone_tail(phone: &str) -> Option<String> {
    let digits: Vec<char> = phone.chars().filter(char::is_ascii_digit).collect();
    digits.len().checked_sub(7).map(|from| digits[from..].iter().collect())
}

/// A contact of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Our id.
    pub id: RecordId,
    /// Counts changes, from 1.
    pub version: i64,
    /// Given name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// Family name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
    /// E-mail address as typed; compared without regard to case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Telephone number as typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Where they work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub company: Option<String>,
    /// Who looks after them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The account's own fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Value>,
    /// When each field was last stated and by whom.
    #[serde(default, with = "super::stamp::grouped", skip_serializing_if = "BTreeMap::is_empty")]
    pub stamps: BTreeMap<String, Stamp>,
    /// Made.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
    /// Deleted, to be undone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
    /// The record it was merged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<RecordId>,
}

impl Contact {
    /// An empty one.
    #[must_use]
    pub fn new(id: RecordId, now: DateTime<Utc>) -> Self {
        Self {
            id,
            version: 1,
            first_name: None,
            last_name: None,
            email: None,
            phone: None,
            company: None,
            owner: None,
            custom: BTreeMap::new(),
            stamps: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
            merged_into: None,
        }
    }

    /// What matching compares: the address without blanks, in lower case.
    #[must_use]
    pub fn email_key(&self) -> Option<String> {
        self.email.as_deref().map(|email| email.trim().to_lowercase()).filter(|email| !email.is_empty())
    }

    /// The last digits of the telephone number, by which it is looked for before it is compared.
    #[must_use]
    pub fn phone_tail(&self) -> Option<String> {
        phone_tail(self.phone.as_deref()?)
    }

    /// The value of a field; absent for a field it does not have.
    #[must_use]
    pub fn get(&self, name: &str) -> Value {
        match name {
            "first_name" => text_value(self.first_name.as_deref()),
            "last_name" => text_value(self.last_name.as_deref()),
            "email" => text_value(self.email.as_deref()),
            "phone" => text_value(self.phone.as_deref()),
            "company" => text_value(self.company.as_deref()),
            "owner" => text_value(self.owner.as_deref()),
            _ => {
                field::custom(name).map_or(Value::Absent, |name| self.custom.get(name).cloned().unwrap_or(Value::Null))
            }
        }
    }

    /// Sets fields together.
    ///
    /// # Errors
    /// [`Invalid`] names the field whose value does not fit; nothing is changed then.
    pub fn set(&mut self, values: &[(&str, &Value)]) -> Result<(), Invalid> {
        // Tried on a copy without the parts that are long and cannot be refused.
        let (custom, stamps) = (std::mem::take(&mut self.custom), std::mem::take(&mut self.stamps));
        let mut next = self.clone();
        (next.custom, next.stamps) = (custom, stamps);
        match next.assign(values) {
            Ok(()) => {
                *self = next;
                Ok(())
            }
            Err(invalid) => {
                (self.custom, self.stamps) = (next.custom, next.stamps);
                Err(invalid)
            }
        }
    }

    fn assign(&mut self, values: &[(&str, &Value)]) -> Result<(), Invalid> {
        let next = self;
        for (name, value) in values {
            match *name {
                "first_name" => next.first_name = text(name, value)?,
                "last_name" => next.last_name = text(name, value)?,
                "email" => next.email = text(name, value)?,
                "phone" => next.phone = text(name, value)?,
                "company" => next.company = text(name, value)?,
                "owner" => next.owner = text(name, value)?,
                _ if field::custom(name).is_some() => {}
                _ => return Err(Invalid::new(name, "is not a field of a contact")),
            }
        }
        field::set_custom(&mut next.custom, values);
        Ok(())
    }
}
