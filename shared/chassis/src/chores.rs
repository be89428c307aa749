//! Owns what has to be done now and then: gauges, weeks made ahead and dropped behind, purges.
//! Refuses to be in anybody's way: a chore that fails is done later.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use store::{Error, PURGE_ROWS_MAX};
use telemetry::names;
use tokio::time::Instant;

use crate::service::Service;
use crate::shell::Shell;

const TICK: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const AGAIN_AFTER_FAILURE: Duration = Duration::from_mins(10);

pub(crate) async fn run<S: Service>(shell: Arc<Shell<S>>) -> anyhow::Result<()> {
    let (db, kept) = (&shell.db, &shell.kept);
    let mut letters = Letters::default();
    let mut gauges = Chore::new("the gauges are read", Duration::ZERO, Duration::ZERO);
    let mut weeks = Chore::new("weeks are dropped and made", DAY, AGAIN_AFTER_FAILURE);
    let mut keys = Chore::new("answers are forgotten", HOUR, AGAIN_AFTER_FAILURE);
    let mut closed = Chore::new("closed dead letters are forgotten", HOUR, AGAIN_AFTER_FAILURE);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = shell.closing.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        gauges.when_due(async || read_gauges(&shell, &mut letters).await).await;
        weeks.when_due(async || turn_the_weeks(&shell).await).await;
        keys.when_due(async || store::purge_keys(db, kept.keys()).await.map(Left::of)).await;
        closed
            .when_due(async || store::purge_letters(db, kept.dead_letters()).await.map(Left::of))
            .await;
    }
}

/// What a chore has left to be done soon.
#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    More,
}

impl Left {
    fn of(purged: u64) -> Self {
        if purged < PURGE_ROWS_MAX { Self::Nothing } else { Self::More }
    }
}

/// One of the things to do, and when next.
struct Chore {
    what: &'static str,
    every: Duration,
    after_failure: Duration,
    due_at: Instant,
    has_failed: bool,
}

impl Chore {
    fn new(what: &'static str, every: Duration, after_failure: Duration) -> Self {
        Self { what, every, after_failure, due_at: Instant::now(), has_failed: false }
    }

    /// Does it if it is time. Of failures in a row the first is told, and then the end of them.
    async fn when_due(&mut self, work: impl AsyncFnOnce() -> Result<Left, Error>) {
        if Instant::now() < self.due_at {
            return;
        }
        let wait = match work().await {
            Ok(left) => {
                if std::mem::take(&mut self.has_failed) {
                    tracing::info!(chore = self.what, "a chore is done again");
                }
                if left == Left::More { Duration::ZERO } else { self.every }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(%error, chore = self.what, "a chore is done later");
                }
                self.after_failure
            }
        };
        self.due_at = Instant::now() + wait;
    }
}

async fn turn_the_weeks<S: Service>(shell: &Shell<S>) -> Result<Left, Error> {
    let kept = &shell.kept;
    store::ensure_partitions(&shell.db, kept.inbox_window()).await?;
    let dropped = store::drop_partitions(&shell.db, kept.inbox_window(), kept.events()).await?;
    if !dropped.is_empty() {
        tracing::info!(?dropped, "weeks are over");
    }
    Ok(Left::Nothing)
}

/// The labels under which dead letters were open when last looked at.
type Letters = HashSet<(String, String)>;

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
async fn read_gauges<S: Service>(shell: &Shell<S>, letters: &mut Letters) -> Result<Left, Error> {
    let outbox = store::outbox_state(shell.db.autocommit()).await?;
    gauge!(names::OUTBOX_ROWS).set(outbox.rows as f64);
    gauge!(names::OUTBOX_OLDEST_SECONDS).set(outbox.oldest_seconds);
    let strays = store::strays(&shell.db).await?;
    gauge!(names::STRAY_ROWS).set(strays as f64);
    if strays > 0 {
        tracing::error!(strays, "rows lie in a default partition: a week was not made ahead");
    }
    let open = store::open_letters(&shell.db).await?;
    let set = |(consumer, code): (String, String), count: i64| {
        gauge!(names::DEAD_LETTERS, "consumer" => consumer, "code" => code).set(count as f64);
    };
    let before = std::mem::take(letters);
    for (consumer, code, count) in open {
        letters.insert((consumer.clone(), code.clone()));
        set((consumer, code), count);
    }
    // Where none is open any more the query says nothing.
    for closed in before.difference(letters) {
        set(closed.clone(), 0);
    }
    Ok(Left::Nothing)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use store::Error;

    use super::{Chore, Left};

    const LATER: Duration = Duration::from_hours(1);

    /// How often a chore is done in four ticks, when it ends like this each time.
    async fn done(
        every: Duration,
        after_failure: Duration,
        end: impl Fn() -> Result<Left, Error>,
    ) -> (u32, bool) {
        let mut chore = Chore::new("a chore is done", every, after_failure);
        let mut times = 0;
        for _ in 0..4 {
            chore
                .when_due(async || {
                    times += 1;
                    end()
                })
                .await;
        }
        (times, chore.has_failed)
    }

    #[tokio::test]
    async fn a_chore_waits_for_its_time_unless_it_has_left_some() {
        assert_eq!(done(LATER, LATER, || Ok(Left::Nothing)).await, (1, false));
        assert_eq!(done(LATER, LATER, || Ok(Left::More)).await, (4, false));
        assert_eq!(done(Duration::ZERO, LATER, || Ok(Left::Nothing)).await, (4, false));
    }

    #[tokio::test]
    async fn a_failed_chore_is_done_again_after_its_pause() {
        let fail = || Err(Error::Wait("on purpose".to_owned()));
        assert_eq!(done(Duration::ZERO, LATER, fail).await, (1, true));
        assert_eq!(done(LATER, Duration::ZERO, fail).await, (4, true));
        let healed = std::cell::Cell::new(false);
        let heal = || if healed.replace(true) { Ok(Left::Nothing) } else { fail() };
        assert_eq!(done(LATER, Duration::ZERO, heal).await, (2, false));
    }
}
