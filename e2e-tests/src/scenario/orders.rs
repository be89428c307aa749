//! Owns what becomes of an order, told by its customer, and that a second delivery changes nothing.
//! Refuses to know who runs the processes, and how many of each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join_all;
use testkit::{records, wait};

use super::{run_all, scenario};
use crate::check::rules;
use crate::client::{Answer, fresh_key};
use crate::saga::{self, Saga};
use crate::stack::Stack;
use crate::whole::{self, Injected};
use crate::wire::{NewOrder, Placed, Shown};
use crate::{SERVICES, metrics};

const HANDLED_MAX: Duration = Duration::from_secs(30);

/// All run at once on one stack, and then every topic is delivered a second time.
pub async fn all(stack: &Stack) -> anyhow::Result<()> {
    run_all([
        scenario("a lone order arrives", arrives(stack)),
        scenario("an order of many lines arrives", many_lines(stack)),
        scenario("a declined card turns the train round at payment", declined(stack)),
        scenario("a rejected address turns it round at shipping", address_rejected(stack)),
        scenario("a SKU that is sold out turns it round at inventory", sold_out(stack)),
        scenario("many orders never take more than there is", race_for_stock(stack)),
        scenario("a lost answer is looked up and charged once", answer_lost(stack)),
        scenario("a carrier that is busy twice is asked again", busy_twice(stack)),
        scenario("fifty twins of a key are one order", twins(stack)),
        scenario("a key with another body is refused", other_body(stack)),
        scenario("a cancel after the end tells the truth", cancel_after_the_end(stack)),
    ])
    .await?;
    whole::judge(stack, &Injected::default()).await?;
    if Stack::is_dispatched_from_the_outbox() {
        the_dispatcher_sent_everything(stack).await?;
    }
    every_topic_again(stack).await?;
    whole::judge(stack, &Injected::default()).await
}

async fn order_of(stack: &Stack, sku: &str, units: u32) -> anyhow::Result<NewOrder> {
    stack.client.set_stock(sku, units).await?;
    Ok(NewOrder::of(sku, 2))
}

async fn run(stack: &Stack, order: &NewOrder) -> anyhow::Result<Saga> {
    let Placed { order_id, status, effects, .. } = stack.client.place(order).await?;
    let effects = [effects.inventory, effects.payment, effects.shipping];
    ensure!(status == "pending" && effects == ["pending"; 3], "202 with {status}, {effects:?}");
    saga::judge(stack, order_id).await
}

async fn arrives(stack: &Stack) -> anyhow::Result<()> {
    let saga = run(stack, &order_of(stack, "HAPPY", 10).await?).await?;
    saga.ended_as("confirmed", None)?;
    saga.effects_are(["done", "done", "done"])
}

async fn many_lines(stack: &Stack) -> anyhow::Result<()> {
    let mut order = order_of(stack, "MANY-0", 10).await?;
    for number in 1..20 {
        let more = order_of(stack, &format!("MANY-{number}"), 2).await?;
        order.lines.extend(more.lines);
    }
    run(stack, &order).await?.ended_as("confirmed", None)
}

async fn declined(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "DECLINED", 10).await?.paid_with("pm_card_declined");
    let saga = run(stack, &order).await?;
    saga.ended_as("cancelled", Some(("card_declined", "payment")))?;
    saga.effects_are(["undone", "refused", "not_needed"])
}

async fn address_rejected(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "ADDRESS", 10).await?.sent_to("00000");
    let saga = run(stack, &order).await?;
    saga.ended_as("cancelled", Some(("address_rejected", "shipping")))?;
    saga.effects_are(["undone", "undone", "refused"])
}

async fn sold_out(stack: &Stack) -> anyhow::Result<()> {
    let mut order = order_of(stack, "SOLD-OUT", 1).await?;
    // One line is there and the other is not: none is held.
    order.lines.extend(order_of(stack, "IN-STOCK", 10).await?.lines);
    let saga = run(stack, &order).await?;
    saga.ended_as("cancelled", Some(("out_of_stock", "inventory")))?;
    saga.effects_are(["refused", "not_needed", "not_needed"])
}

async fn race_for_stock(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "RARE", 7).await?;
    let sagas = try_join_all((0..12).map(|_| run(stack, &order))).await?;
    let arrived = sagas.iter().filter(|saga| saga.ended_as("confirmed", None).is_ok()).count();
    ensure!(arrived == 3, "{arrived} orders of two took from a stock of seven");
    Ok(())
}

async fn answer_lost(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "LOST", 10).await?.paid_with("pm_answer_lost");
    run(stack, &order).await?.ended_as("confirmed", None)?;
    let lost = ["destination=\"payment-provider\"", "outcome=\"unknown\""];
    attempts_were(stack, "payment", &lost, 1).await
}

async fn busy_twice(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "BUSY", 10).await?.sent_to("99999");
    run(stack, &order).await?.ended_as("confirmed", None)?;
    attempts_were(stack, "shipping", &["destination=\"carrier\"", "outcome=\"unknown\""], 2).await
}

/// The fault bit: so many attempts at least ended like this.
async fn attempts_were(
    stack: &Stack,
    service: &str,
    labels: &[&str],
    at_least: u32,
) -> anyhow::Result<()> {
    let found = metrics::total(stack, service, "switchback_call_attempts_total", labels).await?;
    ensure!(found >= f64::from(at_least), "{found} attempts of {service} with {labels:?}");
    Ok(())
}

