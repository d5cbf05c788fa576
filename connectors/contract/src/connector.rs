//! The trait every connector implements.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    Checkout, Clock, ConnectorError, ExternalId, Fetched, Hint, History, Identity, Kind, Lane, NewCheckout, NewVisit,
    NewVisitor, Opening, Record, SaleRead, Schema, Secret, Value, Version, VisitChange, VisitRead, WantedOpenings,
    WebhookError, WebhookRequest,
};

/// How far a connector's writes are protected against an edit made at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// The vendor refuses a write planned on an older version.
    CompareAndSwap,
    /// The vendor keeps each property's history: an edit that slipped in between our read and our write is found
    /// afterwards and recorded as a conflict.
    CheckedAfterwards,
    /// Neither: the record is read right before it is written, and the window is measured.
    BestEffort,
}

impl Guarantee {
    /// One sentence for the operator.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Self::CompareAndSwap => "compare-and-swap: the vendor refuses a write that was planned on an older version",
            Self::CheckedAfterwards => {
                "checked afterwards: the vendor has no compare-and-swap; the history of each written property is read \
                 after the write, and an edit that slipped in between becomes a conflict"
            }
            Self::BestEffort => {
                "best effort: the vendor has neither compare-and-swap nor a history; records are read right before \
                 they are written"
            }
        }
    }
}

/// A feed of changes that the engine polls, with a cursor of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Stable name, unique within the connector: the key of its cursor.
    pub name: String,
    /// The kind of record it brings.
    pub kind: Kind,
    /// Time between two polls, derived from the vendor's budget.
    pub period: Duration,
    /// True for the feed whose empty cursor is the backfill.
    pub backfills: bool,
}

/// How far a stream has been read. Opaque to everyone but the connector that made it; empty at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

impl Cursor {
    /// Nothing was read yet: the next page is the first of the backfill.
    #[must_use]
    pub fn start() -> Self {
        Self::default()
    }
}

/// One page of a stream.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What was on it.
    pub seen: Vec<Seen>,
    /// Where to go on. Stored in the transaction that stores what the page brought.
    pub next: Cursor,
    /// True if another page can be had now.
    pub more: bool,
    /// How many records the stream holds in all, if the vendor says.
    pub total: Option<u64>,
}

/// What a page says of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The record itself, read by id and therefore true: no fetch is needed.
    Record(Record),
    /// It may have changed; read it.
    Hint {
        /// Which record.
        id: ExternalId,
        /// How old it was when the feed saw it.
        version: Version,
    },
    /// It is in the vendor's list of deleted records.
    Archived(ExternalId),
}

/// One record to write. An intent for it is already durable.
#[derive(Clone, Debug)]
pub struct Write {
    /// Names the intent, unique in a batch; vendors that take a trace id get this one.
    pub trace: String,
    /// Kind of record.
    pub kind: Kind,
    /// What to do.
    pub op: WriteOp,
}

/// What to do to a record.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteOp {
    /// Make it. Never overwrites a record that already carries the marker.
    Create {
        /// Our marker, `{installation}:{local id}`; unique at the vendor where the vendor offers that.
        marker: String,
        /// The values to create it with.
        properties: BTreeMap<String, Value>,
    },
    /// Change these properties and no other.
    Update {
        /// Which record.
        id: ExternalId,
        /// New values; [`Value::Null`] clears.
        properties: BTreeMap<String, Value>,
        /// The values this write was planned on, for what can only be written as a difference (associations).
        planned_on: BTreeMap<String, Value>,
        /// The version this write was planned on, for vendors with compare-and-swap.
        expected: Version,
    },
    /// Move it to the vendor's recycle bin.
    Archive {
        /// Which record.
        id: ExternalId,
    },
}

/// What became of one write.
#[derive(Debug)]
pub enum Pushed {
    /// Done; the vendor stored these values for the properties written.
    Written {
        /// The record, new or old.
        id: ExternalId,
        /// As the vendor answered; a property it did not return is not in the map.
        properties: BTreeMap<String, Value>,
        /// The record's age after the write.
        version: Version,
    },
    /// A create found that the record is already there.
    Exists {
        /// The record that carries our marker or the same unique value.
        id: ExternalId,
        /// True if it carries our marker: an earlier attempt of ours made it.
        ours: bool,
    },
    /// Not done, or not known to be done: the error says which.
    Failed(ConnectorError),
}

