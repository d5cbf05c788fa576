//! The behaviour every connector must show, run against its sandbox.
//!
//! An integrator implements [`Vendor`] for the sandbox of a new connector and runs [`run`]: each check is a sentence of the
//! contract, and a connector that breaks one is told which.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{Call, Connector, Cursor, ExternalId, Fetched, Kind, Lane, Pushed, Seen, Sought, Value, Write, WriteOp};

/// The other side of a connector under test: a person at the vendor.
#[async_trait]
pub trait Vendor: Send + Sync {
    /// The connector, connected to this vendor.
    fn connector(&self) -> &dyn Connector;
    /// The kind of record to test with.
    fn kind(&self) -> Kind;
    /// A plain text property of that kind that the connector reads.
    fn text_property(&self) -> String;
    /// What a record of that kind needs besides, to be created.
    fn needed(&self) -> BTreeMap<String, Value>;
    /// A person makes a record whose text property says this.
    async fn make(&self, text: &str) -> ExternalId;
    /// A person changes the text property.
    async fn edit(&self, id: &ExternalId, text: &str);
    /// A person deletes it.
    async fn delete(&self, id: &ExternalId);
    /// Whether the vendor tells a deleted record from one that never was.
    fn remembers_deleted(&self) -> bool {
        true
    }
    /// What time it is for the connector.
    fn now(&self) -> DateTime<Utc>;
    /// How many records of the kind there are.
    async fn count(&self) -> usize;
}

const CALL: Call = Call { lane: Lane::Interactive };

type Verdict = Result<(), String>;

/// Runs every check; answers the sentences that do not hold, with what was seen instead.
pub async fn run(vendor: &dyn Vendor) -> Vec<String> {
    let mut broken = Vec::new();
    let mut note = |sentence: &str, verdict: Verdict| {
        if let Err(seen) = verdict {
            broken.push(format!("{sentence}: {seen}"));
        }
    };
    note("the account is named", account_is_named(vendor).await);
    note("the backfill shows every record once it is there", backfill_is_complete(vendor).await);
    note("a fetch answers every id in the order asked", fetch_keeps_order(vendor).await);
    note("an update changes what it names and nothing else", update_is_partial(vendor).await);
    note("a create is found by its marker and is not made twice", create_is_once(vendor).await);
    note("a deleted record is told from one that never was", deleted_is_not_gone(vendor).await);
    note("one bad record of a batch fails alone", one_bad_record_fails_alone(vendor).await);
    note("a change shows up in some feed", changes_are_seen(vendor).await);
    broken
}

fn wrong<T>(what: impl std::fmt::Debug) -> Result<T, String> {
    Err(format!("{what:?}"))
}

async fn account_is_named(vendor: &dyn Vendor) -> Verdict {
    let identity = vendor.connector().check().await.map_err(|error| error.to_string())?;
    if identity.remote_account.is_empty() { wrong(identity) } else { Ok(()) }
}

async fn backfill_is_complete(vendor: &dyn Vendor) -> Verdict {
    let mut made = BTreeSet::new();
    for n in 0..3 {
        made.insert(vendor.make(&format!("listed {n}")).await);
    }
    let streams = vendor.connector().streams();
    let stream =
        streams.iter().find(|stream| stream.kind == vendor.kind() && stream.backfills).ok_or("there is no backfill")?;
    let (mut cursor, mut seen) = (Cursor::start(), BTreeSet::new());
    loop {
        let page = vendor.connector().changes(CALL, stream, &cursor).await.map_err(|error| error.to_string())?;
        seen.extend(page.seen.into_iter().map(|seen| match seen {
            Seen::Record(record) => record.id,
            Seen::Hint { id, .. } | Seen::Archived(id) => id,
        }));
        cursor = page.next;
        if !page.more {
            break;
        }
    }
    if made.is_subset(&seen) { Ok(()) } else { wrong(made.difference(&seen)) }
}

async fn fetch_keeps_order(vendor: &dyn Vendor) -> Verdict {
    let (a, b) = (vendor.make("first").await, vendor.make("second").await);
    let nobody = ExternalId::new("1").map_err(|error| error.to_string())?;
    let asked = [b.clone(), nobody, a.clone()];
    let fetched = vendor.connector().fetch(CALL, vendor.kind(), &asked).await.map_err(|error| error.to_string())?;
    match fetched.as_slice() {
        [Fetched::Found(first), Fetched::Gone, Fetched::Found(second)] if first.id == b && second.id == a => Ok(()),
        other => wrong(other),
    }
}

fn update(vendor: &dyn Vendor, id: &ExternalId, value: Value) -> Write {
    let op = WriteOp::Update {
        id: id.clone(),
        properties: BTreeMap::from([(vendor.text_property(), value)]),
        planned_on: BTreeMap::new(),
        expected: crate::Version::default(),
    };
    Write { trace: format!("conformance-{id}"), kind: vendor.kind(), op }
}

