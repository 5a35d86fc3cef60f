//! What a request has to say before it is cut into parts: whether it may be, and what its members
//! are.
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use memchr::memmem;

use super::elements::{child, root, skip};
use super::item_id::mailbox_guid;
use super::merge::can_be_merged;
use super::operation::{Operation, OperationIdempotency, Split};
use super::outline::{ArrayOutline, Outline};
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Reader, Start};

/// The most mailboxes that one GetUserAvailability takes (ResponseCode,
/// `ErrorMailboxDataArrayTooBig`).
const MAX_MAILBOX_DATA: usize = 100;

/// What is known of a request that may be cut by its members.
#[derive(Debug)]
pub(crate) struct Cuttable {
    pub(crate) operation: Operation,
    /// Whether its parts have to be sent one after another.
    pub(crate) in_order: bool,
    /// `Read`, `Converges` or `No`: never a thing to look up further.
    pub(crate) idempotency: OperationIdempotency,
    pub(crate) max_members: Option<usize>,
    /// An element that counts for the mailbox, not for the members: one part has it.
    pub(crate) once: Option<Range<usize>>,
    /// The change key of the item that all members go to, where the caller gave one: each response
    /// has a newer one.
    pub(crate) parent_change_key: Option<Range<usize>>,
    /// Of each member, in document order; empty for operations whose members are not looked at.
    pub(crate) members: Vec<Member>,
}

/// What one member says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// A number for the mailbox that it touches, as far as it shows.
    pub(crate) mailbox: Option<u64>,
    /// What its response names it by (ExportItems, GetMailTips), or what it changes (UpdateItem,
    /// UpdateFolder).
    pub(crate) id: Option<Box<str>>,
    /// The change key of what it changes, if a newer one may take its place.
    pub(crate) change_key: Option<Range<usize>>,
    /// A delegate that gets copies of meeting messages (AddDelegate, UpdateDelegate).
    pub(crate) receives_copies: bool,
    /// It does more the second time.
    repeats: bool,
}

impl Outline {
    /// What is known of the request before it is cut; none if cutting it could change what it
    /// means. `body` is what the outline was made from.
    pub(crate) fn cuttable(&self, body: &[u8]) -> Option<Cuttable> {
        let operation = self.operation()?;
        let in_order = match operation.split() {
            Split::Safe
            | Split::SafeWithCare
            | Split::SafeUnlessSuggestions
            | Split::SafeUnlessOccurrences => false,
            Split::SafeSequential => true,
            Split::ChangesMeaning | Split::NotApplicable => return None,
        };
        // A part would not be what was signed.
        let head = body.get(..self.operation_element().start)?;
        if self.has_other_access_header() && memmem::find(head, b"Signature").is_some() {
            return None;
        }
        // A handful of names at most, and nothing says that the entries match them.
        if operation.name() == "GetServiceConfiguration" {
            return None;
        }
        // An array without members, or in several containers, is read by the server alone.
        let arrays = self.arrays();
        let twice = arrays.iter().enumerate().any(|(index, array)| {
            let earlier = arrays.get(..index).unwrap_or_default();
            array.members().is_empty() || earlier.iter().any(|other| other.kind() == array.kind())
        });
        if arrays.is_empty() || twice {
            return None;
        }
        if !can_be_merged(operation) {
            return None;
        }
        let mut walk = Walk::new(self, operation, body);
        walk.request().ok()?;
        if walk.untouchable {
            return None;
        }
        let of_series = operation.split() == Split::SafeUnlessOccurrences && walk.names_series;
        Some(Cuttable {
            operation,
            in_order: in_order || of_series,
            idempotency: self.resolved(operation, body, &walk.members),
            max_members: (operation == Operation::GET_USER_AVAILABILITY)
                .then_some(MAX_MAILBOX_DATA),
            once: walk.once,
            parent_change_key: walk.parent_change_key,
            members: walk.members,
        })
    }

    /// As [`Operation::idempotency`], but read off the request where it depends on it: `Read`,
    /// `Converges`, `No`, or `Unknown` where no document says. An update that
    /// appends, or that sends mail, does not converge. `body` is asked for if it is needed.
    pub(crate) fn idempotency<B: AsRef<[u8]>>(
        &self,
        body: impl FnOnce() -> B,
    ) -> OperationIdempotency {
        let Some(operation) = self.operation() else {
            return OperationIdempotency::Unknown;
        };
        match operation.idempotency() {
            OperationIdempotency::PerMember => {
                let body = body();
                let mut walk = Walk::new(self, operation, body.as_ref());
                match walk.request() {
                    Ok(()) => self.resolved(operation, body.as_ref(), &walk.members),
                    Err(_) => OperationIdempotency::NonIdempotent,
                }
            }
            OperationIdempotency::Idempotent if is_update(operation) => {
                self.resolved(operation, body().as_ref(), &[])
            }
            known => known,
        }
    }

