//! What the engine reads of a database, and the leases.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use sqlx::{FromRow, QueryBuilder, postgres::PgRow, sqlite::SqliteRow};
use tandem_contract::{Cursor, ExternalId, Kind, NewCheckout};
use uuid::Uuid;

use super::{
    By, Commit, GuardEvent, StoreError, SyncStore,
    carry_out::rank,
    link_row,
    sql::{ROWS, SqlStore, Tx, on_pool, on_tx, parse, refused},
};
use crate::model::{
    Conflict, ConnectionRow, Dirty, Evidence, EvidenceState, Failure, HistoryEntry, Intent, Link, LocalRecord, Name,
    Pipeline, RecordId, StageMap, Visit, ids::ConflictId,
};

/// Whose rows are asked for.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Account(&'a Name),
    Kind(&'a Name, Kind),
    Connections(&'a Name, Kind),
    Connection(&'a Name, &'a Name, Kind),
    EveryKind(&'a Name, &'a Name),
}

/// Keys of rows; any number of them.
pub(super) enum Keys<'a> {
    Ids(&'a [RecordId]),
    Texts(Vec<&'a str>),
}

impl<'a> Keys<'a> {
    fn externals(ids: &'a [ExternalId]) -> Self {
        Self::Texts(ids.iter().map(ExternalId::as_str).collect())
    }
}

impl SqlStore {
    /// The columns of `select` of every row with one of these keys, a statement for each [`ROWS`] of them.
    pub(super) async fn by_keys<R>(
        &self,
        select: &'static str,
        of: Of<'_>,
        column: &'static str,
        keys: Keys<'_>,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let total = match &keys {
            Keys::Ids(ids) => ids.len(),
            Keys::Texts(texts) => texts.len(),
        };
        let mut all = Vec::with_capacity(total);
        for from in (0..total).step_by(ROWS) {
            let chunk = from..(from + ROWS).min(total);
            let rows: Vec<R> = on_pool!(self, pool, Db => {
                let mut q = QueryBuilder::<Db>::new(select);
                match of {
                    Of::Account(account) => q.push(" WHERE account = ").push_bind(account.as_str()),
                    Of::Kind(account, kind) => q
                        .push(" WHERE account = ").push_bind(account.as_str())
                        .push(" AND kind = ").push_bind(kind.as_str()),
                    // The index has the connection before the kind.
                    Of::Connections(account, kind) => q
                        .push(" WHERE account = ").push_bind(account.as_str())
                        .push(" AND connection IN (SELECT name FROM connection WHERE account = ").push_bind(account.as_str())
                        .push(") AND kind = ").push_bind(kind.as_str()),
                    Of::EveryKind(account, connection) => q
                        .push(" WHERE account = ").push_bind(account.as_str())
                        .push(" AND connection = ").push_bind(connection.as_str()),
                    Of::Connection(account, connection, kind) => q
                        .push(" WHERE account = ").push_bind(account.as_str())
                        .push(" AND connection = ").push_bind(connection.as_str())
                        .push(" AND kind = ").push_bind(kind.as_str()),
                };
                q.push(" AND ").push(column).push(" IN (");
                let mut list = q.separated(", ");
                match &keys {
                    Keys::Ids(ids) => ids[chunk].iter().for_each(|id| {
                        list.push_bind(id.0);
                    }),
                    Keys::Texts(texts) => texts[chunk].iter().for_each(|text| {
                        list.push_bind(*text);
                    }),
                }
                q.push(")");
                q.build_query_as().fetch_all(pool).await
            })
            .map_err(refused)?;
            all.extend(rows);
        }
        Ok(all)
    }

    /// Rows of links; by the vendor's ids also those of other connections.
    async fn links_by<R>(
        &self,
        select: &'static str,
        account: &Name,
        connection: &Name,
        kind: Kind,
        by: By<'_>,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        match by {
            By::Local(ids) => {
                self.by_keys(select, Of::Connection(account, connection, kind), "local_id", Keys::Ids(ids)).await
            }
            // Another connection may know the same id of another vendor: the index has the id first.
            By::External(ids) => {
                let keys = Keys::externals(ids);
                self.by_keys(select, Of::Kind(account, kind), "external_id", keys).await
            }
        }
    }

    /// Rows that are a key and a body.
    async fn bodies<T: DeserializeOwned>(
        &self,
        table: &'static str,
        select: &'static str,
        of: Of<'_>,
        column: &'static str,
        keys: Keys<'_>,
    ) -> Result<Vec<T>, StoreError> {
        let rows: Vec<(Uuid, String)> = self.by_keys(select, of, column, keys).await?;
        rows.into_iter().map(|(id, body)| parse(table, id, &body)).collect()
    }
}

#[async_trait]
impl SyncStore for SqlStore {
    async fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        self.commit_all(std::slice::from_ref(commit)).await
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

