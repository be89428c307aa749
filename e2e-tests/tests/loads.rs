//! A load goes through although a service is killed or stands still in the middle of it, and its
//! figures are what the tables say.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, programs, with_stack};
use serde_json::Value;
use testkit::wait;

const ORDERS: i64 = 300;
/// Whatever becomes of the service: while it is away, orders come.
const PER_SECOND: i64 = 30;
/// The load is well under way, and not over by far.
const PLACED_AT_THE_KILL: i64 = 100;
const PLACED_MAX: Duration = Duration::from_mins(1);
const ORDER: &str = "order";
const PAYMENT: &str = "payment";
/// More than the load has connections.
const WATCHED: i64 = 700;
const WATCHED_PER_SECOND: i64 = 100;

#[tokio::test]
async fn a_load_outlives_the_order_service_and_every_order_of_it_ends_once() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let mut load = load(stack, ORDERS, PER_SECOND);
        let load = tokio::task::spawn_blocking(move || load.output());
        wait::until(PLACED_MAX, "the load to be under way", async || {
            (placed(stack).await.ok()? >= PLACED_AT_THE_KILL).then_some(())
        })
        .await?;
        let restarts = stack.restarts(ORDER);
        stack.kill(ORDER)?;
        let placed = placed(stack).await?;
        ensure!(placed < ORDERS, "every order was placed before the kill: the run is void");
        stack.restarted(ORDER, restarts).await?;
        judge(stack, &load.await??).await
    })
    .await
}

#[tokio::test]
async fn orders_are_placed_at_their_time_while_none_of_those_that_are_watched_ends()
-> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let payment = stack.halt_all(PAYMENT)?;
        let mut load = load(stack, WATCHED, WATCHED_PER_SECOND);
        load.args(["--watch-per-second", &WATCHED_PER_SECOND.to_string()]);
        let load = tokio::task::spawn_blocking(move || load.output());
        wait::until(PLACED_MAX, "all orders to be placed", async || {
            (placed(stack).await.ok()? == WATCHED).then_some(())
        })
        .await?;
        let ended = "select count(*) from \"order\".orders where status >= 3";
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&stack.tables).await?;
        ensure!(ended == 0, "{ended} orders have ended without payment: the run is void");
        drop(payment);
        let output = load.await??;
        let figures: Value = serde_json::from_slice(&output.stdout).context("figures")?;
        ensure!(figures["finished_ms"]["watched"].as_i64() == Some(WATCHED), "{figures}");
        Ok(())
    })
    .await
}

/// On all processes of the order service, with a tenth of the orders sent to where the carrier does
/// not go.
fn load(stack: &Stack, orders: i64, per_second: i64) -> Command {
    let url = |offset: u16| format!("http://127.0.0.1:{}", stack.port_base() + offset);
    let programs = programs().unwrap_or_default();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(programs.join("switchback"));
    command.args(["load", "--skus", "50", "--inventory-url", &url(2)]);
    command.args(["--orders", &orders.to_string(), "--rate", &per_second.to_string()]);
    for (_, offset) in stack.processes_of(ORDER).zip([1, 21]) {
        command.args(["--order-url", &url(offset)]);
    }
    command
}

async fn judge(stack: &Stack, output: &Output) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let figures: Value = serde_json::from_slice(&output.stdout).context("figures")?;
    println!("{figures}");
    let figure = |name: &str| figures[name].as_i64().with_context(|| format!("{name}: {figures}"));
    ensure!(figure("retried")? > 0, "nobody missed the order service: the run is void");
    let (confirmed, cancelled) = (figure("confirmed")?, figure("cancelled")?);
    // A request whose answer was lost with the process is the same order again.
    ensure!(confirmed + cancelled == ORDERS, "{figures}");
    ensure!(cancelled >= ORDERS / 10, "{figures}");
    ensure!(figures["finished_ms"]["watched"].as_i64() == Some(ORDERS / 2), "{figures}");
    let in_tables = "select count(*) filter (where status in (3, 4)),
                            count(*) filter (where status = 5), count(*) from \"order\".orders";
    let in_tables: (i64, i64, i64) = sqlx::query_as(in_tables).fetch_one(&stack.tables).await?;
    ensure!(in_tables == (confirmed, cancelled, ORDERS), "{in_tables:?}, but {figures}");
    Ok(())
}

async fn placed(stack: &Stack) -> anyhow::Result<i64> {
    let placed = sqlx::query_scalar("select count(*) from \"order\".orders");
    Ok(placed.fetch_one(&stack.tables).await?)
}
