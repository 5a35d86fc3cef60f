//! Synchronisations whose pages are followed: one response with the last state, complete or not as it says.

use std::time::Duration;

use tower::{Layer, ServiceExt};
use tower_ews::extensions::Deadline;
use tower_ews::find_paging::{NextPage, PageFailure, Paging, PagingReport};

use super::server::{MESSAGES, Server, Style, TYPES, Turn, reply};
use crate::schema::{complaint, schemas};
use crate::{FindPagingLayer, envelope, follow, ids, request, send, text};

pub(crate) fn sync_items(state: &str) -> String {
    envelope(&format!(
        "<m:SyncFolderItems><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape></m:ItemShape><m:SyncFolderId><t:DistinguishedFolderId Id=\"inbox\"/></m:SyncFolderId>{state}<m:MaxChangesReturned>512</m:MaxChangesReturned></m:SyncFolderItems>"
    ))
}

fn sync_hierarchy(state: &str) -> String {
    envelope(&format!(
        "<m:SyncFolderHierarchy><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape></m:FolderShape>{state}</m:SyncFolderHierarchy>"
    ))
}

#[tokio::test(start_paused = true)]
async fn changes_of_all_pages_are_one_response_with_the_last_state() {
    let styles: [fn(usize) -> Style; 3] = [
        |_| Style::Exchange,
        |number| [Style::Exchange, Style::OtherPrefixes][number % 2],
        |number| {
            [
                Style::OtherPrefixes,
                Style::DefaultNamespaces,
                Style::Exchange,
            ][number % 3]
        },
    ];
    for request in [sync_items, sync_hierarchy] {
        for style in styles {
            for (count, limit, calls) in [(0, 10, 1), (10, 10, 1), (25, 10, 3), (7, 1, 7)] {
                let server = Server::new(&[count]).set(|state| {
                    state.limit = limit;
                    state.style = style;
                });
                let response = send(&follow(), &server, &request("")).await.unwrap();
                let report = response.extensions().get::<PagingReport>().unwrap().clone();
                let body = text(response).await.unwrap();
                let got = reply(&body);
                assert_eq!(got.messages, [ids(0, 0..count)], "{body}");
                assert_eq!((got.state, &*got.last), (format!("s{count}"), "true"));
                assert_eq!(server.calls(), calls);
                assert_eq!(
                    (report.pages() as usize, report.entries() as usize),
                    (calls, count)
                );
                assert!(report.error().is_none());
            }
        }
    }
}

