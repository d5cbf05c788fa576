//! A new master key: everything that is sealed is sealed again, in one transaction.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    StoreError,
    seal::Sealer,
    sql::{SqlStore, Tx, on_tx, refused},
};

impl SqlStore {
    /// Opens everything that is sealed with the key in use, and seals it with `next`. Answers how many rows that were.
    /// From then on only `next` opens this database.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed then.
    pub async fn rotate(&self, next: &Sealer, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let leases: (i64,) = on_tx!(&mut tx, c, Db => {
            sqlx::query_as::<Db, _>("SELECT COUNT(*) FROM lease WHERE expires_at > $1").bind(now).fetch_one(&mut **c).await
        })
        .map_err(refused)?;
        if leases.0 > 0 && !self.is_sqlite() {
            // On SQLite the lock on the file has shown that nobody works on it.
            return Err(StoreError::Unavailable(
                "an engine works on it: stop the daemon, and wait until its lease ends".into(),
            ));
        }
        let again = |table: &'static str, purpose: &str, row: String, sealed: &[u8]| {
            let plain = self.sealer.open(purpose, sealed);
            let plain = plain.map_err(|error| StoreError::Corrupt { table, row, why: error.to_string() })?;
            Ok::<_, StoreError>(next.seal(purpose, &plain))
        };
        let intents: Vec<(String, Uuid, Vec<u8>)> = on_tx!(&mut tx, c, Db => {
            sqlx::query_as::<Db, _>("SELECT account, id, sealed FROM intent").fetch_all(&mut **c).await
        })
        .map_err(refused)?;
        let grants: Vec<(String, String, Vec<u8>)> = on_tx!(&mut tx, c, Db => {
            sqlx::query_as::<Db, _>("SELECT account, connection, sealed FROM renewed_grant").fetch_all(&mut **c).await
        })
        .map_err(refused)?;
        let connections: Vec<(String, Vec<u8>)> = on_tx!(&mut tx, c, Db => {
            sqlx::query_as::<Db, _>("SELECT name, sealed FROM stored_connection").fetch_all(&mut **c).await
        })
        .map_err(refused)?;
        let count = intents.len() + grants.len() + connections.len();
        for (account, id, sealed) in intents {
            let sealed = again("intent", "intent", id.to_string(), &sealed)?;
            on_tx!(&mut tx, c, Db => {
                sqlx::query::<Db>("UPDATE intent SET sealed = $3 WHERE account = $1 AND id = $2")
                    .bind(account).bind(id).bind(sealed).execute(&mut **c).await.map(|_| ())
            })
            .map_err(refused)?;
        }
        for (account, connection, sealed) in grants {
            let sealed = again("renewed_grant", "grant", connection.clone(), &sealed)?;
            on_tx!(&mut tx, c, Db => {
                sqlx::query::<Db>("UPDATE renewed_grant SET sealed = $3 WHERE account = $1 AND connection = $2")
                    .bind(account).bind(connection).bind(sealed).execute(&mut **c).await.map(|_| ())
            })
            .map_err(refused)?;
        }
        for (name, sealed) in connections {
            let sealed = again("stored_connection", "connection", name.clone(), &sealed)?;
            on_tx!(&mut tx, c, Db => {
                sqlx::query::<Db>("UPDATE stored_connection SET sealed = $2 WHERE name = $1")
                    .bind(name).bind(sealed).execute(&mut **c).await.map(|_| ())
            })
            .map_err(refused)?;
        }
        Self::finish(tx).await?;
        Ok(count as u64)
    }
}
