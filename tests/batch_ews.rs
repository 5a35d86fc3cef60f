//! The EWS format of the batch splitter: parts of every operation, and what their responses say.

mod batch_server;
mod schema;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, response};
use tower_ews::batch_splitter::{
    Batch, BatchFormat, EwsBatch, EwsBatchFormat, Explanation, Idempotency, MemberOutcome, Message,
    Order, PartFailure, PartOutcome, PartResponse, Retry,
};
use tower_ews::body::ReplayBody;
use tower_ews::body::Rope;
use tower_ews::soap::{CodeClass, Operation, Outcome, Outline, ResponseCode, SoapResponse, Split};

use self::batch_server::requests::{CASES, Case, case_of};
use self::batch_server::untouched::{nearly_untouched, untouched};
use self::batch_server::{Fortune, MESSAGES, Seen, Style, TYPES, fault, one_error, reply};

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

fn batch_of(operation: &str, members: usize) -> EwsBatch {
    batch(case_of(operation).request(Style::Usual, members)).unwrap()
}

fn head(status: u16, headers: &[(&str, &str)]) -> response::Parts {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

fn text(rope: &Rope) -> String {
    String::from_utf8(rope.to_bytes().to_vec()).unwrap()
}

/// In pieces of random sizes.
fn chopped(bytes: &[u8], random: &mut fastrand::Rng) -> Vec<Bytes> {
    let bytes = Bytes::copy_from_slice(bytes);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + random.usize(1..200));
        pieces.push(bytes.slice(at..end));
        at = end;
    }
    pieces
}

#[test]
fn the_table_of_requests_is_whole() {
    let splittable = Operation::all()
        .filter(|operation| {
            !matches!(
                operation.split(),
                Split::ChangesMeaning | Split::NotApplicable
            )
        })
        // It goes through untouched all the same.
        .filter(|operation| operation.name() != "GetServiceConfiguration")
        .map(|operation| operation.name());
    let mut cases: Vec<&str> = CASES.iter().map(|case| case.operation).collect();
    cases.sort_unstable();
    cases.dedup();
    assert_eq!(splittable.collect::<Vec<_>>(), cases);
}

/// What a derived outline says, ranges and all.
fn shown(outline: &Outline) -> String {
    format!("{outline:?}")
}

#[test]
fn parts_are_slices_of_the_request() {
    let mut random = random();
    for case in CASES {
        for style in Style::ALL {
            let members = random.usize(6..14);
            let request = case.request(style, members);
            let whole = Outline::parse(request.as_bytes()).unwrap();
            let ranges: Vec<Range<usize>> = whole
                .arrays()
                .iter()
                .flat_map(|array| array.members().to_vec())
                .collect();
            let pieces = match random.bool() {
                true => vec![Bytes::from(request.clone())],
                false => chopped(request.as_bytes(), &mut random),
            };
            let mut batch = batch(ReplayBody::from_pieces(pieces.clone())).unwrap();
            assert_eq!(batch.operation(), case.operation);
            assert_eq!(batch.members(), members);
            let all: Vec<usize> = (0..members).collect();
            assert_eq!(batch.part(&all).to_bytes(), request, "{case:?}");
            // One part after the other, and some members of any part again.
            let mut at = 0;
            let mut sent = Vec::new();
            while at < members {
                let end = members.min(at + random.usize(1..5));
                let mut chosen: Vec<usize> = (0..at).filter(|_| random.u8(..5) == 0).collect();
                chosen.extend(at..end);
                sent.extend(at..end);
                at = end;
                let part = batch.part(&chosen);
                let bytes = part.to_bytes();
                let seen = Seen::read(&bytes);
                assert_eq!(seen.operation, case.operation);
                let texts: Vec<&str> = seen.members.iter().map(|member| &*member.text).collect();
                let expected: Vec<&str> = chosen
                    .iter()
                    .map(|member| &request[ranges[*member].clone()])
                    .collect();
                assert_eq!(texts, expected);
                assert_eq!(
                    shown(part.outline().unwrap()),
                    shown(&Outline::parse(&bytes).unwrap())
                );
                assert_eq!(part.len(), bytes.len() as u64);
                // Nothing was copied.
                for piece in part.pieces() {
                    let inside = pieces.iter().any(|of| {
                        let (of, piece) = (of.as_ptr_range(), piece.as_ptr_range());
                        of.start <= piece.start && piece.end <= of.end
                    });
                    assert!(inside, "a piece of {} bytes was made", piece.len());
                }
            }
            assert_eq!(sent, all);
            let members_bytes: u64 = all.iter().map(|member| batch.member_bytes(*member)).sum();
            let total = members_bytes + batch.shared_bytes();
            assert!(total <= request.len() as u64 && batch.shared_bytes() > 100);
        }
    }
}

/// A splitter of the simplest kind: parts of a given size, one after another, throttled ones again.
struct Driven {
    response: String,
    parts: usize,
}

fn drive(
    batch: &mut EwsBatch,
    size: usize,
    mut server: impl FnMut(&Seen, usize) -> (response::Parts, Vec<Bytes>),
) -> Driven {
    let mut waiting: VecDeque<usize> = (0..batch.members()).collect();
    let mut done: Vec<Option<Rope>> = vec![None; batch.members()];
    let mut frames: Option<Vec<Rope>> = None;
    let mut collected: Vec<Rope> = Vec::new();
    let mut parts = 0;
    while !waiting.is_empty() {
        assert!(parts < 1000, "it does not end");
        let mut members: Vec<usize> = waiting.drain(..size.min(waiting.len())).collect();
        members.sort_unstable();
        let part = batch.part(&members);
        let (head, body) = server(&Seen::read(&part.to_bytes()), parts);
        parts += 1;
        match batch.response(&members, &head, body.into_iter().collect()) {
            PartResponse::Messages { frame, messages } => {
                assert_eq!(messages.len(), members.len());
                frames.get_or_insert(vec![frame.0, frame.1]);
                for (member, message) in members.iter().zip(messages) {
                    match message.outcome {
                        MemberOutcome::Retry(_) => waiting.push_front(*member),
                        _ => done[*member] = Some(message.bytes),
                    }
                }
            }
            PartResponse::Lists { frame, lists } => {
                assert_eq!(frame.len(), lists.len() + 1);
                frames.get_or_insert(frame);
                collected.resize(lists.len(), Rope::new());
                for (all, list) in collected.iter_mut().zip(lists) {
                    all.append(list);
                }
            }
            PartResponse::Failure(PartFailure {
                outcome: PartOutcome::Retry(_),
                ..
            }) => {
                for member in members.into_iter().rev() {
                    waiting.push_front(member);
                }
            }
            PartResponse::Failure(whole) => {
                for member in members {
                    let cause = &whole.text;
                    let ours = batch.explain(member, &Explanation::OutcomeUnknown { cause });
                    done[member] = Some(ours.unwrap());
                }
            }
            other => panic!("{other:?}"),
        }
    }
    let frames = frames.expect("some part has messages");
    let mut reply = Rope::new();
    if collected.is_empty() {
        reply.append(frames[0].clone());
        for message in done {
            reply.append(message.unwrap());
        }
        reply.append(frames[1].clone());
    } else {
        for (index, frame) in frames.iter().enumerate() {
            reply.append(frame.clone());
            if let Some(list) = collected.get(index) {
                reply.append(list.clone());
            }
        }
    }
    Driven {
        response: text(&reply),
        parts,
    }
}

