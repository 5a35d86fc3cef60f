//! GetAppManifests through the batch splitter: its ids can be the words of one text, and it responds with one list or another.

mod batch_server;
mod schema;

use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, ServiceExt};
use tower_ews::batch_splitter::{
    Batch, BatchError, BatchFormat, BatchReport, BatchSplitterLayer, BatchStats, EwsBatch,
    EwsBatchFormat, PartOutcome, PartResponse,
};
use tower_ews::body::ReplayBody;
use tower_ews::body::Rope;
use tower_ews::soap::Outline;

use self::batch_server::requests::case_of;
use self::batch_server::service::{Reply, TableServer, chopped, meaning};
use self::batch_server::untouched::manifests;
use self::batch_server::{Fortune, Seen, Style, reply};

fn random() -> fastrand::Rng {
    let seed = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    eprintln!("EWS_TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn batch(body: impl Into<ReplayBody>) -> Option<EwsBatch> {
    EwsBatchFormat::new().batch(&Request::new(body.into()))
}

/// The list of a request, as it is written.
fn list(request: &[u8]) -> &str {
    let request = std::str::from_utf8(request).unwrap();
    let (_, list) = request.split_once("<m:ExtensionIds>").unwrap();
    list.split_once("</m:ExtensionIds>").unwrap().0
}

#[test]
fn parts_have_the_words_of_their_members() {
    for (ids, members, expected) in [
        ("a b c", &[0, 2][..], "a c"),
        ("a b c", &[0, 1], "a b "),
        ("a b c", &[1, 2], "b c"),
        ("a b c", &[1], "b "),
        ("a b c", &[0, 1, 2], "a b c"),
        // Each keeps what is behind it, and the list what is around it.
        (" \ta\r\nb\tc  d\n", &[0], " \ta\r\n\n"),
        (" \ta\r\nb\tc  d\n", &[0, 2], " \ta\r\nc  \n"),
        (" \ta\r\nb\tc  d\n", &[1, 3], " \tb\td\n"),
        (" \ta\r\nb\tc  d\n", &[3], " \td\n"),
        ("<t:a/> <t:b/> <!-- --><t:c/>", &[0, 2], "<t:a/> <t:c/>"),
    ] {
        let request = manifests("", ids);
        let mut batch = batch(request.clone()).unwrap();
        let part = batch.part(members).to_bytes();
        assert_eq!(list(&part), expected, "{ids:?} {members:?}");
        let whole = String::from_utf8(part.to_vec()).unwrap();
        assert_eq!(whole.replace(expected, ids), request);
    }
}

#[test]
fn what_it_is_asked_besides_its_ids() {
    let all = |value: &str| {
        let settings =
            format!("<m:IncludeAllInstalledAddIns>{value}</m:IncludeAllInstalledAddIns>");
        batch(manifests(&settings, "a b")).is_some()
    };
    assert!(all("false") && all(" 0\n") && all("f<!-- -->alse"));
    assert!(!(all("true") || all("1") || all("") || all("maybe") || all("&unheard;")));
    for (add_ins, cut) in [
        ("<m:AddIns/>", true),
        ("<m:AddIns> <!-- --> </m:AddIns>", true),
        ("<m:AddIns><t:AddIn/></m:AddIns>", false),
    ] {
        assert_eq!(batch(manifests(add_ins, "a b")).is_some(), cut, "{add_ins}");
    }
    // Its own operation's alone.
    let other = case_of("GetItem").request(Style::Usual, 2);
    let with = "</m:ItemIds><m:AddIns><t:AddIn/></m:AddIns>";
    assert!(batch(other.replace("</m:ItemIds>", with)).is_some());
}

/// Any members of any list: the words of the part are theirs, its bytes come from the request, and its outline is what it says.
#[test]
fn any_members_are_a_list() {
    const CASES: usize = 2_000;
    let mut random = random();
    for _ in 0..CASES {
        let spaces = [" ", "\t", "\r", "\n", "\r\n", " \t\r\n "];
        let mut ids = ["", " ", "\r\n\t"][random.usize(..3)].to_owned();
        let count = random.usize(2..40);
        for number in 0..count {
            let word = ["id", "7F0C2A9E-51D3", "é", ">"][random.usize(..4)];
            ids += &format!("{word}{number}{}", spaces[random.usize(..6)]);
        }
        if random.bool() {
            ids.truncate(ids.trim_end().len());
        }
        let request = manifests("", &ids);
        let pieces = match random.bool() {
            true => vec![request.clone().into()],
            false => chopped(request.as_bytes(), &mut random),
        };
        let mut batch = batch(ReplayBody::from_pieces(pieces)).unwrap();
        assert_eq!(batch.members(), count);
        let some = random.u8(1..4);
        let mut members: Vec<usize> = (0..count).filter(|_| random.u8(..4) < some).collect();
        if members.is_empty() {
            members.push(random.usize(..count));
        }
        let part = batch.part(&members);
        let bytes = part.to_bytes();
        let words: Vec<&str> = ids.split_ascii_whitespace().collect();
        let expected: Vec<&str> = members.iter().map(|member| words[*member]).collect();
        let found: Vec<&str> = list(&bytes).split_ascii_whitespace().collect();
        assert_eq!(found, expected, "{ids:?} {members:?}");
        let parsed = Outline::parse(&bytes).unwrap();
        assert_eq!(
            format!("{:?}", part.outline().unwrap()),
            format!("{parsed:?}")
        );
        let at: u64 = members
            .iter()
            .map(|member| batch.member_bytes(*member))
            .sum();
        let ranges = parsed.array().unwrap().members().iter();
        assert_eq!(at, ranges.map(|range| range.len() as u64).sum::<u64>());
    }
    println!("{CASES} lists of words");
}

struct Ended {
    text: String,
    stats: BatchStats,
}

async fn send(
    server: &TableServer,
    request: String,
    members: usize,
    parallel: usize,
) -> Result<Ended, BoxError> {
    let service = BatchSplitterLayer::new(EwsBatchFormat::new())
        .start_members(members)
        .max_members(members)
        .parallel(parallel)
        .layer(server.clone());
    let response: Response<_> = service.oneshot(Request::new(request.into())).await?;
    let merged: BatchReport = response.extensions().get().cloned().unwrap();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Ended {
        text: String::from_utf8(body.to_vec())?,
        stats: merged.stats(),
    })
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_ids() {
    const IDS: usize = 10_000;
    for (case, parallel) in [(0, 1), (1, 3)] {
        let cases = batch_server::requests::CASES.iter();
        let mut cases = cases.filter(|case| case.operation == "GetAppManifests");
        let request = cases.nth(case).unwrap().request(Style::Default, IDS);
        let serve =
            |_: usize, seen: &Seen| Reply::Xml(200, reply(seen, Style::Usual, |_| Fortune::Done));
        let server = TableServer::new(0, serve);
        let ended = send(&server, request.clone(), 300, parallel).await.unwrap();
        assert_eq!((ended.stats.done, ended.stats.parts), (IDS, 34));
        let whole = reply(&Seen::read(request.as_bytes()), Style::Usual, |_| {
            Fortune::Done
        });
        assert_eq!(meaning(&ended.text), meaning(&whole));
        let mut asked = Vec::new();
        for got in server.got() {
            asked.extend(Seen::read(&got.body).numbers());
        }
        asked.sort_unstable();
        assert_eq!(asked, (0..IDS).collect::<Vec<_>>());
    }
}

/// A good response with this in it.
fn response(style: Style, inside: &str) -> String {
    style.envelope(&format!(
        "<m:GetAppManifestsResponse ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{inside}</m:GetAppManifestsResponse>"
    ))
}

/// Apps and what is said of the mailbox, where they have a name.
fn apps(names: &[&str], metadata: &str) -> String {
    let apps: String = names
        .iter()
        .map(|name| format!(" <t:App><t:Metadata><t:AppStatus>{name}</t:AppStatus></t:Metadata><t:Manifest>QUJD</t:Manifest></t:App>"))
        .collect();
    let metadata = match metadata {
        "" => String::new(),
        text => format!(" <t:Metadata><t:CustomApps>{text}</t:CustomApps></t:Metadata>"),
    };
    format!("<m:Apps>{apps}{metadata}</m:Apps>")
}

fn some(names: &[&str]) -> String {
    let manifests = names
        .iter()
        .map(|name| format!("<m:Manifest>{name}</m:Manifest> "));
    format!(
        "<m:Manifests>{}</m:Manifests>",
        manifests.collect::<String>()
    )
}

const EMPTY: [&str; 4] = [
    "<m:Apps/>",
    "<m:Apps></m:Apps>",
    "<m:Manifests />",
    "<m:Manifests> </m:Manifests>",
];

#[tokio::test(start_paused = true)]
async fn lists_are_one_list() {
    let none = String::new;
    let mut rows: Vec<([String; 3], String)> = vec![
        // What is said of the mailbox is said once.
        (
            [
                apps(&["a", "b"], "x"),
                apps(&["c"], "y"),
                apps(&["d", "e"], "z"),
            ],
            apps(&["a", "b", "c", "d", "e"], "x"),
        ),
        (
            [apps(&["a"], ""), apps(&["b"], "y"), apps(&["c"], "")],
            apps(&["a", "b", "c"], ""),
        ),
        (
            [apps(&[], "x"), apps(&["b"], ""), apps(&[], "z")],
            apps(&["b"], "x"),
        ),
        (
            [some(&["YQ=="]), some(&["Yg==", "Yg=="]), some(&["YQ=="])],
            some(&["YQ==", "Yg==", "Yg==", "YQ=="]),
        ),
        // One without a list has an empty one.
        ([none(), none(), none()], apps(&[], "")),
        (
            [none(), apps(&["b"], "y"), apps(&["c"], "z")],
            apps(&["b", "c"], ""),
        ),
        (
            [some(&["YQ=="]), none(), some(&["Yg=="])],
            some(&["YQ==", "Yg=="]),
        ),
        // One of the other kind is as good, if there is nothing in it.
        (
            [some(&["YQ=="]), apps(&[], "y"), some(&["Yg=="])],
            some(&["YQ==", "Yg=="]),
        ),
    ];
    for empty in EMPTY {
        let empty = empty.to_owned();
        rows.push((
            [apps(&["a"], "x"), empty.clone(), apps(&["c"], "")],
            apps(&["a", "c"], "x"),
        ));
        rows.push((
            [some(&["YQ=="]), some(&["Yg=="]), empty.clone()],
            some(&["YQ==", "Yg=="]),
        ));
        let rest = match empty.contains("Apps") {
            true => [apps(&["b"], ""), apps(&["c"], "")],
            false => [some(&["Yg=="]), some(&["Yw=="])],
        };
        let all = match empty.contains("Apps") {
            true => apps(&["b", "c"], ""),
            false => some(&["Yg==", "Yw=="]),
        };
        let [second, third] = rest;
        rows.push(([empty, second, third], all));
    }
    let mut texts = Vec::new();
    let mut rounds = 0;
    for (given, expected) in &rows {
        for first in Style::ALL {
            for later in Style::ALL {
                let given = given.clone();
                let server = TableServer::new(0, move |number, _| {
                    let style = if number == 0 { first } else { later };
                    Reply::Xml(200, response(style, &given[number]))
                });
                let request = manifests("", "a b c d e f");
                let ended = send(&server, request, 2, 1).await.unwrap();
                let expected = meaning(&response(Style::Usual, expected));
                assert_eq!(meaning(&ended.text), expected, "{first:?} {later:?}");
                assert_eq!((ended.stats.done, ended.stats.parts), (6, 3));
                texts.push(ended.text);
                rounds += 1;
            }
        }
    }
    for schema in schema::schemas() {
        let names = std::fs::read_to_string(schema.with_file_name("messages.xsd")).unwrap();
        if names.contains("name=\"ExtensionIds\"") {
            let complaint = schema::complaint("batch_app_manifests", &schema, &texts);
            assert_eq!(complaint, None);
            println!("{} texts keep {}", texts.len(), schema.display());
        }
    }
    println!("{rounds} merged responses");
}

#[tokio::test(start_paused = true)]
async fn a_list_of_the_other_kind_is_no_response() {
    let pairs = [
        (apps(&["a"], "x"), some(&["YQ=="])),
        (some(&["YQ=="]), apps(&["a"], "x")),
        (EMPTY[0].to_owned(), some(&["YQ=="])),
        (String::new(), some(&["YQ=="])),
    ];
    for (first, other) in pairs {
        for parallel in [1, 3] {
            for lasts in [false, true] {
                let (first, other) = (first.clone(), other.clone());
                let server = TableServer::new(0, move |number, seen| {
                    // Of c, as long as that lasts.
                    let its = seen.members.iter().any(|member| member.text == "c");
                    let inside = match its && (lasts || number < 3) {
                        true => &other,
                        false => &first,
                    };
                    Reply::Xml(200, response(Style::Usual, inside))
                });
                let ended = send(&server, manifests("", "a b c d e f"), 2, parallel).await;
                let alone = |word: &str| {
                    let got = server.got().into_iter();
                    got.filter(|got| list(&got.body).trim() == word).count()
                };
                assert!(alone("c") >= 1, "it is sent again in smaller parts");
                assert_eq!(alone("d"), 1);
                match ended {
                    Ok(ended) => {
                        assert!(!lasts, "{}", ended.text);
                        assert_eq!((ended.stats.done, ended.stats.resent), (6, 2));
                    }
                    Err(error) => {
                        let error = error.downcast_ref::<BatchError>();
                        let Some(BatchError::Incomplete { missing, cause, .. }) = error else {
                            panic!("{error:?}");
                        };
                        assert_eq!(*missing, 1);
                        assert!(cause.contains("other lists"), "{cause}");
                    }
                }
            }
        }
    }
}

#[test]
fn lists_that_nobody_knows() {
    let both = format!("{}{}", apps(&["a"], ""), some(&["YQ=="]));
    let metadata = "<t:Metadata><t:CustomApps>y</t:CustomApps></t:Metadata></m:Apps>";
    for inside in [
        both,
        apps(&["a"], "x").replace("</m:Apps>", metadata),
        apps(&["a"], "x").replace("</m:Apps>", "<t:App/></m:Apps>"),
    ] {
        // Smaller parts may be readable.
        for members in [&[0, 1][..], &[0]] {
            let mut batch = batch(manifests("", "a b c")).unwrap();
            batch.part(members);
            let head = Response::new(()).into_parts().0;
            let body = Rope::from(response(Style::Usual, &inside));
            let PartResponse::Failure(whole) = batch.response(members, &head, body) else {
                panic!("{inside}");
            };
            assert_eq!(whole.outcome, PartOutcome::Failed, "{inside}");
        }
    }
}
