//! Sales at the till: reads those that are marked, finds what they are evidence for, and stores that with what it does to
//! the opportunity, in one transaction.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tandem_contract::{Buyer, Call, ExternalId, Kind, Lane, Origin, Sale, SaleRead, SaleState, is_same_number};
use tracing::info;

use super::{
    change::FollowUp,
    merges::heir_of,
    read::MOST_MERGES,
    reconcile::{Reconciler, SyncError},
};
use crate::{
    model::{
        Account, Dirty, Evidence, EvidenceState, Key, LocalRecord, Mark, Opportunity, Pipeline, Reason, RecordId,
        Status, Trigger, WonOn, contact::phone_tail,
    },
    sales::{
        closing::{self, Word},
        matching::{Buyers, Clue, Meant, Verdict, WAYS, judge},
        meaning,
    },
    store::{By, Op, StoreError, Taken},
};

/// Sales that are read together.
pub(super) const SALES: usize = 25;
/// When a sale that is nobody's yet is looked at again, counted from when it was first seen: tills name the buyer later, or
/// show the order only after the last of several payments. Then it is left to people.
const AGAIN: [TimeDelta; 8] = [
    TimeDelta::seconds(2),
    TimeDelta::seconds(10),
    TimeDelta::seconds(30),
    TimeDelta::minutes(2),
    TimeDelta::minutes(15),
    TimeDelta::hours(2),
    TimeDelta::hours(24),
    TimeDelta::hours(72),
];

/// The task where what won an opportunity was not paid after all.
const NOT_PAID: &str = "the payment of the sale that won this opportunity was declined or called off, or does not cover it any more, and the opportunity is still won: have it paid, or reopen the opportunity; it goes off the list when the sale is paid";

/// When such a sale is looked at next. An invoice may be paid weeks after it was heard of: then it is counted from there.
fn next_look(evidence: &Evidence, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let paid_at = Some(evidence.sold_at).filter(|at| *at <= now);
    let from = paid_at.map_or(evidence.seen_at, |at| at.max(evidence.seen_at));
    AGAIN.iter().map(|after| from + *after).find(|at| *at > now)
}

