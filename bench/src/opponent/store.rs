//! Owns the opponents' SQL: their outbox, and single rows of the tables that they share with
//! Switchback (`inbox`, `calls`, `idempotency_keys`). Refuses to touch a participant's own tables.

use chrono::{DateTime, Utc};
use saga::{Envelope, EventType};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres, Transaction};
use store::{Error, KeyRecord, Origin};
use uuid::Uuid;

use super::Kind;

/// After so long a call without a definite answer is made again; a request takes at most three.
const CALL_AGAIN: &str = "5 seconds";

/// Makes the outbox of an opponent as the schema's owner, and the pool of the service's own role.
pub async fn open(owner_url: &str, app_url: &str, kind: Kind) -> Result<PgPool, sqlx::Error> {
    let outbox = match kind {
        Kind::Textbook => include_str!("../../migrations/textbook.sql"),
        Kind::Tuned => include_str!("../../migrations/tuned.sql"),
    };
    let mut owner = PgConnection::connect(owner_url).await?;
    sqlx::raw_sql(outbox).execute(&mut owner).await?;
    // The weeks of `inbox`.
    sqlx::query("select ensure_partitions(1, 1)").execute(&mut owner).await?;
    owner.close().await?;
    let pool = PgPoolOptions::new().max_connections(kind.connections_max());
    pool.test_before_acquire(false).connect(app_url).await
}

#[expect(clippy::disallowed_methods, reason = "no task that begins here is dropped half-way")]
pub async fn transaction(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin().await
}

/// An event in the outbox.
#[derive(sqlx::FromRow)]
pub struct Message {
    pub id: Uuid,
    subject: Uuid,
    version: i32,
    #[sqlx(rename = "type")]
    kind: String,
    headers: Vec<u8>,
    pub body: Vec<u8>,
    /// When it was said; the database writes it.
    created_at: DateTime<Utc>,
}

impl Message {
    pub fn new(
        subject: Uuid,
        version: u32,
        kind: &EventType,
        origin: &Origin,
        body: Vec<u8>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            subject,
            version: version.cast_signed(),
            kind: kind.to_string(),
            headers: headers(origin),
            body,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    pub fn envelope(&self) -> anyhow::Result<Envelope> {
        let Origin { cause, trace } = serde_json::from_slice(&self.headers)?;
        Ok(Envelope {
            id: self.id,
            kind: self.kind.parse()?,
            time: self.created_at,
            subject: self.subject,
            version: Some(self.version.cast_unsigned()),
            cause,
            trace,
        })
    }
}

/// An outside call that is wanted and has no answer yet.
#[derive(sqlx::FromRow)]
pub struct Call {
    pub subject: Uuid,
    pub step: String,
    pub destination: String,
    pub path: String,
    pub idempotency_key: String,
    pub body: Vec<u8>,
    headers: Vec<u8>,
}

impl Call {
    pub fn new(subject: Uuid, wanted: calls::Wanted, origin: &Origin) -> Self {
        Self {
            subject,
            step: wanted.step.to_owned(),
            destination: wanted.destination.to_owned(),
            path: wanted.path.to_owned(),
            idempotency_key: format!("{subject}-{}", wanted.step),
            body: wanted.body,
            headers: headers(origin),
        }
    }

