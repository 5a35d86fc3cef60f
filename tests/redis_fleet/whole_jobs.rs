//! Whole jobs of a fleet through the stack, against the simulated server: how much runs at once, how long it takes beside one process with
//! the same limit, and what each process gets of it meanwhile.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::simulator::{Exchange, Policy};
use tower_ews::{EwsService, EwsStack};

use super::fake::Fake;

/// The calls that wait or run in one process at a time.
const AT_ONCE: usize = 64;

/// What the calls of a job are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Calls {
    /// One mailbox, one call like the other.
    Plain,
    /// Each mailbox in turn, of so many.
    Mailboxes(usize),
    /// Some that find a few hundred rows, and some that impersonate one mailbox and touch another one.
    Mixed,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    calls: Calls,
    limit: u32,
    processes: usize,
    each: usize,
}

/// What came of one process.
#[derive(Default)]
struct Progress {
    /// When its calls to each mailbox ended.
    done: Vec<Vec<Duration>>,
}

impl Progress {
    fn done_in(&self, mailbox: usize, window: &Range<Duration>) -> usize {
        let done = &self.done[mailbox];
        let begin = done.partition_point(|at| *at < window.start);
        done.partition_point(|at| *at < window.end) - begin
    }

    fn all_done_in(&self, window: &Range<Duration>) -> usize {
        let mailboxes = 0..self.done.len();
        mailboxes.map(|one| self.done_in(one, window)).sum()
    }

    /// Whether more of its calls to these mailboxes waited until the end of the window than may run.
    fn waited(&self, mailboxes: &[usize], window: &Range<Duration>) -> bool {
        let later = window.end..Duration::MAX;
        let left = mailboxes.iter().map(|one| self.done_in(*one, &later));
        left.sum::<usize>() >= AT_ONCE
    }
}

struct Outcome {
    time: Duration,
    peak: u32,
    commands: f64,
    progress: Vec<Progress>,
}

fn calls(default: usize) -> usize {
    std::env::var("EWS_TEST_CALLS").map_or(default, |n| n.parse().unwrap())
}

fn owned(mailbox: &str) -> String {
    format!("<t:Mailbox><t:EmailAddress>{mailbox}</t:EmailAddress></t:Mailbox>")
}

fn create(owner: &str, number: usize) -> String {
    let owner = owned(owner);
    format!(
        r#"<m:CreateItem SendMeetingInvitations="SendToNone"><m:SavedItemFolderId><t:DistinguishedFolderId Id="calendar">{owner}</t:DistinguishedFolderId></m:SavedItemFolderId><m:Items><t:CalendarItem><t:Subject>event {number}</t:Subject></t:CalendarItem></m:Items></m:CreateItem>"#
    )
}

fn find(rows: usize) -> String {
    let owner = owned("user0@contoso.com");
    format!(
        r#"<m:FindItem Traversal="Shallow"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:IndexedPageItemView MaxEntriesReturned="{rows}" Offset="0" BasePoint="Beginning"/><m:ParentFolderIds><t:DistinguishedFolderId Id="inbox">{owner}</t:DistinguishedFolderId></m:ParentFolderIds></m:FindItem>"#
    )
}

impl Calls {
    /// The mailboxes that they go to in turn.
    fn mailboxes(self) -> usize {
        match self {
            Self::Mailboxes(mailboxes) => mailboxes,
            Self::Plain | Self::Mixed => 1,
        }
    }

    fn request(self, number: usize) -> Request<Full<Bytes>> {
        let impersonates = "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>user1@contoso.com</t:PrimarySmtpAddress></t:ConnectingSID></t:ExchangeImpersonation>";
        let (header, body) = match self {
            Self::Mailboxes(mailboxes) => {
                let owner = format!("user{}@contoso.com", number % mailboxes);
                ("", create(&owner, number))
            }
            Self::Mixed if number % 3 == 1 => ("", find(250 + number % 7 * 50)),
            Self::Mixed if number % 3 == 2 => (impersonates, create("user2@contoso.com", number)),
            Self::Plain | Self::Mixed => ("", create("user0@contoso.com", number)),
        };
        let text = format!(
            r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"#
        );
        Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
            .header("content-type", "text/xml; charset=utf-8")
            .header("authorization", "Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==")
            .body(Full::from(text))
            .unwrap()
    }
}

fn server(job: Job) -> Exchange {
    let policy = Policy::unlimited().with(|policy| {
        policy.max_concurrency = Some(job.limit);
        policy.latency = Duration::from_millis(50);
        policy.member_time = Duration::from_millis(150);
        match job.calls {
            Calls::Plain => {}
            Calls::Mailboxes(_) => {
                policy.open_mailboxes = Some(16);
                policy.open_mailbox_idle = Duration::from_secs(300);
            }
            Calls::Mixed => policy.find_count = Some(1_000),
        }
    });
    Exchange::builder().policy(policy).seed(1).build()
}

fn process(job: Job, fake: &Fake, exchange: &Exchange) -> EwsService<Exchange> {
    let mut policy = ThrottlingPolicy::exchange_online();
    policy
        .set_in_flight(Budget::Concurrency, job.limit)
        .unwrap();
    policy.deadline = Duration::from_secs(30 * 86_400);
    policy.max_wait = policy.deadline;
    let ledger = policy.redis_ledger().build(fake.fork());
    EwsStack::new(policy)
        .caller(Caller::new("svc@contoso.com"))
        .ledger(Arc::new(ledger))
        .layer(exchange.clone())
}

