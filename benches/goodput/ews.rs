//! EWS requests, and what a response says to those who know no more of it than a careful client's author.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use memchr::memmem;

/// What a response comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Done,
    /// Not done, for lack of some budget.
    Refused {
        /// What the server says.
        back_off: Option<Duration>,
        /// Whether it is a matter of how many calls there are.
        connections: bool,
    },
    Failed,
}

const BUSY: [&str; 4] = [
    "ErrorServerBusy",
    "ErrorExceededFindCountLimit",
    "ErrorSubmissionQuotaExceeded",
    "ErrorTooManyObjectsOpened",
];

pub(super) fn verdict(response: &Response<Bytes>) -> Verdict {
    let body = response.body();
    let has = |text: &str| memmem::find(body, text.as_bytes()).is_some();
    let header = response.headers().get("retry-after");
    let header = header.and_then(|value| value.to_str().ok()?.parse().ok());
    let back_off = header
        .map(Duration::from_secs)
        .or_else(|| back_off_of(body));
    if matches!(response.status().as_u16(), 429 | 503) {
        return Verdict::Refused {
            back_off,
            connections: response.status() == 429,
        };
    }
    if response.status().is_success() && !has("ResponseClass=\"Error\"") {
        return Verdict::Done;
    }
    let connections = has("ErrorExceededConnectionCount");
    match connections || BUSY.iter().any(|code| has(code)) {
        true => Verdict::Refused {
            back_off,
            connections,
        },
        false => Verdict::Failed,
    }
}

fn back_off_of(body: &[u8]) -> Option<Duration> {
    let milliseconds = after(body, "\"BackOffMilliseconds\">", '<')?;
    Some(Duration::from_millis(milliseconds.parse().ok()?))
}

/// The text between this one and a character.
fn after<'a>(body: &'a [u8], text: &str, end: char) -> Option<&'a str> {
    let at = memmem::find(body, text.as_bytes())? + text.len();
    let rest = std::str::from_utf8(body.get(at..)?).ok()?;
    rest.split(end).next()
}

/// Where the next page of a search begins, unless this was the last one.
pub(super) fn next_page(body: &[u8]) -> Option<usize> {
    if memmem::find(body, b"IncludesLastItemInRange=\"true\"").is_some() {
        return None;
    }
    after(body, "IndexedPagingOffset=\"", '"')?.parse().ok()
}

/// A request with this body, by impersonation of a mailbox where there is one.
pub(super) fn envelope(impersonated: Option<&str>, body: &str) -> Bytes {
    let header = impersonated.map_or_else(String::new, |mailbox| {
        format!(
            "<t:ExchangeImpersonation><t:ConnectingSID><t:SmtpAddress>{mailbox}</t:SmtpAddress></t:ConnectingSID>\
             </t:ExchangeImpersonation>"
        )
    });
    let text = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\"><s:Header>\
         <t:RequestServerVersion Version=\"Exchange2013_SP1\"/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    );
    text.into()
}

/// A folder of the effective mailbox, or of another one.
fn folder(name: &str, mailbox: Option<&str>) -> String {
    let mailbox = mailbox.map_or_else(String::new, |mailbox| {
        format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>")
    });
    format!("<t:DistinguishedFolderId Id=\"{name}\">{mailbox}</t:DistinguishedFolderId>")
}

pub(super) fn get_folder(mailbox: Option<&str>) -> String {
    format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:FolderIds>{}</m:FolderIds>\
         </m:GetFolder>",
        folder("inbox", mailbox)
    )
}

pub(super) fn sync_hierarchy() -> String {
    "<m:SyncFolderHierarchy><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape></m:SyncFolderHierarchy>"
        .to_owned()
}

/// The items of a folder from an offset on; all of them without a page.
pub(super) fn find_items(
    name: &str,
    mailbox: Option<&str>,
    page: Option<(usize, usize)>,
) -> String {
    let view = page.map_or_else(String::new, |(offset, size)| {
        format!(
            "<m:IndexedPageItemView MaxEntriesReturned=\"{size}\" Offset=\"{offset}\" BasePoint=\"Beginning\"/>"
        )
    });
    format!(
        "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>{view}\
         <m:ParentFolderIds>{}</m:ParentFolderIds></m:FindItem>",
        folder(name, mailbox)
    )
}

/// Tiny items for a folder.
pub(super) fn create_items(name: &str, mailbox: Option<&str>, items: usize) -> String {
    format!(
        "<m:CreateItem MessageDisposition=\"SaveOnly\"><m:SavedItemFolderId>{}</m:SavedItemFolderId><m:Items>{}</m:Items>\
         </m:CreateItem>",
        folder(name, mailbox),
        "<t:Message/>".repeat(items)
    )
}

/// One item with that subject, for an inbox.
pub(super) fn create_item(subject: &str, mailbox: &str) -> String {
    format!(
        "<m:CreateItem MessageDisposition=\"SaveOnly\"><m:SavedItemFolderId>{}</m:SavedItemFolderId><m:Items><t:Message>\
         <t:Subject>{subject}</t:Subject></t:Message></m:Items></m:CreateItem>",
        folder("inbox", Some(mailbox)),
    )
}

/// A message to one recipient.
pub(super) fn send_message() -> String {
    "<m:CreateItem MessageDisposition=\"SendOnly\"><m:Items><t:Message><t:Subject>x</t:Subject><t:ToRecipients>\
     <t:Mailbox><t:EmailAddress>bo@contoso.com</t:EmailAddress></t:Mailbox></t:ToRecipients></t:Message></m:Items>\
     </m:CreateItem>"
        .to_owned()
}
