//! The first import, beside a raw write of the same rows and a bare pull of the same pages; and what it leaves on disk.

use std::time::Instant;

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
    let written = raw::same_rows(&site.database(), &site.file("raw.db"), PAGE).await?.iter().sum();
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
        Row::new(&what, rate(round.took), "a raw loop that writes the same rows", rate(written)),
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
