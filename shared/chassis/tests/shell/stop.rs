//! How the process ends when it is asked to: in time whatever holds it, in an order that loses
//! nothing, and leaving nothing behind where nothing is broken.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use testkit::postgres::{Options, Postgres, SUPERUSER, signal_family};
use testkit::{Broker, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::house::{AT_MOST, END_MAX, House, LAMP, Login, WALL, distinct, fitted, pressed, turned};

const CLIENTS: usize = 8;
const ENOUGH_ACKNOWLEDGED: usize = 100;
const QUICK_ENDS: usize = 20;
const QUICK_MAX: Duration = Duration::from_secs(10);
/// How long a client waits before it asks again.
const PATIENCE: Duration = Duration::from_millis(200);
const LIT: i16 = 4;

/// Asks for a lamp under a key.
async fn post(url: &str, key: &str, label: &str) -> reqwest::Result<reqwest::Response> {
    let request = Client::new().post(url).header("Idempotency-Key", key);
    request.json(&json!({"label": label})).send().await
}

async fn lamp_id(answer: reqwest::Response) -> anyhow::Result<Uuid> {
    let body: Value = answer.json().await?;
    Ok(body["lamp_id"].as_str().unwrap_or_default().parse()?)
}

/// Clients that ask for lamps without a pause, until nobody answers or they are sent away.
struct Load {
    clients: JoinSet<()>,
    acknowledged: Arc<Mutex<Vec<Uuid>>>,
}

impl Load {
    fn start(url: &str) -> Self {
        let mut load = Self { clients: JoinSet::new(), acknowledged: Arc::default() };
        for _ in 0..CLIENTS {
            let (url, acknowledged) = (url.to_owned(), Arc::clone(&load.acknowledged));
            load.clients.spawn(async move {
                while let Ok(answer) = post(&url, &Uuid::new_v4().to_string(), "hall").await
                    && answer.status() == StatusCode::ACCEPTED
                    && let Ok(lamp) = lamp_id(answer).await
                {
                    acknowledged.lock().expect("no client panics").push(lamp);
                }
            });
        }
        load
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no client panics").len()
    }

    async fn is_heavy(&self) -> anyhow::Result<()> {
        wait::until(AT_MOST, "many lamps to be acknowledged", async || {
            (self.count() >= ENOUGH_ACKNOWLEDGED).then_some(())
        })
        .await
    }

    /// The lamps that were acknowledged, once every client has been sent away.
    async fn all(mut self) -> Vec<Uuid> {
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut self.acknowledged.lock().expect("no client panics"))
    }
}

async fn are_stored(house: &House, lamps: &[Uuid]) -> anyhow::Result<()> {
    let stored: Vec<Uuid> =
        sqlx::query_scalar("select lamp_id from lamps where lamp_id = any($1::uuid[])")
            .bind(lamps)
            .fetch_all(&mut house.behind().await?)
            .await?;
    assert_eq!(stored.len(), lamps.iter().collect::<HashSet<_>>().len());
    Ok(())
}

#[tokio::test]
async fn under_load_what_was_acknowledged_is_kept_and_nothing_is_left_to_the_next_process()
-> anyhow::Result<()> {
    ends_under_load(&[]).await
}

#[tokio::test]
async fn the_dispatcher_sends_the_last_of_what_the_lanes_have_said() -> anyhow::Result<()> {
    ends_under_load(&[("DISPATCH", "outbox")]).await
}

