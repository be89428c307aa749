//! Owns what must be true of a stack on which nothing moves any more, or its figures are worth
//! nothing: every accepted order has an end on which all services agree, and money, parcels, stock
//! and timeline are what that end says. Refuses to judge while anything is under way.

use std::collections::HashMap;

use anyhow::{bail, ensure};
use e2e_tests::SERVICES;
use e2e_tests::check::rules::{self, States};
use e2e_tests::stack::Stack;
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use uuid::Uuid;

/// Charges, refunds and bookings of an order.
type Effects = [usize; 3];

/// What waits to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Events that the broker has not acknowledged.
    pub unsent: i64,
    /// Outside calls that are not settled.
    pub calls: i64,
}

impl Left {
    pub const NOTHING: Self = Self { unsent: 0, calls: 0 };

    /// What is to be seen at a glance: whatever the stack's size, it costs the server next to nothing.
    pub async fn read(tables: &PgPool) -> anyhow::Result<Self> {
        let (mut unsent, mut calls) = (0, 0);
        for service in SERVICES {
            let counts = format!(
                "select (select count(*) from \"{service}\".outbox),
                        (select count(*) from \"{service}\".calls)"
            );
            let of: (i64, i64) = sqlx::query_as(AssertSqlSafe(counts)).fetch_one(tables).await?;
            (unsent, calls) = (unsent + of.0, calls + of.1);
            unsent += unsent_of_opponent(tables, service).await?;
        }
        Ok(Self { unsent, calls })
    }
}

/// An opponent has an outbox of its own: one keeps what was published, the other deletes it.
async fn unsent_of_opponent(tables: &PgPool, service: &str) -> anyhow::Result<i64> {
    let keeps = "select count(*) > 0, coalesce(bool_or(column_name = 'published_at'), false)
                   from information_schema.columns
                  where table_schema = $1 and table_name = 'outbox_messages'";
    let (is_there, keeps): (bool, bool) =
        sqlx::query_as(keeps).bind(service).fetch_one(tables).await?;
    if !is_there {
        return Ok(0);
    }
    let unpublished = if keeps { "where published_at is null" } else { "" };
    let count = format!("select count(*) from \"{service}\".outbox_messages {unpublished}");
    Ok(sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(tables).await?)
}

/// Whether every order has ended and the timeline tells of everything that was said.
pub async fn all_is_told(tables: &PgPool) -> anyhow::Result<bool> {
    let is_told = "
select not exists (select from \"order\".orders where status < 3)
   and (select count(*) from \"order\".timeline)
     = (select coalesce(sum(said), 0) from (
            select said from \"order\".orders union all
            select said from inventory.reservations union all
            select said from payment.payments union all
            select said from shipping.shipments) as all_services)";
    Ok(sqlx::query_scalar(is_told).fetch_one(tables).await?)
}

#[derive(FromRow)]
struct Row {
    order_id: Uuid,
    statuses: Vec<i16>,
    amount_minor: i64,
}

const ROWS: &str = "
select order_id,
       array[coalesce(o.status, 0), coalesce(r.status, 0), coalesce(p.status, 0),
             coalesce(s.status, 0)]::smallint[] as statuses,
       coalesce(o.amount_minor, 0) as amount_minor
  from \"order\".orders o
  full join inventory.reservations r using (order_id)
  full join payment.payments p using (order_id)
  full join shipping.shipments s using (order_id)";

/// SKUs of which there are more or fewer units, on the shelf and held, than were ever counted.
const LOST_STOCK: &str = "
select count(*)
  from inventory.stock
  full join (select sku, sum(delta) as counted from inventory.stock_changes group by sku) changes
       using (sku)
  full join (select line.key as sku, sum(line.value::bigint) as units
               from inventory.reservations,
                    jsonb_each_text(convert_from(held, 'UTF8')::jsonb) as line
              where held is not null
              group by line.key) held
       using (sku)
 where coalesce(available, 0) + coalesce(units, 0) <> coalesce(counted, 0)";

/// Fails with the first thing that is not as it must be. The stack accepted so many orders.
pub async fn hold(stack: &Stack, accepted: u64) -> anyhow::Result<()> {
    let tables = &stack.tables;
    let left = Left::read(tables).await?;
    ensure!(left == Left::NOTHING, "something is left under way: {left:?}");
    ensure!(all_is_told(tables).await?, "the timeline does not tell of every event");
    for service in SERVICES {
        let letters = format!("select count(*) from \"{service}\".dead_letters");
        let letters: i64 = sqlx::query_scalar(AssertSqlSafe(letters)).fetch_one(tables).await?;
        ensure!(letters == 0, "{service} has set {letters} inputs aside");
    }
    let lost: i64 = sqlx::query_scalar(LOST_STOCK).fetch_one(tables).await?;
    ensure!(lost == 0, "the stock of {lost} SKUs is not what was counted");
    let ledger = Ledger::read(stack).await?;
    ends(tables, ledger, accepted).await
}

/// What the third parties did.
#[derive(Default)]
struct Ledger {
    effects: HashMap<Uuid, Effects>,
    /// What was charged and not given back.
    kept_minor: i64,
}

impl Ledger {
    /// Page by page: of an entry little is kept.
    async fn read(stack: &Stack) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        let mut after = 0;
        loop {
            let page = stack.client.ledger_page(None, after).await?;
            let Some(last) = page.last() else { return Ok(ledger) };
            after = last.seq;
            for entry in page {
                let amount = entry.amount_minor.unwrap_or_default();
                let (at, kept) = match &*entry.operation {
                    "capture" => (0, amount),
                    "refund" => (1, -amount),
                    "book" => (2, 0),
                    other => bail!("nobody wants a {other}"),
                };
                ledger.effects.entry(entry.order_id).or_default()[at] += 1;
                ledger.kept_minor += kept;
            }
        }
    }
}

async fn ends(tables: &PgPool, mut ledger: Ledger, accepted: u64) -> anyhow::Result<()> {
    let (mut confirmed, mut cancelled) = (0, 0);
    let mut rows = sqlx::query_as::<_, Row>(ROWS).fetch(tables);
    while let Some(Row { order_id, statuses, amount_minor }) = rows.try_next().await? {
        let states = States::try_from(statuses).unwrap_or_default();
        let effects = ledger.effects.remove(&order_id).unwrap_or_default();
        if let Some(wrong) = contradiction(states, effects) {
            bail!("order {order_id}: {wrong}");
        }
        if states[0] == rules::CANCELLED {
            cancelled += 1;
        } else {
            confirmed += 1;
            ledger.kept_minor -= amount_minor;
        }
    }
    ensure!(ledger.effects.is_empty(), "the ledger has {} strangers", ledger.effects.len());
    ensure!(ledger.kept_minor == 0, "{} too much was charged", ledger.kept_minor);
    ensure!(
        confirmed + cancelled == accepted,
        "{accepted} orders were accepted, {confirmed} are confirmed and {cancelled} cancelled"
    );
    Ok(())
}

/// Nothing, where the services agree on an end and the ledger shows what it stands for.
fn contradiction(states: States, effects: Effects) -> Option<String> {
    if ![false, true].into_iter().any(|cancel| rules::is_an_end(states, cancel)) {
        return Some(format!("{states:?} is no end on which the services agree"));
    }
    let wanted = rules::effects_of(states);
    (effects != wanted).then(|| {
        format!("{effects:?} instead of {wanted:?} charges, refunds and bookings at {states:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_its_effects_once_and_nothing_else_is_one() {
        assert_eq!(contradiction([3, 2, 4, 3], [1, 0, 1]), None);
        assert_eq!(contradiction([5, 4, 7, 4], [1, 1, 0]), None);
        for (states, effects) in [
            ([3, 2, 4, 3], [2, 0, 1]),
            ([3, 2, 4, 3], [1, 0, 0]),
            ([5, 4, 7, 4], [1, 0, 0]),
            ([5, 4, 7, 4], [1, 1, 1]),
            ([1, 2, 4, 3], [1, 0, 1]),
            ([3, 2, 4, 0], [1, 0, 0]),
            ([0, 2, 4, 3], [1, 0, 1]),
        ] {
            assert!(contradiction(states, effects).is_some(), "{states:?} {effects:?}");
        }
    }
}
