//! CreateAttachment, GetAttachment, DeleteAttachment: each change gives the item a new change key.

use super::super::failure::Failure;
use super::super::fields;
use super::super::id::Id;
use super::super::item_xml;
use super::super::mailbox::{ItemKey, Mailbox};
use super::super::xml::Element;
use super::context::Context;
use super::response::MemberResult;

fn missing() -> Failure {
    Failure::new(
        "ErrorInvalidAttachmentId",
        "The item has no attachment of that id.",
    )
}

/// `RootItemId` and `RootItemChangeKey`: the item, as it is after the change.
fn root(mailbox: &Mailbox, item_key: ItemKey) -> String {
    let version = mailbox.items.get(&item_key).map_or(0, |item| item.version);
    format!(
        "RootItemId=\"{}\" RootItemChangeKey=\"{}\"",
        mailbox.item_id(item_key),
        mailbox.key(version)
    )
}

/// Marks the item as changed, and as one with attachments or without.
fn changed(mailbox: &mut Mailbox, item_key: ItemKey, stamp: &str) {
    let version = mailbox.bump();
    if let Some(item) = mailbox.items.get_mut(&item_key) {
        item.version = version;
        let has = !item.attachments.is_empty();
        fields::set(item, "HasAttachments", if has { "true" } else { "false" });
        fields::set(item, "LastModifiedTime", stamp);
    }
}

pub(super) fn create(
    context: &mut Context<'_>,
    request: &Element,
    attachment: &Element,
) -> MemberResult {
    let parent = request
        .child("ParentItemId")
        .ok_or_else(Failure::malformed_id)?;
    let (index, item_key) = context.item(parent)?;
    // The key is the item's before the call: its first attachment makes a new one.
    if parent.attribute("ChangeKey").is_some() && !context.scratch.changed {
        super::items::check_key(context, index, item_key, parent)?;
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
    if let Some(item) = mailbox.items.get_mut(&item_key) {
        item.attachments.insert(number, attachment.clone());
    }
    changed(mailbox, item_key, &stamp);
    let out = format!(
        "<m:Attachments><t:{0}><t:AttachmentId Id=\"{1}\" {2}/></t:{0}></m:Attachments>",
        attachment.name,
        mailbox.attachment_id(item_key, number),
        root(mailbox, item_key)
    );
    context.scratch.changed = true;
    context.done(&name);
    Ok(out)
}

/// The mailbox, item_key and number of an `AttachmentId`, entered.
fn locate(context: &mut Context<'_>, id: &Element) -> Result<(usize, ItemKey, u64), Failure> {
    let (index, item_key) = context.item(id)?;
    let number = id
        .attribute("Id")
        .and_then(Id::decode)
        .and_then(|id| id.attachment)
        .ok_or_else(Failure::malformed_id)?;
    match context.mailbox(index)?.items.get(&item_key) {
        Some(item) if item.attachments.contains_key(&number) => Ok((index, item_key, number)),
        _ => Err(missing()),
    }
}

pub(super) fn get(context: &mut Context<'_>, id: &Element) -> MemberResult {
    let (index, item_key, number) = locate(context, id)?;
    let mailbox = context.mailbox(index)?;
    let attachment = mailbox
        .items
        .get(&item_key)
        .and_then(|item| item.attachments.get(&number))
        .ok_or_else(missing)?;
    let mut out = String::from("<m:Attachments>");
    item_xml::write_attachment(mailbox, item_key, number, attachment, true, &mut out);
    out.push_str("</m:Attachments>");
    Ok(out)
}

pub(super) fn delete(context: &mut Context<'_>, id: &Element) -> MemberResult {
    let (index, item_key, number) = locate(context, id)?;
    let stamp = context.stamp();
    let mailbox = context.mailbox_mut(index)?;
    let removed = mailbox
        .items
        .get_mut(&item_key)
        .and_then(|item| item.attachments.remove(&number));
    changed(mailbox, item_key, &stamp);
    let out = format!("<m:RootItemId {}/>", root(mailbox, item_key));
    let name = removed.and_then(|attachment| attachment.child_text("Name"));
    context.done(&name.unwrap_or_default());
    Ok(out)
}
