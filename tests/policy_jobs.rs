//! Whole jobs under the amounts per time of a policy, in virtual time against a server that only responds: a job takes what the policy
//! allows at best, and what does not draw on it is not delayed.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};
use tower_ews::EwsStack;
use tower_ews::body::{BufferRequestError, ReplayBody};
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Caller;
use tower_ews::ledger::Limit;
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::principal::Budget;
use tower_ews::stack::EwsService;

const ENVELOPE: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types" xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Body>"#;
const MESSAGE: &str = "<t:Message>";
const A_DAY: Duration = Duration::from_secs(86_400);

/// One request as the server saw it.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    messages: usize,
}

type Log = Arc<Mutex<Vec<Seen>>>;

type Client = BoxCloneSyncService<Request<ReplayBody>, Response<Full<Bytes>>, Infallible>;

/// A server that takes `time` for each request, and refuses the first `busy` of them.
fn server(time: Duration, busy: usize) -> (Log, Client) {
    let log = Log::default();
    let seen = Arc::clone(&log);
    let service = tower::service_fn(move |request: Request<ReplayBody>| {
        let seen = Arc::clone(&seen);
        async move {
            let text = request.into_body().to_bytes();
            let messages = String::from_utf8_lossy(&text).matches(MESSAGE).count();
            let (at, number) = {
                let mut seen = seen.lock().unwrap();
                let at = Instant::now();
                seen.push(Seen { at, messages });
                (at, seen.len())
            };
            tokio::time::sleep_until(at + time).await;
            Ok(match number <= busy {
                true => refusal(),
                false => Response::new(Full::from(success(messages.max(1)))),
            })
        }
    });
    (log, BoxCloneSyncService::new(service))
}

fn success(members: usize) -> String {
    let message = r#"<m:CreateItemResponseMessage ResponseClass="Success"><m:ResponseCode>NoError</m:ResponseCode><m:Items/></m:CreateItemResponseMessage>"#;
    let messages = message.repeat(members);
    format!(
        "{ENVELOPE}<m:CreateItemResponse><m:ResponseMessages>{messages}</m:ResponseMessages></m:CreateItemResponse></s:Body></s:Envelope>"
    )
}

