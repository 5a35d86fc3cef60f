//! [`Stream`]: what GetStreamingEvents sends while it hangs.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::clock;
use super::engine::Engine;
use super::failure::Failure;
use super::soap;
use super::xml::escaped;

/// The rest of a hanging response: an envelope at each heartbeat, and one that closes it.
#[derive(Debug)]
pub(super) struct Stream {
    engine: Arc<Engine>,
    ids: Vec<String>,
    number: u64,
    ends: Instant,
    trouble: Option<Trouble>,
}

/// What befalls a stream on demand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) at: Instant,
    /// Nothing comes any more. Else the connection is reset.
    pub(super) silent: bool,
}

/// One envelope of a stream.
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) last: bool,
}

/// What comes next of a stream.
pub(super) enum Next {
    Frame(Frame),
    /// What was sent gets lost.
    Lost,
    Reset,
}

impl Stream {
    /// A stream of these subscriptions, until then.
    pub(super) fn new(
        engine: Arc<Engine>,
        ids: Vec<String>,
        number: u64,
        ends: Instant,
        trouble: Option<Trouble>,
    ) -> Self {
        Self {
            trouble,
            engine,
            ids,
            number,
            ends,
        }
    }

    /// Real time until the next frame.
    pub(super) fn pause(&self) -> Duration {
        let heartbeat = self.engine.real(self.engine.policy.heartbeat);
        let now = Instant::now();
        let trouble = self.trouble.map(|trouble| trouble.at);
        let next = [Some(self.ends), trouble].into_iter().flatten();
        // A stream that is silent has no end.
        let next = next.filter(|at| trouble.is_none_or(|trouble| now < trouble || now < *at));
        let left = next.map(|at| at.saturating_duration_since(now)).min();
        heartbeat.min(left.unwrap_or(heartbeat))
    }

    /// What comes now.
    pub(super) fn next(&self) -> Next {
        let frame = self.send();
        match self.trouble.filter(|trouble| trouble.at <= Instant::now()) {
            Some(trouble) if trouble.silent => Next::Lost,
            Some(_) => Next::Reset,
            None => Next::Frame(frame),
        }
    }

    /// What the server sends now.
    fn send(&self) -> Frame {
        let mut guard = self.engine.state.lock();
        let state = &mut *guard;
        if let Some((failure, ids)) = state.subscriptions.gone(self.number, &self.ids) {
            return self.frame(&message(&not_had(failure, &ids)), true);
        }
        let now = self.engine.policy_time(self.engine.now());
        let stamp = clock::stamp(now.as_secs());
        let mut notifications = String::new();
        for id in &self.ids {
            if let Some(text) = state
                .subscriptions
                .notification(id, &state.store, &stamp, None)
            {
                // In the types namespace by the schema; the samples of the documents have it in the other.
                let _ = write!(notifications, "<t:Notification>{text}</t:Notification>");
            }
        }
        let last = Instant::now() >= self.ends;
        let mut out = SUCCESS.to_owned();
        if !notifications.is_empty() {
            let _ = write!(out, "<m:Notifications>{notifications}</m:Notifications>");
        }
        out.push_str(match last {
            true => CLOSED,
            false => OPEN,
        });
        self.frame(&format!("{out}</m:{MESSAGE}>"), last)
    }

    fn frame(&self, message: &str, last: bool) -> Frame {
        let response = format!(
            "<m:GetStreamingEventsResponse><m:ResponseMessages>{message}</m:ResponseMessages>\
             </m:GetStreamingEventsResponse>"
        );
        Frame {
            bytes: soap::envelope(&self.engine.policy, &response).into(),
            last,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let now = self.engine.policy_time(self.engine.now());
        self.engine
            .state
            .lock()
            .subscriptions
            .close(self.number, now);
    }
}

const MESSAGE: &str = "GetStreamingEventsResponseMessage";
const SUCCESS: &str = "<m:GetStreamingEventsResponseMessage ResponseClass=\"Success\">\
                       <m:ResponseCode>NoError</m:ResponseCode>";

/// What the first message of a stream says, and every later one but the last.
pub(super) const OPEN: &str = "<m:ConnectionStatus>OK</m:ConnectionStatus>";
const CLOSED: &str = "<m:ConnectionStatus>Closed</m:ConnectionStatus>";

/// The failure with the ids of the subscriptions that it is about.
pub(super) fn not_had(mut failure: Failure, ids: &[String]) -> Failure {
    failure.payload = String::from("<m:ErrorSubscriptionIds>");
    for id in ids {
        let _ = write!(
            failure.payload,
            "<t:SubscriptionId>{}</t:SubscriptionId>",
            escaped(id)
        );
    }
    failure.payload.push_str("</m:ErrorSubscriptionIds>");
    failure.payload.push_str(CLOSED);
    failure
}

fn message(failure: &Failure) -> String {
    let mut out = format!("<m:{MESSAGE} ResponseClass=\"Error\">");
    failure.message(&mut out);
    out + &format!("</m:{MESSAGE}>")
}
