//! The first import, beside a raw write of as many rows and a bare pull of the same pages; and what it leaves on disk.

use std::time::{Duration, Instant};

use tandem_hubspot::sandbox::Clinic;

use crate::{
    raw::{self, RawTable},
    site::Site,
    table::{Figure, Row, Rows},
    vendor::Vendor,
};

/// Records of one page, and of one commit.
const PAGE: usize = 100;

/// Takes everything over.
pub async fn rows(vendor: &Vendor, site: &Site, size: Clinic) -> Rows {
    let round = site.sync(vendor).await?;
    site.ensure_filled(vendor).await?;
    let records = usize::try_from(vendor.records())?;
    let on_disk = raw::size(&site.database()).await?;
    let written = raw_write(site, records).await?;
    let copy = site.file("pull.db");
    let table = RawTable::create(&copy).await?;
    let began = Instant::now();
    raw::pull(vendor, &table).await?;
    let pulled = began.elapsed();
    let what = format!(
        "backfill of {} deals, {} contacts ({:.1} s, {:.1} s of it the vendor's own)",
        size.deals,
        size.contacts,
        round.took.as_secs_f64(),
        round.vendor.as_secs_f64()
    );
    let rate = |took| Figure::rate(records, took, "records/s");
    let bound = size.contacts.div_ceil(100) + size.deals.div_ceil(100) + size.deals.div_ceil(1_000);
    let each = |bytes: f64| Figure(bytes / records as f64, "B");
    Ok(vec![
        Row::new(&what, rate(round.took), "as many rows of that size into one table", rate(written)),
        Row::new(&what, rate(round.took), "a bare pull of the same pages into one table", rate(pulled)),
        Row::new(
            "backfill: calls, those of the start included",
            Figure(round.stats.requests as f64, "calls"),
            "bound: N/100 a kind + N/1000 for associations",
            Figure(bound as f64, "calls"),
        ),
        Row::new(
            "disk per link, with both bases, the record, its history and all indexes",
            each(on_disk),
            "the bare pull's file, per record",
            each(raw::size(&copy).await?),
        ),
    ])
}

/// Writes as many rows as the backfill stored, as long as they are on average, as many a commit.
async fn raw_write(site: &Site, records: usize) -> anyhow::Result<Duration> {
    let sql = "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM (SELECT body FROM contact UNION ALL
               SELECT body FROM opportunity UNION ALL SELECT body FROM link UNION ALL SELECT body FROM history)";
    let (rows, length): (i64, i64) = sqlx::query_as(sql).fetch_one(&raw::open(&site.database()).await?).await?;
    let (rows, length) = (usize::try_from(rows)?, usize::try_from(length)?);
    let (body, a_commit) = ("x".repeat(length / rows.max(1)), (rows * PAGE / records.max(1)).max(1));
    let table = RawTable::create(&site.file("raw.db")).await?;
    let began = Instant::now();
    for first in (0..rows).step_by(a_commit) {
        let some: Vec<(String, String)> =
            (first..rows.min(first + a_commit)).map(|n| (format!("{n:032x}"), body.clone())).collect();
        table.insert(&some).await?;
    }
    Ok(began.elapsed())
}
