//! The first import from Pipedrive and from Square, beside the fewest calls that it can take and a raw write of the same rows.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use tandem::{command::sandbox::serve, config::Config, installation::Installation, store::seal::Sealer};
use tandem_contract::Kind;
use tandem_pipedrive::sandbox as pipedrive;
use tandem_square::sandbox as square;

use crate::{
    raw,
    table::{Figure, Row, Rows},
};

/// Customers of the seller.
const RECORDS: usize = 20_000;
/// Persons of the company, and deals.
const PERSONS: usize = 100_000;
/// Records of one commit of the raw loop.
const COMMIT: usize = 100;
const NO_LIMIT: u32 = 1_000_000;

/// Both imports.
pub async fn rows() -> Rows {
    let settings = pipedrive::Settings { burst: NO_LIMIT, daily_tokens: 10_000_000, ..pipedrive::Settings::default() };
    let fill = |world: &mut pipedrive::World| world.fill(pipedrive::Company { persons: PERSONS, deals: PERSONS });
    let (company, base) = serve(settings, 1, 0, fill).await?;
    let token = company.with(|world| world.settings.api_tokens.first().cloned().unwrap_or_default());
    company.with(|world| world.clear_stats());
    let mut rows = import(
        "Pipedrive",
        &format!("connector = \"pipedrive\"\nbase_url = \"{base}\"\ncredentials = {{ api_token = \"{token}\" }}\ndaily_budget = 10000000"),
        2 * PERSONS,
    )
    .await?;
    let calls = company.with(|world| world.stats.requests);
    let there = company.with(|world| world.ids(Kind::Deal).len());
    let bound = 2 * PERSONS.div_ceil(500);
    anyhow::ensure!(there == PERSONS, "{there} deals are there");
    rows.push(of_calls("Pipedrive", calls, bound, "bound: N/500 a kind"));
    let settings = square::Settings { calls_per_second: NO_LIMIT, customer_lag_ms: 0, ..square::Settings::default() };
    let fill = |world: &mut square::World| world.fill(square::Shop { customers: RECORDS, sales: 0 });
    let (seller, base) = serve(settings, 1, 0, fill).await?;
    let token = seller.with(|world| world.settings.access_tokens.first().cloned().unwrap_or_default());
    seller.with(|world| world.clear_stats());
    rows.extend(
        import(
            "Square",
            &format!("connector = \"square\"\nbase_url = \"{base}\"\ncredentials = {{ access_token = \"{token}\" }}"),
            RECORDS,
        )
        .await?,
    );
    let calls = seller.with(|world| world.stats.requests);
    rows.push(of_calls("Square", calls, RECORDS.div_ceil(100), "bound: N/100"));
    Ok(rows)
}

fn of_calls(vendor: &str, calls: u64, bound: usize, what: &str) -> Row {
    let figure = format!("backfill from {vendor}: calls, those of the start included");
    Row::new(&figure, Figure(calls as f64, "calls"), what, Figure(bound as f64, "calls"))
}

async fn import(vendor: &str, connection: &str, records: usize) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let text = format!(
        r#"
[database]
url = "sqlite://tandem.db"
[security]
master_key = "{key}"
[accounts.glow_clinic]
currency = "USD"
[connections.vendor]
account = "glow_clinic"
rate_limit = {{ requests = 1000000, per_seconds = 1 }}
direction = "in"
{connection}
"#,
        key = Sealer::new_key().expose(),
    );
    let installation = Arc::new(Installation::open(Config::parse(&text, folder.path().to_owned())?).await?);
    let engine = installation.engines().pop().context("the installation has no engine")?;
    let began = Instant::now();
    let summary = engine.once().await?;
    let took = began.elapsed();
    anyhow::ensure!(
        summary.pulled.created == records as u64,
        "{vendor}: {} of {records} were taken in",
        summary.pulled.created
    );
    let written =
        raw::same_rows(&folder.path().join("tandem.db"), &folder.path().join("raw.db"), COMMIT).await?.iter().sum();
    let what = format!("backfill of {records} records from {vendor} ({:.1} s)", took.as_secs_f64());
    let rate = |took| Figure::rate(records, took, "records/s");
    Ok(vec![Row::new(&what, rate(took), "a raw loop that writes the same rows", rate(written))])
}
