//! Owns the rows of orders and of their timeline: the only SQL of this service. Refuses to decide.

use std::sync::Arc;

use chassis::{Due, Rows, Seen, Stored, View};
use chrono::{DateTime, Utc};
use contracts::{Currency, Money, PaymentMethod, Reason};
use saga::Trace;
use sqlx::migrate::Migrator;
use sqlx::{PgConnection, PgPool};
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::domain::{Input, Order, State, Status};

/// An order is on its way for so long at most before its deadline is noticed: covers a commit that
/// was slower than the look at the clock.
const MARK_SLACK_SECONDS: i64 = 60;

#[derive(sqlx::FromRow)]
struct OrderRow {
    order_id: Uuid,
    caller: String,
    customer_id: String,
    lines: Vec<u8>,
    amount_minor: i64,
    currency: String,
    payment_method: String,
    ship_to: Vec<u8>,
    status: i16,
    reason: Option<String>,
    version: i32,
    said: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Stored for crate::Order {
    type Desk = Rows<State>;

    fn migrations() -> store::Migrations {
        static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/order");
        &MIGRATIONS
    }

    async fn load(tx: &mut PgConnection, batch: &[(Uuid, &Input)]) -> Result<Rows<State>, Error> {
        let rows: Vec<OrderRow> = sqlx::query_as(
            "select * from orders where order_id = any($1::uuid[]) order by order_id for update",
        )
        .bind(column(batch, |(order_id, _)| *order_id))
        .fetch_all(tx)
        .await?;
        Rows::read(rows.iter().map(|row| (row.order_id, row.version, row.said, state(row))))
    }

    /// What an order is never changes, so only its status is updated.
    async fn save(&self, tx: &mut PgConnection, desk: &Rows<State>) -> Result<(), Error> {
        let changed = desk.changed();
        let known: Vec<_> = (changed.iter())
            .filter_map(|(id, row)| match &row.state {
                State::Known(order, status) => Some((*id, &**order, columns(status), *row)),
                State::Absent => None,
            })
            .collect();
        if known.is_empty() {
            return Ok(());
        }
        let saved = sqlx::query(
            "insert into orders as o (order_id, caller, customer_id, lines, amount_minor, currency,
                                      payment_method, ship_to, status, reason, version, said,
                                      deadline_at)
             select t.*, now() + $13::interval
               from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bigint[],
                           $6::text[], $7::text[], $8::bytea[], $9::smallint[], $10::text[],
                           $11::int[], $12::int[]) as t
             on conflict (order_id) do update
                set status = excluded.status, reason = excluded.reason,
                    version = excluded.version, said = excluded.said, updated_at = now()
              where o.version = excluded.version - 1",
        )
        .bind(column(&known, |(id, ..)| *id))
        .bind(column(&known, |(_, order, ..)| order.caller.as_str()))
        .bind(column(&known, |(_, order, ..)| order.customer_id.as_str()))
        .bind(column(&known, |(_, order, ..)| json(&order.lines)))
        .bind(column(&known, |(_, order, ..)| order.total.amount_minor))
        .bind(column(&known, |(_, order, ..)| order.total.currency.as_str()))
        .bind(column(&known, |(_, order, ..)| order.payment_method.0.as_str()))
        .bind(column(&known, |(_, order, ..)| json(&order.ship_to)))
        .bind(column(&known, |(_, _, (status, _), _)| *status))
        .bind(column(&known, |(_, _, (_, reason), _)| reason.map(Reason::to_string)))
        .bind(column(&known, |(.., row)| row.version + 1))
        .bind(column(&known, |(.., row)| row.said))
        .bind(self.deadline)
        .execute(tx)
        .await?;
        all_saved(saved.rows_affected(), known.len())
    }

    /// Orders whose time was up since `mark` and that are still on their way, each with the trace
    /// that it was placed in.
    async fn due(
        connection: &mut PgConnection,
        mark: Option<DateTime<Utc>>,
    ) -> Result<Due<Input>, Error> {
        let since = mark.map(|mark| mark - chrono::Duration::seconds(MARK_SLACK_SECONDS));
        let rows: Vec<(DateTime<Utc>, Option<Uuid>, Option<String>)> = sqlx::query_as(
            "select c.now, o.order_id, convert_from(e.headers, 'UTF8')::json ->> 'traceparent'
               from (select now()) c
               left join orders o
                 on o.deadline_at <= c.now and o.deadline_at > coalesce($1, c.now - interval '30 days')
                and o.status = 1
               left join timeline t on t.order_id = o.order_id and t.type = 'OrderPlaced'
               left join events e on e.id = t.event_id",
        )
        .bind(since)
        .fetch_all(connection)
        .await?;
        let mark = rows.first().map(|(now, ..)| *now);
        let inputs = rows.into_iter().filter_map(|(_, order_id, traceparent)| {
            let trace = traceparent.map(|traceparent| Trace { traceparent, ..Trace::default() });
            Some((order_id?, Input::Expire, trace))
        });
        Ok(Due { mark, inputs: inputs.collect() })
    }

    fn views() -> Vec<View> {
        vec![View {
            group: "order-view",
            producers: &["order", "inventory", "payment", "shipping"],
            insert: |tx, seen| Box::pin(insert_timeline(tx, seen)),
        }]
    }
}

