//! Owns all there is to see of one order: four rows, what was said and handled, the ledger, and
//! what the customer is shown. Refuses to judge it: that is the judge's part.

mod judge;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use testkit::wait;
use uuid::Uuid;

use crate::SERVICES;
use crate::check::rules;
use crate::stack::Stack;
use crate::wire::{Entry, Line, Shown, Timeline};

const QUIET_MAX: Duration = Duration::from_secs(40);

/// Everything about one order.
#[derive(Debug, Clone)]
pub struct Saga {
    pub order_id: Uuid,
    pub is_over: bool,
    pub order: OrderRow,
    pub reservation: Option<ReservationRow>,
    /// Status; nothing without a row.
    pub payment: Option<i16>,
    pub shipment: Option<i16>,
    /// By service and number.
    pub events: Vec<Event>,
    /// Event ids with the services whose inbox has them.
    pub handled: Vec<(Uuid, String)>,
    /// Event ids that the broker has not acknowledged.
    pub unsent: Vec<Uuid>,
    /// Outside calls that are not settled.
    pub calls: i64,
    pub dead_letters: i64,
    pub ledger: Vec<Entry>,
    pub shown: Shown,
    pub timeline: Timeline,
}

#[derive(Debug, Clone, FromRow)]
pub struct OrderRow {
    pub status: i16,
    /// JSON, as `held` is.
    pub lines: String,
    pub amount_minor: i64,
    pub currency: String,
    pub reason_code: Option<String>,
    pub reason_service: Option<String>,
}

#[derive(Debug, Clone, FromRow)]
pub struct ReservationRow {
    pub status: i16,
    pub held: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Event {
    pub service: String,
    pub id: Uuid,
    pub version: Option<i32>,
    /// The full type; see [`Event::name`].
    pub kind: String,
}

impl Event {
    /// `OrderPlaced` of `switchback.order.OrderPlaced.v1`.
    pub fn name(&self) -> &str {
        rules::name_of(&self.kind)
    }
}

/// Waits until nothing moves about an order any more, then judges it.
pub async fn judge(stack: &Stack, order_id: Uuid) -> anyhow::Result<Saga> {
    let saga = quiet(stack, order_id).await?;
    let violations = saga.violations();
    ensure!(violations.is_empty(), "order {order_id}: {}\n{saga:#?}", violations.join("; "));
    Ok(saga)
}

async fn quiet(stack: &Stack, order_id: Uuid) -> anyhow::Result<Saga> {
    let mut moving = String::new();
    let what = format!("order {order_id} to be quiet");
    let quiet = wait::until(QUIET_MAX, &what, async || {
        match Saga::read(stack, order_id).await {
            Ok(saga) => match saga.still_moving() {
                None => return Some(saga),
                Some(what) => moving = what,
            },
            Err(error) => moving = format!("{error:#}"),
        }
        None
    });
    quiet.await.with_context(|| moving.clone())
}

impl Saga {
    /// Whether it is over is read first and its rows last, so that what looks finished is finished.
    async fn read(stack: &Stack, order_id: Uuid) -> anyhow::Result<Self> {
        let tables = &stack.tables;
        let is_over = stack.client.order(order_id).await?.is_terminal();
        let events = events(tables, order_id).await?;
        let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
        let handled = handled(tables, &ids).await?;
        let unsent = unsent(tables, &ids).await?;
        let calls = count(tables, "calls", order_id).await?;
        let dead_letters = count(tables, "dead_letters", order_id).await?;
        ensure!(self::events(tables, order_id).await? == events, "more was said meanwhile");
        Ok(Self {
            order_id,
            order: row(tables, ORDER, order_id).await?.context("there is no such order")?,
            reservation: row(tables, RESERVATION, order_id).await?,
            payment: status(tables, PAYMENT, order_id).await?,
            shipment: status(tables, SHIPMENT, order_id).await?,
            events,
            handled,
            unsent,
            calls,
            dead_letters,
            is_over,
            ledger: stack.client.ledger(Some(order_id)).await?,
            shown: stack.client.order(order_id).await?,
            timeline: stack.client.timeline(order_id).await?,
        })
    }

    /// What has not come to its end yet.
    fn still_moving(&self) -> Option<String> {
        if !self.is_over {
            let said: Vec<&str> = self.events.iter().map(Event::name).collect();
            let rows = (&self.reservation, self.payment, self.shipment, self.calls);
            return Some(format!("it is {}: {said:?}, {rows:?}", self.shown.status));
        }
        if self.calls > 0 || !self.unsent.is_empty() {
            return Some(format!("{} calls, {} unsent events", self.calls, self.unsent.len()));
        }
        if self.timeline.items.len() < self.events.len() {
            return Some("the timeline is behind".to_owned());
        }
        let open = self.events.iter().find_map(|event| {
            let by = self.unheard(event).first().copied()?;
            Some(format!("{by} has not handled {}", event.name()))
        });
        // What is set aside is handled by nobody, and that is judged elsewhere.
        open.filter(|_| self.dead_letters == 0)
    }

