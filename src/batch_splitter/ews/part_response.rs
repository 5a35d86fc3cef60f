//! Reads the response to a part: a message for each member, lists for all of them, or one error for the whole part.
use std::ops::Range;

use bytes::Bytes;
use http::response;

use super::EwsBatch;
use super::cut::Cutter;
use super::outcome::Sent;
use crate::batch_splitter::format::{
    Batch, Explanation, MemberOutcome, Message, PartResponse, Retry,
};
use crate::batch_splitter::quote::with_quote;
use crate::body::encoding;
use crate::body::rope::Rope;
use crate::retry::MAX_LOSS_RETRIES;
use crate::soap::lists::{ListAt, lists, responds_with_lists};
use crate::soap::member_status::MemberStatus;
use crate::soap::merge::{entries_have_ids, entry_id, new_change_key, other_response};
use crate::soap::namespaces::{Missing, Namespaces};
use crate::soap::truncation::TruncationMark;
use crate::soap::{Operation, ResponseClass, ResponseMessage, ResponseScanner};

/// The longest start tag that is read.
const MAX_TAG: u64 = 64 * 1024;

/// The response messages of one response.
struct Scanned {
    messages: Vec<ResponseMessage>,
    list: Option<Range<u64>>,
    is_soap: bool,
    /// Why it could not be read to its end.
    broken: Option<String>,
}

impl Scanned {
    fn new(body: &Rope) -> Scanned {
        let mut scanner = ResponseScanner::new();
        let mut messages = Vec::new();
        let pieces = body.pieces().iter();
        let broken = pieces
            .map(|piece| scanner.push(piece, &mut |message| messages.push(message)))
            .find_map(Result::err)
            .or_else(|| scanner.finish().err());
        Scanned {
            messages,
            list: scanner.list_content(),
            is_soap: scanner.is_soap() == Some(true),
            broken: broken.map(|error| error.to_string()),
        }
    }
}

impl Scanned {
    fn entries(&self) -> impl Iterator<Item = &ResponseMessage> {
        self.messages.iter().filter(|message| message.is_entry)
    }

    /// Whether some member was executed.
    fn says_success(&self) -> bool {
        self.entries()
            .any(|entry| entry.class == ResponseClass::Success)
    }

    /// Returns where the first message begins that was found.
    fn begin_of_messages(&self) -> Option<u64> {
        self.messages
            .iter()
            .map(|message| message.range.start)
            .min()
    }
}

/// The response message of one member.
#[derive(Clone)]
struct Entry {
    bytes: Rope,
    outcome: MemberOutcome,
    maybe_executed: bool,
    /// Whether Exchange stops a batch for such an error.
    stops: bool,
}

/// Says why messages are not known to be those of the members.
fn mismatch(entries: usize, members: usize) -> String {
    match entries == members {
        true => "a response whose messages may be those of other members".to_owned(),
        false => format!("a response with {entries} messages to {members} members"),
    }
}

/// Returns the message that counts for all members together, if there is one.
fn speaks_for_all<'a>(
    entries: &[&'a ResponseMessage],
    members: usize,
) -> Option<&'a ResponseMessage> {
    // One message for all members, or one for each: there were too many at a time.
    let for_less = |entry: &&ResponseMessage| entry.effective_code().asks_for_less();
    match *entries {
        // What has no code is no message.
        [one] if members > 1 => Some(one).filter(|one| !one.code.as_str().is_empty()),
        [one, ..] if members > 1 && entries.iter().all(for_less) => Some(one),
        _ => None,
    }
}

