//! Owns what is put into the topics behind the services' backs: true records a second time, and bad
//! ones. Refuses to expect anything of a repeat.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use testkit::broker::PARTITIONS;
use testkit::records::{self, Record};

use crate::whole::{INJECTED, Injected};
use crate::{SERVICES, forged};

const REPEATED_PERCENT: u32 = 5;

/// What was put into the topics.
#[derive(Debug, Default)]
pub struct Forged {
    pub repeated: usize,
    pub bad: usize,
    pub injected: Injected,
}

#[derive(Debug)]
pub struct Forger<'a> {
    bootstrap: &'a str,
    dice: RefCell<StdRng>,
    /// Of each topic and partition so many records have had their chance to be repeated.
    seen: RefCell<BTreeMap<(String, Option<i32>), usize>>,
    repeats: Cell<usize>,
    injections: Cell<usize>,
    forged: RefCell<Forged>,
}

impl<'a> Forger<'a> {
    pub fn at(bootstrap: &'a str, seed: u64) -> Self {
        Self {
            bootstrap,
            dice: RefCell::new(StdRng::seed_from_u64(seed)),
            seen: RefCell::default(),
            repeats: Cell::default(),
            injections: Cell::default(),
            forged: RefCell::default(),
        }
    }

    pub fn forged(&self) -> Ref<'_, Forged> {
        self.forged.borrow()
    }

    /// Of one topic after the other some of what is new on it, once more.
    pub async fn repeat(&self) -> anyhow::Result<String> {
        let service = SERVICES[next(&self.repeats) % SERVICES.len()];
        let topic = format!("{service}.events.v1");
        let records = records::read(self.bootstrap, &topic).await?;
        let chosen = self.choose(&topic, &records);
        ensure!(!chosen.is_empty(), "nothing is new in {topic}");
        records::produce(self.bootstrap, &topic, &chosen).await?;
        self.forged.borrow_mut().repeated += chosen.len();
        Ok(format!("{} records of {topic}", chosen.len()))
    }

    /// One at least, if there is one.
    fn choose(&self, topic: &str, records: &[Record]) -> Vec<Record> {
        let (mut seen, mut dice) = (self.seen.borrow_mut(), self.dice.borrow_mut());
        let mut counted: BTreeMap<Option<i32>, usize> = BTreeMap::new();
        let new = records.iter().filter(|record| {
            let place = counted.entry(record.partition).or_default();
            *place += 1;
            let before = seen.get(&(topic.to_owned(), record.partition)).copied();
            *place > before.unwrap_or(0) && record.header(INJECTED).is_none()
        });
        let new: Vec<&Record> = new.collect();
        for (partition, count) in counted {
            seen.insert((topic.to_owned(), partition), count);
        }
        let mut chosen: Vec<Record> = new
            .iter()
            .filter(|_| dice.random_ratio(REPEATED_PERCENT, 100))
            .map(|record| (*record).clone())
            .collect();
        if chosen.is_empty() {
            chosen.extend(new.first().map(|record| (*record).clone()));
        }
        chosen
    }

    /// One of each kind, in one partition after the other, and one with an id that is taken.
    pub async fn inject(&self) -> anyhow::Result<String> {
        let good = forged::good(self.bootstrap).await?;
        let partition = i32::try_from(next(&self.injections))? % PARTITIONS;
        let (mut bad, mut injected) = forged::bad_copies(&good, partition);
        let (collision, letter) = forged::collision(&good);
        bad.push(collision);
        injected.dead_letters.push(letter);
        records::produce(self.bootstrap, forged::TOPIC, &bad).await?;
        let mut all = self.forged.borrow_mut();
        all.bad += bad.len();
        all.injected.event_ids.append(&mut injected.event_ids);
        all.injected.dead_letters.append(&mut injected.dead_letters);
        Ok(format!("{} records", bad.len()))
    }
}

fn next(count: &Cell<usize>) -> usize {
    count.replace(count.get() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, name: &str) -> Record {
        let key = Some(name.as_bytes().to_vec());
        Record { partition: Some(partition), key, ..Record::default() }
    }

    #[test]
    fn a_record_has_one_chance_to_be_repeated_and_a_forged_one_none() {
        let forger = Forger::at("nowhere", 1);
        let mut log: Vec<Record> = (0..2_000).map(|n| record(n % 4, &n.to_string())).collect();
        log.sort_by_key(|record| record.partition);
        let chosen = forger.choose("topic", &log);
        assert!((50..200).contains(&chosen.len()), "{} of 2,000", chosen.len());
        assert!(forger.choose("topic", &log).is_empty());
        let mut bad = record(3, "bad");
        forged::set(&mut bad, INJECTED, b"true");
        log.extend([record(3, "new"), bad]);
        assert_eq!(forger.choose("topic", &log), [record(3, "new")]);
    }
}
