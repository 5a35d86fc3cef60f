//! A small booking service on axum whose handlers call EWS through one stack.
//!
//! ```text
//! cargo run --release --example axum_app
//! ```
//!
//! It brings its own Exchange (`tower_ews::simulator`); `--url URL` calls another one. `--listen ADDR` is 127.0.0.1:8081 by default. The
//! page at `/` books and shows events. `POST /events` and `GET /events/{mailbox}` have a deadline of ten seconds, or of the header
//! `request-timeout` (seconds): a slow Exchange becomes a 503 with `Retry-After`, and no handler waits for a lock-out. `POST
//! /admin/audit/{mailbox}` logs all calls of one mailbox for ten minutes; put a log-in before that where others reach it. SIGTERM finishes what was sent.

mod ews;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::{Stream, StreamExt};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};
use tower_ews::audit_log::{AuditLogLayer, Level, MetricsSink, Scope, TracingSink};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::{Caller, Deadline, Priority};
use tower_ews::gauges::LedgerGauges;
use tower_ews::http_span::HttpSpan;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::server_busy_backoff::RetryInfo;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Policy};
use tower_ews::stack::{busy_for, status_of};
use tower_ews::streaming::{Notification, Subscriptions};
use tower_ews::{EwsService, EwsStack};

const AUTH: HeaderValue = HeaderValue::from_static("Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==");

/// What all handlers share.
struct App {
    stack: EwsStack,
    ews: EwsService<HttpSpan<Client<HttpConnector, ReplayBody>>>,
    url: http::Uri,
    metrics: PrometheusHandle,
    gauges: LedgerGauges,
    stopped: watch::Receiver<bool>,
}

#[derive(Deserialize)]
struct Booking {
    mailbox: String,
    subject: String,
    start: String,
    end: String,
}

/// Why a request has no result: what its client is told.
struct Refused(StatusCode, String, Option<Duration>);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.0, self.1).into_response();
        if let Some(wait) = self.2 {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl App {
    /// Calls EWS with the id, the trace and the deadline of the request that it is for.
    async fn call(&self, soap: String, headers: &HeaderMap) -> Result<Bytes, Refused> {
        let timeout = headers.get("request-timeout");
        let timeout = timeout.and_then(|value| value.to_str().ok()?.parse().ok());
        let timeout = Duration::from_secs(timeout.unwrap_or(10).min(600));
        let mut request = Request::post(&self.url)
            .header("content-type", "text/xml; charset=utf-8")
            .extension(Deadline::within(timeout))
            .extension(Priority::Interactive);
        for (theirs, ours) in [
            ("x-request-id", "client-request-id"),
            ("traceparent", "traceparent"),
            ("tracestate", "tracestate"),
        ] {
            if let Some(value) = headers.get(theirs) {
                request = request.header(ours, value);
            }
        }
        let failed = |error: BoxError| match busy_for(&error) {
            Some(wait) => busy(Some(wait)),
            None => Refused(status_of(&error), error.to_string(), None),
        };
        let request = request.body(soap).map_err(|error| failed(error.into()))?;
        let response = self.ews.clone().oneshot(request).await.map_err(failed)?;
        // The last word of a server that is busy for longer than the deadline.
        let info = response.extensions().get::<RetryInfo>();
        if let Some(info) = info.filter(|info| info.gave_up) {
            return Err(busy(info.retry_after));
        }
        let collected = response.into_body().collect().await;
        let body = collected.map_err(failed)?.to_bytes();
        match ews::texts(&body, "ResponseCode")
            .first()
            .map(String::as_str)
        {
            Some("NoError") => Ok(body),
            code => {
                let text = format!("Exchange says {}", code.unwrap_or("nothing"));
                Err(Refused(StatusCode::BAD_GATEWAY, text, None))
            }
        }
    }
}

fn busy(wait: Option<Duration>) -> Refused {
    let wait = wait.unwrap_or(Duration::from_secs(5));
    let text = "Exchange is busy".to_owned();
    Refused(StatusCode::SERVICE_UNAVAILABLE, text, Some(wait))
}

async fn book(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, &'static str), Refused> {
    let booking: Booking = serde_json::from_slice(&body)
        .map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string(), None))?;
    let Booking {
        mailbox,
        subject,
        start,
        end,
    } = booking;
    let soap = ews::create(&mailbox, &subject, &start, &end);
    // A booking goes on when its client has gone: it is not known then whether it was sent.
    let call = tokio::spawn(async move { app.call(soap, &headers).await });
    let ended = |error: tokio::task::JoinError| {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string(), None)
    };
    call.await.map_err(ended)??;
    Ok((StatusCode::CREATED, "booked"))
}

