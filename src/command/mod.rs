//! The commands: what each does, what it prints, how it ends.

pub mod appointment;
pub mod checkout;
pub mod connection;
mod daemon;
pub mod demo;
pub mod desk;
pub mod export;
pub mod plan;
pub mod sales;
pub mod sandbox;
pub mod serve;
pub mod sync;
pub mod upkeep;

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;

use crate::{
    config::Config,
    installation::Installation,
    model::{Account, Name, RecordId},
    sync::connection::Connection,
};

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done and converged.
    Done = 0,
    /// Stopped: people must act.
    PeopleMustAct = 3,
    /// Stopped: the vendor is not available, or only timed work remains.
    Later = 4,
    /// The plan is stale; nothing was applied.
    Stale = 5,
}

/// What every command takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// The configuration file.
    #[arg(long, global = true, default_value = "tandem.toml")]
    pub config: PathBuf,
    /// How to print.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object.
    Json,
    /// Exports: one JSON object a line.
    Jsonl,
    /// Exports: a table.
    Csv,
}

impl Global {
    /// Opens the installation the configuration describes.
    ///
    /// # Errors
    /// What is wrong and who must act.
    pub async fn open(&self) -> anyhow::Result<Arc<Installation>> {
        let config = Config::load(&self.config).with_context(|| format!("reading {}", self.config.display()))?;
        Ok(Arc::new(Installation::open(config).await?))
    }

    /// True if programs read the output.
    #[must_use]
    pub fn json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }
}

/// The account named, or the only one.
///
/// # Errors
/// If it is not named and there are several, or it is not there.
pub fn account<'a>(installation: &'a Installation, named: Option<&Name>) -> anyhow::Result<&'a Account> {
    match named {
        Some(name) => installation
            .accounts
            .get(name)
            .with_context(|| format!("there is no [accounts.{name}] in the configuration")),
        None if installation.accounts.len() == 1 => installation.accounts.values().next().context("no account"),
        None => {
            anyhow::bail!("the configuration has {} accounts: name one with --account", installation.accounts.len())
        }
    }
}

/// The connection of this name.
fn connection_of<'a>(installation: &'a Installation, name: &Name) -> anyhow::Result<&'a Arc<Connection>> {
    installation.connections.get(name).with_context(|| format!("there is no connection {name}"))
}

/// An opportunity as people name it.
fn opportunity_id(text: &str) -> anyhow::Result<RecordId> {
    text.parse().context("that is not the id of an opportunity")
}
