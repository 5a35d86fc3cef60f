//! What the execution of a member works with: the store, the budgets, and who calls.

use std::time::Duration;

use super::super::account::Account;
use super::super::affinity::Affinity;
use super::super::budget::{Budgets, Payer, Refused, Submission};
use super::super::clock;
use super::super::engine::scaled;
use super::super::failure::Failure;
use super::super::id::{Id, guid_text};
use super::super::mailbox::{ItemKey, Mailbox, Store};
use super::super::policy::Policy;
use super::super::report::Counters;
use super::super::subscription::Subscriptions;
use super::super::xml::Element;
use super::catalog::Operation;

/// What the execution of one member works with.
#[derive(Debug)]
pub(in super::super) struct Context<'a> {
    pub(in super::super) policy: &'a Policy,
    pub(in super::super) store: &'a mut Store,
    pub(in super::super) budgets: &'a mut Budgets,
    pub(in super::super) subscriptions: &'a mut Subscriptions,
    pub(in super::super) affinity: &'a Affinity,
    pub(in super::super) counters: &'a mut Counters,
    pub(in super::super) caller: &'a Account,
    /// The server that executes it, and the cookie that keeps the client there.
    pub(in super::super) server: usize,
    pub(in super::super) cookie: Option<usize>,
    /// The impersonated mailbox, else the caller's own, if it has one.
    pub(in super::super) effective: Option<usize>,
    pub(in super::super) payers: &'a [Payer],
    pub(in super::super) old_version: bool,
    /// Policy time.
    pub(in super::super) now: Duration,
    /// How much faster than real time policy time is.
    pub(in super::super) speed: f64,
    /// How long the member took, policy time.
    pub(in super::super) took: Duration,
    /// Rows that the call has in memory.
    pub(in super::super) rows: &'a mut u32,
    pub(in super::super) scratch: &'a mut Scratch,
    pub(in super::super) operation: Operation,
}

/// What the members of one call know of those before them.
#[derive(Debug, Default)]
pub(in super::super) struct Scratch {
    /// The mailboxes that the call has touched.
    mailboxes: Vec<usize>,
    /// Whether it has changed the item whose change key it came with.
    pub(super) changed: bool,
    /// What it sends on after its response.
    pub(in super::super) hanging: Option<Hanging>,
}

/// A stream that a call has opened.
#[derive(Clone, Debug)]
pub(in super::super) struct Hanging {
    pub(in super::super) number: u64,
    pub(in super::super) ids: Vec<String>,
    /// Policy time.
    pub(in super::super) lasts: Duration,
}

impl Context<'_> {
    /// Counts something done to what has this name.
    pub(super) fn done(&mut self, marker: &str) {
        self.counters.done(self.operation.name(), marker);
    }

    /// The simulated date and time.
    pub(super) fn stamp(&self) -> String {
        clock::stamp(self.now.as_secs())
    }

    /// Lets the caller into a mailbox: its rights, and the mailboxes that it may have open.
    pub(super) fn enter(&mut self, mailbox: usize) -> Result<(), Failure> {
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
            Some(mailbox) => (mailbox.address.clone(), guid_text(&mailbox.guid)),
            None => return Err(Failure::no_mailbox()),
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
        self.counters.violation("open mailboxes");
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

    /// Submits a message to its recipients, or says why it cannot be sent now.
    pub(super) fn submit(&mut self, recipients: u64) -> Result<(), Failure> {
        let submitted = self
            .budgets
            .submit(self.policy, self.payers, recipients, self.now);
        match submitted {
            Ok(Submission::InTime) => Ok(()),
            Ok(Submission::Late) => {
                self.counters.violation("MessageRateLimit");
                Ok(())
            }
            Err(Refused::Messages(wait)) => {
                self.counters.violation("MessageRateLimit");
                self.counters.throttled("ErrorServerBusy");
                Err(Failure::busy(Some(scaled(wait, 1.0 / self.speed))))
            }
            Err(Refused::Recipients) => {
                self.counters.violation("RecipientRateLimit");
                self.counters.throttled("ErrorSubmissionQuotaExceeded");
                Err(Failure::submission_quota())
            }
        }
    }

    /// The mailbox and folder of a `FolderId` or `DistinguishedFolderId`, entered.
    pub(super) fn folder(&mut self, id: &Element) -> Result<(usize, u64), Failure> {
        let found = self.locate(id)?;
        self.enter(found.0)?;
        Ok(found)
    }

    /// The same, from outside.
    pub(super) fn locate(&mut self, id: &Element) -> Result<(usize, u64), Failure> {
        let missing = || {
            Failure::new(
                "ErrorFolderNotFound",
                "The specified folder could not be found in the store.",
            )
        };
        let (mailbox, number) = match id.name.as_str() {
            "DistinguishedFolderId" => {
                let mailbox = match id.at(&["Mailbox", "EmailAddress"]) {
                    Some(address) => self
                        .store
                        .find(&address.text())
                        .ok_or_else(Failure::no_mailbox)?,
                    None => self.effective.ok_or_else(Failure::no_mailbox)?,
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
                    .ok_or_else(Failure::malformed_id)?;
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
            _ => return Err(Failure::malformed_id()),
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

    /// The mailbox and item_key of an `ItemId`, or of the item of an `AttachmentId`, entered.
    pub(super) fn item(&mut self, id: &Element) -> Result<(usize, ItemKey), Failure> {
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
            .ok_or_else(Failure::malformed_id)?;
        let Some(item) = id.item else {
            return Err(Failure::new(
                "ErrorCannotUseFolderIdForItemId",
                "A folder id is no item id.",
            ));
        };
        let mailbox = self.store.by_guid(&id.mailbox).ok_or_else(missing)?;
        self.enter(mailbox)?;
        let item_key = (id.folder, item);
        match self
            .store
            .get(mailbox)
            .is_some_and(|mailbox| mailbox.items.contains_key(&item_key))
        {
            true => Ok((mailbox, item_key)),
            false => Err(missing()),
        }
    }

    pub(super) fn mailbox(&self, index: usize) -> Result<&Mailbox, Failure> {
        self.store.get(index).ok_or_else(Failure::no_mailbox)
    }

    pub(super) fn mailbox_mut(&mut self, index: usize) -> Result<&mut Mailbox, Failure> {
        self.store.get_mut(index).ok_or_else(Failure::no_mailbox)
    }
}
