//! Where everything is kept. The engine sees [`SyncStore`]; queries for people are SQL only.
//!
//! A change is a value: a [`Commit`] is a list of operations on one account that happen together or not at all. The
//! memory store and the SQL store carry out the same list and are tested against each other on random ones.

mod carry_out;
mod connection;
#[cfg(test)]
mod cost;
mod keys;
mod link_row;
pub mod memory;
pub mod queries;
mod reads;
pub mod seal;
pub mod sql;

pub use connection::change_connection;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Cursor, ExternalId, Kind, NewCheckout};

use crate::model::{
    Conflict, ConnectionRow, Dirty, Evidence, EvidenceState, Failure, HistoryEntry, Intent, Key, Link, LocalRecord,
    Mark, Name, Pipeline, RecordId, StageMap, Visit,
    ids::{ConflictId, IntentId},
    link::Ruling,
};

/// How long an event is kept that was taken. Source: Square tells one again for up to a day, and older pages of its say three.
pub const EVENTS_KEPT: TimeDelta = TimeDelta::days(3);

/// How long what a checkout was asked for as is kept: nobody pays by it any more then.
pub const CHECKOUTS_KEPT: TimeDelta = TimeDelta::days(90);

/// The store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record changed since it was read; nothing of the commit was stored.
    #[error("{kind} {id} changed meanwhile; read it again")]
    Stale {
        /// Which kind.
        kind: Kind,
        /// Which record.
        id: RecordId,
    },
    /// A connection, a pipeline, a sale or a visit changed since it was read; nothing of the commit was stored.
    #[error("{0} changed meanwhile; read it again")]
    Outdated(String),
    /// Something that must be unique is taken; nothing of the commit was stored.
    #[error("{what} is already taken")]
    Taken {
        /// What.
        what: Taken,
    },
    /// Another engine has taken over; nothing of the commit was stored.
    #[error("another engine owns this connection now")]
    Fenced,
    /// The database refuses: full or read-only disk, gone server. Nothing was stored.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A row is not what this program writes.
    #[error("table {table}, row {row}: {why}")]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The one active place of a contact in a pipeline (AX-02).
    ActivePlace,
    /// An external reference (VX-20).
    ExternalReference,
    /// A vendor's id.
    ExternalId,
    /// The one open intent of a record.
    Intent,
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ActivePlace => "the contact's one active place in this pipeline",
            Self::ExternalReference => "the external reference",
            Self::ExternalId => "the external id",
            Self::Intent => "the record's one open intent",
        })
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Stores a record whose stored version is `expected` (0: there is none).
    PutRecord {
        /// The whole record, its version already raised.
        record: LocalRecord,
        /// The version it was changed from.
        expected: i64,
        /// The one active place it takes, where the policy has such places; waits for, if it is quarantined.
        slot: Option<String>,
    },
    /// Stores a link, over one that is there as well; what was counted of people's decisions stays.
    PutLink {
        /// The whole link.
        link: Link,
        /// The vendor.
        system: String,
        /// The vendor's account.
        remote_account: String,
    },
    /// Stores what a link that is there says now: its base, its state, what is on hold. What it links stays, so that no
    /// index is touched. Stale where a person decided about its holds since it was read.
    UpdateLink(Link),
    /// Carries out what a person decided about a link as it is stored by then; nothing where there is no such link.
    RuleOnLink {
        /// Whose.
        connection: Name,
        /// Which kind.
        kind: Kind,
        /// Our record.
        local: RecordId,
        /// What was decided.
        ruling: Ruling,
    },
    /// Removes a link.
    RemoveLink {
        /// Whose.
        connection: Name,
        /// Which kind.
        kind: Kind,
        /// Our record.
        local: RecordId,
    },
    /// Remembers that a vendor's record lives on as another.
    PutAlias {
        /// Whose.
        connection: Name,
        /// Which kind.
        kind: Kind,
        /// The id that was merged away.
        old: ExternalId,
        /// The survivor.
        new: ExternalId,
    },
    /// Marks a record dirty.
    Mark(Mark),
    /// Ends the work on a mark, unless it was marked again.
    Finish {
        /// Whose.
        connection: Name,
        /// The mark as it was claimed.
        dirty: Dirty,
    },
    /// Puts the work on a mark off, unless it was marked again.
    Defer {
        /// Whose.
        connection: Name,
        /// The mark as it was claimed.
        dirty: Dirty,
        /// Until when.
        until: DateTime<Utc>,
        /// Whether this counts as a failed try.
        failed: bool,
    },
    /// Stores an intent.
    PutIntent(Intent),
    /// Ends an intent.
    DropIntent(IntentId),
    /// Stores how far a stream was read.
    PutCursor {
        /// Whose.
        connection: Name,
        /// Which stream.
        stream: String,
        /// How far.
        cursor: Cursor,
    },
    /// Records a conflict unless the same one is recorded.
    AddConflict(Conflict),
    /// Replaces a conflict.
    PutConflict(Conflict),
    /// Appends to the field history.
    AddHistory(HistoryEntry),
    /// Records a failure, or counts it again.
    PutFailure(Failure),
    /// Removes the failures of a record: of one row, or all.
    DropFailures {
        /// Whose.
        connection: Name,
        /// Which kind.
        kind: Kind,
        /// Which record.
        key: Key,
        /// Which row; `None` for all.
        row: Option<String>,
    },
    /// Stores a pipeline, its version already raised, at this place of the order, which no other may have.
    PutPipeline(Pipeline, i64),
    /// Stores which vendor stage stands for which of ours.
    PutStageMap(StageMap),
    /// Stores a connection, its version already raised.
    PutConnection(ConnectionRow),
    /// Stores an event of the mass-change guard.
    PutGuard(GuardEvent),
    /// Begins to make an appointment from an opportunity; refused while another is being made.
    BeginBooking {
        /// Which opportunity.
        opportunity: RecordId,
        /// When.
        now: DateTime<Utc>,
        /// Until when nobody else may, unless it is ended before.
        until: DateTime<Utc>,
    },
    /// Ends it, if it is still the one that began so.
    EndBooking {
        /// Which opportunity.
        opportunity: RecordId,
        /// What it was begun with.
        until: DateTime<Utc>,
    },
    /// Stores a sale, its version already raised.
    PutEvidence(Evidence),
    /// Stores a visit, its version already raised.
    PutVisit(Visit),
    /// Keeps what a checkout is asked for as, unless that is kept already: the first word stands.
    KeepCheckout {
        /// At which till.
        connection: Name,
        /// What is asked for.
        new: NewCheckout,
        /// When.
        asked_at: DateTime<Utc>,
    },
    /// Drops it: the till would not have it.
    DropCheckout {
        /// At which till.
        connection: Name,
        /// Its key.
        key: String,
    },
    /// Keeps that an event was taken, together with what it named.
    KeepEvent {
        /// Which connection it came to.
        connection: Name,
        /// Its id there.
        event: ExternalId,
        /// When.
        taken_at: DateTime<Utc>,
    },
    /// Drops what is kept for no longer than [`CHECKOUTS_KEPT`] and [`EVENTS_KEPT`], of every connection of the account.
    DropOld {
        /// When.
        now: DateTime<Utc>,
    },
}

