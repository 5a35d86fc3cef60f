//! Several members of a batch are to blame, wherever they stand: all others have what they asked for.

use std::collections::BTreeSet;
use std::time::Duration;

use super::server::{Ask, Reply, fault, good, request, send};

const MEMBERS: usize = 2_000;
const CULPRITS: usize = MEMBERS / 100;

/// Where they stand.
fn places(seed: u64) -> Vec<(&'static str, BTreeSet<usize>)> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut all: Vec<usize> = (0..MEMBERS).collect();
    rng.shuffle(&mut all);
    let ends = [0, MEMBERS / 2, MEMBERS - 1];
    vec![
        ("anywhere", all.into_iter().take(CULPRITS).collect()),
        ("side by side", (300..300 + CULPRITS).collect()),
        ("the first ones", (0..CULPRITS).collect()),
        (
            "one in each hundred",
            (0..CULPRITS).map(|at| at * 100).collect(),
        ),
        ("at the ends and in the middle", ends.into_iter().collect()),
    ]
}

struct Kind {
    operation: &'static str,
    name: &'static str,
    response: fn(&Ask) -> Reply,
    /// How often a culprit is asked for by itself.
    tries: usize,
}

fn kinds() -> Vec<Kind> {
    let kind = |operation, name, tries, response| Kind {
        operation,
        name,
        response,
        tries,
    };
    vec![
        kind("GetItem", "500, a page", 7, |_| {
            Reply::page(500, "text/html", "<html>Runtime Error</html>")
        }),
        kind("GetItem", "a reset", 7, |_| Reply::Reset),
        kind("GetItem", "400", 1, |_| Reply::status(400)),
        kind("GetItem", "a fault", 2, |_| {
            Reply::xml(500, fault("ErrorInternalServerError", ""))
        }),
        kind("CreateItem", "400", 1, |_| Reply::status(400)),
        kind("CreateItem", "a fault", 1, |_| {
            Reply::xml(500, fault("ErrorSchemaValidation", ""))
        }),
    ]
}

#[tokio::test(start_paused = true)]
async fn one_member_in_a_hundred_costs_itself_alone() {
    let seed = fastrand::u64(..);
    println!("EWS_TEST_SEED={seed}");
    let mut wrong = Vec::new();
    for (place, culprits) in places(seed) {
        for kind in kinds() {
            let bad: BTreeSet<String> = culprits.iter().map(|at| format!("ID{at:04}")).collect();
            let response = kind.response;
            let outcome = send(request(kind.operation, MEMBERS), None, move |ask| match ask
                .ids
                .iter()
                .any(|id| bad.contains(id))
            {
                true => response(ask),
                false => good(ask),
            })
            .await;
            let case = format!(
                "{}, {}, {place}: {} done, {} unknown, {} requests, {:?}, {}",
                kind.operation,
                kind.name,
                outcome.done(),
                outcome.unknown,
                outcome.requests(),
                outcome.took,
                outcome.error
            );
            println!("{case}");
            if kind.operation == "CreateItem" && place == "the first ones" {
                // In order, nothing else was ever seen of the server: that looks like all.
                assert_eq!((outcome.done(), outcome.unknown), (0, 0), "{case}");
                assert!(outcome.requests() <= 5, "{case}");
                continue;
            }
            // The way to each, and what tells it from an outage.
            let bound = 40 + culprits.len() * (kind.tries + 20);
            if outcome.done() != MEMBERS - culprits.len()
                || outcome.unknown > 0
                || outcome.requests() > bound
                || outcome.took > Duration::from_secs(60) * culprits.len() as u32
            {
                wrong.push(case);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
