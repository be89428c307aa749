//! A broker that has forgotten what a service said: it is said again, from the service's own table,
//! and whoever had handled it discards it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::metrics;
use e2e_tests::stack::{Options, Stack, programs, with_stack};
use e2e_tests::whole::{self, INJECTED, Injected};
use e2e_tests::wire::NewOrder;
use futures::future::try_join_all;
use testkit::records::{self, Record};
use testkit::{broker, kafka, wait};
use uuid::Uuid;

const SKU: &str = "TEA-1";
const ORDERS: usize = 12;
const TOPIC: &str = "payment.events.v1";
/// The in-memory broker keeps 5 MiB of a partition: these are more.
const NOISE_RECORDS: usize = 30;
const NOISE_BYTES: usize = 200_000;
const HEARD_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_the_broker_has_lost_is_said_again_and_done_once() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        let kinds = [NewOrder::of(SKU, 1), NewOrder::of(SKU, 1).sent_to("00000")];
        let orders = kinds.iter().cycle().take(ORDERS);
        try_join_all(orders.map(async |order| {
            let order_id = stack.client.place(order).await?.order_id;
            stack.client.ended(order_id).await
        }))
        .await?;
        whole::judge(stack, &Injected::default()).await?;
        let said = said(stack).await?;
        let states = states(stack).await?;

        let last = forget(stack, &said).await?;
        lose_the_timeline(stack, &last).await?;
        let counted = format!("payment {:>13} events would be sent again", said.len());
        let rehearsed = republish(stack, &["--service", "payment", "--dry-run"])?;
        ensure!(rehearsed.trim_end() == counted, "{rehearsed} instead of {counted}");
        let (handled, discarded) = (handled(stack).await?, duplicates(stack).await?);
        republish(stack, &["--service", "payment"])?;
        again_on_the_topic(stack, &said).await?;
        wait::until(HEARD_MAX, "the events to be discarded", async || {
            (duplicates(stack).await.ok()? >= discarded + handled).then_some(())
        })
        .await?;
        whole::judge(stack, &Injected::default()).await?;

        // All services at once, of whose events the broker has lost none but payment's.
        let told = republish(stack, &[])?;
        ensure!(told.lines().count() == 4, "{told}");
        whole::judge(stack, &Injected::default()).await?;
        ensure!(self::states(stack).await? == states, "an order has changed");
        ensure!(self::said(stack).await? == said, "something was said because of it");
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("select reason, asked_by, events from payment.republishes order by id")
                .fetch_all(&stack.tables)
                .await?;
        let row =
            ("the broker forgot".to_owned(), "the test".to_owned(), i64::try_from(said.len())?);
        ensure!(rows == [row.clone(), row], "{rows:?}");
        Ok(())
    })
    .await
}

/// The ids of what payment has said.
async fn said(stack: &Stack) -> anyhow::Result<BTreeSet<String>> {
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select id from payment.events").fetch_all(&stack.tables).await?;
    ensure!(ids.len() > ORDERS, "too little was said: the run is void");
    Ok(ids.into_iter().map(|id| id.to_string()).collect())
}

/// Each order with its states at all four services.
async fn states(stack: &Stack) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar(
        "select format('%s %s %s %s %s', o.order_id, o, r, p, s)
           from \"order\".orders o
           left join inventory.reservations r using (order_id)
           left join payment.payments p using (order_id)
           left join shipping.shipments s using (order_id)
          order by 1",
    )
    .fetch_all(&stack.tables)
    .await?)
}

async fn on_the_topic(stack: &Stack) -> anyhow::Result<BTreeSet<String>> {
    let found = records::read(&stack.bootstrap(), TOPIC).await?;
    Ok(found.iter().filter_map(|record| record.header("ce_id")).map(str::to_owned).collect())
}

