//! [`LogFileError`]: what is wrong with a log file.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// Why a log file cannot be written.
///
/// As an [`io::Error`], into which it is converted by `?`, it has the kind of what went wrong.
///
/// ```
/// use tower_ews::audit_log::{JsonLinesSink, LogFileError, Rotation};
///
/// let folder = std::env::temp_dir();
/// let error = JsonLinesSink::builder().file(&folder, Rotation::new()).unwrap_err();
/// assert!(matches!(error, LogFileError::NotAFile { .. }));
/// assert_eq!(error.path(), folder);
/// assert!(error.to_string().contains(&*folder.to_string_lossy()));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogFileError {
    /// A symbolic link stands at the path. The log does not follow it: whoever made it may want
    /// another file to be overwritten.
    #[error("the log file {} is a symbolic link; name the file itself", path.display())]
    Symlink {
        /// The path of the link.
        path: PathBuf,
    },
    /// A folder, a device or a pipe stands at the path.
    #[error("the log file {} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file was replaced while it was opened.
    #[error("the log file {} was replaced while it was opened", path.display())]
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The file has a last line that is not one of an audit log. It was left as it is.
    #[error("the file {} is not an audit log; name another one", path.display())]
    NotALog {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("the log file {} cannot be opened", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("the log file {} cannot be written", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file cannot be renamed to make room for a new one.
    #[error("the log file {} cannot be rotated", path.display())]
    Rotate {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The thread that writes the file cannot be started.
    #[error("the thread that writes the log file {} cannot be started", path.display())]
    Thread {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl LogFileError {
    /// Returns the path of the log file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Symlink { path }
            | Self::NotAFile { path }
            | Self::Replaced { path }
            | Self::NotALog { path }
            | Self::Open { path, .. }
            | Self::Write { path, .. }
            | Self::Rotate { path, .. }
            | Self::Thread { path, .. } => path,
        }
    }

    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Open { path, source }
    }
}

impl From<LogFileError> for io::Error {
    fn from(error: LogFileError) -> Self {
        let kind = match &error {
            LogFileError::Open { source, .. }
            | LogFileError::Write { source, .. }
            | LogFileError::Rotate { source, .. }
            | LogFileError::Thread { source, .. } => source.kind(),
            LogFileError::NotALog { .. } => io::ErrorKind::InvalidData,
            _ => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}

/// Returns the texts of an error and of its sources.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = sources.map(ToString::to_string).collect();
    texts.join(": ")
}
