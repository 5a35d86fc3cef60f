//! What has to be known of answers to make one of several: namespaces, lists, ids, and messages of our own.
use std::ops::Range;

use memchr::memrchr;

use super::code::ResponseCode;
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

fn first_element(text: &[u8]) -> Option<Start<'_>> {
    let mut reader = Reader::new(text).ok()?;
    loop {
        match reader.next().ok()? {
            Event::Start(start) => return Some(start),
            Event::End | Event::Eof => return None,
            _ => {}
        }
    }
}

/// Where one of an answer's lists stands, or where it would stand.
#[derive(Debug)]
pub(crate) struct ListAt {
    pub(crate) name: &'static str,
    /// Where the frame breaks off, and what has to be put in there.
    pub(crate) before: usize,
    pub(crate) open: String,
    pub(crate) content: Range<usize>,
    pub(crate) children: Vec<Range<usize>>,
    /// What has to be put in before the frame goes on, and where it does.
    pub(crate) close: String,
    pub(crate) after: usize,
    pub(crate) scope: Scope,
}

type Path = &'static [(&'static str, Namespace)];

/// The lists of an answer that belong to all members together, by their paths from the answer's element on. `*` is any element.
fn paths(operation: Operation) -> &'static [Path] {
    use Namespace::{Messages as M, Types as T};
    match operation.name() {
        "GetServerTimeZones" => &[&[
            ("ResponseMessages", M),
            ("*", M),
            ("TimeZoneDefinitions", M),
        ]],
        // That its entries match the names one by one is not proven.
        "GetServiceConfiguration" => &[&[("ResponseMessages", M)]],
        "GetSharingMetadata" => &[
            &[("EncryptedSharedFolderDataCollection", M)],
            &[("InvalidRecipients", M)],
        ],
        "GetNonIndexableItemStatistics" => &[&[("NonIndexableItemStatistics", M)]],
        "GetImItems" => &[
            &[("ImItemList", M), ("Groups", T)],
            &[("ImItemList", M), ("Personas", T)],
        ],
        "PerformReminderAction" => &[&[("UpdatedItemIds", M)]],
        "GetAppManifests" => &[APPS],
        _ => &[],
    }
}

/// GetAppManifests answers with one list or the other.
const APPS: Path = &[("Apps", Namespace::Messages)];
const MANIFESTS: Path = &[("Manifests", Namespace::Messages)];

/// The paths of the lists that this answer has, where an operation can answer with one or another. None if it has both.
fn paths_in(operation: Operation, body: &[u8]) -> Option<&'static [Path]> {
    let usual = paths(operation);
    if usual != [APPS] {
        return Some(usual);
    }
    let has = |path| Some(matches!(place(body, path).ok()?, Place::Found { .. }));
    match (has(APPS)?, has(MANIFESTS)?) {
        (true, true) => None,
        (false, true) => Some(&[MANIFESTS]),
        _ => Some(usual),
    }
}

