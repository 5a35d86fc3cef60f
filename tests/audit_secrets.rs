//! The audit log from end to end: no secret gets into a log, wherever it stands and however it is written.

use bytes::Bytes;
use serde_json::Value;
use tower_ews::audit_log::{Level, Redaction};

use audit_secrets::generate::{ESCAPES, Host, Placement, SYNTAXES, placements};
use audit_secrets::place::{CANARY, Place, create, envelope, soap_response};
use audit_secrets::places::places;
use audit_secrets::sinks::{Around, leak, logs};

mod audit_secrets {
    pub(crate) mod generate;
    pub(crate) mod place;
    pub(crate) mod places;
    pub(crate) mod sinks;
}

#[test]
fn no_sink_shows_a_secret() {
    let places = places();
    assert!(places.len() >= 70, "{}", places.len());
    let mut wrong = Vec::new();
    for place in &places {
        for around in [Around::Client, Around::Stack] {
            for level in [Level::Summary, Level::Headers, Level::Full] {
                let case = format!("{}, {level:?}, {around:?}", place.name);
                let logs = logs(place, level, around);
                for (sink, text) in &logs {
                    assert!(!text.is_empty(), "{sink} of {case}");
                    if let Some(at) = leak(text) {
                        let near = &text[at.saturating_sub(90)..(at + 40).min(text.len())];
                        wrong.push(format!("{sink} of {case}: ...{near:?}"));
                    }
                }
                let line: Value = serde_json::from_str(&logs["json"]).unwrap();
                assert_eq!(line["schema"], 1, "{case}");
                if level == Level::Full && !logs["json"].contains(place.shown) {
                    wrong.push(format!("{case} does not show {}: {line}", place.shown));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} in all:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn seed() -> u64 {
    let seed = std::env::var("EWS_TEST_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("EWS_TEST_SEED={seed}");
    seed
}

/// How many times as many cases as usual.
fn rounds() -> usize {
    let rounds = std::env::var("EWS_TEST_ROUNDS").ok();
    rounds.map_or(1, |rounds| rounds.parse().unwrap())
}

fn is_header_value(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// A call in which the placement stands somewhere where it can.
fn place_of(placement: &Placement, random: &mut fastrand::Rng) -> Place {
    let place = Place::new(&*placement.name);
    let text = &*placement.text;
    let as_text = |place: Place, random: &mut fastrand::Rng| match random.u8(0..5) {
        0 => place.fails(&["no response", text]),
        1 => place
            .tells("content-type", "text/plain")
            .responds_with(text),
        2 => place
            .asks("content-type", "application/json")
            .request(Value::from(text).to_string()),
        3 => place.responds_with(soap_response(&format!(
            "<m:MessageText>{}</m:MessageText><m:ResponseCode>ErrorItemNotFound</m:ResponseCode>",
            xml(text)
        ))),
        _ if is_header_value(text) => match random.bool() {
            true => place.tells("location", text),
            false => place.asks("referer", text),
        },
        _ => place.fails(&[text]),
    };
    if placement.is_escaped {
        return as_text(place, random);
    }
    match placement.host {
        Host::Text => as_text(place, random),
        Host::Url if text.starts_with("https") && !text.contains(['#', '@']) && random.bool() => {
            place.uri(text)
        }
        Host::Url => as_text(place, random),
        Host::Form => place
            .asks("content-type", "application/x-www-form-urlencoded")
            .request(text),
        Host::Json => match random.bool() {
            true => place.asks("content-type", "application/json").request(text),
            false => place
                .tells("content-type", "application/json")
                .responds_with(text),
        },
        Host::Xml => match random.bool() {
            true => place.request(create(text)),
            false => place.responds_with(soap_response(text)),
        },
    }
}

/// Whether the log shows the secret as it is, or as it was written, with backslashes doubled or not.
fn shows(log: &str, secret: &str) -> bool {
    let once = secret.replace('\\', "\\\\");
    let twice = once.replace('\\', "\\\\");
    leak(log).is_some()
        || [secret, &once, &twice]
            .iter()
            .any(|secret| log.contains(secret))
}

#[test]
fn no_sink_shows_a_generated_secret() {
    let mut random = fastrand::Rng::with_seed(seed());
    let share = 60 / rounds().min(60);
    let some = placements(CANARY, &mut random, |random| random.usize(..share) == 0);
    assert!(some.len() >= 400, "{}", some.len());
    let mut wrong = Vec::new();
    for placement in &some {
        let place = place_of(placement, &mut random);
        let around = if random.bool() {
            Around::Client
        } else {
            Around::Stack
        };
        for level in [Level::Summary, Level::Headers, Level::Full] {
            let logs = logs(&place, level, around);
            let showing = logs.iter().filter(|(_, log)| shows(log, &placement.secret));
            wrong.extend(showing.map(|(sink, log)| format!("{sink} of {}: {log}", place.name)));
        }
    }
    println!(
        "{} placements, each at three levels, in five sinks",
        some.len()
    );
    assert!(
        wrong.is_empty(),
        "{} in all, such as {}",
        wrong.len(),
        wrong[0]
    );
}

fn body_of(redaction: &Redaction, kind: &str, body: String) -> Box<str> {
    let shown = redaction.body(Some(kind), &[body.into()], false);
    String::from_utf8_lossy(&shown).into()
}

/// Each name in each syntax in each escape, as a text and as bodies that say that they are something else.
#[test]
fn no_redacted_text_shows_a_generated_secret() {
    let mut random = fastrand::Rng::with_seed(seed());
    let share = 8 / rounds().min(8);
    let some = placements(CANARY, &mut random, |random| random.usize(..share) == 0);
    assert!(some.len() > SYNTAXES.len() * ESCAPES.len());
    let redaction = Redaction::new();
    for placement in &some {
        let body = Bytes::from(placement.text.clone());
        let kinds = match (placement.host, placement.is_escaped) {
            (Host::Form, false) => &["application/x-www-form-urlencoded"][..],
            _ => &["", "text/plain", "application/json", "text/xml"],
        };
        for kind in kinds {
            let shown = redaction.body(Some(kind), std::slice::from_ref(&body), false);
            let shown = String::from_utf8_lossy(&shown);
            assert!(
                !shows(&shown, &placement.secret),
                "{} as {kind}: {shown}",
                placement.name
            );
        }
        if placement.host == Host::Form && !placement.is_escaped {
            continue;
        }
        let text = &*placement.text;
        let string = Value::from(text).to_string();
        for shown in [
            redaction.text(text),
            redaction.text(&Value::from(&*string).to_string()),
            body_of(
                &redaction,
                "application/json",
                format!("{{\"a\":{string},\"b\":1}}"),
            ),
            body_of(
                &redaction,
                "text/xml",
                format!("<a><t>{}</t></a>", xml(text)),
            ),
            body_of(
                &redaction,
                "text/xml",
                format!("<a><t>{}</t></a>", xml(&string)),
            ),
        ] {
            assert!(
                !shows(&shown, &placement.secret),
                "{}: {shown}",
                placement.name
            );
        }
    }
}

/// Wherever a body is cut off by the limit, no more than some letters of the secret show.
#[test]
fn no_text_that_is_cut_off_shows_a_generated_secret() {
    let mut random = fastrand::Rng::with_seed(seed());
    let share = 100 / rounds().min(100);
    let some = placements(CANARY, &mut random, |random| random.usize(..share) == 0);
    let redaction = Redaction::new();
    for placement in some
        .iter()
        .filter(|one| one.host != Host::Form || one.is_escaped)
    {
        let letters = placement.secret.len() / CANARY.len() * 4;
        let begin = &placement.secret[..letters];
        for kind in ["", "application/json", "text/xml"] {
            for cut in 0..placement.text.len() {
                let body = Bytes::copy_from_slice(&placement.text.as_bytes()[..cut]);
                let shown = redaction.body(Some(kind), &[body], true);
                let shown = String::from_utf8_lossy(&shown);
                assert!(
                    leak(&shown).is_none() && !shown.contains(begin),
                    "{} as {kind}, cut after {cut}: {shown}",
                    placement.name
                );
            }
        }
    }
}

/// A body can name its operation as it likes.
#[test]
fn the_name_of_an_unknown_operation_is_cut_in_every_sink() {
    let long = "A".repeat(5_000);
    let place = Place::new("operation").request(envelope("", &format!("<m:{long}/>")));
    for around in [Around::Client, Around::Stack] {
        for (sink, log) in logs(&place, Level::Summary, around) {
            assert!(!log.contains(&"A".repeat(65)), "{sink}: {log}");
        }
    }
}
