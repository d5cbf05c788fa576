//! Making, changing, deleting and merging records, by people and through the API.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::{Map, Value as Json, json};
use tandem_contract::Kind;

use super::world::{Change, Logged, Object, Refusal, World};
use crate::item::{for_query, read_time};

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Contact => "Person",
        Kind::Company => "Organization",
        _ => "Deal",
    }
}

impl World {
    /// Makes a record from a body of the API.
    ///
    /// # Errors
    /// What Pipedrive refuses.
    pub fn create(&mut self, kind: Kind, body: &Json, by: Change) -> Result<u64, Refusal> {
        let sent = self.checked(kind, body, true)?;
        let id = self.next_id();
        let now = self.now.trunc_subsecs(0);
        let object = Object {
            id,
            values: self.blank(kind),
            custom: BTreeMap::new(),
            created: now,
            updated: (!self.settings.fresh_has_no_update_time).then_some(now),
            deleted: None,
            log: Vec::new(),
        };
        self.objects.entry(kind).or_default().insert(id, object);
        if let Err(refusal) = self.apply(kind, id, sent, by, true) {
            self.objects.entry(kind).or_default().remove(&id);
            return Err(refusal);
        }
        if by == Change::Api {
            self.stats.created += 1;
        }
        self.tell(kind, id, "create", by, Json::Null, Json::Null);
        Ok(id)
    }

    /// Changes a record by a body of the API.
    ///
    /// # Errors
    /// What Pipedrive refuses; 404 for a record that is not there.
    pub fn update(&mut self, kind: Kind, id: u64, body: &Json, by: Change) -> Result<(), Refusal> {
        if self.object(kind, id).is_none_or(|object| object.deleted.is_some()) {
            return Err(Refusal::not_found(word(kind)));
        }
        let sent = self.checked(kind, body, false)?;
        let previous = self.apply(kind, id, sent, by, false)?;
        if by == Change::Api {
            self.stats.updated += 1;
        }
        if !previous.is_empty() {
            self.tell(kind, id, "change", by, Json::Object(previous), Json::Null);
        }
        Ok(())
    }

