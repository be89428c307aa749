//! Owns the question that a container's engine asks again and again: is it well? Refuses to say
//! more than yes or no.

use std::time::Duration;

use anyhow::{anyhow, ensure};
use clap::Args;
use reqwest::Url;

const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Well is who answers a GET with a status from 200 to 299 within two seconds.
    url: Url,
}

/// `switchback healthcheck`. Fails with 1 even when nobody is there: an engine knows no other code.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(ANSWER_MAX).no_proxy().build()?;
    let answer = client.get(options.url).send().await;
    // The text alone: from the cause this program would make another code.
    let answer = answer.map_err(|error| anyhow!("{:#}", anyhow::Error::from(error)))?;
    ensure!(answer.status().is_success(), "{} answers {}", answer.url(), answer.status());
    Ok(())
}
