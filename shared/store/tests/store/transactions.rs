//! What commits, what does not, and who has to run again.

use sqlx::PgConnection;
use store::{Error, all_saved};
use tokio::sync::Barrier;
use uuid::Uuid;

use crate::{Ground, ground};

async fn insert(tx: &mut PgConnection, subject: Uuid, text: &str) -> Result<(), Error> {
    sqlx::query("insert into notes values ($1, $2, 1)")
        .bind(subject)
        .bind(text)
        .execute(tx)
        .await?;
    Ok(())
}

/// Appends to a note as a service saves a state: created once, changed only as it was loaded.
async fn append(
    tx: &mut PgConnection,
    subject: Uuid,
    word: &str,
    met: &Barrier,
) -> Result<(), Error> {
    let loaded: Option<(String, i32)> =
        sqlx::query_as("select text, version from notes where subject = $1 for update")
            .bind(subject)
            .fetch_optional(&mut *tx)
            .await?;
    met.wait().await;
    let (text, was) = loaded.unwrap_or_default();
    let saved = sqlx::query(
        "insert into notes as n values ($1, $2, 1)
         on conflict (subject) do update set text = excluded.text, version = $3 + 1
          where n.version = $3",
    )
    .bind(subject)
    .bind(text + word)
    .bind(was)
    .execute(tx)
    .await?;
    all_saved(saved.rows_affected(), 1)
}

async fn text(ground: &Ground, subject: Uuid) -> anyhow::Result<String> {
    Ok(sqlx::query_scalar("select text from notes where subject = $1")
        .bind(subject)
        .fetch_one(ground.db.autocommit())
        .await?)
}

#[tokio::test]
async fn a_body_that_fails_leaves_nothing_and_its_connection_serves_the_next() -> anyhow::Result<()>
{
    let ground = ground().await?;
    for _ in 0..10 {
        let failed: Result<(), Error> = ground
            .db
            .with_tx(async |tx| {
                insert(tx, Uuid::now_v7(), "never").await?;
                Err(Error::Rerun("on purpose".to_owned()))
            })
            .await;
        assert!(matches!(failed, Err(Error::Rerun(_))), "{failed:?}");
    }
    ground.db.with_tx(async |tx| insert(tx, Uuid::now_v7(), "kept").await).await?;
    assert_eq!(ground.count("select count(*) from notes").await?, 1);
    Ok(())
}

#[tokio::test]
async fn two_that_both_load_nothing_lose_neither_whoever_is_faster() -> anyhow::Result<()> {
    let ground = ground().await?;
    let subject = Uuid::now_v7();
    let met = Barrier::new(2);
    let alone = Barrier::new(1);
    let write = async |word: &'static str, met: &Barrier| {
        ground.db.with_tx(async |tx| append(tx, subject, word, met).await).await
    };
    let (charge, cancel) = tokio::join!(write("charge ", &met), write("cancel ", &met));
    let again = match (&charge, &cancel) {
        (Ok(()), Err(Error::Rerun(_))) => "cancel ",
        (Err(Error::Rerun(_)), Ok(())) => "charge ",
        both => panic!("one of them has to run again: {both:?}"),
    };
    write(again, &alone).await?;
    let text = text(&ground, subject).await?;
    assert!(text.contains("charge") && text.contains("cancel"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_later_of_two_changes_runs_again_in_both_orders_of_commit() -> anyhow::Result<()> {
    let ground = ground().await?;
    for (first, second) in [("charge ", "cancel "), ("cancel ", "charge ")] {
        let subject = Uuid::now_v7();
        let alone = Barrier::new(1);
        let loaded = Barrier::new(2);
        let committed = Barrier::new(2);
        let ahead = async {
            loaded.wait().await;
            let done = ground.db.with_tx(async |tx| append(tx, subject, first, &alone).await).await;
            committed.wait().await;
            done
        };
        let behind = ground.db.with_tx(async |tx| {
            let nothing: Option<i32> =
                sqlx::query_scalar("select version from notes where subject = $1 for update")
                    .bind(subject)
                    .fetch_optional(&mut *tx)
                    .await?;
            loaded.wait().await;
            committed.wait().await;
            let created = sqlx::query(
                "insert into notes select $1, $2, 1 where $3 = 0 on conflict do nothing",
            )
            .bind(subject)
            .bind(second)
            .bind(nothing.unwrap_or_default())
            .execute(tx)
            .await?;
            all_saved(created.rows_affected(), 1)
        });
        let (ahead, behind) = tokio::join!(ahead, behind);
        ahead?;
        assert!(matches!(behind, Err(Error::Rerun(_))), "{behind:?}");
        ground.db.with_tx(async |tx| append(tx, subject, second, &alone).await).await?;
        assert_eq!(text(&ground, subject).await?, format!("{first}{second}"));
    }
    Ok(())
}

#[tokio::test]
async fn only_what_can_never_be_stored_is_poison() -> anyhow::Result<()> {
    let ground = ground().await?;
    let attempt = async |script: &[&'static str]| -> Result<(), Error> {
        ground
            .db
            .with_tx(async |tx| {
                for sql in script {
                    sqlx::query(*sql).execute(&mut *tx).await?;
                }
                Ok(())
            })
            .await
    };
    let nul = ground.db.with_tx(async |tx| insert(tx, Uuid::now_v7(), "a\0b").await).await;
    assert!(matches!(nul, Err(Error::Poison(_))), "{nul:?}");
    let missing = attempt(&["insert into not_there values (1)"]).await;
    assert!(matches!(missing, Err(Error::Wait(_))), "{missing:?}");
    let slow = attempt(&[
        "set local statement_timeout = 1",
        "select count(*) from generate_series(1, 1000000000)",
    ]);
    let slow = slow.await;
    assert!(matches!(slow, Err(Error::Wait(_))), "{slow:?}");
    let ended = attempt(&["select pg_terminate_backend(pg_backend_pid())"]).await;
    assert!(matches!(ended, Err(Error::Wait(_))), "{ended:?}");
    ground.db.with_tx(async |tx| insert(tx, Uuid::now_v7(), "after all that").await).await?;
    Ok(())
}
