//! What a request asks the server to send: messages, and their recipients.
use super::disposition::Disposition;
use super::elements::{child, skip};
use super::operation::Operation;
use super::outline::Outline;
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Reader, Start};

/// How much a request asks the server to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) messages: u32,
    /// One at least for each message: who gets it is not always in the request.
    pub(crate) recipients: u32,
}

impl Sent {
    /// Messages to recipients that the request does not name.
    fn unnamed(messages: usize) -> Self {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        Self {
            messages,
            recipients: messages,
        }
    }

    fn add(&mut self, recipients: u32) {
        self.messages = self.messages.saturating_add(1);
        self.recipients = self.recipients.saturating_add(recipients.max(1));
    }
}

impl Outline {
    /// Counts what the request asks the server to send. `body` must be the body that this outline was made from: it is asked for only
    /// where somebody is named in it.
    pub(crate) fn sent<B: AsRef<[u8]>>(&self, body: impl FnOnce() -> B) -> Sent {
        let disposition = self.disposition();
        if disposition.sends_none() {
            return Sent::default();
        }
        match self.operation() {
            Some(Operation::CREATE_ITEM | Operation::UPDATE_ITEM) => {
                let mut sent = Sent::default();
                // The body had an outline, so that it is sound; a wrong one ends the walk.
                let _broken = self.walk(body().as_ref(), &mut sent);
                sent
            }
            _ => Sent::unnamed(
                self.arrays()
                    .iter()
                    .map(|array| array.members().len())
                    .sum(),
            ),
        }
    }

    fn walk(&self, body: &[u8], sent: &mut Sent) -> Result<(), OutlineError> {
        let mut reader = Reader::within(body, self.operation_element(), self.scope());
        match child(&mut reader)? {
            Some(operation) if !operation.empty => {}
            _ => return Ok(()),
        }
        match self.operation() {
            Some(Operation::CREATE_ITEM) => created(&mut reader, self.disposition(), sent),
            _ => updated(&mut reader, sent),
        }
    }
}

/// What becomes of a member of CreateItem.
enum Created {
    Message,
    Meeting,
    NotSent,
}

fn kind(member: &Start<'_>) -> Created {
    match member.local {
        b"Message"
        | b"SharingMessage"
        | b"MeetingMessage"
        | b"MeetingRequest"
        | b"MeetingResponse"
        | b"MeetingCancellation"
        | b"ReplyToItem"
        | b"ForwardItem"
        | b"ReplyAllToItem"
        | b"AcceptItem"
        | b"TentativelyAcceptItem"
        | b"DeclineItem"
        | b"CancelCalendarItem"
        | b"AcceptSharingInvitation" => Created::Message,
        b"CalendarItem" => Created::Meeting,
        _ => Created::NotSent,
    }
}

/// The members of CreateItem.
fn created(
    reader: &mut Reader<'_>,
    asks: Disposition,
    sent: &mut Sent,
) -> Result<(), OutlineError> {
    each(reader, |reader, array| {
        if !array.is(Space::Messages, "Items") {
            return past(reader, &array);
        }
        each_of(reader, &array, |reader, member| match kind(&member) {
            Created::Message if asks.messages => {
                sent.add(recipients_of(reader, &member)?);
                Ok(())
            }
            Created::Meeting if asks.meetings => {
                match recipients_of(reader, &member)? {
                    0 => {}
                    attendees => sent.add(attendees),
                }
                Ok(())
            }
            _ => past(reader, &member),
        })
    })
}

/// The members of UpdateItem: which kind of item each id stands for is not known.
fn updated(reader: &mut Reader<'_>, sent: &mut Sent) -> Result<(), OutlineError> {
    each(reader, |reader, array| {
        if !array.is(Space::Messages, "ItemChanges") {
            return past(reader, &array);
        }
        each_of(reader, &array, |reader, change| {
            let mut named = 0_u32;
            each_of(reader, &change, |reader, updates| {
                if updates.local != b"Updates" {
                    return past(reader, &updates);
                }
                each_of(reader, &updates, |reader, field| {
                    each_of(reader, &field, |reader, item| {
                        named = named.saturating_add(recipients_of(reader, &item)?);
                        Ok(())
                    })
                })
            })?;
            sent.add(named);
            Ok(())
        })
    })
}

