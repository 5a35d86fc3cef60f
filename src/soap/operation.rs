//! What is known about each EWS operation: whether it may be sent twice, by which array it can be
//! split, how the server responds.
use std::borrow::Cow;
use std::fmt;

use super::find::same;
pub use super::operation_facts::{
    BatchArray, Namespace, OperationIdempotency, PerMember, ResponseLayout, Split,
};
use super::operation_table::{Element, Row, TABLE};

/// An operation of Exchange Web Services that the table knows: 138 of them, from the WSDL of
/// Exchange Server Subscription Edition, the public schemas, the reference pages and the EWS
/// Managed API.
///
/// ```
/// use tower_ews::soap::operation::{OperationIdempotency, Operation, Split};
///
/// let operation = Operation::by_name("CreateItem").unwrap();
/// assert_eq!(operation, Operation::CREATE_ITEM);
/// assert_eq!(operation.idempotency(), OperationIdempotency::NonIdempotent);
/// assert_eq!(operation.split(), Split::SafeSequential);
/// assert_eq!(operation.arrays()[0].container, "Items");
/// assert!(Operation::GET_ITEM.is_read());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation(u8);

/// Finds a row at compile time, so that a misspelt constant does not compile.
const fn find(name: &str) -> Operation {
    let mut index = 0;
    while index < TABLE.len() {
        if same(TABLE[index].name.as_bytes(), name.as_bytes()) {
            return Operation(index as u8);
        }
        index += 1;
    }
    panic!("no such operation")
}

macro_rules! operations {
    ($($constant:ident = $name:literal,)*) => {
        impl Operation {
            $(
                #[doc = concat!("`", $name, "`")]
                pub const $constant: Operation = const { find($name) };
            )*
        }
    };
}

operations! {
    APPLY_CONVERSATION_ACTION = "ApplyConversationAction",
    ARCHIVE_ITEM = "ArchiveItem",
    CONVERT_ID = "ConvertId",
    COPY_FOLDER = "CopyFolder",
    COPY_ITEM = "CopyItem",
    CREATE_ATTACHMENT = "CreateAttachment",
    CREATE_FOLDER = "CreateFolder",
    CREATE_ITEM = "CreateItem",
    DELETE_ATTACHMENT = "DeleteAttachment",
    DELETE_FOLDER = "DeleteFolder",
    DELETE_ITEM = "DeleteItem",
    EMPTY_FOLDER = "EmptyFolder",
    EXPAND_DL = "ExpandDL",
    EXPORT_ITEMS = "ExportItems",
    FIND_CONVERSATION = "FindConversation",
    FIND_FOLDER = "FindFolder",
    FIND_ITEM = "FindItem",
    FIND_PEOPLE = "FindPeople",
    GET_ATTACHMENT = "GetAttachment",
    GET_DELEGATE = "GetDelegate",
    GET_EVENTS = "GetEvents",
    GET_FOLDER = "GetFolder",
    GET_ITEM = "GetItem",
    GET_SERVER_TIME_ZONES = "GetServerTimeZones",
    GET_STREAMING_EVENTS = "GetStreamingEvents",
    GET_USER_AVAILABILITY = "GetUserAvailability",
    GET_USER_OOF_SETTINGS = "GetUserOofSettings",
    MARK_ALL_ITEMS_AS_READ = "MarkAllItemsAsRead",
    MARK_AS_JUNK = "MarkAsJunk",
    MOVE_FOLDER = "MoveFolder",
    MOVE_ITEM = "MoveItem",
    RESOLVE_NAMES = "ResolveNames",
    SEND_ITEM = "SendItem",
    SEND_NOTIFICATION = "SendNotification",
    SET_USER_OOF_SETTINGS = "SetUserOofSettings",
    SUBSCRIBE = "Subscribe",
    SYNC_FOLDER_HIERARCHY = "SyncFolderHierarchy",
    SYNC_FOLDER_ITEMS = "SyncFolderItems",
    UNSUBSCRIBE = "Unsubscribe",
    UPDATE_FOLDER = "UpdateFolder",
    UPDATE_ITEM = "UpdateItem",
    UPLOAD_ITEMS = "UploadItems",
}

impl Operation {
    /// All operations of the table, by name.
    pub fn all() -> impl Iterator<Item = Operation> {
        (0..TABLE.len() as u8).map(Operation)
    }

    /// The operation with this name, such as `GetUserAvailability`. Case matters.
    pub fn by_name(name: &str) -> Option<Operation> {
        let found = TABLE.binary_search_by(|row| row.name.cmp(name)).ok()?;
        u8::try_from(found).ok().map(Operation)
    }

    /// The operation whose request element has this local name, such as
    /// `GetUserAvailabilityRequest`.
    ///
    /// A binary search: the table is in the order of both names.
    pub fn by_request_element(local: &[u8]) -> Option<Operation> {
        let found = TABLE
            .binary_search_by(|row| row.request.as_bytes().cmp(local))
            .ok()?;
        u8::try_from(found).ok().map(Operation)
    }

