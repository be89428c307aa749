//! Members and brokers that come and go while events flow.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Consumer, Producer, Report};
use testkit::{records, wait};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use crate::brokers::{Broker, End, Habit};
use crate::flow::work;
use crate::load::{BATCH_MAX, Load, Log, OPEN_MAX, Reader};
use crate::{AT_MOST, PRODUCERS, TOPIC, lit, receive, versions};

/// As a share of the traffic this is little, and the least that shows a reader at work.
const SOME: usize = 50;

/// Three times what a client waits before it tells the broker what is finished.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// Sends until a reader has heard some more.
async fn until_heard(load: &mut Load, log: &Log, reader: usize) -> anyhow::Result<()> {
    let before = log.count_by(reader);
    wait::until(AT_MOST, &format!("reader {reader} to hear something"), async || {
        load.go_on();
        (log.count_by(reader) >= before + SOME).then_some(())
    })
    .await
}

#[tokio::test]
async fn members_join_and_leave_under_load_and_what_is_heard_again_was_open() -> anyhow::Result<()>
{
    let (broker, config) = Broker::start().await?;
    let (mut load, log) = (Load::try_new(&config)?, Log::default());
    let first = Reader::start(&config, 1, &log)?;
    until_heard(&mut load, &log, 1).await?;
    let second = Reader::start(&config, 2, &log)?;
    until_heard(&mut load, &log, 2).await?;
    second.leave().await?;
    until_heard(&mut load, &log, 1).await?;
    let third = Reader::start(&config, 3, &log)?;
    until_heard(&mut load, &log, 3).await?;
    let all = load.settle().await?;
    wait::until(AT_MOST, "every event to be heard", async || log.has_all(&all).then_some(()))
        .await?;
    first.leave().await?;
    third.leave().await?;

    let again = log.judge(&load.failed)?;
    // Three times partitions moved, and two readers had something open.
    let open_max = 2 * (OPEN_MAX + BATCH_MAX);
    let each_time = if broker.nature().has(Habit::TakesLastOffsets) { open_max } else { all.len() };
    assert!(again <= 3 * each_time, "{again} of {} were heard again", all.len());
    // Everything is finished: whoever comes next hears the next event, and no other.
    let producer = Producer::try_new(&config, "lamp")?;
    crate::send(&producer, Uuid::now_v7(), 1_000_000, 1).await?;
    let next = Consumer::try_new(&config, crate::member::GROUP, PRODUCERS)?;
    let mut heard = versions(&receive(&next, 1).await?);
    if broker.nature().has(Habit::TakesLastOffsets) {
        assert_eq!(heard, [1_000_000]);
    }
    while !heard.contains(&1_000_000) {
        heard = versions(&receive(&next, 1).await?);
    }
    Ok(())
}

#[tokio::test]
async fn an_orderly_restart_of_the_broker_under_load_loses_and_inverts_nothing()
-> anyhow::Result<()> {
    outlive(End::Orderly).await
}

#[tokio::test]
async fn a_broker_that_is_killed_under_load_and_is_back_has_lost_and_inverted_nothing()
-> anyhow::Result<()> {
    outlive(End::Killed).await
}

async fn outlive(end: End) -> anyhow::Result<()> {
    let (mut broker, config) = Broker::start().await?;
    let (mut load, log) = (Load::try_new(&config)?, Log::default());
    let reader = Reader::start(&config, 1, &log)?;
    until_heard(&mut load, &log, 1).await?;
    let told = log.count_by(1);
    load.go_on_while(work(TOLD_WITHIN)).await;
    load.go_on_while(broker.go_away(end)).await?;
    for _ in 0..SOME {
        load.go_on();
    }
    broker.come_back().await?;
    let before = log.count_by(1);
    until_heard(&mut load, &log, 1).await?;
    let all = load.settle().await?;
    wait::until(AT_MOST, "every event to be heard", async || log.has_all(&all).then_some(()))
        .await?;
    reader.leave().await?;
    let again = log.judge(&load.failed)?;
    // What was finished in its last moments it was never told.
    let again_max = before - told + OPEN_MAX + BATCH_MAX + load.failed.len();
    assert!(again <= again_max, "{again} were heard again: of {before}, {told} were long finished");

    // The broker has each of them once, and those of a subject in their order: but for those that it
    // could not answer for in time. One that does not count what it is sent takes anew what was on
    // its way when it went.
    let (mut kept, late) = (BTreeSet::new(), &load.failed);
    let counts = broker.nature().has(Habit::HoldsTheSequence);
    for record in records::read(broker.bootstrap(), TOPIC).await? {
        let subject: Uuid = record.header("ce_subject").unwrap_or_default().parse()?;
        let version: u32 = record.header("ce_version").unwrap_or_default().parse()?;
        let (event, before) = ((subject, version), (subject, version - 1));
        assert!(version == 1 || kept.contains(&before) || late.contains(&before), "{event:?}");
        let is_first = kept.insert(event);
        assert!(is_first || late.contains(&event) || !counts, "{event:?} is there twice");
    }
    assert_eq!(kept, all);
    Ok(())
}

#[tokio::test]
async fn a_topic_that_is_made_late_gets_what_waited_for_it_and_is_read() -> anyhow::Result<()> {
    let (broker, config) = Broker::bare()?;
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let producer = Producer::try_new(&config, "lamp")?;
    let (reports_to, mut reports) = mpsc::unbounded_channel();
    let event = lit(Uuid::now_v7(), 1);
    let scene = async {
        producer.send(&event, b"{}", &reports_to);
        if !broker.nature().has(Habit::MakesTopicsUnasked) {
            // The broker has been asked, and has said that it has none.
            let none = records::read(broker.bootstrap(), TOPIC).await;
            anyhow::ensure!(none.is_err(), "{none:?}");
            anyhow::ensure!(reports.try_recv().is_err(), "there is nowhere to put it");
            broker.make(TOPIC).await?;
        }
        let report = timeout(AT_MOST, reports.recv()).await?;
        anyhow::ensure!(report == Some(Report::Acked(event.id)), "{report:?}");
        Ok(())
    };
    // What is not there is no reason to end.
    let (done, received) = tokio::join!(scene, receive(&consumer, 1));
    done?;
    assert_eq!(received?[0].envelope()?, event);
    Ok(())
}
