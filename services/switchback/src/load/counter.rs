//! Owns how many orders have ended, as the order service counts them: one question for all of them.
//! Refuses to hide that a count began again: then only the orders themselves know.

use std::mem;

use anyhow::{Context as _, ensure};

use super::connection::{Connection, Target};

const FINISHED: &str = "switchback_orders_finished_total{";
const CONFIRMED: &str = "outcome=\"confirmed\"";

/// Orders that have ended, by how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) confirmed: u64,
    pub(super) cancelled: u64,
}

impl Ended {
    pub(super) const fn all(self) -> u64 {
        self.confirmed + self.cancelled
    }

    /// What `/metrics` says. A process that has seen no end yet says nothing.
    fn read(metrics: &str) -> Self {
        let mut ended = Self::default();
        for line in metrics.lines().filter(|line| line.starts_with(FINISHED)) {
            let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
            let count: u64 = count.unwrap_or_default();
            if line.contains(CONFIRMED) {
                ended.confirmed += count;
            } else {
                ended.cancelled += count;
            }
        }
        ended
    }
}

/// What one more look at the count has shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    pub(super) more: u64,
    /// A process has, or may have, begun its count again.
    pub(super) begun_again: bool,
}

/// The count of all processes together, from the moment that it was made.
pub(super) struct Counter {
    sources: Vec<Source>,
    pub(super) ended: Ended,
    /// A process may have counted what it never told.
    pub(super) is_doubtful: bool,
}

impl Counter {
    pub(super) async fn start(targets: &[Target]) -> anyhow::Result<Self> {
        let mut sources = Vec::new();
        for target in targets {
            let mut connection = Connection::to(target.clone());
            let answer = connection.get("/metrics").await?;
            ensure!(answer.status.is_success(), "/metrics answers {}", answer.status);
            let metrics = str::from_utf8(&answer.body).context("/metrics is no text")?;
            sources.push(Source { connection, last: Ended::read(metrics), is_away: false });
        }
        Ok(Self { sources, ended: Ended::default(), is_doubtful: false })
    }

    /// Asks all of them. One that does not answer is asked again the next time.
    pub(super) async fn look(&mut self) -> Look {
        let before = self.ended.all();
        let mut begun_again = false;
        for source in &mut self.sources {
            let answer = source.connection.get("/metrics").await;
            let metrics = match &answer {
                Ok(answer) if answer.status.is_success() => str::from_utf8(&answer.body).ok(),
                _ => None,
            };
            match metrics {
                Some(metrics) => begun_again |= source.count(metrics, &mut self.ended),
                None => source.is_away = true,
            }
        }
        self.is_doubtful |= begun_again;
        Look { more: self.ended.all() - before, begun_again }
    }
}

struct Source {
    connection: Connection,
    last: Ended,
    /// It did not answer when it was last asked.
    is_away: bool,
}

impl Source {
    /// Adds what is new. A count that fell began again at nothing, and that of a process which was
    /// away may have: true.
    fn count(&mut self, metrics: &str, ended: &mut Ended) -> bool {
        let now = Ended::read(metrics);
        let last = mem::replace(&mut self.last, now);
        let fell = now.confirmed < last.confirmed || now.cancelled < last.cancelled;
        let last = if fell { Ended::default() } else { last };
        ended.confirmed += now.confirmed - last.confirmed;
        ended.cancelled += now.cancelled - last.cancelled;
        mem::take(&mut self.is_away) || fell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP switchback_orders_finished_total Orders
# TYPE switchback_orders_finished_total counter
switchback_orders_finished_total{outcome="confirmed",reason=""} 90
switchback_orders_finished_total{outcome="cancelled",reason="address_rejected"} 7
switchback_orders_finished_total{outcome="cancelled",reason="customer"} 3

switchback_orders_finished_total_of_another_kind 5
"#;

    #[test]
    fn ends_are_summed_over_all_reasons() {
        assert_eq!(Ended::read(METRICS), Ended { confirmed: 90, cancelled: 10 });
        assert_eq!(Ended::read(""), Ended::default());
    }

    #[test]
    fn a_count_that_fell_began_again_at_nothing() -> anyhow::Result<()> {
        let mut source = Source {
            connection: Connection::to(Target::parse("http://127.0.0.1:1")?),
            last: Ended { confirmed: 80, cancelled: 10 },
            is_away: false,
        };
        let mut ended = Ended::default();
        assert!(!source.count(METRICS, &mut ended));
        assert_eq!(ended, Ended { confirmed: 10, cancelled: 0 });
        let fell = "switchback_orders_finished_total{outcome=\"confirmed\",reason=\"\"} 4";
        assert!(source.count(fell, &mut ended));
        assert_eq!(ended, Ended { confirmed: 14, cancelled: 0 });

        // Whoever was away may have begun again and be as far as it was.
        source.is_away = true;
        assert!(source.count(fell, &mut ended));
        assert!(!source.count(fell, &mut ended));
        assert_eq!(ended, Ended { confirmed: 14, cancelled: 0 });
        Ok(())
    }
}
