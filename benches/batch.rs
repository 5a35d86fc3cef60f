//! How fast bodies are read, cut into parts, and their responses put together, beside memcpy, a bare `memchr('<')` pass and
//! quick-xml's `NsReader`.
//!
//! `cargo bench --bench batch` prints a table and writes `target/bench/batch.json`; `-- --quick` takes under a minute.
//!
//! - `outline` finds what matters in the body: of a request operation and members (`Outline::parse`), of a response its messages
//!   and their codes (`SoapResponse::parse`).
//! - `split` cuts the request into parts of 20 members, its outline known. The requests of the `get_` bodies are 200 item ids.
//! - `merge` reads the responses to those parts and puts them together into one. The response to `create_1mb` is 200 item ids.
//! - `plain` and `gzip` read a response to its end through the stack, in frames of 16 KiB: what compression costs, in megabytes of the
//!   decompressed body, and what it saves, in bytes over the wire.
//! - Megabytes are those of the body that the operation reads, and memchr reads the same ones. BatchStats are medians of rounds, the
//!   cases of a body in turns; the ratio is the median of the rounds' ratios. Copied bytes are those of the result that do not lie in the
//!   caller's buffers.
//!
//! The rows below the line are no part of the file: small calls, a list of 2,000 ids, and one with 200 more namespaces around it.

#[path = "batch/bodies.rs"]
mod bodies;
#[path = "overhead/results.rs"]
mod results;

use std::convert::Infallible;
use std::future::ready;
use std::hint::black_box;
use std::io::Write;
use std::pin::pin;
use std::time::{Duration, Instant};
use std::{env, io};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::{HeaderValue, Request, Response, response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use quick_xml::events::Event;
use quick_xml::reader::NsReader;
use serde::Serialize;
use tower::ServiceExt;
use tower_ews::EwsStack;
use tower_ews::batch_splitter::{Batch, BatchFormat, EwsBatchFormat, PartResponse};
use tower_ews::body::ReplayBody;
use tower_ews::body::Rope;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::soap::{Outline, SoapResponse};

use results::round;

/// Members in a part.
const PART: usize = 20;

/// A row of the file.
#[derive(Serialize)]
struct Line {
    name: String,
    mb_s: f64,
    memchr_mb_s: f64,
    ratio: f64,
    copied_bytes: u64,
    allocations: u64,
    /// Of a response through the stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    wire_bytes: Option<u64>,
}

fn main() -> io::Result<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let time = Duration::from_millis(if quick { 700 } else { 5000 });
    println!(
        "{:<22} {:>9} {:>9} {:>6} {:>9} {:>9} {:>8} {:>7}",
        "MB/s", "ours", "memchr", "ratio", "memcpy", "quick-xml", "copied", "allocs"
    );
    let mut file = Vec::new();
    for case in cases() {
        let row = case.measure(time);
        println!(
            "{:<22} {:>9.0} {:>9.0} {:>6.2} {:>9.0} {:>9.0} {:>8} {:>7}",
            case.name,
            row.ours,
            row.memchr,
            row.ratio,
            row.memcpy,
            row.quick_xml,
            row.copied,
            row.allocations
        );
        if let Some(wire) = case.wire {
            println!(
                "{:>22} {wire} of {} bytes over the wire",
                "",
                case.read.len()
            );
        }
        file.push(Line {
            name: case.name.to_string(),
            mb_s: round(row.ours),
            memchr_mb_s: round(row.memchr),
            ratio: round(row.ratio),
            copied_bytes: row.copied,
            allocations: row.allocations,
            wire_bytes: case.wire,
        });
    }
    println!();
    for case in small_cases() {
        let row = case.measure(time);
        let ns = case.read.len() as f64 * 1000.0 / row.ours;
        println!(
            "{:<22} {:>9.0} {:>9.0} {:>6.2} {:>38.0} ns {:>4}",
            case.name, row.ours, row.memchr, row.ratio, ns, row.allocations
        );
    }
    results::write("batch", &file)
}

/// An operation on a body. It tells how many bytes it has copied.
struct Case {
    name: String,
    /// The bytes that it reads.
    read: Vec<u8>,
    run: Box<dyn Fn() -> u64>,
    /// How many bytes come over the wire, if that is what it measures.
    wire: Option<u64>,
}

struct Row {
    ours: f64,
    memchr: f64,
    ratio: f64,
    memcpy: f64,
    quick_xml: f64,
    copied: u64,
    allocations: u64,
}