    /// Who should have handled an event and has not.
    fn unheard(&self, event: &Event) -> Vec<&'static str> {
        let has = |service: &str| {
            self.handled.iter().any(|(id, handler)| *id == event.id && handler == service)
        };
        rules::hearers(event.name()).iter().filter(|service| !has(service)).copied().collect()
    }

    /// What a service said, in its own order.
    pub fn said(&self, service: &str) -> Vec<&str> {
        let own = self.events.iter().filter(|event| event.service == service);
        own.map(Event::name).collect()
    }

    /// Fails unless the customer sees this end, for this reason.
    pub fn ended_as(&self, status: &str, reason: Option<(&str, &str)>) -> anyhow::Result<()> {
        let outcome = self.outcome();
        ensure!(outcome == (status, reason), "order {} ended as {outcome:?}", self.order_id);
        Ok(())
    }

    /// Fails unless this is what became of inventory, payment and shipping.
    pub fn effects_are(&self, wanted: [&str; 3]) -> anyhow::Result<()> {
        let effects = self.shown.effects.as_ref().context("no effects are shown")?;
        let found = [&effects.inventory, &effects.payment, &effects.shipping];
        let found = found.map(|effect| effect.status.as_str());
        ensure!(found == wanted, "order {} shows {found:?}", self.order_id);
        Ok(())
    }

    fn outcome(&self) -> (&str, Option<(&str, &str)>) {
        let reason = self.shown.reason.as_ref();
        let reason = reason.map(|reason| (reason.code.as_str(), reason.service.as_str()));
        (&self.shown.status, reason)
    }

    /// Whether a cancel was on its way and the order arrived all the same.
    pub fn was_cancelled_too_late(&self) -> bool {
        self.order.status == rules::CONFIRMED_TOO_LATE
    }

    /// Units by SKU that the order asks for.
    fn wanted(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let lines: Vec<Line> = serde_json::from_str(&self.order.lines)?;
        let mut units = BTreeMap::new();
        for line in lines {
            *units.entry(line.sku).or_default() += i64::from(line.quantity);
        }
        Ok(units)
    }
}

const ORDER: &str = "
select status, convert_from(lines, 'UTF8') as lines, amount_minor, currency,
       split_part(reason, '@', 1) as reason_code, split_part(reason, '@', 2) as reason_service
  from \"order\".orders where order_id = $1";
const RESERVATION: &str = "
select status, convert_from(held, 'UTF8') as held
  from inventory.reservations where order_id = $1";
const PAYMENT: &str = "select status from payment.payments where order_id = $1";
const SHIPMENT: &str = "select status from shipping.shipments where order_id = $1";

async fn row<T>(tables: &PgPool, sql: &'static str, order_id: Uuid) -> anyhow::Result<Option<T>>
where
    T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    Ok(sqlx::query_as(sql).bind(order_id).fetch_optional(tables).await?)
}

async fn status(tables: &PgPool, sql: &'static str, order_id: Uuid) -> anyhow::Result<Option<i16>> {
    Ok(sqlx::query_scalar(sql).bind(order_id).fetch_optional(tables).await?)
}

/// One select over the four schemas; `{schema}` is replaced in each.
pub(crate) fn everywhere(select: &str) -> String {
    SERVICES.map(|schema| select.replace("{schema}", schema)).join(" union all ")
}

async fn events(tables: &PgPool, order_id: Uuid) -> anyhow::Result<Vec<Event>> {
    let all = everywhere(
        "select '{schema}' as service, id, version, type as kind
           from \"{schema}\".events where subject = $1",
    );
    let sql = format!("{all} order by service, version");
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(order_id).fetch_all(tables).await?)
}

async fn handled(tables: &PgPool, ids: &[Uuid]) -> anyhow::Result<Vec<(Uuid, String)>> {
    let sql = everywhere(
        "select event_id, consumer from \"{schema}\".inbox where event_id = any($1::uuid[])",
    );
    Ok(sqlx::query_as(AssertSqlSafe(sql)).bind(ids).fetch_all(tables).await?)
}

async fn unsent(tables: &PgPool, ids: &[Uuid]) -> anyhow::Result<Vec<Uuid>> {
    let sql =
        everywhere("select event_id from \"{schema}\".outbox where event_id = any($1::uuid[])");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(ids).fetch_all(tables).await?)
}

async fn count(tables: &PgPool, table: &str, order_id: Uuid) -> anyhow::Result<i64> {
    let all = everywhere("select subject from \"{schema}\".{table}").replace("{table}", table);
    let sql = format!("select count(*) from ({all}) as t where subject = $1");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).bind(order_id).fetch_one(tables).await?)
}
