//! What a vendor is asked about the records of a batch: the truth, creates without an answer, who wrote what. A question that
//! is refused as a whole is asked of halves, until what the vendor cannot answer for stands alone and is set aside.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use chrono::{DateTime, Utc};
use tandem_contract::{
    Call, ConnectorError, ExternalId, Fetched, Kind, Record, Sought,
    planted::{self, Bug},
};
use tracing::{debug, warn};

use super::{
    lens::Lens,
    read::MOST_MERGES,
    reconcile::{Reconciler, SyncError, Work, tries},
};
use crate::{
    model::{IntentOp, IntentState, Key, Link, LinkState, RecordId},
    store::{By, Op, StoreError},
};

/// After so many single records that the vendor cannot answer for, and none that it can, it is the vendor and not the records:
/// the rest is not asked.
const ENOUGH: usize = 3;

/// A question about a batch, asked in parts: a part that is refused is halved.
struct Halves<A> {
    waiting: Vec<Range<usize>>,
    /// By places in the batch.
    answers: Vec<(usize, A)>,
    /// What there is no answer for.
    culprits: Vec<(usize, Unanswered)>,
}

/// Why there is no answer for a record.
#[derive(Clone)]
enum Unanswered {
    /// The vendor was asked about it alone.
    Alone(ConnectorError),
    /// It was not, since the vendor could not answer for others either.
    Unasked,
}

impl<A> Halves<A> {
    fn of(count: usize) -> Self {
        let whole = 0..count;
        let waiting = if whole.is_empty() { Vec::new() } else { vec![whole] };
        Self { waiting, answers: Vec::with_capacity(count), culprits: Vec::new() }
    }

    /// The part to be asked next.
    fn next(&mut self) -> Option<Range<usize>> {
        self.waiting.pop()
    }

