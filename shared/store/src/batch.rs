//! Owns the shell's part of a batch: what is claimed before the decisions and written after them,
//! one round trip each. Refuses to know what was decided.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use saga::{Envelope, Trace};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;
use crate::lives::AHEAD;

/// What the claim found out.
#[derive(Debug)]
pub struct Claimed {
    /// The database's time at the start of the transaction.
    pub now: DateTime<Utc>,
    /// The ids that nobody has handled before.
    pub fresh: HashSet<Uuid>,
    /// The ids that nobody may handle, with why: see [`claim`].
    pub refused: HashMap<Uuid, &'static str>,
}

/// A known id that came with another body.
pub const ID_COLLISION: &str = "ID_COLLISION";
/// An unknown id from before the inbox's window: whether it was handled nobody can tell.
pub const TOO_OLD: &str = "TOO_OLD";
/// An id from beyond the weeks for which partitions are made.
pub const TOO_NEW: &str = "TOO_NEW";

/// Enters the events of a batch into the inbox of `consumer`. `ids` are distinct; `hashes` are of
/// their bodies.
///
/// An id is entered if its own time lies in the window: `window` back and four weeks ahead, by the
/// database's clock. One that is refused ([`ID_COLLISION`], [`TOO_OLD`], [`TOO_NEW`]) leaves no row;
/// one that is known stays known, however old.
pub async fn claim(
    tx: &mut PgConnection,
    consumer: &str,
    ids: &[Uuid],
    hashes: &[i64],
    window: Duration,
) -> Result<Claimed, Error> {
    let (now, fresh, clash, too_old, too_new): (_, Vec<Uuid>, Vec<Uuid>, Vec<Uuid>, Vec<Uuid>) =
        sqlx::query_as(
            "with span as materialized (
                 select uuid_floor(now() - $4::interval) as first,
                        uuid_floor(now() + $5::interval) as beyond
             ), t as (
                 select id, hash, id < first as too_old, id >= beyond as too_new
                   from span, unnest($1::uuid[], $2::bigint[]) as t(id, hash)
             ), known as materialized (
                 select event_id, body_hash
                   from inbox
                  where event_id = any($1::uuid[]) and consumer = $3
             ), fresh as (
                 insert into inbox (event_id, consumer, body_hash)
                 select id, $3, hash from t where not (too_old or too_new) order by id
                 on conflict do nothing
                 returning event_id
             )
             select now(),
                    array(select event_id from fresh),
                    array(select id from t join known on id = event_id where hash <> body_hash),
                    array(select id from t
                           where too_old and id not in (select event_id from known)),
                    array(select id from t
                           where too_new and id not in (select event_id from known))",
        )
        .bind(ids)
        .bind(hashes)
        .bind(consumer)
        .bind(window)
        .bind(AHEAD)
        .fetch_one(tx)
        .await?;
    let refused = [(clash, ID_COLLISION), (too_old, TOO_OLD), (too_new, TOO_NEW)];
    let refused =
        refused.into_iter().flat_map(|(ids, why)| ids.into_iter().map(move |id| (id, why)));
    Ok(Claimed { now, fresh: fresh.into_iter().collect(), refused: refused.collect() })
}

/// The scope of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub caller: String,
    pub method: String,
    /// The route's template (`/v1/orders/{id}/cancel`), not the path.
    pub route: String,
    pub key: String,
}

/// The answer that was given to the first request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub key: Key,
    /// SHA-256 of the request.
    pub fingerprint: Vec<u8>,
    pub status: u16,
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
}

