//! Owns the way from the outbox to the broker, both opponents' side by side. Refuses to believe a
//! delivery without its report.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use sqlx::PgPool;
use tokio::time::{MissedTickBehavior, interval};

use super::Kind;
use super::store::{self as rows, Message};

const TEXTBOOK_EVERY: Duration = Duration::from_millis(100);
const TUNED_EVERY: Duration = Duration::from_millis(10);
const TUNED_MESSAGES_MAX: usize = 1_000;

pub struct Publisher {
    pool: PgPool,
    producer: FutureProducer,
    topic: String,
}

impl Publisher {
    pub fn try_new(brokers: &str, name: &str, kind: Kind, pool: PgPool) -> anyhow::Result<Self> {
        let linger_ms = match kind {
            // What the client does unless told otherwise.
            Kind::Textbook => "5",
            Kind::Tuned => "0",
        };
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", name)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", linger_ms)
            .set("message.timeout.ms", "30000")
            .set("socket.nagle.disable", "true")
            .create()?;
        Ok(Self { pool, producer, topic: bus::topic(name) })
    }

    /// Publishes what is committed, for ever; what fails is tried again with the next tick.
    pub async fn run(self, kind: Kind) -> anyhow::Result<()> {
        let mut ticks = interval(match kind {
            Kind::Textbook => TEXTBOOK_EVERY,
            Kind::Tuned => TUNED_EVERY,
        });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let published = match kind {
                Kind::Textbook => self.one_by_one().await,
                Kind::Tuned => self.all_at_once().await,
            };
            if let Err(error) = published {
                tracing::warn!(%error, "the outbox waits");
            }
        }
    }

    /// The textbook: each message is sent, its delivery awaited, and its row updated.
    async fn one_by_one(&self) -> anyhow::Result<()> {
        for message in rows::unpublished(&self.pool).await? {
            self.enqueue(&message)?.await?.map_err(|(error, _)| error)?;
            rows::mark_published(&self.pool, message.id).await?;
        }
        Ok(())
    }

    /// Tuned: batches are sent whole, then awaited whole, then deleted by one statement; a full one
    /// is followed by the next at once.
    async fn all_at_once(&self) -> anyhow::Result<()> {
        loop {
            let mut tx = rows::transaction(&self.pool).await?;
            let messages = rows::take_messages(&mut tx, i64::try_from(TUNED_MESSAGES_MAX)?).await?;
            if messages.is_empty() {
                return Ok(());
            }
            let sent: Vec<_> = (messages.iter())
                .map(|message| Ok((message.id, self.enqueue(message)?)))
                .collect::<anyhow::Result<_>>()?;
            let mut delivered = Vec::with_capacity(sent.len());
            for (id, report) in sent {
                match report.await? {
                    Ok(_) => delivered.push(id),
                    Err((error, _)) => tracing::warn!(%error, %id, "not delivered"),
                }
            }
            rows::delete_messages(&mut tx, &delivered).await?;
            tx.commit().await?;
            if messages.len() < TUNED_MESSAGES_MAX {
                return Ok(());
            }
        }
    }

    fn enqueue(&self, message: &Message) -> anyhow::Result<DeliveryFuture> {
        let envelope = message.envelope()?;
        let key = envelope.subject.to_string();
        let headers = envelope.headers();
        let headers = headers.iter().fold(OwnedHeaders::new(), |all, (name, value)| {
            all.insert(Header { key: name, value: Some(value) })
        });
        let record =
            FutureRecord::to(&self.topic).key(&key).payload(&message.body).headers(headers);
        self.producer.send_result(record).map_err(|(error, _)| error.into())
    }
}
