//! The texts that principals and budgets are known by outside of a process, and how they are read back.

use std::fmt;
use std::str::FromStr;

use super::budget::Budget;
use super::identity::{Principal, PrincipalKind};

const CUSTOM: &str = "custom-";

/// A text that is no key of a principal.
///
/// ```
/// use tower_ews::principal::Principal;
///
/// let error = Principal::from_key("amy@contoso.com").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the key has no principal prefix: begin it with account:, impersonation:, mailbox: or other:"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key has no principal prefix: begin it with account:, impersonation:, mailbox: or other:"
)]
pub struct ParseKeyError(());

/// A text that is no name of a budget.
///
/// ```
/// use tower_ews::principal::Budget;
///
/// let error = "custom-256".parse::<Budget>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "no such budget: write concurrency, hanging-connections, sync-calls, find-count, open-mailboxes, message-rate, recipient-rate, busy-time, percent-time, subscriptions, requests, upload-bytes, discovery, spacing or custom-0 to custom-255"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such budget: write concurrency, hanging-connections, sync-calls, find-count, open-mailboxes, \
     message-rate, recipient-rate, busy-time, percent-time, subscriptions, requests, \
     upload-bytes, discovery, spacing or custom-0 to custom-255"
)]
pub struct ParseBudgetError(());

impl Principal {
    /// Returns the principal's key: its kind, a colon and its [name](Self::name). Equal principals have equal keys, different ones
    /// different keys.
    ///
    /// The key is the same in every process and in every version of this crate. Use it to name a principal in a store that processes
    /// share, and read it back with [`from_key`](Self::from_key).
    ///
    /// ```
    /// use tower_ews::principal::Principal;
    ///
    /// assert_eq!(Principal::account("Svc@Contoso.com").key(), "account:svc@contoso.com");
    /// assert_eq!(Principal::impersonation("amy@contoso.com").key(), "impersonation:amy@contoso.com");
    /// assert_eq!(Principal::mailbox("amy@contoso.com").key(), "mailbox:amy@contoso.com");
    /// assert_eq!(Principal::new("app:Tenant").key(), "other:app:Tenant");
    /// ```
    pub fn key(&self) -> String {
        let kind = match self.kind() {
            PrincipalKind::Account => "account:",
            PrincipalKind::Impersonation => "impersonation:",
            PrincipalKind::Mailbox => "mailbox:",
            PrincipalKind::Other => "other:",
        };
        [kind, self.name()].concat()
    }

    /// Reads a [`key`](Self::key).
    ///
    /// # Errors
    ///
    /// Returns [`ParseKeyError`] if no known kind stands in front of the first colon.
    ///
    /// ```
    /// use tower_ews::principal::{ParseKeyError, Principal};
    ///
    /// let amy = Principal::impersonation("amy@contoso.com");
    /// assert_eq!(Principal::from_key("impersonation:amy@contoso.com")?, amy);
    /// # Ok::<(), ParseKeyError>(())
    /// ```
    pub fn from_key(key: &str) -> Result<Self, ParseKeyError> {
        let (kind, name) = key.split_once(':').ok_or(ParseKeyError(()))?;
        match kind {
            "account" => Ok(Self::account(name)),
            "impersonation" => Ok(Self::impersonation(name)),
            "mailbox" => Ok(Self::mailbox(name)),
            "other" => Ok(Self::new(name)),
            _ => Err(ParseKeyError(())),
        }
    }
}

/// Writes the budget's name. It is the same in every process and in every version of this crate.
///
/// ```
/// use tower_ews::principal::Budget;
///
/// assert_eq!(Budget::HangingConnections.to_string(), "hanging-connections");
/// assert_eq!(Budget::Custom(7).to_string(), "custom-7");
/// ```
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Concurrency => f.pad("concurrency"),
            Budget::HangingConnections => f.pad("hanging-connections"),
            Budget::SyncCalls => f.pad("sync-calls"),
            Budget::FindCount => f.pad("find-count"),
            Budget::OpenMailboxes => f.pad("open-mailboxes"),
            Budget::MessageRate => f.pad("message-rate"),
            Budget::RecipientRate => f.pad("recipient-rate"),
            Budget::BusyTime => f.pad("busy-time"),
            Budget::PercentTime => f.pad("percent-time"),
            Budget::Subscriptions => f.pad("subscriptions"),
            Budget::Requests => f.pad("requests"),
            Budget::UploadBytes => f.pad("upload-bytes"),
            Budget::Discovery => f.pad("discovery"),
            Budget::Spacing => f.pad("spacing"),
            Budget::Custom(number) => write!(f, "{CUSTOM}{number}"),
        }
    }
}

