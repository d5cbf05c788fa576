//! `tandem export opportunities`: every opportunity, in order of id.

use std::io::{BufWriter, Write};

use super::{Exit, Format, Global, account};
use crate::{
    api::{OpportunityView, opportunity_views},
    model::Name,
};

/// Records a page.
const PAGE: u32 = 500;

/// Writes every opportunity of an account, or of all: JSON lines, or a table with `--format csv`.
///
/// # Errors
/// Configuration, database, or a broken pipe.
pub async fn opportunities(global: &Global, named: Option<&Name>) -> anyhow::Result<Exit> {
    let installation = global.open().await?;
    let accounts: Vec<_> = match named {
        Some(_) => vec![account(&installation, named)?],
        None => installation.accounts.values().collect(),
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut table = (global.format == Format::Csv).then(|| csv::Writer::from_writer(Vec::new()));
    if let Some(table) = &mut table {
        table.write_record([
            "id",
            "account",
            "name",
            "status",
            "pipeline",
            "stage",
            "value_minor",
            "currency",
            "contact_id",
            "owner",
            "expected_close_on",
            "closed_at",
            "lost_reason",
            "external_ids",
            "sync_state",
            "updated_at",
            "type",
            "value_source",
        ])?;
    }
    for account in accounts {
        let mut after = None;
        loop {
            let deals = installation.store.opportunities(&account.name, after, PAGE).await?;
            let Some(last) = deals.last() else { break };
            after = Some(last.id);
            for view in opportunity_views(&installation.store, &account.name, &deals).await? {
                match &mut table {
                    None => {
                        serde_json::to_writer(&mut out, &view)?;
                        out.write_all(b"\n")?;
                    }
                    Some(table) => write_row(table, &view)?,
                }
            }
            if let Some(table) = &mut table {
                table.flush()?;
                out.write_all(table.get_ref())?;
                *table = csv::Writer::from_writer(Vec::new());
            }
        }
    }
    if let Some(table) = table {
        out.write_all(&table.into_inner()?)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn write_row(table: &mut csv::Writer<Vec<u8>>, view: &OpportunityView) -> anyhow::Result<()> {
    let flat = serde_json::to_value(view)?;
    let text = |pointer: &str| match flat.pointer(pointer) {
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let external = flat["external_ids"].as_array().into_iter().flatten();
    let external: Vec<String> = external
        .map(|id| format!("{}:{}", id["connection"].as_str().unwrap_or(""), id["id"].as_str().unwrap_or("")))
        .collect();
    let mut row: Vec<String> = [
        "/id",
        "/account",
        "/name",
        "/status",
        "/pipeline",
        "/stage",
        "/value/minor",
        "/value/currency",
        "/contact_id",
        "/owner",
        "/expected_close_on",
        "/closed_at",
        "/lost_reason",
    ]
    .into_iter()
    .map(text)
    .collect();
    row.push(external.join(" "));
    row.extend(["/sync_state", "/updated_at", "/type", "/value_source"].map(text));
    table.write_record(row)?;
    Ok(())
}
