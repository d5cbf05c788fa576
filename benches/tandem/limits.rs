//! A backfill within the vendor's limits: how much of what is permitted is used, and that nothing is asked too fast.

use std::time::{Duration, Instant};

use tandem_hubspot::sandbox::{Clinic, Settings};

use crate::{
    site::Site,
    table::{Figure, Row, Rows},
    vendor::{Vendor, settings},
};

/// Enough to be under way for longer than is looked.
const SIZE: Clinic = Clinic { contacts: 7_000, deals: 28_000 };
/// Calls in any ten seconds, as HubSpot permits every account and as the connector keeps to without being told otherwise.
const PERMITTED: u32 = 100;
/// Until the first calls, which come at once, are over.
const BEFORE: Duration = Duration::from_secs(5);
/// How long is looked then.
const LOOKED: Duration = Duration::from_secs(20);

/// Takes everything over from an account with HubSpot's published limits.
pub async fn rows() -> Rows {
    let Settings { daily, search_per_second, association_burst, .. } = Settings::default();
    let limited = Settings { burst: PERMITTED, daily, search_per_second, association_burst, ..settings() };
    let vendor = Vendor::start_with(SIZE, limited).await?;
    let site = Site::open_within_limits(&vendor).await?;
    let look = async {
        tokio::time::sleep(BEFORE).await;
        let (began, first) = (Instant::now(), vendor.stats().requests);
        tokio::time::sleep(LOOKED).await;
        (vendor.stats().requests - first) as f64 / began.elapsed().as_secs_f64()
    };
    let (round, rate) = tokio::join!(site.sync(&vendor), look);
    let round = round?;
    site.ensure_filled(&vendor).await?;
    Ok(vec![
        Row::new(
            format!("with the vendor's limit on: calls while {} deals are taken over", SIZE.deals),
            Figure(rate, "calls/s"),
            format!("permitted: {PERMITTED} in any ten seconds"),
            Figure(f64::from(PERMITTED) / 10.0, "calls/s"),
        ),
        Row::new(
            "with the vendor's limit on: calls refused because we were too fast",
            Figure(round.stats.too_many as f64, "calls"),
            "bound: none",
            Figure(0.0, "calls"),
        ),
    ])
}
