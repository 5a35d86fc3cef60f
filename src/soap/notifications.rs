//! What responses say of notifications: the id of a new subscription, and the messages of a stream.

use super::code::ResponseCode;
use super::xml::{Event, Reader, Start};

/// What has happened to an item or a folder.
///
/// ```
/// use tower_ews::streaming::EventKind;
///
/// assert_eq!(EventKind::NewMail.name(), "NewMailEvent");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EventKind {
    /// It was copied from somewhere else.
    Copied,
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
    /// It was changed.
    Modified,
    /// It was moved from somewhere else.
    Moved,
    /// A message came to the inbox.
    NewMail,
    /// The free/busy times of the mailbox have changed.
    FreeBusyChanged,
}

impl EventKind {
    /// All of them.
    pub const ALL: [EventKind; 7] = [
        EventKind::Copied,
        EventKind::Created,
        EventKind::Deleted,
        EventKind::Modified,
        EventKind::Moved,
        EventKind::NewMail,
        EventKind::FreeBusyChanged,
    ];

    /// Returns Exchange's name of it, such as `CreatedEvent`.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Copied => "CopiedEvent",
            EventKind::Created => "CreatedEvent",
            EventKind::Deleted => "DeletedEvent",
            EventKind::Modified => "ModifiedEvent",
            EventKind::Moved => "MovedEvent",
            EventKind::NewMail => "NewMailEvent",
            EventKind::FreeBusyChanged => "FreeBusyChangedEvent",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
    }
}

/// What has happened to one item or folder of a mailbox, as the server says it.
///
/// ```
/// use tower_ews::streaming::ItemEvent;
///
/// fn fetch_again(event: &ItemEvent) -> Option<&str> {
///     (!event.is_folder).then_some(&*event.id)
/// }
/// # let _ = fetch_again;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemEvent {
    /// What has happened.
    pub kind: EventKind,
    /// The server's time of it, as it is written: `2026-04-01T09:30:00Z`.
    pub timestamp: Box<str>,
    /// It happened to a folder.
    pub is_folder: bool,
    /// The id of the item or folder.
    pub id: Box<str>,
    /// Its change key; empty if there is none.
    pub change_key: Box<str>,
    /// The id of the folder that it is in; empty if the server does not say it.
    pub parent_id: Box<str>,
    /// Of what was moved or copied: its id before, or of the original.
    pub old_id: Option<Box<str>>,
    /// Of what was moved or copied: the folder that it was in, or that the original is in.
    pub old_parent_id: Option<Box<str>>,
}

/// The notification of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubscriptionEvents {
    pub(crate) id: Box<str>,
    pub(crate) events: Vec<ItemEvent>,
}

/// One envelope of a stream, or the whole response of another call on subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamMessage {
    /// The first response code that is an error.
    pub(crate) error: Option<ResponseCode>,
    /// Whether there was a response code at all.
    pub(crate) responded: bool,
    /// The server has closed the stream.
    pub(crate) closed: bool,
    /// The subscriptions that the error is about.
    pub(crate) error_ids: Vec<Box<str>>,
    pub(crate) notifications: Vec<SubscriptionEvents>,
    /// The id of a new subscription.
    pub(crate) subscription: Option<Box<str>>,
    /// The last watermark: from where a pull subscription goes on.
    pub(crate) watermark: Option<Box<str>>,
    /// More events of a pull subscription wait.
    pub(crate) more: bool,
}

/// Longer texts are no ids.
const MAX_ID: usize = 4096;

