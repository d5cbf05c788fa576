//! Steps of the simulation: how much of a fault hunt fits into a second.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::{Context, anyhow, ensure};
use chrono::DateTime;
use tandem::simulation::run_seed;
use tandem_contract::{Clock, Kind, RouterTransport, TokioClock};
use tandem_hubspot::{
    ApiVersion,
    sandbox::{Change, Sandbox},
};

use crate::{
    table::{Figure, Row, Rows},
    vendor::{get, settings},
};

/// The last seed.
const SEEDS: u64 = 30;
/// Bare calls.
const CALLS: usize = 20_000;

/// Runs seeds one after another, on one core.
pub fn rows() -> Rows {
    let (began, mut steps) = (Instant::now(), 0);
    for seed in 1..=SEEDS {
        let outcome = run_seed(seed);
        ensure!(outcome.violations.is_empty(), "seed {seed}: {}", outcome.violations.join("; "));
        steps += usize::try_from(outcome.steps)?;
    }
    let simulated = Figure::rate(steps, began.elapsed(), "steps/s");
    let what = format!("simulation, seeds 1 to {SEEDS}, one core");
    Ok(vec![Row::new(what, simulated, "bare calls of the sandbox in process, two steps each", bare_calls()?)])
}

/// What passes between two steps at the least: a call of the sandbox, under the same virtual time.
fn bare_calls() -> anyhow::Result<Figure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(async {
        let settings = settings();
        let token = settings.access_tokens[0].clone();
        let start = DateTime::from_timestamp(1_795_300_000, 0).context("a moment")?;
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(start));
        let sandbox = Sandbox::new(settings, 1, clock);
        let properties = [("dealname", "laser"), ("dealstage", "qualifiedtobuy")];
        let properties = BTreeMap::from(properties.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let deal = sandbox
            .with(|world| world.create(Kind::Deal, &properties, Change::Person))
            .map_err(|refusal| anyhow!("the sandbox refuses a deal: {}", refusal.body))?;
        let transport = RouterTransport::new(sandbox.router());
        let path = format!("{}/{deal}?associations=contacts", ApiVersion::default().objects(Kind::Deal));
        let began = Instant::now();
        for _ in 0..CALLS {
            get(&transport, "http://hubspot.example.com", &token, &path).await?;
        }
        anyhow::Ok(Figure::rate(2 * CALLS, began.elapsed(), "steps/s"))
    })
}
