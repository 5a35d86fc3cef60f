//! Makes a `tracing` span of each attempt, with OpenTelemetry's attributes of an HTTP client.
//!
//! [`HttpSpan`] belongs right around the HTTP client, inside of what sends again, so that each attempt has a span of its own
//! inside the span that the caller is in. An exporter such as `tracing-opentelemetry` makes client spans of them.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_ews::http_span::HttpSpanLayer;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
//! # let client = service_fn(async |_: Request<String>| Ok::<_, tower::BoxError>(Response::new(String::new())));
//! let client = ServiceBuilder::new().layer(HttpSpanLayer::new()).service(client);
//! // EwsStack::new(policy).service(client), for example.
//! # client.oneshot(Request::get("https://mail.contoso.com/").body(String::new())?).await?;
//! # Ok(()) }
//! ```
//!
//! | attribute | what it is |
//! | --- | --- |
//! | `otel.kind`, `otel.name` | `client`; the method |
//! | `http.request.method` | the method |
//! | `server.address`, `server.port` | where the request goes: from its URI, else from its `Host` |
//! | `http.request.resend_count` | how often the request was sent before; not there on the first attempt ([`ResendCount`]) |
//! | `http.response.status_code` | the status |
//! | `error.type` | the status, from 400 on, or the type of the client's error |
//!
//! The names are those of OpenTelemetry's semantic conventions for HTTP spans. The URL is not among them: it can have a secret
//! in it. The span has the target `tower_ews::http` and the level `INFO`. It ends with the head of the response; one without a status and
//! without an error was dropped. Headers stay as they are: a `traceparent` of the caller is sent with each attempt.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::HOST;
use http::uri::Authority;
use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Span, field, info_span};

use crate::trail::ResendCount;

/// Layer that applies [`HttpSpan`]. The [module docs](self) have an example with a service.
///
/// ```
/// use tower_ews::http_span::HttpSpanLayer;
///
/// let layer = HttpSpanLayer::new();
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct HttpSpanLayer(());

impl HttpSpanLayer {
    /// Creates a new layer.
    pub const fn new() -> Self {
        Self(())
    }
}

impl<S> Layer<S> for HttpSpanLayer {
    type Service = HttpSpan<S>;

    fn layer(&self, inner: S) -> HttpSpan<S> {
        HttpSpan { inner }
    }
}

/// Makes a span of each request. Works with any bodies and any error.
#[derive(Clone, Debug)]
#[must_use = "services do nothing until they are called"]
pub struct HttpSpan<S> {
    inner: S,
}

impl<S> HttpSpan<S> {
    /// Creates a new service around `inner`.
    pub fn new(inner: S) -> Self {
        HttpSpanLayer::new().layer(inner)
    }

    inner_accessors!();
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for HttpSpan<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let span = span(&request);
        let inner = span.in_scope(|| self.inner.call(request));
        ResponseFuture { inner, span }
    }
}

fn span<B>(request: &Request<B>) -> Span {
    let method = request.method().as_str();
    let host = request.headers().get(HOST);
    let host: Option<Authority> = match request.uri().authority() {
        Some(_) => None,
        None => host.and_then(|host| host.to_str().ok()?.parse().ok()),
    };
    let server = request.uri().authority().or(host.as_ref());
    let resent = request.extensions().get::<ResendCount>();
    info_span!(
        target: "tower_ews::http",
        "request",
        otel.kind = "client",
        otel.name = method,
        http.request.method = method,
        server.address = server.map(Authority::host),
        server.port = server.and_then(Authority::port_u16),
        http.request.resend_count = resent.map(ResendCount::get),
        http.response.status_code = field::Empty,
        "error.type" = field::Empty,
    )
}

