//! `tandem plan` and `tandem apply`: every write on every side, per field, first looked at, then done.

use std::path::Path;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Exit, Global};
use crate::{installation::Installation, sync::preview::PlannedWrite};

/// A plan, as it is written to a file.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    format: u32,
    plan: String,
    created_at: DateTime<Utc>,
    writes: Vec<PlannedWrite>,
}

async fn look(installation: &Installation) -> anyhow::Result<Vec<PlannedWrite>> {
    let mut writes = Vec::new();
    for engine in installation.engines() {
        let running = engine.start().await?;
        writes.extend(engine.preview(&running).await?);
        engine.release(&running).await?;
    }
    Ok(writes)
}

/// Prints, or writes to a file, every write that would be made now. Nothing is written and no cursor moves.
///
/// # Errors
/// Configuration, database, or the vendor.
pub async fn plan(global: &Global, out: Option<&Path>) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let _lock = installation.lock()?;
    let plan = Plan {
        format: 1,
        plan: installation.run.to_string(),
        created_at: installation.clock.now(),
        writes: look(&installation).await?,
    };
    if let Some(path) = out {
        std::fs::write(path, serde_json::to_vec_pretty(&plan)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if global.json() {
        println!("{}", serde_json::to_string(&plan)?);
        return Ok(Exit::Done);
    }
    for write in &plan.writes {
        let id = write.external_id.as_deref().or(write.local_id.as_deref()).unwrap_or("(new)");
        println!("{} {} {} {id} ({})", write.op, write.side, write.kind, write.connection);
        for field in &write.fields {
            println!("    {}: {} -> {}  because {}", field.name, field.from, field.to, field.why);
        }
    }
    println!(
        "{} writes. {}",
        plan.writes.len(),
        out.map_or("Keep them with --out FILE.".to_owned(), |path| format!(
            "To make exactly these: tandem apply {}",
            path.display()
        ))
    );
    Ok(Exit::Done)
}

/// Makes the writes of a plan, after checking that each would still be the same.
///
/// # Errors
/// Configuration, database, the vendor, or a file that is no plan.
pub async fn apply(global: &Global, path: &Path) -> anyhow::Result<Exit> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a plan of `tandem plan --out`", path.display()))?;
    anyhow::ensure!(plan.format == 1, "the plan is of format {}, this program reads format 1", plan.format);
    let installation = global.open().await?;
    let lock = installation.lock()?;
    let now = look(&installation).await?;
    if now != plan.writes {
        eprintln!(
            "The plan is stale: {} writes were planned, {} would be made now. Nothing was written; make a new plan.",
            plan.writes.len(),
            now.len()
        );
        return Ok(Exit::Stale);
    }
    super::sync::run(global, &installation, &lock).await
}
