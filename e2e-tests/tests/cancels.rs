//! A cancel meets the train before, in and after each service. A service is halted, or its
//! provider broken, so that the train is known to stand where the cancel finds it.

use std::time::Duration;

use anyhow::ensure;
use e2e_tests::metrics;
use e2e_tests::saga::{self, Saga};
use e2e_tests::scenario::{run_all, scenario};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::{Fault, NewOrder};
use futures::future::try_join_all;
use testkit::wait;
use uuid::Uuid;

const SKU: &str = "TEA-1";
const TRAINS: usize = 4;
const HEARD_MAX: Duration = Duration::from_secs(20);
const BY_CUSTOMER: [(&str, &str); 3] =
    [("customer", "inventory"), ("customer", "payment"), ("customer", "shipping")];

#[tokio::test]
async fn a_cancel_at_any_moment_ends_in_agreement() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        run_all([
            scenario("a cancel right after the 202", at_once(stack)),
            scenario("a cancel while the provider has the money", while_charging(stack)),
        ])
        .await?;
        // Each of these holds up everybody, so they come one after another.
        run_all([scenario("a cancel before inventory", before(stack, "inventory"))]).await?;
        run_all([scenario("a cancel before payment", before(stack, "payment"))]).await?;
        run_all([scenario("a cancel before shipping", before(stack, "shipping"))]).await?;
        run_all([scenario("a cancel while payment's provider is away", provider_away(stack))])
            .await?;
        run_all([scenario("a cancel while the carrier is slow", while_booking(stack))]).await?;
        run_all([scenario("a cancel while the carrier is away", carrier_away(stack))]).await?;
        run_all([scenario("a request that lands late", late(stack))]).await?;
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

async fn trains(stack: &Stack, order: NewOrder) -> anyhow::Result<Vec<Uuid>> {
    let placed = try_join_all((0..TRAINS).map(|_| stack.client.place(&order))).await?;
    Ok(placed.into_iter().map(|placed| placed.order_id).collect())
}

async fn cancel(stack: &Stack, orders: &[Uuid]) -> anyhow::Result<()> {
    try_join_all(orders.iter().map(|order_id| stack.client.cancel(*order_id))).await.map(drop)
}

async fn judged(stack: &Stack, orders: &[Uuid]) -> anyhow::Result<Vec<Saga>> {
    try_join_all(orders.iter().map(|order_id| saga::judge(stack, *order_id))).await
}

/// Turned round by the customer, or arrived although a cancel was on its way: nothing else.
fn cancelled_or_too_late(sagas: &[Saga]) -> anyhow::Result<usize> {
    let mut cancelled = 0;
    for saga in sagas {
        if saga.was_cancelled_too_late() {
            saga.ended_as("confirmed", None)?;
            continue;
        }
        let turned = BY_CUSTOMER.iter().any(|by| saga.ended_as("cancelled", Some(*by)).is_ok());
        ensure!(turned, "{saga:#?}");
        cancelled += 1;
    }
    Ok(cancelled)
}

async fn at_once(stack: &Stack) -> anyhow::Result<()> {
    let orders = try_join_all((0..TRAINS).map(async |_| {
        let order_id = stack.client.place(&NewOrder::of(SKU, 1)).await?.order_id;
        stack.client.cancel(order_id).await?;
        anyhow::Ok(order_id)
    }));
    cancelled_or_too_late(&judged(stack, &orders.await?).await?).map(drop)
}

/// The money is taken and the answer is two seconds away: it comes first, then the money goes back.
async fn while_charging(stack: &Stack) -> anyhow::Result<()> {
    let orders = trains(stack, NewOrder::of(SKU, 1).paid_with("pm_slow")).await?;
    try_join_all(orders.iter().map(|order_id| stack.client.done(*order_id, "capture"))).await?;
    cancel(stack, &orders).await?;
    for saga in judged(stack, &orders).await? {
        saga.ended_as("cancelled", Some(("customer", "payment")))?;
        ensure!(saga.said("payment") == ["PaymentRefunded", "ReleaseInventory"], "{saga:#?}");
    }
    Ok(())
}

/// The train waits in front of a service that stands still; the cancel is said before it moves on.
async fn before(stack: &Stack, service: &str) -> anyhow::Result<()> {
    let halted = stack.halt_all(service)?;
    let orders = trains(stack, NewOrder::of(SKU, 1)).await?;
    let (arrives_with, never_said) = match service {
        "inventory" => ("OrderPlaced", "InventoryReserved"),
        "payment" => ("InventoryReserved", "PaymentCaptured"),
        _ => ("PaymentCaptured", "ShipmentBooked"),
    };
    try_join_all(orders.iter().map(|id| stack.client.told(*id, arrives_with))).await?;
    cancel(stack, &orders).await?;
    try_join_all(orders.iter().map(|id| stack.client.told(*id, "OrderCancelRequested"))).await?;
    for order_id in &orders {
        let timeline = stack.client.timeline(*order_id).await?;
        ensure!(!timeline.tells(never_said), "the train had passed {service}: the run is void");
    }
    drop(halted);
    let sagas = judged(stack, &orders).await?;
    let cancelled = cancelled_or_too_late(&sagas)?;
    // Only the carrier can make it too late: until then every service can still turn the train.
    ensure!(service == "shipping" || cancelled == orders.len(), "{cancelled} of {}", orders.len());
    Ok(())
}

