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

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_are_summed_by_whole_name_and_by_label() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\"} 4\na 5\na_total 6\n";
        for (labels, wanted) in [(&[][..], 12.0), (&["x=\"1\""], 7.0), (&["y=\"2\""], 3.0)] {
            assert!((sum(text, "a", labels) - wanted).abs() < f64::EPSILON, "{labels:?}");
        }
    }
}
