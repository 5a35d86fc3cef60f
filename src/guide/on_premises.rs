//! Exchange Server that offers NTLM or Negotiate only: how the layers stand above them.
//!
//! Both authenticate a connection, not a request: whatever comes over it later is the same account's, in HTTP/1.1. So the client beneath
//! the stack has to keep connections by credential. The stack itself needs no more than for Basic.
//!
//! `examples/ntlm` is such a client, with a server that checks it. It is a package of its own, since it needs Rust 1.93:
//!
//! ```text
//! cargo run --release --manifest-path examples/ntlm/Cargo.toml
//! ```
//!
//! | part | from |
//! | --- | --- |
//! | the messages of NTLM, and the channel binding in them | [sspi](https://docs.rs/sspi) |
//! | one pool of connections for each credential and server | hyper-util's `client::pool`: a `map` of `cache`s |
//! | the credential of each attempt | [`EwsStack::credentials`](crate::EwsStack::credentials), as for Basic; the client takes the header off and logs in with it |
//!
//! What such a client has to do:
//!
//! - **An empty first leg.** The first message goes out without the body, which would be sent twice otherwise, but with the
//!   `client-request-id` and the anchor of the call, by which a load balancer picks the server.
//! - **All legs in one call of the client.** Then they are one attempt: one permit, one request id, one record. The client's own 401s never
//!   reach the layers; the one of a wrong password does, and is not repeated until an account is locked.
//! - **A connection for each credential**, and for one call at a time: from the first leg until the end of the response. A change of the
//!   password makes other connections.
//! - **The channel binding** `tls-server-end-point` (RFC 5929). Where Extended Protection is required, Exchange refuses a login without it. A
//!   proxy that ends TLS in between breaks it.
//! - **A login that the server has forgotten** is made again, once. A 401 on a connection that was logged in has executed nothing.
//! - **Errors before the call was sent** say so, as an I/O error `ConnectionRefused` does:
//!   [`Failure::NotSent`](crate::server_busy_backoff::Failure::NotSent). Then any operation may be sent again.
//!
//! # Kerberos
//!
//! The example does not speak it. It would take the place of NTLM's messages in `login.rs`; the rest stays. sspi has a Negotiate
//! package that asks a domain controller for tickets, with a client of its own beneath (its feature `network_client`);
//! [libgssapi](https://docs.rs/libgssapi) uses the system's MIT or Heimdal library and its ticket cache. Neither was tried here.
