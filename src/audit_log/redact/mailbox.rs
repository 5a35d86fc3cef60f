//! Pseudonyms of mailboxes. The same address and key make the same pseudonym.

use std::borrow::Cow;
use std::ops::Range;

use siphasher::sip::SipHasher24;

use super::edit::{Edits, REDACTED};

/// What follows an `@` in OData's JSON and is not a domain.
const ANNOTATIONS: [&[u8]; 16] = [
    b"odata.type",
    b"odata.context",
    b"odata.nextlink",
    b"odata.deltalink",
    b"odata.id",
    b"odata.etag",
    b"odata.count",
    b"odata.bind",
    b"odata.editlink",
    b"odata.readlink",
    b"odata.navigationlink",
    b"odata.associationlink",
    b"odata.mediacontenttype",
    b"odata.mediaeditlink",
    b"odata.mediareadlink",
    b"odata.mediaetag",
];

/// The ways in which `@` is written.
const AT: [&[u8]; 5] = [b"@", b"%40", b"&#64;", b"&#x40;", b"\\u0040"];

pub(super) fn pseudonym(key: &[u8; 16], mailbox: &[u8]) -> String {
    let lower = match std::str::from_utf8(mailbox) {
        Ok(text) => text.trim().to_lowercase().into_bytes(),
        Err(_) => mailbox.trim_ascii().to_ascii_lowercase(),
    };
    // A keyed pseudo-random function: without the key, a list of all addresses tells nothing.
    format!("mbx-{:016x}", SipHasher24::new_with_key(key).hash(&lower))
}

fn in_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || byte >= 0x80
        || matches!(
            byte,
            b'.' | b'_' | b'+' | b'-' | b'\'' | b'~' | b'!' | b'$' | b'*' | b'^'
        )
}

fn in_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'.' | b'-')
}

/// Replaces each SMTP address by its pseudonym. `cut` says that the end may be half an address.
pub(super) fn redact<'a>(key: &[u8; 16], input: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
    let mut edits = Edits::default();
    let mut done = 0;
    let mut at = 0;
    while let Some((sign, length)) = next_at(input, at) {
        let local = local_part(input, done..sign);
        let domain = domain(input, sign + length);
        at = domain.end;
        let is_annotation = ANNOTATIONS.iter().any(|known| {
            input
                .get(domain.clone())
                .is_some_and(|domain| domain.eq_ignore_ascii_case(known))
        });
        done = at;
        // User information of a URL, redacted before.
        let userinfo = input.get(local.clone()) == Some(REDACTED);
        if userinfo
            || local.is_empty()
            || is_annotation
            || domain.is_empty() && !(cut && at == input.len())
        {
            continue;
        }
        let mut address = decode_local(input.get(local.clone()).unwrap_or_default());
        address.push(b'@');
        address.extend_from_slice(input.get(domain.clone()).unwrap_or_default());
        edits.replace(local.start..at, pseudonym(key, &address).into_bytes());
    }
    if cut {
        let last = local_part(input, done..input.len());
        edits.redact(last);
    }
    edits.apply(input)
}

/// Returns the place of the next `@`, and its length as written.
fn next_at(input: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        let rest = input.get(at..)?;
        let found = rest
            .iter()
            .position(|byte| matches!(byte, b'@' | b'%' | b'&' | b'\\'))?;
        at += found;
        let rest = input.get(at..)?;
        if let Some(sign) = AT.iter().find(|sign| rest.starts_with(sign)) {
            return Some((at, sign.len()));
        }
        at += 1;
    }
}

/// Returns the local part, in front of an `@` at the end of `within`.
fn local_part(input: &[u8], within: Range<usize>) -> Range<usize> {
    let text = input.get(within.clone()).unwrap_or_default();
    let mut start = text.len();
    while let Some((&byte, before)) = text.get(..start).and_then(<[u8]>::split_last) {
        if !in_local(byte) {
            break;
        }
        // `%2B` belongs to it. The last two letters of `%3C` do not.
        let escape = text.get(start.saturating_sub(3)..start).unwrap_or_default();
        match unescape(escape) {
            Some(plain) if in_local(plain) => start -= 3,
            Some(_) => break,
            None => start = before.len(),
        }
    }
    let quotes = text
        .get(start..)
        .unwrap_or_default()
        .iter()
        .take_while(|byte| matches!(byte, b'\'' | b'.' | b'*' | b'!'))
        .count();
    within.start + start + quotes..within.end
}

fn unescape(escape: &[u8]) -> Option<u8> {
    let digits = escape
        .strip_prefix(b"%")
        .filter(|digits| digits.len() == 2)?;
    let digits = std::str::from_utf8(digits).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

fn decode_local(local: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(local.len());
    let mut at = 0;
    while let Some(&byte) = local.get(at) {
        match local.get(at..at + 3).and_then(unescape) {
            Some(escaped) => {
                plain.push(escaped);
                at += 3;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}

fn domain(input: &[u8], start: usize) -> Range<usize> {
    let rest = input.get(start..).unwrap_or_default();
    let mut length = rest
        .iter()
        .position(|&byte| !in_domain(byte))
        .unwrap_or(rest.len());
    while length > 0 && matches!(rest.get(length - 1), Some(b'.' | b'-')) {
        length -= 1;
    }
    start..start + length
}
