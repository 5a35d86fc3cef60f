//! Each parameter of the throttling policy, met by a client that does not know it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn server(change: impl FnOnce(&mut Policy)) -> Exchange {
    Exchange::builder()
        .policy(Policy::unlimited().with(change))
        .build()
}

fn violations(exchange: &Exchange, parameter: &str) -> u64 {
    let report = exchange.report();
    report.violations.get(parameter).copied().unwrap_or(0)
}

fn message(recipients: usize) -> String {
    let to =
        "<t:Mailbox><t:EmailAddress>b@contoso.com</t:EmailAddress></t:Mailbox>".repeat(recipients);
    format!(
        "<m:CreateItem MessageDisposition='SendOnly'><m:Items><t:Message><t:Subject>x</t:Subject>\
         <t:ToRecipients>{to}</t:ToRecipients></t:Message></m:Items></m:CreateItem>"
    )
}

fn subscribe(kind: &str, mailbox: &str) -> String {
    let time = match kind {
        "Pull" => "<t:Timeout>10</t:Timeout>",
        "Push" => "<t:StatusFrequency>10</t:StatusFrequency><t:URL>http://a</t:URL>",
        _ => "",
    };
    format!(
        "<m:Subscribe><m:{kind}SubscriptionRequest><t:FolderIds>{}</t:FolderIds><t:EventTypes>\
         <t:EventType>CreatedEvent</t:EventType></t:EventTypes>{time}</m:{kind}SubscriptionRequest></m:Subscribe>",
        folder("calendar", mailbox)
    )
}

fn subscription_id(text: &str) -> String {
    let (_, rest) = text.split_once("<m:SubscriptionId>").unwrap();
    rest.split('<').next().unwrap().to_owned()
}

fn of_id(operation: &str, id: &str) -> String {
    format!("<m:{operation}><m:SubscriptionId>{id}</m:SubscriptionId></m:{operation}>")
}

fn stream(ids: &[&str], minutes: u64) -> String {
    let ids: String = ids
        .iter()
        .map(|id| format!("<t:SubscriptionId>{id}</t:SubscriptionId>"))
        .collect();
    format!(
        "<m:GetStreamingEvents><m:SubscriptionIds>{ids}</m:SubscriptionIds>\
         <m:ConnectionTimeout>{minutes}</m:ConnectionTimeout></m:GetStreamingEvents>"
    )
}

#[tokio::test(start_paused = true)]
async fn messages_over_the_rate_are_late_or_refused() {
    let exchange = server(|policy| policy.message_rate = Some(30));
    for _ in 0..32 {
        let (_, text) = ask(&exchange, "", &message(1)).await;
        assert_eq!(codes(&text), ["NoError"]);
    }
    assert_eq!(violations(&exchange, "MessageRateLimit"), 2);
    sleep(seconds(60)).await;
    ask(&exchange, "", &message(1)).await;
    assert_eq!(violations(&exchange, "MessageRateLimit"), 2);
    assert_eq!(exchange.report().sent["x"], 33);

    let exchange = server(|policy| {
        policy.message_rate = Some(2);
        policy.message_rate_refuses = true;
    });
    ask(&exchange, "", &message(1)).await;
    sleep(seconds(20)).await;
    ask(&exchange, "", &message(1)).await;
    let (_, text) = ask(&exchange, "", &message(1)).await;
    assert_eq!(codes(&text), ["ErrorServerBusy"]);
    assert_eq!(back_off(&text), Some(40_000));
    let (_, text) = ask(&exchange, &impersonate("a@contoso.com"), &message(1)).await;
    assert_eq!(codes(&text), ["NoError"], "another payer");
    sleep(seconds(40)).await;
    let (_, text) = ask(&exchange, "", &message(1)).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(exchange.report().sent["x"], 4);
}

