//! One batch of Graph's: its requests, the parts made of them, and what became of each.

use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use http::header::RETRY_AFTER;
use http::{StatusCode, response};

use super::json::{self, Object};
use super::member::{Member, Method};
use super::read::{self, Answer, ErrorText, Meaning, Response};
use crate::batch_splitter::format::{
    Batch, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure, PartOutcome,
    PartResponse,
};
use crate::body::rope::Rope;
use crate::body::{ReplayBody, encoding};
use crate::retry::retry_after;

/// Microsoft Graph takes so many requests in one batch (microsoft-graph-docs, "json-batching").
const MAX_MEMBERS: usize = 20;

/// What only reads is sent again so often where the answer says nothing.
const MAX_SETBACKS: u8 = 3;

/// A refusal of a batch that is larger is not repeated for each of its requests.
const MAX_REFUSAL: usize = 16 * 1024;

/// A batch of Microsoft Graph's; see [`GraphBatchFormat`](super::GraphBatchFormat).
#[derive(Debug)]
pub struct GraphBatch {
    body: Bytes,
    /// Where the array of requests stands, with its brackets.
    array: Range<usize>,
    members: Vec<Member>,
    /// By their ids, in lower case.
    ids: HashMap<Box<str>, usize>,
    sizing_key: Box<str>,
    idempotency: Idempotency,
    /// How often what only reads got no answer that says anything.
    setbacks: HashMap<usize, u8>,
    /// The last refusal of a whole part with this member.
    refusals: HashMap<usize, Arc<Refusal>>,
    /// A refusal that is meant for all.
    refusal: Option<Arc<Refusal>>,
}

