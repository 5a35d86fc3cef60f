//! The properties of an item: what the server adds to a new one, and the schema's order.

use super::mailbox::Item;
use super::schema::rank;
use super::xml::{Element, Node, Ns};

/// Properties that only a request may name or that the server sets itself.
const SERVERS_OWN: [&str; 3] = ["ItemId", "ParentFolderId", "ResponseObjects"];

/// The properties of a new item: the client's, without what it may not set, and the server's, in
/// order.
pub(super) fn new_fields(element: &Element, owner: &str, uid: &str, now: &str) -> Vec<Element> {
    let mut fields: Vec<Element> = element
        .children()
        .filter(|field| field.ns == Ns::Types && !SERVERS_OWN.contains(&field.name.as_str()))
        .cloned()
        .collect();
    let size: usize = 500 + fields.iter().map(weight).sum::<usize>();
    let mut add = |name: &str, text: &str| add(&mut fields, name, text);
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
        "CalendarItem" => add_appointment(&mut fields, element, owner, uid),
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

/// Adds a property unless the client has set it.
fn add(fields: &mut Vec<Element>, name: &str, text: &str) {
    if !fields.iter().any(|field| field.name == name) {
        fields.push(Element::types(name, text));
    }
}

/// Adds what the server says of an appointment.
fn add_appointment(fields: &mut Vec<Element>, element: &Element, owner: &str, uid: &str) {
    let has = |name| element.child(name).is_some();
    let meeting = has("RequiredAttendees") || has("OptionalAttendees");
    let kind = match has("Recurrence") {
        true => "RecurringMaster",
        false => "Single",
    };
    for (name, text) in [
        ("UID", uid),
        ("IsAllDayEvent", "false"),
        ("LegacyFreeBusyStatus", "Busy"),
        ("IsMeeting", if meeting { "true" } else { "false" }),
        ("IsCancelled", "false"),
        ("IsRecurring", "false"),
        ("CalendarItemType", kind),
        ("MyResponseType", "Organizer"),
    ] {
        add(fields, name, text);
    }
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

/// Sets a property of a stored item that is one text.
pub(super) fn set(item: &mut Item, name: &str, text: &str) {
    item.fields.retain(|field| field.name != name);
    item.fields.push(Element::types(name, text));
    sort(&item.element, &mut item.fields);
}
