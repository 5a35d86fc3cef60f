//! Tests of the log file: what opens, what is put aside, on days of any length.

use std::collections::BTreeMap;

use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("tower-ews-{name}-{}", fastrand::u64(..));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn open_at(path: &Path, rotation: Rotation, now: Timestamp) -> Result<LogFile, LogFileError> {
    LogFile::open_at(path, rotation, TimeZone::UTC, now)
}

#[test]
fn half_a_line_at_the_end_is_cut_off() {
    let folder = Folder::new("torn");
    let path = folder.log();
    let long = format!("{{\"schema\":1,\"x\":\"{}", "x".repeat(200_000));
    for (there, left) in [
        ("", ""),
        ("{\"schema\":1}\n", "{\"schema\":1}\n"),
        ("{\"schema\":1}\n{\"schema\":1,\"a", "{\"schema\":1}\n"),
        ("{\"schema\":1}\n{\"sch", "{\"schema\":1}\n"),
        (&long, ""),
    ] {
        fs::write(&path, there).unwrap();
        let mut file = LogFile::open(&path, Rotation::new()).unwrap();
        file.write_all(b"{}\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{left}{{}}\n"));
    }
    let whole = "my letters\nto my mother\n";
    for text in ["my letters", whole, "\n", "{\"schema\":1}\nmy letters\n"] {
        fs::write(&path, text).unwrap();
        let before = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        let error = LogFile::open(&path, Rotation::new().daily(true)).unwrap_err();
        assert!(matches!(error, LogFileError::NotALog { .. }), "{text:?}");
        assert!(error.to_string().contains(&*path.to_string_lossy()));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn the_file_of_another_day_is_put_aside() {
    let folder = Folder::new("days");
    let path = folder.log();
    for daily in [false, true] {
        fs::write(&path, "{\"schema\":1}\n").unwrap();
        let before = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(before).unwrap();
        drop(LogFile::open(&path, Rotation::new().daily(daily)).unwrap());
        assert_eq!(folder.read("log.1").is_some(), daily);
    }
}

#[test]
fn old_files_are_numbered_and_the_oldest_is_removed() {
    let folder = Folder::new("numbers");
    let now = Timestamp::now();
    for keep in [1, 2, 3, usize::MAX] {
        let rotation = Rotation::new().max_bytes(3).keep(keep).daily(false);
        let mut file = open_at(&folder.log(), rotation, now).unwrap();
        for number in 0..6 {
            file.write_at(now, format!("{number}\n\n").as_bytes())
                .unwrap();
        }
        file.flush().unwrap();
        let kept: Vec<_> = (1..10)
            .map_while(|number| folder.read(&format!("log.{number}")))
            .collect();
        let expected = ["4\n\n", "3\n\n", "2\n\n", "1\n\n", "0\n\n"];
        assert_eq!(kept, expected[..keep.min(5)]);
        assert_eq!(folder.read("log").unwrap(), "5\n\n");
        fs::remove_dir_all(&folder.0).unwrap();
    }
}

#[test]
fn a_line_in_two_writes_stays_in_one_file() {
    let folder = Folder::new("halves");
    let now = Timestamp::now();
    let mut file = open_at(&folder.log(), Rotation::new().max_bytes(4), now).unwrap();
    for part in ["first", " line\n", "second\n"] {
        file.write_at(now, part.as_bytes()).unwrap();
    }
    drop(file);
    assert_eq!(folder.read("log.1").unwrap(), "first line\n");
    assert_eq!(folder.read("log").unwrap(), "second\n");
}

#[test]
fn a_clock_that_steps_back_over_midnight_begins_no_new_file() {
    let folder = Folder::new("clock");
    let start = at("2026-03-01T23:59:58Z");
    let mut file = open_at(&folder.log(), Rotation::new(), start).unwrap();
    for time in [
        "2026-03-01T23:59:59Z",
        "2026-03-02T00:00:01Z",
        "2026-03-01T23:59:59Z",
        "2026-03-02T00:00:02Z",
    ] {
        file.write_at(at(time), b"{}\n").unwrap();
    }
    file.flush().unwrap();
    assert_eq!(folder.read("log.1").unwrap().lines().count(), 1);
    assert_eq!(folder.read("log").unwrap().lines().count(), 3);
    assert_eq!(folder.read("log.2"), None);
    // One that was a week ahead is put right.
    file.write_at(at("2026-03-09T12:00:00Z"), b"{}\n").unwrap();
    file.write_at(at("2026-03-02T12:00:00Z"), b"{}\n").unwrap();
    file.flush().unwrap();
    assert_eq!(folder.read("log").unwrap().lines().count(), 1);
    assert_eq!(folder.read("log.2").unwrap().lines().count(), 3);
}

/// Writes a line each ten minutes, and checks that each file has the lines of one local day.
fn each_day_has_its_file(zone: &TimeZone, from: &str, days: i64) {
    let folder = Folder::new("zones");
    let step = SignedDuration::from_mins(10);
    let mut now = at(from);
    let end = now + SignedDuration::from_hours(24 * days);
    let rotation = Rotation::new().keep(100);
    let mut file = LogFile::open_at(&folder.log(), rotation, zone.clone(), now).unwrap();
    let mut expected: BTreeMap<Date, String> = BTreeMap::new();
    while now < end {
        let line = format!("{now}\n");
        assert_eq!(file.write_at(now, line.as_bytes()).unwrap(), line.len());
        let day = zone.to_datetime(now).date();
        expected.entry(day).or_default().push_str(&line);
        now += step;
    }
    drop(file);
    let mut kept = vec![folder.read("log").unwrap()];
    kept.extend((1..).map_while(|number| folder.read(&format!("log.{number}"))));
    kept.reverse();
    let expected: Vec<_> = expected.into_values().collect();
    assert_eq!(kept, expected, "{zone:?} from {from}");
}

#[test]
fn days_whose_midnight_comes_twice_or_never() {
    // Name, rule, and three days around each change of the clocks.
    let zones = [
        // One o'clock is midnight again in autumn; in spring midnight is one o'clock.
        (
            "Atlantic/Azores",
            "<-01>1<+00>,M3.5.0/0,M10.5.0/1",
            ["2024-10-26T00:00:00Z", "2025-03-29T00:00:00Z"],
        ),
        (
            "America/Havana",
            "CST5CDT,M3.2.0/0,M11.1.0/1",
            ["2024-11-02T00:00:00Z", "2025-03-08T00:00:00Z"],
        ),
        // Midnight is eleven o'clock again in autumn, until 2019.
        (
            "America/Sao_Paulo",
            "<-03>3<-02>,M11.1.0/0,M2.3.0/0",
            ["2019-02-15T00:00:00Z", "2018-11-03T00:00:00Z"],
        ),
    ];
    for (name, rule, changes) in zones {
        let by_rule = TimeZone::posix(rule).unwrap();
        let by_name = TimeZone::get(name);
        if by_name.is_err() {
            println!("skips {name} by name: no time zone database");
        }
        for zone in std::iter::once(by_rule).chain(by_name) {
            for from in changes {
                // They change in these days.
                let offset = |hours| zone.to_offset(at(from) + SignedDuration::from_hours(hours));
                assert_ne!(offset(0), offset(72), "{name} from {from}");
                each_day_has_its_file(&zone, from, 4);
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn new_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("modes");
    let mode = |name: &str| {
        let metadata = fs::metadata(folder.0.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    let now = Timestamp::now();
    let rotation = Rotation::new().max_bytes(1);
    let mut file = open_at(&folder.log(), rotation.clone(), now).unwrap();
    assert_eq!(mode("log"), 0o600);
    file.write_at(now, b"{\"schema\":1}\n").unwrap();
    file.write_at(now, b"{\"schema\":1}\n").unwrap();
    assert_eq!((mode("log"), mode("log.1")), (0o600, 0o600));
    drop(file);
    // Somebody lets others read it.
    fs::set_permissions(folder.log(), fs::Permissions::from_mode(0o640)).unwrap();
    drop(open_at(&folder.log(), Rotation::new(), now).unwrap());
    assert_eq!(mode("log"), 0o640);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("links");
    let (path, target) = (folder.log(), folder.0.join("target"));
    let now = Timestamp::now();
    for exists in [true, false] {
        symlink(&target, &path).unwrap();
        if exists {
            fs::write(&target, "{\"schema\":1}\n").unwrap();
        }
        let error = open_at(&path, Rotation::new(), now).unwrap_err();
        assert!(matches!(error, LogFileError::Symlink { .. }), "{error:?}");
        assert_eq!(error.path(), path);
        assert!(error.to_string().contains(&*path.to_string_lossy()));
        assert_eq!(target.exists(), exists, "nor is its target created");
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_file(&target);
    }
    // One that is put there later goes the way of a file, and so does one in the way of an old one.
    fs::write(&target, "precious\n").unwrap();
    let mut file = open_at(&path, Rotation::new().max_bytes(1), now).unwrap();
    symlink(&target, folder.0.join("log.1")).unwrap();
    file.write_at(now, b"1\n").unwrap();
    file.flush().unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    file.write_at(now, b"2\n").unwrap();
    file.flush().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious\n");
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.is_file());
    assert_eq!(fs::read_to_string(&path).unwrap(), "2\n");
}

#[test]
fn a_rotation_that_fails_loses_no_record() {
    let folder = Folder::new("stuck");
    let now = Timestamp::now();
    let mut file = open_at(&folder.log(), Rotation::new().max_bytes(1).keep(1), now).unwrap();
    // Nothing can be renamed over a folder with something in it.
    fs::create_dir_all(folder.0.join("log.1/x")).unwrap();
    for number in 0..3 {
        file.write_at(now, format!("{{\"schema\":{number}}}\n").as_bytes())
            .unwrap();
    }
    file.flush().unwrap();
    assert_eq!(folder.read("log").unwrap().lines().count(), 3);
    fs::remove_dir_all(folder.0.join("log.1")).unwrap();
    for seconds in [59, 60] {
        let later = now + SignedDuration::from_secs(seconds);
        file.write_at(later, b"{\"schema\":4}\n").unwrap();
    }
    file.flush().unwrap();
    assert_eq!(folder.read("log.1").unwrap().lines().count(), 4);
    assert_eq!(folder.read("log").unwrap().lines().count(), 1);
}

#[test]
fn errors_name_the_path_and_keep_their_kind() {
    let folder = Folder::new("errors");
    let now = Timestamp::now();
    let error = open_at(&folder.0, Rotation::new(), now).unwrap_err();
    assert!(matches!(error, LogFileError::NotAFile { .. }));
    fs::write(folder.log(), "").unwrap();
    let path = folder.log().join("below");
    let error = open_at(&path, Rotation::new(), now).unwrap_err();
    assert!(matches!(error, LogFileError::Open { .. }), "{error:?}");
    let text = chain(&error);
    assert!(text.contains(&*path.to_string_lossy()) && text.contains("cannot be opened: "));
    let error = io::Error::from(error);
    assert_ne!(error.kind(), io::ErrorKind::Other);
    assert!(error.to_string().contains(&*path.to_string_lossy()));
}

#[test]
fn a_folder_that_was_removed_is_made_again() {
    let folder = Folder::new("removed");
    let now = Timestamp::now();
    let mut file = open_at(&folder.log(), Rotation::new().max_bytes(1), now).unwrap();
    file.write_at(now, b"{\"schema\":1}\n").unwrap();
    fs::remove_dir_all(&folder.0).unwrap();
    // A minute later, since the file that is due cannot be put aside.
    let now = now + SignedDuration::from_secs(61);
    file.write_at(now, b"{\"schema\":2}\n").unwrap();
    file.flush().unwrap();
    assert_eq!(
        fs::read_to_string(folder.log()).unwrap(),
        "{\"schema\":2}\n"
    );
}
