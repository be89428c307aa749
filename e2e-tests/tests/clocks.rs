//! A process whose clock is wrong, or leaps, decides as the others do: every time that counts is the
//! database's, and whatever is waited for is waited for by a clock that only runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::{Fault, NewOrder};
use e2e_tests::{SERVICES, saga};
use sqlx::AssertSqlSafe;
use sqlx::types::chrono::{DateTime, Utc};
use tempfile::TempDir;
use testkit::wait;
use uuid::Uuid;

const SKU: &str = "TEA-1";
const HOUR_SECONDS: f64 = 3_600.0;
const DEADLINE_SECONDS: u32 = 15;
/// How late a deadline may be noticed, on a machine that has other things to do as well.
const NOTICED_SECONDS_MAX: f64 = 10.0;
/// Retries are ever farther apart, so that a call has few of them before this many seconds are over.
const ATTEMPTS_MIN: i32 = 4;
const ATTEMPTS_MAX: i32 = 20;
const RETRIED_MAX: Duration = Duration::from_secs(10);
const BITTEN_MAX: Duration = Duration::from_secs(10);

/// What lets a process believe another time.
struct Clocks {
    preload: String,
    folder: TempDir,
}

impl Clocks {
    fn make() -> anyhow::Result<Self> {
        let faketime = library().context("libfaketime is missing: scripts/setup e2e")?;
        let folder = tempfile::tempdir()?;
        let waits = folder.path().join("waits.so");
        let source = folder.path().join("waits.c");
        fs::write(&source, include_str!("clocks/waits.c"))?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&waits).arg(&source);
        ensure!(cc.status()?.success(), "{cc:?}");
        Ok(Self { preload: format!("{}:{}", waits.display(), faketime.display()), folder })
    }

    /// The settings of a process that takes its time from `FAKETIME`, or from a file that can be
    /// changed while it runs.
    fn of(
        &self,
        process: &str,
        variable: &'static str,
        time: &str,
    ) -> [(String, &'static str, String); 4] {
        let set = |variable, value: &str| (process.to_owned(), variable, value.to_owned());
        [
            set("LD_PRELOAD", &self.preload),
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            set("FAKETIME_CACHE_DURATION", "1"),
            set(variable, time),
        ]
    }
}

/// Where systems put it.
fn library() -> Option<PathBuf> {
    let roots = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Path::new);
    let below = |root: &Path| fs::read_dir(root).into_iter().flatten().flatten();
    let folders = roots.into_iter().flat_map(|root| {
        [root.to_owned()].into_iter().chain(below(root).map(|entry| entry.path()))
    });
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

/// The database's time.
async fn now(stack: &Stack) -> anyhow::Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("select now()").fetch_one(&stack.tables).await?)
}

/// By how many seconds a process is ahead of the database.
async fn ahead(stack: &Stack, time: &str) -> anyhow::Result<f64> {
    let sql = "select extract(epoch from $1::text::timestamptz - now())::float8";
    Ok(sqlx::query_scalar(sql).bind(time).fetch_one(&stack.tables).await?)
}

/// Returns when a process tells its customers a time that is so many hours ahead.
async fn tells(stack: &Stack, process: &str, hours: f64) -> anyhow::Result<()> {
    wait::until(BITTEN_MAX, &format!("{process} to be {hours} h ahead"), async || {
        let date = stack.client.date(process).await.ok()?;
        let seconds = ahead(stack, &date).await.ok()?;
        ((seconds - hours * HOUR_SECONDS).abs() < HOUR_SECONDS / 10.0).then_some(())
    })
    .await
}

/// Returns when the last line that a process has logged is so many hours ahead.
async fn logs(stack: &Stack, process: &str, hours: f64) -> anyhow::Result<()> {
    wait::until(BITTEN_MAX, &format!("{process} to log {hours} h ahead"), async || {
        let log = stack.log(process);
        let line: serde_json::Value = serde_json::from_str(log.lines().last()?).ok()?;
        let seconds = ahead(stack, line["timestamp"].as_str()?).await.ok()?;
        ((seconds - hours * HOUR_SECONDS).abs() < HOUR_SECONDS / 10.0).then_some(())
    })
    .await
}

/// Returns when each order's call has been tried some times, and fails if it was often.
async fn retried(stack: &Stack, orders: &[Uuid]) -> anyhow::Result<()> {
    let (least, most) = wait::until(RETRIED_MAX, "calls to be tried again", async || {
        let tried: Vec<i32> = sqlx::query_scalar(
            "select attempts from payment.calls where subject = any($1::uuid[])",
        )
        .bind(orders)
        .fetch_all(&stack.tables)
        .await
        .ok()?;
        let (least, most) = (*tried.iter().min()?, *tried.iter().max()?);
        (tried.len() == orders.len() && least >= ATTEMPTS_MIN).then_some((least, most))
    })
    .await?;
    println!("attempts of {} calls: {least} to {most}", orders.len());
    ensure!(most <= ATTEMPTS_MAX, "{most} attempts in {RETRIED_MAX:?}");
    Ok(())
}

/// Every event carries the database's time, in its id and in what consumers read.
async fn times_are_the_databases(stack: &Stack, began: DateTime<Utc>) -> anyhow::Result<()> {
    for service in SERVICES {
        let sql = format!(
            "select count(*),
                    count(*) filter (where id < {service:?}.uuid_floor($1)
                                        or id > {service:?}.uuid_floor(now() + interval '1 s')
                                        or time not between $1 and now()
                                        or created_at not between $1 and now())
               from (select id, created_at,
                            (convert_from(headers, 'UTF8')::json ->> 'time')::timestamptz as time
                       from {service:?}.events) e"
        );
        let (all, wrong): (i64, i64) =
            sqlx::query_as(AssertSqlSafe(sql)).bind(began).fetch_one(&stack.tables).await?;
        ensure!(all > 0, "{service} has said nothing");
        ensure!(wrong == 0, "{service}: {wrong} of {all} events are of another time");
    }
    Ok(())
}

