//! The way out when the broker or the client itself is not well.

use std::time::{Duration, Instant};

use bus::{Handed, Producer, Report};
use saga::Envelope;
use testkit::{Refusal, wait};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{AT_MOST, TOPIC, broker, lit};

/// Above the client's own limit for a record.
const HUGE_BYTES: usize = 2_000_000;
const SMALL_QUEUE: u32 = 10;
/// A client that dies younger than this is not replaced before.
const LIFE_MIN: Duration = Duration::from_secs(1);

async fn report(reports: &mut UnboundedReceiver<Report>) -> anyhow::Result<Report> {
    Ok(timeout(AT_MOST, reports.recv()).await?.expect("the test holds the other end"))
}

/// Offers an event until it is taken.
async fn offer(
    producer: &Producer,
    envelope: &Envelope,
    reports: &UnboundedSender<Report>,
) -> anyhow::Result<()> {
    wait::until(AT_MOST, "the record to be taken", async || {
        (producer.send(envelope, b"{}", reports) == Handed::Taken).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_full_queue_takes_nothing_more_and_what_it_took_arrives_in_order() -> anyhow::Result<()> {
    let (broker, mut config) = broker()?;
    config.producer_queue_max = SMALL_QUEUE;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    broker.go_away()?;
    let subject = Uuid::now_v7();
    let events: Vec<Envelope> =
        (1..=2 * SMALL_QUEUE).map(|version| lit(subject, version)).collect();
    let handed: Vec<Handed> =
        events.iter().map(|event| producer.send(event, b"{}", &reports_to)).collect();
    let (taken, rest) = handed.split_at(SMALL_QUEUE.try_into()?);
    assert!(taken.iter().all(|handed| *handed == Handed::Taken), "{handed:?}");
    assert!(rest.iter().all(|handed| *handed == Handed::NotNow), "{handed:?}");

    broker.come_back()?;
    for event in &events[..taken.len()] {
        assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    }
    for event in &events[taken.len()..] {
        offer(&producer, event, &reports_to).await?;
        assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    }
    let said = testkit::records::read(broker.bootstrap(), TOPIC).await?;
    let versions: Vec<_> = said.iter().filter_map(|event| event.header("ce_version")).collect();
    let expected: Vec<String> = (1..=2 * SMALL_QUEUE).map(|version| version.to_string()).collect();
    assert_eq!(versions, expected);
    Ok(())
}

/// Lets the client die, which is noticed by whoever sends next.
async fn die(broker: &testkit::Broker, producer: &Producer) -> anyhow::Result<()> {
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    broker.refuse(1, Refusal::OutOfSequence);
    let event = lit(Uuid::now_v7(), 1);
    offer(producer, &event, &reports_to).await?;
    assert_eq!(report(&mut reports).await?, Report::Failed(event.id));
    Ok(())
}

#[tokio::test]
async fn a_dead_client_is_replaced_and_deaths_that_recur_are_no_readiness() -> anyhow::Result<()> {
    let (broker, config) = broker()?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let alive = async |reports: &mut UnboundedReceiver<Report>| {
        let event = lit(Uuid::now_v7(), 1);
        offer(&producer, &event, &reports_to).await?;
        assert_eq!(report(reports).await?, Report::Acked(event.id));
        anyhow::Ok(())
    };
    alive(&mut reports).await?;
    die(&broker, &producer).await?;
    alive(&mut reports).await?;
    assert!(producer.is_ready(), "one death is an accident");
    die(&broker, &producer).await?;
    alive(&mut reports).await?;
    assert!(!producer.is_ready());
    Ok(())
}

#[tokio::test]
async fn a_client_that_dies_young_is_not_replaced_at_every_record() -> anyhow::Result<()> {
    let (broker, config) = broker()?;
    let producer = Producer::try_new(&config, "lamp")?;
    let made_at = Instant::now();
    die(&broker, &producer).await?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    offer(&producer, &event, &reports_to).await?;
    assert!(made_at.elapsed() >= LIFE_MIN, "{:?}", made_at.elapsed());
    assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    Ok(())
}

#[tokio::test]
async fn every_record_that_a_dying_client_has_is_reported() -> anyhow::Result<()> {
    let (broker, config) = broker()?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    broker.refuse(1, Refusal::OutOfSequence);
    let events: Vec<Envelope> = (0..200).map(|_| lit(Uuid::now_v7(), 1)).collect();
    let taken =
        events.iter().filter(|event| producer.send(event, b"{}", &reports_to) == Handed::Taken);
    let mut open: std::collections::HashSet<Uuid> = taken.map(|event| event.id).collect();
    let mut failed = 0;
    while !open.is_empty() {
        let report = report(&mut reports).await?;
        assert!(open.remove(&report.id()), "one report for each record");
        failed += u32::from(matches!(report, Report::Failed(_)));
    }
    assert!(failed > 0, "the client did not die");
    Ok(())
}

#[tokio::test]
async fn a_topic_that_may_not_be_seen_takes_nothing_until_it_may() -> anyhow::Result<()> {
    let (broker, config) = broker()?;
    broker.hide(TOPIC)?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    // The first one is taken before the client has asked.
    offer(&producer, &event, &reports_to).await?;
    assert_eq!(report(&mut reports).await?, Report::Failed(event.id));
    assert_eq!(producer.send(&event, b"{}", &reports_to), Handed::NotNow);

    broker.show(TOPIC)?;
    offer(&producer, &event, &reports_to).await?;
    assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    Ok(())
}

#[tokio::test]
async fn what_is_refused_for_ever_is_told_apart_from_what_may_be_taken_tomorrow()
-> anyhow::Result<()> {
    let (broker, config) = broker()?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    let handed = producer.send(&event, &vec![b'x'; HUGE_BYTES], &reports_to);
    assert_eq!(handed, Handed::Taken);
    assert_eq!(report(&mut reports).await?, Report::Refused(event.id, "TOO_LARGE"));
    for (refusal, expected) in [
        (Refusal::TooLarge, Report::Refused(event.id, "TOO_LARGE")),
        (Refusal::InvalidRecord, Report::Refused(event.id, "INVALID_RECORD")),
        (Refusal::NotAllowed, Report::Failed(event.id)),
    ] {
        broker.refuse(1, refusal);
        offer(&producer, &event, &reports_to).await?;
        assert_eq!(report(&mut reports).await?, expected, "{refusal:?}");
    }
    offer(&producer, &event, &reports_to).await?;
    assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    assert!(producer.is_ready());
    Ok(())
}
