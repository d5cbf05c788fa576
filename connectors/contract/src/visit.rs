//! A visit: an appointment, or the encounter that it became; or a plan of treatment, which visits follow from. What it
//! was about is not in it: types that have no place for clinical data cannot leak any.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{ExternalId, Version};

/// How far a visit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisitStatus {
    /// Suggested by one side; nobody agreed.
    Proposed,
    /// Asked for: pending, or on a waiting list.
    Requested,
    /// A plan of treatment that was agreed to. When it is carried out, and whether, visits tell.
    Accepted,
    /// Agreed on.
    Booked,
    /// They are in the building.
    Arrived,
    /// The appointment was kept; what is done in it goes on elsewhere.
    Kept,
    /// It took place.
    Finished,
    /// They did not come.
    Missed,
    /// Called off.
    Cancelled,
    /// It never was: entered by mistake.
    Erased,
    /// Nothing that says how far it is.
    Unclear,
}

/// What a visit is for, by the operator's own table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisitClass {
    /// To talk about a treatment.
    Consult,
    /// To be treated.
    Treatment,
    /// To be looked at again.
    FollowUp,
    /// Of no interest: the table says so.
    Ignored,
    /// The table does not name it.
    Unmapped,
}

/// Somebody who comes: what the clinic knows of them that is needed to find them here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visitor {
    /// The vendor's record of them; of one that was merged away, the survivor.
    pub id: Option<ExternalId>,
    /// Records that were merged into that one, as far as they were met.
    pub aliases: Vec<ExternalId>,
    /// What we wrote on that record.
    pub marker: Option<String>,
    /// Family name.
    pub family: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Telephone numbers, as written there.
    pub phones: Vec<String>,
}

/// A visit, read by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The vendor's id, with its type before it where one number may stand for two things: `Appointment/1`.
    pub id: ExternalId,
    /// How old it is.
    pub version: Version,
    /// The appointment that this encounter is of.
    pub appointment: Option<ExternalId>,
    /// How far it has come.
    pub status: VisitStatus,
    /// What it is for.
    pub class: VisitClass,
    /// The service line, in the operator's words.
    pub service: Option<String>,
    /// When it begins.
    pub starts_at: Option<DateTime<Utc>>,
    /// When it ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
    /// Where, by the vendor's id.
    pub site: Option<String>,
    /// Who comes; nobody for time that is blocked, and for what is of no interest.
    pub visitors: Vec<Visitor>,
    /// The opportunity that it names, as we wrote it there.
    pub mention: Option<String>,
    /// What was charged, in major units with an ISO 4217 code, once it took place and the vendor knows.
    pub charged: Option<(Decimal, String)>,
}

/// What reading a visit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VisitRead {
    /// Here it is.
    Found(Box<Visit>),
    /// It was deleted.
    Gone,
    /// The vendor does not know it. Once is not enough to believe it.
    Missing,
}

/// A person whom an appointment is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVisitor {
    /// The vendor's record of them, if it is known.
    pub id: Option<ExternalId>,
    /// Our marker, by which they are found again.
    pub marker: String,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Telephone number, in international form where it can be told.
    pub phone: Option<String>,
}

/// An appointment to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVisit {
    /// Our id of the opportunity: asked for again under the same one it is the same appointment.
    pub reference: String,
    /// Who comes.
    pub visitor: NewVisitor,
    /// Which of the operator's kinds of appointment.
    pub kind: String,
    /// When it begins.
    pub starts_at: DateTime<Utc>,
    /// When it ends.
    pub ends_at: DateTime<Utc>,
    /// The opening that it takes, by the vendor's id.
    pub slot: Option<String>,
    /// Where, by the vendor's id.
    pub site: Option<String>,
    /// With whom, by the vendor's id.
    pub practitioner: Option<String>,
}

/// What becomes of an appointment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisitChange {
    /// It is at another time.
    Move {
        /// When it begins.
        starts_at: DateTime<Utc>,
        /// When it ends.
        ends_at: DateTime<Utc>,
    },
    /// It will not be.
    Cancel,
}

/// Which openings are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedOpenings {
    /// Those that begin then or later,
    pub from: DateTime<Utc>,
    /// and before this.
    pub until: DateTime<Utc>,
    /// With whom, by the vendor's id; anybody, if left out.
    pub practitioner: Option<String>,
    /// Where, by the vendor's id; anywhere, if left out.
    pub site: Option<String>,
}

/// An opening in the calendar: an offer, not a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The vendor's id.
    pub slot: String,
    /// From when.
    pub starts_at: DateTime<Utc>,
    /// Until when.
    pub ends_at: DateTime<Utc>,
    /// With whom, by the vendor's id, if it says.
    pub practitioner: Option<String>,
    /// Where, by the vendor's id, if it says.
    pub site: Option<String>,
}