/// A record that a create may have made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// Its marker.
    pub marker: String,
    /// When the create was sent, by our clock: no record that carries the marker is older.
    pub since: DateTime<Utc>,
}

/// The circumstances of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its place in the queue for the vendor's budget.
    pub lane: Lane,
    /// After this moment, by [`Clock::elapsed`], nothing is sent that changes anything: whoever takes the work over may count on
    /// it. Reads go on.
    pub until: Option<Duration>,
}

impl Call {
    /// A call that may be sent at any time.
    #[must_use]
    pub const fn on(lane: Lane) -> Self {
        Self { lane, until: None }
    }

    /// The same, which sends no change after `until`, nor after what it was given before.
    #[must_use]
    pub fn until(self, until: Duration) -> Self {
        Self { until: Some(self.until.map_or(until, |earlier| earlier.min(until))), ..self }
    }

    /// To be asked right before a change is sent, when whatever it waited for is over.
    ///
    /// # Errors
    /// [`ConnectorError::Late`] when it is too late.
    pub fn in_time(&self, clock: &dyn Clock) -> Result<(), ConnectorError> {
        match self.until {
            Some(until) if clock.elapsed() > until => Err(ConnectorError::Late),
            _ => Ok(()),
        }
    }
}

/// A vendor, as the engine sees it. Every call is a batch; every answer is per record.
///
/// What may repeat: [`Connector::changes`] may show a record twice, and [`Connector::push`] may be asked for the same
/// intent again after a crash. What may not be skipped: a record that changed is on some page of some stream, or the
/// rolling audit finds it. A connector keeps no state that a restart would miss.
#[async_trait]
pub trait Connector: Send + Sync {
    /// The vendor's short name: `hubspot`.
    fn system(&self) -> &'static str;

    /// How far writes of this kind are protected.
    fn guarantee(&self, kind: Kind) -> Guarantee;

    /// Whether the vendor makes one record of two creates that say the same under one marker. Where it does not, a create whose outcome is not known
    /// is sent again only after [`Connector::find`] did not find it, and a request that lands later than
    /// [`Connector::late_window`] leaves a twin.
    fn refuses_twins(&self) -> bool {
        true
    }

    /// Whether one record was made before another, where the vendor's ids tell: they count up. Where two records may carry
    /// one marker, the older one did not come by it as a copy of the other, but by a merge.
    fn is_older(&self, one: &ExternalId, other: &ExternalId) -> bool {
        let _ = (one, other);
        false
    }

    /// Whether a record that is there may be missed when it is looked for right before it would be made, so that nothing is
    /// made before everything was listed once.
    fn looks_behind(&self) -> bool {
        false
    }

