//! Events that are put into the outbox again.

use std::time::Duration;

use store::{Boot, Dispatch, Republish, Said};
use uuid::Uuid;

use crate::{Ground, ground, said};

const SLICE_EVENTS: usize = 10_000;
const HOUR: Duration = Duration::from_hours(1);
const TWO_HOURS: Duration = Duration::from_hours(2);
const NOT_BY_AGE: Duration = Duration::from_hours(24);

/// Events that were said so long ago and have reached the broker.
async fn out(ground: &Ground, count: usize, ago: Duration) -> anyhow::Result<Vec<Uuid>> {
    let pattern = said(ground, Uuid::now_v7(), 1).await?;
    let then = u128::try_from((ground.now().await? - ago).timestamp_millis())?;
    let events: Vec<Said> = (0..u128::try_from(count)?)
        .map(|number| {
            let mut event = pattern.clone();
            event.envelope.id = Uuid::from_u128((then << 80) | (0x7000_8000 << 48) | number);
            event
        })
        .collect();
    let mut ids: Vec<Uuid> = events.iter().map(|event| event.envelope.id).collect();
    ground.say(0, events).await?;
    store::delete_acked(ground.db.autocommit(), &ids).await?;
    ids.sort();
    Ok(ids)
}

async fn all(mut republish: Republish) -> anyhow::Result<Vec<u64>> {
    let mut slices = Vec::new();
    while let Some(events) = republish.slice().await? {
        slices.push(events);
    }
    Ok(slices)
}

#[tokio::test]
async fn events_of_a_span_are_due_again_at_once_and_a_row_says_who_wanted_it_and_why()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let old = out(&ground, 2, TWO_HOURS + HOUR).await?;
    let wanted = out(&ground, 3, HOUR).await?;
    let republish = Republish::begin(&ground.db, TWO_HOURS, "a truncated topic", "ada").await?;
    assert_eq!(all(republish).await?, [3]);

    let mut dispatch = Dispatch::try_lock(&ground.db).await?.expect("nobody else dispatches");
    assert_eq!(dispatch.due(NOT_BY_AGE).await?, wanted);
    assert!(!wanted.contains(&old[0]));
    let told: (i64, String, String, bool, bool) = sqlx::query_as(
        "select events, reason, asked_by, finished_at is not null,
                until - since = interval '2 hours' and until = asked_at
           from republishes",
    )
    .fetch_one(&mut ground.behind().await?)
    .await?;
    assert_eq!(told, (3, "a truncated topic".to_owned(), "ada".to_owned(), true, true));
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_counts_and_changes_nothing() -> anyhow::Result<()> {
    let ground = ground().await?;
    out(&ground, 3, HOUR).await?;
    assert_eq!(all(Republish::rehearse(&ground.db, TWO_HOURS).await?).await?, [3]);
    assert_eq!(all(Republish::rehearse(&ground.db, HOUR / 2).await?).await?, [0]);
    assert_eq!(ground.count("select count(*) from outbox").await?, 0);
    assert_eq!(ground.count("select count(*) from republishes").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_long_span_goes_in_slices_and_one_that_broke_off_is_begun_anew() -> anyhow::Result<()> {
    let ground = ground().await?;
    let ids = out(&ground, SLICE_EVENTS + 5, HOUR).await?;
    let mut broken_off = Republish::begin(&ground.db, TWO_HOURS, "again", "ada").await?;
    assert_eq!(broken_off.slice().await?, Some(10_000));
    drop(broken_off);
    let unfinished =
        "select count(*) from republishes where finished_at is null and events = 10000";
    assert_eq!(ground.count(unfinished).await?, 1);

    let anew = Republish::begin(&ground.db, TWO_HOURS, "again", "ada").await?;
    assert_eq!(all(anew).await?, [0, 5]);
    let rows = store::outbox_state(ground.db.autocommit()).await?.rows;
    assert_eq!(usize::try_from(rows)?, ids.len());
    Ok(())
}

#[tokio::test]
async fn what_a_living_process_is_about_to_send_stays_its_own() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (boot, holding) = Boot::take(ground.db.clone()).await?;
    tokio::spawn(holding);
    let ids = out(&ground, 1, HOUR).await?;
    let mut behind = ground.behind().await?;
    let pending = sqlx::query("insert into outbox (event_id, boot) values ($1, $2)");
    pending.bind(ids[0]).bind(boot.number()).execute(&mut behind).await?;
    assert_eq!(all(Republish::begin(&ground.db, TWO_HOURS, "again", "ada").await?).await?, [0]);
    let mut dispatch = Dispatch::try_lock(&ground.db).await?.expect("nobody else dispatches");
    assert!(dispatch.due(NOT_BY_AGE).await?.is_empty());
    Ok(())
}
