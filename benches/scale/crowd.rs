//! Calls that wait in ledgers, polled by hand in virtual time, so that each operation can be timed by itself.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tower_ews::ledger::{Acquire, AcquireError, AcquireRequest, Ledger, LocalLedger, Permit};

/// The calls that were woken and not polled since: their ledger and their number there.
#[derive(Default)]
struct Woken(Mutex<Vec<(usize, usize)>>);

/// Wakes one call.
struct Bell {
    call: (usize, usize),
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.0.lock().push(self.call);
    }
}

/// Ledgers whose calls share one clock.
pub(super) struct Crowd {
    runtime: Runtime,
    queues: Vec<Queue>,
    woken: Arc<Woken>,
    rest: Rest,
}

/// What polling the woken took besides the operations that are timed.
#[derive(Clone, Copy, Default)]
pub(super) struct Rest {
    pub(super) all: Duration,
    pub(super) longest: Duration,
}

impl Crowd {
    /// Ledgers with room for a given number of calls each, so that what these take later is theirs alone.
    pub(super) fn new(ledgers: impl Iterator<Item = LocalLedger>, room: usize) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build()?;
        let woken = Arc::new(Woken::default());
        let queues = ledgers.enumerate().map(|(at, ledger)| {
            let bell = |call| {
                let woken = Arc::clone(&woken);
                let call = (at, call);
                Waker::from(Arc::new(Bell { call, woken }))
            };
            Queue {
                ledger: Arc::new(ledger),
                calls: (0..room).map(|_| None).collect(),
                bells: (0..room).map(bell).collect(),
                free: (0..room).rev().collect(),
                permits: Vec::new(),
            }
        });
        let queues = queues.collect();
        Ok(Self {
            runtime,
            queues,
            woken,
            rest: Rest::default(),
        })
    }

    /// Runs `work` on one of the ledgers where the virtual time is known.
    pub(super) fn at<T>(&mut self, queue: usize, work: impl FnOnce(&mut Queue) -> T) -> T {
        let _entered = self.runtime.enter();
        let queues = self.queues.len();
        work(&mut self.queues[queue % queues])
    }

    /// Lets time pass. Polls nobody.
    pub(super) fn advance(&self, time: Duration) {
        self.runtime.block_on(async {
            tokio::time::advance(time).await;
            tokio::task::yield_now().await;
        });
    }

    /// Polls the woken of one ledger until one of them gets its permit, and says how long that took. The others are woken still.
    pub(super) fn grant(&mut self, queue: usize) -> Option<Duration> {
        let _entered = self.runtime.enter();
        let woken = std::mem::take(&mut *self.woken.0.lock());
        let mut woken = woken.into_iter().filter(|(at, _)| *at == queue);
        let queue = &mut self.queues[queue];
        let begin = Instant::now();
        let granted = woken.find_map(|(_, call)| queue.poll(call)?.ok());
        let took = begin.elapsed();
        self.woken.0.lock().extend(woken);
        queue.permits.push(granted?);
        Some(took)
    }

    /// Polls the woken until nobody is. What is granted is held.
    pub(super) fn settle(&mut self) {
        let _entered = self.runtime.enter();
        loop {
            let woken = std::mem::take(&mut *self.woken.0.lock());
            if woken.is_empty() {
                return;
            }
            for (at, call) in woken {
                let queue = &mut self.queues[at];
                let begin = Instant::now();
                let out = queue.poll(call);
                let took = begin.elapsed();
                self.rest.all += took;
                self.rest.longest = self.rest.longest.max(took);
                queue.permits.extend(out.and_then(Result::ok));
            }
        }
    }

    /// What polling the woken took since this was asked last.
    pub(super) fn take_rest(&mut self) -> Rest {
        std::mem::take(&mut self.rest)
    }

    /// How many calls wait in all ledgers.
    pub(super) fn waiting(&self) -> usize {
        self.queues.iter().map(Queue::waiting).sum()
    }

    /// Drops all that wait, the first of each ledger before the others. What that takes for each call, a hundred at a time.
    pub(super) fn drop_all(&mut self) -> Vec<Duration> {
        let _entered = self.runtime.enter();
        let mut times = Vec::new();
        for queue in &mut self.queues {
            let waiting = queue.calls.iter_mut().filter(|call| call.is_some());
            let mut waiting: Vec<_> = waiting.collect();
            for hundred in waiting.chunks_mut(100) {
                let begin = Instant::now();
                hundred.iter_mut().for_each(|call| **call = None);
                times.push(begin.elapsed() / hundred.len() as u32);
            }
        }
        times
    }
}

/// The calls of one ledger.
pub(super) struct Queue {
    ledger: Arc<LocalLedger>,
    calls: Vec<Option<Acquire>>,
    bells: Vec<Waker>,
    free: Vec<usize>,
    /// What was granted and is not given back.
    permits: Vec<Permit>,
}

impl Queue {
    pub(super) fn ledger(&self) -> &LocalLedger {
        &self.ledger
    }

    /// Takes a permit that is free.
    pub(super) fn hold(&mut self, request: &AcquireRequest) {
        let permit = Permit::try_acquire(self.ledger.clone(), request);
        self.permits.extend(permit);
    }

    /// A new call asks for its permit. Says which it is and what that took, if it has to wait.
    pub(super) fn enqueue(&mut self, request: AcquireRequest) -> Option<(usize, Duration)> {
        let call = self.free.pop()?;
        let ledger = self.ledger.clone();
        let begin = Instant::now();
        self.calls[call] = Some(ledger.acquire(request));
        let out = self.poll(call);
        let took = begin.elapsed();
        match out {
            None => Some((call, took)),
            Some(out) => {
                self.permits.extend(out);
                None
            }
        }
    }

    /// A call is given up while it waits.
    pub(super) fn cancel(&mut self, call: usize) -> Option<Duration> {
        let waiting = self.calls[call].take()?;
        self.free.push(call);
        let begin = Instant::now();
        drop(waiting);
        Some(begin.elapsed())
    }

    /// Polls a call, if it waits. What has become of it, if it waits no longer.
    fn poll(&mut self, call: usize) -> Option<Result<Permit, AcquireError>> {
        let mut context = Context::from_waker(&self.bells[call]);
        let waiting = self.calls[call].as_mut()?;
        match waiting.as_mut().poll(&mut context) {
            Poll::Ready(out) => {
                self.calls[call] = None;
                self.free.push(call);
                Some(out)
            }
            Poll::Pending => None,
        }
    }

    /// Polls a call whose deadline has passed.
    pub(super) fn time_out(&mut self, call: usize) -> Option<Duration> {
        let begin = Instant::now();
        let out = self.poll(call);
        let took = begin.elapsed();
        matches!(out, Some(Err(AcquireError::TimedOut { .. }))).then_some(took)
    }

    /// Gives back the permit that was granted last.
    pub(super) fn release(&mut self) -> Option<Duration> {
        let permit = self.permits.pop()?;
        let begin = Instant::now();
        permit.complete();
        Some(begin.elapsed())
    }

    fn waiting(&self) -> usize {
        self.calls.len() - self.free.len()
    }

    /// A call that waits, at the place `at` of all there is room for, or the next one behind it.
    pub(super) fn near(&self, at: usize) -> Option<usize> {
        let calls = self.calls.len();
        let mut from = (0..calls).map(|further| (at + further) % calls);
        from.find(|call| self.calls[*call].is_some())
    }
}
