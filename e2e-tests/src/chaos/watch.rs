//! Owns the counters of processes that are killed now and then: their sums over all lives. Refuses
//! to miss more than what was counted since the last look.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::metrics;
use crate::stack::Stack;

const EVERY: Duration = Duration::from_secs(1);
const ANSWER_MAX: Duration = Duration::from_millis(900);

pub const DUPLICATES_DISCARDED: &str = "switchback_inbox_duplicates_total";
pub const DISPATCHED: &str = "switchback_dispatched_total";
pub const RERUNS: &str = "switchback_batch_reruns_total";
const COUNTERS: [&str; 3] = [DUPLICATES_DISCARDED, DISPATCHED, RERUNS];

/// One counter of one process.
#[derive(Debug, Default)]
struct Count {
    /// Of lives that have ended.
    before: f64,
    /// In this one.
    last: f64,
}

impl Count {
    /// A counter that has fallen began again.
    fn see(&mut self, now: f64) {
        if now < self.last {
            self.before += self.last;
        }
        self.last = now;
    }
}

#[derive(Debug, Default)]
pub struct Watch {
    counts: Mutex<BTreeMap<(String, &'static str), Count>>,
}

impl Watch {
    /// Looks every second, for ever.
    pub async fn run(&self, stack: &Stack) -> Infallible {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(stack).await;
        }
    }

    /// Whoever does not answer is asked again the next time.
    pub async fn look(&self, stack: &Stack) {
        let asked = stack.processes().iter().map(async |process| {
            (process, timeout(ANSWER_MAX, stack.client.metrics(process)).await)
        });
        for (process, answer) in join_all(asked).await {
            if let Ok(Ok(text)) = answer {
                self.see(process, &text);
            }
        }
    }

    fn see(&self, process: &str, text: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for name in COUNTERS {
            let count = counts.entry((process.to_owned(), name)).or_default();
            count.see(metrics::sum(text, name, &[]));
        }
    }

    /// Over all processes and lives.
    pub fn total(&self, name: &str) -> f64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let of_name = counts.iter().filter(|((_, counted), _)| *counted == name);
        of_name.map(|(_, count)| count.before + count.last).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_begins_again_adds_to_what_it_was() {
        let watch = Watch::default();
        for (process, value) in [("order", 3), ("order", 5), ("order", 2), ("order-2", 10)] {
            watch.see(process, &format!("{DISPATCHED}{{a=\"b\"}} {value}\n{RERUNS} 100\n"));
        }
        assert_eq!(watch.total(DISPATCHED).to_string(), "17");
    }
}
