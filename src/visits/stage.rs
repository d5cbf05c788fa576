//! Where an opportunity stands by its contact's visits.
//!
//! Forward at once; back only from where a visit of ours brought it, when that visit came to nothing, and not before a new
//! appointment had its time to follow. Never out of won or lost. A stage that a person chose stays, unless visits are further on.
//! What is decided rests on what visits are now, never on the order in which news of them came.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use tandem_contract::{
    VisitClass, VisitStatus,
    planted::{self, Bug},
};

use super::ladder::{Group, Rank, groups, rank, stage_of};
use crate::model::{Money, Note, Opportunity, Pipeline, Raised, StageId, StageKind, Status, Visit, VisitRules};

/// Minutes that a cancelled visit has, where the rules say nothing.
const HOLD: u32 = 10;
/// Days of grace, where the rules say nothing.
const GRACE: u32 = 30;
/// Days of grace, at most.
const MOST_GRACE: u32 = 3_650;
/// How long after its end a treatment that nobody closed is asked about.
const OVERDUE: TimeDelta = TimeDelta::hours(48);

/// What is known.
pub struct Situation<'a> {
    /// All visits of the contact that the rules are about.
    pub visits: &'a [Visit],
    /// The opportunity.
    pub deal: &'a Opportunity,
    /// Its pipeline.
    pub pipeline: &'a Pipeline,
    /// How visits move it.
    pub rules: &'a VisitRules,
    /// Whether an appointment that was kept is a treatment that is done.
    pub kept_means_done: bool,
    /// When the contact's last opportunity before this one was closed: its visits are not this one's.
    pub closed_before: Option<DateTime<Utc>>,
    /// Where days begin.
    pub zone: Tz,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// To another stage.
    To(StageId),
    /// It is won, since then, and worth this, if the clinic says.
    Won(DateTime<Utc>, Option<Money>),
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Where it goes.
    pub to: Option<Move>,
    /// Visits that change with it.
    pub visits: Vec<Visit>,
    /// What people are told, of which visit.
    pub notes: Vec<(String, Note)>,
    /// When the next visit is, if there is one.
    pub next_visit: Option<DateTime<Utc>>,
    /// When this must be looked at again.
    pub again: Option<DateTime<Utc>>,
}

/// Whether a visit and what belongs to it count for the opportunity: one of them moved it, or was booked from it; or they are of its
/// time, and no other's.
fn counts(group: &Group<'_>, s: &Situation<'_>) -> bool {
    if let Some(of) = group.bound_to {
        return of == s.deal.id;
    }
    let grace = TimeDelta::days(i64::from(s.rules.grace_days.unwrap_or(GRACE).min(MOST_GRACE)));
    let from = s.deal.created_at.checked_sub_signed(grace).unwrap_or(s.deal.created_at);
    let when = |visit: &&Visit| visit.created_at.max(visit.starts_at).unwrap_or(visit.seen_at);
    let latest = group.visits.iter().map(when).max();
    latest.is_some_and(|at| at >= from && s.closed_before.is_none_or(|closed| at > closed))
}

/// Whether the rules are about a visit: about its service line, and about plans, if it is one.
#[must_use]
pub fn is_of(visit: &Visit, rules: &VisitRules) -> bool {
    let is_of_line = |service: &String| rules.services.contains(service);
    let is_theirs = rules.services.is_empty() || visit.service.as_ref().is_some_and(is_of_line);
    is_theirs && (rules.plan_accepted.is_some() || !visit.is_plan())
}

fn came_to_nothing(visit: &Visit) -> bool {
    matches!(visit.status, VisitStatus::Cancelled | VisitStatus::Missed | VisitStatus::Erased)
}

/// What an opportunity's visits come to.
#[must_use]
pub fn decide(s: &Situation<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    let whole = groups(s.visits, s.kept_means_done, s.zone);
    let counted: Vec<Visit> =
        whole.iter().filter(|group| counts(group, s)).flat_map(|group| group.visits.iter().copied().cloned()).collect();
    let real: Vec<Visit> = counted.iter().filter(|visit| visit.status != VisitStatus::Erased).cloned().collect();
    let groups = groups(&real, s.kept_means_done, s.zone);
    let target = groups.iter().filter_map(|group| group.rank).max().unwrap_or_default();
    verdict.next_visit = next_visit(&real, s.now);
    let mut changed = Changed { visits: Vec::new(), all: &counted };
    note(s, &counted, &mut changed, &mut verdict);
    if !s.deal.position.status.is_closed() || planted::has(Bug::VisitLeavesWon) {
        verdict.to = forward(s, &groups, target, &mut changed).or_else(|| {
            let (down, later) = backward(s, &counted, target, &mut changed);
            verdict.again = earlier(verdict.again, later);
            down
        });
    }
    verdict.visits = changed.visits;
    verdict
}

