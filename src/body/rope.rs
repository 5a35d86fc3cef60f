//! Bytes in several pieces that are cut and joined without copying them.
use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// A string of bytes in pieces, none of which is ever copied: slices of it share them.
///
/// ```
/// use tower_ews::body::Rope;
///
/// let mut rope = Rope::from("hello, ");
/// rope.push("world".into());
/// assert_eq!(rope.len(), 12);
/// assert_eq!(rope.slice(3..9).to_bytes(), "lo, wo");
/// assert_eq!(format!("{rope:?}"), "Rope { len: 12, pieces: 2 }");
/// ```
#[derive(Clone, Default)]
pub struct Rope {
    pieces: SmallVec<[Bytes; 1]>,
    len: u64,
}

impl Rope {
    /// No bytes.
    pub fn new() -> Rope {
        Rope::default()
    }

    /// Bytes in it.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its pieces, none of them empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len() as u64;
            self.pieces.push(piece);
        }
    }

    /// Appends another rope.
    pub fn append(&mut self, other: Rope) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The bytes of a range; what lies beyond the end is left out. Walks the pieces from the first one.
    pub fn slice(&self, range: Range<u64>) -> Rope {
        let mut slice = Rope::new();
        let mut at = 0;
        for piece in &self.pieces {
            let end = at + piece.len() as u64;
            if at >= range.end {
                break;
            }
            if end > range.start {
                // Both are offsets into a piece that is in memory.
                let from = range.start.saturating_sub(at) as usize;
                let to = (range.end.min(end) - at) as usize;
                if from < to {
                    slice.push(piece.slice(from..to));
                }
            }
            at = end;
        }
        slice
    }

    /// All of it in one piece: a shared one if it has one, else a copy.
    pub fn to_bytes(&self) -> Bytes {
        join(&self.pieces)
    }
}

/// Puts pieces together: a single one is shared, others are copied.
pub(super) fn join(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [] => Bytes::new(),
        [piece] => piece.clone(),
        pieces => {
            let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
            for piece in pieces {
                whole.extend_from_slice(piece);
            }
            whole.freeze()
        }
    }
}

/// Lengths alone: what it holds can be secret.
impl fmt::Debug for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rope")
            .field("len", &self.len)
            .field("pieces", &self.pieces.len())
            .finish()
    }
}

impl<T: Into<Bytes>> From<T> for Rope {
    fn from(piece: T) -> Rope {
        let mut rope = Rope::new();
        rope.push(piece.into());
        rope
    }
}

impl FromIterator<Bytes> for Rope {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Rope {
        let mut rope = Rope::new();
        for piece in pieces {
            rope.push(piece);
        }
        rope
    }
}

impl IntoIterator for Rope {
    type Item = Bytes;
    type IntoIter = RopeIntoIter;

    fn into_iter(self) -> RopeIntoIter {
        RopeIntoIter(self.pieces.into_iter())
    }
}

/// The pieces of a [`Rope`], by value.
///
/// ```
/// use bytes::Bytes;
/// use tower_ews::body::Rope;
///
/// let rope: Rope = [Bytes::from("he"), Bytes::from("llo")].into_iter().collect();
/// assert_eq!(rope.into_iter().collect::<Vec<_>>(), ["he", "llo"]);
/// ```
#[derive(Debug)]
pub struct RopeIntoIter(smallvec::IntoIter<[Bytes; 1]>);

impl Iterator for RopeIntoIter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for RopeIntoIter {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static str]) -> Rope {
        pieces.iter().map(|piece| Bytes::from(*piece)).collect()
    }

    #[test]
    fn empty_pieces_are_left_out() {
        let mut rope = rope(&["", "ab", "", "c", ""]);
        rope.push(Bytes::new());
        rope.append(Rope::new());
        rope.append(Rope::from(""));
        assert_eq!((rope.len(), rope.pieces().len()), (3, 2));
        assert!(!rope.is_empty() && Rope::new().is_empty() && Rope::from("").is_empty());
        rope.append("de".into());
        assert_eq!(rope.to_bytes(), "abcde");
        let pieces: Vec<Bytes> = rope.into_iter().collect();
        assert_eq!(pieces, ["ab", "c", "de"]);
        assert_eq!(Rope::new().to_bytes(), "");
    }

    #[test]
    fn every_slice_is_the_slice_of_the_text() {
        let text = "abcdefghij";
        for pieces in [
            &["abcdefghij"][..],
            &["abc", "d", "efghi", "j"],
            &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"],
        ] {
            let rope = rope(pieces);
            for start in 0..13 {
                for end in 0..13 {
                    let expected = text.get(start.min(10)..end.min(10)).unwrap_or_default();
                    let range = start as u64..end as u64;
                    let slice = rope.slice(range.clone());
                    assert_eq!(slice.to_bytes(), expected, "{range:?}");
                    assert_eq!(slice.len(), expected.len() as u64);
                    assert!(slice.pieces().iter().all(|piece| !piece.is_empty()));
                }
            }
            assert_eq!(rope.slice(3..u64::MAX).to_bytes(), &text[3..]);
        }
    }

    #[test]
    fn nothing_is_copied() {
        let rope = rope(&["abc", "defg", "hi"]);
        let slice = rope.slice(2..8);
        let starts: Vec<_> = slice.pieces().iter().map(|piece| piece.as_ptr()).collect();
        let [first, second, third] = rope.pieces() else {
            panic!("{rope:?}");
        };
        let expected = [first[2..].as_ptr(), second.as_ptr(), third.as_ptr()];
        assert_eq!(starts, expected);
        assert_eq!(rope.slice(3..7).to_bytes().as_ptr(), second.as_ptr());
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", rope(&["secret"])).contains("secret"));
    }
}
