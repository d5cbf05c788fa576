//! What must be true when everything is quiet.

use std::collections::{BTreeMap, BTreeSet};

use tandem_contract::{Call, Fetched, Kind, Lane, Value};
use tandem_hubspot::sandbox::{InBetween, World};

use super::{
    ledger::{Ledger, Said, Whose},
    rig::Rig,
};
use crate::{
    model::{Link, LinkState, LocalRecord, RecordId},
    store::SyncStore,
    sync::{connection::Connection, lens::Context, plan::remote_values},
};

type Locals = BTreeMap<(Kind, RecordId), LocalRecord>;

/// What is not in step right now: differing, unlinked or not taken in.
pub async fn not_in_step(rig: &Rig) -> Vec<String> {
    let mut wrong = Vec::new();
    let (account, name) = (&rig.account.name, &rig.name);
    let links = rig.store.all_links(account, name);
    let locals = locals(rig);
    equal_on_both_sides(rig, &rig.connection, &links, &locals, &mut wrong).await;
    rig.sandbox.with(|world| everything_is_linked(world, &links, &locals, &mut wrong));
    wrong
}

fn locals(rig: &Rig) -> Locals {
    let all =
        |kind| rig.store.all(&rig.account.name, kind).into_iter().map(move |record| ((kind, record.id()), record));
    [Kind::Contact, Kind::Deal].into_iter().flat_map(all).collect()
}

/// I19: a record on a won stage is won, on a lost one lost or abandoned, on any other open.
async fn statuses_are_those_of_their_stages(rig: &Rig, locals: &Locals, wrong: &mut Vec<String>) {
    let pipelines = rig.store.pipelines(&rig.account.name).await.unwrap_or_default();
    for deal in locals.values().filter_map(LocalRecord::as_opportunity).filter(|deal| deal.deleted_at.is_none()) {
        let position = &deal.position;
        let stage = position.stage.and_then(|id| pipelines.iter().find_map(|pipeline| pipeline.stage(id)));
        if stage.is_some_and(|stage| stage.kind != position.status.stage_kind()) {
            wrong.push(format!("I19: {} is {} on the stage {:?}", deal.id, position.status, stage.map(|s| &s.label)));
        }
    }
}

/// I20: an edit that nobody contradicted, on either side, stands.
fn uncontradicted_edits_stand(
    ledger: &Ledger,
    between: &[InBetween],
    links: &[Link],
    locals: &Locals,
    wrong: &mut Vec<String>,
) {
    let mut sides: BTreeMap<(Kind, RecordId, &str), (BTreeSet<bool>, &str)> = BTreeMap::new();
    for said in &ledger.said {
        let is_ours = matches!(said.whose, Whose::Ours(_));
        let local = match said.whose {
            Whose::Ours(id) => Some(id),
            Whose::Theirs(id) => links
                .iter()
                .find(|link| link.kind == said.kind && link.external.as_str() == id.to_string())
                .map(|link| link.local),
        };
        let Some(local) = local else { continue };
        let (sides, last) = sides.entry((said.kind, local, &said.field)).or_default();
        sides.insert(is_ours);
        *last = &said.text;
    }
    for ((kind, id, field), (sides, last)) in sides {
        let Some(link) = links.iter().find(|link| link.kind == kind && link.local == id) else { continue };
        let theirs: u64 = link.external.as_str().parse().unwrap_or(0);
        let others = ledger.touched.contains(&theirs) || between.iter().any(|one| one.id == theirs);
        let left_alone = link.state == LinkState::Linked && link.holds.is_empty() && !others;
        let Some(local) = locals.get(&(kind, id)).filter(|local| left_alone && !local.is_deleted()) else { continue };
        let now = local.get(field);
        if sides.len() == 1 && now.as_text().unwrap_or_default().trim() != last.trim() {
            wrong.push(format!("I20: {kind} {id}: {field} is {now:?}, and the last that anyone said is {last:?}"));
        }
    }
}

/// I1b: our records say only what somebody typed, to the letter; what the vendor makes of our words does not come back.
fn nothing_is_invented(rig: &Rig, ledger: &Ledger, between: &[InBetween], locals: &Locals, wrong: &mut Vec<String>) {
    let trims = rig.sandbox.with(|world| world.settings.trim_text);
    let there = ledger.there_ever.iter().chain(between.iter().map(|one| &one.text));
    let there = there.map(|text| if trims { text.trim() } else { text });
    let typed: BTreeSet<&str> = ledger.here_ever.iter().map(String::as_str).chain(there).collect();
    for record in locals.values() {
        for field in ["name", "description", "phone"] {
            let value = record.get(field);
            let Some(text) = value.as_text().filter(|text| text.starts_with('t') || text.starts_with("between")) else {
                continue;
            };
            if !typed.contains(text) {
                wrong.push(format!("I1b: {} {}: nobody typed the {field} {text:?}", record.kind(), record.id()));
            }
        }
    }
}

