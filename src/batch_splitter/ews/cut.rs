//! Cuts ropes: slices in order, and edits with a map from old offsets to new ones.
use std::ops::Range;

use bytes::Bytes;

use crate::body::rope::Rope;

/// Slices a rope at ascending offsets, so that its pieces are walked once.
#[derive(Debug)]
pub(super) struct Cutter<'a> {
    rope: &'a Rope,
    /// The piece where the last slice began, and its offset.
    piece: usize,
    at: u64,
}

impl<'a> Cutter<'a> {
    pub(super) fn new(rope: &'a Rope) -> Cutter<'a> {
        Cutter {
            rope,
            piece: 0,
            at: 0,
        }
    }

    pub(super) fn take(&mut self, range: Range<u64>) -> Rope {
        if range.start < self.at {
            (self.piece, self.at) = (0, 0);
        }
        let pieces = self.rope.pieces();
        while let Some(piece) = pieces.get(self.piece) {
            let end = self.at + piece.len() as u64;
            if end > range.start {
                break;
            }
            (self.piece, self.at) = (self.piece + 1, end);
        }
        let mut slice = Rope::new();
        let mut at = self.at;
        for piece in pieces.get(self.piece..).unwrap_or_default() {
            let end = at + piece.len() as u64;
            if at >= range.end {
                break;
            }
            // Both are offsets into a piece that is in memory.
            let from = range.start.saturating_sub(at) as usize;
            let to = (range.end.min(end) - at) as usize;
            if from < to {
                slice.push(piece.slice(from..to));
            }
            at = end;
        }
        slice
    }
}

/// Ranges of a body that are left out or replaced.
#[derive(Debug, Default)]
pub(super) struct Edits {
    edits: Vec<(Range<usize>, Bytes)>,
    /// Bytes that were added and removed up to the end of each edit.
    shifts: Vec<(usize, usize)>,
}

impl Edits {
    pub(super) fn replace(&mut self, range: Range<usize>, with: Bytes) {
        if !range.is_empty() || !with.is_empty() {
            self.edits.push((range, with));
        }
    }

    pub(super) fn leave_out(&mut self, range: Range<usize>) {
        self.replace(range, Bytes::new());
    }

    /// Returns the body with these edits, which must not overlap.
    pub(super) fn apply(&mut self, body: &Rope) -> Rope {
        self.edits.sort_by_key(|(range, _)| range.start);
        let mut cutter = Cutter::new(body);
        let mut result = Rope::new();
        let mut at = 0;
        let (mut added, mut removed) = (0, 0);
        self.shifts.clear();
        for (range, with) in &self.edits {
            result.append(cutter.take(at..range.start as u64));
            result.push(with.clone());
            at = range.end as u64;
            added += with.len();
            removed += range.len();
            self.shifts.push((added, removed));
        }
        result.append(cutter.take(at..body.len()));
        result
    }

    /// Returns where an offset of the body is in the edited one. Not for offsets inside an edit.
    pub(super) fn moved(&self, offset: usize) -> usize {
        let before = self.edits.partition_point(|(range, _)| range.end <= offset);
        let shift = before
            .checked_sub(1)
            .and_then(|before| self.shifts.get(before));
        let (added, removed) = shift.copied().unwrap_or_default();
        (offset + added).saturating_sub(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static str]) -> Rope {
        pieces.iter().copied().map(Bytes::from).collect()
    }

    #[test]
    fn slices_are_those_of_the_rope() {
        let rope = rope(&["ab", "cde", "f", "ghij"]);
        let mut cutter = Cutter::new(&rope);
        for start in 0..=11 {
            for end in 0..=12 {
                let expected = rope.slice(start..end).to_bytes();
                assert_eq!(
                    cutter.take(start..end).to_bytes(),
                    expected,
                    "{start}..{end}"
                );
            }
        }
    }

    #[test]
    fn edits_say_where_things_went() {
        let body = rope(&["0123", "456789"]);
        let mut edits = Edits::default();
        edits.leave_out(7..9);
        edits.replace(2..4, "abc".into());
        edits.leave_out(5..5);
        assert_eq!(edits.apply(&body).to_bytes(), "01abc4569");
        for (offset, moved) in [(0, 0), (2, 2), (4, 5), (6, 7), (7, 8), (9, 8), (10, 9)] {
            assert_eq!(edits.moved(offset), moved, "{offset}");
        }
    }
}
