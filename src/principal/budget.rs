//! [`Budget`]: one allowance that the server keeps for one principal.

/// One allowance that the server keeps for one principal.
///
/// ```
/// use tower_ews::principal::{Budget, Charge, Principal};
///
/// // A sync call counts twice: as a request, and as a sync.
/// let amy = Principal::account("amy@contoso.com");
/// let charges = [
///     Charge::new(amy.clone(), Budget::Concurrency, 1),
///     Charge::new(amy, Budget::SyncCalls, 1),
/// ];
/// assert_eq!(charges[1].budget(), Budget::SyncCalls);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Budget {
    /// Requests at the same time: `EWSMaxConcurrency` of Exchange, "concurrent requests" of other APIs.
    Concurrency,
    /// Streaming connections at the same time: `HangingConnectionLimit`.
    HangingConnections,
    /// `SyncFolderItems` and `SyncFolderHierarchy` at the same time: `ConcurrentSyncCalls`.
    SyncCalls,
    /// Rows of all `Find*` responses in memory at the same time: `EWSFindCountLimit`.
    FindCount,
    /// Different mailboxes that a delegate account has open.
    OpenMailboxes,
    /// A budget of another API.
    Custom(u8),
}
