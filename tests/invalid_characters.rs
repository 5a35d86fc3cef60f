//! Characters that XML does not allow, on their way through the stack.
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{Full, StreamBody};
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_ews::EwsStack;
use tower_ews::body::{BufferRequestError, BufferRequestLayer, InvalidCharacters, ReplayBody};
use tower_ews::policy::ThrottlingPolicy;
use tower_ews::soap::InvalidCharacter;
use tower_ews::stack::status_of;

fn create(subjects: &[&str]) -> String {
    let items: String = subjects
        .iter()
        .map(|subject| format!("<t:Message><t:Subject>{subject}</t:Subject></t:Message>"))
        .collect();
    format!(
        "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/' \
         xmlns:t='http://schemas.microsoft.com/exchange/services/2006/types'><s:Body>\
         <CreateItem xmlns='http://schemas.microsoft.com/exchange/services/2006/messages'>\
         <Items>{items}</Items></CreateItem></s:Body></s:Envelope>"
    )
}

/// Sends a body through the stack. Returns the result, and what the server got.
async fn send<B>(stack: EwsStack, body: B) -> (Result<Response<()>, BoxError>, Vec<Bytes>)
where
    B: Body + 'static,
    B::Error: Into<BoxError>,
{
    let sent = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let sent = Arc::clone(&sent);
        service_fn(move |request: Request<ReplayBody>| {
            sent.lock().unwrap().push(request.body().to_bytes());
            async {
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                    "<Envelope><Body><CreateItemResponse><ResponseMessages>\
                     <CreateItemResponseMessage ResponseClass='Success'><ResponseCode>NoError</ResponseCode></CreateItemResponseMessage>\
                     </ResponseMessages></CreateItemResponse></Body></Envelope>",
                )))
            }
        })
    };
    let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx");
    let response = stack
        .service(server)
        .oneshot(request.body(body).unwrap())
        .await;
    let sent = sent.lock().unwrap().clone();
    (response.map(|response| response.map(drop)), sent)
}

fn stack() -> EwsStack {
    EwsStack::new(ThrottlingPolicy::exchange_online())
}

