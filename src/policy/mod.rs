//! [`ThrottlingPolicy`]: what a server allows, as a table of budgets with presets.
//!
//! The numbers are Microsoft's where it publishes any. They cannot be discovered at run time ("Throttling parameter
//! values cannot be discovered programmatically", EWS throttling in Exchange). Documents disagree, so each number is a
//! setting. The [`LocalLedger`](crate::ledger::LocalLedger) finds lower limits than the policy's from the server's refusals.
//!
//! `docs/policy.md` has a row for each parameter that is documented: its budget, its number in each preset, where the number comes
//! from, and the test that shows it.

mod error;
#[cfg(feature = "serde")]
mod file;
mod presets;
mod row;
mod throttling;

pub use self::error::SetLimitError;
pub use self::row::BudgetPolicy;
pub use self::throttling::ThrottlingPolicy;
