//! Owns the embedded stack: a throwaway Postgres, an in-memory broker, the providers and one or two
//! processes of each service. Refuses to leave anything behind.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use rustix::process::Signal;
use testkit::postgres::{Home, Options as PostgresOptions, SUPERUSER};
use testkit::{Broker, wait};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::processes::{self, PROVIDERS, PROVIDERS_PORT, Process, SERVICES, Setting};
use crate::signals::Signals;
use crate::supervisor::{Program, Supervised};

/// Where a stack's ports begin when nobody says otherwise.
pub const PORT_BASE: u16 = 8080;
const DATABASE: &str = "switchback";
const BROKER_PORT: u16 = 12;
const POSTGRES_PORT: u16 = 32;
const READY_MAX: Duration = Duration::from_mins(1);
/// What had to be started this often before it was ever ready will not make it.
const STARTS_MAX: u32 = 3;

/// Settings of the embedded stack.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// Let Postgres wait for the disk at each commit: slower, for measurements.
    #[arg(long)]
    pub durable: bool,
    /// Processes of each service. The second ones are called payment-2 and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub instances: u16,
    /// Ports count from here: order +1, inventory +2, payment +3, shipping +4, providers +5,
    /// broker +12, Postgres +32; second instances 20 above the first.
    #[arg(long, default_value_t = PORT_BASE, value_parser = clap::value_parser!(u16).range(1_024..=65_000))]
    pub port_base: u16,
    /// Keep the logs in this folder instead of throwing them away with the rest.
    #[arg(long)]
    pub log_dir: Option<PathBuf>,
    /// A variable in one process's environment, such as payment-2:LANES=4. The last one counts.
    #[arg(long = "set", value_name = "PROCESS:NAME=VALUE")]
    pub settings: Vec<Setting>,
    /// Where the broker tells its clients to come, when something stands in front of it.
    #[arg(long, value_name = "ADDRESS")]
    pub broker_advertised: Option<SocketAddr>,
}

/// A running stack.
pub struct Stack {
    port_base: u16,
    binaries: PathBuf,
    log_dir: PathBuf,
    /// Empty until Postgres is ready.
    services: Vec<(Process, Supervised)>,
    services_stop: CancellationToken,
    broker: Broker,
    postgres: Supervised,
    postgres_stop: CancellationToken,
    // Dropped last: the server must have ended.
    home: Home,
}

impl Stack {
    /// Makes the broker and Postgres, which comes up while the caller goes on.
    ///
    /// Call it on the main thread: all processes end with the thread that started them.
    fn begin(options: &Options, processes: &[Process]) -> anyhow::Result<Self> {
        let port = |offset: u16| options.port_base + offset;
        let binaries = binaries()?;
        processes::ensure_known(&options.settings, processes)?;
        let services = processes.iter().map(|process| process.port);
        for offset in services.chain([BROKER_PORT, POSTGRES_PORT]) {
            ensure_free(port(offset))?;
        }
        let topics = SERVICES.map(|service| format!("{service}.events.v1"));
        let broker =
            Broker::start(Some(port(BROKER_PORT)), &topics.each_ref().map(String::as_str))?;
        if let Some(address) = options.broker_advertised {
            broker.advertise(address)?;
        }
        let home = Home::make(PostgresOptions {
            port: Some(port(POSTGRES_PORT)),
            durable: options.durable,
        })?;
        let log_dir = options.log_dir.clone().unwrap_or_else(|| home.folder().join("log"));
        fs::create_dir_all(&log_dir).with_context(|| format!("{}", log_dir.display()))?;
        let postgres_stop = CancellationToken::new();
        let postgres = Supervised::start(server(&home, &log_dir), postgres_stop.clone())?;
        Ok(Self {
            port_base: options.port_base,
            binaries,
            log_dir,
            services: Vec::new(),
            services_stop: CancellationToken::new(),
            broker,
            postgres,
            postgres_stop,
            home,
        })
    }

    /// Starts the services as soon as Postgres lets them in, and returns when they are ready.
    async fn complete(
        &mut self,
        processes: Vec<Process>,
        settings: &[Setting],
    ) -> anyhow::Result<()> {
        is_ready(&self.postgres, async || self.home.is_served()).await?;
        self.home.create_database(DATABASE, &SERVICES).await?;
        for process in processes {
            let mut program = self.program(&process);
            let own = settings.iter().filter(|setting| setting.process == process.name);
            let own = own.map(|setting| (setting.name.clone(), setting.value.clone()));
            program.environment.extend(own);
            let service = Supervised::start(program, self.services_stop.clone())?;
            self.services.push((process, service));
        }
        for (process, service) in &self.services {
            let client = Client::try_new(&self.url_of(process))?;
            is_ready(service, async || client.is_ready("/readyz").await).await?;
        }
        Ok(())
    }

    /// Where a process listens.
    pub fn url(&self, name: &str) -> anyhow::Result<String> {
        Ok(self.url_of(&self.find(name)?.0))
    }

