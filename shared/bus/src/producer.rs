//! Owns the writing side: records enter the queue in order, reports come back by themselves, and a
//! client that is beyond repair is replaced. Refuses to be awaited per message.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use saga::Envelope;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use crate::report::{Deliveries, Delivery, Report, refusal};
use crate::{Config, Error, topic};

type Client = ThreadedProducer<Deliveries>;

/// Clients are made no faster than this, however fast they die.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// Two deaths within so long are a state, not an accident.
const ACCIDENT: Duration = Duration::from_mins(1);
/// A client that gets nothing through for longer is taken for stuck: after a broker that hung for a
/// minute some never spoke to it again. Together with a record's time in the client's queue this is
/// a minute, so an outage alone makes nobody unready.
const IN_VAIN_MAX: Duration = Duration::from_secs(30);

/// What the client did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// It gets a report.
    Taken,
    /// It does not, and neither would anything behind it now: the outbox has it.
    NotNow,
}

/// The producer of one topic.
#[derive(Clone)]
pub struct Producer(Arc<Shared>);

struct Shared {
    settings: ClientConfig,
    topic: String,
    in_vain_max: Duration,
    current: RwLock<Current>,
}

struct Current {
    client: Client,
    made_at: Instant,
    /// When its predecessors died: the one before, and the one before that.
    deaths: [Option<Instant>; 2],
}

impl Current {
    fn is_stuck(&self, in_vain_max: Duration) -> bool {
        self.client.client().context().in_vain_for() > in_vain_max
    }
}

impl Producer {
    pub fn try_new(config: &Config, producer: &str) -> Result<Self, Error> {
        Self::over(config.producer(), topic(producer), IN_VAIN_MAX)
    }

    /// One of the same topic that shares no request with this one.
    pub fn another(&self) -> Result<Self, Error> {
        Self::over(self.0.settings.clone(), self.0.topic.clone(), self.0.in_vain_max)
    }

    fn over(settings: ClientConfig, topic: String, in_vain_max: Duration) -> Result<Self, Error> {
        let client = make(&settings).map_err(Error::Client)?;
        let current = Current { client, made_at: Instant::now(), deaths: [None; 2] };
        Ok(Self(Arc::new(Shared { settings, topic, in_vain_max, current: RwLock::new(current) })))
    }

    pub fn topic(&self) -> &str {
        &self.0.topic
    }

    /// Whether clients live: not when the second within a minute has died.
    pub fn is_ready(&self) -> bool {
        let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
        current.deaths[1].is_none_or(|death| death.elapsed() >= ACCIDENT)
    }

    /// Puts a record into the client's queue and returns at once. `reports` hears what became of
    /// it if it was taken.
    pub fn send(
        &self,
        envelope: &Envelope,
        body: &[u8],
        reports: &UnboundedSender<Report>,
    ) -> Handed {
        if self.0.is_stuck() {
            self.0.replace();
        }
        let key = envelope.subject.to_string();
        let headers = envelope.headers();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (name, value)| {
                all.insert(Header { key: name, value: Some(value) })
            });
        let delivery = Box::new(Delivery { id: envelope.id, reports: reports.clone() });
        let record = BaseRecord::with_opaque_to(&self.0.topic, delivery)
            .key(&key)
            .payload(body)
            .headers(headers);
        let handed = match self.0.send(record) {
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::Fatal), record)) => {
                self.0.replace();
                self.0.send(record)
            }
            handed => handed,
        };
        let Err((error, record)) = handed else { return Handed::Taken };
        self.0.failed(&error, envelope.id);
        let Some(code) = refusal(&error) else { return Handed::NotNow };
        record.delivery_opaque.tell(Report::Refused(envelope.id, code));
        Handed::Taken
    }

    /// Ends the client's queue: waits until every record has its report, but no longer than
    /// `timeout`. Nothing is concluded from it; reports alone count.
    pub fn flush(&self, timeout: Duration) {
        let client = {
            let current = self.0.current.read().unwrap_or_else(PoisonError::into_inner);
            current.client.clone()
        };
        if let Err(error) = client.flush(timeout) {
            tracing::warn!(%error, "records without a report are left to the outbox");
        }
    }
}

