//! What people do in the systems of a company, and the diary of it.

use std::collections::BTreeMap;

use chrono::{SubsecRound, TimeDelta};
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use serde_json::json;
use tandem_contract::{Kind, Value, VisitChange};
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox as pipedrive;
use tandem_square::sandbox as square;

use super::systems::{Company, TYPES};
use crate::{
    booking::{BookingError, Wish, book, change},
    edit::{Desk, Fields},
    model::{Name, RecordId, ids::RunId},
    store::SyncStore,
};

/// What people did.
#[derive(Default)]
pub(super) struct Diary {
    pub(super) story: Vec<String>,
    /// The last text that somebody typed, by system, record and field.
    pub(super) said: BTreeMap<(&'static str, String, &'static str), String>,
    /// Orders: what was sold for how much, and what was given back of it.
    pub(super) sales: BTreeMap<String, (i64, i64)>,
    pub(super) kills: u64,
}

impl Diary {
    pub(super) fn say(&mut self, system: &'static str, record: impl ToString, field: &'static str, text: &str) {
        self.story.push(format!("{system}: {} {field} is {text:?}", record.to_string()));
        self.said.insert((system, record.to_string(), field), text.to_owned());
    }

    /// What was typed into a record that went away is the vendor's to keep.
    fn is_gone(&mut self, system: &'static str, record: u64, how: &str) {
        self.story.push(format!("gone: {system}: {record} {how}"));
        let record = record.to_string();
        self.said.retain(|(of, id, _), _| (*of, id) != (system, &record));
    }
}

