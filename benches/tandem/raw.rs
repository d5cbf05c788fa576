//! The yardsticks on disk: one table, in a SQLite file with the settings of Tandem's store, and nothing clever.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value as Json;
use sqlx::{
    QueryBuilder, Row, Sqlite, SqlitePool, TypeInfo, ValueRef,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tandem::{simulation::lenses, sync::mapping};
use tandem_contract::Kind;
use tandem_hubspot::{ApiVersion, CONTACTS};

use crate::vendor::Vendor;

/// Rows of one statement, as in the store.
const ROWS: usize = 500;

/// Opens a SQLite file as the store opens its own.
pub async fn open(path: &Path) -> anyhow::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?)
}

/// The size of a database, with what is still in its log.
pub async fn size(path: &Path) -> anyhow::Result<f64> {
    let sql = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()";
    let (bytes,): (i64,) = sqlx::query_as(sql).fetch_one(&open(path).await?).await?;
    Ok(bytes as f64)
}

/// One table of ids and bodies.
pub struct RawTable(SqlitePool);

impl RawTable {
    /// Makes it in a new file.
    pub async fn create(path: &Path) -> anyhow::Result<Self> {
        let pool = open(path).await?;
        let sql = "CREATE TABLE raw (id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL) STRICT";
        sqlx::query(sql).execute(&pool).await?;
        Ok(Self(pool))
    }

    /// Stores rows in one durable transaction.
    pub async fn insert(&self, rows: &[(String, String)]) -> anyhow::Result<()> {
        let mut tx = self.0.begin_with("BEGIN IMMEDIATE").await?;
        for some in rows.chunks(ROWS) {
            let mut q = QueryBuilder::<Sqlite>::new("INSERT INTO raw (id, body) ");
            q.push_values(some, |mut b, (id, body)| {
                b.push_bind(id.as_str()).push_bind(body.as_str());
            });
            q.build().execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// A value of a row, whatever its table.
enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Writes every row of a finished store anew: the same tables, the same indexes, one durable transaction for as many records
/// as a page has. How long each took is what the disk and the database ask for, without any of our own work.
pub async fn same_rows(store: &Path, copy: &Path, page: usize) -> anyhow::Result<Vec<Duration>> {
    let (from, to) = (open(store).await?, open(copy).await?);
    let sql = "SELECT name, sql, type FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY type DESC";
    let things: Vec<(String, String, String)> = sqlx::query_as(sql).fetch_all(&from).await?;
    let mut pages: Vec<Vec<(String, Vec<Vec<Cell>>)>> = Vec::new();
    for (name, sql, kind) in things {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&to).await?;
        if kind == "table" && !name.starts_with('_') {
            let rows = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT * FROM {name}"))).fetch_all(&from).await?;
            for (number, some) in rows.chunks(page).enumerate() {
                let some: Vec<Vec<Cell>> = some.iter().map(cells).collect::<Result<_, _>>()?;
                if pages.len() <= number {
                    pages.push(Vec::new());
                }
                pages[number].push((name.clone(), some));
            }
        }
    }
    let mut times = Vec::with_capacity(pages.len());
    for page in &pages {
        let began = Instant::now();
        let mut tx = to.begin_with("BEGIN IMMEDIATE").await?;
        for (table, rows) in page {
            for some in rows.chunks(ROWS) {
                let mut q = QueryBuilder::<Sqlite>::new(format!("INSERT INTO {table} "));
                q.push_values(some, |mut b, cells| {
                    for cell in cells {
                        match cell {
                            Cell::Null => b.push_bind(None::<i64>),
                            Cell::Number(number) => b.push_bind(*number),
                            Cell::Text(text) => b.push_bind(text.as_str()),
                            Cell::Bytes(bytes) => b.push_bind(bytes.as_slice()),
                        };
                    }
                });
                q.build().execute(&mut *tx).await?;
            }
        }
        tx.commit().await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

fn cells(row: &sqlx::sqlite::SqliteRow) -> anyhow::Result<Vec<Cell>> {
    (0..row.columns().len())
        .map(|index| {
            let value = row.try_get_raw(index)?;
            let name = value.type_info().name().to_owned();
            Ok(match name.as_str() {
                _ if value.is_null() => Cell::Null,
                "INTEGER" => Cell::Number(row.try_get(index)?),
                "BLOB" => Cell::Bytes(row.try_get(index)?),
                _ => Cell::Text(row.try_get(index)?),
            })
        })
        .collect()
}

/// Pulls the pages of a backfill and keeps each record as it came: no link, no base, no history, no cursor.
pub async fn pull(vendor: &Vendor, table: &RawTable) -> anyhow::Result<()> {
    let select = mapping::selection(&lenses());
    for (kind, more) in [(Kind::Contact, ""), (Kind::Deal, "&associations=contacts")] {
        let names = select.get(&kind).context("the mapping has no such kind")?.keys();
        let names: Vec<&str> = names.map(String::as_str).filter(|name| *name != CONTACTS).collect();
        let first = format!("{}?limit=100&properties={}{more}", ApiVersion::default().objects(kind), names.join(","));
        let mut path = Some(first.clone());
        while let Some(this) = path {
            let page = vendor.get(&this).await?;
            let records = page["results"].as_array().context("a page without results")?;
            let rows: Vec<(String, String)> =
                records.iter().map(|record| (format!("{kind}/{}", record["id"]), record.to_string())).collect();
            table.insert(&rows).await?;
            path =
                page.pointer("/paging/next/after").and_then(Json::as_str).map(|after| format!("{first}&after={after}"));
        }
    }
    Ok(())
}
