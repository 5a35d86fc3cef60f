//! What the table says of an operation: may it be sent again, may it be split, and how its response
//! looks.

/// Whether an operation may be sent again when its first try may have been executed.
///
/// ```
/// use tower_ews::soap::{Operation, OperationIdempotency};
///
/// assert_eq!(Operation::GET_ITEM.idempotency(), OperationIdempotency::Safe);
/// assert_eq!(Operation::SEND_ITEM.idempotency(), OperationIdempotency::NonIdempotent);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OperationIdempotency {
    /// It only reads: again is the same as once.
    Safe,
    /// The same end state, but the second response can be an error ("not found", "exists"), or lack
    /// an id.
    Idempotent,
    /// Repeating it repeats the effect: a second item, a second mail; or it reads events that are gone once they were sent.
    /// EmptyFolder and MarkAllItemsAsRead also change what arrived after the first try.
    NonIdempotent,
    /// Nobody says.
    Unknown,
    /// It depends on an attribute or element of each member: UploadItems by `CreateAction` (only
    /// `Update` of a given item converges), ApplyConversationAction by `Action`. Treat it as
    /// [`OperationIdempotency::NonIdempotent`] unless each member was looked at.
    PerMember,
    /// Not sent by clients.
    NotApplicable,
}

/// Whether a request may be cut into several smaller ones.
///
/// ```
/// use tower_ews::soap::{Operation, Split};
///
/// assert_eq!(Operation::GET_ITEM.split(), Split::Safe);
/// assert_eq!(Operation::GET_STREAMING_EVENTS.split(), Split::ChangesMeaning);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Split {
    /// Parts in any order, also in parallel.
    Safe,
    /// As [`Split::Safe`], but the responses have to be merged with knowledge of the operation.
    SafeWithCare,
    /// Parts one after another.
    SafeSequential,
    /// Parts mean anything but the whole: never split.
    ChangesMeaning,
    /// GetUserAvailability: safe, unless it asks for suggestions, which are made over all attendees
    /// together.
    SafeUnlessSuggestions,
    /// DeleteItem: as [`Split::Safe`], unless a member names a recurring series: parts one after
    /// another then.
    SafeUnlessOccurrences,
    /// There is nothing to split.
    NotApplicable,
}

/// Where a response keeps class and code.
///
/// ```
/// use tower_ews::soap::operation::{Operation, ResponseLayout};
///
/// assert_eq!(Operation::GET_ITEM.response_layout(), ResponseLayout::ResponseMessages);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseLayout {
    /// `XResponse/ResponseMessages/*`, an entry each.
    ResponseMessages,
    /// The response's element carries them itself.
    Itself,
    /// The response's element carries them itself, and so does each entry of its
    /// `ResponseMessages`.
    ItselfAndEntries,
    /// `FreeBusyResponseArray/FreeBusyResponse/ResponseMessage` and
    /// `SuggestionsResponse/ResponseMessage`.
    FreeBusy,
    /// One `ResponseMessage` inside the response's element.
    SingleMessage,
    /// None of these, or not documented.
    Other,
}

/// How the entries of a response stand to the members of the request's array.
///
/// ```
/// use tower_ews::soap::operation::{Operation, PerMember};
///
/// assert_eq!(Operation::GET_ITEM.one_response_per_member(), PerMember::Yes);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PerMember {
    /// One entry per member. That they stand in the order of the members is what every client
    /// assumes; Microsoft documents it for GetUserAvailability alone.
    Yes,
    /// Entries per member, in a shape of their own; see [`ResponseLayout`].
    OwnLayout,
    /// One response over all members.
    No,
    /// The operation takes no array.
    NotApplicable,
}

/// The two namespaces in which EWS keeps the elements of its requests.
///
/// ```
/// use tower_ews::soap::operation::Namespace;
///
/// assert!(Namespace::Messages.uri().ends_with("/2006/messages"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Namespace {
    /// `http://schemas.microsoft.com/exchange/services/2006/messages`
    Messages,
    /// `http://schemas.microsoft.com/exchange/services/2006/types`
    Types,
}

impl Namespace {
    /// The namespace's URI.
    pub const fn uri(self) -> &'static str {
        match self {
            Namespace::Messages => "http://schemas.microsoft.com/exchange/services/2006/messages",
            Namespace::Types => "http://schemas.microsoft.com/exchange/services/2006/types",
        }
    }
}

/// The array of a request: a child of the operation's element, with members in it.
///
/// ```
/// use tower_ews::soap::operation::{Namespace, Operation};
///
/// let array = Operation::GET_FOLDER.arrays()[0];
/// assert_eq!(array.container, "FolderIds");
/// assert_eq!(array.members, ["FolderId", "DistinguishedFolderId"]);
/// assert_eq!(array.member_namespace, Namespace::Types);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BatchArray {
    /// Local name of the container, which is in [`Namespace::Messages`].
    pub container: &'static str,
    /// Local names of the members. Empty for GetAppManifests, whose members are the words of one
    /// text, or elements of any name.
    pub members: &'static [&'static str],
    /// Where the members' names are from.
    pub member_namespace: Namespace,
}
