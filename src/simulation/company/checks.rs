//! What must hold in a company when everything is quiet.

use std::collections::{BTreeMap, BTreeSet};

use tandem_contract::{Call, ExternalId, Fetched, Kind, Lane, Value, VisitRead, VisitStatus};

use super::{
    super::checks::equal_on_both_sides,
    people::Diary,
    systems::{Company, rules},
};
use crate::{
    model::{EvidenceState, Link, LinkState, LocalRecord, Name, RecordId, Status, Visit},
    store::SyncStore,
    sync::{connection::Connection, merges::heir_of, plan::remote_values},
    visits::{
        ladder::is_about,
        stage::{Situation, decide},
    },
};

const CALL: Call = Call::on(Lane::Interactive);

impl Company {
    /// Half of what the write bound says: how many records of a spoke hold an edit that was not read yet.
    pub(super) async fn unread(&self) -> u64 {
        let mut bound = 0;
        let crms = self.crms();
        let mut by_record: BTreeMap<(Kind, RecordId), u64> = BTreeMap::new();
        for connection in &crms {
            for (link, fetched) in self.pairs(connection).await {
                let count = by_record.entry((link.kind, link.local)).or_default();
                let Fetched::Found(remote) = fetched else { continue };
                let lens = connection.lenses.get(&link.kind);
                let differs = |row: &crate::sync::lens::Row| {
                    let now = remote_values(row, &remote);
                    link.base.get(&row.name).zip(now).is_none_or(|(base, now)| base.1 != now)
                };
                *count += u64::from(lens.is_some_and(|lens| lens.rows.iter().any(differs)));
            }
        }
        for (kind, _) in self
            .rig
            .store
            .all(&self.rig.account.name, Kind::Deal)
            .iter()
            .map(|one| (Kind::Deal, one.id()))
            .chain(
                self.rig.store.all(&self.rig.account.name, Kind::Contact).iter().map(|one| (Kind::Contact, one.id())),
            )
            .filter(|key| !by_record.contains_key(key))
            .collect::<Vec<_>>()
        {
            bound += 2 * crms.iter().filter(|one| one.connector.kinds().contains(&kind)).count() as u64;
        }
        for ((kind, _), unread) in by_record {
            let spokes = crms.iter().filter(|one| one.connector.kinds().contains(&kind)).count() as u64;
            bound += (unread + 1) * spokes;
        }
        bound
    }

    /// Linked records of a connection, with what is there now.
    async fn pairs(&self, connection: &Connection) -> Vec<(Link, Fetched)> {
        let links = self.rig.store.all_links(&self.rig.account.name, &connection.name);
        let mut all = Vec::new();
        for kind in connection.connector.kinds() {
            let linked: Vec<Link> =
                links.iter().filter(|link| link.kind == kind && link.state == LinkState::Linked).cloned().collect();
            let ids: Vec<ExternalId> = linked.iter().map(|link| link.external.clone()).collect();
            let fetched = connection.connector.fetch(CALL, kind, &ids).await.unwrap_or_default();
            all.extend(linked.into_iter().zip(fetched));
        }
        all
    }

    /// What is not in step: K1.
    pub(super) async fn not_in_step(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let all = [Kind::Contact, Kind::Deal].into_iter().flat_map(|kind| {
            self.rig
                .store
                .all(&self.rig.account.name, kind)
                .into_iter()
                .map(move |record| ((kind, record.id()), record))
        });
        let locals: BTreeMap<(Kind, RecordId), LocalRecord> = all.collect();
        for connection in self.crms() {
            let links = self.rig.store.all_links(&self.rig.account.name, &connection.name);
            let mut found = Vec::new();
            equal_on_both_sides(&self.rig, &connection, &links, &locals, &mut found).await;
            wrong.extend(found.into_iter().map(|one| format!("K1: {}: {one}", connection.name)));
            for (key, record) in &locals {
                let quarantined = record.as_opportunity().is_some_and(|deal| deal.quarantined);
                // A clinic's patients are linked, and none is made of a contact.
                let is_introduced =
                    connection.connector.kinds().contains(&key.0) && connection.connector.introduces(key.0);
                let is_carried = is_introduced && !record.is_deleted() && !quarantined;
                if is_carried && !links.iter().any(|link| (link.kind, link.local) == *key) {
                    wrong.push(format!("K1: {}: our {} {} was never made there", connection.name, key.0, key.1));
                }
            }
        }
        wrong
    }

