//! What a listener keeps in memory for each mailbox, counted by the allocator.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower_ews::body::ReplayBody;
use tower_ews::streaming::{Notifications, Subscriptions};

/// A response that ends, or is followed by nothing for ever.
struct Reply {
    bytes: Option<Bytes>,
    hangs: bool,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.bytes.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.hangs => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

/// A server that agrees to everything.
async fn agree(request: Request<ReplayBody>, number: u64) -> Result<Response<Reply>, Infallible> {
    let body = request.into_body().collect().await?.to_bytes();
    let hangs = !body.windows(13).any(|word| word == b"<m:Subscribe>");
    let inner = match hangs {
        // As long as those of Exchange Online.
        false => format!("<m:SubscriptionId>{number:0>120}</m:SubscriptionId>"),
        true => "<m:ConnectionStatus>OK</m:ConnectionStatus>".to_owned(),
    };
    let response = format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body><m:R><m:ResponseMessages>\
         <m:M ResponseClass='Success'><m:ResponseCode>NoError</m:ResponseCode>{inner}</m:M></m:ResponseMessages></m:R>\
         </s:Body></s:Envelope>"
    );
    Ok(Response::new(Reply {
        bytes: Some(response.into()),
        hangs,
    }))
}

/// Listens to several mailboxes, and returns the bytes that each of them takes.
pub(crate) fn bytes_per_mailbox(mailboxes: usize) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime of this thread");
    let mut kept: Option<Notifications> = None;
    let info = allocation_counter::measure(|| {
        kept = Some(runtime.block_on(listen(mailboxes)));
    });
    assert!(kept.is_some_and(|kept| kept.counts().subscribed == mailboxes));
    u64::try_from(info.bytes_current).unwrap_or_default() / mailboxes as u64
}

async fn listen(mailboxes: usize) -> Notifications {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let client = tower::service_fn(move |request| {
        agree(
            request,
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        )
    });
    let endpoint = http::Uri::from_static("https://mail.contoso.com/EWS/Exchange.asmx");
    let names = (0..mailboxes).map(|number| format!("user{number:05}@contoso.com"));
    let mut notifications = Subscriptions::new(endpoint).listen(client, names);
    for _ in 0..mailboxes {
        notifications.next().await;
    }
    // Until the connections are open, too.
    let more = std::time::Duration::from_millis(200);
    let _ = tokio::time::timeout(more, notifications.next()).await;
    notifications
}