/// Everything that is wrong, in sentences.
pub async fn violations(rig: &Rig, ledger: &Ledger) -> Vec<String> {
    let mut wrong = Vec::new();
    let (account, name) = (&rig.account.name, &rig.name);
    let links = rig.store.all_links(account, name);
    let conflicts = rig.store.conflicts(account, false, usize::MAX).await.unwrap_or_default();
    let locals = locals(rig);
    equal_on_both_sides(rig, &rig.connection, &links, &locals, &mut wrong).await;
    rig.sandbox.with(|world| {
        no_twins(world, &mut wrong);
        if world.stats.created > ledger.created {
            let marked = world.marked().join(", ");
            let (made, ours) = (world.stats.created, ledger.created);
            wrong.push(format!("I3: {made} records were made for {ours} of ours; there are {marked}"));
        }
        everything_is_linked(world, &links, &locals, &mut wrong);
        if world.stats.too_many > 0 {
            wrong.push(format!("I11: {} calls were refused because we were too fast", world.stats.too_many));
        }
    });
    let in_between = rig.sandbox.with(|world| world.stats.in_between.clone());
    uncontradicted_edits_stand(ledger, &in_between, &links, &locals, &mut wrong);
    if !ledger.merged {
        nothing_is_invented(rig, ledger, &in_between, &locals, &mut wrong);
    }
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut keep = |value: &Value| {
        kept.insert(value.to_string().trim().to_owned());
    };
    for conflict in &conflicts {
        conflict.local.iter().chain(&conflict.remote).chain(&conflict.base).for_each(&mut keep);
    }
    for record in locals.values() {
        for field in crate::model::field::OPPORTUNITY.iter().chain(&crate::model::field::CONTACT) {
            keep(&record.get(field));
        }
        for entry in rig.store.history(account, record.kind(), record.id()).await.unwrap_or_default() {
            if entry.field == "contact"
                && entry.new.is_blank()
                && !["person", "merge"].contains(&entry.by.as_str())
                && ledger.unlinked == 0
            {
                wrong.push(format!("I21: {} lost its contact, and nobody took it off", record.id()));
            }
            keep(&entry.old);
            keep(&entry.new);
        }
    }
    statuses_are_those_of_their_stages(rig, &locals, &mut wrong).await;
    for failure in rig.store.failures(account, usize::MAX).await.unwrap_or_default() {
        if failure.code == "stored_otherwise" {
            wrong.push(format!(
                "I22: {} {} is set aside for a normalisation that is declared",
                failure.key, failure.row
            ));
        }
    }
    // A record of ours that somebody deleted lets go of its other half: what is said there from then on is not ours.
    let let_go: BTreeSet<u64> = links
        .iter()
        .filter(|link| ledger.deleted.contains(&link.local) && link.state != LinkState::Linked)
        .filter_map(|link| link.external.as_str().parse().ok())
        .collect();
    let not_ours = |text: &str| {
        let survivor = |said: &Said, id| rig.sandbox.with(|world| world.resolve(said.kind, id));
        let of = |said: &Said| matches!(said.whose, Whose::Theirs(id) if let_go.contains(&survivor(said, id)));
        ledger.said.iter().any(|said| said.text == text && of(said))
    };
    // What is in the bin, or was merged away, has a history at HubSpot that nobody may read.
    let readable = |one: &&InBetween| {
        let is_live = |kind| rig.sandbox.with(|world| world.is_live(kind, one.id));
        let is_touched = ledger.touched.contains(&one.id) || ledger.overwritten.contains(&one.text);
        // A workflow answers our write: by then the record may be let go.
        let is_late = let_go.contains(&one.id) && one.text.starts_with("seen by the workflow");
        !is_touched && !is_late && (is_live(Kind::Deal) || is_live(Kind::Contact))
    };
    let between = in_between.iter().filter(readable);
    let between: Vec<(String, String)> = between.map(|one| (one.property.clone(), one.text.clone())).collect();
    for (field, text) in ledger.here.iter().chain(&ledger.there).chain(&between) {
        // Who wrote in between had seen what was there.
        if in_between.iter().any(|one| one.property == *field && one.before.trim() == text.trim()) {
            continue;
        }
        if !kept.contains(text.trim()) && !not_ours(text) {
            wrong.push(format!(
                "I2: the edit of {field} to {text:?} is nowhere: not in a record, a conflict or the history{}",
                in_between
                    .iter()
                    .find(|one| one.text == *text)
                    .map_or(String::new(), |one| format!(" (HubSpot's {})", one.id))
            ));
        }
    }
    if !wrong.is_empty() {
        for failure in rig.store.failures(account, 20).await.unwrap_or_default() {
            wrong.push(format!(
                "(failure of {} {} {}: {} {})",
                failure.kind, failure.key, failure.row, failure.code, failure.message
            ));
        }
        for dirty in rig.store.all_dirty(account, name) {
            wrong.push(format!(
                "({} {} is still marked: due {}, tried {} times)",
                dirty.kind, dirty.key, dirty.due_at, dirty.attempts
            ));
        }
        for intent in rig.store.open_intents(account, name).await.unwrap_or_default() {
            wrong.push(format!(
                "(open intent of {} {}: {:?}, closes {:?})",
                intent.kind, intent.local, intent.state, intent.closes_at
            ));
        }
    }
    wrong
}

