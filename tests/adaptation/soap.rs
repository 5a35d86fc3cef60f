//! The texts that go to the scripted server and come back.

use std::ops::Range;

use bytes::Bytes;
use http::Request;
use tower_ews::body::ReplayBody;

/// What a call of the scripted server is: read from its text.
#[derive(Debug)]
pub(crate) enum Call {
    /// Does something with the items with these numbers, in that mailbox or in the caller's own.
    Items {
        operation: &'static str,
        items: Vec<usize>,
        mailbox: Option<String>,
    },
    /// Opens a stream.
    Stream,
}

impl Call {
    /// Reads a request of this file's. Panics if it is none.
    pub(crate) fn read(body: &[u8]) -> Self {
        let text = std::str::from_utf8(body).expect("text");
        let (operation, before_item) = if text.contains("<m:GetStreamingEvents>") {
            return Self::Stream;
        } else if text.contains("<m:DeleteItem ") {
            (DELETE, "<t:ItemId Id=\"")
        } else {
            (CREATE, "<t:Subject>")
        };
        let items: Vec<usize> = text.split(before_item).skip(1).map(number).collect();
        assert!(!items.is_empty(), "no items in {text}");
        let mailbox = text.split("<t:EmailAddress>").nth(1);
        let mailbox = mailbox.and_then(|rest| rest.split('<').next());
        Self::Items {
            operation,
            items,
            mailbox: mailbox.map(str::to_owned),
        }
    }

    /// What tells it from others: the number of its first item.
    pub(crate) fn number(&self) -> usize {
        match self {
            Self::Items { items, .. } => items[0],
            Self::Stream => usize::MAX,
        }
    }
}

const CREATE: &str = "CreateItem";
const DELETE: &str = "DeleteItem";

fn number(rest: &str) -> usize {
    let digits = rest.split(['<', '"']).next().unwrap_or_default();
    digits.parse().expect("the number of an item")
}

fn envelope(body: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>{body}</s:Body></s:Envelope>"#
    )
}

fn request(body: &str) -> Request<ReplayBody> {
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(ReplayBody::from(envelope(body)))
        .expect("a request")
}

/// Creates an item: nothing that may be sent twice.
pub(crate) fn create(item: usize, mailbox: Option<&str>) -> Request<ReplayBody> {
    let owner = mailbox.map_or_else(String::new, |mailbox| {
        format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>")
    });
    request(&format!(
        r#"<m:CreateItem SendMeetingInvitations="SendToNone"><m:SavedItemFolderId><t:DistinguishedFolderId Id="calendar">{owner}</t:DistinguishedFolderId></m:SavedItemFolderId><m:Items><t:CalendarItem><t:Subject>{item}</t:Subject></t:CalendarItem></m:Items></m:CreateItem>"#
    ))
}

/// Deletes items: a batch whose parts may go at the same time.
pub(crate) fn delete(items: Range<usize>) -> Request<ReplayBody> {
    let ids: String = items
        .map(|item| format!(r#"<t:ItemId Id="{item}"/>"#))
        .collect();
    request(&format!(
        r#"<m:DeleteItem DeleteType="HardDelete"><m:ItemIds>{ids}</m:ItemIds></m:DeleteItem>"#
    ))
}

/// Opens a stream for half an hour.
pub(crate) fn stream() -> Request<ReplayBody> {
    request(
        "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>JgBj</t:SubscriptionId></m:SubscriptionIds><m:ConnectionTimeout>30</m:ConnectionTimeout></m:GetStreamingEvents>",
    )
}

/// The response of a call that did everything that it was to do, with so much white space in it.
pub(crate) fn done(operation: &str, items: usize, space: usize) -> String {
    let item = match operation {
        CREATE => {
            r#"<m:Items><t:CalendarItem><t:ItemId Id="AAMkA" ChangeKey="DwAAA"/></t:CalendarItem></m:Items>"#
        }
        _ => "",
    };
    let message = format!(
        r#"<m:{operation}ResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode>{item}</m:{operation}ResponseMessage>"#
    );
    let (messages, space) = (message.repeat(items), " ".repeat(space));
    envelope(&format!(
        "<m:{operation}Response>{space}<m:ResponseMessages>{messages}</m:ResponseMessages></m:{operation}Response>"
    ))
}

/// The response of a call that would open one mailbox too many.
pub(crate) fn too_many_mailboxes() -> String {
    envelope(
        r#"<m:CreateItemResponse><m:ResponseMessages><m:CreateItemResponseMessage ResponseClass="Error"><m:MessageText>Too many concurrent connections opened., Cannot open mailbox.</m:MessageText><m:ResponseCode>ErrorTooManyObjectsOpened</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey></m:CreateItemResponseMessage></m:ResponseMessages></m:CreateItemResponse>"#,
    )
}

/// The fault that refuses a call, as it was seen. The number in it is what everybody takes for the limit: what the server
/// really has room for is not told.
pub(crate) const TOO_MANY_CALLS: Bytes = Bytes::from_static(
    br#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode xmlns:a="http://schemas.microsoft.com/exchange/services/2006/types">a:ErrorExceededConnectionCount</faultcode><faultstring xml:lang="en-US">You have exceeded the available concurrent connections for your account.  Try again once your other requests have completed.</faultstring><detail><e:ResponseCode xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors">ErrorExceededConnectionCount</e:ResponseCode><e:Message xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors">You have exceeded the available concurrent connections for your account.  Try again once your other requests have completed.</e:Message><t:MessageXml xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><t:Value Name="Policy">MaxConcurrency</t:Value><t:Value Name="MaxConcurrencyLimit">27</t:Value><t:Value Name="ErrorMessage">This operation exceeds the throttling budget for policy part 'MaxConcurrency', policy value '27',  Budget type: 'Ews'.  Suggested backoff time 0 ms.</t:Value></t:MessageXml></detail></s:Fault></s:Body></s:Envelope>"#,
);

/// One message of a stream; the last one says that the server closes it.
pub(crate) fn stream_message(status: &str) -> Bytes {
    let body = format!(
        r#"<m:GetStreamingEventsResponse><m:ResponseMessages><m:GetStreamingEventsResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:ConnectionStatus>{status}</m:ConnectionStatus></m:GetStreamingEventsResponseMessage></m:ResponseMessages></m:GetStreamingEventsResponse>"#
    );
    // Envelopes of a stream follow each other without a declaration.
    let text = envelope(&body);
    let at = text.find("<s:Envelope").unwrap_or_default();
    Bytes::copy_from_slice(&text.as_bytes()[at..])
}