/// The tokens of a response, each once, as they come.
fn tokens(response: &str) -> Vec<usize> {
    let mut tokens = Vec::new();
    for (at, _) in response
        .match_indices("tok-")
        .chain(response.match_indices("TOK-"))
    {
        let number = response[at + 4..at + 8].parse().unwrap();
        if !tokens.contains(&number) {
            tokens.push(number);
        }
    }
    tokens
}

/// Every namespace and nesting is right, and each entry of a response has the namespace that it had on its own.
fn check(case: &Case, response: &str) {
    use quick_xml::events::Event;
    use quick_xml::name::ResolveResult;
    let mut reader = quick_xml::reader::NsReader::from_str(response);
    loop {
        let (space, event) = reader.read_resolved_event().unwrap();
        let (Event::Start(element) | Event::Empty(element)) = event else {
            if matches!(event, Event::Eof) {
                break;
            }
            continue;
        };
        let ResolveResult::Bound(space) = space else {
            panic!("{element:?} has no namespace in {response}")
        };
        let space = std::str::from_utf8(space.as_ref()).unwrap();
        let local = String::from_utf8(element.local_name().as_ref().to_vec()).unwrap();
        let expected = match &*local {
            "Envelope" | "Header" | "Body" => "http://schemas.xmlsoap.org/soap/envelope/",
            "D" => "urn:x",
            "ResponseMessages" | "ResponseCode" | "MessageText" | "Items" | "Folders"
            | "RootFolder" | "ItemId" | "Attachments" | "Name" => continue,
            name if name.ends_with("ResponseMessage") || name.ends_with("MessageType") => MESSAGES,
            name if name.ends_with("Response") => MESSAGES,
            "Message" | "Folder" | "FileAttachment" | "AttachmentId" | "UserId"
            | "TimeZoneDefinition" | "Persona" | "ImGroup" | "InvalidRecipient" => TYPES,
            _ => continue,
        };
        assert_eq!(space, expected, "{local} of {}", case.operation);
        for attribute in element.attributes() {
            attribute.expect("no attribute twice");
        }
    }
}

fn ok(text: String) -> (response::Parts, Vec<Bytes>) {
    (head(200, &[]), vec![text.into()])
}

/// Responses to batches of all operations, each part of which got a response in another style; with the request.
fn merged(random: &mut fastrand::Rng) -> Vec<(&'static Case, String)> {
    let mut responses = Vec::new();
    for case in CASES {
        for first in Style::ALL {
            for second in Style::ALL {
                let members = random.usize(6..10);
                let mut batch = batch(case.request(Style::Usual, members)).unwrap();
                let mut chop = random.fork();
                let driven = drive(&mut batch, 3, |seen, part| {
                    let style = if part % 2 == 0 { first } else { second };
                    let text = reply(seen, style, |_| Fortune::Done);
                    match part {
                        1 => (head(200, &[]), chopped(text.as_bytes(), &mut chop)),
                        _ => ok(text),
                    }
                });
                assert_eq!(driven.parts, members.div_ceil(3));
                let mut seen = tokens(&driven.response);
                if case.lists {
                    seen.sort_unstable();
                }
                assert_eq!(
                    seen,
                    (0..members).collect::<Vec<_>>(),
                    "{}",
                    driven.response
                );
                check(case, &driven.response);
                let read = SoapResponse::parse(driven.response.as_bytes()).unwrap();
                if !case.lists {
                    assert_eq!(read.entries().count(), members);
                }
                responses.push((case, driven.response));
            }
        }
    }
    responses
}

#[test]
fn responses_are_put_together() {
    merged(&mut random());
}

#[test]
fn throttled_members_come_again() {
    for case in CASES {
        let mut batch = batch(case.request(Style::Usual, 9)).unwrap();
        let mut first = true;
        let driven = drive(&mut batch, 4, |seen, _| {
            let throttled = std::mem::take(&mut first);
            ok(reply(seen, Style::Usual, |member| {
                let late = member.token.is_none() || member.number() % 2 == 1;
                match throttled && late {
                    true => Fortune::busy(1500),
                    false => Fortune::Done,
                }
            }))
        });
        let mut seen = tokens(&driven.response);
        if case.lists {
            seen.sort_unstable();
        }
        assert_eq!(seen, (0..9).collect::<Vec<_>>(), "{}", case.operation);
        assert!(!driven.response.contains("ErrorServerBusy"));
    }
}

fn messages(response: PartResponse) -> Vec<Message> {
    match response {
        PartResponse::Messages { messages, .. } => messages,
        other => panic!("{other:?}"),
    }
}

fn whole(response: PartResponse) -> PartFailure {
    match response {
        PartResponse::Failure(whole) => whole,
        other => panic!("{other:?}"),
    }
}

/// The outcomes of members with these fortunes, in one part.
fn outcomes(operation: &str, fortunes: &[Fortune]) -> Vec<MemberOutcome> {
    let mut batch = batch_of(operation, fortunes.len());
    let members: Vec<usize> = (0..fortunes.len()).collect();
    let seen = Seen::read(&batch.part(&members).to_bytes());
    let body = reply(&seen, Style::Usual, |member| {
        fortunes[member.number()].clone()
    });
    let messages = messages(batch.response(&members, &head(200, &[]), Rope::from(body)));
    messages.iter().map(|message| message.outcome).collect()
}

