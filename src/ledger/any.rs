//! [`AcquireAny`]: waits for the first of several requests that is admitted, whichever of them that is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::error::AcquireError;
use super::permit::{Acquire, Ledger, Permit};
use super::request::AcquireRequest;

/// A wait for one of several alternatives, such as the accounts of a pool. Works with every ledger.
///
/// Each alternative waits in the ledger's queue by itself. Only one is held: what another one was admitted for meanwhile is
/// given back, unsent, when this is dropped.
///
/// # Cancellation
///
/// Dropping it leaves all queues.
pub(crate) struct AcquireAny {
    ledger: Arc<dyn Ledger>,
    waiting: Vec<(usize, Acquire)>,
    /// Why the first alternative got no permit.
    error: Option<AcquireError>,
}

impl AcquireAny {
    pub(crate) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            waiting: Vec::new(),
            error: None,
        }
    }

    /// Acquires the first of `alternatives` that needs no wait. Otherwise all of them wait from now on.
    ///
    /// Those that are given later wait besides the earlier ones. The number of each is what the wait tells.
    pub(crate) fn offer(
        &mut self,
        alternatives: impl IntoIterator<Item = (usize, AcquireRequest)>,
    ) -> Option<(usize, Permit)> {
        let mut refused = Vec::new();
        for (number, request) in alternatives {
            match self.ledger.try_acquire(request) {
                Ok(admission) => {
                    return Some((number, Permit::new(Arc::clone(&self.ledger), admission)));
                }
                Err(request) => refused.push((number, request)),
            }
        }
        let ledger = &self.ledger;
        let acquire = |(number, request)| (number, Arc::clone(ledger).acquire(request));
        self.waiting.extend(refused.into_iter().map(acquire));
        None
    }
}

/// Fails when no alternative is left, with the error of the first one.
impl Future for AcquireAny {
    type Output = Result<(usize, Permit), AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut at = 0;
        while let Some((number, acquire)) = self.waiting.get_mut(at) {
            let number = *number;
            match acquire.as_mut().poll(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(permit)) => {
                    // The others leave their queues now, not when the caller drops this.
                    self.waiting.clear();
                    return Poll::Ready(Ok((number, permit)));
                }
                Poll::Ready(Err(error)) => {
                    drop(self.waiting.remove(at));
                    self.error.get_or_insert(error);
                }
            }
        }
        match (self.waiting.is_empty(), self.error.take()) {
            (true, Some(error)) => Poll::Ready(Err(error)),
            // Nothing was offered.
            (true, None) => Poll::Ready(Err(AcquireError::QueueFull { queued: 0 })),
            (false, error) => {
                self.error = error;
                Poll::Pending
            }
        }
    }
}

impl fmt::Debug for AcquireAny {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireAny")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::ledger::{End, Limit, LocalLedger, Signal};
    use crate::principal::{Budget, Charge, Principal};

    fn ask(account: &str) -> AcquireRequest {
        AcquireRequest::new(Principal::account(account))
    }

    fn both() -> [(usize, AcquireRequest); 2] {
        [(0, ask("a")), (1, ask("b"))]
    }

    #[tokio::test(start_paused = true)]
    async fn whichever_frees_first_is_taken_and_the_others_are_left() {
        let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
        let take = |account| Permit::try_acquire(Arc::clone(&ledger), &ask(account));
        let (a, b) = (take("a").unwrap(), take("b").unwrap());
        let mut any = AcquireAny::new(Arc::clone(&ledger));
        assert!(any.offer(both()).is_none());
        let later = tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            b.complete();
            sleep(Duration::from_secs(1)).await;
            a.complete();
        });
        let (number, permit) = any.await.unwrap();
        assert_eq!(number, 1);
        later.await.unwrap();
        // Nothing of the other alternative is held.
        assert!(take("a").is_some());
        assert!(take("b").is_none());
        drop(permit);
        assert_eq!(ledger.snapshot().queued, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_are_admitted_at_the_same_time_take_one_place() {
        let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
        let take = |account| Permit::try_acquire(Arc::clone(&ledger), &ask(account));
        let held = [take("a"), take("b")];
        let wait = |ledger: &Arc<dyn Ledger>| {
            let mut any = AcquireAny::new(Arc::clone(ledger));
            assert!(any.offer(both()).is_none());
            tokio::spawn(any)
        };
        let (first, second) = (wait(&ledger), wait(&ledger));
        tokio::task::yield_now().await;
        drop(held);
        let first = first.await.unwrap().unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!((first.0, second.0), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_was_not_taken_is_not_open() {
        let idle = Duration::from_secs(300);
        let open = Budget::OpenMailboxes;
        let ledger = LocalLedger::builder()
            .budget(open, Limit::Distinct { limit: 1, idle })
            .build();
        let ledger: Arc<dyn Ledger> = Arc::new(ledger);
        let ask = |account, mailbox| {
            let (account, mailbox) = (Principal::account(account), Principal::mailbox(mailbox));
            AcquireRequest::new(Charge::of_value(account, open, mailbox))
        };
        let start = Instant::now();
        for account in ["a", "b"] {
            let first = Permit::try_acquire(Arc::clone(&ledger), &ask(account, "old"));
            first.unwrap().complete();
        }
        let mut any = AcquireAny::new(Arc::clone(&ledger));
        assert!(
            any.offer([(0, ask("a", "amy")), (1, ask("b", "amy"))])
                .is_none()
        );
        let (number, permit) = any.await.unwrap();
        assert_eq!((number, start.elapsed()), (0, idle));
        let other = Permit::try_acquire(Arc::clone(&ledger), &ask("b", "bob"));
        assert!(other.is_some(), "b has nothing open");
        drop(permit);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_leaves_the_others() {
        let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(1));
        let take = |account| Permit::try_acquire(Arc::clone(&ledger), &ask(account)).unwrap();
        let until = Instant::now() + Duration::from_secs(3600);
        take("a").report(Signal::Busy { until });
        let mut held = take("b");
        held.set_end(End::NotSent);
        let soon = Instant::now() + Duration::from_secs(60);
        let bounded = || both().map(|(number, request)| (number, request.with_deadline(soon)));
        let mut any = AcquireAny::new(Arc::clone(&ledger));
        assert!(any.offer(bounded()).is_none());
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            drop(held);
        });
        assert_eq!(any.await.unwrap().0, 1);

        let _held = take("b");
        let mut any = AcquireAny::new(Arc::clone(&ledger));
        assert!(any.offer(bounded()).is_none());
        let error = any.await.unwrap_err();
        assert!(
            matches!(error, AcquireError::GateTooLate { .. }),
            "{error:?}"
        );
        assert_eq!(ledger.snapshot().queued, 0);
    }
}
