//! A policy of the server at random, and the one of the client that says the same.

use std::time::Duration;

use tower_ews::ledger::Limit;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::{Budget, ChargeRule};
use tower_ews::simulator::{OpenedBy, Policy};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Of a message in a job.
pub(crate) const MOST_RECIPIENTS: u32 = 10;

/// What the server allows, and what the client is told.
#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) server: Policy,
    pub(crate) client: ThrottlingPolicy,
}

impl Policies {
    pub(crate) fn random(rng: &mut fastrand::Rng) -> Self {
        let mut policies = Self {
            server: Policy::unlimited(),
            client: ThrottlingPolicy::unlimited("random"),
        };
        policies.times(rng);
        policies.in_flight(rng);
        policies.mailboxes(rng);
        if rng.bool() {
            policies.rates(rng);
        }
        policies
    }

    /// Has the client told twice or half of what the server allows, each number by itself, for what is in flight and open.
    pub(crate) fn mistake(&mut self, rng: &mut fastrand::Rng) {
        for row in &mut self.client.budgets {
            let is_learnt = matches!(row.limit, Limit::InFlight(_) | Limit::Distinct { .. });
            // A subscription too many is told to its caller, who knows whether another one will end.
            if is_learnt && row.budget != Budget::Subscriptions {
                let number = row.limit.number();
                let number = match rng.bool() {
                    true => number * 2,
                    false => number.div_ceil(2),
                };
                row.limit = row.limit.with_number(number);
            }
        }
    }

    /// How long calls take, and how long the client has for its job: for as long as it needs.
    fn times(&mut self, rng: &mut fastrand::Rng) {
        let milliseconds = |range| Duration::from_millis(range);
        self.server.latency = milliseconds(rng.u64(0..=50));
        self.server.member_time = milliseconds(rng.u64(1..=500));
        self.server.jitter = rng.f64() / 2.0;
        self.server.impersonation_copy = rng.bool();
        self.client.impersonation_copy = self.server.impersonation_copy;
        let long = 300 * DAY;
        (self.client.deadline, self.client.max_wait) = (long, long);
    }

    fn set(&mut self, budget: Budget, limit: Limit) {
        self.client.set_limit(budget, limit).unwrap();
    }

    fn in_flight(&mut self, rng: &mut fastrand::Rng) {
        let calls = rng.u32(1..=8);
        self.server.max_concurrency = Some(calls);
        self.set(Budget::Concurrency, Limit::InFlight(calls));
        if rng.bool() {
            let syncs = rng.u32(1..=4);
            self.server.concurrent_sync_calls = Some(syncs);
            self.set(Budget::SyncCalls, Limit::InFlight(syncs));
        }
        if rng.bool() {
            let rows = rng.u32(10..=200);
            self.server.find_count = Some(rows);
            self.set(Budget::FindCount, Limit::InFlight(rows));
        }
        if rng.bool() {
            let searches = rng.u32(1..=2);
            self.server.discovery_concurrency = Some(searches);
            self.set(Budget::Discovery, Limit::InFlight(searches));
        }
        if rng.bool() {
            let subscriptions = rng.u32(1..=3);
            self.server.max_subscriptions = Some(subscriptions);
            self.set(Budget::Subscriptions, Limit::InFlight(subscriptions));
        }
        let hanging = rng.u32(1..=3);
        self.server.hanging_connections = Some(hanging);
        self.set(Budget::HangingConnections, Limit::InFlight(hanging));
    }

    fn mailboxes(&mut self, rng: &mut fastrand::Rng) {
        if rng.bool() {
            return;
        }
        let (open, idle) = (rng.u32(1..=5), Duration::from_millis(rng.u64(100..=20_000)));
        self.server.open_mailboxes = Some(open);
        self.server.open_mailbox_idle = idle;
        let (opened_by, rule) = match rng.bool() {
            true => (OpenedBy::Writes, ChargeRule::MailboxesWritten),
            false => (OpenedBy::ReadsAndWrites, ChargeRule::Mailboxes),
        };
        self.server.opened_by = opened_by;
        self.set(Budget::OpenMailboxes, Limit::Distinct { limit: open, idle });
        let row = self.client.budgets.last_mut().unwrap();
        row.rule = rule;
    }

    /// Amounts per time. The server counts any time of that length, and a call's messages when it is done. For buckets calls take the same
    /// time, so that they come apart as they were sent; what slides is told so.
    fn rates(&mut self, rng: &mut fastrand::Rng) {
        let sliding = rng.bool();
        if !sliding {
            self.server.jitter = 0.0;
        }
        let within = |number, largest, period, rng: &mut fastrand::Rng| match sliding {
            true => Limit::Sliding {
                limit: number,
                period,
            },
            false => within(number, largest, period, rng),
        };
        if rng.bool() {
            let messages = rng.u32(1..=30);
            self.server.message_rate = Some(messages);
            self.server.message_rate_refuses = rng.bool();
            self.set(Budget::MessageRate, within(messages, 1, MINUTE, rng));
        }
        if rng.bool() {
            let recipients = rng.u32(20..=200);
            self.server.recipient_rate = Some(recipients);
            self.set(
                Budget::RecipientRate,
                within(recipients, MOST_RECIPIENTS, DAY, rng),
            );
        }
        if !sliding && rng.bool() {
            let spacing = Duration::from_millis(rng.u64(10..=2_000));
            self.server.min_spacing = Some(spacing);
            let bucket = Limit::per_window(1, spacing);
            self.set(Budget::Spacing, bucket);
        }
    }
}

/// A bucket that lets no more than `number` through in any time of that length: what it holds, and what it gets back meanwhile. It holds
/// the `largest` amount, which would leave a debt otherwise.
fn within(number: u32, largest: u32, period: Duration, rng: &mut fastrand::Rng) -> Limit {
    let limit = rng.u32(largest..=number);
    Limit::PerWindow {
        limit,
        refill: number + 1 - limit,
        period,
    }
}