#[test]
fn what_follows_for_each_member() {
    let again = |milliseconds: u64| MemberOutcome::retry(Some(Duration::from_millis(milliseconds)));
    let error = Fortune::error;
    assert_eq!(
        outcomes(
            "CreateItem",
            &[Fortune::Done, Fortune::busy(10), error("ErrorAccessDenied")]
        ),
        [MemberOutcome::Done, again(10), MemberOutcome::Failed]
    );
    // What it means that a member was stopped depends on what stopped it.
    assert_eq!(
        outcomes(
            "CreateItem",
            &[
                Fortune::STOPPED,
                Fortune::Done,
                Fortune::busy(7),
                Fortune::STOPPED,
                error("ErrorAccessDenied"),
                Fortune::STOPPED,
                Fortune::STOPPED
            ]
        ),
        [
            MemberOutcome::Stopped,
            MemberOutcome::Done,
            again(7),
            again(7),
            MemberOutcome::Failed,
            MemberOutcome::Stopped,
            MemberOutcome::Stopped
        ]
    );
    // It may have been executed.
    let doubtful = [
        Fortune::Done,
        error("ErrorTimeoutExpired"),
        error("ErrorInternalServerError"),
        error("ErrorConnectionFailed"),
        error("ErrorMailboxStoreUnavailable"),
        error("ErrorMailboxFailover"),
    ];
    // How often each is worth another try.
    let tries = [1, 1, 6, 6, 6];
    let again_of = |retry: fn(Retry) -> Retry| {
        tries.map(|tries| MemberOutcome::Retry(retry(Retry::new(None).max_retries(tries))))
    };
    let reads = again_of(|retry| retry);
    let idempotent = again_of(Retry::maybe_executed);
    let others = [MemberOutcome::Unknown; 5];
    for (operation, expected) in [
        ("CreateItem", others),
        ("EmptyFolder", others),
        ("MarkAllItemsAsRead", others),
        ("CopyFolder", others),
        ("ReportMessage", others),
        ("UploadItems", others),
        ("GetItem", reads),
        ("DeleteItem", idempotent),
        ("MoveFolder", idempotent),
        ("MarkAsJunk", idempotent),
    ] {
        let found = outcomes(operation, &doubtful);
        assert_eq!(found[1..], expected, "{operation}");
    }
    // A quota that no waiting of ours cures, and what is no error.
    assert_eq!(
        outcomes(
            "CreateItem",
            &[
                error("ErrorSubmissionQuotaExceeded"),
                Fortune::Refused("Warning", "ErrorNonPrimarySmtpAddress", None),
                error("ErrorOfNextYear")
            ]
        ),
        [
            MemberOutcome::Failed,
            MemberOutcome::Done,
            MemberOutcome::Failed
        ]
    );
}

/// What a member's own message says of it is one thing, whether the batch goes on another: none of these codes passes, so that
/// each is its member's own, and yet some leave open what was executed.
#[test]
fn a_member_that_failed_for_good_may_have_been_executed() {
    let lasting = |code: &ResponseCode| {
        use CodeClass as C;
        let class = code.class();
        !class.is_throttle()
            && !matches!(
                class,
                C::TransientRetryLater | C::InspectInner | C::NotProcessed
            )
            && !matches!(class, C::Success | C::SuccessWithWarning)
    };
    let known: Vec<ResponseCode> = ResponseCode::all().filter(lasting).collect();
    let open = known
        .iter()
        .filter(|code| code.outcome() == Outcome::Unknown);
    let open: Vec<&str> = open.map(ResponseCode::as_str).collect();
    assert!(
        open.contains(&"ErrorMoveCopyFailed") && open.contains(&"ErrorItemPropertyRequestFailed")
    );
    let codes = known.iter().map(ResponseCode::as_str);
    for (operation, doubtful) in [
        ("CreateItem", true),
        ("CopyFolder", true),
        ("EmptyFolder", true),
        ("DeleteItem", false),
        ("MoveFolder", false),
        ("GetItem", false),
    ] {
        for code in codes.clone().chain(["ErrorOfNextYear"]) {
            let code: &'static str = String::from(code).leak();
            let mut batch = batch_of(operation, 6);
            let members = [0, 1, 2];
            let seen = Seen::read(&batch.part(&members).to_bytes());
            let body = reply(&seen, Style::Usual, |member| match member.number() {
                1 => Fortune::error(code),
                _ => Fortune::Done,
            });
            let found = messages(batch.response(&members, &head(200, &[]), Rope::from(body)));
            let outcomes: Vec<MemberOutcome> =
                found.iter().map(|message| message.outcome).collect();
            let expected = [
                MemberOutcome::Done,
                MemberOutcome::Failed,
                MemberOutcome::Done,
            ];
            assert_eq!(outcomes, expected, "{operation}, {code}");
            let maybe: Vec<bool> = found.iter().map(|message| message.maybe_executed).collect();
            let is_open = open.contains(&code) || code == "ErrorOfNextYear";
            assert_eq!(
                maybe,
                [false, doubtful && is_open, false],
                "{operation}, {code}"
            );
        }
    }
}

#[test]
fn one_error_for_all_is_not_given_to_the_first() {
    for case in CASES.iter().filter(|case| !case.lists) {
        for style in Style::ALL {
            let mut batch = batch(case.request(Style::Usual, 6)).unwrap();
            let members = [0, 1, 2];
            let seen = Seen::read(&batch.part(&members).to_bytes());
            let body = one_error(&seen, style, "ErrorFolderNotFound");
            let found = whole(batch.response(&members, &head(200, &[]), Rope::from(body)));
            assert_eq!(found.outcome, PartOutcome::Failed);
            assert_eq!(found.code.as_deref(), Some("ErrorFolderNotFound"));
            // It stands by itself.
            let message = text(&found.message.unwrap());
            check(
                case,
                &format!("<m:x xmlns:m='urn:1' xmlns='urn:2'>{message}</m:x>"),
            );
        }
    }
    // Throttled as one.
    let mut batch = batch_of("CreateItem", 4);
    let seen = Seen::read(&batch.part(&[0, 1]).to_bytes());
    let body = one_error(&seen, Style::Usual, "ErrorServerBusy");
    let found = whole(batch.response(&[0, 1], &head(200, &[]), Rope::from(body)));
    assert_eq!(found.outcome, PartOutcome::retry(None));
}

#[test]
fn entries_that_do_not_match_are_nobodys() {
    let short = |batch: &mut EwsBatch, members: &[usize], entries: usize| {
        let mut seen = Seen::read(&batch.part(members).to_bytes());
        let one = seen.members[0].clone();
        seen.members.resize(entries, one);
        let body = reply(&seen, Style::Usual, |_| Fortune::Done);
        batch.response(members, &head(200, &[]), Rope::from(body))
    };
    // The response to something else, perhaps: once more.
    let once = Retry::new(None).max_retries(1);
    let (again, maybe) = (
        PartOutcome::Retry(once),
        PartOutcome::Retry(once.maybe_executed()),
    );
    for entries in [0, 1, 2, 4] {
        let found = whole(short(&mut batch_of("CreateItem", 6), &[1, 2, 3], entries));
        assert_eq!(found.outcome, PartOutcome::Unknown, "{entries}");
        assert_eq!(
            &*found.text,
            format!("a response with {entries} messages to 3 members")
        );
        let found = whole(short(&mut batch_of("DeleteItem", 6), &[1, 2, 3], entries));
        assert_eq!(found.outcome, maybe);
        // Reads find out in smaller parts, which ends with one member. Their number is not to blame.
        let found = whole(short(&mut batch_of("GetItem", 6), &[1, 2, 3], entries));
        assert_eq!((found.outcome, found.too_large), (again, false));
    }
    let found = whole(short(&mut batch_of("GetItem", 6), &[1], 0));
    assert_eq!((found.outcome, found.too_large), (again, false));
    // One more than was asked for belongs to no member either, and it is not known which one that is.
    for (operation, outcome) in [
        ("GetItem", again),
        ("ExportItems", again),
        ("DeleteItem", maybe),
        ("CreateItem", PartOutcome::Unknown),
        ("CopyFolder", PartOutcome::Unknown),
        ("GetUserAvailability", again),
    ] {
        for entries in [2, 3] {
            let found = whole(short(&mut batch_of(operation, 6), &[1], entries));
            assert_eq!(found.outcome, outcome, "{operation}");
            let expected = format!("a response with {entries} messages to 1 members");
            assert_eq!(*found.text, expected);
        }
    }
}

