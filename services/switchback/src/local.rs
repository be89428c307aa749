//! Owns the embedded stack: a throwaway Postgres, an in-memory broker, the providers and the four
//! services as processes of their own. Refuses to leave anything behind.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use testkit::postgres::{Options as PostgresOptions, SUPERUSER};
use testkit::{Broker, Postgres, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::supervisor::{Program, Supervised};

const DATABASE: &str = "switchback";
const PROVIDERS: &str = "providers";
/// The participants, in the order of their ports after the base.
const SERVICES: [&str; 4] = ["order", "inventory", "payment", "shipping"];
const PROVIDERS_PORT: u16 = 5;
const BROKER_PORT: u16 = 12;
const POSTGRES_PORT: u16 = 32;
const READY_MAX: Duration = Duration::from_mins(1);
/// A service that had to be started this often before it was ever ready will not make it.
const STARTS_MAX: u32 = 3;

/// Settings of the embedded stack.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Let Postgres wait for the disk at each commit: slower, for measurements.
    #[arg(long)]
    pub durable: bool,
    /// Ports count from here: order +1, inventory +2, payment +3, shipping +4, providers +5,
    /// broker +12, Postgres +32.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1_024..=65_000))]
    pub port_base: u16,
    /// Keep the services' logs in this folder instead of throwing them away with the rest.
    #[arg(long)]
    pub log_dir: Option<PathBuf>,
}

/// A running stack.
pub struct Stack {
    port_base: u16,
    log_dir: PathBuf,
    services: Vec<Supervised>,
    stop: CancellationToken,
    // The services need these two to the end, so they go last.
    broker: Broker,
    postgres: Postgres,
}

impl Stack {
    /// Starts everything. Services come up while the caller goes on.
    ///
    /// Call it on the main thread: all processes end with the thread that started them.
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let port = |offset: u16| options.port_base + offset;
        let binaries = binaries()?;
        for offset in [1, 2, 3, 4, PROVIDERS_PORT, BROKER_PORT, POSTGRES_PORT] {
            ensure_free(port(offset))?;
        }
        let topics = SERVICES.map(|service| format!("{service}.events.v1"));
        let broker =
            Broker::start(Some(port(BROKER_PORT)), &topics.each_ref().map(String::as_str))?;
        let postgres = Postgres::start(PostgresOptions {
            port: Some(port(POSTGRES_PORT)),
            durable: options.durable,
        })?;
        postgres.create_database(DATABASE, &SERVICES).await?;
        let log_dir = options.log_dir.clone().unwrap_or_else(|| postgres.folder().join("log"));
        fs::create_dir_all(&log_dir).with_context(|| format!("{}", log_dir.display()))?;