impl EwsBatch {
    pub(super) fn read_response(
        &mut self,
        members: &[usize],
        head: &response::Parts,
        body: &Rope,
    ) -> PartResponse {
        let sent = self.sent(members);
        if encoding(&head.headers).is_some() {
            let by_status = sent.by_status(head);
            let unreadable = || sent.unreadable("the response is compressed".to_owned());
            return PartResponse::Failure(by_status.unwrap_or_else(unreadable));
        }
        let scanned = Scanned::new(body);
        let fault = scanned.messages.iter().find(|message| message.is_fault);
        if fault.is_some() && scanned.says_success() {
            let text = "a response with both a fault and messages of success".to_owned();
            return PartResponse::Failure(sent.unreadable(text));
        }
        if let Some(fault) = fault {
            return PartResponse::Failure(sent.by_fault(fault, head));
        }
        // What was done is done, whatever the status around it says.
        let by_status = sent.by_status(head).filter(|_| !scanned.says_success());
        if let Some(mut failure) = by_status {
            if !scanned.is_soap {
                failure.text = with_quote(&failure.text, body).into();
            }
            return PartResponse::Failure(failure);
        }
        let unreadable = |text: String| PartResponse::Failure(sent.unreadable(text));
        if !scanned.is_soap {
            return unreadable(with_quote("the response is no SOAP", body));
        }
        if let Some(why) = scanned.broken {
            return unreadable(why);
        }
        let begin = scanned.begin_of_messages().unwrap_or(body.len());
        let begin = body.slice(0..begin.saturating_add(MAX_TAG)).to_bytes();
        if let Some(other) = other_response(self.facts.operation, &begin) {
            let text = format!("a response to something else: {other}");
            return PartResponse::Failure(sent.unattributed(text));
        }
        if responds_with_lists(self.facts.operation) {
            let lists = self.lists(sent, head, body, &scanned);
            let text = "a response with other lists than the first one";
            return lists.unwrap_or_else(|| unreadable(text.to_owned()));
        }
        let messages = self.messages(sent, members, head, body, &scanned);
        messages.unwrap_or_else(|| {
            let text = mismatch(scanned.entries().count(), members.len());
            PartResponse::Failure(sent.unattributed(text))
        })
    }

    /// Returns one message for each member, or `None` if they cannot be attributed.
    fn messages(
        &mut self,
        sent: Sent,
        members: &[usize],
        head: &response::Parts,
        body: &Rope,
        scanned: &Scanned,
    ) -> Option<PartResponse> {
        let entries: Vec<&ResponseMessage> = scanned.entries().collect();
        if entries.is_empty() {
            // The response element itself says that it failed.
            let own = scanned.messages.iter().find(|message| !message.is_entry)?;
            let failed = own.class == ResponseClass::Error;
            return failed.then(|| PartResponse::Failure(sent.by_message(own, head)));
        }
        let list = scanned.list.clone()?;
        let Some(scope) = Namespaces::behind(&body.slice(0..list.start).to_bytes()) else {
            let text = "a response that declares more namespaces than are kept";
            return Some(PartResponse::Failure(sent.unreadable(text.to_owned())));
        };
        if let Some(one) = speaks_for_all(&entries, members.len()) {
            if one.class != ResponseClass::Error {
                return None;
            }
            let mut failure = sent.by_message(one, head);
            // Where there is one for each, it belongs to its own member.
            if entries.len() == 1 {
                let bytes = body.slice(one.range.clone());
                // It can come before the frame that it has to fit.
                failure.message = Some(declare(bytes, &scope.anywhere()));
            }
            return Some(PartResponse::Failure(failure));
        }
        let outside =
            |entry: &&ResponseMessage| entry.range.start < list.start || entry.range.end > list.end;
        if entries.iter().any(outside) {
            return None;
        }
        let mut entries = self.attribute(sent, members, &entries, body)?;
        if self.facts.operation == Operation::EXPORT_ITEMS {
            self.find_truncated(members, &mut entries);
        }
        self.note(members, &entries);
        if self.stops {
            self.keep_stop(members, &mut entries);
        }
        Some(PartResponse::Messages {
            frame: (body.slice(0..list.start), body.slice(list.end..body.len())),
            messages: self.messages_of(entries, scope),
        })
    }

    /// Makes the messages of the members, with the namespaces that are declared around them.
    fn messages_of(&mut self, entries: Vec<Entry>, scope: Namespaces) -> Vec<Message> {
        let moved = self.move_from(vec![scope]).pop();
        let moved = moved.filter(|moved| !moved.is_empty());
        let messages = entries.into_iter().map(|entry| {
            let bytes = match &moved {
                Some(moved) => declare(entry.bytes, moved),
                None => entry.bytes,
            };
            let message = Message::new(bytes, entry.outcome);
            match entry.maybe_executed {
                true => message.maybe_executed(),
                false => message,
            }
        });
        messages.collect()
    }

    /// Returns the entry of each member, or `None` if it is not known which one that is.
    fn attribute(
        &self,
        sent: Sent,
        members: &[usize],
        entries: &[&ResponseMessage],
        body: &Rope,
    ) -> Option<Vec<Entry>> {
        let mut cutter = Cutter::new(body);
        let entries = entries.iter().zip(sent.outcomes(entries));
        let mut entries: Vec<Entry> = entries
            .map(|(entry, outcome)| Entry {
                bytes: cutter.take(entry.range.clone()),
                outcome,
                maybe_executed: sent.leaves_doubt(entry),
                stops: entry.effective_code().stops_a_batch(),
            })
            .collect();
        if entries.len() != members.len() {
            return None;
        }
        if entries_have_ids(self.facts.operation) {
            let order = self.order_by_ids(members, &entries)?;
            entries = order
                .into_iter()
                .map(|entry| entries.get(entry).cloned())
                .collect::<Option<_>>()?;
        }
        Some(entries)
    }

