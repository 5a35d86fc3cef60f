//! [`EwsBatchFormat`]: batches of Exchange Web Services.

mod cut;
mod outcome;
mod part_response;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use http::{Request, response};

use self::cut::Edits;
use self::outcome::Sent;
use super::format::{Batch, BatchFormat, Explanation, Idempotency, Order, PartResponse};
use crate::body::rope::Rope;
use crate::body::{ReplayBody, encoding};
use crate::extensions::Caller;
use crate::soap::batch::{Cuttable, Member};
use crate::soap::merge::error_entry;
use crate::soap::namespaces::Namespaces;
use crate::soap::{OperationIdempotency, ResponseCode};

/// Batches of Exchange Web Services: every operation with an array that may be cut.
///
/// Parts are slices of the caller's request around and of their members. Forwarded unchanged are
/// - unknown operations, those whose meaning would change if they were split, and GetServiceConfiguration, which asks for a
///   handful of things;
/// - requests with fewer than two members;
/// - what is no SOAP request in UTF-8, or has a document type, a `Content-Encoding` or an XML signature;
/// - GetUserAvailability with suggestions, GetConversationItems with `MaxItemsToReturn`, CreateManagedFolder with the same
///   name twice, and GetAppManifests with the same id twice, or if it asks for more than its ids.
///
/// Some operations have rules of their own:
/// - CreateAttachment: if the caller gave the parent's change key, each part has the one of the response before.
/// - UpdateItem, UpdateFolder: of several changes of one item, those in later parts have the change key of the response
///   before, unless the caller asked for `NeverOverwrite`: then a conflict is meant to be one.
/// - DeleteItem: parts are sent one after another if a member is an occurrence, a master found by its occurrence, or a range
///   of a master.
/// - AddDelegate, UpdateDelegate, RemoveDelegate: `DeliverMeetingRequests`, which counts for the mailbox, stands in one part
///   that did something. If delegates of the batch receive copies of meeting messages, the first part with one of them is
///   the first that has it: without any, there is nobody to deliver to.
/// - GetImItems: its two arrays are split as one. A part without members of one of them leaves that array out.
/// - GetUserAvailability: 100 members in a part at most (ResponseCode, `ErrorMailboxDataArrayTooBig`).
///
/// # Responses
///
/// Entries are attributed to members by their number and order, as every client does, and by their ids for ExportItems and
/// GetMailTips. One error for several members counts for all of them. Nothing is attributed to anybody of a response
/// - to another operation, whose element is not the operation's own,
/// - with more entries than members, or fewer,
/// - with an entry for an item that was not asked for (ExportItems), or for another member of the batch,
/// - that cannot be read.
///
/// A read is then sent again in smaller parts, down to one member, and so is what is idempotent. Otherwise the outcome is
/// unknown.
///
/// GetServerTimeZones, GetSharingMetadata, GetNonIndexableItemStatistics, GetImItems,
/// PerformReminderAction and GetAppManifests respond with lists for all members together. They are concatenated in the order
/// of the parts: a server that sorts its list (time zones) sorts that of each part. What GetAppManifests says of the mailbox
/// (`Metadata`) is taken from the first response. It has a list of one of two kinds: one of the other kind is not readable,
/// unless it is empty.
///
/// # After a stopping error
///
/// Exchange executes no more members of a request after one that failed with `ErrorAccessDenied`, `ErrorQuotaExceeded` and
/// some other codes: the rest gets `ErrorBatchProcessingStopped`. By default that does not count for the batch: those members
/// are sent again without the one that stopped them, and so are later parts, since most batches are of several mailboxes or
/// folders. With [`stop_after_error`](Self::stop_after_error) nothing is executed behind the member that stopped the batch,
/// as if it was one request.
///
/// # Messages of this crate
///
/// They are errors, never warnings or successes:
/// - `ErrorInternalServerError` if the outcome is unknown: a code after which clients do not send again by themselves;
/// - the code of the fault that refused the member, or else `ErrorBatchProcessingStopped`, Exchange's own code for a member
///   that was not begun, if it was not executed.
///
/// ```
/// use http::Request;
/// use tower_ews::batch_splitter::{Batch, BatchFormat, EwsBatchFormat};
/// use tower_ews::body::ReplayBody;
///
/// let request = Request::new(ReplayBody::from(
///     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///          <GetItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><ItemIds>
///            <ItemId Id="AAMk1"/><ItemId Id="AAMk2"/><ItemId Id="AAMk3"/>
///          </ItemIds></GetItem></s:Body></s:Envelope>"#,
/// ));
/// let mut batch = EwsBatchFormat::new().batch(&request).unwrap();
/// assert_eq!((batch.operation(), batch.members()), ("GetItem", 3));
/// let part = batch.part(&[1, 2]).to_bytes();
/// let part = std::str::from_utf8(&part).unwrap();
/// assert!(!part.contains("AAMk1") && part.contains("AAMk2") && part.contains("AAMk3"));
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct EwsBatchFormat {
    stops: bool,
}

impl EwsBatchFormat {
    /// Creates the format with its defaults.
    pub const fn new() -> Self {
        Self { stops: false }
    }

