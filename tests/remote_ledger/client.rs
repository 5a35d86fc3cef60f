//! The process's end of the remote ledger: it sends messages and keeps nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tower_ews::ledger::{
    Acquire, AcquireError, AcquireRequest, Admission, BudgetSnapshot, End, Ledger, Permit,
    PrincipalSnapshot, Signal, Snapshot,
};
use tower_ews::principal::Principal;

use super::backend;
use super::counts::Counts;
use super::message::{Ask, Held, Message, News, Reply, is_good};
use super::{Limits, ONE_WAY};

/// The way to the back end. It ends with its last connection.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    inbox: mpsc::UnboundedSender<Message>,
    counts: watch::Receiver<Counts>,
    ids: Arc<AtomicU64>,
}

impl Backend {
    /// Starts a back end.
    pub(crate) fn spawn(limits: Limits) -> Self {
        let (inbox, messages) = mpsc::unbounded_channel();
        let (publish, counts) = watch::channel(Counts::default());
        tokio::spawn(backend::run(limits, messages, publish));
        Self {
            inbox,
            counts,
            ids: Arc::default(),
        }
    }

    /// Connects a process.
    pub(crate) fn connect(&self) -> Arc<RemoteLedger> {
        let (outbox, sent) = mpsc::unbounded_channel();
        let (reachable, link) = watch::channel(true);
        tokio::spawn(wire(sent, link, self.inbox.clone()));
        Arc::new(RemoteLedger {
            outbox,
            reachable,
            counts: self.counts.clone(),
            ids: Arc::clone(&self.ids),
        })
    }

    /// What the back end holds now.
    pub(crate) async fn look(&self) -> Counts {
        let (reply, counts) = oneshot::channel();
        let _ = self.inbox.send(Message::Look(reply));
        counts.await.expect("the back end runs")
    }
}

/// Carries messages in their order, when there is a way.
async fn wire(
    mut sent: mpsc::UnboundedReceiver<(Instant, Message)>,
    mut link: watch::Receiver<bool>,
    inbox: mpsc::UnboundedSender<Message>,
) {
    while let Some((at, message)) = sent.recv().await {
        let mut from = at;
        if !*link.borrow_and_update() {
            // The process may end without a way back: nothing is left to carry then.
            if link.wait_for(|reachable| *reachable).await.is_err() {
                return;
            }
            from = Instant::now();
        }
        sleep_until(from + ONE_WAY).await;
        let _ = inbox.send(message);
    }
}

/// A ledger whose budgets are kept by a [`Backend`].
pub(crate) struct RemoteLedger {
    outbox: mpsc::UnboundedSender<(Instant, Message)>,
    reachable: watch::Sender<bool>,
    counts: watch::Receiver<Counts>,
    ids: Arc<AtomicU64>,
}

impl RemoteLedger {
    /// Cuts the connection, or restores it.
    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.reachable.send_replace(reachable);
    }

    /// Never blocks: what cannot be sent is queued.
    fn send(&self, message: Message) {
        let _ = self.outbox.send((Instant::now(), message));
    }
}

impl fmt::Debug for RemoteLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLedger")
            .field("reachable", &*self.reachable.borrow())
            .finish_non_exhaustive()
    }
}

fn cut_off() -> AcquireError {
    AcquireError::unavailable(io::Error::from(io::ErrorKind::NotConnected))
}

/// A call that has asked. Takes the question back when it goes away without a permit.
struct Asked {
    ledger: Arc<RemoteLedger>,
    id: u64,
    settled: bool,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.settled {
            self.ledger.send(Message::Cancel { id: self.id });
        }
    }
}

impl Ledger for RemoteLedger {
    fn acquire(self: Arc<Self>, request: AcquireRequest) -> Acquire {
        Box::pin(async move {
            let mut link = self.reachable.subscribe();
            if !*link.borrow_and_update() {
                return Err(cut_off());
            }
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            let (reply, replied) = oneshot::channel();
            let ask = Ask::from(&request);
            self.send(Message::Acquire { id, ask, reply });
            let mut asked = Asked {
                ledger: Arc::clone(&self),
                id,
                settled: false,
            };
            let replied = async {
                let reply: Reply = replied.await.map_err(|_| cut_off())?;
                sleep_until(reply.sent + ONE_WAY).await;
                Ok::<_, AcquireError>(reply.outcome)
            };
            let outcome = tokio::select! {
                biased;
                _ = link.wait_for(|reachable| !reachable) => return Err(cut_off()),
                outcome = replied => outcome?,
            };
            asked.settled = true;
            let admitted = outcome?;
            let admission = Admission::new(request, admitted.ticket, admitted.sequence);
            Ok(Permit::new(self, admission.watched(admitted.probes)))
        })
    }

    fn report(&self, admission: &Admission, signal: Signal) {
        if let Some(news) = News::of(signal) {
            let to = Held::from(admission);
            self.send(Message::Report { to, news });
        }
    }

    fn release(&self, admission: &Admission, end: End) {
        let held = Held::from(admission);
        let good = is_good(end);
        self.send(Message::Release { held, good });
    }

    fn snapshot(&self) -> Snapshot {
        let counts = self.counts.borrow();
        let now = Instant::now();
        let mut snapshot = Snapshot::default();
        snapshot.queued = counts.queued;
        let gated = counts.gated_endpoints.iter();
        snapshot.gated_endpoints = gated
            .filter_map(|(name, until)| Some((name.parse().ok()?, *until - now)))
            .collect();
        for (key, account) in &counts.accounts {
            let Ok(principal) = Principal::from_key(key) else {
                continue;
            };
            let mut told = PrincipalSnapshot::new(principal);
            told.gated = account.gated.map(|until| until - now);
            told.queued = account.queued;
            let budgets = account.budgets.iter();
            told.budgets = budgets
                .filter_map(|(name, used, limit)| {
                    Some(BudgetSnapshot::new(name.parse().ok()?, *used, *limit))
                })
                .collect();
            snapshot.principals.push(told);
        }
        snapshot
    }
}