    fn resolved(
        &self,
        operation: Operation,
        body: &[u8],
        members: &[Member],
    ) -> OperationIdempotency {
        match operation.idempotency() {
            OperationIdempotency::Idempotent
                if is_update(operation) && self.update_repeats(body) =>
            {
                OperationIdempotency::NonIdempotent
            }
            OperationIdempotency::PerMember => {
                match members.is_empty() || members.iter().any(|member| member.repeats) {
                    true => OperationIdempotency::NonIdempotent,
                    false => OperationIdempotency::Idempotent,
                }
            }
            known => known,
        }
    }

    /// Whether an update does more the second time: it appends, or sends mail.
    fn update_repeats(&self, body: &[u8]) -> bool {
        let from = self.operation_element().start;
        let to = self
            .arrays()
            .first()
            .map_or(body.len(), |array| array.element().start);
        let settings = body.get(from..to).unwrap_or(body);
        // `MessageDisposition` and `SendMeetingInvitationsOrCancellations`, all values but
        // `SaveOnly` and `SendToNone`.
        ["SendOnly", "SendAndSaveCopy", "SendToAll", "SendToChanged"]
            .iter()
            .any(|value| memmem::find(settings, value.as_bytes()).is_some())
            || memmem::find(body, b"AppendTo").is_some()
    }
}

fn is_update(operation: Operation) -> bool {
    operation.name().starts_with("Update")
}

/// How the members of an operation are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Not at all.
    Pass,
    /// The member is an id itself.
    Id,
    /// Ids are children of the member.
    Children,
    /// The first child says what is changed.
    Change,
}

struct Walk<'a> {
    outline: &'a Outline,
    operation: Operation,
    body: &'a [u8],
    members: Vec<Member>,
    once: Option<Range<usize>>,
    parent_change_key: Option<Range<usize>>,
    untouchable: bool,
    /// A change fails if the caller's change key is not the newest: a newer one would hide the conflict.
    never_overwrites: bool,
    /// A member is an occurrence, or the master of one.
    names_series: bool,
    names: HashSet<String>,
}

