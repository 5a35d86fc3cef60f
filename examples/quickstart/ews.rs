//! The SOAP of the job, as a caller of EWS would write and read it.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::{BytesStart, Event};

use crate::args::Access;

/// Rows of a page when the events are counted: what Exchange allows a search with a restriction.
pub(crate) const PAGE: usize = 250;

const TIMES: &str = "\
<t:Start>2030-01-07T09:00:00Z</t:Start><t:End>2030-01-07T09:30:00Z</t:End>\
<t:LegacyFreeBusyStatus>Free</t:LegacyFreeBusyStatus>";

/// Events in the calendar of `mailbox`.
pub(crate) fn create_item(access: Access, mailbox: &str, subjects: &[String]) -> String {
    let folder = calendar(access, mailbox);
    let items: String = subjects
        .iter()
        .map(|subject| {
            let subject = escape(subject);
            format!(
                "<t:CalendarItem><t:Subject>{subject}</t:Subject><t:ReminderIsSet>false</t:ReminderIsSet>\
                 {TIMES}</t:CalendarItem>"
            )
        })
        .collect();
    let operation = format!(
        "<m:CreateItem SendMeetingInvitations=\"SendToNone\">\
         <m:SavedItemFolderId>{folder}</m:SavedItemFolderId><m:Items>{items}</m:Items></m:CreateItem>"
    );
    envelope(access, mailbox, &operation)
}

/// Looks whether the calendar of `mailbox` is there.
pub(crate) fn get_folder(access: Access, mailbox: &str) -> String {
    let folder = calendar(access, mailbox);
    let operation = format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>\
         <m:FolderIds>{folder}</m:FolderIds></m:GetFolder>"
    );
    envelope(access, mailbox, &operation)
}

/// One page of the events whose subjects begin with `prefix`.
pub(crate) fn find_item(access: Access, mailbox: &str, prefix: &str, offset: usize) -> String {
    let folder = calendar(access, mailbox);
    let prefix = escape(prefix);
    let operation = format!(
        "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape>\
         <t:AdditionalProperties><t:FieldURI FieldURI=\"item:Subject\"/></t:AdditionalProperties></m:ItemShape>\
         <m:IndexedPageItemView MaxEntriesReturned=\"{PAGE}\" Offset=\"{offset}\" BasePoint=\"Beginning\"/>\
         <m:Restriction><t:Contains ContainmentMode=\"Prefixed\" ContainmentComparison=\"IgnoreCase\">\
         <t:FieldURI FieldURI=\"item:Subject\"/><t:Constant Value=\"{prefix}\"/></t:Contains></m:Restriction>\
         <m:ParentFolderIds>{folder}</m:ParentFolderIds></m:FindItem>"
    );
    envelope(access, mailbox, &operation)
}

/// By delegate access the folder names its mailbox; an impersonated owner's calendar is the only one there is.
fn calendar(access: Access, mailbox: &str) -> String {
    match access {
        Access::Delegate => format!(
            "<t:DistinguishedFolderId Id=\"calendar\"><t:Mailbox><t:EmailAddress>{}</t:EmailAddress></t:Mailbox>\
             </t:DistinguishedFolderId>",
            escape(mailbox)
        ),
        Access::Impersonation => "<t:DistinguishedFolderId Id=\"calendar\"/>".to_owned(),
    }
}

fn envelope(access: Access, mailbox: &str, operation: &str) -> String {
    let impersonation = match access {
        Access::Delegate => String::new(),
        Access::Impersonation => format!(
            "<t:ExchangeImpersonation><t:ConnectingSID><t:SmtpAddress>{}</t:SmtpAddress></t:ConnectingSID>\
             </t:ExchangeImpersonation>",
            escape(mailbox)
        ),
    };
    // The oldest version that knows all that is asked for, so that any server responds.
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\">\
         <s:Header><t:RequestServerVersion Version=\"Exchange2010_SP1\"/>{impersonation}</s:Header>\
         <s:Body>{operation}</s:Body></s:Envelope>"
    )
}

/// A response to one of these requests: its response messages, or a fault.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EwsResponse {
    /// One for each event, or one for all; a fault is one, too.
    pub(crate) messages: Vec<Message>,
    /// The subjects of found items.
    pub(crate) subjects: Vec<String>,
    /// There are no more pages.
    pub(crate) last_page: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) success: bool,
    /// `NoError`, `ErrorServerBusy`, ...
    pub(crate) code: String,
}

impl EwsResponse {
    /// Whether all of it is a success.
    pub(crate) fn success(&self) -> bool {
        self.messages.iter().all(|message| message.success)
    }

    /// The first code that is no success.
    pub(crate) fn code(&self) -> &str {
        let failed = self.messages.iter().find(|message| !message.success);
        failed.map_or("", |message| &message.code)
    }
}

/// The response is no SOAP, or not all of it.
#[derive(Debug)]
pub(crate) struct Unreadable;

pub(crate) fn read(body: &[u8]) -> Result<EwsResponse, Unreadable> {
    let mut response = EwsResponse::default();
    let mut message = Message::default();
    let mut fault_code = String::new();
    let mut open: Vec<Vec<u8>> = Vec::new();
    let mut text = String::new();
    let mut reader = Reader::from_reader(body);
    let mut whole = false;
    loop {
        match reader.read_event().map_err(|_| Unreadable)? {
            Event::Start(tag) => {
                look_at(&tag, &mut response, &mut message)?;
                open.push(tag.local_name().as_ref().to_vec());
                text.clear();
            }
            Event::Empty(tag) => look_at(&tag, &mut response, &mut message)?,
            Event::Text(piece) => text.push_str(&piece.decode().map_err(|_| Unreadable)?),
            Event::End(_) => {
                let ended = open.pop().ok_or(Unreadable)?;
                let text = text.trim();
                match ended.as_slice() {
                    b"ResponseCode" => text.clone_into(&mut message.code),
                    name if name.ends_with(b"ResponseMessage") => {
                        response.messages.push(std::mem::take(&mut message));
                    }
                    b"faultcode" => {
                        let code = text.rsplit(':').next().unwrap_or(text);
                        code.clone_into(&mut fault_code);
                    }
                    b"Subject" => response.subjects.push(text.to_owned()),
                    b"Envelope" => whole = open.is_empty(),
                    _ => {}
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if response.messages.is_empty() {
        if message.code.is_empty() {
            message.code = fault_code;
        }
        response.messages.push(message);
    }
    let told = |message: &Message| !message.code.is_empty();
    if whole && response.messages.iter().all(told) {
        Ok(response)
    } else {
        Err(Unreadable)
    }
}

fn look_at(
    tag: &BytesStart<'_>,
    response: &mut EwsResponse,
    message: &mut Message,
) -> Result<(), Unreadable> {
    let attribute = |name: &str| {
        let found = tag.try_get_attribute(name).map_err(|_| Unreadable)?;
        Ok(found.map(|attribute| attribute.value.into_owned()))
    };
    match tag.local_name().as_ref() {
        b"RootFolder" => {
            response.last_page = attribute("IncludesLastItemInRange")?.as_deref() == Some(b"true");
        }
        name if name.ends_with(b"ResponseMessage") => {
            message.success = attribute("ResponseClass")?.as_deref() == Some(b"Success");
        }
        _ => {}
    }
    Ok(())
}
