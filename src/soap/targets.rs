//! Whose data a request touches: explicit mailboxes, mailboxes inside ids, and the weight of a
//! find.
use std::collections::HashSet;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use smallvec::SmallVec;
use uuid::Uuid;

use super::elements::child;
use super::item_id::{self, mailbox_guid};
use super::operation::Operation;
use super::outline::{ArrayOutline, Outline};
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Reader, Start};

/// What the body of a request says about the mailboxes that it touches, and how much a find may
/// hold.
///
/// People who are only mentioned (recipients, attendees, senders, delegates, names to resolve) are
/// no targets.
///
/// ```
/// use tower_ews::soap::Outline;
///
/// let body = br#"<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>
///   <FindItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"
///       xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types">
///     <IndexedPageItemView MaxEntriesReturned="100" Offset="0" BasePoint="Beginning"/>
///     <ParentFolderIds>
///       <t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>ada@contoso.com</t:EmailAddress></t:Mailbox>
///       </t:DistinguishedFolderId>
///       <t:DistinguishedFolderId Id="calendar"/>
///     </ParentFolderIds>
///   </FindItem></Body></Envelope>"#;
/// let targets = Outline::parse(body)?.targets(body);
/// assert_eq!(&*targets.mailboxes[0], "ada@contoso.com");
/// assert_eq!((targets.folders, targets.page_size), (2, Some(100)));
/// # Ok::<(), tower_ews::soap::OutlineError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Targets {
    /// Mailboxes that the body names, each once (case does not count), trimmed. Mostly SMTP
    /// addresses; a legacy DN (`/o=...`) where the request uses one.
    pub mailboxes: Vec<Box<str>>,
    /// Mailbox GUIDs that were read from item ids and folder ids, each once. See [`mailbox_guid`].
    pub guids: Vec<Uuid>,
    /// `MaxEntriesReturned` of a page view.
    pub page_size: Option<u32>,
    /// How many parent folders a find asks for.
    pub folders: u32,
    /// A restriction or a query string narrows the find.
    pub has_restriction: bool,
}

impl Outline {
    /// Walks the parts of the body that can name mailboxes. It must be the body that this outline
    /// was made from; with another one the result means nothing.
    pub fn targets(&self, body: &[u8]) -> Targets {
        find(self, body)
    }

    /// Whether [`targets`](Self::targets) can have mailboxes at all.
    pub(crate) fn may_name_mailbox(&self, body: &[u8]) -> bool {
        let element = body.get(self.operation_element()).unwrap_or(body);
        may_name_mailbox(self.operation(), element)
    }
}

/// Walks the operation's element. A body that breaks off gives what came before.
fn find(outline: &Outline, body: &[u8]) -> Targets {
    let mut walk = Walk {
        operation: outline.operation(),
        arrays: outline.arrays(),
        ..Walk::default()
    };
    let mut reader = Reader::within(body, outline.operation_element(), outline.scope());
    // The body had an outline, so that it is sound; a wrong one ends the walk.
    if let Ok(Some(operation)) = child(&mut reader) {
        if !operation.empty {
            let _broken = walk.children(&mut reader);
        }
    }
    walk.targets
}

static MAILBOX: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("Mailbox"));

/// False where one look for a word shows that the operation's element names no mailbox, which saves
/// the walk.
fn may_name_mailbox(operation: Option<Operation>, element: &[u8]) -> bool {
    // The others name mailboxes by other words too: see `Walk::names_mailbox`.
    let by_that_word = matches!(
        operation,
        Some(
            Operation::CREATE_ITEM
                | Operation::GET_ITEM
                | Operation::UPDATE_ITEM
                | Operation::DELETE_ITEM
                | Operation::SEND_ITEM
                | Operation::MOVE_ITEM
                | Operation::GET_FOLDER
                | Operation::FIND_FOLDER
                | Operation::FIND_ITEM
                | Operation::SYNC_FOLDER_ITEMS
                | Operation::SYNC_FOLDER_HIERARCHY
        )
    );
    !by_that_word || MAILBOX.find(element).is_some()
}

#[derive(Default)]
struct Walk<'a> {
    operation: Option<Operation>,
    arrays: &'a [ArrayOutline],
    /// Local names from the operation's child down to the innermost open element.
    path: SmallVec<[&'a [u8]; 8]>,
    targets: Targets,
    known: HashSet<String>,
    known_guids: HashSet<Uuid>,
    /// What the last id began with: as a rule the next one is of the same mailbox.
    last_id: &'a [u8],
}

