//! [`Driver`]: the task that leases. It has the members, sends what they ask and tells the process's ledger what is lent.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::uri::Authority;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::error::StoreError;
use super::listen::{Heard, listen};
use super::member::{Member, Terms};
use super::store::Store;
use super::wire::{Push, Reply};
use crate::ledger::local::LocalLedger;
use crate::ledger::{AcquireError, Limit};
use crate::principal::Principal;

/// What a process does once its lease has run out and Redis cannot be asked.
///
/// While the lease is good, calls go on as ever, whatever is chosen. No choice lets more run in this process than its last lease did.
///
/// ```
/// use tower_ews::ledger::redis::WhenUnavailable;
///
/// assert_eq!(WhenUnavailable::default(), WhenUnavailable::Wait);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenUnavailable {
    /// Calls wait for Redis, each as long as it may.
    #[default]
    Wait,
    /// Calls that would have to wait end with [`AcquireError::Unavailable`], those that wait already too.
    FailFast,
    /// The process goes on with its last lease, or with its part of the limit if that is less: the limit divided by the number of
    /// processes that were known last, rounded down. It applies to what is in flight; calls that draw on buckets or open new values
    /// wait.
    LocalShare,
}

/// What the ledger tells its driver.
#[derive(Debug)]
pub(super) enum Message {
    /// Closes the gates of principals.
    Gate(Vec<Principal>, Instant),
    /// Closes the gate of an endpoint.
    Endpoint(Authority, Instant),
}

/// Whether Redis can be asked: why not, if it cannot.
pub(super) type Health = Option<AcquireError>;

type Call = BoxFuture<'static, (Principal, u64, Result<Reply, StoreError>)>;

/// What a driver begins with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) inner: Arc<LocalLedger>,
    pub(super) store: Store,
    pub(super) terms: Terms,
    pub(super) when_unavailable: WhenUnavailable,
    pub(super) messages: mpsc::UnboundedReceiver<Message>,
    pub(super) health: Arc<watch::Sender<Health>>,
}

pub(super) struct Driver {
    inner: Arc<LocalLedger>,
    news: Arc<Notify>,
    store: Store,
    terms: Terms,
    when_unavailable: WhenUnavailable,
    health: Arc<watch::Sender<Health>>,
    members: HashMap<Principal, Member>,
    /// When to look at which member, and the number of the entry.
    timers: BTreeMap<(Instant, u64), Principal>,
    /// The entry of each member.
    timed: HashMap<Principal, (Instant, u64)>,
    calls: FuturesUnordered<Call>,
    /// The last number given, to timers and to requests: later ones are larger, for whatever principal.
    number: u64,
    /// How many requests have failed since one got a response.
    failures: u32,
    /// How many processes share a principal, as known last.
    procs: u32,
}

impl Driver {
    pub(super) async fn run(parts: Parts) {
        let (heard, mut hears) = mpsc::unbounded_channel();
        let own = parts.terms.channel(&parts.terms.process);
        let all = format!("{}:all", parts.terms.prefix);
        let listener = listen(parts.store.connect(), vec![own, all.clone()], heard);
        tokio::pin!(listener);
        let mut messages = parts.messages;
        let mut driver = Self {
            news: parts.inner.news(),
            inner: parts.inner,
            store: parts.store,
            terms: parts.terms,
            when_unavailable: parts.when_unavailable,
            health: parts.health,
            members: HashMap::new(),
            timers: BTreeMap::new(),
            timed: HashMap::new(),
            calls: FuturesUnordered::new(),
            number: 0,
            failures: 0,
            procs: 1,
        };
        let news = Arc::clone(&driver.news);
        loop {
            let next = driver.timers.keys().next().map(|(at, _)| *at);
            let due = sleep_until(next.unwrap_or_else(Instant::now));
            tokio::select! {
                () = &mut listener => {}
                message = messages.recv() => match message {
                    Some(message) => driver.told(message),
                    None => return driver.leave().await,
                },
                () = news.notified() => driver.take_news(),
                Some(heard) = hears.recv() => driver.heard(heard, &all),
                Some((principal, number, reply)) = driver.calls.next() => {
                    driver.responded(&principal, number, reply);
                }
                () = due, if next.is_some() => driver.look_at_due(),
            }
        }
    }

