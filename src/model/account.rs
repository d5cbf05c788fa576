//! An account and the policy that makes one engine serve businesses that disagree (FEATURES section 2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ids::Name, money::Currency, opportunity_type::Types, trigger::Trigger, visit::VisitRules};

/// How many active opportunities a contact may have in one pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uniqueness {
    /// One; a second that arrives by synchronisation is quarantined, never dropped (AX-02).
    OneActivePerContact,
    /// A second only on purpose (GYM-30): here whoever makes it must say so, and one that arrives by synchronisation is
    /// quarantined until somebody does.
    ConfirmSecond,
    /// Any number (VX-08).
    #[default]
    Unlimited,
}

/// A named set of switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Medical aesthetics.
    Clinic,
    /// Conversational sales.
    #[default]
    Agency,
    /// Memberships.
    Gym,
    /// Retail clienteling.
    Boutique,
}

/// Who says what an opportunity is worth (FEATURES section 2, row 9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueSource {
    /// Anybody, here and in every system.
    #[default]
    Manual,
    /// Its type, as long as nobody says otherwise (CB-10).
    TypeDefault,
    /// The price of a plan, said here: what people write in a CRM is kept in a conflict and changed back (GYM-31).
    Plan,
    /// The till, once it said so: what people write in a CRM is kept in a conflict and changed back (GYM-31).
    Checkout,
}

impl ValueSource {
    /// True where a CRM has no say: what people write there is kept in a conflict and changed back.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Plan | Self::Checkout)
    }

    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::TypeDefault => "type_default",
            Self::Plan => "plan",
            Self::Checkout => "checkout",
        }
    }
}

/// The switches that the store and the reconciler look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many active opportunities a contact may have in one pipeline.
    pub uniqueness: Uniqueness,
    /// Whether deleting a contact deletes its opportunities (VX-10) or is refused while it has open ones.
    pub cascade_contact_delete: bool,
    /// Who says what an opportunity is worth.
    pub value_source: ValueSource,
}

impl Profile {
    /// Its switches.
    #[must_use]
    pub fn policy(self) -> Policy {
        let (uniqueness, cascade_contact_delete, value_source) = match self {
            Self::Clinic => (Uniqueness::OneActivePerContact, false, ValueSource::Manual),
            Self::Agency | Self::Boutique => (Uniqueness::Unlimited, true, ValueSource::Manual),
            Self::Gym => (Uniqueness::ConfirmSecond, false, ValueSource::Checkout),
        };
        Policy { uniqueness, cascade_contact_delete, value_source }
    }
}

/// A business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name in the configuration.
    pub name: Name,
    /// Its policy profile.
    pub profile: Profile,
    /// Its time zone: which day a close date is.
    pub timezone: chrono_tz::Tz,
    /// Its currency where a vendor states none.
    pub currency: Currency,
    /// Which sales close opportunities; any, where there is none.
    pub triggers: BTreeMap<Name, Trigger>,
    /// The kinds of its sales.
    pub types: Types,
    /// How visits at a clinic move opportunities.
    pub visit_rules: BTreeMap<Name, VisitRules>,
}

impl Account {
    /// How many active opportunities a contact may have in one pipeline: one, wherever a clinic's visits move them, since a visit
    /// must have one opportunity that it is of (AX-04).
    #[must_use]
    pub fn uniqueness(&self) -> Uniqueness {
        match self.visit_rules.is_empty() {
            true => self.profile.policy().uniqueness,
            false => Uniqueness::OneActivePerContact,
        }
    }
}
