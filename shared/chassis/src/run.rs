//! Owns the life of a service: start, supervision, and an orderly end. Refuses to live on when one
//! of its tasks has ended.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use bus::{Consumer, Producer};
use saga::{Heard as _, Participant};
use store::{Boot, Db, MigrationError};
use telemetry::Telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, LANE_QUEUE_MAX};
use crate::health::Health;
use crate::http::{App, router};
use crate::job::Lanes;
use crate::lane::Lane;
use crate::outside::Exit;
use crate::service::Service;
use crate::shell::Shell;
use crate::{chores, dispatcher, intake, outside, view};

const MIGRATE_TRIES_MAX: u32 = 60;
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// For each step of an orderly end. What is not done by then is done by the next process.
const STOP_WITHIN: Duration = Duration::from_secs(4);

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

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

#[expect(clippy::too_many_lines, reason = "a list: every part of a service is started here")]
async fn serve<S: Service>(
    service: S,
    config: Config,
    routes: Router<App<S>>,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<()> {
    let lanes = config.lanes.unwrap_or(S::LANES).max(1);
    let db = Db::try_new(&store::Config {
        url: config.database_url.clone(),
        application_name: format!("{}-{}", S::NAME, config.instance),
        write_connections_max: u32::try_from(lanes)? + 1,
        autocommit_connections_max: 6,
    })?;
    migrate::<S>(&config, &db).await?;
    let (boot, holding) = Boot::take(db.clone()).await?;
    let bus_config = bus::Config {
        brokers: config.kafka_brokers.clone(),
        client_id: format!("{}-{}", S::NAME, config.instance),
        fetch_wait_ms: config.fetch_wait_ms,
        session_timeout_ms: config.session_timeout_ms,
    };
    let (senders, queues): (Vec<_>, Vec<_>) =
        (0..lanes).map(|_| mpsc::channel(LANE_QUEUE_MAX)).unzip();
    let exits = service.destinations().into_iter().map(Exit::new).map(Arc::new).collect();
    let shell = Arc::new(Shell::<S> {
        service,
        db,
        boot,
        producer: Producer::try_new(&bus_config, S::NAME)?,
        dispatch: config.dispatch,
        outbox_filled: Notify::new(),
        exits,
        lanes: Lanes::new(senders),
        health: Health::default(),
        closing: CancellationToken::new(),
        draining: CancellationToken::new(),
    });

    let mut workers = Tasks::new();
    for queue in queues {
        let (reports_to, reports) = mpsc::unbounded_channel();
        let shell = Arc::clone(&shell);
        let lane = Lane { shell, queue, reports, reports_to, acked: Vec::new() };
        workers.spawn(async { ("lane", lane.run().await) });
    }
    workers.spawn(async {
        ("boot lock", {
            holding.await;
            Ok(())
        })
    });

    let mut tasks = Tasks::new();
    let mut consumers = Vec::new();
    if !S::Heard::PRODUCERS.is_empty() {
        let consumer = Arc::new(Consumer::try_new(&bus_config, S::NAME, S::Heard::PRODUCERS)?);
        consumers.push(Arc::clone(&consumer));
        let intake = intake::run(Arc::clone(&shell), consumer);
        tasks.spawn(async { ("intake", intake.await) });
    }
    for view in S::views() {
        let consumer = Arc::new(Consumer::try_new(&bus_config, view.group, view.producers)?);
        consumers.push(Arc::clone(&consumer));
        let reading = view::run(Arc::clone(&shell), consumer, view);
        tasks.spawn(async { ("view", reading.await) });
    }
    for exit in &shell.exits {
        let calling = outside::run(Arc::clone(&shell), Arc::clone(exit));
        tasks.spawn(async { ("outside calls", calling.await) });
    }
    let dispatching = dispatcher::run(Arc::clone(&shell));
    tasks.spawn(async { ("dispatcher", dispatching.await) });
    let doing = chores::run(Arc::clone(&shell));
    tasks.spawn(async { ("chores", doing.await) });
    let upkeep = Arc::clone(&telemetry);
    workers.spawn(async move { match upkeep.upkeep().await {} });

    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    tracing::info!(listen = %listener.local_addr()?, boot = shell.boot.number(), "serving");
    let consumers = Arc::new(consumers);
    // So would dropping a consumer. The end of the process frees it as well.
    std::mem::forget(Arc::clone(&consumers));
    let app = App { shell: Arc::clone(&shell), consumers: Arc::clone(&consumers), telemetry };
    let closed = shell.closing.clone().cancelled_owned();
    let http = axum::serve(listener, router(app, routes)).with_graceful_shutdown(closed);
    tasks.spawn(async { ("http", http.await.map_err(Into::into)) });

    let ended = tokio::select! {
        name = stop_signal() => { tracing::info!(signal = name?, "stopping"); Ok(()) }
        Some(ended) = tasks.join_next() => Err(fault(ended)),
        Some(ended) = workers.join_next() => Err(fault(ended)),
    };
    stop(&shell, tasks, workers, consumers).await;
    ended
}

/// Brings the schema up to date, waiting for a database that is still starting.
async fn migrate<S: Service>(config: &Config, db: &Db) -> anyhow::Result<()> {
    let owner = config.migrate_url.as_deref();
    for tries in 1.. {
        match store::migrate(owner, &config.database_url, S::migrations()).await {
            Ok(()) => break,
            Err(error @ MigrationError::Migrate(_)) => return Err(error.into()),
            Err(error) if tries == MIGRATE_TRIES_MAX => return Err(error.into()),
            Err(error) => tracing::warn!(%error, tries, "the schema is not ready"),
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
    Ok(store::ensure_partitions(db).await?)
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    })
}

fn fault(
    ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok((name, Ok(()))) => anyhow::anyhow!("the task {name} has ended"),
        Ok((name, Err(error))) => error.context(format!("the task {name} has failed")),
        Err(error) => anyhow::anyhow!("a task has panicked: {error}"),
    }
}

/// Intake first, then the lanes, then what is on its way to the broker; each within its bound.
async fn stop<S: Service>(
    shell: &Arc<Shell<S>>,
    mut tasks: Tasks,
    mut workers: Tasks,
    consumers: Arc<Vec<Arc<Consumer>>>,
) {
    shell.closing.cancel();
    let drained =
        tokio::time::timeout(STOP_WITHIN, async { while tasks.join_next().await.is_some() {} });
    drop(drained.await);
    shell.draining.cancel();
    let drained = tokio::time::timeout(STOP_WITHIN, async {
        // The boot lock and the upkeep never end by themselves.
        while workers.len() > 2 && workers.join_next().await.is_some() {}
    });
    drop(drained.await);
    workers.abort_all();
    tasks.abort_all();
    // Leaving a group can block for ever in the client: it gets a thread that nobody joins.
    let (left, leaving) = oneshot::channel();
    std::thread::spawn(move || {
        for consumer in consumers.iter() {
            consumer.leave();
        }
        // Nobody waits any more if the bound has passed.
        let _ = left.send(());
    });
    drop(tokio::time::timeout(STOP_WITHIN, leaving).await);
    drop(tokio::time::timeout(STOP_WITHIN, shell.db.close()).await);
}
