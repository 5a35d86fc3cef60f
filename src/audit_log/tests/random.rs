//! Any faults, any cancellation, any reader: exactly one record for each call, and times that add up.
//!
//! `EWS_TEST_CASES` sets the number of calls, `EWS_TEST_SEED` the seed.

use std::io::{BufRead, BufReader, ErrorKind};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::*;
use crate::client_request_id::ClientRequestIdLayer;
use crate::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use crate::extensions::Deadline;
use crate::ledger::{Ledger, LocalLedger};
use crate::principal::Principal;
use crate::server_busy_backoff::ServerBusyBackoffLayer;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How a call ended as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Cancelled,
    Error,
    Dropped,
    BrokenOff,
    Read,
}

/// Counts what comes, and looks at each.
struct Check(Arc<Mutex<Vec<Option<Outcome>>>>);

impl Sink for Check {
    fn record(&self, record: &Record) {
        add_up(record);
        let number = record
            .url_path
            .trim_start_matches('/')
            .parse::<usize>()
            .unwrap();
        let sums = record
            .attempts
            .iter()
            .fold(Duration::ZERO, |sum, a| sum + a.total);
        assert!(
            sums <= record.duration + ms(1),
            "attempts follow each other: {record:#?}"
        );
        let before = self.0.lock()[number].replace(record.outcome);
        assert_eq!(before, None, "two records of one call: {record:#?}");
    }
}

/// A line, with its numbers as they stand there.
#[derive(serde::Deserialize)]
struct Line<'a> {
    schema: u32,
    #[serde(rename = "url.path")]
    path: &'a str,
    #[serde(borrow)]
    attempts: Vec<std::collections::HashMap<&'a str, &'a RawValue>>,
}

/// One line of the file for each call, and in its own decimals the parts of an attempt are no more than the whole.
fn in_file(path: &std::path::Path, calls: usize) {
    let mut found = vec![false; calls];
    for line in BufReader::new(std::fs::File::open(path).unwrap()).lines() {
        let line = line.unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap();
        let parsed: Line<'_> = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed.schema, SCHEMA);
        let number: usize = parsed.path.trim_start_matches('/').parse().unwrap();
        assert!(!std::mem::replace(&mut found[number], true), "{line}");
        assert!(!parsed.attempts.is_empty());
        for attempt in &parsed.attempts {
            let micros = |key: &str| {
                let (whole, decimals) = attempt[key].get().split_once('.').unwrap();
                assert_eq!(decimals.len(), 3, "{line}");
                format!("{whole}{decimals}").parse::<u64>().unwrap()
            };
            let parts = ["queued_ms", "backed_off_ms", "wire_ms", "body_ms"];
            let sum: u64 = parts.into_iter().map(micros).sum();
            assert!(sum <= micros("total_ms"), "{line}");
        }
    }
    assert!(found.iter().all(|found| *found), "a call without a line");
}

fn chance(rng: &mut fastrand::Rng, percent: u32) -> bool {
    rng.u32(..100) < percent
}

/// A response, and what may be wrong with it.
fn any_response(rng: &mut fastrand::Rng) -> Result<Response<Script>, BoxError> {
    let wait = |rng: &mut fastrand::Rng| Piece::Wait(rng.u64(..200));
    let text = match rng.u32(..48) {
        0 => return Err(std::io::Error::from(ErrorKind::ConnectionRefused).into()),
        1 => return Err(std::io::Error::from(ErrorKind::ConnectionReset).into()),
        2 => return Err("an error that nobody knows".into()),
        3 => {
            let response = Response::builder().status(503).header("retry-after", "0.1");
            return Ok(response.body(Script::new([wait(rng)])).unwrap());
        }
        4 | 5 => soap_response(&["ErrorServerBusy", "ErrorServerBusy"]),
        6..=9 => soap_response(&["NoError", "ErrorItemNotFound"]),
        10 | 11 => "<Envelope><Body><Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring/><detail><MessageXml>\
              <Value Name='BackOffMilliseconds'>300</Value></MessageXml></detail></Fault></Body></Envelope>"
            .into(),
        12 => soap_response(&["NoError"])[..90].into(),
        _ => soap_response(&["NoError", "NoError"]),
    };
    let mut pieces = Vec::new();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rng.usize(1..=rest.len()));
        if chance(rng, 30) {
            pieces.push(wait(rng));
        }
        if chance(rng, 3) {
            pieces.push(Piece::Fail(ErrorKind::ConnectionReset));
        }
        pieces.push(Piece::Data(Bytes::copy_from_slice(piece.as_bytes())));
        rest = later;
    }
    if chance(rng, 10) {
        pieces.extend([wait(rng), Piece::Fail(ErrorKind::ConnectionReset)]);
    }
    Ok(Response::new(Script::new(pieces)))
}