    /// Leaves those undone that the server has left undone, and remembers which member stopped the batch: one that failed
    /// with a code that stops one, or behind which the server has stopped.
    fn keep_stop(&mut self, members: &[usize], entries: &mut [Entry]) {
        let mut stopper = None;
        let mut last_failed = None;
        for (member, entry) in members.iter().zip(entries) {
            match entry.outcome {
                MemberOutcome::Failed | MemberOutcome::Unknown => {
                    last_failed = Some(*member);
                    stopper = stopper.or(last_failed.filter(|_| entry.stops));
                }
                MemberOutcome::Stopped if last_failed.is_some() => {
                    stopper = stopper.or(last_failed);
                    entry.outcome = MemberOutcome::Failed;
                }
                _ => {}
            }
        }
        self.stopper = self.stopper.or(stopper);
    }

    /// Returns what has to be declared again where something moves from these scopes into those of the first response. They
    /// become those if there was none before.
    fn move_from(&mut self, scopes: Vec<Namespaces>) -> Vec<Missing> {
        let Some(first) = &self.scopes else {
            let nothing = scopes.iter().map(|_| Missing::default()).collect();
            self.scopes = Some(scopes);
            return nothing;
        };
        let pairs = scopes.iter().zip(first);
        pairs.map(|(from, to)| from.moved_to(to)).collect()
    }

    /// Whether a member of the batch has this id.
    fn has_member(&self, id: &str) -> bool {
        let mut members = self.facts.members.iter();
        members.any(|member| member.id.as_deref() == Some(id))
    }

    /// Returns which entry belongs to which member, where entries name their members: as they stand, unless their ids say
    /// otherwise, or `None` if the ids leave it open.
    fn order_by_ids(&self, members: &[usize], entries: &[Entry]) -> Option<Vec<usize>> {
        let operation = self.facts.operation;
        let asked: Vec<Option<&str>> = members
            .iter()
            .map(|member| self.facts.members.get(*member)?.id.as_deref())
            .collect();
        let mut named = Vec::with_capacity(entries.len());
        for entry in entries {
            let id = entry_id(operation, &beginning(&entry.bytes));
            match id {
                Some(id) if !asked.contains(&Some(&*id)) => {
                    // The server can know an address by another name. An item has one id.
                    if operation == Operation::EXPORT_ITEMS || self.has_member(&id) {
                        return None;
                    }
                    named.push(None);
                }
                id => named.push(id),
            }
        }
        let fits = |(asked, named): (&Option<&str>, &Option<String>)| {
            named.is_none() || *asked == named.as_deref()
        };
        if asked.iter().zip(&named).all(fits) {
            return Some((0..entries.len()).collect());
        }
        let mut order: Vec<Option<usize>> = vec![None; members.len()];
        let mut nameless = Vec::new();
        for (entry, id) in named.iter().enumerate() {
            let Some(id) = id else {
                nameless.push(entry);
                continue;
            };
            let mut slots = asked.iter().zip(&mut order);
            let (_, slot) = slots.find(|(asked, slot)| slot.is_none() && **asked == Some(id))?;
            *slot = Some(entry);
        }
        // One that is left over belongs to the one member that is.
        if nameless.len() > 1 {
            return None;
        }
        order
            .into_iter()
            .map(|slot| slot.or_else(|| nameless.pop()))
            .collect()
    }

    /// What Exchange cut short is no success, whatever it says.
    fn find_truncated(&mut self, members: &[usize], entries: &mut [Entry]) {
        for (member, entry) in members.iter().zip(entries) {
            let mut mark = TruncationMark::default();
            let pieces = entry.bytes.pieces().iter();
            pieces.for_each(|piece| mark.read(piece));
            if !mark.is_found() {
                continue;
            }
            let cause = "the server has cut its data short";
            let why = Explanation::NotExecuted { code: None, cause };
            if let Some(message) = self.explain(*member, &why) {
                entry.bytes = message;
                entry.outcome =
                    MemberOutcome::Retry(Retry::new(None).max_retries(MAX_LOSS_RETRIES));
            }
        }
    }

