//! Listening to many mailboxes, against the simulated server in virtual time: each event is told or lies in a gap that is.

#[path = "streaming/changes.rs"]
mod changes;
#[path = "streaming/day.rs"]
mod day;
#[path = "streaming/hostile.rs"]
mod hostile;
#[path = "streaming/trouble.rs"]
mod trouble;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::time::{Instant, timeout};
use tower_ews::EwsStack;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Faults, Payer, Policy};
use tower_ews::streaming::{Autodiscover, Notification, Notifications, Subscriptions};

const ENDPOINT: &str = "https://mail.contoso.com/EWS/Exchange.asmx";
const AUTODISCOVER: &str = "https://mail.contoso.com/autodiscover/autodiscover.svc";
const AUTH: HeaderValue = HeaderValue::from_static("Basic c3ZjQGNvbnRvc28uY29tOnNlY3JldA==");

/// A random seed, or that of the run that is to be repeated.
fn seed() -> u64 {
    let given = std::env::var("EWS_TEST_SEED").ok();
    let given = given.and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

fn mailbox(number: usize) -> String {
    format!("user{number:05}@contoso.com")
}

fn server(mailboxes: usize, servers: usize, faults: Faults) -> Exchange {
    Exchange::builder()
        .policy(Policy::exchange_online())
        .mailboxes((0..mailboxes).map(mailbox))
        .servers(servers)
        .faults(faults)
        .build()
}

fn subscriptions(exchange: &Exchange) -> Subscriptions {
    let autodiscover = Autodiscover::new(exchange.clone(), AUTODISCOVER.parse().unwrap())
        .header(AUTHORIZATION, AUTH);
    Subscriptions::new(ENDPOINT.parse().unwrap())
        .header(AUTHORIZATION, AUTH)
        .locate(autodiscover)
        .seed(1)
}

/// The next notification, within five minutes.
async fn next(notifications: &mut Notifications) -> Option<Notification> {
    timeout(Duration::from_secs(300), notifications.next())
        .await
        .ok()?
}

/// The mailboxes of the next gaps.
async fn gaps(notifications: &mut Notifications, number: usize) -> BTreeSet<String> {
    let mut mailboxes = BTreeSet::new();
    while mailboxes.len() < number {
        match next(notifications).await {
            Some(Notification::Gap { mailbox, .. }) => drop(mailboxes.insert(mailbox.to_string())),
            other => panic!("{other:?} after {mailboxes:?}"),
        }
    }
    mailboxes
}

async fn item(notifications: &mut Notifications) -> (String, String) {
    match next(notifications).await {
        Some(Notification::Item { mailbox, event }) => (mailbox.to_string(), event.id.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_mailboxes_on_several_servers_come_and_the_end_leaves_nothing() {
    let exchange = server(7, 3, Faults::none());
    let mut notifications = subscriptions(&exchange).listen(exchange.clone(), (0..7).map(mailbox));
    assert_eq!(gaps(&mut notifications, 7).await.len(), 7);
    for number in [3, 0, 6, 5] {
        let id = exchange.deliver(&mailbox(number), "news").unwrap();
        assert_eq!(item(&mut notifications).await, (mailbox(number), id));
    }
    let counts = notifications.counts();
    assert_eq!((counts.mailboxes, counts.subscribed), (7, 7));
    assert_eq!((counts.groups, counts.connections), (3, 3));
    // Hours pass, and connections with them.
    for _ in 0..30 {
        assert!(next(&mut notifications).await.is_none());
    }
    let id = exchange.deliver(&mailbox(1), "late").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(1), id));
    assert_eq!(notifications.shutdown(Duration::from_secs(30)).await, 0);
    for number in 0..7 {
        assert_eq!(exchange.subscriptions(&Payer::Copy(mailbox(number))), 0);
    }
    let report = exchange.report();
    assert_eq!(report.foreign_cookies, 0);
    assert_eq!(report.throttled_total(), 0);
    assert_eq!(report.executed["Subscribe"], 7);
    assert_eq!(report.executed["Unsubscribe"], 7);
}

#[tokio::test(start_paused = true)]
async fn a_stack_carries_it() {
    let exchange = server(5, 2, Faults::none());
    let stack = EwsStack::new(ThrottlingPolicy::exchange_online())
        .caller(Caller::new(DEFAULT_ACCOUNT))
        .service(exchange.clone());
    let mut notifications = subscriptions(&exchange).listen(stack, (0..5).map(mailbox));
    assert_eq!(gaps(&mut notifications, 5).await.len(), 5);
    let begun = Instant::now();
    let id = exchange.deliver(&mailbox(4), "news").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(4), id));
    assert!(
        begun.elapsed() <= Duration::from_secs(31),
        "{:?}",
        begun.elapsed()
    );
    for _ in 0..30 {
        assert!(next(&mut notifications).await.is_none());
    }
    let id = exchange.deliver(&mailbox(2), "late").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(2), id));
    assert_eq!(notifications.shutdown(Duration::from_secs(30)).await, 0);
    assert_eq!(exchange.report().foreign_cookies, 0);
}
