//! The server's state: records with their versions, what searches show of them, and the dice.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use rand::{Rng, rngs::StdRng};
use serde_json::{Value as Json, json};

use super::{
    settings::{Faults, Settings, Stats},
    webhooks::Outbox,
};

/// A refusal: a status and an OperationOutcome, or what a gateway says.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, text: &str) -> Self {
        Self::at(status, code, text, None)
    }

    pub(super) fn at(status: u16, code: &str, text: &str, expression: Option<&str>) -> Self {
        let mut issue = json!({ "severity": "error", "code": code, "diagnostics": text });
        if let Some(place) = expression {
            issue["expression"] = json!([place]);
        }
        Self { status, body: json!({ "resourceType": "OperationOutcome", "issue": [issue] }).to_string() }
    }

    /// In the words of something that stands before the server.
    pub(super) fn gateway(status: u16, body: &str) -> Self {
        Self { status, body: body.to_owned() }
    }
}

/// A record: what it is now, or that it was deleted.
#[derive(Clone, Debug)]
pub struct Record {
    /// Counts versions, from 1.
    pub version: u64,
    /// What it says; `None` once it is deleted.
    pub body: Option<Json>,
}

/// The simulated server.
pub struct World {
    /// Its switches.
    pub settings: Settings,
    /// What goes wrong.
    pub faults: Faults,
    /// What was asked of it.
    pub stats: Stats,
    /// Its time.
    pub now: DateTime<Utc>,
    pub(super) elapsed: Duration,
    pub(super) rng: StdRng,
    pub(super) records: BTreeMap<(String, String), Record>,
    /// What searches show, once they have caught up.
    pub(super) shown: BTreeMap<(String, String), Record>,
    pub(super) coming: VecDeque<(DateTime<Utc>, (String, String), Record)>,
    /// Searches whose pages are still to be had: by name, the link to the first, the rows and their end.
    pub(super) searches: BTreeMap<String, (Vec<Json>, usize, DateTime<Utc>)>,
    pub(super) outbox: Outbox,
    pub(super) tokens: BTreeMap<String, DateTime<Utc>>,
    /// Assertions that were used, until they end.
    pub(super) used: BTreeSet<String>,
    pub(super) calls: VecDeque<Duration>,
    pub(super) base: String,
    sequence: u64,
}

pub fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl World {
    pub(super) fn empty(settings: Settings, rng: StdRng, now: DateTime<Utc>) -> Self {
        Self {
            settings,
            faults: Faults::default(),
            stats: Stats::default(),
            now,
            elapsed: Duration::ZERO,
            rng,
            records: BTreeMap::new(),
            shown: BTreeMap::new(),
            coming: VecDeque::new(),
            searches: BTreeMap::new(),
            outbox: Outbox::default(),
            tokens: BTreeMap::new(),
            used: BTreeSet::new(),
            calls: VecDeque::new(),
            base: "http://fhir.example.com/fhir".into(),
            sequence: 0,
        }
    }

    /// A new id, as the server makes them.
    pub(super) fn next_id(&mut self, kind: &str) -> String {
        self.sequence += 1;
        let tail: u32 = self.rng.random();
        format!("sim{}{:04}-{tail:08x}", kind.to_lowercase(), self.sequence)
    }

    /// Whether a fault of this probability happens here; counted if it does.
    pub(super) fn struck(&mut self, fault: &'static str, probability: f64, place: &str) -> bool {
        tandem_sandbox::struck(&mut self.rng, &mut self.stats.faults, fault, probability, place)
    }

    /// Stores what a record says from now on, as its next version; searches show it once they have caught up.
    pub(super) fn store(&mut self, kind: &str, id: &str, body: Option<Json>) -> &Record {
        let key = (kind.to_owned(), id.to_owned());
        let version = self.records.get(&key).map_or(0, |record| record.version) + 1;
        let body = body.map(|mut body| {
            body["resourceType"] = kind.into();
            body["id"] = id.into();
            if !body["meta"].is_object() {
                body["meta"] = json!({});
            }
            body["meta"]["lastUpdated"] = iso(self.now).into();
            if self.settings.versioning == super::Versioning::NoVersion {
                body["meta"].as_object_mut().map(|meta| meta.remove("versionId"));
            } else {
                body["meta"]["versionId"] = version.to_string().into();
            }
            body
        });
        let record = Record { version, body };
        let lag = TimeDelta::milliseconds(i64::try_from(self.settings.lag_ms).unwrap_or(0));
        self.coming.push_back((self.now + lag, key.clone(), record.clone()));
        self.settle();
        self.tell(kind, id);
        self.records.entry(key).insert_entry(record).into_mut()
    }

    /// Catches up with time.
    pub(super) fn settle(&mut self) {
        while self.coming.front().is_some_and(|(at, ..)| *at <= self.now) {
            if let Some((_, key, record)) = self.coming.pop_front() {
                self.shown.insert(key, record);
            }
        }
        let now = self.now;
        self.searches.retain(|_, (.., ends)| *ends > now);
    }

    /// What a record says now.
    #[must_use]
    pub fn resource(&self, kind: &str, id: &str) -> Option<&Json> {
        self.records.get(&(kind.to_owned(), id.to_owned()))?.body.as_ref()
    }

    /// Ids of all records of a type that are not deleted, in order.
    #[must_use]
    pub fn ids(&self, kind: &str) -> Vec<String> {
        let all = self.records.iter().filter(|((known, _), record)| known == kind && record.body.is_some());
        all.map(|((_, id), _)| id.clone()).collect()
    }

    /// Clears the counters.
    pub fn clear_stats(&mut self) {
        self.stats = Stats::default();
    }
}
