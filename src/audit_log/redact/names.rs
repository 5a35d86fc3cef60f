//! [`Names`]: which names have secrets behind them, of elements, attributes, keys, fields and headers.
//!
//! Names are known by pattern: how they end and begin, without case, punctuation, plural, trailing
//! numbers and qualifiers such as `value`. What fits a pattern and is no secret is listed.

use http::HeaderName;

use super::name_lists::{
    CONTENT, CONTINUATIONS, ENDINGS, FIELDS, HARMLESS, HARMLESS_ENDINGS, HARMLESS_HEADERS, HEADERS,
    LAST_WORDS, NAMES, NAMING, NAMING_KEYS, PREFIXES, QUALIFIERS, VALUES, WORDS,
};
use super::triples::Triples;

/// The longest name, folded, that is compared as a whole; of a longer one its end counts.
const LONGEST: usize = 64;

/// Where a name has a secret behind it. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Secrecy {
    /// Nowhere.
    #[default]
    Harmless,
    /// In the query of a URL, in a parameter of its path and in a form.
    Field,
    /// As the name of an element, an attribute, a key or a header too, and in a text where it is
    /// quoted or an equals sign follows.
    Name,
    /// Anywhere in a text, where a value follows.
    Anywhere,
}

/// How the names and qualifiers that are known end: alone, or in the plural.
static TAILS: Triples = ends_of(&[ENDINGS, NAMES, WORDS, FIELDS, QUALIFIERS]);

/// How the names end of which one names the other.
static PAIR_TAILS: Triples = ends_of(&[NAMING, NAMING_KEYS, VALUES]);

/// How names of secrets begin.
static HEADS: Triples = {
    let mut heads = Triples::new();
    let mut at = 0;
    while at < PREFIXES.len() {
        heads.add_begin_of(PREFIXES[at]);
        at += 1;
    }
    heads
};

const fn ends_of(lists: &[&[&[u8]]]) -> Triples {
    let mut tails = Triples::new();
    let mut list = 0;
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            tails.add_end_of(lists[list][at]);
            at += 1;
        }
        list += 1;
    }
    tails
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    pub(super) secrecy: Secrecy,
    /// The name of another value stands under it, as in `<Value Name="Password">` and
    /// `{"name": "Cookie", "value": ...}`.
    pub(super) is_naming: bool,
    /// So it does where this is no element: `{"type": "password", "value": ...}`.
    pub(super) is_naming_key: bool,
    /// What a name beside it names stands under it.
    pub(super) is_value: bool,
}

impl Kind {
    /// Whether it is secret as the name of an element, an attribute or a key.
    pub(super) fn is_secret(self) -> bool {
        self.secrecy >= Secrecy::Name
    }
}

/// A name without case, punctuation and a number at its end: `Access_Token`, `accessToken` and
/// `access-token2` are one.
#[derive(Debug)]
pub(super) struct Folded {
    bytes: [u8; LONGEST],
    start: usize,
}

impl Folded {
    pub(super) fn new(name: &[u8]) -> Self {
        let mut folded = Folded {
            bytes: [0; LONGEST],
            start: LONGEST,
        };
        let letters = name
            .iter()
            .rev()
            .filter(|byte| byte.is_ascii_alphanumeric());
        for byte in letters.skip_while(|byte| byte.is_ascii_digit()) {
            let Some(at) = folded.start.checked_sub(1) else {
                break;
            };
            if let Some(slot) = folded.bytes.get_mut(at) {
                *slot = byte.to_ascii_lowercase();
            }
            folded.start = at;
        }
        folded
    }

    pub(super) fn get(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

/// The names that are built in, and those that were added.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    added: Vec<Box<[u8]>>,
    headers: Vec<HeaderName>,
}

impl Names {
    pub(super) fn add(&mut self, name: &str) {
        let folded = Folded::new(name.as_bytes());
        if !folded.get().is_empty() {
            self.added.push(folded.get().into());
        }
    }

    pub(super) fn add_header(&mut self, name: HeaderName) {
        let folded = Folded::new(name.as_str().as_bytes());
        self.added.push(folded.get().into());
        self.headers.push(name);
    }

    /// Returns what is known of a name that has no prefix.
    pub(super) fn look(&self, name: &[u8]) -> Kind {
        let folded = Folded::new(name);
        let folded = folded.get();
        let is_of_pair = PAIR_TAILS.has_end_of(folded);
        Kind {
            secrecy: self.secrecy_of(folded, name),
            is_naming: is_of_pair && NAMING.contains(&folded),
            is_naming_key: is_of_pair
                && [NAMING, NAMING_KEYS]
                    .iter()
                    .any(|names| names.contains(&folded)),
            is_value: is_of_pair && VALUES.contains(&folded),
        }
    }

