//! [`Member`]: an account of a pool and how it does: its calls under way, and whether it is left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::Instant;
use tower::BoxError;

use super::account::{Account, Fetch};
use crate::errors::{LeftOut, LeftOutReason};
use crate::extensions::Caller;
use crate::ledger::PrincipalSnapshot;
use crate::principal::Principal;
use crate::seconds::Seconds;

/// How long an account is left out first, and at the longest. The same as for refused access in `ServerBusyBackoff`.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How many mailboxes in a row have to be refused for one reason to show that it is the account. The same as in `ServerBusyBackoff`.
const MAILBOXES: usize = 3;

/// How one account of a pool does.
///
/// ```
/// use http::Request;
/// use tower_ews::account_pool::{Account, AccountPoolLayer};
/// use tower_ews::principal::Principal;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let pool = AccountPoolLayer::in_flight(4, |_: &Request<()>| Principal::new("contoso"))
///     .account(Account::new("key1"));
/// let accounts = pool.snapshot();
/// assert_eq!(accounts[0].caller.name(), "key1");
/// assert!(accounts[0].left_out.is_none());
/// # });
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccountSnapshot {
    /// The account.
    pub caller: Caller,
    /// How many calls it has under way.
    pub in_flight: usize,
    /// How many mailboxes it has open, as far as the pool remembers.
    pub mailboxes: usize,
    /// Why it is left out, if it is.
    pub left_out: Option<LeftOut>,
    /// What the ledger knows of it: whether it is locked out, and for how long.
    pub ledger: Option<PrincipalSnapshot>,
}

#[derive(Debug)]
pub(super) struct Member {
    account: Account,
    in_flight: AtomicUsize,
    out: Mutex<Option<Out>>,
    /// The mailboxes for which it was refused though that may be theirs, since it has worked.
    suspicious: Mutex<SmallVec<[Principal; MAILBOXES]>>,
    /// The last credentials that were rejected, and those that were fetched instead.
    renewed: tokio::sync::Mutex<Option<(HeaderValue, HeaderValue)>>,
}

/// Since when it does not work.
#[derive(Clone, Copy, Debug)]
struct Out {
    reason: LeftOutReason,
    pause: Duration,
    /// One call asks then.
    again_at: Instant,
}

/// Whether an attempt may use an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It works.
    Works,
    /// The attempt asks whether it works again.
    Asks,
    LeftOut,
}

impl Member {
    pub(super) fn new(account: Account) -> Self {
        Self {
            account,
            in_flight: AtomicUsize::new(0),
            out: Mutex::new(None),
            suspicious: Mutex::new(SmallVec::new()),
            renewed: tokio::sync::Mutex::new(None),
        }
    }

    pub(super) fn caller(&self) -> &Caller {
        self.account.caller()
    }

    /// Begins to fetch the credentials, if it has any.
    pub(super) fn fetch(
        self: &Arc<Self>,
        rejected: Option<HeaderValue>,
        claim: Claim,
    ) -> Option<Fetch> {
        let Some(rejected) = rejected else {
            return self.account.fetch(None);
        };
        let member = Arc::clone(self);
        Some(Box::pin(async move { member.renew(rejected, claim).await }))
    }

    /// Fetches other credentials than those that were rejected: once for all attempts that had these.
    async fn renew(&self, rejected: HeaderValue, claim: Claim) -> Result<HeaderValue, BoxError> {
        let mut last = self.renewed.lock().await;
        // What was fetched before it was left out was refused, too.
        let known = last.as_ref().filter(|_| claim != Claim::Asks);
        if let Some((_, fresh)) = known.filter(|(old, _)| *old == rejected) {
            return Ok(fresh.clone());
        }
        let left_out = claim == Claim::Works && !self.is_available(Instant::now());
        let fetch = match left_out {
            // There were none to be had for another attempt.
            true => None,
            false => self.account.fetch(Some(rejected.clone())),
        };
        let Some(fetch) = fetch else {
            return Ok(rejected);
        };
        let mut fresh = fetch.await?;
        fresh.set_sensitive(true);
        if fresh != rejected {
            *last = Some((rejected, fresh.clone()));
        }
        Ok(fresh)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether an attempt may wait for it.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        self.out.lock().is_none_or(|out| out.again_at <= now)
    }

    /// Decides whether an attempt that is about to be sent may use it. One that asks keeps others from asking for a while.
    pub(super) fn claim(&self, now: Instant) -> Claim {
        match &mut *self.out.lock() {
            None => Claim::Works,
            Some(out) if out.again_at <= now => {
                out.again_at = now + out.pause;
                Claim::Asks
            }
            Some(_) => Claim::LeftOut,
        }
    }

