//! `tandem demo` and `tandem sandbox`: see it alive without an account anywhere.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tandem_contract::{Kind, ReqwestTransport, Secret, SystemClock, Value};
use tandem_hubspot::sandbox::{Change, Clinic, Sandbox, Settings};
use tandem_pipedrive::sandbox as pipedrive;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    Exit,
    serve::{run, stop_signal},
    sync::Bars,
};
use crate::{config::Config, edit::Fields, installation::Installation, store::seal::Sealer};

/// What the sandbox is started with.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// People in the sandbox's HubSpot account.
    #[arg(long, default_value_t = 2_000)]
    pub contacts: usize,
    /// Deals in it.
    #[arg(long, default_value_t = 3_000)]
    pub deals: usize,
    /// Persons in the sandbox's Pipedrive company.
    #[arg(long, default_value_t = 0)]
    pub persons: usize,
    /// Deals in it.
    #[arg(long, default_value_t = 0)]
    pub pipedrive_deals: usize,
    /// Same seed, same account.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

async fn start(size: Size, port: u16) -> anyhow::Result<(Sandbox, String)> {
    let sandbox = Sandbox::new(Settings::default(), size.seed, Arc::new(SystemClock::new()));
    sandbox.with(|world| world.furnish_clinic(Clinic { contacts: size.contacts, deals: size.deals }));
    let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port} is taken"))?;
    let base = format!("http://{}", listener.local_addr()?);
    let router = sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((sandbox, base))
}

/// Serves only the vendor simulators, and prints one JSON line for each.
///
/// # Errors
/// The port is taken.
pub async fn sandbox(size: Size, port: u16, webhooks: Option<String>) -> anyhow::Result<Exit> {
    let (sandbox, base) = start(size, port).await?;
    let settings = sandbox.with(|world| world.settings.clone());
    if let Some(target) = webhooks {
        sandbox.with(|world| world.subscribe(&target, &Secret::new(settings.client_secret.clone())));
    }
    let transport = Arc::new(ReqwestTransport::new().map_err(anyhow::Error::msg)?);
    let delivery = tokio::spawn(sandbox.clone().deliver_webhooks(transport.clone()));
    let credentials = json!({
        "access_token": settings.access_tokens.first(), "client_id": settings.client_id, "client_secret": settings.client_secret,
        "refresh_token": settings.refresh_token,
    });
    println!("{}", json!({ "vendor": "hubspot", "base_url": base, "credentials": credentials, "control_url": base }));
    let (company, base) = start_pipedrive(size).await?;
    let settings = company.with(|world| world.settings.clone());
    let second = tokio::spawn(company.deliver_webhooks(transport));
    let credentials = json!({
        "api_token": settings.api_tokens.first(), "client_id": settings.client_id, "client_secret": settings.client_secret,
        "refresh_token": settings.refresh_token,
    });
    println!("{}", json!({ "vendor": "pipedrive", "base_url": base, "credentials": credentials, "control_url": base }));
    stop_signal().cancelled().await;
    delivery.abort();
    second.abort();
    Ok(Exit::Done)
}

