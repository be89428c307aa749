//! Owns how long the shell's rows live: weeks made ahead and dropped behind, keys and dead letters
//! purged. Refuses to choose for how long, and to ask any clock but the database's.

use std::time::Duration;

use crate::db::answered;
use crate::{Db, Error};

const WEEK: Duration = Duration::from_hours(7 * 24);
/// So far ahead weeks are made. An id from beyond comes from no clock of ours.
pub(crate) const AHEAD: Duration = Duration::from_hours(4 * 7 * 24);
/// One statement's share of a purge.
const SLICE_ROWS: u64 = 1_000;
/// What one purge takes at most. One that takes so much has left some behind.
pub const PURGE_ROWS_MAX: u64 = 20 * SLICE_ROWS;

/// Makes the weekly partitions of `events` and `inbox` around now: behind for every id that may
/// still come back, and four weeks ahead.
pub async fn ensure_partitions(db: &Db, inbox_window: Duration) -> Result<(), Error> {
    let ensure = sqlx::query("select ensure_partitions($1, $2)");
    let ensure = ensure.bind(weeks(inbox_window)).bind(weeks(AHEAD));
    answered(ensure.execute(db.autocommit())).await?;
    Ok(())
}

/// Drops the oldest week of `inbox` that lies outside the window, and the oldest one of `events`
/// that is kept no longer and that nothing in the outbox needs. Says which.
///
/// Batches are not held up: tables that are busy for longer than a moment are left for later.
pub async fn drop_partitions(
    db: &Db,
    inbox_window: Duration,
    events_kept: Duration,
) -> Result<Vec<String>, Error> {
    let drop = sqlx::query_scalar("select drop_partitions($1, $2)");
    let drop = drop.bind(weeks(inbox_window)).bind(weeks(events_kept));
    Ok(answered(drop.fetch_all(db.autocommit())).await?)
}

/// Whole weeks, so that what is dropped is never what is made.
fn weeks(span: Duration) -> i32 {
    i32::try_from(span.as_secs().div_ceil(WEEK.as_secs())).unwrap_or(i32::MAX)
}

/// Deletes a slice of a table, the oldest by one of its times first, unless somebody else is at it.
macro_rules! purge_sql {
    ($table:literal by $time:literal) => {
        concat!(
            "with turn as materialized (
                 select pg_try_advisory_xact_lock(hashtext('purge ' || current_schema()), 0) as mine
             )
             delete from ", $table, "
              where ctid = any(array(select ctid
                                       from ", $table, "
                                      where ", $time, " <= now() - $1::interval
                                        and (select mine from turn)
                                      order by ", $time, "
                                      limit $2))"
        )
    };
}

/// Forgets answers that are older than `kept`, and says how many.
pub async fn purge_keys(db: &Db, kept: Duration) -> Result<u64, Error> {
    purge(db, purge_sql!("idempotency_keys" by "created_at"), kept).await
}

/// Forgets dead letters that were closed longer than `kept` ago, and says how many. Those that
/// somebody still has to look at stay for ever.
pub async fn purge_letters(db: &Db, kept: Duration) -> Result<u64, Error> {
    purge(db, purge_sql!("dead_letters" by "closed_at"), kept).await
}

/// Slice by slice, each on its own. While another process does it, this one finds nothing to do.
async fn purge(db: &Db, slice: &'static str, kept: Duration) -> Result<u64, Error> {
    let mut purged = 0;
    while purged < PURGE_ROWS_MAX {
        let delete = sqlx::query(slice).bind(kept).bind(SLICE_ROWS.cast_signed());
        let rows = answered(delete.execute(db.autocommit())).await?.rows_affected();
        purged += rows;
        if rows < SLICE_ROWS {
            break;
        }
    }
    Ok(purged)
}

/// Rows for which no partition was made: more than none is an alarm.
pub async fn strays(db: &Db) -> Result<i64, Error> {
    let strays = sqlx::query_scalar(
        "select (select count(*) from events_default) + (select count(*) from inbox_default)",
    );
    Ok(answered(strays.fetch_one(db.autocommit())).await?)
}

/// Open dead letters, by consumer (or origin) and code.
pub async fn open_letters(db: &Db) -> Result<Vec<(String, String, i64)>, Error> {
    let letters = sqlx::query_as(
        "select coalesce(consumer, origin), code, count(*)
           from dead_letters
          where state = 'open'
          group by 1, 2",
    );
    Ok(answered(letters.fetch_all(db.autocommit())).await?)
}
