//! A small namespace-proper XML tree: what the simulator reads requests into and keeps items as.

use quick_xml::NsReader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;

pub(super) const SOAP_NS: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const SOAP12_NS: &str = "http://www.w3.org/2003/05/soap-envelope";
pub(super) const TYPES_NS: &str = "http://schemas.microsoft.com/exchange/services/2006/types";
pub(super) const MESSAGES_NS: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";

/// Elements may be nested this deep: writing and dropping a tree recurse.
const MAX_DEPTH: usize = 100;

/// The namespaces that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ns {
    Soap,
    Types,
    Messages,
    Other,
}

impl Ns {
    fn of(resolved: &ResolveResult<'_>) -> Result<Self, XmlError> {
        match resolved {
            ResolveResult::Bound(ns) => Ok(match ns.as_ref() {
                b if b == SOAP_NS.as_bytes() || b == SOAP12_NS.as_bytes() => Ns::Soap,
                b if b == TYPES_NS.as_bytes() => Ns::Types,
                b if b == MESSAGES_NS.as_bytes() => Ns::Messages,
                _ => Ns::Other,
            }),
            ResolveResult::Unbound => Ok(Ns::Other),
            ResolveResult::Unknown(_) => Err(XmlError::UnknownPrefix),
        }
    }

    /// The prefix that every response declares for it.
    fn prefix(self) -> &'static str {
        match self {
            Ns::Soap => "s:",
            Ns::Types => "t:",
            Ns::Messages => "m:",
            Ns::Other => "",
        }
    }
}

/// Why a text is no document for this server.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum XmlError {
    #[error("a document type declaration is not allowed")]
    Dtd,
    #[error("the text is not UTF-8")]
    Encoding,
    #[error("an undeclared namespace prefix")]
    UnknownPrefix,
    #[error("an unknown entity")]
    UnknownEntity,
    #[error("elements are nested too deep")]
    TooDeep,
    #[error("content outside the root element")]
    OutsideRoot,
    #[error("no well-formed XML")]
    Malformed,
}

impl From<quick_xml::Error> for XmlError {
    fn from(_: quick_xml::Error) -> Self {
        XmlError::Malformed
    }
}

/// An element or a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Element(Element),
    Text(String),
}

/// An element with its resolved namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) ns: Ns,
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) nodes: Vec<Node>,
}

impl Element {
    /// An element of the types namespace with a text.
    pub(super) fn types(name: &str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            ns: Ns::Types,
            name: name.to_owned(),
            attributes: Vec::new(),
            nodes: if text.is_empty() {
                Vec::new()
            } else {
                vec![Node::Text(text)]
            },
        }
    }

    fn start(ns: Ns, start: &BytesStart<'_>) -> Result<Self, XmlError> {
        let name = utf8(start.local_name().as_ref())?.to_owned();
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|_| XmlError::Malformed)?;
            let key = utf8(attribute.key.as_ref())?;
            // Declarations are resolved already; foreign attributes (xsi:type, mustUnderstand) mean
            // nothing here.
            if key == "xmlns" || key.contains(':') {
                continue;
            }
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|_| XmlError::UnknownEntity)?;
            attributes.push((key.to_owned(), value.into_owned()));
        }
        Ok(Self {
            ns,
            name,
            attributes,
            nodes: Vec::new(),
        })
    }

    pub(super) fn is(&self, ns: Ns, name: &str) -> bool {
        self.ns == ns && self.name == name
    }

    pub(super) fn children(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The first child of that local name, in the types or messages namespace.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children()
            .find(|child| child.name == name && matches!(child.ns, Ns::Types | Ns::Messages))
    }

    /// The descendant at the end of a path of local names.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter()
            .try_fold(self, |element, name| element.child(name))
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Its own text, trimmed.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            if let Node::Text(text) = node {
                out.push_str(text);
            }
        }
        out.trim().to_owned()
    }

    /// The trimmed text of a child, if it has one.
    pub(super) fn child_text(&self, name: &str) -> Option<String> {
        self.child(name).map(Element::text)
    }

    /// Calls `visit` for this element and everything below it, in document order.
    pub(super) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Element)) {
        visit(self);
        for child in self.children() {
            child.walk(visit);
        }
    }

    /// Writes it with the prefixes that every response declares. Elements of foreign namespaces are
    /// left out: no part of an item has any.
    pub(super) fn write(&self, out: &mut String) {
        if self.ns == Ns::Other {
            return;
        }
        let prefix = self.ns.prefix();
        out.push('<');
        out.push_str(prefix);
        out.push_str(&self.name);
        for (key, value) in &self.attributes {
            out.push(' ');
            out.push_str(key);
            out.push_str("=\"");
            push_escaped(out, value);
            out.push('"');
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.write(out),
                Node::Text(text) => push_escaped(out, text),
            }
        }
        out.push_str("</");
        out.push_str(prefix);
        out.push_str(&self.name);
        out.push('>');
    }
}

/// Appends `text` so that it can stand in an element or in a double-quoted attribute.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#xD;"),
            // No XML 1.0 character, however it is written.
            c if c < ' ' && c != '\n' && c != '\t' => out.push('\u{FFFD}'),
            '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
}

/// `text` escaped, as its own string.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_escaped(&mut out, text);
    out
}