/// Operations on one account that happen together.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// The account all of them are in.
    pub account: Name,
    /// The engine's claim to the connection; the commit is refused if it is outdated. `None` for people's edits.
    pub fence: Option<Fence>,
    /// In order; but no commit stores one record or one link twice, so a store may put operations on different tables
    /// together as it likes.
    pub ops: Vec<Op>,
}

/// An engine's claim to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Which connection.
    pub connection: Name,
    /// The epoch of the lease it was given.
    pub epoch: i64,
}

/// Writes that the mass-change guard holds until a person decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardEvent {
    /// Whose.
    pub connection: Name,
    /// Which class of changes: `delete`, `create`, `blank` or `one_value` at the vendor, `local_delete` or `local_blank`
    /// here.
    pub class: String,
    /// How many are held.
    pub count: u64,
    /// Some of the records.
    pub sample: Vec<String>,
    /// What tripped it, for people.
    pub message: String,
    /// `held`, `approved` or `discarded`.
    pub state: String,
    /// When it tripped.
    pub at: DateTime<Utc>,
}

/// Links by our ids or by the vendor's.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// Ours.
    Local(&'a [RecordId]),
    /// The vendor's.
    External(&'a [ExternalId]),
}

/// What the engine needs of a store.
#[async_trait]
pub trait SyncStore: Send + Sync {
    /// Carries out a list of operations, all or none.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored then.
    async fn commit(&self, commit: &Commit) -> Result<(), StoreError>;

    /// Marks that are due, urgent first; at most `limit`, all of one kind: the one named, else the first in the order
    /// in which records depend on one another.
    async fn due(
        &self,
        account: &Name,
        connection: &Name,
        kind: Option<Kind>,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<Dirty>, StoreError>;

    /// The opportunities of these contacts that are not deleted, in order of id (VX-09).
    async fn opportunities_of(&self, account: &Name, contacts: &[RecordId]) -> Result<Vec<RecordId>, StoreError>;

    /// Opportunities that wait for their contact's one active place, in order of id; only those whose place is free
    /// now, if asked.
    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Result<Vec<RecordId>, StoreError>;

    /// When the next mark is due.
    async fn next_due(&self, account: &Name, connection: &Name) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Links of a connection.
    async fn links(&self, account: &Name, connection: &Name, kind: Kind, by: By<'_>) -> Result<Vec<Link>, StoreError>;

    /// Which record of ours is which of the vendor's, for those that are linked.
    async fn pairs(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        by: By<'_>,
    ) -> Result<Vec<(RecordId, ExternalId)>, StoreError>;

    /// A page of a connection's links in order of our ids, for the audit.
    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Link>, StoreError>;

    /// A page of the account's live records that have no link to a connection, in order of their ids.
    async fn unlinked_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError>;

    /// Records by id.
    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Result<Vec<LocalRecord>, StoreError>;

    /// Contacts that are not deleted, by the key of their e-mail address.
    async fn contacts_by_email(&self, account: &Name, emails: &[String])
    -> Result<Vec<(String, RecordId)>, StoreError>;

    /// Contacts that are not deleted, by the last digits of their telephone number.
    async fn contacts_by_phone(&self, account: &Name, tail: &str) -> Result<Vec<RecordId>, StoreError>;

    /// Sales of a till, by the vendor's ids.
    async fn evidence(
        &self,
        account: &Name,
        connection: &Name,
        sales: &[ExternalId],
    ) -> Result<Vec<Evidence>, StoreError>;

    /// The sales that are evidence for an opportunity, in order of till and id.
    async fn evidence_for(&self, account: &Name, opportunity: RecordId) -> Result<Vec<Evidence>, StoreError>;

    /// What the checkout of this key was first asked for as.
    async fn checkout(&self, account: &Name, connection: &Name, key: &str) -> Result<Option<NewCheckout>, StoreError>;

    /// Whether an event was taken before.
    async fn has_event(&self, account: &Name, connection: &Name, event: &ExternalId) -> Result<bool, StoreError>;

    /// Visits of a calendar, by the vendor's ids.
    async fn visits(&self, account: &Name, connection: &Name, ids: &[ExternalId]) -> Result<Vec<Visit>, StoreError>;

    /// The visits of a contact, in order of calendar and id.
    async fn visits_of(&self, account: &Name, contact: RecordId) -> Result<Vec<Visit>, StoreError>;

    /// Sales in this state, newest first.
    async fn evidence_in(
        &self,
        account: &Name,
        state: EvidenceState,
        limit: usize,
    ) -> Result<Vec<Evidence>, StoreError>;

    /// Open intents of these records.
    async fn intents(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        locals: &[RecordId],
    ) -> Result<Vec<Intent>, StoreError>;

    /// All open intents of a connection: few, since each is open only while its write is under way or held.
    async fn open_intents(&self, account: &Name, connection: &Name) -> Result<Vec<Intent>, StoreError>;

    /// Ids that were merged away, and the survivors.
    async fn aliases(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Result<Vec<(ExternalId, ExternalId)>, StoreError>;

    /// How far a stream was read.
    async fn cursor(&self, account: &Name, connection: &Name, stream: &str) -> Result<Option<Cursor>, StoreError>;

    /// The account's pipelines in order.
    async fn pipelines(&self, account: &Name) -> Result<Vec<Pipeline>, StoreError>;

    /// Which vendor stage stands for which of ours.
    async fn stage_maps(&self, account: &Name, connection: &Name) -> Result<Vec<StageMap>, StoreError>;

    /// A connection.
    async fn connection(&self, account: &Name, connection: &Name) -> Result<Option<ConnectionRow>, StoreError>;

    /// Conflicts of an account, newest first; open ones only if asked.
    async fn conflicts(&self, account: &Name, open_only: bool, limit: usize) -> Result<Vec<Conflict>, StoreError>;

    /// One conflict.
    async fn conflict(&self, account: &Name, id: ConflictId) -> Result<Option<Conflict>, StoreError>;

    /// Failures of an account, newest first.
    async fn failures(&self, account: &Name, limit: usize) -> Result<Vec<Failure>, StoreError>;

    /// The history of a record, oldest first.
    async fn history(&self, account: &Name, kind: Kind, record: RecordId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// Events of the mass-change guard.
    async fn guard_events(&self, account: &Name, connection: &Name) -> Result<Vec<GuardEvent>, StoreError>;

    /// How many links of a kind a connection has, counted up to `most`.
    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind, most: u64) -> Result<u64, StoreError>;

    /// Takes a shard for `owner` until `expires`, unless another owner's lease still runs at `now`; raises the epoch and
    /// copies it to the connection. `None` if it is taken.
    async fn take_lease(
        &self,
        shard: i64,
        account: &Name,
        connection: &Name,
        owner: &str,
        now: DateTime<Utc>,
        expires: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError>;

    /// Prolongs a lease; false if it is another's now.
    async fn renew_lease(
        &self,
        shard: i64,
        owner: &str,
        epoch: i64,
        expires: DateTime<Utc>,
    ) -> Result<bool, StoreError>;
}
