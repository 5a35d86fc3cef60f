//! Batches through the whole stack against the simulated server, in virtual time: under each of its faults, throttled in part,
//! cut at the one-minute limit, stopped in the middle; nothing lost, nothing done twice, every error true. With the policy's own
//! ledger, and where no time is asserted with a remote one, too.

mod batch_server;
mod remote_ledger;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use batch_server::entries::{Entry, entries};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use remote_ledger::{Kind, with_each_ledger};
use tokio::time::Instant;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::EwsService;
use tower_ews::batch_splitter::{BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::{Caller, Deadline};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{BatchCut, Exchange, Fault, Faults, Policy, Report};

const AUTHORIZATION: &str = "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==";
const AMY: &str = "amy@contoso.com";
const BOB: &str = "bob@contoso.com";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Delegate,
    Impersonation,
}

const BOTH: [Access; 2] = [Access::Delegate, Access::Impersonation];

/// One batch of a caller: what it does, and to what.
#[derive(Clone, Debug)]
struct Job {
    access: Access,
    mailbox: &'static str,
    operation: &'static str,
    subjects: Vec<String>,
}

impl Job {
    fn new(access: Access, mailbox: &'static str, operation: &'static str, members: usize) -> Job {
        let subjects = (0..members).map(|n| format!("{mailbox} {n:05}")).collect();
        Job {
            access,
            mailbox,
            operation,
            subjects,
        }
    }

    fn from(mut self, first: usize) -> Job {
        let mailbox = self.mailbox;
        let numbers = first..first + self.subjects.len();
        self.subjects = numbers.map(|n| format!("{mailbox} {n:05}")).collect();
        self
    }

    fn folder(&self, id: &str) -> String {
        let owner = match self.access {
            Access::Delegate => {
                let mailbox = self.mailbox;
                format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>")
            }
            Access::Impersonation => String::new(),
        };
        format!("<t:DistinguishedFolderId Id=\"{id}\">{owner}</t:DistinguishedFolderId>")
    }

    /// The request. What is read or changed has to be in the mailbox.
    fn request(&self, exchange: &Exchange) -> Request<Full<Bytes>> {
        let ids = || -> Vec<String> {
            let items = exchange.items(self.mailbox);
            let ids: std::collections::HashMap<_, _> = items
                .into_iter()
                .map(|item| (item.subject, item.id))
                .collect();
            self.subjects
                .iter()
                .map(|subject| format!("<t:ItemId Id=\"{}\"/>", ids[subject]))
                .collect()
        };
        let body = match self.operation {
            "CreateItem" => {
                let items: String = self
                    .subjects
                    .iter()
                    .map(|subject| {
                        format!("<t:Message><t:Subject>{subject}</t:Subject></t:Message>")
                    })
                    .collect();
                let folder = self.folder("drafts");
                format!(
                    "<m:CreateItem MessageDisposition=\"SaveOnly\"><m:SavedItemFolderId>{folder}</m:SavedItemFolderId>\
                     <m:Items>{items}</m:Items></m:CreateItem>"
                )
            }
            "GetItem" => format!(
                "<m:GetItem><m:ItemShape><t:BaseShape>Default</t:BaseShape></m:ItemShape><m:ItemIds>{}</m:ItemIds></m:GetItem>",
                ids().concat()
            ),
            "DeleteItem" => format!(
                "<m:DeleteItem DeleteType=\"HardDelete\"><m:ItemIds>{}</m:ItemIds></m:DeleteItem>",
                ids().concat()
            ),
            "UpdateItem" => {
                let changes = ids().into_iter().map(|id| {
                    format!(
                        "<t:ItemChange>{id}<t:Updates><t:SetItemField><t:FieldURI FieldURI=\"item:Importance\"/>\
                         <t:Message><t:Importance>High</t:Importance></t:Message></t:SetItemField></t:Updates></t:ItemChange>"
                    )
                });
                format!(
                    "<m:UpdateItem ConflictResolution=\"AlwaysOverwrite\" MessageDisposition=\"SaveOnly\">\
                     <m:ItemChanges>{}</m:ItemChanges></m:UpdateItem>",
                    changes.collect::<String>()
                )
            }
            relocating => format!(
                "<m:{relocating}><m:ToFolderId>{}</m:ToFolderId><m:ItemIds>{}</m:ItemIds></m:{relocating}>",
                self.folder("inbox"),
                ids().concat()
            ),
        };
        let header = match self.access {
            Access::Delegate => String::new(),
            Access::Impersonation => {
                let mailbox = self.mailbox;
                format!(
                    "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>{mailbox}</t:PrimarySmtpAddress>\
                     </t:ConnectingSID></t:ExchangeImpersonation>"
                )
            }
        };
        let text = format!(
            r#"<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header><t:RequestServerVersion Version="Exchange2013_SP1"/>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
        );
        Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
            .header("content-type", "text/xml; charset=utf-8")
            .header("authorization", AUTHORIZATION)
            .header("x-anchormailbox", self.mailbox)
            .body(Full::from(text))
            .unwrap()
    }

