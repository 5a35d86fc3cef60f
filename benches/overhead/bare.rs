//! The bare service, the same for all rows, its requests, and how a call is made.

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use tower::Service;

/// Names the principal of a call.
pub(super) const TENANT: HeaderName = HeaderName::from_static("x-tenant");

static URI: LazyLock<Uri> =
    LazyLock::new(|| Uri::from_static("https://mail.contoso.com/EWS/Exchange.asmx"));

/// A CreateItem of 2,048 bytes in the name of a mailbox.
pub(super) static REQUEST: LazyLock<Bytes> = LazyLock::new(|| {
    padded(
        concat!(
            r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/""#,
            r#" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types""#,
            r#" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header>"#,
            r#"<t:RequestServerVersion Version="Exchange2013_SP1"/><t:ExchangeImpersonation><t:ConnectingSID>"#,
            "<t:PrimarySmtpAddress>amy.jones@contoso.com</t:PrimarySmtpAddress></t:ConnectingSID>",
            r#"</t:ExchangeImpersonation></s:Header><s:Body><m:CreateItem SendMeetingInvitations="SendToNone">"#,
            r#"<m:SavedItemFolderId><t:DistinguishedFolderId Id="calendar"/></m:SavedItemFolderId><m:Items>"#,
            "<t:CalendarItem><t:Subject>Review of the quarter</t:Subject>",
            r#"<t:Body BodyType="Text">"#,
        ),
        concat!(
            "</t:Body><t:ReminderIsSet>true</t:ReminderIsSet>",
            "<t:ReminderMinutesBeforeStart>15</t:ReminderMinutesBeforeStart>",
            "<t:Start>2026-01-08T10:00:00Z</t:Start><t:End>2026-01-08T11:00:00Z</t:End>",
            "<t:IsAllDayEvent>false</t:IsAllDayEvent><t:LegacyFreeBusyStatus>Busy</t:LegacyFreeBusyStatus>",
            "<t:Location>Room 4</t:Location></t:CalendarItem></m:Items></m:CreateItem></s:Body></s:Envelope>",
        ),
    )
});

/// Its response, of 2,048 bytes too.
static RESPONSE: LazyLock<Bytes> = LazyLock::new(|| {
    padded(
        concat!(
            r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">"#,
            r#"<s:Header><h:ServerVersionInfo MajorVersion="15" MinorVersion="20" MajorBuildNumber="9000""#,
            r#" MinorBuildNumber="18" xmlns:h="http://schemas.microsoft.com/exchange/services/2006/types"/></s:Header>"#,
            r#"<s:Body><m:CreateItemResponse xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages""#,
            r#" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"><m:ResponseMessages>"#,
            r#"<m:CreateItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items>"#,
            r#"<t:CalendarItem><t:ItemId Id="AAMkADkz" ChangeKey="DwAAABYA"/><t:Subject>Review</t:Subject><t:Preview>"#,
        ),
        concat!(
            "</t:Preview></t:CalendarItem></m:Items></m:CreateItemResponseMessage></m:ResponseMessages>",
            "</m:CreateItemResponse></s:Body></s:Envelope>",
        ),
    )
});

fn padded(begin: &str, end: &str) -> Bytes {
    let words = "a few words about it, as people write them; "
        .chars()
        .cycle();
    let text: String = words.take(2048 - begin.len() - end.len()).collect();
    Bytes::from(format!("{begin}{text}{end}"))
}

/// Responds at once, with the headers that Exchange sends.
#[derive(Clone)]
pub(super) struct Bare(Arc<HeaderMap>);

impl Bare {
    pub(super) fn new() -> Self {
        let headers = [
            (CONTENT_TYPE, "text/xml; charset=utf-8"),
            (
                HeaderName::from_static("request-id"),
                "6b7d1f0a-51a7-4f0e-9f5c-0a3f6f1d2c11",
            ),
            (HeaderName::from_static("x-feserver"), "AM6PR01CA0041"),
            (
                HeaderName::from_static("x-calculatedbetarget"),
                "AM6PR01MB4501.contoso.com",
            ),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        Self(Arc::new(headers.into_iter().collect()))
    }

    fn reply(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(RESPONSE.clone()));
        *response.headers_mut() = HeaderMap::clone(&self.0);
        response
    }
}

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(self.reply()))
    }
}

/// The bare service, if its response takes one turn of the runtime.
#[derive(Clone)]
pub(super) struct OneTurn(pub(super) Bare);

impl<B> Service<Request<B>> for OneTurn {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = OneTurnFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        drop(black_box(request));
        OneTurnFuture {
            bare: self.0.clone(),
            turned: false,
        }
    }
}

pub(super) struct OneTurnFuture {
    bare: Bare,
    turned: bool,
}

impl Future for OneTurnFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.turned {
            self.turned = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.bare.reply()))
    }
}

/// A request such as a client sends.
pub(super) fn request<B>(body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = URI.clone();
    let headers = request.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/xml; charset=utf-8"),
    );
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_static("Basic bm9ib2R5Om5vdGhpbmc="),
    );
    request
}

/// A request of the `number`th tenant.
pub(super) fn request_of(number: usize) -> Request<Full<Bytes>> {
    let mut name = *b"user0000000@contoso.com";
    let mut rest = number;
    for digit in name[4..11].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let mut request = request(Full::new(REQUEST.clone()));
    let name = HeaderValue::from_bytes(&name).expect("a header value");
    request.headers_mut().insert(TENANT, name);
    request
}

/// The tenant that a request names.
pub(super) fn tenant<B>(request: &Request<B>) -> Option<&str> {
    request.headers().get(TENANT)?.to_str().ok()
}

/// Sends a request and leaves the body of its response unread.
pub(super) fn send<S, B, R>(service: &mut S, request: Request<B>) -> R
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
        panic!("the service is not ready");
    };
    let future = pin!(service.call(black_box(request)));
    let response = match future.poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        Poll::Ready(Err(error)) => panic!("{error:?}"),
        Poll::Pending => panic!("there is no response"),
    };
    let (head, body) = response.into_parts();
    drop(black_box(head));
    body
}

/// Reads a body to its end, as a client does.
pub(super) fn drain<R>(body: R)
where
    R: Body,
    R::Error: Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    // A client's body is none that the compiler sees through, so that it would leave out the last poll.
    let mut body = pin!(black_box(body));
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        drop(black_box(frame.expect("a frame")));
    }
}

/// One call, to the end of its response.
pub(super) fn call<S, B, R>(service: &mut S, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Debug,
    R: Body,
    R::Error: Debug,
{
    drain(send(service, request));
}
