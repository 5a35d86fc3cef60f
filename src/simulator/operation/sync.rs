//! SyncFolderItems and SyncFolderHierarchy, with the mailbox's version as synchronisation state.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::failure::Failure;
use super::super::item_xml::{write_folder, write_item};
use super::super::mailbox::{ItemKey, Mailbox};
use super::super::response_shape::ResponseShape;
use super::super::xml::Element;
use super::context::Context;
use super::response::MemberResult;

/// The version up to which a client knows a folder (0 for the hierarchy) of this mailbox.
fn known(request: &Element, guid: &str, folder: u64) -> Result<u64, Failure> {
    let state = request.child_text("SyncState").unwrap_or_default();
    if state.is_empty() {
        return Ok(0);
    }
    STANDARD
        .decode(&state)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| {
            text.strip_prefix(&format!("{guid}:{folder}:"))?
                .parse()
                .ok()
        })
        .ok_or_else(|| {
            Failure::new(
                "ErrorInvalidSyncStateData",
                "Synchronization state data is corrupt or otherwise invalid.",
            )
        })
}

fn state(guid: &str, folder: u64, version: u64) -> String {
    STANDARD.encode(format!("{guid}:{folder}:{version}"))
}

/// Something that happened to an item at a version.
enum Change {
    Create(ItemKey),
    Update(ItemKey),
    Delete(ItemKey),
}

/// What happened in a folder since a version, in order.
fn changes(mailbox: &Mailbox, folder: u64, since: u64) -> Vec<(u64, Change)> {
    let mut changes: Vec<(u64, Change)> = mailbox
        .items_in(folder)
        .filter(|(_, item)| item.version > since)
        .map(|(item_key, item)| {
            let change = if item.created > since {
                Change::Create(item_key)
            } else {
                Change::Update(item_key)
            };
            (item.version, change)
        })
        .collect();
    let gone = mailbox
        .gone
        .iter()
        .filter(|(version, (from, item))| *version > since && *from == folder && *item > 0);
    if since > 0 {
        changes.extend(gone.map(|(version, item_key)| (*version, Change::Delete(*item_key))));
    }
    changes.sort_by_key(|(version, _)| *version);
    changes
}

pub(super) fn items(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let id = request
        .child("SyncFolderId")
        .and_then(|id| id.children().next())
        .ok_or_else(Failure::malformed_id)?;
    let (index, folder) = context.folder(id)?;
    let mailbox = context.mailbox(index)?;
    let guid = super::super::id::guid_text(&mailbox.guid);
    let since = known(request, &guid, folder)?;
    let most = request
        .child_text("MaxChangesReturned")
        .and_then(|most| most.parse().ok())
        .unwrap_or(512)
        .min(512);
    let mut changes = changes(mailbox, folder, since);
    let last = changes.len() <= most;
    changes.truncate(most);
    let reached = if last {
        mailbox.version()
    } else {
        changes.last().map_or(since, |(version, _)| *version)
    };
    let shape = ResponseShape::of(request, "ItemShape", true);
    let mut out = format!(
        "<m:SyncState>{}</m:SyncState><m:IncludesLastItemInRange>{last}</m:IncludesLastItemInRange><m:Changes>",
        state(&guid, folder, reached)
    );
    for (_, change) in changes {
        let (tag, item_key) = match change {
            Change::Create(item_key) => ("Create", item_key),
            Change::Update(item_key) => ("Update", item_key),
            Change::Delete(item_key) => {
                out.push_str(&format!(
                    "<t:Delete><t:ItemId Id=\"{}\"/></t:Delete>",
                    mailbox.item_id(item_key)
                ));
                continue;
            }
        };
        if let Some(item) = mailbox.items.get(&item_key) {
            out.push_str(&format!("<t:{tag}>"));
            write_item(mailbox, item_key, item, &shape, &mut out);
            out.push_str(&format!("</t:{tag}>"));
        }
    }
    out.push_str("</m:Changes>");
    Ok(out)
}

pub(super) fn hierarchy(context: &mut Context<'_>, request: &Element) -> MemberResult {
    let (index, root) = match request
        .child("SyncFolderId")
        .and_then(|id| id.children().next())
    {
        Some(id) => context.folder(id)?,
        None => {
            let index = context.effective.ok_or_else(Failure::no_mailbox)?;
            context.enter(index)?;
            (
                index,
                context
                    .mailbox(index)?
                    .distinguished("root")
                    .ok_or_else(Failure::no_mailbox)?,
            )
        }
    };
    let mailbox = context.mailbox(index)?;
    let guid = super::super::id::guid_text(&mailbox.guid);
    let since = known(request, &guid, 0)?;
    let shape = ResponseShape::of(request, "FolderShape", false);
    let mut out = format!(
        "<m:SyncState>{}</m:SyncState><m:IncludesLastFolderInRange>true</m:IncludesLastFolderInRange><m:Changes>",
        state(&guid, 0, mailbox.version())
    );
    for (number, folder) in mailbox
        .folders
        .iter()
        .filter(|(number, folder)| **number != root && folder.version > since)
    {
        let tag = if folder.created > since {
            "Create"
        } else {
            "Update"
        };
        out.push_str(&format!("<t:{tag}>"));
        write_folder(mailbox, *number, &shape, &mut out);
        out.push_str(&format!("</t:{tag}>"));
    }
    if since > 0 {
        for (_, (number, _)) in mailbox
            .gone
            .iter()
            .filter(|(version, (_, item))| *version > since && *item == 0)
        {
            let id = mailbox.folder_id(*number);
            out.push_str(&format!("<t:Delete><t:FolderId Id=\"{id}\"/></t:Delete>"));
        }
    }
    out.push_str("</m:Changes>");
    Ok(out)
}
