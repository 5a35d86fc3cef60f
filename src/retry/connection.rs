//! [`Connection`]: the connection that an attempt goes over, so that the next one can go over another.

use http::Request;
#[cfg(feature = "client")]
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};

/// The connection of one request, where the client is hyper-util's.
#[derive(Debug)]
pub(crate) struct Connection {
    #[cfg(feature = "client")]
    captured: CaptureConnection,
}

impl Connection {
    /// Watches for the connection that `request` will be sent over.
    pub(crate) fn of<B>(request: &mut Request<B>) -> Self {
        #[cfg(not(feature = "client"))]
        let _ = request;
        Self {
            #[cfg(feature = "client")]
            captured: capture_connection(request),
        }
    }

    /// Takes it out of the client's pool. Other requests on it are not disturbed.
    pub(crate) fn leave(&self) {
        #[cfg(feature = "client")]
        if let Some(connection) = &*self.captured.connection_metadata() {
            connection.poison();
        }
    }
}
