//! Owns the pools and the only function that begins a transaction. Refuses to retry.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Error;

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than the server's own bound on a statement: past that nobody is there to answer, and a
/// connection whose other end has vanished says nothing for a quarter of an hour.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// For the statements of a transaction together: each may be slow, as on a full disk, and a batch
/// that is never let through would be run again for ever.
const BODY_MAX: Duration = Duration::from_secs(30);
/// A connection that is given back and does not answer is thrown away, or its place would be lost.
const RELEASE_MAX: Duration = Duration::from_secs(2);
/// A lock outlives its silent owner by no more: session locks are leases.
const LEASE: &str = "10s";

/// How to reach a service's schema.
#[derive(Debug, Clone)]
pub struct Config {
    /// Logs in with the service's own role.
    pub url: String,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Connections for transactions: lanes and views.
    pub write_connections_max: u32,
    /// Connections for single statements outside transactions.
    pub autocommit_connections_max: u32,
}

/// A service's database: one pool for transactions, one for single statements.
#[derive(Debug, Clone)]
pub struct Db {
    options: PgConnectOptions,
    writes: PgPool,
    autocommit: PgPool,
}

impl Db {
    /// Connects lazily: the database may be away when a service starts.
    pub fn try_new(config: &Config) -> Result<Self, sqlx::Error> {
        let options =
            PgConnectOptions::from_str(&config.url)?.application_name(&config.application_name);
        let pool = |connections_max| {
            PgPoolOptions::new()
                .max_connections(connections_max)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .test_before_acquire(false)
                // The pool asks a connection that comes back whether it lives, without a bound.
                .after_release(|connection, _| {
                    Box::pin(async move {
                        within(RELEASE_MAX, connection.ping()).await?;
                        Ok(true)
                    })
                })
        };
        // sqlx 0.9.0 can give a connection back with a transaction open in it, when the future of
        // `begin` is dropped half-way (transact-rs/sqlx#4385): later writes would answer Ok, run
        // inside it and vanish. So nothing comes back without a rollback; and that one ends a
        // transaction of its own, because the server's log has a warning for each that ends none.
        let writes = pool(config.write_connections_max)
            .after_release(|connection, _| {
                Box::pin(async move {
                    let end = sqlx::raw_sql("begin; rollback").execute(connection);
                    within(RELEASE_MAX, end).await?;
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        let autocommit = pool(config.autocommit_connections_max).connect_lazy_with(options.clone());
        Ok(Self { options, writes, autocommit })
    }

    /// For single statements outside transactions. What a decision needs is read by the decision's
    /// own transaction, never here.
    pub fn autocommit(&self) -> &PgPool {
        &self.autocommit
    }

    /// A connection of its own, for session-level locks. Whoever holds one asks something now and
    /// then: after ten seconds of silence the server takes its owner for dead and frees the locks.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.options.clone().options([("idle_session_timeout", LEASE)]);
        Ok(answered(PgConnection::connect_with(&options)).await?)
    }

    /// Whether the database answers.
    pub async fn is_reachable(&self) -> bool {
        answered(sqlx::query("select 1").execute(&self.autocommit)).await.is_ok()
    }

    /// Runs `body` in a transaction and commits it; on an error everything is rolled back.
    ///
    /// Nothing outside Postgres may be awaited in `body`. A caller that is dropped in here leaves
    /// no open transaction behind: acquiring and BEGIN run in a task of their own.
    pub async fn with_tx<T>(
        &self,
        body: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (give, take) = oneshot::channel();
        let pool = self.writes.clone();
        tokio::spawn(async move {
            #[expect(clippy::disallowed_methods, reason = "the one place that begins")]
            let begun = answered(pool.begin()).await;
            // With the receiver gone the transaction is dropped here: ROLLBACK.
            drop(give.send(begun));
        });
        let mut tx = take.await.map_err(|_| Error::Wait("BEGIN was abandoned".into()))??;
        let silent = |_| Error::Wait("Postgres does not answer".into());
        let result = timeout(BODY_MAX, body(&mut tx)).await.map_err(silent)??;
        match answered(tx.commit()).await {
            Ok(()) => Ok(result),
            Err(error) if is_refused(&error) => Err(error.into()),
            Err(error) => Err(Error::CommitLost(error.to_string())),
        }
    }

    /// Ends both pools.
    pub async fn close(&self) {
        self.writes.close().await;
        self.autocommit.close().await;
    }
}

/// What Postgres answers, if it does so in time.
pub(crate) async fn answered<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    within(ANSWER_MAX, asked).await
}

async fn within<T>(
    bound: Duration,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let silent = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(bound, asked).await.map_err(silent)?
}

/// Whether Postgres has said no to a COMMIT. A connection that broke, or a server that was shutting
/// down, says nothing about it.
fn is_refused(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| !code.starts_with("08") && !code.starts_with("57"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const ROUNDS: i64 = 440;
    const CANCEL_AFTER_MAX: Duration = Duration::from_millis(1);

    /// A database whose pool for transactions has a single connection: what one caller leaves
    /// behind, the next one finds.
    async fn single() -> anyhow::Result<(testkit::Database, Db)> {
        let database = testkit::database("lamp").await?;
        let mut owner = PgConnection::connect(&database.owner_url).await?;
        sqlx::query("create table kept (number bigint)").execute(&mut owner).await?;
        let db = Db::try_new(&Config {
            url: database.app_url.clone(),
            application_name: "test".to_owned(),
            write_connections_max: 1,
            autocommit_connections_max: 1,
        })?;
        Ok((database, db))
    }

    /// Starts `doomed` on another thread and drops it after a time that grows with each round.
    /// Every insert that is acknowledged afterwards must be there in the end, although whatever is
    /// begun is rolled back.
    async fn cancel_and_insert<T: Send + 'static>(
        db: &Db,
        doomed: impl Fn() -> tokio::task::JoinHandle<T>,
    ) -> anyhow::Result<i64> {
        let step = CANCEL_AFTER_MAX / u32::try_from(ROUNDS)?;
        for round in 0..ROUNDS {
            let task = doomed();
            let begun = Instant::now();
            // Shorter than any timer's tick.
            while begun.elapsed() < step * u32::try_from(round)? {
                std::hint::spin_loop();
            }
            task.abort();
            drop(task.await);
            sqlx::query("insert into kept values ($1)").bind(round).execute(&db.writes).await?;
        }
        db.writes.close().await;
        Ok(sqlx::query_scalar("select count(*) from kept").fetch_one(&db.autocommit).await?)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_caller_that_is_dropped_while_it_begins_loses_no_later_write() -> anyhow::Result<()> {
        let (_database, db) = single().await?;
        let kept = cancel_and_insert(&db, || {
            let db = db.clone();
            let body = async |_: &mut PgConnection| Err::<(), _>(Error::Rerun(String::new()));
            tokio::spawn(async move { db.with_tx(body).await })
        });
        assert_eq!(kept.await?, ROUNDS);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn even_a_bare_begin_that_is_dropped_leaves_no_transaction_open() -> anyhow::Result<()> {
        let (_database, db) = single().await?;
        let kept = cancel_and_insert(&db, || {
            let pool = db.writes.clone();
            tokio::spawn(async move {
                #[expect(clippy::disallowed_methods, reason = "what the pool's own care is for")]
                let begun = pool.begin().await;
                begun?.rollback().await
            })
        });
        assert_eq!(kept.await?, ROUNDS);
        Ok(())
    }
}
