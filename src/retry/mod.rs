//! Parts of every layer that retries: how long to wait, what a failure proves, what may be sent twice.

pub(crate) mod backoff;
mod failure;
mod idempotency;
mod info;
mod retry_after;

pub use self::failure::Failure;
#[cfg(feature = "ews")]
pub(crate) use self::failure::source;
pub use self::idempotency::Idempotency;
pub use self::info::RetryInfo;
#[cfg(feature = "graph")]
pub(crate) use self::retry_after::retry_after_among;
pub use self::retry_after::{retry_after, with_margin};
