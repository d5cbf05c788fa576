//! An opportunity continues at the till.

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde_json::json;
use tandem_contract::CheckoutBy;

use super::{Exit, Global, connection_of, daemon::Daemon, opportunity_id};
use crate::{
    checkout::{self, Wish},
    model::{Currency, Money, Name},
};

/// How it is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// By a link to a page.
    #[default]
    Link,
    /// By an invoice that the till sends.
    Invoice,
}

/// Continue an opportunity at the till: whoever pays wins it.
#[derive(Clone, Debug, clap::Args)]
pub struct Checkout {
    /// Our id of the opportunity.
    pub opportunity: String,
    /// Which till.
    #[arg(long)]
    pub connection: Name,
    /// How it is paid.
    #[arg(long, value_enum, default_value_t)]
    pub by: By,
    /// What it costs, such as 120.00; the opportunity's value if left out.
    #[arg(long)]
    pub price: Option<Decimal>,
    /// The price's currency; the account's if left out.
    #[arg(long, requires = "price")]
    pub currency: Option<String>,
    /// The till's id of a location; the first open one that takes the currency if left out.
    #[arg(long)]
    pub location: Option<String>,
    /// When an invoice is due, such as 2026-11-30; today if left out.
    #[arg(long)]
    pub due_on: Option<NaiveDate>,
    /// Makes another checkout of the same kind and price.
    #[arg(long)]
    pub key: Option<String>,
}

/// Starts a checkout; paying it wins the opportunity.
///
/// # Errors
/// Configuration, database, the till, or no such opportunity.
pub async fn start(global: &Global, asked: Checkout) -> anyhow::Result<Exit> {
    let Checkout { opportunity, connection, by, price, currency, location, due_on, key } = asked;
    let installation = global.open().await?;
    let till = connection_of(&installation, &connection)?;
    let id = opportunity_id(&opportunity)?;
    let currency = match currency {
        Some(code) => Currency::new(&code)?,
        None => till.account.currency,
    };
    let price = price.map(|major| Money::from_major(major, currency)).transpose()?;
    let by = match by {
        By::Link => CheckoutBy::Link,
        By::Invoice => CheckoutBy::Invoice,
    };
    let (sale, url) = match Daemon::of(&installation).await? {
        Some(daemon) => {
            let price = price.map(|price| json!({ "minor": price.minor, "currency": price.currency.code() }));
            let body = json!({
                "connection": connection, "by": by, "price": price, "location": location, "due_on": due_on, "key": key,
            });
            let path = format!("/api/v1/opportunities/{id}/checkout");
            let started = daemon.carry_out("POST", till, &path, &body).await?;
            let text = |name: &str| started[name].as_str().map(str::to_owned);
            (text("sale").unwrap_or_default(), text("url"))
        }
        None => {
            let wish = Wish { by, price, location, due_on, key };
            let (evidence, url) =
                checkout::start(&*installation.store, till, id, wish, installation.clock.now()).await?;
            (evidence.id(), url)
        }
    };
    if global.json() {
        println!("{}", json!({ "sale": sale, "url": url }));
    } else {
        let where_to = url.map_or_else(String::new, |url| format!("; it is paid at {url}"));
        println!("{sale} is started{where_to}");
    }
    Ok(Exit::Done)
}
