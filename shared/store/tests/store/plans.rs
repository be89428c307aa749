//! A statement is planned once, on tables that may have been empty then, and run on full ones.

use sqlx::PgConnection;
use store::{Commit, Config, Db, Error, Key, KeyRecord};
use uuid::Uuid;

use crate::batch::wanted;
use crate::{Ground, SERVICE, WINDOW, config, ground, said};

const BATCH: usize = 100;
const BATCHES: usize = 30;
/// Claim, calls and answers read no row of another batch; what they delete they read once.
const ROWS_READ_MAX: i64 = 400;

fn key(subject: Uuid) -> Key {
    Key {
        caller: "one".to_owned(),
        method: "POST".to_owned(),
        route: "/v1/lamps".to_owned(),
        key: subject.to_string(),
    }
}

/// A batch of new subjects, each with an event, a call and an answer, that settles all of the batch
/// before.
async fn batch(ground: &Ground, before: &Commit) -> anyhow::Result<Commit> {
    let mut commit = Commit {
        settled: before.wanted.iter().map(|call| (call.subject, call.step.clone())).collect(),
        acked: before.said.iter().map(|said| said.envelope.id).collect(),
        ..Commit::default()
    };
    for _ in 0..BATCH {
        let subject = Uuid::now_v7();
        commit.said.push(said(ground, subject, 1).await?);
        commit.wanted.push(wanted(subject, "connect"));
        commit.answers.push(KeyRecord {
            key: key(subject),
            fingerprint: vec![7; 32],
            status: 202,
            headers: b"[]".to_vec(),
            body: b"{}".to_vec(),
        });
    }
    Ok(commit)
}

/// Rows that this connection has read, by a scan or through an index. What it tells grows within a
/// transaction, and may start anew between two.
async fn rows_read(tx: &mut PgConnection) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(
        "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint
           from pg_stat_xact_user_tables",
    )
    .fetch_one(tx)
    .await?)
}

/// Everything that the shell asks of the database for one batch; how many rows that read.
async fn run(tx: &mut PgConnection, commit: &Commit) -> Result<i64, Error> {
    let before = rows_read(tx).await?;
    let ids: Vec<Uuid> = commit.said.iter().map(|said| said.envelope.id).collect();
    store::claim(tx, SERVICE, &ids, &vec![1; ids.len()], WINDOW).await?;
    let keys: Vec<&Key> = commit.answers.iter().map(|answer| &answer.key).collect();
    store::keys(tx, &keys).await?;
    let refused: Vec<_> =
        commit.settled.iter().map(|(subject, step)| (*subject, step.as_str(), 1)).collect();
    store::untouched(tx, &refused).await?;
    store::write(tx, 1, commit).await?;
    Ok(rows_read(tx).await? - before)
}

#[tokio::test]
async fn a_batch_reads_its_own_rows_alone_however_many_there_are() -> anyhow::Result<()> {
    let ground = ground().await?;
    // One connection: what it plans on empty tables it runs on full ones.
    let db = Db::try_new(&Config { write_connections_max: 1, ..config(&ground.database.app_url) })?;
    let mut before = Commit::default();
    let mut read = 0;
    for _ in 0..BATCHES {
        let next = batch(&ground, &before).await?;
        read = db.with_tx(async |tx| run(tx, &next).await).await?;
        before = next;
    }
    let handled = ground.count("select count(*) from inbox").await?;
    assert_eq!(usize::try_from(handled)?, BATCH * BATCHES);
    assert!(read < ROWS_READ_MAX, "the last batch of {BATCHES} read {read} rows");
    Ok(())
}
