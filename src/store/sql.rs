//! The store in SQLite or PostgreSQL: one struct, one text per statement, two drivers.
//!
//! Whole records are kept as JSON text beside the few columns that queries and constraints need. A commit is carried
//! out in runs of equal operations, many rows a statement, since each statement costs a hop to the driver's thread.

use std::{collections::BTreeSet, path::Path, str::FromStr, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    PgPool, Postgres, QueryBuilder, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tandem_contract::{Cursor, ExternalId, Kind};
use uuid::Uuid;

use super::{By, Commit, GuardEvent, Op, StoreError, SyncStore, Taken, seal::Sealer};
use crate::model::{
    Conflict, ConnectionRow, Dirty, Failure, HistoryEntry, Intent, Link, LocalRecord, Name, Pipeline, RecordId,
    StageMap,
    ids::{ConflictId, IntentId},
};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Rows of one statement.
const ROWS: usize = 500;

/// The databases behind the store.
#[derive(Clone, Debug)]
pub enum Pools {
    /// One writer, a few readers.
    Sqlite {
        /// Readers.
        read: SqlitePool,
        /// The one writer.
        write: SqlitePool,
    },
    /// A server.
    Postgres(PgPool),
}

/// The store in a database.
#[derive(Clone)]
pub struct SqlStore {
    pub(super) pools: Pools,
    pub(super) sealer: Sealer,
}

enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// One body, two monomorphic copies: reading.
macro_rules! on_pool {
    ($store:expr, $pool:ident, $db:ident => $body:block) => {
        match &$store.pools {
            $crate::store::sql::Pools::Sqlite { read: $pool, .. } => {
                #[allow(dead_code, reason = "not every statement is built")]
                type $db = sqlx::Sqlite;
                $body
            }
            $crate::store::sql::Pools::Postgres($pool) => {
                #[allow(dead_code, reason = "not every statement is built")]
                type $db = sqlx::Postgres;
                $body
            }
        }
    };
}
pub(super) use on_pool;

/// One body, two monomorphic copies: in a transaction.
macro_rules! on_tx {
    ($tx:expr, $conn:ident, $db:ident => $body:block) => {
        match $tx {
            Tx::Sqlite($conn) => {
                #[allow(dead_code, reason = "not every statement is built")]
                type $db = Sqlite;
                $body
            }
            Tx::Postgres($conn) => {
                #[allow(dead_code, reason = "not every statement is built")]
                type $db = Postgres;
                $body
            }
        }
    };
}

/// What a database's refusal means.
pub(super) fn refused(error: sqlx::Error) -> StoreError {
    if let sqlx::Error::Database(refusal) = &error
        && refusal.is_unique_violation()
    {
        let text = format!("{} {}", refusal.constraint().unwrap_or_default(), refusal.message());
        let what = if text.contains("slot") {
            Some(Taken::ActivePlace)
        } else if text.contains("external_reference") {
            Some(Taken::ExternalReference)
        } else if text.contains("link") {
            Some(Taken::ExternalId)
        } else if text.contains("intent") {
            Some(Taken::Intent)
        } else {
            None
        };
        if let Some(what) = what {
            return StoreError::Taken { what };
        }
        return StoreError::Stale {
            kind: if text.contains("contact") { Kind::Contact } else { Kind::Deal },
            id: RecordId(Uuid::nil()),
        };
    }
    StoreError::Unavailable(match &error {
        // The text of a statement's failure may quote values; its code does not.
        sqlx::Error::Database(refusal) => {
            format!("{} ({})", plain(refusal.message()), refusal.code().unwrap_or_default())
        }
        other => other.to_string(),
    })
}

/// The first line of a database's message, without quoted values.
fn plain(message: &str) -> String {
    message.lines().next().unwrap_or_default().split('"').step_by(2).collect::<Vec<_>>().join("…")
}

fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unavailable(error.to_string()))
}

pub(super) fn parse<T: DeserializeOwned>(table: &'static str, row: impl ToString, body: &str) -> Result<T, StoreError> {
    let mut json = serde_json::Deserializer::from_str(body);
    serde_path_to_error::deserialize(&mut json).map_err(|error| StoreError::Corrupt {
        table,
        row: row.to_string(),
        why: format!("does not parse at `{}`", error.path()),
    })
}

impl SqlStore {
    /// Opens the database and brings its tables up to date.
    ///
    /// `sqlite://path` is made if it is not there; `postgres://…` must exist.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason.
    pub async fn open(url: &str, sealer: Sealer) -> Result<Self, StoreError> {
        let store = Self::connect(url, sealer).await?;
        store.migrate().await?;
        Ok(store)
    }

