//! Four systems beside one another: from a sale at the till, by its webhook, to the opportunity won in both CRMs; and from a name
//! that is typed in HubSpot to the same name in Pipedrive, at the till and at the clinic.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use serde_json::json;
use tandem::{
    api::Door, command::sandbox::serve, config::Config, installation::Installation, model::Name, store::seal::Sealer,
};
use tandem_contract::{Kind, Secret};
use tandem_fhir::sandbox as fhir;
use tandem_hubspot::{ApiVersion, sandbox as hubspot};
use tandem_pipedrive::sandbox as pipedrive;
use tandem_square::sandbox as square;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};

use crate::{
    raw::RawTable,
    spread,
    table::Rows,
    vendor::{get, transport},
};

/// Sales that are measured.
const SALES: usize = 100;
/// Sales before that.
const WARM_UP: usize = 10;
/// How often the CRMs are looked at.
const LOOK: Duration = Duration::from_millis(1);
/// Between two sales: HubSpot's limit for associations cannot be raised by configuration, and is not what is measured.
const PAUSE: Duration = Duration::from_millis(400);
/// When a sale is taken for lost.
const PATIENCE: Duration = Duration::from_secs(30);
const NO_LIMIT: u32 = 1_000_000;

/// Somebody with an open deal, by the numbers each system knows them by.
struct Buyer {
    customer: String,
    deal: u64,
    contact: u64,
    person: u64,
    email: String,
}

/// The systems.
struct Systems {
    crm: hubspot::Sandbox,
    second: pipedrive::Sandbox,
    till: square::Sandbox,
    clinic: fhir::Sandbox,
}

/// Four systems without limits and without lag, and a daemon between them.
pub async fn rows() -> Rows {
    let settings = hubspot::Settings {
        burst: NO_LIMIT,
        daily: u64::from(NO_LIMIT),
        search_per_second: NO_LIMIT,
        association_burst: NO_LIMIT,
        search_lag_ms: (0, 0),
        recompute_seconds: 0,
        ..hubspot::Settings::default()
    };
    let (crm, in_crm) = serve(settings, 1, 0, |_: &mut hubspot::World| ()).await?;
    let settings = pipedrive::Settings { burst: NO_LIMIT, daily_tokens: 10_000_000, ..pipedrive::Settings::default() };
    let stages = crm.with(|world| world.open_stages());
    let fill = |world: &mut pipedrive::World| {
        for (label, stages) in &stages {
            let stages: Vec<(&str, u8)> = stages.iter().map(|(label, chance)| (label.as_str(), *chance)).collect();
            world.add_pipeline(label, &stages);
        }
    };
    let (second, in_second) = serve(settings, 1, 0, fill).await?;
    let settings = square::Settings {
        calls_per_second: NO_LIMIT,
        customer_lag_ms: 0,
        payment_lag_ms: 0,
        order_lag_ms: 0,
        ..square::Settings::default()
    };
    let (till, in_till) = serve(settings, 1, 0, |_: &mut square::World| ()).await?;
    let settings = fhir::Settings { calls_per_second: NO_LIMIT, ..fhir::Settings::default() };
    let (clinic, in_clinic) = serve(settings, 1, 0, |_: &mut fhir::World| ()).await?;
    let buyers = (0..WARM_UP + SALES).map(|n| buyer(n, &crm, &second, &till)).collect::<anyhow::Result<Vec<_>>>()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let hook = |name: &str| format!("http://{address}/webhooks/{name}");
    let key = till.with(|world| world.subscribe(&hook("square")));
    crm.with(|world| {
        let secret = Secret::new(world.settings.client_secret.clone());
        world.subscribe(&hook("hubspot"), &secret);
    });
    let folder = tempfile::tempdir()?;
    let text =
        configuration(&address.to_string(), [&in_crm, &in_second, &in_till, &in_clinic], &crm, &second, &till, &key);
    let installation = Arc::new(Installation::open(Config::parse(&text, folder.path().to_owned())?).await?);
    let mut engines = installation.engines();
    for engine in &engines {
        engine.once().await?;
    }
    // A patient whose contact is known is linked when the clinic tells of them.
    clinic.with(|world| {
        for buyer in &buyers {
            world.register("Ana", "Ito", &buyer.email, "");
        }
    });
    let bells: BTreeMap<Name, Arc<Notify>> =
        engines.iter().map(|engine| (engine.connection().name.clone(), engine.wake.clone())).collect();
    engines.iter_mut().for_each(|engine| engine.meet(&bells));
    let mut tasks = JoinSet::new();
    let router = Door::new(installation, None, None, bells, None).router();
    let listener = tandem::command::serve::at_once(listener);
    tasks.spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    for engine in engines {
        tasks.spawn(async move { engine.run().await });
    }
    let network = Arc::new(transport()?);
    tasks.spawn(crm.clone().deliver_webhooks(network.clone()));
    tasks.spawn(second.clone().deliver_webhooks(network.clone()));
    tasks.spawn(till.clone().deliver_webhooks(network.clone()));
    tasks.spawn(clinic.clone().deliver_webhooks(network.clone()));
    // The clinic's feed ends five seconds behind its clock.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let systems = Systems { crm: crm.clone(), second: second.clone(), till: till.clone(), clinic: clinic.clone() };
    let mut names = Vec::with_capacity(SALES);
    for (n, buyer) in buyers.iter().enumerate() {
        tokio::time::sleep(PAUSE).await;
        let took = rename(buyer, &format!("Name{n}"), &systems).await?;
        if n >= WARM_UP {
            names.push(took);
        }
    }
    let mut ours = Vec::with_capacity(SALES);
    let mut orders = Vec::with_capacity(SALES);
    for (n, buyer) in buyers.iter().enumerate() {
        tokio::time::sleep(PAUSE).await;
        let (took, order) = sale(buyer, &crm, &second, &till).await?;
        if n >= WARM_UP {
            ours.push(took);
            orders.push((order, buyer.deal));
        }
    }
    drop(tasks);
    let table = RawTable::create(&folder.path().join("by_hand.db")).await?;
    let bearer = |token: Option<&String>| token.cloned().unwrap_or_default();
    let token = till.with(|world| bearer(world.settings.access_tokens.first()));
    let crm_token = crm.with(|world| bearer(world.settings.access_tokens.first()));
    let deals = ApiVersion::default().objects(Kind::Deal);
    let mut bare = Vec::with_capacity(SALES);
    for (order, deal) in &orders {
        let began = Instant::now();
        let read = get(&*network, &in_till, &token, &format!("/v2/orders/{order}")).await?;
        get(&*network, &in_crm, &crm_token, &format!("{deals}/{deal}")).await?;
        table.insert(&[(order.clone(), read.to_string())]).await?;
        bare.push(began.elapsed());
    }
    let yardstick = "read order and deal once, store once";
    let mut rows =
        Vec::from(spread::rows("sale to won in both CRMs, four systems, no lag", ours, yardstick, bare.clone()));
    rows.extend(spread::rows("a name typed in HubSpot to Pipedrive, Square and FHIR, no lag", names, yardstick, bare));
    Ok(rows)
}

