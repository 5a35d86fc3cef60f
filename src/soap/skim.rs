//! Ways past what nobody looks at in a response: whole tags, elements, comments and CDATA sections.
use memchr::memchr;

use super::find;

pub(super) struct WholeTag {
    /// Behind its `>`.
    pub(super) end: usize,
    pub(super) empty: bool,
}

/// The tag whose `<` stands at `at`, if all of it is here and all is well with it. What it gives up
/// on, the scanner reads byte by byte, and says what is wrong.
#[inline(always)]
pub(super) fn whole_tag(chunk: &[u8], at: usize, longest: usize) -> Option<WholeTag> {
    let (mut i, mut byte) = match *chunk.get(at + 1)? {
        b'/' => find::bracket(chunk, at + 2)?,
        // No name, or an odd one.
        ..=b'?' => return None,
        _ => find::bracket_or_quote(chunk, at + 2)?,
    };
    while matches!(byte, b'"' | b'\'') {
        i = find::quote(chunk, i + 1, byte)?;
        (i, byte) = find::next_quote(chunk, i + 1)?;
    }
    if byte != b'>' || i - at > longest {
        return None;
    }
    let empty = chunk.get(i - 1) == Some(&b'/');
    Some(WholeTag { end: i + 1, empty })
}

/// Goes through elements that nobody looks at, `depth` of which are open, up to the end of the last
/// one or to anything but a whole tag.
pub(super) fn skim(chunk: &[u8], mut at: usize, depth: &mut u64) -> usize {
    at = match find::markup(chunk, at) {
        Some(at) => at,
        None => return chunk.len(),
    };
    while *depth > 0 {
        // Where the next tag is does not wait for what this one is: that lets the processor do both
        // at once.
        let next = find::next_markup(chunk, at + 2);
        let Some(tag) = whole_tag(chunk, at, usize::MAX) else {
            return at;
        };
        if chunk.get(at + 1) == Some(&b'/') {
            *depth -= 1;
            if *depth == 0 {
                return tag.end;
            }
        } else if !tag.empty {
            *depth += 1;
        }
        at = match next {
            Some(next) if next >= tag.end => next,
            None => return chunk.len(),
            Some(_) => match find::markup(chunk, tag.end) {
                Some(next) => next,
                None => return chunk.len(),
            },
        };
    }
    at
}

/// Finds the end of a comment (`-->`) or a CDATA section (`]]>`) of whose end `seen` bytes (2 at
/// most) came in the piece before.
pub(super) fn ending(rest: &[u8], mark: u8, seen: u8) -> (Option<usize>, u8) {
    let mut from = 0;
    while let Some(length) = memchr(b'>', rest.get(from..).unwrap_or_default()) {
        let end = from + length;
        let before = rest.get(..end).unwrap_or_default();
        let marks = before
            .iter()
            .rev()
            .take(2)
            .take_while(|byte| **byte == mark)
            .count();
        if marks == 2 || (marks == before.len() && marks + usize::from(seen) >= 2) {
            return (Some(end + 1), 0);
        }
        from = end + 1;
    }
    let marks = rest
        .iter()
        .rev()
        .take(2)
        .take_while(|byte| **byte == mark)
        .count();
    let all = if marks == rest.len() {
        marks + usize::from(seen)
    } else {
        marks
    };
    (None, all.min(2) as u8)
}