#[test]
fn the_response_to_another_operation_is_none() {
    let once = Retry::new(None).max_retries(1);
    for case in CASES {
        let operation = case.operation;
        let other = if operation == "GetFolder" {
            "GetItem"
        } else {
            "GetFolder"
        };
        let mut batch = batch(case.request(Style::Usual, 6)).unwrap();
        for members in [&[1][..], &[0, 1, 2]] {
            let mut seen = Seen::read(&batch.part(members).to_bytes());
            seen.operation = other.to_owned();
            for style in Style::ALL {
                for fortune in [
                    Fortune::Done,
                    Fortune::busy(1),
                    Fortune::error("ErrorAccessDenied"),
                ] {
                    let body = reply(&seen, style, |_| fortune.clone());
                    let found = whole(batch.response(members, &head(200, &[]), Rope::from(body)));
                    let expected = match batch.idempotency() {
                        Idempotency::Safe => PartOutcome::Retry(once),
                        Idempotency::Idempotent => PartOutcome::Retry(once.maybe_executed()),
                        _ => PartOutcome::Unknown,
                    };
                    assert_eq!(found.outcome, expected, "{operation}");
                    let text = format!("a response to something else: {other}Response");
                    assert_eq!((*found.text).to_owned(), text, "{operation}");
                    assert!(found.message.is_none() && found.code.is_none());
                }
            }
        }
    }
}

#[test]
fn two_lists_or_lists_in_another_order_are_not_known() {
    let part = |operation: &str, list: &str| {
        let text = format!(
            "<m:{operation}Response ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{list}</m:{operation}Response>"
        );
        let mut batch = batch_of(operation, 4);
        batch.part(&[0, 1]);
        batch.response(
            &[0, 1],
            &head(200, &[]),
            Rope::from(Style::Usual.envelope(&text)),
        )
    };
    let entry = "<m:CreateItemResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode></m:CreateItemResponseMessage>";
    let one = format!("<m:ResponseMessages>{entry}</m:ResponseMessages>");
    let two = format!("<m:ResponseMessages>{entry}{entry}</m:ResponseMessages>");
    assert_eq!(messages(part("CreateItem", &two)).len(), 2);
    let found = whole(part("CreateItem", &format!("{one}{one}")));
    assert_eq!(found.outcome, PartOutcome::Unknown);
    let lists = "<m:ImItemList><t:Personas/><t:Groups/></m:ImItemList>";
    let found = whole(part("GetImItems", lists));
    assert_eq!(found.outcome, PartOutcome::Failed);
}

#[test]
fn what_the_responses_own_element_says() {
    let own = |operation: &str, code: &str| {
        let text = format!(
            "<m:{operation}Response ResponseClass=\"Error\"><m:MessageText>no</m:MessageText><m:ResponseCode>{code}</m:ResponseCode></m:{operation}Response>"
        );
        let mut batch = batch_of(operation, 6);
        batch.part(&[0, 1]);
        whole(batch.response(
            &[0, 1],
            &head(200, &[]),
            Rope::from(Style::Usual.envelope(&text)),
        ))
    };
    for operation in ["AddDelegate", "GetMailTips", "PerformReminderAction"] {
        let found = own(operation, "ErrorAccessDenied");
        assert_eq!(found.outcome, PartOutcome::Failed, "{operation}");
        assert_eq!(
            (found.code.as_deref(), &*found.text),
            (Some("ErrorAccessDenied"), "ErrorAccessDenied: no")
        );
        assert_eq!(
            own(operation, "ErrorServerBusy").outcome,
            PartOutcome::retry(None)
        );
    }
}

#[test]
fn a_time_out_of_all_asks_for_less() {
    let ask = |operation: &str, fortunes: [Fortune; 2]| {
        let mut batch = batch_of(operation, 6);
        let seen = Seen::read(&batch.part(&[0, 1]).to_bytes());
        let body = reply(&seen, Style::Usual, |member| {
            fortunes[member.number()].clone()
        });
        batch.response(&[0, 1], &head(200, &[]), Rope::from(body))
    };
    let late = || Fortune::error("ErrorTimeoutExpired");
    let found = whole(ask("GetItem", [late(), late()]));
    // Each has its own, and none of them speaks for the others.
    assert!(found.too_large && found.message.is_none());
    let once = Retry::new(None).max_retries(1);
    assert_eq!(found.outcome, PartOutcome::Retry(once));
    let found = whole(ask("DeleteItem", [late(), late()]));
    assert_eq!(found.outcome, PartOutcome::Retry(once.maybe_executed()));
    let found = whole(ask("CreateItem", [late(), late()]));
    assert_eq!(
        (found.outcome, found.too_large),
        (PartOutcome::Unknown, true)
    );
    let found = messages(ask("CreateItem", [Fortune::Done, late()]));
    assert_eq!(found[1].outcome, MemberOutcome::Unknown);
}

#[test]
fn ids_say_which_entry_is_whose() {
    let once = PartOutcome::Retry(Retry::new(None).max_retries(1));
    for operation in ["ExportItems", "GetMailTips"] {
        let mut batch = batch_of(operation, 6);
        let members = [0, 2, 4, 5];
        let mut seen = Seen::read(&batch.part(&members).to_bytes());
        let numbers = |found: Vec<Message>| -> Vec<usize> {
            let tokens = found.iter().map(|message| tokens(&text(&message.bytes)));
            tokens
                .map(|tokens| *tokens.first().unwrap_or(&99))
                .collect()
        };
        seen.members.reverse();
        let body = reply(&seen, Style::Usual, |_| Fortune::Done);
        let found = messages(batch.response(&members, &head(200, &[]), Rope::from(body)));
        assert_eq!(numbers(found), members);
        // One without an id has one place left; of two nobody knows.
        let body = reply(&seen, Style::Usual, |member| match member.number() {
            2 => Fortune::busy(1),
            _ => Fortune::Done,
        });
        let found = messages(batch.response(&members, &head(200, &[]), Rope::from(body)));
        assert!(matches!(found[1].outcome, MemberOutcome::Retry(_)));
        assert_eq!(numbers(found), [0, 99, 4, 5]);
        let body = reply(&seen, Style::Usual, |member| match member.number() {
            2 | 4 => Fortune::busy(1),
            _ => Fortune::Done,
        });
        let found = whole(batch.response(&members, &head(200, &[]), Rope::from(body)));
        assert_eq!(found.outcome, once);
        // The server can know somebody by another name, but not an item. What belongs to another part belongs to no member here.
        seen.members.reverse();
        for (number, known) in [(77, operation == "GetMailTips"), (3, false)] {
            for members in [&members[..], &[2]] {
                let mut seen = Seen::read(&batch.part(members).to_bytes());
                let at = seen
                    .numbers()
                    .iter()
                    .position(|number| *number == 2)
                    .unwrap();
                seen.members[at].token = Some(format!("tok-00{number:02}"));
                let body = reply(&seen, Style::Usual, |_| Fortune::Done);
                let found = batch.response(members, &head(200, &[]), Rope::from(body));
                match known {
                    true => assert_eq!(numbers(messages(found))[at], number),
                    false => {
                        let found = whole(found);
                        assert_eq!(found.outcome, once, "{operation}, {number}");
                        assert!(found.text.contains("other members"), "{}", found.text);
                    }
                }
            }
        }
    }
}

