//! The mass-change guard: effects that would delete, blank or set alike more records than a person would, on either side,
//! are held until a person has looked. Taking records in never stops.
//!
//! What is held is held where it can be seen: a row of a link, the presence of a link, or the intent of a create. So it
//! survives restarts and audits. A row is tried again by itself when either side changes; deletions and creations wait.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{Kind, Value};

use super::{
    push::Outgoing,
    reconcile::{ASK_AGAIN, Reconciler},
    twins::reported,
};
use crate::{
    model::{Hold, HoldKind, Intent, IntentOp, IntentState, Key, RecordId, link::PRESENCE},
    store::{GuardEvent, Op, StoreError},
};

/// Over how long effects are added up.
const WINDOW: TimeDelta = TimeDelta::minutes(10);
/// How long an approval lets a class through.
const APPROVED_FOR: TimeDelta = TimeDelta::hours(1);
/// How long a count of links is good enough for a percentage.
const COUNT_FOR: TimeDelta = TimeDelta::minutes(1);
/// Records shown for each class.
const SAMPLE: usize = 10;

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
    /// Creations at the vendor in ten minutes.
    pub creates: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deletes: 25, delete_percent: 5, alike: 50, alike_percent: 20, creates: 2_000 }
    }
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Records archived at the vendor.
    Delete,
    /// Records made at the vendor.
    Create,
    /// One property emptied at the vendor.
    Blank,
    /// One property set to one value at the vendor.
    OneValue,
    /// Records deleted here.
    LocalDelete,
    /// One field emptied here.
    LocalBlank,
}

impl Class {
    /// The word of the store and the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Create => "create",
            Self::Blank => "blank",
            Self::OneValue => "one_value",
            Self::LocalDelete => "local_delete",
            Self::LocalBlank => "local_blank",
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Delete => "would delete records at the vendor",
            Self::Create => "would make new records at the vendor",
            Self::Blank => "would empty one field at the vendor",
            Self::OneValue => "would set one field to the same value at the vendor",
            Self::LocalDelete => "would delete records here, because they were deleted at the vendor",
            Self::LocalBlank => "would empty one field here, because it was emptied at the vendor",
        }
    }
}

/// How many links of a kind there are; no more are counted than matter.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: DateTime<Utc>,
    links: u64,
    most: u64,
}

/// What was done lately, by class, and what is held.
#[derive(Debug, Default)]
pub struct Guard {
    limits: Limits,
    lately: BTreeMap<String, Vec<DateTime<Utc>>>,
    swept_at: DateTime<Utc>,
    links: BTreeMap<Kind, Counted>,
    events: BTreeMap<String, GuardEvent>,
    /// Classes that were decided and are being counted from nothing again.
    anew: BTreeSet<Class>,
}

impl Guard {
    /// With these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The number of links beyond which none of so many more effects can be one too many.
    fn enough(&self, kind: Kind, more: usize) -> u64 {
        let prefix = format!("{kind}/");
        let lately = self.lately.iter().filter(|(of, _)| of.starts_with(&prefix)).map(|(_, times)| times.len());
        let effects = (lately.max().unwrap_or(0) + more) as u64;
        let percent = self.limits.delete_percent.min(self.limits.alike_percent).max(1);
        (effects + 1).saturating_mul(100).div_ceil(percent)
    }

    /// Whether the links were counted lately, and far enough.
    fn knows(&self, kind: Kind, enough: u64, now: DateTime<Utc>) -> bool {
        let far = |counted: &Counted| counted.links < counted.most || counted.most >= enough;
        self.links.get(&kind).is_some_and(|counted| now - counted.at < COUNT_FOR && far(counted))
    }

    /// True while a person's approval lets a class through.
    fn is_approved(&self, class: Class, now: DateTime<Utc>) -> bool {
        self.events.get(class.as_str()).is_some_and(|event| event.state == "approved" && now - event.at < APPROVED_FOR)
    }

    fn is_held(&self, class: Class) -> bool {
        self.events.get(class.as_str()).is_some_and(|event| event.state == "held")
    }

