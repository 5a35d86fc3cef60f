//! GetFolder, FindFolder, CreateFolder, DeleteFolder.

use super::super::mailbox::Folder;
use super::super::shape::{Shape, write_folder};
use super::super::soap::Failure;
use super::super::xml::Element;
use super::{Context, Outcome};

pub(super) fn get(context: &mut Context<'_>, request: &Element, id: &Element) -> Outcome {
    let (mailbox, number) = context.folder(id)?;
    let mut out = String::from("<m:Folders>");
    write_folder(
        context.mailbox(mailbox)?,
        number,
        &Shape::of(request, "FolderShape", false),
        &mut out,
    );
    out.push_str("</m:Folders>");
    Ok(out)
}

pub(super) fn find(context: &mut Context<'_>, request: &Element, parent: &Element) -> Outcome {
    let (index, number) = context.folder(parent)?;
    let deep = request.attribute("Traversal") == Some("Deep");
    let mailbox = context.mailbox(index)?;
    let found = match deep {
        true => mailbox.descendants(number),
        false => mailbox.children(number).map(|(child, _)| child).collect(),
    };
    let page = super::find::Page::of(request.child("IndexedPageFolderView"), found.len(), None);
    let shape = Shape::of(request, "FolderShape", true);
    let mut out = format!("<m:RootFolder{}><t:Folders>", page.attributes(found.len()));
    for number in found.iter().skip(page.offset).take(page.rows) {
        write_folder(mailbox, *number, &shape, &mut out);
    }
    out.push_str("</t:Folders></m:RootFolder>");
    Ok(out)
}

pub(super) fn create(context: &mut Context<'_>, request: &Element, folder: &Element) -> Outcome {
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
    if mailbox
        .children(parent)
        .any(|(_, folder)| folder.name.eq_ignore_ascii_case(&name))
    {
        return Err(Failure::new(
            "ErrorFolderExists",
            "A folder with the specified name already exists.",
        ));
    }
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
        name,
        distinguished: None,
        created: 0,
        version: 0,
    });
    let mut out = String::from("<m:Folders>");
    write_folder(
        mailbox,
        number,
        &Shape::of(request, "FolderShape", false),
        &mut out,
    );
    out.push_str("</m:Folders>");
    Ok(out)
}

pub(super) fn delete(context: &mut Context<'_>, id: &Element) -> Outcome {
    let (index, number) = context.folder(id)?;
    let mailbox = context.mailbox_mut(index)?;
    if mailbox
        .folders
        .get(&number)
        .is_some_and(|folder| folder.distinguished.is_some())
    {
        return Err(Failure::new(
            "ErrorDeleteDistinguishedFolder",
            "A distinguished folder cannot be deleted.",
        ));
    }
    mailbox.remove_folder(number);
    Ok(String::new())
}
