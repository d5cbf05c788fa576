//! Visits at a clinic: reads those that are marked, finds whom they are of, and stores that with what it does to the opportunity,
//! in one transaction.
//!
//! A visit that may still change is read again every day, whatever feeds say: deleted appointments vanish without a word.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tandem_contract::{
    Call, ConnectorError, ExternalId, Kind, Lane, Value, VisitClass, VisitRead, VisitStatus, Visitor,
};

use super::{
    reconcile::{Reconciler, SECOND_LOOK, SyncError},
    sales::{named_id, unique},
};
use crate::{
    model::{
        Contact, Currency, Dirty, Key, LocalRecord, Money, Note, Opportunity, Pipeline, Raised, RecordId, Stamp,
        Status, ValueSource, Visit, VisitRules, contact::phone_tail, field,
    },
    store::{By, Op, StoreError, Taken},
    visits::{
        ladder::{Rank, groups, is_about, names_stages, rank},
        people::{Found, find},
        stage::{self, Move, Situation, earlier},
    },
};

/// Visits that are read together.
pub(super) const VISITS: usize = 50;
/// How often a visit that may still change is read.
const DAILY: TimeDelta = TimeDelta::hours(24);
/// How long a visit of nobody, or of nobody's opportunity, is looked at again.
const PATIENCE: TimeDelta = TimeDelta::days(7);
/// How long after it was to end a visit that nobody closed is read no more by itself.
const LONG_OVER: TimeDelta = TimeDelta::days(30);
/// The pseudo-row under which visits are shown that a person must look at.
pub const VISITORS: &str = "visitors";
const SEVERAL: &str = "several contacts here may be the one who comes: compare them with the clinic's record, and merge them or correct an address; it is tried again by itself";
const MANY: &str = "the contact has several open opportunities in the pipeline of this visit: close or merge all but one; it is tried again by itself";
const UNMAPPED: &str = "its type is not in the connection's visit_types, so it moves nothing: `tandem connection test` lists such types; add a row for it";

const UNSETTLED: &str = "what it does to its opportunity could not be stored again and again: look whether two visit_rules name one pipeline; it is tried again by itself";
const RULES: &str = "visit_rules name a pipeline or a stage that there is not: correct the name, or make the stage";

/// Whether an error may be of one visit alone: a clinic may keep one patient from us.
fn is_of_one(error: &ConnectorError) -> bool {
    error.may_be_of_one() || matches!(error, ConnectorError::Forbidden(_))
}

/// What a visit that several come to did to the opportunities of the others.
#[derive(Default)]
struct Share {
    raised: Vec<Raised>,
    opportunity: Option<RecordId>,
}

/// What a contact's visits do.
struct Effect {
    ops: Vec<Op>,
    again: Option<DateTime<Utc>>,
}

