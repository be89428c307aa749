//! Records that nobody of ours would write, between good ones: they are set aside or skipped, and
//! hold nobody up.

use std::slice;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::crowd::Crowd;
use e2e_tests::forged::{self, HEARERS, TOPIC, VIEW, letter, set};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, INJECTED, Injected};
use e2e_tests::wire::NewOrder;
use e2e_tests::{metrics, saga};
use futures::future::{join_all, try_join_all};
use serde_json::json;
use testkit::broker::PARTITIONS;
use testkit::records::{self, Record};
use testkit::wait;
use uuid::{NoContext, Timestamp, Uuid};

const SKU: &str = "TEA-1";
/// Enough for every partition to have one on both sides of the bad records.
const ORDERS: usize = 16;
const BATCH: u16 = 500;
const IN_A_ROW: usize = 10_000;
const HANDLED_MAX: Duration = Duration::from_secs(20);
const SLOWLY_READ_MAX: Duration = Duration::from_secs(90);
const YEAR_2020: u64 = 1_577_836_800;
const YEAR_2100: u64 = 4_102_444_800;

#[tokio::test]
async fn bad_records_are_set_aside_and_the_good_ones_go_on() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let mut orders = placed(stack).await?;
        let bad = inject_bad(stack).await?;
        orders.extend(placed(stack).await?);
        let untimely = inject_untimely(stack).await?;
        orders.extend(placed(stack).await?);
        for order_id in orders {
            saga::judge(stack, order_id).await?.ended_as("confirmed", None)?;
        }
        let injected = Injected {
            event_ids: &bad.event_ids | &untimely.event_ids,
            dead_letters: [bad.dead_letters, untimely.dead_letters].concat(),
        };
        set_aside(stack, injected.dead_letters.len(), HANDLED_MAX).await?;
        for service in HEARERS {
            let skipped = "switchback_events_skipped_total";
            let skipped = metrics::total(stack, service, skipped, &["OrderPraised"]).await?;
            ensure!(skipped.to_string() == "4", "{service} skipped {skipped} unknown records");
        }
        nobody_died(stack)?;
        whole::judge(stack, &injected).await
    })
    .await
}

async fn placed(stack: &Stack) -> anyhow::Result<Vec<Uuid>> {
    let order = NewOrder::of(SKU, 1);
    let placed = try_join_all((0..ORDERS).map(|_| stack.client.place(&order))).await?;
    Ok(placed.into_iter().map(|placed| placed.order_id).collect())
}

fn nobody_died(stack: &Stack) -> anyhow::Result<()> {
    for process in stack.processes() {
        ensure!(stack.restarts(process) == 0, "{process} died of a record");
    }
    Ok(())
}

async fn set_aside(stack: &Stack, count: usize, at_most: Duration) -> anyhow::Result<()> {
    let mut found = 0;
    let all = wait::until(at_most, "the bad records to be set aside", async || {
        found = whole::dead_letters(stack).await.ok()?.len();
        (found >= count).then_some(())
    });
    all.await.with_context(|| format!("{found} of {count}"))
}

/// Puts bad copies of a good record into every partition.
async fn inject_bad(stack: &Stack) -> anyhow::Result<Injected> {
    let good = forged::good(&stack.bootstrap()).await?;
    let mut all = Injected::default();
    for partition in 0..PARTITIONS {
        let (copies, injected) = forged::bad_copies(&good, partition);
        records::produce(&stack.bootstrap(), TOPIC, &copies).await?;
        all.event_ids.extend(injected.event_ids);
        all.dead_letters.extend(injected.dead_letters);
    }
    Ok(all)
}

/// Records that can be read, and that cannot be: of trains that never ran, from other times, twice.
async fn inject_untimely(stack: &Stack) -> anyhow::Result<Injected> {
    let (ghost, bootstrap) = (Uuid::now_v7(), stack.bootstrap());
    let because = json!({"reason": {"code": "customer", "service": "order"}}).to_string();
    let cancel = |subject| said("order", "OrderCancelRequested", subject, because.as_bytes());
    let body = forged::good(&bootstrap).await?.body.context("an event has a body")?;
    let placed = || said("order", "OrderPlaced", ghost, &body);
    let first = placed();
    let (collides, collision) = forged::collision(&first);
    let at = |mut record: Record, time: &str| {
        set(&mut record, "ce_time", time.as_bytes());
        record
    };
    let from = |mut record: Record, seconds| {
        let id = Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0)).to_string();
        set(&mut record, "ce_id", id.as_bytes());
        record
    };
    let of_orders = [
        cancel(ghost),
        // It meets a tombstone: turned round, which is news of an order never placed.
        first,
        collides,
        // That reservation has come to its end, and a producer's clock decides nothing.
        placed(),
        at(placed(), "1970-01-01T00:00:00Z"),
        at(cancel(ghost), "9999-12-31T23:59:59Z"),
        from(cancel(Uuid::now_v7()), YEAR_2020),
        from(cancel(Uuid::now_v7()), YEAR_2100),
    ];
    records::produce(&bootstrap, TOPIC, &of_orders).await?;
    let undo = |service, name| said(service, name, Uuid::now_v7(), because.as_bytes());
    let release = undo("payment", "ReleaseInventory");
    let refund = undo("shipping", "RefundPayment");
    records::produce(&bootstrap, "payment.events.v1", slice::from_ref(&release)).await?;
    records::produce(&bootstrap, "shipping.events.v1", slice::from_ref(&refund)).await?;
    wait::until(HANDLED_MAX, "the ghost to be turned round once", async || {
        let said: Vec<String> = sqlx::query_scalar(
            "select type from inventory.events where subject = $1
              union all select type from payment.events where subject = $1
              union all select type from shipping.events where subject = $1",
        )
        .bind(ghost)
        .fetch_all(&stack.tables)
        .await
        .ok()?;
        (said == ["switchback.inventory.InventoryRejected.v1"]).then_some(())
    })
    .await?;
    let from_other_times =
        HEARERS.into_iter().flat_map(|by| [letter(by, "TOO_OLD"), letter(by, "TOO_NEW")]);
    let unexpected = ["order", "inventory", "payment"].map(|by| letter(by, "UNEXPECTED"));
    let records = of_orders.iter().chain([&release, &refund]);
    Ok(Injected {
        event_ids: records.filter_map(|record| record.header("ce_id")?.parse().ok()).collect(),
        dead_letters: from_other_times.chain(unexpected).chain([collision]).collect(),
    })
}

