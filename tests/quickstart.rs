//! The quickstart, as a newcomer runs it, with small numbers.
//!
//! Plain `cargo test` builds it; `cargo test --test quickstart` alone does not.

use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tower_ews::simulator::{Exchange, Faults, Policy};

const KEYS: [&str; 12] = [
    "items",
    "created",
    "lost",
    "duplicated",
    "caller_errors",
    "unknown",
    "throttled",
    "calls",
    "parts",
    "resent",
    "peak_in_flight",
    "seconds",
];

const ITEMS: u64 = 480;

/// Small, and fast: five minutes are three seconds. An attempt has a second then, and a call nine: a machine with much else to
/// do needs them.
const SMALL: [&str; 6] = ["--items", "480", "--mailboxes", "24", "--speed", "100"];

fn quickstart() -> Command {
    let test = std::env::current_exe().expect("the test is a file");
    let built = test.ancestors().nth(2).map(|profile| {
        profile
            .join("examples/quickstart")
            .with_extension(std::env::consts::EXE_EXTENSION)
    });
    let built = built.filter(|file| file.exists());
    let mut command = Command::new(
        built.unwrap_or_else(|| panic!("run `cargo build --example quickstart` first")),
    );
    for name in [
        "EWS_USER",
        "EWS_PASSWORD",
        "EWS_TOKEN",
        "EWS_MAILBOXES",
        "EWS_CA_FILE",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The two runs of the one line on stdout, which has these keys and no others.
fn results(output: &Output) -> (Value, Value) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(out.lines().count(), 1, "{out:?} {err:?}");
    let mut line: Value = serde_json::from_str(&out).expect("one line of JSON");
    let (bare, stack) = (line["bare"].take(), line["stack"].take());
    for run in [&bare, &stack] {
        let Value::Object(run) = run else { continue };
        assert!(KEYS.iter().all(|key| run[*key].is_number()), "{run:?}");
        assert_eq!(run.len(), KEYS.len());
    }
    (bare, stack)
}

fn number(run: &Value, key: &str) -> u64 {
    run[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} is no count: {run}"))
}

fn simulated(more: &[&str]) -> (Value, Value) {
    let output = quickstart()
        .args(SMALL)
        .arg("--json")
        .args(more)
        .output()
        .expect("the quickstart starts");
    let (bare, stack) = results(&output);
    assert!(output.status.success(), "{more:?}: {bare} {stack}");
    assert!(
        number(&bare, "caller_errors") >= ITEMS / 10,
        "{more:?}: the server has to hold a bare client back: {bare}"
    );
    assert_eq!(number(&stack, "lost"), 0, "{more:?}: {stack}");
    assert_eq!(number(&stack, "duplicated"), 0, "{more:?}: {stack}");
    assert_eq!(
        number(&stack, "caller_errors"),
        number(&stack, "unknown"),
        "{more:?}: {stack}"
    );
    (bare, stack)
}

fn nothing_fails(access: &str, peak: u64) {
    let (bare, stack) = simulated(&["--access", access, "--batch", "1"]);
    assert_eq!(number(&bare, "calls"), ITEMS, "{bare}");
    assert_eq!(number(&stack, "parts"), 0, "nothing is cut: {stack}");
    assert_eq!(
        number(&bare, "created") + number(&bare, "caller_errors"),
        ITEMS
    );
    for (key, expected) in [("items", ITEMS), ("created", ITEMS), ("caller_errors", 0)] {
        assert_eq!(number(&stack, key), expected, "{access} {key}: {stack}");
    }
    assert_eq!(
        number(&stack, "calls"),
        ITEMS + number(&stack, "throttled"),
        "{access}: every call but the throttled ones creates: {stack}"
    );
    assert!(
        (1..=peak).contains(&number(&stack, "peak_in_flight")),
        "{access}: {stack}"
    );
}

#[test]
fn delegate_access_just_finishes() {
    nothing_fails("delegate", 27);
}

#[test]
fn impersonation_just_finishes() {
    // A hundred connections over twenty-four mailboxes.
    nothing_fails("impersonation", 4);
}

#[test]
fn batches_just_finish() {
    for access in ["delegate", "impersonation"] {
        // Twenty events in each mailbox are three calls, none of them larger than a part.
        let (bare, stack) = simulated(&["--access", access, "--batch", "8"]);
        assert_eq!(number(&bare, "calls"), 24 * 3, "{bare}");
        for (key, expected) in [("created", ITEMS), ("caller_errors", 0)] {
            assert_eq!(number(&stack, key), expected, "{access} {key}: {stack}");
        }
        assert!(number(&stack, "parts") >= 24 * 3, "{access}: {stack}");
        // The budget of a mailbox ends in the middle of a batch; the account's may.
        let resent = number(&stack, "resent");
        assert!(resent > 0 || access == "delegate", "{access}: {stack}");
    }
}

#[test]
fn faults_in_batches_lose_nothing_and_double_nothing() {
    for (seed, access) in [("4", "delegate"), ("5", "impersonation")] {
        let more = [
            "--faults", "--batch", "4", "--seed", seed, "--access", access,
        ];
        let (_, stack) = simulated(&more);
        let (created, unknown) = (number(&stack, "created"), number(&stack, "unknown"));
        assert!(created + unknown >= ITEMS, "seed {seed}: {stack}");
    }
}

#[test]
fn faults_lose_nothing_and_double_nothing() {
    for (seed, access) in [("1", "delegate"), ("2", "impersonation"), ("3", "delegate")] {
        let more = [
            "--faults", "--batch", "1", "--seed", seed, "--access", access,
        ];
        let (_, stack) = simulated(&more);
        let (created, unknown) = (number(&stack, "created"), number(&stack, "unknown"));
        assert!(unknown > 0, "seed {seed} breaks nothing: {stack}");
        assert!(created + unknown >= ITEMS, "seed {seed}: {stack}");
    }
}

#[test]
fn without_json_it_prints_a_table() {
    let output = quickstart()
        .args(["--items", "48", "--speed", "600"])
        .output()
        .expect("the quickstart starts");
    let table = text(&output.stdout);
    for title in [
        "600 times faster",
        "bare",
        "EwsStack",
        "items asked",
        "throttled responses",
    ] {
        assert!(table.contains(title), "{title}: {table}");
    }
    // Neither stream is a terminal.
    assert_eq!(text(&output.stderr), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_server_will_do() {
    let mailboxes: Vec<String> = (0..20).map(|n| format!("user{n}@contoso.com")).collect();
    let exchange = Exchange::builder()
        .policy(Policy::exchange_online())
        .speed(100.0)
        .mailboxes(&mailboxes)
        .build();
    let server = exchange.serve_on_loopback().await.expect("a free port");
    let run = |url: &str, variables: &[(&str, &str)]| {
        let mut command = quickstart();
        command.args(["--url", url, "--items", "300", "--batch", "1"]);
        command.args(["--speed", "100", "--json"]);
        command.envs(variables.iter().copied());
        command.env("EWS_MAILBOXES", mailboxes.join(", "));
        tokio::task::spawn_blocking(move || command.output().expect("the quickstart starts"))
    };

    let good = [("EWS_USER", "svc@contoso.com"), ("EWS_PASSWORD", "secret")];
    let output = run(&server.url(), &good).await.unwrap();
    let (bare, stack) = results(&output);
    assert!(output.status.success(), "{stack} {}", text(&output.stderr));
    assert!(bare.is_null(), "{bare}");
    for (key, expected) in [
        ("items", 300),
        ("created", 300),
        ("lost", 0),
        ("duplicated", 0),
        ("caller_errors", 0),
    ] {
        assert_eq!(number(&stack, key), expected, "{key}: {stack}");
    }
    let report = exchange.report();
    assert_eq!(report.items_created, 300);
    assert_eq!(report.executed["FindItem"], 20);
    // One call looks first, and one for each mailbox counts.
    let (calls, throttled) = (number(&stack, "calls"), number(&stack, "throttled"));
    assert_eq!(calls + 21, report.calls);
    assert_eq!(throttled, report.throttled_total());
    // The client counts a call from before it is sent until after its response.
    let peak = u64::from(report.peak());
    assert!(
        (peak..=27).contains(&number(&stack, "peak_in_flight")),
        "{peak}: {stack}"
    );

    let output = run(&server.url(), &[("EWS_TOKEN", "wrong")]).await.unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("401"), "{told}");
    assert!(!told.contains("wrong"), "the token is a secret: {told}");

    let gone = server.url();
    drop(server);
    let output = run(&gone, &good).await.unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot be reached"), "{told}");
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_down_is_counted_all_the_same() {
    let exchange = Exchange::builder()
        .policy(Policy::exchange_online())
        .speed(100.0)
        .faults(Faults::mixed(0.1))
        .seed(4)
        .build();
    let server = exchange.serve_on_loopback().await.expect("a free port");
    let mut command = quickstart();
    command.args(["--url", &server.url(), "--items", "200", "--speed", "100"]);
    command.args(["--batch", "1"]);
    command.args(["--access", "impersonation", "--json"]);
    command.args(["--mailbox", "a@contoso.com", "--mailbox", "b@contoso.com"]);
    command.envs([("EWS_TOKEN", "secret")]);
    let running = tokio::task::spawn_blocking(move || command.output().expect("it starts"));
    let output = running.await.unwrap();
    let (_, stack) = results(&output);
    assert!(output.status.success(), "{stack} {}", text(&output.stderr));
    let unknown = number(&stack, "unknown");
    assert!(unknown > 0, "nothing breaks: {stack}");
    assert_eq!(number(&stack, "caller_errors"), unknown, "{stack}");
    assert_eq!(
        number(&stack, "created"),
        exchange.report().existing.len() as u64
    );
}

#[test]
fn wrong_arguments_are_explained() {
    for (arguments, told) in [
        (&["--itmes", "3"][..], "--itmes"),
        (&["--items"], "needs a value"),
        (&["--items", "many"], "\"many\""),
        (&["--items=0"], "between"),
        (&["--batch=0"], "between"),
        (&["--access", "owner"], "delegate or impersonation"),
        (&["--policy", "exchange_95"], "exchange_online"),
        (&["--speed", "NaN"], "between"),
        (&["--json=yes"], "takes no value"),
        (&["--mailbox", "a@contoso.com"], "--url"),
        (&["--url", "ftp://contoso.com"], "neither http nor https"),
        (&["--url", "https://contoso.com/", "--faults"], "--faults"),
        (
            &[
                "--url=https://contoso.com/",
                "--mailbox=a@contoso.com",
                "--mailboxes=2",
            ],
            "only 1",
        ),
        (
            &[
                "--url",
                "https://contoso.com/",
                "--mailbox",
                "a@contoso.com",
            ],
            "EWS_PASSWORD",
        ),
    ] {
        let output = quickstart().args(arguments).output().expect("it starts");
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(told), "{arguments:?}: {err}");
        assert!(err.contains("usage:"), "{arguments:?}: {err}");
        assert!(output.stdout.is_empty());
    }
    let help = quickstart().arg("--help").output().expect("it starts");
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("--access KIND"));
}