async fn twins(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "TWINS", 100).await?;
    let key = fresh_key();
    let answers = try_join_all((0..50).map(|_| stack.client.try_place(&order, &key))).await?;
    let first: Vec<_> = answers.iter().filter(|answer| !answer.replayed).collect();
    ensure!(first.len() == 1, "{} of fifty twins are no replays", first.len());
    let same = |answer: &&Answer| answer.status == 202 && answer.body == first[0].body;
    ensure!(answers.iter().filter(same).count() == 50, "{answers:?}");
    let saga = saga::judge(stack, first[0].read::<Placed>()?.order_id).await?;
    saga.ended_as("confirmed", None)?;
    let sql =
        "select count(*) from inventory.reservations where convert_from(held, 'UTF8') like $1";
    let orders: i64 = sqlx::query_scalar(sql).bind("%TWINS%").fetch_one(&stack.tables).await?;
    ensure!(orders == 1, "{orders} orders hold the twins' stock");
    Ok(())
}

async fn other_body(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "OTHER-BODY", 100).await?;
    let key = fresh_key();
    let placed = stack.client.try_place(&order, &key).await?;
    let other = stack.client.try_place(&NewOrder::of("OTHER-BODY", 3), &key).await?;
    let refused = other.status == 422 && other.body.contains("IDEMPOTENCY_KEY_REUSED");
    ensure!(refused, "{other:?}");
    let again = stack.client.try_place(&order, &key).await?;
    ensure!(again.replayed && again.body == placed.body, "{again:?}");
    saga::judge(stack, placed.read::<Placed>()?.order_id).await?.ended_as("confirmed", None)
}

async fn cancel_after_the_end(stack: &Stack) -> anyhow::Result<()> {
    let order = order_of(stack, "AFTER", 10).await?;
    let arrived = stack.client.place(&order).await?.order_id;
    let back = stack.client.place(&order.clone().paid_with("pm_card_declined")).await?.order_id;
    let cancelled = Some(("card_declined", "payment"));
    for (order_id, status, reason, cancel) in
        [(arrived, "confirmed", None, Some("too_late")), (back, "cancelled", cancelled, None)]
    {
        stack.client.ended(order_id).await?;
        let answer = stack.client.try_cancel(order_id, &fresh_key()).await?;
        ensure!(answer.status == 200, "{answer:?}");
        let shown: Shown = answer.read()?;
        ensure!(shown.status == status && shown.cancel.as_deref() == cancel, "{shown:?}");
        saga::judge(stack, order_id).await?.ended_as(status, reason)?;
    }
    Ok(())
}

async fn the_dispatcher_sent_everything(stack: &Stack) -> anyhow::Result<()> {
    let said: i64 =
        sqlx::query_scalar("select count(*) from payment.events").fetch_one(&stack.tables).await?;
    let sent = metrics::total(stack, "payment", "switchback_dispatched_total", &[]).await?;
    ensure!(sent.to_string() == said.to_string(), "{said} events of payment, {sent} dispatched");
    Ok(())
}

/// Delivers each record of each topic a second time, byte for byte.
async fn every_topic_again(stack: &Stack) -> anyhow::Result<()> {
    let before = rows(stack).await?;
    let known = duplicates(stack).await?;
    let mut heard = 0;
    for service in SERVICES {
        let topic = format!("{service}.events.v1");
        let records = records::read(&stack.bootstrap(), &topic).await?;
        heard += records.iter().map(handlers).sum::<u32>();
        records::produce(&stack.bootstrap(), &topic, &records).await?;
    }
    ensure!(heard > 0, "there was nothing to deliver again");
    wait::until(HANDLED_MAX, &format!("{heard} duplicates to be discarded"), async || {
        let discarded = duplicates(stack).await.ok()? - known;
        (discarded >= f64::from(heard)).then_some(())
    })
    .await?;
    let after = rows(stack).await?;
    ensure!(before == after, "a second delivery changed {before:?} to {after:?}");
    Ok(())
}

/// How many services take a record as an input.
fn handlers(record: &records::Record) -> u32 {
    let kind = record.header("ce_type").unwrap_or_default();
    u32::try_from(rules::hearers(rules::name_of(kind)).len()).unwrap_or(u32::MAX)
}

async fn duplicates(stack: &Stack) -> anyhow::Result<f64> {
    let name = "switchback_inbox_duplicates_total";
    let of_services =
        try_join_all(SERVICES.map(|service| metrics::total(stack, service, name, &[])));
    Ok(of_services.await?.into_iter().sum())
}

/// All that a second delivery must not touch: the states with their versions, and what was done.
async fn rows(stack: &Stack) -> anyhow::Result<BTreeMap<String, (i64, i64)>> {
    let counted: Vec<(String, i64, i64)> = sqlx::query_as(
        "select 'orders', count(*), sum(version)::bigint from \"order\".orders
          union all
         select 'reservations', count(*), sum(version)::bigint from inventory.reservations
          union all
         select 'payments', count(*), sum(version)::bigint from payment.payments
          union all
         select 'shipments', count(*), sum(version)::bigint from shipping.shipments
          union all
         select 'stock', count(*), sum(available)::bigint from inventory.stock
          union all
         select 'timeline', count(*), 0 from \"order\".timeline
          union all
         select 'events', count(*), 0 from (
             select id from \"order\".events union all select id from inventory.events
              union all
             select id from payment.events union all select id from shipping.events) e",
    )
    .fetch_all(&stack.tables)
    .await?;
    let ledger = stack.client.ledger(None).await?.len();
    let ledger = ("ledger".to_owned(), i64::try_from(ledger)?, 0);
    Ok(counted.into_iter().chain([ledger]).map(|(what, count, sum)| (what, (count, sum))).collect())
}
