//! Properties, pipelines, owners, the account itself and its tokens.

use chrono::TimeDelta;
use rand::Rng;
use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::Query;

use super::{
    objects::text_of,
    world::{OwnerDef, PipelineDef, PropertyDef, Refusal, StageDef, World, iso},
};

type Answer = Result<(u16, Json), Refusal>;

fn text(kind: &str, field: &str) -> (String, String) {
    (kind.to_owned(), field.to_owned())
}

impl World {
    /// HubSpot's default properties, pipeline and a few owners.
    pub(super) fn furnish(&mut self) {
        let string = ("string", "text");
        let deal = [
            ("dealname", string),
            ("description", ("string", "textarea")),
            ("amount", ("number", "number")),
            ("deal_currency_code", string),
            ("closedate", ("datetime", "date")),
            ("pipeline", ("enumeration", "select")),
            ("dealstage", ("enumeration", "radio")),
            ("closed_lost_reason", ("string", "textarea")),
            ("closed_won_reason", ("string", "textarea")),
            ("hubspot_owner_id", ("enumeration", "select")),
            ("dealtype", string),
        ];
        let contact = [
            ("firstname", string),
            ("lastname", string),
            ("email", string),
            ("phone", ("string", "phonenumber")),
            ("company", string),
            ("lifecyclestage", string),
            ("hubspot_owner_id", ("enumeration", "select")),
        ];
        let company = [("name", string), ("domain", string), ("phone", ("string", "phonenumber"))];
        for (kind, list) in [(Kind::Deal, &deal[..]), (Kind::Contact, &contact[..]), (Kind::Company, &company[..])] {
            for (name, (kind_of, field)) in list {
                self.define(kind, name, text(kind_of, field), *name == "email", false);
            }
            for name in ["hs_object_id", "createdate", crate::paths::modified_property(kind), "hs_merged_object_ids"] {
                self.define(kind, name, text("string", "text"), false, true);
            }
        }
        for name in ["hs_is_closed", "hs_is_closed_won", "hs_is_closed_lost", "hs_deal_stage_probability"] {
            self.define(Kind::Deal, name, text("string", "text"), false, true);
        }
        self.add_pipeline(
            "default",
            "Sales",
            &[
                ("appointmentscheduled", "Appointment scheduled", 0.2),
                ("qualifiedtobuy", "Qualified to buy", 0.4),
                ("presentationscheduled", "Presentation scheduled", 0.6),
                ("decisionmakerboughtin", "Decision maker bought in", 0.8),
                ("contractsent", "Contract sent", 0.9),
                ("closedwon", "Closed won", 1.0),
                ("closedlost", "Closed lost", 0.0),
            ],
        );
        for (id, first, last) in [(55_012, "Ana", "Ito"), (55_013, "Bo", "Lund"), (55_014, "Chidi", "Okafor")] {
            self.add_owner(id, &format!("{}@clinic.example.com", first.to_lowercase()), first, last);
        }
    }

    fn define(
        &mut self,
        kind: Kind,
        name: &str,
        (kind_of, field_type): (String, String),
        unique: bool,
        read_only: bool,
    ) {
        let definition = PropertyDef {
            name: name.into(),
            label: name.replace('_', " "),
            kind: kind_of,
            field_type,
            group: if kind == Kind::Deal { "dealinformation" } else { "contactinformation" }.into(),
            unique,
            read_only,
            options: Vec::new(),
            usable_from: self.now,
            archived: false,
        };
        self.definitions.entry(kind).or_default().insert(name.into(), definition);
    }

    /// Adds a custom property. Types and field types are HubSpot's words; options only for enumerations.
    pub fn add_property(&mut self, kind: Kind, name: &str, kind_of: &str, field_type: &str, options: &[&str]) {
        self.define(kind, name, text(kind_of, field_type), false, false);
        if let Some(definition) = self.definitions.get_mut(&kind).and_then(|all| all.get_mut(name)) {
            definition.options = options.iter().map(|option| ((*option).to_owned(), (*option).to_owned())).collect();
        }
    }

    /// Adds a pipeline with stages of (id, label, probability).
    pub fn add_pipeline(&mut self, id: &str, label: &str, stages: &[(&str, &str, f64)]) {
        let stages = stages
            .iter()
            .map(|(id, label, probability)| StageDef {
                id: (*id).into(),
                label: (*label).into(),
                probability: *probability,
                closed: *probability <= 0.0 || *probability >= 1.0,
            })
            .collect();
        self.pipelines.push(PipelineDef { id: id.into(), label: label.into(), stages });
    }

