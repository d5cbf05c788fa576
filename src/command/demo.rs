//! `tandem demo`: a clinic with two CRMs, a till and its medical records, and people at work in all of them; without an account
//! anywhere.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tandem_contract::{Kind, ReqwestTransport, Secret, Value};
use tandem_fhir::sandbox as fhir;
use tandem_hubspot::sandbox as hubspot;
use tandem_hubspot::sandbox::{Change, Sandbox};
use tandem_pipedrive::sandbox as pipedrive;
use tandem_square::sandbox as square;
use tokio_util::sync::CancellationToken;

use super::{
    Exit,
    sandbox::serve,
    serve::{run, stop_signal},
    sync::Bars,
};
use crate::{
    config::Config,
    edit::Fields,
    installation::Installation,
    model::{Name, Opportunity, RecordId, Status},
    store::{SyncStore, seal::Sealer},
};

/// How large the business is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// People whom all systems know.
    #[arg(long, default_value_t = 120)]
    pub contacts: usize,
    /// Deals in HubSpot; Pipedrive is given them.
    #[arg(long, default_value_t = 150)]
    pub deals: usize,
    /// Same seed, same business.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How long a sale may take to reach both CRMs before the demonstration gives up on it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The systems of the business.
#[derive(Clone)]
struct Systems {
    hubspot: hubspot::Sandbox,
    pipedrive: pipedrive::Sandbox,
    square: square::Sandbox,
    fhir: fhir::Sandbox,
}

/// The daemon on a throw-away database with four sandboxes beside it, and people working on all sides.
///
/// # Errors
/// A port is taken, or the throw-away folder cannot be made.
pub async fn demo(size: Size, port: u16, seconds: Option<u64>) -> anyhow::Result<Exit> {
    let folder = std::env::temp_dir().join(format!("tandem-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    println!(
        "Making a HubSpot account with {} people and {} deals, a Pipedrive company, a Square till and a clinic's records that know the same people ...",
        size.contacts, size.deals
    );
    let clinic = hubspot::Clinic { contacts: size.contacts, deals: size.deals };
    let fill = |world: &mut hubspot::World| world.furnish_clinic(clinic);
    let (hubspot, in_hubspot) = serve(hubspot::Settings::default(), size.seed, 0, fill).await?;
    let (people, pipelines, owners) = hubspot.with(|world| {
        let owners = world.owner_emails();
        world.add_owner(55_020, "ines@example.com", "Ines", "Vega");
        (people(world), world.open_stages(), owners)
    });
    let fill = |world: &mut pipedrive::World| {
        for email in &owners {
            world.add_user(email.split('@').next().unwrap_or(email), email);
        }
        for (label, stages) in &pipelines {
            let stages: Vec<(&str, u8)> = stages.iter().map(|(label, chance)| (label.as_str(), *chance)).collect();
            world.add_pipeline(label, &stages);
        }
        for [first, last, email, _] in &people {
            let body = json!({ "name": format!("{first} {last}"), "emails": [{ "value": email, "primary": true }] });
            let _ = world.create(Kind::Contact, &body, pipedrive::Change::Person);
        }
    };
    let (pipedrive, in_pipedrive) = serve(pipedrive::Settings::default(), size.seed, 0, fill).await?;
    let fill = |world: &mut square::World| {
        for [first, last, email, phone] in &people {
            let body =
                json!({ "given_name": first, "family_name": last, "email_address": email, "phone_number": phone });
            let _ = world.create_customer(&body, square::Change::Person);
        }
    };
    let (square, in_square) = serve(square::Settings::default(), size.seed, 0, fill).await?;
    let fill = |world: &mut fhir::World| {
        for [first, last, email, phone] in &people {
            world.register(first, last, email, phone);
        }
    };
    let (fhir, in_fhir) = serve(fhir::Settings::default(), size.seed, 0, fill).await?;
    let hook = |connection: &str| format!("http://127.0.0.1:{port}/webhooks/{connection}");
    let signature_key = square.with(|world| world.subscribe(&hook("square")));
    let systems = Systems { hubspot, pipedrive, square, fhir };
    let file = folder.join("tandem.toml");
    let addresses = [in_hubspot, in_pipedrive, in_square, in_fhir];
    std::fs::write(&file, configuration(&addresses, port, &systems, &signature_key))?;
    let installation = Arc::new(Installation::open(Config::load(&file)?).await?);
    systems.hubspot.with(|world| {
        let secret = Secret::new(world.settings.client_secret.clone());
        world.subscribe(&hook("hubspot"), &secret);
    });
    let transport = Arc::new(ReqwestTransport::new().map_err(anyhow::Error::msg)?);
    let deliveries = [
        tokio::spawn(systems.hubspot.clone().deliver_webhooks(transport.clone())),
        tokio::spawn(systems.pipedrive.clone().deliver_webhooks(transport.clone())),
        tokio::spawn(systems.square.clone().deliver_webhooks(transport.clone())),
        tokio::spawn(systems.fhir.clone().deliver_webhooks(transport)),
    ];
    println!("Taking everything over into {} ...", folder.join("demo.db").display());
    let bars = Bars::new();
    let mut engines = installation.engines();
    for engine in &mut engines {
        engine.progress = Some(bars.clone().listener());
    }
    for engine in &engines {
        let summary = engine.once().await?;
        println!(
            "{}: took in {} records, wrote {}, in {:.1} s with {} calls.",
            summary.connection, summary.pulled.created, summary.pushed.created, summary.seconds, summary.calls
        );
    }
    bars.finish();
    help(&file, port);
    let stop = stop_signal();
    let actors = tokio::spawn(act(installation.clone(), systems, stop.clone(), seconds));
    let served = run(installation, engines, stop).await;
    actors.abort();
    deliveries.iter().for_each(tokio::task::JoinHandle::abort);
    std::fs::remove_dir_all(&folder).ok();
    served
}

/// Everybody with an e-mail address: first name, last name, address, telephone number.
fn people(world: &hubspot::World) -> Vec<[String; 4]> {
    let ids = world.ids(Kind::Contact);
    let text = |id: u64, name: &str| world.value(Kind::Contact, id, name).unwrap_or_default();
    let all = ids.into_iter().map(|id| ["firstname", "lastname", "email", "phone"].map(|name| text(id, name)));
    all.filter(|[.., email, _]| !email.is_empty()).collect()
}

fn configuration(addresses: &[String; 4], port: u16, systems: &Systems, signature_key: &Secret) -> String {
    let [hubspot, pipedrive, square, fhir] = addresses;
    let (token, secret) = systems.hubspot.with(|world| {
        (world.settings.access_tokens.first().cloned().unwrap_or_default(), world.settings.client_secret.clone())
    });
    let api_token = systems.pipedrive.with(|world| world.settings.api_tokens.first().cloned().unwrap_or_default());
    let clinic_token = systems.fhir.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default());
    let personal = systems.square.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default());
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

