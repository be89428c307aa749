//! Owns a stack on this machine: a throwaway Postgres, a broker, the providers and one or two
//! processes of each service. Refuses to leave anything behind.

mod broker;
mod collector;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use rustix::process::Signal;
use testkit::postgres::{Home, Options as PostgresOptions, SUPERUSER};
use tokio_util::sync::CancellationToken;

use broker::Broker;
pub use broker::{BROKER_PORT, Kind};
use collector::Collector;
pub use collector::Traces;

use crate::client::Client;
use crate::processes::{self, PROVIDERS, PROVIDERS_PORT, Process, SERVICES, Setting};
use crate::signals::Signals;
use crate::supervisor::{Program, Supervised};

/// Where a stack's ports begin when nobody says otherwise.
pub const PORT_BASE: u16 = 8080;
const DATABASE: &str = "switchback";
const POSTGRES_PORT: u16 = 32;

/// Settings of a stack.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Options {
    /// What carries the events.
    #[arg(long, env = "BROKER", value_enum, default_value_t = Kind::Memory)]
    pub broker: Kind,
    /// Let Postgres wait for the disk at each commit, and Kafka's Java start slower and run faster: for
    /// measurements.
    #[arg(long)]
    pub durable: bool,
    /// Processes of each service. The second ones are called payment-2 and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub instances: u16,
    /// Ports count from here: order +1, inventory +2, payment +3, shipping +4, providers +5,
    /// broker +12, Kafka's controller +13, Jaeger +14 to +17 (its pages +15), Postgres +32; second
    /// instances 20 above the first.
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
    /// Where spans go: `jaeger` starts one beside the stack, an address is that of your own collector.
    #[arg(long, value_name = "jaeger|URL")]
    pub traces: Option<Traces>,
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
    collector: Option<Collector>,
    postgres: Supervised,
    /// Of the broker, Jaeger and Postgres, which the services stand on.
    ground_stop: CancellationToken,
    // Dropped last: the server must have ended.
    home: Home,
}

impl Stack {
    /// Makes Postgres and the broker, which come up while the caller goes on.
    ///
    /// Call it on the main thread: all processes end with the thread that started them.
    fn begin(options: &Options, processes: &[Process]) -> anyhow::Result<Self> {
        let port = |offset: u16| options.port_base + offset;
        let binaries = binaries()?;
        processes::ensure_known(&options.settings, processes)?;
        let services = processes.iter().map(|process| process.port);
        let of_jaeger = options.traces.as_ref().map_or(&[][..], Traces::ports);
        let ground = options.broker.ports().iter().chain(of_jaeger).chain(&[POSTGRES_PORT]);
        for offset in services.chain(ground.copied()) {
            ensure_free(port(offset))?;
        }
        let home = Home::make(PostgresOptions {
            port: Some(port(POSTGRES_PORT)),
            durable: options.durable,
        })?;
        let log_dir = options.log_dir.clone().unwrap_or_else(|| home.folder().join("log"));
        fs::create_dir_all(&log_dir).with_context(|| format!("{}", log_dir.display()))?;
        let ground_stop = CancellationToken::new();
        let broker = Broker::begin(options, &log_dir, &ground_stop)?;
        let traces = options.traces.as_ref();
        let collector = traces
            .map(|traces| Collector::begin(traces, options.port_base, &log_dir, &ground_stop))
            .transpose()?;
        // A fast shutdown: it waits for nobody who is still connected.
        let log = log_dir.join("postgres.log");
        let server = Program::of("postgres", &home.server(), log, Signal::INT);
        let postgres = Supervised::start(server, ground_stop.clone())?;
        Ok(Self {
            port_base: options.port_base,
            binaries,
            log_dir,
            services: Vec::new(),
            services_stop: CancellationToken::new(),
            broker,
            collector,
            postgres,
            ground_stop,
            home,
        })
    }

    /// Starts the services as soon as Postgres and the broker let them in, and returns when they are
    /// ready.
    async fn complete(
        &mut self,
        processes: Vec<Process>,
        settings: &[Setting],
    ) -> anyhow::Result<()> {
        let database = async {
            self.postgres.ready(async || self.home.is_served()).await?;
            self.home.create_database(DATABASE, &SERVICES).await
        };
        let collector = async {
            match &self.collector {
                Some(collector) => collector.ready().await,
                None => Ok(()),
            }
        };
        tokio::try_join!(database, self.broker.ready(), collector)?;
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
            service.ready(async || client.is_ready("/readyz").await).await?;
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

    /// Where the pages of its Jaeger are, if it has one.
    pub fn jaeger(&self) -> Option<String> {
        self.collector.as_ref().and_then(Collector::jaeger).map(|(pages, _)| pages)
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
        let broker = self.broker.bootstrap().to_owned();
        let broker = match self.broker.process() {
            Some(process) => with_pid(broker, process),
            None => broker,
        };
        lines.push(("broker", broker));
        lines.push(("postgres", with_pid(database, &self.postgres)));
        if let Some((pages, process)) = self.collector.as_ref().and_then(Collector::jaeger) {
            lines.push(("jaeger", with_pid(pages, process)));
        }
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
        self.ground_stop.cancel();
        self.broker.ended().await;
        if let Some(collector) = self.collector {
            collector.ended().await;
        }
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
            let of_broker = self.broker.settings().iter();
            environment.extend(of_broker.map(|(name, value)| (*name, (*value).to_owned())));
            environment.extend(self.collector.iter().flat_map(Collector::settings));
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
