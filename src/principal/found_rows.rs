//! [`KnownRows`]: how much searches without a page found, and so what the next ones draw.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;

use super::identity::{HASHER, Principal};
use super::lease::{LeaseChange, ReadLease};
use crate::body::ReplayBody;
use crate::soap::{FoundRows, Operation, Targets};

/// Exchange returns no more rows of one folder.
pub(super) const MAX_ROWS: u32 = 1000;
/// A search draws no less, however little it found: 27 calls at a time, the default of `EWSMaxConcurrency`, have room beside each
/// other in the 1,000 rows of `EWSFindCountLimit`.
const LEAST: u32 = 37;
/// What a search draws as long as nothing is known: ten have room beside each other. Where folders are large, nine of them are refused
/// once; where they are small, nobody waits for the first response.
const UNKNOWN: u32 = 100;
/// How many entries are kept, beside up to as many older ones.
const MAX_ENTRIES: usize = 16_384;
/// The number of rows stands at the beginning of a response, behind a header of some hundred bytes.
const HEAD: usize = 4096;

/// What each row of a search counts for.
pub(super) fn row_weight(targets: &Targets) -> u32 {
    if targets.has_restriction { 4 } else { 1 }
}

/// A search of one folder without a page, by hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// Of this principal with these words.
    this: u64,
    /// Of this principal, restricted or not.
    similar: u64,
    /// What each of its rows counts for.
    weight: u32,
}

impl Search {
    /// None for any other call, and for a search of several folders, whose response does not say at its beginning how much all
    /// of them hold.
    pub(super) fn of(principal: &Principal, body: &ReplayBody) -> Option<Self> {
        let outline = body.outline().ok()?;
        let operation = outline.operation()?;
        if ![Operation::FIND_ITEM, Operation::FIND_FOLDER].contains(&operation) {
            return None;
        }
        let targets = body.targets()?;
        if targets.page_size.is_some() || targets.folders > 1 {
            return None;
        }
        let bytes = body.to_bytes();
        let words = bytes.get(outline.operation_element())?;
        let similar = (principal, operation.name(), targets.has_restriction);
        Some(Self {
            this: HASHER.hash_one((principal, words)),
            similar: HASHER.hash_one(similar),
            weight: row_weight(targets),
        })
    }
}

/// How many rows searches found, and of each principal the most of late. Bounded: what was not learnt anew for long is forgotten.
#[derive(Default)]
pub(super) struct KnownRows(Mutex<Generations>);

impl KnownRows {
    /// How many rows `search` may find: a quarter more than the last time, or twice what similar ones found of late.
    /// [`UNKNOWN`] if nothing is known.
    pub(super) fn likely(&self, search: Search) -> u32 {
        let known = self.0.lock();
        let this = known.get(search.this).map(|rows| rows + rows / 4);
        let expected = this.or_else(|| known.get(search.similar).map(|rows| 2 * rows));
        expected.unwrap_or(UNKNOWN).clamp(LEAST, MAX_ROWS)
    }

    /// What `search` draws by what is known now.
    pub(super) fn drawn(&self, search: Search) -> u32 {
        self.likely(search).saturating_mul(search.weight)
    }

    fn learn(&self, search: Search, found: FoundRows) {
        let mut known = self.0.lock();
        let (rows, similar) = match found {
            FoundRows::Rows(rows) => {
                let rows = rows.min(MAX_ROWS);
                // Each smaller one halves what a large one has left.
                let late = known.get(search.similar).unwrap_or_default() / 2;
                (rows, late.max(rows))
            }
            FoundRows::Refused => (MAX_ROWS, MAX_ROWS),
        };
        known.set(search.this, rows);
        known.set(search.similar, similar);
    }
}

impl fmt::Debug for KnownRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownRows").finish_non_exhaustive()
    }
}

/// When the young ones are many, they become the old ones.
#[derive(Default)]
struct Generations {
    young: HashMap<u64, u32>,
    old: HashMap<u64, u32>,
}

impl Generations {
    fn get(&self, key: u64) -> Option<u32> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn set(&mut self, key: u64, rows: u32) {
        if self.young.len() >= MAX_ENTRIES && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, rows);
    }
}

/// Learns from the beginning of a response.
#[derive(Debug)]
pub(super) struct RowsReader {
    known: Arc<KnownRows>,
    search: Search,
    /// None once it was read.
    head: Option<Vec<u8>>,
}

impl RowsReader {
    pub(super) fn new(known: &Arc<KnownRows>, search: Search) -> Self {
        Self {
            known: Arc::clone(known),
            search,
            head: Some(Vec::new()),
        }
    }