async fn read(vendor: &dyn Vendor, id: &ExternalId) -> Result<crate::Record, String> {
    let fetched = vendor
        .connector()
        .fetch(CALL, vendor.kind(), std::slice::from_ref(id))
        .await
        .map_err(|error| error.to_string())?;
    match fetched.into_iter().next() {
        Some(Fetched::Found(record)) => Ok(record),
        other => wrong(other),
    }
}

async fn update_is_partial(vendor: &dyn Vendor) -> Verdict {
    let id = vendor.make("before").await;
    let before = read(vendor, &id).await?;
    let outcome = vendor.connector().push(CALL, &[update(vendor, &id, Value::text("after"))]).await;
    let [Pushed::Written { .. }] = outcome.as_slice() else { return wrong(outcome) };
    let after = read(vendor, &id).await?;
    if after.property(&vendor.text_property()) != Value::text("after") {
        return wrong(after.properties);
    }
    let others = |record: &crate::Record| {
        let mut properties = record.properties.clone();
        properties.remove(&vendor.text_property());
        properties
    };
    if others(&before) == others(&after) { Ok(()) } else { wrong(after.properties) }
}

async fn create_is_once(vendor: &dyn Vendor) -> Verdict {
    let since = vendor.now();
    let sought = |marker: &str| Sought { marker: marker.to_owned(), since };
    let marker = "conformance:1".to_owned();
    let mut properties = vendor.needed();
    properties.insert(vendor.text_property(), Value::text("made once"));
    let write = Write {
        trace: "create-1".into(),
        kind: vendor.kind(),
        op: WriteOp::Create { marker: marker.clone(), properties },
    };
    let before = vendor.count().await;
    let first = vendor.connector().push(CALL, std::slice::from_ref(&write)).await;
    let [Pushed::Written { id, .. }] = first.as_slice() else { return wrong(first) };
    let found = vendor
        .connector()
        .find(CALL, vendor.kind(), &[sought(&marker), sought("conformance:2")])
        .await
        .map_err(|error| error.to_string())?;
    match found.as_slice() {
        [Some(record), None] if record.id == *id => {}
        other => return wrong(other),
    }
    if !vendor.connector().refuses_twins() {
        return Ok(());
    }
    let second = vendor.connector().push(CALL, &[write]).await;
    match second.as_slice() {
        [Pushed::Exists { id: existing, .. } | Pushed::Written { id: existing, .. }] if existing == id => {}
        other => return wrong(other),
    }
    let after = vendor.count().await;
    if after == before + 1 { Ok(()) } else { wrong((before, after)) }
}

async fn deleted_is_not_gone(vendor: &dyn Vendor) -> Verdict {
    let id = vendor.make("to be deleted").await;
    vendor.delete(&id).await;
    let fetched = vendor.connector().fetch(CALL, vendor.kind(), &[id]).await.map_err(|error| error.to_string())?;
    let expected = if vendor.remembers_deleted() { Fetched::Archived } else { Fetched::Gone };
    if fetched == [expected] { Ok(()) } else { wrong(fetched) }
}

async fn one_bad_record_fails_alone(vendor: &dyn Vendor) -> Verdict {
    let good = vendor.make("good").await;
    let nobody = ExternalId::new("1").map_err(|error| error.to_string())?;
    let writes = [update(vendor, &nobody, Value::text("lost")), update(vendor, &good, Value::text("better"))];
    let outcome = vendor.connector().push(CALL, &writes).await;
    match outcome.as_slice() {
        [Pushed::Failed(_), Pushed::Written { id, .. }] if *id == good => Ok(()),
        other => wrong(other),
    }
}

async fn changes_are_seen(vendor: &dyn Vendor) -> Verdict {
    let id = vendor.make("quiet").await;
    let streams = vendor.connector().streams();
    let stream =
        streams.iter().find(|stream| stream.kind == vendor.kind() && stream.backfills).ok_or("there is no feed")?;
    let mut cursor = Cursor::start();
    loop {
        let page = vendor.connector().changes(CALL, stream, &cursor).await.map_err(|error| error.to_string())?;
        cursor = page.next;
        if !page.more {
            break;
        }
    }
    vendor.edit(&id, "loud").await;
    let mut seen = Vec::new();
    loop {
        let page = vendor.connector().changes(CALL, stream, &cursor).await.map_err(|error| error.to_string())?;
        seen.extend(page.seen);
        cursor = page.next;
        if !page.more {
            break;
        }
    }
    let is_it = |seen: &Seen| match seen {
        Seen::Record(record) => record.id == id,
        Seen::Hint { id: hinted, .. } => *hinted == id,
        Seen::Archived(_) => false,
    };
    if seen.iter().any(is_it) { Ok(()) } else { wrong(seen) }
}