/// Whether an operation answers with lists for all members together.
pub(crate) fn answers_with_lists(operation: Operation) -> bool {
    !paths(operation).is_empty()
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

enum Place {
    Found {
        element: Range<usize>,
        content: Range<usize>,
        children: Vec<Range<usize>>,
        /// The name of an element without an end tag.
        empty: Option<String>,
    },
    /// The elements of the path from `depth` on are missing; they would stand in place of this range.
    Missing { depth: usize, at: Range<usize> },
}

/// Finds the lists of an answer. None if it is no answer that could have them.
pub(crate) fn lists(operation: Operation, body: &[u8]) -> Option<Vec<ListAt>> {
    let paths = paths_in(operation, body)?;
    let places: Result<Vec<Place>, OutlineError> =
        paths.iter().map(|path| place(body, path)).collect();
    let mut places = places.ok()?;
    if paths == [APPS] {
        for place in &mut places {
            leave_metadata(body, place)?;
        }
    }
    let mut lists: Vec<ListAt> = Vec::new();
    // The path of the list before, as far as it was opened by us and is not closed yet.
    let mut opened: &[(&str, Namespace)] = &[];
    for (index, (path, place)) in paths.iter().zip(&places).enumerate() {
        let name = path.last().map(|(name, _)| *name)?;
        let (depth, at) = match place {
            Place::Found {
                element,
                content,
                children,
                empty,
            } => {
                let list = match empty {
                    None => ListAt {
                        name,
                        before: content.start,
                        open: String::new(),
                        content: content.clone(),
                        children: children.clone(),
                        close: String::new(),
                        after: content.end,
                        scope: body.get(..content.start).map(Scope::behind)?,
                    },
                    Some(tag) => ListAt {
                        name,
                        before: element.end.checked_sub(2)?,
                        open: ">".to_owned(),
                        content: element.end..element.end,
                        children: Vec::new(),
                        close: format!("</{tag}>"),
                        after: element.end,
                        scope: Scope::behind(&[body.get(..element.end - 2)?, b">"].concat()),
                    },
                };
                lists.push(list);
                continue;
            }
            Place::Missing { depth, at } => (*depth, at.clone()),
        };
        let later =
            places
                .get(index + 1..)
                .unwrap_or_default()
                .iter()
                .find_map(|place| match place {
                    Place::Found { element, .. } => Some(element.start..element.start),
                    Place::Missing { .. } => None,
                });
        let at = later.unwrap_or(at);
        let at = match lists.last() {
            Some(before) => at.start.max(before.after)..at.end.max(before.after),
            None => at,
        };
        let own = path.get(depth..)?;
        let shared = own.len().saturating_sub(1).min(opened.len());
        let mut open = String::new();
        for (name, namespace) in own.get(shared..)? {
            open.push_str(&format!("<ews:{name} xmlns:ews=\"{}\">", namespace.uri()));
        }
        // The elements around it stay open if the next list is missing in them too.
        let next = paths.get(index + 1).zip(places.get(index + 1));
        let stays = match next {
            Some((next, Place::Missing { depth: other, .. })) if *other == depth => {
                let next = next.get(depth..)?;
                let pairs = own.iter().zip(next);
                pairs
                    .take_while(|(own, next)| own == next)
                    .count()
                    .min(own.len() - 1)
            }
            _ => 0,
        };
        let mut close = String::new();
        for (name, _) in own.get(stays..)?.iter().rev() {
            close.push_str(&format!("</ews:{name}>"));
        }
        opened = own.get(..stays)?;
        lists.push(ListAt {
            name,
            before: at.start,
            open,
            content: at.start..at.start,
            children: Vec::new(),
            close,
            after: at.end,
            scope: body.get(..at.start).map(Scope::behind)?,
        });
    }
    // The frame goes on where it broke off: lists in another order than ours are not known.
    let ascend = |pair: &[ListAt]| matches!(pair, [one, next] if one.after <= next.before);
    lists.windows(2).all(ascend).then_some(lists)
}

/// Leaves `Metadata` behind the last App, which speaks of the mailbox, to the frame. None if it stands elsewhere.
fn leave_metadata(body: &[u8], place: &mut Place) -> Option<()> {
    let Place::Found {
        content, children, ..
    } = place
    else {
        return Some(());
    };
    let is_metadata = |child: &Range<usize>| {
        let start = body.get(child.clone()).and_then(first_element);
        start.is_some_and(|start| start.local == b"Metadata")
    };
    if children.last().is_some_and(is_metadata) {
        content.end = children.pop()?.start;
    }
    (!children.iter().any(is_metadata)).then_some(())
}

/// Goes down a path from the answer's element.
fn place(body: &[u8], path: Path) -> Result<Place, OutlineError> {
    let missing = || OutlineError::NotSoap {
        expected: "an answer",
        at: 0,
    };
    let mut reader = Reader::new(body)?;
    for name in ["Envelope", "Body", "*"] {
        let found = find(&mut reader, name)?.filter(|found| !found.empty);
        found.ok_or_else(missing)?;
    }
    for (depth, (name, _)) in path.iter().enumerate() {
        let Some(found) = find(&mut reader, name)? else {
            // Behind the end tag, in which there is no other `<`.
            let end = body.get(..reader.position()).unwrap_or(body);
            let at = memrchr(b'<', end).ok_or_else(missing)?;
            return Ok(Place::Missing { depth, at: at..at });
        };
        let last = depth + 1 == path.len();
        if found.empty && !last {
            return Ok(Place::Missing {
                depth,
                at: found.at..found.end,
            });
        }
        if found.empty {
            let name = body.get(found.at + 1..found.end - 2 - found.attributes.len());
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            return Ok(Place::Found {
                element: found.at..found.end,
                content: found.end..found.end,
                children: Vec::new(),
                empty: Some(name),
            });
        }
        if last {
            let (end, children, _) = reader.members()?;
            return Ok(Place::Found {
                element: found.at..end.end,
                content: found.end..end.start,
                children: children.into_vec(),
                empty: None,
            });
        }
    }
    Err(missing())
}

fn find<'a>(reader: &mut Reader<'a>, name: &str) -> Result<Option<Start<'a>>, OutlineError> {
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