    fn learn(&mut self) {
        let head = self.head.take().unwrap_or_default();
        if let Some(found) = FoundRows::of(&head) {
            self.known.learn(self.search, found);
        }
    }
}

impl ReadLease for RowsReader {
    fn read(&mut self, bytes: &[u8]) {
        let Some(head) = &mut self.head else {
            return;
        };
        let room = HEAD - head.len();
        head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if head.len() == HEAD {
            self.learn();
        }
    }

    fn end(&mut self) -> LeaseChange {
        self.learn();
        LeaseChange::None
    }
}

#[cfg(test)]
mod tests {
    use super::FoundRows::{Refused, Rows};
    use super::*;

    const fn search(this: u64, similar: u64) -> Search {
        Search {
            this,
            similar,
            weight: 1,
        }
    }

    /// Two searches of one principal, one that it has not made yet, and one of another principal.
    const A: Search = search(1, 10);
    const B: Search = search(2, 10);
    const UNSEEN: Search = search(3, 10);
    const OTHER: Search = search(4, 20);

    #[test]
    fn what_is_expected() {
        // What was found, and what A, B, an unseen search and one of another principal draw then.
        type Case = (&'static [(Search, FoundRows)], [u32; 4]);
        let cases: &[Case] = &[
            (&[], [100; 4]),
            (&[(A, Rows(0))], [37, 37, 37, 100]),
            (&[(A, Rows(10))], [37, 37, 37, 100]),
            (&[(A, Rows(100))], [125, 200, 200, 100]),
            (&[(A, Rows(900))], [1000, 1000, 1000, 100]),
            (
                &[(A, Rows(50_000)), (B, Rows(u32::MAX))],
                [1000, 1000, 1000, 100],
            ),
            // A large one counts for some while.
            (&[(A, Rows(400)), (B, Rows(10))], [500, 37, 400, 100]),
            (
                &[(A, Rows(400)), (B, Rows(10)), (B, Rows(10))],
                [500, 37, 200, 100],
            ),
            (&[(A, Rows(10)), (A, Rows(400))], [500, 800, 800, 100]),
            // Refused: the most is expected.
            (
                &[(A, Rows(10)), (B, Rows(10)), (A, Refused)],
                [1000, 37, 1000, 100],
            ),
            (
                &[(A, Rows(10)), (A, Refused), (A, Rows(20))],
                [37, 1000, 1000, 100],
            ),
            (&[(OTHER, Rows(10))], [100, 100, 100, 37]),
        ];
        for (found, expected) in cases {
            let known = KnownRows::default();
            for (search, found) in *found {
                known.learn(*search, *found);
            }
            let drawn = [A, B, UNSEEN, OTHER].map(|search| known.likely(search));
            assert_eq!(drawn, *expected, "{found:?}");
        }
    }

    #[test]
    fn it_forgets() {
        let known = KnownRows::default();
        known.learn(A, Rows(10));
        for at in 100..100 + 3 * MAX_ENTRIES as u64 {
            known.learn(search(at, 10), Rows(10));
            let kept = known.0.lock();
            assert!(kept.young.len() <= MAX_ENTRIES && kept.old.len() <= MAX_ENTRIES);
        }
        assert_eq!(known.0.lock().get(A.this), None);
        assert_eq!(known.likely(A), 37, "by similar ones");
    }

    #[test]
    fn only_a_new_key_makes_room() {
        let mut kept = Generations::default();
        for key in 0..MAX_ENTRIES as u64 {
            kept.set(key, 1);
        }
        kept.set(7, 2);
        assert_eq!((kept.young.len(), kept.old.len()), (MAX_ENTRIES, 0));
        kept.set(u64::MAX, 3);
        assert_eq!((kept.young.len(), kept.old.len()), (1, MAX_ENTRIES));
        assert_eq!((kept.get(7), kept.get(u64::MAX)), (Some(2), Some(3)));
    }

    #[test]
    fn a_response_in_pieces_is_read_up_to_its_head() {
        let response = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>\
                        <R xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'><RootFolder TotalItemsInView='10'>";
        let long = response.to_owned() + &" ".repeat(HEAD);
        let late = response.replacen("<R ", &format!("<R {}", " ".repeat(HEAD)), 1);
        for (text, ends, expected) in [
            (response, true, 37),
            (response, false, 100),
            (&long, false, 37),
            (&late, true, 100),
        ] {
            for size in [1, 7, 9000] {
                let known = Arc::default();
                let mut reader = RowsReader::new(&known, A);
                for piece in text.as_bytes().chunks(size) {
                    reader.read(piece);
                }
                if ends {
                    assert_eq!(reader.end(), LeaseChange::None);
                }
                assert_eq!(known.likely(A), expected);
            }
        }
    }
}
