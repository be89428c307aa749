//! Owns what has to be done now and then: partitions made ahead, gauges. Refuses to be in anybody's
//! way: a chore that fails is done later.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use telemetry::names;
use tokio::time::Instant;

use crate::service::Service;
use crate::shell::Shell;

const GAUGES_EVERY: Duration = Duration::from_secs(5);
const PARTITIONS_EVERY: Duration = Duration::from_hours(24);

pub(crate) async fn run<S: Service>(shell: Arc<Shell<S>>) -> anyhow::Result<()> {
    let mut partitions_at = Instant::now() + PARTITIONS_EVERY;
    let mut ticks = tokio::time::interval(GAUGES_EVERY);
    loop {
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(error) = gauges(&shell).await {
            tracing::warn!(%error, "the gauges are old");
        }
        if partitions_at <= Instant::now() {
            match store::ensure_partitions(&shell.db).await {
                Ok(()) => partitions_at = Instant::now() + PARTITIONS_EVERY,
                Err(error) => tracing::error!(%error, "next weeks' partitions are not made yet"),
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
async fn gauges<S: Service>(shell: &Shell<S>) -> Result<(), store::Error> {
    let outbox = store::outbox_state(shell.db.autocommit()).await?;
    gauge!(names::OUTBOX_ROWS).set(outbox.rows as f64);
    gauge!(names::OUTBOX_OLDEST_SECONDS).set(outbox.oldest_seconds);
    let strays = store::strays(&shell.db).await?;
    gauge!(names::STRAY_ROWS).set(strays as f64);
    if strays > 0 {
        tracing::error!(strays, "rows lie in a default partition: a week was not made ahead");
    }
    for (consumer, code, count) in store::open_letters(&shell.db).await? {
        gauge!(names::DEAD_LETTERS, "consumer" => consumer, "code" => code).set(count as f64);
    }
    Ok(())
}
