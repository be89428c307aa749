//! The rows of reservations, and of the stock that they share, on a real Postgres.

use chassis::{Desk, Stored};
use contracts::order::Placed;
use contracts::{Line, Money, PaymentMethod, Reason, ShipTo};
use inventory::Inventory;
use inventory::domain::{Input, State, Step, Units};
use saga::{Decision, Participant};
use sqlx::PgConnection;
use store::{Config, Db, Error};
use testkit::Database;
use tokio::sync::Barrier;
use uuid::Uuid;

type Shelves = <Inventory as Stored>::Desk;

struct Ground {
    db: Db,
    _database: Database,
}

async fn ground() -> anyhow::Result<Ground> {
    let database = testkit::database("inventory").await?;
    store::migrate(Some(&database.owner_url), &database.app_url, Inventory::migrations()).await?;
    let db = Db::try_new(&Config {
        url: database.app_url.clone(),
        application_name: "test".to_owned(),
        write_connections_max: 2,
        autocommit_connections_max: 1,
    })?;
    Ok(Ground { db, _database: database })
}

fn reason() -> Reason {
    Reason::new("customer", "order")
}

fn reserve(lines: &[(&str, u32)]) -> Input {
    let word = |text: &str| text.to_owned();
    let line = |(sku, quantity): &(&str, u32)| Line {
        sku: word(sku),
        quantity: *quantity,
        unit_price_minor: 450,
    };
    Input::Reserve(Placed {
        lines: lines.iter().map(line).collect(),
        total: Money::new(900, "EUR".parse().expect("a currency")),
        payment_method: PaymentMethod(word("pm_card_ok")),
        ship_to: ShipTo {
            name: word("Ada"),
            street: word("Rheingasse 1"),
            city: word("Basel"),
            postcode: word("4051"),
            country: word("CH"),
        },
    })
}

fn release() -> Input {
    Input::Release(reason())
}

fn count(sku: &str, available: u32) -> Input {
    Input::Count { sku: sku.to_owned(), available }
}

/// Decides on a batch as the shell does.
fn decide(desk: &mut Shelves, batch: &[(Uuid, Input)]) {
    for (id, input) in batch {
        let state = desk.view(*id, input).into_owned();
        if let Decision::Become { state, events, .. } = Inventory::decide(&state, input) {
            desk.put(*id, state, u32::try_from(events.len()).expect("a few"));
        }
    }
}

async fn load(tx: &mut PgConnection, batch: &[(Uuid, Input)]) -> Result<Shelves, Error> {
    let batch: Vec<_> = batch.iter().map(|(id, input)| (*id, input)).collect();
    Inventory::load(tx, &batch).await
}

impl Ground {
    /// `met` is waited for between load and save.
    async fn meet(&self, batch: &[(Uuid, Input)], met: &Barrier) -> Result<(), Error> {
        self.db
            .with_tx(async |tx| {
                let mut desk = load(tx, batch).await?;
                met.wait().await;
                decide(&mut desk, batch);
                Inventory.save(tx, &desk).await
            })
            .await
    }

    async fn run(&self, batch: &[(Uuid, Input)]) -> Result<(), Error> {
        self.meet(batch, &Barrier::new(1)).await
    }

    async fn step(&self, id: Uuid) -> anyhow::Result<Step> {
        let any = [(id, Input::Cancel(reason()))];
        let desk = self.db.with_tx(async |tx| load(tx, &any).await).await?;
        Ok(desk.view(id, &any[0].1).step.clone())
    }

    async fn stock(&self) -> anyhow::Result<Vec<(String, i64)>> {
        Ok(sqlx::query_as("select sku, available from stock order by sku")
            .fetch_all(self.db.autocommit())
            .await?)
    }

    async fn number(&self, sql: &'static str) -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(self.db.autocommit()).await?)
    }
}

fn stock(lines: &[(&str, i64)]) -> Vec<(String, i64)> {
    lines.iter().map(|(sku, available)| ((*sku).to_owned(), *available)).collect()
}

#[tokio::test]
async fn every_step_is_read_back_as_it_was_saved() -> anyhow::Result<()> {
    let ground = ground().await?;
    let held = Units::from([("TEA-1".to_owned(), 2), ("Größe \"L\"".to_owned(), i64::MAX)]);
    let steps = [Step::Barred(reason()), Step::Reserved(held), Step::Rejected, Step::Released];
    let any = Input::Cancel(reason());
    let ids: Vec<Uuid> = steps.iter().map(|_| Uuid::now_v7()).collect();
    // Created first, then changed into the next one of the list, and the next.
    for shift in 0..steps.len() {
        let batch: Vec<_> = ids.iter().map(|id| (*id, any.clone())).collect();
        let saved = ground.db.with_tx(async |tx| {
            let mut desk = load(tx, &batch).await?;
            for (index, id) in ids.iter().enumerate() {
                let step = steps[(index + shift) % steps.len()].clone();
                let first = desk.put(*id, State { step, stock: Units::new() }, 2);
                assert_eq!(usize::try_from(first), Ok(shift * 2 + 1));
            }
            Inventory.save(tx, &desk).await
        });
        saved.await?;
        for (index, id) in ids.iter().enumerate() {
            assert_eq!(ground.step(*id).await?, steps[(index + shift) % steps.len()]);
        }
    }
    assert_eq!(ground.step(Uuid::now_v7()).await?, Step::Absent);
    Ok(())
}

