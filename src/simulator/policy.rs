//! The throttling policy that the simulated server enforces, and its presets.

use std::collections::BTreeMap;
use std::time::Duration;

use super::other_client::OtherClient;

/// Which calls open a mailbox for a delegate account.
///
/// ```
/// use tower_ews::simulator::{OpenedBy, Policy};
///
/// let mut policy = Policy::exchange_online();
/// policy.opened_by = OpenedBy::Writes;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenedBy {
    /// Every call that touches the mailbox.
    ReadsAndWrites,
    /// Only calls that change something in it.
    Writes,
}

/// How a lock-out is told to the client.
///
/// ```
/// use tower_ews::simulator::{BusyResponse, Policy};
///
/// let mut policy = Policy::exchange_online();
/// policy.busy_response = BusyResponse::Messages;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusyResponse {
    /// HTTP 500 with a SOAP fault.
    Fault,
    /// HTTP 200 with a response message in error for each member.
    Messages,
    /// One or the other, drawn from the seed for each call.
    Either,
}

/// What comes back of a batch that has run out of time. In each case the members up to the one that
/// ran when the time was up are executed, that one included, and those after it are not.
///
/// ```
/// use tower_ews::simulator::{BatchCut, Policy};
/// assert_eq!(Policy::exchange_online().batch_cut, BatchCut::RestTimedOut);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchCut {
    /// HTTP 200: the responses of the members done in time, and `ErrorTimeoutExpired` for those
    /// from there on.
    RestTimedOut,
    /// HTTP 200 with `ErrorTimeoutExpired` for every member.
    AllTimedOut,
    /// HTTP 500 with a SOAP fault `ErrorTimeoutExpired`.
    Fault,
    /// No response: the connection is lost.
    ConnectionLost,
}

/// Who pays for a subscription.
///
/// ```
/// use tower_ews::simulator::{Policy, SubscriptionPayer};
/// assert_eq!(Policy::exchange_2010_sp1().subscription_payer, SubscriptionPayer::Caller);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionPayer {
    /// The calling account: Exchange 2010 before SP2 RU4 (TH, Table 2).
    Caller,
    /// The mailbox that is subscribed to.
    Mailbox,
}

/// A percentage of a minute that the calls of one payer may spend in one part of the server.
///
/// ```
/// use tower_ews::simulator::{PercentTime, Policy};
/// let policy = Policy::exchange_2010().with(|policy| {
///     policy.percent_time_in_ad = Some(PercentTime { percent: 90.0, share: 0.2 });
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PercentTime {
    /// How much of the last 60 seconds: 90 means 54 seconds. Above 100 where calls run at the same
    /// time.
    pub percent: f64,
    /// The share of each member's execution time that is spent there: 0 to 1.
    pub share: f64,
}

