//! Reads the response to a part: a message for each member, lists for all of them, or one error for the whole part.
use std::ops::Range;

use bytes::Bytes;
use http::response;

use super::EwsBatch;
use super::cut::Cutter;
use super::outcome::Sent;
use crate::batch_splitter::format::{
    Batch, Explanation, MemberOutcome, Message, PartFailure, PartResponse, Retry,
};
use crate::body::encoding;
use crate::body::rope::Rope;
use crate::retry::MAX_LOSS_RETRIES;
use crate::soap::lists::{ListAt, lists, responds_with_lists};
use crate::soap::member_status::MemberStatus;
use crate::soap::merge::{entries_have_ids, entry_id, new_change_key};
use crate::soap::namespaces::{Missing, Namespaces};
use crate::soap::truncation::TruncationMark;
use crate::soap::{Operation, ResponseClass, ResponseMessage, ResponseScanner};

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
        if let Some(fault) = scanned.messages.iter().find(|message| message.is_fault) {
            let by_message = sent.by_message(fault, head);
            // A fault without a known code is worth as much as its status.
            let known = fault.effective_code().is_known();
            let by_status = if known { None } else { sent.by_status(head) };
            return PartResponse::Failure(match by_status {
                Some(by_status) => PartFailure {
                    code: by_message.code,
                    text: by_message.text,
                    ..by_status
                },
                None => by_message,
            });
        }
        if let Some(failure) = sent.by_status(head) {
            return PartResponse::Failure(failure);
        }
        let unreadable = |text: String| PartResponse::Failure(sent.unreadable(text));
        if let Some(why) = scanned.broken {
            return unreadable(why);
        }
        if !scanned.is_soap {
            return unreadable("the response is no SOAP".to_owned());
        }
        if responds_with_lists(self.facts.operation) {
            let lists = self.lists(sent, head, body, &scanned);
            let text = "a response with other lists than the first one";
            return lists.unwrap_or_else(|| unreadable(text.to_owned()));
        }
        let messages = self.messages(sent, members, head, body, &scanned);
        messages.unwrap_or_else(|| {
            let entries = scanned.messages.iter().filter(|message| message.is_entry);
            unreadable(format!(
                "a response with {} messages to {} members",
                entries.count(),
                members.len()
            ))
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
        let entries: Vec<&ResponseMessage> = scanned
            .messages
            .iter()
            .filter(|message| message.is_entry)
            .collect();
        let operation = self.facts.operation;
        // One message for all members, or one for each: there were too many at a time.
        let for_less = |entry: &&ResponseMessage| entry.effective_code().asks_for_less();
        let all_for_less = members.len() > 1 && entries.iter().all(for_less);
        let alone = match &*entries {
            [] => {
                // The response element itself says that it failed.
                let own = scanned.messages.iter().find(|message| !message.is_entry)?;
                let failed = own.class == ResponseClass::Error;
                return failed.then(|| PartResponse::Failure(sent.by_message(own, head)));
            }
            [one] if members.len() > 1 => Some(*one),
            [one, ..] if all_for_less => Some(*one),
            _ => None,
        };
        let list = scanned.list.clone()?;
        let Some(scope) = Namespaces::behind(&body.slice(0..list.start).to_bytes()) else {
            let text = "a response that declares more namespaces than are kept";
            return Some(PartResponse::Failure(sent.unreadable(text.to_owned())));
        };
        if let Some(one) = alone {
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
        let mut cutter = Cutter::new(body);
        let mut bytes: Vec<Rope> = entries
            .iter()
            .map(|entry| cutter.take(entry.range.clone()))
            .collect();
        let mut outcomes = sent.outcomes(&entries);
        if members.len() == 1 && entries.len() > 1 {
            // All of them belong to this member.
            let whole = bytes.into_iter().reduce(|mut all, entry| {
                all.append(entry);
                all
            });
            (bytes, outcomes) = (vec![whole?], vec![sent.together(&outcomes)]);
        }
        if bytes.len() != members.len() {
            return None;
        }
        if entries_have_ids(operation) && bytes.len() > 1 {
            let order = self.order_by_ids(members, &bytes)?;
            let mut sorted = Vec::with_capacity(order.len());
            for entry in order {
                sorted.push((bytes.get(entry)?.clone(), *outcomes.get(entry)?));
            }
            (bytes, outcomes) = sorted.into_iter().unzip();
        }
        if operation == Operation::EXPORT_ITEMS {
            self.find_truncated(members, &mut bytes, &mut outcomes);
        }
        self.note(members, &bytes, &outcomes);
        if let Some(moved) = self
            .move_from(vec![scope])
            .pop()
            .filter(|moved| !moved.is_empty())
        {
            bytes = bytes
                .into_iter()
                .map(|entry| declare(entry, &moved))
                .collect();
        }
        let frame = (body.slice(0..list.start), body.slice(list.end..body.len()));
        let messages = bytes.into_iter().zip(outcomes);
        Some(PartResponse::Messages {
            frame,
            messages: messages
                .map(|(bytes, outcome)| Message::new(bytes, outcome))
                .collect(),
        })
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

    /// Returns which entry belongs to which member, where entries name their members: as they stand, unless their ids say
    /// otherwise, or `None` if the ids leave it open.
    fn order_by_ids(&self, members: &[usize], entries: &[Rope]) -> Option<Vec<usize>> {
        let operation = self.facts.operation;
        let asked: Vec<Option<&str>> = members
            .iter()
            .map(|member| self.facts.members.get(*member)?.id.as_deref())
            .collect();
        // An id that was not asked for (an address that the server knows by another name) says nothing.
        let named: Vec<Option<String>> = entries
            .iter()
            .map(|entry| entry_id(operation, &beginning(entry)))
            .map(|id| id.filter(|id| asked.contains(&Some(id))))
            .collect();
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
    fn find_truncated(
        &mut self,
        members: &[usize],
        entries: &mut [Rope],
        outcomes: &mut [MemberOutcome],
    ) {
        let each = members.iter().zip(entries).zip(outcomes);
        for ((member, entry), outcome) in each {
            let mut mark = TruncationMark::default();
            entry.pieces().iter().for_each(|piece| mark.read(piece));
            if !mark.is_found() {
                continue;
            }
            let cause = "the server has cut its data short";
            let why = Explanation::NotExecuted { code: None, cause };
            if let Some(message) = self.explain(*member, &why) {
                *entry = message;
                *outcome = MemberOutcome::Retry(Retry::new(None).max_retries(MAX_LOSS_RETRIES));
            }
        }
    }

    /// Remembers what later parts have to know of this one.
    fn note(&mut self, members: &[usize], entries: &[Rope], outcomes: &[MemberOutcome]) {
        let operation = self.facts.operation;
        let done = members.iter().zip(entries).zip(outcomes);
        let done = done.filter(|(_, outcome)| **outcome == MemberOutcome::Done);
        for ((member, entry), _) in done {
            self.once_done = true;
            if operation == Operation::CREATE_ATTACHMENT {
                if self.facts.parent_change_key.is_some() {
                    let key = new_change_key(operation, &beginning(entry)).map(attribute_value);
                    self.parent_change_key = key.or(self.parent_change_key.take());
                }
                continue;
            }
            let facts = self.facts.members.get(*member);
            let id = facts.and_then(|facts| facts.id.as_deref());
            let id = id.and_then(|id| self.changed_again.get(id));
            if let Some(id) = id {
                if let Some(key) = new_change_key(operation, &beginning(entry)) {
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
        self.once_done = true;
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
