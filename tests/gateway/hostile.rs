//! Requests that nobody should send.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::*;

async fn fine() -> Upstream {
    Upstream::start(|_, _| async { xml(200, "<x/>".to_owned()) }).await
}

/// Sends bytes, and returns all that comes back until the end of the connection or two quiet seconds.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut came = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read @ 1..)) = timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
        came.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&came).into_owned()
}

#[tokio::test]
async fn two_ways_to_read_a_request_are_one_too_many() {
    let upstream = fine().await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let auth = basic("amy@contoso.com", "secret");
    let inner = "POST /EWS/Exchange.asmx?smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let length = inner.len();
    let framings = [
        "Content-Length: 4\r\nTransfer-Encoding: chunked".to_owned(),
        "Transfer-Encoding: chunked\r\nContent-Length: 4".to_owned(),
        format!("Content-Length: 0\r\nContent-Length: {length}"),
        format!("Content-Length: {length}, 0"),
        "Content-Length: +4".to_owned(),
        "Content-Length: 4 4".to_owned(),
        "Transfer-Encoding: xchunked".to_owned(),
        "Transfer-Encoding: chunked, identity".to_owned(),
        "Transfer-Encoding : chunked".to_owned(),
        "X: y\r\n Transfer-Encoding: chunked".to_owned(),
        "Transfer-Encoding:\x0bchunked".to_owned(),
    ];
    for framing in framings {
        for body in [
            format!("0\r\n\r\n{inner}"),
            format!("4\r\n<x/>\r\n0\r\n\r\n{inner}"),
            inner.to_owned(),
        ] {
            let head = format!(
                "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\n{framing}\r\n\r\n"
            );
            let came = raw(&gateway, format!("{head}{body}").as_bytes()).await;
            let seen = upstream.seen.lock();
            for (head, body) in seen.iter() {
                // A second request without credentials is one that the client has sent and may send.
                let is_own =
                    !head.headers.contains_key("authorization") || head.uri.query().is_none();
                assert!(is_own, "{framing:?} let a request out of {body:?}");
                assert!(
                    !body.contains("smuggled") || body == inner,
                    "{framing:?}: {body:?}"
                );
                // What is sent on has one length, and no other framing.
                assert!(
                    !head.headers.contains_key("transfer-encoding"),
                    "{framing:?}"
                );
                assert_eq!(
                    head.headers.get_all("content-length").iter().count(),
                    1,
                    "{framing:?}"
                );
            }
            let refused = came.starts_with("HTTP/1.1 4")
                || came.is_empty()
                || came.starts_with("HTTP/1.1 200");
            assert!(refused, "{framing:?}: {came}");
        }
    }
}

