//! A canary in every place where a secret can stand, whole, cut, split and malformed; and what is no secret stays as it is.
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Uri};

use self::cases::{EXACT, LOSSY};
use super::Redaction;

mod cases;
mod hostile;
mod readable;

const XML: Option<&str> = Some("text/xml; charset=utf-8");
const JSON: Option<&str> = Some("application/json");
const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

/// Begins each canary, and stands nowhere else.
const MARK: &str = "Qz7";

fn seed() -> u64 {
    let seed = std::env::var("EWS_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("EWS_TEST_SEED={seed}");
    seed
}

fn canary(random: &mut fastrand::Rng) -> String {
    let tail: String = (0..random.usize(8..40))
        .map(|_| random.alphanumeric())
        .collect();
    format!("{MARK}{tail}")
}

/// Writes the names in any case, each name in the same one, and the canary.
fn fill(template: &str, canary: &str, random: &mut fastrand::Rng) -> String {
    let mut text = String::new();
    let mut cases: Vec<(String, String)> = Vec::new();
    for (n, part) in template.split(['«', '»']).enumerate() {
        if n % 2 == 0 {
            text += part;
            continue;
        }
        if !cases.iter().any(|(name, _)| name == part) {
            let cased = part.chars().map(|letter| match random.u8(0..3) {
                0 => letter.to_ascii_uppercase(),
                1 => letter.to_ascii_lowercase(),
                _ => letter,
            });
            cases.push((part.to_owned(), cased.collect()));
        }
        let (_, cased) = cases.iter().find(|(name, _)| name == part).unwrap();
        text += cased;
    }
    text.replace("{C}", canary)
}

/// What a filled template looks like without its secrets: each canary, or what is marked ⟦so⟧, redacted.
fn expected(filled: &str, canary: &str) -> String {
    let mut text = String::new();
    for (n, part) in filled.split(['⟦', '⟧']).enumerate() {
        text += if n % 2 == 0 { part } else { "REDACTED" };
    }
    text.replace(canary, "REDACTED")
}

fn unmarked(filled: &str) -> String {
    filled.replace(['⟦', '⟧'], "")
}

fn shown(redaction: &Redaction, kind: Option<&str>, body: &[u8], truncated: bool) -> String {
    let shown = redaction.body(kind, &[Bytes::copy_from_slice(body)], truncated);
    String::from_utf8_lossy(&shown).into_owned()
}

fn all() -> impl Iterator<Item = &'static (Option<&'static str>, &'static str)> {
    EXACT.iter().chain(LOSSY)
}

#[test]
fn no_canary_is_seen() {
    let mut random = fastrand::Rng::with_seed(seed());
    for round in 0..30 {
        for (kind, template) in all() {
            let body = unmarked(&fill(template, &canary(&mut random), &mut random));
            let redaction = Redaction::new().mask_content(round % 3 == 1).name("unused");
            let shown = shown(&redaction, *kind, body.as_bytes(), false);
            assert!(!shown.contains(MARK), "{body}\n{shown}");
            let again = redaction.body(*kind, &[Bytes::from(shown.clone())], false);
            assert!(
                round % 3 == 1 || again == shown || shown.ends_with("not a text"),
                "not idempotent: {shown}\n{again:?}"
            );
        }
    }
}

#[test]
fn a_cut_anywhere_shows_no_canary() {
    let mut random = fastrand::Rng::with_seed(seed());
    for (kind, template) in all() {
        let body = unmarked(&fill(template, &canary(&mut random), &mut random));
        for cut in (0..body.len()).filter(|&cut| body.is_char_boundary(cut)) {
            for redaction in [Redaction::new(), Redaction::new().pseudonyms([1; 16])] {
                let shown = shown(&redaction, *kind, &body.as_bytes()[..cut], true);
                assert!(!shown.contains(MARK), "{}\n{shown}", &body[..cut]);
            }
        }
    }
}

#[test]
fn frames_make_no_difference() {
    let mut random = fastrand::Rng::with_seed(seed());
    for (kind, template) in all() {
        let body = unmarked(&fill(template, &canary(&mut random), &mut random));
        let mut pieces = Vec::new();
        let mut rest = Bytes::from(body.clone());
        while !rest.is_empty() {
            pieces.push(rest.split_to(random.usize(1..=rest.len().min(9))));
        }
        let redaction = Redaction::new();
        let split = redaction.body(*kind, &pieces, false);
        assert_eq!(split, shown(&redaction, *kind, body.as_bytes(), false));
    }
}

/// What stands around the secrets of `EXACT` is there afterwards, byte for byte.
#[test]
fn the_rest_stays() {
    let mut random = fastrand::Rng::with_seed(seed());
    for (kind, template) in EXACT {
        let canary = canary(&mut random);
        let filled = fill(template, &canary, &mut random);
        let body = unmarked(&filled);
        let shown = shown(&Redaction::new(), *kind, body.as_bytes(), false);
        assert_eq!(shown, expected(&filled, &canary), "{body}");
    }
}