#[tokio::test]
async fn a_reservation_that_changed_since_it_was_loaded_takes_its_stock_back_too()
-> anyhow::Result<()> {
    let ground = ground().await?;
    ground.run(&[(Uuid::now_v7(), count("TEA-1", 10))]).await?;
    let order = Uuid::now_v7();
    let batch = [(order, reserve(&[("TEA-1", 3)]))];
    let slow = ground.db.with_tx(async |tx| load(tx, &batch).await).await?;
    ground.run(&[(order, Input::Cancel(reason()))]).await?;
    let late = ground.db.with_tx(async |tx| {
        let mut desk = slow;
        decide(&mut desk, &batch);
        Inventory.save(tx, &desk).await
    });
    let late = late.await;
    assert!(matches!(late, Err(Error::Rerun(_))), "{late:?}");
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", 10)]));
    ground.run(&batch).await?;
    assert_eq!(ground.step(order).await?, Step::Rejected);
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", 10)]));
    Ok(())
}

#[tokio::test]
async fn two_batches_on_one_sku_at_once_sell_each_unit_once() -> anyhow::Result<()> {
    let ground = ground().await?;
    ground
        .run(&[(Uuid::now_v7(), count("TEA-1", 15)), (Uuid::now_v7(), count("TEA-2", 9))])
        .await?;
    let orders: Vec<(Uuid, Input)> =
        (0..20).map(|_| (Uuid::now_v7(), reserve(&[("TEA-2", 1), ("TEA-1", 1)]))).collect();
    let (one, other) = orders.split_at(10);
    let (one, other) = tokio::join!(ground.run(one), ground.run(other));
    one?;
    other?;
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", 6), ("TEA-2", 0)]));
    let reserved = "select count(*) from reservations where status = 2";
    assert_eq!(ground.number(reserved).await?, 9);

    let back: Vec<_> = orders.iter().map(|(id, _)| (*id, release())).collect();
    let mut wanted = Vec::new();
    for (id, release) in back {
        if matches!(ground.step(id).await?, Step::Reserved(_)) {
            wanted.push((id, release));
        }
    }
    // The second half a second time, in the same batch.
    let again: Vec<_> = wanted.iter().skip(5).cloned().collect();
    wanted.extend(again);
    ground.run(&wanted).await?;
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", 15), ("TEA-2", 9)]));
    assert_eq!(ground.number(reserved).await?, 0);
    Ok(())
}

#[tokio::test]
async fn within_a_batch_a_release_gives_the_next_order_its_stock() -> anyhow::Result<()> {
    let ground = ground().await?;
    ground.run(&[(Uuid::now_v7(), count("TEA-1", 1))]).await?;
    let (first, second, third) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let order = reserve(&[("TEA-1", 1)]);
    ground
        .run(&[(first, order.clone()), (second, order.clone()), (first, release()), (third, order)])
        .await?;
    assert_eq!(ground.step(first).await?, Step::Released);
    assert_eq!(ground.step(second).await?, Step::Rejected);
    assert!(matches!(ground.step(third).await?, Step::Reserved(_)));
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", 0)]));
    Ok(())
}

#[tokio::test]
async fn a_new_sku_counted_by_two_at_once_is_there_once_and_every_change_is_kept()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let both = Barrier::new(2);
    let (one, other) =
        ([(Uuid::now_v7(), count("TEA-1", 10))], [(Uuid::now_v7(), count("TEA-1", 7))]);
    let (first, second) = tokio::join!(ground.meet(&one, &both), ground.meet(&other, &both));
    let (again, expected) = match (first, second) {
        (Ok(()), Err(Error::Rerun(_))) => (&other, 7),
        (Err(Error::Rerun(_)), Ok(())) => (&one, 10),
        both => panic!("one of them has to run again: {both:?}"),
    };
    ground.run(again).await?;
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", expected)]));
    assert_eq!(ground.number("select count(*) from stock_changes").await?, 2);
    assert_eq!(ground.number("select sum(delta)::bigint from stock_changes").await?, expected);

    // The same count again, as after a lost reply.
    ground.run(again).await?;
    assert_eq!(ground.number("select count(*) from stock_changes").await?, 2);
    assert_eq!(ground.stock().await?, stock(&[("TEA-1", expected)]));
    Ok(())
}

#[tokio::test]
async fn a_sku_that_nobody_knows_is_sold_out_and_leaves_no_row() -> anyhow::Result<()> {
    let ground = ground().await?;
    let order = Uuid::now_v7();
    ground.run(&[(order, reserve(&[("NEVER", 1)]))]).await?;
    assert_eq!(ground.step(order).await?, Step::Rejected);
    assert_eq!(ground.stock().await?, []);
    Ok(())
}
