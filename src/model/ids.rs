//! Names and ids, each of its own type, so that mixing them up does not compile.

use std::{
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name of an account or a connection, as it stands in the configuration: `[a-z][a-z0-9_]*`, at most 63 long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a name: use lower-case letters, digits and `_`, starting with a letter, at most 63 of them")]
pub struct BadName(String);

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if fits { Ok(Self(text)) } else { Err(BadName(text)) }
    }
}

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// Our id of a contact or an opportunity.
    RecordId
);
id!(
    /// Our id of a pipeline.
    PipelineId
);
id!(
    /// Our id of a stage.
    StageId
);
id!(
    /// Our id of a conflict.
    ConflictId
);
id!(
    /// Our id of a failure.
    FailureId
);
id!(
    /// Our id of an intent.
    IntentId
);
id!(
    /// Our id of a run: one start of the daemon, or one `sync --once`.
    RunId
);

/// Makes ids: UUID version 7, from the time that is handed in and a seeded source, so that a seed reproduces a run.
#[derive(Debug)]
pub struct Ids(Mutex<StdRng>);

impl Ids {
    /// A source that always makes the same ids for the same times.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// A source nobody can predict.
    #[must_use]
    pub fn random() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }

    /// The next id.
    #[must_use]
    pub fn next(&self, now: DateTime<Utc>) -> Uuid {
        let mut random = [0_u8; 10];
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut random);
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    /// A draw from `0.0..1.0`, for jitter.
    #[must_use]
    pub fn draw(&self) -> f64 {
        let bits = self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64() >> 11;
        bits as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["hubspot", "glow_clinic", "a1"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "Glow", "a-b", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_seed_reproduces_ids_and_ids_sort_by_time() {
        let at = |s| DateTime::from_timestamp(s, 0).unwrap();
        let (a, b) = (Ids::seeded(7), Ids::seeded(7));
        assert_eq!(a.next(at(5)), b.next(at(5)));
        assert!(a.next(at(6)) < a.next(at(7)));
    }
}
