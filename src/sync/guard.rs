//! The mass-change guard: writes of a kind that would delete, blank or set alike more records than a person would, are
//! held until a person has looked. Taking records in never stops.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::Kind;

use super::{push::Outgoing, reconcile::Reconciler};
use crate::{
    model::{IntentOp, Key},
    store::{GuardEvent, Op, StoreError},
};

/// Over how long effects are added up.
const WINDOW: TimeDelta = TimeDelta::minutes(10);
/// How long an approval lets a class through.
const APPROVED_FOR: TimeDelta = TimeDelta::hours(1);
/// Until when held work waits, unless a person decides.
const HELD: TimeDelta = TimeDelta::days(3_650);

/// How much is too much.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Deletions in ten minutes.
    pub deletes: u64,
    /// Deletions as a share of the links, in percent; the larger of the two counts.
    pub delete_percent: u64,
    /// Records of which one field becomes the same value, or empty.
    pub alike: u64,
    /// The same as a share of the links, in percent; the larger of the two counts.
    pub alike_percent: u64,
    /// Creations in ten minutes.
    pub creates: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deletes: 25, delete_percent: 5, alike: 50, alike_percent: 20, creates: 2_000 }
    }
}

/// What was done lately, by class.
#[derive(Debug, Default)]
pub struct Guard {
    limits: Limits,
    lately: BTreeMap<String, Vec<DateTime<Utc>>>,
    approved_until: BTreeMap<String, DateTime<Utc>>,
}

impl Guard {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Lets a class through for an hour.
    pub fn approve(&mut self, class: &str, now: DateTime<Utc>) {
        self.approved_until.insert(class.to_owned(), now + APPROVED_FOR);
    }

    /// Counts one effect; true if it is one too many.
    fn trips(&mut self, class: &str, bucket: String, links: u64, now: DateTime<Utc>) -> bool {
        if self.approved_until.get(class).is_some_and(|until| now < *until) {
            return false;
        }
        let limit = match class {
            "delete" => self.limits.deletes.max(links * self.limits.delete_percent / 100),
            "create" => self.limits.creates,
            _ => self.limits.alike.max(links * self.limits.alike_percent / 100),
        };
        let lately = self.lately.entry(bucket).or_default();
        lately.retain(|at| now - *at < WINDOW);
        if lately.len() as u64 >= limit {
            return true;
        }
        lately.push(now);
        false
    }
}

impl Reconciler {
    /// Separates what may be sent from what a person must see first; the latter is held.
    pub(super) async fn guarded(&self, kind: Kind, outgoing: Vec<Outgoing>) -> Result<Vec<Outgoing>, StoreError> {
        let now = self.clock.now();
        let links = self.store.count_links(&self.connection.account.name, &self.connection.name, kind).await?;
        let events = self.store.guard_events(&self.connection.account.name, &self.connection.name).await?;
        let mut held: BTreeMap<String, Vec<Outgoing>> = BTreeMap::new();
        let mut free = Vec::new();
        {
            let mut guard = self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for event in events.iter().filter(|event| event.state == "approved" && now - event.at < APPROVED_FOR) {
                guard.approve(&event.class, event.at);
            }
            for one in outgoing {
                let tripped = classes(&one)
                    .into_iter()
                    .find(|(class, bucket)| guard.trips(class, format!("{kind}/{bucket}"), links, now));
                match tripped {
                    Some((class, _)) => held.entry(class).or_default().push(one),
                    None => free.push(one),
                }
            }
        }
        for (class, held) in held {
            self.hold(kind, &class, held, now).await?;
        }
        Ok(free)
    }

    async fn hold(&self, kind: Kind, class: &str, held: Vec<Outgoing>, now: DateTime<Utc>) -> Result<(), StoreError> {
        let earlier = self.store.guard_events(&self.connection.account.name, &self.connection.name).await?;
        let earlier = earlier
            .into_iter()
            .find(|event| event.class == class && event.state == "held")
            .map_or(0, |event| event.count);
        let count = earlier + held.len() as u64;
        let what = match class {
            "delete" => "delete records",
            "create" => "make new records",
            "blank" => "empty one field",
            _ => "set one field to the same value",
        };
        let message = format!(
            "{count} writes that would {what} ({kind}) are held: look at the sample, then `tandem guard approve` or `tandem guard discard`"
        );
        tracing::warn!(class, count, "the mass-change guard holds writes");
        let mut ops = vec![Op::PutGuard(GuardEvent {
            connection: self.connection.name.clone(),
            class: class.to_owned(),
            count,
            sample: held.iter().take(10).map(|one| Key::Local(one.local.id()).to_string()).collect(),
            message,
            state: "held".into(),
            at: now,
        })];
        self.count(|summary| summary.held += held.len() as u64);
        for one in held {
            ops.push(Op::DropIntent(one.intent.id));
            ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, now + HELD, false)));
        }
        self.store.commit(self.commit_of(ops)).await
    }
}

/// The classes a write counts in, each with the bucket it is counted under.
fn classes(one: &Outgoing) -> Vec<(String, String)> {
    match &one.intent.op {
        IntentOp::Archive { .. } => vec![("delete".into(), "delete".into())],
        IntentOp::Create { .. } => vec![("create".into(), "create".into())],
        IntentOp::Update { .. } => one
            .intent
            .rows
            .iter()
            .map(|(row, written)| {
                let blank = written.want.iter().all(tandem_contract::Value::is_blank);
                let class = if blank { "blank" } else { "one_value" };
                let value = serde_json::to_string(&written.want).unwrap_or_default();
                (class.to_owned(), format!("{class}/{row}/{}", crate::model::digest(value.as_bytes())))
            })
            .collect(),
    }
}