#[test]
fn lists_that_are_missing_or_empty_are_filled() {
    let response = |inside: &str| {
        Style::Default.envelope(&format!(
            "<m:GetImItemsResponse ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{inside}</m:GetImItemsResponse>"
        ))
    };
    let groups = "<t:Groups><t:ImGroup><t:DisplayName>g</t:DisplayName></t:ImGroup></t:Groups>";
    let personas = "<t:Personas><t:Persona><t:PersonaId Id='p'/></t:Persona></t:Personas>";
    let both = response(&format!("<m:ImItemList>{groups}{personas}</m:ImItemList>"));
    let firsts = [
        String::new(),
        "<m:ImItemList/>".to_owned(),
        "<m:ImItemList a='b' />".to_owned(),
        "<m:ImItemList></m:ImItemList>".to_owned(),
        "<m:ImItemList><t:Groups/></m:ImItemList>".to_owned(),
        "<m:ImItemList><t:Personas /></m:ImItemList>".to_owned(),
        format!("<m:ImItemList>{groups}</m:ImItemList>"),
        format!("<m:ImItemList>{personas}</m:ImItemList>"),
    ];
    for first in firsts {
        let mut batch = batch_of("GetImItems", 8);
        let mut responses = [
            response(&first),
            both.clone(),
            both.clone(),
            response(&first),
        ]
        .into_iter();
        let driven = drive(&mut batch, 2, |_, _| ok(responses.next().unwrap()));
        // Whoever reads it finds them where they belong.
        let mut reader = quick_xml::reader::NsReader::from_str(&driven.response);
        let (mut path, mut found) = (Vec::new(), Vec::new());
        loop {
            use quick_xml::events::Event;
            use quick_xml::name::ResolveResult;
            let (space, event) = reader.read_resolved_event().unwrap();
            let ResolveResult::Bound(space) = space else {
                match event {
                    Event::End(_) => drop(path.pop()),
                    Event::Eof => break,
                    _ => {}
                }
                continue;
            };
            let types = space.as_ref() == TYPES.as_bytes();
            let (start, empty) = match event {
                Event::Start(start) => (start, false),
                Event::Empty(start) => (start, true),
                Event::End(_) => {
                    path.pop();
                    continue;
                }
                Event::Eof => break,
                _ => continue,
            };
            let name = String::from_utf8(start.local_name().as_ref().to_vec()).unwrap();
            path.push(format!("{}:{name}", if types { "t" } else { "m" }));
            if matches!(&*name, "ImGroup" | "Persona") {
                found.push(path[3..].join("/"));
            }
            if empty {
                path.pop();
            }
        }
        found.sort();
        let at = |path: &str| found.iter().filter(|found| *found == path).count();
        let (own_groups, own_personas) = (
            first.matches("<t:ImGroup>").count(),
            first.matches("<t:Persona>").count(),
        );
        assert_eq!(
            at("m:ImItemList/t:Groups/t:ImGroup"),
            2 + 2 * own_groups,
            "{}",
            driven.response
        );
        assert_eq!(
            at("m:ImItemList/t:Personas/t:Persona"),
            2 + 2 * own_personas,
            "{}",
            driven.response
        );
    }
}

#[test]
fn requests_of_the_reference_are_cut() {
    let Some(folder) = std::env::var_os("EWS_FACTS_DIR") else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let folder = std::path::PathBuf::from(folder).join("samples");
    let mut cut = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains("-request-") || !name.ends_with(".xml") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let Some(mut batch) = batch(bytes.clone()) else {
            continue;
        };
        cut += 1;
        let all = Seen::read(&bytes).members;
        let all: Vec<&str> = all.iter().map(|member| &*member.text).collect();
        for (number, member) in all.iter().enumerate() {
            let part = Seen::read(&batch.part(&[number]).to_bytes());
            assert_eq!(part.members.len(), 1, "{name}");
            assert_eq!(part.members[0].text, *member, "{name}");
        }
        // The response that stands beside it is read.
        let response = path.with_file_name(name.replace("request", "response"));
        let members: Vec<usize> = (0..all.len()).collect();
        if let Ok(body) = std::fs::read(response) {
            let found = batch.response(&members, &head(200, &[]), Rope::from(body));
            println!("{name}: {found:?}");
        }
    }
    assert!(cut >= 3, "{cut}");
}

