//! Two identities at once, against a server that checks what NTLM sends.

use std::collections::HashMap;

use http::StatusCode;
use tower::ServiceExt;
use tower_ews::audit_log::MemorySink;
use tower_ews::server_busy_backoff::Failure;
use tower_ews_ntlm::job;

const CALLS: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_parallel_calls_of_two_identities() {
    let server = job::server().await.unwrap();
    let records = job::run(&server, CALLS).await.unwrap();
    let report = server.report();
    println!("{report:?}");

    // Each call came as whom it meant to, once, and its caller saw no 401.
    assert_eq!(report.mixed, 0);
    for account in job::accounts().keys() {
        assert_eq!(report.calls[account], CALLS / 2, "{account}");
    }
    let created = server.exchange().report().created;
    assert!((created.len(), created.values().sum()) == (CALLS, CALLS as u64));

    // All legs of a login were made within one attempt, under its permit and with its id.
    assert_eq!(records.len(), CALLS);
    assert!(records.iter().all(|record| record.attempts.len() == 1));
    assert_eq!((report.other_ids, report.full_first_legs), (0, 0));
    assert!(report.peak <= 2 * 27, "{} at the same time", report.peak);

    // Each challenge ended in a login, and nothing was sent over a connection that was nobody's.
    assert_eq!((report.challenges, report.refused), (report.logins, 0));
    assert_eq!(report.strays, 0);
    // Logins were forgotten, and connections closed.
    assert!(report.logins > report.connections && report.connections > 2 * 27);
}

/// A second wrong login could be the one that locks the account.
#[tokio::test]
async fn a_wrong_password_is_sent_once() {
    let server = job::server().await.unwrap();
    let account = "contoso\\svc-a";
    let wrong = HashMap::from([(account.to_owned(), "wrong".to_owned())]);
    let stack = job::stack(&server, wrong, MemorySink::new());
    let call = |n| stack.clone().oneshot(job::create(&server, account, n));

    assert_eq!(call(0).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let error = call(1).await.unwrap_err();
    assert_eq!(Failure::of(&*error), Failure::NotSent, "{error}");
    let report = server.report();
    assert_eq!(
        (report.challenges, report.refused, report.logins),
        (1, 1, 0)
    );
}
