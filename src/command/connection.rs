//! `tandem connection …`: connectors and their credentials.

use std::path::Path;

use anyhow::Context;
use serde_json::json;
use tandem_contract::{ConnectorError, Disposition, Secret};
use url::Url;

use super::{Exit, Global, connection_of, daemon::Daemon};
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
    let connection = connection_of(&installation, name)?;
    let identity = match connection.connector.check().await {
        Ok(identity) => identity,
        Err(error) => return Ok(tell(global, name, &error)),
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

/// Says why a vendor cannot be asked, and answers whether people must act.
fn tell(global: &Global, name: &Name, error: &ConnectorError) -> Exit {
    if global.json() {
        println!("{}", json!({ "ok": false, "error": error.to_string() }));
    } else {
        println!("{name}: {error}");
    }
    let people = matches!(error.disposition(), Disposition::PauseConnection | Disposition::PauseStream);
    if people { Exit::PeopleMustAct } else { Exit::Later }
}

/// Has a person let the connection's OAuth app in: prints where, reads the address that the browser came back to, and keeps
/// the grant that its code is exchanged for. A running daemon takes it up by itself.
///
/// # Errors
/// Configuration, database, a connection that asks nobody, or an address that answers something else.
pub async fn authorize(global: &Global, name: &Name) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let connection = connection_of(&installation, name)?;
    let connector = &connection.connector;
    // What comes back must answer this very question.
    let state = installation.ids.next(installation.clock.now()).simple().to_string();
    let address = connector.consent(&state).with_context(|| {
        format!(
            "{name} asks nobody: that takes Pipedrive or Square, client_id and client_secret in its credentials, and \
             redirect_uri"
        )
    })?;
    if global.json() {
        println!("{}", json!({ "authorize": address }));
    } else {
        println!("Open this address in a browser, and let the app in as the user whose records it is to see:\n");
        println!("{address}\n");
        println!("The browser then goes to your redirect_uri. Whatever it shows, paste that whole address here:");
    }
    let mut pasted = String::new();
    std::io::stdin().read_line(&mut pasted).context("reading the address")?;
    let code = code_of(pasted.trim(), &state)?;
    let row = installation.store.connection(&connection.account.name, name).await?;
    let before = row.and_then(|row| row.remote_account);
    let found = match connector.redeem(&code, before.as_deref()).await {
        Ok(identity) => identity.remote_account,
        Err(error) => return Ok(tell(global, name, &error)),
    };
    let other = before.filter(|before| *before != found);
    if global.json() {
        println!("{}", json!({ "ok": other.is_none(), "remote_account": found }));
    } else if let Some(before) = &other {
        println!(
            "That is account {found}, and {name} belongs to account {before}: nothing was kept. Ask somebody of that account."
        );
    } else {
        println!("{name} is let in to account {found}. A running daemon takes it up by itself.");
    }
    Ok(if other.is_none() { Exit::Done } else { Exit::PeopleMustAct })
}

/// The code in the address that a browser came back to.
fn code_of(pasted: &str, state: &str) -> anyhow::Result<Secret> {
    let address = pasted.parse::<Url>().ok().context("that is no address: paste all of it, from https:// on")?;
    let value = |name: &str| address.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    anyhow::ensure!(value("error").is_none(), "the app was not let in");
    anyhow::ensure!(
        value("state").as_deref() == Some(state),
        "that address answers another question than this one: begin again, and paste the address of the same browser tab"
    );
    let code = value("code").filter(|code| !code.is_empty()).context("that address holds no code: begin again")?;
    Ok(Secret::new(code))
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
    let connection = connection_of(&installation, name)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_taken_from_an_address_that_answers_this_question_and_from_no_other() {
        let of = |query: &str| code_of(&format!("https://tandem.example.com/callback?{query}"), "s1");
        assert_eq!(of("code=8f%3A1a&state=s1").unwrap().expose(), "8f:1a");
        for (query, why) in [
            ("code=8f1a&state=s2", "another question"),
            ("code=8f1a", "another question"),
            ("error=user_denied", "was not let in"),
            ("state=s1", "no code"),
        ] {
            let wrong = of(query).unwrap_err().to_string();
            assert!(wrong.contains(why) && !wrong.contains("8f1a"), "{query}: {wrong}");
        }
        assert!(code_of("8f1a", "s1").unwrap_err().to_string().contains("no address"));
    }
}