    async fn opportunities_of(&self, account: &Name, contacts: &[RecordId]) -> Result<Vec<RecordId>, StoreError> {
        let (of, keys) = (Of::Account(account), Keys::Ids(contacts));
        let rows: Vec<(Uuid, bool)> = self.by_keys("SELECT id, deleted FROM opportunity", of, "contact", keys).await?;
        let live = rows.into_iter().filter(|(_, deleted)| !deleted);
        let mut ids: Vec<RecordId> = live.map(|(id, _)| RecordId(id)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    async fn quarantined(&self, account: &Name, free_only: bool, limit: usize) -> Result<Vec<RecordId>, StoreError> {
        let rows: Vec<(Uuid,)> = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT id FROM opportunity AS waiting WHERE account = $1 AND waiting_slot IS NOT NULL
                    AND ($2 = 0 OR NOT EXISTS (SELECT 1 FROM opportunity AS active WHERE active.account = $1 AND active.slot = waiting.waiting_slot))
                  ORDER BY waiting_slot LIMIT $3",
            )
            .bind(account.as_str()).bind(i64::from(free_only)).bind(i64::try_from(limit).unwrap_or(i64::MAX)).fetch_all(pool).await
        })
        .map_err(refused)?;
        // In the order of the small index of those that wait: in the order of ids, all records would be looked through.
        let mut ids: Vec<RecordId> = rows.into_iter().map(|(id,)| RecordId(id)).collect();
        ids.sort_unstable();
        Ok(ids)
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
        let mut rows: Vec<link_row::Columns> = self.links_by(link_row::SELECT, account, connection, kind, by).await?;
        rows.retain(|row| row.0 == connection.as_str());
        rows.into_iter().map(link_row::link).collect()
    }

    async fn pairs(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        by: By<'_>,
    ) -> Result<Vec<(RecordId, ExternalId)>, StoreError> {
        let select = "SELECT connection, local_id, external_id FROM link";
        let rows: Vec<(String, Uuid, String)> = self.links_by(select, account, connection, kind, by).await?;
        let mine = rows.into_iter().filter(|(of, ..)| of == connection.as_str());
        mine.map(|(_, local, external)| {
            let external = ExternalId::new(external).map_err(|_| StoreError::Corrupt {
                table: "link",
                row: local.to_string(),
                why: "the column external_id is not what this program writes".into(),
            })?;
            Ok((RecordId(local), external))
        })
        .collect()
    }

    async fn link_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<Link>, StoreError> {
        let rows: Vec<link_row::Columns> = on_pool!(self, pool, Db => {
            let mut q = QueryBuilder::<Db>::new(link_row::SELECT);
            q.push(" WHERE account = ").push_bind(account.as_str())
                .push(" AND connection = ").push_bind(connection.as_str())
                .push(" AND kind = ").push_bind(kind.as_str())
                .push(" AND local_id > ").push_bind(after.map_or(Uuid::nil(), |id| id.0))
                .push(" ORDER BY local_id LIMIT ").push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
            q.build_query_as().fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(link_row::link).collect()
    }

    async fn unlinked_page(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        after: Option<RecordId>,
        limit: usize,
    ) -> Result<Vec<RecordId>, StoreError> {
        let table = match kind {
            Kind::Contact => "contact",
            Kind::Deal => "opportunity",
            Kind::Company | Kind::Appointment | Kind::Sale => return Ok(Vec::new()),
        };
        let rows: Vec<(Uuid,)> = on_pool!(self, pool, Db => {
            let mut q = QueryBuilder::<Db>::new("SELECT id FROM ");
            q.push(table).push(" AS record WHERE account = ").push_bind(account.as_str())
                .push(" AND id > ").push_bind(after.map_or(Uuid::nil(), |id| id.0))
                .push(" AND deleted = ").push_bind(false)
                .push(" AND NOT EXISTS (SELECT 1 FROM link WHERE link.account = record.account AND link.connection = ")
                .push_bind(connection.as_str())
                .push(" AND link.kind = ").push_bind(kind.as_str())
                .push(" AND link.local_id = record.id) ORDER BY id LIMIT ")
                .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
            q.build_query_as().fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().map(|(id,)| RecordId(id)).collect())
    }

    async fn records(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Result<Vec<LocalRecord>, StoreError> {
        let (of, keys) = (Of::Account(account), Keys::Ids(ids));
        Ok(match kind {
            Kind::Contact => {
                let all = self.bodies("contact", "SELECT id, body FROM contact", of, "id", keys).await?;
                all.into_iter().map(LocalRecord::Contact).collect()
            }
            Kind::Deal => {
                let all = self.bodies("opportunity", "SELECT id, body FROM opportunity", of, "id", keys).await?;
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
        let keys = Keys::Texts(emails.iter().map(String::as_str).collect());
        let select = "SELECT email, id, deleted FROM contact";
        let mut rows: Vec<(String, Uuid, bool)> = self.by_keys(select, Of::Account(account), "email", keys).await?;
        rows.sort_unstable_by_key(|(_, id, _)| *id);
        let live = rows.into_iter().filter(|(.., deleted)| !deleted);
        Ok(live.map(|(email, id, _)| (email, RecordId(id))).collect())
    }

    async fn contacts_by_phone(&self, account: &Name, tail: &str) -> Result<Vec<RecordId>, StoreError> {
        let rows: Vec<(Uuid, bool)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, deleted FROM contact WHERE account = $1 AND phone = $2 ORDER BY id")
                .bind(account.as_str()).bind(tail).fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().filter(|(_, deleted)| !deleted).map(|(id, _)| RecordId(id)).collect())
    }

    async fn evidence(
        &self,
        account: &Name,
        connection: &Name,
        sales: &[ExternalId],
    ) -> Result<Vec<Evidence>, StoreError> {
        let (of, keys) = (Of::EveryKind(account, connection), Keys::externals(sales));
        let rows: Vec<(String, String)> = self.by_keys("SELECT sale, body FROM evidence", of, "sale", keys).await?;
        rows.into_iter().map(|(sale, body)| parse("evidence", sale, &body)).collect()
    }

    async fn evidence_for(&self, account: &Name, opportunity: RecordId) -> Result<Vec<Evidence>, StoreError> {
        let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT sale, body FROM evidence WHERE account = $1 AND opportunity = $2 ORDER BY connection, sale")
                .bind(account.as_str()).bind(opportunity.0).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(sale, body)| parse("evidence", sale, &body)).collect()
    }

    async fn checkout(&self, account: &Name, connection: &Name, key: &str) -> Result<Option<NewCheckout>, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT body FROM checkout WHERE account = $1 AND connection = $2 AND wish = $3")
                .bind(account.as_str()).bind(connection.as_str()).bind(key).fetch_optional(pool).await
        })
        .map_err(refused)?;
        row.map(|(body,)| parse("checkout", key.to_owned(), &body)).transpose()
    }

    async fn has_event(&self, account: &Name, connection: &Name, event: &ExternalId) -> Result<bool, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT event FROM event WHERE account = $1 AND connection = $2 AND event = $3")
                .bind(account.as_str()).bind(connection.as_str()).bind(event.as_str()).fetch_optional(pool).await
        })
        .map_err(refused)?;
        Ok(row.is_some())
    }

    async fn visits(&self, account: &Name, connection: &Name, ids: &[ExternalId]) -> Result<Vec<Visit>, StoreError> {
        let (of, keys) = (Of::EveryKind(account, connection), Keys::externals(ids));
        let rows: Vec<(String, String)> = self.by_keys("SELECT visit, body FROM visit", of, "visit", keys).await?;
        rows.into_iter().map(|(visit, body)| parse("visit", visit, &body)).collect()
    }

    async fn visits_of(&self, account: &Name, contact: RecordId) -> Result<Vec<Visit>, StoreError> {
        let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT v.visit, v.body FROM visitor AS o
                   JOIN visit AS v ON v.account = o.account AND v.connection = o.connection AND v.visit = o.visit
                  WHERE o.account = $1 AND o.contact = $2 ORDER BY v.connection, v.visit",
            )
            .bind(account.as_str()).bind(contact.0).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(visit, body)| parse("visit", visit, &body)).collect()
    }

    async fn evidence_in(
        &self,
        account: &Name,
        state: EvidenceState,
        limit: usize,
    ) -> Result<Vec<Evidence>, StoreError> {
        let rows: Vec<(String, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT sale, body FROM evidence WHERE account = $1 AND state = $2 ORDER BY sold_at DESC, sale LIMIT $3")
                .bind(account.as_str()).bind(state.as_str()).bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(sale, body)| parse("evidence", sale, &body)).collect()
    }

    async fn intents(
        &self,
        account: &Name,
        connection: &Name,
        kind: Kind,
        locals: &[RecordId],
    ) -> Result<Vec<Intent>, StoreError> {
        let of = Of::Connection(account, connection, kind);
        let rows: Vec<(Uuid, Vec<u8>)> =
            self.by_keys("SELECT id, sealed FROM intent", of, "local_id", Keys::Ids(locals)).await?;
        rows.into_iter().map(|(id, sealed)| self.open_intent(id, &sealed)).collect()
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
        let keys = Keys::externals(ids);
        let of = Of::Connection(account, connection, kind);
        let rows: Vec<(String, String)> = self.by_keys("SELECT old_id, new_id FROM alias", of, "old_id", keys).await?;
        let corrupt = |row: &str, why: String| StoreError::Corrupt { table: "alias", row: row.to_owned(), why };
        let id = |text: String| ExternalId::new(text.as_str()).map_err(|error| corrupt(&text, error.to_string()));
        rows.into_iter().map(|(old, new)| Ok((id(old)?, id(new)?))).collect()
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

    async fn count_links(&self, account: &Name, connection: &Name, kind: Kind, most: u64) -> Result<u64, StoreError> {
        let row: (i64,) = on_pool!(self, pool, Db => {
            sqlx::query_as(
                "SELECT COUNT(*) FROM (SELECT 1 FROM link WHERE account = $1 AND connection = $2 AND kind = $3 LIMIT $4) AS counted",
            )
            .bind(account.as_str()).bind(connection.as_str()).bind(kind.as_str())
            .bind(i64::try_from(most).unwrap_or(i64::MAX)).fetch_one(pool).await
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