impl Reconciler {
    /// Works on marked visits.
    ///
    /// # Errors
    /// [`SyncError`] if they could not be read; their marks are still there.
    pub async fn visits(&self, dirty: Vec<Dirty>) -> Result<(), SyncError> {
        let (mut asked, mut ids, mut strays) = (Vec::new(), Vec::new(), Vec::new());
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
        match self.connection.connector.visits(Call::on(Lane::Propagate), &ids).await {
            Ok(reads) => {
                for ((id, dirty), read) in ids.into_iter().zip(asked).zip(reads) {
                    self.settle_visit(id, read, dirty).await?;
                }
            }
            // One that cannot be read does not keep the others from it.
            Err(error) if asked.len() > 1 && is_of_one(&error) => {
                for alone in asked {
                    Box::pin(self.visits(vec![alone])).await?;
                }
            }
            Err(error) if is_of_one(&error) => {
                for dirty in asked {
                    let failure = self.failure(Kind::Appointment, &dirty.key, "", error.code(), error.to_string());
                    let until = self.later(dirty.attempts.max(5));
                    self.store.commit(&self.commit_of(vec![failure, self.defer(dirty, until, true)])).await?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Decides about a visit, and stores that; again later where something it rests on changed meanwhile.
    async fn settle_visit(&self, id: ExternalId, read: VisitRead, dirty: Dirty) -> Result<(), StoreError> {
        let mut ops = self.visit(id, read, dirty.clone()).await?;
        if dirty.attempts > 0 {
            ops.insert(0, self.solved(Kind::Appointment, &dirty.key, Some("")));
        }
        let stored = match self.store.commit(&self.commit_of(ops.clone())).await {
            // Whoever took the place meanwhile is found when it is read again. What is refused once more was open beside another one
            // before visits moved either: it waits.
            Err(StoreError::Taken { what: Taken::ActivePlace }) if dirty.attempts > 0 => {
                self.store.commit(&self.commit_of(self.beside(ops))).await
            }
            stored => stored,
        };
        match stored {
            Err(StoreError::Outdated(_) | StoreError::Stale { .. } | StoreError::Taken { .. }) => {
                let mut ops = Vec::new();
                if dirty.attempts >= 8 {
                    ops.push(self.failure(Kind::Appointment, &dirty.key, "", "stale", UNSETTLED.into()));
                }
                ops.push(self.defer(dirty.clone(), self.later(dirty.attempts), true));
                self.store.commit(&self.commit_of(ops)).await
            }
            stored => stored,
        }
    }

    /// What a visit needs.
    async fn visit(&self, id: ExternalId, read: VisitRead, dirty: Dirty) -> Result<Vec<Op>, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let now = self.clock.now().trunc_subsecs(6);
        let stored = self.store.visits(account, name, std::slice::from_ref(&id)).await?.pop();
        let known = stored.clone();
        let mut visit = stored.unwrap_or_else(|| Visit::new(name.clone(), id, now));
        let before = visit.status;
        let mut failures = Vec::new();
        let missing_since = visit.missing_since.take();
        match read {
            VisitRead::Gone | VisitRead::Missing if known.is_none() => return Ok(vec![self.finish(dirty)]),
            // A server that has mislaid everything for a moment is asked a second time.
            VisitRead::Missing if missing_since.is_none_or(|since| now - since < SECOND_LOOK) => {
                visit.missing_since = Some(missing_since.unwrap_or(now));
                visit.version += 1;
                let again = visit.missing_since.unwrap_or(now) + SECOND_LOOK;
                let stored = (missing_since.is_none()).then_some(Op::PutVisit(visit));
                return Ok(stored.into_iter().chain([self.defer(dirty, again, false)]).collect());
            }
            VisitRead::Gone | VisitRead::Missing => {
                visit.missing_since = missing_since;
                // What is gone is as good as called off; what had taken place did.
                if visit.is_open() {
                    visit.status = VisitStatus::Cancelled;
                }
                visit.contacts = self.live_contacts(std::mem::take(&mut visit.contacts)).await?;
            }
            // Much else is ordered the way treatments are: of what is none of ours not even that it is there is kept.
            VisitRead::Found(read) if known.is_none() && visit.is_plan() && read.class == VisitClass::Ignored => {
                return Ok(vec![self.finish(dirty)]);
            }
            VisitRead::Found(read) => {
                take(&mut visit, &read);
                let is_mapped = read.class != VisitClass::Unmapped;
                let mention = read.mention.as_deref().filter(|_| is_mapped);
                if let Some(named) = mention.and_then(|text| named_id(text.split('/').next()?)) {
                    visit.opportunity = Some(named);
                }
                if !is_mapped {
                    failures.push(("unmapped_visit", UNMAPPED));
                } else if read.class == VisitClass::Ignored {
                    // Who comes to what is of no interest is not read; what was booked from here is for the contact of its
                    // opportunity.
                    if let (true, Some(of)) = (visit.contacts.is_empty(), visit.opportunity) {
                        visit.contacts = self.contact_of(of).await?;
                    }
                } else {
                    let patients = std::mem::take(&mut visit.patients);
                    visit.patients = read.visitors.iter().filter_map(|visitor| visitor.id.clone()).collect();
                    let before = self.live_contacts(std::mem::take(&mut visit.contacts)).await?;
                    let (contacts, several) = self.visitors(&read.visitors).await?;
                    // Who was known to come still is who comes, whatever twin there is since.
                    let stays = contacts.is_empty() && patients == visit.patients && !before.is_empty();
                    visit.contacts = if stays { before } else { contacts };
                    if visit.contacts.is_empty()
                        && let (Some(of), [_]) = (visit.opportunity, visit.patients.as_slice())
                    {
                        visit.contacts = self.contact_of(of).await?;
                    }
                    if several && visit.contacts.is_empty() {
                        failures.push(("several_contacts", SEVERAL));
                    }
                }
            }
        }
        if visit.status != before || known.is_none() {
            visit.since = now;
        }
        let moved = known.as_ref().is_some_and(|known| known.starts_at.is_some() && known.starts_at != visit.starts_at);
        if moved && visit.is_open() && !visit.is_plan() {
            visit.noted.insert(Note::Moved);
        }
        let mut ops = vec![self.solved(Kind::Appointment, &dirty.key, Some(VISITORS))];
        let mut again = None;
        let mut effects = Vec::new();
        let mut others = BTreeMap::new();
        for contact in visit.contacts.clone() {
            let effect = self.effect(contact, &mut visit, &mut others, now, &mut failures).await?;
            again = earlier(again, effect.again);
            effects.extend(effect.ops);
        }
        if known.as_ref() != Some(&visit) {
            let mut next = visit.clone();
            next.version += 1;
            ops.push(Op::PutVisit(next));
        }
        ops.extend(effects);
        // Once each, whoever comes to them and however many rules they are of.
        ops.extend(others.into_values().map(|other| Op::PutVisit(Visit { version: other.version + 1, ..other })));
        for (code, text) in failures {
            ops.push(self.failure(Kind::Appointment, &dirty.key, VISITORS, code, text.into()));
        }
        let waits = visit.contacts.is_empty() && now - visit.seen_at < PATIENCE;
        // A plan that names no day is as old as it is: clinics leave plans open that nobody carries out.
        let planned = visit.created_at.filter(|_| visit.is_plan());
        let over = visit.ends_at.or(visit.starts_at).or(planned).is_some_and(|at| at < now - LONG_OVER);
        let is_of_interest = !matches!(visit.class, VisitClass::Ignored) && !over;
        let daily = (is_of_interest && (visit.is_open() || waits)).then(|| now + DAILY);
        ops.push(match earlier(again, daily) {
            Some(at) => self.defer(dirty, at.max(now + TimeDelta::seconds(1)), false),
            None => self.finish(dirty),
        });
        Ok(ops)
    }

    /// The contact of an opportunity, if it has one.
    async fn contact_of(&self, opportunity: RecordId) -> Result<Vec<RecordId>, StoreError> {
        let found = self.heir_of(Kind::Deal, opportunity).await?;
        Ok(found.and_then(|record| record.as_opportunity()?.contact).into_iter().collect())
    }

    /// What the visits of a contact do to their opportunities. `visit` is the one that was read, which is not stored yet; nor are
    /// `others`, by id, which it changed for somebody else who comes to them.
    async fn effect(
        &self,
        contact: RecordId,
        visit: &mut Visit,
        others: &mut BTreeMap<String, Visit>,
        now: DateTime<Utc>,
        failures: &mut Vec<(&'static str, &'static str)>,
    ) -> Result<Effect, StoreError> {
        let account = &self.connection.account;
        let mut effect = Effect { ops: Vec::new(), again: None };
        let mut all = self.store.visits_of(&account.name, contact).await?;
        all.retain(|other| other.id() != visit.id());
        for other in &mut all {
            if let Some(changed) = others.get(&other.id()) {
                other.clone_from(changed);
            }
        }
        all.push(visit.clone());
        let mut theirs: BTreeMap<String, Share> = BTreeMap::new();
        for one in &mut all {
            let share = self.leave_out(contact, one).await?;
            theirs.insert(one.id(), share);
        }
        let pipelines = self.store.pipelines(&account.name).await?;
        let deals = self.store.opportunities_of(&account.name, &[contact]).await?;
        let mut deals = self.opportunities(&deals).await?;
        deals.retain(|deal| deal.deleted_at.is_none());
        for rules in account.visit_rules.values() {
            if !stage::is_of(visit, rules) {
                continue;
            }
            let Some(pipeline) = pipelines.iter().find(|pipeline| is_about(rules, pipeline)) else {
                failures.push(("visit_rules", RULES));
                continue;
            };
            if !names_stages(rules, pipeline) {
                failures.push(("visit_rules", RULES));
            }
            let of: Vec<Visit> = all.iter().filter(|visit| stage::is_of(visit, rules)).cloned().collect();
            let here: Vec<&Opportunity> =
                deals.iter().filter(|deal| deal.position.pipeline == Some(pipeline.id) && !deal.quarantined).collect();
            let bound_to = groups(&of, true, account.timezone)
                .into_iter()
                .find(|group| group.visits.iter().any(|one| one.id() == visit.id()))
                .and_then(|group| group.bound_to);
            let deal = match self.meant_by(visit, bound_to, &here) {
                Meant::One(deal) => deal.clone(),
                Meant::Several => {
                    failures.push(("several_opportunities", MANY));
                    continue;
                }
                Meant::None if bound_to.is_some() => continue,
                Meant::None => match self.opened(contact, visit, rules, pipeline, &here, now).await? {
                    Some(deal) => deal,
                    None => {
                        let waits = now - visit.seen_at < PATIENCE;
                        effect.again = earlier(effect.again, waits.then(|| now + DAILY));
                        continue;
                    }
                },
            };
            let before = here.iter().filter(|other| other.id != deal.id && other.created_at < deal.created_at);
            let verdict = stage::decide(&Situation {
                zone: account.timezone,
                closed_before: before.filter_map(|other| other.position.closed_at).max(),
                visits: &of,
                deal: &deal,
                pipeline,
                rules,
                kept_means_done: rules.kept_means_done.unwrap_or_else(|| !self.tells_of_encounters()),
                now,
            });
            effect.again = earlier(effect.again, verdict.again);
            for mut changed in verdict.visits {
                // The next rules see it as these left it.
                if let Some(one) = all.iter_mut().find(|one| one.id() == changed.id()) {
                    one.clone_from(&changed);
                }
                if let Some(share) = theirs.get(&changed.id()) {
                    changed.raised.extend(share.raised.iter().cloned());
                    changed.opportunity = changed.opportunity.or(share.opportunity);
                }
                if changed.id() == visit.id() {
                    *visit = changed;
                } else {
                    others.insert(changed.id(), changed);
                }
            }
            for (id, note) in &verdict.notes {
                if let Some(task) = note.task() {
                    let key = Key::Local(deal.id);
                    effect.ops.push(self.failure(Kind::Deal, &key, &format!("visit {id}"), note.as_str(), task.into()));
                }
            }
            effect.ops.extend(self.move_ops(deal, pipeline, rules, verdict.to, verdict.next_visit, now));
        }
        Ok(effect)
    }

    /// Takes off a visit what it did to the opportunities of others who come as well. Those of an opportunity that was merged
    /// away are of the one that lives on.
    async fn leave_out(&self, contact: RecordId, visit: &mut Visit) -> Result<Share, StoreError> {
        let mut share = Share::default();
        for mut raised in std::mem::take(&mut visit.raised) {
            let (lives, is_theirs) = self.whose(contact, visit, raised.opportunity).await?;
            raised.opportunity = lives;
            if is_theirs { share.raised.push(raised) } else { visit.raised.push(raised) }
        }
        if let Some(of) = visit.opportunity {
            let (lives, is_theirs) = self.whose(contact, visit, of).await?;
            match is_theirs {
                true => (visit.opportunity, share.opportunity) = (None, Some(lives)),
                false => visit.opportunity = Some(lives),
            }
        }
        Ok(share)
    }

    /// The opportunity that an opportunity lives on as, and whether it is that of another one who comes.
    async fn whose(&self, contact: RecordId, visit: &Visit, of: RecordId) -> Result<(RecordId, bool), StoreError> {
        let found = self.heir_of(Kind::Deal, of).await?;
        let owner = found.as_ref().and_then(|record| record.as_opportunity()?.contact);
        let is_theirs = owner.is_some_and(|owner| owner != contact && visit.contacts.contains(&owner));
        Ok((found.map_or(of, |record| record.id()), is_theirs))
    }

    fn tells_of_encounters(&self) -> bool {
        self.connection.connector.streams().iter().any(|stream| stream.name.ends_with(".encounters"))
    }

    /// The opportunity that a visit is of: the one that it names; else the open one; else the one that was closed last.
    fn meant_by<'a>(&self, visit: &Visit, bound_to: Option<RecordId>, here: &[&'a Opportunity]) -> Meant<'a> {
        if let Some(id) = bound_to {
            return here.iter().find(|deal| deal.id == id).map_or(Meant::None, |deal| Meant::One(deal));
        }
        let open: Vec<&&Opportunity> = here.iter().filter(|deal| deal.position.status == Status::Open).collect();
        match open.as_slice() {
            [one] => Meant::One(one),
            [] => {
                // A visit that was in time for one that is closed says nothing new of it, but may be said never to have been.
                let in_time = |deal: &&&Opportunity| {
                    let at = visit.created_at.or(visit.starts_at).unwrap_or(visit.seen_at);
                    deal.position.closed_at.is_none_or(|closed| at <= closed)
                };
                let last = here.iter().filter(in_time).max_by_key(|deal| (deal.position.closed_at, deal.id));
                last.map_or(Meant::None, |deal| Meant::One(deal))
            }
            _ => Meant::Several,
        }
    }