/// `None`: a row that no code of ours has written.
fn state(row: &OrderRow) -> Option<State> {
    let order = Order {
        lines: serde_json::from_slice(&row.lines).ok()?,
        ship_to: serde_json::from_slice(&row.ship_to).ok()?,
        total: Money::new(row.amount_minor, row.currency.parse::<Currency>().ok()?),
        payment_method: PaymentMethod(row.payment_method.clone()),
        caller: row.caller.clone(),
        customer_id: row.customer_id.clone(),
    };
    let reason = row.reason.as_deref().and_then(|reason| reason.parse::<Reason>().ok());
    let status = match row.status {
        1 => Status::Pending,
        2 => Status::Cancelling(reason?),
        3 => Status::Confirmed { too_late: false },
        4 => Status::Confirmed { too_late: true },
        5 => Status::Cancelled(reason?),
        _ => return None,
    };
    Some(State::Known(Arc::new(order), status))
}

fn columns(status: &Status) -> (i16, Option<&Reason>) {
    match status {
        Status::Pending => (1, None),
        Status::Cancelling(reason) => (2, Some(reason)),
        Status::Confirmed { too_late: false } => (3, None),
        Status::Confirmed { too_late: true } => (4, None),
        Status::Cancelled(reason) => (5, Some(reason)),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("lines and addresses hold strings and integers only")
}

/// An event of an order's story.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Told {
    pub event_id: Uuid,
    pub service: String,
    pub version: Option<i32>,
    #[sqlx(rename = "type")]
    pub kind: String,
    pub cause: Option<Uuid>,
    pub at: DateTime<Utc>,
    pub body: Vec<u8>,
}

/// One insert for a batch; what is there already is left alone.
async fn insert_timeline(tx: &mut PgConnection, seen: &[Seen]) -> Result<(), Error> {
    sqlx::query(
        "insert into timeline (order_id, event_id, service, version, type, cause, at, body)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::int[], $5::text[], $6::uuid[],
                              $7::timestamptz[], $8::bytea[])
         on conflict do nothing",
    )
    .bind(column(seen, |seen| seen.envelope.subject))
    .bind(column(seen, |seen| seen.envelope.id))
    .bind(column(seen, |seen| seen.envelope.kind.producer.as_ref()))
    .bind(column(seen, |seen| seen.envelope.version.map(u32::cast_signed)))
    .bind(column(seen, |seen| seen.envelope.kind.name.as_ref()))
    .bind(column(seen, |seen| seen.envelope.cause))
    .bind(column(seen, |seen| seen.envelope.time))
    .bind(column(seen, |seen| seen.body.as_slice()))
    .execute(tx)
    .await?;
    Ok(())
}

/// What there is to show of an order.
pub(crate) struct Shown {
    pub order: Arc<Order>,
    pub status: Status,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// An order of this caller's; somebody else's is as absent as one that is not there.
pub(crate) async fn find(
    pool: &PgPool,
    caller: &str,
    order_id: Uuid,
) -> Result<Option<Shown>, Error> {
    let row: Option<OrderRow> =
        sqlx::query_as("select * from orders where order_id = $1 and caller = $2")
            .bind(order_id)
            .bind(caller)
            .fetch_optional(pool)
            .await?;
    Ok(row.and_then(|row| match state(&row)? {
        State::Known(order, status) => {
            Some(Shown { order, status, created_at: row.created_at, updated_at: row.updated_at })
        }
        State::Absent => None,
    }))
}

/// The story so far, by service and number.
pub(crate) async fn timeline(pool: &PgPool, order_id: Uuid) -> Result<Vec<Told>, Error> {
    Ok(sqlx::query_as(
        "select event_id, service, version, type, cause, at, body
           from timeline
          where order_id = $1
          order by service, version",
    )
    .bind(order_id)
    .fetch_all(pool)
    .await?)
}
