//! [`EwsClassifier`]: what the requests and responses of Exchange Web Services mean.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode, Uri, response};
use http_body::Body;
use http_body_util::Full;
use tower::BoxError;

use super::access::Access;
use super::classify::{
    BodyClassifier, ClassifiedResponse, Classify, Idempotency, Outcome, Reading, Refusal,
    RefusalScope, RequestClass, caller_or_authority,
};
use crate::body::inflate::Inflate;
use crate::body::{ReplayBody, encoding};
use crate::errors::CutShort;
use crate::principal::Principal;
use crate::retry::{MAX_LOSS_RETRIES, is_error_page};
use crate::soap::member_status::MemberStatus;
use crate::soap::truncation::TruncationMark;
use crate::soap::{
    CodeClass, Operation, OperationIdempotency, ResponseClass, ResponseCode, ResponseMessage,
    ResponseScanner, ScanError, SidKind,
};

/// Exchange Web Services: reads the operation from the request, and faults and response messages from the response.
///
/// Takes [`ReplayBody`], whose outline it shares with the other layers, and `Full<Bytes>`, which it reads by itself. A
/// request that it cannot read is sent nevertheless, and counts as not idempotent.
///
/// Special cases:
/// - `ErrorInternalServerError` means what its inner code says. Without an inner code, and for `ErrorTimeoutExpired`
///   (which needs a smaller batch), an idempotent request is retried once.
/// - UpdateItem is idempotent unless it appends to a field or sends mail.
/// - UploadItems is idempotent if each of its items is an `Update` with an `ItemId`.
/// - The response to GetStreamingEvents is handed on after its first message.
/// - Quotas of subscriptions and of sent mail are not waited for: only another call, or the next day, cures them.
/// - `ErrorImpersonateUserDenied` is final, unless the same account was let into the same mailbox before: then it is tried once
///   more.
/// - A mailbox that another server has: see [`ServerBusyBackoffLayer::find_endpoint`](super::ServerBusyBackoffLayer::find_endpoint).
/// - The impersonated mailbox is locked out, or the calling account if there is none: see [`Classify::principal`].
///
/// ```
/// use http::Request;
/// use tower_ews::body::ReplayBody;
/// use tower_ews::server_busy_backoff::{Classify, EwsClassifier, Idempotency};
///
/// let body = ReplayBody::from(
///     r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
///          <GetFolder xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"/>
///        </s:Body></s:Envelope>"#,
/// );
/// let class = EwsClassifier.request(&Request::new(body));
/// assert_eq!(class.operation, "GetFolder");
/// assert_eq!(class.idempotency, Idempotency::Safe);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EwsClassifier;

impl Classify<ReplayBody> for EwsClassifier {
    fn request(&self, request: &Request<ReplayBody>) -> RequestClass {
        request_class(request, request.body())
    }

    fn response(&self, class: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        classify(class, head)
    }

    fn principal(&self, request: &Request<ReplayBody>) -> Principal {
        impersonated(request.body()).unwrap_or_else(|| caller_or_authority(request))
    }

    fn access(&self, request: &Request<ReplayBody>) -> Option<Access> {
        access(request.body())
    }
}

impl Classify<Full<Bytes>> for EwsClassifier {
    fn request(&self, request: &Request<Full<Bytes>>) -> RequestClass {
        request_class(request, &replay(request.body()))
    }

    fn response(&self, class: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
        classify(class, head)
    }

    fn principal(&self, request: &Request<Full<Bytes>>) -> Principal {
        impersonated(&replay(request.body())).unwrap_or_else(|| caller_or_authority(request))
    }

    fn access(&self, request: &Request<Full<Bytes>>) -> Option<Access> {
        access(&replay(request.body()))
    }
}

/// A `Full` yields its bytes when it is polled for the first time.
fn replay(body: &Full<Bytes>) -> ReplayBody {
    let mut body = body.clone();
    let mut cx = Context::from_waker(Waker::noop());
    let bytes = match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    ReplayBody::from(bytes)
}