        let stop = CancellationToken::new();
        let port_base = options.port_base;
        let mut stack = Self { port_base, log_dir, services: Vec::new(), stop, broker, postgres };
        for name in [PROVIDERS].into_iter().chain(SERVICES) {
            let program = stack.program(name, &binaries);
            stack.services.push(Supervised::start(program, stack.stop.clone())?);
        }
        Ok(stack)
    }

    /// Where a service listens.
    pub fn url(&self, name: &str) -> String {
        let offset = SERVICES.iter().zip(1..).find(|(service, _)| **service == name);
        let port = self.port_base + offset.map_or(PROVIDERS_PORT, |(_, offset)| offset);
        format!("http://127.0.0.1:{port}")
    }

    pub fn service(&self, name: &str) -> anyhow::Result<&Supervised> {
        let found = self.services.iter().find(|service| service.program.name == name);
        found.with_context(|| format!("there is no service {name}"))
    }

    /// What a person needs to know to use it.
    pub fn describe(&self) -> String {
        let line = |name| {
            let pid = self.service(name).ok().and_then(Supervised::pid);
            let pid = pid.map_or_else(String::new, |pid| format!("  pid {pid}"));
            (name, format!("{}{pid}", self.url(name)))
        };
        let mut lines: Vec<(&str, String)> =
            SERVICES.into_iter().chain([PROVIDERS]).map(line).collect();
        lines.push(("broker", self.broker.bootstrap().to_owned()));
        lines.push(("postgres", self.postgres.url(SUPERUSER, DATABASE)));
        lines.push(("logs", self.log_dir.display().to_string()));
        let lines: Vec<_> = lines.iter().map(|(name, what)| format!("{name:<10} {what}")).collect();
        lines.join("\n")
    }

    /// Ends the services, then what they need.
    async fn stop(mut self) {
        self.stop.cancel();
        for service in self.services.drain(..) {
            service.ended().await;
        }
    }

    /// Returns when every service says that it is ready.
    async fn ready(&self) -> anyhow::Result<()> {
        for service in &self.services {
            self.service_ready(service).await?;
        }
        Ok(())
    }

    fn program(&self, name: &'static str, binaries: &Path) -> Program {
        let listen = self.url(name).replace("http://", "");
        let mut environment = vec![("LISTEN", listen)];
        if name == PROVIDERS {
            let data = self.postgres.folder().join("providers");
            environment.push(("DATA_DIR", data.display().to_string()));
        } else {
            let url = |role: &str| self.postgres.url(&format!("{name}_{role}"), DATABASE);
            environment.push(("DATABASE_URL", url("app")));
            environment.push(("MIGRATE_URL", url("owner")));
            environment.push(("KAFKA_BROKERS", self.broker.bootstrap().to_owned()));
            // The in-memory broker sleeps out an empty fetch, and holds a group's change of members
            // back until a dead one's session is over.
            environment.push(("FETCH_WAIT_MS", "25".to_owned()));
            environment.push(("SESSION_TIMEOUT_MS", "3000".to_owned()));
        }
        for (service, provider) in [("payment", "payment"), ("shipping", "carrier")] {
            if name == service {
                environment.push(("PROVIDER_URL", format!("{}/{provider}", self.url(PROVIDERS))));
            }
        }
        let log = self.log_dir.join(format!("{name}.log"));
        Program { name, path: binaries.join(name), environment, log }
    }

    async fn service_ready(&self, service: &Supervised) -> anyhow::Result<()> {
        let name = service.program.name;
        let client = Client::try_new(&self.url(name))?;
        let what = format!("{name} to be ready");
        let ready = wait::until(READY_MAX, &what, async || {
            if client.is_ready("/readyz").await {
                return Some(true);
            }
            (service.starts() > STARTS_MAX).then_some(false)
        });
        match ready.await {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{name} dies again and again; {}", service.program.log_tail()),
            Err(error) => Err(error.context(service.program.log_tail())),
        }
    }
}

/// The services' programs lie beside this one.
fn binaries() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().context("a program lies in a folder")?;
    for name in SERVICES.into_iter().chain([PROVIDERS]) {
        ensure!(
            folder.join(name).is_file(),
            "{} is missing: build the whole workspace first (cargo build)",
            folder.join(name).display()
        );
    }
    Ok(folder.to_path_buf())
}

fn ensure_free(port: u16) -> anyhow::Result<()> {
    TcpListener::bind(("127.0.0.1", port))
        .map(drop)
        .with_context(|| format!("port {port} is taken; choose others with --port-base"))
}

/// Runs `body` on a stack that is ready, and stops the stack whatever becomes of it. Gives nothing
/// when somebody asked the program to stop before the body was done.
pub async fn with_stack<T>(
    options: &Options,
    body: impl AsyncFnOnce(&Stack) -> anyhow::Result<T>,
) -> anyhow::Result<Option<T>> {
    // Listening begins before the first process, so that no signal leaves one behind.
    let mut signals = Signals::listen()?;
    let stack = Stack::start(options).await?;
    let done = tokio::select! {
        biased;
        () = signals.asked_to_stop() => Ok(None),
        done = async {
            stack.ready().await?;
            body(&stack).await.map(Some)
        } => done,
    };
    stack.stop().await;
    done
}

/// The ways to ask a program to end.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn asked_to_stop(&mut self) {
        tokio::select! {
            _ = self.hangup.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// `switchback local`: a stack until somebody stops it.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let stopped = with_stack(options, async |stack| {
        println!("{}", stack.describe());
        println!("ready");
        std::future::pending().await
    });
    stopped.await.map(|_: Option<()>| ())
}
