//! One budget of one principal in the remote ledger.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tower_ews::ledger::Limit;

use super::message::Draw;

/// After the server did not open one more value, no other one is tried for so long.
const PAUSE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(crate) struct Budget {
    kind: Kind,
    /// As it is now.
    pub(crate) limit: u32,
    most: u32,
    /// Good responses since the limit was changed.
    good: u32,
    /// Calls that were admitted before this one say nothing about the limit as it is now.
    since: u64,
}

#[derive(Debug)]
enum Kind {
    InFlight(u32),
    Distinct {
        open: HashMap<String, Value>,
        idle: Duration,
        no_new_before: Option<Instant>,
    },
}

#[derive(Debug, Default)]
struct Value {
    step: Step,
    uses: u32,
    until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// One call goes first.
    #[default]
    Opening,
    Open,
    /// The server did not open it.
    Refused,
}

impl Budget {
    /// None for limits that came later than this ledger.
    pub(crate) fn new(limit: Limit) -> Option<Self> {
        let kind = match limit {
            Limit::InFlight(_) => Kind::InFlight(0),
            Limit::Distinct { idle, .. } => Kind::Distinct {
                open: HashMap::new(),
                idle,
                no_new_before: None,
            },
            _ => return None,
        };
        Some(Self {
            kind,
            limit: limit.number(),
            most: limit.number(),
            good: 0,
            since: 0,
        })
    }

    /// Whether all of `draws`, which are on this budget, can be admitted now. One that is too large runs alone.
    pub(crate) fn fits<'a>(&self, draws: impl Iterator<Item = &'a Draw>, now: Instant) -> bool {
        let used = self.used();
        match &self.kind {
            Kind::InFlight(held) => {
                let amount: u32 = draws.map(|draw| draw.amount).sum();
                *held == 0 || held.saturating_add(amount) <= self.limit
            }
            Kind::Distinct {
                open,
                no_new_before,
                ..
            } => {
                let mut new = 0;
                for draw in draws {
                    match open.get(value(draw)) {
                        Some(known) if known.step == Step::Opening && known.uses > 0 => {
                            return false;
                        }
                        Some(known) if known.step != Step::Refused => {}
                        _ => new += 1,
                    }
                }
                let may_try = no_new_before.is_none_or(|time| time <= now);
                new == 0 || may_try && (used == 0 || used + new <= self.limit)
            }
        }
    }

    pub(crate) fn take(&mut self, draw: &Draw) {
        match &mut self.kind {
            Kind::InFlight(held) => *held += draw.amount,
            Kind::Distinct { open, .. } => {
                let value = open.entry(value(draw).to_owned()).or_default();
                value.uses += 1;
                value.until = None;
                if value.step == Step::Refused {
                    value.step = Step::Opening;
                }
            }
        }
    }

    pub(crate) fn give_back(&mut self, draw: &Draw, now: Instant) {
        match &mut self.kind {
            Kind::InFlight(held) => *held -= draw.amount,
            Kind::Distinct { open, idle, .. } => {
                let value = open.get_mut(value(draw)).expect("it is in use");
                value.uses -= 1;
                let idle = match value.step {
                    Step::Refused => Duration::ZERO,
                    _ => *idle,
                };
                value.until = (value.uses == 0).then(|| now + idle);
            }
        }
    }

    /// The server says that `draw` was too much.
    pub(crate) fn exceeded(&mut self, draw: &Draw, sequence: u64, next: u64) {
        let used = self.used();
        if let Kind::Distinct {
            open,
            no_new_before,
            ..
        } = &mut self.kind
        {
            if let Some(known) = open.get_mut(value(draw)) {
                known.step = Step::Refused;
                *no_new_before = Some(Instant::now() + PAUSE);
            }
            return;
        }
        if sequence >= self.since {
            self.limit = (used.min(self.limit) * 3 / 4).max(1);
            self.since = next;
            self.good = 0;
        }
    }

    /// The server says that it was not.
    pub(crate) fn accepted(&mut self, draw: &Draw) {
        match &mut self.kind {
            Kind::InFlight(_) => self.good += 1,
            Kind::Distinct { open, .. } => {
                let known = open.get_mut(value(draw));
                if let Some(known) = known.filter(|known| known.step == Step::Opening) {
                    known.step = Step::Open;
                }
            }
        }
        if self.good >= self.limit && self.limit < self.most {
            self.limit += 1;
            self.good = 0;
        }
    }

    /// Forgets values that nobody has used for long enough.
    pub(crate) fn forget(&mut self, now: Instant) {
        if let Kind::Distinct {
            open,
            no_new_before,
            ..
        } = &mut self.kind
        {
            open.retain(|_, value| value.until.is_none_or(|until| until > now));
            no_new_before.take_if(|time| *time <= now);
        }
    }

    /// When something changes by itself.
    pub(crate) fn wake(&self) -> Option<Instant> {
        match &self.kind {
            Kind::InFlight(_) => None,
            Kind::Distinct {
                open,
                no_new_before,
                ..
            } => {
                let idle = open.values().filter_map(|value| value.until);
                idle.chain(*no_new_before).min()
            }
        }
    }

    /// What counts against the limit.
    pub(crate) fn used(&self) -> u32 {
        match &self.kind {
            Kind::InFlight(held) => *held,
            Kind::Distinct { open, .. } => {
                let open = open.values().filter(|value| value.step != Step::Refused);
                open.count() as u32
            }
        }
    }

    /// What calls hold at this moment.
    pub(crate) fn held(&self) -> u32 {
        match &self.kind {
            Kind::InFlight(held) => *held,
            Kind::Distinct { open, .. } => open.values().map(|value| value.uses).sum(),
        }
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.kind, Kind::InFlight(_))
    }
}

fn value(draw: &Draw) -> &str {
    draw.value.as_deref().unwrap_or_default()
}
