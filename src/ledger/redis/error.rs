//! [`StoreError`]: why Redis could not be asked.

use std::time::Duration;

use redis::RedisError;

/// Why Redis could not be asked, or what is wrong with its response. The source of
/// [`AcquireError::Unavailable`](crate::ledger::AcquireError::Unavailable).
///
/// ```
/// use tower_ews::ledger::redis::StoreError;
///
/// let error = StoreError::TimedOut(std::time::Duration::from_secs(1));
/// assert_eq!(error.to_string(), "Redis did not respond within 1 s");
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Redis cannot be reached, or refuses the command.
    #[error("Redis: {0}")]
    Redis(#[source] RedisError),
    /// Redis did not respond in time.
    #[error("Redis did not respond within {}", crate::seconds::Seconds(*.0))]
    TimedOut(Duration),
    /// Another version of this crate keeps its state otherwise there: give one of them another prefix, and limits of its own.
    #[error(
        "the state in Redis has layout {found}, this version of tower-ews writes layout 2: \
         run one version, or set another prefix"
    )]
    Layout {
        /// The layout that was found.
        found: String,
    },
    /// The response cannot be read.
    #[error("the response of Redis cannot be read: {0}")]
    Nonsense(#[source] serde_json::Error),
    /// The runtime that renewed the leases has ended.
    #[error("the runtime that renewed the leases has ended")]
    Ended,
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match (error.code(), error.detail()) {
            (Some("LAYOUT"), found) => Self::Layout {
                found: found.unwrap_or_default().to_owned(),
            },
            _ => Self::Redis(error),
        }
    }
}

impl StoreError {
    pub(super) fn is_no_script(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("NOSCRIPT"))
    }

    pub(super) fn unreadable(error: impl Into<RedisError>) -> Self {
        Self::Redis(error.into())
    }

    /// Whether waiting does not help.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Layout { .. } | Self::Ended)
    }
}