/// Nobody knows whether the money was taken: it is asked for until it is definite, then it goes
/// back.
async fn provider_away(stack: &Stack) -> anyhow::Result<()> {
    stack.client.break_provider("payment", Fault::of_all("down", 60)).await?;
    let orders = trains(stack, NewOrder::of(SKU, 1)).await?;
    attempted_in_vain(stack, "payment").await?;
    cancel(stack, &orders).await?;
    heard_by(stack, "payment", &orders).await?;
    stack.client.heal_provider("payment").await?;
    for saga in judged(stack, &orders).await? {
        saga.ended_as("cancelled", Some(("customer", "payment")))?;
    }
    Ok(())
}

/// The carrier has the last word: yes, and the cancel came too late.
async fn while_booking(stack: &Stack) -> anyhow::Result<()> {
    stack.client.break_provider("carrier", Fault::of_all("slow", 60)).await?;
    let orders = trains(stack, NewOrder::of(SKU, 1)).await?;
    try_join_all(orders.iter().map(|order_id| stack.client.done(*order_id, "book"))).await?;
    cancel(stack, &orders).await?;
    for saga in judged(stack, &orders).await? {
        ensure!(saga.was_cancelled_too_late(), "{saga:#?}");
        saga.ended_as("confirmed", None)?;
    }
    stack.client.heal_provider("carrier").await
}

/// The carrier's no turns the train round for its own reason, cancel or not.
async fn carrier_away(stack: &Stack) -> anyhow::Result<()> {
    stack.client.break_provider("carrier", Fault::of_all("errors", 60)).await?;
    let orders = trains(stack, NewOrder::of(SKU, 1).sent_to("00000")).await?;
    attempted_in_vain(stack, "shipping").await?;
    cancel(stack, &orders).await?;
    heard_by(stack, "shipping", &orders).await?;
    stack.client.heal_provider("carrier").await?;
    for saga in judged(stack, &orders).await? {
        saga.ended_as("cancelled", Some(("address_rejected", "shipping")))?;
        ensure!(saga.said("order").contains(&"OrderCancelRequested"), "{saga:#?}");
    }
    Ok(())
}

/// Every request is cut off and takes effect seconds later: what is asked again under the same
/// key is charged once.
async fn late(stack: &Stack) -> anyhow::Result<()> {
    stack.client.break_provider("payment", Fault::of_all("late", 60)).await?;
    let orders = trains(stack, NewOrder::of(SKU, 1)).await?;
    attempted_in_vain(stack, "payment").await?;
    let known = ["destination=\"payment-provider\"", "attempt=\"again\""];
    let again = metrics::total(stack, "payment", "switchback_call_attempts_total", &known).await?;
    ensure!(again > 0.0, "nobody asked again");
    for saga in judged(stack, &orders).await? {
        saga.ended_as("confirmed", None)?;
    }
    stack.client.heal_provider("payment").await
}

/// Returns when each call of a service that is under way was attempted in vain.
async fn attempted_in_vain(stack: &Stack, service: &str) -> anyhow::Result<()> {
    let sql = if service == "payment" {
        "select count(*) from payment.calls where in_doubt"
    } else {
        "select count(*) from shipping.calls where in_doubt"
    };
    let wanted = i64::try_from(TRAINS)?;
    wait::until(HEARD_MAX, &format!("{service}'s calls to be in doubt"), async || {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&stack.tables).await.ok()?;
        (count == wanted).then_some(())
    })
    .await
}

/// Returns when a service has handled the cancels of some orders.
async fn heard_by(stack: &Stack, service: &str, orders: &[Uuid]) -> anyhow::Result<()> {
    let sql = if service == "payment" {
        "select count(*) from payment.inbox i join \"order\".events e on e.id = i.event_id
          where e.subject = any($1::uuid[]) and e.version = 2"
    } else {
        "select count(*) from shipping.inbox i join \"order\".events e on e.id = i.event_id
          where e.subject = any($1::uuid[]) and e.version = 2"
    };
    let wanted = i64::try_from(orders.len())?;
    wait::until(HEARD_MAX, &format!("{service} to hear the cancels"), async || {
        let query = sqlx::query_scalar(sql).bind(orders);
        let count: i64 = query.fetch_one(&stack.tables).await.ok()?;
        (count == wanted).then_some(())
    })
    .await
}
