//! The in-memory broker, through the same client library that the services use.

use testkit::Broker;
use testkit::records::{self, Record};

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
