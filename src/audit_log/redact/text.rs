//! [`Text`]: a cursor over a text, for the reader of any text: where words, strings and values end.

use memchr::{memchr, memchr2, memmem};

#[cfg(test)]
use super::work;

/// What is known about the text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// It may go on: what stands at its end may be half of a secret.
    pub(super) cut: bool,
    /// `<` begins a tag, always.
    pub(super) markup: bool,
}

/// Past a name and what separates it from its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Separated {
    /// Where the value begins.
    pub(super) start: usize,
    /// Whether it is an equals sign, on the line of the name.
    pub(super) is_equals: bool,
}

const SEPARATORS: [&[u8]; 6] = [b"=>", b":=", b"==", b"->", b"=", b":"];

/// How much of a text that stands around a name is looked at.
const NEAR: usize = 64;

/// A letter of a word: of a name, a JWT or a number.
pub(super) fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The length of a blank that is no ASCII, or has no width, at the begin of `rest`: such as a non-breaking one, in UTF-8 or in
/// Latin-1. 0 if there is none.
fn wide_blank(rest: &[u8]) -> usize {
    match *rest {
        [0xA0, ..] => 1,
        [0xC2, 0xA0 | 0xAD, ..] => 2,
        [0xE2, 0x80, 0x80..=0x8F | 0xA8..=0xAF, ..]
        | [0xE2, 0x81, 0x9F..=0xA4, ..]
        | [0xE3, 0x80, 0x80, ..]
        | [0xEF, 0xBB, 0xBF, ..] => 3,
        _ => 0,
    }
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

/// Counts bytes that were read, in tests.
fn read(bytes: usize) -> usize {
    #[cfg(test)]
    work::add(bytes);
    bytes
}

fn found(at: usize, rest: &[u8], found: Option<usize>) -> Option<usize> {
    read(found.unwrap_or(rest.len()));
    found.map(|found| at + found)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) input: &'a [u8],
    pub(super) context: Context,
}

impl<'a> Text<'a> {
    /// A text that may be cut off.
    pub(super) fn new(input: &'a [u8], cut: bool) -> Self {
        let markup = false;
        let context = Context { cut, markup };
        Self { input, context }
    }

    pub(super) fn at(&self, at: usize) -> Option<u8> {
        self.input.get(at).copied()
    }

