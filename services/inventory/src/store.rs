//! Owns the rows of reservations and of the stock they share: the only SQL of this service. Refuses
//! to decide.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use chassis::{Desk, Rows, Stored};
use contracts::Reason;
use sqlx::migrate::Migrator;
use sqlx::{PgConnection, PgPool};
use store::{Error, all_saved, column};
use uuid::Uuid;

use crate::Inventory;
use crate::domain::{Input, State, Step, Units, skus};

/// The reservations of a batch, and the stock that they share.
pub struct Shelves {
    reservations: Rows<Step>,
    stock: BTreeMap<String, Shelf>,
    counts: Vec<Count>,
}

/// The stock of one SKU: as loaded, `None` without a row, and as it is now.
#[derive(Clone, Copy)]
struct Shelf {
    loaded: Option<i64>,
    available: i64,
}

/// A change by hand, as its row.
struct Count {
    change_id: Uuid,
    sku: String,
    delta: i64,
    available: i64,
}

#[derive(sqlx::FromRow)]
struct ReservationRow {
    order_id: Uuid,
    status: i16,
    held: Option<Vec<u8>>,
    reason: Option<String>,
    version: i32,
    said: i32,
}

impl Desk<Inventory> for Shelves {
    fn view(&self, subject: Uuid, input: &Input) -> Cow<'_, State> {
        let step = self.reservations.state(subject).clone();
        let lines = skus(&step, input).into_iter();
        let stock = lines.map(|sku| (sku.to_owned(), self.available(sku))).collect();
        Cow::Owned(State { step, stock })
    }

    fn put(&mut self, subject: Uuid, state: State, events: u32) -> u32 {
        for (sku, available) in state.stock {
            let before = self.available(&sku);
            if let Step::Counted = state.step {
                let (sku, delta) = (sku.clone(), available - before);
                self.counts.push(Count { change_id: subject, sku, delta, available });
            } else if available == before {
                continue;
            }
            let line = self.stock.entry(sku).or_insert(Shelf { loaded: None, available: 0 });
            line.available = available;
        }
        self.reservations.replace(subject, state.step, events)
    }
}

impl Shelves {
    fn available(&self, sku: &str) -> i64 {
        self.stock.get(sku).map_or(0, |shelf| shelf.available)
    }
}

impl Stored for Inventory {
    type Desk = Shelves;

    fn migrations() -> store::Migrations {
        static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/inventory");
        &MIGRATIONS
    }

