//! Owns the goals: what each row compares, its bounds, and the verdict on what was measured.
//! Refuses to compare across rounds: both sides of a ratio come from one round, and a round in
//! which a side is missing or was dropped has no ratio.

use std::collections::BTreeMap;
use std::fmt;

use crate::record::{Broker, Header, Measurement, Mode, Percentiles, Records, What};
use crate::spread::{Spread, positive, ratio};

/// How many rounds a verdict needs, in a run of full length and in a short one.
const ROUNDS_MIN: usize = 5;
const ROUNDS_QUICK_MIN: usize = 2;
const ROUNDS_BACKLOG_MIN: usize = 2;
/// Before fewer sagas than this nothing is said about what they leave in the outbox.
const SOAKED_SAGAS_MIN: u64 = 1_000_000;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// Whose CPU a saga costs; third parties and the load generator are counted apart.
pub const PAID_BY_A_SAGA: [&str; 6] =
    ["order", "inventory", "payment", "shipping", "postgres", "kafka"];

/// The inputs of a good saga, each of which writes state, inbox and outbox.
pub const INPUTS_PER_SAGA: f64 = 7.0;
const HOPS_PER_SAGA: f64 = 4.0;
const CALLS_PER_SAGA: f64 = 2.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    NotMeasured,
    Short,
    Pass,
    Stretch,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMeasured => "not-measured",
            Self::Short => "short",
            Self::Pass => "pass",
            Self::Stretch => "stretch",
        })
    }
}

/// Which rounds a row is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounds {
    Run,
    Backlog,
    Soak,
}

/// A name, and what a round says under it.
type Condition = (&'static str, fn(&Round<'_>) -> Option<f64>);

/// One row: what a round says about it, and what is wanted of the median.
#[derive(Debug)]
pub struct Goal {
    pub number: u8,
    pub title: &'static str,
    pub better: Better,
    pub pass: f64,
    pub stretch: f64,
    rounds: Rounds,
    /// A row may be taken under several conditions, each with its name; the worst one counts.
    conditions: &'static [Condition],
}

use Better::{Less, More};
use Mode::{Product, ProductBatch1, Textbook, Tuned};

pub static GOALS: [Goal; 14] = [
    goal(1, "saturated sagas/s, product : textbook", More, 40.0, 100.0)
        .by(&[("", |r| r.faster_than(Textbook))]),
    goal(2, "saturated sagas/s, product : tuned", More, 3.0, 8.0)
        .by(&[("", |r| r.faster_than(Tuned))]),
    goal(3, "saturated sagas/s, 500 inputs per commit : 1", More, 20.0, 35.0)
        .by(&[("", |r| r.faster_than(ProductBatch1))]),
    goal(4, "Postgres CPU per saga, textbook : product", More, 30.0, 50.0).by(&[("", |r| {
        let postgres = |mode| r.saturated(mode)?.cpu_ms_per_saga.get("postgres").copied();
        ratio(postgres(Textbook)?, postgres(Product)?)
    })]),
    goal(5, "WAL per saga, product : textbook", Less, 1.1, 0.9).by(&[("", |r| {
        ratio(r.saturated(Product)?.wal_bytes_per_saga?, r.saturated(Textbook)?.wal_bytes_per_saga?)
    })]),
    goal(6, "commits per saga, saturated", Less, 0.1, 0.02)
        .by(&[("", |r| r.saturated(Product)?.commits_per_saga)]),
    goal(8, "p50 at 20/s, textbook : product", More, 5.0, 15.0)
        .by(&[("", |r| ratio(r.paced(Textbook, 20)?.p50, r.paced(Product, 20)?.p50))]),
    goal(9, "p50 at 20/s : (7 lone commits + 4 hops + 2 calls)", Less, 2.0, 1.3)
        .by(&[("", |r| ratio(r.paced(Product, 20)?.p50, r.floor_ms()?))]),
    goal(10, "saturated sagas/s : (raw rows/s / 7)", More, 0.3, 0.8).by(&[("", |r| {
        let rows = r.of(Product, What::Raw)?.raw?.rows_per_second;
        ratio(r.saturated(Product)?.sagas_per_second?, rows / INPUTS_PER_SAGA)
    })]),
    goal(11, "head of the outbox, xmin pinned, 200,000 : 1,000 dead rows", Less, 2.0, 1.2)
        .from(Rounds::Soak)
        .by(&[("", |r| r.soak().and_then(|(_, soak)| ratio(soak.head_ms_200k, soak.head_ms_1k)))]),
    goal(12, "MiB of outbox after 1,000,000 sagas", Less, 64.0, 8.0).from(Rounds::Soak).by(&[(
        "",
        |r| {
            let (finished, soak) = r.soak()?;
            (finished >= SOAKED_SAGAS_MIN).then_some(mib(soak.outbox_bytes))
        },
    )]),
    goal(13, "backlog, sagas finished while it drains : orders placed", More, 2.0, 4.0)
        .from(Rounds::Backlog)
        .by(&[("", |r| {
            let backlog = r.of(Product, What::Backlog)?.backlog?;
            ratio(backlog.drain_per_second, backlog.intake_per_second)
        })]),
    goal(15, "ms of CPU per saga, saturated: services + Postgres + Kafka", Less, 0.6, 0.3)
        .by(&[("", |r| cpu_ms(r.saturated(Product)?))]),
    goal(16, "p99 : p50, at 20/s and at 100/s", Less, 4.0, 2.5)
        .by(&[("at 20/s", |r| tail(r, 20)), ("at 100/s", |r| tail(r, 100))]),
];

