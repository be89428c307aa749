//! What the bus promises, over each broker that it is used with: `BROKER=memory`, which is meant
//! when nothing is said, or `BROKER=kafka`.

mod brokers;
mod flow;
mod foreign;
mod load;
mod member;
mod members;
mod namesakes;
mod outages;
mod producer;
mod topics;

use std::collections::HashSet;
use std::time::Duration;

use brokers::Broker;
use bus::{Consumer, Handed, Producer, Received, Report};
use chrono::DateTime;
use saga::{Envelope, EventType, RECORD_BYTES_MAX, Refused, Trace};
use testkit::broker::PARTITIONS;
use testkit::records::{self, Record};
use testkit::wait;
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

const AT_MOST: Duration = Duration::from_secs(20);
const TOPIC: &str = "lamp.events.v1";
const PRODUCERS: &[&str] = &["lamp"];

fn lit(subject: Uuid, version: u32) -> Envelope {
    Envelope {
        id: Uuid::now_v7(),
        kind: EventType::new("lamp", "LampLit", 1),
        time: DateTime::from_timestamp_micros(1_790_000_000_123_456).expect("in range"),
        subject,
        version: Some(version),
        cause: Some(Uuid::now_v7()),
        trace: Trace {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            tracestate: "a=1,b=ü".to_owned(),
        },
    }
}

fn body(version: u32) -> Vec<u8> {
    [&b"\x00\xff{\"version\":"[..], version.to_string().as_bytes()].concat()
}

/// Sends events about one subject, numbered from `first` on, and waits for their reports.
async fn send(
    producer: &Producer,
    subject: Uuid,
    first: u32,
    count: u32,
) -> anyhow::Result<Vec<Envelope>> {
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let mut sent = Vec::new();
    for version in first..first + count {
        let envelope = lit(subject, version);
        assert_eq!(producer.send(&envelope, &body(version), &reports_to), Handed::Taken);
        sent.push(envelope);
    }
    drop(reports_to);
    let mut acked = HashSet::new();
    while let Some(report) = timeout(AT_MOST, reports.recv()).await? {
        assert!(matches!(report, Report::Acked(_)), "{report:?}");
        assert!(acked.insert(report.id()), "one report for each record");
    }
    assert_eq!(acked, sent.iter().map(|envelope| envelope.id).collect());
    Ok(sent)
}

async fn receive(consumer: &Consumer, count: usize) -> anyhow::Result<Vec<Received>> {
    let mut received = Vec::new();
    while received.len() < count {
        received.extend(timeout(AT_MOST, consumer.receive(100)).await??);
    }
    Ok(received)
}

fn versions(received: &[Received]) -> Vec<u32> {
    let version = |record: &Received| record.envelope().expect("ours").version;
    received.iter().filter_map(version).collect()
}

/// A record in each partition, of a numbered round.
fn everywhere(round: &str) -> Vec<Record> {
    let record = |partition| Record {
        partition: Some(partition),
        body: Some(round.as_bytes().to_vec()),
        ..Record::default()
    };
    (0..PARTITIONS).map(record).collect()
}

/// Whether this is the end of a client.
fn is_fatal(error: &bus::Error) -> bool {
    matches!(error, bus::Error::Fatal(..))
}

/// As a process does that ends in an orderly way.
async fn close(consumer: Consumer) -> anyhow::Result<()> {
    Ok(timeout(AT_MOST, tokio::task::spawn_blocking(|| drop(consumer))).await??)
}

