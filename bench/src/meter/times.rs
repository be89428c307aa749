//! Owns a series of durations and where its percentiles lie. Refuses to be empty.

use std::time::Duration;

use anyhow::ensure;

/// Milliseconds in ascending order, at least one.
#[derive(Debug, Clone)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn try_new(times: &[Duration]) -> anyhow::Result<Self> {
        ensure!(!times.is_empty(), "nothing was timed");
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1_000.0).collect();
        ms.sort_by(f64::total_cmp);
        Ok(Self(ms))
    }

    /// The smallest of them that no fewer than so many percent do not exceed.
    pub fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len());
        self.0[rank - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: impl IntoIterator<Item = u64>) -> Times {
        let times: Vec<Duration> = ms.into_iter().map(Duration::from_millis).collect();
        Times::try_new(&times).expect("there are some")
    }

    #[test]
    fn a_percentile_is_one_of_the_times_whatever_their_order() {
        let hundred = times((1..=100).rev());
        for (percent, ms) in [(0, 1.0), (1, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)] {
            assert!((hundred.percentile_ms(percent) - ms).abs() < 1e-9, "{percent} is {ms}");
        }
        assert!((times([7]).percentile_ms(50) - 7.0).abs() < 1e-9);
        assert!((times([3, 1]).percentile_ms(51) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_has_no_percentile() {
        assert!(Times::try_new(&[]).is_err());
    }
}
