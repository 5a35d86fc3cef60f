//! [`Failure`]: what the errors of HTTP clients prove. Knows hyper-util, hyper, h2, reqwest and plain I/O errors.

use std::error::Error as StdError;
use std::io;

use crate::errors::{
    AccessDenied, AttemptTimedOut, BackoffError, CredentialsError, CutShort, DeadlineElapsed,
    JournalError, NoAccount, NoResponseInTime, Stalled, UnknownCoding,
};
use crate::ledger::AcquireError;

/// What an error proves.
///
/// ```
/// use tower_ews::server_busy_backoff::Failure;
///
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// assert_eq!(Failure::of(&refused), Failure::NotSent);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The request was not executed, since it was not sent: it may be sent again.
    NotSent,
    /// The response was lost: the request may have been executed.
    Lost,
    /// Waiting will not help, or the error is unknown: it is returned to the caller.
    Permanent,
}

impl Failure {
    /// Returns what `error`, or the first of its sources that is known, proves.
    ///
    /// - [`NotSent`](Self::NotSent):
    ///   - Name resolution, connecting or TLS failed: hyper-util's connect errors, reqwest's too; I/O errors that a socket
    ///     in use does not report; failed look-ups.
    ///   - The request was still queued when its connection closed, or HTTP/2's REFUSED_STREAM came (features `client`
    ///     and `reqwest`).
    ///   - A ledger gave no permit ([`AcquireError`](crate::ledger::AcquireError)), or the deadline had already passed
    ///     ([`DeadlineElapsed`], [`BackoffError::NotSent`]), or there were no credentials ([`CredentialsError`]), or no
    ///     account that works ([`NoAccount`](crate::account_pool::NoAccount)), or access was refused before ([`AccessDenied`]).
    ///   - [`BackoffError::DeadlinePassed`] and [`BackoffError::RetriesExhausted`], after which nothing has changed on the
    ///     server.
    /// - [`Lost`](Self::Lost): [`BackoffError::OutcomeUnknown`], whatever its source; any other [`std::io::Error`] or error
    ///   of hyper, h2 or reqwest; elapsed time-outs of tower and tokio. Also "host unreachable" and "network unreachable"
    ///   outside of a connect error, since connections in use report them, too.
    /// - [`Permanent`](Self::Permanent): everything else.
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

/// Walks the source chain. A proof that nothing was sent outweighs an outer error that only reports a failure.
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

/// What this crate's layers say. They know more than the sources of their errors.
fn verdict(error: &(dyn StdError + 'static)) -> Option<Failure> {
    let unsent = error.is::<AcquireError>()
        || error.is::<DeadlineElapsed>()
        || error.is::<CredentialsError>()
        || error.is::<NoAccount>()
        || error.is::<JournalError>()
        || error.is::<AccessDenied>();
    if unsent {
        return Some(Failure::NotSent);
    }
    error.downcast_ref().map(|error| match error {
        BackoffError::OutcomeUnknown { .. } => Failure::Lost,
        BackoffError::DeadlinePassed { .. }
        | BackoffError::RetriesExhausted { .. }
        | BackoffError::NotSent { .. } => Failure::NotSent,
    })
}

/// Returns whether an attempt was given up because nothing came any more. The server may still be at work on it.
pub(crate) fn took_too_long(error: &(dyn StdError + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |&error| source(error));
    chain.any(|error| error.is::<AttemptTimedOut>() || error.is::<Stalled>())
}

/// Returns whether no attempt can reach the server before somebody changes the client or the server: a certificate that is
/// not trusted, or a URL whose scheme the client does not take.
pub(crate) fn needs_a_person(error: &(dyn StdError + 'static)) -> bool {
    /// Of hyper-rustls' connector, and of hyper-util's.
    const TEXTS: [&str; 4] = [
        "unsupported scheme ",
        "missing scheme",
        "invalid URL, scheme is ",
        "invalid peer certificate: ",
    ];
    let mut chain = std::iter::successors(Some(error), |&error| source(error));
    chain.any(|error| {
        let text = error.to_string();
        TEXTS.iter().any(|known| text.starts_with(known))
    })
}

/// Returns the next error of the chain.
pub(crate) fn source<'a>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a (dyn StdError + 'static)> {
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
        // The others wrap an error of hyper. Without a source, the request cannot be sent as it is.
        return error.is_connect().then_some(Failure::NotSent);
    }
    #[cfg(feature = "client")]
    if let Some(error) = error.downcast_ref::<hyper::Error>() {
        // A request is canceled if its connection closes before it is begun.
        let proof = if error.is_canceled() {
            Failure::NotSent
        } else {
            Failure::Lost
        };
        return Some(proof);
    }
    #[cfg(any(feature = "client", feature = "reqwest"))]
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        // RFC 9113, section 8.7: a refused stream was not processed.
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
        return Some(match was_sending(error) {
            false => Failure::NotSent,
            true => Failure::Lost,
        });
    }
    if is_connect_error(error) {
        return Some(Failure::NotSent);
    }
    let lost = error.is::<CutShort>()
        || error.is::<UnknownCoding>()
        || error.is::<NoResponseInTime>()
        || error.is::<AttemptTimedOut>()
        || error.is::<Stalled>()
        || error.is::<tower::timeout::error::Elapsed>()
        || error.is::<tokio::time::error::Elapsed>();
    lost.then_some(Failure::Lost)
}

