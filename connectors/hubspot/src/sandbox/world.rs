//! The account's state: records with their history, properties, pipelines, owners, and the rules for changing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::{Rng, rngs::StdRng};
use serde_json::{Value as Json, json};
use tandem_contract::Kind;

use super::{
    limits::{InBetween, Stats, Windows},
    search::Index,
    settings::{Faults, Settings},
    webhooks::Outbox,
};
use crate::{paths::modified_property, values};

/// What HubSpot calls each request by in its own logs; here always the same.
pub const CORRELATION: &str = "00000000-0000-4000-8000-000000000000";

/// A refusal in HubSpot's words.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Json,
}

impl Refusal {
    pub(super) fn new(status: u16, category: &str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self {
            status,
            body: json!({ "status": "error", "message": message, "correlationId": CORRELATION, "category": category }),
        }
    }

    pub(super) fn not_found() -> Self {
        Self::new(404, "OBJECT_NOT_FOUND", "resource not found")
    }

    pub(super) fn invalid(property: &str, code: &str, text: &str) -> Self {
        let list = json!([{ "isValid": false, "message": text, "error": code, "name": property }]);
        Self::new(400, "VALIDATION_ERROR", format!("Property values were not valid: {list}"))
    }
}

/// Who changes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A person in HubSpot's screens.
    Person,
    /// A caller of the API.
    Api,
    /// A workflow of the account.
    Automation,
    /// HubSpot itself, for calculated properties.
    Calculated,
}

impl Change {
    /// HubSpot's words for who it was: source type and source id.
    pub(super) fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Person => ("CRM_UI", "userId:77001"),
            Self::Api => ("INTEGRATION", "1357"),
            Self::Automation => ("AUTOMATION_PLATFORM", "enrollmentId:9"),
            Self::Calculated => ("CALCULATED", ""),
        }
    }
}

pub type Properties = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub struct Entry {
    pub value: String,
    pub at: DateTime<Utc>,
    pub by: Change,
}

#[derive(Clone, Debug)]
pub struct Object {
    pub id: u64,
    pub properties: Arc<Properties>,
    pub history: BTreeMap<String, Vec<Entry>>,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
    pub archived: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug)]
pub struct PropertyDef {
    pub name: String,
    pub label: String,
    pub kind: String,
    pub field_type: String,
    pub group: String,
    pub unique: bool,
    pub read_only: bool,
    pub options: Vec<(String, String)>,
    pub usable_from: DateTime<Utc>,
    pub archived: bool,
}

#[derive(Clone, Debug)]
pub struct StageDef {
    pub id: String,
    pub label: String,
    pub probability: f64,
    pub closed: bool,
}

#[derive(Clone, Debug)]
pub struct PipelineDef {
    pub id: String,
    pub label: String,
    pub stages: Vec<StageDef>,
}

#[derive(Clone, Debug)]
pub struct OwnerDef {
    pub id: u64,
    pub email: String,
    pub first: String,
    pub last: String,
    pub archived: bool,
}

/// The simulated account.
#[derive(Clone)]
pub struct World {
    /// How it behaves.
    pub settings: Settings,
    /// What goes wrong.
    pub faults: Faults,
    /// What was asked of it.
    pub stats: Stats,
    pub(super) now: DateTime<Utc>,
    pub(super) elapsed: Duration,
    pub(super) rng: StdRng,
    pub(super) objects: BTreeMap<Kind, BTreeMap<u64, Object>>,
    pub(super) absorbed: BTreeMap<(Kind, u64), u64>,
    pub(super) definitions: BTreeMap<Kind, BTreeMap<String, PropertyDef>>,
    pub(super) pipelines: Vec<PipelineDef>,
    pub(super) owners: Vec<OwnerDef>,
    pub(super) uninstalled: bool,
    pub(super) contacts_of: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) deals_of: BTreeMap<u64, BTreeSet<u64>>,
    pub(super) unique: BTreeMap<(Kind, String, String), u64>,
    pub(super) index: Index,
    pub(super) windows: Windows,
    pub(super) outbox: Outbox,
    pub(super) tokens: BTreeMap<String, DateTime<Utc>>,
    pub(super) refresh_token: Option<String>,
    pub(super) recompute: BTreeMap<(DateTime<Utc>, Kind, u64), ()>,
    pub(super) workflows: BTreeSet<(DateTime<Utc>, u64)>,
    /// What was put into the recycle bin, and when.
    bin: BTreeSet<(DateTime<Utc>, Kind, u64)>,
    next_id: BTreeMap<Kind, u64>,
}

pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl World {
    pub(super) fn furnished(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        let mut world = Self {
            refresh_token: Some(settings.refresh_token.clone()),
            settings,
            faults: Faults::default(),
            stats: Stats::default(),
            now,
            elapsed: Duration::ZERO,
            rng,
            objects: BTreeMap::new(),
            absorbed: BTreeMap::new(),
            definitions: BTreeMap::new(),
            pipelines: Vec::new(),
            owners: Vec::new(),
            uninstalled: false,
            contacts_of: BTreeMap::new(),
            deals_of: BTreeMap::new(),
            unique: BTreeMap::new(),
            index: Index::default(),
            windows: Windows::default(),
            outbox: Outbox::default(),
            tokens: BTreeMap::new(),
            recompute: BTreeMap::new(),
            workflows: BTreeSet::new(),
            bin: BTreeSet::new(),
            next_id: [(Kind::Contact, 70_021), (Kind::Company, 80_033), (Kind::Deal, 31_550_001)].into(),
        };
        world.furnish();
        world
    }

    /// The account's time.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Ids of all records of a kind that are neither archived nor merged away.
    #[must_use]
    pub fn ids(&self, kind: Kind) -> Vec<u64> {
        self.all(kind).filter(|object| object.archived.is_none()).map(|object| object.id).collect()
    }

    /// A property of a record; `None` if either is not there.
    #[must_use]
    pub fn value(&self, kind: Kind, id: u64, property: &str) -> Option<String> {
        self.objects.get(&kind)?.get(&id)?.properties.get(property).cloned()
    }

    /// Everything a record says.
    #[must_use]
    pub fn properties(&self, kind: Kind, id: u64) -> Properties {
        let object = self.objects.get(&kind).and_then(|all| all.get(&id));
        object.map(|object| Properties::clone(&object.properties)).unwrap_or_default()
    }

    /// Every value that was ever stated for a property of a record, oldest first.
    #[must_use]
    pub fn stated(&self, kind: Kind, id: u64, property: &str) -> Vec<String> {
        let history =
            self.objects.get(&kind).and_then(|all| all.get(&id)).and_then(|object| object.history.get(property));
        history.into_iter().flatten().map(|entry| entry.value.clone()).collect()
    }

    /// True if the record is there and not archived.
    #[must_use]
    pub fn is_live(&self, kind: Kind, id: u64) -> bool {
        self.objects.get(&kind).and_then(|all| all.get(&id)).is_some_and(|object| object.archived.is_none())
    }

    /// The contacts of a deal.
    #[must_use]
    pub fn contacts_of(&self, deal: u64) -> Vec<u64> {
        self.contacts_of.get(&deal).into_iter().flatten().copied().collect()
    }

    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// The record behind an id, following merges.
    #[must_use]
    pub fn resolve(&self, kind: Kind, mut id: u64) -> u64 {
        while let Some(survivor) = self.absorbed.get(&(kind, id)) {
            id = *survivor;
        }
        id
    }

    pub(super) fn object(&self, kind: Kind, id: u64) -> Option<&Object> {
        self.objects.get(&kind)?.get(&id)
    }

    /// Makes a record.
    ///
    /// # Errors
    /// HubSpot's refusal of a value, a missing one, or one that must be unique and is taken.
    pub fn create(&mut self, kind: Kind, properties: &Properties, by: Change) -> Result<u64, Refusal> {
        let mut properties = properties.clone();
        if kind == Kind::Deal {
            properties.entry("pipeline".into()).or_insert_with(|| "default".into());
            for needed in ["dealname", "dealstage"] {
                if properties.get(needed).is_none_or(String::is_empty) {
                    return Err(Refusal::invalid(
                        needed,
                        "MISSING_REQUIRED_PROPERTY",
                        "a required property was not set",
                    ));
                }
            }
        }
        let next = self.next_id.entry(kind).or_insert(1);
        let id = *next;
        let clean = self.validated(kind, id, &properties, None, by)?;
        *self.next_id.entry(kind).or_insert(1) += 1;
        let object = Object {
            id,
            properties: Arc::default(),
            history: BTreeMap::new(),
            created: self.now,
            updated: self.now,
            archived: None,
        };
        self.objects.entry(kind).or_default().insert(id, object);
        self.set_quietly(kind, id, "createdate", iso(self.now));
        self.set_quietly(kind, id, "hs_object_id", id.to_string());
        self.store(kind, id, &clean, by);
        self.outbox_event(kind, id, "creation", by, |event| event["changeFlag"] = "CREATED".into());
        Ok(id)
    }

    /// Changes properties of a record; an empty value clears.
    ///
    /// # Errors
    /// HubSpot's refusal of a value, or 404.
    pub fn update(&mut self, kind: Kind, id: u64, properties: &Properties, by: Change) -> Result<(), Refusal> {
        if !self.is_live(kind, id) {
            return Err(Refusal::not_found());
        }
        let clean = self.validated(kind, id, properties, Some(id), by)?;
        self.store(kind, id, &clean, by);
        if by == Change::Api {
            let probability = self.faults.automation;
            if kind == Kind::Deal && self.struck("automation", probability, "POST objects/deals/batch/update") {
                // Workflows run by themselves, a moment later.
                self.workflows.insert((self.now + TimeDelta::seconds(2), id));
            }
        }
        Ok(())
    }

    fn validated(
        &mut self,
        kind: Kind,
        id: u64,
        given: &Properties,
        existing: Option<u64>,
        by: Change,
    ) -> Result<Properties, Refusal> {
        let mut clean = Properties::new();
        for (name, value) in given {
            let Some(definition) = self
                .definitions
                .get(&kind)
                .and_then(|all| all.get(name))
                .filter(|d| !d.archived && d.usable_from <= self.now)
            else {
                return Err(Refusal::invalid(
                    name,
                    "PROPERTY_DOESNT_EXIST",
                    &format!("Property \"{name}\" does not exist"),
                ));
            };
            if definition.read_only && by != Change::Calculated {
                return Err(Refusal::invalid(name, "READ_ONLY_VALUE", &format!("{name} is a read only property")));
            }
            let value = if self.settings.trim_text && definition.kind == "string" {
                value.trim().to_owned()
            } else {
                value.clone()
            };
            let value = check_type(definition, &value, self.settings.normalise_numbers)?;
            clean.insert(name.clone(), value);
        }
        if kind == Kind::Deal {
            self.check_deal(existing, &mut clean, by)?;
        }
        self.check_unique(kind, id, existing, &clean)?;
        Ok(clean)
    }

    fn check_deal(&mut self, existing: Option<u64>, clean: &mut Properties, by: Change) -> Result<(), Refusal> {
        let old = existing
            .and_then(|id| self.object(Kind::Deal, id))
            .map(|object| object.properties.clone())
            .unwrap_or_default();
        let now_or = |name: &str| clean.get(name).or_else(|| old.get(name)).cloned().unwrap_or_default();
        if clean.contains_key("pipeline") || clean.contains_key("dealstage") {
            let (pipeline, stage) = (now_or("pipeline"), now_or("dealstage"));
            let known = self.pipelines.iter().find(|p| p.id == pipeline);
            let Some(stage) = known.and_then(|p| p.stages.iter().find(|s| s.id == stage)) else {
                let name = if known.is_some() { "dealstage" } else { "pipeline" };
                return Err(Refusal::invalid(name, "INVALID_OPTION", "the value was not one of the allowed options"));
            };
            let was_closed =
                self.stage_of(&old).is_some_and(|(closed, probability)| closed && probability == stage.probability);
            let sets_it = by == Change::Person || self.settings.close_date_on_api_move;
            if stage.closed && !was_closed && sets_it && !clean.contains_key("closedate") {
                clean.insert("closedate".into(), iso(self.now));
            }
        }
        if let Some(code) = clean.get("deal_currency_code").filter(|code| !code.is_empty()) {
            let known = *code == self.settings.company_currency || self.settings.additional_currencies.contains(code);
            if !known {
                return Err(Refusal::invalid(
                    "deal_currency_code",
                    "INVALID_OPTION",
                    "the currency is not one of the account's",
                ));
            }
        }
        Ok(())
    }

    /// Whether the stage these properties name is closed, and its probability.
    fn stage_of(&self, properties: &Properties) -> Option<(bool, f64)> {
        let pipeline = self.pipelines.iter().find(|p| Some(&p.id) == properties.get("pipeline"))?;
        let stage = pipeline.stages.iter().find(|s| Some(&s.id) == properties.get("dealstage"))?;
        Some((stage.closed, stage.probability))
    }

    fn unique_key(&self, kind: Kind, name: &str, value: &str) -> (Kind, String, String) {
        let fold = self.settings.unique_ignores_case || name == "email";
        (kind, name.to_owned(), if fold { value.to_lowercase() } else { value.to_owned() })
    }

    fn is_unique(&self, kind: Kind, name: &str) -> bool {
        self.definitions.get(&kind).and_then(|all| all.get(name)).is_some_and(|definition| definition.unique)
    }

    fn check_unique(&self, kind: Kind, id: u64, existing: Option<u64>, clean: &Properties) -> Result<(), Refusal> {
        for (name, value) in clean.iter().filter(|(name, value)| !value.is_empty() && self.is_unique(kind, name)) {
            let Some(owner) =
                self.unique.get(&self.unique_key(kind, name, value)).filter(|owner| Some(**owner) != existing)
            else {
                continue;
            };
            if name == "email" {
                return Err(Refusal::new(409, "CONFLICT", format!("Contact already exists. Existing ID: {owner}")));
            }
            return Err(Refusal::new(
                400,
                "VALIDATION_ERROR",
                format!(
                    "Cannot set PropertyValueCoordinates{{portalId={}, objectTypeId=ObjectTypeId{{legacyObjectType=DEAL}}, \
                     propertyName={name}, value={value}}} on {id}. {owner} already has that value.",
                    self.settings.portal_id
                ),
            ));
        }
        Ok(())
    }

    /// Stores values that were found valid: history, unique index, search index, events.
    pub(super) fn store(&mut self, kind: Kind, id: u64, clean: &Properties, by: Change) {
        let now = self.now;
        let unique: Vec<String> = clean.keys().filter(|name| self.is_unique(kind, name)).cloned().collect();
        let mut changed = Vec::new();
        {
            let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)) else { return };
            let properties = Arc::make_mut(&mut object.properties);
            for (name, value) in clean {
                let old = properties.get(name).cloned().unwrap_or_default();
                if old == *value {
                    continue;
                }
                if value.is_empty() {
                    properties.remove(name);
                } else {
                    properties.insert(name.clone(), value.clone());
                }
                object.history.entry(name.clone()).or_default().push(Entry { value: value.clone(), at: now, by });
                changed.push((name.clone(), old, value.clone()));
            }
            if !changed.is_empty() {
                // Two writes never share a time here unless the test stops the clock.
                object.updated = now;
            }
        }
        if changed.is_empty() {
            return;
        }
        for (name, old, value) in &changed {
            if unique.contains(name) {
                if !old.is_empty() {
                    self.unique.remove(&self.unique_key(kind, name, old));
                }
                if !value.is_empty() {
                    self.unique.insert(self.unique_key(kind, name, value), id);
                }
            }
        }
        self.set_quietly(kind, id, modified_property(kind), iso(now));
        if kind == Kind::Deal && changed.iter().any(|(name, ..)| name == "dealstage" || name == "pipeline") {
            self.calculate(id);
        }
        if kind == Kind::Deal && by != Change::Calculated && self.settings.recompute_seconds > 0 {
            let due = now + TimeDelta::seconds(i64::try_from(self.settings.recompute_seconds).unwrap_or(5));
            self.recompute.insert((due, kind, id), ());
        }
        self.reindex(kind, id);
        for (name, _, value) in changed {
            self.outbox_event(kind, id, "propertyChange", by, |event| {
                event["propertyName"] = name.clone().into();
                event["propertyValue"] = value.clone().into();
            });
        }
    }

    /// Sets what nobody subscribes to: times and ids.
    fn set_quietly(&mut self, kind: Kind, id: u64, name: &str, value: String) {
        if let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)) {
            Arc::make_mut(&mut object.properties).insert(name.into(), value);
        }
    }

    fn calculate(&mut self, deal: u64) {
        let Some(object) = self.object(Kind::Deal, deal) else { return };
        let (closed, probability) = self.stage_of(&object.properties).unwrap_or((false, 0.0));
        for (name, value) in [
            ("hs_is_closed", closed.to_string()),
            ("hs_is_closed_won", (closed && probability >= 1.0).to_string()),
            ("hs_is_closed_lost", (closed && probability <= 0.0).to_string()),
            ("hs_deal_stage_probability", probability.to_string()),
        ] {
            self.set_quietly(Kind::Deal, deal, name, value);
        }
    }

    /// Moves the modification time of records whose calculated properties are due, with no other change.
    pub(super) fn settle(&mut self) {
        while let Some((due, id)) = self.workflows.first().copied().filter(|(due, _)| *due <= self.now) {
            self.workflows.pop_first();
            if self.is_live(Kind::Deal, id) {
                let text = format!("seen by the workflow at {}", iso(due));
                let before = self.value(Kind::Deal, id, "description").unwrap_or_default();
                self.store(Kind::Deal, id, &[("description".to_owned(), text.clone())].into(), Change::Automation);
                self.stats.in_between.push(InBetween { id, property: "description".into(), text, before });
            }
        }
        while let Some(entry) = self.recompute.first_entry() {
            let (due, kind, id) = *entry.key();
            if due > self.now {
                break;
            }
            entry.remove();
            if self.is_live(kind, id) {
                self.set_quietly(kind, id, modified_property(kind), iso(due));
                if let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)) {
                    object.updated = object.updated.max(due);
                }
                self.reindex(kind, id);
            }
        }
        self.index.settle(self.now);
        let purge = self.now - TimeDelta::days(self.settings.purge_days);
        while let Some((at, kind, id)) = self.bin.first().copied().filter(|(at, ..)| *at < purge) {
            self.bin.pop_first();
            // Who was taken out of the bin and put back is in it a second time.
            let is_due = |object: &mut Object| object.archived == Some(at);
            if let Some(all) = self.objects.get_mut(&kind)
                && all.get_mut(&id).is_some_and(is_due)
            {
                all.remove(&id);
                self.unique.retain(|(of, ..), owner| *of != kind || *owner != id);
            }
        }
    }

    pub(super) fn reindex(&mut self, kind: Kind, id: u64) {
        let (least, most) = self.settings.search_lag_ms;
        let mut lag = if most > least { self.rng.random_range(least..=most) } else { least };
        let outage = self.faults.index_outage;
        if self.struck("index_outage", outage, "search index") {
            lag = lag.max(self.faults.index_outage_ms);
        }
        let visible = self.now + TimeDelta::milliseconds(i64::try_from(lag).unwrap_or(0));
        let row = self
            .object(kind, id)
            .filter(|object| object.archived.is_none())
            .map(|object| (object.properties.clone(), object.created, object.updated));
        self.index.put(visible, kind, id, row);
    }

    /// Moves a record to the recycle bin.
    ///
    /// # Errors
    /// 404 for a record that is not there.
    pub fn archive(&mut self, kind: Kind, id: u64, by: Change) -> Result<(), Refusal> {
        let now = self.now;
        let Some(object) =
            self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)).filter(|object| object.archived.is_none())
        else {
            return Err(Refusal::not_found());
        };
        object.archived = Some(now);
        self.bin.insert((now, kind, id));
        if !self.settings.archived_keeps_unique {
            self.unique.retain(|(of, ..), owner| *of != kind || *owner != id);
        }
        self.reindex(kind, id);
        self.outbox_event(kind, id, "deletion", by, |event| event["changeFlag"] = "DELETED".into());
        Ok(())
    }

    /// Ids of what is in the recycle bin.
    #[must_use]
    pub fn binned(&self, kind: Kind) -> Vec<u64> {
        let absorbed = |id: u64| self.absorbed.contains_key(&(kind, id));
        self.all(kind).filter(|object| object.archived.is_some() && !absorbed(object.id)).map(|o| o.id).collect()
    }

    /// Every record that carries a marker, whatever became of it: its kind, its id, the marker.
    #[must_use]
    pub fn marked(&self) -> Vec<String> {
        let marker = |object: &Object| object.properties.get("tandem_id").cloned();
        let of = |kind: Kind| self.all(kind).map(move |object| (kind, object));
        let all = of(Kind::Contact).chain(of(Kind::Deal));
        all.filter_map(|(kind, object)| Some(format!("{kind} {} as {}", object.id, marker(object)?))).collect()
    }

    /// Takes a record out of the recycle bin; only a person can.
    ///
    /// # Errors
    /// 404 for a record that is not in the bin.
    pub fn restore(&mut self, kind: Kind, id: u64) -> Result<(), Refusal> {
        let Some(object) =
            self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)).filter(|object| object.archived.is_some())
        else {
            return Err(Refusal::not_found());
        };
        object.archived = None;
        let properties = object.properties.clone();
        for (name, value) in properties.iter() {
            if self.is_unique(kind, name) {
                self.unique.insert(self.unique_key(kind, name, value), id);
            }
        }
        self.reindex(kind, id);
        self.outbox_event(kind, id, "restore", Change::Person, |_| {});
        Ok(())
    }

    /// Merges `loser` into `primary` and answers the survivor's id, which is a new one where the account works so.
    ///
    /// # Errors
    /// 404 for a record that is not there, 400 for a record merged with itself.
    pub fn merge(&mut self, kind: Kind, primary: u64, loser: u64, by: Change) -> Result<u64, Refusal> {
        let (primary, loser) = (self.resolve(kind, primary), self.resolve(kind, loser));
        if primary == loser {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "Can not merge an object with itself"));
        }
        let (Some(a), Some(b)) = (
            self.object(kind, primary).filter(|object| object.archived.is_none()).cloned(),
            self.object(kind, loser).filter(|object| object.archived.is_none()).cloned(),
        ) else {
            return Err(Refusal::not_found());
        };
        let mut joined: Properties = (*b.properties).clone();
        joined.extend((*a.properties).clone());
        let mut history = b.history;
        for (name, entries) in a.history {
            let all = history.entry(name).or_default();
            all.extend(entries);
            all.sort_by_key(|entry| entry.at);
        }
        let survivor = if self.settings.merge_makes_new {
            let next = self.next_id.entry(kind).or_insert(1);
            *next += 1;
            *next - 1
        } else {
            primary
        };
        let mut absorbed: BTreeSet<u64> = BTreeSet::new();
        for object in [&a.properties, &b.properties] {
            let list = object.get("hs_merged_object_ids").map_or("", String::as_str);
            absorbed.extend(list.split(';').filter_map(|id| id.parse::<u64>().ok()));
        }
        absorbed.extend([primary, loser].into_iter().filter(|id| *id != survivor));
        if absorbed.len() > self.settings.merge_limit {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "The merge limit of this record is reached"));
        }
        joined.insert("hs_merged_object_ids".into(), absorbed.iter().map(u64::to_string).collect::<Vec<_>>().join(";"));
        joined.insert("hs_object_id".into(), survivor.to_string());
        joined.insert(modified_property(kind).into(), iso(self.now));
        for id in [primary, loser] {
            if let Some(all) = self.objects.get_mut(&kind) {
                all.remove(&id);
            }
            if id != survivor {
                self.absorbed.insert((kind, id), survivor);
                self.index.put(self.now, kind, id, None);
            }
        }
        self.unique.retain(|(of, ..), owner| *of != kind || (*owner != primary && *owner != loser));
        for (name, value) in &joined {
            if self.is_unique(kind, name) {
                self.unique.insert(self.unique_key(kind, name, value), survivor);
            }
        }
        let object = Object {
            id: survivor,
            properties: Arc::new(joined),
            history,
            created: a.created.min(b.created),
            updated: self.now,
            archived: None,
        };
        self.objects.entry(kind).or_default().insert(survivor, object);
        self.move_links(kind, &[primary, loser], survivor);
        if kind == Kind::Deal {
            self.calculate(survivor);
        }
        self.reindex(kind, survivor);
        self.outbox_event(kind, survivor, "merge", by, |event| {
            event["primaryObjectId"] = primary.into();
            event["mergedObjectIds"] = json!([loser]);
            event["newObjectId"] = survivor.into();
            event["numberOfPropertiesMoved"] = 0.into();
        });
        Ok(survivor)
    }

    /// Removes a property's definition and all its values, as an administrator may.
    pub fn remove_property(&mut self, kind: Kind, name: &str) {
        if let Some(definition) = self.definitions.get_mut(&kind).and_then(|all| all.get_mut(name)) {
            definition.archived = true;
        }
    }

    /// Brings a removed property back with its values.
    pub fn restore_property(&mut self, kind: Kind, name: &str) {
        if let Some(definition) = self.definitions.get_mut(&kind).and_then(|all| all.get_mut(name)) {
            definition.archived = false;
        }
    }

    /// Adds a stage to a pipeline, as an administrator may.
    pub fn add_stage(&mut self, pipeline: &str, id: &str, label: &str, probability: f64) {
        if let Some(pipeline) = self.pipelines.iter_mut().find(|p| p.id == pipeline) {
            let closed = probability <= 0.0 || probability >= 1.0;
            pipeline.stages.push(StageDef { id: id.into(), label: label.into(), probability, closed });
        }
    }

    /// Gives a stage another name, as an administrator may.
    pub fn rename_stage(&mut self, id: &str, label: &str) {
        let stages = self.pipelines.iter_mut().flat_map(|pipeline| &mut pipeline.stages);
        for stage in stages.filter(|stage| stage.id == id) {
            label.clone_into(&mut stage.label);
        }
    }

    /// Revokes everything that gives access, as a customer does who uninstalls the app.
    pub fn revoke_access(&mut self) {
        self.settings.access_tokens.clear();
        self.tokens.clear();
        self.refresh_token = None;
    }

    /// Replaces the account's static tokens.
    pub fn set_access_token(&mut self, token: &str) {
        self.settings.access_tokens = vec![token.to_owned()];
    }

    /// Clears the counters.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
    }
}

