//! The rules of a throttling policy: which budgets a call draws on, how much, and who pays.

use super::budget::Budget;

/// Who pays for a budget of Exchange.
///
/// ```
/// use tower_ews::principal::Payer;
///
/// assert_eq!(Payer::default(), Payer::Effective);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Payer {
    /// The impersonated mailbox's copy if there is impersonation, else the calling account. A call
    /// that impersonates one mailbox and touches another charges both.
    #[default]
    Effective,
    /// The calling account.
    Caller,
    /// The mailbox that the call works on, whoever reaches it: the first that it names, else the impersonated one, else the calling
    /// account's own.
    Mailbox,
}

/// Which operations draw on a budget, and how much.
///
/// ```
/// use tower_ews::principal::{Budget, BudgetRule, ChargeRule, Payer};
///
/// // A budget of one's own for sending.
/// let sends = ChargeRule::Only(vec!["SendItem".to_owned()]);
/// let rule = BudgetRule::new(Budget::Custom(0), Payer::Effective, sends);
/// # let _ = rule;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ChargeRule {
    /// One for each call but GetStreamingEvents.
    Calls,
    /// One for each GetStreamingEvents.
    HangingCalls,
    /// One for each SyncFolderItems and SyncFolderHierarchy.
    Syncs,
    /// The rows that a FindItem or FindFolder may return: page size times folders, 1,000 to a folder without a page, each row four
    /// times with a restriction or query string (whose limit is 250 instead of 1,000).
    ///
    /// [`EwsCharges`](super::EwsCharges) learns from responses what a search of one folder without a page returns. The same search
    /// draws a quarter more than `TotalItemsInView` said the last time, and one that the principal has not made yet twice the most that
    /// its searches found of late, never less than 37 rows (so that 27 calls have room beside each other) nor more than 1,000.
    /// After a refusal it draws 1,000 again. Up to 32,768 numbers are kept.
    FoundRows,
    /// Each mailbox that the call reaches as a delegate.
    Mailboxes,
    /// Each mailbox that the call reaches as a delegate with an operation that changes something.
    MailboxesWritten,
    /// One for each call, GetStreamingEvents included.
    AllCalls,
    /// Each message that the call asks the server to send: the members of SendItem, those of CreateItem and UpdateItem where
    /// `MessageDisposition` or the meeting attributes say so, and those of DeleteItem where `SendMeetingCancellations` does.
    /// Appointments that are created without attendees send none.
    Messages,
    /// Each recipient of those messages: To, Cc, Bcc, and attendees of all kinds. A message whose recipients the request does not name
    /// (SendItem knows its items by their ids, a reply goes to whom the server knows) counts as one. A distribution list is one.
    Recipients,
    /// One millisecond for each call, and then what passes between sending the call and the head of its response, in milliseconds:
    /// an estimate of the time that the server works. For [`Budget::BusyTime`] and [`Budget::PercentTime`]; GetStreamingEvents, which
    /// waits, draws nothing.
    WireTime,
    /// The bytes of the request body.
    UploadedBytes,
    /// One for each call of the operations with these names.
    Only(Vec<String>),
}

/// One row of a throttling policy, as far as charges go: who is charged what on which budget.
///
/// ```
/// use tower_ews::principal::{Budget, ChargeRule, Payer, BudgetRule};
///
/// let rule = BudgetRule::new(Budget::Concurrency, Payer::Effective, ChargeRule::Calls);
/// assert_eq!(rule.budget, Budget::Concurrency);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BudgetRule {
    /// The budget.
    pub budget: Budget,
    /// Who pays.
    pub payer: Payer,
    /// What draws on it.
    pub rule: ChargeRule,
}

impl BudgetRule {
    /// Creates the row: calls draw on `budget` of `payer` by `rule`.
    pub fn new(budget: Budget, payer: Payer, rule: ChargeRule) -> Self {
        Self {
            budget,
            payer,
            rule,
        }
    }
}
