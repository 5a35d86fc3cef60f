//! How it is measured: cases in random order, round after round, so that what slows the machine down slows all of them, and each time at
//! another place of the stack, since moves of what was just written cost by where it lies.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Makes that many calls.
type Run = Box<dyn FnMut(usize)>;

/// One thing that is measured, by its place in a [`Group`].
#[derive(Clone, Copy)]
pub(super) struct Case(usize);

/// What a case costs beyond the bare service of the same round.
#[derive(Clone, Copy)]
pub(super) struct Net {
    pub(super) case: Case,
    pub(super) bare: Option<Case>,
}

/// A line of the result: one thing against another.
#[allow(dead_code, reason = "the allocations bench prints less")]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) peer: &'static str,
    pub(super) ours: Net,
    /// What the peer consists of.
    pub(super) theirs: Vec<Net>,
    /// What the ratio may be at most, if there is a limit.
    pub(super) limit: Option<f64>,
    /// Whether the row is one of the JSON file's, or for the reader of the table alone.
    pub(super) in_file: bool,
}

/// Cases that are measured together, since rows compare them.
pub(super) struct Group {
    cases: Vec<Run>,
    /// Calls of one case at a stretch.
    calls: usize,
    pub(super) rows: Vec<Row>,
}

/// The nanoseconds per call of each case in each round.
pub(super) struct Samples(Vec<Vec<f64>>);

impl Group {
    pub(super) fn new(calls: usize) -> Self {
        Self {
            cases: Vec::new(),
            calls,
            rows: Vec::new(),
        }
    }

    pub(super) fn case(&mut self, run: impl FnMut(usize) + 'static) -> Case {
        self.cases.push(Box::new(run));
        Case(self.cases.len() - 1)
    }

    pub(super) fn row(
        &mut self,
        name: &'static str,
        peer: &'static str,
        ours: Net,
        theirs: Vec<Net>,
        limit: impl Into<Option<f64>>,
    ) {
        self.rows.push(Row {
            name,
            peer,
            ours,
            theirs,
            limit: limit.into(),
            in_file: true,
        });
    }

    /// Makes `calls` calls of a case.
    #[allow(dead_code, reason = "the allocations bench counts one case at a time")]
    pub(super) fn run(&mut self, case: Case, calls: usize) {
        self.cases[case.0](calls);
    }

    /// Measures all cases, in a new order each round, until the time is up.
    #[allow(dead_code, reason = "the allocations bench measures no time")]
    pub(super) fn measure(&mut self, time: Duration) -> Samples {
        let mut random = fastrand::Rng::with_seed(0x0e35);
        let mut samples = vec![Vec::new(); self.cases.len()];
        let mut order: Vec<usize> = (0..self.cases.len()).collect();
        let begin = Instant::now();
        while samples[0].len() < 10 || begin.elapsed() < time {
            random.shuffle(&mut order);
            let depth = random.usize(..64);
            for &case in &order {
                let run = &mut self.cases[case];
                // The case before has left the caches full of its own.
                let mut spent = Duration::ZERO;
                deeper(depth, &mut || {
                    run(self.calls / 8);
                    let begin = Instant::now();
                    run(self.calls);
                    spent = begin.elapsed();
                });
                samples[case].push(spent.as_nanos() as f64 / self.calls as f64);
            }
        }
        Samples(samples)
    }
}

/// Runs that much deeper in the stack.
#[allow(dead_code, reason = "the allocations bench measures no time")]
#[inline(never)]
fn deeper(levels: usize, run: &mut dyn FnMut()) {
    let place = black_box([0_u8; 16]);
    match levels {
        0 => run(),
        _ => deeper(levels - 1, run),
    }
    black_box(place);
}

#[allow(dead_code, reason = "the allocations bench measures no time")]
impl Samples {
    fn net(&self, net: Net) -> Vec<f64> {
        let case = self.0[net.case.0].iter().copied();
        match net.bare {
            Some(bare) => case
                .zip(&self.0[bare.0])
                .map(|(case, bare)| case - bare)
                .collect(),
            None => case.collect(),
        }
    }

    /// The medians of a row: its nanoseconds, the peer's, and the ratio of both in the same round.
    pub(super) fn medians(&self, row: &Row) -> (f64, f64, f64) {
        let ours = self.net(row.ours);
        let mut theirs = vec![0.0; ours.len()];
        for net in &row.theirs {
            let part = self.net(*net);
            theirs
                .iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        }
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
        let ratio = median(ratios.collect());
        (median(ours), median(theirs), ratio)
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
