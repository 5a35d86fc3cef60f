//! The lines of a log, one at a time, however long the log is.

use std::io::{self, BufRead};

/// A longer line is not read: a record with both bodies at their usual limits is far shorter.
pub(crate) const LONGEST: usize = 16 << 20;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// It is in the buffer.
    Whole,
    /// It was longer than [`LONGEST`], and passed over.
    TooLong,
    End,
}

/// Puts the next line into `buffer`, without its end, and adds what it took from `input` to `read`.
pub(crate) fn next(
    input: &mut impl BufRead,
    buffer: &mut Vec<u8>,
    read: &mut u64,
) -> io::Result<Line> {
    buffer.clear();
    let mut any = false;
    let mut too_long = false;
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = memchr::memchr(b'\n', piece);
        let content = end.map_or(piece, |end| &piece[..end]);
        any |= !piece.is_empty();
        too_long |= buffer.len() + content.len() > LONGEST;
        if !too_long {
            buffer.extend_from_slice(content);
        }
        let taken = content.len() + usize::from(end.is_some());
        let ended = end.is_some() || piece.is_empty();
        input.consume(taken);
        *read += taken as u64;
        if ended {
            return Ok(match (any, too_long) {
                (false, _) => Line::End,
                (true, true) => Line::TooLong,
                (true, false) => Line::Whole,
            });
        }
    }
}
