//! What evidence does to its opportunity: raises it to won, and lowers it when the last of it is gone.
//!
//! Winning is idempotent per opportunity and sale: a sale raises once, when it becomes live. Whoever opens the opportunity
//! again afterwards has the last word.

use std::cmp::Ordering;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use tandem_contract::{Sale, SaleState, day};

use super::meaning::{self, Waits};
use crate::model::{
    Before, Evidence, EvidenceState, Money, Name, OnRefund, Opportunity, Pipeline, RecordId, Stamp, Status, Trigger,
    ValueSource, field,
};

/// What a sale counts for its opportunity now, and what that does to it: raises it, lowers it, or changes what it is worth.
/// `others` are the opportunity's other sales.
#[must_use]
pub fn apply(
    sale: &Sale,
    mut evidence: Evidence,
    deal: &mut Opportunity,
    pipelines: &[Pipeline],
    others: &[Evidence],
    trigger: &Trigger,
    word: &Word<'_>,
) -> Evidence {
    let pipeline = deal.position.pipeline.and_then(|id| pipelines.iter().find(|pipeline| pipeline.id == id));
    let was = total(others.iter().chain([&evidence]));
    let was_live = evidence.state == EvidenceState::Live;
    let gone = meaning::no_sale(sale).or(match sale.state {
        // A till that was offline may be refused its money later.
        SaleState::Unpaid if was_live => Some("its payment failed"),
        _ if meaning::is_given_back(sale) => Some("it was given back"),
        _ => None,
    });
    evidence.opportunity = Some(deal.id);
    if !was_live {
        evidence.worth = meaning::worth(sale, trigger);
    }
    evidence.amount = evidence.worth.map(|worth| meaning::net(sale, worth));
    let refunded = evidence.worth.map(|worth| Money { minor: sale.refunded, ..worth });
    evidence.refunded = refunded.filter(|refunded| refunded.minor > 0);
    match gone {
        Some(why) => {
            evidence.state = EvidenceState::Ended;
            evidence.why = why.into();
            evidence.amount = evidence.worth.map(|worth| Money { minor: 0, ..worth });
            if was_live {
                revalue(deal, was, total(others).or(evidence.amount), word);
                if is_last(others) {
                    lower(deal, pipeline, &evidence, others, trigger.on_refund, word);
                }
            }
        }
        None if was_live => revalue(deal, was, total(others.iter().chain([&evidence])), word),
        None if meaning::is_paid(sale, trigger) => {
            evidence.state = EvidenceState::Live;
            evidence.why = format!("found by {}", evidence.found_by.as_deref().unwrap_or("reference"));
            raise(deal, pipeline, &mut evidence, others, word);
        }
        None if evidence.state == EvidenceState::Waiting && evidence.paid.is_some() => {
            evidence.why = Waits::Rest.why().into();
        }
        None => {}
    }
    evidence
}

/// The sum of what live evidence counts for; `None` where currencies differ, or there is none.
fn total<'a>(evidence: impl IntoIterator<Item = &'a Evidence>) -> Option<Money> {
    let mut live = evidence.into_iter().filter(|one| one.state == EvidenceState::Live).filter_map(|one| one.amount);
    let first = live.next()?;
    live.try_fold(first, |sum, next| {
        (sum.currency == next.currency)
            .then(|| Money { minor: sum.minor.saturating_add(next.minor), currency: sum.currency })
    })
}

/// Who says so, and when it was heard.
pub struct Word<'a> {
    /// The till.
    pub by: &'a Name,
    /// When.
    pub now: DateTime<Utc>,
    /// Who changes from now on what it says an opportunity is worth.
    pub source: ValueSource,
    /// Where the account's people look at close dates.
    pub timezone: Tz,
}

impl Word<'_> {
    fn stamp(&self, deal: &mut Opportunity, fields: &[&str]) {
        deal.stamp(fields, &Stamp { at: self.now, by: self.by.to_string() });
    }
}

