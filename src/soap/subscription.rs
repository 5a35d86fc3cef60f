//! What requests and responses say of subscriptions: which one a call creates, uses or ends.

use std::time::Duration;

use super::operation::Operation;
use super::xml::{Event, Reader};

const MINUTE: Duration = Duration::from_secs(60);
/// How long a streaming subscription lasts without a new connection: twice what one connection lasts at most
/// (`StreamingSubscriptionConnectionTimeoutType`), since the connection counts as a use once it has ended.
const STREAMING: Duration = Duration::from_secs(3600);
/// The longest time that a pull subscription's `Timeout` or a push subscription's `StatusFrequency` can be: a day.
const MAX_MINUTES: u64 = 1440;
/// Longer texts are no ids, and no call names more of them: a streaming request has 200 at most.
const MAX_ID: usize = 1024;
const MAX_IDS: usize = 1000;

/// What a request does with subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SubscriptionRequest {
    /// Creates one, which lasts for so long after its last use.
    Create(Duration),
    /// Reads events.
    Use(Vec<Box<str>>),
    End(Vec<Box<str>>),
}

/// What a response says of subscriptions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SubscriptionResponse {
    /// Whether there is a message, and all say `NoError`.
    pub(crate) succeeded: bool,
    /// Whether some message says that a subscription does not exist any more.
    pub(crate) lost: bool,
    /// Whether some message says that there are too many.
    pub(crate) too_many: bool,
    pub(crate) ids: Vec<Box<str>>,
}

impl SubscriptionRequest {
    /// None for operations that have nothing to do with subscriptions, and for what cannot be read.
    pub(crate) fn of(operation: Operation, body: &[u8]) -> Option<Self> {
        let mut ids = Vec::new();
        let mut lasts = STREAMING;
        let mut push = false;
        let read = each_text(body, |name, text| match name {
            b"SubscriptionId" => note_id(&mut ids, text),
            b"Timeout" => lasts = minutes(text),
            b"StatusFrequency" => push = true,
            _ => {}
        });
        read?;
        if push {
            // It lasts as long as the client's own server responds to it.
            lasts = MINUTE * MAX_MINUTES as u32;
        }
        match operation {
            Operation::SUBSCRIBE => Some(Self::Create(lasts)),
            Operation::UNSUBSCRIBE => Some(Self::End(ids)),
            Operation::GET_EVENTS | Operation::GET_STREAMING_EVENTS => Some(Self::Use(ids)),
            _ => None,
        }
    }
}

impl SubscriptionResponse {
    /// Reads the first envelope of `body`, as far as it goes.
    pub(crate) fn of(body: &[u8]) -> Self {
        let mut found = Self::default();
        let mut failed = false;
        let mut any = false;
        let whole = each_text(body, |name, text| match name {
            b"SubscriptionId" => note_id(&mut found.ids, text),
            b"ResponseCode" => {
                any = true;
                failed |= text.trim() != "NoError";
                found.lost |= is_lost(text.trim());
                found.too_many |= text.trim() == "ErrorExceededSubscriptionCount";
            }
            _ => {}
        });
        found.succeeded = any && !failed && whole.is_some();
        found
    }
}

/// Whether a code says that the subscription is gone (its descriptions in the reference of response codes).
fn is_lost(code: &str) -> bool {
    matches!(
        code,
        "ErrorSubscriptionNotFound"
            | "ErrorExpiredSubscription"
            | "ErrorInvalidSubscription"
            | "ErrorInvalidPullSubscriptionId"
            | "ErrorSubscriptionUnsubscribed"
            | "ErrorSubscriptionUnsubsribed"
            | "ErrorReadEventsFailed"
            | "ErrorEventNotFound"
    )
}

fn note_id(ids: &mut Vec<Box<str>>, text: &str) {
    let text = text.trim();
    if !text.is_empty() && text.len() <= MAX_ID && ids.len() < MAX_IDS {
        ids.push(text.into());
    }
}

fn minutes(text: &str) -> Duration {
    let minutes = text.trim().parse().unwrap_or(MAX_MINUTES);
    MINUTE * minutes.clamp(1, MAX_MINUTES) as u32
}

