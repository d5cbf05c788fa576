//! What a body of a write may say: types are strict, and what is not known is refused.

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Map, Value as Json, json};
use tandem_contract::Kind;

use super::world::{Refusal, World};

/// What a field of a body holds.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    TextOrNull,
    Number,
    NumberOrNull,
    Id,
    IdOrNull,
    Flag,
    Day,
    Moment,
    Ids,
    Contacts,
    Any,
}

/// Fields of contacts that are refused unless contact sync is on. Source: the published description of `POST /persons`.
const GUARDED: [&str; 5] = ["postal_address", "notes", "im", "birthday", "job_title"];

fn shape(kind: Kind, name: &str) -> Option<Shape> {
    Some(match (kind, name) {
        (Kind::Deal, "title") | (Kind::Contact | Kind::Company, "name") => Shape::Text,
        (Kind::Deal, "value") => Shape::NumberOrNull,
        (Kind::Deal, "currency" | "status") => Shape::Text,
        (Kind::Deal, "person_id") | (Kind::Deal | Kind::Contact, "org_id") => Shape::IdOrNull,
        (_, "owner_id") => Shape::Id,
        (Kind::Deal, "pipeline_id" | "stage_id") => Shape::Id,
        (Kind::Deal, "probability") => Shape::NumberOrNull,
        (Kind::Deal, "lost_reason" | "channel_id" | "archive_time") => Shape::TextOrNull,
        (Kind::Deal, "expected_close_date") => Shape::Day,
        (Kind::Deal, "close_time" | "won_time" | "lost_time") => Shape::Moment,
        (Kind::Deal, "is_archived") => Shape::Flag,
        (_, "visible_to") => Shape::Number,
        (_, "label_ids") => Shape::Ids,
        (Kind::Contact, "emails" | "phones") => Shape::Contacts,
        (Kind::Company, "address") | (_, "custom_fields") => Shape::Any,
        _ => return None,
    })
}

fn fits(shape: Shape, value: &Json) -> Result<(), &'static str> {
    let day = |text: &str| text.parse::<NaiveDate>().is_ok();
    let moment = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").is_ok();
    let (right, want) = match shape {
        Shape::Text => (value.as_str().is_some_and(|text| !text.is_empty()), "Expected string"),
        Shape::TextOrNull => (value.is_string() || value.is_null(), "Expected string"),
        Shape::Number => (value.is_number(), "Expected number"),
        Shape::NumberOrNull => (value.is_number() || value.is_null(), "Expected number"),
        Shape::Id => (value.is_u64(), "Expected number"),
        Shape::IdOrNull => (value.is_u64() || value.is_null(), "Expected number"),
        Shape::Flag => (value.is_boolean(), "Expected boolean"),
        Shape::Day => (value.is_null() || value.as_str().is_some_and(day), "Expected a date, YYYY-MM-DD"),
        Shape::Moment => {
            (value.is_null() || value.as_str().is_some_and(moment), "Expected a time, YYYY-MM-DD HH:MM:SS")
        }
        Shape::Ids => {
            (value.is_null() || value.as_array().is_some_and(|all| all.iter().all(Json::is_u64)), "Expected array")
        }
        Shape::Contacts => {
            (value.as_array().is_some_and(|all| all.iter().all(|one| one["value"].is_string())), "Expected array")
        }
        Shape::Any => (value.is_object(), "Expected object"),
    };
    if right { Ok(()) } else { Err(want) }
}

impl World {
    /// Checks a body's members; answers those that are stored.
    pub(super) fn checked(&self, kind: Kind, body: &Json, is_new: bool) -> Result<Map<String, Json>, Refusal> {
        let members = body.as_object().ok_or_else(|| Refusal::new(400, "Request body is not an object"))?;
        let mut stored = Map::new();
        for (name, value) in members {
            match name.as_str() {
                "origin_id" if is_new => continue,
                "is_deleted" => return Err(Refusal::invalid("is_deleted", "cannot be set this way")),
                guarded if kind == Kind::Contact && GUARDED.contains(&guarded) => {
                    return Err(Refusal::new(403, "Contact sync is not enabled"));
                }
                _ => {}
            }
            let shape = shape(kind, name).ok_or_else(|| Refusal::invalid(name, "Unrecognized key"))?;
            fits(shape, value).map_err(|why| Refusal::invalid(name, why))?;
            stored.insert(name.clone(), value.clone());
        }
        let name = if kind == Kind::Deal { "title" } else { "name" };
        if is_new && !stored.contains_key(name) {
            return Err(Refusal::invalid(name, "Required"));
        }
        self.check_references(kind, &stored)?;
        if let Some(custom) = stored.get("custom_fields").and_then(Json::as_object) {
            for (code, value) in custom {
                self.check_custom(kind, code, value)?;
            }
        }
        Ok(stored)
    }

