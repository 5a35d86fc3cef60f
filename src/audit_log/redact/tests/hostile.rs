//! Inputs that are made to break a reader, or to keep it busy.

use bytes::Bytes;

use super::{FORM, JSON, XML, seed};
use crate::audit_log::redact::{Redaction, work};

/// Words of all the formats in any order: nothing panics, and what is redacted once stays so.
#[test]
fn nothing_panics() {
    const WORDS: [&str; 44] = [
        "<",
        ">",
        "/",
        "</",
        "/>",
        "<!--",
        "-->",
        "<![CDATA[",
        "]]>",
        "<!DOCTYPE",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\\",
        "\\\"",
        ":",
        "=",
        "&",
        "&lt;",
        "&gt;",
        "&quot;",
        "%3C",
        "%",
        "%4",
        "\\u003c",
        "\\u0040",
        "@",
        "://",
        "?",
        ";",
        ",",
        " ",
        "\n",
        "Password",
        "Token",
        "Bearer",
        "Cookie",
        "eyJ",
        "a",
        "é",
        "Security",
    ];
    let mut random = fastrand::Rng::with_seed(seed());
    let redactions = [
        Redaction::new(),
        Redaction::new().pseudonyms([1; 16]).mask_content(true),
    ];
    for _ in 0..8_000 {
        let text: String = (0..random.usize(0..40))
            .map(|_| WORDS[random.usize(..WORDS.len())])
            .collect();
        for redaction in &redactions {
            for kind in [XML, JSON, FORM, Some("text/plain"), None] {
                let mut bytes = text.clone().into_bytes();
                bytes.truncate(random.usize(0..=bytes.len()));
                let _ = redaction.body(kind, &[bytes.into()], random.bool());
            }
            let _ = redaction.text(&text);
        }
    }
}

/// The bytes that the readers pass over grow with the text, whatever is in it.
#[test]
fn hostile_inputs_take_linear_work() {
    let units = [
        "<",
        "<a",
        "<Password>",
        "<Password><",
        "</Password>",
        "<!--",
        "<![CDATA[",
        "<!DOCTYPE[",
        "<a b=\"",
        "<Password x='",
        "<token>x",
        "\"",
        "\"password\":",
        "\"password\":{",
        "\\",
        "\\\"",
        "password=\\",
        "password='",
        "password='''",
        "password=&quot;x",
        "&lt;token&gt;",
        "\\u003ctoken\\u003e",
        "://a:b",
        "://a:b@",
        "a@",
        "@",
        "a%40",
        "a@b",
        "%2B",
        "eyJ.",
        "Bearer ",
        "bearer+realm=",
        "bearer%20realm=",
        "basic+a",
        "cookie=\"",
        "cookie:\\",
        "token,",
        "token;a",
        "a.",
        "code=",
        "&code=",
        "?key=&amp;",
        "{",
        "{\"name\":\"password\",",
        "%25",
        "[[",
        "token:[",
        "<a Name='password' value='x' value='y' ",
        "<Envelope><Body>",
        "(\"password\", \"",
        "[\"token\",\"a\"b",
        "--token ",
        "password: |\n  ",
        "Authorization: a\n ",
        "-----BEGIN ",
        "-----BEGIN A-----",
        "{\"value\":{",
        "{\"value\":\"a\",",
        "<Value>",
        "<Name>token</Name><Value>",
        "<key><a>",
        "&#37;",
        "%255c",
        "&amp;amp;",
        "\\\\u005c",
        "//a:b",
        "name=token, value",
        ";sig=",
    ];
    let work = |unit: &str, kind, size: usize| {
        let text = Bytes::from(unit.repeat(size / unit.len()));
        let redaction = Redaction::new().pseudonyms([1; 16]).mask_content(true);
        work::during(|| {
            // Masked plain text is dropped: the other one reads it.
            redaction.body(kind, std::slice::from_ref(&text), true);
            Redaction::new().body(kind, std::slice::from_ref(&text), false);
        })
    };
    for unit in units {
        for kind in [
            XML,
            JSON,
            FORM,
            Some("text/plain"),
            Some("application/soap+xml"),
        ] {
            let [small, large] = [8, 64].map(|size| work(unit, kind, size * 1024));
            assert!(
                large <= small * 10 + 1024 && large < 64 * 1024 * 120,
                "{unit:?} as {kind:?}: {small} bytes of 8 KiB, {large} of 64 KiB"
            );
        }
    }
}
