//! [`Denials`]: who was refused access, and when one request may ask again.

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long nobody asks again after the first refusal, and at most. The wait doubles with each refusal in between. A change
/// of Exchange Online's settings takes up to a day to become effective, so asking more often would not help.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How many refusals are remembered.
const MAX_KNOWN: usize = 10_000;

/// One refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    pause: Duration,
    /// A request that was sent before then says nothing new.
    noted: Instant,
    /// One request is sent then, to see whether it still is refused.
    ask_again_at: Instant,
}

impl Denial {
    /// Creates a refusal that nothing is remembered of.
    pub(crate) fn unremembered(status: StatusCode, now: Instant) -> Self {
        Self {
            status,
            pause: Duration::ZERO,
            noted: now,
            ask_again_at: now,
        }
    }

    /// Returns how long nobody asks again.
    pub(crate) fn again_in(&self, now: Instant) -> Duration {
        self.ask_again_at.saturating_duration_since(now)
    }
}

/// The refusals of one layer and all its services.
#[derive(Debug)]
pub(crate) struct Denials<K> {
    known: Mutex<HashMap<K, Denial>>,
    /// Whether anybody was ever refused. Until then no call pays for it.
    used: AtomicBool,
}

impl<K> Default for Denials<K> {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            used: AtomicBool::new(false),
        }
    }
}

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Nothing is known against it.
    Free,
    /// It is sent to see whether the refusal still stands. Others wait for what it hears.
    Probe,
}

impl<K: Copy + Eq + Hash> Denials<K> {
    pub(crate) fn are_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the refusal that holds back a request, or that it is the one to ask again.
    pub(crate) fn check(&self, key: K, now: Instant) -> Result<Leave, Denial> {
        let known = &mut *self.known.lock();
        let Some(denial) = known.get_mut(&key) else {
            return Ok(Leave::Free);
        };
        if now < denial.ask_again_at {
            return Err(*denial);
        }
        denial.ask_again_at = now + denial.pause;
        Ok(Leave::Probe)
    }

    /// Remembers a refusal of a request that was sent at `sent`. If nothing was known, one request more may ask at once where
    /// `is_trusted`. Returns the refusal, and whether it is the first one.
    pub(crate) fn add(
        &self,
        key: K,
        status: StatusCode,
        is_trusted: bool,
        sent: Instant,
        now: Instant,
    ) -> (Denial, bool) {
        self.used.store(true, Ordering::Relaxed);
        let known = &mut *self.known.lock();
        forget(known, now);
        let earlier = known.get(&key).copied();
        if let Some(denial) = earlier.filter(|denial| sent < denial.noted) {
            return (denial, false);
        }
        let pause = match earlier {
            Some(denial) => (denial.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE),
            None if is_trusted => Duration::ZERO,
            None => FIRST_PAUSE,
        };
        let denial = Denial {
            status,
            pause,
            noted: now,
            ask_again_at: now + pause,
        };
        known.insert(key, denial);
        (denial, earlier.is_none())
    }

    /// Forgets a refusal, since access was granted.
    pub(crate) fn remove(&self, key: K) {
        self.known.lock().remove(&key);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.known.lock().len()
    }
}

/// Forgets what nobody has asked about for long, or everything, when there is too much of it.
fn forget<K: Eq + Hash>(known: &mut HashMap<K, Denial>, now: Instant) {
    if known.len() + 2 <= known.capacity() {
        return;
    }
    known.retain(|_, denial| denial.ask_again_at + LONGEST_PAUSE > now);
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DENIED: StatusCode = StatusCode::FORBIDDEN;

    #[test]
    fn requests_that_were_on_their_way_count_once() {
        let (denials, sent) = (Denials::default(), Instant::now());
        for at in 1..100 {
            let now = sent + at * SECOND / 100;
            let (denial, is_first) = denials.add("amy", DENIED, false, sent, now);
            assert_eq!(is_first, at == 1);
            assert!(denial.again_in(now) > 59 * SECOND && denial.again_in(now) <= 60 * SECOND);
        }
        // One that was sent later says that it still stands.
        let later = sent + 61 * SECOND;
        assert_eq!(denials.check("amy", later).ok(), Some(Leave::Probe));
        // One alone.
        assert!(denials.check("amy", later).is_err());
        let (denial, _) = denials.add("amy", DENIED, false, later, later + SECOND);
        assert_eq!(denial.again_in(later + SECOND), 120 * SECOND);
    }

    #[test]
    fn who_is_trusted_is_asked_once_more_at_once() {
        let (denials, now) = (Denials::default(), Instant::now());
        for in_flight in 0..3 {
            let (denial, _) = denials.add("amy", DENIED, true, now, now + SECOND);
            assert!(denial.again_in(now + SECOND).is_zero(), "{in_flight}");
        }
        let later = now + 2 * SECOND;
        assert_eq!(denials.check("amy", later).ok(), Some(Leave::Probe));
        let (denial, _) = denials.add("amy", DENIED, true, later, later + SECOND);
        assert_eq!(denial.again_in(later + SECOND), 60 * SECOND);
        assert!(denials.check("amy", later + SECOND).is_err());
        denials.remove("amy");
        assert_eq!(denials.check("amy", later + SECOND).ok(), Some(Leave::Free));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (denials, now) = (Denials::default(), Instant::now());
        for number in 0..50_000 {
            denials.add(number, DENIED, false, now, now);
        }
        assert!(denials.len() <= 2 * MAX_KNOWN, "{}", denials.len());
    }
}
