//! One call under way: what is known of it so far, and the record that is made of it when it is dropped.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;
use tracing::{Span, info_span};

use super::facts::{Facts, RequestFacts, ResponseInspector};
use super::fill::{self, Failed};
use super::levels::{Control, Level, Levels, Look};
use super::redact::Redaction;
use super::sink::Sink;
use crate::body::{LookedAt, encoding};
use crate::principal::Principal;
use crate::trail::CallTrail;

/// What all calls of a service share.
pub(super) struct Shared {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) control: Arc<Control>,
    pub(super) redaction: Arc<Redaction>,
    pub(super) body_limit: usize,
}

/// One call. Its record is made when it is dropped, so that there is one however the call ends.
pub(super) struct Call {
    pub(super) shared: Arc<Shared>,
    pub(super) levels: Levels,
    pub(super) time: SystemTime,
    pub(super) begin: Instant,
    pub(super) trail: CallTrail,
    /// In the caller's span; what happens further in, and the record, happen in this one.
    pub(super) span: Span,
    pub(super) asked: Asked,
    pub(super) answer: Option<Answer>,
    pub(super) end: End,
}

/// A call that is recorded, or none.
///
/// The drop of none is one comparison, inlined: that of an `Option<Box<Call>>` is a call of all there is to drop in a `Call`.
pub(super) struct Kept(ManuallyDrop<Option<Box<Call>>>);

impl Kept {
    #[inline]
    pub(super) fn new(call: Option<Box<Call>>) -> Self {
        Self(ManuallyDrop::new(call))
    }
}

impl Deref for Kept {
    type Target = Option<Box<Call>>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Kept {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Kept {
    #[inline]
    fn drop(&mut self) {
        if self.is_some() {
            given_up(self);
        }
    }
}

// Makes the record.
#[cold]
#[inline(never)]
fn given_up(kept: &mut Kept) {
    kept.take();
}

/// The request.
pub(super) struct Asked {
    pub(super) facts: RequestFacts,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) headers: Option<HeaderMap>,
    pub(super) body: Option<Capture>,
    pub(super) has_id: Option<HeaderValue>,
}

/// The answer.
pub(super) struct Answer {
    pub(super) at: Instant,
    pub(super) status: StatusCode,
    pub(super) headers: Option<HeaderMap>,
    pub(super) ids: Option<Box<fill::Ids>>,
    pub(super) reader: Option<Box<dyn ResponseInspector>>,
    pub(super) bytes: u64,
    pub(super) all_read: bool,
    pub(super) body: Option<Capture>,
}

/// How far the call got, unless it was given up.
pub(super) enum End {
    GivenUp,
    Completed,
    Failed(Failed),
}

/// The first bytes of a body.
pub(super) struct Capture {
    pub(super) content_type: Option<HeaderValue>,
    /// Still encoded: it is not kept.
    pub(super) encoding: Option<HeaderValue>,
    pub(super) pieces: Vec<Bytes>,
    pub(super) total: u64,
    room: usize,
}

impl Capture {
    fn new(headers: &HeaderMap, limit: usize) -> Self {
        let encoding = encoding(headers).cloned();
        Self {
            content_type: headers.get(CONTENT_TYPE).cloned(),
            room: if encoding.is_some() { 0 } else { limit },
            encoding,
            pieces: Vec::new(),
            total: 0,
        }
    }

    /// Keeps `bytes`, or as much of them as there is room for. What fits is cloned from `whole`.
    fn keep(&mut self, bytes: &[u8], whole: Option<&Bytes>) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let kept = bytes.get(..self.room).unwrap_or(bytes);
        if kept.is_empty() {
            return;
        }
        self.room -= kept.len();
        self.pieces.push(match whole {
            Some(whole) if whole.len() == kept.len() => whole.clone(),
            // A clone of a piece would hold all of a large frame.
            _ => Bytes::copy_from_slice(kept),
        });
    }

    pub(super) fn is_cut(&self) -> bool {
        let kept: usize = self.pieces.iter().map(Bytes::len).sum();
        (kept as u64) < self.total
    }
}

impl Call {
    /// The call that begins with `request`, if there is to be a record of it. Puts a trail in its extensions.
    pub(super) fn begin<B>(
        shared: &Arc<Shared>,
        facts: &impl Facts<B>,
        request: &mut Request<B>,
    ) -> Option<Box<Self>> {
        let look = shared.control.look();
        // What the facts do is somebody else's code.
        let Some(asked) = guarded(|| Asked::new(shared, facts, request, look)) else {
            shared.control.lost.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (levels, mut asked) = asked?;
        if let Some(body) = asked.facts.body.take() {
            request.extensions_mut().insert(LookedAt(body));
        }
        let trail = match CallTrail::of(request.extensions()) {
            Some(trail) => trail.clone(),
            None => {
                let trail = CallTrail::new();
                request.extensions_mut().insert(trail.clone());
                trail
            }
        };
        let span = info_span!(
            target: "tower_ews::audit",
            "call",
            operation = asked.facts.operation.as_deref(),
            http.request.method = asked.method.as_str(),
        );
        Some(Box::new(Self {
            span,
            shared: Arc::clone(shared),
            levels,
            time: SystemTime::now(),
            begin: Instant::now(),
            trail,
            asked,
            answer: None,
            end: End::GivenUp,
        }))
    }

    /// The answer's head has come.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        let level = self.settle();
        let compressed = encoding(headers).is_some();
        let mut reader = self.asked.facts.reader.take();
        let reads = guarded(|| {
            reader
                .as_mut()
                .is_some_and(|reader| reader.head(status, headers))
        });
        let full = level >= Level::Full;
        self.answer = Some(Answer {
            at: Instant::now(),
            status,
            headers: (level >= Level::Headers).then(|| headers.clone()),
            ids: fill::Ids::unless_told(&self.trail, headers),
            all_read: reads == Some(true) && !compressed,
            reader: reader.filter(|_| reads.is_some()),
            bytes: 0,
            body: full.then(|| Capture::new(headers, self.shared.body_limit)),
        });
    }

