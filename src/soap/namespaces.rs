//! The namespaces that are declared around a place in a response, and how they go with what is
//! moved elsewhere.
use super::elements::first_element;
use super::xml::{Event, Reader, Start, attributes};

/// Namespace declarations that hold at a place: prefix (empty for the default) and the name, as it
/// is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces(Vec<(Vec<u8>, Vec<u8>)>);

impl Namespaces {
    /// What holds behind `head`, the beginning of a document.
    pub(crate) fn behind(head: &[u8]) -> Namespaces {
        let mut open: Vec<usize> = Vec::new();
        let mut declared: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let Ok(mut reader) = Reader::new(head) else {
            return Namespaces::default();
        };
        // It ends inside of elements, and so with an error.
        while let Ok(event) = reader.next() {
            match event {
                Event::Start(start) if !start.empty => {
                    open.push(declared.len());
                    let own = declarations(&start);
                    declared.extend(own.map(|(prefix, uri)| (prefix.to_vec(), uri.to_vec())));
                }
                Event::End => declared.truncate(open.pop().unwrap_or_default()),
                Event::Eof => break,
                _ => {}
            }
        }
        let mut scope = Namespaces::default();
        for (prefix, uri) in declared.into_iter().rev() {
            if scope.get(&prefix).is_none() {
                scope.0.push((prefix, uri));
            }
        }
        // No default namespace is the same as an empty one.
        scope
            .0
            .retain(|(prefix, uri)| !prefix.is_empty() || !uri.is_empty());
        scope
    }

    fn get(&self, prefix: &[u8]) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(other, _)| other == prefix)
            .map(|(_, uri)| &**uri)
    }

    /// What has to be declared anew where something that stood in this scope is put into another
    /// one.
    pub(crate) fn moved_to(&self, other: &Namespaces) -> Namespaces {
        let mut missing: Vec<_> = self
            .0
            .iter()
            .filter(|(prefix, uri)| other.get(prefix) != Some(uri))
            .cloned()
            .collect();
        if self.get(b"").is_none() && other.get(b"").is_some() {
            missing.push((Vec::new(), Vec::new()));
        }
        Namespaces(missing)
    }

    /// This scope with the default namespace taken back if there is none, for something that can be
    /// put anywhere.
    pub(crate) fn anywhere(&self) -> Namespaces {
        let mut all = self.clone();
        if all.get(b"").is_none() {
            all.0.push((Vec::new(), Vec::new()));
        }
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be put into the start tag of `element`, and where. Prefixes that it declares
    /// itself are left out.
    pub(crate) fn declaration(&self, element: &[u8]) -> Option<(usize, Vec<u8>)> {
        let start = first_element(element)?;
        let inner = start.end.checked_sub(if start.empty { 2 } else { 1 })?;
        let at = inner.checked_sub(start.attributes.len())?;
        let mut text = Vec::new();
        for (prefix, uri) in &self.0 {
            if declarations(&start).any(|(own, _)| own == prefix) {
                continue;
            }
            text.extend_from_slice(b" xmlns");
            if !prefix.is_empty() {
                text.push(b':');
                text.extend_from_slice(prefix);
            }
            let quote = if uri.contains(&b'"') { b'\'' } else { b'"' };
            text.extend_from_slice(&[b'=', quote]);
            text.extend_from_slice(uri);
            text.push(quote);
        }
        Some((at, text))
    }
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
            Namespaces::behind(from.as_bytes()),
            Namespaces::behind(to.as_bytes()),
        );
        let missing = from.moved_to(&to);
        let Some((at, text)) = missing.declaration(element.as_bytes()) else {
            return "no element".to_owned();
        };
        let text = String::from_utf8(text).unwrap();
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
        let broken = Namespaces::behind(b"<a xmlns:x='1'></b>");
        assert!(!broken.is_empty());
    }
}
