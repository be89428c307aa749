//! Owns the life of a service: start, supervision, and an orderly end. Refuses to live on when one
//! of its tasks has ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::middleware::map_response_with_state;
use bus::{Consumer, Producer};
use saga::{Heard as _, Participant};
use store::{Boot, Db, MigrationError};
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LANE_QUEUE_MAX};
use crate::health::Health;
use crate::http::{App, router};
use crate::job::{Lanes, Work};
use crate::lane::Lane;
use crate::outgoing::Outgoing;
use crate::outside::Exit;
use crate::poison::Poison;
use crate::service::Service;
use crate::shell::Shell;
use crate::stop::{self, Consumers, Parts};
use crate::{chores, dispatcher, intake, outside, view};

const MIGRATE_TRIES_MAX: u32 = 60;
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Runs a service until SIGTERM or SIGINT, or until one of its tasks ends.
pub async fn run<S: Service>(
    service: S,
    config: Config,
    routes: Router<App<S>>,
) -> anyhow::Result<()> {
    if config.parent_death_signal {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    let telemetry = Arc::new(telemetry::init(<S as Participant>::NAME)?);
    let result = serve(service, config, routes, Arc::clone(&telemetry)).await;
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "the service ends");
    }
    telemetry.shutdown().await;
    result
}

