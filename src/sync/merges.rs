//! Records that were merged at the vendor: aliases, links that move, and records of ours that become one.
//!
//! The *survivor* is the vendor's record that lives on; the *heir* is ours. Records of ours are merged away only here: the
//! heir takes over their links, open intents, evidence, visits and opportunities.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tandem_contract::{
    ExternalId, Fetched, Kind,
    planted::{self, Bug},
};

use super::{
    change::{FollowUp, history_ops},
    decide::still_open,
    plan::is_position,
    read::MOST_MERGES,
    reconcile::{Reconciler, SyncError, Work},
    twins::of_both,
};
use crate::{
    model::{
        EvidenceState, Intent, IntentOp, IntentState, Key, Link, LinkState, LocalRecord, Mark, Name, Reason, RecordId,
        Status, ids::IntentId,
    },
    store::{By, Op, StoreError, SyncStore},
};

/// The record of this id, or the one that it was merged into.
pub async fn heir_of(
    store: &dyn SyncStore,
    account: &Name,
    kind: Kind,
    id: RecordId,
) -> Result<Option<LocalRecord>, StoreError> {
    let mut found = store.records(account, kind, &[id]).await?.pop();
    for _ in 0..MOST_MERGES {
        let Some(next) = found.as_ref().and_then(LocalRecord::merged_into) else { break };
        found = store.records(account, kind, &[next]).await?.pop();
    }
    Ok(found)
}

