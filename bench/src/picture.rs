//! Owns which pictures there are and what each of them shows of the records. Refuses to draw, and
//! to show what was not measured: such a picture is not there.

use std::collections::BTreeSet;

use crate::chart::{self, Curve, Row};
use crate::goals::{INPUTS_PER_SAGA, PAID_BY_A_SAGA, cpu_ms};
use crate::record::{ByProcess, Measurement, Mode, Percentiles, Records, What};
use crate::spread::{Spread, figure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The name of its file.
    pub name: &'static str,
    /// What it shows, for those who do not see it.
    pub alt: &'static str,
    pub svg: String,
}

/// What open loops there are.
pub const PACED: [(Mode, u32); 3] =
    [(Mode::Textbook, 20), (Mode::Product, 20), (Mode::Product, 100)];
/// Where the time of an order is taken.
pub const ENDS: [(&str, End); 2] = [("202", |one| one.accepted_ms), ("end", |one| one.finished_ms)];
pub type End = fn(&Measurement) -> Option<Percentiles>;

pub fn pictures(run: Option<&Records>, soak: Option<&Records>) -> Vec<Picture> {
    let drawn = [
        run.and_then(throughput),
        run.and_then(latency),
        run.and_then(cpu),
        run.and_then(in_flight),
        soak.and_then(table_size),
    ];
    drawn.into_iter().flatten().collect()
}

fn throughput(run: &Records) -> Option<Picture> {
    let row = |label: &str, spread: Spread| Row {
        label: label.into(),
        values: vec![spread.median()],
        note: spread.to_string(),
        whisker: Some((spread.min(), spread.max())),
    };
    let rate = |mode, what| Spread::of(run.kept(mode, what).map(|one| one.sagas_per_second));
    let mut rows: Vec<_> = Mode::ALL
        .into_iter()
        .filter_map(|mode| Some(row(mode.name(), rate(mode, What::Saturated)?)))
        .collect();
    rows.extend(rate(Mode::Product, What::Hot).map(|spread| row("product, one SKU", spread)));
    let raw = run.kept(Mode::Product, What::Raw);
    let bound = Spread::of(raw.map(|one| Some(one.raw?.rows_per_second / INPUTS_PER_SAGA)));
    rows.extend(bound.map(|spread| row("raw rows/s, by 7", spread)));
    let title = "Sagas per second, saturated: median, with the least and the most of all rounds";
    (!rows.is_empty()).then(|| Picture {
        name: "throughput.svg",
        alt: "Sagas per second of each mode, on a logarithmic scale",
        svg: chart::bars_on_a_log_scale(title, &rows),
    })
}

fn latency(run: &Records) -> Option<Picture> {
    let medians = |mode, rate, of: End| {
        let figures = |pick: fn(Percentiles) -> f64| {
            let kept = run.kept(mode, What::Paced { rate });
            Spread::of(kept.map(|one| of(one).map(pick))).map(|spread| spread.median())
        };
        Some(vec![figures(|p| p.p50)?, figures(|p| p.p95)?, figures(|p| p.p99)?])
    };
    let mut rows = vec![];
    for (mode, rate) in PACED {
        for (end, of) in ENDS {
            let Some(values) = medians(mode, rate, of) else { continue };
            let label = format!("{}, {rate}/s, {end}", mode.name());
            let note = values.iter().copied().map(figure).collect::<Vec<_>>().join(" / ");
            rows.push(Row { label, values, note, whisker: None });
        }
    }
    let title = "Milliseconds from the request to its 202, and to the end of its saga";
    (!rows.is_empty()).then(|| Picture {
        name: "latency.svg",
        alt: "Percentiles of the time to the 202 and to the end of a saga, on a logarithmic scale",
        svg: chart::ranges_on_a_log_scale(title, &["p50", "p95", "p99"], &rows),
    })
}

