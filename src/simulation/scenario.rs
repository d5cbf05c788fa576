//! What a seed stands for: how the vendor's account behaves, what goes wrong, and what happens in which order.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value as Json;
use tandem_hubspot::sandbox::{Faults, Settings};

use super::gate::{Act, At};

/// One world and what happens in it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed of everything that is drawn on the way.
    pub seed: u64,
    /// How the vendor's account behaves.
    pub settings: Settings,
    /// What goes wrong, at every request and event.
    pub faults: Faults,
    /// No audit comes to the rescue: what polls and webhooks show must be enough, and soon.
    pub feeds_only: bool,
    /// Another account lives in the same store, and must not notice.
    pub has_neighbour: bool,
    /// What goes wrong once, from the very start on.
    pub trip: Option<(At, Act)>,
    /// What happens, in order.
    pub operations: Vec<Operation>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its place in the whole scenario, also when others were left out.
    pub number: u64,
    /// What.
    pub what: What,
    /// The pause after it.
    pub pause: Duration,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum What {
    /// A person edits something on either side.
    Edit,
    /// A person edits the same thing several times in a row.
    Revise,
    /// The engine is killed.
    Kill {
        /// Where.
        at: At,
        /// How long it stays away; webhooks are not answered then.
        down: Duration,
        /// Edits of people come in between until it dies.
        in_between: bool,
        /// It is killed again right after its start, at this point.
        again: Option<At>,
    },
    /// One call of the engine to its database fails.
    Hiccup(At),
    /// The account is in trouble until the pause is over.
    Trouble(Trouble),
}

/// What an administrator of the vendor's account, or the vendor, does to everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The token is revoked, and given back.
    TokenRevoked,
    /// The credentials lead to another account.
    OtherAccount,
    /// Deals may not be written.
    NoWriteScope,
    /// Deals may not be read.
    NoReadScope,
    /// The description of deals is removed, and restored.
    PropertyRemoved,
    /// A stage has another name.
    StageRenamed,
    /// The account moves to another data centre.
    Moving,
}

const TROUBLES: [Trouble; 7] = [
    Trouble::TokenRevoked,
    Trouble::OtherAccount,
    Trouble::NoWriteScope,
    Trouble::NoReadScope,
    Trouble::PropertyRemoved,
    Trouble::StageRenamed,
    Trouble::Moving,
];

/// Where a kill says most.
const POINTS: [&str; 8] = [
    "/deals/batch/update",
    "/deals/batch/create",
    "/deals/batch/read",
    "/deals/search",
    "stored intents",
    "commit outcomes",
    "stored cursor",
    "commit cursor",
];

impl Scenario {
    /// What this seed stands for.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed ^ 0x7a11_de3a);
        let feeds_only = rng.random_bool(0.4);
        let settings = Settings { portal_id: 10_000 + seed % 10_000, ..settings(rng, feeds_only) };
        let mut faults = faults(rng, feeds_only);
        if feeds_only && rng.random_bool(0.4) {
            // No webhook at all: the polls must do.
            faults.webhook_lost = 1.0;
        }
        let has_neighbour = rng.random_bool(0.06);
        let operations = (0..rng.random_range(10..60)).map(|number| operation(rng, number, feeds_only)).collect();
        Self { seed, settings, faults, feeds_only, has_neighbour, trip: None, operations }
    }

    /// A calm world in which people do everything they can do, and at one point something goes wrong.
    #[must_use]
    pub fn calm(seed: u64, trip: Option<(At, Act)>) -> Self {
        let edit = |number| Operation { number, what: What::Edit, pause: Duration::from_secs(20) };
        Self {
            seed,
            settings: Settings { page_rows: 2, portal_id: 10_000, ..Settings::default() },
            faults: Faults::default(),
            feeds_only: false,
            has_neighbour: false,
            trip,
            operations: (0..30).map(edit).collect(),
        }
    }

    /// The same with only these operations, and without these faults.
    #[must_use]
    pub fn narrowed(mut self, only: Option<&[u64]>, without: &[String]) -> Self {
        self.operations.retain(|operation| only.is_none_or(|only| only.contains(&operation.number)));
        self.faults = without.iter().fold(self.faults, |faults, name| calmed(&faults, name));
        self
    }

    /// The faults that can happen in it.
    #[must_use]
    pub fn storms(&self) -> Vec<String> {
        let all = serde_json::to_value(&self.faults).unwrap_or_default();
        let all = all.as_object().cloned().unwrap_or_default();
        all.into_iter().filter(|(_, value)| value.as_f64().is_some_and(|p| p > 0.0)).map(|(name, _)| name).collect()
    }
}

