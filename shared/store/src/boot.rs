//! Owns the number of this process and the lock that says it lives. Refuses to be shared: one per
//! process and schema.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Notify;

use crate::db::answered;
use crate::{Db, Error};

/// How soon a lost connection is noticed. Until the lock is taken again others may take this
/// process for dead, which costs duplicates only.
const PING_EVERY: Duration = Duration::from_secs(1);

/// The number under which this process writes outbox rows and counts attempts.
#[derive(Debug, Clone)]
pub struct Boot {
    number: Arc<AtomicI32>,
    renew: Arc<Notify>,
}

impl Boot {
    /// Takes a number and its lock. The returned future holds the lock: whoever polls it is alive.
    pub async fn take(db: Db) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        let mut connection = db.connect().await?;
        let number = fresh(&mut connection).await?;
        let boot =
            Self { number: Arc::new(AtomicI32::new(number)), renew: Arc::new(Notify::new()) };
        let held = hold(boot.clone(), db, connection);
        Ok((boot, held))
    }

    pub fn number(&self) -> i32 {
        self.number.load(Ordering::Acquire)
    }

    /// Takes a new number and lets the old one die: what was written under it and not published
    /// is due at once.
    pub fn renew(&self) {
        self.renew.notify_one();
    }
}

async fn hold(boot: Boot, db: Db, mut connection: PgConnection) {
    let mut ticks = tokio::time::interval(PING_EVERY);
    loop {
        let kept = tokio::select! {
            _ = ticks.tick() => ping(&mut connection).await,
            () = boot.renew.notified() => {
                let renewed = renew(&boot, &mut connection).await;
                if renewed.is_err() {
                    // Whoever asked has lost a connection too: the wish outlives this one.
                    boot.renew();
                }
                renewed
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, boot = boot.number(), "the boot lock's connection is lost");
            connection = retake(&boot, &db, &mut ticks).await;
        }
    }
}

async fn retake(boot: &Boot, db: &Db, ticks: &mut tokio::time::Interval) -> PgConnection {
    loop {
        ticks.tick().await;
        if let Ok(mut connection) = db.connect().await
            && lock(&mut connection, boot.number()).await.is_ok()
        {
            return connection;
        }
    }
}

async fn ping(connection: &mut PgConnection) -> Result<(), Error> {
    answered(sqlx::query("select 1").execute(connection)).await?;
    Ok(())
}

async fn renew(boot: &Boot, connection: &mut PgConnection) -> Result<(), Error> {
    let number = fresh(connection).await?;
    let old = boot.number.swap(number, Ordering::AcqRel);
    let unlock =
        sqlx::query("select pg_advisory_unlock(hashtext('live ' || current_schema()), $1)");
    answered(unlock.bind(old).execute(connection)).await?;
    Ok(())
}

async fn fresh(connection: &mut PgConnection) -> Result<i32, Error> {
    let number =
        answered(sqlx::query_scalar("select nextval('boot')::int").fetch_one(&mut *connection))
            .await?;
    lock(connection, number).await?;
    Ok(number)
}

/// Advisory locks are shared by all schemas of a database, so the schema is part of the lock.
async fn lock(connection: &mut PgConnection, number: i32) -> Result<(), Error> {
    let lock = sqlx::query("select pg_advisory_lock(hashtext('live ' || current_schema()), $1)");
    answered(lock.bind(number).execute(connection)).await?;
    Ok(())
}