impl Reconciler {
    /// A survivor that is seen before the news of its merge: the records it absorbed are linked here.
    pub(super) async fn recognise_merges(&self, kind: Kind, works: &mut [Work]) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        if planted::has(Bug::MergeIsDeletion) {
            return Ok(());
        }
        for work in works.iter_mut().filter(|work| work.dirty.iter().any(|dirty| dirty.generation > 0)) {
            let Some(Fetched::Found(record)) = &work.fetched else { continue };
            if record.absorbed.is_empty() {
                continue;
            }
            let mut links = self.store.links(account, name, kind, By::External(&record.absorbed)).await?;
            // A survivor that has no link yet takes over that of one it absorbed; one that is linked keeps its own.
            let first = if work.link.is_none() { links.pop() } else { None };
            // The others are looked at by themselves.
            let others: Vec<Op> = links
                .into_iter()
                .map(|link| {
                    let key = Key::Local(link.local);
                    Op::Mark(Mark::new(name, kind, key, self.clock.now(), Reason::Propagate))
                })
                .collect();
            if !others.is_empty() {
                self.store.commit(&self.commit_of(others)).await?;
            }
            if let Some(link) = first {
                work.local = self.store.records(account, kind, &[link.local]).await?.pop();
                work.external = Some(link.external.clone());
                work.fetched = Some(Fetched::MergedInto(record.clone()));
                work.link = Some(link);
            }
        }
        Ok(())
    }

    /// Records of ours that were merged away because of another system: what this vendor has of one is from now on the record's
    /// that it was merged into, unless that one has a record there itself. Answers those that are still to be worked on.
    pub(super) async fn hand_on(&self, kind: Kind, works: Vec<Work>) -> Result<Vec<Work>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut left = Vec::with_capacity(works.len());
        let mut heirs: BTreeSet<RecordId> = BTreeSet::new();
        for mut work in works {
            let heir = work.local.as_ref().and_then(LocalRecord::merged_into);
            let (Some(heir), Some(mut link)) = (heir, work.link.clone()) else {
                left.push(work);
                continue;
            };
            let heir = self.heir_of(kind, heir).await?.filter(|heir| !heir.is_deleted());
            let Some(heir) = heir.filter(|_| link.state == LinkState::Linked) else {
                left.push(work);
                continue;
            };
            let ids = [heir.id()];
            let has_its_own = !self.store.links(account, name, kind, By::Local(&ids)).await?.is_empty();
            // An heir that is being made there may have a record of its own in a moment. One in quarantine keeps the intent
            // of a create that nobody found for as long as it is there, perhaps for ever: where a twin is refused, it is
            // waited for only until that create can no longer land.
            let intents = self.store.intents(account, name, kind, &ids).await?;
            let is_put_by =
                heir.as_opportunity().is_some_and(|deal| deal.quarantined) && self.connection.connector.refuses_twins();
            let is_being_made = match is_put_by {
                true => intents.iter().any(|intent| still_open(Some(intent), self.clock.now())),
                false => !intents.is_empty(),
            };
            if is_being_made {
                let wait =
                    work.dirty.drain(..).map(|dirty| self.defer(dirty.clone(), self.later(dirty.attempts), true));
                self.store.commit(&self.commit_of(wait.collect())).await?;
                continue;
            }
            if has_its_own {
                left.push(work);
                continue;
            }
            let mut ops = vec![Op::RemoveLink { connection: name.clone(), kind, local: link.local }];
            for intent in self.store.intents(account, name, kind, &[link.local]).await? {
                ops.extend(self.inherit(intent, heir.id()));
            }
            link.local = heir.id();
            self.forget_position(&mut link, &heir);
            ops.push(self.put_link(link));
            ops.push(self.mark(kind, Key::Local(heir.id()), self.clock.now()));
            ops.extend(work.dirty.drain(..).map(|dirty| self.finish(dirty)));
            self.store.commit(&self.commit_of(ops)).await?;
            heirs.insert(heir.id());
        }
        // What was read of an heir is out of date: it is marked, and comes again.
        left.retain(|work| work.local.as_ref().is_none_or(|local| !heirs.contains(&local.id())));
        Ok(left)
    }

    /// A write for a record that was merged away: what it replaced, the record that is kept looks at.
    fn inherit(&self, intent: Intent, heir: RecordId) -> Vec<Op> {
        let mut ops = vec![Op::DropIntent(intent.id)];
        if matches!(intent.op, IntentOp::Update { .. }) && intent.state.may_have_landed() {
            let id = IntentId(self.ids.next(self.clock.now()));
            let state = IntentState::Inherited;
            ops.push(Op::PutIntent(Intent { id, local: heir, state, ..intent }));
        }
        ops
    }

    /// Records that live on as others, one after the other: the id is an alias from now on, and the link moves to the
    /// survivor. If both had a record here, the older of ours is the heir and the other keeps a pointer to it.
    pub(super) async fn follow_merges(&self, kind: Kind, works: Vec<Work>) -> Result<(), SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        for mut work in works {
            let Some(Fetched::MergedInto(survivor)) = work.fetched.take() else { continue };
            let now = self.clock.now();
            let mut ops = Vec::new();
            if let Some(old) = work.external.clone() {
                ops.push(Op::PutAlias { connection: name.clone(), kind, old, new: survivor.id.clone() });
            }
            // An earlier one of this round may have moved it.
            let link = match &work.local {
                Some(local) => self.store.links(account, name, kind, By::Local(&[local.id()])).await?.pop(),
                None => None,
            };
            // One that was merged away before, because of another system, goes nowhere else.
            let was_merged = |local: &LocalRecord| local.merged_into().is_some();
            if let (None, Some(local)) = (&link, work.local.as_ref().filter(|local| !was_merged(local))) {
                ops.extend(self.merge_unlinked(kind, local.clone(), &survivor.id, now).await?);
            }
            if let (Some(mut link), Some(local)) = (link, work.local.take()) {
                for intent in self.store.intents(account, name, kind, &[link.local]).await? {
                    ops.push(Op::DropIntent(intent.id));
                }
                let other = self
                    .store
                    .links(account, name, kind, By::External(std::slice::from_ref(&survivor.id)))
                    .await?
                    .pop();
                let connection = name.clone();
                match other {
                    // Merged there as well, as people were asked.
                    _ if was_merged(&local) => ops.extend([
                        Op::RemoveLink { connection, kind, local: link.local },
                        self.solved(kind, &Key::Local(link.local), None),
                    ]),
                    None => {
                        link.external = survivor.id.clone();
                        self.forget_position(&mut link, &local);
                        ops.push(self.put_link(link));
                    }
                    Some(other) if other.local == link.local => {}
                    Some(other) => {
                        let theirs = self.store.records(account, kind, &[other.local]).await?.pop();
                        if theirs.as_ref().is_some_and(was_merged) {
                            ops.push(Op::RemoveLink { connection, kind, local: other.local });
                            link.external = survivor.id.clone();
                            self.forget_position(&mut link, &local);
                            ops.push(self.put_link(link));
                        } else if let Some(theirs) = theirs {
                            let open = self.store.intents(account, name, kind, &[other.local]).await?;
                            ops.extend(self.merge_locals(kind, (link, local), (other, theirs), open, now));
                        }
                    }
                }
            }
            ops.push(Op::Mark(Mark::new(name, kind, Key::External(survivor.id), now, Reason::Propagate)));
            ops.extend(work.dirty.drain(..).map(|dirty| self.finish(dirty)));
            ops.extend(self.move_evidence(&ops, now).await?);
            ops.extend(self.look_at_visits(&ops).await?);
            ops.extend(self.look_at_opportunities(&ops, now).await?);
            self.store.commit(&self.commit_of(ops)).await?;
        }
        Ok(())
    }

    /// The sales of an opportunity that is merged away are evidence for the one that lives on: their tills are asked again.
    async fn move_evidence(&self, ops: &[Op], now: DateTime<Utc>) -> Result<Vec<Op>, StoreError> {
        let merged = ops.iter().filter_map(|op| match op {
            Op::PutRecord { record: LocalRecord::Deal(deal), .. } => Some((deal.id, deal.merged_into?)),
            _ => None,
        });
        let mut moved = Vec::new();
        // Sales come through another connection than the one that merges opportunities; it may be read and not written to.
        if self.connection.is_alone() {
            return Ok(moved);
        }
        for (lost, kept) in merged {
            for mut sale in self.store.evidence_for(&self.connection.account.name, lost).await? {
                (sale.opportunity, sale.version) = (Some(kept), sale.version + 1);
                if sale.state == EvidenceState::Live {
                    sale.state = EvidenceState::Waiting;
                }
                let key = Key::External(sale.sale.clone());
                moved.push(Op::Mark(Mark::new(&sale.connection, Kind::Sale, key, now, Reason::Propagate)));
                moved.push(Op::PutEvidence(sale));
            }
        }
        Ok(moved)
    }

    /// The visits of a contact that is merged away are read again: they are of the one that lives on.
    async fn look_at_visits(&self, ops: &[Op]) -> Result<Vec<Op>, StoreError> {
        let contact_of = |op: &Op| match op {
            Op::PutRecord { record: LocalRecord::Contact(contact), .. } => contact.merged_into.map(|_| contact.id),
            Op::PutRecord { record: LocalRecord::Deal(deal), .. } => {
                deal.contact.filter(|_| deal.merged_into.is_some())
            }
            _ => None,
        };
        let visitors = ops.iter().filter_map(contact_of).collect();
        self.follow_up(FollowUp { visitors, ..FollowUp::default() }).await
    }

    /// The opportunities of a contact that is merged away are those of the one that lives on, here and in every system.
    async fn look_at_opportunities(&self, ops: &[Op], now: DateTime<Utc>) -> Result<Vec<Op>, StoreError> {
        let merged: Vec<RecordId> = ops
            .iter()
            .filter_map(|op| match op {
                Op::PutRecord { record: LocalRecord::Contact(contact), .. } => contact.merged_into.map(|_| contact.id),
                _ => None,
            })
            .collect();
        if merged.is_empty() {
            return Ok(Vec::new());
        }
        let deals = self.store.opportunities_of(&self.connection.account.name, &merged).await?;
        let mut marks: Vec<Op> = deals.iter().map(|deal| self.mark(Kind::Deal, Key::Local(*deal), now)).collect();
        marks.extend(deals.into_iter().flat_map(|deal| self.mark_siblings(Kind::Deal, deal, now)));
        Ok(marks)
    }

    /// Which of two records people kept at the vendor is no word on whether ours is won: where they differ it is a conflict.
    fn forget_position(&self, link: &mut Link, local: &LocalRecord) {
        if local.as_opportunity().is_some_and(|deal| deal.position.status == Status::Won)
            && let Some(lens) = self.connection.lenses.get(&link.kind)
        {
            lens.rows.iter().filter(|row| is_position(row)).for_each(|row| drop(link.base.remove(&row.name)));
        }
    }

    /// A record of ours whose half at the vendor was merged before we ever linked it.
    pub(super) async fn merge_unlinked(
        &self,
        kind: Kind,
        mut lost: LocalRecord,
        survivor: &ExternalId,
        now: DateTime<Utc>,
    ) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let Some(kept) =
            self.store.links(account, name, kind, By::External(std::slice::from_ref(survivor))).await?.pop()
        else {
            return Ok(Vec::new());
        };
        let holder = self.store.records(account, kind, &[kept.local]).await?.pop();
        if holder.as_ref().is_some_and(LocalRecord::is_deleted) && !lost.is_deleted() {
            // Ours lives on: the vendor's is linked to one that was deleted here.
            let connection = name.clone();
            let link = Link { local: lost.id(), state: LinkState::Linked, ..kept.clone() };
            return Ok(vec![
                Op::RemoveLink { connection, kind, local: kept.local },
                self.put_link(link),
                self.mark(kind, Key::Local(lost.id()), now),
            ]);
        }
        let mut ops: Vec<Op> = self
            .store
            .intents(account, name, kind, &[lost.id()])
            .await?
            .iter()
            .map(|intent| Op::DropIntent(intent.id))
            .collect();
        let expected = lost.version();
        if let Some(kept) = holder {
            ops.extend(history_ops(kind, &lost, &kept, "merge", now, self.run));
        }
        lost.set_merged_into(kept.local, now);
        lost.touch(now);
        ops.extend(self.mark_siblings(kind, lost.id(), now));
        ops.push(Op::PutRecord { record: lost, expected, slot: None });
        Ok(ops)
    }

    /// `open` are the intents of writes to the survivor.
    fn merge_locals(
        &self,
        kind: Kind,
        mine: (Link, LocalRecord),
        other: (Link, LocalRecord),
        open: Vec<Intent>,
        now: DateTime<Utc>,
    ) -> Vec<Op> {
        // One that is there before one that was deleted, then the older.
        let rank = |one: &LocalRecord| (one.is_deleted(), one.created_at());
        let (target, older_first) = (other.0.external.clone(), rank(&mine.1) <= rank(&other.1));
        let ((mut kept_link, kept), (lost_link, mut lost)) = if older_first { (mine, other) } else { (other, mine) };
        let connection = self.connection.name.clone();
        let mut ops = Vec::new();
        for intent in open.into_iter().filter(|intent| intent.local == lost.id()) {
            // What it wrote stands at the survivor, or lands there yet.
            ops.extend(self.inherit(intent, kept.id()));
        }
        let expected = lost.version();
        lost.set_merged_into(kept.id(), now);
        lost.touch(now);
        kept_link.external = target;
        kept_link.unanswered = of_both(kept_link.unanswered.take(), lost_link.unanswered);
        self.forget_position(&mut kept_link, &kept);
        ops.extend([
            Op::RemoveLink { connection, kind, local: lost_link.local },
            Op::PutRecord { record: lost.clone(), expected, slot: None },
            self.put_link(kept_link),
        ]);
        ops.extend(history_ops(kind, &lost, &kept, "merge", now, self.run));
        ops.extend(self.mark_siblings(kind, lost.id(), now));
        ops
    }
}
