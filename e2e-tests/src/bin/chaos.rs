//! Runs chaos on a stack of its own and writes down what came of it. Refuses to end well unless the
//! run was green: 1 is a violation, 2 a run that shows too little.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Parser;
use e2e_tests::chaos::bugs::Bug;
use e2e_tests::chaos::report::{Report, Verdict};
use e2e_tests::chaos::schedule::Schedule;
use e2e_tests::chaos::{self, Settings};
use e2e_tests::stack::{KAFKA, Options, Stack, with_stack};

/// The in-memory broker asserts what a member of a group that comes back on another line can make
/// untrue (`mock_cgrp_classic_member_sync_set`), and ends the launcher with it.
const ABORTED_BROKER: &str = "_mock_cgrp.c";
const RUNS_MAX: u32 = 3;

/// Breaks a stack in every way on a schedule while orders run, and checks it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long things break, in rounds of a minute; healing and checking come on top.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// The same seed is the same schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this schedule again instead of drawing one.
    #[arg(long, conflicts_with_all = ["seconds", "seed"])]
    schedule: Option<PathBuf>,
    /// Orders placed in a second.
    #[arg(long, default_value_t = 10)]
    rate: u32,
    /// A bug that the services shall have; they must be built with the feature `chaos`.
    #[arg(long)]
    bug: Option<String>,
    /// Where to write the schedule, the report and the logs; below `target/chaos` unless told.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What was built, for the report.
    #[arg(long, default_value = "unknown")]
    commit: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(Verdict::Green) => ExitCode::SUCCESS,
        Ok(Verdict::Red) => ExitCode::from(1),
        Ok(Verdict::Void) => ExitCode::from(2),
        Err(error) => {
            eprintln!("chaos: VOID: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Verdict> {
    let schedule = match &arguments.schedule {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Schedule::from_lines(&text).with_context(|| file.display().to_string())?
        }
        None => Schedule::draw(arguments.seed, arguments.seconds)?,
    };
    if !Stack::is_on_kafka() {
        schedule.head.ensure_remembered(arguments.rate)?;
    }
    if let Some(bug) = &arguments.bug {
        ensure!(Bug::named(bug).is_some(), "{bug} is no bug that is known here");
    }
    let out = arguments.out.clone().unwrap_or_else(|| folder(&schedule, &arguments));
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    fs::write(out.join("schedule.jsonl"), schedule.to_lines()?)?;
    let settings = Settings {
        orders_per_second: arguments.rate,
        commit: arguments.commit,
        bug: arguments.bug.clone(),
    };
    let bug = arguments.bug.map(|bug| ("CHAOS_BUG", bug));
    let options = Options {
        environment: bug.into_iter().collect(),
        instances: 2,
        links: true,
        ..Options::default()
    };
    for left in (0..RUNS_MAX).rev() {
        let mut verdict = Verdict::Void;
        let run = with_stack(&options, async |stack| {
            let run = chaos::run(stack, &schedule, &settings).await;
            keep_logs(stack, &out)?;
            let report = run?;
            write(&report, &out)?;
            verdict = report.verdict();
            Ok(())
        });
        match run.await {
            Ok(()) => return Ok(verdict),
            Err(error) if left > 0 && format!("{error:#}").contains(ABORTED_BROKER) => {
                println!("the in-memory broker has aborted, and all is forgotten: once more");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Verdict::Void)
}

/// A schedule that is run again leaves alone what its first run wrote.
fn folder(schedule: &Schedule, arguments: &Arguments) -> PathBuf {
    let bug = arguments.bug.as_ref().map(|bug| format!("-{bug}")).unwrap_or_default();
    let broker = if Stack::is_on_kafka() { "-kafka" } else { "" };
    let again = if arguments.schedule.is_some() { "-again" } else { "" };
    let (seed, seconds) = (schedule.head.seed, schedule.head.seconds);
    PathBuf::from(format!("target/chaos/{seed}-{seconds}s{broker}{bug}{again}"))
}

fn keep_logs(stack: &Stack, out: &Path) -> anyhow::Result<()> {
    fs::write(out.join("launcher.log"), stack.said())?;
    let services = stack.processes().iter().map(String::as_str);
    let kafka = Stack::is_on_kafka().then_some(KAFKA);
    for process in services.chain(["providers", "postgres"]).chain(kafka) {
        fs::write(out.join(format!("{process}.log")), stack.log(process))?;
    }
    Ok(())
}

fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    fs::write(out.join("report.json"), serde_json::to_string_pretty(report)?)?;
    println!("report: {}\n\n{}", out.join("report.json").display(), report.table());
    Ok(())
}
