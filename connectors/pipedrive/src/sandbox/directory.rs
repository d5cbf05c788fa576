//! Pipelines, stages, people, custom fields and tokens.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::Query;

use super::world::{Refusal, World};

/// A pipeline.
#[derive(Clone, Debug)]
pub struct PipelineDef {
    pub id: u64,
    pub name: String,
    pub deleted: bool,
}

/// A stage of a pipeline; its place is its place in the list.
#[derive(Clone, Debug)]
pub struct StageDef {
    pub id: u64,
    pub pipeline: u64,
    pub name: String,
    pub probability: u8,
    pub deleted: bool,
}

/// A user.
#[derive(Clone, Debug)]
pub struct UserDef {
    pub id: u64,
    pub name: String,
    pub email: String,
    pub active: bool,
}

/// A custom field.
#[derive(Clone, Debug)]
pub struct FieldDef {
    pub code: String,
    pub name: String,
    pub kind: String,
    pub options: Vec<(u64, String)>,
}

/// Types of custom fields that can be made. Source: the published description of `POST /dealFields`.
const TYPES: [&str; 16] = [
    "varchar",
    "text",
    "double",
    "phone",
    "date",
    "daterange",
    "time",
    "timerange",
    "set",
    "enum",
    "varchar_auto",
    "address",
    "monetary",
    "org",
    "people",
    "user",
];

impl World {
    /// What a new company has.
    pub(super) fn furnish(&mut self) {
        self.pipelines.push(PipelineDef { id: 1, name: "Pipeline".into(), deleted: false });
        for (id, name, probability) in
            [(1, "Qualified", 20), (2, "Contact made", 40), (3, "Demo scheduled", 60), (4, "Negotiations started", 80)]
        {
            self.stages.push(StageDef { id, pipeline: 1, name: name.into(), probability, deleted: false });
        }
        for (id, name, email) in [(12, "Ines Vega", "ines@example.com"), (14, "Tom Lund", "tom@example.com")] {
            self.users.push(UserDef { id, name: name.into(), email: email.into(), active: true });
        }
    }

    /// Adds a pipeline with these stages and their probabilities; answers its id and theirs.
    pub fn add_pipeline(&mut self, name: &str, stages: &[(&str, u8)]) -> (u64, Vec<u64>) {
        let id = self.next_id();
        self.pipelines.push(PipelineDef { id, name: name.into(), deleted: false });
        let stages = stages.iter().map(|(name, probability)| self.add_stage(id, name, *probability)).collect();
        (id, stages)
    }

    /// Adds a stage to a pipeline, as an administrator may.
    pub fn add_stage(&mut self, pipeline: u64, name: &str, probability: u8) -> u64 {
        let id = self.next_id();
        self.stages.push(StageDef { id, pipeline, name: name.into(), probability, deleted: false });
        id
    }

    /// Adds a person who can own records.
    pub fn add_user(&mut self, name: &str, email: &str) {
        let id = self.next_id();
        self.users.push(UserDef { id, name: name.into(), email: email.into(), active: true });
    }

    /// Makes a custom field; answers its key. Two may have one name.
    pub fn add_field(&mut self, kind: Kind, name: &str, field_type: &str, options: &[&str]) -> String {
        let code: String = (0..40).map(|_| char::from_digit(self.rng.random_range(0..16), 16).unwrap_or('0')).collect();
        let options = options.iter().map(|label| (self.next_id(), (*label).to_owned())).collect();
        let field = FieldDef { code: code.clone(), name: name.into(), kind: field_type.into(), options };
        self.fields.entry(kind).or_default().push(field);
        code
    }

    /// Adds an option to a field; answers its id.
    pub fn add_option(&mut self, kind: Kind, name: &str, label: &str) -> Option<u64> {
        let id = self.next_id();
        let field = self.fields.get_mut(&kind)?.iter_mut().find(|field| field.name == name || field.code == name)?;
        field.options.push((id, label.into()));
        Some(id)
    }

    /// The id of a field's first option of this label.
    #[must_use]
    pub fn option_id(&self, kind: Kind, name: &str, label: &str) -> Option<u64> {
        let field = self.fields.get(&kind)?.iter().find(|field| field.name == name || field.code == name)?;
        field.options.iter().find(|(_, known)| known == label).map(|(id, _)| *id)
    }