    /// Opens the database as it is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason.
    pub async fn connect(url: &str, sealer: Sealer) -> Result<Self, StoreError> {
        let unavailable = |error: sqlx::Error| StoreError::Unavailable(error.to_string());
        let pools = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(unavailable)?;
            let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(10));
            Pools::Postgres(pool.connect_with(options).await.map_err(unavailable)?)
        } else if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)
                .map_err(unavailable)?
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // Acknowledged edits and webhooks answered 2xx must survive a power cut.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(5));
            let write =
                SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(unavailable)?;
            let read = SqlitePoolOptions::new()
                .max_connections(4)
                .connect_with(options.read_only(true).create_if_missing(false));
            Pools::Sqlite { read: read.await.map_err(unavailable)?, write }
        } else {
            return Err(StoreError::Unavailable("the database url starts with neither sqlite: nor postgres:".into()));
        };
        Ok(Self { pools, sealer })
    }

    /// Brings the tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the reason.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let done = match &self.pools {
            Pools::Sqlite { write, .. } => SQLITE_MIGRATIONS.run(write).await,
            Pools::Postgres(pool) => POSTGRES_MIGRATIONS.run(pool).await,
        };
        done.map_err(|error| StoreError::Unavailable(format!("the tables could not be brought up to date: {error}")))
    }

    /// True if the database answers.
    pub async fn is_ready(&self) -> bool {
        let answer: Result<(i64,), _> =
            on_pool!(self, pool, Db => { sqlx::query_as("SELECT CAST(1 AS BIGINT)").fetch_one(pool).await });
        answer.is_ok()
    }

    /// Closes all connections.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Sqlite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match &self.pools {
            Pools::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await.map_err(refused)?),
            Pools::Postgres(pool) => Tx::Postgres(pool.begin().await.map_err(refused)?),
        })
    }

    async fn finish(tx: Tx) -> Result<(), StoreError> {
        match tx {
            Tx::Sqlite(tx) => tx.commit().await,
            Tx::Postgres(tx) => tx.commit().await,
        }
        .map_err(refused)
    }

    /// True for the embedded database.
    #[must_use]
    pub fn is_sqlite(&self) -> bool {
        matches!(self.pools, Pools::Sqlite { .. })
    }

    /// Carries out several commits in one transaction: group commit, for SQLite, where each costs a disk flush.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored then.
    pub async fn commit_all(&self, commits: Vec<Commit>) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for commit in commits {
            self.carry_out(&mut tx, commit).await?;
        }
        Self::finish(tx).await
    }

    async fn carry_out(&self, tx: &mut Tx, commit: Commit) -> Result<(), StoreError> {
        let account = commit.account.as_str().to_owned();
        if let Some(fence) = &commit.fence {
            // SQLite has one writer. On PostgreSQL the row is held, so that nobody takes over in the middle.
            let sql = match tx {
                Tx::Sqlite(_) => "SELECT epoch FROM connection WHERE account = $1 AND name = $2",
                Tx::Postgres(_) => "SELECT epoch FROM connection WHERE account = $1 AND name = $2 FOR SHARE",
            };
            let epoch: Option<(i64,)> = on_tx!(tx, c, Db => {
                sqlx::query_as(sql)
                    .bind(&account).bind(fence.connection.as_str()).fetch_optional(&mut **c).await
            })
            .map_err(refused)?;
            if epoch.is_some_and(|(epoch,)| epoch != fence.epoch) {
                return Err(StoreError::Fenced);
            }
        }
        for run in runs(commit.ops) {
            self.carry_out_run(tx, &account, run).await?;
        }
        Ok(())
    }

    async fn carry_out_run(&self, tx: &mut Tx, account: &str, run: Vec<Op>) -> Result<(), StoreError> {
        match run.first() {
            Some(Op::PutRecord { record, expected, .. }) => {
                put_records(tx, account, record.kind(), *expected == 0, &run).await
            }
            Some(Op::PutLink { .. }) => put_links(tx, account, &run).await,
            Some(Op::Mark(_)) => put_marks(tx, account, &run).await,
            Some(Op::Finish { .. }) => finish_marks(tx, account, &run).await,
            Some(Op::AddHistory(_)) => add_history(tx, account, &run).await,
            Some(Op::PutIntent(_)) => self.put_intents(tx, account, &run).await,
            _ => {
                for op in run {
                    put_one(tx, account, op).await?;
                }
                Ok(())
            }
        }
    }

    async fn put_intents(&self, tx: &mut Tx, account: &str, run: &[Op]) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(run.len());
        for op in run {
            if let Op::PutIntent(intent) = op {
                rows.push((intent, self.sealer.seal("intent", json(intent)?.as_bytes())));
            }
        }
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new("INSERT INTO intent (account, id, connection, kind, local_id, sealed) ");
            q.push_values(&rows, |mut b, (intent, sealed)| {
                b.push_bind(account).push_bind(intent.id.0).push_bind(intent.connection.as_str()).push_bind(intent.kind.as_str())
                    .push_bind(intent.local.0).push_bind(sealed.as_slice());
            });
            q.push(" ON CONFLICT (account, id) DO UPDATE SET sealed = excluded.sealed");
            q.build().execute(&mut **c).await.map(|_| ())
        })
        .map_err(refused)
    }

    fn open_intent(&self, id: Uuid, sealed: &[u8]) -> Result<Intent, StoreError> {
        let corrupt = |why: String| StoreError::Corrupt { table: "intent", row: id.to_string(), why };
        let plain = self.sealer.open("intent", sealed).map_err(|error| corrupt(error.to_string()))?;
        let text = String::from_utf8(plain).map_err(|_| corrupt("is not text".into()))?;
        parse("intent", id, &text)
    }
}

