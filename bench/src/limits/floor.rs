//! Owns what a saga alone cannot avoid: how long one commit, one hop and one call take when nobody
//! else is about. Refuses to add them up, and to be in a hurry: twenty a second, one by one.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bus::topics::{self, Shape};
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use crate::meter::Times;
use crate::record::{Broker, Floor};

const PACE: Duration = Duration::from_millis(50);
/// The first ones are made before anything is warm, and are not counted.
const WARM_UP: usize = 10;
const BODY: [u8; 200] = [b'x'; 200];
const HOP_MAX: Duration = Duration::from_secs(20);
const SHAPE: Shape = Shape { partitions: 1, replication: 1, retention: Duration::from_hours(1) };

/// What stands below the services of a running stack.
pub struct Ground<'a> {
    pub superuser: &'a PgConnectOptions,
    pub broker: Broker,
    pub bootstrap: &'a str,
    /// The payment provider. What is captured there is of orders that nobody has placed, so look
    /// through its ledger before.
    pub provider: &'a str,
}

/// The medians of so many of each.
pub async fn floor(ground: &Ground<'_>, times: usize) -> anyhow::Result<Floor> {
    let commits = commits(ground.superuser, times).await.context("a lone commit")?;
    let hops = hops(ground.broker, ground.bootstrap, times).await.context("a hop")?;
    let calls = calls(ground.provider, times).await.context("a provider's call")?;
    Ok(Floor {
        commit_ms: commits.percentile_ms(50),
        hop_ms: hops.percentile_ms(50),
        call_ms: calls.percentile_ms(50),
    })
}

