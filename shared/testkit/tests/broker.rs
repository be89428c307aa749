//! The in-memory broker, through the same client library that the services use.

use std::time::Duration;

use testkit::records::{self, Record};
use testkit::{Broker, wait};

const TOPIC: &str = "order.events.v1";

fn numbered(number: u32) -> Record {
    Record {
        partition: Some(i32::try_from(number % 4).expect("below four")),
        key: Some(format!("key {number}").into_bytes()),
        headers: vec![
            ("ce_id".to_owned(), Some(number.to_string().into_bytes())),
            ("nothing".to_owned(), None),
        ],
        body: (number != 7).then(|| vec![0, 159, 146, 150]),
    }
}

#[tokio::test]
async fn what_was_produced_is_read_byte_for_byte_and_in_order() -> anyhow::Result<()> {
    let broker = Broker::start(None, &[TOPIC])?;
    let sent: Vec<Record> = (0..20).map(numbered).collect();
    records::produce(broker.bootstrap(), TOPIC, &sent).await?;

    let read = records::read(broker.bootstrap(), TOPIC).await?;
    let mut expected = sent;
    expected.sort_by_key(|record| record.partition);
    assert_eq!(read, expected);
    assert_eq!(read[0].header("ce_id"), Some("0"));
    assert_eq!(read[0].header("nothing"), None);
    Ok(())
}

#[tokio::test]
async fn a_broker_at_a_chosen_port_is_reached_only_there() -> anyhow::Result<()> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = free.local_addr()?.port();
    assert!(Broker::start(Some(port), &[]).is_err(), "the port is taken");
    drop(free);

    let broker = Broker::start(Some(port), &[TOPIC])?;
    assert_eq!(broker.bootstrap(), format!("127.0.0.1:{port}"));
    records::produce(broker.bootstrap(), TOPIC, &[numbered(1)]).await?;
    assert_eq!(records::read(broker.bootstrap(), TOPIC).await?, [numbered(1)]);

    drop(broker);
    assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    Ok(())
}

/// SIGINT, SIGTERM, and SIGCHLD, which a launcher gets whenever a child ends.
const SIGNALS: [u32; 3] = [2, 15, 17];

/// The masks of blocked signals of all threads of this name, other tests' brokers included.
fn blocked_in(name: &str) -> Option<Vec<u64>> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let masks = threads.filter_map(|thread| {
        // A thread that ends meanwhile is no thread of interest.
        let comm = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"))?.trim();
        (comm.trim() == name).then(|| u64::from_str_radix(mask, 16).ok())?
    });
    let masks: Vec<u64> = masks.collect();
    (!masks.is_empty()).then_some(masks)
}

#[test]
fn a_signal_to_this_process_never_reaches_the_brokers_thread() -> anyhow::Result<()> {
    let _broker = Broker::start(None, &[])?;
    let deadline = Duration::from_secs(5);
    let masks = wait::until_blocking(deadline, "the thread", || blocked_in("rdk:mock"))?;
    for signal in SIGNALS {
        let blocked = masks.iter().all(|mask| mask & 1 << (signal - 1) != 0);
        assert!(blocked, "signal {signal}: {masks:x?}");
    }
    Ok(())
}