/// The mailbox that a request impersonates. Its own copy of its owner's budgets is charged.
fn impersonated(body: &ReplayBody) -> Option<Principal> {
    // Some clients name it in several ways, in varying order.
    const BEST: [SidKind; 3] = [
        SidKind::PrimarySmtpAddress,
        SidKind::SmtpAddress,
        SidKind::PrincipalName,
    ];
    let rank = |kind| BEST.iter().position(|best| *best == kind);
    let all = body.outline().ok()?.impersonation();
    let sid = all
        .iter()
        .min_by_key(|sid| rank(sid.kind).unwrap_or(BEST.len()))?;
    Some(Principal::impersonation(&sid.value))
}

/// The mailbox that a request is for: the impersonated one, the one that it names, else the account's own.
fn access(body: &ReplayBody) -> Option<Access> {
    let outline = body.outline().ok()?;
    if let Some(sid) = outline.impersonation().first() {
        return Some(Access::to(Some(&*sid.value)));
    }
    let targets = outline.targets(&body.to_bytes());
    let guids = targets.guids.iter().map(|guid| guid.to_string().into());
    let mut named = targets.mailboxes.into_iter().chain(guids);
    let first = named.next();
    Some(match (first, named.next()) {
        (Some(_), Some(_)) => Access::to(None::<Box<str>>),
        (one, _) => Access::to(Some(one.unwrap_or_default())),
    })
}

fn request_class<B>(request: &Request<B>, body: &ReplayBody) -> RequestClass {
    let mut class = operation_class(request, body);
    class.impersonates = impersonates(body);
    class.upload = body.len();
    class
}

fn impersonates(body: &ReplayBody) -> Option<u64> {
    let sids = body.outline().ok()?.impersonation();
    sids.first()?;
    let mut hasher = DefaultHasher::new();
    sids.iter().for_each(|sid| sid.value.hash(&mut hasher));
    Some(hasher.finish())
}

fn operation_class<B>(request: &Request<B>, body: &ReplayBody) -> RequestClass {
    let Ok(outline) = body.outline() else {
        // A photo, a download: what is no SOAP is plain HTTP.
        let is_plain = request.method() != Method::POST || body.is_empty();
        return match is_plain {
            true => RequestClass::by_head(request),
            false => RequestClass::new("an unreadable request", Idempotency::NonIdempotent),
        };
    };
    let Some(operation) = outline.operation() else {
        let name = outline.operation_name().to_owned();
        return RequestClass::new(name, Idempotency::NonIdempotent);
    };
    let idempotency = match operation.idempotency() {
        OperationIdempotency::Safe => Idempotency::Safe,
        OperationIdempotency::Idempotent | OperationIdempotency::PerMember => {
            match outline.idempotency(|| body.to_bytes()) {
                OperationIdempotency::Idempotent => Idempotency::Idempotent,
                _ => Idempotency::NonIdempotent,
            }
        }
        _ => Idempotency::NonIdempotent,
    };
    let mut class = RequestClass::new(operation.name(), idempotency);
    class.streaming = operation == Operation::GET_STREAMING_EVENTS;
    class.expects_soap = true;
    class
}