    /// Two round trips: which SKUs a release concerns is in the reservations.
    async fn load(tx: &mut PgConnection, batch: &[(Uuid, &Input)]) -> Result<Shelves, Error> {
        let rows: Vec<ReservationRow> = sqlx::query_as(
            "select * from reservations where order_id = any($1::uuid[])
              order by order_id for update",
        )
        .bind(column(batch, |(order_id, _)| *order_id))
        .fetch_all(&mut *tx)
        .await?;
        let counted = counted_before(&mut *tx, batch).await?;
        let counted = counted.into_iter().map(|change_id| (change_id, 1, 0, Some(Step::Counted)));
        let loaded = rows.into_iter().map(|row| (row.order_id, row.version, row.said, step(row)));
        let reservations = Rows::read(loaded.chain(counted))?;
        // A release may follow its reservation within the batch, so those lines count too.
        let wanted: BTreeSet<&str> = (batch.iter())
            .flat_map(|(order_id, input)| skus(reservations.state(*order_id), input))
            .collect();
        let stock: Vec<(String, i64)> = sqlx::query_as(
            "select sku, available from stock where sku = any($1::text[]) order by sku for update",
        )
        .bind(wanted.into_iter().collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        let stock = (stock.into_iter())
            .map(|(sku, available)| (sku, Shelf { loaded: Some(available), available }))
            .collect();
        Ok(Shelves { reservations, stock, counts: Vec::new() })
    }

    /// The stock rows that were there are locked; one that was not may have been made since, and
    /// then it comes short.
    async fn save(&self, tx: &mut PgConnection, shelves: &Shelves) -> Result<(), Error> {
        let mut orders = shelves.reservations.changed();
        orders.retain(|(_, row)| row.state != Step::Counted);
        let moved: Vec<_> = (shelves.stock.iter())
            .filter(|(_, shelf)| shelf.loaded != Some(shelf.available))
            .collect();
        let counts = &shelves.counts;
        if orders.is_empty() && moved.is_empty() && counts.is_empty() {
            return Ok(());
        }
        let saved: i64 = sqlx::query_scalar(SAVE)
            .bind(column(&orders, |(order_id, _)| *order_id))
            .bind(column(&orders, |(_, row)| columns(&row.state).0))
            .bind(column(&orders, |(_, row)| columns(&row.state).1))
            .bind(column(&orders, |(_, row)| columns(&row.state).2))
            .bind(column(&orders, |(_, row)| row.version + 1))
            .bind(column(&orders, |(_, row)| row.said))
            .bind(column(&moved, |(sku, _)| sku.as_str()))
            .bind(column(&moved, |(_, shelf)| shelf.available))
            .bind(column(&moved, |(_, shelf)| shelf.loaded.is_none()))
            .bind(column(counts, |count| count.change_id))
            .bind(column(counts, |count| count.sku.as_str()))
            .bind(column(counts, |count| count.delta))
            .bind(column(counts, |count| count.available))
            .fetch_one(tx)
            .await?;
        all_saved(saved.unsigned_abs(), orders.len() + moved.len() + counts.len())
    }
}

/// Counts of a batch that runs again because the reply to its COMMIT was lost.
async fn counted_before(
    tx: &mut PgConnection,
    batch: &[(Uuid, &Input)],
) -> Result<Vec<Uuid>, Error> {
    let counts = batch.iter().filter(|(_, input)| matches!(input, Input::Count { .. }));
    let changes: Vec<Uuid> = counts.map(|(change_id, _)| *change_id).collect();
    if changes.is_empty() {
        return Ok(changes);
    }
    Ok(sqlx::query_scalar("select change_id from stock_changes where change_id = any($1::uuid[])")
        .bind(changes)
        .fetch_all(tx)
        .await?)
}

const SAVE: &str = "
with saved as (
    insert into reservations as r (order_id, status, held, reason, version, said)
    select * from unnest($1::uuid[], $2::smallint[], $3::bytea[], $4::text[], $5::int[], $6::int[])
    on conflict (order_id) do update
       set status = excluded.status, held = excluded.held, reason = excluded.reason,
           version = excluded.version, said = excluded.said, updated_at = now()
     where r.version = excluded.version - 1
    returning 1
), shelf as (
    select * from unnest($7::text[], $8::bigint[], $9::boolean[]) as t(sku, available, is_new)
), stocked as (
    insert into stock (sku, available)
    select sku, available from shelf where is_new order by sku
    on conflict do nothing
    returning 1
), moved as (
    update stock k set available = shelf.available
      from shelf where not shelf.is_new and k.sku = shelf.sku
    returning 1
), counted as (
    insert into stock_changes (change_id, sku, delta, available)
    select * from unnest($10::uuid[], $11::text[], $12::bigint[], $13::bigint[])
    returning 1
)
select (select count(*) from saved) + (select count(*) from stocked)
     + (select count(*) from moved) + (select count(*) from counted)";

/// `None`: a row that no code of ours has written.
fn step(row: ReservationRow) -> Option<Step> {
    Some(match row.status {
        1 => Step::Barred(row.reason?.parse::<Reason>().ok()?),
        2 => Step::Reserved(serde_json::from_slice::<Units>(&row.held?).ok()?),
        3 => Step::Rejected,
        4 => Step::Released,
        _ => return None,
    })
}

/// Status, units held and reason of a step.
fn columns(step: &Step) -> (i16, Option<Vec<u8>>, Option<String>) {
    match step {
        // Never saved here: a decision turns to something, and a count has a table of its own.
        Step::Absent | Step::Counted => (0, None, None),
        Step::Barred(why) => (1, None, Some(why.to_string())),
        Step::Reserved(held) => {
            (2, Some(serde_json::to_vec(held).expect("strings and integers")), None)
        }
        Step::Rejected => (3, None, None),
        Step::Released => (4, None, None),
    }
}

/// For readers: what is available of a SKU; `None`: never heard of.
pub(crate) async fn available(pool: &PgPool, sku: &str) -> Result<Option<i64>, Error> {
    Ok(sqlx::query_scalar("select available from stock where sku = $1")
        .bind(sku)
        .fetch_optional(pool)
        .await?)
}
