//! Owns what the outboxes of a stack take up. Refuses to know what waits in them.

use sqlx::PgExecutor;

/// Its relation with its index, and the rows in it that nobody can see any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub bytes: u64,
    /// By the server's own statistics.
    pub dead_rows: u64,
}

/// The outbox of one service, as the superuser sees it.
pub async fn size(tables: impl PgExecutor<'_>, service: &str) -> anyhow::Result<Size> {
    let size = "select pg_total_relation_size(relid), n_dead_tup
                  from pg_stat_user_tables
                 where schemaname = $1 and relname = 'outbox'";
    let (bytes, dead_rows): (i64, i64) =
        sqlx::query_as(size).bind(service).fetch_one(tables).await?;
    Ok(Size { bytes: u64::try_from(bytes)?, dead_rows: u64::try_from(dead_rows)? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::PgPool;
    use sqlx::migrate::Migrator;
    use testkit::wait;

    use super::*;

    static NO_TABLES: Migrator = Migrator::DEFAULT;

    #[tokio::test]
    async fn rows_that_come_and_go_leave_dead_ones_and_pages_behind() -> anyhow::Result<()> {
        let database = testkit::database("lamp").await?;
        store::migrate(Some(&database.owner_url), &database.app_url, &NO_TABLES).await?;
        let tables = PgPool::connect(&database.superuser_url).await?;
        let empty = size(&tables, "lamp").await?;
        assert_eq!(empty.dead_rows, 0);
        // Whoever is in a transaction keeps the vacuum from taking them away.
        let mut reader = tables.acquire().await?;
        let pin = "begin isolation level repeatable read; select from lamp.outbox";
        sqlx::raw_sql(pin).execute(&mut *reader).await?;
        let come_and_go = "insert into lamp.outbox (event_id, boot)
                               select gen_random_uuid(), 1 from generate_series(1, 2000);
                           delete from lamp.outbox";
        sqlx::raw_sql(come_and_go).execute(&tables).await?;
        let full = wait::until(Duration::from_secs(10), "the dead to be counted", async || {
            size(&tables, "lamp").await.ok().filter(|size| size.dead_rows >= 2_000)
        })
        .await?;
        assert_eq!(full.dead_rows, 2_000);
        assert!(full.bytes > empty.bytes + 100_000, "{full:?}");
        assert!(size(&tables, "nobody").await.is_err());
        drop(reader);
        tables.close().await;
        Ok(())
    }
}