impl Reconciler {
    /// Works on marked sales.
    ///
    /// # Errors
    /// [`SyncError`] if they could not be read; their marks are still there.
    pub async fn sales(&self, dirty: Vec<Dirty>) -> Result<(), SyncError> {
        let (mut asked, mut ids) = (Vec::new(), Vec::new());
        let mut strays = Vec::new();
        for dirty in dirty {
            match &dirty.key {
                Key::External(id) => {
                    ids.push(id.clone());
                    asked.push(dirty);
                }
                Key::Local(_) => strays.push(self.finish(dirty)),
            }
        }
        if !strays.is_empty() {
            self.store.commit(&self.commit_of(strays)).await?;
        }
        let began = self.clock.now();
        match self.connection.connector.sales(Call::on(Lane::Interactive), &ids).await {
            Ok(reads) => {
                for ((id, dirty), read) in ids.into_iter().zip(asked).zip(reads) {
                    self.settle_sale(id, read, dirty, began).await?;
                }
            }
            // One that cannot be read does not keep the others from it.
            Err(error) if error.may_be_of_one() && asked.len() > 1 => {
                for alone in asked {
                    Box::pin(self.sales(vec![alone])).await?;
                }
            }
            Err(error) if error.may_be_of_one() => {
                for dirty in asked {
                    self.set_sale_aside(dirty, error.code(), error.to_string()).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// A sale that a person must look at; it is tried again by itself.
    async fn set_sale_aside(&self, dirty: Dirty, code: &str, text: String) -> Result<(), StoreError> {
        let failure = self.failure(Kind::Sale, &dirty.key, "", code, text);
        let until = self.later(dirty.attempts.max(5));
        self.store.commit(&self.commit_of(vec![failure, self.defer(dirty, until, true)])).await
    }

    /// Decides about a sale, and stores that; again later where something it rests on changed meanwhile.
    async fn settle_sale(
        &self,
        id: ExternalId,
        read: SaleRead,
        dirty: Dirty,
        began: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let mut ops = self.sale(id, read, dirty.clone(), began).await?;
        if dirty.attempts > 0 {
            ops.push(self.solved(Kind::Sale, &dirty.key, None));
        }
        let stored = self.store.commit(&self.commit_of(ops.clone())).await;
        let stored = match stored {
            // The opportunity that is to be opened again has been followed by another: it waits beside it.
            Err(StoreError::Taken { what: Taken::ActivePlace }) => {
                self.store.commit(&self.commit_of(self.beside(ops))).await
            }
            stored => stored,
        };
        match stored {
            Err(StoreError::Outdated(_) | StoreError::Stale { .. }) => {
                let until = self.later(dirty.attempts.min(2));
                self.store.commit(&self.commit_of(vec![self.defer(dirty, until, true)])).await
            }
            Err(error @ StoreError::Taken { .. }) => {
                let text = format!("{error} by another record of this account: compare the two and correct one");
                self.set_sale_aside(dirty, "taken", text).await
            }
            stored => stored,
        }
    }

    /// The same, with its opportunity in quarantine.
    pub(super) fn beside(&self, mut ops: Vec<Op>) -> Vec<Op> {
        let mut failures = Vec::new();
        for op in &mut ops {
            if let Op::PutRecord { record: LocalRecord::Deal(deal), .. } = op {
                deal.quarantined = true;
                failures.push(self.second_opportunity(deal.id));
            }
        }
        ops.extend(failures);
        ops
    }

    /// What a sale needs.
    async fn sale(
        &self,
        id: ExternalId,
        read: SaleRead,
        dirty: Dirty,
        began: DateTime<Utc>,
    ) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let now = self.clock.now();
        let stored = self.store.evidence(account, name, std::slice::from_ref(&id)).await?.pop();
        let mut evidence = stored.clone().unwrap_or_else(|| Evidence::new(name.clone(), id, now));
        let sale = match read {
            SaleRead::Found(sale) => sale,
            SaleRead::NotYet => {
                // What was read once does not vanish from a till.
                if evidence.opportunity.is_none() {
                    evidence.why = "the till does not show it yet".into();
                    evidence.state = EvidenceState::Waiting;
                }
                return Ok(self.put_off_sale(stored.as_ref(), evidence, dirty, now));
            }
        };
        evidence.read_at = Some((began + self.skew).trunc_subsecs(6));
        evidence.sold_at = sale.sold_at;
        evidence.paid = meaning::paid_so_far(&sale);
        evidence.sold_on = meaning::day_there(&sale, sale.sold_at, self.connection.account.timezone);
        let mut ops: Vec<Op> =
            sale.returns.iter().filter(|of| **of != sale.id).map(|of| self.mark_sale(of, now)).collect();
        let pipelines = self.store.pipelines(account).await?;
        if let Some(opportunity) = evidence.opportunity
            && evidence.state == EvidenceState::Waiting
            && self.heir_of(Kind::Deal, opportunity).await?.is_none_or(|record| record.is_deleted())
        {
            // It was to be paid with this, and was deleted: the money is not, and finds whose it is as any does.
            (evidence.opportunity, evidence.found_by) = (None, None);
        }
        match evidence.opportunity {
            Some(opportunity) => {
                ops.extend(self.follow_sale(&sale, stored.as_ref(), evidence, opportunity, &pipelines, now).await?);
                ops.push(self.finish(dirty));
            }
            None => ops.extend(self.match_sale(&sale, stored.as_ref(), evidence, dirty, &pipelines, now).await?),
        }
        Ok(ops)
    }

    fn mark_sale(&self, sale: &ExternalId, now: DateTime<Utc>) -> Op {
        Op::Mark(Mark::new(&self.connection.name, Kind::Sale, Key::External(sale.clone()), now, Reason::Webhook))
    }

    /// Stores a sale that is nobody's so far, if that is news, and looks at it again later.
    fn put_off_sale(&self, stored: Option<&Evidence>, evidence: Evidence, dirty: Dirty, now: DateTime<Utc>) -> Vec<Op> {
        let next = match evidence.state {
            EvidenceState::Waiting | EvidenceState::Unmatched => next_look(&evidence, now),
            EvidenceState::Live | EvidenceState::Ended | EvidenceState::PassedOver => None,
        };
        let mut ops = self.put_evidence(stored, evidence);
        ops.push(match next {
            Some(at) => self.defer(dirty, at, false),
            None => self.finish(dirty),
        });
        ops
    }

    fn put_evidence(&self, stored: Option<&Evidence>, mut evidence: Evidence) -> Vec<Op> {
        if stored == Some(&evidence) {
            return Vec::new();
        }
        evidence.version += 1;
        vec![Op::PutEvidence(evidence)]
    }

    /// The trigger that a sale met. One that was told whose it is met none: it is paid, valued and given back as the only
    /// trigger of this till has it, whatever that one is about, or as without any.
    fn trigger_of(&self, evidence: &Evidence) -> Trigger {
        let triggers = &self.connection.account.triggers;
        if let Some(met) = evidence.trigger.as_ref().and_then(|name| triggers.get(name)) {
            return met.clone();
        }
        let any = Trigger::default();
        match meaning::triggers(triggers.iter(), &self.connection.name, &any).as_slice() {
            [(_, only)] => only.about_anything(),
            _ => any,
        }
    }

    async fn match_sale(
        &self,
        sale: &Sale,
        stored: Option<&Evidence>,
        mut evidence: Evidence,
        dirty: Dirty,
        pipelines: &[Pipeline],
        now: DateTime<Utc>,
    ) -> Result<Vec<Op>, StoreError> {
        let account = &self.connection.account;
        let any = Trigger::default();
        let triggers = meaning::triggers(account.triggers.iter(), &self.connection.name, &any);
        let meant = self.meant(sale).await?;
        let verdict = match judge(sale, &triggers, pipelines, &account.types, &meant) {
            // What the till has not told by the last look it does not tell: what is known to count does.
            Verdict::NotYet(why) if next_look(&evidence, now).is_none() => {
                match judge(&meaning::as_told(sale), &triggers, pipelines, &account.types, &meant) {
                    Verdict::PassedOver(_) => Verdict::NotYet(why),
                    verdict => verdict,
                }
            }
            verdict => verdict,
        };
        let (state, why, candidates) = match verdict {
            Verdict::For { opportunity, found_by, trigger } => {
                closing::attach(&mut evidence, opportunity, found_by.as_str());
                evidence.trigger = trigger;
                let mut ops = self.follow_sale(sale, stored, evidence, opportunity, pipelines, now).await?;
                ops.push(self.finish(dirty));
                return Ok(ops);
            }
            Verdict::Unmatched { why, candidates } => (EvidenceState::Unmatched, why, candidates),
            Verdict::NotYet(why) => (EvidenceState::Waiting, why, Vec::new()),
            Verdict::PassedOver(why) => (EvidenceState::PassedOver, why, Vec::new()),
        };
        evidence.state = state;
        evidence.why = why.into();
        evidence.candidates = candidates;
        let counted = triggers.first().and_then(|(_, rules)| Some(meaning::net(sale, meaning::worth(sale, rules)?)));
        evidence.amount = counted.filter(|_| state == EvidenceState::Unmatched);
        Ok(self.put_off_sale(stored, evidence, dirty, now))
    }

    /// A sale that belongs to an opportunity: what it counts for now, and what that does.
    async fn follow_sale(
        &self,
        sale: &Sale,
        stored: Option<&Evidence>,
        evidence: Evidence,
        opportunity: RecordId,
        pipelines: &[Pipeline],
        now: DateTime<Utc>,
    ) -> Result<Vec<Op>, StoreError> {
        let Some(before) = self.heir_of(Kind::Deal, opportunity).await? else { return Ok(Vec::new()) };
        let LocalRecord::Deal(mut deal) = before.clone() else { return Ok(Vec::new()) };
        let others = self.store.evidence_for(&self.connection.account.name, deal.id).await?;
        let others: Vec<Evidence> = others.into_iter().filter(|one| one.id() != evidence.id()).collect();
        let trigger = self.trigger_of(&evidence);
        let evidence = closing::apply(sale, evidence, &mut deal, pipelines, &others, &trigger, &self.word(now));
        let told = stored.and_then(|stored| self.tell_of_payment(sale, stored, &deal, trigger.won_on));
        let mut ops = self.put_evidence(stored, evidence);
        let (changed, follow_up) = self.put_opportunity(&before, deal, "a sale", now);
        ops.extend(changed);
        ops.extend(self.follow_up(follow_up).await?);
        ops.extend(told);
        Ok(ops)
    }

    /// What a live sale was paid with was declined, days after a till took it offline, or called off: where its opportunity stays won
    /// all the same, somebody is told, until it is paid. Source: <https://developer.squareup.com/reference/square/objects/Payment>.
    fn tell_of_payment(&self, sale: &Sale, stored: &Evidence, deal: &Opportunity, won_on: WonOn) -> Option<Op> {
        let (key, row) = (Key::Local(deal.id), format!("sale {}", stored.id()));
        let is_short = match sale.state {
            SaleState::Unpaid | SaleState::Void => true,
            SaleState::PartlyPaid => won_on == WonOn::FullPayment,
            SaleState::Paid => return Some(self.solved(Kind::Deal, &key, Some(&row))),
            SaleState::Return => false,
        };
        let stays_won = deal.position.status == Status::Won && deal.deleted_at.is_none();
        let is_news = stored.state == EvidenceState::Live && is_short && stays_won;
        is_news.then(|| self.failure(Kind::Deal, &key, &row, "payment_failed", NOT_PAID.into()))
    }

    fn word(&self, now: DateTime<Utc>) -> Word<'_> {
        let Account { profile, timezone, .. } = &self.connection.account;
        let source = profile.policy().value_source;
        Word { by: &self.connection.name, now, source, timezone: *timezone }
    }

    /// What this, a sale or a visit, made of an opportunity, to be stored if it is new or changed.
    pub(super) fn put_opportunity(
        &self,
        before: &LocalRecord,
        deal: Opportunity,
        what: &str,
        now: DateTime<Utc>,
    ) -> (Vec<Op>, FollowUp) {
        let after = LocalRecord::Deal(deal);
        if after == *before && before.version() > 0 {
            return Default::default();
        }
        info!(record = %after.id(), "{what} changed an opportunity");
        let changed = self.change(now).of(Some(before), after);
        (changed.ops, changed.follow_up)
    }

    /// The record of this id, or the one that it was merged into.
    pub(super) async fn heir_of(&self, kind: Kind, id: RecordId) -> Result<Option<LocalRecord>, StoreError> {
        heir_of(&*self.store, &self.connection.account.name, kind, id).await
    }

    /// Whom a sale may be of: opportunities that it names, or takes something back of; else contacts, by every way of finding any.
    async fn meant(&self, sale: &Sale) -> Result<Meant, StoreError> {
        let account = &self.connection.account.name;
        let mut named: Vec<Opportunity> = Vec::new();
        for id in sale.mentions.iter().filter_map(|text| named_id(text)) {
            if let Some(LocalRecord::Deal(deal)) = self.heir_of(Kind::Deal, id).await?
                && deal.deleted_at.is_none()
                && !named.iter().any(|known| known.id == deal.id)
            {
                named.push(deal);
            }
        }
        if !named.is_empty() {
            named.sort_by_key(|deal| deal.id);
            return Ok(Meant { named, ..Meant::default() });
        }
        let sources = self.store.evidence(account, &self.connection.name, &sale.returns).await?;
        let exchanged = unique(sources.into_iter().filter_map(|source| source.opportunity).collect());
        let (mut buyers, mut known): (Vec<Buyers>, Vec<RecordId>) = (Vec::new(), Vec::new());
        for (found_by, origins, by) in WAYS {
            let mut contacts = self.buyers(sale, origins, by).await?;
            contacts.retain(|contact| !known.contains(contact));
            if contacts.is_empty() {
                continue;
            }
            known.extend(&contacts);
            let deals = self.store.opportunities_of(account, &contacts).await?;
            let theirs = self.opportunities(&deals).await?;
            buyers.push(Buyers { found_by, contacts, theirs });
        }
        Ok(Meant { named: Vec::new(), exchanged, buyers })
    }

    pub(super) async fn opportunities(&self, ids: &[RecordId]) -> Result<Vec<Opportunity>, StoreError> {
        let records = self.store.records(&self.connection.account.name, Kind::Deal, ids).await?;
        Ok(records
            .into_iter()
            .filter_map(|record| match record {
                LocalRecord::Deal(deal) => Some(deal),
                LocalRecord::Contact(_) => None,
            })
            .collect())
    }

    /// The contacts who may have bought, found in this way.
    async fn buyers(&self, sale: &Sale, origins: &[Origin], by: Clue) -> Result<Vec<RecordId>, StoreError> {
        let who: Vec<&Buyer> = sale.buyers.iter().filter(|buyer| origins.contains(&buyer.origin)).collect();
        if who.is_empty() {
            return Ok(Vec::new());
        }
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let found = match by {
            Clue::Record => {
                let ids = self.with_survivors(who.iter().filter_map(|buyer| buyer.id.clone()).collect()).await?;
                let pairs = self.store.pairs(account, name, Kind::Contact, By::External(&ids)).await?;
                pairs.into_iter().map(|(local, _)| local).collect()
            }
            Clue::Marker => {
                who.iter().filter_map(|buyer| self.connection.of_marker(buyer.reference.as_deref()?)).collect()
            }
            Clue::Email => {
                let emails = who.iter().filter_map(|buyer| buyer.email.as_deref());
                let emails: Vec<String> =
                    emails.map(|email| email.trim().to_lowercase()).filter(|email| !email.is_empty()).collect();
                let found = self.store.contacts_by_email(account, &emails).await?;
                found.into_iter().map(|(_, id)| id).collect()
            }
            Clue::Phone => {
                let phones: Vec<&str> = who.iter().filter_map(|buyer| buyer.phone.as_deref()).collect();
                self.by_phone(&phones, sale.location.country.as_deref()).await?
            }
        };
        self.live_contacts(found).await
    }

    /// These customers, and those whom they live on as: who was merged may have been merged again, and sales go on naming the first.
    async fn with_survivors(&self, mut ids: Vec<ExternalId>) -> Result<Vec<ExternalId>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut last = ids.clone();
        for _ in 0..MOST_MERGES {
            let aliases = self.store.aliases(account, name, Kind::Contact, &last).await?;
            last = aliases.into_iter().map(|(_, survivor)| survivor).filter(|id| !ids.contains(id)).collect();
            if last.is_empty() {
                break;
            }
            ids.extend(last.iter().cloned());
        }
        Ok(ids)
    }

    async fn by_phone(&self, phones: &[&str], country: Option<&str>) -> Result<Vec<RecordId>, StoreError> {
        let account = &self.connection.account.name;
        let mut contacts = Vec::new();
        for phone in phones {
            let Some(tail) = phone_tail(phone) else { continue };
            let alike = self.store.contacts_by_phone(account, &tail).await?;
            for record in self.store.records(account, Kind::Contact, &alike).await? {
                if let LocalRecord::Contact(contact) = &record
                    && contact.phone.as_deref().is_some_and(|ours| is_same_number(ours, phone, country))
                {
                    contacts.push(contact.id);
                }
            }
        }
        Ok(contacts)
    }

    /// Those of these contacts that are there, followed through merges.
    pub(super) async fn live_contacts(&self, ids: Vec<RecordId>) -> Result<Vec<RecordId>, StoreError> {
        let mut live = Vec::new();
        for id in ids {
            let found = self.heir_of(Kind::Contact, id).await?;
            live.extend(found.filter(|record| !record.is_deleted()).map(|record| record.id()));
        }
        Ok(unique(live))
    }
}

pub(super) fn unique(mut ids: Vec<RecordId>) -> Vec<RecordId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The opportunity a text names: our id, alone or behind a prefix such as `opp_`.
pub(super) fn named_id(text: &str) -> Option<RecordId> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.rsplit_once(['_', ':', ' '])?.1.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opportunity_is_named_by_its_id() {
        let id = "0199d2c4-0000-7000-8000-00000000002a";
        for text in [id.to_owned(), format!("opp_{id}"), format!("Tandem {id}")] {
            assert_eq!(named_id(&text).map(|id| id.to_string()).as_deref(), Some(id), "{text}");
        }
        assert_eq!(named_id("invoice 7"), None);
    }

    #[test]
    fn a_sale_that_is_nobodys_is_looked_at_less_and_less_often_and_then_left_to_people() {
        let seen = DateTime::UNIX_EPOCH;
        let id = ExternalId::new("ORDER").unwrap();
        let mut sale = Evidence::new("square".parse().unwrap(), id, seen);
        assert_eq!(next_look(&sale, seen), Some(seen + TimeDelta::seconds(2)));
        assert_eq!(next_look(&sale, seen + TimeDelta::minutes(3)), Some(seen + TimeDelta::minutes(15)));
        assert_eq!(next_look(&sale, seen + TimeDelta::hours(72)), None);
        // Paid a week later; by a clock that is ahead of ours, it is counted from when it was heard of.
        sale.sold_at = seen + TimeDelta::days(7);
        assert_eq!(next_look(&sale, sale.sold_at), Some(sale.sold_at + TimeDelta::seconds(2)));
        assert_eq!(next_look(&sale, sale.sold_at - TimeDelta::seconds(1)), None);
    }
}