/// What makes two operations of one kind touch the same row; `None` for operations that are carried out one by one.
fn row_of(op: &Op) -> Option<(u8, String)> {
    match op {
        Op::PutRecord { record, expected: 0, .. } => {
            Some((u8::from(record.kind() == Kind::Deal), record.id().to_string()))
        }
        Op::PutLink { link, .. } => Some((3, format!("{}{}{}", link.connection, link.kind, link.local))),
        Op::Mark(mark) => Some((4, format!("{}{}{}", mark.connection, mark.kind, mark.key))),
        Op::Finish { connection, dirty } => Some((5, format!("{connection}{}{}", dirty.kind, dirty.key))),
        Op::AddHistory(_) => Some((6, String::new())),
        Op::PutIntent(intent) => Some((7, intent.id.to_string())),
        _ => None,
    }
}

/// Splits a list of operations into runs that one statement can carry out; their order stays.
fn runs(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut runs: Vec<Vec<Op>> = Vec::new();
    let mut current: Option<(u8, BTreeSet<String>)> = None;
    // Operations of different tables do not disturb one another: records, then links, then the rest, each in order.
    let (mut records, mut links, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let removes_links = ops.iter().any(|op| matches!(op, Op::RemoveLink { .. }));
    for op in ops {
        match op {
            Op::PutRecord { .. } => records.push(op),
            Op::PutLink { .. } if !removes_links => links.push(op),
            op => rest.push(op),
        }
    }
    rest.sort_by_key(|op| match op {
        Op::AddHistory(_) => 1,
        Op::Finish { .. } => 2,
        _ => 0,
    });
    for op in records.into_iter().chain(links).chain(rest) {
        let row = row_of(&op);
        let joins = match (&mut current, &row) {
            (Some((kind, seen)), Some((next, key))) => {
                *kind == *next && seen.len() < ROWS && (*next == 6 || seen.insert(key.clone()))
            }
            _ => false,
        };
        let full = runs.last().is_some_and(|run| run.len() >= ROWS);
        if joins && !full {
            if let Some(run) = runs.last_mut() {
                run.push(op);
            }
        } else {
            current = row.map(|(kind, key)| (kind, BTreeSet::from([key])));
            runs.push(vec![op]);
        }
    }
    runs
}

async fn put_records(tx: &mut Tx, account: &str, kind: Kind, is_new: bool, run: &[Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::PutRecord { record, expected, slot } = op {
            let body = match record {
                LocalRecord::Contact(contact) => json(contact)?,
                LocalRecord::Deal(deal) => json(deal)?,
            };
            rows.push((record, *expected, slot, body));
        }
    }
    if !is_new {
        for (record, expected, slot, body) in rows {
            update_record(tx, account, record, expected, slot.as_deref(), &body).await?;
        }
        return Ok(());
    }
    let done = if kind == Kind::Contact {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new("INSERT INTO contact (account, id, version, email, deleted, updated_at, body) ");
            q.push_values(&rows, |mut b, (record, _, _, body)| {
                let LocalRecord::Contact(contact) = record else { return };
                b.push_bind(account).push_bind(contact.id.0).push_bind(contact.version).push_bind(contact.email_key())
                    .push_bind(contact.deleted_at.is_some()).push_bind(contact.updated_at).push_bind(body.as_str());
            });
            q.build().execute(&mut **c).await.map(|_| ())
        })
    } else {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new(
                "INSERT INTO opportunity (account, id, version, contact, pipeline, stage, status, slot, waiting_slot, external_reference, deleted, updated_at, body) ",
            );
            q.push_values(&rows, |mut b, (record, _, slot, body)| {
                let LocalRecord::Deal(deal) = record else { return };
                b.push_bind(account).push_bind(deal.id.0).push_bind(deal.version).push_bind(deal.contact.map(|id| id.0))
                    .push_bind(deal.position.pipeline.map(|id| id.0)).push_bind(deal.position.stage.map(|id| id.0))
                    .push_bind(deal.position.status.as_str())
                    .push_bind(slot.as_deref().filter(|_| !deal.quarantined)).push_bind(slot.as_deref().filter(|_| deal.quarantined))
                    .push_bind(deal.live_reference())
                    .push_bind(deal.deleted_at.is_some()).push_bind(deal.updated_at).push_bind(body.as_str());
            });
            q.build().execute(&mut **c).await.map(|_| ())
        })
    };
    done.map_err(refused)
}

