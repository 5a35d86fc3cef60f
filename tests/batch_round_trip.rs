//! Every operation that may be cut, from a caller's request to its response: what comes through the splitter says the same as what
//! the server says to the request as it is.

mod batch_server;
mod schema;

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::batch_splitter::{
    Batch, BatchError, BatchFormat, BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat,
    Idempotency,
};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Deadline;
use tower_ews::soap::{Operation, SoapResponse, Split};
use tower_ews::trail::{PartOfBatch, RetryAttempt};

use self::batch_server::requests::{CASES, Case};
use self::batch_server::service::{Reply, TableServer, chopped, meaning};
use self::batch_server::untouched::{nearly_untouched, untouched};
use self::batch_server::{Fortune, Seen, Style, fault, one_error, reply};

const URL: &str = "https://ews.contoso.com/EWS/Exchange.asmx?a=b";

fn random() -> fastrand::Rng {
    let seed = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("EWS_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn operation(case: &Case) -> Operation {
    Operation::by_name(case.operation).unwrap()
}

fn in_order(case: &Case) -> bool {
    let mut members = case.arrays.iter().flat_map(|(_, kinds)| *kinds);
    match operation(case).split() {
        Split::SafeSequential => true,
        Split::SafeUnlessOccurrences => members.any(|member| member.contains("Occurrence")),
        _ => false,
    }
}

fn post(body: ReplayBody) -> Request<ReplayBody> {
    Request::post(URL)
        .header("authorization", "Bearer abc")
        .header("content-type", "text/xml; charset=utf-8")
        .header("content-length", body.len())
        .header("accept-encoding", "gzip")
        .header("transfer-encoding", "chunked")
        .header("trailer", "x-after")
        .header("content-md5", "Q2hlY2sgSW50ZWdyaXR5IQ==")
        .header("content-digest", "sha-256=:AAAA:")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .body(body)
        .unwrap()
}

/// A response that has come to its end.
#[derive(Debug)]
struct Ended {
    head: http::response::Parts,
    text: String,
    stats: Option<BatchStats>,
}

impl Ended {
    fn number(&self) -> usize {
        self.head.headers["x-number"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    /// The codes of its entries, in their order.
    fn codes(&self) -> Vec<String> {
        let response = SoapResponse::parse(self.text.as_bytes()).unwrap();
        let codes = response
            .entries()
            .map(|entry| entry.code.as_str().to_owned());
        codes.collect()
    }
}

/// Reads a response; what its head and its size hints promise is kept.
async fn read<B>(response: Response<B>) -> Ended
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let mut hints = vec![body.size_hint()];
    let (mut text, mut places) = (Vec::new(), vec![0]);
    while let Some(frame) = body.frame().await {
        text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        hints.push(body.size_hint());
        places.push(text.len());
    }
    // The server's own bodies promise nothing.
    assert!(body.is_end_stream() || head.extensions.get::<BatchReport>().is_none());
    for (hint, place) in hints.iter().zip(places) {
        let left = (text.len() - place) as u64;
        assert!(hint.lower() <= left);
        assert!(hint.upper().is_none_or(|upper| upper == left), "{hint:?}");
    }
    let stats = head.extensions.get().map(BatchReport::stats);
    if let Some(length) = head.headers.get("content-length") {
        assert_eq!(length.to_str().unwrap(), text.len().to_string());
        let exact = hints[0].exact();
        assert!(stats.is_none() || exact == Some(text.len() as u64));
    }
    Ended {
        stats,
        head,
        text: String::from_utf8(text).unwrap(),
    }
}

fn layer(members: usize) -> BatchSplitterLayer<EwsBatchFormat> {
    BatchSplitterLayer::new(EwsBatchFormat::new())
        .start_members(members)
        .max_members(members)
        .seed(7)
}

async fn send(
    layer: BatchSplitterLayer<EwsBatchFormat>,
    server: &TableServer,
    request: Request<ReplayBody>,
) -> Result<Ended, BoxError> {
    Ok(read(layer.layer(server.clone()).oneshot(request).await?).await)
}

/// The response to the request as it is.
async fn unsplit(server: &TableServer, request: &str) -> Ended {
    let request = post(request.to_owned().into());
    read(server.clone().oneshot(request).await.unwrap()).await
}

/// A response that says in the server's version which one it is.
fn numbered(response: String, number: usize) -> String {
    let version = format!("MajorVersion=\"15\" MinorVersion=\"{number}\"");
    response.replacen("MajorVersion=\"15\"", &version, 1)
}

/// What a response says, apart from its number.
fn said(text: &str) -> Vec<String> {
    let lines = meaning(text).into_iter();
    lines
        .filter(|line| !line.contains("}ServerVersionInfo "))
        .collect()
}

/// What is written down for each schema.
#[derive(Default)]
struct Texts(Vec<(&'static Case, bool, String)>);

impl Texts {
    fn requests(&mut self, case: &'static Case, server: &TableServer) {
        for got in server.got() {
            let text = String::from_utf8(got.body.to_vec()).unwrap();
            self.0.push((case, true, text));
        }
    }

    fn response(&mut self, case: &'static Case, reply: &Ended) {
        let text = reply.text.clone();
        self.0.push((case, false, text));
    }

    /// Each of them keeps Exchange's schema.
    fn check(mut self, test: &str) {
        self.0.sort_by(|one, other| {
            let of = |(case, request, _): &(&Case, bool, String)| (case.operation, *request);
            (of(one), &one.2).cmp(&(of(other), &other.2))
        });
        self.0.dedup_by(|one, other| one.2 == other.2);
        for schema in schema::schemas() {
            let names = std::fs::read_to_string(schema.with_file_name("messages.xsd")).unwrap();
            let known: Vec<String> = self
                .0
                .iter()
                .filter(|(case, request, text)| case.is_in_schema(&names, *request, text))
                .map(|(.., text)| text.clone())
                .collect();
            // The oldest schema knows nine operations of ten, and how many different texts each has is drawn.
            assert!(known.len() * 5 > self.0.len() * 4);
            // It would see an error if there was one.
            let wrong = known[0].replacen("ResponseCode>", "ResponseKode>", 2);
            let wrong = wrong.replacen("ItemIds>", "ItemIdz>", 2);
            assert_ne!(wrong, known[0]);
            assert!(schema::complaint(test, &schema, &[wrong]).is_some());
            for some in known.chunks(500) {
                if let Some(complaint) = schema::complaint(test, &schema, some) {
                    let errors: Vec<&str> = complaint
                        .lines()
                        .filter(|line| !line.ends_with(" validates"))
                        .collect();
                    panic!("{}: {}", schema.display(), errors.join("\n"));
                }
            }
            println!("{} texts keep {}", known.len(), schema.display());
        }
    }
}

#[test]
fn every_operation_is_in_the_table() {
    let splittable = Operation::all().filter(|operation| {
        !matches!(
            operation.split(),
            Split::ChangesMeaning | Split::NotApplicable
        )
    });
    // It goes through untouched all the same.
    let splittable = splittable.filter(|one| one.name() != "GetServiceConfiguration");
    let names: Vec<&str> = splittable.map(Operation::name).collect();
    let mut cases: Vec<&str> = CASES.iter().map(|case| case.operation).collect();
    cases.sort_unstable();
    cases.dedup();
    assert_eq!(names, cases);
}

#[tokio::test(start_paused = true)]
async fn the_response_says_what_it_says_to_the_whole_request() {
    let mut random = random();
    let mut texts = Texts::default();
    let mut rounds = 0;
    for case in CASES {
        for asked in Style::ALL {
            for parallel in [1, 3] {
                let members = random.usize(6..20);
                let size = random.usize(1..5);
                let responded = random.choice(Style::ALL).unwrap();
                // All responses in one style, or each in another.
                let turns = random.bool();
                let serve = move |number: usize, seen: &Seen| {
                    let at = Style::ALL.iter().position(|style| *style == responded);
                    let style = match turns {
                        true => Style::ALL[(at.unwrap() + number) % 4],
                        false => responded,
                    };
                    let text = reply(seen, style, |member| match member.token.as_deref() {
                        Some("tok-0004") if !case.lists => Fortune::error("ErrorItemNotFound"),
                        _ => Fortune::Done,
                    });
                    Reply::Xml(200, numbered(text, number))
                };
                let request = case.request(asked, members);
                let whole = unsplit(&TableServer::new(0, serve), &request).await;
                let body = match random.bool() {
                    true => ReplayBody::from(request),
                    false => ReplayBody::from_pieces(chopped(request.as_bytes(), &mut random)),
                };
                let server = TableServer::new(random.u64(..), serve);
                let layer = layer(size).parallel(parallel);
                let merged = send(layer, &server, post(body)).await.unwrap();
                let about = format!("{} {asked:?} {responded:?} {turns}", case.operation);
                assert_eq!(said(&merged.text), said(&whole.text), "{about}");
                if !case.lists {
                    assert_eq!(merged.codes().len(), members);
                    let done = merged
                        .codes()
                        .iter()
                        .filter(|code| *code == "NoError")
                        .count();
                    assert_eq!(done, members - 1);
                }

                // The head, and the version, are those of the first response.
                let first = merged.number();
                assert!(meaning(&merged.text)[2].contains(&format!("MinorVersion=\"{first}\"")));
                assert_eq!(merged.head.status, 200);
                // Those of one part.
                for name in ["transfer-encoding", "trailer", "content-md5"] {
                    assert!(!merged.head.headers.contains_key(name), "{name}");
                }
                assert_eq!(
                    merged.head.headers["content-type"],
                    "text/xml; charset=utf-8"
                );
                if parallel == 1 || in_order(case) {
                    assert_eq!(first, 0);
                    let whole = meaning(&whole.text);
                    assert_eq!(meaning(&merged.text), whole, "{about}");
                    assert_eq!(server.most_at_once(), 1);
                } else if members > size {
                    assert!(server.most_at_once() > 1);
                }
                let writes = !operation(case).is_read();
                if writes {
                    assert!(merged.head.headers.contains_key("content-length"));
                }
                let stats = merged.stats.unwrap();
                assert_eq!((stats.members, stats.resent), (members, 0));
                assert_eq!((stats.unknown, stats.not_executed), (0, 0));
                assert!(stats.complete);

                // What was sent: each member once, in order, with the caller's head.
                let got = server.got();
                assert_eq!(
                    (got.len(), stats.parts as usize),
                    (members.div_ceil(size), got.len())
                );
                let mut numbers = Vec::new();
                for got in &got {
                    assert_eq!(
                        (&got.method, got.uri.to_string()),
                        (&http::Method::POST, URL.to_owned())
                    );
                    assert_eq!(got.promised, Some(got.body.len() as u64));
                    let names = ["authorization", "content-type", "x-twice", "x-twice"];
                    let mut came: Vec<&str> =
                        got.headers.iter().map(|(name, _)| name.as_str()).collect();
                    came.sort_unstable();
                    assert_eq!(came, names);
                    let seen = Seen::read(&got.body);
                    assert_eq!(seen.operation, case.operation);
                    numbers.extend(seen.numbers());
                }
                assert_eq!(numbers, (0..members).collect::<Vec<_>>());
                texts.requests(case, &server);
                texts.response(case, &merged);
                rounds += 1;
            }
        }
    }
    assert_eq!(rounds, CASES.len() * 8);
    println!("{rounds} round trips of {} kinds of batches", CASES.len());
    texts.check("batch_round_trip");
}

/// What goes wrong with a batch of nine members in parts of three, and what stands at the members' places in the end.
struct Trouble {
    name: &'static str,
    serve: fn(&Case, usize, &Seen, Style) -> Reply,
    expected: fn(Idempotency) -> [&'static str; 9],
    /// Of the members: those whose outcome is unknown, and those that were not executed.
    stats: fn(Idempotency) -> (usize, usize),
}

const OK: &str = "NoError";
const BUSY: &str = "ErrorServerBusy";
const DENIED: &str = "ErrorAccessDenied";
const STOPPED: &str = "ErrorBatchProcessingStopped";
const UNKNOWN: &str = "ErrorInternalServerError";
const SCHEMA: &str = "ErrorSchemaValidation";
const NO_FOLDER: &str = "ErrorToFolderNotFound";

fn by_member(seen: &Seen, style: Style, fortune: impl Fn(Option<usize>) -> Fortune) -> Reply {
    let number = |token: &Option<String>| token.as_ref().and_then(|token| token[4..].parse().ok());
    Reply::Xml(
        200,
        reply(seen, style, |member| fortune(number(&member.token))),
    )
}

fn second(members: &'static str) -> [&'static str; 9] {
    [OK, OK, OK, members, members, members, OK, OK, OK]
}

/// What the caller gets if one member has this code.
fn fourth(code: &str) -> [&str; 9] {
    [OK, OK, OK, OK, code, OK, OK, OK, OK]
}

/// Whether a part has that member. Where nobody can tell, it may have it.
fn has_fourth(seen: &Seen) -> bool {
    let mut members = seen.members.iter();
    members.any(|member| member.token.is_none() || member.number() == 4)
}

const TROUBLES: &[Trouble] = &[
    Trouble {
        name: "throttled to the end",
        serve: |_, _, seen, style| {
            by_member(seen, style, |member| match member {
                Some(4) | None => Fortune::busy(1_500),
                _ => Fortune::Done,
            })
        },
        expected: |_| [OK, OK, OK, OK, BUSY, OK, OK, OK, OK],
        stats: |_| (0, 1),
    },
    Trouble {
        name: "a part is lost",
        serve: |_, number, seen, style| match number {
            1 => Reply::Lost,
            _ => by_member(seen, style, |_| Fortune::Done),
        },
        expected: |idempotency| match idempotency {
            Idempotency::NonIdempotent => second(UNKNOWN),
            _ => [OK; 9],
        },
        stats: |idempotency| match idempotency {
            Idempotency::NonIdempotent => (3, 0),
            _ => (0, 0),
        },
    },
    Trouble {
        name: "the first part is lost",
        serve: |_, number, seen, style| match number {
            0 => Reply::Lost,
            _ => by_member(seen, style, |_| Fortune::Done),
        },
        expected: |idempotency| match idempotency {
            Idempotency::NonIdempotent => [UNKNOWN, UNKNOWN, UNKNOWN, OK, OK, OK, OK, OK, OK],
            _ => [OK; 9],
        },
        stats: |idempotency| match idempotency {
            Idempotency::NonIdempotent => (3, 0),
            _ => (0, 0),
        },
    },
    Trouble {
        name: "each part with one member is lost",
        serve: |_, _, seen, style| match has_fourth(seen) {
            true => Reply::Lost,
            false => by_member(seen, style, |_| Fortune::Done),
        },
        // It makes no difference to a read whether it was executed. Those beside it are not sent again if that does harm.
        expected: |idempotency| match idempotency {
            Idempotency::NonIdempotent => second(UNKNOWN),
            Idempotency::Safe => fourth(STOPPED),
            _ => fourth(UNKNOWN),
        },
        stats: |idempotency| match idempotency {
            Idempotency::NonIdempotent => (3, 0),
            Idempotency::Safe => (0, 1),
            _ => (1, 0),
        },
    },
    Trouble {
        // One of its members may be to blame, so that they are sent by themselves.
        name: "a part is refused with a fault once",
        serve: |_, number, seen, style| match number {
            1 => Reply::Xml(500, fault(SCHEMA, None)),
            _ => by_member(seen, style, |_| Fortune::Done),
        },
        expected: |_| [OK; 9],
        stats: |_| (0, 0),
    },
    Trouble {
        name: "each part with one member is refused with a fault",
        serve: |_, _, seen, style| match has_fourth(seen) {
            true => Reply::Xml(500, fault(SCHEMA, None)),
            false => by_member(seen, style, |_| Fortune::Done),
        },
        expected: |_| fourth(SCHEMA),
        stats: |_| (0, 1),
    },
    Trouble {
        name: "a part is refused with a fault that nobody knows",
        serve: |_, number, seen, style| match number {
            1 => Reply::Xml(500, fault("ErrorInvalidUnheardOf", None)),
            _ => by_member(seen, style, |_| Fortune::Done),
        },
        // Nobody knows either whether it was executed.
        expected: |idempotency| match idempotency {
            Idempotency::NonIdempotent => second(UNKNOWN),
            _ => [OK; 9],
        },
        stats: |idempotency| match idempotency {
            Idempotency::NonIdempotent => (3, 0),
            _ => (0, 0),
        },
    },
    Trouble {
        name: "the credentials expire",
        serve: |_, number, seen, style| match number {
            0 => by_member(seen, style, |_| Fortune::Done),
            _ => Reply::Xml(401, String::new()),
        },
        expected: |_| {
            [
                OK, OK, OK, STOPPED, STOPPED, STOPPED, STOPPED, STOPPED, STOPPED,
            ]
        },
        stats: |_| (0, 6),
    },
    Trouble {
        // The server stops what stands behind it in one request: in all of the whole one, in one part here.
        name: "a member stops those behind it",
        serve: |_, _, seen, style| {
            let stops = has_fourth(seen);
            by_member(seen, style, |member| match member {
                Some(4) | None => Fortune::error(DENIED),
                Some(5..) if stops => Fortune::STOPPED,
                _ => Fortune::Done,
            })
        },
        expected: |_| [OK, OK, OK, OK, DENIED, OK, OK, OK, OK],
        stats: |_| (0, 0),
    },
    Trouble {
        name: "a member is stopped to the end",
        serve: |_, _, seen, style| {
            by_member(seen, style, |member| match member {
                Some(8) | None => Fortune::STOPPED,
                _ => Fortune::Done,
            })
        },
        expected: |_| [OK, OK, OK, OK, OK, OK, OK, OK, STOPPED],
        stats: |_| (0, 1),
    },
    Trouble {
        name: "one error for all of each part with one member",
        serve: |case, _, seen, style| match has_fourth(seen) {
            true if !case.lists => Reply::Xml(200, one_error(seen, style, NO_FOLDER)),
            true => by_member(seen, style, |_| Fortune::error(NO_FOLDER)),
            false => by_member(seen, style, |_| Fortune::Done),
        },
        // Alone, it is its own message.
        expected: |_| fourth(NO_FOLDER),
        stats: |_| (0, 0),
    },
];

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_stands_at_its_place() {
    let mut random = random();
    let mut texts = Texts::default();
    for case in CASES {
        for trouble in TROUBLES {
            for parallel in [1, 3] {
                let request = case.request(random.choice(Style::ALL).unwrap(), 9);
                let first = random.usize(..4);
                let server = TableServer::new(random.u64(..), move |number, seen| {
                    (trouble.serve)(case, number, seen, Style::ALL[(first + number) % 4])
                });
                let mut request = post(request.into());
                let batch = EwsBatchFormat::new().batch(&request).unwrap();
                let deadline = Deadline::within(Duration::from_secs(40));
                request.extensions_mut().insert(deadline);
                let about = format!(
                    "{} of {}, {parallel} at a time",
                    trouble.name, case.operation
                );
                let ended = send(layer(3).parallel(parallel), &server, request).await;
                texts.requests(case, &server);
                let expected = (trouble.expected)(batch.idempotency());
                let (unknown, not_executed) = (trouble.stats)(batch.idempotency());
                if case.lists {
                    let all = expected == [OK; 9];
                    in_lists(&about, batch.idempotency(), all, ended, &mut texts, case);
                    continue;
                }
                let ended = ended.unwrap_or_else(|error| panic!("{about}: {error}"));
                assert_eq!(ended.codes(), expected, "{about}");
                let stats = ended.stats.unwrap();
                assert_eq!(
                    (stats.unknown, stats.not_executed),
                    (unknown, not_executed),
                    "{about}"
                );
                // Each says its own, or why it does not.
                let read = SoapResponse::parse(ended.text.as_bytes()).unwrap();
                for (number, entry) in read.entries().enumerate() {
                    match expected[number] {
                        OK => assert_eq!(*entry.text, format!("tok-{number:04}"), "{about}"),
                        _ => assert!(!entry.text.is_empty(), "{about}"),
                    }
                }
                meaning(&ended.text);
                texts.response(case, &ended);
            }
        }
    }
    println!(
        "{} troubles of {} kinds of batches",
        TROUBLES.len(),
        CASES.len()
    );
    texts.check("batch_round_trip_troubles");
}

/// A response of lists has no place for what went wrong.
fn in_lists(
    about: &str,
    idempotency: Idempotency,
    all: bool,
    ended: Result<Ended, BoxError>,
    texts: &mut Texts,
    case: &'static Case,
) {
    let ended = match ended {
        Ok(ended) => ended,
        // What only reads fails as a whole.
        Err(_) => return assert!(!all && idempotency == Idempotency::Safe, "{about}"),
    };
    let good = ended.head.status == 200
        && SoapResponse::parse(ended.text.as_bytes()).is_ok_and(|reply| {
            reply
                .messages
                .iter()
                .all(|message| message.code.as_str() == OK)
        });
    if all {
        assert!(good, "{about}: {}", ended.text);
    } else if good {
        // What changes something tells what was achieved.
        assert_ne!(idempotency, Idempotency::Safe, "{about}: {}", ended.text);
        let stats = ended.stats.unwrap();
        assert!(stats.unknown + stats.not_executed > 0, "{about}");
        assert_eq!(stats.unknown + stats.not_executed + stats.done, 9);
    }
    if good {
        texts.response(case, &ended);
    }
}

/// What differs from the response to the whole request, and how.
struct Exception {
    name: &'static str,
    serve: fn(&Case, usize, &Seen) -> Reply,
    check: fn(&Case, whole: &Ended, merged: &Ended),
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        // Each part has the error once. It stands for all of them, as it does in the response to the whole request.
        name: "one error for the whole batch",
        serve: |case, _, seen| match case.lists {
            true => by_member(seen, Style::Usual, |_| Fortune::error(NO_FOLDER)),
            false => Reply::Xml(200, one_error(seen, Style::Usual, NO_FOLDER)),
        },
        check: |case, whole, merged| {
            assert_eq!(merged.text, whole.text);
            if !case.lists {
                assert_eq!(merged.codes(), [NO_FOLDER]);
            }
            assert_eq!(merged.stats.unwrap().not_executed, 9);
        },
    },
    Exception {
        name: "a fault",
        serve: |_, _, _| Reply::Xml(500, fault(SCHEMA, None)),
        check: |_, whole, merged| {
            assert_eq!(
                (merged.head.status.as_u16(), &merged.text),
                (500, &whole.text)
            );
            assert_eq!(merged.number(), 0);
        },
    },
    Exception {
        // A part ends where the whole batch would: what stands behind it is executed with the next part.
        name: "a member that stops those behind it",
        serve: |_, _, seen| {
            let stops = seen
                .members
                .iter()
                .any(|member| member.token.as_deref() == Some("tok-0001"));
            by_member(seen, Style::Usual, |member| match member {
                Some(1) => Fortune::error(DENIED),
                Some(2..) if stops => Fortune::STOPPED,
                _ => Fortune::Done,
            })
        },
        check: |case, whole, merged| {
            if case.lists {
                return;
            }
            let mut expected = vec![OK, DENIED];
            assert_eq!(merged.codes(), [&*expected, &[OK; 7]].concat());
            expected.extend([STOPPED; 7]);
            assert_eq!(whole.codes(), expected);
        },
    },
    Exception {
        // Throttled members are sent again, so that nobody sees it.
        name: "members that are throttled for a while",
        serve: |case, number, seen| {
            by_member(seen, Style::Usual, |member| match (number, member) {
                (0, Some(2..)) => Fortune::busy(700),
                (0, None) if case.lists => Fortune::busy(700),
                _ => Fortune::Done,
            })
        },
        check: |case, whole, merged| {
            assert!(whole.text.contains(BUSY));
            assert!(!merged.text.contains(BUSY));
            if !case.lists {
                assert_eq!(merged.codes(), [OK; 9]);
            }
            let stats = merged.stats.unwrap();
            assert_eq!((stats.done, stats.waited), (9, Duration::from_millis(700)));
            // All of a list comes again: nobody says whose it is.
            assert_eq!(stats.resent, if case.lists { 3 } else { 1 });
        },
    },
];

#[tokio::test(start_paused = true)]
async fn what_differs_from_the_response_to_the_whole_request() {
    for case in CASES {
        for exception in EXCEPTIONS {
            let request = case.request(Style::Usual, 9);
            let serve = move |number: usize, seen: &Seen| (exception.serve)(case, number, seen);
            let whole = unsplit(&TableServer::new(1, serve), &request).await;
            let server = TableServer::new(1, serve);
            let merged = send(layer(3), &server, post(request.into())).await;
            let about = format!("{} of {}", exception.name, case.operation);
            match merged {
                Ok(merged) => {
                    println!("{about}");
                    (exception.check)(case, &whole, &merged);
                }
                Err(error) => {
                    let stopped = case.lists && exception.name.contains("stops");
                    assert!(stopped, "{about}: {error}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_mailboxes_at_a_time() {
    let server = TableServer::new(0, |_, seen| {
        assert!(seen.members.len() <= 100);
        by_member(seen, Style::Usual, |_| Fortune::Done)
    });
    let case = CASES
        .iter()
        .find(|case| case.operation == "GetUserAvailability");
    let request = case.unwrap().request(Style::Usual, 250);
    let merged = send(layer(1_000), &server, post(request.into()))
        .await
        .unwrap();
    assert_eq!(merged.codes().len(), 250);
    let parts = server
        .got()
        .into_iter()
        .map(|got| Seen::read(&got.body).members.len());
    assert_eq!(parts.collect::<Vec<_>>(), [100, 100, 50]);
}

/// Says what it was sent, and responds with what no layer would have made.
#[tokio::test(start_paused = true)]
async fn what_may_not_be_cut_is_the_very_same() {
    const RESPONSE: &str = "<odd/>";
    let mut random = random();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&calls);
    let server = tower::service_fn(move |request: Request<ReplayBody>| {
        seen.lock().unwrap().push(request);
        let response = Response::builder()
            .status(207)
            .header("transfer-encoding", "chunked")
            .header("content-encoding", "br");
        let response = response.body(http_body_util::Full::<Bytes>::from(RESPONSE));
        async move { response }
    });
    let service = layer(1).parallel(4).layer(server);
    let mut all = untouched();
    let alone = nearly_untouched().replace("<t:ItemId Id='2'/>", "");
    all.push(("alone".to_owned(), Request::new(alone.into())));
    let count = all.len();
    for (why, request) in all {
        let given = request.headers().clone();
        let body = request.body().to_bytes();
        let pieces = match random.bool() {
            true => vec![body.clone()],
            false => chopped(&body, &mut random),
        };
        let mut request = post(ReplayBody::from_pieces(pieces.clone()));
        request.headers_mut().extend(given);
        request.extensions_mut().insert("an extension");
        let headers = request.headers().clone();
        let response = service.clone().oneshot(request).await.unwrap();
        let mut calls = std::mem::take(&mut *calls.lock().unwrap());
        let call = calls.pop().unwrap();
        assert!(calls.is_empty(), "{why}");
        assert_eq!(
            (call.headers(), call.uri().to_string()),
            (&headers, URL.to_owned())
        );
        let extensions = call.extensions();
        assert_eq!(extensions.get(), Some(&"an extension"));
        assert!(
            extensions.get::<RetryAttempt>().is_none() && extensions.get::<PartOfBatch>().is_none()
        );
        assert_eq!(call.body().to_bytes(), body, "{why}");
        let same = |(one, other): (&Bytes, &Bytes)| one.as_ptr() == other.as_ptr();
        assert!(call.body().pieces().iter().zip(&pieces).all(same), "{why}");

        assert!(response.extensions().get::<BatchReport>().is_none());
        assert_eq!(
            (response.status().as_u16(), response.headers().len()),
            (207, 2)
        );
        assert_eq!(
            response.body().size_hint().exact(),
            Some(RESPONSE.len() as u64)
        );
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            RESPONSE
        );
    }
    println!("{count} requests went through untouched");

    // The same service cuts what may be cut, and a response like that is none to all of it.
    let error = service
        .oneshot(post(nearly_untouched().into()))
        .await
        .unwrap_err();
    let Some(BatchError::Incomplete { missing, cause, .. }) = error.downcast_ref() else {
        panic!("{error}");
    };
    assert_eq!((*missing, &**cause), (2, "the response is compressed"));
    assert_ne!(
        calls.lock().unwrap().first().unwrap().body().to_bytes(),
        nearly_untouched()
    );
}