fn check_type(definition: &PropertyDef, value: &str, normalise: bool) -> Result<String, Refusal> {
    if value.is_empty() {
        return Ok(String::new());
    }
    let refuse =
        |code: &str| Err(Refusal::invalid(&definition.name, code, "the value does not fit the property's type"));
    match definition.kind.as_str() {
        "number" => match value.parse::<rust_decimal::Decimal>() {
            Ok(number) if normalise => Ok(number.normalize().to_string()),
            Ok(_) => Ok(value.to_owned()),
            Err(_) => refuse("INVALID_NUMBER"),
        },
        "datetime" => match values::read_time(value) {
            // A fraction of zero is dropped, others have three digits.
            Some(at) if at.timestamp_subsec_millis() == 0 => Ok(at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            Some(at) => Ok(iso(at)),
            None => refuse("INVALID_DATE"),
        },
        "date" => match values::read(tandem_contract::PropertyType::Date, Some(value)) {
            tandem_contract::Value::Date(date) => Ok(date.to_string()),
            _ => refuse("INVALID_DATE"),
        },
        "bool" if value == "true" || value == "false" => Ok(value.to_owned()),
        "bool" => refuse("INVALID_BOOLEAN"),
        "enumeration" if !definition.options.is_empty() => {
            let known = |choice: &str| definition.options.iter().any(|(option, _)| option == choice);
            if value.split(';').filter(|choice| !choice.is_empty()).all(known) {
                Ok(value.to_owned())
            } else {
                refuse("INVALID_OPTION")
            }
        }
        _ if definition.name == "email" && !value.contains('@') => refuse("INVALID_EMAIL"),
        _ if value.chars().count() > 65_536 => refuse("PROPERTY_VALUE_TOO_LONG"),
        _ => Ok(value.to_owned()),
    }
}
