//! Queries for people: lists and pages of records, tokens, stored connections. SQL only; the engine uses none of them.

use chrono::{DateTime, Utc};
use sqlx::QueryBuilder;
use tandem_contract::{Kind, Secret};
use uuid::Uuid;

use super::{
    StoreError, link_row,
    reads::{Keys, Of},
    sql::{Pools, SqlStore, on_pool, parse, refused},
};
use crate::model::{Contact, Link, Name, Opportunity, RecordId, dirty::is_watched};

/// Runs on the writer of SQLite, or any connection of PostgreSQL.
macro_rules! on_writer {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.pools {
            Pools::Sqlite { write: $pool, .. } => $body,
            Pools::Postgres($pool) => $body,
        }
    };
}

impl SqlStore {
    /// A page of opportunities that are not deleted, in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn opportunities(
        &self,
        account: &Name,
        after: Option<RecordId>,
        limit: u32,
    ) -> Result<Vec<Opportunity>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM opportunity WHERE account = $1 AND id > $2 AND NOT deleted ORDER BY id LIMIT $3")
                .bind(account.as_str()).bind(after.map_or(Uuid::nil(), |id| id.0)).bind(i64::from(limit)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("opportunity", id, &body)).collect()
    }

    /// A page of contacts that are not deleted, in order of id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn contacts(
        &self,
        account: &Name,
        after: Option<RecordId>,
        limit: u32,
    ) -> Result<Vec<Contact>, StoreError> {
        let rows: Vec<(Uuid, String)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT id, body FROM contact WHERE account = $1 AND id > $2 AND NOT deleted ORDER BY id LIMIT $3")
                .bind(account.as_str()).bind(after.map_or(Uuid::nil(), |id| id.0)).bind(i64::from(limit)).fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter().map(|(id, body)| parse("contact", id, &body)).collect()
    }

    /// How many opportunities each of these contacts has; a contact without any is not in the list.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn opportunity_counts(
        &self,
        account: &Name,
        contacts: &[RecordId],
    ) -> Result<Vec<(RecordId, u64)>, StoreError> {
        if contacts.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<(Uuid, i64)> = on_pool!(self, pool, Db => {
            let mut q = QueryBuilder::<Db>::new("SELECT contact, COUNT(*) FROM opportunity WHERE account = ");
            q.push_bind(account.as_str()).push(" AND NOT deleted AND contact IN (");
            let mut list = q.separated(", ");
            for contact in contacts {
                list.push_bind(contact.0);
            }
            q.push(") GROUP BY contact");
            q.build_query_as().fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().map(|(id, count)| (RecordId(id), u64::try_from(count).unwrap_or(0))).collect())
    }

    /// All links of these records, on every connection of the account.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn links_of(&self, account: &Name, kind: Kind, ids: &[RecordId]) -> Result<Vec<Link>, StoreError> {
        let rows = self.by_keys(link_row::SELECT, Of::Connections(account, kind), "local_id", Keys::Ids(ids)).await?;
        let mut links: Vec<Link> = rows.into_iter().map(link_row::link).collect::<Result<_, _>>()?;
        links.sort_by(|a, b| (a.local, &a.connection).cmp(&(b.local, &b.connection)));
        Ok(links)
    }

    /// How many records of an account wait to be looked at on a connection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn backlog(&self, account: &Name, connection: &Name) -> Result<u64, StoreError> {
        let row: (i64,) = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT COUNT(*) FROM dirty WHERE account = $1 AND connection = $2")
                .bind(account.as_str()).bind(connection.as_str()).fetch_one(pool).await
        })
        .map_err(refused)?;
        Ok(u64::try_from(row.0).unwrap_or(0))
    }

    /// How many of them are work left undone: without what is only looked at again for days.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn left_undone(&self, account: &Name, connection: &Name) -> Result<u64, StoreError> {
        let rows: Vec<(String, i64)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT kind, COUNT(*) FROM dirty WHERE account = $1 AND connection = $2 GROUP BY kind")
                .bind(account.as_str()).bind(connection.as_str()).fetch_all(pool).await
        })
        .map_err(refused)?;
        let is_undone = |kind: &str| kind.parse().is_ok_and(|kind| !is_watched(kind));
        let undone: i64 = rows.iter().filter(|(kind, _)| is_undone(kind)).map(|(_, count)| *count).sum();
        Ok(u64::try_from(undone).unwrap_or(0))
    }

    /// This installation's id; made on first use from the one proposed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn installation(&self, proposed: Uuid) -> Result<String, StoreError> {
        let insert = "INSERT INTO installation (only_row, id) VALUES (1, $1) ON CONFLICT (only_row) DO NOTHING";
        let id = proposed.simple().to_string()[20..].to_owned();
        on_writer!(self, pool => sqlx::query(insert).bind(&id).execute(pool).await.map(|_| ())).map_err(refused)?;
        let row: (String,) = on_writer!(self, pool => sqlx::query_as("SELECT id FROM installation WHERE only_row = 1").fetch_one(pool).await)
            .map_err(refused)?;
        Ok(row.0)
    }

    /// Stores the digest of an API token.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_token(
        &self,
        account: &Name,
        name: &str,
        digest: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO api_token (digest, account, name, created_at) VALUES ($1, $2, $3, $4)";
        on_writer!(self, pool => sqlx::query(sql).bind(digest).bind(account.as_str()).bind(name).bind(now).execute(pool).await.map(|_| ()))
            .map_err(refused)
    }

    /// The account a token belongs to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn account_of_token(&self, digest: &str) -> Result<Option<Name>, StoreError> {
        let row: Option<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT account FROM api_token WHERE digest = $1").bind(digest).fetch_optional(pool).await
        })
        .map_err(refused)?;
        Ok(row.and_then(|(account,)| account.parse().ok()))
    }

    /// Keeps a connection that is not in the configuration file, sealed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_connection(&self, account: &Name, name: &Name, toml: &str) -> Result<(), StoreError> {
        let sealed = self.sealer.seal("connection", toml.as_bytes());
        let sql = "INSERT INTO stored_connection (account, name, sealed) VALUES ($1, $2, $3)
                   ON CONFLICT (name) DO UPDATE SET account = excluded.account, sealed = excluded.sealed";
        on_writer!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(name.as_str()).bind(sealed).execute(pool).await.map(|_| ()))
            .map_err(refused)
    }

    /// Forgets a stored connection; its links stay, so that adding it again goes on where it stopped.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_connection(&self, name: &Name) -> Result<bool, StoreError> {
        let sql = "DELETE FROM stored_connection WHERE name = $1";
        let done = on_writer!(self, pool => sqlx::query(sql).bind(name.as_str()).execute(pool).await.map(|d| d.rows_affected()));
        Ok(done.map_err(refused)? == 1)
    }

    /// Keeps the newest grant of a connection, sealed. `came_from` is the digest of the one in the configuration.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_grant(
        &self,
        account: &Name,
        name: &Name,
        came_from: &str,
        grant: &str,
    ) -> Result<(), StoreError> {
        let sealed = self.sealer.seal("grant", grant.as_bytes());
        let sql = "INSERT INTO renewed_grant (account, connection, came_from, sealed) VALUES ($1, $2, $3, $4)
                   ON CONFLICT (account, connection) DO UPDATE SET came_from = excluded.came_from, sealed = excluded.sealed";
        on_writer!(self, pool => {
            sqlx::query(sql).bind(account.as_str()).bind(name.as_str()).bind(came_from).bind(sealed).execute(pool).await.map(|_| ())
        })
        .map_err(refused)
    }

    /// The newest grant of a connection that came from this one; `None` if the configured one is the newest, or new.
    ///
    /// # Errors
    /// [`StoreError`], also if it was sealed with another master key.
    pub async fn grant(&self, account: &Name, name: &Name, came_from: &str) -> Result<Option<Secret>, StoreError> {
        let row: Option<(Vec<u8>,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT sealed FROM renewed_grant WHERE account = $1 AND connection = $2 AND came_from = $3")
                .bind(account.as_str()).bind(name.as_str()).bind(came_from).fetch_optional(pool).await
        })
        .map_err(refused)?;
        let corrupt = |why: String| StoreError::Corrupt { table: "renewed_grant", row: name.to_string(), why };
        row.map(|(sealed,)| {
            let plain = self.sealer.open("grant", &sealed).map_err(|error| corrupt(error.to_string()))?;
            String::from_utf8(plain).map(Secret::new).map_err(|_| corrupt("is not text".into()))
        })
        .transpose()
    }

    /// The connections of an account that keep a cursor of this stream.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keepers(&self, account: &Name, stream: &str) -> Result<Vec<Name>, StoreError> {
        let rows: Vec<(String,)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT connection FROM cursor WHERE account = $1 AND stream = $2 ORDER BY connection")
                .bind(account.as_str()).bind(stream).fetch_all(pool).await
        })
        .map_err(refused)?;
        Ok(rows.into_iter().filter_map(|(name,)| name.parse().ok()).collect())
    }

    /// The connections that are not in the configuration file, as TOML.
    ///
    /// # Errors
    /// [`StoreError`], also if one was sealed with another master key.
    pub async fn stored_connections(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows: Vec<(String, Vec<u8>)> = on_pool!(self, pool, Db => {
            sqlx::query_as("SELECT name, sealed FROM stored_connection ORDER BY name").fetch_all(pool).await
        })
        .map_err(refused)?;
        rows.into_iter()
            .map(|(name, sealed)| {
                let corrupt = |why: String| StoreError::Corrupt { table: "stored_connection", row: name.clone(), why };
                let plain = self.sealer.open("connection", &sealed).map_err(|error| corrupt(error.to_string()))?;
                let text = String::from_utf8(plain).map_err(|_| corrupt("is not text".into()))?;
                Ok((name, text))
            })
            .collect()
    }
}
