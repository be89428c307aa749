//! Owns waiting until nothing moves any more, and how long that took. Refuses to judge what it came
//! to.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, FromRow, PgConnection};
use testkit::wait;
use tokio::time::{Instant, sleep_until, timeout};

use crate::check::rules::HEARD;
use crate::metrics;
use crate::saga::everywhere;
use crate::stack::Stack;

/// After the heal.
pub const QUIET_MAX: Duration = Duration::from_mins(1);
/// Nothing may have moved for so long.
const STILL: Duration = Duration::from_secs(5);
/// Between two looks, which cost the database some work.
const PAUSE: Duration = Duration::from_millis(200);
const LOOK_MAX: Duration = Duration::from_secs(5);
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Told anew each second, so what is older than [`STILL`] is told.
const LAG: &str = "switchback_consumer_lag";

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

/// How a wait ended.
#[derive(Debug)]
pub enum Rest {
    /// So long after the heal was the last movement.
    Quiet(Duration),
    /// Nothing moves, though not all is done.
    Stuck(String),
    /// The time was too short.
    Moving(String),
}

/// Waits until nothing moves, nobody has anything to read, and so many records were set aside.
pub async fn reached(stack: &Stack, healed: Instant, dead_letters_due: usize) -> Rest {
    let sql = question();
    let (mut last, mut moved) = (None::<Tide>, Instant::now());
    let (mut line, mut unseen) = (None, 0);
    let what = "nothing to move any more";
    let still = wait::until(QUIET_MAX + STILL, what, async || {
        sleep_until(Instant::now() + PAUSE).await;
        let Ok(Ok(tide)) = timeout(LOOK_MAX, look(stack, &mut line, &sql)).await else {
            (line, unseen) = (None, unseen + 1);
            return None;
        };
        if last != Some(tide) {
            (last, moved) = (Some(tide), Instant::now());
        }
        if !tide.is_low(dead_letters_due) || moved.elapsed() < STILL {
            return None;
        }
        if !behind(stack).await.is_empty() {
            moved = Instant::now();
            return None;
        }
        Some(())
    });
    let Err(error) = still.await else {
        return Rest::Quiet(moved.saturating_duration_since(healed));
    };
    let behind = behind(stack).await;
    let is_still = last.is_some() && moved.elapsed() >= STILL && behind.is_empty();
    let ago = moved.elapsed();
    let why =
        format!("{error:#}: {last:?} since {ago:?}, {unseen} looks in vain, behind: {behind:?}");
    if is_still { Rest::Stuck(why) } else { Rest::Moving(why) }
}

/// On a line of its own: those that others use have been through a storm.
async fn look(
    stack: &Stack,
    line: &mut Option<PgConnection>,
    sql: &str,
) -> Result<Tide, sqlx::Error> {
    let line = match line {
        Some(line) => line,
        None => line.insert(PgConnection::connect_with(&stack.tables.connect_options()).await?),
    };
    sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_one(line).await
}

/// Who has not read all that is for him, or does not say so.
async fn behind(stack: &Stack) -> Vec<&str> {
    let mut behind = Vec::new();
    for process in stack.processes() {
        let told = timeout(ANSWER_MAX, stack.client.metrics(process)).await;
        if !told.is_ok_and(|told| told.is_ok_and(|text| metrics::sum(&text, LAG, &[]) < 1.0)) {
            behind.push(process.as_str());
        }
    }
    behind
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