    fn row(self) -> &'static Row {
        // Only this module makes operations, from the table's own indexes.
        &TABLE[usize::from(self.0)]
    }

    /// Its name, as Microsoft's reference has it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Local name of its request element: the name, with `Request` behind it for seven operations.
    pub fn request_element(self) -> &'static str {
        self.row().request
    }

    /// May it be sent again when the first try may have been executed?
    pub fn idempotency(self) -> OperationIdempotency {
        self.row().idempotency
    }

    /// It only reads, so that sending it again changes nothing. Not so GetEvents and
    /// GetStreamingEvents: the server forgets the events that it has sent.
    pub fn is_read(self) -> bool {
        self.idempotency() == OperationIdempotency::Safe
    }

    /// May it be cut into several requests?
    pub fn split(self) -> Split {
        self.row().split
    }

    /// The arrays by which it could be cut. One, except for GetImItems, which has two.
    pub fn arrays(self) -> &'static [BatchArray] {
        self.row().arrays
    }

    /// Where its response keeps class and code.
    pub fn response_layout(self) -> ResponseLayout {
        self.row().shape
    }

    /// How the entries of its response stand to the members of its array.
    pub fn one_response_per_member(self) -> PerMember {
        self.row().per_member
    }

    /// Local name of its response's element, where a public source names one.
    pub fn response_element(self) -> Option<Cow<'static, str>> {
        self.element(self.row().response, "Response")
    }

    /// Local name of one entry of its response, where the response has entries and a public source
    /// names them.
    pub fn entry_element(self) -> Option<Cow<'static, str>> {
        self.element(self.row().entry, "ResponseMessage")
    }

    fn element(self, element: Element, ending: &str) -> Option<Cow<'static, str>> {
        match element {
            Element::Usual => Some(format!("{}{ending}", self.name()).into()),
            Element::Is(name) => Some(name.into()),
            Element::Unknown => None,
        }
    }

    /// Whether the WSDL of Exchange Server Subscription Edition declares an `ExchangeImpersonation`
    /// header for it. False for 41 operations of the WSDL and for those that it leaves out; clients
    /// send the header all the same.
    pub fn impersonation_in_wsdl(self) -> bool {
        self.row().impersonation
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_whole() {
        assert_eq!(TABLE.len(), 138);
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        assert!(TABLE.is_sorted_by(|a, b| a.request < b.request));
        for operation in Operation::all() {
            assert_eq!(Operation::by_name(operation.name()), Some(operation));
            let element = operation.request_element();
            assert_eq!(
                Operation::by_request_element(element.as_bytes()),
                Some(operation)
            );
            assert!(
                element
                    .strip_prefix(operation.name())
                    .is_some_and(|rest| matches!(rest, "" | "Request"))
            );
        }
        assert_eq!(Operation::by_name("getitem"), None);
        assert_eq!(Operation::by_request_element(b"GetUserAvailability"), None);
    }

    #[test]
    fn counts_by_column() {
        let count = |test: fn(Operation) -> bool| {
            Operation::all()
                .filter(|operation| test(*operation))
                .count()
        };
        assert_eq!(count(|o| o.impersonation_in_wsdl()), 81);
        assert_eq!(count(|o| o.is_read()), 60);
        assert_eq!(
            count(|o| o.idempotency() == OperationIdempotency::Idempotent),
            45
        );
        assert_eq!(
            count(|o| o.idempotency() == OperationIdempotency::NonIdempotent),
            28
        );
        assert_eq!(
            count(|o| o.idempotency() == OperationIdempotency::PerMember),
            2
        );
        assert_eq!(count(|o| o.split() == Split::Safe), 14);
        assert_eq!(count(|o| o.split() == Split::SafeWithCare), 9);
        assert_eq!(count(|o| o.split() == Split::SafeSequential), 19);
        assert_eq!(count(|o| o.split() == Split::ChangesMeaning), 8);
        assert_eq!(count(|o| o.split() == Split::SafeUnlessSuggestions), 1);
        assert_eq!(count(|o| o.split() == Split::SafeUnlessOccurrences), 1);
        assert_eq!(
            count(|o| o.response_layout() == ResponseLayout::ItselfAndEntries),
            6
        );
    }

    #[test]
    fn special_rows() {
        let by = |name| Operation::by_name(name).unwrap();
        assert_eq!(
            Operation::GET_EVENTS.idempotency(),
            OperationIdempotency::NonIdempotent
        );
        assert_eq!(
            Operation::GET_STREAMING_EVENTS.split(),
            Split::ChangesMeaning
        );
        assert_eq!(
            Operation::UPLOAD_ITEMS.idempotency(),
            OperationIdempotency::PerMember
        );
        assert_eq!(by("GetImItems").arrays().len(), 2);
        assert_eq!(
            by("GetServiceConfiguration").arrays()[0].member_namespace,
            Namespace::Messages
        );
        assert_eq!(
            by("GetDelegate").entry_element().unwrap(),
            "DelegateUserResponseMessageType"
        );
        assert_eq!(
            by("GetPersona").response_element().unwrap(),
            "GetPersonaResponseMessage"
        );
        assert_eq!(by("GetPersona").entry_element(), None);
        assert_eq!(
            by("CreateItem").entry_element().unwrap(),
            "CreateItemResponseMessage"
        );
        assert_eq!(by("SendNotification").response_element(), None);
        assert_eq!(
            by("GetUserAvailability").response_layout(),
            ResponseLayout::FreeBusy
        );
        assert_eq!(by("CreateItem").arrays()[0].members.len(), 26);
        assert_eq!(
            format!("{:?} {:>9}", by("GetItem"), by("GetItem")),
            "GetItem   GetItem"
        );
    }
}
