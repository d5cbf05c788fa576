//! What a thousand changes cost, and that the size of the store does not matter.

use anyhow::ensure;
use tandem_contract::Kind;
use tandem_hubspot::sandbox::Clinic;

use crate::{
    site::{Round, Site},
    table::{Figure, Row, Rows},
    vendor::Vendor,
};

/// Changes of one round, in a store that is large enough.
const CHANGES: usize = 1_000;
/// Deals of the small store: enough that each of the changed has a page of the database to itself, as in the large one.
const SMALL: usize = 10_000;
/// Rounds; the middle one counts.
const ROUNDS: usize = 5;

/// Changes the same number of records in this store and in a small one.
pub async fn rows(vendor: &Vendor, site: &Site, size: Clinic) -> Rows {
    let changed = CHANGES.min(size.deals / 10);
    let (calls, large) = measure(vendor, site, changed).await?;
    let few = Vendor::start(Clinic { contacts: SMALL / 4, deals: SMALL }).await?;
    let other = Site::open(&few).await?;
    other.sync(&few).await?;
    let (_, small) = measure(&few, &other, changed).await?;
    let bound = changed.div_ceil(200) + changed.div_ceil(100) + changed.div_ceil(1_000);
    let what = format!("{changed} changes among {} deals", size.deals);
    Ok(vec![
        Row::new(
            format!("{what}: calls more than without changes"),
            Figure(calls as f64, "calls"),
            "bound: k/200 search + k/100 read + k/1000 associations",
            Figure(bound as f64, "calls"),
        ),
        Row::new(
            format!("{what}: time"),
            Figure::millis(large.took),
            "the vendor's own time for these calls",
            Figure::millis(large.vendor),
        ),
        Row::new(
            format!("{what}: time without the vendor's own"),
            Figure::millis(large.own()),
            format!("the same in a store of {SMALL} deals"),
            Figure::millis(small.own()),
        ),
    ])
}

/// The calls that the changes cost, and the middle one of some rounds.
async fn measure(vendor: &Vendor, site: &Site, changed: usize) -> anyhow::Result<(u64, Round)> {
    site.ensure_filled(vendor).await?;
    // First, because a poll looks two minutes back: afterwards it sees the changes again.
    let idle = site.sync(vendor).await?.stats.requests;
    let deals = vendor.sandbox.with(|world| world.ids(Kind::Deal));
    let mut rounds = Vec::with_capacity(ROUNDS);
    for turn in 0..ROUNDS {
        // Always the same deals, so that what the poll sees again is nothing more.
        for deal in deals.iter().step_by((deals.len() / changed.max(1)).max(1)).take(changed) {
            vendor.rename(*deal, &format!("deal {deal}, renamed in turn {turn}"))?;
        }
        let round = site.sync(vendor).await?;
        let taken = round.summary.pulled.updated;
        ensure!(taken == changed as u64, "{taken} of {changed} changes were taken in");
        rounds.push(round);
    }
    rounds.sort_by_key(Round::own);
    let middle = rounds.swap_remove(ROUNDS / 2);
    Ok((middle.stats.requests.saturating_sub(idle), middle))
}
