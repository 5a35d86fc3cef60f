//! A client that knows the script: it holds calls back until the server has room, and is never refused. It shows that the
//! least times of `oracle` can be had.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};
use tower::Service;
use tower_ews::body::ReplayBody;

use super::body::ServerBody;
use super::script::RunsOn;
use super::server::Server;
use super::soap::Call;

/// Holds back what the server has no room for.
#[derive(Clone)]
pub(crate) struct Omniscient {
    server: Server,
    places: Arc<Places>,
}

impl Omniscient {
    /// A client of a server whose time begins now.
    pub(crate) fn new(server: Server) -> Self {
        let places = Arc::new(Places::new(&server));
        tokio::spawn(follow(
            server.clone(),
            Arc::downgrade(&places),
            Instant::now(),
        ));
        Self { server, places }
    }
}

/// The server's places, as many as there are at a time.
struct Places {
    free: Semaphore,
    /// Places that are gone, and are still held by calls.
    owed: Mutex<u32>,
}

impl Places {
    fn new(server: &Server) -> Self {
        let free = server.script().places_at(Duration::ZERO);
        Self {
            free: Semaphore::new(free as usize),
            owed: Mutex::new(0),
        }
    }

    fn change(&self, before: u32, now: u32) {
        for _ in before..now {
            self.give_back();
        }
        let gone = before.saturating_sub(now);
        let at_once = self.free.forget_permits(gone as usize) as u32;
        *self.owed.lock().expect("no test panics with it") += gone - at_once;
    }

    fn give_back(&self) {
        let owed = &mut *self.owed.lock().expect("no test panics with it");
        if *owed > 0 {
            *owed -= 1;
        } else {
            self.free.add_permits(1);
        }
    }
}

/// Changes the number of places as the script does. Where some go, calls stop so early before that none is on its way.
async fn follow(server: Server, places: Weak<Places>, start: Instant) {
    let script = server.script();
    let early = Duration::from_millis(script.jitter);
    // No call that is sent now may come when there is less room.
    let allowed = |now: Duration| {
        let later = script.next_change(now).filter(|at| *at <= now + early);
        let later = later.map_or(u32::MAX, |at| script.places_at(at));
        script.places_at(now).min(later)
    };
    let mut now = Duration::ZERO;
    let mut known = script.places_at(now);
    while let Some(change) = script.next_change(now) {
        let before = change.saturating_sub(early).max(now);
        for at in [before, change] {
            sleep_until(start + at).await;
            let Some(places) = places.upgrade() else {
                return;
            };
            let next = allowed(at);
            places.change(known, next);
            known = next;
        }
        now = change;
    }
}

/// A place in use. If its call is given up, it comes free when the server frees it.
struct Held {
    places: Arc<Places>,
    given_up: RunsOn,
    /// When the server takes the call up, and how long it works on it.
    taken_up: Instant,
    service: Duration,
    has_response: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let places = Arc::clone(&self.places);
        if self.has_response {
            return places.give_back();
        }
        let held_for = self.given_up.after(self.taken_up.elapsed(), self.service);
        tokio::spawn(async move {
            sleep(held_for).await;
            places.give_back();
        });
    }
}

impl Service<Request<ReplayBody>> for Omniscient {
    type Response = Response<ServerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ReplayBody>) -> Self::Future {
        let mut server = self.server.clone();
        let places = Arc::clone(&self.places);
        Box::pin(async move {
            let place = places.free.acquire().await.expect("it is never closed");
            place.forget();
            let call = Call::read(&request.body().to_bytes());
            let drawn = server.script().draw(call.number(), 0);
            let mut held = Held {
                places,
                given_up: server.script().given_up,
                taken_up: Instant::now() + drawn.there,
                service: drawn.service,
                has_response: false,
            };
            let response = server.call(request).await;
            held.has_response = true;
            response
        })
    }
}
