//! Owns the file that a run leaves behind while it grows, and what a person sees of it meanwhile.
//! Refuses to judge a figure.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;

use crate::record::{Header, Measurement, What, Writer};

/// In the repository, so that figures and the program that they are of lie side by side.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results");

/// Written line by line: a run that is broken off leaves what it had.
pub struct Results {
    path: PathBuf,
    writer: Option<Writer>,
}

impl Results {
    pub fn at(path: PathBuf) -> Self {
        Self { path, writer: None }
    }

    /// Begins the file, unless that was done: the first server of a run says how durable it is.
    pub async fn begin(
        &mut self,
        header: impl Future<Output = anyhow::Result<Header>>,
    ) -> anyhow::Result<()> {
        if self.writer.is_none() {
            let header = header.await?;
            let folder = self.path.parent().context("a file of results lies in a folder")?;
            fs::create_dir_all(folder)?;
            self.writer = Some(Writer::create(&self.path, &header)?);
        }
        Ok(())
    }

    pub const fn is_begun(&self) -> bool {
        self.writer.is_some()
    }

    pub fn write(&mut self, measurement: &Measurement) -> anyhow::Result<()> {
        self.writer.as_mut().context("the first line is the header")?.write(measurement)
    }
}

/// One line for a person who waits.
pub fn say(measurement: &Measurement) {
    let Measurement { round, mode, what, .. } = measurement;
    let mut words = vec![format!("  {round} {:<16} {:<12}", mode.name(), name_of(*what))];
    let of = |sum: &crate::record::ByProcess| sum.values().sum::<f64>();
    words.extend(measurement.sagas_per_second.map(|rate| format!("{rate:>8.1} sagas/s")));
    if !measurement.cpu_ms_per_saga.is_empty() {
        words.push(format!("{:.3} ms CPU/saga", of(&measurement.cpu_ms_per_saga)));
    }
    words.extend(measurement.wal_bytes_per_saga.map(|bytes| format!("{bytes:.0} B WAL")));
    words.extend(measurement.commits_per_saga.map(|commits| format!("{commits:.3} commits")));
    words.extend(measurement.finished_ms.map(|ms| {
        format!("p50 {:.1} p95 {:.1} p99 {:.1} max {:.1} ms", ms.p50, ms.p95, ms.p99, ms.max)
    }));
    words.extend(measurement.accepted_ms.map(|ms| format!("(202: {:.1}, {:.1})", ms.p50, ms.p99)));
    words.extend(measurement.fsync_ms.map(|ms| format!("fsync {:.2}, {:.2} ms", ms.p50, ms.p99)));
    words.extend(measurement.raw.map(|raw| format!("{:.0} rows/s", raw.rows_per_second)));
    words.extend(measurement.floor.map(|floor| {
        let (commit, hop, call) = (floor.commit_ms, floor.hop_ms, floor.call_ms);
        format!("commit {commit:.2}, hop {hop:.2}, call {call:.2} ms")
    }));
    words.extend(measurement.backlog.map(|backlog| {
        let (intake, drain) = (backlog.intake_per_second, backlog.drain_per_second);
        format!("{intake:.0}/s in, {drain:.0}/s out, {:.1} s", backlog.drain_seconds)
    }));
    words.extend(measurement.outside_cpu.map(|outside| format!("outside {outside:.2}")));
    words.extend(measurement.dropped.as_ref().map(|reason| format!("DROPPED: {reason}")));
    println!("{}", words.join("  "));
}

fn name_of(what: What) -> String {
    match what {
        What::Saturated => "saturated".to_owned(),
        What::Paced { rate } => format!("{rate}/s"),
        What::Hot => "one SKU".to_owned(),
        What::Loaded { in_flight } => format!("{in_flight} at once"),
        What::Backlog => "backlog".to_owned(),
        What::Raw => "raw".to_owned(),
        What::Floor => "floor".to_owned(),
        What::Soak { finished } => format!("at {finished}"),
    }
}