/// A Pipedrive company on a port of its own; its webhooks are subscribed to by its API.
async fn start_pipedrive(size: Size) -> anyhow::Result<(pipedrive::Sandbox, String)> {
    let sandbox = pipedrive::Sandbox::new(pipedrive::Settings::default(), size.seed, Arc::new(SystemClock::new()));
    sandbox.with(|world| world.fill(pipedrive::Company { persons: size.persons, deals: size.pipedrive_deals }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let base = format!("http://{}", listener.local_addr()?);
    let router = sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((sandbox, base))
}

/// The daemon on a throw-away database with a sandbox beside it, and people working on both sides.
///
/// # Errors
/// A port is taken, or the throw-away folder cannot be made.
pub async fn demo(size: Size, port: u16, seconds: Option<u64>) -> anyhow::Result<Exit> {
    let folder = std::env::temp_dir().join(format!("tandem-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    println!("Making a HubSpot account with {} people and {} deals ...", size.contacts, size.deals);
    let (sandbox, base) = start(size, 0).await?;
    let settings = sandbox.with(|world| world.settings.clone());
    let file = folder.join("tandem.toml");
    std::fs::write(&file, configuration(&base, port, &settings))?;
    let installation = Arc::new(Installation::open(Config::load(&file)?).await?);
    let hook = format!("http://127.0.0.1:{port}/webhooks/hubspot");
    sandbox.with(|world| world.subscribe(&hook, &Secret::new(settings.client_secret)));
    let transport = Arc::new(ReqwestTransport::new().map_err(anyhow::Error::msg)?);
    let delivery = tokio::spawn(sandbox.clone().deliver_webhooks(transport));
    println!("Taking everything over into {} ...", folder.join("demo.db").display());
    let bars = Bars::new();
    let mut engines = installation.engines();
    for engine in &mut engines {
        engine.progress = Some(bars.clone().listener());
    }
    for engine in &engines {
        let summary = engine.once().await?;
        println!(
            "Took in {} records in {:.1} s with {} calls.",
            summary.pulled.created, summary.seconds, summary.calls
        );
    }
    bars.finish();
    help(&file, port);
    let stop = stop_signal();
    let actors = tokio::spawn(act(installation.clone(), sandbox, stop.clone(), seconds));
    let served = run(installation, engines, stop).await;
    actors.abort();
    delivery.abort();
    std::fs::remove_dir_all(&folder).ok();
    served
}

fn configuration(base: &str, port: u16, settings: &Settings) -> String {
    let token = settings.access_tokens.first().cloned().unwrap_or_default();
    format!(
        r#"# Made by `tandem demo`; thrown away when it ends.
[database]
url = "sqlite://demo.db"

[http]
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}"

[auth]
bootstrap_token = "demo"

[security]
master_key = "{key}"

[accounts.glow_clinic]
profile = "agency"
timezone = "America/Phoenix"
currency = "USD"

[connections.hubspot]
account = "glow_clinic"
connector = "hubspot"
base_url = "{base}"
credentials = {{ access_token = "{token}", client_secret = "{secret}" }}
rate_limit = {{ requests = 190, per_seconds = 10 }}
daily_budget = 625000
"#,
        key = Sealer::new_key().expose(),
        secret = settings.client_secret,
    )
}

fn help(file: &std::path::Path, port: u16) {
    let config = file.display();
    let program = std::env::current_exe().map_or_else(|_| "tandem".into(), |path| path.display().to_string());
    println!(
        "\nTandem is running: http://127.0.0.1:{port}/   (token: demo)\nIn another terminal, try:\n  \
         {program} --config {config} connection list\n  \
         {program} --config {config} conflicts list\n  \
         {program} --config {config} export opportunities | head -3\n  \
         curl -s -H 'Authorization: Bearer demo' http://127.0.0.1:{port}/api/v1/opportunities?limit=2\n\
         People now work on both sides. Ctrl-C ends it and throws everything away.\n"
    );
}

/// People at work: edits here and there, now and then both at once, a merge, an archive.
async fn act(installation: Arc<Installation>, sandbox: Sandbox, stop: CancellationToken, seconds: Option<u64>) {
    let mut rng = StdRng::seed_from_u64(7);
    let began = tokio::time::Instant::now();
    let mut turn = 0_u32;
    loop {
        if seconds.is_some_and(|seconds| began.elapsed() > Duration::from_secs(seconds)) {
            stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        turn += 1;
        let told = match turn % 6 {
            0 => both(&installation, &sandbox, &mut rng, turn).await,
            1 | 4 => there(&sandbox, &mut rng, turn),
            2 | 3 => here(&installation, &mut rng, turn).await,
            _ if turn % 12 == 5 => merge(&sandbox, &mut rng),
            _ => archive(&sandbox, &mut rng),
        };
        if let Some(told) = told {
            println!("{told}");
        }
    }
}

fn there(sandbox: &Sandbox, rng: &mut StdRng, turn: u32) -> Option<String> {
    sandbox.with(|world| {
        let deal = *world.ids(Kind::Deal).choose(rng)?;
        let amount = format!("{}.00", rng.random_range(100..5_000));
        let properties =
            [("amount".to_owned(), amount.clone()), ("description".to_owned(), format!("called, turn {turn}"))].into();
        world.update(Kind::Deal, deal, &properties, Change::Person).ok()?;
        Some(format!("In HubSpot, somebody set deal {deal} to {amount}; a webhook is on its way here."))
    })
}

async fn some_deal(installation: &Installation, rng: &mut StdRng) -> Option<crate::model::Opportunity> {
    let account = installation.accounts.keys().next()?;
    let page = installation.store.opportunities(account, None, 500).await.ok()?;
    page.choose(rng).cloned()
}

async fn edit(installation: &Installation, id: crate::model::RecordId, fields: &Fields) -> Option<()> {
    let account = installation.accounts.values().next()?;
    let connections = installation.written_connections(&account.name);
    installation.desk(account, &connections).update(Kind::Deal, id, None, fields, None).await.ok()?;
    Some(())
}

async fn here(installation: &Installation, rng: &mut StdRng, turn: u32) -> Option<String> {
    let deal = some_deal(installation, rng).await?;
    let name = format!("{} (call back {turn})", deal.name.split(" (").next().unwrap_or("deal"));
    edit(installation, deal.id, &Fields::from([("name".to_owned(), Value::text(&name))])).await?;
    Some(format!("Here, somebody renamed \"{}\" to \"{name}\"; it is written to HubSpot.", deal.name))
}

async fn both(installation: &Installation, sandbox: &Sandbox, rng: &mut StdRng, turn: u32) -> Option<String> {
    let deal = some_deal(installation, rng).await?;
    let account = installation.accounts.keys().next()?;
    let link = installation.store.links_of(account, Kind::Deal, &[deal.id]).await.ok()?.pop()?;
    let remote: u64 = link.external.as_str().parse().ok()?;
    sandbox.with(|world| {
        let properties = [("dealname".to_owned(), format!("{} theirs {turn}", deal.name))].into();
        world.update(Kind::Deal, remote, &properties, Change::Person).ok()
    })?;
    edit(
        installation,
        deal.id,
        &Fields::from([("name".to_owned(), Value::text(&format!("{} ours {turn}", deal.name)))]),
    )
    .await?;
    Some(format!(
        "On both sides at once, two people renamed \"{}\": a conflict. `tandem conflicts list` shows both names.",
        deal.name
    ))
}

fn merge(sandbox: &Sandbox, rng: &mut StdRng) -> Option<String> {
    sandbox.with(|world| {
        let ids = world.ids(Kind::Deal);
        let (a, b) = (*ids.choose(rng)?, *ids.choose(rng)?);
        let survivor = world.merge(Kind::Deal, a, b, Change::Person).ok()?;
        Some(format!("In HubSpot, somebody merged deals {a} and {b}; they live on as {survivor}, and so do ours."))
    })
}

fn archive(sandbox: &Sandbox, rng: &mut StdRng) -> Option<String> {
    sandbox.with(|world| {
        let deal = *world.ids(Kind::Deal).choose(rng)?;
        world.archive(Kind::Deal, deal, Change::Person).ok()?;
        Some(format!("In HubSpot, somebody deleted deal {deal}; ours is kept and shown as missing there."))
    })
}
