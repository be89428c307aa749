//! Owns an in-memory Kafka broker inside this process, which other processes may use. Refuses to
//! keep anything: all records are gone with it.

mod mock;
mod proxy;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;

use mock::Mock;
use proxy::Proxy;
use rdkafka_sys::rd_kafka_resp_err_t as Code;

/// What every topic has, in every tier.
pub const PARTITIONS: i32 = 4;

/// What the broker can be made to say instead of taking records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has lost count of what this producer sent, which is the end of an idempotent one.
    OutOfSequence,
    TooLarge,
    InvalidRecord,
    /// The producer may not write to this topic.
    NotAllowed,
    /// Too few copies would be kept at the moment.
    NotEnoughReplicas,
}

impl Refusal {
    const fn code(self) -> Code {
        match self {
            Self::OutOfSequence => Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            Self::TooLarge => Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            Self::InvalidRecord => Code::RD_KAFKA_RESP_ERR_INVALID_RECORD,
            Self::NotAllowed => Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            Self::NotEnoughReplicas => Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        }
    }
}

/// librdkafka's mock cluster with one broker.
///
/// It keeps 5 MiB a partition and then silently forgets the oldest, knows neither transactions nor
/// the admin API, and answers an empty fetch only after the client's whole `fetch.wait.max.ms`.
pub struct Broker {
    bootstrap: String,
    // Dropped in this order: nobody may be sent to a broker that is gone.
    _proxy: Option<Proxy>,
    mock: Mock,
}

impl Broker {
    /// Listens on the given port of loopback, or on any free one.
    pub fn start(port: Option<u16>, topics: &[&str]) -> anyhow::Result<Self> {
        let mock = Mock::start()?;
        for topic in topics {
            mock.create_topic(topic, PARTITIONS)?;
        }
        let own = mock.bootstrap();
        let Some(port) = port else {
            return Ok(Self { bootstrap: own, _proxy: None, mock });
        };
        // The mock cluster takes any free port, so a proxy stands at the one that is wanted, and
        // the broker tells its clients to come there.
        let to: SocketAddr = own.replace("localhost", "127.0.0.1").parse()?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let proxy = Proxy::start(at, to).with_context(|| format!("the broker's port {port}"))?;
        mock.advertise(at)?;
        Ok(Self { bootstrap: at.to_string(), _proxy: Some(proxy), mock })
    }

    /// Makes a topic that is missing.
    pub fn make(&self, topic: &str) -> anyhow::Result<()> {
        self.mock.create_topic(topic, PARTITIONS)
    }

    /// Tells clients to come to another address, where somebody passes them on to this one.
    pub fn advertise(&self, address: SocketAddr) -> anyhow::Result<()> {
        self.mock.advertise(address)
    }

    /// Refuses the records of the next so many requests. A client asks for several records of a
    /// partition at once.
    pub fn refuse(&self, requests: usize, refusal: Refusal) {
        self.mock.push_produce_errors(&vec![refusal.code(); requests]);
    }

    /// Takes records again, however many requests were to be refused.
    pub fn refuse_no_more(&self) {
        self.mock.clear_produce_errors();
    }

    /// Tells clients that they may not know about a topic.
    pub fn hide(&self, topic: &str) -> anyhow::Result<()> {
        self.mock.set_topic_error(topic, Refusal::NotAllowed.code())
    }

    pub fn show(&self, topic: &str) -> anyhow::Result<()> {
        self.mock.set_topic_error(topic, Code::RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    /// Cuts all connections and takes none, until it is told to come back.
    pub fn go_away(&self) -> anyhow::Result<()> {
        self.mock.set_up(false)
    }

    pub fn come_back(&self) -> anyhow::Result<()> {
        self.mock.set_up(true)
    }

    /// Answers every request only after so long.
    pub fn answer_after(&self, delay: Duration) -> anyhow::Result<()> {
        self.mock.set_delay(delay)
    }

    /// What a client's `bootstrap.servers` has to be.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}