    /// Gives everything back: the last call is over.
    async fn leave(&mut self) {
        let now = Instant::now();
        let mut calls = FuturesUnordered::new();
        for (principal, mut member) in std::mem::take(&mut self.members) {
            self.number += 1;
            let (number, terms) = (self.number, &self.terms);
            self.inner.lend(&principal, &[], |demand| {
                let leases = member.lapse(demand, |_, _, _| 0);
                ((), leases, false)
            });
            let named = member.named();
            let ask = self.inner.lend(&principal, &named, |demand| {
                let ask = member.leave(demand, &principal, number, terms, now);
                (ask, Vec::new(), false)
            });
            if let Some(ask) = ask {
                calls.push(self.store.lease(terms.key(&principal), ask));
            }
        }
        while calls.next().await.is_some() {}
    }

    fn told(&mut self, message: Message) {
        match message {
            Message::Gate(principals, until) => {
                for principal in principals {
                    let member = self.members.entry(principal.clone()).or_default();
                    member.close_gate(until);
                    self.look(&principal);
                }
            }
            Message::Endpoint(endpoint, until) => {
                let time = until.saturating_duration_since(Instant::now());
                let text = format!("{} {endpoint}", time.as_millis());
                let (store, channel) = (self.store.clone(), format!("{}:all", self.terms.prefix));
                // Others find out by themselves if it does not arrive.
                tokio::spawn(async move { _ = store.publish(channel, text).await });
            }
        }
    }

    fn take_news(&mut self) {
        let (wanted, told) = self.inner.take_news();
        for (principal, budget, told) in told {
            let member = self.members.entry(principal.clone()).or_default();
            member.told(budget, told);
            self.look(&principal);
        }
        for principal in wanted {
            self.look(&principal);
        }
    }

    fn heard(&mut self, heard: Heard, all: &str) {
        match heard {
            // What was said meanwhile is lost.
            Heard::Connected => {
                let principals: Vec<Principal> = self.members.keys().cloned().collect();
                principals.iter().for_each(|principal| self.wake(principal));
            }
            Heard::Message(channel, text) if channel == all => {
                let endpoint = text.split_once(' ').and_then(|(ms, endpoint)| {
                    let time = Duration::from_millis(ms.parse().ok()?);
                    Some((endpoint.parse::<Authority>().ok()?, time))
                });
                if let Some((endpoint, time)) = endpoint {
                    let now = Instant::now();
                    let until = now.checked_add(time).unwrap_or(now);
                    self.inner.close_endpoint_gate(&endpoint, until);
                }
            }
            Heard::Message(_, text) => {
                if let Ok(principal) = Principal::from_key(&text) {
                    self.wake(&principal);
                } else if let Ok(push) = serde_json::from_str::<Push>(&text) {
                    self.pushed(&push);
                }
            }
        }
    }

    /// Others say that asking is worth it.
    fn wake(&mut self, principal: &Principal) {
        if let Some(member) = self.members.get_mut(principal) {
            member.woken = true;
            self.look(principal);
        }
    }

    /// Others have given back what calls of this process wait for.
    fn pushed(&mut self, push: &Push) {
        let Ok(principal) = Principal::from_key(&push.name) else {
            return;
        };
        if let Some(member) = self.members.get_mut(&principal) {
            let named = member.named();
            self.inner.lend(&principal, &named, |demand| {
                let leases = member.pushed(push, demand, Instant::now());
                ((), leases, member.is_wanted())
            });
            self.look(&principal);
        }
    }

    /// Looks at a member: asks if there is a reason to.
    fn look(&mut self, principal: &Principal) {
        let now = Instant::now();
        self.number += 1;
        let number = self.number;
        let member = self.members.entry(principal.clone()).or_default();
        if member.has_lapsed(now) {
            self.lapse(principal);
        }
        let terms = &self.terms;
        let member = self.members.entry(principal.clone()).or_default();
        let named = member.named();
        let ask = self.inner.lend(principal, &named, |demand| {
            let (ask, leases) = member.plan(demand, principal, number, terms, now);
            (ask, leases, member.is_wanted())
        });
        if let Some(ask) = ask {
            let (store, key) = (self.store.clone(), terms.key(principal));
            let principal = principal.clone();
            self.calls.push(Box::pin(async move {
                let reply = store.lease(key, ask).await;
                (principal, number, reply)
            }));
        }
        self.set_timer(principal);
    }

