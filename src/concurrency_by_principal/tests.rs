//! Tests of the layer, in virtual time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, Sleep, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::*;
use crate::extensions::Deadline;
use crate::ledger::{
    Acquire, AcquireError, AcquireRequest, Admission, End, Ledger, LocalLedger, Signal,
};
use crate::principal::{Budget, Principal};
use crate::trail::CallTrail;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn who(request: &Request<char>) -> Principal {
    Principal::new(request.body().to_string())
}

/// A body of one frame that comes late, with a trailer.
struct Slow {
    sleep: Pin<Box<Sleep>>,
    frames: u8,
}

impl Slow {
    fn new(time: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep(time)),
            frames: 0,
        }
    }
}

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::ready!(self.sleep.as_mut().poll(cx));
        self.frames += 1;
        Poll::Ready(match self.frames {
            1 => Some(Ok(Frame::data(Bytes::from_static(b"slow")))),
            2 => Some(Ok(Frame::trailers(http::HeaderMap::new()))),
            _ => None,
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(4)
    }
}

#[tokio::test(start_paused = true)]
async fn a_permit_outlives_the_headers_until_the_body_has_ended() {
    let limit = 3;
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::in_flight(limit, who))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Slow::new(secs(10))))
        });
    let mut responses = Vec::new();
    for _ in 0..limit {
        responses.push(service.clone().oneshot(Request::new('a')).await.unwrap());
    }
    let start = Instant::now();
    let next = tokio::spawn(service.clone().oneshot(Request::new('a')));
    // Another principal does not wait.
    service.clone().oneshot(Request::new('b')).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let first = responses.remove(0).into_body();
    assert_eq!(first.size_hint().exact(), Some(4));
    let collected = first.collect().await.unwrap();
    assert!(collected.trailers().is_some());
    next.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_permit_goes_back_when_the_body_is_dropped() {
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::in_flight(1, who))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Slow::new(secs(3600))))
        });
    let response = service.clone().oneshot(Request::new('a')).await.unwrap();
    let start = Instant::now();
    let next = tokio::spawn(service.oneshot(Request::new('a')));
    sleep(secs(5)).await;
    assert!(!next.is_finished());
    drop(response);
    next.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), secs(5));
}

#[tokio::test(start_paused = true)]
async fn release_on_headers_is_an_option() {
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::in_flight(1, who).release_on_headers(true))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Slow::new(secs(3600))))
        });
    let _first = service.clone().oneshot(Request::new('a')).await.unwrap();
    let start = Instant::now();
    let _second = service.clone().oneshot(Request::new('a')).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn readiness_takes_nothing() {
    let mut service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::in_flight(1, who))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
    // Ready clones that are never called, and futures that are never polled, hold nothing.
    let mut idle = Vec::new();
    for _ in 0..10 {
        let mut clone = service.clone();
        clone.ready().await.unwrap();
        idle.push((clone.call(Request::new('a')), clone));
    }
    service
        .ready()
        .await
        .unwrap()
        .call(Request::new('a'))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_is_made_ready_before_each_call() {
    #[derive(Clone)]
    struct Picky(bool);
    impl Service<Request<char>> for Picky {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 = true;
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<char>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called without being ready");
            std::future::ready(Ok(Response::default()))
        }
    }
    let mut service = ConcurrencyByPrincipalLayer::in_flight(1, who).layer(Picky(false));
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(Request::new('a')).await;
        drop(response.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn the_trail_tells_what_was_charged_and_how_long_it_queued() {
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::new(ledger, who))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Slow::new(secs(7))))
        });
    let first = service.clone().oneshot(Request::new('a')).await.unwrap();
    let trail = CallTrail::new();
    let mut request = Request::new('a');
    request.extensions_mut().insert(trail.clone());
    let second = tokio::spawn(service.clone().oneshot(request));
    first.into_body().collect().await.unwrap();
    drop(second.await.unwrap().unwrap());
    let attempts = trail.attempts();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].queued, secs(7));
    let charges = attempts[0].admission.as_ref().unwrap().charges();
    assert_eq!(charges[0].principal(), &Principal::new("a"));
    assert_eq!(charges[0].budget(), Budget::Concurrency);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_nothing_is_sent() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::in_flight(1, who))
        .service(service_fn(move |_: Request<char>| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
        }));
    let _held = service.clone().oneshot(Request::new('a')).await.unwrap();
    let mut request = Request::new('a');
    request.extensions_mut().insert(Deadline::within(secs(9)));
    let start = Instant::now();
    let error = service.clone().oneshot(request).await.unwrap_err();
    assert_eq!(start.elapsed(), secs(9));
    let error = error.downcast_ref::<AcquireError>().unwrap();
    assert!(matches!(error, AcquireError::TimedOut { .. }));
    assert_eq!(sent.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_sends_nothing() {
    let ledger = Arc::new(LocalLedger::in_flight(1));
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::new(ledger.clone(), who))
        .service_fn(|_: Request<char>| async {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        });
    let late = || {
        let mut request = Request::new('a');
        let deadline = Deadline(Instant::now() - secs(2));
        request.extensions_mut().insert(deadline);
        request
    };
    sleep(secs(5)).await;
    // Whether there is a permit or not.
    let held = service.clone().oneshot(Request::new('a')).await.unwrap();
    for held in [Some(held), None] {
        let error = service.clone().oneshot(late()).await.unwrap_err();
        let elapsed = error.downcast_ref::<DeadlineElapsed>().unwrap();
        assert_eq!(elapsed.late(), secs(2));
        drop(held);
    }
    assert!(ledger.snapshot().principals.is_empty());
    // The last moment is not past.
    let mut request = Request::new('a');
    request.extensions_mut().insert(Deadline(Instant::now()));
    service.oneshot(request).await.unwrap();
}

