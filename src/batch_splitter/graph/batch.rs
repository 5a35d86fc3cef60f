//! One batch of Graph's: its requests, the parts made of them, and their outcomes.

use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use http::header::RETRY_AFTER;
use http::{StatusCode, response};

use super::json::{self, Object};
use super::lenient;
use super::member::{Ids, Member};
use super::outcome::{StatusClass, of_member, of_part, status_class};
use super::part_response::{BatchResponse, ErrorText, MemberResponse};
use super::size::PartSize;
use crate::batch_splitter::format::{
    Batch, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure, PartOutcome,
    PartResponse, Retry,
};
use crate::batch_splitter::quote::with_quote;
use crate::body::rope::Rope;
use crate::body::{ReplayBody, encoding};
use crate::retry::retry_after;

/// The refusal of a part is not repeated for each of its requests if it is larger.
const MAX_REFUSAL: u64 = 16 * 1024;

/// A batch of Microsoft Graph's; see [`GraphBatchFormat`](super::GraphBatchFormat).
///
/// ```
/// use http::Request;
/// use tower_ews::batch_splitter::{Batch, BatchFormat, GraphBatch, GraphBatchFormat};
///
/// let request = Request::post("https://graph.microsoft.com/v1.0/$batch")
///     .body(r#"{"requests":[{"id":"1","method":"GET","url":"/me"},{"id":"2","method":"GET","url":"/users"}]}"#.into())
///     .unwrap();
/// let batch: GraphBatch = GraphBatchFormat::new().batch(&request).unwrap();
/// assert_eq!((batch.operation(), batch.members()), ("$batch", 2));
/// ```
#[derive(Debug)]
pub struct GraphBatch {
    body: Bytes,
    /// The range of the array of requests, with its brackets.
    array: Range<usize>,
    members: Vec<Member>,
    sizing_key: Box<str>,
    idempotency: Idempotency,
    size: PartSize,
    /// The last refusal of a part with this member.
    refusals: HashMap<usize, Arc<Refusal>>,
    /// A refusal of every part.
    refusal: Option<Arc<Refusal>>,
}

/// The response to a part that was not executed.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    retry_after: Option<Box<str>>,
    /// JSON.
    body: Option<Rope>,
    error: ErrorText,
}

impl GraphBatch {
    pub(super) fn read(body: Bytes, sizing_key: Box<str>) -> Option<GraphBatch> {
        let text = str::from_utf8(&body).ok()?;
        let requests = Object::read(text)?.get("requests").ok()??;
        let array = json::range_of(text, requests)?;
        let texts = json::array(requests)?;
        if texts.len() < 2 {
            return None;
        }
        let mut members: Vec<Member> = Vec::with_capacity(texts.len());
        let mut ids = Ids::default();
        for (at, request) in texts.into_iter().enumerate() {
            members.push(Member::read(text, request, at, &mut ids)?);
        }
        let idempotency = weakest(members.iter());
        Some(GraphBatch {
            body,
            array,
            members,
            sizing_key,
            idempotency,
            size: PartSize::default(),
            refusals: HashMap::new(),
            refusal: None,
        })
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        self.body.slice(from..to.max(from))
    }

    /// Returns the messages of a part's members.
    fn messages(
        &self,
        members: &[usize],
        response: &BatchResponse,
        head: &response::Parts,
        body: &Rope,
    ) -> Vec<Message> {
        let bytes = |response: &MemberResponse| {
            let Range { start, end } = response.range;
            body.slice(start as u64..end as u64)
        };
        let found = self.attribute(members, &response.responses, bytes);
        let mut messages: Vec<Message> = Vec::with_capacity(members.len());
        for (at, (member, found)) in members.iter().zip(found).enumerate() {
            let message = match found {
                Some(response) => Message::new(
                    bytes(response),
                    self.outcome(*member, response, &members[..at], &messages),
                ),
                None => self.missing(*member, response.next_link.as_deref(), head),
            };
            messages.push(message);
        }
        messages
    }

