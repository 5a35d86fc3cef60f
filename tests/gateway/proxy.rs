//! What comes through, in whose name, and what errors become.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;
use tower_ews::simulator::{Exchange, Fault, Faults, Policy};

use crate::harness::*;

const ANY_SEED: &str = "EWS_TEST_SEED";

fn seed() -> u64 {
    let given = std::env::var(ANY_SEED)
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("{ANY_SEED}={seed}");
    seed
}

fn user_of(head: &http::request::Parts) -> String {
    use base64::Engine as _;
    let value = head.headers["authorization"].to_str().unwrap();
    let decoded =
        base64::engine::general_purpose::STANDARD.decode(value.strip_prefix("Basic ").unwrap());
    let decoded = String::from_utf8(decoded.unwrap()).unwrap();
    decoded.split(':').next().unwrap().to_owned()
}

#[tokio::test]
async fn nobodys_credentials_are_used_for_another() {
    let mut random = fastrand::Rng::with_seed(seed());
    let dice = Arc::new(parking_lot::Mutex::new(random.fork()));
    let upstream = Upstream::start(move |_, body| {
        // Some are held back, so that calls wait, overtake each other and are sent again.
        let refused = dice.lock().u8(..10) < 2;
        let busy = "<s:Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring>x</faultstring><detail>\
            <e:ResponseCode xmlns:e=\"e\">ErrorServerBusy</e:ResponseCode><t:MessageXml><t:Value Name=\"BackOffMilliseconds\">\
            15</t:Value></t:MessageXml></detail></s:Fault>";
        async move {
            match refused {
                true => xml(500, envelope(busy)),
                false => xml(200, created(&vec!["NoError"; body.matches("<t:Subject>").count()])),
            }
        }
    })
    .await;
    let gateway = Arc::new(Gateway::start(&upstream.url, &[]));
    let calls = (0..150).map(|_| {
        let user = format!("user{}@contoso.com", random.u8(..7));
        let members = vec![&*user; usize::from(random.u8(1..5))];
        let (gateway, soap) = (Arc::clone(&gateway), create(&members));
        tokio::spawn(async move {
            let (status, _, body) = call(&gateway, &user, soap).await;
            assert_eq!(status, 200, "{body}");
        })
    });
    for task in calls.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let seen = upstream.seen.lock();
    assert!(seen.len() >= 150);
    for (head, body) in seen.iter() {
        let user = user_of(head);
        let subjects = body.split("<t:Subject>").skip(1);
        for subject in subjects {
            assert!(
                subject.starts_with(&format!("{user}<")),
                "{user} sent {subject}"
            );
        }
    }
}

