//! How much a company may call: tokens a day by its plan and seats, and calls in two seconds by its plan and by how we are
//! known there.
//!
//! Source: "Rate limiting", <https://pipedrive.readme.io/docs/core-api-concepts-rate-limiting>.

use std::{fmt, str::FromStr, time::Duration};

use tandem_contract::{Credentials, Limit};

/// How long a window is.
pub const WINDOW: Duration = Duration::from_secs(2);
/// Tokens a day of one seat of the smallest plan.
const SEAT: u64 = 30_000;

/// A company's plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plan {
    /// The smallest one: assumed where nobody says which it is.
    #[default]
    Lite,
    /// Twice the tokens, twice the calls.
    Growth,
    /// Five times both.
    Premium,
    /// Seven times the tokens, six times the calls.
    Ultimate,
}

impl Plan {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Lite, "lite"), (Self::Growth, "growth"), (Self::Premium, "premium"), (Self::Ultimate, "ultimate")];

    /// Tokens a day that everybody at a company of so many seats shares, without those that were bought besides.
    #[must_use]
    pub fn daily_tokens(self, seats: u32) -> u64 {
        let multiplier = match self {
            Self::Lite => 1,
            Self::Growth => 2,
            Self::Premium => 5,
            Self::Ultimate => 7,
        };
        SEAT * multiplier * u64::from(seats)
    }

    /// Calls in a window: an app that was let in has four times what a user's token has.
    #[must_use]
    pub fn burst(self, credentials: &Credentials) -> Limit {
        let of_token = match self {
            Self::Lite => 20,
            Self::Growth => 40,
            Self::Premium => 100,
            Self::Ultimate => 120,
        };
        let times = if matches!(credentials, Credentials::Token(_)) { 1 } else { 4 };
        Limit { requests: of_token * times, per: WINDOW }
    }
}

/// The text names no plan.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownPlan(String);

impl fmt::Display for UnknownPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Plan::ALL.map(|(_, word)| word).join(", ");
        write!(f, "`{}` is not one of {known}; for another plan, set daily_budget and rate_limit instead", self.0)
    }
}

impl std::error::Error for UnknownPlan {}

impl FromStr for Plan {
    type Err = UnknownPlan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter().find(|(_, word)| word.eq_ignore_ascii_case(text));
        known.map(|(plan, _)| *plan).ok_or_else(|| UnknownPlan(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use tandem_contract::Secret;

    use super::*;

    #[test]
    fn each_plan_has_its_tokens_and_its_calls() {
        let token = Credentials::Token(Secret::new("t"));
        let app = Credentials::OAuth {
            client_id: "app".into(),
            client_secret: Secret::new("s"),
            refresh_token: Secret::new("r"),
        };
        for (word, of_one, of_five, by_token, by_app) in [
            ("lite", 30_000, 150_000, 20, 80),
            ("growth", 60_000, 300_000, 40, 160),
            ("premium", 150_000, 750_000, 100, 400),
            ("ultimate", 210_000, 1_050_000, 120, 480),
        ] {
            let plan: Plan = word.parse().expect("a plan");
            assert_eq!((plan.daily_tokens(1), plan.daily_tokens(5)), (of_one, of_five), "{word}");
            let calls = (plan.burst(&token).requests, plan.burst(&app).requests);
            assert_eq!((calls, plan.burst(&app).per), ((by_token, by_app), Duration::from_secs(2)), "{word}");
        }
    }

    #[test]
    fn plans_go_by_their_names_and_one_that_is_not_known_is_told_the_others() {
        assert_eq!("Growth".parse::<Plan>(), Ok(Plan::Growth));
        let unknown = "gold".parse::<Plan>().expect_err("no plan").to_string();
        assert!(unknown.starts_with("`gold` is not one of lite, growth, premium, ultimate;"), "{unknown}");
    }
}
