//! Owns which records are finished. Refuses to store an offset above one that is not.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a record lies, and under which assignment of partitions it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub(crate) epoch: u64,
}

/// The records that were received and not yet finished, by partition.
#[derive(Debug, Clone, Default)]
pub struct Offsets(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    epoch: u64,
    partitions: HashMap<(Arc<str>, i32), Open>,
}

/// The open offsets of a partition in their order, and whether each is finished.
type Open = VecDeque<(i64, bool)>;

impl Offsets {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions have changed hands: what is still at work belongs to nobody's watermark.
    pub(crate) fn forget(&self) {
        let mut book = self.book();
        book.epoch += 1;
        book.partitions.clear();
    }

    pub(crate) fn received(&self, topic: Arc<str>, partition: i32, offset: i64) -> Place {
        let mut book = self.book();
        let epoch = book.epoch;
        book.partitions
            .entry((Arc::clone(&topic), partition))
            .or_default()
            .push_back((offset, false));
        Place { topic, partition, offset, epoch }
    }

    /// Marks a record as finished. `Some`: everything up to this offset is.
    pub(crate) fn finished(&self, place: &Place) -> Option<i64> {
        let mut book = self.book();
        if place.epoch != book.epoch {
            return None;
        }
        let open = book.partitions.get_mut(&(Arc::clone(&place.topic), place.partition))?;
        let at = open.binary_search_by_key(&place.offset, |(offset, _)| *offset).ok()?;
        open[at].1 = true;
        let mut low = None;
        while let Some((offset, true)) = open.front() {
            low = Some(*offset);
            open.pop_front();
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::Offsets;

    #[test]
    fn a_fast_record_does_not_move_the_offset_past_a_slow_one() {
        let offsets = Offsets::default();
        let places: Vec<_> = (10..13).map(|n| offsets.received("t".into(), 0, n)).collect();
        assert_eq!(offsets.finished(&places[2]), None);
        assert_eq!(offsets.finished(&places[1]), None);
        assert_eq!(offsets.finished(&places[0]), Some(12));
    }

    #[test]
    fn partitions_do_not_wait_for_each_other() {
        let offsets = Offsets::default();
        let _slow = offsets.received("t".into(), 0, 5);
        let fast = offsets.received("t".into(), 1, 9);
        assert_eq!(offsets.finished(&fast), Some(9));
    }

    #[test]
    fn after_a_rebalance_old_work_stores_nothing() {
        let offsets = Offsets::default();
        let old = offsets.received("t".into(), 0, 5);
        offsets.forget();
        assert_eq!(offsets.finished(&old), None);
        let again = offsets.received("t".into(), 0, 5);
        assert_eq!(offsets.finished(&old), None);
        assert_eq!(offsets.finished(&again), Some(5));
    }

    #[test]
    fn finishing_twice_changes_nothing() {
        let offsets = Offsets::default();
        let first = offsets.received("t".into(), 0, 1);
        let second = offsets.received("t".into(), 0, 2);
        assert_eq!(offsets.finished(&first), Some(1));
        assert_eq!(offsets.finished(&first), None);
        assert_eq!(offsets.finished(&second), Some(2));
    }
}
