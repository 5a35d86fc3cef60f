//! What the log is told.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

/// Records the ledger's events, and asks the ledger in each of them.
struct Curious {
    ledger: Arc<LocalLedger>,
    events: Arc<Mutex<Vec<String>>>,
    spans: AtomicU64,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?};"));
    }
}

impl Subscriber for Curious {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().contains("ledger")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1 + self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // It would never come back if the ledger were locked.
        assert!(self.ledger.state.try_lock().is_some());
        self.ledger.snapshot();
        let mut text = Text(String::new());
        event.record(&mut text);
        self.events.lock().push(text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

type Events = Arc<Mutex<Vec<String>>>;

/// Listens as long as it lives.
///
/// While there is one listener alone, an event that another thread is the first to come to never reaches anybody: so there are
/// two, one of which hears nothing.
type Listener = (tracing::subscriber::DefaultGuard, tracing::Dispatch);

fn listen(ledger: &Arc<LocalLedger>) -> (Events, Listener) {
    let listener = || {
        let events = Events::default();
        let curious = Curious {
            ledger: ledger.clone(),
            events: events.clone(),
            spans: AtomicU64::new(0),
        };
        (events, tracing::Dispatch::new(curious))
    };
    let (events, listening) = listener();
    let (_, silent) = listener();
    let guard = tracing::dispatcher::set_default(&listening);
    (events, (guard, silent))
}

fn count(events: &Events, words: &[&str]) -> usize {
    let events = events.lock();
    let with_all = |event: &&String| words.iter().all(|word| event.contains(word));
    events.iter().filter(with_all).count()
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_told_once_for_all_that_wait() {
    let ledger = ledger(3);
    let (events, _guard) = listen(&ledger);
    let held: Vec<_> = (0..3)
        .map(|_| try_now(&ledger, &draw("patient")).unwrap())
        .collect();
    let calls: Vec<_> = (0..8)
        .map(|_| call(&ledger, draw("patient"), secs(1)))
        .collect();
    sleep(Duration::from_millis(29_900)).await;
    assert_eq!(events.lock().len(), 0);
    sleep(secs(300)).await;
    let told = [
        "principal=patient;",
        "budget=Concurrency;",
        "held=3;",
        "limit=3;",
        "waited=30 s;",
        "waiting=8;",
        "message=calls wait in the ledger for those that run: if none of these ends, two layers acquire",
    ];
    assert_eq!(count(&events, &told), 1, "{:?}", events.lock());
    // Again after ten minutes, by a call that has come since.
    let again = call(&ledger, draw("patient"), secs(1));
    sleep(secs(31)).await;
    assert_eq!(events.lock().len(), 1);
    sleep(secs(300)).await;
    let last = call(&ledger, draw("patient"), secs(1));
    sleep(secs(31)).await;
    assert_eq!(count(&events, &["waiting=10;"]), 1, "{:?}", events.lock());
    drop(held);
    for call in calls.into_iter().chain([again, last]) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(events.lock().len(), 2);
    nothing_left(&ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_bodies_that_nobody_reads_says_how_many() {
    for responded in [3, 0] {
        // Nobody else's responses are counted with this one's.
        let ledger = ledger(3);
        let (events, _guard) = listen(&ledger);
        let mut held: Vec<_> = (0..3)
            .map(|_| try_now(&ledger, &draw("reader")).unwrap())
            .collect();
        for permit in &mut held[..responded] {
            permit.set_responded();
        }
        let waiting = call(&ledger, draw("reader"), secs(1));
        sleep(secs(31)).await;
        let unread = format!("unread={responded};");
        let told = ["held=3;", &unread];
        assert_eq!(count(&events, &told), 1, "{:?}", events.lock());
        let cure = count(&events, &["whose bodies are not read"]);
        assert_eq!(cure, usize::from(responded > 0));
        drop(held);
        waiting.await.unwrap().unwrap();
        assert_eq!(events.lock().len(), 1);
    }
}

/// Of several principals each is told of it; and nobody of a body that is read, however long that takes.
#[tokio::test(start_paused = true)]
async fn bodies_count_for_each_principal_while_nobody_reads_them() {
    let both = several([
        ("left", Budget::Concurrency, 1),
        ("right", Budget::Concurrency, 1),
    ]);
    for (unread, name) in [(true, "left"), (true, "right"), (false, "left")] {
        let ledger = ledger(1);
        let (events, _guard) = listen(&ledger);
        let mut held = try_now(&ledger, &both).unwrap();
        held.set_responded();
        held.set_unread(false);
        held.set_unread(unread);
        let waiting = call(&ledger, draw(name), secs(1));
        sleep(secs(31)).await;
        let told = format!("unread={};", u8::from(unread));
        assert_eq!(count(&events, &[&told]), 1, "{:?}", events.lock());
        drop(held);
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_gate_is_told_when_it_closes_and_when_it_opens() {
    let ledger = ledger(9);
    let (events, _guard) = listen(&ledger);
    let permits: Vec<_> = (0..9)
        .map(|_| try_now(&ledger, &draw("a").with_endpoint(host())).unwrap())
        .collect();
    for (n, permit) in permits.iter().enumerate() {
        let until = Instant::now() + secs(5 + n as u64);
        permit.report(Signal::Busy { until });
        permit.report(Signal::EndpointBusy { until });
    }
    drop(permits);
    let closed = |gate| count(&events, &[gate, "closed_for=", "has closed"]);
    let opened = |gate| count(&events, &[gate, "has opened"]);
    assert_eq!(
        (
            closed("principal=a;"),
            closed("endpoint=outlook.contoso.com;")
        ),
        (1, 1)
    );
    let calls: Vec<_> = (0..9)
        .map(|_| call(&ledger, draw("a").with_endpoint(host()), secs(1)))
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(
        (
            closed("principal=a;"),
            closed("endpoint=outlook.contoso.com;")
        ),
        (1, 1)
    );
    assert_eq!(
        (
            opened("principal=a;"),
            opened("endpoint=outlook.contoso.com;")
        ),
        (1, 1)
    );
    // Also if no call comes.
    ledger.close_gate(&of("b"), Instant::now() + secs(5));
    ledger.close_endpoint_gate(&host(), Instant::now() + secs(5));
    nothing_left(&ledger).await;
    assert_eq!(
        (
            opened("principal=b;"),
            opened("endpoint=outlook.contoso.com;")
        ),
        (1, 2)
    );
    assert_eq!(
        (
            closed("principal=b;"),
            closed("endpoint=outlook.contoso.com;")
        ),
        (1, 2)
    );
}

#[cfg(feature = "serde")]
#[test]
fn what_cannot_be_taken_in_is_told_once() {
    let saved = r#"{"at": 1e308, "gates": [{"principal": "nobody", "closed": 1.0}], "budgets": [
        {"principal": "other:b", "budget": "SyncCalls", "known": {"Limit": 2}},
        {"principal": "nobody", "budget": "Requests", "known": {"Limit": 2}},
        {"principal": "other:b", "budget": "Concurrency", "known": {"Limit": 2}}]}"#;
    let ledger = ledger(1);
    let (events, _guard) = listen(&ledger);
    ledger.import(&serde_json::from_str(saved).unwrap());
    ledger.import(&ledger.export());
    let told = ["left_out=3;", "of=4;", "first=SyncCalls of other:b;"];
    assert_eq!(count(&events, &told), 1, "{:?}", events.lock());
    assert_eq!(events.lock().len(), 1);
}
