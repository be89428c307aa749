//! Owns what is said of a run before its figures: the machine, the versions, the commit, and how
//! durable a commit is. Refuses to say what it was not told by whom it is about.

use std::fs;
use std::process::Command;

use anyhow::Context;
use sqlx::PgPool;
use testkit::parts;

use crate::load::{FAILING_PERCENT, SKUS};
use crate::record::{Broker, Durability, Header, Versions};

/// What a run writes itself makes no other program of it.
const NOT_ITS_OWN: [&str; 4] = ["--", ".", ":!bench/results", ":!docs/performance*"];

const NOW: &str = "select to_char(now() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";

impl Header {
    /// Of a run on a server that is asked for its settings.
    pub async fn of(tables: &PgPool, broker: Broker, quick: bool) -> anyhow::Result<Self> {
        let setting = async |name: &str| {
            let sql = "select current_setting($1)";
            sqlx::query_scalar::<_, String>(sql).bind(name).fetch_one(tables).await
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Self {
            date: sqlx::query_scalar(NOW).fetch_one(tables).await?,
            machine: line_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: u32::try_from(std::thread::available_parallelism()?.get())?,
            memory_mb: memory_mb()?,
            kernel: kernel.trim().to_owned(),
            broker,
            versions: Versions {
                switchback: env!("CARGO_PKG_VERSION").to_owned(),
                rustc: said_by("rustc", &["--version"])?,
                postgres: setting("server_version").await?,
                kafka: (broker == Broker::Kafka).then(kafka_version).transpose()?,
            },
            commit: commit()?,
            durability: Durability {
                fsync: setting("fsync").await?,
                synchronous_commit: setting("synchronous_commit").await?,
            },
            quick,
            skus: SKUS,
            failing_percent: FAILING_PERCENT,
        })
    }
}

fn commit() -> anyhow::Result<String> {
    let commit = said_by("git", &["rev-parse", "--short=12", "HEAD"])?;
    let changes = said_by("git", &[&["status", "--porcelain"], &NOT_ITS_OWN[..]].concat())?;
    Ok(if changes.is_empty() { commit } else { format!("{commit}+") })
}

/// The jar of the broker is called `kafka_2.13-4.3.1.jar`.
fn kafka_version() -> anyhow::Result<String> {
    let files = fs::read_dir(parts::kafka_libs()?)?.flatten();
    let mut names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    let version = |name: String| {
        Some(name.strip_prefix("kafka_")?.strip_suffix(".jar")?.rsplit_once('-')?.1.to_owned())
    };
    names.find_map(version).context("the broker's jar has no version")
}

fn memory_mb() -> anyhow::Result<u64> {
    let kb = line_of("/proc/meminfo", "MemTotal").context("no MemTotal")?;
    Ok(kb.trim_end_matches(" kB").parse::<u64>()? / 1_024)
}

/// What stands behind the colon.
fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn said_by(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let said = Command::new(program).args(arguments).output();
    let said = said.with_context(|| format!("{program} cannot be started"))?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_the_tree_a_commit() {
        assert!(memory_mb().expect("a machine has memory") > 100);
        let commit = commit().expect("a checkout has a commit");
        assert!(commit.trim_end_matches('+').len() >= 12, "{commit}");
    }
}