#[tokio::test]
async fn several_identities_in_one_request_are_none() {
    let upstream = fine().await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let request = Request::post(gateway.url())
        .header("authorization", basic("amy@contoso.com", "secret"))
        .header("authorization", basic("bob@contoso.com", "secret"));
    assert_eq!(send(request, get_inbox()).await.0, 400);
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_not_taken() {
    let upstream = fine().await;
    let policy = Scratch::new("small.toml", b"name = 'small'\nmax_request = 1000\n");
    let gateway = Gateway::start(&upstream.url, &["--policy", policy.path()]);
    for auth in [Some(basic("amy@contoso.com", "secret")), None] {
        let mut request = Request::post(gateway.url()).header("content-type", "text/xml");
        if let Some(auth) = &auth {
            request = request.header("authorization", auth);
        }
        let (status, headers, body) = send(request, "x".repeat(1001)).await;
        assert_eq!(status, 413);
        assert!(
            body.contains("1000 bytes")
                && headers["content-type"]
                    .to_str()
                    .unwrap()
                    .starts_with("text/plain")
        );
    }
    // In chunks, without a length.
    let auth = format!("Authorization: {}\r\n", basic("amy@contoso.com", "secret"));
    for auth in [&auth, ""] {
        let head = format!(
            "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\n{auth}Transfer-Encoding: chunked\r\n\r\n"
        );
        let chunks = format!("190\r\n{}\r\n", "x".repeat(400)).repeat(3);
        let came = raw(&gateway, format!("{head}{chunks}0\r\n\r\n").as_bytes()).await;
        assert!(came.starts_with("HTTP/1.1 413"), "{came}");
    }
    // In its head.
    let many = "x: y\r\n".repeat(150);
    let came = raw(
        &gateway,
        format!("POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes(),
    )
    .await;
    assert!(came.starts_with("HTTP/1.1 431"), "{came}");
    let long = "y".repeat(200_000);
    let came = raw(
        &gateway,
        format!("POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\nx: {long}\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(came.is_empty() || came.starts_with("HTTP/1.1 4"), "{came}");
    assert_eq!(upstream.calls(), 0);
    assert_eq!(call(&gateway, "amy@contoso.com", get_inbox()).await.0, 200);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_let_go() {
    let upstream = fine().await;
    let gateway = Gateway::start(&upstream.url, &["--upload-timeout", "0.3"]);
    let auth = basic("amy@contoso.com", "secret");
    let begun = Instant::now();
    let head = format!(
        "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\nContent-Length: 100\r\n\r\n<x"
    );
    let came = raw(&gateway, head.as_bytes()).await;
    assert!(came.starts_with("HTTP/1.1 408"), "{came}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(upstream.calls(), 0);
    // One that goes away in the middle leaves nothing behind.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    until("the call is gone", async || {
        gateway.status().await["calls"] == 0
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let upstream = fine().await;
    let gateway = Gateway::start(&upstream.url, &["--max-connections", "2"]);
    let first = TcpStream::connect(gateway.address).await.unwrap();
    let _second = TcpStream::connect(gateway.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = TcpStream::connect(gateway.address).await.unwrap();
    third
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    let early = timeout(Duration::from_millis(200), third.read_to_string(&mut text)).await;
    assert!(early.is_err(), "{text}");
    drop(first);
    match third.read_to_string(&mut text).await {
        Ok(_) => assert!(text.contains("200 OK"), "{text}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
    }
}

#[tokio::test]
async fn the_page_is_for_this_machine() {
    let upstream = fine().await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let get = |path: &str, host: &str| {
        let request =
            Request::get(format!("http://{}{path}", gateway.address)).header("host", host);
        send(request, "")
    };
    let (status, headers, body) = get("/", "localhost:8080").await;
    assert!(status == 200 && body.contains("<h1>EWS gateway</h1>"));
    assert!(
        headers["content-security-policy"]
            .to_str()
            .unwrap()
            .starts_with("default-src 'none'")
    );
    call(&gateway, "amy@contoso.com", get_inbox()).await;
    let (_, _, metrics) = get("/metrics", "127.0.0.1").await;
    for line in [
        "ews_calls_total{operation=\"GetFolder\"",
        "ews_calls_queued 0",
        "ews_budget_limit{budget=\"concurrency\"} 27",
        "ews_call_duration_seconds_bucket",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    assert!(!metrics.contains("contoso"));
    // A name that resolves to this machine is not this machine's.
    for path in ["/", "/metrics", "/status.json", "/events"] {
        assert_eq!(get(path, "evil.example").await.0, 404, "{path}");
    }
    assert_eq!(get("/healthz", "evil.example").await.2, "ok\n");
}

#[tokio::test]
async fn a_client_that_stops_reading_gives_its_place_back() {
    let upstream = Upstream::start(|_, _| async {
        let folders = "<t:Folder/>".repeat(2_000_000);
        xml(
            200,
            envelope(&format!(
                "<m:GetFolderResponse>{folders}</m:GetFolderResponse>"
            )),
        )
    })
    .await;
    let gateway = Gateway::start(&upstream.url, &["--read-timeout", "0.5"]);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let (auth, body) = (basic("amy@contoso.com", "secret"), get_inbox());
    let length = body.len();
    let head = format!(
        "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: x\r\nAuthorization: {auth}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .await
        .unwrap();
    let mut some = [0; 100];
    stream.read_exact(&mut some).await.unwrap();
    let held = async || gateway.status().await["principals"].to_string();
    assert!(held().await.contains("amy@contoso.com"));
    until("its permit is back", async || {
        !held().await.contains("amy@contoso.com")
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_held_have_a_bound_together() {
    let (go_on, waits) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (goes, waiting) = (Arc::clone(&go_on), Arc::clone(&waits));
    let upstream = Upstream::start(move |_, _| {
        let (goes, waiting) = (Arc::clone(&goes), Arc::clone(&waiting));
        async move {
            waiting.notify_one();
            goes.notified().await;
            xml(200, "<x/>".to_owned())
        }
    })
    .await;
    let gateway = Arc::new(Gateway::start(&upstream.url, &["--max-buffered", "3000"]));
    let long = |letter: &str| get_inbox().replace("inbox", &letter.repeat(2_000));
    let (first, soap) = (Arc::clone(&gateway), long("a"));
    let first = tokio::spawn(async move { call(&first, "amy@contoso.com", soap).await.0 });
    waits.notified().await;
    let (status, headers, body) = call(&gateway, "bob@contoso.com", long("b")).await;
    assert_eq!(
        (status.as_u16(), &headers["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    assert!(body.contains("a:ErrorServerBusy"), "{body}");
    go_on.notify_one();
    assert_eq!(first.await.unwrap(), 200);
    // What was held is free again.
    go_on.notify_one();
    assert_eq!(call(&gateway, "bob@contoso.com", long("b")).await.0, 200);
}
