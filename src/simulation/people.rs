//! People at work on both sides.

use std::{collections::BTreeSet, time::Duration};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tandem_contract::{Kind, Value};
use tandem_hubspot::sandbox::{Change, World};

use super::{
    ledger::{Ledger, Said, Whose},
    rig::Rig,
};
use crate::{
    edit::Fields,
    model::{LocalRecord, RecordId},
};

/// Contacts and deals that are there at the start.
pub fn furnish(rig: &Rig, rng: &mut StdRng) {
    let (contacts, deals) = (rng.random_range(1..5_u64), rng.random_range(1..6_u64));
    rig.sandbox.with(|world| {
        let mut people = Vec::new();
        for n in 0..contacts {
            let properties = [
                ("firstname", format!("First{n}")),
                ("lastname", format!("Last{n}")),
                ("email", format!("p{n}@example.com")),
            ];
            let properties = properties.map(|(name, value)| (name.to_owned(), value)).into();
            people.extend(world.create(Kind::Contact, &properties, Change::Person));
        }
        for n in 0..deals {
            let properties = [
                ("dealname", format!("deal {n}")),
                ("dealstage", "qualifiedtobuy".to_owned()),
                ("amount", format!("{}.50", n + 1)),
            ];
            let properties = properties.map(|(name, value)| (name.to_owned(), value)).into();
            let contact = people.get(usize::try_from(n).unwrap_or_default() % people.len().max(1));
            if let (Ok(deal), Some(contact)) = (world.create(Kind::Deal, &properties, Change::Person), contact) {
                world.associate(deal, *contact, Change::Person);
            }
        }
    });
}

/// One edit on one of the sides; `number` makes its text unlike any other.
pub async fn act(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, number: u64) {
    let text = text(rng, number);
    match rng.random_range(0..24) {
        0..=7 => edit_there(rig, rng, ledger, &text, false),
        8..=15 => edit_here(rig, rng, ledger, &text, false).await,
        16 | 17 => create_here(rig, rng, ledger, &text).await,
        18 | 19 => rig.sandbox.with(|world| create_there(world, ledger, &text)),
        20 => rig.sandbox.with(|world| archive(world, rng, ledger)),
        // It moves no time that a search could show: without its webhook only an audit finds it.
        21 if ledger.feeds_only => {}
        21 => rig.sandbox.with(|world| restore(world, rng, ledger)),
        22 => delete_here(rig, rng, ledger).await,
        _ => {
            let links = rig.store.all_links(&rig.account.name, &rig.name);
            let known: BTreeSet<u64> = links.iter().filter_map(|link| link.external.as_str().parse().ok()).collect();
            rig.sandbox.with(|world| merge(world, rng, ledger, &known));
        }
    }
}

/// Somebody types, looks at it, and types again: the same field of the same record, seconds apart.
pub async fn revise(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, number: u64) {
    let is_here = rng.random_bool(0.7);
    for turn in 0..rng.random_range(2..5) {
        let text = text(rng, 100_000 + 10 * number + turn);
        if is_here {
            edit_here(rig, rng, ledger, &text, turn > 0).await;
        } else {
            edit_there(rig, rng, ledger, &text, turn > 0);
        }
        let pause = *[20, 300, 1_500, 6_000, 25_000].choose(rng).unwrap_or(&300);
        rig.clock.sleep(Duration::from_millis(pause)).await;
    }
}

/// A text that nobody else types.
fn text(rng: &mut StdRng, number: u64) -> String {
    format!("t{number}{}", if rng.random_bool(0.2) { " " } else { "" })
}

