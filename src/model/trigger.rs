//! Sales triggers: which sales at the till close which opportunities (CB-14).

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::ids::Name;

/// When a sale is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WonOn {
    /// When nothing is due any more.
    #[default]
    FullPayment,
    /// With the first payment, a deposit for one.
    FirstPayment,
}

/// What of a sale is the opportunity's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// All of it.
    #[default]
    Order,
    /// The lines that the trigger names.
    MatchedLines,
}

/// What becomes of an opportunity whose last live sale was given back or called off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRefund {
    /// It stays won.
    #[default]
    Keep,
    /// It stands again where it stood before the sale, unless a person also won it.
    Reopen,
    /// It is lost.
    Lost,
}

/// Which sales close an opportunity as won. A list that is left out admits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trigger {
    /// Tills: names of connections.
    pub connections: BTreeSet<Name>,
    /// Categories of which one line must be, by name or id; those above a category count.
    pub categories: BTreeSet<String>,
    /// Items of which one line must be, by name or id.
    pub items: BTreeSet<String>,
    /// Where it is sold, by name or id.
    pub locations: BTreeSet<String>,
    /// What it must come to at least, in major units.
    pub at_least: Option<Decimal>,
    /// And at most.
    pub at_most: Option<Decimal>,
    /// Only opportunities of these pipelines, by name or id.
    pub pipelines: BTreeSet<String>,
    /// Only opportunities of these types, by name.
    pub types: BTreeSet<Name>,
    /// When a sale is one.
    pub won_on: WonOn,
    /// What of it is the opportunity's value.
    pub worth: Worth,
    /// Whether tax is part of the value.
    pub with_tax: bool,
    /// Whether the tip is.
    pub with_tip: bool,
    /// Whether a sale that came to nothing (a gift, a discount of all of it) wins.
    pub for_nothing: bool,
    /// What becomes of it when the sale is given back.
    pub on_refund: OnRefund,
}

impl Trigger {
    /// The same without saying what is sold, where, for how much and to whom: for a sale that names its opportunity.
    #[must_use]
    pub fn about_anything(&self) -> Self {
        let &Self { won_on, with_tax, with_tip, on_refund, .. } = self;
        Self { won_on, with_tax, with_tip, on_refund, for_nothing: true, ..Self::default() }
    }
}
