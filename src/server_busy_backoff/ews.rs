//! [`EwsClassifier`]: what the requests and responses of Exchange Web Services mean.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, Request, StatusCode, Uri, response};
use http_body::Body;
use http_body_util::Full;

use super::access::Access;
use super::classify::{
    ClassifiedResponse, Classify, Idempotency, Refusal, RequestClass, caller_or_authority,
};
use super::ews_body::{Compressed, EwsBody, MAX_INFLATED, no_soap};
use crate::body::inflate::Inflate;
use crate::body::{ReplayBody, encoding};
use crate::principal::Principal;
use crate::retry::{MAX_LOSS_RETRIES, is_error_page};
use crate::soap::{Operation, OperationIdempotency, SidKind};

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
        Some(access(request.body()))
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
        Some(access(&replay(request.body())))
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

/// The mailbox that a request is for: the impersonated one, the one that it names, else the account's own. What is no SOAP has
/// the same credentials.
fn access(body: &ReplayBody) -> Access {
    let Ok(outline) = body.outline() else {
        return Access::by_credential();
    };
    if let Some(sid) = outline.impersonation().first() {
        return Access::to(Some(&*sid.value));
    }
    let targets = outline.targets(&body.to_bytes());
    let guids = targets.guids.iter().map(|guid| guid.to_string().into());
    let mut named = targets.mailboxes.into_iter().chain(guids);
    let first = named.next();
    match (first, named.next()) {
        (Some(_), Some(_)) => Access::to(None::<Box<str>>),
        (one, _) => Access::to(Some(one.unwrap_or_default())),
    }
}

fn request_class<B>(request: &Request<B>, body: &ReplayBody) -> RequestClass {
    let mut class = operation_class(request, body);
    class.impersonates = impersonates(body);
    class.upload = body.len();
    class.decodes = request.headers().contains_key(ACCEPT_ENCODING);
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
            // Whoever has given it a key says that it may be sent again.
            false => RequestClass {
                operation: "an unreadable request".into(),
                ..RequestClass::by_head(request)
            },
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
    // The body of a 400, a 503 or a 429 is read only if it is known to be XML: a page of text says no more than the status.
    let by_default = match head.status {
        StatusCode::BAD_REQUEST
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::TOO_MANY_REQUESTS => Some(false),
        StatusCode::INTERNAL_SERVER_ERROR => Some(true),
        status => status.is_success().then_some(true),
    };
    if by_default.is_some_and(|by_default| is_xml(&head.headers, by_default)) {
        let inflate = Inflate::of(&head.headers, MAX_INFLATED);
        classified.compressed = encoding(&head.headers).is_some() && inflate.is_none();
        if classified.compressed {
            // What the body says is for the caller, if it can read it.
            if class.decodes {
                classified.refusal = classified.refusal.filter(|_| head.status != 500);
            }
            classified.is_lost = is_success && class.expects_soap && !class.decodes;
            return classified;
        }
        let body = EwsBody::new(class, head.status, classified.refusal.clone());
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

/// Whether the body is XML; `by_default` if there is no content type.
fn is_xml(headers: &HeaderMap, by_default: bool) -> bool {
    headers.get(CONTENT_TYPE).map_or(by_default, |value| {
        let mut windows = value.as_bytes().windows(3);
        windows.any(|window| window.eq_ignore_ascii_case(b"xml"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of one piece is what most clients have at hand.
    #[test]
    fn a_full_body_is_classified_as_one_that_can_be_sent_again() {
        let soap = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
                    xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'><s:Header>\
                    <t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>amy@contoso.com\
                    </t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header>\
                    <s:Body><GetFolder/></s:Body></s:Envelope>";
        let classifier = EwsClassifier;
        let full = Request::post("https://mail.contoso.com/EWS/Exchange.asmx");
        let full = full.body(Full::from(soap)).unwrap();
        let replay = full.clone().map(|_| ReplayBody::from(soap));
        let class = classifier.request(&full);
        assert_eq!(class, classifier.request(&replay));
        assert_eq!(classifier.principal(&full), classifier.principal(&replay));
        let access = Some(Access::to(Some("amy@contoso.com")));
        assert_eq!(classifier.access(&replay), access);
        assert_eq!(classifier.access(&full), access);
        let (head, ()) = http::Response::builder()
            .status(503)
            .body(())
            .unwrap()
            .into_parts();
        let refusal = Classify::<Full<Bytes>>::response(&classifier, &class, &head).refusal;
        assert!(refusal.is_some());
        let as_replay = Classify::<ReplayBody>::response(&classifier, &class, &head).refusal;
        assert_eq!(refusal, as_replay);
    }
}
