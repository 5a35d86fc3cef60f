//! Counts over time, for a span that nobody knows before the log has ended.

use std::collections::BTreeMap;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Widths of a bucket in seconds. Each divides the next, so that narrow buckets can be added up to wide ones.
const WIDTHS: [i64; 18] = [
    1,
    5,
    15,
    30,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    7 * DAY,
    28 * DAY,
    364 * DAY,
    3_640 * DAY,
    36_400 * DAY,
];

/// More buckets than that are added up to wider ones.
const MOST: usize = 1024;

/// Several counts in each bucket of time.
#[derive(Clone, Debug)]
pub(crate) struct Series<const N: usize> {
    width: usize,
    buckets: BTreeMap<i64, [u64; N]>,
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Self {
            width: 0,
            buckets: BTreeMap::new(),
        }
    }
}

impl<const N: usize> Series<N> {
    /// Adds to one of the counts at this second.
    pub(crate) fn add(&mut self, second: i64, which: usize, amount: u64) {
        let bucket = second.div_euclid(WIDTHS[self.width]);
        self.buckets.entry(bucket).or_insert([0; N])[which] += amount;
        while self.buckets.len() > MOST && self.width + 1 < WIDTHS.len() {
            let (from, to) = (WIDTHS[self.width], WIDTHS[self.width + 1]);
            self.width += 1;
            for (bucket, counts) in std::mem::take(&mut self.buckets) {
                let wide = self.buckets.entry((bucket * from).div_euclid(to));
                let wide = wide.or_insert([0; N]);
                wide.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            }
        }
    }

    /// The counts in buckets of a window. What lies outside is left out.
    pub(crate) fn within(&self, window: &Window) -> Vec<[u64; N]> {
        let mut all = vec![[0; N]; window.buckets];
        for (bucket, counts) in &self.buckets {
            let second = bucket * WIDTHS[self.width];
            let index = (second - window.start).div_euclid(window.width);
            let place = usize::try_from(index).ok().and_then(|i| all.get_mut(i));
            if let Some(place) = place {
                place.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
            }
        }
        all
    }

    /// The narrowest window of at most `most` buckets over this series, which no finer series may be shown in.
    ///
    /// A clock that was wrong for a moment must not squeeze everything else into one column: if the outermost thousandth on
    /// each side takes up more than half of the time, it is left out.
    pub(crate) fn window(&self, most: usize) -> Option<Window> {
        let total: u64 = self.buckets.values().flatten().sum();
        let at = |bucket: i64| bucket * WIDTHS[self.width];
        let (first, last) = (
            at(*self.buckets.first_key_value()?.0),
            at(*self.buckets.last_key_value()?.0),
        );
        let inner = |buckets: &mut dyn Iterator<Item = (&i64, &[u64; N])>| {
            let mut outside = 0;
            for (bucket, counts) in buckets {
                outside += counts.iter().sum::<u64>();
                if outside > total / 1000 {
                    return at(*bucket);
                }
            }
            first
        };
        let trimmed = (
            inner(&mut self.buckets.iter()),
            inner(&mut self.buckets.iter().rev()),
        );
        let (first, last) = if (trimmed.1 - trimmed.0 + 1) * 2 < last - first {
            trimmed
        } else {
            (first, last)
        };
        let buckets = |width: i64| last.div_euclid(width) - first.div_euclid(width) + 1;
        let width = WIDTHS[self.width..]
            .iter()
            .copied()
            .find(|width| buckets(*width) <= most as i64)
            .unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        let start = first.div_euclid(width) * width;
        let buckets = usize::try_from(buckets(width))
            .unwrap_or(most)
            .min(4 * most);
        let inside = Window {
            start,
            width,
            buckets,
            left_out: 0,
        };
        let shown: u64 = self.within(&inside).iter().flatten().sum();
        Some(Window {
            left_out: total - shown,
            ..inside
        })
    }
}

/// A span of time, cut in buckets of equal width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its first second.
    pub(crate) start: i64,
    /// Of a bucket, in seconds.
    pub(crate) width: i64,
    pub(crate) buckets: usize,
    /// What lies outside.
    pub(crate) left_out: u64,
}

impl Window {
    pub(crate) fn end(&self) -> i64 {
        self.start + self.width * self.buckets as i64
    }

    /// Where to put labels on its axis: at most `most`, at round times.
    pub(crate) fn ticks(&self, most: usize) -> Vec<i64> {
        let span = self.end() - self.start;
        let steps = WIDTHS.iter().copied().chain([2 * DAY]).collect::<Vec<_>>();
        let mut steps = steps;
        steps.sort_unstable();
        let step = steps
            .into_iter()
            .find(|step| span / step < most as i64)
            .unwrap_or(span.max(1));
        let first = -(-self.start).div_euclid(step) * step;
        (0..)
            .map(|n| first + n * step)
            .take_while(|tick| *tick <= self.end())
            .collect()
    }
}
