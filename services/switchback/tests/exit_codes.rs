//! What a script learns from this program: 2 wrong usage, 3 nobody there.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use testkit::ports;

const ID: &str = "0199d0a0-0000-7000-8000-000000000000";

fn switchback(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_switchback")).args(arguments).output()?)
}

#[test]
fn an_order_service_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{}", ports::free_base(&[0])?);
    for command in ["show", "watch", "cancel"] {
        let output = switchback(&["orders", "--url", &url, command, ID])?;
        assert_eq!(output.status.code(), Some(3), "{command}");
    }
    assert_eq!(switchback(&["orders", "--url", &url, "place"])?.status.code(), Some(3));
    Ok(())
}

#[test]
fn a_database_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let url = format!("postgres://{{service}}_app@127.0.0.1:{}/none", ports::free_base(&[0])?);
    let again = ["events", "republish", "--reason", "a test", "--database-url", &url, "--since"];
    let output = switchback(&[&again[..], &["2h"]].concat())?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");

    // Nobody is asked for more than consumers remember.
    let output = switchback(&[&again[..], &["8d"]].concat())?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no further back than 168 h"), "{said}");
    Ok(())
}

#[test]
fn a_broker_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let nobody = format!("127.0.0.1:{}", ports::free_base(&[0])?);
    let output = switchback(&["topics", "ensure", "--brokers", &nobody, "--wait-seconds", "1"])?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    assert!(said.contains(&format!("no broker answers at {nobody}")), "{said}");
    Ok(())
}

#[test]
fn a_jaeger_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{}", ports::free_base(&[0])?);
    let output = switchback(&["trace", ID, "--jaeger-url", &url])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("asking Jaeger at http://127.0.0.1:"), "{said}");
    Ok(())
}

#[test]
fn a_stack_in_containers_that_is_not_there_is_told_apart_from_a_failure() -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
    // A project that nobody has, in a folder without a compose.yaml.
    command.args(["demo", "--compose"]).env("COMPOSE_PROJECT_NAME", "nobody").current_dir("/");
    let output = command.output()?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("type `make up` first"), "{said}");
    Ok(())
}

#[test]
fn wrong_usage_is_told_apart_too() -> anyhow::Result<()> {
    let wrong: [&[&str]; 12] = [
        &[],
        &["events", "republish", "--since", "2h"],
        &["events", "republish", "--since", "soon", "--reason", "a test"],
        &["events", "republish", "--since", "2h", "--reason", "a test", "--service", "lamp"],
        &["orders", "show", "no-id"],
        &["local", "--port-base", "99999"],
        &["local", "--instances", "3"],
        &["local", "--broker", "pigeon"],
        &["topics", "ensure", "--brokers", "127.0.0.1:1", "--partitions", "0"],
        &["local", "--set", "payment:LANES"],
        &["local", "--broker-advertised", "nowhere"],
        &["demo", "--compose", "--durable"],
    ];
    for wrong in wrong {
        assert_eq!(switchback(wrong)?.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}

/// Gives one answer to the next who asks, or none.
fn answer_once(answer: Option<&'static str>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || -> io::Result<()> {
        let (mut asking, _) = listener.accept()?;
        let head = BufReader::new(asking.try_clone()?).lines();
        head.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
        if let Some(status) = answer {
            write!(asking, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
        }
        // Until the other side has had enough.
        io::copy(&mut asking, &mut io::sink()).map(drop)
    });
    Ok(address)
}

#[test]
fn a_health_check_knows_only_well_and_not_well() -> anyhow::Result<()> {
    let answers = [
        (Some("200 OK"), 0),
        (Some("204 No Content"), 0),
        (Some("304 Not Modified"), 1),
        (Some("404 Not Found"), 1),
        (Some("503 Service Unavailable"), 1),
    ];
    for (answer, code) in answers {
        let url = format!("http://{}/readyz", answer_once(answer)?);
        assert_eq!(switchback(&["healthcheck", &url])?.status.code(), Some(code), "{answer:?}");
    }
    let nobody = format!("http://127.0.0.1:{}/readyz", ports::free_base(&[0])?);
    let output = switchback(&["healthcheck", &nobody])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(switchback(&["healthcheck", "not a URL"])?.status.code(), Some(2));

    let silent = format!("http://{}/readyz", answer_once(None)?);
    let asked = Instant::now();
    assert_eq!(switchback(&["healthcheck", &silent])?.status.code(), Some(1));
    let took = asked.elapsed();
    assert!(took > Duration::from_millis(1_900), "it was given its time: {took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    Ok(())
}
