//! Owns which records are finished. Refuses to store an offset above one that is not.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Where a record lies, and under which assignment of partitions it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub(crate) epoch: u64,
    /// Of all that were received: a topic that has lost its records gives an offset twice.
    pub(crate) number: u64,
}

/// The records that were received and not yet finished, by partition.
#[derive(Debug, Clone, Default)]
pub struct Offsets(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    epoch: u64,
    received: u64,
    partitions: HashMap<(Arc<str>, i32), Open>,
}

/// The open records of a partition in the order of their offsets, and of their numbers.
type Open = VecDeque<Record>;

#[derive(Debug)]
struct Record {
    offset: i64,
    number: u64,
    finished: bool,
}

impl Offsets {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the client that takes the place of the one that these were received by: no place of
    /// before is one of its own.
    pub(crate) fn heir(&self) -> Self {
        let book = Book { epoch: self.book().epoch + 1, ..Book::default() };
        Self(Arc::new(Mutex::new(book)))
    }

    /// The partitions have changed hands: what is still at work belongs to nobody's watermark.
    pub(crate) fn forget(&self) {
        let mut book = self.book();
        book.epoch += 1;
        book.partitions.clear();
    }

    pub(crate) fn received(&self, topic: Arc<str>, partition: i32, offset: i64) -> Place {
        let mut book = self.book();
        book.received += 1;
        let (epoch, number) = (book.epoch, book.received);
        let open = book.partitions.entry((Arc::clone(&topic), partition)).or_default();
        // The broker has sent us back: what was open from there on is heard again.
        while open.pop_back_if(|record| record.offset >= offset).is_some() {}
        open.push_back(Record { offset, number, finished: false });
        Place { topic, partition, offset, epoch, number }
    }

    /// Marks records as finished and stores, for each partition that it moves, the offset up to
    /// which everything is. Under the lock, so that no lane stores a lower one after a higher.
    pub(crate) fn finished<'a>(
        &self,
        places: impl IntoIterator<Item = &'a Place>,
        mut store: impl FnMut(&str, i32, i64),
    ) {
        let mut book = self.book();
        let mut touched = BTreeSet::new();
        for place in places {
            if place.epoch != book.epoch {
                continue;
            }
            let partition = (Arc::clone(&place.topic), place.partition);
            let Some(open) = book.partitions.get_mut(&partition) else { continue };
            if let Ok(at) = open.binary_search_by_key(&place.number, |record| record.number) {
                open[at].finished = true;
                touched.insert(partition);
            }
        }
        for partition in touched {
            let Some(open) = book.partitions.get_mut(&partition) else { continue };
            let mut low = None;
            while let Some(record) = open.pop_front_if(|record| record.finished) {
                low = Some(record.offset);
            }
            if let Some(low) = low {
                store(&partition.0, partition.1, low);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Offsets, Place};

    fn finish(offsets: &Offsets, places: &[&Place]) -> Vec<(i32, i64)> {
        let mut stored = Vec::new();
        offsets.finished(places.iter().copied(), |_, partition, offset| {
            stored.push((partition, offset));
        });
        stored
    }

    #[test]
    fn a_fast_record_does_not_move_the_offset_past_a_slow_one() {
        let offsets = Offsets::default();
        let places: Vec<_> = (10..13).map(|n| offsets.received("t".into(), 0, n)).collect();
        assert_eq!(finish(&offsets, &[&places[2]]), []);
        assert_eq!(finish(&offsets, &[&places[1]]), []);
        assert_eq!(finish(&offsets, &[&places[0]]), [(0, 12)]);
    }

    #[test]
    fn a_batch_stores_each_partition_once() {
        let offsets = Offsets::default();
        let first: Vec<_> = (5..9).map(|n| offsets.received("t".into(), 0, n)).collect();
        let second = offsets.received("t".into(), 1, 9);
        let batch: Vec<&Place> = first.iter().take(3).chain([&second]).collect();
        assert_eq!(finish(&offsets, &batch), [(0, 7), (1, 9)]);
    }

    #[test]
    fn after_a_rebalance_old_work_stores_nothing() {
        let offsets = Offsets::default();
        let old = offsets.received("t".into(), 0, 5);
        offsets.forget();
        assert_eq!(finish(&offsets, &[&old]), []);
        let again = offsets.received("t".into(), 0, 5);
        assert_eq!(finish(&offsets, &[&old]), []);
        assert_eq!(finish(&offsets, &[&again]), [(0, 5)]);
    }

    #[test]
    fn work_of_a_client_that_has_died_stores_nothing_for_its_heir() {
        let offsets = Offsets::default();
        let old = offsets.received("t".into(), 0, 5);
        let heir = offsets.heir();
        let again = heir.received("t".into(), 0, 5);
        // It gives its partitions up when it is long dead.
        offsets.forget();
        assert_eq!(finish(&heir, &[&old]), []);
        assert_eq!(finish(&heir, &[&again]), [(0, 5)]);
    }

    #[test]
    fn finishing_twice_changes_nothing() {
        let offsets = Offsets::default();
        let first = offsets.received("t".into(), 0, 1);
        let second = offsets.received("t".into(), 0, 2);
        assert_eq!(finish(&offsets, &[&first]), [(0, 1)]);
        assert_eq!(finish(&offsets, &[&first]), []);
        assert_eq!(finish(&offsets, &[&second]), [(0, 2)]);
    }

    #[test]
    fn a_broker_that_goes_back_does_not_hold_the_offset_for_ever() {
        let offsets = Offsets::default();
        let _lost = offsets.received("t".into(), 0, 8);
        let again = offsets.received("t".into(), 0, 3);
        assert_eq!(finish(&offsets, &[&again]), [(0, 3)]);
    }

    #[test]
    fn what_is_still_open_below_the_place_to_which_a_broker_goes_back_holds_the_offset() {
        let offsets = Offsets::default();
        let open = offsets.received("t".into(), 0, 5);
        let lost = offsets.received("t".into(), 0, 9);
        let again = offsets.received("t".into(), 0, 7);
        assert_eq!(finish(&offsets, &[&lost, &again]), []);
        assert_eq!(finish(&offsets, &[&open]), [(0, 7)]);
    }

    #[test]
    fn a_record_of_a_lost_log_does_not_finish_another_with_its_offset() {
        let offsets = Offsets::default();
        let lost = offsets.received("t".into(), 0, 5);
        let other = offsets.received("t".into(), 0, 5);
        assert_eq!(finish(&offsets, &[&lost]), []);
        assert_eq!(finish(&offsets, &[&other]), [(0, 5)]);
    }
}