impl StreamMessage {
    /// Reads an envelope; None if it is not one whole envelope.
    pub(crate) fn read(envelope: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(envelope).ok()?;
        let mut message = Self::default();
        let mut depth = 0_u32;
        loop {
            match reader.next().ok()? {
                Event::Start(start) if start.empty => {}
                Event::Start(start) => {
                    if !message.element(&mut reader, &start)? {
                        depth += 1;
                    }
                }
                Event::End => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(message);
                    }
                }
                Event::Text(_) | Event::CData(_) => {}
                Event::Eof => return None,
            }
        }
    }

    /// Reads an element to its end, if it says something. None if it breaks off.
    fn element<'a>(&mut self, reader: &mut Reader<'a>, start: &Start<'a>) -> Option<bool> {
        match start.local {
            b"ResponseCode" => {
                let code = ResponseCode::from_text(&reader.text(start).ok()?);
                self.responded = true;
                if code != ResponseCode::NO_ERROR && self.error.is_none() {
                    self.error = Some(code);
                }
            }
            b"ConnectionStatus" => self.closed |= reader.text(start).ok()? == "Closed",
            b"ErrorSubscriptionIds" => self.error_ids = ids(reader)?,
            b"Notification" => self.notification(reader)?,
            b"Watermark" => self.watermark = id(&reader.text(start).ok()?),
            b"SubscriptionId" => self.subscription = id(&reader.text(start).ok()?),
            _ => return Some(false),
        }
        Some(true)
    }

    /// Reads a notification whose start tag was read.
    fn notification(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut notification = SubscriptionEvents::default();
        loop {
            match reader.next().ok()? {
                Event::Start(start) if start.local == b"SubscriptionId" => {
                    notification.id = id(&reader.text(&start).ok()?).unwrap_or_default();
                }
                Event::Start(start) if start.local == b"MoreEvents" => {
                    self.more = matches!(&*reader.text(&start).ok()?, "true" | "1");
                }
                Event::Start(start) if start.empty => {}
                Event::Start(start) => match EventKind::of(start.local) {
                    Some(kind) => {
                        let event = event(reader, kind, &mut self.watermark)?;
                        notification.events.extend(event);
                    }
                    None if start.local == b"StatusEvent" => {
                        event(reader, EventKind::FreeBusyChanged, &mut self.watermark)?;
                    }
                    None => {
                        reader.skip().ok()?;
                    }
                },
                Event::End => {
                    self.notifications.push(notification);
                    return Some(());
                }
                Event::Text(_) | Event::CData(_) => {}
                Event::Eof => return None,
            }
        }
    }
}

fn id(text: &str) -> Option<Box<str>> {
    (!text.is_empty() && text.len() <= MAX_ID).then(|| text.into())
}

/// The ids of a list whose start tag was read.
fn ids(reader: &mut Reader<'_>) -> Option<Vec<Box<str>>> {
    let mut ids = Vec::new();
    loop {
        match reader.next().ok()? {
            Event::Start(start) => ids.extend(id(&reader.text(&start).ok()?)),
            Event::End => return Some(ids),
            Event::Text(_) | Event::CData(_) => {}
            Event::Eof => return None,
        }
    }
}