    /// Sets when to look at a member next, or forgets it.
    fn set_timer(&mut self, principal: &Principal) {
        if let Some(known) = self.timed.remove(principal) {
            self.timers.remove(&known);
        }
        let Some(member) = self.members.get(principal) else {
            return;
        };
        if let Some(at) = member.next_look() {
            self.number += 1;
            let timer = (at, self.number);
            self.timers.insert(timer, principal.clone());
            self.timed.insert(principal.clone(), timer);
        } else if member.is_over() {
            self.members.remove(principal);
        }
    }

    fn look_at_due(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.timers.first_entry() {
            if first.key().0 > now {
                return;
            }
            let principal = first.remove();
            self.timed.remove(&principal);
            self.look(&principal);
        }
    }

    fn responded(&mut self, principal: &Principal, number: u64, reply: Result<Reply, StoreError>) {
        match reply {
            Ok(reply) => {
                if self.failures > 0 {
                    self.recover();
                }
                self.lend(principal, number, &reply);
            }
            Err(error) => self.failed(principal, number, error),
        }
        // What was lent went to calls that wait, and others may be short.
        self.look(principal);
    }

    fn lend(&mut self, principal: &Principal, number: u64, reply: &Reply) {
        let Some(member) = self.members.get_mut(principal) else {
            return;
        };
        self.procs = self.procs.max(reply.procs);
        let terms = &self.terms;
        // Before calls are let in.
        if let Some(gate) = reply.gate.filter(|gate| *gate > 0) {
            let now = Instant::now();
            let until = now.checked_add(Duration::from_millis(gate)).unwrap_or(now);
            self.inner.close_gate(principal, until);
        }
        self.inner.lend(principal, &[], |demand| {
            let leases = member.replied(number, reply, demand, terms);
            ((), leases.unwrap_or_default(), member.is_wanted())
        });
    }

    fn failed(&mut self, principal: &Principal, number: u64, error: StoreError) {
        self.failures = self.failures.saturating_add(1);
        let last = error.is_final();
        let wait = Duration::from_millis(50) * (1 << self.failures.min(6));
        let wait = wait.min(self.terms.renewal() / 2);
        if let Some(member) = self.members.get_mut(principal) {
            member.failed(
                number,
                Instant::now() + wait.mul_f64(0.5 + fastrand::f64() / 2.0),
            );
        }
        // One may be lost on its way.
        if self.failures == 2 || last && self.health.borrow().is_none() {
            tracing::warn!(%error, "Redis cannot be asked: calls go on with what is lent");
            let fails = last || self.when_unavailable == WhenUnavailable::FailFast;
            if fails {
                self.health
                    .send_replace(Some(AcquireError::unavailable(error)));
            }
        }
    }

    fn recover(&mut self) {
        if self.failures >= 2 {
            tracing::info!("Redis can be asked again");
        }
        self.failures = 0;
        self.health.send_replace(None);
    }

    /// The lease of a principal has run out.
    fn lapse(&mut self, principal: &Principal) {
        let local = self.when_unavailable == WhenUnavailable::LocalShare;
        let Some(member) = self.members.get_mut(principal) else {
            return;
        };
        let rest = |share: u32, limit: Limit, procs: u32| match local {
            true => share.min(limit.number() / procs),
            false => 0,
        };
        self.inner.lend(principal, &[], |demand| {
            ((), member.lapse(demand, rest), member.is_wanted())
        });
        tracing::debug!(%principal, "a lease has run out");
    }
}

impl Drop for Driver {
    /// Nobody renews from now on: nothing may be used any more.
    fn drop(&mut self) {
        for (principal, member) in &mut self.members {
            self.inner.lend(principal, &[], |demand| {
                ((), member.lapse(demand, |_, _, _| 0), false)
            });
        }
        let ended = AcquireError::unavailable(StoreError::Ended);
        self.health.send_replace(Some(ended));
    }
}
