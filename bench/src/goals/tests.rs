use super::*;
use crate::record::tests::header;
use crate::record::{Backlog, Floor, Raw, Soak};

/// Everything that a good round has, with a product that does `rate` sagas per second.
fn round(number: u32, rate: f64) -> Vec<Measurement> {
    let saturated = |mode, rate, postgres_ms, wal| Measurement {
        sagas_per_second: Some(rate),
        cpu_ms_per_saga: PAID_BY_A_SAGA
            .into_iter()
            .map(|name| (name.into(), if name == "postgres" { postgres_ms } else { 0.02 }))
            .chain([("providers".into(), 5.0), ("load".into(), 5.0)])
            .collect(),
        wal_bytes_per_saga: Some(wal),
        commits_per_saga: Some(0.015),
        ..Measurement::new(number, mode, What::Saturated)
    };
    let paced = |mode, rate, p50, p99| Measurement {
        finished_ms: Some(Percentiles { p50, p95: p99, p99, max: p99 }),
        ..Measurement::new(number, mode, What::Paced { rate })
    };
    vec![
        saturated(Textbook, 50.0, 4.0, 8_000.0),
        saturated(Tuned, 500.0, 2.0, 8_000.0),
        saturated(ProductBatch1, 250.0, 4.0, 8_000.0),
        saturated(Product, rate, 0.1, 8_000.0),
        paced(Textbook, 20, 400.0, 500.0),
        paced(Product, 20, 10.0, 20.0),
        paced(Product, 100, 12.0, 36.0),
        Measurement {
            raw: Some(Raw { rows_per_second: 70_000.0 }),
            ..Measurement::new(number, Product, What::Raw)
        },
        Measurement {
            floor: Some(Floor { commit_ms: 0.5, hop_ms: 1.0, call_ms: 0.25 }),
            ..Measurement::new(number, Product, What::Floor)
        },
        Measurement {
            backlog: Some(Backlog {
                intake_per_second: 100.0,
                drain_per_second: 300.0,
                drain_seconds: 20.0,
                waiting: 6_000,
            }),
            ..Measurement::new(number, Product, What::Backlog)
        },
    ]
}

fn run(rounds: impl IntoIterator<Item = Vec<Measurement>>) -> Records {
    Records { header: header(), measurements: rounds.into_iter().flatten().collect() }
}

/// Five rounds, in whose middle the product did 5,000 sagas per second.
pub fn five() -> Records {
    let rates = [4_000.0, 6_000.0, 5_000.0, 4_500.0, 5_500.0];
    run((1..).zip(rates).map(|(number, rate)| round(number, rate)))
}

pub fn soak(finished: u64) -> Records {
    let soak = Soak {
        outbox_bytes: 16 << 20,
        dead_rows: 100,
        head_ms_1k: 0.2,
        head_ms_200k: 0.3,
        sweep_ms_200k: 60.0,
        head_lately_ms_200k: 50.0,
        pss_mb_first_quarter: BTreeMap::new(),
        pss_mb_last_quarter: BTreeMap::new(),
    };
    run([vec![
        Measurement::new(1, Product, What::Soak { finished: 10_000 }),
        Measurement { soak: Some(soak), ..Measurement::new(1, Product, What::Soak { finished }) },
    ]])
}

fn line(number: u8, run: Option<&Records>, soak: Option<&Records>) -> String {
    let outcomes = outcomes(run, soak);
    let outcome = outcomes.iter().find(|outcome| outcome.goal.number == number);
    outcome.expect("the row exists").to_string()
}

/// The line of a row of five rounds in which each measurement was changed by somebody.
fn line_after(number: u8, change: impl Fn(&mut Measurement)) -> String {
    let mut records = five();
    records.measurements.iter_mut().for_each(change);
    line(number, Some(&records), None)
}