    /// Removes a custom field and what it held, as an administrator may.
    pub fn remove_field(&mut self, kind: Kind, name: &str) {
        self.fields.entry(kind).or_default().retain(|field| field.name != name);
    }

    /// The key of the first custom field of this name.
    #[must_use]
    pub fn field_code(&self, kind: Kind, name: &str) -> Option<String> {
        self.fields.get(&kind)?.iter().find(|field| field.name == name).map(|field| field.code.clone())
    }

    pub(super) fn field(&self, kind: Kind, code: &str) -> Option<&FieldDef> {
        self.fields.get(&kind)?.iter().find(|field| field.code == code)
    }

    pub(super) fn first_stage(&self, pipeline: u64) -> Option<u64> {
        self.stages.iter().find(|stage| stage.pipeline == pipeline && !stage.deleted).map(|stage| stage.id)
    }

    pub(super) fn pipeline_of(&self, stage: u64) -> Option<u64> {
        self.stages.iter().find(|known| known.id == stage && !known.deleted).map(|known| known.pipeline)
    }

    pub(super) fn has_pipeline(&self, id: u64) -> bool {
        self.pipelines.iter().any(|pipeline| pipeline.id == id && !pipeline.deleted)
    }

    pub(super) fn show_pipelines(&self) -> Vec<Json> {
        let live = self.pipelines.iter().filter(|pipeline| !pipeline.deleted);
        live.enumerate()
            .map(|(place, pipeline)| {
                json!({
                    "id": pipeline.id, "name": pipeline.name, "order_nr": place, "is_deleted": false,
                    "is_deal_probability_enabled": true, "add_time": "2024-01-01T00:00:00Z",
                    "update_time": "2024-01-01T00:00:00Z",
                })
            })
            .collect()
    }

    pub(super) fn show_stages(&self, query: &Query) -> Vec<Json> {
        let asked: Option<u64> = query.text("pipeline_id").and_then(|id| id.parse().ok());
        let live = self.stages.iter().filter(|stage| !stage.deleted && asked.is_none_or(|id| id == stage.pipeline));
        live.enumerate()
            .map(|(place, stage)| {
                json!({
                    "id": stage.id, "order_nr": place, "name": stage.name, "is_deleted": false,
                    "deal_probability": stage.probability, "pipeline_id": stage.pipeline, "is_deal_rot_enabled": false,
                    "days_to_rotten": null, "add_time": "2024-01-01T00:00:00Z", "update_time": null,
                })
            })
            .collect()
    }

    pub(super) fn show_field(field: &FieldDef) -> Json {
        let options: Vec<Json> = field.options.iter().map(|(id, label)| json!({ "id": id, "label": label })).collect();
        let has_options = matches!(field.kind.as_str(), "enum" | "set");
        json!({
            "field_name": field.name, "field_code": field.code, "field_type": field.kind,
            "options": if has_options { Json::Array(options) } else { Json::Null }, "subfields": null,
            "is_custom_field": true, "is_optional_response_field": false,
        })
    }

    pub(super) fn show_fields(&self, kind: Kind) -> Vec<Json> {
        let system = |code: &str, name: &str, field_type: &str| {
            json!({
                "field_name": name, "field_code": code, "field_type": field_type, "options": null, "subfields": null,
                "is_custom_field": false, "is_optional_response_field": false,
            })
        };
        let mut all = match kind {
            Kind::Deal => vec![
                system("title", "Title", "varchar"),
                system("value", "Value", "double"),
                system("stage_id", "Stage", "stage"),
                system("status", "Status", "status"),
            ],
            _ => vec![system("name", "Name", "varchar"), system("owner_id", "Owner", "user")],
        };
        all.extend(self.fields.get(&kind).into_iter().flatten().map(Self::show_field));
        all
    }

