//! What all sinks show of one call.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use metrics_util::debugging::DebuggingRecorder;
use parking_lot::Mutex;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_ews::EwsStack;
use tower_ews::audit_log::{
    AuditLogLayer, EwsFacts, JsonLinesSink, Level, MemorySink, MetricsSink, Redaction, TracingSink,
};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Account, Exchange, Policy};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

use super::place::{CANARY, ENCODED, JWT, KEY, Place};

#[derive(Clone, Default)]
pub(crate) struct Told(pub(crate) Arc<Mutex<String>>);

impl Visit for Told {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0.lock(), "{}={value:?} ", field.name());
    }
}

impl Subscriber for Told {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let _ = write!(self.0.lock(), "{} {} ", metadata.level(), metadata.target());
        event.record(&mut self.clone());
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A writer into memory.
#[derive(Clone, Default)]
pub(crate) struct Lines(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Around {
    Client,
    Stack,
}

/// What all sinks show of one call, by sink.
pub(crate) fn logs(place: &Place, level: Level, around: Around) -> BTreeMap<&'static str, String> {
    let memory = MemorySink::new();
    let lines = Lines::default();
    let (json, guard) = JsonLinesSink::builder().writer(lines.clone()).unwrap();
    let told = Told::default();
    let recorder = DebuggingRecorder::new();
    let mut debugged = String::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let call = || {
        tracing::subscriber::with_default(told.clone(), || {
            let sink = (
                (memory.clone(), json.clone()),
                (TracingSink::new(), MetricsSink::new()),
            );
            let exchange = Exchange::builder()
                .policy(Policy::laptop())
                .with_account(Account::new("svc@contoso.com").password(CANARY).token(JWT))
                .build();
            let network = place.clone();
            let client = service_fn(move |request: Request<ReplayBody>| {
                let scripted = network.network();
                let exchange = exchange.clone();
                async move {
                    if let Some(response) = scripted {
                        return response;
                    }
                    let response = exchange.oneshot(request).await?;
                    Ok(response.map(|body| body.map_err(BoxError::from).boxed()))
                }
            });
            let mut redaction = Redaction::new();
            if place.pseudonyms {
                redaction = redaction.pseudonyms(KEY);
            }
            runtime.block_on(async {
                let request = place.make();
                match around {
                    Around::Client => {
                        let layer = AuditLogLayer::new(sink)
                            .facts(EwsFacts::new().caller(Caller::new("svc@contoso.com")))
                            .level(level)
                            .body_limit(place.body_limit)
                            .redact(redaction);
                        let client = client.map_request(|request: Request<Full<Bytes>>| {
                            let (head, body) = request.into_parts();
                            let mut body = body;
                            let bytes = futures_util::FutureExt::now_or_never(body.frame())
                                .flatten()
                                .map(|frame| frame.unwrap().into_data().unwrap());
                            Request::from_parts(head, ReplayBody::from(bytes.unwrap_or_default()))
                        });
                        let service = layer.layer(client);
                        let _ = write!(debugged, "{layer:?} {:?} {service:?}", layer.handle());
                        read(service, request, &mut debugged).await;
                    }
                    Around::Stack => {
                        let layer = AuditLogLayer::new(sink)
                            .level(level)
                            .body_limit(place.body_limit)
                            .redact(redaction);
                        let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
                            .caller(Caller::new("svc@contoso.com"))
                            .audit_log(layer);
                        let service = stack.service(client);
                        let handle = stack.audit_handle();
                        let _ = write!(debugged, "{stack:?} {handle:?} {service:?}");
                        read(service, request, &mut debugged).await;
                    }
                }
            });
        });
    };
    metrics::with_local_recorder(&recorder, call);
    let _ = write!(debugged, "{memory:?} {json:?} {guard:?}");
    drop(guard);
    assert_eq!(memory.seen(), 1);
    BTreeMap::from([
        ("memory", format!("{:#?}", memory.records())),
        ("json", lines.text()),
        ("tracing", told.0.lock().clone()),
        (
            "metrics",
            format!("{:?}", recorder.snapshotter().snapshot().into_vec()),
        ),
        ("debug", debugged),
    ])
}

async fn read<S, B>(service: S, request: Request<Full<Bytes>>, debugged: &mut String)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError>,
    S::Future: Debug,
    B: Body + Debug,
{
    let mut service = service;
    let calling = service.ready().await.unwrap().call(request);
    let _ = write!(debugged, "{calling:?}");
    if let Ok(response) = calling.await {
        let body = response.into_body();
        let _ = write!(debugged, "{body:?}");
        let _ = body.collect().await;
    }
}

/// Where `text` shows four letters of the secret, in whatever case, or of its base64.
pub(crate) fn leak(text: &str) -> Option<usize> {
    let upper = text.to_ascii_uppercase();
    let shows = |text: &str, secret: &str| {
        let pieces = (0..=secret.len() - 4).map(|at| &secret[at..at + 4]);
        pieces.filter_map(|piece| text.find(piece)).next()
    };
    shows(&upper, CANARY).or_else(|| shows(text, ENCODED))
}
