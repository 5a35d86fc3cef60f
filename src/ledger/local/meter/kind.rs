//! [`Meter`]: the meter of some kind of limit.

use std::ops::{Deref, DerefMut};

use super::distinct::Distinct;
use super::in_flight::InFlight;
use super::measure::Measure;
use super::per_window::PerWindow;
use crate::ledger::Limit;
use crate::principal::Budget;

/// The meter of some limit. In place where it is small.
#[derive(Debug)]
pub(in super::super) enum Meter {
    InFlight(InFlight),
    Distinct(Box<Distinct>),
    PerWindow(Box<PerWindow>),
}

impl Deref for Meter {
    type Target = dyn Measure + Send;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::InFlight(meter) => meter,
            Self::Distinct(meter) => &**meter,
            Self::PerWindow(meter) => &**meter,
        }
    }
}

impl DerefMut for Meter {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::InFlight(meter) => meter,
            Self::Distinct(meter) => &mut **meter,
            Self::PerWindow(meter) => &mut **meter,
        }
    }
}

impl Meter {
    pub(in super::super) fn new(limit: Limit, budget: Budget) -> Self {
        match limit {
            Limit::InFlight(limit) => Self::InFlight(InFlight::new(limit, budget)),
            Limit::Distinct { limit, idle } => Self::Distinct(Box::new(Distinct::new(limit, idle))),
            Limit::PerWindow {
                limit,
                refill,
                period,
            } => Self::PerWindow(Box::new(PerWindow::new(limit, refill, period))),
        }
    }

    /// The count, if it is no more than that: what the fast path works on.
    #[inline]
    pub(in super::super) fn plain(&mut self) -> Option<&mut InFlight> {
        match self {
            Self::InFlight(meter) if meter.is_plain() => Some(meter),
            _ => None,
        }
    }
}
