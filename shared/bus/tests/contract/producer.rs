//! The way out when the broker or the client itself is not well.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bus::{Handed, Producer, Report};
use saga::Envelope;
use testkit::{Refusal, wait};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;
use uuid::Uuid;

use crate::brokers::{Broker, End, Habit};
use crate::{AT_MOST, PRODUCERS, TOPIC, lit, receive, versions};

/// Above the client's own limit for a record.
const HUGE_BYTES: usize = 2_000_000;
const SMALL_QUEUE: u32 = 10;
/// A client that dies younger than this is not replaced before.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// The client itself gives a record up after 30 s, and looks for such once a second.
const REPORTED_AFTER_AT_MOST: Duration = Duration::from_secs(40);

async fn report(reports: &mut UnboundedReceiver<Report>) -> anyhow::Result<Report> {
    let reported = timeout(REPORTED_AFTER_AT_MOST, reports.recv()).await?;
    Ok(reported.expect("the test holds the other end"))
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
    let (mut broker, mut config) = Broker::start().await?;
    config.producer_queue_max = SMALL_QUEUE;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    broker.go_away(End::Killed).await?;
    let subject = Uuid::now_v7();
    let events: Vec<Envelope> =
        (1..=2 * SMALL_QUEUE).map(|version| lit(subject, version)).collect();
    let handed: Vec<Handed> =
        events.iter().map(|event| producer.send(event, b"{}", &reports_to)).collect();
    let (taken, rest) = handed.split_at(SMALL_QUEUE.try_into()?);
    assert!(taken.iter().all(|handed| *handed == Handed::Taken), "{handed:?}");
    assert!(rest.iter().all(|handed| *handed == Handed::NotNow), "{handed:?}");

    broker.come_back().await?;
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

/// As many, sent one by one, and each in a request of its own.
async fn arrive(producer: &Producer, events: &[Envelope]) -> anyhow::Result<()> {
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    for event in events {
        offer(producer, event, &reports_to).await?;
        assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    }
    Ok(())
}

/// Lets the client die, which is noticed by whoever sends next.
async fn die(broker: &mut Broker, producer: &Producer) -> anyhow::Result<()> {
    let subject = Uuid::now_v7();
    arrive(producer, &[lit(subject, 1), lit(subject, 2)]).await?;
    broker.lose_count().await?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(subject, 3);
    offer(producer, &event, &reports_to).await?;
    assert_eq!(report(&mut reports).await?, Report::Failed(event.id));
    Ok(())
}

#[tokio::test]
async fn a_dead_client_is_replaced_and_deaths_that_recur_are_no_readiness() -> anyhow::Result<()> {
    let (mut broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    arrive(&producer, &[lit(Uuid::now_v7(), 1)]).await?;
    die(&mut broker, &producer).await?;
    arrive(&producer, &[lit(Uuid::now_v7(), 1)]).await?;
    assert!(producer.is_ready(), "one death is an accident");
    die(&mut broker, &producer).await?;
    arrive(&producer, &[lit(Uuid::now_v7(), 1)]).await?;
    assert!(!producer.is_ready());
    Ok(())
}

#[tokio::test]
async fn a_client_that_dies_young_is_not_replaced_at_every_record() -> anyhow::Result<()> {
    let (mut broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let made_at = Instant::now();
    die(&mut broker, &producer).await?;
    arrive(&producer, &[lit(Uuid::now_v7(), 1)]).await?;
    assert!(made_at.elapsed() >= LIFE_MIN, "{:?}", made_at.elapsed());
    Ok(())
}

#[tokio::test]
async fn every_record_that_a_dying_client_has_is_reported() -> anyhow::Result<()> {
    let (mut broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let events = |version| (0..200_u128).map(move |n| lit(Uuid::from_u128(n), version));
    for version in 1..=2 {
        arrive(&producer, &events(version).take(16).collect::<Vec<_>>()).await?;
    }
    broker.lose_count().await?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let taken = events(3).filter(|event| producer.send(event, b"{}", &reports_to) == Handed::Taken);
    let mut open: std::collections::HashSet<Uuid> = taken.map(|event| event.id).collect();
    let mut failed = 0;
    while !open.is_empty() {
        let report = report(&mut reports).await;
        let report = report.with_context(|| format!("{} are without a report", open.len()))?;
        assert!(open.remove(&report.id()), "one report for each record");
        failed += u32::from(matches!(report, Report::Failed(_)));
    }
    assert!(failed > 0, "the client did not die");
    Ok(())
}

#[tokio::test]
async fn a_topic_that_may_not_be_seen_takes_nothing_until_it_may() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    broker.hide()?;
    // The first one is taken before the client has asked.
    offer(&producer, &event, &reports_to).await?;
    if broker.nature().has(Habit::KeepsSecrets) {
        assert_eq!(report(&mut reports).await?, Report::Failed(event.id));
        assert_eq!(producer.send(&event, b"{}", &reports_to), Handed::NotNow);
        broker.show()?;
        offer(&producer, &event, &reports_to).await?;
    }
    assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    Ok(())
}

/// Sends an event until the report is the expected one.
async fn expect(producer: &Producer, expected: impl Fn(Uuid) -> Report) -> anyhow::Result<()> {
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let mut last = None;
    let waited = wait::until(AT_MOST, "the expected report", async || {
        let event = lit(Uuid::now_v7(), 1);
        offer(producer, &event, &reports_to).await.ok()?;
        let report = report(&mut reports).await.ok()?;
        let found = report == expected(event.id);
        last = Some(report);
        found.then_some(())
    });
    let waited = waited.await;
    waited.map_err(|error| error.context(format!("the last one was {last:?}")))
}

#[tokio::test]
async fn what_is_refused_for_ever_is_told_apart_from_what_may_be_taken_tomorrow()
-> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    let handed = producer.send(&event, &vec![b'x'; HUGE_BYTES], &reports_to);
    assert_eq!(handed, Handed::Taken);
    assert_eq!(report(&mut reports).await?, Report::Refused(event.id, "TOO_LARGE"));
    for refusal in [Refusal::TooLarge, Refusal::InvalidRecord, Refusal::NotAllowed] {
        broker.refuse(1, refusal).await?;
        let can = broker.nature().refusals.contains(&refusal);
        let expected = |id| match refusal {
            _ if !can => Report::Acked(id),
            Refusal::TooLarge => Report::Refused(id, "TOO_LARGE"),
            Refusal::InvalidRecord => Report::Refused(id, "INVALID_RECORD"),
            _ => Report::Failed(id),
        };
        expect(&producer, expected).await?;
        broker.allow().await?;
        expect(&producer, Report::Acked).await?;
    }
    assert!(producer.is_ready());
    Ok(())
}

#[tokio::test]
async fn a_record_that_cannot_be_kept_safe_waits_for_that_and_arrives_once() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let producer = Producer::try_new(&config, "lamp")?;
    let subject = Uuid::now_v7();
    arrive(&producer, &[lit(subject, 1)]).await?;
    broker.refuse(3, Refusal::NotEnoughReplicas).await?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    // Of several requests under way a broker that counts requests alone takes the fourth before the
    // three that it refuses.
    let last = if broker.nature().has(Habit::HoldsTheSequence) { 6 } else { 2 };
    let events: Vec<Envelope> = (2..=last).map(|version| lit(subject, version)).collect();
    for event in &events {
        offer(&producer, event, &reports_to).await?;
    }
    broker.allow().await?;
    for event in &events {
        assert_eq!(report(&mut reports).await?, Report::Acked(event.id));
    }
    let consumer = bus::Consumer::try_new(&config, "test", PRODUCERS)?;
    let all: Vec<u32> = (1..=last).collect();
    assert_eq!(versions(&receive(&consumer, all.len()).await?), all);
    Ok(())
}
