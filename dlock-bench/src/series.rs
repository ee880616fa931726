//! The measurements of one subject, turn by turn, and statistics about them.

use std::time::Duration;

/// One turn: the time of each operation, and of all together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    /// In nanoseconds.
    pub(crate) times: Vec<u64>,
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
}

impl Turn {
    fn median(&self) -> f64 {
        quantile(&self.times, 0.5)
    }

    /// Operations per second.
    fn rate(&self) -> f64 {
        float(self.operations) / self.elapsed.as_secs_f64()
    }
}

/// All turns of one subject.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) turns: Vec<Turn>,
}

impl Series {
    /// The quantile of all times, in nanoseconds.
    pub(crate) fn quantile(&self, at: f64) -> f64 {
        let all: Vec<u64> = self
            .turns
            .iter()
            .flat_map(|turn| &turn.times)
            .copied()
            .collect();
        quantile(&all, at)
    }

    /// Operations per second, in the median turn.
    pub(crate) fn rate(&self) -> f64 {
        quantile_of(self.turns.iter().map(Turn::rate).collect(), 0.5)
    }

    /// The ratio of an operation's time to that of `base`. Each round gives one ratio, of the
    /// medians of the two turns.
    pub(crate) fn latency_ratio(&self, base: &Series) -> Spread {
        self.ratio(base, Turn::median)
    }

    /// The ratio of the rates.
    pub(crate) fn rate_ratio(&self, base: &Series) -> Spread {
        self.ratio(base, Turn::rate)
    }

    fn ratio(&self, base: &Series, of: impl Fn(&Turn) -> f64) -> Spread {
        let pairs = self.turns.iter().zip(&base.turns);
        Spread::of(pairs.map(|(ours, theirs)| of(ours) / of(theirs)).collect())
    }
}

/// A median, and the range of the middle eight tenths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Leaves out rounds without a result, which a short run on an overloaded machine has.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.retain(|value| value.is_finite());
        Spread {
            low: quantile_of(values.clone(), 0.1),
            high: quantile_of(values.clone(), 0.9),
            median: quantile_of(values, 0.5),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Spread { median, low, high } = self;
        if median.is_nan() {
            return write!(f, "–");
        }
        write!(f, "{median:.2} ({low:.2}–{high:.2})")
    }
}

/// The quantile `at`: the smallest value that this part of all values does not exceed; not a number
/// without values.
pub(crate) fn quantile(times: &[u64], at: f64) -> f64 {
    quantile_of(times.iter().copied().map(float).collect(), at)
}

pub(crate) fn quantile_of(mut values: Vec<f64>, at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let rank = (values.len() as f64 * at).ceil() as usize;
    values
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Converts a count to a float. No count here is so large that it loses a digit.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(medians: &[u64]) -> Series {
        let turn = |median: &u64| Turn {
            times: vec![median - 1, *median, median + 100],
            operations: 3,
            elapsed: Duration::from_micros(3 * median),
        };
        Series {
            name: String::new(),
            turns: medians.iter().map(turn).collect(),
        }
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let times: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(quantile(&times, 0.5), 50.0);
        assert_eq!(quantile(&times, 0.99), 99.0);
        assert_eq!(quantile(&[7], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_round_without_a_result_is_left_out() {
        let spread = Spread::of(vec![f64::NAN, 2.0, f64::INFINITY]);
        assert_eq!(spread.to_string(), "2.00 (2.00–2.00)");
        assert_eq!(Spread::of(vec![f64::NAN]).to_string(), "–");
    }

    #[test]
    fn a_ratio_compares_turns_of_the_same_round() {
        // The machine becomes three times as slow meanwhile, for both.
        let (base, ours) = (series(&[10, 20, 30]), series(&[20, 40, 60]));
        assert_eq!(ours.latency_ratio(&base).to_string(), "2.00 (2.00–2.00)");
        assert_eq!(ours.rate_ratio(&base).to_string(), "0.50 (0.50–0.50)");
        assert_eq!(ours.quantile(0.01), 19.0);
    }
}
