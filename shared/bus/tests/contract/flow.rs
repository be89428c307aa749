//! Reading when nobody takes what was read: the membership is kept, and nothing is skipped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context;
use bus::{Consumer, Producer, Received};
use testkit::records;
use testkit::wait;
use tokio::time::timeout;
use uuid::Uuid;

use crate::brokers::Broker;
use crate::{AT_MOST, PRODUCERS, TOPIC, close, everywhere, receive, send, versions};

/// A client that is believed to live polls once in its interval; this is so much longer.
pub const LONGER: Duration = Duration::from_secs(3);

/// Something that takes so long.
pub async fn work(time: Duration) {
    let begun = Instant::now();
    let waited = wait::until(time * 2, "the work to be done", async || {
        (begun.elapsed() > time).then_some(())
    });
    waited.await.expect("time passes");
}

#[tokio::test]
async fn work_longer_than_the_poll_interval_costs_neither_the_membership_nor_a_record()
-> anyhow::Result<()> {
    let (broker, mut config) = Broker::start().await?;
    config.max_poll_interval_ms = config.session_timeout_ms;
    let producer = Producer::try_new(&config, "lamp")?;
    let subject = Uuid::now_v7();
    send(&producer, subject, 0, 10).await?;
    let keeping = Consumer::try_new(&config, "keeping", PRODUCERS)?;
    let hanging = Consumer::try_new(&config, "hanging", PRODUCERS)?;
    let early = receive(&keeping, 10).await?;
    let lost = receive(&hanging, 10).await?;

    // Nobody polls the one, and the other is polled by what waits.
    let working = async {
        let sent = send(&producer, subject, 10, 5).await;
        work(broker.nature().session_timeout + LONGER).await;
        sent
    };
    keeping.keep_while(working).await??;
    let late = receive(&keeping, 5).await?;
    assert_eq!(versions(&late), [10, 11, 12, 13, 14]);
    keeping.finished(early.iter().chain(&late).map(|record| &record.place));
    close(keeping).await?;
    // Its offsets counted: it was a member all the time.
    send(&producer, subject, 15, 1).await?;
    let next = Consumer::try_new(&config, "keeping", PRODUCERS)?;
    assert_eq!(versions(&receive(&next, 1).await?), [15]);

    let again = wait::until(AT_MOST, "the other to be thrown out", async || {
        let received = timeout(AT_MOST, hanging.receive(100)).await.ok()?.ok()?;
        hanging.finished(lost.iter().map(|record| &record.place));
        versions(&received).contains(&0).then_some(())
    });
    again.await
}

#[tokio::test]
async fn partitions_may_go_and_come_while_all_are_paused_and_nothing_is_lost_or_stays_paused()
-> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let first = Consumer::try_new(&config, "test", PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("0")).await?;
    let before = receive(&first, 4).await?;
    assert_eq!(partitions(&before), BTreeSet::from([0, 1, 2, 3]));
    let second = Consumer::try_new(&config, "test", PRODUCERS)?;
    let work = async {
        // A second member takes half of the partitions, with what nobody has finished in them.
        let mut heard = receive(&second, 2).await?;
        records::produce(broker.bootstrap(), TOPIC, &everywhere("1")).await?;
        heard.extend(receive(&second, 2).await?);
        anyhow::Ok(heard)
    };
    let heard = first.keep_while(work).await??;
    let theirs = partitions(&heard);
    assert_eq!(theirs.len(), 2, "{heard:?}");

    // What was at work when they were lost stores nothing, and what is left comes here.
    first.finished(before.iter().map(|record| &record.place));
    let rest = receive(&first, 4).await?;
    assert!(partitions(&rest).is_disjoint(&theirs));
    let mut bodies: Vec<_> = heard.iter().chain(&rest).map(|record| &*record.body).collect();
    bodies.sort_unstable();
    assert_eq!(bodies, [b"0", b"0", b"0", b"0", b"1", b"1", b"1", b"1"]);

    // What was paused here when it was lost is read here when it comes back.
    close(second).await?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let received = timeout(AT_MOST, first.receive(100)).await;
        let mut received = received.with_context(|| format!("only {seen:?} of four"))??;
        received.retain(|record| record.body == b"2");
        seen.extend(partitions(&received));
    }
    Ok(())
}

#[tokio::test]
async fn a_partition_that_is_held_waits_alone_and_goes_on_where_it_was() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("0")).await?;
    receive(&consumer, 4).await?;
    consumer.hold(BTreeSet::from([(TOPIC.to_owned(), 2)]));
    records::produce(broker.bootstrap(), TOPIC, &everywhere("1")).await?;
    let others = |round: &str| [0, 1, 3].map(|partition| (partition, round.to_owned()));
    // The others go on as if nothing had been said.
    assert_eq!(heard(&receive(&consumer, 3).await?), others("1"));
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    assert_eq!(heard(&receive(&consumer, 3).await?), others("2"));

    consumer.hold(BTreeSet::new());
    let held = heard(&receive(&consumer, 2).await?);
    assert_eq!(held, ["1", "2"].map(|round| (2, round.to_owned())));
    Ok(())
}

/// Where each record was and what was in it, by partition.
fn heard(received: &[Received]) -> Vec<(i32, String)> {
    let text = |record: &Received| String::from_utf8_lossy(&record.body).into_owned();
    let mut all: Vec<_> =
        received.iter().map(|record| (record.place.partition, text(record))).collect();
    all.sort_by_key(|(partition, _)| *partition);
    all
}

pub fn partitions<'a>(received: impl IntoIterator<Item = &'a Received>) -> BTreeSet<i32> {
    received.into_iter().map(|record| record.place.partition).collect()
}
