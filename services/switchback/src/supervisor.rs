//! Owns one process: starts it, starts it again when it dies, and ends it. Refuses to know what it
//! does.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use testkit::wait;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A process that lived shorter than this died at once.
const LIFE_MIN: Duration = Duration::from_secs(1);
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longer than a service takes for an orderly end, which is at most 20 s.
const STOP_MAX: Duration = Duration::from_secs(25);
const TAIL_LINES: usize = 20;
const READY_MAX: Duration = Duration::from_mins(1);
/// What had to be started this often before it was ever ready will not make it.
const STARTS_MAX: u32 = 3;

/// How to start a process, and how to ask it to end.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    /// Beside the launcher's own environment; of two with one name the last.
    pub environment: Vec<(String, String)>,
    pub log: PathBuf,
    pub stop: Signal,
}

impl Program {
    /// What somebody else knows how to start.
    pub fn of(name: &str, command: &std::process::Command, log: PathBuf, stop: Signal) -> Self {
        Self {
            name: name.to_owned(),
            path: command.get_program().into(),
            arguments: command.get_args().map(ToOwned::to_owned).collect(),
            environment: (command.get_envs())
                .filter_map(|(name, value)| {
                    Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned()))
                })
                .collect(),
            log,
            stop,
        }
    }

    /// From `/`, where every user may be: Postgres runs as another one.
    fn spawn(&self) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).current_dir("/");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C at a terminal goes to a whole group; the stack ends one layer after another.
        command.process_group(0).kill_on_drop(true);
        command.spawn().with_context(|| format!("could not start {}", self.path.display()))
    }

    /// The last lines of its log, for a person who wants to know why.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].iter().fold(
            format!("the end of {}:\n", self.log.display()),
            |mut tail, line| {
                let _ = writeln!(tail, "  {line}");
                tail
            },
        )
    }
}

/// What is known about a supervised process from outside.
#[derive(Debug, Clone, Copy)]
struct Life {
    pid: Option<u32>,
    starts: u32,
}

/// A process that is kept alive until it is told to stop.
pub struct Supervised {
    pub program: Program,
    life: watch::Receiver<Life>,
    task: JoinHandle<()>,
}

impl Supervised {
    pub fn start(program: Program, stop: CancellationToken) -> anyhow::Result<Self> {
        let child = program.spawn()?;
        let (announce, life) = watch::channel(Life { pid: child.id(), starts: 1 });
        let task = tokio::spawn(keep_alive(program.clone(), child, announce, stop));
        Ok(Self { program, life, task })
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.life.borrow().starts
    }

    /// The process, if it runs now.
    pub fn pid(&self) -> Option<u32> {
        self.life.borrow().pid
    }

    /// Returns when it is ready; fails when it dies again and again instead.
    pub async fn ready(&self, mut probe: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
        let name = &self.program.name;
        let what = format!("{name} to be ready");
        let ready = wait::until(READY_MAX, &what, async || {
            if probe().await {
                return Some(true);
            }
            (self.starts() > STARTS_MAX).then_some(false)
        });
        match ready.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{name} dies again and again; {}", self.program.log_tail()),
            Err(error) => Err(error.context(self.program.log_tail())),
        }
    }

    /// Ends the process as a power cut would; it is started again.
    pub fn kill(&self) -> anyhow::Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(kill_process(pid.context("it is not running")?, Signal::KILL)?)
    }

    /// Returns when the process is gone; the token must have been cancelled before.
    pub async fn ended(self) {
        // It ends by itself within `STOP_MAX`, and has nothing to say.
        let _ = self.task.await;
    }
}

async fn keep_alive(
    program: Program,
    mut child: Child,
    announce: watch::Sender<Life>,
    stop: CancellationToken,
) {
    let mut pause = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let died = tokio::select! {
            () = stop.cancelled() => return end(child, program.stop).await,
            status = child.wait() => status.map_or_else(|error| error.to_string(), describe),
        };
        announce.send_modify(|life| life.pid = None);
        pause = next_pause(pause, begun.elapsed());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            match program.spawn() {
                Ok(next) => {
                    child = next;
                    break;
                }
                Err(error) => {
                    say(&format!("{error:#}"));
                    pause = next_pause(pause, Duration::ZERO);
                }
            }
        }
        announce.send_modify(|life| *life = Life { pid: child.id(), starts: life.starts + 1 });
        let pid = child.id().unwrap_or_default();
        say(&format!("{} died ({died}), started again as pid {pid}", program.name));
    }
}

/// Nobody may be listening any more, and that must not keep a service down.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// At once after a life, and ever later after sudden deaths.
fn next_pause(last: Duration, lived: Duration) -> Duration {
    if lived >= LIFE_MIN { Duration::ZERO } else { (last * 2).clamp(PAUSE_FIRST, PAUSE_MAX) }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

/// First asked, then made to.
async fn end(mut child: Child, stop: Signal) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, stop);
    }
    if timeout(STOP_MAX, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_lived_is_started_at_once_and_one_that_cannot_live_ever_later() {
        assert_eq!(next_pause(PAUSE_MAX, LIFE_MIN), Duration::ZERO);
        let mut pause = Duration::ZERO;
        let pauses = std::iter::repeat_with(|| {
            pause = next_pause(pause, Duration::ZERO);
            pause.as_millis()
        });
        let pauses: Vec<_> = pauses.take(7).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000]);
    }
}