/// The recipients that an item names.
fn recipients_of<'a>(reader: &mut Reader<'a>, item: &Start<'a>) -> Result<u32, OutlineError> {
    let mut recipients = 0_u32;
    each_of(reader, item, |reader, field| {
        let wanted = match field.local {
            _ if field.space != Space::Types => "",
            b"ToRecipients" | b"CcRecipients" | b"BccRecipients" => "Mailbox",
            b"RequiredAttendees" | b"OptionalAttendees" | b"Resources" => "Attendee",
            _ => "",
        };
        if wanted.is_empty() {
            return past(reader, &field);
        }
        each_of(reader, &field, |reader, recipient| {
            let is_one = recipient.is(Space::Types, wanted);
            recipients = recipients.saturating_add(u32::from(is_one));
            past(reader, &recipient)
        })
    })?;
    Ok(recipients)
}

/// Goes behind an element whose start tag was just read.
fn past(reader: &mut Reader<'_>, start: &Start<'_>) -> Result<(), OutlineError> {
    skip(reader, start).map(|_| ())
}

/// Hands out the children of the innermost open element. `f` has to go behind each.
fn each<'a>(
    reader: &mut Reader<'a>,
    mut f: impl FnMut(&mut Reader<'a>, Start<'a>) -> Result<(), OutlineError>,
) -> Result<(), OutlineError> {
    while let Some(start) = child(reader)? {
        f(reader, start)?;
    }
    Ok(())
}

