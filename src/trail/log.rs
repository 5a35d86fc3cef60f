//! The attempts of one call in the order in which they began, bounded in number, and who sees which of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::attempt::{Attempt, Times};
use super::left_out::LeftOut;
#[cfg(test)]
use crate::principal::counted;

/// Attempts that are listed from the first one on.
pub(super) const FIRST: usize = 64;
/// Later attempts that are listed after they are over: those that ended last.
pub(super) const LAST: usize = 448;
/// Later attempts that are listed because they go on.
pub(super) const LIVE: usize = 512;

/// What a clone of a trail stands for: a part of a batch, or one attempt. Sees what was begun through it.
#[derive(Debug)]
pub(super) struct View {
    parent: Option<Arc<View>>,
    part: Option<u32>,
    resend: bool,
    /// How long the part was held back before its first attempt.
    pub(super) backed_off: Duration,
    kind: Kind,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Part,
    Attempt,
}

/// Changed under the lock of the [`Log`] alone.
#[derive(Debug, Default)]
struct State {
    /// The attempt that is written to: a part's last one.
    at: Option<u64>,
    parts: u64,
    left_out: Option<Box<LeftOut>>,
}

impl View {
    /// A part of a batch.
    pub(super) fn part(parent: Option<Arc<Self>>, number: u32, resend: bool) -> Self {
        Self {
            parent,
            part: Some(number),
            resend,
            backed_off: Duration::ZERO,
            kind: Kind::Part,
            state: Mutex::default(),
        }
    }

    fn attempt(parent: Option<&Arc<Self>>) -> Self {
        let part = parent.and_then(|parent| parent.part);
        Self {
            parent: parent.cloned(),
            part,
            resend: parent.is_some_and(|parent| parent.resend),
            backed_off: Duration::ZERO,
            kind: Kind::Attempt,
            state: Mutex::new(State {
                parts: u64::from(part.is_some()),
                ..State::default()
            }),
        }
    }

    fn at(&self) -> Option<u64> {
        self.state.lock().at
    }
}

/// A view, and those that it is within.
fn chain(view: Option<&Arc<View>>) -> impl Iterator<Item = &Arc<View>> {
    std::iter::successors(view, |view| view.parent.as_ref())
}

/// The part whose attempts follow each other. None for those of the whole call.
fn part_of(view: Option<&Arc<View>>) -> Option<&Arc<View>> {
    chain(view).find(|view| view.kind == Kind::Part)
}

/// An attempt with what the log knows of it.
#[derive(Debug)]
struct Entry {
    /// Its number in the call.
    number: u64,
    attempt: Attempt,
    created: Instant,
    view: Option<Arc<View>>,
    /// When the next attempt of its part began.
    next_began: Option<Instant>,
    over: bool,
}

/// An attempt, as it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListedAttempt {
    /// Its number in the call.
    pub(crate) number: u64,
    pub(crate) attempt: Attempt,
    /// When the next attempt of its part began.
    pub(crate) next_began: Option<Instant>,
}

/// All that a view tells.
#[derive(Debug)]
pub(crate) struct TrailSnapshot {
    pub(crate) attempts: SmallVec<[ListedAttempt; 1]>,
    pub(crate) left_out: LeftOut,
    /// Parts that were begun.
    pub(crate) parts: u64,
}

/// The attempts of one call. Numbers count from the call's first one; `first` and `rest` are in their order.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Most calls take one attempt.
    first: SmallVec<[Entry; 1]>,
    rest: VecDeque<Entry>,
    /// Those of `rest` that are over, in the order in which they ended.
    over: VecDeque<u64>,
    begun: u64,
    /// The first and the last attempt that belongs to no part.
    whole: Option<(u64, u64)>,
    parts: u64,
    left_out: Option<Box<LeftOut>>,
}

impl Log {
    /// Begins an attempt of `view`.
    pub(super) fn begin(&mut self, view: Option<&Arc<View>>) -> Arc<View> {
        let now = Instant::now();
        let own = Arc::new(View::attempt(view));
        let before = self.last_of(part_of(view));
        if let Some(before) = before {
            self.supersede(before, now);
        }
        let number = self.push(Some(&own), Some(now), before);
        own.state.lock().at = Some(number);
        own
    }

    /// The attempt that `view` writes to, a new one if it has none.
    pub(super) fn here(&mut self, view: Option<&Arc<View>>) -> u64 {
        let known = match view {
            Some(view) => view.at(),
            None => self.whole.map(|(first, _)| first),
        };
        // It began before somebody wrote to it, nobody knows when.
        known.unwrap_or_else(|| self.push(view, None, None))
    }

    /// The attempt of that number, while it is listed.
    pub(super) fn get(&self, number: u64) -> Option<&Attempt> {
        let entry = match usize::try_from(number).ok().filter(|at| *at < FIRST) {
            Some(at) => self.first.get(at),
            None => self.rest.get(self.place(number)?),
        };
        entry.map(|entry| &entry.attempt)
    }

    /// Writes to the attempt of that number, while it is listed.
    pub(super) fn write(&mut self, number: u64, write: impl FnOnce(&mut Attempt)) {
        let Some(entry) = self.entry(number) else {
            return;
        };
        write(&mut entry.attempt);
        if entry.attempt.ended.is_some() {
            self.end(number);
        }
    }