    /// A new opportunity, where the rules say that a visit opens one.
    async fn opened(
        &self,
        contact: RecordId,
        visit: &Visit,
        rules: &VisitRules,
        pipeline: &Pipeline,
        here: &[&Opportunity],
        now: DateTime<Utc>,
    ) -> Result<Option<Opportunity>, StoreError> {
        let says = rank(visit, true).is_some_and(|rank| rank > Rank::Lead);
        let is_over = !visit.is_open();
        if !rules.opens || !says || (is_over && !here.is_empty()) {
            return Ok(None);
        }
        let found = self.heir_of(Kind::Contact, contact).await?;
        let Some(LocalRecord::Contact(person)) = found.filter(|record| !record.is_deleted()) else { return Ok(None) };
        let mut deal = Opportunity::new(RecordId(self.ids.next(now)), now);
        deal.version = 0;
        let name = [person.first_name.as_deref(), person.last_name.as_deref()];
        let name = name.into_iter().flatten().collect::<Vec<_>>().join(" ");
        deal.name = if name.is_empty() { "Visit".into() } else { name };
        deal.contact = Some(person.id);
        deal.position.pipeline = Some(pipeline.id);
        deal.position.stage = pipeline.default_stage().map(|stage| stage.id);
        deal.created_by = Some(self.connection.name.to_string());
        Ok(Some(deal))
    }

