//! What the shell does when more comes in than goes out: it takes no more than it has room for, and
//! loses nothing of what it took.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::json;
use sqlx::Connection;
use testkit::records::Record;
use testkit::wait;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::house::{House, fitted, pressed, turned};

const DARK: i16 = 2;
const LIT: i16 = 4;
/// More than a lane, the batch that it works on, and one turn of the intake hold.
const FLOOD: usize = 6_000;
const LANE_QUEUE_MAX: u64 = 4_000;
const HTTP_SHARE: u64 = LANE_QUEUE_MAX / 2;
const POLL_INTERVAL: Duration = Duration::from_secs(2);
const PATIENT: Duration = Duration::from_mins(1);

/// A lamp, and a batch that does not get on because of it.
async fn stuck(house: &House) -> anyhow::Result<(Uuid, sqlx::PgConnection)> {
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "kitchen")]).await?;
    house.wait_for_status(lamp, DARK).await?;
    let lock = house.lock(lamp).await?;
    house.tell(&[pressed(lamp)]).await?;
    house.wait_until_stuck().await?;
    Ok((lamp, lock))
}

fn many(count: usize) -> Vec<Record> {
    (0..count).map(|number| fitted(Uuid::now_v7(), &format!("lamp {number}"))).collect()
}

#[tokio::test]
async fn a_lane_that_is_stuck_pauses_the_reading_and_costs_no_partition_and_no_record()
-> anyhow::Result<()> {
    let house = House::open(&[("LANES", "1"), ("MAX_POLL_INTERVAL_MS", "2000")]).await?;
    let (lamp, lock) = stuck(&house).await?;
    house.tell(&many(FLOOD)).await?;
    let paused = r#"switchback_consumer_paused{consumer="lamp"}"#;
    house.wait_for_metric(1, paused).await?;
    let since = Instant::now();
    wait::until(PATIENT, "longer than any client may go without a poll", async || {
        (since.elapsed() > 3 * POLL_INTERVAL).then_some(())
    })
    .await?;
    assert_eq!(house.metric(paused).await?, 1);
    assert!(house.metric("switchback_lane_waiting").await? <= LANE_QUEUE_MAX);
    assert_eq!(house.count("select count(*) from lamps").await?, 1);

    lock.close().await?;
    house.wait_for_status(lamp, LIT).await?;
    house.wait_for_count(6_001, "select count(*) from lamps").await?;
    house.wait_for_metric(0, paused).await?;
    assert_eq!(house.count("select count(*) from inbox").await?, 6_002);
    assert_eq!(house.count("select max(said)::bigint from lamps where status = 2").await?, 1);
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    // Thrown out of the group it would have heard again what was not yet finished.
    assert_eq!(house.metric("switchback_inbox_duplicates_total").await?, 0);
    let logged = house.logged()?;
    let assigned = logged.lines().filter(|line| {
        line.contains(r#""message":"assigned""#) && line.contains(r#""group":"lamp""#)
    });
    assert_eq!(assigned.count(), 1, "{logged}");
    Ok(())
}

#[tokio::test]
async fn a_crowded_lane_sends_requests_away_and_keeps_room_for_events() -> anyhow::Result<()> {
    let house = House::open(&[("LANES", "1")]).await?;
    let (lamp, lock) = stuck(&house).await?;
    let (client, url) = (Client::new(), Arc::new(house.url("/v1/lamps")));
    let post = |key: String, timeout| {
        let request = client.post(&*url).header("Idempotency-Key", key).timeout(timeout);
        request.json(&json!({"label": "hall"})).send()
    };
    // This one is taken, and waits for a lane that waits.
    let (begun, patient) = (Instant::now(), tokio::spawn(post("patient".to_owned(), PATIENT)));
    house.wait_for_metric(1, "switchback_lane_waiting").await?;

    // Clients that hang up before they are answered leave their requests behind.
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let (client, url) = (client.clone(), Arc::clone(&url));
        clients.spawn(async move {
            loop {
                let request = client.post(&*url).timeout(Duration::from_millis(50));
                let request = request.header("Idempotency-Key", Uuid::new_v4().to_string());
                let sent = request.json(&json!({"label": "hall"})).send().await;
                if let Ok(answer) = sent {
                    return answer;
                }
            }
        });
    }
    let mut sent_away = 0;
    while let Some(answer) = clients.join_next().await {
        let answer = answer?;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("Retry-After"));
        sent_away += 1;
    }
    assert_eq!(sent_away, 50);
    let taken = house.metric("switchback_lane_waiting").await?;
    assert!((HTTP_SHARE..HTTP_SHARE + 50).contains(&taken), "{taken}");
    house.tell(&many(500)).await?;
    house.wait_for_metric(taken + 500, "switchback_lane_waiting").await?;

    let answer = patient.await??;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("Retry-After"));
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&begun.elapsed()));

    lock.close().await?;
    house.wait_for_status(lamp, LIT).await?;
    let all = i64::try_from(1 + taken + 500)?;
    house.wait_for_count(all, "select count(*) from lamps").await?;
    let again = post("patient".to_owned(), PATIENT).await?;
    assert_eq!(again.status(), StatusCode::ACCEPTED);
    assert_eq!(again.headers()["Idempotent-Replayed"], "true");
    assert_eq!(house.count("select count(*) from lamps").await?, all);
    Ok(())
}

