//! Streams that say what they should not: the simulated server's, with one of its responses replaced.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceExt};
use tower_ews::body::ReplayBody;
use tower_ews::extensions::Caller;
use tower_ews::simulator::{Exchange, Faults, Payer};
use tower_ews::streaming::{LocateMailboxes, Location, Locations, Notification, Notifications};

use super::{gaps, item, mailbox, server, subscriptions};

const MINUTE: Duration = Duration::from_secs(60);

/// What the response is that replaces one of GetStreamingEvents, by the ids that it was asked for.
type Script = fn(&[String]) -> Vec<u8>;

fn envelope(message: &str) -> Vec<u8> {
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types' \
         xmlns:m='http://schemas.microsoft.com/exchange/services/2006/messages'><s:Body><m:GetStreamingEventsResponse>\
         <m:ResponseMessages>{message}</m:ResponseMessages></m:GetStreamingEventsResponse></s:Body></s:Envelope>"
    )
    .into()
}

fn success(inner: &str) -> Vec<u8> {
    envelope(&format!(
        "<m:GetStreamingEventsResponseMessage ResponseClass='Success'><m:ResponseCode>NoError</m:ResponseCode>{inner}\
         </m:GetStreamingEventsResponseMessage>"
    ))
}

fn opening() -> Vec<u8> {
    success("<m:ConnectionStatus>OK</m:ConnectionStatus>")
}

fn error(code: &str, ids: &[&String]) -> Vec<u8> {
    let ids: String = ids
        .iter()
        .map(|id| format!("<t:SubscriptionId>{id}</t:SubscriptionId>"))
        .collect();
    envelope(&format!(
        "<m:GetStreamingEventsResponseMessage ResponseClass='Error'><m:MessageText>No.</m:MessageText>\
         <m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>\
         <m:ErrorSubscriptionIds>{ids}</m:ErrorSubscriptionIds></m:GetStreamingEventsResponseMessage>"
    ))
}

fn event(id: &str, item: &str) -> Vec<u8> {
    success(&format!(
        "<m:Notifications><t:Notification><t:SubscriptionId>{id}</t:SubscriptionId><t:CreatedEvent>\
         <t:TimeStamp>2026-04-01T09:30:00Z</t:TimeStamp><t:ItemId Id='{item}' ChangeKey='a'/>\
         <t:ParentFolderId Id='f'/></t:CreatedEvent></t:Notification></m:Notifications>"
    ))
}

fn ids_of(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(body).into_owned();
    let ids = text.split("<t:SubscriptionId>").skip(1);
    ids.map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}

/// Bytes that are followed by nothing.
struct Hanging(Option<Bytes>);

impl Body for Hanging {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.0.take() {
            Some(bytes) => std::task::Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => std::task::Poll::Pending,
        }
    }
}

/// Listens to mailboxes of one group, with that response for that call of GetStreamingEvents, counted from 1.
fn listen(exchange: &Exchange, mailboxes: usize, nth: usize, script: Script) -> Notifications {
    let (server, count) = (exchange.clone(), Arc::new(AtomicUsize::new(0)));
    let client = tower::service_fn(move |request: Request<ReplayBody>| {
        let (server, count) = (server.clone(), Arc::clone(&count));
        async move {
            let body = request.body().clone().collect().await.unwrap().to_bytes();
            let hangs = body
                .windows(21)
                .any(|text| text == b"<m:GetStreamingEvents");
            if hangs && count.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                let body = Hanging(Some(script(&ids_of(&body)).into()));
                return Ok::<_, BoxError>(Response::new(UnsyncBoxBody::new(body)));
            }
            let response = server.oneshot(request).await?;
            Ok(response.map(|body| UnsyncBoxBody::new(body.map_err(BoxError::from))))
        }
    });
    let settings = subscriptions(exchange).locate(|_: &str| Location::default());
    settings.listen(client, (0..mailboxes).map(mailbox))
}

