//! MoveFolder and CopyFolder: a folder with all that is in it, within a mailbox or to another one.

use std::collections::HashMap;

use super::super::failure::Failure;
use super::super::mailbox::{Folder, Item, Mailbox};
use super::super::xml::Element;
use super::catalog::Operation;
use super::context::Context;
use super::folders;
use super::items;
use super::response::MemberResult;

pub(super) fn relocate(context: &mut Context<'_>, request: &Element, id: &Element) -> MemberResult {
    let (target, parent) = context.folder(items::target_id(request)?)?;
    let (index, number) = context.folder(id)?;
    let moves = context.operation == Operation::MoveFolder;
    let mailbox = context.mailbox(index)?;
    let folder = mailbox
        .folders
        .get(&number)
        .ok_or_else(Failure::malformed_id)?;
    let name = folder.name.clone();
    if moves && folder.distinguished.is_some() {
        return Err(Failure::new(
            "ErrorMoveDistinguishedFolder",
            "A distinguished folder cannot be moved.",
        ));
    }
    let below = number == parent || mailbox.descendants(number).contains(&parent);
    if index == target && below {
        return Err(Failure::new(
            "ErrorMoveCopyFailed",
            "A folder cannot be put into itself.",
        ));
    }
    folders::refuse_name(context.mailbox(target)?, parent, &name, None)?;
    let number = if moves && index == target {
        let mailbox = context.mailbox_mut(index)?;
        let version = mailbox.bump();
        if let Some(folder) = mailbox.folders.get_mut(&number) {
            folder.parent = Some(parent);
            folder.version = version;
        }
        number
    } else {
        let tree = tree_of(context.mailbox(index)?, number);
        if moves {
            context.mailbox_mut(index)?.remove_folder(number);
        }
        plant(context.mailbox_mut(target)?, parent, tree)
    };
    context.done(&name);
    folders::id_only(context.mailbox(target)?, number)
}

/// A folder with those below it, each after its parent, and their items.
fn tree_of(mailbox: &Mailbox, number: u64) -> Vec<(u64, Folder, Vec<Item>)> {
    std::iter::once(number)
        .chain(mailbox.descendants(number))
        .filter_map(|number| {
            let folder = mailbox.folders.get(&number)?.clone();
            let items = mailbox
                .items_in(number)
                .map(|(_, item)| item.clone())
                .collect();
            Some((number, folder, items))
        })
        .collect()
}

/// Puts such a tree below a folder, with new numbers; that of the first folder comes back.
fn plant(mailbox: &mut Mailbox, parent: u64, tree: Vec<(u64, Folder, Vec<Item>)>) -> u64 {
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    let mut root = parent;
    for (old, folder, items) in tree {
        let above = folder.parent.and_then(|above| numbers.get(&above).copied());
        let number = mailbox.add_folder(Folder {
            parent: Some(above.unwrap_or(parent)),
            distinguished: None,
            ..folder
        });
        if numbers.is_empty() {
            root = number;
        }
        numbers.insert(old, number);
        for item in items {
            mailbox.put_item(number, item);
        }
    }
    root
}
