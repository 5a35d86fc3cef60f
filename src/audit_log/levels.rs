//! [`Level`]s, and the [`AuditHandle`] that changes them while calls go on.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::time::Instant;

use super::sink::Sink;
#[cfg(test)]
use crate::principal::counted;

/// How much is recorded of a call.
///
/// ```
/// use tower_ews::audit_log::Level;
///
/// assert!(Level::Summary < Level::Full);
/// assert_eq!(Level::default(), Level::Summary);
/// assert_eq!("headers".parse(), Ok(Level::Headers));
/// assert_eq!(Level::Off.to_string(), "off");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// No record is made.
    Off,
    /// Records who called what, when and for how long, how it ended, and each attempt.
    #[default]
    Summary,
    /// Records the headers of both sides too.
    Headers,
    /// Records the headers and the bodies of both sides too, up to a size.
    Full,
}

impl Level {
    const ALL: [Level; 4] = [Level::Off, Level::Summary, Level::Headers, Level::Full];

    /// Returns its word: `off`, `summary`, `headers` or `full`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Summary => "summary",
            Level::Headers => "headers",
            Level::Full => "full",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Level {
    type Err = ParseLevelError;

    /// Reads a level by its word, in any case of its letters.
    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        let is_named = |level: &Level| level.as_str().eq_ignore_ascii_case(text);
        let found = Level::ALL.into_iter().find(is_named);
        found.ok_or_else(|| ParseLevelError { text: text.into() })
    }
}

/// The error of a text that is no [`Level`].
///
/// ```
/// use tower_ews::audit_log::Level;
///
/// let error = "debug".parse::<Level>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#""debug" is not a level of the audit log: write off, summary, headers or full"#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a level of the audit log: write off, summary, headers or full")]
pub struct ParseLevelError {
    text: Box<str>,
}

/// The calls that a level is for.
///
/// Where several levels apply, the level of a principal wins over that of an operation, and that
/// over the level for all. Of several principals of one call the most detailed level wins.
///
/// ```
/// use tower_ews::audit_log::Scope;
///
/// let noisy = Scope::Operation("GetStreamingEvents");
/// assert_ne!(noisy, Scope::All);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope<'a> {
    /// All calls that have no level of their own.
    All,
    /// Calls that are made by, charged to or aimed at this account or mailbox, in any case of its
    /// ASCII letters.
    Principal(&'a str),
    /// Calls of this operation, exactly as the [`Facts`](super::Facts) name it.
    Operation(&'a str),
}

/// Bit of [`Control::state`]: somebody has to look into the rules.
const RULES: u8 = 0x80;

/// What a handle and the services of one layer share.
pub(super) struct Control {
    /// The level for all, and [`RULES`]. Zero is off: the one thing that a call that is not recorded looks at.
    state: AtomicU8,
    book: RwLock<Book>,
    pub(super) recorded: AtomicU64,
    pub(super) lost: AtomicU64,
    warned_of_retries: AtomicBool,
}

/// All that was set, and what a call has to know of all rules together: it looks at none but its own.
#[derive(Default)]
struct Book {
    base: Level,
    for_now: Option<(Level, Instant)>,
    /// Calls on their way keep those that they began with.
    rules: Arc<Rules>,
    /// When rules end, and which.
    ends: BTreeSet<(Instant, Name)>,
    /// How many rules of principals are at each level, without those that have ended.
    principals: [usize; Level::ALL.len()],
    /// How many rules of operations are at each level, without those that have ended.
    operations: [usize; Level::ALL.len()],
    /// How many of `rules` have ended.
    ended: usize,
}

/// The rules by name. Some of them may have ended.
#[derive(Clone, Default)]
struct Rules {
    principals: HashMap<Box<str>, Rule>,
    operations: HashMap<Box<str>, Rule>,
}

#[derive(Clone, Copy)]
struct Rule {
    level: Level,
    until: Option<Instant>,
}

/// What a rule is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Principal(Box<str>),
    Operation(Box<str>),
}

