//! The same synchronisation again, when nothing changed.

use crate::{
    site::Site,
    table::{Figure, Row, Rows},
    vendor::Vendor,
};

/// Asks again.
pub async fn rows(vendor: &Vendor, site: &Site) -> Rows {
    site.ensure_filled(vendor).await?;
    let round = site.sync(vendor).await?;
    let (there, here) = (&round.stats, &round.summary.pulled);
    let writes = there.created + there.updated + there.archived + here.created + here.updated + here.deleted;
    let streams = site.engine.connection().connector.streams().len();
    Ok(vec![
        Row::new(
            "nothing changed: records written on either side",
            Figure(writes as f64, "writes"),
            "bound: none",
            Figure(0.0, "writes"),
        ),
        Row::new(
            "nothing changed: calls, those of the start included",
            Figure(round.stats.requests as f64, "calls"),
            "bound: one a stream",
            Figure(streams as f64, "calls"),
        ),
    ])
}
