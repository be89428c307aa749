//! Owns an in-memory Kafka broker inside this process, which other processes may use. Refuses to
//! keep anything: all records are gone with it.

mod mock;
mod proxy;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;

use mock::Mock;
use proxy::Proxy;

/// What every topic has, in every tier.
pub const PARTITIONS: i32 = 4;

/// librdkafka's mock cluster with one broker.
///
/// It keeps 5 MiB a partition and then silently forgets the oldest, knows neither transactions nor
/// the admin API, and answers an empty fetch only after the client's whole `fetch.wait.max.ms`.
pub struct Broker {
    bootstrap: String,
    // Dropped in this order: nobody may be sent to a broker that is gone.
    _proxy: Option<Proxy>,
    _mock: Mock,
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
            return Ok(Self { bootstrap: own, _proxy: None, _mock: mock });
        };
        // The mock cluster takes any free port, so a proxy stands at the one that is wanted, and
        // the broker tells its clients to come there.
        let to: SocketAddr = own.replace("localhost", "127.0.0.1").parse()?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let proxy = Proxy::start(at, to).with_context(|| format!("the broker's port {port}"))?;
        mock.advertise(at)?;
        Ok(Self { bootstrap: at.to_string(), _proxy: Some(proxy), _mock: mock })
    }

    /// What a client's `bootstrap.servers` has to be.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }
}