fn cases() -> Vec<Case> {
    let get = bodies::get(bodies::MEMBERS);
    let bodies = [
        ("create_1mb", bodies::create_1mb(), bodies::created()),
        ("get_10mb_html", get.clone(), bodies::get_10mb_html()),
        ("get_10mb_mime", get.clone(), bodies::get_10mb_mime()),
        ("get_10mb_dense", get, bodies::get_10mb_dense()),
    ];
    let mut cases = Vec::new();
    for (name, request, response) in bodies {
        cases.push(match name {
            "create_1mb" => outline(name, request.clone()),
            _ => messages(name, response.clone()),
        });
        if name != "create_1mb" {
            cases.push(through_the_stack(
                "plain",
                name,
                &response,
                response.clone(),
            ));
            cases.push(through_the_stack("gzip", name, &response, gzip(&response)));
        }
        cases.push(split(name, request.clone()));
        cases.push(merge(name, request, response));
    }
    cases
}

fn small_cases() -> Vec<Case> {
    let targets = |name, body: Vec<u8>| {
        let read = body.clone();
        let outline = Outline::parse(&body).expect("an outline");
        Case::new("targets", name, read, move || {
            black_box(outline.targets(black_box(&body)));
            0
        })
    };
    vec![
        outline("create_2kb", bodies::create_2kb()),
        targets("create_2kb", bodies::create_2kb()),
        messages("get_2kb", bodies::get_2kb()),
        outline("get_2000_ids", bodies::get(2000)),
        targets("get_2000_ids", bodies::get(2000)),
        // Its megabytes per second are those of the row above, however many there are. quick-xml takes 256.
        targets("get_declaring", bodies::get_declaring(2000, 200)),
    ]
}

fn outline(name: &str, body: Vec<u8>) -> Case {
    Case::new("outline", name, body.clone(), move || {
        black_box(Outline::parse(black_box(&body))).expect("an outline");
        0
    })
}

fn messages(name: &str, body: Vec<u8>) -> Case {
    Case::new("outline", name, body.clone(), move || {
        black_box(SoapResponse::parse(black_box(&body))).expect("a response");
        0
    })
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).expect("memory");
    encoder.finish().expect("memory")
}

