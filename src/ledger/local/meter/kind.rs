//! [`Meter`]: the meter of some kind of limit.

use std::ops::{Deref, DerefMut};

use super::distinct::Distinct;
use super::in_flight::InFlight;
use super::measure::Measure;
use super::per_window::PerWindow;
use super::stock::Stock;
use super::values::Values;
use crate::ledger::Limit;
use crate::principal::Budget;

/// The meter of some limit. In place where it is small.
#[derive(Debug)]
pub(in super::super) enum Meter {
    InFlight(InFlight),
    Distinct(Box<Distinct>),
    PerWindow(Box<PerWindow>),
    /// A leased part of a bucket.
    Stock(Box<Stock>),
    /// Leased values.
    Values(Box<Values>),
}

impl Deref for Meter {
    type Target = dyn Measure + Send;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::InFlight(meter) => meter,
            Self::Distinct(meter) => &**meter,
            Self::PerWindow(meter) => &**meter,
            Self::Stock(meter) => &**meter,
            Self::Values(meter) => &**meter,
        }
    }
}

impl DerefMut for Meter {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::InFlight(meter) => meter,
            Self::Distinct(meter) => &mut **meter,
            Self::PerWindow(meter) => &mut **meter,
            Self::Stock(meter) => &mut **meter,
            Self::Values(meter) => &mut **meter,
        }
    }
}

impl Meter {
    /// `leased`: it allows nothing but what a fleet's ledger lends.
    pub(in super::super) fn new(limit: Limit, budget: Budget, leased: bool) -> Self {
        match limit {
            Limit::InFlight(_) if leased => Self::InFlight(InFlight::leased()),
            Limit::Distinct { idle, .. } if leased => Self::Values(Box::new(Values::new(idle))),
            Limit::PerWindow { .. } | Limit::Sliding { .. } if leased => {
                Self::Stock(Box::default())
            }
            Limit::InFlight(limit) => Self::InFlight(InFlight::new(limit, budget)),
            Limit::Distinct { limit, idle } => Self::Distinct(Box::new(Distinct::new(limit, idle))),
            Limit::PerWindow {
                limit,
                refill,
                period,
            } => Self::PerWindow(Box::new(PerWindow::new(limit, refill, period))),
            Limit::Sliding { limit, period } => {
                Self::PerWindow(Box::new(PerWindow::sliding(limit, period)))
            }
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
