#![doc = include_str!("../README.md")]

mod batch;
mod boot;
mod bootstrap;
mod calls;
mod db;
mod error;
mod migrate;
mod outbox;

pub use batch::{
    Claimed, Commit, DeadLetter, Key, KeyRecord, Origin, Record, Said, Wanted, all_saved, claim,
    column, keys, write,
};
pub use boot::Boot;
pub use bootstrap::bootstrap_sql;
pub use calls::{Attempt, DueCall, due_calls, hold, note_attempt, stick};
pub use db::{Config, Db};
pub use error::Error;
pub use migrate::{MigrationError, Migrations, migrate};
pub use outbox::{Dispatch, OutboxState, delete_acked, outbox_state};

/// Makes the weekly partitions of `events` and `inbox` around now: enough behind for every id that
/// may still come back, and four weeks ahead.
pub async fn ensure_partitions(db: &Db) -> Result<(), Error> {
    sqlx::query("select ensure_partitions(3, 4)").execute(db.autocommit()).await?;
    Ok(())
}

/// Rows for which no partition was made: more than none is an alarm.
pub async fn strays(db: &Db) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(
        "select (select count(*) from events_default) + (select count(*) from inbox_default)",
    )
    .fetch_one(db.autocommit())
    .await?)
}

/// Open dead letters, by consumer (or origin) and code.
pub async fn open_letters(db: &Db) -> Result<Vec<(String, String, i64)>, Error> {
    Ok(sqlx::query_as(
        "select coalesce(consumer, origin), code, count(*)
           from dead_letters
          where state = 'open'
          group by 1, 2",
    )
    .fetch_all(db.autocommit())
    .await?)
}
