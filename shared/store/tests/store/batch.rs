//! What is claimed and written for one batch: all of it or nothing.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use store::{Commit, DeadLetter, Error, Key, KeyRecord, Origin, Record, Wanted};
use uuid::Uuid;

use crate::{Ground, SERVICE, WINDOW, ground, said};

const BATCH: usize = 500;

fn ids(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::now_v7()).collect()
}

async fn claim(
    ground: &Ground,
    consumer: &str,
    ids: &[Uuid],
    hash: i64,
) -> Result<store::Claimed, Error> {
    let hashes = vec![hash; ids.len()];
    ground.db.with_tx(async |tx| store::claim(tx, consumer, ids, &hashes, WINDOW).await).await
}

fn key(caller: &str, name: &str) -> Key {
    Key {
        caller: caller.to_owned(),
        method: "POST".to_owned(),
        route: "/v1/lamps".to_owned(),
        key: name.to_owned(),
    }
}

fn answer(key: Key, body: &str) -> KeyRecord {
    KeyRecord {
        key,
        fingerprint: vec![7; 32],
        status: 202,
        headers: b"[]".to_vec(),
        body: body.as_bytes().to_vec(),
    }
}

pub fn wanted(subject: Uuid, step: &str) -> Wanted {
    Wanted {
        subject,
        step: step.to_owned(),
        destination: "grid".to_owned(),
        path: "/v1/connections".to_owned(),
        idempotency_key: format!("{subject}-{step}"),
        body: b"{\"watts\":40}".to_vec(),
        origin: Origin { cause: Some(subject), trace: saga::Trace::default() },
        attempt_ms: None,
        life_ms: Some(600_000),
    }
}

pub fn letter(offset: i64) -> DeadLetter {
    DeadLetter {
        origin: "consumer",
        consumer: Some(SERVICE.to_owned()),
        record: Some(Record { topic: "wall.events.v1".to_owned(), partition: 0, offset }),
        subject: None,
        code: "DECODE".to_owned(),
        headers: b"[]".to_vec(),
        body: vec![0, 159, 146],
        attempts: 1,
    }
}

#[tokio::test]
async fn an_event_is_fresh_once_for_each_consumer() -> anyhow::Result<()> {
    let ground = ground().await?;
    let ids = ids(3);
    let all: HashSet<Uuid> = ids.iter().copied().collect();
    let first = claim(&ground, SERVICE, &ids, 1).await?;
    assert_eq!((first.fresh, first.refused.len()), (all.clone(), 0));
    let again = claim(&ground, SERVICE, &ids, 1).await?;
    assert_eq!((again.fresh.len(), again.refused.len()), (0, 0));
    let other = claim(&ground, "lamp-view", &ids, 1).await?;
    assert_eq!((other.fresh, other.refused.len()), (all, 0));
    Ok(())
}

#[tokio::test]
async fn a_known_id_with_another_body_is_named_and_not_fresh() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (known, new) = (Uuid::now_v7(), Uuid::now_v7());
    claim(&ground, SERVICE, &[known], 1).await?;
    let claimed = claim(&ground, SERVICE, &[known, new], 2).await?;
    assert_eq!(claimed.refused, HashMap::from([(known, store::ID_COLLISION)]));
    assert_eq!(claimed.fresh, HashSet::from([new]));
    Ok(())
}

#[tokio::test]
async fn duplicates_in_a_batch_of_five_hundred_abort_nobody() -> anyhow::Result<()> {
    let ground = ground().await?;
    let ids = ids(BATCH);
    let (known, new) = ids.split_at(100);
    claim(&ground, SERVICE, known, 1).await?;
    let hashes = vec![1; ids.len()];
    let fresh = ground
        .db
        .with_tx(async |tx| {
            let claimed = store::claim(tx, SERVICE, &ids, &hashes, WINDOW).await?;
            // Whatever else the batch does still works.
            sqlx::query("insert into notes values ($1, 'x', 1)").bind(ids[0]).execute(tx).await?;
            Ok(claimed.fresh)
        })
        .await?;
    assert_eq!(fresh, new.iter().copied().collect());
    assert_eq!(ground.count("select count(*) from inbox").await?, 500);
    Ok(())
}