[accounts.glow_clinic.visit_rules.injectables]
pipeline = "Sales"
consult_booked = "Presentation scheduled"
consult_done = "Decision maker bought in"
treatment_booked = "Contract sent"

[connections.emr]
account = "glow_clinic"
connector = "fhir"
base_url = "{fhir}/fhir"
credentials = {{ access_token = "{clinic_token}", hook_token = "demo-hook" }}
visit_types = [
  {{ code = "CONSULT", class = "consult", service = "injectables", kind = "meeting" }},
  {{ code = "TREAT", class = "treatment", service = "injectables", kind = "service" }},
]

[connections.hubspot]
account = "glow_clinic"
connector = "hubspot"
base_url = "{hubspot}"
credentials = {{ access_token = "{token}", client_secret = "{secret}" }}
rate_limit = {{ requests = 190, per_seconds = 10 }}
daily_budget = 625000

[connections.pipedrive]
account = "glow_clinic"
connector = "pipedrive"
base_url = "{pipedrive}"
credentials = {{ api_token = "{api_token}", webhook_user = "tandem", webhook_password = "demo" }}
rate_limit = {{ requests = 40, per_seconds = 2 }}
daily_budget = 300000

[connections.square]
account = "glow_clinic"
connector = "square"
base_url = "{square}"
credentials = {{ access_token = "{personal}", signature_key = "{signature}" }}
rate_limit = {{ requests = 90, per_seconds = 10 }}
"#,
        key = Sealer::new_key().expose(),
        signature = signature_key.expose(),
    )
}