#[test]
fn faults_and_statuses() {
    let html = "<html><body>Sorry</body></html>";
    let again = |seconds: u64| PartOutcome::retry(Some(Duration::from_secs(seconds)));
    let anew = PartOutcome::retry(None);
    // Worth a few more tries: of one that asks for less, of a condition of minutes, and of what does not tell.
    let tries = |tries: u32| PartOutcome::Retry(Retry::new(None).max_retries(tries));
    type Row<'a> = (
        u16,
        &'a [(&'a str, &'a str)],
        String,
        PartOutcome,
        PartOutcome,
    );
    use PartOutcome::{Failed, FailedForAll, Unknown};
    let rows: &[Row<'_>] = &[
        (
            500,
            &[],
            fault("ErrorServerBusy", Some(2000)),
            again(2),
            again(2),
        ),
        (
            200,
            &[],
            fault("ErrorServerBusy", Some(2000)),
            again(2),
            again(2),
        ),
        (
            503,
            &[("retry-after", "9")],
            fault("ErrorServerBusy", Some(2000)),
            again(9),
            again(9),
        ),
        (
            500,
            &[],
            fault("ErrorSchemaValidation", None),
            Failed,
            Failed,
        ),
        (
            500,
            &[],
            fault("ErrorImpersonateUserDenied", None),
            FailedForAll,
            FailedForAll,
        ),
        (
            500,
            &[],
            fault("ErrorInternalServerError", None),
            tries(1),
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorTimeoutExpired", None),
            tries(1),
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorConnectionFailed", None),
            tries(6),
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorMailboxFailover", None),
            tries(6),
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorMailboxStoreUnavailable", None),
            tries(6),
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorADUnavailable", None),
            tries(6),
            tries(6),
        ),
        (
            500,
            &[],
            fault("ErrorMoveCopyFailed", None),
            Failed,
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorItemPropertyRequestFailed", None),
            Failed,
            Unknown,
        ),
        (
            500,
            &[],
            fault("ErrorRequestStreamTooBig", None),
            Failed,
            Failed,
        ),
        (500, &[], fault("ErrorOfNextYear", None), tries(6), Unknown),
        (
            503,
            &[("retry-after", "9")],
            html.to_owned(),
            again(9),
            again(9),
        ),
        (429, &[], String::new(), anew, anew),
        (413, &[], html.to_owned(), Failed, Failed),
        (507, &[], html.to_owned(), Failed, Failed),
        (404, &[], html.to_owned(), Failed, Failed),
        (418, &[], String::new(), Failed, Failed),
        (408, &[], String::new(), tries(6), tries(6)),
        (425, &[], String::new(), tries(6), tries(6)),
        (405, &[], String::new(), FailedForAll, FailedForAll),
        (440, &[], String::new(), FailedForAll, FailedForAll),
        (501, &[], String::new(), FailedForAll, FailedForAll),
        (505, &[], String::new(), FailedForAll, FailedForAll),
        (511, &[], String::new(), FailedForAll, FailedForAll),
        (520, &[], String::new(), tries(6), Unknown),
        (401, &[], String::new(), FailedForAll, FailedForAll),
        (403, &[], String::new(), FailedForAll, FailedForAll),
        (456, &[], String::new(), FailedForAll, FailedForAll),
        (400, &[], String::new(), Failed, Failed),
        (500, &[], html.to_owned(), tries(6), Unknown),
        (504, &[], String::new(), tries(6), Unknown),
        (
            302,
            &[("location", "/ews/GenericErrorPage.htm?x")],
            String::new(),
            tries(6),
            Unknown,
        ),
        (
            302,
            &[("location", "/owa/auth")],
            String::new(),
            FailedForAll,
            FailedForAll,
        ),
        (200, &[], html.to_owned(), Failed, Unknown),
        (200, &[], String::new(), Failed, Unknown),
        (
            200,
            &[("content-encoding", "gzip")],
            "\u{1f}".to_owned(),
            Failed,
            Unknown,
        ),
        (
            503,
            &[("content-encoding", "gzip")],
            "\u{1f}".to_owned(),
            anew,
            anew,
        ),
        (200, &[], "<Envelope><Body><m>".to_owned(), Failed, Unknown),
        (
            200,
            &[],
            "<Envelope><Body></m></Body></Envelope>".to_owned(),
            Failed,
            Unknown,
        ),
        (
            200,
            &[],
            "<Envelope><Body><m/></Body></Envelope>".to_owned(),
            // A response to something else, perhaps: once more.
            tries(1),
            Unknown,
        ),
    ];
    for (status, headers, body, read, write) in rows {
        for (operation, expected) in [
            ("GetItem", read),
            ("GetImItems", read),
            ("CreateItem", write),
        ] {
            let mut batch = batch_of(operation, 6);
            batch.part(&[0, 1]);
            let head = head(*status, headers);
            let found = whole(batch.response(&[0, 1], &head, Rope::from(body.clone())));
            assert_eq!(found.outcome, *expected, "{operation} {status} {body}");
            assert!(!found.text.is_empty() && found.message.is_none());
            let compressed = headers.iter().any(|(name, _)| *name == "content-encoding");
            assert_eq!(
                found.text.contains("compressed"),
                compressed && *status == 200
            );
            let smaller = found.too_large;
            // What asks for less asks for it of several members alone, but for the time-out.
            let alone = whole(batch.response(&[0], &head, Rope::from(body.clone())));
            assert!(
                !alone.too_large || body.contains("ErrorTimeoutExpired"),
                "{status} {body}"
            );
            if *status == 413 || body.contains("TooBig") {
                assert!(smaller && alone.outcome == Failed, "{status} {body}");
            }
        }
    }
}

#[test]
fn what_goes_through_untouched() {
    assert!(
        batch(nearly_untouched()).is_some(),
        "the others are nearly this one"
    );
    for (why, request) in untouched() {
        assert!(EwsBatchFormat::new().batch(&request).is_none(), "{why}");
    }
    // A byte order mark is nothing special.
    let mut batch = batch(format!("\u{feff}{}", nearly_untouched())).unwrap();
    let part = batch.part(&[1]).to_bytes();
    assert!(part.starts_with("\u{feff}".as_bytes()));
}

#[test]
fn attachments_get_the_new_change_key() {
    let keys = |request: String| {
        let mut keys = Vec::new();
        let mut batch = batch(request).unwrap();
        drive(&mut batch, 3, |seen, part| {
            keys.push(seen.parent_change_key.clone());
            // The second part achieves nothing at first.
            ok(reply(seen, Style::Usual, |member| {
                match (part, member.number()) {
                    (1, _) | (0, 2) => Fortune::busy(1),
                    _ => Fortune::Done,
                }
            }))
        });
        keys
    };
    let request = case_of("CreateAttachment").request(Style::Usual, 7);
    let key = |key: &str| Some(key.to_owned());
    assert_eq!(
        keys(request.clone()),
        [
            key("first"),
            key("after-tok-0001"),
            key("after-tok-0001"),
            key("after-tok-0004")
        ][..]
    );
    // Nothing is put in where the caller gave none.
    let bare = request.replace(" ChangeKey='first'", "");
    assert_eq!(keys(bare), [None, None, None, None]);
}

#[test]
fn later_changes_of_one_item_get_the_new_change_key() {
    let case = case_of("UpdateItem");
    let request = case.request_of(Style::Usual, 60, |number, member| match number {
        4 | 6 | 50 => member
            .replace(&format!("tok-{number:04}"), "tok-0004")
            .replace("OccurrenceItemId RecurringMasterId", "ItemId Id"),
        _ => member,
    });
    let mut batch = batch(request).unwrap();
    // No part is larger than the splitter wants it.
    assert!((0..60).all(|member| !batch.joined(member)));
    assert_eq!(
        (batch.order(), batch.idempotency()),
        (Order::Kept, Idempotency::Idempotent)
    );
    let mut keys = Vec::new();
    drive(&mut batch, 10, |seen, part| {
        let same = seen.members.iter().filter(|member| member.number() == 4);
        keys.extend(same.map(|member| (part, member.change_key.clone().unwrap())));
        ok(reply(seen, Style::Usual, |_| Fortune::Done))
    });
    let key = |part, key: &str| (part, key.to_owned());
    assert_eq!(keys, [key(0, "CQ"), key(0, "CQ"), key(5, "new-tok-0004")]);
}

#[test]
fn what_counts_for_the_mailbox_is_said_once() {
    for operation in ["AddDelegate", "UpdateDelegate"] {
        let mut batch = batch_of(operation, 7);
        let mut said = Vec::new();
        drive(&mut batch, 2, |seen, part| {
            said.push(
                seen.children
                    .iter()
                    .any(|child| child == "DeliverMeetingRequests"),
            );
            ok(reply(seen, Style::Usual, |_| match part {
                // Nothing was done by the first part.
                0 => Fortune::busy(1),
                _ => Fortune::Done,
            }))
        });
        assert_eq!(said, [true, true, false, false, false]);
    }
}

