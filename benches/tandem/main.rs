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
mod spokes;
mod spread;
mod steps;
mod table;
mod till;
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
    if ["backfill", "nothing changed", "changes", "latency"].into_iter().any(is_asked) {
        runtime.block_on(one_store(large));
    }
    if is_asked("limits") {
        table::add("limits", runtime.block_on(limits::rows()));
    }
    if is_asked("webhooks") {
        table::add("webhooks", runtime.block_on(webhooks::rows()));
    }
    if is_asked("spokes") {
        table::add("spokes", runtime.block_on(spokes::rows()));
    }
    if is_asked("till") {
        table::add("till", runtime.block_on(till::rows()));
    }
    if is_asked("decisions") {
        table::add("decisions", decisions::rows());
    }
    if is_asked("simulation") {
        table::add("simulation", steps::rows());
    }
    if is_asked("memory") {
        table::add("memory", runtime.block_on(memory::rows(large, bare)));
    }
    Ok(())
}

/// True for a part that the command line names, as in `cargo bench --bench tandem -- changes`, and for all if it names none.
fn is_asked(part: &str) -> bool {
    let mut asked = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).peekable();
    asked.peek().is_none() || asked.any(|one| one == part)
}

/// The rows that follow one another on one store: filled, asked again, changed, edited.
async fn one_store(size: Clinic) {
    let opened = async {
        let vendor = Vendor::start(size).await?;
        let site = Site::open(&vendor).await?;
        if !is_asked("backfill") {
            site.sync(&vendor).await?;
        }
        anyhow::Ok((vendor, site))
    };
    match opened.await {
        Err(error) => table::add("backfill, changes and latency", Err(error)),
        Ok((vendor, site)) => {
            if is_asked("backfill") {
                table::add("backfill", backfill::rows(&vendor, &site, size).await);
            }
            if is_asked("nothing changed") {
                table::add("nothing changed", quiet::rows(&vendor, &site).await);
            }
            if is_asked("changes") {
                table::add("changes", changes::rows(&vendor, &site, size).await);
            }
            if is_asked("latency") {
                table::add("latency", latency::rows(&vendor, &site).await);
            }
        }
    }
}
