//! The scripted server: counts what runs by its own hidden numbers, and refuses the rest at once.
//!
//! A request is on its way from when it was called, whatever becomes of the caller: the server runs it, and notices later
//! that nobody listens any more.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tower::Service;
use tower_ews::body::ReplayBody;

use super::body::ServerBody;
use super::script::{Bodies, Drawn, Script};
use super::soap::{self, Call};

/// Between two messages of a stream without news.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// When the server closes a stream.
const STREAM_TIME: Duration = Duration::from_secs(30 * 60);
/// More bytes than a client keeps back to decide on a response.
const LONG: usize = 100_000;

/// A scripted server; its clones are the same one.
#[derive(Clone)]
pub(crate) struct Server(Arc<Shared>);

struct Shared {
    script: Script,
    start: Instant,
    state: Mutex<State>,
}

struct State {
    /// How often each call was sent.
    attempts: HashMap<usize, u32>,
    requests: usize,
    calls: Room,
    streams: Room,
    mailboxes: HashMap<String, Mailbox>,
    /// Who wants to know when the server takes up the call with an item.
    wanted: HashMap<usize, oneshot::Sender<()>>,
    counts: Counts,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Calls that there was no room for.
    pub(crate) refused: u32,
    /// The most calls and streams that ran at a time, those of no living client among them.
    pub(crate) most_calls: u32,
    pub(crate) most_streams: u32,
    /// How often each item was done.
    pub(crate) done: HashMap<usize, u32>,
}

/// What holds places.
#[derive(Debug, Default)]
struct Room {
    running: u32,
    /// Calls without a client: each holds its place until then.
    dead: Vec<Instant>,
}

impl Room {
    fn taken(&mut self) -> u32 {
        let now = Instant::now();
        self.dead.retain(|until| *until > now);
        self.running + self.dead.len() as u32
    }

    fn leave(&mut self, held_for: Duration) {
        self.running -= 1;
        self.dead.push(Instant::now() + held_for);
    }
}

#[derive(Debug)]
struct Mailbox {
    running: u32,
    last_used: Instant,
}

type Reply = Response<ServerBody>;

