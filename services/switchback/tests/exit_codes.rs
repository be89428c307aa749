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
fn wrong_usage_is_told_apart_too() -> anyhow::Result<()> {
    for wrong in [vec!["orders", "show", "no-id"], vec!["local", "--port-base", "99999"], vec![]] {
        assert_eq!(switchback(&wrong)?.status.code(), Some(2), "{wrong:?}");
    }
    Ok(())
}
