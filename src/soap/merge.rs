//! What has to be known of responses to make one of several: namespaces, ids, and messages of our
//! own.
use super::code::ResponseCode;
use super::elements::{find, skip};
use super::lists::responds_with_lists;
use super::operation::{Namespace, Operation, PerMember, ResponseLayout};
use super::xml::{Event, Reader};

/// How many characters of an unexpected element's name are kept.
const MAX_NAME: usize = 80;

/// Whether it can be told what a response has for each member, or which lists it has.
pub(crate) fn can_be_merged(operation: Operation) -> bool {
    responds_with_lists(operation)
        || matches!(
            (
                operation.response_layout(),
                operation.one_response_per_member()
            ),
            (
                ResponseLayout::ResponseMessages
                    | ResponseLayout::ItselfAndEntries
                    | ResponseLayout::FreeBusy,
                PerMember::Yes | PerMember::OwnLayout
            )
        )
}

/// The name of the element that a response has in place of the operation's own, by `head`, its beginning. `None` if that one
/// stands there, or nothing.
pub(crate) fn other_response(operation: Operation, head: &[u8]) -> Option<String> {
    let mut reader = Reader::new(head).ok()?;
    for name in ["Envelope", "Body"] {
        find(&mut reader, name).ok()?.filter(|found| !found.empty)?;
    }
    let own = operation.response_element()?;
    loop {
        let element = find(&mut reader, "*").ok()??;
        if element.local != own.as_bytes() {
            let name = String::from_utf8_lossy(element.local);
            return Some(name.chars().take(MAX_NAME).collect());
        }
        skip(&mut reader, &element).ok()?;
    }
}

/// The new change key that an entry has for the item of the request: that of the parent for
/// CreateAttachment, else of the first id.
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

/// Whether entries of the operation's responses name their members.
pub(crate) fn entries_have_ids(operation: Operation) -> bool {
    operation == Operation::EXPORT_ITEMS || operation.name() == "GetMailTips"
}

/// An entry of our own, in error, with namespaces of its own, so that it can stand in any response
/// to the operation. None for an operation whose responses have no entries for single members.
pub(crate) fn error_entry(operation: Operation, code: &ResponseCode, text: &str) -> Option<String> {
    if responds_with_lists(operation) {
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
    if operation.response_layout() == ResponseLayout::FreeBusy {
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

    #[test]
    fn the_response_to_something_else() {
        let long = format!("<m:{}>", "x".repeat(1000));
        for (inside, expected) in [
            ("<m:GetItemResponse a='b'>", None),
            ("<GetItemResponse/>", None),
            ("", None),
            ("<m:GetFolderResponse>", Some("GetFolderResponse")),
            ("<!-- --><m:GetItem/>", Some("GetItem")),
            ("<m:getitemresponse>", Some("getitemresponse")),
            ("<GetItemResponse><a/></GetItemResponse><b/>", Some("b")),
            (&*long, Some(&*"x".repeat(80))),
        ] {
            for envelope in [
                "<s:Envelope><s:Body>",
                "\u{feff}<?xml version='1.0'?><Envelope><Header><a/></Header><Body>",
            ] {
                let found = other_response(
                    Operation::GET_ITEM,
                    format!("{envelope}{inside}").as_bytes(),
                );
                assert_eq!(found.as_deref(), expected, "{envelope}{inside}");
            }
        }
        for nothing in [
            "",
            "<Envelope>",
            "<Envelope/>",
            "<Envelope><Body/></Envelope>",
            "<Envelope><Header/></Envelope>",
        ] {
            assert_eq!(
                other_response(Operation::GET_ITEM, nothing.as_bytes()),
                None,
                "{nothing}"
            );
        }
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
