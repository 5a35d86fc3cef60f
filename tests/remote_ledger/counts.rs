//! What the back end of the remote ledger holds at one moment.

use tokio::time::Instant;

/// What the back end holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) queued: usize,
    /// Admissions that are not released.
    pub(crate) admissions: usize,
    pub(crate) accounts: Vec<(String, AccountCounts)>,
    pub(crate) gated_endpoints: Vec<(String, Instant)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct AccountCounts {
    pub(crate) gated: Option<Instant>,
    pub(crate) queued: usize,
    /// What calls hold, over all budgets.
    pub(crate) held: u32,
    /// Name, what counts against the limit, limit.
    pub(crate) budgets: Vec<(String, u32, u32)>,
}

impl Counts {
    /// What calls hold, over all principals and budgets.
    pub(crate) fn held(&self) -> u32 {
        self.accounts.iter().map(|(_, account)| account.held).sum()
    }
}
