//! `tandem sandbox`: only the vendor simulators, each on a port of its own.

use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use tandem_contract::{ReqwestTransport, Secret, SystemClock};
use tandem_fhir::sandbox as fhir;
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox as pipedrive;
use tandem_sandbox::{Sandbox, Simulated};
use tandem_square::sandbox as square;
use tokio::net::TcpListener;

use super::{
    Exit,
    serve::{at_once, stop_signal},
};

/// What the sandboxes are started with.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// People in the HubSpot account.
    #[arg(long, default_value_t = 2_000)]
    pub contacts: usize,
    /// Deals in it.
    #[arg(long, default_value_t = 3_000)]
    pub deals: usize,
    /// Persons in the Pipedrive company.
    #[arg(long, default_value_t = 0)]
    pub persons: usize,
    /// Deals in it.
    #[arg(long, default_value_t = 0)]
    pub pipedrive_deals: usize,
    /// Customers of the Square seller.
    #[arg(long, default_value_t = 0)]
    pub customers: usize,
    /// Its sales so far.
    #[arg(long, default_value_t = 0)]
    pub sales: usize,
    /// Patients of the clinic.
    #[arg(long, default_value_t = 0)]
    pub patients: usize,
    /// Same seed, same accounts.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A simulator that is served on a port, and its address.
pub async fn serve<W: Simulated>(
    settings: W::Settings,
    seed: u64,
    port: u16,
    fill: impl FnOnce(&mut W),
) -> anyhow::Result<(Sandbox<W>, String)> {
    let sandbox = Sandbox::new(settings, seed, Arc::new(SystemClock::new()));
    sandbox.with(fill);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port} is taken"))?;
    let base = format!("http://{}", listener.local_addr()?);
    let (router, listener) = (sandbox.router(), at_once(listener));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((sandbox, base))
}

/// Serves only the vendor simulators, and prints one JSON line for each. Pipedrive's, Square's and the clinic's webhooks are
/// subscribed to by their APIs; HubSpot's go to `webhooks`.
///
/// # Errors
/// The port is taken.
pub async fn sandbox(size: Size, port: u16, webhooks: Option<String>) -> anyhow::Result<Exit> {
    let transport = Arc::new(ReqwestTransport::new().map_err(anyhow::Error::msg)?);
    let clinic = hubspot::Clinic { contacts: size.contacts, deals: size.deals };
    let (account, base) =
        serve(hubspot::Settings::default(), size.seed, port, |world: &mut hubspot::World| world.furnish_clinic(clinic))
            .await?;
    let settings = account.with(|world| world.settings.clone());
    if let Some(target) = webhooks {
        account.with(|world| world.subscribe(&target, &Secret::new(settings.client_secret.clone())));
    }
    let credentials = json!({
        "access_token": settings.access_tokens.first(), "client_id": settings.client_id,
        "client_secret": settings.client_secret, "refresh_token": settings.refresh_token,
    });
    let mut deliveries = vec![tokio::spawn(account.deliver_webhooks(transport.clone()))];
    print("hubspot", &base, &credentials);
    let persons = pipedrive::Company { persons: size.persons, deals: size.pipedrive_deals };
    let fill = |world: &mut pipedrive::World| world.fill(persons);
    let (company, base) = serve(pipedrive::Settings::default(), size.seed, 0, fill).await?;
    let settings = company.with(|world| world.settings.clone());
    let credentials = json!({
        "api_token": settings.api_tokens.first(), "client_id": settings.client_id,
        "client_secret": settings.client_secret, "refresh_token": settings.refresh_token,
    });
    deliveries.push(tokio::spawn(company.deliver_webhooks(transport.clone())));
    print("pipedrive", &base, &credentials);
    let shop = square::Shop { customers: size.customers, sales: size.sales };
    let fill = |world: &mut square::World| world.fill(shop);
    let (seller, base) = serve(square::Settings::default(), size.seed, 0, fill).await?;
    let settings = seller.with(|world| world.settings.clone());
    let credentials = json!({
        "access_token": settings.access_tokens.first(), "client_id": settings.client_id,
        "client_secret": settings.client_secret, "refresh_token": settings.refresh_token,
    });
    deliveries.push(tokio::spawn(seller.deliver_webhooks(transport.clone())));
    print("square", &base, &credentials);
    let fill = |world: &mut fhir::World| world.fill(size.patients);
    let (clinic, base) = serve(fhir::Settings::default(), size.seed, 0, fill).await?;
    let settings = clinic.with(|world| world.settings.clone());
    let credentials = json!({
        "access_token": settings.access_tokens.first(), "client_id": settings.client_id,
        "client_secret": settings.client_secret,
    });
    deliveries.push(tokio::spawn(clinic.deliver_webhooks(transport)));
    let control = json!(base);
    println!(
        "{}",
        json!({ "vendor": "fhir", "base_url": format!("{base}/fhir"), "credentials": credentials, "control_url": control })
    );
    stop_signal().cancelled().await;
    deliveries.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(Exit::Done)
}

fn print(vendor: &str, base: &str, credentials: &serde_json::Value) {
    println!("{}", json!({ "vendor": vendor, "base_url": base, "credentials": credentials, "control_url": base }));
}
