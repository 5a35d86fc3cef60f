//! What the errors of HTTP clients prove: hyper-util's, hyper's, h2's, reqwest's and plain I/O errors.

use std::error::Error as StdError;
use std::io;

use crate::errors::{BackoffError, CredentialsError, CutShort, DeadlineElapsed};
use crate::ledger::AcquireError;

/// What an error proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing was sent: the request may be sent again.
    NotSent,
    /// The answer was lost: the request may have been executed.
    Lost,
    /// No waiting cures it, or nothing is known about it: the error goes on to the caller as it is.
    Permanent,
}

impl Failure {
    /// What `error`, or the first of its sources that is known, proves.
    ///
    /// - [`NotSent`](Self::NotSent): name resolution, connecting or TLS failed (feature `client`: hyper-util's
    ///   connect errors; feature `reqwest`: reqwest's), the connection was refused, the request was still queued when
    ///   its connection closed, HTTP/2's REFUSED_STREAM came, or a ledger gave no permit
    ///   ([`AcquireError`](crate::ledger::AcquireError)), or the call's deadline had passed before
    ///   ([`DeadlineElapsed`], [`BackoffError::NotSent`]), or there were no credentials ([`CredentialsError`]). Also [`BackoffError::DeadlinePassed`], after which nothing is
    ///   changed on the server.
    /// - [`Lost`](Self::Lost): [`BackoffError::OutcomeUnknown`], whatever its source; any other [`std::io::Error`], error
    ///   of hyper, h2 or reqwest, and elapsed time-outs of tower and tokio.
    /// - [`Permanent`](Self::Permanent): all else.
    ///
    /// ```
    /// use std::io;
    /// use tower_ews::server_busy_backoff::Failure;
    ///
    /// let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
    /// assert_eq!(Failure::of(&refused), Failure::NotSent);
    /// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
    /// assert_eq!(Failure::of(&reset), Failure::Lost);
    /// ```
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        failure(error)
    }
}

/// Walks the source chain. A proof that nothing was sent outweighs the outer error that merely reports a failure.
fn failure(error: &(dyn StdError + 'static)) -> Failure {
    let mut found = Failure::Permanent;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(verdict) = verdict(error) {
            return verdict;
        }
        match one(error) {
            Some(Failure::Lost) => found = Failure::Lost,
            Some(proof) => return proof,
            None => {}
        }
        next = source(error);
    }
    found
}

