//! Items as XML: what the server adds to a new one, and what a shape shows of a stored one.

use std::fmt::Write as _;

use super::mailbox::{Item, Mailbox, Place};
use super::operation::attachments;
use super::schema::rank;
use super::xml::{Element, Node, Ns, escaped};

/// Properties that a search never returns.
const NOT_IN_FIND: [&str; 17] = [
    "MimeContent",
    "Body",
    "TextBody",
    "UniqueBody",
    "NormalizedBody",
    "Attachments",
    "ToRecipients",
    "CcRecipients",
    "BccRecipients",
    "ReplyTo",
    "RequiredAttendees",
    "OptionalAttendees",
    "Resources",
    "Recurrence",
    "ResponseObjects",
    "InternetMessageHeaders",
    "Photo",
];

/// Properties that only a request may name or that the server answers itself.
const SERVERS_OWN: [&str; 3] = ["ItemId", "ParentFolderId", "ResponseObjects"];

/// What a client asks to see.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    all: bool,
    mime: bool,
    find: bool,
    /// The children of `AdditionalProperties`.
    additional: Vec<&'a Element>,
}

impl<'a> Shape<'a> {
    /// Reads `m:ItemShape` or `m:FolderShape` of an operation.
    pub(super) fn of(operation: &'a Element, name: &str, find: bool) -> Self {
        let shape = operation.child(name);
        let flag = |name| shape.and_then(|shape| shape.child_text(name));
        Self {
            all: flag("BaseShape").is_some_and(|base| base != "IdOnly"),
            mime: flag("IncludeMimeContent").is_some_and(|value| value == "true" || value == "1"),
            find,
            additional: shape
                .and_then(|shape| shape.child("AdditionalProperties"))
                .map(|properties| properties.children().collect())
                .unwrap_or_default(),
        }
    }

    /// Whether a folder's property is to be seen.
    pub(super) fn shows_folder(&self, property: &str) -> bool {
        self.all
            || self
                .additional
                .iter()
                .any(|path| named(path) == Some(property))
    }

    fn shows(&self, field: &Element) -> bool {
        if self.find && NOT_IN_FIND.contains(&field.name.as_str()) {
            return false;
        }
        match field.name.as_str() {
            "MimeContent" => self.mime || self.asks_for(field),
            _ => self.all || self.asks_for(field),
        }
    }

    fn asks_for(&self, field: &Element) -> bool {
        self.additional.iter().any(|path| path_matches(path, field))
    }
}

/// The element that a `FieldURI` or `IndexedFieldURI` names: `calendar:Start` is `Start`.
fn named(path: &Element) -> Option<&str> {
    let uri = path.attribute("FieldURI")?;
    let name = uri.split(':').nth(1)?;
    Some(match (uri.starts_with("contacts:"), name) {
        // Indexed paths name one entry, the element is the dictionary.
        (true, "EmailAddress") => "EmailAddresses",
        (true, "PhoneNumber") => "PhoneNumbers",
        (true, "ImAddress") => "ImAddresses",
        (true, "PhysicalAddress") => "PhysicalAddresses",
        _ => name,
    })
}

/// Whether a path (`FieldURI`, `IndexedFieldURI`, `ExtendedFieldURI`) points at this property.
pub(super) fn path_matches(path: &Element, field: &Element) -> bool {
    match path.name.as_str() {
        "ExtendedFieldURI" => {
            field.name == "ExtendedProperty"
                && field
                    .child("ExtendedFieldURI")
                    .is_some_and(|uri| same_attributes(uri, path))
        }
        _ => named(path) == Some(field.name.as_str()),
    }
}

fn same_attributes(a: &Element, b: &Element) -> bool {
    a.attributes.len() == b.attributes.len()
        && a.attributes.iter().all(|(key, value)| {
            b.attribute(key)
                .is_some_and(|other| other.eq_ignore_ascii_case(value))
        })
}

/// The properties of a new item: the client's, without what it may not set, and the server's, in order.
pub(super) fn new_fields(element: &Element, owner: &str, uid: &str, now: &str) -> Vec<Element> {
    let mut fields: Vec<Element> = element
        .children()
        .filter(|field| field.ns == Ns::Types && !SERVERS_OWN.contains(&field.name.as_str()))
        .cloned()
        .collect();
    let size: usize = 500 + fields.iter().map(weight).sum::<usize>();
    let mut add = |name: &str, text: &str| {
        if !fields.iter().any(|field| field.name == name) {
            fields.push(Element::types(name, text));
        }
    };
    let class = match element.name.as_str() {
        "CalendarItem" => "IPM.Appointment",
        "Contact" => "IPM.Contact",
        "DistributionList" => "IPM.DistList",
        "Task" => "IPM.Task",
        "PostItem" => "IPM.Post",
        _ => "IPM.Note",
    };
    add("ItemClass", class);
    add("Sensitivity", "Normal");
    add("DateTimeReceived", now);
    add("Size", &size.to_string());
    add("Importance", "Normal");
    add("DateTimeSent", now);
    add("DateTimeCreated", now);
    add("HasAttachments", "false");
    add("LastModifiedTime", now);
    match element.name.as_str() {
        "Message" => {
            add("IsRead", "true");
            add("InternetMessageId", &format!("<{uid}@simulator.invalid>"));
        }
        "CalendarItem" => {
            let recurring = element.child("Recurrence").is_some();
            let meeting = element.child("RequiredAttendees").is_some()
                || element.child("OptionalAttendees").is_some();
            add("UID", uid);
            add("IsAllDayEvent", "false");
            add("LegacyFreeBusyStatus", "Busy");
            add("IsMeeting", if meeting { "true" } else { "false" });
            add("IsCancelled", "false");
            add("IsRecurring", "false");
            add(
                "CalendarItemType",
                if recurring {
                    "RecurringMaster"
                } else {
                    "Single"
                },
            );
            add("MyResponseType", "Organizer");
            if !fields.iter().any(|field| field.name == "Organizer") {
                let mut mailbox = Element::types("Mailbox", "");
                for (name, text) in [
                    ("Name", owner),
                    ("EmailAddress", owner),
                    ("RoutingType", "SMTP"),
                ] {
                    mailbox
                        .nodes
                        .push(Node::Element(Element::types(name, text)));
                }
                let mut organizer = Element::types("Organizer", "");
                organizer.nodes.push(Node::Element(mailbox));
                fields.push(organizer);
            }
        }
        "Task" => {
            add("IsComplete", "false");
            add("PercentComplete", "0");
            add("Status", "NotStarted");
        }
        _ => {}
    }
    sort(&element.name, &mut fields);
    fields
}

