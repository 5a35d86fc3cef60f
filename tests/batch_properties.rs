//! Any EWS batch, any schedule of faults, any cancellation: each member's message at its place, nothing lost and nothing
//! done twice, and no member reported as failed that was done.
//!
//! `EWS_TEST_CASES` sets the number of cases, `EWS_TEST_SEED` the seed of the first one: a case that fails names its own.

mod batch_server;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use batch_server::entries::{Entry, entries};
use batch_server::requests::{CASES, Case, case_of};
use batch_server::{Fortune, Member, Seen, Style, fault, one_error, reply};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use quick_xml::reader::Reader;
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Deadline;
use tower_ews::server_busy_backoff::Failure;

/// Cases that failed once.
const KEPT: [u64; 1] = [10467640473097992891];

/// What most cases are about; the others take any operation that can be cut.
const USUAL: [&str; 10] = [
    "CreateItem",
    "GetItem",
    "UpdateItem",
    "DeleteItem",
    "MoveItem",
    "CopyItem",
    "CreateAttachment",
    "GetFolder",
    "SendItem",
    "CreateFolder",
];

/// What happens to what is executed twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Twice {
    /// Nothing: it reads.
    Reads,
    /// The same as once.
    Same,
    /// It is gone the second time.
    Gone,
    /// Harm.
    Harm,
}

fn twice(operation: &str) -> Twice {
    match operation {
        "CreateItem" | "CreateFolder" | "CreateAttachment" | "CopyItem" | "CopyFolder"
        | "SendItem" | "ReportMessage" | "EmptyFolder" | "MarkAllItemsAsRead" | "UploadItems" => {
            Twice::Harm
        }
        "DeleteItem" | "DeleteFolder" | "DeleteAttachment" | "MoveItem" | "ArchiveItem"
        | "RemoveDelegate" | "MarkAsJunk" => Twice::Gone,
        name if ["Get", "Find", "Export", "Convert"]
            .iter()
            .any(|begin| name.starts_with(begin)) =>
        {
            Twice::Reads
        }
        _ => Twice::Same,
    }
}

/// Stops the members behind it.
const STOPS: &str = "ErrorQuotaExceeded";
/// Codes that leave open whether the member was executed.
const UNKNOWN: [&str; 2] = ["ErrorTimeoutExpired", "ErrorInternalServerError"];

/// The server, and what it knows to be true.
struct World {
    rng: fastrand::Rng,
    case: &'static Case,
    twice: Twice,
    /// How many more calls suffer something.
    faults: u32,
    suffered: u32,
    kinds: Vec<u32>,
    /// Some of it cannot be cured by anything.
    final_faults: u32,
    /// And some of it only if it happens once.
    brief_faults: u32,
    /// Why a member fails whenever it is executed.
    bad: Vec<Option<&'static str>>,
    executed: Vec<u32>,
    /// A response that came through said that it was done.
    confirmed: Vec<bool>,
    /// CreateAttachment: the parent's change key, and whether the client may know an older one.
    key: String,
    key_lost: bool,
    running: u32,
    peak: u32,
    largest: usize,
    calls: u32,
    /// Whether the response to the call comes after the call has ended.
    late: bool,
}

enum Reply {
    Lost(io::ErrorKind),
    Response {
        status: u16,
        text: String,
        headers: Vec<(&'static str, String)>,
        /// The connection dies after this number of bytes.
        cut: Option<usize>,
    },
}

impl Reply {
    fn of(status: u16, text: String) -> Reply {
        Reply::Response {
            status,
            text,
            headers: Vec::new(),
            cut: None,
        }
    }
}

impl World {
    fn run(&mut self, member: &Member) -> Fortune {
        let number = member.number();
        if let Some(code) = self.bad[number] {
            return Fortune::error(code);
        }
        if self.twice == Twice::Gone && self.executed[number] > 0 {
            return Fortune::error("ErrorItemNotFound");
        }
        self.executed[number] += 1;
        if self.case.operation == "CreateAttachment" {
            self.key = format!("after-tok-{number:04}");
        }
        Fortune::Done
    }

    /// Executes members up to `end`; what stands behind the returned fortunes was not executed.
    fn run_until(&mut self, seen: &Seen, end: usize) -> Vec<Fortune> {
        seen.members[..end]
            .iter()
            .map(|member| self.run(member))
            .collect()
    }

