//! What this machine allows at best, on a terminal: the raw bound, the floor and the head of the
//! outbox, under a stack of its own (`BROKER=kafka` for the real broker).

use std::time::Duration;

use anyhow::Context;
use bench::limits::floor::{Ground, floor};
use bench::limits::head::{Written, head};
use bench::limits::raw;
use bench::meter::disk;
use bench::record::Broker;
use e2e_tests::figures::told;
use e2e_tests::stack::{Options, Stack, with_stack};

const SO_LONG: Duration = Duration::from_secs(5);
const PROBE: Duration = Duration::from_secs(2);
const TIMES: usize = 100;
const PROVIDERS_PORT: u16 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options { durable: true, ..Options::default() };
    with_stack(&options, async |stack| limits(stack).await).await
}

async fn limits(stack: &Stack) -> anyhow::Result<()> {
    let fsync = disk::fsync(&std::env::temp_dir(), PROBE)?;
    told("8 kB written and synced, median ms", fsync.p50);
    told("8 kB written and synced, 99th percentile ms", fsync.p99);
    let superuser = stack.tables.connect_options();
    let raw = raw::bound(&superuser, SO_LONG).await.context("the raw bound")?;
    told("raw bound, inputs per second", raw.rows_per_second);

    let broker = if Stack::is_on_kafka() { Broker::Kafka } else { Broker::Memory };
    let provider = format!("http://127.0.0.1:{}/payment", stack.port_base() + PROVIDERS_PORT);
    let bootstrap = stack.bootstrap();
    let ground =
        Ground { superuser: &superuser, broker, bootstrap: &bootstrap, provider: &provider };
    let floor = floor(&ground, TIMES).await?;
    told("a lone commit, median ms", floor.commit_ms);
    told("a hop, median ms", floor.hop_ms);
    told("a provider's call, median ms", floor.call_ms);
    let all = 7.0 * floor.commit_ms + 4.0 * floor.hop_ms + 2.0 * floor.call_ms;
    told("7 commits, 4 hops and 2 calls, ms", all);

    for written in [Written::Before, Written::Lately] {
        for rows in [1_000, 200_000] {
            let found = head(&superuser, rows, written).await?;
            let behind = format!("head of the outbox, {rows} dead rows, {written:?}");
            told(&format!("{behind}, median ms"), found.median_ms);
            told(&format!("{behind}, a sweep, ms"), found.sweep_ms);
        }
    }
    Ok(())
}