/// The same faults without one.
fn calmed(faults: &Faults, name: &str) -> Faults {
    let mut all = serde_json::to_value(faults).unwrap_or_default();
    all[name] = Json::from(0);
    serde_json::from_value(all).unwrap_or_else(|_| faults.clone())
}

fn settings(rng: &mut StdRng, feeds_only: bool) -> Settings {
    let longest_lag = if feeds_only { 30_000 } else { 600_000 };
    let longest_lag = *[3_000, 30_000, longest_lag].choose(rng).unwrap_or(&30_000);
    Settings {
        search_lag_ms: (200, rng.random_range(300..longest_lag)),
        omit_empty: rng.random_bool(0.3),
        normalise_numbers: rng.random_bool(0.3),
        trim_text: rng.random_bool(0.3),
        close_date_on_api_move: rng.random_bool(0.5),
        merge_makes_new: rng.random_bool(0.7),
        association_moves_time: rng.random_bool(0.3),
        webhook_retry_seconds: 600,
        recompute_seconds: if rng.random_bool(0.5) { 5 } else { 0 },
        retry_after: rng.random_bool(0.5),
        clock_ahead_ms: if rng.random_bool(0.3) { rng.random_range(-600_000..600_000) } else { 0 },
        date_header: rng.random_bool(0.9),
        page_rows: *[1, 2, 3, 200].choose(rng).unwrap_or(&200),
        ..Settings::default()
    }
}

/// Calm seeds and brutal ones.
fn faults(rng: &mut StdRng, feeds_only: bool) -> Faults {
    let level = *[0.0, 0.02, 0.1, 0.25].choose(rng).unwrap_or(&0.0);
    let latency_ms = *[2_000, 12_000, 60_000].choose(rng).unwrap_or(&12_000);
    let mut some = |most: f64| if rng.random_bool(0.6) { rng.random_range(0.0..=1.0) * level * most } else { 0.0 };
    Faults {
        slow: some(2.0),
        latency_ms,
        lost_request: some(0.5),
        lost_answer: some(0.7),
        late_commit: some(0.9),
        late_ms: 60_000,
        too_many: some(0.5),
        locked: some(0.5),
        unavailable_before: some(1.0),
        unavailable_after: some(1.0),
        row_fails: some(1.0),
        row_missing: some(1.0),
        row_dropped: some(0.7),
        edited_in_between: some(1.0),
        shuffle: some(2.0),
        truncated: some(0.5),
        unauthorized: some(0.1),
        moving_seconds: 0,
        webhook_lost: some(3.0),
        webhook_twice: some(2.0),
        webhook_late: some(2.0),
        webhook_delay_ms: if feeds_only { 300_000 } else { 3_600_000 },
        webhook_same_id: some(2.0),
        webhook_foreign: some(2.0),
        index_outage: if feeds_only { 0.0 } else { some(1.0) },
        index_outage_ms: 90_000,
        automation: some(0.5),
    }
}

fn operation(rng: &mut StdRng, number: u64, feeds_only: bool) -> Operation {
    let mut pause = *[0, 5, 100, 900, 5_000, 20_000, 40_000].choose(rng).unwrap_or(&0);
    let what = match rng.random_range(0..100) {
        0..=12 => kill(rng),
        13..=16 => What::Hiccup(place(rng)),
        // What only an audit finds is not asked of worlds without one.
        17..=19 if !feeds_only => {
            pause = rng.random_range(1_000..900_000);
            What::Trouble(*TROUBLES.choose(rng).unwrap_or(&Trouble::Moving))
        }
        20..=31 => What::Revise,
        _ => What::Edit,
    };
    Operation { number, what, pause: Duration::from_millis(pause) }
}

fn kill(rng: &mut StdRng) -> What {
    let down = *[0, 0, 0, 20, 400, 1_500].choose(rng).unwrap_or(&0);
    let again = match rng.random_range(0..10) {
        0..=2 => Some(place(rng)),
        // Back after a while, it reads what it missed: a cursor that moves too early loses it for an hour.
        3..=7 if down > 60 => Some(At::Point("stored cursor".into(), rng.random_range(0..8))),
        _ => None,
    };
    What::Kill { at: place(rng), down: Duration::from_secs(down), in_between: rng.random_bool(0.3), again }
}

fn place(rng: &mut StdRng) -> At {
    match rng.random_range(0..3) {
        0 => At::Step(rng.random_range(0..25)),
        1 => At::Commit(rng.random_range(0..8)),
        _ => At::Point((*POINTS.choose(rng).unwrap_or(&"stored cursor")).to_owned(), rng.random_range(0..3)),
    }
}
