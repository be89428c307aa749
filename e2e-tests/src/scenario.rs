//! Owns running many scenarios at once on one stack. Refuses to stop at the first that fails: each
//! is named with what it saw.

pub mod orders;

use std::pin::Pin;

use anyhow::bail;
use futures::future::join_all;

/// A scenario and its name, which is a sentence.
pub type Scenario<'a> = (&'static str, Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>);

/// Names a scenario.
pub fn scenario<'a>(
    name: &'static str,
    body: impl Future<Output = anyhow::Result<()>> + 'a,
) -> Scenario<'a> {
    (name, Box::pin(body))
}

/// Runs them all at once; fails with every one that failed.
pub async fn run_all(scenarios: impl IntoIterator<Item = Scenario<'_>>) -> anyhow::Result<()> {
    let runs = scenarios.into_iter().map(async |(name, body)| (name, body.await));
    let ended = join_all(runs).await;
    let failed: Vec<_> = ended
        .into_iter()
        .filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?)))
        .collect();
    if !failed.is_empty() {
        bail!("{} failed:\n{}", failed.len(), failed.join("\n"));
    }
    Ok(())
}
