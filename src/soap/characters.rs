//! Characters that XML has no place for, written as themselves or as references.
use std::ops::Range;

use memchr::memmem;

use super::outline::Outline;

/// A character that XML 1.0 does not allow, in a request.
///
/// A server refuses the whole request for one of them, whichever member it stands in.
///
/// ```
/// use tower_ews::soap::Outline;
///
/// let body = br#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///   <GetItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages">
///     <ItemIds><ItemId Id="AAMk1"/><ItemId Id="&#x1F;"/></ItemIds>
///   </GetItem></s:Body></s:Envelope>"#;
/// let found = Outline::parse(body)?.invalid_character(body).unwrap();
/// assert_eq!((found.character, found.member), (0x1F, Some(1)));
/// # Ok::<(), tower_ews::soap::OutlineError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
#[non_exhaustive]
pub struct InvalidCharacter {
    /// Its number in Unicode. A reference can name one that is none.
    pub character: u32,
    /// Offset of it, or of the reference to it.
    pub at: usize,
    /// The index of the member that it stands in, over all arrays of the request.
    pub member: Option<usize>,
}

impl InvalidCharacter {
    fn text(&self) -> String {
        let InvalidCharacter { character, at, .. } = self;
        let place = match self.member {
            Some(member) => format!("member {member} of the request (from 0)"),
            None => "the request".to_owned(),
        };
        format!("{place} has U+{character:04X} at byte {at}, which XML does not allow: remove it")
    }
}

impl Outline {
    /// Finds the first character that XML does not allow. `body` is what the outline was made from.
    ///
    /// Bytes that are no UTF-8 are no characters, and are not found.
    pub fn invalid_character(&self, body: &[u8]) -> Option<InvalidCharacter> {
        let found = Finder::new(body).next()?;
        let at = found.range.start;
        let mut before = 0;
        let mut member = None;
        for array in self.arrays() {
            let members = array.members();
            let index = members.partition_point(|member| member.end <= at);
            if members
                .get(index)
                .is_some_and(|member| member.contains(&at))
            {
                member = Some(before + index);
            }
            before += members.len();
        }
        Some(InvalidCharacter {
            character: found.character,
            at,
            member,
        })
    }
}

/// Puts U+FFFD in the place of each character that XML does not allow; `None` if there is none.
pub(crate) fn replaced(body: &[u8]) -> Option<Vec<u8>> {
    let mut found = Finder::new(body).peekable();
    found.peek()?;
    let mut replaced = Vec::with_capacity(body.len() + 16);
    let mut at = 0;
    for Found {
        range,
        is_reference,
        ..
    } in found
    {
        replaced.extend_from_slice(body.get(at..range.start).unwrap_or_default());
        replaced.extend_from_slice(match is_reference {
            true => b"&#xFFFD;",
            false => "\u{FFFD}".as_bytes(),
        });
        at = range.end;
    }
    replaced.extend_from_slice(body.get(at..).unwrap_or_default());
    Some(replaced)
}

#[derive(Clone, Debug)]
struct Found {
    character: u32,
    range: Range<usize>,
    is_reference: bool,
}

/// Finds them in order, in three passes that each look for bytes which hardly ever occur.
struct Finder<'a> {
    body: &'a [u8],
    control: Option<Found>,
    noncharacter: Option<Found>,
    reference: Option<Found>,
    /// The first section at or behind the last reference in which a reference is plain text.
    literal: Range<usize>,
}

impl<'a> Finder<'a> {
    fn new(body: &'a [u8]) -> Finder<'a> {
        let mut finder = Finder {
            body,
            control: control(body, 0),
            noncharacter: noncharacter(body, 0),
            reference: None,
            literal: 0..0,
        };
        finder.reference = finder.reference(0);
        finder
    }

    /// The next reference from `at` on to something that is no character of XML.
    fn reference(&mut self, mut at: usize) -> Option<Found> {
        loop {
            at += memmem::find(self.body.get(at..)?, b"&#")?;
            if let Some(found) = reference(self.body, at).filter(|found| !allowed(found.character))
            {
                if !self.is_literal(at) {
                    return Some(found);
                }
            }
            at += 2;
        }
    }

    /// Whether a CDATA section or a comment holds `at`. For ascending offsets, so that each section is looked for once.
    fn is_literal(&mut self, at: usize) -> bool {
        while self.literal.end <= at {
            self.literal = literal(self.body, self.literal.end);
        }
        self.literal.contains(&at)
    }
}

impl Iterator for Finder<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        let all = [&self.control, &self.noncharacter, &self.reference];
        let first = all
            .into_iter()
            .flatten()
            .min_by_key(|found| found.range.start);
        let first = first?.clone();
        let end = first.range.end;
        if first.is_reference {
            self.reference = self.reference(end);
        } else if first.character < 0x20 {
            self.control = control(self.body, end);
        } else {
            self.noncharacter = noncharacter(self.body, end);
        }
        Some(first)
    }
}

