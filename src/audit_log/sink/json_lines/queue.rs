//! [`Queue`]: the bounded queue of lines, and the thread that writes them.

use std::io::{self, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::error::chain;
use super::overflow::Overflow;

/// How long the writer lets lines gather: to wake a thread for each of them costs the calls more than the lines.
const GATHER: Duration = Duration::from_millis(1);

/// The lines that wait, in one buffer. The writer takes all of them at once, and leaves its empty buffer
/// behind.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signals that the writer has something to do.
    filled: Condvar,
    /// Signals that there is room, or that something was written.
    drained: Condvar,
    capacity: usize,
    overflow: Overflow,
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// How many lines were queued so far, and how many of them the writer has written or lost.
    queued: u64,
    written: u64,
    /// Somebody waits for the writer: it does not let lines gather.
    hurry: bool,
    closed: bool,
    /// Whether an overflow was reported since the queue was last empty.
    reported_overflow: bool,
    /// Whether a record after the close was reported.
    reported_close: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize, overflow: Overflow) -> Self {
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            capacity,
            overflow,
            lost: AtomicU64::new(0),
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Queues a line. One that is longer than the queue goes in when the queue is empty.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        let full = |state: &State| {
            !state.lines.is_empty() && state.lines.len() + line.len() > self.capacity
        };
        while self.overflow == Overflow::Block && full(&state) && !state.closed {
            self.hurry(&mut state);
            self.drained.wait(&mut state);
        }
        if state.closed || full(&state) {
            self.lose(1);
            let closed = state.closed;
            let reported = match closed {
                true => &mut state.reported_close,
                false => &mut state.reported_overflow,
            };
            let first = !mem::replace(reported, true);
            drop(state);
            match closed {
                true if first => tracing::warn!(
                    target: "tower_ews::wiring",
                    "records come after the JsonLinesGuard of the audit log was dropped and are \
                     lost; keep the guard until the end of main",
                ),
                false if first => tracing::error!(
                    target: "tower_ews::audit",
                    "the audit log is written too slowly: records are lost",
                ),
                _ => {}
            }
            return;
        }
        let first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        state.queued += 1;
        let half_full = state.lines.len() >= self.capacity / 2;
        drop(state);
        if first || half_full {
            self.filled.notify_one();
        }
    }

    fn hurry(&self, state: &mut State) {
        state.hurry = true;
        self.filled.notify_one();
    }

    /// Waits until all lines that were queued before are written or lost.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        let last = state.queued;
        while state.written < last {
            self.hurry(&mut state);
            self.drained.wait(&mut state);
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_one();
        self.drained.notify_all();
    }

    /// Writes lines until the queue is closed and empty.
    pub(super) fn write_to(&self, writer: impl Write) {
        let mut out = Out {
            writer,
            torn: Vec::new(),
            unflushed: 0,
            failing: false,
            recovering: false,
            queue: self,
        };
        let mut lines = Vec::new();
        let mut state = self.state.lock();
        loop {
            while state.lines.is_empty() && !state.closed {
                self.filled.wait(&mut state);
            }
            if state.lines.is_empty() {
                break;
            }
            let gathers = |state: &mut State| {
                !state.closed && !state.hurry && state.lines.len() < self.capacity / 2
            };
            self.filled.wait_while_for(&mut state, gathers, GATHER);
            state.hurry = false;
            mem::swap(&mut state.lines, &mut lines);
            state.reported_overflow = false;
            let until = state.queued;
            drop(state);
            self.drained.notify_all();
            let mut begin = 0;
            for end in memchr::memchr_iter(b'\n', &lines) {
                out.line(&lines[begin..=end]);
                begin = end + 1;
            }
            out.flush();
            lines.clear();
            // One record of many megabytes is no reason to keep as many.
            lines.shrink_to(self.capacity);
            state = self.state.lock();
            state.written = until;
            self.drained.notify_all();
        }
        drop(state);
        out.end();
    }
}

/// A writer that goes on after failures. Each line is written as a whole or not at all.
struct Out<'a, W> {
    writer: W,
    /// The rest of a line that was written in part before an error. It is written before all others.
    torn: Vec<u8>,
    /// The number of lines that were written and not flushed.
    unflushed: u64,
    failing: bool,
    /// Whether a line was written since the last failure.
    recovering: bool,
    queue: &'a Queue,
}

impl<W: Write> Out<'_, W> {
    fn line(&mut self, line: &[u8]) {
        if !self.torn.is_empty() {
            let torn = mem::take(&mut self.torn);
            let (done, result) = self.write(&torn);
            if let Err(error) = result {
                self.torn = torn.get(done..).unwrap_or_default().to_vec();
                self.queue.lose(1);
                self.failed(&error);
                return;
            }
        }
        let (done, result) = self.write(line);
        match result {
            Ok(()) => {
                self.unflushed += 1;
                self.recovering = true;
            }
            Err(error) if done == 0 => {
                self.queue.lose(1);
                self.failed(&error);
            }
            Err(error) => {
                self.torn = line.get(done..).unwrap_or_default().to_vec();
                self.failed(&error);
            }
        }
    }

    /// Writes a line in one `write`, if the writer takes it as one. Returns how much was written.
    fn write(&mut self, line: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        let writer = &mut self.writer;
        let result = guarded(|| {
            while let Some(rest) = line.get(done..).filter(|rest| !rest.is_empty()) {
                match writer.write(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => done += written.min(rest.len()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        (done, result)
    }

    fn flush(&mut self) {
        let writer = &mut self.writer;
        match guarded(|| writer.flush()) {
            Ok(()) => {
                self.unflushed = 0;
                if self.failing && self.recovering {
                    self.failing = false;
                    let lost = self.queue.lost();
                    tracing::error!(target: "tower_ews::audit", lost, "writing to the audit log has resumed");
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.recovering = false;
        if !mem::replace(&mut self.failing, true) {
            let error = chain(error);
            tracing::error!(target: "tower_ews::audit", %error, "the audit log cannot be written: records are lost");
        }
    }

    fn end(mut self) {
        if !self.torn.is_empty() {
            let torn = mem::take(&mut self.torn);
            if self.write(&torn).1.is_err() {
                self.queue.lose(1);
            }
        }
        self.flush();
        self.queue.lose(self.unflushed);
        // A writer may write when it is dropped, and panic.
        let _ = guarded(|| {
            drop(self);
            Ok(())
        });
    }
}

fn guarded(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
}
