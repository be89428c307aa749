//! Owns the head of the outbox: how long the dispatcher's own question takes when rows that are gone,
//! and cannot be taken away, lie before those that are there. Refuses to ask it in another way.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use store::{Config, Db, Dispatch};
use testkit::wait;

use crate::meter::{Times, outbox};

/// A service of its own beside those of the stack: their dispatchers do not let anybody else ask.
const SERVICE: &str = "bench_head";
static NO_TABLES: Migrator = Migrator::DEFAULT;
const PASSES: usize = 50;
/// As old as what a living process has written is when the dispatcher takes it over.
const AGE: Duration = Duration::from_secs(35);
const TOLD_MAX: Duration = Duration::from_mins(1);

/// When the rows that are gone were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Minutes ago, so that the dispatcher has left them behind.
    Before,
    /// Within the minute in which a transaction that has not committed yet may still write before
    /// them, so that it has not.
    Lately,
}

/// What one pass of the dispatcher takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    pub median_ms: f64,
    /// Of every tenth pass, which looks at everything from the first row on: the median of these five,
    /// which are the slowest.
    pub sweep_ms: f64,
}

/// Of fifty passes, one after the other, behind so many rows. A transaction that began before them
/// keeps them from being taken away.
pub async fn head(
    superuser: &PgConnectOptions,
    rows: u32,
    written: Written,
) -> anyhow::Result<Head> {
    let mut tables = lay(superuser).await?;
    let mut reader = PgConnection::connect_with(superuser).await?;
    let pin = "begin isolation level repeatable read; select from bench_head.outbox";
    sqlx::raw_sql(pin).execute(&mut reader).await?;
    bury(&mut tables, rows, written).await?;

    let db = Db::try_new(&Config {
        url: url(superuser, "app"),
        application_name: "bench".to_owned(),
        write_connections_max: 1,
        autocommit_connections_max: 1,
    })?;
    let dispatch = Dispatch::try_lock(&db).await?;
    let mut dispatch = dispatch.context("somebody else asks for the head of this outbox")?;
    let mut passes = Vec::with_capacity(PASSES);
    for _ in 0..PASSES {
        let begun = Instant::now();
        let due = dispatch.due(AGE).await?;
        passes.push(begun.elapsed());
        ensure!(due.is_empty(), "{} rows of an empty outbox are due", due.len());
    }
    drop(dispatch);
    db.close().await;
    reader.close().await?;
    sqlx::raw_sql("drop schema bench_head cascade").execute(&mut tables).await?;
    let passes = Times::try_new(&passes)?;
    Ok(Head { median_ms: passes.percentile_ms(50), sweep_ms: passes.percentile_ms(95) })
}

/// An empty schema of a service that has no tables of its own.
async fn lay(superuser: &PgConnectOptions) -> anyhow::Result<PgConnection> {
    let mut tables = PgConnection::connect_with(superuser).await?;
    sqlx::raw_sql("drop schema if exists bench_head cascade").execute(&mut tables).await?;
    sqlx::raw_sql(AssertSqlSafe(store::bootstrap_sql(SERVICE))).execute(&mut tables).await?;
    store::migrate(Some(&url(superuser, "owner")), &url(superuser, "app"), &NO_TABLES).await?;
    Ok(tables)
}

fn url(superuser: &PgConnectOptions, role: &str) -> String {
    superuser.clone().username(&format!("{SERVICE}_{role}")).to_url_lossy().to_string()
}

/// Rows that come in the order of their ids, and go; and then waits until the server has counted them
/// among the dead, so that nobody measures in front of nothing.
async fn bury(tables: &mut PgConnection, rows: u32, written: Written) -> anyhow::Result<()> {
    let (last_seconds, first_seconds) = match written {
        Written::Before => (300.0, 600.0),
        Written::Lately => (0.0, 30.0),
    };
    let come = "insert into bench_head.outbox (event_id, boot)
                select (left(bench_head.uuid_floor(now()
                                 - interval '1 s' * ($2 + ($3 - $2) * n / $1))::text, 13)
                        || substr(gen_random_uuid()::text, 14))::uuid, 1
                  from generate_series($1::int, 1, -1) as n";
    let come = sqlx::query(come).bind(i32::try_from(rows)?).bind(last_seconds).bind(first_seconds);
    come.execute(&mut *tables).await?;
    sqlx::query("delete from bench_head.outbox").execute(&mut *tables).await?;
    wait::until(TOLD_MAX, "the rows to be counted as dead", async || {
        let size = outbox::size(&mut *tables, SERVICE).await.ok()?;
        (size.dead_rows >= u64::from(rows)).then_some(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_mark_saves_the_dispatcher_what_is_gone_unless_it_was_written_lately()
    -> anyhow::Result<()> {
        let database = testkit::database("lamp").await?;
        let options: PgConnectOptions = database.superuser_url.parse()?;
        let before = head(&options, 40_000, Written::Before).await?;
        let lately = head(&options, 40_000, Written::Lately).await?;
        assert!(before.median_ms > 0.0);
        assert!(before.sweep_ms > 3.0 * before.median_ms, "it sweeps: {before:?}");
        assert!(lately.median_ms > 3.0 * before.median_ms, "{lately:?}, {before:?}");
        Ok(())
    }
}
