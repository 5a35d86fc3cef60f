//! Calls that wait in one ledger, polled by hand in virtual time, so that each operation can be timed by itself.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tower_ews::ledger::{Acquire, AcquireError, AcquireRequest, Ledger, LocalLedger, Permit};

/// The calls that were woken and not polled since.
#[derive(Default)]
struct Woken(Mutex<Vec<usize>>);

/// Wakes one call.
struct Bell {
    call: usize,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.woken.0.lock().push(self.call);
    }
}

pub(super) struct Crowd {
    runtime: Runtime,
    ledger: Arc<LocalLedger>,
    calls: Vec<Option<Acquire>>,
    bells: Vec<Waker>,
    free: Vec<usize>,
    woken: Arc<Woken>,
    /// What was granted and is not given back.
    permits: Vec<Permit>,
}

impl Crowd {
    /// Room for so many calls, so that what they take later is theirs alone.
    pub(super) fn new(ledger: LocalLedger, room: usize) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build()?;
        let woken = Arc::new(Woken::default());
        woken.0.lock().reserve(room);
        let bell = |call| {
            let woken = Arc::clone(&woken);
            Waker::from(Arc::new(Bell { call, woken }))
        };
        Ok(Self {
            runtime,
            ledger: Arc::new(ledger),
            calls: (0..room).map(|_| None).collect(),
            bells: (0..room).map(bell).collect(),
            free: (0..room).rev().collect(),
            woken,
            permits: Vec::new(),
        })
    }

    pub(super) fn ledger(&self) -> &LocalLedger {
        &self.ledger
    }

    /// Runs `work` where the virtual time is known.
    pub(super) fn enter<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let handle = self.runtime.handle().clone();
        let _entered = handle.enter();
        work(self)
    }

    /// Lets time pass. Polls nobody.
    pub(super) fn advance(&self, time: Duration) {
        self.runtime.block_on(async {
            tokio::time::advance(time).await;
            tokio::task::yield_now().await;
        });
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

    /// Polls the woken until one of them gets its permit, and says how long that took. The others are woken still.
    pub(super) fn grant(&mut self) -> Option<Duration> {
        let woken = std::mem::take(&mut *self.woken.0.lock());
        let mut woken = woken.into_iter();
        let begin = Instant::now();
        let granted = woken.find_map(|call| self.poll(call)?.ok());
        let took = begin.elapsed();
        self.woken.0.lock().extend(woken);
        self.permits.push(granted?);
        Some(took)
    }

    /// Polls the woken until nobody is. What is granted is held.
    pub(super) fn settle(&mut self) {
        loop {
            let woken = std::mem::take(&mut *self.woken.0.lock());
            if woken.is_empty() {
                return;
            }
            for call in woken {
                if let Some(Ok(permit)) = self.poll(call) {
                    self.permits.push(permit);
                }
            }
        }
    }

    /// How many calls wait.
    pub(super) fn waiting(&self) -> usize {
        self.calls.len() - self.free.len()
    }

    /// A call that waits, in or near the place `at` of all there is room for.
    pub(super) fn near(&self, at: usize) -> Option<usize> {
        let calls = self.calls.len();
        let from = (0..calls).map(|further| (at + further) % calls);
        from.into_iter().find(|call| self.calls[*call].is_some())
    }

    /// Drops all that wait, the first before the others.
    pub(super) fn drop_all(&mut self) -> Duration {
        let begin = Instant::now();
        self.calls.iter_mut().for_each(|call| *call = None);
        begin.elapsed()
    }
}
