//! Owns a whole stack of real processes for one test: the launcher and what it starts. Refuses to
//! leave any of it behind, and to throw away the logs of a failure.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use testkit::{ports, wait};

use crate::client::Client;

const BROKER_PORT: u16 = 12;
const POSTGRES_PORT: u16 = 32;
const PORTS: [u16; 7] = [1, 2, 3, 4, 5, BROKER_PORT, POSTGRES_PORT];
const READY_MAX: Duration = Duration::from_mins(1);
const RESTART_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: u32 = 4;
const TAIL_LINES: usize = 30;

/// How a test wants its stack.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Beside the test's own environment, which the services inherit.
    pub environment: Vec<(&'static str, String)>,
    /// Let commits wait for the disk.
    pub durable: bool,
}

/// A running stack.
pub struct Stack {
    pub client: Client,
    /// Every schema, as the superuser sees it.
    pub tables: PgPool,
    launcher: Launcher,
    port_base: u16,
}

/// Runs `body` on a stack that is ready, and ends the stack whatever becomes of it. A failure keeps
/// the logs and says where they are.
pub async fn with_stack(
    options: &Options,
    body: impl AsyncFnOnce(&Stack) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stack = Stack::start(options).await?;
    let done = body(&stack).await;
    stack.tables.close().await;
    done.map_err(|error| error.context(stack.launcher.keep_logs()))
}

impl Stack {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let port_base = ports::free_base(&PORTS)?;
        let mut launcher = Launcher::start(port_base, options)?;
        launcher.ready().await?;
        let port = port_base + POSTGRES_PORT;
        let tables = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .connect(&format!("postgres://postgres@127.0.0.1:{port}/switchback"))
            .await?;
        Ok(Self { client: Client::try_new(port_base)?, tables, launcher, port_base })
    }

    /// What a Kafka client's `bootstrap.servers` has to be.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port_base + BROKER_PORT)
    }

    /// Whether the dispatcher alone hands events to the broker.
    pub fn is_dispatched_from_the_outbox() -> bool {
        std::env::var("DISPATCH").is_ok_and(|dispatch| dispatch == "outbox")
    }

    /// What a service has logged so far.
    pub fn log(&self, service: &str) -> String {
        self.launcher.log(&format!("logs/{service}.log"))
    }

    /// How often the launcher has started a service again.
    pub fn restarts(&self, service: &str) -> usize {
        let died = format!("{service} died");
        self.launcher.log(LAUNCHER_LOG).lines().filter(|line| line.starts_with(&died)).count()
    }

    /// Returns when a service has been started again more often than `before`.
    pub async fn restarted(&self, service: &str, before: usize) -> anyhow::Result<()> {
        wait::until(RESTART_MAX, &format!("{service} to be started again"), async || {
            (self.restarts(service) > before).then_some(())
        })
        .await
    }

    /// The process of a service.
    pub fn pid(&self, service: &str) -> anyhow::Result<Pid> {
        self.launcher.child(service).with_context(|| format!("{service} is not running"))
    }

    /// The process above all others of the stack.
    pub fn launcher_pid(&self) -> u32 {
        self.launcher.process.id()
    }

    /// Ends a service as a power cut would.
    pub fn kill(&self, service: &str) -> anyhow::Result<()> {
        Ok(kill_process(self.pid(service)?, Signal::KILL)?)
    }

    /// Halts a service until what is returned is dropped. Not for longer than a group's session.
    pub fn halt(&self, service: &str) -> anyhow::Result<Halted> {
        let pid = self.pid(service)?;
        kill_process(pid, Signal::STOP)?;
        Ok(Halted(pid))
    }
}

/// A process that stands still.
pub struct Halted(Pid);

impl Drop for Halted {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

const LAUNCHER_LOG: &str = "launcher.log";

/// The launcher's process and the folder of all logs.
struct Launcher {
    process: Child,
    folder: Option<TempDir>,
}

impl Launcher {
    /// It is asked to end when the thread that called this ends, whatever becomes of the test.
    fn start(port_base: u16, options: &Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("e2e-").tempdir()?;
        let log = File::create(folder.path().join(LAUNCHER_LOG))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(programs()?.join("switchback"));
        command.args(["local", "--port-base", &port_base.to_string()]);
        command.arg("--log-dir").arg(folder.path().join("logs"));
        if options.durable {
            command.arg("--durable");
        }
        command.envs(options.environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().context("setpriv (util-linux) starts the launcher")?;
        Ok(Self { process, folder: Some(folder) })
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let ready = wait::until(READY_MAX, "the stack to be ready", async || {
            let log = self.log(LAUNCHER_LOG);
            if log.lines().any(|line| line == "ready") {
                return Some(true);
            }
            self.process.try_wait().ok().flatten().map(|_ended| false)
        });
        match ready.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the launcher has ended: {}", self.log(LAUNCHER_LOG)),
            Err(error) => Err(error.context(self.log(LAUNCHER_LOG))),
        }
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    fn child(&self, name: &str) -> Option<Pid> {
        let launcher = self.process.id().to_string();
        let named = format!("({name})");
        let stats = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let mut fields = stat.split(' ');
            let (pid, command) = (fields.next()?, fields.next()?);
            let parent = fields.nth(1)?;
            (command == named && parent == launcher).then(|| pid.parse::<i32>().ok())?
        });
        stats.into_iter().find_map(Pid::from_raw)
    }

    /// The last words of the launcher, and where all logs are.
    fn keep_logs(mut self) -> String {
        let log = self.log(LAUNCHER_LOG);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        let kept = self.folder.take().map(TempDir::keep).unwrap_or_default();
        format!("{tail}\nlogs are kept in {}", kept.display())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.process);
        let _ = kill_process(pid, Signal::TERM);
        let ended = wait::until_blocking(STOP_MAX, "the launcher to end", || {
            self.process.try_wait().ok().flatten()
        });
        if ended.is_err() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// The folder into which this program and those that it tests were built.
pub fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut folder = own.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("a folder of a build")?;
    }
    let launcher = folder.join("switchback");
    ensure!(launcher.is_file(), "{} is missing: type `make e2e`", launcher.display());
    Ok(folder.to_path_buf())
}
