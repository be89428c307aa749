//! Owns the record: the JSON lines that a run leaves behind, one header and then a line for each
//! measurement, and how they are written and read. Refuses to measure, and to judge: a field that
//! it does not know is an error, so a figure is never dropped in silence.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Milliseconds, megabytes or a count by the name of a process: `order`, `inventory`, `payment`,
/// `shipping`, `postgres` (with its children), `kafka`, `providers`, `load`, `switchback`.
pub type ByProcess = BTreeMap<String, f64>;

/// One line of a file of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
enum Line {
    Header(Box<Header>),
    Measurement(Box<Measurement>),
}

/// What the figures of a file were taken on and with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// When the run began, in UTC, as RFC 3339 writes it.
    pub date: String,
    /// The processor as it names itself.
    pub machine: String,
    pub cores: u32,
    pub memory_mb: u64,
    pub kernel: String,
    pub broker: Broker,
    pub versions: Versions,
    /// The commit that was built, with `+` behind it when the tree had changes.
    pub commit: String,
    pub durability: Durability,
    /// Whether this was the short form, which asks for two rounds where the long one asks for five.
    pub quick: bool,
    pub skus: u32,
    /// The share of orders that the carrier refuses, so that they travel all the way back.
    pub failing_percent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Broker {
    Kafka,
    Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    pub switchback: String,
    pub rustc: String,
    pub postgres: String,
    /// Absent when the broker was the one in memory.
    pub kafka: Option<String>,
}

/// What the server answered when it was asked, not what it was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durability {
    pub fsync: String,
    pub synchronous_commit: String,
}

/// Who did the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    #[serde(rename = "textbook")]
    Textbook,
    #[serde(rename = "tuned")]
    Tuned,
    #[serde(rename = "product-batch-1")]
    ProductBatch1,
    #[serde(rename = "product")]
    Product,
}

impl Mode {
    /// All modes, the weakest first.
    pub const ALL: [Self; 4] = [Self::Textbook, Self::Tuned, Self::ProductBatch1, Self::Product];

    /// The mode as a person reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Textbook => "textbook",
            Self::Tuned => "tuned",
            Self::ProductBatch1 => "product, batch 1",
            Self::Product => "product",
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// As many sagas as go through, over many SKUs.
    Saturated,
    /// An open loop of so many orders per second.
    Paced { rate: u32 },
    /// Saturated, and every order wants the same SKU.
    Hot,
    /// Saturated with so many sagas in flight: cost against concurrency.
    Loaded { in_flight: u32 },
    /// The broker and then payment stand still, and what piled up is worked off.
    Backlog,
    /// State, inbox and outbox rows in batches of 500 on four connections, without a service.
    Raw,
    /// What a saga alone cannot avoid: lone commits, hops and calls.
    Floor,
    /// Saturated, taken when so many sagas had finished since the stack began.
    Soak { finished: u64 },
}

/// One measurement. What does not apply to it is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// Counted from 1. What is measured again after it was dropped stays in its round.
    pub round: u32,
    pub mode: Mode,
    pub what: What,
    /// Why this measurement counts for nothing; its figures stay, to be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,

    /// The sagas that finished in the window, good and bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sagas: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<u64>,
    /// The most sagas that were placed and not yet finished; absent in an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// From the first 202 to the last saga that finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sagas_per_second: Option<f64>,

    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_ms_per_saga: ByProcess,
    /// Without full-page images: a checkpoint right before a run brings those to the first touch
    /// of each page, so their share tells the length of the run and not the cost of a saga.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_bytes_per_saga: Option<f64>,
    /// The full-page images that `wal_bytes_per_saga` leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal_fpi_bytes_per_saga: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commits_per_saga: Option<f64>,
    /// Inputs per commit, by service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mean_batch: ByProcess,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peak_pss_mb: ByProcess,

    /// From the request sent to its 202.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<Percentiles>,
    /// From the request sent to the first look that found the order at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<Percentiles>,
    /// How many orders `finished_ms` was taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watched: Option<u64>,

    /// 8 kB written and `fdatasync`ed, right before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fsync_ms: Option<Fsync>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_average: Option<f64>,
    /// The share of the machine's CPU that went to anything outside of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside_cpu: Option<f64>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Raw>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soak: Option<Soak>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fsync {
    pub p50: f64,
    pub p99: f64,
}