fn classify(class: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
    let mut classified = ClassifiedResponse::by_status(head);
    let unclear = |reason: &'static str, max_retries| {
        let refusal = Refusal::new(reason).outcome_unknown();
        Some(refusal.max_retries(max_retries))
    };
    match head.status.as_u16() {
        // The values of this header are not documented. Most of them are permanent.
        500 if head.headers.contains_key("x-caserrorcode") => {
            classified.refusal = unclear("X-CasErrorCode", 1);
        }
        302 if is_error_page(&head.headers) => {
            classified.refusal = unclear("302 to the generic error page", MAX_LOSS_RETRIES);
        }
        _ => {}
    }
    if let Some(location) = other_endpoint(head).filter(|_| class.expects_soap) {
        let refusal = Refusal::new(head.status.as_str().to_owned());
        classified.refusal = Some(refusal.max_retries(0).moved(Some(location)));
    }
    let is_success = head.status.is_success();
    if class.expects_soap && is_success && !is_xml(&head.headers, true) {
        classified.refusal = Some(no_soap());
    }
    // The body of a 503 or a 429 is read only if it is known to be XML: a page of text says no more than the status.
    let by_default = match head.status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(false),
        StatusCode::INTERNAL_SERVER_ERROR => Some(true),
        status => status.is_success().then_some(true),
    };
    if by_default.is_some_and(|by_default| is_xml(&head.headers, by_default)) {
        let inflate = Inflate::of(&head.headers, MAX_INFLATED);
        classified.compressed = encoding(&head.headers).is_some() && inflate.is_none();
        if classified.compressed {
            // What the body says is not known.
            classified.refusal = classified.refusal.filter(|_| head.status != 500);
            return classified;
        }
        let body = EwsBody {
            by_head: classified.refusal.clone(),
            expects_messages: class.expects_soap && head.status.is_success(),
            truncation: (class.operation == Operation::EXPORT_ITEMS.name())
                .then(TruncationMark::default),
            ..EwsBody::default()
        };
        classified.body_classifier = Some(match inflate {
            Some(inflate) => Box::new(Compressed::new(inflate, body)),
            None => Box::new(body),
        });
    }
    classified
}

/// Where a response sends its client instead: to the EWS of another server, not to a page for people. Exchange's other protocols
/// name it with 451 and a header of their own.
fn other_endpoint(head: &response::Parts) -> Option<Uri> {
    let name = match head.status.as_u16() {
        301 | 302 | 307 | 308 => LOCATION.as_str(),
        451 => "x-ms-location",
        _ => return None,
    };
    let location: Uri = head.headers.get(name)?.as_bytes().try_into().ok()?;
    location.authority()?;
    let path = location.path().to_ascii_lowercase();
    path.ends_with("/exchange.asmx").then_some(location)
}

/// What is said of a success that is no SOAP, such as a log-in page: it is handed on as it is.
fn no_soap() -> Refusal {
    Refusal::new("no SOAP").outcome_unknown().max_retries(0)
}

/// Whether the body is XML; `by_default` if there is no content type.
fn is_xml(headers: &HeaderMap, by_default: bool) -> bool {
    headers.get(CONTENT_TYPE).map_or(by_default, |value| {
        let mut windows = value.as_bytes().windows(3);
        windows.any(|window| window.eq_ignore_ascii_case(b"xml"))
    })
}

/// How much of a compressed body is read for refusals, decompressed. Larger ones are handed on unread.
const MAX_INFLATED: u64 = 64 * 1024 * 1024;

/// Reads a compressed body. Its bytes go on to the caller as they came.
struct Compressed {
    inflate: Inflate,
    body: EwsBody,
    /// Why nothing more is read.
    broken: Option<io::Error>,
}

impl Compressed {
    fn new(inflate: Inflate, body: EwsBody) -> Self {
        Self {
            inflate,
            body,
            broken: None,
        }
    }
}

impl BodyClassifier for Compressed {
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
        if self.broken.is_none() {
            let body = &mut self.body;
            let inflated = self.inflate.push(bytes, |bytes| body.read(bytes, found));
            self.broken = inflated.err();
        }
    }

    fn so_far(&self) -> Reading {
        self.body.so_far()
    }

    fn end(&mut self) -> Result<(), BoxError> {
        let body = &mut self.body;
        let ended = match self.broken.take() {
            Some(error) => Err(error),
            None => self.inflate.finish(|bytes| body.read(bytes, &mut |_| {})),
        };
        match ended {
            Ok(()) => body.end(),
            // It was not read to its end.
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Ok(()),
            Err(_) => Err(CutShort.into()),
        }
    }
}

