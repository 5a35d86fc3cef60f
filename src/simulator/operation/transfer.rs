//! ExportItems and UploadItems. The data of an item is its XML here; anything else becomes a
//! message with that text as its subject.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::failure::Failure;
use super::super::fields;
use super::super::mailbox::{Item, ItemKey, Mailbox};
use super::super::xml::{self, Element, TYPES_NS};
use super::context::Context;
use super::response::MemberResult;

pub(super) fn export(context: &mut Context<'_>, id: &Element) -> MemberResult {
    let (index, item_key) = context.item(id)?;
    let mailbox = context.mailbox(index)?;
    let item = mailbox
        .items
        .get(&item_key)
        .ok_or_else(Failure::malformed_id)?;
    let mut data = format!("<t:Export xmlns:t=\"{TYPES_NS}\"><t:{}>", item.element);
    for field in &item.fields {
        field.write(&mut data);
    }
    data.push_str(&format!("</t:{}>", item.element));
    for attachment in item.attachments.values() {
        attachment.write(&mut data);
    }
    data.push_str("</t:Export>");
    Ok(format!(
        "<m:ItemId Id=\"{}\" ChangeKey=\"{}\"/><m:Data>{}</m:Data>",
        mailbox.item_id(item_key),
        mailbox.key(item.version),
        STANDARD.encode(data)
    ))
}

/// What an export holds: the item, and its attachments.
fn read(data: &[u8]) -> Option<(Element, Vec<Element>)> {
    let root = xml::parse(data).ok()?;
    let mut children = root.children().filter(|_| root.name == "Export").cloned();
    Some((children.next()?, children.collect()))
}

/// The item that an upload replaces, if it is not to create one.
fn replaced(
    context: &mut Context<'_>,
    member: &Element,
) -> Result<Option<(usize, ItemKey)>, Failure> {
    let action = member.attribute("CreateAction").unwrap_or_default();
    match (member.child("ItemId"), action) {
        (_, "CreateNew") => Ok(None),
        (Some(id), "Update") => context.item(id).map(Some),
        (None, "Update") => Err(Failure::malformed_id()),
        (Some(id), _) => Ok(context.item(id).ok()),
        (None, _) => Ok(None),
    }
}

/// The item that stands in the data of an upload. Of data of another kind their beginning becomes
/// the subject.
fn uploaded(mailbox: &mut Mailbox, folder: u64, data: &[u8], stamp: &str) -> Item {
    let (element, mut fields, attachments) = match read(data) {
        Some((item, attachments)) => (
            item.name.clone(),
            item.children().cloned().collect(),
            attachments,
        ),
        None => {
            let mut item = Element::types("Message", "");
            let subject: String = String::from_utf8_lossy(data).chars().take(80).collect();
            item.nodes.push(xml::Node::Element(Element::types(
                "Subject",
                subject.as_str(),
            )));
            let uid = format!("{folder}-{}", mailbox.version());
            let fields = fields::new_fields(&item, &mailbox.address, &uid, stamp);
            ("Message".to_owned(), fields, Vec::new())
        }
    };
    fields::sort(&element, &mut fields);
    let attachments: BTreeMap<u64, Element> = attachments
        .into_iter()
        .map(|attachment| (mailbox.take_number(), attachment))
        .collect();
    Item {
        element,
        fields,
        attachments,
        created: 0,
        version: 0,
    }
}

pub(super) fn upload(context: &mut Context<'_>, member: &Element) -> MemberResult {
    let parent = member
        .child("ParentFolderId")
        .ok_or_else(Failure::malformed_id)?;
    let (index, folder) = context.folder(parent)?;
    let data = member
        .child_text("Data")
        .and_then(|data| {
            STANDARD
                .decode(data.split_whitespace().collect::<String>())
                .ok()
        })
        .ok_or_else(|| Failure::new("ErrorCorruptData", "The data are no base64."))?;
    let stamp = context.stamp();
    let known = replaced(context, member)?;
    let item = uploaded(context.mailbox_mut(index)?, folder, &data, &stamp);
    let subject = item.subject();
    let (index, item_key) = match known {
        Some((index, item_key)) => {
            let mailbox = context.mailbox_mut(index)?;
            let version = mailbox.bump();
            if let Some(old) = mailbox.items.get_mut(&item_key) {
                let created = old.created;
                *old = Item {
                    created,
                    version,
                    ..item
                };
            }
            (index, item_key)
        }
        None => (index, context.mailbox_mut(index)?.put_item(folder, item)),
    };
    context.done(&subject);
    let mailbox = context.mailbox(index)?;
    let version = mailbox.items.get(&item_key).map_or(0, |item| item.version);
    Ok(format!(
        "<m:ItemId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.item_id(item_key),
        mailbox.key(version)
    ))
}