#[test]
fn exactly_so() {
    let redaction = Redaction::new();
    for (kind, body, expected) in [
        (
            XML,
            "<t:Password>x</t:Password>\n<t:Subject>The Basic idea: Bearer tokens</t:Subject>",
            "<t:Password>REDACTED</t:Password>\n<t:Subject>The Basic idea: Bearer tokens</t:Subject>",
        ),
        (
            XML,
            "<Password/><Password></Password><b/>",
            "<Password/><Password></Password><b/>",
        ),
        (XML, "<a Password='' b='1'/>", "<a Password='' b='1'/>"),
        (
            JSON,
            r#"{"token":null,"password":12,"x":{"pwd":{"a":1}},"y":""}"#,
            r#"{"token":null,"password":"REDACTED","x":{"pwd":"REDACTED"},"y":""}"#,
        ),
        (
            FORM,
            "a=b&client_secret=x%20y&code=",
            "a=b&client_secret=REDACTED&code=",
        ),
        (
            Some("text/plain"),
            "password=hunter2&user=ann, Authorization: Basic YTpi",
            "password=REDACTED&user=ann, Authorization: REDACTED",
        ),
        (
            Some("text/plain"),
            "http://a:b@c/d?key=1#x",
            "http://REDACTED@c/d?key=REDACTED#x",
        ),
    ] {
        assert_eq!(shown(&redaction, kind, body.as_bytes(), false), expected);
    }
}

#[test]
fn headers() {
    let redaction = Redaction::new().header_name(HeaderName::from_static("x-badge"));
    let mut random = fastrand::Rng::with_seed(seed());
    let canary = canary(&mut random);
    for (name, value, expected) in [
        ("authorization", "Bearer {C}", "Bearer REDACTED"),
        ("authorization", "basic {C}", "basic REDACTED"),
        ("authorization", "{C}", "REDACTED"),
        ("authorization", "{C} {C}", "REDACTED"),
        ("proxy-authorization", "NTLM {C}", "NTLM REDACTED"),
        (
            "cookie",
            "a={C}; b=\"{C}\"; {C}",
            "a=REDACTED; b=REDACTED; REDACTED",
        ),
        (
            "set-cookie",
            "X-BackEndCookie={C}; path=/, y={C}",
            "X-BackEndCookie=REDACTED",
        ),
        ("x-backendoverridecookie", "{C}", "REDACTED"),
        ("x-accesstoken", "{C}", "REDACTED"),
        ("x-session", "{C}", "REDACTED"),
        ("x-session-id", "{C}", "REDACTED"),
        ("sessionid", "{C}", "REDACTED"),
        ("x-csrf", "{C}", "REDACTED"),
        ("x-csrfprotection", "{C}", "REDACTED"),
        ("client-session-id", "0b1c", "0b1c"),
        ("x-ms-token-aad-id-token", "{C}", "REDACTED"),
        ("x-api-key", "{C}", "REDACTED"),
        ("x-badge", "{C}", "REDACTED"),
        ("www-authenticate", "Negotiate {C}", "Negotiate REDACTED"),
        (
            "www-authenticate",
            "NTLM {C}, Basic realm=\"a, b\"",
            "NTLM REDACTED, Basic realm=\"a, b\"",
        ),
        (
            "www-authenticate",
            "Digest realm=\"x\", nonce=\"{C}\", {C}",
            "Digest realm=\"x\", nonce=REDACTED, REDACTED",
        ),
        (
            "www-authenticate",
            "Bearer client_id=\"0\", error=\"invalid_token\"",
            "Bearer client_id=\"0\", error=\"invalid_token\"",
        ),
        ("proxy-authenticate", "{C}", "REDACTED"),
        ("authentication-info", "Negotiate {C}", "REDACTED"),
        (
            "location",
            "https://u:{C}@host/?code={C}&x=1",
            "https://REDACTED@host/?code=REDACTED&x=1",
        ),
        ("x-diaginfo", "AM0PR01MB1234", "AM0PR01MB1234"),
        (
            "client-request-id",
            "5c9a3a1e-0000-0000-0000-000000000000",
            "5c9a3a1e-0000-0000-0000-000000000000",
        ),
        ("x-anchormailbox", "ann@contoso.com", "ann@contoso.com"),
    ] {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_str(&value.replace("{C}", &canary)).unwrap();
        assert_eq!(&*redaction.header(&name, &value), expected, "{name}");
    }
    let odd = HeaderValue::from_bytes(b"caf\xe9").unwrap();
    assert_eq!(
        &*redaction.header(&HeaderName::from_static("x-a"), &odd),
        "caf\u{fffd}"
    );
}