fn help(file: &std::path::Path, port: u16) {
    let config = file.display();
    let program = std::env::current_exe().map_or_else(|_| "tandem".into(), |path| path.display().to_string());
    println!(
        "\nTandem is running: http://127.0.0.1:{port}/   (token: demo)\nIn another terminal, try:\n  \
         {program} --config {config} connection list\n  \
         {program} --config {config} conflicts list\n  \
         {program} --config {config} sales unmatched\n  \
         {program} --config {config} export opportunities | head -3\n  \
         curl -s -H 'Authorization: Bearer demo' http://127.0.0.1:{port}/api/v1/opportunities?limit=2\n\
         People now work on all sides. Ctrl-C ends it and throws everything away.\n"
    );
}

/// People at work: edits here and there, now and then both at once, sales at the till, a merge, an archive.
async fn act(installation: Arc<Installation>, systems: Systems, stop: CancellationToken, seconds: Option<u64>) {
    let mut rng = StdRng::seed_from_u64(7);
    let began = tokio::time::Instant::now();
    let mut turn = 0_u32;
    let sandbox = &systems.hubspot;
    loop {
        if seconds.is_some_and(|seconds| began.elapsed() > Duration::from_secs(seconds)) {
            stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        turn += 1;
        let told = match turn % 7 {
            0 => both(&installation, sandbox, &mut rng, turn).await,
            6 => visit(&installation, &systems, &mut rng).await,
            1 => sale(&installation, &systems, &mut rng).await,
            4 => there(sandbox, &mut rng, turn),
            2 | 3 => here(&installation, &mut rng, turn).await,
            _ if turn % 12 == 5 => merge(sandbox, &mut rng),
            _ => archive(sandbox, &mut rng),
        };
        if let Some(told) = told {
            println!("{told}");
        }
    }
}

/// The vendor's id of a record of ours, by connection.
async fn linked(
    installation: &Installation,
    account: &Name,
    kind: Kind,
    id: RecordId,
    connection: &str,
) -> Option<String> {
    let links = installation.store.links_of(account, kind, &[id]).await.ok()?;
    links.into_iter().find(|link| link.connection.as_str() == connection).map(|link| link.external.to_string())
}

/// Opportunities of those who have one open, and an address by which every system knows them.
async fn lonely(installation: &Installation, account: &Name) -> Option<Vec<Opportunity>> {
    let contacts = installation.store.contacts(account, None, 500).await.ok()?;
    let known: BTreeSet<RecordId> =
        contacts.into_iter().filter(|contact| contact.email.is_some()).map(|contact| contact.id).collect();
    let all = installation.store.opportunities(account, None, 500).await.ok()?;
    let open: Vec<&Opportunity> = all.iter().filter(|deal| deal.position.status == Status::Open).collect();
    let lonely = |deal: &&&Opportunity| {
        deal.contact.is_some_and(|contact| known.contains(&contact))
            && open.iter().filter(|other| other.contact == deal.contact).count() == 1
    };
    Some(open.iter().filter(lonely).map(|deal| (*deal).clone()).collect())
}

/// Somebody with one open deal is given a treatment at the clinic; answers how long it took until both CRMs stood further on.
async fn visit(installation: &Installation, systems: &Systems, rng: &mut StdRng) -> Option<String> {
    let account = installation.accounts.keys().next()?.clone();
    let pipelines = installation.store.pipelines(&account).await.ok()?;
    let sales = pipelines.iter().find(|pipeline| pipeline.label == "Sales")?;
    let place = |deal: &Opportunity| sales.stages.iter().position(|stage| Some(stage.id) == deal.position.stage);
    let wanted = sales.stages.iter().position(|stage| stage.label == "Contract sent")?;
    let early = |deal: &Opportunity| place(deal).is_some_and(|place| place < wanted);
    let candidates: Vec<Opportunity> = lonely(installation, &account).await?.into_iter().filter(early).collect();
    let deal = candidates.choose(rng)?;
    let found = installation.store.records(&account, Kind::Contact, &[deal.contact?]).await.ok()?.pop()?;
    let email = found.get("email").as_text()?.to_owned();
    let in_hubspot: u64 = linked(installation, &account, Kind::Deal, deal.id, "hubspot").await?.parse().ok()?;
    let in_pipedrive: u64 = linked(installation, &account, Kind::Deal, deal.id, "pipedrive").await?.parse().ok()?;
    let before = systems.pipedrive.with(|world| world.value(Kind::Deal, in_pipedrive, "stage_id"));
    let began = tokio::time::Instant::now();
    systems.fhir.with(|world| {
        let patient = world.patient_with(&email)?;
        Some(world.appoint(&patient, "TREAT", "booked", world.now + chrono::TimeDelta::days(7)))
    })?;
    println!("At the clinic, a treatment is booked for somebody whose one open deal is \"{}\" ...", deal.name);
    while began.elapsed() < PATIENCE {
        let stage = systems.hubspot.with(|world| world.value(Kind::Deal, in_hubspot, "dealstage"));
        let there = systems.pipedrive.with(|world| world.value(Kind::Deal, in_pipedrive, "stage_id"));
        if stage.as_deref() == Some("contractsent") && there != before {
            return Some(format!(
                "... and {:.2} s later deal {in_hubspot} in HubSpot and deal {in_pipedrive} in Pipedrive stand at \"Contract sent\".",
                began.elapsed().as_secs_f64()
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(format!("... which has not reached both CRMs within {} s.", PATIENCE.as_secs()))
}

/// Somebody with one open deal buys something; answers how long it took until both CRMs said that it is won.
async fn sale(installation: &Installation, systems: &Systems, rng: &mut StdRng) -> Option<String> {
    let account = installation.accounts.keys().next()?.clone();
    let candidates = lonely(installation, &account).await?;
    let deal = candidates.choose(rng)?;
    let customer = linked(installation, &account, Kind::Contact, deal.contact?, "square").await?;
    let in_hubspot: u64 = linked(installation, &account, Kind::Deal, deal.id, "hubspot").await?.parse().ok()?;
    let in_pipedrive: u64 = linked(installation, &account, Kind::Deal, deal.id, "pipedrive").await?.parse().ok()?;
    let began = tokio::time::Instant::now();
    systems
        .square
        .with(|world| {
            let part = square::Part { customer: Some(customer), ..square::Part::default() };
            let lines = vec![square::Line::of("Neurotoxin treatment")];
            world.sell(&square::Ticket {
                location: "Downtown".into(),
                lines,
                parts: vec![part],
                ..square::Ticket::default()
            })
        })
        .ok()?;
    println!(
        "At the till, somebody buys a neurotoxin treatment for 650.00; their one open deal is \"{}\" ...",
        deal.name
    );
    while began.elapsed() < PATIENCE {
        let amount = systems.hubspot.with(|world| world.value(Kind::Deal, in_hubspot, "amount"));
        let status = systems.pipedrive.with(|world| world.value(Kind::Deal, in_pipedrive, "status"));
        if amount.is_some_and(|amount| amount.parse() == Ok(650.0)) && status == Some(json!("won")) {
            return Some(format!(
                "... and {:.2} s later deal {in_hubspot} in HubSpot and deal {in_pipedrive} in Pipedrive are won, for 650.00.",
                began.elapsed().as_secs_f64()
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Some(format!("... which has not reached both CRMs within {} s: see `tandem sales unmatched`.", PATIENCE.as_secs()))
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

async fn some_deal(installation: &Installation, rng: &mut StdRng) -> Option<Opportunity> {
    let account = installation.accounts.keys().next()?;
    let page = installation.store.opportunities(account, None, 500).await.ok()?;
    page.choose(rng).cloned()
}

async fn edit(installation: &Installation, id: RecordId, fields: &Fields) -> Option<()> {
    let account = installation.accounts.values().next()?;
    let connections = installation.written_connections(&account.name);
    installation.desk(account, &connections).update(Kind::Deal, id, None, fields, None).await.ok()?;
    Some(())
}

async fn here(installation: &Installation, rng: &mut StdRng, turn: u32) -> Option<String> {
    let deal = some_deal(installation, rng).await?;
    let name = format!("{} (call back {turn})", deal.name.split(" (").next().unwrap_or("deal"));
    edit(installation, deal.id, &Fields::from([("name".to_owned(), Value::text(&name))])).await?;
    Some(format!("Here, somebody renamed \"{}\" to \"{name}\"; it is written to HubSpot and Pipedrive.", deal.name))
}

async fn both(installation: &Installation, sandbox: &Sandbox, rng: &mut StdRng, turn: u32) -> Option<String> {
    let deal = some_deal(installation, rng).await?;
    let account = installation.accounts.keys().next()?;
    let remote: u64 = linked(installation, account, Kind::Deal, deal.id, "hubspot").await?.parse().ok()?;
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
