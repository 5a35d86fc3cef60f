//! Mailboxes that come and go while the others are listened to.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tower_ews::simulator::{Exchange, Fault, Faults, Payer};
use tower_ews::streaming::{Notification, Notifications};

use super::{gaps, item, mailbox, next, server, subscriptions};
use futures_util::StreamExt;

const MINUTE: Duration = Duration::from_secs(60);

async fn quiet(notifications: &mut Notifications, time: Duration) {
    let next = timeout(time, notifications.next()).await;
    assert!(next.is_err(), "{next:?}");
}

async fn hears(notifications: &mut Notifications, exchange: &Exchange, number: usize) -> Duration {
    let begun = Instant::now();
    let id = exchange.deliver(&mailbox(number), "news").unwrap();
    assert_eq!(item(notifications).await, (mailbox(number), id));
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_added_hears_soon_and_nobody_else_has_a_gap() {
    let exchange = server(8, 1, Faults::none());
    let mut notifications = subscriptions(&exchange).listen(exchange.clone(), (0..5).map(mailbox));
    gaps(&mut notifications, 5).await;
    quiet(&mut notifications, MINUTE).await;
    for number in 5..8 {
        notifications.add(&mailbox(number));
        assert_eq!(gaps(&mut notifications, 1).await, [mailbox(number)].into());
    }
    // Events that come while one connection takes the place of the other.
    let ids: Vec<String> = (0..8)
        .map(|number| exchange.deliver(&mailbox(number), "").unwrap())
        .collect();
    let begun = Instant::now();
    let mut told = Vec::new();
    while told.len() < 8 {
        told.push(item(&mut notifications).await.1);
    }
    told.sort_by_key(|id| ids.iter().position(|other| other == id));
    assert_eq!(told, ids);
    assert!(begun.elapsed() <= 2 * MINUTE, "{:?}", begun.elapsed());
    quiet(&mut notifications, 45 * MINUTE).await;
    let report = exchange.report();
    // Some at first, two at most that replace, and one every ten minutes.
    let connections = report.executed["GetStreamingEvents"];
    assert!((5..10).contains(&connections), "{connections}");
    let account = Payer::Account("svc@contoso.com".to_owned());
    assert_eq!(report.peak_hanging[&account], 1);
    assert_eq!((report.foreign_cookies, report.throttled_total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_subscribed_to_anew_hears_soon() {
    let exchange = server(6, 2, Faults::none());
    let mut notifications = subscriptions(&exchange).listen(exchange.clone(), (0..6).map(mailbox));
    gaps(&mut notifications, 6).await;
    quiet(&mut notifications, MINUTE).await;
    exchange.move_mailbox(&mailbox(2));
    assert_eq!(gaps(&mut notifications, 1).await, [mailbox(2)].into());
    let took = hears(&mut notifications, &exchange, 2).await;
    assert!(took <= MINUTE, "{took:?}");
    quiet(&mut notifications, 30 * MINUTE).await;
}

/// The one that is to take its place is refused, breaks, or falls silent.
#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_replaced_goes_on() {
    let faults = [
        Fault::Page503,
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::Code("ErrorExceededConnectionCount".to_owned()),
        Fault::Code("ErrorAccessDenied".to_owned()),
        Fault::StreamReset {
            within: Duration::ZERO,
        },
        Fault::StreamSilent {
            within: Duration::ZERO,
        },
    ];
    for fault in faults {
        // Three calls of Subscribe, the connection, the fourth Subscribe.
        let exchange = server(4, 1, Faults::none().nth(6, fault.clone()));
        let settings = subscriptions(&exchange).locate(|_: &str| Default::default());
        let mut notifications = settings.listen(exchange.clone(), (0..3).map(mailbox));
        gaps(&mut notifications, 3).await;
        quiet(&mut notifications, MINUTE).await;
        notifications.add(&mailbox(3));
        gaps(&mut notifications, 1).await;
        sleep(Duration::from_secs(1)).await;
        let mut open: Vec<(String, String)> = (0..4)
            .map(|number| {
                let id = exchange.deliver(&mailbox(number), "").unwrap();
                (mailbox(number), id)
            })
            .collect();
        let begun = Instant::now();
        while !open.is_empty() {
            match next(&mut notifications).await.unwrap() {
                Notification::Item { event, .. } => open.retain(|(_, id)| **id != *event.id),
                Notification::Gap { mailbox, since } => {
                    assert!(since <= begun);
                    open.retain(|(name, _)| **name != *mailbox);
                }
                other => panic!("{fault:?}: {other:?}"),
            }
        }
        assert!(
            begun.elapsed() < 4 * MINUTE,
            "{fault:?}: {:?}",
            begun.elapsed()
        );
        assert_eq!(exchange.report().foreign_cookies, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_comes_of_a_mailbox_that_is_removed_until_it_is_added_again() {
    let exchange = server(4, 1, Faults::none());
    let mut notifications = subscriptions(&exchange).listen(exchange.clone(), (0..4).map(mailbox));
    gaps(&mut notifications, 4).await;
    hears(&mut notifications, &exchange, 1).await;
    // What is told already, too.
    exchange.deliver(&mailbox(0), "first").unwrap();
    exchange.deliver(&mailbox(1), "second").unwrap();
    assert_eq!(item(&mut notifications).await.0, mailbox(0));
    assert!(notifications.remove("USER00001@contoso.com"));
    assert!(!notifications.remove(&mailbox(1)));
    quiet(&mut notifications, MINUTE).await;
    assert_eq!(exchange.subscriptions(&Payer::Copy(mailbox(1))), 0);
    let counts = notifications.counts();
    assert_eq!((counts.mailboxes, counts.subscribed), (3, 3));
    exchange.deliver(&mailbox(1), "unheard").unwrap();
    // The others do not notice: the connection ends with an error about the one that is gone.
    for number in [0, 2, 3] {
        hears(&mut notifications, &exchange, number).await;
    }
    quiet(&mut notifications, 30 * MINUTE).await;
    assert_eq!(exchange.report().executed["Subscribe"], 4);

    notifications.add(&mailbox(1));
    notifications.add(&mailbox(1));
    assert_eq!(gaps(&mut notifications, 1).await, [mailbox(1)].into());
    assert!(hears(&mut notifications, &exchange, 1).await <= MINUTE);
    quiet(&mut notifications, 30 * MINUTE).await;
    for number in 0..4 {
        assert!(notifications.remove(&mailbox(number)));
    }
    assert!(notifications.next().await.is_none(), "it is over");
    for number in 0..4 {
        assert_eq!(exchange.subscriptions(&Payer::Copy(mailbox(number))), 0);
    }
    // And begins anew.
    notifications.add(&mailbox(2));
    assert_eq!(gaps(&mut notifications, 1).await, [mailbox(2)].into());
    hears(&mut notifications, &exchange, 2).await;
    assert_eq!(notifications.shutdown(MINUTE).await, 0);
    let report = exchange.report();
    assert_eq!(report.executed["Subscribe"], report.executed["Unsubscribe"]);
    let account = Payer::Account("svc@contoso.com".to_owned());
    assert_eq!(report.peak_hanging[&account], 1);
}

/// At any moment: before it is located, while it is subscribed to, while the connection is made.
#[tokio::test(start_paused = true)]
async fn mailboxes_that_come_and_go_leave_nothing_behind() {
    let seed = super::seed();
    println!("EWS_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let exchange = server(60, 3, Faults::none());
    let settings = subscriptions(&exchange).group_size(8);
    let mut notifications = settings.listen(exchange.clone(), (0..60).map(mailbox));
    let mut wanted: Vec<bool> = vec![true; 60];
    for _ in 0..3_000 {
        let number = rng.usize(..60);
        if rng.u32(..4) == 0 {
            match wanted[number] {
                true => assert!(notifications.remove(&mailbox(number))),
                false => notifications.add(&mailbox(number)),
            }
            wanted[number] = !wanted[number];
        }
        exchange.deliver(&mailbox(rng.usize(..60)), "").unwrap();
        let pause = Duration::from_millis(rng.u64(..20) * rng.u64(..200));
        let until = Instant::now() + pause;
        while let Ok(Some(told)) = tokio::time::timeout_at(until, notifications.next()).await {
            let mailbox = match &told {
                Notification::Item { mailbox, .. } | Notification::Gap { mailbox, .. } => mailbox,
                other => panic!("{other:?}"),
            };
            let number: usize = mailbox[4..9].parse().unwrap();
            assert!(wanted[number], "{told:?}");
        }
    }
    while next(&mut notifications).await.is_some() {}
    let left = wanted.iter().filter(|wanted| **wanted).count();
    let counts = notifications.counts();
    assert_eq!((counts.mailboxes, counts.subscribed), (left, left));
    for (number, wanted) in wanted.into_iter().enumerate() {
        let subscriptions = exchange.subscriptions(&Payer::Copy(mailbox(number)));
        assert_eq!(subscriptions, usize::from(wanted), "{number}");
        if wanted {
            hears(&mut notifications, &exchange, number).await;
        }
    }
    assert_eq!(notifications.shutdown(MINUTE).await, 0);
    let report = exchange.report();
    assert_eq!(report.executed["Subscribe"], report.executed["Unsubscribe"]);
    assert!(report.peak_hanging.values().all(|peak| *peak <= 10));
    assert_eq!((report.foreign_cookies, report.throttled_total()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_lost_before_it_is_read_makes_a_gap() {
    // After the Subscribe the connection is made, but what the server says by it is lost.
    let lost = Fault::ResetAfter;
    let exchange = server(1, 1, Faults::none().nth(2, lost));
    let settings = subscriptions(&exchange).locate(|_: &str| Default::default());
    let mut notifications = settings.listen(exchange.clone(), [mailbox(0)]);
    gaps(&mut notifications, 1).await;
    let mut silent = Duration::ZERO;
    while silent < 20 * MINUTE {
        match timeout(MINUTE, notifications.next()).await {
            Ok(told) => return assert!(matches!(told, Some(Notification::Gap { .. }))),
            Err(_) => silent += MINUTE,
        }
    }
    panic!("no gap");
}