type Record<'a> = BaseRecord<'a, String, [u8], Box<Delivery>>;

impl Shared {
    #[expect(clippy::result_large_err, reason = "the record comes back to be sent again")]
    fn send<'a>(&self, record: Record<'a>) -> Result<(), (KafkaError, Record<'a>)> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).client.send(record)
    }

    fn failed(&self, error: &KafkaError, event: Uuid) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.client.client().context().failed(error, event);
    }

    fn is_stuck(&self) -> bool {
        self.current.read().unwrap_or_else(PoisonError::into_inner).is_stuck(self.in_vain_max)
    }

    /// An idempotent client gives up for good when it can no longer tell what the broker has. Its
    /// last reports still come; its end may take long, and has a thread of its own.
    fn replace(&self) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let why = match current.client.client().fatal_error() {
            Some((_, why)) => why,
            None if current.is_stuck(self.in_vain_max) => "its records run out of time".to_owned(),
            None => return,
        };
        if current.made_at.elapsed() < LIFE_MIN {
            return;
        }
        match make(&self.settings) {
            Ok(client) => {
                tracing::error!(why, topic = self.topic, "the producer is dead: a new one is made");
                metrics::counter!("switchback_producer_deaths_total").increment(1);
                let now = Instant::now();
                let deaths = [Some(now), current.deaths[0]];
                let dead =
                    std::mem::replace(&mut *current, Current { client, made_at: now, deaths });
                std::thread::spawn(move || drop(dead));
            }
            Err(error) => tracing::error!(%error, why, "the producer is dead and has no heir"),
        }
    }
}

fn make(settings: &ClientConfig) -> KafkaResult<Client> {
    settings.create_with_context(Deliveries::default())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use saga::{EventType, Trace};
    use testkit::wait;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    const RECORD_TIME_MS: &str = "1000";
    const IN_VAIN_MAX: Duration = Duration::from_millis(500);
    const AT_MOST: Duration = Duration::from_secs(20);

    fn lit() -> Envelope {
        Envelope {
            id: Uuid::now_v7(),
            kind: EventType::new("lamp", "LampLit", 1),
            time: DateTime::UNIX_EPOCH,
            subject: Uuid::now_v7(),
            version: Some(1),
            cause: None,
            trace: Trace::default(),
        }
    }

    fn made_at(producer: &Producer) -> Instant {
        producer.0.current.read().expect("nobody panics while holding it").made_at
    }

    #[tokio::test]
    async fn a_client_that_gets_nothing_through_for_long_is_replaced_and_its_heir_goes_on()
    -> anyhow::Result<()> {
        let broker = testkit::Broker::start(None, &["lamp.events.v1"])?;
        let config = Config {
            brokers: broker.bootstrap().to_owned(),
            client_id: "test-1".to_owned(),
            static_membership: false,
            fetch_wait_ms: 10,
            session_timeout_ms: 2_000,
            max_poll_interval_ms: 30_000,
            producer_queue_max: 20_000,
        };
        let mut settings = config.producer();
        settings.set("message.timeout.ms", RECORD_TIME_MS);
        let producer = Producer::over(settings, topic("lamp"), IN_VAIN_MAX)?;
        let (reports_to, mut reports) = unbounded_channel();
        let acked = async |reports: &mut UnboundedReceiver<Report>| {
            wait::until(AT_MOST, "a record to be acknowledged", async || {
                producer.send(&lit(), b"{}", &reports_to);
                let report = reports.recv().await.expect("held above");
                matches!(report, Report::Acked(_)).then_some(())
            })
            .await
        };
        acked(&mut reports).await?;
        let first = made_at(&producer);

        broker.go_away()?;
        wait::until(AT_MOST, "an heir", async || {
            producer.send(&lit(), b"{}", &reports_to);
            (made_at(&producer) != first).then_some(())
        })
        .await?;
        assert!(first.elapsed() > Duration::from_secs(1) + IN_VAIN_MAX, "{:?}", first.elapsed());
        assert!(producer.is_ready(), "an outage is not the client's fault");

        broker.come_back()?;
        acked(&mut reports).await?;
        assert!(!producer.0.is_stuck(), "what is heard of ends the row");
        Ok(())
    }
}
