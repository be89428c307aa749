//! Owns what a load has seen, and the figures that follow from it. Refuses to judge them.

use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use super::counter::Ended;
use super::place::Fate;

/// What happened to the orders so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) placed: u64,
    pub(super) retried: u64,
    /// The orders that were sent long after their time.
    pub(super) late: u64,
    pub(super) accepted: Vec<Uuid>,
    refused: u64,
    /// The first words of a service that took an order for wrong, or was never able to take it.
    pub(super) complaint: Option<String>,
    accepted_ms: Vec<f64>,
    first_accepted: Option<Instant>,
    last_accepted: Instant,
    confirmed_ms: Vec<f64>,
    cancelled_ms: Vec<f64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            placed: 0,
            retried: 0,
            late: 0,
            accepted: Vec::new(),
            refused: 0,
            complaint: None,
            accepted_ms: Vec::new(),
            first_accepted: None,
            last_accepted: Instant::now(),
            confirmed_ms: Vec::new(),
            cancelled_ms: Vec::new(),
        }
    }

    /// What became of an order that was first sent at `sent`.
    pub(super) fn placed(&mut self, sent: Instant, fate: &Fate) {
        match fate {
            Fate::Accepted(id) => {
                let now = Instant::now();
                self.accepted.push(*id);
                self.accepted_ms.push(ms(now - sent));
                self.first_accepted.get_or_insert(now);
                self.last_accepted = now;
            }
            Fate::Refused(words) => {
                self.refused += 1;
                self.complaint.get_or_insert_with(|| words.clone());
            }
            Fate::Unanswered(words) => {
                self.complaint.get_or_insert_with(|| words.clone());
            }
        }
    }

    /// An order that was watched was found at its end.
    pub(super) fn ended(&mut self, took: Duration, is_confirmed: bool) {
        let ended = if is_confirmed { &mut self.confirmed_ms } else { &mut self.cancelled_ms };
        ended.push(ms(took));
    }

    /// For so long no further order was accepted.
    pub(super) fn stands_still(&self) -> Duration {
        self.last_accepted.elapsed()
    }

    pub(super) fn figures(self, load: &'static str, ended: Ended, last_end: Instant) -> Figures {
        let accepted = self.accepted.len() as u64;
        let finished = ended.confirmed + ended.cancelled;
        let seconds = self.first_accepted.map_or(Duration::ZERO, |first| last_end - first);
        let seconds = seconds.as_secs_f64();
        let all_ms = [&self.confirmed_ms[..], &self.cancelled_ms].concat();
        #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^52 orders")]
        let sagas_per_second = if seconds > 0.0 { finished as f64 / seconds } else { 0.0 };
        Figures {
            load,
            orders: self.placed,
            accepted,
            refused: self.refused,
            unanswered: self.placed - accepted - self.refused,
            retried: self.retried,
            late: self.late,
            confirmed: ended.confirmed,
            cancelled: ended.cancelled,
            unfinished: accepted.saturating_sub(finished),
            seconds,
            sagas_per_second,
            accepted_ms: Percentiles::of(self.accepted_ms),
            finished_ms: Watched::of(all_ms),
            confirmed_ms: Watched::of(self.confirmed_ms),
        }
    }
}

/// To the microsecond.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// The result, as it is printed.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    load: &'static str,
    orders: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unanswered: u64,
    retried: u64,
    late: u64,
    confirmed: u64,
    cancelled: u64,
    pub(super) unfinished: u64,
    /// From the first 202 to the last order that ended.
    seconds: f64,
    sagas_per_second: f64,
    accepted_ms: Option<Percentiles>,
    /// From sending to the first look that found an order at either end.
    finished_ms: Option<Watched>,
    /// The same of those alone that were confirmed.
    confirmed_ms: Option<Watched>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Watched {
    watched: usize,
    #[serde(flatten)]
    percentiles: Percentiles,
}

impl Percentiles {
    /// Exact: each is one of the samples, the smallest that so many in a hundred do not exceed.
    fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let max = *samples.last()?;
        let at = |percent: usize| {
            samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1)).copied()
        };
        Some(Self { p50: at(50)?, p95: at(95)?, p99: at(99)?, max })
    }
}

impl Watched {
    fn of(samples: Vec<f64>) -> Option<Self> {
        let watched = samples.len();
        Percentiles::of(samples).map(|percentiles| Self { watched, percentiles })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_smallest_sample_that_so_many_in_a_hundred_do_not_exceed() {
        let hundred = (1..=100).rev().map(f64::from).collect();
        let wanted = Percentiles { p50: 50.0, p95: 95.0, p99: 99.0, max: 100.0 };
        assert_eq!(Percentiles::of(hundred), Some(wanted));
        let three = Percentiles { p50: 2.0, p95: 3.0, p99: 3.0, max: 3.0 };
        assert_eq!(Percentiles::of(vec![3.0, 1.0, 2.0]), Some(three));
        let one = Percentiles { p50: 7.0, p95: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(Percentiles::of(vec![7.0]), Some(one));
        assert_eq!(Percentiles::of(Vec::new()), None);
    }

    #[test]
    fn every_order_is_accepted_refused_or_unanswered_and_only_accepted_ones_are_owed_an_end() {
        let mut tally = Tally::new();
        tally.placed = 6;
        let sent = Instant::now();
        for fate in [
            Fate::Accepted(Uuid::nil()),
            Fate::Refused("400 no such currency".to_owned()),
            Fate::Accepted(Uuid::nil()),
            Fate::Unanswered("nobody answers".to_owned()),
            Fate::Accepted(Uuid::nil()),
        ] {
            tally.placed(sent, &fate);
        }
        assert_eq!(tally.complaint.as_deref(), Some("400 no such currency"));
        let last_end = sent + Duration::from_secs(2);
        let figures = tally.figures("saturated", Ended { confirmed: 1, cancelled: 1 }, last_end);
        // One more was given up before anything was known of it.
        let fates = (figures.accepted, figures.refused, figures.unanswered, figures.unfinished);
        assert_eq!(fates, (3, 1, 2, 1));
        assert!(figures.sagas_per_second > 0.9, "{figures:?}");
    }

    #[test]
    fn those_confirmed_are_told_apart_from_those_that_came_back() -> anyhow::Result<()> {
        let mut tally = Tally::new();
        for (took_ms, is_confirmed) in [(8, true), (20, false), (9, true)] {
            tally.ended(Duration::from_millis(took_ms), is_confirmed);
        }
        let figures = tally.figures("paced", Ended::default(), Instant::now());
        let json = serde_json::to_value(&figures)?;
        assert_eq!(json["finished_ms"]["watched"], 3);
        assert_eq!(json["finished_ms"]["max"], 20.0);
        assert_eq!(json["confirmed_ms"]["watched"], 2);
        assert_eq!(json["confirmed_ms"]["max"], 9.0);
        assert!(json["accepted_ms"].is_null());
        Ok(())
    }
}
