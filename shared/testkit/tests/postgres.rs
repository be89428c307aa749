//! Throwaway servers, against the system's own Postgres.

use std::fs;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use testkit::postgres::{Options, Postgres};
use testkit::{database, wait};

async fn number(url: &str, sql: &'static str) -> anyhow::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(number)
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own_on_one_server() -> anyhow::Result<()> {
    let one = database("payment").await?;
    let other = database("payment").await?;
    let server = "select inet_server_port()::bigint";
    assert_eq!(number(&one.app_url, server).await?, number(&other.app_url, server).await?);

    let mut owner = PgConnection::connect(&one.owner_url).await?;
    sqlx::raw_sql("create table payments (id int); insert into payments values (1)")
        .execute(&mut owner)
        .await?;
    assert_eq!(number(&one.app_url, "select count(*) from payments").await?, 1);
    assert!(number(&other.app_url, "select count(*) from payments").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_database_is_dropped_with_its_test_even_while_somebody_is_connected() -> anyhow::Result<()>
{
    let witness = database("order").await?;
    let dropped = database("order").await?;
    let url = dropped.app_url.clone();
    let _connected = PgConnection::connect(&url).await?;
    assert_eq!(number(&witness.app_url, "select 1::bigint").await?, 1);
    drop(dropped);
    assert!(number(&url, "select 1::bigint").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_server_serves_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options { port: None, durable: true })?;
    postgres.create_database("switchback", &["order", "payment"]).await?;
    let fsync = "select (current_setting('fsync') = 'on')::int::bigint";
    assert_eq!(number(&postgres.url("order_app", "switchback"), fsync).await?, 1);

    let folder = postgres.folder().to_path_buf();
    let pid = fs::read_to_string(folder.join("data/postmaster.pid"))?;
    let process = format!("/proc/{}", pid.lines().next().expect("the first line is the pid"));
    assert!(fs::exists(&process)?);
    postgres.stop();
    assert!(!fs::exists(&folder)?);
    wait::until(Duration::from_secs(5), "the server's process to be gone", async || {
        (!fs::exists(&process).ok()?).then_some(())
    })
    .await
}
