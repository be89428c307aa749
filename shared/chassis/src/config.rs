//! Owns what a service is told when it starts. Refuses to read anything else.

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum, value_parser};

use crate::kept::Kept;

/// The most inputs in one transaction: more brings little, and makes a poisonous one dearer.
const BATCH_INPUTS_MAX: i64 = 500;
/// A lane takes no more than this; what comes next waits at the broker, or is told to come later.
pub(crate) const LANE_QUEUE_MAX: usize = 4_000;

/// Settings of every service, from arguments or the environment.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// Logs in with the service's own role.
    #[clap(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Logs in as the schema's owner; without it the schema's version is only checked.
    #[clap(long, env = "MIGRATE_URL", hide_env_values = true)]
    pub migrate_url: Option<String>,
    #[clap(long, env = "KAFKA_BROKERS")]
    pub kafka_brokers: String,
    #[clap(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Tells instances of a service apart.
    #[clap(long, env = "INSTANCE", default_value = "1")]
    pub instance: String,
    /// 100 to 500 on a broker that wakes a waiting fetch, 20 on one that sleeps it out.
    #[clap(long, env = "FETCH_WAIT_MS", default_value_t = 100)]
    pub fetch_wait_ms: u32,
    /// A process that dies and is not back within so long loses its partitions to its peers.
    #[clap(long, env = "SESSION_TIMEOUT_MS", default_value_t = 6_000)]
    pub session_timeout_ms: u32,
    /// An instance that is back within the session has its partitions again at once, and its peers
    /// notice nothing; one that is taken away keeps them until the session ends, also when it ends in
    /// an orderly way. Two processes with one INSTANCE throw each other out. Real Kafka only.
    #[clap(long, env = "STATIC_MEMBERSHIP", value_parser = FalseyValueParser::new())]
    pub static_membership: bool,
    /// A process whose reading hangs for so long loses its partitions to its peers.
    #[clap(long, env = "MAX_POLL_INTERVAL_MS", default_value_t = 30_000)]
    pub max_poll_interval_ms: u32,
    /// So many records wait for the broker in memory; further ones wait in the outbox.
    #[clap(long, env = "PRODUCER_QUEUE_MAX", default_value_t = 20_000)]
    pub producer_queue_max: u32,
    /// Lanes that run in parallel. One commits the largest batches, and keeps a core busy.
    #[clap(long, env = "LANES", default_value = "1")]
    pub lanes: NonZeroUsize,
    /// Inputs that share a transaction when they are there together; nothing waits for company.
    #[clap(
        long,
        env = "BATCH_MAX",
        default_value_t = 500,
        value_parser = value_parser!(u16).range(1..=BATCH_INPUTS_MAX)
    )]
    pub batch_max: u16,
    /// Who hands events to the broker.
    #[clap(long, env = "DISPATCH", value_enum, default_value_t = Dispatch::Direct)]
    pub dispatch: Dispatch,
    /// End with the process that started this one.
    #[clap(long, env = "PARENT_DEATH_SIGNAL", value_parser = FalseyValueParser::new())]
    pub parent_death_signal: bool,
    #[clap(flatten)]
    pub kept: Kept,
}

/// Who hands events to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dispatch {
    /// The lane that committed them; the dispatcher sends what is left behind.
    Direct,
    /// The dispatcher alone.
    Outbox,
}