async fn ends_under_load(settings: &[(&'static str, &str)]) -> anyhow::Result<()> {
    let mut house = House::open(settings).await?;
    let records: Vec<_> = (0..2_000).map(|_| fitted(Uuid::now_v7(), "kitchen")).collect();
    let load = Load::start(&house.url("/v1/lamps"));
    let (told, heavy) = tokio::join!(house.tell(&records), load.is_heavy());
    told?;
    heavy?;
    let before = load.count();
    let begun = Instant::now();
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(0), "{}", house.logged()?);
    assert!(begun.elapsed() < QUICK_MAX, "{:?}", begun.elapsed());
    let lamps = load.all().await;
    println!(
        "{} of {} acknowledged after SIGTERM, {:?}",
        lamps.len() - before,
        lamps.len(),
        begun.elapsed()
    );
    are_stored(&house, &lamps).await?;
    assert_eq!(house.count("select count(*) from outbox").await?, 0);
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    let events = house.count("select count(*) from events").await?;
    assert_eq!(distinct(&house.said().await?), usize::try_from(events)?);
    Ok(())
}

#[tokio::test]
async fn readiness_falls_first_then_requests_are_refused_and_what_was_taken_in_is_answered()
-> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let url = house.url("/v1/lamps");
    wait::until(AT_MOST, "the lamp to be ready", async || {
        (house.status("/readyz").await == Some(200)).then_some(())
    })
    .await?;
    let mut behind = house.behind().await?;
    sqlx::raw_sql("begin; lock table lamps in exclusive mode").execute(&mut behind).await?;
    let first = tokio::spawn({
        let url = url.clone();
        async move { post(&url, "k-1", "hall").await }
    });
    house.wait_for_count(1, "select count(*) from pg_locks where not granted").await?;

    house.terminate()?;
    wait::until(AT_MOST, "readiness to fall", async || {
        (house.status("/readyz").await == Some(503)).then_some(())
    })
    .await?;
    let second = tokio::spawn({
        let url = url.clone();
        async move { post(&url, "k-2", "hall").await }
    });
    let refused = wait::until(AT_MOST, "a request to be refused", async || {
        let asked = tokio::time::timeout(PATIENCE, post(&url, "k-3", "hall"));
        asked.await.ok()?.ok().filter(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await?;
    assert!(refused.headers().contains_key("retry-after"), "{refused:?}");
    assert_eq!(refused.headers()["connection"], "close");
    assert_eq!(refused.json::<Value>().await?["code"], "UNAVAILABLE");

    sqlx::raw_sql("rollback").execute(&mut behind).await?;
    let answers = [first.await??, second.await??];
    assert_eq!(answers.each_ref().map(|answer| answer.status().as_u16()), [202, 202]);
    assert_eq!(house.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn an_attempt_under_way_brings_its_answer_before_the_end() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "held"), pressed(lamp)]).await?;
    wait::until(AT_MOST, "the power company to be asked", async || {
        (house.grid.asked().len() == 1).then_some(())
    })
    .await?;
    house.terminate()?;
    let url = house.url("/v1/lamps");
    wait::until(AT_MOST, "nothing more to be taken in", async || {
        let asked = tokio::time::timeout(PATIENCE, post(&url, "k-1", "hall"));
        let answer = asked.await.ok()?.ok()?;
        (answer.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await?;
    house.grid.open_gate();
    assert_eq!(house.ended().await?.code(), Some(0));
    assert_eq!(house.lamp(lamp).await?, Some((LIT, Some(100))));
    assert_eq!(house.count("select count(*) from calls").await?, 0);
    assert_eq!(house.grid.asked().into_values().collect::<Vec<_>>(), [1]);
    Ok(())
}

#[tokio::test]
async fn clients_that_say_nothing_or_half_of_it_do_not_hold_the_end_up() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let head = format!("POST /v1/lamps HTTP/1.1\r\nHost: {}\r\n", house.address());
    let body = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"label\":";
    let said = [String::new(), head.clone(), format!("{head}Idempotency-Key: k-1\r\n{body}")];
    let mut clients = Vec::new();
    for said in said {
        let mut client = TcpStream::connect(house.address()).await?;
        client.write_all(said.as_bytes()).await?;
        clients.push(client);
    }
    let mut idle = TcpStream::connect(house.address()).await?;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: lamp\r\n\r\n").await?;
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"HTTP/1.1 204");

    let begun = Instant::now();
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(0));
    assert!(begun.elapsed() < QUICK_MAX, "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_database_that_stands_still_does_not_hold_the_end_up_and_loses_nothing()
-> anyhow::Result<()> {
    let postgres = Postgres::start(Options::default())?;
    postgres.create_database("house", &["lamp"]).await?;
    let login = Login {
        app: postgres.url("lamp_app", "house"),
        owner: postgres.url("lamp_owner", "house"),
        superuser: postgres.url(SUPERUSER, "house"),
    };
    let mut house = House::open_with(login, None, &[]).await?;
    let load = Load::start(&house.url("/v1/lamps"));
    load.is_heavy().await?;
    signal_family(postgres.pid(), rustix::process::Signal::STOP)?;
    let begun = Instant::now();
    house.terminate()?;
    let ended = house.ended().await;
    let took = begun.elapsed();
    println!("ended after {took:?}");
    signal_family(postgres.pid(), rustix::process::Signal::CONT)?;
    assert_eq!(ended?.code(), Some(0));
    assert!(took < END_MAX, "{took:?}");
    assert!(house.logged()?.contains("left unfinished"), "nothing was held: the run is void");

    are_stored(&house, &load.all().await).await?;
    house.start_again().await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;
    let events = house.count("select count(*) from events").await?;
    assert_eq!(distinct(&house.said().await?), usize::try_from(events)?);
    Ok(())
}

#[tokio::test]
async fn a_broker_that_is_away_does_not_hold_the_end_up_and_its_events_go_out_later()
-> anyhow::Result<()> {
    let broker = Broker::start(None, &[WALL, LAMP])?;
    let mut house = House::open(&[("KAFKA_BROKERS", broker.bootstrap())]).await?;
    broker.go_away()?;
    let answer = post(&house.url("/v1/lamps"), "k-1", "hall").await?;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    let begun = Instant::now();
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(0));
    let took = begun.elapsed();
    println!("ended after {took:?}");
    assert!(took < END_MAX, "{took:?}");
    assert_eq!(house.count("select count(*) from outbox").await?, 1);

    broker.come_back()?;
    house.start_again().await?;
    house.wait_for_count(0, "select count(*) from outbox").await?;
    assert_eq!(testkit::records::read(broker.bootstrap(), LAMP).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_thread_that_is_never_given_back_is_cut_off_in_time() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "kitchen"), pressed(lamp)]).await?;
    house.wait_for_status(lamp, LIT).await?;
    house.tell(&[turned(lamp, 200)]).await?;
    // It stands in a decision, and its batch holds what it has claimed.
    let inside = "select count(*) from pg_stat_activity
                   where state = 'idle in transaction' and usename = 'lamp_app'";
    house.wait_for_count(1, inside).await?;
    let begun = Instant::now();
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(1));
    let took = begun.elapsed();
    println!("cut off after {took:?}");
    assert!(took < END_MAX, "{took:?}");
    assert!(house.logged()?.contains("cut off"), "{}", house.logged()?);
    Ok(())
}