/// 10,000 calls, each cancelled at a random moment of its life or not at all: no permit leaks.
#[tokio::test(start_paused = true)]
async fn random_cancellation_leaks_no_permit() {
    let seed = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let ledger = Arc::new(LocalLedger::in_flight(3));
    let in_flight = Arc::new(AtomicUsize::new(0));
    let counter = in_flight.clone();
    let service = ServiceBuilder::new()
        .layer(ConcurrencyByPrincipalLayer::new(ledger.clone(), who))
        .service_fn(move |request: Request<char>| {
            let counter = counter.clone();
            async move {
                assert!(counter.fetch_add(1, Ordering::Relaxed) < 9);
                let _guard = Guard(counter);
                let time = Duration::from_millis(request.uri().path()[1..].parse().unwrap());
                sleep(time / 2).await;
                if time.as_millis() % 10 == 0 {
                    return Err("the connection is lost");
                }
                Ok(Response::new(Slow::new(time / 2)))
            }
        });
    let tasks: Vec<_> = (0..10_000)
        .map(|_| {
            let mut request = Request::new(['a', 'b', 'c'][rng.usize(..3)]);
            *request.uri_mut() = format!("/{}", rng.u64(..1_000)).parse().unwrap();
            let service = service.clone();
            let begin = Duration::from_millis(rng.u64(..900_000));
            let stall_timeout = Duration::from_millis(rng.u64(..1_500));
            tokio::spawn(async move {
                sleep(begin).await;
                tokio::time::timeout(stall_timeout, read(service, request))
                    .await
                    .is_ok()
            })
        })
        .collect();
    let mut finished = 0;
    for task in tasks {
        finished += usize::from(task.await.unwrap());
    }
    println!("{finished} of 10000 came to their end, the others were cancelled");
    assert!(finished > 1_000 && finished < 9_999);
    assert_eq!(in_flight.load(Ordering::Relaxed), 0);
    let snapshot = ledger.snapshot();
    assert!(snapshot.principals.is_empty(), "{snapshot:?}");
    assert_eq!(snapshot.queued, 0);
}

async fn read<S, B>(service: S, request: Request<char>) -> Result<(), BoxError>
where
    S: Service<Request<char>, Response = Response<B>, Error = BoxError>,
    B: Body<Error = Infallible>,
{
    let body = service.oneshot(request).await?.into_body();
    body.collect().await?;
    Ok(())
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Records how permits ended.
#[derive(Debug, Default)]
struct Ends(parking_lot::Mutex<Vec<End>>);

impl Ledger for Ends {
    fn try_acquire(&self, request: AcquireRequest) -> Result<Admission, AcquireRequest> {
        Ok(Admission::new(request, 1, 1))
    }

    fn acquire(self: Arc<Self>, _: AcquireRequest) -> Acquire {
        Box::pin(std::future::pending())
    }

    fn report(&self, _: &Admission, _: Signal) {}

    fn release(&self, _: &Admission, end: End) {
        self.0.lock().push(end);
    }
}

#[tokio::test]
async fn a_response_is_complete_for_readers_that_stop_at_its_last_frame() {
    let ends = Arc::new(Ends::default());
    let response = |text: &'static str| {
        let service = ServiceBuilder::new()
            .layer(ConcurrencyByPrincipalLayer::new(ends.clone(), who))
            .service_fn(move |_: Request<char>| async move {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
            });
        service.oneshot(Request::new('a'))
    };
    let ended = || ends.0.lock().pop();

    // Read to its end, to its last frame, and not at all; the last one has nothing to be read.
    response("hello").await.unwrap().collect().await.unwrap();
    assert_eq!(ended(), Some(End::Complete));
    let mut body = response("hello").await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(ended(), None);
    drop(body);
    assert_eq!(ended(), Some(End::Complete));
    drop(response("hello").await.unwrap());
    assert_eq!(ended(), Some(End::Dropped));
    drop(response("").await.unwrap());
    assert_eq!((ended(), ended()), (Some(End::Complete), None));
}