    pub(super) fn rest(&self, at: usize) -> &'a [u8] {
        self.input.get(at..).unwrap_or_default()
    }

    pub(super) fn before(&self, at: usize) -> &'a [u8] {
        self.input.get(..at).unwrap_or_default()
    }

    /// The last few bytes before `at`.
    pub(super) fn near_before(&self, at: usize) -> &'a [u8] {
        self.input
            .get(at.saturating_sub(NEAR)..at)
            .unwrap_or_default()
    }

    /// The next few bytes from `at` on.
    pub(super) fn near(&self, at: usize) -> &'a [u8] {
        let rest = self.rest(at);
        rest.get(..rest.len().min(NEAR)).unwrap_or_default()
    }

    pub(super) fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.input.get(from..to).unwrap_or_default()
    }

    /// The first place from `at` on where `stop` says so, or the end.
    pub(super) fn until(&self, at: usize, stop: impl Fn(u8) -> bool) -> usize {
        let rest = self.rest(at);
        let length = rest.iter().position(|&byte| stop(byte));
        at + read(length.unwrap_or(rest.len()))
    }

    pub(super) fn find(&self, at: usize, what: &[u8]) -> Option<usize> {
        let rest = self.rest(at);
        found(at, rest, memmem::find(rest, what))
    }

    pub(super) fn find_byte(&self, at: usize, byte: u8) -> Option<usize> {
        let rest = self.rest(at);
        found(at, rest, memchr(byte, rest))
    }

    pub(super) fn find_either(&self, at: usize, one: u8, other: u8) -> Option<usize> {
        let rest = self.rest(at);
        found(at, rest, memchr2(one, other, rest))
    }

    /// Past blanks and line breaks, wide and invisible ones too.
    pub(super) fn skip_space(&self, at: usize) -> usize {
        self.skip(at, |byte| byte.is_ascii_whitespace())
    }

    /// Past what `is_skipped`, and past blanks that are no ASCII.
    fn skip(&self, mut at: usize, is_skipped: impl Fn(u8) -> bool) -> usize {
        loop {
            at = self.until(at, |byte| !is_skipped(byte));
            match wide_blank(self.rest(at)) {
                0 => return at,
                length => at += read(length),
            }
        }
    }

    /// Whether a quote stands on both sides.
    pub(super) fn is_quoted(&self, start: usize, end: usize) -> bool {
        let before = self.before(start).last().copied();
        before.is_some_and(is_quote) && before == self.at(end)
    }

    /// Whether a value may follow the name that ends here: all but most words of a text.
    pub(super) fn may_separate(&self, name_end: usize) -> bool {
        let at = match self.at(name_end) {
            Some(byte) if byte.is_ascii_whitespace() || !byte.is_ascii() => {
                self.skip_space(name_end)
            }
            _ => name_end,
        };
        self.at(at)
            .is_some_and(|byte| is_quote(byte) || matches!(byte, b'=' | b':' | b']' | b'(' | b'-'))
    }

    /// Past `=`, `:` or the like behind a name, with what quotes and space there are.
    pub(super) fn separated(&self, name_end: usize) -> Option<Separated> {
        let mark = self.skip(name_end, |byte| {
            byte.is_ascii_whitespace() || is_quote(byte) || byte == b']'
        });
        let closers = self.input.get(name_end..mark).unwrap_or_default();
        let rest = self.rest(mark);
        if rest.starts_with(b"::") {
            return None;
        }
        let separator = match SEPARATORS.iter().find(|known| rest.starts_with(known)) {
            Some(separator) => separator.len(),
            // `Secret("...")`, as values of types are printed.
            None if mark == name_end && rest.starts_with(b"(\"") => 1,
            None => return None,
        };
        let after = mark + separator;
        if self.rest(after).starts_with(b"//") {
            return None;
        }
        Some(Separated {
            start: self.skip_space(after),
            is_equals: rest.starts_with(b"=") && !closers.contains(&b'\n'),
        })
    }

    /// The second one of two strings, the first of which is a name: `("password", "...")`.
    pub(super) fn second_of_pair(&self, start: usize, name_end: usize) -> Option<(usize, usize)> {
        let bracket = self.before(start.checked_sub(1)?).last()?;
        let comma = name_end + 1;
        if !matches!(bracket, b'(' | b'[')
            || !self.is_quoted(start, name_end)
            || self.at(comma) != Some(b',')
        {
            return None;
        }
        let (from, to) = self.quoted(self.skip_space(comma + 1))?;
        let close = self.skip_space(to + 1);
        let is_pair = match self.at(close) {
            Some(next) => matches!(next, b')' | b']'),
            None => self.context.cut,
        };
        is_pair.then_some((from, to))
    }

    /// The inside of a string that begins here, in quotes, with a prefix such as `b"` or in
    /// something like `Some("`.
    pub(super) fn quoted(&self, start: usize) -> Option<(usize, usize)> {
        let near = self.near(start);
        let word = near
            .iter()
            .take_while(|&&byte| in_word(byte) || matches!(byte, b'(' | b'$' | b'@'))
            .count();
        let is_wrapped = word <= 1 || near.get(word - 1) == Some(&b'(');
        let open = start + word;
        let quote = self.at(open).filter(|byte| is_quote(*byte) && is_wrapped)?;
        let from = open + 1;
        let mut at = from;
        let mut last = None;
        while let Some(close) = self.find_byte(at, quote) {
            let inside = self.input.get(from..close).unwrap_or_default();
            let slashes = inside.iter().rev().take_while(|&&byte| byte == b'\\');
            let escaped = slashes.count() % 2 == 1;
            let doubled = quote == b'\'' && self.at(close + 1) == Some(b'\'');
            // Another string would not begin in the middle of a word.
            let goes_on = self
                .at(close + 1)
                .is_some_and(|next| next.is_ascii_alphanumeric());
            if !escaped && !doubled && !goes_on {
                return Some((from, close));
            }
            if !escaped && !doubled {
                last = Some(close);
            }
            at = close + 1 + usize::from(doubled);
        }
        let last = last.filter(|_| !self.context.cut);
        Some((from, last.unwrap_or(self.input.len())))
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
                return start + read(n + 1);
            }
        }
        read(self.rest(start).len());
        self.input.len()
    }

    /// To the end of a header's line, and of the lines that continue it.
    pub(super) fn line(&self, start: usize) -> usize {
        let mut at = start;
        while let Some(byte) = self.at(at) {
            match byte {
                b'\r' | b'\n' => match self.continuation(at) {
                    Some(next) => at = next,
                    None => return at,
                },
                b'<' | b'`' => return at,
                b'\\' if matches!(self.at(at + 1), Some(b'r' | b'n' | b'"')) => return at,
                // A quoted cookie; any other quote is one around the line.
                b'"' if self.before(at).ends_with(b"=") && at > start => {
                    at = match self.find_byte(at + 1, b'"') {
                        Some(close) => close + 1,
                        None => return self.input.len(),
                    };
                }
                b'"' => return at,
                b'&' if self.rest(at).starts_with(b"&lt;")
                    || self.rest(at).starts_with(b"&quot;") =>
                {
                    return at;
                }
                _ => at += read(1),
            }
        }
        at
    }

    /// Past a line break, if the next line begins with a blank and is not empty.
    fn continuation(&self, at: usize) -> Option<usize> {
        let after = match self.rest(at) {
            [b'\r', b'\n', ..] => at + 2,
            _ => at + 1,
        };
        let text = self.until(after, |byte| !is_blank(byte));
        let goes_on = text > after && self.at(text).is_some_and(|byte| byte > b' ');
        goes_on.then_some(text)
    }

    /// To the end of the lines that are indented, behind the `|` or `>` of YAML.
    pub(super) fn block(&self, start: usize) -> Option<usize> {
        let mark = self.near(start);
        if !matches!(mark.first(), Some(b'|' | b'>')) {
            return None;
        }
        let mut at = self.until(start + 1, |byte| !matches!(byte, b'-' | b'+' | b'0'..=b'9'));
        let mut end = None;
        while matches!(self.at(at), Some(b'\r' | b'\n')) {
            let Some(text) = self.continuation(at) else {
                break;
            };
            at = self.until(text, |byte| matches!(byte, b'\r' | b'\n'));
            end = Some(at);
        }
        end
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
                b'/' => matches!(next, Some(b'>')),
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
                break;
            }
            at += read(1);
        }
        at
    }

    /// Whether another name and its value come next.
    fn pair_follows(&self, at: usize) -> bool {
        let near = self.near(at);
        let word = near.iter().take_while(|&&byte| in_word(byte)).count();
        word > 0 && matches!(near.get(word), Some(b'=' | b':'))
    }
}
