//! A day with all kinds of trouble: each event is told, or lies in a gap that is.

#[path = "../../examples/listen/memory.rs"]
mod memory;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use http::HeaderValue;
use tokio::time::{Instant, sleep_until};
use tower_ews::EwsStack;
use tower_ews::account_pool::Account;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Fault, Faults, Payer, Policy, Report};
use tower_ews::streaming::{Notification, Notifications};

use super::{mailbox, seed, server, subscriptions};

/// How large it is.
#[derive(Clone, Copy, Debug)]
struct Day {
    mailboxes: usize,
    hours: u64,
    seed: u64,
    /// Through the stack, else through the bare client.
    stack: bool,
    /// With so many accounts, each in groups of this size.
    accounts: usize,
    group_size: usize,
}

/// What has come of it.
#[derive(Debug, Default)]
struct Outcome {
    events: usize,
    told: usize,
    /// By none of them it was told.
    in_gaps: usize,
    gaps: usize,
    starved: usize,
    lost: Vec<String>,
    missed: Vec<String>,
    moves: usize,
    left: usize,
    subscriptions: usize,
    report: Report,
}

const MINUTE: Duration = Duration::from_secs(60);
const SERVERS: usize = 4;

fn faults() -> Faults {
    let on_streams = "GetStreamingEvents";
    Faults::none()
        .rate_on(
            on_streams,
            Fault::StreamReset {
                within: 10 * MINUTE,
            },
            0.04,
        )
        .rate_on(
            on_streams,
            Fault::StreamSilent {
                within: 10 * MINUTE,
            },
            0.03,
        )
        .rate_on(on_streams, Fault::ResetBefore, 0.02)
        .rate_on(on_streams, Fault::Page503, 0.02)
        .rate_on("Subscribe", Fault::ResetAfter, 0.01)
        .rate_on(
            "Subscribe",
            Fault::Code("ErrorMailboxStoreUnavailable".to_owned()),
            0.02,
        )
        .rate_on("Subscribe", Fault::ServerBusy { back_off: None }, 0.01)
        .rate_on("GetUserSettingsRequestMessage", Fault::Page503, 0.05)
}

/// The trouble that the server makes, and the mail that comes.
struct Nature {
    rng: fastrand::Rng,
    exchange: Exchange,
    mailboxes: usize,
    /// By item: the mailbox, and when it came.
    events: Vec<(String, usize, Instant)>,
    moves: usize,
}

impl Nature {
    /// Until the next event: some 20 a day for each mailbox.
    fn pause(&mut self) -> Duration {
        let mean = 24.0 * 3600.0 / 20.0 / self.mailboxes as f64;
        Duration::from_secs_f64(-mean * (1.0 - self.rng.f64()).ln())
    }

    fn act(&mut self) {
        let number = self.rng.usize(..self.mailboxes);
        let name = mailbox(number);
        // All of a server's at once: a few times a day, however many mailboxes there are.
        let all = 200_000 / self.mailboxes.max(2_000) as u32;
        match self.rng.u32(..1_000_000) {
            lost if lost < all => self.exchange.lose_subscriptions(),
            100..5_000 => self.exchange.lose_subscriptions_of(&name),
            5_000..10_000 => {
                self.exchange.move_mailbox(&name);
                self.moves += 1;
            }
            _ => {}
        }
        let id = self.exchange.deliver(&name, "").unwrap();
        self.events.push((id, number, Instant::now()));
    }
}

/// What was told.
#[derive(Default)]
struct Told {
    items: HashSet<String>,
    gaps: HashMap<String, Vec<(Instant, Instant)>>,
    gap_count: usize,
    starved: usize,
    lost: Vec<String>,
}

impl Told {
    fn note(&mut self, notification: Notification) {
        match notification {
            Notification::Item { event, .. } => drop(self.items.insert(event.id.to_string())),
            Notification::Gap { mailbox, since } => {
                let gaps = self.gaps.entry(mailbox.to_string()).or_default();
                gaps.push((since, Instant::now()));
                self.gap_count += 1;
            }
            Notification::Starved { .. } => self.starved += 1,
            Notification::Lost { mailbox, error } => self.lost.push(format!("{mailbox}: {error}")),
            _ => {}
        }
    }

