//! Evidence: what a sale at the till says of an opportunity. A sale is kept apart from the opportunity's own fields; won is
//! derived from the evidence that is live.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::ExternalId;

use super::{
    account::ValueSource,
    ids::{Name, RecordId},
    money::Money,
    opportunity::Position,
};

/// How a sale stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceState {
    /// Not paid yet, or not to be read yet, or not told yet what was sold.
    Waiting,
    /// Paid, and no one opportunity is known to be meant: a person may say which.
    Unmatched,
    /// It wins its opportunity.
    Live,
    /// It did, until it was called off or given back.
    Ended,
    /// No sale of an opportunity: a return, a gift card, goods that no trigger names.
    PassedOver,
}

impl EvidenceState {
    /// The word of the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Unmatched => "unmatched",
            Self::Live => "live",
            Self::Ended => "ended",
            Self::PassedOver => "passed_over",
        }
    }
}

/// What an opportunity was before a sale won it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Where it stood.
    pub position: Position,
    /// What it was worth.
    pub value: Option<Money>,
    /// Who said so.
    #[serde(default)]
    pub value_source: ValueSource,
}

/// A sale, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Whose till.
    pub connection: Name,
    /// Which sale, by the vendor's id.
    pub sale: ExternalId,
    /// Raised by one with every change; 0 while it is not stored.
    #[serde(default)]
    pub version: i64,
    /// How it stands.
    pub state: EvidenceState,
    /// Why, for people.
    pub why: String,
    /// The opportunity it is evidence for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opportunity: Option<RecordId>,
    /// By what it was found: `reference`, `return`, `customer`, `recipient`, `marker`, `email`, `phone`, `receipt`,
    /// `invoice`, `person`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_by: Option<String>,
    /// The trigger it meets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Name>,
    /// Those that it may be evidence for, where it is not known for which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<RecordId>,
    /// When it was sold.
    pub sold_at: DateTime<Utc>,
    /// The day it was sold, where it was sold.
    pub sold_on: NaiveDate,
    /// What it was worth when it won its opportunity: what the triggers and the catalog say later does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worth: Option<Money>,
    /// When it was read last, by the till's clock: what changed well before that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<DateTime<Utc>>,
    /// What it counts for, after what was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    /// What was paid so far, while a part is still due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid: Option<Money>,
    /// What was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refunded: Option<Money>,
    /// What the opportunity was before, if this sale won it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// When it was first seen.
    pub seen_at: DateTime<Utc>,
}

impl Evidence {
    /// A sale that was just heard of.
    #[must_use]
    pub fn new(connection: Name, sale: ExternalId, now: DateTime<Utc>) -> Self {
        Self {
            connection,
            sale,
            version: 0,
            state: EvidenceState::Waiting,
            why: String::new(),
            opportunity: None,
            found_by: None,
            trigger: None,
            candidates: Vec::new(),
            sold_at: now,
            sold_on: now.date_naive(),
            worth: None,
            read_at: None,
            amount: None,
            paid: None,
            refunded: None,
            before: None,
            seen_at: now,
        }
    }

    /// Its name in the API and on the command line: `square:oSIM3nT9wE`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.connection, self.sale)
    }

    /// The connection and the sale that such a name names.
    #[must_use]
    pub fn parse_id(id: &str) -> Option<(Name, ExternalId)> {
        let (connection, sale) = id.split_once(':')?;
        Some((connection.parse().ok()?, ExternalId::new(sale).ok()?))
    }
}
