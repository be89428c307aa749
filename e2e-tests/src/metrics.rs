//! Owns reading Prometheus' text format. Refuses everything but sums.

/// The sum of a metric's series that have all of these labels (`code="DECODE"`).
pub fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let series = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
