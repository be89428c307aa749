use super::*;

pub fn header() -> Header {
    Header {
        date: "2026-02-03T04:05:06Z".into(),
        machine: "A processor".into(),
        cores: 2,
        memory_mb: 8_192,
        kernel: "Linux 6.1".into(),
        broker: Broker::Kafka,
        versions: Versions {
            switchback: "0.1.0".into(),
            rustc: "1.95.0".into(),
            postgres: "15.18".into(),
            kafka: Some("4.3.1".into()),
        },
        commit: "abc1234".into(),
        durability: Durability { fsync: "on".into(), synchronous_commit: "on".into() },
        quick: false,
        skus: 1_000,
        failing_percent: 10,
    }
}

/// A measurement with a figure of every kind.
fn full() -> Measurement {
    let by_process = ByProcess::from([("order".into(), 1.5), ("postgres".into(), 0.25)]);
    let percentiles = Percentiles { p50: 1.0, p95: 2.0, p99: 3.0, max: 4.0 };
    Measurement {
        dropped: Some("somebody else compiled".into()),
        sagas: Some(10),
        cancelled: Some(1),
        in_flight: Some(500),
        seconds: Some(10.0),
        sagas_per_second: Some(1.0),
        cpu_ms_per_saga: by_process.clone(),
        wal_bytes_per_saga: Some(4_000.0),
        wal_fpi_bytes_per_saga: Some(100.0),
        commits_per_saga: Some(0.01),
        mean_batch: by_process.clone(),
        peak_pss_mb: by_process.clone(),
        accepted_ms: Some(percentiles),
        finished_ms: Some(percentiles),
        watched: Some(10),
        fsync_ms: Some(Fsync { p50: 0.5, p99: 8.0 }),
        load_average: Some(1.5),
        outside_cpu: Some(0.05),
        raw: Some(Raw { rows_per_second: 70_000.0 }),
        floor: Some(Floor { commit_ms: 0.5, hop_ms: 1.0, call_ms: 0.3 }),
        backlog: Some(Backlog {
            intake_per_second: 100.0,
            drain_per_second: 900.0,
            drain_seconds: 7.0,
            waiting: 6_000,
        }),
        soak: Some(Soak {
            outbox_bytes: 1_000_000,
            dead_rows: 4_000,
            head_ms_1k: 0.2,
            head_ms_200k: 0.3,
            sweep_ms_200k: 60.0,
            head_lately_ms_200k: 50.0,
            pss_mb_first_quarter: by_process.clone(),
            pss_mb_last_quarter: by_process,
        }),
        ..Measurement::new(1, Mode::ProductBatch1, What::Soak { finished: 1_000 })
    }
}

fn written(measurements: &[Measurement]) -> String {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("run.jsonl");
    let mut writer = Writer::create(&path, &header()).expect("the file can be made");
    for measurement in measurements {
        writer.write(measurement).expect("the file can be written");
    }
    std::fs::read_to_string(path).expect("it was written")
}

#[test]
fn what_was_written_is_read_as_it_was() {
    let whats = [
        What::Saturated,
        What::Paced { rate: 20 },
        What::Hot,
        What::Loaded { in_flight: 250 },
        What::Backlog,
        What::Raw,
        What::Floor,
    ];
    let mut measurements = vec![full()];
    for (what, mode) in whats.into_iter().zip(Mode::ALL.into_iter().cycle()) {
        measurements.push(Measurement::new(2, mode, what));
    }
    let text = written(&measurements);
    assert_eq!(text.lines().count(), 1 + measurements.len(), "a line each: {text}");
    let records = Records::parse(&text).expect("it was written by us");
    assert_eq!(records, Records { header: header(), measurements });
}

#[test]
fn a_measurement_writes_only_what_it_has() {
    let text = written(&[Measurement::new(3, Mode::Tuned, What::Paced { rate: 20 })]);
    let line = text.lines().nth(1).expect("there is a measurement");
    let wanted = r#"{"line":"measurement","round":3,"mode":"tuned","what":{"paced":{"rate":20}}}"#;
    assert_eq!(line, wanted);
}

#[test]
fn a_field_that_nobody_knows_is_an_error_wherever_it_stands() {
    let text = written(&[full()]);
    let places = [
        (r#""cores":2"#, "in the header"),
        (r#""rustc":"1.95.0""#, "in the versions"),
        (r#""fsync":"on""#, "in the durability"),
        (r#""round":1"#, "in the measurement"),
        (r#""finished":1000"#, "in what was measured"),
        (r#""p95":2.0"#, "in percentiles"),
        (r#""rows_per_second":70000.0"#, "in the bound"),
        (r#""hop_ms":1.0"#, "in the floor"),
        (r#""waiting":6000"#, "in the backlog"),
        (r#""dead_rows":4000"#, "in the soak"),
    ];
    Records::parse(&text).expect("it was written by us");
    for (known, place) in places {
        let more = text.replace(known, &format!(r#"{known},"unheard_of":1"#));
        assert_ne!(more, text, "nothing to spoil {place}");
        let error = format!("{:#}", Records::parse(&more).expect_err(place));
        assert!(error.contains("unheard_of"), "{place}: {error}");
    }
}

#[test]
fn a_file_begins_with_its_only_header() {
    let text = written(&[full()]);
    let (head, rest) = text.split_once('\n').expect("there are two lines");
    let refused = |text: &str| format!("{:#}", Records::parse(text).expect_err(text));
    assert_eq!(refused(""), "there is no header");
    assert_eq!(refused(rest), "line 1 stands before the header");
    assert_eq!(refused(&format!("{text}{head}")), "line 3 is a second header");
    assert!(refused(&format!("{head}\nhello")).starts_with("line 2: "));
}

#[test]
fn a_figure_that_is_no_number_is_read_as_absent() {
    let mut measurement = full();
    measurement.sagas_per_second = Some(f64::NAN);
    let records = Records::parse(&written(&[measurement])).expect("null is what JSON makes of it");
    assert_eq!(records.measurements[0].sagas_per_second, None);
}
