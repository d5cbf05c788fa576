//! The store in SQLite or PostgreSQL: one struct, one text per statement, two drivers.
//!
//! Whole records are kept as JSON text beside the few columns that queries and constraints need. A commit is carried
//! out in runs of equal operations, many rows a statement, since each statement costs a hop to the driver's thread.

use std::{path::Path, str::FromStr, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Connection, PgPool, Postgres, QueryBuilder, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tandem_contract::Kind;
use uuid::Uuid;

use super::{
    Commit, Op, StoreError, Taken,
    carry_out::{add_history, finish_marks, put_links, put_marks, put_one, put_records, runs, update_links},
    seal::Sealer,
};
use crate::model::{Intent, Name, RecordId};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Memory a connection to SQLite may take for pages of the file, in KiB, which SQLite wants as a negative number.
const CACHE: &str = "-16384";
/// Rows of one statement.
pub(super) const ROWS: usize = 500;

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

pub(super) enum Tx {
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
                type $db = sqlx::Sqlite;
                $body
            }
            Tx::Postgres($conn) => {
                #[allow(dead_code, reason = "not every statement is built")]
                type $db = sqlx::Postgres;
                $body
            }
        }
    };
}
pub(super) use on_tx;

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
        } else if text.contains("pipeline") {
            return StoreError::Outdated("the list of pipelines".into());
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
            let code = refusal.code().unwrap_or_default();
            format!("{} ({code}){}", plain(refusal.message()), advice(&code))
        }
        other => other.to_string(),
    })
}

/// What to do about a refusal that is not ours to mend. SQLite: result codes 8 (READONLY), 14 (CANTOPEN) and 13 (FULL),
/// the low byte of any extended code; PostgreSQL: 25006 (read-only transaction) and 53100 (disk full).
fn advice(code: &str) -> &'static str {
    let sqlite = (code.len() < 5).then(|| code.parse::<u32>().ok().map(|code| code & 0xff)).flatten();
    match (sqlite, code) {
        (Some(8 | 14), _) | (_, "25006") => {
            ": the database cannot be opened or written; look at the owner and the rights of its file and folder, and how the disk is mounted"
        }
        (Some(13), _) | (_, "53100") => ": the disk is full; once there is room it goes on by itself",
        _ => "",
    }
}

/// The first line of a database's message, without quoted values.
fn plain(message: &str) -> String {
    message.lines().next().unwrap_or_default().split('"').step_by(2).collect::<Vec<_>>().join("…")
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Unavailable(error.to_string()))
}

pub(super) fn parse<T: DeserializeOwned>(table: &'static str, row: impl ToString, body: &str) -> Result<T, StoreError> {
    serde_json::from_str(body).or_else(|_| {
        let mut json = serde_json::Deserializer::from_str(body);
        serde_path_to_error::deserialize(&mut json).map_err(|error| StoreError::Corrupt {
            table,
            row: row.to_string(),
            why: format!("does not parse at `{}`", error.path()),
        })
    })
}

impl SqlStore {
    /// The end of the address of a connection whose vendor signs nothing: nobody guesses it.
    #[must_use]
    pub fn hook_segment(&self, connection: &Name) -> String {
        self.sealer.name_for(&format!("webhooks of {connection}"))
    }

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
        let pools = if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url).map_err(refused)?;
            let pool = PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(5));
            Pools::Postgres(pool.connect_with(options).await.map_err(refused)?)
        } else if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)
                .map_err(refused)?
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // Acknowledged edits and webhooks answered 2xx must survive a power cut.
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                // A batch touches a page of the file for each of its records: they should not be read twice.
                .pragma("cache_size", CACHE)
                // A list of rows that a statement brings would otherwise get an index of its own, and the whole table be
                // held against it; so each of its rows is looked up in the table's index.
                .pragma("automatic_index", "OFF")
                .busy_timeout(Duration::from_secs(5));
            // SQLite ends a transaction by itself when the disk is full; the connection does not learn of it, and would
            // begin no other.
            let write = SqlitePoolOptions::new().max_connections(1).before_acquire(|connection, _| {
                Box::pin(async move {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            });
            let write = write.connect_with(options.clone()).await.map_err(refused)?;
            let read = SqlitePoolOptions::new()
                .max_connections(4)
                .connect_with(options.read_only(true).create_if_missing(false));
            Pools::Sqlite { read: read.await.map_err(refused)?, write }
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

    pub(super) async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match &self.pools {
            Pools::Sqlite { write, .. } => Tx::Sqlite(write.begin_with("BEGIN IMMEDIATE").await.map_err(refused)?),
            Pools::Postgres(pool) => Tx::Postgres(pool.begin().await.map_err(refused)?),
        })
    }

    pub(super) async fn finish(tx: Tx) -> Result<(), StoreError> {
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
    pub async fn commit_all(&self, commits: &[Commit]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for commit in commits {
            self.carry_out(&mut tx, commit).await?;
        }
        Self::finish(tx).await
    }

    async fn carry_out(&self, tx: &mut Tx, commit: &Commit) -> Result<(), StoreError> {
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
        for run in runs(&commit.ops) {
            self.carry_out_run(tx, &account, run).await?;
        }
        Ok(())
    }

    async fn carry_out_run(&self, tx: &mut Tx, account: &str, run: Vec<&Op>) -> Result<(), StoreError> {
        match run.first() {
            Some(Op::PutRecord { record, expected, .. }) => {
                put_records(tx, account, record.kind(), *expected == 0, &run).await
            }
            Some(Op::PutLink { .. }) => put_links(tx, account, &run).await,
            Some(Op::UpdateLink(_)) => update_links(tx, account, &run).await,
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

    async fn put_intents(&self, tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
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

    pub(super) fn open_intent(&self, id: Uuid, sealed: &[u8]) -> Result<Intent, StoreError> {
        let corrupt = |why: String| StoreError::Corrupt { table: "intent", row: id.to_string(), why };
        let plain = self.sealer.open("intent", sealed).map_err(|error| corrupt(error.to_string()))?;
        let text = String::from_utf8(plain).map_err(|_| corrupt("is not text".into()))?;
        parse("intent", id, &text)
    }
}

/// The path of a SQLite database's file, for the lock beside it.
#[must_use]
pub fn sqlite_path(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"))?;
    Some(Path::new(path.split('?').next().unwrap_or(path)))
}