impl Rule {
    fn at(&self, now: Instant) -> Option<Level> {
        #[cfg(test)]
        counted::add();
        self.until
            .is_none_or(|until| now < until)
            .then_some(self.level)
    }
}

impl Rules {
    fn get(&self, name: &Name) -> Option<&Rule> {
        match name {
            Name::Principal(name) => self.principals.get(name),
            Name::Operation(name) => self.operations.get(name),
        }
    }

    fn remove(&mut self, name: &Name) -> Option<Rule> {
        match name {
            Name::Principal(name) => self.principals.remove(name),
            Name::Operation(name) => self.operations.remove(name),
        }
    }

    fn insert(&mut self, name: Name, rule: Rule) {
        match name {
            Name::Principal(name) => self.principals.insert(name, rule),
            Name::Operation(name) => self.operations.insert(name, rule),
        };
    }

    fn of_operation(&self, name: &str, now: Instant) -> Option<Level> {
        self.operations.get(name)?.at(now)
    }

    fn len(&self) -> usize {
        self.principals.len() + self.operations.len()
    }

    fn forget(&mut self, now: Instant) {
        self.principals.retain(|_, rule| rule.at(now).is_some());
        self.operations.retain(|_, rule| rule.at(now).is_some());
        self.principals.shrink_to_fit();
        self.operations.shrink_to_fit();
    }
}

impl Book {
    fn for_all(&self, now: Instant) -> Level {
        match self.for_now {
            Some((level, until)) if now < until => level,
            _ => self.base,
        }
    }

    fn is_plain(&self) -> bool {
        let counts = [&self.principals, &self.operations];
        self.for_now.is_none() && counts.into_iter().all(|counts| highest(counts).is_none())
    }

    /// Whether a rule has come to its end.
    fn is_stale(&self, now: Instant) -> bool {
        let first = self.ends.first().map(|(until, _)| *until);
        let for_now = self.for_now.map(|(_, until)| until);
        first.into_iter().chain(for_now).any(|until| until <= now)
    }

    fn set(&mut self, name: Name, rule: Rule) {
        self.remove(&name);
        *self.count(&name, rule.level) += 1;
        if let Some(until) = rule.until {
            self.ends.insert((until, name.clone()));
        }
        Arc::make_mut(&mut self.rules).insert(name, rule);
    }

    fn remove(&mut self, name: &Name) {
        // Calls on their way would make it a copy.
        if self.rules.get(name).is_none() {
            return;
        }
        let Some(rule) = Arc::make_mut(&mut self.rules).remove(name) else {
            return;
        };
        let ends = |until| self.ends.remove(&(until, name.clone()));
        if rule.until.is_none_or(ends) {
            *self.count(name, rule.level) -= 1;
        } else {
            self.ended -= 1;
        }
    }

    /// How many rules like this one there are.
    fn count(&mut self, name: &Name, level: Level) -> &mut usize {
        match name {
            Name::Principal(_) => &mut self.principals[level as usize],
            Name::Operation(_) => &mut self.operations[level as usize],
        }
    }

    /// Takes away what has ended. Its rules go once they are more than half of all: each costs as much as a few looks, however many
    /// there are.
    fn forget(&mut self, now: Instant) {
        self.for_now = self.for_now.filter(|(_, until)| now < *until);
        while self.ends.first().is_some_and(|(until, _)| *until <= now) {
            #[cfg(test)]
            counted::add();
            let Some((_, name)) = self.ends.pop_first() else {
                break;
            };
            if let Some(level) = self.rules.get(&name).map(|rule| rule.level) {
                *self.count(&name, level) -= 1;
                self.ended += 1;
            }
        }
        if self.ended * 2 > self.rules.len() {
            Arc::make_mut(&mut self.rules).forget(now);
            self.ended = 0;
        }
    }
}

impl Control {
    pub(super) fn new() -> Self {
        let book = Book::default();
        Self {
            state: AtomicU8::new(book.base as u8),
            book: RwLock::new(book),
            recorded: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            warned_of_retries: AtomicBool::new(false),
        }
    }

