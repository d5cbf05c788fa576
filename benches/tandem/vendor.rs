//! The vendor: a HubSpot sandbox behind a socket, without limits and without lag, that says how long it worked itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use async_trait::async_trait;
use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::{Next, from_fn},
    response::Response,
    serve::ListenerExt,
};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;
use tandem_contract::{Clock, HttpRequest, Kind, ReqwestTransport, Secret, SystemClock, Transport};
use tandem_hubspot::sandbox::{Change, Clinic, Sandbox, Settings, Stats, World};
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

/// More calls than any row makes.
const NO_LIMIT: u32 = 1_000_000_000;

/// The account's clock: a month behind while the account is filled, so that nothing in it seems to have just changed.
struct AccountClock {
    real: SystemClock,
    filled: AtomicBool,
}

#[async_trait]
impl Clock for AccountClock {
    fn now(&self) -> DateTime<Utc> {
        let back = if self.filled.load(Ordering::Relaxed) { TimeDelta::zero() } else { TimeDelta::days(30) };
        self.real.now() - back
    }

    fn elapsed(&self) -> Duration {
        self.real.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        self.real.sleep(duration).await;
    }
}

/// Settings without limits, without lag and without anything that happens by itself.
pub fn settings() -> Settings {
    Settings {
        burst: NO_LIMIT,
        daily: u64::from(NO_LIMIT),
        search_per_second: NO_LIMIT,
        association_burst: NO_LIMIT,
        search_lag_ms: (0, 0),
        recompute_seconds: 0,
        ..Settings::default()
    }
}

/// A HubSpot account on loopback.
pub struct Vendor {
    /// The account, for people's edits and a look behind the screens.
    pub sandbox: Sandbox,
    /// Where it is served.
    pub base: String,
    /// An access token it accepts.
    pub token: String,
    /// What it signs webhooks with.
    pub secret: Secret,
    transport: ReqwestTransport,
    busy: Arc<AtomicU64>,
    _served: JoinSet<()>,
}

impl Vendor {
    /// Fills an account without limits and serves it.
    pub async fn start(size: Clinic) -> anyhow::Result<Self> {
        Self::start_with(size, settings()).await
    }

    /// Fills an account and serves it.
    pub async fn start_with(size: Clinic, settings: Settings) -> anyhow::Result<Self> {
        let clock = Arc::new(AccountClock { real: SystemClock::new(), filled: AtomicBool::new(false) });
        let (token, secret) = (settings.access_tokens[0].clone(), Secret::new(settings.client_secret.as_str()));
        let sandbox = Sandbox::new(settings, 1, clock.clone());
        sandbox.with(|world| world.furnish_clinic(size));
        clock.filled.store(true, Ordering::Relaxed);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        // Else the kernel may hold back the end of an answer for 40 ms, and that would be measured.
        let listener = listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let busy = Arc::new(AtomicU64::new(0));
        let counter = busy.clone();
        let timing = from_fn(move |request: Request, next: Next| timed(counter.clone(), request, next));
        let router = sandbox.router().layer(timing);
        let mut served = JoinSet::new();
        served.spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        let transport = transport()?;
        Ok(Self { sandbox, base, token, secret, transport, busy, _served: served })
    }

    /// Begins to count calls and the vendor's own time anew.
    pub fn count_anew(&self) {
        self.sandbox.with(World::clear_stats);
        self.busy.store(0, Ordering::Relaxed);
    }

    /// What was asked since.
    pub fn stats(&self) -> Stats {
        self.sandbox.with(|world| world.stats.clone())
    }

    /// How long the vendor itself worked since.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }

    /// How many records it has.
    pub fn records(&self) -> u64 {
        self.sandbox.with(|world| (world.ids(Kind::Contact).len() + world.ids(Kind::Deal).len()) as u64)
    }

    /// Somebody renames a deal in HubSpot's screens.
    pub fn rename(&self, deal: u64, name: &str) -> anyhow::Result<()> {
        let properties = BTreeMap::from([("dealname".to_owned(), name.to_owned())]);
        self.sandbox
            .with(|world| world.update(Kind::Deal, deal, &properties, Change::Person))
            .map_err(|refusal| anyhow!("the sandbox refuses an edit: {}", refusal.body))
    }

    /// Reads something by hand.
    pub async fn get(&self, path: &str) -> anyhow::Result<Json> {
        get(&self.transport, &self.base, &self.token, path).await
    }
}

/// Over the network, as the program does it.
pub fn transport() -> anyhow::Result<ReqwestTransport> {
    ReqwestTransport::new().map_err(anyhow::Error::msg)
}

/// One bare call, over a socket or in process.
pub async fn get(transport: &dyn Transport, base: &str, token: &str, path: &str) -> anyhow::Result<Json> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
    let url = Url::parse(base)?.join(path)?;
    let request = HttpRequest { method: Method::GET, url, headers, body: Bytes::new() };
    let answer = transport.send(request, Duration::from_secs(60)).await?;
    ensure!(answer.status.is_success(), "the sandbox answers {} to GET {path}", answer.status);
    Ok(serde_json::from_slice(&answer.body)?)
}

async fn timed(busy: Arc<AtomicU64>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let answer = next.run(request).await;
    busy.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    answer
}
