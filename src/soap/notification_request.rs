//! Writes the requests about notifications: Subscribe, GetStreamingEvents, Unsubscribe, and Autodiscover's GetUserSettings.

use std::fmt::Write as _;

use super::notifications::EventKind;

/// What a subscription is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Well-known names of folders; all folders if there are none.
    pub(crate) folders: Vec<String>,
    pub(crate) events: Vec<EventKind>,
}

fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    quick_xml::escape::escape(text)
}

/// An envelope around an operation, with this mailbox impersonated.
fn envelope(version: &str, impersonated: Option<&str>, operation: &str) -> String {
    let mut header = format!("<t:RequestServerVersion Version=\"{}\"/>", escaped(version));
    if let Some(mailbox) = impersonated {
        let mailbox = escaped(mailbox);
        let _ = write!(
            header,
            "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress>\
             </t:ConnectingSID></t:ExchangeImpersonation>"
        );
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\">\
         <s:Header>{header}</s:Header><s:Body>{operation}</s:Body></s:Envelope>"
    )
}

/// A subscription to `mailbox`: a streaming one, or a pull one that lasts for some minutes after its last use.
pub(crate) fn subscribe(
    version: &str,
    mailbox: &str,
    watched: &Watched,
    pull: Option<u64>,
) -> String {
    let mut inner = String::new();
    let all = match watched.folders.is_empty() {
        true => " SubscribeToAllFolders=\"true\"",
        false => {
            inner += "<t:FolderIds>";
            for folder in &watched.folders {
                let _ = write!(
                    inner,
                    "<t:DistinguishedFolderId Id=\"{}\"/>",
                    escaped(folder)
                );
            }
            inner += "</t:FolderIds>";
            ""
        }
    };
    inner += "<t:EventTypes>";
    for event in &watched.events {
        let _ = write!(inner, "<t:EventType>{}</t:EventType>", event.name());
    }
    inner += "</t:EventTypes>";
    let kind = match pull {
        Some(minutes) => {
            let _ = write!(inner, "<t:Timeout>{minutes}</t:Timeout>");
            "PullSubscriptionRequest"
        }
        None => "StreamingSubscriptionRequest",
    };
    let operation = format!("<m:Subscribe><m:{kind}{all}>{inner}</m:{kind}></m:Subscribe>");
    envelope(version, Some(mailbox), &operation)
}

/// A stream of these subscriptions, for some minutes.
pub(crate) fn get_streaming_events(
    version: &str,
    impersonated: Option<&str>,
    ids: &[std::sync::Arc<str>],
    minutes: u64,
) -> String {
    let mut list = String::new();
    for id in ids {
        let _ = write!(list, "<t:SubscriptionId>{}</t:SubscriptionId>", escaped(id));
    }
    let operation = format!(
        "<m:GetStreamingEvents><m:SubscriptionIds>{list}</m:SubscriptionIds>\
         <m:ConnectionTimeout>{minutes}</m:ConnectionTimeout></m:GetStreamingEvents>"
    );
    envelope(version, impersonated, &operation)
}

/// The events of a pull subscription to `mailbox`, since that watermark.
pub(crate) fn get_events(version: &str, mailbox: &str, id: &str, watermark: &str) -> String {
    let operation = format!(
        "<m:GetEvents><m:SubscriptionId>{}</m:SubscriptionId><m:Watermark>{}</m:Watermark></m:GetEvents>",
        escaped(id),
        escaped(watermark)
    );
    envelope(version, Some(mailbox), &operation)
}

/// The end of a subscription to `mailbox`.
pub(crate) fn unsubscribe(version: &str, mailbox: &str, id: &str) -> String {
    let id = escaped(id);
    let operation =
        format!("<m:Unsubscribe><m:SubscriptionId>{id}</m:SubscriptionId></m:Unsubscribe>");
    envelope(version, Some(mailbox), &operation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soap::{Operation, Outline};

    #[test]
    fn requests_are_what_they_are_taken_for() {
        let watched = |folders: &[&str]| Watched {
            folders: folders.iter().map(|&folder| folder.to_owned()).collect(),
            events: vec![EventKind::NewMail, EventKind::Moved],
        };
        let ids = ["A", "B<"].map(std::sync::Arc::<str>::from);
        let amy = "amy&co@contoso.com";
        for (request, operation, sids) in [
            (
                subscribe("Exchange2013", amy, &watched(&[]), None),
                Operation::SUBSCRIBE,
                1,
            ),
            (
                subscribe("Exchange2013", amy, &watched(&["inbox"]), Some(30)),
                Operation::SUBSCRIBE,
                1,
            ),
            (
                unsubscribe("Exchange2013", amy, "A"),
                Operation::UNSUBSCRIBE,
                1,
            ),
            (
                get_streaming_events("Exchange2013", None, &ids, 10),
                Operation::GET_STREAMING_EVENTS,
                0,
            ),
        ] {
            let outline = Outline::parse(request.as_bytes()).unwrap();
            assert_eq!(outline.operation(), Some(operation));
            let named: Vec<&str> = outline
                .impersonation()
                .iter()
                .map(|sid| &*sid.value)
                .collect();
            assert_eq!(named, vec![amy; sids]);
        }
        assert!(
            subscribe("x", amy, &watched(&[]), None).contains(" SubscribeToAllFolders=\"true\"")
        );
        assert!(!subscribe("x", amy, &watched(&["inbox"]), None).contains("SubscribeToAllFolders"));
    }
}
