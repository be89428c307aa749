//! Owns `switchback topics`: every service's topic on a broker of one's own. Refuses to change a
//! topic that is there: it says what differs.

use std::time::Duration;

use bus::topics::{Found, Shape, ensure};
use clap::{Args, Subcommand};
use tokio::time::timeout;

use crate::processes::SERVICES;

const RETENTION_HOURS: u64 = 7 * 24;
/// What a topic is like when nobody says otherwise.
pub(crate) const SHAPE: Shape =
    Shape { partitions: 4, replication: 1, retention: Duration::from_hours(RETENTION_HOURS) };

/// Settings of `switchback topics`.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Make the topics that are missing, and say what those are like that are there.
    Ensure(Wanted),
}

#[derive(Debug, Clone, Args)]
struct Wanted {
    /// Where Kafka is.
    #[arg(long, env = "KAFKA_BROKERS", value_name = "ADDRESS,…")]
    brokers: String,
    /// How many instances of a service can share its work, at the most.
    #[arg(long, default_value_t = SHAPE.partitions, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    partitions: i32,
    /// Brokers that keep a copy. From three on, a record counts as taken when two have it.
    #[arg(long, default_value_t = SHAPE.replication, value_parser = clap::value_parser!(i32).range(1..=9))]
    replication: i32,
    /// How long Kafka keeps a record. Services that are told another `TOPIC_RETENTION_HOURS` forget
    /// too early what can still come again.
    #[arg(long, default_value_t = RETENTION_HOURS, value_parser = clap::value_parser!(u64).range(1..=87_600))]
    retention_hours: u64,
    /// How long a broker that is starting is waited for.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=30))]
    wait_seconds: u64,
}

/// A broker that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("no broker answers at {0}")]
pub struct NobodyThere(String);

/// `switchback topics …`.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Command::Ensure(wanted) = options.command;
    let topics = SERVICES.map(bus::topic);
    let names = topics.each_ref().map(String::as_str);
    let shape = Shape {
        partitions: wanted.partitions,
        replication: wanted.replication,
        retention: Duration::from_hours(wanted.retention_hours),
    };
    let patience = Duration::from_secs(wanted.wait_seconds);
    let ensured = timeout(patience, ensure(&wanted.brokers, &names, &shape)).await;
    for (name, found) in ensured.map_err(|_elapsed| NobodyThere(wanted.brokers))?? {
        println!("{name:<20} {}", describe(&found));
    }
    Ok(())
}

fn describe(found: &Found) -> String {
    match found {
        Found::Made => "made".to_owned(),
        Found::AsWanted => "there, as wanted".to_owned(),
        Found::Otherwise(differences) => {
            let all: Vec<String> = differences.iter().map(ToString::to_string).collect();
            format!("left as it is: {}", all.join(", "))
        }
    }
}
