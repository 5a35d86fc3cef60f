//! GetItem, CreateItem, UpdateItem, DeleteItem, SendItem, MoveItem, CopyItem, ArchiveItem,
//! MarkAsJunk.

use super::super::failure::Failure;
use super::super::fields;
use super::super::id::version_of;
use super::super::item_xml::{self, write_item};
use super::super::mailbox::{Folder, Item, ItemKey};
use super::super::response_shape::{ResponseShape, path_matches};
use super::super::xml::Element;
use super::catalog::Operation;
use super::context::Context;
use super::response::MemberResult;

/// Kinds of items that are kept; anything else (a response to a meeting, a reply) is accepted and
/// leaves nothing.
const STORED: [&str; 12] = [
    "Item",
    "Message",
    "CalendarItem",
    "Contact",
    "DistributionList",
    "Task",
    "PostItem",
    "MeetingMessage",
    "MeetingRequest",
    "MeetingResponse",
    "MeetingCancellation",
    "SharingMessage",
];

pub(super) fn get(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (index, item_key) = context.item(id)?;
    let mailbox = context.mailbox(index)?;
    let mut out = String::from("<m:Items>");
    if let Some(item) = mailbox.items.get(&item_key) {
        write_item(
            mailbox,
            item_key,
            item,
            &ResponseShape::of(request, "ItemShape", false),
            &mut out,
        );
    }
    out.push_str("</m:Items>");
    Ok(out)
}

/// The folder of `SavedItemFolderId`, if the request names one.
fn saved_folder(
    context: &mut Context<'_>,
    request: &Element,
) -> Option<Result<(usize, u64), Failure>> {
    let id = request.child("SavedItemFolderId")?.children().next()?;
    Some(context.folder(id))
}

pub(super) fn check_saved_folder(
    context: &mut Context<'_>,
    request: &Element,
) -> Result<(), Failure> {
    let id = request
        .child("SavedItemFolderId")
        .and_then(|folder| folder.children().next());
    match id.map(|id| context.locate(id)) {
        Some(Err(failure)) if failure.code == "ErrorFolderNotFound" => Err(Failure::new(
            "ErrorSavedItemFolderNotFound",
            "The specified save folder was not found.",
        )),
        Some(Err(failure)) => Err(failure),
        // Whether it may be opened each member says for itself.
        _ => Ok(()),
    }
}

/// Whether a request says what its kind of item needs: what to do with a message, or in the attribute `meetings` whom to
/// tell of a calendar item.
fn required(kind: &str, request: &Element, meetings: &str) -> Result<(), Failure> {
    let (attribute, items) = match kind {
        "CalendarItem" => (meetings, "calendar items"),
        "Message" => ("MessageDisposition", "messages"),
        _ => return Ok(()),
    };
    if request.attribute(attribute).is_some() {
        return Ok(());
    }
    Err(Failure::new(
        format!("Error{attribute}Required"),
        format!("The {attribute} attribute is required for {items}."),
    ))
}

/// Where an item of this kind goes if the request does not say.
fn default_folder(
    context: &mut Context<'_>,
    kind: &str,
    sends: bool,
) -> Result<(usize, u64), Failure> {
    let name = match kind {
        "CalendarItem" => "calendar",
        "Contact" | "DistributionList" => "contacts",
        "Task" => "tasks",
        "Message" if sends => "sentitems",
        "Message" => "drafts",
        _ => "inbox",
    };
    let index = context.effective.ok_or_else(Failure::no_mailbox)?;
    context.enter(index)?;
    let folder = context.mailbox(index)?.distinguished(name);
    Ok((index, folder.ok_or_else(Failure::no_mailbox)?))
}

