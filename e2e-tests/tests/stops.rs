//! Each service is asked to end while orders flow, and clients hang up on it: it ends in time and in
//! order, and what it had begun is there in full or not at all.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e_tests::SERVICES;
use e2e_tests::crowd::Crowd;
use e2e_tests::stack::{Options, Stack, with_stack};

const END_MAX: Duration = Duration::from_secs(20);
const HANGS_UP_AFTER_MS_MAX: u64 = 60;
/// An idle machine answers within a few milliseconds, so only the last steps of each round hang up.
const ROUNDS: u64 = 8;
const HUNG_UP_MIN: usize = 10;

#[tokio::test]
async fn a_service_that_is_asked_to_end_does_so_in_time_and_leaves_nothing_undone()
-> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        for service in SERVICES {
            ended(stack, &crowd, service).await.with_context(|| format!("SIGTERM to {service}"))?;
        }
        crowd.judge(stack).await
    })
    .await
}

async fn ended(stack: &Stack, crowd: &Crowd, service: &str) -> anyhow::Result<()> {
    stack.ready().await?;
    let restarts = stack.restarts(service);
    let orders = crowd.rush(stack, 40).await?;
    crowd
        .during(stack, async || {
            let open = crowd.open(stack, &orders).await?;
            ensure!(open > 0, "every order had ended before: the run is void");
            stack.terminate(service)?;
            let asked = Instant::now();
            stack.restarted(service, restarts).await?;
            let took = asked.elapsed();
            println!("{service} ended {took:.1?} after SIGTERM, {open} orders under way");
            ensure!(took <= END_MAX, "it took {took:?}");
            let orderly = format!("{service} died (exit code 0)");
            ensure!(
                stack.said().lines().any(|line| line.starts_with(&orderly)),
                "{}",
                stack.said()
            );
            let left = "left unfinished";
            ensure!(!stack.log(service).contains(left), "{}", stack.log(service));
            stack.ready().await
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_hangs_up_at_any_millisecond_leaves_all_or_nothing() -> anyhow::Result<()> {
    with_stack(&Options::default(), async |stack| {
        let crowd = Crowd::of(stack).await?;
        let mut hung_up = 0;
        crowd
            .during(stack, async || {
                for ms in (0..ROUNDS).flat_map(|_| (0..=HANGS_UP_AFTER_MS_MAX).rev()) {
                    hung_up += usize::from(crowd.hang_up(stack, Duration::from_millis(ms)).await?);
                }
                Ok(())
            })
            .await?;
        println!("{hung_up} clients hung up before their answer");
        ensure!(hung_up >= HUNG_UP_MIN, "answers were too quick: the run is void");
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
              where state = 'idle in transaction' and usename = 'order_app'
                and state_change < clock_timestamp() - interval '1 second'",
        )
        .fetch_one(&stack.tables)
        .await?;
        ensure!(open == 0, "{open} transactions were left open");
        crowd.judge(stack).await
    })
    .await
}