#[tokio::test]
async fn a_transaction_holds_as_many_inputs_as_are_there_and_no_more_than_it_may()
-> anyhow::Result<()> {
    let house = House::open(&[("LANES", "1"), ("BATCH_MAX", "3")]).await?;
    let (lamp, lock) = stuck(&house).await?;
    house.tell(&many(30)).await?;
    house.wait_for_metric(30, "switchback_lane_waiting").await?;
    lock.close().await?;
    house.wait_for_status(lamp, LIT).await?;
    house.wait_for_count(31, "select count(*) from lamps").await?;
    // The first lamp was fitted, was pressed and got its answer from outside, each time alone.
    house.wait_for_metric(3 + 30 / 3, "switchback_lane_commits_total").await?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_records_of_poison_slow_down_their_partition_and_nothing_else()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let at = |partition, record: Record| Record { partition: Some(partition), ..record };
    let (before, behind, beside) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let lit = Uuid::now_v7();
    house.tell(&[at(2, fitted(before, "kitchen")), fitted(lit, "hall"), pressed(lit)]).await?;
    house.wait_for_status(lit, LIT).await?;
    let garbage = Record { body: Some(b"?".to_vec()), ..Record::default() };
    let mut records = vec![at(2, garbage); 9_800];
    // Those that cannot be decoded, that make a decision panic, and that cannot be.
    let broken = Record { body: Some(b"{".to_vec()), ..fitted(lit, "hall") };
    records.extend((0..100).map(|_| at(2, broken.clone())));
    records.extend((0..50).map(|_| at(2, turned(lit, 0))));
    records.extend((0..50).map(|_| at(2, turned(before, 50))));
    records.push(at(2, fitted(behind, "cellar")));
    let begun = Instant::now();
    house.tell(&records).await?;

    wait::until(PATIENT, "readiness to fall", async || {
        let (status, text) = house.readiness().await.ok()?;
        (status == 503 && text.contains("poison in wall.events.v1/2")).then_some(())
    })
    .await?;
    house.tell(&[at(1, fitted(beside, "attic"))]).await?;
    house.wait_for_status(beside, DARK).await?;
    assert_eq!(house.lamp(behind).await?, None, "its partition is still held back");
    assert_eq!(house.status("/livez").await, Some(204));

    wait::until(PATIENT, "what lies behind all that", async || {
        house.lamp(behind).await.ok()?.filter(|(status, _)| *status == DARK)
    })
    .await?;
    assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
    wait::until(PATIENT, "readiness to come back", async || {
        (house.readiness().await.ok()?.0 == 200).then_some(())
    })
    .await?;
    assert_eq!(house.metric("switchback_partitions_held").await?, 0);
    let letters = house.letters().await?;
    let count = |code| letters.iter().filter(|letter| letter.code == code).count();
    let codes: HashSet<_> = letters.iter().map(|letter| letter.code.as_str()).collect();
    assert_eq!(codes, HashSet::from(["ENVELOPE", "DECODE", "PANIC", "UNEXPECTED"]));
    let counts = ["ENVELOPE", "DECODE", "PANIC", "UNEXPECTED"].map(count);
    assert_eq!(counts, [9_800, 100, 50, 50]);
    let places = "select count(distinct log_offset) from dead_letters where partition = 2";
    assert_eq!(house.count(places).await?, 10_000);
    // Those of one turn are written in one transaction.
    let turns = "select count(distinct first_failed_at) from dead_letters where code = 'ENVELOPE'";
    let turns = house.count(turns).await?;
    assert!(turns < 200, "{turns}");
    assert_eq!(house.logged()?.matches("so much poison in a row").count(), 1);
    Ok(())
}

#[tokio::test]
async fn what_a_read_model_cannot_keep_it_sets_aside_alone_and_the_service_does_not()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let mut records = many(20);
    records.insert(7, fitted(Uuid::nil(), "kitchen"));
    house.tell(&records).await?;
    house.wait_for_count(20, "select count(*) from history").await?;
    house.wait_for_count(21, "select count(*) from lamps").await?;
    let letters = house.wait_for_letters(1).await?;
    let [letter] = &*letters else { panic!("{letters:?}") };
    assert_eq!((letter.code.as_str(), letter.subject), ("POISON", Some(Uuid::nil())));
    let of_the_view = "select count(*) from dead_letters where consumer = 'lamp-history'";
    assert_eq!(house.count(of_the_view).await?, 1);
    let counted = r#"switchback_dead_letters_total{consumer="lamp-history",code="POISON"}"#;
    house.wait_for_metric(1, counted).await
}

#[tokio::test]
async fn a_read_model_that_waits_says_so_and_holds_nobody_up() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let mut locked = house.behind().await?;
    sqlx::query("begin").execute(&mut locked).await?;
    sqlx::query("lock table history in access exclusive mode").execute(&mut locked).await?;
    let lamp = Uuid::now_v7();
    house.tell(&[fitted(lamp, "kitchen"), pressed(lamp)]).await?;
    house.wait_for_status(lamp, LIT).await?;
    house.wait_for_said(lamp, 2).await?;

    house.wait_for_metric(1, r#"switchback_consumer_paused{consumer="lamp-history"}"#).await?;
    wait::until(PATIENT, "its batch to be given up once", async || {
        house.logged().ok()?.contains(r#""message":"waiting""#).then_some(())
    })
    .await?;
    assert_eq!(house.readiness().await?.0, 200);
    assert_eq!(house.metric(r#"switchback_consumer_paused{consumer="lamp"}"#).await?, 0);
    let next = Uuid::now_v7();
    house.tell(&[fitted(next, "hall")]).await?;
    house.wait_for_status(next, DARK).await?;

    locked.close().await?;
    house.wait_for_count(3, "select count(*) from history").await?;
    house.wait_for_metric(0, "switchback_consumer_paused").await?;
    assert_eq!(house.count("select count(*) from dead_letters").await?, 0);
    Ok(())
}
