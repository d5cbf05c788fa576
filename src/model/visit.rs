//! Visits that a clinic told us of, and the rules by which they move opportunities.
//!
//! What is kept of a visit is what may leave a clinic: what it is for by the operator's own table, how far it has come, when and
//! where. There is no place here for anything clinical.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ExternalId, Version, VisitClass, VisitStatus};

use super::{
    ids::{Name, RecordId, StageId},
    money::Money,
};

/// Something that people were told, once a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// It was called off, and nothing came in its place.
    Cancelled,
    /// It is at another time now.
    Moved,
    /// It was called off, and another one came in its place.
    Rescheduled,
    /// They came.
    Arrived,
    /// They did not come: somebody should ask.
    Missed,
    /// It should be over, and nobody said what became of it: somebody should look.
    Overdue,
    /// It won its opportunity, and is said never to have been: somebody should look.
    Withdrawn,
}

impl Note {
    /// What is to be done, where something is.
    #[must_use]
    pub fn task(self) -> Option<&'static str> {
        match self {
            Self::Missed => Some("they did not come to their appointment: ask them whether they want another"),
            Self::Overdue => Some(
                "a treatment should have been over for two days, and the clinic's record does not say what became of it: look there",
            ),
            Self::Withdrawn => Some(
                "the visit that won this opportunity is said to have been entered by mistake: look at both, and reopen the opportunity if it is not won",
            ),
            Self::Cancelled | Self::Moved | Self::Rescheduled | Self::Arrived => None,
        }
    }

    /// The word of lists and failures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "visit_cancelled",
            Self::Moved => "visit_moved",
            Self::Rescheduled => "visit_rescheduled",
            Self::Arrived => "visit_arrived",
            Self::Missed => "visit_missed",
            Self::Overdue => "visit_overdue",
            Self::Withdrawn => "visit_withdrawn",
        }
    }
}

/// That a visit moved an opportunity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Which.
    pub opportunity: RecordId,
    /// To where.
    pub to: StageId,
    /// Where it stood before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StageId>,
}

/// A visit, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// Whose calendar.
    pub connection: Name,
    /// Which visit, by the vendor's id.
    pub visit: ExternalId,
    /// Raised by one with every change; 0 while it is not stored.
    #[serde(default)]
    pub version: i64,
    /// How old it was when it was read.
    #[serde(default)]
    pub seen: Version,
    /// What it is for.
    pub class: VisitClass,
    /// The service line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How far it has come.
    pub status: VisitStatus,
    /// The appointment that this encounter is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appointment: Option<ExternalId>,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<DateTime<Utc>>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<DateTime<Utc>>,
    /// Where, by the vendor's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// What was charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charged: Option<Money>,
    /// The vendor's records of those who come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patients: Vec<ExternalId>,
    /// Those who come, where they are known here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<RecordId>,
    /// The opportunity that it was booked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opportunity: Option<RecordId>,
    /// The opportunities that it moved: one of each who comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub raised: Vec<Raised>,
    /// What people were told of it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub noted: BTreeSet<Note>,
    /// Since when the vendor does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_since: Option<DateTime<Utc>>,
    /// When it was first seen.
    pub seen_at: DateTime<Utc>,
    /// When its status became what it is, as far as we saw.
    pub since: DateTime<Utc>,
}

impl Visit {
    /// A visit that was just heard of.
    #[must_use]
    pub fn new(connection: Name, visit: ExternalId, now: DateTime<Utc>) -> Self {
        Self {
            connection,
            visit,
            version: 0,
            seen: Version::default(),
            class: VisitClass::Unmapped,
            service: None,
            status: VisitStatus::Unclear,
            appointment: None,
            starts_at: None,
            ends_at: None,
            created_at: None,
            site: None,
            charged: None,
            patients: Vec::new(),
            contacts: Vec::new(),
            opportunity: None,
            raised: Vec::new(),
            noted: BTreeSet::new(),
            missing_since: None,
            seen_at: now,
            since: now,
        }
    }

    /// Its name in the API: `emr:Appointment/7`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.connection, self.visit)
    }

    /// Whether something may still become of it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(
            self.status,
            VisitStatus::Proposed
                | VisitStatus::Requested
                | VisitStatus::Accepted
                | VisitStatus::Booked
                | VisitStatus::Arrived
                | VisitStatus::Unclear
        )
    }

    /// The opportunity that it moved, or was booked from. Of a visit that several come to, the first: whoever looks at one of
    /// them leaves the others' out.
    #[must_use]
    pub fn bound_to(&self) -> Option<RecordId> {
        self.raised.first().map(|raised| raised.opportunity).or(self.opportunity)
    }

    /// How it moved an opportunity.
    #[must_use]
    pub fn raised_for(&self, opportunity: RecordId) -> Option<&Raised> {
        self.raised.iter().find(|raised| raised.opportunity == opportunity)
    }

    /// Whether it is a plan of treatment, and no visit yet: nobody agreed on a time for it.
    #[must_use]
    pub fn is_plan(&self) -> bool {
        self.visit.as_str().starts_with("ServiceRequest/")
    }

    /// Whether it is an appointment that stands.
    #[must_use]
    pub fn is_booked(&self) -> bool {
        matches!(
            self.status,
            VisitStatus::Requested | VisitStatus::Booked | VisitStatus::Arrived | VisitStatus::Proposed
        )
    }
}

/// How visits move the opportunities of one pipeline. Stages are named by label or id; one that is left out is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VisitRules {
    /// Which pipeline, by name or id.
    pub pipeline: String,
    /// Only visits of these service lines; any, if left out.
    pub services: BTreeSet<String>,
    /// Where one stands who asked for an appointment.
    pub requested: Option<String>,
    /// Where one stands whose consult is booked.
    pub consult_booked: Option<String>,
    /// Where one stands who had it.
    pub consult_done: Option<String>,
    /// Where one stands who agreed to a plan of treatment. Left out, plans are not asked for.
    pub plan_accepted: Option<String>,
    /// Where one stands whose treatment is booked.
    pub treatment_booked: Option<String>,
    /// Whether an appointment that was kept is a treatment that is done. Left out: only where the clinic does not tell of
    /// encounters.
    pub kept_means_done: Option<bool>,
    /// Minutes that a cancelled visit has before its opportunity goes back: a new appointment often follows.
    pub hold_minutes: Option<u32>,
    /// Days before an opportunity was made from which its visits count.
    pub grace_days: Option<u32>,
    /// Whether a visit opens an opportunity for a contact who has none open here: the first, and after one was won.
    pub opens: bool,
    /// The account's own field that says when the next visit is: `next_visit`.
    pub next_visit: Option<String>,
}