    /// Warns, once, that the layer stands inside of one that sends requests again.
    pub(super) fn warn_of_retries(&self) {
        if !self.warned_of_retries.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "tower_ews::wiring",
                "AuditLog records each attempt as a call, because it stands inside of a layer that \
                 sends requests again; put it outside of ServerBusyBackoff and BatchSplitter",
            );
        }
    }

    /// Whether nothing is recorded, whatever the call.
    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.state.load(Ordering::Relaxed) == Level::Off as u8
    }

    /// The level for all where nothing else is said; the rules otherwise.
    pub(super) fn look(&self) -> Look {
        let state = self.state.load(Ordering::Relaxed);
        if state & RULES != 0 {
            return Look::Rules;
        }
        match Level::ALL.get(usize::from(state)) {
            None | Some(Level::Off) => Look::Off,
            Some(level) => Look::Plain(*level),
        }
    }

    /// Returns what the rules say of a call of this operation.
    pub(super) fn begin(&self, operation: Option<&str>) -> Levels {
        self.look_up(|book, now| {
            let level = operation.and_then(|operation| book.rules.of_operation(operation, now));
            let otherwise = level.unwrap_or_else(|| book.for_all(now));
            let highest = highest(&book.principals);
            Levels {
                at_most: highest.map_or(otherwise, |highest| highest.max(otherwise)),
                otherwise,
                is_named: true,
                rules: highest.map(|_| (Arc::clone(&book.rules), now)),
            }
        })
    }

    /// Returns what the rules say of a call whose operation may become known on the way.
    pub(super) fn begin_unnamed(&self, operation: Option<&str>) -> Levels {
        let named = self.begin(operation);
        self.look_up(|book, now| match highest(&book.operations) {
            None => named,
            Some(highest) => Levels {
                at_most: named.at_most.max(highest),
                otherwise: named.otherwise,
                is_named: false,
                rules: Some((Arc::clone(&book.rules), now)),
            },
        })
    }

    fn look_up(&self, look: impl FnOnce(&Book, Instant) -> Levels) -> Levels {
        let mut book = self.book.read();
        // Under the lock: what others have removed had ended before.
        let mut now = Instant::now();
        if book.is_stale(now) {
            drop(book);
            self.change(|_| {});
            book = self.book.read();
            now = Instant::now();
        }
        look(&book, now)
    }

    fn change(&self, change: impl FnOnce(&mut Book)) {
        let mut book = self.book.write();
        change(&mut book);
        book.forget(Instant::now());
        let flag = if book.is_plain() { 0 } else { RULES };
        // With the lock held, so that the last change is the one that counts.
        self.state.store(book.base as u8 | flag, Ordering::Relaxed);
    }

    pub(super) fn set(&self, scope: Scope<'_>, level: Level, until: Option<Instant>) {
        let rule = Rule { level, until };
        self.change(|book| match (scope, until) {
            (Scope::All, None) => {
                book.base = level;
                book.for_now = None;
            }
            (Scope::All, Some(until)) => book.for_now = Some((level, until)),
            (Scope::Principal(name), _) => book.set(principal(name), rule),
            (Scope::Operation(name), _) => book.set(Name::Operation(name.into()), rule),
        });
    }

    fn clear(&self, scope: Scope<'_>) {
        self.change(|book| match scope {
            Scope::All => book.for_now = None,
            Scope::Principal(name) => book.remove(&principal(name)),
            Scope::Operation(name) => book.remove(&Name::Operation(name.into())),
        });
    }

    fn level(&self) -> Level {
        match self.look() {
            Look::Off => Level::Off,
            Look::Plain(level) => level,
            Look::Rules => self.book.read().for_all(Instant::now()),
        }
    }
}

/// Returns the most detailed level of which there are rules.
fn highest(counts: &[usize; Level::ALL.len()]) -> Option<Level> {
    let levels = Level::ALL.into_iter().zip(counts);
    levels
        .rev()
        .find_map(|(level, n)| (*n > 0).then_some(level))
}

fn principal(name: &str) -> Name {
    Name::Principal(name.to_ascii_lowercase().into())
}