/// One call, and how it ended.
async fn call<S, B>(service: S, number: usize, seed: u64) -> Seen
where
    S: Service<Request<ReplayBody>, Response = Response<B>, Error = BoxError>,
    B: Body<Error = BoxError>,
{
    let mut rng = fastrand::Rng::with_seed(seed);
    tokio::time::sleep(ms(rng.u64(..5_000))).await;
    let mut request = request(create(&format!("user{}@contoso.com", rng.u32(..40))));
    *request.uri_mut() = format!("https://mail.contoso.com/{number}")
        .parse()
        .unwrap();
    let deadline = Deadline::within(ms(rng.u64(1_000..60_000)));
    request.extensions_mut().insert(deadline);
    let stall_timeout = if chance(&mut rng, 25) {
        rng.u64(..3_000)
    } else {
        1 << 40
    };
    let calling = service.oneshot(request);
    let response = match tokio::time::timeout(ms(stall_timeout), calling).await {
        Err(_) => return Seen::Cancelled,
        Ok(Err(_)) => return Seen::Error,
        Ok(Ok(response)) => response,
    };
    let frames = if chance(&mut rng, 20) {
        rng.usize(..3)
    } else {
        usize::MAX
    };
    let mut body = std::pin::pin!(response.into_body());
    for _ in 0..frames {
        match body.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return Seen::BrokenOff,
            None => return Seen::Read,
        }
    }
    // Some bodies know that nothing more comes.
    if body.is_end_stream() {
        Seen::Read
    } else {
        Seen::Dropped
    }
}

#[test]
fn as_many_records_as_calls() {
    let calls = number("EWS_TEST_CASES").unwrap_or(4_000) as usize;
    let seed = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let records = Arc::new(Mutex::new(vec![None; calls]));
    let folder = std::env::temp_dir().join(format!("tower-ews-random-{}", fastrand::u64(..)));
    let path = folder.join("audit.jsonl");
    let (json, guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .file(&path, Rotation::new().max_bytes(0).daily(false))
        .unwrap();
    let layer =
        AuditLogLayer::new((Check(Arc::clone(&records)), json.clone())).facts(EwsFacts::new());
    let handle = layer.handle();
    let mut seen = Vec::new();
    while seen.len() < calls {
        let at_once = 500.min(calls - seen.len());
        let begin = seen.len();
        // The most detailed ones are long.
        let levels = [Level::Full, Level::Summary, Level::Headers, Level::Summary];
        handle.set(Scope::All, levels[begin / 500 % 4]);
        // One after another on a clock of its own, so that the seed says all.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        seen.extend(runtime.block_on(batch(&layer, begin, at_once, &mut rng)));
    }
    drop(guard);
    assert_eq!(json.lost(), 0);
    in_file(&path, calls);
    std::fs::remove_dir_all(folder).unwrap();
    let records = records.lock();
    let mut counts = std::collections::BTreeMap::new();
    for (number, (seen, outcome)) in seen.iter().zip(&*records).enumerate() {
        let fits = match (seen, outcome) {
            (_, None) => false,
            (Seen::Cancelled, Some(outcome)) => *outcome == Outcome::Cancelled,
            (Seen::Dropped, Some(outcome)) => *outcome == Outcome::BodyDropped,
            (Seen::Read, Some(outcome)) => matches!(outcome, Outcome::Ok | Outcome::Failed),
            (Seen::BrokenOff, Some(outcome)) => {
                matches!(outcome, Outcome::Unknown | Outcome::Error)
            }
            (Seen::Error, Some(outcome)) => {
                matches!(
                    outcome,
                    Outcome::Unknown | Outcome::Error | Outcome::NotSent
                )
            }
        };
        assert!(
            fits,
            "call {number} of seed {seed}: {seen:?}, but {outcome:?}"
        );
        *counts.entry(format!("{seen:?} {outcome:?}")).or_insert(0) += 1;
    }
    assert_eq!((handle.recorded(), handle.lost()), (calls as u64, 0));
    println!("{counts:#?}");
    if calls >= 4_000 {
        assert!(counts.len() >= 8, "each ending was seen");
    }
}

async fn batch(
    layer: &AuditLogLayer<EwsFacts>,
    begin: usize,
    calls: usize,
    rng: &mut fastrand::Rng,
) -> Vec<Seen> {
    let random = Mutex::new(rng.fork());
    let random = Arc::new(random);
    let client = tower::service_fn(move |_: Request<ReplayBody>| {
        let (wait, response) = {
            let rng = &mut *random.lock();
            (rng.u64(..400), any_response(rng))
        };
        async move {
            tokio::time::sleep(ms(wait)).await;
            response
        }
    });
    let by_mailbox = |request: &Request<ReplayBody>| {
        let sid = request.body().outline().ok()?.impersonation().first()?;
        Some(Principal::impersonation(&sid.value))
    };
    let ledger: Arc<dyn Ledger> = Arc::new(LocalLedger::in_flight(3));
    let inner = ConcurrencyByPrincipalLayer::new(Arc::clone(&ledger), by_mailbox)
        .layer(ClientRequestIdLayer::new().layer(client));
    let backoff = ServerBusyBackoffLayer::ews()
        .ledger(ledger)
        .max_prefix(300)
        .seed(rng.u64(..));
    let service = layer.layer(backoff.layer(inner));
    let calls: Vec<_> = (begin..begin + calls)
        .map(|number| tokio::spawn(call(service.clone(), number, rng.u64(..))))
        .collect();
    let mut seen = Vec::new();
    for call in calls {
        seen.push(call.await.unwrap());
    }
    seen
}