/// The bound: state, inbox and outbox rows that this Postgres takes, one of each counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub rows_per_second: f64,
}

/// Medians of a lone commit, of one record from produce to consume, and of one provider's call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floor {
    pub commit_ms: f64,
    pub hop_ms: f64,
    pub call_ms: f64,
}

/// What piled up while something stood still, and how it was worked off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backlog {
    /// Orders placed per second all the while.
    pub intake_per_second: f64,
    /// Sagas finished per second from the moment that nothing stood still until nothing waited.
    pub drain_per_second: f64,
    pub drain_seconds: f64,
    /// The sagas that waited when the drain began.
    pub waiting: u64,
}

/// What only a long run shows, taken at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Soak {
    /// The largest of the services' outbox relations, with its indexes.
    pub outbox_bytes: u64,
    /// Dead rows in the four outboxes.
    pub dead_rows: u64,
    /// The dispatcher's query behind 1,000 and behind 200,000 dead rows that cannot be removed.
    pub head_ms_1k: f64,
    pub head_ms_200k: f64,
    /// Of every tenth such question behind 200,000, which begins at the first row.
    pub sweep_ms_200k: f64,
    /// Behind 200,000 that were written within the last half minute, which none may pass over yet.
    pub head_lately_ms_200k: f64,
    /// The mean over the first and the last quarter of the run.
    pub pss_mb_first_quarter: ByProcess,
    pub pss_mb_last_quarter: ByProcess,
}

impl Measurement {
    /// A measurement with nothing in it yet.
    pub const fn new(round: u32, mode: Mode, what: What) -> Self {
        Self {
            round,
            mode,
            what,
            dropped: None,
            sagas: None,
            cancelled: None,
            in_flight: None,
            seconds: None,
            sagas_per_second: None,
            cpu_ms_per_saga: BTreeMap::new(),
            wal_bytes_per_saga: None,
            wal_fpi_bytes_per_saga: None,
            commits_per_saga: None,
            mean_batch: BTreeMap::new(),
            peak_pss_mb: BTreeMap::new(),
            accepted_ms: None,
            finished_ms: None,
            watched: None,
            fsync_ms: None,
            load_average: None,
            outside_cpu: None,
            raw: None,
            floor: None,
            backlog: None,
            soak: None,
        }
    }
}

/// The contents of one file of results.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    pub header: Header,
    pub measurements: Vec<Measurement>,
}

impl Records {
    /// What was measured so, round by round, without what was dropped.
    pub fn kept(&self, mode: Mode, what: What) -> impl Iterator<Item = &Measurement> {
        let wanted = move |one: &&Measurement| one.mode == mode && one.what == what;
        self.measurements.iter().filter(wanted).filter(|one| one.dropped.is_none())
    }

    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut header = None;
        let mut measurements = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let number = at + 1;
            let line = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
            match (line, header.is_some()) {
                (Line::Header(first), false) => header = Some(*first),
                (Line::Header(_), true) => bail!("line {number} is a second header"),
                (Line::Measurement(_), false) => bail!("line {number} stands before the header"),
                (Line::Measurement(measurement), true) => measurements.push(*measurement),
            }
        }
        let header = header.context("there is no header")?;
        Ok(Self { header, measurements })
    }
}

/// Writes a file of results line by line, so that a run that is broken off leaves what it had.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Begins the file anew.
    pub fn create(path: &Path, header: &Header) -> anyhow::Result<Self> {
        let file =
            File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut writer = Self(file);
        writer.line(&Line::Header(Box::new(header.clone())))?;
        Ok(writer)
    }

    pub fn write(&mut self, measurement: &Measurement) -> anyhow::Result<()> {
        self.line(&Line::Measurement(Box::new(measurement.clone())))
    }

    fn line(&mut self, line: &Line) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        Ok(self.0.write_all(text.as_bytes())?)
    }
}

#[cfg(test)]
pub(crate) mod tests;