    /// What stores where an opportunity goes.
    fn move_ops(
        &self,
        deal: Opportunity,
        pipeline: &Pipeline,
        rules: &VisitRules,
        to: Option<Move>,
        next: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Vec<Op> {
        let before = LocalRecord::Deal(deal.clone());
        let was = deal.position.clone();
        let mut deal = deal;
        let stamp = Stamp { at: now, by: self.connection.name.to_string() };
        match to {
            Some(Move::To(stage)) => {
                deal.position.stage = Some(stage);
                deal.position.settle(pipeline, false, now);
            }
            Some(Move::Won(at, worth)) => {
                deal.win(Some(pipeline), at, &self.connection.name);
                // The till is the authority for money received: it has none for this one, or it had won it.
                if let Some(worth) = worth {
                    (deal.value, deal.value_source) = (Some(worth), ValueSource::Manual);
                    deal.stamp(&field::VALUE, &stamp);
                }
            }
            None => {}
        }
        if deal.position != was {
            deal.stamp(&field::POSITION, &stamp);
        }
        if let Some(name) = &rules.next_visit {
            let value = next.map_or(Value::Null, Value::Time);
            if deal.custom.get(name).unwrap_or(&Value::Null) != &value {
                deal.custom.insert(name.clone(), value);
                deal.stamps.insert(format!("custom.{name}"), stamp);
            }
        }
        // All of the contact's visits were looked at for this.
        let (ops, _) = self.put_opportunity(&before, deal, "a visit", now);
        ops
    }

    /// Who comes, where they are known here; true if it is not clear of one.
    async fn visitors(&self, visitors: &[Visitor]) -> Result<(Vec<RecordId>, bool), StoreError> {
        let (mut contacts, mut several) = (Vec::new(), false);
        for visitor in visitors {
            match self.visitor(visitor).await? {
                Found::One(id) => contacts.push(id),
                Found::Nobody => {}
                Found::Several(_) => several = true,
            }
        }
        Ok((unique(contacts), several))
    }

    async fn visitor(&self, visitor: &Visitor) -> Result<Found, StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let ids: Vec<ExternalId> = visitor.id.iter().chain(&visitor.aliases).cloned().collect();
        let linked = self.store.pairs(account, name, Kind::Contact, By::External(&ids)).await?;
        let linked = linked.into_iter().map(|(local, _)| local);
        let marked = visitor.marker.as_deref().and_then(|marker| self.connection.of_marker(marker));
        let known = self.live_contacts(linked.chain(marked).collect()).await?;
        match known.as_slice() {
            [] => {}
            [one] => return Ok(Found::One(*one)),
            _ => return Ok(Found::Several(known)),
        }
        let mut alike: BTreeSet<RecordId> = BTreeSet::new();
        if let Some(email) = visitor.email.as_deref().map(|email| email.trim().to_lowercase()) {
            let found = self.store.contacts_by_email(account, &[email]).await?;
            alike.extend(found.into_iter().map(|(_, id)| id));
        }
        for tail in visitor.phones.iter().filter_map(|phone| phone_tail(phone)) {
            alike.extend(self.store.contacts_by_phone(account, &tail).await?);
        }
        let alike: Vec<RecordId> = alike.into_iter().collect();
        let records = self.store.records(account, Kind::Contact, &alike).await?;
        let contacts: Vec<Contact> = records
            .into_iter()
            .filter(|record| !record.is_deleted())
            .filter_map(|record| match record {
                LocalRecord::Contact(contact) => Some(contact),
                LocalRecord::Deal(_) => None,
            })
            .collect();
        Ok(find(visitor, &contacts))
    }
}

/// The opportunity that a visit is of.
enum Meant<'a> {
    One(&'a Opportunity),
    None,
    Several,
}

/// What was read, as it is kept.
fn take(visit: &mut Visit, read: &tandem_contract::Visit) {
    visit.seen = read.version.clone();
    visit.class = read.class;
    visit.service.clone_from(&read.service);
    visit.status = read.status;
    visit.appointment.clone_from(&read.appointment);
    visit.starts_at = read.starts_at.map(|at| at.trunc_subsecs(6));
    visit.ends_at = read.ends_at.map(|at| at.trunc_subsecs(6));
    visit.created_at = read.created_at.map(|at| at.trunc_subsecs(6));
    visit.site.clone_from(&read.site);
    let charged = read.charged.as_ref();
    visit.charged = charged.and_then(|(major, code)| Money::from_major(*major, Currency::new(code).ok()?).ok());
}