    /// Makes a field as the API does.
    pub(super) fn make_field(&mut self, kind: Kind, body: &Json) -> Result<Json, Refusal> {
        let text =
            |name: &str| body.get(name).and_then(Json::as_str).filter(|text| !text.is_empty() && text.len() <= 255);
        let name = text("field_name").ok_or_else(|| Refusal::invalid("field_name", "Required"))?;
        let field_type = text("field_type").filter(|kind| TYPES.contains(kind));
        let field_type = field_type.ok_or_else(|| Refusal::invalid("field_type", "Invalid option"))?;
        let labels: Vec<&str> =
            body["options"].as_array().into_iter().flatten().filter_map(|o| o["label"].as_str()).collect();
        let code = self.add_field(kind, name, field_type, &labels);
        let made = self.field(kind, &code).map(Self::show_field);
        made.ok_or_else(|| Refusal::not_found("Field"))
    }

    pub(super) fn show_user(&self, user: &UserDef) -> Json {
        json!({
            "id": user.id, "name": user.name, "email": user.email, "active_flag": user.active, "is_deleted": false,
            "timezone_name": self.settings.timezone, "default_currency": self.settings.currency, "role_id": 1,
        })
    }

    pub(super) fn show_me(&self) -> Result<Json, Refusal> {
        let me = self.users.first().ok_or_else(|| Refusal::not_found("User"))?;
        let mut shown = self.show_user(me);
        shown["company_id"] = self.settings.company_id.into();
        shown["company_domain"] = self.settings.company_domain.clone().into();
        shown["company_name"] = "Glow Clinic".into();
        Ok(shown)
    }

    pub(super) fn show_currencies(&self) -> Vec<Json> {
        let all = std::iter::once(&self.settings.currency).chain(&self.settings.currencies);
        all.enumerate()
            .map(|(place, code)| json!({ "id": place + 1, "code": code, "name": code, "active_flag": true }))
            .collect()
    }

    /// A person lets the app in: the code that their browser brings back. `None` for an app that is not known.
    pub fn consent(&mut self, client_id: &str, redirect_uri: &str) -> Option<String> {
        if client_id != self.settings.client_id || redirect_uri != self.settings.redirect_uri {
            return None;
        }
        let code = format!("{:032x}", self.rng.random::<u128>());
        self.codes.insert(code.clone(), self.now + TimeDelta::seconds(self.settings.code_seconds));
        Some(code)
    }

    /// Exchanges a grant, or the code of a consent.
    pub(super) fn oauth(&mut self, login: Option<&str>, form: &Query) -> (u16, Json) {
        let refuse = |code: &str| (400, json!({ "success": false, "error": code, "error_description": code }));
        let want = STANDARD.encode(format!("{}:{}", self.settings.client_id, self.settings.client_secret));
        if login != Some(want.as_str()) {
            return refuse("invalid_client");
        }
        let given = |name: &str| form.text(name).unwrap_or_default();
        let (stands, is_first) = match given("grant_type").as_str() {
            "refresh_token" => {
                let idle = self.now - self.grant_used > TimeDelta::days(self.settings.grant_days);
                let refresh = given("refresh_token");
                (!refresh.is_empty() && refresh == self.settings.refresh_token && !idle, false)
            }
            "authorization_code" => {
                // Good for once, whatever comes of it.
                let ends = self.codes.remove(&given("code"));
                if given("redirect_uri") != self.settings.redirect_uri {
                    return refuse("invalid_request");
                }
                (ends.is_some_and(|ends| self.now < ends), true)
            }
            _ => return refuse("unsupported_grant_type"),
        };
        if !stands {
            return refuse("invalid_grant");
        }
        if is_first || self.settings.rotate_refresh_token {
            self.settings.refresh_token = format!("{}:12:{:032x}", self.settings.company_id, self.rng.random::<u128>());
        }
        self.grant_used = self.now;
        let token = format!("v1u:{:032x}", self.rng.random::<u128>());
        let life = TimeDelta::seconds(i64::try_from(self.settings.token_seconds).unwrap_or(3_599));
        self.tokens.insert(token.clone(), self.now + life);
        let mut body = json!({
            "access_token": token, "token_type": "Bearer", "refresh_token": self.settings.refresh_token,
            "scope": self.settings.scopes.join(","), "expires_in": self.settings.token_seconds,
        });
        if !self.settings.api_domain.is_empty() {
            body["api_domain"] = self.settings.api_domain.clone().into();
        }
        (200, body)
    }
}