impl Server {
    /// A server whose time begins now.
    pub(crate) fn new(script: Script) -> Self {
        let state = State {
            attempts: HashMap::new(),
            requests: 0,
            calls: Room::default(),
            streams: Room::default(),
            mailboxes: HashMap::new(),
            wanted: HashMap::new(),
            counts: Counts::default(),
        };
        Self(Arc::new(Shared {
            script,
            start: Instant::now(),
            state: Mutex::new(state),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no test panics with it")
    }

    pub(crate) fn script(&self) -> &Script {
        &self.0.script
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Ends when the server takes up the call with `item`.
    pub(crate) fn takes_up(&self, item: usize) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.state().wanted.insert(item, tell);
        told
    }

    /// The times of a request that is sent now.
    fn draw(&self, call: &Call) -> Drawn {
        let attempts = &mut self.state().attempts;
        let attempt = attempts.entry(call.number()).or_default();
        let drawn = self.0.script.draw(call.number(), *attempt);
        *attempt += 1;
        drawn
    }

    async fn serve(self, call: Call, mut reply: oneshot::Sender<Reply>) {
        let drawn = self.draw(&call);
        sleep(drawn.there).await;
        let response = match self.take_up(&call) {
            Err(refusal) => refusal,
            Ok(()) => match call {
                Call::Stream => return self.stream(reply, drawn).await,
                Call::Items {
                    operation,
                    mailbox,
                    items,
                } => {
                    let begin = Instant::now();
                    let held_for = tokio::select! {
                        () = sleep(drawn.service) => Duration::ZERO,
                        () = reply.closed() => {
                            let runs_on = self.0.script.given_up;
                            runs_on.after(begin.elapsed(), drawn.service)
                        }
                    };
                    self.end_call(mailbox.as_deref(), held_for);
                    self.done(operation, items.len())
                }
            },
        };
        sleep(drawn.back).await;
        // Nobody may be there any more.
        let _ = reply.send(response);
    }

    /// Takes a place for the call, or refuses it.
    fn take_up(&self, call: &Call) -> Result<(), Reply> {
        let script = &self.0.script;
        let state = &mut *self.state();
        state.requests += 1;
        if script.overloaded.contains(&(state.requests - 1)) {
            let mut response = Response::new(ServerBody::empty());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Err(response);
        }
        let (room, places, most) = match call {
            Call::Stream => (
                &mut state.streams,
                script.streams,
                &mut state.counts.most_streams,
            ),
            Call::Items { .. } => (
                &mut state.calls,
                script.places_at(self.0.start.elapsed()),
                &mut state.counts.most_calls,
            ),
        };
        let taken = room.taken();
        if taken >= places {
            state.counts.refused += 1;
            let body = ServerBody::whole(vec![soap::TOO_MANY_CALLS], true);
            return Err(respond(StatusCode::INTERNAL_SERVER_ERROR, body));
        }
        let mailbox = match call {
            Call::Items { mailbox, .. } => mailbox.as_deref(),
            Call::Stream => None,
        };
        let opens = mailbox.zip(script.mailboxes);
        if opens.is_some_and(|(name, most)| !open_mailbox(&mut state.mailboxes, name, most)) {
            state.counts.refused += 1;
            let text = Bytes::from(soap::too_many_mailboxes());
            return Err(respond(StatusCode::OK, ServerBody::whole(vec![text], true)));
        }
        room.running += 1;
        *most = (*most).max(taken + 1);
        if let Call::Items { items, .. } = call {
            for item in items {
                *state.counts.done.entry(*item).or_default() += 1;
                if let Some(tell) = state.wanted.remove(item) {
                    let _ = tell.send(());
                }
            }
        }
        Ok(())
    }

    fn end_call(&self, mailbox: Option<&str>, held_for: Duration) {
        let state = &mut *self.state();
        state.calls.leave(held_for);
        if let Some(open) = mailbox.and_then(|name| state.mailboxes.get_mut(name)) {
            open.running -= 1;
            open.last_used = Instant::now();
        }
    }

    fn done(&self, operation: &str, items: usize) -> Reply {
        let bodies = self.0.script.bodies;
        let space = match bodies {
            Bodies::SilentAndLong => LONG,
            Bodies::Told | Bodies::Silent => 0,
        };
        let text = Bytes::from(soap::done(operation, items, space));
        // In two frames.
        let (begin, rest) = (text.slice(..text.len() / 2), text.slice(text.len() / 2..));
        let body = ServerBody::whole(vec![begin, rest], bodies == Bodies::Told);
        respond(StatusCode::OK, body)
    }

    async fn stream(self, reply: oneshot::Sender<Reply>, drawn: Drawn) {
        sleep(drawn.service).await;
        let (messages, body) = mpsc::unbounded_channel();
        let _ = messages.send(soap::stream_message("OK"));
        sleep(drawn.back).await;
        let _ = reply.send(respond(StatusCode::OK, ServerBody::stream(body)));
        let begun = Instant::now();
        let closed_by_client = loop {
            tokio::select! {
                () = messages.closed() => break true,
                () = sleep(HEARTBEAT) => {}
            }
            let over = begun.elapsed() >= STREAM_TIME;
            let _ = messages.send(soap::stream_message(if over { "Closed" } else { "OK" }));
            if over {
                break false;
            }
        };
        self.state().streams.leave(match closed_by_client {
            true => self.0.script.closed_for,
            false => Duration::ZERO,
        });
    }
}

/// Whether a call may use the mailbox; it is open then.
fn open_mailbox(
    open: &mut HashMap<String, Mailbox>,
    name: &str,
    (most, idle): (usize, Duration),
) -> bool {
    let now = Instant::now();
    open.retain(|_, mailbox| mailbox.running > 0 || mailbox.last_used + idle > now);
    if open.len() >= most && !open.contains_key(name) {
        return false;
    }
    let mailbox = open.entry(name.to_owned()).or_insert(Mailbox {
        running: 0,
        last_used: now,
    });
    mailbox.running += 1;
    true
}

fn respond(status: StatusCode, body: ServerBody) -> Reply {
    Response::builder()
        .status(status)
        .header("content-type", "text/xml; charset=utf-8")
        .body(body)
        .expect("a response")
}

impl Service<Request<ReplayBody>> for Server {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let call = Call::read(&request.body().to_bytes());
        let (reply, response) = oneshot::channel();
        tokio::spawn(self.clone().serve(call, reply));
        Box::pin(async move { Ok(response.await.expect("each call has a response")) })
    }
}