    fn has_gap(&self, mailbox: &str, at: Instant) -> bool {
        let gaps = self.gaps.get(mailbox).into_iter().flatten();
        gaps.into_iter()
            .any(|(since, until)| (*since..=*until).contains(&at))
    }
}

async fn listen_until(notifications: &mut Notifications, told: &mut Told, until: Instant) {
    let end = sleep_until(until);
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            next = notifications.next() => told.note(next.expect("it does not end")),
            () = &mut end => return,
        }
    }
}

fn account(number: usize) -> String {
    format!("svc{number}@contoso.com")
}

fn exchange(day: Day) -> Exchange {
    if day.accounts == 1 {
        return server(day.mailboxes, SERVERS, faults());
    }
    let builder = Exchange::builder()
        .policy(Policy::exchange_online())
        .mailboxes((0..day.mailboxes).map(mailbox))
        .servers(SERVERS)
        .faults(faults())
        .account(DEFAULT_ACCOUNT, "secret");
    let accounts = 0..day.accounts;
    accounts
        .fold(builder, |builder, number| {
            builder.account(account(number), "secret")
        })
        .build()
}

fn listen(day: Day, exchange: &Exchange) -> Notifications {
    let mut settings = subscriptions(exchange).seed(day.seed);
    let names = (0..day.mailboxes).map(mailbox);
    if !day.stack {
        return settings.listen(exchange.clone(), names);
    }
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online());
    if day.accounts == 1 {
        let stack = stack.caller(Caller::new(DEFAULT_ACCOUNT));
        return settings.listen(stack.service(exchange.clone()), names);
    }
    for number in 0..day.accounts {
        settings = settings.caller(Caller::new(&account(number)));
    }
    let stack = stack.accounts((0..day.accounts).map(|number| {
        let basic = STANDARD.encode(format!("{}:secret", account(number)));
        let value = HeaderValue::try_from(format!("Basic {basic}")).unwrap();
        Account::new(&account(number))
            .authorization(value)
            .reserved()
    }));
    settings
        .group_size(day.group_size)
        .listen(stack.service(exchange.clone()), names)
}

async fn run(day: Day) -> Outcome {
    let exchange = exchange(day);
    let mut notifications = listen(day, &exchange);
    let mut told = Told::default();
    let mut nature = Nature {
        rng: fastrand::Rng::with_seed(day.seed),
        exchange: exchange.clone(),
        mailboxes: day.mailboxes,
        events: Vec::new(),
        moves: 0,
    };
    let begun = Instant::now();
    let end = begun + day.hours as u32 * 60 * MINUTE;
    let mut at = begun;
    loop {
        at += nature.pause();
        if at > end {
            break;
        }
        listen_until(&mut notifications, &mut told, at).await;
        nature.act();
    }
    // Until everything that waits has come.
    listen_until(&mut notifications, &mut told, end + 60 * MINUTE).await;
    let left = notifications.shutdown(5 * MINUTE).await;
    outcome(&exchange, &nature, told, left)
}