/// The median that each process paid for a saga, in the order in which they are always named.
fn paid(run: &Records, mode: Mode, what: What) -> Option<Vec<f64>> {
    let of = |name: &str| {
        let figures = run.kept(mode, what).map(|one| one.cpu_ms_per_saga.get(name).copied());
        Spread::of(figures).map(|spread| spread.median())
    };
    PAID_BY_A_SAGA.into_iter().map(of).collect()
}

fn cpu(run: &Records) -> Option<Picture> {
    let row = |mode: Mode| {
        let values = paid(run, mode, What::Saturated)?;
        let note = format!("{} ms", figure(values.iter().sum()));
        Some(Row { label: mode.name().into(), values, note, whisker: None })
    };
    let all: Vec<_> = Mode::ALL.into_iter().filter_map(row).collect();
    let product: Vec<_> = row(Mode::Product).into_iter().collect();
    let title = "Milliseconds of CPU per saga by process; below, the product on its own scale";
    (!all.is_empty()).then(|| Picture {
        name: "cpu.svg",
        alt: "CPU per saga of each mode, stacked by process",
        svg: chart::stacked_bars(title, &PAID_BY_A_SAGA, &[&all, &product]),
    })
}

fn in_flight(run: &Records) -> Option<Picture> {
    let loads: BTreeSet<_> = run.measurements.iter().filter_map(loaded).collect();
    let points = loads.into_iter().map(|load| (f64::from(load), What::Loaded { in_flight: load }));
    let curves = costs(run, points)?;
    let title = "Milliseconds of CPU per saga, by the sagas that are in flight";
    Some(Picture {
        name: "cost-in-flight.svg",
        alt: "CPU per saga against the number of sagas in flight",
        svg: chart::curves(title, "sagas in flight", &curves),
    })
}

pub fn loaded(measurement: &Measurement) -> Option<u32> {
    match measurement.what {
        What::Loaded { in_flight } => Some(in_flight),
        _ => None,
    }
}

fn table_size(soak: &Records) -> Option<Picture> {
    let sizes: BTreeSet<_> = soak.measurements.iter().filter_map(finished).collect();
    #[expect(clippy::cast_precision_loss, reason = "a count of sagas is far below 2^52")]
    let points = sizes.into_iter().map(|size| (size as f64, What::Soak { finished: size }));
    let curves = costs(soak, points)?;
    let title = "Milliseconds of CPU per saga, by the orders that the tables hold";
    Some(Picture {
        name: "cost-table-size.svg",
        alt: "CPU per saga against the number of orders that had finished",
        svg: chart::curves(title, "orders finished", &curves),
    })
}

pub fn finished(measurement: &Measurement) -> Option<u64> {
    match measurement.what {
        What::Soak { finished } => Some(finished),
        _ => None,
    }
}

/// What services, Postgres, Kafka and all of them cost; none before there are two points.
fn costs(records: &Records, points: impl Iterator<Item = (f64, What)>) -> Option<Vec<Curve>> {
    type Cost = fn(&Measurement) -> Option<f64>;
    let kinds: [(&str, Cost); 4] = [
        ("all", cpu_ms),
        ("services", |one| services(&one.cpu_ms_per_saga)),
        ("Postgres", |one| one.cpu_ms_per_saga.get("postgres").copied()),
        ("Kafka", |one| one.cpu_ms_per_saga.get("kafka").copied()),
    ];
    let points: Vec<_> = points.collect();
    let curve = |(name, cost): (&str, Cost)| {
        let at = |&(x, what): &(f64, What)| {
            Some((x, Spread::of(records.kept(Mode::Product, what).map(cost))?.median()))
        };
        Curve { name: name.into(), points: points.iter().filter_map(at).collect() }
    };
    let curves: Vec<_> = kinds.into_iter().map(curve).collect();
    (curves[0].points.len() > 1).then_some(curves)
}

fn services(cost: &ByProcess) -> Option<f64> {
    PAID_BY_A_SAGA[..4].iter().map(|name| cost.get(*name).copied()).sum()
}