#[tokio::test]
async fn one_bad_record_in_a_batch_of_hundreds_stands_alone() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        stack.ready().await?;
        let before = batches(stack).await?;
        let halted = stack.halt_all("inventory")?;
        let orders = crowd.rush(stack, usize::from(BATCH) - 1).await?;
        let (bad, refused) = forged::collision(&forged::good(&stack.bootstrap()).await?);
        records::produce(&stack.bootstrap(), TOPIC, &[bad]).await?;
        drop(halted);
        wait::until(SLOWLY_READ_MAX, "inventory to have decided on all", async || {
            let decided = "select count(*) from inventory.reservations
                            where order_id = any($1::uuid[])";
            let query = sqlx::query_scalar(decided).bind(&orders);
            let decided: i64 = query.fetch_one(&stack.tables).await.ok()?;
            (decided == i64::from(BATCH) - 1).then_some(())
        })
        .await?;
        // They are counted when they are committed, one moment later.
        let (inputs, commits) = wait::until(HANDLED_MAX, "all to be counted", async || {
            let after = batches(stack).await.ok()?;
            let (inputs, commits) = (after.0 - before.0, after.1 - before.1);
            (inputs >= f64::from(BATCH)).then_some((inputs, commits))
        })
        .await?;
        println!("{inputs} inputs in {commits} batches");
        ensure!(inputs > 20.0 * commits, "there were no large batches: the run is void");
        let dead_letters = vec![refused];
        crowd.expect(Injected { dead_letters, ..Injected::default() });
        crowd.judge(stack).await
    })
    .await
}

/// Inputs and commits of inventory so far.
async fn batches(stack: &Stack) -> anyhow::Result<(f64, f64)> {
    let total = async |name| metrics::total(stack, "inventory", name, &[]).await;
    Ok((total("switchback_batch_size_sum").await?, total("switchback_batch_size_count").await?))
}

#[tokio::test]
async fn ten_thousand_bad_records_in_a_row_slow_down_their_partition_alone() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        crowd.rush(stack, ORDERS).await?;
        stack.ready().await?;
        let bad: Vec<Record> = std::iter::repeat_with(|| Record {
            partition: Some(0),
            headers: vec![(INJECTED.to_owned(), Some(b"true".to_vec()))],
            ..Record::default()
        })
        .take(IN_A_ROW)
        .collect();
        records::produce(&stack.bootstrap(), TOPIC, &bad).await?;
        for service in HEARERS {
            wait::until(HANDLED_MAX, &format!("{service} to raise the alarm"), async || {
                let asked = stack.processes_of(service).map(async |process| {
                    let readiness = stack.client.readiness(process).await.ok()?;
                    let poison = format!("{TOPIC}/0");
                    (readiness.status == 503 && readiness.body.contains(&poison)).then_some(())
                });
                join_all(asked).await.into_iter().flatten().next()
            })
            .await?;
        }
        let held = "switchback_partitions_held";
        let held = metrics::total(stack, "inventory", held, &[]).await?;
        ensure!(held.to_string() == "1", "{held} partitions are held");
        let orders = crowd.rush(stack, ORDERS).await?;
        wait::until(HANDLED_MAX, "orders in other partitions to end", async || {
            let open = crowd.open(stack, &orders).await.ok()?;
            (usize::try_from(open).ok()? < ORDERS).then_some(())
        })
        .await?;
        let set_aside_meanwhile = whole::dead_letters(stack).await?.len();
        let by = HEARERS.into_iter().chain([VIEW]);
        let letters = by.flat_map(|by| std::iter::repeat_n(letter(by, "ENVELOPE"), IN_A_ROW));
        crowd.expect(Injected { dead_letters: letters.collect(), ..Injected::default() });
        let all = IN_A_ROW * (HEARERS.len() + 1);
        println!("orders ended when {set_aside_meanwhile} of {all} dead letters were written");
        ensure!(set_aside_meanwhile < all, "it was over by then: the run is void");
        set_aside(stack, all, SLOWLY_READ_MAX).await?;
        stack.ready().await?;
        nobody_died(stack)?;
        crowd.judge(stack).await
    })
    .await
}

/// An event as one of ours would say it.
fn said(service: &str, name: &str, subject: Uuid, body: &[u8]) -> Record {
    let headers = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", Uuid::now_v7().to_string()),
        ("ce_type", format!("switchback.{service}.{name}.v1")),
        ("ce_source", format!("/switchback/{service}")),
        ("ce_time", "2026-01-01T00:00:00Z".to_owned()),
        ("ce_subject", subject.to_string()),
        (INJECTED, "true".to_owned()),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes())));
    Record {
        partition: None,
        key: Some(subject.to_string().into_bytes()),
        headers: headers.to_vec(),
        body: Some(body.to_vec()),
    }
}
