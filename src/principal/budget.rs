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
    /// Messages sent per minute: `MessageRateLimit`.
    MessageRate,
    /// Recipients of what is sent per 24 hours: `RecipientRateLimit`.
    RecipientRate,
    /// Milliseconds that the server works for the account: `EwsMaxBurst`, `EwsRechargeRate` and `EwsCutoffBalance` of Exchange 2013
    /// and later. A client knows the time on the wire only, as an estimate.
    BusyTime,
    /// Milliseconds that the server works for the account in each minute: `EWSPercentTimeInAD`, `EWSPercentTimeInCAS` and
    /// `EWSPercentTimeInMailboxRPC` of Exchange 2010. One budget, since a client knows their sum only, as the time on the wire.
    PercentTime,
    /// Subscriptions of all kinds that exist: `EWSMaxSubscriptions`. Each is held from Subscribe to Unsubscribe, or until it expires.
    Subscriptions,
    /// Requests per time, whatever they do: Graph's 10,000 per 10 minutes, the rate limit of other APIs.
    Requests,
    /// Bytes uploaded per time: Graph's 150 MB per 5 minutes.
    UploadBytes,
    /// Discovery searches at the same time: `DiscoveryMaxConcurrency`.
    Discovery,
    /// Requests one after the other with a pause between them: a bucket that holds one.
    Spacing,
    /// A budget of another API.
    Custom(u8),
}

impl Budget {
    /// Whether it counts the milliseconds that a call takes, which are known when its response has come.
    pub(crate) fn counts_time(self) -> bool {
        matches!(self, Self::BusyTime | Self::PercentTime)
    }

    /// Whether it counts what the server has done, so that a call that it refused draws nothing. The others count the call itself.
    pub(crate) fn counts_what_was_done(self) -> bool {
        matches!(self, Self::MessageRate | Self::RecipientRate)
    }
}
