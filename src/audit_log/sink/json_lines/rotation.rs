//! The log as a file, and as those before it.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rolling_file::{BasicRollingFileAppender, RollingConditionBasic};

/// What the appender gathers before it writes: longer lines are written as they are.
const BUFFER: usize = 1 << 20;

/// When a log file is put aside, and how many are kept: `audit.jsonl` is written, `audit.jsonl.1` was the one before it.
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
#[must_use]
pub struct Rotation {
    max_bytes: u64,
    daily: bool,
    keep: usize,
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
    /// Each day, past 100 MiB, and 10 old files.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that has this many bytes is put aside before the next line; 0 is no limit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Whether the first line of a day begins a new file.
    pub fn daily(mut self, daily: bool) -> Self {
        self.daily = daily;
        self
    }

    /// How many old files are kept, at least 1; the oldest is removed.
    pub fn keep(mut self, files: usize) -> Self {
        self.keep = files.max(1);
        self
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<BasicRollingFileAppender> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let modified = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                mend(&file)?;
                Some(file.metadata()?.modified()?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut condition = RollingConditionBasic::new();
        if self.max_bytes > 0 {
            condition = condition.max_size(self.max_bytes);
        }
        if self.daily {
            condition = condition.daily();
        }
        let mut file =
            BasicRollingFileAppender::new_with_buffer_capacity(path, condition, self.keep, BUFFER)?;
        // The appender knows the day of the last line it wrote itself.
        if let (true, Some(modified)) = (self.daily, modified) {
            let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
            let day = |time: Timestamp| zone.to_datetime(time).date();
            let modified = Timestamp::try_from(modified).unwrap_or_default();
            if day(modified) != day(Timestamp::now()) {
                file.rollover()?;
            }
        }
        Ok(file)
    }
}

/// Cuts off the half of a line that a process left behind which was killed: the next line would be appended to it.
fn mend(mut file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut tail = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(64 << 10);
        file.seek(SeekFrom::Start(start))?;
        tail.clear();
        file.take(end - start).read_to_end(&mut tail)?;
        if let Some(newline) = memchr::memrchr(b'\n', &tail) {
            end = start + newline as u64 + 1;
            break;
        }
        end = start;
    }
    if end == length {
        return Ok(());
    }
    file.seek(SeekFrom::Start(end))?;
    let mut begin = [0; 10];
    let read = file.read(&mut begin)?;
    let line = begin.get(..read).unwrap_or_default();
    if br#"{"schema":"#.starts_with(line) {
        file.set_len(end)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file that is there is no audit log",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tower-ews-{name}-{}", fastrand::u64(..)));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn half_a_line_at_the_end_is_cut_off() {
        let folder = folder("mend");
        let path = folder.join("log");
        let long = format!("{{\"schema\":1,\"x\":\"{}", "x".repeat(200_000));
        for (there, left) in [
            ("", ""),
            ("{\"schema\":1}\n", "{\"schema\":1}\n"),
            ("{\"schema\":1}\n{\"schema\":1,\"a", "{\"schema\":1}\n"),
            ("{\"schema\":1}\n{\"sch", "{\"schema\":1}\n"),
            (&long, ""),
        ] {
            fs::write(&path, there).unwrap();
            let mut file = Rotation::new().open(&path).unwrap();
            file.write_all(b"{}\n").unwrap();
            drop(file);
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{left}{{}}\n"));
        }
        fs::write(&path, "my letters").unwrap();
        assert!(Rotation::new().open(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "my letters");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_file_of_another_day_is_put_aside() {
        let folder = folder("days");
        let path = folder.join("log");
        let old = folder.join("log.1");
        for daily in [false, true] {
            fs::write(&path, "{\"schema\":1}\n").unwrap();
            let before = SystemTime::now() - Duration::from_secs(48 * 3600);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(before)
                .unwrap();
            drop(Rotation::new().daily(daily).open(&path).unwrap());
            assert_eq!(old.exists(), daily);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
