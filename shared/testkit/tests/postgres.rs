//! Throwaway servers, against the system's own Postgres.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
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

const AT_MOST: Duration = Duration::from_secs(20);

/// A server with one row that was committed.
async fn with_a_row() -> anyhow::Result<(Postgres, String)> {
    let postgres = Postgres::start(Options::default())?;
    postgres.create_database("switchback", &["order"]).await?;
    let url = postgres.url("order_owner", "switchback");
    let mut owner = PgConnection::connect(&url).await?;
    let table = "create table orders (id int); insert into orders values (1)";
    sqlx::raw_sql(table).execute(&mut owner).await?;
    Ok((postgres, url))
}

#[tokio::test]
async fn what_was_committed_outlives_every_process_of_the_server() -> anyhow::Result<()> {
    let (mut postgres, url) = with_a_row().await?;
    postgres.kill()?;
    assert!(PgConnection::connect(&url).await.is_err(), "nobody serves");
    postgres.restart().await?;
    assert_eq!(number(&url, "select count(*) from orders").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_server_is_tried_again_as_long_as_a_process_of_the_last_one_lingers() -> anyhow::Result<()>
{
    let (mut postgres, url) = with_a_row().await?;
    let mut lingering = PgConnection::connect(&url).await?;
    let backend: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut lingering).await?;
    let backend = Pid::from_raw(backend).expect("a process has a number");
    kill_process(backend, Signal::STOP)?;
    kill_process(postgres.pid(), Signal::KILL)?;

    let log = postgres.folder().join("postgres.log");
    let refused = async {
        let refused = wait::until(AT_MOST, "a new server to be refused", async || {
            let log = fs::read_to_string(&log).ok()?;
            log.contains("is still in use").then_some(())
        });
        // Whatever comes of it, nobody is left standing still.
        let refused = refused.await;
        kill_process(backend, Signal::CONT)?;
        refused
    };
    tokio::try_join!(postgres.restart(), refused)?;
    assert_eq!(number(&url, "select count(*) from orders").await?, 1);
    Ok(())
}