    /// Whether records of this kind are taken in that nobody here knows, and made there where nobody there knows them. Where
    /// not, records are only linked to those that are on both sides.
    fn introduces(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// Whether a contact's record may be somebody of ours who has the same e-mail address. Most vendors hold an address for one person;
    /// at a clinic families share theirs, and what is linked is written.
    fn is_same_person(&self, record: &Record, ours: &NewVisitor) -> bool {
        let _ = (record, ours);
        true
    }

    /// How long after we gave up on a request the vendor may still carry it out.
    fn late_window(&self) -> Duration;

    /// The longest a [`Connector::push`] takes before it gives up by itself, waiting for budget included: after its patience no
    /// change is sent ([`Call::until`]), and one that was is waited for as long as a request may take.
    fn push_deadline(&self) -> Duration;

    /// The kinds it carries, parents first.
    fn kinds(&self) -> Vec<Kind>;

    /// Its feeds. Before each page they are looked at in this order, and the first that is due is read: what takes many pages
    /// while others wait comes last.
    fn streams(&self) -> Vec<Stream>;

    /// Who are we connected to, with which rights, and is the clock right?
    ///
    /// # Errors
    /// [`ConnectorError`] if the vendor cannot be asked at all; a missing right is an item of the answer.
    async fn check(&self) -> Result<Identity, ConnectorError>;

    /// Who are we connected to? As [`Connector::check`] without the items: asked at every start, also by an engine that
    /// waits for another one's lease, so it is cheap where calls are.
    ///
    /// # Errors
    /// As [`Connector::check`].
    async fn identify(&self) -> Result<Identity, ConnectorError> {
        self.check().await
    }

    /// Where a person lets our app in, with a browser, which then brings a code and this `state` to the app's own address;
    /// `None` where there is no app to let in.
    fn consent(&self, state: &str) -> Option<Url> {
        let _ = state;
        None
    }

    /// Exchanges the code that a consent brought for a grant, and answers whose account that leads to. It is kept if it leads
    /// to `account`, or to any where none is known yet.
    ///
    /// # Errors
    /// [`ConnectorError`] as the vendor answers: a code is good for once, so it takes another. A connector that asks nobody
    /// rejects it.
    async fn redeem(&self, code: &Secret, account: Option<&str>) -> Result<Identity, ConnectorError> {
        let _ = (code, account);
        Err(self.has_no("app to let in"))
    }

    /// Pipelines, owners and properties.
    ///
    /// # Errors
    /// [`ConnectorError`] as the vendor answers.
    async fn discover(&self) -> Result<Schema, ConnectorError>;

    /// The next page of a stream. May repeat a record; never skips one.
    ///
    /// # Errors
    /// [`ConnectorError`]; the cursor stays where it was.
    async fn changes(&self, call: Call, stream: &Stream, cursor: &Cursor) -> Result<Page, ConnectorError>;

    /// True while a stream reads everything for the first time: that work goes last and leaves a reserve of the day.
    fn is_backfill(&self, stream: &Stream, cursor: &Cursor) -> bool {
        stream.backfills && cursor.0.is_empty()
    }

    /// One page of a full listing, for the audit: every record that is there, as a [`Seen::Record`] to be compared; a hint
    /// says only that one is there which could not be read. An empty cursor starts; the last page has `more == false`.
    ///
    /// # Errors
    /// [`ConnectorError`]; the cursor stays where it was.
    async fn list(&self, call: Call, kind: Kind, cursor: &Cursor) -> Result<Page, ConnectorError>;

    /// The truth now: one answer per id, in the order asked.
    ///
    /// # Errors
    /// [`ConnectorError`] if the batch as a whole could not be read.
    async fn fetch(&self, call: Call, kind: Kind, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError>;

    /// The records that carry these markers, in the order asked: the probe before a create is repeated. Consistent
    /// with writes, unlike a search. Of several that carry one marker, the oldest.
    ///
    /// # Errors
    /// [`ConnectorError`] if the batch as a whole could not be read.
    async fn find(&self, call: Call, kind: Kind, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError>;

    /// What was stated for these properties and when, newest first, for each id in the order asked; `None` for a
    /// record that is not there. Vendors without history answer an empty map, as this does.
    ///
    /// # Errors
    /// [`ConnectorError`] if the batch as a whole could not be read.
    async fn history(
        &self,
        _call: Call,
        _kind: Kind,
        ids: &[ExternalId],
        _properties: &[String],
    ) -> Result<Vec<Option<History>>, ConnectorError> {
        Ok(ids.iter().map(|_| Some(History::new())).collect())
    }

    /// One outcome per write, in the order given. Sending the same create again does not write twice, where the vendor
    /// refuses twins.
    async fn push(&self, call: Call, writes: &[Write]) -> Vec<Pushed>;

    /// Sales by id, in the order asked: what vendors with a till are asked for what their feeds and webhooks of
    /// [`Kind::Sale`] name. A vendor without one is never asked.
    ///
    /// # Errors
    /// [`ConnectorError`] if the batch as a whole could not be read.
    async fn sales(&self, call: Call, ids: &[ExternalId]) -> Result<Vec<SaleRead>, ConnectorError> {
        let _ = call;
        Ok(ids.iter().map(|_| SaleRead::NotYet).collect())
    }

    /// Where a checkout is made that names no location, by the vendor's id; `None` where a vendor has none. Asked once, before
    /// the checkout is kept: asked for again it is to be the same one, whatever opened or closed since.
    ///
    /// # Errors
    /// [`ConnectorError`]; a rejection where no open location takes the currency.
    async fn checkout_location(&self, call: Call, currency: &str) -> Result<Option<String>, ConnectorError> {
        let _ = (call, currency);
        Ok(None)
    }

    /// Starts a checkout at a till, or finds the one that was started under its key.
    ///
    /// # Errors
    /// [`ConnectorError`]; asked for again, what was done is not done twice. A vendor without a till rejects it.
    async fn checkout(&self, call: Call, new: &NewCheckout) -> Result<Checkout, ConnectorError> {
        let _ = (call, new);
        Err(self.has_no("till"))
    }

    /// Visits by id, in the order asked: what vendors with a calendar are asked for what their feeds and webhooks of
    /// [`Kind::Appointment`] name. A vendor without one is never asked.
    ///
    /// # Errors
    /// [`ConnectorError`] if the batch as a whole could not be read.
    async fn visits(&self, call: Call, ids: &[ExternalId]) -> Result<Vec<VisitRead>, ConnectorError> {
        let _ = call;
        Ok(ids.iter().map(|_| VisitRead::Missing).collect())
    }

    /// Makes an appointment, and the vendor's record of who comes if there is none; answers both ids. That record
    /// stays, so it is made after whatever can be refused before it. Asked for again under the same reference it is the
    /// same appointment.
    ///
    /// # Errors
    /// [`ConnectorError`]; a [`ConnectorError::Conflict`] where the time is taken. A vendor without a calendar rejects it.
    async fn book(&self, call: Call, new: &NewVisit) -> Result<(ExternalId, ExternalId), ConnectorError> {
        let _ = (call, new);
        Err(self.has_no("calendar"))
    }

    /// Moves an appointment, or calls it off. Asked for again it is done already.
    ///
    /// # Errors
    /// [`ConnectorError`].
    async fn change_visit(&self, call: Call, id: &ExternalId, change: &VisitChange) -> Result<(), ConnectorError> {
        let _ = (call, id, change);
        Err(self.has_no("calendar"))
    }

    /// What is free, in order: offers, not holds.
    ///
    /// # Errors
    /// [`ConnectorError`]; a rejection where somebody or some place is asked for, and the vendor does not tell
    /// whose time is free.
    async fn openings(&self, call: Call, wanted: &WantedOpenings) -> Result<Vec<Opening>, ConnectorError> {
        let _ = (call, wanted);
        Err(self.has_no("calendar"))
    }

    /// The refusal of what this vendor does not have.
    fn has_no(&self, what: &str) -> ConnectorError {
        ConnectorError::Rejected {
            field: Some("connection".into()),
            reason: format!("{} has no {what}", self.system()),
        }
    }

    /// Makes sure that the vendor sends its news to this address, where that is a call and not a setting that people make
    /// at the vendor. Asked at the start and from time to time, since vendors take subscriptions away.
    ///
    /// # Errors
    /// [`ConnectorError`]; news then come by polling alone.
    async fn subscribe(&self, call: Call, address: &Url) -> Result<(), ConnectorError> {
        let _ = (call, address);
        Ok(())
    }

    /// Whether the vendor signs its webhooks, or they carry a secret that only it and we know. Where not, their address ends in a
    /// part that nobody guesses.
    fn signs_webhooks(&self) -> bool {
        true
    }

    /// Verifies a webhook on its raw bytes and answers which records to look at.
    ///
    /// # Errors
    /// [`WebhookError`] if it is not to be believed.
    fn hints(&self, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError>;

    /// The event that a webhook tells of, where a delivery that is repeated names the same one: what was taken once is answered and
    /// done no more. Asked only of what [`Connector::hints`] believed.
    fn event(&self, request: &WebhookRequest<'_>) -> Option<ExternalId> {
        let _ = request;
        None
    }

    /// Calls made since the start, for the summary.
    fn calls(&self) -> u64;
}