/// The state goes where the schema has it, with the prefix of the request; all else stays.
#[tokio::test(start_paused = true)]
async fn the_state_is_put_into_the_request_byte_by_byte() {
    let default = |state: &str| {
        format!(
            "<Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\"><Body><SyncFolderItems xmlns=\"{MESSAGES}\"><ItemShape><t:BaseShape xmlns:t=\"{TYPES}\">IdOnly</t:BaseShape></ItemShape><!-- x --><SyncFolderId><t:DistinguishedFolderId xmlns:t=\"{TYPES}\" Id=\"inbox\"/></SyncFolderId>{state}\n<MaxChangesReturned>512</MaxChangesReturned></SyncFolderItems></Body></Envelope>"
        )
    };
    let written =
        |prefix: &str, state: &str| format!("<{prefix}SyncState>{state}</{prefix}SyncState>");
    type Template<'a> = &'a dyn Fn(&str) -> String;
    let cases: [(Template<'_>, &str, &str); 3] = [
        (&|state| sync_items(state), "m:", "items"),
        (&|state| sync_hierarchy(state), "m:", "hierarchy"),
        (&default, "", "default namespace"),
    ];
    let mut all = Vec::new();
    for (template, prefix, name) in cases {
        let first = [
            String::new(),
            format!("<{prefix}SyncState/>"),
            format!("<{prefix}SyncState></{prefix}SyncState >"),
            written(prefix, "s0"),
            format!("<{prefix}SyncState a='>'><!-- -->s0</{prefix}SyncState>"),
        ];
        for first in first {
            let server = Server::new(&[25]).set(|state| state.limit = 10);
            let response = send(&follow(), &server, &template(&first)).await.unwrap();
            text(response).await.unwrap();
            let expected = [
                template(&first),
                template(&written(prefix, "s10")),
                template(&written(prefix, "s20")),
            ];
            assert_eq!(server.requests(), expected, "{name}");
            all.extend(expected[1..].iter().cloned());
        }
    }
    for schema in schemas() {
        assert_eq!(
            complaint("find_paging_sync", &schema, &all),
            None,
            "{schema:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_breaks_off_is_a_response_that_says_so() {
    for turn in [
        Turn::Error("ErrorServerBusy"),
        Turn::Fault("ErrorServerBusy"),
        Turn::NoSoap,
        Turn::Fails,
        Turn::Hangs,
    ] {
        let server = Server::new(&[45]).set(|state| state.limit = 10);
        let server = server.turns([Turn::Page(10), Turn::Page(10), turn.clone()]);
        let response = send(&follow(), &server, &sync_items("")).await.unwrap();
        let report = response.extensions().get::<PagingReport>().unwrap().clone();
        let got = reply(&text(response).await.unwrap());
        assert_eq!(got.messages, [ids(0, 0..20)], "{turn:?}");
        assert_eq!((&*got.state, &*got.last), ("s20", "false"));
        let error = report.error().unwrap();
        assert_eq!(*error.next(), NextPage::SyncState("s20".into()));

        // The same call again with that state gets the rest.
        let body = sync_items("<m:SyncState>s20</m:SyncState>");
        let got = reply(
            &text(send(&follow(), &server, &body).await.unwrap())
                .await
                .unwrap(),
        );
        assert_eq!(got.messages, [ids(0, 20..45)]);
        assert_eq!((&*got.state, &*got.last), ("s45", "true"));
    }
}

/// A page with these changes, as the server of the test writes it.
fn page(items: std::ops::Range<usize>, state: &str, last: bool) -> Turn {
    let changes: String = items
        .map(|item| {
            format!("<t:Create><t:Message><t:ItemId Id=\"0-{item}\"/></t:Message></t:Create>")
        })
        .collect();
    let changes = match &*changes {
        "" => String::from("<m:Changes/>"),
        changes => format!("<m:Changes>{changes}</m:Changes>"),
    };
    Turn::Raw(envelope(&format!(
        "<m:SyncFolderItemsResponse><m:ResponseMessages><m:SyncFolderItemsResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:SyncState>{state}</m:SyncState><m:IncludesLastItemInRange>{last}</m:IncludesLastItemInRange>{changes}</m:SyncFolderItemsResponseMessage></m:ResponseMessages></m:SyncFolderItemsResponse>"
    )))
}

/// Pages without a change stand anywhere between the others.
#[tokio::test(start_paused = true)]
async fn pages_without_changes_cost_none_of_the_others() {
    for pattern in 0..16_u32 {
        let full = |at: u32| pattern & (1 << at) != 0;
        let turns = (0..4).map(|at| {
            let begin = at as usize * 5;
            let items = begin..begin + if full(at) { 5 } else { 0 };
            page(items, &format!("p{at}"), at == 3)
        });
        let server = Server::new(&[0]).turns(turns);
        let response = send(&follow(), &server, &sync_items("")).await.unwrap();
        let got = reply(&text(response).await.unwrap());
        let expected = (0..4).filter(|at| full(*at));
        let expected: Vec<_> = expected
            .flat_map(|at| ids(0, at as usize * 5..at as usize * 5 + 5))
            .collect();
        assert_eq!(got.messages, [expected], "{pattern:b}");
        assert_eq!((&*got.state, &*got.last), ("p3", "true"));
        assert_eq!(server.calls(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn states_without_changes_do_not_go_on_for_ever() {
    let turns = (0..1000).map(|at| page(0..0, &format!("p{at}"), false));
    let server = Server::new(&[0]).turns(turns);
    let response = send(&follow(), &server, &sync_items("")).await.unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let got = reply(&text(response).await.unwrap());
    // The newest one is handed out all the same.
    assert_eq!((&*got.state, &*got.last), ("p100", "false"));
    assert_eq!(server.calls(), 101);
    let error = report.error().unwrap();
    assert!(matches!(error.cause(), PageFailure::NoProgress { .. }));
}

/// A server that goes round in a circle brings the same changes again and again.
#[tokio::test(start_paused = true)]
async fn a_state_that_was_there_before_is_no_progress() {
    let circle = ["a", "b", "c", "b", "c", "b"];
    let turns = circle
        .iter()
        .enumerate()
        .map(|(at, state)| page(at * 5..at * 5 + 5, state, false));
    let server = Server::new(&[0]).turns(turns.collect::<Vec<_>>());
    let response = send(&follow(), &server, &sync_items("")).await.unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let got = reply(&text(response).await.unwrap());
    assert_eq!(
        (got.messages, &*got.state, &*got.last),
        (vec![ids(0, 0..15)], "c", "false")
    );
    assert_eq!(server.calls(), 4);
    let error = report.error().unwrap();
    assert_eq!(*error.next(), NextPage::SyncState("c".into()));
    assert!(matches!(
        error.cause(),
        PageFailure::NoProgress { pages: 3 }
    ));

    // The state that the caller came with is one of them.
    let turns = [page(0..5, "a", false), page(5..10, "s7", false)];
    let server = Server::new(&[0]).turns(turns);
    let body = sync_items("<m:SyncState>s7</m:SyncState>");
    let got = reply(
        &text(send(&follow(), &server, &body).await.unwrap())
            .await
            .unwrap(),
    );
    assert_eq!((got.messages, &*got.state), (vec![ids(0, 0..5)], "a"));
    assert_eq!(server.calls(), 2);
}

/// A refusal that was seen: it has no state, and says that it is the last page.
#[tokio::test(start_paused = true)]
async fn the_empty_state_of_a_refusal_is_never_handed_out() {
    let Some(folder) = std::env::var_os("EWS_FACTS_DIR") else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let file = std::path::Path::new(&folder).join("faults/200-SyncFolderItems-ErrorServerBusy.xml");
    let refusal = std::fs::read_to_string(file).unwrap();
    let success = refusal.replace("\"Error\"", "\"Success\"");
    for refusal in [refusal, success] {
        let turns = [Turn::Page(10), Turn::Raw(refusal)];
        let server = Server::new(&[45]).turns(turns);
        let response = send(&follow(), &server, &sync_items("")).await.unwrap();
        let report = response.extensions().get::<PagingReport>().unwrap().clone();
        let got = reply(&text(response).await.unwrap());
        assert_eq!(
            (got.messages, &*got.state, &*got.last),
            (vec![ids(0, 0..10)], "s10", "false")
        );
        let error = report.error().unwrap();
        let cause = error.cause();
        let is_busy = matches!(cause, PageFailure::NotAPage { code, .. } if code.as_str() == "ErrorServerBusy");
        assert!(is_busy, "{cause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_instead_of_the_first_page_is_the_response() {
    for turn in [
        Turn::Error("ErrorServerBusy"),
        Turn::Fault("ErrorServerBusy"),
        Turn::NoSoap,
    ] {
        let server = Server::new(&[5]).turns([turn.clone()]);
        let plain = Server::new(&[5]).turns([turn]);
        let got = send(&follow(), &server, &sync_items("")).await.unwrap();
        let expected = send(&FindPagingLayer::new(), &plain, &sync_items(""))
            .await
            .unwrap();
        assert_eq!(text(got).await.unwrap(), text(expected).await.unwrap());
    }
    let server = Server::new(&[5]).turns([Turn::Hangs]);
    let body = sync_items("<m:SyncState>s3</m:SyncState>");
    let error = send(&follow(), &server, &body).await.unwrap_err();
    let error = crate::paging_error(&error);
    assert_eq!(*error.next(), NextPage::SyncState("s3".into()));
}

#[tokio::test(start_paused = true)]
async fn the_same_state_again_is_no_progress() {
    // The server of the test gives an empty page and the state that it was sent.
    let turns = std::iter::once(Turn::Page(10)).chain(vec![Turn::Empty; 3]);
    let server = Server::new(&[15]).turns(turns);
    let response = send(&follow(), &server, &sync_items("")).await.unwrap();
    assert_eq!(
        reply(&text(response).await.unwrap()).messages,
        [ids(0, 0..15)]
    );
    assert_eq!(server.calls(), 5);

    let turns = std::iter::once(Turn::Page(10)).chain(vec![Turn::Empty; 50]);
    let server = Server::new(&[15]).turns(turns);
    let response = send(&follow(), &server, &sync_items("")).await.unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let got = reply(&text(response).await.unwrap());
    assert_eq!(
        (got.messages, &*got.state, &*got.last),
        (vec![ids(0, 0..10)], "s10", "false")
    );
    let error = report.error().unwrap();
    assert!(matches!(
        error.cause(),
        PageFailure::NoProgress { pages: 7 }
    ));
}

#[tokio::test(start_paused = true)]
async fn what_is_collected_is_bounded() {
    let server = Server::new(&[100]).set(|state| state.limit = 10);
    let response = send(&follow().max_sync(4000), &server, &sync_items(""))
        .await
        .unwrap();
    let report = response.extensions().get::<PagingReport>().unwrap().clone();
    let got = reply(&text(response).await.unwrap());
    let count = got.messages[0].len();
    assert!((20..100).contains(&count), "{count}");
    assert_eq!((got.state, &*got.last), (format!("s{count}"), "false"));
    // That is no error: the caller asked for no more.
    assert!(report.error().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_with_what_came() {
    let server = Server::new(&[100]).set(|state| {
        state.limit = 10;
        state.took = Duration::from_secs(10);
    });
    let mut request = request(&sync_items(""), Some(Paging::all_pages()));
    request
        .extensions_mut()
        .insert(Deadline::within(Duration::from_secs(35)));
    let response = FindPagingLayer::new()
        .layer(server)
        .oneshot(request)
        .await
        .unwrap();
    let got = reply(&text(response).await.unwrap());
    assert_eq!(
        (got.messages, &*got.state, &*got.last),
        (vec![ids(0, 0..30)], "s30", "false")
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_followed_on_request_alone() {
    for paging in [None, Some(Paging::one_page()), Some(Paging::off())] {
        let server = Server::new(&[25]).set(|state| state.limit = 10);
        let response = FindPagingLayer::new()
            .layer(server.clone())
            .oneshot(request(&sync_items(""), paging))
            .await
            .unwrap();
        assert_eq!(reply(&text(response).await.unwrap()).last, "false");
        assert_eq!(server.requests(), [sync_items("")]);
    }
}
