//! What the scripted server does: numbers that no client of it knows.

use std::time::Duration;

/// A server, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// What ways and service times are drawn from.
    pub(crate) seed: u64,
    /// How many calls run at a time. More are refused.
    pub(crate) places: u32,
    /// How many streams are open at a time.
    pub(crate) streams: u32,
    /// How many mailboxes are open at a time, and how long each stays open after its last call.
    pub(crate) mailboxes: Option<(usize, Duration)>,
    /// A call runs for between the first and the second, evenly drawn in whole milliseconds.
    pub(crate) service: (Duration, Duration),
    /// The way to the server, and the way back, take up to this number of milliseconds each, drawn for each request.
    pub(crate) jitter: u64,
    /// Calls of a client that was killed: each holds a place until then.
    pub(crate) old_calls: Vec<Duration>,
    /// What becomes of a call that its client gave up.
    pub(crate) given_up: RunsOn,
    /// A stream that its client closed holds its place for so long from then on.
    pub(crate) closed_for: Duration,
    /// Somebody else on the same account.
    pub(crate) other: Option<Other>,
    /// The requests that get HTTP 503, by the order in which they come, from 0 on.
    pub(crate) overloaded: Vec<usize>,
    pub(crate) bodies: Bodies,
}

/// How long a call without a client holds its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunsOn {
    /// As long as if it had one.
    ToItsEnd,
    /// So long from when it was given up.
    For(Duration),
}

impl RunsOn {
    /// How long it holds its place if it was given up after `ran` of `service`.
    pub(crate) fn after(self, ran: Duration, service: Duration) -> Duration {
        match self {
            Self::ToItsEnd => service.saturating_sub(ran),
            Self::For(time) => time,
        }
    }
}

/// The times of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drawn {
    pub(crate) there: Duration,
    pub(crate) service: Duration,
    pub(crate) back: Duration,
}

impl Drawn {
    /// From when the request is sent until its response is there.
    pub(crate) fn round(self) -> Duration {
        self.there + self.service + self.back
    }
}

/// Another client on the same account: it takes places for one period, leaves them for one, and so on.
///
/// Calls that run when it comes run on. Until enough of them have ended no other begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Other {
    pub(crate) places: u32,
    pub(crate) period: Duration,
}

/// How the body of a good response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bodies {
    /// After the last frame the body says that it has ended.
    Told,
    /// The end is known when one more frame is asked for: so does a body behind a decompressing layer.
    Silent,
    /// As `Silent`, and longer than what a client keeps back to look at.
    SilentAndLong,
}

impl Script {
    /// A server that runs a number of calls at a time, and nothing special.
    pub(crate) fn new(places: u32) -> Self {
        Self {
            seed: 0,
            places,
            streams: 10,
            mailboxes: None,
            service: (Duration::from_millis(100), Duration::from_millis(100)),
            jitter: 0,
            old_calls: Vec::new(),
            given_up: RunsOn::ToItsEnd,
            closed_for: Duration::ZERO,
            other: None,
            overloaded: Vec::new(),
            bodies: Bodies::Told,
        }
    }

    /// How many calls of ours may run at `time` after the start.
    pub(crate) fn places_at(&self, time: Duration) -> u32 {
        let old = self.old_calls.iter().filter(|until| **until > time).count();
        let other = self.other.map_or(0, |other| other.places_at(time));
        self.places.saturating_sub(old as u32 + other)
    }

    /// The most that a call takes, with both ways.
    pub(crate) fn longest_round(&self) -> Duration {
        self.service.1 + Duration::from_millis(2 * self.jitter)
    }

    /// When that changes next.
    pub(crate) fn next_change(&self, time: Duration) -> Option<Duration> {
        let old = self.old_calls.iter().copied().filter(|until| *until > time);
        let other = self.other.map(|other| other.next_change(time));
        old.chain(other).min()
    }

    /// What is drawn for a call when it is sent for the `attempt`-th time. Whoever is asked first makes no difference, so that
    /// all clients meet the same times.
    pub(crate) fn draw(&self, call: usize, attempt: u32) -> Drawn {
        let (least, most) = (self.service.0.as_millis(), self.service.1.as_millis());
        let mut ways = self.rng(call, 1 + u64::from(attempt));
        let mut way = || Duration::from_millis(ways.u64(0..=self.jitter));
        let service = self.rng(call, 0).u64(least as u64..=most as u64);
        Drawn {
            there: way(),
            service: Duration::from_millis(service),
            back: way(),
        }
    }

    /// Random numbers for one purpose of one call.
    pub(crate) fn rng(&self, call: usize, purpose: u64) -> fastrand::Rng {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        for part in [call as u64, purpose] {
            rng = fastrand::Rng::with_seed(rng.u64(..) ^ part);
        }
        rng
    }
}

impl Other {
    fn periods(self, time: Duration) -> u128 {
        time.as_nanos() / self.period.as_nanos()
    }

    fn places_at(self, time: Duration) -> u32 {
        if self.periods(time) % 2 == 0 {
            self.places
        } else {
            0
        }
    }

    fn next_change(self, time: Duration) -> Duration {
        self.period * (self.periods(time) as u32 + 1)
    }
}
