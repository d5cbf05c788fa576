//! Sales that are nobody's, and whose they are.

use anyhow::Context;
use serde_json::json;

use super::{Exit, Global, daemon::Daemon, opportunity_id};
use crate::{
    installation::Installation,
    model::{Account, Evidence, EvidenceState},
    store::SyncStore,
};

fn sentence(sale: &Evidence) -> String {
    let amount = sale.amount.map_or_else(String::new, |money| format!(" for {} {}", money.to_major(), money.currency));
    let paid =
        sale.paid.map_or_else(String::new, |money| format!(", {} {} paid so far", money.to_major(), money.currency));
    let candidates = match sale.candidates.as_slice() {
        [] => String::new(),
        some => format!("; it may be of {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("{}  sold on {}{amount}{paid}: {}{candidates}", sale.id(), sale.sold_on, sale.why)
}

/// Lists sales that no one opportunity is known for, newest first.
///
/// # Errors
/// Configuration or database.
pub async fn unmatched(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut all = Vec::new();
    for account in installation.accounts.keys() {
        all.extend(installation.store.evidence_in(account, EvidenceState::Unmatched, 1_000).await?);
    }
    if global.json() {
        println!("{}", json!({ "sales": all }));
    } else if all.is_empty() {
        println!("No sale waits for you to say whose it is.");
    } else {
        all.iter().for_each(|sale| println!("{}", sentence(sale)));
        println!("\nTo say whose one is: tandem sales link SALE OPPORTUNITY");
    }
    Ok(Exit::Done)
}

/// Says which opportunity a sale is of.
///
/// # Errors
/// Configuration, database, or no such sale or opportunity.
pub async fn link(global: &Global, sale: &str, opportunity: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let (connection, order) =
        Evidence::parse_id(sale).context("that is not the id of a sale: it looks like square:ORDER")?;
    let record = opportunity_id(opportunity)?;
    let account = account_of(&installation, &connection, &order).await?;
    let daemon = Daemon::of(&installation).await?;
    let linked = match &daemon {
        Some(daemon) => {
            let path = format!("/api/v1/sales/{sale}/link");
            daemon.post(&account.name, &path, &json!({ "opportunity": record.to_string() })).await?
        }
        None => {
            let connections = installation.written_connections(&account.name);
            let desk = installation.desk(&account, &connections);
            serde_json::to_value(desk.link_sale(&connection, &order, record).await?)?
        }
    };
    if global.json() {
        println!("{linked}");
    } else if daemon.is_some() {
        println!("Linked. The daemon asks the till how it stands; if it is paid, the opportunity is won in a moment.");
    } else {
        println!("Linked. If it is paid, the opportunity is won with the next `tandem sync --once`.");
    }
    Ok(Exit::Done)
}

async fn account_of(
    installation: &Installation,
    connection: &crate::model::Name,
    sale: &tandem_contract::ExternalId,
) -> anyhow::Result<Account> {
    for account in installation.accounts.values() {
        if !installation.store.evidence(&account.name, connection, std::slice::from_ref(sale)).await?.is_empty() {
            return Ok(account.clone());
        }
    }
    anyhow::bail!("there is no sale {sale} of {connection}: `tandem sales unmatched` lists those that wait for you")
}
