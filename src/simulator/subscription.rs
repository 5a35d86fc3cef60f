//! The subscriptions: who has them, who pays, when they expire, and what has happened since they
//! were last asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::budget::Payer;
use super::failure::Failure;
use super::mailbox::{Mailbox, Store};

/// GetEvents and each message of a stream bring this many events at most (the reference page of
/// GetEvents).
const MOST_EVENTS: usize = 50;

/// One subscription. Times are policy time since the start.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    /// The account that made it.
    pub(super) owner: String,
    pub(super) payer: Payer,
    pub(super) mailbox: usize,
    /// Its folders; all of the mailbox if there are none.
    pub(super) folders: Vec<u64>,
    /// The version of the mailbox up to which its events were told.
    pub(super) since: u64,
    /// The server that made it, and the cookie that its call came with or got.
    pub(super) server: usize,
    pub(super) cookie: Option<usize>,
    /// How long it lives after it was last used.
    pub(super) lives: Duration,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    /// `Duration::MAX` while a stream is open.
    expires: Duration,
    /// The newest stream of it.
    stream: u64,
}

/// All subscriptions of the server, by id.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: BTreeMap<String, Entry>,
    number: u64,
}

impl Subscriptions {
    /// Adds one, and returns its id.
    pub(super) fn add(
        &mut self,
        subscription: Subscription,
        most: Option<u32>,
        now: Duration,
    ) -> Result<String, Failure> {
        let payer = &subscription.payer;
        if most.is_some_and(|most| self.of(payer, now) >= most as usize) {
            return Err(Failure::new(
                "ErrorExceededSubscriptionCount",
                "The account has as many subscriptions as it may have: end some of them first.",
            ));
        }
        self.number += 1;
        let id = id_of(self.number);
        let expires = now.saturating_add(subscription.lives);
        let entry = Entry {
            subscription,
            expires,
            stream: 0,
        };
        self.entries.insert(id.clone(), entry);
        Ok(id)
    }

    /// How many this payer has.
    pub(super) fn of(&mut self, payer: &Payer, now: Duration) -> usize {
        self.entries.retain(|_, entry| now < entry.expires);
        let own = |entry: &&Entry| entry.subscription.payer == *payer;
        self.entries.values().filter(own).count()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Loses those to one mailbox.
    pub(super) fn clear_of(&mut self, mailbox: usize) {
        self.entries
            .retain(|_, entry| entry.subscription.mailbox != mailbox);
    }

    /// The cookie that a subscription was made with.
    pub(super) fn cookie(&self, id: &str) -> Option<usize> {
        self.entries.get(id)?.subscription.cookie
    }

    /// Whether this account has this subscription, at this server.
    pub(super) fn check(
        &self,
        id: &str,
        owner: &str,
        server: usize,
        now: Duration,
    ) -> Result<(), Failure> {
        let here = |entry: &&Entry| now < entry.expires && entry.subscription.server == server;
        let entry = self.entries.get(id).filter(here);
        match entry.map(|entry| entry.subscription.owner == owner) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::new(
                "ErrorSubscriptionAccessDenied",
                "Only the account that made a subscription may use it.",
            )),
            None => Err(not_found()),
        }
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.entries.remove(id);
    }

    /// Opens a stream of these, which ends the streams that they had, and returns its number.
    pub(super) fn open(&mut self, ids: &[String]) -> u64 {
        self.number += 1;
        for id in ids {
            if let Some(entry) = self.entries.get_mut(id) {
                entry.stream = self.number;
                entry.expires = Duration::MAX;
            }
        }
        self.number
    }

    /// Closes a stream: what has no newer one begins to expire.
    pub(super) fn close(&mut self, stream: u64, now: Duration) {
        let of_stream = |entry: &&mut Entry| entry.stream == stream;
        for entry in self.entries.values_mut().filter(of_stream) {
            entry.expires = now.saturating_add(entry.subscription.lives);
        }
    }

    /// Which of these the stream does not have, and why.
    pub(super) fn gone(&self, stream: u64, ids: &[String]) -> Option<(Failure, Vec<String>)> {
        let of = |wanted: fn(Option<u64>, u64) -> bool| -> Vec<String> {
            let stream_of = |id: &String| self.entries.get(id).map(|entry| entry.stream);
            let ids = ids.iter().filter(|id| wanted(stream_of(id), stream));
            ids.cloned().collect()
        };
        let lost = of(|newest, _| newest.is_none());
        if !lost.is_empty() {
            return Some((not_found(), lost));
        }
        let taken = of(|newest, own| newest != Some(own));
        let failure = Failure::new(
            "ErrorNewEventStreamConnectionOpened",
            "Another connection was opened for the subscription.",
        );
        (!taken.is_empty()).then_some((failure, taken))
    }

    /// The notification of what has happened since the last one: with watermarks, and even if
    /// nothing has, where it was asked for.
    pub(super) fn notification(
        &mut self,
        id: &str,
        store: &Store,
        stamp: &str,
        asked: Option<Duration>,
    ) -> Option<String> {
        let entry = self.entries.get_mut(id)?;
        if let Some(now) = asked {
            entry.expires = now.saturating_add(entry.subscription.lives);
        }
        let subscription = &mut entry.subscription;
        let mailbox = store.get(subscription.mailbox)?;
        let mut events = events(mailbox, subscription);
        let more = events.len() > MOST_EVENTS;
        events.truncate(MOST_EVENTS);
        if events.is_empty() && asked.is_none() {
            return None;
        }
        let mut out = format!("<t:SubscriptionId>{id}</t:SubscriptionId>");
        let watermark = |version: u64| STANDARD.encode(version.to_le_bytes());
        if asked.is_some() {
            let previous = watermark(subscription.since);
            let _ = write!(
                out,
                "<t:PreviousWatermark>{previous}</t:PreviousWatermark><t:MoreEvents>{more}</t:MoreEvents>"
            );
        }
        let mark = |version| match asked {
            Some(_) => format!("<t:Watermark>{}</t:Watermark>", watermark(version)),
            None => String::new(),
        };
        if events.is_empty() {
            let _ = write!(
                out,
                "<t:StatusEvent>{}</t:StatusEvent>",
                mark(subscription.since)
            );
        }
        for event in &events {
            subscription.since = event.version;
            let _ = write!(
                out,
                "<t:{0}>{1}<t:TimeStamp>{stamp}</t:TimeStamp>{2}</t:{0}>",
                event.name,
                mark(event.version),
                event.ids
            );
        }
        Some(out)
    }
}