    /// Executes all members in turn: `busy` in ten come back throttled, one can be stopped by trouble that passes.
    fn run_all(&mut self, seen: &Seen, busy: u8, trouble: Option<usize>) -> Vec<Fortune> {
        let mut stopped = false;
        let mut fortunes = Vec::new();
        for (at, member) in seen.members.iter().enumerate() {
            let fortune = if stopped {
                Fortune::STOPPED
            } else if trouble == Some(at) {
                stopped = true;
                match self.rng.bool() {
                    true => {
                        self.brief_faults += 1;
                        Fortune::error("ErrorMailboxMoveInProgress")
                    }
                    false => self.busy(),
                }
            } else if self.rng.u8(0..10) < busy {
                self.busy()
            } else {
                self.run(member)
            };
            stopped |= matches!(fortune, Fortune::Refused(_, STOPS, _));
            fortunes.push(fortune);
        }
        fortunes
    }

    fn busy(&mut self) -> Fortune {
        match self.rng.bool() {
            true => Fortune::busy(self.rng.u64(0..20_000)),
            false => Fortune::error("ErrorServerBusy"),
        }
    }

    /// A response that comes through and can be read.
    fn said(&mut self, seen: &Seen, style: Style, fortunes: &[Fortune]) -> Reply {
        // One error is all that a list says.
        let heard = !self.case.lists || fortunes.iter().all(|one| matches!(one, Fortune::Done));
        for (member, fortune) in seen.members.iter().zip(fortunes) {
            if let (Fortune::Done, true) = (fortune, heard && !self.late) {
                self.confirmed[member.number()] = true;
            }
        }
        let mut fortunes = fortunes.iter().cloned();
        Reply::of(200, reply(seen, style, |_| fortunes.next().unwrap()))
    }