/// What one simulated server allows. All times are *policy time*: the exchange's `speed` divides
/// them.
///
/// Start from a preset and change what the test is about; every field is public. A limit of `None`
/// is not enforced. The presets take their numbers from the throttling article of the Exchange
/// documentation ("EWS throttling in Exchange", named TH below) and from recorded responses; where
/// nothing is published, the field says so.
///
/// ```
/// use tower_ews::simulator::Policy;
/// let mut policy = Policy::exchange_online();
/// assert_eq!(policy.max_concurrency, Some(27));
/// policy.max_concurrency = Some(4);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// `EWSMaxConcurrency`: calls of one payer at the same time. 10 in Exchange 2010, 27 since 2013
    /// (TH, Table 1).
    pub max_concurrency: Option<u32>,
    /// Whether an impersonating account works on a copy of the mailbox's budget that all service
    /// accounts share. Not before Exchange 2010 SP2 RU4, where it draws on the owner's own.
    pub impersonation_copy: bool,
    /// `EWSFindCountLimit`: rows of Find* responses that one payer has in memory at the same time.
    /// 1000 (TH, Table 1).
    pub find_count: Option<u32>,
    /// The same for a search with a restriction or a query string. 250 since Exchange 2013 (TH,
    /// Table 1).
    pub find_count_filtered: Option<u32>,
    /// `ConcurrentSyncCalls`: SyncFolderItems and SyncFolderHierarchy of one payer at the same
    /// time. 5 in a recorded response of Exchange Online; the documents give no number.
    pub concurrent_sync_calls: Option<u32>,
    /// `EwsMaxBurst`: milliseconds of execution that a payer may save up. 300,000 in the global
    /// policy of Exchange 2013. `None` switches the whole busy budget off.
    pub max_burst: Option<u64>,
    /// `EwsRechargeRate`: milliseconds of execution that a payer's balance grows by in an hour.
    /// 900,000, same source.
    pub recharge_rate: u64,
    /// `EwsCutoffBalance`: how far below zero, in milliseconds, the balance may fall before the
    /// payer is locked out. 3,000,000, same source.
    pub cutoff_balance: u64,
    /// The least length of a lock-out. Five minutes: waits of 297,749 ms and 178,510 ms are on
    /// record.
    pub lockout: Duration,
    /// Milliseconds that a call during the lock-out takes from the balance, and so prolongs the
    /// lock-out. Not published; 250 in the presets, which is one second at a recharge rate of
    /// 900,000.
    pub busy_call_cost: u64,
    /// How a lock-out is told.
    pub busy_response: BusyResponse,
    /// How long a member is held up after the one before it when the balance is at the cutoff. Between
    /// a balance of zero and the cutoff the delay grows evenly, and over a percentage of a minute it
    /// is as long as this at most. The documents have the delay without a number (TH, Table 4).
    pub overdraft_delay: Duration,
    /// `EWSPercentTimeInAD` of Exchange 2010: time in the directory, within 60 seconds. Over it
    /// members are held up, and further calls get `ErrorServerBusy`. The documents have 90 as an
    /// example (TH).
    pub percent_time_in_ad: Option<PercentTime>,
    /// `EWSPercentTimeInCAS`, the same for the time in client access.
    pub percent_time_in_cas: Option<PercentTime>,
    /// `EWSPercentTimeInMailboxRPC`, the same for the time in the mailbox store.
    pub percent_time_in_mailbox_rpc: Option<PercentTime>,
    /// `CPUStartPercent` of Exchange 2010: from this load on each member is held up, by `cpu_delay`
    /// at a load of 100 percent, and by less below.
    pub cpu_start_percent: Option<u32>,
    /// How many calls are a load of 100 percent. Ours.
    pub cpu_calls: u32,
    /// The longest delay for the load: 500 ms for each member (TH).
    pub cpu_delay: Duration,
    /// `EWSFastSearchTimeoutInSeconds`: a FindItem with a query string that takes longer ends then
    /// with `ErrorTimeoutExpired`. 60 s in Exchange 2010 (New-ThrottlingPolicy).
    pub fast_search_timeout: Option<Duration>,
    /// `HangingConnectionLimit`: GetStreamingEvents of one payer at the same time, besides the other
    /// calls. 3 in Exchange 2013, 10 since 2016 (TH, Table 1).
    pub hanging_connections: Option<u32>,
    /// The time between two messages of a stream. Events wait for the next one.
    pub heartbeat: Duration,
    /// `EWSMaxSubscriptions`: 20 in Exchange 2010 and Online, 5,000 since 2013 on premises ("How to:
    /// Maintain affinity between a group of subscriptions and the Mailbox server", Table 1).
    pub max_subscriptions: Option<u32>,
    /// Who pays for a subscription.
    pub subscription_payer: SubscriptionPayer,
    /// `MessageRateLimit`: messages that one payer may send within a minute. 30 in Exchange Online
    /// (TH). More are late, and counted as a violation.
    pub message_rate: Option<u32>,
    /// Whether more messages are refused instead, with `ErrorServerBusy` and a back-off. False in
    /// the presets: the documents know no error (TH).
    pub message_rate_refuses: bool,
    /// `RecipientRateLimit`: recipients of what one payer sends within 24 hours; more get
    /// `ErrorSubmissionQuotaExceeded`. 10,000 in Exchange Online ("Fix error for submission quota
    /// exceeded").
    pub recipient_rate: Option<u32>,
    /// `DiscoveryMaxConcurrency`: SearchMailboxes of one payer at the same time. 2 in the global
    /// policy of Exchange 2013.
    pub discovery_concurrency: Option<u32>,
    /// `DiscoveryMaxMailboxes`: mailboxes of one search. 5,000, same source.
    pub discovery_mailboxes: Option<u32>,
    /// `DiscoveryMaxKeywords`: words of one search. 500, same source.
    pub discovery_keywords: Option<u32>,
    /// The least time between the arrivals of two calls of one payer. None is documented.
    pub min_spacing: Option<Duration>,
    /// The largest request, in bytes: more get HTTP 413. 67,108,864 on premises since 2016 (Exchange
    /// message size limits); 35,000,000 in Exchange 2010.
    pub max_request: u64,
    /// Somebody else on the same accounts. Nobody in the presets.
    pub other_client: Option<OtherClient>,
    /// Mailboxes that one account may have open by delegate access. 16 is what is seen; it is not
    /// published.
    pub open_mailboxes: Option<u32>,
    /// A mailbox closes this long after its last use. About five minutes is what is seen.
    pub open_mailbox_idle: Duration,
    /// Which calls open a mailbox.
    pub opened_by: OpenedBy,
    /// Calls that the server has at the same time, of all payers, queue included; beyond it
    /// responds with HTTP 503. Not published.
    pub server_calls: Option<u32>,
    /// Calls that it executes at the same time; the others queue in order of arrival. `None`: no
    /// queue.
    pub server_threads: Option<u32>,
    /// `Retry-After` of those 503 responses; `None` leaves the header out, as servers on premises
    /// do.
    pub retry_after: Option<Duration>,
    /// Time of each call besides its execution (network, authentication). It drains no busy budget.
    pub latency: Duration,
    /// Execution time of each member of a call; a call without an array has one.
    pub member_time: Duration,
    /// Execution time of each member of these operations (`ExportItems`) instead of `member_time`.
    /// None in the presets.
    pub member_times: BTreeMap<String, Duration>,
    /// How long a call with several members may execute: one minute (TH, "Throttling implications
    /// for EWS batch requests"). The time in the queue is not in it, and a call with one member may
    /// take any time.
    pub batch_limit: Option<Duration>,
    /// What comes back of a batch that was cut at this limit. Not published.
    pub batch_cut: BatchCut,
    /// Mailboxes that the members of one call may touch; members of further ones come back
    /// `ErrorTooManyObjectsOpened`. 16: the seventeenth mailbox of a FindItem was seen to fail.
    pub request_mailboxes: Option<u32>,
    /// Share by which latency and member time vary, up and down, drawn from the seed: 0.25 means
    /// ±25 %.
    pub jitter: f64,
    /// `Version` in the `ServerVersionInfo` of every response.
    pub version: &'static str,
    /// Major, minor, build and revision number in the same place.
    pub build: [u16; 4],
}

