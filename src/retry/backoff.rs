//! How long to wait when the server gives no hint: exponential, with full jitter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The waits of calls that got no hint.
///
/// The n-th such wait of a call is drawn evenly from nothing to `base` times 2 to the power of n-1, `cap` at most (full
/// jitter: clients that were refused together do not come back together).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Backoff {
    /// The wait after `earlier` waits without a hint. Never nothing: that would be a hot loop.
    pub(crate) fn wait(self, earlier: u32, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = 2u32
            .checked_pow(earlier)
            .and_then(|factor| self.base.checked_mul(factor))
            .unwrap_or(Duration::MAX)
            .min(self.cap);
        // Whole milliseconds, as the timer has them.
        let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(rng.u64(1..=millis.max(1)))
    }
}

/// What random numbers are drawn from, call by call.
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

    /// Random numbers for one call: with a seed, the n-th call has the same ones in each run.
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
