//! The behaviour every connector must show, run against its sandbox.
//!
//! An integrator implements [`Vendor`] for the sandbox of a new connector and runs [`run`]: each check is a sentence of the
//! contract, and a connector that breaks one is told which.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::{
    Call, Connector, ConnectorError, Cursor, ExternalId, Fetched, Kind, Lane, PropertyType, Pushed, Record, Seen,
    Sought, Stream, Value, Write, WriteOp,
};

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
    /// The properties of that kind that the connector was told to read. Those that [`Connector::discover`] does not tell of
    /// are not looked at.
    fn selected(&self) -> BTreeSet<String> {
        self.needed().into_keys().chain([self.text_property()]).collect()
    }
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

const CALL: Call = Call::on(Lane::Interactive);
/// Pages after which a walk is taken for one that does not end.
const MOST_PAGES: usize = 10_000;
/// Polls that bring nothing, before something happens.
const IDLE_POLLS: usize = 5;

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
    note("the kinds are told once each, parents first", kinds_are_in_order(vendor));
    note("what is discovered can be mapped", discovery_is_of_use(vendor).await);
    note("the backfill shows every record once it is there", backfill_is_complete(vendor).await);
    note("the list for the audit shows what is there, and nothing else of it", list_is_complete(vendor).await);
    note("a fetch answers every id in the order asked", fetch_keeps_order(vendor).await);
    note("a property without a value is stated to be empty", nothing_is_stated(vendor).await);
    note("a value that is cleared is stated to be empty", cleared_is_stated(vendor).await);
    note("an update changes what it names and nothing else", update_is_partial(vendor).await);
    note("a create is found by its marker and is not made twice", create_is_once(vendor).await);
    note("what comes too late is not sent", late_is_not_sent(vendor).await);
    note("a deleted record is told from one that never was", deleted_is_not_gone(vendor).await);
    note("what is archived is put away, or it is said that it cannot be", archive_is_honest(vendor).await);
    note("one bad record of a batch fails alone", one_bad_record_fails_alone(vendor).await);
    note("a change shows up in some feed", changes_are_seen(vendor, 0).await);
    note("polls that bring nothing skip nothing that comes later", changes_are_seen(vendor, IDLE_POLLS).await);
    note("every feed is read to its end, again and again", feeds_end(vendor).await);
    broken
}

fn wrong<T>(what: impl std::fmt::Debug) -> Result<T, String> {
    Err(format!("{what:?}"))
}

/// The feed of the kind that begins with everything.
fn backfill(vendor: &dyn Vendor) -> Result<Stream, String> {
    let mut streams = vendor.connector().streams().into_iter();
    let found = streams.find(|stream| stream.kind == vendor.kind() && stream.backfills);
    found.ok_or_else(|| format!("no stream of the kind {} says `backfills`", vendor.kind()))
}

/// Everything that a stream brings from a cursor on, and the cursor after it.
async fn drain(vendor: &dyn Vendor, stream: &Stream, from: &Cursor) -> Result<(Vec<Seen>, Cursor), String> {
    let (mut seen, mut cursor) = (Vec::new(), from.clone());
    for _ in 0..MOST_PAGES {
        let page = vendor.connector().changes(CALL, stream, &cursor).await;
        let page = page.map_err(|error| format!("a poll of `{}` fails: {error}", stream.name))?;
        seen.extend(page.seen);
        cursor = page.next;
        if !page.more {
            return Ok((seen, cursor));
        }
    }
    Err(format!("`{}` has `more` after {MOST_PAGES} pages: does its cursor move?", stream.name))
}

/// Everything that the list for the audit shows.
async fn listed(vendor: &dyn Vendor) -> Result<Vec<Seen>, String> {
    let (mut seen, mut cursor, mut been) = (Vec::new(), Cursor::start(), BTreeSet::new());
    while been.len() < MOST_PAGES {
        if !been.insert(cursor.0.clone()) {
            return Err("a page of `list` has `more`, and its `next` is where the list has been: it never ends".into());
        }
        let page = vendor.connector().list(CALL, vendor.kind(), &cursor).await;
        let page = page.map_err(|error| format!("page {} of `list` fails: {error}", been.len()))?;
        seen.extend(page.seen);
        cursor = page.next;
        if !page.more {
            return Ok(seen);
        }
    }
    Err(format!("`list` has `more` after {MOST_PAGES} pages"))
}

