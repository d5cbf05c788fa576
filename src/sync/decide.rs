//! From what was read to what is to be stored and written, record by record.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    Fetched, Kind, Record, Value,
    planted::{self, Bug},
};
use tracing::warn;

use super::reconcile::{ASK_AGAIN, Decided, PATIENCE, Reconciler, SECOND_LOOK, Work, tries};
use super::{
    change::Change,
    guard::{Class, on_hold},
    lens::{Codec, Context, Direction, Lens},
    plan::{Clash, FieldPlan, Snapshot, UNREAD, UNREAD_TEXT, overwrites, plan, remote_values},
    position::UNMAPPED_STAGE,
    presence::{self, Here, OnLocalDelete, Step, There},
    push::Outgoing,
    twins::{is_of_twin, late, unanswered},
};
use crate::{
    model::{
        Conflict, ConflictState, Dirty, Failure, Intent, IntentOp, IntentState, Key, Link, LinkState, LocalRecord,
        Mark, Name, Reason, RecordId, Stamp, ValueSource, Winner,
        ids::{ConflictId, FailureId, IntentId},
        link::PRESENCE,
    },
    store::Op,
};

/// A deal whose contact did not come goes on without it, and says so.
const CONTACT_MISSING: &str = "the record's contact is not linked yet, see that contact's own failure; the record goes on without it and is looked at again every quarter of an hour";

/// After so many tries without an answer a create says what is said here by then: what the vendor stumbles over may have been
/// corrected.
pub(super) const STUMBLES: u32 = 4;

/// What a create says, the one that was sent before, and whether that one said something else.
struct Said {
    rows: BTreeMap<String, crate::model::IntentRow>,
    sent: Option<Intent>,
    anew: bool,
}

struct MergeResult {
    is_new: bool,
    revived: bool,
    changed: bool,
    open: bool,
    before: LocalRecord,
    sent: Option<Intent>,
}

