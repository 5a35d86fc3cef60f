//! [`LogFile`]: a log file that is rotated as it is written.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::error::{LogFileError, chain};
use super::rotation::Rotation;

/// What is gathered before it is written. Longer lines are written as they are.
const BUFFER: usize = 1 << 20;
/// The time after which a rotation that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// A log file and those before it: `audit.jsonl`, `audit.jsonl.1` and so on.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    zone: TimeZone,
    /// None after the file was put aside, until the next one is open.
    open: Option<Open>,
    /// When to try again, after a rotation that failed.
    retry_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Open {
    writer: BufWriter<File>,
    size: u64,
    /// The local day of the last line.
    day: Date,
    /// A line was begun and not ended.
    in_line: bool,
}

impl LogFile {
    /// Opens the file, and puts it aside if its last line is of another day. Creates its folder.
    pub(super) fn open(path: &Path, rotation: Rotation) -> Result<Self, LogFileError> {
        let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
        Self::open_at(path, rotation, zone, Timestamp::now())
    }

    fn open_at(
        path: &Path,
        rotation: Rotation,
        zone: TimeZone,
        now: Timestamp,
    ) -> Result<Self, LogFileError> {
        let mut file = Self {
            path: path.to_owned(),
            rotation,
            zone,
            open: None,
            retry_at: None,
        };
        file.reopen(now)?;
        file.rotate_if_due(now)?;
        Ok(file)
    }

    /// Returns the day of that time in the local time zone, whichever hours the day may skip or
    /// repeat.
    fn day(&self, time: Timestamp) -> Date {
        self.zone.to_datetime(time).date()
    }

    /// Opens the file at the path, or creates it. Somebody may have removed its folder.
    fn reopen(&mut self, now: Timestamp) -> Result<&mut Open, LogFileError> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| LogFileError::open(&self.path, error))?;
        }
        let (file, metadata) = open_or_create(&self.path)?;
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| Timestamp::try_from(time).ok());
        let size = metadata.len();
        let last_line = modified.filter(|_| size > 0).unwrap_or(now);
        Ok(self.open.insert(Open {
            writer: BufWriter::with_capacity(BUFFER, file),
            size,
            day: self.zone.to_datetime(last_line).date(),
            in_line: false,
        }))
    }

    fn is_due(&self, open: &Open, now: Timestamp) -> bool {
        let waits = self.retry_at.is_some_and(|retry_at| now < retry_at);
        if open.in_line || open.size == 0 || waits {
            return false;
        }
        let Rotation {
            max_bytes, daily, ..
        } = self.rotation;
        let is_other_day = || {
            let today = self.day(now);
            // A clock that is set back a little at midnight does not begin yesterday anew.
            today != open.day && today.tomorrow().ok() != Some(open.day)
        };
        (max_bytes > 0 && open.size >= max_bytes) || (daily && is_other_day())
    }

    fn rotate_if_due(&mut self, now: Timestamp) -> Result<(), LogFileError> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| self.is_due(open, now))
        {
            self.rotate(now)?;
        }
        Ok(())
    }

    /// Puts the file aside, and begins a new one.
    fn rotate(&mut self, now: Timestamp) -> Result<(), LogFileError> {
        if let Some(open) = &mut self.open {
            let flushed = open.writer.flush();
            flushed.map_err(|source| self.error(source))?;
        }
        // Some systems do not rename an open file.
        self.open = None;
        match rename_all(&self.path, self.rotation.keep) {
            Ok(()) => self.retry_at = None,
            // A file that is too long is better than records that are lost.
            Err(source) => self.rotation_failed(now, source),
        }
        self.reopen(now)?;
        Ok(())
    }

    fn rotation_failed(&mut self, now: Timestamp, source: io::Error) {
        let path = self.path.clone();
        let error = chain(&LogFileError::Rotate { path, source });
        let retry_at = now.checked_add(RETRY).unwrap_or(now);
        if self.retry_at.replace(retry_at).is_none() {
            tracing::error!(target: "tower_ews::audit", %error, "the audit log is not rotated");
        }
    }

    fn error(&self, source: io::Error) -> LogFileError {
        LogFileError::Write {
            path: self.path.clone(),
            source,
        }
    }

    fn write_at(&mut self, now: Timestamp, bytes: &[u8]) -> Result<usize, LogFileError> {
        self.rotate_if_due(now)?;
        let day = self.day(now);
        let open = match &mut self.open {
            Some(open) => open,
            None => self.reopen(now)?,
        };
        let written = open.writer.write(bytes);
        if let Ok(written @ 1..) = written {
            open.size += written as u64;
            open.day = open.day.max(day);
            open.in_line = !bytes.get(..written).unwrap_or(bytes).ends_with(b"\n");
        }
        written.map_err(|source| self.error(source))
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.write_at(Timestamp::now(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.open.as_mut().map(|open| open.writer.flush()) {
            Some(Err(source)) => Err(self.error(source).into()),
            _ => Ok(()),
        }
    }
}

/// Opens a log to append to it, or creates one.
fn open_or_create(path: &Path) -> Result<(File, Metadata), LogFileError> {
    let opened = |file: File| {
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| LogFileError::open(path, error))?;
        Ok((file, metadata))
    };
    let mut create = OpenOptions::new();
    // Follows no link: the file must not be there.
    create.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut create, 0o600);
    match create.open(path) {
        Ok(file) => return opened(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(LogFileError::open(path, error)),
    }
    truncate_torn_line(
        path,
        &open_existing(path, OpenOptions::new().read(true).write(true))?,
    )?;
    opened(open_existing(path, OpenOptions::new().append(true))?)
}

