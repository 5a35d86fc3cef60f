//! Batches that run out of time, stop, or come back in part.

use super::*;

const A: &str = "a@contoso.com";

/// Members of ten seconds each, and nothing else that takes time or is limited.
fn slow() -> Policy {
    Policy::unlimited().with(|policy| {
        policy.member_time = Duration::from_secs(10);
        policy.batch_limit = Some(Duration::from_secs(60));
    })
}

fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("s{n}")).collect()
}

fn create_all(mailbox: &str, subjects: &[String]) -> String {
    let subjects: Vec<&str> = subjects.iter().map(String::as_str).collect();
    create(mailbox, &subjects)
}

/// The stretches of equal codes in a response.
fn stretches(text: &str) -> Vec<(&str, usize)> {
    let mut found: Vec<(&str, usize)> = Vec::new();
    for code in codes(text) {
        match found.last_mut() {
            Some((last, count)) if *last == code => *count += 1,
            _ => found.push((code, 1)),
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_one_minute() {
    for speed in [1.0, 10.0] {
        let exchange = Exchange::builder().policy(slow()).speed(speed).build();
        let started = Instant::now();
        // Six members take the whole minute, which is none too much.
        let (_, text) = ask(&exchange, "", &create_all(A, &subjects(6))).await;
        assert_eq!(stretches(&text), [("NoError", 6)]);
        assert_eq!(exchange.report().cut_batches, 0);
        assert_eq!(started.elapsed(), Duration::from_secs(60).div_f64(speed));
        exchange.reset_report();

        let started = Instant::now();
        let (status, text) = ask(&exchange, "", &create_all(A, &subjects(9))).await;
        assert_eq!(status, 200);
        assert_eq!(
            stretches(&text),
            [("NoError", 6), ("ErrorTimeoutExpired", 3)]
        );
        assert_eq!(started.elapsed(), Duration::from_secs(60).div_f64(speed));
        // The member that ran when the time was up is done, though nobody is told.
        let report = exchange.report();
        assert_eq!((report.cut_batches, report.items_created), (1, 7));
        assert_eq!(report.executed["CreateItem"], 7);
        assert_eq!(
            report.not_done("CreateItem", subjects(9)),
            subjects(9)[7..].to_vec()
        );
        let call = exchange.calls().pop().unwrap();
        assert_eq!(
            (call.members, call.executed, call.outcome.as_str()),
            (9, 7, "batch_limit")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_member_may_take_any_time() {
    let policy = slow().with(|policy| {
        policy
            .member_times
            .insert("CreateItem".to_owned(), Duration::from_secs(100));
    });
    let exchange = Exchange::builder().policy(policy).build();
    let (_, text) = ask(&exchange, "", &create(A, &["x"])).await;
    assert_eq!(codes(&text), ["NoError"]);
    let (_, text) = ask(&exchange, "", &create(A, &["y", "z"])).await;
    assert_eq!(codes(&text), ["ErrorTimeoutExpired"; 2]);
    // The other operations keep their time.
    let started = Instant::now();
    ask(&exchange, "", &get_folder(A)).await;
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    assert_eq!(exchange.report().created["y"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_batch_comes_back_as_configured() {
    for cut in [
        BatchCut::AllTimedOut,
        BatchCut::Fault,
        BatchCut::ConnectionLost,
    ] {
        let policy = slow().with(|policy| policy.batch_cut = cut);
        let exchange = Exchange::builder().policy(policy).build();
        let response = send(&exchange, envelope("", &create_all(A, &subjects(8)))).await;
        match (cut, response) {
            (BatchCut::ConnectionLost, Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert!(!error.nothing_sent());
                assert_eq!(exchange.calls()[0].status, None);
            }
            (BatchCut::AllTimedOut, Ok(response)) => {
                let text = text_of(response).await;
                assert_eq!(stretches(&text), [("ErrorTimeoutExpired", 8)]);
            }
            (BatchCut::Fault, Ok(response)) => {
                assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
                let text = text_of(response).await;
                assert_eq!(stretches(&text), [("ErrorTimeoutExpired", 1)]);
            }
            (cut, response) => panic!("{cut:?}: {response:?}"),
        }
        let report = exchange.report();
        assert_eq!(
            (report.cut_batches, report.items_created),
            (1, 7),
            "{cut:?}"
        );
        assert_eq!(
            exchange.in_flight(&Payer::Account(DEFAULT_ACCOUNT.to_owned())),
            0
        );
    }
}

#[tokio::test(start_paused = true)]
async fn slow_members_on_demand() {
    let policy = slow().with(|policy| policy.member_time = Duration::ZERO);
    let exchange = Exchange::builder().policy(policy).build();
    exchange.inject(Fault::SlowMembers {
        time: Duration::from_secs(25),
    });
    let (_, text) = ask(&exchange, "", &create_all(A, &subjects(4))).await;
    assert_eq!(
        stretches(&text),
        [("NoError", 2), ("ErrorTimeoutExpired", 2)]
    );
    let (_, text) = ask(&exchange, "", &create_all(A, &subjects(40))).await;
    assert_eq!(stretches(&text), [("NoError", 40)]);
    let report = exchange.report();
    assert_eq!(report.faults["slow_members"], 1);
    // The third member of the first call was done, so that it is there twice now, and the fourth
    // was not.
    assert_eq!(
        report.done_twice("CreateItem"),
        [("s0", 2), ("s1", 2), ("s2", 2)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_member_stops_the_batch() {
    let exchange = quick();
    exchange.inject(Fault::MemberCode {
        member: 1,
        code: "ErrorQuotaExceeded".to_owned(),
    });
    let (status, text) = ask(&exchange, "", &create_all(A, &subjects(4))).await;
    assert_eq!(status, 200);
    assert_eq!(
        stretches(&text),
        [
            ("NoError", 1),
            ("ErrorQuotaExceeded", 1),
            ("ErrorBatchProcessingStopped", 2)
        ]
    );
    assert_eq!(text.matches("ResponseClass=\"Warning\"").count(), 2);
    let report = exchange.report();
    assert_eq!((report.stopped_members, report.items_created), (2, 1));

    // Another code does not.
    exchange.inject(Fault::MemberCode {
        member: 1,
        code: "ErrorItemSave".to_owned(),
    });
    let (_, text) = ask(&exchange, "", &create_all(A, &subjects(4))).await;
    assert_eq!(
        codes(&text),
        ["NoError", "ErrorItemSave", "NoError", "NoError"]
    );
    // A call without such a member has no fault.
    exchange.inject(Fault::MemberCode {
        member: 1,
        code: "ErrorItemSave".to_owned(),
    });
    ask(&exchange, "", &create(A, &["x"])).await;
    let report = exchange.report();
    assert_eq!(
        (report.stopped_members, report.faults["member_code"]),
        (2, 2)
    );
    assert_eq!(exchange.calls().last().unwrap().outcome, "executed");
}

#[tokio::test(start_paused = true)]
async fn access_denied_stops_what_comes_after() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .with_account(
            Account::new("svc@contoso.com")
                .password("secret")
                .delegate_for([A]),
        )
        .build();
    let folders = [A, "b@contoso.com", A].map(|mailbox| folder("inbox", mailbox));
    let body = format!(
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>\
         <m:FolderIds>{}</m:FolderIds></m:GetFolder>",
        folders.concat()
    );
    let (_, text) = ask(&exchange, "", &body).await;
    assert_eq!(
        codes(&text),
        [
            "NoError",
            "ErrorAccessDenied",
            "ErrorBatchProcessingStopped"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn one_error_for_the_whole_batch() {
    let exchange = Exchange::builder()
        .policy(Policy::unlimited())
        .mailbox(A)
        .build();
    let (_, text) = ask(&exchange, "", &create(A, &["x"])).await;
    let id = format!("<t:ItemId Id='{}'/>", attribute(&text, "Id"));
    let bogus = [
        folder("nowhere", ""),
        folder("inbox", "z@contoso.com"),
        "<t:FolderId Id='AAMkbogus'/>".to_owned(),
    ];
    let requests = |target: &str| {
        [
            format!(
                "<m:CreateItem MessageDisposition='SaveOnly'><m:SavedItemFolderId>{target}</m:SavedItemFolderId>\
                 <m:Items><t:Message/><t:Message/></m:Items></m:CreateItem>"
            ),
            format!(
                "<m:CopyItem><m:ToFolderId>{target}</m:ToFolderId><m:ItemIds>{id}{id}</m:ItemIds></m:CopyItem>"
            ),
            format!(
                "<m:MoveFolder><m:ToFolderId>{target}</m:ToFolderId><m:FolderIds>{0}{0}</m:FolderIds></m:MoveFolder>",
                folder("inbox", A)
            ),
            format!(
                "<m:CreateFolder><m:ParentFolderId>{target}</m:ParentFolderId><m:Folders><t:Folder/><t:Folder/></m:Folders></m:CreateFolder>"
            ),
        ]
    };
    let expected = [
        [
            "ErrorSavedItemFolderNotFound",
            "ErrorToFolderNotFound",
            "ErrorToFolderNotFound",
            "ErrorParentFolderNotFound",
        ],
        ["ErrorNonExistentMailbox"; 4],
        ["ErrorInvalidIdMalformed"; 4],
    ];
    for (target, expected) in bogus.iter().zip(expected) {
        for (request, code) in requests(target).iter().zip(expected) {
            let (status, text) = ask(&exchange, "", request).await;
            assert_eq!((status, codes(&text)), (200, vec![code]), "{request}");
        }
    }
    assert_eq!(exchange.report().items_created, 1);
    assert_eq!(exchange.calls().last().unwrap().executed, 0);
}

#[tokio::test(start_paused = true)]
async fn members_are_throttled_on_demand() {
    let back_off_of = Duration::from_millis(700);
    let run = async |seed| {
        let fault = Fault::ThrottledMembers {
            share: 0.3,
            back_off: Some(back_off_of),
        };
        let exchange = Exchange::builder()
            .policy(Policy::unlimited())
            .faults(Faults::none().rate_on("CreateItem", fault, 1.0))
            .seed(seed)
            .build();
        let (status, text) = ask(&exchange, "", &create_all(A, &subjects(200))).await;
        assert_eq!((status, back_off(&text)), (200, Some(700)));
        let codes: Vec<String> = codes(&text).into_iter().map(str::to_owned).collect();
        // What is throttled is not executed, and all else is.
        for (subject, code) in subjects(200).iter().zip(&codes) {
            let done = exchange.report().created.contains_key(subject);
            assert_eq!(code == "NoError", done, "{subject}: {code}");
        }
        let report = exchange.report();
        let throttled = codes
            .iter()
            .filter(|code| *code == "ErrorServerBusy")
            .count();
        assert!((30..90).contains(&throttled), "{throttled}");
        assert_eq!(report.throttled_members, throttled as u64);
        assert_eq!(exchange.calls()[0].throttled, throttled);
        assert_eq!(report.faults["throttled_members"], 1);
        // Other operations suffer nothing.
        let (_, text) = ask(&exchange, "", &get_folder(A)).await;
        assert_eq!(super::codes(&text), ["NoError"]);
        assert_eq!(exchange.report().faults["throttled_members"], 1);
        codes
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_looked_at_before_each_member() {
    let policy = Policy::laptop().with(|policy| policy.jitter = 0.0);
    let exchange = Exchange::builder().policy(policy).build();
    let (_, text) = ask(&exchange, "", &create_all(A, &subjects(40))).await;
    let stretches = stretches(&text);
    assert_eq!(
        (stretches.len(), stretches[1].0),
        (2, "ErrorServerBusy"),
        "{stretches:?}"
    );
    assert!(back_off(&text).is_some());
    let report = exchange.report();
    assert_eq!(report.throttled_members as usize, stretches[1].1);
    assert_eq!(report.items_created as usize, stretches[0].1);
}

#[tokio::test(start_paused = true)]
async fn one_call_touches_sixteen_mailboxes() {
    let exchange = Exchange::builder().build();
    // The impersonated one is among them; it comes in twice, as does the first of the others.
    let others = (0..18).map(|n| format!("m{n}@contoso.com"));
    let mailboxes: Vec<String> = ["me@contoso.com".to_owned()]
        .into_iter()
        .chain(others)
        .chain(["me@contoso.com".to_owned(), "m0@contoso.com".to_owned()])
        .collect();
    let folders: String = mailboxes
        .iter()
        .map(|mailbox| folder("inbox", mailbox))
        .collect();
    let body = format!(
        "<m:FindItem Traversal='Shallow'><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape>\
         <m:ParentFolderIds>{folders}</m:ParentFolderIds></m:FindItem>"
    );
    let (_, text) = ask(&exchange, &impersonate("me@contoso.com"), &body).await;
    assert_eq!(
        stretches(&text),
        [
            ("NoError", 16),
            ("ErrorTooManyObjectsOpened", 3),
            ("NoError", 2)
        ]
    );
    let report = exchange.report();
    assert_eq!(
        (report.open_mailbox_violations, report.throttled_members),
        (3, 3)
    );
    // The next call begins anew.
    let (_, text) = ask(&exchange, "", &get_folder("m17@contoso.com")).await;
    assert_eq!(codes(&text), ["NoError"]);
}

/// Batches under every fault: what the calls say they executed, what the report counted and what
/// the store holds agree.
#[tokio::test(start_paused = true)]
async fn the_counts_agree_under_faults() {
    let seeds = match std::env::var("EWS_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=8).collect(),
    };
    for seed in seeds {
        println!("EWS_TEST_SEED={seed}");
        let slow = Fault::SlowMembers {
            time: Duration::from_secs(9),
        };
        let throttled = Fault::ThrottledMembers {
            share: 0.3,
            back_off: None,
        };
        let faults = Faults::mixed(0.2)
            .next(slow.clone())
            .rate(slow, 0.05)
            .rate(throttled, 0.5);
        let policy = Policy::laptop().with(|policy| {
            // Enough for one slow batch, not for two in a row.
            policy.max_burst = Some(100_000);
            policy.batch_cut = BatchCut::ConnectionLost;
        });
        let exchange = Exchange::builder()
            .policy(policy)
            .faults(faults)
            .seed(seed)
            .build();
        for n in 0..100 {
            let subjects: Vec<String> = (0..20).map(|member| format!("{n}/{member}")).collect();
            let text = envelope(&impersonate(A), &create_all(A, &subjects));
            if let Ok(response) = send(&exchange, text).await {
                let _ = response.into_body().collect().await;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let (report, calls) = (exchange.report(), exchange.calls());
        let executed: usize = calls.iter().map(|call| call.executed).sum();
        let throttled: usize = calls.iter().map(|call| call.throttled).sum();
        assert_eq!(executed as u64, report.executed["CreateItem"]);
        assert_eq!(executed as u64, report.items_created);
        assert_eq!(executed, exchange.items(A).len());
        assert_eq!(report.done["CreateItem"], report.created);
        assert_eq!(report.created, report.existing);
        assert_eq!(throttled as u64, report.throttled_members);
        assert!(throttled > 0 && report.cut_batches > 0, "{report:?}");
        let outcome = |name: &str| calls.iter().filter(|call| call.outcome == name).count() as u64;
        for (fault, count) in &report.faults {
            assert_eq!(outcome(fault), *count, "{fault}");
        }
        // Only slow members take a batch over its time here.
        assert!(report.cut_batches <= report.faults["slow_members"]);
    }
}