/// Reads `response` through the stack, which comes over the wire as `wire`.
fn through_the_stack(coding: &'static str, name: &str, reply: &[u8], wire: Vec<u8>) -> Case {
    let wire = Bytes::from(wire);
    let length = wire.len() as u64;
    let client = tower::service_fn(move |_: Request<ReplayBody>| {
        let wire = wire.clone();
        let frames = (0..wire.len()).step_by(16 * 1024).map(move |at| {
            let end = wire.len().min(at + 16 * 1024);
            Ok::<_, Infallible>(Frame::data(wire.slice(at..end)))
        });
        let mut response = Response::new(StreamBody::new(stream::iter(frames)));
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("text/xml"));
        if coding == "gzip" {
            headers.insert("content-encoding", HeaderValue::from_static(coding));
        }
        ready(Ok::<_, Infallible>(response))
    });
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online()).service(client);
    let request = Bytes::from(bodies::get(1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let expected = reply.len();
    let mut case = Case::new(coding, name, reply.to_vec(), move || {
        let call = async {
            let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
                .body(Full::new(request.clone()))
                .expect("a request");
            let response = stack.clone().oneshot(request).await.expect("a response");
            let mut body = pin!(response.into_body());
            let mut bytes = 0;
            while let Some(frame) = body.frame().await {
                bytes += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
            }
            assert_eq!(bytes, expected);
        };
        runtime.block_on(call);
        0
    });
    case.wire = Some(length);
    case
}

fn split(name: &str, body: Vec<u8>) -> Case {
    let read = body.clone();
    let bytes = Bytes::from(body);
    let request = Request::new(ReplayBody::from(bytes.clone()));
    request.body().outline().expect("an outline");
    let parts: Vec<Vec<usize>> = parts();
    Case::new("split", name, read, move || {
        let batch = EwsBatchFormat::new().batch(black_box(&request));
        let mut batch = batch.expect("a batch");
        let parts = parts.iter().map(|members| black_box(batch.part(members)));
        parts
            .map(|part| copied(part.pieces(), std::slice::from_ref(&bytes)))
            .sum()
    })
}

fn merge(name: &str, request: Vec<u8>, reply: Vec<u8>) -> Case {
    let parsed = SoapResponse::parse(&reply).expect("a response");
    let list = parsed.list_content.clone().expect("a list");
    let slice = |from: u64, to: u64| reply[from as usize..to as usize].to_vec();
    let entries: Vec<Vec<u8>> = parsed
        .entries()
        .map(|entry| slice(entry.range.start, entry.range.end))
        .collect();
    let responses: Vec<Bytes> = entries
        .chunks(PART)
        .map(|entries| {
            let behind = slice(list.end, reply.len() as u64);
            [slice(0, list.start), entries.concat(), behind]
                .concat()
                .into()
        })
        .collect();
    let read = responses.concat();
    let request = Request::new(ReplayBody::from(request));
    let (head, ()): (response::Parts, ()) = Response::new(()).into_parts();
    let parts = parts();
    Case::new("merge", name, read, move || {
        let mut batch = EwsBatchFormat::new().batch(&request).expect("a batch");
        let mut whole = Rope::new();
        let mut end = Rope::new();
        for (members, reply) in parts.iter().zip(&responses) {
            let body = [reply.clone()].into_iter().collect();
            let PartResponse::Messages { frame, messages } = batch.response(members, &head, body)
            else {
                panic!("no messages");
            };
            if whole.is_empty() {
                whole.append(frame.0);
            }
            end = frame.1;
            for message in messages {
                whole.append(message.bytes);
            }
        }
        whole.append(end);
        copied(black_box(&whole).pieces(), &responses)
    })
}

fn parts() -> Vec<Vec<usize>> {
    let members: Vec<usize> = (0..bodies::MEMBERS).collect();
    members.chunks(PART).map(<[usize]>::to_vec).collect()
}

/// How many bytes of the pieces lie in none of the buffers.
fn copied(pieces: &[Bytes], buffers: &[Bytes]) -> u64 {
    let lies_in = |piece: &Bytes, buffer: &Bytes| {
        let (piece, buffer) = (piece.as_ptr_range(), buffer.as_ptr_range());
        buffer.start <= piece.start && piece.end <= buffer.end
    };
    let copies = pieces
        .iter()
        .filter(|piece| !buffers.iter().any(|buffer| lies_in(piece, buffer)));
    copies.map(|piece| piece.len() as u64).sum()
}

impl Case {
    fn new(operation: &str, name: &str, read: Vec<u8>, run: impl Fn() -> u64 + 'static) -> Case {
        Case {
            name: format!("{operation}/{name}"),
            read,
            run: Box::new(run),
            wire: None,
        }
    }

    fn measure(&self, time: Duration) -> Row {
        let read = black_box(&*self.read);
        let mut copy = read.to_vec();
        let mut copied = 0;
        let allocations = allocation_counter::measure(|| copied = (self.run)()).count_total;
        // One that is read in no time is read more often at a stretch.
        let calls = (2_000_000 / read.len()).max(1);
        let speed = |run: &mut dyn FnMut()| {
            let begin = Instant::now();
            (0..calls).for_each(|_| run());
            let bytes = read.len() as f64 * calls as f64;
            bytes / begin.elapsed().as_secs_f64() / 1e6
        };
        let (mut ours, mut memchr, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let begin = Instant::now();
        while ours.len() < 10 || begin.elapsed() < time {
            let our = speed(&mut || {
                black_box((self.run)());
            });
            let bare = speed(&mut || {
                black_box(memchr::memchr_iter(b'<', black_box(read)).fold(0, |sum, at| sum ^ at));
            });
            ours.push(our);
            memchr.push(bare);
            ratios.push(our / bare);
        }
        let few = |run: &mut dyn FnMut()| median((0..7).map(|_| speed(run)).collect());
        Row {
            ours: median(ours),
            memchr: median(memchr),
            ratio: median(ratios),
            memcpy: few(&mut || black_box(&mut copy).copy_from_slice(black_box(read))),
            quick_xml: few(&mut || {
                black_box(members_by_ns_reader(black_box(read)));
            }),
            copied,
            allocations,
        }
    }
}

/// What one writes with quick-xml's reader to find the members: down to the array event by event, over its members by
/// `read_to_end`.
fn members_by_ns_reader(body: &[u8]) -> usize {
    let mut reader = NsReader::from_reader(body);
    let mut members = 0;
    let mut depth = 0;
    loop {
        match reader.read_resolved_event().expect("an event").1 {
            Event::Start(start) if depth == 4 => {
                reader.read_to_end(start.name()).expect("an end");
                members += 1;
            }
            Event::Start(_) => depth += 1,
            Event::Empty(_) if depth == 4 => members += 1,
            Event::End(_) => depth -= 1,
            Event::Eof => return members,
            _ => {}
        }
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