    /// Puts into the mailbox what the batch is about, and forgets that in the report.
    async fn prepare(&self, exchange: &Exchange) {
        if self.operation == "CreateItem" {
            return;
        }
        for subjects in self.subjects.chunks(500) {
            let create = Job {
                operation: "CreateItem",
                subjects: subjects.to_vec(),
                ..self.clone()
            };
            let request = create.request(exchange);
            let response = exchange.clone().oneshot(request).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            let entries = entries(&body).unwrap();
            assert!(
                entries.iter().all(|entry| entry.class == "Success"),
                "{body}"
            );
        }
        exchange.reset_report();
    }
}

/// What the caller got.
enum Got {
    Entries(Vec<Entry>, BatchStats),
    /// One response for all of it, such as a fault.
    Whole(String, BatchStats),
    Error(BoxError),
}

async fn send(service: &EwsService<Exchange>, request: Request<Full<Bytes>>) -> Got {
    let response = match service.clone().oneshot(request).await {
        Ok(response) => response,
        Err(error) => return Got::Error(error),
    };
    let merged = response.extensions().get::<BatchReport>().unwrap().clone();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Got::Error(error),
    };
    let body = String::from_utf8(body.to_vec()).unwrap();
    let stats = merged.stats();
    assert!(stats.complete);
    let whole = !body.ends_with("Envelope>");
    match if whole { None } else { entries(&body) } {
        Some(entries) if entries.len() == stats.members => Got::Entries(entries, stats),
        _ => Got::Whole(body, stats),
    }
}

impl Got {
    /// Each member was done, and is told so.
    fn all_done(self, job: &Job) -> BatchStats {
        match self {
            Got::Entries(entries, stats) => {
                assert_eq!(entries.len(), job.subjects.len());
                for (subject, entry) in job.subjects.iter().zip(&entries) {
                    assert_eq!(entry.class, "Success", "{subject}: {entry:?}");
                    if job.operation == "GetItem" {
                        assert!(entry.inside.contains(subject), "{subject}: {entry:?}");
                    }
                }
                stats
            }
            Got::Whole(body, _) => panic!("{body}"),
            Got::Error(error) => panic!("{error:?}"),
        }
    }

    fn entries(self) -> (Vec<Entry>, BatchStats) {
        match self {
            Got::Entries(entries, stats) => (entries, stats),
            Got::Whole(body, _) => panic!("{body}"),
            Got::Error(error) => panic!("{error:?}"),
        }
    }
}

fn patient() -> ThrottlingPolicy {
    let mut policy = ThrottlingPolicy::exchange_online();
    policy.deadline = Duration::from_secs(86_400);
    policy.max_wait = policy.deadline;
    policy
}

fn stack(
    exchange: &Exchange,
    batches: impl FnOnce(BatchSplitterLayer<EwsBatchFormat>) -> BatchSplitterLayer<EwsBatchFormat>,
) -> EwsService<Exchange> {
    stack_of(Kind::Local, exchange, batches)
}

fn stack_of(
    kind: Kind,
    exchange: &Exchange,
    batches: impl FnOnce(BatchSplitterLayer<EwsBatchFormat>) -> BatchSplitterLayer<EwsBatchFormat>,
) -> EwsService<Exchange> {
    kind.stack(patient())
        .caller(Caller::new("svc@contoso.com"))
        .batches(batches)
        .layer(exchange.clone())
}

fn is_doubtful(entry: &Entry) -> bool {
    entry.text.starts_with("It is not known")
        || ["ErrorTimeoutExpired", "ErrorInternalServerError"].contains(&&*entry.code)
}

/// What was done to a subject by this operation.
fn times(report: &Report, operation: &str, subject: &str) -> u64 {
    let done = report.done.get(operation);
    done.and_then(|done| done.get(subject))
        .copied()
        .unwrap_or(0)
}

