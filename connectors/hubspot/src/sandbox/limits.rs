//! The account's budgets, and counters that tests read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::Serialize;
use serde_json::json;
use tandem_sandbox::Struck;

use super::world::{CORRELATION, Refusal, World};

/// What was asked of the account since the start, or since the counters were cleared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Requests answered or swallowed.
    pub requests: u64,
    /// Requests by route, such as `POST objects/deals/batch/read`.
    pub by_route: BTreeMap<String, u64>,
    /// Requests refused because the caller was too fast, faults not counted.
    pub too_many: u64,
    /// Records created through the API.
    pub created: u64,
    /// Records updated through the API.
    pub updated: u64,
    /// Records archived through the API.
    pub archived: u64,
    /// Webhook events delivered.
    pub webhook_events: u64,
    /// Faults that happened, and where: by fault, then by route.
    pub faults: Struck,
    /// What people wrote right before an update of the same property, and automations right after one.
    pub in_between: Vec<InBetween>,
}

/// An edit that came right before an update of the same property, or right after one.
#[derive(Clone, Debug, Serialize)]
pub struct InBetween {
    /// Of which record.
    pub id: u64,
    /// Of which property.
    pub property: String,
    /// What was written.
    pub text: String,
    /// What that replaced, knowingly.
    pub before: String,
}

#[derive(Clone, Default)]
pub struct Windows {
    general: VecDeque<Duration>,
    search: VecDeque<Duration>,
    associations: VecDeque<Duration>,
    day: chrono::NaiveDate,
    used: u64,
}

/// Which budget a route takes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    General,
    Search,
    Association,
}

fn admit(window: &mut VecDeque<Duration>, now: Duration, limit: u32, per: Duration) -> bool {
    while window.front().is_some_and(|at| now.saturating_sub(*at) >= per) {
        window.pop_front();
    }
    if window.len() >= limit as usize {
        return false;
    }
    window.push_back(now);
    true
}

impl World {
    /// Whether a fault of this probability happens here; counted if it does.
    pub(super) fn struck(&mut self, fault: &'static str, probability: f64, place: &str) -> bool {
        tandem_sandbox::struck(&mut self.rng, &mut self.stats.faults, fault, probability, place)
    }

    /// Takes a call from the budgets; refuses with HubSpot's body when one is empty.
    pub(super) fn admit(&mut self, class: Class) -> Result<(), Refusal> {
        let now = self.elapsed;
        // Days begin at midnight in the account's own zone. Source: "Usage guidelines".
        let zone: chrono_tz::Tz = self.settings.timezone.parse().unwrap_or(chrono_tz::UTC);
        let today = self.now.with_timezone(&zone).date_naive();
        if self.windows.day != today {
            (self.windows.day, self.windows.used) = (today, 0);
        }
        if self.windows.used >= self.settings.daily {
            self.stats.too_many += 1;
            return Err(too_many("DAILY", "daily"));
        }
        let (admitted, policy, word) = match class {
            Class::General => (
                admit(&mut self.windows.general, now, self.settings.burst, Duration::from_secs(10)),
                "TEN_SECONDLY_ROLLING",
                "ten_secondly_rolling",
            ),
            Class::Search => (
                admit(&mut self.windows.search, now, self.settings.search_per_second, Duration::from_secs(1)),
                "SECONDLY",
                "secondly",
            ),
            Class::Association => (
                admit(&mut self.windows.associations, now, self.settings.association_burst, Duration::from_secs(10)),
                "TEN_SECONDLY_ROLLING",
                "ten_secondly_rolling",
            ),
        };
        if !admitted {
            self.stats.too_many += 1;
            return Err(too_many(policy, word));
        }
        self.windows.used += 1;
        Ok(())
    }

    /// What the rate-limit headers say. Search answers carry none.
    pub(super) fn limit_headers(&self, class: Class) -> Vec<(&'static str, String)> {
        if class == Class::Search {
            return Vec::new();
        }
        let used = u32::try_from(self.windows.general.len()).unwrap_or(u32::MAX);
        vec![
            ("x-hubspot-ratelimit-max", self.settings.burst.to_string()),
            ("x-hubspot-ratelimit-remaining", self.settings.burst.saturating_sub(used).to_string()),
            ("x-hubspot-ratelimit-interval-milliseconds", "10000".into()),
            ("x-hubspot-ratelimit-daily", self.settings.daily.to_string()),
            ("x-hubspot-ratelimit-daily-remaining", self.settings.daily.saturating_sub(self.windows.used).to_string()),
        ]
    }
}

pub fn too_many(policy: &str, word: &str) -> Refusal {
    Refusal {
        status: 429,
        body: json!({
            "status": "error", "message": format!("You have reached your {word} limit."), "errorType": "RATE_LIMIT",
            "correlationId": CORRELATION, "policyName": policy, "requestId": CORRELATION,
        }),
    }
}
