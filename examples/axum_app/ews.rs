//! The SOAP of the booking service: an event into a calendar, and the events that are there.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

fn envelope(operation: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\">\
         <s:Header><t:RequestServerVersion Version=\"Exchange2013_SP1\"/></s:Header><s:Body>{operation}</s:Body></s:Envelope>"
    )
}

fn calendar(mailbox: &str) -> String {
    let mailbox = escape(mailbox);
    format!(
        "<t:DistinguishedFolderId Id=\"calendar\"><t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>\
         </t:DistinguishedFolderId>"
    )
}

pub(crate) fn create(mailbox: &str, subject: &str, start: &str, end: &str) -> String {
    let folder = calendar(mailbox);
    let (subject, start, end) = (escape(subject), escape(start), escape(end));
    envelope(&format!(
        "<m:CreateItem SendMeetingInvitations=\"SendToNone\"><m:SavedItemFolderId>{folder}</m:SavedItemFolderId>\
         <m:Items><t:CalendarItem><t:Subject>{subject}</t:Subject><t:Start>{start}</t:Start><t:End>{end}</t:End>\
         </t:CalendarItem></m:Items></m:CreateItem>"
    ))
}

pub(crate) fn find(mailbox: &str) -> String {
    let folder = calendar(mailbox);
    envelope(&format!(
        "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties>\
         <t:FieldURI FieldURI=\"item:Subject\"/></t:AdditionalProperties></m:ItemShape>\
         <m:IndexedPageItemView MaxEntriesReturned=\"100\" Offset=\"0\" BasePoint=\"Beginning\"/>\
         <m:ParentFolderIds>{folder}</m:ParentFolderIds></m:FindItem>"
    ))
}

/// The texts of all elements of this name.
pub(crate) fn texts(soap: &[u8], name: &str) -> Vec<String> {
    let mut reader = Reader::from_reader(soap);
    let (mut found, mut inside) = (Vec::new(), None::<String>);
    loop {
        match reader.read_event() {
            Ok(Event::Start(tag)) if tag.local_name().as_ref() == name.as_bytes() => {
                inside = Some(String::new());
            }
            Ok(Event::Text(text)) => {
                if let (Some(inside), Ok(text)) = (&mut inside, text.decode()) {
                    inside.push_str(&text);
                }
            }
            Ok(Event::GeneralRef(reference)) => {
                let text = reference.decode().ok().and_then(|name| {
                    quick_xml::escape::resolve_predefined_entity(&name).map(str::to_owned)
                });
                if let (Some(inside), Some(text)) = (&mut inside, text) {
                    inside.push_str(&text);
                }
            }
            Ok(Event::End(tag)) if tag.local_name().as_ref() == name.as_bytes() => {
                found.extend(inside.take());
            }
            Ok(Event::Eof) | Err(_) => return found,
            Ok(_) => {}
        }
    }
}