pub(super) fn create(context: &mut Context<'_>, request: &Element, item: &Element) -> MemberResult {
    let disposition = request.attribute("MessageDisposition");
    required(&item.name, request, "SendMeetingInvitations")?;
    let sends = match item.name.as_str() {
        "Message" => disposition != Some("SaveOnly"),
        "CalendarItem" => request.attribute("SendMeetingInvitations") != Some("SendToNone"),
        _ => false,
    };
    let (index, folder) = match saved_folder(context, request) {
        Some(folder) => folder?,
        None => default_folder(context, &item.name, sends)?,
    };
    if !STORED.contains(&item.name.as_str()) {
        return Ok("<m:Items/>".to_owned());
    }
    if sends {
        context.submit(recipients(item.children()))?;
    }
    let stamp = context.stamp();
    let subject = item.child_text("Subject").unwrap_or_default();
    context.counters.created(&subject, sends);
    context.done(&subject);
    let mailbox = context.mailbox_mut(index)?;
    if item.name == "Message" && disposition == Some("SendOnly") {
        return Ok("<m:Items/>".to_owned());
    }
    let uid = format!(
        "{}-{}",
        super::super::id::guid_text(&mailbox.guid),
        mailbox.version()
    );
    let mut fields = fields::new_fields(item, &mailbox.address, &uid, &stamp);
    fields.retain(|field| field.name != "Attachments");
    let item_key = mailbox.add_item(folder, item.name.clone(), fields);
    for attachment in item
        .child("Attachments")
        .into_iter()
        .flat_map(Element::children)
    {
        let number = mailbox.take_number();
        if let Some(stored) = mailbox.items.get_mut(&item_key) {
            stored.attachments.insert(number, attachment.clone());
            fields::set(stored, "HasAttachments", "true");
        }
    }
    Ok(format!(
        "<m:Items>{}</m:Items>",
        item_xml::id_only(mailbox, item_key)
    ))
}

/// Compares the change key of an id with the item's version.
pub(super) fn check_key(
    context: &Context<'_>,
    index: usize,
    item_key: ItemKey,
    id: &Element,
) -> Result<(), Failure> {
    let mailbox = context.mailbox(index)?;
    let Some(key) = id.attribute("ChangeKey") else {
        return Err(Failure::new(
            "ErrorChangeKeyRequiredForWriteOperations",
            "A valid change key must be passed for this operation to succeed.",
        ));
    };
    let Some(version) = version_of(&mailbox.guid, key) else {
        return Err(Failure::new(
            "ErrorInvalidChangeKey",
            "The change key is invalid.",
        ));
    };
    if mailbox
        .items
        .get(&item_key)
        .is_some_and(|item| item.version != version)
    {
        return Err(Failure::new(
            "ErrorIrresolvableConflict",
            "The send or update operation could not be performed because the change key passed in the request does \
             not match the current change key for the item.",
        ));
    }
    Ok(())
}

pub(super) fn update(
    context: &mut Context<'_>,
    request: &Element,
    change: &Element,
) -> MemberResult {
    let id = change.children().next().ok_or_else(Failure::malformed_id)?;
    let (index, item_key) = context.item(id)?;
    if request.attribute("ConflictResolution") != Some("AlwaysOverwrite") {
        check_key(context, index, item_key, id)?;
    }
    let stamp = context.stamp();
    let mailbox = context.mailbox_mut(index)?;
    let kind = mailbox
        .items
        .get(&item_key)
        .map(|item| item.element.clone())
        .unwrap_or_default();
    required(&kind, request, "SendMeetingInvitationsOrCancellations")?;
    let disposition = request.attribute("MessageDisposition");
    let version = mailbox.bump();
    let mut subject = String::new();
    if let Some(item) = mailbox.items.get_mut(&item_key) {
        subject = item.subject();
        for step in change
            .child("Updates")
            .into_iter()
            .flat_map(Element::children)
        {
            apply(&mut item.fields, step);
        }
        item.fields.retain(|field| field.name != "LastModifiedTime");
        item.fields.push(Element::types("LastModifiedTime", stamp));
        fields::sort(&item.element, &mut item.fields);
        item.version = version;
    }
    context.done(&subject);
    let sent =
        kind == "Message" && disposition.is_some_and(|disposition| disposition != "SaveOnly");
    let items = if sent {
        dispatch(
            context,
            index,
            item_key,
            disposition == Some("SendAndSaveCopy"),
            None,
        )?;
        String::new()
    } else {
        item_xml::id_only(context.mailbox(index)?, item_key)
    };
    Ok(format!(
        "<m:Items>{items}</m:Items><m:ConflictResults><t:Count>0</t:Count></m:ConflictResults>"
    ))
}