/// Response future of [`HttpSpan`]. Dropping it ends the span.
#[pin_project::pin_project]
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture<F> {
    #[pin]
    inner: F,
    span: Span,
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.enter();
        let result = ready!(this.inner.poll(cx));
        match &result {
            Ok(response) => {
                let status = response.status();
                this.span
                    .record("http.response.status_code", status.as_u16());
                if status.is_client_error() || status.is_server_error() {
                    this.span.record("error.type", status.as_str());
                }
            }
            Err(_) => {
                let kind = std::any::type_name::<E>();
                this.span.record("error.type", kind);
            }
        }
        Poll::Ready(result)
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("span", &self.span)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::server_busy_backoff::ServerBusyBackoffLayer;

    type Fields = BTreeMap<&'static str, String>;

    /// Keeps the fields of each span.
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<Vec<Fields>>>);

    struct Visitor<'a>(&'a mut Fields);

    impl field::Visit for Visitor<'_> {
        fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
            let value = format!("{value:?}").trim_matches('"').to_owned();
            self.0.insert(field.name(), value);
        }
    }

    impl Subscriber for Spans {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "tower_ews::http"
        }

        fn new_span(&self, attributes: &Attributes<'_>) -> Id {
            let mut fields = Fields::new();
            attributes.record(&mut Visitor(&mut fields));
            let mut spans = self.0.lock().unwrap();
            spans.push(fields);
            Id::from_u64(spans.len() as u64)
        }

        fn record(&self, id: &Id, values: &Record<'_>) {
            let mut spans = self.0.lock().unwrap();
            let at = id.into_u64() as usize - 1;
            values.record(&mut Visitor(&mut spans[at]));
        }

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_has_a_span_with_the_attributes_of_a_client() {
        let spans = Spans::default();
        let _guard = tracing::subscriber::set_default(spans.clone());
        let parents = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&parents);
        let server = service_fn(move |request: Request<String>| {
            let parent = request.headers()["traceparent"].clone();
            let mut seen = seen.lock().unwrap();
            seen.push(parent);
            let status = [503, 429, 200][seen.len() - 1];
            let response = Response::builder().status(status);
            std::future::ready(response.body(String::new()))
        });
        let client = ServiceBuilder::new()
            .layer(ServerBusyBackoffLayer::http())
            .layer(HttpSpanLayer::new())
            .service(server);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::post("https://mail.contoso.com:8443/EWS/Exchange.asmx?token=secret")
            .header("traceparent", parent)
            .body(String::new())
            .unwrap();
        assert_eq!(client.oneshot(request).await.unwrap().status(), 200);

        assert_eq!(*parents.lock().unwrap(), [parent; 3]);
        let spans = spans.0.lock().unwrap();
        let of = |name: &str| -> Vec<Option<&str>> {
            let values = spans.iter().map(|fields| fields.get(name));
            values.map(|value| value.map(String::as_str)).collect()
        };
        let status = ["503", "429", "200"].map(Some);
        assert_eq!(of("http.response.status_code"), status);
        assert_eq!(
            of("http.request.resend_count"),
            [None, Some("1"), Some("2")]
        );
        assert_eq!(of("error.type"), [Some("503"), Some("429"), None]);
        for (name, value) in [
            ("http.request.method", "POST"),
            ("server.address", "mail.contoso.com"),
            ("server.port", "8443"),
            ("otel.kind", "client"),
            ("otel.name", "POST"),
        ] {
            assert_eq!(of(name), [Some(value); 3], "{name}");
        }
        assert!(!format!("{spans:?}").contains("secret"));
    }

    #[tokio::test]
    async fn an_error_is_told_by_its_type_and_the_server_by_its_host() {
        let spans = Spans::default();
        let _guard = tracing::subscriber::set_default(spans.clone());
        let broken = service_fn(async |_: Request<()>| {
            Err::<Response<()>, BoxError>("connection reset".into())
        });
        let request = Request::get("/")
            .header("host", "mail.contoso.com")
            .body(());
        let result = HttpSpan::new(broken).oneshot(request.unwrap()).await;
        assert!(result.is_err());
        let spans = spans.0.lock().unwrap();
        assert_eq!(spans[0]["server.address"], "mail.contoso.com");
        assert!(spans[0]["error.type"].contains("Error"));
        assert!(!spans[0].contains_key("http.response.status_code"));
    }
}