    /// Calls `read` with each listed attempt of `view`.
    pub(super) fn each(&self, view: Option<&Arc<View>>, mut read: impl FnMut(&Attempt)) {
        self.entries(view).for_each(|entry| read(&entry.attempt));
    }

    /// The sums of what is not listed of `view`.
    pub(super) fn left_out<T>(
        &self,
        view: Option<&Arc<View>>,
        read: impl FnOnce(&LeftOut) -> T,
    ) -> Option<T> {
        match view {
            Some(view) => view.state.lock().left_out.as_deref().map(read),
            None => self.left_out.as_deref().map(read),
        }
    }

    pub(super) fn read_all(&self, view: Option<&Arc<View>>) -> TrailSnapshot {
        let listed = |entry: &Entry| ListedAttempt {
            number: entry.number,
            attempt: entry.attempt.clone(),
            next_began: entry.next_began,
        };
        TrailSnapshot {
            attempts: self.entries(view).map(listed).collect(),
            left_out: self.left_out(view, LeftOut::clone).unwrap_or_default(),
            parts: view.map_or(self.parts, |view| view.state.lock().parts),
        }
    }

    fn entries<'a>(&'a self, view: Option<&'a Arc<View>>) -> impl Iterator<Item = &'a Entry> {
        let sees = move |entry: &&Entry| {
            view.is_none_or(|view| {
                chain(entry.view.as_ref()).any(|within| Arc::ptr_eq(within, view))
            })
        };
        self.first.iter().chain(&self.rest).filter(sees)
    }

    /// The last attempt of a part, or of the whole call.
    fn last_of(&self, part: Option<&Arc<View>>) -> Option<u64> {
        match part {
            Some(part) => part.at(),
            None => self.whole.map(|(_, last)| last),
        }
    }

    /// Appends an attempt of `view` that follows `before`.
    fn push(
        &mut self,
        view: Option<&Arc<View>>,
        started: Option<Instant>,
        before: Option<u64>,
    ) -> u64 {
        #[cfg(test)]
        counted::add();
        let number = self.begun;
        self.begun += 1;
        let part = part_of(view);
        match part {
            Some(part) => {
                part.state.lock().at = Some(number);
                if before.is_none() {
                    self.parts += 1;
                    for view in chain(Some(part)) {
                        view.state.lock().parts += 1;
                    }
                }
            }
            None => {
                let first = self.whole.map_or(number, |(first, _)| first);
                self.whole = Some((first, number));
            }
        }
        let held_back = part.filter(|_| before.is_none());
        let entry = Entry {
            number,
            attempt: Attempt {
                started,
                backed_off: held_back.map_or(Duration::ZERO, |part| part.backed_off),
                part: part.and_then(|part| part.part),
                resend: part.is_some_and(|part| part.resend),
                ..Attempt::default()
            },
            created: started.unwrap_or_else(Instant::now),
            view: view.cloned(),
            next_began: None,
            over: false,
        };
        if self.first.len() < FIRST {
            self.first.push(entry);
            return number;
        }
        self.rest.push_back(entry);
        if self.rest.len() - self.over.len() > LIVE {
            self.end_oldest();
        }
        number
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        match usize::try_from(number).ok().filter(|at| *at < FIRST) {
            Some(at) => self.first.get_mut(at),
            None => {
                let at = self.place(number)?;
                self.rest.get_mut(at)
            }
        }
    }

    /// Where the attempt of that number is in `rest`.
    fn place(&self, number: u64) -> Option<usize> {
        let by_number = |entry: &Entry| {
            #[cfg(test)]
            counted::add();
            entry.number
        };
        self.rest.binary_search_by_key(&number, by_number).ok()
    }

    /// The next attempt of its part has begun.
    fn supersede(&mut self, number: u64, now: Instant) {
        if let Some(entry) = self.entry(number) {
            entry.next_began.get_or_insert(now);
            self.end(number);
        }
    }

    /// Nobody may ever tell that these end: the oldest one counts to this moment.
    fn end_oldest(&mut self) {
        let oldest = self.rest.iter().find(|entry| {
            #[cfg(test)]
            counted::add();
            !entry.over
        });
        if let Some(oldest) = oldest {
            self.supersede(oldest.number, Instant::now());
        }
    }

    /// An attempt is over: it may be left out when others have ended after it.
    fn end(&mut self, number: u64) {
        let Some(entry) = self.entry(number).filter(|entry| !entry.over) else {
            return;
        };
        entry.over = true;
        if number < FIRST as u64 {
            return;
        }
        self.over.push_back(number);
        if self.over.len() > LAST {
            if let Some(number) = self.over.pop_front() {
                self.leave_out(number);
            }
        }
    }

    fn leave_out(&mut self, number: u64) {
        let Some(entry) = self.place(number).and_then(|at| self.rest.remove(at)) else {
            return;
        };
        let attempt = &entry.attempt;
        let ended = attempt.end(entry.next_began, entry.created);
        let times = Times::of(attempt, entry.created, attempt.responded, ended);
        let left_out = self.left_out.get_or_insert_default();
        left_out.add(number, attempt, &times);
        for view in chain(entry.view.as_ref()) {
            // Without another owner nobody reads it any more.
            if Arc::strong_count(view) > 1 {
                let mut state = view.state.lock();
                let left_out = state.left_out.get_or_insert_default();
                left_out.add(number, attempt, &times);
            }
        }
    }
}
