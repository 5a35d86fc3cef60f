//! What a record of each call costs, beside tower-http's `TraceLayer`.
//!
//! `cargo bench --bench audit` prints a table and writes `target/bench/audit.json`; `-- --quick` takes under a minute.
//!
//! All figures are net, as in `overhead`: what a call through the layer takes beyond the same call to the bare service. Records go through
//! the JSON Lines sink to a writer that drops them, and so do the peer's events. A line below tells how many records the sink takes in a second.
//!
//! Where the system puts a process's stack moves a figure by some 10 ns, as much as is asked of `off`: all are means over a dozen
//! processes of this bench.

#[allow(dead_code, reason = "other benches have other requests")]
#[path = "overhead/bare.rs"]
mod bare;
#[allow(dead_code, reason = "all rows are in the file")]
#[path = "overhead/harness.rs"]
mod harness;
#[path = "overhead/null_json.rs"]
mod null_json;
#[path = "overhead/results.rs"]
mod results;

use std::fmt::Debug;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use serde::Serialize;
use tower::{Layer, Service};
use tower_ews::audit_log::{AuditLogLayer, EwsFacts, Level, MemorySink, Sink};
use tower_ews::body::ReplayBody;
use tower_http::trace::TraceLayer;
use tracing::Dispatch;

use bare::{Bare, REQUEST, call, request};
use harness::{Group, Net};
use null_json::{json_sink, json_subscriber};
use results::round;

/// Records per second of the sink alone: summaries of one attempt, until the last of them is with the writer.
fn records_per_second(time: Duration) -> io::Result<f64> {
    let memory = MemorySink::new();
    let layer = AuditLogLayer::new(memory.clone()).facts(EwsFacts::new());
    let mut service = layer.layer(Bare::new());
    call(&mut service, request(outlined()));
    let records = memory.take();
    let record = records.first().ok_or(io::ErrorKind::NotFound)?;
    let sink = json_sink()?;
    let begin = Instant::now();
    let mut count = 0_u32;
    while begin.elapsed() < time {
        (0..10_000).for_each(|_| sink.record(black_box(record)));
        count += 10_000;
    }
    sink.flush();
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

const CALLS: usize = 2_000;

fn outlined() -> ReplayBody {
    let body = ReplayBody::from(REQUEST.clone());
    body.outline().expect("an outline");
    body.targets();
    body
}

/// Calls with that body, with that subscriber if there is one.
fn with_body<S, B, R>(
    mut service: S,
    body: B,
    subscriber: Option<Dispatch>,
) -> impl FnMut(usize) + 'static
where
    S: Service<Request<B>, Response = Response<R>> + 'static,
    S::Error: Debug,
    B: Clone + 'static,
    R: Body,
    R::Error: Debug,
{
    move |calls| {
        let mut run = || {
            for _ in 0..calls {
                call(&mut service, request(body.clone()));
            }
        };
        match &subscriber {
            Some(subscriber) => tracing::dispatcher::with_default(subscriber, run),
            None => run(),
        }
    }
}

fn group() -> io::Result<Group> {
    let mut group = Group::new(CALLS);
    let bare = group.case(with_body(Bare::new(), outlined(), None));
    let full = Full::new(REQUEST.clone());
    let bare_full = group.case(with_body(Bare::new(), full.clone(), None));
    let net = |case, bare| Net {
        case,
        bare: Some(bare),
    };
    let trace = || TraceLayer::new_for_http().layer(Bare::new());
    let silent = group.case(with_body(trace(), full.clone(), None));
    let loud = group.case(with_body(trace(), full.clone(), Some(json_subscriber())));
    let with_subscriber = "tower-http TraceLayer, tracing-subscriber's JSON into a null writer";
    let rows = [
        (
            "off",
            Level::Off,
            "tower-http TraceLayer without a subscriber",
            silent,
            None,
        ),
        ("summary", Level::Summary, with_subscriber, loud, Some(1.0)),
        ("headers", Level::Headers, with_subscriber, loud, None),
        ("full", Level::Full, with_subscriber, loud, None),
    ];
    for (name, level, peer, theirs, limit) in rows {
        let layer = AuditLogLayer::new(json_sink()?)
            .facts(EwsFacts::new())
            .level(level);
        let ours = group.case(with_body(layer.layer(Bare::new()), outlined(), None));
        group.row(
            name,
            peer,
            net(ours, bare),
            vec![net(theirs, bare_full)],
            limit,
        );
    }
    Ok(group)
}

/// A row of the file.
#[derive(Serialize)]
struct Line {
    name: &'static str,
    ns: f64,
    peer: &'static str,
    peer_ns: f64,
    ratio: f64,
}

/// How many processes measure, and what tells one that it is one of them.
const PROCESSES: u32 = 12;
const ONE_OF_MANY: &str = "--one-of-many";

/// Nanoseconds, the peer's, and the ratio of a row.
type BatchStats = (f64, f64, f64);

/// The means of what several processes measure one after the other, row by row.
fn means(quick: bool, rows: usize) -> io::Result<Vec<BatchStats>> {
    let mut means = vec![(0.0, 0.0, 0.0); rows];
    for _ in 0..PROCESSES {
        let mut process = Command::new(env::current_exe()?);
        process.arg(ONE_OF_MANY).args(quick.then_some("--quick"));
        let output = process.stderr(Stdio::inherit()).output()?;
        let measured: Vec<BatchStats> = serde_json::from_slice(&output.stdout)?;
        for (mean, row) in means.iter_mut().zip(measured) {
            let share = f64::from(PROCESSES);
            mean.0 += row.0 / share;
            mean.1 += row.1 / share;
            mean.2 += row.2 / share;
        }
    }
    Ok(means)
}

fn main() -> io::Result<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let time = Duration::from_secs(if quick { 18 } else { 60 });
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build()?;
    let _entered = runtime.enter();
    let mut group = group()?;
    if env::args().any(|argument| argument == ONE_OF_MANY) {
        let samples = group.measure(time / PROCESSES);
        let rows = group.rows.iter().map(|row| samples.medians(row));
        println!("{}", serde_json::to_string(&rows.collect::<Vec<_>>())?);
        return Ok(());
    }
    let means = means(quick, group.rows.len())?;
    let mut file = Vec::new();
    println!(
        "{:<10} {:>7} {:>7} {:>6}  limit        peer",
        "ns, net", "ours", "peer", "ratio"
    );
    for (row, (ns, peer_ns, ratio)) in group.rows.iter().zip(means) {
        let (met, limit) = match row.limit {
            Some(limit) => (ratio <= limit, format!("{limit:.1} x")),
            None if row.name == "off" => (ns <= 10.0, "10 ns".into()),
            None => (true, String::new()),
        };
        let verdict = match (limit.is_empty(), met) {
            (true, _) => "",
            (false, true) => "met",
            (false, false) => "NOT MET",
        };
        println!(
            "{:<10} {ns:>7.1} {peer_ns:>7.1} {ratio:>6.2}  {:<13}  {}",
            row.name,
            format!("{limit} {verdict}"),
            row.peer
        );
        file.push(Line {
            name: row.name,
            ns: round(ns),
            peer: row.peer,
            peer_ns: round(peer_ns),
            ratio: round(ratio),
        });
    }
    let rate = records_per_second(time / 10)?;
    println!("records per second of the JSON sink, from one thread: {rate:.0}");
    results::write("audit", &file)
}