impl<'a> Walk<'a> {
    /// Walks what is inside the operation's element. The loop keeps the path, so that depth costs
    /// no stack.
    fn children(&mut self, reader: &mut Reader<'a>) -> Result<(), OutlineError> {
        loop {
            let Some(start) = child(reader)? else {
                if self.path.pop().is_none() {
                    return Ok(());
                }
                continue;
            };
            let ews = matches!(start.space, Space::Messages | Space::Types);
            self.path.push(start.local);
            if ews {
                self.look(reader, &start)?;
            }
            if start.empty {
                self.path.pop();
            } else if ews && self.names_mailbox() {
                let mailbox = reader.text(&start)?;
                self.mailbox(&mailbox);
                self.path.pop();
            } else if !ews || self.is_content() {
                match self.member_end(start.at) {
                    Some(end) => reader.skip_to(end),
                    None => {
                        reader.skip()?;
                    }
                }
                self.path.pop();
            }
        }
    }

    /// Where the member ends that begins here, if one does: the outline knows.
    fn member_end(&mut self, at: usize) -> Option<usize> {
        // Both are in document order: an array that the walk has passed is not looked at again.
        while let Some((first, rest)) = self.arrays.split_first() {
            #[cfg(test)]
            tests::LOOKS.set(tests::LOOKS.get() + 1);
            if first.element().end > at {
                break;
            }
            self.arrays = rest;
        }
        let members = self.arrays.first()?.members();
        let found = members
            .binary_search_by_key(&at, |member| member.start)
            .ok()?;
        members.get(found).map(|member| member.end)
    }

    /// Attributes, and what is there at all.
    fn look(&mut self, reader: &Reader<'a>, start: &Start<'a>) -> Result<(), OutlineError> {
        let is_find = matches!(
            self.operation,
            Some(Operation::FIND_ITEM | Operation::FIND_FOLDER)
        );
        match *self.path {
            [b"Restriction" | b"QueryString"] => self.targets.has_restriction = true,
            [view] if view.ends_with(b"View") => {
                if let Some(size) = reader.value(start, "MaxEntriesReturned")? {
                    self.targets.page_size = size.parse().ok();
                }
            }
            [b"ParentFolderIds", _] if is_find => self.targets.folders += 1,
            [b"SourceIds", b"AlternateId"] => {
                if let Some(mailbox) = reader.value(start, "Mailbox")? {
                    self.mailbox(&mailbox);
                }
                if reader.value(start, "Format")?.as_deref() == Some("EwsId") {
                    self.id(start.attribute("Id"));
                }
            }
            [
                ..,
                b"ItemId"
                | b"FolderId"
                | b"ParentFolderId"
                | b"ParentItemId"
                | b"ReferenceItemId"
                | b"AttachmentId"
                | b"ConversationId"
                | b"RecurringMasterItemIdRanges"
                | b"PersonaId"
                | b"SharingFolderId"
                | b"ContactId"
                | b"GroupId",
            ] => self.id(start.attribute("Id")),
            [.., b"OccurrenceItemId"] => self.id(start.attribute("RecurringMasterId")),
            [.., b"RecurringMasterItemId"] => self.id(start.attribute("OccurrenceId")),
            _ => {}
        }
        Ok(())
    }

    /// Whether the text of the innermost element is a mailbox whose data is touched.
    fn names_mailbox(&self) -> bool {
        let name = self.operation.map_or("", Operation::name);
        match *self.path {
            [.., b"DistinguishedFolderId", b"Mailbox", b"EmailAddress"] => true,
            [b"Mailbox", b"EmailAddress"] => {
                matches!(
                    name,
                    "GetDelegate"
                        | "AddDelegate"
                        | "RemoveDelegate"
                        | "UpdateDelegate"
                        | "CreateManagedFolder"
                )
            }
            [b"Mailbox", b"Address"] => matches!(name, "GetUserOofSettings" | "SetUserOofSettings"),
            [b"MailboxDataArray", b"MailboxData", b"Email", b"Address"] => {
                name == "GetUserAvailability"
            }
            [b"MailboxSmtpAddress"] => true,
            [b"SendingAs", b"EmailAddress"] => name == "GetMailTips",
            [b"ActingAs", b"EmailAddress"] => name == "GetServiceConfiguration",
            [b"Email"] => matches!(name, "GetUserPhoto" | "SetUserPhoto"),
            [b"EmailAddress"] => matches!(name, "SetTeamMailbox" | "UnpinTeamMailbox"),
            [b"SmtpAddress"] => name == "GetSharingFolder",
            [b"SenderSmtpAddress"] => name == "GetSharingMetadata",
            [b"Mailboxes", b"String"] => name == "SetHoldOnMailboxes",
            [b"Mailboxes", b"LegacyDN"] => {
                matches!(
                    name,
                    "GetNonIndexableItemStatistics" | "GetNonIndexableItemDetails"
                )
            }
            [
                b"SearchQueries",
                b"MailboxQuery",
                b"MailboxSearchScopes",
                b"MailboxSearchScope",
                b"Mailbox",
            ] => name == "SearchMailboxes",
            _ => false,
        }
    }

