//! [`Journal`]: where a job writes down what it sends and how that ends.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::line::{self, Entry};
use super::outcome::JobOutcome;
use super::past::Past;
use crate::errors::JournalError;

/// Writes down what a job sends, and how that ends. Clones write to one place.
///
/// See the [module](super) for what is written.
///
/// ```
/// use tower_ews::job::Journal;
///
/// # fn open() -> std::io::Result<()> {
/// let path = "migration.journal";
/// let file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
/// let journal = Journal::new(file);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    file: Mutex<File>,
    /// A layer notes what is sent.
    has_layer: AtomicBool,
}

struct File {
    writer: Box<dyn Write + Send>,
    /// What was written, in earlier runs and in this one.
    past: Past,
    /// Why nothing more is written.
    error: Option<JournalError>,
}

impl Journal {
    /// Begins a journal.
    pub fn new(writer: impl Write + Send + 'static) -> Self {
        Self::resume(writer, Past::default())
    }

    /// Goes on with the journal of an interrupted job. `writer` appends to what `past` was read from.
    pub fn resume(writer: impl Write + Send + 'static, mut past: Past) -> Self {
        let settled = past.take_settled();
        let journal = Self(Arc::new(Inner {
            file: Mutex::new(File {
                writer: Box::new(writer),
                past,
                error: None,
            }),
            has_layer: AtomicBool::new(false),
        }));
        for (key, outcome) in settled {
            // A failure keeps the first call from being sent.
            let _ = journal.end(&key, outcome);
        }
        journal
    }

    /// Says that calls are noted when they are sent.
    pub(super) fn add_layer(&self) {
        self.0.has_layer.store(true, Ordering::Relaxed);
    }

    /// Whether a call is to be made, by all that was written.
    pub(super) fn leaves_open(&self, key: &str) -> bool {
        self.0.file.lock().past.leaves_open(key)
    }

    pub(super) fn has_layer(&self) -> bool {
        self.0.has_layer.load(Ordering::Relaxed)
    }

    /// Writes that a call is sent, unless another one with its key was.
    pub(super) fn begin(&self, key: &str) -> Result<(), JournalError> {
        let file = &mut *self.0.file.lock();
        if !file.past.leaves_open(key) {
            let error = format!("another call of this journal has the key {key}");
            return Err(JournalError::new(io::Error::new(
                io::ErrorKind::AlreadyExists,
                error,
            )));
        }
        file.write(Entry::Begun, key)
    }

    /// Writes how a call has ended.
    pub(super) fn end(&self, key: &str, outcome: JobOutcome) -> Result<(), JournalError> {
        self.0.file.lock().write(Entry::Ended(outcome), key)
    }
}

impl File {
    fn write(&mut self, entry: Entry, key: &str) -> Result<(), JournalError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let line = line::write(entry, key);
        let writer = &mut self.writer;
        let written = writer
            .write_all(line.as_bytes())
            .and_then(|()| writer.flush());
        self.past.note(entry, key.to_owned());
        written.map_err(|error: io::Error| {
            tracing::error!(target: "tower_ews::job", %error, "the journal cannot be written");
            let error = JournalError::new(error);
            self.error.insert(error).clone()
        })
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("error", &self.0.file.lock().error)
            .finish_non_exhaustive()
    }
}

/// A request extension: a call of a job, which is noted when it is sent.
#[derive(Clone, Debug)]
pub(super) struct Mark(Arc<MarkInner>);

#[derive(Debug)]
struct MarkInner {
    journal: Journal,
    key: String,
    /// Whether it was noted. Held while that is done, so that nothing is sent before.
    begun: Mutex<bool>,
}

impl Mark {
    pub(super) fn new(journal: &Journal, key: &str) -> Self {
        Self(Arc::new(MarkInner {
            journal: journal.clone(),
            key: key.to_owned(),
            begun: Mutex::new(false),
        }))
    }

    /// Writes that the call is sent, the first time.
    pub(super) fn begin(&self) -> Result<(), JournalError> {
        let mut begun = self.0.begun.lock();
        if !*begun {
            self.0.journal.begin(&self.0.key)?;
            *begun = true;
        }
        Ok(())
    }

    /// Whether anything was sent.
    pub(super) fn is_begun(&self) -> bool {
        *self.0.begun.lock()
    }
}