    /// K3: no two records of a vendor carry one marker.
    pub(super) async fn twins(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for connection in self.crms() {
            for kind in connection.connector.kinds() {
                let ids: Vec<String> = match connection.name.as_str() {
                    "hubspot" => {
                        self.rig.sandbox.with(|world| world.ids(kind)).iter().map(ToString::to_string).collect()
                    }
                    "pipedrive" => self
                        .pipedrive
                        .iter()
                        .flat_map(|one| one.sandbox.with(|world| world.ids(kind)))
                        .map(|id| id.to_string())
                        .collect(),
                    "square" => {
                        self.square.iter().flat_map(|one| one.sandbox.with(|world| world.customer_ids())).collect()
                    }
                    _ => self.fhir.iter().flat_map(|one| one.sandbox.with(|world| world.ids("Patient"))).collect(),
                };
                let ids: Vec<ExternalId> = ids.into_iter().filter_map(|id| ExternalId::new(id).ok()).collect();
                let mut seen: BTreeMap<String, ExternalId> = BTreeMap::new();
                let Ok(all) = connection.connector.fetch(CALL, kind, &ids).await else {
                    wrong.push(format!("K3: {}: {kind}s cannot be read", connection.name));
                    continue;
                };
                for fetched in all {
                    if let Fetched::Found(record) = fetched
                        && let Some(marker) = record.marker
                        && let Some(first) = seen.insert(marker.clone(), record.id.clone())
                    {
                        let (name, second) = (&connection.name, record.id);
                        wrong.push(format!("K3: {name}: {kind}s {first} and {second} were made for {marker}"));
                    }
                }
            }
        }
        wrong
    }

    /// K5: what is paid wins, for what is left of it; K6: every visit is known as it is, and did what it does.
    pub(super) async fn evidence_and_visits(&self, diary: &Diary) -> Vec<String> {
        let mut wrong = Vec::new();
        let (store, account) = (&self.rig.store, &self.rig.account);
        if let Some(spoke) = &self.square {
            let conflicts = store.conflicts(&account.name, false, usize::MAX).await.unwrap_or_default();
            let deals = self.deals();
            for (order, (price, back)) in &diary.sales {
                let Ok(id) = ExternalId::new(order.as_str()) else { continue };
                let known =
                    store.evidence(&account.name, &spoke.connection.name, &[id]).await.unwrap_or_default().pop();
                let Some(known) = known else {
                    wrong.push(format!("K5: nobody heard of the sale {order}"));
                    continue;
                };
                let left = price - back;
                let is_counted = known.state == EvidenceState::Live;
                if is_counted && known.amount.map(|amount| amount.minor) != Some(left) {
                    wrong.push(format!("K5: {order} counts for {:?}, and {left} is left of it", known.amount));
                }
                if known.state == EvidenceState::Waiting || (known.state == EvidenceState::Ended && left > 0) {
                    wrong.push(format!("K5: {order} is {:?}: {}", known.state, known.why));
                }
                let deal = deals.iter().find(|deal| Some(deal.id) == known.opportunity);
                // People who merge two of them may choose the one that is open: then a rule decides, and it is shown.
                let is_disputed =
                    conflicts.iter().any(|one| Some(one.record) == known.opportunity && one.row == "position");
                if is_counted && !is_disputed && deal.as_ref().is_none_or(|deal| deal.position.status != Status::Won) {
                    wrong.push(format!(
                        "K5: {order} is paid, and its opportunity is {:?}",
                        deal.map(|deal| deal.position.status)
                    ));
                }
            }
        }
        if let Some(spoke) = &self.fhir {
            let (emr, connector) = (&spoke.connection.name, &spoke.connection.connector);
            let all: Vec<ExternalId> = spoke.sandbox.with(|world| {
                let of = |kind: &str| world.ids(kind).into_iter().map(|id| format!("{kind}/{id}")).collect::<Vec<_>>();
                of("Appointment").into_iter().chain(of("Encounter")).filter_map(|id| ExternalId::new(id).ok()).collect()
            });
            let now: Vec<VisitRead> = connector.visits(CALL, &all).await.unwrap_or_default();
            let mut mentioned: BTreeSet<String> = BTreeSet::new();
            for (id, read) in all.iter().zip(now) {
                let VisitRead::Found(read) = read else { continue };
                if let Some(mention) = read.mention.filter(|_| id.as_str().starts_with("Appointment/"))
                    && !mentioned.insert(mention.clone())
                {
                    wrong.push(format!("K7: two appointments were made for {mention}"));
                }
                let known = store.visits(&account.name, emr, std::slice::from_ref(id)).await.unwrap_or_default().pop();
                let is_known = known
                    .as_ref()
                    .is_some_and(|known| known.status == read.status && known.starts_at == read.starts_at);
                if !is_known {
                    let status: Option<VisitStatus> = known.map(|known| known.status);
                    wrong.push(format!("K6: {id} is {:?} there, and {status:?} here", read.status));
                }
            }
            wrong.extend(self.visits_did_what_they_do().await);
        }
        wrong
    }

