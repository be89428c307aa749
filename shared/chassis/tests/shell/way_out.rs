//! The way to the broker when it is shut, or leads nowhere: what was said goes out once it can, in
//! no more time than that takes, and what never can is set aside.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::json;
use testkit::records::Record;
use testkit::{Refusal, wait};
use uuid::Uuid;

use crate::house::{AT_MOST, House, distinct};

const DISPATCHER_ALONE: &[(&str, &str)] = &[("DISPATCH", "outbox")];
/// What a living process wrote is left to it for so long, if it does not give it up.
const AGE_OF_THE_LIVING: Duration = Duration::from_secs(35);
const OUTBOX: &str = "select count(*) from outbox";
const LETTERS: &str = "select count(*) from dead_letters";

/// Fits lamps over HTTP, which needs no broker: each says one event.
async fn fit(house: &House, lamps: usize) -> anyhow::Result<()> {
    let http = Client::new();
    for _ in 0..lamps {
        let key = Uuid::now_v7().to_string();
        let request = http.post(house.url("/v1/lamps")).header("Idempotency-Key", key);
        let answer = request.json(&json!({"label": "kitchen"})).send().await?;
        assert_eq!(answer.status(), 202);
    }
    Ok(())
}

/// Everything that was said, once the outbox is empty.
async fn all_out(house: &House, events: usize) -> anyhow::Result<Vec<Record>> {
    house.wait_for_count(0, OUTBOX).await?;
    let said = house.said().await?;
    assert_eq!(distinct(&said), events);
    Ok(said)
}

async fn counted(house: &House, metric: &str, at_least: u64) -> anyhow::Result<()> {
    wait::until(AT_MOST, metric, async || {
        (house.metric(metric).await.ok()? >= at_least).then_some(())
    })
    .await
}

async fn not_ready_for_want_of(house: &House, part: &str) -> anyhow::Result<()> {
    wait::until(AT_MOST, part, async || {
        let answer = reqwest::get(house.url("/readyz")).await.ok()?;
        (answer.status() == 503 && answer.text().await.ok()?.contains(part)).then_some(())
    })
    .await
}