fn not_found() -> Failure {
    Failure::new(
        "ErrorSubscriptionNotFound",
        "There is no subscription with this id: it has ended or expired, or this server does not have it.",
    )
}

struct Event {
    version: u64,
    name: &'static str,
    ids: String,
}

/// What has happened to the subscription's items, in order.
fn events(mailbox: &Mailbox, subscription: &Subscription) -> Vec<Event> {
    let since = subscription.since;
    if mailbox.version() <= since {
        return Vec::new();
    }
    let wanted =
        |folder: u64| subscription.folders.is_empty() || subscription.folders.contains(&folder);
    let ids = |key: (u64, u64), version: u64| {
        format!(
            "<t:ItemId Id=\"{}\" ChangeKey=\"{}\"/><t:ParentFolderId Id=\"{}\"/>",
            mailbox.item_id(key),
            mailbox.key(version),
            mailbox.folder_id(key.0)
        )
    };
    let changed = mailbox
        .items
        .iter()
        .filter(|(key, item)| item.version > since && wanted(key.0));
    let changed = changed.map(|(key, item)| Event {
        version: item.version,
        name: match item.created > since {
            true => "CreatedEvent",
            false => "ModifiedEvent",
        },
        ids: ids(*key, item.version),
    });
    let gone = mailbox
        .gone
        .iter()
        .filter(|(version, key)| *version > since && key.1 > 0 && wanted(key.0));
    let gone = gone.map(|(version, key)| Event {
        version: *version,
        name: "DeletedEvent",
        ids: ids(*key, *version),
    });
    let mut events: Vec<Event> = changed.chain(gone).collect();
    events.sort_by_key(|event| event.version);
    events
}

/// An id in the server's layout: its name, a GUID, and when it was made.
fn id_of(number: u64) -> String {
    let server = b"simbe01.simulator.invalid";
    let mut bytes = Vec::with_capacity(64);
    bytes.extend_from_slice(&(server.len() as u16).to_le_bytes());
    bytes.extend_from_slice(server);
    bytes.extend_from_slice(&16_u32.to_le_bytes());
    bytes.extend_from_slice(&u128::from(number).to_be_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    STANDARD.encode(bytes)
}
