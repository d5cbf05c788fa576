//! Twins: where a vendor lets two records carry one marker, a create that was given up and sent again may land after all. Its
//! record is no news of anybody's. If nobody touched it, it is removed; else it is left alone and shown.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    ExternalId, Fetched, Kind, Record,
    planted::{self, Bug},
};
use tracing::warn;

use super::{
    decide::{once_closed, still_open},
    lens::{Context, Lens},
    plan::remote_values,
    push::Outgoing,
    reconcile::{ASK_AGAIN, Decided, Reconciler, Work},
};
use crate::{
    model::{Base, Intent, IntentOp, Key, Link, LocalRecord, link::Unanswered},
    store::{By, Op, StoreError},
};

/// How long after it was sent again a create may land that was given up. What carries our marker and was made later is a
/// copy that people made: they may copy a record with all it holds.
pub(super) const LANDS_WITHIN: TimeDelta = TimeDelta::hours(1);

/// What a twin is a twin of.
pub(super) struct Twin {
    /// The record that is kept in step.
    pub link: Link,
    /// Ours, which both were made for.
    pub local: LocalRecord,
}

/// What is to be remembered of a create that ends as a link: if it was sent before, that one may land yet.
pub(super) fn unanswered(intent: &Intent, now: DateTime<Utc>) -> Option<Unanswered> {
    if !intent.again {
        return None;
    }
    if intent.anew {
        return Some(late(now));
    }
    let said = intent.rows.iter().map(|(row, said)| (row.clone(), Base(said.local.clone(), said.want.clone())));
    Some(Unanswered { said: said.collect(), until: now + LANDS_WITHIN })
}

/// The same where what was said is not known any more.
pub(super) fn late(now: DateTime<Utc>) -> Unanswered {
    Unanswered { said: BTreeMap::new(), until: now + LANDS_WITHIN }
}

/// What is remembered of two records that became one.
pub(super) fn of_both(mine: Option<Unanswered>, other: Option<Unanswered>) -> Option<Unanswered> {
    match (mine, other) {
        (Some(mine), Some(other)) => Some(Unanswered { said: BTreeMap::new(), until: mine.until.max(other.until) }),
        (mine, other) => mine.or(other),
    }
}

/// True for the removal of another of the vendor's records than the one that is linked.
pub(super) fn is_of_twin(intent: &Intent, link: Option<&Link>) -> bool {
    matches!(&intent.op, IntentOp::Archive { external } if link.is_some_and(|link| link.external != *external))
}

/// True if nobody changed a record since it was made.
fn is_untouched(record: &Record, unanswered: &Unanswered, lens: &Lens, context: Context<'_>) -> bool {
    let changed = record.version.updated_at.zip(record.created_at).is_some_and(|(changed, made)| changed > made);
    !changed
        && unanswered.said.iter().all(|(name, said)| {
            let Some(row) = lens.rows.iter().find(|row| row.name == *name) else { return true };
            remote_values(row, record).is_some_and(|now| now == said.1 || row.same(&said.0, &now, context))
        })
}

/// What people are told of a twin that stays.
pub(super) fn reported(twin: &ExternalId, why: &str) -> String {
    format!(
        "the vendor's record {twin} was made a second time for one of ours, because an answer was lost, and {why}: merge it \
         there with the other one, or delete it; until then it is not kept in step"
    )
}

impl Reconciler {
    /// What a record that carries the marker of a linked record of ours is a twin of; `None` for a copy that people made.
    pub(super) fn twin_of(&self, work: &Work, link: &Link, local: &LocalRecord) -> Option<Box<Twin>> {
        let Some(Fetched::Found(record)) = &work.fetched else { return None };
        let until = link.unanswered.as_ref()?.until;
        let made = record.created_at.map(|made| made - self.skew);
        let is_twin = record.id != link.external && made.is_none_or(|made| made <= until);
        (is_twin && !planted::has(Bug::TwinIsNews)).then_some(())?;
        Some(Box::new(Twin { link: link.clone(), local: local.clone() }))
    }

    /// The same where ours was merged away since: what was made for it is the heir's now, and so are its twins.
    pub(super) async fn twin_of_heir(
        &self,
        kind: Kind,
        work: &Work,
        lost: &LocalRecord,
    ) -> Result<Option<Box<Twin>>, StoreError> {
        let Some(kept) = self.heir_of(kind, lost.id()).await? else { return Ok(None) };
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let link = self.store.links(account, name, kind, By::Local(&[kept.id()])).await?.pop();
        Ok(link.and_then(|link| self.twin_of(work, &link, &kept)))
    }

    /// Removes a twin that nobody touched, and shows any other.
    pub(super) fn decide_twin(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        mut work: Work,
        twin: Twin,
    ) -> Decided {
        let intent = work.intent.take();
        let mut decided = Decided::new(work);
        let (Some(Fetched::Found(record)), Some(unanswered)) = (&decided.work.fetched, &twin.link.unanswered) else {
            self.finish_all(&mut decided);
            return decided;
        };
        let id = record.id.clone();
        let is_untouched = is_untouched(record, unanswered, lens, context);
        if let Some(intent) = intent {
            let is_its = is_of_twin(&intent, Some(&twin.link));
            if !is_its || still_open(Some(&intent), began) {
                // One write of a record at a time.
                let until = if is_its { once_closed(&intent, began) } else { self.later(0) };
                self.defer_all(&mut decided, until, false);
                return decided;
            }
            decided.ops.push(Op::DropIntent(intent.id));
        }
        if !is_untouched || !self.writes() {
            let why = if is_untouched { "this connection may not write" } else { "somebody changed it since" };
            decided.ops.push(self.failure(kind, &Key::External(id.clone()), "", "twin", reported(&id, why)));
            decided.tally.failed += 1;
            self.defer_all(&mut decided, began + ASK_AGAIN, true);
            return decided;
        }
        warn!(twin = %id, kept = %twin.link.external, "a create that was given up has landed: its record is removed");
        let archive = IntentOp::Archive { external: id };
        let intent = self.intent(kind, twin.local.id(), archive, BTreeMap::new(), began);
        decided.ops.push(Op::PutIntent(intent.clone()));
        // Whatever becomes of it, the record itself is looked at next: no write of it is left open.
        decided.ops.push(self.mark(kind, Key::Local(twin.local.id()), began));
        let dirty = std::mem::take(&mut decided.work.dirty);
        decided.outgoing = Some(Outgoing { intent, link: None, local: twin.local, dirty, was_held: false });
        decided
    }
}
