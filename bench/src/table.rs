//! Owns the part of the page that is made of figures: the comparison first, then what each mode
//! did, on what, and what was dropped. Refuses any figure that is not in the records.

use std::collections::BTreeMap;

use crate::goals::{Outcome, PAID_BY_A_SAGA, Verdict, cpu_ms, outcomes};
use crate::picture::{ENDS, PACED, Picture, finished, loaded};
use crate::record::{Broker, Header, Measurement, Mode, Percentiles, Records, What};
use crate::spread::{Spread, figure};

/// Where the pictures lie, seen from the page.
const PICTURES: &str = "performance";
const NOTHING: &str = "–";

/// The text between the markers.
pub fn section(run: Option<&Records>, soak: Option<&Records>, pictures: &[Picture]) -> String {
    let outcomes = outcomes(run, soak);
    let mut parts = vec![lead(&outcomes), goals(&outcomes), short(&outcomes)];
    if let Some(run) = run {
        parts.push("### What each mode did".into());
        parts.push(taken_on(&run.header, "The run"));
        parts.push(weather(run));
        parts.push(modes(run));
        parts.push(processes(run));
        parts.push(latencies(run));
        parts.push(limits(run));
        parts.extend(loads(run));
    }
    if let Some(soak) = soak {
        parts.push("### The long run".into());
        parts.push(taken_on(&soak.header, "The soak"));
        parts.push(table_sizes(soak));
        parts.extend(left_behind(soak));
    }
    parts.extend(pictures.iter().map(shown));
    parts.retain(|part| !part.is_empty());
    parts.join("\n\n")
}

/// The fair comparisons, in words.
fn lead(outcomes: &[Outcome]) -> String {
    let times = |number| {
        let outcome = outcomes.iter().find(|outcome| outcome.goal.number == number)?;
        let spread = outcome.counts()?;
        Some(format!(
            "**{} times** [{}..{}]",
            figure(spread.median()),
            figure(spread.min()),
            figure(spread.max())
        ))
    };
    let (Some(tuned), Some(single)) = (times(2), times(3)) else {
        return "No run has been kept in which the product met its opponents.".into();
    };
    let textbook = times(1).map(|times| {
        format!(" Beside the textbook it is {times} as many, but the textbook is a weak opponent.")
    });
    format!(
        "When all of them are saturated, the product finishes {tuned} as many sagas per second as \
         the tuned opponent, and {single} as many as itself with one input per commit: the median \
         of the rounds, between the least and the most of them.{}",
        textbook.unwrap_or_default()
    )
}

fn goals(outcomes: &[Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| {
        let goal = outcome.goal;
        let named = |(name, spread): &(&str, Spread)| format!("{spread} {name}").trim().to_owned();
        let figures = outcome.conditions.iter().map(named).collect::<Vec<_>>().join(", ");
        let rounds = outcome.counts().map_or(NOTHING.into(), |spread| spread.rounds().to_string());
        let [pass, stretch] = goal.wanted();
        let figures = if figures.is_empty() { NOTHING.into() } else { figures };
        let verdict = outcome.verdict.to_string();
        vec![goal.number.to_string(), goal.title.into(), pass, stretch, figures, rounds, verdict]
    });
    let head = ["#", "what", "pass", "stretch", "median [least..most]", "rounds", "verdict"];
    table(&head, rows)
}

fn short(outcomes: &[Outcome]) -> String {
    let with = |verdict| outcomes.iter().filter(move |outcome| outcome.verdict == verdict);
    let missed: Vec<_> = with(Verdict::Short)
        .filter_map(|outcome| {
            let percent = figure(100.0 * outcome.misses_by()?);
            Some(format!("- Row {} misses its bound by {percent} %.", outcome.goal.number))
        })
        .collect();
    let numbers: Vec<_> =
        with(Verdict::NotMeasured).map(|outcome| outcome.goal.number.to_string()).collect();
    let mut parts = vec![];
    if !missed.is_empty() {
        parts.push(format!("What falls short:\n\n{}", missed.join("\n")));
    }
    if !numbers.is_empty() {
        parts.push(format!("Without a verdict: {}.", numbers.join(", ")));
    }
    parts.join("\n\n")
}