#[tokio::test]
async fn what_a_full_queue_does_not_take_holds_up_no_lane_and_goes_out_with_the_broker()
-> anyhow::Result<()> {
    let house = House::open(&[("PRODUCER_QUEUE_MAX", "10")]).await?;
    house.broker.go_away()?;
    let begun = Instant::now();
    fit(&house, 50).await?;
    counted(&house, "switchback_events_given_up_total", 40).await?;
    assert_eq!(house.count(OUTBOX).await?, 50);

    house.broker.come_back()?;
    all_out(&house, 50).await?;
    assert!(begun.elapsed() < AGE_OF_THE_LIVING, "{:?}", begun.elapsed());
    assert_eq!(house.count(LETTERS).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_producer_that_dies_is_replaced_in_the_same_process_and_loses_nothing()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    fit(&house, 1).await?;
    all_out(&house, 1).await?;
    let begun = Instant::now();
    for death in 1..=2 {
        house.broker.refuse(1, Refusal::OutOfSequence);
        fit(&house, 10).await?;
        counted(&house, "switchback_producer_deaths_total", death).await?;
        all_out(&house, 1 + 10 * usize::try_from(death)?).await?;
    }
    assert!(begun.elapsed() < AGE_OF_THE_LIVING, "{:?}", begun.elapsed());
    not_ready_for_want_of(&house, "producer").await?;
    assert_eq!(house.status("/livez").await, Some(204));
    assert_eq!(house.count(LETTERS).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_service_that_may_not_write_waits_and_goes_on_when_it_may() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    house.broker.refuse(1_000, Refusal::NotAllowed);
    fit(&house, 5).await?;
    // The lane's attempt, and two of the dispatcher at least.
    counted(&house, "switchback_produce_failures_total", 15).await?;
    assert_eq!(house.count(OUTBOX).await?, 5);
    assert_eq!(house.count(LETTERS).await?, 0);
    assert!(house.logged()?.contains("the broker lets this service say nothing"));

    house.broker.refuse_no_more();
    all_out(&house, 5).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_refused_in_company_is_sent_again_and_taken() -> anyhow::Result<()> {
    let house = House::open(DISPATCHER_ALONE).await?;
    house.broker.refuse(1, Refusal::TooLarge);
    fit(&house, 20).await?;
    all_out(&house, 20).await?;
    counted(&house, "switchback_produce_failures_total", 1).await?;
    assert_eq!(house.count(LETTERS).await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_is_refused_for_ever_leaves_the_outbox_as_a_dead_letter_and_blocks_nothing()
-> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    // By the lane, by the dispatcher in company, and alone.
    house.broker.refuse(3, Refusal::InvalidRecord);
    fit(&house, 1).await?;
    let letters = house.wait_for_letters(1).await?;
    let letter = &letters[0];
    assert_eq!((letter.origin.as_str(), letter.code.as_str()), ("outbox", "INVALID_RECORD"));
    let (id, subject, body): (Uuid, Uuid, Vec<u8>) =
        sqlx::query_as("select id, subject, body from events")
            .fetch_one(&mut house.behind().await?)
            .await?;
    assert_eq!((letter.subject, &letter.body), (Some(subject), &body));
    let headers: Vec<(String, String)> = serde_json::from_slice(&letter.headers)?;
    assert!(headers.contains(&("ce_id".to_owned(), id.to_string())), "{headers:?}");
    assert_eq!(house.count(OUTBOX).await?, 0);
    assert_eq!(house.metric("switchback_dead_letters_total").await?, 1);

    fit(&house, 3).await?;
    let said = all_out(&house, 3).await?;
    assert!(said.iter().all(|event| event.header("ce_id") != Some(&id.to_string())));
    assert_eq!(house.count(LETTERS).await?, 1);
    Ok(())
}

#[tokio::test]
async fn an_id_without_its_event_is_an_alarm_and_blocks_nothing() -> anyhow::Result<()> {
    let house = House::open(&[]).await?;
    let lost = Uuid::from_u128(7);
    sqlx::query("insert into outbox (event_id, boot) values ($1, 0)")
        .bind(lost)
        .execute(&mut house.behind().await?)
        .await?;
    counted(&house, "switchback_outbox_missing_events_total", 1).await?;
    house.broker.refuse(1, Refusal::NotAllowed);
    fit(&house, 1).await?;
    house.wait_for_count(1, OUTBOX).await?;
    counted(&house, "switchback_dispatched_total", 1).await?;
    assert_eq!(distinct(&house.said().await?), 1);
    Ok(())
}

/// Cuts the one connection that holds the dispatcher's lock.
async fn cut_the_dispatcher(house: &House) -> anyhow::Result<()> {
    let cut: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_locks
          where locktype = 'advisory' and granted and objid = 0 and objsubid = 2
            and classid = (hashtext('dispatch lamp')::bigint & 4294967295)::oid
            and database = (select oid from pg_database where datname = current_database())",
    )
    .fetch_all(&mut house.behind().await?)
    .await?;
    assert_eq!(cut, [true], "somebody dispatches");
    Ok(())
}

#[tokio::test]
async fn a_dispatcher_that_loses_its_lock_in_a_pass_sends_nothing_of_it_again() -> anyhow::Result<()>
{
    let house = House::open(DISPATCHER_ALONE).await?;
    fit(&house, 1).await?;
    all_out(&house, 1).await?;
    house.broker.answer_after(Duration::from_secs(2))?;
    fit(&house, 20).await?;
    house.wait_for_count(20, OUTBOX).await?;
    cut_the_dispatcher(&house).await?;
    house.broker.answer_after(Duration::ZERO)?;

    let said = all_out(&house, 21).await?;
    assert_eq!(said.len(), 21, "once each");
    Ok(())
}

#[tokio::test]
async fn a_broker_that_goes_away_in_a_pass_has_each_event_once_in_the_end() -> anyhow::Result<()> {
    let house = House::open(DISPATCHER_ALONE).await?;
    fit(&house, 1).await?;
    all_out(&house, 1).await?;
    house.broker.go_away()?;
    fit(&house, 20).await?;
    house.wait_for_count(20, OUTBOX).await?;
    house.broker.come_back()?;
    let said = all_out(&house, 21).await?;
    assert_eq!(said.len(), 21, "once each");
    Ok(())
}

#[tokio::test]
async fn one_of_two_dispatches_and_the_other_takes_over_what_it_leaves() -> anyhow::Result<()> {
    let mut house = House::open(DISPATCHER_ALONE).await?;
    fit(&house, 1).await?;
    all_out(&house, 1).await?;
    let (mut twin, log) = house.twin()?;
    wait::until(AT_MOST, "the twin to serve", async || {
        std::fs::read_to_string(&log).ok()?.contains("serving").then_some(())
    })
    .await?;

    // The first one has handed them over and waits for the broker when it dies.
    house.broker.answer_after(Duration::from_secs(2))?;
    fit(&house, 20).await?;
    house.kill()?;
    house.broker.answer_after(Duration::ZERO)?;
    let said = all_out(&house, 21).await?;
    let ids: HashSet<_> = said.iter().filter_map(|event| event.header("ce_id")).collect();
    assert_eq!(ids.len(), 21);
    twin.kill()?;
    twin.wait()?;
    std::fs::remove_file(log)?;
    Ok(())
}
