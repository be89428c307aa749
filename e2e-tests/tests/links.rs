//! What each weather does to a conversation, seen from both of its ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use e2e_tests::link::{Counts, Link, Links, To, Weather};
use testkit::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(200);

/// A server that says back what it hears, and tells how many bytes that was.
async fn echo() -> anyhow::Result<(SocketAddr, watch::Receiver<usize>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let (heard, hearing) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut words = [0; 64];
                while let Ok(bytes @ 1..) = client.read(&mut words).await {
                    heard.send_modify(|total| *total += bytes);
                    if client.write_all(&words[..bytes]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok((address, hearing))
}

async fn ask(client: &mut TcpStream, words: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(words).await?;
    let mut answer = vec![0; words.len()];
    client.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn link() -> anyhow::Result<(Link, watch::Receiver<usize>)> {
    let (to, heard) = echo().await?;
    Ok((Link::start(&Handle::current(), to)?, heard))
}

async fn connect(link: &Link) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect(link.address()).await?)
}

#[tokio::test]
async fn in_fair_weather_every_byte_passes_and_is_counted() -> anyhow::Result<()> {
    let (link, _) = link().await?;
    let mut client = connect(&link).await?;
    assert_eq!(ask(&mut client, b"hello").await?, b"hello");
    let seen = Counts { connections: 1, bytes_up: 5, bytes_down: 5, ..Counts::default() };
    assert_eq!(link.count(), seen);
    Ok(())
}

#[tokio::test]
async fn the_end_of_what_one_side_says_reaches_the_other() -> anyhow::Result<()> {
    let (link, _) = link().await?;
    let mut client = connect(&link).await?;
    client.write_all(b"bye").await?;
    client.shutdown().await?;
    let mut rest = Vec::new();
    timeout(SOON, client.read_to_end(&mut rest)).await??;
    assert_eq!(rest, b"bye");
    assert_eq!(link.count().cut, 0);
    Ok(())
}

#[tokio::test]
async fn a_delay_holds_a_piece_on_both_ways() -> anyhow::Result<()> {
    let (link, _) = link().await?;
    let mut client = connect(&link).await?;
    link.set(Weather::Delay(Duration::from_millis(60)));
    let begun = Instant::now();
    assert_eq!(ask(&mut client, b"hello").await?, b"hello");
    assert!(begun.elapsed() >= Duration::from_millis(120), "{:?}", begun.elapsed());
    assert_eq!(link.count().held, 2);
    Ok(())
}

#[tokio::test]
async fn a_black_hole_tells_nobody_and_gives_back_what_was_sent() -> anyhow::Result<()> {
    let (link, heard) = link().await?;
    let mut client = connect(&link).await?;
    ask(&mut client, b"before").await?;
    link.set(Weather::BlackHole);
    client.write_all(b"during").await?;
    let mut late = connect(&link).await?;
    late.write_all(b"late").await?;
    let mut answer = [0; 6];
    assert!(timeout(SILENCE, client.read_exact(&mut answer)).await.is_err());
    assert_eq!(*heard.borrow(), 6, "only what was sent before");
    link.set(Weather::Pass);
    timeout(SOON, client.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"during");
    timeout(SOON, late.read_exact(&mut answer[..4])).await??;
    let counts = link.count();
    assert_eq!((counts.held, counts.cut, counts.connections), (1, 0, 2));
    Ok(())
}

#[tokio::test]
async fn a_reset_cuts_every_connection_and_refuses_new_ones() -> anyhow::Result<()> {
    let (link, _) = link().await?;
    let mut client = connect(&link).await?;
    ask(&mut client, b"before").await?;
    link.set(Weather::Reset);
    let mut rest = Vec::new();
    let cut = timeout(SOON, client.read_to_end(&mut rest)).await?;
    assert!(cut.is_err(), "an end in peace: {rest:?}");
    wait::until(SOON, "new connections to be cut", async || {
        let mut client = connect(&link).await.ok()?;
        ask(&mut client, b"during").await.err()
    })
    .await?;
    assert!(link.count().cut >= 2);
    link.set(Weather::Pass);
    let mut client = connect(&link).await?;
    assert_eq!(ask(&mut client, b"after").await?, b"after");
    Ok(())
}

#[tokio::test]
async fn a_cut_after_so_many_bytes_lets_exactly_these_arrive() -> anyhow::Result<()> {
    let (link, mut heard) = link().await?;
    for round in 1..=2 {
        link.set(Weather::CutAfter(4));
        let mut client = connect(&link).await?;
        assert!(ask(&mut client, b"hello").await.is_err());
        timeout(SOON, heard.wait_for(|heard| *heard == 4 * round)).await??;
    }
    let counts = link.count();
    assert_eq!((counts.bytes_up, counts.bytes_down), (8, 0));
    assert_eq!((counts.bytes_dropped, counts.cut), (2, 2));
    Ok(())
}

#[tokio::test]
async fn a_dropped_reply_is_one_to_a_request_that_arrived() -> anyhow::Result<()> {
    let (link, mut heard) = link().await?;
    let mut client = connect(&link).await?;
    link.set(Weather::DropReplies);
    assert!(ask(&mut client, b"hello").await.is_err());
    timeout(SOON, heard.wait_for(|heard| *heard == 5)).await??;
    let counts = link.count();
    assert_eq!((counts.bytes_up, counts.bytes_down), (5, 0));
    assert_eq!((counts.bytes_dropped, counts.replies_dropped, counts.cut), (5, 1, 1));
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_closed_in_peace_is_no_evidence_of_any_weather() -> anyhow::Result<()>
{
    let (link, _) = link().await?;
    let weathers = [
        Weather::Pass,
        Weather::Delay(Duration::from_millis(1)),
        Weather::CutAfter(1),
        Weather::DropReplies,
    ];
    for weather in weathers {
        link.set(weather);
        let mut client = connect(&link).await?;
        client.shutdown().await?;
        let mut rest = Vec::new();
        timeout(SOON, client.read_to_end(&mut rest)).await??;
    }
    assert_eq!(link.count(), Counts { connections: 4, ..Counts::default() });
    Ok(())
}

#[tokio::test]
async fn each_process_is_told_links_of_its_own_and_the_brokers_is_shared() -> anyhow::Result<()> {
    let links = Links::start(20_000, &["inventory", "payment", "payment-2"])?;
    let settings = links.settings();
    let told = |process: &str, name: &str| {
        let mut own = settings.iter().filter(|(to, told, _)| to == process && *told == name);
        own.next().map(|(_, _, value)| value.clone())
    };
    let address = |process, to| links.link(process, to).map(Link::address);
    for process in ["inventory", "payment", "payment-2"] {
        assert_eq!(told(process, "KAFKA_BROKERS"), Some(links.broker().to_string()));
    }
    let postgres = address("payment-2", To::Postgres)?;
    let url = format!("postgres://payment_app@{postgres}/switchback");
    assert_eq!(told("payment-2", "DATABASE_URL"), Some(url));
    assert_ne!(postgres, address("payment", To::Postgres)?);
    let provider = address("payment", To::Provider)?;
    assert_eq!(told("payment", "PROVIDER_URL"), Some(format!("http://{provider}/payment")));
    assert!(
        address("inventory", To::Provider).is_err() && told("inventory", "PROVIDER_URL").is_none()
    );
    Ok(())
}