fn found(error: &BoxError) -> InvalidCharacter {
    match error.downcast_ref() {
        Some(BufferRequestError::InvalidCharacter(found)) => *found,
        _ => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_server_takes_is_not_sent() {
    let body = create(&["Lunch", "Dinner\u{b}", "&#x0;"]);
    let at = body.find('\u{b}').unwrap();
    let frames = body.clone().into_bytes();
    let frames = frames
        .chunks(7)
        .map(Bytes::copy_from_slice)
        .collect::<Vec<_>>();
    let frames = frames
        .into_iter()
        .map(|frame| Ok::<_, Infallible>(Frame::data(frame)));
    for (result, sent) in [
        send(stack(), body).await,
        send(stack(), StreamBody::new(stream::iter(frames))).await,
    ] {
        let error = result.unwrap_err();
        let found = found(&error);
        assert_eq!(
            (found.character, found.at, found.member),
            (0xB, at, Some(1))
        );
        assert_eq!(status_of(&error), StatusCode::BAD_REQUEST);
        assert!(sent.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn on_request_they_are_made_harmless_or_left_alone() {
    let body = create(&["a\u{b}b&#x0;c\u{ffff}"]);
    let replace = stack().invalid_characters(InvalidCharacters::Replace);
    let (result, sent) = send(replace, body.clone()).await;
    result.unwrap();
    assert_eq!(sent, [create(&["a\u{fffd}b&#xFFFD;c\u{fffd}"])]);
    let pass = stack().invalid_characters(InvalidCharacters::Pass);
    let (result, sent) = send(pass, body.clone()).await;
    result.unwrap();
    assert_eq!(sent, [body]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_soap_or_all_right_is_sent_as_it_is() {
    for body in [
        "\u{1}".to_owned(),
        String::new(),
        "{\"a\":\"&#0;\"}".to_owned(),
        create(&["Tab\t, line\r\n, &#9;, <![CDATA[&#0;]]>, \u{1f600}"]),
    ] {
        for characters in [InvalidCharacters::Refuse, InvalidCharacters::Replace] {
            let stack = stack().invalid_characters(characters);
            let (result, sent) = send(stack, body.clone()).await;
            result.unwrap();
            assert_eq!(sent, std::slice::from_ref(&body));
        }
    }
}

/// In every place of a request and in every way of writing it, through the stack and in the layer alone.
#[tokio::test(start_paused = true)]
async fn wherever_it_stands_and_however_it_is_written() {
    let whole = |header: &str, attribute: &str, between: &str, subject: &str| {
        let body = create(&["x", subject])
            .replace(
                "<s:Body>",
                &format!("<s:Header><t:X>{header}</t:X></s:Header><s:Body>"),
            )
            .replacen("<t:Message>", &format!("<t:Message A='{attribute}'>"), 1);
        body.replacen(
            "</t:Message><t:Message>",
            &format!("</t:Message>{between}<t:Message>"),
            1,
        )
    };
    let subject = |text| whole("", "", "", text);
    let mut cases = Vec::new();
    for bad in [
        "&#x0;",
        "&#x00000;",
        "&#0;",
        "&#000000000000031;",
        "&#xFFFE;",
        "&#xffff;",
        "&#xD800;",
        "&#xD83D;&#xDE00;",
        "&#x110000;",
        "&#x100000041;",
        "\u{b}",
        "\0",
        "\u{ffff}",
        "\u{fffe}",
        "<![CDATA[\u{1}]]>",
    ] {
        cases.push((subject(bad), Some(Some(1))));
    }
    cases.push((whole("&#x1;", "", "", ""), Some(None)));
    cases.push((whole("", "&#x2;", "", ""), Some(Some(0))));
    cases.push((whole("", "\u{3}", "", ""), Some(Some(0))));
    cases.push((whole("", "", "<!-- \u{3} -->", ""), Some(None)));
    cases.push((whole("", "", "<?p \u{3}?>", ""), Some(None)));
    for good in [
        "&#x1F600;",
        "&#9;&#xA;&#xD;",
        "&#x85;&#x7f;",
        "&#x1FFFE;",
        "&amp;#x0;",
        "<![CDATA[&#x0;]]>",
        "\u{7f}\u{85}",
    ] {
        cases.push((subject(good), None));
    }
    cases.push((whole("", "", "<!-- &#x3; -->", ""), None));
    // The server responds to one member alone, which is another error.
    let member = |error: BoxError| match error.downcast_ref() {
        Some(BufferRequestError::InvalidCharacter(found)) => Some(found.member),
        _ => None,
    };
    for (body, expected) in cases {
        let (result, sent) = send(stack(), body.clone()).await;
        assert_eq!(result.err().and_then(member), expected, "{body:?}");
        assert_eq!(sent.len(), usize::from(expected.is_none()), "{body:?}");
        let layer = BufferRequestLayer::default().invalid_characters(InvalidCharacters::Refuse);
        let alone = layer.layer(service_fn(async |_: Request<ReplayBody>| {
            Ok::<_, BoxError>(())
        }));
        let alone = alone
            .oneshot(Request::new(ReplayBody::from(body.clone())))
            .await;
        assert_eq!(alone.err().and_then(member), expected, "{body:?}");
        // What was made harmless is so the second time.
        let replace = || stack().invalid_characters(InvalidCharacters::Replace);
        let (_, sent) = send(replace(), body.clone()).await;
        assert_eq!(sent[0] != body, expected.is_some(), "{body:?}");
        let (_, again) = send(stack(), ReplayBody::from(sent[0].clone())).await;
        assert_eq!(again, sent, "{body:?}");
    }
}
