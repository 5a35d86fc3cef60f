//! [`Subscriptions`]: how mailboxes are listened to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body::Body;
use tower::BoxError;
use tower_service::Service;

use super::calls::Calls;
use super::locate::{LocateMailboxes, Location};
use super::notifications::Notifications;
use super::settings::{MAX_GROUP, Settings};
use crate::body::ReplayBody;
use crate::body::client::client;
use crate::extensions::Caller;
use crate::soap::notifications::EventKind;

/// `StreamingSubscriptionConnectionTimeoutType` of Exchange's schema, in minutes.
const CONNECTION_MINUTES: std::ops::RangeInclusive<u64> = 1..=30;

/// Listens to mailboxes: subscribes to each of them, holds the connections, and mends what breaks. See the
/// [module](super) for an example.
#[derive(Clone)]
#[must_use = "subscriptions do nothing until they are listened to"]
pub struct Subscriptions {
    settings: Settings,
    locate: Arc<dyn LocateMailboxes>,
}

impl Subscriptions {
    /// Creates subscriptions to all events in all folders, with EWS at `endpoint`.
    pub fn new(endpoint: Uri) -> Self {
        Self {
            settings: Settings::new(endpoint),
            locate: Arc::new(|_: &str| Location::default()),
        }
    }

    /// Sets who tells where mailboxes are: [`Autodiscover`](super::Autodiscover), or a closure. Default: all are at one server.
    ///
    /// With Exchange Online, and wherever there are several servers, that has to be told: the subscriptions of a group all
    /// have to be with one server.
    pub fn locate(mut self, locate: impl LocateMailboxes + 'static) -> Self {
        self.locate = Arc::new(locate);
        self
    }

    /// Adds an account that the calls are made with, as the [`Caller`] in their extensions. Default: none, and the service
    /// decides.
    ///
    /// With several of them each group has the account with the fewest connections. In a stack with several accounts those are
    /// [reserved](crate::account_pool::Account::reserved): then the events are processed with the other accounts.
    pub fn caller(mut self, caller: Caller) -> Self {
        self.settings.callers.push(caller);
        self
    }

    /// Sets how many connections each account holds: `HangingConnectionLimit`. 10 by default, which is the limit of Exchange
    /// Online and of Exchange 2016 and later; it is 3 in Exchange 2013 (EWS throttling in Exchange, Table 1).
    ///
    /// Connections of further groups impersonate the anchor of their group, and are charged to the copy of its budget. With 0
    /// all of them do. So do connections that take the place of another one.
    pub fn hanging_connections(mut self, connections: usize) -> Self {
        self.settings.hanging_connections = connections;
        self
    }

    /// Sets how many mailboxes are in a group at most. 200 by default, which is the most that there may be, at least 1.
    pub fn group_size(mut self, mailboxes: usize) -> Self {
        self.settings.group_size = mailboxes.clamp(1, MAX_GROUP);
        self
    }

    /// Sets how long each connection lasts, in whole minutes, from 1 to 30. 10 minutes by default.
    ///
    /// When the server has closed it, the next one begins at once. A mailbox that is added meanwhile, or subscribed to anew after a
    /// move, does not wait for that: the connection is replaced by one that has its subscription too, ten seconds after its
    /// beginning at the earliest.
    pub fn connection_time(mut self, time: Duration) -> Self {
        let minutes = time.as_secs() / 60;
        let (least, most) = (*CONNECTION_MINUTES.start(), *CONNECTION_MINUTES.end());
        self.settings.connection_minutes = minutes.clamp(least, most);
        self
    }

    /// Sets how often the server is expected to send something. 45 seconds by default. A connection on which nothing has come
    /// for twice that time is given up. Both numbers are those of the EWS Managed API.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.settings.heartbeat = interval.max(Duration::from_secs(1));
        self
    }

    /// Makes pull subscriptions: each mailbox is asked for its events this often (GetEvents), from a second to half a day. Default:
    /// off, and connections tell them.
    ///
    /// It needs no hanging connections, and a call for each mailbox: 2,000 mailboxes every five minutes are seven calls a second.
    /// For servers and proxies that cut connections, and for mailboxes in which little happens. The calls impersonate the mailbox,
    /// and are charged to the copy of its budget.
    pub fn poll(mut self, interval: Duration) -> Self {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(12 * 3600));
        self.settings.poll = Some(interval.clamp(least, most));
        self
    }

    /// Listens to these folders only, by their well-known names, such as `inbox`. Default: all folders.
    pub fn folders(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.settings.watched.folders = names.into_iter().map(Into::into).collect();
        self
    }

    /// Listens to these kinds of events only. Default: [all](EventKind::ALL). None at all means all.
    pub fn events(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        let kinds: Vec<EventKind> = kinds.into_iter().collect();
        if !kinds.is_empty() {
            self.settings.watched.events = kinds;
        }
        self
    }

    /// Sets the `RequestServerVersion` of the calls. `Exchange2013` by default.
    pub fn server_version(mut self, version: impl Into<String>) -> Self {
        self.settings.version = version.into();
        self
    }

    /// Sets a header of each call, such as `Authorization` where no layer sets it.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.settings.headers.insert(name, value);
        self
    }

    /// Seeds the random waits, for tests that run the same way each time. Default: none.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// Listens to `mailboxes`, SMTP addresses, through `service`: an [`EwsStack`](crate::EwsStack)'s, or any client. Nothing is
    /// sent before the stream is polled.
    pub fn listen<S, B>(
        self,
        service: S,
        mailboxes: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Notifications
    where
        S: Service<Request<ReplayBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let settings = Arc::new(self.settings);
        let calls = Calls::new(client(service), Arc::clone(&settings));
        let mut notifications = Notifications::new(settings, calls, self.locate);
        mailboxes
            .into_iter()
            .for_each(|mailbox| notifications.add(mailbox.as_ref()));
        notifications
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