#[tokio::test]
async fn twenty_ends_one_after_another_are_all_quick_and_leave_nothing() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let mut slowest = Duration::ZERO;
    for round in 0..QUICK_ENDS {
        let answer = post(&house.url("/v1/lamps"), &format!("k-{round}"), "hall").await?;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let begun = Instant::now();
        house.terminate()?;
        assert_eq!(house.ended().await?.code(), Some(0));
        slowest = slowest.max(begun.elapsed());
        assert_eq!(house.count("select count(*) from outbox").await?, 0);
        house.start_again().await.context(house.logged()?)?;
    }
    println!("the slowest of {QUICK_ENDS} ends took {slowest:?}");
    assert!(slowest < QUICK_MAX);
    Ok(())
}

#[tokio::test]
async fn a_member_that_ends_leaves_its_group_and_its_peer_need_not_wait_for_its_session()
-> anyhow::Result<()> {
    const TAKEN_OVER_MAX: Duration = Duration::from_secs(8);
    let mut house = House::open(&[("SESSION_TIMEOUT_MS", "6000")]).await?;
    let (mut twin, log) = house.twin()?;
    wait::until(AT_MOST, "each of the two to have its half", async || {
        let halves = |log: &str| log.contains("\"partitions\":2");
        (halves(&house.logged().ok()?) && halves(&std::fs::read_to_string(&log).ok()?))
            .then_some(())
    })
    .await?;
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(0));
    let begun = Instant::now();
    let taken = wait::until(AT_MOST, "the peer to have all", async || {
        let log = std::fs::read_to_string(&log).ok()?;
        log.contains("\"partitions\":4").then_some(())
    })
    .await;
    let took = begun.elapsed();
    twin.kill()?;
    twin.wait()?;
    taken?;
    println!("taken over after {took:?}");
    // The in-memory broker waits 5 s, a second less than a session, for peers that it need not wait
    // for; after a death it waits for the end of the session first: 11 s.
    assert!(took < TAKEN_OVER_MAX, "{took:?}");
    std::fs::remove_file(log)?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_panics_ends_the_process() -> anyhow::Result<()> {
    let mut house = House::open(&[]).await?;
    let answer = post(&house.url("/v1/lamps"), "k-1", "medusa").await?;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(house.ended().await?.code(), Some(1));
    assert!(house.logged()?.contains("a task has panicked"), "{}", house.logged()?);
    Ok(())
}