    fn secrecy_of(&self, folded: &[u8], name: &[u8]) -> Secrecy {
        if self.added.iter().any(|added| **added == *folded) {
            return Secrecy::Anywhere;
        }
        let known = of_folded(folded);
        if known == Secrecy::Harmless && LAST_WORDS.contains(&last_word(name)) {
            return Secrecy::Anywhere;
        }
        known
    }

    /// Whether it is secret as the name of an element, an attribute or a key.
    pub(super) fn secret(&self, name: &[u8]) -> bool {
        self.look(name).is_secret()
    }

    /// Whether it is secret as the key of a query or a form.
    pub(super) fn secret_field(&self, name: &[u8]) -> bool {
        self.look(name).secrecy >= Secrecy::Field
    }

    pub(super) fn secret_header(&self, name: &HeaderName) -> bool {
        let text = name.as_str().as_bytes();
        let bare = text.strip_prefix(b"x-").unwrap_or(text);
        let folded = Folded::new(bare);
        let folded = folded.get();
        let has_part = || {
            HEADERS
                .iter()
                .any(|part| memchr::memmem::find(folded, part).is_some())
        };
        let is_secret = self.headers.contains(name)
            || self.secrecy_of(folded, bare) >= Secrecy::Name
            || has_part();
        is_secret
            && (self.headers.contains(name)
                || !is_harmless(singular(folded)) && !HARMLESS_HEADERS.contains(&name.as_str()))
    }
}

/// Looks at the name and, as long as it ends in a plural, a number or a qualifier, at what is before.
fn of_folded(name: &[u8]) -> Secrecy {
    // Most names end and begin like none that is known: `benches/audit`, `full`.
    if !TAILS.has_end_of(name) && !HEADS.has_begin_of(name) {
        return Secrecy::Harmless;
    }
    let mut root = name;
    while !root.is_empty() {
        if let Some(known) = of_root(root) {
            return if is_harmless(root) {
                Secrecy::Harmless
            } else {
                known
            };
        }
        let shorter = shorter(root);
        if shorter.len() == root.len() {
            return by_prefix(name);
        }
        root = shorter;
    }
    Secrecy::Harmless
}

fn of_root(name: &[u8]) -> Option<Secrecy> {
    if WORDS.contains(&name) {
        Some(Secrecy::Name)
    } else if FIELDS.contains(&name) {
        Some(Secrecy::Field)
    } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) || NAMES.contains(&name) {
        Some(Secrecy::Anywhere)
    } else {
        None
    }
}

fn is_harmless(name: &[u8]) -> bool {
    HARMLESS.contains(&name) || HARMLESS_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn singular(name: &[u8]) -> &[u8] {
    match name.strip_suffix(b"s") {
        Some(singular) if !singular.ends_with(b"s") => singular,
        _ => name,
    }
}

/// The name without its plural, or without one qualifier or number.
fn shorter(name: &[u8]) -> &[u8] {
    let digits = name.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let name = name.get(..name.len() - digits.count()).unwrap_or_default();
    QUALIFIERS
        .iter()
        .find_map(|qualifier| name.strip_suffix(*qualifier))
        .unwrap_or_else(|| singular(name))
}

/// `PasswordForService`, but not `PasswordExpirationDate`.
fn by_prefix(name: &[u8]) -> Secrecy {
    let rest = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix));
    match rest {
        Some(rest) if !CONTINUATIONS.iter().any(|word| rest.starts_with(word)) => Secrecy::Anywhere,
        _ => Secrecy::Harmless,
    }
}

/// What follows the last punctuation: `pass` in `smtp_pass`. Empty in a name of one word.
fn last_word(name: &[u8]) -> &[u8] {
    let mark = name.iter().rposition(|byte| !byte.is_ascii_alphanumeric());
    mark.and_then(|mark| name.get(mark + 1..))
        .unwrap_or_default()
}

pub(super) fn is_content(name: &[u8]) -> bool {
    CONTENT.contains(&Folded::new(name).get())
}

/// Whether a value reaches to the end of its line.
pub(super) fn is_header_line(name: &[u8]) -> bool {
    let folded = Folded::new(name);
    let name = folded.get();
    name.ends_with(b"authorization") || name.ends_with(b"cookie")
}
