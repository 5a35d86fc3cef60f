//! Meters: how much of one budget one principal uses. They know no queues.
//!
//! A new kind of limit is a file here that implements [`Measure`], a variant of [`Limit`](crate::ledger::Limit) and of [`Meter`],
//! and an arm where the compiler asks for one.

mod bucket;
mod cost;
mod distinct;
mod in_flight;
mod kind;
mod learnt_rate;
mod measure;
mod per_window;
mod stock;
mod values;
mod window;

pub(super) use self::kind::Meter;
pub(super) use self::measure::{Ask, Keep, Measure, Position, Stage, Verdict};
