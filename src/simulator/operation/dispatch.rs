//! Which function executes which operation.

use super::super::failure::Failure;
use super::super::xml::Element;
use super::catalog::Operation::*;
use super::context::Context;
use super::response::MemberResult;
use super::{
    attachments, delegates, directory, discovery, find, folder_moves, folders, items,
    notifications, sync, transfer,
};

impl Context<'_> {
    /// Checks what the whole call depends on: an error is its only response message.
    pub(in super::super) fn prepare(&mut self, request: &Element) -> Result<(), Failure> {
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
    pub(in super::super) fn execute(
        &mut self,
        request: &Element,
        member: &Element,
    ) -> MemberResult {
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
            SearchMailboxes => discovery::search(self, request),
            Subscribe => notifications::subscribe(self, request),
            Unsubscribe => notifications::unsubscribe(self, request),
            GetEvents => notifications::get_events(self, request),
            GetStreamingEvents => notifications::get_streaming_events(self, request),
        }
    }

    /// What the response says after its messages.
    pub(in super::super) fn finish(&mut self, request: &Element) -> String {
        match self.operation {
            GetDelegate => delegates::meeting_requests(self, request),
            _ => String::new(),
        }
    }
}
