//! No message is ever attributed to the wrong member: responses to something else, with a message too many, or with ids that
//! were not asked for, through the whole layer. Virtual time.

mod batch_server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::batch_splitter::{
    BatchReport, BatchSplitterLayer, BatchStats, EwsBatchFormat, GraphBatchFormat,
};
use tower_ews::body::ReplayBody;

use self::batch_server::requests::case_of;
use self::batch_server::service::{Reply, TableServer};
use self::batch_server::{Fortune, Member, Seen, Style, reply};

/// What a caller got, and what the server saw of each member: how often it did it.
struct Ended {
    response: Result<String, String>,
    stats: BatchStats,
    requests: usize,
    done: BTreeMap<usize, usize>,
}

impl Ended {
    /// The members that have a success of their own in the response, in its order.
    fn successes(&self, operation: &str) -> Vec<usize> {
        let Ok(body) = &self.response else {
            return Vec::new();
        };
        let begin = format!("<m:{operation}ResponseMessage");
        let entries = body.split(&begin).skip(1);
        let entries = entries.filter(|entry| entry.contains(">NoError<"));
        let number = |entry: &str| {
            let at = entry.find("tok-").expect("a success names its member") + 4;
            entry[at..at + 4].parse().unwrap()
        };
        entries.map(number).collect()
    }

    fn body(&self) -> &str {
        self.response.as_deref().unwrap()
    }
}

/// Sends a batch of `members` in parts of `size`. The server does what it is asked for, and says what `says` makes of it: for
/// the number of the request and what it asks for, which may be changed.
async fn send(
    operation: &'static str,
    members: usize,
    size: usize,
    mut says: impl FnMut(usize, &mut Seen) + Send + 'static,
) -> Ended {
    let done = Arc::new(Mutex::new(BTreeMap::new()));
    let counted = Arc::clone(&done);
    let server = TableServer::new(1, move |number, seen| {
        for member in seen.numbers() {
            *counted.lock().unwrap().entry(member).or_insert(0) += 1;
        }
        let mut said = Seen {
            operation: seen.operation.clone(),
            members: seen.members.clone(),
            ..Seen::default()
        };
        says(number, &mut said);
        Reply::Xml(200, reply(&said, Style::Usual, |_| Fortune::Done))
    });
    let layer = BatchSplitterLayer::new(EwsBatchFormat::new()).seed(1);
    let service = layer
        .start_members(size)
        .max_members(size)
        .layer(server.clone());
    let request = case_of(operation).request(Style::Usual, members);
    let mut stats = BatchStats::default();
    let response = match service.oneshot(Request::new(request.into())).await {
        Ok(response) => {
            let report: BatchReport = response.extensions().get().cloned().unwrap();
            let body = response.into_body().collect().await;
            stats = report.stats();
            body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap())
        }
        Err(error) => Err(error),
    };
    let done = done.lock().unwrap().clone();
    Ended {
        response: response.map_err(|error| error.to_string()),
        stats,
        requests: server.got().len(),
        done,
    }
}

fn one_more(seen: &mut Seen) {
    let more: Member = seen.members[0].clone();
    seen.members.push(more);
}

fn of_another_operation(seen: &mut Seen) {
    seen.operation = "GetFolder".to_owned();
}

/// What is wrong with a response.
type Wrong = fn(&mut Seen);

const WRONG: [(&str, Wrong); 2] = [
    ("one more", one_more),
    ("of another operation", of_another_operation),
];

#[tokio::test(start_paused = true)]
async fn a_read_is_asked_for_again() {
    for (name, wrong) in WRONG {
        // Once, whatever the size of the part.
        for (members, size) in [(20, 10), (11, 10), (20, 1)] {
            for number in 0..2 {
                let ended = send("GetItem", members, size, move |request, seen| {
                    if request == number {
                        wrong(seen);
                    }
                })
                .await;
                let expected: Vec<usize> = (0..members).collect();
                let what = format!("{name}, {members} in {size}, {number}");
                assert_eq!(ended.successes("GetItem"), expected, "{what}");
                assert_eq!(ended.stats.done, members, "{what}");
            }
        }
        // Whenever member 7 is asked for.
        let ended = send("GetItem", 20, 10, move |_, seen| {
            if seen.numbers().contains(&7) {
                wrong(seen);
            }
        })
        .await;
        let expected: Vec<usize> = (0..20).filter(|member| *member != 7).collect();
        assert_eq!(ended.successes("GetItem"), expected, "{name}");
        assert_eq!((ended.stats.done, ended.stats.not_executed), (19, 1));
        assert!(ended.requests < 20, "{name}: {}", ended.requests);
        // Always: there is nothing to be had, and that is no success.
        let ended = send("GetItem", 1000, 100, move |_, seen| wrong(seen)).await;
        assert!(ended.response.is_err(), "{name}");
        assert!(ended.requests <= 6, "{name}: {}", ended.requests);
    }
}

