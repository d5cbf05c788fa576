//! Upkeep: doctor, migrate, keys, tokens, the API's description, the simulation.

use serde_json::json;

use super::{Exit, Global, account};
use crate::{
    config::Text,
    model::{Name, digest},
    store::{SyncStore, seal::Sealer},
};

/// Looks at everything an operator can get wrong.
///
/// # Errors
/// A configuration or database that cannot be opened at all.
pub async fn doctor(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let mut items = vec![("configuration".to_owned(), true, format!("{} parses", global.config.display()))];
    items.push((
        "database".into(),
        installation.store.is_ready().await,
        "answers, and its tables are up to date".into(),
    ));
    for connection in installation.connections.values() {
        match connection.connector.check().await {
            Ok(identity) => {
                items.extend(
                    identity
                        .items
                        .into_iter()
                        .map(|item| (format!("{} {}", connection.name, item.name), item.ok, item.detail)),
                );
            }
            Err(error) => items.push((format!("{} connection", connection.name), false, error.to_string())),
        }
        let failures = installation.store.failures(&connection.account.name, 10_000).await?;
        let count = failures.iter().filter(|failure| failure.connection == connection.name).count();
        items.push((
            format!("{} failures", connection.name),
            count == 0,
            format!("{count} records or fields wait for a person"),
        ));
    }
    let ok = items.iter().all(|(_, ok, _)| *ok);
    if global.json() {
        let items: Vec<_> =
            items.iter().map(|(name, ok, detail)| json!({ "name": name, "ok": ok, "detail": detail })).collect();
        println!("{}", json!({ "ok": ok, "items": items }));
    } else {
        for (name, ok, detail) in &items {
            println!("{} {name}: {detail}", if *ok { "ok  " } else { "LOOK" });
        }
    }
    Ok(if ok { Exit::Done } else { Exit::PeopleMustAct })
}

/// Brings the tables up to date.
///
/// # Errors
/// Configuration or database.
pub async fn migrate(global: &Global) -> anyhow::Result<Exit> {
    global.open().await?;
    println!("The tables are up to date.");
    Ok(Exit::Done)
}

/// Prints a new master key.
#[must_use]
pub fn new_key() -> Exit {
    println!("{}", Sealer::new_key().expose());
    Exit::Done
}

/// Seals everything in the database with a new master key, and says what to do with it.
///
/// # Errors
/// Configuration, database, a bad key, or a daemon that is running.
pub async fn rotate_key(global: &Global, reference: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let _lock = installation.lock()?;
    let key = Text::literal(reference).secret("--to", &installation.config.folder)?;
    let count = installation.store.rotate(&Sealer::new(&key)?, installation.clock.now()).await?;
    if global.json() {
        println!("{}", json!({ "sealed_again": count }));
    } else {
        println!(
            "{count} secrets are sealed with the new key, and only it opens them from now on: put it into security.master_key before the next start."
        );
    }
    Ok(Exit::Done)
}

/// Makes an API token and prints it once; only its digest is kept.
///
/// # Errors
/// Configuration or database.
pub async fn create_token(global: &Global, named: Option<&Name>, name: &str) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let account = account(&installation, named)?;
    let key = Sealer::new_key();
    let token = format!("tandem_{}", key.expose().replace(['+', '/', '='], ""));
    installation.store.add_token(&account.name, name, &digest(token.as_bytes()), installation.clock.now()).await?;
    if global.json() {
        println!("{}", json!({ "account": account.name, "name": name, "token": token }));
    } else {
        println!("{token}");
        eprintln!("This is shown once. It reaches the account {}.", account.name);
    }
    Ok(Exit::Done)
}

/// Prints the API's description.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn openapi() -> anyhow::Result<Exit> {
    println!("{}", crate::api::description().to_pretty_json()?);
    Ok(Exit::Done)
}

/// `tandem simulate`: runs seeds of the simulation; a seed that fails is made small and told with the command that
/// repeats it. With `only` and `without`, parts of one seed.
#[must_use]
pub fn simulate(first: u64, seeds: u64, only: Option<&[u64]>, without: &[String]) -> Exit {
    use crate::simulation::{self, Coverage, Scenario, coverage};
    let scenario = |seed| Scenario::of(seed).narrowed(only, without);
    let (mut steps, mut kills, mut bad, mut all) = (0, 0, Vec::new(), Coverage::default());
    let began = std::time::Instant::now();
    simulation::search(
        first..first.saturating_add(seeds),
        |seed| simulation::run(&scenario(seed)),
        |outcome| {
            steps += outcome.steps;
            kills += outcome.kills;
            if !outcome.violations.is_empty() {
                println!("seed {} (trace {}): {}", outcome.seed, outcome.trace, outcome.violations.join("\n    "));
                if seeds == 1 {
                    println!("    {}", outcome.story.join("\n    "));
                }
                bad.push((outcome.seed, outcome.violations));
            }
            coverage::add(&mut all, outcome.coverage);
            true
        },
    );
    let rate = steps as f64 / began.elapsed().as_secs_f64();
    for (seed, violations) in bad.iter().take(SHRUNK) {
        // The same kind of violation, so that one defect is not made small into another.
        let kind = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
        let kinds: Vec<String> = violations.iter().map(|one| kind(one)).filter(|one| !one.starts_with('(')).collect();
        let shrunk = simulation::shrink(&scenario(*seed), |smaller| {
            simulation::run(smaller).violations.iter().any(|one| kinds.contains(&kind(one)))
        });
        println!("seed {seed} made small in {} runs: {}", shrunk.runs, shrunk.command());
        for line in simulation::run(&shrunk.scenario).story {
            println!("    {line}");
        }
        println!("    with {}", shrunk.scenario.storms().join(", "));
    }
    println!("{}", coverage::table(&all));
    println!("{seeds} seeds, {steps} steps, {kills} kills, {rate:.0} steps/s, {} seeds that fail", bad.len());
    if bad.is_empty() { Exit::Done } else { Exit::PeopleMustAct }
}

/// `tandem simulate --companies`: companies of one to four systems; what people did in one that fails is told.
#[must_use]
pub fn simulate_companies(first: u64, seeds: u64) -> Exit {
    use crate::simulation;
    let (mut steps, mut kills, mut bad) = (0, 0, 0_u64);
    let began = std::time::Instant::now();
    simulation::search(first..first.saturating_add(seeds), simulation::run_company, |outcome| {
        steps += outcome.steps;
        kills += outcome.kills;
        if !outcome.violations.is_empty() {
            bad += 1;
            println!("company {} (trace {}): {}", outcome.seed, outcome.trace, outcome.violations.join("\n    "));
            println!("    {}", outcome.story.join("\n    "));
        }
        true
    });
    let rate = steps as f64 / began.elapsed().as_secs_f64();
    println!("{seeds} companies, {steps} steps, {kills} kills, {rate:.0} steps/s, {bad} that fail");
    if bad == 0 { Exit::Done } else { Exit::PeopleMustAct }
}

/// How many failing seeds are made small; the rest are told as they are.
const SHRUNK: usize = 3;
