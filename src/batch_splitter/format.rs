//! [`BatchFormat`]: what a batch looks like on the wire, so that the splitter need not know.
use std::time::Duration;

use http::{Request, response};

use crate::body::ReplayBody;
use crate::body::rope::Rope;
pub use crate::retry::Idempotency;

/// A way to put several members into one request.
///
/// The [module documentation](super) implements one, with its [`Batch`]. Here is what is asked of the formats that ship:
///
/// ```
/// # #[cfg(feature = "ews")] {
/// use http::Request;
/// use tower_ews::batch_splitter::{Batch, BatchFormat, EwsBatchFormat};
/// use tower_ews::body::ReplayBody;
///
/// let request = |ids: &str| {
///     let soap = format!(
///         r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
///              xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
///              xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body><GetItem>
///            <ItemShape><t:BaseShape>IdOnly</t:BaseShape></ItemShape>
///            <ItemIds>{ids}</ItemIds></GetItem></s:Body></s:Envelope>"#
///     );
///     Request::new(ReplayBody::from(soap))
/// };
/// let batch = EwsBatchFormat::new().batch(&request(r#"<t:ItemId Id="A"/><t:ItemId Id="B"/>"#)).unwrap();
/// assert_eq!((batch.operation(), batch.members()), ("GetItem", 2));
/// // One member cannot be split.
/// assert!(EwsBatchFormat::new().batch(&request(r#"<t:ItemId Id="A"/>"#)).is_none());
/// # }
/// ```
pub trait BatchFormat: Send + Sync + 'static {
    /// One request of this format.
    type Batch: Batch;

    /// Reads a request. Returns `None` for a request that is forwarded unchanged: it is no batch of this format, has one
    /// member, or could change its meaning when it is split.
    fn batch(&self, request: &Request<ReplayBody>) -> Option<Self::Batch>;
}

/// One batch: its members, how parts are made of them, and what the responses to parts say.
///
/// Members are numbered from 0, in the order of the request. The splitter puts a member into a part once at most, and
/// lists the members of a part in ascending order.
///
/// A batch whose members are lines, executed in order:
///
/// ```
/// use http::response;
/// use tower_ews::batch_splitter::{
///     Batch, Explanation, Idempotency, MemberOutcome, Message, Order, PartResponse,
/// };
/// use tower_ews::body::{ReplayBody, Rope};
///
/// struct Lines(Vec<&'static str>);
///
/// impl Batch for Lines {
///     fn operation(&self) -> &str { "lines" }
///     fn sizing_key(&self) -> &str { "lines" }
///     fn members(&self) -> usize { self.0.len() }
///     fn member_bytes(&self, member: usize) -> u64 { self.0[member].len() as u64 }
///     fn shared_bytes(&self) -> u64 { 0 }
///     fn order(&self) -> Order { Order::Kept }
///     fn idempotency(&self) -> Idempotency { Idempotency::NonIdempotent }
///
///     fn part(&mut self, members: &[usize]) -> ReplayBody {
///         ReplayBody::from_pieces(members.iter().map(|member| self.0[*member].into()))
///     }
///
///     fn response(&mut self, _: &[usize], _: &response::Parts, body: Rope) -> PartResponse {
///         let body = body.to_bytes();
///         let lines = body.split_inclusive(|byte| *byte == b'\n');
///         let messages = lines.map(|line| Message::new(body.slice_ref(line), MemberOutcome::Done));
///         PartResponse::Messages { frame: (Rope::new(), Rope::new()), messages: messages.collect() }
///     }
///
///     fn explain(&mut self, _: usize, why: &Explanation<'_>) -> Option<Rope> {
///         Some(format!("{why:?}\n").into())
///     }
/// }
///
/// let mut batch = Lines(vec!["1\n", "2\n", "3\n"]);
/// assert_eq!(batch.part(&[0, 2]).to_bytes(), "1\n3\n");
/// ```
pub trait Batch: Send + 'static {
    /// Returns what is done with the members, such as `CreateItem`. For logs and errors.
    fn operation(&self) -> &str;

    /// Returns the key under which part sizes are learned: the operation, and who is charged for it.
    fn sizing_key(&self) -> &str;

    /// Returns the number of members: at least two.
    fn members(&self) -> usize;

    /// Returns the size of one member in bytes.
    fn member_bytes(&self, member: usize) -> u64;

    /// Returns the number of bytes that each part has besides its members.
    fn shared_bytes(&self) -> u64;

    /// Returns whether members may be executed in another order than theirs.
    fn order(&self) -> Order;

    /// Returns whether a part that may have been executed may be sent again.
    fn idempotency(&self) -> Idempotency;

    /// Returns the most members that a server accepts in one request.
    fn max_members(&self) -> usize {
        usize::MAX
    }

    /// Returns whether this member and the next one have to be in the same part, whatever its size.
    fn joined(&self, _member: usize) -> bool {
        false
    }

    /// Returns what the member touches, if that is known. Servers limit how many different ones are in use
    /// (mailboxes, on EWS).
    fn group(&self, _member: usize) -> Option<u64> {
        None
    }

    /// Returns a number that no two members of a part may share, if there is one: ids that the server takes for the same.
    fn exclusive(&self, _member: usize) -> Option<u64> {
        None
    }

    /// Returns the members that must have succeeded before this one is executed: in an earlier part, or in the same one.
    fn needs(&self, _member: usize) -> &[usize] {
        &[]
    }

    /// Returns what stands between two messages of a response.
    fn separator(&self) -> &'static str {
        ""
    }

    /// Makes the request body of a part: the caller's own bytes around and of these members.
    ///
    /// Parts of [`Order::Kept`] batches are made after the response to the part before was read, so that what a member
    /// needs of an earlier response (a change key) can be put in.
    fn part(&mut self, members: &[usize]) -> ReplayBody;

    /// Reads the complete response to a part.
    fn response(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse;

    /// Makes a message for a member that the server gave none, in the shape of the format. Returns `None` if the format
    /// has no messages for single members.
    fn explain(&mut self, member: usize, why: &Explanation<'_>) -> Option<Rope>;
}

/// Whether members may be executed in another order than theirs.
///
/// ```
/// use tower_ews::batch_splitter::Order;
///
/// // Only `Order::Free` allows several parts in flight.
/// assert_ne!(Order::Free, Order::Kept);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// In any order, and at the same time.
    Free,
    /// One part after another, in the order of the members.
    Kept,
}