/// Everything that the caller was told is true. Says how many members failed, and how many of them are in doubt.
fn check(job: &Job, got: &Got, report: &Report) -> (usize, usize) {
    let operation = job.operation;
    let reads = operation == "GetItem";
    let done = |subject: &String| times(report, operation, subject);
    let none = job.subjects.iter().all(|subject| done(subject) == 0);
    match got {
        Got::Entries(entries, _) => {
            let (mut failed, mut doubtful) = (0, 0);
            for (subject, entry) in job.subjects.iter().zip(entries) {
                if entry.class == "Success" {
                    assert!(reads || done(subject) > 0, "invented: {subject}");
                    if reads {
                        assert!(entry.inside.contains(subject), "{subject}: {entry:?}");
                    }
                    continue;
                }
                failed += 1;
                doubtful += usize::from(is_doubtful(entry));
                // The server's own word when it came again: what was moved or deleted with a response that was lost is not there
                // any more, and a fault can hit it then.
                let codes = ["ErrorItemNotFound", "ErrorItemSave", "ErrorQuotaExceeded"];
                let second = matches!(operation, "DeleteItem" | "MoveItem" | "UpdateItem")
                    && codes.contains(&&*entry.code);
                assert!(
                    reads || done(subject) == 0 || is_doubtful(entry) || second,
                    "{operation} of {subject} was done: {entry:?}"
                );
            }
            (failed, doubtful)
        }
        Got::Whole(body, stats) => {
            assert_eq!(stats.done, 0);
            let doubtful = [
                "ErrorTimeoutExpired",
                "ErrorInternalServerError",
                "Malformed",
            ];
            let doubtful =
                doubtful.iter().any(|code| body.contains(code)) || !body.ends_with("Envelope>");
            assert!(reads || none || doubtful, "{body}");
            (job.subjects.len(), job.subjects.len())
        }
        Got::Error(error) => {
            let unknown =
                error.to_string().contains("not known") || error.to_string().contains("unknown");
            let lost = unknown || format!("{error:?}").contains("ConnectionReset");
            assert!(
                reads || none || lost || format!("{error:?}").contains("CutShort"),
                "{error:?}"
            );
            (job.subjects.len(), job.subjects.len())
        }
    }
}

/// No operation that must not be done twice was.
fn check_once(report: &Report) {
    for operation in ["CreateItem", "CopyItem", "MoveItem", "DeleteItem"] {
        assert_eq!(report.done_twice(operation), [], "{operation}");
    }
    assert_eq!(report.created_twice(), []);
}

fn faults() -> Vec<Fault> {
    let second = Duration::from_secs(1);
    vec![
        Fault::Refused,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::CutBody,
        Fault::SlowBody {
            frames: 4,
            pause: second,
        },
        Fault::Page503,
        Fault::WrongXml,
        Fault::ServerBusy {
            back_off: Some(second),
        },
        Fault::ServerBusy { back_off: None },
        Fault::ServerBusyMessages {
            back_off: Some(second),
        },
        Fault::InnerServerBusy,
        Fault::Code(PASSES.to_owned()),
        Fault::Code(NOT_EXECUTED.to_owned()),
        Fault::Code(IN_DOUBT.to_owned()),
        Fault::TimeoutExpired,
        Fault::ThrottledMembers {
            share: 0.3,
            back_off: Some(second),
        },
        Fault::ThrottledMembers {
            share: 0.3,
            back_off: None,
        },
        Fault::MemberCode {
            member: 2,
            code: "ErrorItemSave".to_owned(),
        },
        Fault::MemberCode {
            member: 2,
            code: "ErrorQuotaExceeded".to_owned(),
        },
        Fault::MemberCode {
            member: 2,
            code: PASSES.to_owned(),
        },
        Fault::MemberCode {
            member: 2,
            code: NOT_EXECUTED.to_owned(),
        },
        Fault::MemberCode {
            member: 2,
            code: IN_DOUBT.to_owned(),
        },
        Fault::SlowMembers {
            time: Duration::from_secs(9),
        },
    ]
}

const OPERATIONS: [&str; 6] = [
    "CreateItem",
    "GetItem",
    "CopyItem",
    "MoveItem",
    "DeleteItem",
    "UpdateItem",
];

/// A code that passes soon, and proves that its member was not executed.
const PASSES: &str = "ErrorADUnavailable";
/// One that proves it as well, but lasts.
const NOT_EXECUTED: &str = "ErrorMailboxMoveInProgress";
/// One that passes soon, and leaves open whether it was.
const IN_DOUBT: &str = "ErrorMailboxStoreUnavailable";

