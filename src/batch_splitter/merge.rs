//! Merges the responses to parts, in the caller's order and without copying them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, RETRY_AFTER};
use http::{StatusCode, response};

use super::format::Message;
use super::plan::Plan;
use crate::body::collected::remove_body_headers;
use crate::body::rope::Rope;

/// The messages and lists that came so far.
#[derive(Debug)]
pub(super) struct Merge {
    separator: &'static str,
    /// The head of the first response with messages.
    head: Option<response::Parts>,
    layout: Layout,
    /// The messages that were not handed out yet, by member.
    messages: Vec<Option<Rope>>,
    /// How many members were settled one by one.
    settled: usize,
    /// How many of those have no message.
    without_message: usize,
    /// The first member that was not handed out.
    next_member: usize,
    begun: bool,
    /// Whether a message was handed out, so that the next one needs a separator.
    any: bool,
    ended: bool,
    queue: VecDeque<Bytes>,
}

#[derive(Debug)]
enum Layout {
    Unknown,
    Messages {
        begin: Rope,
        end: Rope,
    },
    Lists {
        frame: Vec<Rope>,
        /// What each part contributed, by its first member.
        lists: Vec<BTreeMap<usize, Rope>>,
    },
}

impl Merge {
    pub(super) fn new(members: usize, separator: &'static str) -> Self {
        Self {
            separator,
            head: None,
            layout: Layout::Unknown,
            messages: vec![None; members],
            settled: 0,
            without_message: 0,
            next_member: 0,
            begun: false,
            any: false,
            ended: false,
            queue: VecDeque::new(),
        }
    }

    /// Keeps the envelope if it is the first one. Returns whether responses with messages can be merged.
    pub(super) fn put_frame(&mut self, head: &response::Parts, frame: (Rope, Rope)) -> bool {
        if let Layout::Unknown = self.layout {
            let (begin, end) = frame;
            self.layout = Layout::Messages { begin, end };
            let mut head = head.clone();
            if !head.status.is_success() {
                // It spoke of one part. What became of each member stands in its message.
                head.status = StatusCode::OK;
                head.headers.remove(RETRY_AFTER);
            }
            self.head = Some(head);
        }
        matches!(self.layout, Layout::Messages { .. })
    }

