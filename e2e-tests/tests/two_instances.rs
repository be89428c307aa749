//! Two processes of every service: they share the work, and what one of them loses, holds on to or
//! repeats is made good by the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::client::{Answer, fresh_key};
use e2e_tests::crowd::{Crowd, SKU};
use e2e_tests::stack::{Options, Stack, with_stack};
use e2e_tests::whole::{self, Injected};
use e2e_tests::wire::{NewOrder, Placed};
use e2e_tests::{SERVICES, boots, metrics, saga};
use futures::future::try_join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::{records, wait};
use uuid::Uuid;

/// The two processes that customers may ask.
const DOORS: [&str; 2] = ["order", "order-2"];
const TWINS: usize = 50;
const ROUNDS: usize = 3;
const SOON: Duration = Duration::from_secs(20);
const TAKEN_OVER_MAX: Duration = Duration::from_secs(5);
const READY_MAX: Duration = Duration::from_secs(5);
/// Kafka moves partitions when a dead member's session is over. The in-memory broker waits almost
/// that long (3 s here) at each change of members besides, and a restart makes two or three.
const MOVING_MAX: Duration = Duration::from_secs(15);
/// What a process says that waits for its partitions and for nothing else.
const ONLY_WITHOUT_GROUP: &str = "not ready: broker";
/// Orders in flight whenever a process goes away.
const IN_FLIGHT_MIN: i64 = 5;
const STOPPED_MAX: Duration = Duration::from_secs(20);

/// Two of each, with stock for everybody.
async fn with_two(body: impl AsyncFnOnce(&Stack) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let options = Options { instances: 2, ..Options::default() };
    with_stack(&options, async |stack| {
        stack.client.set_stock(SKU, 100_000).await?;
        body(stack).await
    })
    .await
}

#[tokio::test]
async fn two_processes_share_the_work_and_say_everything_once() -> anyhow::Result<()> {
    with_two(async |stack| {
        place(stack, &NewOrder::of(SKU, 1), 60).await?;
        whole::judge(stack, &Injected::default()).await?;
        for process in stack.processes() {
            let text = stack.client.metrics(process).await?;
            let inputs = metrics::sum(&text, "switchback_batch_size_sum", &[]);
            // Thirty are what a customer asked of each process of order; others only hear events.
            let asked = if process.starts_with("order") { 30.0 } else { 0.0 };
            println!("{process}: {} events handled", inputs - asked);
            ensure!(inputs > asked, "{process} has handled nothing");
        }
        said_once(stack).await
    })
    .await
}

/// Each event is in its topic a single time, and each service has one dispatcher.
async fn said_once(stack: &Stack) -> anyhow::Result<()> {
    for service in SERVICES {
        let records = records::read(&stack.bootstrap(), &format!("{service}.events.v1")).await?;
        let ids: BTreeSet<_> = records.iter().map(|record| record.header("ce_id")).collect();
        ensure!(!ids.is_empty() && ids.len() == records.len(), "{service} repeats itself");
        ensure!(dispatchers(stack, service).await?.len() == 1, "{service} needs one dispatcher");
    }
    Ok(())
}

/// The processes that hold a service's dispatcher lock, each with its connection's number.
async fn dispatchers(stack: &Stack, service: &str) -> anyhow::Result<Vec<(String, i32)>> {
    let holders: Vec<(String, i32)> = sqlx::query_as(
        "select a.application_name, a.pid
           from pg_locks l join pg_stat_activity a using (pid)
          where l.locktype = 'advisory'
            and l.classid = (hashtext('dispatch ' || $1)::bigint & 4294967295)::oid
            and l.granted",
    )
    .bind(service)
    .fetch_all(&stack.tables)
    .await?;
    // `payment-1` is the process `payment`.
    let named = |(name, pid): (String, i32)| (name.trim_end_matches("-1").to_owned(), pid);
    Ok(holders.into_iter().map(named).collect())
}