    /// Stores what was sent and what follows from it; answers the old values of what changed.
    fn apply(
        &mut self,
        kind: Kind,
        id: u64,
        mut sent: Map<String, Json>,
        by: Change,
        is_new: bool,
    ) -> Result<Map<String, Json>, Refusal> {
        let now = self.now.trunc_subsecs(0);
        let custom = sent.remove("custom_fields");
        let Some(object) = self.object(kind, id) else { return Err(Refusal::not_found(word(kind))) };
        let mut next = object.values.clone();
        if kind == Kind::Deal {
            let status = sent.get("status").or(next.get("status")).and_then(Json::as_str).unwrap_or("open").to_owned();
            Self::check_status(&sent, &status)?;
            let was = next.get("status").and_then(Json::as_str).unwrap_or("open").to_owned();
            self.follow(&mut sent, &next, &was, &status, now);
        }
        if kind == Kind::Contact
            && let Some(name) = sent.get("name").and_then(Json::as_str)
        {
            let (first, last) = name.trim().split_once(' ').unwrap_or((name.trim(), ""));
            let (first, last) = (first.to_owned(), last.trim().to_owned());
            sent.insert("first_name".into(), first.into());
            sent.insert("last_name".into(), if last.is_empty() { Json::Null } else { last.into() });
        }
        let mut log = Vec::new();
        let mut previous = Map::new();
        for (name, value) in sent {
            let old = next.insert(name.clone(), value.clone()).unwrap_or_default();
            if old != value {
                log.push(Logged { field: name.clone(), old: old.clone(), new: value, at: now, by });
                previous.insert(name, old);
            }
        }
        let mut customs = object.custom.clone();
        let mut old_customs = Map::new();
        for (code, value) in custom.as_ref().and_then(Json::as_object).into_iter().flatten() {
            let old = customs.insert(code.clone(), value.clone()).unwrap_or_default();
            if old != *value {
                log.push(Logged { field: code.clone(), old: old.clone(), new: value.clone(), at: now, by });
                old_customs.insert(code.clone(), old);
            }
        }
        if !old_customs.is_empty() {
            previous.insert("custom_fields".into(), old_customs.into());
        }
        let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id)) else {
            return Err(Refusal::not_found(word(kind)));
        };
        (object.values, object.custom) = (next, customs);
        if !previous.is_empty() && !is_new {
            previous.insert("update_time".into(), object.updated.map_or(Json::Null, |at| for_query(at).into()));
            object.updated = Some(now);
        }
        if !is_new {
            object.log.extend(log);
        }
        Ok(previous)
    }

    /// What a change of a deal brings with it.
    fn follow(
        &self,
        sent: &mut Map<String, Json>,
        known: &Map<String, Json>,
        was: &str,
        status: &str,
        now: DateTime<Utc>,
    ) {
        let stage = sent.get("stage_id").and_then(Json::as_u64);
        match (stage.and_then(|stage| self.pipeline_of(stage)), sent.get("pipeline_id").and_then(Json::as_u64)) {
            (Some(pipeline), _) => drop(sent.insert("pipeline_id".into(), pipeline.into())),
            (None, Some(pipeline)) if known.get("pipeline_id").and_then(Json::as_u64) != Some(pipeline) => {
                sent.insert("stage_id".into(), self.first_stage(pipeline).into());
            }
            _ => {}
        }
        if stage.is_some() && known.get("stage_id").and_then(Json::as_u64) != stage {
            sent.insert("stage_change_time".into(), for_query(now).into());
        }
        let moment = |text: &Json| text.as_str().and_then(read_time).map(for_query);
        let given = ["won_time", "lost_time", "close_time"].iter().find_map(|name| moment(sent.get(*name)?));
        for name in ["won_time", "lost_time", "close_time"] {
            if let Some(at) = sent.get(name).and_then(moment) {
                sent.insert(name.into(), at.into());
            }
        }
        match (was, status) {
            (_, "won" | "lost") if was != status || given.is_some() => {
                let at: Json = given.unwrap_or_else(|| for_query(now)).into();
                sent.insert(format!("{status}_time"), at.clone());
                sent.insert("close_time".into(), at);
                let other = if status == "won" { "lost_time" } else { "won_time" };
                sent.insert(other.into(), Json::Null);
                if status == "won" && was == "lost" {
                    sent.insert("lost_reason".into(), Json::Null);
                }
            }
            ("won" | "lost", "open") => {
                sent.insert("lost_reason".into(), Json::Null);
                if self.settings.reopening_clears_times {
                    for name in ["won_time", "lost_time", "close_time"] {
                        sent.insert(name.into(), Json::Null);
                    }
                }
            }
            _ => {}
        }
        if sent.get("value").is_some_and(Json::is_null) && self.settings.no_value_is_zero {
            sent.insert("value".into(), 0.into());
        }
        if sent.contains_key("value") && self.settings.value_resets_probability {
            sent.insert("probability".into(), Json::Null);
        }
        if let Some(archived) = sent.get("is_archived").and_then(Json::as_bool)
            && !sent.contains_key("archive_time")
        {
            sent.insert("archive_time".into(), if archived { for_query(now).into() } else { Json::Null });
        }
    }

    /// Deletes a record; it is kept for a while.
    ///
    /// # Errors
    /// 404 for a record that is not there.
    pub fn delete(&mut self, kind: Kind, id: u64, by: Change) -> Result<(), Refusal> {
        self.bury(kind, id, by, None)
    }

    fn bury(&mut self, kind: Kind, id: u64, by: Change, merged_to: Option<u64>) -> Result<(), Refusal> {
        let now = self.now.trunc_subsecs(0);
        let object = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id));
        let Some(object) = object.filter(|object| object.deleted.is_none()) else {
            return Err(Refusal::not_found(word(kind)));
        };
        object.deleted = Some(now);
        object.updated = Some(now);
        let last = self.show(kind, id);
        if by == Change::Api {
            self.stats.deleted += 1;
        }
        let more = merged_to.map_or(Json::Null, |to| json!({ "merged_to_id": to }));
        self.tell(kind, id, "delete", by, last, more);
        Ok(())
    }

    /// Takes a deleted record back; only a person can.
    ///
    /// # Errors
    /// 404 for a record that is not deleted.
    pub fn restore(&mut self, kind: Kind, id: u64) -> Result<(), Refusal> {
        let now = self.now.trunc_subsecs(0);
        let object = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&id));
        let Some(object) = object.filter(|object| object.deleted.is_some()) else {
            return Err(Refusal::not_found(word(kind)));
        };
        object.deleted = None;
        object.updated = Some(now);
        self.tell(kind, id, "create", Change::Person, Json::Null, Json::Null);
        Ok(())
    }

    /// Merges `lost` into `survivor`, whose values win; what is empty there is filled.
    ///
    /// # Errors
    /// 404 for a record that is not there, 400 for one merged with itself.
    pub fn merge(&mut self, kind: Kind, lost: u64, survivor: u64, by: Change) -> Result<(), Refusal> {
        if lost == survivor {
            return Err(Refusal::new(400, "Cannot merge an item with itself"));
        }
        let live = |world: &Self, id: u64| world.object(kind, id).filter(|object| object.deleted.is_none()).cloned();
        let (Some(gone), Some(_)) = (live(self, lost), live(self, survivor)) else {
            return Err(Refusal::not_found(word(kind)));
        };
        let now = self.now.trunc_subsecs(0);
        let is_blank = |value: &Json| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let mut previous = Map::new();
        if let Some(object) = self.objects.get_mut(&kind).and_then(|all| all.get_mut(&survivor)) {
            for (name, value) in gone.values {
                let known = object.values.entry(name.clone()).or_insert(Json::Null);
                if is_blank(known) && !is_blank(&value) {
                    object.log.push(Logged {
                        field: name.clone(),
                        old: known.clone(),
                        new: value.clone(),
                        at: now,
                        by,
                    });
                    previous.insert(name, std::mem::replace(known, value));
                }
            }
            for (code, value) in gone.custom {
                let known = object.custom.entry(code.clone()).or_default();
                if is_blank(known) && !is_blank(&value) {
                    object.log.push(Logged {
                        field: code.clone(),
                        old: known.clone(),
                        new: value.clone(),
                        at: now,
                        by,
                    });
                    *known = value;
                }
            }
            object.updated = Some(now);
        }
        if kind == Kind::Contact {
            for deal in self.objects.entry(Kind::Deal).or_default().values_mut() {
                if deal.values.get("person_id").and_then(Json::as_u64) == Some(lost) {
                    deal.values.insert("person_id".into(), survivor.into());
                    deal.updated = Some(now);
                }
            }
        }
        self.bury(kind, lost, by, Some(survivor))?;
        self.tell(kind, survivor, "change", by, previous.into(), json!({ "merged_from_id": lost }));
        Ok(())
    }

    /// A record as the second generation of the API states it.
    pub(super) fn show(&self, kind: Kind, id: u64) -> Json {
        let Some(object) = self.object(kind, id) else { return Json::Null };
        let mut shown = object.values.clone();
        shown.insert("id".into(), object.id.into());
        shown.insert("add_time".into(), for_query(object.created).into());
        shown.insert("update_time".into(), object.updated.map_or(Json::Null, |at| for_query(at).into()));
        if object.deleted.is_some() {
            shown.insert("is_deleted".into(), true.into());
            if kind == Kind::Deal && self.settings.deleted_is_a_status {
                shown.insert("status".into(), "deleted".into());
            }
        }
        let mut custom = Map::new();
        for field in self.fields.get(&kind).into_iter().flatten() {
            match object.custom.get(&field.code).filter(|value| !value.is_null()) {
                Some(value) => drop(custom.insert(field.code.clone(), value.clone())),
                None if self.settings.omit_empty_custom => {}
                None => drop(custom.insert(field.code.clone(), Json::Null)),
            }
        }
        shown.insert("custom_fields".into(), custom.into());
        shown.into()
    }

    /// One record by id, as the API answers.
    pub(super) fn get(&self, kind: Kind, id: u64) -> Result<Json, Refusal> {
        let object = self.object(kind, id).ok_or_else(|| Refusal::not_found(word(kind)))?;
        if object.deleted.is_some() && !self.settings.deleted_by_id {
            return Err(Refusal::not_found(word(kind)));
        }
        Ok(self.show(kind, id))
    }

    /// A deal's changelog.
    pub(super) fn changelog(&self, id: u64) -> Result<Vec<Json>, Refusal> {
        let object = self.object(Kind::Deal, id).ok_or_else(|| Refusal::not_found("Deal"))?;
        let text = |value: &Json| match value {
            Json::Null => Json::Null,
            Json::String(text) => text.clone().into(),
            Json::Array(ids) => ids.iter().map(Json::to_string).collect::<Vec<_>>().join(",").into(),
            other => other.to_string().into(),
        };
        let user = self.users.first().map_or(0, |user| user.id);
        let mut entries: Vec<Json> = object
            .log
            .iter()
            .map(|entry| {
                json!({
                    "field_key": entry.field, "old_value": text(&entry.old), "new_value": text(&entry.new),
                    "actor_user_id": user, "time": entry.at.format("%Y-%m-%d %H:%M:%S").to_string(),
                    "change_source": entry.by.source(), "change_source_user_agent": null, "is_bulk_update_flag": false,
                })
            })
            .collect();
        if !self.settings.changelog_oldest_first {
            entries.reverse();
        }
        Ok(entries)
    }
}
