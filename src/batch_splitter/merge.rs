//! Puts the answers to parts together, in the caller's order and without copying them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue};
use http::response;

use super::format::Message;
use super::part::forget_body;
use super::plan::Plan;
use crate::body::rope::Rope;

/// What the members have got so far.
#[derive(Debug)]
pub(super) struct Merge {
    separator: &'static str,
    /// The head of the first answer that gave messages.
    head: Option<response::Parts>,
    shape: Shape,
    /// The messages that were not handed out yet, at their members' places.
    messages: Vec<Option<Rope>>,
    /// How many members were settled one by one, and how many of them without a message.
    settled: (usize, usize),
    /// Members before this one were handed out.
    given: usize,
    begun: bool,
    any: bool,
    ended: bool,
    queue: VecDeque<Bytes>,
}

#[derive(Debug)]
enum Shape {
    Unknown,
    Messages {
        begin: Rope,
        end: Rope,
    },
    Lists {
        frame: Vec<Rope>,
        /// What each part put in, by its first member.
        lists: Vec<BTreeMap<usize, Rope>>,
    },
}

impl Merge {
    pub(super) fn new(members: usize, separator: &'static str) -> Self {
        Self {
            separator,
            head: None,
            shape: Shape::Unknown,
            messages: vec![None; members],
            settled: (0, 0),
            given: 0,
            begun: false,
            any: false,
            ended: false,
            queue: VecDeque::new(),
        }
    }

    /// Takes over an envelope, if it is the first one. Says whether answers like this one fit in.
    pub(super) fn is_messages(&mut self, head: &response::Parts, frame: (Rope, Rope)) -> bool {
        if let Shape::Unknown = self.shape {
            let (begin, end) = frame;
            self.shape = Shape::Messages { begin, end };
            self.head = Some(head.clone());
        }
        matches!(self.shape, Shape::Messages { .. })
    }

    /// Puts in the lists of a part that begins with `member`. Says whether they fit in.
    pub(super) fn put_lists(
        &mut self,
        head: &response::Parts,
        member: usize,
        frame: Vec<Rope>,
        given: Vec<Rope>,
    ) -> bool {
        if let (Shape::Unknown, true) = (&self.shape, frame.len() == given.len() + 1) {
            let lists = given.iter().map(|_| BTreeMap::new()).collect();
            self.shape = Shape::Lists { frame, lists };
            self.head = Some(head.clone());
        }
        match &mut self.shape {
            Shape::Lists { lists, .. } if lists.len() == given.len() => {
                for (list, given) in lists.iter_mut().zip(given) {
                    list.insert(member, given);
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn has_envelope(&self) -> bool {
        !matches!(self.shape, Shape::Unknown)
    }

    /// Whether messages can be handed out before all are there.
    pub(super) fn streams(&self) -> bool {
        matches!(self.shape, Shape::Messages { .. })
    }

    /// Puts a member's message at its place; None if there is none for it.
    pub(super) fn put(&mut self, member: usize, message: Option<Rope>) {
        self.settled.0 += 1;
        self.settled.1 += usize::from(message.is_none());
        if let Some(place) = self.messages.get_mut(member) {
            *place = message;
        }
    }

    /// How many settled members have no message, where they should.
    pub(super) fn missing(&self) -> usize {
        match self.shape {
            // Lists have no place for them.
            Shape::Lists { .. } => self.settled.0,
            _ => self.settled.1,
        }
    }

    /// The next bytes, if they are there.
    pub(super) fn next(&mut self, plan: &Plan) -> Option<Bytes> {
        while self.queue.is_empty() && !self.ended {
            if !self.fill(plan) {
                return None;
            }
        }
        self.queue.pop_front()
    }

    /// Members before this one were handed out.
    pub(super) fn given(&self) -> usize {
        self.given
    }

    /// Whether everything was handed out.
    pub(super) fn is_at_end(&self) -> bool {
        self.ended && self.queue.is_empty()
    }

    fn can_give(&self, plan: &Plan) -> bool {
        match self.shape {
            Shape::Unknown => false,
            Shape::Messages { .. } => plan.is_settled(self.given),
            Shape::Lists { .. } => plan.is_complete(),
        }
    }

    fn fill(&mut self, plan: &Plan) -> bool {
        if self.begun && !self.can_give(plan) {
            return false;
        }
        match &mut self.shape {
            Shape::Unknown => return false,
            Shape::Messages { begin, end } => {
                if !self.begun {
                    self.queue.extend(std::mem::take(begin));
                } else if let Some(place) = self.messages.get_mut(self.given) {
                    if let Some(message) = place.take() {
                        if self.any && !self.separator.is_empty() {
                            self.queue
                                .push_back(Bytes::from_static(self.separator.as_bytes()));
                        }
                        self.any = true;
                        self.queue.extend(message);
                    }
                    self.given += 1;
                } else {
                    self.queue.extend(std::mem::take(end));
                    self.ended = true;
                }
                self.begun = true;
            }
            Shape::Lists { frame, lists } => {
                if !plan.is_complete() {
                    return false;
                }
                let mut lists = std::mem::take(lists).into_iter();
                for piece in std::mem::take(frame) {
                    self.queue.extend(piece);
                    let mut any = false;
                    for given in lists.next().into_iter().flat_map(BTreeMap::into_values) {
                        if any && !given.is_empty() && !self.separator.is_empty() {
                            self.queue
                                .push_back(Bytes::from_static(self.separator.as_bytes()));
                        }
                        any |= !given.is_empty();
                        self.queue.extend(given);
                    }
                }
                self.begun = true;
                self.ended = true;
            }
        }
        true
    }

    /// How many bytes are still to be handed out, once all members are settled.
    pub(super) fn left(&self, plan: &Plan) -> Option<u64> {
        if !plan.is_complete() && !self.ended {
            return None;
        }
        let queued: u64 = self.queue.iter().map(|bytes| bytes.len() as u64).sum();
        if self.ended {
            return Some(queued);
        }
        let separator = self.separator.len() as u64;
        match &self.shape {
            Shape::Unknown => None,
            Shape::Messages { begin, end } => {
                let waiting = self.messages.iter().skip(self.given).flatten();
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
            Shape::Lists { frame, lists } => {
                let mut bytes: u64 = frame.iter().map(Rope::len).sum();
                for list in lists {
                    let filled = list.values().filter(|given| !given.is_empty()).count() as u64;
                    bytes += list.values().map(Rope::len).sum::<u64>();
                    bytes += filled.saturating_sub(1) * separator;
                }
                Some(queued + bytes)
            }
        }
    }

    /// The head of the answer, once. Its `Content-Length` tells what is known of the body's.
    pub(super) fn take_head(&mut self, plan: &Plan) -> Option<response::Parts> {
        let length = self.left(plan);
        let mut head = self.head.take()?;
        forget_body(&mut head.headers);
        head.headers.remove(CONTENT_ENCODING);
        if let Some(length) = length {
            head.headers
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(head)
    }
}

/// Whether each of the members has a message.
pub(super) fn fits(members: &[usize], messages: &[Message]) -> bool {
    members.len() == messages.len()
}
