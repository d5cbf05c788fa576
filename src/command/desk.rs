//! The operator's desk: conflicts, failures, the guard, the audit, and why a record is as it is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::json;
use tandem_contract::{Kind, Value};

use super::{Exit, Global, account, connection_of, daemon::Daemon};
use crate::{
    installation::Installation,
    model::{Conflict, Key, Name, RecordId, Winner, link::Verdict},
    store::{By, SyncStore},
};

fn values(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" / ")
}

fn sentence(conflict: &Conflict) -> String {
    let verdict = match conflict.winner {
        Winner::Local => "ours was kept and written there",
        Winner::Remote => "theirs was taken in",
        Winner::Both => "both were joined",
        Winner::Nobody => "it waits for you",
    };
    format!(
        "{}  {} of {} {}: both sides changed it. Before: {}. Here: {}. At {}: {}. By the rule `{}` {verdict}.",
        conflict.id,
        conflict.row,
        conflict.kind,
        conflict.record,
        if conflict.base.is_empty() { "(they had never agreed)".into() } else { values(&conflict.base) },
        values(&conflict.local),
        conflict.connection,
        values(&conflict.remote),
        conflict.rule
    )
}

/// Lists conflicts, newest first.
///
/// # Errors
/// Configuration or database.
pub async fn conflicts(global: &Global, open_only: bool) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut all = Vec::new();
    for account in installation.accounts.keys() {
        all.extend(installation.store.conflicts(account, open_only, 1_000).await?);
    }
    if global.json() {
        println!("{}", json!({ "conflicts": all }));
    } else if all.is_empty() {
        println!("No conflicts.");
    } else {
        all.iter().for_each(|conflict| println!("{}", sentence(conflict)));
        println!("\nEach keeps both values. To decide otherwise: tandem conflicts resolve ID --take local|remote");
    }
    Ok(Exit::Done)
}

async fn find(installation: &Installation, id: &str) -> anyhow::Result<(Name, Conflict)> {
    let id = id.parse().context("that is not the id of a conflict")?;
    for account in installation.accounts.keys() {
        if let Some(conflict) = installation.store.conflict(account, id).await? {
            return Ok((account.clone(), conflict));
        }
    }
    anyhow::bail!("there is no conflict {id}")
}

/// Shows one conflict.
///
/// # Errors
/// Configuration, database, or no such conflict.
pub async fn show_conflict(global: &Global, id: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let (_, conflict) = find(&installation, id).await?;
    if global.json() {
        println!("{}", serde_json::to_string(&conflict)?);
    } else {
        println!("{}\nFound {}.", sentence(&conflict), conflict.at.to_rfc3339());
    }
    Ok(Exit::Done)
}

/// Decides a conflict, or overturns a rule's decision.
///
/// # Errors
/// Configuration, database, or no such conflict.
pub async fn resolve(global: &Global, id: &str, take: Winner) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let (account, conflict) = find(&installation, id).await?;
    let account = super::account(&installation, Some(&account))?;
    let daemon = Daemon::of(&installation).await?;
    let resolved = match &daemon {
        Some(daemon) => {
            let path = format!("/api/v1/conflicts/{}/resolve", conflict.id);
            daemon.post(&account.name, &path, &json!({ "take": take })).await?
        }
        None => {
            let connections = installation.written_connections(&account.name);
            serde_json::to_value(installation.desk(account, &connections).resolve(conflict, take).await?)?
        }
    };
    if global.json() {
        println!("{resolved}");
    } else if daemon.is_some() {
        println!("Decided. The daemon is at it: both sides say it in a moment.");
    } else {
        println!("Decided. Both sides say it after the next `tandem sync --once`.");
    }
    Ok(Exit::Done)
}

