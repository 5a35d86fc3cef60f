//! Whole jobs: what is asked of a client, and how long it takes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{BoxError, ServiceExt};
use tower_ews::body::ReplayBody;

use super::client::Client;
use super::script::Script;
use super::server::Server;
use super::soap;

/// A job. Its items have the numbers from 0 on, and each is to be done once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Job {
    /// A number of calls, all asked for at once.
    Calls { calls: usize, given_up: GivenUp },
    /// One batch, cut into parts of a given size.
    Batch { items: usize, members: usize },
    /// A number of streams that are closed one after another, and opened again at once: until all run again.
    Streams { streams: usize, apart: Duration },
    /// Calls that meet an overload, a pause, and then a number of calls, whose time is taken.
    AfterPause { pause: Duration, calls: usize },
    /// A number of calls to each mailbox, all asked for at once: mailbox by mailbox, or each mailbox in turn.
    Mailboxes {
        mailboxes: usize,
        calls: usize,
        in_turn: bool,
    },
}

/// Which calls are given up while the server works on them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GivenUp {
    Nobody,
    /// The first ones, half-way.
    First(usize),
    /// Each tenth on average, at any moment.
    Tenth,
}

impl GivenUp {
    /// How long after the server has taken it up a call is given up.
    pub(crate) fn after(self, script: &Script, call: usize) -> Option<Duration> {
        let shortest = script.service.0;
        match self {
            Self::Nobody => None,
            Self::First(calls) => (call < calls).then_some(shortest / 2),
            Self::Tenth => {
                let mut rng = script.rng(call, u64::MAX);
                let given_up = rng.u8(0..10) == 0;
                let after = rng.u64(0..shortest.as_millis() as u64);
                given_up.then_some(Duration::from_millis(after))
            }
        }
    }
}

/// Twice this number of calls comes before a pause.
const BEFORE: usize = 20;

impl Job {
    /// How many items it has.
    pub(crate) fn items(&self) -> usize {
        match *self {
            Self::Calls { calls, .. } => calls,
            Self::Batch { items, .. } => items,
            Self::Streams { .. } => 0,
            Self::AfterPause { calls, .. } => 2 * BEFORE + calls,
            Self::Mailboxes {
                mailboxes, calls, ..
            } => mailboxes * calls,
        }
    }

    /// The calls whose time is taken.
    pub(crate) fn timed(&self) -> Range<usize> {
        match self {
            Self::AfterPause { .. } => 2 * BEFORE..self.items(),
            _ => 0..self.items(),
        }
    }

    /// The calls to a mailbox.
    pub(crate) fn calls_to(&self, mailbox: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, step, calls) = match *self {
            Self::Mailboxes {
                mailboxes,
                calls,
                in_turn: true,
            } => (mailbox, mailboxes, calls),
            Self::Mailboxes { calls, .. } => (mailbox * calls, 1, calls),
            _ => (0, 1, 0),
        };
        (0..calls).map(move |call| first + call * step)
    }

    /// Does it with a client that is to find out by itself.
    pub(crate) async fn run(&self, client: &Client, server: &Server) -> Duration {
        let start = Instant::now();
        match *self {
            Self::Calls { given_up, .. } => {
                all(self.timed().map(|item| {
                    let given_up = given_up.after(server.script(), item);
                    let given_up = given_up.map(|after| (server.takes_up(item), after));
                    send_or_give_up(client.clone(), item, given_up)
                }))
                .await;
            }
            Self::Batch { items, .. } => send(client.clone(), soap::delete(0..items)).await,
            Self::Streams { streams, apart } => {
                return run_streams(client, streams, apart, Duration::ZERO).await;
            }
            Self::AfterPause { pause, .. } => {
                let create = |item| send(client.clone(), soap::create(item, None));
                all((0..BEFORE).map(create)).await;
                all((BEFORE..2 * BEFORE).map(create)).await;
                sleep(pause).await;
                let start = Instant::now();
                all(self.timed().map(create)).await;
                return start.elapsed();
            }
            Self::Mailboxes {
                mailboxes,
                calls,
                in_turn,
            } => {
                let mailbox = |item| match in_turn {
                    true => item % mailboxes,
                    false => item / calls,
                };
                all(self
                    .timed()
                    .map(|item| open(client.clone(), item, mailbox(item))))
                .await;
            }
        }
        start.elapsed()
    }

    /// Does it with a client that knows the script.
    pub(crate) async fn run_knowingly(&self, client: &Client, server: &Server) -> Duration {
        let start = Instant::now();
        match *self {
            Self::Batch { items, members } => {
                let part = |at: usize| at..(at + members).min(items);
                let parts = (0..items).step_by(members).map(part);
                all(parts.map(|part| send(client.clone(), soap::delete(part)))).await;
            }
            Self::Streams { streams, apart } => {
                return run_streams(client, streams, apart, server.script().closed_for).await;
            }
            Self::Mailboxes { mailboxes, .. } => {
                let (most, idle) = server.script().mailboxes.expect("a limit of mailboxes");
                let places = Arc::new(Semaphore::new(most));
                let calls = |mailbox| {
                    let calls = self.calls_to(mailbox);
                    work_through(client.clone(), mailbox, calls, Arc::clone(&places), idle)
                };
                all((0..mailboxes).map(calls)).await;
            }
            _ => return self.run(client, server).await,
        }
        start.elapsed()
    }
}