#[tokio::test]
async fn twins_of_a_request_over_two_processes_are_one_request() -> anyhow::Result<()> {
    with_two(async |stack| {
        let mut collided = 0.0;
        for round in 1..=ROUNDS {
            collided += twins(stack).await.with_context(|| format!("round {round}"))?;
        }
        ensure!(collided > 0.0, "no two batches wrote one key: the run is void");
        let orders: i64 = sqlx::query_scalar("select count(*) from \"order\".orders")
            .fetch_one(&stack.tables)
            .await?;
        ensure!(usize::try_from(orders)? == ROUNDS, "{orders} orders");
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

/// An order that many ask for at once at both doors, and whose cancel they ask for in the same
/// way. Gives how many batches collided when it was placed: those that cancel wait for the order
/// itself, and may find the key before they write it.
async fn twins(stack: &Stack) -> anyhow::Result<f64> {
    let (order, key) = (NewOrder::of(SKU, 1).paid_with("pm_slow"), fresh_key());
    let placed =
        all_at_once(stack, async |door| stack.client.through(door).try_place(&order, &key).await);
    let (placed, collided) = placed.await.context("placing")?;
    let order_id = placed.read::<Placed>()?.order_id;
    stack.client.done(order_id, "capture").await?;
    let key = fresh_key();
    let cancelled = all_at_once(stack, async |door| {
        stack.client.through(door).try_cancel(order_id, &key).await
    });
    cancelled.await.context("cancelling")?;
    let saga = saga::judge(stack, order_id).await?;
    let asked = saga.events.iter().filter(|event| event.name() == "OrderCancelRequested").count();
    ensure!(asked == 1, "the cancel was said {asked} times");
    Ok(collided)
}

/// The one answer that all of them get, although both processes had begun to work on one. Where
/// the second finds the first's only when it writes, its batch collides and runs again: so many
/// did.
async fn all_at_once(
    stack: &Stack,
    ask: impl AsyncFn(&'static str) -> anyhow::Result<Answer>,
) -> anyhow::Result<(Answer, f64)> {
    let collisions = async || sum(stack, &DOORS, &["switchback_batch_reruns_total"]).await;
    let before = collisions().await?;
    let held = Held::table(stack, "\"order\".idempotency_keys").await?;
    let release = async {
        held.up(stack, "order").await?;
        held.release().await
    };
    let doors = DOORS.into_iter().cycle().take(TWINS);
    let asking = try_join_all(doors.map(|door| taken(door, &ask)));
    let (answers, ()) = tokio::try_join!(asking, release)?;
    let collided = collisions().await? - before;
    let replayed = answers.iter().filter(|answer| answer.replayed).count();
    println!("{replayed} of {TWINS} replayed, {collided} batches collided");
    let bodies: BTreeSet<&str> = answers.iter().map(|answer| answer.body.as_str()).collect();
    ensure!(bodies.len() == 1, "twins get different answers: {bodies:?}");
    Ok((answers.into_iter().next().context("there are twins")?, collided))
}

/// The answer to one of them, who asks again when he is told to come later.
async fn taken(
    door: &'static str,
    ask: impl AsyncFn(&'static str) -> anyhow::Result<Answer>,
) -> anyhow::Result<Answer> {
    let answer = wait::until(SOON, "an answer", async || {
        let answer = ask(door).await;
        let is_told_later = |answer: &Answer| [503, 409].contains(&answer.status);
        (!answer.as_ref().is_ok_and(is_told_later)).then_some(answer)
    });
    let answer = answer.await??;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.body);
    Ok(answer)
}

/// A table that no service can write to.
struct Held(PgConnection);

impl Held {
    async fn table(stack: &Stack, table: &str) -> anyhow::Result<Self> {
        let mut behind = stack.tables.acquire().await?.detach();
        let sql = format!("begin; lock table {table} in exclusive mode");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut behind).await?;
        Ok(Self(behind))
    }

    /// Returns when both processes of a service have a batch that waits for it.
    async fn up(&self, stack: &Stack, service: &str) -> anyhow::Result<()> {
        let waiting = "select count(distinct application_name) from pg_stat_activity
                        where application_name like $1 || '-%' and wait_event_type = 'Lock'";
        wait::until(SOON, "both to have a batch that cannot go on", async || {
            let query = sqlx::query_scalar(waiting).bind(service).fetch_one(&stack.tables);
            let waiting: i64 = query.await.ok()?;
            (waiting == 2).then_some(())
        })
        .await
    }

    async fn release(self) -> anyhow::Result<()> {
        Ok(self.0.close().await?)
    }
}

/// So many orders at once, at both doors.
async fn place(stack: &Stack, order: &NewOrder, count: usize) -> anyhow::Result<Vec<Uuid>> {
    let placing = DOORS.into_iter().cycle().take(count).map(async |door| {
        let placed = stack.client.through(door).place(order).await?;
        anyhow::Ok(placed.order_id)
    });
    try_join_all(placing).await
}

/// What a process discarded as handled before, and what it had to run again.
const TOO_LATE: [&str; 2] = ["switchback_inbox_duplicates_total", "switchback_batch_reruns_total"];

#[tokio::test]
async fn a_stale_owner_that_wakes_does_nothing_twice() -> anyhow::Result<()> {
    with_two(async |stack| {
        place(stack, &NewOrder::of(SKU, 1).paid_with("pm_slow"), 20).await?;
        wait::until(SOON, "payment to ask for money", async || {
            (!calling(stack).await.ok()?.is_empty()).then_some(())
        })
        .await?;
        // From here on no answer can be written down, so whoever is calling stays so.
        let held = Held::table(stack, "payment.payments").await?;
        let calling = calling(stack).await?;
        try_join_all(calling.iter().map(|order_id| stack.client.done(*order_id, "capture")))
            .await?;
        let orders = place(stack, &NewOrder::of(SKU, 1), 60).await?;
        held.up(stack, "payment").await?;
        let taken = async || sum(stack, &["payment-2"], &["switchback_batch_size_sum"]).await;
        let felt = async || sum(stack, &["payment"], &TOO_LATE).await;
        let (taken_before, felt_before) = (taken().await?, felt().await?);
        let halted = stack.halt("payment")?;
        held.release().await?;
        println!("payment halted with events in its hands and {} calls under way", calling.len());
        ensure!(!calling.is_empty(), "it calls nobody: the run is void");

        let begun = Instant::now();
        try_join_all(orders.iter().map(|order_id| stack.client.ended(*order_id))).await?;
        println!("without payment its orders ended after {:.1?}", begun.elapsed());
        let taken = taken().await? - taken_before;
        ensure!(taken >= 60.0, "payment-2 did {taken}: nothing was taken over");

        drop(halted);
        let felt = wait::until(SOON, "payment to find out that it comes too late", async || {
            felt().await.ok().filter(|felt| *felt > felt_before)
        })
        .await?;
        println!("awake, it discards or runs again {}", felt - felt_before);
        stack.ready().await?;
        stack.client.place(&NewOrder::of(SKU, 1)).await?;
        whole::judge(stack, &Injected::default()).await
    })
    .await
}

/// The orders for which the process `payment` has an attempt under way.
async fn calling(stack: &Stack) -> anyhow::Result<Vec<Uuid>> {
    let boot = boots::number(stack, "payment").await?;
    let calling = sqlx::query_scalar("select subject from payment.calls where boot = $1");
    Ok(calling.bind(boot).fetch_all(&stack.tables).await?)
}

/// Of these metrics, over these processes.
async fn sum(stack: &Stack, processes: &[&str], names: &[&str]) -> anyhow::Result<f64> {
    let texts = processes.iter().map(|process| stack.client.metrics(process));
    let texts = try_join_all(texts).await?;
    let sums = names.iter().flat_map(|name| texts.iter().map(|text| metrics::sum(text, name, &[])));
    Ok(sums.sum())
}

#[tokio::test]
async fn a_killed_dispatchers_lock_and_partitions_go_to_its_peer() -> anyhow::Result<()> {
    with_two(async |stack| {
        let (crowd, mut losses) = (Crowd::of(stack).await?, Vec::new());
        let killing = async || {
            for service in SERVICES {
                losses.push(killed(stack, service).await.context(service)?);
            }
            Ok(())
        };
        crowd.during(stack, killing).await?;
        crowd.judge(stack).await?;
        crowd.is_content(stack).await?;
        moved_on(stack, &losses).await
    })
    .await
}

async fn killed(stack: &Stack, service: &'static str) -> anyhow::Result<Loss> {
    stack.ready().await?;
    let holders = dispatchers(stack, service).await?;
    let [(holder, connection)] = holders.as_slice() else {
        anyhow::bail!("dispatchers: {holders:?}")
    };
    let (restarts, loss) = (stack.restarts(holder), Loss::now(stack, service).await?);
    stack.kill(holder)?;
    let begun = Instant::now();
    let (next, _) = wait::until(TAKEN_OVER_MAX, "somebody else to dispatch", async || {
        let holders = dispatchers(stack, service).await.ok()?;
        holders.into_iter().find(|(_, other)| other != connection)
    })
    .await?;
    let taken_over = begun.elapsed();
    stack.restarted(holder, restarts).await?;
    wait::until(READY_MAX, &format!("{holder} to be ready"), async || {
        let answer = stack.client.readiness(holder).await.ok()?;
        (answer.status == 200 || answer.body.trim() == ONLY_WITHOUT_GROUP).then_some(())
    })
    .await?;
    let ready = begun.elapsed();
    ensure!(ready <= READY_MAX, "{holder} was ready only after {ready:.1?}");
    stack.ready().await?;
    println!(
        "{holder} killed: {next} dispatches after {taken_over:.1?}, it is ready after {ready:.1?}, \
         and in its group after {:.1?}",
        begun.elapsed()
    );
    Ok(loss)
}

#[tokio::test]
async fn all_processes_are_restarted_one_by_one_and_no_customer_notices() -> anyhow::Result<()> {
    with_two(async |stack| {
        let (crowd, mut losses) = (Crowd::of(stack).await?, Vec::new());
        let rolling = async || {
            for process in stack.processes() {
                losses.push(restarted(stack, process).await.context(process.clone())?);
            }
            Ok(())
        };
        crowd.during(stack, rolling).await?;
        crowd.judge(stack).await?;
        crowd.is_content(stack).await?;
        moved_on(stack, &losses).await
    })
    .await
}

async fn restarted(stack: &Stack, process: &str) -> anyhow::Result<Loss> {
    stack.ready().await?;
    let service = SERVICES.into_iter().find(|service| process.starts_with(service));
    let service = service.context("a service's process")?;
    let (restarts, loss) = (stack.restarts(process), Loss::now(stack, service).await?);
    stack.terminate(process)?;
    let begun = Instant::now();
    stack.restarted(process, restarts).await?;
    let stopped = begun.elapsed();
    stack.ready().await?;
    println!("{process}: ended after {stopped:.1?}, ready after {:.1?}", begun.elapsed());
    ensure!(stopped <= STOPPED_MAX, "{process} took too long to end");
    Ok(loss)
}

/// A process of a service went away while orders were in flight.
struct Loss {
    service: &'static str,
    /// By the database's clock, as all times in it.
    at: String,
    /// Orders in flight.
    open: i64,
}

impl Loss {
    async fn now(stack: &Stack, service: &'static str) -> anyhow::Result<Self> {
        let open = "select clock_timestamp()::text, count(*)
                      from \"order\".orders
                     where status = 1
                    having count(*) >= $1";
        let (at, open) = wait::until(SOON, "orders to be in flight", async || {
            sqlx::query_as(open).bind(IN_FLIGHT_MIN).fetch_optional(&stack.tables).await.ok()?
        })
        .await?;
        Ok(Self { service, at, open })
    }
}

/// After each loss every event found somebody to handle it in time.
async fn moved_on(stack: &Stack, losses: &[Loss]) -> anyhow::Result<()> {
    let ends = losses.iter().skip(1).map(|next| next.at.as_str()).chain(["infinity"]);
    for (Loss { service, at, open }, end) in losses.iter().zip(ends) {
        let events =
            SERVICES.map(|service| format!("select id, created_at from {service:?}.events"));
        let sql = format!(
            "select max(extract(epoch from i.handled_at - greatest(e.created_at, $1::timestamptz)))::float8
               from {service:?}.inbox i join ({}) e on e.id = i.event_id
              where i.consumer = $3 and i.handled_at > $1::timestamptz
                and e.created_at < $2::timestamptz",
            events.join(" union all ")
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(at).bind(end).bind(service);
        let longest: Option<f64> = query.fetch_one(&stack.tables).await?;
        let longest = Duration::from_secs_f64(longest.context("nothing was handled any more")?);
        println!("{service}: {open} orders in flight, no event waited longer than {longest:.1?}");
        ensure!(longest <= MOVING_MAX, "{service}: its partitions stood still");
    }
    Ok(())
}
