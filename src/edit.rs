//! Edits by people and programs on our side: one way in for the API, the command line and the simulation.
//!
//! An edit is stored with its history and marks the record dirty on every connection that is written to, in one transaction. The
//! account's policy on duplicates holds here as everywhere (AX-02, VX-20).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use tandem_contract::{ExternalId, Kind, Value};

use crate::{
    model::{
        Account, Conflict, ConflictState, Evidence, EvidenceState, Failure, HoldKind, Ids, IntentState, Invalid, Key,
        LocalRecord, Mark, Name, Opportunity, Pipeline, Position, Reason, RecordId, Stamp, Status, Uniqueness,
        ValueSource, Winner,
        ids::{PipelineId, RunId, StageId},
        link::{Ruling, Verdict},
        opportunity_type::called,
    },
    sales::{closing, matching::FoundBy},
    store::{By, Commit, Op, StoreError, SyncStore},
    sync::{
        change::{Change, Changed, FollowUp, slot},
        follow_up::follow_up,
        reconcile::QUARANTINE,
    },
};

/// Who edits, where, when.
pub struct Desk<'a> {
    /// Where everything is kept.
    pub store: &'a dyn SyncStore,
    /// New ids.
    pub ids: &'a Ids,
    /// The account.
    pub account: &'a Account,
    /// Its connections that are written to.
    pub connections: &'a [Name],
    /// Now.
    pub now: DateTime<Utc>,
    /// The run history entries name.
    pub run: RunId,
}

/// An edit was not made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// A value does not fit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such record.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The record changed since the version the edit was made on.
    #[error("the record changed meanwhile: read it again and repeat the edit")]
    Stale,
    /// The policy allows one only.
    #[error(
        "this contact already has an open opportunity in this pipeline, and the account allows only one (policy one_active_per_contact)"
    )]
    Second,
    /// A second is made on purpose only.
    #[error(
        "this contact already has an open opportunity in this pipeline: change that one, or say that a second is meant (`deliberate`; policy confirm_second)"
    )]
    Unconfirmed,
    /// The external reference is another record's.
    #[error("another opportunity of this account has the same external reference")]
    ReferenceTaken,
    /// The contact still has open opportunities.
    #[error("this contact has {0} open opportunities: close or move them first (policy on_contact_delete = restrict)")]
    HasOpportunities(usize),
    /// Our store.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for EditError {
    fn from(error: StoreError) -> Self {
        use crate::store::Taken;
        match error {
            StoreError::Stale { .. } | StoreError::Outdated(_) => Self::Stale,
            StoreError::Taken { what: Taken::ActivePlace } => Self::Second,
            StoreError::Taken { what: Taken::ExternalReference } => Self::ReferenceTaken,
            error => Self::Store(error),
        }
    }
}

/// Who made an edit of ours, in stamps and in the history.
const PERSON: &str = "person";

/// What a person states; fields not named stay.
pub type Fields = BTreeMap<String, Value>;

