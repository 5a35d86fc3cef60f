//! The namespaces that are declared around a place in a response, and how they go with what is
//! moved elsewhere.
use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::elements::first_element;
use super::outline_error::OutlineError;
use super::xml::{Event, Reader, Start, attributes};

/// The most bytes of prefixes and names that are kept of a place. Exchange has some 350, and each
/// message that moves may have to repeat them.
const MAX_BYTES: usize = 4 * 1024;

/// Namespace declarations that hold at a place: prefix (empty for the default) and the name, as it
/// is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces(BTreeMap<Vec<u8>, Vec<u8>>);

/// What has to be declared in something that moves from one place to another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Missing {
    namespaces: Namespaces,
    /// All of it as attributes, shared by the elements that it is put into.
    text: Bytes,
}

impl Namespaces {
    /// Returns what holds behind `head`, the beginning of a document; `None` if that is more than is
    /// kept.
    pub(crate) fn behind(head: &[u8]) -> Option<Namespaces> {
        let mut open: Vec<usize> = Vec::new();
        let mut declared: Vec<(&[u8], &[u8])> = Vec::new();
        let Ok(mut reader) = Reader::new(head) else {
            return Some(Namespaces::default());
        };
        loop {
            match reader.next() {
                Ok(Event::Start(start)) if !start.empty => {
                    open.push(declared.len());
                    declared.extend(declarations(&start));
                }
                Ok(Event::End) => declared.truncate(open.pop().unwrap_or_default()),
                Err(OutlineError::TooDeep { .. }) => return None,
                // It ends inside of elements, and so with an error.
                Ok(Event::Eof) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // The innermost one of a prefix counts.
        let mut scope: BTreeMap<&[u8], &[u8]> = declared.into_iter().collect();
        // No default namespace is the same as an empty one.
        scope.retain(|prefix, uri| !prefix.is_empty() || !uri.is_empty());
        let bytes: usize = scope
            .iter()
            .map(|(prefix, uri)| prefix.len() + uri.len())
            .sum();
        let owned = scope
            .into_iter()
            .map(|(prefix, uri)| (prefix.to_vec(), uri.to_vec()));
        (bytes <= MAX_BYTES).then(|| Namespaces(owned.collect()))
    }

    fn get(&self, prefix: &[u8]) -> Option<&[u8]> {
        self.0.get(prefix).map(|uri| &**uri)
    }

    /// What has to be declared anew where something that stood in this scope is put into another
    /// one.
    pub(crate) fn moved_to(&self, other: &Namespaces) -> Missing {
        let all = self.0.iter();
        let missing = all.filter(|(prefix, uri)| other.get(prefix) != Some(uri));
        let missing = missing.map(|(prefix, uri)| (prefix.clone(), uri.clone()));
        let mut missing = Namespaces(missing.collect());
        if self.get(b"").is_none() && other.get(b"").is_some() {
            missing.0.insert(Vec::new(), Vec::new());
        }
        Missing::new(missing)
    }

    /// This scope with the default namespace taken back if there is none, for something that can be
    /// put anywhere.
    pub(crate) fn anywhere(&self) -> Missing {
        let mut all = self.clone();
        all.0.entry(Vec::new()).or_default();
        Missing::new(all)
    }
}

impl Missing {
    fn new(namespaces: Namespaces) -> Missing {
        let all = namespaces.0.iter();
        let text = all.flat_map(|(prefix, uri)| attribute(prefix, uri));
        Missing {
            text: text.collect(),
            namespaces,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.namespaces.0.is_empty()
    }

    /// What is to be put into the start tag of `element`, and where. Prefixes that it declares
    /// itself are left out.
    pub(crate) fn declaration(&self, element: &[u8]) -> Option<(usize, Bytes)> {
        let start = first_element(element)?;
        let inner = start.end.checked_sub(if start.empty { 2 } else { 1 })?;
        let at = inner.checked_sub(start.attributes.len())?;
        let own: HashSet<&[u8]> = declarations(&start).map(|(prefix, _)| prefix).collect();
        if own.is_empty() {
            return Some((at, self.text.clone()));
        }
        let all = self.namespaces.0.iter();
        let others = all.filter(|(prefix, _)| !own.contains(&***prefix));
        let text = others.flat_map(|(prefix, uri)| attribute(prefix, uri));
        Some((at, text.collect()))
    }
}

/// A declaration as it stands in a start tag.
fn attribute(prefix: &[u8], uri: &[u8]) -> Vec<u8> {
    let name: &[u8] = if prefix.is_empty() {
        b" xmlns"
    } else {
        b" xmlns:"
    };
    let quote: &[u8] = if uri.contains(&b'"') { b"'" } else { b"\"" };
    [name, prefix, b"=", quote, uri, quote].concat()
}

fn declarations<'a>(start: &Start<'a>) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
    attributes(start.attributes).filter_map(|(key, value)| match key.strip_prefix(b"xmlns")? {
        [] => Some((&[][..], value)),
        [b':', prefix @ ..] => Some((prefix, value)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(from: &str, to: &str, element: &str) -> String {
        let (from, to) = (
            Namespaces::behind(from.as_bytes()).unwrap(),
            Namespaces::behind(to.as_bytes()).unwrap(),
        );
        let missing = from.moved_to(&to);
        let Some((at, text)) = missing.declaration(element.as_bytes()) else {
            return "no element".to_owned();
        };
        let text = std::str::from_utf8(&text).unwrap();
        format!("{}{text}{}", &element[..at], &element[at..])
    }

    #[test]
    fn namespaces_go_with_what_moves() {
        for (from, to, element, expected) in [
            ("<a xmlns:x='1'>", "<b xmlns:x='1'>", "<x:e/>", "<x:e/>"),
            ("<a xmlns:x='1'>", "<b>", "<x:e/>", "<x:e xmlns:x=\"1\"/>"),
            (
                "<a xmlns:x='1'>",
                "<b xmlns:x='2'>",
                "<x:e a='b'>",
                "<x:e xmlns:x=\"1\" a='b'>",
            ),
            // The innermost declaration counts, and only while its element is open.
            (
                "<a xmlns:x='1'><b xmlns:x='2'><c xmlns:x='3'></c><d xmlns:x='4'/>",
                "<b>",
                "<e>",
                "<e xmlns:x=\"2\">",
            ),
            ("<a xmlns='1'>", "<b>", "<e >", "<e xmlns=\"1\" >"),
            ("<a>", "<b xmlns='1'>", "<e>", "<e xmlns=\"\">"),
            ("<a xmlns='1'><b xmlns=''>", "<b>", "<e>", "<e>"),
            // What it declares itself is not declared twice.
            (
                "<a xmlns:x='1' xmlns='2'>",
                "<b>",
                "<x:e xmlns:x='3'>",
                "<x:e xmlns=\"2\" xmlns:x='3'>",
            ),
            ("<a xmlns:x='\"'>", "<b>", "<e>", "<e xmlns:x='\"'>"),
            (
                "<a xmlns:x='1'>",
                "<b>",
                "<!-- --><e>",
                "<!-- --><e xmlns:x=\"1\">",
            ),
            ("<a xmlns:x='1'>", "<b>", "text", "no element"),
        ] {
            assert_eq!(declared(from, to, element), expected, "{from} {to}");
        }
        let broken = Namespaces::behind(b"<a xmlns:x='1'></b>").unwrap();
        assert_eq!(broken.get(b"x"), Some(&b"1"[..]));
    }

    #[test]
    fn what_is_repeated_in_each_message_is_bounded_and_shared() {
        let head = |count: usize, uri: usize| {
            let all = (0..count).map(|at| format!(" xmlns:p{at}='{}'", "u".repeat(uri)));
            format!("<a{}>", all.collect::<String>())
        };
        for (count, uri, kept) in [
            (20, 60, true),
            (100, 60, false),
            (1, 5000, false),
            (2000, 1, false),
        ] {
            let scope = Namespaces::behind(head(count, uri).as_bytes());
            assert_eq!(scope.is_some(), kept, "{count} of {uri}");
        }
        let scope = Namespaces::behind(head(20, 60).as_bytes()).unwrap();
        let missing = scope.moved_to(&Namespaces::default());
        let (_, one) = missing.declaration(b"<p1:e/>").unwrap();
        let (_, other) = missing.declaration(b"<p2:e a='b'>").unwrap();
        assert_eq!(one.as_ptr(), other.as_ptr());
    }
}