async fn update_record(
    tx: &mut Tx,
    account: &str,
    record: &LocalRecord,
    expected: i64,
    slot: Option<&str>,
    body: &str,
) -> Result<(), StoreError> {
    let hit = match record {
        LocalRecord::Contact(contact) => on_tx!(tx, c, Db => {
            sqlx::query(
                "UPDATE contact SET version = $4, email = $5, deleted = $6, updated_at = $7, body = $8
                  WHERE account = $1 AND id = $2 AND version = $3",
            )
            .bind(account).bind(contact.id.0).bind(expected).bind(contact.version).bind(contact.email_key())
            .bind(contact.deleted_at.is_some()).bind(contact.updated_at).bind(body)
            .execute(&mut **c).await.map(|done| done.rows_affected())
        }),
        LocalRecord::Deal(deal) => on_tx!(tx, c, Db => {
            sqlx::query(
                "UPDATE opportunity SET version = $4, contact = $5, pipeline = $6, stage = $7, status = $8, slot = $9,
                        external_reference = $10, deleted = $11, updated_at = $12, body = $13, waiting_slot = $14
                  WHERE account = $1 AND id = $2 AND version = $3",
            )
            .bind(account).bind(deal.id.0).bind(expected).bind(deal.version).bind(deal.contact.map(|id| id.0))
            .bind(deal.position.pipeline.map(|id| id.0)).bind(deal.position.stage.map(|id| id.0)).bind(deal.position.status.as_str())
            .bind(slot.filter(|_| !deal.quarantined)).bind(deal.live_reference()).bind(deal.deleted_at.is_some()).bind(deal.updated_at).bind(body)
            .bind(slot.filter(|_| deal.quarantined))
            .execute(&mut **c).await.map(|done| done.rows_affected())
        }),
    };
    match hit.map_err(refused)? {
        1 => Ok(()),
        _ => Err(StoreError::Stale { kind: record.kind(), id: record.id() }),
    }
}