/// Reads faults and response messages.
#[derive(Default)]
struct EwsBody {
    scanner: ResponseScanner,
    /// What the head of the response said.
    by_head: Option<Refusal>,
    findings: Findings,
    /// Whether the body is incomplete if it says nothing.
    expects_messages: bool,
    /// Of the operation whose responses can have it.
    truncation: Option<TruncationMark>,
}

#[derive(Default)]
struct Findings {
    /// Some message is no refusal: its member was executed, or no wait can cure its error.
    settled: bool,
    /// All refusals in one.
    refusal: Option<Refusal>,
    is_fault: bool,
    /// The code of a fault that does not say that nothing was executed, and whether it is understood.
    in_doubt: Option<(ResponseCode, bool)>,
    malformed: bool,
}

impl BodyClassifier for EwsBody {
    fn read(&mut self, bytes: &[u8], found: &mut dyn FnMut(&Refusal)) {
        let findings = &mut self.findings;
        if let Some(truncation) = &mut self.truncation {
            truncation.read(bytes);
        }
        let scanned = self.scanner.push(bytes, &mut |message| {
            findings.take(&message, found);
        });
        if let Err(ScanError::Malformed { .. } | ScanError::Unbalanced { .. }) = scanned {
            findings.malformed = true;
        }
    }

    fn so_far(&self) -> Reading {
        let findings = &self.findings;
        match &findings.refusal {
            _ if findings.malformed => {
                let refusal = Refusal::new("malformed response").outcome_unknown();
                Reading::Refused(refusal.max_retries(1))
            }
            _ if findings.settled => Reading::Final,
            None if findings.in_doubt.is_some() => Reading::Refused(self.in_doubt()),
            Some(refusal) => Reading::Refused(refusal.clone()),
            None if self.expects_messages && self.scanner.is_soap() == Some(false) => {
                Reading::Refused(no_soap())
            }
            // Members were stopped, but none that stopped them was seen.
            None if self.scanner.messages() > 0 => Reading::Final,
            None => Reading::Open,
        }
    }

    fn end(&mut self) -> Result<(), BoxError> {
        let truncation = self.truncation.as_ref();
        if truncation.is_some_and(TruncationMark::is_found) {
            return Err(CutShort.into());
        }
        match self.scanner.finish() {
            // A fault is complete without the end of its envelope.
            Err(ScanError::Truncated { .. }) if !self.findings.is_fault => Err(CutShort.into()),
            Ok(()) if self.expects_messages && self.scanner.says_nothing() => Err(CutShort.into()),
            _ => Ok(()),
        }
    }
}

impl EwsBody {
    /// What a fault means that does not say that nothing was executed. One whose code is not understood is worth as much as its
    /// status.
    fn in_doubt(&self) -> Refusal {
        let (code, understood) = self
            .findings
            .in_doubt
            .as_ref()
            .map_or((Cow::Borrowed("fault"), true), |(code, understood)| {
                (reason(code), *understood)
            });
        match &self.by_head {
            Some(by_head) if !understood => Refusal {
                reason: code,
                ..by_head.clone()
            },
            _ => Refusal::new(code).outcome_unknown().max_retries(0),
        }
    }
}

impl Findings {
    fn take(&mut self, message: &ResponseMessage, found: &mut dyn FnMut(&Refusal)) {
        self.is_fault |= message.is_fault;
        match judge(message) {
            Judgement::Settled if leaves_doubt(message) => {
                let code = message.effective_code().clone();
                self.in_doubt = Some((code, message.is_understood()));
            }
            Judgement::Settled => self.settled = true,
            Judgement::Stopped => {}
            Judgement::Refused(refusal) => {
                found(&refusal);
                self.refusal = Some(match self.refusal.take() {
                    Some(earlier) => merge(earlier, refusal),
                    None => refusal,
                });
            }
        }
    }
}