    /// Counts one effect; true if it is one too many.
    pub(super) fn trips(&mut self, kind: Kind, class: Class, what: &str, now: DateTime<Utc>) -> bool {
        if self.is_approved(class, now) {
            return false;
        }
        if now - self.swept_at > WINDOW {
            self.swept_at = now;
            self.lately.retain(|_, times| times.last().is_some_and(|at| now - *at < WINDOW));
        }
        let links = self.links.get(&kind).map_or(0, |counted| counted.links);
        let limit = match class {
            Class::Delete | Class::LocalDelete => self.limits.deletes.max(links * self.limits.delete_percent / 100),
            Class::Create => self.limits.creates,
            _ => self.limits.alike.max(links * self.limits.alike_percent / 100),
        };
        let lately = self.lately.entry(format!("{kind}/{}/{what}", class.as_str())).or_default();
        lately.retain(|at| now - *at < WINDOW);
        if lately.len() as u64 >= limit {
            return true;
        }
        lately.push(now);
        false
    }

    /// An effect that was counted did not come about: it is counted when it is tried again.
    fn forget(&mut self, kind: Kind, class: Class, what: &str) {
        if let Some(lately) = self.lately.get_mut(&format!("{kind}/{}/{what}", class.as_str())) {
            lately.pop();
        }
    }

    /// One more that is held: the event as it is now to be stored.
    pub(super) fn held(
        &mut self,
        connection: &crate::model::Name,
        class: Class,
        record: RecordId,
        now: DateTime<Utc>,
    ) -> Op {
        let fresh = || GuardEvent {
            connection: connection.clone(),
            class: class.as_str().into(),
            count: 0,
            sample: Vec::new(),
            message: String::new(),
            state: "held".into(),
            at: now,
        };
        let event = self.events.entry(class.as_str().into()).or_insert_with(fresh);
        if event.state != "held" {
            *event = fresh();
            self.anew.insert(class);
        }
        event.count += 1;
        if event.sample.len() < SAMPLE {
            event.sample.push(Key::Local(record).to_string());
        }
        event.message = format!(
            "{} changes that {} are held: look at the sample, then `tandem guard approve {connection}` or `tandem guard discard {connection}`",
            event.count,
            class.says()
        );
        Op::PutGuard(event.clone())
    }
}

