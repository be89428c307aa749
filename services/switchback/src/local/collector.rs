//! Owns where the spans of a stack go: to a Jaeger beside it, or wherever a person says. Refuses to
//! look into them.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, ensure};
use reqwest::Url;
use rustix::process::Signal;
use testkit::jaeger::{Home, Options as JaegerOptions};
use tokio_util::sync::CancellationToken;

use crate::supervisor::{Program, Supervised};

/// Jaeger takes spans here, answers questions at the next one, and has two more for itself.
const FIRST_PORT: u16 = 14;
const PORTS: [u16; 4] = [FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 2, FIRST_PORT + 3];
/// A person who looks an order up does not wait for its spans.
const SEND_EVERY_MS: &str = "200";

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traces {
    /// To a Jaeger of the stack's own, which `make jaeger` brings.
    Jaeger,
    /// To somebody who takes OTLP over HTTP.
    Elsewhere(Url),
}

impl FromStr for Traces {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "jaeger" {
            return Ok(Self::Jaeger);
        }
        let url: Url = text.parse().context("it is jaeger, or an address")?;
        ensure!(url.scheme() == "http" && url.has_host(), "an address begins with http://");
        Ok(Self::Elsewhere(url))
    }
}

impl Traces {
    /// Of the stack's ports.
    pub(super) fn ports(&self) -> &'static [u16] {
        match self {
            Self::Jaeger => &PORTS,
            Self::Elsewhere(_) => &[],
        }
    }
}

pub(super) struct Collector {
    endpoint: String,
    jaeger: Option<Jaeger>,
}

struct Jaeger {
    process: Supervised,
    // Dropped last: the server must have ended.
    home: Home,
}

impl Collector {
    /// Jaeger comes up while the caller goes on.
    pub(super) fn begin(
        traces: &Traces,
        port_base: u16,
        log_dir: &Path,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        if let Traces::Elsewhere(url) = traces {
            return Ok(Self { endpoint: url.to_string(), jaeger: None });
        }
        let home = Home::make(JaegerOptions { first_port: Some(port_base + FIRST_PORT) })?;
        // It keeps nothing that an orderly end would save.
        let server =
            Program::of("jaeger", &home.server(), log_dir.join("jaeger.log"), Signal::KILL);
        let process = Supervised::start(server, stop.clone())?;
        Ok(Self { endpoint: home.endpoint(), jaeger: Some(Jaeger { process, home }) })
    }

    /// Returns when spans are taken.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        match &self.jaeger {
            Some(Jaeger { process, home }) => process.ready(async || home.is_served().await).await,
            None => Ok(()),
        }
    }

    /// What a service has to be told.
    pub(super) fn settings(&self) -> [(&'static str, String); 2] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint.clone()),
            ("OTEL_BSP_SCHEDULE_DELAY", SEND_EVERY_MS.to_owned()),
        ]
    }

    /// The address of Jaeger's pages and its process, if it is ours.
    pub(super) fn jaeger(&self) -> Option<(String, &Supervised)> {
        let Jaeger { process, home } = self.jaeger.as_ref()?;
        Some((home.query().base().as_str().trim_end_matches('/').to_owned(), process))
    }

    /// Returns when it is gone; its token must have been cancelled before.
    pub(super) async fn ended(self) {
        if let Some(Jaeger { process, home }) = self.jaeger {
            process.ended().await;
            drop(home);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Traces;

    #[test]
    fn spans_go_to_a_jaeger_of_ones_own_or_to_an_address() {
        assert_eq!("jaeger".parse::<Traces>().expect("a word"), Traces::Jaeger);
        let there = "http://127.0.0.1:4318".parse::<Traces>().expect("an address");
        assert!(matches!(there, Traces::Elsewhere(url) if url.port() == Some(4318)));
        for wrong in ["", "zipkin", "127.0.0.1:4318", "https://example.com", "file:///tmp"] {
            assert!(wrong.parse::<Traces>().is_err(), "{wrong}");
        }
    }
}