/// Whether everything gets done in the end although calls suffer this: it proves that nothing was executed, or twice does no harm.
fn passes(fault: &Fault, operation: &str) -> bool {
    match fault {
        Fault::Refused
        | Fault::SlowBody { .. }
        | Fault::Page503
        | Fault::ServerBusy { .. }
        | Fault::ServerBusyMessages { .. }
        | Fault::InnerServerBusy
        | Fault::ThrottledMembers { .. } => true,
        Fault::Code(code) | Fault::MemberCode { code, .. } => match &**code {
            PASSES => true,
            // It lasts for hours: one more try is all that it is worth.
            NOT_EXECUTED => false,
            IN_DOUBT => !matches!(operation, "CreateItem" | "CopyItem"),
            _ => false,
        },
        _ => false,
    }
}

async fn under_each_fault_every_message_is_true(kind: Kind) {
    for fault in faults() {
        let mut told = Vec::new();
        for (n, operation) in OPERATIONS.into_iter().enumerate() {
            for access in BOTH {
                // What is tried a number of times has to pass within these.
                let share = match fault {
                    Fault::Code(_) | Fault::MemberCode { .. } => 0.15,
                    _ => 0.4,
                };
                let faults = Faults::none().rate_on(operation, fault.clone(), share);
                let exchange = Exchange::builder()
                    .policy(Policy::exchange_online())
                    .faults(faults)
                    .seed(n as u64)
                    .build();
                let job = Job::new(access, AMY, operation, 60);
                job.prepare(&exchange).await;
                let service = stack_of(kind, &exchange, |batches| {
                    batches.start_members(8).max_members(16)
                });
                let got = send(&service, job.request(&exchange)).await;
                let report = exchange.report();
                let (failed, doubtful) = check(&job, &got, &report);
                check_once(&report);
                if passes(&fault, operation) {
                    got.all_done(&job);
                }
                if access == Access::Delegate {
                    told.push(format!("{operation} {failed} ({doubtful})"));
                }
            }
        }
        println!(
            "{}: failed (in doubt) of 60: {}",
            fault.name(),
            told.join(", ")
        );
    }
}

