//! Everything that is added up, in tables that do not grow with the log.

use hashbrown::HashMap;
use hdrhistogram::Histogram;
use jiff::Timestamp;

use crate::distinct::{Distinct, hash};
use crate::failures::Failures;
use crate::format::Clock;
use crate::record::{Outcome, Record, clip, micros};
use crate::series::Series;
use crate::slowest::Slowest;

/// How many accounts, operations and so on are told apart; what comes after is added up as one.
const ACCOUNTS: usize = 2_000;
const OPERATIONS: usize = 400;
const USES: usize = 8_192;
const SERVERS: usize = 50;
const SIGNALS: usize = 50;

/// Longer names are cut.
const NAME: usize = 200;

pub(crate) const OTHERS: &str = "(all others)";

/// The day that EWS ends in Exchange Online: 1 April 2027, in seconds since 1970.
pub(crate) const END_OF_EWS: i64 = 1_806_537_600;

/// Names in the order of their first appearance, up to a number of them.
#[derive(Debug)]
pub(crate) struct Names<T> {
    places: HashMap<Box<str>, usize>,
    pub(crate) entries: Vec<(Box<str>, T)>,
    most: usize,
    /// How many values went to [`OTHERS`].
    pub(crate) overflowed: u64,
}

impl<T: Default> Names<T> {
    pub(crate) fn up_to(most: usize) -> Self {
        Self {
            places: HashMap::new(),
            entries: Vec::new(),
            most,
            overflowed: 0,
        }
    }

    /// Where this name stands.
    pub(crate) fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let clipped = clip(name, NAME);
        let name = if self.entries.len() < self.most {
            &*clipped
        } else {
            self.overflowed += 1;
            OTHERS
        };
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.entries.len();
        self.entries.push((name.into(), T::default()));
        self.places.insert(name.into(), place);
        place
    }

    pub(crate) fn of(&mut self, name: &str) -> &mut T {
        let place = self.place(name);
        &mut self.entries[place].1
    }
}

/// How calls ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) unknown: u64,
    pub(crate) given_up: u64,
}

impl Outcomes {
    fn add(&mut self, outcome: Outcome) {
        self.calls += 1;
        match outcome {
            Outcome::Well => {}
            Outcome::Failed => self.failed += 1,
            Outcome::Unknown => self.unknown += 1,
            Outcome::GivenUp => self.given_up += 1,
        }
    }
}

/// Where the time went, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    pub(crate) queued: u64,
    pub(crate) backed_off: u64,
    pub(crate) wire: u64,
    pub(crate) body: u64,
}

impl Phases {
    pub(crate) const NAMES: [&str; 4] = ["queued", "backing off", "on the wire", "reading bodies"];

    pub(crate) fn each(self) -> [u64; 4] {
        [self.queued, self.backed_off, self.wire, self.body]
    }

    pub(crate) fn sum(self) -> u64 {
        self.each().iter().sum()
    }

    fn add(&mut self, other: Self) {
        self.queued += other.queued;
        self.backed_off += other.backed_off;
        self.wire += other.wire;
        self.body += other.body;
    }
}

#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) outcomes: Outcomes,
    pub(crate) phases: Phases,
    /// Microseconds, to two digits.
    pub(crate) durations: Histogram<u64>,
    /// The longest, to all digits.
    pub(crate) longest: u64,
}

impl Default for Operation {
    fn default() -> Self {
        Self {
            outcomes: Outcomes::default(),
            phases: Phases::default(),
            durations: Histogram::new_with_bounds(1, 86_400_000_000, 2)
                .expect("these bounds are good"),
            longest: 0,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) outcomes: Outcomes,
    pub(crate) throttled: u64,
    /// Of its calls, those that met a throttled response.
    pub(crate) throttled_calls: u64,
    pub(crate) phases: Phases,
    pub(crate) throttling: Series<1>,
}

/// One account's use of one operation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Use {
    pub(crate) calls: u64,
    pub(crate) members: u64,
    pub(crate) mailboxes: Distinct,
    /// Seconds on the log's clock.
    pub(crate) last: i64,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) clock: Option<Clock>,
    pub(crate) outcomes: Outcomes,
    pub(crate) attempts: u64,
    pub(crate) throttled: u64,
    pub(crate) throttled_calls: u64,
    /// Of those, the calls that ended well.
    pub(crate) rescued: u64,
    pub(crate) phases: Phases,
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Ended well, failed or unknown, given up.
    pub(crate) calls: Series<3>,
    pub(crate) mailboxes: Distinct,
    pub(crate) accounts: Names<Account>,
    pub(crate) operations: Names<Operation>,
    pub(crate) servers: Names<u64>,
    pub(crate) signals: Names<u64>,
    uses: HashMap<(usize, usize), Use>,
    /// Calls whose account or operation came too late to be told apart.
    pub(crate) uncounted_uses: u64,
    pub(crate) failures: Failures,
    pub(crate) slowest: Slowest,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            clock: None,
            outcomes: Outcomes::default(),
            attempts: 0,
            throttled: 0,
            throttled_calls: 0,
            rescued: 0,
            phases: Phases::default(),
            first: i64::MAX,
            last: i64::MIN,
            calls: Series::default(),
            mailboxes: Distinct::default(),
            accounts: Names::up_to(ACCOUNTS),
            operations: Names::up_to(OPERATIONS),
            servers: Names::up_to(SERVERS),
            signals: Names::up_to(SIGNALS),
            uses: HashMap::new(),
            uncounted_uses: 0,
            failures: Failures::default(),
            slowest: Slowest::default(),
        }
    }
}