impl Reconciler {
    pub(super) fn snapshot<'a>(
        &self,
        lens: &'a Lens,
        context: Context<'a>,
        began: DateTime<Utc>,
        work: &'a Work,
        local: &'a LocalRecord,
        remote: &'a Record,
    ) -> Snapshot<'a> {
        let sent = work.intent.as_ref().filter(|intent| intent.state.may_have_landed());
        Snapshot {
            lens,
            context,
            link: work.link.as_ref(),
            local,
            remote,
            intent: sent.filter(|intent| intent.state == IntentState::Sent),
            history: work.history.as_ref(),
            answers: &work.answers,
            on_first_link: self.connection.on_first_link,
            may_push: self.writes() && !still_open(sent, began),
            skew: self.skew,
            now: began,
        }
    }

    /// What one record needs.
    pub(super) fn decide(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        mut work: Work,
    ) -> Decided {
        if let Some(twin) = work.twin.take() {
            return self.decide_twin(kind, lens, context, began, work, *twin);
        }
        let mut earlier = Vec::new();
        if let Some(intent) = work.intent.take_if(|intent| is_of_twin(intent, work.link.as_ref())) {
            // Where another record of the vendor's was to be removed: nothing that is said of this one.
            if still_open(Some(&intent), began) {
                let until = once_closed(&intent, began);
                let mut decided = Decided::new(work);
                self.defer_all(&mut decided, until, false);
                return decided;
            }
            earlier.push(Op::DropIntent(intent.id));
        }
        if let (None, Some(local), Some(Fetched::Found(record))) = (&work.link, &work.local, &work.fetched)
            && local.is_deleted()
        {
            // A create of ours whose outcome was never stored, found by its marker; the record was deleted here meanwhile.
            // It is linked at once, and not when no try of that create can land any more: the link remembers that one may.
            let unanswered =
                Some(work.intent.as_ref().and_then(|intent| unanswered(intent, began)).unwrap_or_else(|| late(began)));
            let link = Link::new(self.connection.name.clone(), kind, local.id(), record.id.clone());
            work.link = Some(Link { unanswered, ..link });
        }
        let here = match &work.local {
            None => Here::Unknown,
            Some(local) if local.is_deleted() => Here::Deleted,
            Some(_) => Here::Present,
        };
        let there = self.there(lens, began, &work);
        let edited_here = work.link.as_ref().zip(work.local.as_ref()).is_some_and(|(link, local)| {
            lens.rows.iter().any(|row| link.base.get(&row.name).is_some_and(|base| base.0 != local.values(&row.fields)))
        });
        let unchecked = is_unchecked(&work);
        // What was merged into another of ours is neither brought back nor thrown away there: people are asked.
        let is_merged = work.local.as_ref().is_some_and(|local| local.merged_into().is_some());
        let there = match there {
            There::Found { .. } if is_merged => There::Found { edited: false },
            there => there,
        };
        let on_local_delete = if is_merged { OnLocalDelete::Unlink } else { self.connection.on_local_delete };
        let link_state = work.link.as_ref().map(|link| link.state);
        let on_remote_delete = self.connection.on_remote_delete;
        let step = presence::decide(here, there, link_state, edited_here, on_remote_delete, on_local_delete);
        let mut decided = Decided { ops: earlier, ..Decided::new(work) };
        if unchecked || (decided.work.external.is_some() && decided.work.fetched.is_none()) {
            // Not read, for whatever reason: that is no answer, and nothing is finished on it.
            let until = self.later(tries(&decided.work.dirty));
            self.defer_all(&mut decided, until, true);
            return decided;
        }
        let is_held = decided.work.link.as_ref().is_some_and(|link| link.holds.contains_key(PRESENCE));
        if !matches!(step, Step::Merge | Step::Revive | Step::TakeIn | Step::Create) {
            self.keep_overwritten(kind, lens, context, &mut decided);
        }
        match step {
            Step::ArchiveRemote | Step::DeleteLocal if is_held => self.finish_all(&mut decided),
            Step::Merge | Step::Revive | Step::TakeIn => {
                self.merge_fields(kind, lens, context, began, step, &mut decided)
            }
            Step::Create => self.plan_create(kind, lens, context, began, &mut decided),
            Step::ArchiveRemote => self.plan_archive(kind, began, &mut decided),
            Step::Forbidden => {
                let until = began + ASK_AGAIN;
                if let Some(first) = decided.work.dirty.first().cloned() {
                    let text = "the vendor does not let us see this record: grant access to it, or take it out of the connection's filter";
                    decided.ops.push(self.failure(kind, &first.key, "", "forbidden", text.into()));
                    decided.tally.failed += 1;
                }
                self.defer_all(&mut decided, until, true);
            }
            Step::Nothing => self.nothing_to_do(kind, began, &mut decided),
            Step::LookAgain | Step::Missing | Step::Unlink | Step::Tombstone | Step::DeleteLocal => {
                self.end_of_link(step, began, &mut decided);
            }
        }
        decided
    }

    /// What a write of ours replaced unseen is kept in a conflict also where the record is not merged any more.
    fn keep_overwritten(&self, kind: Kind, lens: &Lens, context: Context<'_>, decided: &mut Decided) {
        let Work { intent: Some(intent), history: Some(history), local: Some(local), .. } = &decided.work else {
            return;
        };
        if intent.state.may_have_landed() {
            for found in overwrites(intent, lens, history, local, context, self.skew) {
                decided.ops.push(Op::AddConflict(self.conflict(kind, local.id(), found.clash)));
            }
        }
    }

    pub(super) fn there(&self, lens: &Lens, began: DateTime<Utc>, work: &Work) -> There {
        match &work.fetched {
            None => There::Unknown,
            Some(Fetched::Found(record) | Fetched::MergedInto(record)) => There::Found {
                edited: work.link.as_ref().is_some_and(|link| {
                    // Whose it is alone says nothing of the record: a deleted contact takes its links along.
                    lens.rows.iter().filter(|row| row.codec != Codec::Contact).any(|row| {
                        let now = remote_values(row, record);
                        let intent = work.intent.as_ref().filter(|intent| intent.state != IntentState::Inherited);
                        let ours = intent.and_then(|intent| intent.rows.get(&row.name)).map(|row| &row.want);
                        link.base.get(&row.name).zip(now).is_some_and(|(base, now)| base.1 != now && Some(&now) != ours)
                    })
                }),
            },
            Some(Fetched::Archived) => There::Archived,
            Some(Fetched::Gone) => There::Gone {
                again: work
                    .link
                    .as_ref()
                    .and_then(|link| link.missing_since)
                    .is_some_and(|since| began - since >= SECOND_LOOK),
            },
            Some(Fetched::Forbidden) => There::Forbidden,
        }
    }

    /// Finishes, unless a write of ours may still land: then it is looked for once more when it no longer can.
    fn nothing_to_do(&self, kind: Kind, began: DateTime<Utc>, decided: &mut Decided) {
        let is_deleted = decided.work.local.as_ref().is_some_and(LocalRecord::is_deleted);
        if is_deleted && decided.work.external.is_none() && self.waits_for_own_write(began, decided) {
            return;
        }
        let is_gone = matches!(decided.work.fetched, Some(Fetched::Archived | Fetched::Gone));
        let kept = decided.work.local.as_ref().and_then(LocalRecord::merged_into);
        let is_retried = decided.work.dirty.iter().any(|dirty| dirty.priority == Reason::Operator.priority());
        match (&decided.work.link, kept) {
            // What was wrong with a record that never became ours is no longer of interest.
            (None, _) if is_gone => {
                decided.ops.extend(decided.work.dirty.iter().map(|dirty| self.solved(kind, &dirty.key, None)));
            }
            (Some(link), Some(_)) if is_gone => decided.ops.push(self.solved(kind, &Key::Local(link.local), None)),
            // Both are still there.
            (Some(link), Some(kept)) if is_retried && decided.work.fetched.is_some() => {
                decided.ops.push(self.merged_elsewhere(link, kept));
            }
            _ => {}
        }
        self.finish_all(decided);
    }

    /// Ends an earlier intent of ours. True if what it wrote may still land: then all is put off until it no longer can.
    fn waits_for_own_write(&self, began: DateTime<Utc>, decided: &mut Decided) -> bool {
        let Some(intent) = decided.work.intent.take() else { return false };
        let waits = still_open(Some(&intent), began);
        if waits {
            self.defer_all(decided, once_closed(&intent, began), false);
        } else {
            decided.ops.push(Op::DropIntent(intent.id));
        }
        waits
    }

    pub(super) fn finish_all(&self, decided: &mut Decided) {
        let done: Vec<Op> = decided.work.dirty.drain(..).map(|dirty| self.finish(dirty)).collect();
        decided.ops.extend(done);
    }

    pub(super) fn defer_all(&self, decided: &mut Decided, until: DateTime<Utc>, failed: bool) {
        let put_off: Vec<Op> = decided.work.dirty.drain(..).map(|dirty| self.defer(dirty, until, failed)).collect();
        decided.ops.extend(put_off);
    }

    pub(super) fn failure(&self, kind: Kind, key: &Key, row: &str, code: &str, message: String) -> Op {
        let now = self.clock.now();
        Op::PutFailure(Failure {
            id: FailureId(self.ids.next(now)),
            connection: self.connection.name.clone(),
            kind,
            key: key.to_string(),
            row: row.into(),
            code: code.into(),
            message,
            first_at: now,
            last_at: now,
            attempts: 1,
        })
    }

    /// What people are told of a record that was merged away because of another system, where this vendor has both.
    fn merged_elsewhere(&self, link: &Link, kept: RecordId) -> Op {
        let text = format!(
            "merged in another system into {kept}, which this vendor has a record of as well: merge the vendor's record {} \
             into that one there, or delete it; until then it is left alone",
            link.external
        );
        self.failure(link.kind, &Key::Local(link.local), "", "merged_elsewhere", text)
    }

    /// Takes what was wrong with a record, or with one row of it, off the list.
    pub(super) fn solved(&self, kind: Kind, key: &Key, row: Option<&str>) -> Op {
        let (connection, row) = (self.connection.name.clone(), row.map(str::to_owned));
        Op::DropFailures { connection, kind, key: key.clone(), row }
    }

    /// Stores a link that was `before`.
    fn update_link(&self, before: Option<&Link>, link: Link) -> Op {
        // Without a base it may be one that is not stored yet.
        if before.is_some_and(|before| before.external == link.external && !before.base.is_empty()) {
            return Op::UpdateLink(link);
        }
        self.put_link(link)
    }

    pub(super) fn put_link(&self, link: Link) -> Op {
        Op::PutLink {
            link,
            system: self.connection.connector.system().into(),
            remote_account: self.remote_account.clone(),
        }
    }

    pub(super) fn conflict(&self, kind: Kind, record: RecordId, clash: Clash) -> Conflict {
        let now = self.clock.now();
        Conflict {
            id: ConflictId(self.ids.next(now)),
            connection: self.connection.name.clone(),
            kind,
            record,
            row: clash.row,
            fields: clash.fields,
            base: clash.base,
            local: clash.local,
            remote: clash.remote,
            winner: clash.winner,
            rule: clash.rule.into(),
            state: if clash.winner == Winner::Nobody { ConflictState::Open } else { ConflictState::Decided },
            at: now,
        }
    }

    /// Both sides have it: merge field by field.
    pub(super) fn merge_fields(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        step: Step,
        decided: &mut Decided,
    ) {
        let Some(Fetched::Found(remote) | Fetched::MergedInto(remote)) = decided.work.fetched.clone() else { return };
        let is_new = step == Step::TakeIn;
        if is_new
            && (self.connection.direction == Direction::Out
                || !self.connection.connector.introduces(kind)
                || !self.connection.filter.admits(kind, lens, &remote))
        {
            // Nobody's concern any more, if it could not be read before.
            let tried = decided.work.dirty.iter().filter(|dirty| dirty.attempts > 0);
            let solved: Vec<Op> = tried.map(|dirty| self.solved(kind, &dirty.key, None)).collect();
            decided.ops.extend(solved);
            return self.finish_all(decided);
        }
        let fresh = RecordId(self.ids.next(began));
        let Some(mut local) =
            decided.work.local.clone().or_else(|| LocalRecord::new(kind, fresh, remote.created_at.unwrap_or(began)))
        else {
            return self.finish_all(decided);
        };
        let before = local.clone();
        let has_moved = self.bring_up_to_date(&mut local, context);
        let revived = step == Step::Revive;
        if revived {
            local.set_deleted(None);
        }
        let sent = decided.work.intent.clone().filter(|intent| intent.state.may_have_landed());
        let open = still_open(sent.as_ref(), began);
        let mut plan = plan(&self.snapshot(lens, context, began, &decided.work, &local, &remote));
        // What our own late-acknowledged write replaced.
        if let (Some(intent), Some(history), false) =
            (&sent, &decided.work.history, planted::has(Bug::RecoveryCheckOff))
        {
            for found in overwrites(intent, lens, history, &local, context, self.skew) {
                if let Some((values, at)) = found.revert
                    && !plan.takes.iter().any(|(row, ..)| *row == found.clash.row)
                {
                    plan.takes.push((found.clash.row.clone(), found.clash.fields.clone(), values, Some(at)));
                    plan.waits = true;
                }
                plan.clashes.push(found.clash);
            }
        }
        let mut guarded = Vec::new();
        if !is_new {
            self.guard_blanks(kind, lens, &remote, &local, &mut plan, &mut guarded, began);
        }
        decided.ops.extend(guarded);
        let changed = self.take(&plan, &mut local, began) || has_moved;
        self.plan_merge(
            kind,
            lens,
            MergeResult { is_new, revived, changed, open, before, sent },
            plan,
            local,
            &remote,
            began,
            decided,
        );
    }

    /// What goes without saying: a contact that was merged away is the one it was merged into, and what tills said of the value
    /// is theirs no longer where the account's profile has changed. Answers whether that is to be stored.
    fn bring_up_to_date(&self, local: &mut LocalRecord, context: Context<'_>) -> bool {
        let LocalRecord::Deal(deal) = local else { return false };
        let is_the_tills = deal.value_source == ValueSource::Checkout;
        if is_the_tills && self.connection.account.profile.policy().value_source == ValueSource::Manual {
            deal.value_source = ValueSource::Manual;
        }
        let kept = deal.contact.and_then(|contact| context.people.merged.get(&contact)).copied();
        deal.contact = kept.or(deal.contact);
        kept.is_some()
    }

    /// Fields of ours that the vendor emptied: too many of one, and a person looks first.
    #[expect(clippy::too_many_arguments, reason = "one record's plan, and where what is held goes")]
    fn guard_blanks(
        &self,
        kind: Kind,
        lens: &Lens,
        remote: &Record,
        local: &LocalRecord,
        plan: &mut FieldPlan,
        ops: &mut Vec<Op>,
        began: DateTime<Utc>,
    ) {
        let mut guard = self.guard();
        plan.takes.retain(|(row, fields, values, _)| {
            let ours = local.values(fields);
            let blanks = values.iter().all(Value::is_blank) && !ours.iter().all(Value::is_blank);
            if !blanks || !guard.trips(kind, Class::LocalBlank, row, began) {
                return true;
            }
            let theirs = lens.rows.iter().find(|known| known.name == *row).and_then(|row| remote_values(row, remote));
            plan.base.remove(row);
            plan.holds.insert(row.clone(), Some(on_hold(ours, theirs.unwrap_or_default())));
            ops.push(guard.held(&self.connection.name, Class::LocalBlank, local.id(), began));
            false
        });
    }

    /// Applies the values to be taken in; answers whether anything changed.
    pub(super) fn take(&self, plan: &FieldPlan, local: &mut LocalRecord, began: DateTime<Utc>) -> bool {
        for (_, fields, values, at) in &plan.takes {
            let stamp = Stamp { at: at.unwrap_or(began), by: self.connection.name.to_string() };
            // The plan tried these values on a copy; what does not fit is not in it.
            if let Err(invalid) = local.set(fields, values, &stamp) {
                warn!(field = invalid.field, "a planned value does not fit");
            }
        }
        let confirms = plan.also_won;
        if let (true, LocalRecord::Deal(deal)) = (confirms, &mut *local) {
            deal.won_by_sale = false;
        }
        confirms || !plan.takes.is_empty()
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one transaction, each used once")]
    fn plan_merge(
        &self,
        kind: Kind,
        lens: &Lens,
        result: MergeResult,
        plan: FieldPlan,
        mut local: LocalRecord,
        remote: &Record,
        began: DateTime<Utc>,
        decided: &mut Decided,
    ) {
        let MergeResult { is_new, revived, changed, open, before, sent } = result;
        let mut is_valued = false;
        if is_new || changed || revived {
            let mut closed_at = None;
            if let LocalRecord::Deal(deal) = &mut local {
                closed_at = deal.position.closed_at;
                let was = before.as_opportunity().and_then(|was| was.opportunity_type.as_deref());
                let is_emptied = deal.value.is_none() && before.as_opportunity().is_some_and(|was| was.value.is_some());
                // A first import writes nothing back, and what was there long ago is not completed.
                let is_recent = !is_new || remote.created_at.is_none_or(|at| began - at < TimeDelta::days(1));
                if decided.work.is_news && is_recent && !is_emptied && deal.opportunity_type.as_deref() != was {
                    let worth = deal.value;
                    deal.value_by_type(&self.connection.account.types, self.connection.account.currency);
                    is_valued = deal.value != worth;
                }
                if is_new {
                    deal.created_by = Some(self.connection.name.to_string());
                }
            }
            // What is only taken in now may have been closed long ago.
            let is_recent = !is_new || closed_at.is_some_and(|at| began - at < TimeDelta::days(1));
            let change = Change { is_news: decided.work.is_news && is_recent, ..self.change(began) };
            local = decided.include(change.of((!is_new).then_some(&before), local));
            if is_new {
                decided.tally.created += 1;
            } else {
                decided.tally.updated += 1;
            }
        }
        let key = Key::Local(local.id());
        let mut link = decided.work.link.clone().unwrap_or_else(|| Link {
            version: remote.version.clone(),
            unanswered: sent.as_ref().and_then(|intent| unanswered(intent, began)),
            ..Link::new(self.connection.name.clone(), kind, local.id(), remote.id.clone())
        });
        link.base.extend(plan.base);
        let mut released: Vec<String> = Vec::new();
        let mut asked: BTreeMap<String, ConflictId> = BTreeMap::new();
        for clash in plan.clashes {
            let conflict = self.conflict(kind, local.id(), clash);
            if conflict.state == ConflictState::Open {
                asked.insert(conflict.row.clone(), conflict.id);
            }
            decided.tally.conflicts += 1;
            if planted::has(Bug::ConflictNotRecorded) {
                continue;
            }
            decided.ops.push(Op::AddConflict(conflict));
        }
        for (row, hold) in plan.holds {
            match hold {
                Some(mut hold) => {
                    hold.conflict = asked.get(&row).copied();
                    link.holds.insert(row, hold);
                }
                None => {
                    link.rewrites.remove(&row);
                    link.holds.remove(&row);
                    // Answered, or both sides agree by themselves: nobody is asked any more.
                    if let Some(mut conflict) = decided.work.conflicts.remove(&row)
                        && conflict.state == ConflictState::Open
                    {
                        conflict.state = ConflictState::Resolved;
                        conflict.winner = Winner::Both;
                        decided.ops.push(Op::PutConflict(conflict));
                    }
                    released.push(row);
                }
            }
        }
        // What is solved is taken off the list: rows that came off hold, and the record's own earlier tries.
        let tried = |dirty: &&Dirty| dirty.attempts > 0;
        let whole: Vec<Key> = decided.work.dirty.iter().filter(tried).map(|dirty| dirty.key.clone()).collect();
        let mut solved: Vec<(Key, String)> = released.into_iter().map(|row| (key.clone(), row)).collect();
        let waits = |row: &String| link.holds.contains_key(row) || plan.unread.contains(row);
        for tried in whole.iter().chain((!whole.is_empty()).then_some(&key)) {
            let free = lens.rows.iter().map(|row| row.name.clone()).filter(|row| !waits(row));
            solved.extend(free.chain([String::new()]).map(|row| (tried.clone(), row)));
        }
        // A row that could not be read until now, and was agreed on.
        if let Some(before) = &decided.work.link {
            let never = lens.rows.iter().filter(|row| !before.base.contains_key(&row.name) && !waits(&row.name));
            let met = never.filter(|row| link.base.contains_key(&row.name) || plan.pushes.contains_key(&row.name));
            solved.extend(met.map(|row| (key.clone(), row.name.clone())));
        }
        decided.ops.extend(solved.iter().map(|(key, row)| self.solved(kind, key, Some(row))));
        for (row, code, message) in plan.failures {
            if code == UNMAPPED_STAGE {
                self.unknown_stage.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            decided.ops.push(self.failure(kind, &key, &row, code, message));
            decided.tally.failed += 1;
        }
        // It may be shown again in a moment; who hides it from us is to know that nothing is written.
        for row in plan.unread.iter().filter(|_| self.writes() && tries(&decided.work.dirty) >= STUMBLES) {
            decided.ops.push(self.failure(kind, &key, row, UNREAD, UNREAD_TEXT.into()));
            decided.tally.failed += 1;
        }
        link.state = LinkState::Linked;
        link.missing_since = None;
        link.external = remote.id.clone();
        link.version = remote.version.clone();
        if decided.work.link.as_ref() != Some(&link) {
            decided.ops.push(self.update_link(decided.work.link.as_ref(), link.clone()));
        }
        // A create is settled by finding its record; an update by a read that began after its window closed.
        let settled = decided.work.intent.take().filter(|intent| !open || matches!(intent.op, IntentOp::Create { .. }));
        if let Some(intent) = &settled {
            decided.ops.push(Op::DropIntent(intent.id));
        }
        let unread = !plan.unread.is_empty() && self.writes();
        if ((plan.unsaid || is_valued) && self.writes()) || (unread && !plan.pushes.is_empty()) {
            decided.ops.push(self.mark(kind, key.clone(), began));
        }
        if !plan.needs.is_empty() {
            if decided.work.dirty.iter().all(|dirty| dirty.attempts < PATIENCE) {
                decided.needs = plan.needs;
                let until = self.patience(&decided.work.dirty);
                return self.defer_all(decided, until, true);
            }
            decided.ops.push(self.failure(kind, &key, "contact", "contact_missing", CONTACT_MISSING.into()));
            decided.tally.failed += 1;
            if plan.pushes.is_empty() {
                let until = began + ASK_AGAIN;
                return self.defer_all(decided, until, true);
            }
        }
        if !plan.pushes.is_empty() {
            let intent = self.intent(
                kind,
                local.id(),
                IntentOp::Update { external: remote.id.clone(), version: remote.version.clone() },
                plan.pushes,
                began,
            );
            decided.ops.push(Op::PutIntent(intent.clone()));
            decided.outgoing = Some(Outgoing {
                intent,
                link: Some(link),
                local,
                dirty: std::mem::take(&mut decided.work.dirty),
                was_held: false,
            });
            return;
        }
        match sent.filter(|intent| settled.is_none() && intent.closes_at.is_some()) {
            // Look again when the late window is over.
            Some(intent) => self.defer_all(decided, once_closed(&intent, began), false),
            None if plan.waits && self.writes() => self.defer_all(decided, began, false),
            None if unread => {
                let until = self.later(tries(&decided.work.dirty));
                self.defer_all(decided, until, true);
            }
            None => self.finish_all(decided),
        }
    }

    /// How long a record waits for another one: not at all at first, since parents are worked on first.
    pub(super) fn patience(&self, dirty: &[Dirty]) -> DateTime<Utc> {
        let attempts = tries(dirty);
        if attempts < 2 { self.clock.now() } else { self.later(attempts) }
    }

    /// A change of ours that this connection makes, as it happens.
    pub(super) fn change(&self, now: DateTime<Utc>) -> Change<'_> {
        Change {
            by: self.connection.name.as_str(),
            now,
            run: self.run,
            uniqueness: self.connection.account.uniqueness(),
            tell: self.siblings(),
            reason: Reason::Propagate,
            is_news: true,
        }
    }

    fn siblings(&self) -> &[Name] {
        if planted::has(Bug::SiblingsNotMarked) { &[] } else { &self.connection.siblings }
    }

    pub(super) fn mark_siblings(&self, kind: Kind, local: RecordId, now: DateTime<Utc>) -> Vec<Op> {
        let mark = |connection: &Name| Op::Mark(Mark::new(connection, kind, Key::Local(local), now, Reason::Propagate));
        self.siblings().iter().map(mark).collect()
    }

    pub(super) fn plan_create(
        &self,
        kind: Kind,
        lens: &Lens,
        context: Context<'_>,
        began: DateTime<Utc>,
        decided: &mut Decided,
    ) {
        let Some(mut local) = decided.work.local.clone() else { return self.finish_all(decided) };
        // `note_listed` marks them once everything was listed. It knows them from memory alone: should the process end
        // before, they come up again at this date.
        if self.writes() && self.put_off_to_import(kind, local.id()) {
            return self.defer_all(decided, began + TimeDelta::minutes(15), false);
        }
        let earlier = decided.work.intent.take();
        let was_held = earlier.as_ref().is_some_and(|intent| intent.state == IntentState::Held);
        if let Some(intent) = &earlier {
            // Where the vendor refuses the second of two that say the same, trying again is safe at once. Elsewhere, and before
            // something else is said, what is under way may still land: it is looked for once more when it no longer can.
            let is_safe = self.connection.connector.refuses_twins() && !intent.anew;
            if !is_safe && still_open(Some(intent), began) {
                return self.defer_all(decided, once_closed(intent, began), false);
            }
        }
        let quarantined = local.as_opportunity().is_some_and(|deal| deal.quarantined);
        // What was sent and may land is remembered, however long this waits.
        let is_remembered = earlier.as_ref().is_some_and(|intent| intent.state.may_have_landed());
        let forget = earlier.as_ref().map(|intent| Op::DropIntent(intent.id));
        if !self.writes() || quarantined || !self.connection.connector.introduces(kind) {
            decided.ops.extend(forget.filter(|_| !(quarantined && is_remembered)));
            return self.finish_all(decided);
        }
        // Made here before any pipeline was known.
        if local.as_opportunity().is_some_and(|deal| deal.position.stage.is_none())
            && let Some((pipeline, stage)) = context.directory.default_position()
        {
            let before = local.clone();
            if let LocalRecord::Deal(deal) = &mut local {
                (deal.position.pipeline, deal.position.stage) = (Some(pipeline), Some(stage));
            }
            local = decided.include(self.change(began).of(Some(&before), local));
        }
        // What may have landed already is said again as it was: then whatever is found there of it is ours.
        let sent = earlier.filter(|intent| intent.state == IntentState::Sent);
        let stumbles = tries(&decided.work.dirty) >= STUMBLES && !still_open(sent.as_ref(), began);
        if let Some(Intent { rows, anew: false, .. }) = &sent
            && !stumbles
        {
            decided.ops.extend(forget);
            let said = Said { rows: rows.clone(), sent, anew: false };
            return self.send_create(kind, began, local, said, false, decided);
        }
        let mut rows = BTreeMap::new();
        let (mut needs, mut failures) = (Vec::new(), Vec::new());
        for row in lens.rows.iter().filter(|row| row.direction != Direction::In) {
            let values = local.values(&row.fields);
            let nothing: Vec<Value> = row
                .properties
                .iter()
                .map(|(name, _)| if name.starts_with("associations.") { Value::Refs(Vec::new()) } else { Value::Null })
                .collect();
            match row.put(&values, &nothing, context) {
                Ok(want) => {
                    rows.insert(row.name.clone(), crate::model::IntentRow { local: values, seen: nothing, want });
                }
                Err(super::lens::Unfit::Wait(need)) => needs.push(need),
                Err(super::lens::Unfit::Park(code, message)) => failures.push((row.name.clone(), code, message)),
            }
        }
        if !needs.is_empty() && decided.work.dirty.iter().all(|dirty| dirty.attempts < PATIENCE) {
            decided.needs = needs;
            decided.ops.extend(forget.filter(|_| !is_remembered));
            let until = self.patience(&decided.work.dirty);
            return self.defer_all(decided, until, true);
        }
        let key = Key::Local(local.id());
        // Without a position a deal cannot be made; any other field that does not fit is left out and shown.
        let essential = failures.iter().any(|(row, ..)| row == "position");
        for (row, code, message) in failures {
            decided.ops.push(self.failure(kind, &key, &row, code, message));
            decided.tally.failed += 1;
        }
        if essential {
            decided.ops.extend(forget.filter(|_| !is_remembered));
            return self.finish_all(decided);
        }
        decided.ops.extend(forget);
        let anew = sent.is_some();
        self.send_create(kind, began, local, Said { rows, sent, anew }, was_held, decided);
    }

    /// A write that is planned.
    pub(super) fn intent(
        &self,
        kind: Kind,
        local: RecordId,
        op: IntentOp,
        rows: BTreeMap<String, crate::model::IntentRow>,
        began: DateTime<Utc>,
    ) -> Intent {
        Intent {
            id: IntentId(self.ids.next(began)),
            connection: self.connection.name.clone(),
            kind,
            local,
            op,
            rows,
            state: IntentState::Planned,
            sent_at: None,
            closes_at: None,
            again: false,
            anew: false,
            run: self.run,
        }
    }

    fn send_create(
        &self,
        kind: Kind,
        began: DateTime<Utc>,
        local: LocalRecord,
        said: Said,
        was_held: bool,
        decided: &mut Decided,
    ) {
        let mut marker = self.connection.marker(local.id());
        let tries = tries(&decided.work.dirty);
        if planted::has(Bug::NewMarkerOnRetry) && tries > 0 {
            marker = format!("{marker}-{tries}");
        }
        let mut intent = self.intent(kind, local.id(), IntentOp::Create { marker }, said.rows, began);
        if let Some(sent) = said.sent {
            // A process that ends before this one goes out still knows of the other.
            intent =
                Intent { state: sent.state, sent_at: sent.sent_at, closes_at: sent.closes_at, again: true, ..intent };
        }
        intent.anew = said.anew;
        decided.ops.push(Op::PutIntent(intent.clone()));
        let dirty = std::mem::take(&mut decided.work.dirty);
        decided.outgoing = Some(Outgoing { intent, link: None, local, dirty, was_held });
    }

    pub(super) fn plan_archive(&self, kind: Kind, began: DateTime<Utc>, decided: &mut Decided) {
        let (Some(link), Some(local)) = (decided.work.link.clone(), decided.work.local.clone()) else {
            return self.finish_all(decided);
        };
        if !self.writes() {
            return self.finish_all(decided);
        }
        if self.waits_for_own_write(began, decided) {
            return;
        }
        let intent = self.intent(
            kind,
            local.id(),
            IntentOp::Archive { external: link.external.clone() },
            BTreeMap::new(),
            began,
        );
        decided.ops.push(Op::PutIntent(intent.clone()));
        decided.outgoing = Some(Outgoing {
            intent,
            link: Some(link),
            local,
            dirty: std::mem::take(&mut decided.work.dirty),
            was_held: false,
        });
    }

    pub(super) fn end_of_link(&self, step: Step, began: DateTime<Utc>, decided: &mut Decided) {
        let Some(mut link) = decided.work.link.clone() else { return self.finish_all(decided) };
        let mut step = step;
        let dependents = std::mem::take(&mut decided.work.dependents);
        let open = |deal: &LocalRecord| deal.as_opportunity().is_some_and(|deal| !deal.position.status.is_closed());
        let cascades = self.connection.account.profile.policy().cascade_contact_delete;
        if step == Step::DeleteLocal && !cascades && dependents.iter().any(open) {
            // A contact with opportunities is not deleted here, whatever was done there (VX-10).
            step = Step::Missing;
        }
        if step == Step::DeleteLocal {
            let mut guard = self.guard();
            let many = (0..=dependents.len()).any(|_| guard.trips(link.kind, Class::LocalDelete, "", began));
            if many {
                decided.ops.push(guard.held(&self.connection.name, Class::LocalDelete, link.local, began));
                link.state = LinkState::RemoteMissing;
                link.holds.insert(PRESENCE.into(), on_hold(Vec::new(), Vec::new()));
                let link = self.update_link(decided.work.link.as_ref(), link);
                decided.ops.push(link);
                drop(guard);
                return self.finish_all(decided);
            }
        }
        // One look is not enough, also for what we wrote there.
        if let (true, Some(intent)) = (step != Step::LookAgain, decided.work.intent.take()) {
            decided.ops.push(Op::DropIntent(intent.id));
        }
        let mut asked = None;
        match step {
            Step::LookAgain => {
                let since = *link.missing_since.get_or_insert(began);
                let link = self.update_link(decided.work.link.as_ref(), link);
                decided.ops.push(link);
                return self.defer_all(decided, since + SECOND_LOOK, false);
            }
            Step::Missing => link.state = LinkState::RemoteMissing,
            Step::Unlink => {
                link.state = LinkState::Unlinked;
                asked = decided.work.local.as_ref().and_then(LocalRecord::merged_into);
            }
            _ => link.state = LinkState::Tombstoned,
        }
        decided.tally.deleted += 1;
        // What was wrong with it is no longer of interest.
        decided.ops.extend(decided.work.dirty.iter().map(|dirty| self.solved(link.kind, &dirty.key, None)));
        decided.ops.push(self.solved(link.kind, &Key::Local(link.local), None));
        decided.ops.extend(asked.map(|kept| self.merged_elsewhere(&link, kept)));
        if step == Step::DeleteLocal
            && let Some(mut local) = decided.work.local.clone()
        {
            let expected = local.version();
            local.set_deleted(Some(began));
            local.touch(began);
            decided.ops.extend(self.mark_siblings(link.kind, local.id(), began));
            decided.ops.push(Op::PutRecord { record: local, expected, slot: None });
            for mut deal in dependents.into_iter().filter(|_| cascades) {
                let expected = deal.version();
                deal.set_deleted(Some(began));
                deal.touch(began);
                decided.ops.push(self.mark(deal.kind(), Key::Local(deal.id()), began));
                decided.ops.extend(self.mark_siblings(deal.kind(), deal.id(), began));
                decided.ops.push(Op::PutRecord { record: deal, expected, slot: None });
            }
        }
        let link = self.update_link(decided.work.link.as_ref(), link);
        decided.ops.push(link);
        self.finish_all(decided);
    }
}

/// True if a write of ours may have replaced something and the vendor's history was asked and did not come.
fn is_unchecked(work: &Work) -> bool {
    let sent = work
        .intent
        .as_ref()
        .is_some_and(|intent| intent.state.may_have_landed() && matches!(intent.op, IntentOp::Update { .. }));
    sent && work.history.is_none() && matches!(work.fetched, Some(Fetched::Found(_)))
}

/// True while a write whose outcome is not known may still land after a read that began at `began`.
pub(super) fn still_open(intent: Option<&Intent>, began: DateTime<Utc>) -> bool {
    if planted::has(Bug::LateWindowIgnored) {
        return false;
    }
    intent.is_some_and(|intent| {
        intent.state.may_have_landed() && intent.closes_at.is_none_or(|closes_at| began <= closes_at)
    })
}

/// When a read can settle a write that may still land: after the window, not at its last moment.
pub(super) fn once_closed(intent: &Intent, began: DateTime<Utc>) -> DateTime<Utc> {
    intent.closes_at.unwrap_or(began) + TimeDelta::milliseconds(1)
}
