//! Looks for the bytes that mean something in markup. What tags are made of is too short for a call
//! of memchr to pay: here it is eight bytes at a time, and memchr for what turns out to be long.
//! The benchmark `batch` watches it.
use memchr::memchr;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// Marks the bytes that are zero by their highest bit. Behind the first one it may mark others too.
#[inline(always)]
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGH
}

#[inline(always)]
const fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ (ONES * byte as u64))
}

/// As [`zeros`], for the bytes below one that is ASCII.
#[inline(always)]
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & HIGH
}

#[inline(always)]
fn word(eight: &[u8]) -> u64 {
    eight
        .first_chunk()
        .map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// The first byte from `at` on that is wanted. `marks` may mark too many bytes, but misses none.
#[inline(always)]
fn first(
    bytes: &[u8],
    at: usize,
    marks: impl Fn(u64) -> u64,
    wanted: impl Fn(u8) -> bool,
) -> Option<(usize, u8)> {
    let mut words = bytes.get(at..)?.chunks_exact(8);
    let mut from = at;
    for eight in words.by_ref() {
        let mut marks = marks(word(eight));
        while marks != 0 {
            let place = marks.trailing_zeros() as usize / 8;
            match eight.get(place) {
                Some(&byte) if wanted(byte) => return Some((from + place, byte)),
                _ => marks &= marks - 1,
            }
        }
        from += 8;
    }
    let rest = words.remainder().iter();
    rest.zip(from..)
        .find_map(|(&byte, at)| wanted(byte).then_some((at, byte)))
}

/// The first such byte from `at` on: in the next few words, as a rule, or else far away.
#[inline(always)]
fn near<const WORDS: usize>(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    let rest = bytes.get(at..)?;
    for (place, eight) in rest.chunks_exact(8).take(WORDS).enumerate() {
        let marks = equal(word(eight), byte);
        if marks != 0 {
            return Some(at + 8 * place + marks.trailing_zeros() as usize / 8);
        }
    }
    memchr(byte, rest).map(|length| at + length)
}

/// The first `<` from `at` on, behind a tag.
#[inline(always)]
pub(super) fn markup(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) == Some(&b'<') {
        return Some(at);
    }
    near::<2>(bytes, at, b'<')
}

/// The first `<` from `at` on, inside a tag.
#[inline(always)]
pub(super) fn next_markup(bytes: &[u8], at: usize) -> Option<usize> {
    near::<4>(bytes, at, b'<')
}

/// The quote that ends a value which begins at `at`.
#[inline(always)]
pub(super) fn quote(bytes: &[u8], at: usize, quote: u8) -> Option<usize> {
    near::<2>(bytes, at, quote)
}

/// The end of a name: the first of `< > / = " ' &` and white space.
#[inline(always)]
pub(super) fn name_end(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let marks = |word| below(word, b'0') | zeros((word & (ONES * 0xFC)) ^ (ONES * 0x3C));
    first(bytes, at, marks, |byte| {
        matches!(
            byte,
            b'<' | b'>' | b'/' | b'=' | b'"' | b'\'' | b'&' | b' ' | b'\t' | b'\r' | b'\n'
        )
    })
}

/// The first byte that is wanted, by looks at one after the other. Names of attributes are short,
/// and the same ones again and again, which suits branch prediction.
#[inline(always)]
fn next(bytes: &[u8], at: usize, wanted: impl Fn(u8) -> bool) -> Option<(usize, u8)> {
    let rest = bytes.get(at..)?.iter();
    rest.zip(at..)
        .find_map(|(&byte, at)| wanted(byte).then_some((at, byte)))
}

/// The first of `< > / " '`, behind the name of a start tag or behind an attribute.
#[inline(always)]
pub(super) fn tag_mark(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    next(bytes, at, |byte| {
        matches!(byte, b'<' | b'>' | b'/' | b'"' | b'\'')
    })
}

/// The first of `< > " '`, behind an attribute.
#[inline(always)]
pub(super) fn next_quote(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    next(bytes, at, |byte| matches!(byte, b'<' | b'>' | b'"' | b'\''))
}

/// The first of `< > " '`, from the name of a start tag on.
#[inline(always)]
pub(super) fn bracket_or_quote(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let marks = |word| {
        zeros((word & (ONES * 0xFD)) ^ (ONES * 0x3C))
            | zeros((word & (ONES * 0xFA)) ^ (ONES * 0x22))
    };
    first(bytes, at, marks, |byte| {
        matches!(byte, b'<' | b'>' | b'"' | b'\'')
    })
}

/// The first `<` or `>`.
#[inline(always)]
pub(super) fn bracket(bytes: &[u8], at: usize) -> Option<(usize, u8)> {
    let marks = |word| zeros((word & (ONES * 0xFD)) ^ (ONES * 0x3C));
    first(bytes, at, marks, |byte| matches!(byte, b'<' | b'>'))
}

/// The first white space.
#[inline(always)]
pub(super) fn blank(bytes: &[u8]) -> Option<usize> {
    let found = first(
        bytes,
        0,
        |word| below(word, b' ' + 1),
        |byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'),
    );
    found.map(|found| found.0)
}

/// Compares at compile time.
pub(super) const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut index = a.len();
    while index > 0 {
        index -= 1;
        if a[index] != b[index] {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place() {
        let names = b"<>/=\"'& \t\r\n";
        for byte in 0..=255_u8 {
            for fill in [b'a', b'-', 0xFF, byte.wrapping_add(1)] {
                for (length, at) in [3, 8, 19, 26]
                    .into_iter()
                    .flat_map(|length| (0..length).map(move |at| (length, at)))
                {
                    let mut bytes = vec![fill; length];
                    bytes[at] = byte;
                    let blank_at = bytes.iter().position(|byte| b" \t\r\n".contains(byte));
                    assert_eq!(blank(&bytes), blank_at, "{bytes:?}");
                    for from in [0, at / 2] {
                        let by = |wanted: &[u8]| {
                            let found = bytes[from..].iter().position(|byte| wanted.contains(byte));
                            found.map(|place| (from + place, bytes[from + place]))
                        };
                        assert_eq!(name_end(&bytes, from), by(names), "{bytes:?}");
                        assert_eq!(tag_mark(&bytes, from), by(b"<>/\"'"), "{bytes:?}");
                        assert_eq!(bracket_or_quote(&bytes, from), by(b"<>\"'"), "{bytes:?}");
                        assert_eq!(bracket(&bytes, from), by(b"<>"), "{bytes:?}");
                        assert_eq!(markup(&bytes, from), by(b"<").map(|found| found.0));
                        assert_eq!(quote(&bytes, from, b'"'), by(b"\"").map(|found| found.0));
                    }
                }
            }
        }
        assert_eq!((markup(b"", 9), name_end(b"a", 9)), (None, None));
    }
}
