//! What the shell lives through: connections that are cut, commits whose reply is lost, a database
//! that is away. And what it does not.

use std::collections::HashSet;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use testkit::postgres::{Options, Postgres, SUPERUSER};
use testkit::{Broker, wait};
use uuid::Uuid;

use crate::house::{AT_MOST, Grid, House, LAMP, Login, WALL, distinct, fitted, log, start};

const CUTS: usize = 20;
const DEATHS: usize = 20;
const LAMPS_PER_CUT: usize = 15;
const DARK: i16 = 2;

async fn cut_all(house: &House) -> anyhow::Result<()> {
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where usename = 'lamp_app' and datname = current_database()",
    )
    .execute(&mut house.behind().await?)
    .await?;
    Ok(())
}

#[tokio::test]
async fn connections_cut_twenty_times_lose_nothing_and_set_nobody_aside() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let mut lamps = HashSet::new();
    for _ in 0..CUTS {
        let batch: Vec<Uuid> = (0..LAMPS_PER_CUT).map(|_| Uuid::now_v7()).collect();
        let records: Vec<_> = batch.iter().map(|lamp| fitted(*lamp, "kitchen")).collect();
        lamps.extend(batch);
        let (told, cut) = tokio::join!(house.tell(&records), cut_all(&house));
        told?;
        cut?;
    }
    house.wait_for_count(300, "select count(*) from lamps").await?;
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    assert_eq!(house.count("select count(*) from events").await?, 300);
    house.wait_for_count(0, "select count(*) from outbox").await?;
    let said: HashSet<Uuid> = (house.said().await?.iter())
        .map(|event| event.header("ce_subject").expect("a subject").parse())
        .collect::<Result<_, _>>()?;
    assert_eq!(said, lamps);
    Ok(())
}

async fn set(postgres: &Postgres, sql: &'static str) -> anyhow::Result<()> {
    let mut server = PgConnection::connect(&postgres.url(SUPERUSER, "postgres")).await?;
    sqlx::query(sql).execute(&mut server).await?;
    sqlx::query("select pg_reload_conf()").execute(&mut server).await?;
    Ok(())
}

/// Ways in which a server dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// All of its processes at once.
    Whole,
    /// The process that runs the batch; the server then throws all others out and recovers.
    Backend,
    /// The process above all others, which notice.
    Head,
}

async fn die(postgres: &mut Postgres, house: &House, death: Death) -> anyhow::Result<()> {
    match death {
        Death::Whole => postgres.kill()?,
        Death::Head => kill_process(postgres.pid(), Signal::KILL)?,
        Death::Backend => {
            let mut other = house.behind().await?;
            let backend: i32 = sqlx::query_scalar(
                "select pid from pg_stat_activity
                  where usename = 'lamp_app' and wait_event_type = 'Lock' limit 1",
            )
            .fetch_one(&mut other)
            .await?;
            kill_process(Pid::from_raw(backend).context("a pid")?, Signal::KILL)?;
            let what = "the server to throw out everybody else";
            return wait::until(AT_MOST, what, async || {
                sqlx::query("select").execute(&mut other).await.err().map(drop)
            })
            .await;
        }
    }
    postgres.restart().await
}

