//! Tests of the whole layer, in virtual time. This file holds the server, the ledger and the texts that they use.

mod attempt;
mod bodies;
mod gates;
mod hanging;
mod part_of_batch;
mod repair;
mod shared;
mod signals;
mod warnings;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::uri::Authority;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::*;
use crate::body::ReplayBody;
use crate::extensions::Deadline;
use crate::ledger::{
    Acquire, AcquireRequest, Admission, AdmissionSlot, End, Ledger, Permit, Requeue, Signal,
};
use crate::principal::{Budget, Charge, Charges, Principal};
use crate::retry::with_margin;
use crate::trail::CallTrail;

/// What happened, in order.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Called,
    Reported(Signal),
    Frame,
    EndPolled,
    BodyDropped,
    CallDropped,
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Duration, Event)>>>);

thread_local! {
    /// When the test's log began: each test has a thread of its own.
    static BEGIN: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    static RECORDER: std::cell::RefCell<Option<Arc<Recorder>>> = const { std::cell::RefCell::new(None) };
}

fn elapsed() -> Duration {
    let begin = BEGIN.get().unwrap_or_else(|| {
        BEGIN.set(Some(Instant::now()));
        Instant::now()
    });
    begin.elapsed()
}

impl Log {
    fn new() -> Self {
        BEGIN.set(Some(Instant::now()));
        Self::default()
    }

    fn push(&self, event: Event) {
        self.0.lock().push((elapsed(), event));
    }

    fn events(&self) -> Vec<Event> {
        self.0
            .lock()
            .iter()
            .map(|(_, event)| event.clone())
            .collect()
    }

    fn calls(&self) -> Vec<Duration> {
        let events = self.0.lock();
        let calls = events.iter().filter(|(_, event)| *event == Event::Called);
        calls.map(|(at, _)| *at).collect()
    }

    fn signals(&self) -> Vec<Signal> {
        let signal = |event| match event {
            Event::Reported(signal) => Some(signal),
            _ => None,
        };
        self.events().into_iter().filter_map(signal).collect()
    }
}

/// A body of given frames that writes down what is done with it.
struct TestBody {
    frames: VecDeque<Result<Frame<Bytes>, BoxError>>,
    hint: SizeHint,
    log: Log,
    endless: bool,
}

impl TestBody {
    fn new(log: &Log, pieces: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        let frames: VecDeque<_> = pieces
            .into_iter()
            .map(|piece| Ok(Frame::data(piece.into())))
            .collect();
        let length = |frame: &Result<Frame<Bytes>, BoxError>| {
            let frame = frame.as_ref().unwrap();
            frame.data_ref().map_or(0, |data| data.len() as u64)
        };
        Self {
            hint: SizeHint::with_exact(frames.iter().map(length).sum()),
            frames,
            log: log.clone(),
            endless: false,
        }
    }

    fn then(mut self, frame: Result<Frame<Bytes>, BoxError>) -> Self {
        self.frames.push_back(frame);
        self
    }

