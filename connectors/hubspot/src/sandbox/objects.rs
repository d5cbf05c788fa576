//! Records over the wire: single calls and batches.

use rand::seq::SliceRandom;
use serde_json::{Map, Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::Query;

use super::{
    limits::InBetween,
    world::{Change, Object, Properties, Refusal, World, iso},
};
use crate::paths::modified_property;

type Answer = Result<(u16, Json), Refusal>;

/// A list of names: an array of text, or text with commas.
pub fn names(value: Option<&Json>) -> Vec<String> {
    match value {
        Some(Json::Array(list)) => list.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        Some(Json::String(text)) => {
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn default_names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Contact => &["firstname", "lastname", "email", "createdate", "lastmodifieddate", "hs_object_id"],
        Kind::Company => &["name", "domain", "createdate", "hs_lastmodifieddate", "hs_object_id"],
        _ => &[
            "dealname",
            "amount",
            "closedate",
            "pipeline",
            "dealstage",
            "createdate",
            "hs_lastmodifieddate",
            "hs_object_id",
        ],
    }
}

/// A record as HubSpot writes it, with the properties asked for.
pub fn wire(world: &World, kind: Kind, object: &Object, asked: &[String], with_history: &[String]) -> Json {
    let mut properties = Map::new();
    let basics = ["createdate", modified_property(kind), "hs_object_id"];
    let wanted: Vec<&str> = if asked.is_empty() {
        default_names(kind).to_vec()
    } else {
        asked.iter().map(String::as_str).chain(basics).collect()
    };
    for name in wanted {
        let known = world
            .definitions
            .get(&kind)
            .and_then(|all| all.get(name))
            .is_some_and(|d| !d.archived && d.usable_from <= world.now);
        match object.properties.get(name) {
            _ if !known => {}
            Some(value) => {
                properties.insert(name.into(), value.clone().into());
            }
            None if world.settings.omit_empty => {}
            None => {
                properties.insert(name.into(), Json::Null);
            }
        }
    }
    let mut record = json!({
        "id": object.id.to_string(),
        "properties": properties,
        "createdAt": iso(object.created),
        "updatedAt": iso(object.updated),
        "archived": object.archived.is_some(),
    });
    if let Some(at) = object.archived {
        record["archivedAt"] = iso(at).into();
    }
    if !with_history.is_empty() {
        let history: Map<String, Json> = with_history
            .iter()
            .map(|name| {
                let entries = object.history.get(name).map_or(&[][..], Vec::as_slice);
                let list: Vec<Json> = entries
                    .iter()
                    .rev()
                    .map(|entry| {
                        let (source, id) = entry.by.source();
                        json!({ "value": entry.value, "timestamp": iso(entry.at), "sourceType": source, "sourceId": id })
                    })
                    .collect();
                (name.clone(), list.into())
            })
            .collect();
        record["propertiesWithHistory"] = history.into();
    }
    record
}

pub fn properties_of(input: &Json) -> Result<Properties, Refusal> {
    let Some(map) = input.get("properties").and_then(Json::as_object) else {
        return Err(Refusal::new(400, "VALIDATION_ERROR", "Invalid input JSON: properties are missing"));
    };
    Ok(map
        .iter()
        .map(|(name, value)| {
            let text = match value {
                Json::String(text) => text.clone(),
                Json::Null => String::new(),
                other => other.to_string(),
            };
            (name.clone(), text)
        })
        .collect())
}

fn inputs(body: &Json, most: usize) -> Result<&Vec<Json>, Refusal> {
    let list = body.get("inputs").and_then(Json::as_array);
    let list = list.ok_or_else(|| Refusal::new(400, "VALIDATION_ERROR", "Invalid input JSON: inputs are missing"))?;
    if list.len() > most {
        return Err(Refusal::new(
            400,
            "VALIDATION_ERROR",
            format!("The maximum number of inputs supported in a batch request is {most}."),
        ));
    }
    Ok(list)
}

pub fn text_of(value: Option<&Json>) -> String {
    match value {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

impl World {
    fn by_key(&self, kind: Kind, key: &str, id_property: Option<&str>) -> Option<u64> {
        match id_property.filter(|name| !name.is_empty() && *name != "hs_object_id") {
            None => key.parse().ok(),
            Some(name) => {
                let fold = self.settings.unique_ignores_case || name == "email";
                let key = if fold { key.to_lowercase() } else { key.to_owned() };
                self.unique.get(&(kind, name.to_owned(), key)).copied()
            }
        }
    }

    pub(super) fn list(&self, kind: Kind, query: &Query) -> Answer {
        let archived = query.flag("archived");
        let (asked, history) = (query.list("properties"), query.list("propertiesWithHistory"));
        let most = if history.is_empty() { 100 } else { 50 };
        let limit = query.number("limit").unwrap_or(10);
        if limit == 0 || limit > most {
            return Err(Refusal::new(400, "VALIDATION_ERROR", format!("limit must be between 1 and {most}")));
        }
        let from: u64 = query.text("after").and_then(|after| after.parse().ok()).unwrap_or(0);
        let associations = query.list("associations");
        let Some(all) = self.objects.get(&kind) else { return Ok((200, json!({ "results": [] }))) };
        let mut page =
            all.range(from..).map(|(_, object)| object).filter(|object| object.archived.is_some() == archived);
        let results: Vec<Json> = page
            .by_ref()
            .take(limit.min(self.settings.page_rows))
            .map(|object| {
                let mut record = wire(self, kind, object, &asked, &history);
                self.add_associations(kind, object.id, &associations, &mut record);
                record
            })
            .collect();
        let mut answer = json!({ "results": results });
        if let Some(next) = page.next() {
            answer["paging"] = json!({ "next": { "after": next.id.to_string(), "link": "" } });
        }
        Ok((200, answer))
    }

    pub(super) fn get(&self, kind: Kind, key: &str, query: &Query) -> Answer {
        let id = self.by_key(kind, key, query.text("idProperty").as_deref()).ok_or_else(Refusal::not_found)?;
        let id = self.resolve(kind, id);
        let object = self
            .object(kind, id)
            .filter(|object| object.archived.is_some() == query.flag("archived"))
            .ok_or_else(Refusal::not_found)?;
        let mut record = wire(self, kind, object, &query.list("properties"), &query.list("propertiesWithHistory"));
        self.add_associations(kind, id, &query.list("associations"), &mut record);
        Ok((200, record))
    }

    pub(super) fn post(&mut self, kind: Kind, body: &Json) -> Answer {
        let id = self.create_with_links(kind, body)?;
        Ok((201, self.answer(kind, id, &[])))
    }

    pub(super) fn patch(&mut self, kind: Kind, key: &str, query: &Query, body: &Json) -> Answer {
        let id = self.by_key(kind, key, query.text("idProperty").as_deref()).ok_or_else(Refusal::not_found)?;
        let id = self.resolve(kind, id);
        let properties = properties_of(body)?;
        self.update(kind, id, &properties, Change::Api)?;
        self.stats.updated += 1;
        Ok((200, self.answer(kind, id, &properties.into_keys().collect::<Vec<_>>())))
    }

    fn create_with_links(&mut self, kind: Kind, input: &Json) -> Result<u64, Refusal> {
        let links: Vec<u64> = input
            .get("associations")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(|link| text_of(link.pointer("/to/id")).parse().ok())
            .collect();
        if kind == Kind::Deal
            && links
                .iter()
                .any(|contact| !self.is_live(Kind::Contact, *contact) && !self.is_live(Kind::Company, *contact))
        {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "Invalid association: the target does not exist"));
        }
        let id = self.create(kind, &properties_of(input)?, Change::Api)?;
        self.stats.created += 1;
        for contact in links {
            if self.is_live(Kind::Contact, contact) {
                self.associate(id, contact, Change::Api);
            }
        }
        Ok(id)
    }

    fn answer(&self, kind: Kind, id: u64, asked: &[String]) -> Json {
        self.object(kind, id).map_or(Json::Null, |object| {
            let all: Vec<String> =
                if asked.is_empty() { object.properties.keys().cloned().collect() } else { asked.to_vec() };
            wire(self, kind, object, &all, &[])
        })
    }

    pub(super) fn batch(&mut self, kind: Kind, verb: &str, query: &Query, body: &Json) -> Answer {
        match verb {
            "read" => self.batch_read(kind, query, body),
            "archive" => self.batch_archive(kind, body),
            "create" | "update" | "upsert" => self.batch_write(kind, verb, body),
            _ => Err(Refusal::not_found()),
        }
    }

    fn batch_read(&self, kind: Kind, query: &Query, body: &Json) -> Answer {
        let history = names(body.get("propertiesWithHistory"));
        let list = inputs(body, 100)?;
        if !history.is_empty() && list.len() > 50 {
            return Err(Refusal::new(
                400,
                "VALIDATION_ERROR",
                "The maximum number of inputs supported in a batch request for property histories is 50",
            ));
        }
        let (asked, id_property, archived) =
            (names(body.get("properties")), text_of(body.get("idProperty")), query.flag("archived"));
        if !id_property.is_empty()
            && !self.definitions.get(&kind).is_some_and(|all| all.get(&id_property).is_some_and(|d| d.unique))
        {
            return Err(Refusal::new(
                400,
                "VALIDATION_ERROR",
                format!("idProperty {id_property} is a non-unique or unknown property"),
            ));
        }
        let (mut results, mut missing) = (Vec::new(), Vec::new());
        for input in list {
            let key = text_of(input.get("id"));
            let object = self.by_key(kind, &key, Some(&id_property)).and_then(|id| self.object(kind, id));
            match object.filter(|object| object.archived.is_some() == archived) {
                Some(object) => results.push(wire(self, kind, object, &asked, &history)),
                None => missing.push(key),
            }
        }
        let errors: Vec<Json> = if missing.is_empty() {
            Vec::new()
        } else {
            vec![json!({
                "status": "error", "category": "OBJECT_NOT_FOUND", "context": { "ids": missing }, "links": {}, "errors": [],
                "message": format!("Could not get some {} objects, they may be deleted or not exist. Check that ids are valid.", kind.as_str().to_uppercase()),
            })]
        };
        Ok(self.complete(200, results, errors))
    }

    pub(super) fn complete(&self, status: u16, results: Vec<Json>, errors: Vec<Json>) -> (u16, Json) {
        let mut answer = json!({ "status": "COMPLETE", "results": results, "startedAt": iso(self.now), "completedAt": iso(self.now) });
        if errors.is_empty() {
            return (status, answer);
        }
        answer["numErrors"] = errors.len().into();
        answer["errors"] = errors.into();
        (207, answer)
    }

    fn batch_archive(&mut self, kind: Kind, body: &Json) -> Answer {
        for input in inputs(body, 100)?.clone() {
            if let Ok(id) = text_of(input.get("id")).parse()
                && self.archive(kind, id, Change::Api).is_ok()
            {
                self.stats.archived += 1;
            }
        }
        Ok((204, Json::Null))
    }

    fn batch_write(&mut self, kind: Kind, verb: &str, body: &Json) -> Answer {
        let list = inputs(body, 100)?.clone();
        let traces: Vec<String> = list.iter().map(|input| text_of(input.get("objectWriteTraceId"))).collect();
        let partial = traces.iter().all(|trace| !trace.is_empty());
        let place = format!("POST objects/{}s/batch/{verb}", kind.as_str());
        // Without trace ids one bad record fails the whole call and nothing is stored.
        let before = if partial { None } else { Some(self.clone()) };
        let (mut results, mut errors) = (Vec::new(), Vec::new());
        for (input, trace) in list.iter().zip(&traces) {
            let (fails, missing) = (self.faults.row_fails, self.faults.row_missing);
            if partial && self.struck("row_fails", fails, &place) {
                errors.push(error_entry(&Refusal::new(500, "INTERNAL_ERROR", "internal error"), trace, None));
                continue;
            }
            let dropped = self.faults.row_dropped;
            if partial && self.struck("row_dropped", dropped, &place) {
                continue;
            }
            match self.write_row(kind, verb, input) {
                Ok(Some(mut record)) => {
                    if !trace.is_empty() {
                        record["objectWriteTraceId"] = trace.clone().into();
                    }
                    if !self.struck("row_missing", missing, &place) {
                        results.push(record);
                    }
                }
                // An id that was merged away drops out without a word.
                Ok(None) => {}
                Err(refusal) if !partial => {
                    if let Some(before) = before {
                        *self = before;
                    }
                    return Err(refusal);
                }
                Err(refusal) if refusal.status == 409 && self.settings.clash_refuses_batch => return Err(refusal),
                Err(refusal) => {
                    let id = (refusal.status == 404).then(|| text_of(input.get("id")));
                    errors.push(error_entry(&refusal, trace, id));
                }
            }
        }
        let shuffle = self.faults.shuffle;
        if self.struck("shuffle", shuffle, &place) {
            results.shuffle(&mut self.rng);
        }
        Ok(self.complete(if verb == "create" { 201 } else { 200 }, results, errors))
    }

    /// Somebody is faster by a moment.
    fn edit_in_between(&mut self, kind: Kind, id: u64, properties: &Properties) {
        let chance = self.faults.edited_in_between;
        let place = format!("POST objects/{}s/batch/update", kind.as_str());
        let Some(name) = ["dealname", "description", "phone"].into_iter().find(|name| properties.contains_key(*name))
        else {
            return;
        };
        if self.is_live(kind, id) && self.struck("edited_in_between", chance, &place) {
            let text = format!("between {}", self.stats.in_between.len());
            let edit = [(name.to_owned(), text.clone())].into();
            let before = self.value(kind, id, name).unwrap_or_default();
            if self.update(kind, id, &edit, Change::Person).is_ok() {
                self.stats.in_between.push(InBetween { id, property: name.to_owned(), text, before });
            }
        }
    }

    fn write_row(&mut self, kind: Kind, verb: &str, input: &Json) -> Result<Option<Json>, Refusal> {
        let key = text_of(input.get("id"));
        let id_property = input.get("idProperty").and_then(Json::as_str);
        match verb {
            "create" => {
                let id = self.create_with_links(kind, input)?;
                Ok(Some(self.answer(kind, id, &[])))
            }
            "update" => {
                if id_property == Some("hs_object_id") {
                    return Err(Refusal::new(400, "VALIDATION_ERROR", "hs_object_id is a non-unique property"));
                }
                let id = self.by_key(kind, &key, id_property).ok_or_else(Refusal::not_found)?;
                if self.absorbed.contains_key(&(kind, id)) {
                    return Ok(None);
                }
                let properties = properties_of(input)?;
                self.edit_in_between(kind, id, &properties);
                self.update(kind, id, &properties, Change::Api)?;
                self.stats.updated += 1;
                Ok(Some(self.answer(kind, id, &properties.into_keys().collect::<Vec<_>>())))
            }
            _ => {
                let id_property = id_property
                    .filter(|name| {
                        self.definitions.get(&kind).is_some_and(|all| all.get(*name).is_some_and(|d| d.unique))
                    })
                    .ok_or_else(|| Refusal::new(400, "VALIDATION_ERROR", "idProperty must name a unique property"))?;
                let mut properties = properties_of(input)?;
                properties.entry(id_property.to_owned()).or_insert_with(|| key.clone());
                let existing = self.by_key(kind, &key, Some(id_property)).filter(|id| self.is_live(kind, *id));
                let id = match existing {
                    Some(id) => {
                        self.update(kind, id, &properties, Change::Api)?;
                        self.stats.updated += 1;
                        id
                    }
                    None => {
                        let made = self.create(kind, &properties, Change::Api)?;
                        self.stats.created += 1;
                        made
                    }
                };
                let mut record = self.answer(kind, id, &[]);
                record["new"] = existing.is_none().into();
                Ok(Some(record))
            }
        }
    }
}

fn error_entry(refusal: &Refusal, trace: &str, id: Option<String>) -> Json {
    let mut context = Map::new();
    if !trace.is_empty() {
        context.insert("objectWriteTraceId".into(), json!([trace]));
    }
    if let Some(id) = id {
        context.insert("ids".into(), json!([id]));
    }
    json!({
        "status": "error", "category": refusal.body["category"], "message": refusal.body["message"],
        "context": context, "links": {}, "errors": [],
    })
}
