//! [`Limit`]: how a budget is counted, and its number.

use std::time::Duration;

/// How a budget is counted, and its number.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::ledger::Limit;
///
/// // Sixteen mailboxes open per delegate account, each until five minutes after its last use.
/// let open = Limit::Distinct { limit: 16, idle: Duration::from_secs(300) };
/// assert_eq!(open.number(), 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Limit {
    /// Amounts held at the same time.
    InFlight(u32),
    /// Different values in use. A value stays in use for `idle` after its last use.
    Distinct {
        /// The number of values.
        limit: u32,
        /// How long a value stays open after its last use. In a file: seconds.
        #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
        idle: Duration,
    },
}

impl Limit {
    /// The number: an amount, or a number of values.
    pub fn number(&self) -> u32 {
        match self {
            Self::InFlight(number) | Self::Distinct { limit: number, .. } => *number,
        }
    }

    /// The same limit with another number.
    pub fn with_number(self, number: u32) -> Self {
        match self {
            Self::InFlight(_) => Self::InFlight(number),
            Self::Distinct { idle, .. } => Self::Distinct {
                limit: number,
                idle,
            },
        }
    }
}