#[test]
fn urls() {
    let redaction = Redaction::new();
    for (url, expected) in [
        ("https://u:p@host/EWS/Exchange.asmx", "/EWS/Exchange.asmx"),
        (
            "https://host/a?access_token=x&b=1",
            "/a?access_token=REDACTED&b=1",
        ),
        (
            "/a?b=1&SIG=x&k%65y=y&code=z",
            "/a?b=1&SIG=REDACTED&k%65y=REDACTED&code=REDACTED",
        ),
        ("/a?u=https%3A%2F%2Fx%3Fcode%3Dabc", "/a?u=REDACTED"),
        ("*", "*"),
    ] {
        assert_eq!(&*redaction.url(&url.parse::<Uri>().unwrap()), expected);
    }
    let redaction = redaction.pseudonyms([3; 16]);
    let ann = redaction.mailbox("ann@contoso.com");
    for path in [
        "/users/Ann@contoso.com/messages",
        "/users/ann%40contoso.com/messages",
    ] {
        let uri: Uri = path.parse().unwrap();
        assert_eq!(*redaction.url(&uri), *format!("/users/{ann}/messages"));
    }
}

#[test]
fn pseudonyms_are_the_same_everywhere() {
    let redaction = Redaction::new().pseudonyms([9; 16]);
    let ann = redaction.mailbox(" Ann@Contoso.com ");
    assert_eq!(ann.len(), "mbx-0123456789abcdef".len());
    assert_ne!(
        ann,
        Redaction::new()
            .pseudonyms([8; 16])
            .mailbox("ann@contoso.com")
    );
    for (kind, body, expected) in [
        (
            XML,
            "<t:EmailAddress>ann@contoso.com</t:EmailAddress>",
            "<t:EmailAddress>{}</t:EmailAddress>",
        ),
        (
            JSON,
            r#"{"address":"ANN@contoso.com","a@odata.type":"x"}"#,
            r#"{"address":"{}","a@odata.type":"x"}"#,
        ),
        (
            JSON,
            r#"{"address":"ann\u0040contoso.com"}"#,
            r#"{"address":"{}"}"#,
        ),
        (FORM, "u=ann%40contoso.com&x=1", "u={}&x=1"),
        (
            None,
            "for 'ann@contoso.com', SMTP:ann@contoso.com; <ann@contoso.com>.",
            "for '{}', SMTP:{}; <{}>.",
        ),
        (None, "q=%3Cann%40contoso.com%3E", "q=%3C{}%3E"),
    ] {
        let shown = shown(&redaction, kind, body.as_bytes(), false);
        assert_eq!(shown, expected.replace("{}", &ann));
    }
    let anchor = HeaderName::from_static("x-anchormailbox");
    assert_eq!(
        redaction.header(&anchor, &HeaderValue::from_static("ann@contoso.com")),
        ann
    );
    let guid = "0d0eeb4c-5a4b-4d4f-9d13-000000000000";
    assert_eq!(
        redaction.header(&anchor, &HeaderValue::from_static(guid)),
        redaction.mailbox(guid)
    );
    let plus = redaction.mailbox("a+b@x.com");
    assert_eq!(*redaction.text("a%2Bb%40x.com"), *plus);
    assert!(!format!("{redaction:?}").contains('9'));
}

#[test]
fn contents_are_masked() {
    let redaction = Redaction::new().mask_content(true);
    let body = concat!(
        "<s:Envelope><s:Header/><s:Body><m:CreateItem><m:Items><t:Message><t:Subject>{C}</t:Subject><t:Body BodyType='Text'>{C}</t:Body>",
        "<t:MimeContent>{C}</t:MimeContent><t:Name>{C}</t:Name><t:ItemId Id='1'/></t:Message></m:Items>",
        "<t:Constant Value='{C}'/><t:Value>{C}</t:Value><t:Value Name='BackOffMilliseconds'>90</t:Value></m:CreateItem></s:Body></s:Envelope>",
    );
    let result = shown(&redaction, XML, body.replace("{C}", MARK).as_bytes(), false);
    assert_eq!(result, body.replace("{C}", "REDACTED"));
    let body = r#"{"subject":"{C}","body":{"contentType":"text","content":"{C}"},"bodyPreview":"{C}","from":{"emailAddress":{"name":"{C}","address":"x"}},"id":"1"}"#;
    let result = shown(
        &redaction,
        JSON,
        body.replace("{C}", MARK).as_bytes(),
        false,
    );
    assert_eq!(result, body.replace("{C}", "REDACTED"));
    let unmasked = shown(&Redaction::new(), JSON, body.as_bytes(), false);
    assert_eq!(unmasked, body);
}

#[test]
fn bytes_that_are_no_text_are_dropped() {
    let wide: Vec<u8> = "<Password>Qz7</Password>"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let redaction = Redaction::new();
    assert_eq!(
        shown(&redaction, XML, &wide, false),
        "REDACTED: 48 bytes, not a text"
    );
    let gzip = b"\x1f\x8b\x08\xff\xfe\xaa\xbb\xcc\xdd\xee";
    assert_eq!(
        shown(&redaction, Some("application/octet-stream"), gzip, false),
        "REDACTED: 10 bytes, not a text"
    );
}
