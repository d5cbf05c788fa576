//! The ladder: how far a visit brings the one who comes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tandem_contract::{ExternalId, VisitClass, VisitStatus};

use crate::model::{Pipeline, RecordId, Stage, StageId, StageKind, Visit, VisitRules};

/// A rung. Lost is a way out that no visit takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Nothing is booked.
    #[default]
    Lead,
    /// They asked for an appointment.
    Requested,
    /// A consult is booked.
    ConsultBooked,
    /// It took place.
    ConsultDone,
    /// A plan of treatment was agreed to.
    PlanAccepted,
    /// A treatment is booked.
    TreatmentBooked,
    /// It took place: won.
    TreatmentDone,
}

/// The rung of one visit; `None` for one that says nothing.
#[must_use]
pub fn rank(visit: &Visit, kept_means_done: bool) -> Option<Rank> {
    let (booked, done) = match visit.class {
        VisitClass::Consult => (Rank::ConsultBooked, Rank::ConsultDone),
        VisitClass::Treatment => (Rank::TreatmentBooked, Rank::TreatmentDone),
        VisitClass::FollowUp | VisitClass::Ignored | VisitClass::Unmapped => return None,
    };
    match visit.status {
        VisitStatus::Requested => Some(Rank::Requested),
        // Of other plans nothing follows: a consult is ordered as well.
        VisitStatus::Accepted => (visit.class == VisitClass::Treatment).then_some(Rank::PlanAccepted),
        VisitStatus::Booked | VisitStatus::Arrived => Some(booked),
        // A consult that was kept took place; a treatment may go on in an encounter.
        VisitStatus::Kept if visit.class == VisitClass::Treatment && !kept_means_done => Some(booked),
        VisitStatus::Kept | VisitStatus::Finished => Some(done),
        VisitStatus::Proposed
        | VisitStatus::Missed
        | VisitStatus::Cancelled
        | VisitStatus::Erased
        | VisitStatus::Unclear => None,
    }
}

/// An appointment and the encounters that it became, or an encounter of its own.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// They.
    pub visits: Vec<&'a Visit>,
    /// Its rung.
    pub rank: Option<Rank>,
    /// When it is, or was.
    pub at: Option<DateTime<Utc>>,
    /// The opportunity that one of them moved, or was booked from: all of them are its.
    pub bound_to: Option<RecordId>,
}

impl<'a> Group<'a> {
    /// The visit that brings it this far.
    #[must_use]
    pub fn highest(&self, kept_means_done: bool) -> Option<&'a Visit> {
        self.visits.iter().copied().max_by_key(|visit| rank(visit, kept_means_done))
    }
}

/// Visits as people count them, on days of the account's zone. An encounter that names no appointment belongs to one of
/// the same day and class, if there is one that no other encounter belongs to. A plan stands by itself.
#[must_use]
pub fn groups(visits: &[Visit], kept_means_done: bool, zone: Tz) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<&ExternalId, Vec<&Visit>> = BTreeMap::new();
    let is_appointment = |visit: &&Visit| visit.visit.as_str().starts_with("Appointment/");
    let stands_alone = |visit: &&Visit| is_appointment(visit) || visit.is_plan();
    for visit in visits.iter().filter(stands_alone) {
        groups.entry(&visit.visit).or_default().push(visit);
    }
    let day = |visit: &Visit| visit.starts_at.map(|at| at.with_timezone(&zone).date_naive());
    let (named, nameless): (Vec<&Visit>, Vec<&Visit>) =
        visits.iter().filter(|visit| !stands_alone(visit)).partition(|visit| visit.appointment.is_some());
    for visit in named {
        let of = visit.appointment.as_ref().unwrap_or(&visit.visit);
        groups.entry(of).or_default().push(visit);
    }
    for visit in nameless {
        let same = groups.iter().find(|(_, group)| {
            matches!(group.as_slice(), [alone] if is_appointment(alone)
                && alone.class == visit.class && day(alone).is_some() && day(alone) == day(visit))
        });
        let of = same.map_or(&visit.visit, |(of, _)| *of);
        groups.entry(of).or_default().push(visit);
    }
    groups
        .into_values()
        .map(|visits| {
            let rank = visits.iter().filter_map(|visit| rank(visit, kept_means_done)).max();
            let at = visits.iter().filter_map(|visit| visit.starts_at).min();
            let bound_to = visits.iter().find_map(|visit| visit.bound_to());
            Group { visits, rank, at, bound_to }
        })
        .collect()
}

/// The stage of a rung, if the rules name one that is there. A rung without a stage of its own stands on the next lower one.
#[must_use]
pub fn stage_of(rank: Rank, rules: &VisitRules, pipeline: &Pipeline) -> Option<StageId> {
    let rungs = [
        (Rank::TreatmentBooked, &rules.treatment_booked),
        (Rank::PlanAccepted, &rules.plan_accepted),
        (Rank::ConsultDone, &rules.consult_done),
        (Rank::ConsultBooked, &rules.consult_booked),
        (Rank::Requested, &rules.requested),
    ];
    named(rungs.into_iter().filter(|(rung, _)| *rung <= rank).find_map(|(_, name)| name.as_deref())?, pipeline)
}

/// Whether every stage that the rules name is there, and is one that is worked on: winning is not a name's to say.
#[must_use]
pub fn names_stages(rules: &VisitRules, pipeline: &Pipeline) -> bool {
    let names =
        [&rules.requested, &rules.consult_booked, &rules.consult_done, &rules.plan_accepted, &rules.treatment_booked];
    names.into_iter().flatten().all(|name| named(name, pipeline).is_some())
}

fn named(name: &str, pipeline: &Pipeline) -> Option<StageId> {
    let is_it = |stage: &&Stage| stage.id.to_string() == name || stage.label.eq_ignore_ascii_case(name);
    pipeline.stages.iter().filter(|stage| stage.kind == StageKind::Open).find(is_it).map(|stage| stage.id)
}

/// Whether the rules are about this pipeline.
#[must_use]
pub fn is_about(rules: &VisitRules, pipeline: &Pipeline) -> bool {
    pipeline.is_called(&rules.pipeline)
}
