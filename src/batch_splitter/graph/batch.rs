//! One batch of Graph's: its requests, the parts made of them, and their outcomes.

use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use http::header::RETRY_AFTER;
use http::{StatusCode, response};

use super::json::{self, Object};
use super::member::Member;
use super::part_response::{
    BatchResponse, ErrorText, MemberResponse, StatusClass, refuses_all, status_class,
};
use crate::batch_splitter::format::{
    Batch, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure, PartOutcome,
    PartResponse,
};
use crate::body::rope::Rope;
use crate::body::{ReplayBody, encoding};
use crate::retry::retry_after;

/// The most requests in one batch of Microsoft Graph (microsoft-graph-docs, "json-batching").
const MAX_MEMBERS: usize = 20;

/// How often a read is sent again after responses that do not say whether it was executed.
const MAX_UNCLEAR: u8 = 3;

/// The refusal of a part is not repeated for each of its requests if it is larger.
const MAX_REFUSAL: usize = 16 * 1024;

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
    /// By their ids, in lower case.
    ids: HashMap<Box<str>, usize>,
    sizing_key: Box<str>,
    idempotency: Idempotency,
    /// How often a read got a response that does not say whether it was executed.
    unclear: HashMap<usize, u8>,
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
        let mut members = Vec::with_capacity(texts.len());
        let mut ids = HashMap::with_capacity(texts.len());
        for (at, request) in texts.into_iter().enumerate() {
            let (id, member) = Member::read(text, request, &ids)?;
            members.push(member);
            if ids.insert(id, at).is_some() {
                return None;
            }
        }
        let has = |idempotency| {
            let mut members = members.iter();
            members.any(|member| member.idempotency == idempotency)
        };
        let idempotency = match (
            has(Idempotency::NonIdempotent),
            has(Idempotency::Idempotent),
        ) {
            (true, _) => Idempotency::NonIdempotent,
            (false, true) => Idempotency::Idempotent,
            (false, false) => Idempotency::Safe,
        };
        Some(GraphBatch {
            body,
            array,
            members,
            ids,
            sizing_key,
            idempotency,
            unclear: HashMap::new(),
            refusals: HashMap::new(),
            refusal: None,
        })
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        self.body.slice(from..to.max(from))
    }

    fn is_safe(&self, member: usize) -> bool {
        self.members
            .get(member)
            .is_some_and(|member| member.idempotency == Idempotency::Safe)
    }

    /// Counts a response that does not say whether this member was executed. Returns whether it may be sent again.
    fn may_retry_unclear(&mut self, member: usize) -> bool {
        if !self.is_safe(member) {
            return false;
        }
        let unclear = self.unclear.entry(member).or_default();
        *unclear = unclear.saturating_add(1);
        *unclear <= MAX_UNCLEAR
    }

    /// As [`GraphBatch::may_retry_unclear`], for all these. Counts for each, even after one that may not be sent again.
    fn may_retry_all_unclear(&mut self, members: &[usize]) -> bool {
        let spent = members
            .iter()
            .filter(|member| !self.may_retry_unclear(**member));
        spent.count() == 0
    }

    fn messages(
        &mut self,
        members: &[usize],
        batch_response: &BatchResponse,
        body: &Rope,
    ) -> Vec<Message> {
        let mut found: Vec<Option<&MemberResponse>> = vec![None; members.len()];
        let mut ambiguous = vec![false; members.len()];
        let bytes = |response: &MemberResponse| {
            let Range { start, end } = response.range;
            body.slice(start as u64..end as u64)
        };
        for response in &batch_response.responses {
            let Some(at) = response
                .id
                .as_deref()
                .and_then(|id| self.ids.get(id))
                .and_then(|member| members.iter().position(|other| other == member))
            else {
                continue;
            };
            match found[at] {
                Some(other) if bytes(other).to_bytes() != bytes(response).to_bytes() => {
                    ambiguous[at] = true;
                }
                _ => found[at] = Some(response),
            }
        }
        let mut messages: Vec<Message> = Vec::with_capacity(members.len());
        for (at, member) in members.iter().enumerate() {
            let message = match found[at].filter(|_| !ambiguous[at]) {
                Some(response) => Message::new(
                    bytes(response),
                    self.outcome(*member, response, &members[..at], &messages),
                ),
                None => Message::new(
                    self.unknown(
                        *member,
                        "the server's response to the batch has none for it",
                    ),
                    if self.may_retry_unclear(*member) {
                        MemberOutcome::retry(None)
                    } else {
                        MemberOutcome::Failed
                    },
                ),
            };
            messages.push(message);
        }
        messages
    }

    /// Returns what follows from the response to a member; `before` are those before it in its part, with their `messages`.
    fn outcome(
        &mut self,
        member: usize,
        response: &MemberResponse,
        before: &[usize],
        messages: &[Message],
    ) -> MemberOutcome {
        match response.status {
            Some(200..=399) => MemberOutcome::Done,
            Some(424) => {
                let (mut retried, mut failed) = (false, false);
                for (other, message) in before.iter().zip(messages) {
                    if self.needs(member).contains(other) {
                        retried |= matches!(message.outcome, MemberOutcome::Retry(_));
                        failed |= message.outcome == MemberOutcome::Failed;
                    }
                }
                if retried && !failed {
                    MemberOutcome::retry(None)
                } else {
                    MemberOutcome::Failed
                }
            }
            Some(status) => match status_class(status) {
                StatusClass::Throttled => MemberOutcome::retry(response.retry_after),
                StatusClass::Unknown if self.may_retry_unclear(member) => {
                    MemberOutcome::retry(None)
                }
                _ => MemberOutcome::Failed,
            },
            None => MemberOutcome::Failed,
        }
    }

    /// Returns what a response without messages means.
    fn failure(&mut self, members: &[usize], head: &response::Parts, body: &Rope) -> PartFailure {
        let status = head.status;
        let joined = body.to_bytes();
        let encoded = encoding(&head.headers).is_some();
        let all_safe = members.iter().all(|member| self.is_safe(*member));
        let readable = str::from_utf8(&joined).ok().filter(|_| !encoded);
        let error = readable.map(ErrorText::read).unwrap_or_default();
        let too_large = matches!(status.as_u16(), 408 | 413 | 504);
        let outcome = match status_class(status.as_u16()) {
            StatusClass::Throttled => PartOutcome::retry(retry_after(&head.headers)),
            StatusClass::Unknown if !all_safe => PartOutcome::Unknown,
            StatusClass::Unknown if self.may_retry_all_unclear(members) => {
                PartOutcome::retry(retry_after(&head.headers))
            }
            StatusClass::Unknown => PartOutcome::Failed,
            // It would be compressed the next time too.
            StatusClass::Final if status.is_success() && encoded => PartOutcome::Unknown,
            StatusClass::Final if status.is_success() => {
                match all_safe && self.may_retry_all_unclear(members) {
                    true => PartOutcome::retry(None),
                    false => PartOutcome::Unknown,
                }
            }
            StatusClass::Final if refuses_all(status) => PartOutcome::FailedForAll,
            StatusClass::Final if too_large && members.len() > 1 => PartOutcome::retry(None),
            StatusClass::Final if status.is_client_error() => PartOutcome::Failed,
            StatusClass::Final => PartOutcome::Unknown,
        };
        let text = match &error.message {
            _ if status.is_success() && encoded => {
                format!("HTTP {status}, but compressed, so that it cannot be read")
            }
            _ if status.is_success() => format!("HTTP {status}, but no response to a batch"),
            Some(message) => format!("HTTP {status}: {message}"),
            None => format!("HTTP {status}"),
        };
        let code = error.code.clone();
        if outcome != PartOutcome::Unknown && !status.is_success() {
            let json = readable.filter(|text| text.len() <= MAX_REFUSAL && json::is_valid(text));
            let retry_after = head.headers.get(RETRY_AFTER);
            let refusal = Arc::new(Refusal {
                status,
                retry_after: retry_after.and_then(|value| Some(value.to_str().ok()?.into())),
                body: json.map(|_| body.clone()),
                error,
            });
            for member in members {
                self.refusals.insert(*member, Arc::clone(&refusal));
            }
            if outcome == PartOutcome::FailedForAll {
                self.refusal = Some(refusal);
            }
        }
        PartFailure {
            too_large,
            code,
            ..PartFailure::new(outcome, text)
        }
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
        MAX_MEMBERS
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
        if head.status.is_success() && encoding(&head.headers).is_none() {
            // Joined to be read if it came in pieces. The messages are slices of the pieces.
            let joined = body.to_bytes();
            let response = str::from_utf8(&joined)
                .ok()
                .and_then(|text| BatchResponse::read(text, head));
            if let Some(response) = response {
                let Range { start, end } = response.array;
                return PartResponse::Messages {
                    frame: (
                        body.slice(0..start as u64 + 1),
                        body.slice((end as u64).saturating_sub(1)..body.len()),
                    ),
                    messages: self.messages(members, &response, &body),
                };
            }
        }
        PartResponse::Failure(self.failure(members, head, &body))
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
