//! Real EWS clients through the gateway, and its page in a real browser, where they are installed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tower_ews::simulator::{Exchange, Fault, Faults, Policy, Report};

use crate::browser::Browser;
use crate::harness::*;

const ITEMS: usize = 50;

/// An EWS client as it comes from its registry, with a script that uses it.
struct Client {
    program: String,
    script: &'static str,
}

impl Client {
    /// `variable` names the program that runs the script.
    fn installed(variable: &str, script: &'static str) -> Option<Self> {
        match std::env::var(variable) {
            Ok(program) => Some(Self { program, script }),
            Err(_) => {
                println!("skipped: {variable} names no program, see tests/README.md");
                None
            }
        }
    }

    /// Runs its job against a server, through the gateway or without it.
    async fn job(&self, faults: Faults, through_gateway: bool) -> Job {
        self.job_with(faults, through_gateway, &[]).await
    }

    async fn job_with(&self, faults: Faults, through_gateway: bool, more: &[&str]) -> Job {
        let exchange = Exchange::builder().policy(Policy::exchange_online());
        let exchange = exchange.speed(60.0).faults(faults).seed(3).build();
        let server = exchange.serve_on_loopback().await.unwrap();
        let upstream = format!("http://{}", server.local_addr());
        let gateway = through_gateway.then(|| Gateway::start(&upstream, more));
        let url = gateway.as_ref().map_or(server.url(), Gateway::url);
        let mut command = Command::new(&self.program);
        command
            .arg(
                PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/gateway")
                    .join(self.script),
            )
            .args([&url, "svc@contoso.com", "secret", &ITEMS.to_string()])
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap();
        let output = output.expect("the client runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text
            .lines()
            .last()
            .and_then(|line| serde_json::from_str(line).ok());
        let job = Job {
            told: told
                .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))),
            report: exchange.report(),
        };
        let way = if through_gateway {
            "through the gateway"
        } else {
            "without it"
        };
        println!(
            "{} {way}: {}, {} doubled",
            self.script,
            job.told,
            job.doubled()
        );
        job
    }
}

/// What a client was told, and what the server has.
struct Job {
    told: Value,
    report: Report,
}

impl Job {
    fn is_done(&self) -> bool {
        let all = |key: &str| self.told[key] == ITEMS;
        all("created") && all("read") && self.told["errors"] == Value::Array(Vec::new())
    }

    /// How many items exist more than once.
    fn doubled(&self) -> usize {
        self.report
            .created
            .values()
            .filter(|times| **times > 1)
            .count()
    }
}

/// Some members of about half of the batches are throttled.
fn busy_members() -> Faults {
    let fault = Fault::ThrottledMembers {
        share: 0.3,
        back_off: Some(Duration::from_millis(100)),
    };
    Faults::none().rate_on("CreateItem", fault, 0.6)
}

/// About half of the calls are refused as a whole.
fn busy_calls() -> Faults {
    let fault = Fault::ServerBusyMessages {
        back_off: Some(Duration::from_millis(100)),
    };
    Faults::none().rate(fault, 0.5)
}

/// The server asks for more time than a call has.
fn long_pause() -> Faults {
    let fault = Fault::ServerBusy {
        back_off: Some(Duration::from_secs(3)),
    };
    Faults::none().rate_on("CreateItem", fault, 0.6)
}

/// The response to the first batch is lost.
fn lost_response() -> Faults {
    Faults::none().rate_on("CreateItem", Fault::ResetAfter, 0.6)
}

#[tokio::test]
async fn exchangelib_does_its_job() {
    let Some(client) = Client::installed("EWS_EXCHANGELIB_PYTHON", "exchangelib_job.py") else {
        return;
    };
    let job = client.job(busy_members(), true).await;
    assert!(job.is_done() && job.doubled() == 0);
    let job = client.job(busy_calls(), true).await;
    assert!(job.is_done() && job.doubled() == 0);
    // It is told when to come back, and does.
    let job = client
        .job_with(long_pause(), true, &["--deadline", "1"])
        .await;
    assert!(job.is_done() && job.doubled() == 0);
    // Nobody knows whether it was executed, and exchangelib is told so instead of sending it again.
    let job = client.job(lost_response(), true).await;
    assert!(
        job.told["errors"]
            .to_string()
            .contains("ErrorInternalServerError")
    );
    assert_eq!(job.doubled(), 0);

    assert!(client.job(busy_members(), false).await.doubled() > 0);
}

#[tokio::test]
async fn ews_javascript_api_does_its_job() {
    let Some(client) = Client::installed("EWS_JAVASCRIPT_NODE", "ews_javascript_job.js") else {
        return;
    };
    let job = client.job(busy_members(), true).await;
    assert!(job.is_done() && job.doubled() == 0);
    let job = client.job(busy_calls(), true).await;
    assert!(job.is_done() && job.doubled() == 0);
    assert!(!client.job(busy_members(), false).await.is_done());
}

#[tokio::test]
async fn davmail_does_its_job() {
    let Some(client) = Client::installed("EWS_DAVMAIL_PYTHON", "davmail_job.py") else {
        return;
    };
    let job = client.job(busy_calls(), true).await;
    assert_eq!(
        (&job.told["created"], job.report.items_created),
        (&ITEMS.into(), ITEMS as u64)
    );
    let job = client.job(busy_calls(), false).await;
    assert_ne!(job.told["created"], ITEMS);
}

/// A principal is seen being held back, and released.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_who_is_held_back() {
    let Some(mut browser) = Browser::start() else {
        println!("skipped: there is no chromium");
        return;
    };
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .account("amy@contoso.com", "secret")
        .build();
    let server = exchange.serve_on_loopback().await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", server.local_addr()), &[]);
    browser.open(&format!("http://{}/", gateway.address));
    browser.until("document.body.innerText", |text| {
        text.contains("live,") && text.contains("Nobody calls.")
    });

    exchange.inject(Fault::ServerBusy {
        back_off: Some(Duration::from_secs(4)),
    });
    let gateway = Arc::new(gateway);
    let calls = Arc::clone(&gateway);
    let call = tokio::spawn(async move { call(&calls, "amy@contoso.com", get_inbox()).await.0 });
    browser.until("document.querySelector('#principals').innerText", |text| {
        text.contains("amy@contoso.com") && text.contains("held back until")
    });
    browser.until("document.querySelector('#running').innerText", |text| {
        text.contains("GetFolder")
    });
    browser.until("document.body.innerText", |text| {
        !text.contains("held back until") && text.contains("Nothing.")
    });
    browser.until("document.querySelector('#signals').innerText", |text| {
        text.contains("ErrorServerBusy")
    });
    assert_eq!(call.await.unwrap(), 200);
}
