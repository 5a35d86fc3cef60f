//! The JSON Lines sink when things go wrong: slow, full and panicking writers, and a process that is killed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tower_ews::audit_log::{JsonLinesSink, Overflow, Record, Rotation, Sink};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tower-ews-{name}-{}", fastrand::u64(..)));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn record(n: u64) -> Record {
    let mut record = Record::default();
    record.members = Some(n);
    record.operation = Some("CreateItem".into());
    record
}

/// The numbers of the records; each complete line has to parse.
fn numbers(text: &[u8]) -> Vec<u64> {
    let mut lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    // What follows the last newline is no complete line.
    lines.pop();
    lines
        .into_iter()
        .map(|line| {
            let value: Value = serde_json::from_slice(line)
                .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(line)));
            assert_eq!(value["schema"], 1);
            value["members"].as_u64().unwrap()
        })
        .collect()
}

/// A writer whose mood the test sets.
#[derive(Clone, Default)]
struct Moody(Arc<(Mutex<Mood>, Condvar)>);

#[derive(Default)]
struct Mood {
    written: Vec<u8>,
    writes: usize,
    /// Bytes until the disk is full.
    room: Option<usize>,
    panics: bool,
    hangs: bool,
}

impl Moody {
    fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_all();
    }

    fn written(&self) -> Vec<u8> {
        self.0.0.lock().written.clone()
    }
}

impl Write for Moody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut mood = self.0.0.lock();
        while mood.hangs {
            self.0.1.wait(&mut mood);
        }
        assert!(!mood.panics, "in a mood");
        mood.writes += 1;
        let taken = bytes.len().min(mood.room.unwrap_or(usize::MAX));
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        mood.room = mood.room.map(|room| room - taken);
        mood.written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_is_lost_at_a_clean_end() {
    let writer = Moody::default();
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(4096)
        .overflow(Overflow::Block)
        .writer(writer.clone())
        .unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let sink = &sink;
            scope.spawn(move || (0..2500).for_each(|n| sink.record(&record(thread * 2500 + n))));
        }
    });
    drop(guard);
    let mut numbers = numbers(&writer.written());
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
    assert_eq!(writer.0.0.lock().writes, 10_000, "one write for each line");
    assert_eq!(sink.lost(), 0);
    // The log is closed.
    sink.record(&record(0));
    sink.flush();
    assert_eq!(sink.lost(), 1);
}

#[test]
fn a_writer_that_hangs_costs_records_and_no_calls() {
    let writer = Moody::default();
    writer.set(|mood| mood.hangs = true);
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(2000)
        .writer(writer.clone())
        .unwrap();
    for n in 0..1000 {
        sink.record(&record(n));
    }
    assert!(sink.lost() > 900, "{}", sink.lost());
    writer.set(|mood| mood.hangs = false);
    sink.flush();
    sink.record(&record(1000));
    drop(guard);
    let numbers = numbers(&writer.written());
    assert_eq!(numbers.last(), Some(&1000));
    assert_eq!(numbers.len() as u64 + sink.lost(), 1001);
}

#[test]
fn a_caller_waits_for_room_if_asked_to() {
    let writer = Moody::default();
    writer.set(|mood| mood.hangs = true);
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(2000)
        .overflow(Overflow::Block)
        .writer(writer.clone())
        .unwrap();
    let (done, waiting) = mpsc::channel();
    let caller = thread::spawn({
        let sink = sink.clone();
        move || {
            (0..100).for_each(|n| sink.record(&record(n)));
            done.send(()).unwrap();
        }
    });
    let early = waiting.recv_timeout(Duration::from_millis(100));
    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
    writer.set(|mood| mood.hangs = false);
    caller.join().unwrap();
    drop(guard);
    assert_eq!(numbers(&writer.written()), (0..100).collect::<Vec<_>>());
    assert_eq!(sink.lost(), 0);
}

