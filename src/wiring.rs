//! Warnings about layers that are put together in a way that cannot work as meant. Each is logged once, and names the cure.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A warning that one process logs once.
pub(crate) struct Warning {
    text: &'static str,
    said: AtomicBool,
}

/// A layer reports to one ledger, and a layer further in acquires from another one.
pub(crate) static TWO_LEDGERS: Warning = Warning::new(
    "a response was to be reported to one ledger, but its call was admitted by another one, so a refusal does not hold back \
     waiting calls: give `ServerBusyBackoffLayer::ledger` and `ConcurrencyByPrincipalLayer::new` clones of one `Arc<dyn Ledger>`",
);

/// A layer reports to a ledger, and nothing further in acquires from any.
pub(crate) static IDLE_LEDGER: Warning = Warning::new(
    "a response was to be reported to a ledger from which its call has acquired nothing, so a refusal does not hold back \
     waiting calls: put `ConcurrencyByPrincipal` with the same ledger inside of `ServerBusyBackoff`",
);

/// A layer acquires from one ledger for an attempt, and a layer further in from another one.
pub(crate) static POOL_LEDGER: Warning = Warning::new(
    "an attempt was admitted by the ledger of an account pool, and again by another one, so its account is not charged while it \
     runs: give `AccountPoolLayer::ews` (or `http`) and `ConcurrencyByPrincipalLayer::new` clones of one `Arc<dyn Ledger>`",
);

/// `ClientRequestId` stands outside of a layer that sends again.
pub(crate) static ONE_ID_FOR_ALL_ATTEMPTS: Warning = Warning::new(
    "several attempts of a call were sent with one `client-request-id`: put `ClientRequestId` inside of the layer that sends \
     again, such as `ServerBusyBackoff`",
);

/// A request has an id that `ClientRequestId` does not see.
pub(crate) static UNSEEN_REQUEST_ID: Warning = Warning::new(
    "a request has an `x-request-id`, but no `RequestId` of the tower-http that this crate uses in its extensions, so it is sent \
     with another `client-request-id`: use the same version of tower-http (0.7), or set `client-request-id`",
);

/// A layer for plain HTTP APIs is sent EWS calls.
pub(crate) static UNREAD_SOAP: Warning = Warning::new(
    "a call to an `Exchange.asmx` goes through a ServerBusyBackoff that reads statuses and headers alone, so a refusal that is a SOAP \
     fault or a response message is handed on: use `ServerBusyBackoffLayer::ews` or `EwsClassifier` (feature `ews`)",
);

/// A stack for EWS has the numbers of Graph.
#[cfg(feature = "ews")]
pub(crate) static GRAPH_POLICY: Warning = Warning::new(
    "an `EwsStack` was given Graph's limits, which are not those of EWS (4 calls at a time, where Exchange Online allows 27): use \
     a preset of Exchange, such as `ThrottlingPolicy::exchange_online`",
);

/// Ledgers are dropped after hardly a call.
pub(crate) static LEDGER_PER_CALL: Warning = Warning::new(
    "a hundred ledgers were dropped after three calls at most, so that they have held nothing back: make one `EwsStack` (or ledger) \
     when the program begins, and clone its service for each call",
);

/// How many ledgers were dropped after hardly a call.
static SHORT_LIVED: AtomicU32 = AtomicU32::new(0);

/// A ledger is dropped that has admitted so many calls.
pub(crate) fn ledger_dropped(admitted: u64) {
    if (1..=3).contains(&admitted) && SHORT_LIVED.fetch_add(1, Ordering::Relaxed) == 99 {
        LEDGER_PER_CALL.say();
    }
}

impl Warning {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self {
            text,
            said: AtomicBool::new(false),
        }
    }

    /// Whether it was logged before.
    pub(crate) fn was_said(&self) -> bool {
        self.said.load(Ordering::Relaxed)
    }

    /// Logs it, unless that was done before.
    #[cold]
    #[inline(never)]
    pub(crate) fn say(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(target: "tower_ews::wiring", "{}", self.text);
        }
    }
}
