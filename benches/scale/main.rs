//! What an operation of the ledger costs by how many calls wait, and what a call costs by how many ids it has.
//!
//! `cargo bench --bench scale` prints a table and writes `target/bench/scale.json`; `-- --quick` leaves out a million. A row's name is
//! an operation and the state of the ledger: `grant/aged`. One by its name runs alone, and writes no file: `-- aged`.
//!
//! - `ns` is the median of single operations, each under the ledger's lock once; the table has the 99th percentile and the
//!   worst too, where a table that grows shows. `drop_all` is the mean of dropping all that wait.
//! - What an operation leaves for woken calls to go on with is not in its time: they are polled between the operations.
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
            (Some(first), Some(last)) => last.ns / first.ns,
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
            let measured = states::measure(state, n)?;
            for (line, times) in of_state.iter_mut().zip(measured.times) {
                line.points.extend(Point::new(n, times, measured.bytes));
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
        for &n in sizes {
            let (times, bytes) = measure(n);
            line.points.extend(Point::new(n, times, bytes));
        }
        line.print();
        lines.push(line);
    }
    for line in &lines {
        if line.points.len() < sizes.len() {
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