impl Policy {
    /// Exchange Online. The busy budget is hidden there: its numbers are those of Exchange 2013.
    pub fn exchange_online() -> Self {
        Self {
            max_concurrency: Some(27),
            impersonation_copy: true,
            find_count: Some(1000),
            find_count_filtered: Some(250),
            concurrent_sync_calls: Some(5),
            max_burst: Some(300_000),
            recharge_rate: 900_000,
            cutoff_balance: 3_000_000,
            lockout: Duration::from_secs(300),
            busy_call_cost: 250,
            busy_response: BusyResponse::Either,
            overdraft_delay: Duration::from_millis(500),
            percent_time_in_ad: None,
            percent_time_in_cas: None,
            percent_time_in_mailbox_rpc: None,
            cpu_start_percent: None,
            cpu_calls: 100,
            cpu_delay: Duration::from_millis(500),
            fast_search_timeout: None,
            hanging_connections: Some(10),
            heartbeat: Duration::from_secs(30),
            max_subscriptions: Some(20),
            subscription_payer: SubscriptionPayer::Mailbox,
            message_rate: Some(30),
            message_rate_refuses: false,
            recipient_rate: Some(10_000),
            discovery_concurrency: Some(2),
            discovery_mailboxes: Some(5_000),
            discovery_keywords: Some(500),
            min_spacing: None,
            max_request: 67_108_864,
            other_client: None,
            open_mailboxes: Some(16),
            open_mailbox_idle: Duration::from_secs(300),
            opened_by: OpenedBy::Writes,
            server_calls: None,
            server_threads: None,
            retry_after: Some(Duration::from_secs(30)),
            latency: Duration::from_millis(20),
            member_time: Duration::from_millis(80),
            member_times: BTreeMap::new(),
            batch_limit: Some(Duration::from_secs(60)),
            batch_cut: BatchCut::RestTimedOut,
            request_mailboxes: Some(16),
            jitter: 0.25,
            version: "V2018_01_08",
            build: [15, 20, 8769, 35],
        }
    }

    /// Exchange Server Subscription Edition: no numbers of its own are published, so those of 2019.
    pub fn exchange_se() -> Self {
        Self {
            version: "V2017_07_11",
            build: [15, 2, 2562, 17],
            ..Self::exchange_2019()
        }
    }

    /// Exchange Server 2019. The documents give 27 for 2013 only; the cmdlet's page says 10 for all
    /// versions.
    pub fn exchange_2019() -> Self {
        Self {
            version: "V2017_07_11",
            build: [15, 2, 1118, 7],
            ..Self::exchange_2016()
        }
    }

    /// Exchange Server 2016, as 2013.
    pub fn exchange_2016() -> Self {
        Self {
            hanging_connections: Some(10),
            version: "V2017_07_11",
            build: [15, 1, 2507, 6],
            ..Self::exchange_2013()
        }
    }