/// Calls `see` with the name and the text of each element that a subscription is known by. None if the document breaks off.
fn each_text(body: &[u8], mut see: impl FnMut(&[u8], &str)) -> Option<()> {
    let mut reader = Reader::new(body).ok()?;
    let mut depth = 0_u32;
    loop {
        match reader.next().ok()? {
            Event::Start(start) if start.empty => {}
            Event::Start(start) => match start.local {
                b"SubscriptionId" | b"Timeout" | b"StatusFrequency" | b"ResponseCode" => {
                    see(start.local, &reader.text(&start).ok()?);
                }
                _ => depth += 1,
            },
            Event::End => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(());
                }
            }
            Event::Text(_) | Event::CData(_) => {}
            Event::Eof => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
    const TYPES: &str = "http://schemas.microsoft.com/exchange/services/2006/types";

    fn envelope(inner: &str) -> String {
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' xmlns:m='{MESSAGES}' xmlns:t='{TYPES}'>\
             <s:Body>{inner}</s:Body></s:Envelope>"
        )
    }

    fn ids(ids: &[&str]) -> Vec<Box<str>> {
        ids.iter().map(|id| Box::from(*id)).collect()
    }

    #[test]
    fn requests() {
        let pull = "<m:Subscribe><m:PullSubscriptionRequest><t:FolderIds><t:DistinguishedFolderId Id='inbox'/></t:FolderIds>\
                    <t:Timeout>10</t:Timeout></m:PullSubscriptionRequest></m:Subscribe>";
        let push = "<m:Subscribe><m:PushSubscriptionRequest><t:StatusFrequency>1</t:StatusFrequency>\
                    </m:PushSubscriptionRequest></m:Subscribe>";
        let streaming = "<m:Subscribe><m:StreamingSubscriptionRequest/></m:Subscribe>";
        for (inner, lasts) in [
            (pull, 10),
            (push, 1440),
            (streaming, 60),
            (&pull.replace("10", "0"), 1),
            (&pull.replace("10", "99999"), 1440),
            (&pull.replace("10", "soon"), 1440),
        ] {
            let read = SubscriptionRequest::of(Operation::SUBSCRIBE, envelope(inner).as_bytes());
            assert_eq!(
                read,
                Some(SubscriptionRequest::Create(MINUTE * lasts)),
                "{inner}"
            );
        }
        let one =
            envelope("<m:Unsubscribe><m:SubscriptionId> A1== </m:SubscriptionId></m:Unsubscribe>");
        let read = SubscriptionRequest::of(Operation::UNSUBSCRIBE, one.as_bytes());
        assert_eq!(read, Some(SubscriptionRequest::End(ids(&["A1=="]))));
        let several = envelope(
            "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>A</t:SubscriptionId>\
             <t:SubscriptionId>B</t:SubscriptionId></m:SubscriptionIds></m:GetStreamingEvents>",
        );
        let read = SubscriptionRequest::of(Operation::GET_STREAMING_EVENTS, several.as_bytes());
        assert_eq!(read, Some(SubscriptionRequest::Use(ids(&["A", "B"]))));
        assert_eq!(
            SubscriptionRequest::of(Operation::GET_ITEM, several.as_bytes()),
            None
        );
        assert_eq!(
            SubscriptionRequest::of(Operation::UNSUBSCRIBE, &one.as_bytes()[..90]),
            None
        );
    }

    #[test]
    fn responses() {
        let message = |code: &str, more: &str| {
            envelope(&format!(
                "<m:SubscribeResponse><m:ResponseMessages><m:SubscribeResponseMessage ResponseClass='x'>\
                 <m:ResponseCode>{code}</m:ResponseCode>{more}</m:SubscribeResponseMessage>\
                 </m:ResponseMessages></m:SubscribeResponse>"
            ))
        };
        let id = "<m:SubscriptionId>A1</m:SubscriptionId><m:Watermark>W</m:Watermark>";
        let read = SubscriptionResponse::of(message("NoError", id).as_bytes());
        let expected = SubscriptionResponse {
            succeeded: true,
            lost: false,
            too_many: false,
            ids: ids(&["A1"]),
        };
        assert_eq!(read, expected);
        // A stream has further envelopes behind it.
        let stream = message("NoError", "") + &message("NoError", "");
        assert!(SubscriptionResponse::of(stream.as_bytes()).succeeded);
        let failed = "<m:ErrorSubscriptionIds><m:SubscriptionId>B</m:SubscriptionId></m:ErrorSubscriptionIds>";
        let read = SubscriptionResponse::of(message("ErrorInvalidSubscription", failed).as_bytes());
        let expected = SubscriptionResponse {
            succeeded: false,
            lost: true,
            too_many: false,
            ids: ids(&["B"]),
        };
        assert_eq!(read, expected);
        let busy = SubscriptionResponse::of(message("ErrorServerBusy", "").as_bytes());
        assert_eq!(busy, SubscriptionResponse::default());
        let whole = message("NoError", id);
        for end in 0..whole.len() {
            assert!(
                !SubscriptionResponse::of(&whole.as_bytes()[..end]).succeeded,
                "{end}"
            );
        }
        assert_eq!(
            SubscriptionResponse::of(b"<html>"),
            SubscriptionResponse::default()
        );
    }
}
