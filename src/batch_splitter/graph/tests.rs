//! Tables: what is a batch, what its parts are, what responses mean.
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use serde_json::{Value, json};

use super::{GraphBatch, GraphBatchFormat};
use crate::batch_splitter::{
    Batch, BatchFormat, Explanation, Idempotency, MemberOutcome, Message, Order, PartFailure,
    PartOutcome, PartResponse, Retry,
};
use crate::body::ReplayBody;
use crate::body::rope::Rope;

const URI: &str = "https://graph.microsoft.com/v1.0/$batch";

fn request(body: impl Into<ReplayBody>) -> Request<ReplayBody> {
    Request::post(URI)
        .header("content-type", "application/json; charset=utf-8")
        .body(body.into())
        .unwrap()
}

fn batch(body: impl Into<ReplayBody>) -> Option<GraphBatch> {
    GraphBatchFormat::new().batch(&request(body))
}

/// A batch of requests with ids from 1, of these methods.
fn of(methods: &[&str]) -> GraphBatch {
    let requests: Vec<String> = methods
        .iter()
        .zip(1..)
        .map(|(method, id)| format!(r#"{{"id":"{id}","method":"{method}","url":"/me"}}"#))
        .collect();
    batch(format!(r#"{{"requests":[{}]}}"#, requests.join(","))).unwrap()
}

/// 1; 2 after 1; 3 after 2; 4 after 1 and 2.
fn chain() -> GraphBatch {
    batch(
        r#"{"requests":[{"id":"1","method":"POST","url":"/me"},
        {"id":"2","method":"POST","url":"/me","dependsOn":["1"]},
        {"id":"3","method":"POST","url":"/me","dependsOn":["2"]},
        {"id":"4","method":"POST","url":"/me","dependsOn":["1","2"]}]}"#,
    )
    .unwrap()
}

fn head(status: u16, headers: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

fn messages(batch: &mut GraphBatch, members: &[usize], body: &str) -> Vec<Message> {
    let response = batch.response(members, &head(200, &[]), Rope::from(body.to_owned()));
    match response {
        PartResponse::Messages { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

fn whole(
    batch: &mut GraphBatch,
    members: &[usize],
    head: &response::Parts,
    body: &str,
) -> PartFailure {
    match batch.response(members, head, Rope::from(body.to_owned())) {
        PartResponse::Failure(whole) => whole,
        other => panic!("{other:?}"),
    }
}

fn outcomes(batch: &mut GraphBatch, members: &[usize], body: &str) -> Vec<MemberOutcome> {
    let messages = messages(batch, members, body);
    messages.iter().map(|message| message.outcome).collect()
}

fn text(rope: &Rope) -> String {
    String::from_utf8(rope.to_bytes().to_vec()).unwrap()
}

const AGAIN: MemberOutcome = MemberOutcome::retry(None);

/// What does not say whether it was executed is worth a few more tries.
const COUNTED: Retry = Retry::new(None).max_retries(6);

fn again_in(millis: u64) -> MemberOutcome {
    MemberOutcome::retry(Some(Duration::from_millis(millis)))
}

#[test]
fn facts_of_a_batch() {
    let mut three = of(&["GET", "GET", "POST"]);
    assert_eq!(three.operation(), "$batch");
    assert_eq!(three.sizing_key(), "graph.microsoft.com/v1.0/$batch");
    assert_eq!(three.members(), 3);
    assert_eq!(three.max_members(), 20);
    assert_eq!(three.separator(), ",");
    assert_eq!(three.order(), Order::Free);
    assert_eq!(three.member_bytes(1), 37);
    assert_eq!(three.shared_bytes(), r#"{"requests":[]}"#.len() as u64);
    assert_eq!(three.part(&[1]).len(), 37 + three.shared_bytes());
    assert_eq!(
        (three.member_bytes(3), three.needs(3)),
        (0, [].as_slice()),
        "nobody there"
    );

    let cases: [(&[&str], Idempotency); 6] = [
        (&["GET", "get"], Idempotency::Safe),
        (&["GET", "DELETE"], Idempotency::Idempotent),
        (&["PUT", "GET"], Idempotency::Idempotent),
        (&["DELETE", "POST"], Idempotency::NonIdempotent),
        (&["GET", "PATCH"], Idempotency::NonIdempotent),
        (&["GET", "UNHEARD-OF"], Idempotency::NonIdempotent),
    ];
    for (methods, repeat) in cases {
        assert_eq!(of(methods).idempotency(), repeat, "{methods:?}");
    }
}

#[test]
fn what_is_no_batch_goes_through_untouched() {
    let member = |more: &str| format!(r#"{{"id":"2","method":"GET","url":"/me"{more}}}"#);
    let one = r#"{"id":"1","method":"GET","url":"/me"}"#;
    let of = |second: &str| format!(r#"{{"requests":[{one},{second}]}}"#);
    assert!(batch(of(&member(""))).is_some());
    for second in [
        member(r#","dependsOn":["1"]"#),
        member(r#","dependsOn":[]"#),
        member(r#","dependsOn":null"#),
        member(r#","dependsOn":["1"],"url2":"/users/$1x""#),
        member(r#","body":{"id":"1","if":1,"dependsOn":7}"#),
    ] {
        assert!(batch(of(&second)).is_some(), "{second}");
    }

    for (a, b) in [("1", "1"), ("1", "\\u0031")] {
        let body = format!(
            r#"{{"requests":[{{"id":"{a}","method":"GET","url":"/"}},{{"id":"{b}","method":"GET","url":"/"}}]}}"#
        );
        assert!(batch(body.clone()).is_none(), "{body}");
    }
    for second in [
        member(r#","dependsOn":["3"]"#),
        member(r#","dependsOn":["2"]"#),
        member(r#","dependsOn":"1""#),
        member(r#","dependsOn":[1]"#),
        member(r#","dependsOn":["1"],"dependsOn":["1"]"#),
        member(r#","DependsOn":["1"]"#),
        member(r#","ID":"3""#),
        member(r#","atomicityGroup":"g""#),
        member(r#","if":"$1 eq null""#),
        r#"{"id":"2","method":"PATCH","url":"/$1","dependsOn":["1"]}"#.into(),
        r#"{"id":"2","method":"PATCH","url":"$1/contacts","dependsOn":["1"]}"#.into(),
        r#"{"id":"2","method":"POST","url":"/a","dependsOn":["1"],"body":{"@odata.id":"$1"}}"#
            .into(),
        r#"{"id":"2","method":"GET"}"#.into(),
        r#"{"id":"2","url":"/me"}"#.into(),
        r#"{"id":2,"method":"GET","url":"/me"}"#.into(),
        r#"{"id":"\ud800","method":"GET","url":"/me"}"#.into(),
        r#"{"method":"GET","url":"/me"}"#.into(),
        "1".into(),
        "null".into(),
        "".into(),
    ] {
        assert!(batch(of(&second)).is_none(), "{second}");
    }
    // A later one, and so a circle too.
    assert!(
        batch(
            r#"{"requests":[{"id":"1","method":"GET","url":"/","dependsOn":["2"]},{"id":"2","method":"GET","url":"/"}]}"#
        )
        .is_none()
    );
    for body in [
        "".to_owned(),
        "{}".into(),
        "[]".into(),
        format!("[{one},{one}]"),
        format!(r#"{{"requests":[{one}]}}"#),
        format!(r#"{{"requests":{one}}}"#),
        format!(r#"{{"requests":[],"requests":[{one},{}]}}"#, member("")),
        format!(r#"{{"Requests":[{one},{}]}}"#, member("")),
        of(&member(""))[1..].to_owned(),
        of(&member("")) + "x",
        "\u{feff}".to_owned() + &of(&member("")),
    ] {
        assert!(batch(body.clone()).is_none(), "{body}");
    }
    assert!(batch(b"{\"requests\":[\xff]}".to_vec()).is_none());
    // Deeper than any parser that recurses would like.
    assert!(batch("[".repeat(1 << 20)).is_none());
    let deep = member(&format!(
        r#","body":{}{}"#,
        "[".repeat(1 << 20),
        "]".repeat(1 << 20)
    ));
    assert!(batch(of(&deep)).is_some());
}

#[test]
fn the_head_of_a_batch() {
    let body = || {
        ReplayBody::from(
            r#"{"requests":[{"id":"1","method":"GET","url":"/"},{"id":"2","method":"GET","url":"/"}]}"#,
        )
    };
    let format = GraphBatchFormat::new();
    for (method, uri, recognised) in [
        ("POST", URI, true),
        (
            "POST",
            "https://graph.microsoft.com/beta/%24batch?x=1",
            true,
        ),
        ("POST", "/v1.0/$batch", true),
        ("PUT", URI, false),
        ("POST", "https://graph.microsoft.com/v1.0/batch", false),
        ("POST", "https://graph.microsoft.com/v1.0/$batch/x", false),
    ] {
        let request = Request::builder().method(method).uri(uri);
        let request = request.body(body()).unwrap();
        assert_eq!(
            format.batch(&request).is_some(),
            recognised,
            "{method} {uri}"
        );
    }
    for (name, value, recognised) in [
        ("content-type", "application/JSON", true),
        ("content-type", "multipart/mixed; boundary=x", false),
        ("content-encoding", "gzip", false),
        ("content-encoding", "identity", true),
        ("accept", "application/json;odata.metadata=none", true),
        ("accept", "text/html, */*;q=0.1", true),
        ("accept", "multipart/mixed", false),
        ("prefer", "odata.continue-on-error", true),
        ("prefer", "odata.continue-on-error, Respond-Async", false),
    ] {
        let request = Request::post(URI).header(name, value).body(body()).unwrap();
        assert_eq!(
            format.batch(&request).is_some(),
            recognised,
            "{name}: {value}"
        );
    }
    let relative = Request::post("/v1.0/$batch").header("host", "contoso.test");
    let batch = format.batch(&relative.body(body()).unwrap()).unwrap();
    assert_eq!(batch.sizing_key(), "contoso.test/v1.0/$batch");
}

#[test]
fn a_part_is_made_of_the_callers_bytes() {
    let body = Bytes::from_static(
        b" {\"a\" : [\"]\"], \"requests\" : [ {\"id\":\"x\",\"method\":\"GET\",\"url\":\"/1\"} ,\n\
        { \"url\":\"/2\", \"id\":\"y\",\"method\":\"POST\", \"body\":{\"t\":\"],\\\"}\"} }\t,\
        {\"id\":\"z\",\"method\":\"GET\",\"url\":\"/3\"} ] , \"b\":null }\r\n",
    );
    let mut batch = batch(body.clone()).unwrap();
    let part = batch.part(&[1, 2]);
    assert_eq!(
        part.to_bytes(),
        " {\"a\" : [\"]\"], \"requests\" : [\
        { \"url\":\"/2\", \"id\":\"y\",\"method\":\"POST\", \"body\":{\"t\":\"],\\\"}\"} },\
        {\"id\":\"z\",\"method\":\"GET\",\"url\":\"/3\"}] , \"b\":null }\r\n"
    );
    let own = body.as_ptr_range();
    for piece in part.pieces() {
        assert!(own.contains(&piece.as_ptr()) || piece == ",", "{piece:?}");
    }
    let all = batch.part(&[0, 1, 2]);
    assert_eq!(all.pieces().len(), 1);
    assert_eq!(all.to_bytes(), body, "unchanged, its spaces too");
}

#[test]
fn a_dependency_that_has_succeeded_is_cut_out() {
    // The property as it stands, and as it is in a part with a, with b, with neither.
    let cases = [
        (
            r#"{"id":"c","dependsOn":["a","b"],"#,
            r#"{"id":"c","dependsOn":["a"],"#,
            r#"{"id":"c","dependsOn":["b"],"#,
            r#"{"id":"c","#,
        ),
        (
            r#"{ "dependsOn" : [ "A" , "\u0062" , "a" ] , "id":"c","#,
            r#"{ "dependsOn" : ["A","a"] , "id":"c","#,
            r#"{ "dependsOn" : ["\u0062"] , "id":"c","#,
            r#"{ "id":"c","#,
        ),
        (
            r#"{"id":"c" , "dependsOn":["a"] ,"#,
            r#"{"id":"c" , "dependsOn":["a"] ,"#,
            r#"{"id":"c" ,"#,
            r#"{"id":"c" ,"#,
        ),
    ];
    for (property, with_a, with_b, with_none) in cases {
        let rest = r#""method":"GET","url":"/c"}"#;
        let a = r#"{"id":"a","method":"GET","url":"/a"}"#;
        let b = r#"{"id":"b","method":"GET","url":"/b"}"#;
        let d = r#"{"id":"d","method":"GET","url":"/d"}"#;
        let mut batch = batch(format!(r#"{{"requests":[{a},{b},{property}{rest},{d}]}}"#)).unwrap();
        let cases: [(&[usize], String); 4] = [
            (&[0, 1, 2], format!("{a},{b},{property}{rest}")),
            (&[0, 2, 3], format!("{a},{with_a}{rest},{d}")),
            (&[1, 2], format!("{b},{with_b}{rest}")),
            (&[2, 3], format!("{with_none}{rest},{d}")),
        ];
        for (members, expected) in cases {
            let part = batch.part(members).to_bytes();
            assert_eq!(part, format!(r#"{{"requests":[{expected}]}}"#));
            assert!(serde_json::from_slice::<Value>(&part).is_ok());
        }
    }
    // As the last property.
    let body = r#"{"requests":[{"id":"1","method":"GET","url":"/"},{"id":"2","method":"GET","url":"/2", "dependsOn":["1"] },{"id":"3","method":"GET","url":"/"}]}"#;
    assert_eq!(
        batch(body).unwrap().part(&[1]).to_bytes(),
        r#"{"requests":[{"id":"2","method":"GET","url":"/2" }]}"#
    );
    let chain = chain();
    let needs: Vec<&[usize]> = (0..4).map(|member| chain.needs(member)).collect();
    assert_eq!(needs, [&[][..], &[0], &[1], &[0, 1]]);
}

#[test]
fn responses_are_found_by_id() {
    let body = "{\"@odata.nextLink\":\"n\", \"responses\" : [ {\"status\":200,\"id\":\"3\"} , \
        {\"id\":\"1\",\"status\":204,\"body\":\"]}\"},{\"id\":\"9\",\"status\":200},{\"status\":200},7,\
        {\"id\":\"2\",\"status\":404} ], \"x\":1 }\n";
    let mut batch = of(&["GET", "POST", "POST", "GET"]);
    // In one piece, in many, and in empty ones too.
    for step in [1, 7, body.len()] {
        let pieces: Vec<Bytes> = body
            .as_bytes()
            .chunks(step)
            .map(Bytes::copy_from_slice)
            .collect();
        let addresses: Vec<_> = pieces.iter().map(|piece| piece.as_ptr_range()).collect();
        let rope = pieces.into_iter().collect();
        let response = batch.response(&[0, 1, 2], &head(200, &[]), rope);
        let PartResponse::Messages { frame, messages } = response else {
            panic!("{response:?}");
        };
        assert_eq!(
            (&*text(&frame.0), &*text(&frame.1)),
            (
                "{\"@odata.nextLink\":\"n\", \"responses\" : [",
                "], \"x\":1 }\n"
            )
        );
        let bytes: Vec<String> = messages
            .iter()
            .map(|message| text(&message.bytes))
            .collect();
        assert_eq!(
            bytes,
            [
                r#"{"id":"1","status":204,"body":"]}"}"#,
                r#"{"id":"2","status":404}"#,
                r#"{"status":200,"id":"3"}"#,
            ]
        );
        let outcomes: Vec<MemberOutcome> = messages.iter().map(|message| message.outcome).collect();
        assert_eq!(
            outcomes,
            [
                MemberOutcome::Done,
                MemberOutcome::Failed,
                MemberOutcome::Done
            ]
        );
        // The server's own bytes, not copies.
        for piece in messages.iter().flat_map(|message| message.bytes.pieces()) {
            assert!(addresses.iter().any(|own| own.contains(&piece.as_ptr())));
        }
    }
}

#[test]
fn what_a_status_means() {
    use MemberOutcome::{Done, Failed, Unknown};
    for status in 100..600 {
        let mut batch = of(&["GET", "POST", "PATCH", "DELETE"]);
        let responses: Vec<String> = (1..=4)
            .map(|id| format!(r#"{{"id":"{id}","status":{status}}}"#))
            .collect();
        let body = format!(r#"{{"responses":[{}]}}"#, responses.join(","));
        let counted = MemberOutcome::Retry(COUNTED);
        let expected = match status {
            200..=399 => [Done; 4],
            429 | 503 | 509 => [AGAIN; 4],
            408 | 425 => [counted; 4],
            400..=499 | 501 | 505..=508 | 510 | 511 => [Failed; 4],
            _ => {
                let maybe = MemberOutcome::Retry(COUNTED.maybe_executed());
                [counted, Unknown, Unknown, maybe]
            }
        };
        assert_eq!(
            outcomes(&mut batch, &[0, 1, 2, 3], &body),
            expected,
            "{status}"
        );
    }
    let odd = r#"{"responses":[{"id":"1"},{"id":"2","status":"200"},{"id":"3","status":2.5e2},{"id":"4","status":-1}]}"#;
    let mut batch = of(&["POST"; 4]);
    assert_eq!(outcomes(&mut batch, &[0, 1, 2, 3], odd), [Unknown; 4]);
}

#[test]
fn each_has_its_own_retry_after() {
    let cases: [(&str, MemberOutcome); 16] = [
        (r#","headers":{"Retry-After":"5"}"#, again_in(5000)),
        (r#","headers":{"retry-after":"0.249","x":1}"#, again_in(249)),
        (r#","headers":{"RETRY-AFTER":12}"#, again_in(12_000)),
        (
            r#","headers":{"Retry-After":"Tue, 06 Oct 2026 10:02:00 GMT","date":"Tue, 06 Oct 2026 10:00:00 GMT"}"#,
            again_in(120_000),
        ),
        (
            r#","headers":{"Retry-After":"Tue, 06 Oct 2026 10:02:00 GMT"}"#,
            again_in(60_000),
        ),
        // A list, or a second header: the longest.
        (r#","headers":{"Retry-After":"30,120"}"#, again_in(120_000)),
        (r#","headers":{"Retry-After":["5"]}"#, again_in(5000)),
        (
            r#","headers":{"Retry-After":"1","retry-after":"3"}"#,
            again_in(3000),
        ),
        (r#","headers":{"x-ms-retry-after-ms":1500}"#, again_in(1500)),
        // The outer one, where its own cannot be read.
        (r#","headers":{"Retry-After":"soon"}"#, again_in(7000)),
        (r#","headers":{"Retry-After":"a\nb"}"#, again_in(7000)),
        (r#","headers":{"Retry-After":[{}]}"#, again_in(7000)),
        (r#","headers":[]"#, again_in(7000)),
        (r#","headers":null"#, again_in(7000)),
        ("", again_in(7000)),
        (
            r#","headers":{"Retry-After":"99999999999999999999"}"#,
            MemberOutcome::retry(Some(Duration::MAX)),
        ),
    ];
    let head = head(
        200,
        &[
            ("retry-after", "7"),
            ("date", "Tue, 06 Oct 2026 10:01:00 GMT"),
        ],
    );
    for (headers, expected) in cases {
        let body = format!(
            r#"{{"responses":[{{"id":"1","status":429{headers}}},{{"id":"2","status":200}}]}}"#
        );
        let response = of(&["POST", "POST"]).response(&[0, 1], &head, Rope::from(body));
        let PartResponse::Messages { messages, .. } = response else {
            panic!("{response:?}");
        };
        assert_eq!(messages[0].outcome, expected, "{headers}");
        assert_eq!(messages[1].outcome, MemberOutcome::Done);
    }
}

#[test]
fn a_failed_dependency_is_no_failure_if_it_was_throttled() {
    let response = |statuses: &[(u8, u16)]| {
        let responses: Vec<String> = statuses
            .iter()
            .map(|(id, status)| format!(r#"{{"id":"{id}","status":{status}}}"#))
            .collect();
        format!(r#"{{"responses":[{}]}}"#, responses.join(","))
    };
    use MemberOutcome::{Done, Failed};
    type Statuses<'a> = &'a [(u8, u16)];
    let cases: [(Statuses<'_>, [MemberOutcome; 4]); 6] = [
        (
            &[(4, 424), (3, 424), (2, 424), (1, 429)],
            [AGAIN, AGAIN, AGAIN, AGAIN],
        ),
        (
            &[(1, 400), (2, 424), (3, 424), (4, 424)],
            [Failed, Failed, Failed, Failed],
        ),
        (
            &[(1, 201), (2, 503), (3, 424), (4, 424)],
            [Done, AGAIN, AGAIN, AGAIN],
        ),
        // Executed all the same.
        (
            &[(1, 429), (2, 424), (3, 201), (4, 424)],
            [AGAIN, AGAIN, Done, AGAIN],
        ),
        // Nobody knows why.
        (
            &[(1, 201), (2, 201), (3, 424), (4, 201)],
            [Done, Done, Failed, Done],
        ),
        (
            &[(1, 429), (2, 400), (3, 424), (4, 424)],
            [AGAIN, Failed, Failed, Failed],
        ),
    ];
    for (statuses, expected) in cases {
        let found = outcomes(&mut chain(), &[0, 1, 2, 3], &response(statuses));
        assert_eq!(found, expected, "{statuses:?}");
    }
    // What it depends on was done in an earlier part.
    assert_eq!(
        outcomes(&mut chain(), &[2, 3], &response(&[(3, 424), (4, 429)])),
        [Failed, AGAIN]
    );
}

#[test]
fn nobody_gets_the_response_of_another_one() {
    let mut batch = of(&["GET", "POST", "POST", "PUT"]);
    let body = r#"{"responses":[{"id":"2","status":200},{"id":"2","status":201},
        {"id":"3","status":200},{"id":"3","status":200},{"id":"5","status":200},{"id":4,"status":200}]}"#;
    let got = messages(&mut batch, &[0, 1, 2, 3], body);
    let found: Vec<MemberOutcome> = got.iter().map(|message| message.outcome).collect();
    assert_eq!(
        found,
        [
            MemberOutcome::Retry(COUNTED),
            MemberOutcome::Unknown,
            MemberOutcome::Done,
            MemberOutcome::Retry(COUNTED.maybe_executed()),
        ]
    );
    for (id, message) in ["1", "2", "3", "4"].iter().zip(&got) {
        let value: Value = serde_json::from_slice(&message.bytes.to_bytes()).unwrap();
        assert_eq!(value["id"], *id);
        if *id != "3" {
            assert_eq!(value["status"], 500);
            assert_eq!(value["body"]["error"]["code"], "OutcomeUnknown");
        }
    }
    // An id in another case is the same id.
    let mut batch = self::batch(
        r#"{"requests":[{"id":"Ab","method":"GET","url":"/"},{"id":"É","method":"GET","url":"/"}]}"#,
    )
    .unwrap();
    let body = r#"{"responses":[{"id":"\u00e9","status":200},{"id":"aB","status":200}]}"#;
    assert_eq!(
        outcomes(&mut batch, &[0, 1], body),
        [MemberOutcome::Done; 2]
    );
    // None of the last part is taken for one of this part.
    let mut batch = of(&["POST"; 3]);
    let body = r#"{"responses":[{"id":"1","status":200},{"id":"2","status":200}]}"#;
    assert_eq!(
        outcomes(&mut batch, &[1, 2], body),
        [MemberOutcome::Done, MemberOutcome::Unknown]
    );
}

#[test]
fn ids_that_differ_in_case_alone_are_told_apart_by_their_parts() {
    let mut batch = self::batch(
        r#"{"requests":[{"id":"a","method":"POST","url":"/"},{"id":"É","method":"POST","url":"/"},
        {"id":"A","method":"POST","url":"/","dependsOn":["a"]},{"id":"é","method":"POST","url":"/","dependsOn":["É"]},
        {"id":"b","method":"POST","url":"/","dependsOn":["A"]}]}"#,
    )
    .unwrap();
    let exclusive: Vec<Option<u64>> = (0..5).map(|member| batch.exclusive(member)).collect();
    assert_eq!(exclusive, [Some(0), Some(1), Some(0), Some(1), Some(4)]);
    let needs: Vec<&[usize]> = (0..5).map(|member| batch.needs(member)).collect();
    assert_eq!(needs, [&[][..], &[], &[0], &[1], &[2]]);
    // The server may write it in either case.
    for (members, id) in [([0, 1], "A"), ([0, 1], "a"), ([1, 2], "a"), ([1, 2], "A")] {
        let body = format!(r#"{{"responses":[{{"id":"{id}","status":201}}]}}"#);
        let found = outcomes(&mut batch, &members, &body);
        let at = usize::from(members[0] == 1);
        assert_eq!(found[at], MemberOutcome::Done);
        assert_eq!(found[1 - at], MemberOutcome::Unknown);
    }
    // Nobody can say which one is meant.
    let open = r#"{"requests":[{"id":"ab","method":"GET","url":"/"},{"id":"aB","method":"GET","url":"/"},
        {"id":"c","method":"GET","url":"/","dependsOn":["AB"]}]}"#;
    assert!(self::batch(open).is_none());
}

#[test]
fn responses_count_whatever_surrounds_them() {
    use MemberOutcome::{Done, Unknown};
    let inside = r#"{"responses":[{"id":"1","status":201},{"id":"2","status":429,"headers":{"Retry-After":"10"}}]}"#;
    for status in [
        200, 207, 400, 401, 403, 404, 413, 424, 429, 500, 502, 503, 504, 511,
    ] {
        let head = head(status, &[("retry-after", "3")]);
        let found = of(&["POST"; 3]).response(&[0, 1, 2], &head, Rope::from(inside));
        let PartResponse::Messages { messages, .. } = found else {
            panic!("{status}: {found:?}");
        };
        let found: Vec<MemberOutcome> = messages.iter().map(|message| message.outcome).collect();
        // What the batch was not executed for is not said of the others.
        let rest = match status {
            429 | 503 => again_in(3000),
            _ => Unknown,
        };
        assert_eq!(found, [Done, again_in(10_000), rest], "{status}");
    }
    // An empty array is no sign that anything was executed, and anything in it is one.
    let empty = r#"{"error":{"code":"BadRequest"},"responses":[]}"#;
    let got = whole(&mut of(&["POST"; 2]), &[0], &head(400, &[]), empty);
    assert_eq!(got.outcome, PartOutcome::Failed);
    for inside in [
        r#"{"responses":[{"id":"1","body":<html>}]}"#,
        r#"{"responses":[7]}"#,
    ] {
        let found = of(&["POST"; 2]).response(&[0], &head(400, &[]), Rope::from(inside));
        let PartResponse::Messages { messages, .. } = found else {
            panic!("{found:?}");
        };
        assert_eq!(messages[0].outcome, Unknown);
    }
}

#[test]
fn a_page_among_the_responses_costs_itself_alone() {
    use MemberOutcome::{Done, Unknown};
    let ok =
        |id: u8| format!(r#"{{"id":"{id}","status":201,"body":{{"ok":[{{}},{{"id":"4"}}]}}}}"#);
    let page = |body: &str| {
        format!(
            r#"{{"id":"2","status":503,"headers":{{"Content-Type":"text/html"}},"body":{body}}}"#
        )
    };
    for body in [
        "<!DOCTYPE html><html><body>Service unavailable</body></html>",
        "Service unavailable",
        "<a>{\"x\":[1,{}],{\"y\":</a>",
        "\"sm\u{f8}rrebr\u{f8}d\"",
    ] {
        let text = format!(r#"{{"responses":[{},{},{}]}}"#, ok(1), page(body), ok(3));
        // The last one in another encoding.
        let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
        let mut batch = of(&["POST", "POST", "POST"]);
        let found = batch.response(&[0, 1, 2], &head(200, &[]), Rope::from(bytes));
        let PartResponse::Messages { frame, messages } = found else {
            panic!("{found:?}");
        };
        let outcomes: Vec<MemberOutcome> = messages.iter().map(|message| message.outcome).collect();
        assert_eq!(outcomes, [Done, Unknown, Done], "{body}");
        assert_eq!(text_of(&frame), "{\"responses\":[|]}");
        assert_eq!(self::text(&messages[2].bytes), ok(3));
        let own = self::text(&messages[1].bytes);
        assert!(own.contains("OutcomeUnknown"), "{own}");
    }
    // A read is asked for again.
    let body = format!(r#"{{"responses":[{},{}]}}"#, ok(1), page("<html>"));
    let found = outcomes(&mut of(&["POST", "GET"]), &[0, 1], &body);
    assert_eq!(found, [Done, MemberOutcome::Retry(COUNTED)]);
}

fn text_of(frame: &(Rope, Rope)) -> String {
    format!("{}|{}", text(&frame.0), text(&frame.1))
}

#[test]
fn a_link_to_more_responses_is_told() {
    let body = r#"{"responses":[{"id":"1","status":201}],"@odata.nextLink":"https:\/\/graph.example/$batch?more=7"}"#;
    let got = messages(&mut of(&["POST", "POST", "GET"]), &[0, 1, 2], body);
    let found: Vec<MemberOutcome> = got.iter().map(|message| message.outcome).collect();
    assert_eq!(
        found,
        [
            MemberOutcome::Done,
            MemberOutcome::Unknown,
            MemberOutcome::Retry(COUNTED)
        ]
    );
    let told = text(&got[1].bytes);
    assert!(
        told.contains("https://graph.example/$batch?more=7"),
        "{told}"
    );
}

#[test]
fn parts_shrink_to_what_was_not_throttled() {
    let part = |batch: &mut GraphBatch, throttled: usize| {
        let members: Vec<usize> = (0..batch.max_members()).collect();
        let responses: Vec<String> = members
            .iter()
            .map(|at| {
                let status = if *at < throttled { 429 } else { 200 };
                format!(r#"{{"id":"{}","status":{status}}}"#, at + 1)
            })
            .collect();
        let body = format!(r#"{{"responses":[{}]}}"#, responses.join(","));
        messages(batch, &members, &body);
        batch.max_members()
    };
    let mut batch = of(&["GET"; 30]);
    assert_eq!(part(&mut batch, 16), 4);
    assert_eq!(part(&mut batch, 0), 5);
    assert_eq!(part(&mut batch, 1), 4);
    // What depends on a throttled one is not throttled itself.
    let mut chain = chain();
    let body = r#"{"responses":[{"id":"1","status":429},{"id":"2","status":424},{"id":"3","status":424},{"id":"4","status":424}]}"#;
    messages(&mut chain, &[0, 1, 2, 3], body);
    assert_eq!(chain.max_members(), 3);
}

#[test]
fn what_a_whole_response_means() {
    let in_9 = PartOutcome::retry(Some(Duration::from_secs(9)));
    let counted = Retry::new(Some(Duration::from_secs(9))).max_retries(6);
    let tries = PartOutcome::Retry(counted);
    use PartOutcome::{Failed, FailedForAll, Unknown};
    // Status, for reads, for others, whether it was too large.
    let cases: [(u16, PartOutcome, PartOutcome, bool); 18] = [
        (200, Failed, Unknown, false),
        (202, Failed, Unknown, false),
        (302, FailedForAll, FailedForAll, false),
        (400, Failed, Failed, false),
        (401, FailedForAll, FailedForAll, false),
        (403, FailedForAll, FailedForAll, false),
        (404, FailedForAll, FailedForAll, false),
        (408, tries, tries, true),
        (413, Failed, Failed, true),
        (422, Failed, Failed, false),
        (425, tries, tries, false),
        (429, in_9, in_9, false),
        (500, tries, Unknown, true),
        (502, tries, Unknown, true),
        (503, in_9, in_9, false),
        (504, tries, Unknown, true),
        (505, FailedForAll, FailedForAll, false),
        (507, Failed, Failed, true),
    ];
    for (status, reads, others, too_large) in cases {
        let head = head(status, &[("retry-after", "9")]);
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"responses":7}"#,
            "[{\"responses\":[}",
        ] {
            let got = whole(&mut of(&["GET", "GET", "POST"]), &[0, 1], &head, body);
            assert_eq!(
                (got.outcome, got.too_large),
                (reads, too_large),
                "{status} {body}"
            );
            let got = whole(&mut of(&["GET", "POST", "GET"]), &[0, 1], &head, body);
            assert_eq!(
                (got.outcome, got.too_large),
                (others, too_large),
                "{status} {body}"
            );
            assert!(got.message.is_none() && got.code.is_none());
        }
    }
    // One request that is too large by itself does not get smaller.
    let alone = whole(&mut of(&["POST", "POST"]), &[1], &head(413, &[]), "");
    assert_eq!((alone.outcome, alone.too_large), (Failed, false));
    let deletes = whole(&mut of(&["GET", "DELETE"]), &[0, 1], &head(500, &[]), "");
    assert_eq!(
        deletes.outcome,
        PartOutcome::Retry(COUNTED.maybe_executed())
    );

    let gzip = head(200, &[("content-encoding", "gzip")]);
    let response = r#"{"responses":[{"id":"1","status":200},{"id":"2","status":200}]}"#;
    let got = whole(&mut of(&["GET", "GET"]), &[0, 1], &gzip, response);
    assert_eq!(got.outcome, Failed);
    assert!(got.text.contains("compressed"), "{}", got.text);

    let error = r#"{"error":{"code":"BadRequest","message":"Invalid id \"7\"."}}"#;
    let got = whole(&mut of(&["GET", "GET"]), &[0, 1], &head(400, &[]), error);
    assert_eq!(got.code.as_deref(), Some("BadRequest"));
    assert_eq!(&*got.text, "HTTP 400 Bad Request: Invalid id \"7\".");
    let page = "<html><title>Sign in</title>";
    for (status, expected) in [
        (200, "HTTP 200 OK, but no response to a batch: \"Sign in\""),
        (502, "HTTP 502 Bad Gateway: \"Sign in\""),
    ] {
        let got = whole(&mut of(&["GET", "GET"]), &[0, 1], &head(status, &[]), page);
        assert_eq!(&*got.text, expected);
    }
}

#[test]
fn a_message_of_our_own_is_in_graphs_shape() {
    let mut batch = batch(
        r#"{"requests":[{"id":"\u0022\\","method":"POST","url":"/"},{"id":"2","method":"POST","url":"/","dependsOn":["\"\\"]}]}"#,
    )
    .unwrap();
    let json_type = json!({"Content-Type": "application/json"});
    let mut explain = |member, why: Explanation<'_>| {
        let rope = batch.explain(member, &why).unwrap();
        let value: Value = serde_json::from_slice(&rope.to_bytes()).unwrap();
        assert_eq!(value["headers"], json_type);
        let error = &value["body"]["error"];
        (
            value["id"].as_str().unwrap().to_owned(),
            value["status"].as_u64().unwrap(),
            error["code"].as_str().unwrap().to_owned(),
            error["message"].as_str().unwrap().to_owned(),
        )
    };
    let cause = "the \"line\" broke\n\u{1}";
    let (id, status, code, text) = explain(0, Explanation::OutcomeUnknown { cause });
    assert_eq!((&*id, status, &*code), ("\"\\", 500, "OutcomeUnknown"));
    assert!(text.contains(cause));
    let (id, status, code, text) = explain(1, Explanation::NotExecuted { code: None, cause });
    assert_eq!((&*id, status, &*code), ("2", 503, "NotExecuted"));
    assert!(text.contains(cause));
    let code = Some("tooMuch");
    let (_, status, code, _) = explain(1, Explanation::NotExecuted { code, cause });
    assert_eq!((status, &*code), (503, "tooMuch"));
    let (id, status, code, text) = explain(1, Explanation::DependencyFailed { member: 0 });
    assert_eq!((&*id, status, &*code), ("2", 424, "FailedDependency"));
    assert!(text.contains(r#""\u0022\\""#), "{text}");
    let failed = Explanation::DependencyFailed { member: 7 };
    explain(1, failed);
    assert!(batch.explain(2, &failed).is_none());
}

#[test]
fn a_refused_part_hands_its_refusal_on() {
    let why = Explanation::NotExecuted {
        code: None,
        cause: "no time left",
    };
    let explained = |batch: &mut GraphBatch, member| -> Value {
        let rope = batch.explain(member, &why).unwrap();
        serde_json::from_slice(&rope.to_bytes()).unwrap()
    };
    let mut batch = of(&["POST"; 3]);
    let error = r#" {"error":{"code":"TooManyRequests","message":"slow down"}} "#;
    let throttled = head(429, &[("retry-after", "2.5")]);
    whole(&mut batch, &[0, 1], &throttled, error);
    let own = explained(&mut batch, 1);
    assert_eq!(
        own,
        json!({"id": "2", "status": 429,
            "headers": {"Content-Type": "application/json", "Retry-After": "2.5"},
            "body": {"error": {"code": "TooManyRequests", "message": "slow down"}}})
    );
    assert_eq!(explained(&mut batch, 2)["status"], 503, "was not in it");

    // What is meant for all is told to those that were not sent, too.
    whole(&mut batch, &[0], &head(403, &[]), "<html>blocked");
    for (member, status) in [(0, 403), (1, 429), (2, 403)] {
        let got = explained(&mut batch, member);
        assert_eq!(got["status"], status);
        assert!(got["body"]["error"]["message"].is_string());
    }
    // A response that says nothing is no refusal, and neither is one that is huge.
    let mut batch = of(&["POST"; 2]);
    whole(&mut batch, &[0], &head(500, &[]), error);
    assert_eq!(explained(&mut batch, 0)["status"], 503);
    let no_utf8 = b"{\"error\":{\"code\":\"\xff\"}}".as_slice();
    batch.response(&[0], &head(400, &[]), Rope::from(no_utf8));
    assert_eq!(explained(&mut batch, 0)["status"], 400);
    let huge = format!(
        r#"{{"error":{{"code":"Big"}},"x":"{}"}}"#,
        "x".repeat(1 << 16)
    );
    whole(&mut batch, &[0], &head(400, &[]), &huge);
    let got = explained(&mut batch, 0);
    assert_eq!(
        (&got["status"], &got["body"]["error"]["code"]),
        (&json!(400), &json!("Big"))
    );
}
