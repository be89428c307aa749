//! Each service is killed as by a power cut while hundreds of orders are under way.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::crowd::Crowd;
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::{SERVICES, boots};
use sqlx::AssertSqlSafe;
use testkit::wait;

const ORDERS: usize = 280;
const OPEN_MIN: i64 = 200;
const READY_MAX: Duration = Duration::from_secs(5);
/// The in-memory broker holds a dead member's partitions back until its session (3 s here) is over,
/// and then waits nearly as long for others to join.
const MOVING_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_killed_service_comes_back_and_no_order_is_lost() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        for service in SERVICES {
            killed(stack, &crowd, service).await.with_context(|| format!("kill -9 {service}"))?;
        }
        crowd.judge(stack).await
    })
    .await
}

async fn killed(stack: &Stack, crowd: &Crowd, service: &str) -> anyhow::Result<()> {
    stack.ready().await?;
    let (restarts, boot) = (stack.restarts(service), boots::number(stack, service).await?);
    let orders = crowd.rush(stack, ORDERS).await?;
    stack.kill(service)?;
    let killed = Instant::now();
    let open = crowd.open(stack, &orders).await?;
    ensure!(open >= OPEN_MIN, "only {open} orders were under way at the kill: the run is void");
    let handled = handled(stack, service).await?;
    stack.restarted(service, restarts).await?;
    wait::until(MOVING_MAX, &format!("{service} to be ready"), async || {
        is_ready_but_for_its_group(stack, service).await.then_some(())
    })
    .await?;
    let ready = killed.elapsed();
    boots::taken_over(stack, service, boot).await?;
    wait::until(MOVING_MAX, "the next event to be handled", async || {
        (self::handled(stack, service).await.ok()? > handled).then_some(())
    })
    .await?;
    let moving = killed.elapsed();
    println!(
        "{service} killed with {open} orders under way: ready after {ready:.1?}, next event handled \
         after {moving:.1?}"
    );
    ensure!(ready <= READY_MAX, "{service} took {ready:?} to be ready");
    ensure!(moving <= MOVING_MAX, "{service} took {moving:?} to go on");
    Ok(())
}

/// How soon a group has its partitions is up to the broker.
async fn is_ready_but_for_its_group(stack: &Stack, service: &str) -> bool {
    let readiness = stack.client.readiness(service).await;
    readiness.is_ok_and(|answer| answer.status == 200 || answer.body == "not ready: broker\n")
}

/// Events that a service has handled so far.
async fn handled(stack: &Stack, service: &str) -> anyhow::Result<i64> {
    let sql = format!("select count(*) from {service:?}.inbox");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&stack.tables).await?)
}
