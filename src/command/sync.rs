//! `tandem sync --once`: everything that can be done now, and a summary.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tandem_contract::Stream;

use super::{Exit, Global};
use crate::{
    installation::{EngineLock, Installation},
    store::SyncStore,
    sync::{
        engine::{Engine, EngineError},
        intake::Progress,
        summary::Summary,
    },
};

/// Runs every connection until nothing can be done now.
///
/// # Errors
/// Configuration, database, or an internal error.
pub async fn once(global: &Global) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let lock = installation.lock()?;
    run(global, &installation, &lock).await
}

/// The same, by the holder of the lock.
///
/// # Errors
/// Configuration, database, or an internal error.
pub async fn run(global: &Global, installation: &Installation, _: &EngineLock) -> anyhow::Result<Exit> {
    let mut summaries = Vec::new();
    let mut exit = Exit::Done;
    let bars = Bars::new();
    for mut engine in installation.engines() {
        engine.progress = Some(bars.clone().listener());
        let summary = match engine.once().await {
            Ok(mut summary) => {
                attention(installation, &engine, &mut summary).await?;
                let row = installation.store.connection(&engine.connection().account.name, &summary.connection).await?;
                if let Some(reason) = row.and_then(|row| row.reason) {
                    eprintln!("{}: {reason}", summary.connection);
                }
                exit = worse(exit, verdict(&summary));
                summary
            }
            Err(EngineError::Store(error)) => return Err(error.into()),
            Err(error) => {
                eprintln!("{}: {error}", engine.connection().name);
                exit = worse(
                    exit,
                    if matches!(error, EngineError::Paused(_)) { Exit::PeopleMustAct } else { Exit::Later },
                );
                let mut summary = Summary::new(engine.connection().name.clone());
                summary.state = if matches!(error, EngineError::Paused(_)) { "paused" } else { "unavailable" }.into();
                summary
            }
        };
        summaries.push(summary);
    }
    bars.finish();
    if global.json() {
        println!(
            "{}",
            json!({ "run": installation.run.to_string(), "converged": exit == Exit::Done, "connections": summaries })
        );
    } else {
        summaries.iter().for_each(print);
        let words = match exit {
            Exit::Done => "All sides agree.",
            Exit::PeopleMustAct => {
                "Some records wait for you: `tandem failures list`, `tandem conflicts list`, `tandem guard list`."
            }
            Exit::Later | Exit::Stale => {
                "Some work is due later; run it again in a while, or let `tandem serve` do it."
            }
        };
        println!("{words}");
    }
    Ok(exit)
}

/// What waits, counted where it is kept: also what earlier runs left.
async fn attention(installation: &Installation, engine: &Engine, summary: &mut Summary) -> anyhow::Result<()> {
    let connection = engine.connection();
    let (store, account, name) = (&installation.store, &connection.account.name, &connection.name);
    let failures = store.failures(account, 100_000).await?;
    let waits = |code: &str| code == "second_opportunity";
    summary.failed = failures.iter().filter(|one| one.connection == *name && !waits(&one.code)).count() as u64;
    summary.quarantined = store.quarantined(account, false, 100_000).await?.len() as u64;
    summary.held = store
        .guard_events(account, name)
        .await?
        .iter()
        .filter(|event| event.state == "held")
        .map(|event| event.count)
        .sum();
    summary.waiting = store.left_undone(account, name).await?;
    let open =
        store.conflicts(account, true, 100_000).await?.iter().filter(|conflict| conflict.connection == *name).count();
    if open > 0 && summary.state == "active" {
        summary.state = "asking".into();
    }
    Ok(())
}

fn verdict(summary: &Summary) -> Exit {
    if summary.failed > 0
        || summary.held > 0
        || summary.quarantined > 0
        || ["asking", "forbidden"].contains(&summary.state.as_str())
    {
        Exit::PeopleMustAct
    } else if summary.waiting > 0 || summary.state == "unavailable" {
        Exit::Later
    } else {
        Exit::Done
    }
}

fn worse(a: Exit, b: Exit) -> Exit {
    match (a, b) {
        (Exit::PeopleMustAct, _) | (_, Exit::PeopleMustAct) => Exit::PeopleMustAct,
        (Exit::Later, _) | (_, Exit::Later) => Exit::Later,
        _ => Exit::Done,
    }
}

fn print(summary: &Summary) {
    let Summary { pulled, pushed, .. } = summary;
    println!(
        "{} ({}): took in {} new, {} changed, {} gone; wrote {} new, {} changed, {} archived; {} conflicts, {} failed, {} held, {} quarantined, {} waiting; {} calls in {:.1} s",
        summary.connection,
        summary.state,
        pulled.created,
        pulled.updated,
        pulled.deleted,
        pushed.created,
        pushed.updated,
        pushed.deleted,
        summary.conflicts,
        summary.failed,
        summary.held,
        summary.quarantined,
        summary.waiting,
        summary.calls,
        summary.seconds
    );
}

/// One bar per stream on a terminal, none in a pipe.
#[derive(Clone)]
pub struct Bars(Option<Arc<Mutex<BTreeMap<String, ProgressBar>>>>);

impl Bars {
    /// Bars, if standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(Arc::default))
    }

    /// What an engine tells its progress to.
    #[must_use]
    pub fn listener(self) -> Arc<dyn Fn(&Stream, Progress) + Send + Sync> {
        Arc::new(move |stream, progress| {
            let Some(bars) = &self.0 else { return };
            if !progress.whole {
                return;
            }
            let mut bars = bars.lock().unwrap_or_else(PoisonError::into_inner);
            let bar = bars.entry(stream.name.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("{prefix:>16} {spinner} {pos} records, {per_sec}, {elapsed}");
                let bar = ProgressBar::no_length().with_prefix(stream.kind.to_string());
                bar.enable_steady_tick(Duration::from_millis(120));
                match style {
                    Ok(style) => bar.with_style(style),
                    Err(_) => bar,
                }
            });
            bar.inc(progress.records as u64);
            if !progress.more {
                bar.finish();
            }
        })
    }

    /// Leaves them as they are.
    pub fn finish(&self) {
        if let Some(bars) = &self.0 {
            bars.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(ProgressBar::finish);
        }
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}