/// The stored answers of some keys, in no order; a key without one is absent.
pub async fn keys(tx: &mut PgConnection, keys: &[&Key]) -> Result<Vec<KeyRecord>, Error> {
    type Row = (String, String, String, String, Vec<u8>, i16, Vec<u8>, Vec<u8>);
    let rows: Vec<Row> = sqlx::query_as(
        "select k.caller, k.method, k.route, k.key, k.fingerprint, k.status, k.headers, k.body
           from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as t(caller, method, route, key)
           join idempotency_keys k using (caller, method, route, key)",
    )
    .bind(column(keys, |key| key.caller.as_str()))
    .bind(column(keys, |key| key.method.as_str()))
    .bind(column(keys, |key| key.route.as_str()))
    .bind(column(keys, |key| key.key.as_str()))
    .fetch_all(tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(caller, method, route, key, fingerprint, status, headers, body)| KeyRecord {
            key: Key { caller, method, route, key },
            fingerprint,
            status: status.cast_unsigned(),
            headers,
            body,
        })
        .collect())
}

/// An event that was said: its envelope and its final bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub envelope: Envelope,
    pub body: Vec<u8>,
}

/// What of an envelope has no column.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub time: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Uuid>,
    #[serde(flatten)]
    pub trace: Trace,
}

/// An outside call that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub subject: Uuid,
    pub step: String,
    pub destination: String,
    pub path: String,
    pub idempotency_key: String,
    pub body: Vec<u8>,
    /// The event that wanted it, and its trace.
    pub origin: Origin,
    /// With a permit in hand the first attempt is counted now, and is due again after so long.
    pub attempt_ms: Option<i32>,
    /// `None`: a compensation, which has no deadline.
    pub life_ms: Option<i32>,
}

/// Where a call comes from: what its answer will name as its cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Uuid>,
    #[serde(flatten)]
    pub trace: Trace,
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

/// What gave up, kept as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// `consumer`, `call` or `outbox`.
    pub origin: &'static str,
    pub consumer: Option<String>,
    pub record: Option<Record>,
    pub subject: Option<Uuid>,
    pub code: String,
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
    pub attempts: i32,
}

/// Everything that the shell writes for one batch.
#[derive(Debug, Default)]
pub struct Commit {
    pub said: Vec<Said>,
    pub wanted: Vec<Wanted>,
    /// Calls that have their answer: subject and step.
    pub settled: Vec<(Uuid, String)>,
    /// Outbox ids that the broker has acknowledged since the last batch.
    pub acked: Vec<Uuid>,
    /// Answers to keyed requests; the keys are distinct.
    pub answers: Vec<KeyRecord>,
    pub dead: Vec<DeadLetter>,
}

/// Writes a batch in one round trip. A key that another instance was faster to take: [`Error::Rerun`].
pub async fn write(tx: &mut PgConnection, boot: i32, commit: &Commit) -> Result<(), Error> {
    let Commit { said, wanted, settled, acked, answers, dead } = commit;
    let records = |dead: &DeadLetter| dead.record.clone();
    let answered: i64 = sqlx::query_scalar(WRITE)
        .bind(column(said, |said| said.envelope.id))
        .bind(column(said, |said| said.envelope.subject))
        .bind(column(said, |said| said.envelope.version.map(u32::cast_signed)))
        .bind(column(said, |said| said.envelope.kind.to_string()))
        .bind(column(said, stored_headers))
        .bind(column(said, |said| said.body.as_slice()))
        .bind(boot)
        .bind(column(wanted, |call| call.subject))
        .bind(column(wanted, |call| call.step.as_str()))
        .bind(column(wanted, |call| call.destination.as_str()))
        .bind(column(wanted, |call| call.path.as_str()))
        .bind(column(wanted, |call| call.idempotency_key.as_str()))
        .bind(column(wanted, |call| call.body.as_slice()))
        .bind(column(wanted, |call| json(&call.origin)))
        .bind(column(wanted, |call| call.attempt_ms))
        .bind(column(wanted, |call| call.life_ms))
        .bind(column(settled, |(subject, _)| *subject))
        .bind(column(settled, |(_, step)| step.as_str()))
        .bind(acked)
        .bind(column(answers, |answer| answer.key.caller.as_str()))
        .bind(column(answers, |answer| answer.key.method.as_str()))
        .bind(column(answers, |answer| answer.key.route.as_str()))
        .bind(column(answers, |answer| answer.key.key.as_str()))
        .bind(column(answers, |answer| answer.fingerprint.as_slice()))
        .bind(column(answers, |answer| answer.status.cast_signed()))
        .bind(column(answers, |answer| answer.headers.as_slice()))
        .bind(column(answers, |answer| answer.body.as_slice()))
        .bind(column(dead, |_| Uuid::now_v7()))
        .bind(column(dead, |dead| dead.origin))
        .bind(column(dead, |dead| dead.consumer.clone()))
        .bind(column(dead, |dead| records(dead).map(|record| record.topic)))
        .bind(column(dead, |dead| records(dead).map(|record| record.partition)))
        .bind(column(dead, |dead| records(dead).map(|record| record.offset)))
        .bind(column(dead, |dead| dead.subject))
        .bind(column(dead, |dead| dead.code.as_str()))
        .bind(column(dead, |dead| dead.headers.as_slice()))
        .bind(column(dead, |dead| dead.body.as_slice()))
        .bind(column(dead, |dead| dead.attempts))
        .fetch_one(tx)
        .await?;
    if usize::try_from(answered) == Ok(answers.len()) {
        Ok(())
    } else {
        Err(Error::Rerun("another instance has answered one of these keys".into()))
    }
}