impl Reconciler {
    pub(super) fn guard(&self) -> std::sync::MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Learns what people decided meanwhile, and now and then how many links there are; `more` effects may follow.
    pub(super) async fn refresh_guard(&self, kind: Kind, more: usize) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let at = self.clock.now();
        let events = self.store.guard_events(account, name).await?;
        let most = self.guard().enough(kind, more);
        let links = if self.guard().knows(kind, most, at) {
            None
        } else {
            Some(self.store.count_links(account, name, kind, most).await?)
        };
        let mut guard = self.guard();
        guard.events = events.into_iter().map(|event| (event.class.clone(), event)).collect();
        if let Some(links) = links {
            guard.links.insert(kind, Counted { at, links, most });
        }
        Ok(())
    }

    /// Separates what may be sent from what a person must see first; the latter is held.
    pub(super) async fn guarded(&self, kind: Kind, outgoing: Vec<Outgoing>) -> Result<Vec<Outgoing>, StoreError> {
        let now = self.clock.now();
        let (mut free, mut held) = (Vec::new(), Vec::new());
        {
            let mut guard = self.guard();
            for one in outgoing {
                let (kept, more) = self.guard_one(&mut guard, kind, one, now);
                free.extend(kept);
                held.extend(Some(more).filter(|more| !more.is_empty()));
            }
        }
        if held.is_empty() {
            return Ok(free);
        }
        let many = held.len();
        tracing::warn!(connection = %self.connection.name, %kind, held = many, "the mass-change guard holds writes");
        self.count(|summary| summary.held += many as u64);
        match self.store.commit(&self.commit_of(held.iter().flatten().cloned().collect())).await {
            // A person decided about one of them since it was read: that one is planned again, its mark and intent stay.
            Err(StoreError::Stale { .. }) => {
                for one in held {
                    match self.store.commit(&self.commit_of(one)).await {
                        Ok(()) | Err(StoreError::Stale { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            stored => stored?,
        }
        Ok(free)
    }

    /// Nothing of a write that was let through reached the vendor.
    pub(super) fn uncount(&self, intent: &Intent) {
        let mut guard = self.guard();
        match &intent.op {
            IntentOp::Create { .. } if intent.again => {}
            IntentOp::Create { .. } => guard.forget(intent.kind, Class::Create, ""),
            IntentOp::Archive { .. } => guard.forget(intent.kind, Class::Delete, ""),
            IntentOp::Update { .. } => {
                for (row, written) in &intent.rows {
                    guard.forget(intent.kind, class_of(&written.want), &digest_of(row, &written.want));
                }
            }
        }
    }

    fn guard_one(
        &self,
        guard: &mut Guard,
        kind: Kind,
        mut one: Outgoing,
        now: DateTime<Utc>,
    ) -> (Option<Outgoing>, Vec<Op>) {
        let (name, record) = (&self.connection.name, one.local.id());
        let mut ops = Vec::new();
        match &one.intent.op {
            // It was counted when it went out first.
            IntentOp::Create { .. } if one.intent.again => return (Some(one), ops),
            IntentOp::Create { .. } => {
                let still_held = one.was_held && !guard.is_approved(Class::Create, now);
                if !still_held && !guard.trips(kind, Class::Create, "", now) {
                    return (Some(one), ops);
                }
                // One that is held still is counted already, unless the event it was counted in was decided.
                let anew = !guard.is_held(Class::Create) || guard.anew.contains(&Class::Create);
                if !still_held || anew {
                    ops.push(guard.held(name, Class::Create, record, now));
                }
                one.intent.state = IntentState::Held;
                ops.push(Op::PutIntent(one.intent));
            }
            IntentOp::Archive { external } => {
                if !guard.trips(kind, Class::Delete, "", now) {
                    return (Some(one), ops);
                }
                ops.push(guard.held(name, Class::Delete, record, now));
                ops.push(Op::DropIntent(one.intent.id));
                let Some(mut link) = one.link else {
                    let why = reported(external, "the mass-change guard holds its removal");
                    ops.push(self.failure(kind, &Key::External(external.clone()), "", "twin", why));
                    ops.extend(one.dirty.into_iter().map(|dirty| self.defer(dirty, now + ASK_AGAIN, true)));
                    return (None, ops);
                };
                link.holds.insert(PRESENCE.into(), on_hold(Vec::new(), Vec::new()));
                ops.push(self.put_link(link));
            }
            IntentOp::Update { .. } => {
                let tripped: Vec<(String, Class)> = one
                    .intent
                    .rows
                    .iter()
                    .map(|(row, written)| (row, class_of(&written.want), digest_of(row, &written.want)))
                    .filter(|(_, class, what)| guard.trips(kind, *class, what, now))
                    .map(|(row, class, _)| (row.clone(), class))
                    .collect();
                let Some(link) = one.link.as_mut().filter(|_| !tripped.is_empty()) else { return (Some(one), ops) };
                for (row, class) in tripped {
                    if let Some(written) = one.intent.rows.remove(&row) {
                        link.holds.insert(row, on_hold(written.local, written.seen));
                        ops.push(guard.held(name, class, record, now));
                    }
                }
                ops.push(Op::UpdateLink(link.clone()));
                if !one.intent.rows.is_empty() {
                    return (Some(one), ops);
                }
                ops.push(Op::DropIntent(one.intent.id));
            }
        }
        ops.extend(one.dirty.into_iter().map(|dirty| self.finish(dirty)));
        (None, ops)
    }
}

/// A hold of the guard, with what both sides said.
#[must_use]
pub(super) fn on_hold(local: Vec<Value>, remote: Vec<Value>) -> Hold {
    Hold { kind: HoldKind::Guarded, local, remote, conflict: None }
}

fn class_of(want: &[Value]) -> Class {
    if want.iter().all(Value::is_blank) { Class::Blank } else { Class::OneValue }
}

fn digest_of(row: &str, want: &[Value]) -> String {
    let value = serde_json::to_string(want).unwrap_or_default();
    format!("{row}/{}", crate::model::digest(value.as_bytes()))
}
