//! The request side of a call: its head, and what becomes known of its body while the call goes on.

use std::mem;
use std::sync::Arc;

use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};
use http_body::Body;
use parking_lot::Mutex;
use tracing::{Span, info_span};

use super::capture::Capture;
use super::facts::{Facts, RequestFacts, in_memory, replayed, size};
use super::levels::{Level, Levels, Look};
use super::redact::Redaction;
use super::shared::{Shared, guarded};
use super::text::operation;
use crate::body::{BodyWatch, ReplayBody};

/// The request of one call.
pub(super) struct RequestState {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) client_request_id: Option<HeaderValue>,
    pub(super) headers: Option<HeaderMap>,
    pub(super) body: Option<Capture>,
    pub(super) known: Arc<Mutex<Known>>,
    /// What to show the watch if nobody further in buffers the body.
    fallback: Option<(BodyWatch, ReplayBody)>,
}

/// What is known of a request so far.
#[derive(Default)]
pub(super) struct Known {
    pub(super) facts: RequestFacts,
    /// The size of the body.
    pub(super) bytes: Option<u64>,
    /// The body, until it is captured.
    body: Option<ReplayBody>,
    has_seen_body: bool,
}

impl Known {
    fn see(&mut self, facts: &impl Facts, body: &ReplayBody, keep: bool) {
        self.has_seen_body = true;
        self.bytes = Some(body.len());
        self.body = keep.then(|| body.rewind());
        facts.body(body, &mut self.facts);
    }

    /// Makes the operation's name fit for a log.
    fn shorten(&mut self, redaction: &Redaction) {
        let name = self.facts.operation.take();
        self.facts.operation = name.map(|name| operation(name, redaction));
    }
}

/// Sees the body when it has been buffered further in.
struct Observer<F> {
    facts: Arc<F>,
    known: Arc<Mutex<Known>>,
    redaction: Arc<Redaction>,
    span: Span,
    keep: bool,
}

impl<F: Facts> Observer<F> {
    fn see(&self, body: &ReplayBody) {
        let known = &mut *self.known.lock();
        if known.has_seen_body {
            return;
        }
        // The facts are somebody else's code. What they have told before they panicked is kept.
        guarded(|| known.see(&*self.facts, body, self.keep));
        known.shorten(&self.redaction);
        if let Some(operation) = &known.facts.operation {
            self.span.record("operation", &**operation);
        }
    }
}

impl RequestState {
    /// Returns what is known of a request before it is sent, if it is to be recorded at all.
    pub(super) fn begin<B: Body + 'static>(
        shared: &Shared,
        facts: &Arc<impl Facts>,
        head: &mut Parts,
        body: &B,
        look: Look,
    ) -> Option<(Levels, Span, Self)> {
        let mut known = Known {
            facts: facts.request(head),
            bytes: size(head, body),
            ..Known::default()
        };
        let replayed = replayed(body);
        if let Some(body) = &replayed {
            known.see(&**facts, body, true);
        }
        known.shorten(&shared.redaction);
        let operation = known.facts.operation.as_deref();
        let levels = match look {
            Look::Off => return None,
            Look::Plain(level) => Levels::plain(level),
            Look::Rules if replayed.is_none() && facts.reads_body() => {
                shared.control.begin_unnamed(operation)
            }
            Look::Rules => shared.control.begin(operation),
        };
        let level = levels.at_most;
        if level == Level::Off {
            return None;
        }
        let span = info_span!(
            target: "tower_ews::audit",
            "call",
            operation,
            http.request.method = head.method.as_str(),
        );
        let headers = &head.headers;
        let mut state = Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            host: headers.get(HOST).cloned(),
            user_agent: headers.get(USER_AGENT).cloned(),
            client_request_id: headers.get("client-request-id").cloned(),
            headers: (level >= Level::Headers).then(|| headers.clone()),
            body: (level >= Level::Full).then(|| Capture::new(headers, shared.body_limit)),
            known: Arc::new(Mutex::new(known)),
            fallback: None,
        };
        let keep = level >= Level::Full;
        if replayed.is_none() && (keep || facts.reads_body()) {
            state.watch(shared, facts, &span, keep, head, body);
        }
        Some((levels, span, state))
    }

    /// Watches for the body, which is not there as a whole.
    fn watch<B: Body + 'static>(
        &mut self,
        shared: &Shared,
        facts: &Arc<impl Facts>,
        span: &Span,
        keep: bool,
        head: &mut Parts,
        body: &B,
    ) {
        let observer = Observer {
            facts: Arc::clone(facts),
            known: Arc::clone(&self.known),
            redaction: Arc::clone(&shared.redaction),
            span: span.clone(),
            keep,
        };
        let watch = BodyWatch::new(move |body| observer.see(body));
        self.fallback = in_memory(body).map(|body| (watch.clone(), body));
        watch.insert(&mut head.extensions);
    }

    /// Looks at a body that nobody further in has buffered by the time that the call was polled.
    pub(super) fn see_unbuffered(&mut self) {
        if let Some((watch, body)) = self.fallback.take() {
            watch.see(&body);
        }
    }

    /// Drops what is not wanted at this level, and captures the body.
    pub(super) fn settle(&mut self, level: Level) {
        if level < Level::Headers {
            self.headers = None;
        }
        if level < Level::Full {
            self.body = None;
        }
        let body = mem::take(&mut self.known.lock().body);
        if let (Some(capture), Some(body)) = (&mut self.body, body) {
            capture.keep_all(&body);
        }
    }
}
