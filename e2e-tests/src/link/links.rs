//! Owns the links of one stack: whom each of them lies between, and how the stack is told to use
//! them. Refuses to start the stack.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use super::{Link, Weather};

const PROVIDERS_PORT: u16 = 5;
const BROKER_PORT: u16 = 12;
const POSTGRES_PORT: u16 = 32;
/// Who asks outside, and below which path his provider answers.
const PROVIDERS: [(&str, &str); 2] = [("payment", "payment"), ("shipping", "carrier")];

/// Where a process's link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum To {
    Postgres,
    Provider,
}

/// One link from each process to Postgres and to its provider, and one that all share to the
/// broker: it tells its clients one address.
#[derive(Debug)]
pub struct Links {
    own: Vec<(String, To, Link)>,
    broker: Link,
    /// Apart from the caller's, so that a link goes on when he does not.
    runtime: Option<Runtime>,
}

impl Links {
    /// For processes named `payment` and `payment-2`, over a stack whose ports count from there.
    pub fn start(port_base: u16, processes: &[impl AsRef<str>]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("links")
            .enable_all()
            .build()?;
        let link = |offset: u16| {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port_base + offset));
            Link::start(runtime.handle(), to)
        };
        let mut own = Vec::new();
        for process in processes {
            let process = process.as_ref();
            own.push((process.to_owned(), To::Postgres, link(POSTGRES_PORT)?));
            if provider_of(process).is_some() {
                own.push((process.to_owned(), To::Provider, link(PROVIDERS_PORT)?));
            }
        }
        let broker = link(BROKER_PORT)?;
        Ok(Self { own, broker, runtime: Some(runtime) })
    }

    /// What each process has to be told, so that it uses its links.
    pub fn settings(&self) -> Vec<(String, &'static str, String)> {
        let own = self.own.iter().map(|(process, to, link)| {
            let address = link.address();
            let (name, value) = match to {
                To::Postgres => {
                    let role = format!("{}_app", service_of(process));
                    ("DATABASE_URL", format!("postgres://{role}@{address}/switchback"))
                }
                To::Provider => {
                    let path = provider_of(process).unwrap_or_default();
                    ("PROVIDER_URL", format!("http://{address}/{path}"))
                }
            };
            (process.clone(), name, value)
        });
        let each_once = self.own.iter().filter(|(_, to, _)| *to == To::Postgres);
        let broker = each_once
            .map(|(process, _, _)| (process.clone(), "KAFKA_BROKERS", self.broker().to_string()));
        own.chain(broker).collect()
    }

    /// What the broker has to tell its clients.
    pub fn broker(&self) -> SocketAddr {
        self.broker.address()
    }

    pub fn broker_link(&self) -> &Link {
        &self.broker
    }

    pub fn link(&self, process: &str, to: To) -> anyhow::Result<&Link> {
        let found = self.own.iter().find(|(name, leads, _)| name == process && *leads == to);
        let (_, _, link) = found.with_context(|| format!("{process} has no link to {to:?}"))?;
        Ok(link)
    }

    /// Lets everything pass everywhere.
    pub fn heal(&self) {
        self.own.iter().for_each(|(_, _, link)| link.set(Weather::Pass));
        self.broker.set(Weather::Pass);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `payment` of `payment-2`.
fn service_of(process: &str) -> &str {
    process.split('-').next().unwrap_or(process)
}

fn provider_of(process: &str) -> Option<&'static str> {
    let service = service_of(process);
    PROVIDERS.iter().find(|(caller, _)| *caller == service).map(|(_, path)| *path)
}