/// Whether a fault that no wait cures leaves open what was executed. What a message says of its member is for the caller.
fn leaves_doubt(message: &ResponseMessage) -> bool {
    let code = message.effective_code();
    message.is_fault
        && !code.is_about_the_caller()
        && code.outcome() != crate::soap::Outcome::NotExecuted
}

enum Judgement {
    Settled,
    /// Not executed, because another member stopped the batch.
    Stopped,
    Refused(Refusal),
}

fn judge(message: &ResponseMessage) -> Judgement {
    let effective = message.effective_code();
    let failed = message.class == ResponseClass::Error;
    let moved = failed && effective.names_another_server();
    let (code, unknown, session_limit, max_retries) = match message.member_status() {
        MemberStatus::Settled if moved => {
            let mut refusal = Refusal::new(reason(effective)).max_retries(0).moved(None);
            refusal.of_members = message.is_entry;
            return Judgement::Refused(refusal);
        }
        MemberStatus::Settled
            if message.is_fault && *effective == ResponseCode::IMPERSONATE_USER_DENIED =>
        {
            let mut refusal = Refusal::new(reason(effective)).max_retries(0);
            refusal.unless_granted = true;
            return Judgement::Refused(refusal);
        }
        MemberStatus::Settled => return Judgement::Settled,
        MemberStatus::Stopped => return Judgement::Stopped,
        MemberStatus::Refused {
            code,
            unknown,
            session_limit,
            max_retries,
        } => (code, unknown, session_limit, max_retries),
    };
    let mut refusal = Refusal::new(reason(code)).retry_after(message.back_off);
    refusal.max_retries = max_retries;
    refusal.of_members = message.is_entry;
    refusal.moved = moved.then_some(None);
    if unknown {
        refusal = refusal.outcome_unknown();
    }
    Judgement::Refused(match code.class() {
        CodeClass::ThrottleServerBusy => refusal.scope(RefusalScope::Principal),
        CodeClass::ThrottleConnectionCount => refusal.scope(RefusalScope::Concurrency),
        CodeClass::ThrottleFindCount => refusal.scope(RefusalScope::FindCount),
        CodeClass::ThrottleTooManyObjects => refusal.scope(RefusalScope::OpenMailboxes),
        _ if session_limit => refusal.scope(RefusalScope::OpenMailboxes),
        // "Mailbox server is overloaded" means busy.
        _ if code.as_str() == "ErrorInsufficientResources" => {
            refusal.scope(RefusalScope::Principal)
        }
        _ => refusal,
    })
}

fn reason(code: &ResponseCode) -> Cow<'static, str> {
    code.as_str().to_owned().into()
}

/// Merges the refusals of two members: the name of the wider scope, the longer wait, the smaller number of retries. An
/// unknown outcome stays unknown.
fn merge(one: Refusal, other: Refusal) -> Refusal {
    let retry_after = one.retry_after.max(other.retry_after);
    let of_members = one.of_members && other.of_members;
    let moved = one.moved.clone().and(other.moved.clone());
    let unknown = [one.outcome, other.outcome].contains(&Outcome::Unknown);
    let max_retries = match (one.max_retries, other.max_retries) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let mut merged = if reach(other.scope) > reach(one.scope) {
        other
    } else {
        one
    };
    if unknown {
        merged = merged.outcome_unknown();
    }
    merged.of_members = of_members;
    merged.moved = moved;
    merged.retry_after = retry_after;
    merged.max_retries = max_retries;
    merged
}

/// How many others a refusal of this scope concerns, as a rank.
fn reach(scope: RefusalScope) -> u8 {
    match scope {
        RefusalScope::Call => 0,
        RefusalScope::FindCount => 1,
        RefusalScope::Concurrency => 2,
        RefusalScope::OpenMailboxes => 3,
        RefusalScope::Principal => 4,
        RefusalScope::Endpoint => 5,
    }
}
