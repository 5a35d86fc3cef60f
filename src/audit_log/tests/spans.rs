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

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

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
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_writer(move || writer.clone())
        .finish();
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let client = service_fn(async |_: Request<ReplayBody>| {
        tracing::info!("on the wire");
        Ok::<_, BoxError>(Response::new(String::from("<Envelope/>")))
    });
    let service = AuditLogLayer::new(TracingSink::new())
        .facts(EwsFacts::new())
        .layer(client);
    let request = Request::post("https://mail.contoso.com/").body(super::create("amy"));
    let answer = service
        .oneshot(request.unwrap())
        .instrument(tracing::info_span!("job"))
        .await
        .unwrap();
    // Read by somebody else, in no span.
    answer.into_body().collect().await.unwrap();

    let lines = String::from_utf8(lines.0.lock().clone()).unwrap();
    let told: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told.len(), 2, "{lines}");
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