/// Reads what `Display` writes, and nothing else.
///
/// ```
/// use tower_ews::principal::Budget;
///
/// assert_eq!("find-count".parse(), Ok(Budget::FindCount));
/// assert_eq!("custom-7".parse(), Ok(Budget::Custom(7)));
/// assert!("custom-07".parse::<Budget>().is_err());
/// ```
impl FromStr for Budget {
    type Err = ParseBudgetError;

    fn from_str(name: &str) -> Result<Self, ParseBudgetError> {
        Ok(match name {
            "concurrency" => Budget::Concurrency,
            "hanging-connections" => Budget::HangingConnections,
            "sync-calls" => Budget::SyncCalls,
            "find-count" => Budget::FindCount,
            "open-mailboxes" => Budget::OpenMailboxes,
            "message-rate" => Budget::MessageRate,
            "recipient-rate" => Budget::RecipientRate,
            "busy-time" => Budget::BusyTime,
            "percent-time" => Budget::PercentTime,
            "subscriptions" => Budget::Subscriptions,
            "requests" => Budget::Requests,
            "upload-bytes" => Budget::UploadBytes,
            "discovery" => Budget::Discovery,
            "spacing" => Budget::Spacing,
            _ => {
                let number = name.strip_prefix(CUSTOM).ok_or(ParseBudgetError(()))?;
                // One text for each budget: no sign, no zeros in front.
                let plain = number == "0" || !number.starts_with(['0', '+']);
                let number = number.parse().ok().filter(|_| plain);
                Budget::Custom(number.ok_or(ParseBudgetError(()))?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn principals(name: &str) -> [Principal; 4] {
        [
            Principal::new(name),
            Principal::account(name),
            Principal::impersonation(name),
            Principal::mailbox(name),
        ]
    }

    proptest! {
        #[test]
        fn keys_are_read_back(name in prop_oneof![any::<String>(), "[a-zA-Z:é\\u{1F4E7}]{0,8}"], other in any::<String>()) {
            let all: Vec<Principal> = principals(&name).into_iter().chain(principals(&other)).collect();
            for one in &all {
                let read = Principal::from_key(&one.key()).unwrap();
                prop_assert_eq!(&read, one);
                prop_assert_eq!((read.kind(), read.name()), (one.kind(), one.name()));
                for other in &all {
                    prop_assert_eq!(one == other, one.key() == other.key());
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), budget in "(custom-)?[+0-9a-z-]{0,5}") {
            if let Ok(principal) = Principal::from_key(&text) {
                prop_assert!(text.contains(':'));
                prop_assert_eq!(Principal::from_key(&principal.key()), Ok(principal));
            }
            if let Ok(read) = budget.parse::<Budget>() {
                prop_assert_eq!(read.to_string(), budget);
            }
        }
    }

    #[test]
    fn keys_do_not_change() {
        for (principal, key) in [
            (Principal::account(""), "account:"),
            (Principal::account("ÄMY@X"), "account:Ämy@x"),
            (
                Principal::impersonation("S-1-5:21"),
                "impersonation:s-1-5:21",
            ),
            (Principal::mailbox("account:x"), "mailbox:account:x"),
            (Principal::new("account:X"), "other:account:X"),
        ] {
            assert_eq!(principal.key(), key);
            assert_eq!(Principal::from_key(key), Ok(principal));
        }
        for key in ["", "amy", "Account:amy", "tenant:amy", " account:amy"] {
            assert_eq!(Principal::from_key(key), Err(ParseKeyError(())), "{key}");
        }
    }

    #[test]
    fn names_of_budgets_do_not_change() {
        let named = [
            (Budget::Concurrency, "concurrency"),
            (Budget::HangingConnections, "hanging-connections"),
            (Budget::SyncCalls, "sync-calls"),
            (Budget::FindCount, "find-count"),
            (Budget::OpenMailboxes, "open-mailboxes"),
            (Budget::MessageRate, "message-rate"),
            (Budget::RecipientRate, "recipient-rate"),
            (Budget::BusyTime, "busy-time"),
            (Budget::PercentTime, "percent-time"),
            (Budget::Subscriptions, "subscriptions"),
            (Budget::Requests, "requests"),
            (Budget::UploadBytes, "upload-bytes"),
            (Budget::Discovery, "discovery"),
            (Budget::Spacing, "spacing"),
        ];
        for (budget, name) in named {
            assert_eq!(
                (budget.to_string().as_str(), name.parse()),
                (name, Ok(budget))
            );
        }
        for number in 0..=255 {
            let budget = Budget::Custom(number);
            assert_eq!(budget.to_string(), format!("custom-{number}"));
            assert_eq!(budget.to_string().parse(), Ok(budget));
        }
        for name in [
            "",
            "Concurrency",
            "custom",
            "custom-",
            "custom-+7",
            "custom-07",
            "custom-256",
            "custom--1",
        ] {
            assert!(name.parse::<Budget>().is_err(), "{name}");
        }
    }
}