/// What one load of [`Control::state`] tells.
pub(super) enum Look {
    Off,
    Plain(Level),
    Rules,
}

/// The level of one call, as far as it is known: its operation and its principals may become known
/// while it is under way.
pub(super) struct Levels {
    /// The most detailed level that the call can have: all of that is kept.
    pub(super) at_most: Level,
    /// The level unless one of its principals has a level.
    otherwise: Level,
    /// Whether the operation is known.
    is_named: bool,
    rules: Option<(Arc<Rules>, Instant)>,
}

impl Levels {
    pub(super) fn plain(level: Level) -> Self {
        Self {
            at_most: level,
            otherwise: level,
            is_named: true,
            rules: None,
        }
    }

    /// Sets the operation, if it was not known when the call began.
    pub(super) fn name(&mut self, operation: Option<&str>) {
        if std::mem::replace(&mut self.is_named, true) {
            return;
        }
        if let (Some((rules, now)), Some(operation)) = (&self.rules, operation) {
            self.otherwise = rules
                .of_operation(operation, *now)
                .unwrap_or(self.otherwise);
        }
    }

    /// Whether it depends on principals or an operation that are not known yet.
    pub(super) fn is_open(&self) -> bool {
        self.rules.is_some()
    }

    /// Returns the level of a call of these principals.
    pub(super) fn settle<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Level {
        if let Some((rules, now)) = self.rules.take() {
            let levels = names.filter_map(|name| {
                let rule = match rules.principals.get(name) {
                    Some(rule) => rule,
                    None => rules.principals.get(&*name.to_ascii_lowercase())?,
                };
                rule.at(now)
            });
            self.at_most = levels.max().unwrap_or(self.otherwise);
        }
        self.at_most
    }
}

/// Changes levels at run time, and counts what was lost. Clones act together.
///
/// A level is looked up when a call begins, and calls under way keep theirs. The cost of a call does
/// not depend on the number of levels; setting one while calls are under way can copy all of them.
///
/// ```
/// use std::time::Duration;
/// use tokio::time::Instant;
/// use tower_ews::audit_log::{AuditLogLayer, Level, MemorySink, Scope};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let layer = AuditLogLayer::new(MemorySink::new());
/// let handle = layer.handle();
/// handle.set(Scope::All, Level::Off);
/// // All there is about one mailbox, for an hour.
/// let hour = Instant::now() + Duration::from_secs(3600);
/// handle.set_until(Scope::Principal("amy@contoso.com"), Level::Full, hour);
/// assert_eq!(handle.level(), Level::Off);
/// # });
/// ```
#[derive(Clone)]
pub struct AuditHandle {
    pub(super) control: Arc<Control>,
    pub(super) sink: Arc<dyn Sink>,
}

impl AuditHandle {
    /// Returns the current level for all.
    pub fn level(&self) -> Level {
        self.control.level()
    }

    /// Sets a level until it is set again or [cleared](Self::clear).
    pub fn set(&self, scope: Scope<'_>, level: Level) {
        self.control.set(scope, level, None);
    }

    /// Sets a level until that time. Afterwards it is as if the level had not been set.
    pub fn set_until(&self, scope: Scope<'_>, level: Level, until: Instant) {
        self.control.set(scope, level, Some(until));
    }

    /// Removes the level of a principal or an operation, or a level for all that was set for a time.
    pub fn clear(&self, scope: Scope<'_>) {
        self.control.clear(scope);
    }

    /// Returns how many records the sink has taken.
    pub fn recorded(&self) -> u64 {
        self.control.recorded.load(Ordering::Relaxed)
    }

    /// Returns how many records were lost because the sink, or what makes the record, panicked. A
    /// sink counts by itself what it drops.
    pub fn lost(&self) -> u64 {
        self.control.lost.load(Ordering::Relaxed)
    }

    /// Asks the sink to write what it holds: see [`Sink::flush`].
    pub fn flush(&self) {
        self.sink.flush();
    }
}

impl fmt::Debug for AuditHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditHandle")
            .field("recorded", &self.recorded())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}
