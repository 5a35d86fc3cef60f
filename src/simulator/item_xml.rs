//! Items, attachments and folders as XML.

use std::fmt::Write as _;

use super::mailbox::{Item, ItemKey, Mailbox};
use super::response_shape::ResponseShape;
use super::schema::rank;
use super::xml::{Element, Node, escaped};

/// `<t:ItemId .../>` of an item.
pub(super) fn item_id(mailbox: &Mailbox, item_key: ItemKey, version: u64) -> String {
    format!(
        "<t:ItemId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.item_id(item_key),
        mailbox.key(version)
    )
}

/// An item with nothing but its id, as write operations return it.
pub(super) fn id_only(mailbox: &Mailbox, item_key: ItemKey) -> String {
    match mailbox.items.get(&item_key) {
        Some(item) => {
            format!(
                "<t:{0}>{1}</t:{0}>",
                item.element,
                item_id(mailbox, item_key, item.version)
            )
        }
        None => String::new(),
    }
}

/// An item as a shape shows it.
pub(super) fn write_item(
    mailbox: &Mailbox,
    item_key: ItemKey,
    item: &Item,
    shape: &ResponseShape<'_>,
    out: &mut String,
) {
    let _ = write!(out, "<t:{}>", item.element);
    let parent = Element::types("ParentFolderId", "");
    let parent_at = rank(&item.element, "ParentFolderId");
    let mut parent_due = shape.shows(&parent);
    let attachments = Element::types("Attachments", "");
    let attachments_at = rank(&item.element, "Attachments");
    let mut attachments_due = !item.attachments.is_empty() && shape.shows(&attachments);
    let mut id_due = true;
    for field in &item.fields {
        let at = rank(&item.element, &field.name);
        if at > 0 && std::mem::take(&mut id_due) {
            out.push_str(&item_id(mailbox, item_key, item.version));
        }
        if at > parent_at && std::mem::take(&mut parent_due) {
            write_parent(mailbox, item_key, out);
        }
        if at > attachments_at && std::mem::take(&mut attachments_due) {
            out.push_str("<t:Attachments>");
            for (number, attachment) in &item.attachments {
                write_attachment(mailbox, item_key, *number, attachment, false, out);
            }
            out.push_str("</t:Attachments>");
        }
        if shape.shows(field) {
            field.write(out);
        }
    }
    if id_due {
        out.push_str(&item_id(mailbox, item_key, item.version));
    }
    let _ = write!(out, "</t:{}>", item.element);
}

fn write_parent(mailbox: &Mailbox, item_key: ItemKey, out: &mut String) {
    let version = mailbox
        .folders
        .get(&item_key.0)
        .map_or(0, |folder| folder.version);
    let _ = write!(
        out,
        "<t:ParentFolderId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.folder_id(item_key.0),
        mailbox.key(version)
    );
}

/// A folder as a shape shows it.
pub(super) fn write_folder(
    mailbox: &Mailbox,
    number: u64,
    shape: &ResponseShape<'_>,
    out: &mut String,
) {
    let Some(folder) = mailbox.folders.get(&number) else {
        return;
    };
    let key = mailbox.key(folder.version);
    let _ = write!(
        out,
        "<t:{}><t:FolderId Id=\"{}\" ChangeKey=\"{key}\"/>",
        folder.element,
        mailbox.folder_id(number)
    );
    if let Some(parent) = folder
        .parent
        .filter(|_| shape.shows_folder("ParentFolderId"))
    {
        let _ = write!(
            out,
            "<t:ParentFolderId Id=\"{}\" ChangeKey=\"{key}\"/>",
            mailbox.folder_id(parent)
        );
    }
    let mut show = |name: &str, text: &dyn Fn() -> Option<String>| {
        if let Some(text) = shape.shows_folder(name).then(text).flatten() {
            let _ = write!(out, "<t:{name}>{text}</t:{name}>");
        }
    };
    let class = || Some(escaped(&folder.class)).filter(|class| !class.is_empty());
    show("FolderClass", &class);
    show("DisplayName", &|| Some(escaped(&folder.name)));
    show("TotalCount", &|| {
        Some(mailbox.items_in(number).count().to_string())
    });
    show("ChildFolderCount", &|| {
        Some(mailbox.children(number).count().to_string())
    });
    show("DistinguishedFolderId", &|| {
        folder.distinguished.map(str::to_owned)
    });
    let is_unread = |item: &Item| {
        let read = item.field("IsRead");
        read.is_some_and(|read| read.text() == "false")
    };
    show("UnreadCount", &|| {
        let unread = mailbox.items_in(number).filter(|(_, item)| is_unread(item));
        matches!(folder.element, "Folder" | "TasksFolder").then(|| unread.count().to_string())
    });
    let _ = write!(out, "</t:{}>", folder.element);
}

/// An attachment with its id, with or without what is in it.
pub(super) fn write_attachment(
    mailbox: &Mailbox,
    item_key: ItemKey,
    number: u64,
    attachment: &Element,
    content: bool,
    out: &mut String,
) {
    let inside = |name: &str| {
        matches!(name, "Content" | "AttachmentId")
            || (attachment.name == "ItemAttachment"
                && !matches!(
                    name,
                    "Name"
                        | "ContentType"
                        | "ContentId"
                        | "ContentLocation"
                        | "AttachmentOriginalUrl"
                        | "Size"
                        | "LastModifiedTime"
                        | "IsInline"
                ))
    };
    let _ = write!(
        out,
        "<t:{}><t:AttachmentId Id=\"{}\"/>",
        attachment.name,
        mailbox.attachment_id(item_key, number)
    );
    for node in &attachment.nodes {
        if let Node::Element(field) = node {
            if field.name != "AttachmentId" && (content || !inside(&field.name)) {
                field.write(out);
            }
        }
    }
    let _ = write!(out, "</t:{}>", attachment.name);
}
