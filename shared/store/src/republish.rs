//! Owns events that go out once more, because the broker has lost them. Refuses to send anything:
//! they are put into the outbox, from where they are due at once.

use std::time::Duration;

use uuid::Uuid;

use crate::db::answered;
use crate::outbox::NOBODY;
use crate::{Db, Error};

const SLICE_EVENTS: i64 = 10_000;

/// Goes through the events of a span of time, oldest first, a slice at a time. One that broke off
/// is begun anew: what is in the outbox already is not put there twice.
#[derive(Debug)]
pub struct Republish {
    db: Db,
    /// The row that tells of it; none for a rehearsal.
    id: Option<i64>,
    /// The last id that was looked at.
    low: Uuid,
    until: Uuid,
    done: bool,
}

impl Republish {
    /// Only counts.
    pub async fn rehearse(db: &Db, back: Duration) -> Result<Self, Error> {
        let span = sqlx::query_as(
            "select null::bigint, uuid_floor(now() - $1::interval), uuid_floor(now())",
        );
        Ok(Self::over(db, answered(span.bind(back).fetch_one(db.autocommit())).await?))
    }

    /// Leaves a row that says who wanted it and why.
    pub async fn begin(db: &Db, back: Duration, reason: &str, by: &str) -> Result<Self, Error> {
        let begun = sqlx::query_as(
            "insert into republishes (since, until, reason, asked_by)
             values (now() - $1::interval, now(), $2, $3)
             returning id, uuid_floor(since), uuid_floor(until)",
        );
        let begun = begun.bind(back).bind(reason).bind(by);
        Ok(Self::over(db, answered(begun.fetch_one(db.autocommit())).await?))
    }

    fn over(db: &Db, (id, low, until): (Option<i64>, Uuid, Uuid)) -> Self {
        Self { db: db.clone(), id, low, until, done: false }
    }

    /// The next slice: how many events are put into the outbox, or would be. `None`: that was all.
    pub async fn slice(&mut self) -> Result<Option<u64>, Error> {
        if self.done {
            return Ok(None);
        }
        let slice = match self.id {
            Some(id) => sqlx::query_as(QUEUE)
                .bind(self.low)
                .bind(self.until)
                .bind(SLICE_EVENTS)
                .bind(id)
                .bind(NOBODY),
            None => sqlx::query_as(COUNT).bind(self.low).bind(self.until).bind(SLICE_EVENTS),
        };
        let (found, queued, last): (i64, i64, Option<Uuid>) =
            answered(slice.fetch_one(self.db.autocommit())).await?;
        self.done = found < SLICE_EVENTS;
        self.low = last.unwrap_or(self.low);
        Ok(Some(queued.unsigned_abs()))
    }
}

const COUNT: &str = "
select count(*), count(*), (array_agg(id order by id desc))[1]
  from (select id from events where id > $1 and id < $2 order by id limit $3) slice";

const QUEUE: &str = "
with slice as (
    select id from events where id > $1 and id < $2 order by id limit $3
), queued as (
    insert into outbox (event_id, boot) select id, $5 from slice order by id
    on conflict do nothing
    returning 1
), noted as (
    update republishes
       set events = events + (select count(*) from queued),
           finished_at = case when (select count(*) from slice) < $3 then now() end
     where id = $4
)
select count(*), (select count(*) from queued), (array_agg(id order by id desc))[1] from slice";