/// Returns false for the I/O errors of a look-up, of choosing a local address, and of a refused connection: they cannot
/// come from a connection in use.
fn was_sending(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::AddrInUse => false,
        // A failed look-up has no kind of its own. The texts are the standard library's and tokio's.
        _ => {
            let text = error.to_string();
            !text.starts_with("failed to lookup address information")
                && text != "could not resolve to any address"
        }
    }
}

/// Recognises the connect errors of hyper-util by their texts, where its types are not known: without the feature `client`,
/// within another client, or of another version.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    /// Of hyper-util's client, and of its `HttpConnector`.
    const TEXTS: [&str; 4] = [
        "client error (Connect)",
        "dns error",
        "tcp connect error",
        "tcp open error",
    ];
    TEXTS.contains(&error.to_string().as_str())
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
            (io::ErrorKind::AddrNotAvailable, Failure::NotSent),
            (io::ErrorKind::AddrInUse, Failure::NotSent),
            // TCP reports them for a connection in use, too, instead of a time-out.
            (io::ErrorKind::HostUnreachable, Failure::Lost),
            (io::ErrorKind::NetworkUnreachable, Failure::Lost),
            (io::ErrorKind::ConnectionAborted, Failure::Lost),
            (io::ErrorKind::NotConnected, Failure::Lost),
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
    fn each_layer_that_sends_nothing_says_so() {
        let source = || BoxError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let caller = crate::extensions::Caller::new("svc@contoso.com");
        let refused = AccessDenied::new(
            http::StatusCode::FORBIDDEN,
            crate::errors::AccessScope::Caller,
            std::time::Duration::ZERO,
        );
        let deadline = crate::extensions::Deadline(tokio::time::Instant::now());
        let errors: [BoxError; 4] = [
            AcquireError::QueueFull { queued: 1 }.into(),
            DeadlineElapsed::at(deadline).into(),
            // Whatever became of the request for them.
            CredentialsError::new(caller, source()).into(),
            refused.into(),
        ];
        for error in errors {
            assert_eq!(failure(&*error), Failure::NotSent, "{error}");
        }
    }

    /// An error of a client that this crate does not know.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Unknown(&'static str, #[source] io::Error);

    #[test]
    fn connect_errors_are_recognised_without_their_types() {
        for (text, expected) in [
            ("client error (Connect)", Failure::NotSent),
            ("dns error", Failure::NotSent),
            ("tcp connect error", Failure::NotSent),
            ("tcp open error", Failure::NotSent),
            ("client error (SendRequest)", Failure::Lost),
            (
                "error sending request for url (http://contoso.com/)",
                Failure::Lost,
            ),
            ("the server said: client error (Connect)", Failure::Lost),
            ("", Failure::Lost),
        ] {
            for kind in [
                io::ErrorKind::TimedOut,
                io::ErrorKind::HostUnreachable,
                io::ErrorKind::UnexpectedEof,
                io::ErrorKind::Other,
            ] {
                let error = || Unknown(text, kind.into());
                assert_eq!(failure(&error()), expected, "{text}, {kind:?}");
                assert_eq!(failure(&wrapped(error())), expected, "{text}, {kind:?}");
            }
        }
    }

    #[test]
    fn what_no_wait_cures() {
        for (text, expected) in [
            ("invalid peer certificate: UnknownIssuer", true),
            ("unsupported scheme http", true),
            ("missing scheme", true),
            ("invalid URL, scheme is not http", true),
            ("received fatal alert: InternalError", false),
            ("the text: invalid peer certificate: UnknownIssuer", false),
            ("tcp connect error", false),
        ] {
            let error = || io::Error::new(io::ErrorKind::InvalidData, text);
            assert_eq!(needs_a_person(&error()), expected, "{text}");
            assert_eq!(needs_a_person(&wrapped(error())), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn a_failed_look_up_was_not_sent() {
        for host in ["no.such.host.invalid:80", "[::1%nowhere]:80"] {
            let error = tokio::net::lookup_host(host).await.map(drop).unwrap_err();
            let lookup = error.to_string().starts_with("failed to lookup");
            if lookup {
                assert_eq!(failure(&wrapped(error)), Failure::NotSent, "{host}");
            }
        }
        for (text, expected) in [
            (
                "failed to lookup address information: Name or service not known",
                Failure::NotSent,
            ),
            ("could not resolve to any address", Failure::NotSent),
            (
                "the server failed to lookup address information",
                Failure::Lost,
            ),
        ] {
            assert_eq!(failure(&io::Error::other(text)), expected, "{text}");
        }
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
        // Known by its text as well, and so are its sources.
        assert!(is_connect_error(&refused), "{refused}");
        let source = refused.source().unwrap();
        assert!(is_connect_error(source), "{source}");
        assert!(!is_connect_error(&cut), "{cut}");
    }

    #[tokio::test]
    async fn a_failed_look_up_of_hyper_util() {
        let request = http::Request::post("http://no.such.host.invalid/")
            .body(Full::default())
            .unwrap();
        let error = client().request(request).await.unwrap_err();
        assert_eq!(failure(&error), Failure::NotSent, "{error:?}");
        assert!(is_connect_error(&error), "{error}");
        let source = error.source().unwrap();
        assert_eq!(source.to_string(), "dns error");
        assert_eq!(failure(source), Failure::NotSent, "{source:?}");
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
