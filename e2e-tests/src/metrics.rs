//! Owns reading Prometheus' text format. Refuses everything but sums.

use futures::future::try_join_all;

use crate::stack::Stack;

/// The sum of a metric's series that have all of these labels (`code="DECODE"`).
pub fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The same over all processes of a service as they are now.
pub async fn total(
    stack: &Stack,
    service: &str,
    name: &str,
    labels: &[&str],
) -> anyhow::Result<f64> {
    let processes = stack.processes_of(service);
    let texts = try_join_all(processes.map(|process| stack.client.metrics(process))).await?;
    Ok(texts.iter().map(|text| sum(text, name, labels)).sum())
}
