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
///
/// // Thirty messages a minute, all of them at once if none were sent before.
/// let messages = Limit::per_window(30, Duration::from_secs(60));
/// assert_eq!(messages.number(), 30);
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
    /// Amounts per time: a bucket that calls draw from and that fills up again steadily.
    ///
    /// The amounts are the budget's: calls, messages, bytes, milliseconds. They are taken for good when the call is admitted; only a
    /// call that was never sent gives them back, and one that the server did nothing of: [`Signal::Unspent`](super::Signal::Unspent). What is known after the fact is taken with
    /// [`Signal::Spent`](super::Signal::Spent), and may leave the bucket in debt: then nothing is admitted until it is paid off. An
    /// amount above `limit` is admitted when the bucket is full, and leaves it in debt.
    ///
    /// In any time `t` at most `limit + refill * t / period` are admitted, debts aside. A bucket that is full costs no memory.
    PerWindow {
        /// What a full bucket holds: the most that can be drawn at once (the burst).
        limit: u32,
        /// How much comes back in each `period`.
        refill: u32,
        /// The time in which `refill` comes back, bit by bit. In a file: seconds. Zero limits nothing.
        #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
        period: Duration,
    },
    /// Amounts within any time of one length: "30 messages a minute", where the server counts those of the last minute.
    ///
    /// As [`PerWindow`](Self::PerWindow), but what a call drew comes back all at once, one `period` after the call has ended, since nobody
    /// knows when the server counted it in between. So no more than `limit` is ever within one period on the server, where a bucket of the
    /// same number lets through twice as much in its first period. A fleet's ledger shares it as such a bucket.
    ///
    /// It is kept in 256 parts of a period: an amount comes back that much later at the most.
    Sliding {
        /// The most within any `period`.
        limit: u32,
        /// The time. In a file: seconds. Zero limits nothing.
        #[cfg_attr(feature = "serde", serde(with = "crate::seconds"))]
        period: Duration,
    },
}

impl Limit {
    /// Creates a bucket that holds `number` and gets as much back in each `period`.
    pub fn per_window(number: u32, period: Duration) -> Self {
        Self::PerWindow {
            limit: number,
            refill: number,
            period,
        }
    }

    /// The number: an amount at the same time or at once, or a number of values.
    pub fn number(&self) -> u32 {
        match self {
            Self::InFlight(number)
            | Self::Distinct { limit: number, .. }
            | Self::PerWindow { limit: number, .. }
            | Self::Sliding { limit: number, .. } => *number,
        }
    }

    /// Whether no call could ever run under it: a number of 0, or a bucket that gets nothing back.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::PerWindow { limit, refill, .. } => *limit == 0 || *refill == 0,
            Self::InFlight(_) | Self::Distinct { .. } | Self::Sliding { .. } => self.number() == 0,
        }
    }

    /// The same limit with another number. What comes back to a bucket changes in proportion, to 1 at least.
    pub fn with_number(self, number: u32) -> Self {
        match self {
            Self::InFlight(_) => Self::InFlight(number),
            Self::Sliding { period, .. } => Self::Sliding {
                limit: number,
                period,
            },
            Self::Distinct { idle, .. } => Self::Distinct {
                limit: number,
                idle,
            },
            Self::PerWindow {
                limit,
                refill,
                period,
            } => {
                let scaled = u64::from(refill) * u64::from(number) / u64::from(limit.max(1));
                Self::PerWindow {
                    limit: number,
                    refill: u32::try_from(scaled).unwrap_or(u32::MAX).max(1),
                    period,
                }
            }
        }
    }

    /// Shortens the time that belongs to it to what a clock can count.
    pub(super) fn bounded(mut self, longest: Duration) -> Self {
        match &mut self {
            Self::InFlight(_) => {}
            Self::Distinct { idle: time, .. }
            | Self::PerWindow { period: time, .. }
            | Self::Sliding { period: time, .. } => {
                *time = (*time).min(longest);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn another_number_keeps_the_proportion() {
        let bucket = |limit, refill| Limit::PerWindow {
            limit,
            refill,
            period: MINUTE,
        };
        assert_eq!(Limit::InFlight(3).with_number(5), Limit::InFlight(5));
        for (from, number, to) in [
            (bucket(100, 50), 10, bucket(10, 5)),
            (bucket(100, 1), 10, bucket(10, 1)),
            (bucket(1, u32::MAX), u32::MAX, bucket(u32::MAX, u32::MAX)),
            (bucket(0, 7), 7, bucket(7, 49)),
        ] {
            assert_eq!(from.with_number(number), to);
        }
    }

    #[test]
    fn a_bucket_that_gets_nothing_back_is_zero() {
        let bucket = |limit, refill| Limit::PerWindow {
            limit,
            refill,
            period: MINUTE,
        };
        for (limit, zero) in [
            (Limit::InFlight(0), true),
            (Limit::InFlight(1), false),
            (Limit::per_window(0, MINUTE), true),
            (Limit::per_window(1, MINUTE), false),
            (bucket(0, 1), true),
            (bucket(1, 0), true),
        ] {
            assert_eq!(limit.is_zero(), zero, "{limit:?}");
        }
    }
}
