//! Where records go: the [`Sink`] trait, and the sinks.

#[cfg(feature = "json")]
mod json_lines;
mod memory;
mod tracing;
mod traits;
mod visible;

#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
pub use self::json_lines::{
    JsonLinesBuilder, JsonLinesGuard, JsonLinesSink, LogFileError, Overflow, Rotation,
};
pub use self::memory::MemorySink;
pub use self::tracing::TracingSink;
pub use self::traits::Sink;
