//! The operations that the server knows: their members, their answers, and what every one of them needs.

mod directory;
mod find;
mod folders;
mod items;
mod restriction;
mod sync;

use std::fmt::Write as _;
use std::time::Duration;

use super::account::Account;
use super::budget::{Budgets, Payer};
use super::id::Id;
use super::mailbox::{Mailbox, Place, Store};
use super::policy::Policy;
use super::report::Counters;
use super::soap::Failure;
use super::xml::{Element, Ns};

/// An operation of the simulated server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    GetFolder,
    FindFolder,
    CreateFolder,
    DeleteFolder,
    FindItem,
    GetItem,
    CreateItem,
    UpdateItem,
    DeleteItem,
    SendItem,
    MoveItem,
    CopyItem,
    SyncFolderItems,
    SyncFolderHierarchy,
    ConvertId,
    ResolveNames,
    GetServerTimeZones,
    GetUserAvailability,
}

use Operation::*;

const ALL: [(Operation, &str); 18] = [
    (GetFolder, "GetFolder"),
    (FindFolder, "FindFolder"),
    (CreateFolder, "CreateFolder"),
    (DeleteFolder, "DeleteFolder"),
    (FindItem, "FindItem"),
    (GetItem, "GetItem"),
    (CreateItem, "CreateItem"),
    (UpdateItem, "UpdateItem"),
    (DeleteItem, "DeleteItem"),
    (SendItem, "SendItem"),
    (MoveItem, "MoveItem"),
    (CopyItem, "CopyItem"),
    (SyncFolderItems, "SyncFolderItems"),
    (SyncFolderHierarchy, "SyncFolderHierarchy"),
    (ConvertId, "ConvertId"),
    (ResolveNames, "ResolveNames"),
    (GetServerTimeZones, "GetServerTimeZones"),
    (GetUserAvailability, "GetUserAvailability"),
];

impl Operation {
    /// The operation of a request element.
    pub(super) fn of(element: &Element) -> Option<Self> {
        let name = match element.name.as_str() {
            "GetUserAvailabilityRequest" => "GetUserAvailability",
            name => name,
        };
        ALL.iter()
            .find(|(_, known)| element.ns == Ns::Messages && *known == name)
            .map(|(operation, _)| *operation)
    }

    pub(super) fn name(self) -> &'static str {
        ALL.iter()
            .find(|(operation, _)| *operation == self)
            .map_or("", |(_, name)| name)
    }

    pub(super) fn is_sync(self) -> bool {
        matches!(self, SyncFolderItems | SyncFolderHierarchy)
    }

    fn writes(self) -> bool {
        matches!(
            self,
            CreateFolder
                | DeleteFolder
                | CreateItem
                | UpdateItem
                | DeleteItem
                | SendItem
                | MoveItem
                | CopyItem
        )
    }

    /// The members of the request's array; `None` when it should have some and has none.
    pub(super) fn members(self, element: &Element) -> Option<Vec<&Element>> {
        let array = match self {
            GetFolder | DeleteFolder => "FolderIds",
            FindFolder | FindItem => "ParentFolderIds",
            CreateFolder => "Folders",
            GetItem | DeleteItem | SendItem | MoveItem | CopyItem => "ItemIds",
            CreateItem => "Items",
            UpdateItem => "ItemChanges",
            ConvertId => "SourceIds",
            GetUserAvailability => "MailboxDataArray",
            SyncFolderItems | SyncFolderHierarchy | ResolveNames | GetServerTimeZones => {
                return Some(vec![element]);
            }
        };
        let members: Vec<&Element> = element.child(array)?.children().collect();
        (!members.is_empty()).then_some(members)
    }

    /// What stands in a response message in error after the error itself.
    fn nothing(self) -> &'static str {
        match self {
            GetItem | CreateItem | MoveItem | CopyItem | UpdateItem => "<m:Items/>",
            GetFolder | CreateFolder => "<m:Folders/>",
            GetServerTimeZones => "<m:TimeZoneDefinitions/>",
            _ => "",
        }
    }

    /// The whole response element around the answers of all members.
    pub(super) fn response(self, answers: &[Result<String, Failure>]) -> String {
        let name = self.name();
        let availability = self == GetUserAvailability;
        let (array, entry) = if availability {
            ("FreeBusyResponseArray", "ResponseMessage".to_owned())
        } else {
            ("ResponseMessages", format!("{name}ResponseMessage"))
        };
        let mut out = format!("<m:{name}Response><m:{array}>");
        for answer in answers {
            if availability {
                out.push_str("<m:FreeBusyResponse>");
            }
            match answer {
                Ok(payload) => {
                    let _ = write!(
                        out,
                        "<m:{entry} ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>"
                    );
                    // Here the payload stands beside the message, not in it.
                    if availability {
                        let _ = write!(out, "</m:{entry}>{payload}");
                    } else {
                        let _ = write!(out, "{payload}</m:{entry}>");
                    }
                }
                Err(failure) => {
                    let _ = write!(out, "<m:{entry} ResponseClass=\"Error\">");
                    failure.message(&mut out);
                    let _ = write!(out, "{}</m:{entry}>", self.nothing());
                }
            }
            if availability {
                out.push_str("</m:FreeBusyResponse>");
            }
        }
        let _ = write!(out, "</m:{array}></m:{name}Response>");
        out
    }
}