impl Desk<'_> {
    /// Makes a record.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn create(
        &self,
        kind: Kind,
        fields: &Fields,
        reference: Option<String>,
    ) -> Result<LocalRecord, EditError> {
        let id = RecordId(self.ids.next(self.now));
        let mut record = LocalRecord::new(kind, id, self.now).ok_or(EditError::NotFound("kind of record"))?;
        if let LocalRecord::Deal(deal) = &mut record {
            deal.position.pipeline = self.pipeline_of_type(fields).await?;
        }
        self.fill(&mut record, fields).await?;
        if let LocalRecord::Deal(deal) = &mut record {
            deal.created_by = Some(PERSON.into());
            deal.external_reference = reference;
            if deal.position.stage.is_none() {
                self.default_position(&mut deal.position).await?;
            }
            self.ask_about_a_second(deal).await?;
        }
        let changed = self.change(None, record);
        self.store_change(Vec::new(), changed).await
    }

    /// Where a second is made on purpose only, one that nobody says is meant is refused. One that is meant takes no place in the
    /// store, so whoever has an open one is looked for.
    async fn ask_about_a_second(&self, deal: &Opportunity) -> Result<(), EditError> {
        let asks = self.account.uniqueness() == Uniqueness::ConfirmSecond && !deal.deliberate;
        let (true, false, Some(contact)) = (asks, deal.position.status.is_closed(), deal.contact) else {
            return Ok(());
        };
        let theirs = self.store.opportunities_of(&self.account.name, &[contact]).await?;
        let theirs = self.store.records(&self.account.name, Kind::Deal, &theirs).await?;
        let is_open_here = |other: &Opportunity| {
            let is_open = other.id != deal.id && !other.position.status.is_closed();
            is_open && other.position.pipeline == deal.position.pipeline
        };
        match theirs.iter().filter_map(LocalRecord::as_opportunity).any(is_open_here) {
            true => Err(EditError::Unconfirmed),
            false => Ok(()),
        }
    }

    /// Changes a record that is at `version`, if a version is named.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn update(
        &self,
        kind: Kind,
        id: RecordId,
        version: Option<i64>,
        fields: &Fields,
        reference: Option<Option<String>>,
    ) -> Result<LocalRecord, EditError> {
        let before = self.load(kind, id).await?;
        if version.is_some_and(|version| version != before.version()) {
            return Err(EditError::Stale);
        }
        let mut record = before.clone();
        self.fill(&mut record, fields).await?;
        if let (LocalRecord::Deal(deal), Some(reference)) = (&mut record, reference) {
            deal.external_reference = reference;
        }
        if record == before {
            return Ok(before);
        }
        let takes = |record: &LocalRecord| slot(self.account.uniqueness(), record);
        // Moved, reopened or given to somebody else: what makes it a second one is asked about as a new one is.
        if let LocalRecord::Deal(deal) = &record
            && takes(&record) != takes(&before)
        {
            self.ask_about_a_second(deal).await?;
        }
        let changed = self.change(Some(&before), record);
        self.store_change(Vec::new(), changed).await
    }

    fn change(&self, before: Option<&LocalRecord>, after: LocalRecord) -> Changed {
        let change = Change {
            by: PERSON,
            now: self.now,
            run: self.run,
            uniqueness: self.account.uniqueness(),
            tell: self.connections,
            reason: Reason::LocalEdit,
            is_news: true,
        };
        change.of(before, after)
    }

    /// Stores a change together with these; answers the record as it is then.
    async fn store_change(&self, mut ops: Vec<Op>, changed: Changed) -> Result<LocalRecord, EditError> {
        ops.extend(changed.ops);
        ops.extend(self.follow_up(changed.follow_up).await?);
        self.commit(ops).await?;
        Ok(changed.record)
    }

    async fn follow_up(&self, changed: FollowUp) -> Result<Vec<Op>, EditError> {
        Ok(follow_up(self.store, self.account, changed, self.now).await?)
    }

    /// Deletes a record, and a contact's opportunities with it where the account's profile says so (VX-10). It is kept
    /// for a while, and what happens at the vendors is each connection's switch.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn delete(&self, kind: Kind, id: RecordId) -> Result<(), EditError> {
        let opportunities = match kind {
            Kind::Contact => self.store.opportunities_of(&self.account.name, &[id]).await?,
            _ => Vec::new(),
        };
        let cascades = self.account.profile.policy().cascade_contact_delete;
        let deals = self.store.records(&self.account.name, Kind::Deal, &opportunities).await?;
        let open =
            deals.iter().filter_map(LocalRecord::as_opportunity).filter(|deal| !deal.position.status.is_closed());
        let open = open.count();
        if open > 0 && !cascades {
            return Err(EditError::HasOpportunities(open));
        }
        let mut ops = Vec::new();
        let mut follow_up = FollowUp::default();
        let mut doomed: Vec<(Kind, RecordId)> =
            opportunities.iter().filter(|_| cascades).map(|id| (Kind::Deal, *id)).collect();
        doomed.push((kind, id));
        for (kind, id) in doomed {
            let mut record = self.load(kind, id).await?;
            if record.as_opportunity().is_some_and(|deal| deal.quarantined) {
                follow_up.released.insert(id);
            }
            let expected = record.version();
            record.set_deleted(Some(self.now));
            record.touch(self.now);
            ops.push(Op::PutRecord { record, expected, slot: None });
            ops.extend(self.marks(kind, id));
        }
        ops.extend(self.follow_up(follow_up).await?);
        self.commit(ops).await
    }

    /// Decides a conflict, or overturns a rule's decision: the side taken is what both say from now on.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn resolve(&self, mut conflict: Conflict, take: Winner) -> Result<Conflict, EditError> {
        // An open one on hold is carried out by the reconciler, which knows both sides as they are now.
        let links = self
            .store
            .links(&self.account.name, &conflict.connection, conflict.kind, By::Local(&[conflict.record]))
            .await?;
        let on_hold = links.iter().any(|link| link.holds.values().any(|hold| hold.conflict == Some(conflict.id)));
        let was_open = conflict.state == ConflictState::Open && on_hold;
        (conflict.state, conflict.winner) = (ConflictState::Resolved, take);
        let values = if take == Winner::Remote { conflict.remote.clone() } else { conflict.local.clone() };
        let mut ops = vec![Op::PutConflict(conflict.clone())];
        let before = match self.load(conflict.kind, conflict.record).await {
            Ok(before) => before,
            // Deleted since: the question is off the list, and nothing is written.
            Err(EditError::NotFound(_)) => {
                self.commit(ops).await?;
                return Ok(conflict);
            }
            Err(error) => return Err(error),
        };
        let mut record = before.clone();
        if !was_open {
            record.set(&conflict.fields, &values, &self.stamp())?;
            self.keep_or_revalue(&before, &mut record, take);
        }
        if !self.connections.contains(&conflict.connection) {
            ops.push(self.mark(&conflict.connection, conflict.kind, conflict.record));
        }
        if record == before {
            ops.extend(self.marks(conflict.kind, conflict.record));
            self.commit(ops).await?;
        } else {
            let changed = self.change(Some(&before), record);
            self.store_change(ops, changed).await?;
        }
        Ok(conflict)
    }

    /// Says which opportunity a sale is of. The till's engine reads the sale again and does the rest: what it is worth now, and
    /// whether it is still paid.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn link_sale(
        &self,
        connection: &Name,
        sale: &ExternalId,
        opportunity: RecordId,
    ) -> Result<Evidence, EditError> {
        let stored = self.store.evidence(&self.account.name, connection, std::slice::from_ref(sale)).await?;
        let mut evidence = stored.into_iter().next().ok_or(EditError::NotFound("sale"))?;
        if matches!(evidence.state, EvidenceState::Live | EvidenceState::Ended) {
            let why = "counts for an opportunity already, or did: give it back at the till first";
            return Err(Invalid::new("sale", why).into());
        }
        let record = self.load(Kind::Deal, opportunity).await?;
        closing::attach(&mut evidence, record.id(), FoundBy::Person.as_str());
        evidence.state = EvidenceState::Waiting;
        evidence.why = "linked by a person; the till is asked how it stands".into();
        evidence.version += 1;
        let key = Key::External(sale.clone());
        let mark = Mark::new(connection, Kind::Sale, key, self.now, Reason::Operator);
        self.commit(vec![Op::PutEvidence(evidence.clone()), Op::Mark(mark)]).await?;
        Ok(evidence)
    }

    /// Tries a record that failed again now: its rows on hold for a refused value come off it.
    ///
    /// # Errors
    /// [`EditError`]; nothing is stored then.
    pub async fn retry(&self, failure: &Failure) -> Result<(), EditError> {
        let key: Key = failure.key.parse().map_err(|_| EditError::NotFound("failure"))?;
        let connection = &failure.connection;
        let mut ops = Vec::new();
        // A quarantine ends when the place is free, not by trying.
        if failure.row != QUARANTINE {
            let (connection, key) = (connection.clone(), key.clone());
            ops.push(Op::DropFailures { connection, kind: failure.kind, key, row: None });
        }
        if let Key::Local(local) = key {
            let (connection, kind) = (connection.clone(), failure.kind);
            ops.push(Op::RuleOnLink { connection, kind, local, ruling: Ruling::TryAgain });
        }
        ops.push(Op::Mark(Mark::new(connection, failure.kind, key, self.now, Reason::Operator)));
        self.commit(ops).await
    }

    /// Decides about what the mass-change guard holds of a connection. Approved, it goes on; discarded, each side keeps
    /// what it says until it changes there or here. Answers how many records it was about.
    ///
    /// # Errors
    /// [`EditError`]; what was decided before the failure is stored.
    pub async fn decide_held(&self, connection: &Name, verdict: Verdict) -> Result<u64, EditError> {
        let account = &self.account.name;
        let mut ops = Vec::new();
        for mut event in self.store.guard_events(account, connection).await? {
            if event.state == "held" {
                event.state = if verdict == Verdict::Approve { "approved" } else { "discarded" }.into();
                event.at = self.now;
                ops.push(Op::PutGuard(event));
            }
        }
        let mut count = 0;
        let again = |kind, id| Op::Mark(Mark::new(connection, kind, Key::Local(id), self.now, Reason::Operator));
        for intent in self.store.open_intents(account, connection).await? {
            if intent.state == IntentState::Held {
                count += 1;
                ops.push(match verdict {
                    Verdict::Approve => again(intent.kind, intent.local),
                    Verdict::Discard => Op::DropIntent(intent.id),
                });
            }
        }
        let decided = !ops.is_empty();
        self.commit(ops).await?;
        for kind in [Kind::Contact, Kind::Deal] {
            let mut after = None;
            loop {
                let page = self.store.link_page(account, connection, kind, after, 1_000).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.local);
                let mut ops = Vec::new();
                for link in page.iter().filter(|link| link.holds.values().any(|h| h.kind == HoldKind::Guarded)) {
                    count += 1;
                    ops.push(again(kind, link.local));
                    let (connection, local, ruling) = (connection.clone(), link.local, Ruling::Guarded(verdict));
                    ops.push(Op::RuleOnLink { connection, kind, local, ruling });
                }
                // Few at a time: on PostgreSQL each holds its row until all of them are done, and engines write many at once.
                for some in ops.chunks(100) {
                    self.commit(some.to_vec()).await?;
                }
            }
        }
        // Also what an earlier decision did not get to.
        if decided || count > 0 { Ok(count) } else { Err(EditError::NotFound("held change")) }
    }

    async fn load(&self, kind: Kind, id: RecordId) -> Result<LocalRecord, EditError> {
        let word = if kind == Kind::Contact { "contact" } else { "opportunity" };
        let found = self.store.records(&self.account.name, kind, &[id]).await?.pop();
        found.filter(|record| !record.is_deleted()).ok_or(EditError::NotFound(word))
    }

    fn stamp(&self) -> Stamp {
        Stamp { at: self.now, by: PERSON.into() }
    }

    fn marks(&self, kind: Kind, id: RecordId) -> Vec<Op> {
        self.connections.iter().map(|connection| self.mark(connection, kind, id)).collect()
    }

    fn mark(&self, connection: &Name, kind: Kind, id: RecordId) -> Op {
        Op::Mark(Mark::new(connection, kind, Key::Local(id), self.now, Reason::LocalEdit))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), EditError> {
        let stored = self.store.commit(&Commit { account: self.account.name.clone(), fence: None, ops }).await;
        stored.map_err(|error| match EditError::from(error) {
            EditError::Second if self.account.uniqueness() == Uniqueness::ConfirmSecond => EditError::Unconfirmed,
            error => error,
        })
    }

    /// Sets the fields and makes stage and status agree.
    async fn fill(&self, record: &mut LocalRecord, fields: &Fields) -> Result<(), EditError> {
        if fields.get("deliberate") == Some(&Value::Flag(true))
            && self.account.uniqueness() == Uniqueness::OneActivePerContact
        {
            let why = "changes nothing here: the account allows one open opportunity (policy one_active_per_contact)";
            return Err(Invalid::new("deliberate", why).into());
        }
        let was = record.as_opportunity().map(|deal| deal.position.status);
        let (names, values): (Vec<String>, Vec<Value>) =
            fields.iter().map(|(name, value)| (name.clone(), value.clone())).unzip();
        let before = record.as_opportunity().map(|deal| (deal.value, deal.value_source));
        let was_of_type = record.as_opportunity().and_then(|deal| deal.opportunity_type.clone());
        record.set(&names, &values, &self.stamp())?;
        let after = record.as_opportunity().map(|deal| (deal.value, deal.value_source));
        if let Some((_, source)) = before.filter(|_| after != before) {
            self.may_change_value(source, fields)?;
        }
        if let (LocalRecord::Deal(deal), true) = (&mut *record, fields.contains_key("type")) {
            self.settle_type(deal)?;
            let is_another = deal.opportunity_type != was_of_type;
            // Whoever says what it is worth with it, or that it is worth nothing, is not told better.
            if is_another && !["amount", "value_source"].iter().any(|said| fields.contains_key(*said)) {
                deal.value_by_type(&self.account.types, self.account.currency);
            }
        }
        let positional = fields.keys().any(|name| crate::model::field::POSITION.contains(&name.as_str()));
        if let (LocalRecord::Deal(deal), true) = (&mut *record, positional) {
            let pipeline = self.pipeline_of(&deal.position, fields).await?;
            let now = self.now;
            let by_status = fields.contains_key("status") && !fields.contains_key("stage");
            deal.position.settle(&pipeline, by_status, now);
            if was.is_some_and(|was| was != deal.position.status) && !fields.contains_key("closed_at") {
                // Closed anew, in another way: the moment is this one.
                deal.position.closed_at = deal.position.status.is_closed().then_some(now);
            }
        }
        if let LocalRecord::Deal(deal) = record
            && let (true, Some(contact)) = (fields.contains_key("contact"), deal.contact)
        {
            self.load(Kind::Contact, contact)
                .await
                .map_err(|_| Invalid::new("contact", "is not a contact of this account"))?;
        }
        Ok(())
    }

    /// What a till took is changed at the till, and the price of a plan by saying that a plan is meant, or none any more.
    fn may_change_value(&self, source: ValueSource, fields: &Fields) -> Result<(), Invalid> {
        let why = match source {
            ValueSource::Checkout if self.account.profile.policy().value_source == ValueSource::Checkout => {
                "is what the till took, and in this account nobody else changes it (policy value_source = checkout): \
                 sell or give back at the till"
            }
            ValueSource::Plan if !fields.contains_key("value_source") => {
                "is the price of a plan: say `value_source` with it, plan for another price or manual for none"
            }
            _ => return Ok(()),
        };
        Err(Invalid::new("amount", why))
    }

    /// A type that was said by its label stands by its name.
    fn settle_type(&self, deal: &mut Opportunity) -> Result<(), Invalid> {
        let types = &self.account.types;
        let Some(said) = deal.opportunity_type.as_deref().filter(|_| !types.is_empty()) else { return Ok(()) };
        let Some((name, _)) = called(types, said) else {
            let names: Vec<&str> = types.keys().map(Name::as_str).collect();
            let why = format!("is not a type of this account: there is {}", names.join(", "));
            return Err(Invalid::new("type", why));
        };
        deal.opportunity_type = Some(name.to_string());
        Ok(())
    }

    /// A conflict was decided: the price of a plan that is confirmed stays one, and another type says what that is worth.
    fn keep_or_revalue(&self, before: &LocalRecord, record: &mut LocalRecord, take: Winner) {
        let (Some(was), LocalRecord::Deal(deal)) = (before.as_opportunity(), record) else { return };
        if take == Winner::Local && was.value_source.is_settled() {
            deal.value_source = was.value_source;
        }
        if deal.opportunity_type != was.opportunity_type {
            deal.value_by_type(&self.account.types, self.account.currency);
        }
    }

    /// Where a new one of the type that is said begins, unless a pipeline or a stage is said as well (CB-05).
    async fn pipeline_of_type(&self, fields: &Fields) -> Result<Option<PipelineId>, EditError> {
        let said = fields.get("type").and_then(Value::as_text);
        let said = said.filter(|_| !fields.contains_key("pipeline") && !fields.contains_key("stage"));
        let known = said.and_then(|text| called(&self.account.types, text));
        let Some((name, wanted)) = known.and_then(|(name, one)| Some((name, one.pipeline.as_deref()?))) else {
            return Ok(None);
        };
        let pipelines = self.store.pipelines(&self.account.name).await?;
        if pipelines.is_empty() {
            // Before any CRM was asked for its own.
            return Ok(None);
        }
        let found = pipelines.iter().find(|pipeline| pipeline.is_called(wanted)).map(|pipeline| pipeline.id);
        found.map(Some).ok_or_else(|| {
            let key = format!("accounts.{}.types.{name}.pipeline", self.account.name);
            Invalid::new("type", format!("begins in a pipeline that this account does not have: correct {key}")).into()
        })
    }

    /// The pipeline an edit means. One that is named alone takes the record to its default stage; a stage that is named
    /// alone takes it to the stage's pipeline.
    async fn pipeline_of(&self, position: &Position, named: &Fields) -> Result<Pipeline, EditError> {
        let pipelines = self.store.pipelines(&self.account.name).await?;
        let holds = |pipeline: &Pipeline, stage: StageId| pipeline.stage(stage).is_some();
        let found = match (position.stage, position.pipeline) {
            (Some(stage), Some(id)) if named.contains_key("stage") && named.contains_key("pipeline") => {
                let both = pipelines.iter().find(|p| p.id == id && holds(p, stage));
                return both
                    .cloned()
                    .ok_or_else(|| Invalid::new("stage", "is not a stage of the pipeline named").into());
            }
            (Some(stage), Some(id)) if named.contains_key("pipeline") => pipelines
                .iter()
                .find(|p| p.id == id && holds(p, stage))
                .or_else(|| pipelines.iter().find(|p| p.id == id)),
            (Some(stage), Some(_)) => pipelines.iter().find(|p| holds(p, stage)),
            (Some(stage), None) => pipelines.iter().find(|p| holds(p, stage)),
            (None, Some(id)) => pipelines.iter().find(|p| p.id == id),
            (None, None) => pipelines.first(),
        };
        found.cloned().ok_or_else(|| Invalid::new("stage", "is not a stage of this account").into())
    }

    /// The first pipeline, its default stage (CB-09), open (AX-14).
    async fn default_position(&self, position: &mut Position) -> Result<(), EditError> {
        let pipelines = self.store.pipelines(&self.account.name).await?;
        let pipeline = match position.pipeline {
            Some(id) => pipelines.iter().find(|pipeline| pipeline.id == id),
            None => pipelines.first(),
        };
        if let Some(pipeline) = pipeline {
            position.pipeline = Some(pipeline.id);
            position.stage = pipeline.default_stage().map(|stage| stage.id);
            position.status = Status::Open;
        }
        Ok(())
    }
}
