//! GetFolder, FindFolder, CreateFolder, UpdateFolder, DeleteFolder, EmptyFolder,
//! MarkAllItemsAsRead.

use super::super::failure::Failure;
use super::super::fields;
use super::super::id::version_of;
use super::super::item_xml::write_folder;
use super::super::mailbox::{Folder, ItemKey, Mailbox};
use super::super::response_shape::ResponseShape;
use super::super::xml::Element;
use super::context::Context;
use super::response::MemberResult;

pub(super) fn get(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (mailbox, number) = context.folder(id)?;
    let mut out = String::from("<m:Folders>");
    write_folder(
        context.mailbox(mailbox)?,
        number,
        &ResponseShape::of(request, "FolderShape", false),
        &mut out,
    );
    out.push_str("</m:Folders>");
    Ok(out)
}

pub(super) fn find(context: &mut Context<'_>, request: &Element, parent: &Element) -> MemberResult {
    let (index, number) = context.folder(parent)?;
    let deep = request.attribute("Traversal") == Some("Deep");
    let mailbox = context.mailbox(index)?;
    let found = match deep {
        true => mailbox.descendants(number),
        false => mailbox.children(number).map(|(child, _)| child).collect(),
    };
    let view = request.child("IndexedPageFolderView");
    let filtered = request.child("Restriction").is_some();
    let page = super::find::page(context, view, view.is_some(), filtered, found.len())?;
    let mailbox = context.mailbox(index)?;
    let shape = ResponseShape::of(request, "FolderShape", true);
    let mut out = format!("<m:RootFolder{}><t:Folders>", page.attributes(found.len()));
    for number in found.iter().skip(page.offset).take(page.rows) {
        write_folder(mailbox, *number, &shape, &mut out);
    }
    out.push_str("</t:Folders></m:RootFolder>");
    Ok(out)
}

pub(super) fn create(
    context: &mut Context<'_>,
    request: &Element,
    folder: &Element,
) -> MemberResult {
    let parent = request
        .child("ParentFolderId")
        .and_then(|parent| parent.children().next());
    let Some(parent) = parent else {
        return Err(Failure::new(
            "ErrorParentFolderIdRequired",
            "A parent folder is required.",
        ));
    };
    let (index, parent) = context.folder(parent)?;
    let mailbox = context.mailbox_mut(index)?;
    let name = folder.child_text("DisplayName").unwrap_or_default();
    refuse_name(mailbox, parent, &name, None)?;
    let (element, class) = match folder.name.as_str() {
        "CalendarFolder" => ("CalendarFolder", "IPF.Appointment"),
        "ContactsFolder" => ("ContactsFolder", "IPF.Contact"),
        "TasksFolder" => ("TasksFolder", "IPF.Task"),
        _ => ("Folder", "IPF.Note"),
    };
    let number = mailbox.add_folder(Folder {
        parent: Some(parent),
        element,
        class: folder
            .child_text("FolderClass")
            .unwrap_or_else(|| class.to_owned()),
        name: name.clone(),
        distinguished: None,
        created: 0,
        version: 0,
    });
    let mut out = String::from("<m:Folders>");
    write_folder(
        mailbox,
        number,
        &ResponseShape::of(request, "FolderShape", false),
        &mut out,
    );
    out.push_str("</m:Folders>");
    context.done(&name);
    Ok(out)
}

/// No two folders of one parent have the same name.
pub(super) fn refuse_name(
    mailbox: &Mailbox,
    parent: u64,
    name: &str,
    itself: Option<u64>,
) -> Result<(), Failure> {
    let taken = mailbox
        .children(parent)
        .any(|(number, folder)| Some(number) != itself && folder.name.eq_ignore_ascii_case(name));
    match taken {
        true => Err(Failure::new(
            "ErrorFolderExists",
            "A folder with the specified name already exists.",
        )),
        false => Ok(()),
    }
}

/// The folder that everything is created in: an error about it is the only message.
pub(super) fn check_parent(context: &mut Context<'_>, request: &Element) -> Result<(), Failure> {
    let parent = request
        .child("ParentFolderId")
        .and_then(|parent| parent.children().next());
    match parent.map(|parent| context.locate(parent)) {
        Some(Err(failure)) if failure.code == "ErrorFolderNotFound" => Err(Failure::new(
            "ErrorParentFolderNotFound",
            "The specified parent folder was not found.",
        )),
        Some(Err(failure)) => Err(failure),
        _ => Ok(()),
    }
}

/// A folder with nothing but its id, as write operations return it.
pub(super) fn id_only(mailbox: &Mailbox, number: u64) -> MemberResult {
    let mut out = String::from("<m:Folders>");
    let nothing = Element::types("Nothing", "");
    let shape = ResponseShape::of(&nothing, "FolderShape", false);
    write_folder(mailbox, number, &shape, &mut out);
    out.push_str("</m:Folders>");
    Ok(out)
}

