//! Owns the broker of a stack: the in-memory one inside this program, or Apache Kafka beside it.
//! Refuses to know what is said over it.

use std::net::SocketAddr;
use std::path::Path;

use clap::ValueEnum;
use rustix::process::Signal;
use testkit::kafka::{Home, Options as KafkaOptions};
use tokio_util::sync::CancellationToken;

use super::Options;
use crate::processes::SERVICES;
use crate::supervisor::{Program, Supervised};
use crate::topics::SHAPE;

pub const BROKER_PORT: u16 = 12;
const CONTROLLER_PORT: u16 = 13;

/// Which broker a stack has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Inside the launcher: there at once, and gone with it.
    Memory,
    /// Apache Kafka, which `make kafka` brings.
    Kafka,
}

impl Kind {
    /// Of the stack's ports.
    pub(super) fn ports(self) -> &'static [u16] {
        match self {
            Self::Memory => &[BROKER_PORT],
            Self::Kafka => &[BROKER_PORT, CONTROLLER_PORT],
        }
    }
}

pub(super) enum Broker {
    Memory(testkit::Broker),
    Kafka {
        process: Supervised,
        // Dropped last: the server must have ended.
        home: Home,
    },
}

impl Broker {
    /// Kafka comes up while the caller goes on.
    pub(super) fn begin(
        options: &Options,
        log_dir: &Path,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let port = options.port_base + BROKER_PORT;
        match options.broker {
            Kind::Memory => memory(port, options.broker_advertised).map(Self::Memory),
            Kind::Kafka => {
                let home = Home::make(KafkaOptions {
                    port: Some(port),
                    advertised: options.broker_advertised,
                    long_lived: options.durable,
                })?;
                let log = log_dir.join("kafka.log");
                let server = Program::of("kafka", &home.server(), log, Signal::TERM);
                let process = Supervised::start(server, stop.clone())?;
                Ok(Self::Kafka { process, home })
            }
        }
    }

    /// Returns when it answers and has every topic.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        if let Self::Kafka { process, home } = self {
            process.ready(async || home.is_served()).await?;
            let topics = SERVICES.map(bus::topic);
            let names = topics.each_ref().map(String::as_str);
            bus::topics::ensure(home.bootstrap(), &names, &SHAPE).await?;
        }
        Ok(())
    }

    /// What a client's `bootstrap.servers` has to be.
    pub(super) fn bootstrap(&self) -> &str {
        match self {
            Self::Memory(broker) => broker.bootstrap(),
            Self::Kafka { home, .. } => home.bootstrap(),
        }
    }

    /// What a service has to be told, so that it is quick with this one.
    pub(super) fn settings(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            // It sleeps out an empty fetch, and holds a group's change of members back until a dead
            // one's session is over.
            Self::Memory(_) => &[("FETCH_WAIT_MS", "25"), ("SESSION_TIMEOUT_MS", "3000")],
            // It answers a waiting fetch when there is something, and takes a member that comes back
            // for the one that it was.
            Self::Kafka { .. } => &[
                ("FETCH_WAIT_MS", "500"),
                ("SESSION_TIMEOUT_MS", "6000"),
                ("STATIC_MEMBERSHIP", "true"),
            ],
        }
    }

    /// The process, if it is one of its own.
    pub(super) fn process(&self) -> Option<&Supervised> {
        match self {
            Self::Memory(_) => None,
            Self::Kafka { process, .. } => Some(process),
        }
    }

    /// Returns when it is gone; its token must have been cancelled before.
    pub(super) async fn ended(self) {
        if let Self::Kafka { process, home } = self {
            process.ended().await;
            drop(home);
        }
    }
}

fn memory(port: u16, advertised: Option<SocketAddr>) -> anyhow::Result<testkit::Broker> {
    let topics = SERVICES.map(bus::topic);
    let broker = testkit::Broker::start(Some(port), &topics.each_ref().map(String::as_str))?;
    if let Some(address) = advertised {
        broker.advertise(address)?;
    }
    Ok(broker)
}