fn taken_on(header: &Header, what: &str) -> String {
    let Header { date, machine, cores, memory_mb, kernel, versions, durability, .. } = header;
    let broker = match (header.broker, &versions.kafka) {
        (Broker::Kafka, Some(version)) => format!("Apache Kafka {version}"),
        (Broker::Kafka, None) => "Apache Kafka".into(),
        (Broker::Memory, _) => "the broker in memory".into(),
    };
    let form = if header.quick { " in its short form" } else { "" };
    format!(
        "{what} began {date}{form}, at commit `{}`, on {machine} with {cores} cores and \
         {memory_mb} MB, {kernel}. Switchback {}, built by rustc {}; PostgreSQL {} with fsync {} \
         and synchronous_commit {}; {broker}. Orders want {} SKUs, and the carrier refuses {} % \
         of them.",
        header.commit,
        versions.switchback,
        versions.rustc,
        versions.postgres,
        durability.fsync,
        durability.synchronous_commit,
        header.skus,
        header.failing_percent,
    )
}

/// What the machine was like meanwhile, and what did not count for it.
fn weather(run: &Records) -> String {
    let kept = || run.measurements.iter().filter(|one| one.dropped.is_none());
    let mut words = vec![];
    let mut say = |what: &str, spread: Option<Spread>| {
        words.extend(spread.map(|spread| format!("{what} {spread}")));
    };
    say("load average", Spread::of(kept().map(|one| one.load_average)));
    say("CPU that went to others, of 1", Spread::of(kept().map(|one| one.outside_cpu)));
    say("fsync p50 in ms", Spread::of(kept().map(|one| Some(one.fsync_ms?.p50))));
    say("fsync p99 in ms", Spread::of(kept().map(|one| Some(one.fsync_ms?.p99))));
    let mut reasons = BTreeMap::<&str, u32>::new();
    for reason in run.measurements.iter().filter_map(|one| one.dropped.as_deref()) {
        *reasons.entry(reason).or_default() += 1;
    }
    let dropped: u32 = reasons.values().sum();
    let reasons = reasons.iter().map(|(reason, times)| format!("{reason} ({times})"));
    let reasons = match reasons.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => none,
        some => format!(": {some}"),
    };
    let of = run.measurements.len();
    format!(
        "Meanwhile: {}. Of {of} measurements {dropped} were dropped{reasons}.",
        words.join(", ")
    )
}

type Pick = fn(&Measurement) -> Option<f64>;
type Percentile = fn(Percentiles) -> f64;

fn spread(
    records: &Records,
    mode: Mode,
    what: What,
    pick: impl Fn(&Measurement) -> Option<f64>,
) -> Option<Spread> {
    Spread::of(records.kept(mode, what).map(pick))
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or(NOTHING.into(), |spread| spread.to_string())
}

const COSTS: [(&str, Pick); 5] = [
    ("sagas/s", |one| one.sagas_per_second),
    ("CPU, ms/saga", cpu_ms),
    ("WAL, bytes/saga", |one| one.wal_bytes_per_saga),
    ("page images, bytes/saga", |one| one.wal_fpi_bytes_per_saga),
    ("commits/saga", |one| one.commits_per_saga),
];

/// A row for each that has at least one figure.
fn costs(
    first: &str,
    records: &Records,
    of: impl IntoIterator<Item = (String, Mode, What)>,
) -> String {
    let head: Vec<_> = [first].into_iter().chain(COSTS.map(|(name, _)| name)).collect();
    let rows = of.into_iter().filter_map(|(label, mode, what)| {
        let spreads = COSTS.map(|(_, pick)| spread(records, mode, what, pick));
        spreads
            .iter()
            .any(Option::is_some)
            .then(|| [label].into_iter().chain(spreads.map(cell)).collect())
    });
    table(&head, rows)
}

fn modes(run: &Records) -> String {
    let hot = ("product, one SKU".to_owned(), Mode::Product, What::Hot);
    let all = Mode::ALL.map(|mode| (mode.name().to_owned(), mode, What::Saturated));
    costs("saturated", run, all.into_iter().chain([hot]))
}

/// CPU by process for each mode, then what the product's processes hold and take at once.
fn processes(run: &Records) -> String {
    let saturated = What::Saturated;
    let apart = ["providers", "load", "switchback"];
    let rows = PAID_BY_A_SAGA.into_iter().chain(apart).map(|name| {
        let cpu = |mode| {
            let of = |one: &Measurement| one.cpu_ms_per_saga.get(name).copied();
            spread(run, mode, saturated, of).map_or(NOTHING.into(), |ms| figure(ms.median()))
        };
        let memory =
            spread(run, Mode::Product, saturated, |one| one.peak_pss_mb.get(name).copied());
        let batch = spread(run, Mode::Product, saturated, |one| one.mean_batch.get(name).copied());
        let cpu = Mode::ALL.map(cpu);
        [name.to_owned()].into_iter().chain(cpu).chain([cell(memory), cell(batch)]).collect()
    });
    let head = [
        "CPU, ms/saga, median",
        Mode::Textbook.name(),
        Mode::Tuned.name(),
        Mode::ProductBatch1.name(),
        Mode::Product.name(),
        "product: peak PSS, MB",
        "product: inputs per commit",
    ];
    table(&head, rows)
}

