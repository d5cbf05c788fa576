//! The benchmark: `cargo bench --bench tandem` prints one table.
//!
//! Each row is a figure, a raw yardstick measured in the same run on the same machine and disk, and figure ÷ yardstick:
//! disks differ tenfold from minute to minute, so only the ratio says something. Everything runs on loopback, in
//! throw-away folders (`TMPDIR` chooses the disk), on ports the system picks. `DEALS=1000000` makes the store larger.

mod backfill;
mod changes;
mod decisions;
mod latency;
mod limits;
mod memory;
mod quiet;
mod raw;
mod site;
mod spread;
mod steps;
mod table;
mod vendor;
mod webhooks;

use tandem_hubspot::sandbox::Clinic;
use tokio::runtime::Runtime;

use site::Site;
use vendor::Vendor;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Deals of the large store, unless `DEALS` says otherwise.
const DEALS: usize = 100_000;

fn main() -> anyhow::Result<()> {
    // Before anything is allocated: what a process needs for being one.
    let bare = memory::resident(std::process::id());
    let deals = std::env::var("DEALS").map_or(Ok(DEALS), |text| text.parse())?;
    let large = Clinic { contacts: deals / 4, deals };
    let cores = std::thread::available_parallelism()?;
    println!(
        "{deals} deals, {cores} cores, folders in {}; ratio = figure / yardstick\n",
        std::env::temp_dir().display()
    );
    table::head();
    let runtime = Runtime::new()?;
    runtime.block_on(one_store(large));
    table::add("limits", runtime.block_on(limits::rows()));
    table::add("webhooks", runtime.block_on(webhooks::rows()));
    table::add("decisions", decisions::rows());
    table::add("simulation", steps::rows());
    table::add("memory", runtime.block_on(memory::rows(large, bare)));
    Ok(())
}

/// The rows that follow one another on one store: filled, asked again, changed, edited.
async fn one_store(size: Clinic) {
    let opened = async {
        let vendor = Vendor::start(size).await?;
        let site = Site::open(&vendor).await?;
        anyhow::Ok((vendor, site))
    };
    match opened.await {
        Err(error) => table::add("backfill, changes and latency", Err(error)),
        Ok((vendor, site)) => {
            table::add("backfill", backfill::rows(&vendor, &site, size).await);
            table::add("nothing changed", quiet::rows(&vendor, &site).await);
            table::add("changes", changes::rows(&vendor, &site, size).await);
            table::add("latency", latency::rows(&vendor, &site).await);
        }
    }
}