fn seed() -> u64 {
    let given = std::env::var("EWS_TEST_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..))
}

/// All faults at once, several callers at once, some of whom go away.
async fn under_mixed_faults_and_cancellation_nothing_is_lost_and_nothing_done_twice(kind: Kind) {
    let first = seed();
    let rounds: u64 = match std::env::var("EWS_TEST_ROUNDS") {
        Ok(rounds) => rounds.parse().unwrap(),
        Err(_) => 40,
    };
    let mut stats = [0; 4];
    for round in 0..rounds {
        let seed = first.wrapping_add(round);
        println!("EWS_TEST_SEED={seed} EWS_TEST_ROUNDS=1");
        let mut rng = fastrand::Rng::with_seed(seed);
        let operation = OPERATIONS[rng.usize(0..OPERATIONS.len())];
        let share = rng.f64() * 0.4 / faults().len() as f64;
        let mixed = faults().into_iter().fold(Faults::none(), |mixed, fault| {
            mixed.rate_on(operation, fault, share)
        });
        let policy = Policy::exchange_online().with(|policy| {
            let cuts = [
                BatchCut::RestTimedOut,
                BatchCut::AllTimedOut,
                BatchCut::Fault,
                BatchCut::ConnectionLost,
            ];
            policy.batch_cut = cuts[rng.usize(0..4)];
        });
        let exchange = Exchange::builder()
            .policy(policy)
            .faults(mixed)
            .seed(seed)
            .build();
        let service = stack_of(kind, &exchange, |batches| {
            batches
                .start_members(rng.usize(2..30))
                .max_members(40)
                .parallel(rng.usize(1..4))
                .seed(seed)
        });
        let access = BOTH[rng.usize(0..2)];
        let mut jobs = Vec::new();
        for mailbox in [AMY, BOB, "cy@contoso.com"] {
            let job = Job::new(access, mailbox, operation, rng.usize(2..120));
            job.prepare(&exchange).await;
            jobs.push(job);
        }
        let calls = jobs.iter().map(|job| {
            let request = job.request(&exchange);
            let service = service.clone();
            let gone = (rng.u8(0..3) == 0).then(|| Duration::from_millis(rng.u64(0..6_000)));
            let deadline = (rng.u8(0..4) == 0).then(|| Duration::from_millis(rng.u64(0..60_000)));
            async move {
                let mut request = request;
                if let Some(deadline) = deadline {
                    request.extensions_mut().insert(Deadline::within(deadline));
                }
                match gone {
                    Some(gone) => tokio::time::timeout(gone, send(&service, request))
                        .await
                        .ok(),
                    None => Some(send(&service, request).await),
                }
            }
        });
        let got = futures_util::future::join_all(calls).await;
        // The server goes on with what it has begun, whoever has gone away; nobody sends anything more.
        let calls = exchange.calls().len();
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(exchange.calls().len(), calls);
        let report = exchange.report();
        check_once(&report);
        for (job, got) in jobs.iter().zip(&got) {
            let Some(got) = got else {
                stats[3] += 1;
                continue;
            };
            let (failed, doubtful) = check(job, got, &report);
            stats[0] += job.subjects.len();
            stats[1] += failed;
            stats[2] += doubtful;
        }
        for payer in report.peak_in_flight.keys() {
            assert_eq!(exchange.in_flight(payer), 0, "{payer:?}");
        }
    }
    let [members, failed, doubtful, gone] = stats;
    assert!(rounds < 40 || doubtful > 0 && gone > 0, "{stats:?}");
    println!(
        "{members} members, {failed} failed, {doubtful} of them in doubt; {gone} callers went away"
    );
}

/// A server that does a member in ten milliseconds, and throttles some of each call's.
/// Takes at most a multiple of what the members alone take.
async fn ten_thousand(
    operation: &'static str,
    access: Access,
    max_in_doubt: Option<usize>,
    bound: f64,
) {
    let throttled = Fault::ThrottledMembers {
        share: 0.05,
        back_off: Some(Duration::from_millis(100)),
    };
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.jitter = 0.0;
        policy.latency = Duration::from_millis(20);
        policy.member_time = Duration::from_millis(10);
        policy.find_count = None;
    });
    let exchange = Exchange::builder()
        .policy(policy)
        .faults(Faults::none().rate_on(operation, throttled, 1.0))
        .seed(3)
        .build();
    let job = Job::new(access, AMY, operation, 10_000);
    job.prepare(&exchange).await;
    let request = job.request(&exchange);
    let service = stack(&exchange, |batches| match max_in_doubt {
        Some(members) => batches.max_in_doubt(members),
        None => batches,
    });
    let begin = Instant::now();
    let stats = send(&service, request).await.all_done(&job);
    let took = begin.elapsed().as_secs_f64();
    let report = exchange.report();
    let calls = exchange.calls();
    // Each was executed once: no call had members that were done.
    assert_eq!(report.executed[operation], 10_000);
    let sent: usize = calls.iter().map(|call| call.members).sum();
    assert_eq!(sent as u64, 10_000 + report.throttled_members);
    assert_eq!(stats.resent as u64, report.throttled_members);
    assert_eq!(
        (stats.done, stats.unknown, stats.not_executed),
        (10_000, 0, 0)
    );
    check_once(&report);
    assert!(stats.resent > 400, "{stats:?}");
    let ideal = 10_000.0 * 0.010;
    println!(
        "10,000 members of {operation} ({access:?}), 5 % throttled per response: {} parts, {} calls, {} members resent, {took:.1} s, \
         {ideal:.1} s if nothing but members took time ({:.2}x), {:.1} s waited on request",
        stats.parts,
        calls.len(),
        stats.resent,
        took / ideal,
        stats.waited.as_secs_f64(),
    );
    assert!(took < ideal * bound, "{took}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_members_are_created_by_one_call() {
    for access in BOTH {
        ten_thousand("CreateItem", access, Some(1_000), 1.2).await;
        // In parts of 50, so that the wait after each of them counts more.
        ten_thousand("CreateItem", access, None, 1.35).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_members_are_read_by_one_call() {
    ten_thousand("GetItem", Access::Impersonation, None, 1.2).await;
}

/// Members of a second each: a hundred of them do not fit into a minute.
fn slow(operation: &str, cut: BatchCut) -> Exchange {
    let policy = Policy::unlimited().with(|policy| {
        let second = Duration::from_secs(1);
        policy.member_times.insert(operation.to_owned(), second);
        policy.batch_limit = Some(Duration::from_secs(60));
        policy.batch_cut = cut;
    });
    Exchange::builder().policy(policy).build()
}

/// The members of each call that this mailbox had.
fn sizes(exchange: &Exchange, mailbox: &str) -> Vec<usize> {
    let calls = exchange.calls();
    let calls = calls.iter().filter(|call| call.mailboxes == [mailbox]);
    calls.map(|call| call.members).collect()
}

const CUTS: [BatchCut; 4] = [
    BatchCut::RestTimedOut,
    BatchCut::AllTimedOut,
    BatchCut::Fault,
    BatchCut::ConnectionLost,
];

async fn the_one_minute_limit_halves_sizes_for_its_principal_and_operation(kind: Kind) {
    for cut in CUTS {
        for operation in ["GetItem", "DeleteItem", "CreateItem"] {
            let exchange = slow(operation, cut);
            let access = Access::Impersonation;
            let first = Job::new(access, AMY, operation, 160);
            let second = Job::new(access, AMY, operation, 40).from(160);
            let bobs = Job::new(access, BOB, operation, 120);
            for job in [&first, &second, &bobs] {
                job.prepare(&exchange).await;
            }
            // As large as the others, although it must not be executed twice.
            let service = stack_of(kind, &exchange, |batches| batches.max_in_doubt(100));
            let got = send(&service, first.request(&exchange)).await;
            let report = exchange.report();
            check_once(&report);
            let (failed, doubtful) = check(&first, &got, &report);
            let (entries, stats) = got.entries();
            let ran = sizes(&exchange, AMY);
            println!(
                "{operation}, {cut:?}: {ran:?}, {failed} failed, {doubtful} in doubt, {stats:?}"
            );
            // The first one has no chance, the next one is half as large.
            let doubt = operation == "CreateItem" && cut != BatchCut::RestTimedOut;
            // It may have been executed, and is sent again.
            let repeats = operation == "DeleteItem" && cut == BatchCut::ConnectionLost;
            let begin: &[usize] = match doubt || repeats {
                // One goes alone first.
                true => &[100, 1, 50],
                false => &[100, 50],
            };
            assert_eq!(ran[..begin.len()], *begin, "{operation} {cut:?}");
            let mut rest = ran.iter().skip(begin.len());
            let least = rest.all(|members| *members <= 25);
            assert!(least, "{operation} {cut:?}: {ran:?}");
            assert!(report.cut_batches >= 1);
            if operation == "CreateItem" {
                // Of those in the part that was cut, and of no other.
                for (member, entry) in entries.iter().enumerate() {
                    let in_doubt = match cut {
                        BatchCut::RestTimedOut => (60..100).contains(&member),
                        _ => member < 100,
                    };
                    assert_eq!(is_doubtful(entry), in_doubt, "{cut:?} {member}: {entry:?}");
                    assert_eq!(entry.class == "Success", !in_doubt, "{member}");
                }
                let unknown = match cut {
                    // The server's own messages say so.
                    BatchCut::RestTimedOut => 40,
                    _ => 100,
                };
                assert_eq!(stats.unknown, unknown);
                assert_eq!(report.items_created, 61 + 60);
            } else {
                let gone = |entry: &Entry| operation == "DeleteItem" && entry.code != "NoError";
                let missing = entries.iter().filter(|entry| entry.class != "Success");
                assert!(missing.into_iter().all(gone), "{operation} {cut:?}");
                if operation == "DeleteItem" {
                    let left = report.not_done(operation, &first.subjects);
                    assert_eq!(left, [] as [&String; 0]);
                }
            }
            // The next job knows.
            exchange.reset_report();
            send(&service, second.request(&exchange))
                .await
                .all_done(&second);
            let next = sizes(&exchange, AMY);
            assert!(next.iter().all(|members| *members <= 25), "{next:?}");
            assert_eq!(exchange.report().cut_batches, 0);
            // Somebody else does not.
            send(&service, bobs.request(&exchange)).await;
            assert_eq!(sizes(&exchange, BOB)[..1], [100], "{operation} {cut:?}");
        }
    }
}

async fn a_batch_that_was_stopped_by_what_passes_is_resumed(kind: Kind) {
    for access in BOTH {
        for code in [PASSES, "ErrorInsufficientResources"] {
            let exchange = Exchange::builder().build();
            let job = Job::new(access, AMY, "CreateItem", 50);
            for member in [3, 0, 5] {
                exchange.inject(Fault::MemberCode {
                    member,
                    code: code.to_owned(),
                });
            }
            let service = stack_of(kind, &exchange, |batches| {
                batches.start_members(20).max_members(20)
            });
            let stats = send(&service, job.request(&exchange)).await.all_done(&job);
            let report = exchange.report();
            // 3 of 20 were done, then none, then 5, and all that was stopped was sent again.
            let executed: Vec<usize> = exchange.calls().iter().map(|call| call.executed).collect();
            assert_eq!(executed[..3], [3, 0, 5], "{code}");
            assert_eq!(report.items_created, 50);
            // The one in the middle as well, of which nothing was done: the layer below leaves parts to this one.
            assert_eq!(stats.resent, 17 + 20 + 15);
            assert!(report.stopped_members > 0);
        }
    }
}

async fn a_batch_that_was_stopped_by_what_is_in_doubt_is_resumed_behind_it(kind: Kind) {
    for code in [IN_DOUBT, "ErrorConnectionFailed"] {
        for (operation, resent) in [("CreateItem", 16), ("DeleteItem", 17)] {
            let exchange = Exchange::builder().build();
            let job = Job::new(Access::Impersonation, AMY, operation, 50);
            job.prepare(&exchange).await;
            exchange.inject(Fault::MemberCode {
                member: 3,
                code: code.to_owned(),
            });
            let service = stack_of(kind, &exchange, |batches| {
                batches.start_members(20).max_members(20)
            });
            let got = send(&service, job.request(&exchange)).await;
            check_once(&exchange.report());
            let (entries, stats) = got.entries();
            // The member is told to the caller, or sent again. Those that it stopped were not begun.
            assert_eq!(stats.resent, resent, "{operation} {code}");
            for (member, entry) in entries.iter().enumerate() {
                let expected = match (operation, member) {
                    ("CreateItem", 3) => code,
                    _ => "NoError",
                };
                assert_eq!(entry.code, expected, "{operation} {member}");
            }
        }
    }
}

async fn rounds_that_achieve_nothing_end_a_batch_that_is_stopped_again_and_again(kind: Kind) {
    for (member, done) in [(0, 0), (1, 20), (4, 32)] {
        let fault = Fault::MemberCode {
            member,
            code: "ErrorQuotaExceeded".to_owned(),
        };
        let exchange = Exchange::builder()
            .faults(Faults::none().rate_on("CreateItem", fault, 1.0))
            .build();
        let job = Job::new(Access::Delegate, AMY, "CreateItem", 40);
        let service = stack_of(kind, &exchange, |batches| {
            batches.start_members(10).max_members(10)
        });
        let begin = Instant::now();
        let got = send(&service, job.request(&exchange)).await;
        let report = exchange.report();
        check_once(&report);
        check(&job, &got, &report);
        let calls = exchange.calls().len();
        let (entries, stats) = got.entries();
        println!(
            "stopped at member {member} of each call: {calls} calls, {} of 40 done, {:.1} s, {stats:?}",
            report.items_created,
            begin.elapsed().as_secs_f64()
        );
        assert!(calls <= 40 && begin.elapsed() < Duration::from_secs(60));
        assert_eq!(report.items_created, done);
        for entry in entries.iter().filter(|entry| entry.class != "Success") {
            let codes = ["ErrorQuotaExceeded", "ErrorBatchProcessingStopped"];
            assert!(codes.contains(&&*entry.code), "{entry:?}");
        }
    }
}

/// Counts the bytes of responses that somebody holds.
struct Held {
    bytes: Vec<u8>,
    now: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.now.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_what_is_on_its_way_and_one_window() {
    const PART: usize = 100;
    const LARGE: usize = 4_096;
    for parallel in [1, 4] {
        let now = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let client = {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            tower::service_fn(move |request: Request<ReplayBody>| {
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let members = request.into_body().to_bytes();
                    let members = members
                        .windows(7)
                        .filter(|text| *text == b"ItemId ")
                        .count();
                    let frame = |bytes: Vec<u8>| {
                        let held = now.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
                        most.fetch_max(held, Ordering::Relaxed);
                        let now = Arc::clone(&now);
                        Ok::<_, std::io::Error>(Frame::data(Bytes::from_owner(Held { bytes, now })))
                    };
                    let begin = "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body><m:GetItemResponse \
                                 xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><m:ResponseMessages>";
                    let end = "</m:ResponseMessages></m:GetItemResponse></s:Body></s:Envelope>";
                    let message = format!(
                        "<m:GetItemResponseMessage ResponseClass='Success'><m:ResponseCode>NoError</m:ResponseCode><m:Items>{}</m:Items>\
                         </m:GetItemResponseMessage>",
                        "x".repeat(LARGE)
                    );
                    let mut frames = vec![frame(begin.into())];
                    frames.extend((0..members).map(|_| frame(message.clone().into_bytes())));
                    frames.push(frame(end.into()));
                    Ok::<_, std::io::Error>(Response::new(StreamBody::new(stream::iter(frames))))
                }
            })
        };
        let service = BatchSplitterLayer::new(EwsBatchFormat::new())
            .start_members(PART)
            .max_members(PART)
            .parallel(parallel)
            .layer(client);
        let ids: String = (0..10_000)
            .map(|n| format!("<t:ItemId Id='{n}'/>"))
            .collect();
        let request = format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'>\
             <s:Body><m:GetItem xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><m:ItemShape/><m:ItemIds>{ids}\
             </m:ItemIds></m:GetItem></s:Body></s:Envelope>"
        );
        let response = service.oneshot(Request::new(request.into())).await.unwrap();
        let mut body = response.into_body();
        let (mut read, mut frames) = (0, 0);
        while let Some(frame) = body.frame().await {
            read += frame.unwrap().into_data().unwrap().len();
            frames += 1;
            // Slower than the server.
            if frames % 10 == 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        drop(body);
        assert!(read > 10_000 * LARGE);
        assert_eq!(now.load(Ordering::Relaxed), 0, "all of it is let go");
        let part = PART * (LARGE + 200);
        let most = most.load(Ordering::Relaxed);
        println!(
            "{parallel} at a time: {:.2} MB held of {:.1} MB, {:.1} parts",
            most as f64 / 1e6,
            read as f64 / 1e6,
            most as f64 / part as f64
        );
        // What is on its way, and what the reader has not taken yet.
        let bound = match parallel {
            1 => 1,
            _ => parallel + 1,
        };
        assert!(most <= bound * part, "{most}");
    }
}

async fn a_write_whose_response_nobody_reads_is_executed_to_its_end(kind: Kind) {
    for access in BOTH {
        let exchange = Exchange::builder()
            .faults(Faults::none().rate(
                Fault::ThrottledMembers {
                    share: 0.2,
                    back_off: Some(Duration::from_secs(1)),
                },
                1.0,
            ))
            .build();
        let job = Job::new(access, AMY, "CreateItem", 300);
        let service = stack_of(kind, &exchange, |batches| {
            batches.start_members(30).max_members(30)
        });
        let response = service.oneshot(job.request(&exchange)).await.unwrap();
        drop(response);
        let report = exchange.report();
        assert_eq!(report.items_created, 300);
        check_once(&report);
    }
}

/// Batches for 48 mailboxes, of which one account has 16 open: as fast as the policy allows.
#[tokio::test(start_paused = true)]
async fn a_delegate_job_in_big_batches_runs_as_fast_as_sixteen_open_mailboxes_allow() {
    const EACH: usize = 250;
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.latency = Duration::ZERO;
        policy.member_time = Duration::from_millis(400);
        policy.jitter = 0.0;
    });
    let exchange = Exchange::builder().policy(policy).seed(1).build();
    let service = stack(&exchange, |batches| batches.start_members(50));
    let begin = Instant::now();
    let mailboxes =
        (0..48).map(|n| &*Box::leak(format!("user{n:03}@contoso.com").into_boxed_str()));
    let calls = mailboxes.map(|mailbox| {
        let job = Job::new(Access::Delegate, mailbox, "CreateItem", EACH);
        let request = job.request(&exchange);
        let service = service.clone();
        async move { send(&service, request).await.all_done(&job) }
    });
    let stats = futures_util::future::join_all(calls).await;
    let took = begin.elapsed().as_secs_f64();
    let report = exchange.report();
    check_once(&report);
    assert_eq!(report.items_created as usize, 48 * EACH);
    // Three groups of 16 mailboxes, one member after another in each, and 300 s between two groups.
    let least = 2.0 * 300.0 + 3.0 * EACH as f64 * 0.4;
    let parts: u32 = stats.iter().map(|stats| stats.parts).sum();
    println!(
        "48 batches of {EACH}: {took:.0} s, at least {least:.0} s ({:.3}x), {parts} parts, {} throttled responses",
        took / least,
        report.throttled_total()
    );
    assert!(took <= least * 1.05, "{took}");
    assert_eq!(report.throttled_total(), 0);
    assert!(stats.iter().all(|stats| stats.resent == 0));
}

with_each_ledger!(
    under_each_fault_every_message_is_true,
    under_mixed_faults_and_cancellation_nothing_is_lost_and_nothing_done_twice,
    the_one_minute_limit_halves_sizes_for_its_principal_and_operation,
    a_batch_that_was_stopped_by_what_passes_is_resumed,
    a_batch_that_was_stopped_by_what_is_in_doubt_is_resumed_behind_it,
    rounds_that_achieve_nothing_end_a_batch_that_is_stopped_again_and_again,
    a_write_whose_response_nobody_reads_is_executed_to_its_end,
);
