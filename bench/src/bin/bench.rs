//! Reads the command line of the bench and says how it went: 0 measured, whatever was measured; 1
//! not. Refuses to measure anything itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, ensure};
use bench::record::{Broker, Mode, Records};
use bench::report::Report;
use bench::results::{FOLDER, Results};
use bench::round::{self, Plan};
use bench::stage::{Ground, link_programs};
use bench::{goals, soak, steady, sweep};
use clap::{Args, Parser, Subcommand};
use testkit::parts;
use tokio::signal::unix::{SignalKind, signal};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const RUN: &str = "run.jsonl";
const SOAK: &str = "soak.jsonl";
/// A window in which a larger share of the machine went to others counts for nothing.
const OUTSIDE_CPU_MAX: f64 = 0.15;

/// How fast Switchback is on this machine, against what, and how close to the limit.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure all modes against each other, in rounds.
    Run {
        /// In ten minutes instead of forty.
        #[arg(long)]
        quick: bool,
        /// So many rounds, five or two unless told.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// Let a stack work for long, and see whether anything grows.
    Soak {
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
        orders: u64,
        #[command(flatten)]
        place: Place,
    },
    /// See how many sagas in flight suit a mode.
    Sweep {
        /// textbook, tuned, product-batch-1 or product.
        #[arg(value_parser = mode)]
        mode: Mode,
        /// One window for each.
        #[arg(long, value_delimiter = ',', required = true)]
        in_flight: Vec<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// Make the page and its pictures of what was measured.
    Report,
    /// Hold the figures to their bounds that hardly depend on the machine.
    Steady {
        #[command(flatten)]
        place: Place,
    },
}

/// Where and on what.
#[derive(Debug, Args)]
struct Place {
    /// Apache Kafka if its jars are here, unless told.
    #[arg(long, env = "BROKER", value_parser = broker)]
    broker: Option<Broker>,
    /// Where the ports of each stack begin.
    #[arg(long, default_value_t = 18_080)]
    port_base: u16,
    /// The folder for what was measured.
    #[arg(long, default_value = FOLDER)]
    results: PathBuf,
}

fn broker(name: &str) -> Result<Broker, String> {
    match name {
        "kafka" => Ok(Broker::Kafka),
        "memory" | "mock" => Ok(Broker::Memory),
        _ => Err("it is kafka or memory".to_owned()),
    }
}

fn mode(name: &str) -> Result<Mode, String> {
    let known = Mode::ALL.map(Mode::folder);
    let found = Mode::ALL.into_iter().find(|mode| mode.folder() == name);
    found.ok_or_else(|| format!("it is one of {}", known.join(", ")))
}

impl Place {
    fn ground(&self) -> anyhow::Result<Ground> {
        link_programs()?;
        let has_kafka = parts::kafka_libs().and_then(|_| parts::java()).is_ok();
        let broker = self.broker.unwrap_or(if has_kafka { Broker::Kafka } else { Broker::Memory });
        Ok(Ground { broker, port_base: self.port_base, outside_cpu_max: OUTSIDE_CPU_MAX })
    }

    fn results(&self, name: &str) -> Results {
        Results::at(self.results.join(name))
    }
}

/// On one thread: all processes end with the thread that started them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    match or_stopped(Box::pin(run(command))).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { quick, rounds, place } => {
            is_release()?;
            let plan = if quick { Plan::quick() } else { Plan::full() };
            let plan = Plan { rounds: rounds.unwrap_or(plan.rounds), ..plan };
            let run = round::run(plan, place.ground()?, &mut place.results(RUN)).await;
            rows(&place)?;
            run
        }
        Command::Soak { orders, place } => {
            is_release()?;
            soak::run(orders, place.ground()?, &mut place.results(SOAK)).await?;
            rows(&place)
        }
        Command::Sweep { mode, in_flight, place } => {
            is_release()?;
            sweep::run(mode, &in_flight, place.ground()?).await
        }
        Command::Report => Report::of(Path::new(ROOT))?.write(),
        Command::Steady { place } => steady::run(place.ground()?).await,
    }
}

/// One line for each goal, of the last run and the last soak.
fn rows(place: &Place) -> anyhow::Result<()> {
    let read = |name: &str| {
        let path = place.results.join(name);
        path.exists().then(|| Records::read(&path)).transpose()
    };
    let (run, soak) = (read(RUN)?, read(SOAK)?);
    for outcome in goals::outcomes(run.as_ref(), soak.as_ref()) {
        println!("{outcome}");
    }
    Ok(())
}

fn is_release() -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "measure a release build: type `make bench`");
    Ok(())
}

/// Drops the work when somebody asks this program to end, and with it every process.
async fn or_stopped(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => bail!("stopped"),
        _ = terminate.recv() => bail!("stopped"),
        _ = hangup.recv() => bail!("stopped"),
    }
}