    /// Takes what came of a part; an error that the vendor says of itself, not of the question, is given back.
    fn take(&mut self, part: Range<usize>, came: Result<Vec<A>, ConnectorError>) -> Result<(), ConnectorError> {
        match came {
            Ok(answers) => self.answers.extend(part.zip(answers)),
            Err(error) if error.may_be_of_one() && part.len() > 1 => {
                debug!(records = part.len(), %error, "halving a batch that was refused as a whole");
                let middle = part.start + part.len() / 2;
                self.waiting.extend([middle..part.end, part.start..middle]);
            }
            Err(error) if error.may_be_of_one() => {
                let so_far = self.culprits.len() + 1;
                if self.answers.is_empty() && so_far >= ENOUGH && !self.waiting.is_empty() {
                    warn!(%error, "the rest of a batch is not asked about: the vendor could answer for none so far");
                    let rest = self.waiting.drain(..).flatten();
                    self.culprits.extend(rest.map(|index| (index, Unanswered::Unasked)));
                }
                self.culprits.push((part.start, Unanswered::Alone(error)));
                if self.answers.is_empty() && !self.waiting.is_empty() {
                    // The largest part is next: a few records side by side are not to be taken for all.
                    let largest = self.waiting.remove(0);
                    self.waiting.push(largest);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Reconciler {
    /// What the vendor has of these ids.
    async fn fetch_in_parts(
        &self,
        call: Call,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Result<Halves<Fetched>, ConnectorError> {
        let mut asked = Halves::of(ids.len());
        while let Some(part) = asked.next() {
            asked.take(part.clone(), self.connection.connector.fetch(call, kind, &ids[part]).await)?;
        }
        Ok(asked)
    }

    /// Reads the truth.
    pub(super) async fn fetch(&self, call: Call, kind: Kind, works: &mut [Work]) -> Result<(), SyncError> {
        let ids: Vec<ExternalId> =
            works.iter().filter(|w| w.fetched.is_none()).filter_map(|w| w.external.clone()).collect();
        let asked = self.fetch_in_parts(call, kind, &ids).await?;
        let (mut put_off, together) = (Vec::new(), self.together(works));
        for (index, why) in &asked.culprits {
            for work in works.iter_mut().filter(|work| work.external.as_ref() == Some(&ids[*index])) {
                put_off.extend(self.set_aside(kind, work, why, together));
            }
        }
        if !put_off.is_empty() {
            self.store.commit(&self.commit_of(put_off)).await?;
        }
        let answers = asked.answers.into_iter();
        let mut fetched: BTreeMap<&ExternalId, Fetched> =
            answers.map(|(index, answer)| (&ids[index], answer)).collect();
        if planted::has(Bug::MergeIsDeletion) {
            for answer in fetched.values_mut().filter(|answer| matches!(answer, Fetched::MergedInto(_))) {
                *answer = Fetched::Archived;
            }
        }
        for work in works.iter_mut().filter(|work| work.fetched.is_none()) {
            if let Some(answer) = work.external.as_ref().and_then(|id| fetched.remove(id)) {
                work.fetched = Some(answer);
            }
        }
        Ok(())
    }

    /// Puts off what there is no answer for, and shows what the vendor was asked about alone. The others come again sooner, and
    /// together.
    fn set_aside(&self, kind: Kind, work: &mut Work, why: &Unanswered, together: DateTime<Utc>) -> Vec<Op> {
        let Some(first) = work.dirty.first() else { return Vec::new() };
        let (mut ops, until) = match why {
            Unanswered::Unasked => (Vec::new(), together),
            Unanswered::Alone(error) => {
                let key = work.local.as_ref().map_or_else(|| first.key.clone(), |local| Key::Local(local.id()));
                let text = format!("{error}; it is tried again by itself");
                self.count(|summary| summary.failed += 1);
                (vec![self.failure(kind, &key, "", error.code(), text)], self.later(first.attempts + 4))
            }
        };
        ops.extend(work.dirty.drain(..).map(|dirty| self.defer(dirty, until, true)));
        ops
    }

    /// When what was not asked about is asked about again.
    fn together(&self, works: &[Work]) -> DateTime<Utc> {
        self.later(works.iter().map(|work| tries(&work.dirty)).min().unwrap_or(0) + 2)
    }

    /// The same, where nothing may be decided about the record: it leaves the batch.
    async fn leave_out_culprits(
        &self,
        kind: Kind,
        works: &mut Vec<Work>,
        culprits: Vec<(usize, Unanswered)>,
    ) -> Result<(), StoreError> {
        if culprits.is_empty() {
            return Ok(());
        }
        let together = self.together(works);
        let culprits: BTreeMap<usize, Unanswered> = culprits.into_iter().collect();
        let mut ops = Vec::new();
        let all = std::mem::take(works).into_iter().enumerate();
        works.extend(all.filter_map(|(index, mut work)| match culprits.get(&index) {
            None => Some(work),
            Some(why) => {
                ops.extend(self.set_aside(kind, &mut work, why, together));
                None
            }
        }));
        self.store.commit(&self.commit_of(ops)).await
    }

    /// Records that the vendor no longer has, and that we were told live on as others: believed where the other one is there.
    pub(super) async fn follow_hearsay(&self, call: Call, kind: Kind, works: &mut Vec<Work>) -> Result<(), SyncError> {
        let is_gone = |work: &Work| matches!(work.fetched, Some(Fetched::Archived | Fetched::Gone));
        let gone: Vec<ExternalId> =
            works.iter().filter(|work| is_gone(work)).filter_map(|work| work.external.clone()).collect();
        if gone.is_empty() || planted::has(Bug::MergeIsDeletion) {
            return Ok(());
        }
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut heard: BTreeMap<ExternalId, ExternalId> =
            self.store.aliases(account, name, kind, &gone).await?.into_iter().collect();
        if heard.is_empty() {
            return Ok(());
        }
        // Survivors may have been merged on; in a circle, if what was heard is wrong.
        for _ in 0..MOST_MERGES {
            let last: Vec<ExternalId> = heard.values().cloned().collect();
            let on: BTreeMap<ExternalId, ExternalId> =
                self.store.aliases(account, name, kind, &last).await?.into_iter().collect();
            if on.is_empty() {
                break;
            }
            for survivor in heard.values_mut() {
                if let Some(next) = on.get(survivor) {
                    *survivor = next.clone();
                }
            }
        }
        let survivors: Vec<ExternalId> = heard.values().cloned().collect();
        let asked = self.fetch_in_parts(call, kind, &survivors).await?;
        let unread: BTreeMap<&ExternalId, Unanswered> =
            asked.culprits.into_iter().map(|(index, error)| (&survivors[index], error)).collect();
        let there: BTreeMap<&ExternalId, Record> = asked
            .answers
            .into_iter()
            .filter_map(|(index, fetched)| match fetched {
                Fetched::Found(record) | Fetched::MergedInto(record) => Some((&survivors[index], record)),
                _ => None,
            })
            .collect();
        let mut culprits = Vec::new();
        for (index, work) in works.iter_mut().enumerate().filter(|(_, work)| is_gone(work)) {
            let Some(survivor) = work.external.as_ref().and_then(|id| heard.get(id)) else { continue };
            if let Some(record) = there.get(survivor) {
                work.fetched = Some(Fetched::MergedInto(record.clone()));
            } else if let Some(why) = unread.get(survivor) {
                culprits.push((index, why.clone()));
            }
        }
        Ok(self.leave_out_culprits(kind, works, culprits).await?)
    }

    /// Merges that nobody told of. What was empty in a survivor is filled with what the lost record had, our marker too:
    /// so where one of ours is gone, an older record that carries its marker is the one it lives on as, as if that had been
    /// heard. A younger one is a copy that people made, with all it held.
    pub(super) async fn follow_markers(&self, call: Call, kind: Kind, works: &mut Vec<Work>) -> Result<(), SyncError> {
        let connector = &self.connection.connector;
        if connector.refuses_twins() || planted::has(Bug::MergeIsDeletion) {
            return Ok(());
        }
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut carried: Vec<(usize, &Record, RecordId)> = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let Some(Fetched::Found(record)) = &work.fetched else { continue };
            let of_other = |id: &RecordId| work.local.as_ref().is_none_or(|local| local.id() != *id);
            carried.extend(self.made_for(record).filter(of_other).map(|id| (index, record, id)));
        }
        if carried.is_empty() {
            return Ok(());
        }
        let ids: Vec<RecordId> = carried.iter().map(|(.., id)| *id).collect();
        let links = self.store.links(account, name, kind, By::Local(&ids)).await?;
        let may_be_lost = |link: &&Link| matches!(link.state, LinkState::Linked | LinkState::RemoteMissing);
        let links: BTreeMap<RecordId, &Link> =
            links.iter().filter(may_be_lost).map(|link| (link.local, link)).collect();
        let older = carried.into_iter().filter_map(|(index, record, id)| {
            let link = links.get(&id).filter(|link| connector.is_older(&record.id, &link.external))?;
            Some((index, record.id.clone(), id, link.external.clone()))
        });
        let mut older: Vec<(usize, ExternalId, RecordId, ExternalId)> = older.collect();
        // What is known of a merge already is not asked again: the lost one waits, perhaps for long.
        let lost: Vec<ExternalId> = older.iter().map(|(.., lost)| lost.clone()).collect();
        let known = self.store.aliases(account, name, kind, &lost).await?;
        older.retain(|(_, survivor, _, lost)| !known.iter().any(|(old, new)| old == lost && new == survivor));
        let lost: Vec<ExternalId> = older.iter().map(|(.., lost)| lost.clone()).collect();
        let asked = self.fetch_in_parts(call, kind, &lost).await?;
        let now = self.clock.now();
        let mut ops = Vec::new();
        let mut left_out: BTreeMap<usize, Option<Unanswered>> = BTreeMap::new();
        for (place, fetched) in asked.answers {
            if !matches!(fetched, Fetched::Archived | Fetched::Gone) {
                continue;
            }
            let (index, survivor, local, old) = older[place].clone();
            ops.push(Op::PutAlias { connection: name.clone(), kind, old, new: survivor });
            ops.push(self.mark(kind, Key::Local(local), now));
            left_out.insert(index, None);
        }
        left_out.extend(asked.culprits.into_iter().map(|(place, why)| (older[place].0, Some(why))));
        let together = self.together(works);
        // The lost one comes first: the survivor is looked at once it is known as what it is.
        for (index, why) in left_out.into_iter().rev() {
            let mut work = works.remove(index);
            match why {
                Some(why) => ops.extend(self.set_aside(kind, &mut work, &why, together)),
                None => {
                    let until = self.later(tries(&work.dirty));
                    ops.extend(work.dirty.drain(..).map(|dirty| self.defer(dirty, until, true)));
                }
            }
        }
        if !ops.is_empty() {
            self.store.commit(&self.commit_of(ops)).await?;
        }
        Ok(())
    }

    /// A create whose outcome is not known: is there a record that carries its marker?
    pub(super) async fn probe_creates(&self, call: Call, kind: Kind, works: &mut Vec<Work>) -> Result<(), SyncError> {
        let asked: Vec<(usize, Sought)> = works
            .iter()
            .enumerate()
            .filter(|(_, work)| work.external.is_none())
            .filter_map(|(index, work)| {
                let intent = work.intent.as_ref().filter(|intent| intent.state == IntentState::Sent)?;
                let IntentOp::Create { marker } = &intent.op else { return None };
                Some((index, Sought { marker: marker.clone(), since: intent.sent_at.unwrap_or_default() }))
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        let (indexes, sought): (Vec<usize>, Vec<Sought>) = asked.into_iter().unzip();
        let connector = &self.connection.connector;
        let mut asked = Halves::of(sought.len());
        while let Some(part) = asked.next() {
            asked.take(part.clone(), connector.find(call, kind, &sought[part]).await)?;
        }
        let found = asked.answers;
        let ids: Vec<ExternalId> =
            found.iter().filter_map(|(_, record)| record.as_ref()).map(|record| record.id.clone()).collect();
        let links =
            self.store.links(&self.connection.account.name, &self.connection.name, kind, By::External(&ids)).await?;
        for (place, record) in found {
            let Some(record) = record else { continue };
            let work = &mut works[indexes[place]];
            // Made, and merged at the vendor into a record that is another of ours.
            if links.iter().any(|link| link.external == record.id) {
                work.fetched = Some(Fetched::MergedInto(record));
            } else {
                work.external = Some(record.id.clone());
                work.fetched = Some(Fetched::Found(record));
            }
        }
        let culprits = asked.culprits.into_iter().map(|(place, error)| (indexes[place], error)).collect();
        Ok(self.leave_out_culprits(kind, works, culprits).await?)
    }

    /// A sent intent is resolved only with what the vendor's history says of the rows it wrote.
    pub(super) async fn read_histories(
        &self,
        call: Call,
        kind: Kind,
        lens: &Lens,
        works: &mut Vec<Work>,
    ) -> Result<(), SyncError> {
        let mut properties: BTreeSet<String> = BTreeSet::new();
        let mut asked: Vec<(usize, ExternalId)> = Vec::new();
        for (index, work) in works.iter().enumerate() {
            let (Some(intent), Some(Fetched::Found(record))) = (&work.intent, &work.fetched) else { continue };
            if intent.state.may_have_landed() && work.twin.is_none() {
                properties.extend(lens.rows.iter().flat_map(|row| row.properties.iter().map(|(name, _)| name.clone())));
                asked.push((index, record.id.clone()));
            }
        }
        self.read_history(call, kind, works, asked, properties).await
    }

    pub(super) async fn read_history(
        &self,
        call: Call,
        kind: Kind,
        works: &mut Vec<Work>,
        asked: Vec<(usize, ExternalId)>,
        properties: BTreeSet<String>,
    ) -> Result<(), SyncError> {
        if asked.is_empty() {
            return Ok(());
        }
        let (indexes, ids): (Vec<usize>, Vec<ExternalId>) = asked.into_iter().unzip();
        let properties: Vec<String> = properties.into_iter().collect();
        let connector = &self.connection.connector;
        let mut asked = Halves::of(ids.len());
        while let Some(part) = asked.next() {
            asked.take(part.clone(), connector.history(call, kind, &ids[part], &properties).await)?;
        }
        for (place, history) in asked.answers {
            works[indexes[place]].history = history;
        }
        let culprits = asked.culprits.into_iter().map(|(place, error)| (indexes[place], error)).collect();
        Ok(self.leave_out_culprits(kind, works, culprits).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tandem_contract::ConnectorError;

    use super::{ENOUGH, Halves, Unanswered};

    /// Asks about so many records, of which the vendor cannot answer for some; the calls, what it was asked about alone, and what
    /// it was not.
    fn ask(count: usize, bad: &BTreeSet<usize>) -> (usize, BTreeSet<usize>, usize) {
        let (mut asked, mut calls) = (Halves::of(count), 0);
        while let Some(part) = asked.next() {
            calls += 1;
            let came = match part.clone().any(|index| bad.contains(&index)) {
                true => Err(ConnectorError::Malformed { path: "data".into() }),
                false => Ok(part.clone().collect()),
            };
            asked.take(part, came).unwrap();
        }
        assert!(asked.answers.iter().all(|(index, answer)| index == answer && !bad.contains(index)));
        assert_eq!(asked.answers.len() + asked.culprits.len(), count, "each is one or the other");
        let is_alone = |one: &&(usize, Unanswered)| matches!(one.1, Unanswered::Alone(_));
        let alone: BTreeSet<usize> = asked.culprits.iter().filter(is_alone).map(|(index, _)| *index).collect();
        let unasked = asked.culprits.len() - alone.len();
        (calls, alone, unasked)
    }

    #[test]
    fn records_without_an_answer_are_found_one_by_one_and_all_others_answered() {
        for bad in [vec![], vec![0], vec![99], vec![0, 1, 2, 3], vec![10, 50, 51, 90], (0..25).collect()] {
            let bad = bad.into_iter().collect();
            let (_, alone, unasked) = ask(100, &bad);
            assert_eq!((alone, unasked), (bad, 0));
        }
        for count in 0..=ENOUGH {
            let all = (0..count).collect();
            assert_eq!(ask(count, &all), (if count < 2 { count } else { 2 * count - 1 }, all.clone(), 0));
        }
    }

    #[test]
    fn a_vendor_without_any_answer_is_asked_about_a_few() {
        let (calls, alone, unasked) = ask(1_000, &(0..1_000).collect());
        assert_eq!((alone.len(), unasked), (ENOUGH, 1_000 - ENOUGH));
        assert!(calls <= 3 * 11, "{calls} calls");
    }
}
