//! Owns what the services' lanes say of their batches. Refuses to guess it for a service that says
//! nothing.

use std::collections::BTreeMap;

use anyhow::Context;
use e2e_tests::{SERVICES, metrics};

use crate::record::ByProcess;

/// What the lanes of each service have committed so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batches(BTreeMap<String, Lanes>);

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Lanes {
    inputs: f64,
    commits: f64,
}

impl Batches {
    /// Asks the services of a stack, whose addresses count from `port_base`.
    pub async fn read(port_base: u16) -> anyhow::Result<Self> {
        let client = e2e_tests::client::Client::try_new(port_base)?;
        let mut lanes = BTreeMap::new();
        for service in SERVICES {
            let text = client.metrics(service).await;
            let text = text.with_context(|| format!("{service}'s metrics"))?;
            lanes.insert(service.to_owned(), Lanes::parse(&text));
        }
        Ok(Self(lanes))
    }

    /// Inputs per commit since `before`, of those services that committed anything.
    pub fn mean_since(&self, before: &Self) -> ByProcess {
        let means = self.0.iter().filter_map(|(service, now)| {
            let then = before.0.get(service).copied().unwrap_or_default();
            let commits = now.commits - then.commits;
            (commits > 0.0).then(|| (service.clone(), (now.inputs - then.inputs) / commits))
        });
        means.collect()
    }

    /// The commits of all lanes together since `before`.
    pub fn commits_since(&self, before: &Self) -> f64 {
        let commits = |all: &Self| all.0.values().map(|lanes| lanes.commits).sum::<f64>();
        commits(self) - commits(before)
    }
}

impl Lanes {
    fn parse(text: &str) -> Self {
        let sum = |name| metrics::sum(text, name, &[]);
        Self {
            inputs: sum("switchback_batch_size_sum"),
            commits: sum("switchback_batch_size_count"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(of: &[(&str, f64, u32)]) -> Batches {
        let lanes = of.iter().map(|(service, inputs, commits)| {
            let text = format!(
                "# TYPE switchback_batch_size histogram\n\
                 switchback_batch_size_bucket{{le=\"5\"}} 1\n\
                 switchback_batch_size_sum {inputs}\n\
                 switchback_batch_size_count {commits}\n"
            );
            ((*service).to_owned(), Lanes::parse(&text))
        });
        Batches(lanes.collect())
    }

    #[test]
    fn a_mean_is_of_what_came_in_between() {
        let before = batches(&[("order", 200.0, 100), ("payment", 7.0, 7)]);
        let after = batches(&[("order", 1_200.0, 102), ("payment", 17.0, 12)]);
        let means = ByProcess::from([("order".to_owned(), 500.0), ("payment".to_owned(), 2.0)]);
        assert_eq!(after.mean_since(&before), means);
        assert!((after.commits_since(&before) - 7.0).abs() < 1e-9);
    }

    #[test]
    fn who_committed_nothing_has_no_mean() {
        let idle = batches(&[("order", 200.0, 100)]);
        assert!(idle.mean_since(&idle).is_empty());
        let silent = Batches([("order".to_owned(), Lanes::parse("up 1\n"))].into());
        assert!(silent.mean_since(&Batches::default()).is_empty());
    }
}
