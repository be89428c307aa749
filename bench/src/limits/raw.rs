//! Owns the raw bound: how many inputs a second this Postgres could take if nothing but their rows
//! had to be written. Refuses to decide anything.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::record::Raw;

const CONNECTIONS: usize = 4;
const ROWS: usize = 500;
const BODY: [u8; 200] = [b'x'; 200];
/// As a service's role has it, and in a schema of its own.
const SETTINGS: [(&str, &str); 4] = [
    ("search_path", "bench_raw"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
];

/// A subject's state, the message that it has heard and the one that it says: each as narrow as it
/// can be, and only inserted, so that the bound is on the high side.
const TABLES: &str = "
drop schema if exists bench_raw cascade;
create schema bench_raw;
create table state (subject uuid primary key, status smallint not null, version int not null);
create table inbox (event_id uuid, consumer text, primary key (event_id, consumer));
create table outbox (event_id uuid primary key, body bytea not null)";

const WRITE: &str = "
with heard as (
    insert into inbox (event_id, consumer) select id, 'bench' from unnest($1::uuid[]) as id
), changed as (
    insert into state (subject, status, version) select id, 1, 1 from unnest($2::uuid[]) as id
)
insert into outbox (event_id, body) select * from unnest($3::uuid[], $4::bytea[])";

/// Four connections, each with one statement of 500 inputs after the other, for so long and a fifth
/// of it before to get warm. What was written is gone afterwards.
pub async fn bound(superuser: &PgConnectOptions, so_long: Duration) -> anyhow::Result<Raw> {
    let options = superuser.clone().options(SETTINGS);
    let mut first = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(TABLES).execute(&mut first).await?;
    let counts = Instant::now() + so_long / 5;
    let writers = (0..CONNECTIONS).map(|_| {
        let options = options.clone();
        async move { write(PgConnection::connect_with(&options).await?, counts, so_long).await }
    });
    let rates = try_join_all(writers).await?;
    sqlx::raw_sql("drop schema bench_raw cascade").execute(&mut first).await?;
    Ok(Raw { rows_per_second: rates.iter().sum() })
}

/// The rows per second of one connection, from its first batch that begins after `counts`.
#[expect(clippy::cast_precision_loss, reason = "a rate of whole rows")]
async fn write(
    mut connection: PgConnection,
    counts: Instant,
    so_long: Duration,
) -> anyhow::Result<f64> {
    let (mut begun, mut rows) = (None, 0);
    loop {
        let now = Instant::now();
        let since = now.duration_since(*begun.get_or_insert(now));
        if now < counts {
            begun = None;
        } else if since >= so_long {
            ensure!(rows > 0, "Postgres has taken no rows in {so_long:?}");
            return Ok(rows as f64 / since.as_secs_f64());
        }
        let [heard, subjects, said] = [(); 3].map(|()| ids());
        let bodies = vec![BODY.as_slice(); ROWS];
        let write = sqlx::query(WRITE).bind(heard).bind(subjects).bind(said).bind(bodies);
        write.execute(&mut connection).await?;
        rows = if begun.is_some() { rows + ROWS } else { 0 };
    }
}

fn ids() -> Vec<Uuid> {
    (0..ROWS).map(|_| Uuid::now_v7()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_are_written_and_counted_and_taken_away_again() -> anyhow::Result<()> {
        let database = testkit::database("lamp").await?;
        let options: PgConnectOptions = database.superuser_url.parse()?;
        let mut superuser = PgConnection::connect_with(&options).await?;
        let log = "select pg_current_wal_insert_lsn()::text";
        let before: String = sqlx::query_scalar(log).fetch_one(&mut superuser).await?;
        let found = bound(&options, Duration::from_millis(500)).await?;
        let written = "select (pg_current_wal_insert_lsn() - $1::pg_lsn)::float8";
        let written: f64 =
            sqlx::query_scalar(written).bind(before).fetch_one(&mut superuser).await?;
        // Each of those that were counted has left its body in the log, at least.
        assert!(found.rows_per_second > 1_000.0, "{found:?}");
        assert!(written > found.rows_per_second * 0.5 * 200.0, "{found:?}, {written} bytes");
        let left = "select to_regnamespace('bench_raw') is null";
        assert!(sqlx::query_scalar::<_, bool>(left).fetch_one(&mut superuser).await?);
        Ok(())
    }
}
