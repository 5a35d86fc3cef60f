//! One kind of trouble at a time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;
use tower_ews::EwsStack;
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Fault, Faults, Payer, Policy};
use tower_ews::streaming::{Location, Notification, Subscriptions};

use super::{AUTH, ENDPOINT, gaps, item, mailbox, next, server, subscriptions};

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn by_number(groups: usize) -> impl Fn(&str) -> Location {
    move |mailbox: &str| {
        let number: usize = mailbox[4..9].parse().unwrap();
        Location::new((number % groups).to_string())
    }
}

fn bare() -> Subscriptions {
    Subscriptions::new(ENDPOINT.parse().unwrap())
        .header(AUTHORIZATION, AUTH)
        .seed(1)
}

#[tokio::test(start_paused = true)]
async fn further_connections_are_charged_to_the_anchors() {
    let exchange = Exchange::builder()
        .policy(Policy::exchange_online().with(|policy| policy.hanging_connections = Some(3)))
        .build();
    let settings = bare().locate(by_number(5)).hanging_connections(3);
    let mut notifications = settings.listen(exchange.clone(), (0..10).map(mailbox));
    gaps(&mut notifications, 10).await;
    for number in 0..10 {
        let id = exchange.deliver(&mailbox(number), "news").unwrap();
        assert_eq!(item(&mut notifications).await, (mailbox(number), id));
    }
    let report = exchange.report();
    let mut hanging: Vec<(&Payer, &u32)> = report.peak_hanging.iter().collect();
    hanging.sort();
    let copies = [Payer::Copy(mailbox(3)), Payer::Copy(mailbox(4))];
    let account = Payer::Account("svc@contoso.com".to_owned());
    assert_eq!(
        hanging,
        [(&account, &3), (&copies[0], &1), (&copies[1], &1)]
    );
    assert_eq!(report.throttled_total(), 0);
}

