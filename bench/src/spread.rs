//! Owns what many rounds come down to: a median between the least and the most of them, and how
//! such figures are written. Refuses to take a figure that is not a positive number: no measure
//! here is nought unless the instrument failed.

use std::fmt;

/// The figures of the rounds that were kept, at least one, smallest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of the rounds that have a figure; none when no round has.
    pub fn of(figures: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut sorted: Vec<_> = figures.into_iter().flatten().filter_map(positive).collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self(sorted))
    }

    pub fn rounds(&self) -> usize {
        self.0.len()
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.rounds() - 1]
    }

    /// Of an even number, the mean of the middle two.
    pub fn median(&self) -> f64 {
        let upper = self.rounds() / 2;
        let lower = (self.rounds() - 1) / 2;
        f64::midpoint(self.0[lower], self.0[upper])
    }
}

/// `median [min..max]`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, min, max] = [self.median(), self.min(), self.max()].map(figure);
        write!(f, "{median} [{min}..{max}]")
    }
}

pub fn positive(figure: f64) -> Option<f64> {
    (figure.is_finite() && figure > 0.0).then_some(figure)
}

/// None unless both are positive numbers.
pub fn ratio(left: f64, right: f64) -> Option<f64> {
    positive(positive(left)? / positive(right)?)
}

/// A positive number with three digits that mean something, or all those before the point.
pub fn figure(value: f64) -> String {
    let decimals = match value {
        99.95.. => 0,
        9.995.. => 1,
        0.9995.. => 2,
        0.01.. => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(figures: &[f64]) -> Spread {
        Spread::of(figures.iter().copied().map(Some)).expect("there are figures")
    }

    #[test]
    fn a_median_of_an_odd_number_is_the_middle_one_and_of_an_even_one_the_mean_of_two() {
        assert_eq!(spread(&[9.0, 1.0, 2.0]).to_string(), "2.00 [1.00..9.00]");
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]).to_string(), "3.00 [1.00..9.00]");
        assert_eq!(spread(&[7.0]).to_string(), "7.00 [7.00..7.00]");
    }

    #[test]
    fn what_is_no_positive_number_is_no_figure() {
        let broken = [None, Some(f64::NAN), Some(f64::INFINITY), Some(0.0), Some(-1.0)];
        assert_eq!(Spread::of(broken), None);
        assert_eq!(Spread::of([Some(f64::NAN), Some(3.0)]), Some(spread(&[3.0])));
    }

    #[test]
    fn a_ratio_has_two_positive_sides() {
        assert_eq!(ratio(6.0, 3.0), Some(2.0));
        for (left, right) in [(1.0, 0.0), (0.0, 1.0), (f64::NAN, 1.0), (1.0, f64::NAN)] {
            assert_eq!(ratio(left, right), None, "{left} : {right}");
        }
        assert_eq!(ratio(f64::MAX, f64::MIN_POSITIVE), None, "it is infinite");
    }

    #[test]
    fn a_figure_keeps_three_digits_that_mean_something() {
        let written = [123_456.0, 100.2, 99.96, 42.25, 9.996, 1.0, 0.61, 0.0123, 0.0085];
        let read = ["123456", "100", "100", "42.2", "10.0", "1.00", "0.610", "0.012", "0.0085"];
        assert_eq!(written.map(figure), read);
    }
}
