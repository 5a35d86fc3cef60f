//! Every shape in which a server responds, whole and in pieces.
#[path = "checks/response.rs"]
mod checks;

use std::time::Duration;

use checks::{assert_agrees, scan};

use tower_ews::soap::{
    CodeClass, Outcome, ResponseClass, ResponseMessage, ResponseScanner, ScanError, SoapResponse,
};

const ENVELOPE: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const M: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
const T: &str = "http://schemas.microsoft.com/exchange/services/2006/types";
const E: &str = "http://schemas.microsoft.com/exchange/services/2006/errors";

fn envelope(inner: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{ENVELOPE}\"><s:Header><h:ServerVersionInfo xmlns:h=\"{T}\" \
         Version=\"V2017_07_11\"/></s:Header><s:Body xmlns:m=\"{M}\" xmlns:t=\"{T}\">{inner}</s:Body></s:Envelope>"
    )
}

fn fault(code: &str, xml: &str) -> String {
    envelope(&format!(
        "<s:Fault><faultcode xmlns:a=\"{T}\">a:{code}</faultcode><faultstring xml:lang=\"en-US\">Not now.</faultstring><detail>\
         <e:ResponseCode xmlns:e=\"{E}\">{code}</e:ResponseCode><e:Message xmlns:e=\"{E}\">Not now.</e:Message>{xml}</detail></s:Fault>"
    ))
}

fn entry(operation: &str, class: &str, code: &str, rest: &str) -> String {
    format!(
        "<m:{operation}ResponseMessage ResponseClass=\"{class}\"><m:MessageText>Text.</m:MessageText>\
         <m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>{rest}</m:{operation}ResponseMessage>"
    )
}

fn list(operation: &str, entries: &[String]) -> String {
    let entries = entries.concat();
    envelope(&format!(
        "<m:{operation}Response><m:ResponseMessages>{entries}</m:ResponseMessages></m:{operation}Response>"
    ))
}

fn back_off(space: &str, milliseconds: &str) -> String {
    format!(
        "<x:MessageXml xmlns:x=\"{space}\"><x:Value Name=\"Policy\">a</x:Value><x:Value Name=\"BackOffMilliseconds\">{milliseconds}</x:Value>\
         <x:Value Name=\"Last\">1</x:Value></x:MessageXml>"
    )
}

/// Class, code class, back_off in milliseconds.
type Seen = (ResponseClass, CodeClass, Option<u64>);

fn seen(message: &ResponseMessage) -> Seen {
    let back_off = message
        .back_off
        .map(|back_off| u64::try_from(back_off.as_millis()).unwrap());
    (message.class, message.code.class(), back_off)
}