/// `Char` of XML 1.0.
fn allowed(character: u32) -> bool {
    matches!(
        character,
        0x9 | 0xA | 0xD | 0x20..=0xD7FF | 0xE000..=0xFFFD | 0x1_0000..=0x10_FFFF
    )
}

/// The next control character from `from` on. The benchmark `batch` watches it.
fn control(body: &[u8], from: usize) -> Option<Found> {
    let bad = |byte: &u8| *byte < 0x20 && !allowed(u32::from(*byte));
    let mut at = from;
    for chunk in body.get(from..)?.chunks(64) {
        // Without a branch, so that it takes many bytes at a time.
        if chunk.iter().fold(false, |any, byte| any | bad(byte)) {
            let place = chunk.iter().position(bad)?;
            return Some(Found {
                character: u32::from(*chunk.get(place)?),
                range: at + place..at + place + 1,
                is_reference: false,
            });
        }
        at += chunk.len();
    }
    None
}

/// The next U+FFFE or U+FFFF from `at` on.
fn noncharacter(body: &[u8], mut at: usize) -> Option<Found> {
    loop {
        at += memmem::find(body.get(at..)?, b"\xEF\xBF")?;
        if let last @ (0xBE | 0xBF) = *body.get(at + 2)? {
            return Some(Found {
                character: 0xFFC0 | u32::from(last & 0x3F),
                range: at..at + 3,
                is_reference: false,
            });
        }
        at += 2;
    }
}

/// The reference at `at`, if it is one.
fn reference(body: &[u8], at: usize) -> Option<Found> {
    let digits = body.get(at + 2..)?;
    let (radix, begin) = match digits.first()? {
        b'x' => (16, 1),
        _ => (10, 0),
    };
    let mut character = 0_u32;
    for (place, byte) in digits.iter().enumerate().skip(begin) {
        match char::from(*byte).to_digit(radix) {
            // What does not fit is no character either.
            Some(digit) => character = character.saturating_mul(radix).saturating_add(digit),
            None if *byte == b';' && place > begin => {
                return Some(Found {
                    character,
                    range: at..at + 2 + place + 1,
                    is_reference: true,
                });
            }
            None => return None,
        }
    }
    None
}

