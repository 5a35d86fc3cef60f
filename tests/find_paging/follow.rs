//! Pages of searches, followed: one response, in the server's own bytes.

use std::time::Duration;

use http_body::Body;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_ews::concurrency_by_principal::ConcurrencyByPrincipalLayer;
use tower_ews::extensions::Deadline;
use tower_ews::find_paging::{NextPage, PageFailure, Paging, PagingReport};

use tower_ews::principal::Principal;

use super::server::{Server, Style, Turn, reply};
use crate::{
    FindPagingLayer, envelope, find_item, follow, ids, paging_error, request, send, text,
    text_and_error,
};

const NAMESPACES: [fn(usize) -> Style; 4] = [
    |_| Style::Exchange,
    |number| [Style::Exchange, Style::OtherPrefixes][number % 2],
    |number| {
        [
            Style::OtherPrefixes,
            Style::DefaultNamespaces,
            Style::Exchange,
        ][number % 3]
    },
    |number| [Style::DefaultNamespaces, Style::Exchange][number % 2],
];

#[tokio::test(start_paused = true)]
async fn the_items_of_all_pages_are_one_response() {
    for style in NAMESPACES {
        for (count, limit, calls) in [(0, 10, 1), (10, 10, 1), (11, 10, 2), (35, 10, 4), (7, 1, 7)]
        {
            let server = Server::new(&[count]).set(|state| {
                state.limit = limit;
                state.style = style;
            });
            let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
            let report = response.extensions().get::<PagingReport>().unwrap().clone();
            assert_eq!(response.headers().get("content-length"), None);
            let body = text(response).await.unwrap();
            let got = reply(&body);
            assert_eq!(got.messages, [ids(0, 0..count)], "{body}");
            assert_eq!(server.calls(), calls);
            assert_eq!(
                (report.pages() as usize, report.entries() as usize),
                (calls, count)
            );
            assert!(!report.view_changed() && report.error().is_none());
            let expected = format!("TotalItemsInView={count} IncludesLastItemInRange=true");
            match calls {
                1 => assert_eq!(
                    got.folders,
                    [format!("IndexedPagingOffset={count} {expected}")]
                ),
                _ => assert_eq!(got.folders, [expected]),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_around_the_items_is_the_first_response() {
    let server = Server::new(&[4]).set(|state| state.limit = 4);
    let whole = text(send(&follow(), &server, &find_item(&[0])).await.unwrap())
        .await
        .unwrap();
    let paged = Server::new(&[4]).set(|state| state.limit = 3);
    let body = text(send(&follow(), &paged, &find_item(&[0])).await.unwrap())
        .await
        .unwrap();
    assert_eq!(body, whole.replace(" IndexedPagingOffset=\"4\"", ""));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_smaller_than_asked_is_not_the_end() {
    let server = Server::new(&[10]).turns([3, 1, 2].map(Turn::Page));
    let layer = follow().page_size(5);
    let body = text(send(&layer, &server, &find_item(&[0])).await.unwrap())
        .await
        .unwrap();
    assert_eq!(reply(&body).messages, [ids(0, 0..10)]);
    let asked: Vec<_> = server
        .asked()
        .iter()
        .map(|asked| (asked.offset, asked.size))
        .collect();
    let expected = [0, 3, 4, 6].map(|offset| (Some(offset), Some(5)));
    assert_eq!(asked, expected);
}

#[tokio::test(start_paused = true)]
async fn folders_are_found_likewise() {
    let server = Server::new(&[25]).set(|state| state.limit = 10);
    let request = envelope(
        "<m:FindFolder Traversal=\"Deep\"><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape><m:ParentFolderIds><t:FolderId Id=\"f0\"/></m:ParentFolderIds></m:FindFolder>",
    );
    let body = text(send(&follow(), &server, &request).await.unwrap())
        .await
        .unwrap();
    assert_eq!(reply(&body).messages, [ids(0, 0..25)]);
    assert_eq!(server.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn folders_are_asked_one_by_one_and_each_has_its_message() {
    for style in NAMESPACES {
        let server = Server::new(&[3, 0, 25, 10]).set(|state| {
            state.limit = 10;
            state.style = style;
        });
        let response = send(&follow(), &server, &find_item(&[2, 1, 0, 3]))
            .await
            .unwrap();
        let body = text(response).await.unwrap();
        let got = reply(&body);
        let expected = [ids(2, 0..25), ids(1, 0..0), ids(0, 0..3), ids(3, 0..10)];
        assert_eq!(got.messages, expected, "{body}");
        let asked: Vec<_> = server
            .asked()
            .into_iter()
            .map(|asked| asked.folders)
            .collect();
        assert_eq!(asked, [[2], [2], [2], [1], [0], [3]]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_one_folder_is_its_message() {
    for at in 0..3 {
        let mut turns = vec![Turn::Page(10); 3];
        turns[at] = Turn::Error("ErrorFolderNotFound");
        let server = Server::new(&[2, 2, 2]).turns(turns);
        let response = send(&follow(), &server, &find_item(&[0, 1, 2]))
            .await
            .unwrap();
        let got = reply(&text(response).await.unwrap());
        let mut expected = [ids(0, 0..2), ids(1, 0..2), ids(2, 0..2)];
        expected[at] = Vec::new();
        assert_eq!(got.messages, expected);
        assert_eq!(got.codes[at], "ErrorFolderNotFound");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_instead_of_the_first_page_is_the_response() {
    for turn in [
        Turn::Error("ErrorFolderNotFound"),
        Turn::Fault("ErrorServerBusy"),
        Turn::NoSoap,
    ] {
        let server = Server::new(&[5]).turns([turn.clone()]);
        let plain = Server::new(&[5]).turns([turn]);
        let got = send(&follow(), &server, &find_item(&[0])).await.unwrap();
        let expected = send(&FindPagingLayer::new(), &plain, &find_item(&[0]))
            .await
            .unwrap();
        assert_eq!(got.status(), expected.status());
        assert_eq!(text(got).await.unwrap(), text(expected).await.unwrap());
    }
    // The error of the call is not wrapped.
    let server = Server::new(&[5]).turns([Turn::Fails]);
    let error = send(&follow(), &server, &find_item(&[0]))
        .await
        .unwrap_err();
    assert!(error.is::<std::io::Error>());
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_middle_says_where_to_go_on() {
    for turn in [
        Turn::Error("ErrorServerBusy"),
        Turn::Fault("ErrorServerBusy"),
        Turn::NoSoap,
        Turn::Fails,
        Turn::Hangs,
    ] {
        let server = Server::new(&[3, 25]).set(|state| state.limit = 10).turns([
            Turn::Page(10),
            Turn::Page(10),
            turn.clone(),
        ]);
        let response = send(&follow(), &server, &find_item(&[0, 1])).await.unwrap();
        let (text, error) = text_and_error(response).await;
        let error = error.unwrap();
        assert_eq!(text.matches("<t:ItemId").count(), 13, "{turn:?}");
        assert!(text.ends_with("</t:Message>"));
        let error = paging_error(&error);
        let next = NextPage::Offset {
            folder: 1,
            offset: 10,
        };
        assert_eq!((error.operation(), error.next()), ("FindItem", &next));
        match (turn, error.cause()) {
            (Turn::Error(_) | Turn::Fault(_), PageFailure::NotAPage { code, .. }) => {
                assert_eq!(code.as_str(), "ErrorServerBusy");
                assert!(
                    error.to_string().contains("offset 10 of folder 1"),
                    "{error}"
                );
            }
            (Turn::NoSoap, PageFailure::NotAPage { status, .. }) => assert_eq!(*status, 200),
            (Turn::Fails, PageFailure::Call(source)) => assert!(source.is::<std::io::Error>()),
            (Turn::Hangs, PageFailure::TimedOut) => {}
            (turn, cause) => panic!("{turn:?}: {cause:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_it_broke_off() {
    let server = Server::new(&[25]).set(|state| state.limit = 10);
    let server = server.turns([Turn::Page(10), Turn::Fails]);
    let layer = follow();
    let response = send(&layer, &server, &find_item(&[0])).await.unwrap();
    let (_, error) = text_and_error(response).await;
    let NextPage::Offset { offset, .. } = *paging_error(&error.unwrap()).next() else {
        panic!();
    };
    let paging = Paging::all_pages().from_offset(offset);
    let rest = request(&find_item(&[0]), Some(paging));
    let rest = layer.layer(server).oneshot(rest).await.unwrap();
    assert_eq!(reply(&text(rest).await.unwrap()).messages, [ids(0, 10..25)]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_breaks_off_is_asked_for_again() {
    for broken in [
        Turn::Breaks(0),
        Turn::Breaks(50),
        Turn::Breaks(99),
        Turn::EndsEarly(0),
        Turn::EndsEarly(60),
    ] {
        let page = Turn::Page(2);
        let turns = [
            broken.clone(),
            page.clone(),
            broken.clone(),
            broken.clone(),
            page,
        ];
        let server = Server::new(&[4]).turns(turns);
        let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
        assert_eq!(
            reply(&text(response).await.unwrap()).messages,
            [ids(0, 0..4)]
        );
        assert_eq!(server.calls(), 5);
        // For ever: a bounded number of times.
        let turns = std::iter::once(Turn::Page(2)).chain(vec![broken; 50]);
        let server = Server::new(&[4]).turns(turns);
        let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
        let (text, error) = text_and_error(response).await;
        assert_eq!(text.matches("<t:ItemId").count(), 2);
        let error = error.unwrap();
        let cause = paging_error(&error).cause();
        assert!(
            matches!(cause, PageFailure::Incomplete { tries: 7, .. }),
            "{cause:?}"
        );
        assert_eq!(server.calls(), 8);
    }
}

#[tokio::test(start_paused = true)]
async fn empty_pages_are_asked_for_again_but_not_for_ever() {
    let server = Server::new(&[4]).turns([Turn::Empty, Turn::Page(2), Turn::Empty, Turn::Empty]);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    assert_eq!(
        reply(&text(response).await.unwrap()).messages,
        [ids(0, 0..4)]
    );
    assert_eq!(server.calls(), 5);

    let turns = std::iter::once(Turn::Page(2)).chain(vec![Turn::Empty; 50]);
    let server = Server::new(&[4]).turns(turns);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    let (_, error) = text_and_error(response).await;
    let error = error.unwrap();
    let error = paging_error(&error);
    assert!(matches!(
        error.cause(),
        PageFailure::NoProgress { pages: 7 }
    ));
    assert_eq!(
        *error.next(),
        NextPage::Offset {
            folder: 0,
            offset: 2
        }
    );
    assert_eq!(server.calls(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_forgets_the_offset_is_not_asked_for_ever() {
    for no_next in [false, true] {
        let server = Server::new(&[25]).turns(vec![Turn::Restarts; 200]);
        let server = server.set(|state| {
            state.limit = 10;
            state.no_next = no_next;
        });
        let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
        let (text, error) = text_and_error(response).await;
        let error = error.unwrap();
        let cause = paging_error(&error).cause();
        assert!(
            matches!(cause, PageFailure::NoProgress { pages: 7 }),
            "{cause:?}"
        );
        // By its own word at once; without one, when more came than there is.
        let came = text.matches("<t:ItemId").count();
        assert_eq!(came, if no_next { 30 } else { 10 });
        assert_eq!(server.calls(), came / 10 + 7);
    }
}

/// An offset that lies behind what came, but before what was to come, is no reason to ask for an item twice.
#[tokio::test(start_paused = true)]
async fn no_item_is_asked_for_twice() {
    let server = Server::new(&[9]).set(|state| state.limit = 5);
    let first = send(&FindPagingLayer::new(), &server, &find_item(&[0]))
        .await
        .unwrap();
    let first = text(first).await.unwrap();
    let odd = first.replace("IndexedPagingOffset=\"5\"", "IndexedPagingOffset=\"3\"");
    let server = server.turns([Turn::Raw(odd)]);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    assert_eq!(
        reply(&text(response).await.unwrap()).messages,
        [ids(0, 0..9)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_read_holds_no_permit() {
    let server = Server::new(&[25]).set(|state| state.limit = 10);
    let who = |_: &http::Request<tower_ews::body::ReplayBody>| Principal::account("svc");
    let service = tower::ServiceBuilder::new()
        .layer(follow())
        .layer(ConcurrencyByPrincipalLayer::in_flight(1, who))
        .service(server);
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let request = request(&find_item(&[0]), None);
        bodies.push(service.clone().oneshot(request).await.unwrap());
    }
    for body in bodies {
        assert_eq!(reply(&text(body).await.unwrap()).messages, [ids(0, 0..25)]);
    }
}

/// A hundred pages of some 100 KB: no more than a few of them are in memory.
#[test]
fn memory_does_not_grow_with_the_pages() {
    let measured = |pages: usize| {
        let server = Server::new(&[1000 * pages]).set(|state| state.keep_requests = false);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let info = allocation_counter::measure(|| {
            runtime.block_on(async {
                let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
                let mut body = response.into_body();
                let mut bytes = 0;
                while let Some(frame) = body.frame().await {
                    bytes += frame.unwrap().into_data().unwrap().len();
                }
                assert!(bytes > 50_000 * pages);
            });
        });
        info.bytes_max
    };
    let (few, many) = (measured(5), measured(100));
    println!("{few} bytes at most for 5 pages, {many} for 100");
    assert!(many < few * 11 / 10, "{few} {many}");
}

/// Responses that others have collected, as they came.
#[tokio::test(start_paused = true)]
async fn a_partial_page_as_it_was_seen() {
    let Some(folder) = std::env::var_os("EWS_FACTS_DIR") else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let file =
        std::path::Path::new(&folder).join("faults/200-FindItem-find-count-partial-page.xml");
    let partial = std::fs::read_to_string(file).unwrap();
    let server = Server::new(&[253]).turns([Turn::Raw(partial.clone())]);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let body = text(response).await.unwrap();
    let mut expected = vec![String::from("AAMk1")];
    expected.extend(ids(0, 250..253));
    assert_eq!(reply(&body).messages, [expected], "{body}");
    assert_eq!(server.asked()[1].offset, Some(250));
    assert!(body.starts_with(&partial[..partial.find("<m:RootFolder").unwrap()]));
    // Of the one view it had 4310 entries, of the other 253.
    assert!(report.view_changed());
}

#[tokio::test(start_paused = true)]
async fn without_the_offset_the_entries_are_counted() {
    let server = Server::new(&[25]).set(|state| {
        state.limit = 10;
        state.no_next = true;
    });
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    assert_eq!(
        reply(&text(response).await.unwrap()).messages,
        [ids(0, 0..25)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_view_that_changes_is_reported() {
    let server = Server::new(&[25]).set(|state| state.limit = 10);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let server = server.set(|state| state.folders[0] = 26);
    assert_eq!(
        reply(&text(response).await.unwrap()).messages,
        [ids(0, 0..26)]
    );
    assert!(report.view_changed());
    assert_eq!(server.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_page_is_asked_for_ahead_of_the_reader() {
    let server = Server::new(&[40]).set(|state| state.limit = 10);
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), None);
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        read += data
            .windows(9)
            .filter(|bytes| bytes == b"<t:ItemId")
            .count();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(
            server.calls() * 10 <= read + 10,
            "{} calls, {read} read",
            server.calls()
        );
    }
    assert_eq!((read, server.calls()), (40, 4));
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_asks_for_nothing_more() {
    let server = Server::new(&[40]).set(|state| {
        state.limit = 10;
        state.took = Duration::from_secs(5);
    });
    let response = send(&follow(), &server, &find_item(&[0])).await.unwrap();
    let mut body = response.into_body();
    let reading = async {
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
    };
    // In the middle of the second page's call.
    assert!(
        tokio::time::timeout(Duration::from_secs(3), reading)
            .await
            .is_err()
    );
    assert_eq!(server.calls(), 2);
    drop(body);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(server.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_bounds_all_pages() {
    let server = Server::new(&[100]).set(|state| {
        state.limit = 10;
        state.took = Duration::from_secs(10);
    });
    let mut request = request(&find_item(&[0]), None);
    let deadline = Deadline::within(Duration::from_secs(35));
    request.extensions_mut().insert(deadline);
    let response = follow()
        .layer(server.clone())
        .oneshot(request)
        .await
        .unwrap();
    let (text, error) = text_and_error(response).await;
    assert_eq!(text.matches("<t:ItemId").count(), 30);
    let error = error.unwrap();
    let error = paging_error(&error);
    assert!(matches!(error.cause(), PageFailure::TimedOut), "{error:?}");
    assert_eq!(tokio::time::Instant::now(), deadline.0);
    for head in server.heads() {
        assert_eq!(head.extensions.get(), Some(&deadline));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_long_is_an_error() {
    let server = Server::new(&[4]).turns([Turn::Page(1)]);
    let layer = follow().max_page(700);
    let response = send(&layer, &server, &find_item(&[0])).await.unwrap();
    let (_, error) = text_and_error(response).await;
    let error = error.unwrap();
    let cause = paging_error(&error).cause();
    assert!(
        matches!(cause, PageFailure::TooLong { max_page: 700 }),
        "{cause:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_calls_own_extensions_and_headers_go_with_each_page() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mine(u32);
    let server = Server::new(&[25]).set(|state| state.limit = 10);
    let mut request = request(&find_item(&[0]), None);
    request.extensions_mut().insert(Mine(7));
    request.headers_mut().insert("x-mine", "1".parse().unwrap());
    request
        .headers_mut()
        .insert("accept-encoding", "gzip".parse().unwrap());
    let trail = tower_ews::trail::CallTrail::new();
    request.extensions_mut().insert(trail.clone());
    let response = follow()
        .layer(server.clone())
        .oneshot(request)
        .await
        .unwrap();
    text(response).await.unwrap();
    for (at, head) in server.heads().iter().enumerate() {
        assert_eq!(head.extensions.get(), Some(&Mine(7)));
        assert_eq!(head.headers["x-mine"], "1");
        assert!(!head.headers.contains_key("accept-encoding"));
        assert!(!head.headers.contains_key("content-length"));
        let again = head.extensions.get::<tower_ews::trail::RetryAttempt>();
        assert_eq!(again.is_some(), at > 0);
    }
    let attempts = trail.attempts();
    let parts: Vec<_> = attempts.iter().map(|attempt| attempt.part).collect();
    assert_eq!(parts, [Some(0), Some(1), Some(2)]);
    assert!(attempts.iter().all(|attempt| attempt.ended.is_some()));
}