    /// Visits of an opportunity that was merged away are those of the one that lives on.
    async fn follow_merges(&self, visit: &mut Visit) {
        let Some(of) = visit.bound_to() else { return };
        let found = heir_of(&*self.rig.store, &self.rig.account.name, Kind::Deal, of).await.ok().flatten();
        let lives = found.map_or(of, |record| record.id());
        visit.opportunity = visit.opportunity.map(|_| lives);
        for raised in &mut visit.raised {
            raised.opportunity = lives;
        }
    }

    async fn visits_did_what_they_do(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let (store, account) = (&self.rig.store, &self.rig.account);
        let pipelines = store.pipelines(&account.name).await.unwrap_or_default();
        let rules = rules();
        let Some(pipeline) = pipelines.iter().find(|pipeline| is_about(&rules, pipeline)) else { return wrong };
        for deal in self.deals() {
            let (Some(contact), true, None) =
                (deal.contact, deal.position.pipeline == Some(pipeline.id), deal.deleted_at)
            else {
                continue;
            };
            let mut visits = store.visits_of(&account.name, contact).await.unwrap_or_default();
            for visit in &mut visits {
                self.follow_merges(visit).await;
            }
            let verdict = decide(&Situation {
                visits: &visits,
                deal: &deal,
                pipeline,
                rules: &rules,
                kept_means_done: false,
                closed_before: None,
                zone: account.timezone,
                now: self.rig.clock.now(),
            });
            if verdict.to.is_some() && !deal.quarantined {
                wrong.push(format!("K6: {} should have gone on: {:?}", deal.id, verdict.to));
            }
        }
        wrong
    }

    /// K2: what the clinic's desk wrote right before a write of ours came is still there.
    pub(super) fn taken_from_the_desk(&self) -> Vec<String> {
        let Some(spoke) = &self.fhir else { return Vec::new() };
        spoke.sandbox.with(|world| {
            let last: BTreeMap<String, String> = world.stats.in_between.iter().cloned().collect();
            let says = |record: &str, text: &str| {
                let (kind, id) = record.split_once('/').unwrap_or_default();
                let body = world.resource(kind, id);
                body.is_some_and(|body| body["address"][0]["text"] == text || body["comment"] == text)
            };
            let taken = last.iter().filter(|(record, text)| !says(record, text));
            taken.map(|(record, text)| format!("K2: clinic: {record} said {text:?}, which we took away")).collect()
        })
    }

    /// K2: whatever anybody typed last in a system is in a record, a conflict or the history.
    pub(super) async fn lost_words(&self, diary: &Diary) -> Vec<String> {
        let (store, account) = (&self.rig.store, &self.rig.account.name);
        let mut kept: BTreeSet<String> = BTreeSet::new();
        let mut keep = |value: &Value| {
            kept.insert(value.to_string().trim().to_owned());
        };
        for conflict in store.conflicts(account, false, usize::MAX).await.unwrap_or_default() {
            conflict.local.iter().chain(&conflict.remote).chain(&conflict.base).for_each(&mut keep);
        }
        for kind in [Kind::Contact, Kind::Deal] {
            for record in store.all(account, kind) {
                ["name", "description", "last_name"].iter().for_each(|field| keep(&record.get(field)));
                for entry in store.history(account, kind, record.id()).await.unwrap_or_default() {
                    keep(&entry.old);
                    keep(&entry.new);
                }
            }
        }
        let system = |connection: &Name| match connection.as_str() {
            "pipedrive" => "Pipedrive",
            "square" => "Square",
            "emr" => "clinic",
            _ => "HubSpot",
        };
        // Whose opportunity was deleted here, or merged in another system, is left alone where it is: it is not ours any more.
        let mut left: BTreeSet<(&str, String)> = BTreeSet::new();
        for connection in self.crms() {
            let links = store.all_links(account, &connection.name);
            let ended = links.into_iter().filter(|link| link.state != LinkState::Linked);
            left.extend(ended.map(|link| (system(&connection.name), link.external.to_string())));
        }
        // So is a second record that somebody changed: it is shown, and what it says stays there.
        for failure in store.failures(account, usize::MAX).await.unwrap_or_default() {
            let external = failure.key.strip_prefix("x:").filter(|_| failure.code == "twin");
            left.extend(external.map(|external| (system(&failure.connection), external.to_owned())));
        }
        let lost = diary.said.iter().filter(|((system, record, _), text)| {
            !kept.contains(text.as_str()) && !left.contains(&(*system, record.clone()))
        });
        lost.map(|((system, record, field), text)| {
            format!("K2: {system}: {field} of {record} was {text:?}, which is nowhere")
        })
        .collect()
    }
}