/// Lets the broker forget everything that payment said, behind records that nobody knows. Gives
/// those that came last.
async fn forget(stack: &Stack, said: &BTreeSet<String>) -> anyhow::Result<Vec<Uuid>> {
    let log = records::read(&stack.bootstrap(), TOPIC).await?;
    let pattern = log.first().context("payment has said nothing")?;
    let (mut noise, mut last) = (Vec::new(), Vec::new());
    for partition in 0..broker::PARTITIONS {
        last.push(Uuid::now_v7());
        let ids = std::iter::repeat_with(Uuid::now_v7).take(NOISE_RECORDS - 1);
        for id in ids.chain(last.last().copied()) {
            let subject = Uuid::now_v7().to_string();
            let mut record = Record { partition: Some(partition), ..pattern.clone() };
            for (name, value) in &mut record.headers {
                let other = match name.as_str() {
                    "ce_id" => id.to_string(),
                    "ce_subject" => subject.clone(),
                    "ce_type" => "switchback.payment.PaymentPraised.v1".to_owned(),
                    _ => continue,
                };
                *value = Some(other.into_bytes());
            }
            record.key = Some(subject.into_bytes());
            record.body = Some(vec![b'x'; NOISE_BYTES]);
            record.headers.push((INJECTED.to_owned(), Some(b"true".to_vec())));
            noise.push(record);
        }
    }
    if Stack::is_on_kafka() {
        // It keeps what it has for days, so it is told to forget.
        kafka::forget(&stack.bootstrap(), TOPIC, broker::PARTITIONS).await?;
    }
    records::produce(&stack.bootstrap(), TOPIC, &noise).await?;
    let kept = on_the_topic(stack).await?;
    ensure!(kept.is_disjoint(said), "the broker has not forgotten: the run is void");
    Ok(last)
}

/// What payment said is in the read model no more, and it does not know that it ever was. Nor is
/// the noise there, which it has taken for news.
async fn lose_the_timeline(stack: &Stack, noise: &[Uuid]) -> anyhow::Result<()> {
    wait::until(HEARD_MAX, "the noise to be heard", async || {
        let heard = "select count(*) from \"order\".timeline where event_id = any($1::uuid[])";
        let heard = sqlx::query_scalar(heard).bind(noise).fetch_one(&stack.tables);
        (usize::try_from(heard.await.unwrap_or(0_i64)) == Ok(noise.len())).then_some(())
    })
    .await?;
    let lost = sqlx::query("delete from \"order\".timeline where service = 'payment'")
        .execute(&stack.tables)
        .await?;
    ensure!(lost.rows_affected() > 0, "there was nothing to lose: the run is void");
    sqlx::query(
        "delete from \"order\".inbox
          where consumer = 'order-view' and event_id in (select id from payment.events)",
    )
    .execute(&stack.tables)
    .await?;
    Ok(())
}

/// Types the command as an operator does, and gives what it prints.
fn republish(stack: &Stack, more: &[&str]) -> anyhow::Result<String> {
    let port = stack.tables.connect_options().get_port();
    let url = format!("postgres://{{service}}_app@127.0.0.1:{port}/switchback");
    let output = Command::new(programs()?.join("switchback"))
        .args(["events", "republish", "--since", "1h", "--reason", "the broker forgot"])
        .args(["--by", "the test", "--database-url", &url])
        .args(more)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn again_on_the_topic(stack: &Stack, said: &BTreeSet<String>) -> anyhow::Result<()> {
    wait::until(HEARD_MAX, "the events to be on the topic again", async || {
        on_the_topic(stack).await.ok()?.is_superset(said).then_some(())
    })
    .await
}

/// How often its neighbours have handled something that payment said.
async fn handled(stack: &Stack) -> anyhow::Result<f64> {
    let handled: f64 = sqlx::query_scalar(
        "select count(*)::float8
           from (select event_id from inventory.inbox
                  union all
                 select event_id from shipping.inbox) i
           join payment.events e on e.id = i.event_id",
    )
    .fetch_one(&stack.tables)
    .await?;
    ensure!(handled > 0.0, "nobody heard payment: the run is void");
    Ok(handled)
}

/// What they have discarded as handled before.
async fn duplicates(stack: &Stack) -> anyhow::Result<f64> {
    let mut discarded = 0.0;
    for service in ["inventory", "shipping"] {
        let repeats = "switchback_inbox_duplicates_total";
        discarded += metrics::total(stack, service, repeats, &["cause=\"inbox\""]).await?;
    }
    Ok(discarded)
}
