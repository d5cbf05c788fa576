//! An installation in a throw-away folder, connected to the vendor over HTTP, as `tandem sync --once` and
//! `tandem serve` put it together.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tandem::{
    api::Door,
    config::Config,
    installation::Installation,
    model::Name,
    store::{SyncStore, seal::Sealer},
    sync::{connection::Connection, engine::Engine, mapping, summary::Summary},
};
use tandem_contract::{Clock, Connector, Kind, Secret, SystemClock};
use tandem_hubspot::{Credentials, HubSpot, Options, sandbox::Stats};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use crate::vendor::{Vendor, transport};

/// The machine's clock, on which budgets refill a thousand times faster. The configuration can raise the limits of
/// plain calls and of searches, not that of associations; and what is measured is the program, not a vendor's budget.
struct Hasty(SystemClock);

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> DateTime<Utc> {
        self.0.now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed() * 1_000
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration / 1_000).await;
    }
}

/// The configuration file of an installation of this benchmark.
pub fn configuration(vendor: &Vendor, listen: &str) -> String {
    format!(
        r#"
[database]
url = "sqlite://tandem.db"
[http]
listen = "{listen}"
[security]
master_key = "{key}"
[accounts.glow_clinic]
timezone = "America/Phoenix"
currency = "USD"
[connections.hubspot]
account = "glow_clinic"
connector = "hubspot"
base_url = "{base}"
credentials = {{ access_token = "{token}", client_secret = "{secret}" }}
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
search_rate_limit = {{ requests = 1000000, per_seconds = 1 }}
daily_budget = 1000000000
poll_seconds = 3600
"#,
        key = Sealer::new_key().expose(),
        base = vendor.base,
        token = vendor.token,
        secret = vendor.secret.expose(),
    )
}

/// An installation with one connection.
pub struct Site {
    /// All of it.
    pub installation: Arc<Installation>,
    /// The engine of its connection.
    pub engine: Arc<Engine>,
    folder: TempDir,
}

/// One `sync --once`.
pub struct Round {
    /// What the program says of it.
    pub summary: Summary,
    /// What the vendor says of it.
    pub stats: Stats,
    /// How long it took.
    pub took: Duration,
    /// How much of that the vendor itself worked. The engine makes one call at a time, so this can be taken off.
    pub vendor: Duration,
}

impl Round {
    /// What is left without the vendor's own time.
    pub fn own(&self) -> Duration {
        self.took.saturating_sub(self.vendor)
    }
}

impl Site {
    /// An empty installation that asks as fast as it can.
    pub async fn open(vendor: &Vendor) -> anyhow::Result<Self> {
        Self::open_on(vendor, Arc::new(Hasty(SystemClock::new()))).await
    }

    /// An empty installation that keeps to HubSpot's published limits.
    pub async fn open_within_limits(vendor: &Vendor) -> anyhow::Result<Self> {
        Self::open_on(vendor, Arc::new(SystemClock::new())).await
    }

    async fn open_on(vendor: &Vendor, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = Config::parse(&configuration(vendor, "127.0.0.1:0"), folder.path().to_owned())?;
        let mut installation = Installation::open(config).await?;
        let connection = installation.connections.values_mut().next().and_then(Arc::get_mut);
        let connection = connection.context("the installation has no connection")?;
        connection.connector = connector(vendor, connection, clock)?;
        let engine = installation.engines().pop().context("the installation has no engine")?;
        Ok(Self { installation: Arc::new(installation), engine: Arc::new(engine), folder })
    }

    /// The account's name and the connection's.
    pub fn names(&self) -> (&Name, &Name) {
        let connection = self.engine.connection();
        (&connection.account.name, &connection.name)
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its database.
    pub fn database(&self) -> PathBuf {
        self.file("tandem.db")
    }

    /// Everything that can be done now.
    pub async fn sync(&self, vendor: &Vendor) -> anyhow::Result<Round> {
        vendor.count_anew();
        let began = Instant::now();
        let summary = self.engine.once().await?;
        let took = began.elapsed();
        ensure!(summary.state == "active", "the synchronisation ended as {}", summary.state);
        Ok(Round { summary, stats: vendor.stats(), took, vendor: vendor.busy() })
    }

    /// What follows a backfill means nothing without one.
    pub async fn ensure_filled(&self, vendor: &Vendor) -> anyhow::Result<()> {
        let (account, name) = self.names();
        let store = &self.installation.store;
        let contacts = store.count_links(account, name, Kind::Contact, u64::MAX).await?;
        let linked = contacts + store.count_links(account, name, Kind::Deal, u64::MAX).await?;
        let there = vendor.records();
        ensure!(linked == there, "{linked} of the vendor's {there} records are linked");
        Ok(())
    }

    /// Serves the daemon's door until `tasks` is dropped.
    pub async fn serve(&self, tasks: &mut JoinSet<()>) -> anyhow::Result<SocketAddr> {
        let bells = BTreeMap::from([(self.names().1.clone(), self.engine.wake.clone())]);
        let router = Door::new(self.installation.clone(), None, None, bells, None).router();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tasks.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(address)
    }
}

/// The connector that the installation built, but for its clock.
fn connector(vendor: &Vendor, connection: &Connection, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Connector>> {
    let credentials = Credentials::Token(Secret::new(vendor.token.as_str()));
    let mut options = Options::new(vendor.base.parse()?, credentials);
    options.client_secret = Some(vendor.secret.clone());
    options.installation.clone_from(&connection.installation);
    options.poll = Some(Duration::from_secs(3_600));
    options.select = mapping::selection(&connection.lenses);
    Ok(Arc::new(HubSpot::new(options, Arc::new(transport()?), clock)))
}
