//! What Switchback is measured against: the same four participants in two shells that are written
//! as most such services are. Owns what the two have in common; refuses any promise less than
//! Switchback makes, and any slowness that their way of working does not bring with it.
//!
//! One message, request or answer is one transaction:
//!
//! 1. BEGIN
//! 2. *once*: the event's id into `inbox`, or the call's row out of `calls`, or the request's key
//!    looked up in `idempotency_keys`; done before means done
//! 3. *load*: the participant's own rows of this one subject, for update
//! 4. `decide`, in memory
//! 5. *save*: the participant's own rows
//! 6. *say*: each event as a whole row of `outbox_messages`; a call that is wanted as a row of
//!    `calls`; the answer to a keyed request beside its key
//! 7. COMMIT, and then the offset
//!
//! So a good order takes seven such transactions, two calls and five rows of the timeline, each in
//! a transaction of its own, just as it takes seven inputs of Switchback. Events go out from the
//! outbox at least once (`acks=all`, idempotent producer), the inbox takes them once, and a call is
//! repeated under its one idempotency key until its answer is definite.
//!
//! | | [`Kind::Textbook`] | [`Kind::Tuned`] |
//! |---|---|---|
//! | consumers of a service | one message at a time | 8 at a time, in order per key |
//! | outside calls | awaited where they are wanted | 512 at a time, after the commit |
//! | outbox | every 100 ms, up to 100 | every 10 ms, up to 1,000, `skip locked` |
//! | sending | each delivery awaited, linger 5 ms | all sent, then all awaited, no linger |
//! | what was sent | an update each; the rows stay | one delete |
//!
//! Left out, which makes them quicker if anything: dead letters (an input that cannot be handled
//! ends the process), deadlines, cancels, a limit to how often a call is tried, traces.

mod http;
mod listen;
mod outside;
mod publish;
mod store;
mod transaction;

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use bus::Consumer;
use calls::Destination;
use chassis::Service;
use clap::{Parser, ValueEnum};
use saga::Heard as _;
use sqlx::PgPool;
use telemetry::Telemetry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use http::{inventory_routes, order_routes};
use publish::Publisher;

/// Calls in flight to one destination, as many as Switchback has.
const CALLS_MAX: usize = chassis::CALLS_MAX;

/// How an opponent works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// As the outbox pattern is taught.
    Textbook,
    /// As a good engineer writes it by hand.
    Tuned,
}

impl Kind {
    /// Messages that a consumer handles at a time.
    const fn workers(self) -> usize {
        match self {
            Self::Textbook => 1,
            Self::Tuned => 8,
        }
    }

    /// Requests that change something at a time: the others wait, and leave connections to the rest.
    const fn requests_max(self) -> usize {
        match self {
            Self::Textbook => 5,
            Self::Tuned => 8,
        }
    }

    /// Ten is what pools have unless told otherwise.
    const fn connections_max(self) -> u32 {
        match self {
            Self::Textbook => 10,
            Self::Tuned => 32,
        }
    }
}

/// What the launcher tells a service, and which opponent it is.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    #[clap(flatten)]
    pub chassis: chassis::Config,
    #[clap(long, env = "OPPONENT", value_enum)]
    pub kind: Kind,
    /// Whom payment and shipping call.
    #[clap(long, env = "PROVIDER_URL", default_value = "http://127.0.0.1:8085")]
    pub provider_url: calls::Url,
}

/// What all tasks of an opponent's service share.
pub struct Shell<S: Service> {
    service: S,
    kind: Kind,
    pool: PgPool,
    destinations: Vec<Destination>,
    calls: Arc<Semaphore>,
    requests: Semaphore,
    consumers: Vec<Arc<Consumer>>,
    telemetry: Telemetry,
}

/// Runs one service until it is asked to end, or one of its tasks fails.
pub async fn run<S: Service>(
    service: S,
    options: Options,
    routes: Router<Arc<Shell<S>>>,
) -> anyhow::Result<()> {
    let Options { chassis, kind, .. } = options;
    if chassis.parent_death_signal {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let telemetry = telemetry::init(S::NAME)?;
    let owner = chassis.migrate_url.as_deref().context("MIGRATE_URL is not set")?;
    ::store::migrate(Some(owner), &chassis.database_url, S::migrations()).await?;
    let pool = store::open(owner, &chassis.database_url, kind).await?;
    let publisher = Publisher::try_new(&chassis.kafka_brokers, S::NAME, kind, pool.clone())?;
    let listener = TcpListener::bind(chassis.listen).await?;
    let bus = bus::Config {
        client_id: format!("{}-{}", S::NAME, chassis.instance),
        brokers: chassis.kafka_brokers,
        static_membership: chassis.static_membership,
        fetch_wait_ms: chassis.fetch_wait_ms,
        session_timeout_ms: chassis.session_timeout_ms,
        max_poll_interval_ms: chassis.max_poll_interval_ms,
        producer_queue_max: chassis.producer_queue_max,
    };
    let join = |group, producers| Consumer::try_new(&bus, group, producers).map(Arc::new);
    let events = join(S::NAME, S::Heard::PRODUCERS)?;
    let views: Vec<_> = (S::views().into_iter())
        .map(|view| Ok((join(view.group, view.producers)?, view)))
        .collect::<Result<_, bus::Error>>()?;
    let consumers = views.iter().map(|(consumer, _)| consumer).chain([&events]).cloned().collect();
    let shell = Arc::new(Shell {
        kind,
        pool,
        destinations: service.destinations(),
        service,
        calls: Arc::new(Semaphore::new(CALLS_MAX)),
        requests: Semaphore::new(kind.requests_max()),
        consumers,
        telemetry,
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(listen::to_events(Arc::clone(&shell), events));
    for (consumer, view) in views {
        tasks.spawn(listen::for_view(Arc::clone(&shell), consumer, view));
    }
    tasks.spawn(outside::take_up(Arc::clone(&shell)));
    tasks.spawn(publisher.run(kind));
    let http = axum::serve(listener, http::router(Arc::clone(&shell), routes));
    tasks.spawn(async { Ok(http.await?) });
    let upkeep = Arc::clone(&shell);
    tasks.spawn(async move { match upkeep.telemetry.upkeep().await {} });
    tracing::info!(?kind, "serving");
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        Some(ended) = tasks.join_next() => ended?.context("a task has ended"),
    }
}