/// Postgres has a hard time: every transaction on lamps waits a while for its turn.
async fn slow_down(house: &House) -> anyhow::Result<JoinSet<sqlx::Result<()>>> {
    let mut behind = house.behind().await?;
    let mut slow = JoinSet::new();
    slow.spawn(async move {
        let turn = "begin; lock table lamps in exclusive mode;
                    select count(*) from generate_series(1, 200000); commit";
        loop {
            sqlx::raw_sql(turn).execute(&mut behind).await?;
        }
    });
    Ok(slow)
}

#[tokio::test]
async fn a_client_that_hangs_up_at_any_millisecond_leaves_all_or_nothing() -> anyhow::Result<()> {
    const MILLISECONDS: u64 = 60;
    let mut house = House::open(&[]).await?;
    let mut slow = slow_down(&house).await?;
    let (mut cut_short, mut left_waiting) = (0, 0);
    for ms in 0..=MILLISECONDS {
        let body = r#"{"label": "hall"}"#;
        let request = format!(
            "POST /v1/lamps HTTP/1.1\r\nHost: lamp\r\nIdempotency-Key: k-{ms}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        for part in [request.len() * usize::try_from(ms)? / 61, request.len()] {
            let mut client = TcpStream::connect(house.address()).await?;
            client.write_all(&request.as_bytes()[..part]).await?;
            let answer = client.read_u8();
            let gone = tokio::time::timeout(Duration::from_millis(ms), answer).await.is_err();
            cut_short += usize::from(part < request.len());
            left_waiting += usize::from(gone && part == request.len());
            // With a reset, not with a goodbye.
            client.set_zero_linger()?;
        }
    }
    slow.shutdown().await;
    println!("{cut_short} requests cut short, {left_waiting} clients gone before their answer");
    assert!(left_waiting > 10, "nobody hung up in time: the run is void");

    let url = house.url("/v1/lamps");
    let mut later = Vec::new();
    for number in 0..20 {
        let answer = post(&url, &format!("later-{number}"), "hall").await?;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        later.push(lamp_id(answer).await?);
    }
    let open = "select count(*) from pg_stat_activity
                 where state like 'idle in transaction%' and usename = 'lamp_app'
                   and datname = current_database()";
    house.wait_for_count(0, open).await?;
    // Its orderly end is the end of everything that was under way.
    house.terminate()?;
    assert_eq!(house.ended().await?.code(), Some(0));
    are_stored(&house, &later).await?;
    let lamps = house.count("select count(*) from lamps").await?;
    let halves = "select count(*)
                    from lamps l
                    full join events e on e.subject = l.lamp_id
                    full join idempotency_keys k
                      on (convert_from(k.body, 'UTF8')::json->>'lamp_id')::uuid = l.lamp_id
                   where l.lamp_id is null or e.id is null or k.key is null";
    assert_eq!(house.count(halves).await?, 0);
    assert_eq!(house.count("select count(*) from outbox").await?, 0);
    let done = usize::try_from(lamps)? - later.len();
    println!("{done} of 61 were done all the same");
    assert!((1..=61).contains(&done), "{done}");
    Ok(())
}
