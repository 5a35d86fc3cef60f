//! A migration with three accounts that is killed at random points, and goes on from its journal. Every item is created once,
//! whatever the server and the end of the process do.
//!
//! `EWS_TEST_CASES=1000 cargo test --release --test job` is the long run.

use std::env;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tokio::time::{sleep, timeout};
use tower::Layer;
use tower_ews::EwsStack;
use tower_ews::account_pool::Account;
use tower_ews::job::{Job, Journal, Past};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{Exchange, Fault, Faults, OpenedBy, Policy};

const ACCOUNTS: [&str; 3] = ["svc1@contoso.com", "svc2@contoso.com", "svc3@contoso.com"];
const ITEMS: usize = 240;
const MAILBOXES: usize = 60;

/// What has been written, and outlives the process.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Vec<u8>>>);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk {
    fn past(&self) -> Past {
        Past::read(&self.0.lock().unwrap()[..]).unwrap()
    }

    /// Cuts off what was being written at the end. What was written before a call was sent is whole.
    fn tear(&self, rng: &mut fastrand::Rng) {
        let mut written = self.0.lock().unwrap();
        let last = written
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        if written[last..].starts_with(b"begin") {
            let half = b"\nbegin item 7";
            written.extend_from_slice(&half[..rng.usize(..=half.len())]);
        } else if last < written.len() {
            let end = rng.usize(last..=written.len());
            written.truncate(end);
        }
    }
}

fn key(number: usize) -> String {
    format!("item {number}")
}

fn requests() -> impl Iterator<Item = (String, Request<Full<Bytes>>)> + Unpin {
    (0..ITEMS).map(|number| {
        let (key, mailbox) = (key(number), number % MAILBOXES);
        let body = format!(
            "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
             xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
             xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body>\
             <m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId><t:DistinguishedFolderId Id='inbox'>\
             <t:Mailbox><t:EmailAddress>user{mailbox}@contoso.com</t:EmailAddress></t:Mailbox></t:DistinguishedFolderId>\
             </m:SavedItemFolderId><m:Items><t:Message><t:Subject>{key}</t:Subject></t:Message></m:Items></m:CreateItem>\
             </s:Body></s:Envelope>"
        );
        let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx")
            .header("content-type", "text/xml; charset=utf-8")
            .body(Full::from(body))
            .unwrap();
        (key, request)
    })
}

fn exchange(seed: u64) -> Exchange {
    let policy = Policy::exchange_online().with(|policy| {
        policy.max_burst = None;
        policy.opened_by = OpenedBy::ReadsAndWrites;
    });
    let busy = Fault::ServerBusy {
        back_off: Some(Duration::from_millis(500)),
    };
    let faults = Faults::none()
        .rate(Fault::ResetAfter, 0.02)
        .rate(Fault::ResetBefore, 0.02)
        .rate(Fault::CutBody, 0.02)
        .rate(Fault::Page503, 0.02)
        .rate(busy, 0.02);
    let builder = Exchange::builder().policy(policy).faults(faults).seed(seed);
    let accounts = ACCOUNTS.iter();
    accounts
        .fold(builder, |builder, name| builder.account(*name, "secret"))
        .build()
}

fn stack() -> EwsStack {
    let account = |name: &&str| {
        let basic = STANDARD.encode(format!("{name}:secret"));
        let value = HeaderValue::try_from(format!("Basic {basic}")).unwrap();
        Account::new(name).authorization(value)
    };
    EwsStack::new(ThrottlingPolicy::exchange_2019()).accounts(ACCOUNTS.iter().map(account))
}

/// A process: it settles what is in doubt, does what is left, and may be killed. Returns whether everything is done.
async fn run(exchange: &Exchange, disk: &Disk, killed_after: Option<Duration>) -> bool {
    let mut past = disk.past();
    let existing = exchange.report().existing;
    for key in past.in_doubt() {
        match existing.contains_key(&key) {
            true => past.was_executed(&key),
            false => past.was_not_executed(&key),
        }
    }
    let journal = Journal::resume(disk.clone(), past);
    let service = stack().service(journal.layer().layer(exchange.clone()));
    let mut results = Job::new()
        .concurrency(100)
        .journal(journal)
        .run(service, requests());
    let all = async { while results.next().await.is_some() {} };
    let killed = match killed_after {
        Some(time) => timeout(time, all).await.is_err(),
        None => {
            all.await;
            false
        }
    };
    let progress = results.progress();
    drop(results);
    !killed && progress.done + progress.skipped == ITEMS
}

/// Kills the job until it is done. Returns how often.
async fn killed_and_resumed(seed: u64) -> usize {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (exchange, disk) = (exchange(seed), Disk::default());
    let mut kills = 0;
    loop {
        // Now in the middle of the calls, now while most of them wait for mailboxes to close.
        let time = match rng.bool() {
            true => Duration::from_millis(rng.u64(0..1_500)),
            false => Duration::from_millis(rng.u64(0..600_000)),
        };
        let killed_after = (kills < 12).then_some(time);
        if run(&exchange, &disk, killed_after).await {
            break;
        }
        kills += 1;
        disk.tear(&mut rng);
        // What the server was at work on ends.
        sleep(Duration::from_secs(60)).await;
    }
    let existing = exchange.report().existing;
    for number in 0..ITEMS {
        let there = existing.get(&key(number)).copied().unwrap_or_default();
        assert_eq!(there, 1, "{}", key(number));
    }
    let past = disk.past();
    assert!(past.in_doubt().is_empty());
    assert!((0..ITEMS).all(|number| past.is_done(&key(number))));
    kills
}

#[test]
fn a_job_that_is_killed_at_any_point_does_everything_once() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse().ok());
    let cases: u64 = number("EWS_TEST_CASES").unwrap_or(12);
    let seed = number("EWS_TEST_SEED");
    let first: u64 = seed.unwrap_or(1);
    let cases = if seed.is_some() { 1 } else { cases };
    let mut kills = 0;
    for seed in first..first + cases {
        println!("EWS_TEST_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        kills += runtime.block_on(killed_and_resumed(seed));
    }
    println!("{cases} jobs, killed {kills} times");
}
