//! [`Calls`]: makes the calls of a [`Step`](super::step::Step), each as a future.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use tower::{BoxError, ServiceExt};

use super::connection::{Connection, read_error};
use super::end::End;
use super::notification::SubscriptionError;
use super::settings::Settings;
use super::step::Route;
use crate::body::ReplayBody;
use crate::body::client::{Client, ClientBody, read_all};
use crate::extensions::Deadline;
use crate::seconds::Seconds;
use crate::soap::notification_request as write;
use crate::soap::notifications::StreamMessage;

/// How long a call may take until its response begins, waits in the layers included. A lock-out is longer: it is tried again.
pub(super) const CALL_TIME: Duration = Duration::from_secs(180);
/// The response of a call that does not hang is a few hundred bytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// The id of a new subscription, and where its events begin.
pub(super) type Subscription = (Box<str>, Box<str>);

/// How long a pull subscription lasts without use, in minutes: some polls may fail (`SubscriptionTimeoutType`: a day at most).
fn lasts(poll: Duration) -> u64 {
    (4 * poll.as_secs() / 60).clamp(30, 1440)
}

/// What calls are made with.
#[derive(Clone)]
pub(super) struct Calls {
    client: Client,
    settings: Arc<Settings>,
}

impl Calls {
    pub(super) fn new(client: Client, settings: Arc<Settings>) -> Self {
        Self { client, settings }
    }

    /// Subscribes to a mailbox.
    pub(super) async fn subscribe(
        mut self,
        mailbox: Arc<str>,
        route: Route,
    ) -> Result<Subscription, SubscriptionError> {
        let settings = &self.settings;
        let pull = settings.poll.map(lasts);
        let body = write::subscribe(&settings.version, &mailbox, &settings.watched, pull);
        let message = self.ask(body, route).await?;
        let id = message.subscription.ok_or(SubscriptionError::Unreadable)?;
        let watermark = message.watermark.unwrap_or_default();
        Ok((id, watermark))
    }

    /// Asks for the events of a pull subscription.
    pub(super) async fn poll(
        mut self,
        mailbox: Arc<str>,
        id: Arc<str>,
        watermark: Box<str>,
        route: Route,
    ) -> Result<StreamMessage, SubscriptionError> {
        let body = write::get_events(&self.settings.version, &mailbox, &id, &watermark);
        self.ask(body, route).await
    }

    /// Ends a subscription.
    pub(super) async fn unsubscribe(
        mut self,
        mailbox: Arc<str>,
        id: Arc<str>,
        route: Route,
    ) -> Result<(), SubscriptionError> {
        let body = write::unsubscribe(&self.settings.version, &mailbox, &id);
        self.ask(body, route).await.map(drop)
    }

    /// Opens a connection, and returns it with its first message.
    pub(super) async fn connect(
        mut self,
        ids: &[Arc<str>],
        impersonated: Option<Arc<str>>,
        minutes: u64,
        route: Route,
    ) -> Result<(Connection, StreamMessage), End> {
        let refused = |error| End::Refused(error, Vec::new());
        let version = &self.settings.version;
        let body = write::get_streaming_events(version, impersonated.as_deref(), ids, minutes);
        let deadline = Deadline::within(CALL_TIME);
        let response = self.send(body, route, deadline).await.map_err(refused)?;
        let (head, body) = response.into_parts();
        let mut connection = Connection::new(body, 2 * self.settings.heartbeat);
        let message = match connection.next().await {
            Ok(message) => message,
            Err(End::Broken) if !head.status.is_success() => {
                let status = head.status;
                return Err(refused(SubscriptionError::Status { status }));
            }
            Err(end) => return Err(end),
        };
        match message.responded {
            true => Ok((connection, message)),
            false if head.status.is_success() => Err(refused(SubscriptionError::Unreadable)),
            false => Err(refused(SubscriptionError::Status {
                status: head.status,
            })),
        }
    }

    /// Makes a call whose response is read to its end.
    async fn ask(
        &mut self,
        body: String,
        route: Route,
    ) -> Result<StreamMessage, SubscriptionError> {
        let deadline = Deadline::within(CALL_TIME);
        let response = self.send(body, route, deadline).await?;
        let status = response.status();
        let body = read_all(response.into_body(), MAX_RESPONSE);
        let body = deadline.bound(body).await.ok_or_else(late)?;
        let body = body.map_err(SubscriptionError::NoResponse)?;
        match StreamMessage::read(&body).filter(|message| message.responded) {
            Some(message) => match read_error(&message, &body) {
                Some(error) => Err(error),
                None => Ok(message),
            },
            None if status.is_success() => Err(SubscriptionError::Unreadable),
            None => Err(SubscriptionError::Status { status }),
        }
    }

    async fn send(
        &mut self,
        body: String,
        route: Route,
        deadline: Deadline,
    ) -> Result<Response<ClientBody>, SubscriptionError> {
        let mut request = Request::new(ReplayBody::from(body));
        *request.method_mut() = Method::POST;
        let endpoint = route.endpoint.as_ref().unwrap_or(&self.settings.endpoint);
        *request.uri_mut() = endpoint.clone();
        *request.headers_mut() = self.settings.headers.clone();
        let headers = request.headers_mut();
        let content = HeaderValue::from_static("text/xml; charset=utf-8");
        headers.insert(CONTENT_TYPE, content);
        headers.insert(ACCEPT, HeaderValue::from_static("text/xml"));
        // A client without the layers needs them here.
        route.affinity.set_headers(headers);
        let extensions = request.extensions_mut();
        extensions.insert(deadline);
        if let Some(caller) = route.caller {
            extensions.insert(caller);
        }
        let response = deadline.bound(self.client.clone().oneshot(request)).await;
        let response = response.ok_or_else(late)?;
        let response = response.map_err(SubscriptionError::NoResponse)?;
        route.affinity.learn(response.headers());
        Ok(response)
    }
}

fn late() -> SubscriptionError {
    let error: BoxError = format!("nothing came within {}", Seconds(CALL_TIME)).into();
    SubscriptionError::NoResponse(error)
}
