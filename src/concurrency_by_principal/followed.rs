//! [`Followed`]: a call that is followed for more than its end.

use std::sync::Arc;

use bytes::Buf;
use http_body::Frame;

use super::leased::LeasedCall;
use super::timed::Timed;
use crate::ledger::{Leases, Permit};
use crate::principal::{Charges, Lease};

/// A call that draws on a budget which counts time, or whose response says something about a lease. Most calls are neither, so it is in
/// a box, and what it does is cold.
#[derive(Debug)]
pub(super) struct Followed {
    counts_time: bool,
    /// Since it was sent, if it counts time.
    timed: Option<Timed>,
    leased: Option<LeasedCall>,
}

impl Followed {
    // On the hot path: watched by `benches/overhead`, `concurrency_by_principal/1`.
    #[inline]
    pub(super) fn of(
        charges: &Charges,
        lease: Option<Lease>,
        leases: &Arc<Leases>,
    ) -> Option<Box<Self>> {
        let counts_time = charges.iter().any(|charge| charge.budget().counts_time());
        (counts_time || lease.is_some()).then(|| Self::new(counts_time, lease, leases))
    }

    #[cold]
    fn new(counts_time: bool, lease: Option<Lease>, leases: &Arc<Leases>) -> Box<Self> {
        Box::new(Self {
            counts_time,
            timed: None,
            leased: lease.map(|lease| LeasedCall::new(lease, leases)),
        })
    }

    /// The call goes to the server now.
    #[cold]
    pub(super) fn sent(&mut self, permit: &Permit) {
        self.timed = self.counts_time.then(|| Timed::new(permit));
    }

    /// It did not get there.
    #[cold]
    pub(super) fn unsent(&mut self) {
        if let Some(timed) = self.timed.take() {
            timed.unsent();
        }
    }

    /// Its response has come: nothing is left if that was all.
    #[cold]
    pub(super) fn responded(this: &mut Option<Box<Self>>, permit: &mut Permit) {
        let Some(followed) = this else { return };
        followed.timed = None;
        match &mut followed.leased {
            Some(leased) => leased.split_off(permit),
            None => *this = None,
        }
    }

    /// Reads a frame of the response, and whether the response ends with it.
    #[cold]
    pub(super) fn read<D: Buf>(this: &mut Option<Box<Self>>, frame: &Frame<D>, ends: bool) {
        let leased = this.as_mut().and_then(|followed| followed.leased.as_mut());
        if let (Some(leased), Some(data)) = (leased, frame.data_ref()) {
            leased.read(data);
        }
        if ends {
            Self::end(this);
        }
    }

    /// The response has ended.
    #[cold]
    pub(super) fn end(this: &mut Option<Box<Self>>) {
        if let Some(leased) = this.take().and_then(|followed| followed.leased) {
            leased.end();
        }
    }
}
