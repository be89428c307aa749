//! Owns where a test's spans go: a collector of the test's own, or a real Jaeger when `TRACES` says
//! so. Refuses to judge them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use testkit::jaeger::{Jaeger, Options};
use testkit::otlp::{Collector, Span};
use tokio::runtime::Handle;
use uuid::Uuid;

use crate::SERVICES;
use crate::link::{Link, Weather};

/// Takes the spans of a stack and gives them back.
pub enum Receiver {
    /// The link is cut when the collector is meant to be away.
    Collector(Collector, Link),
    Jaeger(Jaeger),
}

impl Receiver {
    pub async fn start() -> anyhow::Result<Self> {
        match std::env::var("TRACES").as_deref() {
            Ok("jaeger") => Ok(Self::Jaeger(Jaeger::start(Options::default()).await?)),
            Ok("collector") | Err(_) => {
                let collector = Collector::start().await?;
                let address = collector.endpoint().trim_start_matches("http://");
                let address: SocketAddr = address.parse().context("the collector's address")?;
                let link = Link::start(&Handle::current(), address)?;
                Ok(Self::Collector(collector, link))
            }
            Ok(other) => bail!("TRACES is collector or jaeger, and not {other}"),
        }
    }

    pub fn endpoint(&self) -> String {
        match self {
            Self::Collector(_, link) => format!("http://{}", link.address()),
            Self::Jaeger(jaeger) => jaeger.endpoint(),
        }
    }

    /// The spans of a trace so far.
    pub async fn trace(&self, trace_id: &str) -> anyhow::Result<Vec<Span>> {
        match self {
            Self::Collector(collector, _) => {
                let spans = collector.spans().into_iter();
                Ok(spans.filter(|span| span.trace_id == trace_id).collect())
            }
            Self::Jaeger(jaeger) => jaeger.query().trace(trace_id).await,
        }
    }

    /// The ids of all traces that name an order.
    pub async fn traces_of(&self, order_id: Uuid) -> anyhow::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        match self {
            Self::Collector(collector, _) => {
                let id = order_id.to_string();
                let spans = collector.spans().into_iter();
                let spans = spans.filter(|span| span.attribute("saga.id") == id);
                found.extend(spans.map(|span| span.trace_id));
            }
            Self::Jaeger(jaeger) => {
                for service in SERVICES {
                    found.extend(jaeger.query().find(service, order_id).await?);
                }
            }
        }
        Ok(found)
    }

    /// All commits so far.
    pub async fn commits(&self) -> anyhow::Result<Vec<Span>> {
        match self {
            Self::Collector(collector, _) => {
                let spans = collector.spans().into_iter();
                Ok(spans.filter(|span| span.name.starts_with("commit ")).collect())
            }
            Self::Jaeger(jaeger) => {
                let mut commits = Vec::new();
                for service in SERVICES {
                    let name = format!("commit {service}");
                    commits.extend(jaeger.query().named(service, &name).await?);
                }
                Ok(commits)
            }
        }
    }

    /// Nobody takes spans any more: Jaeger dies, the collector's line is cut.
    pub fn go_away(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Collector(_, link) => {
                link.set(Weather::Reset);
                Ok(())
            }
            Self::Jaeger(jaeger) => jaeger.kill(),
        }
    }

    /// They are taken again, at the same address.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Collector(_, link) => {
                link.set(Weather::Pass);
                Ok(())
            }
            Self::Jaeger(jaeger) => jaeger.restart().await,
        }
    }
}
