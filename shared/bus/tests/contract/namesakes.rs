//! A static member loses its place to its own name: it takes it back, passes nothing over, and does
//! not contend for it with another in silence.

use std::collections::BTreeSet;

use bus::{Config, Consumer, Received};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use testkit::records;
use tokio::time::timeout;

use crate::brokers::{Broker, End, Habit};
use crate::flow::{LONGER, partitions, work};
use crate::member::GROUP;
use crate::{AT_MOST, PRODUCERS, TOPIC, close, everywhere, is_fatal, receive};

/// How many clients of this thread were replaced.
fn deaths(recorder: &PrometheusRecorder) -> usize {
    let all = recorder.handle().render();
    let count = all.lines().find_map(|line| {
        line.strip_prefix(&format!("switchback_consumer_deaths_total{{consumer=\"{GROUP}\"}} "))
    });
    count.map_or(0, |count| count.parse().expect("a counter is a whole number"))
}

/// A member of the same name that does not defend it.
fn namesake(config: &Config) -> anyhow::Result<StreamConsumer> {
    let namesake: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &config.brokers)
        .set("group.id", GROUP)
        .set("group.instance.id", &config.client_id)
        .set("session.timeout.ms", config.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (config.session_timeout_ms / 6).to_string())
        .set("partition.assignment.strategy", "range")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .create()?;
    namesake.subscribe(&[TOPIC])?;
    Ok(namesake)
}

/// The records of one round.
fn round<'a>(name: &str, all: &'a [Received]) -> Vec<&'a Received> {
    all.iter().filter(|record| record.body == name.as_bytes()).collect()
}

/// Listens until a round was heard in every partition. Returns all that was heard.
async fn until(name: &str, consumer: &Consumer) -> anyhow::Result<Vec<Received>> {
    let mut heard = Vec::new();
    while partitions(round(name, &heard)).len() < 4 {
        heard.extend(timeout(AT_MOST, consumer.receive(100)).await??);
    }
    Ok(heard)
}

#[tokio::test]
async fn a_place_that_another_of_the_name_took_is_taken_back_and_what_was_open_is_heard_again()
-> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let (broker, mut config) = Broker::start().await?;
    config.static_membership = true;
    let one_of_a_name = broker.nature().has(Habit::KnowsStaticMembers);
    let consumer = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("0")).await?;
    let lost = receive(&consumer, 4).await?;

    let (other, mut heard) = (namesake(&config)?, Vec::new());
    let contending = async {
        loop {
            tokio::select! {
                received = consumer.receive(100) => heard.extend(received?),
                heard = other.recv() => match heard {
                    Ok(_) if one_of_a_name => {}
                    // Where nobody knows about names they share the partitions.
                    Ok(_) => return Ok(()),
                    Err(KafkaError::MessageConsumptionFatal(_)) => return Ok(()),
                    Err(error) => anyhow::bail!(error),
                },
            }
        }
    };
    timeout(AT_MOST, contending).await??;
    assert_eq!(deaths(&recorder), usize::from(one_of_a_name));
    tokio::task::spawn_blocking(|| drop(other)).await?;

    // What was at work when the place was lost counts no more, and what is heard again does.
    records::produce(broker.bootstrap(), TOPIC, &everywhere("1")).await?;
    heard.extend(until("1", &consumer).await?);
    consumer.finished(lost.iter().map(|record| &record.place));
    consumer.finished(round("1", &heard).iter().map(|record| &record.place));
    let all_of_0 = heard.iter().filter(|record| record.place.partition == 0);
    consumer.finished(all_of_0.map(|record| &record.place));
    close(consumer).await?;
    let next = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await?;
    let heard = until("2", &next).await?;
    for name in ["0", "1"] {
        let open = partitions(round(name, &heard));
        assert!(open.is_superset(&BTreeSet::from([1, 2, 3])), "{name}: {open:?}");
        let kept = broker.nature().has(Habit::TakesLastOffsets);
        assert!(!kept || !open.contains(&0), "{name}: {open:?}");
    }
    assert_eq!(deaths(&recorder), usize::from(one_of_a_name));
    Ok(())
}

#[tokio::test]
async fn of_two_static_members_with_one_name_the_second_stays_and_the_first_ends()
-> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let (broker, mut config) = Broker::start().await?;
    config.static_membership = true;
    let one_of_a_name = broker.nature().has(Habit::KnowsStaticMembers);
    let first = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("0")).await?;
    receive(&first, 4).await?;
    let second = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    let (mut fenced, mut by_second) = (false, BTreeSet::new());
    let hearing = async {
        // Where nobody knows about names they share the partitions.
        while fenced != one_of_a_name || by_second.len() < if one_of_a_name { 4 } else { 2 } {
            tokio::select! {
                received = first.receive(100), if !fenced => match received {
                    Ok(_) => {}
                    Err(error) if is_fatal(&error) => fenced = true,
                    Err(error) => return Err(error),
                },
                received = second.receive(100) => by_second.extend(partitions(&received?)),
            }
        }
        Ok(())
    };
    timeout(AT_MOST, hearing).await??;
    assert_eq!(first.is_ready(), !one_of_a_name);
    // Each has taken the place back once.
    assert_eq!(deaths(&recorder), if one_of_a_name { 2 } else { 0 });
    // It ends as any other, and takes nothing from its successor.
    close(first).await?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("1")).await?;
    until("1", &second).await?;
    Ok(())
}

#[tokio::test]
async fn a_static_member_outlives_a_broker_that_is_away_for_longer_than_the_session()
-> anyhow::Result<()> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let (mut broker, mut config) = Broker::start().await?;
    config.static_membership = true;
    let consumer = Consumer::try_new(&config, GROUP, PRODUCERS)?;
    let mut open = Vec::new();
    for name in ["0", "1"] {
        records::produce(broker.bootstrap(), TOPIC, &everywhere(name)).await?;
        open.extend(until(name, &consumer).await?);
    }
    broker.go_away(End::Killed).await?;
    consumer.finished(round("0", &open).iter().map(|record| &record.place));
    let away = async {
        work(broker.nature().session_timeout + LONGER).await;
        broker.come_back().await?;
        records::produce(broker.bootstrap(), TOPIC, &everywhere("2")).await
    };
    consumer.keep_while(away).await??;
    let heard = until("2", &consumer).await?;
    // It is a new member, whatever it was called: what was open is heard again.
    let again = partitions(round("1", &heard));
    assert_eq!(again, partitions(&open));
    assert_eq!(deaths(&recorder), 0, "nobody has taken its place");
    Ok(())
}