    /// Remembers what later parts have to know of this one.
    fn note(&mut self, members: &[usize], entries: &[Entry]) {
        let operation = self.facts.operation;
        let done = members.iter().zip(entries);
        let done = done.filter(|(_, entry)| entry.outcome == MemberOutcome::Done);
        for (member, entry) in done {
            self.once.part_done();
            if operation == Operation::CREATE_ATTACHMENT {
                if self.facts.parent_change_key.is_some() {
                    let key = new_change_key(operation, &beginning(&entry.bytes));
                    let key = key.map(attribute_value);
                    self.parent_change_key = key.or(self.parent_change_key.take());
                }
                continue;
            }
            // The entry of an occurrence has the change key of that one alone, not of its master.
            let facts = self.facts.members.get(*member);
            let facts = facts.filter(|facts| facts.change_key.is_some());
            let id = facts.and_then(|facts| facts.id.as_deref());
            let id = id.and_then(|id| self.changed_again.get(id));
            if let Some(id) = id {
                if let Some(key) = new_change_key(operation, &beginning(&entry.bytes)) {
                    self.change_keys.insert(id.clone(), attribute_value(key));
                }
            }
        }
    }

    /// Returns the lists for all members together, or `None` if the response says nothing or has other lists than the first one.
    fn lists(
        &mut self,
        sent: Sent,
        head: &response::Parts,
        body: &Rope,
        scanned: &Scanned,
    ) -> Option<PartResponse> {
        let refused = |message: &&ResponseMessage| {
            matches!(
                message.member_status(),
                MemberStatus::Refused { .. } | MemberStatus::Stopped
            )
        };
        let messages = &scanned.messages;
        let failed = |message: &&ResponseMessage| {
            message.class == ResponseClass::Error && (!message.is_entry || messages.len() == 1)
        };
        let failure = messages.iter().find(failed);
        // If one has to be sent again, all are: nobody says whose it is.
        if let Some(message) = failure.or_else(|| messages.iter().find(refused)) {
            return Some(PartResponse::Failure(sent.by_message(message, head)));
        }
        messages.first()?;
        let bytes = body.to_bytes();
        let found = lists(self.facts.operation, &bytes)?;
        let fits =
            |(list, first): (&ListAt, &&str)| list.name == *first || list.children.is_empty();
        if !found.iter().zip(&self.lists).all(fits) {
            return None;
        }
        if self.lists.is_empty() {
            self.lists = found.iter().map(|list| list.name).collect();
        }
        let scopes = found.iter().map(|list| list.scope.clone()).collect();
        let moved = self.move_from(scopes);
        let mut frame = Vec::with_capacity(found.len() + 1);
        let mut lists = Vec::with_capacity(found.len());
        let mut cutter = Cutter::new(body);
        let mut at = 0;
        let mut piece = Rope::new();
        let mut take = |range: Range<usize>| cutter.take(range.start as u64..range.end as u64);
        for (list, moved) in found.iter().zip(&moved) {
            piece.append(take(at..list.before));
            piece.push(Bytes::from(list.open.clone()));
            frame.push(std::mem::take(&mut piece));
            lists.push(content(list, moved, &mut take));
            piece.push(Bytes::from(list.close.clone()));
            at = list.after;
        }
        piece.append(take(at..bytes.len()));
        frame.push(piece);
        Some(PartResponse::Lists { frame, lists })
    }
}

/// Returns what stands in a list, made to fit the first response.
fn content(list: &ListAt, moved: &Missing, mut take: impl FnMut(Range<usize>) -> Rope) -> Rope {
    if moved.is_empty() {
        return take(list.content.clone());
    }
    let mut all = Rope::new();
    for child in &list.children {
        all.append(declare(take(child.clone()), moved));
    }
    all
}

/// Returns enough of an entry for its start tag, and for the ids that stand before what is large in it.
fn beginning(entry: &Rope) -> Bytes {
    entry.slice(0..64 * 1024).to_bytes()
}

/// Adds declarations to an element's start tag.
fn declare(element: Rope, missing: &Missing) -> Rope {
    let Some((at, text)) = missing.declaration(&beginning(&element)) else {
        return element;
    };
    let mut declared = element.slice(0..at as u64);
    declared.push(text);
    declared.append(element.slice(at as u64..element.len()));
    declared
}

/// Returns an attribute's value as it was written, so that it fits into any quotes.
fn attribute_value(value: Vec<u8>) -> Bytes {
    if !value.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
        return value.into();
    }
    let mut plain = Vec::with_capacity(value.len() + 10);
    for byte in value {
        match byte {
            b'"' => plain.extend_from_slice(b"&quot;"),
            b'\'' => plain.extend_from_slice(b"&apos;"),
            _ => plain.push(byte),
        }
    }
    plain.into()
}
