//! [`LeasedCall`]: a call that begins, uses or ends something that outlives calls, or whose charges learn from its response.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Buf;
use http_body::Frame;

use crate::ledger::{Leases, Permit};
use crate::principal::Lease;

/// What such a call drew on the budget, until its response says what becomes of it. Dropped before that, as with a call that is
/// given up or a response that breaks off, it gives that back.
#[derive(Debug)]
pub(super) struct LeasedCall {
    lease: Lease,
    permit: Option<Permit>,
    leases: Arc<Leases>,
}

impl LeasedCall {
    pub(super) fn new(lease: Lease, leases: &Arc<Leases>) -> Self {
        Self {
            lease,
            permit: None,
            leases: Arc::clone(leases),
        }
    }

    /// Takes over what the call drew on the budget. The rest is given back when the call ends.
    pub(super) fn split_off(&mut self, permit: &mut Permit) {
        let budget = self.lease.budget();
        self.permit = budget.and_then(|budget| permit.split(budget));
    }

    /// Reads a frame, in whatever pieces it comes, and whether the response ends with it.
    #[cold]
    pub(super) fn read<D: Buf>(this: &mut Option<Box<Self>>, frame: &Frame<D>, ends: bool) {
        if let (Some(lease), Some(data)) = (&mut *this, frame.data_ref()) {
            let mut pieces = [IoSlice::new(&[]); 16];
            let count = data.chunks_vectored(&mut pieces);
            for piece in pieces.iter().take(count) {
                lease.lease.reader().read(piece);
            }
        }
        if ends {
            Self::end(this);
        }
    }

    /// The response has ended.
    #[inline]
    pub(super) fn end(this: &mut Option<Box<Self>>) {
        if let Some(lease) = this.take() {
            (*lease).ended();
        }
    }

    #[cold]
    fn ended(mut self) {
        let change = self.lease.reader().end();
        self.leases.apply(change, self.permit.take());
    }
}

#[cfg(all(test, feature = "ews"))]
mod tests;
