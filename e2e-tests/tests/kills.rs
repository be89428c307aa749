//! Each service is killed as by a power cut while many orders are under way.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::NewOrder;
use e2e_tests::{SERVICES, boots, saga};
use futures::future::try_join_all;
use testkit::wait;
use uuid::Uuid;

const SKU: &str = "TEA-1";
const ORDERS_PER_KIND: usize = 12;
const READY_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_killed_service_comes_back_and_no_order_is_lost() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        stack.client.set_stock(SKU, 10_000).await?;
        for service in SERVICES {
            killed(stack, service).await.with_context(|| format!("kill -9 {service}"))?;
        }
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

async fn killed(stack: &Stack, service: &str) -> anyhow::Result<()> {
    wait::until(READY_MAX, "the stack to be ready", async || {
        for service in SERVICES {
            if !stack.client.is_ready(service).await {
                return None;
            }
        }
        Some(())
    })
    .await?;
    let (restarts, boot) = (stack.restarts(service), boots::number(stack, service).await?);
    let orders = under_way(stack).await?;
    stack.kill(service)?;
    let open: i64 = sqlx::query_scalar(
        "select count(*) from \"order\".orders where order_id = any($1::uuid[]) and status = 1",
    )
    .bind(&orders)
    .fetch_one(&stack.tables)
    .await?;
    ensure!(open > 0, "every order had ended at the kill: the run is void");
    stack.restarted(service, restarts).await?;
    boots::taken_over(stack, service, boot).await?;
    try_join_all(orders.iter().map(|order_id| saga::judge(stack, *order_id))).await?;
    Ok(())
}

/// Orders of every kind: they arrive, are declined, are paid back, or are in doubt.
async fn under_way(stack: &Stack) -> anyhow::Result<Vec<Uuid>> {
    let kinds = [
        NewOrder::of(SKU, 1),
        NewOrder::of(SKU, 1).paid_with("pm_card_declined"),
        NewOrder::of(SKU, 1).sent_to("00000"),
        NewOrder::of(SKU, 1).paid_with("pm_answer_lost"),
    ];
    let orders = kinds.iter().flat_map(|kind| std::iter::repeat_n(kind, ORDERS_PER_KIND));
    let placed = try_join_all(orders.map(|order| stack.client.place(order))).await?;
    Ok(placed.into_iter().map(|placed| placed.order_id).collect())
}
