//! Outside calls between their attempts.

use std::time::Duration;

use store::{Attempt, Boot, Commit, DeadLetter, DueCall, Wanted};
use testkit::wait;
use uuid::Uuid;

use crate::batch::{letter, wanted};
use crate::{AT_MOST, Ground, ground};

const ATTEMPT: Duration = Duration::from_secs(8);

async fn want(ground: &Ground, boot: i32, calls: Vec<Wanted>) -> anyhow::Result<()> {
    let commit = Commit { wanted: calls, ..Commit::default() };
    Ok(ground.db.with_tx(async |tx| store::write(tx, boot, &commit).await).await?)
}

async fn due(ground: &Ground, boot: i32, permits: usize) -> anyhow::Result<Vec<DueCall>> {
    Ok(store::due_calls(&ground.db, "grid", boot, permits, ATTEMPT).await?)
}

async fn living(ground: &Ground) -> anyhow::Result<Boot> {
    let (boot, holding) = Boot::take(ground.db.clone()).await?;
    tokio::spawn(holding);
    Ok(boot)
}

/// What a call's row says: attempts, in doubt, error, whether it is in flight, whether it is stuck.
async fn row(
    ground: &Ground,
    subject: Uuid,
) -> anyhow::Result<(i32, bool, Option<String>, bool, bool)> {
    Ok(sqlx::query_as(
        "select attempts, in_doubt, error_code, boot is not null, next_attempt_at = 'infinity'
           from calls where subject = $1",
    )
    .bind(subject)
    .fetch_one(ground.db.autocommit())
    .await?)
}

async fn postpone(ground: &Ground, subject: Uuid, seconds: i32) -> anyhow::Result<()> {
    sqlx::query(
        "update calls set next_attempt_at = now() + $2 * interval '1 s' where subject = $1",
    )
    .bind(subject)
    .bind(seconds)
    .execute(&mut ground.behind().await?)
    .await?;
    Ok(())
}

fn unknown(wait: Duration) -> Attempt {
    Attempt { in_doubt: true, error_code: "timeout".to_owned(), wait }
}

#[tokio::test]
async fn as_many_calls_as_there_are_permits_are_taken_the_longest_due_first() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let subjects: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    want(&ground, me, subjects.iter().map(|subject| wanted(*subject, "connect")).collect()).await?;
    for (subject, due_since) in subjects.iter().zip([50, 20, 40, 10, 30]) {
        postpone(&ground, *subject, -due_since).await?;
    }
    let mut taken = Vec::new();
    for _ in 0..3 {
        let mut calls: Vec<Uuid> =
            due(&ground, me, 2).await?.into_iter().map(|call| call.subject).collect();
        calls.sort_by_key(|subject| subjects.iter().position(|other| other == subject));
        taken.push(calls);
    }
    let of = |indexes: &[usize]| indexes.iter().map(|index| subjects[*index]).collect::<Vec<_>>();
    assert_eq!(taken, [of(&[0, 2]), of(&[1, 4]), of(&[3])]);
    assert!(due(&ground, me, 2).await?.is_empty(), "all of them are in flight");
    Ok(())
}

#[tokio::test]
async fn a_call_is_handed_out_whole_and_its_attempt_is_counted_before() -> anyhow::Result<()> {
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let (subject, other) = (Uuid::now_v7(), Uuid::now_v7());
    let elsewhere = Wanted { destination: "elsewhere".to_owned(), ..wanted(other, "connect") };
    let call = wanted(subject, "connect");
    want(&ground, me, vec![call.clone(), elsewhere]).await?;
    let [taken] = due(&ground, me, 64).await?.try_into().expect("one of this destination");
    assert_eq!(
        taken,
        DueCall {
            subject,
            step: call.step,
            path: call.path,
            idempotency_key: call.idempotency_key,
            body: call.body,
            origin: call.origin,
            attempts: 1,
            in_doubt: false,
            age_ms: taken.age_ms,
            life_ms: Some(600_000),
        }
    );
    assert!(taken.age_ms < 10_000, "{}", taken.age_ms);
    assert_eq!(row(&ground, subject).await?, (1, false, None, true, false));
    Ok(())
}

#[tokio::test]
async fn a_compensation_has_no_end_of_its_life() -> anyhow::Result<()> {
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let call = Wanted { life_ms: None, ..wanted(Uuid::now_v7(), "disconnect") };
    want(&ground, me, vec![call]).await?;
    assert_eq!(due(&ground, me, 1).await?[0].life_ms, None);
    Ok(())
}

#[tokio::test]
async fn an_attempt_counted_with_its_intent_is_due_again_after_its_time_only() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let subject = Uuid::now_v7();
    let counted = Wanted { attempt_ms: Some(8_000), ..wanted(subject, "connect") };
    want(&ground, me, vec![counted]).await?;
    assert_eq!(row(&ground, subject).await?, (1, false, None, true, false));
    assert!(due(&ground, me, 64).await?.is_empty(), "its attempt is under way");

    postpone(&ground, subject, -1).await?;
    let calls = due(&ground, me, 64).await?;
    assert_eq!((calls[0].attempts, calls[0].in_doubt), (2, true), "nobody noted the first");
    Ok(())
}

