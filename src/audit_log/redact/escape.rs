//! The ways in which one format is written inside of another: entities, backslashes and percent signs.

use memchr::memchr;

use super::derived::Derived;

/// A way to escape characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    /// `&lt;`, `&#60;`, `&#x3c;`, of XML and HTML.
    Entity,
    /// `\"`, `\n`, `\u003c`, `\x3c`, of JSON and of programming languages.
    Backslash,
    /// `%3C`, of URLs and forms.
    Percent,
}

impl Escape {
    pub(super) const ALL: [Escape; 3] = [Escape::Entity, Escape::Backslash, Escape::Percent];

    const fn mark(self) -> u8 {
        match self {
            Escape::Entity => b'&',
            Escape::Backslash => b'\\',
            Escape::Percent => b'%',
        }
    }

    /// Whether more of the text would make no other escape of this one.
    fn ends(self, text: &[u8], length: usize) -> bool {
        length < text.len() || self != Escape::Entity || text.ends_with(b";")
    }

    /// Whether all of `text` may be the begin of an escape.
    fn may_begin(self, text: &[u8]) -> bool {
        let rest = text.get(1..).unwrap_or_default();
        match self {
            Escape::Entity => rest.len() < LONGEST && rest.iter().all(|byte| is_of_entity(*byte)),
            Escape::Backslash => match rest {
                [] => true,
                [b'u' | b'x', digits @ ..] => digits.len() < LONGEST && !digits.contains(&b'}'),
                _ => false,
            },
            Escape::Percent => rest.len() < 2,
        }
    }

    /// Returns the character of the escape that `text` begins with, and its length.
    fn read(self, text: &[u8]) -> Option<(char, usize)> {
        match self {
            Escape::Entity => entity(text),
            Escape::Backslash => backslash(text),
            Escape::Percent => percent(text),
        }
    }
}

/// The longest escape.
const LONGEST: usize = 10;

fn is_of_entity(byte: u8) -> bool {
    byte == b'#' || byte.is_ascii_alphanumeric()
}

/// The entities of XML, and those of HTML that can stand between a name and its value.
const ENTITIES: [(&[u8], char); 19] = [
    (b"&lt;", '<'),
    (b"&gt;", '>'),
    (b"&amp;", '&'),
    (b"&quot;", '"'),
    (b"&apos;", '\''),
    (b"&nbsp;", ' '),
    (b"&colon;", ':'),
    (b"&equals;", '='),
    (b"&semi;", ';'),
    (b"&quest;", '?'),
    (b"&num;", '#'),
    (b"&sol;", '/'),
    (b"&commat;", '@'),
    (b"&lowbar;", '_'),
    (b"&hyphen;", '-'),
    (b"&period;", '.'),
    (b"&lcub;", '{'),
    (b"&rcub;", '}'),
    (b"&NewLine;", '\n'),
];

fn entity(text: &[u8]) -> Option<(char, usize)> {
    if text.get(1) != Some(&b'#') {
        let known = ENTITIES.iter().find(|(name, _)| text.starts_with(name));
        return known.map(|(name, letter)| (*letter, name.len()));
    }
    let is_hex = matches!(text.get(2), Some(b'x' | b'X'));
    let (from, radix) = if is_hex { (3, 16) } else { (2, 10) };
    let digits = text.get(from..)?;
    let length = digits
        .iter()
        .take(9)
        .take_while(|byte| char::from(**byte).is_digit(radix))
        .count();
    let digits = std::str::from_utf8(digits.get(..length)?).ok()?;
    let letter = char::from_u32(u32::from_str_radix(digits, radix).ok()?)?;
    let end = from + length;
    // Browsers take it without its end, too.
    Some((letter, end + usize::from(text.get(end) == Some(&b';'))))
}

fn backslash(text: &[u8]) -> Option<(char, usize)> {
    let plain = |letter| Some((letter, 2));
    match text.get(1)? {
        b'n' => plain('\n'),
        b'r' => plain('\r'),
        b't' => plain('\t'),
        b'u' if text.get(2) == Some(&b'{') => {
            let digits = text.get(3..text.len().min(10))?;
            let length = memchr(b'}', digits)?;
            let letter = char::from_u32(hex(digits.get(..length)?)?)?;
            Some((letter, length + 4))
        }
        // Halves of a pair are no characters, and hide none that matter.
        b'u' => Some((char::from_u32(hex(text.get(2..6)?)?)?, 6)),
        b'x' => Some((char::from_u32(hex(text.get(2..4)?)?)?, 4)),
        letter @ (b'"' | b'\'' | b'\\' | b'/') => plain(char::from(*letter)),
        _ => None,
    }
}

/// Secrets and what stands around them begin and end at ASCII letters, or at a blank that does not break.
fn percent(text: &[u8]) -> Option<(char, usize)> {
    const BLANK: char = '\u{a0}';
    let byte = hex(text.get(1..3)?)?;
    if byte == 0xC2 && text.get(3) == Some(&b'%') {
        let next = hex(text.get(4..6)?)?;
        return (next == u32::from(BLANK)).then_some((BLANK, 6));
    }
    let letter = char::from_u32(byte)?;
    (letter.is_ascii() || letter == BLANK).then_some((letter, 3))
}

fn hex(digits: &[u8]) -> Option<u32> {
    let all = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| all)?;
    u32::from_str_radix(digits, 16).ok()
}

/// Undoes one round of these escapes, if there are any. Of a text that is cut off, half an escape at
/// its end is left out.
pub(super) fn decode(escape: Escape, text: &[u8], cut: bool) -> Option<Derived> {
    let mut decoded: Option<Derived> = None;
    let mut done = 0;
    let mut at = 0;
    while let Some(found) = memchr(escape.mark(), text.get(at..)?) {
        at += found;
        let rest = text.get(at..)?;
        let read = escape.read(rest);
        let Some((letter, length)) = read.filter(|(_, length)| !cut || escape.ends(rest, *length))
        else {
            if cut && escape.may_begin(rest) {
                let derived = decoded.get_or_insert_default();
                derived.copy(text.get(done..at)?, done);
                done = text.len();
                break;
            }
            at += 1;
            continue;
        };
        let derived = decoded.get_or_insert_default();
        derived.copy(text.get(done..at)?, done);
        derived.copy(letter.encode_utf8(&mut [0; 4]).as_bytes(), at);
        at += length;
        done = at;
    }
    let mut derived = decoded?;
    derived.copy(text.get(done..)?, done);
    derived.end(text.len());
    Some(derived)
}
