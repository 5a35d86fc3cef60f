//! [`Timed`]: a call that was sent, and draws on a budget that counts time.

use std::sync::Arc;

use tokio::time::Instant;

use crate::ledger::{Admission, Ledger, Permit, Signal};
use crate::principal::Budget;

/// Reports the time from sending to the response, or until the call is given up, once it is dropped.
#[derive(Debug)]
pub(super) struct Timed {
    /// None if it was not sent after all.
    since: Option<Instant>,
    ledger: Arc<dyn Ledger>,
    admission: Admission,
}

impl Timed {
    /// None if no budget of the call counts time: then no clock is read. Watched by `benches/overhead`,
    /// `concurrency_by_principal/1`.
    #[inline]
    pub(super) fn of(permit: &Permit) -> Option<Box<Self>> {
        let mut charges = permit.admission().charges().iter();
        charges
            .any(|charge| charge.budget().counts_time())
            .then(|| Self::new(permit))
    }

    #[cold]
    fn new(permit: &Permit) -> Box<Self> {
        Box::new(Self {
            since: Some(Instant::now()),
            ledger: Arc::clone(permit.ledger()),
            admission: permit.admission().clone(),
        })
    }

    /// It was not sent after all.
    pub(super) fn unsent(&mut self) {
        self.since = None;
    }
}

impl Drop for Timed {
    /// Reports what the call has taken beyond what it was charged when it was admitted.
    fn drop(&mut self) {
        let Some(since) = self.since else {
            return;
        };
        let taken = u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX);
        for budget in [Budget::BusyTime, Budget::PercentTime] {
            let mut charges = self.admission.charges().iter();
            let known = charges.find(|charge| charge.budget() == budget);
            if let Some(amount) = known.and_then(|charge| taken.checked_sub(charge.amount())) {
                self.ledger
                    .report(&self.admission, Signal::Spent { budget, amount });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use tokio::time::{Instant, sleep, timeout};
    use tower::{BoxError, Layer, ServiceExt, service_fn};

    use super::super::ConcurrencyByPrincipalLayer;
    use super::*;
    use crate::ledger::{Limit, LocalLedger};
    use crate::principal::{Charge, Charges, Principal};

    const TAKES: Duration = Duration::from_secs(2);

    /// What a call has drawn when it is over that takes two seconds, after it waited for five.
    async fn drawn(budget: Budget, fails: Option<io::ErrorKind>, given_up: bool) -> u32 {
        // What comes back in two seconds rounds to nothing.
        let bucket = Limit::PerWindow {
            limit: 10_000,
            refill: 1,
            period: Duration::from_secs(3600),
        };
        let ledger = LocalLedger::builder()
            .budget(Budget::BusyTime, bucket)
            .budget(Budget::Requests, bucket)
            .build();
        let ledger = Arc::new(ledger);
        let amy = Principal::new("amy");
        ledger.close_gate(&amy, Instant::now() + Duration::from_secs(5));
        let charges = move |_: &Request<()>| Charges::from(Charge::new(amy.clone(), budget, 1));
        let server = service_fn(move |_: Request<()>| async move {
            sleep(TAKES).await;
            match fails {
                Some(kind) => Err(BoxError::from(io::Error::from(kind))),
                None => Ok(Response::new(Full::new(Bytes::from("hello")))),
            }
        });
        let service = ConcurrencyByPrincipalLayer::new(ledger.clone(), charges).layer(server);
        let call = service.oneshot(Request::new(()));
        if given_up {
            let waits_and_takes = Duration::from_secs(5) + TAKES;
            assert!(
                timeout(waits_and_takes - Duration::from_millis(1), call)
                    .await
                    .is_err()
            );
        } else if let Ok(response) = call.await {
            // However long the body is read.
            sleep(TAKES).await;
            response.into_body().collect().await.unwrap();
        }
        let snapshot = ledger.snapshot();
        let budgets = snapshot.principals.iter().flat_map(|one| &one.budgets);
        budgets
            .filter(|one| one.budget == budget)
            .map(|one| one.held)
            .sum()
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_from_sending_to_the_response_is_spent() {
        let busy = Budget::BusyTime;
        assert_eq!(drawn(busy, None, false).await, 2_000);
        assert_eq!(drawn(busy, None, true).await, 1_999);
        let broken = Some(io::ErrorKind::ConnectionReset);
        assert_eq!(drawn(busy, broken, false).await, 2_000);
        let not_sent = Some(io::ErrorKind::ConnectionRefused);
        assert_eq!(drawn(busy, not_sent, false).await, 0);
        assert_eq!(drawn(Budget::Requests, None, false).await, 1);
    }
}