    /// Leaves it out from now on. `claim` is what the attempt was told that shows it.
    pub(super) fn leave_out(&self, reason: LeftOutReason, claim: Claim, now: Instant) {
        let mut out = self.out.lock();
        let pause = match (&*out, claim) {
            // Another attempt has shown it, and the server may be asked again only then.
            (Some(_), Claim::Works | Claim::LeftOut) => return,
            (Some(known), Claim::Asks) => (known.pause * 2).min(LONGEST_PAUSE),
            (None, _) => FIRST_PAUSE,
        };
        *out = Some(Out {
            reason,
            pause,
            again_at: now + pause,
        });
        tracing::warn!(
            target: "tower_ews::account_pool",
            account = self.caller().name(),
            %reason,
            again_in = %Seconds(pause),
            "account left out"
        );
    }

    /// It was refused for a reason that may be the mailbox's. Leaves it out if that has happened for several mailboxes.
    pub(super) fn suspect(
        &self,
        reason: LeftOutReason,
        mailbox: Option<&Principal>,
        claim: Claim,
        now: Instant,
    ) {
        let Some(mailbox) = mailbox else {
            return;
        };
        let mut suspicious = self.suspicious.lock();
        if !suspicious.contains(mailbox) {
            suspicious.push(mailbox.clone());
        }
        if suspicious.len() >= MAILBOXES {
            suspicious.clear();
            drop(suspicious);
            self.leave_out(reason, claim, now);
        }
    }

    /// An attempt that was told so has shown that it works.
    pub(super) fn works(&self, claim: Claim) {
        self.suspicious.lock().clear();
        if claim != Claim::Asks {
            return;
        }
        if self.out.lock().take().is_some() {
            let account = self.caller().name();
            tracing::info!(target: "tower_ews::account_pool", account, "account works again");
        }
    }

    pub(super) fn left_out(&self, now: Instant) -> Option<LeftOut> {
        let out = (*self.out.lock())?;
        let again_in = out.again_at.saturating_duration_since(now);
        Some(LeftOut::new(self.caller().clone(), out.reason, again_in))
    }
}

/// Counts one call that is under way.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Member>);

impl InFlight {
    pub(super) fn of(member: &Arc<Member>) -> Self {
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(member))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_mailboxes_in_a_row_are_enough() {
        let (member, now) = (Member::new(Account::new("svc")), Instant::now());
        let refused = |mailbox: &str| {
            let mailbox = Principal::mailbox(mailbox);
            let reason = LeftOutReason::Disabled;
            member.suspect(reason, Some(&mailbox), Claim::Works, now);
            !member.is_available(now)
        };
        for _ in 0..5 {
            assert!(!refused("amy"), "one mailbox says nothing of the account");
        }
        assert!(!refused("bob"));
        member.works(Claim::Works);
        assert!(!refused("amy") && !refused("bob"));
        assert!(refused("carl"));
    }

    #[test]
    fn one_that_is_left_out_is_asked_after_growing_pauses_by_one_call() {
        let (member, start) = (Member::new(Account::new("svc")), Instant::now());
        assert_eq!(member.claim(start), Claim::Works);
        member.leave_out(LeftOutReason::Refused, Claim::Works, start);
        // The calls that were under way say the same.
        member.leave_out(LeftOutReason::Refused, Claim::Works, start);
        let mut asked = Vec::new();
        for second in 0..3 * 60 * 60 {
            let now = start + Duration::from_secs(second);
            if !member.is_available(now) {
                assert_eq!(member.claim(now), Claim::LeftOut);
                continue;
            }
            assert_eq!(member.claim(now), Claim::Asks);
            assert_eq!(member.claim(now), Claim::LeftOut, "one asks");
            member.leave_out(LeftOutReason::Disabled, Claim::Asks, now);
            asked.push(second / 60);
        }
        assert_eq!(asked, [1, 3, 7, 15, 31, 63, 123]);
        let now = start + Duration::from_secs(4 * 60 * 60);
        let told = member.left_out(now).unwrap().to_string();
        assert!(told.starts_with("svc (disabled, "), "{told}");
        // What began before says nothing of now.
        member.works(Claim::Works);
        assert!(member.left_out(now).is_some());
        assert_eq!(member.claim(now), Claim::Asks);
        member.works(Claim::Asks);
        assert_eq!(member.claim(now), Claim::Works);
    }
}