/// What pages say of one record, where they say that it is there.
fn shown<'a>(seen: &'a [Seen], wanted: &'a ExternalId) -> impl Iterator<Item = &'a Seen> {
    seen.iter().filter(move |seen| match seen {
        Seen::Record(record) => record.id == *wanted,
        Seen::Hint { id, .. } => id == wanted,
        Seen::Archived(_) => false,
    })
}

/// Whether pages show a record, and say the same of it as a fetch: what is on a page is believed without one.
async fn is_shown_as_it_is(vendor: &dyn Vendor, seen: &[Seen], id: &ExternalId) -> Verdict {
    if shown(seen, id).next().is_none() {
        return Err(format!("record {id} is there and on no page"));
    }
    let fetched = read(vendor, id).await?.properties;
    for one in shown(seen, id) {
        if let Seen::Record(record) = one
            && record.properties != fetched
        {
            let said = &record.properties;
            return Err(format!("of record {id} a page says {said:?}, and a fetch says {fetched:?}"));
        }
    }
    Ok(())
}

async fn account_is_named(vendor: &dyn Vendor) -> Verdict {
    let identity = vendor.connector().check().await.map_err(|error| error.to_string())?;
    if identity.remote_account.is_empty() { wrong(identity) } else { Ok(()) }
}

fn kinds_are_in_order(vendor: &dyn Vendor) -> Verdict {
    let kinds = vendor.connector().kinds();
    if !kinds.contains(&vendor.kind()) {
        return Err(format!("`kinds` is {kinds:?}: {} is not among them, and is never listed", vendor.kind()));
    }
    if kinds.is_sorted_by(|one, next| one < next) { Ok(()) } else { Err(format!("`kinds` is {kinds:?}")) }
}

/// Each of these is the id of one thing.
fn told_apart<'a>(what: &str, ids: impl Iterator<Item = &'a str>) -> Verdict {
    let mut known = BTreeSet::new();
    for id in ids {
        if id.is_empty() {
            return Err(format!("a {what} has an empty id"));
        }
        if !known.insert(id) {
            return Err(format!("two {what}s have the id `{id}`"));
        }
    }
    Ok(())
}

/// Pipelines and owners may be none: not every vendor has them.
async fn discovery_is_of_use(vendor: &dyn Vendor) -> Verdict {
    let schema = vendor.connector().discover().await.map_err(|error| format!("`discover` fails: {error}"))?;
    let missing = vendor.connector().kinds().into_iter().find(|kind| !schema.properties.contains_key(kind));
    if let Some(kind) = missing {
        return Err(format!("`properties` has nothing of the kind {kind}, which is one of `kinds`"));
    }
    let (kind, name) = (vendor.kind(), vendor.text_property());
    let Some(info) = schema.properties.get(&kind).and_then(|known| known.get(&name)) else {
        return Err(format!("`properties` of the kind {kind} lacks `{name}`, which can be read and written"));
    };
    if info.kind != PropertyType::Text || info.read_only {
        return Err(format!("`{name}` of the kind {kind} is text that can be written, and not {info:?}"));
    }
    told_apart("pipeline", schema.pipelines.iter().map(|pipeline| pipeline.id.as_str()))?;
    for pipeline in &schema.pipelines {
        told_apart("stage of one pipeline", pipeline.stages.iter().map(|stage| stage.id.as_str()))?;
        if let Some(stage) = pipeline.stages.iter().find(|stage| stage.probability > 100) {
            return Err(format!("the probability of stage {} is {}, of 100", stage.id, stage.probability));
        }
    }
    told_apart("owner", schema.owners.iter().map(|owner| owner.id.as_str()))?;
    let is_key = |email: &str| !email.is_empty() && email == email.trim().to_lowercase();
    match schema.owners.iter().find(|owner| owner.email.as_deref().is_some_and(|email| !is_key(email))) {
        Some(owner) => Err(format!("the address of owner {} is not in lower case, without blanks around", owner.id)),
        None => Ok(()),
    }
}

async fn backfill_is_complete(vendor: &dyn Vendor) -> Verdict {
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(vendor.make(&format!("listed {n}")).await);
    }
    let (seen, _) = drain(vendor, &backfill(vendor)?, &Cursor::start()).await?;
    for id in &made {
        is_shown_as_it_is(vendor, &seen, id).await?;
    }
    Ok(())
}

