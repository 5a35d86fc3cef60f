//! The presets: what is documented of each version of Exchange, and of Graph's Outlook service.

use std::time::Duration;

use super::row::BudgetPolicy;
use super::throttling::ThrottlingPolicy;
use crate::ledger::Limit;
use crate::principal::{Budget, ChargeRule, Payer};

impl Default for ThrottlingPolicy {
    fn default() -> Self {
        Self::exchange_online()
    }
}

/// A preset by its name.
type Preset = (&'static str, fn() -> ThrottlingPolicy);

const PRESETS: &[Preset] = &[
    ("exchange_online", ThrottlingPolicy::exchange_online),
    ("exchange_se", ThrottlingPolicy::exchange_se),
    ("exchange_2019", ThrottlingPolicy::exchange_2019),
    ("exchange_2016", ThrottlingPolicy::exchange_2016),
    ("exchange_2013", ThrottlingPolicy::exchange_2013),
    ("exchange_2010", ThrottlingPolicy::exchange_2010),
    ("exchange_2010_sp1", ThrottlingPolicy::exchange_2010_sp1),
    ("graph_outlook", ThrottlingPolicy::graph_outlook),
];

const A_MINUTE: Duration = Duration::from_secs(60);
const A_DAY: Duration = Duration::from_secs(86_400);

/// The documents give 35,000,000 bytes for Outlook on the web and no number for EWS (Message size limits in Exchange Server): whoever
/// stays below the smaller one is safe.
const MAX_REQUEST_2010: u64 = 35_000_000;

/// What the documents give a number of "within" some time: nobody says where that begins, so any is meant.
const fn within(limit: u32, period: Duration) -> Limit {
    Limit::Sliding { limit, period }
}

/// What the numbers of one version are, beside those that all have in common.
struct Version {
    concurrency: u32,
    hanging: u32,
    subscriptions: u32,
    opens: ChargeRule,
}

impl ThrottlingPolicy {
    fn exchange(name: &str, version: Version) -> Self {
        let a_while = Duration::from_secs(5 * 60);
        let open = Limit::Distinct {
            limit: 16,
            idle: a_while,
        };
        let subscriptions = Limit::InFlight(version.subscriptions);
        Self::unlimited(name)
            .with(Budget::Concurrency, Limit::InFlight(version.concurrency))
            .with(Budget::HangingConnections, Limit::InFlight(version.hanging))
            .with(Budget::FindCount, Limit::InFlight(1000))
            .with(Budget::OpenMailboxes, open)
            .change(Budget::OpenMailboxes, |row| row.rule = version.opens)
            .with(Budget::Subscriptions, subscriptions)
    }

    /// Adds a row that is charged as documented.
    fn with(mut self, budget: Budget, limit: Limit) -> Self {
        self.budgets.extend(BudgetPolicy::of(budget, limit));
        self
    }

    fn change(mut self, budget: Budget, change: impl FnOnce(&mut BudgetPolicy)) -> Self {
        if let Some(row) = self.budgets.iter_mut().find(|row| row.budget == budget) {
            change(row);
        }
        self
    }

    /// Exchange Online: `EWSMaxConcurrency` 27, `HangingConnectionLimit` 10, `EWSFindCountLimit` 1000, `EWSMaxSubscriptions` 20,
    /// `MessageRateLimit` 30 a minute (EWS throttling in Exchange), `RecipientRateLimit` 10,000 a day (Sending limits of Exchange
    /// Online), `ConcurrentSyncCalls` 5 (seen in a response), 16 mailboxes open to one delegate account for about 5 minutes by
    /// operations that write (seen, not documented).
    pub fn exchange_online() -> Self {
        let online = Version {
            concurrency: 27,
            hanging: 10,
            subscriptions: 20,
            opens: ChargeRule::MailboxesWritten,
        };
        Self::exchange("exchange_online", online)
            .with(Budget::SyncCalls, Limit::InFlight(5))
            .with(Budget::MessageRate, within(30, A_MINUTE))
            .with(Budget::RecipientRate, within(10_000, A_DAY))
    }

    /// Exchange Server Subscription Edition: no numbers are published, so those of 2019.
    pub fn exchange_se() -> Self {
        Self::since_2016("exchange_se")
    }

    /// Exchange Server 2019: `EWSMaxConcurrency` 27 and `EWSMaxSubscriptions` 5000 as in 2013 by inheritance (the cmdlet's page says 10
    /// calls), `HangingConnectionLimit` 10. Any access opens a mailbox.
    ///
    /// No numbers are stated for the execution time of an account. [`set_busy_time`](Self::set_busy_time) sets what
    /// `Get-ThrottlingPolicy` says.
    pub fn exchange_2019() -> Self {
        Self::since_2016("exchange_2019")
    }

    /// Exchange Server 2016: as 2019.
    pub fn exchange_2016() -> Self {
        Self::since_2016("exchange_2016")
    }

    fn since_2016(name: &str) -> Self {
        let since_2016 = Version {
            concurrency: 27,
            hanging: 10,
            subscriptions: 5000,
            opens: ChargeRule::Mailboxes,
        };
        Self::exchange(name, since_2016)
    }

    /// Exchange Server 2013: `EWSMaxConcurrency` 27, `HangingConnectionLimit` 3 (EWS throttling in Exchange, Table 1),
    /// `EWSMaxSubscriptions` 5000, `EwsMaxBurst` 300,000 ms, `EwsRechargeRate` 900,000 ms an hour, `EwsCutoffBalance` 3,000,000 ms,
    /// `DiscoveryMaxConcurrency` 2 (its global policy).
    pub fn exchange_2013() -> Self {
        let v2013 = Version {
            concurrency: 27,
            hanging: 3,
            subscriptions: 5000,
            opens: ChargeRule::Mailboxes,
        };
        let mut policy =
            Self::exchange("exchange_2013", v2013).with(Budget::Discovery, Limit::InFlight(2));
        let set = policy.set_busy_time(300_000, 900_000, 3_000_000);
        debug_assert!(set.is_ok(), "the numbers of 2013");
        policy
    }

    /// Exchange Server 2010 since SP2 RU4: `EWSMaxConcurrency` 10, streaming with a budget of the same size,
    /// `EWSMaxSubscriptions` 20 (an example of the documents).
    pub fn exchange_2010() -> Self {
        let v2010 = Version {
            concurrency: 10,
            hanging: 10,
            subscriptions: 20,
            opens: ChargeRule::Mailboxes,
        };
        let mut policy = Self::exchange("exchange_2010", v2010);
        policy.max_request = MAX_REQUEST_2010;
        policy
    }

    /// Exchange Server 2010 before SP2 RU4: as [`exchange_2010`](Self::exchange_2010), but impersonation draws on the mailbox owner's
    /// own budget, and subscriptions count to the calling account.
    pub fn exchange_2010_sp1() -> Self {
        let mut policy =
            Self::exchange_2010().change(Budget::Subscriptions, |row| row.payer = Payer::Caller);
        policy.name = "exchange_2010_sp1".to_owned();
        policy.impersonation_copy = false;
        policy
    }

    /// The Outlook service of Microsoft Graph: for each application and mailbox 4 concurrent requests, 10,000 requests in 10 minutes, and
    /// 150 MB of uploads in 5 minutes (Outlook service limits). `graph_charges` (feature `graph`) or a closure over the request gives the
    /// key.
    pub fn graph_outlook() -> Self {
        let (requests, uploads) = (10 * A_MINUTE, 5 * A_MINUTE);
        Self::unlimited("graph_outlook")
            .with(Budget::Concurrency, Limit::InFlight(4))
            .with(Budget::Requests, within(10_000, requests))
            .with(Budget::UploadBytes, within(150_000_000, uploads))
    }

    /// Returns the preset of that name.
    pub fn named(name: &str) -> Option<Self> {
        let preset = PRESETS.iter().find(|(known, _)| *known == name);
        preset.map(|(_, preset)| preset())
    }

    /// Returns the names of the presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }
}