/// The earlier of two times, as far as there are any.
pub(crate) fn earlier(a: Option<DateTime<Utc>>, b: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    a.into_iter().chain(b).min()
}

/// Visits that change, each once.
struct Changed<'a> {
    visits: Vec<Visit>,
    all: &'a [Visit],
}

impl Changed<'_> {
    fn change(&mut self, which: &Visit, change: impl FnOnce(&mut Visit)) {
        let is_it = |known: &Visit| known.connection == which.connection && known.visit == which.visit;
        if !self.visits.iter().any(is_it) {
            self.visits.extend(self.all.iter().find(|known| is_it(known)).cloned());
        }
        if let Some(visit) = self.visits.iter_mut().find(|known| is_it(known)) {
            change(visit);
        }
    }
}

fn next_visit(visits: &[Visit], now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let booked = visits.iter().filter(|visit| visit.status == VisitStatus::Booked);
    booked.filter_map(|visit| visit.starts_at).filter(|at| *at >= now).min()
}

/// How far on a stage is: its place in the pipeline.
fn place(pipeline: &Pipeline, stage: Option<StageId>) -> Option<usize> {
    pipeline.stages.iter().position(|known| Some(known.id) == stage)
}

fn forward(s: &Situation<'_>, groups: &[Group<'_>], target: Rank, changed: &mut Changed<'_>) -> Option<Move> {
    let of_target = || groups.iter().filter(|group| group.rank == Some(target));
    let by = of_target().min_by_key(|group| group.at)?.highest(s.kept_means_done)?;
    let from = s.deal.position.stage;
    let wanted = match target {
        Rank::TreatmentDone => s.pipeline.first_of(StageKind::Won).map(|stage| stage.id),
        _ => stage_of(target, s.rules, s.pipeline),
    };
    // One of them brought it this far before: where it stands since, a person put it.
    let did = |visit: &&Visit| {
        let before = visit.raised_for(s.deal.id);
        before.is_some_and(|raised| place(s.pipeline, Some(raised.to)) >= place(s.pipeline, wanted))
    };
    if wanted.is_some() && of_target().flat_map(|group| &group.visits).any(did) {
        return None;
    }
    if target == Rank::TreatmentDone {
        let at = by.ends_at.or(by.starts_at).unwrap_or(s.now).min(s.now);
        if let Some(to) = wanted.or(from) {
            changed.change(by, |visit| raise(visit, s, to, from));
        }
        return Some(Move::Won(at, by.charged));
    }
    let to = wanted.filter(|to| place(s.pipeline, Some(*to)) > place(s.pipeline, from))?;
    changed.change(by, |visit| raise(visit, s, to, from));
    Some(Move::To(to))
}

/// A visit remembers where the opportunity stood before it moved it the first time.
fn raise(visit: &mut Visit, s: &Situation<'_>, to: StageId, from: Option<StageId>) {
    let from = visit.raised_for(s.deal.id).map_or(from, |raised| raised.from);
    lower(visit, s);
    visit.raised.push(Raised { opportunity: s.deal.id, to, from });
}

/// It did not move this opportunity any more.
fn lower(visit: &mut Visit, s: &Situation<'_>) {
    visit.raised.retain(|raised| raised.opportunity != s.deal.id);
}

