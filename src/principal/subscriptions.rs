//! [`SubscriptionReader`]: what becomes of EWS subscriptions by the response of a call.

use super::lease::{LeaseChange, ReadLease};
use crate::soap::{Operation, SubscriptionRequest, SubscriptionResponse};

/// The response to such a call is a few hundred bytes. Of a stream the beginning is read: it says which ids are wrong.
const MAX_READ: usize = 64 * 1024;

/// Collects the beginning of a response.
#[derive(Debug)]
pub(super) struct SubscriptionReader {
    request: SubscriptionRequest,
    body: Vec<u8>,
}

impl SubscriptionReader {
    /// None for calls that have nothing to do with subscriptions.
    pub(super) fn of(operation: Operation, body: &[u8]) -> Option<Self> {
        let request = SubscriptionRequest::of(operation, body)?;
        Some(Self {
            request,
            body: Vec::new(),
        })
    }
}

impl ReadLease for SubscriptionReader {
    fn read(&mut self, bytes: &[u8]) {
        let room = MAX_READ - self.body.len();
        self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self) -> LeaseChange {
        let said = SubscriptionResponse::of(&self.body);
        match &self.request {
            SubscriptionRequest::Create(lasts) => match said.ids.into_iter().next() {
                Some(id) if said.succeeded => LeaseChange::Begin { id, lasts: *lasts },
                _ if said.too_many => LeaseChange::Refused,
                _ => LeaseChange::None,
            },
            SubscriptionRequest::End(ids) if said.succeeded || said.lost => {
                LeaseChange::End(ids.clone())
            }
            SubscriptionRequest::Use(_) if said.lost && !said.ids.is_empty() => {
                LeaseChange::End(said.ids)
            }
            // Of several it does not say which one.
            SubscriptionRequest::Use(ids) if said.lost && ids.len() == 1 => {
                LeaseChange::End(ids.clone())
            }
            SubscriptionRequest::Use(ids) if said.succeeded => LeaseChange::Renew(ids.clone()),
            SubscriptionRequest::Use(_) | SubscriptionRequest::End(_) => LeaseChange::None,
        }
    }
}
