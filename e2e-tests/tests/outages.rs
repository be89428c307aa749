//! What the services need goes away under load: Postgres stands still, dies, loses a connection; the
//! broker is cut off, and where it is a process of its own, dies too. They say that they are not
//! ready, lose nothing, and blame no order for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::SERVICES;
use e2e_tests::crowd::{Crowd, lasts};
use e2e_tests::link::Weather;
use e2e_tests::stack::{KAFKA, Options, Stack, with_stack};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use testkit::wait;

const AWAY: Duration = Duration::from_secs(10);
/// How soon readiness falls.
const NOTICED_MAX: Duration = Duration::from_secs(10);
const IN_FLIGHT: usize = 100;
/// A broker that was killed waits until the controller has given its last life up.
const BROKER_BACK_MAX: Duration = Duration::from_secs(30);

/// How the broker's process ends, where it has one.
fn deaths_of_the_broker() -> &'static [(&'static str, Signal)] {
    if Stack::is_on_kafka() {
        &[("Kafka is killed", Signal::KILL), ("Kafka is asked to end", Signal::TERM)]
    } else {
        // It lives in the launcher, and ends with the whole stack.
        &[]
    }
}

#[tokio::test]
async fn postgres_stands_still_is_killed_and_loses_a_process_and_nothing_else_is_lost()
-> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        under_load(stack, &crowd, "Postgres stands still", async || {
            let halted = stack.halt_postgres()?;
            let begun = Instant::now();
            noticed(stack, SERVICES.len(), "database").await?;
            lasts(AWAY.saturating_sub(begun.elapsed())).await?;
            drop(halted);
            Ok(())
        })
        .await?;
        under_load(stack, &crowd, "all of Postgres is killed", async || {
            let pid = stack.postgres_pid()?;
            stack.kill_postgres()?;
            comes_back(stack, pid).await
        })
        .await?;
        under_load(stack, &crowd, "Postgres is asked to end", async || {
            let pid = stack.postgres_pid()?;
            // Its fast shutdown: nobody is asked, every connection is told so.
            kill_process(pid, Signal::INT)?;
            comes_back(stack, pid).await
        })
        .await?;
        under_load(stack, &crowd, "one backend is killed", async || kill_a_backend(stack).await)
            .await?;
        crowd.judge(stack).await
    })
    .await
}

#[tokio::test]
async fn the_broker_is_cut_off_or_dies_and_what_was_said_meanwhile_goes_out_later()
-> anyhow::Result<()> {
    with_stack(&Options { links: true, ..Options::default() }, async |stack| {
        let crowd = Crowd::of(stack).await?;
        for (what, weather) in [
            ("the broker refuses everybody", Weather::Reset),
            ("the broker's words are lost on the way", Weather::BlackHole),
        ] {
            under_load(stack, &crowd, what, async || {
                let link = stack.links.as_ref().context("a stack with links")?.broker_link();
                let before = link.count();
                link.set(weather);
                let begun = Instant::now();
                waits_in_the_outbox(stack).await?;
                if weather == Weather::Reset {
                    noticed(stack, SERVICES.len(), "broker").await?;
                }
                lasts(AWAY.saturating_sub(begun.elapsed())).await?;
                link.set(Weather::Pass);
                let after = link.count();
                let hit = (after.cut - before.cut) + (after.held - before.held);
                println!("{what}: {hit} connections or pieces hit");
                ensure!(hit > 0, "{what}: nothing was cut off, the run is void");
                Ok(())
            })
            .await?;
        }
        for (what, signal) in deaths_of_the_broker() {
            under_load(stack, &crowd, what, async || broker_dies(stack, what, *signal).await)
                .await?;
        }
        crowd.judge(stack).await
    })
    .await
}