fn backward(
    s: &Situation<'_>,
    visits: &[Visit],
    target: Rank,
    changed: &mut Changed<'_>,
) -> (Option<Move>, Option<DateTime<Utc>>) {
    let here = s.deal.position.stage;
    let is_ours = |visit: &&Visit| visit.raised_for(s.deal.id).is_some();
    // Where it stands, a visit brought it that came to nothing. A stage that a person chose since is theirs.
    let fallen = visits.iter().filter(is_ours).filter(|visit| came_to_nothing(visit));
    let fallen = fallen.filter(|visit| visit.raised_for(s.deal.id).map(|raised| raised.to) == here && here.is_some());
    let Some(fallen) = fallen.max_by_key(|visit| visit.since) else { return (None, None) };
    // Only what was booked falls, or planned: what took place did.
    let booked = [Rank::ConsultBooked, Rank::TreatmentBooked, Rank::Requested];
    if !fallen.is_plan() && !booked.iter().any(|rank| stage_of(*rank, s.rules, s.pipeline) == here) {
        return (None, None);
    }
    let last = visits.iter().filter(|visit| came_to_nothing(visit)).map(|visit| visit.since).max();
    let due = last.unwrap_or(fallen.since) + TimeDelta::minutes(i64::from(s.rules.hold_minutes.unwrap_or(HOLD)));
    let reached = stage_of(target, s.rules, s.pipeline).filter(|_| target > Rank::Lead);
    let first = visits.iter().filter(is_ours).min_by_key(|visit| visit.seen_at);
    let begun = first.and_then(|visit| visit.raised_for(s.deal.id)?.from);
    let to = reached.or(begun).or_else(|| s.pipeline.default_stage().map(|stage| stage.id));
    if to.is_none() || place(s.pipeline, to) >= place(s.pipeline, here) {
        return (None, None);
    }
    if s.now < due {
        return (None, Some(due));
    }
    changed.change(fallen, |visit| lower(visit, s));
    (to.map(Move::To), None)
}

/// What people are told: once a visit and matter.
fn note(s: &Situation<'_>, visits: &[Visit], changed: &mut Changed<'_>, verdict: &mut Verdict) {
    let hold = TimeDelta::minutes(i64::from(s.rules.hold_minutes.unwrap_or(HOLD)));
    let together = groups(visits, s.kept_means_done, s.zone);
    for visit in visits {
        if matches!(visit.class, VisitClass::Ignored | VisitClass::Unmapped) {
            continue;
        }
        let told = &visit.noted;
        // An appointment and its encounters are one visit, to which people come once, also where both say so at once.
        let of = together.iter().find(|group| group.visits.iter().any(|one| one.id() == visit.id()));
        let came = of.is_some_and(|of| {
            let mut all = of.visits.iter();
            all.any(|one| one.noted.contains(&Note::Arrived) || verdict.notes.contains(&(one.id(), Note::Arrived)))
        });
        let mut tell = |note: Note| {
            changed.change(visit, |visit| {
                visit.noted.insert(note);
            });
            verdict.notes.push((visit.id(), note));
        };
        let is_new = |note: Note| !told.contains(&note);
        let never = told.is_disjoint(&BTreeSet::from([Note::Cancelled, Note::Rescheduled]));
        match visit.status {
            VisitStatus::Cancelled if never => {
                let replaced = visits.iter().any(|other| {
                    other.visit != visit.visit
                        && other.is_plan() == visit.is_plan()
                        && other.class == visit.class
                        && rank(other, s.kept_means_done).is_some()
                        && other.seen_at >= visit.since - hold
                        && other.seen_at <= visit.since + hold
                });
                if replaced {
                    tell(Note::Rescheduled);
                } else if s.now >= visit.since + hold {
                    tell(Note::Cancelled);
                } else {
                    verdict.again = earlier(verdict.again, Some(visit.since + hold));
                }
            }
            VisitStatus::Missed if is_new(Note::Missed) => tell(Note::Missed),
            VisitStatus::Arrived if !came => tell(Note::Arrived),
            VisitStatus::Erased if is_new(Note::Withdrawn) => {
                let stage = visit.raised_for(s.deal.id).and_then(|raised| s.pipeline.stage(raised.to));
                let won = stage.is_some_and(|stage| stage.kind == StageKind::Won);
                if won && s.deal.position.status == Status::Won {
                    tell(Note::Withdrawn);
                }
            }
            _ => {}
        }
        let is_pending = matches!(visit.status, VisitStatus::Booked | VisitStatus::Arrived);
        let is_asked = s.deal.position.status == Status::Open && is_new(Note::Overdue);
        if visit.class == VisitClass::Treatment && is_pending && is_asked && visit.is_alone(visits) {
            match visit.ends_at.and_then(|ends| ends.checked_add_signed(OVERDUE)) {
                Some(at) if at <= s.now => tell(Note::Overdue),
                at => verdict.again = earlier(verdict.again, at),
            }
        }
    }
}

impl Visit {
    /// Whether no encounter tells what became of it.
    fn is_alone(&self, visits: &[Visit]) -> bool {
        !visits
            .iter()
            .any(|other| other.appointment.as_ref() == Some(&self.visit) && other.status == VisitStatus::Finished)
    }
}