#[tokio::test]
async fn a_claim_that_is_rolled_back_was_none() -> anyhow::Result<()> {
    let ground = ground().await?;
    let ids = ids(2);
    let failed: Result<(), Error> = ground
        .db
        .with_tx(async |tx| {
            store::claim(tx, SERVICE, &ids, &[1, 1], WINDOW).await?;
            Err(Error::Rerun("on purpose".to_owned()))
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(claim(&ground, SERVICE, &ids, 1).await?.fresh.len(), 2);
    Ok(())
}

#[tokio::test]
async fn the_time_of_a_batch_is_the_databases() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (claimed, now) = ground
        .db
        .with_tx(async |tx| {
            let claimed = store::claim(tx, SERVICE, &[], &[], WINDOW).await?;
            let now: chrono::DateTime<chrono::Utc> =
                sqlx::query_scalar("select now()").fetch_one(tx).await?;
            Ok((claimed.now, now))
        })
        .await?;
    assert_eq!(claimed, now);
    Ok(())
}

#[tokio::test]
async fn an_answer_is_found_byte_for_byte_by_its_own_caller_alone() -> anyhow::Result<()> {
    let ground = ground().await?;
    let (ours, theirs) = (key("one", "k"), key("two", "k"));
    let record = answer(ours.clone(), "ours");
    let commit = Commit { answers: vec![record.clone()], ..Commit::default() };
    ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;

    let find = async |key: &Key| ground.db.with_tx(async |tx| store::keys(tx, &[key]).await).await;
    assert_eq!(find(&ours).await?, [record]);
    assert_eq!(find(&theirs).await?, []);
    for other in [
        Key { method: "PUT".to_owned(), ..ours.clone() },
        Key { route: "/v1/lamps/{id}".to_owned(), ..ours.clone() },
        Key { key: "K".to_owned(), ..ours.clone() },
    ] {
        assert_eq!(find(&other).await?, [], "{other:?}");
    }

    let record = answer(theirs.clone(), "theirs");
    let commit = Commit { answers: vec![record.clone()], ..Commit::default() };
    ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;
    assert_eq!(find(&theirs).await?, [record]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_another_was_faster_to_take_runs_again_and_leaves_nothing() -> anyhow::Result<()>
{
    let ground = ground().await?;
    let (taken, free) = (key("one", "taken"), key("one", "free"));
    let commit = Commit { answers: vec![answer(taken.clone(), "first")], ..Commit::default() };
    ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;

    let event = said(&ground, Uuid::now_v7(), 1).await?;
    let commit = Commit {
        said: vec![event],
        answers: vec![answer(free.clone(), "second"), answer(taken.clone(), "second")],
        ..Commit::default()
    };
    let late = ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await;
    assert!(matches!(late, Err(Error::Rerun(_))), "{late:?}");
    assert_eq!(ground.count("select count(*) from idempotency_keys").await?, 1);
    assert_eq!(ground.count("select count(*) from outbox").await?, 0);
    let found = ground.db.with_tx(async |tx| store::keys(tx, &[&taken, &free]).await).await?;
    assert_eq!(found, [answer(taken, "first")]);
    Ok(())
}

/// A batch with one of everything.
async fn full(ground: &Ground) -> anyhow::Result<Commit> {
    let subject = Uuid::now_v7();
    Ok(Commit {
        said: vec![said(ground, subject, 1).await?, said(ground, subject, 2).await?],
        wanted: vec![wanted(subject, "connect")],
        settled: Vec::new(),
        acked: Vec::new(),
        answers: vec![answer(key("one", &subject.to_string()), "done")],
        dead: vec![letter(0)],
    })
}

async fn counts(ground: &Ground) -> anyhow::Result<[i64; 6]> {
    Ok([
        ground.count("select count(*) from notes").await?,
        ground.count("select count(*) from events").await?,
        ground.count("select count(*) from outbox").await?,
        ground.count("select count(*) from calls").await?,
        ground.count("select count(*) from idempotency_keys").await?,
        ground.count("select count(*) from dead_letters").await?,
    ])
}

async fn note(tx: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("insert into notes values ($1, 'x', 1)").bind(Uuid::now_v7()).execute(tx).await?;
    Ok(())
}

#[tokio::test]
async fn a_batch_is_written_with_the_services_own_rows_or_not_at_all() -> anyhow::Result<()> {
    let ground = ground().await?;
    let commit = full(&ground).await?;
    let failed: Result<(), Error> = ground
        .db
        .with_tx(async |tx| {
            note(tx).await?;
            store::write(tx, 1, &commit).await?;
            Err(Error::Wait("on purpose".to_owned()))
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(counts(&ground).await?, [0; 6]);

    ground
        .db
        .with_tx(async |tx| {
            note(tx).await?;
            store::write(tx, 1, &commit).await
        })
        .await?;
    assert_eq!(counts(&ground).await?, [1, 2, 2, 1, 1, 1]);
    Ok(())
}

#[tokio::test]
async fn a_poisonous_part_takes_the_whole_batch_back() -> anyhow::Result<()> {
    let ground = ground().await?;
    let mut commit = full(&ground).await?;
    commit.answers[0].key.key = "a\0b".to_owned();
    let poisoned = ground
        .db
        .with_tx(async |tx| {
            note(tx).await?;
            store::write(tx, 1, &commit).await
        })
        .await;
    assert!(matches!(poisoned, Err(Error::Poison(_))), "{poisoned:?}");
    assert_eq!(counts(&ground).await?, [0; 6]);
    Ok(())
}

#[tokio::test]
async fn what_is_settled_and_acknowledged_goes_with_the_batch() -> anyhow::Result<()> {
    let ground = ground().await?;
    let commit = full(&ground).await?;
    ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;

    let subject = commit.wanted[0].subject;
    let after = Commit {
        settled: vec![(subject, "connect".to_owned()), (subject, "no such step".to_owned())],
        acked: vec![commit.said[0].envelope.id, Uuid::now_v7()],
        ..Commit::default()
    };
    ground.db.with_tx(async |tx| store::write(tx, 1, &after).await).await?;
    assert_eq!(counts(&ground).await?, [0, 2, 1, 0, 1, 1]);
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_wanted_twice_is_there_once_as_it_was_wanted_first() -> anyhow::Result<()> {
    let ground = ground().await?;
    let subject = Uuid::now_v7();
    let counted = Wanted { attempt_ms: Some(8_000), ..wanted(subject, "connect") };
    for call in [wanted(subject, "connect"), counted, wanted(subject, "disconnect")] {
        let commit = Commit { wanted: vec![call], ..Commit::default() };
        ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;
    }
    assert_eq!(ground.count("select count(*) from calls").await?, 2);
    assert_eq!(ground.count("select sum(attempts) from calls").await?, 0);
    Ok(())
}

#[tokio::test]
async fn one_record_leaves_one_dead_letter_and_another_at_its_offset_another() -> anyhow::Result<()>
{
    let ground = ground().await?;
    // The topic has lost its records, and the offset comes again.
    let another = DeadLetter { body: vec![7], ..letter(4) };
    for letter in [letter(3), letter(3), letter(4), another] {
        let commit = Commit { dead: vec![letter], ..Commit::default() };
        ground.db.with_tx(async |tx| store::write(tx, 1, &commit).await).await?;
    }
    let bodies: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select log_offset, body from dead_letters order by log_offset, body")
            .fetch_all(ground.db.autocommit())
            .await?;
    assert_eq!(bodies, [(3, vec![0, 159, 146]), (4, vec![0, 159, 146]), (4, vec![7])]);
    let open = store::open_letters(&ground.db).await?;
    assert_eq!(open, [(SERVICE.to_owned(), "DECODE".to_owned(), 3)]);
    Ok(())
}