#[tokio::test(start_paused = true)]
async fn what_must_not_be_done_twice_is_in_doubt() {
    for (name, wrong) in WRONG {
        for (members, size) in [(20, 10), (11, 10)] {
            for number in 0..2 {
                let ended = send("CreateItem", members, size, move |request, seen| {
                    if request == number {
                        wrong(seen);
                    }
                })
                .await;
                let what = format!("{name}, {members} in {size}, {number}");
                assert!(ended.done.values().all(|times| *times == 1), "{what}");
                let unknown = if members == 11 && number == 1 { 1 } else { 10 };
                let successes = ended.successes("CreateItem");
                assert_eq!(successes.len(), members - unknown, "{what}");
                assert_eq!(ended.stats.unknown, unknown, "{what}");
                let texts = ended.body().matches("It is not known whether").count();
                assert_eq!(texts, unknown, "{what}");
            }
        }
        // Always: the first part, and one small one after it.
        let ended = send("CreateItem", 1000, 10, move |_, seen| wrong(seen)).await;
        assert!(ended.response.is_err(), "{name}");
        assert_eq!((ended.requests, ended.done.len()), (2, 11), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_idempotent_is_done_again() {
    for (name, wrong) in WRONG {
        for number in 0..2 {
            let ended = send("DeleteItem", 20, 10, move |request, seen| {
                if request == number {
                    wrong(seen);
                }
            })
            .await;
            let expected: Vec<usize> = (0..20).collect();
            assert_eq!(ended.successes("DeleteItem"), expected, "{name}");
            let twice = ended.done.values().filter(|times| **times == 2).count();
            assert_eq!(twice, 10, "{name}");
        }
        // It may have been done each time.
        let ended = send("DeleteItem", 20, 10, move |_, seen| {
            if seen.numbers().contains(&7) {
                wrong(seen);
            }
        })
        .await;
        assert_eq!((ended.stats.done, ended.stats.unknown), (19, 1), "{name}");
        assert!(!ended.successes("DeleteItem").contains(&7), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_was_not_asked_for_is_nobodys() {
    // Of nobody, of a later part, and of an earlier one.
    for other in [77, 15, 0] {
        let ended = send("ExportItems", 20, 5, move |_, seen| {
            for member in &mut seen.members {
                if member.number() == 7 {
                    member.token = Some(format!("tok-00{other:02}"));
                }
            }
        })
        .await;
        let expected: Vec<usize> = (0..20).filter(|member| *member != 7).collect();
        assert_eq!(ended.successes("ExportItems"), expected, "{other}");
        assert_eq!(ended.body().matches("other members").count(), 1, "{other}");
        assert_eq!((ended.stats.done, ended.stats.not_executed), (19, 1));
    }
}

/// Sends 60 requests of this method in a Graph batch. The server responds with the ids that `ids` makes of those that it was
/// asked for. Returns what it saw, and id and status of each response.
async fn graph(
    method: &'static str,
    ids: impl Fn(usize, Vec<usize>) -> Vec<usize> + Clone + Send + 'static,
) -> (BTreeMap<usize, usize>, Vec<(usize, u64)>, BatchStats) {
    let done = Arc::new(Mutex::new((0, BTreeMap::new())));
    let counted = Arc::clone(&done);
    let server = service_fn(move |request: Request<ReplayBody>| {
        let body: serde_json::Value = serde_json::from_slice(&request.body().to_bytes()).unwrap();
        let asked: Vec<usize> = body["requests"]
            .as_array()
            .unwrap()
            .iter()
            .map(id_of)
            .collect();
        let said = {
            let (number, done) = &mut *counted.lock().unwrap();
            for id in &asked {
                *done.entry(*id).or_insert(0) += 1;
            }
            *number += 1;
            ids(*number - 1, asked)
        };
        let said = said
            .iter()
            .map(|id| format!(r#"{{"id":"{id}","status":200}}"#));
        let body = format!(
            r#"{{"responses":[{}]}}"#,
            said.collect::<Vec<_>>().join(",")
        );
        std::future::ready(Ok::<_, BoxError>(Response::new(
            Full::<bytes::Bytes>::from(body),
        )))
    });
    let requests =
        (0..60).map(|id| format!(r#"{{"id":"{id}","method":"{method}","url":"/{id}"}}"#));
    let body = format!(
        r#"{{"requests":[{}]}}"#,
        requests.collect::<Vec<_>>().join(",")
    );
    let request = Request::post("https://graph.microsoft.com/v1.0/$batch").body(body.into());
    let service = BatchSplitterLayer::new(GraphBatchFormat::new())
        .seed(1)
        .layer(server);
    let response = service.oneshot(request.unwrap()).await.unwrap();
    let report: BatchReport = response.extensions().get().cloned().unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let responses = body["responses"].as_array().unwrap().iter();
    let responses = responses.map(|one| (id_of(one), one["status"].as_u64().unwrap()));
    let done = done.lock().unwrap().1.clone();
    (done, responses.collect(), report.stats())
}

fn id_of(value: &serde_json::Value) -> usize {
    value["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn graph_responses_go_by_the_ids_that_were_asked_for() {
    // The second response has others: those of the part before, of a later one, of nobody, and one more than was asked for.
    type Ids = fn(Vec<usize>) -> Vec<usize>;
    let cases: [(Ids, bool); 4] = [
        (|ids| ids.iter().map(|id| id - 20).collect(), false),
        (|ids| ids.iter().map(|id| id + 20).collect(), false),
        (|ids| ids.iter().map(|id| id + 600).collect(), false),
        (|ids| [&[999][..], &*ids, &[5]].concat(), true),
    ];
    for (other, own) in cases {
        for (method, again) in [("GET", true), ("PUT", true), ("POST", false)] {
            let ids = move |number, ids| if number == 1 { other(ids) } else { ids };
            let (done, responses, stats) = graph(method, ids).await;
            let order: Vec<usize> = responses.iter().map(|(id, _)| *id).collect();
            assert_eq!(order, (0..60).collect::<Vec<_>>(), "{method}");
            let unknown = if own || again { 0 } else { 20 };
            let lost = responses.iter().filter(|(_, status)| *status == 500);
            assert_eq!(lost.count(), unknown, "{method}");
            assert_eq!((stats.unknown, stats.done), (unknown, 60 - unknown));
            let twice = done.values().filter(|times| **times == 2).count();
            assert_eq!(twice, if again && !own { 20 } else { 0 }, "{method}");
        }
    }
}