/// One `SetItemField`, `AppendToItemField` or `DeleteItemField`.
fn apply(fields: &mut Vec<Element>, step: &Element) {
    let mut children = step.children();
    let Some(path) = children.next() else { return };
    let value = children.next().and_then(|item| item.children().next());
    match (step.name.as_str(), value) {
        ("SetItemField", Some(value)) => {
            fields.retain(|field| !path_matches(path, field));
            fields.push(value.clone());
        }
        ("AppendToItemField", Some(value)) => {
            match fields.iter_mut().find(|field| path_matches(path, field)) {
                Some(field) => field.nodes.extend(value.nodes.iter().cloned()),
                None => fields.push(value.clone()),
            }
        }
        ("DeleteItemField", _) => fields.retain(|field| !path_matches(path, field)),
        _ => {}
    }
}

pub(super) fn delete(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (index, item_key) = context.item(id)?;
    let mailbox = context.mailbox_mut(index)?;
    let calendar = mailbox
        .items
        .get(&item_key)
        .is_some_and(|item| item.element == "CalendarItem");
    if calendar && request.attribute("SendMeetingCancellations").is_none() {
        return Err(Failure::new(
            "ErrorSendMeetingCancellationsRequired",
            "The SendMeetingCancellations attribute is required for calendar items.",
        ));
    }
    let Some(item) = mailbox.remove_item(item_key) else {
        return Ok(String::new());
    };
    let subject = item.subject();
    if let Some(bin) = super::folders::bin(mailbox, request) {
        mailbox.put_item(bin, item);
    }
    context.done(&subject);
    Ok(String::new())
}

pub(super) fn send(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (index, item_key) = context.item(id)?;
    check_key(context, index, item_key, id)?;
    let save = request
        .attribute("SaveItemToFolder")
        .is_some_and(|save| save == "true" || save == "1");
    let folder = match saved_folder(context, request) {
        Some(folder) => Some(folder?),
        None => None,
    };
    dispatch(context, index, item_key, save, folder)?;
    Ok(String::new())
}

/// To how many an item with these fields is sent.
fn recipients<'a>(fields: impl Iterator<Item = &'a Element>) -> u64 {
    let lists = fields.filter(|field| {
        matches!(
            field.name.as_str(),
            "ToRecipients"
                | "CcRecipients"
                | "BccRecipients"
                | "RequiredAttendees"
                | "OptionalAttendees"
                | "Resources"
        )
    });
    lists.map(|list| list.children().count() as u64).sum()
}

/// Sends an item away; the copy goes to that folder, else to the sent items.
fn dispatch(
    context: &mut Context<'_>,
    index: usize,
    item_key: ItemKey,
    save: bool,
    folder: Option<(usize, u64)>,
) -> Result<(), Failure> {
    let number = match context.mailbox(index)?.items.get(&item_key) {
        Some(item) => recipients(item.fields.iter()),
        None => return Ok(()),
    };
    context.submit(number)?;
    let mailbox = context.mailbox_mut(index)?;
    let Some(item) = mailbox.remove_item(item_key) else {
        return Ok(());
    };
    let (index, folder) = match folder {
        Some(folder) => folder,
        None => (
            index,
            mailbox
                .distinguished("sentitems")
                .ok_or_else(Failure::no_mailbox)?,
        ),
    };
    let subject = item.subject();
    context.counters.sent(&subject);
    if context.operation == Operation::SendItem {
        context.done(&subject);
    }
    if save {
        context.mailbox_mut(index)?.put_item(folder, item);
    }
    Ok(())
}

