//! `tandem connection …`: connectors and their credentials.

use std::path::Path;

use anyhow::Context;
use serde_json::json;

use super::{Exit, Global, daemon::Daemon};
use crate::{config::Config, model::Name, store::SyncStore};

/// Lists connections and how they stand.
///
/// # Errors
/// Configuration or database.
pub async fn list(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut all = Vec::new();
    for connection in installation.connections.values() {
        let (account, name) = (&connection.account.name, &connection.name);
        let row = installation.store.connection(account, name).await?;
        all.push(json!({
            "connection": name,
            "account": account,
            "connector": connection.connector.system(),
            "managed_by": if installation.from_file.contains(name) { "file" } else { "api" },
            "state": row.as_ref().map_or("new", |row| row.state.as_str()),
            "reason": row.as_ref().and_then(|row| row.reason.clone()),
            "remote_account": row.and_then(|row| row.remote_account),
            "webhook_url": connection.hook,
            "guarantee": connection.guarantee(),
            "backlog": installation.store.backlog(account, name).await?,
        }));
    }
    if global.json() {
        println!("{}", json!({ "connections": all }));
        return Ok(Exit::Done);
    }
    for one in &all {
        let word = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
        println!(
            "{} ({} of {}): {}; account {}; {} waiting; webhooks at {}",
            word("connection"),
            word("connector"),
            word("account"),
            word("state"),
            word("remote_account"),
            one["backlog"],
            word("webhook_url")
        );
        if let Some(reason) = one["reason"].as_str() {
            println!("  {reason}");
        }
        println!("  {}", word("guarantee"));
    }
    if all.is_empty() {
        println!(
            "No connections. Write [connections.NAME] into the configuration, or: tandem connection add NAME FILE"
        );
    }
    Ok(Exit::Done)
}

/// Tests a connection: who is it, which rights, is the clock right?
///
/// # Errors
/// Configuration, database, or the vendor.
pub async fn test(global: &Global, name: &Name) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let connection = installation.connections.get(name).with_context(|| format!("there is no connection {name}"))?;
    let identity = match connection.connector.check().await {
        Ok(identity) => identity,
        Err(error) => {
            if global.json() {
                println!("{}", json!({ "ok": false, "error": error.to_string() }));
            } else {
                println!("{name}: {error}");
            }
            let people = matches!(
                error.disposition(),
                tandem_contract::Disposition::PauseConnection | tandem_contract::Disposition::PauseStream
            );
            return Ok(if people { Exit::PeopleMustAct } else { Exit::Later });
        }
    };
    let ok = identity.items.iter().all(|item| item.ok);
    if global.json() {
        println!("{}", json!({ "ok": ok, "remote_account": identity.remote_account, "items": identity.items }));
    } else {
        for item in &identity.items {
            println!("{} {}: {}", if item.ok { "ok  " } else { "LOOK" }, item.name, item.detail);
        }
    }
    Ok(if ok { Exit::Done } else { Exit::PeopleMustAct })
}

/// Adds a connection that is described in a TOML file, sealed into the database.
///
/// # Errors
/// Configuration, database, or a description that does not fit.
pub async fn add(global: &Global, name: &Name, file: &Path) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    anyhow::ensure!(
        !installation.from_file.contains(name),
        "{name} is managed by the configuration file: change it there"
    );
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let connection = Config::parse_connection(&text)?;
    anyhow::ensure!(
        installation.accounts.contains_key(&connection.account),
        "there is no [accounts.{}] in the configuration",
        connection.account
    );
    installation.store.keep_connection(&connection.account, name, &text).await?;
    println!(
        "{name} is kept. Test it: tandem connection test {name}; a running daemon takes it up when it is started again."
    );
    Ok(Exit::Done)
}

/// Pauses a connection or lets it go on.
///
/// # Errors
/// Configuration, database, or no such connection.
pub async fn set_paused(global: &Global, name: &Name, paused: bool) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let connection = installation.connections.get(name).with_context(|| format!("there is no connection {name}"))?;
    match Daemon::of(&installation).await? {
        Some(daemon) => {
            let verb = if paused { "pause" } else { "resume" };
            daemon.post(&connection.account.name, &format!("/api/v1/connections/{name}/{verb}"), &json!({})).await?;
        }
        None => installation.set_paused(connection, paused).await?,
    }
    if global.json() {
        println!("{}", json!({ "connection": name, "paused": paused }));
    } else {
        println!("{name} {}.", if paused { "is paused; webhooks are still stored" } else { "goes on" });
    }
    Ok(Exit::Done)
}

/// Forgets a stored connection; its links stay.
///
/// # Errors
/// Configuration, database, or a connection of the file.
pub async fn remove(global: &Global, name: &Name) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    anyhow::ensure!(
        !installation.from_file.contains(name),
        "{name} is managed by the configuration file: remove it there"
    );
    anyhow::ensure!(installation.store.forget_connection(name).await?, "there is no stored connection {name}");
    println!("{name} is forgotten. Its links stay: added again, it goes on where it stopped.");
    Ok(Exit::Done)
}