    pub fn service(&self, name: &str) -> anyhow::Result<&Supervised> {
        Ok(&self.find(name)?.1)
    }

    fn find(&self, name: &str) -> anyhow::Result<&(Process, Supervised)> {
        let found = self.services.iter().find(|(process, _)| process.name == name);
        found.with_context(|| format!("there is no process {name}"))
    }

    fn url_of(&self, process: &Process) -> String {
        format!("http://127.0.0.1:{}", self.port_base + process.port)
    }

    /// What a person needs to know to use it.
    pub fn describe(&self) -> String {
        let with_pid = |what: String, process: &Supervised| match process.pid() {
            Some(pid) => format!("{what}  pid {pid}"),
            None => what,
        };
        let (providers, services): (Vec<_>, Vec<_>) =
            self.services.iter().partition(|(process, _)| process.service == PROVIDERS);
        let mut lines: Vec<(&str, String)> = (services.into_iter().chain(providers))
            .map(|(process, service)| {
                (process.name.as_str(), with_pid(self.url_of(process), service))
            })
            .collect();
        let database = self.home.url(SUPERUSER, DATABASE);
        lines.push(("broker", self.broker.bootstrap().to_owned()));
        lines.push(("postgres", with_pid(database, &self.postgres)));
        lines.push(("logs", self.log_dir.display().to_string()));
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines: Vec<_> =
            lines.iter().map(|(name, what)| format!("{name:<width$}  {what}")).collect();
        lines.join("\n")
    }

    /// Ends the services, then what they need.
    async fn stop(self) {
        self.services_stop.cancel();
        for (_, service) in self.services {
            service.ended().await;
        }
        self.postgres_stop.cancel();
        self.postgres.ended().await;
    }

    fn program(&self, process: &Process) -> Program {
        let Process { name, service, instance, .. } = process;
        let mut environment = vec![
            ("LISTEN", self.url_of(process).replace("http://", "")),
            // It never outlives the launcher.
            ("PARENT_DEATH_SIGNAL", "true".to_owned()),
        ];
        if *service == PROVIDERS {
            let data = self.home.folder().join("providers");
            environment.push(("DATA_DIR", data.display().to_string()));
        } else {
            let url = |role: &str| self.home.url(&format!("{service}_{role}"), DATABASE);
            environment.push(("INSTANCE", instance.to_string()));
            environment.push(("DATABASE_URL", url("app")));
            environment.push(("MIGRATE_URL", url("owner")));
            environment.push(("KAFKA_BROKERS", self.broker.bootstrap().to_owned()));
            // The in-memory broker sleeps out an empty fetch, and holds a group's change of members
            // back until a dead one's session is over.
            environment.push(("FETCH_WAIT_MS", "25".to_owned()));
            environment.push(("SESSION_TIMEOUT_MS", "3000".to_owned()));
        }
        for (caller, provider) in [("payment", "payment"), ("shipping", "carrier")] {
            if *service == caller {
                let providers = format!("http://127.0.0.1:{}", self.port_base + PROVIDERS_PORT);
                environment.push(("PROVIDER_URL", format!("{providers}/{provider}")));
            }
        }
        Program {
            name: name.clone(),
            path: self.binaries.join(service),
            arguments: Vec::new(),
            environment: (environment.into_iter())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            log: self.log_dir.join(format!("{name}.log")),
            stop: Signal::TERM,
        }
    }
}

/// The database of a stack, for the role that each service runs under.
pub fn database_url(port_base: u16) -> String {
    let port = port_base + POSTGRES_PORT;
    format!("postgres://{{service}}_app@127.0.0.1:{port}/{DATABASE}")
}

/// It asks for its own end with the launcher's.
fn server(home: &Home, log_dir: &Path) -> Program {
    let command = home.server();
    Program {
        name: "postgres".to_owned(),
        path: command.get_program().into(),
        arguments: command.get_args().map(ToOwned::to_owned).collect(),
        environment: Vec::new(),
        log: log_dir.join("postgres.log"),
        // A fast shutdown: it waits for nobody who is still connected.
        stop: Signal::INT,
    }
}

/// Returns when a process is ready; fails when it dies again and again instead.
async fn is_ready(
    process: &Supervised,
    mut probe: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    let name = &process.program.name;
    let what = format!("{name} to be ready");
    let ready = wait::until(READY_MAX, &what, async || {
        if probe().await {
            return Some(true);
        }
        (process.starts() > STARTS_MAX).then_some(false)
    });
    match ready.await {
        Ok(true) => Ok(()),
        Ok(false) => bail!("{name} dies again and again; {}", process.program.log_tail()),
        Err(error) => Err(error.context(process.program.log_tail())),
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
    let processes = Process::all(options.instances);
    let mut stack = Stack::begin(options, &processes)?;
    let done = tokio::select! {
        biased;
        () = signals.asked_to_stop() => Ok(None),
        done = async {
            stack.complete(processes, &options.settings).await?;
            body(&stack).await.map(Some)
        } => done,
    };
    stack.stop().await;
    done
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