    /// Sets whether the members behind one that [stops the batch](Self#after-a-stopping-error) are left undone, in later
    /// parts as well. Parts are then sent one after another. Default: no.
    ///
    /// ```
    /// use tower_ews::batch_splitter::{BatchSplitterLayer, EwsBatchFormat};
    ///
    /// let layer = BatchSplitterLayer::new(EwsBatchFormat::new().stop_after_error(true));
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub const fn stop_after_error(mut self, stop: bool) -> Self {
        self.stops = stop;
        self
    }
}

impl BatchFormat for EwsBatchFormat {
    type Batch = EwsBatch;

    fn batch(&self, request: &Request<ReplayBody>) -> Option<EwsBatch> {
        if encoding(request.headers()).is_some() {
            return None;
        }
        let body = request.body().rewind();
        let outline = body.outline().ok()?;
        // Most requests have one member: `benches/overhead`, `stack`.
        let arrays = outline.arrays().iter();
        if arrays.map(|array| array.members().len()).sum::<usize>() < 2 {
            return None;
        }
        let facts = outline.cuttable(&body.to_bytes())?;
        let arrays = outline.arrays().iter();
        let members: Vec<Range<usize>> =
            arrays.flat_map(|array| array.members()).cloned().collect();
        let caller = || request.extensions().get().map(Caller::name);
        let charged = outline.impersonation().first();
        let charged = charged.map(|sid| &*sid.value).or_else(caller);
        let sizing_key = match charged {
            Some(charged) => format!("{} {}", facts.operation, charged.to_lowercase()),
            None => facts.operation.name().to_owned(),
        };
        let changed_again = changed_again(&facts);
        let shared = outline.arrays().iter().map(|array| {
            let first = array.members().first().map_or(0, |member| member.start);
            let last = array.members().last().map_or(0, |member| member.end);
            last.saturating_sub(first) as u64
        });
        let shared = body.len().saturating_sub(shared.sum());
        Some(EwsBatch {
            rope: body.rope(),
            body,
            once: Once::default(),
            stops: self.stops,
            stopper: None,
            facts,
            members,
            shared,
            sizing_key,
            changed_again,
            parent_change_key: None,
            change_keys: HashMap::new(),
            scopes: None,
            lists: Vec::new(),
        })
    }
}

/// Returns which ids are changed more than once.
fn changed_again(facts: &Cuttable) -> HashSet<Box<str>> {
    if !facts.operation.name().starts_with("Update") {
        return HashSet::new();
    }
    let mut seen = HashSet::new();
    let ids = facts.members.iter().filter_map(|member| member.id.as_ref());
    ids.filter(|id| !seen.insert(*id)).cloned().collect()
}

/// Which part has the setting that counts for the mailbox.
#[derive(Debug, Default)]
struct Once {
    /// A part has been made by which the server can judge it.
    is_due: bool,
    /// The last part has it.
    is_sent: bool,
    is_done: bool,
}

impl Once {
    /// Returns whether the part of these members has it.
    fn begin(&mut self, facts: &Cuttable, members: &[usize]) -> bool {
        let receives = |member: &Member| member.receives_copies;
        let mut part = members
            .iter()
            .filter_map(|member| facts.members.get(*member));
        self.is_due |= part.any(receives) || !facts.members.iter().any(receives);
        self.is_sent = self.is_due && !self.is_done;
        self.is_sent
    }

    /// The last part has done something.
    fn part_done(&mut self) {
        self.is_done |= self.is_sent;
    }
}

/// One batch of Exchange Web Services, read by [`EwsBatchFormat`].
///
/// ```
/// use tower_ews::batch_splitter::{Batch, BatchFormat, EwsBatch, EwsBatchFormat};
///
/// fn members(format: &EwsBatchFormat, soap: &'static str) -> usize {
///     let batch: Option<EwsBatch> = format.batch(&http::Request::new(soap.into()));
///     batch.map_or(1, |batch| batch.members())
/// }
///
/// assert_eq!(members(&EwsBatchFormat::new(), "<no-batch/>"), 1);
/// ```
pub struct EwsBatch {
    body: ReplayBody,
    rope: Rope,
    facts: Cuttable,
    /// Of all arrays, in document order.
    members: Vec<Range<usize>>,
    shared: u64,
    sizing_key: String,
    /// Ids that several members change.
    changed_again: HashSet<Box<str>>,
    once: Once,
    /// Whether nothing is executed behind a member that stops the batch.
    stops: bool,
    /// That member.
    stopper: Option<usize>,
    parent_change_key: Option<Bytes>,
    /// The newest change keys of the ids that several members change.
    change_keys: HashMap<Box<str>, Bytes>,
    /// The namespaces in scope where the messages or the lists stand in the first response that has some.
    scopes: Option<Vec<Namespaces>>,
    /// The names of the lists in that response.
    lists: Vec<&'static str>,
}

impl EwsBatch {
    fn sent(&self, members: &[usize]) -> Sent {
        Sent {
            members: members.len(),
            idempotency: self.idempotency(),
            mixed: self.is_mixed(),
        }
    }