#[tokio::test]
async fn headers_of_a_connection_stay_on_it() {
    let upstream = Upstream::start(|_, _| async {
        let mut response = xml(200, "<x/>".to_owned());
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("x-end", "2"),
        ] {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let request = Request::post(gateway.url())
        .header("host", "elsewhere.example")
        .header("authorization", basic("amy@contoso.com", "secret"))
        .header("connection", "x-mine, authorization")
        .header("x-mine", "1")
        .header("x-anchormailbox", "amy@contoso.com")
        .header("te", "trailers")
        .header("proxy-authorization", basic("proxy", "secret"));
    let (status, headers, body) = send(request, get_inbox()).await;
    assert_eq!((status.as_u16(), &*body), (200, "<x/>"));
    assert!(
        !headers.contains_key("x-hop") && !headers.contains_key("keep-alive"),
        "{headers:?}"
    );
    assert_eq!(headers["x-end"], "2");
    let seen = upstream.seen.lock();
    let (head, body) = &seen[0];
    assert_eq!(*body, get_inbox());
    assert_eq!(head.uri.path(), "/EWS/Exchange.asmx");
    assert!(
        upstream
            .url
            .ends_with(head.headers["host"].to_str().unwrap())
    );
    assert_eq!(user_of(head), "amy@contoso.com");
    assert_eq!(head.headers["x-anchormailbox"], "amy@contoso.com");
    assert_eq!(head.headers["via"], "1.1 tower-ews-gateway");
    for name in ["x-mine", "te", "proxy-authorization", "connection"] {
        assert!(!head.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn a_busy_signal_is_read_however_the_client_wants_its_response() {
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = Upstream::start(move |head, _| {
        let busy = asked.fetch_add(1, Ordering::Relaxed) == 0;
        let body = created(&[if busy { "ErrorServerBusy" } else { "NoError" }]);
        async move {
            let accepted = head.headers["accept-encoding"].to_str().unwrap();
            assert!(
                accepted.contains("gzip") && !accepted.contains("br"),
                "{accepted}"
            );
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(body.as_bytes()).unwrap();
            let mut response = xml(200, String::new());
            response
                .headers_mut()
                .insert("content-encoding", "gzip".parse().unwrap());
            *response.body_mut() = Body::from(gzip.finish().unwrap());
            response
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let request = Request::post(gateway.url())
        .header("content-type", "text/xml; charset=utf-8")
        .header("authorization", basic("amy@contoso.com", "secret"))
        .header("accept-encoding", "br, gzip");
    let (status, headers, body) = send(request, create(&["one"])).await;
    assert_eq!((status.as_u16(), body), (200, created(&["NoError"])));
    assert!(!headers.contains_key("content-encoding"), "{headers:?}");
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn who_asks_how_to_authenticate_is_charged_to_nobody() {
    let upstream = Upstream::start(|head, _| async move {
        let challenges: &[&str] = match head.uri.query() {
            Some("only") => &["Negotiate", "NTLM"],
            _ => &["Negotiate", "NTLM", "Basic realm=\"mail\""],
        };
        let mut response = xml(401, String::new());
        for challenge in challenges {
            response
                .headers_mut()
                .append("www-authenticate", challenge.parse().unwrap());
        }
        response
    })
    .await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let (status, headers, _) = send(Request::post(gateway.url()), get_inbox()).await;
    assert_eq!(status, 401);
    let challenges: Vec<_> = headers.get_all("www-authenticate").iter().collect();
    assert_eq!(challenges, ["Basic realm=\"mail\""]);
    // The server offers nothing that can be passed on.
    let (status, headers, body) = send(Request::post(gateway.url() + "?only"), get_inbox()).await;
    assert_eq!(status, 501);
    assert!(
        body.contains("NTLM") && !headers.contains_key("www-authenticate"),
        "{body}"
    );
    assert_eq!(gateway.status().await["totals"]["calls"], 0);

    let asked = upstream.calls();
    for scheme in ["NTLM TlRMTVNTUAAB", "Negotiate YII="] {
        let request = Request::post(gateway.url()).header("authorization", scheme);
        let (status, headers, body) = send(request, get_inbox()).await;
        assert_eq!(status, 401);
        assert!(body.contains("authenticate a connection"), "{body}");
        let offers = headers.get_all("www-authenticate").iter();
        let offers: Vec<_> = offers.map(|value| value.to_str().unwrap()).collect();
        assert!(
            offers.iter().all(|offer| offer.starts_with('B')),
            "{offers:?}"
        );
    }
    assert_eq!(upstream.calls(), asked);
}

#[tokio::test]
async fn a_wrong_password_does_not_lock_its_account_out() {
    let upstream = Upstream::start(|head, _| async move {
        let good = head.headers["authorization"] == *basic("amy@contoso.com", "right");
        tokio::time::sleep(Duration::from_millis(30)).await;
        xml(if good { 200 } else { 401 }, "<x/>".to_owned())
    })
    .await;
    let gateway = Arc::new(Gateway::start(&upstream.url, &[]));
    let with = |password: &str| {
        let request = Request::post(gateway.url())
            .header("authorization", basic("amy@contoso.com", password));
        send(request, get_inbox())
    };
    let wrong = (0..20).map(|_| tokio::spawn(with("wrong")));
    for task in wrong.collect::<Vec<_>>() {
        let (status, headers, _) = task.await.unwrap();
        assert_eq!(status, 401);
        // All but the server's own say when to ask again.
        let seconds = headers
            .get("retry-after")
            .and_then(|value| value.to_str().ok());
        assert!(seconds.is_none_or(|seconds| (50..=60).contains(&seconds.parse().unwrap())));
    }
    assert_eq!(upstream.calls(), 1);
    let (status, _, _) = with("right").await;
    assert_eq!(status, 200);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn errors_are_what_clients_understand() {
    // Nobody listens there.
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let gateway = Gateway::start(&gone, &["--deadline", "0.4"]);
    let (status, headers, body) = call(&gateway, "amy@contoso.com", create(&["one"])).await;
    assert_eq!(
        (status.as_u16(), &headers["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    assert!(
        body.contains("a:ErrorServerBusy") && body.contains(">5000<"),
        "{body}"
    );

    let request =
        Request::get(gateway.url()).header("authorization", basic("amy@contoso.com", "secret"));
    let (status, headers, body) = send(request, "").await;
    assert_eq!(
        (status.as_u16(), &headers["retry-after"]),
        (503, &"5".parse().unwrap())
    );
    let types: Vec<_> = headers.get_all("content-type").iter().collect();
    assert!(
        types == ["text/plain; charset=utf-8"] && !body.contains("Fault"),
        "{types:?} {body}"
    );

    // Executed, and the response is lost: nobody may send it again.
    let exchange = Exchange::builder().policy(Policy::unlimited()).build();
    exchange.inject(Fault::ResetAfter);
    let server = exchange.serve_on_loopback().await.unwrap();
    let gateway = Gateway::start(
        &format!("http://{}", server.local_addr()),
        &["--deadline", "2"],
    );
    let (status, headers, body) = call(&gateway, "svc@contoso.com", create(&["one"])).await;
    assert_eq!(status, 500, "{body}");
    assert!(
        body.contains("a:ErrorInternalServerError") && !headers.contains_key("retry-after"),
        "{body}"
    );
    assert_eq!(exchange.report().created["one"], 1);

    // The server asks for more time than the client has.
    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(40)),
    });
    call(&gateway, "svc@contoso.com", get_inbox()).await;
    let (status, headers, body) = call(&gateway, "svc@contoso.com", get_inbox()).await;
    let seconds: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(status, 503);
    assert!((35..=45).contains(&seconds), "{seconds} {body}");
    let (status, _, _) = send(Request::put(gateway.url()), "").await;
    assert_eq!(status, 405);
    for path in ["/owa/", "/EWS/../owa/", "/ews/%2e%2e/owa"] {
        let request = Request::post(format!("http://{}{path}", gateway.address));
        assert_eq!(send(request, "").await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn a_member_that_stays_busy_is_given_a_code_that_nobody_repeats_a_batch_for() {
    for (more, class, code) in [
        (None, "Warning", "ErrorBatchProcessingStopped"),
        (Some("--keep-busy-members"), "Error", "ErrorServerBusy"),
    ] {
        let upstream = Upstream::start(|_, body| async move {
            let codes = body.split("<t:Subject>").skip(1);
            let codes = codes.map(|subject| match subject.starts_with("busy") {
                true => "ErrorServerBusy",
                false => "NoError",
            });
            xml(200, created(&codes.collect::<Vec<_>>()))
        })
        .await;
        let options: Vec<_> = ["--deadline", "1.5"].into_iter().chain(more).collect();
        let gateway = Gateway::start(&upstream.url, &options);
        let (status, _, body) =
            call(&gateway, "amy@contoso.com", create(&["one", "busy", "two"])).await;
        assert_eq!(status, 200);
        let response = tower_ews::soap::SoapResponse::parse(body.as_bytes()).unwrap();
        let codes: Vec<_> = response
            .entries()
            .map(|entry| (format!("{:?}", entry.class), entry.code.as_str()))
            .collect();
        let done = || ("Success".to_owned(), "NoError");
        assert_eq!(
            codes,
            [done(), (class.to_owned(), code), done()],
            "{more:?}"
        );
        let sent = upstream.seen.lock();
        assert!(
            sent.iter().skip(1).all(|(_, body)| !body.contains(">one<")),
            "one is created once"
        );
    }
}

#[tokio::test]
async fn nothing_is_lost_or_done_twice_when_the_server_breaks_down() {
    let seed = seed();
    let kinds = [
        Fault::ResetBefore,
        Fault::ResetAfter,
        Fault::CutBody,
        Fault::Refused,
        Fault::Page503,
        Fault::WrongXml,
    ];
    let faults = kinds
        .into_iter()
        .fold(Faults::none(), |faults, kind| faults.rate(kind, 0.05));
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .faults(faults)
        .seed(seed)
        .build();
    let server = exchange.serve_on_loopback().await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let gateway = Arc::new(Gateway::start(&url, &["--deadline", "20"]));
    let calls = (0..120).map(|number| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let subject = format!("item {number}");
            let (status, _, body) = call(&gateway, "svc@contoso.com", create(&[&subject])).await;
            let done = status == 200 && body.contains("ResponseClass=\"Success\"");
            let unknown = status == 500 && body.contains("ErrorInternalServerError");
            assert!(done || unknown || status == 503, "{status} {body}");
            (subject, done, unknown)
        })
    });
    let mut unknown = 0;
    for task in calls.collect::<Vec<_>>() {
        let (subject, done, is_unknown) = task.await.unwrap();
        let times = exchange
            .report()
            .created
            .get(&subject)
            .copied()
            .unwrap_or(0);
        // What is neither done nor unknown was not executed.
        let is_told_right = times == u64::from(done) || (is_unknown && times == 1);
        assert!(
            is_told_right,
            "{subject} exists {times} times, done: {done}, unknown: {is_unknown}"
        );
        unknown += usize::from(is_unknown);
    }
    println!("{unknown} of 120 unknown, {:?}", exchange.report().faults);
    assert!(exchange.report().faults.values().sum::<u64>() > 0);
}

#[tokio::test]
async fn a_response_streams() {
    let large = format!(
        "<m:GetFolderResponse><m:ResponseMessages><m:GetFolderResponseMessage ResponseClass=\"Success\"><m:ResponseCode>\
         NoError</m:ResponseCode><m:Folders>{}</m:Folders></m:GetFolderResponseMessage></m:ResponseMessages></m:GetFolderResponse>",
        "<t:Folder/>".repeat(20_000)
    );
    let mut begin = Bytes::from(envelope(&large));
    let (whole, end) = (begin.len(), begin.split_off(begin.len() - 100));
    let go_on = Arc::new(Notify::new());
    let waits = Arc::clone(&go_on);
    let upstream = Upstream::start(move |_, _| {
        let (waits, begin, end) = (Arc::clone(&waits), begin.clone(), end.clone());
        async move {
            let end = async move {
                waits.notified().await;
                Ok::<_, std::io::Error>(end)
            };
            let parts = stream::iter([Ok(begin)]).chain(stream::once(end));
            let mut response = Response::new(Body::from_stream(parts));
            response
                .headers_mut()
                .insert("content-type", "text/xml".parse().unwrap());
            response
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url, &[]);
    let request = Request::post(gateway.url())
        .header("authorization", basic("amy@contoso.com", "secret"))
        .body(Full::<Bytes>::from(get_inbox()));
    let response = http().request(request.unwrap()).await.unwrap();
    let mut body = response.into_body();
    let mut came = 0;
    // The end has not been sent yet.
    while came < whole / 2 {
        came += body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .data_ref()
            .unwrap()
            .len();
    }
    go_on.notify_one();
    came += body.collect().await.unwrap().to_bytes().len();
    assert_eq!(came, whole);
}

#[tokio::test]
async fn one_principal_waits_and_the_others_do_not() {
    let (here, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = Arc::clone(&most);
    let open = Arc::new(AtomicBool::new(false));
    let opened = Arc::clone(&open);
    let upstream = Upstream::start(move |head, _| {
        let (here, most, opened) = (here.clone(), most.clone(), opened.clone());
        async move {
            if user_of(&head) == "amy@contoso.com" {
                most.fetch_max(here.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                while !opened.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                here.fetch_sub(1, Ordering::Relaxed);
            }
            xml(200, "<x/>".to_owned())
        }
    })
    .await;
    let gateway = Arc::new(Gateway::start(&upstream.url, &[]));
    let amys = (0..40).map(|_| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move { call(&gateway, "amy@contoso.com", get_inbox()).await.0 })
    });
    let amys: Vec<_> = amys.collect();
    until("27 calls of one account", async || {
        counts.load(Ordering::Relaxed) == 27
    })
    .await;
    let begun = Instant::now();
    assert_eq!(call(&gateway, "bob@contoso.com", get_inbox()).await.0, 200);
    assert!(begun.elapsed() < Duration::from_secs(5));
    until("the others wait", async || {
        gateway.status().await["queued"] == 13
    })
    .await;
    open.store(true, Ordering::Relaxed);
    for task in amys {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(counts.load(Ordering::Relaxed), 27);
}