#[tokio::test(start_paused = true)]
async fn recipients_of_a_day() {
    let exchange = server(|policy| policy.recipient_rate = Some(10));
    for (recipients, code) in [
        (6, "NoError"),
        (5, "ErrorSubmissionQuotaExceeded"),
        (4, "NoError"),
    ] {
        let (_, text) = ask(&exchange, "", &message(recipients)).await;
        assert_eq!(codes(&text), [code]);
    }
    assert_eq!(violations(&exchange, "RecipientRateLimit"), 1);
    let (_, text) = ask(&exchange, "", &create("", &["x"])).await;
    assert_eq!(
        codes(&text),
        ["NoError"],
        "what is not sent has no recipients"
    );
    sleep(seconds(24 * 3600)).await;
    let (_, text) = ask(&exchange, "", &message(10)).await;
    assert_eq!(codes(&text), ["NoError"]);
}

#[tokio::test(start_paused = true)]
async fn an_overdrawn_balance_holds_members_up() {
    let exchange = server(|policy| {
        policy.member_time = Duration::from_millis(100);
        policy.max_burst = Some(1_000);
        policy.recharge_rate = 0;
        policy.cutoff_balance = 1_000;
        policy.overdraft_delay = Duration::from_millis(500);
    });
    let subjects = ["x"; 21];
    let started = Instant::now();
    ask(&exchange, "", &create("", &subjects[..10])).await;
    assert_eq!(
        started.elapsed(),
        seconds(1),
        "within the burst nothing is held up"
    );
    let started = Instant::now();
    ask(&exchange, "", &create("", &subjects[..10])).await;
    // Before the n-th of them, from 0 on, the balance is -100 n.
    assert_eq!(started.elapsed(), Duration::from_millis(1_000 + 50 * 45));
    let started = Instant::now();
    assert_eq!(exchange.report().delayed_members, 9);
    ask(&exchange, "", &create("", &subjects[..1])).await;
    assert_eq!(
        started.elapsed(),
        Duration::from_millis(100),
        "a single member is not"
    );
    assert_eq!(exchange.report().lockouts, 1, "at the cutoff");
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["ErrorServerBusy"]);
    assert_eq!(violations(&exchange, "EwsCutoffBalance"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_back_off_is_the_true_time() {
    let exchange = server(|policy| {
        policy.member_time = seconds(10);
        policy.max_burst = Some(5_000);
        // Half a millisecond in a millisecond.
        policy.recharge_rate = 1_800_000;
        policy.cutoff_balance = 1_000;
        policy.lockout = Duration::ZERO;
        policy.busy_call_cost = 0;
    });
    ask(&exchange, "", &get_folder("")).await;
    // From -5,000 to -1,000.
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(back_off(&text), Some(8_000));
    sleep(Duration::from_millis(7_999)).await;
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["ErrorServerBusy"]);
    sleep(Duration::from_millis(1)).await;
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["NoError"]);
}

#[tokio::test(start_paused = true)]
async fn percentages_of_a_minute() {
    let exchange = server(|policy| {
        policy.member_time = seconds(10);
        policy.overdraft_delay = Duration::from_millis(500);
        let share = |share| {
            Some(PercentTime {
                percent: 50.0,
                share,
            })
        };
        policy.percent_time_in_ad = share(0.1);
        policy.percent_time_in_cas = share(1.0);
        policy.percent_time_in_mailbox_rpc = share(0.5);
    });
    let started = Instant::now();
    ask(&exchange, "", &create("", &["a", "b", "c", "d"])).await;
    assert_eq!(
        started.elapsed(),
        Duration::from_millis(40_500),
        "the fourth is held up"
    );
    assert_eq!(violations(&exchange, "EWSPercentTimeInCAS"), 1);
    // 10 s were executed at 10, 20, 30 and 40.5 s: at 80 s two of them count.
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["ErrorServerBusy"]);
    assert_eq!(back_off(&text), Some(39_500));
    sleep(Duration::from_millis(39_500)).await;
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["NoError"]);
}

#[tokio::test(start_paused = true)]
async fn a_loaded_server_holds_members_up() {
    let exchange = server(|policy| {
        policy.member_time = Duration::from_millis(100);
        policy.cpu_start_percent = Some(50);
        policy.cpu_calls = 4;
    });
    let took = async |calls: usize| {
        let started = Instant::now();
        let body = get_folder("");
        let calls = (0..calls).map(|_| ask(&exchange, "", &body));
        futures_util::future::join_all(calls).await;
        started.elapsed()
    };
    assert_eq!(took(2).await, Duration::from_millis(100));
    // The fourth call makes a load of 100 percent, and is held up for 500 ms.
    assert_eq!(took(4).await, Duration::from_millis(600));
}

