//! [`TruncationMark`]: finds the mark that Exchange puts where it cuts an exported item short.

use memchr::memmem;

/// Exchange writes it into the data of an item, or behind the envelope, of an `ExportItems` response that grew too large,
/// and calls that a success.
const MARK: &[u8] = b"Truncated Data";

/// Looks for the mark in a body that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct TruncationMark {
    /// The end of the pieces so far, where the mark can have begun.
    tail: Vec<u8>,
    found: bool,
}

impl TruncationMark {
    /// Reads the next piece.
    pub(crate) fn read(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        let joint = piece.len().min(MARK.len() - 1);
        self.tail
            .extend_from_slice(piece.get(..joint).unwrap_or(piece));
        self.found =
            memmem::find(&self.tail, MARK).is_some() || memmem::find(piece, MARK).is_some();
        let end = if piece.len() > joint {
            piece
        } else {
            &*self.tail
        };
        let keep = end.len().saturating_sub(MARK.len() - 1);
        self.tail = end.get(keep..).unwrap_or_default().to_vec();
    }

    pub(crate) fn is_found(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_in_pieces_of_any_size() {
        let whole = b"<Data>AQAAAAgAAAA==== Truncated Data ===</Data>";
        for size in 1..=whole.len() {
            let mut mark = TruncationMark::default();
            whole.chunks(size).for_each(|piece| mark.read(piece));
            assert!(mark.is_found(), "{size}");
        }
        for innocent in ["Truncated  Data", "Truncated Dat", "a Data Truncated", ""] {
            for size in 1..=16 {
                let mut mark = TruncationMark::default();
                let pieces = innocent.as_bytes().chunks(size);
                pieces.for_each(|piece| mark.read(piece));
                assert!(!mark.is_found(), "{innocent}, {size}");
                assert!(mark.tail.len() < MARK.len());
            }
        }
    }
}