async fn put_links(tx: &mut Tx, account: &str, run: &[Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::PutLink { link, system, remote_account } = op {
            rows.push((link, system.as_str(), remote_account.as_str(), json(link)?));
        }
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new(
            "INSERT INTO link (account, connection, kind, local_id, system, remote_account, external_id, state, body) ",
        );
        q.push_values(&rows, |mut b, (link, system, remote_account, body)| {
            b.push_bind(account).push_bind(link.connection.as_str()).push_bind(link.kind.as_str()).push_bind(link.local.0)
                .push_bind(*system).push_bind(*remote_account).push_bind(link.external.as_str()).push_bind(link.state.as_str())
                .push_bind(body.as_str());
        });
        q.push(
            " ON CONFLICT (account, connection, kind, local_id) DO UPDATE SET system = excluded.system,
                remote_account = excluded.remote_account, external_id = excluded.external_id, state = excluded.state, body = excluded.body",
        );
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

async fn put_marks(tx: &mut Tx, account: &str, run: &[Op]) -> Result<(), StoreError> {
    let rows: Vec<_> = run
        .iter()
        .filter_map(|op| match op {
            Op::Mark(mark) => Some((mark, mark.key.to_string())),
            _ => None,
        })
        .collect();
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new(
            "INSERT INTO dirty (account, connection, kind, rank, record_key, generation, due_at, priority, attempts) ",
        );
        q.push_values(&rows, |mut b, (mark, key)| {
            b.push_bind(account).push_bind(mark.connection.as_str()).push_bind(mark.kind.as_str()).push_bind(rank(mark.kind))
                .push_bind(key.as_str()).push_bind(1_i64).push_bind(mark.due_at).push_bind(mark.priority).push_bind(0_i64);
        });
        q.push(
            " ON CONFLICT (account, connection, kind, record_key) DO UPDATE SET generation = dirty.generation + 1,
                due_at = CASE WHEN excluded.due_at < dirty.due_at THEN excluded.due_at ELSE dirty.due_at END,
                priority = CASE WHEN excluded.priority < dirty.priority THEN excluded.priority ELSE dirty.priority END",
        );
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

/// Parents before children.
fn rank(kind: Kind) -> i64 {
    Kind::ALL.iter().position(|one| *one == kind).map_or(9, |place| i64::try_from(place).unwrap_or(9))
}

async fn finish_marks(tx: &mut Tx, account: &str, run: &[Op]) -> Result<(), StoreError> {
    let rows: Vec<_> = run
        .iter()
        .filter_map(|op| match op {
            // A generation of 0 was never marked.
            Op::Finish { connection, dirty } if dirty.generation > 0 => {
                Some((connection, dirty, dirty.key.to_string()))
            }
            _ => None,
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new("DELETE FROM dirty WHERE account = ");
        q.push_bind(account).push(" AND (connection, kind, record_key, generation) IN (");
        q.push_values(&rows, |mut b, (connection, dirty, key)| {
            b.push_bind(connection.as_str()).push_bind(dirty.kind.as_str()).push_bind(key.as_str()).push_bind(dirty.generation);
        });
        q.push(")");
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

async fn add_history(tx: &mut Tx, account: &str, run: &[Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::AddHistory(entry) = op {
            rows.push((entry, json(entry)?));
        }
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new("INSERT INTO history (account, kind, record, at, body) ");
        q.push_values(&rows, |mut b, (entry, body)| {
            b.push_bind(account).push_bind(entry.kind.as_str()).push_bind(entry.record.0).push_bind(entry.at).push_bind(body.as_str());
        });
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

/// Operations that are rare: one statement each.
async fn put_one(tx: &mut Tx, account: &str, op: Op) -> Result<(), StoreError> {
    macro_rules! run {
        ($sql:literal $(, $bind:expr)*) => {
            on_tx!(tx, c, Db => { sqlx::query($sql).bind(account) $(.bind($bind))* .execute(&mut **c).await.map(|done| done.rows_affected()) })
                .map_err(refused)
        };
    }
    match op {
        Op::RemoveLink { connection, kind, local } => {
            run!(
                "DELETE FROM link WHERE account = $1 AND connection = $2 AND kind = $3 AND local_id = $4",
                connection.as_str(),
                kind.as_str(),
                local.0
            )?;
        }
        Op::PutAlias { connection, kind, old, new } => {
            run!(
                "INSERT INTO alias (account, connection, kind, old_id, new_id) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, kind, old_id) DO UPDATE SET new_id = excluded.new_id",
                connection.as_str(),
                kind.as_str(),
                old.as_str(),
                new.as_str()
            )?;
        }
        Op::Defer { connection, dirty, until, failed } => {
            run!(
                "UPDATE dirty SET due_at = $6, attempts = attempts + $7
                  WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND generation = $5",
                connection.as_str(),
                dirty.kind.as_str(),
                dirty.key.to_string(),
                dirty.generation,
                until,
                i64::from(failed)
            )?;
        }
        Op::DropIntent(IntentId(id)) => {
            run!("DELETE FROM intent WHERE account = $1 AND id = $2", id)?;
        }
        Op::PutCursor { connection, stream, cursor } => {
            run!(
                "INSERT INTO cursor (account, connection, stream, position) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, connection, stream) DO UPDATE SET position = excluded.position",
                connection.as_str(),
                stream.as_str(),
                cursor.0.as_str()
            )?;
        }
        Op::AddConflict(conflict) => {
            run!(
                "INSERT INTO conflict (account, id, fingerprint, state, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, fingerprint) DO NOTHING",
                conflict.id.0,
                conflict.fingerprint(),
                conflict.state.as_str(),
                json(&conflict)?
            )?;
        }
        Op::PutConflict(conflict) => {
            run!(
                "UPDATE conflict SET state = $3, body = $4 WHERE account = $1 AND id = $2",
                conflict.id.0,
                conflict.state.as_str(),
                json(&conflict)?
            )?;
        }
        Op::PutFailure(failure) => put_failure(tx, account, failure).await?,
        Op::DropFailures { connection, kind, key, row } => match row {
            Some(row) => {
                run!(
                    "DELETE FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND field = $5",
                    connection.as_str(),
                    kind.as_str(),
                    key.to_string(),
                    row
                )?;
            }
            None => {
                run!(
                    "DELETE FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4",
                    connection.as_str(),
                    kind.as_str(),
                    key.to_string()
                )?;
            }
        },
        Op::PutPipeline(pipeline, place) => {
            run!(
                "INSERT INTO pipeline (account, id, place, body) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, id) DO UPDATE SET place = excluded.place, body = excluded.body",
                pipeline.id.0,
                place,
                json(&pipeline)?
            )?;
        }
        Op::PutStageMap(map) => {
            run!(
                "INSERT INTO stage_map (account, connection, remote_pipeline, remote_stage, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, remote_pipeline, remote_stage) DO UPDATE SET body = excluded.body",
                map.connection.as_str(), map.remote_pipeline.as_str(), map.remote_stage.as_str(), json(&map)?
            )?;
        }
        Op::PutConnection(row) => {
            run!(
                "INSERT INTO connection (account, name, body) VALUES ($1, $2, $3)
                 ON CONFLICT (account, name) DO UPDATE SET body = excluded.body",
                row.name.as_str(),
                json(&row)?
            )?;
        }
        Op::PutGuard(event) => {
            run!(
                "INSERT INTO guard_event (account, connection, class, body) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, connection, class) DO UPDATE SET body = excluded.body",
                event.connection.as_str(),
                event.class.as_str(),
                json(&event)?
            )?;
        }
        Op::PutRecord { .. }
        | Op::PutLink { .. }
        | Op::Mark(_)
        | Op::Finish { .. }
        | Op::AddHistory(_)
        | Op::PutIntent(_) => {}
    }
    Ok(())
}

async fn put_failure(tx: &mut Tx, account: &str, failure: Failure) -> Result<(), StoreError> {
    let key = (failure.connection.as_str(), failure.kind.as_str(), failure.key.as_str(), failure.row.as_str());
    let old: Option<(String,)> = on_tx!(tx, c, Db => {
        sqlx::query_as("SELECT body FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND field = $5")
            .bind(account).bind(key.0).bind(key.1).bind(key.2).bind(key.3).fetch_optional(&mut **c).await
    })
    .map_err(refused)?;
    let next = match old {
        Some((body,)) => {
            let old: Failure = parse("failure", key.2, &body)?;
            Failure { id: old.id, first_at: old.first_at, attempts: old.attempts + 1, ..failure.clone() }
        }
        None => failure.clone(),
    };
    let body = json(&next)?;
    on_tx!(tx, c, Db => {
        sqlx::query(
            "INSERT INTO failure (account, id, connection, kind, record_key, field, body) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (account, connection, kind, record_key, field) DO UPDATE SET body = excluded.body",
        )
        .bind(account).bind(next.id.0).bind(key.0).bind(key.1).bind(key.2).bind(key.3).bind(body)
        .execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

impl SqlStore {
    /// Bodies of a table by a list of keys.
    async fn bodies<T: DeserializeOwned>(
        &self,
        table: &'static str,
        sql: &'static str,
        account: &Name,
        more: &[&str],
        ids: &[Uuid],
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(ROWS) {
            let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
                let mut q = QueryBuilder::<Db>::new(sql);
                q.push_bind(account.as_str());
                for (index, value) in more.iter().enumerate() {
                    q.push(if index == 0 { " AND connection = " } else { " AND kind = " }).push_bind(*value);
                }
                q.push(if table == "link" || table == "intent" { " AND local_id IN (" } else { " AND id IN (" });
                let mut list = q.separated(", ");
                for id in chunk {
                    list.push_bind(*id);
                }
                q.push(")");
                q.build_query_as().fetch_all(pool).await
            })
            .map_err(refused)?;
            for (id, body) in rows {
                all.push(parse(table, id, &body)?);
            }
        }
        Ok(all)
    }
}

#[async_trait]
impl SyncStore for SqlStore {
    async fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        self.commit_all(vec![commit]).await
    }

    async fn due(
        &self,
        account: &Name,
        connection: &Name,
        kind: Option<Kind>,
        now: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<Dirty>, StoreError> {
        type Row = (String, String, i64, DateTime<Utc>, i64, i64);
        let rows: Vec<Row> = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT kind, record_key, generation, due_at, priority, attempts FROM dirty
                  WHERE account = $1 AND connection = $2 AND due_at <= $3
                    AND rank = COALESCE($5, (SELECT MIN(rank) FROM dirty WHERE account = $1 AND connection = $2 AND due_at <= $3))
                  ORDER BY priority, due_at, record_key LIMIT $4",
            )
            .bind(account.as_str()).bind(connection.as_str()).bind(now).bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .bind(kind.map(rank)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter()
            .map(|(kind, key, generation, due_at, priority, attempts)| {
                let corrupt = |why: &str| StoreError::Corrupt { table: "dirty", row: key.clone(), why: why.into() };
                Ok(Dirty {
                    kind: kind.parse().map_err(|_| corrupt("has an unknown kind"))?,
                    key: key.parse().map_err(|_| corrupt("has a bad key"))?,
                    generation,
                    due_at,
                    priority,
                    attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
                })
            })
            .collect()
    }

    async fn opportunities_of(&self, account: &Name, contact: RecordId) -> Result<Vec<RecordId>, StoreError> {
        let rows: Vec<(Uuid,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id FROM opportunity WHERE account = $1 AND contact = $2 AND NOT deleted ORDER BY id")
                .bind(account.as_str()).bind(contact.0).fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().map(|(id,)| RecordId(id)).collect())
    }

    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Result<Vec<RecordId>, StoreError> {
        let rows: Vec<(Uuid,)> = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT id FROM opportunity AS waiting WHERE account = $1 AND waiting_slot IS NOT NULL
                    AND ($2 = 0 OR NOT EXISTS (SELECT 1 FROM opportunity AS active WHERE active.account = $1 AND active.slot = waiting.waiting_slot))
                  ORDER BY id LIMIT $3",
            )
            .bind(account.as_str()).bind(i64::from(free_only)).bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().map(|(id,)| RecordId(id)).collect())
    }

    async fn next_due(&self, account: &Name, connection: &Name) -> Result<Option<DateTime<Utc>>, StoreError> {
        let row: (Option<DateTime<Utc>>,) = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT MIN(due_at) FROM dirty WHERE account = $1 AND connection = $2")
                .bind(account.as_str()).bind(connection.as_str()).fetch_one(pool).await
        })
        .map_err(refused)?;
        Ok(row.0)
    }

    async fn links(&self, account: &Name, connection: &Name, kind: Kind, by: By<'_>) -> Result<Vec<Link>, StoreError> {
        match by {
            By::Local(ids) => {
                let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
                self.bodies(
                    "link",
                    "SELECT local_id, body FROM link WHERE account = ",
                    account,
                    &[connection.as_str(), kind.as_str()],
                    &ids,
                )
                .await
            }
            By::External(ids) => {
                let mut all = Vec::with_capacity(ids.len());
                for chunk in ids.chunks(ROWS) {
                    let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
                        let mut q = QueryBuilder::<Db>::new("SELECT local_id, body FROM link WHERE account = ");
                        q.push_bind(account.as_str()).push(" AND connection = ").push_bind(connection.as_str());
                        q.push(" AND kind = ").push_bind(kind.as_str()).push(" AND external_id IN (");
                        let mut list = q.separated(", ");
                        for id in chunk {
                            list.push_bind(id.as_str());
                        }
                        q.push(")");
                        q.build_query_as().fetch_all(pool).await
                    })
                    .map_err(refused)?;
                    for (id, body) in rows {
                        all.push(parse("link", id, &body)?);
                    }
                }
                Ok(all)
            }
        }
    }

    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Link>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT local_id, body FROM link WHERE account = $1 AND connection = $2 AND kind = $3 AND local_id > $4
                  ORDER BY local_id LIMIT $5",
            )
            .bind(account.as_str()).bind(connection.as_str()).bind(kind.as_str()).bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("link", id, &body)).collect()
    }

    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Result<Vec<LocalRecord>, StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        Ok(match kind {
            Kind::Contact => {
                let all =
                    self.bodies("contact", "SELECT id, body FROM contact WHERE account = ", account, &[], &ids).await?;
                all.into_iter().map(LocalRecord::Contact).collect()
            }
            Kind::Deal => {
                let all = self
                    .bodies("opportunity", "SELECT id, body FROM opportunity WHERE account = ", account, &[], &ids)
                    .await?;
                all.into_iter().map(LocalRecord::Deal).collect()
            }
            Kind::Company | Kind::Appointment | Kind::Sale => Vec::new(),
        })
    }

    async fn contacts_by_email(
        &self,
        account: &Name,
        emails: &[String],
    ) -> Result<Vec<(String, RecordId)>, StoreError> {
        let mut all = Vec::new();
        for chunk in emails.chunks(ROWS) {
            let rows: Vec<(String, Uuid)> = on_pool!(self, pool, Db => {
                let mut q = QueryBuilder::<Db>::new("SELECT email, id FROM contact WHERE account = ");
                q.push_bind(account.as_str()).push(" AND deleted = ").push_bind(false).push(" AND email IN (");
                let mut list = q.separated(", ");
                for email in chunk {
                    list.push_bind(email.as_str());
                }
                q.push(") ORDER BY id");
                q.build_query_as().fetch_all(pool).await
            })
            .map_err(refused)?;
            all.extend(rows.into_iter().map(|(email, id)| (email, RecordId(id))));
        }
        Ok(all)
    }

    async fn intents(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        locals: &[RecordId],
    ) -> Result<Vec<Intent>, StoreError> {
        let mut all = Vec::new();
        for chunk in locals.chunks(ROWS) {
            let rows: Vec<(Uuid, Vec<u8>)> = on_pool!(self, pool, Db => {
                let mut q = QueryBuilder::<Db>::new("SELECT id, sealed FROM intent WHERE account = ");
                q.push_bind(account.as_str()).push(" AND connection = ").push_bind(connection.as_str());
                q.push(" AND kind = ").push_bind(kind.as_str()).push(" AND local_id IN (");
                let mut list = q.separated(", ");
                for id in chunk {
                    list.push_bind(id.0);
                }
                q.push(")");
                q.build_query_as().fetch_all(pool).await
            })
            .map_err(refused)?;
            for (id, sealed) in rows {
                all.push(self.open_intent(id, &sealed)?);
            }
        }
        Ok(all)
    }

    async fn open_intents(&self, account: &Name, connection: &Name) -> Result<Vec<Intent>, StoreError> {
        let rows: Vec<(Uuid, Vec<u8>)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, sealed FROM intent WHERE account = $1 AND connection = $2 ORDER BY id")
                .bind(account.as_str()).bind(connection.as_str()).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, sealed)| self.open_intent(id, &sealed)).collect()
    }

    async fn aliases(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        ids: &[ExternalId],
    ) -> Result<Vec<(ExternalId, ExternalId)>, StoreError> {
        let mut all = Vec::new();
        for chunk in ids.chunks(ROWS) {
            let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
                let mut q = QueryBuilder::<Db>::new("SELECT old_id, new_id FROM alias WHERE account = ");
                q.push_bind(account.as_str()).push(" AND connection = ").push_bind(connection.as_str());
                q.push(" AND kind = ").push_bind(kind.as_str()).push(" AND old_id IN (");
                let mut list = q.separated(", ");
                for id in chunk {
                    list.push_bind(id.as_str());
                }
                q.push(")");
                q.build_query_as().fetch_all(pool).await
            })
            .map_err(refused)?;
            for (old, new) in rows {
                let id = |text: String| {
                    ExternalId::new(text).map_err(|error| StoreError::Corrupt {
                        table: "alias",
                        row: String::new(),
                        why: error.to_string(),
                    })
                };
                all.push((id(old)?, id(new)?));
            }
        }
        Ok(all)
    }

    async fn cursor(&self, account: &Name, connection: &Name, stream: &str) -> Result<Option<Cursor>, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT position FROM cursor WHERE account = $1 AND connection = $2 AND stream = $3")
                .bind(account.as_str()).bind(connection.as_str()).bind(stream).fetch_optional(pool).await
        })
        .map_err(refused)?;
        Ok(row.map(|(position,)| Cursor(position)))
    }

    async fn pipelines(&self, account: &Name) -> Result<Vec<Pipeline>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM pipeline WHERE account = $1 ORDER BY place, id").bind(account.as_str()).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("pipeline", id, &body)).collect()
    }

    async fn stage_maps(&self, account: &Name, connection: &Name) -> Result<Vec<StageMap>, StoreError> {
        let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT remote_stage, body FROM stage_map WHERE account = $1 AND connection = $2 ORDER BY remote_pipeline, remote_stage")
                .bind(account.as_str()).bind(connection.as_str()).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(stage, body)| parse("stage_map", stage, &body)).collect()
    }

    async fn connection(&self, account: &Name, connection: &Name) -> Result<Option<ConnectionRow>, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT body FROM connection WHERE account = $1 AND name = $2 AND body <> ''")
                .bind(account.as_str()).bind(connection.as_str()).fetch_optional(pool).await
        })
        .map_err(refused)?;
        row.map(|(body,)| parse("connection", connection, &body)).transpose()
    }

    async fn conflicts(&self, account: &Name, open_only: bool, limit: usize) -> Result<Vec<Conflict>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM conflict WHERE account = $1 AND (state = 'open' OR NOT $2) ORDER BY id DESC LIMIT $3")
                .bind(account.as_str()).bind(open_only).bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("conflict", id, &body)).collect()
    }

    async fn conflict(&self, account: &Name, id: ConflictId) -> Result<Option<Conflict>, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT body FROM conflict WHERE account = $1 AND id = $2").bind(account.as_str()).bind(id.0).fetch_optional(pool).await
        })
        .map_err(refused)?;
        row.map(|(body,)| parse("conflict", id, &body)).transpose()
    }

    async fn failures(&self, account: &Name, limit: usize) -> Result<Vec<Failure>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM failure WHERE account = $1 ORDER BY id DESC LIMIT $2")
                .bind(account.as_str()).bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("failure", id, &body)).collect()
    }

    async fn history(&self, account: &Name, kind: Kind, record: RecordId) -> Result<Vec<HistoryEntry>, StoreError> {
        let rows: Vec<(i64, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM history WHERE account = $1 AND kind = $2 AND record = $3 ORDER BY id")
                .bind(account.as_str()).bind(kind.as_str()).bind(record.0).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("history", id, &body)).collect()
    }

    async fn guard_events(&self, account: &Name, connection: &Name) -> Result<Vec<GuardEvent>, StoreError> {
        let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT class, body FROM guard_event WHERE account = $1 AND connection = $2 ORDER BY class")
                .bind(account.as_str()).bind(connection.as_str()).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(class, body)| parse("guard_event", class, &body)).collect()
    }

    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind) -> Result<u64, StoreError> {
        let row: (i64,) = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT COUNT(*) FROM link WHERE account = $1 AND connection = $2 AND kind = $3")
                .bind(account.as_str()).bind(connection.as_str()).bind(kind.as_str()).fetch_one(pool).await
        })
        .map_err(refused)?;
        Ok(u64::try_from(row.0).unwrap_or(0))
    }

    async fn take_lease(
        &self,
        shard: i64,
        account: &Name,
        connection: &Name,
        owner: &str,
        now: DateTime<Utc>,
        expires: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let mut tx = self.begin().await?;
        let taken: Option<(i64,)> = on_tx!(&mut tx, c, Db => {
            sqlx::query_as(
                "INSERT INTO lease (shard, owner, epoch, expires_at) VALUES ($1, $2, 1, $4)
                 ON CONFLICT (shard) DO UPDATE SET owner = excluded.owner, epoch = lease.epoch + 1, expires_at = excluded.expires_at
                  WHERE lease.owner = excluded.owner OR lease.expires_at <= $3
                 RETURNING epoch",
            )
            .bind(shard).bind(owner).bind(now).bind(expires).fetch_optional(&mut **c).await
        })
        .map_err(refused)?;
        let Some((epoch,)) = taken else { return Ok(None) };
        on_tx!(&mut tx, c, Db => {
            sqlx::query(
                "INSERT INTO connection (account, name, epoch, body) VALUES ($1, $2, $3, '')
                 ON CONFLICT (account, name) DO UPDATE SET epoch = excluded.epoch",
            )
            .bind(account.as_str()).bind(connection.as_str()).bind(epoch).execute(&mut **c).await.map(|_| ())
        })
        .map_err(refused)?;
        Self::finish(tx).await?;
        Ok(Some(epoch))
    }

    async fn renew_lease(
        &self,
        shard: i64,
        owner: &str,
        epoch: i64,
        expires: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let hit = on_tx!(&mut tx, c, Db => {
            sqlx::query("UPDATE lease SET expires_at = $4 WHERE shard = $1 AND owner = $2 AND epoch = $3")
                .bind(shard).bind(owner).bind(epoch).bind(expires).execute(&mut **c).await.map(|done| done.rows_affected())
        })
        .map_err(refused)?;
        Self::finish(tx).await?;
        Ok(hit == 1)
    }
}

/// The path of a SQLite database's file, for the lock beside it.
#[must_use]
pub fn sqlite_path(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"))?;
    Some(Path::new(path.split('?').next().unwrap_or(path)))
}
