//! Each record as one line of JSON, written by a thread of its own.

mod builder;
mod encode;
mod error;
mod file;
mod guard;
mod overflow;
mod queue;
mod rotation;
mod sink;

pub use self::builder::JsonLinesBuilder;
pub use self::error::LogFileError;
pub use self::guard::JsonLinesGuard;
pub use self::overflow::Overflow;
pub use self::rotation::Rotation;
pub use self::sink::JsonLinesSink;
