//! Owns how metrics are kept until they are scraped. Refuses a listener of its own: the service
//! renders them in its own route.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};

use crate::names;

/// From one commit on an idle machine to the deadline of a saga.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0,
    900.0,
];
const BATCH_INPUTS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0];

pub(crate) fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(names::BATCH_SIZE.to_owned()), &BATCH_INPUTS)
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram, with_local_recorder};

    use super::*;

    #[test]
    fn what_is_measured_is_rendered_with_its_help_and_its_buckets() {
        let recorder = builder().expect("buckets are given").build_recorder();
        with_local_recorder(&recorder, || {
            names::describe();
            histogram!(names::COMMIT_SECONDS).record(0.003);
            histogram!(names::BATCH_SIZE).record(7.0);
            gauge!(names::OUTBOX_ROWS).set(3.0);
            counter!(names::CALL_ATTEMPTS, "destination" => "carrier", "attempt" => "first")
                .increment(2);
        });
        let text = recorder.handle().render();
        for line in [
            "# HELP switchback_commit_seconds Duration of one lane transaction",
            "# TYPE switchback_commit_seconds histogram",
            "switchback_commit_seconds_bucket{le=\"0.0025\"} 0",
            "switchback_commit_seconds_bucket{le=\"0.005\"} 1",
            "switchback_batch_size_bucket{le=\"5\"} 0",
            "switchback_batch_size_bucket{le=\"10\"} 1",
            "switchback_outbox_rows 3",
            "switchback_call_attempts_total{destination=\"carrier\",attempt=\"first\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