    /// Returns the response of each member: by its id, in any order. Two different ones count as none.
    fn attribute<'a>(
        &self,
        members: &[usize],
        responses: &'a [MemberResponse],
        bytes: impl Fn(&MemberResponse) -> Rope,
    ) -> Vec<Option<&'a MemberResponse>> {
        // No part has two ids that differ in case alone.
        let ids: HashMap<&str, usize> = members
            .iter()
            .enumerate()
            .filter_map(|(at, member)| Some((&*self.members.get(*member)?.folded_id, at)))
            .collect();
        let mut found: Vec<Option<&MemberResponse>> = vec![None; members.len()];
        let mut ambiguous = vec![false; members.len()];
        for response in responses {
            let id = response.id.as_deref();
            let Some(&at) = id.and_then(|id| ids.get(id)) else {
                continue;
            };
            match found[at] {
                Some(other) if bytes(other).to_bytes() != bytes(response).to_bytes() => {
                    ambiguous[at] = true;
                }
                _ => found[at] = Some(response),
            }
        }
        let found = found.into_iter().zip(ambiguous);
        found
            .map(|(found, ambiguous)| found.filter(|_| !ambiguous))
            .collect()
    }

    /// Returns what is said of a member without a response that can be read.
    fn missing(&self, member: usize, next_link: Option<&str>, head: &response::Parts) -> Message {
        let cause = match next_link {
            Some(link) => format!("the server has put its response at {link}"),
            None => "the server's response to the batch has none for it".to_owned(),
        };
        let outcome = match status_class(head.status.as_u16()) {
            // What was executed before is said.
            StatusClass::Throttled => MemberOutcome::retry(retry_after(&head.headers)),
            _ => of_member(None, self.idempotency_of(member), None),
        };
        Message::new(self.unknown(member, &cause), outcome)
    }

    fn idempotency_of(&self, member: usize) -> Idempotency {
        let member = self.members.get(member);
        member.map_or(Idempotency::NonIdempotent, |member| member.idempotency)
    }

    /// Returns what follows from the response to a member; `before` are those before it in its part, with their `messages`.
    fn outcome(
        &self,
        member: usize,
        response: &MemberResponse,
        before: &[usize],
        messages: &[Message],
    ) -> MemberOutcome {
        if response.status != Some(424) {
            let idempotency = self.idempotency_of(member);
            return of_member(response.status, idempotency, response.retry_after);
        }
        // It is sent again with the one that it depends on, unless another one has failed.
        let mut again = None;
        for (other, message) in before.iter().zip(messages) {
            if self.needs(member).contains(other) {
                match message.outcome {
                    MemberOutcome::Retry(retry) => {
                        again = Some(Retry {
                            retry_after: None,
                            maybe_executed: false,
                            ..retry
                        });
                    }
                    MemberOutcome::Done => {}
                    _ => return MemberOutcome::Failed,
                }
            }
        }
        again.map_or(MemberOutcome::Failed, MemberOutcome::Retry)
    }

    /// Returns what a response without messages means.
    fn failure(&mut self, members: &[usize], head: &response::Parts, body: &Rope) -> PartFailure {
        let status = head.status;
        let joined = body.to_bytes();
        let encoded = encoding(&head.headers).is_some();
        let readable = str::from_utf8(&joined).ok().filter(|_| !encoded);
        let error = readable.map(ErrorText::read).unwrap_or_default();
        let idempotency = weakest(
            members
                .iter()
                .filter_map(|member| self.members.get(*member)),
        );
        let retry_after = retry_after(&head.headers);
        let (outcome, too_large) = of_part(status, members.len(), idempotency, retry_after);
        let text = match &error.message {
            _ if status.is_success() && encoded => {
                format!("HTTP {status}, but compressed, so that it cannot be read")
            }
            _ if encoded => format!("HTTP {status}"),
            _ if status.is_success() => {
                with_quote(&format!("HTTP {status}, but no response to a batch"), body)
            }
            Some(message) => format!("HTTP {status}: {message}"),
            None => with_quote(&format!("HTTP {status}"), body),
        };
        let code = error.code.clone();
        if outcome != PartOutcome::Unknown && !status.is_success() {
            self.note_refusal(members, head, outcome, error, readable.map(|_| body));
        }
        PartFailure {
            too_large,
            code,
            ..PartFailure::new(outcome, text)
        }
    }

    /// Remembers a refusal for the messages of its members.
    fn note_refusal(
        &mut self,
        members: &[usize],
        head: &response::Parts,
        outcome: PartOutcome,
        error: ErrorText,
        readable: Option<&Rope>,
    ) {
        let is_json = |body: &&Rope| {
            let small = body.len() <= MAX_REFUSAL;
            small && str::from_utf8(&body.to_bytes()).is_ok_and(json::is_valid)
        };
        let retry_after = head.headers.get(RETRY_AFTER);
        let refusal = Arc::new(Refusal {
            status: head.status,
            retry_after: retry_after.and_then(|value| Some(value.to_str().ok()?.into())),
            body: readable.filter(is_json).cloned(),
            error,
        });
        for member in members {
            self.refusals.insert(*member, Arc::clone(&refusal));
        }
        if outcome == PartOutcome::FailedForAll {
            self.refusal = Some(refusal);
        }
    }

    /// Reads the responses in a part's response, whatever surrounds them. `None` if there are none.
    fn read_messages(
        &mut self,
        members: &[usize],
        head: &response::Parts,
        body: &Rope,
    ) -> Option<PartResponse> {
        if encoding(&head.headers).is_some() {
            return None;
        }
        // Joined to be read if it came in pieces. The messages are slices of the pieces.
        let joined = body.to_bytes();
        let response = BatchResponse::read(&lenient::text(&joined), head)?;
        // A refusal of the batch can have an empty array.
        let is_empty = response.responses.is_empty() && response.is_valid;
        if is_empty && !head.status.is_success() {
            return None;
        }
        if response.next_link.is_some() {
            tracing::warn!(
                "the response to a batch of Graph's has an `@odata.nextLink`: what has no response is told of it"
            );
        }
        let is_throttled = |response: &&MemberResponse| {
            response.status.map(status_class) == Some(StatusClass::Throttled)
        };
        let throttled = response.responses.iter().filter(is_throttled).count();
        self.size.part_ended(members.len(), throttled);
        let end = match response.end {
            Some(end) => body.slice(end as u64..body.len()),
            None => Rope::from("]}"),
        };
        Some(PartResponse::Messages {
            frame: (body.slice(0..response.begin as u64), end),
            messages: self.messages(members, &response, head, body),
        })
    }

    /// Makes the response to a member.
    fn message(&self, member: usize, status: u16, retry_after: Option<&str>, body: Rope) -> Rope {
        let id = self.members.get(member).map(|member| member.id.clone());
        let id = id.unwrap_or_default();
        let mut headers = String::from(r#""Content-Type":"application/json""#);
        if let Some(retry_after) = retry_after {
            headers += &format!(r#","Retry-After":{}"#, json::quoted(retry_after));
        }
        let mut rope = Rope::from(r#"{"id":"#);
        rope.push(self.slice(id.start, id.end));
        rope.push(format!(r#","status":{status},"headers":{{{headers}}},"body":"#).into());
        rope.append(body);
        rope.push(Bytes::from_static(b"}"));
        rope
    }

    fn unknown(&self, member: usize, cause: &str) -> Rope {
        let text = format!("It is not known whether this request was executed: {cause}.");
        self.message(member, 500, None, error("OutcomeUnknown", &text))
    }
}

/// Returns whether these may all be executed twice.
fn weakest<'a>(members: impl Iterator<Item = &'a Member>) -> Idempotency {
    members.fold(Idempotency::Safe, |weakest, member| {
        match (weakest, member.idempotency) {
            (Idempotency::NonIdempotent, _) | (_, Idempotency::NonIdempotent) => {
                Idempotency::NonIdempotent
            }
            (Idempotency::Safe, Idempotency::Safe) => Idempotency::Safe,
            _ => Idempotency::Idempotent,
        }
    })
}

fn error(code: &str, message: &str) -> Rope {
    let (code, message) = (json::quoted(code), json::quoted(message));
    format!(r#"{{"error":{{"code":{code},"message":{message}}}}}"#).into()
}

impl Batch for GraphBatch {
    fn operation(&self) -> &str {
        "$batch"
    }

    fn sizing_key(&self) -> &str {
        &self.sizing_key
    }

    fn members(&self) -> usize {
        self.members.len()
    }

    fn member_bytes(&self, member: usize) -> u64 {
        let len = self.members.get(member).map(|member| member.range.len());
        len.unwrap_or_default() as u64
    }

    fn shared_bytes(&self) -> u64 {
        (self.body.len() - self.array.len() + 2) as u64
    }

    fn order(&self) -> Order {
        Order::Free
    }

    fn idempotency(&self) -> Idempotency {
        self.idempotency
    }

    fn max_members(&self) -> usize {
        self.size.members()
    }

    fn exclusive(&self, member: usize) -> Option<u64> {
        Some(self.members.get(member)?.exclusive)
    }

    fn needs(&self, member: usize) -> &[usize] {
        self.members.get(member).map_or(&[], Member::needs)
    }

    fn separator(&self) -> &'static str {
        ","
    }

    fn part(&mut self, members: &[usize]) -> ReplayBody {
        if members.len() == self.members.len() {
            return ReplayBody::new(self.body.clone());
        }
        let mut rope = Rope::from(self.slice(0, self.array.start + 1));
        for (at, member) in members.iter().enumerate() {
            if at > 0 {
                rope.push(Bytes::from_static(b","));
            }
            if let Some(member) = self.members.get(*member) {
                member.push_to(&mut rope, &self.body, members);
            }
        }
        rope.push(self.slice(self.array.end - 1, self.body.len()));
        ReplayBody::from_pieces(rope)
    }

    fn response(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse {
        match self.read_messages(members, head, &body) {
            Some(messages) => messages,
            None => PartResponse::Failure(self.failure(members, head, &body)),
        }
    }

    fn explain(&mut self, member: usize, why: &Explanation<'_>) -> Option<Rope> {
        if member >= self.members.len() {
            return None;
        }
        let message = match *why {
            Explanation::OutcomeUnknown { cause } => self.unknown(member, cause),
            Explanation::NotExecuted { code, cause } => {
                match self.refusals.get(&member).or(self.refusal.as_ref()) {
                    Some(refusal) => {
                        let body = refusal.body.clone().unwrap_or_else(|| {
                            let code = refusal.error.code.as_deref().or(code);
                            error(code.unwrap_or("NotExecuted"), cause)
                        });
                        let retry_after = refusal.retry_after.as_deref();
                        self.message(member, refusal.status.as_u16(), retry_after, body)
                    }
                    None => {
                        let text = format!("This request was not executed: {cause}.");
                        let body = error(code.unwrap_or("NotExecuted"), &text);
                        self.message(member, 503, None, body)
                    }
                }
            }
            Explanation::DependencyFailed { member: needed } => {
                let id = self.members.get(needed).map(|needed| needed.id.clone());
                let id = id.and_then(|id| str::from_utf8(self.body.get(id)?).ok());
                let text = format!(
                    "This request was not sent: request {} failed, which it depends on.",
                    id.unwrap_or_default()
                );
                self.message(member, 424, None, error("FailedDependency", &text))
            }
        };
        Some(message)
    }
}
