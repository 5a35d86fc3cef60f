//! [`Cost`]: what a call of a budget costs whose cost is told when it is over.

/// The mean and the standard deviation of what the last calls have cost.
///
/// Where a few calls cost many times what the others do, these are rare among those that end and common among those in flight, if they
/// take as much longer. So a call in flight is expected to cost what a call does that is found at a random moment of its time: the mean of
/// the squares by the mean (renewal theory's inspection paradox). Chance adds to the sum of several by the root of their number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// How many of them are known, up to [`LAST`].
    calls: u32,
    mean: f64,
    variance: f64,
}

/// What calls cost is forgotten over this many: long enough that one in fifty which costs far more is not forgotten before the next.
const LAST: u32 = 128;
/// Standard deviations that the calls in flight may cost more than expected.
const DEVIATIONS: f64 = 4.0;

impl Cost {
    /// What another process knew. What is no number that could be one is nothing.
    pub(super) fn of([mean, deviation]: [f64; 2]) -> Self {
        let known = mean > 0.0 && mean.is_finite();
        // No number is none.
        let deviation = deviation.max(0.0);
        Self {
            calls: if known { LAST } else { 0 },
            mean: if known { mean } else { 0.0 },
            variance: if known { deviation * deviation } else { 0.0 },
        }
    }

    /// The mean and the standard deviation.
    pub(super) fn parts(self) -> [f64; 2] {
        [self.mean, self.variance.sqrt()]
    }

    /// Whether no call has told.
    pub(super) fn is_unknown(self) -> bool {
        self.mean == 0.0
    }

    /// The first one is taken to be off by its half, as TCP takes the first round trip (RFC 6298).
    pub(super) fn add(&mut self, cost: f64) {
        if self.is_unknown() {
            (self.calls, self.mean, self.variance) = (1, cost, cost * cost / 4.0);
            return;
        }
        self.calls = LAST.min(self.calls + 1);
        let share = f64::from(self.calls).recip();
        let off = cost - self.mean;
        self.mean += share * off;
        self.variance = (1.0 - share) * (self.variance + share * off * off);
    }

    /// What hardly ever so many calls in flight cost more than. Nothing before the first one has told.
    pub(super) fn most(self, calls: u32) -> f64 {
        if self.is_unknown() {
            return 0.0;
        }
        let calls = f64::from(calls);
        // Not by less than the smallest cost: one large one before many of none would be expected for ever.
        let expected = calls * (self.mean + self.variance / self.mean.max(1.0));
        expected + DEVIATIONS * (calls * self.variance).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(some: f64, other: f64) -> bool {
        (some - other).abs() < 1e-9
    }

    #[test]
    fn mean_and_deviation() {
        let mut cost = Cost::default();
        for (told, [mean, variance]) in [
            (10.0, [10.0, 25.0]),
            (20.0, [15.0, 37.5]),
            (30.0, [20.0, 75.0]),
        ] {
            cost.add(told);
            assert!(
                near(cost.mean, mean) && near(cost.variance, variance),
                "{cost:?}"
            );
        }
        let [mean, deviation] = cost.parts();
        assert!(near(mean, 20.0) && near(deviation, 75_f64.sqrt()));
        // Of each twenty, the squares by the mean, and four deviations of four calls.
        assert!(near(
            cost.most(4),
            4.0 * (20.0 + 75.0 / 20.0) + 4.0 * 300_f64.sqrt()
        ));
    }

    #[test]
    fn the_last_ones_count() {
        let mut cost = Cost::default();
        (0..1_000).for_each(|_| cost.add(10.0));
        cost.add(10.0 + 128.0);
        assert!(near(cost.mean, 11.0), "{cost:?}");
    }

    #[test]
    fn what_another_process_knew() {
        let mut cost = Cost::of([20.0, 3.0]);
        assert_eq!(cost.parts(), [20.0, 3.0]);
        cost.add(20.0 + 128.0);
        assert!(
            near(cost.mean, 21.0),
            "it is as sure as after many calls: {cost:?}"
        );
        for deviation in [-3.0, f64::NAN] {
            assert_eq!(Cost::of([20.0, deviation]).parts(), [20.0, 0.0]);
        }
        for mean in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let cost = Cost::of([mean, 3.0]);
            assert!(cost.is_unknown() && cost.parts() == [0.0; 2], "{mean}");
        }
    }
}