/// Does it at an even pace, and takes the time of each but the first few.
async fn paced(
    times: usize,
    mut once: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Times> {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut taken = Vec::with_capacity(WARM_UP + times);
    for _ in 0..WARM_UP + times {
        pace.tick().await;
        let begun = Instant::now();
        once().await?;
        taken.push(begun.elapsed());
    }
    Times::try_new(&taken[WARM_UP..])
}

/// One row, prepared, and no other statement in its transaction.
async fn commits(superuser: &PgConnectOptions, times: usize) -> anyhow::Result<Times> {
    let options = superuser.clone().options([("search_path", "bench_floor")]);
    let mut connection = PgConnection::connect_with(&options).await?;
    let tables = "drop schema if exists bench_floor cascade;
                  create schema bench_floor;
                  create table lone (id uuid primary key, body bytea not null)";
    sqlx::raw_sql(tables).execute(&mut connection).await?;
    let taken = paced(times, async || {
        let insert = sqlx::query("insert into lone values ($1, $2)");
        insert.bind(Uuid::now_v7()).bind(BODY.as_slice()).execute(&mut connection).await?;
        Ok(())
    })
    .await?;
    sqlx::raw_sql("drop schema bench_floor cascade").execute(&mut connection).await?;
    Ok(taken)
}

/// One record from its producer to a consumer that waits for it, on a topic of its own, with the
/// settings of the services.
async fn hops(broker: Broker, bootstrap: &str, times: usize) -> anyhow::Result<Times> {
    let topic = format!("bench.hop.{}", Uuid::new_v4().simple());
    let fetch_wait_ms = match broker {
        Broker::Kafka => {
            topics::ensure(bootstrap, &[&topic], &SHAPE).await?;
            "500"
        }
        // The first record makes the topic; an empty fetch is slept out.
        Broker::Memory => "25",
    };
    let producer: FutureProducer = client(bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .create()?;
    let consumer: StreamConsumer = client(bootstrap)
        .set("group.id", &topic)
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", fetch_wait_ms)
        .set("fetch.queue.backoff.ms", "1")
        .create()?;
    let send = || {
        let record = FutureRecord::<(), _>::to(&topic).partition(0).payload(&BODY[..]);
        producer.send_result(record).map_err(|(error, _)| error)
    };
    send()?.await?.map_err(|(error, _)| error)?;
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(&topic, 0, Offset::Beginning)?;
    consumer.assign(&place)?;
    timeout(HOP_MAX, consumer.recv()).await.context("the first record")??;
    paced(times, async || {
        let report = send()?;
        let heard = timeout(HOP_MAX, consumer.recv()).await.context("no record")??;
        ensure!(heard.payload() == Some(&BODY[..]), "a record that nobody has sent");
        report.await?.map_err(|(error, _)| error)?;
        Ok(())
    })
    .await
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap).set("socket.nagle.disable", "true");
    client.set("broker.address.family", "v4");
    client
}

/// A capture under a fresh key, over a connection that is kept.
async fn calls(provider: &str, times: usize) -> anyhow::Result<Times> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{provider}/v1/captures");
    paced(times, async || {
        let capture = json!({
            "order_id": Uuid::now_v7(),
            "amount_minor": 1_250,
            "currency": "EUR",
            "payment_method": "pm_card_ok",
        });
        let key = Uuid::new_v4().to_string();
        let asked = client.post(&url).header("Idempotency-Key", key).json(&capture);
        let answer = asked.send().await?.error_for_status()?;
        answer.bytes().await?;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::post;

    use super::*;

    const TIMES: usize = 4;

    #[tokio::test]
    async fn a_lone_commit_has_a_time_and_leaves_no_table() -> anyhow::Result<()> {
        let database = testkit::database("lamp").await?;
        let options: PgConnectOptions = database.superuser_url.parse()?;
        let found = commits(&options, TIMES).await?;
        assert!((0.01..1_000.0).contains(&found.percentile_ms(50)), "{found:?}");
        let mut superuser = PgConnection::connect_with(&options).await?;
        let left = "select to_regnamespace('bench_floor') is null";
        assert!(sqlx::query_scalar::<_, bool>(left).fetch_one(&mut superuser).await?);
        Ok(())
    }

    #[tokio::test]
    async fn a_hop_takes_no_longer_than_the_fetch_that_waits_for_it() -> anyhow::Result<()> {
        let broker = testkit::Broker::start(None, &[])?;
        let found = hops(Broker::Memory, broker.bootstrap(), TIMES).await?;
        assert!((0.01..1_000.0).contains(&found.percentile_ms(50)), "{found:?}");
        Ok(())
    }

    #[tokio::test]
    async fn every_call_has_a_key_of_its_own_and_the_pace_is_kept() -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let provider = format!("http://{}", listener.local_addr()?);
        let keys = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&keys);
        let captures = post(async move |headers: HeaderMap| {
            let key = headers.get("idempotency-key").cloned().expect("each has one");
            seen.lock().expect("nobody panics").insert(key.as_bytes().to_vec());
        });
        let router = Router::new().route("/v1/captures", captures);
        let served = tokio::spawn(axum::serve(listener, router).into_future());
        let begun = Instant::now();
        calls(&provider, TIMES).await?;
        assert!(begun.elapsed() >= PACE * u32::try_from(WARM_UP + TIMES - 1)?);
        assert_eq!(keys.lock().expect("nobody panics").len(), WARM_UP + TIMES);
        served.abort();
        Ok(())
    }

    #[tokio::test]
    async fn a_provider_that_refuses_is_no_floor() -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let provider = format!("http://{}", listener.local_addr()?);
        let served = tokio::spawn(axum::serve(listener, Router::new()).into_future());
        assert!(calls(&provider, TIMES).await.is_err());
        served.abort();
        Ok(())
    }

    #[tokio::test]
    async fn the_first_ones_do_not_count() -> anyhow::Result<()> {
        let (slow, mut asked) = (Duration::from_millis(5), 0);
        let found = paced(TIMES, async || {
            let begun = Instant::now();
            asked += 1;
            while asked <= WARM_UP && begun.elapsed() < slow {
                std::hint::spin_loop();
            }
            Ok(())
        })
        .await?;
        assert_eq!(asked, WARM_UP + TIMES);
        assert!(found.percentile_ms(50) < 5.0, "{found:?}");
        Ok(())
    }
}