    /// Whether the batch is known to touch several mailboxes.
    fn is_mixed(&self) -> bool {
        let mut mailboxes = self.facts.members.iter().map(|member| member.mailbox);
        let first = mailboxes.next().flatten();
        mailboxes.any(|mailbox| mailbox != first)
    }

    fn change_key(&self, member: usize) -> Option<(Range<usize>, Bytes)> {
        if self.change_keys.is_empty() {
            return None;
        }
        let facts = self.facts.members.get(member)?;
        let key = self.change_keys.get(facts.id.as_deref()?)?;
        Some((facts.change_key.clone()?, key.clone()))
    }
}

impl Batch for EwsBatch {
    fn operation(&self) -> &str {
        self.facts.operation.name()
    }

    fn sizing_key(&self) -> &str {
        &self.sizing_key
    }

    fn members(&self) -> usize {
        self.members.len()
    }

    fn member_bytes(&self, member: usize) -> u64 {
        self.members
            .get(member)
            .map_or(0, |member| member.len() as u64)
    }

    fn shared_bytes(&self) -> u64 {
        self.shared
    }

    fn order(&self) -> Order {
        match self.facts.in_order {
            false if !self.stops => Order::Free,
            _ => Order::Kept,
        }
    }

    fn idempotency(&self) -> Idempotency {
        match self.facts.idempotency {
            OperationIdempotency::Safe => Idempotency::Safe,
            OperationIdempotency::Idempotent => Idempotency::Idempotent,
            _ => Idempotency::NonIdempotent,
        }
    }

    fn max_members(&self) -> usize {
        self.facts.max_members.unwrap_or(usize::MAX)
    }

    fn needs(&self, member: usize) -> &[usize] {
        match &self.stopper {
            Some(stopper) if *stopper < member => std::slice::from_ref(stopper),
            _ => &[],
        }
    }

    fn group(&self, member: usize) -> Option<u64> {
        self.facts.members.get(member)?.mailbox
    }

    fn part(&mut self, members: &[usize]) -> ReplayBody {
        let mut edits = Edits::default();
        if let Some(range) = &self.facts.once {
            if !self.once.begin(&self.facts, members) {
                edits.leave_out(range.clone());
            }
        }
        let Ok(outline) = self.body.outline() else {
            return self.body.rewind();
        };
        if let (Some(range), Some(key)) = (&self.facts.parent_change_key, &self.parent_change_key) {
            edits.replace(range.clone(), key.clone());
        }
        for &member in members {
            if let Some((range, key)) = self.change_key(member) {
                edits.replace(range, key);
            }
        }
        let mut chosen = members.iter().copied().peekable();
        let mut kept = Vec::new();
        let mut first = 0;
        for array in outline.arrays() {
            let ranges = array.members();
            let behind = first + ranges.len();
            let mut here = Vec::new();
            while let Some(member) = chosen.next_if(|member| *member < behind) {
                here.push(member - first);
            }
            first = behind;
            if here.is_empty() {
                edits.leave_out(array.element());
            } else {
                gaps(ranges, &here, &mut edits);
            }
            kept.push(here);
        }
        let rope = edits.apply(&self.rope);
        let outline = outline.part(&kept, |offset| edits.moved(offset));
        ReplayBody::with_outline(rope, outline)
    }

    fn response(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse {
        self.read_response(members, head, &body)
    }

    fn explain(&mut self, _: usize, why: &Explanation<'_>) -> Option<Rope> {
        let stopped = ResponseCode::BATCH_PROCESSING_STOPPED;
        let (code, text) = match *why {
            Explanation::OutcomeUnknown { cause } => (
                ResponseCode::INTERNAL_SERVER_ERROR,
                format!(
                    "It is not known whether this was executed ({cause}). Check before sending it again."
                ),
            ),
            Explanation::NotExecuted { code, cause } => {
                let known = code.map(ResponseCode::from_text);
                let known = known.filter(ResponseCode::is_known);
                // That would be no error.
                let known = known.filter(|code| *code != ResponseCode::NO_ERROR);
                (
                    known.unwrap_or(stopped),
                    format!("This was not executed: {cause}"),
                )
            }
            Explanation::DependencyFailed { member } => (
                stopped,
                format!("This was not executed, because member {member} failed."),
            ),
        };
        error_entry(self.facts.operation, &code, &text).map(Rope::from)
    }
}

/// Leaves out the other members of an array, each with the white space between it and the next one.
fn gaps(ranges: &[Range<usize>], chosen: &[usize], edits: &mut Edits) {
    let begin = |member: usize| ranges.get(member).map(|member| member.start);
    let end = ranges.last().map_or(0, |member| member.end);
    let mut next = 0;
    for &member in chosen {
        if let (Some(from), Some(to)) = (begin(next), begin(member)) {
            edits.leave_out(from..to);
        }
        next = member + 1;
    }
    edits.leave_out(begin(next).unwrap_or(end)..end);
}

/// Prints numbers alone: the content can be secret.
impl fmt::Debug for EwsBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EwsBatch")
            .field("operation", &self.facts.operation)
            .field("members", &self.members.len())
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}