#[tokio::test(start_paused = true)]
async fn searches_of_long_end() {
    let exchange = server(|policy| {
        policy.member_time = seconds(90);
        policy.fast_search_timeout = Some(seconds(60));
    });
    let started = Instant::now();
    let query = "<m:QueryString>x</m:QueryString>";
    let body = find("", "", "").replace("</m:FindItem>", &format!("{query}</m:FindItem>"));
    let (_, text) = ask(&exchange, "", &body).await;
    assert_eq!(codes(&text), ["ErrorTimeoutExpired"]);
    assert_eq!(started.elapsed(), seconds(60));
    let (_, text) = ask(&exchange, "", &find("", "", "")).await;
    assert_eq!(codes(&text), ["NoError"], "without a query string");
}

#[tokio::test(start_paused = true)]
async fn searches_of_several_mailboxes() {
    let exchange = server(|policy| {
        policy.member_time = seconds(1);
        policy.discovery_concurrency = Some(1);
        policy.discovery_mailboxes = Some(2);
        policy.discovery_keywords = Some(3);
    });
    ask(&exchange, "", &create("a@contoso.com", &["one two"])).await;
    let search = |query: &str, mailboxes: usize| {
        let scope = "<t:MailboxSearchScope><t:Mailbox>a@contoso.com</t:Mailbox>\
                     <t:SearchScope>All</t:SearchScope></t:MailboxSearchScope>";
        format!(
            "<m:SearchMailboxes><m:SearchQueries><t:MailboxQuery><t:Query>{query}</t:Query><t:MailboxSearchScopes>{}\
             </t:MailboxSearchScopes></t:MailboxQuery></m:SearchQueries><m:ResultType>StatisticsOnly</m:ResultType>\
             </m:SearchMailboxes>",
            scope.repeat(mailboxes)
        )
    };
    for (query, mailboxes, code) in [
        ("one", 1, "NoError"),
        ("one", 3, "ErrorSearchTooManyMailboxes"),
        ("a b c d", 1, "ErrorSearchQueryHasTooManyKeywords"),
    ] {
        let (_, text) = ask(&exchange, "", &search(query, mailboxes)).await;
        assert_eq!(codes(&text), [code]);
        assert_eq!(text.contains("<t:ItemCount>1<"), code == "NoError");
    }
    let body = search("one", 1);
    let (first, second) = tokio::join!(ask(&exchange, "", &body), ask(&exchange, "", &body));
    assert_eq!(codes(&first.1), ["NoError"]);
    assert_eq!(codes(&second.1), ["ErrorServerBusy"]);
    for parameter in [
        "DiscoveryMaxMailboxes",
        "DiscoveryMaxKeywords",
        "DiscoveryMaxConcurrency",
    ] {
        assert_eq!(violations(&exchange, parameter), 1, "{parameter}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_come_apart() {
    let exchange = server(|policy| policy.min_spacing = Some(Duration::from_millis(200)));
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["NoError"]);
    sleep(Duration::from_millis(50)).await;
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(back_off(&text), Some(150));
    sleep(Duration::from_millis(150)).await;
    let (_, text) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(codes(&text), ["NoError"]);
    assert_eq!(violations(&exchange, "spacing"), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_have_a_largest_size() {
    let exchange = server(|policy| policy.max_request = 2_000);
    let (status, _) = ask(&exchange, "", &get_folder("")).await;
    assert_eq!(status, 200);
    let (status, _) = ask(&exchange, "", &create("", &["x".repeat(2_000).as_str()])).await;
    assert_eq!(status, 413);
    assert_eq!(violations(&exchange, "message size"), 1);
    assert_eq!(Policy::exchange_2010().max_request, 35_000_000);
}

#[tokio::test(start_paused = true)]
async fn somebody_else_takes_places_and_time() {
    let exchange = server(|policy| {
        policy.member_time = seconds(1);
        policy.max_concurrency = Some(3);
        policy.max_burst = Some(10_000);
        policy.recharge_rate = 0;
        policy.cutoff_balance = 0;
        policy.other_client = Some(OtherClient {
            period: seconds(10),
            calls: 2,
            execution: 0.9,
        });
    });
    let body = get_folder("");
    let codes_of = async || {
        let calls = (0..2).map(|_| ask(&exchange, "", &body));
        let texts = futures_util::future::join_all(calls).await;
        texts
            .iter()
            .map(|(_, text)| codes(text)[0].to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        codes_of().await,
        ["NoError", "ErrorExceededConnectionCount"]
    );
    sleep(seconds(10)).await;
    assert_eq!(codes_of().await, ["NoError", "NoError"]);
    // 9 s of the other client and 3 of ours are more than 10.
    assert_eq!(codes_of().await, ["ErrorServerBusy"; 2]);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_charged_to_the_mailbox_or_to_the_caller() {
    for (payer, second, third) in [
        (
            SubscriptionPayer::Mailbox,
            "NoError",
            "ErrorExceededSubscriptionCount",
        ),
        (
            SubscriptionPayer::Caller,
            "ErrorExceededSubscriptionCount",
            "ErrorExceededSubscriptionCount",
        ),
    ] {
        let exchange = server(|policy| {
            policy.max_subscriptions = Some(1);
            policy.subscription_payer = payer;
        });
        for (mailbox, code) in [
            ("a@contoso.com", "NoError"),
            ("b@contoso.com", second),
            ("a@contoso.com", third),
        ] {
            let (_, text) = ask(
                &exchange,
                &impersonate(mailbox),
                &subscribe("Streaming", ""),
            )
            .await;
            assert_eq!(codes(&text), [code], "{payer:?} {mailbox}");
        }
        let refused = 1 + u64::from(payer == SubscriptionPayer::Caller);
        assert_eq!(violations(&exchange, "EWSMaxSubscriptions"), refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_subscription_tells_what_happened_and_expires() {
    let exchange = server(|policy| policy.max_subscriptions = Some(2));
    let (_, text) = ask(&exchange, "", &subscribe("Pull", "")).await;
    let id = subscription_id(&text);
    ask(&exchange, "", &create("", &["x"])).await;
    let events = of_id("GetEvents", &id);
    let (_, text) = ask(&exchange, "", &events).await;
    assert_eq!(text.matches("<t:CreatedEvent>").count(), 1, "{text}");
    let (_, text) = ask(&exchange, "", &events).await;
    assert_eq!(
        text.matches("<t:StatusEvent>").count(),
        1,
        "what was told is not told again"
    );
    for _ in 0..3 {
        // Each question keeps it alive.
        sleep(seconds(9 * 60)).await;
        let (_, text) = ask(&exchange, "", &events).await;
        assert_eq!(codes(&text), ["NoError"]);
    }
    assert_eq!(
        exchange.subscriptions(&Payer::Copy(DEFAULT_ACCOUNT.to_owned())),
        1
    );
    sleep(seconds(10 * 60)).await;
    let (_, text) = ask(&exchange, "", &events).await;
    assert_eq!(codes(&text), ["ErrorSubscriptionNotFound"]);
    // Its place is free again, and an end frees one, too.
    for kind in ["Push", "Pull"] {
        let (_, text) = ask(&exchange, "", &subscribe(kind, "")).await;
        assert_eq!(codes(&text), ["NoError"]);
        if kind == "Pull" {
            let (_, text) = ask(
                &exchange,
                "",
                &of_id("Unsubscribe", &subscription_id(&text)),
            )
            .await;
            assert_eq!(codes(&text), ["NoError"]);
        }
    }
    let (_, text) = ask(&exchange, "", &subscribe("Pull", "")).await;
    assert_eq!(codes(&text), ["NoError"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_hangs_beside_the_other_calls() {
    let exchange = server(|policy| {
        policy.max_concurrency = Some(1);
        policy.hanging_connections = Some(1);
        policy.heartbeat = seconds(30);
    });
    let (_, text) = ask(&exchange, "", &subscribe("Streaming", "")).await;
    let id = subscription_id(&text);
    let body = envelope("", &stream(&[&id], 2));
    let mut hanging = send(&exchange, body.clone()).await.unwrap().into_body();
    let mut next = async || {
        let frame = hanging.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    };
    assert!(next().await.unwrap().contains(">OK<"));
    let refused = send(&exchange, body.clone()).await.unwrap();
    let refused = text_of(refused).await;
    assert_eq!(codes(&refused), ["ErrorExceededConnectionCount"]);
    assert_eq!(violations(&exchange, "HangingConnectionLimit"), 1);
    ask(&exchange, "", &create("", &["x"])).await;
    let started = Instant::now();
    let text = next().await.unwrap();
    assert!(
        text.contains("<t:CreatedEvent>") && text.contains(">OK<"),
        "{text}"
    );
    assert_eq!(started.elapsed(), seconds(30));
    let mut last = String::new();
    while let Some(text) = next().await {
        last = text;
    }
    assert!(last.contains(">Closed<"));
    assert_eq!(started.elapsed(), seconds(120));
    let again = send(&exchange, body.clone()).await.unwrap();
    assert_eq!(again.status(), 200, "its place is free again");
    drop(again);
    // Half an hour after the stream was closed it is gone.
    sleep(seconds(1_799)).await;
    drop(send(&exchange, body.clone()).await.unwrap());
    sleep(seconds(1_800)).await;
    let gone = text_of(send(&exchange, body).await.unwrap()).await;
    assert_eq!(codes(&gone), ["ErrorSubscriptionNotFound"]);
    assert!(gone.contains(&format!("<m:ErrorSubscriptionIds><t:SubscriptionId>{id}<")));
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_their_subscriptions_and_with_newer_streams() {
    let exchange = quick();
    let (_, text) = ask(&exchange, "", &subscribe("Streaming", "")).await;
    let id = subscription_id(&text);
    let body = envelope("", &stream(&[&id], 30));
    let first = send(&exchange, body.clone()).await.unwrap();
    let second = send(&exchange, body).await.unwrap();
    let first = text_of(first).await;
    assert_eq!(
        codes(&first).last(),
        Some(&"ErrorNewEventStreamConnectionOpened")
    );
    exchange.lose_subscriptions();
    let second = text_of(second).await;
    assert_eq!(codes(&second).last(), Some(&"ErrorSubscriptionNotFound"));
    let other = Exchange::builder()
        .account("a@contoso.com", "x")
        .account(DEFAULT_ACCOUNT, DEFAULT_PASSWORD)
        .anonymous("a@contoso.com")
        .build();
    let (_, text) = ask(&other, "", &subscribe("Pull", "")).await;
    let events = envelope("", &of_id("GetEvents", &subscription_id(&text)));
    let request = Request::post("/EWS/Exchange.asmx").body(Full::<Bytes>::from(events));
    let response = other.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(
        codes(&text_of(response).await),
        ["ErrorSubscriptionAccessDenied"]
    );
}

#[tokio::test(start_paused = true)]
async fn searches_share_the_rows_for_as_long_as_they_run() {
    let exchange = server(|policy| {
        policy.member_time = seconds(1);
        policy.find_count = Some(5);
    });
    ask(&exchange, "", &create("", &["x"; 4])).await;
    let page = "<m:IndexedPageItemView MaxEntriesReturned='3' Offset='0' BasePoint='Beginning'/>";
    let body = find("", page, "");
    let folders = "<m:FindFolder Traversal='Deep'><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>\
                   <m:ParentFolderIds><t:DistinguishedFolderId Id='root'/></m:ParentFolderIds></m:FindFolder>";
    let (first, second) = tokio::join!(ask(&exchange, "", &body), ask(&exchange, "", &body));
    let rows = |text: &str| text.matches("<t:ItemId ").count();
    assert_eq!((rows(&first.1), rows(&second.1)), (3, 2), "a short page");
    let (_, third) = ask(&exchange, "", &body).await;
    assert_eq!(rows(&third), 3);
    let (_, text) = ask(&exchange, "", folders).await;
    assert_eq!(
        codes(&text),
        ["ErrorExceededFindCountLimit"],
        "folders are rows, too"
    );
    assert_eq!(violations(&exchange, "EWSFindCountLimit"), 2);
}