const WRITE: &str = "
with said as (
    insert into events (id, subject, version, type, headers, body)
    select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::bytea[], $6::bytea[])
), due as (
    insert into outbox (event_id, boot) select id, $7 from unnest($1::uuid[]) as id order by id
), wanted as (
    insert into calls (subject, step, destination, path, idempotency_key, body, headers,
                       attempts, boot, next_attempt_at, deadline)
    select subject, step, destination, path, key, body, headers,
           case when attempt_ms is null then 0 else 1 end,
           case when attempt_ms is null then null else $7 end,
           now() + coalesce(attempt_ms, 0) * interval '1 ms',
           now() + life_ms * interval '1 ms'
      from unnest($8::uuid[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[],
                  $14::bytea[], $15::int[], $16::int[])
        as t(subject, step, destination, path, key, body, headers, attempt_ms, life_ms)
     order by subject, step
    on conflict do nothing
), settled as (
    delete from calls c using unnest($17::uuid[], $18::text[]) as t(subject, step)
     where c.subject = t.subject and c.step = t.step
), acked as (
    delete from outbox where event_id = any($19::uuid[])
), answered as (
    insert into idempotency_keys (caller, method, route, key, fingerprint, status, headers, body)
    select * from unnest($20::text[], $21::text[], $22::text[], $23::text[],
                         $24::bytea[], $25::smallint[], $26::bytea[], $27::bytea[])
     order by 1, 2, 3, 4
    on conflict do nothing
    returning 1
), dead as (
    insert into dead_letters (id, origin, consumer, topic, partition, log_offset, subject, code,
                              headers, body, attempts)
    select * from unnest($28::uuid[], $29::text[], $30::text[], $31::text[], $32::int[],
                         $33::bigint[], $34::uuid[], $35::text[], $36::bytea[], $37::bytea[],
                         $38::int[])
    on conflict do nothing
)
select count(*) from answered";

fn stored_headers(said: &Said) -> Vec<u8> {
    let Envelope { time, cause, trace, .. } = &said.envelope;
    json(&Stored { time: *time, cause: *cause, trace: trace.clone() })
}

pub(crate) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("these types serialize to JSON without fail")
}

/// What `save` found written against what it asked for; short: somebody else was faster.
pub fn all_saved(saved: u64, asked: usize) -> Result<(), Error> {
    if usize::try_from(saved) == Ok(asked) {
        Ok(())
    } else {
        Err(Error::Rerun(format!("saved {saved} of {asked} rows")))
    }
}

/// One column of a batch, as an array to bind.
pub fn column<'a, T, C>(rows: &'a [T], cell: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(cell).collect()
}
