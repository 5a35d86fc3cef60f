//! The ends of tags, comments and the like in a request.
use memchr::memmem;

use super::find;
use super::outline_error::OutlineError;

type Result<T> = std::result::Result<T, OutlineError>;

/// Where a start tag and its name end.
pub(super) struct Tag {
    pub(super) name_end: usize,
    /// Behind its `>`.
    pub(super) end: usize,
    pub(super) empty: bool,
}

/// How a member began, up to the quote of its first attribute: in a list of ids all of them do so.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) bytes: &'a [u8],
    /// Where the name ends in it.
    pub(super) name: usize,
}

impl<'a> Head<'a> {
    pub(super) fn of(body: &'a [u8], at: usize, name_end: usize) -> Option<Head<'a>> {
        let (quote, b'"' | b'\'') = find::tag_mark(body, name_end)? else {
            return None;
        };
        Some(Head {
            bytes: body.get(at..=quote)?,
            name: name_end - at,
        })
    }

    /// Whether another one begins so at `at`.
    pub(super) fn begins(&self, body: &[u8], at: usize) -> bool {
        body.get(at..)
            .is_some_and(|rest| rest.starts_with(self.bytes))
    }
}

/// Finds the ends of the start tag at `at` and of its name.
#[inline]
pub(super) fn tag(body: &[u8], at: usize) -> Result<Tag> {
    let truncated = || OutlineError::Truncated { at: body.len() };
    let malformed = || OutlineError::Malformed { at };
    let (name_end, byte) = find::name_end(body, at + 1).ok_or_else(truncated)?;
    if name_end == at + 1 || matches!(byte, b'<' | b'=' | b'"' | b'\'' | b'&') {
        return Err(malformed());
    }
    tag_from(body, at, name_end, name_end)
}

/// The rest of a tag, from the end of its name or from the quote at `i` on.
#[inline]
pub(super) fn tag_from(body: &[u8], at: usize, name_end: usize, mut i: usize) -> Result<Tag> {
    let truncated = || OutlineError::Truncated { at: body.len() };
    let malformed = || OutlineError::Malformed { at };
    loop {
        let byte;
        (i, byte) = find::tag_mark(body, i).ok_or_else(truncated)?;
        match byte {
            b'>' => {
                return Ok(Tag {
                    name_end,
                    end: i + 1,
                    empty: false,
                });
            }
            b'/' => {
                return match body.get(i + 1) {
                    Some(b'>') => Ok(Tag {
                        name_end,
                        end: i + 2,
                        empty: true,
                    }),
                    Some(_) => Err(malformed()),
                    None => Err(truncated()),
                };
            }
            b'<' => return Err(malformed()),
            quote => i = find::quote(body, i + 1, quote).ok_or_else(truncated)? + 1,
        }
    }
}

/// Reads the end tag at `at`, which has to close the name at `start`, and returns where it ends.
#[inline]
pub(super) fn close(body: &[u8], at: usize, start: u32, length: u32) -> Result<usize> {
    let (start, length) = (start as usize, length as usize);
    let mut i = at + 2 + length;
    let Some(name) = body.get(at + 2..i) else {
        return Err(OutlineError::Truncated { at: body.len() });
    };
    if Some(name) != body.get(start..start + length) {
        return Err(OutlineError::Unbalanced { at });
    }
    loop {
        match body.get(i) {
            Some(b'>') => return Ok(i + 1),
            Some(b' ' | b'\t' | b'\r' | b'\n') => i += 1,
            Some(_) => return Err(OutlineError::Unbalanced { at }),
            None => return Err(OutlineError::Truncated { at: body.len() }),
        }
    }
}

/// Where the comment or CDATA section at `at` ends, and whether it is the latter.
#[cold]
pub(super) fn bang(body: &[u8], at: usize) -> Result<(usize, bool)> {
    let rest = body.get(at..).unwrap_or_default();
    let (opening, closing, cdata) = match rest.get(2) {
        Some(b'-') => (&b"<!--"[..], &b"-->"[..], false),
        Some(b'[') => (&b"<![CDATA["[..], &b"]]>"[..], true),
        Some(b'D') => return Err(OutlineError::Dtd { at }),
        Some(_) => return Err(OutlineError::Malformed { at }),
        None => return Err(OutlineError::Truncated { at: body.len() }),
    };
    if !rest.starts_with(opening) {
        return Err(match opening.starts_with(rest) {
            true => OutlineError::Truncated { at: body.len() },
            false => OutlineError::Malformed { at },
        });
    }
    match memmem::find(rest.get(opening.len()..).unwrap_or_default(), closing) {
        Some(length) => Ok((at + opening.len() + length + 3, cdata)),
        None => Err(OutlineError::Truncated { at: body.len() }),
    }
}

#[cold]
pub(super) fn instruction(body: &[u8], at: usize) -> Result<usize> {
    if let Some(b'>' | b'?' | b'<' | b' ' | b'\t' | b'\r' | b'\n') = body.get(at + 2) {
        return Err(OutlineError::Malformed { at });
    }
    match memmem::find(body.get(at + 2..).unwrap_or_default(), b"?>") {
        Some(length) => Ok(at + 2 + length + 2),
        None => Err(OutlineError::Truncated { at: body.len() }),
    }
}
