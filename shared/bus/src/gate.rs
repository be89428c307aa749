//! Owns which partitions are read now. Refuses to know why one is not.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

/// A topic and the number of a partition of it.
pub type Partition = (String, i32);

/// What is not to be read. The client is told so again whenever partitions are assigned: it keeps
/// the pause of a partition that it loses, and does not know one that it never had.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Shut>);

#[derive(Debug, Default)]
struct Shut {
    all: bool,
    some: BTreeSet<Partition>,
}

impl Gate {
    fn shut(&self) -> std::sync::MutexGuard<'_, Shut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub fn apply(&self, client: &impl Consumer<crate::consumer::Context>) {
        if let Err(error) = self.try_apply(client) {
            tracing::error!(%error, "the client does not say which partitions it has");
        }
    }

    fn try_apply(
        &self,
        client: &impl Consumer<crate::consumer::Context>,
    ) -> Result<(), KafkaError> {
        let (mut stop, mut read) = (TopicPartitionList::new(), TopicPartitionList::new());
        // Held to the end, so that of two tasks the later one has the last word.
        let shut = self.shut();
        for found in client.assignment()?.elements() {
            let partition = (found.topic().to_owned(), found.partition());
            let list =
                if shut.all || shut.some.contains(&partition) { &mut stop } else { &mut read };
            list.add_partition_offset(found.topic(), found.partition(), Offset::Invalid)?;
        }
        // Nothing is skipped: a partition goes on behind the last record that was handed out.
        client.pause(&stop)?;
        client.resume(&read)
    }
}
