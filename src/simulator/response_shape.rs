//! The response shape of a request: which properties the client asks to see.

use super::xml::Element;

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

/// What a client asks to see.
#[derive(Debug)]
pub(super) struct ResponseShape<'a> {
    all: bool,
    mime: bool,
    find: bool,
    /// The children of `AdditionalProperties`.
    additional: Vec<&'a Element>,
}

impl<'a> ResponseShape<'a> {
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

    pub(super) fn shows(&self, field: &Element) -> bool {
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