fn refusal() -> Response<Full<Bytes>> {
    let fault = r#"<s:Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring>busy</faultstring><detail><e:ResponseCode xmlns:e="http://schemas.microsoft.com/exchange/services/2006/errors">ErrorServerBusy</e:ResponseCode><t:MessageXml><t:Value Name="BackOffMilliseconds">1000</t:Value></t:MessageXml></detail></s:Fault>"#;
    let mut response = Response::new(Full::from(format!(
        "{ENVELOPE}{fault}</s:Body></s:Envelope>"
    )));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

fn policy(change: impl FnOnce(&mut ThrottlingPolicy)) -> ThrottlingPolicy {
    let mut policy = ThrottlingPolicy::exchange_online();
    (policy.deadline, policy.max_wait) = (2 * A_DAY, 2 * A_DAY);
    change(&mut policy);
    policy
}

fn request(operation: &str) -> Request<ReplayBody> {
    let body = format!("{ENVELOPE}{operation}</s:Body></s:Envelope>");
    Request::post("https://outlook.office365.com/EWS/Exchange.asmx")
        .header("content-type", "text/xml; charset=utf-8")
        .body(ReplayBody::from(body))
        .unwrap()
}

/// A call that sends messages to a number of recipients each.
fn send(messages: usize, recipients: usize) -> Request<ReplayBody> {
    let to = "<t:Mailbox><t:EmailAddress>a@contoso.com</t:EmailAddress></t:Mailbox>";
    let message = format!(
        "{MESSAGE}<t:ToRecipients>{}</t:ToRecipients></t:Message>",
        to.repeat(recipients)
    );
    let items = message.repeat(messages);
    request(&format!(
        r#"<m:CreateItem MessageDisposition="SendOnly"><m:Items>{items}</m:Items></m:CreateItem>"#
    ))
}

/// A call that sends nothing.
fn read() -> Request<ReplayBody> {
    request(
        r#"<m:GetFolder><m:FolderShape/><m:FolderIds><t:DistinguishedFolderId Id="inbox"/></m:FolderIds></m:GetFolder>"#,
    )
}

type Service = EwsService<Client>;

fn stack(policy: ThrottlingPolicy, client: &Client) -> Service {
    let caller = Caller::new("svc@contoso.com");
    let stack = EwsStack::new(policy).caller(caller);
    // Messages go out in batches of ten.
    let stack = stack.batches(|batches| batches.max_members(10));
    stack.service(client.clone())
}

/// Sends a request, and reads its response.
async fn done(service: Service, request: Request<ReplayBody>) {
    let response = service.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await;
    assert!(status.is_success() && body.is_ok(), "{status}");
}

/// Sends all requests at once, and returns how many seconds they took.
async fn job(service: &Service, requests: impl IntoIterator<Item = Request<ReplayBody>>) -> f64 {
    let start = Instant::now();
    let calls: Vec<_> = requests
        .into_iter()
        .map(|request| tokio::spawn(done(service.clone(), request)))
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    start.elapsed().as_secs_f64()
}

/// As long as the policy says at best, or a twentieth longer.
fn assert_best(took: f64, best: f64) {
    assert!(
        (best..=1.05 * best).contains(&took),
        "{took} s, {best} s at best"
    );
}

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn messages_go_as_fast_as_their_rate() {
    let (log, client) = server(SHORT, 0);
    let service = stack(policy(|_| {}), &client);
    let job = tokio::spawn({
        let service = service.clone();
        async move { job(&service, (0..2_000).map(|_| send(1, 1))).await }
    });
    // What sends nothing is not delayed by what waits.
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        done(service.clone(), read()).await;
        assert_eq!(start.elapsed(), SHORT);
    }
    // Thirty at once, and thirty more as soon as those are a minute old.
    assert_best(job.await.unwrap(), 66.0 * 60.0);
    let seen = log.lock().unwrap();
    let messages = seen.iter().map(|seen| seen.messages).sum::<usize>();
    assert_eq!(messages, 2_000);
    // Thirty in any minute.
    let sent: Vec<_> = seen.iter().filter(|seen| seen.messages > 0).collect();
    let minute = |sent: &[&Seen]| sent[30].at - sent[0].at >= Duration::from_secs(60);
    assert!(sent.windows(31).all(minute));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_charged_part_by_part() {
    let (log, client) = server(SHORT, 0);
    let service = stack(policy(|_| {}), &client);
    let took = job(&service, [send(300, 1)]).await;
    assert_best(took, 270.0 / 30.0 * 60.0);
    let seen = log.lock().unwrap();
    assert_eq!(seen.iter().map(|seen| seen.messages).sum::<usize>(), 300);
    assert!(seen.iter().all(|seen| seen.messages <= 10));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refused_has_not_used_up_the_rate() {
    // Each message is refused once, and all of them fit into the first minute.
    let (log, client) = server(SHORT, 15);
    let service = stack(policy(|_| {}), &client);
    let took = job(&service, (0..15).map(|_| send(2, 300))).await;
    assert!(took < 15.0, "{took} s");
    assert_eq!(log.lock().unwrap().len(), 30);
    // All thirty are used up now: a minute after the first of them has ended.
    let next = job(&service, [send(1, 1)]).await;
    assert!((60.0..62.0).contains(&(took + next)), "{took} s, {next} s");
}

#[tokio::test(start_paused = true)]
async fn recipients_are_counted_for_a_day() {
    let (_, client) = server(SHORT, 0);
    let service = stack(policy(|_| {}), &client);
    let took = job(&service, (0..30).map(|_| send(1, 400))).await;
    // The 2,000 that are too many, on the next day.
    assert_best(took, 86_400.0);
}

#[tokio::test(start_paused = true)]
async fn calls_keep_a_distance() {
    let (log, client) = server(SHORT, 0);
    let spacing = Duration::from_millis(500);
    let limited = policy(|policy| {
        let limit = Limit::per_window(1, spacing);
        policy.set_limit(Budget::Spacing, limit).unwrap();
    });
    let took = job(&stack(limited, &client), (0..100).map(|_| read())).await;
    assert_best(took, 49.6);
    let seen = log.lock().unwrap();
    let apart = |pair: &[Seen]| pair[1].at - pair[0].at >= spacing;
    assert!(seen.windows(2).all(apart));
}

#[tokio::test(start_paused = true)]
async fn the_servers_time_is_kept_to() {
    // A second of work for each call, twenty seconds saved up, and half of each second from then on.
    let (log, client) = server(Duration::from_secs(1), 0);
    let limited = policy(|policy| {
        policy.set_busy_time(20_000, 1_800_000, 10_000).unwrap();
    });
    let took = job(&stack(limited, &client), (0..120).map(|_| read())).await;
    let seen = log.lock().unwrap();
    // What has begun when the bucket is empty runs to its end: 27 calls at a time.
    let best = f64::from(120 - 20 - 27) / 0.5;
    assert!((best..=200.0).contains(&took), "{took} s, {best} s at best");
    // The server's own account never falls below the cutoff and what was on its way.
    let start = seen[0].at;
    for (number, seen) in seen.iter().enumerate() {
        let spent = 1_000.0 * (number + 1) as f64;
        let back = 500.0 * (seen.at - start).as_secs_f64();
        assert!(20_000.0 + back - spent >= -27_000.0, "call {number}");
    }
}

/// A job for Graph in one mailbox, all requests at once: how many seconds it took.
async fn graph(requests: usize, method: &str, body: Bytes) -> f64 {
    let mut policy = ThrottlingPolicy::graph_outlook();
    (policy.deadline, policy.max_wait) = (A_DAY, A_DAY);
    let ledger = Arc::new(policy.ledger());
    let layer = ConcurrencyByPrincipalLayer::new(ledger, policy.graph_charges("app"));
    let service = layer.layer(tower::service_fn(async |_: Request<ReplayBody>| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let start = Instant::now();
    let calls: Vec<_> = (0..requests)
        .map(|_| {
            let request = Request::builder()
                .method(method)
                .uri("https://graph.microsoft.com/v1.0/users/amy@contoso.com/messages")
                .body(ReplayBody::from(body.clone()))
                .unwrap();
            tokio::spawn(service.clone().oneshot(request))
        })
        .collect();
    for call in calls {
        drop(call.await.unwrap().unwrap());
    }
    start.elapsed().as_secs_f64()
}

#[tokio::test(start_paused = true)]
async fn graph_s_requests_in_ten_minutes() {
    assert_best(graph(20_000, "GET", Bytes::new()).await, 600.0);
    let fast = graph(10_000, "GET", Bytes::new()).await;
    assert_best(fast, 10_000.0 / 4.0 * 0.01);
}

#[tokio::test(start_paused = true)]
async fn graph_s_uploads_in_five_minutes() {
    let megabytes = Bytes::from(vec![0; 10_000_000]);
    let took = graph(40, "PUT", megabytes.clone()).await;
    // Fifteen, fifteen and ten.
    assert_best(took, 2.0 * 300.0);
    assert!(graph(40, "GET", megabytes).await < 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_not_sent() {
    let (log, client) = server(SHORT, 0);
    let mut policy = ThrottlingPolicy::exchange_2010();
    assert_eq!(policy.max_request, 35_000_000);
    policy.max_request = 1_000;
    let service = stack(policy, &client);
    let error = service.clone().oneshot(send(1, 100)).await.err().unwrap();
    let error = error.downcast::<BufferRequestError>().unwrap();
    assert!(
        matches!(*error, BufferRequestError::TooLarge { .. }),
        "{error}"
    );
    assert!(log.lock().unwrap().is_empty());
    done(service, send(1, 1)).await;
}
