//! What a call of very many attempts keeps, counted by the allocator: its trail, and its record in the audit log.

use std::future::ready;

use http::{Request, Response};
use tower::{Layer, ServiceExt};
use tower_ews::audit_log::{AuditLogLayer, MemorySink};
use tower_ews::ledger::{AcquireRequest, Admission};
use tower_ews::principal::Principal;
use tower_ews::trail::{Attempt, CallTrail};

const ATTEMPTS: u64 = 450_000;
const MEGABYTE: u64 = 1 << 20;

/// What layers write to an attempt.
fn fill(attempt: &mut Attempt, number: u64) {
    let request = AcquireRequest::new(Principal::account("svc@contoso.com"));
    attempt.admission = Some(Admission::new(request, 1, number));
    attempt.client_request_id = Some("5e7c2f0a-36e1-4a5e-8f9b-0d1f6a1c2b3d".into());
    attempt.request_id = Some("7d1c9a1e-5b0f-4c59-9d0e-3c3d7f6f7a10".into());
    attempt.fe_server = Some("AM6PR01CA0041".into());
    attempt.be_server = Some("AM6PR01MB4242".into());
    attempt.signal = Some("ErrorServerBusy".into());
}

/// Each attempt is one of the call, or the first one of a part that goes alone.
fn call(trail: &CallTrail, in_parts: bool, ends: bool) {
    for number in 0..ATTEMPTS {
        let attempt = match in_parts {
            true => trail.part(number as u32, false).begin_attempt(),
            false => trail.begin_attempt(),
        };
        attempt.record(|attempt| fill(attempt, number));
        if ends {
            attempt.record(|attempt| attempt.ended = attempt.started);
        }
    }
}

#[test]
fn a_call_of_450_000_attempts_keeps_less_than_a_megabyte() {
    for (in_parts, ends) in [(false, false), (false, true), (true, false), (true, true)] {
        let trail = CallTrail::new();
        let info = allocation_counter::measure(|| call(&trail, in_parts, ends));
        println!(
            "in parts: {in_parts}, ends are told: {ends}: {} bytes are kept, {} at most",
            info.bytes_current, info.bytes_max
        );
        assert!(info.bytes_max < MEGABYTE, "{}", info.bytes_max);
        let listed = trail.attempts().len() as u64;
        assert_eq!(listed + trail.left_out().attempts, ATTEMPTS);
        assert_eq!(trail.left_out().admitted, ATTEMPTS - listed);
    }
}

#[tokio::test]
async fn the_record_of_such_a_call_is_small() {
    let sink = MemorySink::new();
    let client = tower::service_fn(|request: Request<String>| {
        let trail = CallTrail::of(request.extensions()).unwrap();
        call(trail, false, true);
        ready(Ok::<_, std::convert::Infallible>(Response::new(
            String::new(),
        )))
    });
    let service = AuditLogLayer::new(sink.clone()).layer(client);
    drop(service.oneshot(Request::new(String::new())).await.unwrap());
    let mut records = sink.take();
    let record = records.pop().unwrap();
    assert_eq!(
        record.attempts.len() as u64 + record.attempts_left_out,
        ATTEMPTS
    );
    assert_eq!(record.left_out.signals[0].1, record.attempts_left_out);
    let text = format!("{record:?}");
    assert!((text.len() as u64) < MEGABYTE, "{}", text.len());
}