fn buyer(
    n: usize,
    crm: &hubspot::Sandbox,
    second: &pipedrive::Sandbox,
    till: &square::Sandbox,
) -> anyhow::Result<Buyer> {
    let email = format!("buyer{n}@example.com");
    let refused = |why: String| anyhow!("a sandbox refuses a buyer: {why}");
    let deal = crm.with(|world| {
        let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let person = text(&[("firstname", "Ana"), ("lastname", "Ito"), ("email", &email)]);
        let person = world.create(Kind::Contact, &person, hubspot::Change::Person)?;
        let deal = text(&[("dealname", &format!("Course {n}")), ("dealstage", "qualifiedtobuy")]);
        let deal = world.create(Kind::Deal, &deal, hubspot::Change::Person)?;
        world.associate(deal, person, hubspot::Change::Person);
        Ok::<_, hubspot::Refusal>((deal, person))
    });
    let (deal, contact) = deal.map_err(|refusal| refused(refusal.body.to_string()))?;
    let person = json!({ "name": "Ana Ito", "emails": [{ "value": email, "primary": true }] });
    let person = second
        .with(|world| world.create(Kind::Contact, &person, pipedrive::Change::Person))
        .map_err(|refusal| refused(refusal.body.to_string()))?;
    let customer = json!({ "given_name": "Ana", "family_name": "Ito", "email_address": email });
    let customer = till.with(|world| world.create_customer(&customer, square::Change::Person));
    let customer = customer.map_err(|refusal| refused(refusal.body.to_string()))?;
    Ok(Buyer { customer, deal, contact, person, email })
}