    /// Exchange Server 2013: every access opens a mailbox, `ConcurrentSyncCalls` does not exist, no
    /// `Retry-After`, messages and recipients are not limited.
    pub fn exchange_2013() -> Self {
        Self {
            hanging_connections: Some(3),
            max_subscriptions: Some(5_000),
            message_rate: None,
            recipient_rate: None,
            concurrent_sync_calls: None,
            opened_by: OpenedBy::ReadsAndWrites,
            retry_after: None,
            version: "V2_23",
            build: [15, 0, 1497, 2],
            ..Self::exchange_online()
        }
    }

    /// Exchange Server 2010 SP2 RU4 to SP3: ten calls, streams with a budget of the same size, no
    /// burst budget. Its time budgets are percentages of a minute, for which the documents have no
    /// numbers but an example: they are not set here.
    pub fn exchange_2010() -> Self {
        Self {
            fast_search_timeout: Some(Duration::from_secs(60)),
            hanging_connections: Some(10),
            max_subscriptions: Some(20),
            discovery_concurrency: None,
            discovery_mailboxes: None,
            discovery_keywords: None,
            max_request: 35_000_000,
            max_concurrency: Some(10),
            find_count_filtered: Some(1000),
            max_burst: None,
            version: "Exchange2010_SP2",
            build: [14, 3, 123, 4],
            ..Self::exchange_2013()
        }
    }

    /// Exchange Server 2010 before SP2 RU4: an impersonating account draws on the owner's own
    /// budget.
    pub fn exchange_2010_sp1() -> Self {
        Self {
            impersonation_copy: false,
            subscription_payer: SubscriptionPayer::Caller,
            version: "Exchange2010_SP1",
            build: [14, 1, 218, 15],
            ..Self::exchange_2010()
        }
    }

    /// Small numbers of our own, with which a test meets every limit within seconds: four calls,
    /// four open mailboxes for three seconds, lock-outs of two seconds after some twenty calls.
    pub fn laptop() -> Self {
        Self {
            max_concurrency: Some(4),
            find_count: Some(100),
            find_count_filtered: Some(25),
            concurrent_sync_calls: Some(2),
            max_burst: Some(1_000),
            recharge_rate: 1_800_000,
            cutoff_balance: 500,
            lockout: Duration::from_secs(2),
            busy_call_cost: 200,
            overdraft_delay: Duration::ZERO,
            open_mailboxes: Some(4),
            open_mailbox_idle: Duration::from_secs(3),
            server_calls: Some(64),
            server_threads: Some(32),
            retry_after: Some(Duration::from_secs(1)),
            ..Self::exchange_online()
        }
    }

    /// No limit at all, no time taken: for tests that want a server which only responds.
    pub fn unlimited() -> Self {
        Self {
            max_concurrency: None,
            find_count: None,
            find_count_filtered: None,
            concurrent_sync_calls: None,
            max_burst: None,
            hanging_connections: None,
            max_subscriptions: None,
            message_rate: None,
            recipient_rate: None,
            discovery_concurrency: None,
            discovery_mailboxes: None,
            discovery_keywords: None,
            open_mailboxes: None,
            server_calls: None,
            server_threads: None,
            latency: Duration::ZERO,
            member_time: Duration::ZERO,
            batch_limit: None,
            request_mailboxes: None,
            jitter: 0.0,
            ..Self::exchange_online()
        }
    }

    /// The same policy with some fields changed, in one expression.
    ///
    /// ```
    /// use tower_ews::simulator::Policy;
    /// let policy = Policy::laptop().with(|policy| policy.max_concurrency = Some(2));
    /// assert_eq!(policy.max_concurrency, Some(2));
    /// ```
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Names that [`named`](Self::named) knows.
    pub const NAMES: [&'static str; 9] = [
        "exchange_online",
        "exchange_se",
        "exchange_2019",
        "exchange_2016",
        "exchange_2013",
        "exchange_2010",
        "exchange_2010_sp1",
        "laptop",
        "unlimited",
    ];

    /// The preset of that name, one of [`NAMES`](Self::NAMES).
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "exchange_online" => Self::exchange_online(),
            "exchange_se" => Self::exchange_se(),
            "exchange_2019" => Self::exchange_2019(),
            "exchange_2016" => Self::exchange_2016(),
            "exchange_2013" => Self::exchange_2013(),
            "exchange_2010" => Self::exchange_2010(),
            "exchange_2010_sp1" => Self::exchange_2010_sp1(),
            "laptop" => Self::laptop(),
            "unlimited" => Self::unlimited(),
            _ => return None,
        })
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::exchange_online()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_preset() {
        for name in Policy::NAMES {
            assert!(Policy::named(name).is_some(), "{name}");
        }
        assert_eq!(Policy::named("exchange_2000"), None);
        assert!(!Policy::exchange_2010_sp1().impersonation_copy);
    }
}