async fn list_is_complete(vendor: &dyn Vendor) -> Verdict {
    let gone = vendor.make("deleted before the audit").await;
    let mut made = Vec::new();
    for n in 0..3 {
        made.push(vendor.make(&format!("audited {n}")).await);
    }
    vendor.delete(&gone).await;
    let seen = listed(vendor).await?;
    for id in &made {
        is_shown_as_it_is(vendor, &seen, id).await?;
        if !shown(&seen, id).any(|one| matches!(one, Seen::Record(_))) {
            let why = "what can be read is a `Seen::Record`, since the audit compares nothing else";
            return Err(format!("of record {id} `list` has a hint alone: {why}"));
        }
    }
    // The audit looks by id at what is linked and not listed: what is listed for ever is never found to be gone.
    match shown(&seen, &gone).next() {
        Some(one) => Err(format!("record {gone} was deleted, and is listed as one that is there: {one:?}")),
        None => Ok(()),
    }
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

async fn read(vendor: &dyn Vendor, id: &ExternalId) -> Result<Record, String> {
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

/// Absent is what was not said: it clears nothing and is compared with nothing. What exists and was asked for is said.
async fn nothing_is_stated(vendor: &dyn Vendor) -> Verdict {
    let schema = vendor.connector().discover().await.map_err(|error| format!("`discover` fails: {error}"))?;
    let known = schema.properties.get(&vendor.kind());
    let id = vendor.make("with little to say").await;
    let record = read(vendor, &id).await?;
    for name in vendor.selected() {
        if known.is_none_or(|known| !known.contains_key(&name)) {
            continue;
        }
        match record.property(&name) {
            Value::Absent => {
                return Err(format!("record {id} does not state `{name}`, which exists: say `Value::Null`"));
            }
            Value::Null | Value::Refs(_) => {}
            value if value.is_blank() => return Err(format!("`{name}` is {value:?}: say `Value::Null`")),
            _ => {}
        }
    }
    Ok(())
}

async fn cleared_is_stated(vendor: &dyn Vendor) -> Verdict {
    let (name, said) = (vendor.text_property(), Value::text("to be cleared"));
    let id = vendor.make("to be cleared").await;
    let outcome = vendor.connector().push(CALL, &[update(vendor, &id, Value::Null)]).await;
    let expected = match outcome.as_slice() {
        [Pushed::Written { properties, .. }] if properties.get(&name).is_none_or(|stored| *stored == Value::Null) => {
            Value::Null
        }
        // The vendor takes no blank for it: then it stays as it is.
        [Pushed::Failed(ConnectorError::Rejected { .. })] => said,
        other => return Err(format!("clearing `{name}` came to {other:?}")),
    };
    let now = read(vendor, &id).await?.property(&name);
    if now == expected {
        return Ok(());
    }
    Err(format!("clearing `{name}` came to {outcome:?}, and a fetch says {now:?} instead of {expected:?}"))
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
    let others = |record: &Record| {
        let mut properties = record.properties.clone();
        properties.remove(&vendor.text_property());
        properties
    };
    if others(&before) == others(&after) { Ok(()) } else { wrong(after.properties) }
}

async fn create_is_once(vendor: &dyn Vendor) -> Verdict {
    let since = vendor.now();
    let sought = |marker: &str| Sought { marker: marker.to_owned(), since };
    // A real server may hold what an earlier run made.
    let marker = format!("conformance:{}", since.timestamp_micros());
    let nobodys = format!("{marker}-nobody");
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
        .find(CALL, vendor.kind(), &[sought(&marker), sought(&nobodys)])
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

/// Whoever takes work over counts on it that nothing is sent any more.
async fn late_is_not_sent(vendor: &dyn Vendor) -> Verdict {
    let id = vendor.make("Before its time").await;
    let (before, count) = (read(vendor, &id).await?, vendor.count().await);
    let mut properties = vendor.needed();
    properties.insert(vendor.text_property(), Value::text("After its time"));
    let op = WriteOp::Create { marker: "conformance:late".into(), properties };
    let create = Write { trace: "late".into(), kind: vendor.kind(), op };
    for write in [update(vendor, &id, Value::text("After its time")), create] {
        let outcomes = vendor.connector().push(CALL.until(Duration::ZERO), std::slice::from_ref(&write)).await;
        if !matches!(outcomes.as_slice(), [Pushed::Failed(ConnectorError::Late)]) {
            return Err(format!("its time (`Call::until`) was over, and the outcome is {outcomes:?}"));
        }
    }
    let after = read(vendor, &id).await?;
    if after.properties != before.properties || vendor.count().await != count {
        return Err("its time (`Call::until`) was over, and the vendor's records changed".into());
    }
    Ok(())
}

async fn deleted_is_not_gone(vendor: &dyn Vendor) -> Verdict {
    let id = vendor.make("to be deleted").await;
    vendor.delete(&id).await;
    let fetched = vendor.connector().fetch(CALL, vendor.kind(), &[id]).await.map_err(|error| error.to_string())?;
    let expected = if vendor.remembers_deleted() { Fetched::Archived } else { Fetched::Gone };
    if fetched == [expected] { Ok(()) } else { wrong(fetched) }
}

async fn archive_is_honest(vendor: &dyn Vendor) -> Verdict {
    let (doomed, kept) = (vendor.make("to be put away").await, vendor.make("to stay").await);
    let op = WriteOp::Archive { id: doomed.clone() };
    let archive = Write { trace: format!("conformance-archive-{doomed}"), kind: vendor.kind(), op };
    let writes = [archive.clone(), update(vendor, &kept, Value::text("stayed"))];
    let outcome = vendor.connector().push(CALL, &writes).await;
    let is_done = match outcome.as_slice() {
        [Pushed::Written { id, .. }, Pushed::Written { id: other, .. }] if *id == doomed && *other == kept => true,
        [Pushed::Failed(ConnectorError::Rejected { .. }), Pushed::Written { id, .. }] if *id == kept => false,
        other => {
            let wanted = "an archive is `Written`, or `Rejected` where the vendor lets nobody delete through its API";
            return Err(format!("{wanted}; one beside an update came to {other:?}"));
        }
    };
    if !read(vendor, &kept).await?.says(&vendor.text_property(), &Value::text("stayed")) {
        return Err(format!("record {kept} of the same batch does not say what was written to it"));
    }
    let ids = std::slice::from_ref(&doomed);
    let fetched = vendor.connector().fetch(CALL, vendor.kind(), ids).await.map_err(|error| error.to_string())?;
    if !is_done {
        return match fetched.as_slice() {
            [Fetched::Found(_)] => Ok(()),
            other => Err(format!("the archive was `Rejected`, and then the record is {other:?}")),
        };
    }
    let expected = if vendor.remembers_deleted() { Fetched::Archived } else { Fetched::Gone };
    if fetched != [expected] {
        return Err(format!("the archive was `Written`, and then the record is {fetched:?}"));
    }
    if shown(&listed(vendor).await?, &doomed).next().is_some() {
        return Err(format!("record {doomed} was archived, and is still listed as one that is there"));
    }
    // After a crash it is asked for again.
    let again = vendor.connector().push(CALL, &[archive]).await;
    match again.as_slice() {
        [Pushed::Written { id, .. }] if *id == doomed => Ok(()),
        [Pushed::Failed(ConnectorError::Gone)] => Ok(()),
        other => Err(format!("a second archive of the same record is `Written` or `Gone`, and came to {other:?}")),
    }
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

/// Windows end by the vendor's clock, which may be behind ours: a cursor that goes by ours, or on with every poll, is past an
/// edit that comes now.
async fn changes_are_seen(vendor: &dyn Vendor, idle_polls: usize) -> Verdict {
    let id = vendor.make("quiet").await;
    let stream = backfill(vendor)?;
    let (_, mut cursor) = drain(vendor, &stream, &Cursor::start()).await?;
    for _ in 0..idle_polls {
        (_, cursor) = drain(vendor, &stream, &cursor).await?;
    }
    vendor.edit(&id, "loud").await;
    let (seen, _) = drain(vendor, &stream, &cursor).await?;
    if shown(&seen, &id).next().is_some() {
        return Ok(());
    }
    Err(format!("record {id} was edited, and the next poll of `{}`, from {cursor:?}, does not name it", stream.name))
}

async fn feeds_end(vendor: &dyn Vendor) -> Verdict {
    let streams = vendor.connector().streams();
    told_apart("stream", streams.iter().map(|stream| stream.name.as_str()))?;
    for stream in streams.iter().filter(|stream| stream.kind == vendor.kind()) {
        let mut cursor = Cursor::start();
        for _ in 0..3 {
            (_, cursor) = drain(vendor, stream, &cursor).await?;
        }
    }
    Ok(())
}
