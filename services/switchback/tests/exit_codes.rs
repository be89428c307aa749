//! What a script learns from this program: 2 wrong usage, 3 nobody there.

use std::process::{Command, Output};

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
fn wrong_usage_is_told_apart_too() -> anyhow::Result<()> {
    let wrong: [&[&str]; 9] = [
        &[],
        &["events", "republish", "--since", "2h"],
        &["events", "republish", "--since", "soon", "--reason", "a test"],
        &["events", "republish", "--since", "2h", "--reason", "a test", "--service", "lamp"],
        &["orders", "show", "no-id"],
        &["local", "--port-base", "99999"],
        &["local", "--instances", "3"],
        &["local", "--set", "payment:LANES"],
        &["local", "--broker-advertised", "nowhere"],
    ];
    for wrong in wrong {
        assert_eq!(switchback(wrong)?.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}
