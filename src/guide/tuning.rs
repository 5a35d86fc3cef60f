//! Which numbers are worth changing.
//!
//! Begin with the preset of your server, and change a number only when you know it better. A limit that is too high costs refusals
//! until the ledger has learnt the server's own; one that is too low costs time for ever, and nothing tells you. Messages a minute and
//! recipients a day are not learnt: past the first limit the server sends later, without an error to the call ("EWS throttling in
//! Exchange"); past the second one it refuses with `ErrorSubmissionQuotaExceeded`, which is handed on. Set them right.
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_ews::EwsStack;
//! use tower_ews::ledger::Limit;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::principal::Budget;
//!
//! let mut policy = ThrottlingPolicy::exchange_2019();
//! // Get-ThrottlingPolicy says so.
//! policy.set_in_flight(Budget::Concurrency, 10)?;
//! policy.set_limit(Budget::MessageRate, Limit::Sliding { limit: 30, period: Duration::from_secs(60) })?;
//! // A nightly job may wait out a lock-out of an hour.
//! policy.deadline = Duration::from_secs(2 * 3_600);
//! policy.max_wait = policy.deadline;
//! let stack = EwsStack::new(policy);
//! # let _ = stack;
//! # Ok::<(), tower_ews::policy::SetLimitError>(())
//! ```
//!
//! | you want | change |
//! | --- | --- |
//! | calls of people before those of a job | [`Priority::Interactive`](crate::extensions::Priority) in their extensions |
//! | a web request that fails soon | a [`Deadline`](crate::extensions::Deadline) in its extensions; the policy's is for jobs |
//! | a job that survives long lock-outs | `deadline` and `max_wait` of the [policy](crate::policy::ThrottlingPolicy) |
//! | room that a job leaves for people | [`reserve`](crate::ledger::LocalLedgerBuilder::reserve) |
//! | room for another program on the same account | a lower limit |
//! | less memory for waiting calls | `max_queued`; a call that waits keeps its request body |
//! | smaller batches | `batch_time`; sizes follow the time that parts take |
//! | parts of one batch in parallel | [`BatchSplitterLayer`](crate::batch_splitter::BatchSplitterLayer) by [`EwsStack::batches`](crate::EwsStack::batches) |
//! | a limit that changes while the program runs | [`LocalLedger::set_limit`](crate::ledger::LocalLedger::set_limit) |
//! | what was learnt to survive a restart | [`export`](crate::ledger::LocalLedger::export) and [`import`](crate::ledger::LocalLedger::import) |
//!
//! # See what limits you
//!
//! A [`Snapshot`](crate::ledger::Snapshot) says for each principal what is held, what waits, and until when it is gated:
//!
//! ```
//! use tower_ews::EwsStack;
//! use tower_ews::policy::ThrottlingPolicy;
//!
//! let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
//! let snapshot = stack.shared_ledger().snapshot();
//! for principal in &snapshot.principals {
//!     for budget in &principal.budgets {
//!         println!("{} {}: {} of {}", principal.principal, budget.budget, budget.held, budget.limit);
//!     }
//! }
//! assert_eq!(snapshot.queued, 0);
//! ```
//!
//! If calls wait and `Concurrency` is full, the account is the limit: impersonate, or use [several
//! accounts](crate::account_pool). If `OpenMailboxes` is full, submit the whole job at once, so that calls to open mailboxes go first.
//! If nothing is full and it is slow, the server is.
