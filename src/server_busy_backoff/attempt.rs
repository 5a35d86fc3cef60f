//! [`Attempt`]: sends the request once, in time.

use std::future::{Future, poll_fn};
use std::pin::pin;

use http::{Request, Response};
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_service::Service;

use super::attempt_time::AttemptTime;
use super::decide::FailurePhase;
use crate::errors::{AccessDenied, DeadlineElapsed};
use crate::ledger::Permit;
use crate::retry::Connection;
use crate::trail::{Attempt as TrailAttempt, CallTrail};

/// What an attempt holds until its response has been examined.
pub(super) struct Attempt {
    trail: Option<CallTrail>,
    /// The permit of the layer's own gates.
    permit: Option<Permit>,
    time: AttemptTime,
    connection: Option<Connection>,
}

impl Attempt {
    pub(super) fn new(trail: Option<CallTrail>, permit: Option<Permit>, time: AttemptTime) -> Self {
        Self {
            trail,
            permit,
            time,
            connection: None,
        }
    }

    pub(super) fn trail(&self) -> Option<&CallTrail> {
        self.trail.as_ref()
    }

    pub(super) fn permit(&self) -> Option<&Permit> {
        self.permit.as_ref()
    }

    pub(super) fn time(&self) -> &AttemptTime {
        &self.time
    }

    pub(super) fn record(&self, write: impl FnOnce(&mut TrailAttempt)) {
        if let Some(trail) = &self.trail {
            trail.record(write);
        }
    }

    /// Records what the response or the error said.
    pub(super) fn record_signal(&self, signal: Option<&str>) {
        if let Some(signal) = signal {
            self.record(|attempt| attempt.signal = Some(signal.into()));
        }
    }

    /// Records that nothing is left of the attempt.
    pub(super) fn record_end(&self) {
        self.record(|attempt| attempt.ended = Some(Instant::now()));
    }

    /// Sends `request`. What it holds further in is given back when its time is over, or if it waits there and `check` fails.
    pub(super) async fn send<S, B, ResB>(
        &mut self,
        inner: &mut S,
        mut request: Request<B>,
        check: impl FnMut() -> Result<(), AccessDenied>,
    ) -> Result<Response<ResB>, (BoxError, FailurePhase)>
    where
        S: Service<Request<B>, Response = Response<ResB>>,
        S::Error: Into<BoxError>,
    {
        let deadline = self.time.deadline();
        match deadline.bound(inner.ready()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err((error.into(), FailurePhase::Ready)),
            None => return Err((DeadlineElapsed::at(deadline).into(), FailurePhase::Ready)),
        }
        self.connection = Some(Connection::of(&mut request));
        let sending = while_waiting(&self.time, check, inner.call(request));
        match self.time.bound(sending).await {
            Some(sent) => sent.map_err(|error| (error, FailurePhase::Call)),
            None => {
                self.leave_connection();
                Err(self.time.over(None))
            }
        }
    }

    /// Has the next attempt go over another connection.
    pub(super) fn leave_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.leave();
        }
    }

    /// Lets another call pass the layer's own gates.
    pub(super) fn accepted(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.complete();
        }
    }

    /// Lets another call come to the layer's own gates, after a refusal that was reported to them.
    pub(super) fn refused(&mut self) {
        self.permit = None;
    }
}

/// Polls `sending`. While it waits to be sent, `check` is asked before each poll: the poll that would send it, too.
async fn while_waiting<T, E: Into<BoxError>>(
    time: &AttemptTime,
    mut check: impl FnMut() -> Result<(), AccessDenied>,
    sending: impl Future<Output = Result<T, E>>,
) -> Result<T, BoxError> {
    let mut sending = pin!(sending);
    let mut was_polled = false;
    poll_fn(|cx| {
        if was_polled && time.is_waiting() {
            check()?;
        }
        was_polled = true;
        sending.as_mut().poll(cx).map_err(Into::into)
    })
    .await
}