pub(super) fn target_id(request: &Element) -> Result<&Element, Failure> {
    request
        .child("ToFolderId")
        .and_then(|target| target.children().next())
        .ok_or_else(|| {
            Failure::new(
                "ErrorToFolderNotFound",
                "The destination folder was not found.",
            )
        })
}

pub(super) fn check_target(context: &mut Context<'_>, request: &Element) -> Result<(), Failure> {
    let missing = || {
        Failure::new(
            "ErrorToFolderNotFound",
            "The destination folder was not found.",
        )
    };
    context
        .locate(target_id(request)?)
        .map(|_| ())
        .map_err(|failure| match failure.code.as_str() {
            "ErrorFolderNotFound" => missing(),
            _ => failure,
        })
}

pub(super) fn relocate(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let target = context.folder(target_id(request)?)?;
    let source = context.item(id)?;
    let item_key = put(context, source, target)?;
    Ok(format!(
        "<m:Items>{}</m:Items>",
        item_xml::id_only(context.mailbox(target.0)?, item_key)
    ))
}

/// Puts an item, or a copy of it, into a folder.
fn put(
    context: &mut Context<'_>,
    (index, item_key): (usize, ItemKey),
    (target, folder): (usize, u64),
) -> Result<ItemKey, Failure> {
    let copies = context.operation == Operation::CopyItem;
    let mailbox = context.mailbox_mut(index)?;
    let item = if copies {
        mailbox.items.get(&item_key).cloned()
    } else {
        mailbox.remove_item(item_key)
    };
    let item = item.ok_or_else(Failure::malformed_id)?;
    context.done(&item.subject());
    Ok(context.mailbox_mut(target)?.put_item(folder, item))
}

/// The archive's folder here: one of the mailbox itself, made when something is archived first.
const ARCHIVE: &str = "archivemsgfolderroot";

pub(super) fn archive(context: &mut Context<'_>, id: &Element) -> MemberResult {
    let source = context.item(id)?;
    let mailbox = context.mailbox_mut(source.0)?;
    let folder = match mailbox.distinguished(ARCHIVE) {
        Some(folder) => folder,
        None => mailbox.add_folder(Folder {
            parent: mailbox.distinguished("root"),
            element: "Folder",
            class: "IPF.Note".to_owned(),
            name: "Archive".to_owned(),
            distinguished: Some(ARCHIVE),
            created: 0,
            version: 0,
        }),
    };
    put(context, source, (source.0, folder))?;
    Ok("<m:Items/>".to_owned())
}

pub(super) fn check_archive_source(
    context: &mut Context<'_>,
    request: &Element,
) -> Result<(), Failure> {
    match request
        .child("ArchiveSourceFolderId")
        .and_then(|source| source.children().next())
    {
        Some(id) => context.locate(id).map(|_| ()),
        None => Err(Failure::malformed_id()),
    }
}

pub(super) fn mark_junk(
    context: &mut Context<'_>,
    request: &Element,
    id: &Element,
) -> MemberResult {
    let source = context.item(id)?;
    let flag = |name| matches!(request.attribute(name), Some("true" | "1"));
    let mailbox = context.mailbox(source.0)?;
    if !flag("MoveItem") {
        let subject = mailbox.items.get(&source.1).map(Item::subject);
        context.done(&subject.unwrap_or_default());
        return Ok(String::new());
    }
    let name = if flag("IsJunk") { "junkemail" } else { "inbox" };
    let folder = mailbox
        .distinguished(name)
        .ok_or_else(Failure::no_mailbox)?;
    let item_key = put(context, source, (source.0, folder))?;
    let mailbox = context.mailbox(source.0)?;
    let version = mailbox.items.get(&item_key).map_or(0, |item| item.version);
    Ok(format!(
        "<m:MovedItemId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.item_id(item_key),
        mailbox.key(version)
    ))
}