fn create_there(world: &mut World, ledger: &mut Ledger, text: &str) {
    let properties =
        [("dealname", text), ("dealstage", "contractsent")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    if let Ok(id) = world.create(Kind::Deal, &properties, Change::Person) {
        ledger.story.push(format!("HubSpot: deal {id} is made with the name {text:?}"));
        ledger.there_ever.push(text.to_owned());
    }
}

fn archive(world: &mut World, rng: &mut StdRng, ledger: &mut Ledger) {
    let ids = world.ids(Kind::Deal);
    if let (Some(id), true) = (ids.choose(rng), ids.len() > 2) {
        forget(world, ledger, *id);
        ledger.story.push(format!("HubSpot: deal {id} is put into the bin"));
        let _ = world.archive(Kind::Deal, *id, Change::Person);
    }
}

fn restore(world: &mut World, rng: &mut StdRng, ledger: &mut Ledger) {
    if let Some(id) = world.binned(Kind::Deal).choose(rng) {
        ledger.touched.insert(*id);
        ledger.story.push(format!("HubSpot: deal {id} is taken out of the bin"));
        let _ = world.restore(Kind::Deal, *id);
    }
}

fn merge(world: &mut World, rng: &mut StdRng, ledger: &mut Ledger, known: &BTreeSet<u64>) {
    let ids = world.ids(Kind::Deal);
    let (a, b) = (ids.choose(rng).copied(), ids.choose(rng).copied());
    if let (Some(a), Some(b), true) = (a, b, ids.len() > 2) {
        forget(world, ledger, b);
        ledger.touched.insert(a);
        ledger.merged = true;
        // Made by us and merged away before we could learn of it: nothing at HubSpot tells that, and it is made again.
        let is_lost = |id: &&u64| world.value(Kind::Deal, **id, "tandem_id").is_some() && !known.contains(id);
        ledger.created += [a, b].iter().filter(is_lost).count() as u64;
        let made = world.merge(Kind::Deal, a, b, Change::Person).ok();
        ledger.touched.extend(made);
        ledger.story.push(format!("HubSpot: deal {b} is merged into {a}, which makes {made:?}"));
    }
}

async fn delete_here(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger) {
    let ids = live(rig, Kind::Deal);
    if let (Some(id), true) = (ids.choose(rng), ids.len() > 2)
        && rig.desk().delete(Kind::Deal, *id).await.is_ok()
    {
        ledger.story.push(format!("here: opportunity {id} is deleted"));
        ledger.deleted.insert(*id);
    }
}

fn live(rig: &Rig, kind: Kind) -> Vec<RecordId> {
    let all = rig.store.all(&rig.account.name, kind);
    all.iter().filter(|record| !record.is_deleted()).map(LocalRecord::id).collect()
}

/// What a person put into a record and then put into the bin, or merged away, before anyone could read it, is in
/// HubSpot's own history and not ours to keep.
fn forget(world: &World, ledger: &mut Ledger, deal: u64) {
    ledger.touched.insert(deal);
    for property in ["dealname", "description"] {
        let stated = world.stated(Kind::Deal, deal, property);
        ledger.there.retain(|(p, v)| !(p == property && stated.iter().any(|s| s.trim() == v.trim())));
    }
}

/// Our field for one of HubSpot's.
fn ours_of(property: &str) -> String {
    if property == "dealname" { "name" } else { property }.to_owned()
}

/// Owners: HubSpot's id, and the address we know them by.
const OWNERS: [(&str, &str); 3] =
    [("55012", "ana@clinic.example.com"), ("55013", "bo@clinic.example.com"), ("55014", "chidi@clinic.example.com")];

/// A person links a deal to another contact, or takes one off.
fn relink(world: &mut World, rng: &mut StdRng, ledger: &mut Ledger, deal: u64) {
    let (people, linked) = (world.ids(Kind::Contact), world.contacts_of(deal));
    match (people.choose(rng), linked.first()) {
        (_, Some(contact)) if rng.random_bool(0.4) => {
            ledger.unlinked += 1;
            ledger.story.push(format!("HubSpot: contact {contact} is taken off deal {deal}"));
            world.dissociate(deal, *contact, Change::Person);
        }
        (Some(contact), _) => {
            ledger.story.push(format!("HubSpot: contact {contact} is put onto deal {deal}"));
            world.associate(deal, *contact, Change::Person);
        }
        _ => {}
    }
}

/// `again`: what was edited last, if it is still there.
fn edit_there(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str, again: bool) {
    rig.sandbox.with(|world| {
        let last = ledger.focus_there.filter(|_| again).map(|(kind, _)| kind);
        let kind = last.unwrap_or(if rng.random_bool(0.8) { Kind::Deal } else { Kind::Contact });
        let focused = ledger.focus_there.filter(|(of, id)| *of == kind && world.is_live(kind, *id));
        let any = world.ids(kind).choose(rng).copied();
        let Some(id) = focused.map(|(_, id)| id).filter(|_| again || rng.random_bool(0.5)).or(any) else { return };
        ledger.focus_there = Some((kind, id));
        if kind == Kind::Deal && !again && !ledger.feeds_only && rng.random_bool(0.15) {
            return relink(world, rng, ledger, id);
        }
        let field = if again || rng.random_bool(0.5) { ledger.focus_field } else { rng.random_range(0..6) };
        ledger.focus_field = field;
        let (property, value) = match (kind, field) {
            (Kind::Contact, _) => ("phone", text.to_owned()),
            (_, 0) => ("dealname", text.to_owned()),
            (_, 1) => ("description", text.to_owned()),
            (_, 2) => ("amount", format!("{}.25", rng.random_range(1..999))),
            (_, 3) => ("hubspot_owner_id", OWNERS.choose(rng).unwrap_or(&("", "")).0.to_owned()),
            (_, 4) => {
                ("closedate", format!("2026-12-{:02}T{:02}:30:00Z", rng.random_range(1..29), rng.random_range(0..24)))
            }
            _ => (
                "dealstage",
                (*["contractsent", "closedwon", "closedlost", "appointmentscheduled"]
                    .choose(rng)
                    .unwrap_or(&"contractsent"))
                .to_owned(),
            ),
        };
        let properties = [(property.to_owned(), value.clone())].into();
        // An edit that a person overwrites in HubSpot before anyone could read it is not ours to keep.
        let previous = world.value(kind, id, property);
        ledger.story.push(format!("HubSpot: {kind} {id}: {property} is {value:?}"));
        if world.update(kind, id, &properties, Change::Person).is_ok()
            && ["dealname", "description", "phone"].contains(&property)
        {
            ledger.said.push(Said { kind, whose: Whose::Theirs(id), field: ours_of(property), text: value.clone() });
            if let Some(previous) = previous {
                ledger.there.retain(|(p, v)| !(p == property && v.trim() == previous.trim()));
                ledger.overwritten.insert(previous);
            }
            ledger.there_ever.push(value.clone());
            ledger.there.push((property.to_owned(), value));
        }
    });
}

/// `again`: what was edited last, if it is still there.
async fn edit_here(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str, again: bool) {
    let last = ledger.focus_here.filter(|_| again).map(|(kind, _)| kind);
    let kind = last.unwrap_or(if rng.random_bool(0.8) { Kind::Deal } else { Kind::Contact });
    let records = live(rig, kind);
    let focused = ledger.focus_here.map(|(_, id)| id).filter(|id| records.contains(id));
    let focused = focused.filter(|_| again || rng.random_bool(0.5));
    let Some(id) = focused.or_else(|| records.choose(rng).copied()) else { return };
    ledger.focus_here = Some((kind, id));
    let mut fields = Fields::new();
    let field = if again || rng.random_bool(0.5) { ledger.focus_field } else { rng.random_range(0..7) };
    ledger.focus_field = field;
    match (kind, field) {
        (Kind::Contact, _) => fields.insert("phone".into(), Value::text(text)),
        (_, 3) => fields.insert("owner".into(), Value::text(OWNERS.choose(rng).map_or("", |owner| owner.1))),
        (_, 4) => {
            let day = chrono::NaiveDate::from_ymd_opt(2026, 12, rng.random_range(1..29)).unwrap_or_default();
            fields.insert("expected_close_on".into(), Value::Date(day))
        }
        (_, 5) => {
            let people = live(rig, Kind::Contact);
            fields.insert("contact".into(), people.choose(rng).map_or(Value::Null, |id| Value::text(&id.to_string())))
        }
        (_, 0) => fields.insert("name".into(), Value::text(text)),
        (_, 1) => fields.insert("description".into(), Value::text(text)),
        (_, 2) => {
            fields.insert("currency".into(), Value::text("USD"));
            fields.insert("amount".into(), Value::Number(rust_decimal::Decimal::new(rng.random_range(100..99_900), 2)))
        }
        _ => fields.insert("status".into(), Value::text(["open", "won", "lost"].choose(rng).unwrap_or(&"open"))),
    };
    if rig.desk().update(kind, id, None, &fields, None).await.is_ok() {
        ledger.story.push(format!("here: {kind} {id}: {fields:?}"));
        let texts = fields.iter().filter(|(_, value)| value.as_text() == Some(text));
        let said = |(field, _): (&String, &Value)| Said {
            kind,
            whose: Whose::Ours(id),
            field: field.clone(),
            text: text.to_owned(),
        };
        ledger.here_ever.push(text.to_owned());
        ledger.said.extend(texts.map(said));
        ledger
            .here
            .extend(fields.iter().filter(|(_, v)| v.as_text() == Some(text)).map(|(f, v)| (f.clone(), v.to_string())));
    }
}

async fn create_here(rig: &Rig, rng: &mut StdRng, ledger: &mut Ledger, text: &str) {
    ledger.here_ever.push(text.to_owned());
    let mut fields = Fields::from([("name".to_owned(), Value::text(text))]);
    if rng.random_bool(0.5) {
        let person = Fields::from([
            ("first_name".to_owned(), Value::text(text)),
            ("email".to_owned(), Value::text(&format!("{}@example.com", text.trim()))),
        ]);
        if let Ok(contact) = rig.desk().create(Kind::Contact, &person, None).await {
            ledger.created += 1;
            fields.insert("contact".into(), Value::Text(contact.id().to_string()));
        }
    }
    if let Ok(deal) = rig.desk().create(Kind::Deal, &fields, None).await {
        ledger.story.push(format!("here: opportunity {} is made: {fields:?}", deal.id()));
        ledger.created += 1;
    }
}