impl Tally {
    /// Counts this call; `false` if its time is none, and nothing was counted.
    #[must_use]
    pub(crate) fn add(&mut self, record: &Record<'_>) -> bool {
        let Ok(time) = record.time.parse::<Timestamp>() else {
            return false;
        };
        let clock = match self.clock {
            Some(clock) => clock,
            None => {
                let Some(clock) = Clock::of(&record.time) else {
                    return false;
                };
                *self.clock.insert(clock)
            }
        };
        let second = clock.local(time);
        self.first = self.first.min(second);
        self.last = self.last.max(second);

        let outcome = record.outcome();
        let phases = Phases {
            queued: micros(record.queued_ms),
            backed_off: micros(record.backed_off_ms),
            wire: micros(record.wire_ms),
            body: micros(record.body_ms),
        };
        let duration = micros(record.duration_ms);
        self.outcomes.add(outcome);
        self.attempts = self.attempts.saturating_add(record.all_attempts());
        self.phases.add(phases);
        let column = match outcome {
            Outcome::Well => 0,
            Outcome::Failed | Outcome::Unknown => 1,
            Outcome::GivenUp => 2,
        };
        self.calls.add(second, column, 1);

        let mut throttled = 0;
        for (signal, attempts) in record.signals() {
            throttled += attempts;
            *self.signals.of(signal) += attempts;
        }
        let account_place = self.accounts.place(record.account());
        let account = &mut self.accounts.entries[account_place].1;
        account.outcomes.add(outcome);
        account.phases.add(phases);
        if throttled > 0 {
            self.throttled += throttled;
            self.throttled_calls += 1;
            self.rescued += u64::from(outcome == Outcome::Well);
            account.throttled += throttled;
            account.throttled_calls += 1;
            account.throttling.add(second, 0, throttled);
        }

        let operation_place = self.operations.place(record.operation());
        let operation = &mut self.operations.entries[operation_place].1;
        operation.outcomes.add(outcome);
        operation.phases.add(phases);
        operation.durations.saturating_record(duration.max(1));
        operation.longest = operation.longest.max(duration);

        if let Some(server) = record.server.as_deref() {
            *self.servers.of(server) += 1;
        }
        let key = (operation_place, account_place);
        if self.uses.len() < USES || self.uses.contains_key(&key) {
            let used = self.uses.entry(key).or_default();
            used.calls += 1;
            used.members += record.members.unwrap_or(0);
            used.last = used.last.max(second);
            if let Some(mailbox) = record.mailbox.as_deref() {
                let hash = hash(mailbox);
                used.mailboxes.insert(hash);
                self.mailboxes.insert(hash);
            }
        } else {
            self.uncounted_uses += 1;
        }
        if matches!(outcome, Outcome::Failed | Outcome::Unknown) {
            self.failures.add(time, record);
        }
        self.slowest.add(duration, record);
        true
    }

    /// Who uses an operation, the busiest first.
    pub(crate) fn uses_of(&self, operation: usize) -> Vec<(&str, &Use)> {
        let mut uses: Vec<_> = self
            .uses
            .iter()
            .filter(|((of, _), _)| *of == operation)
            .map(|((_, account), used)| (&*self.accounts.entries[*account].0, used))
            .collect();
        uses.sort_by(|(name, a), (other, b)| b.calls.cmp(&a.calls).then(name.cmp(other)));
        uses
    }

    /// Names of a table, sorted by what is counted, the most first.
    pub(crate) fn ranked<T>(names: &Names<T>, by: impl Fn(&T) -> u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..names.entries.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (&names.entries[*a], &names.entries[*b]);
            by(&b.1).cmp(&by(&a.1)).then(a.0.cmp(&b.0))
        });
        order
    }
}