    /// Whether the innermost element is content or people, with no target in it. Large as a rule.
    fn is_content(&self) -> bool {
        let is = |operation| self.operation == Some(operation);
        match *self.path {
            [b"Items", member] if is(Operation::CREATE_ITEM) => !matches!(
                member,
                b"ReplyToItem"
                    | b"ForwardItem"
                    | b"ReplyAllToItem"
                    | b"AcceptItem"
                    | b"TentativelyAcceptItem"
                    | b"DeclineItem"
                    | b"CancelCalendarItem"
                    | b"RemoveItem"
                    | b"SuppressReadReceipt"
                    | b"PostReplyItem"
                    | b"AcceptSharingInvitation"
            ),
            // Of a reply or a meeting response only the reference matters.
            [b"Items", _, _] if is(Operation::CREATE_ITEM) => true,
            [b"Items", b"Item", part] if is(Operation::UPLOAD_ITEMS) => {
                !matches!(part, b"ParentFolderId" | b"ItemId")
            }
            [b"ItemChanges" | b"FolderChanges", _, b"Updates"]
            | [
                b"Updates"
                | b"Attachments"
                | b"Folders"
                | b"RelativeFolderPath"
                | b"Restriction"
                | b"QueryString"
                | b"ItemShape"
                | b"FolderShape"
                | b"SortOrder"
                | b"UserIds"
                | b"DelegateUsers"
                | b"Recipients"
                | b"Attendees"
                | b"UnresolvedEntry"
                | b"UserOofSettings"
                | b"TimeZone"
                | b"TokenRequests"
                | b"Operations",
            ] => true,
            _ => false,
        }
    }

    fn mailbox(&mut self, mailbox: &str) {
        if !mailbox.is_empty() && self.known.insert(mailbox.to_lowercase()) {
            self.targets.mailboxes.push(mailbox.into());
        }
    }

    fn id(&mut self, id: Option<&'a [u8]>) {
        // Base64 needs no entity, so that an id with one is not readable and no more is lost.
        let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) else {
            return;
        };
        let head = item_id::head(id);
        if std::mem::replace(&mut self.last_id, head) == head {
            return;
        }
        if let Some(guid) = mailbox_guid(id).filter(|guid| self.known_guids.insert(*guid)) {
            self.targets.guids.push(guid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::soap::Outline;

    thread_local! {
        /// Looks at arrays, of this thread.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

    #[test]
    fn an_array_that_comes_again_and_again_costs_no_more_than_its_length() {
        for n in [10, 1_000, 10_000] {
            let arrays = r#"<m:Items><t:Message><t:Body>x</t:Body></t:Message><t:AcceptItem><t:ReferenceItemId Id="x"/></t:AcceptItem></m:Items><m:Items/>"#.repeat(n);
            let body = format!(
                r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body><m:CreateItem>{arrays}<m:SavedItemFolderId><t:DistinguishedFolderId Id="inbox"><t:Mailbox><t:EmailAddress>bo@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId></m:SavedItemFolderId></m:CreateItem></s:Body></s:Envelope>"#
            );
            let outline = Outline::parse(body.as_bytes()).unwrap();
            assert_eq!(outline.arrays().len(), 2 * n);
            LOOKS.set(0);
            let targets = outline.targets(body.as_bytes());
            assert_eq!(targets.mailboxes, [Box::from("bo@contoso.com")]);
            assert!(LOOKS.get() <= 4 * n, "{} looks for {n} arrays", LOOKS.get());
        }
    }

    #[test]
    fn the_look_for_a_word_misses_no_mailbox() {
        let folder = |inside: &str| {
            format!(r#"<t:DistinguishedFolderId Id="inbox">{inside}</t:DistinguishedFolderId>"#)
        };
        let named =
            folder("<t:Mailbox><t:EmailAddress>bo@contoso.com</t:EmailAddress></t:Mailbox>");
        for (operation, array) in [
            ("CreateItem", "SavedItemFolderId"),
            ("GetFolder", "FolderIds"),
            ("FindItem", "ParentFolderIds"),
            ("SyncFolderItems", "SyncFolderId"),
        ] {
            for (folder, names) in [(&named, true), (&folder(""), false)] {
                // What the header says is not looked at.
                let body = format!(
                    r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:Mailbox/></s:Header><s:Body><m:{operation}><m:{array}>{folder}</m:{array}></m:{operation}></s:Body></s:Envelope>"#
                );
                let outline = Outline::parse(body.as_bytes()).unwrap();
                let mailboxes = outline.targets(body.as_bytes()).mailboxes;
                assert_eq!(mailboxes.is_empty(), !names, "{operation}");
                assert_eq!(
                    outline.may_name_mailbox(body.as_bytes()),
                    names,
                    "{operation}"
                );
            }
        }
    }
}