fn samples() -> Vec<(&'static str, String, Vec<Seen>)> {
    use CodeClass as C;
    use ResponseClass::{Error, Success, Warning};
    let busy = |back_off| vec![(Error, C::ThrottleServerBusy, back_off)];
    let inner = |code: &str| {
        format!(
            "<m:MessageXml><t:Value Name=\"InnerErrorMessageText\">ErrorServerBusy</t:Value>\
             <t:Value Name=\"InnerErrorResponseCode\"> {code} </t:Value></m:MessageXml>"
        )
    };
    vec![
        (
            "fault, back_off",
            fault("ErrorServerBusy", &back_off(T, "297749")),
            busy(Some(297_749)),
        ),
        (
            "fault, no back_off",
            fault("ErrorServerBusy", ""),
            busy(None),
        ),
        (
            "fault, errors namespace",
            fault("ErrorServerBusy", &back_off(E, "60000")),
            busy(Some(60_000)),
        ),
        (
            "fault, messages namespace",
            fault("ErrorServerBusy", &back_off(M, "60000")),
            busy(Some(60_000)),
        ),
        (
            "fault, white space",
            fault("\r\n   ErrorServerBusy\t ", &back_off(T, "\n 297749 ")),
            busy(Some(297_749)),
        ),
        (
            "fault, SOAP 1.2 namespace",
            fault("ErrorServerBusy", &back_off(T, "60000"))
                .replace(ENVELOPE, "http://www.w3.org/2003/05/soap-envelope"),
            busy(Some(60_000)),
        ),
        (
            "fault, SOAP 1.2",
            envelope(&format!(
                "<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>a:ErrorServerBusy</s:Value></s:Subcode></s:Code>\
                 <s:Reason><s:Text xml:lang=\"en\">Not now.</s:Text></s:Reason><s:Detail>{}</s:Detail></s:Fault>",
                back_off(T, "7")
            )),
            busy(Some(7)),
        ),
        (
            "fault, code in the fault code alone",
            envelope(
                "<s:Fault><faultcode>a:ErrorServerBusy</faultcode><faultstring>Not now.</faultstring></s:Fault>",
            ),
            busy(None),
        ),
        (
            "fault, connections",
            fault(
                "ErrorExceededConnectionCount",
                "<t:MessageXml><t:Value Name=\"Policy\">MaxConcurrency</t:Value><t:Value Name=\"MaxConcurrencyLimit\">27</t:Value></t:MessageXml>",
            ),
            vec![(Error, C::ThrottleConnectionCount, None)],
        ),
        (
            "fault, version",
            fault("ErrorInvalidServerVersion", ""),
            vec![(Error, C::RerouteOrFix, None)],
        ),
        (
            "fault, plain",
            fault("ErrorAccessDenied", ""),
            vec![(Error, C::Permanent, None)],
        ),
        (
            "sync, busy",
            list(
                "SyncFolderItems",
                &[entry(
                    "SyncFolderItems",
                    "Error",
                    "ErrorServerBusy",
                    &(back_off(T, "5000") + "<m:SyncState/>"),
                )],
            ),
            busy(Some(5000)),
        ),
        (
            "some busy",
            list(
                "GetItem",
                &[
                    entry("GetItem", "Success", "NoError", "<m:Items/>"),
                    entry("GetItem", "Error", "ErrorServerBusy", &back_off(T, "10000")),
                    entry("GetItem", "Error", "ErrorServerBusy", &back_off(T, "12000")),
                ],
            ),
            vec![
                (Success, C::Success, None),
                (Error, C::ThrottleServerBusy, Some(10_000)),
                (Error, C::ThrottleServerBusy, Some(12_000)),
            ],
        ),
        (
            "inner busy",
            list(
                "DeleteItem",
                &[entry(
                    "DeleteItem",
                    "Error",
                    "ErrorInternalServerError",
                    &inner("ErrorServerBusy"),
                )],
            ),
            vec![(Error, C::InspectInner, None)],
        ),
        (
            "inner permanent",
            list(
                "DeleteItem",
                &[entry(
                    "DeleteItem",
                    "Error",
                    "ErrorInternalServerError",
                    &inner("ErrorQuotaExceededOnDelete"),
                )],
            ),
            vec![(Error, C::InspectInner, None)],
        ),
        (
            "too many mailboxes",
            list(
                "FindItem",
                &[
                    entry("FindItem", "Success", "NoError", ""),
                    entry("FindItem", "Error", "ErrorTooManyObjectsOpened", ""),
                ],
            ),
            vec![
                (Success, C::Success, None),
                (Error, C::ThrottleTooManyObjects, None),
            ],
        ),
        (
            "find count",
            list(
                "FindItem",
                &[entry(
                    "FindItem",
                    "Error",
                    "ErrorExceededFindCountLimit",
                    "",
                )],
            ),
            vec![(Error, C::ThrottleFindCount, None)],
        ),
        (
            "short page",
            list(
                "FindItem",
                &[entry(
                    "FindItem",
                    "Success",
                    "NoError",
                    "<m:RootFolder IncludesLastItemInRange=\"false\"/>",
                )],
            ),
            vec![(Success, C::Success, None)],
        ),
        (
            "subscriptions",
            list(
                "Subscribe",
                &[entry(
                    "Subscribe",
                    "Error",
                    "ErrorExceededSubscriptionCount",
                    "",
                )],
            ),
            vec![(Error, C::ThrottleSubscriptionCount, None)],
        ),
        (
            "stopped",
            list(
                "GetItem",
                &[
                    entry("GetItem", "Error", "ErrorInsufficientResources", ""),
                    entry("GetItem", "Warning", "ErrorBatchProcessingStopped", ""),
                ],
            ),
            vec![
                (Error, C::TransientRetryLater, None),
                (Warning, C::NotProcessed, None),
            ],
        ),
        (
            "a time-out",
            list(
                "GetItem",
                &[entry("GetItem", "Error", "ErrorTimeoutExpired", "")],
            ),
            vec![(Error, C::TransientRetryLater, None)],
        ),
        (
            "a code of the field",
            list(
                "GetFolder",
                &[entry(
                    "GetFolder",
                    "Error",
                    "ErrorConnectionFailedTransientError",
                    "",
                )],
            ),
            vec![(Error, C::TransientRetryLater, None)],
        ),
        (
            "a code that nobody knows",
            list(
                "GetFolder",
                &[entry("GetFolder", "Error", "ErrorOfNextYear", "")],
            ),
            vec![(Error, C::Unknown, None)],
        ),
        (
            "free/busy",
            envelope(
                "<m:GetUserAvailabilityResponse><m:FreeBusyResponseArray><m:FreeBusyResponse><m:ResponseMessage ResponseClass=\"Success\">\
                 <m:ResponseCode>NoError</m:ResponseCode></m:ResponseMessage><m:FreeBusyView><t:ResponseCode>no</t:ResponseCode></m:FreeBusyView>\
                 </m:FreeBusyResponse><m:FreeBusyResponse><m:ResponseMessage ResponseClass=\"Error\"><m:ResponseCode>ErrorFreeBusyGenerationFailed\
                 </m:ResponseCode></m:ResponseMessage></m:FreeBusyResponse></m:FreeBusyResponseArray><m:SuggestionsResponse>\
                 <m:ResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode></m:ResponseMessage>\
                 </m:SuggestionsResponse></m:GetUserAvailabilityResponse>",
            ),
            vec![
                (Success, C::Success, None),
                (Error, C::TransientRetryLater, None),
                (Success, C::Success, None),
            ],
        ),
        (
            "single message",
            envelope(
                "<GetUserOofSettingsResponse><ResponseMessage ResponseClass='Error'><ResponseCode>ErrorAccessDenied</ResponseCode>\
                 </ResponseMessage><t:OofSettings><t:ResponseCode>no</t:ResponseCode></t:OofSettings></GetUserOofSettingsResponse>",
            ),
            vec![(Error, C::Permanent, None)],
        ),
        (
            "itself",
            envelope(
                "<m:GetRoomsResponse ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:Rooms/></m:GetRoomsResponse>",
            ),
            vec![(Success, C::Success, None)],
        ),
        (
            "itself and entries",
            envelope(&format!(
                "<m:GetDelegateResponse ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:ResponseMessages>{}\
                 </m:ResponseMessages></m:GetDelegateResponse>",
                entry("DelegateUser", "Error", "ErrorDelegateNoUser", "")
            )),
            vec![(Error, C::Permanent, None), (Success, C::Success, None)],
        ),
        (
            "streaming",
            list(
                "GetStreamingEvents",
                &[entry(
                    "GetStreamingEvents",
                    "Success",
                    "NoError",
                    "<m:ConnectionStatus>OK</m:ConnectionStatus>",
                )],
            ) + "\r\n\u{feff}"
                + &list(
                    "GetStreamingEvents",
                    &[entry(
                        "GetStreamingEvents",
                        "Error",
                        "ErrorSubscriptionNotFound",
                        "<m:ErrorSubscriptionIds><m:SubscriptionId>x</m:SubscriptionId></m:ErrorSubscriptionIds>",
                    )],
                ),
            vec![
                (Success, C::Success, None),
                (Error, C::ResubscribeOrResync, None),
            ],
        ),
        (
            "what a user wrote",
            list(
                "GetItem",
                &[entry(
                    "GetItem",
                    "Success",
                    "NoError",
                    "<m:Items><t:Message><t:Body><![CDATA[ ]> ]]]><!-- -> a -- > --><![CDATA[]>]]&gt;]]>&lt;/m:Items&gt;&lt;m:ResponseCode&gt;ErrorServerBusy<![CDATA[</m:Items></m:ResponseMessages>\
                     <s:Fault><faultcode>ErrorServerBusy</faultcode></s:Fault>]]></t:Body><m:ResponseCode>ErrorServerBusy</m:ResponseCode>\
                     <m:ResponseMessages><m:a ResponseClass='Error'><m:ResponseCode>ErrorServerBusy</m:ResponseCode></m:a></m:ResponseMessages>\
                     <!-- <m:ResponseCode>ErrorServerBusy</m:ResponseCode> --><s:Fault/><m:MessageXml><t:Value Name='BackOffMilliseconds'>9\
                     </t:Value></m:MessageXml></t:Message></m:Items>",
                )],
            ),
            vec![(Success, C::Success, None)],
        ),
        (
            "CDATA, comments and entities in values",
            list(
                "GetItem",
                &[entry(
                    "GetItem",
                    "Error",
                    "<![CDATA[Error]]><!-- > -> --->Server&#66;<?a > b?><![CDATA[]]>usy",
                    &back_off(T, "1<!-- 2 -->3"),
                )],
            ),
            busy(Some(13)),
        ),
    ]
}

