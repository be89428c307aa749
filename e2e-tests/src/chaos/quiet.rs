//! Owns waiting until nothing moves any more, and how long that took. Refuses to judge what it came
//! to.

use std::time::Duration;

use anyhow::Context;
use sqlx::{AssertSqlSafe, FromRow, PgPool};
use testkit::wait;
use tokio::time::Instant;

use crate::check::rules::HEARD;
use crate::saga::everywhere;

/// After the heal.
pub const QUIET_MAX: Duration = Duration::from_mins(1);
/// Nothing may have moved for so long.
const STILL: Duration = Duration::from_secs(5);

/// How much there is of everything, and how much of it is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
struct Tide {
    events: i64,
    handled: i64,
    told: i64,
    dead_letters: i64,
    pending: i64,
    unsent: i64,
    calls: i64,
    unheard: i64,
}

impl Tide {
    /// The read model tells of every event, and may tell of forged ones.
    fn is_low(self, dead_letters_due: usize) -> bool {
        let Self { events, told, dead_letters, pending, unsent, calls, unheard, .. } = self;
        let aside = usize::try_from(dead_letters).is_ok_and(|count| count >= dead_letters_due);
        aside && told >= events && [pending, unsent, calls, unheard].iter().all(|left| *left == 0)
    }
}

/// Waits until nothing moves and so many records were set aside. Says how long after `since` the
/// last movement was.
pub async fn reached(
    tables: &PgPool,
    since: Instant,
    dead_letters_due: usize,
) -> anyhow::Result<Duration> {
    let sql = question();
    let (mut last, mut moved) = (None, Instant::now());
    let what = "nothing to move any more";
    let still = wait::until(QUIET_MAX + STILL, what, async || {
        let tide: Tide = sqlx::query_as(AssertSqlSafe(sql.clone())).fetch_one(tables).await.ok()?;
        if last != Some(tide) {
            (last, moved) = (Some(tide), Instant::now());
        }
        (tide.is_low(dead_letters_due) && moved.elapsed() >= STILL).then_some(())
    });
    still.await.with_context(|| format!("{last:?}"))?;
    Ok(moved.saturating_duration_since(since))
}

fn question() -> String {
    let events = everywhere("select id, split_part(type, '.', 3) as name from \"{schema}\".events");
    let handled = everywhere("select event_id, consumer from \"{schema}\".inbox");
    let count = |from: &str| {
        let all = everywhere(&format!("select 1 as one from \"{{schema}}\".{from}"));
        format!("(select count(*) from ({all}) as t)")
    };
    let heard: Vec<_> = HEARD
        .iter()
        .flat_map(|(name, by)| by.iter().map(move |service| format!("('{name}', '{service}')")))
        .collect();
    format!(
        "with said as ({events}), handled as ({handled})
         select (select count(*) from said) as events,
                (select count(*) from handled) as handled,
                (select count(*) from \"order\".timeline) as told,
                {dead_letters} as dead_letters,
                (select count(*) from \"order\".orders where status in (1, 2)) as pending,
                {unsent} as unsent,
                {calls} as calls,
                (select count(*)
                   from said join (values {heard}) as heard (name, consumer) using (name)
                  where not exists (
                      select from handled
                       where event_id = said.id and handled.consumer = heard.consumer)
                ) as unheard",
        dead_letters = count("dead_letters"),
        unsent = count("outbox"),
        calls = count("calls where next_attempt_at < 'infinity'"),
        heard = heard.join(", "),
    )
}
