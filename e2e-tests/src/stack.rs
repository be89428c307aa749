//! Owns a whole stack of real processes for one test: the launcher and what it starts, or what
//! somebody else has started. Refuses to leave anything of its own behind, and to throw away the logs
//! of a failure.

mod launcher;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testkit::postgres::signal_family;
use testkit::{ports, wait};

use crate::client::Client;
use crate::link::Links;
use crate::{SERVICES, instance_of};
use launcher::Launcher;

pub use launcher::programs;

const BROKER_PORT: u16 = 12;
const POSTGRES_PORT: u16 = 32;
const CONTROLLER_PORT: u16 = 13;
const PORTS: [u16; 12] =
    [1, 2, 3, 4, 5, BROKER_PORT, CONTROLLER_PORT, 21, 22, 23, 24, POSTGRES_PORT];
const POSTGRES: &str = "postgres";
/// The process of Apache Kafka, where the stack has one.
pub const KAFKA: &str = "kafka";
const RESTART_MAX: Duration = Duration::from_secs(20);
const READY_MAX: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: u32 = 4;

/// How a test wants its stack.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Beside the test's own environment, which all processes inherit.
    pub environment: Vec<(&'static str, String)>,
    /// Let commits wait for the disk.
    pub durable: bool,
    /// Processes of each service; as many as `INSTANCES` says unless told, and one if it says nothing.
    pub instances: u8,
    /// The environment of one process: its name, the variable's, and the value.
    pub settings: Vec<(String, &'static str, String)>,
    /// Between each process and what it needs.
    pub links: bool,
    /// Where its ports begin; anywhere that is free unless told.
    pub port_base: Option<u16>,
    /// The folder of the programs that it runs; those that were built with this one unless told.
    pub programs: Option<PathBuf>,
}

impl Options {
    fn with_instances(self) -> anyhow::Result<Self> {
        let instances = match (self.instances, std::env::var("INSTANCES")) {
            (0, Ok(told)) => told.parse().with_context(|| format!("INSTANCES={told}"))?,
            (0, Err(_)) => 1,
            (own, _) => own,
        };
        Ok(Self { instances, ..self })
    }
}

/// A running stack. `payment` is the first process of that service, `payment-2` the second one.
pub struct Stack {
    pub client: Client,
    /// Every schema, as the superuser sees it.
    pub tables: PgPool,
    pub links: Option<Links>,
    /// None over processes that somebody else runs.
    launcher: Option<Launcher>,
    processes: Vec<String>,
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
    done.map_err(|error| match stack.launcher {
        Some(launcher) => error.context(launcher.keep_logs()),
        None => error,
    })
}

impl Stack {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let port_base = options.port_base.map_or_else(|| ports::free_base(&PORTS), Ok)?;
        let options = &options.clone().with_instances()?;
        let processes = processes(options.instances);
        let links = options.links.then(|| Links::start(port_base, &processes)).transpose()?;
        let mut launcher = Launcher::start(port_base, options, links.as_ref())?;
        launcher.ready().await?;
        let over = Self::over(port_base, "postgres", processes).await?;
        Ok(Self { links, launcher: Some(launcher), ..over })
    }

    /// A stack that somebody else runs, and ends. `superuser` may carry a password.
    pub(crate) async fn over(
        port_base: u16,
        superuser: &str,
        processes: Vec<String>,
    ) -> anyhow::Result<Self> {
        let port = port_base + POSTGRES_PORT;
        let tables = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .connect(&format!("postgres://{superuser}@127.0.0.1:{port}/switchback"))
            .await?;
        let client = Client::try_new(port_base)?;
        Ok(Self { client, tables, links: None, launcher: None, processes, port_base })
    }

    /// The names of all services' processes, first instances first.
    pub fn processes(&self) -> &[String] {
        &self.processes
    }

    /// Where its ports begin.
    pub fn port_base(&self) -> u16 {
        self.port_base
    }

    /// What a Kafka client's `bootstrap.servers` has to be.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port_base + BROKER_PORT)
    }

    /// Whether the broker is Apache Kafka, a process of its own, and not the launcher's in-memory one.
    pub fn is_on_kafka() -> bool {
        std::env::var("BROKER").is_ok_and(|broker| broker == "kafka")
    }

    /// Whether the dispatcher alone hands events to the broker.
    pub fn is_dispatched_from_the_outbox() -> bool {
        std::env::var("DISPATCH").is_ok_and(|dispatch| dispatch == "outbox")
    }

    /// What a process has logged so far.
    pub fn log(&self, process: &str) -> String {
        self.launcher.as_ref().map(|launcher| launcher.log(process)).unwrap_or_default()
    }

    /// What the launcher has printed so far.
    pub fn said(&self) -> String {
        self.launcher.as_ref().map(Launcher::said).unwrap_or_default()
    }

    /// How often the launcher has started a process again.
    pub fn restarts(&self, process: &str) -> usize {
        let died = format!("{process} died");
        self.said().lines().filter(|line| line.starts_with(&died)).count()
    }

    /// Returns when a process has been started again more often than `before`.
    pub async fn restarted(&self, process: &str, before: usize) -> anyhow::Result<()> {
        wait::until(RESTART_MAX, &format!("{process} to be started again"), async || {
            (self.restarts(process) > before).then_some(())
        })
        .await
    }

    /// Returns when every service says that it can work.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for process in &self.processes {
            wait::until(READY_MAX, &format!("{process} to be ready"), async || {
                self.client.is_ready(process).await.then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// A service's process as it is now.
    pub fn pid(&self, process: &str) -> anyhow::Result<Pid> {
        let pid = self.launcher.as_ref().and_then(|launcher| launcher.child(process));
        pid.with_context(|| format!("{process} is not running"))
    }

    /// The process above all others of the stack.
    pub fn launcher_pid(&self) -> anyhow::Result<u32> {
        let launcher = self.launcher.as_ref().context("somebody else runs this stack")?;
        Ok(launcher.pid())
    }

    /// Ends a service's process as a power cut would.
    pub fn kill(&self, process: &str) -> anyhow::Result<()> {
        Ok(kill_process(self.pid(process)?, Signal::KILL)?)
    }

    /// Asks a service's process to end.
    pub fn terminate(&self, process: &str) -> anyhow::Result<()> {
        Ok(kill_process(self.pid(process)?, Signal::TERM)?)
    }

    /// The processes of one service, its first instance first.
    pub fn processes_of(&self, service: &str) -> impl Iterator<Item = &str> {
        let all = self.processes.iter().map(String::as_str);
        all.filter(move |process| instance_of(process).0 == service)
    }

    /// Halts every process of a service until what is returned is dropped.
    pub fn halt_all(&self, service: &str) -> anyhow::Result<Vec<Halted>> {
        self.processes_of(service).map(|process| self.halt(process)).collect()
    }

    /// Halts a service's process until what is returned is dropped.
    pub fn halt(&self, process: &str) -> anyhow::Result<Halted> {
        let pid = self.pid(process)?;
        kill_process(pid, Signal::STOP)?;
        Ok(Halted { pid, with_family: false })
    }

    /// The first of Postgres' processes.
    pub fn postgres_pid(&self) -> anyhow::Result<Pid> {
        self.pid(POSTGRES)
    }

    /// Ends all of Postgres' processes at once; the launcher starts it again.
    pub fn kill_postgres(&self) -> anyhow::Result<()> {
        Ok(signal_family(self.postgres_pid()?, Signal::KILL)?)
    }

    /// Halts all of Postgres' processes until what is returned is dropped.
    pub fn halt_postgres(&self) -> anyhow::Result<Halted> {
        let pid = self.postgres_pid()?;
        signal_family(pid, Signal::STOP)?;
        Ok(Halted { pid, with_family: true })
    }
}

/// What stands still until this is dropped.
pub struct Halted {
    pid: Pid,
    with_family: bool,
}

impl Drop for Halted {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = if self.with_family {
            signal_family(self.pid, Signal::CONT)
        } else {
            kill_process(self.pid, Signal::CONT)
        };
    }
}

/// `payment`, … and `payment-2`, … of a stack.
fn processes(instances: u8) -> Vec<String> {
    let first = SERVICES.map(str::to_owned);
    let more = (2..=instances).flat_map(|instance| {
        SERVICES.into_iter().map(move |service| format!("{service}-{instance}"))
    });
    first.into_iter().chain(more).collect()
}
