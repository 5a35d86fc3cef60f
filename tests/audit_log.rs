//! A log in trouble gets into nobody's way, and its levels change while the stack runs.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::{Condvar, Mutex};
use serde_json::Value;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::EwsStack;
use tower_ews::audit_log::{
    AuditLogLayer, JsonLinesSink, Level, MemorySink, Overflow, Record, Scope, Sink,
};
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Account, Exchange, Policy};

use audit_secrets::place::{CANARY, JWT, Place, create, impersonate};
use audit_secrets::sinks::{Lines, Told, leak};

#[allow(dead_code, reason = "another test has other calls")]
mod audit_secrets {
    pub(crate) mod place;
    pub(crate) mod sinks;
}

/// Events of the whole process that speak of the audit log itself.
fn alarms() -> &'static Told {
    static ALARMS: OnceLock<Told> = OnceLock::new();
    ALARMS.get_or_init(|| {
        let told = Told::default();
        tracing::subscriber::set_global_default(told.clone()).unwrap();
        told
    })
}

/// Makes calls through a layer with this sink: each has to be responded to, and soon.
fn calls(sink: impl Sink, calls: usize) -> tower_ews::audit_log::AuditHandle {
    let layer = AuditLogLayer::new(sink).level(Level::Full);
    let handle = layer.handle();
    let service = layer.layer(service_fn(async |_: Request<Full<Bytes>>| {
        Ok::<_, BoxError>(Response::new(Full::<Bytes>::from("a response")))
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..calls {
            let response = service.clone().oneshot(Request::new(Full::from("a call")));
            let body = response.await.unwrap().into_body();
            assert_eq!(body.collect().await.unwrap().to_bytes(), "a response");
        }
    });
    handle
}

/// A writer that hangs until it is let go.
#[derive(Clone, Default)]
struct Hanging {
    gate: Arc<(Mutex<bool>, Condvar)>,
    lines: Lines,
}

impl Hanging {
    fn let_go(&self) {
        *self.gate.0.lock() = true;
        self.gate.1.notify_all();
    }
}

impl Write for Hanging {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut open = self.gate.0.lock();
        while !*open {
            self.gate.1.wait(&mut open);
        }
        self.lines.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn calls_go_on_while_the_writer_hangs() {
    let alarms = alarms();
    let writer = Hanging::default();
    let (sink, guard) = JsonLinesSink::builder()
        .capacity(20_000)
        .writer(writer.clone())
        .unwrap();
    let handle = calls(sink.clone(), 1_000);
    let lost = sink.lost();
    let debugged = format!("{guard:?} {sink:?} {handle:?}");
    let told = alarms.0.lock().contains("is written too slowly");
    // What panics before would wait for the writer for ever.
    writer.let_go();
    drop(guard);
    // The layer has done its part.
    assert_eq!((handle.recorded(), handle.lost()), (1_000, 0));
    assert!(lost > 800, "{lost}");
    assert!(told);
    // Lines that wait are nothing to be printed.
    assert!(debugged.len() < 400, "{} bytes", debugged.len());
    let kept = writer.lines.text().lines().count() as u64;
    assert!(kept > 0);
    assert_eq!(kept + sink.lost(), 1_000);
}

/// Panics at each second record.
#[derive(Default)]
struct Panicking(AtomicUsize);

impl Sink for Panicking {
    fn record(&self, _: &Record) {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(number % 2 == 0, "a sink in trouble");
    }
}

#[test]
fn calls_go_on_when_the_sink_panics() {
    let handle = calls(Panicking::default(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
    assert!(format!("{handle:?}").contains("lost: 50"));
}

/// Of two sinks the second one has all records, whatever the first one does.
#[test]
fn one_sink_in_trouble_costs_the_other_nothing() {
    let memory = MemorySink::new();
    let handle = calls((Panicking::default(), memory.clone()), 100);
    assert_eq!(memory.seen(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
    let memory = MemorySink::new();
    let handle = calls((memory.clone(), Panicking::default()), 100);
    assert_eq!(memory.seen(), 100);
    assert_eq!((handle.recorded(), handle.lost()), (50, 50));
}

#[test]
fn calls_go_on_when_the_writer_panics() {
    struct Breaking;
    impl Write for Breaking {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("a writer in trouble")
        }
        fn flush(&mut self) -> io::Result<()> {
            panic!("a writer in trouble")
        }
    }
    let alarms = alarms();
    let (sink, guard) = JsonLinesSink::builder().writer(Breaking).unwrap();
    let handle = calls(sink.clone(), 100);
    drop(guard);
    assert_eq!((handle.recorded(), handle.lost()), (100, 0));
    assert_eq!(sink.lost(), 100);
    let told = alarms.0.lock();
    assert!(told.contains("cannot be written") && told.contains("the writer panicked"));
}

#[cfg(target_os = "linux")]
#[test]
fn calls_go_on_when_the_disk_is_full() {
    let alarms = alarms();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let (sink, guard) = JsonLinesSink::builder().writer(full.unwrap()).unwrap();
    let handle = calls(sink.clone(), 100);
    drop(guard);
    assert_eq!((handle.recorded(), handle.lost()), (100, 0));
    assert_eq!(sink.lost(), 100);
    let told = alarms.0.lock();
    assert!(told.contains("ERROR tower_ews::audit") && told.contains("No space left"));
}

#[test]
fn records_after_the_guard_was_dropped_are_told_of_once() {
    let alarms = alarms();
    let told = || alarms.0.lock().matches("keep the guard").count();
    let before = told();
    let (sink, guard) = JsonLinesSink::builder().writer(io::sink()).unwrap();
    let handle = calls(sink.clone(), 3);
    drop(guard);
    assert_eq!((told() - before, sink.lost()), (0, 0));
    calls(sink.clone(), 3);
    assert_eq!((told() - before, sink.lost()), (1, 3));
    drop(handle);
}

fn level_of(line: &Value) -> Level {
    match (line.get("request_headers"), line.get("request_body")) {
        (None, None) => Level::Summary,
        (Some(_), None) => Level::Headers,
        _ => Level::Full,
    }
}

/// Support asks for all there is of one mailbox: nobody restarts anything, and tomorrow it is over by itself.
#[tokio::test(start_paused = true)]
async fn more_detail_for_one_mailbox_while_the_stack_runs() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .with_account(Account::new("svc@contoso.com").password(CANARY).token(JWT))
        .build();
    let lines = Lines::default();
    let (sink, guard) = JsonLinesSink::builder()
        .overflow(Overflow::Block)
        .writer(lines.clone())
        .unwrap();
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new("svc@contoso.com"))
        .audit_log(AuditLogLayer::new(sink.clone()));
    let handle = stack.audit_handle();
    let service = stack.service(exchange);
    let levels = async || {
        lines.0.lock().clear();
        for mailbox in ["amy@contoso.com", "bob@contoso.com"] {
            let mut request = Place::new("call").make();
            *request.body_mut() = Full::from(create(&impersonate(mailbox)));
            let response = service.clone().oneshot(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains("NoError"));
        }
        sink.flush();
        let text = lines.text();
        assert_eq!(leak(&text), None);
        let seen = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&line["outcome"], &line["code"]),
                (&"ok".into(), &"NoError".into())
            );
            let mailbox = line["mailbox"].as_str().unwrap().to_owned();
            let level = level_of(&line);
            if level == Level::Full {
                let sent = line["request_body"]["text"].as_str().unwrap();
                assert!(sent.contains("<t:Subject>Tea</t:Subject>"));
                assert_eq!(line["request_headers"]["authorization"], "Basic REDACTED");
            }
            (mailbox, level)
        });
        seen.collect::<Vec<_>>()
    };
    let both = |amy, bob| {
        vec![
            ("amy@contoso.com".to_owned(), amy),
            ("bob@contoso.com".to_owned(), bob),
        ]
    };

    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    let until = Instant::now() + Duration::from_secs(86_400);
    handle.set_until(Scope::Principal("Amy@Contoso.com"), Level::Full, until);
    assert_eq!(levels().await, both(Level::Full, Level::Summary));
    // With the log off for everybody else.
    handle.set(Scope::All, Level::Off);
    let alone = levels().await;
    assert_eq!(alone, both(Level::Full, Level::Off)[..1]);
    handle.set(Scope::All, Level::Summary);
    tokio::time::sleep_until(until - Duration::from_secs(60)).await;
    assert_eq!(levels().await, both(Level::Full, Level::Summary));
    tokio::time::sleep_until(until).await;
    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    // Clones of the handle, and services that were made before, act together.
    handle
        .clone()
        .set(Scope::Operation("CreateItem"), Level::Headers);
    assert_eq!(levels().await, both(Level::Headers, Level::Headers));
    handle.clear(Scope::Operation("CreateItem"));
    assert_eq!(levels().await, both(Level::Summary, Level::Summary));
    drop(guard);
    assert_eq!((handle.lost(), sink.lost()), (0, 0));
}