impl Company {
    /// People whom every system knows, each with a deal in HubSpot, or in Pipedrive where there is no HubSpot.
    pub(super) fn furnish(&self, rng: &mut StdRng) {
        for n in 0..rng.random_range(1..5_u32) {
            let (first, last) = (format!("First{n}"), format!("Last{n}"));
            let (email, phone) = (format!("p{n}@example.com"), format!("+1602555{:04}", 100 + n));
            let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            let person: BTreeMap<String, String> =
                text(&[("firstname", &first), ("lastname", &last), ("email", &email), ("phone", &phone)]);
            let deal: BTreeMap<String, String> =
                text(&[("dealname", &format!("deal {n}")), ("dealstage", "appointmentscheduled"), ("amount", "100")]);
            if self.has_hubspot {
                self.rig.sandbox.with(|world| {
                    let person = world.create(Kind::Contact, &person, hubspot::Change::Person);
                    let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person);
                    if let (Ok(person), Ok(deal)) = (person, deal) {
                        world.associate(deal, person, hubspot::Change::Person);
                    }
                });
            } else {
                self.make_in_pipedrive([&first, &last, &email, &phone], &format!("deal {n}"));
            }
            if let Some(spoke) = &self.square {
                let body =
                    json!({ "given_name": first, "family_name": last, "email_address": email, "phone_number": phone });
                let _ = spoke.sandbox.with(|world| world.create_customer(&body, square::Change::Person));
            }
            if let Some(spoke) = &self.fhir {
                spoke.sandbox.with(|world| world.register(&first, &last, &email, &phone));
            }
        }
    }

    fn names(&self) -> Vec<Name> {
        self.connections().iter().map(|connection| connection.name.clone()).collect()
    }

    fn live_deals(&self) -> Vec<RecordId> {
        self.deals().iter().filter(|deal| deal.deleted_at.is_none()).map(|deal| deal.id).collect()
    }

    fn desk<'a>(&'a self, connections: &'a [Name]) -> Desk<'a> {
        Desk {
            store: &*self.rig.store,
            ids: self.rig.ids(),
            account: &self.rig.account,
            connections,
            now: self.rig.clock.now(),
            run: RunId(uuid::Uuid::nil()),
        }
    }

    /// One thing that somebody does somewhere.
    pub(super) async fn act(&self, rng: &mut StdRng, diary: &mut Diary, number: u64) {
        let text = format!("t{number}");
        self.note_between(diary);
        if self.has_types && rng.random_bool(0.3) {
            self.say_type(rng, diary).await;
        }
        match rng.random_range(0..20) {
            14 => self.throw_away_in_hubspot(rng, diary),
            15 => self.throw_away_in_pipedrive(rng, diary),
            16 => self.throw_away_here(rng, diary).await,
            17 => self.merge_in_hubspot(rng, diary),
            18 => self.merge_in_pipedrive(rng, diary),
            19 => self.book(rng, diary).await,
            12 if self.has_hubspot => self.meet_in_hubspot(diary, &text),
            12 => self.meet_in_pipedrive(diary, &text),
            13 => self.meet_here(diary, &text).await,
            0..=2 => self.edit_in_hubspot(rng, diary, &text),
            3 | 4 => self.edit_in_pipedrive(rng, diary, &text),
            5 | 6 => self.edit_here(rng, diary, &text).await,
            7 => self.edit_customer(rng, diary, &text),
            8 | 9 => self.sell(rng, diary),
            _ => self.visit(rng, diary),
        }
    }

    /// What somebody at the till typed in between replaced what was there, as a person's word does.
    pub(super) fn note_between(&self, diary: &mut Diary) {
        let Some(spoke) = &self.square else { return };
        for (id, text) in spoke.sandbox.with(|world| std::mem::take(&mut world.stats.in_between)) {
            diary.say("Square", id, "last_name", &text);
        }
    }

    /// Somebody new, with a deal.
    fn meet_in_hubspot(&self, diary: &mut Diary, text: &str) {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let person = pairs(&[("firstname", "New"), ("lastname", text), ("email", &format!("{text}@example.com"))]);
        let deal = pairs(&[("dealname", text), ("dealstage", "appointmentscheduled")]);
        self.rig.sandbox.with(|world| {
            let person = world.create(Kind::Contact, &person, hubspot::Change::Person);
            let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person);
            if let (Ok(person), Ok(deal)) = (person, deal) {
                world.associate(deal, person, hubspot::Change::Person);
                diary.say("HubSpot", deal, "name", text);
            }
        });
    }

    /// The same in Pipedrive.
    fn meet_in_pipedrive(&self, diary: &mut Diary, text: &str) {
        let email = format!("{text}@example.com");
        if let Some(deal) = self.make_in_pipedrive(["New", text, &email, "+16025550199"], text) {
            diary.say("Pipedrive", deal, "name", text);
        }
    }

    /// A person, by first and last name, e-mail address and telephone number, with a deal.
    fn make_in_pipedrive(&self, [first, last, email, phone]: [&str; 4], title: &str) -> Option<u64> {
        self.pipedrive.as_ref()?.sandbox.with(|world| {
            let person = json!({
                "name": format!("{first} {last}"),
                "emails": [{ "value": email, "primary": true }], "phones": [{ "value": phone, "primary": true }],
            });
            let person = world.create(Kind::Contact, &person, pipedrive::Change::Person).ok()?;
            let deal = json!({ "title": title, "value": 100, "person_id": person, "stage_id": self.first_stage });
            world.create(Kind::Deal, &deal, pipedrive::Change::Person).ok()
        })
    }

    /// The same here.
    async fn meet_here(&self, diary: &mut Diary, text: &str) {
        let names = self.names();
        let value = |text: &str| Value::text(text);
        let person = Fields::from([
            ("first_name".to_owned(), value("New")),
            ("last_name".to_owned(), value(text)),
            ("email".to_owned(), value(&format!("{text}@example.com"))),
        ]);
        let Ok(contact) = self.desk(&names).create(Kind::Contact, &person, None).await else { return };
        let mut deal =
            Fields::from([("name".to_owned(), value(text)), ("contact".to_owned(), value(&contact.id().to_string()))]);
        // In the pipeline that every CRM has, if there is one.
        let pipelines = self.rig.store.pipelines(&self.rig.account.name).await.unwrap_or_default();
        let sales = pipelines.iter().find(|pipeline| pipeline.label == "Sales");
        if sales.is_none() && (self.has_hubspot || self.pipedrive.is_some()) {
            return;
        }
        if let Some(sales) = sales {
            deal.insert("pipeline".into(), value(&sales.id.to_string()));
            deal.extend(sales.default_stage().map(|stage| ("stage".to_owned(), value(&stage.id.to_string()))));
        }
        if let Ok(deal) = self.desk(&names).create(Kind::Deal, &deal, None).await {
            diary.say("here", deal.id(), "name", text);
        }
    }

    fn edit_in_hubspot(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        self.rig.sandbox.with(|world| {
            let (kind, field, property) = *[
                (Kind::Deal, "name", "dealname"),
                (Kind::Deal, "description", "description"),
                (Kind::Contact, "last_name", "lastname"),
            ]
            .choose(rng)
            .unwrap_or(&(Kind::Deal, "name", "dealname"));
            let Some(id) = world.ids(kind).choose(rng).copied() else { return };
            let properties = [(property.to_owned(), text.to_owned())].into();
            if world.update(kind, id, &properties, hubspot::Change::Person).is_ok() {
                diary.say("HubSpot", id, field, text);
            }
        });
    }

    fn edit_in_pipedrive(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let Some(spoke) = &self.pipedrive else { return };
        spoke.sandbox.with(|world| {
            let Some(id) = world.ids(Kind::Deal).choose(rng).copied() else { return };
            if world.update(Kind::Deal, id, &json!({ "title": text }), pipedrive::Change::Person).is_ok() {
                diary.say("Pipedrive", id, "name", text);
            }
        });
    }

    async fn edit_here(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let names = self.names();
        let ids = self.live_deals();
        let Some(id) = ids.choose(rng).copied() else { return };
        let field = *["name", "description"].choose(rng).unwrap_or(&"name");
        let fields = Fields::from([(field.to_owned(), Value::text(text))]);
        if self.desk(&names).update(Kind::Deal, id, None, &fields, None).await.is_ok() {
            diary.say("here", id, field, text);
        }
    }

    /// Somebody says what kind of sale a deal is, and with it what it is worth if nobody said.
    async fn say_type(&self, rng: &mut StdRng, diary: &mut Diary) {
        let said = *TYPES.choose(rng).unwrap_or(&TYPES[0]);
        let place = rng.random_range(0..3);
        if let (0, true) = (place, self.has_hubspot) {
            self.rig.sandbox.with(|world| {
                let Some(id) = world.ids(Kind::Deal).choose(rng).copied() else { return };
                let properties = [("dealtype".to_owned(), said.to_owned())].into();
                if world.update(Kind::Deal, id, &properties, hubspot::Change::Person).is_ok() {
                    diary.story.push(format!("HubSpot: {id} is a {said}"));
                }
            });
        } else if let (1, Some(spoke)) = (place, &self.pipedrive) {
            spoke.sandbox.with(|world| {
                let Some(id) = world.ids(Kind::Deal).choose(rng).copied() else { return };
                let code = world.field_code(Kind::Deal, "dealtype").unwrap_or_default();
                let option = world.option_id(Kind::Deal, &code, said);
                let body = json!({ "custom_fields": { code: option } });
                if world.update(Kind::Deal, id, &body, pipedrive::Change::Person).is_ok() {
                    diary.story.push(format!("Pipedrive: {id} is a {said}"));
                }
            });
        } else {
            let Some(id) = self.live_deals().choose(rng).copied() else { return };
            let fields = Fields::from([("type".to_owned(), Value::text(said))]);
            if self.desk(&self.names()).update(Kind::Deal, id, None, &fields, None).await.is_ok() {
                diary.story.push(format!("here: {id} is a {said}"));
            }
        }
    }

    fn edit_customer(&self, rng: &mut StdRng, diary: &mut Diary, text: &str) {
        let Some(spoke) = &self.square else { return };
        spoke.sandbox.with(|world| {
            let Some(id) = world.customer_ids().choose(rng).cloned() else { return };
            if world.update_customer(&id, &json!({ "family_name": text })).is_ok() {
                diary.say("Square", id, "last_name", text);
            }
        });
    }

    fn sell(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.square else { return };
        spoke.sandbox.with(|world| {
            if let (Some(order), true) =
                (diary.sales.keys().cloned().collect::<Vec<_>>().choose(rng), rng.random_bool(0.3))
            {
                let (price, back) = diary.sales[order];
                let amount = if rng.random_bool(0.5) { price - back } else { (price - back) / 2 };
                let payment = world.payments_of(order).first().cloned().unwrap_or_default();
                if amount > 0 && world.refund(&payment, amount).is_ok() {
                    diary.sales.insert(order.clone(), (price, back + amount));
                    diary.story.push(format!("Square: {amount} of {order} is given back"));
                }
                return;
            }
            let Some(customer) = world.customer_ids().choose(rng).cloned() else { return };
            let part = square::Part { customer: Some(customer.clone()), ..square::Part::default() };
            let lines = vec![square::Line::of("Neurotoxin treatment")];
            let ticket =
                square::Ticket { location: "Downtown".into(), lines, parts: vec![part], ..square::Ticket::default() };
            if let Ok(order) = world.sell(&ticket) {
                diary.story.push(format!("Square: {order} is sold to {customer}"));
                diary.sales.insert(order, (65_000, 0));
            }
        });
    }

    /// What was typed last in a record that is gone is in the vendor's bin, and not ours to keep.
    fn throw_away_in_hubspot(&self, rng: &mut StdRng, diary: &mut Diary) {
        self.rig.sandbox.with(|world| {
            let ids = world.ids(Kind::Deal);
            let Some(id) = ids.choose(rng).copied().filter(|_| ids.len() > 2) else { return };
            if world.archive(Kind::Deal, id, hubspot::Change::Person).is_ok() {
                diary.is_gone("HubSpot", id, "is deleted");
            }
        });
    }

    fn throw_away_in_pipedrive(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.pipedrive else { return };
        spoke.sandbox.with(|world| {
            let ids = world.ids(Kind::Deal);
            let Some(id) = ids.choose(rng).copied().filter(|_| ids.len() > 2) else { return };
            if world.delete(Kind::Deal, id, pipedrive::Change::Person).is_ok() {
                diary.is_gone("Pipedrive", id, "is deleted");
            }
        });
    }

    async fn throw_away_here(&self, rng: &mut StdRng, diary: &mut Diary) {
        let names = self.names();
        let ids = self.live_deals();
        let Some(id) = ids.choose(rng).copied().filter(|_| ids.len() > 2) else { return };
        if self.desk(&names).delete(Kind::Deal, id).await.is_ok() {
            diary.story.push(format!("gone: our opportunity {id} is deleted"));
        }
    }

    fn merge_in_hubspot(&self, rng: &mut StdRng, diary: &mut Diary) {
        self.rig.sandbox.with(|world| {
            let kind = if rng.random_bool(0.6) { Kind::Deal } else { Kind::Contact };
            let mut ids = world.ids(kind);
            ids.shuffle(rng);
            let [kept, lost, ..] = ids[..] else { return };
            if let Ok(made) = world.merge(kind, kept, lost, hubspot::Change::Person) {
                diary.is_gone("HubSpot", lost, &format!("is merged into {kept}, which makes {made}"));
                if made != kept {
                    diary.is_gone("HubSpot", kept, "lives on under that id");
                }
            }
        });
    }

    fn merge_in_pipedrive(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.pipedrive else { return };
        spoke.sandbox.with(|world| {
            let mut ids = world.ids(Kind::Deal);
            ids.shuffle(rng);
            let [kept, lost, ..] = ids[..] else { return };
            if world.merge(Kind::Deal, lost, kept, pipedrive::Change::Person).is_ok() {
                diary.is_gone("Pipedrive", lost, &format!("is merged into {kept}"));
            }
        });
    }

    /// Somebody makes an appointment from here, and asks again where it seems not to have worked. Where patients are kept in
    /// step, one that is there already is called off.
    async fn book(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.fhir else { return };
        let Some(id) = self.live_deals().choose(rng).copied() else { return };
        let now = self.rig.clock.now();
        let starts_at = (now + TimeDelta::days(rng.random_range(1..9))).trunc_subsecs(0);
        let wish = Wish {
            kind: "service".into(),
            starts_at,
            ends_at: starts_at + TimeDelta::minutes(30),
            slot: None,
            site: None,
            practitioner: None,
        };
        for _ in 0..3 {
            let booked = book(&*self.rig.store, &spoke.connection, id, wish.clone(), self.rig.clock.now()).await;
            if let (Err(BookingError::Booked(visit)), false) = (&booked, spoke.connection.connector.kinds().is_empty())
            {
                let now = self.rig.clock.now();
                let done = change(&*self.rig.store, &spoke.connection, id, VisitChange::Cancel, now).await;
                let what = done.map_or_else(|error| error.to_string(), |_| "done".into());
                diary.story.push(format!("clinic: {visit} is called off from our opportunity {id}: {what}"));
                return;
            }
            let again = matches!(booked, Err(BookingError::Clinic(_)));
            let what = booked.map_or_else(|error| error.to_string(), |visit| visit.id());
            diary.story.push(format!("clinic: an appointment is made from our opportunity {id}: {what}"));
            if !again {
                return;
            }
        }
    }

    fn visit(&self, rng: &mut StdRng, diary: &mut Diary) {
        let Some(spoke) = &self.fhir else { return };
        spoke.sandbox.with(|world| {
            let Some(patient) = world.ids("Patient").choose(rng).cloned() else { return };
            let code = if rng.random_bool(0.5) { "CONSULT" } else { "TREAT" };
            let booked = world.ids("Appointment").choose(rng).cloned();
            let done = match (booked, rng.random_range(0..6)) {
                (Some(visit), 0) => {
                    let status = *["cancelled", "noshow", "fulfilled", "arrived"].choose(rng).unwrap_or(&"arrived");
                    world.set_status("Appointment", &visit, status);
                    format!("{visit} is {status}")
                }
                (Some(visit), 1) => {
                    world.reschedule(&visit, world.now + TimeDelta::days(3));
                    format!("{visit} is moved")
                }
                (_, 2) => {
                    let met = world.encounter(&patient, code, "in-progress", None);
                    if rng.random_bool(0.5) {
                        world.set_status("Encounter", &met, "finished");
                    }
                    format!("{met} of {patient}, {code}")
                }
                _ => {
                    let at = world.now + TimeDelta::days(rng.random_range(1..9));
                    let visit = world.appoint(&patient, code, "booked", at);
                    format!("{visit} of {patient}, {code}")
                }
            };
            diary.story.push(format!("clinic: {done}"));
        });
    }
}