    /// Pipelines with the stages that are not closed, and how likely each is to win: what a system of another make that is
    /// run beside this one would have.
    #[must_use]
    pub fn open_stages(&self) -> Vec<(String, Vec<(String, u8)>)> {
        let percent = |probability: f64| (probability * 100.0).round().clamp(0.0, 100.0) as u8;
        let stages = |pipeline: &PipelineDef| {
            let open = pipeline.stages.iter().filter(|stage| !stage.closed);
            open.map(|stage| (stage.label.clone(), percent(stage.probability))).collect()
        };
        self.pipelines.iter().map(|pipeline| (pipeline.label.clone(), stages(pipeline))).collect()
    }

    /// The addresses of everybody records can belong to.
    #[must_use]
    pub fn owner_emails(&self) -> Vec<String> {
        self.owners.iter().filter(|owner| !owner.archived).map(|owner| owner.email.clone()).collect()
    }

    /// Adds a person records can belong to.
    pub fn add_owner(&mut self, id: u64, email: &str, first: &str, last: &str) {
        self.owners.push(OwnerDef { id, email: email.into(), first: first.into(), last: last.into(), archived: false });
    }

    /// Puts a person away: no longer on the list of active owners, and still on their records.
    pub fn archive_owner(&mut self, id: u64) {
        if let Some(owner) = self.owners.iter_mut().find(|owner| owner.id == id) {
            owner.archived = true;
        }
    }

    pub(super) fn properties_route(
        &mut self,
        kind: Kind,
        method: &str,
        rest: &[&str],
        query: &Query,
        body: &Json,
    ) -> Answer {
        match (method, rest) {
            ("GET", []) => {
                let archived = query.flag("archived");
                let list: Vec<Json> = self
                    .definitions
                    .get(&kind)
                    .into_iter()
                    .flat_map(std::collections::BTreeMap::values)
                    .filter(|d| d.archived == archived && d.usable_from <= self.now)
                    .map(|d| self.property_json(d))
                    .collect();
                Ok((200, json!({ "results": list })))
            }
            ("GET", ["groups"]) => Ok((
                200,
                json!({ "results": [{ "name": "dealinformation", "label": "Deal information", "displayOrder": 0, "archived": false }] }),
            )),
            ("GET", [name]) => {
                let found = self.definitions.get(&kind).and_then(|all| all.get(*name));
                let found =
                    found.filter(|d| !d.archived && d.usable_from <= self.now).ok_or_else(Refusal::not_found)?;
                Ok((200, self.property_json(found)))
            }
            ("POST", []) => self.create_property(kind, body),
            ("PATCH", [name]) => {
                let label = text_of(body.get("label"));
                let definition = self
                    .definitions
                    .get_mut(&kind)
                    .and_then(|all| all.get_mut(*name))
                    .ok_or_else(Refusal::not_found)?;
                if !label.is_empty() {
                    definition.label = label;
                }
                if let Some(options) = body.get("options").and_then(Json::as_array) {
                    definition.options =
                        options.iter().map(|o| (text_of(o.get("value")), text_of(o.get("label")))).collect();
                }
                let definition = definition.clone();
                Ok((200, self.property_json(&definition)))
            }
            ("DELETE", [name]) => {
                self.remove_property(kind, name);
                Ok((204, Json::Null))
            }
            _ => Err(Refusal::not_found()),
        }
    }

