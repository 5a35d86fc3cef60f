//! [`LeftOut`]: what remains of the attempts that a trail no longer lists.

use std::time::Duration;

use hashbrown::HashSet;
use tokio::time::Instant;

use super::attempt::{Attempt, Times};
use crate::ledger::Admission;
use crate::principal::Principal;

/// Different signals that are counted by name.
const SIGNALS: usize = 16;
/// The name that further ones are counted by.
const OTHER: &str = "other";
/// Different principals that are known by name.
const PRINCIPALS: usize = 1_024;

/// The sums of the attempts that a [`CallTrail`](super::CallTrail) no longer lists.
///
/// Times are sums of whole microseconds.
///
/// ```
/// use tower_ews::trail::CallTrail;
///
/// let trail = CallTrail::new();
/// for _ in 0..10_000 {
///     trail.begin_attempt();
/// }
/// assert_eq!(trail.left_out().attempts + trail.attempts().len() as u64, 10_000);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LeftOut {
    /// How many attempts.
    pub attempts: u64,
    /// How many of them got a permit.
    pub admitted: u64,
    /// How many of them followed one that may have been executed ([`Attempt::resend`]).
    pub resends: u64,
    /// How long the call backed off before them.
    pub backed_off: Duration,
    /// How long they waited for permits.
    pub queued: Duration,
    /// From sending to the heads of their responses.
    pub wire: Duration,
    /// Reading the bodies of their responses.
    pub body: Duration,
    /// How many of them had which signal: 16 by name, further ones as `other`.
    pub signals: Vec<(Box<str>, u64)>,
    /// The last admission, and the number of its attempt.
    pub(crate) admission: Option<(u64, Admission)>,
    /// The last signal, and the number of its attempt.
    pub(crate) signal: Option<(u64, Box<str>)>,
    /// Who was charged: the first ones of very many.
    pub(crate) principals: HashSet<Principal>,
    /// The server told who it is.
    pub(crate) knows_server: bool,
    /// The end of some was not told.
    pub(crate) any_unended: bool,
    /// When the last one ended.
    pub(crate) last_ended: Option<Instant>,
}

impl LeftOut {
    /// Adds an attempt by its number in the call.
    pub(super) fn add(&mut self, number: u64, attempt: &Attempt, times: &Times) {
        self.attempts += 1;
        self.admitted += u64::from(attempt.admission.is_some());
        self.resends += u64::from(attempt.resend);
        self.backed_off += times.backed_off;
        self.queued += times.queued;
        self.wire += times.wire;
        self.body += times.body;
        self.knows_server |= attempt.request_id.is_some() || attempt.fe_server.is_some();
        self.any_unended |= attempt.ended.is_none();
        self.last_ended = self.last_ended.max(attempt.ended);
        if let Some(signal) = &attempt.signal {
            self.count(signal);
            if self.signal.as_ref().is_none_or(|(last, _)| *last < number) {
                self.signal = Some((number, signal.clone()));
            }
        }
        if let Some(admission) = &attempt.admission {
            self.charge(admission);
            let known = self.admission.as_ref();
            if known.is_none_or(|(last, _)| *last < number) {
                self.admission = Some((number, admission.clone()));
            }
        }
    }

    fn count(&mut self, signal: &str) {
        let room = self.signals.len() < SIGNALS;
        let name = |name: &str| self.signals.iter().position(|(known, _)| **known == *name);
        match name(signal).or_else(|| name(OTHER).filter(|_| !room)) {
            Some(at) => {
                if let Some((_, count)) = self.signals.get_mut(at) {
                    *count += 1;
                }
            }
            None => {
                let name = if room { signal } else { OTHER };
                self.signals.push((name.into(), 1));
            }
        }
    }

    fn charge(&mut self, admission: &Admission) {
        let charges = admission
            .charges()
            .chunk_by(|one, other| one.principal() == other.principal());
        for charge in charges.filter_map(|run| run.first()) {
            if self.principals.len() >= PRINCIPALS {
                return;
            }
            if !self.principals.contains(charge.principal()) {
                self.principals.insert(charge.principal().clone());
            }
        }
    }
}
