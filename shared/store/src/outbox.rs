//! Owns what the broker has not acknowledged. Refuses to follow ids: a row is due by its state.

use std::time::Duration;

use saga::Envelope;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use crate::batch::{Said, Stored};
use crate::db::answered;
use crate::{Db, DeadLetter, Error};

/// No process has this number: a row under it is due at once.
pub(crate) const NOBODY: i32 = 0;

/// The boot numbers whose process holds its lock.
macro_rules! living {
    () => {
        "select objid::int
           from pg_locks
          where locktype = 'advisory'
            and classid = (hashtext('live ' || current_schema())::bigint & 4294967295)::oid
            and objsubid = 2
            and granted
            and database = (select oid from pg_database where datname = current_database())"
    };
}
pub(crate) use living;

/// Every so many passes start from the first id again: the mark is a speed-up, never a cursor.
const PASSES_PER_SWEEP: u32 = 10;

/// A pass starts so far below what is out: no transaction lives that long, so what has not committed
/// yet lies above.
const SLACK: Duration = Duration::from_mins(1);

/// The dispatcher's own connection, its lock, and how far it has looked.
pub struct Dispatch {
    connection: PgConnection,
    low: Uuid,
    passes: u32,
}

impl Dispatch {
    /// One dispatcher per service. `None`: another process has the lock.
    pub async fn try_lock(db: &Db) -> Result<Option<Self>, Error> {
        let mut connection = db.connect().await?;
        let lock = sqlx::query_scalar(
            "select pg_try_advisory_lock(hashtext('dispatch ' || current_schema()), 0)",
        );
        let locked = answered(lock.fetch_one(&mut connection)).await?;
        Ok(if locked { Some(Self { connection, low: Uuid::nil(), passes: 0 }) } else { None })
    }

    /// The connection that holds the lock, for what else must run in one process only.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Up to 1,000 ids that are due: their writer is dead, or they are older than `age`.
    pub async fn due(&mut self, age: Duration) -> Result<Vec<Uuid>, Error> {
        if self.passes.is_multiple_of(PASSES_PER_SWEEP) {
            self.low = Uuid::nil();
        }
        self.passes = self.passes.wrapping_add(1);
        let due = sqlx::query_as(concat!(
            "with living as materialized (",
            living!(),
            ") select array(select event_id
                              from outbox
                             where event_id > $1
                               and (boot not in (table living) or queued_at <= now() - $2::interval)
                             order by event_id
                             limit 1000),
                      uuid_floor(now() - $3::interval)",
        ))
        .bind(self.low)
        .bind(age)
        .bind(age + SLACK);
        let (ids, low): (Vec<Uuid>, Uuid) = answered(due.fetch_one(&mut self.connection)).await?;
        if ids.is_empty() {
            // Everything older than `age` is out, so only what is younger need be looked at again.
            self.low = low;
        }
        Ok(ids)
    }

    /// Every id that was due up to this one is published.
    pub fn mark(&mut self, last: Uuid) {
        let millis = last.as_u128() >> 80;
        self.low = Uuid::from_u128(millis.saturating_sub(SLACK.as_millis()) << 80);
    }

    /// Something up to this id stays: what lies behind it comes next, until the next sweep.
    pub fn pass_by(&mut self, last: Uuid) {
        self.low = last;
    }

    /// The events of some ids, ordered by (subject, version).
    pub async fn events(&mut self, ids: &[Uuid]) -> Result<Vec<Said>, Error> {
        let events = sqlx::query_as(
            "select id, subject, version, type, headers, body from events where id = any($1::uuid[])",
        )
        .bind(ids);
        let rows: Vec<Row> = answered(events.fetch_all(&mut self.connection)).await?;
        let mut events: Vec<Said> = rows.into_iter().filter_map(said).collect();
        events.sort_by_key(|said| (said.envelope.subject, said.envelope.version));
        Ok(events)
    }

    /// Takes acknowledged ids out of the outbox.
    pub async fn delete(&mut self, ids: &[Uuid]) -> Result<(), Error> {
        delete(&mut self.connection, ids).await
    }

    /// Takes an event out of the outbox that the broker refuses for ever, and leaves `letter` in
    /// its place. `false`: it was no longer there.
    pub async fn set_aside(&mut self, id: Uuid, letter: &DeadLetter) -> Result<bool, Error> {
        let set_aside = sqlx::query(
            "with gone as (
                 delete from outbox where event_id = $1 returning 1
             )
             insert into dead_letters (id, origin, subject, code, headers, body, attempts)
             select $2, $3, $4, $5, $6, $7, $8 from gone",
        )
        .bind(id)
        .bind(Uuid::now_v7())
        .bind(letter.origin)
        .bind(letter.subject)
        .bind(&letter.code)
        .bind(&letter.headers)
        .bind(&letter.body)
        .bind(letter.attempts);
        let written = answered(set_aside.execute(&mut self.connection)).await?;
        Ok(written.rows_affected() == 1)
    }
}

type Row = (Uuid, Uuid, Option<i32>, String, Vec<u8>, Vec<u8>);

/// `None`: a row that no code of ours has written. It stays, and stops nothing else.
fn said((id, subject, version, kind, headers, body): Row) -> Option<Said> {
    let (Ok(kind), Ok(stored)) = (kind.parse(), serde_json::from_slice::<Stored>(&headers)) else {
        tracing::error!(event = %id, "an event cannot be read back");
        return None;
    };
    let Stored { time, cause, trace } = stored;
    let version = version.map(i32::cast_unsigned);
    Some(Said { envelope: Envelope { id, kind, time, subject, version, cause, trace }, body })
}

/// Takes acknowledged ids out of the outbox, outside a batch.
pub async fn delete_acked(pool: &PgPool, ids: &[Uuid]) -> Result<(), Error> {
    delete(pool, ids).await
}

/// Gives rows of a living process up: they are due at once, to whoever dispatches.
pub async fn give_up(pool: &PgPool, ids: &[Uuid]) -> Result<(), Error> {
    let give_up = sqlx::query("update outbox set boot = $2 where event_id = any($1::uuid[])");
    answered(give_up.bind(ids).bind(NOBODY).execute(pool)).await?;
    Ok(())
}

async fn delete(database: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<(), Error> {
    let delete = sqlx::query("delete from outbox where event_id = any($1::uuid[])");
    answered(delete.bind(ids).execute(database)).await?;
    Ok(())
}

/// What waits for the broker now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutboxState {
    pub rows: i64,
    pub oldest_seconds: f64,
}

/// For the gauges: how many events wait, and how long the oldest has.
pub async fn outbox_state(pool: &PgPool) -> Result<OutboxState, Error> {
    let state = sqlx::query_as(
        "select count(*), coalesce(extract(epoch from now() - min(queued_at)), 0)::float8
           from outbox",
    );
    let (rows, oldest_seconds) = answered(state.fetch_one(pool)).await?;
    Ok(OutboxState { rows, oldest_seconds })
}
