//! What a stack on this machine costs and how quick it is, measured from outside and held against
//! its bounds. It refuses to measure a debug build.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::figures::{Figures, told};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::wire::NewOrder;
use e2e_tests::{SERVICES, metrics};
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use testkit::processes::Table;
use testkit::wait;

const LONE_ORDERS: usize = 50;
const LONE_MEDIAN_MS_MAX: f64 = 100.0;
const FIRST_ORDERS: usize = 200;
const PACED_ORDERS: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(2);
const PACE: Duration = Duration::from_millis(50);
const PACED_MEDIAN_MS_MAX: f64 = 50.0;
const ORDERS: usize = 5_000;
const IN_FLIGHT: usize = 500;
const COMMITS_PER_SAGA_MAX: f64 = 0.3;
const SERVICE_MB_MAX: f64 = 100.0;
const IDLE_CORE_PERCENT_MAX: f64 = 10.0;
const IDLE_SECONDS: u64 = 20;
/// An idle backend of Postgres tells what it has committed within ten seconds.
const STATISTICS: Duration = Duration::from_secs(12);
const ENDED_MAX: Duration = Duration::from_mins(5);
const SKU: &str = "TEA-1";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "measure a release build: type `make figures`");
    let mut figures = Figures::default();
    let durable = Options { durable: true, ..Options::default() };
    if Stack::is_on_kafka() {
        with_stack(&durable, async |stack| paced_orders(stack, &mut figures).await).await?;
        return figures.are_within_their_bounds();
    }
    with_stack(&Options::default(), async |stack| lone_orders(stack, &mut figures).await).await?;
    with_stack(&durable, async |stack| many_orders(stack, &mut figures).await).await?;
    figures.are_within_their_bounds()
}

/// From the 202 to the first look that finds it confirmed, in milliseconds. Who looks without a pause
/// takes the processor from those whom he watches.
async fn one_arrives(stack: &Stack) -> anyhow::Result<f64> {
    let order_id = stack.client.place(&NewOrder::of(SKU, 1)).await?.order_id;
    let placed = Instant::now();
    while stack.client.order(order_id).await?.status != "confirmed" {
        ensure!(placed.elapsed() < ENDED_MAX, "order {order_id} does not arrive");
        pass(LOOK_EVERY).await;
    }
    Ok(placed.elapsed().as_secs_f64() * 1_000.0)
}

/// Each at its time, however long those before it take.
async fn paced_orders(stack: &Stack, figures: &mut Figures) -> anyhow::Result<()> {
    stack.client.set_stock(SKU, 1_000_000).await?;
    all_arrive(stack, FIRST_ORDERS).await?;
    let mut clock = tokio::time::interval(PACE);
    let mut under_way = FuturesUnordered::new();
    let mut times_ms = Vec::with_capacity(PACED_ORDERS);
    let mut to_come = PACED_ORDERS;
    while times_ms.len() < PACED_ORDERS {
        tokio::select! {
            _ = clock.tick(), if to_come > 0 => {
                under_way.push(one_arrives(stack));
                to_come -= 1;
            }
            Some(took) = under_way.next() => times_ms.push(took?),
        }
    }
    times_ms.sort_by(f64::total_cmp);
    let above = |percent| times_ms[PACED_ORDERS * percent / 100];
    figures.held("an order at 20 per second, median ms", above(50), PACED_MEDIAN_MS_MAX);
    told("an order at 20 per second, 95th percentile ms", above(95));
    told("an order at 20 per second, 99th percentile ms", above(99));
    Ok(())
}

async fn lone_orders(stack: &Stack, figures: &mut Figures) -> anyhow::Result<()> {
    stack.client.set_stock(SKU, 1_000).await?;
    let mut times_ms = Vec::with_capacity(LONE_ORDERS);
    for _ in 0..LONE_ORDERS {
        times_ms.push(one_arrives(stack).await?);
    }
    times_ms.sort_by(f64::total_cmp);
    figures.held("a lone order, median ms", times_ms[LONE_ORDERS / 2], LONE_MEDIAN_MS_MAX);
    told("a lone order, slowest ms", times_ms[LONE_ORDERS - 1]);
    Ok(())
}