/// Sends one call, and reads its response to the end.
async fn send(client: Client, request: Request<ReplayBody>) {
    let response = client.oneshot(request).await.expect("a response");
    let status = response.status();
    let body = response.into_body().collect().await.expect("a whole body");
    let body = body.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let good = text.contains("\"Success\"") && !text.contains("\"Error\"");
    assert!(status == StatusCode::OK && good, "{status} {text}");
}

/// Runs calls at the same time.
async fn all<F>(calls: impl Iterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks: JoinSet<()> = JoinSet::new();
    for call in calls {
        tasks.spawn(call);
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a call that ends well");
    }
}

/// Sends one call. Where it is given up, its future is dropped so long after the server took it up.
async fn send_or_give_up(
    client: Client,
    item: usize,
    given_up: Option<(oneshot::Receiver<()>, Duration)>,
) {
    let call = send(client, soap::create(item, None));
    let Some((taken_up, after)) = given_up else {
        return call.await;
    };
    tokio::select! {
        () = call => {}
        () = async {
            let _ = taken_up.await;
            sleep(after).await;
        } => {}
    }
}

/// Sends one call to somebody else's mailbox.
async fn open(client: Client, item: usize, mailbox: usize) {
    let mailbox = format!("user{mailbox:03}@contoso.com");
    send(client, soap::create(item, Some(&mailbox))).await;
}

/// Sends all calls to one mailbox when there is a place for it, which is free again when the server has closed the mailbox.
async fn work_through(
    client: Client,
    mailbox: usize,
    calls: impl Iterator<Item = usize>,
    places: Arc<Semaphore>,
    idle: Duration,
) {
    let place = places.acquire_owned().await.expect("it is never closed");
    all(calls.map(|item| open(client.clone(), item, mailbox))).await;
    tokio::spawn(async move {
        sleep(idle).await;
        drop(place);
    });
}

/// Opens a stream, and waits for its first message.
async fn open_stream(client: Client) -> UnsyncBoxBody<Bytes, BoxError> {
    let response = client.oneshot(soap::stream()).await.expect("a response");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.expect("a first message");
    first.expect("no error");
    body
}

/// How long it takes from the first stream's end until all run again. A client that knows when its places come free
/// waits for that.
async fn run_streams(client: &Client, streams: usize, apart: Duration, wait: Duration) -> Duration {
    let running = Arc::new(watch::Sender::new(0));
    let mut opened = JoinSet::new();
    for _ in 0..streams {
        opened.spawn(open_stream(client.clone()));
    }
    let opened = opened.join_all().await;
    let closed = Instant::now();
    // They end with this function.
    let mut tasks = JoinSet::new();
    for (place, body) in opened.into_iter().enumerate() {
        let (client, running) = (client.clone(), Arc::clone(&running));
        tasks.spawn(async move {
            sleep(apart * place as u32).await;
            drop(body);
            sleep(wait).await;
            loop {
                let mut body = open_stream(client.clone()).await;
                running.send_modify(|running| *running += 1);
                while let Some(frame) = body.frame().await {
                    frame.expect("no error");
                }
                running.send_modify(|running| *running -= 1);
            }
        });
    }
    let mut all = running.subscribe();
    let _ = all.wait_for(|running| *running == streams).await;
    closed.elapsed()
}
