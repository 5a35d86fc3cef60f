//! Who keeps the budgets: the [`Ledger`] trait, what goes in and out of it, and [`LocalLedger`] for one process.
//!
//! Layers hold an `Arc<dyn Ledger>`. Two layers that share one act together:
//! [`ServerBusyBackoff`](crate::server_busy_backoff) reports what responses say about a budget, and
//! [`ConcurrencyByPrincipal`](crate::concurrency_by_principal) gets no permit for that principal before its gate opens.
//!
//! | term | meaning |
//! | --- | --- |
//! | [`AcquireRequest`] | what a call asks for: charges, endpoint, deadline, its place in the queue |
//! | [`Admission`] | what it was given; a [`Permit`] carries it and gives it back exactly once |
//! | [`Signal`] | what a response says about a budget |
//! | [`Limit`] | how a budget is counted, and its number |

mod any;
mod error;
mod handover;
mod learnt;
mod leases;
mod limit;
mod local;
mod permit;
#[cfg(feature = "redis")]
pub mod redis;
mod request;
mod signal;
mod slot;
mod snapshot;
mod unread;

pub(crate) use any::AcquireAny;
pub use error::{AcquireError, Contended};
pub(crate) use handover::AcquiredPermit;
pub use learnt::Learnt;
pub(crate) use leases::Leases;
pub use limit::Limit;
pub use local::{LocalLedger, LocalLedgerBuilder, SetLimitError};
pub use permit::{Acquire, Ledger, Permit};
pub use request::{AcquireRequest, Admission, Requeue};
pub use signal::{End, Signal};
pub use slot::AdmissionSlot;
pub use snapshot::{BudgetSnapshot, PrincipalSnapshot, Snapshot};
