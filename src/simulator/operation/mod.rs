//! What the operations do: the execution of one member, and what every one of them needs for it.

pub(super) mod attachments;
mod catalog;
mod delegates;
mod directory;
mod find;
mod folder_moves;
mod folders;
mod items;
mod restriction;
mod sync;
mod transfer;

use std::time::Duration;

use super::account::Account;
use super::budget::{Budgets, Payer};
use super::id::Id;
use super::mailbox::{Mailbox, Place, Store};
use super::policy::Policy;
use super::report::Counters;
use super::soap::Failure;
use super::xml::{Element, Ns};

pub(super) use self::catalog::{Answer, Operation};

use Operation::*;

/// The addresses that a request names explicitly, and the mailboxes that its ids belong to.
pub(super) fn touched(element: &Element, store: &mut Store) -> Vec<usize> {
    let mut addresses = Vec::new();
    let mut guids = Vec::new();
    element.walk(&mut |element| match element.name.as_str() {
        "DistinguishedFolderId" => {
            addresses.extend(element.at(&["Mailbox", "EmailAddress"]).map(Element::text));
        }
        "MailboxData" => addresses.extend(element.at(&["Email", "Address"]).map(Element::text)),
        // Whose delegates, and whose mail tips: in the messages namespace, unlike the mailboxes of recipients.
        "Mailbox" | "SendingAs" if element.ns == Ns::Messages => {
            addresses.extend(element.child_text("EmailAddress"));
        }
        _ => {
            if let Some(id) = element
                .attribute("Id")
                .filter(|id| id.len() > 60)
                .and_then(Id::decode)
            {
                guids.push(id.mailbox);
            }
        }
    });
    let mut found = Vec::new();
    for index in addresses
        .iter()
        .filter_map(|address| store.find(address))
        .collect::<Vec<_>>()
        .into_iter()
        .chain(guids.iter().filter_map(|guid| store.by_guid(guid)))
    {
        if !found.contains(&index) {
            found.push(index);
        }
    }
    found
}

/// What the execution of one member works with.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) policy: &'a Policy,
    pub(super) store: &'a mut Store,
    pub(super) budgets: &'a mut Budgets,
    pub(super) counters: &'a mut Counters,
    pub(super) caller: &'a Account,
    /// The impersonated mailbox, else the caller's own, if it has one.
    pub(super) effective: Option<usize>,
    pub(super) payers: &'a [Payer],
    pub(super) old_version: bool,
    /// Policy time.
    pub(super) now: Duration,
    /// Rows that the call has in memory.
    pub(super) rows: &'a mut u32,
    pub(super) scratch: &'a mut Scratch,
    pub(super) operation: Operation,
}

/// What the members of one call know of those before them.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The mailboxes that the call has touched.
    mailboxes: Vec<usize>,
    /// Whether it has changed the item whose change key it came with.
    changed: bool,
}

/// What becomes of one member: what its message carries, or its failure.
type Outcome = Result<String, Failure>;