#[tokio::test]
async fn an_event_comes_back_byte_for_byte_and_in_the_order_of_its_subject() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    assert_eq!(producer.topic(), TOPIC);
    let subject = Uuid::now_v7();
    let sent = send(&producer, subject, 1, 200).await?;

    let raw = records::read(broker.bootstrap(), TOPIC).await?;
    assert_eq!(raw.len(), sent.len());
    for (record, envelope) in raw.iter().zip(&sent) {
        let headers: Vec<_> = (envelope.headers().into_iter())
            .map(|(name, value)| (name.to_owned(), Some(value.into_bytes())))
            .collect();
        assert_eq!(record.headers, headers);
        assert_eq!(record.key, Some(subject.to_string().into_bytes()));
    }

    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&consumer, sent.len()).await?;
    let envelopes: Vec<_> = received.iter().map(Received::envelope).collect::<Result<_, _>>()?;
    assert_eq!(envelopes, sent);
    for (record, version) in received.iter().zip(1..) {
        assert_eq!((record.producer, &record.body), ("lamp", &body(version)));
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_goes_on_at_the_first_record_that_is_not_finished() -> anyhow::Result<()> {
    let (_broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let subject = Uuid::now_v7();
    send(&producer, subject, 0, 10).await?;

    let first = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&first, 10).await?;
    // The fifth is slow; those behind it are not.
    let finished = received.iter().enumerate().filter(|(index, _)| *index != 5);
    first.finished(finished.map(|(_, record)| &record.place));
    close(first).await?;

    let second = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&second, 5).await?;
    assert_eq!(versions(&received), [5, 6, 7, 8, 9]);
    second.finished(received.iter().map(|record| &record.place));
    close(second).await?;

    send(&producer, subject, 10, 1).await?;
    let third = Consumer::try_new(&config, "test", PRODUCERS)?;
    assert_eq!(versions(&receive(&third, 1).await?), [10]);
    Ok(())
}

#[tokio::test]
async fn what_nobody_finished_comes_again_and_another_group_hears_everything() -> anyhow::Result<()>
{
    let (_broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    send(&producer, Uuid::now_v7(), 0, 3).await?;
    for _ in 0..2 {
        let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
        assert_eq!(versions(&receive(&consumer, 3).await?), [0, 1, 2]);
        close(consumer).await?;
    }
    let done = Consumer::try_new(&config, "test", PRODUCERS)?;
    done.finished(receive(&done, 3).await?.iter().map(|record| &record.place));
    close(done).await?;
    let other = Consumer::try_new(&config, "other", PRODUCERS)?;
    assert_eq!(versions(&receive(&other, 3).await?), [0, 1, 2]);
    Ok(())
}

#[tokio::test]
async fn a_wait_that_is_given_up_loses_no_record() -> anyhow::Result<()> {
    let (_broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let sending = send(&producer, Uuid::now_v7(), 0, 500);
    let reading = async {
        let mut found = Vec::new();
        wait::until(AT_MOST, "every record", async || {
            let one_moment = Duration::from_millis(1);
            if let Ok(received) = timeout(one_moment, consumer.receive(7)).await {
                let received = received.ok()?;
                assert!((1..=7).contains(&received.len()));
                found.extend(versions(&received));
            }
            (found.len() >= 500).then_some(())
        })
        .await?;
        anyhow::Ok(found)
    };
    let (sent, found) = tokio::join!(sending, reading);
    sent?;
    assert_eq!(found?, (0..500).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn a_record_larger_than_ours_ever_are_is_read_and_not_trusted() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let good = send(&producer, Uuid::now_v7(), 1, 1).await?.remove(0);
    let large = lit(Uuid::now_v7(), 1);
    let headers = large.headers().into_iter();
    let record = Record {
        partition: None,
        key: Some(large.subject.to_string().into_bytes()),
        headers: headers.map(|(name, value)| (name.to_owned(), Some(value.into_bytes()))).collect(),
        body: Some(vec![b'x'; RECORD_BYTES_MAX]),
    };
    records::produce(broker.bootstrap(), TOPIC, &[record]).await?;
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&consumer, 2).await?;
    let envelopes: Vec<_> = received.iter().map(Received::envelope).collect();
    assert!(envelopes.contains(&Ok(good)) && envelopes.contains(&Err(Refused::TooLarge)));
    Ok(())
}

#[tokio::test]
async fn a_consumer_is_ready_once_it_has_its_partitions_and_a_broker() -> anyhow::Result<()> {
    let (_broker, config) = Broker::start().await?;
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    assert!(!consumer.is_ready());
    let waiting = wait::until(AT_MOST, "the consumer to be ready", async || {
        consumer.is_ready().then_some(())
    });
    // Somebody has to ask for records all the time: that is what the client runs on.
    tokio::select! {
        ready = waiting => ready,
        received = consumer.receive(1) => anyhow::bail!("nothing was sent: {received:?}"),
    }
}
