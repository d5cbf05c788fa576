//! The company's budgets, and counters that tests read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tandem_sandbox::Struck;

use super::world::{Refusal, World};

/// The burst window. Source: "Rate limiting".
const WINDOW: Duration = Duration::from_secs(2);

/// What was asked of the company since the start, or since the counters were cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests answered or swallowed.
    pub requests: u64,
    /// Requests by route, such as `GET v2/deals`.
    pub by_route: BTreeMap<String, u64>,
    /// Tokens taken from the day's budget.
    pub tokens: u64,
    /// Requests refused because the caller was too fast or the day was spent, faults not counted.
    pub too_many: u64,
    /// Records created through the API.
    pub created: u64,
    /// Records updated through the API.
    pub updated: u64,
    /// Records deleted through the API.
    pub deleted: u64,
    /// Webhook events delivered.
    pub webhook_events: u64,
    /// Faults that happened, and where: by fault, then by route.
    pub faults: Struck,
}

#[derive(Clone, Default)]
pub struct Windows {
    calls: VecDeque<Duration>,
    /// Whether the last caller was an app with a grant.
    of_app: bool,
    day: chrono::NaiveDate,
    tokens: u64,
}

/// Tokens of a call. Source: `x-token-cost` of the published descriptions.
pub fn cost(method: &str, version: &str, segments: &[&str]) -> u64 {
    match (version, method, segments) {
        ("oauth", ..) => 0,
        ("v2", "GET", ["deals", "archived"] | ["deals" | "persons", "search"]) => 20,
        ("v2", "GET", ["pipelines" | "stages"]) => 5,
        ("v2", "GET", [_]) => 10,
        ("v2", "GET", _) => 1,
        ("v2", "DELETE", _) => 3,
        ("v2", ..) => 5,
        (_, "GET", ["users", _] | ["userSettings"]) => 2,
        (_, "GET", ["webhooks"]) => 10,
        (_, "GET", _) => 20,
        (_, "PUT", [.., "merge"]) => 40,
        (_, "DELETE", _) => 6,
        _ => 10,
    }
}

impl World {
    /// Whether a fault of this probability happens here; counted if it does.
    pub(super) fn struck(&mut self, fault: &'static str, probability: f64, place: &str) -> bool {
        tandem_sandbox::struck(&mut self.rng, &mut self.stats.faults, fault, probability, place)
    }

    /// Notes whether an app with a grant is calling, or a user's token: their windows differ.
    pub(super) fn called_by(&mut self, app: bool) {
        self.windows.of_app = app;
    }

    /// Calls in two seconds of who is calling.
    fn burst(&self) -> u32 {
        if self.windows.of_app { self.settings.app_burst } else { self.settings.burst }
    }

    /// Takes a call from the budgets; refuses as Pipedrive does when one is empty.
    pub(super) fn admit(&mut self, cost: u64) -> Result<(), Refusal> {
        let now = self.elapsed;
        let today = self.now.date_naive();
        if self.windows.day != today {
            (self.windows.day, self.windows.tokens) = (today, 0);
        }
        while self.windows.calls.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            self.windows.calls.pop_front();
        }
        if self.windows.calls.len() >= self.burst() as usize {
            self.stats.too_many += 1;
            return Err(too_many());
        }
        self.windows.calls.push_back(now);
        if self.windows.tokens + cost > self.settings.daily_tokens {
            self.stats.too_many += 1;
            return Err(too_many());
        }
        self.windows.tokens += cost;
        self.stats.tokens += cost;
        Ok(())
    }

    /// Gives a refused call's tokens back, where those are not charged.
    pub(super) fn refund(&mut self, cost: u64) {
        self.windows.tokens = self.windows.tokens.saturating_sub(cost);
        self.stats.tokens = self.stats.tokens.saturating_sub(cost);
    }

    /// What the headers of the burst window say.
    pub(super) fn limit_headers(&self) -> Vec<(&'static str, String)> {
        if !self.settings.limit_headers {
            return Vec::new();
        }
        let used = u32::try_from(self.windows.calls.len()).unwrap_or(u32::MAX);
        let first = self.windows.calls.front().copied().unwrap_or(self.elapsed);
        let reset = WINDOW.saturating_sub(self.elapsed.saturating_sub(first)).as_secs_f64().ceil();
        vec![
            ("x-ratelimit-limit", self.burst().to_string()),
            ("x-ratelimit-remaining", self.burst().saturating_sub(used).to_string()),
            ("x-ratelimit-reset", format!("{reset:.0}")),
        ]
    }
}

pub fn too_many() -> Refusal {
    let body = json!({ "success": false, "error": "request over limit", "data": null, "additional_data": null });
    Refusal { status: 429, body }
}