#[tokio::test]
async fn a_server_that_dies_twenty_times_in_the_middle_of_a_batch_costs_nothing_and_nobody()
-> anyhow::Result<()> {
    let mut postgres = Postgres::start(Options::default())?;
    postgres.create_database("house", &["lamp"]).await?;
    let login = Login {
        app: postgres.url("lamp_app", "house"),
        owner: postgres.url("lamp_owner", "house"),
        superuser: postgres.url(SUPERUSER, "house"),
    };
    let house = House::open_with(login, None, &[("LANES", "1")]).await?;
    let held = Uuid::now_v7();
    house.tell(&[fitted(held, "kitchen")]).await?;
    house.wait_for_status(held, DARK).await?;
    for death in [Death::Whole, Death::Backend, Death::Head].into_iter().cycle().take(DEATHS) {
        // The batch with this in it is begun, and gets no further before the server dies.
        let lock =
            wait::until(AT_MOST, "the server to be back", async || house.lock(held).await.ok());
        let _lock = lock.await?;
        let mut records = vec![fitted(held, "kitchen")];
        records.extend((0..LAMPS_PER_CUT).map(|_| fitted(Uuid::now_v7(), "hall")));
        house.tell(&records).await?;
        house.wait_until_stuck().await.with_context(|| format!("{death:?}"))?;
        die(&mut postgres, &house, death).await.with_context(|| format!("{death:?}"))?;
    }
    wait::until(AT_MOST, "the server to be back", async || house.behind().await.ok()).await?;
    house.wait_for_count(301, "select count(*) from lamps").await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;
    assert_eq!(house.count("select count(*) from events").await?, 301);
    assert_eq!(distinct(&house.said().await?), 301);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_commit_whose_reply_is_lost_is_neither_lost_nor_done_twice() -> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default())?;
    postgres.create_database("house", &["lamp"]).await?;
    let login = Login {
        app: postgres.url("lamp_app", "house"),
        owner: postgres.url("lamp_owner", "house"),
        superuser: postgres.url(SUPERUSER, "house"),
    };
    set(&postgres, "alter role lamp_app set synchronous_commit = on").await?;
    let house = House::open_with(login, None, &[]).await?;
    let first = Uuid::now_v7();
    house.tell(&[fitted(first, "kitchen")]).await?;
    house.wait_for_said(first, 1).await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;

    // Every commit waits for a replica that does not exist.
    set(&postgres, "alter system set synchronous_standby_names = 'nobody'").await?;
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "hall")]).await?;
    // It is committed here, and before anybody is told so the line is cut.
    let waiting = "select count(*) from pg_stat_activity
                    where wait_event = 'SyncRep' and query ilike 'commit%'";
    house.wait_for_count(1, waiting).await?;
    // This one line alone: the process still counts as alive.
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where wait_event = 'SyncRep' and query ilike 'commit%'",
    )
    .execute(&mut house.behind().await?)
    .await?;
    set(&postgres, "alter system reset synchronous_standby_names").await?;

    let said = house.wait_for_said(lamp, 1).await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;
    assert_eq!(said.len(), 1);
    assert_eq!(house.count("select count(*) from events").await?, 2);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    assert_eq!(house.lamp(lamp).await?, Some((DARK, None)));
    Ok(())
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_and_said_so() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let ready = async |status: u16| {
        wait::until(AT_MOST, &format!("readiness to answer {status}"), async || {
            (house.status("/readyz").await == Some(status)).then_some(())
        })
        .await
    };
    ready(200).await?;
    let lock_out = "do $$ begin
        execute format('revoke connect on database %I from public', current_database());
    end $$";
    sqlx::query(lock_out).execute(&mut house.behind().await?).await?;
    cut_all(&house).await?;
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "kitchen")]).await?;
    let missing = wait::until(AT_MOST, "the lanes to wait", async || {
        let answer = reqwest::get(house.url("/readyz")).await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        (status == 503 && text.contains("lanes")).then_some(text)
    });
    assert!(missing.await?.contains("database"));
    assert_eq!(house.status("/livez").await, Some(204), "nothing is won by a new process");

    let let_in = "do $$ begin
        execute format('grant connect on database %I to public', current_database());
    end $$";
    sqlx::query(let_in).execute(&mut house.behind().await?).await?;
    house.wait_for_status(lamp, DARK).await?;
    ready(200).await?;
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_process_that_cannot_listen_ends_and_says_so() -> anyhow::Result<()> {
    let database = testkit::database("lamp").await?;
    let broker = Broker::start(None, &[WALL, LAMP])?;
    let grid = Grid::start().await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let login = Login {
        app: database.app_url.clone(),
        owner: database.owner_url.clone(),
        superuser: database.superuser_url.clone(),
    };
    let log = log()?;
    let mut lamp = start(&listen, &log, &login, &broker, &grid, &[])?;
    let ended = wait::until(AT_MOST, "the process to end", async || lamp.try_wait().ok().flatten());
    assert_eq!(ended.await?.code(), Some(1));
    let said = std::fs::read_to_string(&log)?;
    assert!(said.contains(&format!("cannot listen on {listen}")), "{said}");
    std::fs::remove_file(log)?;
    Ok(())
}