/// Puts properties into the schema's order; those of equal rank stay as they are.
pub(super) fn sort(element: &str, fields: &mut [Element]) {
    fields.sort_by_key(|field| rank(element, &field.name));
}

fn weight(field: &Element) -> usize {
    let mut sum = 0;
    field.walk(&mut |element| {
        sum += element.name.len();
        for node in &element.nodes {
            if let Node::Text(text) = node {
                sum += text.len();
            }
        }
    });
    sum
}

/// `<t:ItemId .../>` of an item.
pub(super) fn item_id(mailbox: &Mailbox, place: Place, version: u64) -> String {
    format!(
        "<t:ItemId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.item_id(place),
        mailbox.key(version)
    )
}

/// An item with nothing but its id, as write operations answer.
pub(super) fn id_only(mailbox: &Mailbox, place: Place) -> String {
    match mailbox.items.get(&place) {
        Some(item) => {
            format!(
                "<t:{0}>{1}</t:{0}>",
                item.element,
                item_id(mailbox, place, item.version)
            )
        }
        None => String::new(),
    }
}

/// Sets a property of a stored item that is one text.
pub(super) fn set(item: &mut Item, name: &str, text: &str) {
    item.fields.retain(|field| field.name != name);
    item.fields.push(Element::types(name, text));
    sort(&item.element, &mut item.fields);
}

/// An item as a shape shows it.
pub(super) fn write_item(
    mailbox: &Mailbox,
    place: Place,
    item: &Item,
    shape: &Shape<'_>,
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
            out.push_str(&item_id(mailbox, place, item.version));
        }
        if at > parent_at && std::mem::take(&mut parent_due) {
            write_parent(mailbox, place, out);
        }
        if at > attachments_at && std::mem::take(&mut attachments_due) {
            out.push_str("<t:Attachments>");
            for (number, attachment) in &item.attachments {
                attachments::write(mailbox, place, *number, attachment, false, out);
            }
            out.push_str("</t:Attachments>");
        }
        if shape.shows(field) {
            field.write(out);
        }
    }
    if id_due {
        out.push_str(&item_id(mailbox, place, item.version));
    }
    let _ = write!(out, "</t:{}>", item.element);
}

fn write_parent(mailbox: &Mailbox, place: Place, out: &mut String) {
    let version = mailbox
        .folders
        .get(&place.0)
        .map_or(0, |folder| folder.version);
    let _ = write!(
        out,
        "<t:ParentFolderId Id=\"{}\" ChangeKey=\"{}\"/>",
        mailbox.folder_id(place.0),
        mailbox.key(version)
    );
}

/// A folder as a shape shows it.
pub(super) fn write_folder(mailbox: &Mailbox, number: u64, shape: &Shape<'_>, out: &mut String) {
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
    if shape.shows_folder("FolderClass") && !folder.class.is_empty() {
        let _ = write!(
            out,
            "<t:FolderClass>{}</t:FolderClass>",
            escaped(&folder.class)
        );
    }
    if shape.shows_folder("DisplayName") {
        let _ = write!(
            out,
            "<t:DisplayName>{}</t:DisplayName>",
            escaped(&folder.name)
        );
    }
    if shape.shows_folder("TotalCount") {
        let _ = write!(
            out,
            "<t:TotalCount>{}</t:TotalCount>",
            mailbox.items_in(number).count()
        );
    }
    if shape.shows_folder("ChildFolderCount") {
        let _ = write!(
            out,
            "<t:ChildFolderCount>{}</t:ChildFolderCount>",
            mailbox.children(number).count()
        );
    }
    if let Some(id) = folder
        .distinguished
        .filter(|_| shape.shows_folder("DistinguishedFolderId"))
    {
        let _ = write!(
            out,
            "<t:DistinguishedFolderId>{id}</t:DistinguishedFolderId>"
        );
    }
    if shape.shows_folder("UnreadCount") && matches!(folder.element, "Folder" | "TasksFolder") {
        let unread = mailbox
            .items_in(number)
            .filter(|(_, item)| {
                item.field("IsRead")
                    .is_some_and(|field| field.text() == "false")
            })
            .count();
        let _ = write!(out, "<t:UnreadCount>{unread}</t:UnreadCount>");
    }
    let _ = write!(out, "</t:{}>", folder.element);
}
