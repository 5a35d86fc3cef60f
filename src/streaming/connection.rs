//! [`Connection`]: a response that hangs, message by message, under a watchdog.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::timeout;

use super::end::End;
use super::notification::SubscriptionError;
use crate::body::client::ClientBody;
use crate::soap::SoapResponse;
use crate::soap::envelopes::Envelopes;
use crate::soap::notifications::StreamMessage;

/// A response that hangs. Dropping it closes it.
pub(super) struct Connection {
    body: ClientBody,
    envelopes: Envelopes,
    /// The longest silence before it is given up.
    stall_timeout: Duration,
}

impl Connection {
    pub(super) fn new(body: ClientBody, stall_timeout: Duration) -> Self {
        Self {
            body,
            envelopes: Envelopes::default(),
            stall_timeout,
        }
    }

    /// Reads the next message. One that ends the connection is an error, unless it has events.
    pub(super) async fn next(&mut self) -> Result<StreamMessage, End> {
        loop {
            if let Some(envelope) = self.envelopes.next().map_err(|_| End::Broken)? {
                let message = StreamMessage::read(&envelope).ok_or(End::Broken)?;
                return match read_error(&message, &envelope) {
                    Some(error) => Err(End::Refused(error, message.error_ids)),
                    None => Ok(message),
                };
            }
            // What has come already is read first, however late this is polled.
            let frame = timeout(self.stall_timeout, self.body.frame()).await;
            let Ok(Some(Ok(frame))) = frame else {
                return Err(End::Broken);
            };
            if let Some(data) = frame.data_ref() {
                self.envelopes.push(data).map_err(|_| End::Broken)?;
            }
        }
    }
}

/// The error that a message is, with the wait that the server asks for.
pub(super) fn read_error(message: &StreamMessage, envelope: &[u8]) -> Option<SubscriptionError> {
    let code = message.error.clone()?;
    let response = SoapResponse::parse(envelope).unwrap_or_default();
    let waits = response
        .messages
        .iter()
        .filter_map(|message| message.back_off);
    Some(SubscriptionError::Refused {
        code,
        retry_after: waits.max(),
    })
}