pub(super) fn update(context: &mut Context<'_>, change: &Element) -> MemberResult {
    let id = change.children().next().ok_or_else(Failure::malformed_id)?;
    let (index, number) = context.folder(id)?;
    let mailbox = context.mailbox_mut(index)?;
    let folder = mailbox
        .folders
        .get(&number)
        .ok_or_else(Failure::malformed_id)?;
    match id.attribute("ChangeKey") {
        Some(key) if version_of(&mailbox.guid, key) != Some(folder.version) => {
            return Err(Failure::new(
                "ErrorStaleObject",
                "The folder has changed since: the change key is not its current one.",
            ));
        }
        None if id.name == "FolderId" => {
            return Err(Failure::new(
                "ErrorChangeKeyRequiredForWriteOperations",
                "A valid change key must be passed for this operation to succeed.",
            ));
        }
        _ => {}
    }
    let old = folder.name.clone();
    let parent = folder.parent;
    let updates = change.child("Updates");
    let set = |name: &str| {
        updates
            .into_iter()
            .flat_map(Element::children)
            .filter(|step| step.name == "SetFolderField")
            .filter_map(|step| step.children().nth(1)?.child_text(name))
            .last()
    };
    let (name, class) = (set("DisplayName"), set("FolderClass"));
    if let (Some(name), Some(parent)) = (&name, parent) {
        refuse_name(mailbox, parent, name, Some(number))?;
    }
    let version = mailbox.bump();
    if let Some(folder) = mailbox.folders.get_mut(&number) {
        folder.name = name.unwrap_or_else(|| old.clone());
        folder.class = class.unwrap_or_else(|| folder.class.clone());
        folder.version = version;
    }
    context.done(&old);
    id_only(context.mailbox(index)?, number)
}

pub(super) fn empty(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (index, number) = context.folder(id)?;
    let below = matches!(request.attribute("DeleteSubFolders"), Some("true" | "1"));
    let mailbox = context.mailbox_mut(index)?;
    let folder = mailbox
        .folders
        .get(&number)
        .ok_or_else(Failure::malformed_id)?;
    if folder.element == "CalendarFolder" || folder.parent.is_none() {
        return Err(Failure::new(
            "ErrorCannotEmptyFolder",
            "This folder cannot be emptied.",
        ));
    }
    let name = folder.name.clone();
    let bin = bin(mailbox, request).filter(|bin| *bin != number);
    let item_keys: Vec<ItemKey> = mailbox
        .items_in(number)
        .map(|(item_key, _)| item_key)
        .collect();
    for item_key in item_keys {
        if let (Some(item), Some(bin)) = (mailbox.remove_item(item_key), bin) {
            mailbox.put_item(bin, item);
        }
    }
    let children: Vec<u64> = mailbox
        .children(number)
        .filter(|(_, folder)| below && folder.distinguished.is_none())
        .map(|(child, _)| child)
        .collect();
    for child in children {
        discard(mailbox, child, bin);
    }
    context.done(&name);
    Ok(String::new())
}

/// Where deleted things go; `None` when they are gone.
pub(super) fn bin(mailbox: &Mailbox, request: &Element) -> Option<u64> {
    match request.attribute("DeleteType") {
        Some("MoveToDeletedItems") => mailbox.distinguished("deleteditems"),
        Some("SoftDelete") => mailbox.distinguished("recoverableitemsdeletions"),
        _ => None,
    }
}

/// Puts a folder into the bin, unless it lies in there already.
fn discard(mailbox: &mut Mailbox, number: u64, bin: Option<u64>) {
    let bin = bin.filter(|bin| *bin != number && !mailbox.descendants(*bin).contains(&number));
    let Some(bin) = bin else {
        mailbox.remove_folder(number);
        return;
    };
    let version = mailbox.bump();
    if let Some(folder) = mailbox.folders.get_mut(&number) {
        folder.parent = Some(bin);
        folder.version = version;
    }
}

pub(super) fn mark_read(
    context: &mut Context<'_>,
    request: &Element,
    id: &Element,
) -> MemberResult {
    let (index, number) = context.folder(id)?;
    let read = match request.child_text("ReadFlag").as_deref() {
        Some("false" | "0") => "false",
        _ => "true",
    };
    let mailbox = context.mailbox_mut(index)?;
    let name = mailbox
        .folders
        .get(&number)
        .map(|folder| folder.name.clone())
        .unwrap_or_default();
    let item_keys: Vec<ItemKey> = mailbox
        .items_in(number)
        .filter(|(_, item)| {
            item.field("IsRead")
                .is_some_and(|field| field.text() != read)
        })
        .map(|(item_key, _)| item_key)
        .collect();
    for item_key in item_keys {
        let version = mailbox.bump();
        if let Some(item) = mailbox.items.get_mut(&item_key) {
            item.version = version;
            fields::set(item, "IsRead", read);
        }
    }
    context.done(&name);
    Ok(String::new())
}

pub(super) fn delete(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (index, number) = context.folder(id)?;
    let mailbox = context.mailbox_mut(index)?;
    let folder = mailbox
        .folders
        .get(&number)
        .ok_or_else(Failure::malformed_id)?;
    let name = folder.name.clone();
    if folder.distinguished.is_some() {
        return Err(Failure::new(
            "ErrorDeleteDistinguishedFolder",
            "A distinguished folder cannot be deleted.",
        ));
    }
    let bin = bin(mailbox, request);
    discard(mailbox, number, bin);
    context.done(&name);
    Ok(String::new())
}
