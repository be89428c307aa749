//! Owns what a stretch of Postgres' write-ahead log holds: its bytes and its commits. Refuses to
//! ask the server's statistics, which come late and count what was only read.

use std::time::Duration;

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use testkit::wait;

/// The server writes the end of its log out by itself, several times a second.
const FLUSHED_MAX: Duration = Duration::from_secs(10);

/// It ends with its connection, whatever becomes of this program.
const SLOT: &str = "bench";

/// A superuser's connection.
pub struct Wal {
    connection: PgConnection,
    /// Whether the server was told to keep its log.
    keeps: bool,
}

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark(String);

/// What lies between two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// All of it but the full-page images.
    pub bytes: u64,
    /// The images of pages that were touched for the first time since a checkpoint. There is one a
    /// page however often it is changed, so their share of a saga shrinks with the length of a run.
    pub image_bytes: u64,
    /// The transactions that changed something.
    pub commits: u64,
}

impl Wal {
    pub async fn open(superuser: &PgConnectOptions) -> anyhow::Result<Self> {
        let mut connection = PgConnection::connect_with(superuser).await?;
        sqlx::raw_sql("create extension if not exists pg_walinspect")
            .execute(&mut connection)
            .await
            .context("pg_walinspect is one of the extensions that come with Postgres 15")?;
        Ok(Self { connection, keeps: false })
    }

    /// The place where the log ends now. The server keeps what follows until it is read.
    pub async fn mark(&mut self) -> anyhow::Result<Mark> {
        if !self.keeps {
            let keep = "select pg_create_physical_replication_slot($1, true, true)::text";
            sqlx::query(keep).bind(SLOT).execute(&mut self.connection).await?;
            self.keeps = true;
        }
        let end = "select pg_current_wal_insert_lsn()::text";
        Ok(Mark(sqlx::query_scalar(end).fetch_one(&mut self.connection).await?))
    }

    /// Reads the log again, which costs the server time: not while anything is measured. What lies
    /// before the next mark may be thrown away afterwards.
    pub async fn between(&mut self, from: &Mark, to: &Mark) -> anyhow::Result<Stretch> {
        let is_flushed = "select pg_current_wal_flush_lsn() >= $1::pg_lsn";
        wait::until(FLUSHED_MAX, "the log to be written", async || {
            let flushed =
                sqlx::query_scalar(is_flushed).bind(&to.0).fetch_one(&mut self.connection).await;
            flushed.ok().filter(|flushed: &bool| *flushed)
        })
        .await?;
        let stretch = "select ($2::pg_lsn - $1::pg_lsn)::int8,
                              coalesce(sum(fpi_size), 0)::int8,
                              coalesce(sum(count) filter (
                                  where \"resource_manager/record_type\" = 'Transaction/COMMIT'
                              ), 0)::int8
                         from pg_get_wal_stats($1::pg_lsn, $2::pg_lsn, true)";
        let (all, images, commits): (i64, i64, i64) = sqlx::query_as(stretch)
            .bind(&from.0)
            .bind(&to.0)
            .fetch_one(&mut self.connection)
            .await?;
        if std::mem::take(&mut self.keeps) {
            let drop = sqlx::query("select pg_drop_replication_slot($1)").bind(SLOT);
            drop.execute(&mut self.connection).await?;
        }
        Ok(Stretch {
            bytes: u64::try_from(all - images)?,
            image_bytes: u64::try_from(images)?,
            commits: u64::try_from(commits)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: u64 = 40;

    async fn ground() -> anyhow::Result<(testkit::Postgres, PgConnectOptions)> {
        let options = testkit::postgres::Options { port: None, durable: true };
        let postgres = tokio::task::spawn_blocking(move || testkit::Postgres::start(options));
        let postgres = postgres.await??;
        let url = postgres.url(testkit::postgres::SUPERUSER, "postgres");
        Ok((postgres, url.parse()?))
    }

    #[tokio::test]
    async fn each_transaction_that_changes_something_is_one_commit_and_a_read_is_none()
    -> anyhow::Result<()> {
        let (_postgres, options) = ground().await?;
        let mut writer = PgConnection::connect_with(&options).await?;
        sqlx::raw_sql("create table rows (number int8, body text); checkpoint")
            .execute(&mut writer)
            .await?;
        let mut wal = Wal::open(&options).await?;
        let before = wal.mark().await?;
        for number in 0..ROWS {
            let insert = sqlx::query("insert into rows values ($1, repeat('x', 200))");
            insert.bind(i64::try_from(number)?).execute(&mut writer).await?;
            sqlx::query("select count(*) from rows").execute(&mut writer).await?;
        }
        let (single, between) = (wal.mark().await?, ROWS);
        let many = "begin; insert into rows select n, '' from generate_series(1, 500) as n; \
                    insert into rows values (0, ''); commit";
        sqlx::raw_sql(many).execute(&mut writer).await?;
        let after = wal.mark().await?;

        let stretch = wal.between(&before, &single).await?;
        assert_eq!(stretch.commits, between);
        assert!((ROWS * 250..ROWS * 1_000).contains(&stretch.bytes), "{stretch:?}");
        assert_eq!(wal.between(&single, &after).await?.commits, 1);
        Ok(())
    }

    #[tokio::test]
    async fn images_of_pages_after_a_checkpoint_are_told_apart() -> anyhow::Result<()> {
        let (_postgres, options) = ground().await?;
        let mut writer = PgConnection::connect_with(&options).await?;
        let filled = "create table rows (body text);
                      insert into rows select repeat('x', 200) from generate_series(1, 20000)";
        sqlx::raw_sql(filled).execute(&mut writer).await?;
        let mut wal = Wal::open(&options).await?;
        let mut images = Vec::new();
        for before in ["checkpoint", "select 1"] {
            sqlx::raw_sql(before).execute(&mut writer).await?;
            let from = wal.mark().await?;
            // One row on each of many pages.
            let touched = "delete from rows where ctid::text like '%,1)'";
            sqlx::raw_sql(touched).execute(&mut writer).await?;
            let touched = "delete from rows where ctid::text like '%,2)'";
            sqlx::raw_sql(touched).execute(&mut writer).await?;
            let to = wal.mark().await?;
            images.push(wal.between(&from, &to).await?.image_bytes);
        }
        assert!(images[0] > 1_000_000 && images[1] < images[0] / 10, "{images:?}");
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_kept_over_checkpoints_as_long_as_somebody_reads_it() -> anyhow::Result<()> {
        let (_postgres, options) = ground().await?;
        let mut writer = PgConnection::connect_with(&options).await?;
        sqlx::raw_sql("create table rows (number int8)").execute(&mut writer).await?;
        let mut wal = Wal::open(&options).await?;
        let before = wal.mark().await?;
        sqlx::raw_sql("insert into rows values (1)").execute(&mut writer).await?;
        for _ in 0..4 {
            let next = "select pg_switch_wal(); checkpoint; insert into rows values (2)";
            sqlx::raw_sql(next).execute(&mut writer).await?;
        }
        let after = wal.mark().await?;
        assert!(wal.between(&before, &after).await?.commits >= 5);
        // Afterwards nothing holds it.
        sqlx::raw_sql("select pg_switch_wal(); checkpoint; checkpoint")
            .execute(&mut writer)
            .await?;
        let gone = wal.between(&before, &after).await.expect_err("it is no longer there");
        assert!(gone.to_string().contains("removed"), "{gone}");
        Ok(())
    }
}