/// What the response to a part says.
///
/// ```
/// use tower_ews::batch_splitter::{MemberOutcome, Message, PartFailure, PartOutcome, PartResponse};
///
/// fn read(body: &'static str) -> PartResponse {
///     match body.strip_prefix("responses:") {
///         Some(lines) => PartResponse::Messages {
///             frame: ("responses:".into(), "".into()),
///             messages: lines
///                 .lines()
///                 .map(|line| Message::new(line, MemberOutcome::Done))
///                 .collect(),
///         },
///         None => PartResponse::Failure(PartFailure::new(PartOutcome::Unknown, "an unreadable response")),
///     }
/// }
///
/// assert!(matches!(read("<html>"), PartResponse::Failure(_)));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartResponse {
    /// One message for each of the part's members, in their order.
    Messages {
        /// The bytes before the first message, and those behind the last one. The merged response has the frame of the
        /// first response with messages; messages of later ones are made to fit it.
        frame: (Rope, Rope),
        /// One message for each member of the part.
        messages: Vec<Message>,
    },
    /// Lists that belong to all members together. The lists of all parts are concatenated.
    Lists {
        /// The bytes before, between and behind the lists: one more than there are lists. All responses to one batch
        /// have the same number of lists. As with messages, the first frame is used.
        frame: Vec<Rope>,
        /// The content of each list.
        lists: Vec<Rope>,
    },
    /// A response about the part as a whole: a fault, a page, one error for all members, or nothing readable.
    Failure(PartFailure),
}

/// One member's message, and what follows from it.
///
/// ```
/// use tower_ews::batch_splitter::{MemberOutcome, Message};
///
/// let message = Message::new("<GetItemResponseMessage/>", MemberOutcome::Done);
/// assert_eq!(message.bytes.len(), 25);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// The server's own bytes.
    pub bytes: Rope,
    /// What follows.
    pub outcome: MemberOutcome,
    /// Whether a member that [failed for good](MemberOutcome::Failed) may have been executed all the same. It then counts as
    /// [unknown](super::BatchStats::unknown); nothing else follows from it.
    pub maybe_executed: bool,
}

impl Message {
    /// Creates a message of the server's own `bytes`.
    pub fn new(bytes: impl Into<Rope>, outcome: MemberOutcome) -> Self {
        Self {
            bytes: bytes.into(),
            outcome,
            maybe_executed: false,
        }
    }

    /// Says that the member may have been executed although it failed for good.
    ///
    /// ```
    /// use tower_ews::batch_splitter::{MemberOutcome, Message};
    ///
    /// let message = Message::new("saved, but not sent", MemberOutcome::Failed).maybe_executed();
    /// assert!(message.maybe_executed);
    /// ```
    #[must_use]
    pub fn maybe_executed(mut self) -> Self {
        self.maybe_executed = true;
        self
    }
}

/// What follows from a member's message.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::batch_splitter::MemberOutcome;
///
/// // Throttled: it was not executed.
/// let throttled = MemberOutcome::retry(Some(Duration::from_secs(5)));
/// assert!(matches!(throttled, MemberOutcome::Retry(retry) if !retry.maybe_executed));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberOutcome {
    /// It was done.
    Done,
    /// It failed for good, for a reason of its own: the other members go on. It may have been executed if its message
    /// [says so](Message::maybe_executed).
    Failed,
    /// It may have been executed, and must not be sent again. Its message is what the server says of it. The reason can be one
    /// that others meet as well: if a response settles nothing else, the batch goes on as after a lost response.
    Unknown,
    /// It is to be sent again.
    Retry(Retry),
    /// It was not executed because another member failed for good: sent again as long as that achieves anything.
    Stopped,
}

impl MemberOutcome {
    /// Returns the outcome of a member that was throttled: it was not executed and is to be sent again.
    pub const fn retry(retry_after: Option<Duration>) -> Self {
        Self::Retry(Retry::new(retry_after))
    }
}

