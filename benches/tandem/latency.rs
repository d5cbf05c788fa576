//! From an edit in HubSpot's screens, by its webhook, to both sides equal.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tandem::{
    model::{Link, RecordId},
    store::{By, SyncStore},
};
use tandem_contract::{ExternalId, Kind, Value};
use tandem_hubspot::ApiVersion;
use tokio::task::JoinSet;

use crate::{
    raw::RawTable,
    site::Site,
    spread,
    table::Rows,
    vendor::{Vendor, transport},
};

/// Edits that are measured.
const EDITS: usize = 200;
/// Edits before that: the engine's first polls, and what all caches learn, are not part of it.
const WARM_UP: usize = 20;
/// How often our side is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// When an edit is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the daemon run on the filled store, and edits one deal after another.
pub async fn rows(vendor: &Vendor, site: &Site) -> Rows {
    site.ensure_filled(vendor).await?;
    let mut tasks = JoinSet::new();
    let address = site.serve(&mut tasks).await?;
    let hook = format!("http://{address}/webhooks/{}", site.names().1);
    vendor.sandbox.with(|world| world.subscribe(&hook, &vendor.secret));
    tasks.spawn(vendor.sandbox.clone().deliver_webhooks(Arc::new(transport()?)));
    let engine = site.engine.clone();
    tasks.spawn(async move { engine.run().await });
    let warm_up = some_links(vendor, site, 0, WARM_UP).await?;
    let measured = some_links(vendor, site, WARM_UP, EDITS).await?;
    for link in &warm_up {
        edit(vendor, site, link).await?;
    }
    until_nothing_waits(site).await?;
    vendor.count_anew();
    let mut ours = Vec::with_capacity(EDITS);
    for link in &measured {
        ours.push(edit(vendor, site, link).await?);
    }
    let vendors_own = vendor.busy().as_secs_f64() * 1_000.0 / EDITS as f64;
    drop(tasks);
    let bare = by_hand(vendor, site, &measured).await?;
    let what = format!("hint to both sides equal, no lag, {vendors_own:.2} ms an edit the vendor's own");
    Ok(spread::rows(&what, ours, "read the deal once, store it in one commit", bare).into())
}

async fn some_links(vendor: &Vendor, site: &Site, skip: usize, count: usize) -> anyhow::Result<Vec<Link>> {
    let deals = vendor.sandbox.with(|world| world.ids(Kind::Deal));
    let ids: Vec<ExternalId> = deals
        .iter()
        .rev()
        .skip(skip)
        .take(count)
        .map(|id| ExternalId::new(id.to_string()))
        .collect::<Result<_, _>>()?;
    let (account, name) = site.names();
    let links = site.installation.store.links(account, name, Kind::Deal, By::External(&ids)).await?;
    ensure!(links.len() == count, "the store has {} deals to edit, not {count}", links.len());
    Ok(links)
}

/// One edit there; how long until it is here. Nothing tells of that moment, so our side is looked at again and again.
async fn edit(vendor: &Vendor, site: &Site, link: &Link) -> anyhow::Result<Duration> {
    let name = format!("deal {}, edited while somebody waits", link.external);
    let began = Instant::now();
    vendor.rename(link.external.as_str().parse()?, &name)?;
    while name_here(site, link.local).await? != Some(Value::text(&name)) {
        ensure!(began.elapsed() < PATIENCE, "an edit did not arrive within {} s", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
    }
    Ok(began.elapsed())
}

async fn name_here(site: &Site, deal: RecordId) -> anyhow::Result<Option<Value>> {
    let records = site.installation.store.records(site.names().0, Kind::Deal, &[deal]).await?;
    Ok(records.first().map(|record| record.get("name")))
}

/// What the engine's first polls brought must not stand in the way of what is measured.
async fn until_nothing_waits(site: &Site) -> anyhow::Result<()> {
    let (account, name) = site.names();
    let began = Instant::now();
    while site.installation.store.backlog(account, name).await? > 0 {
        ensure!(began.elapsed() < PATIENCE, "the first polls are still worked on");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The least that anyone must do who learns of an edit: read the record, and store it durably.
async fn by_hand(vendor: &Vendor, site: &Site, links: &[Link]) -> anyhow::Result<Vec<Duration>> {
    let table = RawTable::create(&site.file("by_hand.db")).await?;
    let deals = ApiVersion::default().objects(Kind::Deal);
    let mut times = Vec::with_capacity(links.len());
    for link in links {
        let began = Instant::now();
        let deal = vendor.get(&format!("{deals}/{}?associations=contacts", link.external)).await?;
        table.insert(&[(link.external.to_string(), deal.to_string())]).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}
