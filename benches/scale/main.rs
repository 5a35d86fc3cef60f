//! What an operation of the ledger costs by how many calls wait, and what a call costs by how many ids it has.
//!
//! `cargo bench --bench scale` prints a table and writes `target/bench/scale.json`; `-- --quick` leaves out a million. A row's name is
//! an operation and the state of the ledger: `grant/aged`. One by its name runs alone, and writes no file: `-- aged`.
//!
//! - `ns` is the median of single operations; the table has the 99th percentile and the worst too, where a table that grows shows.
//! - At each size as many calls wait in all, in one ledger or in many: so a figure tells the work of one operation, and not how
//!   much of what waits fits into the processor's caches.
//! - What an operation leaves for woken calls to go on with is not in its time, but in `rest`: the polls of a hundred grants, by
//!   the calls that wait, with the longest of them as the worst. `drop_all` is dropping all, the first before the
//!   others, as the mean of a hundred.
//! - `bytes` is what one waiting call has in memory: its future with its timer, its request, its place in the queue.
//! - The clock of the ledger is virtual, the one that measures is not.

mod crowd;
mod ids;
#[path = "../overhead/results.rs"]
mod results;
mod states;

use std::time::Duration;
use std::{env, io};

use serde::Serialize;

use self::results::round;
use self::states::{OPERATIONS, STATES};

/// How much more an operation may cost at the most calls than at the fewest.
const LIMIT: f64 = 3.0;
/// The most memory that a waiting call may take.
const MOST_BYTES: f64 = 1024.0;

/// A row of the file.
#[derive(Serialize)]
struct Row {
    name: String,
    n: usize,
    ns: f64,
    bytes: f64,
}

/// One thing measured at different sizes.
struct Line {
    name: String,
    points: Vec<Point>,
}

struct Point {
    n: usize,
    ns: f64,
    p99: f64,
    worst: f64,
    bytes: f64,
}

impl Point {
    /// None without a sample.
    fn new(n: usize, mut times: Vec<Duration>, bytes: f64) -> Option<Self> {
        times.sort();
        let at = |part: f64| {
            let place = (times.len() as f64 * part) as usize;
            Some(
                times
                    .get(place.min(times.len().checked_sub(1)?))?
                    .as_nanos() as f64,
            )
        };
        Some(Self {
            n,
            ns: at(0.5)?,
            p99: at(0.99)?,
            worst: at(1.0)?,
            bytes,
        })
    }
}

impl Line {
    /// What it costs at the most, beside the fewest.
    fn ratio(&self) -> f64 {
        match (self.points.first(), self.points.last()) {
            // What is left to do may be nothing.
            (Some(first), Some(last)) => last.ns.max(1.0) / first.ns.max(1.0),
            _ => f64::NAN,
        }
    }

    fn print(&self) {
        for point in &self.points {
            println!(
                "{:<30} {:>9} {:>9.0} {:>9.0} {:>10.0} {:>7.0}",
                self.name, point.n, point.ns, point.p99, point.worst, point.bytes
            );
        }
        let verdict = |met| if met { "met" } else { "NOT MET" };
        let bytes = self.points.iter().map(|point| point.bytes);
        let bytes = bytes.fold(0.0, f64::max);
        println!(
            "{:<30} {:.2} x ({LIMIT} {}), {bytes:.0} B ({MOST_BYTES} {})",
            "",
            self.ratio(),
            verdict(self.ratio() <= LIMIT),
            verdict(bytes <= MOST_BYTES)
        );
    }
}

fn main() -> io::Result<()> {
    let quick = env::args().any(|argument| argument == "--quick");
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let sizes: &[usize] = match quick {
        true => &[1_000, 10_000, 100_000],
        false => &[1_000, 10_000, 100_000, 1_000_000],
    };
    let most = sizes.iter().copied().max().unwrap_or(1);
    println!(
        "{:<30} {:>9} {:>9} {:>9} {:>10} {:>7}",
        "nanoseconds", "n", "median", "p99", "worst", "bytes"
    );
    let mut lines = Vec::new();
    for state in STATES.into_iter().filter(|state| is_wanted(state.name())) {
        let mut of_state = OPERATIONS.map(|operation| Line {
            name: format!("{operation}/{}", state.name()),
            points: Vec::new(),
        });
        for &n in sizes {
            let measured = states::measure(state, n, most)?;
            for (line, times) in of_state.iter_mut().zip(measured.times) {
                let mut point = Point::new(n, times, measured.bytes);
                if let Some(rest) = point.as_mut().filter(|_| line.name.starts_with("rest/")) {
                    rest.worst = measured.longest.as_nanos() as f64;
                }
                line.points.extend(point);
            }
        }
        of_state.iter().for_each(Line::print);
        lines.extend(of_state);
    }
    for (name, measure) in ids::ALL {
        if !is_wanted(name) {
            continue;
        }
        let mut line = Line {
            name: name.to_owned(),
            points: Vec::new(),
        };
        for &n in sizes.iter().filter(|n| **n <= ids::MOST) {
            let (times, bytes) = measure(n);
            line.points.extend(Point::new(n, times, bytes));
        }
        line.print();
        lines.push(line);
    }
    for line in &lines {
        let largest = match line.name.ends_with("/ids") {
            true => ids::MOST,
            false => most,
        };
        let wanted = sizes.iter().filter(|n| **n <= largest).count();
        if line.points.len() < wanted {
            let message = format!("{} has no figure at each size", line.name);
            return Err(io::Error::other(message));
        }
    }
    if !wanted.is_empty() {
        return Ok(());
    }
    let rows = lines.iter().flat_map(|line| {
        line.points.iter().map(|point| Row {
            name: line.name.clone(),
            n: point.n,
            ns: round(point.ns),
            bytes: round(point.bytes),
        })
    });
    results::write("scale", &rows.collect::<Vec<_>>())
}
