//! What the layers cost, and what else there is.
//!
#![doc = include_str!("../../docs/COMPARE.md")]
