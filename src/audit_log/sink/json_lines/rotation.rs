//! [`Rotation`]: when a log file is put aside.

/// When a log file is put aside, and how many are kept: `audit.jsonl` is written, `audit.jsonl.1`
/// was the one before it.
///
/// By default with each day of the local time zone and past 100 MiB, and 10 old ones are kept.
///
/// ```
/// use tower_ews::audit_log::Rotation;
///
/// let rotation = Rotation::new().max_bytes(1 << 30).keep(31);
/// assert_eq!(rotation, Rotation::new().keep(31).max_bytes(1 << 30).daily(true));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "builders do nothing until they are built"]
pub struct Rotation {
    pub(super) max_bytes: u64,
    pub(super) daily: bool,
    pub(super) keep: usize,
}

impl Default for Rotation {
    fn default() -> Self {
        Rotation {
            max_bytes: 100 << 20,
            daily: true,
            keep: 10,
        }
    }
}

impl Rotation {
    /// Creates a rotation with each day and past 100 MiB that keeps 10 old files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the size from which a file is put aside before the next line; 0 is no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets whether the first line of a day begins a new file.
    pub fn daily(mut self, daily: bool) -> Self {
        self.daily = daily;
        self
    }

    /// Sets how many old files are kept, at least 1. The oldest is removed.
    pub fn keep(mut self, files: usize) -> Self {
        self.keep = files.max(1);
        self
    }
}
