//! CreateAttachment, GetAttachment, DeleteAttachment: each change gives the item a new change key.

use std::fmt::Write as _;

use super::super::id::Id;
use super::super::mailbox::{Mailbox, Place};
use super::super::shape;
use super::super::soap::Failure;
use super::super::xml::{Element, Node};
use super::{Context, Outcome};

fn missing() -> Failure {
    Failure::new(
        "ErrorInvalidAttachmentId",
        "The item has no attachment of that id.",
    )
}

/// `RootItemId` and `RootItemChangeKey`: the item, as it is after the change.
fn root(mailbox: &Mailbox, place: Place) -> String {
    let version = mailbox.items.get(&place).map_or(0, |item| item.version);
    format!(
        "RootItemId=\"{}\" RootItemChangeKey=\"{}\"",
        mailbox.item_id(place),
        mailbox.key(version)
    )
}

/// Marks the item as changed, and as one with attachments or without.
fn changed(mailbox: &mut Mailbox, place: Place, stamp: &str) {
    let version = mailbox.bump();
    if let Some(item) = mailbox.items.get_mut(&place) {
        item.version = version;
        let has = !item.attachments.is_empty();
        shape::set(item, "HasAttachments", if has { "true" } else { "false" });
        shape::set(item, "LastModifiedTime", stamp);
    }
}

pub(super) fn create(
    context: &mut Context<'_>,
    request: &Element,
    attachment: &Element,
) -> Outcome {
    let parent = request
        .child("ParentItemId")
        .ok_or_else(super::malformed_id)?;
    let (index, place) = context.item(parent)?;
    // The key is the item's before the call: its first attachment makes a new one.
    if parent.attribute("ChangeKey").is_some() && !context.scratch.changed {
        super::items::check_key(context, index, place, parent)?;
    }
    if !matches!(
        attachment.name.as_str(),
        "FileAttachment" | "ItemAttachment" | "ReferenceAttachment"
    ) {
        return Err(Failure::new(
            "ErrorInvalidAttachmentSubfilter",
            "The simulator knows no such attachment.",
        ));
    }
    let stamp = context.stamp();
    let name = attachment.child_text("Name").unwrap_or_default();
    let mailbox = context.mailbox_mut(index)?;
    let number = mailbox.take_number();
    if let Some(item) = mailbox.items.get_mut(&place) {
        item.attachments.insert(number, attachment.clone());
    }
    changed(mailbox, place, &stamp);
    let out = format!(
        "<m:Attachments><t:{0}><t:AttachmentId Id=\"{1}\" {2}/></t:{0}></m:Attachments>",
        attachment.name,
        mailbox.attachment_id(place, number),
        root(mailbox, place)
    );
    context.scratch.changed = true;
    context.done(&name);
    Ok(out)
}

/// The mailbox, place and number of an `AttachmentId`, entered.
fn locate(context: &mut Context<'_>, id: &Element) -> Result<(usize, Place, u64), Failure> {
    let (index, place) = context.item(id)?;
    let number = id
        .attribute("Id")
        .and_then(Id::decode)
        .and_then(|id| id.attachment)
        .ok_or_else(super::malformed_id)?;
    match context.mailbox(index)?.items.get(&place) {
        Some(item) if item.attachments.contains_key(&number) => Ok((index, place, number)),
        _ => Err(missing()),
    }
}

pub(super) fn get(context: &mut Context<'_>, id: &Element) -> Outcome {
    let (index, place, number) = locate(context, id)?;
    let mailbox = context.mailbox(index)?;
    let attachment = mailbox
        .items
        .get(&place)
        .and_then(|item| item.attachments.get(&number))
        .ok_or_else(missing)?;
    let mut out = String::from("<m:Attachments>");
    write(mailbox, place, number, attachment, true, &mut out);
    out.push_str("</m:Attachments>");
    Ok(out)
}

pub(super) fn delete(context: &mut Context<'_>, id: &Element) -> Outcome {
    let (index, place, number) = locate(context, id)?;
    let stamp = context.stamp();
    let mailbox = context.mailbox_mut(index)?;
    let removed = mailbox
        .items
        .get_mut(&place)
        .and_then(|item| item.attachments.remove(&number));
    changed(mailbox, place, &stamp);
    let out = format!("<m:RootItemId {}/>", root(mailbox, place));
    let name = removed.and_then(|attachment| attachment.child_text("Name"));
    context.done(&name.unwrap_or_default());
    Ok(out)
}

/// An attachment with its id, with or without what is in it.
pub(in super::super) fn write(
    mailbox: &Mailbox,
    place: Place,
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
        mailbox.attachment_id(place, number)
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
