//! The process of payment dies exactly between two steps of the shell, once for each point and
//! occurrence, and everything comes right. Each occurrence has a stack of its own.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::NewOrder;
use e2e_tests::{boots, saga};
use futures::future::try_join_all;
use testkit::wait;
use uuid::Uuid;

const SERVICE: &str = "payment";
const SKU: &str = "TEA-1";
/// One wave of orders passes most points often enough; this many always do.
const WAVES_MAX: usize = 6;
const WAVE_MAX: Duration = Duration::from_secs(3);

/// After these something is committed that the broker may not know, and an offset is not stored.
const AFTER_COMMIT: [&str; 3] =
    ["lane.committed.before_produce", "lane.produced.before_ack", "lane.acked.before_delete"];
/// Without the dispatcher's points, which are passed only where the lane hands nothing over.
const DIRECT: [&str; 7] = [
    "lane.before_commit",
    "lane.committed.before_produce",
    "lane.produced.before_ack",
    "lane.acked.before_delete",
    "call.counted.before_send",
    "call.sent.before_answer",
    "lane.answer.before_commit",
];
const OUTBOX: [&str; 7] = [
    "lane.before_commit",
    "lane.committed.before_produce",
    "dispatcher.produced.before_ack",
    "dispatcher.acked.before_delete",
    "call.counted.before_send",
    "call.sent.before_answer",
    "lane.answer.before_commit",
];

#[tokio::test]
async fn every_point_is_survived_at_its_first_occurrence() -> anyhow::Result<()> {
    every_point(1).await
}

#[tokio::test]
async fn every_point_is_survived_at_its_second_occurrence() -> anyhow::Result<()> {
    every_point(2).await
}

#[tokio::test]
async fn every_point_is_survived_at_its_third_occurrence() -> anyhow::Result<()> {
    every_point(3).await
}

async fn every_point(nth: u32) -> anyhow::Result<()> {
    let points: &[&str] = if Stack::is_dispatched_from_the_outbox() { &OUTBOX } else { &DIRECT };
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 10_000).await?;
        for point in points {
            crash(stack, point, nth).await.with_context(|| format!("{point}, {nth}"))?;
        }
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

/// Lets payment die at a point while orders are under way, and judges all of them.
async fn crash(stack: &Stack, point: &str, nth: u32) -> anyhow::Result<()> {
    stack.ready().await?;
    let (restarts, pid) = (stack.restarts(SERVICE), stack.pid(SERVICE)?);
    let boot = boots::number(stack, SERVICE).await?;
    let peers: Vec<&str> = stack.processes_of(SERVICE).filter(|it| *it != SERVICE).collect();
    let peers_before = boots::made_good(stack, &peers).await?;
    stack.client.arm(SERVICE, point, nth).await?;
    let mut orders = Vec::new();
    for _ in 0..WAVES_MAX {
        orders.extend(wave(stack).await?);
        let fired = wait::until(WAVE_MAX, "the point to be reached", async || {
            (stack.restarts(SERVICE) > restarts).then_some(())
        });
        if fired.await.is_ok() {
            break;
        }
    }
    ensure!(has_fired(stack, point), "the point was never reached: the run is void");
    stack.restarted(SERVICE, restarts).await?;
    boots::taken_over(stack, SERVICE, boot).await?;
    ensure!(stack.pid(SERVICE)? != pid, "it is the same process");
    try_join_all(orders.iter().map(|order_id| saga::judge(stack, *order_id))).await?;
    if AFTER_COMMIT.contains(&point) {
        boots::was_felt(stack, SERVICE, peers_before).await?;
    }
    Ok(())
}

/// One order that arrives, one that is declined, and one that is charged and paid back.
async fn wave(stack: &Stack) -> anyhow::Result<Vec<Uuid>> {
    let arrives = NewOrder::of(SKU, 1);
    let declined = NewOrder::of(SKU, 1).paid_with("pm_card_declined");
    let refunded = NewOrder::of(SKU, 1).sent_to("00000");
    let placed = [arrives, declined, refunded].map(async |order| stack.client.place(&order).await);
    Ok(try_join_all(placed).await?.into_iter().map(|placed| placed.order_id).collect())
}

/// The process says so with its last breath.
fn has_fired(stack: &Stack, point: &str) -> bool {
    let last_words = format!("crash point {point} reached");
    stack.log(SERVICE).lines().any(|line| line.starts_with(&last_words))
}
