//! Owns what piles up while something stands still, and how soon it is worked off. Refuses to call
//! it a backlog when nothing piled up.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e_tests::stack::KAFKA;
use sqlx::PgPool;
use testkit::wait;
use tokio::time::sleep;

use crate::load::{Load, SKUS};
use crate::meter::cpu::{Reading, Used};
use crate::record::{Backlog, Measurement, What};
use crate::results::say;
use crate::stage::{Stage, is_late};

const RATE: u32 = 100;
/// Before anything stands still.
const RUN_UP: Duration = Duration::from_secs(5);
/// Orders come in so much longer than something stands still, so that they come in while it drains.
const RUN_OUT_SECONDS: u32 = 25;
/// Who stands still, and for how many seconds.
const OUTAGES: [(&str, u32); 2] = [(KAFKA, 60), ("payment", 30)];
const DRAIN_MAX: Duration = Duration::from_mins(3);
/// How long it takes with a stack that drains as it should.
pub const TAKES: Duration = Duration::from_mins(4);

/// Both outages one after the other, and their two drains as one.
pub async fn measure(stage: &mut Stage<'_>, round: u32) -> anyhow::Result<Measurement> {
    let mut all = Backlog {
        intake_per_second: f64::from(RATE),
        drain_per_second: 0.0,
        drain_seconds: 0.0,
        waiting: 0,
    };
    let mut finished = 0;
    let before = Reading::take(stage.launcher)?;
    let mut late = None;
    for (process, seconds) in OUTAGES {
        let drain = outage(stage, process, seconds).await?;
        println!(
            "  {process} stood still for {seconds} s: {} waited, and {} finished in {:.1} s",
            drain.waiting,
            drain.finished,
            drain.took.as_secs_f64()
        );
        all.drain_seconds += drain.took.as_secs_f64();
        all.waiting += drain.waiting;
        finished += drain.finished;
        late = late.or(drain.late);
    }
    let finished = u32::try_from(finished).map(f64::from)?;
    all.drain_per_second = finished / all.drain_seconds;
    let outside = Used::between(&before, &Reading::take(stage.launcher)?)?.outside;
    let measurement = Measurement {
        dropped: stage.is_disturbed(outside).or(late),
        outside_cpu: Some(outside),
        backlog: Some(all),
        ..Measurement::new(round, stage.mode, What::Backlog)
    };
    say(&measurement);
    Ok(measurement)
}

struct Drain {
    /// When nothing stood still any more.
    waiting: u64,
    /// From then on, until no more waited than come in within a second.
    finished: u64,
    took: Duration,
    /// Why it was none, if orders did not come in at their time.
    late: Option<String>,
}

async fn outage(stage: &mut Stage<'_>, process: &str, seconds: u32) -> anyhow::Result<Drain> {
    let stack = stage.stack;
    let run_up = u32::try_from(RUN_UP.as_secs())?;
    let load = Load::Paced { rate: RATE, seconds: run_up + seconds + RUN_OUT_SECONDS };
    let fault = async {
        sleep(RUN_UP).await;
        let halted = stack.halt(process)?;
        sleep(Duration::from_secs(seconds.into())).await;
        let piled_up = Orders::read(&stack.tables).await?;
        drop(halted);
        let begun = Instant::now();
        let bites = u64::from(RATE * seconds) * 9 / 10;
        ensure!(piled_up.waiting() >= bites, "{process} stands still, and {piled_up:?}");
        let drained = wait::until(DRAIN_MAX, "the backlog to drain", async || {
            let orders = Orders::read(&stack.tables).await.ok()?;
            (orders.waiting() <= RATE.into()).then_some(orders)
        });
        let finished = drained.await?.ended - piled_up.ended;
        Ok(Drain { waiting: piled_up.waiting(), finished, took: begun.elapsed(), late: None })
    };
    let (loaded, drain) = tokio::try_join!(stage.load(load, SKUS, false), fault)?;
    Ok(Drain { late: is_late(&loaded), ..drain })
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    placed: u64,
    ended: u64,
}

impl Orders {
    async fn read(tables: &PgPool) -> anyhow::Result<Self> {
        let sql = "select count(*), count(*) filter (where status >= 3) from \"order\".orders";
        let (placed, ended): (i64, i64) = sqlx::query_as(sql).fetch_one(tables).await?;
        Ok(Self { placed: u64::try_from(placed)?, ended: u64::try_from(ended)? })
    }

    const fn waiting(self) -> u64 {
        self.placed - self.ended
    }
}