/// The launcher starts it again over what it has written.
async fn broker_dies(stack: &Stack, what: &str, signal: Signal) -> anyhow::Result<()> {
    let (pid, restarts) = (stack.pid(KAFKA)?, stack.restarts(KAFKA));
    let begun = Instant::now();
    kill_process(pid, signal)?;
    waits_in_the_outbox(stack).await?;
    stack.restarted(KAFKA, restarts).await?;
    ensure!(stack.pid(KAFKA)? != pid, "it is the same process: the run is void");
    let until: String =
        sqlx::query_scalar("select clock_timestamp()::text").fetch_one(&stack.tables).await?;
    wait::until(BROKER_BACK_MAX, "what was said meanwhile to go out", async || {
        let waiting = "select count(*)
                         from \"order\".outbox o join \"order\".events e on e.id = o.event_id
                        where e.created_at < $1::timestamptz";
        let waiting = sqlx::query_scalar(waiting).bind(&until).fetch_one(&stack.tables);
        let waiting: i64 = waiting.await.ok()?;
        (waiting == 0).then_some(())
    })
    .await?;
    println!("{what}: what was said meanwhile is out after {:.1?}", begun.elapsed());
    Ok(())
}

/// Something happens while orders flow; then everybody is ready again.
async fn under_load(
    stack: &Stack,
    crowd: &Crowd,
    what: &str,
    outage: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    stack.ready().await?;
    let orders = crowd.rush(stack, IN_FLIGHT).await?;
    let asked_again = crowd
        .during(stack, async || {
            let open = crowd.open(stack, &orders).await?;
            ensure!(open > 0, "every order had ended before: the run is void");
            outage().await?;
            let healed = Instant::now();
            stack.ready().await?;
            println!("{what}: {open} orders under way, ready again {:.1?} later", healed.elapsed());
            Ok(())
        })
        .await
        .with_context(|| what.to_owned())?;
    println!("{what}: {asked_again} requests had to be made again");
    Ok(())
}

/// Postgres is gone for a moment, and started again by the launcher.
async fn comes_back(stack: &Stack, before: Pid) -> anyhow::Result<()> {
    // It may be back before everybody has asked for it.
    noticed(stack, 1, "database").await?;
    wait::until(AWAY, "Postgres to be started again", async || {
        stack.postgres_pid().ok().filter(|pid| *pid != before)
    })
    .await
    .map(drop)
}

/// Returns when so many services have said that they are not ready, and what they miss.
async fn noticed(stack: &Stack, by: usize, missing: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut found = BTreeSet::new();
    let what = format!("{by} services to miss the {missing}");
    let all = wait::until(NOTICED_MAX, &what, async || {
        let asked = SERVICES.map(async |service| (service, stack.client.readiness(service).await));
        for (service, readiness) in join_all(asked).await {
            let misses = readiness.is_ok_and(|it| it.status == 503 && it.body.contains(missing));
            found.extend(misses.then_some(service));
        }
        (found.len() >= by).then_some(())
    });
    all.await.with_context(|| format!("only {found:?}"))?;
    println!("{found:?} not ready after {:.1?}", begun.elapsed());
    Ok(())
}

async fn waits_in_the_outbox(stack: &Stack) -> anyhow::Result<()> {
    wait::until(NOTICED_MAX, "events to wait in the outbox", async || {
        let waiting = "select count(*) from \"order\".outbox";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&stack.tables).await.ok()?;
        (waiting > 10).then_some(())
    })
    .await
}

/// Postgres ends all others when one of its processes dies, and recovers by itself.
async fn kill_a_backend(stack: &Stack) -> anyhow::Result<()> {
    let pid = stack.postgres_pid()?;
    let (backend, now): (i32, String) = sqlx::query_as(
        "select pid, clock_timestamp()::text from pg_stat_activity
          where application_name = 'payment-1' limit 1",
    )
    .fetch_one(&stack.tables)
    .await?;
    kill_process(Pid::from_raw(backend).context("a backend's pid")?, Signal::KILL)?;
    wait::until(AWAY, "every connection to be a new one", async || {
        let old: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where backend_type = 'client backend' and backend_start < $1::timestamptz",
        )
        .bind(&now)
        .fetch_one(&stack.tables)
        .await
        .ok()?;
        (old == 0).then_some(())
    })
    .await?;
    ensure!(stack.postgres_pid()? == pid, "more than one backend died");
    Ok(())
}