    fn create_property(&mut self, kind: Kind, body: &Json) -> Answer {
        let name = text_of(body.get("name"));
        if name.is_empty() || name.chars().any(|c| c.is_ascii_uppercase() || c == ' ') {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "a property's name is lower case without blanks"));
        }
        let all = self.definitions.entry(kind).or_default();
        match all.get_mut(&name) {
            // Making an archived name again brings the old definition back.
            Some(old) if old.archived => old.archived = false,
            Some(_) => {
                let mut refusal =
                    Refusal::new(409, "OBJECT_ALREADY_EXISTS", format!("A property named {name} already exists."));
                refusal.body["subCategory"] = "Properties.PROPERTY_WITH_NAME_EXISTS".into();
                return Err(refusal);
            }
            None => {
                let unique = body.get("hasUniqueValue").and_then(Json::as_bool).unwrap_or(false);
                if unique && all.values().filter(|d| d.unique && d.name != "email").count() >= 10 {
                    return Err(Refusal::new(400, "VALIDATION_ERROR", "at most 10 unique properties"));
                }
                let definition = PropertyDef {
                    label: text_of(body.get("label")),
                    kind: text_of(body.get("type")),
                    field_type: text_of(body.get("fieldType")),
                    group: text_of(body.get("groupName")),
                    unique,
                    read_only: false,
                    options: Vec::new(),
                    usable_from: self.now
                        + TimeDelta::milliseconds(i64::try_from(self.settings.property_delay_ms).unwrap_or(0)),
                    archived: false,
                    name: name.clone(),
                };
                all.insert(name.clone(), definition);
            }
        }
        let definition = self.definitions.get(&kind).and_then(|all| all.get(&name)).ok_or_else(Refusal::not_found)?;
        Ok((201, self.property_json(definition)))
    }

    fn property_json(&self, d: &PropertyDef) -> Json {
        let options: Vec<Json> = d
            .options
            .iter()
            .enumerate()
            .map(|(order, (value, label))| json!({ "value": value, "label": label, "displayOrder": order, "hidden": false }))
            .collect();
        json!({
            "name": d.name, "label": d.label, "type": d.kind, "fieldType": d.field_type, "groupName": d.group, "description": "",
            "options": options, "hasUniqueValue": d.unique, "hidden": false, "formField": false, "calculated": false,
            "archived": d.archived, "createdAt": iso(d.usable_from), "updatedAt": iso(d.usable_from),
            "modificationMetadata": { "archivable": true, "readOnlyDefinition": d.read_only, "readOnlyValue": d.read_only },
        })
    }

    pub(super) fn pipelines_route(&mut self, method: &str, rest: &[&str]) -> Answer {
        let at = iso(self.now);
        let stage_json = |order: usize, stage: &StageDef| {
            json!({
                "id": stage.id, "label": stage.label, "displayOrder": order, "archived": false, "createdAt": at, "updatedAt": at,
                "metadata": { "isClosed": stage.closed.to_string(), "probability": format!("{:.1}", stage.probability) },
                "writePermissions": "CRM_PERMISSIONS_ENFORCEMENT",
            })
        };
        let pipeline_json = |order: usize, pipeline: &PipelineDef| {
            let stages: Vec<Json> =
                pipeline.stages.iter().enumerate().map(|(order, stage)| stage_json(order, stage)).collect();
            json!({
                "id": pipeline.id, "label": pipeline.label, "displayOrder": order, "archived": false, "createdAt": at, "updatedAt": at,
                "stages": stages,
            })
        };
        let find = |id: &str| self.pipelines.iter().find(|p| p.id == id).ok_or_else(Refusal::not_found);
        match (method, rest) {
            ("GET", []) => {
                let list: Vec<Json> =
                    self.pipelines.iter().enumerate().map(|(order, p)| pipeline_json(order, p)).collect();
                Ok((200, json!({ "results": list })))
            }
            ("GET", [id]) => Ok((200, pipeline_json(0, find(id)?))),
            ("GET", [id, "stages"]) => {
                let stages: Vec<Json> =
                    find(id)?.stages.iter().enumerate().map(|(order, stage)| stage_json(order, stage)).collect();
                Ok((200, json!({ "results": stages })))
            }
            ("DELETE", [id, "stages", stage]) => {
                let used = self.all(Kind::Deal).any(|deal| {
                    deal.archived.is_none() && deal.properties.get("dealstage").is_some_and(|s| s == stage)
                });
                if used {
                    let mut refusal =
                        Refusal::new(400, "VALIDATION_ERROR", "The stage is in use and can not be deleted.");
                    refusal.body["subCategory"] = "PipelineError.STAGE_ID_IN_USE".into();
                    return Err(refusal);
                }
                if let Some(pipeline) = self.pipelines.iter_mut().find(|p| p.id == *id) {
                    pipeline.stages.retain(|s| s.id != *stage);
                }
                Ok((204, Json::Null))
            }
            _ => Err(Refusal::not_found()),
        }
    }

    pub(super) fn owners_route(&self, rest: &[&str], query: &Query) -> Answer {
        let at = iso(self.now);
        let owner_json = |owner: &OwnerDef| {
            let user = owner.id + 22_000;
            json!({
                "id": owner.id.to_string(), "email": owner.email, "type": "PERSON", "firstName": owner.first, "lastName": owner.last,
                "userId": if owner.archived { Json::Null } else { user.into() }, "userIdIncludingInactive": user,
                "createdAt": at, "updatedAt": at, "archived": owner.archived, "teams": [],
            })
        };
        if let [id] = rest {
            let owner = self.owners.iter().find(|owner| owner.id.to_string() == *id).ok_or_else(Refusal::not_found)?;
            return Ok((200, owner_json(owner)));
        }
        let (archived, email) = (query.flag("archived"), query.text("email"));
        let limit = query.number("limit").unwrap_or(100);
        let from: u64 = query.text("after").and_then(|after| after.parse().ok()).unwrap_or(0);
        let mut page = self.owners.iter().filter(|owner| {
            owner.archived == archived && owner.id >= from && email.as_ref().is_none_or(|email| *email == owner.email)
        });
        let results: Vec<Json> = page.by_ref().take(limit).map(owner_json).collect();
        let mut answer = json!({ "results": results });
        if let Some(next) = page.next() {
            answer["paging"] = json!({ "next": { "after": next.id.to_string() } });
        }
        Ok((200, answer))
    }

    pub(super) fn account(&self) -> Answer {
        Ok((
            200,
            json!({
                "portalId": self.settings.portal_id, "accountType": "STANDARD", "timeZone": self.settings.timezone,
                "companyCurrency": self.settings.company_currency, "additionalCurrencies": self.settings.additional_currencies,
                "utcOffset": "+00:00", "utcOffsetMilliseconds": 0, "uiDomain": "app.hubspot.com", "dataHostingLocation": "na1",
            }),
        ))
    }

    pub(super) fn oauth(&mut self, rest: &[&str], form: &Query) -> Answer {
        let field = |name: &str| form.text(name).unwrap_or_default();
        if let [kind @ ("access-tokens" | "refresh-tokens"), token] = rest {
            return self.token_info(kind, token);
        }
        let refuse = |status: &str, error: &str, text: &str| {
            Err(Refusal {
                status: 400,
                body: json!({ "error": error, "error_description": text, "status": status, "message": text }),
            })
        };
        if field("client_id") != self.settings.client_id {
            return refuse("BAD_CLIENT_ID", "invalid_client", "missing or unknown client id");
        }
        if field("client_secret") != self.settings.client_secret {
            return refuse("BAD_CLIENT_SECRET", "invalid_client", "missing or invalid client secret");
        }
        match rest {
            ["token"] => {
                if field("grant_type") != "refresh_token" {
                    return refuse("BAD_GRANT_TYPE", "unsupported_grant_type", "unknown grant type");
                }
                if self.uninstalled {
                    return refuse("BAD_HUB", "access_denied", "missing or unknown hub id");
                }
                if self.refresh_token.as_deref() != Some(field("refresh_token").as_str()) {
                    return refuse(
                        "BAD_REFRESH_TOKEN",
                        "invalid_grant",
                        "refresh token is invalid, expired or revoked",
                    );
                }
                let access = format!("sandbox-{:016x}", self.rng.random::<u64>());
                let life = i64::try_from(self.settings.token_seconds).unwrap_or(1_800);
                self.tokens.insert(access.clone(), self.now + TimeDelta::seconds(life));
                if self.settings.rotate_refresh_token {
                    self.refresh_token = Some(format!("na1-{:016x}", self.rng.random::<u64>()));
                }
                Ok((
                    200,
                    json!({
                        "access_token": access, "refresh_token": self.refresh_token, "expires_in": life, "token_type": "bearer",
                        "hub_id": self.settings.portal_id, "user_id": 77_001, "scopes": self.settings.scopes, "token_use": "access_token",
                    }),
                ))
            }
            ["token", "introspect"] => {
                let active = self.tokens.get(&field("token")).is_some_and(|ends| *ends > self.now);
                let known = json!({ "active": true, "hub_id": self.settings.portal_id, "token_use": "access_token" });
                Ok((200, if active { known } else { json!({ "active": false }) }))
            }
            ["token", "revoke"] => {
                self.refresh_token = None;
                Ok((200, Json::Null))
            }
            _ => Err(Refusal::not_found()),
        }
    }

    /// The app is removed from the account: its grant and every access token end.
    pub(super) fn uninstall(&mut self) {
        self.uninstalled = true;
        self.tokens.clear();
    }

    /// The older way to ask about a token, which HubSpot's client libraries still use.
    fn token_info(&self, kind: &str, token: &str) -> Answer {
        let ends = self.tokens.get(token).copied();
        let known = if kind == "access-tokens" {
            ends.is_some_and(|ends| ends > self.now)
        } else {
            self.refresh_token.as_deref() == Some(token)
        };
        if !known {
            return Err(Refusal::not_found());
        }
        let left = ends.map_or(0, |ends| (ends - self.now).num_seconds());
        Ok((
            200,
            json!({
                "token": token, "hub_id": self.settings.portal_id, "user_id": 77_001, "app_id": 1_357, "scopes": self.settings.scopes,
                "client_id": self.settings.client_id, "expires_in": left, "token_type": if kind == "access-tokens" { "access" } else { "refresh" },
            }),
        ))
    }
}