/// Opens a file that is there, without following a link.
fn open_existing(path: &Path, options: &OpenOptions) -> Result<File, LogFileError> {
    let error = |error| LogFileError::open(path, error);
    let path = path.to_owned();
    let expected = fs::symlink_metadata(&path).map_err(error)?;
    if expected.is_symlink() {
        return Err(LogFileError::Symlink { path });
    }
    if !expected.is_file() {
        return Err(LogFileError::NotAFile { path });
    }
    let file = options.open(&path).map_err(error)?;
    // A link may have been put there since.
    match is_same(&expected, &file.metadata().map_err(error)?) {
        true => Ok(file),
        false => Err(LogFileError::Replaced { path }),
    }
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, other: &Metadata) -> bool {
    other.is_file()
}

/// Renames `log` to `log.1`, `log.1` to `log.2` and so on. The last one of `keep` is overwritten.
fn rename_all(path: &Path, keep: usize) -> io::Result<()> {
    let old = |number: usize| {
        let mut name = OsString::from(path);
        name.push(format!(".{number}"));
        name
    };
    // Those before the first gap: a `keep` of a million costs no more than the files that there are.
    let last = (1..keep).find(|number| fs::symlink_metadata(old(*number)).is_err());
    for number in (1..last.unwrap_or(keep)).rev() {
        fs::rename(old(number), old(number + 1))?;
    }
    fs::rename(path, old(1))
}

/// Looks at the last line, whole or not: only a log is appended to. Cuts off the half of a line that a
/// killed process left behind.
fn truncate_torn_line(path: &Path, file: &File) -> Result<(), LogFileError> {
    let cut = || {
        let len = file.metadata()?.len();
        if len == 0 {
            return Ok(true);
        }
        let end = end_of_line_before(file, len)?;
        let is_torn = end < len;
        let last_line = match is_torn {
            true => end,
            false => end_of_line_before(file, end - 1)?,
        };
        let mut reader = file;
        reader.seek(SeekFrom::Start(last_line))?;
        let mut begin = [0; 10];
        let read = reader.read(&mut begin)?;
        let line = begin.get(..read).unwrap_or_default();
        let is_log = br#"{"schema":"#.starts_with(line);
        if is_log && is_torn {
            file.set_len(end)?;
        }
        Ok(is_log)
    };
    match cut() {
        Ok(true) => Ok(()),
        Ok(false) => Err(LogFileError::NotALog {
            path: path.to_owned(),
        }),
        Err(error) => Err(LogFileError::open(path, error)),
    }
}

/// Returns where the last whole line ends in front of `end`.
fn end_of_line_before(mut file: &File, mut end: u64) -> io::Result<u64> {
    let mut tail = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(64 << 10);
        file.seek(SeekFrom::Start(start))?;
        tail.clear();
        file.take(end - start).read_to_end(&mut tail)?;
        if let Some(newline) = memchr::memrchr(b'\n', &tail) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
