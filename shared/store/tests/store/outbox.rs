//! What waits for the broker, and who may send it.

use std::time::Duration;

use store::{Boot, DeadLetter, Dispatch, Error, Said};
use testkit::wait;
use uuid::Uuid;

use crate::{AT_MOST, Ground, ground, said};

const NOT_BY_AGE: Duration = Duration::from_hours(1);
/// Every tenth pass looks at everything.
const PASSES_PER_SWEEP: usize = 10;

async fn dispatch(ground: &Ground) -> anyhow::Result<Dispatch> {
    Ok(Dispatch::try_lock(&ground.db).await?.expect("nobody else dispatches"))
}

async fn alive(ground: &Ground) -> anyhow::Result<i32> {
    let (boot, holding) = Boot::take(ground.db.clone()).await?;
    tokio::spawn(holding);
    Ok(boot.number())
}

fn id(said: &Said) -> Uuid {
    said.envelope.id
}

#[tokio::test]
async fn one_process_dispatches_and_another_may_after_its_end() -> anyhow::Result<()> {
    let ground = ground().await?;
    let first = dispatch(&ground).await?;
    let peer = ground.peer()?;
    assert!(Dispatch::try_lock(&peer).await?.is_none());
    drop(first);
    wait::until(AT_MOST, "the lock to be free", async || {
        Dispatch::try_lock(&peer).await.ok().flatten()
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn the_events_of_a_dead_writer_are_due_at_once_those_of_a_living_one_by_age()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let me = alive(&ground).await?;
    let (mortal, holding) = Boot::take(ground.db.clone()).await?;
    let (mine, orphan) =
        (said(&ground, Uuid::now_v7(), 1).await?, said(&ground, Uuid::now_v7(), 1).await?);
    ground.say(me, vec![mine.clone()]).await?;
    ground.say(mortal.number(), vec![orphan.clone()]).await?;
    assert!(dispatch.due(NOT_BY_AGE).await?.is_empty(), "both are alive");

    drop(holding);
    let due = wait::until(AT_MOST, "the orphan to be due", async || {
        Some(dispatch.due(NOT_BY_AGE).await.ok()?).filter(|due| !due.is_empty())
    })
    .await?;
    assert_eq!(due, [id(&orphan)]);
    assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&mine), id(&orphan)]);

    dispatch.delete(&[id(&orphan)]).await?;
    assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&mine)]);
    Ok(())
}

#[tokio::test]
async fn an_id_that_commits_behind_a_later_one_is_not_skipped() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let subject = Uuid::now_v7();
    let (early, late) = (said(&ground, subject, 1).await?, said(&ground, subject, 2).await?);
    assert!(id(&early) < id(&late));
    let commit = store::Commit { said: vec![early.clone()], ..store::Commit::default() };
    ground
        .db
        .with_tx(async |tx| {
            store::write(tx, 0, &commit).await?;
            // While the first is written and not yet to be seen, the second commits and goes out.
            ground.say(0, vec![late.clone()]).await?;
            let due = dispatch.due(Duration::ZERO).await?;
            assert_eq!(due, [id(&late)]);
            dispatch.delete(&due).await?;
            dispatch.mark(id(&late));
            Ok(())
        })
        .await?;
    assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&early)]);
    Ok(())
}

#[tokio::test]
async fn what_lies_below_the_watermark_is_found_by_the_next_sweep() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let mut ancient = said(&ground, Uuid::now_v7(), 1).await?;
    let millis = (id(&ancient).as_u128() >> 80) - 3_600_000;
    ancient.envelope.id = Uuid::from_u128((millis << 80) | 0x7000_8000_0000_0000_0001);
    let last = said(&ground, Uuid::now_v7(), 1).await?;
    dispatch.due(Duration::ZERO).await?;
    dispatch.mark(id(&last));
    ground.say(0, vec![ancient.clone()]).await?;
    let mut passes = 1;
    while dispatch.due(Duration::ZERO).await?.is_empty() {
        passes += 1;
        assert!(passes <= PASSES_PER_SWEEP, "it is never looked for");
    }
    assert!(passes > 1, "the watermark saves the work of looking at everything each time");
    Ok(())
}

