//! What waits for its time: webhooks, before they are sent and before they are tried again.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

/// What waits for its time; of two for one moment, the one that came first goes first.
#[derive(Clone)]
pub struct Due<T> {
    waiting: BTreeMap<(DateTime<Utc>, u64), T>,
    sequence: u64,
}

impl<T> Default for Due<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), sequence: 0 }
    }
}

impl<T> Due<T> {
    /// Lets something wait until then.
    pub fn push(&mut self, at: DateTime<Utc>, what: T) {
        self.sequence += 1;
        self.waiting.insert((at, self.sequence), what);
    }

    /// The first whose time has come; else how long to wait for it, if anything waits.
    ///
    /// # Errors
    /// The time until then.
    pub fn pop(&mut self, now: DateTime<Utc>) -> Result<T, Option<Duration>> {
        let Some(first) = self.waiting.first_entry() else { return Err(None) };
        let at = first.key().0;
        if at <= now {
            return Ok(first.remove());
        }
        Err(Some((at - now).to_std().unwrap_or_default().max(Duration::from_millis(1))))
    }
}
