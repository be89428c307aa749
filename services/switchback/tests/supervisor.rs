//! Keeping a process alive, with small programs in place of services.

mod executable;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchback::supervisor::{Program, Supervised};
use tempfile::TempDir;
use testkit::wait;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(10);

fn program(folder: &Path, script: &str) -> anyhow::Result<Program> {
    let path = folder.join("service");
    executable::script(&path, script)?;
    Ok(Program {
        name: "service".to_owned(),
        path,
        arguments: vec!["there".into()],
        environment: vec![("GREETING".to_owned(), "hello".to_owned())],
        log: folder.join("log"),
        stop: Signal::TERM,
    })
}

fn lines(program: &Program) -> Vec<String> {
    let log = fs::read_to_string(&program.log).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_killed_service_is_started_again_and_a_stopped_one_is_not() -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let program = program(folder.path(), "echo \"$GREETING $1 $$\"; exec sleep 600")?;
    let stop = CancellationToken::new();
    let service = Supervised::start(program.clone(), stop.clone())?;
    let started = async |times: usize| {
        let what = format!("start {times}");
        wait::until(SOON, &what, async || (lines(&program).len() == times).then_some(())).await
    };
    started(1).await?;
    service.kill()?;
    started(2).await?;
    let begun = lines(&program);
    assert!(begun[0].starts_with("hello there ") && begun[0] != begun[1], "{begun:?}");
    wait::until(SOON, "it to say so", async || (service.starts() == 2).then_some(())).await?;

    stop.cancel();
    service.ended().await;
    assert_eq!(lines(&program).len(), 2);
    let pid = begun[1].trim_start_matches("hello there ");
    assert!(!fs::exists(format!("/proc/{pid}"))?);
    Ok(())
}

#[tokio::test]
async fn a_service_that_dies_at_once_is_started_ever_later() -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let program = program(folder.path(), "echo cannot work; exit 7")?;
    let (stop, begun) = (CancellationToken::new(), Instant::now());
    let service = Supervised::start(program.clone(), stop.clone())?;
    wait::until(SOON, "a third start", async || (service.starts() >= 3).then_some(())).await?;
    assert!(begun.elapsed() >= Duration::from_millis(100 + 200));
    assert!(service.program.log_tail().ends_with("  cannot work\n"));
    stop.cancel();
    service.ended().await;
    Ok(())
}
