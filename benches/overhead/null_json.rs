//! JSON into a writer that drops it: the audit log's sink, and what a `tracing` program has in its place.

use std::io;

use tower_ews::audit_log::{JsonLinesSink, Overflow};
use tracing::Dispatch;
use tracing::level_filters::LevelFilter;

/// The sink as a program has it, with a writer that drops what it gets. No line is dropped before: all are made.
pub(super) fn json_sink() -> io::Result<JsonLinesSink> {
    let (sink, guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .writer(io::sink())?;
    // The bench ends when the process does.
    std::mem::forget(guard);
    Ok(sink)
}

/// Formats JSON, as `tracing_subscriber::fmt().json()` does, for a writer that drops it.
pub(super) fn json_subscriber() -> Dispatch {
    let subscriber = tracing_subscriber::fmt()
        .json()
        // The spans and events of tower-http's `TraceLayer` are at this level: at any other one it would tell nothing.
        .with_max_level(LevelFilter::DEBUG)
        .with_writer(io::sink)
        .finish();
    Dispatch::new(subscriber)
}
