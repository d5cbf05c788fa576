//! How long to wait before trying a record again.

use std::time::Duration;

/// Exponential back-off with full jitter: the n-th wait is drawn evenly from zero to `first · 2ⁿ`, at most `most`.
/// Source: M. Brooker, "Exponential Backoff and Jitter".
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The upper end of the first wait.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(900) }
    }
}

impl Backoff {
    /// The wait before try number `attempt` (the first retry is 0), for a draw from `0.0..1.0`.
    #[must_use]
    pub fn wait(&self, attempt: u32, draw: f64) -> Duration {
        let ceiling = self.first.saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX)).min(self.most);
        ceiling.mul_f64(draw.clamp(0.0, 1.0)).max(Duration::from_millis(50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_ceiling_and_are_spread() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(0, 1.0), Duration::from_secs(1));
        assert_eq!(backoff.wait(3, 0.5), Duration::from_secs(4));
        assert_eq!(backoff.wait(40, 1.0), Duration::from_secs(900));
        assert_eq!(backoff.wait(5, 0.0), Duration::from_millis(50));
    }
}
