//! What the daemon keeps in memory: the real program in a process of its own.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tandem::{
    model::Name,
    store::{SyncStore, seal::Sealer, sql::SqlStore},
};
use tandem_hubspot::sandbox::Clinic;
use tempfile::TempDir;

use crate::{
    raw,
    site::configuration,
    table::{Figure, Row, Rows},
    vendor::Vendor,
};

/// The stream that an engine polls last: once it has a cursor, every other was read to its end.
const LAST_STREAM: &str = "deal.late";
/// How often the daemon is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// When it is given up.
const PATIENCE: Duration = Duration::from_secs(900);

const MIB: f64 = 1_048_576.0;

/// Bytes of a process that are in memory.
pub fn resident(process: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel tells no VmRSS")?;
    let kibibytes: u32 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kibibytes) * 1_024.0)
}

/// Starts a daemon with nothing to do, then one that takes everything over.
pub async fn rows(size: Clinic, bare: anyhow::Result<f64>) -> Rows {
    let bare = bare?;
    let empty = Vendor::start(Clinic { contacts: 0, deals: 0 }).await?;
    let mut daemon = Daemon::start(&empty)?;
    daemon.until_quiet(&empty).await?;
    let idle = resident(daemon.child.id())?;
    drop(daemon);
    let vendor = Vendor::start(size).await?;
    let mut daemon = Daemon::start(&vendor)?;
    daemon.until_quiet(&vendor).await?;
    let full = resident(daemon.child.id())?;
    let links = vendor.records();
    let on_disk = raw::size(&daemon.folder.path().join("tandem.db")).await?;
    let per_100_000 = |bytes: f64| Figure(bytes / links as f64 * 100_000.0 / MIB, "MiB");
    Ok(vec![
        Row::new(
            "memory of the daemon, idle, empty store",
            Figure(idle / MIB, "MiB"),
            "this program at its start",
            Figure(bare / MIB, "MiB"),
        ),
        Row::new(
            format!("memory of the daemon after a backfill of {links} links"),
            Figure(full / MIB, "MiB"),
            "the idle daemon",
            Figure(idle / MIB, "MiB"),
        ),
        Row::new(
            "memory per 100,000 links, caches and buffers of the backfill included",
            per_100_000((full - idle).max(0.0)),
            "its database, per 100,000 links",
            per_100_000(on_disk),
        ),
    ])
}

/// `tandem serve`, which ends with this value.
struct Daemon {
    child: Child,
    folder: TempDir,
    began: Instant,
}

impl Daemon {
    fn start(vendor: &Vendor) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        // The program does not say which port it was given, so it gets one that was free a moment ago.
        let listen = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let file = folder.path().join("tandem.toml");
        std::fs::write(&file, configuration(vendor, &listen.to_string()))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.arg("--config").arg(&file).arg("serve").env_clear().stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn()?, folder, began: Instant::now() })
    }

    /// Waits until every stream was read to its end and nothing is left to be worked on.
    async fn until_quiet(&mut self, vendor: &Vendor) -> anyhow::Result<()> {
        // Whoever asks the vendor has made its tables.
        while vendor.stats().requests == 0 {
            self.look_again().await?;
        }
        let url = format!("sqlite://{}", self.folder.path().join("tandem.db").display());
        let store = SqlStore::connect(&url, Sealer::new(&Sealer::new_key())?).await?;
        let (account, connection): (Name, Name) = ("glow_clinic".parse()?, "hubspot".parse()?);
        while store.cursor(&account, &connection, LAST_STREAM).await?.is_none()
            || store.backlog(&account, &connection).await? > 0
        {
            self.look_again().await?;
        }
        store.close().await;
        Ok(())
    }

    async fn look_again(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the daemon ended by itself: {status}");
        }
        ensure!(self.began.elapsed() < PATIENCE, "the daemon is not done after {} s", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
