//! The span of a call.

use std::io::{self, Write};
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tracing::Instrument;

use crate::audit_log::{AuditLogLayer, EwsFacts, TracingSink};
use crate::body::ReplayBody;

/// What was told to `tracing`, as lines of JSON.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// Collects what this thread tells, until the guard is dropped. While there is one listener alone, an event that another
    /// thread is the first to come to never reaches anybody: so there are two, one of which hears nothing.
    pub(super) fn subscribe(&self) -> (tracing::subscriber::DefaultGuard, tracing::Dispatch) {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        let silent = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
        (guard, silent)
    }

    pub(super) fn events(&self) -> Vec<serde_json::Value> {
        let lines = String::from_utf8(self.0.lock().clone()).unwrap();
        let events = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        events.collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_happens_in_a_call_and_its_record_are_told_in_its_span() {
    let lines = Lines::default();
    let _subscribed = lines.subscribe();
    let client = service_fn(async |_: Request<ReplayBody>| {
        tracing::info!("on the wire");
        Ok::<_, BoxError>(Response::new(String::from("<Envelope/>")))
    });
    let service = AuditLogLayer::new(TracingSink::new())
        .facts(EwsFacts::new())
        .layer(client);
    let request = Request::post("https://mail.contoso.com/").body(super::create("amy"));
    let response = service
        .oneshot(request.unwrap())
        .instrument(tracing::info_span!("job"))
        .await
        .unwrap();
    // Read by somebody else, in no span.
    response.into_body().collect().await.unwrap();

    let told = lines.events();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0]["fields"]["message"], "on the wire");
    assert_eq!(told[1]["target"], "tower_ews::audit");
    for event in &told {
        let spans = event["spans"].as_array().unwrap();
        assert_eq!(spans[0]["name"], "job");
        assert_eq!(spans[1]["name"], "call");
        assert_eq!(spans[1]["operation"], "CreateItem");
        assert_eq!(spans[1]["http.request.method"], "POST");
    }
}
