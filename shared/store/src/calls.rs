//! Owns the rows of outside calls between their attempts. Refuses to judge an outcome.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::batch::{Commit, DeadLetter, Origin, column, write};
use crate::db::answered;
use crate::outbox::living;
use crate::{Db, Error};

/// A call whose next attempt has just been counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCall {
    pub subject: Uuid,
    pub step: String,
    pub path: String,
    pub idempotency_key: String,
    pub body: Vec<u8>,
    pub origin: Origin,
    /// With this one.
    pub attempts: u32,
    /// Some attempt ended without a definite answer, or died with its process.
    pub in_doubt: bool,
    pub age_ms: u64,
    /// `None`: a compensation.
    pub life_ms: Option<u64>,
}

/// The most that [`due_calls`] takes at once. A literal stands in the statement: with a parameter for
/// a limit the planner reads the whole table.
pub const DUE_CALLS_MAX: usize = 100;

/// Counts an attempt of up to `permits` calls of a destination that are due, or whose process
/// died, and takes them. `attempt` is the time after which they are due again.
pub async fn due_calls(
    db: &Db,
    destination: &str,
    boot: i32,
    permits: usize,
    attempt: Duration,
) -> Result<Vec<DueCall>, Error> {
    let due = sqlx::query_as::<_, Row>(concat!(
        "with living as materialized (",
        living!(),
        // Whoever asks lives, even while its lock's connection is lost: its attempts are under way.
        " union select $2
         ) update calls c
            set attempts = c.attempts + 1,
                in_doubt = c.in_doubt or c.boot is not null,
                boot = $2,
                next_attempt_at = now() + $4::interval
           from (select subject, step, row_number() over () as place
                   from (select subject, step
                           from calls
                          where destination = $1
                            and next_attempt_at < 'infinity'
                            and (next_attempt_at <= now() or boot not in (table living))
                          order by next_attempt_at
                          limit 100
                            for update skip locked) ripe) due
          where c.subject = due.subject and c.step = due.step and due.place <= $3
      returning c.subject, c.step, c.path, c.idempotency_key, c.body, c.headers, c.attempts,
                c.in_doubt, now(), c.created_at, c.deadline",
    ))
    .bind(destination)
    .bind(boot)
    .bind(i64::try_from(permits).unwrap_or(i64::MAX))
    .bind(attempt);
    let rows = answered(due.fetch_all(db.autocommit())).await?;
    Ok(rows.into_iter().map(due_call).collect())
}

type Row = (
    Uuid,
    String,
    String,
    String,
    Vec<u8>,
    Vec<u8>,
    i32,
    bool,
    DateTime<Utc>,
    DateTime<Utc>,
    Option<DateTime<Utc>>,
);

fn due_call(row: Row) -> DueCall {
    let (
        subject,
        step,
        path,
        idempotency_key,
        body,
        headers,
        attempts,
        in_doubt,
        now,
        born,
        deadline,
    ) = row;
    // Only where it belongs in a trace: a call is made without it, too.
    let origin = serde_json::from_slice(&headers).unwrap_or_default();
    let since_birth = |at: DateTime<Utc>| (at - born).num_milliseconds().max(0).cast_unsigned();
    DueCall {
        subject,
        step,
        path,
        idempotency_key,
        body,
        origin,
        attempts: attempts.cast_unsigned(),
        in_doubt,
        age_ms: since_birth(now),
        life_ms: deadline.map(since_birth),
    }
}

/// What an attempt without a definite outcome leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub in_doubt: bool,
    pub error_code: String,
    /// How long to wait before the next one.
    pub wait: Duration,
}

/// Notes an attempt that settled nothing. It does nothing when somebody else has taken the call
/// since.
pub async fn note_attempt(
    db: &Db,
    call: (Uuid, &str),
    attempts: u32,
    boot: i32,
    attempt: &Attempt,
) -> Result<(), Error> {
    let (subject, step) = call;
    let note = sqlx::query(
        "update calls
            set boot = null, last_outcome = 0, in_doubt = in_doubt or $4, error_code = $5,
                next_attempt_at = now() + $6::interval
          where subject = $1 and step = $2 and boot = $3 and attempts = $7",
    )
    .bind(subject)
    .bind(step)
    .bind(boot)
    .bind(attempt.in_doubt)
    .bind(&attempt.error_code)
    .bind(attempt.wait)
    .bind(attempts.cast_signed());
    answered(note.execute(db.autocommit())).await?;
    Ok(())
}

/// Of calls with an attempt each, those whose attempt is still the only one, locked to the end of the
/// transaction: a refusal that it got is definite. Of the others somebody has made another attempt
/// since, which may have its effect, or they are settled.
pub async fn untouched(
    tx: &mut PgConnection,
    calls: &[(Uuid, &str, u32)],
) -> Result<HashSet<(Uuid, String)>, Error> {
    let untouched: Vec<(Uuid, String)> = sqlx::query_as(
        "select c.subject, c.step
           from unnest($1::uuid[], $2::text[], $3::int[]) as t(subject, step, attempts)
           join calls c using (subject, step)
          where c.attempts = t.attempts and not c.in_doubt
          order by c.subject, c.step
            for update of c",
    )
    .bind(column(calls, |(subject, ..)| *subject))
    .bind(column(calls, |(_, step, _)| *step))
    .bind(column(calls, |(.., attempts)| attempts.cast_signed()))
    .fetch_all(tx)
    .await?;
    Ok(untouched.into_iter().collect())
}

/// Sets a call aside: it stays, is never due again, and its dead letter says so, both or neither.
/// A call that is settled or stuck already is left alone; `whatever`: there is a dead letter even
/// then.
pub async fn stick(
    db: &Db,
    call: (Uuid, &str),
    in_doubt: bool,
    letter: &DeadLetter,
    whatever: bool,
) -> Result<(), Error> {
    let (subject, step) = call;
    db.with_tx(async |tx| {
        let stuck: Option<(Vec<u8>, Vec<u8>, i32)> = sqlx::query_as(
            "update calls
                set boot = null, in_doubt = in_doubt or $3, error_code = $4,
                    next_attempt_at = 'infinity'
              where subject = $1 and step = $2 and next_attempt_at < 'infinity'
          returning headers, body, attempts",
        )
        .bind(subject)
        .bind(step)
        .bind(in_doubt)
        .bind(&letter.code)
        .fetch_optional(&mut *tx)
        .await?;
        let letter = match stuck {
            Some((headers, body, attempts)) => {
                DeadLetter { headers, body, attempts, ..letter.clone() }
            }
            None if whatever => letter.clone(),
            None => return Ok(()),
        };
        write(tx, 0, &Commit { dead: vec![letter], ..Commit::default() }).await
    })
    .await
}
