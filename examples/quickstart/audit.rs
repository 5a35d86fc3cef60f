//! The audit log of the stack's calls, if it is asked for.

use std::path::Path;

use tower_ews::audit_log::{
    JsonLinesGuard, JsonLinesSink, Level, Overflow, Record, Rotation, Sink,
};

use crate::args::Usage;

/// A sink that may be there.
#[derive(Clone)]
pub(crate) struct Audit(Option<JsonLinesSink>);

impl Audit {
    /// The sink, and what writes its last lines when it is dropped.
    pub(crate) fn begin(file: Option<&Path>) -> Result<(Self, Option<JsonLinesGuard>), Usage> {
        let Some(file) = file else {
            return Ok((Self(None), None));
        };
        // A log with gaps is worth less than the time that it takes.
        let sink = JsonLinesSink::builder().overflow(Overflow::Block);
        let (sink, guard) = sink
            .file(file, Rotation::new())
            .map_err(|error| Usage(format!("--audit {}: {error}", file.display())))?;
        Ok((Self(Some(sink)), Some(guard)))
    }

    pub(crate) fn level(&self) -> Level {
        match self.0 {
            Some(_) => Level::Summary,
            None => Level::Off,
        }
    }
}

impl Sink for Audit {
    fn record(&self, record: &Record) {
        if let Some(sink) = &self.0 {
            sink.record(record);
        }
    }
}