    /// It never ends: the server says nothing more.
    fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

impl Body for TestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.pop_front() {
            Some(frame) => {
                self.log.push(Event::Frame);
                Poll::Ready(Some(frame))
            }
            None if self.endless => Poll::Pending,
            None => {
                self.log.push(Event::EndPolled);
                Poll::Ready(None)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for TestBody {
    fn drop(&mut self) {
        self.log.push(Event::BodyDropped);
    }
}

type Responding = Pin<Box<dyn Future<Output = Result<Response<TestBody>, BoxError>> + Send>>;
type Step = Box<dyn FnOnce(Request<ReplayBody>) -> Responding + Send>;

/// A server that follows a script, behind a layer that records the receipt of each call as ConcurrencyByPrincipal does.
#[derive(Clone)]
struct Server {
    log: Log,
    script: Arc<Mutex<VecDeque<Step>>>,
    charged: bool,
    /// Holds calls back that say themselves when they may be sent.
    holds: bool,
    /// Holds calls back until the gate that was reported last, as a ledger does.
    gate: Option<Arc<Recorder>>,
}

impl Server {
    fn new(log: &Log) -> Self {
        Self {
            log: log.clone(),
            script: Arc::default(),
            charged: false,
            holds: false,
            gate: None,
        }
    }

    fn charged(mut self) -> Self {
        self.charged = true;
        self
    }

    fn step<F>(self, step: impl FnOnce(Request<ReplayBody>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Response<TestBody>, BoxError>> + Send + 'static,
    {
        let step: Step = Box::new(|request| Box::pin(step(request)));
        self.script.lock().push_back(step);
        self
    }

    fn respond(self, status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let body = TestBody::new(&self.log, [body.to_owned()]);
        let response = http_response(status, headers, body);
        self.step(move |_| async move { Ok(response) })
    }

    fn xml(self, status: u16, body: &str) -> Self {
        self.respond(status, &[XML], body)
    }

    fn fail(self, error: impl Into<BoxError>) -> Self {
        let error = error.into();
        self.step(move |_| async move { Err(error) })
    }
}

fn http_response(status: u16, headers: &[(&str, &str)], body: TestBody) -> Response<TestBody> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

struct DropGuard(Option<Log>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(log) = &self.0 {
            log.push(Event::CallDropped);
        }
    }
}

impl Service<Request<ReplayBody>> for Server {
    type Response = Response<TestBody>;
    type Error = BoxError;
    type Future = Responding;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Responding {
        let this = self.clone();
        Box::pin(async move {
            let mut guard = DropGuard(Some(this.log.clone()));
            if let Some(gate) = &this.gate {
                let until = *gate.gate.lock();
                if let Some(until) = until {
                    let slot = request.extensions().get::<AdmissionSlot>();
                    slot.unwrap().wait();
                    tokio::time::sleep_until(until).await;
                    slot.unwrap().resume();
                }
            }
            if this.charged {
                let slot: &AdmissionSlot = request.extensions().get().unwrap();
                slot.fill(&Permit::new(recorder(&this.log), admission()));
                // A ledger holds a call back that says when it may be sent.
                let requeue = request.extensions().get::<Requeue>();
                if let Some(until) = requeue.and_then(|requeue| requeue.not_before) {
                    if this.holds {
                        slot.wait();
                        tokio::time::sleep_until(until).await;
                        slot.resume();
                    }
                }
            }
            this.log.push(Event::Called);
            let step = this.script.lock().pop_front();
            let response = step.expect("one call too many")(request).await;
            guard.0 = None;
            response
        })
    }
}

/// The admission of a call at place 7 of the queue.
fn admission() -> Admission {
    let charges = [
        Budget::Concurrency,
        Budget::FindCount,
        Budget::OpenMailboxes,
    ]
    .map(|budget| Charge::new(Principal::account("svc@contoso.com"), budget, 1));
    let endpoint: Authority = "ews.contoso.com".parse().unwrap();
    let request = AcquireRequest::new(charges.into_iter().collect::<Charges>());
    Admission::new(request.with_endpoint(endpoint), 7, 9)
}

/// A ledger that writes down what it is told.
#[derive(Default)]
struct Recorder {
    log: Log,
    gate: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Ledger for Recorder {
    fn acquire(self: Arc<Self>, _: AcquireRequest) -> Acquire {
        Box::pin(std::future::pending())
    }

    fn report(&self, admission: &Admission, signal: Signal) {
        assert_eq!(admission.ticket(), 7);
        if let Signal::Busy { until } | Signal::EndpointBusy { until } = signal {
            let mut gate = self.gate.lock();
            *gate = (*gate).max(Some(until));
        }
        self.log.push(Event::Reported(signal));
    }

    fn release(&self, _: &Admission, _: End) {}
}

/// The ledger that writes to this log.
fn recorder(log: &Log) -> Arc<Recorder> {
    RECORDER.with_borrow_mut(|known| match known {
        Some(known) if Arc::ptr_eq(&known.log.0, &log.0) => known.clone(),
        _ => {
            let recorder = Recorder {
                log: log.clone(),
                gate: Mutex::new(None),
            };
            known.insert(Arc::new(recorder)).clone()
        }
    })
}

const XML: (&str, &str) = ("content-type", "text/xml; charset=utf-8");

fn envelope(content: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
        ><s:Body>{content}</s:Body></s:Envelope>"#
    )
}

const M: &str = r#"xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages""#;
const T: &str = r#"xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types""#;

/// A request with this operation element.
fn ews(operation: &str) -> Request<ReplayBody> {
    let body = envelope(&format!(
        "<m:{operation} {M} {T}><m:X/></m:{}>",
        operation.split(' ').next().unwrap()
    ));
    Request::post("https://ews.contoso.com/EWS/Exchange.asmx")
        .body(ReplayBody::from(body))
        .unwrap()
}

/// A response with these response messages, each a class, a code and more elements.
fn messages(operation: &str, all: &[(&str, &str, &str)]) -> String {
    let mut list = String::new();
    for (class, code, more) in all {
        list += &format!(
            r#"<m:{operation}ResponseMessage ResponseClass="{class}"><m:MessageText>text</m:MessageText
            ><m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey
            >{more}</m:{operation}ResponseMessage>"#
        );
    }
    envelope(&format!(
        "<m:{operation}Response {M} {T}><m:ResponseMessages>{list}</m:ResponseMessages></m:{operation}Response>"
    ))
}

fn success() -> String {
    messages("GetItem", &[("Success", "NoError", "<m:Items/>")])
}

fn back_off(milliseconds: &str) -> String {
    format!(
        r#"<m:MessageXml><t:Value Name="BackOffMilliseconds">{milliseconds}</t:Value></m:MessageXml>"#
    )
}

fn fault(code: &str, more: &str) -> String {
    let errors = "http://schemas.microsoft.com/exchange/services/2006/errors";
    envelope(&format!(
        r#"<s:Fault><faultcode {T}>t:{code}</faultcode><faultstring xml:lang="en-US">Not now.</faultstring
        ><detail><e:ResponseCode xmlns:e="{errors}">{code}</e:ResponseCode>{more}</detail></s:Fault>"#
    ))
}

fn busy_fault(milliseconds: &str) -> String {
    let retry_after = format!(
        r#"<t:MessageXml {T}><t:Value Name="BackOffMilliseconds">{milliseconds}</t:Value></t:MessageXml>"#
    );
    fault("ErrorServerBusy", &retry_after)
}

type Outcome = Result<Response<PeekBody<TestBody>>, BoxError>;

async fn send<C>(
    layer: ServerBusyBackoffLayer<C>,
    server: &Server,
    request: Request<ReplayBody>,
) -> Outcome
where
    C: Classify<ReplayBody>,
{
    layer.layer(server.clone()).oneshot(request).await
}

async fn text(response: Response<PeekBody<TestBody>>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn info<B>(response: &Response<B>) -> &RetryInfo {
    response.extensions().get().unwrap()
}

fn reset() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

fn refused() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}

fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