#[tokio::test]
async fn the_calls_of_a_dead_process_are_due_at_once_and_in_doubt() -> anyhow::Result<()> {
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let other = living(&ground).await?.number();
    let (mortal, holding) = Boot::take(ground.db.clone()).await?;
    let counted = |subject| Wanted { attempt_ms: Some(600_000), ..wanted(subject, "connect") };
    let (orphan, cared_for) = (Uuid::now_v7(), Uuid::now_v7());
    want(&ground, mortal.number(), vec![counted(orphan)]).await?;
    want(&ground, other, vec![counted(cared_for)]).await?;
    assert!(due(&ground, me, 64).await?.is_empty(), "both are alive");

    drop(holding);
    let calls = wait::until(AT_MOST, "the orphan to be due", async || {
        Some(due(&ground, me, 64).await.ok()?).filter(|calls| !calls.is_empty())
    })
    .await?;
    let found: Vec<_> =
        calls.iter().map(|call| (call.subject, call.attempts, call.in_doubt)).collect();
    assert_eq!(found, [(orphan, 2, true)]);
    Ok(())
}

#[tokio::test]
async fn an_attempt_is_noted_by_the_process_that_made_it_and_for_no_other_attempt()
-> anyhow::Result<()> {
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let subject = Uuid::now_v7();
    want(&ground, me, vec![wanted(subject, "connect")]).await?;
    due(&ground, me, 1).await?;

    let call = (subject, "connect");
    store::note_attempt(&ground.db, call, 1, me + 1, &unknown(Duration::ZERO)).await?;
    store::note_attempt(&ground.db, call, 2, me, &unknown(Duration::ZERO)).await?;
    assert_eq!(row(&ground, subject).await?, (1, false, None, true, false));

    let wait = Duration::from_hours(1);
    store::note_attempt(&ground.db, call, 1, me, &unknown(wait)).await?;
    let noted = (1, true, Some("timeout".to_owned()), false, false);
    assert_eq!(row(&ground, subject).await?, noted);
    assert!(due(&ground, me, 1).await?.is_empty(), "it waits");

    let now = Attempt { in_doubt: false, ..unknown(Duration::ZERO) };
    store::note_attempt(&ground.db, call, 1, me, &now).await?;
    assert_eq!(row(&ground, subject).await?, noted, "it was noted already");
    postpone(&ground, subject, -1).await?;
    let calls = due(&ground, me, 1).await?;
    assert_eq!((calls[0].attempts, calls[0].in_doubt), (2, true));
    Ok(())
}

#[tokio::test]
async fn a_refusal_stands_only_while_its_attempt_is_the_calls_only_one() -> anyhow::Result<()> {
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let subject = Uuid::now_v7();
    let stands = async |attempts: u32| {
        let calls = [(subject, "connect", attempts)];
        let found = ground.db.with_tx(async |tx| store::untouched(tx, &calls).await).await?;
        anyhow::Ok(found.contains(&(subject, "connect".to_owned())))
    };
    assert!(!stands(1).await?, "there is no such call");
    want(&ground, me, vec![wanted(subject, "connect")]).await?;
    due(&ground, me, 1).await?;
    assert!(stands(1).await?);

    postpone(&ground, subject, -1).await?;
    let acting = ground.db.with_tx(async |tx| {
        store::untouched(tx, &[(subject, "connect", 1)]).await?;
        store::due_calls(&ground.db, "grid", me, 1, ATTEMPT).await
    });
    assert!(acting.await?.is_empty(), "nobody asks while it is acted on");

    due(&ground, me, 1).await?;
    assert!(!stands(1).await?, "somebody asks again by now");
    assert!(!stands(2).await?, "the second is in doubt");
    Ok(())
}

#[tokio::test]
async fn a_stuck_call_is_never_due_and_has_one_dead_letter_with_its_request() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let me = living(&ground).await?.number();
    let subject = Uuid::now_v7();
    want(&ground, me, vec![wanted(subject, "connect")]).await?;
    due(&ground, me, 1).await?;
    let letter = DeadLetter {
        origin: "call",
        consumer: None,
        record: None,
        subject: Some(subject),
        code: "attempts_spent".to_owned(),
        ..letter(0)
    };
    for _ in 0..3 {
        store::stick(&ground.db, (subject, "connect"), true, &letter, false).await?;
    }
    store::stick(&ground.db, (Uuid::now_v7(), "connect"), true, &letter, false).await?;
    let stuck = (1, true, Some("attempts_spent".to_owned()), false, true);
    assert_eq!(row(&ground, subject).await?, stuck);
    assert!(due(&ground, me, 64).await?.is_empty());
    // Not even when everybody who ever touched it is dead.
    assert!(due(&ground, i32::MAX, 64).await?.is_empty());

    let letters: Vec<(String, Uuid, String, i32, Vec<u8>)> =
        sqlx::query_as("select origin, subject, code, attempts, body from dead_letters")
            .fetch_all(ground.db.autocommit())
            .await?;
    let body = wanted(subject, "connect").body;
    let expected = ("call".to_owned(), subject, "attempts_spent".to_owned(), 1, body);
    assert_eq!(letters, [expected]);
    Ok(())
}

#[tokio::test]
async fn two_processes_never_take_the_same_call() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (one, other) = (living(&ground).await?.number(), living(&ground).await?.number());
    let subjects: Vec<Uuid> = (0..60).map(|_| Uuid::now_v7()).collect();
    want(&ground, one, subjects.iter().map(|subject| wanted(*subject, "connect")).collect())
        .await?;
    let drain = async |boot| -> anyhow::Result<usize> {
        let mut taken = 0;
        for _ in 0..60 {
            taken += due(&ground, boot, 1).await?.len();
        }
        Ok(taken)
    };
    let (one, other) = tokio::join!(drain(one), drain(other));
    assert_eq!(one? + other?, 60);
    assert_eq!(ground.count("select max(attempts)::bigint from calls").await?, 1);
    Ok(())
}
