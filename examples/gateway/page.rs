//! The page, the metrics and the health check.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures_util::{Stream, stream};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{HeaderValue, StatusCode};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::monitor::Monitor;
use crate::proxy::Proxy;
use crate::reply;
use crate::status::Status;

const HTML: &str = include_str!("page.html");

/// How many browsers are told what happens.
const VIEWERS: usize = 32;

const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

pub(crate) struct Page {
    proxy: Arc<Proxy>,
    monitor: Arc<Monitor>,
    metrics: PrometheusHandle,
    stopped: watch::Receiver<bool>,
    viewers: Arc<Semaphore>,
}

impl Page {
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        monitor: Arc<Monitor>,
        metrics: PrometheusHandle,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            proxy,
            monitor,
            metrics,
            stopped,
            viewers: Arc::new(Semaphore::new(VIEWERS)),
        }
    }

    fn status(&self) -> Status {
        Status::of(&self.proxy, &self.monitor)
    }
}

/// What clients reach: the server, and the page too where it has no address of its own.
pub(crate) fn clients(proxy: Arc<Proxy>, page: Option<Arc<Page>>) -> Router {
    let pages = page.map_or_else(Router::new, |page| {
        pages(page).layer(middleware::from_fn(local_only))
    });
    Router::new()
        .route("/healthz", get(healthy))
        .merge(pages)
        .fallback(move |request: Request| proxy.clone().handle(request))
}

/// What whoever watches over the gateway reaches.
pub(crate) fn admin(page: Arc<Page>) -> Router {
    Router::new()
        .route("/healthz", get(healthy))
        .merge(pages(page))
}

fn pages(page: Arc<Page>) -> Router {
    Router::new()
        .route("/", get(html))
        .route("/events", get(events))
        .route("/status.json", get(status))
        .route("/metrics", get(metrics))
        .with_state(page)
}

async fn healthy() -> &'static str {
    "ok\n"
}

/// Lets in browsers on this machine, and no page of another site that has a name resolve to this machine.
async fn local_only(request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<ConnectInfo<std::net::SocketAddr>>();
    let is_near = peer.is_some_and(|peer| peer.0.ip().to_canonical().is_loopback());
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    let host = host
        .map(str::to_owned)
        .or_else(|| request.uri().authority().map(Authority::to_string));
    let host: Option<Authority> = host.and_then(|host| host.parse().ok());
    let is_plain = host.is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
    });
    match is_near && is_plain {
        true => next.run(request).await,
        false => reply::text(
            StatusCode::NOT_FOUND,
            "only /EWS/ and /autodiscover/ are passed on",
        ),
    }
}

async fn html() -> Response {
    let mut response = Html(HTML).into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_POLICY),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn status(State(page): State<Arc<Page>>) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    (json, page.status().json()).into_response()
}

async fn metrics(State(page): State<Arc<Page>>) -> Response {
    gauge!("ews_calls_running").set(page.status().calls as f64);
    page.proxy.stacks.current().gauges.record();
    let text = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (text, page.metrics.render()).into_response()
}

/// One event at once, then one each second, until the gateway stops.
async fn events(
    State(page): State<Arc<Page>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, http::Response<Body>> {
    let Ok(place) = Arc::clone(&page.viewers).try_acquire_owned() else {
        return Err(reply::text(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many watch already",
        ));
    };
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let viewer = Viewer {
        stopped: page.stopped.clone(),
        page,
        ticks,
        _place: place,
    };
    Ok(Sse::new(stream::unfold(viewer, |mut viewer| async {
        tokio::select! {
            _ = viewer.ticks.tick() => {}
            _ = viewer.stopped.changed() => return None,
        }
        let event = Event::default().data(viewer.page.status().json());
        Some((Ok(event), viewer))
    })))
}

struct Viewer {
    page: Arc<Page>,
    stopped: watch::Receiver<bool>,
    ticks: Interval,
    _place: OwnedSemaphorePermit,
}
