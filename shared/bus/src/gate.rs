//! Owns which partitions are read now. Refuses to know why one is not.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use crate::member::Context;

/// A topic and the number of a partition of it.
pub type Partition = (String, i32);

/// What a client is not to read. It is told so again whenever partitions are assigned: it keeps the
/// pause of a partition that it loses, and does not know one that it never had.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The wish, which outlives the client.
    shut: Arc<Mutex<Shut>>,
    /// What the client was told to pause.
    paused: Mutex<BTreeSet<Partition>>,
}

#[derive(Debug, Default)]
struct Shut {
    all: bool,
    some: BTreeSet<Partition>,
}

impl Gate {
    /// The same wish for a client that knows nothing of it yet.
    pub fn heir(&self) -> Self {
        Self { shut: Arc::clone(&self.shut), paused: Mutex::default() }
    }

    fn shut(&self) -> std::sync::MutexGuard<'_, Shut> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paused(&self) -> std::sync::MutexGuard<'_, BTreeSet<Partition>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: nothing has changed.
    pub fn shut_all(&self, all: bool) -> bool {
        std::mem::replace(&mut self.shut().all, all) != all
    }

    /// `false`: nothing has changed.
    pub fn shut_some(&self, some: BTreeSet<Partition>) -> bool {
        let mut shut = self.shut();
        let changed = shut.some != some;
        shut.some = some;
        changed
    }

    /// Makes the client's assignment agree with it.
    pub fn apply(&self, client: &impl Consumer<Context>) {
        if let Err(error) = self.try_apply(client) {
            tracing::error!(%error, "the client does not say which partitions it has");
        }
    }

    fn try_apply(&self, client: &impl Consumer<Context>) -> Result<(), KafkaError> {
        // Held to the end, so that of two tasks the later one has the last word.
        let shut = self.shut();
        let mut paused = self.paused();
        let assigned = client.assignment()?;
        let assigned = assigned
            .elements()
            .into_iter()
            .map(|found| (found.topic().to_owned(), found.partition()));
        let (stop, read) = shut.divide(assigned, &mut paused);
        // Nothing is skipped: a partition goes on behind the last record that was handed out.
        client.pause(&list(stop)?)?;
        client.resume(&list(read)?)
    }
}

impl Shut {
    /// Of the partitions that a client has, those to pause, and those to read again. One that was
    /// never paused is left alone: told to go on, the client throws away the answer that it waits
    /// for, and begins half a second later.
    fn divide(
        &self,
        assigned: impl Iterator<Item = Partition>,
        paused: &mut BTreeSet<Partition>,
    ) -> (Vec<Partition>, Vec<Partition>) {
        let (stop, mut read): (Vec<_>, Vec<_>) =
            assigned.partition(|partition| self.all || self.some.contains(partition));
        read.retain(|partition| paused.remove(partition));
        paused.extend(stop.iter().cloned());
        (stop, read)
    }
}

fn list(partitions: Vec<Partition>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition_offset(&topic, partition, Offset::Invalid)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Gate, Partition, Shut};

    const NONE: Vec<i32> = Vec::new();

    fn partitions(numbers: &[i32]) -> Vec<Partition> {
        numbers.iter().map(|number| ("t".to_owned(), *number)).collect()
    }

    fn divide(shut: &Shut, has: &[i32], paused: &mut BTreeSet<Partition>) -> [Vec<i32>; 2] {
        let (stop, read) = shut.divide(partitions(has).into_iter(), paused);
        [stop, read].map(|all| all.into_iter().map(|(_, number)| number).collect())
    }

    #[test]
    fn only_what_was_paused_is_told_to_go_on() {
        let (open, mut paused) = (Shut::default(), BTreeSet::new());
        assert_eq!(divide(&open, &[0, 1], &mut paused), [NONE, NONE]);
        let held = Shut { all: false, some: partitions(&[1]).into_iter().collect() };
        assert_eq!(divide(&held, &[0, 1], &mut paused), [vec![1], NONE]);
        assert_eq!(divide(&open, &[0, 1], &mut paused), [NONE, vec![1]]);
        assert_eq!(divide(&open, &[0, 1], &mut paused), [NONE, NONE]);
    }

    #[test]
    fn an_heir_pauses_what_was_to_be_paused_and_nothing_of_that_has_been_told_to_its_client() {
        let gate = Gate::default();
        gate.shut_all(true);
        divide(&gate.shut(), &[0, 1], &mut gate.paused());
        let heir = gate.heir();
        assert_eq!(divide(&heir.shut(), &[0], &mut heir.paused()), [vec![0], NONE]);
        gate.shut_all(false);
        assert_eq!(divide(&heir.shut(), &[0, 1], &mut heir.paused()), [NONE, vec![0]]);
    }

    #[test]
    fn what_was_lost_while_it_was_paused_goes_on_when_it_comes_back() {
        let (open, mut paused) = (Shut::default(), BTreeSet::new());
        let all = Shut { all: true, some: BTreeSet::new() };
        assert_eq!(divide(&all, &[0, 1], &mut paused), [vec![0, 1], NONE]);
        assert_eq!(divide(&open, &[0], &mut paused), [NONE, vec![0]]);
        assert_eq!(divide(&open, &[0, 1], &mut paused), [NONE, vec![1]]);
    }
}