fn latencies(run: &Records) -> String {
    let picks: [(&str, Percentile); 4] =
        [("p50", |p| p.p50), ("p95", |p| p.p95), ("p99", |p| p.p99), ("max", |p| p.max)];
    let mut rows = vec![];
    for (mode, rate) in PACED {
        for (end, of) in ENDS {
            let what = What::Paced { rate };
            let spreads = picks.map(|(_, pick)| spread(run, mode, what, |one| of(one).map(pick)));
            if spreads.iter().any(Option::is_some) {
                let label = format!("{} at {rate}/s, its {end}", mode.name());
                rows.push([label].into_iter().chain(spreads.map(cell)).collect());
            }
        }
    }
    let head: Vec<_> =
        ["ms from the request to"].into_iter().chain(picks.map(|(name, _)| name)).collect();
    table(&head, rows)
}

fn limits(run: &Records) -> String {
    let product: [(&str, What, Pick); 8] = [
        ("raw bound, rows/s", What::Raw, |one| Some(one.raw?.rows_per_second)),
        ("a lone commit, ms", What::Floor, |one| Some(one.floor?.commit_ms)),
        ("produce to consume, ms", What::Floor, |one| Some(one.floor?.hop_ms)),
        ("a provider's call, ms", What::Floor, |one| Some(one.floor?.call_ms)),
        ("backlog: orders placed per second", What::Backlog, |one| {
            Some(one.backlog?.intake_per_second)
        }),
        ("backlog: sagas finished per second", What::Backlog, |one| {
            Some(one.backlog?.drain_per_second)
        }),
        ("backlog: sagas that waited", What::Backlog, |one| Some(count(one.backlog?.waiting))),
        ("backlog: seconds until none did", What::Backlog, |one| Some(one.backlog?.drain_seconds)),
    ];
    let rows = product.into_iter().filter_map(|(name, what, pick)| {
        Some(vec![name.into(), spread(run, Mode::Product, what, pick)?.to_string()])
    });
    table(&["limits and backlog", "median [least..most]"], rows)
}

fn loads(run: &Records) -> Option<String> {
    let mut loads: Vec<_> = run.measurements.iter().filter_map(loaded).collect();
    loads.sort_unstable();
    loads.dedup();
    let rows = loads
        .iter()
        .map(|&in_flight| (in_flight.to_string(), Mode::Product, What::Loaded { in_flight }));
    (!loads.is_empty()).then(|| costs("product, sagas in flight", run, rows))
}

fn table_sizes(soak: &Records) -> String {
    let mut sizes: Vec<_> = soak.measurements.iter().filter_map(finished).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let rows = sizes
        .into_iter()
        .map(|finished| (finished.to_string(), Mode::Product, What::Soak { finished }));
    costs("product, orders finished", soak, rows)
}

fn left_behind(soak: &Records) -> Option<String> {
    let left = soak.measurements.iter().rev().find_map(|one| one.soak.as_ref())?;
    let rows = left.pss_mb_last_quarter.iter().map(|(name, last)| {
        let first = left.pss_mb_first_quarter.get(name).copied();
        vec![name.clone(), first.map_or(NOTHING.into(), figure), figure(*last)]
    });
    let memory = table(&["PSS, MB", "first quarter", "last quarter"], rows);
    Some(format!(
        "At its end the largest outbox took {} bytes with its index, and the four of them held {} \
         dead rows. The dispatcher's question took {} ms behind 1,000 dead rows that could not be \
         removed, and {} ms behind 200,000; every tenth begins at the first row, and took {} ms \
         there. Behind 200,000 of the last half minute, which it may not pass over, each took {} \
         ms.\n\n{memory}",
        left.outbox_bytes,
        left.dead_rows,
        figure(left.head_ms_1k),
        figure(left.head_ms_200k),
        figure(left.sweep_ms_200k),
        figure(left.head_lately_ms_200k),
    ))
}

fn shown(picture: &Picture) -> String {
    format!("![{}]({PICTURES}/{})", picture.alt, picture.name)
}

#[expect(clippy::cast_precision_loss, reason = "a count of sagas is far below 2^52")]
fn count(sagas: u64) -> f64 {
    sagas as f64
}

/// Nothing without a row.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let rows: Vec<_> = rows.into_iter().map(line).collect();
    if rows.is_empty() {
        return String::new();
    }
    let head_line = line(head.iter().map(ToString::to_string).collect());
    let rule = format!("|{}", "---|".repeat(head.len()));
    [head_line, rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}