/// What the server said of a whole part that it did not execute.
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
        let array = json::place(text, requests)?;
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
        let has = |method| members.iter().any(|member| member.method == method);
        let idempotency = match (has(Method::Acts), has(Method::Converges)) {
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
            setbacks: HashMap::new(),
            refusals: HashMap::new(),
            refusal: None,
        })
    }

    fn slice(&self, from: usize, to: usize) -> Bytes {
        self.body.slice(from..to.max(from))
    }

    fn reads(&self, member: usize) -> bool {
        self.members
            .get(member)
            .is_some_and(|member| member.method == Method::Reads)
    }

    /// Whether this member may be sent again after an answer that said nothing. Counts.
    fn again(&mut self, member: usize) -> bool {
        if !self.reads(member) {
            return false;
        }
        let setbacks = self.setbacks.entry(member).or_default();
        *setbacks = setbacks.saturating_add(1);
        *setbacks <= MAX_SETBACKS
    }

    /// As [`GraphBatch::again`], for all these. Counts for each, even after one that may not.
    fn all_again(&mut self, members: &[usize]) -> bool {
        let spent = members.iter().filter(|member| !self.again(**member));
        spent.count() == 0
    }

    fn messages(&mut self, members: &[usize], answer: &Answer, body: &Rope) -> Vec<Message> {
        let mut given: Vec<Option<&Response>> = vec![None; members.len()];
        let mut twice = vec![false; members.len()];
        let bytes = |response: &Response| {
            let Range { start, end } = response.place;
            body.slice(start as u64..end as u64)
        };
        for response in &answer.responses {
            let Some(at) = response
                .id
                .as_deref()
                .and_then(|id| self.ids.get(id))
                .and_then(|member| members.iter().position(|other| other == member))
            else {
                continue;
            };
            match given[at] {
                Some(other) if bytes(other).to_bytes() != bytes(response).to_bytes() => {
                    twice[at] = true;
                }
                _ => given[at] = Some(response),
            }
        }
        let mut messages: Vec<Message> = Vec::with_capacity(members.len());
        for (at, member) in members.iter().enumerate() {
            let message = match given[at].filter(|_| !twice[at]) {
                Some(response) => Message {
                    bytes: bytes(response),
                    fate: self.fate(*member, response, &members[..at], &messages),
                },
                None => Message {
                    bytes: self
                        .unknown(*member, "the server's answer to the batch has none for it"),
                    fate: if self.again(*member) {
                        MemberOutcome::Again { hint: None }
                    } else {
                        MemberOutcome::Failed
                    },
                },
            };
            messages.push(message);
        }
        messages
    }

    /// `before` are the members before it in its part, with their `messages`.
    fn fate(
        &mut self,
        member: usize,
        response: &Response,
        before: &[usize],
        messages: &[Message],
    ) -> MemberOutcome {
        match response.status {
            Some(200..=399) => MemberOutcome::Done,
            Some(424) => {
                let (mut again, mut failed) = (false, false);
                for (other, message) in before.iter().zip(messages) {
                    if self.needs(member).contains(other) {
                        again |= matches!(message.fate, MemberOutcome::Again { .. });
                        failed |= message.fate == MemberOutcome::Failed;
                    }
                }
                if again && !failed {
                    MemberOutcome::Again { hint: None }
                } else {
                    MemberOutcome::Failed
                }
            }
            Some(status) => match read::meaning(status) {
                Meaning::Throttled => MemberOutcome::Again {
                    hint: response.hint,
                },
                Meaning::Open if self.again(member) => MemberOutcome::Again { hint: None },
                _ => MemberOutcome::Failed,
            },
            None => MemberOutcome::Failed,
        }
    }

    /// What an answer that has no messages means.
    fn whole(&mut self, members: &[usize], head: &response::Parts, body: &Rope) -> PartFailure {
        let status = head.status;
        let joined = body.to_bytes();
        let encoded = encoding(&head.headers).is_some();
        let reads = members.iter().all(|member| self.reads(*member));
        let readable = str::from_utf8(&joined).ok().filter(|_| !encoded);
        let error = readable.map(ErrorText::read).unwrap_or_default();
        let too_large = matches!(status.as_u16(), 408 | 413 | 504);
        let fate = match read::meaning(status.as_u16()) {
            Meaning::Throttled => PartOutcome::Again {
                hint: retry_after(&head.headers),
            },
            Meaning::Open if !reads => PartOutcome::Unknown,
            Meaning::Open if self.all_again(members) => PartOutcome::Again {
                hint: retry_after(&head.headers),
            },
            Meaning::Open => PartOutcome::Failed,
            // It would be compressed the next time too.
            Meaning::Answered if status.is_success() && encoded => PartOutcome::Unknown,
            Meaning::Answered if status.is_success() => match reads && self.all_again(members) {
                true => PartOutcome::Again { hint: None },
                false => PartOutcome::Unknown,
            },
            Meaning::Answered if read::refuses_all(status) => PartOutcome::FailedForAll,
            Meaning::Answered if too_large && members.len() > 1 => {
                PartOutcome::Again { hint: None }
            }
            Meaning::Answered if status.is_client_error() => PartOutcome::Failed,
            Meaning::Answered => PartOutcome::Unknown,
        };
        let text = match &error.message {
            _ if status.is_success() && encoded => {
                format!("HTTP {status}, but compressed, so that it cannot be read")
            }
            _ if status.is_success() => format!("HTTP {status}, but no answer to a batch"),
            Some(message) => format!("HTTP {status}: {message}"),
            None => format!("HTTP {status}"),
        };
        let code = error.code.clone();
        if fate != PartOutcome::Unknown && !status.is_success() {
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
            if fate == PartOutcome::FailedForAll {
                self.refusal = Some(refusal);
            }
        }
        PartFailure {
            fate,
            too_large,
            message: None,
            code,
            text: text.into(),
        }
    }

    /// An answer to a member, of our own.
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
        let place = self.members.get(member).map(|member| member.place.len());
        place.unwrap_or_default() as u64
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

    fn answer(&mut self, members: &[usize], head: &response::Parts, body: Rope) -> PartResponse {
        if head.status.is_success() && encoding(&head.headers).is_none() {
            // Joined to be read, if it came in pieces; the messages are slices of the pieces.
            let joined = body.to_bytes();
            let answer = str::from_utf8(&joined)
                .ok()
                .and_then(|text| Answer::read(text, head));
            if let Some(answer) = answer {
                let Range { start, end } = answer.array;
                return PartResponse::Messages {
                    frame: (
                        body.slice(0..start as u64 + 1),
                        body.slice((end as u64).saturating_sub(1)..body.len()),
                    ),
                    messages: self.messages(members, &answer, &body),
                };
            }
        }
        PartResponse::Whole(self.whole(members, head, &body))
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