    fn check_references(&self, kind: Kind, stored: &Map<String, Json>) -> Result<(), Refusal> {
        let id = |name: &str| stored.get(name).and_then(Json::as_u64);
        let live = |kind: Kind, id: u64| self.object(kind, id).is_some_and(|object| object.deleted.is_none());
        if id("owner_id").is_some_and(|id| !self.users.iter().any(|user| user.id == id)) {
            return Err(Refusal::invalid("owner_id", "User not found"));
        }
        if kind == Kind::Deal && id("person_id").is_some_and(|id| !live(Kind::Contact, id)) {
            return Err(Refusal::invalid("person_id", "Person not found"));
        }
        if id("org_id").is_some_and(|id| !live(Kind::Company, id)) {
            return Err(Refusal::invalid("org_id", "Organization not found"));
        }
        if id("pipeline_id").is_some_and(|id| !self.has_pipeline(id)) {
            return Err(Refusal::invalid("pipeline_id", "Pipeline not found"));
        }
        match (id("stage_id"), id("pipeline_id")) {
            (Some(stage), _) if self.pipeline_of(stage).is_none() => {
                Err(Refusal::invalid("stage_id", "Stage not found"))
            }
            (Some(stage), Some(pipeline))
                if self.settings.foreign_stage_refused && self.pipeline_of(stage) != Some(pipeline) =>
            {
                Err(Refusal::invalid("stage_id", "Stage is not in the pipeline"))
            }
            _ => Ok(()),
        }
    }

    fn check_custom(&self, kind: Kind, code: &str, value: &Json) -> Result<(), Refusal> {
        let name = format!("custom_fields.{code}");
        let field = self.field(kind, code).ok_or_else(|| Refusal::invalid(&name, "Unrecognized key"))?;
        let known = |id: &Json| field.options.iter().any(|(option, _)| Some(*option) == id.as_u64());
        let right = value.is_null()
            || match field.kind.as_str() {
                "double" => value.is_number(),
                "enum" => known(value),
                "set" => value.as_array().is_some_and(|ids| !ids.is_empty() && ids.iter().all(known)),
                "date" => value.as_str().is_some_and(|text| text.parse::<NaiveDate>().is_ok()),
                "monetary" => value["value"].is_number() && value["currency"].is_string(),
                "varchar" => value.as_str().is_some_and(|text| text.chars().count() <= 255),
                "text" | "phone" => value.is_string(),
                "varchar_auto" => false,
                _ => true,
            };
        if right { Ok(()) } else { Err(Refusal::invalid(&name, "Invalid value")) }
    }

    /// Checks what depends on the deal as it will be.
    pub(super) fn check_status(sent: &Map<String, Json>, status: &str) -> Result<(), Refusal> {
        if !matches!(status, "open" | "won" | "lost") {
            return Err(Refusal::invalid("status", "Expected open, won or lost"));
        }
        let said = |name: &str| sent.get(name).is_some_and(|value| !value.is_null());
        for (name, of) in [("lost_reason", "lost"), ("lost_time", "lost"), ("won_time", "won")] {
            if said(name) && status != of {
                return Err(Refusal::invalid(name, "goes with another status only"));
            }
        }
        if said("close_time") && status == "open" {
            return Err(Refusal::invalid("close_time", "goes with a closed deal only"));
        }
        Ok(())
    }

    /// What a new record has before anybody said anything.
    pub(super) fn blank(&self, kind: Kind) -> Map<String, Json> {
        let owner = self.users.first().map_or(0, |user| user.id);
        let pipeline = self.pipelines.iter().find(|pipeline| !pipeline.deleted).map_or(0, |pipeline| pipeline.id);
        let blank = match kind {
            Kind::Deal => json!({
                "title": "", "creator_user_id": owner, "owner_id": owner,
                "value": if self.settings.no_value_is_zero { json!(0) } else { Json::Null },
                "currency": self.settings.currency, "person_id": null, "org_id": null, "pipeline_id": pipeline,
                "stage_id": self.first_stage(pipeline), "stage_change_time": null, "status": "open", "is_deleted": false,
                "is_archived": false, "archive_time": null, "probability": null, "lost_reason": null, "visible_to": 3,
                "close_time": null, "won_time": null, "lost_time": null, "local_won_date": null, "local_lost_date": null,
                "local_close_date": null, "expected_close_date": null, "label_ids": [], "origin": "API", "origin_id": null,
                "channel": null, "channel_id": null, "source_lead_id": null, "acv": null, "arr": null, "mrr": null,
            }),
            Kind::Contact => json!({
                "name": "", "first_name": null, "last_name": null, "owner_id": owner, "org_id": null, "emails": [],
                "phones": [], "is_deleted": false, "visible_to": 3, "label_ids": [], "picture_id": null,
            }),
            _ => json!({
                "name": "", "owner_id": owner, "is_deleted": false, "visible_to": 3, "label_ids": [], "address": null,
            }),
        };
        match blank {
            Json::Object(members) => members,
            _ => Map::new(),
        }
    }
}