/// Lists what was set aside.
///
/// # Errors
/// Configuration or database.
pub async fn failures(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut all = Vec::new();
    for account in installation.accounts.keys() {
        all.extend(installation.store.failures(account, 1_000).await?);
    }
    if global.json() {
        println!("{}", json!({ "failures": all }));
    } else if all.is_empty() {
        println!("Nothing failed.");
    } else {
        for failure in &all {
            let field = if failure.row.is_empty() { String::new() } else { format!(", field `{}`", failure.row) };
            println!(
                "{}  [{}] {} {}{field} of {}: {} (tried {} times)",
                failure.id,
                failure.code,
                failure.kind,
                failure.key,
                failure.connection,
                failure.message,
                failure.attempts
            );
        }
        println!("\nTo try again now: tandem failures retry ID, or `all`");
    }
    Ok(Exit::Done)
}

/// Marks failed records to be tried again now.
///
/// # Errors
/// Configuration, database, or no such failure.
pub async fn retry(global: &Global, which: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let daemon = Daemon::of(&installation).await?;
    let (mut count, mut tried) = (0, BTreeSet::new());
    for account in installation.accounts.keys() {
        for failure in installation.store.failures(account, 100_000).await? {
            if which != "all" && failure.id.to_string() != which {
                continue;
            }
            // Trying a record again is about all of its fields.
            if !tried.insert((failure.connection.clone(), failure.kind, failure.key.clone())) {
                continue;
            }
            match &daemon {
                Some(daemon) => {
                    let path = format!("/api/v1/failures/{}/retry", failure.id);
                    daemon.post(account, &path, &json!({})).await?;
                }
                None => {
                    let desk_account = super::account(&installation, Some(account))?;
                    installation.desk(desk_account, &[]).retry(&failure).await?;
                }
            }
            count += 1;
        }
    }
    anyhow::ensure!(count > 0 || which == "all", "there is no failure {which}");
    if global.json() {
        println!("{}", json!({ "retried": count }));
    } else {
        println!("{count} will be tried again.");
    }
    Ok(Exit::Done)
}

/// Lists what the mass-change guard holds.
///
/// # Errors
/// Configuration or database.
pub async fn guard_list(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut all = Vec::new();
    for connection in installation.connections.values() {
        all.extend(installation.store.guard_events(&connection.account.name, &connection.name).await?);
    }
    all.retain(|event| event.state == "held");
    if global.json() {
        println!("{}", json!({ "held": all }));
    } else if all.is_empty() {
        println!("Nothing is held.");
    } else {
        for event in &all {
            println!(
                "{} {}: {}\n  for instance {}",
                event.connection,
                event.class,
                event.message,
                event.sample.join(", ")
            );
        }
    }
    Ok(if all.is_empty() { Exit::Done } else { Exit::PeopleMustAct })
}

/// Decides about held writes of a connection.
///
/// # Errors
/// Configuration, database, or nothing held.
pub async fn guard_decide(global: &Global, connection: &Name, verdict: Verdict) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let connection = connection_of(&installation, connection)?;
    let count = match Daemon::of(&installation).await? {
        Some(daemon) => {
            let path = format!("/api/v1/connections/{}/guard", connection.name);
            let answer = daemon.post(&connection.account.name, &path, &json!({ "verdict": verdict })).await?;
            answer["records"].as_u64().unwrap_or(0)
        }
        None => installation.desk(&connection.account, &[]).decide_held(&connection.name, verdict).await?,
    };
    if global.json() {
        println!("{}", json!({ "records": count, "verdict": verdict }));
    } else {
        let what = match verdict {
            Verdict::Approve => "go on now",
            Verdict::Discard => "stay as they are on each side until either changes",
        };
        println!("{count} records {what}.");
    }
    Ok(Exit::Done)
}

