//! Owns the writing side: records enter the queue in order, reports come back by themselves.
//! Refuses to be awaited per message.

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use saga::Envelope;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use crate::{Config, Error, topic};

/// What the client did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    Taken,
    /// No room: nothing behind it is taken either.
    Full,
    /// This one alone cannot be sent.
    Refused,
}

/// What became of a record that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The broker has it.
    Acked(Uuid),
    /// It does not, or nobody knows: the outbox row stays and is sent again.
    Failed(Uuid),
}

impl Report {
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Acked(id) | Self::Failed(id) => *id,
        }
    }
}

/// The producer of one topic.
#[derive(Clone)]
pub struct Producer {
    inner: ThreadedProducer<Deliveries>,
    topic: String,
}

impl Producer {
    pub fn try_new(config: &Config, producer: &str) -> Result<Self, Error> {
        let inner = config.producer().create_with_context(Deliveries).map_err(Error::Client)?;
        Ok(Self { inner, topic: topic(producer) })
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Puts a record into the client's queue and returns at once; `reports` hears what became of
    /// it if it was taken.
    pub fn send(
        &self,
        envelope: &Envelope,
        body: &[u8],
        reports: &UnboundedSender<Report>,
    ) -> Result<Handed, Error> {
        let key = envelope.subject.to_string();
        let headers = envelope.headers();
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (name, value)| {
                all.insert(Header { key: name, value: Some(value) })
            });
        let delivery = Box::new(Delivery { id: envelope.id, reports: reports.clone() });
        let record = BaseRecord::with_opaque_to(&self.topic, delivery)
            .key(&key)
            .payload(body)
            .headers(headers);
        match self.inner.send(record) {
            Ok(()) => Ok(Handed::Taken),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                Ok(Handed::Full)
            }
            Err((error, _)) if self.inner.client().fatal_error().is_some() => {
                Err(Error::Fatal(error))
            }
            Err((error, _)) => {
                tracing::warn!(%error, topic = %self.topic, "not sent");
                Ok(Handed::Refused)
            }
        }
    }

    /// Ends the client's queue: waits until every record has its report, but no longer than
    /// `timeout`. Nothing is concluded from it; reports alone count.
    pub fn flush(&self, timeout: std::time::Duration) {
        if let Err(error) = self.inner.flush(timeout) {
            tracing::warn!(%error, "records without a report are left to the outbox");
        }
    }
}

struct Delivery {
    id: Uuid,
    reports: UnboundedSender<Report>,
}

struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let report = match result {
            Ok(message) if message.offset() >= 0 => Report::Acked(delivery.id),
            Ok(_) => Report::Failed(delivery.id),
            Err((error, _)) => {
                tracing::warn!(%error, event = %delivery.id, "not delivered");
                Report::Failed(delivery.id)
            }
        };
        // Whoever asked may be gone by now; the outbox still has the id.
        drop(delivery.reports.send(report));
    }
}