/// Somebody is given another name in HubSpot; how long until every other system has it.
async fn rename(buyer: &Buyer, name: &str, systems: &Systems) -> anyhow::Result<Duration> {
    let patient = systems.clinic.with(|world| world.patient_with(&buyer.email)).context("the patient is there")?;
    let began = Instant::now();
    let last = BTreeMap::from([("lastname".to_owned(), name.to_owned())]);
    systems
        .crm
        .with(|world| world.update(Kind::Contact, buyer.contact, &last, hubspot::Change::Person))
        .map_err(|refusal| anyhow!("no name: {}", refusal.body))?;
    loop {
        let second = systems.second.with(|world| world.value(Kind::Contact, buyer.person, "name"));
        let till = systems.till.with(|world| world.customer_field(&buyer.customer, "family_name"));
        let clinic = systems
            .clinic
            .with(|world| world.resource("Patient", &patient).map(|one| one["name"][0]["family"].clone()));
        let arrived = second == Some(json!(format!("Ana {name}")))
            && till.as_deref() == Some(name)
            && clinic == Some(json!(name));
        if arrived {
            return Ok(began.elapsed());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "a name did not arrive within {} s: {second:?}, {till:?}, {clinic:?}",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// One sale; how long until both CRMs say so.
async fn sale(
    buyer: &Buyer,
    crm: &hubspot::Sandbox,
    second: &pipedrive::Sandbox,
    till: &square::Sandbox,
) -> anyhow::Result<(Duration, String)> {
    let title = crm.with(|world| world.value(Kind::Deal, buyer.deal, "dealname")).context("the deal has a name")?;
    let twin = second.with(|world| {
        let ids = world.ids(Kind::Deal);
        ids.into_iter().find(|id| world.value(Kind::Deal, *id, "title") == Some(json!(title)))
    });
    let twin = twin.context("the deal is in the second CRM")?;
    let began = Instant::now();
    let part = square::Part { customer: Some(buyer.customer.clone()), ..square::Part::default() };
    let lines = vec![square::Line::of("Serum")];
    let ticket = square::Ticket { location: "Downtown".into(), lines, parts: vec![part], ..Default::default() };
    let order = till.with(|world| world.sell(&ticket)).map_err(|refusal| anyhow!("no sale: {}", refusal.body))?;
    loop {
        let first = crm.with(|world| world.value(Kind::Deal, buyer.deal, "dealstage"));
        let other = second.with(|world| world.value(Kind::Deal, twin, "status"));
        if first.as_deref() == Some("closedwon") && other == Some(json!("won")) {
            return Ok((began.elapsed(), order));
        }
        ensure!(began.elapsed() < PATIENCE, "a sale did not arrive within {} s", PATIENCE.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

fn configuration(
    address: &str,
    [crm, second, till, clinic]: [&str; 4],
    hubspot: &hubspot::Sandbox,
    pipedrive: &pipedrive::Sandbox,
    square: &square::Sandbox,
    key: &Secret,
) -> String {
    let first = |tokens: &[String]| tokens.first().cloned().unwrap_or_default();
    format!(
        r#"
[database]
url = "sqlite://tandem.db"
[http]
public_url = "http://{address}"
[security]
master_key = "{master}"
[accounts.glow_clinic]
currency = "USD"
[connections.hubspot]
account = "glow_clinic"
connector = "hubspot"
base_url = "{crm}"
credentials = {{ access_token = "{crm_token}", client_secret = "{secret}" }}
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
search_rate_limit = {{ requests = 1000000, per_seconds = 1 }}
daily_budget = 1000000000
[connections.pipedrive]
account = "glow_clinic"
connector = "pipedrive"
base_url = "{second}"
credentials = {{ api_token = "{second_token}", webhook_user = "bench", webhook_password = "bench" }}
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
daily_budget = 10000000
[connections.emr]
account = "glow_clinic"
connector = "fhir"
base_url = "{clinic}/fhir"
credentials = {{ access_token = "sim-fhir-token", hook_token = "bench" }}
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
patients = true
poll_seconds = 1
[connections.square]
account = "glow_clinic"
connector = "square"
base_url = "{till}"
credentials = {{ access_token = "{till_token}", signature_key = "{key}" }}
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
"#,
        master = Sealer::new_key().expose(),
        crm_token = hubspot.with(|world| first(&world.settings.access_tokens)),
        secret = hubspot.with(|world| world.settings.client_secret.clone()),
        second_token = pipedrive.with(|world| first(&world.settings.api_tokens)),
        till_token = square.with(|world| first(&world.settings.access_tokens)),
        key = key.expose(),
    )
}