fn outcome(exchange: &Exchange, nature: &Nature, told: Told, left: usize) -> Outcome {
    let mut outcome = Outcome {
        events: nature.events.len(),
        gaps: told.gap_count,
        starved: told.starved,
        moves: nature.moves,
        left,
        report: exchange.report(),
        ..Outcome::default()
    };
    for (id, number, at) in &nature.events {
        if told.items.contains(id) {
            outcome.told += 1;
        } else if told.has_gap(&mailbox(*number), *at) {
            outcome.in_gaps += 1;
        } else {
            outcome
                .missed
                .push(format!("{} at {at:?}", mailbox(*number)));
        }
    }
    outcome.lost = told.lost;
    let payers = (0..nature.mailboxes).map(|number| Payer::Copy(mailbox(number)));
    outcome.subscriptions = payers.map(|payer| exchange.subscriptions(&payer)).sum();
    outcome
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn check(day: Day) -> Outcome {
    println!("EWS_TEST_SEED={} {day:?}", day.seed);
    let real = std::time::Instant::now();
    let outcome = run(day).await;
    let Outcome { report, .. } = &outcome;
    let calls: BTreeMap<&str, u64> = ["Subscribe", "GetStreamingEvents", "Unsubscribe"]
        .map(|name| (name, report.executed.get(name).copied().unwrap_or_default()))
        .into();
    println!(
        "{} events, {} told, {} in {} gaps, {} moves, starved {}; calls {calls:?}, faults {:?}, most hanging {:?}, \
         most ids {}, in {:.1?}",
        outcome.events,
        outcome.told,
        outcome.in_gaps,
        outcome.gaps,
        outcome.moves,
        outcome.starved,
        report.faults,
        report.peak_hanging.values().max(),
        report.most_stream_ids,
        real.elapsed(),
    );
    assert_eq!(outcome.missed, [""; 0], "missed");
    assert_eq!(outcome.lost, [""; 0], "lost");
    // Gaps are no excuse.
    assert!(
        outcome.told * 100 >= outcome.events * 90,
        "{} of {}",
        outcome.told,
        outcome.events
    );
    for (payer, peak) in &report.peak_hanging {
        assert!(*peak <= 10, "{payer} had {peak} hanging connections");
    }
    assert!(report.most_stream_ids <= 200, "{}", report.most_stream_ids);
    assert_eq!(report.foreign_cookies, 0);
    assert_eq!((outcome.left, outcome.subscriptions), (0, 0), "at the end");
    outcome
}

/// `EWS_TEST_MAILBOXES=2000 EWS_TEST_HOURS=24` is the full size, which takes minutes.
#[tokio::test(start_paused = true)]
async fn each_event_of_a_day_is_told_or_lies_in_a_gap() {
    let seed = seed();
    let mailboxes = number("EWS_TEST_MAILBOXES").map_or(200, |mailboxes| mailboxes as usize);
    let hours = number("EWS_TEST_HOURS").unwrap_or(2);
    for stack in [false, true] {
        let day = Day {
            mailboxes,
            hours,
            seed,
            stack,
            accounts: 1,
            group_size: 200,
        };
        check(day).await;
    }
}

/// Each account has ten connections, and each connection a hundredth of the mailboxes: `EWS_TEST_MAILBOXES=20000` is the full size.
#[tokio::test(start_paused = true)]
async fn ten_accounts_listen_to_as_many_mailboxes_as_they_can() {
    let mailboxes = number("EWS_TEST_MAILBOXES").map_or(300, |mailboxes| mailboxes as usize);
    let outcome = check(Day {
        mailboxes,
        hours: 1,
        seed: seed(),
        stack: true,
        accounts: 10,
        group_size: mailboxes.div_ceil(100),
    })
    .await;
    let peaks = outcome.report.peak_hanging;
    let of_accounts: Vec<u32> = (0..10)
        .filter_map(|number| peaks.get(&Payer::Account(account(number))).copied())
        .collect();
    let of_copies = peaks
        .iter()
        .filter(|(payer, _)| matches!(payer, Payer::Copy(_)));
    println!(
        "most hanging calls of each account {of_accounts:?}, of {} copies {:?}",
        of_copies.clone().count(),
        of_copies.map(|(_, peak)| peak).max()
    );
    assert_eq!(of_accounts, [10; 10]);
    assert_eq!(outcome.starved, 0, "each account has room for its own");
}

/// What a mailbox takes in memory, with its connection, without the layers.
#[test]
fn memory_follows_the_mailboxes() {
    let bytes =
        [200, 2_000, 20_000].map(|mailboxes| (mailboxes, memory::bytes_per_mailbox(mailboxes)));
    println!("bytes for each of so many mailboxes: {bytes:?}");
    assert!(bytes.iter().all(|(_, bytes)| *bytes <= 2_048), "{bytes:?}");
}