/// What the crate's own layers know better than the sources of their errors tell.
fn verdict(error: &(dyn StdError + 'static)) -> Option<Failure> {
    if error.is::<AcquireError>() || error.is::<DeadlineElapsed>() || error.is::<CredentialsError>()
    {
        return Some(Failure::NotSent);
    }
    error.downcast_ref().map(|error| match error {
        BackoffError::OutcomeUnknown { .. } => Failure::Lost,
        BackoffError::DeadlinePassed { .. } | BackoffError::NotSent { .. } => Failure::NotSent,
    })
}

fn source<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // The source of an I/O error is the source of the error that it wraps, which would then be passed over.
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn one(error: &(dyn StdError + 'static)) -> Option<Failure> {
    #[cfg(feature = "reqwest")]
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        if error.is_connect() {
            return Some(Failure::NotSent);
        }
        let unsendable = error.is_builder();
        return Some(if unsendable {
            Failure::Permanent
        } else {
            Failure::Lost
        });
    }
    #[cfg(feature = "client")]
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
        // The others wrap an error of hyper, or (without one) tell that the request cannot be sent as it is.
        return error.is_connect().then_some(Failure::NotSent);
    }
    #[cfg(feature = "client")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // "Canceled" is a request that its connection gave back before it was begun.
        let proof = if error.is_canceled() {
            Failure::NotSent
        } else {
            Failure::Lost
        };
        return Some(proof);
    }
    #[cfg(any(feature = "client", feature = "reqwest"))]
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        // RFC 9113, section 8.7: a refused stream was not processed at all.
        let refused = error.is_reset()
            && error.is_remote()
            && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        return Some(if refused {
            Failure::NotSent
        } else {
            Failure::Lost
        });
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::NotSent,
            _ => Failure::Lost,
        });
    }
    let lost = error.is::<CutShort>()
        || error.is::<tower::timeout::error::Elapsed>()
        || error.is::<tokio::time::error::Elapsed>();
    lost.then_some(Failure::Lost)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tower::BoxError;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("a layer's own error")]
    struct Wrapper(#[source] BoxError);

    fn wrapped(error: impl Into<BoxError>) -> Wrapper {
        Wrapper(error.into())
    }

    #[test]
    fn plain_errors() {
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, Failure::NotSent),
            (io::ErrorKind::ConnectionReset, Failure::Lost),
            (io::ErrorKind::BrokenPipe, Failure::Lost),
            (io::ErrorKind::UnexpectedEof, Failure::Lost),
            (io::ErrorKind::TimedOut, Failure::Lost),
            (io::ErrorKind::Other, Failure::Lost),
        ] {
            let error = io::Error::from(kind);
            assert_eq!(failure(&error), expected, "{kind:?}");
            assert_eq!(failure(&wrapped(error)), expected, "{kind:?} wrapped");
        }
        assert_eq!(
            failure(&wrapped(tower::timeout::error::Elapsed::new())),
            Failure::Lost
        );
        assert_eq!(failure(&wrapped("no idea")), Failure::Permanent);
    }

    #[test]
    fn the_word_of_a_layer_outweighs_its_source() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused).into();
        let (operation, attempts) = (Box::from("CreateItem"), 2);
        let unknown = BackoffError::OutcomeUnknown {
            operation,
            attempts,
            source: refused(),
        };
        assert_eq!(failure(&wrapped(unknown)), Failure::Lost);
        let (operation, attempts) = (Box::from("GetItem"), 2);
        let passed = BackoffError::DeadlinePassed {
            operation,
            attempts,
            source: io::Error::from(io::ErrorKind::ConnectionReset).into(),
        };
        assert_eq!(failure(&wrapped(passed)), Failure::NotSent);
        let full = AcquireError::QueueFull { queued: 7 };
        assert_eq!(failure(&wrapped(full)), Failure::NotSent);
        let not_sent = BackoffError::NotSent {
            operation: "CreateItem".into(),
            at: tokio::time::Instant::now(),
            closed_until: None,
            source: io::Error::from(io::ErrorKind::ConnectionReset).into(),
        };
        assert_eq!(failure(&wrapped(not_sent)), Failure::NotSent);
    }

    #[test]
    fn looks_into_wrapped_io_errors() {
        let refused = io::Error::other(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(failure(&wrapped(refused)), Failure::NotSent);
        let refused = io::Error::other(h2_reset(h2::Reason::REFUSED_STREAM));
        // A reset that this side made proves nothing about the other side.
        assert_eq!(failure(&refused), Failure::Lost);
    }

    fn h2_reset(reason: h2::Reason) -> h2::Error {
        reason.into()
    }

    fn client() -> Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>> {
        Client::builder(TokioExecutor::new()).build_http()
    }

    async fn send(address: std::net::SocketAddr) -> hyper_util::client::legacy::Error {
        let request = http::Request::post(format!("http://{address}/"))
            .body(Full::default())
            .unwrap();
        client().request(request).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_closed_port_and_a_cut_connection_of_hyper_util() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            assert!(socket.read(&mut buffer).await.unwrap() > 0);
            drop(socket);
            drop(listener);
        });
        let cut = send(address).await;
        assert_eq!(failure(&cut), Failure::Lost, "{cut:?}");
        server.await.unwrap();
        let refused = send(address).await;
        assert_eq!(failure(&refused), Failure::NotSent, "{refused:?}");
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_sent_is_permanent() {
        let request = http::Request::post("/relative")
            .body(Full::<Bytes>::default())
            .unwrap();
        let error = client().request(request).await.unwrap_err();
        assert_eq!(failure(&error), Failure::Permanent, "{error:?}");
    }

    #[tokio::test]
    async fn a_stream_that_the_server_refuses() {
        for (reason, expected) in [
            (h2::Reason::REFUSED_STREAM, Failure::NotSent),
            (h2::Reason::CANCEL, Failure::Lost),
            (h2::Reason::INTERNAL_ERROR, Failure::Lost),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (socket, _) = listener.accept().await.unwrap();
                let mut connection = h2::server::handshake(socket).await.unwrap();
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_reset(reason);
                std::future::poll_fn(|cx| connection.poll_closed(cx)).await
            });
            let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http();
            let request = http::Request::post(format!("http://{address}/"))
                .body(Full::default())
                .unwrap();
            let error = client.request(request).await.unwrap_err();
            assert_eq!(failure(&error), expected, "{error:?}");
            server.abort();
        }
    }

    #[cfg(feature = "reqwest")]
    #[tokio::test]
    async fn reqwests_errors() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            assert!(socket.read(&mut buffer).await.unwrap() > 0);
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let lost = client.post(&url).body("x").send().await.unwrap_err();
        assert_eq!(failure(&lost), Failure::Lost, "{lost:?}");
        server.await.unwrap();
        let refused = client.post(&url).send().await.unwrap_err();
        assert_eq!(failure(&refused), Failure::NotSent, "{refused:?}");
        let invalid = client.post("no url").send().await.unwrap_err();
        assert_eq!(failure(&invalid), Failure::Permanent, "{invalid:?}");
    }
}
