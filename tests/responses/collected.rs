//! Responses that were collected from the documents and from other clients: the samples beside the facts.
//!
//! They are not part of the project. `EWS_FACTS_DIR` names their folder; without it the test says that it skips.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Worth;
use super::server::{Reply, good, request, send};

/// One sample: the file, and what was written down of it.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) class: String,
    /// The wait that it asks for.
    back_off: Option<Duration>,
    pub(crate) response: Reply,
}

impl Sample {
    /// The same, to another operation.
    pub(crate) fn said_to(&self, operation: &str) -> Reply {
        let mut response = self.response.clone();
        let own = self.name.split('-').nth(1).unwrap_or_default();
        if let (Reply::Response { body, .. }, true) = (&mut response, own != "fault") {
            *body = body.replace(&format!("{own}Response"), &format!("{operation}Response"));
        }
        response
    }

    fn speaks_for_all(&self) -> bool {
        !self.name.starts_with("200") || self.name.contains("fault")
    }
}

pub(crate) fn samples() -> Option<Vec<Sample>> {
    let folder = PathBuf::from(std::env::var_os("EWS_FACTS_DIR")?).join("faults");
    let index = fs::read_to_string(folder.join("index.tsv")).unwrap();
    let rows = index.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        let text = fs::read_to_string(folder.join(cells[0])).unwrap();
        let status = cells[1].parse().unwrap();
        Sample {
            name: cells[0].to_owned(),
            class: cells[4].to_owned(),
            back_off: cells[5].parse().ok().map(Duration::from_millis),
            response: match cells[0].strip_suffix(".http") {
                Some(_) => message(status, &text),
                None => Reply::xml(status, text),
            },
        }
    });
    Some(rows.collect())
}

/// Reads a response as it stands on the wire.
fn message(status: u16, text: &str) -> Reply {
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let headers = head.lines().skip(1).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        let name = name.trim().to_ascii_lowercase();
        // What describes the bytes is made anew.
        let left_out = ["content-length", "transfer-encoding"].contains(&&*name);
        (!left_out).then(|| (&*Box::leak(name.into_boxed_str()), value.trim().to_owned()))
    });
    Reply::Response {
        status,
        headers: headers.collect(),
        body: body.to_owned(),
    }
}

pub(crate) fn worth(class: &str) -> Worth {
    let has = |word| class.contains(word);
    let throttled = [
        "throttle-server-busy",
        "connection-count",
        "find-count",
        "too-many-objects",
    ];
    if throttled.into_iter().any(has) {
        Worth::UntilDeadline
    } else if has("transient") || has("inspect-inner") || has("not-processed") {
        Worth::Minutes
    } else if has("reroute") {
        Worth::Once
    } else {
        Worth::FinalForPart
    }
}

#[tokio::test(start_paused = true)]
async fn no_sample_takes_more_than_its_class_allows() {
    let Some(samples) = samples() else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    assert!(samples.len() > 30);
    let mut wrong = Vec::new();
    for sample in samples {
        let worth = worth(&sample.class);
        for (operation, members) in [
            ("GetItem", 1),
            ("GetItem", 20),
            ("GetItem", 1000),
            ("CreateItem", 1),
            ("CreateItem", 20),
            ("CreateItem", 1000),
        ] {
            // A success has messages for other members than these.
            if members > 1 && !sample.speaks_for_all() {
                continue;
            }
            let response = sample.said_to(operation);
            let outcome = send(request(operation, members), None, move |_| response.clone()).await;
            let requests = worth.requests().max(worth.requests_of_batch());
            let case = format!(
                "{} ({}), {operation} of {members}: {} requests, {:?}, {:?}, {}",
                sample.name,
                sample.class,
                outcome.requests(),
                outcome.took,
                outcome.status,
                outcome.error
            );
            println!("{case}");
            // Where it is not known what was done, one small part tries it once more, after a while.
            let tries = outcome.requests() == 2 && outcome.unknown == 51;
            let doubt = Duration::from_secs(if tries { 21 } else { 0 });
            if outcome.requests() > requests || outcome.took > worth.time().max(doubt) {
                wrong.push(case);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What a sample asks for is waited for, and then all members are done, alone and in batches.
#[tokio::test(start_paused = true)]
async fn the_wait_of_a_sample_is_kept() {
    let Some(samples) = samples() else {
        println!("skipped: EWS_FACTS_DIR is not set");
        return;
    };
    let mut waits = 0;
    for sample in samples.iter().filter(|sample| sample.speaks_for_all()) {
        let Some(back_off) = sample.back_off else {
            continue;
        };
        waits += 1;
        for operation in ["GetItem", "CreateItem"] {
            for members in [1, 20, 1000] {
                let response = sample.response.clone();
                let outcome = send(request(operation, members), None, move |ask| {
                    match ask.number {
                        0 => response.clone(),
                        _ => good(ask),
                    }
                })
                .await;
                let case = format!("{}, {operation} of {members}", sample.name);
                assert_eq!((outcome.done(), outcome.unknown), (members, 0), "{case}");
                let most = back_off + Duration::from_secs(10);
                assert!(outcome.took >= back_off, "{case}: {:?}", outcome.took);
                assert!(outcome.took <= most, "{case}: {:?}", outcome.took);
            }
        }
    }
    assert!(waits >= 3, "{waits}");
}
