//! Owns the operator's hand on what services have said: publishing it again when the broker has
//! lost it. Refuses to send anything itself: the services' own dispatchers do.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use store::{Config, Db, Republish};

use crate::local;
use crate::processes::SERVICES;

/// What services have said.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send events to the broker again that it may have lost. Who has handled them discards them.
    Republish(Again),
}

#[derive(Debug, Args)]
struct Again {
    /// How far back: 90m, 2h, 7d.
    #[arg(long, value_name = "TIME")]
    since: Span,
    /// The services whose events are meant; all four by default.
    #[arg(long, value_name = "SERVICE", value_parser = SERVICES)]
    service: Vec<String>,
    /// Only say how many events there are.
    #[arg(long)]
    dry_run: bool,
    /// Why, for those who look into it later.
    #[arg(long)]
    reason: String,
    /// Who wants it.
    #[arg(long, env = "USER", default_value = "unknown")]
    by: String,
    /// Where the local stack's ports begin.
    #[arg(long, default_value_t = local::PORT_BASE, conflicts_with = "database_url")]
    port_base: u16,
    /// Any other stack's database, with {service} in the place of each service's name.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// What the services are told: how far back at most. Beyond it a consumer may have forgotten
    /// what it has handled.
    #[arg(long, env = "REPUBLISH_SPAN_HOURS", default_value_t = 168)]
    republish_span_hours: u32,
}

/// A number of seconds, minutes, hours or days.
#[derive(Debug, Clone, Copy)]
struct Span(Duration);

impl FromStr for Span {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let unit = text.chars().next_back();
        let seconds: u64 = match unit {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            _ => anyhow::bail!("it must look like 90m, 2h or 7d"),
        };
        let number = text[..text.len() - 1].parse::<u64>().ok().filter(|number| *number > 0);
        let span = number.and_then(|number| number.checked_mul(seconds));
        Ok(Self(Duration::from_secs(span.context("it must look like 90m, 2h or 7d")?)))
    }
}

/// A database that cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("the database of {0} does not answer")]
pub struct NobodyThere(String);

/// `switchback events …`.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Command::Republish(again) = options.command;
    let hours_max = again.republish_span_hours;
    ensure!(
        again.since.0 <= Duration::from_hours(hours_max.into()),
        "no further back than {hours_max} h (REPUBLISH_SPAN_HOURS): beyond that a consumer may \
         have forgotten what it has handled, and would do it again"
    );
    ensure!(!again.reason.trim().is_empty(), "a reason is needed");
    let url = again.database_url.clone();
    let url = url.unwrap_or_else(|| local::database_url(again.port_base));
    let all = SERVICES.map(str::to_owned);
    let services = if again.service.is_empty() { &all[..] } else { &again.service };
    let mut databases = Vec::new();
    // Nothing is begun before all are there.
    for service in services {
        databases.push((service, reach(&url, service).await?));
    }
    for (service, db) in databases {
        let events = republish(&again, &db).await.with_context(|| format!("{service}'s events"))?;
        let done = if again.dry_run { "would be sent again" } else { "are sent again" };
        println!("{service:<10} {events:>10} events {done}");
    }
    Ok(())
}

async fn reach(url: &str, service: &str) -> anyhow::Result<Db> {
    let db = Db::try_new(&Config {
        url: url.replace("{service}", service),
        application_name: "switchback events".to_owned(),
        write_connections_max: 1,
        autocommit_connections_max: 1,
    })?;
    ensure!(db.is_reachable().await, NobodyThere(service.to_owned()));
    Ok(db)
}

async fn republish(again: &Again, db: &Db) -> anyhow::Result<u64> {
    let mut republish = if again.dry_run {
        Republish::rehearse(db, again.since.0).await?
    } else {
        Republish::begin(db, again.since.0, again.reason.trim(), &again.by).await?
    };
    let mut events = 0;
    while let Some(slice) = republish.slice().await? {
        events += slice;
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_of_time_is_a_number_with_its_unit() {
        let read = |text: &str| text.parse::<Span>().map(|span| span.0.as_secs());
        for (text, seconds) in [("45s", 45), ("90m", 5_400), ("2h", 7_200), ("7d", 604_800)] {
            assert_eq!(read(text).expect("it is well formed"), seconds, "{text}");
        }
        for wrong in ["", "h", "2", "2 h", "-2h", "0h", "2w", "1.5h", "99999999999999999999d", "2ü"]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
