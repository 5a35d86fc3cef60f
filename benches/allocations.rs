//! How often the rows of `benches/overhead` allocate for one call, net of the bare service.
//!
//! On its own, since counting would slow down what `overhead` measures.

#[path = "overhead/bare.rs"]
mod bare;
#[path = "overhead/by_hand.rs"]
mod by_hand;
#[path = "overhead/groups.rs"]
mod groups;
#[path = "overhead/harness.rs"]
mod harness;
#[path = "overhead/null_json.rs"]
mod null_json;

use harness::{Group, Net};

fn main() {
    let runtime = groups::runtime();
    let _entered = runtime.enter();
    println!(
        "{:<40} {:>7} {:>7}",
        "allocations per call, net", "ours", "peer"
    );
    for (_, group) in groups::ALL {
        let mut group = group();
        for row in std::mem::take(&mut group.rows) {
            let ours = count(&mut group, row.ours);
            let theirs: f64 = row.theirs.iter().map(|net| count(&mut group, *net)).sum();
            println!("{:<40} {ours:>7.1} {theirs:>7.1}", row.name);
        }
    }
}

fn count(group: &mut Group, net: Net) -> f64 {
    const CALLS: usize = 10_000;
    let mut count = |case| {
        group.run(case, CALLS);
        let info = allocation_counter::measure(|| group.run(case, CALLS));
        info.count_total as f64 / CALLS as f64
    };
    count(net.case) - net.bare.map_or(0.0, count)
}
