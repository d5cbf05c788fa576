//! Reading records by id: list, batch, by marker, history.
//!
//! Search never decides anything here: it lags behind writes, reads by id do not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_contract::{
    Call, ConnectorError, ExternalId, Fetched, History, Kind, PropertyType, Record, Seen, Sought, Statement, Value,
    Version,
    planted::{self, Bug},
};

use crate::{
    CONTACTS, HubSpot, associations,
    client::Ask,
    marker,
    paths::modified_property,
    values,
    wire::{List, Object},
};

/// The property that lists what a record absorbed.
const ABSORBED: &str = "hs_merged_object_ids";
/// Inputs of one batch call. Source: "Using object APIs".
pub const BATCH: usize = 100;
/// Inputs of one batch read with history. Source: error text "maximum number of inputs ... property histories is 50".
const HISTORY_BATCH: usize = 50;
/// How long a property that was looked up and found missing is taken to stay missing.
const MISSING_FOR: Duration = Duration::from_secs(60);

impl HubSpot {
    /// The properties to ask for: those the mapping names, our marker, the modification time, what merges leave.
    fn asked(&self, kind: Kind) -> Vec<String> {
        let own = [self.options.marker_property.clone(), modified_property(kind).into(), "hs_merged_object_ids".into()];
        let mapped = self.selected(kind).filter(|(name, _)| *name != CONTACTS).map(|(name, _)| name.to_owned());
        mapped.chain(own).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn selected(&self, kind: Kind) -> impl Iterator<Item = (&str, PropertyType)> {
        self.options.select.get(&kind).into_iter().flatten().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// True if this kind's associations are mapped.
    pub(crate) fn wants_contacts(&self, kind: Kind) -> bool {
        kind == Kind::Deal && self.options.select.get(&kind).is_some_and(|names| names.contains_key(CONTACTS))
    }

    /// Turns HubSpot's objects into records.
    ///
    /// HubSpot may leave out a property that has no value, and leaves out one that does not exist. The first is
    /// `Null`, the second `Absent`; taking one for the other would clear people's data. A property that any object
    /// of the answer carries exists. One that none carries is looked up, after the answer.
    pub(crate) async fn records(
        &self,
        call: Call,
        kind: Kind,
        objects: Vec<Object>,
    ) -> Result<Vec<Record>, ConnectorError> {
        let mut existing: BTreeSet<&str> = BTreeSet::new();
        for object in &objects {
            existing.extend(object.properties.keys().map(String::as_str));
        }
        let unseen: Vec<String> = self
            .selected(kind)
            .map(|(name, _)| name)
            .filter(|name| *name != CONTACTS && !existing.contains(name))
            .map(str::to_owned)
            .collect();
        let missing = if objects.is_empty() || unseen.is_empty() {
            BTreeSet::new()
        } else {
            self.missing_properties(call, kind, unseen).await?
        };
        objects.into_iter().map(|object| self.record(kind, object, &missing)).collect()
    }

    /// Which of these properties HubSpot does not have now.
    async fn missing_properties(
        &self,
        call: Call,
        kind: Kind,
        names: Vec<String>,
    ) -> Result<BTreeSet<String>, ConnectorError> {
        let now = self.client.clock.elapsed();
        let known = {
            let cache = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            names.iter().all(|name| {
                cache.get(&(kind, name.clone())).is_some_and(|learnt| now.saturating_sub(*learnt) < MISSING_FOR)
            })
        };
        if known {
            return Ok(names.into_iter().collect());
        }
        let properties = self.properties(call, kind).await?;
        let missing: BTreeSet<String> = names.into_iter().filter(|name| !properties.contains_key(name)).collect();
        let mut cache = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        cache.extend(missing.iter().map(|name| ((kind, name.clone()), now)));
        Ok(missing)
    }

    fn record(&self, kind: Kind, object: Object, missing: &BTreeSet<String>) -> Result<Record, ConnectorError> {
        let text = |name: &str| object.properties.get(name).and_then(|loose| loose.0.as_deref());
        let mut properties: BTreeMap<String, Value> = self
            .selected(kind)
            .filter(|(name, _)| *name != CONTACTS && !missing.contains(*name))
            .map(|(name, kind)| (name.to_owned(), values::read(kind, text(name))))
            .collect();
        if self.wants_contacts(kind)
            && let Some(block) = object.associations.get("contacts")
        {
            properties.insert(
                CONTACTS.into(),
                Value::Refs(associations::in_order(block.results.iter().filter_map(|to| {
                    Some((to.id.clone()?, to.label.as_deref().is_some_and(|label| label.contains("primary"))))
                }))),
            );
        }
        let absorbed = text(ABSORBED).unwrap_or_default();
        Ok(Record {
            id: external_id(object.id.as_deref().unwrap_or_default())?,
            version: version(&object, kind),
            created_at: object.created_at.as_deref().and_then(values::read_time),
            marker: text(&self.options.marker_property).filter(|marker| !marker.is_empty()).map(str::to_owned),
            absorbed: absorbed.split(';').filter_map(|id| ExternalId::new(id.trim()).ok()).collect(),
            properties,
        })
    }
}

pub fn external_id(text: &str) -> Result<ExternalId, ConnectorError> {
    ExternalId::new(text).map_err(|_| ConnectorError::Malformed { path: "id".into() })
}

pub fn version(object: &Object, kind: Kind) -> Version {
    let modified = object.properties.get(modified_property(kind)).and_then(|loose| loose.0.as_deref());
    Version { token: None, updated_at: modified.or(object.updated_at.as_deref()).and_then(values::read_time) }
}

/// A record whose contacts could not be read is without the property: absent is not empty.
fn insert_contacts(record: &mut Record, contacts: &BTreeMap<String, Vec<String>>) {
    if let Some(refs) = contacts.get(record.id.as_str()) {
        record.properties.insert(CONTACTS.into(), Value::Refs(refs.clone()));
    } else if planted::has(Bug::AbsentIsNull) {
        record.properties.insert(CONTACTS.into(), Value::Refs(Vec::new()));
    }
}

/// One page of all records in order of id, and where the next begins. An object that does not parse is named by its
/// id, if it has one, and does not keep the others from being read.
pub async fn list(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    after: Option<&str>,
) -> Result<(Vec<Seen>, Option<String>), ConnectorError> {
    let path = hubspot.options.api_version.objects(kind);
    let mut ask =
        Ask::get(&path, call.lane).query("limit", BATCH.to_string()).query("properties", hubspot.asked(kind).join(","));
    if hubspot.wants_contacts(kind) {
        ask = ask.query("associations", "contacts");
    }
    if let Some(after) = after {
        ask = ask.query("after", after);
    }
    let page: List<Json> = hubspot.client.ask(ask).await?.json()?;
    let next = page.after();
    let (mut objects, mut unreadable) = (Vec::with_capacity(page.results.len()), Vec::new());
    for json in page.results {
        match Object::deserialize(&json) {
            Ok(object) => objects.push(object),
            Err(_) => unreadable.extend(json.get("id").and_then(Json::as_str).and_then(|id| ExternalId::new(id).ok())),
        }
    }
    let with_more_contacts: Vec<String> = objects
        .iter()
        .filter(|object| object.associations.get("contacts").is_some_and(|block| block.paging.is_some()))
        .filter_map(|object| object.id.clone())
        .collect();
    let mut records = hubspot.records(call, kind, objects).await?;
    if hubspot.wants_contacts(kind) {
        for record in &mut records {
            record.properties.entry(CONTACTS.into()).or_insert_with(|| Value::Refs(Vec::new()));
        }
        if !with_more_contacts.is_empty() {
            let all = associations::read(hubspot, call, &with_more_contacts).await?;
            for record in
                records.iter_mut().filter(|record| with_more_contacts.iter().any(|id| *id == record.id.as_str()))
            {
                // The first page alone is not the list.
                record.properties.remove(CONTACTS);
                insert_contacts(record, &all);
            }
        }
    }
    let hints = unreadable.into_iter().map(|id| Seen::Hint { id, version: Version::default() });
    Ok((records.into_iter().map(Seen::Record).chain(hints).collect(), next))
}

/// One page of the ids in the recycle bin, with the ids that those records had absorbed, and where the next begins: what
/// was merged into a record that was then put away is in the bin with it, and nothing else tells.
pub async fn list_archived(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    after: Option<&str>,
) -> Result<(Vec<ExternalId>, Option<String>), ConnectorError> {
    let path = hubspot.options.api_version.objects(kind);
    let mut ask = Ask::get(&path, call.lane)
        .query("limit", BATCH.to_string())
        .query("archived", "true")
        .query("properties", ABSORBED);
    if let Some(after) = after {
        ask = ask.query("after", after);
    }
    let page: List<Object> = hubspot.client.ask(ask).await?.json()?;
    let next = page.after();
    let ids = page.results.iter().flat_map(|object| {
        let absorbed = object.properties.get(ABSORBED).and_then(|loose| loose.0.as_deref()).unwrap_or_default();
        object
            .id
            .as_deref()
            .into_iter()
            .chain(absorbed.split(';').map(str::trim))
            .filter_map(|id| ExternalId::new(id).ok())
    });
    let ids = ids.collect();
    Ok((ids, next))
}

/// The truth about each id, in the order asked.
pub async fn fetch(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    ids: &[ExternalId],
) -> Result<Vec<Fetched>, ConnectorError> {
    // Contacts first: a deal that is put away or merged between two calls is then not found by the second, and not found
    // without its contacts.
    let everyone: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let contacts = match hubspot.wants_contacts(kind) {
        true => associations::read(hubspot, call, &everyone).await?,
        false => BTreeMap::new(),
    };
    let mut found: BTreeMap<String, Record> = BTreeMap::new();
    for chunk in ids.chunks(BATCH) {
        let inputs: Vec<&str> = chunk.iter().map(ExternalId::as_str).collect();
        let objects = batch_read(hubspot, call, kind, &inputs, None, false).await?;
        for mut record in hubspot.records(call, kind, objects).await? {
            insert_contacts(&mut record, &contacts);
            found.insert(record.id.to_string(), record);
        }
    }
    let lost: Vec<&ExternalId> = ids.iter().filter(|id| !found.contains_key(id.as_str())).collect();
    let mut elsewhere: BTreeMap<String, Fetched> = BTreeMap::new();
    if !lost.is_empty() {
        elsewhere = look_elsewhere(hubspot, call, kind, &lost, &found).await?;
    }
    let mut survivors: Vec<&mut Record> = elsewhere
        .values_mut()
        .filter_map(|fetched| match fetched {
            Fetched::MergedInto(record) | Fetched::Found(record) => Some(record),
            _ => None,
        })
        .collect();
    if hubspot.wants_contacts(kind) && !survivors.is_empty() {
        let mut names: Vec<String> = survivors.iter().map(|record| record.id.to_string()).collect();
        names.sort_unstable();
        names.dedup();
        let contacts = associations::read(hubspot, call, &names).await?;
        survivors.iter_mut().for_each(|record| insert_contacts(record, &contacts));
    }
    Ok(ids
        .iter()
        .map(|id| match found.get(id.as_str()) {
            Some(record) => Fetched::Found(record.clone()),
            None => elsewhere.remove(id.as_str()).unwrap_or(Fetched::Gone),
        })
        .collect())
}

/// Ids that a batch read did not return: in the recycle bin, absorbed by another record, or gone.
async fn look_elsewhere(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    lost: &[&ExternalId],
    found: &BTreeMap<String, Record>,
) -> Result<BTreeMap<String, Fetched>, ConnectorError> {
    let mut answers = BTreeMap::new();
    for record in found.values() {
        for id in &record.absorbed {
            if lost.contains(&id) {
                answers.insert(id.to_string(), Fetched::MergedInto(record.clone()));
            }
        }
    }
    for chunk in lost.chunks(BATCH) {
        let inputs: Vec<&str> = chunk.iter().map(|id| id.as_str()).filter(|id| !answers.contains_key(*id)).collect();
        if inputs.is_empty() {
            continue;
        }
        for object in batch_read(hubspot, call, kind, &inputs, None, true).await? {
            if let Some(id) = object.id {
                answers.insert(id, Fetched::Archived);
            }
        }
    }
    // Only a single read follows an id that was merged away.
    for id in lost {
        if answers.contains_key(id.as_str()) {
            continue;
        }
        let path = format!("{}/{}", hubspot.options.api_version.objects(kind), path_segment(id));
        let ask = Ask::get(&path, call.lane).query("properties", hubspot.asked(kind).join(","));
        let fetched = match hubspot.client.ask(ask).await {
            Ok(answer) => {
                let object: Object = answer.json()?;
                let archived = object.archived;
                match hubspot.records(call, kind, vec![object]).await?.pop() {
                    Some(_) if archived => Fetched::Archived,
                    Some(record) if record.id == **id => Fetched::Found(record),
                    Some(record) => Fetched::MergedInto(record),
                    None => Fetched::Gone,
                }
            }
            Err(ConnectorError::Gone) => Fetched::Gone,
            Err(ConnectorError::Forbidden(_)) => Fetched::Forbidden,
            Err(error) => return Err(error),
        };
        answers.insert(id.to_string(), fetched);
    }
    Ok(answers)
}

fn path_segment(id: &ExternalId) -> String {
    url::form_urlencoded::byte_serialize(id.as_str().as_bytes()).collect()
}

async fn batch_read(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    inputs: &[&str],
    id_property: Option<&str>,
    archived: bool,
) -> Result<Vec<Object>, ConnectorError> {
    let path = format!("{}/batch/read", hubspot.options.api_version.objects(kind));
    let mut body = json!({
        "properties": hubspot.asked(kind),
        "propertiesWithHistory": [],
        "inputs": inputs.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>(),
    });
    if let Some(property) = id_property {
        body["idProperty"] = property.into();
    }
    let mut ask = Ask::post(&path, body, call.lane);
    if archived {
        ask = ask.query("archived", "true");
    }
    let answer = hubspot.client.ask(ask).await?;
    // 207 names the ids that are not there; whoever asked compares.
    Ok(answer.json::<List<Object>>()?.results)
}

/// The contact that has this address, as its primary or a further one.
pub async fn owner_of_email(hubspot: &HubSpot, call: Call, email: &str) -> Result<Option<ExternalId>, ConnectorError> {
    let found = batch_read(hubspot, call, Kind::Contact, &[email], Some("email"), false).await?;
    Ok(found.into_iter().next().and_then(|object| ExternalId::new(object.id?).ok()))
}

/// The records that carry these markers, in the order asked.
pub async fn find(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    sought: &[Sought],
) -> Result<Vec<Option<Record>>, ConnectorError> {
    let mut found: BTreeMap<String, Record> = BTreeMap::new();
    for chunk in sought.chunks(BATCH) {
        let inputs: Vec<&str> = chunk.iter().map(|one| one.marker.as_str()).collect();
        let read = batch_read(hubspot, call, kind, &inputs, Some(&hubspot.options.marker_property), false).await;
        let objects = match read {
            // The create was interrupted before the property itself was made: no record can carry it.
            Err(ConnectorError::Rejected { .. }) if marker::look(hubspot, call, kind).await?.is_none() => {
                return Ok(vec![None; sought.len()]);
            }
            read => read?,
        };
        for record in hubspot.records(call, kind, objects).await? {
            if let Some(marker) = record.marker.clone() {
                found.insert(marker, record);
            }
        }
    }
    if hubspot.wants_contacts(kind) && !found.is_empty() {
        let ids: Vec<String> = found.values().map(|record| record.id.to_string()).collect();
        let contacts = associations::read(hubspot, call, &ids).await?;
        for record in found.values_mut() {
            insert_contacts(record, &contacts);
        }
    }
    Ok(sought.iter().map(|one| found.get(&one.marker).cloned()).collect())
}

/// What was stated for each property, newest first.
pub async fn history(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    ids: &[ExternalId],
    properties: &[String],
) -> Result<Vec<Option<History>>, ConnectorError> {
    let types: BTreeMap<&str, PropertyType> = hubspot.selected(kind).collect();
    let asked: Vec<&String> = properties.iter().filter(|name| *name != CONTACTS).collect();
    let mut found: BTreeMap<String, History> = BTreeMap::new();
    for chunk in ids.chunks(HISTORY_BATCH) {
        let path = format!("{}/batch/read", hubspot.options.api_version.objects(kind));
        let body = json!({
            "properties": [],
            "propertiesWithHistory": asked,
            "inputs": chunk.iter().map(|id| json!({ "id": id })).collect::<Vec<_>>(),
        });
        let page: List<Object> = hubspot.client.ask(Ask::post(&path, body, call.lane)).await?.json()?;
        for object in page.results {
            let Some(id) = object.id else { continue };
            let mut history = History::new();
            for (name, entries) in object.properties_with_history {
                let kind = types.get(name.as_str()).copied().unwrap_or(PropertyType::Text);
                let mut statements = Vec::with_capacity(entries.len());
                for entry in entries {
                    let at = values::read_time(&entry.timestamp)
                        .ok_or_else(|| ConnectorError::Malformed { path: "propertiesWithHistory.timestamp".into() })?;
                    let source = entry.source_label.or(entry.source_type).unwrap_or_default();
                    statements.push(Statement { value: values::read(kind, entry.value.0.as_deref()), at, source });
                }
                history.insert(name, statements);
            }
            found.insert(id, history);
        }
    }
    Ok(ids.iter().map(|id| found.remove(id.as_str())).collect())
}
