//! [`RetryBudget`]: bounds how fast all calls together send again what the server has set no wait for.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use http::uri::Authority;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::principal::Principal;

/// How many retries can be made at once, and how long it takes until one more can be.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    interval: Duration,
}

/// A server that fails for everybody is asked by a hundred calls at once, then by ten a second. With the six retries of each
/// call that is a tenth of the load that a thousand waiting calls would put on it.
const OF_ENDPOINT: Rate = Rate {
    burst: 100,
    interval: Duration::from_millis(100),
};

/// One principal is one mailbox, or one account among several.
const OF_PRINCIPAL: Rate = Rate {
    burst: 20,
    interval: Duration::from_millis(500),
};

/// Who is asked again, or for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Endpoint(Authority),
    Principal(Principal),
}

/// The retries of the last seconds, by endpoint and by principal, of one layer and all its services.
///
/// It is there when everything fails: a failed attempt of each call must not become seven. Retries wait for their turn
/// instead of failing, so that a call is not lost only because others failed beside it. A call that does not retry costs
/// nothing, and what is not used for some seconds is forgotten.
#[derive(Debug, Default)]
pub(super) struct RetryBudget(Arc<Mutex<Table>>);

/// When the last of the retries that were made would have been due, had they been made at the rate. This is the generic
/// cell rate algorithm (ITU-T I.371).
type Table = HashMap<Key, Instant>;

/// One retry, and the two budgets that it draws on.
pub(super) struct Retry {
    table: Arc<Mutex<Table>>,
    draws: [(Key, Rate); 2],
}

impl RetryBudget {
    pub(super) fn retry(&self, endpoint: Authority, principal: Principal) -> Retry {
        Retry {
            table: Arc::clone(&self.0),
            draws: [
                (Key::Endpoint(endpoint), OF_ENDPOINT),
                (Key::Principal(principal), OF_PRINCIPAL),
            ],
        }
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.0.lock().len()
    }
}

impl Retry {
    /// Returns how long it has to wait from `now`.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let table = self.table.lock();
        let waits = self.draws.iter().map(|(key, rate)| {
            let due = table.get(key).map_or(now, |due| *due) + rate.interval;
            due.saturating_duration_since(now)
                .saturating_sub(rate.interval * rate.burst)
        });
        waits.max().unwrap_or_default()
    }

    /// Draws it.
    pub(super) fn take(self, now: Instant) {
        let mut table = self.table.lock();
        forget(&mut table, now);
        for (key, rate) in self.draws {
            let due = table.entry(key).or_insert(now);
            *due = (*due).max(now) + rate.interval;
        }
    }
}

/// Forgets what is full again, whenever the table would grow.
fn forget(table: &mut Table, now: Instant) {
    if table.len() + 2 > table.capacity() {
        table.retain(|_, due| *due > now);
        table.shrink_to(16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Authority {
        Authority::from_static("mail.contoso.com")
    }

    fn take(budget: &RetryBudget, endpoint: Authority, who: &str, now: Instant) -> Duration {
        let retry = budget.retry(endpoint, Principal::new(who));
        let wait = retry.wait(now);
        retry.take(now);
        wait
    }

    #[test]
    fn a_burst_is_free_and_the_rest_comes_at_the_rate() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let mut waits = (0..1000)
            .map(|call| take(&budget, endpoint(), &format!("user{call}"), now).as_millis());
        assert!(waits.by_ref().take(100).all(|wait| wait == 0));
        for (later, wait) in waits.enumerate() {
            assert_eq!(wait, 100 * (later as u128 + 1));
        }
        // Another server does not suffer.
        let other = Authority::from_static("other.contoso.com");
        assert!(take(&budget, other, "user1", now).is_zero());
    }

    #[test]
    fn one_principal_has_less_and_it_comes_back() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        let take = |seconds: u64| {
            let now = now + Duration::from_secs(seconds);
            super::tests::take(&budget, endpoint(), "amy", now)
        };
        assert!((0..20).all(|_| take(0).is_zero()));
        assert_eq!(take(0), Duration::from_millis(500));
        assert_eq!(take(0), Duration::from_millis(1000));
        // Two were too many, and are made up for after a second.
        assert_eq!(take(1), Duration::from_millis(500));
        assert!(take(2).is_zero());
        assert!((0..20).all(|_| take(60).is_zero()));
        assert!(!take(60).is_zero());
    }

    #[test]
    fn what_is_not_used_is_forgotten() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        for call in 0..100_000_u64 {
            // A thousand a second.
            let now = now + Duration::from_millis(call);
            let host = format!("host{call}").parse().unwrap();
            take(&budget, host, &format!("user{call}"), now);
        }
        assert!(budget.known() < 4_000, "{}", budget.known());
    }
}
