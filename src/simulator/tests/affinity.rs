//! Subscriptions on several servers: cookies and anchors matter, mailboxes move, streams get into trouble.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::*;

const SUBSCRIBE: &str = "<m:Subscribe><m:StreamingSubscriptionRequest SubscribeToAllFolders='true'><t:EventTypes>\
                         <t:EventType>NewMailEvent</t:EventType></t:EventTypes></m:StreamingSubscriptionRequest>\
                         </m:Subscribe>";

/// The mailboxes with even numbers are at the first server.
fn two_servers(faults: Faults) -> Exchange {
    let policy = Policy::unlimited().with(|policy| policy.heartbeat = Duration::from_secs(30));
    let builder = Exchange::builder().policy(policy).faults(faults).servers(2);
    let builder = builder.mailboxes((0..4).map(|n| format!("user{n}@contoso.com")));
    builder.build()
}

/// Sends a call of a group, and returns the cookie that it is given, and the text.
async fn call(
    exchange: &Exchange,
    (anchor, user, cookie): (&str, &str, &str),
    body: &str,
) -> (String, String) {
    let mut request = request(envelope(&impersonate(user), body));
    let headers = request.headers_mut();
    headers.insert("x-anchormailbox", anchor.parse().unwrap());
    headers.insert("x-preferserveraffinity", "true".parse().unwrap());
    if !cookie.is_empty() {
        headers.insert("cookie", cookie.parse().unwrap());
    }
    let response = exchange.clone().oneshot(request).await.unwrap();
    let cookie = response.headers().get("set-cookie");
    let cookie = cookie.map(|cookie| {
        cookie
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    });
    (cookie.unwrap_or_default(), text_of(response).await)
}

fn id_in(text: &str) -> String {
    let (_, rest) = text.split_once("<m:SubscriptionId>").unwrap();
    rest.split('<').next().unwrap().to_owned()
}

fn stream(id: &str) -> String {
    format!(
        "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>{id}</t:SubscriptionId></m:SubscriptionIds>\
         <m:ConnectionTimeout>5</m:ConnectionTimeout></m:GetStreamingEvents>"
    )
}

const A: &str = "user0@contoso.com";
const B: &str = "user1@contoso.com";
const C: &str = "user2@contoso.com";

#[tokio::test(start_paused = true)]
async fn a_server_knows_its_own_subscriptions_and_cookies_lead_to_it() {
    let exchange = two_servers(Faults::none());
    let (cookie, text) = call(&exchange, (A, A, ""), SUBSCRIBE).await;
    assert!(
        cookie.starts_with("X-BackEndOverrideCookie=simbe01."),
        "{cookie}"
    );
    assert_eq!(codes(&text), ["NoError"]);
    let (again, text) = call(&exchange, (A, C, &cookie), SUBSCRIBE).await;
    assert_eq!((again.as_str(), codes(&text)), ("", vec!["NoError"]));
    let end = |text: &str| {
        format!(
            "<m:Unsubscribe><m:SubscriptionId>{}</m:SubscriptionId></m:Unsubscribe>",
            id_in(text)
        )
    };
    let c = end(&text);
    // The cookie goes before the anchor, and is counted as another group's.
    let (other, text) = call(&exchange, (B, B, ""), SUBSCRIBE).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = call(&exchange, (A, B, &cookie), SUBSCRIBE).await;
    assert_eq!(codes(&text), ["ErrorProxyRequestNotAllowed"]);
    assert_eq!(exchange.report().foreign_cookies, 0);
    let (_, text) = call(&exchange, (A, C, &other), &c).await;
    assert_eq!(codes(&text), ["ErrorSubscriptionNotFound"]);
    assert_eq!(
        exchange.report().foreign_cookies,
        2,
        "of another anchor, and of another subscription"
    );
    let (_, text) = call(&exchange, (A, C, &cookie), &c).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.report().anchor_violations, 0);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_moves_and_autodiscover_knows() {
    let exchange = two_servers(Faults::none());
    let (cookie, text) = call(&exchange, (A, A, ""), SUBSCRIBE).await;
    let asked = "<a:GetUserSettingsRequestMessage xmlns:a='http://schemas.microsoft.com/exchange/2010/Autodiscover'><a:Request>\
                 <a:Users><a:User><a:Mailbox>user0@contoso.com</a:Mailbox></a:User><a:User><a:Mailbox>nobody</a:Mailbox></a:User>\
                 </a:Users><a:RequestedSettings><a:Setting>GroupingInformation</a:Setting><a:Setting>ExternalEwsUrl</a:Setting>\
                 </a:RequestedSettings></a:Request></a:GetUserSettingsRequestMessage>";
    let (_, before) = ask(&exchange, "", asked).await;
    assert!(
        before.contains(">site01<") && before.contains("EWS/Exchange.asmx"),
        "{before}"
    );
    assert!(before.contains(">InvalidUser<"));
    exchange.move_mailbox(A);
    assert!(ask(&exchange, "", asked).await.1.contains(">site02<"));
    let (_, lost) = call(&exchange, (A, A, &cookie), &stream(&id_in(&text))).await;
    assert_eq!(codes(&lost), ["ErrorSubscriptionNotFound"]);
    let (_, text) = call(&exchange, (A, A, &cookie), SUBSCRIBE).await;
    assert_eq!(codes(&text), ["ErrorProxyRequestNotAllowed"]);
    let (cookie, text) = call(&exchange, (A, A, ""), SUBSCRIBE).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert!(cookie.contains("simbe02"), "{cookie}");
}

#[tokio::test(start_paused = true)]
async fn streams_are_reset_or_fall_silent_with_their_events() {
    let within = Duration::from_secs(60);
    for fault in [
        Fault::StreamReset { within },
        Fault::StreamSilent { within },
    ] {
        let silent = matches!(fault, Fault::StreamSilent { .. });
        let exchange = two_servers(Faults::none().nth(2, fault));
        let (cookie, text) = call(&exchange, (A, A, ""), SUBSCRIBE).await;
        let stream = stream(&id_in(&text));
        let begun = Instant::now();
        let mut hanging = request(envelope("", &stream));
        hanging
            .headers_mut()
            .insert("x-preferserveraffinity", "true".parse().unwrap());
        hanging
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
        let mut body = exchange.clone().oneshot(hanging).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        exchange.deliver(A, "unheard").unwrap();
        let broke = timeout(Duration::from_secs(600), async {
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => assert!(begun.elapsed() < within, "{frame:?}"),
                    other => break other.is_some(),
                }
            }
        });
        assert_eq!(broke.await.ok(), (!silent).then_some(true));
        drop(body);
        let (_, text) = call(&exchange, (A, A, &cookie), &stream).await;
        let delivered = text.matches("CreatedEvent>").count();
        assert!(delivered <= 2, "{text}");
        let report = exchange.report();
        assert_eq!(report.faults.len(), 1);
        assert_eq!(report.most_stream_ids, 1);
        assert_eq!(report.peak_hanging.values().copied().max(), Some(1));
    }
}