    /// Adds the lists of a part that begins with `member`. Returns whether they can be merged.
    pub(super) fn put_lists(
        &mut self,
        head: &response::Parts,
        member: usize,
        frame: Vec<Rope>,
        part: Vec<Rope>,
    ) -> bool {
        if let (Layout::Unknown, true) = (&self.layout, frame.len() == part.len() + 1) {
            let lists = part.iter().map(|_| BTreeMap::new()).collect();
            self.layout = Layout::Lists { frame, lists };
            self.head = Some(head.clone());
        }
        match &mut self.layout {
            Layout::Lists { lists, .. } if lists.len() == part.len() => {
                for (list, content) in lists.iter_mut().zip(part) {
                    list.insert(member, content);
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn has_envelope(&self) -> bool {
        !matches!(self.layout, Layout::Unknown)
    }

    /// Whether messages can be handed out before all of them came.
    pub(super) fn can_stream(&self) -> bool {
        matches!(self.layout, Layout::Messages { .. })
    }

    /// Adds a member's message, or none if there is none for it.
    pub(super) fn put(&mut self, member: usize, message: Option<Rope>) {
        self.settled += 1;
        self.without_message += usize::from(message.is_none());
        if let Some(slot) = self.messages.get_mut(member) {
            *slot = message;
        }
    }

    /// Returns how many settled members have no message although they should.
    pub(super) fn missing(&self) -> usize {
        match self.layout {
            // Lists have no place for them.
            Layout::Lists { .. } => self.settled,
            _ => self.without_message,
        }
    }

    /// Returns the next bytes, if they came.
    pub(super) fn next(&mut self, plan: &Plan) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            if !self.fill(plan) {
                return None;
            }
        }
        self.queue.pop_front()
    }

    /// Returns the first member that was not handed out.
    pub(super) fn next_member(&self) -> usize {
        self.next_member
    }

    /// Whether everything was handed out.
    pub(super) fn is_at_end(&self) -> bool {
        self.ended && self.queue.is_empty()
    }

    fn is_next_known(&self, plan: &Plan) -> bool {
        match self.layout {
            Layout::Unknown => false,
            Layout::Messages { .. } => plan.is_settled(self.next_member),
            Layout::Lists { .. } => plan.is_complete(),
        }
    }

    fn fill(&mut self, plan: &Plan) -> bool {
        if self.begun && !self.is_next_known(plan) {
            return false;
        }
        match &mut self.layout {
            Layout::Unknown => return false,
            Layout::Messages { begin, end } => {
                if !self.begun {
                    self.queue.extend(std::mem::take(begin));
                } else if let Some(slot) = self.messages.get_mut(self.next_member) {
                    if let Some(message) = slot.take() {
                        if self.any && !self.separator.is_empty() {
                            self.queue
                                .push_back(Bytes::from_static(self.separator.as_bytes()));
                        }
                        self.any = true;
                        self.queue.extend(message);
                    }
                    self.next_member += 1;
                } else {
                    self.queue.extend(std::mem::take(end));
                    self.ended = true;
                }
                self.begun = true;
            }
            Layout::Lists { frame, lists } => {
                if !plan.is_complete() {
                    return false;
                }
                let mut lists = std::mem::take(lists).into_iter();
                for piece in std::mem::take(frame) {
                    self.queue.extend(piece);
                    let mut any = false;
                    for content in lists.next().into_iter().flat_map(BTreeMap::into_values) {
                        if any && !content.is_empty() && !self.separator.is_empty() {
                            self.queue
                                .push_back(Bytes::from_static(self.separator.as_bytes()));
                        }
                        any |= !content.is_empty();
                        self.queue.extend(content);
                    }
                }
                self.begun = true;
                self.ended = true;
            }
        }
        true
    }

    /// Returns how many bytes are still to be handed out, once all members are settled.
    pub(super) fn left(&self, plan: &Plan) -> Option<u64> {
        if !plan.is_complete() && !self.ended {
            return None;
        }
        let queued: u64 = self.queue.iter().map(|bytes| bytes.len() as u64).sum();
        if self.ended {
            return Some(queued);
        }
        let separator = self.separator.len() as u64;
        match &self.layout {
            Layout::Unknown => None,
            Layout::Messages { begin, end } => {
                let waiting = self.messages.iter().skip(self.next_member).flatten();
                let (count, bytes) = waiting.fold((0, 0), |(count, bytes), message| {
                    (count + 1, bytes + message.len())
                });
                let separators = if self.any {
                    count
                } else {
                    u64::saturating_sub(count, 1)
                };
                Some(queued + begin.len() + bytes + separators * separator + end.len())
            }
            Layout::Lists { frame, lists } => {
                let mut bytes: u64 = frame.iter().map(Rope::len).sum();
                for list in lists {
                    let filled = list.values().filter(|content| !content.is_empty()).count() as u64;
                    bytes += list.values().map(Rope::len).sum::<u64>();
                    bytes += filled.saturating_sub(1) * separator;
                }
                Some(queued + bytes)
            }
        }
    }

    /// Takes the head of the response. Its `Content-Length` is that of the body, if it is known.
    pub(super) fn take_head(&mut self, plan: &Plan) -> Option<response::Parts> {
        let length = self.left(plan);
        let mut head = self.head.take()?;
        remove_body_headers(&mut head.headers);
        head.headers.remove(CONTENT_ENCODING);
        if let Some(length) = length {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(head)
    }
}

/// Whether there is a message for each of the members.
pub(super) fn fits(members: &[usize], messages: &[Message]) -> bool {
    members.len() == messages.len()
}