/// The next CDATA section or comment from `at` on; behind the body if there is none.
fn literal(body: &[u8], mut at: usize) -> Range<usize> {
    let none = body.len()..usize::MAX;
    while let Some(rest) = body.get(at..) {
        let Some(length) = memmem::find(rest, b"<!") else {
            return none;
        };
        at += length;
        let rest = body.get(at..).unwrap_or_default();
        let end = if rest.starts_with(b"<![CDATA[") {
            memmem::find(rest, b"]]>")
        } else if rest.starts_with(b"<!--") {
            memmem::find(rest.get(4..).unwrap_or_default(), b"-->").map(|length| length + 4)
        } else {
            at += 2;
            continue;
        };
        return at..end.map_or(usize::MAX, |length| at + length + 3);
    }
    none
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(first: &str, second: &str) -> String {
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>\
             <CreateItem xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'>\
             <SavedItemFolderId>{first}</SavedItemFolderId><Items><Message/><Message>{second}</Message>\
             </Items></CreateItem></s:Body></s:Envelope>"
        )
    }

    #[test]
    fn each_character_that_xml_has_not_is_found_where_it_stands() {
        let bad = [
            ("\0", 0),
            ("\u{8}", 8),
            ("\u{b}", 0xB),
            ("\u{c}", 0xC),
            ("\u{1f}", 0x1F),
            ("\u{fffe}", 0xFFFE),
            ("\u{ffff}", 0xFFFF),
            ("&#0;", 0),
            ("&#x0;", 0),
            ("&#x0000;", 0),
            ("&#31;", 0x1F),
            ("&#x1f;", 0x1F),
            ("&#x1F;", 0x1F),
            ("&#xFFFE;", 0xFFFE),
            ("&#65535;", 0xFFFF),
            ("&#xD800;", 0xD800),
            ("&#x110000;", 0x11_0000),
            ("&#99999999999999999999;", u32::MAX),
            ("<![CDATA[\u{1}]]>", 1),
            ("<!-- \u{1} -->", 1),
            ("<![CDATA[&#0;]]>&#2;", 2),
            ("<!-- &#0; -->&#2;", 2),
            ("<Subject a='&#2;'/>", 2),
        ];
        // At any place in the words that are looked at together.
        for (text, character) in bad {
            for before in [0, 1, 63, 64, 200] {
                let text = format!("{}{text}{}", "x".repeat(before), "x".repeat(70));
                for (body, member) in [
                    (request(&text, ""), None),
                    (request("", &text), Some(1)),
                    (request("", &format!("{text}\u{1}")), Some(1)),
                ] {
                    let outline = Outline::parse(body.as_bytes()).unwrap();
                    let found = outline.invalid_character(body.as_bytes()).unwrap();
                    assert_eq!(
                        (found.character, found.member),
                        (character, member),
                        "{text}"
                    );
                    assert!(
                        body[found.at..]
                            .starts_with(['&', char::from_u32(character).unwrap_or('&')])
                    );
                    let better = replaced(body.as_bytes()).unwrap();
                    let outline = Outline::parse(&better).unwrap();
                    assert_eq!(outline.invalid_character(&better), None, "{text}");
                    assert_eq!(replaced(&better), None);
                }
            }
        }
    }

    #[test]
    fn what_xml_has_stays() {
        for text in [
            "",
            "\t\r\n &#9;&#10;&#xD;&#x20;",
            "\u{7f}\u{80}\u{85}\u{d7ff}\u{e000}\u{fffd}\u{ff0c}\u{10000}\u{10ffff}",
            "&#xD7FF;&#xE000;&#xFFFD;&#x10FFFF;",
            "<![CDATA[&#0;]]>",
            "<!--&#0;-->",
            "<![CDATA[ ]]><!-- --><![CDATA[&#0;]]>",
            "&amp;#0;",
            // No references.
            "&#;&#x;&#g;&#xg;&#1",
        ] {
            let body = request("", text);
            let outline = Outline::parse(body.as_bytes()).unwrap();
            assert_eq!(outline.invalid_character(body.as_bytes()), None, "{text}");
            assert_eq!(replaced(body.as_bytes()), None);
        }
        // No UTF-8 is another matter.
        assert!(Finder::new(b"\xED\xA0\x80\xFF\xEF\xBF").next().is_none());
    }

    #[test]
    fn only_what_is_wrong_is_replaced() {
        let replaced =
            |text: &str| replaced(text.as_bytes()).map(|text| String::from_utf8(text).unwrap());
        assert_eq!(
            replaced("a\0b&#0;c\u{ffff}&#9;d").as_deref(),
            Some("a\u{fffd}b&#xFFFD;c\u{fffd}&#9;d")
        );
        assert_eq!(replaced("a&#9;"), None);
        // Many of them, and sections around some: each section is looked for once.
        let text = "<![CDATA[&#0;]]>&#0;".repeat(20_000);
        assert_eq!(
            replaced(&text).unwrap(),
            "<![CDATA[&#0;]]>&#xFFFD;".repeat(20_000)
        );
    }

    #[test]
    fn the_error_names_the_member() {
        let body = request("", "&#0;");
        let outline = Outline::parse(body.as_bytes()).unwrap();
        let found = outline.invalid_character(body.as_bytes()).unwrap();
        assert_eq!(
            found.to_string(),
            format!(
                "member 1 of the request (from 0) has U+0000 at byte {}, which XML does not allow: remove it",
                body.find('&').unwrap()
            )
        );
    }
}