#[test]
fn a_line_longer_than_the_queue_is_written() {
    let writer = Moody::default();
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(1)
        .overflow(Overflow::Block)
        .writer(writer.clone())
        .unwrap();
    (0..10).for_each(|n| sink.record(&record(n)));
    drop(guard);
    assert_eq!(numbers(&writer.written()), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_tears_no_line() {
    for room in 0..700 {
        let writer = Moody::default();
        writer.set(|mood| mood.room = Some(room));
        let (sink, guard) = JsonLinesSink::builder().writer(writer.clone()).unwrap();
        for n in 0..5 {
            sink.record(&record(n));
            sink.flush();
        }
        let lost = sink.lost();
        writer.set(|mood| mood.room = None);
        for n in 5..8 {
            sink.record(&record(n));
        }
        drop(guard);
        let written = writer.written();
        assert!(written.ends_with(b"\n"));
        let numbers = numbers(&written);
        assert!(numbers.ends_with(&[5, 6, 7]), "{room}: {numbers:?}");
        assert_eq!(numbers.len() as u64 + sink.lost(), 8, "{room}");
        assert_eq!(sink.lost(), lost, "{room}");
    }
}

#[test]
fn a_disk_that_stays_full_is_counted_to_the_last() {
    for room in [0, 100, 300, 500] {
        let writer = Moody::default();
        writer.set(|mood| mood.room = Some(room));
        let (sink, guard) = JsonLinesSink::builder().writer(writer.clone()).unwrap();
        (0..100).for_each(|n| sink.record(&record(n)));
        drop(guard);
        let whole = numbers(&writer.written()).len() as u64;
        assert_eq!(whole + sink.lost(), 100, "{room}");
    }
}

#[test]
fn a_writer_that_panics_goes_on() {
    let writer = Moody::default();
    let (sink, guard) = JsonLinesSink::builder().writer(writer.clone()).unwrap();
    for n in 0..30 {
        writer.set(|mood| mood.panics = n % 3 == 1);
        sink.record(&record(n));
        sink.flush();
    }
    drop(guard);
    assert_eq!(sink.lost(), 10);
    let kept: Vec<u64> = (0..30).filter(|n| n % 3 != 1).collect();
    assert_eq!(numbers(&writer.written()), kept);
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_without_room() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let (sink, guard) = JsonLinesSink::builder().writer(full).unwrap();
    (0..100).for_each(|n| sink.record(&record(n)));
    drop(guard);
    assert_eq!(sink.lost(), 100);
}

#[test]
fn files_are_put_aside_by_size() {
    let folder = folder("rotation");
    let path = folder.join("deep/audit.jsonl");
    let rotation = Rotation::new().max_bytes(10_000).keep(3).daily(false);
    let (sink, guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .file(&path, rotation)
        .unwrap();
    (0..500).for_each(|n| sink.record(&record(n)));
    drop(guard);
    let mut all = Vec::new();
    for name in [
        "audit.jsonl.3",
        "audit.jsonl.2",
        "audit.jsonl.1",
        "audit.jsonl",
    ] {
        let text = std::fs::read(path.with_file_name(name)).unwrap();
        assert!(text.ends_with(b"\n") && text.len() < 11_000);
        all.extend(numbers(&text));
    }
    assert!(!path.with_file_name("audit.jsonl.4").exists());
    let first = 500 - all.len() as u64;
    assert_eq!(all, (first..500).collect::<Vec<_>>());
    std::fs::remove_dir_all(folder).unwrap();
}

const CHILD: &str = "EWS_TEST_AUDIT_CHILD";

/// The test runs itself once more as a process that writes until it is killed.
#[cfg(unix)]
#[test]
fn a_killed_process_leaves_whole_lines() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_for_ever(Path::new(&path));
    }
    let folder = folder("killed");
    let path = folder.join("audit.jsonl");
    let mut before = 0;
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_leaves_whole_lines"])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let grown =
            |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.len() > before + 1_000_000);
        while !grown(&path) {
            assert!(child.try_wait().unwrap().is_none(), "the child ended");
            thread::yield_now();
        }
        // SIGKILL
        child.kill().unwrap();
        child.wait().unwrap();
        let text = std::fs::read(&path).unwrap();
        before = text.len() as u64;
        let numbers = numbers(&text);
        // Each child begins at 0, behind what the one before it has left.
        assert_eq!(numbers.iter().filter(|&&n| n == 0).count(), round + 1);
        assert!(
            numbers
                .windows(2)
                .all(|pair| pair[1] == pair[0] + 1 || pair[1] == 0)
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[cfg(unix)]
fn write_for_ever(path: &Path) -> ! {
    let rotation = Rotation::new().max_bytes(0).daily(false);
    let (sink, _guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .file(path, rotation)
        .unwrap();
    let mut n = 0;
    loop {
        let mut record = record(n);
        record.error = vec!["x".repeat(fastrand::usize(0..3000)).into()];
        sink.record(&record);
        n += 1;
    }
}
