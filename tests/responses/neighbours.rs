//! Neighbours of the responses in the table: statuses that one member causes, codings and encodings that nobody reads.

use std::time::Duration;

use super::server::{Ask, Reply, good, request, send};

/// Refused for what was asked: one member costs itself alone, and what refuses all alike is recognised after a few parts.
#[tokio::test(start_paused = true)]
async fn a_status_of_one_member_costs_that_one_alone() {
    for status in [
        402, 404, 406, 409, 410, 414, 415, 422, 423, 424, 431, 451, 499, 506, 508, 510,
    ] {
        for operation in ["GetItem", "CreateItem"] {
            for (members, culprit) in [(20, "ID0007"), (20, "ID0000"), (300, "ID0155")] {
                let of_one = move |ask: &Ask| match ask.ids.iter().any(|id| id == culprit) {
                    true => Reply::status(status),
                    false => good(ask),
                };
                let outcome = send(request(operation, members), None, of_one).await;
                let case = format!("{status}, {operation} of {members}: {outcome:?}");
                assert_eq!(outcome.done(), members - 1, "{case}");
                assert_eq!(outcome.unknown, 0, "{case}");
                assert!(outcome.requests() <= 30, "{case}");
                assert!(outcome.took < Duration::from_secs(60), "{case}");
                let told = format!("HTTP {status}");
                assert_eq!(outcome.body.matches(&told).count(), 1, "{case}");
            }
            let outcome = send(request(operation, 1000), None, move |_| {
                Reply::status(status)
            })
            .await;
            assert!(outcome.requests() <= 5, "{status}: {outcome:?}");
            assert_eq!(outcome.status, Some(status), "{outcome:?}");
        }
    }
}

/// A response in a coding that nobody asked for, or in an encoding that is not read: a read has failed, a write is in doubt, alone
/// and in batches.
#[tokio::test(start_paused = true)]
async fn what_nobody_can_read_is_no_success() {
    let responses: [(&str, fn() -> Reply); 5] = [
        ("br", || Reply::xml(200, "x").with("content-encoding", "br")),
        ("zstd", || {
            Reply::xml(200, "x").with("content-encoding", "zstd")
        }),
        ("br, 500", || {
            Reply::xml(500, "x").with("content-encoding", "br")
        }),
        ("zeros", || Reply::xml(200, "\0\0\0\0")),
        ("UTF-16", || Reply::xml(200, "<\0s\0:\0E\0")),
    ];
    for (what, response) in responses {
        for members in [1, 20, 300] {
            for operation in ["GetItem", "CreateItem"] {
                let outcome = send(request(operation, members), None, move |_| response()).await;
                let case = format!("{what}, {operation} of {members}: {outcome:?}");
                assert_eq!(outcome.done(), 0, "{case}");
                assert!(outcome.requests() <= 11, "{case}");
                assert!(outcome.took < Duration::from_secs(60), "{case}");
                let write = operation == "CreateItem";
                assert_eq!(outcome.says_unknown(), write, "{case}");
                if what == "br" || what == "zstd" {
                    assert!(outcome.error.contains("compressed"), "{case}");
                }
            }
        }
    }
}
