//! What has to be known of answers to make one of several: namespaces, ids, and messages of our own.
use super::code::ResponseCode;
use super::lists::answers_with_lists;
use super::operation::{Namespace, Operation, PerMember, ResponseShape};
use super::outline::{OutlineError, child};
use super::xml::{Event, Reader, Start, attributes};

/// Namespace declarations that hold at a place: prefix (empty for the default) and the name, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scope(Vec<(Vec<u8>, Vec<u8>)>);

impl Scope {
    /// What holds behind `head`, the beginning of a document.
    pub(crate) fn behind(head: &[u8]) -> Scope {
        let mut open: Vec<usize> = Vec::new();
        let mut declared: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let Ok(mut reader) = Reader::new(head) else {
            return Scope::default();
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
        let mut scope = Scope::default();
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

    /// What has to be declared anew where something that stood in this scope is put into another one.
    pub(crate) fn moved_to(&self, other: &Scope) -> Scope {
        let mut missing: Vec<_> = self
            .0
            .iter()
            .filter(|(prefix, uri)| other.get(prefix) != Some(uri))
            .cloned()
            .collect();
        if self.get(b"").is_none() && other.get(b"").is_some() {
            missing.push((Vec::new(), Vec::new()));
        }
        Scope(missing)
    }

    /// This scope with the default namespace taken back if there is none, for something that can be put anywhere.
    pub(crate) fn anywhere(&self) -> Scope {
        let mut all = self.clone();
        if all.get(b"").is_none() {
            all.0.push((Vec::new(), Vec::new()));
        }
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is to be put into the start tag of `element`, and where. Prefixes that it declares itself are left out.
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

pub(super) fn first_element(text: &[u8]) -> Option<Start<'_>> {
    let mut reader = Reader::new(text).ok()?;
    loop {
        match reader.next().ok()? {
            Event::Start(start) => return Some(start),
            Event::End | Event::Eof => return None,
            _ => {}
        }
    }
}

/// Whether it can be told what an answer has for each member, or which lists it has.
pub(crate) fn can_be_merged(operation: Operation) -> bool {
    answers_with_lists(operation)
        || matches!(
            (
                operation.response_shape(),
                operation.one_response_per_member()
            ),
            (
                ResponseShape::ResponseMessages
                    | ResponseShape::ItselfAndEntries
                    | ResponseShape::FreeBusy,
                PerMember::Yes | PerMember::OwnShape
            )
        )
}

pub(super) fn find<'a>(
    reader: &mut Reader<'a>,
    name: &str,
) -> Result<Option<Start<'a>>, OutlineError> {
    while let Some(start) = child(reader)? {
        if name == "*" || start.local == name.as_bytes() {
            return Ok(Some(start));
        }
        if !start.empty {
            reader.skip()?;
        }
    }
    Ok(None)
}

/// The new change key that an entry has for the item of the request: that of the parent for CreateAttachment, else of the first id.
pub(crate) fn new_change_key(operation: Operation, entry: &[u8]) -> Option<Vec<u8>> {
    let attribute = match operation {
        Operation::CREATE_ATTACHMENT => "RootItemChangeKey",
        _ => "ChangeKey",
    };
    let mut reader = Reader::new(entry).ok()?;
    let mut depth = 0_u32;
    loop {
        match reader.next().ok()? {
            Event::Start(start) => {
                if matches!(start.local, b"AttachmentId" | b"ItemId" | b"FolderId") {
                    if let Some(key) = start.attribute(attribute) {
                        return Some(key.to_vec());
                    }
                }
                depth += u32::from(!start.empty);
            }
            Event::End if depth <= 1 => return None,
            Event::End => depth -= 1,
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// The id by which an entry names its member, where the operation's entries do.
pub(crate) fn entry_id(operation: Operation, entry: &[u8]) -> Option<String> {
    let mut reader = Reader::new(entry).ok()?;
    find(&mut reader, "*").ok()?.filter(|entry| !entry.empty)?;
    match operation.name() {
        "ExportItems" => {
            let id = find(&mut reader, "ItemId").ok()??;
            reader.value(&id, "Id").ok()?.map(Into::into)
        }
        "GetMailTips" => {
            for name in ["MailTips", "RecipientAddress"] {
                find(&mut reader, name).ok()?.filter(|part| !part.empty)?;
            }
            let address = find(&mut reader, "EmailAddress").ok()??;
            reader.text(&address).ok().map(|text| text.to_lowercase())
        }
        _ => None,
    }
}

/// Whether entries of the operation's answers name their members.
pub(crate) fn entries_have_ids(operation: Operation) -> bool {
    operation == Operation::EXPORT_ITEMS || operation.name() == "GetMailTips"
}

/// An entry of our own, in error, with namespaces of its own, so that it can stand in any answer to the operation. None for an
/// operation whose answers have no entries for single members.
pub(crate) fn error_entry(operation: Operation, code: &ResponseCode, text: &str) -> Option<String> {
    if answers_with_lists(operation) {
        return None;
    }
    let entry = operation.entry_element()?;
    // XML has no place for most control characters, not even escaped.
    let text: String = text
        .chars()
        .map(|c| match c {
            '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => c,
            _ => '\u{fffd}',
        })
        .collect();
    let text = quick_xml::escape::escape(&text);
    let code = quick_xml::escape::escape(code.as_str());
    let message = format!(
        "<m:MessageText>{text}</m:MessageText><m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>"
    );
    let namespace = Namespace::Messages.uri();
    if operation.response_shape() == ResponseShape::FreeBusy {
        return Some(format!(
            "<m:{entry} xmlns:m=\"{namespace}\"><m:ResponseMessage ResponseClass=\"Error\">{message}</m:ResponseMessage></m:{entry}>"
        ));
    }
    // What the types of these entries cannot be without.
    let more = match operation.name() {
        "GetItem" | "CreateItem" | "UpdateItem" | "MoveItem" | "CopyItem" | "ArchiveItem" => {
            "<m:Items/>"
        }
        "CreateAttachment" | "GetAttachment" => "<m:Attachments/>",
        _ => "",
    };
    Some(format!(
        "<m:{entry} xmlns:m=\"{namespace}\" ResponseClass=\"Error\">{message}{more}</m:{entry}>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(from: &str, to: &str, element: &str) -> String {
        let (from, to) = (Scope::behind(from.as_bytes()), Scope::behind(to.as_bytes()));
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
        let broken = Scope::behind(b"<a xmlns:x='1'></b>");
        assert!(!broken.is_empty());
    }

    #[test]
    fn new_change_keys() {
        let of = |operation, entry: &str| {
            new_change_key(operation, entry.as_bytes()).map(|key| String::from_utf8(key).unwrap())
        };
        let entry = "<m><Items><Message><ItemId Id='a' ChangeKey='k'/></Message></Items></m>";
        assert_eq!(of(Operation::UPDATE_ITEM, entry).as_deref(), Some("k"));
        assert_eq!(of(Operation::CREATE_ATTACHMENT, entry), None);
        assert_eq!(
            of(
                Operation::UPDATE_ITEM,
                "<m><Items/></m><m><ItemId ChangeKey='k'/></m>"
            ),
            None
        );
        assert_eq!(of(Operation::UPDATE_ITEM, "<m"), None);
    }
}