const fn goal(number: u8, title: &'static str, better: Better, pass: f64, stretch: f64) -> Goal {
    Goal { number, title, better, pass, stretch, rounds: Rounds::Run, conditions: &[] }
}

impl Goal {
    const fn from(mut self, rounds: Rounds) -> Self {
        self.rounds = rounds;
        self
    }

    const fn by(mut self, conditions: &'static [Condition]) -> Self {
        self.conditions = conditions;
        self
    }

    /// The bounds as a person reads them.
    pub fn wanted(&self) -> [String; 2] {
        let sign = match self.better {
            More => "≥",
            Less => "≤",
        };
        [self.pass, self.stretch].map(|bound| format!("{sign} {bound}"))
    }

    fn holds(&self, median: f64, bound: f64) -> bool {
        match self.better {
            More => median >= bound,
            Less => median <= bound,
        }
    }

    fn rounds_min(&self, header: &Header) -> usize {
        match self.rounds {
            Rounds::Soak => 1,
            Rounds::Backlog => ROUNDS_BACKLOG_MIN,
            Rounds::Run if header.quick => ROUNDS_QUICK_MIN,
            Rounds::Run => ROUNDS_MIN,
        }
    }

    fn judge(&'static self, records: Option<&Records>) -> Outcome {
        let mut outcome = Outcome { goal: self, conditions: vec![], verdict: Verdict::NotMeasured };
        let Some(records) = records else { return outcome };
        let rounds = rounds(&records.measurements);
        for (name, figure) in self.conditions {
            let Some(spread) = Spread::of(rounds.iter().map(figure)) else { continue };
            outcome.conditions.push((name, spread));
        }
        let rounds_min = self.rounds_min(&records.header);
        let enough = |(_, spread): &(_, Spread)| spread.rounds() >= rounds_min;
        let complete = outcome.conditions.len() == self.conditions.len();
        if let Some(median) = outcome.counts().map(Spread::median)
            && complete
            && outcome.conditions.iter().all(enough)
            && is_what_goals_ask_for(&records.header)
        {
            outcome.verdict = match () {
                () if self.holds(median, self.stretch) => Verdict::Stretch,
                () if self.holds(median, self.pass) => Verdict::Pass,
                () => Verdict::Short,
            };
        }
        outcome
    }
}

/// Goals are set for a real Kafka and for commits that a power cut leaves alone.
fn is_what_goals_ask_for(header: &Header) -> bool {
    let durability = &header.durability;
    header.broker == Broker::Kafka
        && durability.fsync == "on"
        && durability.synchronous_commit == "on"
}