#[test]
fn every_shape() {
    for (name, body, expected) in samples() {
        let response =
            SoapResponse::parse(body.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(response.is_soap, Some(true), "{name}");
        let found: Vec<_> = response.messages.iter().map(seen).collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(
            response.fault().is_some(),
            name.starts_with("fault"),
            "{name}"
        );
        for message in &response.messages {
            let range = message.range.start as usize..message.range.end as usize;
            let element = &body[range];
            assert!(
                element.starts_with('<') && element.ends_with('>'),
                "{name}: {element}"
            );
            let tag = element[1..].split([' ', '>']).next().unwrap();
            assert!(element.ends_with(&format!("</{tag}>")), "{name}: {element}");
            if message.is_entry {
                let list = response.list_content.clone().unwrap();
                assert!(body[..list.start as usize].ends_with('>'), "{name}");
                assert!(body[list.end as usize..].starts_with("</m:"), "{name}");
                assert!(
                    list.start <= message.range.start && message.range.end <= list.end
                        || name == "streaming"
                );
            }
        }
    }
}

#[test]
fn details() {
    let by = |wanted: &str| {
        let (_, body, _) = samples()
            .into_iter()
            .find(|(name, ..)| *name == wanted)
            .unwrap();
        SoapResponse::parse(body.as_bytes()).unwrap()
    };
    let inner = |response: SoapResponse| response.messages[0].inner_code.clone().unwrap().class();
    assert_eq!(inner(by("inner busy")), CodeClass::ThrottleServerBusy);
    assert_eq!(inner(by("inner permanent")), CodeClass::Permanent);
    assert_eq!(
        by("fault, connections").messages[0].max_concurrency,
        Some(27)
    );
    assert_eq!(&*by("fault, SOAP 1.2").messages[0].text, "Not now.");
    assert_eq!(&*by("fault, back_off").messages[0].text, "Not now.");
    assert_eq!(
        by("a code that nobody knows").messages[0].code.as_str(),
        "ErrorOfNextYear"
    );
    assert_eq!(
        by("a code that nobody knows").messages[0].code.outcome(),
        Outcome::Unknown
    );
    let entries = |response: SoapResponse| {
        response
            .messages
            .iter()
            .map(|message| message.is_entry)
            .collect::<Vec<_>>()
    };
    assert_eq!(entries(by("free/busy")), [true, true, false]);
    assert_eq!(entries(by("itself and entries")), [true, false]);
    let text = "a &amp;lt;<!-- once --> &amp;amp;<![CDATA[&lt;]]>&undefined;";
    let body = list(
        "GetItem",
        &[entry("GetItem", "Error", "x", "").replace("Text.", text)],
    );
    let message = &SoapResponse::parse(body.as_bytes()).unwrap().messages[0];
    assert_eq!(&*message.text, "a &lt; &amp;&lt;&undefined;");
    let long = "é".repeat(3000);
    let body = list(
        "GetItem",
        &[entry("GetItem", "Error", &long, "").replace("Text.", &format!("a{long}"))],
    );
    let message = &SoapResponse::parse(body.as_bytes()).unwrap().messages[0];
    assert_eq!(message.text.len(), 1023);
    assert!(message.code.as_str().len() <= 4096 + 3);
}

#[test]
fn back_offs() {
    let hundred_years = Duration::from_secs(100 * 365 * 86_400);
    let cases = [
        ("0", Some(Duration::ZERO)),
        ("1500", Some(Duration::from_millis(1500))),
        ("1500.5", Some(Duration::from_micros(1_500_500))),
        ("1e3", Some(Duration::from_secs(1))),
        ("86400000", Some(Duration::from_secs(86_400))),
        ("18446744073709551615", Some(hundred_years)),
        ("99999999999999999999999999", Some(hundred_years)),
        ("1e300", Some(hundred_years)),
        ("-1", None),
        ("-0.5", None),
        ("", None),
        ("soon", None),
        ("NaN", None),
        ("inf", None),
        ("5,000", None),
        ("0x10", None),
    ];
    for (text, expected) in cases {
        let response =
            SoapResponse::parse(fault("ErrorServerBusy", &back_off(T, text)).as_bytes()).unwrap();
        assert_eq!(response.messages[0].back_off, expected, "{text}");
    }
    let twice = back_off(T, "5") + &back_off(E, "9") + &back_off(M, "x");
    let response = SoapResponse::parse(fault("ErrorServerBusy", &twice).as_bytes()).unwrap();
    assert_eq!(
        response.messages[0].back_off,
        Some(Duration::from_millis(9))
    );
}

#[test]
fn what_is_not_soap() {
    let cases: &[&[u8]] = &[
        b"<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\"><HTML><BODY>Service Unavailable</BODY></HTML>",
        b"<!doctype html><html><br></html>",
        b"\xEF\xBB\xBF  <html><body><br></body>",
        b"{\"error\": {\"code\": \"TooManyRequests\"}}",
        b"Service Unavailable",
        b"\x1f\x8b\x08\0\0",
        b"<?xml version='1.0'?><!-- x --><Error/>",
    ];
    for body in cases {
        let response = SoapResponse::parse(body).unwrap();
        assert_eq!(
            (response.is_soap, response.messages.len()),
            (Some(false), 0),
            "{}",
            String::from_utf8_lossy(body)
        );
    }
    assert_eq!(SoapResponse::parse(b"").unwrap().is_soap, None);
    assert_eq!(SoapResponse::parse(b" \r\n").unwrap().is_soap, None);
}

#[test]
fn what_can_not_be_read() {
    use ScanError as S;
    let good = list("GetItem", &[entry("GetItem", "Success", "NoError", "")]);
    for cut in 1..good.len() {
        let error = SoapResponse::parse(&good.as_bytes()[..cut]);
        let decided = cut > good.find("<s:Envelope").unwrap();
        if decided {
            assert_eq!(error, Err(S::Truncated { at: cut as u64 }), "{cut}");
        }
    }
    type Case = (&'static str, String, fn(&S) -> bool);
    let cases: Vec<Case> = vec![
        (
            "dtd",
            good.replace("<s:Header>", "<!DOCTYPE a><s:Header>"),
            |e| matches!(e, S::Dtd { .. }),
        ),
        ("junk behind", format!("{good}x"), |e| {
            matches!(e, S::SecondRoot { .. })
        }),
        ("element behind", format!("{good}<a/>"), |e| {
            matches!(e, S::SecondRoot { .. })
        }),
        (
            "crossed",
            good.replace("</m:ResponseMessages>", "</m:Messages>"),
            |e| matches!(e, S::Unbalanced { .. }),
        ),
        ("too many ends", format!("{good}</a>"), |e| {
            matches!(e, S::Unbalanced { .. })
        }),
        (
            "malformed",
            good.replace("<s:Header>", "<s:Header <a>"),
            |e| matches!(e, S::Malformed { .. }),
        ),
        (
            "long tag",
            good.replace("<s:Body ", &format!("<s:Body a='{}' ", "x".repeat(70_000))),
            |e| matches!(e, S::TagTooLong { .. }),
        ),
    ];
    for (name, body, expected) in cases {
        let error = SoapResponse::parse(body.as_bytes()).expect_err(name);
        assert!(expected(&error), "{name}: {error:?}");
    }
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(SoapResponse::parse(&utf16), Err(S::Encoding));
    let mut scanner = ResponseScanner::new();
    let broken = good.replace("</m:ResponseMessages>", "</m:Messages>");
    let error = scanner.push(broken.as_bytes(), &mut |_| {}).unwrap_err();
    assert_eq!(
        scanner.push(b"<a/>", &mut |_| {}),
        Err(error.clone()),
        "it stays"
    );
    assert_eq!(scanner.finish(), Err(error));
}

#[test]
fn pieces_are_as_good_as_the_whole() {
    let replay = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = replay.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("EWS_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for (name, body, _) in samples() {
        let body = body.as_bytes();
        let whole = scan(&[body]);
        assert!(whole.1.is_ok(), "{name}");
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(scan(&single), whole, "{name} byte by byte");
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            assert_eq!(scan(&[a, b]), whole, "{name} cut at {cut}");
        }
        for _ in 0..60 {
            let mut broken = body.to_vec();
            for _ in 0..random.usize(..3) {
                let at = random.usize(..broken.len());
                match random.u8(..4) {
                    0 => broken.truncate(at + 1),
                    1 => broken[at] = b"<>/!?-[]&;'\"= aE\0\xEF"[random.usize(..18)],
                    2 => drop(broken.remove(at)),
                    _ => {
                        let token: [&[u8]; 6] =
                            [b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"&amp;"];
                        broken.splice(at..at, token[random.usize(..6)].iter().copied());
                    }
                }
                if broken.is_empty() {
                    break;
                }
            }
            let cuts: Vec<u8> = (0..9).map(|_| random.u8(..40)).collect();
            assert_agrees(&broken, &cuts);
        }
    }
}

/// Tags that are read where they lie say the same as those that come byte by byte.
#[test]
fn tags_of_all_kinds() {
    let replay = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = replay.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("EWS_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let parts = [
        "<t:Item>",
        "</t:Item>",
        "<t:A b='>' c=\"/\"/>",
        "<a/>",
        "<a x='<'>",
        "</a>",
        "</a >",
        "<a b=\"'\" >",
        "</>",
        "<-a>",
        "<1/>",
        "text that is longer than a few words of eight bytes",
        "&lt;",
        " ",
        "\"",
        ">",
        "<!-- <a> -->",
        "<![CDATA[</a>]]>",
        "<?p a?>",
        "<m:ResponseCode>",
        "</m:ResponseCode>",
        "<t:AnElementWithAVeryLongNameIndeed>",
        "</t:AnElementWithAVeryLongNameIndeed>",
        "<a b='c' / d='e'/ >",
        "<t:Id I='AAMkADg1OWUwODcyLTg4M2MtNDAyMS05YjI0LTI5ZGM5'/>",
    ];
    let mut read = 0;
    for _ in 0..3000 {
        let mut inner = String::new();
        let mut open = 0;
        for _ in 0..random.usize(..12) {
            let part = parts[random.usize(..parts.len())];
            // Sound now and then.
            if part.starts_with("</") && open == 0 && random.u8(..8) > 0 {
                continue;
            }
            open += i32::from(part.starts_with("<t:Item") || part.starts_with("<a x"));
            open -= i32::from(part.starts_with("</"));
            inner += part;
        }
        for _ in 0..open.max(0) {
            inner += "</t:Item>";
        }
        let body = list(
            "GetItem",
            &[entry(
                "GetItem",
                "Success",
                "NoError",
                &format!("<m:Items>{inner}</m:Items>"),
            )],
        );
        let cuts: Vec<u8> = (0..9).map(|_| random.u8(..)).collect();
        assert_agrees(body.as_bytes(), &cuts);
        read += usize::from(scan(&[body.as_bytes()]).1.is_ok());
    }
    assert!(read > 100, "too few responses were sound: {read}");
}

#[test]
fn where_the_scanner_stands() {
    let body = list("GetItem", &[entry("GetItem", "Success", "NoError", "")]);
    let mut scanner = ResponseScanner::new();
    let (head, rest) = body.split_at(body.find("<m:GetItemResponse>").unwrap());
    let mut count = 0;
    scanner.push(b"", &mut |_| count += 1).unwrap();
    assert_eq!((scanner.is_soap(), scanner.in_body()), (None, false));
    scanner.push(head.as_bytes(), &mut |_| count += 1).unwrap();
    assert_eq!(
        (scanner.is_soap(), scanner.in_body(), scanner.messages()),
        (Some(true), true, 0)
    );
    assert_eq!(scanner.position(), head.len() as u64);
    scanner.push(rest.as_bytes(), &mut |_| count += 1).unwrap();
    assert_eq!(
        (scanner.in_body(), scanner.messages(), count),
        (false, 1, 1)
    );
}

/// A server, or a proxy that rewrites its responses, may say how long to wait in words alone.
#[test]
fn a_back_off_that_is_no_value_of_its_own() {
    let text = |text: &str| fault("ErrorServerBusy", "").replacen("Not now.", text, 1);
    let xml = |xml: &str| {
        fault(
            "ErrorServerBusy",
            &format!("<t:MessageXml xmlns:t=\"{T}\">{xml}</t:MessageXml>"),
        )
    };
    let cases = [
        (text("Suggested backoff time 5000 ms."), Some(5000)),
        (
            text("&lt;t:Value Name=&quot;BackOffMilliseconds&quot;&gt;5000&lt;/t:Value&gt;"),
            Some(5000),
        ),
        (
            text("<![CDATA[<t:Value Name='BackOffMilliseconds'>5000</t:Value>]]>"),
            Some(5000),
        ),
        (xml("BackOffMilliseconds 5000"), Some(5000)),
        (xml("BackOff<!-- -->Milliseconds = 5000"), Some(5000)),
        (
            xml("<![CDATA[{\"BackOffMilliseconds\":5000}]]>"),
            Some(5000),
        ),
        (
            xml("<t:BackOffMilliseconds>5000</t:BackOffMilliseconds>"),
            Some(5000),
        ),
        (
            xml("<t:Value Name=\"InnerErrorMessageText\">Retry after 5 seconds.</t:Value>"),
            Some(5000),
        ),
        // The longest.
        (
            xml(
                "backoff 1 ms <t:Value Name=\"BackOffMilliseconds\">3000</t:Value> backoff 2000 ms",
            ),
            Some(3000),
        ),
        // A name here and a number there are no back-off.
        (
            xml("BackOffMilliseconds<t:Value Name=\"Policy\">5000</t:Value>"),
            None,
        ),
        (
            xml("<t:Value Name=\"Policy\">BackOffMilliseconds</t:Value>5000"),
            None,
        ),
        (text("Not now, at 5000."), None),
    ];
    for (body, milliseconds) in cases {
        let body = body.as_bytes();
        assert_agrees(body, &[3, 1, 7]);
        let response = SoapResponse::parse(body).unwrap();
        let expected = milliseconds.map(Duration::from_millis);
        let text = String::from_utf8_lossy(body);
        assert_eq!(response.fault().unwrap().back_off, expected, "{text}");
    }
    let good = entry("GetItem", "Success", "NoError", "").replace("Text.", "backoff 5000 ms");
    let response = SoapResponse::parse(list("GetItem", &[good]).as_bytes()).unwrap();
    assert_eq!(response.messages[0].back_off, None);
}