/// As [`each`], of the element whose start tag was just read.
fn each_of<'a>(
    reader: &mut Reader<'a>,
    parent: &Start<'a>,
    f: impl FnMut(&mut Reader<'a>, Start<'a>) -> Result<(), OutlineError>,
) -> Result<(), OutlineError> {
    match parent.empty {
        true => Ok(()),
        false => each(reader, f),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(operation: &str) -> (u32, u32) {
        let body = format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>{operation}</s:Body></s:Envelope>"#
        );
        let outline = Outline::parse(body.as_bytes()).unwrap();
        let sent = outline.sent(|| body.as_bytes());
        (sent.messages, sent.recipients)
    }

    /// A list of recipients or attendees.
    fn list(name: &str, each: &str, number: usize) -> String {
        let one = format!("<t:{each}><t:EmailAddress>a@x</t:EmailAddress></t:{each}>");
        format!("<t:{name}>{}</t:{name}>", one.repeat(number))
    }

    fn mail(to: usize, cc: usize, bcc: usize) -> String {
        let to = list("ToRecipients", "Mailbox", to);
        let cc = list("CcRecipients", "Mailbox", cc);
        let bcc = list("BccRecipients", "Mailbox", bcc);
        // What the body says is no recipient.
        let text =
            r#"<t:Body BodyType="Text">&lt;t:Mailbox/&gt;</t:Body><t:From><t:Mailbox/></t:From>"#;
        format!("{text}{to}{cc}{bcc}")
    }

    fn meeting(required: usize, optional: usize, resources: usize) -> String {
        let required = list("RequiredAttendees", "Attendee", required);
        let optional = list("OptionalAttendees", "Attendee", optional);
        let resources = list("Resources", "Attendee", resources);
        format!("<t:CalendarItem>{required}{optional}{resources}</t:CalendarItem>")
    }

    fn create(attributes: &str, items: &str) -> String {
        format!(
            "<m:CreateItem {attributes}><m:SavedItemFolderId><t:DistinguishedFolderId Id=\"drafts\"/></m:SavedItemFolderId><m:Items>{items}</m:Items></m:CreateItem>"
        )
    }

    fn update(attributes: &str, items: &[&str]) -> String {
        let change = |item: &&str| {
            format!(
                r#"<t:ItemChange><t:ItemId Id="a"/><t:Updates><t:SetItemField><t:FieldURI FieldURI="x"/>{item}</t:SetItemField><t:DeleteItemField><t:FieldURI FieldURI="y"/></t:DeleteItemField></t:Updates></t:ItemChange>"#
            )
        };
        let changes: String = items.iter().map(change).collect();
        format!(
            "<m:UpdateItem {attributes}><m:ItemChanges>{changes}</m:ItemChanges></m:UpdateItem>"
        )
    }

    #[test]
    fn messages_and_recipients_of_each_operation() {
        let only = r#"MessageDisposition="SendOnly""#;
        let copy = r#"MessageDisposition=" SendAndSaveCopy ""#;
        let save = r#"MessageDisposition="SaveOnly""#;
        let all = r#"SendMeetingInvitations="SendToAllAndSaveCopy""#;
        let none = r#"SendMeetingInvitations="SendToNone""#;
        let message = |inside: &str| format!("<t:Message>{inside}</t:Message>");
        let replies = "<t:ReplyToItem/><t:ReplyAllToItem><t:ReferenceItemId Id='a'/></t:ReplyAllToItem><t:AcceptItem/><t:ForwardItem><t:ToRecipients><t:Mailbox/><t:Mailbox/></t:ToRecipients></t:ForwardItem>";
        let ids = r#"<m:ItemIds><t:ItemId Id="a"/><t:OccurrenceItemId RecurringMasterId="a" InstanceIndex="1"/></m:ItemIds>"#;
        for (request, expected) in [
            (create(only, &message(&mail(1, 0, 0))), (1, 1)),
            (create(copy, &message(&mail(2, 3, 4)).repeat(2)), (2, 18)),
            (create(save, &message(&mail(2, 3, 4))), (0, 0)),
            (create("", &message(&mail(2, 3, 4))), (0, 0)),
            // Nobody is named.
            (create(only, &message("")), (1, 1)),
            (create(only, "<t:Message/>"), (1, 1)),
            (create(only, replies), (4, 5)),
            (
                create(
                    only,
                    "<t:Task/><t:Contact/><t:PostItem/><t:PostReplyItem/><t:SuppressReadReceipt/><t:RemoveItem/>",
                ),
                (0, 0),
            ),
            (create(all, &meeting(1, 2, 3)), (1, 6)),
            (create(all, &meeting(0, 0, 0)), (0, 0)),
            (create(none, &meeting(1, 2, 3)), (0, 0)),
            (create(only, &meeting(1, 2, 3)), (0, 0)),
            // Each attribute speaks for its kind of item.
            (
                create(
                    &format!("{save} {all}"),
                    &format!("{}{}", message(&mail(1, 0, 0)), meeting(2, 0, 0)),
                ),
                (1, 2),
            ),
            (
                create(
                    &format!("{only} {none}"),
                    &format!("{}{}", message(&mail(1, 0, 0)), meeting(2, 0, 0)),
                ),
                (1, 1),
            ),
            (
                format!("<m:SendItem SaveItemToFolder='true'>{ids}</m:SendItem>"),
                (2, 2),
            ),
            (
                format!(
                    "<m:DeleteItem DeleteType='HardDelete' SendMeetingCancellations='SendOnlyToAll'>{ids}</m:DeleteItem>"
                ),
                (2, 2),
            ),
            (
                format!(
                    "<m:DeleteItem DeleteType='HardDelete' SendMeetingCancellations='SendToNone'>{ids}</m:DeleteItem>"
                ),
                (0, 0),
            ),
            (
                format!("<m:DeleteItem DeleteType='HardDelete'>{ids}</m:DeleteItem>"),
                (0, 0),
            ),
            (
                update(
                    r#"MessageDisposition="SendAndSaveCopy""#,
                    &[&message(&mail(2, 0, 0)), &message("")],
                ),
                (2, 3),
            ),
            (
                update(
                    r#"MessageDisposition="SaveOnly""#,
                    &[&message(&mail(2, 0, 0))],
                ),
                (0, 0),
            ),
            (
                update(
                    r#"MessageDisposition="SaveOnly" SendMeetingInvitationsOrCancellations="SendToChangedAndSaveCopy""#,
                    &[&meeting(3, 0, 0)],
                ),
                (1, 3),
            ),
            (
                update(
                    r#"SendMeetingInvitationsOrCancellations="SendToNone""#,
                    &[&meeting(3, 0, 0)],
                ),
                (0, 0),
            ),
            (format!("<m:GetItem>{ids}</m:GetItem>"), (0, 0)),
            (format!("<m:MoveItem>{ids}</m:MoveItem>"), (0, 0)),
        ] {
            assert_eq!(sent(&request), expected, "{request}");
        }
    }

    #[test]
    fn a_prefix_or_none_makes_no_difference() {
        let body = br#"<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body><CreateItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages" MessageDisposition='SendOnly'><Items><Message xmlns="http://schemas.microsoft.com/exchange/services/2006/types"><ToRecipients><Mailbox/></ToRecipients><ToRecipients xmlns="other"><Mailbox/></ToRecipients><CcRecipients><Mailbox/></CcRecipients></Message></Items></CreateItem></Body></Envelope>"#;
        let sent = Outline::parse(body).unwrap().sent(|| body);
        assert_eq!((sent.messages, sent.recipients), (1, 2));
    }
}
