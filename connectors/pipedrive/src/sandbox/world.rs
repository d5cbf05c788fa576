//! The company's state: records with their changelog, fields, pipelines, people, and the dice.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use serde_json::{Map, Value as Json, json};
use tandem_contract::Kind;

use super::{
    directory::{FieldDef, PipelineDef, StageDef, UserDef},
    limits::{Stats, Windows},
    settings::{Faults, Settings},
    webhooks::Outbox,
};

/// A refusal in Pipedrive's words.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Json,
}

impl Refusal {
    pub(super) fn new(status: u16, error: impl Into<String>) -> Self {
        let error: String = error.into();
        let body = json!({
            "success": false, "error": error, "error_info": "Please check developers.pipedrive.com", "data": null,
            "additional_data": null,
        });
        Self { status, body }
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(404, format!("{what} not found"))
    }

    pub(super) fn invalid(field: &str, why: &str) -> Self {
        Self::new(400, format!("Validation failed: {field}: {why}"))
    }
}

/// Who changes a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A person in Pipedrive's screens.
    Person,
    /// A caller of the API.
    Api,
}

impl Change {
    /// Pipedrive's word for it.
    pub(super) fn source(self) -> &'static str {
        match self {
            Self::Person => "app",
            Self::Api => "api",
        }
    }
}

/// One line of a changelog.
#[derive(Clone, Debug)]
pub struct Logged {
    pub field: String,
    pub old: Json,
    pub new: Json,
    pub at: DateTime<Utc>,
    pub by: Change,
}

/// A deal, person or organization.
#[derive(Clone, Debug)]
pub struct Object {
    pub id: u64,
    /// Fields that every company has, as the second generation of the API states them.
    pub values: Map<String, Json>,
    /// Custom fields by key.
    pub custom: BTreeMap<String, Json>,
    pub created: DateTime<Utc>,
    pub updated: Option<DateTime<Utc>>,
    pub deleted: Option<DateTime<Utc>>,
    pub log: Vec<Logged>,
}

/// The simulated company.
pub struct World {
    /// Its numbers.
    pub settings: Settings,
    /// What goes wrong.
    pub faults: Faults,
    /// What was asked of it.
    pub stats: Stats,
    /// Its time.
    pub now: DateTime<Utc>,
    pub(super) elapsed: Duration,
    pub(super) rng: StdRng,
    pub(super) objects: BTreeMap<Kind, BTreeMap<u64, Object>>,
    pub(super) fields: BTreeMap<Kind, Vec<FieldDef>>,
    pub(super) pipelines: Vec<PipelineDef>,
    pub(super) stages: Vec<StageDef>,
    pub(super) users: Vec<UserDef>,
    pub(super) outbox: Outbox,
    pub(super) windows: Windows,
    /// Access tokens and when they end.
    pub(super) tokens: BTreeMap<String, DateTime<Utc>>,
    pub(super) grant_used: DateTime<Utc>,
    /// Codes of consents and when they end.
    pub(super) codes: BTreeMap<String, DateTime<Utc>>,
    next_id: u64,
}

impl World {
    pub(super) fn furnished(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        let mut world = Self {
            settings,
            faults: Faults::default(),
            stats: Stats::default(),
            now,
            elapsed: Duration::ZERO,
            rng,
            objects: BTreeMap::new(),
            fields: BTreeMap::new(),
            pipelines: Vec::new(),
            stages: Vec::new(),
            users: Vec::new(),
            outbox: Outbox::default(),
            windows: Windows::default(),
            tokens: BTreeMap::new(),
            grant_used: now,
            codes: BTreeMap::new(),
            next_id: 4_000,
        };
        world.furnish();
        world
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn object(&self, kind: Kind, id: u64) -> Option<&Object> {
        self.objects.get(&kind)?.get(&id)
    }

    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        self.objects.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// Ids of all records of a kind that are not deleted, in order.
    #[must_use]
    pub fn ids(&self, kind: Kind) -> Vec<u64> {
        self.all(kind).filter(|object| object.deleted.is_none()).map(|object| object.id).collect()
    }

    /// A value of a record: a field that every company has, or a custom one by key or name.
    #[must_use]
    pub fn value(&self, kind: Kind, id: u64, name: &str) -> Option<Json> {
        let object = self.object(kind, id)?;
        let code = || self.field_code(kind, name).unwrap_or_else(|| name.to_owned());
        object.values.get(name).cloned().or_else(|| object.custom.get(&code()).cloned())
    }

    /// Removes what was deleted long enough ago.
    pub(super) fn settle(&mut self) {
        let purge = self.now - chrono::TimeDelta::days(self.settings.purge_days);
        for all in self.objects.values_mut() {
            all.retain(|_, object| object.deleted.is_none_or(|at| at >= purge));
        }
    }

    /// Revokes everything that gives access, as a customer does who uninstalls the app.
    pub fn revoke_access(&mut self) {
        self.settings.api_tokens.clear();
        self.tokens.clear();
        self.settings.refresh_token.clear();
    }

    /// Clears the counters.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
    }
}
