//! Which mailboxes a request touches.

use super::super::id::Id;
use super::super::mailbox::Store;
use super::super::xml::{Element, Ns};

/// The addresses that a request names explicitly, and the mailboxes that its ids belong to.
pub(in super::super) fn touched(element: &Element, store: &mut Store) -> Vec<usize> {
    let mut addresses = Vec::new();
    let mut guids = Vec::new();
    element.walk(&mut |element| match element.name.as_str() {
        "DistinguishedFolderId" => {
            addresses.extend(element.at(&["Mailbox", "EmailAddress"]).map(Element::text));
        }
        "MailboxData" => addresses.extend(element.at(&["Email", "Address"]).map(Element::text)),
        // Whose delegates, and whose mail tips: in the messages namespace, unlike the mailboxes of
        // recipients.
        "Mailbox" | "SendingAs" if element.ns == Ns::Messages => {
            addresses.extend(element.child_text("EmailAddress"));
        }
        _ => {
            if let Some(id) = element
                .attribute("Id")
                .filter(|id| id.len() > 60)
                .and_then(Id::decode)
            {
                guids.push(id.mailbox);
            }
        }
    });
    let mut found = Vec::new();
    for index in addresses
        .iter()
        .filter_map(|address| store.find(address))
        .collect::<Vec<_>>()
        .into_iter()
        .chain(guids.iter().filter_map(|guid| store.by_guid(guid)))
    {
        if !found.contains(&index) {
            found.push(index);
        }
    }
    found
}
