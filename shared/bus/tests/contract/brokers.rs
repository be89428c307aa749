//! Owns the brokers that the suite is run over, and what is known of each. Refuses to let a test ask
//! which one it has: what a broker cannot do is an expected value, and nothing is left out.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bus::Config;
use bus::topics::{self, Shape};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use testkit::broker::PARTITIONS;
use testkit::{Kafka, Refusal, kafka};

use crate::TOPIC;

/// What a broker is like.
#[derive(Debug, Clone, Copy)]
pub struct Nature {
    pub fetch_wait_ms: u32,
    /// The shortest that it allows.
    pub session_timeout: Duration,
    pub habits: &'static [Habit],
    /// What it can be brought to say to a record of ours.
    pub refusals: &'static [Refusal],
}

impl Nature {
    pub fn has(&self, habit: Habit) -> bool {
        self.habits.contains(&habit)
    }
}

/// What one broker does and another does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Gives a member that is back its partitions, and throws out another of its name.
    KnowsStaticMembers,
    /// Takes what one producer sends in its order alone, whatever of it was refused in between.
    HoldsTheSequence,
    /// Takes the offsets of members that are about to lose their partitions.
    TakesLastOffsets,
    HidesWhatWasAborted,
    MakesTopicsUnasked,
    HasAnAdminApi,
    /// Can be told to pack what it is sent in another way.
    PacksAnew,
    /// Can be told to keep a topic from a client.
    KeepsSecrets,
}

const MEMORY: Nature = Nature {
    fetch_wait_ms: 10,
    session_timeout: Duration::from_secs(2),
    habits: &[Habit::MakesTopicsUnasked, Habit::KeepsSecrets],
    refusals: &[
        Refusal::TooLarge,
        Refusal::InvalidRecord,
        Refusal::NotAllowed,
        Refusal::NotEnoughReplicas,
    ],
};

const KAFKA: Nature = Nature {
    fetch_wait_ms: 500,
    session_timeout: Duration::from_secs(6),
    habits: &[
        Habit::KnowsStaticMembers,
        Habit::HoldsTheSequence,
        Habit::TakesLastOffsets,
        Habit::HidesWhatWasAborted,
        Habit::HasAnAdminApi,
        Habit::PacksAnew,
    ],
    // Every record of ours has a key, and a node without rights refuses nobody.
    refusals: &[Refusal::TooLarge, Refusal::NotEnoughReplicas],
};

pub const SHAPE: Shape =
    Shape { partitions: PARTITIONS, replication: 1, retention: Duration::from_hours(168) };

/// How a broker goes away.
#[derive(Debug, Clone, Copy)]
pub enum End {
    Orderly,
    Killed,
}

pub enum Broker {
    Memory(testkit::Broker),
    Kafka(Kafka),
}

impl Broker {
    /// The broker that `BROKER` names, with the topic of the tests.
    pub async fn start() -> anyhow::Result<(Self, Config)> {
        let (broker, config) = Self::bare()?;
        broker.make(TOPIC).await?;
        Ok((broker, config))
    }

    /// The same without any topic.
    pub fn bare() -> anyhow::Result<(Self, Config)> {
        let broker = match std::env::var("BROKER").as_deref().unwrap_or("memory") {
            "memory" => Self::Memory(testkit::Broker::start(None, &[])?),
            "kafka" => Self::Kafka(Kafka::start(kafka::Options::default())?),
            other => bail!("BROKER is {other}, and not memory or kafka"),
        };
        let session_timeout_ms = broker.nature().session_timeout.as_millis().try_into()?;
        let config = Config {
            brokers: broker.bootstrap().to_owned(),
            client_id: "test-1".to_owned(),
            static_membership: false,
            fetch_wait_ms: broker.nature().fetch_wait_ms,
            session_timeout_ms,
            max_poll_interval_ms: 30_000,
            producer_queue_max: 20_000,
        };
        Ok((broker, config))
    }

