//! Starts the simulated third parties. Refuses to run without a folder for their ledger.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use clap::builder::FalseyValueParser;
use providers::Ledger;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A payment provider and a carrier, simulated, with faults on demand.
#[derive(Debug, Parser)]
#[command(version)]
struct Config {
    /// Where to listen.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8085")]
    listen: SocketAddr,
    /// The folder of the ledger; made if it is not there.
    #[arg(long, env = "DATA_DIR")]
    data_dir: PathBuf,
    /// End with the process that started this one.
    #[arg(long, env = "PARENT_DEATH_SIGNAL", value_parser = FalseyValueParser::new())]
    parent_death_signal: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    if config.parent_death_signal {
        set_parent_process_death_signal(Some(Signal::KILL)).context("the parent-death signal")?;
    }
    let level = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(level).with_writer(std::io::stderr).init();

    let (ledger, writer) = Ledger::open(&config.data_dir)
        .with_context(|| format!("the ledger in {}", config.data_dir.display()))?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listening on {}", config.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        never = providers::serve(listener, providers::router(&ledger)) => match never {},
        ended = writer => ended?.context("the ledger cannot be written"),
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}
