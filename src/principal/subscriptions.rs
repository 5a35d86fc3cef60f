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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn envelope(inner: &str) -> String {
        format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>\
             <R xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'>{inner}</R></s:Body></s:Envelope>"
        )
    }

    /// A response with that code, and these ids.
    fn says(code: &str, ids: &[&str]) -> String {
        let ids = ids
            .iter()
            .map(|id| format!("<SubscriptionId>{id}</SubscriptionId>"));
        let ids: String = ids.collect();
        envelope(&format!("<ResponseCode>{code}</ResponseCode>{ids}"))
    }

    fn reader(operation: Operation, ids: &[&str]) -> SubscriptionReader {
        let request = says("", ids);
        SubscriptionReader::of(operation, request.as_bytes()).expect("a call about subscriptions")
    }

    #[test]
    fn what_a_response_means() {
        const LOST: &str = "ErrorSubscriptionNotFound";
        const BUSY: &str = "ErrorServerBusy";
        let ids = |ids: &[&str]| ids.iter().map(|id| Box::from(*id)).collect();
        let [one, two] = [&["A"][..], &["A", "B"]];
        let begins = LeaseChange::Begin {
            id: "A".into(),
            lasts: Duration::from_secs(3600),
        };
        let [ends, renews] = [LeaseChange::End(ids(one)), LeaseChange::Renew(ids(one))];
        for (operation, named, response, expected) in [
            (Operation::SUBSCRIBE, &[][..], says("NoError", one), begins),
            (
                Operation::SUBSCRIBE,
                &[],
                says("NoError", &[]),
                LeaseChange::None,
            ),
            // What is named in an error was not created.
            (
                Operation::SUBSCRIBE,
                &[],
                says(BUSY, one),
                LeaseChange::None,
            ),
            (
                Operation::SUBSCRIBE,
                &[],
                says("ErrorExceededSubscriptionCount", &[]),
                LeaseChange::Refused,
            ),
            (
                Operation::UNSUBSCRIBE,
                one,
                says("NoError", &[]),
                ends.clone(),
            ),
            (Operation::UNSUBSCRIBE, one, says(LOST, &[]), ends.clone()),
            (
                Operation::UNSUBSCRIBE,
                one,
                says(BUSY, &[]),
                LeaseChange::None,
            ),
            (Operation::GET_EVENTS, one, says("NoError", &[]), renews),
            (
                Operation::GET_EVENTS,
                one,
                says(BUSY, &[]),
                LeaseChange::None,
            ),
            (Operation::GET_EVENTS, one, says(LOST, &[]), ends.clone()),
            (
                Operation::GET_STREAMING_EVENTS,
                two,
                says(LOST, &[]),
                LeaseChange::None,
            ),
            (Operation::GET_STREAMING_EVENTS, two, says(LOST, one), ends),
        ] {
            let mut reader = reader(operation, named);
            for piece in response.as_bytes().chunks(100) {
                reader.read(piece);
            }
            assert_eq!(reader.end(), expected, "{operation:?} {response}");
        }
    }

    #[test]
    fn of_a_stream_the_beginning_is_kept() {
        let mut reader = reader(Operation::GET_STREAMING_EVENTS, &["A"]);
        for _ in 0..20 {
            reader.read(&[b' '; MAX_READ / 10]);
        }
        assert_eq!(reader.body.len(), 65_536);
    }
}
