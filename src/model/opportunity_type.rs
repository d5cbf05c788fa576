//! Types of opportunities: each is a kind of sale (CB-02).

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Deserialize;

use super::{
    ids::Name,
    money::{Currency, Money, MoneyError},
};

/// A kind of sale.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpportunityType {
    /// What people and vendors call it; its name if left out.
    pub label: Option<String>,
    /// What one is worth where nobody says (CB-03), in major units of the account's currency.
    pub value: Option<Decimal>,
    /// Where one begins that names no pipeline, by name or id (CB-05).
    pub pipeline: Option<String>,
    /// The sales trigger that closes it (CB-14).
    pub sales_trigger: Option<Name>,
}

impl OpportunityType {
    /// What one is worth where nobody says.
    ///
    /// # Errors
    /// [`MoneyError`] for what is no amount of this currency.
    pub fn worth(&self, currency: Currency) -> Result<Option<Money>, MoneyError> {
        self.value.map(|major| Money::from_major(major, currency)).transpose()
    }
}

/// The types of an account.
pub type Types = BTreeMap<Name, OpportunityType>;

/// The type that goes by this name or label.
#[must_use]
pub fn called<'a>(types: &'a Types, text: &str) -> Option<(&'a Name, &'a OpportunityType)> {
    let text = text.trim();
    let is_it = |(name, one): &(&Name, &OpportunityType)| {
        name.as_str().eq_ignore_ascii_case(text)
            || one.label.as_deref().is_some_and(|label| label.trim().eq_ignore_ascii_case(text))
    };
    types.iter().find(is_it)
}
