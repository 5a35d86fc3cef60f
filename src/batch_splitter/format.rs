//! [`BatchFormat`]: what a batch looks like on the wire, so that the splitter need not know.
use std::time::Duration;

use http::{Request, response};

use crate::body::ReplayBody;
use crate::body::rope::Rope;
pub use crate::retry::Idempotency;

/// A way to put several members into one request.
pub trait BatchFormat: Send + Sync + 'static {
    /// One request of this format.
    type Batch: Batch;

    /// Reads a request. None: it goes through untouched, byte for byte, because it is no batch of this format, has one member,
    /// or could mean something else when it is cut.
    fn batch(&self, request: &Request<ReplayBody>) -> Option<Self::Batch>;
}

/// One batch: its members, how parts are made of them, and what the answers to parts say.
///
/// Members are numbered from 0, in the order of the request. The splitter never asks for a member twice in one part, and gives
/// a part's members in ascending order.
pub trait Batch: Send + 'static {
    /// What is done with the members, such as `CreateItem`. For logs and errors.
    fn operation(&self) -> &str;

    /// What a fitting size is learnt for: the operation, and who is charged for it.
    fn sizing_key(&self) -> &str;

    /// How many members there are: two at least.
    fn members(&self) -> usize;

    /// Bytes of one member.
    fn member_bytes(&self, member: usize) -> u64;

    /// Bytes that each part has besides its members.
    fn shared_bytes(&self) -> u64;

    /// Whether members may be executed in another order than theirs.
    fn order(&self) -> Order;

    /// Whether a part that may have been executed may be sent again.
    fn idempotency(&self) -> Idempotency;

    /// The most members that a server takes in one request.
    fn max_members(&self) -> usize {
        usize::MAX
    }

    /// Whether this member and the next one have to be in the same part, whatever its size.
    fn joined(&self, _member: usize) -> bool {
        false
    }

    /// What the member touches, as far as it shows: a server allows only so many different ones at a time (mailboxes, on EWS).
    fn group(&self, _member: usize) -> Option<u64> {
        None
    }

    /// Members that must have succeeded before this one is executed: in an earlier part, or in the same one.
    fn needs(&self, _member: usize) -> &[usize] {
        &[]
    }

    /// What stands between two messages of an answer.
    fn separator(&self) -> &'static str {
        ""
    }

    /// The request body of a part: the caller's own bytes around and of these members.
    ///
    /// Parts of [`Order::Kept`] batches are made after the answer to the part before was read, so that what a member needs of an
    /// earlier answer (a change key) can be put in.
    fn part(&mut self, members: &[usize]) -> ReplayBody;

    /// Reads the whole answer to a part.
    fn answer(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse;

    /// A message of our own for a member that the server gave none, in the shape of the format. None if the format has no messages
    /// for single members.
    fn explain(&mut self, member: usize, why: &Explanation<'_>) -> Option<Rope>;
}

/// Whether members may be executed in another order than theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// In any order, and at the same time.
    Free,
    /// One part after another, in the order of the members.
    Kept,
}

/// What the answer to a part says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PartResponse {
    /// A message for each of the part's members, in their order.
    Messages {
        /// What stands before the first message, and behind the last one. The frame of the first answer that had messages is the one to
        /// use: the messages of later ones are made to fit it.
        frame: (Rope, Rope),
        /// As many as the part has members.
        messages: Vec<Message>,
    },
    /// Lists that belong to all members together; those of all parts are put behind each other.
    Lists {
        /// What stands before, between and behind the lists: one more than there are lists, of which all answers to one batch have the same
        /// number. As with messages, the first frame is the one to use.
        frame: Vec<Rope>,
        /// What stands in each list.
        lists: Vec<Rope>,
    },
    /// It speaks of the part as a whole: a fault, a page, one error for all members, or nothing that can be read.
    Whole(PartFailure),
}

/// One member's message, and what follows from it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The server's own bytes.
    pub bytes: Rope,
    /// What follows.
    pub fate: MemberOutcome,
}

/// What follows from a member's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberOutcome {
    /// It was done.
    Done,
    /// It failed for good, or may not be sent again.
    Failed,
    /// It was not executed, or only reads, and is to be sent again.
    Again {
        /// How long the server asks to wait.
        hint: Option<Duration>,
    },
    /// It may have been executed, and twice is no harm ([`Idempotency::Idempotent`]): sent again too.
    Repeat {
        /// How long the server asks to wait.
        hint: Option<Duration>,
    },
    /// It was not executed because another member failed for good: sent again as long as that achieves anything.
    Stopped,
}

/// What the answer to a part means for all its members.
#[derive(Clone, Debug)]
pub struct PartFailure {
    /// What follows.
    pub fate: PartOutcome,
    /// The part was too large, or took too long: smaller ones from now on.
    pub too_large: bool,
    /// The server's own message, where it can stand at each member's place.
    pub message: Option<Rope>,
    /// The response code, such as `ErrorSchemaValidation`, where it gave one.
    pub code: Option<Box<str>>,
    /// What happened, for [`Explanation`].
    pub text: Box<str>,
}

/// What follows for all members of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartOutcome {
    /// No member was executed, and none will be: sending them again does not help.
    Failed,
    /// As [`PartOutcome::Failed`], and the rest of the batch would fare no better (credentials, a blocked tenant).
    FailedForAll,
    /// No member was executed, or they only read: they are to be sent again, in smaller parts if it was too large.
    Again {
        /// How long the server asks to wait.
        hint: Option<Duration>,
    },
    /// Members may have been executed, and twice is no harm ([`Idempotency::Idempotent`]): they are sent again too.
    Repeat {
        /// How long the server asks to wait.
        hint: Option<Duration>,
    },
    /// Members may have been executed.
    Unknown,
}

/// Why a member has no message of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Explanation<'a> {
    /// It was sent, and what became of it is not known.
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