#[test]
fn each_row_is_computed_from_what_its_title_says() {
    let (run, soak) = (five(), soak(1_000_000));
    let lines: Vec<_> = outcomes(Some(&run), Some(&soak)).iter().map(ToString::to_string).collect();
    let wanted = [
        "row 1 100 [80.0..120] stretch",
        "row 2 10.0 [8.00..12.0] stretch",
        "row 3 20.0 [16.0..24.0] pass",
        "row 4 40.0 [40.0..40.0] pass",
        "row 5 1.00 [1.00..1.00] pass",
        "row 6 0.015 [0.015..0.015] stretch",
        "row 8 40.0 [40.0..40.0] stretch",
        "row 9 1.25 [1.25..1.25] stretch",
        "row 10 0.500 [0.400..0.600] pass",
        "row 11 1.50 [1.50..1.50] pass",
        "row 12 16.0 [16.0..16.0] pass",
        "row 13 3.00 [3.00..3.00] pass",
        "row 15 0.200 [0.200..0.200] stretch",
        "row 16 3.00 [3.00..3.00] pass",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn what_is_short_says_by_how_much() {
    let records = run((1..=5).map(|number| round(number, 1_000.0)));
    let outcomes = outcomes(Some(&records), None);
    assert_eq!(outcomes[0].to_string(), "row 1 20.0 [20.0..20.0] short");
    assert_eq!(outcomes[0].misses_by(), Some(0.5), "20 of 40");
    assert_eq!(outcomes[3].misses_by(), None, "row 4 is none of the rate's");
}

#[test]
fn a_bound_itself_passes_in_both_directions() {
    let exactly = |rate| line(1, Some(&run((1..=5).map(|number| round(number, rate)))), None);
    assert_eq!(exactly(2_000.0), "row 1 40.0 [40.0..40.0] pass");
    assert_eq!(exactly(1_999.9), "row 1 40.0 [40.0..40.0] short");
    let commits = |commits| line_after(6, |kept| kept.commits_per_saga = Some(commits));
    assert_eq!(commits(0.02), "row 6 0.020 [0.020..0.020] stretch");
    assert_eq!(commits(0.1), "row 6 0.100 [0.100..0.100] pass");
    assert_eq!(commits(0.101), "row 6 0.101 [0.101..0.101] short");
}

#[test]
fn without_a_run_nothing_is_measured() {
    for outcome in outcomes(None, None) {
        let wanted = format!("row {} - [-..-] not-measured", outcome.goal.number);
        assert_eq!(outcome.to_string(), wanted);
    }
}

#[test]
fn a_side_that_was_dropped_takes_its_round_out_and_no_other() {
    let mut records = run((1..=6).map(|number| round(number, 1_000.0 * f64::from(number))));
    for kept in &mut records.measurements {
        if kept.round == 6 && kept.mode == Textbook {
            kept.dropped = Some("somebody else compiled".into());
        }
    }
    assert_eq!(line(1, Some(&records), None), "row 1 60.0 [20.0..100] pass");
    assert_eq!(line(8, Some(&records), None), "row 8 40.0 [40.0..40.0] stretch");
    assert_eq!(line(2, Some(&records), None), "row 2 7.00 [2.00..12.0] pass", "of six rounds");
}

#[test]
fn sides_of_different_rounds_are_never_compared() {
    let mut records = five();
    for (at, kept) in records.measurements.iter_mut().enumerate() {
        kept.round = u32::try_from(at).expect("there are few");
    }
    for row in [1, 2, 3, 4, 5, 8, 9, 10] {
        let wanted = format!("row {row} - [-..-] not-measured");
        assert_eq!(line(row, Some(&records), None), wanted);
    }
    assert_eq!(line(15, Some(&records), None), "row 15 0.200 [0.200..0.200] stretch", "one side");
}

#[test]
fn fewer_rounds_than_a_verdict_needs_show_a_median_and_no_verdict() {
    let four = run((1..=4).map(|number| round(number, 5_000.0)));
    assert_eq!(line(1, Some(&four), None), "row 1 100 [100..100] not-measured");
    assert_eq!(line(13, Some(&four), None), "row 13 3.00 [3.00..3.00] pass", "two are enough");
    let one = run([round(1, 5_000.0)]);
    assert_eq!(line(13, Some(&one), None), "row 13 3.00 [3.00..3.00] not-measured");
}

#[test]
fn a_short_run_needs_two_rounds() {
    let mut two = run((1..=2).map(|number| round(number, 5_000.0)));
    two.header.quick = true;
    assert_eq!(line(1, Some(&two), None), "row 1 100 [100..100] stretch");
    two.measurements.retain(|kept| kept.round == 1);
    assert_eq!(line(1, Some(&two), None), "row 1 100 [100..100] not-measured");
}

#[test]
fn goals_hold_on_a_real_kafka_and_with_every_commit_on_disk() {
    let mut records = five();
    records.header.broker = Broker::Memory;
    assert_eq!(line(1, Some(&records), None), "row 1 100 [80.0..120] not-measured");
    for lax in ["fsync", "synchronous_commit"] {
        let mut records = five();
        let durability = &mut records.header.durability;
        let setting =
            if lax == "fsync" { &mut durability.fsync } else { &mut durability.synchronous_commit };
        *setting = "off".into();
        assert_eq!(line(1, Some(&records), None), "row 1 100 [80.0..120] not-measured", "{lax}");
    }
}

#[test]
fn an_instrument_that_failed_gives_no_figure() {
    for broken in [0.0, f64::NAN, f64::INFINITY, -1.0] {
        let nothing = |row| format!("row {row} - [-..-] not-measured");
        let of = |kept: &Measurement, mode| kept.mode == mode && kept.what == What::Saturated;
        for mode in [Textbook, Product] {
            let spoilt = line_after(1, |kept| {
                if of(kept, mode) {
                    kept.sagas_per_second = Some(broken);
                }
            });
            assert_eq!(spoilt, nothing(1), "{mode:?} {broken}");
            let spoilt = line_after(5, |kept| {
                if of(kept, mode) {
                    kept.wal_bytes_per_saga = Some(broken);
                }
            });
            assert_eq!(spoilt, nothing(5), "{mode:?} {broken}");
        }
        let spoilt = line_after(9, |kept| {
            if let Some(floor) = &mut kept.floor {
                floor.hop_ms = broken;
            }
        });
        assert_eq!(spoilt, nothing(9), "{broken}");
        let spoilt = line_after(15, |kept| {
            kept.cpu_ms_per_saga.insert("kafka".into(), broken);
        });
        assert_eq!(spoilt, nothing(15), "{broken}");
    }
}

#[test]
fn a_saga_has_no_cost_while_one_that_pays_for_it_is_missing() {
    for name in PAID_BY_A_SAGA {
        let without = line_after(15, |kept| {
            kept.cpu_ms_per_saga.remove(name);
        });
        assert_eq!(without, "row 15 - [-..-] not-measured", "{name}");
    }
}

#[test]
fn the_worse_tail_counts_whichever_rate_it_has() {
    let tail = |rate, p99| {
        line_after(16, |kept| {
            if kept.what == (What::Paced { rate }) && kept.mode == Product {
                kept.finished_ms = Some(Percentiles { p50: 10.0, p95: p99, p99, max: p99 });
            }
        })
    };
    assert_eq!(tail(20, 50.0), "row 16 5.00 [5.00..5.00] short");
    assert_eq!(tail(100, 50.0), "row 16 5.00 [5.00..5.00] short");
    assert_eq!(tail(100, 11.0), "row 16 2.00 [2.00..2.00] stretch", "20/s is the worse one now");
}

#[test]
fn a_tail_at_one_rate_alone_is_no_verdict() {
    let records = line_after(16, |kept| {
        if kept.what == (What::Paced { rate: 100 }) {
            kept.finished_ms = None;
        }
    });
    assert_eq!(records, "row 16 2.00 [2.00..2.00] not-measured");
}

#[test]
fn a_soak_that_was_broken_off_says_nothing_of_a_million_sagas() {
    let short = soak(999_999);
    assert_eq!(line(12, None, Some(&short)), "row 12 - [-..-] not-measured");
    assert_eq!(line(11, None, Some(&short)), "row 11 1.50 [1.50..1.50] pass");
}
