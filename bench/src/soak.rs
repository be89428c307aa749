//! Owns the long run: whether anything grows with the number of orders that have finished. Refuses
//! to be quick.

use e2e_tests::SERVICES;

use crate::limits::head::{Written, head};
use crate::load::{Load, SKUS};
use crate::meter::memory::{Seen, Watch};
use crate::meter::outbox;
use crate::record::{Header, Measurement, Mode, Soak, What};
use crate::results::{Results, say};
use crate::stage::{Ground, Stage, on_stage};

/// What a saga costs is measured over so many, once so many others have finished before.
const WINDOW_SAGAS: u64 = 10_000;
const LOOKS_AT: [u64; 2] = [10_000, 100_000];

/// Lets so many orders finish, and measures on the way and then what they have left behind.
pub async fn run(orders: u64, ground: Ground, results: &mut Results) -> anyhow::Result<()> {
    let mode = Mode::Product;
    on_stage(&ground, mode, mode.warm_up(), async |stage| {
        results.begin(Header::of(&stage.stack.tables, ground.broker, false)).await?;
        soak(stage, orders, results).await
    })
    .await
}

async fn soak(stage: &mut Stage<'_>, orders: u64, results: &mut Results) -> anyhow::Result<()> {
    let memory = Watch::start(stage.launcher)?;
    let in_flight = stage.mode.in_flight();
    let looks = LOOKS_AT.into_iter().filter(|look| look + WINDOW_SAGAS < orders).chain([orders]);
    let mut finished = 0;
    for look in looks {
        let load = Load::Orders { orders: look - finished, in_flight };
        stage.load(load, SKUS, false).await?;
        let load = Load::Orders { orders: WINDOW_SAGAS, in_flight };
        let measured = stage.measure(1, What::Soak { finished: look }, load).await?;
        say(&measured);
        results.write(&measured)?;
        finished = look + WINDOW_SAGAS;
    }
    let left = left_behind(stage, &memory.stop()?).await?;
    println!("  {left:?}");
    // Of its own, because what is left behind is the same however busy the machine was.
    let what = What::Soak { finished: orders };
    results.write(&Measurement { soak: Some(left), ..Measurement::new(1, stage.mode, what) })
}

async fn left_behind(stage: &mut Stage<'_>, memory: &Seen) -> anyhow::Result<Soak> {
    let tables = &stage.stack.tables;
    let (mut outbox_bytes, mut dead_rows) = (0, 0);
    for service in SERVICES {
        let size = outbox::size(tables, service).await?;
        outbox_bytes = size.bytes.max(outbox_bytes);
        dead_rows += size.dead_rows;
    }
    stage.holds().await?;
    let superuser = &stage.stack.tables.connect_options();
    let few = head(superuser, 1_000, Written::Before).await?;
    let many = head(superuser, 200_000, Written::Before).await?;
    let lately = head(superuser, 200_000, Written::Lately).await?;
    let [pss_mb_first_quarter, pss_mb_last_quarter] = memory.quarters_mb();
    Ok(Soak {
        outbox_bytes,
        dead_rows,
        head_ms_1k: few.median_ms,
        head_ms_200k: many.median_ms,
        sweep_ms_200k: many.sweep_ms,
        head_lately_ms_200k: lately.median_ms,
        pss_mb_first_quarter,
        pss_mb_last_quarter,
    })
}
