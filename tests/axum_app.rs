//! The example `axum_app` as a process, over real sockets.
//!
//! `cargo test` builds it; `cargo test --test axum_app` alone does not.

#[path = "gateway/browser.rs"]
mod browser;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use self::browser::Browser;
use tower_ews::simulator::{DEFAULT_ACCOUNT, Exchange, Payer, Policy, Server};

struct App {
    process: Child,
    address: String,
    exchange: Exchange,
    _server: Server,
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl App {
    async fn start(policy: Policy) -> Self {
        let exchange = Exchange::builder().policy(policy).build();
        let server = exchange.serve_on_loopback().await.unwrap();
        let test = std::env::current_exe().unwrap();
        let built = test.ancestors().nth(2).unwrap().join("examples/axum_app");
        assert!(built.exists(), "run `cargo build --example axum_app` first");
        let mut process = Command::new(built)
            .args(["--url", &server.url(), "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line.trim().trim_start_matches("http://").trim_matches('/');
        Self {
            address: address.to_owned(),
            process,
            exchange,
            _server: server,
        }
    }

    /// Sends a request without waiting for its response.
    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let timeout = Some(Duration::from_secs(60));
        socket.set_read_timeout(timeout).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        socket
    }

    /// Sends a request and reads its whole response, in a thread: the simulator runs in this one's runtime.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let socket = self.send(method, path, headers, body);
        tokio::task::spawn_blocking(move || response(socket))
            .await
            .unwrap()
    }

    async fn book(&self, subject: &str, headers: &str) -> String {
        self.ask("POST", "/events", headers, &booking(subject))
            .await
    }
}

fn response(mut socket: TcpStream) -> String {
    let mut response = String::new();
    socket.read_to_string(&mut response).unwrap();
    response
}

fn booking(subject: &str) -> String {
    let (start, end) = ("2030-01-07T09:00:00Z", "2030-01-07T09:30:00Z");
    serde_json::json!({"mailbox": "amy@contoso.com", "subject": subject, "start": start, "end": end})
        .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_booked_is_there() {
    let app = App::start(Policy::unlimited()).await;
    let page = app.ask("GET", "/", "", "").await;
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("<h1>Booking</h1>"),
        "{page}"
    );
    let id = "x-request-id: 2f1b7c1e-0000-4000-8000-000000000001\r\n";
    let booked = app.book("Fish & chips", id).await;
    assert!(booked.starts_with("HTTP/1.1 201"), "{booked}");
    let events = app.ask("GET", "/events/amy@contoso.com", "", "").await;
    assert!(events.ends_with(r#"["Fish & chips"]"#), "{events}");
    let calls = app.exchange.calls();
    let ids = calls
        .iter()
        .filter_map(|call| call.client_request_id.as_deref());
    let carried = ids.filter(|id| *id == "2f1b7c1e-0000-4000-8000-000000000001");
    assert_eq!(carried.count(), 1, "{calls:?}");

    let audited = app
        .ask("POST", "/admin/audit/amy@contoso.com", "", "")
        .await;
    assert!(audited.starts_with("HTTP/1.1 204"), "{audited}");
    let metrics = app.ask("GET", "/metrics", "", "").await;
    for line in [
        "ews_calls_total{operation=\"CreateItem\",outcome=\"ok\"} 1",
        "ews_calls_queued 0",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    let bad = app.ask("POST", "/events", "", "{}").await;
    assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_exchange_is_a_503_that_says_for_how_long() {
    let app = App::start(Policy::exchange_online()).await;
    let payer = Payer::Account(DEFAULT_ACCOUNT.to_owned());
    app.exchange.lock_out(&payer, Duration::from_secs(300));
    let begun = Instant::now();
    for _ in 0..3 {
        let refused = app.book("later", "").await;
        assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
        let wait = refused
            .lines()
            .find_map(|line| line.strip_prefix("retry-after: "));
        let wait: u64 = wait.unwrap().parse().unwrap();
        assert!((200..=310).contains(&wait), "{wait}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "handlers waited");
    // What is known to be busy is not asked.
    assert_eq!(app.exchange.report().calls, 1);
    assert_eq!(app.exchange.report().items_created, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told() {
    // The simulator tells events with each heartbeat.
    let policy = Policy::unlimited().with(|policy| policy.heartbeat = Duration::from_secs(1));
    let app = App::start(policy).await;
    let socket = app.send("GET", "/changes/amy@contoso.com", "", "");
    let exchange = app.exchange.clone();
    let told = tokio::task::spawn_blocking(move || {
        let lines = BufReader::new(socket).lines().map_while(Result::ok);
        let mut changes = lines.filter(|line| line == "data: changed");
        // What came before the subscription is a gap.
        let first = changes.next();
        exchange.deliver("amy@contoso.com", "news");
        (first, changes.next())
    });
    let (gap, change) = told.await.unwrap();
    assert!(gap.is_some() && change.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_is_finished_when_it_is_told_to_end() {
    let slow = Policy::unlimited().with(|policy| policy.member_time = Duration::from_secs(2));
    let mut app = App::start(slow).await;
    let socket = app.send("POST", "/events", "", &booking("the last one"));
    let watching = app.send("GET", "/changes/amy@contoso.com", "", "");
    while app.exchange.report().calls == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let process = app.process.id().to_string();
    let told = Command::new("kill").args(["-TERM", &process]).status();
    assert!(told.unwrap().success());
    let booked = tokio::task::spawn_blocking(move || (response(socket), watching));
    let (booked, _watching) = booked.await.unwrap();
    assert!(booked.starts_with("HTTP/1.1 201"), "{booked}");
    let ended = tokio::task::spawn_blocking(move || (app.process.wait(), app));
    let (status, app) = ended.await.unwrap();
    assert!(status.unwrap().success());
    assert_eq!(app.exchange.report().created["the last one"], 1);
}

/// Somebody books on the page, is told that Exchange is busy, and sees what others book.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_books() {
    let Some(mut browser) = Browser::start() else {
        println!("skipped: there is no chromium");
        return;
    };
    let policy = Policy::unlimited().with(|policy| policy.heartbeat = Duration::from_secs(1));
    let app = App::start(policy).await;
    browser.open(&format!("http://{}/", app.address));
    let events = "document.getElementById('events').innerText";
    browser.until(&book_on_page("Stand-up"), |text| text.contains("booked"));
    app.book("Elsewhere", "").await;
    browser.until(events, |text| {
        text.contains("Stand-up") && text.contains("Elsewhere")
    });
    let payer = Payer::Account(DEFAULT_ACCOUNT.to_owned());
    app.exchange.lock_out(&payer, Duration::from_secs(30));
    browser.until(&book_on_page("Too soon"), |text| {
        text.contains("Exchange is busy. Try again in ")
    });
    assert_eq!(app.exchange.report().items_created, 2);
}

/// Books once, however often it runs, and returns what the page shows.
fn book_on_page(subject: &str) -> String {
    format!(
        "(() => {{ const form = document.getElementById('book'); if (form.subject.value != '{subject}') \
         {{ form.subject.value = '{subject}'; form.requestSubmit(); }} return document.body.innerText; }})()"
    )
}