    /// A frame, or a part of one, has passed.
    pub(super) fn passed(&mut self, bytes: &[u8], whole: Option<&Bytes>) {
        let Some(answer) = &mut self.answer else {
            return;
        };
        answer.bytes = answer.bytes.saturating_add(bytes.len() as u64);
        if let (true, Some(reader)) = (answer.all_read, &mut answer.reader) {
            if guarded(|| reader.read(bytes)).is_none() {
                answer.all_read = false;
                answer.reader = None;
            }
        }
        if let Some(body) = &mut answer.body {
            body.keep(bytes, whole);
        }
    }

    /// Bytes have passed that could not be looked at.
    pub(super) fn unseen(&mut self, bytes: usize) {
        if let (Some(answer), true) = (&mut self.answer, bytes > 0) {
            answer.bytes = answer.bytes.saturating_add(bytes as u64);
            answer.all_read = false;
            if let Some(body) = &mut answer.body {
                body.total = body.total.saturating_add(bytes as u64);
                body.room = 0;
            }
        }
    }

    /// The answer was read to its end: so far nothing was given up or has failed.
    pub(super) fn all_read(&mut self) {
        self.end = End::Completed;
    }

    /// The call, or its answer's body, has failed.
    pub(super) fn failed(mut self: Box<Self>, error: &(dyn std::error::Error + 'static)) {
        let failed = guarded(|| Failed::new(error, &self.shared.redaction));
        self.end = End::Failed(failed.unwrap_or_default());
    }

    /// The level of the call, once it is known whom it concerns.
    pub(super) fn settle(&mut self) -> Level {
        if !self.levels.is_open() {
            return self.levels.at_most;
        }
        let mut charged: Vec<Principal> = Vec::new();
        self.trail.each(|attempt| {
            let admission = attempt.admission.iter();
            for charge in admission.flat_map(|admission| admission.charges().iter()) {
                // Charges of one principal stand together, and those of the next attempt are the same as a rule.
                if charged.last() != Some(charge.principal()) {
                    charged.push(charge.principal().clone());
                }
            }
        });
        self.trail
            .sums(|sums| charged.extend(sums.principals.iter().cloned()));
        let facts = &self.asked.facts;
        let named = [&facts.caller, &facts.mailbox].into_iter().flatten();
        let named = named.map(|name| &**name);
        let charged = charged.iter().map(|principal| principal.name());
        let level = self.levels.settle(named.chain(charged));
        if level < Level::Headers {
            self.asked.headers = None;
        }
        if level < Level::Full {
            self.asked.body = None;
        }
        level
    }
}

/// Runs somebody else's code, whose panic is not the call's.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

impl Drop for Call {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        let recorded = catch_unwind(AssertUnwindSafe(|| {
            let record = fill::record(self)?;
            self.span.in_scope(|| shared.sink.record(&record));
            Some(())
        }));
        let control = &shared.control;
        match recorded {
            Ok(None) => {}
            Ok(Some(())) => _ = control.recorded.fetch_add(1, Ordering::Relaxed),
            Err(_) => _ = control.lost.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Asked {
    fn new<B>(
        shared: &Shared,
        facts: &impl Facts<B>,
        request: &Request<B>,
        look: Look,
    ) -> Option<(Levels, Self)> {
        let about = facts.request(request);
        let levels = match look {
            Look::Off => return None,
            Look::Plain(level) => Levels::plain(level),
            Look::Rules => shared.control.begin(about.operation.as_deref()),
        };
        let level = levels.at_most;
        if level == Level::Off {
            return None;
        }
        let headers = request.headers();
        let body = (level >= Level::Full).then(|| {
            let mut body = Capture::new(headers, shared.body_limit);
            for piece in facts.pieces(request).unwrap_or_default() {
                body.keep(&piece, Some(&piece));
            }
            body.total = about.bytes.unwrap_or(body.total).max(body.total);
            body
        });
        let asked = Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: headers.get(HOST).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
            headers: (level >= Level::Headers).then(|| headers.clone()),
            has_id: headers.get("client-request-id").cloned(),
            body,
            facts: about,
        };
        Some((levels, asked))
    }
}