async fn events(
    State(app): State<Arc<App>>,
    Path(mailbox): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let found = app.call(ews::find(&mailbox), &headers).await?;
    let json = serde_json::json!(ews::texts(&found, "Subject")).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// One message for each change, and for each gap in which one may have got lost.
async fn changes(
    State(app): State<Arc<App>>,
    Path(mailbox): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let subscriptions = Subscriptions::new(app.url.clone());
    let notifications = subscriptions.listen(app.ews.clone(), [mailbox]);
    let mut stopped = app.stopped.clone();
    let changes = notifications.filter_map(async |notification| match notification {
        Notification::Item { .. } | Notification::Gap { .. } => {
            Some(Ok(Event::default().data("changed")))
        }
        _ => None,
    });
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    Sse::new(changes.take_until(Box::pin(stop))).keep_alive(KeepAlive::default())
}

async fn audit(State(app): State<Arc<App>>, Path(mailbox): Path<String>) -> StatusCode {
    let until = Instant::now() + Duration::from_secs(600);
    let scope = Scope::Principal(&mailbox);
    app.stack
        .audit_handle()
        .set_until(scope, Level::Full, until);
    StatusCode::NO_CONTENT
}

async fn metrics_text(State(app): State<Arc<App>>) -> String {
    app.gauges.record();
    app.metrics.render()
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/events", post(book))
        .route("/events/{mailbox}", get(events))
        .route("/changes/{mailbox}", get(changes))
        .route("/admin/audit/{mailbox}", post(audit))
        .route("/metrics", get(metrics_text))
        .with_state(app)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (mut url, mut listen) = (None, "127.0.0.1:8081".to_owned());
    let mut words = std::env::args().skip(1);
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        match word.as_str() {
            "--url" => url = Some(value.parse()?),
            "--listen" => listen = value,
            _ => return Err(format!("{word} is unknown; there are --url and --listen").into()),
        }
    }
    tracing_subscriber::fmt().init();
    let metrics = PrometheusBuilder::new().install_recorder()?;
    // Its events come with the heartbeats of a stream.
    let simulated =
        Policy::exchange_online().with(|policy| policy.heartbeat = Duration::from_secs(1));
    let simulated = Exchange::builder().policy(simulated).build();
    let simulated = simulated.serve_on_loopback().await?;
    let url = url.map_or_else(|| simulated.url().parse(), Ok)?;

    let policy = ThrottlingPolicy::exchange_online();
    let log = AuditLogLayer::new((MetricsSink::new(), TracingSink::new()));
    let stack = EwsStack::new(policy.clone())
        .caller(Caller::new(DEFAULT_ACCOUNT))
        .credentials(async |_| Ok(AUTH))
        .audit_log(log.level(Level::Summary));
    let client = HttpSpan::new(Client::builder(TokioExecutor::new()).build_http());
    let (stop, stopped) = watch::channel(false);
    let app = Arc::new(App {
        ews: stack.service(client),
        gauges: LedgerGauges::new(Arc::clone(stack.shared_ledger()), &policy),
        stack,
        url,
        metrics,
        stopped,
    });
    let listener = TcpListener::bind(listen).await?;
    println!("http://{}/", listener.local_addr()?);
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = async move {
        terminate.recv().await;
        let _ = stop.send(true);
    };
    axum::serve(listener, router(app))
        .with_graceful_shutdown(ended)
        .await?;
    Ok(())
}
