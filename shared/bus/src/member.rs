//! Owns the client that is a member of a group, and puts another in its place when the broker has
//! fenced it. Refuses to contend for a name with another process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use crate::gate::Gate;
use crate::offsets::Offsets;
use crate::{Config, Error};

pub(crate) type Client = StreamConsumer<Context>;

/// Two processes of one name fence each other with every second heartbeat. An heir that loses its
/// place within so many sessions has met another process, and not its own past.
const LIFE_MIN_SESSIONS: u32 = 2;

/// A place in a group, and who has it.
pub(crate) struct Member {
    settings: ClientConfig,
    topics: Vec<String>,
    heir_life_min: Duration,
    current: RwLock<Current>,
}

pub(crate) struct Current {
    pub client: Arc<Client>,
    /// Since when it has been there instead of one that was fenced.
    heir_since: Option<Instant>,
}

impl Member {
    /// Joins `group` and subscribes to `topics`.
    pub fn try_new(
        config: &Config,
        group: &'static str,
        topics: Vec<String>,
    ) -> Result<Self, Error> {
        let settings = config.consumer(group);
        let session = Duration::from_millis(config.session_timeout_ms.into());
        let client = join(&settings, &topics, Context::of(group))?;
        let current = RwLock::new(Current { client: Arc::new(client), heir_since: None });
        Ok(Self { settings, topics, heir_life_min: session * LIFE_MIN_SESSIONS, current })
    }

    /// Who has the place now, and keeps it until this is dropped.
    pub fn now(&self) -> RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was fenced gets an heir, which knows nothing of the records that it had open, and
    /// hears them again. Its end may take long, and has a thread of its own.
    pub fn replace(&self, dead: Arc<Client>, error: KafkaError) -> Result<(), Error> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let context = dead.context();
        context.assigned.store(false, Ordering::Relaxed);
        let (code, why) = dead.client().fatal_error().unzip();
        let why = why.unwrap_or_default();
        let heir_for = current.heir_since.map(|since| since.elapsed());
        if !is_accident(code, heir_for, self.heir_life_min) {
            return Err(Error::Fatal(error, why));
        }
        let client = Arc::new(join(&self.settings, &self.topics, context.heir())?);
        let group = context.group;
        tracing::warn!(group, why, "the place in the group was lost: a new client takes it back");
        metrics::counter!("switchback_consumer_deaths_total", "consumer" => group).increment(1);
        let heir = Current { client, heir_since: Some(Instant::now()) };
        let before = std::mem::replace(&mut *current, heir);
        std::thread::spawn(move || drop((before, dead)));
        Ok(())
    }
}

/// Whether a client has died of what may happen to one that is alone with its name: back from a
/// silence longer than its session, it joins anew, and what it had still sent as the member that it
/// was is fenced.
fn is_accident(
    code: Option<RDKafkaErrorCode>,
    heir_for: Option<Duration>,
    heir_life_min: Duration,
) -> bool {
    code == Some(RDKafkaErrorCode::FencedInstanceId)
        && heir_for.is_none_or(|lived| lived >= heir_life_min)
}

fn join(settings: &ClientConfig, topics: &[String], context: Context) -> Result<Client, Error> {
    let client: Client = settings.create_with_context(context).map_err(Error::Client)?;
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    client.subscribe(&topics).map_err(Error::Client)?;
    Ok(client)
}

/// What is known of one client.
pub(crate) struct Context {
    group: &'static str,
    pub offsets: Offsets,
    pub gate: Gate,
    assigned: AtomicBool,
    connected: AtomicBool,
}

impl Context {
    fn of(group: &'static str) -> Self {
        Self {
            group,
            offsets: Offsets::default(),
            gate: Gate::default(),
            assigned: AtomicBool::new(false),
            connected: AtomicBool::new(false),
        }
    }

    /// Shares nothing that the dead one could still change when it gives its partitions up.
    fn heir(&self) -> Self {
        Self { offsets: self.offsets.heir(), gate: self.gate.heir(), ..Self::of(self.group) }
    }

    /// Whether it has its partitions and a broker answers.
    pub fn is_ready(&self) -> bool {
        self.assigned.load(Ordering::Relaxed) && self.connected.load(Ordering::Relaxed)
    }
}

impl ClientContext for Context {
    fn stats(&self, stats: Statistics) {
        let connected = stats.brokers.values().any(|broker| broker.state == "UP");
        self.connected.store(connected, Ordering::Relaxed);
        let lag: i64 = stats
            .topics
            .values()
            .flat_map(|topic| topic.partitions.values())
            .map(|partition| partition.consumer_lag_stored.max(0))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("switchback_consumer_lag", "consumer" => self.group).set(lag as f64);
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.offsets.forget();
        self.assigned.store(false, Ordering::Relaxed);
    }

    fn post_rebalance(&self, client: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            self.gate.apply(client);
            self.assigned.store(true, Ordering::Relaxed);
            tracing::info!(group = self.group, partitions = partitions.count(), "assigned");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::error::RDKafkaErrorCode;

    use super::is_accident;

    #[test]
    fn only_a_fence_is_an_accident_and_only_when_the_one_before_is_long_ago() {
        let (fenced, life_min) =
            (Some(RDKafkaErrorCode::FencedInstanceId), Duration::from_secs(12));
        assert!(is_accident(fenced, None, life_min));
        assert!(is_accident(fenced, Some(life_min), life_min));
        assert!(!is_accident(fenced, Some(Duration::from_secs(11)), life_min));
        assert!(!is_accident(Some(RDKafkaErrorCode::GroupAuthorizationFailed), None, life_min));
        assert!(!is_accident(None, None, life_min));
    }
}
