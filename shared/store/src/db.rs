//! Owns the pools and the only function that begins a transaction. Refuses to retry.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::sync::oneshot;

use crate::Error;

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

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
        };
        // sqlx 0.9.0 can give a connection back with a transaction open in it, when the future of
        // `begin` is dropped half-way (transact-rs/sqlx#4385): later writes would answer Ok, run
        // inside it and vanish. So nothing comes back without a rollback.
        let writes = pool(config.write_connections_max)
            .after_release(|connection, _| {
                Box::pin(async move {
                    sqlx::query("rollback").execute(connection).await?;
                    Ok(true)
                })
            })
            // That rollback mostly finds nothing to roll back, and would warn each time.
            .connect_lazy_with(options.clone().options([("client_min_messages", "error")]));
        let autocommit = pool(config.autocommit_connections_max).connect_lazy_with(options.clone());
        Ok(Self { options, writes, autocommit })
    }

    /// For single statements outside transactions. What a decision needs is read by the decision's
    /// own transaction, never here.
    pub fn autocommit(&self) -> &PgPool {
        &self.autocommit
    }

    /// A connection of its own, for session-level locks.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        Ok(PgConnection::connect_with(&self.options).await?)
    }

    /// Whether the database answers.
    pub async fn is_reachable(&self) -> bool {
        sqlx::query("select 1").execute(&self.autocommit).await.is_ok()
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
            let begun = pool.begin().await;
            // With the receiver gone the transaction is dropped here: ROLLBACK.
            drop(give.send(begun));
        });
        let mut tx = take.await.map_err(|_| Error::Wait("BEGIN was abandoned".into()))??;
        let result = body(&mut tx).await?;
        match tx.commit().await {
            Ok(()) => Ok(result),
            Err(sqlx::Error::Database(cause)) => Err(sqlx::Error::Database(cause).into()),
            Err(error) => Err(Error::CommitLost(error.to_string())),
        }
    }

    /// Ends both pools.
    pub async fn close(&self) {
        self.writes.close().await;
        self.autocommit.close().await;
    }
}
