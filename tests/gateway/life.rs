//! From start to end: policies, certificates, shutdown.

use std::fs::OpenOptions;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::harness::*;

/// A server whose calls end when a permit is added.
async fn held() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let upstream = Upstream::start(move |_, _| {
        let waits = Arc::clone(&waits);
        async move {
            waits.acquire().await.unwrap().forget();
            xml(200, "<x/>".to_owned())
        }
    });
    (upstream.await, gate)
}

#[tokio::test]
async fn output_that_nobody_takes_does_not_end_a_gateway() {
    let upstream = Upstream::start(|_, _| async { xml(200, "<x/>".to_owned()) }).await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    // Each write to it fails, as to a pipe whose reader has gone.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = Gateway::command(&upstream.url, address.port())
        .stdout(full)
        .spawn()
        .unwrap();
    let gateway = Gateway { child, address };
    until("the gateway", async || {
        TcpStream::connect(address).await.is_ok()
    })
    .await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
}

#[tokio::test]
async fn a_gateway_that_is_told_to_end_finishes_what_was_sent() {
    let (upstream, gate) = held().await;
    // The first response makes the credential a known one.
    gate.add_permits(1);
    let gateway = Gateway::start(&upstream.url, &[]);
    assert_eq!(call(&gateway, "amy@contoso.com", get_inbox()).await.0, 200);
    let address = gateway.address;
    let watcher = Request::get(format!("http://{address}/events")).body(Empty::<Bytes>::new());
    let watcher = Client::builder(TokioExecutor::new())
        .build_http()
        .request(watcher.unwrap())
        .await
        .unwrap();
    let gateway = Arc::new(gateway);
    let calls = (0..5).map(|number| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            call(&gateway, "amy@contoso.com", create(&[&number.to_string()]))
                .await
                .0
        })
    });
    let calls: Vec<_> = calls.collect();
    until("five calls at the server", async || upstream.calls() == 6).await;
    gateway.signal("TERM");
    until("nobody else is let in", async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    gate.add_permits(5);
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    // Whoever watches does not keep it alive.
    drop(watcher.into_body().collect().await);
    let gateway = Arc::into_inner(gateway).expect("no call has it any more");
    assert!(gateway.ended().await.success());
    assert_eq!(upstream.calls(), 6);
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_after_the_drain() {
    let (upstream, _gate) = held().await;
    let gateway = Gateway::start(&upstream.url, &["--drain", "0.3"]);
    let url = gateway.url();
    let stuck = tokio::spawn(async move {
        let request =
            Request::post(url).header("authorization", basic("amy@contoso.com", "secret"));
        let request = request
            .body(http_body_util::Full::<Bytes>::from(get_inbox()))
            .unwrap();
        http().request(request).await.is_err()
    });
    until("a call at the server", async || upstream.calls() == 1).await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(1));
    assert!(stuck.await.unwrap());
}

#[tokio::test]
async fn a_new_policy_counts_for_calls_that_come_later() {
    const ONE: &str = "name = 'one'\nbudgets = [{budget='Concurrency', limit={InFlight=1}, payer='Effective', rule='Calls'}]\n";
    let (upstream, gate) = held().await;
    let policy = Scratch::new("policy.toml", ONE.as_bytes());
    let gateway = Arc::new(Gateway::start(&upstream.url, &["--policy", policy.path()]));
    let begin = |count: usize| -> Vec<_> {
        let calls = (0..count).map(|_| {
            let gateway = Arc::clone(&gateway);
            tokio::spawn(async move { call(&gateway, "amy@contoso.com", get_inbox()).await.0 })
        });
        calls.collect()
    };
    gate.add_permits(1);
    assert_eq!(begin(1).remove(0).await.unwrap(), 200);
    let named = |name: &'static str| {
        let gateway = Arc::clone(&gateway);
        async move { gateway.status().await["policy"] == name }
    };
    assert!(named("one").await);
    let first = begin(4);
    until("three wait", async || gateway.status().await["queued"] == 3).await;
    assert_eq!(upstream.calls(), 2);

    // One that cannot be read changes nothing.
    policy.write("name = 'broken'\nbudgets = 7\n");
    gateway.signal("HUP");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(named("one").await);

    policy.write(&ONE.replace("'one'", "'three'").replace("=1}", "=3}"));
    gateway.signal("HUP");
    until("the new policy", async || named("three").await).await;
    let later = begin(4);
    until("three more", async || upstream.calls() == 5).await;
    gate.add_permits(100);
    for task in first.into_iter().chain(later) {
        assert_eq!(task.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn over_tls_and_http_2() {
    let (certificate, key) = (
        include_bytes!("../http_client/certificate.der"),
        include_bytes!("../http_client/key.der"),
    );
    let pem = |label: &str, der: &[u8]| {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    };
    let certificates = Scratch::new(
        "certificate.pem",
        pem("CERTIFICATE", certificate).as_bytes(),
    );
    let private = Scratch::new("key.pem", pem("PRIVATE KEY", key).as_bytes());
    let upstream = Upstream::start(|_, _| async { xml(200, "<x/>".to_owned()) }).await;
    let tls = [
        "--tls-cert",
        certificates.path(),
        "--tls-key",
        private.path(),
    ];
    let gateway = Gateway::start(&upstream.url, &tls);

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(certificate.to_vec()))
        .unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap();
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.with_root_certificates(roots).with_no_client_auth())
        .https_only()
        .enable_all_versions()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let url = format!(
        "https://localhost:{}/EWS/Exchange.asmx",
        gateway.address.port()
    );
    for _ in 0..2 {
        let request = Request::post(&url)
            .header("authorization", basic("amy@contoso.com", "secret"))
            .body(http_body_util::Full::<Bytes>::from(get_inbox()));
        let response = client.request(request.unwrap()).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.version()),
            (200, Version::HTTP_2)
        );
        gateway.signal("HUP");
    }
    let (head, _) = &upstream.seen.lock()[1];
    assert!(
        upstream
            .url
            .ends_with(head.headers["host"].to_str().unwrap())
    );
}