/// What was measured of a goal.
#[derive(Debug)]
pub struct Outcome {
    pub goal: &'static Goal,
    /// Those under which at least one round was kept.
    pub conditions: Vec<(&'static str, Spread)>,
    pub verdict: Verdict,
}

impl Outcome {
    /// The spread with the worst median, which is the one that counts.
    pub fn counts(&self) -> Option<&Spread> {
        let spreads = self.conditions.iter().map(|(_, spread)| spread);
        let by_median = |a: &&Spread, b: &&Spread| a.median().total_cmp(&b.median());
        match self.goal.better {
            More => spreads.min_by(by_median),
            Less => spreads.max_by(by_median),
        }
    }

    /// By how much the median misses the bound of a pass, as a part of the bound.
    pub fn misses_by(&self) -> Option<f64> {
        let median = self.counts()?.median();
        let bound = self.goal.pass;
        (self.verdict == Verdict::Short).then(|| (median - bound).abs() / bound)
    }
}

/// The line that a run ends with: `row <#> <median> [min..max] <verdict>`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { goal, verdict, .. } = self;
        match self.counts() {
            Some(spread) => write!(f, "row {} {spread} {verdict}", goal.number),
            None => write!(f, "row {} - [-..-] {verdict}", goal.number),
        }
    }
}

/// All rows, in order, from the last run and the last soak as far as there are any.
pub fn outcomes(run: Option<&Records>, soak: Option<&Records>) -> Vec<Outcome> {
    let records = |goal: &Goal| if goal.rounds == Rounds::Soak { soak } else { run };
    GOALS.iter().map(|goal| goal.judge(records(goal))).collect()
}

/// What was kept of one round.
#[derive(Debug, Default)]
pub struct Round<'a>(Vec<&'a Measurement>);

/// The rounds of a run, in order, without what was dropped.
pub fn rounds(measurements: &[Measurement]) -> Vec<Round<'_>> {
    let mut rounds = BTreeMap::<u32, Round<'_>>::new();
    for measurement in measurements {
        let round = rounds.entry(measurement.round).or_default();
        if measurement.dropped.is_none() {
            round.0.push(measurement);
        }
    }
    rounds.into_values().collect()
}

impl<'a> Round<'a> {
    pub fn of(&self, mode: Mode, what: What) -> Option<&'a Measurement> {
        self.0.iter().copied().find(|kept| kept.mode == mode && kept.what == what)
    }

    fn saturated(&self, mode: Mode) -> Option<&'a Measurement> {
        self.of(mode, What::Saturated)
    }

    fn paced(&self, mode: Mode, rate: u32) -> Option<Percentiles> {
        self.of(mode, What::Paced { rate })?.finished_ms
    }

    fn faster_than(&self, other: Mode) -> Option<f64> {
        let rate = |mode| self.saturated(mode)?.sagas_per_second;
        ratio(rate(Product)?, rate(other)?)
    }

    fn floor_ms(&self) -> Option<f64> {
        let floor = self.of(Product, What::Floor)?.floor?;
        let parts = [
            (INPUTS_PER_SAGA, floor.commit_ms),
            (HOPS_PER_SAGA, floor.hop_ms),
            (CALLS_PER_SAGA, floor.call_ms),
        ];
        parts.iter().map(|(times, ms)| Some(times * positive(*ms)?)).sum()
    }

    fn soak(&self) -> Option<(u64, &'a crate::record::Soak)> {
        self.0.iter().find_map(|kept| match kept.what {
            What::Soak { finished } => Some((finished, kept.soak.as_ref()?)),
            _ => None,
        })
    }
}

/// What a saga costs, when it is known of each that pays.
pub fn cpu_ms(measurement: &Measurement) -> Option<f64> {
    let cost = |name: &&str| positive(*measurement.cpu_ms_per_saga.get(*name)?);
    PAID_BY_A_SAGA.iter().map(cost).sum()
}

fn tail(round: &Round<'_>, rate: u32) -> Option<f64> {
    let finished = round.paced(Product, rate)?;
    ratio(finished.p99, finished.p50)
}

#[expect(clippy::cast_precision_loss, reason = "a relation is far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_MIB
}

#[cfg(test)]
pub(crate) mod tests;