async fn many_orders(stack: &Stack, figures: &mut Figures) -> anyhow::Result<()> {
    stack.client.set_stock(SKU, 1_000_000).await?;
    all_arrive(stack, FIRST_ORDERS).await?;
    let idle_commits = idle(stack, figures).await?;

    let begun = Instant::now();
    let (lanes_before, commits_before) = (lane_commits(stack).await?, commits(stack).await?);
    let took = all_arrive(stack, ORDERS).await?;
    let lanes = lane_commits(stack).await? - lanes_before;
    pass(STATISTICS).await;
    let idled = begun.elapsed().as_secs_f64() * idle_commits;
    let all = commits(stack).await? - commits_before - idled;

    let sagas = u32::try_from(ORDERS).map(f64::from)?;
    told("sagas per second", sagas / took.as_secs_f64());
    figures.held("lane commits per saga", lanes / sagas, COMMITS_PER_SAGA_MAX);
    told("all commits per saga, minus idle", all / sagas);
    for service in SERVICES {
        figures.held(
            &format!("{service}, resident MB"),
            resident_mb(stack, service)?,
            SERVICE_MB_MAX,
        );
    }
    Ok(())
}

/// What a stack does while nobody asks; gives its commits per second.
async fn idle(stack: &Stack, figures: &mut Figures) -> anyhow::Result<f64> {
    pass(STATISTICS).await;
    let (begun, commits_before) = (Instant::now(), commits(stack).await?);
    let cpu_seconds = || Ok::<_, anyhow::Error>(Table::read()?.cpu_seconds(stack.launcher_pid()?));
    let before = cpu_seconds()?;
    pass(Duration::from_secs(IDLE_SECONDS)).await;
    let used = cpu_seconds()? - before;
    let seconds = begun.elapsed().as_secs_f64();
    let per_second = (commits(stack).await? - commits_before) / seconds;
    figures.held("an idle stack, % of a core", used / seconds * 100.0, IDLE_CORE_PERCENT_MAX);
    told("an idle stack, commits per second", per_second);
    Ok(per_second)
}

/// Lets time pass.
async fn pass(time: Duration) {
    // Nothing is awaited but the time itself, so that running out of it is the good end.
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}

/// From the first request until every order has arrived.
async fn all_arrive(stack: &Stack, orders: usize) -> anyhow::Result<Duration> {
    let arrived = "select count(*) from \"order\".orders where status = 3";
    let count = async || sqlx::query_scalar::<_, i64>(arrived).fetch_one(&stack.tables).await;
    let wanted = count().await? + i64::try_from(orders)?;
    let begun = Instant::now();
    let order = NewOrder::of(SKU, 1);
    stream::iter((0..orders).map(|_| stack.client.place(&order)))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(async |_| Ok(()))
        .await?;
    wait::until(ENDED_MAX, "every order to arrive", async || {
        (count().await.ok()? == wanted).then_some(())
    })
    .await?;
    Ok(begun.elapsed())
}

async fn lane_commits(stack: &Stack) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for service in SERVICES {
        let text = stack.client.metrics(service).await?;
        sum += metrics::sum(&text, "switchback_lane_commits_total", &[]);
    }
    Ok(sum)
}

async fn commits(stack: &Stack) -> anyhow::Result<f64> {
    let sql = "select xact_commit::float8 from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(sql).fetch_one(&stack.tables).await?)
}

fn resident_mb(stack: &Stack, service: &str) -> anyhow::Result<f64> {
    let pid = stack.pid(service)?.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
    Ok(kb.parse::<f64>()? / 1_024.0)
}