/// The addresses that a request names explicitly, and the mailboxes that its ids belong to.
pub(super) fn touched(element: &Element, store: &mut Store) -> Vec<usize> {
    let mut addresses = Vec::new();
    let mut guids = Vec::new();
    element.walk(&mut |element| match element.name.as_str() {
        "DistinguishedFolderId" => {
            addresses.extend(element.at(&["Mailbox", "EmailAddress"]).map(Element::text));
        }
        "MailboxData" => addresses.extend(element.at(&["Email", "Address"]).map(Element::text)),
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
    pub(super) operation: Operation,
}

/// A failure of one member.
type Outcome = Result<String, Failure>;

impl Context<'_> {
    /// Checks what the whole call depends on: an error is its only response message.
    pub(super) fn prepare(&mut self, request: &Element) -> Result<(), Failure> {
        match self.operation {
            CreateItem => items::check_saved_folder(self, request),
            MoveItem | CopyItem => items::check_target(self, request),
            _ => Ok(()),
        }
    }

    /// Executes one member.
    pub(super) fn execute(&mut self, request: &Element, member: &Element) -> Outcome {
        match self.operation {
            GetFolder => folders::get(self, request, member),
            FindFolder => folders::find(self, request, member),
            CreateFolder => folders::create(self, request, member),
            DeleteFolder => folders::delete(self, member),
            FindItem => find::find(self, request, member),
            GetItem => items::get(self, request, member),
            CreateItem => items::create(self, request, member),
            UpdateItem => items::update(self, request, member),
            DeleteItem => items::delete(self, request, member),
            SendItem => items::send(self, request, member),
            MoveItem | CopyItem => items::relocate(self, request, member),
            SyncFolderItems => sync::items(self, request),
            SyncFolderHierarchy => sync::hierarchy(self, request),
            ConvertId => directory::convert_id(request, member),
            ResolveNames => directory::resolve_names(self, request),
            GetServerTimeZones => Ok(directory::time_zones(request)),
            GetUserAvailability => directory::availability(self, request, member),
        }
    }

    /// The simulated date and time.
    fn stamp(&self) -> String {
        super::clock::stamp(self.now.as_secs())
    }

    /// Lets the caller into a mailbox: its rights, and the mailboxes that it may have open.
    fn enter(&mut self, mailbox: usize) -> Result<(), Failure> {
        if self.effective == Some(mailbox) {
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
        if self
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
            "FolderId" => {
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

    /// The mailbox and place of an `ItemId`, entered.
    fn item(&mut self, id: &Element) -> Result<(usize, Place), Failure> {
        let missing = || {
            Failure::new(
                "ErrorItemNotFound",
                "The specified object was not found in the store.",
            )
        };
        if id.name != "ItemId" {
            return Err(missing());
        }
        let id = id
            .attribute("Id")
            .and_then(Id::decode)
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