async fn send(service: EwsService<Exchange>, request: Request<Full<Bytes>>) {
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("ResponseClass=\"Success\""), "{text}");
}

async fn run(job: Job) -> Outcome {
    let (fake, exchange) = (Fake::new(1), server(job));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    let mut progress = Vec::new();
    for number in 0..job.processes {
        let service = process(job, &fake, &exchange);
        let next = Arc::new(AtomicUsize::new(0));
        let mine = Arc::new(Mutex::new(Progress {
            done: vec![Vec::new(); job.calls.mailboxes()],
        }));
        progress.push(Arc::clone(&mine));
        let at_once = match job.calls {
            // Some of each mailbox wait, whichever are open.
            Calls::Mailboxes(_) => job.each,
            Calls::Plain | Calls::Mixed => AT_ONCE * 4 / job.processes.min(4),
        };
        for _ in 0..at_once {
            let (service, next, mine) = (service.clone(), Arc::clone(&next), Arc::clone(&mine));
            tasks.spawn(async move {
                loop {
                    let call = next.fetch_add(1, Relaxed);
                    if call >= job.each {
                        return;
                    }
                    let call = number * job.each + call;
                    send(service.clone(), job.calls.request(call)).await;
                    mine.lock().done[call % job.calls.mailboxes()].push(begin.elapsed());
                }
            });
        }
    }
    tasks.join_all().await;
    let report = exchange.report();
    let calls = job.processes * job.each;
    assert_eq!(
        report.throttled_total(),
        0,
        "{job:?} {:?}",
        report.throttled
    );
    assert_eq!(report.open_mailbox_violations, 0, "{job:?}");
    assert!(report.created_twice().is_empty());
    Outcome {
        time: begin.elapsed(),
        peak: report.peak(),
        commands: fake.calls() as f64 / calls as f64,
        progress: progress
            .iter()
            .map(|one| std::mem::take(&mut *one.lock()))
            .collect(),
    }
}

/// The least part of a fair share that a process got in any ten seconds in which it had calls waiting to the mailboxes that were open. In
/// each of them calls have ended: when mailboxes open after a pause, whoever is first has all places for as long as a call takes.
fn least_share(outcome: &Outcome) -> f64 {
    let seconds = outcome.time.as_secs();
    let window = |from, to| Duration::from_secs(from)..Duration::from_secs(to);
    let all = &outcome.progress;
    let all_done_in = |window| {
        all.iter()
            .map(|one| one.all_done_in(&window))
            .sum::<usize>()
    };
    let at_work =
        |from: &u64| (*from..from + 10).all(|from| all_done_in(window(from, from + 1)) > 0);
    let windows = (0..seconds).filter(at_work);
    let windows = windows.map(|from| window(from, from + 10));
    let shares = windows.flat_map(|window| {
        let mailboxes = 0..all[0].done.len();
        let open: Vec<_> = mailboxes
            .filter(|one| all.iter().any(|of| of.done_in(*one, &window) > 0))
            .collect();
        let fair = all_done_in(window.clone()) as f64 / all.len() as f64;
        let waiting = all.iter().filter(|one| one.waited(&open, &window));
        let shares: Vec<_> = waiting
            .map(|one| one.all_done_in(&window) as f64 / fair)
            .collect();
        shares
    });
    shares.fold(f64::INFINITY, f64::min)
}

/// Runs a job in several processes and in one, and compares.
async fn compare(calls: Calls, limit: u32, processes: usize, all: usize) {
    let job = Job {
        calls,
        limit,
        processes,
        each: all / processes,
    };
    let fleet = run(job).await;
    let alone = run(Job {
        processes: 1,
        each: all / processes * processes,
        ..job
    })
    .await;
    let ratio = fleet.time.as_secs_f64() / alone.time.as_secs_f64();
    let least = least_share(&fleet);
    println!(
        "{calls:?}, {all} calls, limit {limit}, {processes} processes: peak {}, {:.1} s, {ratio:.3} of one process, {:.3} commands a call, least share {least:.2}",
        fleet.peak,
        fleet.time.as_secs_f64(),
        fleet.commands,
    );
    if calls != Calls::Mixed {
        assert!(fleet.peak <= limit, "{}", fleet.peak);
    }
    assert!(ratio <= 1.05, "{ratio}");
    assert!(least >= 0.5, "{least}");
}

#[tokio::test(start_paused = true)]
async fn four_processes_are_as_fast_as_one_and_each_has_its_share() {
    compare(Calls::Plain, 27, 4, calls(8_000)).await;
}

#[tokio::test(start_paused = true)]
async fn ten_processes_share_three_and_five() {
    compare(Calls::Plain, 3, 10, calls(1_000)).await;
    compare(Calls::Plain, 5, 10, calls(1_000)).await;
}

#[tokio::test(start_paused = true)]
async fn four_processes_share_sixteen_open_mailboxes() {
    compare(Calls::Mailboxes(40), 27, 4, calls(4_000)).await;
}

#[tokio::test(start_paused = true)]
async fn four_processes_share_weighted_and_crossed_charges() {
    compare(Calls::Mixed, 27, 4, calls(2_000)).await;
}