    pub fn origin(&self) -> Origin {
        serde_json::from_slice(&self.headers).unwrap_or_default()
    }
}

fn headers(origin: &Origin) -> Vec<u8> {
    serde_json::to_vec(origin).expect("an origin is made of strings")
}

/// `false`: this event was handled before.
pub async fn claim(tx: &mut PgConnection, consumer: &str, event: Uuid) -> Result<bool, Error> {
    let inserted = sqlx::query(
        "insert into inbox (event_id, consumer, body_hash) values ($1, $2, 0)
         on conflict do nothing",
    )
    .bind(event)
    .bind(consumer)
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// `false`: this call had its answer before.
pub async fn settle(tx: &mut PgConnection, subject: Uuid, step: &str) -> Result<bool, Error> {
    let deleted = sqlx::query("delete from calls where subject = $1 and step = $2")
        .bind(subject)
        .bind(step)
        .execute(tx)
        .await?;
    Ok(deleted.rows_affected() == 1)
}

pub async fn say(tx: &mut PgConnection, message: &Message) -> Result<(), Error> {
    sqlx::query(
        "insert into outbox_messages (id, subject, version, type, headers, body)
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(message.id)
    .bind(message.subject)
    .bind(message.version)
    .bind(&message.kind)
    .bind(&message.headers)
    .bind(&message.body)
    .execute(tx)
    .await?;
    Ok(())
}

/// Its first attempt follows the commit.
pub async fn want(tx: &mut PgConnection, call: &Call) -> Result<(), Error> {
    sqlx::query(
        "insert into calls (subject, step, destination, path, idempotency_key, body, headers,
                            attempts, next_attempt_at)
         values ($1, $2, $3, $4, $5, $6, $7, 1, now() + $8::interval)
         on conflict do nothing",
    )
    .bind(call.subject)
    .bind(&call.step)
    .bind(&call.destination)
    .bind(&call.path)
    .bind(&call.idempotency_key)
    .bind(&call.body)
    .bind(&call.headers)
    .bind(CALL_AGAIN)
    .execute(tx)
    .await?;
    Ok(())
}

/// Fails when another request with this key was faster.
pub async fn answer(tx: &mut PgConnection, record: &KeyRecord) -> Result<(), Error> {
    let inserted = sqlx::query(
        "insert into idempotency_keys (caller, method, route, key, fingerprint, status, headers, body)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict do nothing",
    )
    .bind(&record.key.caller)
    .bind(&record.key.method)
    .bind(&record.key.route)
    .bind(&record.key.key)
    .bind(&record.fingerprint)
    .bind(record.status.cast_signed())
    .bind(&record.headers)
    .bind(&record.body)
    .execute(tx)
    .await?;
    store::all_saved(inserted.rows_affected(), 1)
}

/// Calls whose last attempt brought no answer, or died with its process.
pub async fn due_calls(pool: &PgPool) -> Result<Vec<Call>, sqlx::Error> {
    sqlx::query_as(
        "update calls c
            set attempts = c.attempts + 1, next_attempt_at = now() + $1::interval
           from (select subject, step from calls where next_attempt_at <= now()
                  order by next_attempt_at limit 100 for update skip locked) due
          where c.subject = due.subject and c.step = due.step
      returning c.subject, c.step, c.destination, c.path, c.idempotency_key, c.body, c.headers",
    )
    .bind(CALL_AGAIN)
    .fetch_all(pool)
    .await
}

/// The textbook's poll.
pub async fn unpublished(pool: &PgPool) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(
        "select id, subject, version, type, headers, body, created_at
           from outbox_messages where published_at is null order by id limit 100",
    )
    .fetch_all(pool)
    .await
}

pub async fn mark_published(pool: &PgPool, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("update outbox_messages set published_at = now() where id = $1")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(())
}

/// The tuned poll: what is returned is locked to the end of the transaction.
pub async fn take_messages(
    tx: &mut PgConnection,
    messages_max: i64,
) -> Result<Vec<Message>, sqlx::Error> {
    sqlx::query_as(
        "select id, subject, version, type, headers, body, created_at
           from outbox_messages order by id limit $1 for update skip locked",
    )
    .bind(messages_max)
    .fetch_all(tx)
    .await
}

pub async fn delete_messages(tx: &mut PgConnection, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query("delete from outbox_messages where id = any($1)").bind(ids).execute(tx).await?;
    Ok(())
}

/// What a customer is told of an order.
pub async fn order_status(pool: &PgPool, order_id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select case status when 1 then 'pending' when 2 then 'cancelling'
                            when 5 then 'cancelled' else 'confirmed' end
           from orders where order_id = $1",
    )
    .bind(order_id)
    .fetch_optional(pool)
    .await
}

pub async fn is_reachable(pool: &PgPool) -> bool {
    sqlx::query("select 1").execute(pool).await.is_ok()
}
