//! Owns how a world is read. Refuses to change anything, and to read a cause before its effect.
//!
//! The ledger is read first: an entry in it was wanted by a row that had been committed before, so
//! that row is in what is read next. That is all four schemas in one snapshot, which they can be
//! because they lie in one database: whatever a service did because of another's event comes with
//! that event, whichever way the train was running. So between two tables nothing is skewed, and of
//! the ledger only "what is here was wanted there" may be said while orders run.
//!
//! Topics and answers over HTTP come last, and are judged only when nothing moves.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, FromRow, SqlSafeStr};
use uuid::Uuid;

use super::topics;
use super::world::{Event, OrderRow, Outside, ReservationRow, StepRow, World};
use crate::saga::everywhere;
use crate::stack::Stack;
use crate::wire::Shown;

const SNAPSHOT: &str = "begin isolation level repeatable read read only";
const ASKED_AT_ONCE_MAX: usize = 64;

impl World {
    /// What [`super::always`] looks at.
    pub async fn read(stack: &Stack) -> anyhow::Result<Self> {
        Self::of(stack, false).await
    }

    /// The same with what [`super::quiet`] looks at.
    pub async fn read_in_full(stack: &Stack) -> anyhow::Result<Self> {
        Self::of(stack, true).await
    }

    pub(super) async fn of(stack: &Stack, in_full: bool) -> anyhow::Result<Self> {
        let ledger = stack.client.ledger(None).await?;
        let mut connection = stack.tables.acquire().await?;
        let mut snapshot = connection.begin_with(SNAPSHOT).await?;
        let mut world = tables(&mut snapshot, in_full).await?;
        world.ledger = ledger;
        if in_full {
            let timeline = all(&mut snapshot, TIMELINE).await?;
            drop(snapshot);
            let records = topics::read(&stack.bootstrap()).await?;
            let shown = shown(stack, world.orders.keys().copied()).await?;
            world.outside = Some(Outside { records, timeline, shown });
        }
        Ok(world)
    }
}

async fn tables(tx: &mut PgConnection, in_full: bool) -> anyhow::Result<World> {
    let orders: Vec<OrderRow> = all(tx, ORDERS).await?;
    let reservations: Vec<ReservationRow> = all(tx, RESERVATIONS).await?;
    let payments: Vec<StepRow> = all(tx, PAYMENTS).await?;
    let shipments: Vec<StepRow> = all(tx, SHIPMENTS).await?;
    let body = if in_full { "body" } else { "''::bytea" };
    let events = AssertSqlSafe(everywhere(&EVENTS.replace("{body}", body)));
    let mut events: Vec<Event> = all(tx, events).await?;
    events.sort_by(|a, b| {
        (a.subject, &a.service, a.version).cmp(&(b.subject, &b.service, b.version))
    });
    Ok(World {
        ledger: Vec::new(),
        orders: orders.into_iter().map(|row| (row.order_id, row)).collect(),
        reservations: reservations.into_iter().map(|row| (row.order_id, row)).collect(),
        payments: payments.into_iter().map(|row| (row.order_id, row)).collect(),
        shipments: shipments.into_iter().map(|row| (row.order_id, row)).collect(),
        shelves: all(tx, SHELVES).await?,
        events,
        outbox: all(tx, AssertSqlSafe(everywhere(OUTBOX))).await?,
        inbox: all(tx, AssertSqlSafe(everywhere(INBOX))).await?,
        calls: all(tx, AssertSqlSafe(everywhere(CALLS))).await?,
        dead_letters: all(tx, AssertSqlSafe(everywhere(LETTERS))).await?,
        answers: all(tx, ANSWERS).await?,
        outside: None,
    })
}

async fn all<T>(tx: &mut PgConnection, sql: impl SqlSafeStr) -> anyhow::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    Ok(sqlx::query_as(sql).fetch_all(tx).await?)
}

/// What the customer is shown of each order.
async fn shown(
    stack: &Stack,
    orders: impl Iterator<Item = Uuid>,
) -> anyhow::Result<BTreeMap<Uuid, Shown>> {
    let asked = orders.map(async |order_id| {
        let shown = stack.client.order(order_id).await?;
        anyhow::Ok((order_id, shown))
    });
    stream::iter(asked).buffer_unordered(ASKED_AT_ONCE_MAX).try_collect().await
}

const ORDERS: &str = "
select order_id, status, said, reason, amount_minor,
       jsonb_build_object(
           'customer_id', customer_id,
           'currency', currency,
           'lines', convert_from(lines, 'UTF8')::jsonb,
           'payment_method', payment_method,
           'ship_to', convert_from(ship_to, 'UTF8')::jsonb) as asked
  from \"order\".orders";

const RESERVATIONS: &str = "
select order_id, status, said, convert_from(held, 'UTF8')::jsonb as held
  from inventory.reservations";

const PAYMENTS: &str = "select order_id, status, said from payment.payments";

const SHIPMENTS: &str = "select order_id, status, said from shipping.shipments";

const SHELVES: &str = "
select sku, coalesce(available, 0) as available, coalesce(counted, 0)::bigint as counted
  from inventory.stock
  full join (select sku, sum(delta) as counted from inventory.stock_changes group by sku) changes
 using (sku)";

const EVENTS: &str = "
select '{schema}' as service, id, subject, version, type as kind,
       (convert_from(headers, 'UTF8')::json ->> 'cause')::uuid as cause, {body} as body,
       tableoid = '\"{schema}\".events_default'::regclass as is_stray
  from \"{schema}\".events";

const OUTBOX: &str = "select '{schema}' as service, event_id from \"{schema}\".outbox";

const INBOX: &str = "
select event_id, consumer, tableoid = '\"{schema}\".inbox_default'::regclass as is_stray
  from \"{schema}\".inbox";

const CALLS: &str = "
select '{schema}' as service, subject, step, idempotency_key, attempts, in_doubt,
       next_attempt_at = 'infinity' as is_stuck,
       case when next_attempt_at < 'infinity'
            then extract(epoch from next_attempt_at - deadline)::float8 end as late_seconds
  from \"{schema}\".calls";

const LETTERS: &str = "
select '{schema}' as service, coalesce(consumer, origin) as consumer, code, subject, headers
  from \"{schema}\".dead_letters
 where state in ('open', 'replaying')";

const ANSWERS: &str = "
select route, key, status, (convert_from(body, 'UTF8')::json ->> 'order_id')::uuid as order_id
  from \"order\".idempotency_keys";

const TIMELINE: &str = "
select order_id, event_id, service, version, type as name, cause from \"order\".timeline";