#[tokio::test]
async fn events_are_read_back_as_they_were_said_ordered_by_subject_and_number() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut events = Vec::new();
    for (subject, version) in [(other, 2), (one, 2), (other, 1), (one, 1)] {
        events.push(said(&ground, subject, version).await?);
    }
    ground.say(0, events.clone()).await?;
    let ids = dispatch.due(Duration::ZERO).await?;
    let found = dispatch.events(&ids).await?;
    let expected = [&events[3], &events[1], &events[2], &events[0]].map(Clone::clone);
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test]
async fn a_pass_is_of_a_thousand_and_the_next_one_gets_the_rest() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let pattern = said(&ground, Uuid::now_v7(), 1).await?;
    let events: Vec<Said> = (1..=1_100)
        .map(|version| {
            let mut said = pattern.clone();
            said.envelope.id = Uuid::now_v7();
            said.envelope.version = Some(version);
            said
        })
        .collect();
    ground.say(0, events).await?;
    let first = dispatch.due(Duration::ZERO).await?;
    assert_eq!(first.len(), 1_000);
    dispatch.delete(&first).await?;
    dispatch.mark(first[999]);
    let state = store::outbox_state(ground.db.autocommit()).await?;
    assert_eq!(state.rows, 100);
    let rest = dispatch.due(Duration::ZERO).await?;
    assert_eq!(rest.len(), 100);
    store::delete_acked(ground.db.autocommit(), &rest).await?;
    let state = store::outbox_state(ground.db.autocommit()).await?;
    assert_eq!((state.rows, state.oldest_seconds), (0, 0.0));
    Ok(())
}

#[tokio::test]
async fn what_a_living_process_gives_up_is_due_at_once() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let me = alive(&ground).await?;
    let (kept, given) =
        (said(&ground, Uuid::now_v7(), 1).await?, said(&ground, Uuid::now_v7(), 1).await?);
    ground.say(me, vec![kept, given.clone()]).await?;
    assert!(dispatch.due(NOT_BY_AGE).await?.is_empty());
    store::give_up(ground.db.autocommit(), &[id(&given)]).await?;
    assert_eq!(dispatch.due(NOT_BY_AGE).await?, [id(&given)]);
    Ok(())
}

#[tokio::test]
async fn what_stays_is_passed_by_until_the_next_sweep() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let (first, second) =
        (said(&ground, Uuid::now_v7(), 1).await?, said(&ground, Uuid::now_v7(), 1).await?);
    ground.say(0, vec![first.clone(), second.clone()]).await?;
    assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&first), id(&second)]);
    dispatch.pass_by(id(&first));
    for _ in 1..PASSES_PER_SWEEP {
        assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&second)]);
    }
    assert_eq!(dispatch.due(Duration::ZERO).await?, [id(&first), id(&second)]);
    Ok(())
}

#[tokio::test]
async fn an_event_leaves_the_outbox_for_the_dead_letters_once() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut dispatch = dispatch(&ground).await?;
    let event = said(&ground, Uuid::now_v7(), 1).await?;
    ground.say(0, vec![event.clone()]).await?;
    let letter = DeadLetter {
        origin: "outbox",
        consumer: None,
        record: None,
        subject: Some(event.envelope.subject),
        code: "TOO_LARGE".to_owned(),
        headers: b"[]".to_vec(),
        body: event.body.clone(),
        attempts: 2,
    };
    assert!(dispatch.set_aside(id(&event), &letter).await?);
    assert!(!dispatch.set_aside(id(&event), &letter).await?, "it is no longer there");
    assert!(dispatch.due(Duration::ZERO).await?.is_empty());
    let kept = "select count(*) from dead_letters
                 where origin = 'outbox' and code = 'TOO_LARGE' and attempts = 2";
    assert_eq!(ground.count(kept).await?, 1);
    let (subject, body): (Uuid, Vec<u8>) = sqlx::query_as("select subject, body from dead_letters")
        .fetch_one(&mut ground.behind().await?)
        .await?;
    assert_eq!((subject, body), (event.envelope.subject, event.body));
    Ok(())
}

#[tokio::test]
async fn two_events_of_one_id_are_refused() -> anyhow::Result<()> {
    let ground = ground().await?;
    let event = said(&ground, Uuid::now_v7(), 1).await?;
    ground.say(0, vec![event.clone()]).await?;
    let again = ground.say(0, vec![event]).await;
    assert!(matches!(again, Err(Error::Poison(_))), "{again:?}");
    Ok(())
}
