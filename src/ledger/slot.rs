//! [`AdmissionSlot`]: where a layer that asks is told what its call was charged.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::permit::{Ledger, Permit};
use super::request::Admission;
use crate::wiring::{IDLE_LEDGER, TWO_LEDGERS};

/// A request extension: where a layer that asks wants to be told what its call was charged.
///
/// Who wants to know puts an empty slot into the request and keeps a clone. The layer that acquires a permit fills it, with its
/// ledger. So it is there even if the call ends in an error or is cancelled. Clones share one slot; a later
/// admission replaces an earlier one.
///
/// ```
/// use std::sync::Arc;
/// use tower_ews::ledger::{AcquireRequest, AdmissionSlot, LocalLedger, Permit};
/// use tower_ews::principal::Principal;
///
/// let slot = AdmissionSlot::new();
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(slot.clone());
///
/// // What ConcurrencyByPrincipal does further in:
/// let permit = Permit::try_acquire(
///     Arc::new(LocalLedger::in_flight(1)),
///     &AcquireRequest::new(Principal::new("contoso")),
/// );
/// request.extensions().get::<AdmissionSlot>().unwrap().fill(permit.as_ref().unwrap());
///
/// assert_eq!(slot.admission().unwrap().ticket(), 1);
/// ```
#[derive(Clone, Default)]
pub struct AdmissionSlot(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    /// An admission and the ledger that it came from.
    charged: Option<(Arc<dyn Ledger>, Admission)>,
    since: Option<Instant>,
    /// The attempt waits for something before it is sent.
    waits: bool,
}

impl AdmissionSlot {
    /// An empty slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in what `permit` stands for.
    pub fn fill(&self, permit: &Permit) {
        let charged = (Arc::clone(permit.ledger()), permit.admission().clone());
        *self.0.lock() = Slot {
            charged: Some(charged),
            since: Some(Instant::now()),
            waits: false,
        };
    }

    /// Notes that the attempt waits before it is sent: for a permit, for credentials, for its client. Until it is
    /// [filled](Self::fill) or [resumed](Self::resume), no time of the attempt passes.
    pub fn wait(&self) {
        self.0.lock().waits = true;
    }

    /// Notes that the attempt waits no more, and begins now.
    pub fn resume(&self) {
        let mut slot = self.0.lock();
        slot.since = Some(Instant::now());
        slot.waits = false;
    }

    /// Returns whether the attempt waits before it is sent.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.lock().waits
    }

    /// What the last attempt was charged.
    pub fn admission(&self) -> Option<Admission> {
        let slot = self.0.lock();
        slot.charged
            .as_ref()
            .map(|(_, admission)| admission.clone())
    }

    /// What the last attempt was charged, if it was charged to `ledger`. Asked once a response has come.
    ///
    /// Where another ledger was charged, or none, the log warns once: reports to `ledger` hold back nobody then.
    pub fn admission_of(&self, ledger: &Arc<dyn Ledger>) -> Option<Admission> {
        let slot = self.0.lock();
        match &slot.charged {
            Some((from, admission)) if Arc::ptr_eq(from, ledger) => Some(admission.clone()),
            Some(_) => {
                TWO_LEDGERS.say();
                None
            }
            None => {
                IDLE_LEDGER.say();
                None
            }
        }
    }

    /// The place in the queue that the last attempt had.
    pub fn ticket(&self) -> Option<u64> {
        let slot = self.0.lock();
        slot.charged
            .as_ref()
            .map(|(_, admission)| admission.ticket())
    }

    /// When the last attempt got its permit and was sent, or began if it has none.
    pub fn since(&self) -> Option<Instant> {
        self.0.lock().since
    }

    /// Empties the slot: another attempt begins.
    pub fn begin_attempt(&self) {
        *self.0.lock() = Slot {
            charged: None,
            since: Some(Instant::now()),
            waits: false,
        };
    }
}

impl fmt::Debug for AdmissionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AdmissionSlot")
            .field(&self.admission())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::ledger::{AcquireRequest, LocalLedger};
    use crate::principal::Principal;

    #[tokio::test(start_paused = true)]
    async fn a_slot_tells_of_the_last_attempt() {
        let [ledger, other] =
            [1, 1].map(|limit| -> Arc<dyn Ledger> { Arc::new(LocalLedger::in_flight(limit)) });
        let slot = AdmissionSlot::new();
        let told = || {
            let of_ledger = slot.admission_of(&ledger).map(|of_one| of_one.sequence());
            let admission = slot.admission().map(|of_one| of_one.sequence());
            assert_eq!(admission, of_ledger);
            (admission, slot.ticket(), slot.since())
        };
        assert_eq!(told(), (None, None, None));
        let start = Instant::now();
        slot.begin_attempt();
        assert_eq!(told(), (None, None, Some(start)));
        sleep(Duration::from_secs(1)).await;
        let request = AcquireRequest::new(Principal::new("a"));
        let permit = Permit::try_acquire(Arc::clone(&ledger), &request).unwrap();
        slot.clone().fill(&permit);
        let admitted = Some(start + Duration::from_secs(1));
        assert_eq!(told(), (Some(1), Some(1), admitted));
        assert!(slot.admission_of(&other).is_none());
        assert!(format!("{slot:?}").contains("Other(a)"));
        slot.wait();
        assert!(slot.is_waiting());
        sleep(Duration::from_secs(1)).await;
        slot.resume();
        assert!(!slot.is_waiting());
        assert_eq!(told(), (Some(1), Some(1), Some(Instant::now())));
        slot.wait();
        sleep(Duration::from_secs(1)).await;
        slot.begin_attempt();
        assert_eq!(told(), (None, None, Some(Instant::now())));
        assert!(!slot.is_waiting());
    }
}