impl<'a> Walk<'a> {
    fn new(outline: &'a Outline, operation: Operation, body: &'a [u8]) -> Walk<'a> {
        Walk {
            outline,
            operation,
            body,
            members: Vec::new(),
            once: None,
            parent_change_key: None,
            untouchable: false,
            never_overwrites: false,
            names_series: false,
            names: HashSet::new(),
        }
    }

    fn request(&mut self) -> Result<(), OutlineError> {
        let mut reader = Reader::new(self.body)?;
        if root(&mut reader)?.empty {
            return Ok(());
        }
        while let Some(part) = child(&mut reader)? {
            if !part.is(Space::Soap, "Body") || part.empty {
                skip(&mut reader, &part)?;
                continue;
            }
            return match child(&mut reader)? {
                Some(operation) if !operation.empty => {
                    let resolution = reader.value(&operation, "ConflictResolution")?;
                    self.never_overwrites = resolution.as_deref() == Some("NeverOverwrite");
                    self.settings(&mut reader)
                }
                _ => Ok(()),
            };
        }
        Ok(())
    }

    /// The children of the operation's element.
    fn settings(&mut self, reader: &mut Reader<'a>) -> Result<(), OutlineError> {
        let kinds = self.operation.arrays();
        while let Some(start) = child(reader)? {
            if kinds
                .iter()
                .any(|kind| start.is(Space::Messages, kind.container))
            {
                let arrays = self.outline.arrays();
                match arrays
                    .iter()
                    .find(|array| array.element().start == start.at)
                {
                    Some(array) => self.array(reader, &start, array)?,
                    // It cannot be cut, and would be in every part.
                    None => {
                        self.untouchable = true;
                        return Ok(());
                    }
                }
                continue;
            }
            match (self.operation.name(), start.local) {
                // Suggestions are made over all attendees together.
                ("GetUserAvailability", b"SuggestionsViewOptions")
                // Of all conversations together, or of each: not documented.
                | ("GetConversationItems", b"MaxItemsToReturn") => self.untouchable = true,
                ("AddDelegate" | "UpdateDelegate" | "RemoveDelegate", b"DeliverMeetingRequests") => {
                    let end = skip(reader, &start)?;
                    self.once = Some(start.at..end);
                    continue;
                }
                // Each part would respond with all of those, or with these, too.
                ("GetAppManifests", b"IncludeAllInstalledAddIns") => {
                    let all = reader.text(&start)?;
                    self.untouchable |= !matches!(&*all, "false" | "0");
                    continue;
                }
                ("GetAppManifests", b"AddIns") if !start.empty => {
                    while let Some(add_in) = child(reader)? {
                        self.untouchable = true;
                        skip(reader, &add_in)?;
                    }
                    continue;
                }
                ("CreateAttachment", b"ParentItemId") => {
                    self.parent_change_key = self.place(start.attribute("ChangeKey"));
                }
                _ => {}
            }
            skip(reader, &start)?;
        }
        Ok(())
    }

    fn look(&self) -> Look {
        match self.operation.name() {
            "GetItem" | "DeleteItem" | "MoveItem" | "CopyItem" | "SendItem" | "ArchiveItem"
            | "ExportItems" | "MarkAsJunk" | "ReportMessage" | "GetFolder" | "DeleteFolder"
            | "EmptyFolder" | "MoveFolder" | "CopyFolder" | "MarkAllItemsAsRead" | "FindItem"
            | "FindFolder" | "GetAttachment" | "DeleteAttachment" | "GetImItems" => Look::Id,
            "UploadItems"
            | "ApplyConversationAction"
            | "GetConversationItems"
            | "PerformReminderAction"
            | "GetMailTips" => Look::Children,
            "UpdateItem" | "UpdateFolder" => Look::Change,
            "CreateManagedFolder" | "GetAppManifests" | "AddDelegate" | "UpdateDelegate" => {
                Look::Children
            }
            _ => Look::Pass,
        }
    }

    fn array(
        &mut self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
        array: &ArrayOutline,
    ) -> Result<(), OutlineError> {
        let look = self.look();
        if start.empty {
            return Ok(());
        }
        if look == Look::Pass {
            reader.skip_to(array.element().end);
            return Ok(());
        }
        if array.kind().members.is_empty() {
            self.words(array);
        }
        let mut ends = array.members().iter().map(|member| member.end);
        while let Some(start) = child(reader)? {
            let end = ends.next().unwrap_or(start.end);
            let member = match look {
                Look::Id => self.id(reader, &start, end)?,
                Look::Change => self.change(reader, &start, end)?,
                _ => self.children(reader, &start, end)?,
            };
            self.members.push(member);
        }
        Ok(())
    }

    /// Members that are words of a text, if these are.
    fn words(&mut self, array: &ArrayOutline) {
        for member in array.members() {
            let word = self.body.get(member.clone()).unwrap_or_default();
            if !word.starts_with(b"<") {
                self.once(&String::from_utf8_lossy(word));
                self.members.push(Member::default());
            }
        }
    }

    /// The server looks for doubles in one request alone.
    fn once(&mut self, name: &str) {
        self.untouchable |= !self.names.insert(name.to_lowercase());
    }

    /// A member that is an id.
    fn id(
        &mut self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
        end: usize,
    ) -> Result<Member, OutlineError> {
        // Parallel deletions in one series conflict, and each changes what the next one finds.
        // Ranges of a master name occurrences too.
        self.names_series |= matches!(
            start.local,
            b"OccurrenceItemId" | b"RecurringMasterItemId" | b"RecurringMasterItemIdRanges"
        );
        let mailbox = self.mailbox(reader, start)?;
        if !start.empty && start.local != b"DistinguishedFolderId" {
            reader.skip_to(end);
        }
        let id = match self.operation == Operation::EXPORT_ITEMS {
            true => reader.value(start, "Id")?.map(Into::into),
            false => None,
        };
        Ok(Member {
            mailbox,
            id,
            ..Member::default()
        })
    }

    /// A member whose first child says what it changes.
    fn change(
        &mut self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
        end: usize,
    ) -> Result<Member, OutlineError> {
        let mut member = Member::default();
        if start.empty {
            return Ok(member);
        }
        let Some(target) = child(reader)? else {
            return Ok(member);
        };
        // An occurrence is changed with its master.
        let id = ["Id", "RecurringMasterId", "OccurrenceId"];
        for name in id {
            if let Some(value) = reader.value(&target, name)? {
                member.id = Some(value.into());
                break;
            }
        }
        if matches!(target.local, b"ItemId" | b"FolderId") && !self.never_overwrites {
            member.change_key = self.place(target.attribute("ChangeKey"));
        }
        member.mailbox = self.mailbox(reader, &target)?;
        if !target.empty && target.local != b"DistinguishedFolderId" {
            skip(reader, &target)?;
        }
        reader.skip_to(end);
        Ok(member)
    }

    /// A member with the ids, or what else matters, in its children.
    fn children(
        &mut self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
        end: usize,
    ) -> Result<Member, OutlineError> {
        let name = self.operation.name();
        // Not so `UpdateOrCreate`: it creates a new item, and another one the second time, where it
        // does not find the given one.
        let updates = name == "UploadItems"
            && reader.value(start, "CreateAction")?.as_deref() == Some("Update");
        let mut member = Member {
            repeats: matches!(name, "UploadItems" | "ApplyConversationAction"),
            ..Member::default()
        };
        if start.empty {
            return Ok(member);
        }
        if matches!(name, "CreateManagedFolder" | "GetAppManifests") {
            self.once(&reader.text(start)?);
            return Ok(member);
        }
        while let Some(part) = child(reader)? {
            match (name, part.local) {
                ("UploadItems", b"ParentFolderId") => {
                    member.mailbox = self.mailbox(reader, &part)?;
                    // What follows is large. It matters only for an update, which needs an id.
                    if part.empty && !updates {
                        reader.skip_to(end);
                        return Ok(member);
                    }
                }
                ("ApplyConversationAction", b"Action") => {
                    member.repeats = repeats(&reader.text(&part)?);
                    continue;
                }
                ("GetMailTips", b"EmailAddress") => {
                    member.id = Some(reader.text(&part)?.to_lowercase().into());
                    continue;
                }
                (_, b"ReceiveCopiesOfMeetingMessages") => {
                    member.receives_copies = matches!(&*reader.text(&part)?, "true" | "1");
                    continue;
                }
                (_, b"ConversationId" | b"ItemId") => {
                    // An update converges only if it names its item.
                    member.repeats &= !updates;
                    if member.mailbox.is_none() {
                        member.mailbox = self.mailbox(reader, &part)?;
                    }
                }
                _ => {}
            }
            skip(reader, &part)?;
        }
        Ok(member)
    }

    /// A number for the mailbox that an id names. Goes behind the end of a distinguished folder's
    /// element.
    fn mailbox(
        &self,
        reader: &mut Reader<'a>,
        start: &Start<'a>,
    ) -> Result<Option<u64>, OutlineError> {
        if start.local != b"DistinguishedFolderId" {
            let id = ["Id", "RecurringMasterId", "OccurrenceId"]
                .iter()
                .find_map(|name| start.attribute(name));
            let id = id.and_then(|id| std::str::from_utf8(id).ok());
            return Ok(id.and_then(mailbox_guid).map(number));
        }
        // Without a mailbox it is the caller's own.
        let mut mailbox = String::new();
        if !start.empty {
            while let Some(part) = child(reader)? {
                if part.local != b"Mailbox" || part.empty {
                    skip(reader, &part)?;
                    continue;
                }
                while let Some(part) = child(reader)? {
                    if part.local == b"EmailAddress" {
                        mailbox = reader.text(&part)?.to_lowercase();
                    } else {
                        skip(reader, &part)?;
                    }
                }
            }
        }
        Ok(Some(number(mailbox)))
    }

    /// Where a slice of the body stands in it.
    fn place(&self, part: Option<&[u8]>) -> Option<Range<usize>> {
        let part = part?;
        let start = (part.as_ptr() as usize).checked_sub(self.body.as_ptr() as usize)?;
        let range = start..start.checked_add(part.len())?;
        (self.body.get(range.clone()) == Some(part)).then_some(range)
    }
}

/// Whether an action on a conversation does more the second time: a copy is made again; a rule that
/// stands may be set again, but nobody says so.
fn repeats(action: &str) -> bool {
    !matches!(
        action,
        "Move" | "Delete" | "SetReadState" | "SetRetentionPolicy" | "Flag"
    )
}

fn number(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
