//! Records that no producer of ours has sent.

use std::collections::BTreeSet;

use bus::Consumer;
use testkit::records::{self, Ending, Record};
use tokio::time::timeout;

use crate::brokers::{Broker, Habit};
use crate::{AT_MOST, PRODUCERS, TOPIC, close, everywhere, receive};

fn record(body: &[u8]) -> Record {
    Record { partition: Some(0), body: Some(body.to_vec()), ..Record::default() }
}

#[tokio::test]
async fn odd_records_come_as_they_are() -> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let odd = [
        record(b""),
        Record { partition: Some(0), ..Record::default() },
        Record { key: Some(Vec::new()), ..record(b"\x00\xff\xfe") },
        Record {
            headers: vec![
                header("twice", Some(b"1")),
                header("twice", Some(b"2")),
                header("", Some(b"no name")),
                header("empty", Some(b"")),
                header("nothing", None),
                header("bytes", Some(b"\x00\xff")),
                header("t\u{fc}r", Some("\u{fc}".as_bytes())),
            ],
            ..record(b"x")
        },
    ];
    records::produce(broker.bootstrap(), TOPIC, &odd).await?;
    assert_eq!(records::read(broker.bootstrap(), TOPIC).await?, odd);

    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&consumer, odd.len()).await?;
    for (received, sent) in received.iter().zip(odd) {
        // What is not there counts as empty.
        let headers = sent.headers.into_iter();
        let headers: Vec<_> =
            headers.map(|(name, value)| (name, value.unwrap_or_default())).collect();
        assert_eq!(received.headers, headers);
        assert_eq!(received.key, sent.key);
        assert_eq!(received.body, sent.body.unwrap_or_default());
        assert!(received.envelope().is_err(), "{received:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_transaction_takes_back_is_heard_only_where_nobody_knows_of_transactions()
-> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let (taken_back, kept) = ([record(b"taken back")], [record(b"kept"), record(b"kept too")]);
    records::transact(broker.bootstrap(), TOPIC, &taken_back, Ending::Abort).await?;
    records::transact(broker.bootstrap(), TOPIC, &kept, Ending::Commit).await?;
    let mut expected: Vec<&[u8]> = vec![b"kept", b"kept too"];
    if !broker.nature().has(Habit::HidesWhatWasAborted) {
        expected.insert(0, b"taken back");
    }
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = receive(&consumer, expected.len()).await?;
    assert_eq!(received.iter().map(|record| &*record.body).collect::<Vec<_>>(), expected);
    let read = records::read(broker.bootstrap(), TOPIC).await?;
    assert_eq!(
        read.iter().filter_map(|record| record.body.as_deref()).collect::<Vec<_>>(),
        expected
    );

    // The marks of the transactions have places of their own, which nobody waits for.
    consumer.finished(received.iter().map(|record| &record.place));
    close(consumer).await?;
    records::produce(broker.bootstrap(), TOPIC, &[record(b"next")]).await?;
    let next = Consumer::try_new(&config, "test", PRODUCERS)?;
    let received = timeout(AT_MOST, next.receive(100)).await??;
    assert_eq!(received[0].body, b"next");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_not_passed_over_and_stops_its_own_partition_alone()
-> anyhow::Result<()> {
    let (broker, config) = Broker::start().await?;
    let packs = broker.nature().has(Habit::PacksAnew);
    let consumer = Consumer::try_new(&config, "test", PRODUCERS)?;
    records::produce(broker.bootstrap(), TOPIC, &everywhere("plain")).await?;
    receive(&consumer, 4).await?;
    if packs {
        broker.set("compression.type", "zstd").await?;
    }
    records::produce(broker.bootstrap(), TOPIC, &[record(&[b'x'; 1_000])]).await?;
    if packs {
        broker.set("compression.type", "producer").await?;
    }
    let (mut rest, mut first) = (BTreeSet::new(), 0);
    for round in ["1", "2", "3"] {
        records::produce(broker.bootstrap(), TOPIC, &everywhere(round)).await?;
        while rest.len() < 3 {
            for received in timeout(AT_MOST, consumer.receive(100)).await?? {
                match received.place.partition {
                    0 => first += 1,
                    other => _ = rest.insert(other),
                }
            }
        }
        rest.clear();
    }
    assert_eq!(first == 0, packs, "{first} from the partition");
    Ok(())
}
