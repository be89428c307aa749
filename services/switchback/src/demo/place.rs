//! Owns where the story is told: on a stack of this program's own, or on one that compose runs.
//! Refuses to start or to end either.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use crate::local::Stack;
use crate::processes::{PROVIDERS, SERVICES};

/// Where everything of ours listens in its container.
const PORT: &str = "8080";
const ANSWER_MAX: Duration = Duration::from_secs(30);
const JAEGER: (&str, &str) = ("jaeger", "16686");

pub(super) enum Place<'a> {
    Local(&'a Stack),
    /// What `docker compose` means in this folder.
    Compose,
}

impl Place<'_> {
    pub(super) async fn url(&self, service: &str) -> anyhow::Result<String> {
        match self {
            Self::Local(stack) => stack.url(service),
            Self::Compose => published(service, PORT).await,
        }
    }

    /// Where the pages are that show traces, if there are any.
    pub(super) async fn jaeger(&self) -> anyhow::Result<Option<String>> {
        match self {
            Self::Local(stack) => Ok(stack.jaeger()),
            Self::Compose => published(JAEGER.0, JAEGER.1).await.map(Some),
        }
    }

    /// Ends payment at once. It comes back.
    pub(super) async fn kill_payment(&self) -> anyhow::Result<()> {
        match self {
            Self::Local(stack) => stack.service("payment")?.kill(),
            Self::Compose => {
                compose(&["kill", "payment"]).await?;
                compose(&["start", "payment"]).await.map(drop)
            }
        }
    }

    /// What a person needs to know to use it.
    pub(super) async fn describe(&self) -> anyhow::Result<String> {
        if let Self::Local(stack) = self {
            return Ok(stack.describe());
        }
        let ours = SERVICES.into_iter().chain([PROVIDERS]).map(|service| (service, PORT));
        let mut lines = Vec::new();
        for (service, port) in ours.chain([JAEGER]) {
            lines.push(format!("{service:<9}  {}", published(service, port).await?));
        }
        Ok(lines.join("\n"))
    }

    /// How somebody ends what the story was told on.
    pub(super) const fn end(&self) -> &'static str {
        match self {
            Self::Local(_) => "Ctrl-C stops everything",
            Self::Compose => "`make down` stops everything",
        }
    }
}

/// Compose has no such container running, or is not there at all.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not running in a container: type `make up` first")]
pub struct NotRunning(String);

/// Where a port of a container can be reached from here.
async fn published(service: &str, port: &str) -> anyhow::Result<String> {
    let address = compose(&["port", service, port]).await;
    let address = address.context(NotRunning(service.to_owned()))?;
    Ok(format!("http://{}", address.trim()))
}

async fn compose(arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("docker");
    command.arg("compose").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(ANSWER_MAX, command.output()).await;
    let output = output.with_context(|| format!("docker compose {arguments:?} hangs"))?;
    let output = output.context("docker cannot be started")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker compose {arguments:?}: {}", complaint.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