/// How members are sent again.
///
/// ```
/// use std::time::Duration;
/// use tower_ews::batch_splitter::Retry;
///
/// // A read that failed for a reason that may have passed when it is sent again.
/// let failed = Retry::new(None).max_retries(3);
/// assert_eq!((failed.max_retries, failed.maybe_executed), (Some(3), false));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// Whether they may have been executed. Only for members that are [`Idempotency::Idempotent`].
    /// [`Idempotency::Safe`] ones may have been executed as well, but that makes no difference.
    pub maybe_executed: bool,
    /// How often one member is worth another try for such a reason. None for throttling, which ends: the bounds of the call
    /// are those of its retries.
    pub max_retries: Option<u32>,
}

impl Retry {
    /// Creates the retry of what was throttled and not executed.
    pub const fn new(retry_after: Option<Duration>) -> Self {
        Self {
            retry_after,
            maybe_executed: false,
            max_retries: None,
        }
    }

    /// Says that the members may have been executed.
    #[must_use]
    pub const fn maybe_executed(mut self) -> Self {
        self.maybe_executed = true;
        self
    }

    /// Sets how often one member is worth another try. A part with several is sent in smaller ones.
    #[must_use]
    pub const fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }
}

/// What the response to a part means for all its members.
///
/// ```
/// use tower_ews::batch_splitter::{PartFailure, PartOutcome};
///
/// let failure = PartFailure::new(PartOutcome::Failed, "the server responded with HTTP 413").too_large();
/// assert!(failure.too_large && failure.code.is_none());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PartFailure {
    /// What follows.
    pub outcome: PartOutcome,
    /// Whether the part was too large, or took too long. Later parts are smaller.
    pub too_large: bool,
    /// The server's own message, where it can stand in for each member's.
    pub message: Option<Rope>,
    /// The response code, such as `ErrorSchemaValidation`, if there is one.
    pub code: Option<Box<str>>,
    /// What happened, for [`Explanation`].
    pub text: Box<str>,
}

impl PartFailure {
    /// Creates a failure with neither a message nor a code. `text` says what happened.
    pub fn new(outcome: PartOutcome, text: impl Into<Box<str>>) -> Self {
        Self {
            outcome,
            too_large: false,
            message: None,
            code: None,
            text: text.into(),
        }
    }

    /// Makes later parts smaller.
    #[must_use]
    pub fn too_large(mut self) -> Self {
        self.too_large = true;
        self
    }

    /// Sets the server's own message, which stands in for each member's.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Rope>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Sets the response code.
    #[must_use]
    pub fn with_code(mut self, code: impl Into<Box<str>>) -> Self {
        self.code = Some(code.into());
        self
    }
}

/// What follows for all members of a part.
///
/// ```
/// use tower_ews::batch_splitter::{Idempotency, PartOutcome, Retry};
///
/// /// After a response that does not say what was executed.
/// fn without_proof(idempotency: Idempotency) -> PartOutcome {
///     match idempotency {
///         Idempotency::Safe => PartOutcome::Retry(Retry::new(None).max_retries(6)),
///         Idempotency::Idempotent => PartOutcome::Retry(Retry::new(None).max_retries(6).maybe_executed()),
///         _ => PartOutcome::Unknown,
///     }
/// }
///
/// assert_eq!(without_proof(Idempotency::NonIdempotent), PartOutcome::Unknown);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartOutcome {
    /// No member was executed, and sending the same again does not help. A part with several members is sent in smaller ones,
    /// since one of them may be to blame.
    Failed,
    /// As [`PartOutcome::Failed`], and the rest of the batch would not succeed either (credentials, a blocked tenant).
    FailedForAll,
    /// All members are to be sent again.
    Retry(Retry),
    /// Members may have been executed.
    Unknown,
}

impl PartOutcome {
    /// Returns the outcome of a part that was throttled: it was not executed and is to be sent again.
    pub const fn retry(retry_after: Option<Duration>) -> Self {
        Self::Retry(Retry::new(retry_after))
    }
}

/// Why a member has no message of the server's.
///
/// ```
/// use tower_ews::batch_splitter::Explanation;
///
/// fn text(why: &Explanation<'_>) -> String {
///     match why {
///         Explanation::OutcomeUnknown { cause } => format!("may have been executed: {cause}"),
///         Explanation::NotExecuted { cause, .. } => format!("was not executed: {cause}"),
///         _ => String::from("was not sent"),
///     }
/// }
///
/// assert_eq!(text(&Explanation::OutcomeUnknown { cause: "reset" }), "may have been executed: reset");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation<'a> {
    /// It was sent, and its outcome is unknown.
    OutcomeUnknown {
        /// What happened.
        cause: &'a str,
    },
    /// It was not executed.
    NotExecuted {
        /// The response code of the fault that refused its part, if there was one.
        code: Option<&'a str>,
        /// What happened.
        cause: &'a str,
    },
    /// A member that it [needs](Batch::needs) failed, so it was not sent.
    DependencyFailed {
        /// That member.
        member: usize,
    },
}