/// The mailboxes whose gaps come within that time. Nothing else does.
async fn gaps_within(notifications: &mut Notifications, time: Duration) -> Vec<String> {
    let until = Instant::now() + time;
    let mut mailboxes = Vec::new();
    while let Ok(next) = tokio::time::timeout_at(until, notifications.next()).await {
        match next.unwrap() {
            Notification::Gap { mailbox, .. } => mailboxes.push(mailbox.to_string()),
            other => panic!("{other:?}"),
        }
    }
    mailboxes.sort();
    mailboxes
}

async fn all_hear(exchange: &Exchange, notifications: &mut Notifications, mailboxes: usize) {
    for number in 0..mailboxes {
        let id = exchange.deliver(&mailbox(number), "news").unwrap();
        assert_eq!(item(notifications).await, (mailbox(number), id));
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_message_and_then_nothing_is_a_gap() {
    let exchange = server(3, 1, Faults::none());
    let mut notifications = listen(&exchange, 3, 1, |_| {
        let half = opening().len() / 2;
        [opening(), opening()[..half].to_vec()].concat()
    });
    gaps(&mut notifications, 3).await;
    let begun = Instant::now();
    assert_eq!(gaps(&mut notifications, 3).await.len(), 3);
    assert!(begun.elapsed() < 2 * MINUTE, "{:?}", begun.elapsed());
    all_hear(&exchange, &mut notifications, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_notification_for_an_unknown_id_is_nobodys() {
    let exchange = server(2, 1, Faults::none());
    let mut notifications = listen(&exchange, 2, 1, |ids| {
        [
            opening(),
            event("unknown", "a"),
            event(&ids[1], "b"),
            event("", "c"),
        ]
        .concat()
    });
    gaps(&mut notifications, 2).await;
    assert_eq!(item(&mut notifications).await, (mailbox(1), "b".to_owned()));
    // The silence that follows is a gap.
    gaps(&mut notifications, 2).await;
    all_hear(&exchange, &mut notifications, 2).await;
}

/// One of 200 is bad, at once or later, by whatever code.
#[tokio::test(start_paused = true)]
async fn one_bad_subscription_costs_the_others_nothing() {
    let scripts: [Script; 5] = [
        |ids| error("ErrorInvalidSubscription", &[&ids[150]]),
        |ids| [opening(), error("ErrorInvalidSubscription", &[&ids[150]])].concat(),
        |ids| [opening(), error("ErrorSubscriptionNotFound", &[&ids[150]])].concat(),
        |ids| [opening(), error("ErrorAccountDisabled", &[&ids[150]])].concat(),
        |ids| error("ErrorNonExistentMailbox", &[&ids[150]]),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let exchange = server(200, 1, Faults::none());
        let mut notifications = listen(&exchange, 200, 1, script);
        gaps(&mut notifications, 200).await;
        let gaps = gaps_within(&mut notifications, 3 * MINUTE).await;
        assert_eq!(gaps, [mailbox(150)], "{number}");
        assert_eq!(exchange.report().executed["Subscribe"], 201, "{number}");
        all_hear(&exchange, &mut notifications, 200).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_that_is_disabled_is_lost_alone() {
    let exchange = server(5, 1, Faults::none());
    let gone: Arc<Mutex<Option<String>>> = Arc::default();
    let (server, disabled) = (exchange.clone(), Arc::clone(&gone));
    let client = tower::service_fn(move |request: Request<ReplayBody>| {
        let (server, disabled) = (server.clone(), disabled.lock().unwrap().clone());
        async move {
            let body = request.body().clone().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            let named = disabled.is_some_and(|address| text.contains(&*address));
            if named && text.contains("<m:Subscribe>") {
                let body = Full::from(error("ErrorAccountDisabled", &[]));
                let body = body.map_err(BoxError::from);
                return Ok::<_, BoxError>(Response::new(UnsyncBoxBody::new(body)));
            }
            let response = server.oneshot(request).await?;
            Ok(response.map(|body| UnsyncBoxBody::new(body.map_err(BoxError::from))))
        }
    });
    let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
    let mut notifications = settings.listen(client, (0..5).map(mailbox));
    gaps(&mut notifications, 5).await;
    *gone.lock().unwrap() = Some(mailbox(2));
    exchange.lose_subscriptions_of(&mailbox(2));
    let lost = match timeout(30 * MINUTE, notifications.next()).await {
        Ok(Some(Notification::Lost { mailbox, .. })) => mailbox,
        other => panic!("{other:?}"),
    };
    assert_eq!(*lost, *mailbox(2));
    for number in [0, 1, 3, 4] {
        let id = exchange.deliver(&mailbox(number), "news").unwrap();
        assert_eq!(item(&mut notifications).await, (mailbox(number), id));
    }
}

/// Nobody reads for an hour. The server forgets subscriptions after half of one.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_away_for_an_hour_finds_events_or_gaps() {
    let exchange = server(20, 1, Faults::none());
    let settings = subscriptions(&exchange);
    let mut notifications = settings.listen(exchange.clone(), (0..20).map(mailbox));
    gaps(&mut notifications, 20).await;
    let mut open = Vec::new();
    for minute in 0..70 {
        for _ in 0..10 {
            let name = mailbox(minute % 20);
            open.push((name.clone(), exchange.deliver(&name, "").unwrap()));
        }
        sleep(MINUTE).await;
    }
    let begun = Instant::now();
    while !open.is_empty() {
        match timeout(10 * MINUTE, notifications.next()).await {
            Ok(Some(Notification::Item { event, .. })) => open.retain(|(_, id)| **id != *event.id),
            Ok(Some(Notification::Gap { mailbox, .. })) => {
                open.retain(|(name, _)| **name != *mailbox)
            }
            other => panic!("{other:?}: {open:?}"),
        }
    }
    assert!(begun.elapsed() < 5 * MINUTE, "{:?}", begun.elapsed());
    assert_eq!(notifications.shutdown(MINUTE).await, 0);
    let copies = (0..20).map(|number| exchange.subscriptions(&Payer::Copy(mailbox(number))));
    assert_eq!(copies.sum::<usize>(), 0);
}

/// A client whose Subscribe for these mailboxes is not responded to.
fn without_response_to(
    exchange: &Exchange,
    mailboxes: Range<usize>,
) -> BoxCloneSyncService<Request<ReplayBody>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
    let server = exchange.clone();
    let client = tower::service_fn(move |request: Request<ReplayBody>| {
        let (server, mut silent) = (server.clone(), mailboxes.clone().map(mailbox));
        async move {
            let body = request.body().clone().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            if text.contains("<m:Subscribe>") && silent.any(|mailbox| text.contains(&mailbox)) {
                std::future::pending::<()>().await;
            }
            let response = server.oneshot(request).await?;
            Ok::<_, BoxError>(response.map(|body| UnsyncBoxBody::new(body.map_err(BoxError::from))))
        }
    });
    BoxCloneSyncService::new(client)
}

#[tokio::test(start_paused = true)]
async fn mailboxes_that_do_not_respond_keep_no_others_waiting() {
    for silent in [1, 3, 9, 15] {
        let exchange = server(60, 1, Faults::none());
        let client = without_response_to(&exchange, 10..10 + silent);
        let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
        let mut notifications = settings.listen(client, (0..60).map(mailbox));
        // They are more than there are calls at a time, and keep a connection waiting for ten seconds each time.
        let soon = gaps_within(&mut notifications, Duration::from_secs(25)).await;
        assert_eq!(notifications.counts().connections, 1, "{silent}");
        let later = gaps_within(&mut notifications, 20 * MINUTE).await;
        assert_eq!(soon.len() + later.len(), 60 - silent);
        for _ in 0..12 {
            let id = exchange.deliver(&mailbox(50), "news").unwrap();
            let begun = Instant::now();
            assert_eq!(item(&mut notifications).await, (mailbox(50), id));
            assert!(begun.elapsed() < MINUTE, "{silent}: {:?}", begun.elapsed());
            assert!(gaps_within(&mut notifications, 7 * MINUTE).await.is_empty());
        }
    }
}

/// The first ones of a new group, one of which each group takes for its anchor.
#[tokio::test(start_paused = true)]
async fn anchors_that_do_not_respond_keep_no_others_waiting() {
    for silent in [1, 3, 10] {
        let exchange = server(20, 1, Faults::none());
        let client = without_response_to(&exchange, 0..silent);
        let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
        let mut notifications = settings.listen(client, (0..20).map(mailbox));
        // Ten seconds for each.
        let time = Duration::from_secs(10 * silent as u64 + 5);
        let heard = gaps_within(&mut notifications, time).await;
        assert_eq!(heard.len(), 20 - silent, "{silent}");
        // They go on being tried, behind the others.
        assert!(
            gaps_within(&mut notifications, 60 * MINUTE)
                .await
                .is_empty()
        );
        let counts = notifications.counts();
        assert_eq!((counts.subscribed, counts.connections), (20 - silent, 1));
        // In the group that has an anchor.
        assert_eq!(counts.groups, 1, "{silent}");
    }
}

/// A client whose Subscribe for the first mailboxes waits until then, as behind a gate, which opens for all at the same time.
fn late(
    exchange: &Exchange,
    slow: usize,
    wait: Duration,
) -> BoxCloneSyncService<Request<ReplayBody>, Response<UnsyncBoxBody<Bytes, BoxError>>, BoxError> {
    let (server, opens) = (exchange.clone(), Instant::now() + wait);
    let client = tower::service_fn(move |request: Request<ReplayBody>| {
        let server = server.clone();
        async move {
            let body = request.body().clone().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            let mut slow = (0..slow).map(mailbox);
            if text.contains("<m:Subscribe>") && slow.any(|mailbox| text.contains(&mailbox)) {
                tokio::time::sleep_until(opens).await;
            }
            let response = server.oneshot(request).await?;
            Ok::<_, BoxError>(response.map(|body| UnsyncBoxBody::new(body.map_err(BoxError::from))))
        }
    });
    BoxCloneSyncService::new(client)
}

/// Where the others have no room for it, its subscription stays as it is, and others may join it.
#[tokio::test(start_paused = true)]
async fn an_anchor_that_responds_late_is_a_group_where_there_is_no_other() {
    let exchange = server(6, 1, Faults::none());
    let client = late(&exchange, 1, MINUTE);
    let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
    let mut notifications = settings.group_size(3).listen(client, (0..4).map(mailbox));
    assert_eq!(gaps_within(&mut notifications, 2 * MINUTE).await.len(), 4);
    assert_eq!(notifications.counts().groups, 2);
    notifications.add(&mailbox(4));
    notifications.add(&mailbox(5));
    assert_eq!(gaps_within(&mut notifications, MINUTE).await.len(), 2);
    let counts = notifications.counts();
    assert_eq!((counts.groups, counts.connections), (2, 2));
    let executed = exchange.report().executed;
    assert_eq!(
        (executed["Subscribe"], executed.get("Unsubscribe")),
        (6, None)
    );
}

/// They all have the group in the end that those have which responded in time.
#[tokio::test(start_paused = true)]
async fn anchors_that_respond_late_leave_nothing_behind() {
    for (slow, wait) in [
        (1, 15),
        (1, 170),
        (3, 40),
        (3, 100),
        (10, 60),
        (20, 30),
        (20, 100),
    ] {
        let exchange = server(20, 1, Faults::none());
        let client = late(&exchange, slow, Duration::from_secs(wait));
        let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
        let mut notifications = settings.listen(client, (0..20).map(mailbox));
        let mut heard = gaps_within(&mut notifications, Duration::from_secs(wait + 60)).await;
        heard.sort();
        heard.dedup();
        assert_eq!(heard.len(), 20, "{slow} {wait}");
        let copies = || (0..20).map(|number| exchange.subscriptions(&Payer::Copy(mailbox(number))));
        assert_eq!(copies().sum::<usize>(), 20, "{slow} {wait}");
        assert!(
            gaps_within(&mut notifications, 30 * MINUTE)
                .await
                .is_empty()
        );
        let counts = notifications.counts();
        let all = (counts.subscribed, counts.groups, counts.connections);
        assert_eq!(all, (20, 1, 1), "{slow} {wait}");
        assert_eq!(notifications.shutdown(MINUTE).await, 0);
        assert_eq!(copies().sum::<usize>(), 0);
    }
}

/// It takes two minutes to say that it does not know every fifth mailbox, or does not end.
struct Locator {
    ends: bool,
}

impl LocateMailboxes for Locator {
    fn locate(&self, mailboxes: &[Arc<str>], _: bool) -> Locations {
        let numbers = mailboxes.iter().map(|mailbox| &mailbox["user".len()..9]);
        let numbers = numbers.map(|number| number.parse::<usize>().unwrap());
        let known: Vec<bool> = numbers.map(|number| number % 5 > 0).collect();
        let ends = self.ends;
        Box::pin(async move {
            // The first calls are those with all mailboxes.
            if known.contains(&false) && (known.len() < 90 || !ends) {
                sleep(2 * MINUTE).await;
            }
            if !ends && known.len() < 20 {
                std::future::pending::<()>().await;
            }
            let location = |known| match known {
                true => Ok(Location::default()),
                false => Err("nobody knows".into()),
            };
            known.into_iter().map(location).collect()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn mailboxes_that_nobody_finds_keep_no_others_waiting() {
    for ends in [true, false] {
        let exchange = server(100, 1, Faults::none());
        let settings = subscriptions(&exchange).locate(Locator { ends });
        let mut notifications = settings.listen(exchange.clone(), (0..100).map(mailbox));
        let found = gaps_within(&mut notifications, 10 * MINUTE).await;
        let expected = if ends { 80 } else { 72 };
        assert!(found.len() >= expected, "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_may_have_been_made_is_counted_at_the_end() {
    let exchange = server(3, 1, Faults::none());
    let client = without_response_to(&exchange, 0..1);
    let settings = subscriptions(&exchange).locate(|_: &str| Location::default());
    let mut notifications = settings.listen(client, (0..3).map(mailbox));
    assert!(
        gaps_within(&mut notifications, MINUTE / 60)
            .await
            .is_empty()
    );
    assert_eq!(notifications.shutdown(MINUTE / 60).await, 1);
}

/// Each call takes a second.
#[tokio::test(start_paused = true)]
async fn subscriptions_are_ended_ten_at_a_time_for_each_account() {
    for accounts in [1, 4] {
        let exchange = server(200, 10, Faults::none());
        let server = exchange.clone();
        let ending = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
        let most = Arc::new(AtomicUsize::new(0));
        let (now, peak) = (Arc::clone(&ending), Arc::clone(&most));
        let client = tower::service_fn(move |request: Request<ReplayBody>| {
            let (server, ending, peak) = (server.clone(), Arc::clone(&now), Arc::clone(&peak));
            async move {
                let body = request.body().clone().collect().await.unwrap().to_bytes();
                let caller = request.extensions().get::<Caller>().unwrap();
                let caller = caller.name().to_owned();
                if String::from_utf8_lossy(&body).contains("<m:Unsubscribe>") {
                    let count = {
                        let mut ending = ending.lock().unwrap();
                        let count = ending.entry(caller.clone()).or_default();
                        *count += 1;
                        *count
                    };
                    peak.fetch_max(count, Ordering::Relaxed);
                    sleep(Duration::from_secs(1)).await;
                    *ending.lock().unwrap().get_mut(&caller).unwrap() -= 1;
                }
                let response = server.oneshot(request).await?;
                Ok::<_, BoxError>(
                    response.map(|body| UnsyncBoxBody::new(body.map_err(BoxError::from))),
                )
            }
        });
        let mut settings = subscriptions(&exchange)
            .locate(super::trouble::by_number(10))
            .group_size(20);
        for number in 0..accounts {
            settings = settings.caller(Caller::new(&format!("svc{number}@contoso.com")));
        }
        let client = BoxCloneSyncService::new(client);
        let mut notifications = settings.listen(client, (0..200).map(mailbox));
        gaps(&mut notifications, 200).await;
        let begun = Instant::now();
        assert_eq!(notifications.shutdown(MINUTE).await, 0);
        assert_eq!(most.load(Ordering::Relaxed), 10);
        let seconds = begun.elapsed().as_secs();
        // And what the server takes itself.
        let expected = 20 / accounts..=24 / accounts;
        assert!(expected.contains(&seconds), "{accounts}: {seconds}");
    }
}
