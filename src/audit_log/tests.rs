//! Tests of the whole layer, in virtual time. This file holds the server and the bodies that they use.

mod bodies;
mod endings;
mod layers;
mod levels;
mod random;
mod spans;
mod uploads;

use std::collections::VecDeque;
use std::ops::Add;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};
use tower::{BoxError, Layer, Service, ServiceExt};

use super::*;
use crate::body::ReplayBody;

/// One thing that a body does.
enum Piece {
    Wait(u64),
    Data(Bytes),
    Trailers(HeaderMap),
    Fail(std::io::ErrorKind),
}

/// A body that does as it is told.
#[derive(Default)]
struct Script {
    pieces: VecDeque<Piece>,
    sleep: Option<Pin<Box<Sleep>>>,
    hint: Option<u64>,
}

impl Script {
    fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            ..Self::default()
        }
    }

    fn text(text: impl Into<Bytes>) -> Self {
        Self::new([Piece::Data(text.into())])
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(match self.pieces.pop_front() {
            None => None,
            Some(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Piece::Fail(kind)) => Some(Err(std::io::Error::from(kind).into())),
            Some(Piece::Wait(millis)) => {
                self.sleep = Some(Box::pin(tokio::time::sleep(ms(millis))));
                return self.poll_frame(cx);
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.hint == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A CreateItem of two members in the name of a mailbox.
fn create(mailbox: &str) -> ReplayBody {
    format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types">
        <s:Header><t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation></s:Header>
        <s:Body><CreateItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><Items><t:Task/><t:Task/></Items></CreateItem></s:Body></s:Envelope>"#
    )
    .into()
}

/// A response with these codes.
fn soap_response(codes: &[&str]) -> String {
    let mut messages = String::new();
    for code in codes {
        let class = if *code == "NoError" {
            "Success"
        } else {
            "Error"
        };
        messages += &format!(
            "<m:CreateItemResponseMessage ResponseClass=\"{class}\"><m:ResponseCode>{code}</m:ResponseCode><m:Items/></m:CreateItemResponseMessage>"
        );
    }
    format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><m:CreateItemResponse xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><m:ResponseMessages>{messages}</m:ResponseMessages></m:CreateItemResponse></s:Body></s:Envelope>"#
    )
}

fn request(body: ReplayBody) -> Request<ReplayBody> {
    Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", "Basic c2VjcmV0")
        .header("user-agent", "test/1")
        .body(body)
        .unwrap()
}

/// A service that responds after a delay in milliseconds with what `make` makes.
fn server<F>(
    millis: u64,
    make: F,
) -> impl Service<Request<ReplayBody>, Response = Response<Script>, Error = BoxError, Future: Send> + Clone
where
    F: Fn(&Request<ReplayBody>) -> Result<Response<Script>, BoxError> + Clone + Send + 'static,
{
    tower::service_fn(move |request: Request<ReplayBody>| {
        let response = make(&request);
        async move {
            tokio::time::sleep(ms(millis)).await;
            response
        }
    })
}

fn ews(sink: &MemorySink) -> AuditLogLayer<EwsFacts> {
    AuditLogLayer::new(sink.clone()).facts(EwsFacts::new())
}

/// The one record that there is.
fn only(sink: &MemorySink) -> Record {
    let mut records = sink.take();
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

fn add_up(record: &Record) {
    assert!(!record.attempts.is_empty());
    let left_out = &record.left_out;
    let sum = |left_out, of: fn(&AttemptRecord) -> Duration| {
        record.attempts.iter().map(of).fold(left_out, Duration::add)
    };
    assert_eq!(sum(left_out.queued, |a| a.queued), record.queued);
    assert_eq!(sum(left_out.wire, |a| a.wire), record.wire);
    assert_eq!(sum(left_out.body, |a| a.body), record.body);
    // A call may have been given up while it backed off.
    assert!(sum(left_out.backed_off, |a| a.backed_off) <= record.backed_off);
    for attempt in &record.attempts {
        let sum = attempt.queued + attempt.backed_off + attempt.wire + attempt.body;
        assert!(sum <= attempt.total, "{record:#?}");
        let end = attempt.started + attempt.total.saturating_sub(attempt.backed_off);
        assert!(
            end <= record.duration + Duration::from_micros(2),
            "{record:#?}"
        );
    }
}
