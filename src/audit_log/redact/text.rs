//! A cursor over text, for the redactors: where words, strings and values end.
use memchr::memmem;

/// What is known about the text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// It may go on: what stands at its end may be half of a secret.
    pub(super) cut: bool,
    /// `<` begins a tag, always.
    pub(super) markup: bool,
}

/// The ways in which a quote is written inside of other formats.
const QUOTES: [&[u8]; 6] = [b"&quot;", b"&apos;", b"&#34;", b"&#39;", b"%22", b"\\u0022"];

const SEPARATORS: [&[u8]; 8] = [
    b"=>", b"=", b":", b"%3D", b"%3d", b"%3A", b"%3a", b"\\u003d",
];

/// A letter of a word: of a name, a JWT or a number.
pub(super) fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

pub(super) fn blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) input: &'a [u8],
    pub(super) context: Context,
}

impl<'a> Text<'a> {
    pub(super) fn at(&self, at: usize) -> Option<u8> {
        self.input.get(at).copied()
    }

    pub(super) fn rest(&self, at: usize) -> &'a [u8] {
        self.input.get(at..).unwrap_or_default()
    }

    pub(super) fn before(&self, at: usize) -> &'a [u8] {
        self.input.get(..at).unwrap_or_default()
    }

    /// The first place from `at` on where `stop` says so, or the end.
    pub(super) fn until(&self, at: usize, stop: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest(at);
        at + rest
            .iter()
            .position(|&byte| stop(byte))
            .unwrap_or(rest.len())
    }

    pub(super) fn find(&self, at: usize, what: &[u8]) -> Option<usize> {
        memmem::find(self.rest(at), what).map(|found| at + found)
    }

    /// Past `=` or `:`, with what quotes and blanks there are.
    pub(super) fn separated(&self, name_end: usize) -> Option<usize> {
        let mut at = name_end;
        for _ in 0..12 {
            if let Some(quote) = QUOTES.iter().find(|quote| self.rest(at).starts_with(quote)) {
                at += quote.len();
            } else if matches!(self.at(at), Some(b' ' | b'\t' | b'"' | b'\'' | b']'))
                || self.at(at) == Some(b'\\')
                    && matches!(self.at(at + 1), Some(b'"' | b'\\' | b'\''))
            {
                at += 1;
            } else {
                break;
            }
        }
        let separator = SEPARATORS
            .iter()
            .find(|separator| self.rest(at).starts_with(separator))?;
        at += separator.len();
        if self.rest(at).starts_with(b"//") {
            return None;
        }
        Some(self.until(at, |byte| !blank(byte)))
    }

    /// The inside of a string that begins here.
    pub(super) fn quoted(&self, start: usize) -> Option<(usize, usize)> {
        if let Some(quote) = QUOTES
            .iter()
            .find(|quote| self.rest(start).starts_with(quote))
        {
            let from = start + quote.len();
            let to = self.find(from, quote).unwrap_or(self.input.len());
            return Some((from, to));
        }
        let open = self.until(start, |byte| byte != b'\\');
        let escapes = open - start;
        let quote = self.at(open).filter(|byte| matches!(byte, b'"' | b'\''))?;
        let from = open + 1;
        let mut at = from;
        loop {
            let Some(found) = memchr::memchr(quote, self.rest(at)) else {
                return Some((from, self.input.len()));
            };
            let close = at + found;
            let inside = self.input.get(at..close).unwrap_or_default();
            let slashes = inside
                .iter()
                .rev()
                .take_while(|&&byte| byte == b'\\')
                .count();
            let doubled = quote == b'\'' && self.at(close + 1) == Some(b'\'');
            if doubled {
                at = close + 2;
            } else if slashes >= escapes && (slashes - escapes) % (2 * (escapes + 1)) == 0 {
                return Some((from, close - escapes));
            } else {
                at = close + 1;
            }
        }
    }

    /// Past an object or a list.
    pub(super) fn bracketed(&self, start: usize) -> usize {
        let mut depth = 0usize;
        for (n, byte) in self.rest(start).iter().enumerate() {
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => continue,
            }
            if depth == 0 {
                return start + n + 1;
            }
        }
        self.input.len()
    }

    /// To the end of a header's line.
    pub(super) fn line(&self, start: usize) -> usize {
        let mut at = start;
        while let Some(byte) = self.at(at) {
            match byte {
                b'\r' | b'\n' | b'<' => return at,
                b'\\' if matches!(self.at(at + 1), Some(b'r' | b'n')) => return at,
                // A quoted cookie; any other quote is one around the line.
                b'"' if self.before(at).ends_with(b"=") && at > start => {
                    at = match memchr::memchr(b'"', self.rest(at + 1)) {
                        Some(close) => at + close + 2,
                        None => return self.input.len(),
                    };
                }
                b'"' | b'`' => return at,
                b'\\' if self.at(at + 1) == Some(b'"') => return at,
                b'&' if self.rest(at).starts_with(b"&lt;")
                    || self.rest(at).starts_with(b"&quot;") =>
                {
                    return at;
                }
                _ => at += 1,
            }
        }
        at
    }

    /// The end of a value without quotes. In doubt it goes on.
    pub(super) fn bare(&self, start: usize) -> usize {
        let mut at = start;
        while let Some(byte) = self.at(at) {
            let next = self.at(at + 1);
            let ends = match byte {
                0..=b' ' => true,
                b'<' if self.context.markup => true,
                b'"' | b'\'' | b'<' | b'>' | b')' | b']' | b'}' | b'`' => {
                    !next.is_some_and(|next| next.is_ascii_alphanumeric())
                }
                b'\\' => matches!(next, Some(b'"')),
                b'&' => {
                    let rest = self.rest(at);
                    !(rest.starts_with(b"&amp;") && !self.pair_follows(at + 5)
                        || rest.starts_with(b"&#"))
                }
                b',' | b';' => {
                    next.is_none_or(|next| next <= b' ' || next == b'"')
                        || self.pair_follows(at + 1)
                }
                _ => false,
            };
            if ends {
                return at;
            }
            at += 1;
        }
        at
    }

    /// Whether another name and its value come next.
    fn pair_follows(&self, at: usize) -> bool {
        let ahead = self.rest(at);
        let ahead = ahead.get(..ahead.len().min(48)).unwrap_or_default();
        let word = ahead.iter().take_while(|&&byte| in_word(byte)).count();
        word > 0 && matches!(ahead.get(word), Some(b'=' | b':'))
    }

    /// Where a start tag ends, with its quoted values passed over unless they are malformed.
    pub(super) fn end_of_tag(&self, from: usize, close: &[u8]) -> Option<usize> {
        if close != b">" {
            return self.find(from, close);
        }
        let mut at = from;
        loop {
            at = self.until(at, |byte| matches!(byte, b'>' | b'"' | b'\''));
            let quote = match self.at(at) {
                Some(b'>') => return Some(at),
                Some(quote) => quote,
                None => break,
            };
            let end = memchr::memchr2(quote, b'<', self.rest(at + 1)).map(|end| at + 1 + end);
            match end {
                Some(end) if self.at(end) == Some(quote) => at = end + 1,
                _ => break,
            }
        }
        self.find(from, close)
    }
}
