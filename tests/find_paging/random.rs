//! Any folders, any pages, any faults: every item arrives exactly once and in order, or a typed error says from where on
//! it does not. The changes of a synchronisation arrive exactly once, however often it has to be called.

use http_body_util::BodyExt;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::find_paging::{NextPage, Paging};

use super::server::{Server, Style, Turn, reply};
use super::sync::sync_items;
use crate::{find_item, follow, paging_error, request};

fn turn(random: &mut fastrand::Rng, faults: bool) -> Turn {
    let lasting = [
        Turn::Error("ErrorServerBusy"),
        Turn::Fault("ErrorServerBusy"),
        Turn::Fails,
        Turn::NoSoap,
        Turn::Hangs,
    ];
    match random.u32(..100) {
        0..8 => Turn::Breaks(random.usize(..100)),
        8..14 => Turn::EndsEarly(random.usize(..99)),
        14..20 => Turn::Empty,
        20..24 if faults => lasting[random.usize(..lasting.len())].clone(),
        _ => Turn::Page(random.usize(1..9)),
    }
}

/// The ids that came, complete entries alone, and the error.
async fn read(
    body: tower_ews::find_paging::PagedBody<super::server::Body>,
) -> (String, Option<BoxError>) {
    let mut body = body;
    let mut text = Vec::new();
    let error = loop {
        match body.frame().await {
            None => break None,
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(error)) => break Some(error),
        }
    };
    (String::from_utf8(text).unwrap(), error)
}

fn came(text: &str) -> Vec<String> {
    let ids = text.split("ItemId Id=\"").skip(1);
    ids.map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

async fn case(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let folders: Vec<usize> = (0..random.usize(1..4))
        .map(|_| random.usize(..40))
        .collect();
    let styles: [fn(usize) -> Style; 2] = [
        |_| Style::Exchange,
        |number| {
            [
                Style::OtherPrefixes,
                Style::DefaultNamespaces,
                Style::Exchange,
            ][number * 7 % 3]
        },
    ];
    let faults = random.bool();
    let turns: Vec<Turn> = (0..random.usize(..80))
        .map(|_| turn(&mut random, faults))
        .collect();
    let server = Server::new(&folders).turns(turns.clone()).set(|state| {
        state.limit = random.usize(1..20);
        state.style = styles[random.usize(..2)];
        state.no_next = random.u8(..4) == 0;
    });
    let layer = follow().page_size(random.u32(1..30)).seed(seed);
    let all: Vec<usize> = (0..folders.len()).collect();
    let expected: Vec<String> = all
        .iter()
        .flat_map(|folder| (0..folders[*folder]).map(move |item| format!("{folder}-{item}")))
        .collect();
    let response = layer
        .layer(server.clone())
        .oneshot(request(&find_item(&all), None))
        .await;
    let (text, error) = match response {
        Ok(response) => read(response.into_body()).await,
        Err(error) => (String::new(), Some(error)),
    };
    let got = came(&text);
    // The server's own word: instead of the response, or as the message of one folder.
    let is_refused = text.contains("ErrorServerBusy") || text.contains("sign in");
    assert!(faults || !is_refused);
    let Some(error) = error else {
        if !is_refused {
            let whole = reply(&text);
            assert_eq!(got, expected, "{text}");
            assert!(
                whole.folders.iter().all(|folder| folder.ends_with("=true")),
                "{text}"
            );
            assert_eq!(whole.messages.len(), folders.len());
        }
        return;
    };
    assert!(faults || error.is::<tower_ews::find_paging::PagingError>());
    if !error.is::<tower_ews::find_paging::PagingError>() {
        assert!(got.is_empty() && error.is::<std::io::Error>(), "{error:?}");
        return;
    }
    let NextPage::Offset { folder, offset } = *paging_error(&error).next() else {
        panic!("{error:?}");
    };
    let before: usize = folders[..folder].iter().sum();
    if !is_refused {
        assert_eq!(
            got,
            expected[..before + offset as usize],
            "{error:?}: {text}"
        );
    }
    // Going on there gets what is left of that folder.
    let server = server.set(|state| state.turns.clear());
    let paging = Paging::all_pages().from_offset(offset);
    let rest = layer
        .layer(server)
        .oneshot(request(&find_item(&[folder]), Some(paging)))
        .await;
    let (rest, error) = read(rest.unwrap().into_body()).await;
    assert!(error.is_none(), "{error:?}");
    let end = before + folders[folder];
    assert_eq!(came(&rest), expected[before + offset as usize..end]);
}

/// A synchronisation, called until it is complete: each call goes on with the state of the response before it.
async fn sync_case(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.usize(..60);
    let styles: [fn(usize) -> Style; 2] = [
        |_| Style::Exchange,
        |number| {
            [
                Style::OtherPrefixes,
                Style::DefaultNamespaces,
                Style::Exchange,
            ][number * 5 % 3]
        },
    ];
    let turns: Vec<Turn> = (0..random.usize(..60))
        .map(|_| turn(&mut random, true))
        .collect();
    let server = Server::new(&[count]).turns(turns).set(|state| {
        state.limit = random.usize(1..20);
        state.style = styles[random.usize(..2)];
    });
    let layer = follow().seed(seed).max_sync(random.u64(500..20_000));
    let (mut got, mut state) = (Vec::new(), String::new());
    for calls in 0.. {
        assert!(calls < 200, "it goes on for ever");
        let body = sync_items(&format!("<m:SyncState>{state}</m:SyncState>"));
        let response = layer
            .layer(server.clone())
            .oneshot(request(&body, None))
            .await;
        // An error or a refusal of the first page: the same again.
        let Ok(response) = response else { continue };
        let (text, error) = read(response.into_body()).await;
        assert!(error.is_none(), "{error:?}");
        if text.contains("ErrorServerBusy") || text.contains("sign in") {
            continue;
        }
        let reply = reply(&text);
        got.extend(reply.messages.into_iter().flatten());
        state = reply.state;
        assert_eq!(state, format!("s{}", got.len()));
        if reply.last == "true" {
            break;
        }
    }
    assert_eq!(
        got,
        (0..count)
            .map(|item| format!("0-{item}"))
            .collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn each_item_arrives_once_or_an_error_says_from_where() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse().ok())
    };
    if let Some(seed) = number("EWS_TEST_SEED") {
        case(seed).await;
        return sync_case(seed).await;
    }
    let cases = number("EWS_TEST_CASES").unwrap_or(500);
    for _ in 0..cases {
        let seed = fastrand::u64(..);
        for failed in [
            tokio::spawn(case(seed)).await,
            tokio::spawn(sync_case(seed)).await,
        ] {
            assert!(failed.is_ok(), "EWS_TEST_SEED={seed}");
        }
    }
}