#[test]
fn how_operations_may_be_sent() {
    let row = |operation: &str| {
        let batch = batch_of(operation, 6);
        (batch.order(), batch.idempotency())
    };
    assert_eq!(row("GetItem"), (Order::Free, Idempotency::Safe));
    assert_eq!(row("DeleteItem"), (Order::Free, Idempotency::Idempotent));
    assert_eq!(row("CopyItem"), (Order::Free, Idempotency::NonIdempotent));
    assert_eq!(row("SendItem"), (Order::Kept, Idempotency::NonIdempotent));
    assert_eq!(
        row("EmptyFolder"),
        (Order::Free, Idempotency::NonIdempotent)
    );
    assert_eq!(
        row("MarkAllItemsAsRead"),
        (Order::Free, Idempotency::NonIdempotent)
    );
    assert_eq!(row("MoveFolder"), (Order::Kept, Idempotency::Idempotent));
    assert_eq!(row("CopyFolder"), (Order::Kept, Idempotency::NonIdempotent));
    assert_eq!(row("MarkAsJunk"), (Order::Kept, Idempotency::Idempotent));
    assert_eq!(
        row("ReportMessage"),
        (Order::Kept, Idempotency::NonIdempotent)
    );
    assert_eq!(
        row("ApplyConversationAction"),
        (Order::Kept, Idempotency::Idempotent)
    );
    let replaced = |operation: &str, old: &str, new: &str| {
        let request = case_of(operation).request(Style::Default, 6);
        let changed = request.replacen(old, new, 1);
        assert_ne!(request, changed);
        batch(changed).unwrap().idempotency()
    };
    for (operation, old, new) in [
        ("ApplyConversationAction", ">Move<", "> Copy <"),
        ("ApplyConversationAction", "Delete", "AlwaysDelete"),
        ("UpdateItem", "SaveOnly", "SendAndSaveCopy"),
        ("UpdateItem", "SetItemField", "AppendToItemField"),
        ("UpdateFolder", "SetFolderField", "AppendToFolderField"),
    ] {
        if old == "SetItemField" || old == "SetFolderField" {
            let request = case_of(operation)
                .request(Style::Usual, 6)
                .replace(old, new);
            assert_eq!(
                batch(request).unwrap().idempotency(),
                Idempotency::NonIdempotent
            );
            continue;
        }
        assert_eq!(
            replaced(operation, old, new),
            Idempotency::NonIdempotent,
            "{operation} {new}"
        );
    }
    assert_eq!(batch_of("GetUserAvailability", 6).max_members(), 100);
    assert_eq!(batch_of("GetItem", 6).max_members(), usize::MAX);
    // What fits is learnt for who is charged.
    assert_eq!(
        batch_of("GetItem", 6).sizing_key(),
        "GetItem ada@contoso.com"
    );
}

#[test]
fn uploads_converge_only_as_updates_of_given_items() {
    let upload = |members: &[(&str, &str)]| {
        let members = members.iter().map(|(action, inside)| {
            format!("<t:Item CreateAction='{action}'>{inside}<t:Data>QUJD</t:Data></t:Item>")
        });
        let members = members.collect::<String>();
        let request = format!("<m:UploadItems><m:Items>{members}</m:Items></m:UploadItems>");
        let batch = batch(Style::Usual.request(&request)).unwrap();
        (batch.order(), batch.idempotency())
    };
    let given = "<t:ParentFolderId Id='f'/><t:ItemId Id='i'/>";
    let update = ("Update", given);
    for update in [
        update,
        (
            "Update",
            "<t:ParentFolderId Id='f'></t:ParentFolderId><t:ItemId Id='i'></t:ItemId>",
        ),
    ] {
        let found = upload(&[update, update]);
        assert_eq!(found, (Order::Kept, Idempotency::Idempotent), "{update:?}");
    }
    for other in [
        ("CreateNew", "<t:ParentFolderId Id='f'/>"),
        ("CreateNew", given),
        ("UpdateOrCreate", given),
        ("UpdateOrCreate", "<t:ParentFolderId Id='f'/>"),
        ("Update", "<t:ParentFolderId Id='f'/>"),
        ("Update", ""),
        ("Overwrite", given),
    ] {
        // One such member is enough.
        let found = upload(&[update, other, update]);
        assert_eq!(
            found,
            (Order::Kept, Idempotency::NonIdempotent),
            "{other:?}"
        );
    }
}

#[test]
fn deletions_in_a_series_stay_in_order() {
    let delete = |operation: &str, other: &str| {
        let item = "<t:ItemId Id='a' ChangeKey='CQ'/>";
        let request = format!(
            "<m:{operation} DeleteType='HardDelete'><m:ItemIds>{item}{other}{item}</m:ItemIds></m:{operation}>"
        );
        let batch = batch(Style::Usual.request(&request)).unwrap();
        (batch.order(), batch.idempotency())
    };
    for other in [
        "<t:OccurrenceItemId RecurringMasterId='b' InstanceIndex='1'/>",
        "<t:RecurringMasterItemId OccurrenceId='b'/>",
        "<t:RecurringMasterItemIdRanges Id='b'><t:Ranges><t:Range Start='2026-01-01T00:00:00Z' \
         End='2026-02-01T00:00:00Z' Count='1' CompareOriginalStartTime='true'/></t:Ranges>\
         </t:RecurringMasterItemIdRanges>",
    ] {
        let found = delete("DeleteItem", other);
        assert_eq!(found, (Order::Kept, Idempotency::Idempotent), "{other}");
        // It is a rule of deletions.
        assert_eq!(delete("GetItem", other), (Order::Free, Idempotency::Safe));
        assert_eq!(
            delete("CopyItem", other),
            (Order::Free, Idempotency::NonIdempotent)
        );
    }
    let found = delete("DeleteItem", "<t:ItemId Id='b'/>");
    assert_eq!(found, (Order::Free, Idempotency::Idempotent));
}

#[test]
fn members_of_one_mailbox_are_one_group() {
    const ADA: &str = "AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5OTU4Njk3YwAuAAAAAADPriAxh444TpHj2GoQxWQNAQAN+VjmVZl5Rq1ymCq5eFKOAAAAABSyAAA=";
    const BOB: &str =
        "AAQkAGQ1MjJjMTBkLTc4Y2UtNDA5Ny04ZjU5LWI3MTYzNGNkZmRkYQAQAOjFqObcLmtOlzlRnHdXQjo=";
    let id = |number: usize| [ADA, BOB, "opaque"][number % 3];
    for operation in [
        "GetItem",
        "UpdateItem",
        "GetConversationItems",
        "DeleteAttachment",
    ] {
        let request = case_of(operation).request_of(Style::Usual, 6, |number, member| {
            member.replace(&format!("tok-{number:04}"), id(number))
        });
        let batch = batch(request).unwrap();
        let groups: Vec<Option<u64>> = (0..6).map(|member| batch.group(member)).collect();
        assert_eq!(groups[..3], groups[3..], "{operation}");
        assert!(groups[0].is_some() && groups[1].is_some() && groups[2].is_none());
        assert_ne!(groups[0], groups[1]);
    }
    let folder = |mailbox: &str| {
        format!("<t:DistinguishedFolderId Id='inbox'>{mailbox}</t:DistinguishedFolderId>")
    };
    let of = |name: &str| {
        folder(&format!(
            "<t:Mailbox><t:Name/><t:EmailAddress>{name}</t:EmailAddress></t:Mailbox>"
        ))
    };
    let folders = [of("a@x"), of(" A@x "), of("b@x"), folder("")].concat();
    let batch = batch(Style::Far.request(&format!(
        "<m:GetFolder><m:FolderIds>{folders}</m:FolderIds></m:GetFolder>"
    )))
    .unwrap();
    let groups: Vec<u64> = (0..4).map(|member| batch.group(member).unwrap()).collect();
    assert_eq!(groups[0], groups[1]);
    assert!(groups[1] != groups[2] && groups[2] != groups[3] && groups[0] != groups[3]);
}