#[tokio::test(start_paused = true)]
async fn want_of_room_is_told_once_and_the_rest_goes_on() {
    let exchange = Exchange::builder()
        .policy(Policy::exchange_online().with(|policy| policy.hanging_connections = Some(1)))
        .build();
    let settings = bare().locate(by_number(2));
    let mut notifications = settings.listen(exchange.clone(), (0..2).map(mailbox));
    gaps(&mut notifications, 2).await;
    let starved = next(&mut notifications).await.unwrap();
    let hanging = Budget::HangingConnections;
    assert!(
        matches!(starved, Notification::Starved { budget } if budget == hanging),
        "{starved:?}"
    );
    for _ in 0..10 {
        exchange.deliver(&mailbox(0), "").unwrap();
        exchange.deliver(&mailbox(1), "").unwrap();
        let (_, id) = item(&mut notifications).await;
        assert!(!id.is_empty());
        sleep(Duration::from_secs(5)).await;
    }
    // It is tried later and later.
    let refused = exchange.report().throttled_total();
    assert!((2..30).contains(&refused), "{refused}");

    let exchange = Exchange::builder()
        .policy(Policy::exchange_online().with(|policy| policy.max_subscriptions = Some(0)))
        .build();
    let mut notifications = bare().listen(exchange.clone(), (0..3).map(mailbox));
    let starved = next(&mut notifications).await.unwrap();
    let subscriptions = Budget::Subscriptions;
    assert!(
        matches!(starved, Notification::Starved { budget } if budget == subscriptions),
        "{starved:?}"
    );
    let again = next(&mut notifications).await;
    assert!(again.is_none(), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_refused_for_good_is_lost_and_the_others_are_not() {
    let exchange = server(3, 1, Faults::none());
    let names = ["nobody@contoso.com".to_owned(), mailbox(0), mailbox(2)];
    let mut notifications = bare().listen(exchange.clone(), names);
    let mut lost = Vec::new();
    for _ in 0..3 {
        match next(&mut notifications).await.unwrap() {
            Notification::Lost { mailbox, error } => lost.push(format!("{mailbox}: {error}")),
            Notification::Gap { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        lost,
        ["nobody@contoso.com: the server refuses the subscription: ErrorNonExistentMailbox"]
    );
    let id = exchange.deliver(&mailbox(2), "news").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(2), id));
    notifications.add(&mailbox(1));
    assert!(gaps(&mut notifications, 1).await.contains(&mailbox(1)));
    let id = exchange.deliver(&mailbox(1), "news").unwrap();
    let begun = Instant::now();
    let told = loop {
        if let Some(Notification::Item { event, .. }) = next(&mut notifications).await {
            break event.id;
        }
    };
    assert_eq!(*told, *id);
    assert!(begun.elapsed() <= 2 * MINUTE, "{:?}", begun.elapsed());

    let unknown = Subscriptions::new(ENDPOINT.parse().unwrap()).listen(exchange, [mailbox(0)]);
    let all: Vec<Notification> = unknown.collect().await;
    assert!(
        matches!(&all[..], [Notification::Lost { error, .. }] if error.to_string().contains("401")),
        "{all:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_moves_is_found_and_its_neighbours_hear_nothing_of_it() {
    let exchange = server(6, 2, Faults::none());
    let mut notifications = subscriptions(&exchange).listen(exchange.clone(), (0..6).map(mailbox));
    gaps(&mut notifications, 6).await;
    // Connections are long enough that each failure is one of its own.
    assert!(next(&mut notifications).await.is_none());
    let begun = Instant::now();
    // The anchor itself, whose cookie goes on leading to the first server.
    exchange.move_mailbox(&mailbox(0));
    assert_eq!(gaps(&mut notifications, 1).await, [mailbox(0)].into());
    assert!(begun.elapsed() < 2 * MINUTE);
    let ids: Vec<String> = (0..6)
        .map(|number| exchange.deliver(&mailbox(number), "").unwrap())
        .collect();
    let mut told = Vec::new();
    while told.len() < 6 {
        if let Some(Notification::Item { event, .. }) = next(&mut notifications).await {
            told.push(event.id.to_string());
        }
    }
    told.sort();
    let mut expected = ids;
    expected.sort();
    assert_eq!(told, expected);
    let report = exchange.report();
    let calls = exchange.calls();
    let subscribes = calls.iter().filter(|call| call.operation == "Subscribe");
    assert_eq!(subscribes.count(), 7, "none at a wrong server");
    assert_eq!((report.foreign_cookies, report.throttled_total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forgets_all_is_subscribed_to_again_anchor_first() {
    let exchange = server(20, 1, Faults::none());
    let mut notifications =
        subscriptions(&exchange).listen(exchange.clone(), (0..20).rev().map(mailbox));
    gaps(&mut notifications, 20).await;
    assert!(next(&mut notifications).await.is_none());
    exchange.lose_subscriptions();
    exchange.reset_report();
    let begun = Instant::now();
    assert_eq!(gaps(&mut notifications, 20).await.len(), 20);
    assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
    let calls = exchange.calls();
    let subscribes: Vec<_> = calls
        .iter()
        .filter(|call| call.operation == "Subscribe")
        .collect();
    assert_eq!(subscribes.len(), 20);
    assert_eq!(subscribes[0].mailboxes, [mailbox(0)]);
    assert!(subscribes[1].at >= subscribes[0].responded.unwrap());
    assert!(
        subscribes
            .iter()
            .all(|call| call.anchor == Some(mailbox(0)))
    );
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_and_told_as_a_gap() {
    let silent = Fault::StreamSilent {
        within: Duration::ZERO,
    };
    let exchange = server(2, 1, Faults::none().nth(3, silent));
    let mut notifications = bare().listen(exchange.clone(), (0..2).map(mailbox));
    gaps(&mut notifications, 2).await;
    let begun = Instant::now();
    exchange.deliver(&mailbox(1), "unheard").unwrap();
    match next(&mut notifications).await.unwrap() {
        Notification::Gap { since, .. } => assert!(since <= begun),
        other => panic!("{other:?}"),
    }
    assert!(
        begun.elapsed() >= 90 * MINUTE / 60 && begun.elapsed() < 2 * MINUTE,
        "{:?}",
        begun.elapsed()
    );
    gaps(&mut notifications, 1).await;
    let id = exchange.deliver(&mailbox(1), "heard").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(1), id));
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_loses_nothing() {
    let exchange = server(2, 1, Faults::none());
    let mut notifications = bare().listen(exchange.clone(), (0..2).map(mailbox));
    gaps(&mut notifications, 2).await;
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected.push(exchange.deliver(&mailbox(0), "").unwrap());
        sleep(MINUTE).await;
    }
    for id in expected {
        assert_eq!(item(&mut notifications).await, (mailbox(0), id));
    }
    let next = next(&mut notifications).await;
    assert!(next.is_none(), "no gap: {next:?}");
}

/// A client that keeps one cookie for everybody, unless a request has cookies of its own: as reqwest does it.
#[tokio::test(start_paused = true)]
async fn a_jar_in_the_client_mixes_nothing_up() {
    let exchange = server(4, 2, Faults::none());
    let jar: Arc<Mutex<Option<HeaderValue>>> = Arc::default();
    let (server, kept) = (exchange.clone(), Arc::clone(&jar));
    let client = tower::service_fn(move |mut request: Request<ReplayBody>| {
        let (server, jar) = (server.clone(), Arc::clone(&kept));
        async move {
            let cookie = jar.lock().unwrap().clone();
            let headers: &mut HeaderMap = request.headers_mut();
            if let Some(cookie) = cookie.filter(|_| !headers.contains_key(COOKIE)) {
                headers.insert(COOKIE, cookie);
            }
            let response = server.oneshot(request).await?;
            if let Some(cookie) = response.headers().get(SET_COOKIE) {
                *jar.lock().unwrap() = Some(cookie.clone());
            }
            Ok::<_, tower_ews::simulator::ConnectionLost>(response)
        }
    });
    let mut notifications = subscriptions(&exchange).listen(client, (0..4).map(mailbox));
    assert_eq!(gaps(&mut notifications, 4).await.len(), 4);
    let id = exchange.deliver(&mailbox(3), "news").unwrap();
    assert_eq!(item(&mut notifications).await, (mailbox(3), id));
    assert!(jar.lock().unwrap().is_some());
    assert_eq!(exchange.report().foreign_cookies, 0);
}

/// The stack's ledger has no place for the second connection: it is not sent, and that is told like a refusal.
#[tokio::test(start_paused = true)]
async fn want_of_room_in_the_ledger_is_told_too() {
    let exchange = server(2, 2, Faults::none());
    let mut policy = ThrottlingPolicy::exchange_online();
    policy.set_in_flight(Budget::HangingConnections, 1).unwrap();
    let stack = EwsStack::new(policy).caller(Caller::new(DEFAULT_ACCOUNT));
    let stack = stack.service(exchange.clone());
    let mut notifications = subscriptions(&exchange).listen(stack, (0..2).map(mailbox));
    gaps(&mut notifications, 2).await;
    let starved = next(&mut notifications).await.unwrap();
    let hanging = Budget::HangingConnections;
    assert!(
        matches!(starved, Notification::Starved { budget } if budget == hanging),
        "{starved:?}"
    );
    let report = exchange.report();
    assert_eq!(report.throttled_total(), 0);
    assert_eq!(report.peak_hanging.values().max(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn mailboxes_are_asked_for_their_events_through_the_same_interface() {
    let faults = Faults::none()
        .rate_on("GetEvents", Fault::ResetAfter, 0.02)
        .rate_on("GetEvents", Fault::Page503, 0.02);
    let exchange = server(30, 2, faults);
    let settings = subscriptions(&exchange).poll(MINUTE);
    let mut notifications = settings.listen(exchange.clone(), (0..30).map(mailbox));
    gaps(&mut notifications, 30).await;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut open: Vec<(String, String)> = Vec::new();
    let (mut told, mut in_gaps) = (0, 0);
    let end = Instant::now() + 180 * MINUTE;
    while Instant::now() < end + 20 * MINUTE {
        if Instant::now() < end {
            match rng.u32(..100) {
                0 => exchange.lose_subscriptions(),
                1..3 => exchange.move_mailbox(&mailbox(rng.usize(..30))),
                _ => {}
            }
            for _ in 0..rng.usize(..3) {
                let name = mailbox(rng.usize(..30));
                // More than come at once, now and then.
                for _ in 0..if rng.u32(..50) == 0 { 120 } else { 1 } {
                    open.push((name.clone(), exchange.deliver(&name, "").unwrap()));
                }
            }
        }
        let until = Instant::now() + Duration::from_secs(20);
        while let Ok(next) = tokio::time::timeout_at(until, notifications.next()).await {
            let before = open.len();
            match next.unwrap() {
                Notification::Item { event, .. } => {
                    open.retain(|(_, id)| **id != *event.id);
                    told += before - open.len();
                }
                Notification::Gap { mailbox, .. } => {
                    open.retain(|(name, _)| **name != *mailbox);
                    in_gaps += before - open.len();
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(open, []);
    eprintln!(
        "{told} {in_gaps} {:?} {:?}",
        exchange.report().executed,
        exchange.report().faults
    );
    let report = exchange.report();
    assert_eq!(report.foreign_cookies, 0);
    assert!(!report.executed.contains_key("GetStreamingEvents"));
    // One chain of calls for each mailbox, each a minute long: and some more where events waited.
    let polls = report.executed["GetEvents"];
    assert!((5_000..7_000).contains(&polls), "{polls}");
    assert_eq!(notifications.shutdown(MINUTE).await, 0);
}
