//! [`ntlm_client`]: a pool of connections for each credential, out of hyper-util's parts.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use hyper_util::client::pool::{cache, map::Map};
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use tower::{BoxError, Service, ServiceExt, service_fn};
use tower_ews::body::ReplayBody;
use tower_ews::server_busy_backoff::Failure;

use crate::body::NtlmBody;
use crate::connection::Connection;
use crate::target::Target;

/// Creates a client that logs in with NTLM, for [`EwsStack::service`](tower_ews::EwsStack::service).
///
/// It takes user and password from `Authorization: Basic`, as [`EwsStack::credentials`](tower_ews::EwsStack::credentials) puts it on
/// each attempt; the header itself is never sent. So the stack knows which credential a 401 refuses, and does not repeat a
/// wrong password until the account is locked. Clones share their connections.
///
/// `tls` says whom to trust. Connections speak HTTP/1.1, since NTLM knows nothing else.
///
/// # Errors
///
/// Those of hyper, and I/O errors. Whatever fails before the call itself is sent, the login included, is a
/// [`Failure::NotSent`]. A wrong password is no error but a response, a 401.
///
/// # Cancellation
///
/// A call that is dropped before its response has ended closes its connection, unless nothing of it was sent yet.
pub fn ntlm_client(
    mut tls: ClientConfig,
) -> impl Service<Request<ReplayBody>, Response = Response<NtlmBody>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    let pools = Map::builder::<Target>()
        .keys(Target::clone)
        .values(move |target: &Target| {
            let (target, tls) = (target.clone(), Arc::clone(&tls));
            let connect =
                service_fn(move |()| Box::pin(Connection::open(target.clone(), Arc::clone(&tls))));
            cache::builder()
                .executor(TokioExecutor::new())
                .build(connect)
        });
    let pools = Arc::new(Mutex::new(pools.build()));
    service_fn(move |mut request: Request<ReplayBody>| {
        let pools = Arc::clone(&pools);
        async move {
            let target = Target::of(&mut request)?;
            let mut pool = pools.lock().expect("the pools").service(&target).clone();
            loop {
                let mut lease = pool.ready().await?.call(()).await?;
                let is_used = lease.inner().is_used();
                if is_used && poll_fn(|cx| lease.poll_ready(cx)).await.is_err() {
                    continue;
                }
                match lease.inner_mut().send(request.clone()).await {
                    Ok(response) => return Ok(response.map(|body| NtlmBody::new(body, lease))),
                    // The server closes idle connections when it likes. A new one is another matter.
                    Err(error) if is_used && Failure::of(&*error) == Failure::NotSent => {}
                    Err(error) => return Err(error),
                }
            }
        }
    })
}