#[test]
fn an_array_without_members_is_not_in_the_part() {
    let mut batch = batch_of("GetImItems", 6);
    for (members, children) in [
        (&[0, 2][..], &["ContactIds"][..]),
        (&[2, 3], &["ContactIds", "GroupIds"]),
        (&[4, 5], &["GroupIds"]),
    ] {
        let seen = Seen::read(&batch.part(members).to_bytes());
        assert_eq!(seen.children, children);
        assert_eq!(seen.numbers(), members);
    }
}

/// Our own messages for every operation, in responses of every style; and what they say.
fn explained() -> Vec<(&'static Case, String)> {
    let mut responses = Vec::new();
    let whys = [
        Explanation::OutcomeUnknown {
            cause: "<&> \u{1} \"gone\" ]]>",
        },
        Explanation::NotExecuted {
            code: Some("ErrorServerBusy"),
            cause: "busy",
        },
        Explanation::NotExecuted {
            code: Some("<Unheard>"),
            cause: "what was that",
        },
        Explanation::NotExecuted {
            code: None,
            cause: "413",
        },
        Explanation::DependencyFailed { member: 3 },
    ];
    for case in CASES {
        for style in Style::ALL {
            let mut batch = batch(case.request(Style::Usual, 6)).unwrap();
            if case.lists {
                assert!(batch.explain(0, &whys[0]).is_none());
                continue;
            }
            let seen = Seen::read(&batch.part(&[0]).to_bytes());
            let body = reply(&seen, style, |_| Fortune::Done);
            let PartResponse::Messages { frame, messages } =
                batch.response(&[0], &head(200, &[]), Rope::from(body))
            else {
                panic!("no messages");
            };
            let mut all = frame.0;
            all.append(messages[0].bytes.clone());
            for (number, why) in whys.iter().enumerate() {
                all.append(batch.explain(number + 1, why).unwrap());
            }
            all.append(frame.1);
            responses.push((case, text(&all)));
        }
    }
    responses
}

#[test]
fn messages_of_our_own() {
    for (case, response) in explained() {
        check(case, &response);
        let read = SoapResponse::parse(response.as_bytes()).unwrap();
        let entries: Vec<_> = read.entries().collect();
        let codes: Vec<&str> = entries.iter().map(|entry| entry.code.as_str()).collect();
        let stopped = "ErrorBatchProcessingStopped";
        assert_eq!(
            codes,
            [
                "NoError",
                "ErrorInternalServerError",
                "ErrorServerBusy",
                stopped,
                stopped,
                stopped
            ]
        );
        assert!(entries[1].text.contains("<&> \u{fffd} \"gone\" ]]>"));
        assert!(entries[5].text.contains("member 3"));
        for entry in &entries[1..] {
            assert_eq!(entry.class, tower_ews::soap::ResponseClass::Error);
        }
    }
}

#[test]
fn no_response_makes_it_panic() {
    let mut random = random();
    for round in 0..4000 {
        let case = &CASES[random.usize(..CASES.len())];
        let style = Style::ALL[random.usize(..4)];
        let mut batch = batch(case.request(style, 6)).unwrap();
        let members = [0, 1, 4];
        let seen = Seen::read(&batch.part(&members).to_bytes());
        let style = Style::ALL[random.usize(..4)];
        let mut body = reply(&seen, style, |_| Fortune::Done).into_bytes();
        for _ in 0..random.usize(..6) {
            let at = random.usize(..body.len());
            match random.u8(..5) {
                0 => body[at] = random.u8(..),
                1 => body.truncate(at.max(1)),
                2 => drop(body.drain(at..body.len().min(at + random.usize(1..60)))),
                3 => body[at] = b"<>/\"' =!&"[random.usize(..9)],
                _ => {
                    let piece = body[at..body.len().min(at + random.usize(1..80))].to_vec();
                    let to = random.usize(..body.len());
                    body.splice(to..to, piece);
                }
            }
            if body.is_empty() {
                body.push(b'<');
            }
        }
        // Twice: the second one has to fit the first.
        for _ in 0..2 {
            let rope: Rope = chopped(&body, &mut random).into_iter().collect();
            if let PartResponse::Messages { messages, .. } =
                batch.response(&members, &head(200, &[]), rope)
            {
                assert_eq!(messages.len(), 3, "round {round}");
            }
            let good = reply(&seen, Style::Crossed, |_| Fortune::Done);
            batch.response(&members, &head(200, &[]), Rope::from(good));
            batch.part(&[0, 3]);
        }
    }
}

#[test]
fn all_of_it_is_valid() {
    let schemas = schema::schemas();
    if schemas.is_empty() {
        return;
    }
    let mut random = random();
    let mut texts: Vec<(&Case, bool, String)> = Vec::new();
    for case in CASES {
        for style in Style::ALL {
            let request = case.request(style, 7);
            let mut batch = batch(request.clone()).unwrap();
            texts.push((case, true, request));
            for members in [&[0][..], &[1, 2, 5], &[2, 3, 4], &[6], &[5, 6]] {
                let part = batch.part(members).to_bytes();
                texts.push((case, true, String::from_utf8(part.to_vec()).unwrap()));
                // Which changes the parts that follow.
                let body = reply(&Seen::read(&part), style, |_| Fortune::Done);
                batch.response(members, &head(200, &[]), Rope::from(body));
            }
        }
    }
    let responses = merged(&mut random).into_iter().chain(explained());
    texts.extend(responses.map(|(case, reply)| (case, false, reply)));
    for schema in schemas {
        let names = std::fs::read_to_string(schema.with_file_name("messages.xsd")).unwrap();
        let known: Vec<String> = texts
            .iter()
            .filter(|(case, request, text)| case.is_in_schema(&names, *request, text))
            .map(|(_, _, text)| text.clone())
            .collect();
        assert!(
            known.len() > texts.len() * 9 / 10,
            "{} of {}",
            known.len(),
            texts.len()
        );
        // It would see an error if there was one.
        let wrong = known[0].replacen("<m:Ids", "<m:Idss", 1);
        assert!(schema::complaint("batch_ews", &schema, &[wrong]).is_some());
        if let Some(complaint) = schema::complaint("batch_ews", &schema, &known) {
            let errors: Vec<&str> = complaint
                .lines()
                .filter(|line| !line.ends_with(" validates"))
                .collect();
            panic!("{}: {}", schema.display(), errors.join("\n"));
        }
        println!("{} texts keep {}", known.len(), schema.display());
    }
}
