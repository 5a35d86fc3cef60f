//! [`Level`]s, and the [`AuditHandle`] that changes them while calls go on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;
use tokio::time::Instant;

use super::sink::Sink;

/// How much is recorded of a call.
///
/// ```
/// use tower_ews::audit_log::Level;
///
/// assert!(Level::Summary < Level::Full);
/// assert_eq!(Level::default(), Level::Summary);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Nothing: no record is made.
    Off,
    /// Who, what, when, how long, how it ended, each attempt.
    #[default]
    Summary,
    /// The headers of both sides besides.
    Headers,
    /// The bodies of both sides besides, up to a size.
    Full,
}

impl Level {
    const ALL: [Level; 4] = [Level::Off, Level::Summary, Level::Headers, Level::Full];
}

/// Which calls a level is for. More than one can speak of a call: a principal's level counts before an operation's, and that before the
/// level for all. Of several principals of one call the most detailed level counts.
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
    /// All calls of which nothing else is said.
    All,
    /// Calls that are made by, charged to or aimed at this account or mailbox; the case of ASCII letters makes no difference.
    Principal(&'a str),
    /// Calls of this operation, exactly as the facts name it.
    Operation(&'a str),
}

/// Bit of [`Control::state`]: somebody has to look into the rules.
const RULES: u8 = 0x80;

/// What a handle and the services of one layer share.
pub(super) struct Control {
    /// The level for all, and [`RULES`]. Zero is off: the one thing that a call that is not recorded looks at.
    state: AtomicU8,
    rules: RwLock<Arc<Rules>>,
    pub(super) recorded: AtomicU64,
    pub(super) lost: AtomicU64,
}

#[derive(Clone, Default)]
struct Rules {
    base: Level,
    for_now: Option<(Level, Instant)>,
    principals: HashMap<Box<str>, Rule>,
    operations: HashMap<Box<str>, Rule>,
}

#[derive(Clone, Copy)]
struct Rule {
    level: Level,
    until: Option<Instant>,
}

impl Rule {
    fn at(&self, now: Instant) -> Option<Level> {
        self.until
            .is_none_or(|until| now < until)
            .then_some(self.level)
    }
}

impl Rules {
    fn for_all(&self, now: Instant) -> Level {
        match self.for_now {
            Some((level, until)) if now < until => level,
            _ => self.base,
        }
    }

    fn forget(&mut self, now: Instant) {
        self.for_now = self.for_now.filter(|(_, until)| now < *until);
        self.principals.retain(|_, rule| rule.at(now).is_some());
        self.operations.retain(|_, rule| rule.at(now).is_some());
        self.principals.shrink_to_fit();
        self.operations.shrink_to_fit();
    }

    fn is_plain(&self) -> bool {
        self.for_now.is_none() && self.principals.is_empty() && self.operations.is_empty()
    }

    /// Whether a rule has come to its end.
    fn is_stale(&self, now: Instant) -> bool {
        let ended = |rule: &Rule| rule.at(now).is_none();
        self.for_now.is_some_and(|(_, until)| until <= now)
            || self.principals.values().any(ended)
            || self.operations.values().any(ended)
    }
}

impl Control {
    pub(super) fn new() -> Self {
        let rules = Rules::default();
        Self {
            state: AtomicU8::new(rules.base as u8),
            rules: RwLock::new(Arc::new(rules)),
            recorded: AtomicU64::new(0),
            lost: AtomicU64::new(0),
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

    /// What the rules say of a call that is about to begin.
    pub(super) fn begin(&self, operation: Option<&str>) -> Levels {
        let now = Instant::now();
        let mut rules = Arc::clone(&self.rules.read());
        if rules.is_stale(now) {
            self.change(|rules| rules.forget(now));
            rules = Arc::clone(&self.rules.read());
        }
        let by_operation = operation
            .and_then(|operation| rules.operations.get(operation))
            .and_then(|rule| rule.at(now));
        let otherwise = by_operation.unwrap_or_else(|| rules.for_all(now));
        let principals = rules.principals.values();
        let at_most = principals
            .filter_map(|rule| rule.at(now))
            .fold(otherwise, Level::max);
        Levels {
            at_most,
            otherwise,
            rules: (!rules.principals.is_empty()).then_some((rules, now)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.rules.write();
        change(Arc::make_mut(&mut rules));
        let flag = if rules.is_plain() { 0 } else { RULES };
        // With the lock held, so that the last change is the one that counts.
        self.state.store(rules.base as u8 | flag, Ordering::Relaxed);
    }

    pub(super) fn set(&self, scope: Scope<'_>, level: Level, until: Option<Instant>) {
        let rule = Rule { level, until };
        self.change(|rules| match (scope, until) {
            (Scope::All, None) => {
                rules.base = level;
                rules.for_now = None;
            }
            (Scope::All, Some(until)) => rules.for_now = Some((level, until)),
            (Scope::Principal(name), _) => {
                rules
                    .principals
                    .insert(name.to_ascii_lowercase().into(), rule);
            }
            (Scope::Operation(name), _) => {
                rules.operations.insert(name.into(), rule);
            }
        });
    }

    fn clear(&self, scope: Scope<'_>) {
        self.change(|rules| match scope {
            Scope::All => rules.for_now = None,
            Scope::Principal(name) => {
                rules.principals.remove(&*name.to_ascii_lowercase());
            }
            Scope::Operation(name) => {
                rules.operations.remove(name);
            }
        });
    }

    fn level(&self) -> Level {
        match self.look() {
            Look::Off => Level::Off,
            Look::Plain(level) => level,
            Look::Rules => self.rules.read().for_all(Instant::now()),
        }
    }
}

/// What one load tells.
pub(super) enum Look {
    Off,
    Plain(Level),
    Rules,
}

/// The level of one call, as far as it is known: whom it is charged to shows on the way.
pub(super) struct Levels {
    /// What has to be kept for the case that it is wanted.
    pub(super) at_most: Level,
    otherwise: Level,
    rules: Option<(Arc<Rules>, Instant)>,
}

impl Levels {
    pub(super) fn plain(level: Level) -> Self {
        Self {
            at_most: level,
            otherwise: level,
            rules: None,
        }
    }

    /// Whether it depends on principals that are not known yet.
    pub(super) fn is_open(&self) -> bool {
        self.rules.is_some()
    }

    /// The level of a call of these principals.
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

/// Changes levels at run time, and tells what was lost. Clones act together.
///
/// A level is looked up when a call begins; calls that are on their way keep theirs.
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
    /// The level for all, as it is now.
    pub fn level(&self) -> Level {
        self.control.level()
    }

    /// Sets a level until it is set again or [cleared](Self::clear).
    pub fn set(&self, scope: Scope<'_>, level: Level) {
        self.control.set(scope, level, None);
    }

    /// Sets a level until then; after that what would hold without it holds again.
    pub fn set_until(&self, scope: Scope<'_>, level: Level, until: Instant) {
        self.control.set(scope, level, Some(until));
    }

    /// Takes back a level of a principal or an operation, or the level for all that has an end.
    pub fn clear(&self, scope: Scope<'_>) {
        self.control.clear(scope);
    }

    /// Records that the sink has taken.
    pub fn recorded(&self) -> u64 {
        self.control.recorded.load(Ordering::Relaxed)
    }

    /// Records that were lost because the sink, or what makes the record, panicked. What a sink itself drops it counts itself.
    pub fn lost(&self) -> u64 {
        self.control.lost.load(Ordering::Relaxed)
    }

    /// Asks the sink to write out what it holds: see [`Sink::flush`].
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
