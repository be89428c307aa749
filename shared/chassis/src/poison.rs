//! Owns how much poison a partition may bring at a time. Refuses to stop anybody: it says which
//! partitions are to be held.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bus::Partition;

/// So many records in a row are set aside without a pause.
const BURST: f64 = 500.0;
/// And so many a second after that: what is broken at its producer is broken in each record.
const RATE_PER_SECOND: f64 = 500.0;
/// A partition that is held is read again when it may bring so many.
const RESUME_AT: f64 = BURST / 2.0;

/// A bucket for each partition that has brought any.
#[derive(Debug, Default)]
pub(crate) struct Poison(Mutex<HashMap<Partition, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// How many more it may bring; below nothing when a batch brought more.
    left: f64,
    filled_at: Instant,
    held: bool,
    /// From the first time that it is held until the bucket is full again.
    alarm: bool,
}

impl Poison {
    fn buckets(&self) -> std::sync::MutexGuard<'_, HashMap<Partition, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record of a partition is set aside.
    pub fn note(&self, topic: &str, partition: i32) {
        self.note_at(Instant::now(), topic, partition);
    }

    fn note_at(&self, now: Instant, topic: &str, partition: i32) {
        let mut buckets = self.buckets();
        let new = || Bucket { left: BURST, filled_at: now, held: false, alarm: false };
        let bucket = buckets.entry((topic.to_owned(), partition)).or_insert_with(new);
        bucket.fill(now);
        bucket.left -= 1.0;
        bucket.held |= bucket.left < 0.0;
        if bucket.held && !bucket.alarm {
            bucket.alarm = true;
            tracing::error!(topic, partition, "so much poison in a row: reading it slowly");
        }
    }

    /// The partitions from which nothing is to be read now.
    pub fn held(&self) -> BTreeSet<Partition> {
        self.held_at(Instant::now())
    }

    fn held_at(&self, now: Instant) -> BTreeSet<Partition> {
        let mut buckets = self.buckets();
        for ((topic, partition), bucket) in buckets.iter_mut() {
            bucket.fill(now);
            if bucket.alarm && bucket.left >= BURST {
                tracing::info!(topic, partition, "no more poison than usual");
            }
        }
        buckets.retain(|_, bucket| bucket.left < BURST);
        let held = buckets.iter().filter(|(_, bucket)| bucket.held);
        held.map(|(partition, _)| partition.clone()).collect()
    }

    /// The partitions that have brought too much, and not yet little enough.
    pub fn alarming(&self) -> Vec<String> {
        let buckets = self.buckets();
        let alarming = buckets.iter().filter(|(_, bucket)| bucket.alarm);
        alarming.map(|((topic, partition), _)| format!("{topic}/{partition}")).collect()
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.left = (self.left + seconds * RATE_PER_SECOND).min(BURST);
        self.filled_at = now;
        self.held &= self.left < RESUME_AT;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TOPIC: &str = "wall.events.v1";

    fn burst(poison: &Poison, now: Instant, records: u32) {
        for _ in 0..records {
            poison.note_at(now, TOPIC, 2);
        }
    }

    #[test]
    fn a_burst_is_borne_and_one_more_holds_that_partition_alone() {
        let (poison, now) = (Poison::default(), Instant::now());
        burst(&poison, now, 500);
        poison.note_at(now, TOPIC, 1);
        assert!(poison.held_at(now).is_empty() && poison.alarming().is_empty());
        burst(&poison, now, 1);
        assert_eq!(poison.held_at(now), BTreeSet::from([(TOPIC.to_owned(), 2)]));
        assert_eq!(poison.alarming(), ["wall.events.v1/2"]);
    }

    #[test]
    fn a_held_partition_goes_on_when_its_bucket_is_half_full_and_the_alarm_ends_when_it_is_full() {
        let (poison, start) = (Poison::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        burst(&poison, start, 600);
        assert_eq!(poison.held_at(after(690)).len(), 1);
        assert_eq!(poison.held_at(after(710)).len(), 0);
        assert_eq!(poison.alarming().len(), 1);
        poison.held_at(after(1_190));
        assert_eq!(poison.alarming().len(), 1);
        poison.held_at(after(1_210));
        assert!(poison.alarming().is_empty());
    }

    #[test]
    fn ten_thousand_in_a_row_take_some_twenty_seconds() {
        let (poison, start) = (Poison::default(), Instant::now());
        let mut now = start;
        for _ in 0..20 {
            burst(&poison, now, 500);
            while !poison.held_at(now).is_empty() {
                now += Duration::from_millis(10);
            }
        }
        let seconds = (now - start).as_secs();
        assert!((15..25).contains(&seconds), "{seconds}");
    }
}
