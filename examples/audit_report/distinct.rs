//! How many different values there were, in bounded memory.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// The number that is counted exactly: their hashes take as much room as the registers.
pub(crate) const EXACT: usize = REGISTERS / 8;

/// 2,048 registers: a standard error of 1.04 / sqrt(2048), 2.3 %.
const BITS: u32 = 11;
const REGISTERS: usize = 1 << BITS;

/// Different values: exactly up to [`EXACT`], then as HyperLogLog estimates them.
#[derive(Clone, Debug)]
pub(crate) enum Distinct {
    /// Hashes, in order.
    Few(Vec<u64>),
    Many(Box<[u8; REGISTERS]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

/// The same in each run: a report of a log does not change.
pub(crate) fn hash(value: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

fn register(registers: &mut [u8; REGISTERS], hash: u64) {
    let index = (hash >> (64 - BITS)) as usize;
    // The sentinel bit ends the run of zeros within the 53 bits that are left.
    let rank = ((hash << BITS) | (1 << (BITS - 1))).leading_zeros() as u8 + 1;
    registers[index] = registers[index].max(rank);
}

impl Distinct {
    pub(crate) fn insert(&mut self, hash: u64) {
        match self {
            Self::Many(registers) => register(registers, hash),
            Self::Few(hashes) => {
                if let Err(at) = hashes.binary_search(&hash) {
                    hashes.insert(at, hash);
                    if hashes.len() > EXACT {
                        let mut registers = Box::new([0; REGISTERS]);
                        for hash in hashes {
                            register(&mut registers, *hash);
                        }
                        *self = Self::Many(registers);
                    }
                }
            }
        }
    }

    /// As if all of `other` had been inserted here too.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Many(mine), Self::Many(theirs)) => {
                for (mine, theirs) in mine.iter_mut().zip(theirs.iter()) {
                    *mine = (*mine).max(*theirs);
                }
            }
            (_, Self::Few(hashes)) => hashes.iter().for_each(|hash| self.insert(*hash)),
            (Self::Few(hashes), Self::Many(_)) => {
                let mut all = other.clone();
                hashes.iter().for_each(|hash| all.insert(*hash));
                *self = all;
            }
        }
    }

    /// How many, and whether that is exact.
    pub(crate) fn count(&self) -> (u64, bool) {
        match self {
            Self::Few(hashes) => (hashes.len() as u64, true),
            Self::Many(registers) => {
                let m = REGISTERS as f64;
                let sum: f64 = registers
                    .iter()
                    .map(|rank| (-f64::from(*rank)).exp2())
                    .sum();
                let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
                let empty = registers.iter().filter(|rank| **rank == 0).count();
                // Few values leave many registers empty, and those tell more than the rest.
                let estimate = if raw <= 2.5 * m && empty > 0 {
                    m * (m / empty as f64).ln()
                } else {
                    raw
                };
                (estimate.round() as u64, false)
            }
        }
    }
}