async fn serve<S: Service>(
    service: S,
    config: Config,
    routes: Router<App<S>>,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<()> {
    config.kept.check()?;
    let lanes = config.lanes.get();
    let db = Db::try_new(&store::Config {
        url: config.database_url.clone(),
        application_name: format!("{}-{}", S::NAME, config.instance),
        write_connections_max: u32::try_from(lanes)? + 1,
        autocommit_connections_max: 6,
    })?;
    let (boot, holding) = Box::pin(settle::<S>(&config, &db)).await?;
    let bus_config = bus::Config {
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{}-{}", S::NAME, config.instance),
        static_membership: config.static_membership,
        fetch_wait_ms: config.fetch_wait_ms,
        session_timeout_ms: config.session_timeout_ms,
        producer_queue_max: config.producer_queue_max,
        max_poll_interval_ms: config.max_poll_interval_ms,
    };
    let producer = Producer::try_new(&bus_config, S::NAME)?;
    let (senders, queues): (Vec<_>, Vec<_>) =
        (0..lanes).map(|_| mpsc::channel(LANE_QUEUE_MAX)).unzip();
    let shell = Arc::new(shell(service, &config, db, boot, producer, Lanes::new(senders)));
    // Before anybody is started who would have to be ended.
    let mut signals = Signals::listen()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let mut parts = Parts::default();
    parts.lasting.spawn(async {
        ("boot lock", {
            holding.await;
            Ok(())
        })
    });
    let upkeep = Arc::clone(&telemetry);
    parts.lasting.spawn(async move { match upkeep.upkeep().await {} });
    start_lanes(&shell, queues, &mut parts);
    let consumers = start_intake(&shell, &bus_config, &mut parts)?;
    tracing::info!(listen = %listener.local_addr()?, boot = shell.boot.number(), "serving");
    let heard = consumers.iter().map(Arc::downgrade).collect();
    let app = App { shell: Arc::clone(&shell), consumers: heard, telemetry };
    start_http(&shell, listener, router(app, routes), &mut parts);
    let ended = until_the_end(&shell, &mut signals, &mut parts).await;
    stop::end(&shell, parts, consumers).await;
    ended
}

/// What all parts share.
fn shell<S: Service>(
    service: S,
    config: &Config,
    db: Db,
    boot: Boot,
    producer: Producer,
    lanes: Lanes<S>,
) -> Shell<S> {
    let exits = service.destinations().into_iter().map(Exit::new).map(Arc::new).collect();
    Shell {
        service,
        db,
        boot,
        producer,
        dispatch: config.dispatch,
        batch_max: config.batch_max.into(),
        kept: config.kept.clone(),
        outbox_filled: Notify::new(),
        exits,
        lanes,
        health: Health::default(),
        poison: Poison::default(),
        retiring: CancellationToken::new(),
        closing: CancellationToken::new(),
        draining: CancellationToken::new(),
        drained: CancellationToken::new(),
        answered: CancellationToken::new(),
    }
}

fn start_lanes<S: Service>(
    shell: &Arc<Shell<S>>,
    queues: Vec<mpsc::Receiver<Work<S>>>,
    parts: &mut Parts,
) {
    for queue in queues {
        let shell = Arc::clone(shell);
        let lane = Lane { shell, queue, outgoing: Outgoing::new() };
        parts.lanes.spawn(async { ("lane", lane.run().await) });
    }
}

/// Whatever brings work in, and the dispatcher. Who drops what is returned leaves the groups.
fn start_intake<S: Service>(
    shell: &Arc<Shell<S>>,
    bus_config: &bus::Config,
    parts: &mut Parts,
) -> anyhow::Result<Consumers> {
    let mut consumers = Vec::new();
    if !S::Heard::PRODUCERS.is_empty() {
        let consumer = Arc::new(Consumer::try_new(bus_config, S::NAME, S::Heard::PRODUCERS)?);
        consumers.push(Arc::clone(&consumer));
        let intake = intake::run(Arc::clone(shell), consumer);
        parts.intake.spawn(async { ("intake", intake.await) });
    }
    for view in S::views() {
        let consumer = Arc::new(Consumer::try_new(bus_config, view.group, view.producers)?);
        consumers.push(Arc::clone(&consumer));
        let reading = view::run(Arc::clone(shell), consumer, view);
        parts.intake.spawn(async { ("view", reading.await) });
    }
    for exit in &shell.exits {
        let calling = outside::run(Arc::clone(shell), Arc::clone(exit));
        parts.intake.spawn(async { ("outside calls", calling.await) });
    }
    let doing = chores::run(Arc::clone(shell));
    parts.intake.spawn(async { ("chores", doing.await) });
    let dispatching = dispatcher::run(Arc::clone(shell));
    parts.dispatcher.spawn(async { ("dispatcher", dispatching.await) });
    Ok(consumers)
}

/// Serves until every request that was taken in is answered.
fn start_http<S: Service>(
    shell: &Shell<S>,
    listener: TcpListener,
    routes: Router,
    parts: &mut Parts,
) {
    let retiring = shell.retiring.clone();
    let routes = routes.layer(map_response_with_state(retiring, stop::send_away));
    let answered = shell.answered.clone().cancelled_owned();
    let http = axum::serve(listener, routes).with_graceful_shutdown(answered);
    parts.http.spawn(async { ("http", http.await.map_err(Into::into)) });
}

/// Returns when the process has been asked to end and notice of it was given, or when one of its
/// tasks has ended. From then on its time is up soon.
async fn until_the_end<S: Service>(
    shell: &Shell<S>,
    signals: &mut Signals,
    parts: &mut Parts,
) -> anyhow::Result<()> {
    let asked = tokio::select! {
        name = signals.next() => { tracing::info!(signal = name, "stopping"); Ok(()) }
        fault = first_end(parts) => Err(fault),
    };
    stop::end_in_time();
    asked?;
    tokio::select! {
        () = stop::give_notice(shell) => Ok(()),
        fault = first_end(parts) => Err(fault),
    }
}

/// Brings the schema up to date and takes a number in it, waiting for a database that is still
/// starting, or goes away meanwhile.
async fn settle<S: Service>(
    config: &Config,
    db: &Db,
) -> anyhow::Result<(Boot, impl Future<Output = ()> + Send + use<S>)> {
    let mut tries = 0;
    loop {
        tries += 1;
        match try_settle::<S>(config, db).await {
            Err(error) if tries < MIGRATE_TRIES_MAX && may_pass(&error) => {
                tracing::warn!(%error, tries, "the schema is not ready");
            }
            settled => return settled,
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn try_settle<S: Service>(
    config: &Config,
    db: &Db,
) -> anyhow::Result<(Boot, impl Future<Output = ()> + Send + use<S>)> {
    store::migrate(config.migrate_url.as_deref(), &config.database_url, S::migrations()).await?;
    store::ensure_partitions(db, config.kept.inbox_window()).await?;
    Ok(Boot::take(db.clone()).await?)
}

/// A schema that this program cannot use does not become another by waiting.
fn may_pass(error: &anyhow::Error) -> bool {
    !matches!(error.downcast_ref(), Some(MigrationError::Migrate(_)))
}

/// The ways to ask a service to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Returns when one of the tasks has ended, which none does by itself.
async fn first_end(parts: &mut Parts) -> anyhow::Error {
    let Parts { intake, lanes, dispatcher, http, lasting } = parts;
    tokio::select! {
        Some(ended) = intake.join_next() => fault(ended),
        Some(ended) = lanes.join_next() => fault(ended),
        Some(ended) = dispatcher.join_next() => fault(ended),
        Some(ended) = http.join_next() => fault(ended),
        Some(ended) = lasting.join_next() => fault(ended),
        else => anyhow::anyhow!("there is no task left"),
    }
}

fn fault(ended: Result<(&'static str, anyhow::Result<()>), JoinError>) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("the task {name} has ended"),
        Ok((name, Err(error))) => error.context(format!("the task {name} has failed")),
        Err(error) => anyhow::anyhow!("a task has panicked: {error}"),
    }
}