    pub fn nature(&self) -> Nature {
        match self {
            Self::Memory(_) => MEMORY,
            Self::Kafka(_) => KAFKA,
        }
    }

    pub fn bootstrap(&self) -> &str {
        match self {
            Self::Memory(memory) => memory.bootstrap(),
            Self::Kafka(kafka) => kafka.bootstrap(),
        }
    }

    pub async fn make(&self, topic: &str) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.make(topic),
            Self::Kafka(kafka) => {
                topics::ensure(kafka.bootstrap(), &[topic], &SHAPE).await?;
                Ok(())
            }
        }
    }

    /// Is gone, with all connections.
    pub async fn go_away(&mut self, end: End) -> anyhow::Result<()> {
        match (self, end) {
            (Self::Memory(memory), _) => memory.go_away(),
            (Self::Kafka(kafka), End::Orderly) => kafka.terminate().await,
            (Self::Kafka(kafka), End::Killed) => kafka.kill(),
        }
    }

    /// Is there again, with all records.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.come_back(),
            Self::Kafka(kafka) => kafka.restart().await,
        }
    }

    /// No longer knows the last records that its producers sent: as after a power cut, which an
    /// acknowledged record need not survive.
    pub async fn lose_count(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.refuse(1, Refusal::OutOfSequence),
            Self::Kafka(kafka) => {
                kafka.kill()?;
                for partition in 0..PARTITIONS {
                    forget_the_last_batch(
                        &kafka.folder().join(format!("data/{TOPIC}-{partition}")),
                    )?;
                }
                kafka.restart().await?;
            }
        }
        Ok(())
    }

    /// Refuses records from now on, in so far as it can: the in-memory one so many requests, and
    /// Kafka all until [`Broker::allow`].
    pub async fn refuse(&self, requests: usize, refusal: Refusal) -> anyhow::Result<()> {
        match (self, refusal) {
            (Self::Memory(memory), _) => memory.refuse(requests, refusal),
            (Self::Kafka(_), Refusal::TooLarge) => self.set("max.message.bytes", "50").await?,
            (Self::Kafka(_), Refusal::NotEnoughReplicas) => {
                self.set("min.insync.replicas", "2").await?;
            }
            (Self::Kafka(_), _) => {}
        }
        Ok(())
    }

    pub async fn allow(&self) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.refuse_no_more(),
            Self::Kafka(_) => self.set("min.insync.replicas", "1").await?,
        }
        Ok(())
    }

    /// Keeps the topic from clients, where it can.
    pub fn hide(&self) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.hide(TOPIC),
            Self::Kafka(_) => Ok(()),
        }
    }

    pub fn show(&self) -> anyhow::Result<()> {
        match self {
            Self::Memory(memory) => memory.show(TOPIC),
            Self::Kafka(_) => Ok(()),
        }
    }

    /// Changes one setting of the topic, and takes back all that were changed before.
    pub async fn set(&self, setting: &str, value: &str) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.bootstrap()).create()?;
        let config = AlterConfig::new(ResourceSpecifier::Topic(TOPIC)).set(setting, value);
        let answers = admin.alter_configs([&config], &AdminOptions::new()).await?;
        let answer = answers.into_iter().next().context("an answer for the topic")?;
        answer.map_err(|(_, code)| anyhow::anyhow!("{setting}={value} is refused: {code}"))?;
        Ok(())
    }
}

/// A batch begins with its first offset in eight bytes, and its length behind that in four.
fn forget_the_last_batch(partition: &Path) -> anyhow::Result<()> {
    const HEAD_BYTES: usize = 12;
    let path = partition.join("00000000000000000000.log");
    let (log, mut last, mut at) = (fs::read(&path)?, 0, 0);
    while let Some(length) = log.get(at + 8..at + HEAD_BYTES) {
        last = at;
        at += HEAD_BYTES + usize::try_from(u32::from_be_bytes(length.try_into()?))?;
    }
    File::options().write(true).open(&path)?.set_len(last.try_into()?)?;
    Ok(())
}
