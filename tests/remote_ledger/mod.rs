//! A ledger whose budgets are kept elsewhere, written against the public interface alone, and a way to run tests with it.
//!
//! [`Backend`] is a task that is reached by messages; [`RemoteLedger`] is a process's connection to it. They share texts
//! and numbers, as two processes would: principals go by `Principal::key`, budgets by their `Display`.
// Each test file uses some of it.
#![allow(dead_code, unused_imports, unused_macros)]

mod backend;
mod budget;
mod client;
mod counts;
#[path = "../redis_fleet/fake.rs"]
mod fake;
mod gate;
mod message;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use tower_ews::EwsStack;
use tower_ews::ledger::{Ledger, Limit};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;

pub(crate) use client::{Backend, RemoteLedger};
pub(crate) use counts::Counts;

/// How long a message takes.
pub(crate) const ONE_WAY: Duration = Duration::from_millis(5);

/// What a back end is told about the budgets that it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) budgets: Vec<(String, Limit)>,
    pub(crate) max_queued: usize,
    pub(crate) max_wait: Duration,
}

impl Limits {
    pub(crate) fn new(budgets: impl IntoIterator<Item = (Budget, Limit)>) -> Self {
        let budgets = budgets.into_iter();
        Self {
            budgets: budgets
                .map(|(budget, limit)| (budget.to_string(), limit))
                .collect(),
            max_queued: 100_000,
            max_wait: Duration::from_secs(3_600),
        }
    }

    pub(crate) fn of(policy: &ThrottlingPolicy) -> Self {
        Self {
            max_queued: policy.max_queued,
            max_wait: policy.max_wait,
            ..Self::new(policy.budgets.iter().map(|row| (row.budget, row.limit)))
        }
    }
}

/// Which ledger a test runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The policy's own.
    Local,
    /// One with a back end of its own.
    Remote,
    /// The one that a fleet shares, by its own script.
    Redis,
}

impl Kind {
    pub(crate) fn stack(self, policy: ThrottlingPolicy) -> EwsStack {
        match self {
            Kind::Local => EwsStack::new(policy),
            Kind::Remote => {
                let ledger: Arc<dyn Ledger> = Backend::spawn(Limits::of(&policy)).connect();
                EwsStack::new(policy).ledger(ledger)
            }
            Kind::Redis => {
                let ledger = policy.redis_ledger().build(fake::Fake::new(1));
                EwsStack::new(policy).ledger(Arc::new(ledger))
            }
        }
    }
}

/// Makes three tests of each function: one with each kind of ledger.
macro_rules! with_each_ledger {
    ($($test:ident),* $(,)?) => {
        mod local_ledger {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(crate::remote_ledger::Kind::Local).await;
            })*
        }

        mod remote {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(crate::remote_ledger::Kind::Remote).await;
            })*
        }

        mod redis {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(crate::remote_ledger::Kind::Redis).await;
            })*
        }
    };
}
pub(crate) use with_each_ledger;
