//! The calls that wait in the back end of the remote ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::message::{Ask, Reply};

/// By ticket, then by the id of the question.
type Place = (u64, u64);

pub(crate) struct Waiting {
    pub(crate) ask: Ask,
    pub(crate) ticket: u64,
    pub(crate) since: Instant,
    /// When a reply is to be sent at the latest.
    pub(crate) until: Instant,
    pub(crate) reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
pub(crate) struct Queue {
    /// Calls that draw the same: where the first one has to wait, so have the others.
    groups: HashMap<String, BTreeMap<Place, Waiting>>,
    /// The group and the place of each question.
    places: HashMap<u64, (String, Place)>,
    /// Questions that may not be admitted yet.
    later: BTreeSet<(Instant, u64)>,
    due: BTreeSet<(Instant, u64)>,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn join(&mut self, id: u64, waiting: Waiting) {
        let ask = &waiting.ask;
        let name = format!("{:?} {:?}", ask.draws, ask.endpoint);
        let place = (waiting.ticket, id);
        self.due.insert((waiting.until, id));
        self.later.extend(ask.not_before.map(|time| (time, id)));
        self.places.insert(id, (name.clone(), place));
        self.groups.entry(name).or_default().insert(place, waiting);
    }

    pub(crate) fn leave(&mut self, id: u64) -> Option<Waiting> {
        let (name, place) = self.places.remove(&id)?;
        let group = self.groups.get_mut(&name)?;
        let waiting = group.remove(&place)?;
        if group.is_empty() {
            self.groups.remove(&name);
        }
        self.due.remove(&(waiting.until, id));
        if let Some(not_before) = waiting.ask.not_before {
            self.later.remove(&(not_before, id));
        }
        Some(waiting)
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Waiting> {
        let (name, place) = self.places.get(&id)?;
        self.groups.get(name)?.get(place)
    }

    pub(crate) fn ids(&self) -> Vec<u64> {
        self.places.keys().copied().collect()
    }

    /// One that has waited long enough.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        let (until, id) = *self.due.first()?;
        (until <= now).then_some(id)
    }

    /// The first one of each group that may be admitted by now, in the order of their tickets.
    pub(crate) fn firsts(&self, now: Instant) -> Vec<u64> {
        let due = |(_, waiting): &(&Place, &Waiting)| {
            waiting.ask.not_before.is_none_or(|time| time <= now)
        };
        let firsts = self.groups.values();
        let mut firsts: Vec<Place> = firsts
            .filter_map(|group| group.iter().find(due).map(|(place, _)| *place))
            .collect();
        firsts.sort_unstable();
        firsts.into_iter().map(|(_, id)| id).collect()
    }

    /// When one of them may be admitted or is due, after `now`.
    pub(crate) fn wake(&self, now: Instant) -> Option<Instant> {
        let later = self.later.range((now, u64::MAX)..).next();
        let times = [later, self.due.first()];
        times.into_iter().flatten().map(|(time, _)| *time).min()
    }

    /// How many calls wait for each principal.
    pub(crate) fn by_principal(&self) -> HashMap<&str, usize> {
        let mut queued: HashMap<&str, usize> = HashMap::new();
        for group in self.groups.values() {
            let draws = group.values().take(1).flat_map(|first| &first.ask.draws);
            let principals: BTreeSet<&str> = draws.map(|draw| &*draw.principal).collect();
            for principal in principals {
                *queued.entry(principal).or_default() += group.len();
            }
        }
        queued
    }
}
