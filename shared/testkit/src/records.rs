//! Owns raw records: what a test puts on a topic, and what it finds there. Refuses to know what
//! they mean.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const DEADLINE: Duration = Duration::from_secs(20);
/// Far above what the services take: they have to live with such a one.
const RECORD_BYTES_MAX: &str = "8000000";
const POLL: Duration = Duration::from_millis(100);

/// One record, as it is on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Where it was found, or where to put it; chosen by the key when absent.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub body: Option<Vec<u8>>,
}

impl Record {
    /// The last header of a name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// Puts records on a topic, in order, and returns when the broker has them.
pub async fn produce(bootstrap: &str, topic: &str, records: &[Record]) -> anyhow::Result<()> {
    let producer: FutureProducer = config(bootstrap)
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("message.max.bytes", RECORD_BYTES_MAX)
        .create()?;
    send(&producer, topic, records).await
}

async fn send(producer: &FutureProducer, topic: &str, records: &[Record]) -> anyhow::Result<()> {
    let mut reports = Vec::with_capacity(records.len());
    for record in records {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_deref() })
        });
        let outgoing = FutureRecord {
            topic,
            partition: record.partition,
            payload: record.body.as_deref(),
            key: record.key.as_deref(),
            timestamp: None,
            headers: Some(headers),
        };
        reports.push(producer.send_result(outgoing).map_err(|(error, _)| error)?);
    }
    for report in reports {
        report.await?.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Commit,
    Abort,
}

/// Puts records on a topic in a transaction of their own.
pub async fn transact(
    bootstrap: &str,
    topic: &str,
    records: &[Record],
    ending: Ending,
) -> anyhow::Result<()> {
    let producer: FutureProducer = config(bootstrap).set("transactional.id", "testkit").create()?;
    let control = producer.clone();
    let begun = move || {
        control.init_transactions(DEADLINE)?;
        control.begin_transaction()
    };
    tokio::task::spawn_blocking(begun).await??;
    send(&producer, topic, records).await?;
    let end = move || match ending {
        Ending::Commit => producer.commit_transaction(DEADLINE),
        Ending::Abort => producer.abort_transaction(DEADLINE),
    };
    Ok(tokio::task::spawn_blocking(end).await??)
}

/// All that is on a topic now, partition by partition, without joining any group.
pub async fn read(bootstrap: &str, topic: &str) -> anyhow::Result<Vec<Record>> {
    let consumer: BaseConsumer = config(bootstrap)
        .set("group.id", "testkit")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "20")
        .create()?;
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read_to_the_end(&consumer, &topic)).await?
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("broker.address.family", "v4");
    config
}

fn read_to_the_end(consumer: &BaseConsumer, topic: &str) -> anyhow::Result<Vec<Record>> {
    let (mut unread, mut assignment) = (BTreeSet::new(), TopicPartitionList::new());
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let found = metadata.topics().first().context("a topic that was asked for")?;
    ensure!(found.error().is_none(), "{topic}: {:?}", found.error());
    for partition in found.partitions() {
        unread.insert(partition.id());
        assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (end, mut records) = (Instant::now() + DEADLINE, Vec::new());
    while !unread.is_empty() {
        ensure!(Instant::now() < end, "{topic} could not be read to its end: {unread:?}");
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => records.push(owned(&message)),
            // The last place may hold no record: where a transaction ended, for one.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error.into()),
        }
    }
    records.sort_by_key(|record: &Record| record.partition);
    Ok(records)
}

fn owned(message: &impl Message) -> Record {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    Record {
        partition: Some(message.partition()),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
            .collect(),
        body: message.payload().map(<[u8]>::to_vec),
    }
}