/// Reads a whole document into a tree.
pub(super) fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = NsReader::from_str(utf8(bytes)?);
    reader.config_mut().expand_empty_elements = false;
    let mut open: Vec<Element> = Vec::new();
    let mut root: Option<Element> = None;
    loop {
        let (resolved, event) = reader.read_resolved_event()?;
        match event {
            Event::Start(start) => {
                if root.is_some() {
                    return Err(XmlError::OutsideRoot);
                }
                if open.len() >= MAX_DEPTH {
                    return Err(XmlError::TooDeep);
                }
                open.push(Element::start(Ns::of(&resolved)?, &start)?);
            }
            Event::Empty(start) => {
                let element = Element::start(Ns::of(&resolved)?, &start)?;
                close(element, &mut open, &mut root)?;
            }
            Event::End(_) => {
                let element = open.pop().ok_or(XmlError::Malformed)?;
                close(element, &mut open, &mut root)?;
            }
            Event::Text(text) => {
                let text = text.xml10_content().map_err(|_| XmlError::Encoding)?;
                push_text(&mut open, &text)?;
            }
            Event::CData(text) => {
                let text = text.xml10_content().map_err(|_| XmlError::Encoding)?;
                if open.is_empty() {
                    return Err(XmlError::OutsideRoot);
                }
                push_text(&mut open, &text)?;
            }
            Event::GeneralRef(reference) => {
                let c = resolve(&reference)?;
                if open.is_empty() {
                    return Err(XmlError::OutsideRoot);
                }
                push_text(&mut open, c.encode_utf8(&mut [0; 4]))?;
            }
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
            Event::DocType(_) => return Err(XmlError::Dtd),
            Event::Eof => break,
        }
    }
    if open.is_empty() {
        root.ok_or(XmlError::Malformed)
    } else {
        Err(XmlError::Malformed)
    }
}

/// What a reference stands for.
fn resolve(reference: &BytesRef<'_>) -> Result<char, XmlError> {
    let name = reference.decode().map_err(|_| XmlError::Encoding)?;
    let number = reference.resolve_char_ref();
    if let Some(c) = number.map_err(|_| XmlError::UnknownEntity)? {
        return Ok(c);
    }
    match name.as_ref() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(XmlError::UnknownEntity),
    }
}

fn close(
    element: Element,
    open: &mut [Element],
    root: &mut Option<Element>,
) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(parent) => parent.nodes.push(Node::Element(element)),
        None if root.is_none() => *root = Some(element),
        None => return Err(XmlError::OutsideRoot),
    }
    Ok(())
}

fn push_text(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        // One text per run, so that blanks around elements cost little and references join.
        Some(parent) => match parent.nodes.last_mut() {
            Some(Node::Text(before)) => before.push_str(text),
            _ => parent.nodes.push(Node::Text(text.to_owned())),
        },
        None if text.trim().is_empty() => {}
        None => return Err(XmlError::OutsideRoot),
    }
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<&str, XmlError> {
    std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resolves_namespaces_not_prefixes() {
        let root = parse(
            format!("<x:Envelope xmlns:x='{SOAP_NS}'><Body xmlns='{TYPES_NS}'>a&amp;b<![CDATA[<]]>&#65;</Body></x:Envelope>").as_bytes(),
        )
        .unwrap();
        assert!(root.is(Ns::Soap, "Envelope"));
        let body = root.child("Body").unwrap();
        assert_eq!(body.ns, Ns::Types);
        assert_eq!(body.text(), "a&b<A");
        let mut out = String::new();
        body.write(&mut out);
        assert_eq!(out, "<t:Body>a&amp;b&lt;A</t:Body>");
    }

    #[test]
    fn refuses_what_is_no_document() {
        let deep = "<a>".repeat(5_000) + &"</a>".repeat(5_000);
        for (text, error) in [
            ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", XmlError::Dtd),
            ("<a>&b;</a>", XmlError::UnknownEntity),
            ("<a/><b/>", XmlError::OutsideRoot),
            ("<a/>text", XmlError::OutsideRoot),
            ("<a", XmlError::Malformed),
            ("<a>", XmlError::Malformed),
            ("<a></b>", XmlError::Malformed),
            ("", XmlError::Malformed),
            ("<p:a/>", XmlError::UnknownPrefix),
            (deep.as_str(), XmlError::TooDeep),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), error, "{:.40}", text);
        }
        assert_eq!(parse(b"<a>\xFF</a>").unwrap_err(), XmlError::Encoding);
        assert!(parse("\u{FEFF}<a/>".as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[<>/!\\[\\]a-c&;#x0-9 =\"':?-]{0,80}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_is_written_reads_back(text in "\\PC{0,40}", value in "\\PC{0,40}") {
            let mut element = Element::types("A", text.clone());
            element.attributes.push(("b".to_owned(), value.clone()));
            let mut out = format!("<t:R xmlns:t='{TYPES_NS}'>");
            element.write(&mut out);
            out.push_str("</t:R>");
            let root = parse(out.as_bytes()).unwrap();
            let read = root.child("A").unwrap();
            prop_assert_eq!(read.text(), text.trim());
            prop_assert_eq!(read.attribute("b"), Some(value.as_str()));
        }
    }
}