impl Context<'_> {
    /// Checks what the whole call depends on: an error is its only response message.
    pub(super) fn prepare(&mut self, request: &Element) -> Result<(), Failure> {
        match self.operation {
            CreateItem | UpdateItem | SendItem => items::check_saved_folder(self, request),
            MoveItem | CopyItem | MoveFolder | CopyFolder => items::check_target(self, request),
            CreateFolder => folders::check_parent(self, request),
            ArchiveItem => items::check_archive_source(self, request),
            GetMailTips => directory::check_sender(self, request),
            GetDelegate | AddDelegate | UpdateDelegate | RemoveDelegate => {
                delegates::prepare(self, request)
            }
            _ => Ok(()),
        }
    }

    /// Executes one member.
    pub(super) fn execute(&mut self, request: &Element, member: &Element) -> Outcome {
        match self.operation {
            GetFolder => folders::get(self, request, member),
            FindFolder => folders::find(self, request, member),
            CreateFolder => folders::create(self, request, member),
            UpdateFolder => folders::update(self, member),
            DeleteFolder => folders::delete(self, request, member),
            MoveFolder | CopyFolder => folder_moves::relocate(self, request, member),
            EmptyFolder => folders::empty(self, request, member),
            MarkAllItemsAsRead => folders::mark_read(self, request, member),
            FindItem => find::find(self, request, member),
            GetItem => items::get(self, request, member),
            CreateItem => items::create(self, request, member),
            UpdateItem => items::update(self, request, member),
            DeleteItem => items::delete(self, request, member),
            SendItem => items::send(self, request, member),
            MoveItem | CopyItem => items::relocate(self, request, member),
            ArchiveItem => items::archive(self, member),
            MarkAsJunk => items::mark_junk(self, request, member),
            CreateAttachment => attachments::create(self, request, member),
            GetAttachment => attachments::get(self, member),
            DeleteAttachment => attachments::delete(self, member),
            ExportItems => transfer::export(self, member),
            UploadItems => transfer::upload(self, member),
            SyncFolderItems => sync::items(self, request),
            SyncFolderHierarchy => sync::hierarchy(self, request),
            ConvertId => directory::convert_id(request, member),
            ResolveNames => directory::resolve_names(self, request),
            GetServerTimeZones => Ok(directory::time_zones(request)),
            GetUserAvailability => directory::availability(self, request, member),
            GetMailTips => directory::mail_tips(self, member),
            GetDelegate => delegates::get(self, request, member),
            AddDelegate => delegates::add(self, request, member),
            UpdateDelegate => delegates::update(self, request, member),
            RemoveDelegate => delegates::remove(self, request, member),
        }
    }

    /// What the answer says after its messages.
    pub(super) fn finish(&mut self, request: &Element) -> String {
        match self.operation {
            GetDelegate => delegates::meeting_requests(self, request),
            _ => String::new(),
        }
    }

    /// Counts something done to what has this name.
    fn done(&mut self, marker: &str) {
        self.counters.done(self.operation.name(), marker);
    }

    /// The simulated date and time.
    fn stamp(&self) -> String {
        super::clock::stamp(self.now.as_secs())
    }

    /// Lets the caller into a mailbox: its rights, and the mailboxes that it may have open.
    fn enter(&mut self, mailbox: usize) -> Result<(), Failure> {
        let touched = &mut self.scratch.mailboxes;
        let more = !touched.contains(&mailbox);
        let full = |limit: u32| touched.len() >= limit as usize;
        let refused = more && self.policy.request_mailboxes.is_some_and(full);
        if more && !refused {
            touched.push(mailbox);
        }
        if self.effective == Some(mailbox) && !refused {
            return Ok(());
        }
        let (address, guid) = match self.store.get(mailbox) {
            Some(mailbox) => (mailbox.address.clone(), super::id::guid_text(&mailbox.guid)),
            None => return Err(no_mailbox()),
        };
        if !self.caller.may_open(&address) {
            return Err(Failure::new(
                "ErrorAccessDenied",
                "Access is denied. Check credentials and try again.",
            ));
        }
        let writes = self.operation.writes();
        if !refused
            && self
                .budgets
                .open(self.policy, self.caller.name(), mailbox, writes, self.now)
        {
            return Ok(());
        }
        self.counters.report.open_mailbox_violations += 1;
        self.counters.throttled("ErrorTooManyObjectsOpened");
        Err(Failure::new(
            "ErrorTooManyObjectsOpened",
            // The misspelling is the server's.
            format!(
                "Too many concurrent connections opened., Cannot open mailbox. Server = simulator.invalid, \
                 mdbGuid = 00000000-0000-0000-0000-000000000000, maiboxGuid = {guid}"
            ),
        ))
    }

    /// The mailbox and folder of a `FolderId` or `DistinguishedFolderId`, entered.
    fn folder(&mut self, id: &Element) -> Result<(usize, u64), Failure> {
        let found = self.locate(id)?;
        self.enter(found.0)?;
        Ok(found)
    }

    /// The same, from outside.
    fn locate(&mut self, id: &Element) -> Result<(usize, u64), Failure> {
        let missing = || {
            Failure::new(
                "ErrorFolderNotFound",
                "The specified folder could not be found in the store.",
            )
        };
        let (mailbox, number) = match id.name.as_str() {
            "DistinguishedFolderId" => {
                let mailbox = match id.at(&["Mailbox", "EmailAddress"]) {
                    Some(address) => self.store.find(&address.text()).ok_or_else(no_mailbox)?,
                    None => self.effective.ok_or_else(no_mailbox)?,
                };
                let name = id.attribute("Id").unwrap_or_default();
                let number = self
                    .store
                    .get(mailbox)
                    .and_then(|mailbox| mailbox.distinguished(name));
                (mailbox, number.ok_or_else(missing)?)
            }
            "FolderId" | "ParentFolderId" => {
                let id = id
                    .attribute("Id")
                    .and_then(Id::decode)
                    .ok_or_else(malformed_id)?;
                if id.item.is_some() {
                    return Err(Failure::new(
                        "ErrorCannotUseItemIdForFolderId",
                        "An item id is no folder id.",
                    ));
                }
                (
                    self.store.by_guid(&id.mailbox).ok_or_else(missing)?,
                    id.folder,
                )
            }
            _ => return Err(malformed_id()),
        };
        match self
            .store
            .get(mailbox)
            .is_some_and(|mailbox| mailbox.folders.contains_key(&number))
        {
            true => Ok((mailbox, number)),
            false => Err(missing()),
        }
    }

    /// The mailbox and place of an `ItemId`, or of the item of an `AttachmentId`, entered.
    fn item(&mut self, id: &Element) -> Result<(usize, Place), Failure> {
        let missing = || {
            Failure::new(
                "ErrorItemNotFound",
                "The specified object was not found in the store.",
            )
        };
        if !matches!(id.name.as_str(), "ItemId" | "ParentItemId" | "AttachmentId") {
            return Err(missing());
        }
        let attachment = id.name == "AttachmentId";
        let id = id
            .attribute("Id")
            .and_then(Id::decode)
            .filter(|id| id.attachment.is_some() == attachment)
            .ok_or_else(malformed_id)?;
        let Some(item) = id.item else {
            return Err(Failure::new(
                "ErrorCannotUseFolderIdForItemId",
                "A folder id is no item id.",
            ));
        };
        let mailbox = self.store.by_guid(&id.mailbox).ok_or_else(missing)?;
        self.enter(mailbox)?;
        let place = (id.folder, item);
        match self
            .store
            .get(mailbox)
            .is_some_and(|mailbox| mailbox.items.contains_key(&place))
        {
            true => Ok((mailbox, place)),
            false => Err(missing()),
        }
    }

    fn mailbox(&self, index: usize) -> Result<&Mailbox, Failure> {
        self.store.get(index).ok_or_else(no_mailbox)
    }

    fn mailbox_mut(&mut self, index: usize) -> Result<&mut Mailbox, Failure> {
        self.store.get_mut(index).ok_or_else(no_mailbox)
    }
}

pub(super) fn no_mailbox() -> Failure {
    Failure::new(
        "ErrorNonExistentMailbox",
        "The SMTP address has no mailbox associated with it.",
    )
}

fn malformed_id() -> Failure {
    Failure::new("ErrorInvalidIdMalformed", "Id is malformed.")
}