/// A sale became live: the opportunity is won, and worth what its sales come to. `evidence` is this sale's, which keeps what
/// the opportunity was before; `others` are its other sales.
fn raise(
    deal: &mut Opportunity,
    pipeline: Option<&Pipeline>,
    evidence: &mut Evidence,
    others: &[Evidence],
    word: &Word<'_>,
) {
    let before = Before { position: deal.position.clone(), value: deal.value, value_source: deal.value_source };
    if deal.position.status != Status::Won {
        deal.win(pipeline, closes_at(evidence, word.timezone), word.by);
        deal.won_by_sale = true;
        evidence.before = Some(before);
        word.stamp(deal, &field::POSITION);
    }
    if let Some(value) = total(others.iter().chain([&*evidence])) {
        say_worth(deal, value, word);
    }
}

/// When an opportunity is closed that a sale won: at its very moment. Where that is another day for the account's people than
/// where it was sold, at the nearest moment of the day of the till: a close date is read as a day (VX-03).
fn closes_at(evidence: &Evidence, timezone: Tz) -> DateTime<Utc> {
    let Evidence { sold_at, sold_on, .. } = *evidence;
    let nearest = match sold_at.with_timezone(&timezone).date_naive().cmp(&sold_on) {
        Ordering::Less => day::begins(sold_on, timezone),
        Ordering::Equal => None,
        Ordering::Greater => {
            sold_on.succ_opt().and_then(|next| day::begins(next, timezone)).map(|next| next - TimeDelta::seconds(1))
        }
    };
    nearest.unwrap_or(sold_at)
}

/// What a sale counts for changed: so does the opportunity's value, unless somebody changed it since.
fn revalue(deal: &mut Opportunity, was: Option<Money>, is: Option<Money>, word: &Word<'_>) {
    if let (Some(was), Some(is)) = (was, is)
        && deal.value == Some(was)
    {
        say_worth(deal, is, word);
    }
}

fn say_worth(deal: &mut Opportunity, value: Money, word: &Word<'_>) {
    if deal.value != Some(value) {
        deal.value = Some(value);
        word.stamp(deal, &field::VALUE);
    }
    deal.value_source = word.source;
}

/// What an opportunity was before any of these sales won it.
fn before<'a>(evidence: &'a Evidence, others: &'a [Evidence]) -> Option<&'a Before> {
    let won = others.iter().chain([evidence]).filter(|one| one.before.is_some());
    won.max_by_key(|one| one.seen_at)?.before.as_ref()
}

/// The last live sale of an opportunity is gone.
fn lower(
    deal: &mut Opportunity,
    pipeline: Option<&Pipeline>,
    evidence: &Evidence,
    others: &[Evidence],
    on_refund: OnRefund,
    word: &Word<'_>,
) {
    let is_ours = deal.won_by_sale && deal.position.status == Status::Won;
    deal.won_by_sale = false;
    // A person won it as well, or opened it since: theirs is the last word.
    if !is_ours {
        return;
    }
    match on_refund {
        OnRefund::Keep => return,
        OnRefund::Reopen => {
            let Some(before) = before(evidence, others) else { return };
            let here = deal.position.pipeline;
            deal.position = before.position.clone();
            if here != before.position.pipeline
                && let Some(pipeline) = pipeline
            {
                // It was moved meanwhile: it stands where that one begins.
                deal.position.stage = None;
                deal.position.settle(pipeline, true, word.now);
            }
            if before.value.is_some() {
                // What an earlier sale said is no till's any more, and what the type says may be another's by now.
                let is_plan = before.value_source == ValueSource::Plan;
                let source = if is_plan { ValueSource::Plan } else { ValueSource::Manual };
                (deal.value, deal.value_source) = (before.value, source);
                word.stamp(deal, &field::VALUE);
            }
        }
        OnRefund::Lost => {
            deal.position.status = Status::Lost;
            deal.position.closed_at = Some(word.now);
            if let Some(pipeline) = pipeline {
                deal.position.settle(pipeline, true, word.now);
            }
            let why = if evidence.refunded.is_some() { "Refunded" } else { "Not paid" };
            deal.position.lost_reason = Some(why.into());
        }
    }
    word.stamp(deal, &field::POSITION);
}

/// True if none of these still wins the opportunity.
fn is_last(others: &[Evidence]) -> bool {
    !others.iter().any(|one| one.state == EvidenceState::Live)
}

/// Ties a waiting sale to an opportunity.
pub fn attach(evidence: &mut Evidence, opportunity: RecordId, found_by: &str) {
    evidence.opportunity = Some(opportunity);
    evidence.found_by = Some(found_by.to_owned());
    evidence.candidates.clear();
}
