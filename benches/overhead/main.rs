//! What each layer costs, beside what one would use or write instead.
//!
//! `cargo bench --bench overhead` prints a table and writes `target/bench/overhead.json`; `-- --quick` takes under a minute.
//!
//! A group by its name (see `groups.rs`) runs alone, and writes no file: `-- stack`.
//!
//! - All figures are net: what a call through the layer takes beyond the same call to the bare service, which responds
//!   at once with 2 KB and is the same for all rows. Calls are made new each time, and responses are read to their end.
//! - What a row compares is measured in turns of some two thousand calls, in random order, a few hundred rounds or
//!   more. A figure is the median of its rounds, the ratio the median of the rounds' ratios.
//! - One thread polls without a runtime's scheduler; only `contended` runs its thousand tasks on one, where each call waits for
//!   one turn.
//!
//! `cargo bench --bench allocations` counts what the same rows allocate.

mod bare;
mod by_hand;
mod groups;
mod harness;
mod null_json;
mod results;

use std::time::Duration;
use std::{env, io};

use serde_json::json;

use self::results::round;

fn main() -> io::Result<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let time = Duration::from_secs(if quick { 3 } else { 20 });
    let runtime = groups::runtime();
    let _entered = runtime.enter();
    let mut file = Vec::new();
    println!(
        "{:<40} {:>7} {:>7} {:>6}  limit        peer",
        "nanoseconds per call, net", "ours", "peer", "ratio"
    );
    for (name, group) in groups::ALL {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut group = group();
        let samples = group.measure(time);
        for row in &group.rows {
            let (ns, peer_ns, ratio) = samples.medians(row);
            let limit = row.limit.map_or(String::new(), |limit| {
                let verdict = if ratio <= limit { "met" } else { "NOT MET" };
                format!("{limit:.1} {verdict}")
            });
            println!(
                "{:<40} {ns:>7.1} {peer_ns:>7.1} {ratio:>6.2}  {limit:<11}  {}",
                row.name, row.peer
            );
            if row.in_file {
                file.push(json!({
                    "name": row.name,
                    "ns": round(ns),
                    "peer": row.peer,
                    "peer_ns": round(peer_ns),
                    "ratio": round(ratio),
                }));
            }
        }
    }
    if !wanted.is_empty() {
        return Ok(());
    }
    results::write("overhead", &file)
}