/// I1: what both sides say agrees, row by row of the mapping, as the connector reads it.
pub(super) async fn equal_on_both_sides(
    rig: &Rig,
    connection: &Connection,
    links: &[Link],
    locals: &Locals,
    wrong: &mut Vec<String>,
) {
    let directory = rig.directory(connection).await;
    let people = rig.people(links);
    let context = Context { directory: &directory, people: &people };
    for (kind, lens) in &connection.lenses {
        if !connection.connector.kinds().contains(kind) {
            continue;
        }
        let linked: Vec<&Link> =
            links.iter().filter(|link| link.kind == *kind && link.state == LinkState::Linked).collect();
        let ids: Vec<_> = linked.iter().map(|link| link.external.clone()).collect();
        let call = Call::on(Lane::Interactive);
        let fetched = connection.connector.fetch(call, *kind, &ids).await.unwrap_or_default();
        for (link, fetched) in linked.into_iter().zip(fetched) {
            let Some(local) = locals.get(&(link.kind, link.local)).filter(|local| !local.is_deleted()) else {
                wrong.push(format!("I1: {kind} {} is linked to nothing here", link.external));
                continue;
            };
            let Fetched::Found(remote) = fetched else {
                wrong.push(format!("I1: {kind} {} is linked and not there", link.external));
                continue;
            };
            for row in lens.rows.iter().filter(|row| !link.holds.contains_key(&row.name)) {
                let (ours, theirs) = (local.values(&row.fields), remote_values(row, &remote));
                if !theirs.as_ref().is_some_and(|theirs| row.same(&ours, theirs, context)) {
                    let row = &row.name;
                    wrong.push(format!("I1: {kind} {}: {row} is {ours:?} here and {theirs:?} there", link.external));
                }
            }
        }
    }
}

/// I3: no two records at the vendor carry one marker, and none of ours was made twice.
fn no_twins(world: &World, wrong: &mut Vec<String>) {
    for kind in [Kind::Deal, Kind::Contact] {
        let mut seen: BTreeMap<String, u64> = BTreeMap::new();
        for id in world.ids(kind) {
            if let Some(marker) = world.value(kind, id, "tandem_id")
                && let Some(other) = seen.insert(marker.clone(), id)
            {
                wrong.push(format!("I3: {kind} {other} and {id} carry one marker"));
            }
        }
    }
}

/// I7: every record of either side has its other half.
fn everything_is_linked(world: &World, links: &[Link], locals: &Locals, wrong: &mut Vec<String>) {
    let there: BTreeSet<(Kind, String)> = links.iter().map(|link| (link.kind, link.external.to_string())).collect();
    let here: BTreeSet<_> = links.iter().map(|link| (link.kind, link.local)).collect();
    for kind in [Kind::Deal, Kind::Contact] {
        for id in world.ids(kind) {
            if !there.contains(&(kind, id.to_string())) {
                wrong.push(format!("I7: {kind} {id} of HubSpot was never taken in"));
            }
        }
    }
    for ((kind, id), record) in locals {
        if !record.is_deleted() && !here.contains(&(*kind, *id)) {
            wrong.push(format!("I7: our {kind} {id} was never sent"));
        }
    }
}
