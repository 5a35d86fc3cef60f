//! [`Backoff`]: exponential waits with full jitter, for where the server sets none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The waits of a call where the server sets none.
///
/// The n-th such wait is drawn evenly from zero to `base` times 2 to the power of n-1, at most `cap`. This is full
/// jitter: clients that were refused together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

/// 500 ms and 60 s: what every layer that sends again has by default.
impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// Draws the wait after `earlier` waits of this kind. Never zero, which would be a hot loop.
    pub(crate) fn wait(self, earlier: u32, rng: &mut fastrand::Rng) -> Duration {
        // Whole milliseconds, like the timer's.
        let millis = u64::try_from(self.ceiling(earlier).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(rng.u64(1..=millis.max(1)))
    }

    /// Returns the shortest wait that a server can set after `earlier` waits that it has set: a quarter of the longest one
    /// that would be drawn. A server that goes on to ask for a millisecond is not asked without end.
    pub(crate) fn shortest(self, earlier: u32) -> Duration {
        self.ceiling(earlier) / 4
    }

    fn ceiling(self, earlier: u32) -> Duration {
        2u32.checked_pow(earlier)
            .and_then(|factor| self.base.checked_mul(factor))
            .unwrap_or(Duration::MAX)
            .min(self.cap)
    }
}

/// The source of random numbers, one generator for each call.
#[derive(Debug)]
pub(crate) struct Jitter {
    seed: Option<u64>,
    calls: AtomicU64,
}

impl Jitter {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self {
            seed,
            calls: AtomicU64::new(0),
        }
    }

    /// Returns the generator of one call. With a seed, the n-th call gets the same one in each run.
    pub(crate) fn rng(&self) -> fastrand::Rng {
        match self.seed {
            Some(seed) => {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                fastrand::Rng::with_seed(seed ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            }
            None => fastrand::Rng::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_full_jitter_to_its_cap() {
        let backoff = Backoff {
            base: Duration::from_millis(500),
            cap: Duration::from_secs(60),
        };
        let mut rng = fastrand::Rng::with_seed(1);
        for earlier in [0, 1, 5, 7, 40, u32::MAX] {
            let ceiling = Duration::from_millis(500)
                .saturating_mul(1 << earlier.min(20))
                .min(backoff.cap);
            let waits: Vec<_> = (0..2_000)
                .map(|_| backoff.wait(earlier, &mut rng))
                .collect();
            assert!(waits.iter().all(|wait| *wait <= ceiling && !wait.is_zero()));
            // Full jitter uses the whole range.
            assert!(waits.iter().any(|wait| *wait < ceiling / 10));
            assert!(waits.iter().any(|wait| *wait > ceiling / 10 * 9));
        }
    }

    #[test]
    fn the_calls_of_a_seed_differ_and_come_again() {
        for seed in [0, 1, u64::MAX] {
            let draw = || {
                let jitter = Jitter::new(Some(seed));
                [(); 4].map(|()| jitter.rng().u64(..))
            };
            let mut drawn = draw();
            assert_eq!(draw(), drawn);
            drawn.sort_unstable();
            assert!(drawn.windows(2).all(|pair| pair[0] != pair[1]), "{seed}");
        }
    }

    #[test]
    fn survives_absurd_settings() {
        let mut rng = fastrand::Rng::with_seed(1);
        for (base, cap) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::MAX, Duration::MAX),
            (Duration::from_secs(9), Duration::ZERO),
        ] {
            let wait = Backoff { base, cap }.wait(3, &mut rng);
            assert!(!wait.is_zero());
        }
    }
}