/// An event whose start tag was read. One without an id is none, unless it is about the mailbox.
fn event(
    reader: &mut Reader<'_>,
    kind: EventKind,
    watermark: &mut Option<Box<str>>,
) -> Option<Option<ItemEvent>> {
    let mut event = ItemEvent {
        kind,
        timestamp: Box::default(),
        is_folder: false,
        id: Box::default(),
        change_key: Box::default(),
        parent_id: Box::default(),
        old_id: None,
        old_parent_id: None,
    };
    loop {
        match reader.next().ok()? {
            Event::Start(start) => {
                let value = |name| -> Option<Box<str>> {
                    Some(reader.value(&start, name).ok()??.as_ref().into())
                };
                match start.local {
                    b"ItemId" | b"FolderId" => {
                        event.is_folder = start.local == b"FolderId";
                        event.id = value("Id").unwrap_or_default();
                        event.change_key = value("ChangeKey").unwrap_or_default();
                    }
                    b"ParentFolderId" => event.parent_id = value("Id").unwrap_or_default(),
                    b"OldItemId" | b"OldFolderId" => event.old_id = value("Id"),
                    b"OldParentFolderId" => event.old_parent_id = value("Id"),
                    b"Watermark" => {
                        *watermark = id(&reader.text(&start).ok()?);
                        continue;
                    }
                    b"TimeStamp" => {
                        event.timestamp = reader.text(&start).ok()?.as_ref().into();
                        continue;
                    }
                    _ => {}
                }
                if !start.empty {
                    reader.skip().ok()?;
                }
            }
            Event::End => {
                let whole = !event.id.is_empty() || kind == EventKind::FreeBusyChanged;
                return Some(whole.then_some(event));
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
            "<?xml version='1.0' encoding='utf-8'?><s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'>\
             <s:Body xmlns:m='{MESSAGES}' xmlns:t='{TYPES}'><m:GetStreamingEventsResponse><m:ResponseMessages>\
             <m:GetStreamingEventsResponseMessage ResponseClass='x'>{inner}</m:GetStreamingEventsResponseMessage>\
             </m:ResponseMessages></m:GetStreamingEventsResponse></s:Body></s:Envelope>"
        )
    }

    #[test]
    fn events_of_each_kind() {
        // Some servers have the notification in one namespace, some in the other.
        let text = envelope(
            "<m:ResponseCode>NoError</m:ResponseCode><m:Notifications><m:Notification>\
             <t:SubscriptionId> A&amp;1 </t:SubscriptionId><t:CreatedEvent><t:TimeStamp>2026-04-01T09:30:00Z</t:TimeStamp>\
             <t:ItemId Id='I&quot;1' ChangeKey='K'/><t:ParentFolderId Id='P' ChangeKey='x'/></t:CreatedEvent>\
             <t:StatusEvent/><t:MovedEvent><t:TimeStamp>x</t:TimeStamp><t:FolderId Id='F'></t:FolderId>\
             <t:ParentFolderId Id='Q'/><t:OldFolderId Id='G'/><t:OldParentFolderId Id='R'/></t:MovedEvent></m:Notification>\
             <t:Notification><t:SubscriptionId>B</t:SubscriptionId><t:FreeBusyChangedEvent/>\
             <t:ModifiedEvent><t:TimeStamp/></t:ModifiedEvent></t:Notification></m:Notifications>\
             <m:ConnectionStatus>OK</m:ConnectionStatus>",
        );
        let message = StreamMessage::read(text.as_bytes()).unwrap();
        assert!(message.responded && message.error.is_none() && !message.closed);
        let [a, b] = &message.notifications[..] else {
            panic!("{message:?}")
        };
        assert_eq!((&*a.id, &*b.id), ("A&1", "B"));
        assert_eq!(b.events, []);
        let [created, moved] = &a.events[..] else {
            panic!("{a:?}")
        };
        assert_eq!((&*created.id, &*created.change_key), ("I\"1", "K"));
        assert_eq!(&*created.timestamp, "2026-04-01T09:30:00Z");
        assert_eq!(
            (created.kind, created.is_folder),
            (EventKind::Created, false)
        );
        assert_eq!(
            (moved.kind, moved.is_folder, &*moved.parent_id),
            (EventKind::Moved, true, "Q")
        );
        assert_eq!(moved.old_id.as_deref(), Some("G"));
        assert_eq!(moved.old_parent_id.as_deref(), Some("R"));
        for end in 0..text.len() {
            assert_eq!(StreamMessage::read(&text.as_bytes()[..end]), None, "{end}");
        }
    }

    #[test]
    fn the_end_of_a_stream() {
        let text = envelope(
            "<m:ResponseCode>ErrorSubscriptionNotFound</m:ResponseCode><m:ErrorSubscriptionIds>\
             <m:SubscriptionId>A</m:SubscriptionId><t:SubscriptionId>B</t:SubscriptionId></m:ErrorSubscriptionIds>\
             <m:ConnectionStatus>Closed</m:ConnectionStatus>",
        );
        let message = StreamMessage::read(text.as_bytes()).unwrap();
        assert!(message.closed && message.responded);
        assert_eq!(message.error.unwrap().as_str(), "ErrorSubscriptionNotFound");
        assert_eq!(message.error_ids, ["A", "B"].map(Box::<str>::from));
        let new = envelope(
            "<m:ResponseCode>NoError</m:ResponseCode><m:SubscriptionId>A1=</m:SubscriptionId>",
        );
        let message = StreamMessage::read(new.as_bytes()).unwrap();
        assert_eq!(message.subscription.as_deref(), Some("A1="));
        let fault = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body><s:Fault><detail>\
                     <e:ResponseCode xmlns:e='x'>ErrorServerBusy</e:ResponseCode></detail></s:Fault></s:Body></s:Envelope>";
        let message = StreamMessage::read(fault.as_bytes()).unwrap();
        assert_eq!(message.error, Some(ResponseCode::SERVER_BUSY));
        assert_eq!(
            StreamMessage::read(b"<html></html>").unwrap(),
            StreamMessage::default()
        );
    }
}
