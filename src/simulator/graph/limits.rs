//! What one application has done in one mailbox, beside what it may do.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::policy::GraphPolicy;

/// How long a request is to wait that was one too many at a time.
const AT_A_TIME_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Limits {
    in_flight: u32,
    requests: Window,
    uploads: Window,
}

impl Limits {
    /// Admits a request that uploads so many bytes and returns how many are in flight now, or in how long it may
    /// come again.
    pub(super) fn enter(&mut self, policy: &GraphPolicy, bytes: u64) -> Result<u32, Duration> {
        if self.in_flight >= policy.at_a_time {
            return Err(AT_A_TIME_WAIT);
        }
        let wait = self.requests.wait(1, policy.requests);
        let wait = wait.max(self.uploads.wait(bytes, policy.uploads));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.requests.add(1);
        self.uploads.add(bytes);
        self.in_flight += 1;
        Ok(self.in_flight)
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }
}

/// Amounts that count for one period.
#[derive(Debug, Default)]
struct Window {
    used: VecDeque<(Instant, u64)>,
    sum: u64,
}

impl Window {
    /// How long it takes until there is room for this amount. One above the limit has room in an empty window.
    fn wait(&mut self, amount: u64, (limit, period): (u64, Duration)) -> Duration {
        let now = Instant::now();
        while let Some((at, used)) = self.used.front() {
            if *at + period > now {
                break;
            }
            self.sum -= used;
            self.used.pop_front();
        }
        let mut sum = self.sum;
        let mut wait = Duration::ZERO;
        for (at, used) in &self.used {
            if sum + amount <= limit {
                break;
            }
            sum -= used;
            wait = *at + period - now;
        }
        wait
    }

    fn add(&mut self, amount: u64) {
        if amount > 0 {
            self.sum += amount;
            self.used.push_back((Instant::now(), amount));
        }
    }
}