#[tokio::test]
async fn processes_an_hour_ahead_and_behind_neither_hurry_nor_wait() -> anyhow::Result<()> {
    let wrong = [
        ("order", -1.0),
        ("order-2", 1.0),
        ("inventory-2", 1.0),
        ("payment-2", -1.0),
        ("shipping-2", 1.0),
    ];
    let clocks = Clocks::make()?;
    let settings = wrong
        .iter()
        .flat_map(|(process, hours)| clocks.of(process, "FAKETIME", &format!("{hours:+}h")));
    let settings = settings.collect();
    let environment = vec![("ORDER_DEADLINE_SECONDS", DEADLINE_SECONDS.to_string())];
    let options = Options { instances: 2, environment, settings, ..Options::default() };
    with_stack(&options, async |stack| {
        let client = &stack.client;
        client.set_stock(SKU, 1_000).await?;
        let began = now(stack).await?;
        for (process, hours) in wrong {
            tells(stack, process, hours).await?;
        }

        // Neither too early: an order is on its way for some seconds, and arrives.
        client.break_provider("payment", Fault::of_all("down", 60)).await?;
        let mut slow = Vec::new();
        for _ in 0..5 {
            for order in ["order", "order-2"] {
                slow.push(client.through(order).place(&NewOrder::of(SKU, 1)).await?.order_id);
            }
        }
        retried(stack, &slow).await?;
        client.heal_provider("payment").await?;
        for order_id in &slow {
            saga::judge(stack, *order_id).await?.ended_as("confirmed", None)?;
        }
        for order in ["order", "order-2"] {
            let unpaid = NewOrder::of(SKU, 1).paid_with("pm_card_declined");
            let unpaid = client.through(order).place(&unpaid).await?.order_id;
            let saga = saga::judge(stack, unpaid).await?;
            saga.ended_as("cancelled", Some(("card_declined", "payment")))?;
        }

        // Nor too late: an order that cannot go on is turned round when its time is up.
        client.break_provider("payment", Fault::of_all("down", 60)).await?;
        let mut late = Vec::new();
        for order in ["order", "order-2"] {
            late.push(client.through(order).place(&NewOrder::of(SKU, 1)).await?.order_id);
        }
        for order_id in &late {
            client.told(*order_id, "OrderCancelRequested").await?;
        }
        client.heal_provider("payment").await?;
        for order_id in &late {
            let saga = saga::judge(stack, *order_id).await?;
            saga.ended_as("cancelled", Some(("deadline", "payment")))?;
            let noticed = noticed_after_seconds(stack, *order_id).await?;
            ensure!((0.0..NOTICED_SECONDS_MAX).contains(&noticed), "noticed after {noticed} s");
        }
        times_are_the_databases(stack, began).await?;
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

/// How long after its deadline an order was turned round.
async fn noticed_after_seconds(stack: &Stack, order_id: Uuid) -> anyhow::Result<f64> {
    let sql = "select extract(epoch from e.created_at - o.deadline_at)::float8
                 from \"order\".orders o
                 join \"order\".events e on e.subject = o.order_id
                where o.order_id = $1 and e.type like '%.OrderCancelRequested.%'";
    Ok(sqlx::query_scalar(sql).bind(order_id).fetch_one(&stack.tables).await?)
}

#[tokio::test]
async fn a_clock_that_leaps_while_orders_are_on_their_way_changes_nothing() -> anyhow::Result<()> {
    let clocks = Clocks::make()?;
    let clock = clocks.folder.path().join("clock");
    let set = |hours: &str| fs::write(&clock, format!("{hours}\n"));
    set("+0h")?;
    let path = clock.to_str().context("a path is text")?;
    let settings = ["order", "payment", "shipping"]
        .iter()
        .flat_map(|process| clocks.of(process, "FAKETIME_TIMESTAMP_FILE", path))
        .collect();
    // Of one process each, so that whoever is asked is one whose clock leaps.
    with_stack(&Options { instances: 1, settings, ..Options::default() }, async |stack| {
        let client = &stack.client;
        client.set_stock(SKU, 1_000).await?;
        let began = now(stack).await?;
        client.break_provider("payment", Fault::of_all("down", 60)).await?;
        let mut orders = Vec::new();
        for _ in 0..5 {
            orders.push(client.place(&NewOrder::of(SKU, 1)).await?.order_id);
        }
        logs(stack, "payment", 0.0).await?;
        set("+1h")?;
        logs(stack, "payment", 1.0).await?;
        tells(stack, "order", 1.0).await?;
        orders.push(client.place(&NewOrder::of(SKU, 1)).await?.order_id);
        set("-1h")?;
        logs(stack, "payment", -1.0).await?;
        orders.push(client.place(&NewOrder::of(SKU, 1)).await?.order_id);
        retried(stack, &orders).await?;
        client.heal_provider("payment").await?;
        for order_id in &orders {
            saga::judge(stack, *order_id).await?.ended_as("confirmed", None)?;
        }
        times_are_the_databases(stack, began).await?;
        whole::judge(stack, &Injected::default()).await
    })
    .await
}