    fn reply(&mut self, seen: &Seen) -> Reply {
        let style = Style::ALL[self.rng.usize(0..4)];
        let count = seen.members.len();
        if self.case.operation == "CreateAttachment" {
            let known = seen.parent_change_key.as_deref() == Some(&*self.key);
            assert!(known || self.key_lost, "an old change key for no reason");
            if !known {
                return self.said(
                    seen,
                    style,
                    &vec![Fortune::error("ErrorIrresolvableConflict"); count],
                );
            }
        }
        if self.case.lists {
            // No member has an error of its own.
            for member in &seen.members {
                self.bad[member.number()] = None;
            }
        }
        if self.suffered >= self.faults || self.rng.u8(0..4) == 0 {
            let fortunes = self.run_all(seen, 0, None);
            return self.said(seen, style, &fortunes);
        }
        self.suffered += 1;
        let some = self.rng.usize(0..=count);
        let retry_after = self.rng.bool().then(|| self.rng.u64(0..60_000));
        let kind = self.rng.u32(0..24);
        let lists = self.case.lists;
        self.kinds.push(kind);
        match kind {
            0 => Reply::Lost(io::ErrorKind::ConnectionRefused),
            1 => Reply::Lost(io::ErrorKind::ConnectionReset),
            2 => {
                self.run_until(seen, some);
                self.key_lost = true;
                Reply::Lost(io::ErrorKind::ConnectionReset)
            }
            3 | 4 => {
                let fortunes = self.run_all(seen, 0, None);
                self.key_lost = true;
                let mut fortunes = fortunes.into_iter();
                let text = reply(seen, style, |_| fortunes.next().unwrap());
                let cut = self.rng.usize(0..text.len());
                match kind {
                    // A complete response to HTTP, but not to XML.
                    3 => {
                        // Nothing smaller can be asked for.
                        self.final_faults += u32::from(count == 1);
                        let mut text = text;
                        while !text.is_char_boundary(cut) {
                            text.pop();
                        }
                        text.truncate(cut);
                        Reply::of(200, text)
                    }
                    _ => Reply::Response {
                        status: 200,
                        text,
                        headers: Vec::new(),
                        cut: Some(cut),
                    },
                }
            }
            5 => Reply::of(500, fault("ErrorServerBusy", retry_after)),
            6 => {
                let headers = match retry_after {
                    Some(retry_after) => vec![("retry-after", (retry_after / 1_000).to_string())],
                    None => Vec::new(),
                };
                Reply::Response {
                    status: [429, 503][self.rng.usize(0..2)],
                    text: "<html><body>Service Unavailable".to_owned(),
                    headers,
                    cut: None,
                }
            }
            7 => {
                let busy = self.busy();
                self.said(seen, style, &vec![busy; count])
            }
            8 if count > 1 && !lists => {
                self.final_faults += 1;
                Reply::of(200, one_error(seen, style, "ErrorToFolderNotFound"))
            }
            9 => {
                self.final_faults += 1;
                Reply::of(500, fault("ErrorSchemaValidation", None))
            }
            10 => {
                self.run_until(seen, some);
                self.key_lost = true;
                self.brief_faults += 1;
                Reply::of(500, fault("ErrorTimeoutExpired", None))
            }
            11 if count > 1 => {
                // The one that ran when the time was up is done, and nobody is told.
                let mut fortunes = self.run_until(seen, some);
                self.key_lost = true;
                self.brief_faults += 1;
                fortunes.pop();
                fortunes.resize(count, Fortune::error("ErrorTimeoutExpired"));
                self.said(seen, style, &fortunes)
            }
            12 => {
                self.run_until(seen, some);
                self.key_lost = true;
                self.brief_faults += 1;
                self.said(
                    seen,
                    style,
                    &vec![Fortune::error("ErrorTimeoutExpired"); count],
                )
            }
            13 | 14 if !lists => {
                let trouble = self.rng.usize(0..count);
                self.brief_faults += 1;
                let fortunes = self.run_all(seen, 0, Some(trouble));
                self.said(seen, style, &fortunes)
            }
            15 => {
                // Nobody says how far it got.
                self.run_until(seen, some);
                self.key_lost = true;
                self.final_faults += 1;
                self.said(
                    seen,
                    style,
                    &vec![Fortune::error("ErrorInternalServerError"); count],
                )
            }
            16 if count > 2 && !lists => {
                let mut fortunes = self.run_all(seen, 0, None).into_iter();
                self.key_lost = true;
                let short = Seen {
                    operation: seen.operation.clone(),
                    members: seen.members[1..].to_vec(),
                    ..Seen::default()
                };
                fortunes.next();
                Reply::of(200, reply(&short, style, |_| fortunes.next().unwrap()))
            }
            17 if self.rng.u8(0..4) == 0 => {
                self.final_faults += 1;
                Reply::of([401, 403, 456][self.rng.usize(0..3)], String::new())
            }
            18 => {
                self.run_until(seen, some);
                self.key_lost = true;
                let status = [500, 502, 504][self.rng.usize(0..3)];
                Reply::of(status, "<html><body>Runtime Error".to_owned())
            }
            19 if count > 1 => Reply::of(413, String::new()),
            20 => {
                // A status that says nothing, with a body that does.
                let fortunes = self.run_all(seen, 0, None);
                self.said(seen, style, &fortunes)
            }
            _ if !lists => {
                let busy = self.rng.u8(1..10);
                let fortunes = self.run_all(seen, busy, None);
                self.said(seen, style, &fortunes)
            }
            _ => Reply::of(500, fault("ErrorServerBusy", retry_after)),
        }
    }
}

#[derive(Clone)]
struct Server(Arc<Mutex<World>>);

type Frames = stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>;

/// A call on its way.
struct Running(Server);

impl Drop for Running {
    fn drop(&mut self) {
        // Where a check of the server itself has failed, that is what is to be seen.
        if let Ok(mut world) = self.0.0.lock() {
            world.running -= 1;
        }
    }
}

impl Server {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    async fn call(
        self,
        request: Request<ReplayBody>,
    ) -> Result<Response<StreamBody<Frames>>, io::Error> {
        let body = request.body().to_bytes();
        let seen = Seen::read(&body);
        let running = Running(self.clone());
        let (reply, after, chop) = {
            let mut world = self.world();
            assert_eq!(seen.operation, world.case.operation);
            assert!(seen.numbers().is_sorted() && !seen.members.is_empty());
            assert_eq!(request.body().len(), body.len() as u64);
            world.calls += 1;
            world.running += 1;
            world.peak = world.peak.max(world.running);
            world.largest = world.largest.max(seen.members.len());
            let after = match world.rng.u8(0..4) {
                0 => world.rng.u64(0..70_000),
                _ => world.rng.u64(0..5_000),
            };
            let comes = Instant::now() + Duration::from_millis(after);
            let deadline: Option<&Deadline> = request.extensions().get();
            world.late = deadline.is_some_and(|deadline| comes > deadline.0);
            (world.reply(&seen), after, world.rng.usize(1..4))
        };
        tokio::time::sleep(Duration::from_millis(after)).await;
        drop(running);
        let (status, text, headers, cut) = match reply {
            Reply::Lost(kind) => return Err(kind.into()),
            Reply::Response {
                status,
                text,
                headers,
                cut,
            } => (status, text, headers, cut),
        };
        let mut text = Bytes::from(text);
        text.truncate(cut.unwrap_or(text.len()));
        let size = text.len().div_ceil(chop).max(1);
        let mut frames = Vec::new();
        while !text.is_empty() {
            let piece = text.split_to(size.min(text.len()));
            frames.push(Ok(Frame::data(piece)));
        }
        if cut.is_some() {
            frames.push(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut response = Response::builder().status(status);
        let kind = if status == 200 || status == 500 {
            "text/xml"
        } else {
            "text/html"
        };
        response = response.header("content-type", kind);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        Ok(response
            .body(StreamBody::new(stream::iter(frames)))
            .unwrap())
    }
}

/// The numbers of the members that a response names.
fn tokens(response: &str) -> BTreeSet<usize> {
    let found = response.match_indices("tok-");
    found
        .map(|(at, _)| response[at + 4..at + 8].parse().unwrap())
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    BatchReport,
    Whole,
    Failed,
    Cancelled,
    Unread,
}

async fn case(seed: u64) -> Ended {
    let mut rng = fastrand::Rng::with_seed(seed);
    let case = match rng.u8(0..10) {
        0..7 => case_of(USUAL[rng.usize(0..USUAL.len())]),
        _ => &CASES[rng.usize(0..CASES.len())],
    };
    let twice = twice(case.operation);
    let members = match rng.u8(0..20) {
        0 => rng.usize(2..60),
        _ => rng.usize(2..14),
    };
    let faults = [0, 2, 6, u32::MAX][rng.usize(0..4)];
    let bad: Vec<Option<&str>> = {
        let stops = rng.u8(0..4) == 0;
        let share = [0, 0, 1, 4][rng.usize(0..4)];
        let draw = |_| match rng.u8(0..10) < share {
            true if stops => Some(STOPS),
            true => Some("ErrorItemSave"),
            false => None,
        };
        (0..members).map(draw).collect()
    };
    let request = case.request(Style::ALL[rng.usize(0..4)], members);
    let most = rng.usize(1..12);
    let parallel = rng.usize(1..5);
    let layer = BatchSplitterLayer::new(EwsBatchFormat::new())
        .start_members(rng.usize(1..8))
        .max_members(most)
        .max_bytes(rng.u64(500..6_000))
        .parallel(parallel)
        .seed(seed);
    let cancel = (rng.u8(0..4) == 0).then(|| Duration::from_millis(rng.u64(0..120_000)));
    let unread = (rng.u8(0..8) == 0).then(|| rng.usize(0..20));
    let deadline = (rng.u8(0..6) == 0).then(|| Duration::from_millis(rng.u64(0..200_000)));
    let pieces: Vec<Bytes> = {
        let whole = Bytes::from(request);
        let at = rng.usize(0..whole.len());
        vec![whole.slice(..at), whole.slice(at..)]
    };
    let mut request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(ReplayBody::from_pieces(pieces))
        .unwrap();
    if let Some(deadline) = deadline {
        request.extensions_mut().insert(Deadline::within(deadline));
    }

    let server = Server(Arc::new(Mutex::new(World {
        rng: rng.fork(),
        case,
        twice,
        faults,
        suffered: 0,
        kinds: Vec::new(),
        final_faults: 0,
        brief_faults: 0,
        bad,
        executed: vec![0; members],
        confirmed: vec![false; members],
        key: "first".to_owned(),
        key_lost: false,
        running: 0,
        peak: 0,
        largest: 0,
        calls: 0,
        late: false,
    })));
    let client = {
        let server = server.clone();
        tower::service_fn(move |request| server.clone().call(request))
    };
    let service = layer.layer(client);
    let whole = async {
        let response = service.oneshot(request).await?;
        let status = response.status();
        let merged = response.extensions().get::<BatchReport>().unwrap().clone();
        let length = response.headers().get("content-length").cloned();
        let mut body = response.into_body();
        if let Some(frames) = unread {
            for _ in 0..frames {
                match body.frame().await {
                    Some(frame) => drop(frame?),
                    None => break,
                }
            }
            return Ok((status, merged, None));
        }
        let body = body.collect().await?.to_bytes();
        if let Some(length) = length.filter(|_| status == StatusCode::OK) {
            assert_eq!(length, body.len().to_string());
        }
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok::<_, BoxError>((status, merged, Some(body)))
    };
    let ended = match cancel {
        Some(cancel) => tokio::time::timeout(cancel, whole).await.ok(),
        None => Some(whole.await),
    };

    let world = server.world();
    assert_eq!(world.running, 0, "nothing is left on its way");
    assert!(world.peak as usize <= parallel);
    assert!(world.largest <= most);
    if twice == Twice::Harm {
        assert!(
            world.executed.iter().all(|times| *times <= 1),
            "{:?}",
            world.executed
        );
    }
    let end = match ended {
        None => Ended::Cancelled,
        Some(Ok((_, merged, None))) => {
            assert!(twice == Twice::Reads || merged.stats().complete);
            Ended::Unread
        }
        Some(Err(error)) => {
            failed(&world, &error);
            Ended::Failed
        }
        Some(Ok((status, merged, Some(body)))) => {
            let stats = merged.stats();
            assert!(stats.complete && stats.members == members);
            // Lists have no place for an error: it is what a batch gets that only reads.
            let incomplete = case.lists && twice == Twice::Reads && stats.done < members;
            if incomplete || stats.done == 0 && is_of_one_part(status, &body, members) {
                whole_response(&world, status, &body);
                Ended::Whole
            } else {
                merged_response(&world, &stats, &body, members);
                if faults == 0 && deadline.is_none() {
                    assert_eq!(stats.unknown, 0);
                    let stopped = world.bad.contains(&Some(STOPS));
                    for (member, confirmed) in world.confirmed.iter().enumerate() {
                        let good = world.bad[member].is_none();
                        assert!(*confirmed == good || stopped, "{member}");
                    }
                }
                Ended::BatchReport
            }
        }
    };
    // Few faults, all of which pass: a batch that only reads gets what it wants.
    // What is worth one retry is given up if there was another fault, as in a single call.
    let brief = world.brief_faults > 0 && world.suffered > 1;
    let lasting = world.final_faults > 0 || brief;
    let curable = !lasting && world.faults <= 2 && deadline.is_none();
    if curable && twice == Twice::Reads && unread.is_none() && end != Ended::Cancelled {
        let stopped = world.bad.contains(&Some(STOPS));
        for (member, confirmed) in world.confirmed.iter().enumerate() {
            assert!(
                *confirmed || world.bad[member].is_some() || stopped,
                "{} {member}: {:?}",
                case.operation,
                world.kinds
            );
        }
    }
    end
}

/// An error instead of a response: nothing was achieved, or it says that nobody knows.
fn failed(world: &World, error: &BoxError) {
    if world.twice == Twice::Reads {
        assert!(
            world.suffered > 0 || error.to_string().contains("deadline"),
            "{error}"
        );
        if !world.case.lists {
            assert!(!world.confirmed.contains(&true), "lost: {error}");
        }
        return;
    }
    assert!(!world.confirmed.contains(&true), "lost: {error}");
    if Failure::of(&**error) != Failure::Lost {
        assert!(world.executed.iter().all(|times| *times == 0), "{error}");
    }
}

/// Whether it is one part's response, which stands for the whole batch.
fn is_of_one_part(status: StatusCode, body: &str, members: usize) -> bool {
    status != StatusCode::OK
        || Reader::from_str(body).read_event().is_err()
        || !body.contains("Envelope>")
        || !body.trim_end().ends_with("Envelope>")
        || entries(body).is_none_or(|list| {
            let told = |entry: &Entry| {
                ["It is not", "This was not"]
                    .iter()
                    .any(|own| entry.text.starts_with(own))
            };
            let code = |entry: &Entry| list.first().map(|first| &first.code) == Some(&entry.code);
            list.len() != members || list.iter().all(|entry| code(entry) && !told(entry))
        })
}

fn whole_response(world: &World, status: StatusCode, body: &str) {
    if world.case.lists && world.twice == Twice::Reads {
        return;
    }
    assert!(!world.confirmed.contains(&true), "lost: {status} {body}");
    let in_doubt = match status.as_u16() {
        500 => !body.contains("ErrorSchemaValidation") && !body.contains("ErrorServerBusy"),
        502 | 504 => true,
        // What cannot be read was most likely executed, and says so to nobody.
        200 => !body.contains("ErrorToFolderNotFound"),
        _ => false,
    };
    if world.twice != Twice::Reads && !in_doubt {
        assert!(
            world.executed.iter().all(|times| *times == 0),
            "{status} {body}: {:?}",
            world.executed
        );
    }
}

fn merged_response(world: &World, stats: &BatchStats, body: &str, members: usize) {
    if world.case.lists {
        let named = tokens(body);
        for member in 0..members {
            let (confirmed, executed) = (world.confirmed[member], world.executed[member] > 0);
            assert!(
                !confirmed || named.contains(&member),
                "lost: {member} {} {body}",
                world.case.operation
            );
            assert!(executed || !named.contains(&member), "invented: {member}");
        }
        return;
    }
    let entries = entries(body).unwrap_or_else(|| panic!("no entries: {body}"));
    assert_eq!(entries.len(), members, "{body}");
    let (mut done, mut unknown) = (0, 0);
    for (member, entry) in entries.iter().enumerate() {
        let Entry {
            class, code, text, ..
        } = entry;
        let executed = world.executed[member] > 0;
        let own = match &**class {
            "Success" => format!("tok-{member:04}"),
            _ => format!("{member:04} refused"),
        };
        let doubtful = text.starts_with("It is not known");
        let not_executed = text.starts_with("This was not executed");
        let of_the_part = text.starts_with("none ");
        assert!(
            text.starts_with(&own) || doubtful || not_executed || of_the_part,
            "{} at {member}: {text}\n{body}",
            world.case.operation
        );
        if class == "Success" {
            done += 1;
            assert!(world.confirmed[member], "invented: {member}");
            continue;
        }
        assert!(!world.confirmed[member], "lost: {member} {code} {text}");
        // The server's own word, which leaves it open.
        let left_open = world.twice == Twice::Harm && UNKNOWN.contains(&&**code);
        unknown += usize::from(doubtful || left_open && text.starts_with(&own));
        if world.twice == Twice::Reads || !executed {
            continue;
        }
        let second = world.twice != Twice::Harm
            && text.starts_with(&own)
            && (code == "ErrorItemNotFound" || world.bad[member].is_some());
        assert!(
            doubtful || UNKNOWN.contains(&&**code) || second,
            "{} {member} was executed: {class} {code} {text}",
            world.case.operation
        );
    }
    assert_eq!((stats.done, stats.unknown), (done, unknown), "{stats:?}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn each_member_gets_its_own_true_message_and_nothing_is_done_twice() {
    let cases = number("EWS_TEST_CASES").unwrap_or(1_000);
    let first = number("EWS_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={first} EWS_TEST_CASES={cases}");
    let begin = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let ended = Mutex::new([0; 5]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let case = next.fetch_add(1, Ordering::Relaxed);
                let seed = match KEPT.get(case as usize) {
                    Some(seed) => *seed,
                    None if case < KEPT.len() as u64 + cases => {
                        first.wrapping_add(case - KEPT.len() as u64)
                    }
                    None => return,
                };
                match std::panic::catch_unwind(|| one(seed)) {
                    Ok(end) => ended.lock().unwrap()[end as usize] += 1,
                    Err(panic) => {
                        eprintln!("EWS_TEST_SEED={seed} EWS_TEST_CASES=1 shows it");
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                }
            }
        };
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let ended = ended.into_inner().unwrap();
    println!(
        "merged, whole, error, cancelled, dropped unread: {ended:?}, {:.1} s on {threads} threads",
        begin.elapsed().as_secs_f64()
    );
    if cases >= 1_000 {
        assert!(ended.iter().all(|count| *count > 0), "{ended:?}");
    }
}

fn one(seed: u64) -> Ended {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(case(seed))
}
