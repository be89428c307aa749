//! The opponents on real processes: whoever is compared with them must be able to trust that they
//! keep their promises too.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bench::invariants::{self, Left};
use e2e_tests::SERVICES;
use e2e_tests::stack::{Options, Stack, programs, with_stack};
use e2e_tests::wire::{Entry, Fault, NewOrder};
use futures::future::try_join_all;
use tempfile::TempDir;
use testkit::wait;

const SKU: &str = "TEA-1";
/// The carrier refuses it.
const NOWHERE: &str = "00000";
const ORDERS: u32 = 40;
const FAILING: u32 = 4;
const SLOW_SECONDS: u64 = 60;
const QUIET_MAX: Duration = Duration::from_mins(1);

/// A folder of programs as the launcher wants them, with an opponent in place of each service.
fn folder() -> anyhow::Result<TempDir> {
    let built = programs()?;
    let folder = TempDir::new_in(&built)?;
    let link = |name: &str, program: &Path| fs::hard_link(program, folder.path().join(name));
    for own in ["switchback", "providers"] {
        link(own, &built.join(own))?;
    }
    for service in SERVICES {
        link(service, Path::new(env!("CARGO_BIN_EXE_opponent")))?;
    }
    Ok(folder)
}

/// Places orders of which every tenth cannot be delivered.
async fn place(stack: &Stack, orders: u32) -> anyhow::Result<()> {
    let orders = (0..orders).map(|number| {
        let order = NewOrder::of(SKU, 1);
        if number % 10 == 0 { order.sent_to(NOWHERE) } else { order }
    });
    let orders: Vec<_> = orders.collect();
    try_join_all(orders.iter().map(|order| stack.client.place(order))).await?;
    Ok(())
}

/// How many orders were confirmed, and cancelled, once nothing moves any more and if every promise
/// was kept.
async fn ends(stack: &Stack, orders: u32) -> anyhow::Result<(i64, i64)> {
    wait::until(QUIET_MAX, "all orders to end and to be told of", async || {
        let nothing = Left::read(&stack.tables).await.ok()? == Left::NOTHING;
        (nothing && invariants::all_is_told(&stack.tables).await.ok()?).then_some(())
    })
    .await?;
    invariants::hold(stack, orders.into()).await?;
    let ends = "select count(*) filter (where status = 3), count(*) filter (where status = 5)
                  from \"order\".orders";
    Ok(sqlx::query_as(ends).fetch_one(&stack.tables).await?)
}

/// What breaks a promise once everything has ended, how it is mended, and what is then said of it.
const BROKEN: [(&str, &str, &str); 3] = [
    (
        "update payment.payments set status = 6 where status = 7",
        "update payment.payments set status = 7 where status = 6",
        "is no end on which the services agree",
    ),
    (
        "update inventory.stock set available = available + 1",
        "update inventory.stock set available = available - 1",
        "the stock of 1 SKUs is not what was counted",
    ),
    (
        "update \"order\".orders set amount_minor = amount_minor - 1 where status = 3",
        "update \"order\".orders set amount_minor = amount_minor + 1 where status = 3",
        "too much was charged",
    ),
];

/// Whoever trusts a figure trusts that a stack that breaks a promise has none.
async fn breaks_are_found(stack: &Stack, orders: u32) -> anyhow::Result<()> {
    for (breaking, mending, said) in BROKEN {
        sqlx::query(breaking).execute(&stack.tables).await?;
        let held = invariants::hold(stack, orders.into()).await;
        let found = held.as_ref().is_err_and(|error| error.to_string().contains(said));
        anyhow::ensure!(found, "{said}: {held:?}");
        sqlx::query(mending).execute(&stack.tables).await?;
    }
    let lost = invariants::hold(stack, u64::from(orders) + 1).await;
    let found = lost.is_err_and(|error| error.to_string().contains("orders were accepted"));
    anyhow::ensure!(found, "an order is missing and nobody says so");
    invariants::hold(stack, orders.into()).await
}

fn of_captures(ledger: &[Entry]) -> usize {
    ledger.iter().filter(|entry| entry.operation == "capture").count()
}

async fn serves_and_survives(kind: &str) -> anyhow::Result<()> {
    let folder = folder()?;
    let options = Options {
        environment: vec![("OPPONENT", kind.to_owned())],
        instances: 1,
        programs: Some(folder.path().to_owned()),
        ..Options::default()
    };
    with_stack(&options, async |stack| {
        stack.client.set_stock(SKU, 1_000).await?;
        place(stack, ORDERS).await?;
        let (confirmed, cancelled) = (i64::from(ORDERS - FAILING), i64::from(FAILING));
        let all = (confirmed, cancelled);
        anyhow::ensure!(ends(stack, ORDERS).await? == all, "every tenth order is cancelled");

        // It dies when the provider has taken money and has not said so yet.
        stack.client.break_provider("payment", Fault::of_all("slow", SLOW_SECONDS)).await?;
        place(stack, ORDERS).await?;
        let captures = async || stack.client.ledger(None).await.map(|ledger| of_captures(&ledger));
        wait::until(QUIET_MAX, "a capture that is not answered yet", async || {
            (captures().await.ok()? > ORDERS as usize).then_some(())
        })
        .await?;
        stack.kill("payment")?;
        let open: i64 = sqlx::query_scalar("select count(*) from payment.calls")
            .fetch_one(&stack.tables)
            .await?;
        anyhow::ensure!(open > 0, "nobody waited for the provider: the death hit nothing");
        stack.client.heal_provider("payment").await?;
        stack.restarted("payment", 0).await?;
        let twice = (2 * confirmed, 2 * cancelled);
        anyhow::ensure!(ends(stack, 2 * ORDERS).await? == twice, "a death changes no end");
        breaks_are_found(stack, 2 * ORDERS).await
    })
    .await
}

#[tokio::test]
async fn the_textbook_keeps_every_promise_also_when_a_service_is_killed() -> anyhow::Result<()> {
    serves_and_survives("textbook").await
}

#[tokio::test]
async fn the_tuned_one_keeps_every_promise_also_when_a_service_is_killed() -> anyhow::Result<()> {
    serves_and_survives("tuned").await
}
