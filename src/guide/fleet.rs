//! Several processes that use one account.
//!
//! Exchange charges an account, not a process. Ten processes with a limit of 27 each send 270 calls at a time against 27, lock
//! the account out, and learn of each other by refusals alone. There are three ways out:
//!
//! | way | when |
//! | --- | --- |
//! | impersonate | Each mailbox has a budget of its own. Give each mailbox to one process, and nothing has to be shared. |
//! | divide the limit by hand | There are always as many processes, and all are equally busy. |
//! | [`RedisLedger`](crate::ledger::redis::RedisLedger) | Everything else: shares follow the need, gates and what was learnt are known to all. |
//!
//! A process that divides by hand:
//!
//! ```
//! use tower_ews::EwsStack;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::principal::Budget;
//!
//! # let processes = 3;
//! let mut policy = ThrottlingPolicy::exchange_online();
//! policy.set_in_flight(Budget::Concurrency, 27 / processes)?;
//! let stack = EwsStack::new(policy);
//! # assert_eq!(stack.shared_ledger().snapshot().queued, 0);
//! # Ok::<(), tower_ews::policy::SetLimitError>(())
//! ```
//!
//! One that shares by Redis; calls that find room in what was lent ask nobody:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tower_ews::EwsStack;
//! use tower_ews::ledger::redis::RedisServer;
//! use tower_ews::policy::ThrottlingPolicy;
//!
//! let redis = RedisServer::new(redis::Client::open("redis://10.0.0.7/")?);
//! let policy = ThrottlingPolicy::exchange_online();
//! let ledger = policy.redis_ledger().build(redis);
//! let stack = EwsStack::new(policy).ledger(Arc::new(ledger));
//! # let _ = stack;
//! # Ok::<_, redis::RedisError>(())
//! ```
//!
//! What happens when a process is killed, when Redis is away or forgets: [`ledger::redis`](crate::ledger::redis).
//! `cargo run --release --example fleet` shows it, with a process that is killed.
