//! Parts of every layer that retries: how long to wait, what a failure proves, what may be sent twice.

use std::time::Duration;

use tokio::time::Instant;

pub(crate) mod backoff;
mod connection;
mod credentials;
pub(crate) mod denials;
mod failure;
mod idempotency;
mod info;
mod rate_limit;
mod recent;
mod retry_after;
mod status;

pub(crate) use self::connection::Connection;
pub(crate) use self::credentials::CredentialMemory;
#[cfg(feature = "ews")]
pub(crate) use self::credentials::CredentialsChanged;
pub use self::failure::Failure;
pub(crate) use self::failure::needs_a_person;
#[cfg(feature = "ews")]
pub(crate) use self::failure::source;
pub use self::idempotency::Idempotency;
pub use self::info::RetryInfo;
pub(crate) use self::rate_limit::rate_limit;
pub(crate) use self::recent::Recent;
pub use self::retry_after::retry_after;
#[cfg(feature = "graph")]
pub(crate) use self::retry_after::retry_after_among;
pub(crate) use self::retry_after::with_margin;
pub(crate) use self::status::StatusMeaning;
#[cfg(feature = "ews")]
pub(crate) use self::status::is_error_page;

/// How often a request is sent again after it was lost, or after a response that does not say what became of it: seldom
/// longer than half a minute with the default waits. A restart of a server or a proxy takes that long; what lasts longer
/// is not cured by asking again.
pub(crate) const MAX_LOSS_RETRIES: u32 = 6;

/// How often a request is sent again after an attempt that took too long. Most of them were sent over a connection that had
/// died unnoticed, and another one cures that. A server that hangs is at work on each of them, and need not have more.
pub(crate) const MAX_TIMEOUT_RETRIES: u32 = 2;

/// What is left of a deadline for an attempt after a wait. One without time for a response would only leave open what became
/// of it.
const LEAST_TIME: Duration = Duration::from_secs(1);

/// Cuts a drawn wait that leaves no time for another attempt, unless there is hardly any in any case. A wait of the server is
/// never shortened.
pub(crate) fn cut_to(deadline: Instant, drawn: Duration, now: Instant) -> Duration {
    let left = deadline.saturating_duration_since(now);
    match left.saturating_sub(LEAST_TIME) {
        Duration::ZERO => drawn,
        longest => drawn.min(longest),
    }
}

/// Returns how often a request is sent again after it was lost by `error`.
pub(crate) fn retries_of_loss(error: &(dyn std::error::Error + 'static)) -> u32 {
    match failure::took_too_long(error) {
        true => MAX_TIMEOUT_RETRIES,
        false => MAX_LOSS_RETRIES,
    }
}