/// Compares everything on both sides and prints the drift.
///
/// # Errors
/// Configuration, database, or the vendor.
pub async fn audit(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let _lock = installation.lock()?;
    let mut all = BTreeMap::new();
    for engine in installation.engines() {
        let mut running = engine.start().await?;
        let found = engine.audit(&mut running).await?;
        engine.release(&running).await?;
        all.insert(engine.connection().name.clone(), found);
    }
    let drift: u64 = all.values().flat_map(|kinds| kinds.values()).map(crate::sync::audit::Drift::total).sum();
    if global.json() {
        println!("{}", json!({ "drift": drift, "connections": all }));
    } else {
        for (connection, kinds) in &all {
            for (kind, found) in kinds {
                println!(
                    "{connection} {kind}: {} listed there, {} linked here; {} not taken in, {} different, {} not listed",
                    found.listed, found.linked, found.not_taken_in, found.different, found.not_listed
                );
                if !found.sample.is_empty() {
                    println!("  for instance {}", found.sample.join(", "));
                }
            }
        }
        println!(
            "{}",
            if drift == 0 {
                "No drift: both sides agree."
            } else {
                "Run `tandem sync --once`, or let `tandem serve` do it."
            }
        );
    }
    Ok(if drift == 0 { Exit::Done } else { Exit::Later })
}

/// Why a record is as it is: its links, holds and history.
///
/// # Errors
/// Configuration, database, or no such record.
pub async fn why(global: &Global, record: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    for id in named(&installation, record).await? {
        explain(global, &installation, id).await?;
    }
    Ok(Exit::Done)
}

/// The records that somebody names: by our id, or by a key as `failures list` prints it. Two vendors may call different
/// records the same.
async fn named(installation: &Installation, text: &str) -> anyhow::Result<Vec<RecordId>> {
    let key = text.parse::<RecordId>().map(Key::Local).or_else(|_| text.parse::<Key>());
    let key = key.context("name a record as `tandem export opportunities` or `tandem failures list` does")?;
    let id = match key {
        Key::Local(id) => return Ok(vec![id]),
        Key::External(id) => id,
    };
    let mut found = BTreeSet::new();
    for connection in installation.connections.values() {
        for kind in [Kind::Deal, Kind::Contact] {
            let by = By::External(std::slice::from_ref(&id));
            let links = installation.store.links(&connection.account.name, &connection.name, kind, by).await?;
            found.extend(links.into_iter().map(|link| link.local));
        }
    }
    anyhow::ensure!(
        !found.is_empty(),
        "no record here is {id} at a vendor: `tandem failures list` says what keeps it from being taken in"
    );
    Ok(found.into_iter().collect())
}

async fn explain(global: &Global, installation: &Installation, id: RecordId) -> anyhow::Result<()> {
    for name in installation.accounts.keys() {
        let account = account(installation, Some(name))?;
        for kind in [Kind::Deal, Kind::Contact] {
            if installation.store.records(name, kind, &[id]).await?.is_empty() {
                continue;
            }
            let history = installation.store.history(name, kind, id).await?;
            let links = installation.store.links_of(name, kind, &[id]).await?;
            if global.json() {
                println!("{}", json!({ "account": account.name, "kind": kind, "links": links, "history": history }));
                return Ok(());
            }
            println!("{kind} {id} of {name}");
            for link in &links {
                println!("  is {} at {} ({})", link.external, link.connection, link.state.as_str());
                for (row, hold) in &link.holds {
                    println!(
                        "    `{row}` is on hold ({:?}): here {}, there {}",
                        hold.kind,
                        values(&hold.local),
                        values(&hold.remote)
                    );
                }
            }
            for connection in installation.connections.values().filter(|c| c.account.name == *name) {
                let linked = installation.store.links(name, &connection.name, kind, By::Local(&[id])).await?;
                if linked.is_empty() {
                    println!(
                        "  is not at {}: see `tandem failures list`, or it waits for the next run",
                        connection.name
                    );
                }
            }
            for entry in &history {
                println!(
                    "  {} {}: {} became {} (by {})",
                    entry.at.to_rfc3339(),
                    entry.field,
                    entry.old,
                    entry.new,
                    entry.by
                );
            }
            return Ok(());
        }
    }
    anyhow::bail!("there is no record {id}")
}
