//! The simulated Graph by itself: what it allows, refuses and stores.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};
use tower::ServiceExt;

use super::{Graph, GraphPolicy};

const AMY: &str = "https://graph.microsoft.com/v1.0/users/Amy@contoso.com";

fn request(method: &str, url: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(url);
    let request = request.header("authorization", "Bearer app");
    request.body(Full::new(body.into())).unwrap()
}

async fn send(graph: &Graph, request: Request<Full<Bytes>>) -> (Response<()>, Value) {
    let (head, body) = graph.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    (Response::from_parts(head, ()), body)
}

async fn create(graph: &Graph, subject: &str) -> String {
    let body = json!({ "subject": subject }).to_string();
    let url = format!("{AMY}/messages");
    let (response, message) = send(graph, request("POST", &url, body)).await;
    assert_eq!(response.status(), 201);
    message["id"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn four_at_a_time_in_a_mailbox() {
    let graph = Graph::new(GraphPolicy::outlook());
    let get = || request("GET", &format!("{AMY}/messages"), "");
    let mut other = get();
    let token = "Bearer other".parse().unwrap();
    other.headers_mut().insert("authorization", token);
    let bob = request("GET", &AMY.replace("Amy", "bob"), "");
    let bob = bob.uri().to_string() + "/messages";
    let calls = (0..5)
        .map(|_| get())
        .chain([other, request("GET", &bob, "")]);
    let responses = join_all(calls.map(|call| send(&graph, call))).await;
    let statuses: Vec<u16> = responses.iter().map(|(r, _)| r.status().as_u16()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 429, 200, 200]);
    assert_eq!(responses[4].0.headers()["retry-after"], "1");
    assert_eq!(responses[4].1["error"]["code"], "ApplicationThrottled");
    let report = graph.report();
    assert_eq!(
        (report.requests, report.throttled, report.peak_in_flight),
        (7, 1, 4)
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_given_up_keeps_its_place() {
    let graph = Graph::new(GraphPolicy::outlook().with(|policy| policy.at_a_time = 1));
    let get = || request("GET", &format!("{AMY}/messages"), "");
    let given_up = send(&graph, get());
    let patience = Duration::from_millis(10);
    assert!(tokio::time::timeout(patience, given_up).await.is_err());
    assert_eq!(send(&graph, get()).await.0.status(), 429);
    advance(Duration::from_millis(100)).await;
    assert_eq!(send(&graph, get()).await.0.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn requests_and_uploads_within_a_time() {
    let a_minute = Duration::from_secs(60);
    let policy = GraphPolicy::outlook().with(|policy| {
        policy.requests = (3, a_minute);
        policy.uploads = (40, a_minute);
    });
    let graph = Graph::new(policy);
    let begin = Instant::now();
    create(&graph, "1").await;
    create(&graph, "2").await;
    let long = json!({ "subject": "a subject of more bytes" }).to_string();
    let url = format!("{AMY}/messages");
    let (response, _) = send(&graph, request("POST", &url, long)).await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["retry-after"]
        ),
        (429, &"60".parse().unwrap())
    );
    let get = || request("GET", &url, "");
    assert_eq!(send(&graph, get()).await.0.status(), 200);
    assert_eq!(send(&graph, get()).await.0.status(), 429);
    advance(a_minute - begin.elapsed()).await;
    create(&graph, "3").await;
    assert_eq!(graph.report().throttled, 2);
}

#[tokio::test(start_paused = true)]
async fn a_batch_runs_four_at_a_time_and_in_the_order_of_its_dependencies() {
    let graph = Graph::new(GraphPolicy::outlook());
    let post = |id: &str, subject: &str, needs: &[&str]| {
        let subject = json!({ "subject": subject });
        json!({"id": id, "method": "POST", "url": "/users/amy@contoso.com/messages", "body": subject, "dependsOn": needs})
    };
    let missing = json!({"id": "c", "method": "GET", "url": "/users/amy@contoso.com/messages/x"});
    let batch = |requests: Value| {
        let url = "https://graph.microsoft.com/v1.0/$batch";
        request("POST", url, json!({ "requests": requests }).to_string())
    };
    let begin = Instant::now();
    let all = json!([
        post("a", "1", &[]),
        post("b", "2", &["A"]),
        missing,
        post("d", "3", &["c"]),
        post("e", "4", &["d"]),
    ]);
    let (_, body) = send(&graph, batch(all)).await;
    let mut statuses: Vec<(&str, u64)> = body["responses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|response| {
            (
                response["id"].as_str().unwrap(),
                response["status"].as_u64().unwrap(),
            )
        })
        .collect();
    statuses.sort();
    assert_eq!(
        statuses,
        [("a", 201), ("b", 201), ("c", 404), ("d", 424), ("e", 424)]
    );
    assert_eq!(begin.elapsed().as_millis(), 200);

    let twenty: Vec<Value> = (0..20).map(|n| post(&n.to_string(), "many", &[])).collect();
    let begin = Instant::now();
    send(&graph, batch(json!(twenty))).await;
    assert_eq!(begin.elapsed().as_millis(), 500);
    let report = graph.report();
    assert_eq!(
        (
            report.created["many"],
            report.throttled,
            report.peak_in_flight
        ),
        (20, 0, 4)
    );

    let too_many: Vec<Value> = (0..21).map(|n| post(&n.to_string(), "-", &[])).collect();
    for bad in [
        json!(too_many),
        json!([]),
        json!([post("a", "-", &["b"])]),
        json!([{"id": "a"}]),
    ] {
        assert_eq!(send(&graph, batch(bad)).await.0.status(), 400);
    }
    assert!(!graph.report().created.contains_key("-"));
}

#[tokio::test(start_paused = true)]
async fn a_delta_tells_each_change_once() {
    let graph = Graph::new(GraphPolicy::outlook().with(|policy| policy.page = 2));
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(create(&graph, &n.to_string()).await);
    }
    let round = async |mut url: String| {
        let mut seen = Vec::new();
        loop {
            let (_, body) = send(&graph, request("GET", &url, "")).await;
            for message in body["value"].as_array().unwrap() {
                let subject = message["subject"].as_str().unwrap_or("removed");
                seen.push(subject.to_owned());
            }
            match body["@odata.nextLink"].as_str() {
                Some(next) => url = next.to_owned(),
                None => return (seen, body["@odata.deltaLink"].as_str().unwrap().to_owned()),
            }
        }
    };
    let (seen, link) = round(format!("{AMY}/mailFolders/inbox/messages/delta")).await;
    assert_eq!(seen, ["0", "1", "2", "3", "4"]);
    let of = |id: &String| format!("{AMY}/messages/{id}");
    send(&graph, request("DELETE", &of(&ids[1]), "")).await;
    let patch = request("PATCH", &of(&ids[0]), r#"{"subject":"changed"}"#);
    assert_eq!(send(&graph, patch).await.0.status(), 200);
    create(&graph, "5").await;
    let (seen, link) = round(link).await;
    assert_eq!(seen, ["removed", "changed", "5"]);
    assert!(round(link).await.0.is_empty());
    assert_eq!(
        send(&graph, request("GET", &of(&ids[1]), ""))
            .await
            .0
            .status(),
        404
    );
    let (_, body) = send(
        &graph,
        request("GET", &format!("{AMY}/messages?$top=4"), ""),
    )
    .await;
    let next = body["@odata.nextLink"].as_str().unwrap();
    let (_, rest) = send(&graph, request("GET", next, "")).await;
    let counts = [&body, &rest].map(|body| body["value"].as_array().unwrap().len());
    assert_eq!(counts, [4, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_upload_takes_its_ranges_in_their_order() {
    let graph = Graph::new(GraphPolicy::outlook());
    let id = create(&graph, "with a file").await;
    let item = json!({"AttachmentItem": {"attachmentType": "file", "name": "a.pdf", "size": 10}});
    let url = format!("{AMY}/messages/{id}/attachments/createUploadSession");
    let (_, session) = send(&graph, request("POST", &url, item.to_string())).await;
    let url = session["uploadUrl"].as_str().unwrap();
    let put = |range: &str, body: &'static str| {
        let put = Request::put(url).header("content-range", format!("bytes {range}"));
        put.body(Full::from(body)).unwrap()
    };
    let cases = [
        ("0-5/10", "012345", 200, json!(["6"])),
        ("0-5/10", "012345", 416, Value::Null),
        ("6-9/10", "678", 400, Value::Null),
        ("6-9/11", "6789", 400, Value::Null),
        ("9-6/10", "6789", 400, Value::Null),
        ("6-9", "6789", 400, Value::Null),
        ("6-9/10", "6789", 201, Value::Null),
    ];
    for (range, body, status, next) in cases {
        let (response, body) = send(&graph, put(range, body)).await;
        assert_eq!(
            (response.status().as_u16(), &body["nextExpectedRanges"]),
            (status, &next),
            "{range}"
        );
    }
    assert_eq!(graph.report().attached["a.pdf"], 10);
}

#[tokio::test(start_paused = true)]
async fn what_it_does_not_know_is_refused() {
    let graph = Graph::new(GraphPolicy::outlook());
    let url = format!("{AMY}/messages");
    let mut nobody = request("GET", &url, "");
    nobody.headers_mut().remove("authorization");
    assert_eq!(send(&graph, nobody).await.0.status(), 401);
    for (method, path, body, status) in [
        ("GET", "/messages/x", "", 404),
        ("POST", "/messages", "<xml/>", 400),
        ("PUT", "/messages", "", 405),
        ("GET", "/contacts", "", 400),
    ] {
        let response = send(&graph, request(method, &format!("{AMY}{path}"), body)).await;
        assert_eq!(response.0.status(), status, "{method} {path}");
    }
    assert_eq!(graph.report().refused, 4);
}
