//! [`Cost`]: what a call of a budget costs whose cost is told when it is over.

/// The mean and the mean deviation, kept as TCP keeps them of round trips (RFC 6298).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    mean: u128,
    deviation: u128,
}

impl Cost {
    pub(super) fn of([mean, deviation]: [u128; 2]) -> Self {
        Self { mean, deviation }
    }

    /// The mean and the mean deviation.
    pub(super) fn parts(self) -> [u128; 2] {
        [self.mean, self.deviation]
    }

    pub(super) fn add(&mut self, cost: u128) {
        if self.mean == 0 {
            (self.mean, self.deviation) = (cost, cost / 2);
            return;
        }
        let deviation = self.mean.abs_diff(cost);
        self.deviation = self.deviation - self.deviation / 4 + deviation / 4;
        self.mean = self.mean - self.mean / 8 + cost / 8;
    }

    /// What hardly any call costs more than. Nothing before the first one has told.
    pub(super) fn most(self) -> u128 {
        self.mean.saturating_add(self.deviation.saturating_mul(4))
    }
}
